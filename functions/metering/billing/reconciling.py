"""Reconciling: what Stripe shows against the ledger; what differs is posted again.

Stripe allots reads (:mod:`metering.model.read_allotment`), and one read sums up a customer's metric by day for as far
back as Stripe takes usage. So a round through all customers, which begins once a day at most, compares days, and hours
where a day differs. What reads are left until the next one go into rounds that compare the last two days by hour.
Stripe adds up usage some minutes after it took it, so a total that was posted just now is not judged yet.

A total stays with the Stripe customer that took it, who may be billed for it. If Stripe does not know that one and has
never invoiced the hour to it, nobody is: the total is posted to the Stripe customer that its customer has now.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
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
from metering.stripe.client import StripeRejectedError, StripeUnavailableError, answer_of
from metering.stripe.invoices import StripeReader
from metering.stripe.meters import SHOWN_AFTER
from metering.stripe.reading import OutOfBudgetError

logger = Logger(child=True)

HOURLY: Final = timedelta(hours=48)
DAILY: Final = timedelta(days=34)
"""How far back one day is compared with another: what Stripe still takes, less half a day."""

MOST_REPOSTS: Final = 3
"""After so many postings of one total a person must look."""

IDLE_EVERY: Final = 30
"""A customer without usage in the ledger is looked at in every so-manieth daily round: Stripe may still show some."""

MOST_ODD: Final = 50
"""So many customers that Stripe answers oddly are kept by name; more than that is no longer a matter of single ones."""

_CUSTOMERS_AT_ONCE: Final = 8
_READS_A_METRIC: Final = 2
"""Reads that must be left for each metric of a customer that is begun: its days, and hours that differ."""

_DAY_S: Final = 23 * 3600  # less an hour, so that a run that comes early is not a day late
_SPAN: Final = 4 * 24
"""Hours that one read sums up: Stripe gives a hundred sums at a time (API reference, "Pagination")."""


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
    """What a run found, however it ended."""

    looked_at: set[str] = field(default_factory=set)
    differing: list[Compared] = field(default_factory=list)
    odd: set[str] = field(default_factory=set)
    """Customers that Stripe refuses to sum up, for a reason that is theirs alone (I6), or that it failed at."""

    round_over: bool = False
    cut_short: str = ""
    """Why it ended before the round did."""

    @property
    def customers(self) -> int:
        """How many were looked at."""
        return len(self.looked_at)

    def count(self, what: str) -> int:
        """Return for how many differences something was done."""
        return sum(one.what == what for one in self.differing)


@dataclass(slots=True)
class _Look:
    """What one customer's look found, as far as it got; ``ended`` says why it got no further."""

    differing: list[Compared] = field(default_factory=list)
    is_odd: bool = False
    ended: str = ""
    failed: bool = False
    """Whether Stripe's failure ended it."""


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
        """Go on with the round through all customers where the last run stopped, as far as time and reads allow.

        After a daily round the hours are gone round at once. Whatever Stripe fails at, what was found until then is
        returned.
        """
        reconciled = Reconciled()
        at = self._begun(self.ledger.progress.round())
        try:
            each = _READS_A_METRIC * max(1, len(self.stripe.by_metric()))
        except (OutOfBudgetError, StripeUnavailableError) as error:
            reconciled.cut_short = str(error)
            return reconciled
        while True:
            at = self._go_round(at, each, reconciled)
            if reconciled.cut_short:
                return reconciled
            reconciled.round_over = True
            was_daily, at = at.daily, msgspec.structs.replace(at, name="")
            self.ledger.progress.save_round(at)
            if not was_daily:
                return reconciled
            at = self._begun(at)

    def _begun(self, at: Round) -> Round:
        """Return the round that goes on, or the one that begins now."""
        now = int(self.clock().timestamp())
        if at.name:
            return at
        daily = at.daily_at + _DAY_S <= now
        return msgspec.structs.replace(
            at, daily=daily, daily_at=now if daily else at.daily_at, number=at.number + 1 if daily else at.number
        )

    def _go_round(self, at: Round, each: int, reconciled: Reconciled) -> Round:
        """Look at the customers that are left of a round; return how far it got. ``each`` is a customer's reads."""
        names = iter(self.ledger.holders.customer_ids(at.name))
        while True:
            left = self.stripe.reads.left
            some = [*islice(names, max(1, min(_CUSTOMERS_AT_ONCE, left // each)))]
            if not some:
                return at
            least = each if reconciled.looked_at else 1  # one is begun in any case, or none ever might be
            if self.clock() >= self.deadline or left < least:
                reconciled.cut_short = "its time is over" if left >= least else "its reads are made"
                return at
            owners = self.ledger.holders.customers(some)
            billed = [owners[name] for name in some if name in owners and owners[name].stripe_customer]
            found = side_by_side(partial(self._look, at), billed)
            looks = {owner.id: look for owner, look in zip(billed, found, strict=True)}
            ended = {name: look.ended for name, look in looks.items() if look.ended}
            looked_at = some[: some.index(min(ended, key=some.index))] if ended else some
            if ended and not reconciled.looked_at and not looked_at:
                # It takes more reads than a run has, or Stripe fails at it each time. What it got is mended; it must
                # not keep others waiting (I6). While Stripe fails at everybody, that is one customer a run.
                looked_at = some[:1]
                looks[some[0]].is_odd |= looks[some[0]].failed
            reconciled.looked_at.update(looked_at)
            odd = set(at.odd)
            for name, look in looks.items():
                reconciled.differing += look.differing
                if look.is_odd:
                    reconciled.odd.add(name)
                    odd.add(name)
                elif not look.ended:
                    odd.discard(name)
            if looked_at:
                at = msgspec.structs.replace(at, name=looked_at[-1], odd=tuple(sorted(odd)[:MOST_ODD]))
                self.ledger.progress.save_round(at)
            if ended:
                reconciled.cut_short = next(iter(ended.values()))
                return at

    def _look(self, at: Round, owner: Customer) -> _Look:
        """Look at one customer; what Stripe fails at is told beside what was found."""
        look = _Look()
        always = owner.id in at.odd or (zlib.crc32(owner.id.encode()) + at.number) % IDLE_EVERY == 0
        try:
            for compared in self.compare_days(owner, idle=always) if at.daily else self.compare_hours(owner):
                if compared.difference:
                    look.differing.append(compared)
        except StripeRejectedError as error:
            logger.warning("Stripe answers oddly about a customer", customer=owner.id, answer=answer_of(error))
            look.is_odd = True
        except OutOfBudgetError as error:
            look.ended = str(error)
        except StripeUnavailableError as error:
            logger.warning("Stripe fails at a customer", customer=owner.id, answer=answer_of(error))
            look.ended, look.failed = str(error), True
        return look

    def compare(self, owner: Customer) -> Iterator[Compared]:
        """Yield what both kinds of rounds would of a customer, whether it used anything or not, no hour twice."""
        yield from self.compare_hours(owner, idle=True)
        yield from self.compare_days(owner, before=_midnight(due_before(self.clock()), HOURLY), idle=True)

    def compare_hours(self, owner: Customer, *, idle: bool = False) -> Iterator[Compared]:
        """Yield a customer's last two days by hour, as far as either side holds anything; post again what differs.

        Nothing is read at Stripe of a customer that used nothing in them, unless it is to be looked at though ``idle``.
        """
        end = due_before(self.clock())
        first = max(self.since, _midnight(end, HOURLY))
        rows = self._rows(owner, first, end)
        if first < end and (rows or idle):  # or posting has just been turned on
            for metric in self._metrics(rows):
                yield from self._compare(owner, rows, metric, first, end)

    def compare_days(self, owner: Customer, *, before: Hour | None = None, idle: bool = False) -> Iterator[Compared]:
        """Yield those hours of a customer's days that differ as a whole, and post again what differs.

        The days are those as far back as Stripe takes usage, up to ``before``, exclusive: today, if it is left out.
        """
        end = due_before(self.clock())
        before = before or _midnight(end, timedelta())
        first = max(self.since, _midnight(end, DAILY))
        rows = self._rows(owner, first, before) if first < before else {}
        if first < before and (rows or idle):
            for metric in self._metrics(rows):
                for day, last in _spans(self._differing_days(owner, rows, metric, first, before)):
                    yield from self._compare(owner, rows, metric, max(day, first), min(last, before))

    def _rows(self, owner: Customer, first: Hour, end: Hour) -> dict[Hour, UsageRow]:
        return {row.hour: row for row in self.ledger.rows.of(customer(owner.id), first, end)}

    def _compare(
        self, owner: Customer, rows: Mapping[Hour, UsageRow], metric: str, first: Hour, end: Hour
    ) -> Iterator[Compared]:
        """Compare hour by hour. The rows were read before Stripe is asked: what is posted meanwhile is too new."""
        at_stripe: dict[Hour, int] = {}
        for whom in self._posted_to(owner, rows, metric):
            for hour, total in self.stripe.totals(metric, whom, first, end, "hour").items():
                at_stripe[hour] = at_stripe.get(hour, 0) + total
        for hour in hours(first, end):
            row = rows.get(hour) or UsageRow(customer(owner.id), hour)
            if metric in row.totals or at_stripe.get(hour):
                yield self._judge(row, metric, at_stripe.get(hour, 0), owner)

    def _differing_days(
        self, owner: Customer, rows: Mapping[Hour, UsageRow], metric: str, first: Hour, end: Hour
    ) -> list[Hour]:
        """Return the days, by their first hour, of which a metric differs; ``end`` is a day's first hour."""
        ours: dict[Hour, int] = {}
        for row in rows.values():
            day = _midnight(row.hour, timedelta())
            ours[day] = ours.get(day, 0) + (row.totals[metric].quantity if metric in row.totals else 0)
        theirs: dict[Hour, int] = {}
        for whom in self._posted_to(owner, rows, metric):
            for day, total in self.stripe.totals(metric, whom, _midnight(first, timedelta()), end, "day").items():
                theirs[day] = theirs.get(day, 0) + total
        return sorted(day for day in {*ours, *theirs} if ours.get(day, 0) != theirs.get(day, 0))

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
        if any(one.stripe_customer == total.posted_to and not one.read for one in self.changes.noted(owner.id)):
            return False  # what it bills is not known yet
        return not any(
            billed.is_of(total.posted_to, metric) and billed.covers(row.hour)
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


def _spans(days: Sequence[Hour]) -> Iterator[tuple[Hour, Hour]]:
    """Yield spans, each of one read of hours, in which all the days lie: the first hour and the end, exclusive."""
    first = last = None
    for day in days:
        if first is not None and last is not None and day.number + 24 - first.number > _SPAN:
            yield first, last
            first = None
        first, last = first or day, Hour(day.number + 24)
    if first is not None and last is not None:
        yield first, last
