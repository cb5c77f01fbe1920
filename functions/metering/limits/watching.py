"""Watching: what the stream of the counters tells → an exact look at whoever may have come to a threshold.

A process sees some of what is counted, and forgets everything at any time. So it decides nothing, but only whom to look
at, and when::

    record ─▶ source, what was added ─▶ taken off its allowance ─▶ something is left: that was all
                                                 │
                                        nothing is left, or it is new and its customer is near
                                                 ▼
                              its customer, once a batch: an exact look ─▶ new allowances of its sources

What is lost is found by the sweep: each minute of who is near, each quarter of an hour of others, each hour of who is
far. What comes twice, in another order or late only makes allowances too small, and a look too many decides nothing
wrongly.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from aws_lambda_powertools import Logger

from metering.limits.allowances import Allowances
from metering.limits.looking import Looked, Looker
from metering.limits.nearness import entry_of
from metering.limits.sweeping import FAILURES
from metering.model.periods import Hour
from metering.model.prices import limited_metrics
from metering.stores.aws import side_by_side
from metering.stores.counter_changes import MalformedRecordError, added
from metering.stores.gate_list import MOST_NEAR, GateList
from metering.stores.holders import Holders, mapped_to
from metering.stores.table import TABLE_ERRORS

logger = Logger(child=True)

LIST_ASKED: Final = timedelta(seconds=5)
"""How often it is asked at most whether it has changed who is near."""

PAUSE: Final = timedelta(seconds=1)
"""A customer is looked at so often at most, unless it has so little left that each use calls for a look."""

SOURCES_A_SECOND: Final = 200
"""Of one with more sources the pause is as much longer, whatever it has left, since a look reads each of them (I6)."""

PAUSE_AFTER_FAILURE: Final = timedelta(seconds=10)

MOST_LOOKS: Final = 500
"""Looks of one batch, some side by side; the others are owed to the next one."""

MOST_OWED: Final = 10_000
"""Customers who are owed a look; further ones are left to the sweep."""


@dataclass(slots=True)
class Taken:
    """What a batch came to: records that were read and ``skipped``, who was ``looked`` at, looks owed and failed."""

    records: int = 0
    skipped: int = 0
    looked: list[str] = field(default_factory=list)
    failed: int = 0
    owed: int = 0


@dataclass(slots=True)
class Used:
    """What a batch adds to a source, by metric, and in which hours."""

    amounts: dict[str, int] = field(default_factory=dict)
    hours: set[Hour] = field(default_factory=set)


@dataclass(slots=True)
class Watcher:
    """Knows whom to look at, as far as one process can; it takes one batch at a time."""

    looker: Looker
    gate_list: GateList
    holders: Holders
    _allowances: Allowances = field(init=False, repr=False)
    _head: int = -1
    _asked: datetime | None = None
    _owed: dict[str, None] = field(default_factory=dict, repr=False)
    _pauses: dict[str, datetime] = field(default_factory=dict, repr=False)
    """Until when a customer is not looked at again."""

    def __post_init__(self) -> None:
        self._allowances = Allowances(limited_metrics(self.looker.plans))

    def take(self, records: Sequence[Mapping[str, Any]], now: datetime) -> Taken:
        """Take a batch of the stream, and look at whom it calls for.

        A record that cannot be read is told in the log and skipped. What DynamoDB raises of what is read for all, who
        is near and who holds which key, is raised, so that the batch comes again. A look that fails is told, and owed:
        the next batches make it after a while (I6), or else the sweep. Where several failed and none did not, it is
        DynamoDB that fails, and the first error is raised.
        """
        taken = Taken()
        used = self._read(records, taken)
        self._ask_who_is_near(now)
        spent = {source: one for source, one in used.items() if self._is_spent(source, one, now)}
        sources = self._customers_of(spent, now)
        ready = self._ready([*{**self._owed, **sources}], now)
        failures = self._look_at({name: sources.get(name, ()) for name in ready}, taken, now)
        taken.failed, taken.owed = len(failures), len(self._owed)
        if len(failures) > 1 and not taken.looked and isinstance(failures[0], TABLE_ERRORS):
            raise failures[0]
        return taken

    def _read(self, records: Sequence[Mapping[str, Any]], taken: Taken) -> dict[str, Used]:
        used: dict[str, Used] = {}
        for record in records:
            try:
                one = added(record)
            except MalformedRecordError as error:
                taken.skipped += 1
                logger.warning("a record of the counters' stream is skipped", reason=str(error))
                continue
            taken.records += 1
            if one is not None:
                so_far = used.setdefault(one.source, Used())
                so_far.hours.add(one.hour)
                for metric, amount in one.amounts.items():
                    so_far.amounts[metric] = so_far.amounts.get(metric, 0) + amount
        return used

    def _ask_who_is_near(self, now: datetime) -> None:
        """Read who is near, if that has changed, and has not been asked a moment ago."""
        if self._asked is not None and timedelta(0) <= now - self._asked < LIST_ASKED:
            return
        head, jump = self.gate_list.head()
        if head != self._head:
            self._allowances.learn(self.gate_list.near(), jump, _s(now))
        self._head, self._asked = head, now

    def _is_spent(self, source: str, used: Used, now: datetime) -> bool:
        return self._allowances.is_spent(source, used.amounts, _s(now))

    def _customers_of(self, spent: Mapping[str, Used], now: datetime) -> dict[str, list[str]]:
        """Return whose these sources are or were in the hours of their usage, each with its sources.

        What is nobody's is remembered, and asked for no more.
        """
        found: dict[str, list[str]] = {}
        unknown: list[str] = []
        for source in spent:
            if name := self._allowances.customer_of(source):
                found.setdefault(name, []).append(source)
            else:
                unknown.append(source)
        for source, holding in self.holders.holdings(unknown, consistent=False).items():
            owners = {owner.id for hour in spent[source].hours if (owner := mapped_to(holding, hour))}
            for name in owners:
                found.setdefault(name, []).append(source)
            if not owners:
                self._allowances.allow("", {}, [source], _s(now))
        return found

    def _ready(self, names: Collection[str], now: datetime) -> list[str]:
        """Return who is to be looked at now; the others are owed a look."""
        self._pauses = {name: until for name, until in self._pauses.items() if until > now}
        ready = [name for name in names if name not in self._pauses][:MOST_LOOKS]
        at_once = {*ready}
        self._owed = dict.fromkeys([name for name in names if name not in at_once][:MOST_OWED])
        return ready

    def _look_at(self, wanted: Mapping[str, Collection[str]], taken: Taken, now: datetime) -> list[Exception]:
        """Look at customers, whose sources of this batch are given, and remember what they have left."""
        failures: list[Exception] = []
        entered = False
        for name, looked in zip(wanted, side_by_side(lambda name: self._look(name, now), wanted), strict=True):
            if isinstance(looked, Exception):
                failures.append(looked)
                self._owed[name] = None
                self._pauses[name] = now + PAUSE_AFTER_FAILURE
                continue
            taken.looked.append(name)
            has_little = self._allowances.allow(name, looked.left, {*looked.sources, *wanted[name]}, _s(now))
            pause = len(looked.sources) // SOURCES_A_SECOND * PAUSE
            if pause or not has_little:
                self._pauses[name] = now + max(PAUSE, pause)
            entered |= self._enter(looked, now)
        if entered:
            self.gate_list.move_head()
        return failures

    def _look(self, name: str, now: datetime) -> Looked | Exception:
        try:
            return self.looker.look(name, now)
        except FAILURES as error:
            logger.warning("a customer could not be looked at", customer=name, reason=repr(error))
            return error

    def _enter(self, looked: Looked, now: datetime) -> bool:
        """Enter who is near into the list, where it says nothing of that or too much, so that every process knows.

        The sweep, a minute later, brings the list to the nearest.
        """
        near = self._allowances.near
        if not looked.near or not self._allowances.is_to_be_entered(looked.name, looked.left):
            return False
        if looked.name not in near and len(near) >= MOST_NEAR:
            return False
        entry = entry_of(looked, now)
        self.gate_list.put_near(looked.name, entry)
        self._allowances.enter(looked.name, entry)
        return True


def _s(now: datetime) -> int:
    return int(now.timestamp())
