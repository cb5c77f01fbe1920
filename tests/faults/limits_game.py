"""The side of limits: plays a schedule, then lets calm return, and has a judge say where a limit has acted wrongly."""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, assert_never, cast
from unittest.mock import patch

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from infra.operate.access import Access
from infra.operate.access_notes import AccessNotes
from infra.operate.adjusting import adjust
from infra.operate.customers import Customers, Entry
from infra.operate.deployment import OperatorError
from infra.operate.restore import ask_for_all
from metering.billing import closing
from metering.billing.closing import Closer
from metering.counting.recording import Recorder
from metering.limits import sweeping
from metering.limits.asking import Asking
from metering.limits.gate import Gate, UnsettledError
from metering.limits.keys import NotAsWantedError, PlanKeys
from metering.limits.looking import Looker
from metering.limits.sweeping import Sweeper
from metering.limits.telling import Teller, access_events, put_events
from metering.limits.usage import WindowReader
from metering.limits.usage_plans import CALLS_A_SECOND, UnavailableError, UsagePlans
from metering.limits.watching import Watcher
from metering.model.batches import Batch
from metering.model.limits import Budget, OfCustomer, Reason
from metering.model.metrics import Count, Metric, Sum
from metering.model.periods import Hour
from metering.model.subjects import key as key_of
from metering.model.subscribed import Subscribed
from metering.stores import marks
from metering.stores.gate_list import GateList
from metering.stores.holders import BEGINNING, Customer, Holder, Holding
from metering.stores.limits import LimitItems
from metering.stores.set_aside import SetAside
from metering.stores.table import RowChangedError
from metering.stripe import pacing
from metering.stripe.pacing import Pace
from tests.doubles.access_log import NONCE
from tests.doubles.clock import Clock
from tests.doubles.s3 import Buckets
from tests.doubles.stream import Record
from tests.faults.counted import Adjust, Deliver, batch_with
from tests.faults.fates import TableClient
from tests.faults.limits_aws import DEPLOYMENT, Bus, Mail, Queue, Streaming, Suffering, gateway
from tests.faults.limits_judge import Judge
from tests.faults.limits_schedule import (
    COMMANDS,
    PRICES,
    SHARDS,
    Clear,
    Close,
    Enforce,
    Finish,
    Give,
    HandOver,
    Look,
    Lose,
    Owe,
    Restart,
    Restore,
    Resume,
    Rotate,
    Schedule,
    Set,
    Subscribe,
    Suspend,
    Sweep,
    Task,
    Watch,
)
from tests.faults.money_game import Numbered
from tests.faults.money_judge import Parts
from tests.faults.stage import CALM, LIFE_S, Episode, Process, Run, Stage, in_turn
from tests.faults.tables import MakeBacking

DECLARED: Final[tuple[Metric, ...]] = (Count(name="requests"), Sum(name="bytes", of="response_length"))
_OF_THE_GATE: Final = (ExceptionGroup, UnavailableError, UnsettledError, NotAsWantedError)
"""What else a command may fail with that brings a customer's keys somewhere."""

CALM_MINUTES: Final = 20
"""So long after everything else whatever was missed is found: a round through all customers begins every 15 minutes."""

TICK_S: Final = 180.0
"""Between two ticks in calm; a minute, in life."""


@dataclass
class Game:
    """One schedule under way."""

    schedule: Schedule
    make_backing: MakeBacking
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Set the stage."""
        schedule = self.schedule
        self.world = Clock(schedule.start)
        self.stage = Stage(self.world, schedule.seed)
        self.backing = Streaming(self.world, schedule.seed, SHARDS)
        self.backing.tables.written = self._written
        self.direct = Parts.of(self.backing.direct, self.backing.counters, self.backing.ledger)
        self.bucket = Buckets()
        self.bus, self.mail, self.queue = Bus(self.world), Mail(self.world), Queue()
        self.gateway = gateway(schedule.usage_plans, schedule.homes)
        self.judge = Judge(schedule, self.world, self.backing, self.bus, self.mail, self.gateway)
        self.weather = CALM
        self.begun: set[int] = set()
        self.recorded: set[int] = set()
        self.unfinished: list[Task] = []
        self.numbers = itertools.count()
        self.instances: dict[int, _Function] = {}
        self.delivered: dict[int, list[Record]] = {}
        """The records that each shard has delivered last."""

        self.copies: list[list[Any]] = []
        """What the ledger held after each episode."""

    @property
    def met(self) -> Counter[str]:
        """How often which fault was met."""
        return self.stage.met

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Keep up what has to hold while it is played: no thread, time or number but the stage's."""
        seed = self.schedule.seed
        with ExitStack() as stack:
            stack.enter_context(in_turn(seed))
            stack.enter_context(patch.object(pacing, "random", random.Random(seed)))
            stack.enter_context(patch.object(closing, "sample", random.Random(seed).sample))
            stack.enter_context(patch.object(marks, "uuid", Numbered()))
            stack.enter_context(patch.object(sweeping, "sample", random.Random(seed).sample))
            yield

    def play(self) -> None:
        """Play it; where the result differs from what it should be, ``wrong`` has a sentence each."""
        self._set_up()
        self.weather = self.schedule.weather
        for episode in self.schedule.episodes:
            self._play(episode)
            self.wrong += self.judge.never()
            self.copies.append(self.backing.tables.snapshot(self.backing.ledger))
        self._settle()

    def _set_up(self) -> None:
        """Make what an operator has made: customers and keys, what they are subscribed to, a table in use."""
        schedule, direct = self.schedule, self.direct
        for name in dict.fromkeys(schedule.mapped.values()):
            direct.ledger.holders.save_customer(Customer(name, name, ""), before=None)
        for key, name in schedule.mapped.items():
            direct.ledger.holders.hand_over(Holding(key).with_holder(Holder(BEGINNING, name)))
            self.judge.ever.setdefault(name, set()).add(key)
        direct.ledger.progress.advance_cursor(Hour(Hour.containing(schedule.start).number - 3))
        items = LimitItems(cast("Any", self.backing.direct), self.backing.ledger)
        for name, plans in schedule.subscribed.items():
            items.subscribe(name, self._subscribed(plans))
        for name in sorted(schedule.mailed):
            items.address(name, [f"{name}@example.com"])

    def _subscribed(self, plans: tuple[str, ...]) -> Subscribed:
        at = int(self.world.now)
        if not plans:
            return Subscribed(at, "cus_x", "", at)
        begin, end = (int(hour.start.timestamp()) for hour in self.schedule.bounds)
        return Subscribed(
            at,
            "cus_x",
            "active",
            at,
            plans,
            "usd",
            "month",
            end,
            begin,
            end,
            tuple(msgspec.json.encode(price).decode() for price in PRICES) * len(plans),
        )

    def _written(self, table: str, before: Any, after: Any) -> None:
        """See each write as it is done."""
        if table != self.backing.ledger:
            return
        self.wrong += self.judge.written(before, after)
        pk, sk = after["pk"]["S"], after["sk"]["S"]
        kind, _, name = pk.partition("#")
        if kind in ("limits", "budget") and not sk.startswith(("state#", "gate", "changes")):
            self.judge.note_one(name)

    # --- a task each ------------------------------------------------------------------------------------------------

    def _play(self, episode: Episode) -> None:
        self._advance(episode.after)
        self.stage.stalls = self.weather.stalls
        self.judge.note()
        self.stage.play([self._cast(run) for run in episode.runs])

    def _advance(self, seconds: float) -> None:
        """Let time pass; at each turn of an hour windows turn as well."""
        end = self.world.now + seconds
        while self.world.now < end:
            self.judge.note()
            self.world.advance(min(end - self.world.now, 3600 - self.world.now % 3600))

    def _cast(self, run: Run) -> tuple[Process, Callable[[], None]]:
        process = Process(self.stage, run.skew, run.death)
        return process, lambda: self._act(run.task, process)

    def _act(self, task: Task, process: Process) -> None:
        """Do a task as a process; what somebody could not finish is done again later."""
        commanded = isinstance(task, COMMANDS)
        if commanded:
            self.unfinished.append(task)
        self._say(f"begins {task} {process.skew.total_seconds():.0f} {process.death}")
        try:
            self._do(task, process, _Clients(self, process))
        except (ClientError, BotoCoreError, RowChangedError, OperatorError, *_OF_THE_GATE) as error:
            self.stage.met[f"{type(task).__name__} {type(error).__name__}"] += 1
            self._say(f"failed {task}: {error!r}")
        except Exception as error:  # noqa: BLE001 - whatever else a function raises is a finding
            self.wrong.append(f"{task} raised {type(error).__name__}: {error}")
        else:
            if commanded:
                self.unfinished.remove(task)
            self._say(f"ended {task}")

    def _say(self, sentence: str) -> None:
        self.stage.trace(f"{self.world.moment:%dT%H:%M:%S} {sentence}")

    def _do(self, task: Task, process: Process, clients: "_Clients") -> None:  # noqa: C901, PLR0912 - a task each
        match task:
            case Deliver():
                self._deliver(task, process, clients.parts)
            case Close():
                self._close(process, clients.parts)
            case Adjust():
                self._adjust(task, process, clients.parts)
            case Watch():
                self._watch(task, process)
            case Lose():
                self.delivered.pop(task.shard, None)
                self.backing.tables.shards[task.shard].clear()
            case Restart():
                self.instances.pop(task.shard, None)
            case Sweep():
                _Function(self).at_work(process).sweep(process, helps=task.helps)
            case Look():
                function = _Function(self).at_work(process)
                for name in task.names:
                    function.looker.look(name, process.clock())
            case Enforce():
                self._enforce(process, clients)
            case Set() | Clear() | Give() | Subscribe() | Owe():
                self._change(task, process, clients.items)
            case Suspend() | Resume():
                self._suspend(task, process, clients)
            case HandOver():
                self._hand_over(task, process, clients)
            case Rotate():
                self._rotate(task, process, clients)
            case Finish():
                clients.access().finish("", now=process.clock())
            case Restore():
                self._restore(task)
            case _:
                assert_never(task)

    def _deliver(self, task: Deliver, process: Process, parts: Parts) -> None:
        self.begun.add(task.batch)
        set_aside = SetAside(cast("Any", self.bucket), "bucket")
        recorder = Recorder(DECLARED, (NONCE,), parts.counters, parts.claims, set_aside, process.clock)
        recorded = recorder.record(self._batch(task.batch))
        if recorded.set_aside or recorded.unbilled:
            self.wrong.append(f"batch {task.batch} was not counted whole: {recorded}")
        self.recorded.add(task.batch)

    def _batch(self, number: int) -> Batch:
        return batch_with(number, self.schedule.batches[number])

    def _close(self, process: Process, parts: Parts) -> None:
        now = process.clock()
        closer = Closer(
            parts.counters,
            parts.uniques,
            parts.ledger,
            parts.changes,
            clock=process.clock,
            deadline=now + timedelta(seconds=LIFE_S * 0.8),
            until=now + timedelta(seconds=LIFE_S),
            note_change=LimitItems(parts.ledger.holders.client, self.backing.ledger).note_change,
            holder=f"closer-{next(self.numbers)}",
        )
        closed = closer.close_due()
        closer.settle(closed, None)
        for error in closed.errors:
            self.stage.met[f"closing {type(error).__name__}"] += 1

    def _adjust(self, task: Adjust, process: Process, parts: Parts) -> None:
        reason = f"number {task.number}"
        self.judge.adjusted.add(task)
        try:
            adjust(
                cast("Any", parts),
                task.customer,
                task.metric,
                task.hour,
                reason=reason,
                who="operator",
                now=process.clock(),
                by=task.amount,
                below_zero=True,
            )
        except OperatorError:
            # A first attempt that died may have been made; or another transaction was at work, and it was not.
            if not any(change.reason == reason for change in self.direct.changes.of(task.customer, task.hour)):
                raise

    def _watch(self, task: Watch, process: Process) -> None:
        """Deliver records of a shard, in order; those that come ``again`` had an answer that was lost on the way."""
        shard = self.backing.tables.shards[task.shard]
        records = self.delivered.get(task.shard, []) if task.again else shard[: task.most]
        if not records:
            return
        instance = self.instances.pop(task.shard, None) or _Function(self)
        instance.at_work(process).watcher.take(records, process.clock())
        self.instances[task.shard] = instance
        if not task.again:
            self.delivered[task.shard] = records
            del shard[: len(records)]

    def _enforce(self, process: Process, clients: "_Clients") -> None:
        """Let the worker take a message, which comes again unless all is done."""
        if not self.queue.waiting:
            return
        until = process.clock() + timedelta(seconds=LIFE_S - 45)
        ran = clients.gate(tells=True).run(f"worker-{next(self.numbers)}", until)
        if ran.left:
            clients.queue.send_message()
        self.queue.waiting -= 1

    def _change(self, task: Set | Clear | Give | Subscribe | Owe, process: Process, items: LimitItems) -> None:
        """Write what an operator, a customer or Stripe has said."""
        name, now = task.customer, int(process.clock().timestamp())
        there = items.of(name)
        match task:
            case Set():
                until = now + task.minutes * 60 if task.minutes else 0
                wanted = OfCustomer(task.metric, task.per, task.most, task.raised, until, "because", "operator", now)
                before = [one.version for one in there.own if one.known_as == wanted.known_as]
                items.set(name, msgspec.structs.replace(wanted, version=sum(before)))
            case Clear():
                for one in there.own[:1]:
                    items.clear(name, one)
            case Give():
                version = there.budget.version if there.budget else 0
                items.save_budget(name, Budget(task.notify, task.stop, now, version))
            case Subscribe():
                version = there.subscribed.version if there.subscribed else 0
                items.subscribe(name, msgspec.structs.replace(self._subscribed(task.plans), version=version))
            case Owe():
                status = "past_due" if task.owes else "active"
                if there.subscribed and there.subscribed.status:
                    items.subscribe(name, msgspec.structs.replace(there.subscribed, status=status, since=now))
            case _:
                assert_never(task)

    def _suspend(self, task: Suspend | Resume, process: Process, clients: "_Clients") -> None:
        customer = Customer(task.customer, task.customer, "")
        access, now = clients.access(), process.clock()
        if isinstance(task, Suspend):
            access.suspend(customer, now=now)
        else:
            access.resume(customer, now=now)

    def _rotate(self, task: Rotate, process: Process, clients: "_Clients") -> None:
        customer, overlap = Customer(task.customer, task.customer, ""), timedelta(minutes=task.overlap)
        rotated = clients.access().rotate(customer, task.key, overlap, now=process.clock())
        self.judge.ever.setdefault(task.customer, set()).add(rotated.new)

    def _hand_over(self, task: HandOver, process: Process, clients: "_Clients") -> None:
        self.judge.ever.setdefault(task.customer, set()).add(task.key)
        entry, access = Entry(task.customer, task.customer, keys=(task.key,), since=task.since), clients.access()
        access.customers.add(entry, now=process.clock())
        access.settle([task.key], now=process.clock())

    def _restore(self, task: Restore) -> None:
        """Put the ledger back as it was after an episode, and do what an operator then does (``metering restore``)."""
        self.backing.tables.restore(self.backing.ledger, self.copies[min(task.episode, len(self.copies) - 1)])
        gate_list = GateList(cast("Any", self.backing.direct), self.backing.access)
        ask_for_all(self.direct.ledger.holders, gate_list, now=self.world.moment)
        holders = self.judge.holders()
        lines = {line for batch in self.schedule.batches for line in batch}
        for hour, key in sorted({(line.hour, line.key) for line in lines}):
            if key in holders and hour < Hour.containing(self.world.moment):
                self.direct.counters.marks.mark_late(hour, key_of(key), marks.new_mark())

    # --- after ------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Let calm return, and judge."""
        self.weather = CALM
        calm = max(self.schedule.calm.start.timestamp(), self.world.now - self.world.now % 3600 + 3600)
        self._advance(calm + 60 - self.world.now)
        for number in range(len(self.schedule.batches)):
            if number not in self.recorded:
                self._calmly(Deliver(number))
        asked, self.unfinished = self.unfinished, []
        for task in asked:
            if not isinstance(task, Deliver):
                self._calmly(task)
        self.world.advance(31 * 60)  # by then the old keys of all rotations are to go
        self._calmly(Finish())
        if not self.schedule.keeps:
            for shard in range(SHARDS):
                self._calmly(Lose(shard))
        end = self.world.now + CALM_MINUTES * 60
        while self.world.now < end:
            self._calmly(Close())
            for shard in range(SHARDS):
                self._calmly(Watch(shard, 1000))
            self._calmly(Sweep())
            self._calmly(Enforce())
            self._advance(TICK_S)
        self.wrong += self.judge.final(self.recorded, self.begun)

    def _calmly(self, task: Task) -> None:
        self._play(Episode(0.0, (Run(task),)))


class _Relay:
    """A client of whoever is at work: what a function keeps in memory outlives each of its processes here."""

    def __init__(self) -> None:
        self.to: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.to, name)


class _Function:
    """An instance of ``watch_limits``, and what it remembers."""

    def __init__(self, game: Game) -> None:
        self._game = game
        self._dynamodb, self._bus, self._mail, self._queue = (_Relay() for _ in range(4))
        backing, client = game.backing, cast("Any", self._dynamodb)
        parts = Parts.of(client, backing.counters, backing.ledger)
        self.gate_list = GateList(client, backing.access)
        self.looker = Looker(
            LimitItems(client, backing.ledger),
            WindowReader(parts.counters, parts.uniques, parts.ledger),
            Asking(self.gate_list, self._queue, "queue"),
            Teller(self._bus, self._mail, DEPLOYMENT, "us@example.com"),
            game.schedule.plans,
            unpaid_days=0,
        )
        self._holders = parts.ledger.holders
        self.watcher = Watcher(self.looker, self.gate_list, self._holders)

    def sweep(self, process: Process, *, helps: bool) -> None:
        """Do what a tick of the clock asks for."""
        deadline = process.clock() + timedelta(seconds=45)
        sweeper = Sweeper(self.looker, self.gate_list, self._holders, process.clock, deadline)
        swept = sweeper.help() if helps else sweeper.sweep()
        for name in swept.failed:
            self._game.stage.met["looks that failed"] += 1
            self._game.stage.trace(f"{name} was not looked at")

    def at_work(self, process: Process) -> "_Function":
        """Let a process work with it."""
        game, fates = self._game, self._game.weather.stripe
        self._dynamodb.to = TableClient(game.backing.client, process, game.weather.table)
        for relay, service in ((self._bus, game.bus), (self._mail, game.mail), (self._queue, game.queue)):
            relay.to = Suffering(service, process, fates)
        return self


class _Clients:
    """What an operator, or the gate worker, has at hand."""

    def __init__(self, game: Game, process: Process) -> None:
        backing = game.backing
        client: Any = TableClient(backing.client, process, game.weather.table)
        self.parts = Parts.of(client, backing.counters, backing.ledger)
        self.items = LimitItems(client, backing.ledger)
        self.gate_list = GateList(client, backing.access)
        fates, self._process = game.weather.stripe, process
        self.gateway = Suffering(game.gateway.client(), process, fates, game.judge.asked_about)
        self.bus, self.queue = (Suffering(one, process, fates) for one in (game.bus, game.queue))
        pace = Pace(CALLS_A_SECOND, now=game.world, sleep=game.stage.sleep)
        self._plans = UsagePlans(self.gateway, pace, game.world)

    def gate(self, *, tells: bool = False) -> Gate:
        """Return the gate; the worker's own tells what has changed."""
        clock = self._process.clock
        keys = PlanKeys(self._plans, DEPLOYMENT)
        return Gate(self.items, self.parts.ledger.holders, keys, clock, self.gate_list, self._tell if tells else None)

    def access(self) -> Access:
        """Return the verbs of an operator's commands."""
        customers = Customers(self.parts.ledger, self.parts.counters)
        gate, notes = self.gate(), AccessNotes(self.items.client, self.items.table)
        return Access(self._plans, gate, notes, self.parts.ledger, customers, DEPLOYMENT, lambda: "operator")

    def _tell(self, name: str, reasons: Sequence[Reason], stands: Any) -> bool:
        events = access_events(DEPLOYMENT, name, reasons, stands)
        return len(put_events(self.bus, events)) == len(events)
