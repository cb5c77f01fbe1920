"""Code that is wrong in a known way: each break would bill wrongly, and the referee has to notice.

A break has a name and says which side's schedules it shows in; `play --break` plays with it.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from functools import partial
from typing import Any, Final
from unittest.mock import patch

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from metering.billing import closing, noting, sending, settling, unbilled
from metering.billing.accounts import Account
from metering.billing.carrying import Carrier
from metering.billing.closed import Closed
from metering.billing.closing import Closer
from metering.billing.late_marks import LateMarks
from metering.billing.settling import Settler
from metering.billing.writing import RowWriter
from metering.counting.recording import Recorder
from metering.limits import gate, standing
from metering.limits.asking import Asking
from metering.limits.gate import Gate
from metering.limits.keys import PlanKeys
from metering.limits.looking import Looker
from metering.limits.usage_plans import UsagePlan
from metering.limits.watching import Watcher
from metering.model import limits, usage_row
from metering.model.amounts import Amounts
from metering.model.limits import LimitState
from metering.model.measuring import Usage
from metering.model.periods import CLOCK_SKEW, GRACE, Hour
from metering.model.subjects import Subject, subject_of_source
from metering.stores import counters, gate_list, marks, table
from metering.stores.aws import Item
from metering.stores.claims import PARTS
from metering.stores.counters import Counters
from metering.stores.gate_list import Asked, GateList
from metering.stores.limits import LimitItems
from metering.stores.progress import Join, Lease, Leased, Piece, Progress
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


# --- closing ----------------------------------------------------------------------------------------------------------

_close_step = Closer._close_step
_close_some = LateMarks._close_some
_join = Settler._join


def _noted_first(self: Closer, hour: Hour, number: int, did: Closed, lease: Lease[Piece]) -> None:
    """Note how far a piece is before its rows are written."""
    stream = self.counters.in_order(hour, number, after=lease.done.after)
    while step := [*itertools.islice(stream, closing.STEP)]:
        lease.save(msgspec.structs.replace(lease.done, after=step[-1][0]))
        lease.save(self._close_step(hour, step, lease.done, did))
        self._writer.check_time()
    lease.end(msgspec.structs.replace(lease.done, read=True))


def _left_forgotten(self: Closer, hour: Hour, step: Sequence[tuple[str, Amounts]], done: Piece, did: Closed) -> Piece:
    """Close a step, and forget what has to wait."""
    return msgspec.structs.replace(_close_step(self, hour, step, done, did), left=done.left)


def _pages(self: Counters, hour: Hour, number: int, after: str) -> Iterator[list[Item]]:
    asked = table._condition("pk", counters._hour_key(hour, number), after=f"{after}$" if after else "")
    pages = self.client.get_paginator("query").paginate(TableName=self.table, ConsistentRead=True, **asked)
    return ([*page["Items"]] for page in pages if page["Items"])


def _grouped(pages: Iterator[list[Item]]) -> Iterator[tuple[str, Amounts]]:
    for source, items in itertools.groupby(itertools.chain.from_iterable(pages), key=counters._source_of):
        yield source, counters._added_up(items)


def _cut_twice(self: Counters, hour: Hour, number: int, *, after: str = "") -> Iterator[tuple[str, Amounts]]:
    """Begin the next page with the last item of the one before."""
    before: list[Item] = []

    def pages() -> Iterator[list[Item]]:
        nonlocal before
        for items in _pages(self, hour, number, after):
            yield [*before, *items]
            before = items[-1:]

    return _grouped(pages())


def _cut_lost(self: Counters, hour: Hour, number: int, *, after: str = "") -> Iterator[tuple[str, Amounts]]:
    """Forget what the page before had of a key that goes on in the next one."""
    for items in _pages(self, hour, number, after):
        yield from _grouped(iter([items]))


def _page_skipped(self: Counters, hour: Hour, number: int, *, after: str = "") -> Iterator[tuple[str, Amounts]]:
    return _grouped(itertools.islice(_pages(self, hour, number, after), 0, None, 2))


def _cleared_first(self: LateMarks, some: Sequence[marks.Marked], did: Closed) -> Any:
    for mark in some:
        self.marks.clear(mark)
    return _close_some(self, some, did)


def _cleared_anyway(self: LateMarks, some: Sequence[marks.Marked], did: Closed) -> Any:
    """Clear the marks of those, too, who have to wait."""
    _close_some(self, some, did)
    for mark in some:
        self.marks.clear(mark)
    return []


def _resumed_anyway(self: Settler, values: settling.Values, metric: str, asked: frozenset[str]) -> Join:
    """Join claims from where an earlier run has got to, whatever that was begun for."""
    hour, name = values.row.hour, values.row.subject.id
    join_from = partial(self.uniques.join, values.held, name, metric, hour)
    join = self.ledger.progress.join(hour, name, metric) if asked else Join()
    while join.parts < PARTS:
        until = self.clock() + settling._SAVED_EVERY
        join = join_from(join, most=None if asked else settling.MOST_CLAIMS, go_on=partial(self._is_before, until))
        if asked and join.parts < PARTS:
            self.ledger.progress.save_join(hour, name, metric, join)
    return join


def _answered_anyway(self: Settler, values: settling.Values, metric: str, asked: frozenset[str]) -> Join:
    """Take what is gone on with for an answer to all that is asked now."""
    join = _join(self, values, metric, asked)
    values.answered = None
    return join


def _saved_anyway(self: Progress, before: Leased[Any], after: Leased[Any]) -> Leased[Any]:
    """Write how far work is, whoever has it by now."""
    item = self._items.get(*before.place)
    there = int(item["version"]["N"]) if item else 0
    return _save_leased(self, replace(before, version=there), after)


_save_leased = Progress.save_leased


def _all_or_none(self: RowWriter, hour: Hour, theirs: Mapping[str, Any], _waiting: Any) -> counters.Counted:
    """Read what customers' other keys were counted for, of all or of none."""
    return self.counters.of_sources(hour, theirs)


# --- limits -----------------------------------------------------------------------------------------------------------

_decide = limits.decide
_put_closed = GateList.put_closed
_ask = Asking.ask
_tell_by_look = Looker._tell
_bring = Gate.bring
_held_keys = Gate._held
_wanted = Gate._wanted
_wish = PlanKeys._wish


def _acts_again(limit: Any, before: LimitState, window: Any, used: int, now: Any) -> LimitState:
    """Decide, and let a step act again once what was used has fallen below it."""
    after = _decide(limit, before, window, used, now)
    reached = {limits.written(step) for step in limit.steps if used >= limit.threshold(step)}
    return msgspec.structs.replace(after, acted={step: at for step, at in after.acted.items() if step in reached})


def _never_lower(limit: Any, before: LimitState, window: Any, used: int, now: Any) -> LimitState:
    """Decide, and stay closed until the window ends."""
    after = _decide(limit, before, window, used, now)
    return msgspec.structs.replace(after, level=max(after.level, before.level)) if before.is_of(window) else after


def _lane_as_home(self: PlanKeys, level: Any, home: Any, seen: Sequence[UsagePlan], *lost: Any, **how: Any) -> Any:
    """Take a lane in which a key is seen for a plan like any other."""
    return _wish(self, level, home, [replace(plan, name="", lane_of="") for plan in seen], *lost, **how)


def _told_first(self: Looker, one: Any, states: dict[str, LimitState], reached: Sequence[Any]) -> None:
    """Write that thresholds are told, then tell them."""
    for name in {each.limit.name for each in reached}:
        done = {(each.told.step, each.told.at) for each in reached if each.limit.name == name}
        states[name] = self._told(one.name, name, states[name], done, done)
    self.teller.tell(one, reached)


def _asked_once(self: Asking, name: str, asked: Asked) -> None:
    """Ask before a reason is written, and not after it."""
    if not asked.saved:
        _ask(self, name, asked)


def _by_the_first(reasons: Iterable[limits.Reason]) -> limits.Level:
    """Go by one reason, whatever the others ask for."""
    return next((reason.level for reason in reasons), limits.Level.OPEN)


class _ReadingOnce(Gate):
    """A gate that reads why keys are to be closed once in its life."""

    def _wanted(self, one: Any) -> Any:
        return self.__dict__.setdefault("wanted", _wanted(self, one))


def _read_once(self: Gate, name: str, *going_on: Any) -> Any:
    """Bring a customer, and take it that meanwhile nothing has changed."""
    return _bring(_ReadingOnce(*(getattr(self, one.name) for one in fields(Gate))), name, *going_on)


def _first_key(self: Gate, name: str, now: Any) -> Any:
    held = _held_keys(self, name, now)
    return replace(held, keys=held.keys[:1])


def _homeless(self: GateList, name: str, closed: gate_list.Closed) -> None:
    """Write that a customer is closed, and not where its keys belong."""
    _put_closed(self, name, msgspec.structs.replace(closed, homes={}))


def _nothing(*_: Any, **__: Any) -> set[Any]:
    return set()


def _never(*_: Any, **__: Any) -> None:
    """Find no reason."""


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
            RowWriter, "_ask_to_check", lambda _self, _hour, _subjects: None
        ),
        "carries are made without condition": lambda: patch.object(Table, "transact", _one_by_one),
        "how far a piece is is noted before its rows are written": lambda: patch.object(
            Closer, "_close_piece", _noted_first
        ),
        "a left key is forgotten": lambda: patch.object(Closer, "_close_step", _left_forgotten),
        "an hour is written although keys are left": lambda: patch.object(
            Piece, "is_done", property(lambda piece: piece.read)
        ),
        "a key that a page cuts counts twice": lambda: patch.object(Counters, "in_order", _cut_twice),
        "a key that a page cuts is half lost": lambda: patch.object(Counters, "in_order", _cut_lost),
        "a page is skipped": lambda: patch.object(Counters, "in_order", _page_skipped),
        "who cannot be read fails the step": lambda: patch.object(RowWriter, "_count_beside", _all_or_none),
        "holders are not read again": lambda: patch.object(RowWriter, "_moved", _nothing),
        "a mark is cleared before its rows are written": lambda: patch.object(LateMarks, "_close_some", _cleared_first),
        "a mark that has to wait is cleared": lambda: patch.object(LateMarks, "_close_some", _cleared_anyway),
        "joins are resumed whatever changed": lambda: patch.object(Settler, "_join", _resumed_anyway),
        "what is gone on with answers what was asked since": lambda: patch.object(Settler, "_join", _answered_anyway),
        "hours that an earlier claim overtakes are not marked": lambda: patch.object(
            Settler, "_mark_overtaken", _nothing
        ),
        "a void invoice bills as ever": lambda: patch.object(
            Account, "quantity", property(lambda account: account.stated)
        ),
        "an hour that is billed anew is carried, too": lambda: patch.object(
            Carrier, "_as_billed", lambda _self, line, _noted: line
        ),
        "of an ended subscription's hour nobody is told": lambda: patch.object(unbilled, "why_unbilled", _never),
        "invoices are found by events alone": lambda: patch.object(noting, "_KEPT", 10**9),
    },
    "limits": {
        "limits are written without condition": lambda: patch.object(Table, "put_as_read", _unchecked),
        "a step acts again after a correction": lambda: patch.object(standing, "decide", _acts_again),
        "what has acted in a window that is over acts in no other": lambda: patch.object(
            LimitState, "is_of", lambda state, _window: bool(state.begin)
        ),
        "thresholds are noted as told before they are": lambda: patch.object(Looker, "_tell", _told_first),
        "the first reason decides for all": lambda: patch.object(gate, "level_by", _by_the_first),
        "a lane is a home": lambda: patch.object(PlanKeys, "_wish", _lane_as_home),
        "a level never falls": lambda: patch.object(standing, "decide", _never_lower),
        "who was near stays on the list": lambda: patch.object(GateList, "drop_near", _nothing),
        "what is kept of closed hours is never added up again": lambda: patch.object(
            LimitItems, "note_change", _nothing
        ),
        "where keys belong is in the ledger alone": lambda: patch.object(GateList, "put_closed", _homeless),
        "the first key is all keys": lambda: patch.object(Gate, "_held", _first_key),
    },
}

HARMLESS: Final[Mapping[str, Mapping[str, Break]]] = {
    "money": {
        "how far a piece is is saved by runs that have lost it": lambda: patch.object(
            Progress, "save_leased", _saved_anyway
        ),
    },
    "limits": {
        "the gate is asked before a reason is written alone": lambda: patch.object(Asking, "ask", _asked_once),
        "reasons are not read again after keys were brought": lambda: patch.object(Gate, "bring", _read_once),
        "a worker keeps its lease": lambda: patch.object(GateList, "give_back", _nothing),
        "nobody watches the stream": lambda: patch.object(Watcher, "take", _nothing),
    },
}
"""What does nothing wrong.

Of money: whoever says last how far a piece is, what it says is true; leases only spare work.
Of limits: the next sweep finds whoever is not as wanted, so that these make it later, and not wrong."""
