"""Whether what customers use gets onto invoices: usage that waits for a Stripe customer, and usage that nobody pays."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Final

from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import Finding, in_quantities, named, ok, warning
from infra.operate.words import count
from metering.billing.unbilled import Looker
from metering.model.periods import Hour
from metering.model.unbilled import OPEN_PERIOD, WhyUnbilled
from metering.model.usage_row import NO_STRIPE_CUSTOMER, State
from metering.stores.aws import side_by_side
from metering.stores.holders import Customer
from metering.stripe.invoices import StripeReader
from metering.stripe.reading import Reads

MOST_CUSTOMERS: Final = 500
"""So many are looked at: for each a read of its rows and, if it has used anything, a call to Stripe. Of more it is said
what the hourly runs found, which look at each once a day."""

WAITS: Final = "it waits for a Stripe customer"

_MOST_NAMED: Final = 10

_ADJUST: Final = "what is past is billed by metering adjust in a subscribed hour, or metering unbilled accept"
_SUBSCRIBE: Final = f"metering customers subscribe, or suspend; {_ADJUST}"
_RESUBSCRIBE: Final = (
    "metering customers subscribe, which may bill what is past, too, or suspend; what is told a day later still is "
    "billed by metering adjust in a subscribed hour, or metering unbilled accept"
)
"""After a change of plan the next one begins where the other ended, and what came late to its last invoice is carried:
who adjusts all of that at once bills it twice."""

_TO_DO: Final[Mapping[str, str]] = {
    WAITS: "metering customers subscribe, or metering customers add with --stripe-customer; then it is posted",
    WhyUnbilled.NO_SUBSCRIPTION: _SUBSCRIBE,
    WhyUnbilled.ENDED: _RESUBSCRIBE,
    WhyUnbilled.NO_PRICE: f"add a price of the metric to the subscription at Stripe, 0 if it is free; {_ADJUST}",
    WhyUnbilled.INCOMPLETE: "have the customer pay its first invoice, or metering customers suspend",
    WhyUnbilled.UNPAID: "have the customer pay its open invoices, or metering customers suspend",
    WhyUnbilled.PAUSED: "resume the subscription at Stripe, or metering customers suspend",
    WhyUnbilled.TRIAL: "nothing, if it was to be free",
    WhyUnbilled.BEFORE: f"nothing, if it was to be free; {_ADJUST}",
}
"""What to do, by the reason for which nobody pays."""

Used = Counter[str]
"""Quantities by metric."""


def check_subscriptions(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """Name the customers whose usage nobody will be billed for as things stand, with the reason (I9)."""
    since = deployment.switch.read().first
    if since is None:
        yield ok("nothing is posted, so that nobody needs a subscription")
        return
    names = [*islice(deployment.ledger.holders.customer_ids(), MOST_CUSTOMERS + 1)]
    if len(names) > MOST_CUSTOMERS:
        yield from _as_the_hourly_runs_found(deployment)
        return
    owners = deployment.ledger.holders.customers(names)
    stripe = StripeReader(deployment.stripe(), Reads(2 * MOST_CUSTOMERS))
    looker = Looker(deployment.ledger, deployment.changes, stripe, since, lambda: now, now)
    by_reason: dict[str, dict[str, Used]] = {}
    for name, unpaid in zip(owners, side_by_side(lambda one: _unpaid(looker, one), owners.values()), strict=True):
        for reason, used in unpaid.items():
            by_reason.setdefault(reason, {})[name] = used
    first = max(since, Hour.containing(now - OPEN_PERIOD))
    for reason, used_by in sorted(by_reason.items()):
        said = (
            f"usage since {first} of {count(len(used_by), 'customer')} is billed to nobody, {reason}: {_named(used_by)}"
        )
        yield warning(said, _TO_DO[reason])
    if not by_reason:
        yield ok(f"what {count(len(owners), 'customer')} used since {first} is on an invoice, or will be")


def _unpaid(looker: Looker, owner: Customer) -> dict[str, Used]:
    """Return what a customer used that nobody pays, by reason."""
    look = looker.look(owner)
    unpaid: dict[str, Used] = {}
    for row in look.rows:
        for metric, total in row.totals.items():
            if total.state is State.HELD and total.reason == NO_STRIPE_CUSTOMER and total.quantity:
                unpaid.setdefault(WAITS, Counter())[metric] += total.quantity
    for one in look.unbilled:
        unpaid.setdefault(one.why, Counter())[one.metric] += one.quantity
    return unpaid


def _as_the_hourly_runs_found(deployment: Deployment) -> Iterator[Finding]:
    """Say what the round of looks found, which names the first customers."""
    looks = deployment.ledger.agreements.looks()
    if not looks.begun_at:
        said = f"nobody has looked yet who pays for what more than {MOST_CUSTOMERS} customers used"
        yield warning(said, "run this again tomorrow")
        return
    found = looks.unpaid()
    for why, unpaid in found.items():
        hours, are = count(unpaid.hours, "hour"), "is" if unpaid.hours == 1 else "are"
        said = f"{hours} of {count(unpaid.customers, 'customer')} {are} billed to nobody, {why}: "
        yield warning(said + named(unpaid.named, unpaid.customers, _MOST_NAMED), _TO_DO[why])
    if not found:
        yield ok(f"of more than {MOST_CUSTOMERS} customers the hourly runs found no usage that nobody pays")


def _named(unpaid: Mapping[str, Used]) -> str:
    """Name customers with what each used: ``acme (requests: 1,200)``."""
    each = (f"{name} ({in_quantities(used)})" for name, used in unpaid.items())
    return named(each, len(unpaid), _MOST_NAMED)
