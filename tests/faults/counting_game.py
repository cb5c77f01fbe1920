"""The side of counting: plays a schedule, lets calm return, and says where counters differ from the straight count.

That is: each hour and key holds what the distinct lines add up to, each month and key its distinct users, what cannot
be read is set aside, and what was counted after its hour was closed is billed or has a late mark.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from typing import Any, Final, cast

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from metering.counting.recording import Hashing, Recorder
from metering.model.periods import Hour
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.holders import Holders
from metering.stores.marks import Mark
from metering.stores.set_aside import SetAside, SetAsideBatch
from tests.doubles.access_log import NONCE
from tests.doubles.aws import Client
from tests.doubles.clock import Clock
from tests.doubles.dying import Dying
from tests.doubles.s3 import Buckets
from tests.faults.counting_schedule import METRICS, Close, Deliver, Schedule, Where
from tests.faults.fates import TableClient
from tests.faults.stage import CALM, Process, Run, Stage, Weather, in_turn
from tests.faults.tables import MakeBacking

ROUNDS: Final = 20
"""How often a batch is delivered again before it counts as one that never gets through."""

STORMY_ROUNDS: Final = 3
"""In how many of these rounds the weather is the schedule's own."""

BELATED_S: Final = 60.0
"""So long after the last call whatever was late has landed."""


@dataclass
class Game:
    """One schedule under way."""

    schedule: Schedule
    make_backing: MakeBacking
    wrong: list[str] = field(default_factory=list)
    recorded: set[int] = field(default_factory=set)
    billed: dict[Where, Counter[str]] = field(default_factory=dict)
    """What the closer has read last, which is what it would bill."""

    weather: Weather = CALM

    def __post_init__(self) -> None:
        """Set the stage."""
        self.world = Clock(self.schedule.start, self.schedule.step)
        self.stage = Stage(self.world, self.schedule.seed, life_s=inf)
        self.backing = self.make_backing(self.world, self.schedule.seed, 0.0)
        self.bucket = Buckets()
        self.closed = self.schedule.closed_before()

    @property
    def met(self) -> Counter[str]:
        """How often which fault was met."""
        return self.stage.met

    def playing(self) -> AbstractContextManager[None]:
        """Return what has to hold while it is played."""
        return in_turn(self.schedule.seed)

    def play(self) -> None:
        """Play it; where the result differs from what it should be, ``wrong`` has a sentence each."""
        for number, runs in enumerate(self._rounds()):
            self.weather = self.schedule.weather if number < STORMY_ROUNDS else CALM
            self.backing.calm = self.backing.calm or number >= STORMY_ROUNDS
            self.stage.stalls = self.weather.stalls
            self.stage.play([self._cast(run) for run in runs])
        self.world.advance(BELATED_S)
        self.wrong += self._judge()

    def _rounds(self) -> Iterator[list[Run]]:
        """Yield what is to be done at once: the schedule, then what did not get through, until all has."""
        yield list(self.schedule.runs)
        for number in range(ROUNDS):
            missing = sorted(set(range(len(self.schedule.batches))) - self.recorded)
            if not missing:
                return
            yield [Run(Deliver(batch, order=number)) for batch in missing]
        self.wrong.append(f"batches were not recorded in {ROUNDS} deliveries")

    def _cast(self, run: Run) -> Any:
        process = Process(self.stage, run.skew, run.death)
        return process, lambda: self._act(run.task, process)

    def _act(self, task: Deliver | Close, process: Process) -> None:
        """Deliver, or close; what fails is delivered again."""
        client: Any = TableClient(self.backing.client, process, self.weather.table)
        counters = Counters(client, self.backing.counters)
        self.stage.trace(f"{self.world.moment:%dT%H:%M:%S} begins {task} {process.death}")
        try:
            if isinstance(task, Deliver):
                self._deliver(task, process, counters)
            else:
                self._close(process, counters)
        except (BotoCoreError, ClientError) as error:
            self.met[f"{type(task).__name__} {type(error).__name__}"] += 1
            self.stage.trace(f"{self.world.moment:%dT%H:%M:%S} failed {task}: {error!r}")

    def _deliver(self, delivery: Deliver, process: Process, counters: Counters) -> None:
        bucket = Dying(Client("s3", self.bucket), process.life)
        hashing = Hashing(b"secret", Holders(counters.client, self.backing.ledger))
        claims, set_aside = Claims(counters.client, counters.table), SetAside(cast("Any", bucket), "bucket")
        batch = self.schedule.batch(delivery)
        recorder = Recorder(METRICS, (NONCE,), counters, claims, set_aside, process.clock, hashing)
        recorded = recorder.record(batch)
        read = len(set(batch.ids))
        accounted = recorded.billed + sum(recorded.unbilled.values()) + recorded.set_aside - recorded.partly
        if not recorded.read == read == accounted:
            self.wrong.append(f"of {read} lines {recorded} accounts for {accounted}")
        self.recorded.add(delivery.batch)

    def _close(self, process: Process, counters: Counters) -> None:
        """Do what a closer does with counters: read what is due or marked, bill it, and only then clear the mark."""
        now = process.clock()
        marks = counters.marks.of_kind(Mark.LATE)
        due = {hour for hour in self.schedule.hours() - self.closed if hour.is_due(now)}
        found = [(hour, counters.read(hour)) for hour in due]
        found += [(mark.hour, counters.read(mark.hour, {mark.subject.id})) for mark in marks]
        self.closed |= due
        for hour, keys in found:
            for key, amounts in keys.items():
                billed = self.billed.setdefault((hour, key), Counter())
                billed |= Counter(amounts.sums)  # the higher of both: what was read earlier does not count
        for mark in marks:
            counters.marks.clear(mark)

    def _judge(self) -> Iterator[str]:
        """Compare the table and the bucket with the schedule."""
        wanted, aside = self.schedule.straight_count(), self.schedule.bad_lines()
        counted, users, marked = self._contents()
        for where in sorted(wanted.keys() | counted.keys()):
            if counted.get(where) != wanted.get(where):
                there, lines = counted.get(where), wanted.get(where)
                yield f"I2: {_name(where)} holds {there}, and the distinct lines add up to {lines}"
        distinct = self.schedule.distinct_users()
        for month, key in sorted(distinct.keys() | users.keys()):
            if users[month, key] != distinct.get((month, key), 0):
                held = distinct.get((month, key), 0)
                yield f"I2: {month} of {key} has {users[month, key]} users, and the lines hold {held}"
        # Two deliveries at once may both set a line aside, one of them as doubtful.
        bodies = [msgspec.json.decode(body, type=SetAsideBatch) for body in self.bucket.objects().values()]
        found = {line.id: line.message for body in bodies for line in body.lines}
        if found != aside:
            yield f"I1: set aside are {sorted(found.items())}, and the bad lines are {sorted(aside.items())}"
        for where, sums in wanted.items():
            if where[0] in self.closed and where not in marked and self.billed.get(where) != sums:
                yield f"I4: {_name(where)} is billed as {self.billed.get(where)}, holds {sums}, and has no late mark"
        latest = self.world.moment + timedelta(minutes=3)
        yield from (f"{_name(where)} is marked, and not due yet" for where in marked if not where[0].is_due(latest))

    def _contents(self) -> tuple[dict[Where, dict[str, int]], Counter[tuple[str, str]], set[Where]]:
        """Return what each hour and key holds, each month's and key's users, and what is marked; without `Counters`."""
        counted: dict[Where, Counter[str]] = {}
        users: Counter[tuple[str, str]] = Counter()
        marked: set[Where] = set()
        for item in self.backing.items(self.backing.counters):
            kind, hour, *_ = item["pk"]["S"].split("#")
            name, *rest = item["sk"]["S"].split("#")
            if kind == "hour":
                numbers = {key[2:]: int(value["N"]) for key, value in item.items() if key.startswith("n:")}
                counted.setdefault((Hour.parse(hour), name), Counter()).update(numbers)
                users[hour[:7], name] += int(item.get("u:users", {"N": "0"})["N"])
            elif kind == "late":
                marked.add((Hour.parse(name), rest[1]))
        return {where: dict(sums) for where, sums in counted.items() if sums}, users, marked


def _name(where: Where) -> str:
    return f"{where[1]} in {where[0]}"
