"""Counters: what each key used in an hour. In the Counters table, with marks and claims.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| counter | ``hour#<hour>#<partition>`` | ``<source>#<slot>`` | amounts; ``batches``: tokens; ``names``; ``ttl`` |
| peak | ``hour#<hour>#<partition>`` | ``<source>#max#<metric>`` | ``m:<metric>``; ``ttl`` |
| big object | ``object#<hash>`` | ``progress`` | ``chunks``: how many of it are recorded; ``ttl`` |

A counter's amounts are flat attributes: ``n:<metric>`` a sum, ``u:<metric>`` values new in the month, and
``g:<metric>:<value>`` how a sum splits. A source is a key, or ``@<customer>`` where a customer's usage was reported
without one; signs that would part it from what follows are escaped (:mod:`metering.model.subjects`).

``names`` are 8-byte hashes of the values by which an item's sums split: so many, and no more, it tells apart. So nobody
makes an item grow by varying a value; what finds no room stands under ``other``.

A counter remembers the batches that it has counted, in the same item and the same write: a batch that comes again is
refused by the counter itself (I2). A batch that fails half-way is delivered again whole; the counters that have it
refuse it, the others count it (I1).
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, groupby
from typing import TYPE_CHECKING, Final

from metering.model.amounts import Amounts
from metering.model.metrics import MOST_NAMES
from metering.model.periods import COUNTER_LIFE, Hour
from metering.stores import marks
from metering.stores.additions import Addition, CountedError, NoRoomError, names_of, total
from metering.stores.aws import Item, in_pieces, side_by_side
from metering.stores.lines import Lines
from metering.stores.marks import Marks, partition
from metering.stores.table import Table

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

SLOTS: Final = 256
"""How many items one key's hour is spread over, so that each stays under 1 KB, one write unit, with its tokens."""

_SUM: Final = "n:"
_UNIQUE: Final = "u:"
_PEAK: Final = "m:"
_SPLIT: Final = "g:"
_FEW_KEYS: Final = 64
"""Up to so many keys are read by a query each; more are read by reading the hour."""

_MOST_SEEN: Final = 512
"""How many items a process remembers the values of, at 13 KB each."""

_MOST_TOKENS: Final = 64
"""How many batches one write adds: its condition names each, and may have 4 KB and 300 operators and functions
(DynamoDB Developer Guide, "Constraints")."""

_LOOK: Final = 16
"""Items that are read for each key where several are looked for at once."""

Counted = dict[str, Amounts]
"""What was counted, by source."""


@dataclass(frozen=True, slots=True)
class Counters:
    """The table's verbs. Errors of DynamoDB are raised as they are."""

    client: "DynamoDBClient"
    table: str
    _seen: dict[tuple[str, str], frozenset[bytes]] = field(
        default_factory=dict, compare=False, repr=False, kw_only=True
    )
    """The hashes of the values that items had which refused more, by their keys."""

    @property
    def marks(self) -> Marks:
        """What is asked for of the hours."""
        return Marks(self.client, self.table)

    @property
    def lines(self) -> Lines:
        """How many lines were dealt with."""
        return Lines(self.client, self.table)

    def count(self, hour: Hour, source: str, amounts: Amounts, batch: bytes) -> bool:
        """Add a batch's amounts to the counters of an hour and source; return False if this batch was already counted.

        One write unit while the item is under 1 KB, and one more for each peak; a second write where the values of
        splits find no room. A replay, by a redelivery or by boto3 after a read timeout, is harmless: the condition and
        the token are part of the same write (I2), and a peak that is raised twice is the same.
        """
        return self.count_together(hour, source, {batch: amounts})

    def count_together(self, hour: Hour, source: str, batches: Mapping[bytes, Amounts]) -> bool:
        """Add the amounts of batches that one item counts (:func:`item_of`), by their tokens; as :meth:`count` does.

        They are added by one write, on the condition that the item has none of them. If it is refused, the item is
        shown: those that it has are left out, and the others are written on the same condition, so that each counts
        once whichever others it comes with (I2). Each refusal leaves out one at least. Returns whether any was counted.
        """
        for metric, peak in total(batches).peaks.items():
            self._raise_peak(hour, source, metric, peak)
        waiting = [batch for batch, amounts in batches.items() if _attributes(amounts)]
        if not waiting:
            return any(amounts.peaks for amounts in batches.values())
        written = [
            self._count_some(hour, source, {batch: batches[batch] for batch in some})
            for some in in_pieces(waiting, _MOST_TOKENS)
        ]
        return any(written)

    def _count_some(self, hour: Hour, source: str, batches: Mapping[bytes, Amounts]) -> bool:
        left = dict(batches)
        while left:
            try:
                self._add_together(hour, source, left)
            except CountedError as error:
                left = {batch: amounts for batch, amounts in left.items() if batch not in error.batches}
            else:
                return True
        return False

    def _add_together(self, hour: Hour, source: str, batches: Mapping[bytes, Amounts]) -> None:
        """Add amounts; where the item has no room for the values of splits, those that it has and the rest as one.

        The first write asks for room, the second, of an item that refused it, for the tokens alone: whichever lands is
        the batches' only one (I2). An item's values only become more, so that what was seen of them stays true.
        """
        amounts = total(batches)
        names = names_of(amounts)
        if not names:
            self._add(hour, source, amounts, [*batches])
            return
        place = counter_key(hour, source, next(iter(batches)))
        item = (place["pk"]["S"], place["sk"]["S"])
        seen = self._seen.get(item, frozenset())
        new = names.keys() - seen
        if len(seen) + len(new) <= MOST_NAMES:
            try:
                self._add(hour, source, amounts.keeping({*names.values()}), [*batches], new)
            except NoRoomError as error:
                seen = error.names
                self._see(item, seen)
            else:
                return
        self._add(hour, source, amounts.keeping({names[one] for one in names.keys() & seen}), [*batches])

    def _see(self, item: tuple[str, str], names: frozenset[bytes]) -> None:
        """Remember which values an item has that once had no room, so that it is not asked for in vain again."""
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen[item] = names

    def _add(
        self, hour: Hour, source: str, amounts: Amounts, batches: Sequence[bytes], new: Collection[bytes] = ()
    ) -> None:
        """Add amounts to an item; raises CountedError or NoRoomError, as an addition's write does."""
        key = counter_key(hour, source, batches[0])
        Addition(key, _attributes(amounts), batches, _expiry(hour), new).write(self.client, self.table)

    def _raise_peak(self, hour: Hour, key: str, metric: str, peak: int) -> None:
        """Set an hour's highest value if this one is higher; one item, always applied, harmless to repeat."""
        is_higher = "attribute_not_exists(#peak) OR #peak < :peak"
        with suppress(self.client.exceptions.ConditionalCheckFailedException):
            self.client.update_item(
                TableName=self.table,
                Key={"pk": {"S": _hour_key(hour, partition(key))}, "sk": {"S": f"{key}#max#{metric}"}},
                UpdateExpression="SET #peak = :peak, #ttl = :ttl",
                ConditionExpression=is_higher,
                ExpressionAttributeNames={"#peak": f"{_PEAK}{metric}", "#ttl": "ttl"},
                ExpressionAttributeValues={":peak": {"N": str(peak)}, ":ttl": {"N": str(_expiry(hour))}},
            )

    def has_counted(self, hour: Hour, key: str, batch: bytes) -> bool:
        """Say whether the counters of an hour and key have counted a batch; a consistent read."""
        answer = self.client.get_item(
            TableName=self.table,
            Key=counter_key(hour, key, batch),
            ProjectionExpression="#batches",
            ExpressionAttributeNames={"#batches": "batches"},
            ConsistentRead=True,
        )
        return batch in answer.get("Item", {}).get("batches", {}).get("BS", [])

    def read(self, hour: Hour, keys: Collection[str] | None = None) -> Counted:
        """Return what has been counted in an hour, for these keys or for all; consistent reads.

        The tokens are read along: DynamoDB bills by the whole item in any case, and a projection would have to name
        the metrics, while every metric that the counters hold must be closed, also one that is declared no longer.
        """
        if keys is not None and len(keys) <= _FEW_KEYS:
            queries: list[tuple[str, str]] = [(_hour_key(hour, partition(key)), f"{key}#") for key in keys]
        else:
            queries = [(_hour_key(hour, n), "") for n in range(marks.PARTITIONS)]
        counted: Counted = {}
        table = Table(self.client, self.table)
        for items in side_by_side(lambda query: list(table.query(query[0], beginning=query[1])), queries):
            for item in items:
                if keys is None or _source_of(item) in keys:
                    _include(counted, item)
        for amounts in counted.values():
            amounts.cap_splits()
        return counted

    def in_order(self, hour: Hour, number: int, *, after: str = "") -> Iterator[tuple[str, Amounts]]:
        """Yield what each source of a partition has been counted for in an hour, in order, beginning ``after`` one.

        A page of 1 MB is held at a time: a source's amounts are whole when the next one's begin. Consistent reads.
        """
        beyond = f"{after}$" if after else ""  # the character after "#"
        items = Table(self.client, self.table).query(_hour_key(hour, number), after=beyond)
        for source, of_source in groupby(items, key=_source_of):
            yield source, _added_up(of_source)

    def of_sources(self, hour: Hour, sources: Iterable[str]) -> Counted:
        """Return what these sources have been counted for in an hour, those that were; a consistent read for each."""
        wanted = list(sources)

        def read(source: str) -> Amounts | None:
            items = Table(self.client, self.table).query(_hour_key(hour, partition(source)), beginning=f"{source}#")
            first = next(items, None)
            return None if first is None else _added_up(chain([first], items))

        found = zip(wanted, side_by_side(read, wanted), strict=True)
        return {source: amounts for source, amounts in found if amounts is not None}

    def read_keys(self, hour: Hour, keys: Collection[str], *, most: int) -> Counted | None:
        """Return what has been counted in an hour for these keys of one customer; None if that is ``most`` items.

        Keys of one partition are first looked for by one query, which reads so many items for each at most; those that
        it did not get to, for others' keys lie between, by queries of their own. So it takes 16 queries where one
        customer stands for most of the usage, and about one for each key where it does not. What is read is bounded
        before it begins (I10): by ``most`` items, of 1 KB as a rule, and as many again that are others'; not consistent
        reads, for half the units, since whoever looks again a moment later sees what these missed.
        """
        of_partition: dict[int, list[str]] = {}
        for key in keys:
            of_partition.setdefault(partition(key), []).append(key)
        look = min(_LOOK, max(1, most // max(1, len(keys))))
        items: list[Item] = []
        missed: list[str] = []
        for found, left in side_by_side(lambda some: self._look(hour, *some, look), of_partition.items()):
            items += found
            missed += left
        others = self._all_of(hour, missed, most - len(items))
        if others is None:
            return None
        counted: Counted = {}
        for item in (*items, *others):
            _include(counted, item)
        for amounts in counted.values():
            amounts.cap_splits()
        return counted

    def _all_of(self, hour: Hour, keys: Collection[str], most: int) -> list[Item] | None:
        """Return the items of these keys by queries of their own; None if they are ``most`` or more."""
        table = Table(self.client, self.table)
        found: list[Item] = []
        after = {key: f"{key}#" for key in keys}
        while after:
            share = (most - len(found)) // len(after)
            if share < 1:
                return None

            def go_on(start: tuple[str, str], share: int = share) -> tuple[list[Item], bool]:
                key, first = start
                return table.some(_hour_key(hour, partition(key)), between=(first, f"{key}$"), most=share)

            pages = dict(zip(after, side_by_side(go_on, after.items()), strict=True))
            after = {key: f"{items[-1]['sk']['S']}\0" for key, (items, may_be_more) in pages.items() if may_be_more}
            found += [item for items, _ in pages.values() for item in items]
        return found

    def _look(self, hour: Hour, number: int, keys: list[str], look: int) -> tuple[list[Item], list[str]]:
        """Return the items of these keys of one partition, as far as one query gets, and the keys it did not get to."""
        if len(keys) == 1:
            return [], keys
        first, *_, last = sorted(keys, key=lambda key: f"{key}#")
        most = look * len(keys)
        between = (f"{first}#", f"{last}$")  # the character after "#"
        items, may_be_more = Table(self.client, self.table).some(_hour_key(hour, number), between=between, most=most)
        missed: set[str] = set()
        if may_be_more:
            reached = items[-1]["sk"]["S"]
            missed = {key for key in keys if f"{key}$" > reached}
        whole = set(keys) - missed
        return [item for item in items if _source_of(item) in whole], sorted(missed)

    def reported(self, hour: Hour) -> set[str]:
        """Return the sources of an hour that are customers whose usage was reported without a key: 16 queries."""
        table = Table(self.client, self.table)
        items = (table.query(_hour_key(hour, number), beginning="@") for number in range(marks.PARTITIONS))
        return {_source_of(item) for of_partition in items for item in of_partition}

    def recorded_chunks(self, name: str) -> int:
        """Return how many chunks of a big object an earlier run has recorded before its time was over."""
        found = self.client.get_item(TableName=self.table, Key=_object_key(name), ConsistentRead=True)
        return int(found["Item"]["chunks"]["N"]) if "Item" in found else 0

    def save_recorded_chunks(self, name: str, chunks: int, now: datetime) -> None:
        """Write how many chunks of a big object are recorded.

        A replay is harmless, and so is an earlier number: a chunk that is recorded again is refused by its counters.
        """
        ttl = int((now + COUNTER_LIFE).timestamp())
        self.client.put_item(
            TableName=self.table,
            Item={**_object_key(name), "chunks": {"N": str(chunks)}, "ttl": {"N": str(ttl)}},
        )

    def made_at(self) -> datetime:
        """Return when the table was made."""
        return self.client.describe_table(TableName=self.table)["Table"]["CreationDateTime"]


def counter_key(hour: Hour, key: str, batch: bytes) -> Item:
    """Return the item that counts a batch of an hour and key."""
    return {"pk": {"S": _hour_key(hour, partition(key))}, "sk": {"S": f"{key}#{_slot(batch)}"}}


def item_of(amounts: Amounts, batch: bytes) -> int:
    """Return which of a key's items of an hour counts a batch; peaks alone are in none that remembers batches."""
    return _slot(batch) if _attributes(amounts) else -1


def _slot(batch: bytes) -> int:
    return batch[-1] % SLOTS  # the token is a hash already


def _hour_key(hour: Hour, number: int) -> str:
    return f"hour#{hour}#{number}"


def _expiry(hour: Hour) -> int:
    return int((hour.end + COUNTER_LIFE).timestamp())


def _object_key(name: str) -> Item:
    return {"pk": {"S": f"object#{hashlib.sha256(name.encode()).hexdigest()[:32]}"}, "sk": {"S": "progress"}}


def _attributes(amounts: Amounts) -> dict[str, int]:
    """Return what is added to an item, by the attribute's name."""
    return {
        **{f"{_SUM}{metric}": number for metric, number in amounts.sums.items()},
        **{f"{_UNIQUE}{metric}": number for metric, number in amounts.uniques.items()},
        **{
            f"{_SPLIT}{metric}:{value}": number
            for metric, split in amounts.splits.items()
            for value, number in split.items()
        },
    }


def _include(counted: Counted, item: Item) -> None:
    """Add an item to what its key has been counted for."""
    counted.setdefault(_source_of(item), Amounts()).include(_read_amounts(item))


def _source_of(item: Item) -> str:
    source: str = item["sk"]["S"].partition("#")[0]
    return source


def _added_up(items: Iterable[Item]) -> Amounts:
    """Return what the items of one source hold together."""
    added: dict[str, int] = {}
    for item in items:
        for name, attribute in item.items():
            if name[1:2] == ":":
                number = int(attribute["N"])
                before = added.get(name, 0)
                added[name] = max(number, before) if name[:2] == _PEAK else number + before
    amounts = _amounts_of(added)
    amounts.cap_splits()
    return amounts


def _read_amounts(item: Item) -> Amounts:
    return _amounts_of({name: int(attribute["N"]) for name, attribute in item.items() if name[1:2] == ":"})


def _amounts_of(attributes: Mapping[str, int]) -> Amounts:
    """Return amounts from what an item, or several added up, hold of them by the attribute's name."""
    amounts = Amounts()
    of_kind = {_SUM: amounts.sums, _UNIQUE: amounts.uniques, _PEAK: amounts.peaks}
    for name, number in attributes.items():
        kind, rest = name[:2], name[2:]
        if kind == _SPLIT:
            metric, _, value = rest.partition(":")
            amounts.splits.setdefault(metric, {})[value] = number
        elif kind in of_kind:
            of_kind[kind][rest] = number
    return amounts
