"""Unbilled: looks, customer by customer, for usage that Stripe took and that nobody pays, and counts it (I9).

Nothing of a row is changed: a total that nobody pays must still converge (I4), and what nobody pays today is billed
tomorrow if somebody subscribes the customer from before it. What is kept is what Stripe showed of the customer's
subscriptions, from which it follows for any hour, and how many hours a round found.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

from aws_lambda_powertools import Logger

from metering.billing.keeping import Keeper
from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.unbilled import OPEN_PERIOD, WhyUnbilled, why_unbilled
from metering.model.usage_row import State, Total, UsageRow
from metering.stores.agreements import Looks, Shown
from metering.stores.aws import side_by_side
from metering.stores.changes import Billed, Changes
from metering.stores.holders import Customer
from metering.stores.ledger import Ledger
from metering.stripe.agreed import agreed
from metering.stripe.client import StripeRejectedError, StripeUnavailableError
from metering.stripe.invoices import StripeReader
from metering.stripe.reading import OutOfBudgetError

logger = Logger(child=True)

_CUSTOMERS_AT_ONCE: Final = 16
_ROUND_S: Final = 23 * 3600
"""A round begins so long after the one before: a customer costs a read at Stripe a day."""


@dataclass(frozen=True, slots=True, order=True)
class Unbilled:
    """What a customer used of a metric in an hour that Stripe has and nobody pays for."""

    hour: Hour
    metric: str
    quantity: int
    why: WhyUnbilled


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a customer showed; ``shown`` is what Stripe says, if it had to be asked.

    Of what nobody pays, what a person has accepted is left out.
    """

    rows: Sequence[UsageRow]
    shown: Shown | None = None
    unbilled: Sequence[Unbilled] = ()


@dataclass(frozen=True, slots=True)
class Looker:
    """Looks at customers; nothing of an hour before ``since`` is billed, and no group is begun after ``deadline``.

    A ``keeper``, where there are limits, writes down what it sees of subscriptions; its clock shows when the run began.
    """

    ledger: Ledger
    changes: Changes
    stripe: StripeReader
    since: Hour
    clock: Callable[[], datetime]
    deadline: datetime
    keeper: Keeper | None = None

    def run(self) -> Looks:
        """Go on with the round through all customers, as far as time and budget allow; return how far it is.

        A customer at whom Stripe fails is stepped over, one a run: the next run begins with the second. So none keeps
        others waiting (I6), and while Stripe is down no more are missed.
        """
        looks = self.ledger.agreements.looks()
        now = int(self.clock().timestamp())
        if not looks.name:
            if looks.begun_at + _ROUND_S > now:
                return looks
            looks = Looks(begun_at=now, before=looks.before)
        try:
            self.stripe.by_metric()  # once, before many ask for it at once
        except OutOfBudgetError:
            return looks
        names = self.ledger.holders.customer_ids(looks.name)
        missed: list[str] = []
        while True:
            # No more at once than there are reads left, or the first of them might come away empty-handed each time.
            at_once = min(_CUSTOMERS_AT_ONCE, self.stripe.reads.left)
            group = [*islice(names, max(1, at_once))]
            if not group:
                break
            if not at_once or self.clock() >= self.deadline:
                return looks
            for name, unpaid in self._look_at(group, missed):
                looks = looks.with_customer(name, unpaid)
            self.ledger.agreements.save_looks(looks)
            if looks.name != group[-1]:
                return looks
        looks = Looks(begun_at=looks.begun_at, before=looks.found)
        self.ledger.agreements.save_looks(looks)
        return looks

    def _look_at(self, group: Sequence[str], missed: list[str]) -> Iterator[tuple[str, Mapping[WhyUnbilled, int]]]:
        """Yield for how many hours nobody pays of each customer of a group, as far as the run gets."""
        owners = self.ledger.holders.customers(group)
        hours = side_by_side(self._hours, [owners.get(name) for name in group])
        for name, unpaid in zip(group, hours, strict=True):
            if not isinstance(unpaid, Exception):
                yield name, unpaid
            elif isinstance(unpaid, StripeUnavailableError) and not missed:
                missed.append(name)
                yield name, {}
            else:
                return

    def _hours(self, owner: Customer | None) -> Mapping[WhyUnbilled, int] | OutOfBudgetError | StripeUnavailableError:
        """Return for how many hours nobody pays, by reason, and write down what Stripe said; or why that is not known.

        A customer's odd answer is that customer's alone (I6).
        """
        if owner is None:
            return {}
        try:
            look = self._look_and_keep(owner, self.keeper) if self.keeper else self.look(owner)
        except OutOfBudgetError as error:
            logger.info("the next run looks on", reason=str(error))
            return error
        except StripeRejectedError as error:
            logger.warning("a customer could not be looked at", customer=owner.id, reason=str(error))
            return {}
        except StripeUnavailableError as error:
            logger.warning("a customer could not be looked at", customer=owner.id, reason=str(error))
            return error
        if look.shown:
            self.ledger.agreements.save(owner.id, look.shown)
        return Counter(why for _, why in {(one.hour, one.why) for one in look.unbilled})

    def _look_and_keep(self, owner: Customer, keeper: Keeper) -> Look:
        """Look at a customer, and write down what it is subscribed to: at no further read but of a week's idle one."""
        before = keeper.items.subscribed(owner.id)
        look = self.look(owner)
        is_seen = look.shown is not None and owner.stripe_customer in look.shown.agreed
        if owner.stripe_customer and (is_seen or keeper.is_wanted(owner, before)):
            keeper.keep_shown(owner, before, self.stripe.subscriptions(owner.stripe_customer))
        return look

    def look(self, owner: Customer) -> Look:
        """Look at a customer's hours that are billed and of which Stripe would have taken usage; change nothing."""
        now = self.clock()
        first = max(self.since, Hour.containing(now - OPEN_PERIOD))
        rows = [*self.ledger.rows.of(customer(owner.id), first, Hour.containing(now))]
        taken = [total for row in rows for total in row.totals.values() if _is_taken(total)]
        if not taken:
            return Look(rows)
        asked_for = sorted({total.posted_to for total in taken})
        shown = Shown(int(now.timestamp()), {name: agreed(self.stripe, name) for name in asked_for})
        invoices = Invoices(self.changes, owner.id)
        accepted = self.ledger.agreements.accepted(owner.id)
        before = Hour.parse(accepted.before) if accepted else first
        found = [*unbilled(rows, shown, invoices, now), *_too_late(shown, invoices, now)]
        return Look(rows, shown, [one for one in found if one.hour >= before])


@dataclass(slots=True)
class Invoices:
    """What a customer's final invoices bill, but for void ones; read once, when it is asked for."""

    changes: Changes
    name: str
    _billed: list[Billed] | None = None

    def billed(self) -> list[Billed]:
        """Return it by line."""
        if self._billed is None:
            lines = self.changes.billed(self.name)
            void = {noted.invoice for noted in self.changes.noted(self.name) if noted.void} if lines else set()
            self._billed = [line for line in lines if line.invoice not in void]
        return self._billed

    def have(self, metric: str, hour: Hour, total: Total) -> bool:
        """Say whether one of them bills an hour's total."""
        return any(one.is_of(total.posted_to, metric) and one.covers(hour, total.dated) for one in self.billed())


def unbilled(rows: Iterable[UsageRow], shown: Shown, invoices: Invoices, now: datetime) -> Iterator[Unbilled]:
    """Yield what nobody pays of a customer's rows: what no subscription bills and no invoice has.

    What a trial uses is on an invoice that asks for nothing.
    """
    for row in rows:
        for metric, total in row.totals.items():
            if not _is_taken(total):
                continue
            why = why_unbilled(metric, row.hour, shown.agreed.get(total.posted_to, ()), now, dated=total.dated)
            if why and (why is WhyUnbilled.TRIAL or not invoices.have(metric, row.hour, total)):
                yield Unbilled(row.hour, metric, total.quantity, why)


def _too_late(shown: Shown, invoices: Invoices, now: datetime) -> Iterator[Unbilled]:
    """Yield what came after its invoice, and is not carried since no subscription would bill it in the current hour."""
    current = Hour.containing(now)
    for one in invoices.billed():
        if one.held and one.difference > 0:
            why = why_unbilled(one.metric, current, shown.agreed.get(one.stripe_customer, ()), now)
            if why is not None:
                yield Unbilled(Hour(Hour.parse(one.end).number - 1), one.metric, one.difference, why)


def _is_taken(total: Total) -> bool:
    return total.state is State.POSTED and total.quantity > 0 and bool(total.posted_to)
