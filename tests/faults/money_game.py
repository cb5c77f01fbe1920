"""The side of the money: plays a schedule, then lets calm return, and has a judge say where it is wrong."""

import itertools
import json
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, assert_never, cast
from unittest.mock import patch

from botocore.exceptions import BotoCoreError, ClientError

from infra.local.stripe.webhook import Webhook
from infra.operate.adjusting import adjust
from infra.operate.customers import Customers, Entry
from infra.operate.deployment import OperatorError
from infra.operate.held_invoices import Decision, decide, held_invoices
from infra.operate.posting import retry, turn_off, turn_on
from metering.billing import closing, late_marks, posting, sending, settling, writing
from metering.billing.carrying import Carrier
from metering.billing.closing import Closer
from metering.billing.posting import Poster
from metering.billing.receiving import Receiver
from metering.billing.reconciling import Reconciler
from metering.billing.unbilled import Looker
from metering.counting.recording import Hashing, Recorder
from metering.layout import SHARDS
from metering.model.amounts import Amounts
from metering.model.batches import Batch
from metering.model.metrics import Count, Metric, Sum, Unique
from metering.model.periods import Hour, due_before
from metering.model.read_allotment import A_SECOND
from metering.model.subjects import source_of_customer
from metering.model.usage_row import FLIGHT_TIME
from metering.stores import attribution, holders, marks
from metering.stores.aws import Item
from metering.stores.holders import BEGINNING, Customer, Holder, Holding
from metering.stores.progress import Lease, Leased, Seen
from metering.stores.set_aside import SetAside
from metering.stores.switch import Switch, shards_of_workers
from metering.stores.table import RowChangedError
from metering.stripe import client as stripe_client
from metering.stripe import pacing
from metering.stripe.client import SLOWEST_CALL, StripeUnavailableError
from metering.stripe.invoices import StripeReader
from metering.stripe.pacing import Pace
from metering.stripe.reading import Reads
from metering.stripe.webhooks import Webhooks
from tests.doubles import dynamodb
from tests.doubles.access_log import NONCE
from tests.doubles.clock import Clock
from tests.doubles.s3 import Buckets
from tests.faults.counted import Adjust, Deliver, batch_with
from tests.faults.fates import TableClient
from tests.faults.money_judge import Judge, Parts
from tests.faults.money_schedule import (
    DISTINCT,
    METRICS,
    START,
    Cancel,
    Close,
    Connect,
    HandOver,
    Limits,
    Lose,
    Mend,
    Notify,
    Post,
    Reconcile,
    Retry,
    Schedule,
    Subscribe,
    Task,
    Throttle,
    Turn,
    Void,
)
from tests.faults.money_stripe import API_KEY, StripeAccount
from tests.faults.stage import CALM, LIFE_S, Episode, InTurn, Process, Run, Stage, in_turn
from tests.faults.tables import MakeBacking

DECLARED: Final[tuple[Metric, ...]] = (Count(name="requests"), Sum(name="bytes", of="response_length"))
USERS: Final = Unique(name=DISTINCT, of="authorizer.user", opaque_id=True)
EPOCH: Final = "1"
SECRET: Final = "whsec_local"
CALM_TICKS: Final = 8
"""So many ticks after calm has returned nobody waits. One would do, but for the event stream's second round, and for
the customers of a process, who are played one after the other here: one whose account fails may use up a whole run, and
who comes first is drawn in each."""

QUICK_S: Final = 0.02
"""How long a step takes at most in calm where little is too much, so that a run gets through all of it."""

ROUNDS: Final = 60
"""So many hours after calm has returned everything must be right."""

WEEK_S: Final = 6 * 86_400


class _Reckless(Closer):
    """A closer that takes what another run has leased."""

    __slots__ = ()

    def _take(self, work: Leased[Any]) -> Lease[Any]:
        return Closer._take(self, replace(work, holder=""))


@dataclass
class Game:
    """One schedule under way."""

    schedule: Schedule
    make_backing: MakeBacking
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Set the stage."""
        self.world = Clock(START.start)
        self.stage = Stage(self.world, self.schedule.seed, step_s=self.schedule.step_s)
        schedule = self.schedule
        self.stripe = StripeAccount(
            self.stage, schedule.latest, schedule.summary_delay_s, bad=dict(schedule.bad), older=schedule.older
        )
        self.backing = self.make_backing(self.world, schedule.seed, schedule.lag_s)
        self.direct = Parts.of(self.backing.direct, self.backing.counters, self.backing.ledger)
        self.bucket = Buckets()
        self.weather = CALM
        self.begun: set[int] = set()
        self.recorded: set[int] = set()
        self.unfinished: list[Task] = []
        self.judge = Judge(schedule, self.world, self.stripe, self.backing, self.direct)
        self.numbers = itertools.count()
        self.metrics = (*METRICS, *((DISTINCT,) if schedule.distinct else ()))
        self.declared = (*DECLARED, *((USERS,) if schedule.distinct else ()))
        self.unreadable: set[str] = set()
        self.copies: dict[tuple[str, str], list[Item]] = {}
        """Older copies of the items that say how far closing is."""

    @property
    def met(self) -> Counter[str]:
        """How often which fault was met."""
        return self.stage.met

    def play(self) -> None:
        """Play it; where the result differs from what it should be, ``wrong`` has a sentence each."""
        self._set_up()
        self.weather = self.schedule.weather
        for episode in self.schedule.episodes:
            self._play(episode)
            self.wrong += self.judge.never_more(self.begun)
            self._judge_written()
            self._copy_progress()
        self._settle()

    def _judge_written(self) -> None:
        moving = {task.key for task in self.unfinished if isinstance(task, HandOver)}
        self.wrong += self.judge.written(self.begun, self.begun - self.recorded, moving)

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Keep up what has to hold while it is played: no thread, time, call or number but the stage's."""
        with ExitStack() as stack:
            time = _StageTime(self.stage)
            stack.enter_context(in_turn(self.schedule.seed))
            stack.enter_context(patch.object(posting, "ThreadPoolExecutor", InTurn))
            stack.enter_context(patch.object(sending, "time", time))
            stack.enter_context(patch.object(stripe_client, "time", time))
            stack.enter_context(patch.object(stripe_client, "_client", self.stripe.client))
            stack.enter_context(patch.object(stripe_client, "_sessions", {}))
            stack.enter_context(patch.object(pacing, "random", random.Random(self.schedule.seed)))
            stack.enter_context(patch.object(closing, "sample", random.Random(self.schedule.seed).sample))
            stack.enter_context(patch.object(marks, "uuid", Numbered()))
            for where, name, value in _limited(self.schedule.limits) if self.schedule.limits else ():
                stack.enter_context(patch.object(where, name, value))
            yield

    # --- before -----------------------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        """Make what an operator has made: meters, subscriptions, customers and keys, the switch, a table in use."""
        schedule, direct = self.schedule, self.direct
        for metric in self.metrics:
            self.stripe.meters.create_meter(metric)
        client = self.stripe.client(API_KEY, "")
        product = client.v1.products.create({"name": "usage"}).id
        prices = [
            client.v1.prices.create(
                {
                    "product": product,
                    "currency": "usd",
                    "unit_amount": 1,
                    "recurring": {"interval": schedule.interval, "usage_type": "metered", "meter": meter.id},
                }
            ).id
            for meter in self.stripe.meters.meters().values()
        ]
        named = {*schedule.connected.values(), *(f"cus_{name}" for name in schedule.connected)} - {""}
        named |= {one.task.stripe_customer for one in self._runs() if isinstance(one.task, Connect)}
        self.prices = prices
        for whom in sorted(named):
            self.stripe.account.directory.add(whom, self.world.now)["email"] = f"{whom}@example.com"
            self._subscribe(whom, billing_cycle_anchor=int(schedule.anchor.start.timestamp()))
        for name, stripe_customer in schedule.connected.items():
            direct.ledger.holders.save_customer(Customer(name, name, stripe_customer), before=None)
        for key, name in schedule.mapped.items():
            direct.ledger.holders.hand_over(Holding(key).with_holder(Holder(BEGINNING, name)))
        direct.ledger.progress.advance_cursor(Hour(START.number - (0 if schedule.limits else 3)))
        direct.ledger.progress.save_invoices_seen(Seen(int(self.world.now)))
        if schedule.since is not None:
            direct.switch.turn(Switch(on=True, since=str(schedule.since), who="operator", at=0))

    def _subscribe(self, whom: str, **begins: int) -> None:
        items = [{"price": price} for price in self.prices]
        wanted: Any = {"customer": whom, "items": items, "collection_method": "send_invoice", "days_until_due": 30}
        with self.stripe.by_others() as client:
            client.v1.subscriptions.create(wanted | begins)

    def _runs(self) -> Iterator[Run]:
        return (run for episode in self.schedule.episodes for run in episode.runs)

    # --- a task each ------------------------------------------------------------------------------------------------

    def _play(self, episode: Episode) -> None:
        if episode.after > WEEK_S:
            self._let_weeks_pass(episode.after)
        else:
            self.world.advance(episode.after)
        self.stage.stalls = self.weather.stalls
        self.stripe.fates = self.weather.stripe
        self.stage.play([self._cast(run) for run in episode.runs])

    def _let_weeks_pass(self, seconds: float) -> None:
        """Let weeks pass in which nobody uses anything, and runs have nothing to do but to see invoices."""
        weather, self.weather = self.weather, CALM
        for _ in range(3):  # hours that may hold usage are closed as ever; only those after them are passed over
            self.world.advance(3600)
            self._calm_tick()
        for _ in range(int(seconds // WEEK_S)):
            self.world.advance(WEEK_S)
            self.direct.ledger.progress.advance_cursor(Hour(due_before(self.world.moment).number - 1))
            self._calm_tick()
            self._calmly(Reconcile(1000))
        self.weather = weather

    def _cast(self, run: Run) -> tuple[Process, Callable[[], None]]:
        process = Process(self.stage, run.skew, run.death)
        return process, lambda: self._act(run.task, process)

    def _act(self, task: Task, process: Process) -> None:
        """Do a task as a process; what an operator could not finish is done again later."""
        client = TableClient(self.backing.client, process, self.weather.table, self.unreadable)
        parts = Parts.of(client, self.backing.counters, self.backing.ledger)
        commanded = isinstance(task, HandOver | Connect | Adjust | Turn | Retry | Deliver)
        if commanded:
            self.unfinished.append(task)
        self.stage.trace(
            f"{self.world.moment:%dT%H:%M:%S} begins {task} {process.skew.total_seconds():.0f} {process.death}"
        )
        try:
            self._do(task, process, parts)
        except (ClientError, BotoCoreError, RowChangedError, StripeUnavailableError, OperatorError) as error:
            self.stage.met[f"{type(task).__name__} {type(error).__name__}"] += 1
            self.stage.trace(f"{self.world.moment:%dT%H:%M:%S} failed {task}: {error!r}")
        except Exception as error:  # noqa: BLE001 - whatever else a function raises is a finding
            self.wrong.append(f"{task} raised {type(error).__name__}: {error}")
        else:
            if commanded:
                self.unfinished.remove(task)
            self.stage.trace(f"{self.world.moment:%dT%H:%M:%S} ended {task}")

    def _do(self, task: Task, process: Process, parts: Parts) -> None:  # noqa: C901, PLR0912 - a task each
        match task:
            case Deliver():
                self._deliver(task, process, parts)
            case Close():
                self._close(task, process, parts)
            case Post():
                self._post(task, process, parts)
            case Reconcile():
                self._reconcile(task, process, parts)
            case HandOver():
                entry = self._entry(task.customer, parts, keys=(task.key,), since=task.since)
                Customers(parts.ledger, parts.counters).add(entry, now=process.clock())
            case Connect():
                entry = self._entry(task.customer, parts, stripe_customer=task.stripe_customer)
                Customers(parts.ledger, parts.counters).add(entry, now=process.clock())
            case Adjust():
                self._adjust(task, process, parts)
            case Turn():
                deployment = cast("Any", parts)
                if task.on:
                    since, now = task.since, process.clock()
                    turn_on(deployment, since, who="operator", now=now, progress=lambda items, _: items)
                else:
                    turn_off(deployment, who="operator", now=process.clock())
            case Retry():
                retry(cast("Any", parts), self.schedule.connected)
            case Notify():
                self._notify(task, parts)
            case Mend():
                self.stripe.bad.pop(task.stripe_customer, None)
            case Lose():
                self._lose(task)
            case Throttle():
                self.unreadable.add(f"hour#{task.hour}#{task.partition}")
            case Cancel() | Subscribe() | Void():
                self._at_stripe(task)
            case _:
                assert_never(task)

    def _at_stripe(self, task: Cancel | Subscribe | Void) -> None:
        """Do what somebody else does at Stripe."""
        whom = task.stripe_customer
        with self.stripe.by_others() as client:
            match task:
                case Cancel():
                    for one in self.stripe.running(whom):
                        client.v1.subscriptions.cancel(one.id, {"invoice_now": True})
                case Subscribe():
                    if not self.stripe.running(whom):
                        begin = int(Hour.containing(self.world.moment).start.timestamp())
                        self._subscribe(whom, backdate_start_date=begin)
                case Void():
                    for invoice in client.v1.invoices.list({"customer": whom, "status": "open", "limit": 1}).data:
                        client.v1.invoices.void_invoice(invoice.id)
                case _:
                    assert_never(task)

    def _entry(self, name: str, parts: Parts, **more: Any) -> Entry:
        there = parts.ledger.holders.customers([name]).get(name)
        return Entry(name, name, **({"stripe_customer": there.stripe_customer if there else ""} | more))

    def _deliver(self, task: Deliver, process: Process, parts: Parts) -> None:
        self.begun.add(task.batch)
        set_aside = SetAside(cast("Any", self.bucket), "bucket")
        hashing = Hashing(b"secret", parts.ledger.holders)
        recorder = Recorder(self.declared, (NONCE,), parts.counters, parts.claims, set_aside, process.clock, hashing)
        recorded = recorder.record(self._batch(task.batch))
        if recorded.set_aside or recorded.unbilled:
            self.wrong.append(f"batch {task.batch} was not counted whole: {recorded}")
        self.recorded.add(task.batch)

    def _batch(self, number: int) -> Batch:
        return batch_with(number, self.schedule.batches[number], users=self.schedule.distinct)

    def _close(self, task: Close, process: Process, parts: Parts) -> None:
        """Do what the handler of ``close_periods`` does."""
        now = process.clock()
        closer = (_Reckless if task.reckless else Closer)(
            parts.counters,
            parts.uniques,
            parts.ledger,
            parts.changes,
            clock=process.clock,
            deadline=now + timedelta(seconds=LIFE_S * 0.8),
            until=now + timedelta(seconds=task.lease_s),
            holder=f"closer-{next(self.numbers)}",
        )
        closed = closer.close_due()
        if not task.helps:
            closer.settle(closed, parts.switch.read().first)
        for error in closed.errors:
            self.stage.met[f"closing {type(error).__name__}"] += 1
            self.stage.trace(f"{self.world.moment:%dT%H:%M:%S} not closed: {error!r}")

    def _copy_progress(self) -> None:
        if self.schedule.limits:
            for item in self.backing.items(self.backing.ledger):
                if _is_progress(item):
                    self.copies.setdefault((item["pk"]["S"], item["sk"]["S"]), []).append(item)

    def _lose(self, task: Lose) -> None:
        """Lose some of what says how far closing is, or put an older copy in its place."""
        chance = random.Random(f"{self.schedule.seed} {task.number}")
        client, table = self.backing.direct, self.backing.ledger
        self.judge.lost = True
        items = [item for item in self.backing.items(table) if _is_progress(item)]
        for item in sorted(items, key=lambda one: (one["pk"]["S"], one["sk"]["S"])):
            place = (item["pk"]["S"], item["sk"]["S"])
            fate = chance.choice(("lost", "older", "kept", "kept"))
            if fate == "older" and place in self.copies:
                client.put_item(TableName=table, Item=chance.choice(self.copies[place]))
            elif fate == "lost":
                client.delete_item(TableName=table, Key={"pk": item["pk"], "sk": item["sk"]})

    def _post(self, task: Post, process: Process, parts: Parts) -> None:
        """Do what the handler of ``post_usage`` does."""
        first = parts.switch.read().first
        if first is None:
            return
        now, holder = process.clock(), f"worker-{next(self.numbers)}"
        wanted = shards_of_workers(task.shares)[task.share]
        until = now + timedelta(seconds=LIFE_S)
        shards = parts.switch.lease(wanted, holder, now=now, until=until) if task.leased else wanted
        if not shards:
            return
        poster = Poster(
            parts.ledger,
            parts.counters,
            self.stripe.meters,
            epoch=EPOCH,
            clock=process.clock,
            deadline=until - timedelta(seconds=SLOWEST_CALL + 5),
            pace=self._pace(self.schedule.rate * len(shards) / SHARDS),
            streamed_from=self.schedule.streamed_from,
        )
        try:
            poster.post_pending(first, shards)
        finally:
            if task.leased:
                parts.switch.release(shards, holder)

    def _pace(self, per_second: float) -> Pace:
        return Pace(per_second, now=lambda: self.world.now, sleep=self.stage.sleep)

    def _reconcile(self, task: Reconcile, process: Process, parts: Parts) -> None:
        """Do what the handler of ``reconcile_usage`` does."""
        first = parts.switch.read().first
        if first is None:
            return
        start, time = process.clock(), timedelta(seconds=LIFE_S - 30)
        reader = StripeReader(self.stripe.meters, Reads(task.calls, self._pace(A_SECOND)))
        Carrier(parts.ledger, parts.changes, reader, first, process.clock, start + time / 2).run()
        Looker(parts.ledger, parts.changes, reader, first, process.clock, start + time / 2).run()
        Reconciler(parts.ledger, parts.changes, reader, first, process.clock, start + time).run()

    def _adjust(self, task: Adjust, process: Process, parts: Parts) -> None:
        reason = f"number {task.number}"
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

    def _notify(self, task: Notify, parts: Parts) -> None:
        for notification in self.stripe.account.reports.report(self.world.now):
            body = json.dumps(notification)
            receiver = Receiver(parts.ledger, Webhooks(self.stripe.meters, lambda: SECRET))
            if not task.lost:
                receiver.receive(body.encode(), Webhook("", SECRET).sign(body))

    # --- after ------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Let calm return, and judge."""
        self.weather, self.backing.calm = CALM, True
        if self.schedule.limits:
            self.stage.step_s = QUICK_S
        self.world.advance(FLIGHT_TIME.total_seconds() + 120)
        self.stripe.bad = {whom: how for whom, how in self.stripe.bad.items() if whom == self.schedule.failing}
        self.stripe.account.customers = self.stripe.account.directory.customers
        self._to_next_hour()
        self._finish()
        waiting: list[str] = []
        for _ in range(CALM_TICKS):
            self._calm_tick()
            waiting = [
                *self.judge.nobody_waits(),
                *self.judge.nobody_waits_to_be_closed(self.recorded, self.unreadable),
            ]
            if not waiting:
                break
        self.wrong += waiting
        self._judge_written()
        self.stripe.bad = {}
        self.unreadable.clear()
        found: list[str] = []
        for number in range(ROUNDS):
            self._to_next_hour()
            self._dose(number)
            self._decide()
            self._calmly(Retry())
            self._calm_tick()
            self._calmly(Reconcile(1000))
            self._calm_tick()
            self.wrong += self.judge.never_more(self.begun)
            found = [*self.judge.under_way(), *self.judge.final(self.recorded)]
            if not found:
                self._judge_written()
                return
        self.wrong += [f"not right after {ROUNDS} calm hours: {sentence}" for sentence in found]

    def _finish(self) -> None:
        """Do again what operators and CloudWatch Logs could not finish."""
        for number in range(len(self.schedule.batches)):
            if number not in self.recorded:
                self._calmly(Deliver(number))
        asked, self.unfinished = self.unfinished, []
        for task in asked:
            if not isinstance(task, Deliver):
                self._calmly(task)
        done = {change.reason for _, _, change in self.judge.changes()}
        for task in self.schedule.adjustments():
            if f"number {task.number}" not in done:
                self._calmly(task)
        self._connect()
        if self.direct.switch.read().first is None:
            self._calmly(Turn(on=True))

    def _decide(self) -> None:
        """Let an operator, who knows what was used, bill what is held for a person."""
        deployment = cast("Any", self.direct)
        for one in [*held_invoices(deployment)]:
            decision = Decision("carry", "it was used", self.world.moment)
            decide(deployment, one.customer, one.invoice, one.metric, decision)

    def _connect(self) -> None:
        """Let every customer be billed."""
        for name, whom in self.schedule.connected.items():
            if not whom and not self.direct.ledger.holders.customers([name])[name].stripe_customer:
                self._calmly(Connect(name, f"cus_{name}"))
        for whom in self.stripe.account.directory.customers:
            self._calmly(Subscribe(whom))

    def _calmly(self, task: Task) -> None:
        self._play(Episode(0.0, (Run(task),)))

    def _calm_tick(self) -> None:
        weather, self.weather = self.weather, CALM
        self._calmly(Close())
        self.world.advance(60)  # the index shows what was written
        self._calmly(Post(0, 1, leased=False))
        self.weather = weather

    def _to_next_hour(self) -> None:
        """Move to a quarter past the next hour."""
        self.world.advance(3600 - self.world.now % 3600 + 900)

    def _dose(self, number: int) -> None:
        """Let every customer use something, so that what is less than nothing has something to be taken from."""
        hour = Hour.containing(self.world.moment)
        for name in self.schedule.connected:
            amounts = Amounts(sums={"requests": 1000, "bytes": 10**13})
            self.direct.counters.count(hour, source_of_customer(name), amounts, number.to_bytes(12))
            for metric, amount in amounts.sums.items():
                self.judge.doses[name, metric, hour.number] += amount


class _StageTime:
    """Stands for the module `time`: the stage's time passes."""

    def __init__(self, stage: Stage) -> None:
        self.sleep = stage.sleep
        self.monotonic = lambda: stage.world.now


class Numbered:
    """Stands for the module `uuid`, where marks get their names: numbers, so that a seed always plays the same."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def uuid4(self) -> uuid.UUID:
        """Return the next one."""
        return uuid.UUID(int=next(self._numbers))


def _limited(limits: Limits) -> Iterator[tuple[Any, str, Any]]:
    """Yield what is set how under these limits."""
    yield dynamodb, "MOST_BYTES", limits.page
    yield closing, "STEP", limits.step
    yield late_marks, "MARKS", limits.marks
    yield late_marks, "TOGETHER", limits.together
    yield writing, "TOGETHER", limits.together
    yield writing, "MOST_KEYS", limits.others
    yield writing, "MOST_SOURCES", limits.sources
    yield holders, "MOST_HELD", limits.others
    yield settling, "MOST_CLAIMS", limits.claims
    yield settling, "_SAVED_EVERY", timedelta(seconds=limits.save_s)
    yield attribution, "MOST_JOINED", limits.joined


def _is_progress(item: Item) -> bool:
    """Say whether an item says how far closing is; what was done is found again where it is not there."""
    pk, sk = str(item["pk"]["S"]), str(item["sk"]["S"])
    return sk.startswith(("piece#", "join#", "month#")) or pk == "period#marks"
