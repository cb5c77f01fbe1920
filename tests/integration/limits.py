"""A deployment with limits in memory: the customer acme, who holds key1, its limits, and what is said about them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from infra.operate.customers import Customers, Entry
from metering.billing.closing import INDEX_LAG, Closer
from metering.limits.asking import Asking
from metering.limits.looking import Looked, Looker
from metering.limits.telling import Teller
from metering.limits.usage import WindowReader
from metering.model.amounts import Amounts
from metering.model.limits import Limit, Notify, Stop
from metering.model.periods import Hour
from metering.model.prices import PerUnit, Plan
from metering.model.subjects import key
from metering.model.subscribed import Subscribed
from metering.model.usage_row import Change
from metering.stores.attribution import Uniques
from metering.stores.changes import Changes
from metering.stores.claims import Claim, Claims, of_value
from metering.stores.counters import Counters
from metering.stores.gate_list import GateList
from metering.stores.ledger import Ledger
from metering.stores.limits import LimitItems
from metering.stores.marks import new_mark
from tests.doubles.aws import Client
from tests.doubles.clock import Clock
from tests.doubles.dynamodb import Tables

HOUR = Hour.parse("2026-11-22T05")
QUEUE = "https://sqs.us-east-1.amazonaws.com/123456789012/Metering-Gate"

PLAN = Plan(
    name="pro",
    title="Pro",
    currency="usd",
    prices=(PerUnit(metric="requests", amount=2),),
    limits=(Limit("requests", 100, per="day", at=(Notify(80), Stop(100))),),
)


class Queue:
    """SQS: what was sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send_message(self, *, QueueUrl: str, MessageBody: str) -> dict[str, Any]:  # noqa: N803
        """Take a message."""
        assert QueueUrl == QUEUE
        self.sent.append(MessageBody)
        return {"MessageId": "1"}


class Bus:
    """EventBridge: what was put; it refuses whatever ``refuses`` says."""

    def __init__(self) -> None:
        self.put: list[dict[str, Any]] = []
        self.refuses: Callable[[dict[str, Any]], bool] = lambda _: False

    def put_events(self, *, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        """Take events, and answer each in its order (EventBridge API, "PutEvents")."""
        assert 1 <= len(Entries) <= 10
        answers = []
        for entry in Entries:
            refused = self.refuses(entry)
            answers.append({"ErrorCode": "InternalFailure"} if refused else {"EventId": "1"})
            if not refused:
                self.put.append({**entry, "Detail": json.loads(entry["Detail"])})
        return {"FailedEntryCount": sum("ErrorCode" in one for one in answers), "Entries": answers}

    @property
    def steps(self) -> list[str]:
        """The steps that were told, in their order."""
        return [f"{one['Detail']['step']}:{one['Detail']['percent']}" for one in self.put]


class Mail:
    """SES: what was sent; the next call fails with ``error``."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def send_email(self, **message: Any) -> dict[str, Any]:
        """Take an e-mail."""
        if self.error is not None:
            raise self.error
        self.sent.append(message)
        return {"MessageId": "1"}


@dataclass
class Limited:
    """A deployment whose customers have limits."""

    tables: Tables = field(default_factory=lambda: Tables(("counters", "ledger", "access"), made=HOUR.start))
    time: Clock = field(default_factory=lambda: Clock(HOUR.start + timedelta(minutes=30)))
    plans: tuple[Plan, ...] = (PLAN,)
    queue: Queue = field(default_factory=Queue)
    bus: Bus = field(default_factory=Bus)
    mail: Mail = field(default_factory=Mail)
    sender: str = ""
    scales: dict[str, int] = field(default_factory=dict)
    unpaid_days: int | None = None
    batches: int = 0

    def client(self) -> Any:
        """Return a client of the tables."""
        return Client("dynamodb", self.tables)

    @property
    def now(self) -> datetime:
        """The present moment."""
        return self.time.moment

    @property
    def counters(self) -> Counters:
        """The Counters table."""
        return Counters(self.client(), "counters")

    @property
    def ledger(self) -> Ledger:
        """The Ledger table."""
        return Ledger(self.client(), "ledger")

    @property
    def items(self) -> LimitItems:
        """What the ledger has about limits."""
        return LimitItems(self.client(), "ledger")

    @property
    def gate(self) -> GateList:
        """The Access table."""
        return GateList(self.client(), "access")

    def looker(self, client: Any = None, *, usage_lines: bool = False) -> Looker:
        """Return what looks, by a client of its own."""
        client = client or self.client()
        counters, ledger = Counters(client, "counters"), Ledger(client, "ledger")
        uniques = Uniques(Claims(client, "counters"), ledger.holders)
        return Looker(
            LimitItems(client, "ledger"),
            WindowReader(counters, uniques, ledger, usage_lines),
            Asking(GateList(client, "access"), self.queue, QUEUE),
            Teller(self.bus, self.mail, "Metering", self.sender, "https://metering.example/usage", self.scales),
            self.plans,
            self.unpaid_days,
        )

    def look(self, name: str = "acme") -> Looked:
        """Look at a customer now."""
        return self.looker().look(name, self.now)

    def customer(self, name: str = "acme", *keys: str, plans: tuple[str, ...] = ("pro",)) -> None:
        """Add a customer who is subscribed to plans."""
        customers = Customers(self.ledger, self.counters)
        customers.add(Entry(name, name.capitalize(), "", keys or ("key1",), None), now=self.now)
        self.subscribe(name, plans=plans)

    def subscribe(self, name: str = "acme", *, plans: tuple[str, ...] = ("pro",), **changes: Any) -> Subscribed:
        """Write what a customer is subscribed to: a month that began with the hour."""
        before = self.items.of(name).subscribed
        begin = int(HOUR.start.timestamp())
        subscribed: dict[str, Any] = {
            "at": begin,
            "stripe_customer": f"cus_{name}",
            "status": "active",
            "since": begin,
            "plans": plans,
            "currency": "usd",
            "interval": "month",
            "anchor": begin,
            "begin": begin,
            "end": begin + 30 * 86_400,
            "prices": ('{"type":"per_unit","metric":"requests","amount":"2"}',),
            "version": before.version if before else 0,
        }
        return self.items.subscribe(name, Subscribed(**(subscribed | changes)))

    def use(self, number: int, hour: Hour | None = None, source: str = "key1", *, metric: str = "requests") -> None:
        """Count usage of an hour, with a late mark if it is due."""
        hour = hour or Hour.containing(self.now)
        self.batches += 1
        self.counters.count(hour, source, Amounts({metric: number}), f"{self.batches:012d}".encode())
        if hour.is_due(self.now):
            self.counters.marks.mark_late(hour, key(source), new_mark())

    def meet(self, *users: str, source: str = "key1") -> None:
        """Count users that a key brings, those whom it has not brought before in the month."""
        hour = Hour.containing(self.now)
        self.batches += 1
        batch = f"{self.batches:012d}".encode()
        claims = Claims(self.client(), "counters")
        hashes = [f"{sum(map(ord, user)) % 256:02x}{user}" for user in users]
        at = int(self.now.timestamp() * 1000) + self.batches
        wanted = {of_value("users", source, hour, value, None): Claim(hour, batch, at) for value in hashes}
        mine = sum(claim.batch == batch for claim in claims.claim(wanted).values())
        self.counters.count(hour, source, Amounts(uniques={"users": mine}), batch)

    def adjust(self, amount: int, hour: Hour = HOUR, name: str = "acme") -> None:
        """Write an operator's adjustment, which is closed by the next tick."""
        self.batches += 1
        changes = Changes(self.client(), "ledger", self.counters)
        changes.add(name, hour, Change(f"a{self.batches}", "requests", amount, "a mistake", "operator", 0))

    def close(self) -> None:
        """Close what is due, as a tick does, and what the next one makes of it."""
        uniques = Uniques(Claims(self.client(), "counters"), self.ledger.holders)
        closer = Closer(
            self.counters,
            uniques,
            self.ledger,
            Changes(self.client(), "ledger", self.counters),
            self.time.look,
            self.now + timedelta(minutes=2),
            note_change=self.items.note_change,
        )
        closed = closer.close_due()
        assert not closed.errors
        replace(closer, clock=lambda: self.now + INDEX_LAG).settle(closed, None)

    def pass_by(self, **time: float) -> None:
        """Let time pass by."""
        self.time.advance(timedelta(**time).total_seconds())
