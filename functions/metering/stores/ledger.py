"""The Ledger table, known to this file, ``changes.py`` and ``switch.py`` alone: what is billed, to whom, and how far.

What only an operator's commands keep there is in ``infra/operate/access_notes.py``; ``reading.py`` reads many rows at
once.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| customer | ``customer#<id>`` | ``profile`` | ``name``, ``stripe_customer`` |
| key once held | ``customer#<id>`` | ``key#<key>`` | (none: where to look; the key's own item says when) |
| usage | ``customer#<id>``, ``key#<key>`` | ``usage#<hour>`` | ``version``, ``totals``, ``only_key``, ``pending`` |
| usage by key | ``customer#<id>`` | ``keys#<hour>`` | ``counted``: JSON, quantities by key and metric |
| key | ``key#<key>`` | ``holders`` | ``version``, ``holders``: who holds it from which hour on |
| owner | ``stripe#<cus_...>`` | ``owner`` | ``customer``: the one that posts to this Stripe customer |
| period | ``period#<hour>`` | ``close`` | ``state``, ``written_at``, ``closed_at``, ``customers``, ``unmapped`` |
| cursor | ``period#cursor`` | ``close`` | ``hour``: every hour before it is closed |
| invoices | ``period#invoices`` | ``seen`` | ``at``: up to when finalised invoices are noted |
| round | ``period#reconciled`` | ``round`` | the fields of :class:`Round` |
| directory | ``list#customers``, ``list#keys`` | id | (none) |

The sparse index ``pending`` lists the rows that have a pending total under ``pending#<shard>``, and the other ones that
have a rejected total under ``rejected#<shard>``.

A key's whole history is one item, so that the holders of 100 keys are one read; a hand-over is one conditional write.
Usage rows are never deleted: a row that is not there has never been written.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from metering.layout import SHARDS
from metering.model.periods import Hour, due_before, hours
from metering.model.subjects import Kind, Subject, customer, customer_of_source
from metering.model.usage_row import NO_STRIPE_CUSTOMER, State, Total, UsageRow, held
from metering.stores.aws import Item, from_item, side_by_side, to_attribute, to_item
from metering.stores.table import Table, item_key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

ByKey = Mapping[str, Mapping[str, int]]
"""What was counted, by key and metric; what came without a key stands under an empty one."""

MOST_KEYS: Final = 100
"""How many keys of a customer are told apart in an hour; the rest stands under :data:`OTHER_KEYS`."""

OTHER_KEYS: Final = "other"

BEGINNING: Final = Hour(0)
"""From when a key's first holder holds it: usage that was counted before anyone was named is theirs."""


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


@dataclass(frozen=True, slots=True)
class Customer:
    """Who is billed; ``stripe_customer`` is empty until there is one."""

    id: str
    name: str
    stripe_customer: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """Who holds a key from the hour ``since`` on: a customer, or nobody with the reason why it is not billed."""

    since: Hour
    customer: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Holding:
    """A key's history as it was read: its holders in order of time. ``version`` 0 means that it has none yet."""

    key: str
    holders: tuple[Holder, ...] = ()
    version: int = 0

    def at(self, hour: Hour) -> Holder | None:
        """Return who held the key in an hour, or None."""
        return next((holder for holder in reversed(self.holders) if holder.since <= hour), None)

    def with_holder(self, holder: Holder) -> Self:
        """Return the history with one holder more, from a later hour than all before."""
        return type(self)(self.key, (*self.holders, holder), self.version)


class Seen(msgspec.Struct, frozen=True):
    """Up to where Stripe's events have been read: all that are dated before ``at`` (seconds since 1970).

    Stripe lists the newest event first. Of a piece of time that a run did not get through, ``until`` is the end and
    ``after`` the last event that was read; otherwise they are 0 and empty.
    """

    at: int
    until: int = 0
    after: str = ""


class Round(msgspec.Struct, frozen=True):
    """How far the round of comparing all customers with Stripe has got: ``name`` is the last one; empty at its start.

    In a ``daily`` round earlier days are compared, too; ``daily_at`` is when the last such round began (seconds since
    1970).
    """

    name: str = ""
    daily: bool = False
    daily_at: int = 0


@dataclass(frozen=True, slots=True)
class Ledger:
    """The table's verbs. Errors of DynamoDB are raised as they are; reads are consistent."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    # --- usage rows -------------------------------------------------------------------------------------------------

    def rows(self, hour: Hour, subjects: Iterable[Subject]) -> dict[Subject, UsageRow]:
        """Return each subject's row of an hour; one that has never been written has version 0."""
        wanted = list(subjects)
        found = self._items.read({_row_key(subject, hour): subject for subject in wanted}, _read_row)
        return {subject: found.get(subject) or UsageRow(subject, hour) for subject in wanted}

    def rows_at(self, places: Iterable[tuple[Subject, Hour]]) -> list[UsageRow]:
        """Return the rows of these subjects and hours that have ever been written."""
        return list(self._items.read({_row_key(*place): place for place in places}, _read_row).values())

    def rows_of(self, subject: Subject, first: Hour, end: Hour) -> Iterator[UsageRow]:
        """Yield a subject's rows from ``first`` up to ``end``, exclusive, in order of time."""
        if first >= end:
            return
        last = Hour(end.number - 1)
        for item in self._items.query(str(subject), between=(f"usage#{first}", f"usage#{last}")):
            yield _read_row(item)

    def save(self, row: UsageRow, by_key: ByKey | None = None) -> UsageRow:
        """Write a row and return it as it now stands; raise RowChangedError if it is not as it was read.

        ``by_key`` is how what is counted splits by key, where it was counted just now. Of several keys it is an item of
        its own, in one transaction with the row (I5): a row stays small, whoever has a hundred keys.

        A replay by boto3 after a read timeout meets its own write and is refused: the caller reads again, and nothing
        is written twice (I4).
        """
        written = msgspec.structs.replace(row, version=row.version + 1)
        if by_key is not None:
            written = msgspec.structs.replace(written, only_key=next(iter(by_key)) if len(by_key) == 1 else "")
        if by_key is not None and len(by_key) > 1:
            split = {**item_key(*_keys_key(row.subject, row.hour)), "counted": to_attribute(_written(by_key))}
            self._items.transact(
                self._items.putting(_row_item(written), version=row.version), self._items.putting(split)
            )
        else:
            self._items.put_as_read(_row_item(written), version=row.version)
        return written

    def by_key(self, subject: Subject, first: Hour, end: Hour) -> Iterator[tuple[Hour, ByKey]]:
        """Yield how the hours' counts split by key in which a customer used several, in order of time."""
        if first >= end:
            return
        last = Hour(end.number - 1)
        for item in self._items.query(str(subject), between=(f"keys#{first}", f"keys#{last}")):
            hour = Hour.parse(item["sk"]["S"].removeprefix("keys#"))
            yield hour, msgspec.json.decode(item["counted"]["S"], type=dict[str, dict[str, int]])

    def hold_without_stripe_customer(self, row: UsageRow) -> UsageRow:
        """Hold a row's pending totals, provided that its customer still has no Stripe customer; return it so.

        Both are one transaction: whoever gives the customer a Stripe customer afterwards finds the row held, whoever
        did so before makes this fail with RowChangedError.
        """
        after = held(msgspec.structs.replace(row, version=row.version + 1), NO_STRIPE_CUSTOMER)
        still_none = "attribute_not_exists(#pk) OR #stripe_customer = :none"
        self._items.transact(
            self._items.putting(_row_item(after), version=row.version),
            {
                "ConditionCheck": {
                    "TableName": self.table,
                    "Key": item_key(str(row.subject), "profile"),
                    "ConditionExpression": still_none,
                    "ExpressionAttributeNames": {"#pk": "pk", "#stripe_customer": "stripe_customer"},
                    "ExpressionAttributeValues": {":none": {"S": ""}},
                }
            },
        )
        return after

    def pending(self, since: Hour, shards: Iterable[int]) -> dict[str, list[Hour]]:
        """Return the hours from ``since`` on in which each customer has a pending total, from the sparse index.

        The index is eventually consistent: a row just written may be missing, one just settled may still be there.
        """
        return self._listed(State.PENDING, shards, since)

    def rejected(self) -> dict[str, list[Hour]]:
        """Return the hours in which each customer has a rejected total, but for those that have a pending one, too."""
        return self._listed(State.REJECTED, range(SHARDS), BEGINNING)

    def _listed(self, state: State, shards: Iterable[int], since: Hour) -> dict[str, list[Hour]]:
        from_then_on = (f"usage#{since}", "usage#~")
        found: dict[str, list[Hour]] = {}
        pages = side_by_side(
            lambda n: list(self._items.query_index("pending", _shard_name(state, n), between=from_then_on)), shards
        )
        for item in (item for items in pages for item in items):
            found.setdefault(Subject.parse(item["pk"]["S"]).id, []).append(_hour_of(item))
        return {name: sorted(hours) for name, hours in found.items()}

    # --- who holds which key ----------------------------------------------------------------------------------------

    def holdings(self, keys: Iterable[str]) -> dict[str, Holding]:
        """Return each key's history; a customer whose usage came without a key holds its own name for ever."""
        wanted = list(keys)
        found = {key: Holding(key, (Holder(BEGINNING, name),)) for key in wanted if (name := customer_of_source(key))}
        found |= self._items.read({(f"key#{key}", "holders"): key for key in wanted if key not in found}, _read_holding)
        return {key: found.get(key) or Holding(key) for key in wanted}

    def keys_of(self, name: str) -> set[str]:
        """Return every key that a customer holds or has ever held."""
        return {
            item["sk"]["S"].removeprefix("key#") for item in self._items.query(str(customer(name)), beginning="key#")
        }

    def hand_over(self, holding: Holding) -> None:
        """Write a key's history; raise RowChangedError if it is not as it was read.

        The customer's pointer to the key is written first: a pointer to a key that it does not hold is harmless, a
        held key without a pointer would be missed when an hour is closed again.
        """
        newest = holding.holders[-1]
        if newest.customer:
            self._items.put(item_key(str(customer(newest.customer)), f"key#{holding.key}"))
        self.list_key(holding.key)
        history = [
            {"since": str(holder.since), "customer": holder.customer, "reason": holder.reason}
            for holder in holding.holders
        ]
        item = to_item({"version": holding.version + 1, "holders": history})
        self._items.put_as_read({**item_key(f"key#{holding.key}", "holders"), **item}, version=holding.version)

    # --- customers --------------------------------------------------------------------------------------------------

    def customers(self, names: Iterable[str]) -> dict[str, Customer]:
        """Return those of the customers that exist."""
        return self._items.read({(str(customer(name)), "profile"): name for name in names}, _read_customer)

    def customer_ids(self, after: str = "") -> Iterator[str]:
        """Yield the id of every customer in order, or of those after one."""
        return (item["sk"]["S"] for item in self._items.query("list#customers", after=after))

    def key_ids(self) -> list[str]:
        """Return the id of every key that was ever held, or used without a customer."""
        return [item["sk"]["S"] for item in self._items.query("list#keys")]

    def list_key(self, key: str) -> None:
        """Enter a key in the directory; entering it again changes nothing."""
        self._items.put(item_key("list#keys", key))

    def save_customer(self, after: Customer, *, before: Customer | None) -> None:
        """Write a customer and its claim on a Stripe customer, in one transaction.

        Raises RowChangedError if the customer is not as it was read, or the Stripe customer belongs to another.
        """
        item = to_item({"name": after.name, "stripe_customer": after.stripe_customer})
        as_read: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(#pk)"}
        as_read["ExpressionAttributeNames"] = {"#pk": "pk"}
        if before is not None:
            as_read = {
                "ConditionExpression": "#name = :name AND #stripe_customer = :stripe_customer",
                "ExpressionAttributeNames": {"#name": "name", "#stripe_customer": "stripe_customer"},
                "ExpressionAttributeValues": to_item(
                    {":name": before.name, ":stripe_customer": before.stripe_customer}
                ),
            }
        put = {"TableName": self.table, "Item": {**item_key(str(customer(after.id)), "profile"), **item}, **as_read}
        entry = {"TableName": self.table, "Item": item_key("list#customers", after.id)}
        writes = [{"Put": put}, {"Put": entry}]
        if after.stripe_customer:
            writes.append({"Put": self._claim(after)})
        self._items.transact(*writes)

    def owner(self, stripe_customer: str) -> str:
        """Return the customer that posts to a Stripe customer, or an empty string."""
        found = self._items.get(f"stripe#{stripe_customer}", "owner")
        return found["customer"]["S"] if found else ""

    def _claim(self, owner: Customer) -> dict[str, Any]:
        free_or_ours = "attribute_not_exists(#pk) OR #customer = :customer"
        return {
            "TableName": self.table,
            "Item": {**item_key(f"stripe#{owner.stripe_customer}", "owner"), "customer": {"S": owner.id}},
            "ConditionExpression": free_or_ours,
            "ExpressionAttributeNames": {"#pk": "pk", "#customer": "customer"},
            "ExpressionAttributeValues": {":customer": {"S": owner.id}},
        }

    # --- periods ----------------------------------------------------------------------------------------------------

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
        first = self.cursor() or BEGINNING
        due = due_before(now)
        if first == BEGINNING:
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


def _row_key(subject: Subject, hour: Hour) -> tuple[str, str]:
    return str(subject), f"usage#{hour}"


def _row_item(row: UsageRow) -> Item:
    totals = {metric: msgspec.to_builtins(total) for metric, total in row.totals.items()}
    item = {**item_key(*_row_key(row.subject, row.hour)), **to_item({"version": row.version, "totals": totals})}
    if row.only_key:
        item["only_key"] = to_attribute(row.only_key)
    for state in (State.PENDING, State.REJECTED):
        if row.in_state(state):
            item["pending"] = to_attribute(_shard_name(state, shard_of(row.subject)))
            break
    return item


def shard_of(subject: Subject) -> int:
    """Return the shard of the index that lists a customer's rows: the same for all of them."""
    return zlib.crc32(str(subject).encode()) % SHARDS


def _shard_name(state: State, shard: int) -> str:
    return f"{state.lower()}#{shard}"


def _hour_of(item: Item) -> Hour:
    return Hour.parse(item["sk"]["S"].removeprefix("usage#"))


def _read_row(item: Item) -> UsageRow:
    values = from_item(item)
    totals = msgspec.convert(values["totals"], dict[str, Total])
    only_key = values.get("only_key", "")
    return UsageRow(Subject.parse(values["pk"]), _hour_of(item), values["version"], totals, only_key)


def _keys_key(subject: Subject, hour: Hour) -> tuple[str, str]:
    return str(subject), f"keys#{hour}"


def _written(by_key: ByKey) -> str:
    """Return quantities by key as JSON, of the largest keys alone."""
    ranked = sorted(by_key, key=lambda key: (-sum(by_key[key].values()), key))
    told = {key: dict(by_key[key]) for key in ranked[:MOST_KEYS]}
    if rest := ranked[MOST_KEYS:]:
        told[OTHER_KEYS] = dict(sum((Counter(by_key[key]) for key in rest), Counter()))
    return msgspec.json.encode(told, order="sorted").decode()  # the same, in whichever order it was read


def _read_holding(item: Item) -> Holding:
    values = from_item(item)
    holders = [
        Holder(Hour.parse(holder["since"]), holder["customer"], holder["reason"]) for holder in values["holders"]
    ]
    return Holding(values["pk"].removeprefix("key#"), tuple(holders), values["version"])


def _read_customer(item: Item) -> Customer:
    return Customer(Subject.parse(item["pk"]["S"]).id, item["name"]["S"], item["stripe_customer"]["S"])


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


def mapped_to(holding: Holding, hour: Hour) -> Subject | None:
    """Return the customer that a key's usage of an hour belongs to, or None."""
    holder = holding.at(hour)
    return customer(holder.customer) if holder is not None and holder.customer else None


def by_kind(subjects: Iterable[Subject], kind: Kind) -> list[str]:
    """Return the ids of the subjects of one kind."""
    return [subject.id for subject in subjects if subject.kind is kind]
