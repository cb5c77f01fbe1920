"""An hour of limited customers' traffic in memory: the calls that watching it makes, as AWS bills them.

The real watcher, one for each shard, and the real sweep each minute; the tables are in memory, the time is ours. What a
call weighs follows from its items' sizes (``units.py``).
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import msgspec
from botocore import xform_name

from infra.operate.customers import Customers, Entry
from metering.limits.asking import Asking
from metering.limits.looking import Looker
from metering.limits.sweeping import Sweeper
from metering.limits.telling import Teller
from metering.limits.usage import WindowReader
from metering.limits.watching import Watcher
from metering.model.amounts import Amounts
from metering.model.limits import Limit, Notify, OfCustomer, Slow, Spend, Stop
from metering.model.periods import Hour
from metering.model.prices import PerUnit, Plan
from metering.model.subscribed import Subscribed
from metering.stores.attribution import Uniques
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.gate_list import GateList
from metering.stores.ledger import Ledger
from metering.stores.limits import LimitItems
from metering.stores.marks import partition
from tests.benchmarks.units import Units
from tests.doubles.aws import Client
from tests.doubles.stream import Record, Streamed

HOUR: Final = Hour.parse("2026-11-22T05")
CLOSED_AFTER: Final = timedelta(minutes=11)
"""When the rows of the hour before are written: due after 10, and closed within some more."""

SHARDS: Final = 4
"""Of a new table on demand (DynamoDB Developer Guide, "On-demand capacity mode": 4,000 writes a second at first)."""

GATHERED_S: Final = 3
"""How long a batch is gathered (infra/stack/limiting.py)."""

LIMIT: Final = 24_000
ALMOST: Final = 20_000
"""How much of its own limit one has used who is near, before the hour begins."""

PLAN: Final = Plan(
    name="standard",
    title="Standard",
    currency="usd",
    prices=(PerUnit(metric="requests", amount="0.04"), PerUnit(metric="messages", amount="0.5")),
    limits=(
        Limit("messages", 500_000_000, per="period", at=(Notify(80), Notify(95), Stop(100))),
        Limit("requests", 5_000_000, per="day", at=(Slow(90), Stop(100))),
        Spend(500_000_000, at=(Notify(50), Notify(80), Notify(100)), customer_may_stop=True),
    ),
)
"""The three limits that the documentation declares, so large that nobody by itself is near one."""


class Nobody:
    """SQS, EventBridge and SES, where nothing is to be told."""

    def send_message(self, **_: Any) -> dict[str, Any]:
        """Take a message."""
        return {}

    def put_events(self, *, Entries: Sequence[Any]) -> dict[str, Any]:  # noqa: N803 - as EventBridge names them
        """Take events."""
        return {"FailedEntryCount": 0, "Entries": [{"EventId": "1"} for _ in Entries]}


class Metered:
    """Tables in memory: each call is counted as AWS bills it, and write units by table in ``written``."""

    def __init__(self, tables: Streamed, units: Units, written: Counter[str]) -> None:
        self.exceptions = tables.exceptions
        self._tables, self._units, self._written = tables, units, written

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = "".join(word.capitalize() for word in name.split("_"))
        assert xform_name(operation) == name
        return partial(self._call, operation, getattr(self._tables, name))

    def _call(self, operation: str, call: Callable[..., Any], **arguments: Any) -> Any:
        before = self._units.writes
        try:
            return self._units.call(operation, call, **arguments)
        finally:
            self._written[arguments.get("TableName", "")] += round(self._units.writes - before)


@dataclass
class Hourly:
    """What an hour came to: batches and sweeps, their looks, and the units of those who watch and of who counts."""

    batches: int = 0
    records: int = 0
    looks: int = 0
    batches_with_looks: int = 0
    sweeps: int = 0
    sweep_looks: int = 0
    sweep_calls: int = 0
    units: Units = field(default_factory=Units)
    counted_units: Units = field(default_factory=Units)
    written: Counter[str] = field(default_factory=Counter)
    sample: list[Record] = field(default_factory=list)
    """The records of the largest batch."""


@dataclass
class Traffic:
    """So many customers with a key each, of whom some are near, and how often each is used."""

    customers: int
    near: int
    weights: Sequence[float]
    hour: Hour
    tables: Streamed = field(default_factory=Streamed)
    now: datetime = field(init=False)

    def __post_init__(self) -> None:
        self.now = self.hour.start

    @classmethod
    def of(cls, customers: int, near_percent: int, hour: Hour = HOUR) -> "Traffic":
        """Return customers who are used by Zipf's law."""
        near = max(1, customers * near_percent // 100)
        return cls(customers, near, [1 / (rank + 1) for rank in range(customers)], hour)

    def fill(self) -> None:
        """Enter the customers, with their subscriptions; those who are near are in the middle, and have own limits."""
        client = self._client()
        ledger, counters, items = Ledger(client, "ledger"), Counters(client, "counters"), LimitItems(client, "ledger")
        ledger.progress.advance_cursor(Hour(self.hour.number - 1))
        begin = int(self.hour.month_begin.start.timestamp())
        end = int(self.hour.month_end.start.timestamp())
        prices = [one for one in PLAN.prices if isinstance(one, PerUnit)]
        subscribed = Subscribed(
            begin,
            "cus_1",
            "active",
            begin,
            plans=(PLAN.name,),
            currency=PLAN.currency,
            interval="month",
            anchor=begin,
            begin=begin,
            end=end,
            prices=tuple(msgspec.json.encode(one).decode() for one in prices),
        )
        customers = Customers(ledger, counters)
        for number in range(self.customers):
            name = f"customer{number}"
            customers.add(Entry(name, "Customer", "", (key(number),), None), now=self.now)
            items.subscribe(name, subscribed)
        for number in self.who_is_near():
            counters.count(self.hour, key(number), Amounts({"requests": ALMOST}), bytes(12))
            items.set(f"customer{number}", OfCustomer("requests", "day", LIMIT, reason="an agreement"))

    def who_is_near(self) -> range:
        """Return the numbers of the customers who are near."""
        return range(self.customers // 4, self.customers // 4 + self.near)

    def pass_by(self, rate: int, *, delivered_every_s: int, seconds: int = 3600) -> Hourly:
        """Let an hour pass, with so many requests a second, that are delivered every so many seconds."""
        told, draw = Hourly(), random.Random(1)
        counting: Any = Metered(self.tables, told.counted_units, told.written)
        counters = Counters(counting, "counters")
        looker = looker_of(Client("dynamodb", Metered(self.tables, told.units, told.written)))
        watchers = [Watcher(looker, looker.asking.gate, looker.reader.ledger.holders) for _ in range(SHARDS)]
        waiting: list[list[Record]] = [[] for _ in range(SHARDS)]
        self.tables.take()
        for second in range(seconds):
            self.now = self.hour.start + timedelta(seconds=second)
            if second == CLOSED_AFTER.total_seconds():
                Ledger(self._client(), "ledger").progress.advance_cursor(self.hour)
            if second % 60 == 0:
                self._sweep(looker, told)
            if second % delivered_every_s == 0:
                self._count(counters, draw, rate * delivered_every_s)
            for record in self.tables.take():
                waiting[_shard_of(record)].append(record)
            for shard, records in enumerate(waiting):
                if records and (second + shard) % GATHERED_S == 0:
                    self._take(watchers[shard], records, told)
                    waiting[shard] = []
        return told

    def _count(self, counters: Counters, draw: random.Random, requests: int) -> None:
        batch = draw.randbytes(12)
        for number, count in Counter(draw.choices(range(self.customers), self.weights, k=requests)).items():
            amounts = {"requests": count, "response_bytes": count * 10_000, "messages": count * 5}
            counters.count(self.hour, key(number), Amounts(amounts, splits={"requests": {"/items": count}}), batch)

    def _take(self, watcher: Watcher, records: list[Record], told: Hourly) -> None:
        taken = watcher.take(records, self.now)
        told.batches += 1
        told.records += len(records)
        told.looks += len(taken.looked)
        told.batches_with_looks += bool(taken.looked)
        told.sample = max(told.sample, records, key=len)

    def _sweep(self, looker: Looker, told: Hourly) -> None:
        gate, holders = looker.asking.gate, looker.reader.ledger.holders
        before = told.units.calls.total()
        swept = Sweeper(looker, gate, holders, lambda: self.now, self.now + timedelta(seconds=45)).sweep()
        told.sweep_calls += told.units.calls.total() - before
        told.sweeps += 1
        told.sweep_looks += len(swept.looked)

    def _client(self) -> Any:
        return Client("dynamodb", self.tables)


def looker_of(client: Any) -> Looker:
    """Return what looks, by a client."""
    ledger = Ledger(client, "ledger")
    uniques = Uniques(Claims(client, "counters"), ledger.holders)
    nobody: Any = Nobody()
    return Looker(
        LimitItems(client, "ledger"),
        WindowReader(Counters(client, "counters"), uniques, ledger),
        Asking(GateList(client, "access"), nobody, "queue"),
        Teller(nobody, nobody, "Metering", "", ""),
        (PLAN,),
    )


def key(number: int) -> str:
    """Return a customer's key."""
    return f"k{number:09d}"


def _shard_of(record: Record) -> int:
    source, _, _ = record["dynamodb"]["Keys"]["sk"]["S"].partition("#")
    return partition(source) % SHARDS
