"""Lambda: a tick of the clock → due hours closed into the ledger, and workers started for what is to be posted."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.billing.closed import Closed
from metering.billing.closing import Closer
from metering.billing.standing import UNPOSTED_AFTER
from metering.layout import SHARDS
from metering.model.metrics import decode, reads_usage_lines
from metering.model.periods import Hour
from metering.settings import ClosePeriodsSettings
from metering.signals import Signal
from metering.stores import aws
from metering.stores.attribution import Uniques
from metering.stores.changes import Changes
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.declarations import Declarations
from metering.stores.ledger import Ledger
from metering.stores.limits import LimitItems
from metering.stores.marks import PARTITIONS
from metering.stores.switch import PostingSwitch, shards_of_workers

logger = Logger()
signals = Metrics()

ROWS_PER_WORKER: Final = 10_000
"""One worker posts about so many rows in its time; more rows get more workers, up to one for each shard."""

ROWS_PER_CLOSER: Final = 25_000
"""One run closes so many rows in its time even where half of the customers have distinct values through two keys, at 18
ms each; hours of more get more runs, up to one for each piece."""

MOST_CLOSERS: Final = PARTITIONS

HELP: Final = {"help": True}
"""What a run is sent that closes with another one."""


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Close what is due and start workers that post; what does not fit into the time is done by the next tick.

    Posting waits for no closing: workers for what is there are started first, others for what was closed. Where hours
    are large, more runs of this function are started, ``{"help": true}``, which close pieces of them and nothing else.
    With ``{"post": false}`` no worker is started: whoever asks so posts by itself.
    """
    start = datetime.now(UTC)
    time = timedelta(milliseconds=context.get_remaining_time_in_millis())
    parts = _parts()
    closer = Closer(
        parts.counters,
        parts.uniques,
        parts.ledger,
        parts.changes,
        clock=_clock,
        deadline=start + time * 0.8,
        until=start + time,
        usage_lines=reads_usage_lines(decode(parts.settings.metrics)),
        note_change=parts.note_change,
    )
    if event.get("help"):
        return _finished(closer.close_due(marked=False), HELP)
    first = parts.switch.read().first
    posts = first is not None and event.get("post", True)
    errors: list[Exception] = []
    _attempt(errors, _note_declared)
    workers = _attempt(errors, _start_workers, parts, first, 0) if posts else 0
    more = _attempt(errors, _start_closers, closer, context.function_name)
    closed = closer.close_due()
    _attempt(errors, closer.settle, closed, first)
    _tell(closed, sum(hour.end + UNPOSTED_AFTER <= start for hour in closed.unposted))
    if posts and (closed.pending or more):
        workers = max(workers, _attempt(errors, _start_workers, parts, first, int(bool(closed.pending))))
    closed.errors += errors
    return _finished(closed, {"posting": first is not None, "workers": workers})


def _attempt(errors: list[Exception], do: Callable[..., int | None], *arguments: Any) -> int:
    """Do something, and return how many were started; what AWS refuses is among the ``errors``, and is done later."""
    try:
        return do(*arguments) or 0
    except aws.ERRORS as error:
        errors.append(error)
        return 0


@cache
def _note_declared() -> None:
    """Note what is declared, once in a process, which has one declaration as long as it lives."""
    parts = _parts()
    parts.declarations.note(parts.settings.metrics, _clock())


def _finished(closed: Closed, more: dict[str, Any]) -> dict[str, Any]:
    """Return what a run did; raise the first error of those that kept something from being closed."""
    told = report(closed) | more
    logger.info("run finished", **told)
    for error in closed.errors:
        raise error
    return told


def workers_for(rows: int) -> int:
    """Return how many workers so many rows get: a number that the shards can be dealt out to evenly."""
    workers = 1
    while workers < SHARDS and rows > workers * ROWS_PER_WORKER:
        workers *= 2
    return workers


def closers_for(hours: int, rows: int) -> int:
    """Return how many runs are to close so many hours of so many rows each."""
    return max(1, min(MOST_CLOSERS, -(-hours * rows // ROWS_PER_CLOSER)))


def _start_closers(closer: Closer, function: str) -> int:
    """Start more runs where the due hours are large: as large as the one that was written last, as far as is known."""
    rows, hours = closer.size_of(closer.open_hours())
    more = closers_for(hours, rows) - 1
    for _ in range(more):
        aws.functions().invoke(FunctionName=function, InvocationType="Event", Payload=json.dumps(HELP).encode())
    return more


def _start_workers(parts: "Parts", first: Hour, least: int) -> int:
    """Start workers for what is pending, ``least`` rows at least."""
    rows = max(least, parts.ledger.rows.pending_count(first, most=SHARDS * ROWS_PER_WORKER))
    workers = workers_for(rows) if rows else 0
    for shards in shards_of_workers(workers) if workers else ():
        event = json.dumps({"shards": shards}).encode()
        aws.functions().invoke(FunctionName=parts.settings.post_usage_function, InvocationType="Event", Payload=event)
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
    declarations: Declarations
    note_change: Callable[[str], object] | None
    settings: ClosePeriodsSettings


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
        Declarations(dynamodb, settings.ledger_table),
        LimitItems(dynamodb, settings.ledger_table).note_change if settings.limits else None,
        settings,
    )


def _tell(closed: Closed, unposted: int) -> None:
    """Emit the signals that are not zero: each costs money for as long as it is sent."""
    for signal, count in {
        Signal.HOURS_BEHIND: closed.behind,
        Signal.HOURS_UNPOSTED: unposted,
        Signal.USAGE_UNMAPPED: closed.unmapped,
        Signal.CORRECTIONS_VOID: closed.void,
    }.items():
        if count:
            signals.add_metric(signal, MetricUnit.Count, count)
    if signals.metric_set:
        signals.flush_metrics()
