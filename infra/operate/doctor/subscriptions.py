"""Whether what customers use gets onto invoices: usage that waits for a Stripe customer, and usage that nobody pays."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import Finding, ok, warning
from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.usage_row import NO_STRIPE_CUSTOMER, State
from metering.stores.aws import side_by_side
from metering.stores.changes import Billed
from metering.stores.holders import Customer
from metering.stripe.invoices import StripeReader
from metering.stripe.reading import Reads

MOST_CUSTOMERS: Final = 500
"""So many are looked at: for each a read of its rows and, if it has used anything, a call to Stripe."""

LOOKED_BACK: Final = timedelta(days=7)

_MOST_NAMED: Final = 10


@dataclass(slots=True)
class Unpaid:
    """What a customer used, by metric, that waits for a Stripe customer, or is posted and gets onto no invoice."""

    waiting: Counter[str] = field(default_factory=Counter)
    unbilled: Counter[str] = field(default_factory=Counter)


def check_subscriptions(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """Name the customers whose usage of the last week nobody will be billed for as things stand (I9)."""
    since = deployment.switch.read().first
    if since is None:
        yield ok("nothing is posted, so that nobody needs a subscription")
        return
    first = max(since, Hour.containing(now - LOOKED_BACK))
    names = [*islice(deployment.ledger.holders.customer_ids(), MOST_CUSTOMERS + 1)]
    owners = deployment.ledger.holders.customers(names[:MOST_CUSTOMERS])
    stripe = StripeReader(deployment.stripe(), Reads(2 * MOST_CUSTOMERS))
    found = side_by_side(lambda owner: _unpaid(deployment, stripe, owner, first, Hour.containing(now)), owners.values())
    unpaid = dict(zip(owners, found, strict=True))
    waiting = {name: one.waiting for name, one in unpaid.items() if one.waiting}
    unbilled = {name: one.unbilled for name, one in unpaid.items() if one.unbilled}
    of_many = f", of whom the first {MOST_CUSTOMERS} were looked at" * (len(names) > MOST_CUSTOMERS)
    if waiting:
        yield warning(
            f"usage since {first} waits for a Stripe customer: {_named(waiting)}{of_many}",
            "metering customers subscribe, or metering customers add with --stripe-customer; then it is posted",
        )
    if unbilled:
        yield warning(
            f"usage since {first} is posted, but is on no invoice, and no subscription bills it: "
            f"{_named(unbilled)}{of_many}",
            "metering customers subscribe, or suspend; what is past is billed by metering adjust in a subscribed hour",
        )
    if not waiting and not unbilled:
        yield ok(f"what {len(owners)} customers used since {first} is on an invoice, or will be{of_many}")


def _unpaid(deployment: Deployment, stripe: StripeReader, owner: Customer, first: Hour, end: Hour) -> Unpaid:
    unpaid = Unpaid()
    unbilled: dict[str, dict[Hour, int]] = {}
    for row in deployment.ledger.rows.of(customer(owner.id), first, end):
        for metric, total in row.totals.items():
            if total.state is State.HELD and total.reason == NO_STRIPE_CUSTOMER:
                unpaid.waiting[metric] += total.quantity
            elif total.state is State.POSTED and total.quantity and not stripe.is_billed(owner.stripe_customer, metric):
                unbilled.setdefault(metric, {})[row.hour] = total.quantity
    for one in deployment.changes.billed(owner.id) if unbilled else []:
        by_hour = unbilled.get(one.metric, {})
        if any(one.covers(hour) for hour in by_hour) and one.held:
            unpaid.unbilled[one.metric] += max(0, one.difference)
        for hour in [hour for hour in by_hour if one.covers(hour)]:
            del by_hour[hour]
        if Hour.parse(one.end) in by_hour:
            by_hour[Hour.parse(one.end)] -= _beyond_whole_hours(deployment, owner, one)
    for metric, by_hour in unbilled.items():
        unpaid.unbilled[metric] += sum(max(0, quantity) for quantity in by_hour.values())
    return Unpaid(+unpaid.waiting, +unpaid.unbilled)


def _beyond_whole_hours(deployment: Deployment, owner: Customer, invoice: Billed) -> int:
    """Return what an invoice bills beyond its whole hours: of the hour in which its subscription ended."""
    rows = deployment.ledger.rows.of(customer(owner.id), Hour.parse(invoice.first), Hour.parse(invoice.end))
    whole = sum(row.totals[invoice.metric].quantity for row in rows if invoice.metric in row.totals)
    return max(0, invoice.quantity + invoice.carried - whole)


def _named(unpaid: Mapping[str, Mapping[str, int]]) -> str:
    """Name customers with what each used: ``acme (requests: 1,200)``."""
    named = [
        f"{name} ({', '.join(f'{metric}: {quantity:,}' for metric, quantity in sorted(used.items()))})"
        for name, used in islice(unpaid.items(), _MOST_NAMED)
    ]
    return ", ".join(named) + f" and {len(unpaid) - _MOST_NAMED} more" * (len(unpaid) > _MOST_NAMED)
