"""Marks: what is asked for of an hour, until somebody has done it. In the Counters table.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| mark | ``late#<partition>``, ``check#…`` | ``<hour>#<subject>`` | ``mark``: unique to the last one; ``times`` |
"""

import uuid
import zlib
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from metering.model.periods import Hour
from metering.model.subjects import Subject
from metering.stores.aws import Item, side_by_side
from metering.stores.table import Table

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

PARTITIONS: Final = 16
"""Closing an hour is this many queries, side by side; and no partition key gets all of an hour's writes."""


MOST_LOOKED_AT: Final = 60
"""Marks of a partition that somebody reads who looks for a few: two read units."""


MOST_COUNTED: Final = 16_000
"""More late marks are not counted: of each partition a thousand, for some 20 read units."""


class Mark(StrEnum):
    """What is asked for, for an hour and a subject. Whoever does it deletes the mark."""

    LATE = "late"
    """Something changed in an hour that may be closed: it has to be closed again."""

    CHECK = "check"
    """A closed hour was written again: is what invoices bill still what the ledger says?"""


@dataclass(frozen=True, slots=True, order=True)
class Marked:
    """A mark as it was read."""

    hour: Hour
    subject: Subject
    mark: str
    """Unique to the last marking."""

    times: int
    """How often it was asked for: with ``mark``, it tells a mark that was renewed from the one that was dealt with."""

    kind: Mark = Mark.LATE

    @property
    def partition(self) -> int:
        """The partition that it is in."""
        return partition(str(self.subject))

    @property
    def place(self) -> str:
        """Where it stands in its partition."""
        return f"{self.hour}#{self.subject}"


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks' verbs. Errors of DynamoDB are raised as they are."""

    client: "DynamoDBClient"
    table: str

    def mark_late(self, hour: Hour, subject: Subject, mark: str) -> None:
        """Ask for an hour to be closed again for a subject. Asking twice is harmless."""
        self.client.update_item(**self.marking(Mark.LATE, hour, subject, mark))

    def mark_to_check(self, hour: Hour, subject: Subject) -> None:
        """Ask whether what is billed of a customer's hour is still right. Asking twice is harmless."""
        self.client.update_item(**self.marking(Mark.CHECK, hour, subject, new_mark()))

    def marking(self, kind: Mark, hour: Hour, subject: Subject, mark: str) -> Any:
        """Return the update that asks for something, for a call of its own or for a transaction.

        A mark says how often it was asked for, too: a request that boto3 sends again after a read timeout can land
        late, over the mark of another batch, and must not look like the one that a closer has read before both (I4).
        """
        return {
            "TableName": self.table,
            "Key": _mark_key(kind, hour, subject),
            "UpdateExpression": "SET #mark = :mark ADD #times :once",
            "ExpressionAttributeNames": {"#mark": "mark", "#times": "times"},
            "ExpressionAttributeValues": {":mark": {"S": mark}, ":once": {"N": "1"}},
        }

    def of_kind(self, kind: Mark) -> list[Marked]:
        """Return every mark of a kind, oldest hour first."""
        found = side_by_side(lambda n: list(Table(self.client, self.table).query(f"{kind}#{n}")), range(PARTITIONS))
        return sorted(_read_mark(kind, item) for items in found for item in items)

    def some(self, number: int, after: str, most: int) -> list[Marked]:
        """Return the first ``most`` late marks of a partition after one's :attr:`Marked.place`, the oldest hour first.

        A consistent read: a mark that was put before is seen.
        """
        items = Table(self.client, self.table).query(f"{Mark.LATE}#{number}", after=after, most=most)
        return [_read_mark(Mark.LATE, item) for item in items]

    def late_count(self, before: Hour) -> int:
        """Return how many late marks of hours before one there are; :data:`MOST_COUNTED` mean that many or more.

        Of each partition its share is counted (I10): marks are spread evenly, but for many of one customer.
        """
        share = MOST_COUNTED // PARTITIONS

        def count(number: int) -> int:
            return self.client.query(
                TableName=self.table,
                KeyConditionExpression="#pk = :pk AND #sk BETWEEN :first AND :end",
                ExpressionAttributeNames={"#pk": "pk", "#sk": "sk"},
                ExpressionAttributeValues={
                    ":pk": {"S": f"{Mark.LATE}#{number}"},
                    ":first": {"S": f"{Hour(0)}#"},
                    ":end": {"S": f"{before}"},  # comes before every mark of that hour
                },
                Select="COUNT",
                Limit=share,
            )["Count"]

        counts = side_by_side(count, range(PARTITIONS))
        return MOST_COUNTED if any(number == share for number in counts) else sum(counts)

    def asked(self, hours: Iterable[Hour], subjects: Collection[Subject]) -> set[Hour]:
        """Return those of the hours that are to be closed again for one of these subjects."""
        keys = [_mark_key(Mark.LATE, hour, subject) for hour in hours for subject in subjects]
        wanted = {(key["pk"]["S"], key["sk"]["S"]): (key["pk"]["S"], key["sk"]["S"]) for key in keys}
        found = Table(self.client, self.table).read(wanted, lambda item: _read_mark(Mark.LATE, item).hour)
        return {*found.values()}

    def late_hours(self, subjects: Iterable[Subject], first: Hour, end: Hour) -> list[Hour]:
        """Return the hours from ``first`` up to ``end``, exclusive, that are to be closed again for these subjects.

        Of each partition :data:`MOST_LOOKED_AT` are read, oldest hour first: what lies beyond waits until others' marks
        are cleared.
        """
        if first >= end:
            return []
        wanted = {str(subject) for subject in subjects}

        def look(number: int) -> list[Item]:
            return self.client.query(
                TableName=self.table,
                KeyConditionExpression="#pk = :pk AND #sk BETWEEN :first AND :end",
                ProjectionExpression="#sk",
                ExpressionAttributeNames={"#pk": "pk", "#sk": "sk"},
                ExpressionAttributeValues={
                    ":pk": {"S": f"{Mark.LATE}#{number}"},
                    ":first": {"S": f"{first}#"},
                    ":end": {"S": f"{end}"},  # comes before every mark of that hour
                },
                ConsistentRead=True,
                Limit=MOST_LOOKED_AT,
            )["Items"]

        pages = side_by_side(look, sorted({partition(subject) for subject in wanted}))
        names = (item["sk"]["S"].partition("#") for items in pages for item in items)
        return sorted({Hour.parse(hour) for hour, _, subject in names if subject in wanted})

    def clear(self, marked: Marked) -> None:
        """Delete a mark that was dealt with, unless it has been renewed since it was read."""
        not_renewed = "#mark = :mark AND #times = :times"
        # A renewed mark, or one that somebody is just renewing, stays for the next run; one that is gone was dealt with
        # by another run.
        exceptions = self.client.exceptions
        with suppress(exceptions.ConditionalCheckFailedException, exceptions.TransactionConflictException):
            self.client.delete_item(
                TableName=self.table,
                Key=_mark_key(marked.kind, marked.hour, marked.subject),
                ConditionExpression=not_renewed,
                ExpressionAttributeNames={"#mark": "mark", "#times": "times"},
                ExpressionAttributeValues={":mark": {"S": marked.mark}, ":times": {"N": str(marked.times)}},
            )


def new_mark() -> str:
    """Return a mark that is unique to this marking: it names nothing.

    A mark that came from its batch would be the same when the batch is delivered again, after another batch's: a closer
    that had read the first would then clear the third, and with it what the second had asked for (I4).
    """
    return uuid.uuid4().hex


def partition(name: str) -> int:
    """Return the partition of a key or subject: the same in every process, for ever."""
    return zlib.crc32(name.encode()) % PARTITIONS


def _mark_key(kind: Mark, hour: Hour, subject: Subject) -> Item:
    return {"pk": {"S": f"{kind}#{partition(str(subject))}"}, "sk": {"S": f"{hour}#{subject}"}}


def _read_mark(kind: Mark, item: Item) -> Marked:
    hour, _, subject = item["sk"]["S"].partition("#")
    return Marked(Hour.parse(hour), Subject.parse(subject), item["mark"]["S"], int(item["times"]["N"]), kind)
