"""The Counters table, known to this file alone.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| counter | ``hour#<hour>#<partition>`` | ``<key>#<slot>`` | ``n:<metric>``: its sum; ``batches``: tokens; ``ttl`` |
| late mark | ``late#<partition>`` | ``<hour>#<subject>`` | ``mark``: unique to each marking; ``ttl`` |

A counter remembers the batches that it has counted, in the same item and the same write: a batch that comes again is
refused by the counter itself (I2). A batch that fails half-way is delivered again whole; the counters that have it
refuse it, the others count it (I1).
"""

import zlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from metering.aws import Item, side_by_side
from metering.periods import COUNTER_LIFE, Hour
from metering.subjects import Subject

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

PARTITIONS: Final = 16
"""Closing an hour is this many queries, side by side; and no partition key gets all of an hour's writes."""

SLOTS: Final = 256
"""How many items one key's hour is spread over, so that each stays under 1 KB, one write unit, with its tokens."""

TOKEN_BYTES: Final = 12

_NUMBER: Final = "n:"
_FEW_KEYS: Final = 64
"""Up to so many keys are read by a query each; more are read by reading the hour."""

Counted = dict[str, dict[str, int]]
"""Each metric's sum by key."""


@dataclass(frozen=True, slots=True, order=True)
class LateMark:
    """Says that something changed in a closed hour: it has to be closed again for this subject."""

    hour: Hour
    subject: Subject
    mark: str
    """Unique to each marking, so that a mark which was renewed is not mistaken for the one that was dealt with."""


@dataclass(frozen=True, slots=True)
class Counters:
    """The table's verbs. Errors of DynamoDB are raised as they are."""

    client: "DynamoDBClient"
    table: str

    def count(self, hour: Hour, key: str, sums: Mapping[str, int], batch: bytes) -> bool:
        """Add a batch's sums to the counters of an hour and key; return False if this batch was already counted.

        One write unit. A replay, by a redelivery or by boto3 after a read timeout, is harmless: the condition and the
        token are part of the same write (I2).
        """
        not_yet_counted = "NOT contains(#batches, :token)"
        names = {f"#m{n}": f"{_NUMBER}{metric}" for n, metric in enumerate(sums)}
        values: dict[str, Any] = {f":m{n}": {"N": str(amount)} for n, amount in enumerate(sums.values())}
        additions = ", ".join(f"#m{n} :m{n}" for n in range(len(sums)))
        try:
            self.client.update_item(
                TableName=self.table,
                Key=_counter_key(hour, key, batch),
                UpdateExpression=f"ADD {additions}, #batches :tokens SET #ttl = :ttl",
                ConditionExpression=not_yet_counted,
                ExpressionAttributeNames={**names, "#batches": "batches", "#ttl": "ttl"},
                ExpressionAttributeValues={
                    **values,
                    ":token": {"B": batch},
                    ":tokens": {"BS": [batch]},
                    ":ttl": {"N": str(_expiry(hour))},
                },
            )
        except self.client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def has_counted(self, hour: Hour, key: str, batch: bytes) -> bool:
        """Say whether the counters of an hour and key have counted a batch; a consistent read."""
        found = self.client.get_item(
            TableName=self.table,
            Key=_counter_key(hour, key, batch),
            ProjectionExpression="#batches",
            ExpressionAttributeNames={"#batches": "batches"},
            ConsistentRead=True,
        )
        return batch in found.get("Item", {}).get("batches", {}).get("BS", [])

    def mark_late(self, hour: Hour, subject: Subject, mark: str) -> None:
        """Ask for an hour to be closed again for a subject. Putting it twice is harmless: it only asks."""
        self.client.put_item(
            TableName=self.table,
            Item={**_mark_key(hour, subject), "mark": {"S": mark}, "ttl": {"N": str(_expiry(hour))}},
        )

    def late_marks(self) -> list[LateMark]:
        """Return every mark there is, oldest hour first."""
        found = side_by_side(lambda n: list(self._query(f"late#{n}")), range(PARTITIONS))
        return sorted(_read_mark(item) for items in found for item in items)

    def clear(self, mark: LateMark) -> None:
        """Delete a mark that was dealt with, unless it has been renewed since it was read."""
        not_renewed = "#mark = :mark"
        # A renewed mark stays for the next run; one that is gone was dealt with by another run.
        with suppress(self.client.exceptions.ConditionalCheckFailedException):
            self.client.delete_item(
                TableName=self.table,
                Key=_mark_key(mark.hour, mark.subject),
                ConditionExpression=not_renewed,
                ExpressionAttributeNames={"#mark": "mark"},
                ExpressionAttributeValues={":mark": {"S": mark.mark}},
            )

    def read(self, hour: Hour, keys: Collection[str] | None = None) -> Counted:
        """Return what has been counted in an hour, for these keys or for all; consistent reads.

        The tokens are read along: DynamoDB bills by the whole item in any case, and a projection would have to name
        the metrics, while every metric that the counters hold must be closed, also one that is declared no longer.
        """
        if keys is not None and len(keys) <= _FEW_KEYS:
            queries: list[tuple[str, str]] = [(_hour_key(hour, partition(key)), f"{key}#") for key in keys]
        else:
            queries = [(_hour_key(hour, n), "") for n in range(PARTITIONS)]
        counted: Counted = {}
        for items in side_by_side(lambda query: list(self._query(*query)), queries):
            for item in items:
                key = item["sk"]["S"].partition("#")[0]
                if keys is None or key in keys:
                    _add_up(counted.setdefault(key, {}), item)
        return counted

    def made_at(self) -> datetime:
        """Return when the table was made."""
        return self.client.describe_table(TableName=self.table)["Table"]["CreationDateTime"]

    def _query(self, pk: str, beginning: str = "") -> Iterable[Item]:
        condition, values = "#pk = :pk", {":pk": {"S": pk}}
        names = {"#pk": "pk"}
        if beginning:
            condition += " AND begins_with(#sk, :beginning)"
            values[":beginning"] = {"S": beginning}
            names["#sk"] = "sk"
        pages = self.client.get_paginator("query").paginate(
            TableName=self.table,
            KeyConditionExpression=condition,
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=values,
            ConsistentRead=True,
        )
        return (item for page in pages for item in page["Items"])


def partition(name: str) -> int:
    """Return the partition of a key or subject: the same in every process, for ever."""
    return zlib.crc32(name.encode()) % PARTITIONS


def _hour_key(hour: Hour, number: int) -> str:
    return f"hour#{hour}#{number}"


def _counter_key(hour: Hour, key: str, batch: bytes) -> Item:
    slot = batch[-1] % SLOTS  # the token is a hash already
    return {"pk": {"S": _hour_key(hour, partition(key))}, "sk": {"S": f"{key}#{slot}"}}


def _mark_key(hour: Hour, subject: Subject) -> Item:
    return {"pk": {"S": f"late#{partition(str(subject))}"}, "sk": {"S": f"{hour}#{subject}"}}


def _read_mark(item: Item) -> LateMark:
    hour, _, subject = item["sk"]["S"].partition("#")
    return LateMark(Hour.parse(hour), Subject.parse(subject), item["mark"]["S"])


def _expiry(hour: Hour) -> int:
    return int((hour.end + COUNTER_LIFE).timestamp())


def _add_up(sums: dict[str, int], item: Item) -> None:
    for name, attribute in item.items():
        if name.startswith(_NUMBER):
            metric = name[len(_NUMBER) :]
            sums[metric] = sums.get(metric, 0) + int(attribute["N"])
