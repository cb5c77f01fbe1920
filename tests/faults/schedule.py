"""A schedule: batches, who delivers them how often, what goes wrong meanwhile, and the straight count beside it.

What is drawn depends on the seed alone. What the threads and the engine make of it differs from run to run, so a seed
that failed may have to be played several times.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from infra.local.aws.faults import Fate
from metering.model.batches import EventBatch, Source, batch_of
from metering.model.metrics import Count, Metric, Sum, Unique
from metering.model.periods import CLOCK_SKEW, Hour
from metering.stores.counters import SLOTS

METRICS: Final[tuple[Metric, ...]] = (
    Count(name="requests"),
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
class Delivery:
    """One delivery of a batch: in some order, perhaps with events twice, by a clock that is off, perhaps killed."""

    batch: int
    order: int
    skew: timedelta
    killed: tuple[int, bool] = (0, False)
    """At which write it dies, counted from 1 (0: it does not), and whether that write was still done."""


@dataclass(frozen=True, slots=True)
class Closing:
    """A run of a closer: it reads the hours that are due, and those that are marked, by a clock that is off."""

    skew: timedelta


@dataclass(frozen=True, slots=True)
class Weather:
    """How often a request meets each fate; ``burst`` is how many requests in a row then meet the same."""

    chances: Mapping[Fate, float]
    burst: int = 1

    def fates(self, seed: int) -> Iterator[Fate]:
        """Yield what becomes of each request."""
        chance = random.Random(seed)
        fates, weights = list(self.chances), list(self.chances.values())
        while True:
            if not fates or chance.random() >= sum(weights):
                yield Fate.PASSED
            else:
                yield from chance.choices(fates, weights) * chance.randint(1, self.burst)


CALM: Final = Weather({})
SLOW: Final = Weather({Fate.DELAYED: 0.4})
# Each with its weight. Throttling and silence cost the client seconds (botocore's backoff, its read timeout), so they
# are the rarer.
WEATHERS: Final = (
    (6, CALM),
    (4, SLOW),
    (6, Weather({Fate.CUT_BEFORE: 0.03, Fate.CUT_AFTER: 0.05, Fate.FAILED_AFTER: 0.05})),
    (4, Weather({Fate.CUT_BEFORE: 0.02, Fate.CUT_AFTER: 0.01, Fate.FAILED_AFTER: 0.01}, burst=100)),
    (3, Weather({Fate.SWALLOWED: 0.03, Fate.BELATED: 0.05})),
    (1, Weather({Fate.EXCEEDED: 0.02, Fate.THROTTLED: 0.02}, burst=4)),
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is drawn from a seed."""

    seed: int
    start: datetime
    step: timedelta
    """How far the clock moves each time that somebody looks at it."""

    batches: tuple[tuple[Line, ...], ...]
    tasks: tuple[Delivery | Closing, ...]
    weather: Weather
    in_turns: bool
    """Whether its tasks take turns at each write, so that they meet in narrow places; else they run freely."""

    def batch(self, delivery: Delivery) -> EventBatch:
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


def draw(seed: int) -> Schedule:
    """Draw a schedule; the same one for the same seed.

    One in four is narrow: two batches count for one key of one closed hour, which is closed again meanwhile, in turns.
    """
    chance = random.Random(seed)
    narrow = chance.random() < 1 / 4
    start = NOW.start + timedelta(seconds=chance.randint(0, 960))
    closed = Hour.containing(start - LATEST * chance.random())
    hours = [closed] if narrow else chance.sample([NOW, Hour(NOW.number - 1), closed], k=chance.randint(1, 3))
    keys = [KEYS[0]] if narrow else chance.sample(KEYS, k=chance.randint(1, 4))
    crowded = chance.random() < 0.5
    batches = []
    for number in range(2 if narrow else chance.randint(1, 5)):
        size = chance.randint(1, 2 if narrow else 10)
        users = [chance.choice(USERS)] if narrow else USERS  # one claim, so that a task takes its steps in one thread
        lines = [_line(chance, f"{seed}-{number}-{n}", start, hours, keys, users) for n in range(size)]
        batches.append(_crowd(lines) if crowded else tuple(lines))
    return Schedule(
        seed=seed,
        start=start,
        step=timedelta(seconds=chance.choice((0, 5, 60))),
        batches=tuple(batches),
        tasks=tuple(_tasks(chance, len(batches), narrow=narrow)),
        weather=_one_of(chance, WEATHERS),
        in_turns=narrow,
    )


def _one_of(chance: random.Random, weathers: Sequence[tuple[int, Weather]]) -> Weather:
    return chance.choices([weather for _, weather in weathers], [weight for weight, _ in weathers])[0]


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
        "metering": "1",
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
        broken = chance.choice(({"status": "x"}, {"key": "a b"}, {"time": "1"}, {"response_length": str(10**39)}, None))
        message = json.dumps(record | broken) if broken else "no JSON, from " + name
        return Line(Event(name, message), None, {}, bad=True)
    amounts: dict[str, int] = {}
    if key != "-" and status[0] in "23":
        amounts = {"requests": 1} | ({"writes": 1} if method == "POST" else {})
        amounts |= {"bytes": int(length)} if length not in ("-", "0") else {}
    return Line(Event(name, json.dumps(record)), (hour, key), amounts, user if amounts and user != "-" else "")


def _tasks(chance: random.Random, batches: int, *, narrow: bool) -> list[Delivery | Closing]:
    """Return deliveries and closings in the order in which they begin; those of a batch one after the other or not."""
    closings = chance.choice((2, 3) if narrow else (0, 0, 0, 1, 2))
    groups: list[list[Delivery | Closing]] = [[Closing(_skew(chance))] for _ in range(closings)]
    groups += [
        [
            Delivery(
                batch=number,
                order=chance.randrange(10**6),
                skew=_skew(chance),
                killed=_death(chance, likely=0.2 if narrow else 0.4),
            )
            for _ in range(chance.choice((1, 2) if narrow else (1, 1, 2, 2, 3, 4)))
        ]
        for number in range(batches)
    ]
    chance.shuffle(groups)
    tasks = [task for group in groups for task in group]
    if chance.random() < 0.5:
        chance.shuffle(tasks)
    return tasks


def _death(chance: random.Random, *, likely: float) -> tuple[int, bool]:
    return (chance.randint(1, 8), chance.random() < 0.5) if chance.random() < likely else (0, False)


def _crowd(lines: list[Line]) -> tuple[Line, ...]:
    """Give the first event such an id that the batch lands in the first of a key's items, beside others."""
    first = lines[0]
    for n in range(100 * SLOTS):
        event = Event(f"{first.event.id}-{n}", first.event.message)
        found = (replace(first, event=event), *lines[1:])
        if _batch([line.event for line in found]).token[-1] % SLOTS == 0:
            return found
    raise AssertionError("no token ends as it should")


def _skew(chance: random.Random) -> timedelta:
    """Two clocks differ by less than the code allows for."""
    return CLOCK_SKEW * (chance.random() - 0.5) * 0.99


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000
