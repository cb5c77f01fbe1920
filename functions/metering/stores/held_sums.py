"""How many rows of customers are held, by reason. In the Ledger table.

Held rows are in no index: they may stay for ever, and nobody posts them. So there are sums, and they are exact: whoever
writes a row that is held for another reason than before changes the sums in the same transaction, and the row itself
says in which sums it is counted. A row that an older version held is in none until it is written again.

The sums belong to no hour. Those of each hour would be as many items as there are hours from which something is held,
and no look at them had a bound. These are :data:`SLOTS` items for ever, three calls of BatchGetItem (I10). Two
transactions at one item at once are refused, which is why they are so many: a worker has 64 customers' rows under way.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| held rows | ``held#<slot>`` | ``sums`` | ``no_stripe_customer``, ``too_old``: how many rows are held for that |
"""

import zlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from metering.model.periods import Hour
from metering.model.subjects import Subject
from metering.model.usage_row import WhyHeld
from metering.stores.table import Table, item_key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

SLOTS: Final = 256

_SK: Final = "sums"


@dataclass(frozen=True, slots=True)
class HeldSums:
    """The sums' verbs. Errors of DynamoDB are raised as they are."""

    client: "DynamoDBClient"
    table: str

    def read(self) -> dict[WhyHeld, int]:
        """Return how many rows of customers are held for each reason; never less than nothing. A consistent read."""
        names = {(f"held#{slot}", _SK): slot for slot in range(SLOTS)}
        items = Table(self.client, self.table).read(names, lambda item: item).values()
        return {why: max(0, sum(int(item[why]["N"]) for item in items if why in item)) for why in WhyHeld}

    def changing(
        self, subject: Subject, hour: Hour, before: Collection[WhyHeld], after: Collection[WhyHeld]
    ) -> list[dict[str, Any]]:
        """Return what a transaction writes, with the row, when a row is held for other reasons; nothing if it is not.

        It is done with the row or not at all, and the row is written once from what it was read as: so it counts once,
        however often it is tried (I2).
        """
        changes = Counter(after)
        changes.subtract(before)
        differing = {why: by for why, by in changes.items() if by}
        if not differing:
            return []
        update = {
            "TableName": self.table,
            "Key": item_key(f"held#{_slot(subject, hour)}", _SK),
            "UpdateExpression": "ADD " + ", ".join(f"#{why} :{why}" for why in differing),
            "ExpressionAttributeNames": {f"#{why}": str(why) for why in differing},
            "ExpressionAttributeValues": {f":{why}": {"N": str(by)} for why, by in differing.items()},
        }
        return [{"Update": update}]


def _slot(subject: Subject, hour: Hour) -> int:
    return zlib.crc32(f"{subject} {hour}".encode()) % SLOTS
