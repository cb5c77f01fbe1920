"""The whole deployment with limits on the embedded AWS: how soon a limit acts, and how far one is overrun.

What can still come after a stop is at most keys * (burst + rate * T), T being the time from a request until its key is
refused: the line's way into the counters, the look, and the gate. Each part is measured by probes, while another
customer sends at the same rate; then a customer runs into its limit at that rate, and what it got beyond is counted.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any, Final

import aiohttp
import urllib3
from rich.console import Console

from infra.local.aws.gateway import Gateway
from infra.local.cloud import LocalCloud, start
from infra.operate.customers import Customers, Entry
from metering.limits.watching import LIST_ASKED
from metering.model.amounts import Amounts
from metering.model.limits import OfCustomer
from metering.model.periods import Hour
from metering.model.subjects import source_of_key
from metering.stores.limits import LimitItems

PATH: Final = "/probe"
POLL_S: Final = 0.02
PATIENCE_S: Final = 120.0
ALMOST: Final = 95
LIMIT: Final = 100
RUN_S: Final = 6
"""So many seconds a customer sends before it reaches its limit."""

AFTER_S: Final = 5.0
"""So long it goes on after it was refused first."""

AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Probe:
    """Seconds from a request to its counter, from a counter's write to the decision, and from that to the refusal."""

    count: float
    detect: float
    gate: float


@dataclass
class Sent:
    """Requests that were let in and refused, as their sender saw them."""

    let_in: int = 0
    refused: int = 0
    other: int = 0
    refused_first: float = 0.0
    seconds: float = 0.0

    @property
    def number(self) -> int:
        """All of them."""
        return self.let_in + self.refused + self.other


@dataclass
class Stack:
    """A deployment whose API has a resource that answers by itself."""

    cloud: LocalCloud
    url: str
    plans: dict[int, str] = field(default_factory=dict)
    made: int = 0
    calls: urllib3.PoolManager = field(default_factory=urllib3.PoolManager)

    @property
    def items(self) -> LimitItems:
        """What the ledger has about limits."""
        ledger = self.cloud.deployment.ledger
        return LimitItems(ledger.client, ledger.table)

    def customer(self, rate: int, limit: int, used: int) -> "Customer":
        """Add a customer with a key, in a plan of this rate, a limit, and so much used of it."""
        self.made += 1
        apigateway = self.cloud.emulator.client("apigateway")
        name = f"limited{self.made}"
        key = apigateway.create_api_key(name=name, enabled=True)
        if rate not in self.plans:
            stages = [{"apiId": self.cloud.sample["ApiId"], "stage": self.cloud.sample["StageName"]}]
            throttle: Any = {"rateLimit": float(rate), "burstLimit": rate}
            self.plans[rate] = apigateway.create_usage_plan(name=f"of{rate}", apiStages=stages, throttle=throttle)["id"]
        apigateway.create_usage_plan_key(usagePlanId=self.plans[rate], keyId=key["id"], keyType="API_KEY")
        apigateway.close()
        deployment, now = self.cloud.deployment, datetime.now(UTC)
        Customers(deployment.ledger, deployment.counters).add(Entry(name, name, "", (key["id"],), None), now=now)
        self.items.set(name, OfCustomer("requests", "month", limit, reason="a benchmark"))
        made = Customer(self, name, source_of_key(key["id"]), key["value"], Hour.containing(now))
        if used:
            made.count(used)
        return made

    def look(self, *names: str) -> None:
        """Let watch_limits look at customers, or sweep."""
        function = self.cloud.outputs.watch_limits_function
        self.cloud.deployment.invoke(function or "", {"look": [*names]} if names else {"sweep": True})


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer with one key and one limit."""

    stack: Stack
    name: str
    source: str
    value: str
    since: Hour

    def count(self, number: int) -> None:
        """Count usage, as record_usage would."""
        token = time.time_ns().to_bytes(12, "big")
        counters = self.stack.cloud.deployment.counters
        counters.count(Hour.containing(datetime.now(UTC)), self.source, Amounts({"requests": number}), token)

    def counted(self) -> int:
        """Return what was counted."""
        counters, hour = self.stack.cloud.deployment.counters, self.since
        total = 0
        while hour.start <= datetime.now(UTC):
            counted = counters.read(hour, [self.source])
            total += sum(amounts.sums.get("requests", 0) for amounts in counted.values())
            hour = hour.next()
        return total

    def call(self) -> int:
        """Send a request, and return the answer's status."""
        return self.stack.calls.request("GET", f"{self.stack.url}{PATH}", headers={"x-api-key": self.value}).status

    def is_decided(self) -> bool:
        """Say whether its stop has acted."""
        return any("stop:100" in state.acted for state in self.stack.items.of(self.name).states.values())


@contextmanager
def running() -> Iterator[Stack]:
    """Deploy everything, with a resource that a mock answers, and with limits; wait until a round is done."""
    say = Console(file=sys.stderr)
    with start(alerts_from="alerts@example.com", back=timedelta(), say=say) as cloud:
        _add_resource(cloud)
        api, stage = cloud.sample["ApiId"], cloud.sample["StageName"]
        with Gateway(cloud.emulator, api_id=api, stage=stage) as gateway:
            stack = Stack(cloud, gateway.url)
            stack.look()
            yield stack


def _add_resource(cloud: LocalCloud) -> None:
    apigateway, api = cloud.emulator.client("apigateway"), cloud.sample["ApiId"]
    root = next(one["id"] for one in apigateway.get_resources(restApiId=api, limit=500)["items"] if one["path"] == "/")
    made = apigateway.create_resource(restApiId=api, parentId=root, pathPart=PATH.removeprefix("/"))["id"]
    method = {"restApiId": api, "resourceId": made, "httpMethod": "GET"}
    apigateway.put_method(**method, authorizationType="NONE", apiKeyRequired=True)
    apigateway.put_integration(**method, type="MOCK", requestTemplates={"application/json": '{"statusCode": 200}'})
    apigateway.put_method_response(**method, statusCode="200")
    apigateway.put_integration_response(**method, statusCode="200")
    apigateway.close()


def probed(stack: Stack, samples: int) -> list[Probe]:
    """Let as many customers as samples run into their limits, one after the other, and time each part."""
    customers = [stack.customer(1_000, LIMIT, ALMOST) for _ in range(samples)]
    stack.look(*(one.name for one in customers))
    time.sleep(LIST_ASKED.total_seconds() + 1)  # every process then knows who is near
    return [_probe(one) for one in customers]


def _probe(customer: Customer) -> Probe:
    _wait(lambda: customer.call() == 200, "a call is let in")
    called = time.monotonic()
    _wait(lambda: customer.counted() > ALMOST, "a call is counted")
    counted = time.monotonic()
    customer.count(LIMIT)
    written = time.monotonic()
    _wait(customer.is_decided, "a stop acts")
    decided = time.monotonic()
    _wait(lambda: customer.call() == 403, "a key is refused")
    return Probe(counted - called, decided - written, time.monotonic() - decided)


def _wait(is_so: Any, what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > until:
            raise RuntimeError(f"it took more than {PATIENCE_S:.0f} s until {what}")
        time.sleep(POLL_S)


def overrun(stack: Stack, rate: int, samples: int) -> dict[str, Any]:
    """Return how far a customer that sends at this rate overruns its limit, and how far it may by the probes."""
    loud = stack.customer(rate, 10**9, 0)
    stop: list[bool] = []
    sending = Thread(target=lambda: asyncio.run(_send(loud, rate, stop)))
    sending.start()
    try:
        probes = probed(stack, samples)
    finally:
        stop.append(True)
        sending.join()
    longest = sum(max(getattr(one, part) for one in probes) for part in ("count", "detect", "gate"))
    limited = stack.customer(rate, rate * RUN_S, 0)
    stack.look(limited.name)
    sent = asyncio.run(_send(limited, rate, []))
    return {
        "rate": rate,
        "overshoot_calls": sent.let_in - rate * RUN_S,
        "bound_calls": round(rate + rate * longest),
        "let_in": sent.let_in,
        "refused": sent.refused,
        "other": sent.other,
        "seconds_after_the_limit": round(sent.refused_first - RUN_S, 2),
        "bound_s": round(longest, 2),
        "sent_per_s": round(sent.number / sent.seconds),
    }


async def _send(customer: Customer, rate: int, stop: list[bool]) -> Sent:
    """Send so many requests a second until told to stop, or some seconds after the first refusal."""
    sent, slots, url = Sent(), asyncio.Semaphore(AT_ONCE), f"{customer.stack.url}{PATH}"
    began = time.monotonic()

    async def ask(session: aiohttp.ClientSession) -> None:
        try:
            async with session.get(url, headers={"x-api-key": customer.value}) as answer:
                status = answer.status
        finally:
            slots.release()
        sent.let_in += status == 200
        sent.refused += status == 403
        sent.other += status not in (200, 403)
        if status == 403 and not sent.refused_first:
            sent.refused_first = time.monotonic() - began

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        number = 0
        while not stop and time.monotonic() - began < PATIENCE_S:
            if (early := number / rate - (time.monotonic() - began)) > 0:
                await asyncio.sleep(early)
            await slots.acquire()
            group.create_task(ask(session))
            number += 1
            if sent.refused_first and time.monotonic() - began > sent.refused_first + AFTER_S:
                break
    sent.seconds = time.monotonic() - began
    return sent
