"""Schedules of the money side: what runs when, at once with what, and what fails, all drawn from a seed."""

import itertools
import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Literal

from infra.local.stripe.faults import Fault
from metering.model.periods import CLOCK_SKEW, Hour
from metering.stores.marks import partition
from tests.faults.counted import Adjust, Deliver, Line
from tests.faults.fates import Fate
from tests.faults.money_stripe import Behaviour, Trouble
from tests.faults.stage import CALM, LIFE_S, UNHURT, Death, Episode, Run, Weather, skewed

START: Final = Hour.parse("2026-11-22T05")
METRICS: Final = ("requests", "bytes")
PAUSE_S: Final = 45 * 86_400.0
"""Longer than Stripe takes usage for, and than it keeps events."""

DISTINCT: Final = "users"
"""A metric of distinct values, which some schedules have beside those."""


@dataclass(frozen=True, slots=True)
class Close:
    """A tick: ``close_periods`` runs.

    What it leases is its own for ``lease_s``, which may be less than it lives; one that is ``reckless`` takes what is
    leased, as if its clock were wrong. One that ``helps`` closes, and settles no hour.
    """

    lease_s: float = LIFE_S
    reckless: bool = False
    helps: bool = False


@dataclass(frozen=True, slots=True)
class Lose:
    """Items that say how far closing has got are lost, or an older copy of them comes back."""

    number: int


@dataclass(frozen=True, slots=True)
class Throttle:
    """A partition of an hour's counters cannot be read, from now on until everything else has been judged."""

    hour: Hour
    partition: int


@dataclass(frozen=True, slots=True)
class Post:
    """A worker posts its share of the shards; without ``leased`` it does so although another one may hold them."""

    share: int
    shares: int
    leased: bool


@dataclass(frozen=True, slots=True)
class Reconcile:
    """``reconcile_usage`` runs, with so many calls."""

    calls: int


@dataclass(frozen=True, slots=True)
class HandOver:
    """An operator gives a key to a customer from an hour on (None: from the beginning)."""

    key: str
    customer: str
    since: Hour | None


@dataclass(frozen=True, slots=True)
class Connect:
    """An operator gives a customer a Stripe customer, its first one or another."""

    customer: str
    stripe_customer: str


@dataclass(frozen=True, slots=True)
class Turn:
    """An operator turns posting on, with an hour, or off."""

    on: bool
    since: Hour | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """An operator has everything posted again that was rejected."""


@dataclass(frozen=True, slots=True)
class Notify:
    """Stripe reports what it could not use; the notification may be ``lost``."""

    lost: bool


@dataclass(frozen=True, slots=True)
class Mend:
    """A customer's account works again."""

    stripe_customer: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """A customer's subscription is cancelled at Stripe, within an hour; what Stripe holds by then is invoiced."""

    stripe_customer: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A customer whose subscription was cancelled is subscribed again, from the beginning of the hour on."""

    stripe_customer: str


@dataclass(frozen=True, slots=True)
class Void:
    """Somebody voids a customer's newest invoice at Stripe that is final."""

    stripe_customer: str


Task = (
    Deliver
    | Close
    | Post
    | Reconcile
    | HandOver
    | Connect
    | Adjust
    | Turn
    | Retry
    | Notify
    | Mend
    | Lose
    | Throttle
    | Cancel
    | Subscribe
    | Void
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How little is a page, a step, and too much at once, so that some dozen keys are a big hour."""

    page: int
    """In bytes."""

    step: int
    together: int
    marks: int
    others: int
    sources: int
    claims: int
    joined: int
    save_s: float
    """After how many seconds it is written how far claims are joined."""


_NET: Final[Mapping[Enum, float]] = {
    Fault.ERROR_BEFORE: 0.06,
    Fault.ERROR_AFTER: 0.06,
    Fault.TIMEOUT_BEFORE: 0.04,
    Fault.TIMEOUT_AFTER: 0.06,
    Fault.RESET_BEFORE: 0.03,
    Fault.RESET_AFTER: 0.05,
    Fault.LANDS_LATE: 0.08,
}
_LIMITS: Final[Mapping[Enum, float]] = {
    Fault.RATE_LIMITED: 0.1,
    Fault.RATE_LIMITED_RETRY: 0.1,
    Trouble.SLOWED: 0.1,
    Trouble.BUSY: 0.1,
}
_TABLE: Final[Mapping[Enum, float]] = {
    Fate.LOST: 0.002,
    Fate.UNANSWERED: 0.008,
    Fate.REPLAYED: 0.03,
    Fate.BELATED: 0.03,
    Fate.CONFLICT: 0.02,
}
WEATHERS: Final = (
    (3, CALM),
    (3, Weather("slow", stalls=0.02)),
    (4, Weather("net", stripe=_NET, stalls=0.005)),
    (2, Weather("limits", stripe=_LIMITS)),
    (2, Weather("table", _TABLE, stalls=0.005)),
    (2, Weather("late", stripe={Fault.LANDS_LATE: 0.35})),
    (2, Weather("late and refused", stripe={Fault.LANDS_LATE: 0.2, Trouble.REFUSED: 0.15})),
    (3, Weather("everything", _TABLE, {**_NET, Trouble.REFUSED: 0.05, Trouble.BUSY: 0.03}, stalls=0.01)),
)
NARROW_WEATHERS: Final = (
    Weather("slow", stalls=0.05),
    Weather("late", stripe={Fault.LANDS_LATE: 0.75}),
    Weather("late and refused", stripe={Fault.LANDS_LATE: 0.25, Trouble.REFUSED: 0.35}),
    Weather("net", _TABLE, _NET, stalls=0.01),
)

BIG_WEATHERS: Final = (
    CALM,
    Weather("slow", stalls=0.01),
    Weather("table", _TABLE, stalls=0.002),
    Weather("net", {}, _NET, stalls=0.002),
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is drawn from a seed.

    ``mapped`` says who holds each key at first, ``connected`` each customer's Stripe customer, ``bad`` which Stripe
    customers behave how until they are mended; ``failing`` is one that fails until everything else has been judged.
    """

    seed: int
    mapped: Mapping[str, str]
    connected: Mapping[str, str]
    bad: Mapping[str, Behaviour]
    failing: str
    batches: tuple[tuple[Line, ...], ...]
    episodes: tuple[Episode, ...]
    weather: Weather
    latest: Literal["arrival", "timestamp"]
    streamed_from: Hour | None
    since: Hour | None
    """From when on usage is posted; None: posting is off at first."""

    rate: float
    lag_s: float
    summary_delay_s: float
    interval: Literal["day", "month"]
    anchor: Hour
    """When the first invoice's period ends."""

    old: bool
    """Whether weeks pass after the first episodes, so that their hours become too old for Stripe."""

    limits: Limits | None = None
    """Under which an hour of its keys is a big one."""

    distinct: bool = False
    """Whether distinct users are billed, too."""

    older: bool = False
    """Whether the account's events are rendered by a version of Stripe's API that is older than ours."""

    step_s: float = 0.2
    """How long a step of a process takes at most."""

    def adjustments(self) -> list[Adjust]:
        """Return every adjustment."""
        return [run.task for one in self.episodes for run in one.runs if isinstance(run.task, Adjust)]

    def hand_overs(self) -> list[HandOver]:
        """Return every hand-over, in order."""
        return [run.task for one in self.episodes for run in one.runs if isinstance(run.task, HandOver)]


CUSTOMERS: Final = ("ann", "bob", "cyd")


def draw(seed: int, *, narrow: bool = False, big: bool = False, eventful: bool = False) -> Schedule:
    """Draw a schedule; the same one for the same seed.

    One in three is narrow, or each if asked for: late batches for one hour of one customer, while it is closed and
    posted again and again. One in twelve has big hours: some dozen keys, of which a few are a page and a step. Of the
    others, one in three is eventful: at Stripe subscriptions end and begin, invoices are voided, reads are refused, or
    posting pauses for 45 days.
    """
    chance = random.Random(seed)
    kind = chance.random()
    if big or (kind > 11 / 12 and not narrow and not eventful):
        return _big(chance, seed)
    if narrow or (kind < 1 / 3 and not eventful):
        return _narrow(chance, seed)
    schedule, more = _wide(chance, seed), random.Random(f"at Stripe {seed}")
    return _eventful(more, schedule) if eventful or more.random() < 1 / 3 else schedule


def _narrow(chance: random.Random, seed: int) -> Schedule:
    batches: list[tuple[Line, ...]] = []
    episodes: list[Episode] = []
    for number in range(chance.randint(3, 7)):
        tasks: list[Task] = [Close(reckless=chance.random() < 0.5) for _ in range(chance.choice((1, 1, 2)))]
        for _ in range(chance.choice((1, 1, 2))):
            batches.append((Line(START, "key-ann", chance.choice((1, 1000))),))
            tasks.append(Deliver(len(batches) - 1))
        tasks += [Post(0, 1, leased=False)] * chance.choice((1, 1, 2))
        tasks += [Retry()] * chance.choice((0, 1))
        chance.shuffle(tasks)
        episodes += _grouped(chance, tasks, chance.choice((1.0, 60.0, 200.0)) if number else 4300.0)
    # At last a batch that was late is closed just while another one comes, after which nobody marks the hour again.
    batches += [(Line(START, "key-ann", 1),)] * 2
    late, last = Run(Deliver(len(batches) - 2)), Run(Deliver(len(batches) - 1))
    closers = (Run(Close()), *[Run(Close(reckless=True))] * chance.choice((0, 1)))
    episodes += [Episode(1.0, (late,)), Episode(1.0, (*closers, last))]
    return Schedule(
        seed=seed,
        mapped={"key-ann": "ann"},
        connected={"ann": "cus_ann"},
        bad={},
        failing="",
        batches=tuple(batches),
        episodes=tuple(episodes),
        weather=chance.choice(NARROW_WEATHERS),
        latest="arrival",
        streamed_from=START if chance.random() < 0.2 else None,
        since=START,
        rate=1000.0,
        lag_s=0.0,
        summary_delay_s=0.0,
        interval="month",
        anchor=Hour(START.number + 12),
        old=False,
    )


def _wide(chance: random.Random, seed: int) -> Schedule:
    names = CUSTOMERS[: chance.choice((1, 2, 2, 3))]
    mapped = {f"key-{name}": name for name in names}
    if chance.random() < 0.3:
        mapped["key-two"] = names[0]
    keys = [*mapped, *(["key-loose"] if chance.random() < 0.3 else [])]
    connected = {name: f"cus_{name}" if chance.random() < 0.9 else "" for name in names}
    bad = {
        f"cus_{name}": chance.choice((*Behaviour, Behaviour.UNKNOWN, Behaviour.REFUSED))
        for name in names
        if chance.random() < 0.15
    }
    failing = f"cus_{names[0]}" if len(names) > 1 and chance.random() < 0.25 else ""
    if failing:
        bad[failing] = chance.choice((Behaviour.SILENT, Behaviour.BUSY, Behaviour.REFUSED))
    shadow = chance.random() < 0.15
    since = None if shadow else Hour(START.number + chance.choice((0, 0, 0, 1)))
    old = chance.random() < 0.08
    operators = _operators(chance, names, connected, bad, failing, shadow=shadow)
    batches, episodes = _episodes(chance, names, keys, mapped, operators, bad=bool(bad), old=old)
    weights, weathers = zip(*WEATHERS, strict=True)
    return Schedule(
        seed=seed,
        mapped=mapped,
        connected=connected,
        bad=bad,
        failing=failing,
        batches=tuple(batches),
        episodes=tuple(episodes),
        weather=chance.choices(weathers, weights)[0],
        latest=chance.choice(("arrival", "timestamp")),
        streamed_from=Hour(START.number + chance.randint(-1, 3)) if chance.random() < 0.25 else None,
        since=since,
        rate=chance.choice((1000.0, 1000.0, 2.0)),
        lag_s=chance.choice((0.0, 1.0, 30.0)),
        summary_delay_s=chance.choice((0.0, 60.0, 1800.0)),
        interval="month" if old else chance.choice(("day", "month")),
        anchor=Hour(START.number + chance.randint(1, 12)),
        old=old,
    )


# --- what happens at Stripe -------------------------------------------------------------------------------------------


def _eventful(chance: random.Random, schedule: Schedule) -> Schedule:
    """Add to a schedule what others do at Stripe meanwhile, and what an account is like."""
    whom = chance.choice([f"cus_{name}" for name in schedule.connected])
    episodes = list(schedule.episodes)
    kind = chance.choice(("cancelled", "cancelled", "voided", "voided", "paused", "crowded"))
    at = chance.randint(1, len(episodes))
    weather = schedule.weather
    match kind:
        case "cancelled":
            within = chance.choice((1.0, 60.0, 1200.0, 2100.0, 3540.0))
            gap = chance.choice((1.0, 60.0, 1800.0, 3600.0, 10_800.0))
            later = chance.randint(at, len(episodes))
            episodes.insert(later, Episode(gap, (Run(Subscribe(whom)),)))
            episodes.insert(at, Episode(within, (Run(Cancel(whom)),)))
        case "voided":
            for _ in range(chance.choice((1, 2))):
                place = chance.randint(at, len(episodes))
                episodes.insert(place, Episode(chance.choice((1.0, 7200.0, 90_000.0)), (Run(Void(whom)),)))
        case "paused" if not schedule.old:
            pause = (Turn(on=False), 0.0), (Close(), PAUSE_S), (Turn(on=True), 60.0)
            episodes[at:at] = [Episode(after, (Run(task),)) for task, after in pause]
        case _:
            crowded = {**weather.stripe, Trouble.CROWDED: 0.6}
            weather = Weather(f"{weather.name}, reads refused", weather.table, crowded, weather.stalls)
    return replace(
        schedule,
        episodes=tuple(episodes),
        weather=weather,
        interval="month" if kind == "paused" else schedule.interval,
        older=chance.random() < 0.5,
    )


# --- big hours --------------------------------------------------------------------------------------------------------


def _big(chance: random.Random, seed: int) -> Schedule:
    """Draw hours of many keys in few partitions, closed under many deaths while batches and hand-overs come late.

    Some have fewer keys, of which several change hands at once, or bring the same users while hours are closed.
    """
    handed, crossing = chance.choice(((False, False), (False, False), (True, False), (False, True)))
    few = handed or crossing
    crowded = chance.sample(range(16), k=chance.choice((1, 2) if few else (2, 3)))
    keys = _keys_in(crowded, 4 if crossing else chance.randint(5, 9) if handed else chance.randint(14, 30))
    names = [f"c{n}" for n in range(chance.randint(2, 3) if few else chance.randint(3, 6))]
    mapped = dict.fromkeys(keys, names[0]) if crossing else _mapped(chance, names, keys)
    hours = [Hour(START.number + n) for n in range(2 if crossing else chance.choice((1, 2, 2, 3)))]
    given = _hand_overs(chance, names, keys, mapped, hours, len(keys) if handed else chance.choice((0, 0, 1, 2)))
    moves = any(one.since is not None for one in given)
    users = 4 if crossing else chance.choice((0, 0, 4, 8, 8))
    batches: list[tuple[Line, ...]] = []

    def deliver(fewest: int, most: int, of: list[Hour]) -> Deliver:
        some = chance.sample(keys, k=min(len(keys), chance.randint(fewest, most)))
        # Crossing, two batches after each other bring a user of their own.
        who = [f"u{len(batches) // 2}" if crossing else f"u{n}" for n in range(users)]
        batches.append(tuple(_line(chance, key, chance.choice(of), hours, who, moves=moves) for key in some))
        return Deliver(len(batches) - 1)

    number = itertools.count()
    episodes: list[Episode] = []
    for at, hour in enumerate(hours):
        size = (1, 2) if crossing else (len(keys) // 2, len(keys))
        tasks: list[Task] = [deliver(*size, hours[: at + 1]) for _ in range(chance.choice((2, 3, 4)))]
        tasks += [given.pop()] if given and chance.random() < 0.3 else []
        episodes += _grouped(chance, tasks, (hour.start - START.start).total_seconds() + 600 - _length(episodes))
    if chance.random() < 0.3:
        episodes.append(Episode(0.0, (Run(Throttle(chance.choice(hours), chance.choice(crowded))),)))
    # An hour is due ten minutes after its end.
    after = (hours[-1].end - START.start).total_seconds() + chance.choice((560, 660, 660, 900)) - _length(episodes)
    late = crossing or chance.random() < 0.6
    for _ in range(chance.randint(5, 9) if crossing else chance.randint(3, 7)):
        tasks = [_closing(chance) for _ in range(chance.choice((1, 1, 2, 2, 3)))]
        if late and (crossing or chance.random() < 0.6):
            tasks += [deliver(1, 2 if crossing else len(keys), hours) for _ in range(chance.choice((1, 1, 2)))]
        while given and chance.random() < (0.8 if handed else 0.4):
            tasks.append(given.pop())
        tasks += [Lose(next(number))] if chance.random() < 0.3 else []
        tasks += [Post(0, 1, leased=True)] if chance.random() < 0.5 else []
        tasks += [Reconcile(1000)] if chance.random() < 0.1 else []
        chance.shuffle(tasks)
        episodes += _grouped(chance, tasks, after, dying=_dying, at_once=0.8 if handed else 0.4)
        after = chance.choice((1.0, 1.0, 1.0, 60.0) if crossing else (1.0, 60.0, 310.0, 310.0))
    if crossing:
        # At last a user is billed, and comes by another key for another hour, earlier by a clock that is behind.
        for key, hour in zip(chance.sample(keys, k=2), chance.sample(hours, k=2), strict=True):
            batches.append((Line(hour, key, 1, "last"),))
        ahead = CLOCK_SKEW * 0.49
        last = (
            Run(Deliver(len(batches) - 2), ahead),
            Run(Close(reckless=True)),
            Run(Deliver(len(batches) - 1), -ahead),
        )
        episodes += [Episode(1.0, (run,)) for run in last]
    return Schedule(
        seed=seed,
        mapped=mapped,
        connected={name: f"cus_{name}" for name in names},
        bad={},
        failing="",
        batches=tuple(batches),
        episodes=tuple(episodes),
        weather=chance.choice(BIG_WEATHERS),
        latest="arrival",
        streamed_from=None,
        since=START,
        rate=1000.0,
        lag_s=chance.choice((0.0, 1.0, 30.0)),
        summary_delay_s=0.0,
        interval="month",
        # A carry downwards of distinct values waits for later ones, which nobody brings: then no invoice is finalised.
        anchor=Hour(START.number + (240 if users else chance.randint(3, 12))),
        old=False,
        limits=Limits(
            page=chance.choice((300, 700, 2000)),
            step=chance.choice((1, 2, 4, 8)),
            together=chance.choice((1, 3, 100)),
            marks=chance.choice((1, 3, 100)),
            others=chance.choice((1, 2, 64)),
            sources=chance.choice((4, 1000)),
            claims=chance.choice((2, 8, 20_000)),
            joined=chance.choice((0, 1, 50_000)),
            save_s=chance.choice((0.1, 0.5, 5.0)),
        ),
        distinct=users > 0,
        step_s=chance.choice((0.02, 0.1)),
    )


def _keys_in(partitions: list[int], count: int) -> list[str]:
    """Return names of keys that lie in some partitions of the counters."""
    names = (f"k{n}" for n in itertools.count())
    return sorted(itertools.islice((name for name in names if partition(name) in partitions), count))


def _mapped(chance: random.Random, names: list[str], keys: list[str]) -> dict[str, str]:
    """Give one key to some customers, two to others, many to one, and some keys to nobody."""
    free = chance.sample(keys, k=len(keys))
    owned = [min(len(free), chance.choice((1, 2, 2))) for _ in names]
    owned[0] = chance.choice((2, 5))
    mapped = {free.pop(): name for name, many in zip(names, owned, strict=True) for _ in range(many) if free}
    loose = chance.randint(1, 4)
    return mapped | {key: chance.choice(names[1:]) for key in free[loose:] if chance.random() < 0.3}


def _hand_overs(  # noqa: PLR0913, PLR0917 - what they are drawn from
    chance: random.Random, names: list[str], keys: list[str], mapped: Mapping[str, str], hours: list[Hour], many: int
) -> list[HandOver]:
    given = []
    for key in chance.sample(keys, k=many):
        taker = chance.choice([name for name in names if name != mapped.get(key)])
        since = Hour(chance.choice(hours).number + chance.choice((0, 0, 1))) if key in mapped else None
        given.append(HandOver(key, taker, since))
    return given


def _line(  # noqa: PLR0913 - what a line is drawn from
    chance: random.Random, key: str, hour: Hour, hours: list[Hour], users: list[str], *, moves: bool
) -> Line:
    """Draw a line; where keys change hands, a key brings a user in one hour alone, for a claim knows no other."""
    user = chance.choice(users) if users and chance.random() < 0.7 else ""
    if moves and user and hours[zlib.crc32(f"{key} {user}".encode()) % len(hours)] != hour:
        user = ""
    return Line(hour, key, chance.choice((0, 1, 1000)), user)


def _closing(chance: random.Random) -> Close:
    return Close(
        lease_s=chance.choice((LIFE_S, LIFE_S, 1.0, 3.0)),
        reckless=chance.random() < 0.2,
        helps=chance.random() < 0.2,
    )


def _length(episodes: list[Episode]) -> float:
    return sum(episode.after for episode in episodes)


# --- what is drawn for all --------------------------------------------------------------------------------------------


def _episodes(  # noqa: C901, PLR0912, PLR0913 - a choice after the other, and what they are drawn from
    chance: random.Random,
    names: tuple[str, ...],
    keys: list[str],
    mapped: Mapping[str, str],
    operators: list[Task],
    *,
    bad: bool,
    old: bool,
) -> tuple[list[tuple[Line, ...]], list[Episode]]:
    batches: list[tuple[Line, ...]] = []
    episodes: list[Episode] = []
    at = 0.0  # seconds since START
    holders = dict(mapped)
    jump_at = chance.randint(2, 4) if old else -1
    for number in range(chance.randint(4, 8)):
        if number == jump_at:
            after = 36 * 86_400.0
        elif not number:
            after = float(chance.randint(1, 7000))
        else:
            after = chance.choice((1.0, 60.0, 300.0, 300.0, 1500.0, 3600.0, 7200.0) + ((90_000.0,) if not old else ()))
        at += after
        current = START.number + int(at // 3600)
        hours = [Hour(current), Hour(current - 1), Hour(current - chance.randint(0, 6)), START]
        if chance.random() < 0.1:
            hours.append(Hour(START.number - 2))  # before anything is billed
        tasks: list[Task] = []
        for _ in range(chance.choice((0, 1, 1, 2))):
            wanted = [hour for hour in hours if hour.number <= current]
            lines = [
                Line(chance.choice(wanted), chance.choice(keys), chance.choice((0, 1, 1000, 10**12)))
                for _ in range(chance.randint(1, 4))
            ]
            batches.append(tuple(lines))
            tasks.append(Deliver(len(batches) - 1))
        if chance.random() < 0.85:
            tasks += [Close()] * chance.choice((1, 1, 1, 2, 3))
        tasks += _posts(chance)
        if chance.random() < 0.35:
            tasks += [Reconcile(chance.choice((5, 30, 1000)))] * chance.choice((1, 1, 2))
        if operators and chance.random() < 0.7:
            tasks.append(operators.pop(0))
        if chance.random() < 0.12:
            key, taker = chance.choice(keys), chance.choice(names)
            since = None if key not in holders else Hour(current - chance.randint(0, 2))
            if holders.get(key) != taker and not any(isinstance(one, HandOver) for one in tasks):
                tasks.append(HandOver(key, taker, since))
                holders[key] = taker
        if chance.random() < 0.2:
            hour = Hour(min(chance.choice(hours).number, current - 1))
            metric = chance.choice(METRICS)
            amount = chance.choice((7, 100, -1, -5) if metric == "requests" else (7, 10**9, -1, -(10**6)))
            tasks.append(Adjust(len(episodes), chance.choice(names), metric, hour, amount))
        if chance.random() < 0.1:
            tasks.append(Retry())
        if bad and chance.random() < 0.4:
            tasks.append(Notify(lost=chance.random() < 0.5))
        chance.shuffle(tasks)
        episodes += _grouped(chance, tasks, after)
    return batches, episodes


def _posts(chance: random.Random) -> list[Task]:
    """Return no worker, one, or some at once."""
    kind = chance.random()
    if kind < 0.1:
        return []
    if kind < 0.6:
        return [Post(0, 1, leased=True)]
    if kind < 0.8:
        return [Post(0, 2, leased=True), Post(1, 2, leased=True)]
    return [Post(0, 1, leased=False)] * chance.choice((2, 3))


def _operators(  # noqa: PLR0913 - what they are drawn from
    chance: random.Random,
    names: tuple[str, ...],
    connected: Mapping[str, str],
    bad: Mapping[str, Behaviour],
    failing: str,
    *,
    shadow: bool,
) -> list[Task]:
    """Return what operators do, in an order by chance, but for what depends on another."""
    tasks: list[Task] = [Mend(whom) for whom in bad if whom != failing]
    tasks += [Connect(name, f"cus_{name}") for name in names if not connected[name]]
    tasks += [Connect(name, f"cus_{name}2") for name in names if connected[name] and chance.random() < 0.08]
    chance.shuffle(tasks)
    if shadow:
        tasks.insert(chance.randint(0, len(tasks)), Turn(on=True, since=Hour(START.number + chance.randint(0, 1))))
    elif chance.random() < 0.1:
        tasks += [Turn(on=False), Turn(on=True)]
    return tasks


def _death(chance: random.Random, task: Task) -> Death:
    likely = 0.25 if isinstance(task, Close | Post | Reconcile) else 0.1
    if isinstance(task, Notify | Mend | Lose | Throttle) or chance.random() >= likely:
        return UNHURT
    return Death(chance.choice((1, 2, 3, 4, 5, 6, 8, 11, 16, 24)), accepted=chance.random() < 0.5)


def _dying(chance: random.Random, task: Task) -> Death:
    """Let most closers of a big hour die, between whichever writes."""
    if not isinstance(task, Close):
        return _death(chance, task)
    if chance.random() < 0.4:
        return UNHURT
    return Death(int(2 ** (chance.random() * 6.5)), accepted=chance.random() < 0.5)


def _grouped(
    chance: random.Random,
    tasks: list[Task],
    after: float,
    *,
    dying: Callable[[random.Random, Task], Death] = _death,
    at_once: float = 0.4,
) -> list[Episode]:
    """Play tasks at once, or one after the other."""
    runs = [Run(task, skewed(chance), dying(chance, task)) for task in tasks]
    if not runs:
        return [Episode(after, ())]
    if chance.random() < at_once:
        return [Episode(after, tuple(runs))]
    episodes = []
    while runs:
        size = chance.choice((1, 1, 2, 3))
        episodes.append(Episode(after, tuple(runs[:size])))
        runs, after = runs[size:], chance.choice((0.0, 1.0, 30.0))
    return episodes
