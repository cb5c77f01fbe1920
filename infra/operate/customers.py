"""Customers and their keys, as an operator keeps them.

Each verb first reads and checks everything, then writes: the customer, then its keys, then late marks for the closed
hours that the change concerns. Dying in between is harmless: the same command again changes what is left to change
and puts the marks again.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

import stripe as stripe_sdk

from infra.operate.deployment import OperatorError
from infra.operate.keys import masked_key
from metering.model.periods import HOUR, OLDEST_RECORD, Hour
from metering.model.subjects import ID_RULE, Subject, customer, is_id, is_name, key
from metering.model.usage_row import State
from metering.stores.aws import side_by_side
from metering.stores.counters import Counters
from metering.stores.holders import BEGINNING, Customer, Holder, Holding
from metering.stores.ledger import Ledger
from metering.stores.marks import new_mark
from metering.stores.table import RowChangedError
from metering.stripe.answers import RESOURCE_MISSING, UNKNOWN_CUSTOMER
from metering.stripe.client import NO_KEY, StripeForbiddenError, StripeNotConnectedError, StripeRejectedError
from metering.stripe.meters import StripeMeters

Progress = Callable[[Iterable[Any], int], Iterable[Any]]

_STRIPE_CUSTOMER: Final = r"cus_[A-Za-z0-9]{1,60}"
_LONGEST_NAME: Final = 200
_BY_OPTION: Final = "with --from HOUR"
_BY_ADDING: Final = "by 'metering customers add' with --from HOUR"


@dataclass(frozen=True, slots=True)
class Entry:
    """A customer as an operator gives it; ``since`` is when its keys change hands, None for keys that are new."""

    id: str
    name: str
    stripe_customer: str = ""
    keys: tuple[str, ...] = ()
    since: Hour | None = None

    def problems(self) -> Iterator[str]:
        """Say what is wrong with the entry by itself."""
        if not is_id(self.id):
            yield f"a customer's id is {ID_RULE}, got {self.id!r}"
        if not is_name(self.name, _LONGEST_NAME):
            yield f"a name is 1 to {_LONGEST_NAME} printable characters, no space around it, got {self.name[:60]!r}"
        if self.stripe_customer and not re.fullmatch(_STRIPE_CUSTOMER, self.stripe_customer):
            yield f"a Stripe customer is written cus_..., got {self.stripe_customer!r}"
        for name in self.keys:
            if not is_id(name):
                yield f"a key's id is {ID_RULE}, got {masked_key(name)!r}"


@dataclass(slots=True)
class Change:
    """What a verb changed, in sentences, and how many closed hours it asked to be closed again."""

    said: list[str] = field(default_factory=list)
    marks: int = 0

    def __add__(self, other: "Change") -> "Change":
        return Change(self.said + other.said, self.marks + other.marks)


@dataclass(frozen=True, slots=True)
class Customers:
    """The verbs, on a ledger and its counters."""

    ledger: Ledger
    counters: Counters

    def add(self, entry: Entry, *, now: datetime) -> Change:
        """Add a customer, or what is new of it; adding the same again changes nothing.

        Raises OperatorError, before anything is written, if a key or the Stripe customer belongs to another.
        """
        if malformed := [*entry.problems()]:
            raise OperatorError("; ".join(malformed))
        # Written on condition that it is as it was read here: what another operator does from now on is met below.
        holdings = self.ledger.holders.of_keys(dict.fromkeys(entry.keys))
        if conflicts := self._conflicts({1: entry}, holdings, now=now)[1]:
            raise OperatorError("; ".join(conflicts))
        change = self._save(entry)
        for holding in holdings.values():
            change += self._give(holding, Holder(entry.since or BEGINNING, entry.id), now=now)
        if entry.stripe_customer:
            change += Change(marks=self._mark_waiting(customer(entry.id), now=now))
        return change

    def exclude(self, name: str, *, reason: str, since: Hour | None, now: datetime) -> Change:
        """Say that nobody is billed for a key, and why.

        Raises OperatorError if it belongs to a customer, unless ``since`` says from when on it does not.
        """
        if not is_id(name):
            raise OperatorError(f"a key's id is {ID_RULE}, got {masked_key(name)!r}")
        if not is_name(reason, _LONGEST_NAME):
            raise OperatorError("say in --reason, in one line, why the key is not billed")
        holding = self.ledger.holders.of_keys([name])[name]
        holder = Holder(since or BEGINNING, "", reason)
        refusal = _refusal(holding, holder, now=now)
        if refusal:
            raise OperatorError(refusal)
        return self._give(holding, holder, now=now)

    def check(self, entries: Mapping[int, Entry], *, now: datetime) -> dict[int, list[str]]:
        """Say what is wrong with the entries, each by itself, among themselves and with what is there; by line."""
        good = {line: entry for line, entry in entries.items() if not any(entry.problems())}
        holdings = self.ledger.holders.of_keys({name for entry in good.values() for name in entry.keys})
        twice, conflicts = _given_twice(entries), self._conflicts(good, holdings, now=now, say=_BY_ADDING)
        return {
            line: [*entry.problems(), *twice.get(line, []), *conflicts.get(line, [])] for line, entry in entries.items()
        }

    def _conflicts(
        self, entries: Mapping[int, Entry], holdings: Mapping[str, Holding], *, now: datetime, say: str = _BY_OPTION
    ) -> dict[int, list[str]]:
        """Say which keys and Stripe customers of these entries belong to another customer."""
        named = sorted({entry.stripe_customer for entry in entries.values()} - {""})
        owners = dict(zip(named, side_by_side(self.ledger.holders.owner, named), strict=True))
        conflicts: dict[int, list[str]] = {}
        for line, entry in entries.items():
            holder = Holder(entry.since or BEGINNING, entry.id)
            refusals = [_refusal(holdings[name], holder, now=now, say=say) for name in dict.fromkeys(entry.keys)]
            owner = owners.get(entry.stripe_customer, "")
            taken = f"the Stripe customer {entry.stripe_customer} belongs to the customer {owner!r} already"
            conflicts[line] = [*filter(None, refusals), *([taken] if owner not in ("", entry.id) else [])]
        return conflicts

    def _save(self, entry: Entry) -> Change:
        before = self.ledger.holders.customers([entry.id]).get(entry.id)
        was = before.stripe_customer if before else ""
        after = Customer(entry.id, entry.name, entry.stripe_customer or was)
        if after == before:
            return Change()
        try:
            self.ledger.holders.save_customer(after, before=before)
        except RowChangedError as error:
            # boto3 may have met its own write after a read timeout: then what stands is what was wanted.
            if self.ledger.holders.customers([entry.id]).get(entry.id) != after:
                raise OperatorError(
                    f"the customer {entry.id!r} or its Stripe customer was changed by somebody else just now: "
                    "look at it with 'metering customers show' and try again"
                ) from error
        return Change([f"customer {entry.id} {'changed' if before else 'added'}"])

    def _give(self, holding: Holding, holder: Holder, *, now: datetime) -> Change:
        """Give a key to a holder, and mark the closed hours that this concerns."""
        said: list[str] = []
        last = holding.holders[-1] if holding.holders else None
        if last is None or (last.customer, bool(last.reason)) != (holder.customer, bool(holder.reason)):
            try:
                self.ledger.holders.hand_over(holding.with_holder(holder))
            except RowChangedError as error:
                now_held = self.ledger.holders.of_keys([holding.key])[holding.key]
                if now_held.holders[-1:] != (holder,):
                    raise OperatorError(
                        f"the key {holding.key} was changed by somebody else just now: try again"
                    ) from error
            to = f"belongs to {holder.customer}" if holder.customer else "is not billed"
            since = "" if holder.since == BEGINNING else f" from {holder.since} on"
            said.append(f"key {holding.key} {to}{since}")
            former = last
        else:
            holder, former = last, (holding.holders[-2] if len(holding.holders) > 1 else None)
        first, end = _changeable(holder.since, now), _latest(now)
        concerned = [key(holding.key), *([customer(former.customer)] if former and former.customer else [])]
        marks = 0
        for subject in concerned:
            for row in self.ledger.rows.of(subject, first, end):
                if row.totals:  # also one of zero: its values may have counted elsewhere for the former holder
                    self._mark(row.hour, {subject, key(holding.key)})
                    marks += 1
        return Change(said, marks)

    def _mark_waiting(self, subject: Subject, *, now: datetime) -> int:
        """Mark the hours in which a customer's usage was held or rejected: it is tried again; return how many."""
        rows = self.ledger.rows.of(subject, _changeable(BEGINNING, now), _latest(now))
        waiting = [row.hour for row in rows if row.in_state(State.HELD) or row.in_state(State.REJECTED)]
        for hour in waiting:
            self._mark(hour, {subject})
        return len(waiting)

    def _mark(self, hour: Hour, subjects: Iterable[Subject]) -> None:
        """Ask for an hour to be closed again for all of these."""
        for subject in subjects:
            self.counters.marks.mark_late(hour, subject, new_mark())


def at_stripe(stripe: StripeMeters, name: str) -> stripe_sdk.Customer:
    """Return a customer as Stripe has it; raise OperatorError where usage that is posted to it would bill nobody.

    Raises StripeRejectedError where Stripe does not say whether it knows the customer.
    """
    try:
        found = stripe.call(lambda client: client.v1.customers.retrieve(name))
    except StripeRejectedError as error:
        if error.code == RESOURCE_MISSING or error.means(UNKNOWN_CUSTOMER):
            raise _unknown(name, error) from error
        raise
    if getattr(found, "deleted", False):
        raise OperatorError(f"the Stripe customer {name} was deleted: give another")
    if found.livemode == stripe.is_sandbox():
        mode, other = ("live mode", "a sandbox") if found.livemode else ("a sandbox", "live mode")
        raise OperatorError(f"the Stripe customer {name} is of {mode}, and the deployment's key of {other}")
    return found


def _unknown(name: str, error: StripeRejectedError) -> OperatorError:
    """Return what to say of a customer that Stripe does not know; its words tell if it is one of the other mode."""
    return OperatorError(f"Stripe does not know the customer {name}: {error}")


@dataclass(slots=True)
class LookedUp:
    """Of which entries Stripe's customer cannot be billed, by line; and of which that could not be learned."""

    unusable: dict[int, list[str]] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)


def look_up(
    stripe: StripeMeters, known: Ledger, entries: Mapping[int, Entry], *, now: datetime, progress: Progress
) -> LookedUp:
    """Ask Stripe for the customers that entries name and that are new to the ledger.

    Raises StripeNotConnectedError as long as there is no key to ask with.
    """
    named = {line: entry for line, entry in entries.items() if entry.stripe_customer and not [*entry.problems()]}
    before = known.holders.customers({entry.id for entry in named.values()})
    found = LookedUp()
    new = [
        (line, entry)
        for line, entry in named.items()
        if entry.id not in before or before[entry.id].stripe_customer != entry.stripe_customer
    ]
    for line, entry in progress(new, len(new)):
        try:
            _ask_for(stripe, entry.stripe_customer, Hour.containing(now - HOUR))
        except OperatorError as error:
            found.unusable[line] = [str(error)]
        except StripeRejectedError as error:
            found.unchecked.append(f"whether Stripe knows {entry.stripe_customer} could not be checked: {error}")
    return found


def _ask_for(stripe: StripeMeters, name: str, hour: Hour) -> None:
    """Ask whether a Stripe customer can be billed; by what its meters hold, where the key may not read customers."""
    try:
        at_stripe(stripe, name)
    except StripeForbiddenError:
        ours = (meter for name, meter in stripe.meters().items() if name.startswith(stripe.event_name("")))
        try:
            for meter in islice(ours, 1):
                stripe.totals(meter, name, hour, hour.next())
        except StripeRejectedError as refused:
            if refused.means(UNKNOWN_CUSTOMER):
                raise _unknown(name, refused) from refused
            raise


def is_connected(stripe: StripeMeters) -> bool:
    """Say whether the deployment has a Stripe key; raise StripeNotConnectedError if that cannot be read."""
    try:
        stripe.key()
    except StripeNotConnectedError as error:
        if str(error) != NO_KEY:
            raise
        return False
    return True


def renamings(known: Ledger, entries: Mapping[int, Entry]) -> dict[int, str]:
    """Say which entries give a known customer another name, by line: it may be a slip, of the name or of the id."""
    before = known.holders.customers({entry.id for entry in entries.values() if is_id(entry.id)})
    return {
        line: f"the customer {entry.id!r} is called {before[entry.id].name!r}, not {entry.name!r}: "
        "--rename changes that"
        for line, entry in entries.items()
        if entry.id in before and before[entry.id].name != entry.name and is_name(entry.name, _LONGEST_NAME)
    }


def _given_twice(entries: Mapping[int, Entry]) -> dict[int, list[str]]:
    """Say which lines give a customer, key or Stripe customer that an earlier line, or the same one, has given."""
    first: dict[tuple[str, str], int] = {}
    repeated: dict[int, list[str]] = {}
    for line, entry in entries.items():
        given = [("the customer", entry.id), *(("the key", name) for name in entry.keys)]
        if entry.stripe_customer:
            given.append(("the Stripe customer", entry.stripe_customer))
        for what, name in given:
            if (what, name) in first:
                repeated.setdefault(line, []).append(f"{what} {name!r} is given on line {first[what, name]} already")
            first.setdefault((what, name), line)
    return repeated


def _refusal(holding: Holding, holder: Holder, *, now: datetime, say: str = _BY_OPTION) -> str:
    """Say why a key cannot be given to a holder, or return an empty string."""
    last = holding.holders[-1] if holding.holders else None
    if holder.since != BEGINNING and holder.since.end + OLDEST_RECORD <= now:
        return f"--from must lie within the last 60 days, got {holder.since}"
    same = last and ((last.customer and last.customer == holder.customer) or (last.reason and holder.reason))
    if last is None or (same and holder.since in (BEGINNING, last.since)):
        return ""
    whose = f"belongs to the customer {last.customer!r}" if last.customer else f"is not billed ({last.reason})"
    if same:
        since = "the beginning" if last.since == BEGINNING else str(last.since)
        return f"the key {holding.key} {whose} since {since} already: --from cannot change that, got {holder.since}"
    if holder.since == BEGINNING:
        return f"the key {holding.key} {whose}: say {say} when it changes hands"
    later = f"the key {holding.key} {whose} since {last.since}: --from must be a later hour, got {holder.since}"
    return "" if holder.since > last.since else later


def _changeable(since: Hour, now: datetime) -> Hour:
    """Return the first hour from ``since`` on that closing again may still change."""
    return max(since, Hour.containing(now - OLDEST_RECORD))


def _latest(now: datetime) -> Hour:
    """Return an hour after every row, also where this machine's clock is behind."""
    return Hour.containing(now + timedelta(days=2))
