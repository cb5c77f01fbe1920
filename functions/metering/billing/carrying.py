"""Carrying: what can no longer be billed where it belongs is billed in the current hour, exactly once, both ways.

Four things ask for it, each of a closed hour that was written again (a ``CHECK`` mark):

- **A finalised invoice** never changes. So for each of its lines the quantity that it bills of a metric is kept, as
  Stripe says it, and compared with the ledger's sum of its hours whenever one of them is written again
  (:mod:`metering.billing.accounts`). The difference, less what was carried before, is carried; a void invoice bills
  nothing, so that this is all of it. What could not be a late record's doing is held for a person.
- **An hour too old for Stripe** has a total that Stripe does not take any more: what Stripe lacks is carried.
- **Less than nothing** in an hour, after an adjustment or a carry, is posted as zero, and the rest is carried on.
- **More than Stripe takes of an hour** has 16 digits: 15 nines are posted, and the rest is carried on.

What is carried is written together with what says that it was (:mod:`metering.stores.changes`), on condition that
nobody else has done so, and with the late mark of the hour that it enters: so a crash, or a second run, carries nothing
twice.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Final

import msgspec
from aws_lambda_powertools import Logger

from metering.billing.accounts import DOUBTFUL, OVERLAPPING, Account, accounts_of
from metering.billing.carried import Carried
from metering.billing.noting import Noter
from metering.model.periods import Hour
from metering.model.subjects import Kind, customer
from metering.model.usage_row import TOO_OLD, Change, State, Total, UsageRow, never_billed, settled_by_carry
from metering.stores.changes import Billed, Changes, Noted
from metering.stores.ledger import Ledger
from metering.stores.marks import Mark, Marked
from metering.stores.table import RowChangedError
from metering.stripe.client import StripeRejectedError, StripeUnavailableError, answer_of
from metering.stripe.invoices import StripeReader
from metering.stripe.meters import SHOWN_AFTER
from metering.stripe.reading import OutOfBudgetError

logger = Logger(child=True)

WHO: Final = "reconcile_usage"
NOT_SUBSCRIBED: Final = "no subscription bills this metric now"


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
        return self._as_far_as_it_gets(chain(self._note(), self._check_marked()))

    def note(self) -> Carried:
        """Note the invoices that were finalised since the last run, and carry nothing, as while posting pauses."""
        return self._as_far_as_it_gets(self._note())

    def _note(self) -> Iterator[Carried]:
        return (Carried(invoices=invoices) for invoices in self._noter.note())

    def _as_far_as_it_gets(self, parts: Iterable[Carried]) -> Carried:
        """Do all of it; whatever Stripe fails at, what was done until then is returned."""
        carried = Carried()
        try:
            for more in parts:
                carried.add(more)
        except (OutOfBudgetError, RowChangedError, StripeRejectedError, StripeUnavailableError) as error:
            logger.warning("the next run goes on", reason=str(error))
            carried.cut_short = str(error)
        return carried

    @property
    def _noter(self) -> Noter:
        return Noter(self.ledger, self.changes, self.stripe, self.since, self.clock, self.deadline)

    # --- what asks to be checked ------------------------------------------------------------------------------------

    def _check_marked(self) -> Iterator[Carried]:
        written_before = self.ledger.progress.written_before(self.clock())
        by_name: dict[str, list[Marked]] = {}
        for mark in self.changes.counters.marks.of_kind(Mark.CHECK):
            if mark.subject.kind is Kind.CUSTOMER:
                by_name.setdefault(mark.subject.id, []).append(mark)
        names, now = sorted(by_name), Hour.containing(self.clock())
        start = now.number * 7919 % max(1, len(names))
        names = names[start:] + names[:start]  # another one first in each run, so that none starves
        if now.number % 2:  # and in every other run new invoices before what waits for a subscription, or a person
            names.sort(key=lambda name: max(mark.hour for mark in by_name[name]).number < now.number - 24)
        for name in names:
            if self.clock() >= self.deadline:
                return
            try:
                yield from self._check(name, by_name[name], written_before)
            except StripeRejectedError as error:  # its marks stay
                logger.warning(
                    "what Stripe answers of a customer lets nothing be carried", customer=name, answer=answer_of(error)
                )
                yield Carried(odd=1)

    def _check(self, name: str, marks: Iterable[Marked], written_before: Hour) -> Iterator[Carried]:
        """Carry what a customer's marked hours ask for, and clear the marks that ask for nothing more.

        An invoice is looked at when all its hours are written, which is ``written_before``.
        """
        profile = self.ledger.holders.customers([name]).get(name)
        stripe_customer = profile.stripe_customer if profile else ""
        noted = self._noter.of(name, stripe_customer)
        unread = yield from self._read(name, noted)
        lines = [self._as_billed(line, noted) for line in self._noter.lines_of(name, stripe_customer)]
        accounts = accounts_of(lines, noted)
        done: dict[int, bool] = {}
        rows_done: dict[Marked, bool] = {}
        for mark in marks:
            rows_done[mark] = yield from self._is_row_done(mark, stripe_customer, lines)
        for mark, row_done in rows_done.items():
            waits = not row_done or any(one.hour == mark.hour for one in unread)
            for number, account in enumerate(accounts):
                if account.is_asked_for_by(mark.hour):
                    if number not in done:  # once for all its hours: each was written before its mark was read
                        others = [other for other in accounts if other.overlaps(account)]
                        look = Look(name, account, others, stripe_customer)
                        done[number] = yield from self._is_account_done(look, written_before)
                    waits |= not done[number]
            if not waits:
                self.changes.counters.marks.clear(mark)

    def _read(self, name: str, noted: Iterable[Noted]) -> Generator[Carried, None, list[Noted]]:
        """Read the lines of invoices that are new; return those that cannot be read."""
        unread: list[Noted] = []
        known: list[Billed] | None = None
        for one in noted:
            if not one.read:
                known = self.changes.billed(name) if known is None else known
                try:
                    why = self._noter.read(name, one, known)
                except RowChangedError:  # somebody else reads it, too
                    unread.append(one)
                    continue
                if why:
                    unread.append(one)
                    yield Carried(held=1, doubtful=1, reasons=[why])
        return unread

    def _as_billed(self, line: Billed, noted: Iterable[Noted]) -> Billed:
        """Return a line without its last hour, if that ended after it and another subscription bills it now.

        So it is where somebody is subscribed anew in the very hour in which the last subscription ended, from the
        beginning of the hour on: what was used in it comes to Stripe after the one invoice, and is on the other.
        """
        if not line.within:
            return line
        last = Hour(Hour.parse(line.end).number - 1)
        final = min((one.at for one in noted if one.invoice == line.invoice), default=0)
        if not self.stripe.is_billed_anew(line.stripe_customer, line.metric, last, final):
            return line
        return msgspec.structs.replace(line, end=str(last), within=False)

    def _is_row_done(self, mark: Marked, stripe_customer: str, invoices: Sequence[Billed]) -> Checking:
        (row,) = self.ledger.rows.at(mark.hour, [mark.subject]).values()
        try:
            return (yield from self._check_row(row, stripe_customer, invoices))
        except RowChangedError:  # somebody else is at it
            return False

    def _is_account_done(self, look: "Look", written_before: Hour) -> Checking:
        if look.account.end > written_before:
            return False
        try:
            return (yield from self._check_account(look))
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
            if amount := min(0, total.balance) or total.beyond:
                why = "less than nothing" if amount < 0 else "more than Stripe takes of an hour"
                yield self._move(row, metric, amount, why)
            elif not row.hour.is_past_stripe(self.clock()):
                continue
            elif total.state is State.PENDING or self._may_show_later(total):
                done = False  # post_usage holds it first; and what it sent before has to be seen
            elif total.state is State.HELD and total.reason == TOO_OLD:
                whom = _billed_to(total, stripe_customer)
                invoiced = any(one.is_of(whom, metric) and one.covers(row.hour) for one in invoices)
                held = 0 if invoiced else self._at_stripe(metric, total.posted_to or stripe_customer, row.hour)
                if invoiced or total.quantity == held:
                    row = self.ledger.rows.save(settled_by_carry(row, metric))
                elif self._is_from_before(row.hour, stripe_customer, metric):
                    row = self.ledger.rows.save(never_billed(row, metric))
                else:
                    done = False  # to be looked at once more, also when it was moved
                    if (yield from self._is_billed(stripe_customer, metric)):
                        yield self._move(row, metric, total.quantity - held, "too old for Stripe")
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

    def _check_account(self, look: "Look") -> Checking:
        """Carry what the ledger says beyond what is billed; return False if it has to wait."""
        account, line = look.account, look.account.principal
        if max(account.first, self.since) >= account.end:
            return True
        near = {
            row.hour: row.totals[line.metric]
            for row in self.ledger.rows.of(customer(look.name), max(line.earliest, self.since), account.end)
            if line.metric in row.totals
            and _billed_to(row.totals[line.metric], look.stripe_customer) == line.stripe_customer
        }
        shown = first, end = self._dated_in(account, near)
        first = line.earliest if account.follows_older else first
        totals = {hour: total for hour, total in near.items() if first <= hour < end}
        if any(self._is_moved_first(hour, total) for hour, total in totals.items()):
            return False
        ledger = sum(total.quantity for total in totals.values())
        difference = ledger - account.quantity - account.settled
        elsewhere = sum(other.settled for other in look.others)
        if difference in (0, elsewhere):  # which is of the hours that both have
            counted = account.counted or (not difference and ledger - account.settled == account.stated)
            self._save(look.name, line, msgspec.structs.replace(line, difference=0, held="", counted=counted))
            return True
        if not (yield from self._is_billed(look.stripe_customer, line.metric)):
            self._hold(look.name, line, difference, NOT_SUBSCRIBED)
            return False
        if why := OVERLAPPING if elsewhere else self._doubt(look, shown, totals, difference):
            self._hold(look.name, line, difference, why)
            yield Carried(held=1, doubtful=1, reasons=[why])
            return False
        yield self._carry(look, f"{first} to {end}", ledger, difference)
        return False  # the account of the invoice is another one now: look again at the next run

    def _dated_in(self, account: Account, totals: Mapping[Hour, Total]) -> tuple[Hour, Hour]:
        """Return the hours whose usage Stripe has in an account's time; the last one is exclusive.

        An hour's usage can be dated anywhere in its last ten minutes, and an account begin or end there: then the total
        says where it is, if it was posted. An hour that ends up in nobody's time stays with the account that it is of.
        """
        line, first, end = account.principal, account.first, account.end
        before, last = line.earliest, Hour(end.number - 1)
        dated = {hour: totals[hour].dated for hour in (before, last) if hour in totals}
        if before < first and dated.get(before, 0) >= line.begun:
            first = before
        at = dated.get(last, 0)
        if at >= line.ended > 0 and self.stripe.is_billed_at(line.stripe_customer, line.metric, at):
            end = last
        return first, end

    def _doubt(self, look: "Look", shown: tuple[Hour, Hour], totals: Mapping[Hour, Total], difference: int) -> str:
        """Say why no late record can be the cause of a difference, or nothing.

        None is needed where the line states what its meter shows of its hours. Otherwise one of them must have been
        written since the invoice became final, and the line must state what all others hold, at least, and at most as
        much more as the changes of such hours have taken away: what Stripe states for a price by packages, a tier's
        flat amount or a trial could not be confirmed.
        """
        account, line = look.account, look.account.principal
        if account.counted:
            return ""
        if line.held == DOUBTFUL:
            return DOUBTFUL  # until a person decides: what comes later must not explain what came before
        first, end = shown
        if first < end and self.stripe.total(line.metric, line.stripe_customer, first, end) == account.stated:
            return ""
        shown_until = account.became_final - SHOWN_AFTER.total_seconds()
        those = [total for hour, total in totals.items() if hour >= first]
        since = [one for one in those if not (one.is_at_stripe and one.posted_at < shown_until)]
        before = sum(one.quantity for one in those) - sum(one.quantity for one in since)
        taken_away = sum(max(0, -(one.adjusted + one.carried)) for one in since)
        explained = bool(since) and before <= account.stated and -difference <= taken_away
        return "" if explained and not account.packaged else DOUBTFUL

    def _hold(self, name: str, line: Billed, difference: int, why: str) -> None:
        if line.held == DOUBTFUL:
            why = DOUBTFUL
        self._save(name, line, msgspec.structs.replace(line, difference=difference, held=why))

    def _save(self, name: str, line: Billed, after: Billed) -> None:
        if after != line:
            self.changes.save_billed(name, after)

    def _carry(self, look: "Look", hours: str, ledger: int, difference: int) -> Carried:
        account, line = look.account, look.account.principal
        now = self.clock()
        of_item = f".{line.item}.{line.first}" if line.item else ""
        change = Change(
            id=f"{line.invoice}{of_item}.v{line.version}",
            metric=line.metric,
            amount=difference,
            reason=f"{line.invoice} billed {account.quantity + account.settled} of {ledger} from {hours}",
            who=WHO,
            at=int(now.timestamp()),
            carry=True,
        )
        after = msgspec.structs.replace(line, carried=line.carried + difference, difference=0, held="")
        # With those that have hours in common, so that of two runs one carries.
        self.changes.carry(
            look.name, [after, *(other.principal for other in look.others)], Hour.containing(now), change
        )
        logger.info(
            "invoice's difference carried",
            customer=look.name,
            metric=line.metric,
            invoice=line.invoice,
            amount=difference,
        )
        return Carried(carried=1)

    def _is_moved_first(self, hour: Hour, total: Total) -> bool:
        """Say whether a part of a total, which Stripe takes no more, is still to be moved out of its hour."""
        waits = total.state is State.PENDING or (total.state is State.HELD and total.reason == TOO_OLD)
        return waits and hour.is_past_stripe(self.clock())

    def _is_from_before(self, hour: Hour, stripe_customer: str, metric: str) -> bool:
        """Say whether an hour lies before all that a customer was ever subscribed to: then nobody is billed for it."""
        since = self.stripe.billed_from(stripe_customer, metric) if stripe_customer else None
        return since is not None and hour < since

    def _is_billed(self, stripe_customer: str, metric: str) -> Checking:
        if stripe_customer and self.stripe.is_billed(stripe_customer, metric):
            return True
        yield Carried(held=1, reasons=[NOT_SUBSCRIBED])
        return False


@dataclass(frozen=True, slots=True)
class Look:
    """A look at one account of a customer; the ``others`` have some of its hours, too."""

    name: str
    account: Account
    others: Sequence[Account]
    stripe_customer: str


def _billed_to(total: Total, stripe_customer: str) -> str:
    """Return whose invoices bill a total: those of whom it was sent to, or will be."""
    return total.posted_to or (total.posting.stripe_customer if total.posting else "") or stripe_customer
