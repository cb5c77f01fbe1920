"""Lambda: a tick of the clock → due hours closed into the ledger, and workers started for what is to be posted."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.billing.closing import Closed, Closer
from metering.layout import SHARDS
from metering.model.periods import Hour
from metering.settings import ClosePeriodsSettings
from metering.signals import Signal
from metering.stores import aws
from metering.stores.attribution import Uniques
from metering.stores.changes import Changes
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stores.switch import PostingSwitch, shards_of_workers

logger = Logger()
signals = Metrics()

ROWS_PER_WORKER: Final = 10_000
"""One worker posts about so many rows in its time; more rows get more workers, up to one for each shard."""

UNPOSTED_AFTER: Final = timedelta(hours=1)
"""An hour's usage is at Stripe a quarter of an hour after its end."""


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Close what is due and start workers that post; what does not fit into the time is done by the next tick.

    With ``{"post": false}`` no worker is started: whoever asks so posts by itself.
    """
    start = datetime.now(UTC)
    time = timedelta(milliseconds=context.get_remaining_time_in_millis()) * 0.8
    parts = _parts()
    closer = Closer(parts.counters, parts.uniques, parts.ledger, parts.changes, clock=_clock, deadline=start + time)
    closed = closer.close_due()
    first = parts.switch.read().first
    waiting = closer.ledger.rows.pending(first, range(SHARDS)) if first else {}
    unsettled = closed.pending.union(*waiting.values()) if first else set[Hour]()
    closer.settle(closed, unsettled=unsettled)
    _tell(closed, sum(hour.end + UNPOSTED_AFTER <= start for hour in unsettled))
    workers = 0
    if unsettled and event.get("post", True):
        workers = workers_for(sum(map(len, waiting.values())))
        _start(workers, parts.post_usage_function)
    told = report(closed) | {"posting": first is not None, "workers": workers}
    logger.info("run finished", **told)
    return told


def workers_for(rows: int) -> int:
    """Return how many workers so many rows get: a number that the shards can be dealt out to evenly."""
    workers = 1
    while workers < SHARDS and rows > workers * ROWS_PER_WORKER:
        workers *= 2
    return workers


def report(closed: Closed) -> dict[str, Any]:
    """Return what a run did, as the command line shows it."""
    return {
        "written": [str(hour) for hour in closed.written],
        "closed": [str(hour) for hour in closed.closed],
        "closed_again": closed.again,
        "behind": closed.behind,
        "unmapped": closed.unmapped,
    }


def _start(workers: int, function: str) -> None:
    """Start workers; if one cannot be started, the run fails, and what is left is posted from the next tick on."""
    for shards in shards_of_workers(workers):
        event = json.dumps({"shards": shards}).encode()
        aws.functions().invoke(FunctionName=function, InvocationType="Event", Payload=event)


def _clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the function works with, made once in a process."""

    counters: Counters
    uniques: Uniques
    ledger: Ledger
    changes: Changes
    switch: PostingSwitch
    post_usage_function: str


@cache
def _parts() -> Parts:
    settings = ClosePeriodsSettings.read()
    dynamodb = aws.dynamodb()
    counters, ledger = Counters(dynamodb, settings.counters_table), Ledger(dynamodb, settings.ledger_table)
    return Parts(
        counters,
        Uniques(Claims(dynamodb, settings.counters_table), ledger.holders),
        ledger,
        Changes(dynamodb, settings.ledger_table, counters),
        PostingSwitch(dynamodb, settings.ledger_table),
        settings.post_usage_function,
    )


def _tell(closed: Closed, unposted: int) -> None:
    """Emit the signals that are not zero: each costs money for as long as it is sent."""
    for signal, count in {
        Signal.HOURS_BEHIND: closed.behind,
        Signal.HOURS_UNPOSTED: unposted,
        Signal.USAGE_UNMAPPED: closed.unmapped,
    }.items():
        if count:
            signals.add_metric(signal, MetricUnit.Count, count)
    if signals.metric_set:
        signals.flush_metrics()
