"""What stands beside the counters in the Ledger table: adjustments, carries, and what invoices have billed.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| change | ``customer#<id>`` | ``change#<hour>#<metric>#<id>`` | fields of :class:`~metering.model.usage_row.Change` |
| invoice's metric | ``customer#<id>`` | ``invoice#<id>#<metric>`` | the fields of :class:`Billed`, ``version`` |
| one of nobody's | ``stripe#<cus_...>`` | ``invoice#<id>#<metric>`` | the same, for whoever gets the Stripe customer |

A change is written together with the late mark of its hour, so that no closer can have missed it without a mark being
there; what is carried leaves one place and enters another in one transaction. So a crash loses and doubles nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from metering.model.periods import Hour
from metering.model.subjects import Subject, customer
from metering.model.usage_row import Change
from metering.stores.aws import Item, from_item, to_item
from metering.stores.counters import Counters
from metering.stores.marks import Mark, new_mark
from metering.stores.table import Table, item_key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient


class Billed(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a finalised invoice bills a Stripe customer of a metric, from the hour ``first`` up to ``end``, exclusive.

    ``carried`` is what has been billed elsewhere since, because the ledger came to differ; ``held`` says why a
    ``difference`` is not carried yet. ``version`` counts the writes; 0 means that it has never been written.
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
    version: int = 0

    def covers(self, hour: Hour) -> bool:
        """Say whether the invoice bills this hour."""
        return Hour.parse(self.first) <= hour < Hour.parse(self.end)


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

    def add(self, name: str, hour: Hour, change: Change) -> None:
        """Write a change, and ask for its hour to be closed again; raise RowChangedError if it is there already."""
        self._items.transact(*self.adding(customer(name), hour, change))

    def move(self, name: str, leaving: tuple[Hour, Change], entering: tuple[Hour, Change]) -> None:
        """Carry an amount from one hour into another; raise RowChangedError if one of the two is there already."""
        self._items.transact(*self.adding(customer(name), *leaving), *self.adding(customer(name), *entering))

    def carry(self, name: str, after: Billed, hour: Hour, change: Change) -> None:
        """Carry what an invoice has not billed into an hour; raise RowChangedError if it is not as it was read."""
        self._items.transact(self._putting(name, after), *self.adding(customer(name), hour, change))

    def adding(self, subject: Subject, hour: Hour, change: Change) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a transaction's writes of a change and of the late mark of its hour."""
        item = {**_change_key(subject, hour, change), **to_item(msgspec.to_builtins(change))}
        return (
            self._items.putting(item, version=0),
            {"Update": self.counters.marks.marking(Mark.LATE, hour, subject, new_mark())},
        )

    def billed(self, name: str) -> list[Billed]:
        """Return what a customer's finalised invoices have billed, by invoice and metric."""
        return [_read_billed(item) for item in self._items.query(str(customer(name)), beginning="invoice#")]

    def note(self, name: str, new: Billed) -> None:
        """Write what a new invoice bills, and ask for it to be checked.

        Raises RowChangedError if it is there already, or somebody else is writing the mark just now.
        """
        mark = self.counters.marks.marking(Mark.CHECK, Hour.parse(new.first), customer(name), new_mark())
        self._items.transact(self._putting(name, new), {"Update": mark})

    def keep(self, new: Billed) -> None:
        """Write what an invoice bills of a Stripe customer that belongs to nobody yet; harmless to repeat."""
        item = {**item_key(f"stripe#{new.stripe_customer}", _billed_name(new)), **to_item(msgspec.to_builtins(new))}
        self._items.put(item)

    def kept(self, stripe_customer: str) -> list[Billed]:
        """Return what was kept for whoever gets a Stripe customer."""
        found = self._items.query(f"stripe#{stripe_customer}", beginning="invoice#")
        return [_read_billed(item) for item in found]

    def save_billed(self, name: str, after: Billed) -> None:
        """Write what an invoice bills; raise RowChangedError if it is not as it was read."""
        self._items.transact(self._putting(name, after))

    def _putting(self, name: str, after: Billed) -> dict[str, Any]:
        values = msgspec.to_builtins(after) | {"version": after.version + 1}
        item = {**item_key(str(customer(name)), _billed_name(after)), **to_item(values)}
        return self._items.putting(item, version=after.version)


def _change_key(subject: Subject, hour: Hour, change: Change) -> Item:
    return item_key(str(subject), f"change#{hour}#{change.metric}#{change.id}")


def _billed_name(billed: Billed) -> str:
    return f"invoice#{billed.invoice}#{billed.metric}"


def _read_change(item: Item) -> tuple[Hour, Change]:
    values = from_item(item)
    _, hour, *_ = values["sk"].split("#")
    return Hour.parse(hour), msgspec.convert(values, Change)


def _read_billed(item: Item) -> Billed:
    return msgspec.convert(from_item(item), Billed)
