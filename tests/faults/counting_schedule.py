"""Schedules of counting: batches, who delivers them how often, what goes wrong meanwhile, and the straight count."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from metering.model.batches import EventBatch, Source, batch_of
from metering.model.metrics import Count, Metric, Sum, Unique
from metering.model.periods import Hour
from metering.stores.counters import SLOTS
from tests.doubles.access_log import line_of
from tests.faults.fates import Fate
from tests.faults.stage import CALM, UNHURT, Death, Run, Weather, skewed

METRICS: Final[tuple[Metric, ...]] = (
    Count(name="requests", by="method"),
    Count(name="writes", methods=("POST",)),
    Sum(name="bytes", of="response_length"),
    Unique(name="users", of="authorizer.user", opaque_id=True),
)
USERS: Final = ("ada", "bea", "cem", "-")
KEYS: Final = ("key-a", "key-b", "key-c", "key-d", "-")
NOW: Final = Hour.parse("2026-11-22T05")
LATEST: Final = timedelta(days=35)

Where = tuple[Hour, str]


@dataclass(frozen=True, slots=True)
class Event:
    """A log event."""

    id: str
    message: str


@dataclass(frozen=True, slots=True)
class Line:
    """A log event, and what it stands for: where it counts and what, or that it cannot be read."""

    event: Event
    where: Where | None
    amounts: Mapping[str, int]
    user: str = ""
    """Who is to be counted once a month, if anybody."""

    bad: bool = False


@dataclass(frozen=True, slots=True)
class Deliver:
    """A batch is delivered: in some order, perhaps with events twice."""

    batch: int
    order: int


@dataclass(frozen=True, slots=True)
class Close:
    """A run of a closer: it reads the hours that are due, and those that are marked."""


_FEW: Final[Mapping[Enum, float]] = {Fate.LOST: 0.02, Fate.UNANSWERED: 0.05, Fate.REPLAYED: 0.03, Fate.CONFLICT: 0.02}
WEATHERS: Final = (
    (6, CALM),
    (4, Weather("slow", stalls=0.05)),
    (6, Weather("few", _FEW)),
    (4, Weather("lost", {Fate.LOST: 0.2})),
    (4, Weather("late", {Fate.REPLAYED: 0.15, Fate.BELATED: 0.3}, stalls=0.01)),
    (2, Weather("everything", {**_FEW, Fate.BELATED: 0.05}, stalls=0.02)),
)
"""Each with its weight."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is drawn from a seed."""

    seed: int
    start: datetime
    step: timedelta
    """How far the clock moves each time that somebody looks at it."""

    batches: tuple[tuple[Line, ...], ...]
    runs: tuple[Run, ...]
    weather: Weather

    def batch(self, delivery: Deliver) -> EventBatch:
        """Return a batch as this delivery brings it: the same events in another order, some perhaps twice."""
        chance = random.Random(delivery.order)
        events = [line.event for line in self.batches[delivery.batch]]
        events += chance.choices(events, k=chance.choice((0, 0, 0, 2)))
        chance.shuffle(events)
        return _batch(events)

    def straight_count(self) -> dict[Where, dict[str, int]]:
        """Return what each hour and key used: every line once, added up."""
        counted: dict[Where, Counter[str]] = {}
        for batch in self.batches:
            for line in batch:
                if line.where and line.amounts:
                    counted.setdefault(line.where, Counter()).update(line.amounts)
        return {where: dict(sums) for where, sums in counted.items()}

    def distinct_users(self) -> dict[tuple[str, str], int]:
        """Return how many users each month and key saw."""
        seen: dict[tuple[str, str], set[str]] = {}
        for batch in self.batches:
            for line in batch:
                if line.where and line.user:
                    seen.setdefault((line.where[0].month, line.where[1]), set()).add(line.user)
        return {where: len(users) for where, users in seen.items()}

    def bad_lines(self) -> dict[str, str]:
        """Return the lines that cannot be counted, by the id of their event."""
        return {line.event.id: line.event.message for batch in self.batches for line in batch if line.bad}

    def hours(self) -> set[Hour]:
        """Return the hours that lines fall in."""
        return {line.where[0] for batch in self.batches for line in batch if line.where}

    def closed_before(self) -> set[Hour]:
        """Return the hours that a closer has closed, empty, before the schedule begins."""
        return {hour for hour in self.hours() if hour.is_due(self.start)}


def draw(seed: int, *, narrow: bool = False) -> Schedule:
    """Draw a schedule; the same one for the same seed.

    One in four is narrow, or each if asked for: two batches count for one key of one closed hour, which is closed again
    meanwhile.
    """
    chance = random.Random(seed)
    narrow = chance.random() < 1 / 4 or narrow
    start = NOW.start + timedelta(seconds=chance.randint(0, 960))
    closed = Hour.containing(start - LATEST * chance.random())
    hours = [closed] if narrow else chance.sample([NOW, Hour(NOW.number - 1), closed], k=chance.randint(1, 3))
    keys = [KEYS[0]] if narrow else chance.sample(KEYS, k=chance.randint(1, 4))
    crowded = chance.random() < 0.5
    weights, weathers = zip(*WEATHERS, strict=True)
    batches = []
    for number in range(2 if narrow else chance.randint(1, 5)):
        size = chance.randint(1, 2 if narrow else 10)
        users = [chance.choice(USERS)] if narrow else USERS
        lines = [_line(chance, f"{seed}-{number}-{n}", start, hours, keys, users) for n in range(size)]
        batches.append(_crowd(lines) if crowded else tuple(lines))
    return Schedule(
        seed=seed,
        start=start,
        step=timedelta(seconds=chance.choice((0, 5, 60))),
        batches=tuple(batches),
        runs=tuple(_runs(chance, len(batches), narrow=narrow)),
        weather=chance.choices(weathers, weights)[0],
    )


def _batch(events: Sequence[Event]) -> EventBatch:
    ids, lines = [event.id for event in events], [event.message for event in events]
    return batch_of(ids, lines, Source.ACCESS_LOG, "log-group stream")


def _line(  # noqa: PLR0913, PLR0917 - what a line is drawn from
    chance: random.Random, name: str, start: datetime, hours: list[Hour], keys: list[str], users: Sequence[str]
) -> Line:
    user = chance.choice(users)
    hour, key = chance.choice(hours), chance.choice(keys)
    status, method = chance.choice(("200", "200", "201", "304", "403", "500")), chance.choice(("GET", "POST"))
    length = chance.choice(("-", "0", "1", "1000", str(10**12)))
    first, last = _milliseconds(hour.start), min(_milliseconds(hour.end), _milliseconds(start) + 1) - 1
    record = {
        "request_id": name,
        "time": str(chance.choice((first, last, chance.randint(first, last)))),
        "key": key,
        "status": status,
        "method": method,
        "resource": "/items",
        "response_length": length,
        "response_latency": "5",
        "integration_latency": "-",
        "authorizer.user": user,
    }
    if chance.random() < 0.08:
        broken = chance.choice(({"status": "x"}, {"key": "a b "}, {"time": "1"}, {"request_id": "-"}, None))
        message = line_of(record | broken) if broken else "no JSON, from " + name
        return Line(Event(name, message), None, {}, bad=True)
    amounts: dict[str, int] = {}
    if key != "-" and status[0] in "23":
        amounts = {"requests": 1} | ({"writes": 1} if method == "POST" else {})
        amounts |= {"bytes": int(length)} if length not in ("-", "0") else {}
    return Line(Event(name, line_of(record)), (hour, key), amounts, user if amounts and user != "-" else "")


def _runs(chance: random.Random, batches: int, *, narrow: bool) -> list[Run]:
    """Return closings and deliveries, those of a batch beside each other or not."""
    runs = [Run(Close(), skewed(chance)) for _ in range(chance.choice((2, 3) if narrow else (0, 0, 0, 1, 2)))]
    for number in range(batches):
        for _ in range(chance.choice((1, 2) if narrow else (1, 1, 2, 2, 3, 4))):
            dies = chance.random() < (0.2 if narrow else 0.4)
            death = Death(chance.randint(1, 8), accepted=chance.random() < 0.5) if dies else UNHURT
            runs.append(Run(Deliver(number, chance.randrange(10**6)), skewed(chance), death))
    return runs


def _crowd(lines: list[Line]) -> tuple[Line, ...]:
    """Give the first event such an id that the batch lands in the first of a key's items, beside others."""
    first = lines[0]
    for n in range(100 * SLOTS):
        event = Event(f"{first.event.id}-{n}", first.event.message)
        found = (replace(first, event=event), *lines[1:])
        if _batch([line.event for line in found]).token[-1] % SLOTS == 0:
            return found
    raise AssertionError("no token ends as it should")


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000
