"""The referee: plays a schedule on DynamoDB Local and says where the result differs from the straight count."""

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.local.aws.faults import Proxy
from metering.counting.recording import Hashing, Recorder
from metering.model.metrics import declared
from metering.model.periods import Hour
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.holders import Holders, Holding
from metering.stores.set_aside import SetAside, SetAsideBatch
from tests.dynamodb_local import DynamoDBLocal
from tests.faults.processes import Bucket, Clock, Freely, KilledError, Life, Mortal, Turns
from tests.faults.schedule import CALM, METRICS, Closing, Delivery, Schedule, Where, draw

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

WORKERS: Final = 8
ROUNDS: Final = 20
"""How often a batch is delivered again before it counts as one that never gets through."""

STORMY_ROUNDS: Final = 3
"""In how many of these rounds the weather is the schedule's own."""

CONFIG: Final = Config(
    connect_timeout=2,
    read_timeout=0.4,
    retries={"mode": "standard", "total_max_attempts": 4},  # as the functions have it
    max_pool_connections=64,
)

MakeCounters = Callable[[Any, str, Callable[[], datetime]], Counters]
"""Makes counters from a client, a table's name and a clock."""

DIED: Final = "the process died at a write"
FAILED: Final = "the client gave up"

_names = itertools.count()


def sound(client: Any, table: str, _clock: Callable[[], datetime]) -> Counters:
    """Make the counters as ``record_usage`` does."""
    return Counters(client, table)


class Referee:
    """Plays one schedule at a time; ``deaths``, ``failures`` and ``proxy.fates`` count what went wrong meanwhile."""

    def __init__(self, dynamodb: DynamoDBLocal, proxy: Proxy, definition: dict[str, Any]) -> None:
        self.proxy = proxy
        self.deaths = 0
        self.failures = 0
        self._definition = definition
        self._client = dynamodb.client(CONFIG, port=proxy.port)
        self._direct = dynamodb.client()
        self._workers = ThreadPoolExecutor(WORKERS)

    def play(self, schedule: Schedule, make_counters: MakeCounters = sound) -> list[str]:
        """Return where the result differs from what it should be, a sentence each."""
        name = f"counted-{next(_names)}"  # the side of the money makes tables on the same engine
        self._direct.create_table(TableName=name, **self._definition)
        game = Game(schedule, self._client, name, make_counters)
        try:
            for number, tasks in enumerate(game.rounds()):
                weather = schedule.weather if number < STORMY_ROUNDS else CALM
                fates, chance = weather.fates(schedule.seed + number), random.Random(schedule.seed)
                self.proxy.fate = lambda fates=fates: next(fates)  # type: ignore[misc]
                self.proxy.delay_s = lambda chance=chance: chance.random() * 0.3  # type: ignore[misc]
                list(self._workers.map(game.do, tasks))
            self.proxy.settle()
            self.deaths += game.deaths
            self.failures += game.failures
            return game.judge(self._direct)
        finally:
            self.proxy.settle()
            self._direct.delete_table(TableName=name)


class Lanes:
    """Several referees, each with a schedule of its own."""

    def __init__(self, referees: Sequence[Referee]) -> None:
        self.referees = referees
        self._free: SimpleQueue[Referee] = SimpleQueue()
        for referee in referees:
            self._free.put(referee)

    def play(self, seeds: Iterable[int], make_counters: MakeCounters = sound) -> Iterator[tuple[int, list[str]]]:
        """Yield each seed, in order, and what was wrong with the result of its schedule."""

        def play(seed: int) -> tuple[int, list[str]]:
            referee = self._free.get()
            try:
                return seed, referee.play(draw(seed), make_counters)
            finally:
                self._free.put(referee)

        with ThreadPoolExecutor(len(self.referees)) as lanes:
            yield from lanes.map(play, seeds)

    def faults(self) -> Counter[str]:
        """Count what went wrong so far."""
        faults: Counter[str] = Counter()
        for referee in self.referees:
            faults.update({str(fate.value): count for fate, count in referee.proxy.fates.items()})
            faults[DIED] += referee.deaths
            faults[FAILED] += referee.failures
        return faults


class NoHandOvers(Holders):
    """Holders where no key ever changed hands."""

    def holdings(self, keys: Iterable[str]) -> dict[str, Holding]:
        """Return no history."""
        return {key: Holding(key) for key in keys}


class Game:
    """One schedule under way."""

    def __init__(self, schedule: Schedule, client: "DynamoDBClient", table: str, make_counters: MakeCounters) -> None:
        self.schedule = schedule
        self.client = client
        self.table = table
        self.make_counters = make_counters
        self.bucket = Bucket()
        self.clock = Clock(schedule.start, schedule.step)
        self.recorded: set[int] = set()
        self.deaths = 0
        self.failures = 0
        self.wrong: list[str] = []
        # What the closer has read last, which is what it would bill.
        self.billed: dict[Where, Counter[str]] = {}
        self.closed = schedule.closed_before()
        self.lock = threading.Lock()
        self.turns = Freely()

    def rounds(self) -> Iterator[list[Delivery | Closing]]:
        """Yield what is to be done side by side: the schedule, then what did not get through, until all has."""
        if self.schedule.in_turns:
            self.turns = Turns(len(self.schedule.tasks), self.schedule.seed)
        yield list(self.schedule.tasks)
        self.turns = Freely()
        for number in range(ROUNDS):
            missing = sorted(set(range(len(self.schedule.batches))) - self.recorded)
            if not missing:
                return
            yield [Delivery(batch, order=number, skew=timedelta()) for batch in missing]
        self.wrong.append(f"batches were not recorded in {ROUNDS} deliveries")

    def do(self, task: Delivery | Closing) -> None:
        """Deliver, or close; what fails is delivered again."""
        turns, who = self.turns, id(task)
        try:
            turns.take(who)
            if isinstance(task, Delivery):
                self._deliver(task, lambda: turns.take(who))
            else:
                self._close(task, lambda: turns.take(who))
        except KilledError:
            self.deaths += 1
        except (BotoCoreError, ClientError):
            self.failures += 1
        finally:
            turns.leave()

    def _deliver(self, delivery: Delivery, step: Callable[[], None]) -> None:
        life = Life(*delivery.killed, step)
        clock = self.clock.of_a_machine(delivery.skew)
        counters = self.make_counters(Mortal(self.client, life), self.table, clock)
        set_aside = SetAside(cast("Any", Mortal(self.bucket, life)), "bucket")
        batch = self.schedule.batch(delivery)
        claims = Claims(cast("Any", Mortal(self.client, life)), self.table)
        hashing = Hashing(b"secret", NoHandOvers(self.client, self.table))
        recorder = Recorder(METRICS, declared(METRICS), counters, claims, set_aside, clock, hashing)
        recorded = recorder.record(batch)
        read = len(set(batch.ids))
        accounted = recorded.billed + sum(recorded.unbilled.values()) + recorded.set_aside
        if not recorded.read == read == accounted:
            self.wrong.append(f"of {read} lines {recorded} accounts for {accounted}")
        self.recorded.add(delivery.batch)

    def _close(self, closing: Closing, step: Callable[[], None]) -> None:
        """Do what a closer does with counters: read what is due or marked, bill it, and only then clear the mark."""
        clock = self.clock.of_a_machine(closing.skew)
        counters = self.make_counters(self.client, self.table, clock)
        now = clock()
        marks = counters.marks.late()
        step()
        due = {hour for hour in self.schedule.hours() - self.closed if hour.is_due(now)}
        found = [(hour, counters.read(hour)) for hour in due]
        found += [(mark.hour, counters.read(mark.hour, {mark.subject.id})) for mark in marks]
        with self.lock:
            self.closed |= due
            for hour, keys in found:
                for key, amounts in keys.items():
                    billed = self.billed.setdefault((hour, key), Counter())
                    billed |= Counter(amounts.sums)  # the higher of both: what was read earlier does not count
        step()
        for mark in marks:
            counters.marks.clear(mark)

    def judge(self, client: "DynamoDBClient") -> list[str]:
        """Compare the table and the bucket with the schedule."""
        wanted, aside = self.schedule.straight_count(), self.schedule.bad_lines()
        counted, users, marked = _contents(client, self.table)
        wrong = [
            f"I2: {_name(where)} holds {counted.get(where)}, and the distinct lines add up to {wanted.get(where)}"
            for where in sorted(wanted.keys() | counted.keys())
            if counted.get(where) != wanted.get(where)
        ]
        distinct = self.schedule.distinct_users()
        wrong += [
            f"I2: {month} of {key} has {users[month, key]} users, and the lines hold {distinct.get((month, key), 0)}"
            for month, key in sorted(distinct.keys() | users.keys())
            if users[month, key] != distinct.get((month, key), 0)
        ]
        # Two deliveries at once may both set a line aside, one of them as doubtful.
        found = {
            line.id: line.message
            for body in self.bucket.objects.values()
            for line in msgspec.json.decode(body, type=SetAsideBatch).lines
        }
        if found != aside:
            wrong.append(f"I1: set aside are {sorted(found.items())}, and the bad lines are {sorted(aside.items())}")
        wrong += [
            f"I4: {_name(where)} is billed as {self.billed.get(where)}, holds {sums}, and has no late mark"
            for where, sums in wanted.items()
            if where[0] in self.closed and where not in marked and self.billed.get(where) != sums
        ]
        latest = self.clock.of_a_machine(timedelta(minutes=3))()
        wrong += [f"{_name(where)} is marked, and not due yet" for where in marked if not where[0].is_due(latest)]
        return self.wrong + wrong


def _contents(
    client: "DynamoDBClient", table: str
) -> tuple[dict[Where, dict[str, int]], Counter[tuple[str, str]], set[Where]]:
    """Return what each hour and key holds, each month's and key's users, and what is marked; read without Counters."""
    counted: dict[Where, Counter[str]] = {}
    users: Counter[tuple[str, str]] = Counter()
    marked: set[Where] = set()
    for page in client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True):
        for item in page["Items"]:
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
