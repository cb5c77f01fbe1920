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
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from metering.model.amounts import Amounts
from metering.model.metrics import MOST_NAMES, OTHER
from metering.model.periods import COUNTER_LIFE, Hour
from metering.stores import marks
from metering.stores.aws import Item, side_by_side
from metering.stores.marks import Marks, partition
from metering.stores.table import Table, item_there

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

_NAME_BYTES: Final = 8
_MOST_SEEN: Final = 512
"""How many items a process remembers the values of, at 13 KB each."""

_LOOK: Final = 16
"""Items that are read for each key where several are looked for at once."""

Counted = dict[str, Amounts]
"""What was counted, by source."""


class _NoRoomError(Exception):
    """An item has no room for the new values of a batch; ``names`` are the hashes of those that it has."""

    def __init__(self, names: Iterable[bytes]) -> None:
        super().__init__("no room for more values")
        self.names = frozenset(names)


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

    def count(self, hour: Hour, source: str, amounts: Amounts, batch: bytes) -> bool:
        """Add a batch's amounts to the counters of an hour and source; return False if this batch was already counted.

        One write unit while the item is under 1 KB, and one more for each peak; a second write where the values of
        splits find no room. A replay, by a redelivery or by boto3 after a read timeout, is harmless: the condition and
        the token are part of the same write (I2), and a peak that is raised twice is the same.
        """
        for metric, peak in amounts.peaks.items():
            self._raise_peak(hour, source, metric, peak)
        names = _names(amounts)
        if names:
            return self._count_split(hour, source, amounts, names, batch)
        if not _attributes(amounts):
            return bool(amounts.peaks)
        return self._add(hour, source, amounts, batch)

    def _count_split(
        self, hour: Hour, source: str, amounts: Amounts, names: Mapping[bytes, tuple[str, str]], batch: bytes
    ) -> bool:
        """Add amounts with splits; where the item has no room for their values, those that it has and the rest as one.

        The first write asks for room, the second, of an item that refused it, for the token alone: whichever lands is
        the batch's only one (I2). An item's values only become more, so that what was seen of them stays true.
        """
        place = counter_key(hour, source, batch)
        item = (place["pk"]["S"], place["sk"]["S"])
        seen = self._seen.get(item, frozenset())
        new = names.keys() - seen
        if len(seen) + len(new) <= MOST_NAMES:
            try:
                return self._add(hour, source, amounts.keeping({*names.values()}), batch, new)
            except _NoRoomError as error:
                seen = error.names
                self._see(item, seen)
        return self._add(hour, source, amounts.keeping({names[one] for one in names.keys() & seen}), batch)

    def _see(self, item: tuple[str, str], names: frozenset[bytes]) -> None:
        """Remember which values an item has that once had no room, so that it is not asked for in vain again."""
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen[item] = names

    def _add(self, hour: Hour, source: str, amounts: Amounts, batch: bytes, new: Collection[bytes] = ()) -> bool:
        """Add amounts to an item unless it has counted the batch; return whether it had not.

        Raises _NoRoomError if the item has no room for so many ``new`` values of splits.
        """
        added = _attributes(amounts)
        not_yet_counted, room = "NOT contains(#batches, :token)", ""
        additions = ", ".join(f"#m{n} :m{n}" for n in range(len(added)))
        names: dict[str, str] = {}
        values: Item = {}
        asking: Any = {}
        if new:
            additions += ", #names :names"
            room = " AND (attribute_not_exists(#names) OR size(#names) <= :room)"
            names["#names"] = "names"
            values = {":names": {"BS": sorted(new)}, ":room": {"N": str(MOST_NAMES - len(new))}}
            asking = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        try:
            self.client.update_item(
                TableName=self.table,
                Key=counter_key(hour, source, batch),
                UpdateExpression=f"ADD {additions}, #batches :tokens SET #ttl = :ttl",
                ConditionExpression=f"{not_yet_counted}{room}",
                ExpressionAttributeNames={
                    **{f"#m{n}": name for n, name in enumerate(added)},
                    "#batches": "batches",
                    "#ttl": "ttl",
                    **names,
                },
                ExpressionAttributeValues={
                    **{f":m{n}": {"N": str(amount)} for n, amount in enumerate(added.values())},
                    ":token": {"B": batch},
                    ":tokens": {"BS": [batch]},
                    ":ttl": {"N": str(_expiry(hour))},
                    **values,
                },
                **asking,
            )
        except self.client.exceptions.ConditionalCheckFailedException as error:
            there = item_there(error)
            if not new or batch in there.get("batches", {}).get("BS", []):
                return False
            raise _NoRoomError(there.get("names", {}).get("BS", [])) from error
        except ClientError as error:
            if new and "Item size" in error.response["Error"].get("Message", ""):
                raise _NoRoomError([]) from error
            raise
        return True

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
                if keys is None or item["sk"]["S"].partition("#")[0] in keys:
                    _include(counted, item)
        for amounts in counted.values():
            amounts.cap_splits()
        return counted

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
        return [item for item in items if item["sk"]["S"].partition("#")[0] in whole], sorted(missed)

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
    slot = batch[-1] % SLOTS  # the token is a hash already
    return {"pk": {"S": _hour_key(hour, partition(key))}, "sk": {"S": f"{key}#{slot}"}}


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


def _names(amounts: Amounts) -> dict[bytes, tuple[str, str]]:
    """Return the metrics and values that splits name, by the hash that an item keeps of each; the largest of many."""
    split = [
        (-number, metric, value)
        for metric, values in amounts.splits.items()
        for value, number in values.items()
        if value != OTHER
    ]
    named = ((metric, value) for _, metric, value in sorted(split)[:MOST_NAMES])
    return {
        hashlib.sha256(f"{metric}:{value}".encode()).digest()[:_NAME_BYTES]: (metric, value) for metric, value in named
    }


def _include(counted: Counted, item: Item) -> None:
    """Add an item to what its key has been counted for."""
    counted.setdefault(item["sk"]["S"].partition("#")[0], Amounts()).include(_read_amounts(item))


def _read_amounts(item: Item) -> Amounts:
    amounts = Amounts()
    for name, attribute in item.items():
        kind, rest = name[:2], name[2:]
        if kind == _SPLIT:
            metric, _, value = rest.partition(":")
            amounts.splits.setdefault(metric, {})[value] = int(attribute["N"])
        elif kind in (_SUM, _UNIQUE, _PEAK):
            {_SUM: amounts.sums, _UNIQUE: amounts.uniques, _PEAK: amounts.peaks}[kind][rest] = int(attribute["N"])
    return amounts
