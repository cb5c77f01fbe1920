"""Limits of customers: what is set, how each stands, and why a customer's keys are closed. In the Ledger table.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| the operator's limit | ``limits#<customer>`` | ``set#<metric>/<per>`` | ``value``: JSON, an :class:`OfCustomer` |
| how a limit stands | ``limits#<customer>`` | ``state#<name>`` | ``value``: JSON, a :class:`LimitState` |
| suspended | ``limits#<customer>`` | ``held#operator`` | ``value``: JSON, a :class:`Held` |
| unpaid | ``limits#<customer>`` | ``held#unpaid`` | the same |
| subscription | ``limits#<customer>`` | ``subscribed`` | ``value``: JSON, a :class:`Subscribed` |
| rows that changed | ``limits#<customer>`` | ``changes`` | ``number``: how often a row was written anew |
| the gate | ``limits#<customer>`` | ``gate`` | ``value``: JSON, a :class:`Gate` |
| addresses | ``limits#<customer>`` | ``addresses`` | ``value``: JSON, whom e-mail goes to |
| budget | ``budget#<customer>`` | ``budget`` | ``value``: JSON, a :class:`Budget` |
| key's home | ``home#<key>`` | ``home`` | ``value``: JSON, a :class:`Home` |
| formerly suspended | ``customer#<id>`` | ``suspended#<key>`` | ``plans``: as versions before limits wrote it |

Each item has a ``version``, but the addresses, and is written as it was read or not at all. All of a customer's are one
query, so that a decision is about one moment. Why keys are closed is not written down anywhere: it follows from the
states that hold now and from what is ``held``, so that one reason never touches another.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from metering.model.limits import OPERATOR, Budget, Level, LimitState, OfCustomer, Reason, reasons_of
from metering.model.subjects import customer
from metering.model.subscribed import Subscribed
from metering.stores.aws import Item, from_item
from metering.stores.table import RowChangedError, Table, item_key, unchanged

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

T = TypeVar("T", OfCustomer, LimitState, "Held", Subscribed, "Gate", Budget, "Home")

_STATE: Final = "state#"
_SET: Final = "set#"
_HELD: Final = "held#"
_FORMER: Final = "suspended#"


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """A reason that holds until it is cleared, ``since`` a moment (seconds since 1970).

    ``why`` says it in words, ``who`` by whom (an ARN).
    """

    since: int
    why: str = ""
    who: str = ""
    version: int = 0


class Gate(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a customer's ``keys`` were brought at the gateway, for which reasons, ``at`` a moment.

    All were seen to be at the ``level``, but those that are ``left`` as they were, each with the reason in words: there
    is no lane for it, or what it belongs to is gone. ``changes`` counts how often the level that is felt became
    another; ``untold`` are those of them still to be told, each as ``<number>:<level before>:<level after>``.
    """

    level: Level = Level.OPEN
    reasons: tuple[str, ...] = ()
    at: int = 0
    changes: int = 0
    untold: tuple[str, ...] = ()
    keys: int = 0
    left: dict[str, str] = {}
    version: int = 0

    @property
    def felt(self) -> Level:
        """The level at which any of the keys is: open if all are left."""
        return self.level if self.keys > len(self.left) else Level.OPEN


class Home(msgspec.Struct, frozen=True, omit_defaults=True):
    """The usage plans that a key belongs to while it is open; never a lane.

    ``level`` is what it is being brought to: written before it is closed, and open only once it was seen to be so.
    A ``retired`` key, whose place another one has taken, belongs to none any more, whoever is opening it just now.
    """

    plans: tuple[str, ...] = ()
    level: Level = Level.OPEN
    at: int = 0
    retired: bool = False
    version: int = 0


@dataclass(frozen=True, slots=True)
class OfOne:
    """All that is known of one customer's limits, as one query read it."""

    name: str
    own: tuple[OfCustomer, ...] = ()
    states: Mapping[str, LimitState] = field(default_factory=dict)
    held: Mapping[str, Held] = field(default_factory=dict)
    subscribed: Subscribed | None = None
    changes: int = 0
    gate: Gate = field(default_factory=Gate)
    addresses: tuple[str, ...] = ()
    budget: Budget | None = None

    def reasons(self, now: datetime) -> list[Reason]:
        """Return why its keys are to be closed now; they are to be open if there is none."""
        held = [Reason(name, Level.STOPPED, one.since) for name, one in sorted(self.held.items())]
        return reasons_of(sorted(self.states.items()), held, now)


@dataclass(frozen=True, slots=True)
class LimitItems:
    """The verbs. Writes raise RowChangedError if the item is not as it was read; reads are consistent."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    def of(self, name: str) -> OfOne:
        """Return all that is known of a customer's limits: a query and a read, of a unit or two each."""
        own: list[OfCustomer] = []
        states: dict[str, LimitState] = {}
        held: dict[str, Held] = {}
        rest: dict[str, Any] = {}
        for item in self._items.query(f"limits#{name}"):
            sk = item["sk"]["S"]
            if sk.startswith(_STATE):
                states[sk.removeprefix(_STATE)] = _read(item, LimitState)
            elif sk.startswith(_SET):
                own.append(_read(item, OfCustomer))
            elif sk.startswith(_HELD):
                held[sk.removeprefix(_HELD)] = _read(item, Held)
            elif sk == "subscribed":
                rest["subscribed"] = _read(item, Subscribed)
            elif sk == "gate":
                rest["gate"] = _read(item, Gate)
            elif sk == "changes":
                rest["changes"] = int(item["number"]["N"])
            elif sk == "addresses":
                rest["addresses"] = msgspec.json.decode(item["value"]["S"], type=tuple[str, ...])
        return OfOne(name, tuple(own), states, held, budget=self.budget(name), **rest)

    def save_state(self, name: str, limit: str, after: LimitState) -> LimitState:
        """Write how a limit stands, and return it as it now is: the one conditional write by which a threshold acts."""
        return self._put(f"limits#{name}", f"{_STATE}{limit}", after)

    def forget_state(self, name: str, limit: str, before: LimitState) -> None:
        """Delete how a limit stands that applies no longer; raise RowChangedError if it is not as it was read."""
        self._delete(f"limits#{name}", f"{_STATE}{limit}", before.version)

    def set(self, name: str, after: OfCustomer) -> OfCustomer:
        """Write the operator's limit for one customer."""
        return self._put(f"limits#{name}", f"{_SET}{after.known_as}", after)

    def clear(self, name: str, before: OfCustomer) -> None:
        """Delete the operator's limit for one customer."""
        self._delete(f"limits#{name}", f"{_SET}{before.known_as}", before.version)

    def hold(self, name: str, reason: str, after: Held) -> Held:
        """Write that a reason holds: :data:`metering.model.limits.OPERATOR` or ``UNPAID``."""
        return self._put(f"limits#{name}", f"{_HELD}{reason}", after)

    def release(self, name: str, reason: str, before: Held) -> None:
        """Delete that a reason holds."""
        self._delete(f"limits#{name}", f"{_HELD}{reason}", before.version)

    def subscribed(self, name: str) -> Subscribed | None:
        """Return what a customer is known to be subscribed to: a read of one item."""
        found = self._items.get(f"limits#{name}", "subscribed")
        return _read(found, Subscribed) if found else None

    def subscribed_each(self, names: Iterable[str]) -> dict[str, Subscribed]:
        """Return what each of the customers is subscribed to, of those of whom it is known; 100 are one read."""
        wanted = {(f"limits#{name}", "subscribed"): name for name in names}
        return self._items.read(wanted, lambda item: _read(item, Subscribed))

    def subscribe(self, name: str, after: Subscribed) -> Subscribed:
        """Write what a customer is subscribed to, as Stripe showed it."""
        return self._put(f"limits#{name}", "subscribed", after)

    def note_change(self, name: str) -> None:
        """Count that one of a customer's rows was written anew, after it was: a replay only makes others look again."""
        self.client.update_item(
            TableName=self.table,
            Key=item_key(f"limits#{name}", "changes"),
            UpdateExpression="ADD #number :one",
            ExpressionAttributeNames={"#number": "number"},
            ExpressionAttributeValues={":one": {"N": "1"}},
        )

    def gates(self, names: Iterable[str]) -> dict[str, Gate]:
        """Return how far each customer's keys were brought, of those of whom any ever was; 100 are one read."""
        wanted = {(f"limits#{name}", "gate"): name for name in names}
        return self._items.read(wanted, lambda item: _read(item, Gate))

    def save_gate(self, name: str, after: Gate) -> Gate:
        """Write how far a customer's keys are closed."""
        return self._put(f"limits#{name}", "gate", after)

    def address(self, name: str, addresses: Iterable[str]) -> None:
        """Write whom e-mail about a customer's limits goes to; the last word counts."""
        text = msgspec.json.encode(list(addresses)).decode()
        self._items.put({**item_key(f"limits#{name}", "addresses"), "value": {"S": text}})

    def budget(self, name: str) -> Budget | None:
        """Return a customer's own budget, or None."""
        found = self._items.get(f"budget#{name}", "budget")
        return _read(found, Budget) if found else None

    def save_budget(self, name: str, after: Budget) -> Budget:
        """Write a customer's own budget."""
        return self._put(f"budget#{name}", "budget", after)

    def homes(self, keys: Iterable[str]) -> dict[str, Home]:
        """Return where each of the keys belongs, of those that were ever closed; 100 are one read."""
        wanted = {(f"home#{key}", "home"): key for key in keys}
        return self._items.read(wanted, lambda item: _read(item, Home))

    def save_home(self, key: str, after: Home) -> Home:
        """Write where a key belongs."""
        return self._put(f"home#{key}", "home", after)

    def forget_home(self, key: str, before: Home) -> None:
        """Delete where a key belongs; raise RowChangedError if it is not as it was read."""
        self._delete(f"home#{key}", "home", before.version)

    def forget_customer(self, name: str) -> None:
        """Delete what is known of the limits of a customer who is no more; a round that is at it writes it again."""
        places = [(f"limits#{name}", item["sk"]["S"]) for item in self._items.query(f"limits#{name}")]
        for place in [*places, (f"budget#{name}", "budget")]:
            self.client.delete_item(TableName=self.table, Key=item_key(*place))

    def former(self, name: str) -> dict[str, Home]:
        """Return where keys belong that an earlier version suspended, as far as they are not adopted yet."""
        items = self._items.query(str(customer(name)), beginning=_FORMER)
        plans = {item["sk"]["S"].removeprefix(_FORMER): from_item(item)["plans"] for item in items}
        adopted = self.homes(plans) if plans else {}
        return {key: Home(tuple(of), Level.STOPPED) for key, of in plans.items() if key not in adopted}

    def adopt(self, name: str, key: str, home: Home, *, at: int) -> None:
        """Write a key's home and that the operator's reason holds, both or neither, unless the home is there already.

        Once it is, what the earlier version wrote counts no more: somebody who resumes the customer meanwhile has
        adopted all of it before, and is not undone. Raises RowChangedError if somebody else was faster.
        """
        writes = [self._putting(f"home#{key}", "home", home)]
        if OPERATOR not in self.of(name).held:
            why = "suspended by an earlier version"
            writes.append(self._putting(f"limits#{name}", f"{_HELD}{OPERATOR}", Held(at, why)))
        self._items.transact(*writes)

    def _putting(self, pk: str, sk: str, after: T) -> dict[str, Any]:
        written = msgspec.structs.replace(after, version=after.version + 1)
        return self._items.putting({**item_key(pk, sk), **_value(written)}, version=after.version)

    def _put(self, pk: str, sk: str, after: T) -> T:
        written = msgspec.structs.replace(after, version=after.version + 1)
        self._items.put_as_read({**item_key(pk, sk), **_value(written)}, version=after.version)
        return written

    def _delete(self, pk: str, sk: str, version: int) -> None:
        # A replay finds nothing and changes nothing; what somebody else has changed is theirs to delete.
        try:
            self.client.delete_item(TableName=self.table, Key=item_key(pk, sk), **unchanged(version))
        except self.client.exceptions.ConditionalCheckFailedException as error:
            if self._items.get(pk, sk) is not None:
                raise RowChangedError(f"{pk} {sk} changed since it was read") from error


def _value(written: T) -> Item:
    return {"value": {"S": msgspec.json.encode(written).decode()}, "version": {"N": str(written.version)}}


def _read(item: Item, kind: type[T]) -> T:
    return msgspec.json.decode(item["value"]["S"], type=kind)
