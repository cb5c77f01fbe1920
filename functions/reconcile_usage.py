"""Lambda: every hour, what Stripe holds and what its invoices bill against the ledger; what differs is mended.

And how much usage is not billed as things stand is told.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.billing.carried import Carried
from metering.billing.carrying import Carrier
from metering.billing.keeping import Keeper
from metering.billing.reconciling import POSTED_AGAIN, STAYS, Reconciled, Reconciler
from metering.billing.standing import standing
from metering.billing.unbilled import Looker
from metering.model.periods import Hour
from metering.model.read_allotment import A_SECOND, ReadAllotment
from metering.model.usage_row import WhyHeld
from metering.settings import ReconcileUsageSettings
from metering.signals import Signal
from metering.stores import aws
from metering.stores.changes import Changes
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stores.limits import LimitItems
from metering.stores.read_budget import ReadBudget
from metering.stores.switch import PostingSwitch, Switch
from metering.stripe.client import StripeUnavailableError, key_from
from metering.stripe.invoices import StripeReader
from metering.stripe.meters import StripeMeters
from metering.stripe.prices import Offer
from metering.stripe.reading import OutOfBudgetError, Reads
from metering.stripe.subscriptions import Offers

logger = Logger()
signals = Metrics()

_MARGIN = timedelta(seconds=30)
"""A customer that was begun is finished in this time."""


@logger.inject_lambda_context
def handler(_event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Tell how things stand, carry what invoices have not billed, look who pays, compare; what takes too long waits."""
    start = _clock()
    time = timedelta(milliseconds=context.get_remaining_time_in_millis()) - _MARGIN
    parts = _parts()
    posting = parts.switch.read()
    found = standing(parts.ledger.rows, Hour.parse(posting.since) if posting.since else None, start)
    stand: dict[str, Any] = {
        "rejected": found.rejected,
        "unposted": found.unposted,
        "without_stripe_customer": found.held[WhyHeld.NO_STRIPE_CUSTOMER],
        "too_old": found.held[WhyHeld.TOO_OLD],
    }
    _tell(stand)  # before Stripe is asked for anything: nothing that fails then is to hide it
    carried, compared = _look(parts, posting, start, start + time) if posting.since else (Carried(), Reconciled())
    nobody_pays = parts.ledger.agreements.looks().hours()
    did: dict[str, Any] = {
        "invoices": carried.invoices,
        "carried": carried.carried,
        "held": carried.held,
        "unbilled": sum(hours for why, hours in nobody_pays.items() if not why.is_agreed),
        "before_subscription": sum(hours for why, hours in nobody_pays.items() if why.is_agreed),
        "customers": compared.customers,
        "odd": carried.odd + len(compared.odd),
        "posted_again": compared.count(POSTED_AGAIN),
        "differing": compared.count(STAYS) + carried.doubtful,
        "round_over": compared.round_over,
        "cut_short": carried.cut_short or compared.cut_short,
    }
    _tell(did)
    logger.info("run finished", **stand, **did)
    return stand | did


def _look(parts: "Parts", posting: Switch, start: datetime, deadline: datetime) -> tuple[Carried, Reconciled]:
    """Carry, look who pays, and compare, with what reads there are; return what was done, however far it got.

    Comparing, and the look who pays, have a share of what comes in in any case, but not of what is kept for the
    invoices of another hour. While posting pauses, the invoices that become final are noted, and that is all.
    """
    allotment = parts.budget.allotment
    taken = parts.budget.take(int(A_SECOND * (deadline - start).total_seconds()), start)
    leaving = max(0, allotment.kept_for_invoices - parts.budget.left(start))

    def seconds_left() -> float:
        return (deadline - _clock()).total_seconds()

    reads = Reads(taken, seconds_left=seconds_left)
    reader = StripeReader(parts.meters, reads)
    half = start + (deadline - start) / 2
    try:
        if posting.first is None:
            since = Hour.parse(posting.since)
            return Carrier(parts.ledger, parts.changes, reader, since, _clock, deadline).note(), Reconciled()
        try:
            metrics = len(reader.by_metric())  # whatever is looked at needs them
        except (OutOfBudgetError, StripeUnavailableError) as error:
            return Carried(cut_short=str(error)), Reconciled()
        own = allotment.for_comparing(metrics)
        others = max(0, taken - own)
        reads.most = others - allotment.for_looking(taken, metrics)
        carried = Carrier(parts.ledger, parts.changes, reader, posting.first, _clock, half).run()
        reads.most = others
        try:
            keeper = Keeper(parts.limits, Offers(reader, parts.prices), lambda: start) if parts.limits else None
            Looker(parts.ledger, parts.changes, reader, posting.first, _clock, half, keeper).run()
        except StripeUnavailableError as error:
            carried.cut_short = str(error)
        reads.most = min(taken, max(reads.made + own, taken - leaving))
        return carried, Reconciler(parts.ledger, parts.changes, reader, posting.first, _clock, deadline).run()
    finally:
        parts.budget.note(reads.made - taken, start)


def _clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the function works with, made once in a process; ``prices`` are those that it has read."""

    budget: ReadBudget
    ledger: Ledger
    changes: Changes
    switch: PostingSwitch
    meters: StripeMeters
    limits: LimitItems | None
    prices: dict[str, Offer] = field(default_factory=dict)


@cache
def _parts() -> Parts:
    settings = ReconcileUsageSettings.read()
    dynamodb = aws.dynamodb()
    key = key_from(SecretsProvider(boto3_client=aws.secrets()), settings.stripe_secret)
    counters = Counters(dynamodb, settings.counters_table)
    return Parts(
        ReadBudget(dynamodb, settings.ledger_table, ReadAllotment(int(settings.stripe_reads_a_month))),
        Ledger(dynamodb, settings.ledger_table),
        Changes(dynamodb, settings.ledger_table, counters),
        PostingSwitch(dynamodb, settings.ledger_table),
        StripeMeters(key, settings.deployment, settings.stripe_api_base),
        LimitItems(dynamodb, settings.ledger_table) if settings.limits else None,
    )


_SIGNALS: Final = {
    "rejected": Signal.ROWS_REJECTED,
    "unposted": Signal.ROWS_UNPOSTED,
    "without_stripe_customer": Signal.ROWS_WITHOUT_STRIPE_CUSTOMER,
    "too_old": Signal.ROWS_TOO_OLD,
    "carried": Signal.USAGE_CARRIED,
    "held": Signal.USAGE_WITHOUT_SUBSCRIPTION,
    "unbilled": Signal.ROWS_UNBILLED,
    "before_subscription": Signal.ROWS_BEFORE_SUBSCRIPTION,
    "posted_again": Signal.USAGE_POSTED_AGAIN,
    "differing": Signal.USAGE_DIFFERING,
}


def _tell(counts: Mapping[str, int]) -> None:
    """Emit the signals that are not zero: each costs money for as long as it is sent."""
    for what, count in counts.items():
        if count and what in _SIGNALS:
            signals.add_metric(_SIGNALS[what], MetricUnit.Count, count)
    if signals.metric_set:
        signals.flush_metrics()
