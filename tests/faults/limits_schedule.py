"""Schedules of limits: who uses how much, who notices, what is changed and what fails meanwhile, drawn from a seed."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from metering.model.limits import SPEND, AnyLimit, Limit, Notify, Slow, Spend, Step, Stop
from metering.model.periods import Hour
from metering.model.prices import Flat, Graduated, PerUnit, Plan, Price, Tier
from tests.faults.counted import Adjust, Deliver, Line
from tests.faults.fates import Fate
from tests.faults.limits_aws import Trouble, UsagePlan
from tests.faults.stage import CALM, UNHURT, Death, Episode, Run, Weather, skewed

SHARDS: Final = 3
"""Of the Counters table's stream."""

UNLIMITED: Final = "una"
"""A customer whom no limit concerns, and whom nobody may touch."""

LIMITED: Final = ("ann", "bob", "cyd")

STARTS: Final = ("2026-11-22T05:20", "2026-11-22T22:30", "2026-11-30T22:10")
"""Within a day; before a day turns; before a month does."""

PRICES: Final[tuple[Price, ...]] = (
    PerUnit(metric="requests", amount=10),
    Graduated(metric="bytes", tiers=(Tier(up_to=1000, amount=0), Tier(amount="0.5"))),
    Flat(amount=40),
)


@dataclass(frozen=True, slots=True)
class Close:
    """A tick: ``close_periods`` runs."""


@dataclass(frozen=True, slots=True)
class Watch:
    """``watch_limits`` gets up to ``most`` records of a shard, or ``again`` those that it has had last."""

    shard: int
    most: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Lose:
    """Records of a shard become too old, or fail too often, and are dropped by Lambda."""

    shard: int


@dataclass(frozen=True, slots=True)
class Restart:
    """An instance of ``watch_limits`` is replaced, and forgets."""

    shard: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """A tick: ``watch_limits`` sweeps."""

    helps: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """A command has ``watch_limits`` look at customers."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Enforce:
    """The gate worker runs, woken by SQS."""


@dataclass(frozen=True, slots=True)
class Set:
    """An operator sets a limit for one customer, or raises its plan's, perhaps for ``minutes`` alone."""

    customer: str
    metric: str
    per: str
    most: int
    raised: bool
    minutes: int = 0


@dataclass(frozen=True, slots=True)
class Clear:
    """An operator clears the first of a customer's own limits."""

    customer: str


@dataclass(frozen=True, slots=True)
class Give:
    """A customer gives itself a budget."""

    customer: str
    notify: int
    stop: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Stripe shows that a customer is subscribed to these plans."""

    customer: str
    plans: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Owe:
    """Stripe shows that a customer's invoice is past due, or that it is paid."""

    customer: str
    owes: bool


@dataclass(frozen=True, slots=True)
class Suspend:
    """An operator suspends a customer."""

    customer: str


@dataclass(frozen=True, slots=True)
class Resume:
    """An operator resumes a customer."""

    customer: str


@dataclass(frozen=True, slots=True)
class HandOver:
    """An operator gives a key to a customer from an hour on."""

    key: str
    customer: str
    since: Hour


@dataclass(frozen=True, slots=True)
class Rotate:
    """An operator rotates a customer's key; the old one stays valid for ``overlap`` minutes."""

    customer: str
    key: str
    overlap: int


@dataclass(frozen=True, slots=True)
class Finish:
    """A command takes out the old keys of rotations whose overlap is over."""


@dataclass(frozen=True, slots=True)
class Restore:
    """The ledger is restored as it was after so many episodes."""

    episode: int


Task = (
    Deliver
    | Close
    | Adjust
    | Watch
    | Lose
    | Restart
    | Sweep
    | Look
    | Enforce
    | Set
    | Clear
    | Give
    | Subscribe
    | Owe
    | Suspend
    | Resume
    | HandOver
    | Rotate
    | Finish
    | Restore
)

COMMANDS: Final = (Deliver, Adjust, Set, Clear, Give, Subscribe, Owe, Suspend, Resume, HandOver, Rotate)
"""What somebody does again until it is done."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is drawn from a seed.

    ``mapped`` says who holds each key at first, ``homes`` in which usage plans it belongs, ``subscribed`` each
    customer's plans. ``calm`` is the hour in which calm returns, and the last batches are delivered. ``bounds`` are the
    beginning and the end of the subscriptions' running period.
    """

    seed: int
    start: datetime
    plans: tuple[Plan, ...]
    usage_plans: tuple[UsagePlan, ...]
    mapped: Mapping[str, str]
    homes: Mapping[str, tuple[str, ...]]
    subscribed: Mapping[str, tuple[str, ...]]
    mailed: frozenset[str]
    bounds: tuple[Hour, Hour]
    batches: tuple[tuple[Line, ...], ...]
    calm: Hour
    episodes: tuple[Episode, ...]
    weather: Weather
    keeps: bool
    """Whether what is left in the stream when calm returns is still delivered."""

    @property
    def restores(self) -> bool:
        """Whether the ledger is ever restored."""
        return _restores(self.episodes)

    def adjustments(self) -> list[Adjust]:
        """Return every adjustment."""
        return [run.task for one in self.episodes for run in one.runs if isinstance(run.task, Adjust)]

    def is_quiet(self) -> bool:
        """Whether nothing fails, dies, stalls, comes twice or is restored, so that nothing is told twice."""
        runs = [run for one in self.episodes for run in one.runs]
        return self.weather == CALM and not self.restores and all(run.death == UNHURT for run in runs)


def _restores(episodes: Iterable[Episode]) -> bool:
    return any(isinstance(run.task, Restore) for one in episodes for run in one.runs)


_TABLE: Final[Mapping[Enum, float]] = {
    Fate.LOST: 0.004,
    Fate.UNANSWERED: 0.008,
    Fate.REPLAYED: 0.02,
    Fate.BELATED: 0.02,
    Fate.CONFLICT: 0.01,
}
_GATEWAY: Final[Mapping[Enum, float]] = {
    Trouble.THROTTLED: 0.15,
    Trouble.FAILED: 0.05,
    Trouble.UNANSWERED: 0.08,
}
WEATHERS: Final[tuple[tuple[int, Weather], ...]] = (
    (3, CALM),
    (3, Weather("slow", stalls=0.03)),
    (3, Weather("table", _TABLE, stalls=0.003)),
    (4, Weather("gateway", {}, _GATEWAY, stalls=0.003)),
    (4, Weather("everything", _TABLE, _GATEWAY, stalls=0.01)),
)


def draw(seed: int) -> Schedule:
    """Draw a schedule; the same one for the same seed."""
    chance = random.Random(seed)
    start = datetime.fromisoformat(f"{chance.choice(STARTS)}:00+00:00") + timedelta(seconds=chance.randrange(600))
    names = LIMITED[: chance.choice((1, 2, 2, 3))]
    plans = tuple(_plan(chance, name) for name in ("pro", "free"))
    mapped = {f"key-{name}{n}": name for name in (*names, UNLIMITED) for n in range(chance.choice((1, 1, 2, 3)))}
    usage_plans = _usage_plans(chance)
    homes = {key: _home(chance) for key in mapped}
    subscribed = {name: _subscribed(chance) for name in names}
    first = Hour.containing(start)
    end = Hour(first.number + chance.choice((1, 2, 3, 200)))
    batches, episodes, calm = _episodes(chance, names, mapped, _changes(chance, names, mapped, plans), start)
    weights, weathers = zip(*WEATHERS, strict=True)
    return Schedule(
        seed=seed,
        start=start,
        plans=plans,
        usage_plans=usage_plans,
        mapped=mapped,
        homes=homes,
        subscribed=subscribed,
        mailed=frozenset(name for name in names if chance.random() < 0.5),
        bounds=(Hour.containing(end.start.replace(month=end.start.month - 1, day=min(end.start.day, 28))), end),
        batches=batches,
        calm=calm,
        episodes=episodes,
        weather=_without_belated(chance.choices(weathers, weights)[0], episodes),
        keeps=chance.random() < 0.5,
    )


def _without_belated(weather: Weather, episodes: Sequence[Episode]) -> Weather:
    """Leave out what lands late where the ledger is restored: a copy of the Access table's list alone knows homes then.

    It would take both within seconds for a key to stay closed, and twice a restore within minutes: neither is promised.
    """
    if not _restores(episodes):
        return weather
    return replace(weather, table={fate: rate for fate, rate in weather.table.items() if fate is not Fate.BELATED})


# --- what is declared -------------------------------------------------------------------------------------------------


def _plan(chance: random.Random, name: str) -> Plan:
    limits: dict[str, AnyLimit] = {}
    for _ in range(chance.choice((1, 1, 2, 3))):
        per, kind = chance.choice(("hour", "hour", "day", "month", "period")), chance.random()
        if kind < 0.6:
            limits[f"requests/{per}"] = Limit("requests", chance.choice((5, 10, 17)), per, _steps(chance))
        elif kind < 0.75:
            limits[f"bytes/{per}"] = Limit("bytes", chance.choice((2000, 5000)), per, _steps(chance))
        else:
            stops = chance.random() < 0.6
            limits["spend"] = Spend(chance.choice((120, 200, 500)), _steps(chance), customer_may_stop=stops)
    return Plan(name=name, title=name, currency="usd", prices=PRICES, limits=tuple(limits.values()))


def _steps(chance: random.Random) -> tuple[Step, ...]:
    possible: list[Step] = [Notify(50), Notify(80), Slow(60), Slow(90), Stop(100), Stop(100), Notify(150)]
    found = chance.sample(possible, k=chance.choice((1, 2, 3, 4)))
    return tuple(dict.fromkeys(sorted(found, key=lambda step: step.at)))


def _subscribed(chance: random.Random) -> tuple[str, ...]:
    return chance.choice((("pro",), ("pro",), ("free",), ("pro", "free"), ()))


def _usage_plans(chance: random.Random) -> tuple[UsagePlan, ...]:
    plans = [
        UsagePlan("gold", frozenset({"a/prod"})),
        UsagePlan("wide", frozenset({"a/prod", "b/prod"})),
        UsagePlan("other", frozenset({"b/prod"})),
    ]
    lanes = chance.choice(("", "a", "ab", "a b", "a b", "a b ab"))
    plans += [UsagePlan(f"lane-{apis}", frozenset(f"{api}/prod" for api in apis), lane=True) for apis in lanes.split()]
    return tuple(plans)


def _home(chance: random.Random) -> tuple[str, ...]:
    return chance.choice((("gold",), ("gold",), ("wide",), ("gold", "other")))


# --- what happens -----------------------------------------------------------------------------------------------------


def _episodes(
    chance: random.Random, names: Sequence[str], mapped: Mapping[str, str], changes: list[Task], start: datetime
) -> tuple[tuple[tuple[Line, ...], ...], tuple[Episode, ...], Hour]:
    batches: list[tuple[Line, ...]] = []
    episodes: list[Episode] = []
    first = Hour.containing(start)
    at = (start - first.start).total_seconds()
    count = chance.randint(5, 12)
    moved: list[str] = []
    favourite = chance.choice([key for key, name in mapped.items() if name != UNLIMITED])
    for number in range(count):
        after = chance.choice((1.0, 5.0, 30.0, 60.0, 60.0, 300.0, 900.0, 1800.0))
        at += after
        current = first.number + int(at // 3600)
        tasks: list[Task] = []
        for lines in _used(chance, [favourite, favourite, favourite, *mapped], first.number, current):
            batches.append(lines)
            tasks.append(Deliver(len(batches) - 1))
        tasks += _noticing(chance, names)
        if chance.random() < 0.4:
            tasks += [Close()] * chance.choice((1, 1, 2))
        tasks += [Enforce()] * chance.choice((0, 1, 1, 2))
        tasks += [Finish()] * (chance.random() < 0.05)
        if changes and chance.random() < 0.55:
            tasks.append(changes.pop())
        if chance.random() < 0.1 and current > first.number:
            amount, hour = chance.choice((3, 8, -1, -4)), Hour(current - 1)
            tasks.append(Adjust(number, chance.choice(names), "requests", hour, amount))
        if chance.random() < 0.12:
            key, taker = chance.choice([*mapped]), chance.choice([*names, UNLIMITED])
            if UNLIMITED not in (mapped[key], taker) and mapped[key] != taker and key not in moved:
                moved.append(key)
                tasks.append(HandOver(key, taker, Hour(current - chance.randint(0, 1))))
        episodes += _grouped(chance, tasks, after)
        if number > 2 and chance.random() < 0.05 and not _restores(episodes):
            episodes.append(Episode(1.0, (Run(Restore(chance.randrange(len(episodes)))),)))
    last = Hour(first.number + int(at // 3600) + chance.choice((3, 3, 4, 12)))
    for _ in range(chance.choice((0, 1, 2))):
        key = chance.choice([favourite, *mapped])
        batches.append(tuple(Line(last, key, 100) for _ in range(chance.choice((1, 4, 9)))))
    return tuple(batches), tuple(episodes), last


def _used(chance: random.Random, keys: Sequence[str], first: int, current: int) -> Iterator[tuple[Line, ...]]:
    """Yield batches, most of them of the current hour."""
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        key, hour = chance.choice(keys), chance.choice([*[current] * 5, current - 1, max(first - 1, current - 3)])
        yield tuple(Line(Hour(hour), key, chance.choice((0, 100, 900))) for _ in range(chance.choice((1, 1, 2, 4, 8))))


def _noticing(chance: random.Random, names: Sequence[str]) -> list[Task]:
    """Return who notices what is used, or what becomes of what would tell."""
    tasks: list[Task] = [Sweep()] * chance.choice((0, 1, 1, 2))
    if chance.random() < 0.1:
        tasks.append(Sweep(helps=True))
    for shard in range(SHARDS):
        kind = chance.random()
        if kind < 0.5:
            tasks.append(Watch(shard, chance.choice((1, 3, 100))))
        elif kind < 0.6:
            tasks.append(Watch(shard, 100, again=True))
        elif kind < 0.65:
            tasks.append(Lose(shard))
        elif kind < 0.7:
            tasks.append(Restart(shard))
    if chance.random() < 0.1:
        tasks.append(Look(tuple(chance.sample(names, k=chance.randint(1, len(names))))))
    return tasks


def _changes(
    chance: random.Random, names: Sequence[str], mapped: Mapping[str, str], plans: Sequence[Plan]
) -> list[Task]:
    """Return what is changed in limits, subscriptions and reasons, the last one first."""
    tasks: list[list[Task]] = []
    for name in names:
        per, most = chance.choice(("hour", "day", "month", "period")), chance.choice((1, 3, 6, 12, 40))
        limit = chance.choice([limit for plan in plans for limit in plan.limits])
        metric, units = (limit.metric, limit.units) if isinstance(limit, Limit) else (SPEND, limit.amount)
        raised: list[Task] = [
            Set(name, metric, limit.per, units * chance.choice((2, 4)), raised=True, minutes=chance.choice((0, 0, 20)))
        ]
        kinds: list[list[Task]] = [
            [],
            [Set(name, "requests", per, most, raised=False, minutes=chance.choice((0, 0, 20)))],
            [Set(name, SPEND, "period", most * 30, raised=False)],
            raised,
            raised,
            [Clear(name), Set(name, "requests", per, most, raised=False)],
            [Give(name, chance.choice((0, 60, 100)), chance.choice((0, 90, 150)))],
            [Give(name, 0, 90), Give(name, 0, 400)],
            [Subscribe(name, _subscribed(chance))],
            [Resume(name), Suspend(name)],
            [Suspend(name)],
            [Owe(name, owes=False), Owe(name, owes=True)],
            [Owe(name, owes=True)],
        ]
        tasks += [chance.choice(kinds) for _ in range(chance.choice((0, 1, 2, 3)))]
        mine = [key for key, holder in mapped.items() if holder == name]
        if chance.random() < 0.15:
            tasks.append([Rotate(name, chance.choice(mine), chance.choice((0, 30)))])
    chance.shuffle(tasks)
    return [task for some in tasks for task in some]


def _death(chance: random.Random, task: Task) -> Death:
    likely = 0.3 if isinstance(task, Watch | Sweep | Look | Enforce) else 0.1
    if isinstance(task, Lose | Restart | Restore) or chance.random() >= likely:
        return UNHURT
    return Death(chance.choice((1, 1, 2, 3, 4, 5, 6, 8, 11)), accepted=chance.random() < 0.5)


def _grouped(chance: random.Random, tasks: list[Task], after: float) -> list[Episode]:
    """Play tasks at once, or one after the other."""
    chance.shuffle(tasks)
    runs = [Run(task, skewed(chance), _death(chance, task)) for task in tasks]
    if not runs:
        return [Episode(after, ())]
    episodes = []
    while runs:
        size = chance.choice((1, 1, 2, 3, len(runs)))
        episodes.append(Episode(after, tuple(runs[:size])))
        runs, after = runs[size:], chance.choice((0.0, 1.0, 30.0))
    return episodes
