"""Lambda: what is counted, by the counters' stream, and a tick each minute → limits that act."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.limits.asking import Asking
from metering.limits.looking import Looker
from metering.limits.sweeping import Sweeper, Swept
from metering.limits.telling import Teller
from metering.limits.usage import WindowReader
from metering.limits.watching import Taken, Watcher
from metering.model.declared import Declared
from metering.model.metrics import reads_usage_lines, scales_of
from metering.settings import WatchLimitsSettings
from metering.signals import Signal
from metering.stores import aws
from metering.stores.attribution import Uniques
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.gate_list import GateList
from metering.stores.ledger import Ledger
from metering.stores.limits import LimitItems

DECLARED: Final = Path(__file__).with_name("declared.json")
"""What ``app.py`` declares."""

SWEEPS_FOR: Final = timedelta(seconds=45)
"""A sweep ends by itself before the next one begins."""

HELP: Final = {"sweep": True, "help": True}
"""What a run is sent that goes on with another one's round."""

logger = Logger()
signals = Metrics()


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Take a batch of the counters' stream, sweep, or look at the customers that a command names.

    ``{"sweep": true}`` comes each minute, ``{"sweep": true, "help": true}`` from such a run where there are very many
    customers; ``{"look": ["acme"]}`` answers which of these were looked at.
    """
    now = _clock()
    sweeper = _sweeper(
        min(now + SWEEPS_FOR, now + timedelta(milliseconds=context.get_remaining_time_in_millis()) * 0.8)
    )
    match event:
        case {"Records": [*records]}:
            return _took(_watcher().take(records, now))
        case {"look": [*names]}:
            swept = sweeper.look(names)
            return {"looked": sorted(swept.looked - {*swept.failed})}
        case {"sweep": True, "help": True}:
            return _told(sweeper.help())
        case {"sweep": True}:
            for _ in range(sweeper.wanted_help()):
                aws.functions().invoke(
                    FunctionName=context.function_name, InvocationType="Event", Payload=json.dumps(HELP).encode()
                )
            return _told(sweeper.sweep())
        case _:
            raise ValueError(f"an event has Records, or says sweep or look, got {sorted(event)}")


def _clock() -> datetime:
    return datetime.now(UTC)


@cache
def _looker() -> Looker:
    settings = WatchLimitsSettings.read()
    declared = Declared.read(DECLARED.read_bytes())
    dynamodb = aws.dynamodb()
    counters, ledger = Counters(dynamodb, settings.counters_table), Ledger(dynamodb, settings.ledger_table)
    uniques = Uniques(Claims(dynamodb, settings.counters_table), ledger.holders)
    return Looker(
        LimitItems(dynamodb, settings.ledger_table),
        WindowReader(counters, uniques, ledger, usage_lines=reads_usage_lines(declared.metrics)),
        Asking(GateList(dynamodb, settings.access_table), aws.queues(), settings.gate_queue),
        Teller(
            aws.events(),
            aws.mail(),
            settings.deployment,
            settings.alerts_from,
            settings.portal_url,
            scales_of(declared.metrics),
        ),
        declared.plans,
        int(settings.unpaid_days) if settings.unpaid_days else None,
    )


def _sweeper(deadline: datetime) -> Sweeper:
    looker = _looker()
    return Sweeper(looker, looker.asking.gate, looker.reader.ledger.holders, _clock, deadline)


@cache
def _watcher() -> Watcher:
    looker = _looker()
    return Watcher(looker, looker.asking.gate, looker.reader.ledger.holders)


def _took(taken: Taken) -> dict[str, Any]:
    """Say what a batch came to; in the log only if it called for anything, since there is one every three seconds."""
    took = asdict(taken) | {"looked": len(taken.looked)}
    if taken.looked or taken.skipped or taken.failed or taken.owed:
        logger.info("counted usage taken", **took)
    return took


def _told(swept: Swept) -> dict[str, Any]:
    """Tell what a sweep did, by a signal if it is not zero: each costs money for as long as it is sent."""
    told: dict[str, Any] = {"looked": len(swept.looked), "failed": len(swept.failed)}
    logger.info("swept", **told)
    if swept.unenforced_s:
        signals.add_metric(Signal.LIMITS_UNENFORCED, MetricUnit.Seconds, swept.unenforced_s)
        signals.flush_metrics()
    return told
