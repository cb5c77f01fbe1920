"""Reconciling: what Stripe shows against the ledger; what differs is posted again.

Hour by hour for the last two days at each look, and day by day for what an open invoice can still hold once a day: an
hour that differs further back is found by its day. Stripe adds up usage some minutes after it took it, so a total that
was posted just now is not judged yet.

A total stays with the Stripe customer that took it, who may be billed for it. If Stripe does not know that one and has
never invoiced the hour to it, nobody is: the total is posted to the Stripe customer that its customer has now.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import msgspec
from aws_lambda_powertools import Logger

from metering.model.periods import Hour, due_before, hours
from metering.model.subjects import customer
from metering.model.usage_row import State, UsageRow, posted_elsewhere, reposted
from metering.stores.aws import side_by_side
from metering.stores.changes import Changes
from metering.stores.holders import Customer
from metering.stores.ledger import Ledger
from metering.stores.marks import Mark, new_mark
from metering.stores.progress import Round
from metering.stores.table import RowChangedError
from metering.stripe.invoices import StripeReader
from metering.stripe.meters import SHOWN_AFTER
from metering.stripe.reading import OutOfBudgetError

logger = Logger(child=True)

HOURLY: Final = timedelta(hours=48)
DAILY: Final = timedelta(days=34)
"""How far back one day is compared with another: what Stripe still takes, less half a day."""

MOST_REPOSTS: Final = 3
"""After so many postings of one total a person must look."""

_CUSTOMERS_AT_ONCE: Final = 8
_DAY_S: Final = 23 * 3600  # less an hour, so that a run that comes early is not a day late


@dataclass(frozen=True, slots=True, order=True)
class Compared:
    """One customer's metric in one hour. ``what`` was done about a difference; empty without one."""

    customer: str
    metric: str
    hour: Hour
    ledger: int
    stripe: int
    state: str
    what: str = ""

    @property
    def difference(self) -> int:
        """How much more Stripe shows than the ledger holds."""
        return self.stripe - self.ledger


POSTED_AGAIN: Final = "posted again"
STAYS: Final = "stays, although it was posted again"
NOT_YET: Final = "Stripe may not show it yet"
NOT_POSTED: Final = "not posted"
NOT_MENDED: Final = "was posted, and is not posted again while posting is off"


@dataclass(slots=True)
class Reconciled:
    """What a run found."""

    customers: int = 0
    differing: list[Compared] = field(default_factory=list)
    round_over: bool = False

    def count(self, what: str) -> int:
        """Return for how many differences something was done."""
        return sum(one.what == what for one in self.differing)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Compares customers; nothing of an hour before ``since`` is billed, so that nothing of it is compared."""

    ledger: Ledger
    changes: Changes
    stripe: StripeReader
    since: Hour
    clock: Callable[[], datetime]
    deadline: datetime
    delay: timedelta = SHOWN_AFTER
    mend: bool = True
    """Whether what differs is posted again; not while posting is off."""

    def run(self) -> Reconciled:
        """Go on with the round through all customers where the last run stopped, as far as time and budget allow.

        A round that begins a day or more after the last daily one is a daily one, however long a round takes.
        """
        reconciled = Reconciled()
        at = self._begun(self.ledger.progress.round())

        def compare(owner: Customer, daily: bool = at.daily) -> list[Compared]:  # noqa: FBT001 - of the whole round
            return [*self.compare(owner, daily=daily)]

        for some in _in_groups(self.ledger.holders.customer_ids(at.name), _CUSTOMERS_AT_ONCE):
            if self.clock() >= self.deadline:
                return reconciled
            owners = self.ledger.holders.customers(some)
            billed = [owner for owner in owners.values() if owner.stripe_customer]
            try:
                compared = side_by_side(compare, billed)
            except OutOfBudgetError as error:
                logger.info("the next run goes on", reason=str(error), customers=reconciled.customers)
                return reconciled
            reconciled.customers += len(some)
            reconciled.differing += [metric for metrics in compared for metric in metrics if metric.difference]
            at = msgspec.structs.replace(at, name=some[-1])
            self.ledger.progress.save_round(at)
        self.ledger.progress.save_round(msgspec.structs.replace(at, name=""))
        reconciled.round_over = True
        return reconciled

    def _begun(self, at: Round) -> Round:
        """Return the round that goes on, or the one that begins now."""
        now = int(self.clock().timestamp())
        if at.name:
            return at
        daily = at.daily_at + _DAY_S <= now
        return Round(daily=daily, daily_at=now if daily else at.daily_at)

    def compare(self, owner: Customer, *, daily: bool) -> Iterator[Compared]:
        """Yield a customer's hours that the ledger or Stripe holds something of, and post again what differs.

        The last two days' hours; with ``daily`` also those of earlier days that differ.
        """
        end = due_before(self.clock())
        recent = max(self.since, _midnight(end, HOURLY))
        yield from self._compare(owner, self._rows(owner, recent, end), recent, end)
        earliest = max(self.since, _midnight(end, DAILY))
        if daily and earliest < recent:
            rows = self._rows(owner, earliest, recent)
            for day in self._differing_days(owner, rows, earliest, recent):
                last = min(Hour(day.number + 24), recent)
                first = max(day, earliest)
                yield from self._compare(owner, rows, first, last)

    def _rows(self, owner: Customer, first: Hour, end: Hour) -> dict[Hour, UsageRow]:
        return {row.hour: row for row in self.ledger.rows.of(customer(owner.id), first, end)}

    def _compare(self, owner: Customer, rows: Mapping[Hour, UsageRow], first: Hour, end: Hour) -> Iterator[Compared]:
        """Compare hour by hour. The rows were read before Stripe is asked: what is posted meanwhile is too new."""
        if first >= end:  # posting has just been turned on
            return
        for metric in self._metrics(rows):
            at_stripe: dict[Hour, int] = {}
            for whom in self._posted_to(owner, rows, metric):
                for hour, total in self.stripe.totals(metric, whom, first, end, "hour").items():
                    at_stripe[hour] = at_stripe.get(hour, 0) + total
            for hour in hours(first, end):
                row = rows.get(hour) or UsageRow(customer(owner.id), hour)
                if metric in row.totals or at_stripe.get(hour):
                    yield self._judge(row, metric, at_stripe.get(hour, 0), owner)

    def _differing_days(self, owner: Customer, rows: Mapping[Hour, UsageRow], first: Hour, end: Hour) -> list[Hour]:
        """Return the days, by their first hour, of which some metric differs."""
        midnight, last = _midnight(first, timedelta()), _midnight(end, timedelta())
        days: set[Hour] = set()
        for metric in self._metrics(rows):
            ours: dict[Hour, int] = {}
            for row in rows.values():
                day = _midnight(row.hour, timedelta())
                ours[day] = ours.get(day, 0) + (row.totals[metric].quantity if metric in row.totals else 0)
            theirs: dict[Hour, int] = {}
            for whom in self._posted_to(owner, rows, metric):
                for day, total in self.stripe.totals(metric, whom, midnight, last, "day").items():
                    theirs[day] = theirs.get(day, 0) + total
            days |= {day for day in {*ours, *theirs} if ours.get(day, 0) != theirs.get(day, 0)}
        return sorted(days)

    def _metrics(self, rows: Mapping[Hour, UsageRow]) -> list[str]:
        """Return the metrics that are billed, and those that rows hold although they are declared no longer."""
        return sorted({*self.stripe.by_metric(), *(metric for row in rows.values() for metric in row.totals)})

    def _posted_to(self, owner: Customer, rows: Mapping[Hour, UsageRow], metric: str) -> set[str]:
        """Return the Stripe customers that hold a customer's usage: totals stay with the one that took them first."""
        held = {row.totals[metric].posted_to for row in rows.values() if metric in row.totals}
        return (held | {owner.stripe_customer}) - {""}

    def _judge(self, row: UsageRow, metric: str, at_stripe: int, owner: Customer) -> Compared:
        total = row.totals.get(metric)
        ours, state = (total.quantity, total.state) if total else (0, State.POSTED)
        what = ""
        if ours != at_stripe:
            what = NOT_POSTED
            if self._is_with_nobody(row, metric, owner):
                what = self._post_elsewhere(row, metric) if self.mend else NOT_MENDED
            elif state is State.POSTED:
                what = self._mend(row, metric) if self.mend else NOT_MENDED
            logger.warning(
                "Stripe shows another total than the ledger",
                customer=row.subject.id,
                metric=metric,
                hour=str(row.hour),
                ledger=ours,
                stripe=at_stripe,
                done=what,
            )
        return Compared(row.subject.id, metric, row.hour, ours, at_stripe, state, what)

    def _is_with_nobody(self, row: UsageRow, metric: str, owner: Customer) -> bool:
        """Say whether a total was taken for a Stripe customer that there is not, and its customer has another now.

        What that one's invoices billed while there was one stays with it: nobody pays the same usage twice.
        """
        total = row.totals.get(metric)
        if total is None or total.state not in (State.POSTED, State.REJECTED) or row.hour.is_past_stripe(self.clock()):
            return False
        if total.posted_to not in self.stripe.unknown or owner.stripe_customer in self.stripe.unknown:
            return False
        return not any(
            billed.metric == metric and billed.stripe_customer == total.posted_to and billed.covers(row.hour)
            for billed in self.changes.billed(owner.id)
        )

    def _post_elsewhere(self, row: UsageRow, metric: str) -> str:
        """Have a total posted to the Stripe customer that its customer has now.

        In one transaction with the mark by which an invoice that this one has got meanwhile is compared.
        """
        marking = self.changes.counters.marks.marking(Mark.CHECK, row.hour, row.subject, new_mark())
        try:
            self.ledger.rows.save(posted_elsewhere(row, metric), beside=[{"Update": marking}])
        except RowChangedError:
            return NOT_YET
        return POSTED_AGAIN

    def _mend(self, row: UsageRow, metric: str) -> str:
        """Have a total posted again that differs at Stripe, under the next revision."""
        now, total = self.clock(), row.totals.get(metric)
        delay = SHOWN_AFTER if total and total.reposts else self.delay  # whoever asks often uses up no tries
        if total and total.posted_at > (now - delay).timestamp():
            return NOT_YET
        if row.hour.is_past_stripe(now) or (total and total.reposts >= MOST_REPOSTS):
            return STAYS
        try:
            self.ledger.rows.save(reposted(row, metric))
        except RowChangedError:
            return NOT_YET
        return STAYS if total and total.reposts else POSTED_AGAIN


def _midnight(hour: Hour, before: timedelta) -> Hour:
    """Return the first hour of the day that lies so long before an hour."""
    moment = hour.start - before
    return Hour.containing(moment.replace(hour=0))


def _in_groups(names: Iterable[str], size: int) -> Iterator[list[str]]:
    group: list[str] = []
    for name in names:
        group.append(name)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
