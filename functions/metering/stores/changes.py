"""What stands beside the counters in the Ledger table: adjustments, carries, and what invoices have billed.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| change | ``customer#<id>`` | ``change#<hour>#<metric>#<id>`` | fields of :class:`~metering.model.usage_row.Change` |
| final invoice | ``customer#<id>`` | ``final#<id>`` | the fields of :class:`Noted`, ``version`` |
| one of nobody's | ``stripe#<cus_...>`` | ``final#<id>`` | the same, for whoever gets the Stripe customer |
| its line | ``customer#<id>`` | ``invoice#<id>#<metric>#<item>#<hour>`` | the fields of :class:`Billed`, ``version`` |

Until invoices had items of their own, a metric of one was at ``invoice#<id>#<metric>``, its lines as one; and those of
nobody's were such ones, too. They are read as ever, and of such an invoice nothing is written a second time.

A change is written together with the late mark of its hour, so that no closer can have missed it without a mark being
there; what is carried leaves one place and enters another in one transaction. So a crash loses and doubles nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from metering.model.periods import Hour
from metering.model.subjects import Subject, customer
from metering.model.usage_row import Change
from metering.stores.aws import Item, from_item, to_item
from metering.stores.counters import Counters
from metering.stores.marks import Mark, new_mark
from metering.stores.table import RowChangedError, Table, item_key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient


class Noted(msgspec.Struct, frozen=True, omit_defaults=True):
    """An invoice of a Stripe customer that became final, or ``void``, ``at`` a moment in seconds since 1970.

    Once its lines are ``read``, each is a :class:`Billed`; ``held`` says why they could not be. It counts as read, too,
    once a person has ``left`` it for a reason: who did so (an ARN), and when, is beside it. ``version`` as there.
    """

    invoice: str
    stripe_customer: str
    at: int
    void: bool = False
    read: bool = False
    held: str = ""
    left: str = ""
    left_by: str = ""
    left_at: int = 0
    version: int = 0

    @property
    def hour(self) -> Hour:
        """The hour whose mark asks for it to be looked at."""
        return Hour(self.at // 3600)


class Billed(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a finalised invoice bills a Stripe customer of a metric, from the hour ``first`` up to ``end``, exclusive.

    It does so by one ``item`` of a subscription; of older ones, whose item is empty, by all. ``carried`` is what has
    been billed elsewhere since, because the ledger came to differ, and ``left`` what a person has decided that nobody
    is billed; ``held`` says why a ``difference`` is not carried yet. ``counted`` says that the quantity has been seen
    to be what was used, or a person has said so; ``packaged``, that the price divides it; ``within``, that the line
    ended within its last hour. The line's own time is from ``begun`` up to ``ended``, in seconds since 1970; both are 0
    where older code wrote it. ``version`` counts the writes; 0 means that it has never been written.
    """

    invoice: str
    stripe_customer: str
    metric: str
    first: str
    end: str
    quantity: int
    carried: int = 0
    difference: int = 0
    held: str = ""
    item: str = ""
    left: int = 0
    counted: bool = False
    packaged: bool = False
    within: bool = False
    begun: int = 0
    ended: int = 0
    version: int = 0

    @property
    def earliest(self) -> Hour:
        """The first hour whose usage can be dated in the line's time: the one before ``first`` if it begins there."""
        return Hour(self.begun // 3600) if self.begun else Hour.parse(self.first)

    @property
    def known_as(self) -> str:
        """What tells it from the others of its invoice."""
        return f"{self.invoice}#{self.metric}" + (f"#{self.item}#{self.first}" if self.item else "")

    def covers(self, hour: Hour, dated: int = 0) -> bool:
        """Say whether the invoice bills this hour, or its usage that is ``dated`` at a moment, as :attr:`begun` is."""
        first = self.earliest if dated >= self.begun else Hour.parse(self.first)
        return first <= hour < Hour.parse(self.end)

    def is_of(self, stripe_customer: str, metric: str) -> bool:
        """Say whether it bills this metric of this Stripe customer."""
        return (self.stripe_customer, self.metric) == (stripe_customer, metric)


@dataclass(frozen=True, slots=True)
class Changes:
    """The verbs. ``counters`` keep the late marks; errors of DynamoDB are raised as they are."""

    client: "DynamoDBClient"
    table: str
    counters: Counters

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    def of(self, name: str, hour: Hour) -> list[Change]:
        """Return the changes of a customer's hour."""
        found = self._items.query(str(customer(name)), beginning=f"change#{hour}#")
        return [change for _, change in map(_read_change, found)]

    def between(self, name: str, first: Hour, end: Hour) -> Iterator[tuple[Hour, Change]]:
        """Yield a customer's changes from ``first`` up to ``end``, exclusive, in order of time."""
        if first < end:
            for item in self._items.query(str(customer(name)), between=(f"change#{first}", f"change#{end}")):
                yield _read_change(item)

    def add(self, name: str, hour: Hour, change: Change, *together: dict[str, Any]) -> None:
        """Write a change, and ask for its hour to be closed again; raise RowChangedError if it is there already.

        What is to be written ``together`` with it are a transaction's writes.
        """
        self._items.transact(*self.adding(customer(name), hour, change), *together)

    def move(self, name: str, leaving: tuple[Hour, Change], entering: tuple[Hour, Change]) -> None:
        """Carry an amount from one hour into another; raise RowChangedError if one of the two is there already."""
        self._items.transact(*self.adding(customer(name), *leaving), *self.adding(customer(name), *entering))

    def carry(self, name: str, after: Sequence[Billed], hour: Hour, change: Change) -> None:
        """Carry what an invoice has not billed into an hour.

        Raises RowChangedError if it, or one of those that are given with it, is not as it was read.
        """
        writes = [self._putting(name, one) for one in after]
        self._items.transact(*writes, *self.adding(customer(name), hour, change))

    def adding(self, subject: Subject, hour: Hour, change: Change) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a transaction's writes of a change and of the late mark of its hour."""
        item = {**_change_key(subject, hour, change), **to_item(msgspec.to_builtins(change))}
        return (
            self._items.putting(item, version=0),
            {"Update": self.counters.marks.marking(Mark.LATE, hour, subject, new_mark())},
        )

    def billed(self, name: str) -> list[Billed]:
        """Return what the lines of a customer's finalised invoices have billed."""
        return [_read_billed(item) for item in self._items.query(str(customer(name)), beginning="invoice#")]

    def noted(self, name: str) -> list[Noted]:
        """Return a customer's final invoices."""
        return [_read_noted(item) for item in self._items.query(str(customer(name)), beginning="final#")]

    def noted_one(self, name: str, invoice: str) -> Noted | None:
        """Return one of a customer's final invoices, or None."""
        found = self._items.get(str(customer(name)), f"final#{invoice}")
        return _read_noted(found) if found else None

    def note(self, name: str, after: Noted) -> None:
        """Write what became of an invoice, and ask for it to be looked at.

        Raises RowChangedError if it is not as it was read, or somebody else is writing the mark just now.
        """
        mark = self.counters.marks.marking(Mark.CHECK, after.hour, customer(name), new_mark())
        self._items.transact(self._items.putting(_noted_item(name, after), version=after.version), {"Update": mark})

    def save_noted(self, name: str, after: Noted) -> None:
        """Write what is known of an invoice; raise RowChangedError if it is not as it was read."""
        self._items.put_as_read(_noted_item(name, after), version=after.version)

    def keep_noted(self, new: Noted) -> None:
        """Write that an invoice of a Stripe customer is final that belongs to nobody yet; harmless to repeat.

        Whatever is heard of first, it stays void if it is.
        """
        place = item_key(f"stripe#{new.stripe_customer}", f"final#{new.invoice}")
        item = {**place, **to_item(msgspec.to_builtins(new))}
        if new.void:
            self._items.put(item)
            return
        with suppress(RowChangedError):
            self._items.put_as_read(item, version=0)

    def kept(self, stripe_customer: str) -> list[Noted]:
        """Return the invoices that were kept for whoever gets a Stripe customer."""
        return [_read_noted(item) for item in self._items.query(f"stripe#{stripe_customer}", beginning="final#")]

    def add_billed(self, name: str, new: Billed) -> None:
        """Write what a line bills; an earlier run may have done so."""
        with suppress(RowChangedError):
            self.save_billed(name, new)

    def kept_lines(self, stripe_customer: str) -> list[Billed]:
        """Return what was kept for whoever gets a Stripe customer before invoices had items of their own."""
        found = self._items.query(f"stripe#{stripe_customer}", beginning="invoice#")
        return [_read_billed(item) for item in found]

    def save_billed(self, name: str, after: Billed) -> None:
        """Write what an invoice bills; raise RowChangedError if it is not as it was read."""
        self._items.transact(self._putting(name, after))

    def _putting(self, name: str, after: Billed) -> dict[str, Any]:
        values = msgspec.to_builtins(after) | {"version": after.version + 1}
        item = {**item_key(str(customer(name)), f"invoice#{after.known_as}"), **to_item(values)}
        return self._items.putting(item, version=after.version)


def _change_key(subject: Subject, hour: Hour, change: Change) -> Item:
    return item_key(str(subject), f"change#{hour}#{change.metric}#{change.id}")


def _noted_item(name: str, after: Noted) -> Item:
    values = msgspec.to_builtins(after) | {"version": after.version + 1}
    return {**item_key(str(customer(name)), f"final#{after.invoice}"), **to_item(values)}


def _read_noted(item: Item) -> Noted:
    return msgspec.convert(from_item(item), Noted)


def _read_change(item: Item) -> tuple[Hour, Change]:
    values = from_item(item)
    _, hour, *_ = values["sk"].split("#")
    return Hour.parse(hour), msgspec.convert(values, Change)


def _read_billed(item: Item) -> Billed:
    return msgspec.convert(from_item(item), Billed)
