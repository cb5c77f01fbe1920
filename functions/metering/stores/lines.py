"""Lines: how many of each log were dealt with, each once. In the Counters table.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| lines | ``lines#<hour>#<partition>`` | ``<log>#<slot>`` | ``lines``; ``batches``: tokens; ``ttl`` |

They are compared with what CloudWatch says was written, so that nothing is lost unseen. A batch is counted here by the
same write as in a counter: once, whoever its lines are of and however often it comes.
"""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from metering.model.batches import Batch, EventBatch, Source
from metering.model.periods import Hour
from metering.stores.additions import Addition, CountedError
from metering.stores.aws import side_by_side
from metering.stores.marks import PARTITIONS
from metering.stores.table import Table

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

LIFE: Final = timedelta(days=8)
"""A day is compared when it is over; a batch that comes later than this is of no day that still is."""


@dataclass(frozen=True, slots=True)
class Lines:
    """The items' verbs. Errors of DynamoDB are raised as they are."""

    client: "DynamoDBClient"
    table: str

    def count_batch(self, batch: Batch, read: int, oldest: int | None, now: datetime) -> None:
        """Count the lines of a batch, once all else is done with them; ``oldest`` in milliseconds since 1970.

        Of the access log those that were ``read``, of others' logs all that were delivered, whatever they hold. In the
        hour in which they were written: it is the same whenever they come, but for an object of which no line can be
        read, whose hour is that of its delivery.
        """
        if isinstance(batch, EventBatch) and batch.log != Source.ACCESS_LOG:
            read = batch.delivered
        if read:
            hour = Hour.of_epoch_ms(batch.at or oldest or int(now.timestamp() * 1000))
            self.count(hour, batch.log, read, batch.token)

    def count(self, hour: Hour, log: str, lines: int, batch: bytes) -> None:
        """Add a batch's lines to those of a log and hour, once (I2); one write unit, also if it was counted before.

        They lie in 4,096 items an hour, each of which stays under 1 KB with its tokens up to 60 batches a second.
        """
        key = {"pk": f"lines#{hour}#{batch[-2] % PARTITIONS}", "sk": f"{log}#{batch[-1]}"}
        expiry = int((hour.end + LIFE).timestamp())
        with suppress(CountedError):
            place = {name: {"S": value} for name, value in key.items()}
            Addition(place, {"lines": lines}, [batch], expiry).write(self.client, self.table)

    def by_hour(self, first: Hour, end: Hour) -> dict[Hour, Counter[str]]:
        """Return how many lines there were of each log in each hour from ``first`` up to ``end``, exclusive.

        Half a read unit for each partition of an hour at least; no consistent reads, since the hours are long over.
        """
        counted: dict[Hour, Counter[str]] = {Hour(number): Counter() for number in range(first.number, end.number)}
        wanted = [(hour, f"lines#{hour}#{part}") for hour in counted for part in range(PARTITIONS)]
        found = side_by_side(self._in_partition, [pk for _, pk in wanted])
        for (hour, _), lines in zip(wanted, found, strict=True):
            counted[hour].update(lines)
        return counted

    def _in_partition(self, pk: str) -> Counter[str]:
        counted: Counter[str] = Counter()
        for item in Table(self.client, self.table).query(pk, consistent=False):
            counted[item["sk"]["S"].rpartition("#")[0]] += int(item["lines"]["N"])
        return counted
