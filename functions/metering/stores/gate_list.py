"""What the functions of limits tell each other: who is near a limit, whom the gate is to look at, who is closed.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| near | ``near`` | customer | ``value``: JSON, a :class:`Near` |
| how near the others are | ``head`` | ``near`` | ``number``: it grows with each change; ``jump``: JSON, by metric |
| asked for | ``gate`` | customer | ``value``: JSON, an :class:`Asked` |
| closed | ``closed`` | customer | ``value``: JSON, a :class:`Closed` |
| round | ``sweep`` | ``round`` | ``value``: JSON, a :class:`Sweep`; ``version`` |
| lease | ``lease`` | ``gate`` | ``holder``, ``until`` |
| a caller | ``access#<caller>`` | ``access`` | ``level`` (``slowed``, ``stopped``), ``since``, ``until``, ``why`` |

In the Access table, which a deployment with limits has. It holds nothing that is not found out again, but for where
closed keys belong, which is here a second time in case the ledger is restored to an earlier moment. The item of a
caller is documented (infra/operate/README.md): authorizers read it, and a caller without one is open.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from aws_lambda_powertools import Logger

from metering.model.limits import Level
from metering.stores.aws import Item, to_item
from metering.stores.table import Table, item_key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

MOST_NEAR: Final = 2_000
"""Customers that are near a limit at once, of 150 bytes or so each: the nearest."""

T = TypeVar("T", "Near", "Asked", "Closed")

logger = Logger(child=True)

_LEASE: Final = ("lease", "gate")


class Near(msgspec.Struct, frozen=True, omit_defaults=True):
    """A customer near a limit: its ``sources``, and what of each metric they may still use until something acts.

    ``at`` is when it was looked at exactly, in seconds since 1970, and ``reach_s`` in how many seconds something acts
    at twice the pace it had then. What is left of money is shared out among the metrics that cost some.
    """

    sources: tuple[str, ...]
    left: dict[str, int]
    at: int
    reach_s: int = 0


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """A customer whom the gate is to look at: for a ``level``, wanted since ``at`` (seconds since 1970).

    ``rate`` is what it uses in a second, in parts of its limit by a million: of those to be stopped the fastest is
    first. ``saved`` says that the reason is written; who was asked before that is asked again, by another value.
    Nothing is to be done before ``after``, by the gate's own clock.
    """

    level: Level
    at: int
    rate: int = 0
    saved: bool = False
    after: int = 0


class Closed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A customer whose keys are closed, or were a moment ago; ``until`` some reason ends by itself, 0 if none does.

    ``homes`` says of each key in which usage plans it belongs.
    """

    level: Level
    at: int
    until: int = 0
    homes: dict[str, tuple[str, ...]] = {}


class Sweep(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far the round through all customers has got: ``name`` is the last one of a group that somebody has taken.

    It is empty when the round is over; ``begun`` is when it began (seconds since 1970), ``customers`` how many the last
    whole round had, ``looked`` how many this one had so far. ``jump`` is the least that one source of a customer of
    this round that is not near has left, by metric, and ``before`` that of the round before.
    """

    name: str = ""
    begun: int = 0
    customers: int = 0
    looked: int = 0
    jump: dict[str, int] = {}
    before: dict[str, int] = {}
    version: int = 0


@dataclass(frozen=True, slots=True)
class GateList:
    """The verbs, in the Access table. Errors of DynamoDB are raised as they are."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    def head(self) -> tuple[int, dict[str, int]]:
        """Return how often it was changed who is near, and the least that a source of anybody else has left, by metric.

        A metric that is not there limits nobody else. Before a first round is over nothing is known, and the number is
        0. Half a read unit: whoever has read the list reads it again only when this has changed.
        """
        found = self.client.get_item(TableName=self.table, Key=item_key("head", "near")).get("Item")
        if found is None:
            return 0, {}
        jump = found.get("jump", {"S": "{}"})["S"]
        return int(found["number"]["N"]), msgspec.json.decode(jump, type=dict[str, int])

    def move_head(self, jump: Mapping[str, int] | None = None) -> None:
        """Say that it has changed who is near, and what others have left, where that is known; whoever writes last."""
        said = {} if jump is None else {"jump": {"S": msgspec.json.encode(jump).decode()}}
        self.client.update_item(
            TableName=self.table,
            Key=item_key("head", "near"),
            UpdateExpression="ADD #number :one" + " SET #jump = :jump" * bool(said),
            ExpressionAttributeNames={"#number": "number", **{f"#{name}": name for name in said}},
            ExpressionAttributeValues={":one": {"N": "1"}, **{f":{name}": value for name, value in said.items()}},
        )

    def near(self) -> dict[str, Near]:
        """Return who is near a limit, by customer: at most so many that it is a page or two.

        A consistent read: who was entered before the head was moved is there, and nobody reads it again before that
        moves once more.
        """
        return dict(self._each("near", Near))

    def put_near(self, name: str, near: Near) -> None:
        """Write that a customer is near."""
        self._put("near", name, near)

    def drop_near(self, name: str) -> None:
        """Write that a customer is not near."""
        self._drop("near", name)

    def ask(self, name: str, asked: Asked) -> None:
        """Ask the gate to look at a customer, again if it was asked before."""
        self._put("gate", name, asked)

    def asked(self) -> dict[str, Asked]:
        """Return whom the gate is to look at: stops first, the fastest first, then what slows, then reopenings."""
        found = self._each("gate", Asked)
        return dict(sorted(found, key=lambda one: (-one[1].level, -one[1].rate, one[1].at, one[0])))

    def done(self, name: str, asked: Asked, again: Asked | None = None) -> None:
        """Take a customer off the list, or put it there ``again`` for later, unless it was asked for anew since."""
        unchanged: Any = {
            "TableName": self.table,
            "ConditionExpression": "#value = :value",
            "ExpressionAttributeNames": {"#value": "value"},
            "ExpressionAttributeValues": {":value": {"S": _text(asked)}},
        }
        key = item_key("gate", name)
        with suppress(self.client.exceptions.ConditionalCheckFailedException):
            if again is None:
                self.client.delete_item(Key=key, **unchanged)
            else:
                self.client.put_item(Item={**key, "value": {"S": _text(again)}}, **unchanged)

    def closed(self) -> Iterator[tuple[str, Closed]]:
        """Yield who is closed."""
        yield from self._each("closed", Closed)

    def closed_of(self, name: str) -> Closed | None:
        """Return how far a customer is closed; None if it is not, or that cannot be read: then it is written anew."""
        item = self._items.get("closed", name)
        return _read(item, Closed) if item else None

    def put_closed(self, name: str, closed: Closed) -> None:
        """Write that a customer is closed, or about to be."""
        self._put("closed", name, closed)

    def drop_closed(self, name: str) -> None:
        """Write that a customer is open."""
        self._drop("closed", name)

    def sweep(self) -> Sweep:
        """Return how far the round has got."""
        found = self._items.get("sweep", "round")
        return msgspec.json.decode(found["value"]["S"], type=Sweep) if found else Sweep()

    def save_sweep(self, after: Sweep) -> Sweep:
        """Write how far the round has got; raise RowChangedError if another sweeper has taken the group."""
        written = msgspec.structs.replace(after, version=after.version + 1)
        value = {"value": {"S": _text(written)}, "version": {"N": str(written.version)}}
        self._items.put_as_read({**item_key("sweep", "round"), **value}, version=after.version)
        return written

    def lease(self, holder: str, *, now: datetime, until: datetime) -> bool:
        """Take the gate's lease, or keep it; return False if somebody else has it."""
        return self._items.lease(*_LEASE, holder, now=now, until=until)

    def give_back(self, holder: str) -> None:
        """Give the lease back before it ends."""
        self._items.give_back(*_LEASE, holder)

    def caller(self, caller: str) -> Item | None:
        """Return the item of a caller that is closed, or None."""
        return self._items.get(f"access#{caller}", "access")

    def close_caller(self, caller: str, level: Level, *, since: int, until: int, why: str) -> None:
        """Write that a caller is closed, for its API's authorizer to read."""
        values = {"level": level.name.lower(), "since": since, "until": until, "why": why}
        self._items.put({**item_key(f"access#{caller}", "access"), **to_item(values)})

    def open_caller(self, caller: str) -> None:
        """Delete the item of a caller."""
        self._drop(f"access#{caller}", "access")

    def _each(self, pk: str, kind: type[T]) -> Iterator[tuple[str, T]]:
        """Yield what is there of each customer; one that cannot be read is that customer's concern alone (I6)."""
        for item in self._items.query(pk):
            if (value := _read(item, kind)) is not None:
                yield item["sk"]["S"], value

    def _put(self, pk: str, sk: str, value: msgspec.Struct) -> None:
        self._items.put({**item_key(pk, sk), "value": {"S": _text(value)}})

    def _drop(self, pk: str, sk: str) -> None:
        self.client.delete_item(TableName=self.table, Key=item_key(pk, sk))


def _read(item: Item, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(item["value"]["S"], type=kind)
    except (msgspec.MsgspecError, KeyError):
        logger.warning("an item of a customer cannot be read", list=item["pk"]["S"], customer=item["sk"]["S"])
        return None


def _text(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()
