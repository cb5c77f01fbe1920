"""The demo: real HTTP requests become a Stripe bill on this machine, and every step is compared with the one before."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.live import Live
from rich.table import Table

from infra.customers import Customers, Entry
from infra.deployment import Deployment
from infra.local.cloud import CLOCK_BACK, LocalCloud, phase, start
from metering.aws import side_by_side
from metering.ledger import mapped_to
from metering.periods import Hour, hours
from metering.subjects import customer

WORKERS: Final = 8

SLOWEST_COUNT: Final = 60.0
"""Seconds without a new count after which the demo stops waiting for more."""

Usage = dict[tuple[str, str], int]
"""Quantities by customer and metric."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends requests: a customer of the demo, one of its keys, and that key's secret value."""

    customer: str
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller saw of one request."""

    customer: str
    status: int
    length: int


@dataclass(frozen=True, slots=True)
class Result:
    """The demo's outcome: each quantity at each step."""

    requests: int
    elapsed_s: Mapping[str, float]
    sent: Usage
    counted: Usage
    ledger: Usage
    stripe: Usage

    @property
    def equal(self) -> bool:
        """Say whether every step holds the same, and something was sent at all."""
        return bool(self.sent) and self.sent == self.counted == self.ledger == self.stripe

    def as_json(self) -> dict[str, Any]:
        """Return the result as ``metering demo --json`` prints it."""
        customers: dict[str, dict[str, dict[str, int]]] = {}
        for row in self._rows():
            steps = {step: usage.get(row, 0) for step, usage in self._steps().items()}
            customers.setdefault(row[0], {})[row[1]] = steps
        return {
            "equal": self.equal,
            "requests": self.requests,
            "elapsed_s": dict(self.elapsed_s),
            "customers": [{"id": name, "metrics": metrics} for name, metrics in customers.items()],
        }

    def table(self) -> Table:
        """Return the result as a table."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("customer", "metric", *self._steps()):
            table.add_column(column, justify="left" if column in ("customer", "metric") else "right")
        table.add_column("")
        for row in self._rows():
            steps = [usage.get(row, 0) for usage in self._steps().values()]
            table.add_row(*row, *(f"{n:,}" for n in steps), "equal" if len(set(steps)) == 1 else "DIFFERENT")
        return table

    def _steps(self) -> dict[str, Usage]:
        return {"sent": self.sent, "counted": self.counted, "ledger": self.ledger, "stripe": self.stripe}

    def _rows(self) -> list[tuple[str, str]]:
        return sorted({row for usage in self._steps().values() for row in usage})


def run(*, requests: int, say: Console) -> Result:
    """Run the demo; ``say`` is told what happens.

    A step that never gets there is shown as different.
    """
    began = time.monotonic()
    with start(say=say) as cloud:
        callers = _make_customers(cloud)
        say.print(f"The gateway's clock is {CLOCK_BACK} back, so that the hour of the requests is over.")
        first = Hour.containing(datetime.now(UTC) - CLOCK_BACK)
        with phase(f"sending {requests} requests", "requests", cloud.elapsed_s, say):
            answers = asyncio.run(_send(cloud.gateway.url, callers, requests))
            cloud.gateway.flush()
        _say_answers(answers, say)
        span = (first, Hour.containing(datetime.now(UTC) - CLOCK_BACK).next())
        sent = _billed(answers)
        counted = _wait_until_counted(cloud, sent, span, say)
        with phase("closing the hour and posting it to Stripe", "close", cloud.elapsed_s, say):
            cloud.deployment.close()
        cloud.elapsed_s["total"] = round(time.monotonic() - began, 2)
        names = sorted({caller.customer for caller in callers})
        result = Result(
            requests=requests,
            elapsed_s=cloud.elapsed_s,
            sent=sent,
            counted=counted,
            ledger=ledger_usage(cloud.deployment, names, span),
            stripe=stripe_usage(cloud.deployment, names, span),
        )
    say.print(result.table())
    verdict = "sent = counted = ledger = Stripe" if result.equal else "the steps differ"
    say.print(f"{verdict}, after {cloud.elapsed_s['total']:.1f} s", style="bold green" if result.equal else "bold red")
    return result


def _make_customers(cloud: LocalCloud) -> list[Caller]:
    """Make three customers with API keys: one with two keys, one with one, one on the plan that is soon throttled."""
    customers = Customers(cloud.deployment.ledger, cloud.deployment.counters)
    callers = []
    for name, plans in {"acme": ["Standard", "Standard"], "globex": ["Standard"], "initech": ["Trial"]}.items():
        keys = [cloud.add_api_key(f"{name}-{n}", plan=plan) for n, plan in enumerate(plans)]
        cloud.stripe.add_customer(f"cus_{name}")
        entry = Entry(name, name.capitalize(), f"cus_{name}", tuple(key for key, _ in keys))
        customers.add(entry, now=datetime.now(UTC))
        callers += [Caller(name, *key) for key in keys]
    return callers


async def _send(url: str, callers: list[Caller], requests: int) -> list[Answer]:
    """Send the requests, ``WORKERS`` at a time: mostly good, some without a key, some to a failing backend."""
    waiting = iter(range(requests))
    answers: list[Answer] = []

    async def work(session: aiohttp.ClientSession) -> None:
        for n in waiting:
            caller = callers[n % len(callers)] if n % 10 else Caller("", "", "")
            method, path = _what(n)
            headers = {"x-api-key": caller.value} if caller.value else {}
            async with session.request(method, f"{url}{path}", headers=headers) as answer:
                answers.append(Answer(caller.customer, answer.status, len(await answer.read())))

    async with aiohttp.ClientSession(auto_decompress=False) as session:
        await asyncio.gather(*(work(session) for _ in range(WORKERS)))
    return answers


def _what(n: int) -> tuple[str, str]:
    """Return the n-th request's method and path."""
    if n % 15 == 7:  # noqa: PLR2004 - one in fifteen
        return "GET", "/fail"
    return (("GET", f"/items?n={n % 40}"), ("GET", f"/items/{n}"), ("POST", "/messages"))[n % 3]


def _billed(answers: list[Answer]) -> Usage:
    """Count what the callers saw and should pay for, by code that shares nothing with the metering."""
    usage: Usage = {}
    for answer in answers:
        if answer.customer and 200 <= answer.status < 400:  # noqa: PLR2004 - what is billed
            for metric, amount in (("requests", 1), ("response_bytes", answer.length)):
                usage[answer.customer, metric] = usage.get((answer.customer, metric), 0) + amount
    return usage


def _say_answers(answers: list[Answer], say: Console) -> None:
    by_status: dict[int, int] = {}
    for answer in answers:
        by_status[answer.status] = by_status.get(answer.status, 0) + 1
    say.print("answers: " + ", ".join(f"{count} x {status}" for status, count in sorted(by_status.items())))


def _wait_until_counted(cloud: LocalCloud, sent: Usage, span: tuple[Hour, Hour], say: Console) -> Usage:
    """Show the counters filling until they hold what was sent, or no more is coming."""
    began = changed = time.monotonic()
    counted: Usage = {}
    with Live(console=say, transient=True, auto_refresh=False) as live:
        while counted != sent:
            before, counted = counted, counted_usage(cloud.deployment, span)
            live.update(_filling(sent, counted), refresh=True)
            if counted != before:
                changed = time.monotonic()
            if time.monotonic() - changed > SLOWEST_COUNT:
                break
            time.sleep(0.5)
    cloud.elapsed_s["count"] = round(time.monotonic() - began, 2)
    say.print(f"waiting for the counters: {cloud.elapsed_s['count']:.1f} s", highlight=False)
    return counted


def wait_until(done: Callable[[], bool], *, seconds: float = SLOWEST_COUNT) -> None:
    """Wait until something is so; raise TimeoutError if it never is."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it was not so within {seconds} s")
        time.sleep(0.2)


def _filling(sent: Usage, counted: Usage) -> Table:
    table = Table(box=None, pad_edge=False)
    for row, amount in sorted(sent.items()):
        table.add_row(*row, f"{counted.get(row, 0):,} of {amount:,}")
    return table


def counted_usage(deployment: Deployment, span: tuple[Hour, Hour]) -> Usage:
    """Return what the counters hold, by customer."""
    usage: Usage = {}
    for hour in hours(*span):
        counted = deployment.counters.read(hour)
        holdings = deployment.ledger.holdings(counted)
        for key, sums in counted.items():
            owner = mapped_to(holdings[key], hour)
            for metric, amount in sums.items():
                row = (owner.id if owner else "", metric)
                usage[row] = usage.get(row, 0) + amount
    return usage


def ledger_usage(deployment: Deployment, names: list[str], span: tuple[Hour, Hour]) -> Usage:
    """Return what the ledger bills, by customer."""
    usage: Usage = {}
    for name in names:
        for row in deployment.ledger.rows_of(customer(name), *span):
            for metric, total in row.totals.items():
                usage[name, metric] = usage.get((name, metric), 0) + total.quantity
    return usage


def stripe_usage(deployment: Deployment, names: list[str], span: tuple[Hour, Hour]) -> Usage:
    """Return what Stripe holds, by customer, from its own event summaries."""
    stripe = deployment.stripe()
    meters = stripe.meters()
    customers = deployment.ledger.customers(names)
    asked = [(name, metric) for name in names for metric in deployment.metrics]

    def held(row: tuple[str, str]) -> int:
        name, metric = row
        meter = meters[stripe.event_name(metric)]
        return sum(stripe.totals(meter, customers[name].stripe_customer, *span).values())

    return {row: amount for row, amount in zip(asked, side_by_side(held, asked), strict=True) if amount}
