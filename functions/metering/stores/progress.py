"""How far closing, carrying and comparing have got. In the Ledger table.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| period | ``period#<hour>`` | ``close`` | ``state``, ``written_at``, ``closed_at``, ``customers``, ``unmapped`` |
| cursor | ``period#cursor`` | ``close`` | ``hour``: every hour before it is closed |
| piece | ``period#<hour>`` | ``piece#<partition>`` | ``version``, ``holder``, ``until``, ``done``: a :class:`Piece` |
| marks' place | ``period#marks`` | ``late`` | the same, a :class:`Places` |
| join | ``period#<hour>`` | ``join#<metric>#<customer>`` | ``joined``: a :class:`Join` |
| keys of a month | ``customer#<id>`` | ``month#<month>`` | ``keys``: with which its distinct values were settled last |
| invoices | ``period#invoices`` | ``seen`` | the fields of :class:`Seen`: up to when final invoices are noted |
| round | ``period#reconciled`` | ``round`` | the fields of :class:`Round` |
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from metering.model.periods import Hour, due_before, hours
from metering.model.subjects import customer
from metering.stores.aws import ERRORS, Item, from_item, to_item
from metering.stores.table import Table, item_key, item_there, unchanged

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient


class PeriodState(StrEnum):
    """How far an hour has got."""

    WRITTEN = "WRITTEN"
    """Every customer's row is written; ``close_periods`` closes the hour when none is pending."""

    CLOSED = "CLOSED"
    """Every row was settled, or held with a reason. A late mark may still change rows, each by itself."""


@dataclass(frozen=True, slots=True)
class Period:
    """An hour's state, when it got there, and how many customers and keys without one it has."""

    hour: Hour
    state: PeriodState
    written_at: datetime
    customers: int
    unmapped: int
    closed_at: datetime | None = None


class Piece(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a partition of an hour is closed: every source up to ``after``, but for those that are ``left``.

    ``read`` says that no source comes after. ``customers`` and ``unmapped`` are how many customers, and keys without
    one, are closed; a customer is one of the piece that the first of its sources lies in.
    """

    after: str = ""
    read: bool = False
    left: tuple[str, ...] = ()
    customers: int = 0
    unmapped: int = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing of it is left."""
        return self.read and not self.left


class Places(msgspec.Struct, frozen=True):
    """The late mark after which each partition is looked at next; empty: the oldest."""

    after: dict[int, str] = {}


class Join(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a customer's claims of a metric are joined: so many parts of a month.

    ``of`` says of which row and keys it is: of others it begins anew; ``asked``, what it was begun for. ``by_hour`` is
    how many values count in each hour; ``overtaken`` are other hours in which those of the hour were claimed, too, but
    later. Hours are numbers.
    """

    of: str = ""
    asked: frozenset[str] = frozenset()
    parts: int = 0
    by_hour: dict[int, int] = {}
    overtaken: frozenset[int] = frozenset()


Done = TypeVar("Done", Piece, Places)


@dataclass(frozen=True, slots=True)
class Leased(Generic[Done]):
    """Work that one run does at a time, as it was read: ``holder`` has it ``until`` a moment, ``done`` is how far."""

    place: tuple[str, str]
    done: Done
    version: int = 0
    holder: str = ""
    until: int = 0


class LeaseLostError(Exception):
    """Another run goes on with what this one had leased."""


class Seen(msgspec.Struct, frozen=True):
    """Up to where final invoices are noted: all that became so before ``at`` (seconds since 1970).

    Stripe lists the newest first. Of a piece of time that a run did not get through, ``until`` is the end and ``after``
    the last event, or invoice, that was read; otherwise they are 0 and empty. ``first`` is the first hour that was
    posted when it was begun: with an earlier one, it begins anew.
    """

    at: int
    until: int = 0
    after: str = ""
    first: str = ""


class Round(msgspec.Struct, frozen=True):
    """How far the round of comparing all customers with Stripe has got: ``name`` is the last one; empty at its start.

    A ``daily`` round compares days, any other one hours; ``daily_at`` is when the last daily one began (seconds since
    1970), ``number`` how many did. ``odd`` are customers that Stripe refused to sum up when they were looked at last.
    """

    name: str = ""
    daily: bool = False
    daily_at: int = 0
    number: int = 0
    odd: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """The verbs of progress. Errors of DynamoDB are raised as they are; reads are consistent."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    def cursor(self) -> Hour | None:
        """Return the hour before which every hour is closed, or None if none was ever closed."""
        found = self._items.get("period#cursor", "close")
        return Hour.parse(found["hour"]["S"]) if found else None

    def advance_cursor(self, hour: Hour) -> None:
        """Move the cursor forward; a run that comes late with an earlier hour changes nothing."""
        forward = "attribute_not_exists(#hour) OR #hour < :hour"
        with suppress(self.client.exceptions.ConditionalCheckFailedException):
            self.client.put_item(
                TableName=self.table,
                Item={**item_key("period#cursor", "close"), "hour": {"S": str(hour)}},
                ConditionExpression=forward,
                ExpressionAttributeNames={"#hour": "hour"},
                ExpressionAttributeValues={":hour": {"S": str(hour)}},
            )

    def written_before(self, now: datetime) -> Hour:
        """Return the first hour whose rows are not written yet."""
        first = self.cursor() or Hour(0)
        due = due_before(now)
        if first == Hour(0):
            return first
        written = self.periods(hours(first, due))
        return next((hour for hour in hours(first, due) if hour not in written), due)

    def invoices_seen(self) -> Seen | None:
        """Return up to where finalised invoices have been noted, or None if none ever were."""
        found = self._items.get("period#invoices", "seen")
        return msgspec.convert(from_item(found), Seen) if found else None

    def save_invoices_seen(self, seen: Seen) -> None:
        """Write up to where invoices have been noted; noting one again changes nothing, so that the last run wins."""
        self._items.put({**item_key("period#invoices", "seen"), **to_item(msgspec.structs.asdict(seen))})

    def round(self) -> Round:
        """Return how far the round of comparing all customers with Stripe has got."""
        found = self._items.get("period#reconciled", "round")
        return msgspec.convert(from_item(found), Round) if found else Round()

    def save_round(self, after: Round) -> None:
        """Write how far the round has got; comparing a customer once more does no harm, so that the last run wins."""
        self._items.put({**item_key("period#reconciled", "round"), **to_item(msgspec.to_builtins(after))})

    def periods(self, wanted: Iterable[Hour]) -> dict[Hour, Period]:
        """Return those of the hours whose rows are written."""
        return self._items.read({(f"period#{hour}", "close"): hour for hour in wanted}, _read_period)

    def pieces(self, hour: Hour, partitions: int) -> list[Leased[Piece]]:
        """Return each piece of an hour as it stands; one that nobody has begun is there with version 0."""
        places = [(f"period#{hour}", f"piece#{number}") for number in range(partitions)]
        found = self._items.read({place: place for place in places}, lambda item: _read_leased(item, Piece))
        return [found.get(place) or Leased(place, Piece()) for place in places]

    def marks_place(self) -> Leased[Places]:
        """Return where late marks are looked at next."""
        found = self._items.get("period#marks", "late")
        return _read_leased(found, Places) if found else Leased(("period#marks", "late"), Places())

    def take(self, work: Leased[Done], holder: str, *, now: datetime, until: datetime) -> "Lease[Done]":
        """Lease work that nobody has at present; raise LeaseLostError if somebody does, or was faster.

        Who dies while holding it keeps others from it for a while, and no longer. Nothing is written wrongly should two
        clocks differ so much that two work on one piece.
        """
        if work.holder not in ("", holder) and work.until > now.timestamp():
            raise LeaseLostError(f"{work.place} is leased")
        return Lease(self, self.save_leased(work, replace(work, holder=holder, until=int(until.timestamp()))))

    def save_leased(self, before: Leased[Done], after: Leased[Done]) -> Leased[Done]:
        """Write work if it is as it was read, else raise LeaseLostError.

        A replay by boto3 meets its own write, which is as good.
        """
        written = replace(after, version=before.version + 1)
        values = {"version": written.version, "holder": written.holder, "until": written.until}
        item = {**item_key(*before.place), **to_item(values | {"done": msgspec.json.encode(written.done).decode()})}
        try:
            self.client.put_item(
                TableName=self.table,
                Item=item,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **unchanged(before.version),
            )
        except self.client.exceptions.ConditionalCheckFailedException as error:
            if item_there(error) != item:
                raise LeaseLostError(f"{before.place} is another run's") from error
        return written

    def join(self, hour: Hour, name: str, metric: str) -> Join:
        """Return how far a customer's claims are joined for an hour."""
        found = self._items.get(f"period#{hour}", f"join#{metric}#{name}")
        return msgspec.json.decode(found["joined"]["S"], type=Join) if found else Join()

    def save_join(self, hour: Hour, name: str, metric: str, join: Join) -> None:
        """Write how far they are; whoever writes last, what is written is of one reading."""
        item = item_key(f"period#{hour}", f"join#{metric}#{name}")
        self._items.put({**item, "joined": {"S": msgspec.json.encode(join).decode()}})

    def settled_with(self, names: Iterable[str], hour: Hour) -> dict[str, str]:
        """Return with which keys the distinct values of each customer were settled last in an hour's month, if ever."""
        items = {(str(customer(name)), f"month#{hour.month}"): name for name in names}
        return self._items.read(items, lambda item: str(item["keys"]["S"]))

    def save_settled_with(self, name: str, hour: Hour, keys: str) -> None:
        """Write with which keys they were; whoever writes last, an older one only makes the next run look again."""
        self._items.put({**item_key(str(customer(name)), f"month#{hour.month}"), "keys": {"S": keys}})

    def save_period(self, period: Period) -> None:
        """Write how far an hour has got; a closed hour stays as it is, so that a late run cannot open it again."""
        not_closed = "attribute_not_exists(#state) OR #state <> :closed"
        values = {
            "state": period.state,
            "written_at": int(period.written_at.timestamp()),
            "customers": period.customers,
            "unmapped": period.unmapped,
        }
        if period.closed_at is not None:
            values["closed_at"] = int(period.closed_at.timestamp())
        with suppress(self.client.exceptions.ConditionalCheckFailedException):
            self.client.put_item(
                TableName=self.table,
                Item={**item_key(f"period#{period.hour}", "close"), **to_item(values)},
                ConditionExpression=not_closed,
                ExpressionAttributeNames={"#state": "state"},
                ExpressionAttributeValues={":closed": {"S": PeriodState.CLOSED}},
            )


@dataclass(slots=True)
class Lease(Generic[Done]):
    """What a run has leased, as it stands."""

    progress: Progress
    work: Leased[Done]

    @property
    def done(self) -> Done:
        """How far it is."""
        return self.work.done

    def save(self, done: Done) -> None:
        """Write how far it is; raise LeaseLostError if another run has it by now."""
        self.work = self.progress.save_leased(self.work, replace(self.work, done=done))

    def end(self, done: Done) -> None:
        """Write how far it is and give it back; raise LeaseLostError if another run has it by now."""
        self.work = self.progress.save_leased(self.work, replace(self.work, done=done, holder="", until=0))

    def give_back(self) -> None:
        """Give it back as it is; nothing happens if another run has it by now. If that fails, its time ends it."""
        with suppress(LeaseLostError, *ERRORS):
            self.end(self.done)


def _read_leased(item: Item, kind: type[Done]) -> Leased[Done]:
    done = msgspec.json.decode(item["done"]["S"], type=kind)
    place = (item["pk"]["S"], item["sk"]["S"])
    return Leased(place, done, int(item["version"]["N"]), item["holder"]["S"], int(item["until"]["N"]))


def _read_period(item: Item) -> Period:
    values = from_item(item)
    return Period(
        hour=Hour.parse(values["pk"].removeprefix("period#")),
        state=PeriodState(values["state"]),
        written_at=datetime.fromtimestamp(values["written_at"], UTC),
        customers=values["customers"],
        unmapped=values["unmapped"],
        closed_at=datetime.fromtimestamp(values["closed_at"], UTC) if "closed_at" in values else None,
    )
