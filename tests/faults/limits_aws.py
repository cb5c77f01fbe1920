"""What surrounds the functions of limits: the counters' stream, API Gateway, a bus, mail and a queue, which fail."""

import random
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from botocore.exceptions import ClientError, ReadTimeoutError

from metering.layout import LANE_TAG
from metering.stores.aws import Item
from tests.doubles.aws import Client
from tests.doubles.clock import Clock
from tests.doubles.dynamodb import Tables
from tests.doubles.stream import Record, record
from tests.doubles.usage_plans import UsagePlansOfAws
from tests.faults.stage import Process

DEPLOYMENT: Final = "Metering"


@dataclass(frozen=True, slots=True)
class UsagePlan:
    """A usage plan of API Gateway, with its stages; a lane is a slow one, which no key belongs to."""

    id: str
    stages: frozenset[str]
    lane: bool = False


class Trouble(Enum):
    """What becomes of a call to API Gateway, EventBridge, SES or SQS, after boto3's own retries."""

    THROTTLED = "429 to every attempt"
    FAILED = "500 to every attempt"
    UNANSWERED = "is done, and no answer comes"
    REPLAYED = "is done, sent again after a read timeout, and meets what it did itself"


class WithStream(Tables):
    """Tables in memory, of which the Counters table's writes are told: a list of records for each shard, in order."""

    def __init__(self, shards: int, **how: Any) -> None:
        super().__init__(("counters", "ledger", "access"), **how)
        self.shards: list[list[Record]] = [[] for _ in range(shards)]
        self.written: Callable[[str, Item | None, Item | None], object] = lambda _table, _before, _after: None
        self._number = 0

    def _put(self, table: str, item: Item) -> None:
        before = self._get(table, item)
        super()._put(table, item)
        self.written(table, before, item)
        pk = item["pk"]["S"]
        if table == "counters" and pk.startswith("hour#"):
            self._number += 1
            told = record(before, item, number=self._number, at=int(self._now()))
            self.shards[zlib.crc32(pk.encode()) % len(self.shards)].append(told)

    def of(self, table: str, pk: str) -> Iterable[Item]:
        """Return the items of a partition."""
        return self._table(table).get(pk, {}).values()

    def snapshot(self, table: str) -> list[Item]:
        """Return what a table holds now."""
        return [*self.items(table)]

    def restore(self, table: str, items: Iterable[Item]) -> None:
        """Let a table hold this instead."""
        self._items[table] = {}
        self._index[table] = {}
        for item in items:
            super()._put(table, item)


class Streaming:
    """The tables of a schedule, with the stream; see ``tables.InMemory``."""

    counters = "counters"
    ledger = "ledger"
    access = "access"
    calm = True

    def __init__(self, world: Clock, seed: int, shards: int) -> None:
        self.tables = WithStream(shards, now=world)
        self.chance = random.Random(seed)
        self.client: Any = Client("dynamodb", self.tables)
        self.direct = self.client

    def items(self, table: str) -> Iterable[Item]:
        """Return every item of a table."""
        return list(self.tables.items(table))


def gateway(plans: Iterable[UsagePlan], homes: Mapping[str, Collection[str]]) -> UsagePlansOfAws:
    """Return API Gateway with these plans, and with keys in theirs."""
    made = UsagePlansOfAws()
    for plan in plans:
        stages = [dict(zip(("apiId", "stage"), stage.split("/"), strict=True)) for stage in sorted(plan.stages)]
        tags = {LANE_TAG: DEPLOYMENT} if plan.lane else {}
        made.plans[plan.id] = {"id": plan.id, "name": plan.id, "apiStages": stages, "tags": tags}
        made.members[plan.id] = [key for key, home in homes.items() if plan.id in home]
    made.keys |= {key: {"id": key, "name": key, "value": "", "createdDate": 0} for key in homes}
    return made


def plans_of(gateway: UsagePlansOfAws, key: str) -> set[str]:
    """Return the plans that a key is in."""
    return {plan for plan, keys in gateway.members.items() if key in keys}


READS: Final = ("get_",)


@dataclass
class Suffering:
    """A process's client of a service in memory: each call meets its fate, what writes costs the process a write."""

    service: Any
    process: Process
    fates: Mapping[Enum, float]
    asked_about: set[str] = field(default_factory=set)
    """The keys that calls were about."""

    @property
    def exceptions(self) -> Any:
        """What the client raises."""
        return getattr(self.service, "exceptions", None)

    def __getattr__(self, name: str) -> Any:
        return lambda **arguments: self._call(name, arguments)

    def get_paginator(self, name: str) -> "_Pages":
        """Return what reads every page."""
        return _Pages(lambda **arguments: self._call(name, arguments))

    def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        if name.startswith(READS):
            self.process.stage.step()
            return self._suffer(name, arguments)
        return self.process.life.write(lambda: self._suffer(name, arguments))

    def _suffer(self, name: str, arguments: dict[str, Any]) -> Any:
        fate = self._draw()
        self.asked_about.update({arguments.get("keyId", ""), arguments.get("apiKey", "")})
        do = getattr(self.service, name)
        match fate:
            case Trouble.THROTTLED:
                refused = getattr(self.exceptions, "TooManyRequestsException", ClientError)
                raise refused({"Error": {"Code": "TooManyRequestsException"}}, name)
            case Trouble.FAILED:
                raise ClientError({"Error": {"Code": "InternalFailure"}}, name)
            case Trouble.UNANSWERED:
                do(**arguments)
                raise ReadTimeoutError(endpoint_url=name)
            case Trouble.REPLAYED:
                do(**arguments)
        return do(**arguments)

    def _draw(self) -> Trouble | None:
        stage = self.process.stage
        drawn = stage.chance.random() if self.fates else 1.0
        for fate, rate in self.fates.items():
            drawn -= rate
            if drawn < 0:
                assert isinstance(fate, Trouble)
                stage.met[fate.name] += 1
                return fate
        return None


class _Pages:
    def __init__(self, ask: Callable[..., dict[str, Any]]) -> None:
        self._ask = ask

    def paginate(self, **arguments: Any) -> Iterable[dict[str, Any]]:
        """Yield the pages."""
        while True:
            page = self._ask(**arguments)
            yield page
            if not page.get("position"):
                return
            arguments["position"] = page["position"]


@dataclass
class Bus:
    """EventBridge: what it was told, when by the world's clock."""

    world: Clock
    told: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def put_events(self, *, Entries: Sequence[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803  as EventBridge has it
        """Take events."""
        self.told += [(self.world.now, entry) for entry in Entries]
        return {"FailedEntryCount": 0, "Entries": [{"EventId": str(len(self.told))} for _ in Entries]}


@dataclass
class Mail:
    """SES: what it was given."""

    world: Clock
    sent: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def send_email(self, **message: Any) -> dict[str, Any]:
        """Take a message."""
        self.sent.append((self.world.now, message))
        return {"MessageId": str(len(self.sent))}


@dataclass
class Queue:
    """SQS: how many messages wait for the gate worker."""

    waiting: int = 0

    def send_message(self, **_message: Any) -> dict[str, Any]:
        """Take a message."""
        self.waiting += 1
        return {"MessageId": "1"}
