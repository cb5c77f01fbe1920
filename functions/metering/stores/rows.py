"""Usage rows: what is billed of a customer's hour, and what waits to be. In the Ledger table.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| usage | ``customer#<id>``, ``key#<key>`` | ``usage#<hour>`` | the fields of a row; ``pending`` |
| usage by key | ``customer#<id>`` | ``keys#<hour>`` | ``counted``: JSON, quantities by key and metric |
| place | ``posting`` | ``place#<shard>`` | ``after``: the pending row after which the next run begins |

The sparse index ``pending`` lists the rows that have a pending total under ``pending#<shard>``, and the other ones that
have a rejected total under ``rejected#<shard>``. Rows are never deleted: one that is not there has never been written.
"""

import math
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec

from metering.layout import SHARDS
from metering.model.periods import Hour
from metering.model.subjects import Subject
from metering.model.usage_row import NO_STRIPE_CUSTOMER, State, Total, UsageRow, WhyHeld, held
from metering.stores.aws import Item, from_item, side_by_side, to_attribute, to_item
from metering.stores.held_sums import HeldSums
from metering.stores.switch import POSTING
from metering.stores.table import Table, item_key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

ByKey = Mapping[str, Mapping[str, int]]
"""What was counted, by key and metric; what came without a key stands under an empty one."""

MOST_KEYS: Final = 100
"""How many keys of a customer are told apart in an hour; the rest stands under :data:`OTHER_KEYS`."""

OTHER_KEYS: Final = "other"

_INDEX: Final = "pending"

_PAGE: Final = 1000
"""How many rows of a shard are listed at once: all shards' pages together are some 15 MB while they are read."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows' verbs. Errors of DynamoDB are raised as they are; reads are consistent."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    @property
    def held_sums(self) -> HeldSums:
        """How many rows are held, and why."""
        return HeldSums(self.client, self.table)

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

    def save(self, row: UsageRow, by_key: ByKey | None = None, *, beside: Iterable[Any] = ()) -> UsageRow:
        """Write a row and return it as it now stands; raise RowChangedError if it is not as it was read.

        ``by_key`` is how what is counted splits by key, where it was counted just now. Of several keys it is an item of
        its own, in one transaction with the row (I5): a row stays small, whoever has a hundred keys. So are the sums of
        held rows, when the row is held or is held no more, and what a caller has to write ``beside`` it.

        A replay by boto3 after a read timeout meets its own write and is refused: the caller reads again, and nothing
        is written twice (I4).
        """
        written = msgspec.structs.replace(row, version=row.version + 1, summed=row.held_for())
        together = [*self.held_sums.changing(row.subject, row.hour, row.summed, written.summed), *beside]
        if by_key is not None:
            written = msgspec.structs.replace(written, only_key=next(iter(by_key)) if len(by_key) == 1 else "")
        if by_key is not None and len(by_key) > 1:
            split = {**item_key(*_keys_key(row.subject, row.hour)), "counted": to_attribute(_written(by_key))}
            together.append(self._items.putting(split))
        if together:
            self._items.transact(self._items.putting(_row_item(written), version=row.version), *together)
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
        after = msgspec.structs.replace(after, summed=after.held_for())
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
            *self.held_sums.changing(row.subject, row.hour, row.summed, after.summed),
        )
        return after

    def pending_count(self, since: Hour, *, most: int, before: Hour | None = None) -> int:
        """Return how many rows have a pending total, from ``since`` up to ``before``; ``most`` if it is more.

        By the sparse index, which is eventually consistent. It counts at most ``most`` rows and one for each shard, at
        about 10,000 rows to 128 read units.
        """
        if before is not None and before <= since:
            return 0
        return self._count(State.PENDING, _from_to(since, before), most)

    def rejected_count(self, *, most: int) -> int:
        """Return how many rows have a rejected total and no pending one; ``most`` if it is more."""
        return self._count(State.REJECTED, _from_to(Hour(0), None), most)

    def is_pending(self, hour: Hour) -> bool:
        """Say whether a row of this one hour has a pending total: a query of one key at each shard, side by side.

        By the sparse index: a row that was written less than a minute ago may be missing.
        """
        look = partial(self._page_count, State.PENDING, _from_to(hour, hour.next()), 1)
        return any(count for count, _ in side_by_side(look, [(shard, None) for shard in range(SHARDS)]))

    def _count(self, state: State, between: tuple[str, str], most: int) -> int:
        """Count all shards side by side, each its share of what is still to be known; then those that have more."""
        counted = 0
        more: list[tuple[int, Item | None]] = [(shard, None) for shard in range(SHARDS)]
        while more and counted < most:
            share = math.ceil((most - counted) / len(more))
            pages = side_by_side(partial(self._page_count, state, between, share), more)
            counted += sum(count for count, _ in pages)
            more = [(shard, after) for (shard, _), (_, after) in zip(more, pages, strict=True) if after]
        return min(counted, most)

    def _page_count(
        self, state: State, between: tuple[str, str], most: int, place: tuple[int, Item | None]
    ) -> tuple[int, Item | None]:
        shard, after = place
        return self._items.index_count(_INDEX, _shard_name(state, shard), between=between, most=most, after=after)

    def next_pending(self, since: Hour, shards: Collection[int], *, most: int) -> dict[str, list[Hour]]:
        """Return hours from ``since`` on in which customers have a pending total, oldest first: ``most`` in all (I10).

        Each shard gives its share. Where it has more, the next look goes on after these, and from the beginning again
        when it has come to the end: so each row has its turn after as many looks as it takes to see all, whatever stays
        pending before it, and for however long (I6). Where it goes on is written before anything is posted: a run that
        dies of a row does not meet the same one at once.
        """
        share = max(1, most // max(1, len(shards)))
        by_customer: dict[str, list[Hour]] = {}
        for places in side_by_side(lambda shard: self._next_of(shard, since, share), shards):
            for name, hour in places:
                by_customer.setdefault(name, []).append(hour)
        return {name: sorted(hours) for name, hours in by_customer.items()}

    def _next_of(self, shard: int, since: Hour, most: int) -> set[tuple[str, Hour]]:
        place = (POSTING, f"place#{shard}")
        found = self._items.get(*place)
        before = found["after"]["M"] if found else {}
        # A place in an hour before ``since`` is no place that such a query can begin at.
        begins_after = before if before and before["sk"]["S"] > f"usage#{since}" else None
        rows, after = self._listed_page(shard, since, begins_after, most)
        if begins_after and after is None and len(rows) < most:
            first, after = self._listed_page(shard, since, None, most - len(rows))
            rows |= first
        if (after or {}) != before:
            self._items.put({**item_key(*place), "after": {"M": after or {}}})  # two workers here would only take turns
        return rows

    def _listed_page(
        self, shard: int, since: Hour, after: Item | None, most: int
    ) -> tuple[set[tuple[str, Hour]], Item | None]:
        """Return up to ``most`` pending rows of a shard, and after which one to go on, if there are more."""
        rows: set[tuple[str, Hour]] = set()
        name, between = _shard_name(State.PENDING, shard), _from_to(since, None)
        names, hours = cache(lambda pk: Subject.parse(pk).id), cache(_hour_of)  # one object for each, however many rows
        while len(rows) < most:
            page = min(_PAGE, most - len(rows))
            items, after = self._items.index_page(_INDEX, name, between=between, most=page, after=after)
            rows.update((names(item["pk"]["S"]), hours(item["sk"]["S"])) for item in items)
            if after is None:
                break
        return rows, after

    def rejected(self) -> dict[str, list[Hour]]:
        """Return the hours in which each customer has a rejected total, but for those that have a pending one, too."""
        between = _from_to(Hour(0), None)

        def read(shard: int) -> list[Item]:
            return list(self._items.query_index(_INDEX, _shard_name(State.REJECTED, shard), between=between))

        by_customer: dict[str, list[Hour]] = {}
        for item in chain.from_iterable(side_by_side(read, range(SHARDS))):
            by_customer.setdefault(Subject.parse(item["pk"]["S"]).id, []).append(_hour_of(item["sk"]["S"]))
        return {name: sorted(hours) for name, hours in by_customer.items()}


def _row_key(subject: Subject, hour: Hour) -> tuple[str, str]:
    return str(subject), f"usage#{hour}"


def _row_item(row: UsageRow) -> Item:
    totals = {metric: msgspec.to_builtins(total) for metric, total in row.totals.items()}
    item = {**item_key(*_row_key(row.subject, row.hour)), **to_item({"version": row.version, "totals": totals})}
    if row.only_key:
        item["only_key"] = to_attribute(row.only_key)
    if row.summed:
        item["summed"] = to_attribute(list(row.summed))
    for state in (State.PENDING, State.REJECTED):
        if row.in_state(state):
            item["pending"] = to_attribute(_shard_name(state, shard_of(row.subject)))
            break
    return item


def shard_of(subject: Subject) -> int:
    """Return the shard of the index that lists a customer's rows: the same for all of them."""
    return zlib.crc32(str(subject).encode()) % SHARDS


def _from_to(first: Hour, end: Hour | None) -> tuple[str, str]:
    """Return the sort keys between which the rows lie from ``first`` up to ``end``, exclusive."""
    return f"usage#{first}", f"usage#{Hour(end.number - 1) if end else '~'}"


def _shard_name(state: State, shard: int) -> str:
    return f"{state.lower()}#{shard}"


def _hour_of(sk: str) -> Hour:
    return Hour.parse(sk.removeprefix("usage#"))


def _read_row(item: Item) -> UsageRow:
    values = from_item(item)
    totals = msgspec.convert(values["totals"], dict[str, Total])
    only_key = values.get("only_key", "")
    summed = tuple(map(WhyHeld, values.get("summed", ())))
    return UsageRow(Subject.parse(values["pk"]), _hour_of(values["sk"]), values["version"], totals, only_key, summed)


def _keys_key(subject: Subject, hour: Hour) -> tuple[str, str]:
    return str(subject), f"keys#{hour}"


def _written(by_key: ByKey) -> str:
    """Return quantities by key as JSON, of the largest keys alone."""
    ranked = sorted(by_key, key=lambda key: (-sum(by_key[key].values()), key))
    told = {key: dict(by_key[key]) for key in ranked[:MOST_KEYS]}
    if rest := ranked[MOST_KEYS:]:
        told[OTHER_KEYS] = dict(sum((Counter(by_key[key]) for key in rest), Counter(told.get(OTHER_KEYS))))
    return msgspec.json.encode(told, order="sorted").decode()  # the same, in whichever order it was read
