"""Code that is wrong in a known way: each break would bill wrongly, and the referee has to notice.

A break has a name and says which side's schedules it shows in; `play --break` plays with it.
"""

import hashlib
import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from metering.billing import closing, sending
from metering.counting.recording import Recorder
from metering.model import usage_row
from metering.model.amounts import Amounts
from metering.model.measuring import Usage
from metering.model.periods import CLOCK_SKEW, GRACE, Hour
from metering.model.subjects import Subject, subject_of_source
from metering.stores import marks
from metering.stores.aws import Item
from metering.stores.counters import Counters
from metering.stores.table import Table

Break = Callable[[], AbstractContextManager[Any]]

_count = Counters.count
_record = Recorder._count
_deliveries = itertools.count()


class _Unconditional:
    """A client that leaves out the condition of each update."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def update_item(self, **arguments: Any) -> Any:
        """Update, whatever is there."""
        arguments.pop("ConditionExpression", None)
        for value in (":token", ":room"):
            arguments["ExpressionAttributeValues"].pop(value, None)
        return self._client.update_item(**arguments)


def _without_condition(self: Counters, hour: Hour, key: str, amounts: Amounts, batch: bytes) -> bool:
    client: Any = _Unconditional(self.client)
    return _count(replace(self, client=client), hour, key, amounts, batch)


def _by_delivery(self: Counters, hour: Hour, key: str, amounts: Amounts, batch: bytes) -> bool:
    """Count, with a token that no other delivery has."""
    token = hashlib.sha256(batch + next(_deliveries).to_bytes(8)).digest()[: len(batch)]
    return _count(self, hour, key, amounts, token)


def _swallowing(self: Counters, hour: Hour, key: str, amounts: Amounts, batch: bytes) -> bool:
    """Count, or go on where the table fails."""
    try:
        return _count(self, hour, key, amounts, batch)
    except (BotoCoreError, ClientError):
        return False


class _NoMarks(marks.Marks):
    """Marks that are not made."""

    __slots__ = ()

    def mark_late(self, hour: Hour, subject: Subject, mark: str) -> None:
        """It is too late for that."""


class _Unmarked(Counters):
    """Counters with such marks."""

    __slots__ = ()

    @property
    def marks(self) -> marks.Marks:
        """Return them."""
        return _NoMarks(self.client, self.table)


def _marked_first(self: Recorder, usage: Usage, token: bytes) -> list[bool]:
    """Mark a closed hour before it is counted, so that a closer in between misses the counter."""
    for hour, key in usage.cells:
        if hour.is_due(self.clock(), grace=GRACE - CLOCK_SKEW):
            self.counters.marks.mark_late(hour, subject_of_source(key), token.hex())
    return _record(replace(self, counters=_Unmarked(self.counters.client, self.counters.table)), usage, token)


def _without_waiting(row: usage_row.UsageRow, **how: Any) -> Any:
    """Let a newer total depart although an older posting has no answer yet."""
    free = {
        metric: msgspec.structs.replace(total, posting=None) if _is_older(total) else total
        for metric, total in row.totals.items()
    }
    return usage_row.departing(row.with_totals(free), **how)


def _is_older(total: usage_row.Total) -> bool:
    return total.posting is not None and not total.posting.identifier.endswith(f".r{total.revision}")


def _at_once(row: usage_row.UsageRow, metric: str, reason: str, *, epoch: str) -> usage_row.UsageRow:
    """Forget that a copy of a rejected posting can still land."""
    after = usage_row.rejected(row, metric, reason, epoch=epoch)
    return after.with_totals({metric: msgspec.structs.replace(after.totals[metric], not_before=0)})


def _unchecked(self: Table, item: Item, *, version: int) -> None:  # noqa: ARG001 - as the method is called
    self.put(item)


def _same_name(epoch: str, subject: Any, metric: str, hour: Any, revision: int) -> str:
    return f"{epoch}.{subject.id}.{metric}.{hour}.r{min(revision, 1)}"


def _clear_anyway(self: marks.Marks, marked: marks.Marked) -> None:
    """Delete a mark although it may have been renewed."""
    kind, hour, subject = marked.kind, marked.hour, marked.subject
    self.client.delete_item(TableName=self.table, Key=marks._mark_key(kind, hour, subject))


def _one_by_one(self: Table, *writes: Mapping[str, Any]) -> None:
    """Do a transaction's writes one after the other, whatever is there."""
    for write in writes:
        ((kind, what),) = write.items()
        if kind == "Put":
            self.put(what["Item"])
        elif kind == "Update":
            self.client.update_item(**what)


BREAKS: Final[Mapping[str, Mapping[str, Break]]] = {
    "counting": {
        "no condition": lambda: patch.object(Counters, "count", _without_condition),
        "a token per delivery": lambda: patch.object(Counters, "count", _by_delivery),
        "errors swallowed": lambda: patch.object(Counters, "count", _swallowing),
        "marked before counted": lambda: patch.object(Recorder, "_count", _marked_first),
    },
    "money": {
        "a newer total does not wait for the older one": lambda: patch.object(sending, "departing", _without_waiting),
        "a rejected total is posted again at once": lambda: patch.object(sending, "rejected", _at_once),
        "rows are written without condition": lambda: patch.object(Table, "put_as_read", _unchecked),
        "every revision has one name": lambda: patch.object(usage_row, "identifier", _same_name),
        "a renewed mark is cleared": lambda: patch.object(marks.Marks, "clear", _clear_anyway),
        "nobody asks for invoices to be checked": lambda: patch.object(
            closing.Closer, "_ask_to_check", lambda _self, _hour, _subjects: None
        ),
        "carries are made without condition": lambda: patch.object(Table, "transact", _one_by_one),
    },
}
