"""Turning posting on and off, and asking Stripe what it holds."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import msgspec

from infra.operate.deployment import Deployment, OperatorError
from infra.operate.unpaid import Place, of_customer
from infra.operate.usage import MonthOnce
from metering.billing.carried import Carried
from metering.billing.carrying import Carrier
from metering.billing.reconciling import NOT_POSTED, Compared, Reconciler
from metering.billing.standing import MOST_COUNTED
from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.unbilled import WhyUnbilled
from metering.stores.attribution import Attribution
from metering.stores.holders import Customer
from metering.stores.marks import new_mark
from metering.stores.switch import Switch
from metering.stores.table import RowChangedError
from metering.stripe.client import StripeRejectedError
from metering.stripe.invoices import StripeReader
from metering.stripe.reading import Reads

_NO_LIMIT: Final = 10**9
"""A command makes as many calls as it takes."""

MOST_WAITING: Final = 10_000_000
"""More hours are not counted: some 120,000 read units."""

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


def turn_on(deployment: Deployment, since: Hour | None, *, who: str, now: datetime, progress: Progress) -> Switch:
    """Post everything from ``since`` on: the hour that was given first, or the current one if none ever was.

    An earlier hour than before is taken, a later one refused: totals that Stripe has already must go on to be
    corrected. Usage of hours that an invoice has billed by now is carried. Turning it on again does this again.
    """
    before = deployment.switch.read()
    known = Hour.parse(before.since) if before.since else None
    first = since or known or Hour.containing(now)
    if first > Hour.containing(now):
        raise OperatorError(f"posting can begin with the current hour, {Hour.containing(now)}, or before; got {first}")
    if known and first > known:
        raise OperatorError(
            f"posting began with {known}, and what Stripe has of later hours must go on to be corrected: "
            f"leave --since out, or give an hour before {known}"
        )
    after = msgspec.structs.replace(before, on=True, since=str(first), who=who, at=int(now.timestamp()))
    if (before.on, before.since) != (True, str(first)):
        _turn(deployment, after)
    names = list(deployment.ledger.holders.customer_ids())
    for name in progress(names, len(names)):
        for billed in deployment.changes.billed(name):
            if first < Hour.parse(billed.end):
                start = max(first, Hour.parse(billed.first))
                deployment.counters.marks.mark_to_check(start, customer(name))
    return after


def turn_off(deployment: Deployment, *, who: str, now: datetime) -> Switch:
    """Post nothing more for now; what is on its way still lands, and what waits is posted when it is turned on."""
    before = deployment.switch.read()
    if not before.on:
        return before
    after = msgspec.structs.replace(before, on=False, who=who, at=int(now.timestamp()))
    _turn(deployment, after)
    return after


def _turn(deployment: Deployment, after: Switch) -> None:
    try:
        deployment.switch.turn(after)
    except RowChangedError as error:
        raise OperatorError("somebody else has just turned posting: look with 'metering posting status'") from error


def waiting(deployment: Deployment) -> int:
    """Return how many customers' hours wait to be posted, or will when it is turned on; at most ``MOST_WAITING``."""
    switch = deployment.switch.read()
    since = Hour.parse(switch.since) if switch.since else Hour(0)
    return deployment.ledger.rows.pending_count(since, most=MOST_WAITING)


def before_posting(deployment: Deployment, switch: Switch, first: Hour | None = None) -> int:
    """Return how many customers' hours, from ``first`` on, are pending for good: from before posting began (I9).

    At most :data:`MOST_COUNTED` are counted.
    """
    if not switch.since:
        return 0
    return deployment.ledger.rows.pending_count(first or Hour(0), before=Hour.parse(switch.since), most=MOST_COUNTED)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A total that Stripe rejected."""

    customer: str
    metric: str
    hour: str
    quantity: int
    reason: str


def rejections(deployment: Deployment, only: str = "") -> Iterator[Rejection]:
    """Yield every total that Stripe rejected, by customers, of all or of one.

    Those whose row has a pending one, too, come once that is settled.
    """
    for name, hours in sorted(deployment.ledger.rows.rejected().items()):
        if only not in ("", name):
            continue
        for row in deployment.ledger.rows.written({(customer(name), hour) for hour in hours}):
            for metric, total in row.totals.items():
                if total.state == "REJECTED":
                    yield Rejection(name, metric, str(row.hour), total.quantity, total.reason)


def retry(deployment: Deployment, names: Iterable[str]) -> int:
    """Have these customers' rejected totals posted again, each under the next revision; return how many hours."""
    wanted = set(names)
    rejected = deployment.ledger.rows.rejected()
    places = [(hour, customer(name)) for name in sorted(wanted & rejected.keys()) for hour in rejected[name]]
    for hour, subject in places:
        deployment.counters.marks.mark_late(hour, subject, new_mark())
    return len(places)


@dataclass(frozen=True, slots=True)
class Row:
    """One customer's metric in one hour, at each place."""

    customer: str
    metric: str
    hour: str
    counted: int
    ledger: int
    stripe: int
    state: str
    what: str
    unpaid: str = ""
    """Why nobody pays for it; of all customers at once that is not asked."""

    @property
    def difference(self) -> int:
        """How much more Stripe shows than the ledger holds."""
        return self.stripe - self.ledger


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look found: how many totals it compared, and how those stand now that differed; of one customer, all."""

    compared: int
    rows: list[Row]
    odd: dict[str, str]
    """Customers that Stripe would not sum up, with its answer."""

    reads: int
    """How many reads it made at Stripe."""

    unpaid: dict[str, int]
    """By reason, how much nobody pays: of one customer its totals; else customers' hours as the last looks found."""


def reconcile(deployment: Deployment, only: Customer | None, *, now: datetime, progress: Progress) -> Looked:
    """Compare one customer, or all, with Stripe, and post again what differs.

    While posting is off nothing is posted: what Stripe lacks is what it would be told.
    """
    switch = deployment.switch.read()
    since = Hour.parse(switch.since) if switch.since else Hour(0)
    ledger = deployment.ledger
    names = [only.id] if only else list(ledger.holders.customer_ids())
    owners = [owner for owner in ledger.holders.customers(names).values() if owner.stripe_customer]
    reads = Reads(_NO_LIMIT)
    odd: dict[str, str] = {}
    unpaid: dict[Place, WhyUnbilled] = {}

    def compare() -> list[Compared]:
        reader = StripeReader(deployment.stripe(), reads)
        by = now + timedelta(days=1)
        looking = Reconciler(
            ledger, deployment.changes, reader, since, lambda: now, by, delay=timedelta(0), mend=switch.on
        )
        found: list[Compared] = []
        for owner in progress(owners, len(owners)):
            try:
                found += looking.compare(owner)
            except StripeRejectedError as error:
                odd[owner.id] = str(error)
        return found

    try:
        totals = compare()
        if switch.on and any(total.what not in ("", NOT_POSTED) for total in totals):
            deployment.post()
            after = {(total.customer, total.metric, total.hour): total for total in compare()}
            totals = [
                replace(after.get((total.customer, total.metric, total.hour), total), what=total.what)
                if total.what
                else total
                for total in totals
            ]
        if only and owners and not odd:
            unpaid = of_customer(deployment, StripeReader(deployment.stripe(), reads), owners[0], since, now)
    finally:
        deployment.read_budget.note(reads.made, now)
    rows = [*_rows(deployment, [total for total in totals if only or total.what], unpaid, progress)]
    nobody_pays = Counter(unpaid.values()) if only else ledger.agreements.looks().hours()
    return Looked(len(totals), rows, odd, reads.made, {str(why): number for why, number in nobody_pays.items()})


def _rows(
    deployment: Deployment, totals: Sequence[Compared], unpaid: Mapping[Place, WhyUnbilled], progress: Progress
) -> Iterator[Row]:
    """Yield totals with what the counters hold: each customer's hour is read once, and each month's claims."""
    uniques = MonthOnce(deployment.uniques.claims, deployment.ledger.holders)
    attribution = Attribution(deployment.counters, uniques)
    places = sorted({(total.customer, total.hour) for total in totals})
    counted: dict[tuple[str, Hour], Mapping[str, int]] = {}
    for name, theirs in groupby(progress(places, len(places)), itemgetter(0)):
        of_hours = attribution.hours_of_customer(name, (hour for _, hour in theirs))
        counted |= {(name, hour): amounts.quantities() for hour, amounts in of_hours.items()}
    for total in totals:
        yield Row(
            total.customer,
            total.metric,
            str(total.hour),
            counted[total.customer, total.hour].get(total.metric, 0),
            total.ledger,
            total.stripe,
            total.state,
            total.what,
            unpaid.get((total.hour, total.metric), ""),
        )


def carry(deployment: Deployment, *, now: datetime) -> Carried:
    """Carry what finalised invoices have not billed, as the hourly run does."""
    switch = deployment.switch.read()
    reads = Reads(_NO_LIMIT)
    reader = StripeReader(deployment.stripe(), reads)
    since = Hour.parse(switch.since)
    try:
        return Carrier(deployment.ledger, deployment.changes, reader, since, lambda: now, now + timedelta(days=1)).run()
    finally:
        deployment.read_budget.note(reads.made, now)
