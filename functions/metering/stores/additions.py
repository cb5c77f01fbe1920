"""Additions: what one write adds to one counter, and how it is refused. See :mod:`metering.stores.counters`."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from metering.model.amounts import Amounts
from metering.model.metrics import MOST_NAMES, OTHER
from metering.stores.aws import Item
from metering.stores.table import item_there

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient


_NAME_BYTES: Final = 8


class CountedError(Exception):
    """An item has counted some of the batches that were to be added."""

    def __init__(self, batches: Iterable[bytes]) -> None:
        super().__init__("counted before")
        self.batches = frozenset(batches)


class NoRoomError(Exception):
    """An item has no room for the new values of a batch; ``names`` are the hashes of those that it has."""

    def __init__(self, names: Iterable[bytes]) -> None:
        super().__init__("no room for more values")
        self.names = frozenset(names)


@dataclass(frozen=True, slots=True)
class Addition:
    """Amounts of batches, by the item's attributes, and the hashes of the ``new`` values that these bring."""

    key: Item
    amounts: Mapping[str, int]
    batches: Sequence[bytes]
    ttl: int
    new: Collection[bytes] = ()

    def write(self, client: "DynamoDBClient", table: str) -> None:
        """Add it to the item, which must have counted none of the batches, and have room for the new values.

        Raises CountedError, with those that it has counted, or NoRoomError; then nothing is written. A replay by boto3
        after a read timeout is harmless: the condition and the tokens are part of the same write (I2).
        """
        tokens = {f":token{n or ''}": {"B": batch} for n, batch in enumerate(self.batches)}
        conditions = [f"NOT contains(#batches, {token})" for token in tokens]
        additions = ", ".join(f"#m{n} :m{n}" for n in range(len(self.amounts)))
        names: dict[str, str] = {}
        values: Item = {}
        asking: Any = {}
        if self.new:
            additions += ", #names :names"
            conditions.append("(attribute_not_exists(#names) OR size(#names) <= :room)")
            names["#names"] = "names"
            values = {":names": {"BS": sorted(self.new)}, ":room": {"N": str(MOST_NAMES - len(self.new))}}
        if self.new or len(self.batches) > 1:
            asking = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        try:
            client.update_item(
                TableName=table,
                Key=self.key,
                UpdateExpression=f"ADD {additions}, #batches :tokens SET #ttl = :ttl",
                ConditionExpression=" AND ".join(conditions),
                ExpressionAttributeNames={
                    **{f"#m{n}": name for n, name in enumerate(self.amounts)},
                    "#batches": "batches",
                    "#ttl": "ttl",
                    **names,
                },
                ExpressionAttributeValues={
                    **{f":m{n}": {"N": str(amount)} for n, amount in enumerate(self.amounts.values())},
                    **tokens,
                    ":tokens": {"BS": [*self.batches]},
                    ":ttl": {"N": str(self.ttl)},
                    **values,
                },
                **asking,
            )
        except client.exceptions.ConditionalCheckFailedException as error:
            if not asking:
                raise CountedError(self.batches) from error
            there = item_there(error)
            if counted := {*self.batches} & {*there.get("batches", {}).get("BS", [])}:
                raise CountedError(counted) from error
            if not self.new:  # no condition can have failed but those that are looked at above
                raise
            raise NoRoomError(there.get("names", {}).get("BS", [])) from error
        except ClientError as error:
            if self.new and "Item size" in error.response["Error"].get("Message", ""):
                raise NoRoomError([]) from error
            raise


def total(batches: Mapping[bytes, Amounts]) -> Amounts:
    """Add up what batches brought."""
    added = Amounts()
    for amounts in batches.values():
        added.include(amounts)
    return added


def names_of(amounts: Amounts) -> dict[bytes, tuple[str, str]]:
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
