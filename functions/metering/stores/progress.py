"""How far closing, carrying and comparing have got. In the Ledger table.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| period | ``period#<hour>`` | ``close`` | ``state``, ``written_at``, ``closed_at``, ``customers``, ``unmapped`` |
| cursor | ``period#cursor`` | ``close`` | ``hour``: every hour before it is closed |
| invoices | ``period#invoices`` | ``seen`` | ``at``: up to when finalised invoices are noted |
| round | ``period#reconciled`` | ``round`` | the fields of :class:`Round` |
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from metering.model.periods import Hour, due_before, hours
from metering.stores.aws import Item, from_item, to_item
from metering.stores.table import Table, item_key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient


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
class Progress:
    """The verbs of progress. Errors of DynamoDB are raised as they are; reads are consistent."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

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
        first = self.cursor() or Hour(0)
        due = due_before(now)
        if first == Hour(0):
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
