"""Usage rows: what is billed of a customer's hour, and what waits to be. In the Ledger table.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| usage | ``customer#<id>``, ``key#<key>`` | ``usage#<hour>`` | ``version``, ``totals``, ``only_key``, ``pending`` |
| usage by key | ``customer#<id>`` | ``keys#<hour>`` | ``counted``: JSON, quantities by key and metric |

The sparse index ``pending`` lists the rows that have a pending total under ``pending#<shard>``, and the other ones that
have a rejected total under ``rejected#<shard>``. Rows are never deleted: one that is not there has never been written.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from metering.layout import SHARDS
from metering.model.periods import Hour
from metering.model.subjects import Subject
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


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows' verbs. Errors of DynamoDB are raised as they are; reads are consistent."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    def at(self, hour: Hour, subjects: Iterable[Subject]) -> dict[Subject, UsageRow]:
        """Return each subject's row of an hour; one that has never been written has version 0."""
        wanted = list(subjects)
        found = self._items.read({_row_key(subject, hour): subject for subject in wanted}, _read_row)
        return {subject: found.get(subject) or UsageRow(subject, hour) for subject in wanted}

    def written(self, places: Iterable[tuple[Subject, Hour]]) -> list[UsageRow]:
        """Return the rows of these subjects and hours that have ever been written."""
        return list(self._items.read({_row_key(*place): place for place in places}, _read_row).values())

    def of(self, subject: Subject, first: Hour, end: Hour) -> Iterator[UsageRow]:
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

    def by_key(
        self, subject: Subject, first: Hour, end: Hour, *, consistent: bool = True, most_pages: int | None = None
    ) -> Iterator[tuple[Hour, ByKey]]:
        """Yield how the hours' counts split by key in which a customer used several, in order of time.

        Raises TooMuchError if they fill more than ``most_pages``.
        """
        if first >= end:
            return
        between = (f"keys#{first}", f"keys#{Hour(end.number - 1)}")
        found = self._items.query(str(subject), between=between, consistent=consistent, most_pages=most_pages)
        for item in found:
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
        return self._listed(State.REJECTED, range(SHARDS), Hour(0))

    def _listed(self, state: State, shards: Iterable[int], since: Hour) -> dict[str, list[Hour]]:
        from_then_on = (f"usage#{since}", "usage#~")
        by_customer: dict[str, list[Hour]] = {}
        pages = side_by_side(
            lambda n: list(self._items.query_index("pending", _shard_name(state, n), between=from_then_on)), shards
        )
        for item in (item for items in pages for item in items):
            by_customer.setdefault(Subject.parse(item["pk"]["S"]).id, []).append(_hour_of(item))
        return {name: sorted(hours) for name, hours in by_customer.items()}


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
        told[OTHER_KEYS] = dict(sum((Counter(by_key[key]) for key in rest), Counter(told.get(OTHER_KEYS))))
    return msgspec.json.encode(told, order="sorted").decode()  # the same, in whichever order it was read
