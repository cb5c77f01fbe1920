"""Carrying: what can no longer be billed where it belongs is billed in the current hour, exactly once, both ways.

Four things ask for it, each of a closed hour that was written again (a ``CHECK`` mark):

- **A finalised invoice** never changes. So for each of them the quantity that it bills of a metric is kept, as Stripe
  says it, and compared with the ledger's sum of its hours whenever one of them is written again. The difference, less
  what was carried before, is carried.
- **An hour too old for Stripe** has a total that Stripe does not take any more: what Stripe lacks is carried.
- **Less than nothing** in an hour, after an adjustment or a carry, is posted as zero, and the rest is carried on.
- **More than Stripe takes of an hour** has 16 digits: 15 nines are posted, and the rest is carried on.

What is carried is written together with what says that it was (:mod:`metering.stores.changes`), on condition that
nobody else has done so, and with the late mark of the hour that it enters: so a crash, or a second run, carries nothing
twice.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Final

import msgspec
from aws_lambda_powertools import Logger

from metering.model.periods import Hour
from metering.model.subjects import Kind, customer
from metering.model.usage_row import TOO_OLD, Change, State, Total, UsageRow, settled_by_carry
from metering.stores.aws import side_by_side
from metering.stores.changes import Billed, Changes
from metering.stores.ledger import Ledger
from metering.stores.marks import Mark, Marked
from metering.stores.progress import Seen
from metering.stores.table import RowChangedError
from metering.stripe.invoices import InvoicedMetric, StripeReader
from metering.stripe.meters import SHOWN_AFTER
from metering.stripe.reading import OutOfBudgetError

logger = Logger(child=True)

WHO: Final = "reconcile_usage"
NOT_SUBSCRIBED: Final = "no subscription bills this metric now"

_WINDOW: Final = 6 * 3600
"""Seconds. Invoices are looked for in pieces of time, oldest first, so that a run which ends early has not
looked in vain."""

_OVERLAP: Final = 10 * 60
"""Seconds. An event can show up in Stripe's list later than it is dated."""

_KEPT: Final = 29 * 24 * 3600
"""Seconds. How long Stripe keeps events, less a day."""


@dataclass(slots=True)
class Carried:
    """What a run carried."""

    invoices: int = 0
    """Finalised invoices that were new, counted in metrics."""

    carried: int = 0
    """Changes written into the current hour."""

    held: int = 0
    """Differences that wait for a subscription."""

    reasons: list[str] = field(default_factory=list)

    def add(self, more: "Carried") -> None:
        """Add what was carried since."""
        self.invoices += more.invoices
        self.carried += more.carried
        self.held += more.held
        self.reasons += more.reasons


Checking = Generator[Carried, None, bool]
"""Yields what is carried as it is, so that what fails afterwards takes none of it back; returns whether all is done."""


@dataclass(frozen=True, slots=True)
class Carrier:
    """Looks at what asks to be checked; no new customer is begun after ``deadline``.

    Nothing of an hour before ``since`` is billed, and so nothing of it is carried.
    """

    ledger: Ledger
    changes: Changes
    stripe: StripeReader
    since: Hour
    clock: Callable[[], datetime]
    deadline: datetime

    def run(self) -> Carried:
        """Note the invoices that were finalised since the last run, and carry what there is to carry."""
        carried = Carried()
        try:
            for more in chain(self._note_invoices(), self._check_marked()):
                carried.add(more)
        except (OutOfBudgetError, RowChangedError) as error:
            logger.warning("the next run goes on", reason=str(error))
        return carried

    # --- finalised invoices -----------------------------------------------------------------------------------------

    def _note_invoices(self) -> Iterator[Carried]:
        """Write down what new invoices bill, and ask for each to be checked."""
        now = int(self.clock().timestamp())
        seen = self.ledger.progress.invoices_seen()
        if seen is None or seen.at < now - _KEPT:
            seen = Seen(now - _KEPT)
        while seen.at + _OVERLAP < now:
            end = seen.until or min(seen.at + _WINDOW, now)
            for last, invoiced in self.stripe.finalised(seen.at, end, seen.after):
                if self.clock() >= self.deadline:
                    return
                yield Carried(invoices=self._note_all(invoiced))
                self.ledger.progress.save_invoices_seen(Seen(seen.at, end, last))
            seen = Seen(end - _OVERLAP)
            self.ledger.progress.save_invoices_seen(seen)

    def _note_all(self, invoiced: Iterable[InvoicedMetric]) -> int:
        """Note invoices' metrics, side by side, but those of one Stripe customer, who has one mark, in turn."""
        by_name: dict[str, list[InvoicedMetric]] = {}
        for metric in invoiced:
            by_name.setdefault(metric.stripe_customer, []).append(metric)
        return sum(side_by_side(lambda some: sum(map(self._note, some)), by_name.values()))

    def _note(self, invoiced: InvoicedMetric) -> bool:
        billed = Billed(
            invoiced.invoice,
            invoiced.stripe_customer,
            invoiced.metric,
            str(invoiced.first),
            str(invoiced.end),
            invoiced.quantity,
        )
        if not self.ledger.holders.owner(invoiced.stripe_customer):
            self.changes.keep(billed)
        # Whoever got the Stripe customer before it was kept is seen here, and whoever does so later finds it.
        name = self.ledger.holders.owner(invoiced.stripe_customer)
        return bool(name) and self._note_for(name, billed)

    def _note_for(self, name: str, billed: Billed) -> bool:
        try:
            self.changes.note(name, billed)
        except RowChangedError:
            known = {(noted.invoice, noted.metric) for noted in self.changes.billed(name)}
            if (billed.invoice, billed.metric) not in known:
                raise
            return False  # an earlier run has noted it
        return True

    def _adopt(self, name: str, stripe_customer: str) -> list[Billed]:
        """Return a customer's invoices, with those from before it got its Stripe customer."""
        invoices = self.changes.billed(name)
        known = {(one.invoice, one.metric) for one in invoices}
        kept = self.changes.kept(stripe_customer) if stripe_customer else []
        new = [one for one in kept if (one.invoice, one.metric) not in known]
        for one in new:
            self._note_for(name, one)
        return self.changes.billed(name) if new else invoices

    # --- what asks to be checked ------------------------------------------------------------------------------------

    def _check_marked(self) -> Iterator[Carried]:
        written_before = self.ledger.progress.written_before(self.clock())
        by_name: dict[str, list[Marked]] = {}
        for mark in self.changes.counters.marks.of_kind(Mark.CHECK):
            if mark.subject.kind is Kind.CUSTOMER:
                by_name.setdefault(mark.subject.id, []).append(mark)
        names = sorted(by_name)
        start = int(self.clock().timestamp()) // 3600 * 7919 % max(1, len(names))
        for name in names[start:] + names[:start]:  # another one first in each run, so that none starves
            if self.clock() >= self.deadline:
                return
            yield from self._check(name, by_name[name], written_before)

    def _check(self, name: str, marks: Iterable[Marked], written_before: Hour) -> Iterator[Carried]:
        """Carry what a customer's marked hours ask for, and clear the marks that ask for nothing more.

        An invoice is looked at when all its hours are written, which is ``written_before``.
        """
        profile = self.ledger.holders.customers([name]).get(name)
        stripe_customer = profile.stripe_customer if profile else ""
        looked_at: dict[Billed, bool] = {}
        invoices = self._adopt(name, stripe_customer)
        rows_done: dict[Marked, bool] = {}
        for mark in marks:
            rows_done[mark] = yield from self._is_row_done(mark, stripe_customer, invoices)
        for mark, done in rows_done.items():
            waits = not done
            for invoice in invoices:
                if invoice.covers(mark.hour):
                    if invoice not in looked_at:  # once for all its hours: each was written before its mark was read
                        looked_at[invoice] = yield from self._is_invoice_done(
                            name, invoice, stripe_customer, written_before
                        )
                    waits |= not looked_at[invoice]
            if not waits:
                self.changes.counters.marks.clear(mark)

    def _is_row_done(self, mark: Marked, stripe_customer: str, invoices: Sequence[Billed]) -> Checking:
        (row,) = self.ledger.rows.at(mark.hour, [mark.subject]).values()
        try:
            return (yield from self._check_row(row, stripe_customer, invoices))
        except RowChangedError:  # somebody else is at it
            return False

    def _is_invoice_done(self, name: str, invoice: Billed, stripe_customer: str, written_before: Hour) -> Checking:
        if Hour.parse(invoice.end) > written_before:
            return False
        try:
            return (yield from self._check_invoice(name, invoice, stripe_customer))
        except RowChangedError:
            return False

    def _check_row(self, row: UsageRow, stripe_customer: str, invoices: Sequence[Billed]) -> Checking:
        """Move what is less than nothing, or too old, out of a row; return False if it has to wait.

        What is too old and has an invoice is left to that: it may have carried the difference before.
        """
        if row.hour < self.since:
            return True
        done = True
        for metric, total in row.totals.items():
            if total.balance < 0:
                yield self._move(row, metric, total.balance, "less than nothing")
            elif total.beyond:
                yield self._move(row, metric, total.beyond, "more than Stripe takes of an hour")
            elif not row.hour.is_past_stripe(self.clock()):
                continue
            elif total.state is State.PENDING or self._may_show_later(total):
                done = False  # post_usage holds it first; and what it sent before has to be seen
            elif total.state is State.HELD and total.reason == TOO_OLD:
                invoiced = any(
                    one.metric == metric
                    and one.covers(row.hour)
                    and one.stripe_customer == _billed_to(total, stripe_customer)
                    for one in invoices
                )
                held = 0 if invoiced else self._at_stripe(metric, total.posted_to or stripe_customer, row.hour)
                if invoiced or total.quantity == held:
                    row = self.ledger.rows.save(settled_by_carry(row, metric))
                    continue
                if (yield from self._is_billed(stripe_customer, metric)):
                    yield self._move(row, metric, total.quantity - held, "too old for Stripe")
                done = False
        return done

    def _may_show_later(self, total: Total) -> bool:
        """Say whether a posting was sent so lately that Stripe may not show it yet."""
        sent_until = max(total.posted_at, total.posting.until if total.posting else 0)
        return sent_until > (self.clock() - SHOWN_AFTER).timestamp()

    def _at_stripe(self, metric: str, stripe_customer: str, hour: Hour) -> int:
        return self.stripe.totals(metric, stripe_customer, hour, hour.next(), "hour").get(hour, 0)

    def _move(self, row: UsageRow, metric: str, amount: int, why: str) -> Carried:
        """Take an amount out of a row and put it into the current hour."""
        now = self.clock()
        current = Hour.containing(now)
        if current <= row.hour:
            raise RowChangedError(f"{row.hour} is closed and not over: a clock is wrong")
        known_as = f"{row.hour}.v{row.version}"  # a row is written anew after each move: so each is made once
        at = int(now.timestamp())
        leaving = Change(known_as, metric, -amount, f"{why}: carried to {current}", WHO, at, carry=True)
        entering = Change(known_as, metric, amount, f"{why} in {row.hour}: carried", WHO, at, carry=True)
        self.changes.move(row.subject.id, (row.hour, leaving), (current, entering))
        logger.info("usage carried", customer=row.subject.id, metric=metric, hour=str(row.hour), amount=amount, why=why)
        return Carried(carried=1)

    def _check_invoice(self, name: str, billed: Billed, stripe_customer: str) -> Checking:
        """Carry what the ledger says beyond an invoice; return False if it has to wait."""
        first, end = max(Hour.parse(billed.first), self.since), Hour.parse(billed.end)
        totals = {
            row.hour: row.totals[billed.metric]
            for row in self.ledger.rows.of(customer(name), first, end)
            if billed.metric in row.totals
            and _billed_to(row.totals[billed.metric], stripe_customer) == billed.stripe_customer
        }
        if any(self._is_moved_first(hour, total) for hour, total in totals.items()):
            return False
        ledger = sum(total.quantity for total in totals.values())
        difference = ledger - billed.quantity - billed.carried
        if not difference:
            if billed.held:
                self.changes.save_billed(name, msgspec.structs.replace(billed, difference=0, held=""))
            return True
        if not (yield from self._is_billed(stripe_customer, billed.metric)):
            after = msgspec.structs.replace(billed, difference=difference, held=NOT_SUBSCRIBED)
            if after != billed:
                self.changes.save_billed(name, after)
            return False
        now = self.clock()
        change = Change(
            id=f"{billed.invoice}.v{billed.version}",
            metric=billed.metric,
            amount=difference,
            reason=f"{billed.invoice} billed {billed.quantity + billed.carried} of {ledger} "
            f"from {billed.first} to {billed.end}",
            who=WHO,
            at=int(now.timestamp()),
            carry=True,
        )
        after = msgspec.structs.replace(billed, carried=billed.carried + difference, difference=0, held="")
        self.changes.carry(name, after, Hour.containing(now), change)
        yield Carried(carried=1)
        logger.info(
            "invoice's difference carried",
            customer=name,
            metric=billed.metric,
            invoice=billed.invoice,
            amount=difference,
        )
        return False  # the account of the invoice is another one now: look again at the next run

    def _is_moved_first(self, hour: Hour, total: Total) -> bool:
        """Say whether a part of a total, which Stripe takes no more, is still to be moved out of its hour."""
        waits = total.state is State.PENDING or (total.state is State.HELD and total.reason == TOO_OLD)
        return waits and hour.is_past_stripe(self.clock())

    def _is_billed(self, stripe_customer: str, metric: str) -> Checking:
        if stripe_customer and self.stripe.is_billed(stripe_customer, metric):
            return True
        yield Carried(held=1, reasons=[NOT_SUBSCRIBED])
        return False


def _billed_to(total: Total, stripe_customer: str) -> str:
    """Return whose invoices bill a total: those of whom it was sent to, or will be."""
    return total.posted_to or (total.posting.stripe_customer if total.posting else "") or stripe_customer
