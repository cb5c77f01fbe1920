"""The demo: real HTTP requests become a Stripe bill on this machine, and every step is compared with the one before."""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import aiohttp
from rich.console import Console
from rich.live import Live
from rich.table import Table

from infra.local.cloud import CLOCK_BACK, LocalCloud, phase, start
from infra.local.demo.storm import Storm, storm
from infra.operate.customers import Customers, Entry
from infra.operate.deployment import Deployment, OperatorError
from infra.operate.posting import turn_on
from infra.operate.subscribing import Subscriber, Wishes, preview
from metering.model.periods import Hour, hours
from metering.model.prices import explain, in_money, terms
from metering.model.subjects import customer
from metering.stores.aws import side_by_side
from metering.stores.holders import Customer

WORKERS: Final = 8

PLAN: Final = "standard"
"""The plan of ``app.py`` that the demo's customers are subscribed to."""

MOST_RUNS: Final = 20
"""So many times close_periods and post_usage run at most, while something fails in each."""

SLOWEST_COUNT: Final = 60.0
"""Seconds without a new count after which the demo stops waiting for more."""

Usage = dict[tuple[str, str], int]
"""Quantities by customer and metric."""

Split = dict[tuple[str, str, str], int]
"""Quantities by customer, metric and value of the metric's dimension."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of the way holds."""

    usage: Usage
    split: Split


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends requests: a customer of the demo, one of its keys, and that key's secret value."""

    customer: str
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Request:
    """One request: the resource that its path belongs to, who uses the customer's key, and the messages it carries."""

    method: str
    path: str
    resource: str
    user: str
    messages: int = 0
    declared: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller saw of one request."""

    customer: str
    request: Request
    status: int
    length: int


@dataclass(frozen=True, slots=True)
class Result:
    """The demo's outcome: each quantity at each step. Stripe bills totals and knows no split."""

    road: str
    requests: int
    elapsed_s: Mapping[str, float]
    sent: Step
    counted: Step
    ledger: Step
    stripe: Usage
    invoices: list[dict[str, Any]]
    """Stripe's previews of the running invoices."""

    faults: dict[str, Any]
    """What failed on the way, where it was asked to."""

    metrics: list[str]
    priced: Mapping[str, int]
    """What the usage that was sent costs, by customer, computed here from the plan's prices; without fees."""

    @property
    def equal(self) -> bool:
        """Say whether every step holds the same and is invoiced at the declared prices, and something was sent."""
        same = self.sent == self.counted == self.ledger and self.sent.usage == self.stripe
        return bool(self.sent.usage) and same and self.priced == self.invoiced

    @property
    def invoiced(self) -> dict[str, int]:
        """What Stripe asks for the usage, by customer, in the currency's smallest unit."""
        return {
            invoice["customer"]: sum(line["amount"] for line in invoice["lines"] if line["price"] in self.metrics)
            for invoice in self.invoices
        }

    def as_json(self) -> dict[str, Any]:
        """Return the result as ``metering demo --json`` prints it."""
        customers: dict[str, dict[str, Any]] = {}
        for (name, metric), steps in _table_of(self._usage()).items():
            entry = customers.setdefault(name, {"id": name, "metrics": {}, "by_dimension": {}})
            entry["metrics"][metric] = steps
        for (name, metric, value), steps in _table_of(self._split()).items():
            customers[name]["by_dimension"].setdefault(metric, {})[value] = steps
        return {
            "equal": self.equal,
            "road": self.road,
            "requests": self.requests,
            "elapsed_s": dict(self.elapsed_s),
            "customers": list(customers.values()),
            "invoices": self.invoices,
            "faults": self.faults,
        }

    def table(self) -> Table:
        """Return the result as a table: under each metric that is split, its values."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("customer", "metric", *self._usage()):
            table.add_column(column, justify="left" if column in ("customer", "metric") else "right")
        table.add_column("")
        split = _table_of(self._split())
        for (name, metric), steps in _table_of(self._usage()).items():
            table.add_row(name, metric, *(f"{n:,}" for n in steps.values()), _verdict(steps))
            for (whose, of, value), parts in split.items():
                if (whose, of) == (name, metric):
                    table.add_row("", f"  {value}", *(f"{n:,}" for n in parts.values()), "", _verdict(parts))
        return table

    def invoice_table(self) -> Table:
        """Return Stripe's previews line by line, so that a person can do the sums."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("customer", "price", "line", "quantity", "unit amount", "amount"):
            table.add_column(column, justify="right" if column in ("quantity", "unit amount", "amount") else "left")
        for invoice in self.invoices:
            currency = invoice["currency"]
            for line in invoice["lines"]:
                unit = "" if line["unit_amount"] is None else in_money(line["unit_amount"], currency)
                amount = in_money(line["amount"], currency)
                quantity = "" if line["quantity"] is None else f"{line['quantity']:,}"
                table.add_row(invoice["customer"], line["price"], line["description"], quantity, unit, amount)
            table.add_row(invoice["customer"], "total", "", "", "", in_money(invoice["total"], currency), style="bold")
        return table

    def _usage(self) -> dict[str, Usage]:
        return {
            "sent": self.sent.usage,
            "counted": self.counted.usage,
            "ledger": self.ledger.usage,
            "stripe": self.stripe,
        }

    def _split(self) -> dict[str, Split]:
        return {"sent": self.sent.split, "counted": self.counted.split, "ledger": self.ledger.split}


Row = TypeVar("Row", bound=tuple[str, ...])


def _table_of(steps: Mapping[str, dict[Row, int]]) -> dict[Row, dict[str, int]]:
    """Turn quantities by step into steps by what is counted; a step that lacks one has 0 of it."""
    rows = sorted({row for quantities in steps.values() for row in quantities})
    return {row: {step: quantities.get(row, 0) for step, quantities in steps.items()} for row in rows}


def _verdict(steps: Mapping[str, int]) -> str:
    return "equal" if len(set(steps.values())) == 1 else "DIFFERENT"


def run(
    *,
    requests: int,
    road: str = "subscription",
    faults: bool = False,
    say: Console,
    then: Callable[[LocalCloud, list[Caller]], None] | None = None,
) -> Result:
    """Run the demo by a road, the value of an :class:`infra.stack.ingest.Road`; ``say`` is told what happens.

    A step that never gets there is shown as different. With ``faults``, DynamoDB and Stripe fail at random meanwhile.
    If every step is equal, ``then`` is what comes then, with everything still running and announced.
    """
    began = time.monotonic()
    with ExitStack() as running:
        cloud = running.enter_context(start(road=road, say=say))
        if then:
            running.enter_context(cloud.announced())
        storming = running.enter_context(storm(cloud, seed=secrets.randbits(32))) if faults else None
        callers = make_customers(cloud, say)
        result = bill(cloud, callers, requests=requests, storming=storming, say=say)
        cloud.elapsed_s["total"] = round(time.monotonic() - began, 2)
        _show(result, cloud.elapsed_s["total"], say)
        if then and result.equal:
            then(cloud, callers)
    return result


def _show(result: Result, elapsed_s: float, say: Console) -> None:
    say.print(result.table())
    say.print("\nStripe's preview of the running invoices:")
    say.print(result.invoice_table())
    for where, failed in result.faults.items():
        say.print(f"{where} failed: " + ", ".join(f"{n} x {what}" for what, n in sorted(failed.items())))
    verdict = "sent = counted = ledger = Stripe" if result.equal else "the steps differ"
    say.print(f"{verdict}, after {elapsed_s:.1f} s", style="bold green" if result.equal else "bold red")


def play(cloud: LocalCloud, *, requests: int, say: Console) -> Result:
    """Make customers, send their requests, bill them, and return what each step holds."""
    return bill(cloud, make_customers(cloud, say), requests=requests, say=say)


def bill(
    cloud: LocalCloud, callers: list[Caller], *, requests: int, storming: Storm | None = None, say: Console
) -> Result:
    """Send requests, bill them, and return what each step holds."""
    first = Hour.containing(datetime.now(UTC) - CLOCK_BACK)
    names = sorted({caller.customer for caller in callers})
    say.print(f"The gateway's clock is {CLOCK_BACK} back, so that the hour of the requests is over.")
    with phase(f"sending {requests} requests", "requests", cloud.elapsed_s, say):
        answers = asyncio.run(_send(cloud.gateway.url, callers, requests))
        cloud.gateway.flush()
    _say_answers(answers, say)
    span = (first, Hour.containing(datetime.now(UTC) - CLOCK_BACK).next())
    sent = _billed(answers)
    counted = _wait_until_counted(cloud, sent, names, span, say)
    with phase("closing the hour and posting it to Stripe", "close", cloud.elapsed_s, say):
        close(cloud.deployment, say, runs=MOST_RUNS if storming else 1)
    failed = storming.calm() if storming else {}
    return Result(
        road=cloud.deployment.outputs["Road"],
        requests=requests,
        elapsed_s=cloud.elapsed_s,
        sent=sent,
        counted=counted,
        ledger=ledger_usage(cloud.deployment, names, span),
        stripe=stripe_usage(cloud.deployment, names, span),
        invoices=[preview(cloud.deployment.stripe(), owner) for owner in _owners(cloud.deployment, names)],
        faults=failed,
        metrics=cloud.deployment.metrics,
        priced=_priced(cloud.deployment, sent.usage),
    )


def close(deployment: Deployment, say: Console, *, runs: int) -> None:
    """Close and post as the schedule does, so often, or until a run finds nothing to do."""
    for _ in range(runs):
        try:
            did = deployment.close()
        except OperatorError as error:  # what a run has not done, the next one does
            say.print(f"a run failed: {error}", highlight=False)
            continue
        if not any(did[what] for what in ("written", "closed_again", "posted", "rejected", "pending")):
            return
        for reason, count in did["reasons"].items():
            say.print(f"{count} wait because: {reason}", highlight=False)


def _owners(deployment: Deployment, names: list[str]) -> list[Customer]:
    found = deployment.ledger.holders.customers(names)
    return [found[name] for name in names]


def _priced(deployment: Deployment, usage: Usage) -> dict[str, int]:
    """Return what usage costs by the plan, line by line as an invoice has it."""
    (plan,) = [plan for plan in deployment.declared_plans if plan.name == PLAN]
    priced: dict[str, int] = {}
    for name in {name for name, _ in usage}:
        for metric, price in terms(plan).items():
            if metric in deployment.metrics:
                lines = explain(price, usage.get((name, metric), 0))
                priced[name] = priced.get(name, 0) + sum(line.amount for line in lines)
    return priced


def make_customers(cloud: LocalCloud, say: Console) -> list[Caller]:
    """Make the customers, subscribed from the gateway's running hour on, and turn posting on."""
    with phase("subscribing three customers", "subscribe", cloud.elapsed_s, say):
        return _make_customers(cloud, Hour.containing(datetime.now(UTC) - CLOCK_BACK))


def _make_customers(cloud: LocalCloud, first: Hour) -> list[Caller]:
    """Make three customers with API keys: one with two keys, one with one, one on the plan that is soon throttled."""
    customers = Customers(cloud.deployment.ledger, cloud.deployment.counters)
    subscriber = Subscriber.of(cloud.deployment)
    callers = []
    for name, plans in {"acme": ["Standard", "Standard"], "globex": ["Standard"], "initech": ["Trial"]}.items():
        keys = [cloud.add_api_key(f"{name}-{n}", plan=plan) for n, plan in enumerate(plans)]
        entry = Entry(name, name.capitalize(), keys=tuple(key for key, _ in keys))
        customers.add(entry, now=datetime.now(UTC))
        (owner,) = _owners(cloud.deployment, [name])
        subscriber.subscribe(owner, PLAN, Wishes(), now=first.start)
        callers += [Caller(name, *key) for key in keys]
    known = cloud.deployment.switch.read().since
    since = None if known and first > Hour.parse(known) else first  # an environment that was played in an hour before
    who = cloud.deployment.who()
    turn_on(cloud.deployment, since, who=who, now=datetime.now(UTC), progress=lambda names, _: names)
    return callers


async def _send(url: str, callers: list[Caller], requests: int) -> list[Answer]:
    """Send the requests, ``WORKERS`` at a time: mostly good, some without a key or a user, some to a failing backend.

    Some carry more messages than they declare, and are refused.
    """
    waiting = iter(range(requests))
    answers: list[Answer] = []

    async def work(session: aiohttp.ClientSession) -> None:
        answers.extend([await ask(session, url, callers, n) for n in waiting])

    async with aiohttp.ClientSession(auto_decompress=False) as session:
        await asyncio.gather(*(work(session) for _ in range(WORKERS)))
    return answers


async def ask(session: aiohttp.ClientSession, url: str, callers: list[Caller], n: int) -> Answer:
    """Send the n-th request."""
    caller = callers[n % len(callers)] if n % 10 else Caller("", "", "")
    request = _request(n)
    async with session.request(
        request.method, f"{url}{request.path}", headers=_headers(caller, request), json=_body(request)
    ) as answer:
        return Answer(caller.customer, request, answer.status, len(await answer.read()))


def _request(n: int) -> Request:
    """Return the n-th request; seven users, who come through each key of a customer."""
    user = f"user-{n % 7}" if n % 50 != 33 else ""  # noqa: PLR2004 - one in fifty forgets to say
    if n % 15 == 7:  # noqa: PLR2004 - one in fifteen
        return Request("GET", "/fail", "/fail", user)
    match n % 3:
        case 0:
            return Request("GET", f"/items?n={n % 40}", "/items", user)
        case 1:
            return Request("GET", f"/items/{n}", "/items/{id}", user)
        case _:
            messages = 1 + n % 5
            declared = messages if n % 8 != 5 else 1  # noqa: PLR2004 - one in eight would rather pay for one
            return Request("POST", "/messages", "/messages", user, messages, declared)


def _headers(caller: Caller, request: Request) -> dict[str, str]:
    headers = {"x-api-key": caller.value, "x-user": request.user}
    if request.declared:
        headers["x-messages"] = str(request.declared)
    return {name: value for name, value in headers.items() if value}


def _body(request: Request) -> dict[str, list[str]] | None:
    return {"messages": ["hello"] * request.messages} if request.messages else None


def _billed(answers: list[Answer]) -> Step:
    """Count what the callers saw and should pay for, by code that shares nothing with the metering."""
    usage: Usage = {}
    split: Split = {}
    users: dict[str, set[str]] = {}
    for answer in answers:
        if not (answer.customer and 200 <= answer.status < 400):  # noqa: PLR2004 - what is billed
            continue
        request = answer.request
        for metric, amount in (("requests", 1), ("response_bytes", answer.length), ("messages", request.messages)):
            if amount:
                usage[answer.customer, metric] = usage.get((answer.customer, metric), 0) + amount
        part = (answer.customer, "requests", request.resource)
        split[part] = split.get(part, 0) + 1
        users.setdefault(answer.customer, set()).add(request.user)
    return Step(usage | {(name, "users"): len(seen) for name, seen in users.items()}, split)


def _say_answers(answers: list[Answer], say: Console) -> None:
    by_status: dict[int, int] = {}
    for answer in answers:
        by_status[answer.status] = by_status.get(answer.status, 0) + 1
    say.print("answers: " + ", ".join(f"{count} x {status}" for status, count in sorted(by_status.items())))


def _wait_until_counted(cloud: LocalCloud, sent: Step, names: list[str], span: tuple[Hour, Hour], say: Console) -> Step:
    """Show the counters filling until they hold what was sent, or no more is coming."""
    began = changed = time.monotonic()
    counted = Step({}, {})
    with Live(console=say, transient=True, auto_refresh=False) as live:
        while counted != sent:
            before, counted = counted, counted_usage(cloud.deployment, names, span)
            live.update(_filling(sent.usage, counted.usage), refresh=True)
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


def counted_usage(deployment: Deployment, names: list[str], span: tuple[Hour, Hour]) -> Step:
    """Return what the counters hold, by customer."""
    step = Step({}, {})
    for hour in hours(*span):
        for owner, share in deployment.attribution.of_hour(hour).items():
            if owner in map(customer, names):
                _add(step, owner.id, share.together.quantities(), share.together.splits)
    return step


def ledger_usage(deployment: Deployment, names: list[str], span: tuple[Hour, Hour]) -> Step:
    """Return what the ledger bills, by customer."""
    step = Step({}, {})
    for name in names:
        for row in deployment.ledger.rows.of(customer(name), *span):
            quantities = {metric: total.quantity for metric, total in row.totals.items()}
            _add(step, name, quantities, {metric: total.split for metric, total in row.totals.items()})
    return step


def _add(step: Step, name: str, quantities: Mapping[str, int], splits: Mapping[str, Mapping[str, int]]) -> None:
    for metric, amount in quantities.items():
        step.usage[name, metric] = step.usage.get((name, metric), 0) + amount
    for metric, split in splits.items():
        for value, amount in split.items():
            step.split[name, metric, value] = step.split.get((name, metric, value), 0) + amount


def stripe_usage(deployment: Deployment, names: list[str], span: tuple[Hour, Hour]) -> Usage:
    """Return what Stripe holds, by customer, from its own event summaries."""
    stripe = deployment.stripe()
    meters = stripe.meters()
    customers = deployment.ledger.holders.customers(names)
    asked = [(name, metric) for name in names for metric in deployment.metrics]

    def held(row: tuple[str, str]) -> int:
        name, metric = row
        meter = meters[stripe.event_name(metric)]
        return sum(stripe.totals(meter, customers[name].stripe_customer, *span).values())

    return {row: amount for row, amount in zip(asked, side_by_side(held, asked), strict=True) if amount}
