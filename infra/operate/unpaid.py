"""What nobody pays: which hours no subscription of a customer's bills, as Stripe shows it now; nothing is changed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final

from infra.operate.deployment import Deployment
from metering.billing.unbilled import Invoices
from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.unbilled import OPEN_PERIOD, WhyUnbilled, why_unbilled
from metering.model.usage_row import State
from metering.stores.holders import Customer
from metering.stripe.agreed import agreed
from metering.stripe.client import StripeRejectedError, StripeUnavailableError
from metering.stripe.invoices import StripeReader
from metering.stripe.reading import Reads

MOST_CUSTOMERS: Final = 500
"""So many are looked at: for each a read of its rows of 35 days and, if it has used anything, a call to Stripe."""

Place = tuple[Hour, str]
"""An hour and a metric."""


@dataclass(frozen=True, slots=True)
class Unpaid:
    """How many hours of which customers nobody pays, for one reason."""

    reason: str
    hours: int
    customers: list[str]


@dataclass(frozen=True, slots=True)
class Found:
    """What nobody pays, of the first ``looked_at`` customers; or why that is not known."""

    unpaid: list[Unpaid]
    looked_at: int = 0
    is_all: bool = True
    not_known: str = ""


def of_everyone(
    deployment: Deployment, first: Hour, now: datetime, progress: Callable[[Iterable[Any], int], Iterable[Any]]
) -> Found:
    """Look at customers' hours from ``first`` on, of the last 35 days, also such as are not posted yet."""
    names = [*islice(deployment.ledger.holders.customer_ids(most=MOST_CUSTOMERS + 1), MOST_CUSTOMERS + 1)]
    wanted = names[:MOST_CUSTOMERS]
    owners = [owner for owner in deployment.ledger.holders.customers(wanted).values() if owner.stripe_customer]
    reads = Reads(2 * MOST_CUSTOMERS)
    by_reason: dict[WhyUnbilled, dict[str, set[Hour]]] = {}
    try:
        reader = StripeReader(deployment.stripe(), reads)
        for owner in progress(owners, len(owners)):
            for (hour, _), why in of_customer(deployment, reader, owner, first, now).items():
                by_reason.setdefault(why, {}).setdefault(owner.id, set()).add(hour)
    except (StripeRejectedError, StripeUnavailableError) as error:
        return Found([], not_known=str(error))
    finally:
        deployment.read_budget.note(reads.made, now)
    return Found([*_added_up(by_reason)], len(wanted), len(names) <= MOST_CUSTOMERS)


def _added_up(by_reason: dict[WhyUnbilled, dict[str, set[Hour]]]) -> Iterator[Unpaid]:
    for why, hours in sorted(by_reason.items()):
        yield Unpaid(why, sum(map(len, hours.values())), sorted(hours))


def of_customer(
    deployment: Deployment, reader: StripeReader, owner: Customer, first: Hour, now: datetime
) -> dict[Place, WhyUnbilled]:
    """Return why nobody pays a customer's totals that are posted or to be, as far as nobody does; no trial is told."""
    first = max(first, Hour.containing(now - OPEN_PERIOD))
    invoices = Invoices(deployment.changes, owner.id)
    unpaid: dict[Place, WhyUnbilled] = {}
    for row in deployment.ledger.rows.of(customer(owner.id), first, Hour.containing(now).next()):
        for metric, total in row.totals.items():
            whom = total.posted_to or owner.stripe_customer
            if total.state not in (State.POSTED, State.PENDING) or total.quantity <= 0 or not whom:
                continue
            why = why_unbilled(metric, row.hour, agreed(reader, whom), now, dated=total.dated)
            if why is None or why is WhyUnbilled.TRIAL:
                continue
            if not any(one.is_of(whom, metric) and one.covers(row.hour, total.dated) for one in invoices.billed()):
                unpaid[row.hour, metric] = why
    return unpaid
