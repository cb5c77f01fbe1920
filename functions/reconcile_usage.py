"""Lambda: every hour, what Stripe holds and what its invoices bill against the ledger; what differs is mended."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.billing.carrying import Carried, Carrier
from metering.billing.reconciling import POSTED_AGAIN, STAYS, Reconciled, Reconciler
from metering.settings import ReconcileUsageSettings
from metering.signals import Signal
from metering.stores import aws
from metering.stores.changes import Changes
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stores.switch import PostingSwitch
from metering.stripe.client import StripeUnavailableError, key_from
from metering.stripe.invoices import StripeReader
from metering.stripe.meters import StripeMeters

logger = Logger()
signals = Metrics()

_MARGIN = timedelta(seconds=30)
"""A customer that was begun is finished in this time."""


@logger.inject_lambda_context
def handler(_event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Carry what invoices have not billed, then compare customers; what does not fit into the time waits."""
    start = _clock()
    time = timedelta(milliseconds=context.get_remaining_time_in_millis()) - _MARGIN
    parts = _parts()
    first = parts.switch.read().first
    carried, compared = Carried(), Reconciled()
    if first is not None:
        calls = parts.stripe_calls
        try:
            reader = StripeReader(parts.meters, calls // 2)  # and what is left of it is for comparing, too
            carried = Carrier(parts.ledger, parts.changes, reader, first, _clock, start + time / 2).run()
            reader = StripeReader(parts.meters, calls - reader.made)
            compared = Reconciler(parts.ledger, reader, first, _clock, start + time).run()
        except StripeUnavailableError as error:
            logger.warning("Stripe cannot be asked", reason=str(error))
    told: dict[str, Any] = {
        "invoices": carried.invoices,
        "carried": carried.carried,
        "held": carried.held,
        "customers": compared.customers,
        "posted_again": compared.count(POSTED_AGAIN),
        "differing": compared.count(STAYS),
        "round_over": compared.round_over,
    }
    _tell(told)
    logger.info("run finished", **told)
    return told


def _clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the function works with, made once in a process."""

    stripe_calls: int
    ledger: Ledger
    changes: Changes
    switch: PostingSwitch
    meters: StripeMeters


@cache
def _parts() -> Parts:
    settings = ReconcileUsageSettings.read()
    dynamodb = aws.dynamodb()
    key = key_from(SecretsProvider(boto3_client=aws.secrets()), settings.stripe_secret)
    counters = Counters(dynamodb, settings.counters_table)
    return Parts(
        int(settings.stripe_calls),
        Ledger(dynamodb, settings.ledger_table),
        Changes(dynamodb, settings.ledger_table, counters),
        PostingSwitch(dynamodb, settings.ledger_table),
        StripeMeters(key, settings.deployment, settings.stripe_api_base),
    )


def _tell(told: dict[str, Any]) -> None:
    """Emit the signals that are not zero: each costs money for as long as it is sent."""
    for signal, what in {
        Signal.USAGE_CARRIED: "carried",
        Signal.USAGE_WITHOUT_SUBSCRIPTION: "held",
        Signal.USAGE_POSTED_AGAIN: "posted_again",
        Signal.USAGE_DIFFERING: "differing",
    }.items():
        if told[what]:
            signals.add_metric(signal, MetricUnit.Count, told[what])
    if signals.metric_set:
        signals.flush_metrics()
