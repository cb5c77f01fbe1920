"""The demo: real HTTP requests become a Stripe bill on this machine, and every step is compared with the one before."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from infra.local.cloud import LocalCloud, alone, start
from infra.local.demo.holdings import Step, Usage, counted_usage, ledger_usage, stripe_usage
from infra.local.demo.result import Result
from infra.local.demo.storm import Storm, storm
from infra.local.demo.traffic import Answer, Caller, by_key, by_token, owed, send
from infra.operate.customers import Customers, Entry
from infra.operate.deployment import Deployment, OperatorError
from infra.operate.posting import turn_on
from infra.operate.previewing import preview
from infra.operate.subscribing import Subscriber, Wishes
from metering.model.periods import Hour
from metering.model.prices import explain, terms
from metering.stores.holders import Customer

PLAN: Final = "standard"
"""The plan of ``app.py`` that the demo's customers are subscribed to."""

MOST_RUNS: Final = 20
"""So many times close_periods and post_usage run at most, while something fails in each."""

PATIENCE_S: Final = 600
"""Seconds after which it is no longer the machine's fault that something is not so."""

SLOWEST_COUNT: Final = 60.0
"""Seconds without a new count after which the demo stops waiting for more."""


def run(  # noqa: PLR0913 - what the command can be told, each by name
    *,
    requests: int,
    road: str = "subscription",
    api: str = "rest",
    faults: bool = False,
    say: Console,
    then: Callable[[LocalCloud, list[Caller]], None] | None = None,
) -> Result:
    """Run the demo by a road and with an API, both as :func:`infra.local.cloud.start` has them.

    ``say`` is told what happens. A step that never gets there is shown as different. With ``faults``, DynamoDB and
    Stripe fail at random meanwhile. If every step is equal, ``then`` is what comes then, with everything still running
    and announced.
    """
    began = time.monotonic()
    with ExitStack() as running:
        if then:
            running.enter_context(alone())
        cloud = running.enter_context(start(road=road, api=api, say=say))
        if then:
            cloud.announce()
        storming = running.enter_context(storm(cloud, seed=secrets.randbits(32))) if faults else None
        callers = make_customers(cloud)
        billed = bill(cloud, callers, requests=requests, storming=storming, say=say)
        result = replace(billed, elapsed_s={**billed.elapsed_s, "total": round(time.monotonic() - began, 2)})
        _show(result, say)
        if then and result.equal:
            then(cloud, callers)
    return result


def _show(result: Result, say: Console) -> None:
    say.print(result.table())
    say.print("", "Stripe's preview of the running invoices:", sep="\n")
    say.print(result.invoice_table())
    for where, failed in result.faults.items():
        say.print(f"{where} failed: " + ", ".join(f"{n} x {what}" for what, n in sorted(failed.items())))
    verdict = "sent = counted = ledger = Stripe" if result.equal else "the steps differ"
    say.print(f"{verdict}, after {result.elapsed_s['total']:.1f} s", style="bold green" if result.equal else "bold red")


def play(cloud: LocalCloud, *, requests: int, say: Console) -> Result:
    """Make customers, send their requests, bill them, and return what each step holds."""
    return bill(cloud, make_customers(cloud), requests=requests, say=say)


def bill(
    cloud: LocalCloud, callers: list[Caller], *, requests: int, storming: Storm | None = None, say: Console
) -> Result:
    """Send requests, bill them, and return what each step holds."""
    first = _running_hour(cloud)
    names = sorted({caller.customer for caller in callers})
    say.print(f"The gateway's clock is {cloud.back} back, so that the hour of the requests is over.")
    with cloud.phases.time(f"sending {requests} requests", "requests"):
        answers = asyncio.run(send(cloud.gateway.url, callers, requests))
        cloud.gateway.flush()
    _say_answers(answers, say)
    span = (first, _running_hour(cloud).next())
    sent = owed(answers, cloud.deployment.metrics, by_route=cloud.issuer is not None)
    counted = _wait_until_counted(cloud, sent, names, span, say)
    with cloud.phases.time("closing the hour and posting it to Stripe", "close"):
        close(cloud.deployment, say, runs=MOST_RUNS if storming else 1)
    failed = storming.calm() if storming else {}
    return Result(
        road=cloud.outputs.road,
        requests=requests,
        elapsed_s=dict(cloud.phases.elapsed_s),
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
            report = deployment.close()
        except OperatorError as error:  # what a run has not done, the next one does
            say.print(f"a run failed: {error}", highlight=False)
            continue
        if not any(report[what] for what in ("written", "closed_again", "posted", "rejected", "pending")):
            return
        for reason, count in report["reasons"].items():
            say.print(f"{count} wait because: {reason}", highlight=False)


def _owners(deployment: Deployment, names: list[str]) -> list[Customer]:
    owners = deployment.ledger.holders.customers(names)
    return [owners[name] for name in names]


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


def make_customers(cloud: LocalCloud) -> list[Caller]:
    """Make the customers, subscribed from the gateway's running hour on, and turn posting on."""
    with cloud.phases.time("subscribing three customers", "subscribe"):
        return _make_customers(cloud, _running_hour(cloud))


def _running_hour(cloud: LocalCloud) -> Hour:
    return Hour.containing(cloud.deployment.gateway_clock(datetime.now(UTC)))


def _make_customers(cloud: LocalCloud, first: Hour) -> list[Caller]:
    """Make three customers: one with two keys, one with one, and one on the plan that is soon throttled."""
    customers = Customers(cloud.deployment.ledger, cloud.deployment.counters)
    subscriber = Subscriber.of(cloud.deployment)
    callers = []
    for name, plans in {"acme": ["Standard", "Standard"], "globex": ["Standard"], "initech": ["Trial"]}.items():
        named = [_caller(cloud, name, f"{name}-{n}", plan) for n, plan in enumerate(plans)]
        entry = Entry(name, name.capitalize(), keys=tuple(caller.key for caller in named))
        customers.add(entry, now=datetime.now(UTC))
        (owner,) = _owners(cloud.deployment, [name])
        subscriber.subscribe(owner, PLAN, Wishes(email=f"billing@{name}.example"), now=first.start)
        callers += named
    known = cloud.deployment.switch.read().since
    since = None if known and first > Hour.parse(known) else first  # an environment that was played in an hour before
    who = cloud.deployment.who()
    turn_on(cloud.deployment, since, who=who, now=datetime.now(UTC), progress=lambda names, _: names)
    return callers


def _caller(cloud: LocalCloud, customer: str, name: str, plan: str) -> Caller:
    """Make a caller with an API key on a plan, or with the subject of tokens, as the API asks."""
    if cloud.issuer:
        subject = f"auth0|{name}"
        return Caller(customer, subject, by_token(cloud.issuer, subject))
    key, value = cloud.add_api_key(name, plan=plan)
    return Caller(customer, key, by_key(value))


def _say_answers(answers: Iterable[Answer], say: Console) -> None:
    by_status: dict[int, int] = {}
    for answer in answers:
        by_status[answer.status] = by_status.get(answer.status, 0) + 1
    say.print("answers: " + ", ".join(f"{count} x {status}" for status, count in sorted(by_status.items())))


def _wait_until_counted(cloud: LocalCloud, sent: Step, names: list[str], span: tuple[Hour, Hour], say: Console) -> Step:
    """Show the counters filling until they hold what was sent, or no more is coming."""
    changed = time.monotonic()
    counted = Step({}, {})
    waiting = cloud.phases.note("waiting for the counters", "count")
    with waiting, Live(console=say, transient=True, auto_refresh=False) as live:
        while counted != sent:
            before, counted = counted, counted_usage(cloud.deployment, names, span)
            live.update(_filling(sent.usage, counted.usage), refresh=True)
            if counted != before:
                changed = time.monotonic()
            if time.monotonic() - changed > SLOWEST_COUNT:
                break
            time.sleep(0.5)
    return counted


def wait_until(done: Callable[[], bool]) -> None:
    """Wait until something is so; raise TimeoutError if it is not after minutes, which no busy machine makes of it."""
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it was not so within {PATIENCE_S} s")
        time.sleep(0.1)


def _filling(sent: Usage, counted: Usage) -> Table:
    table = Table(box=None, pad_edge=False)
    for row, amount in sorted(sent.items()):
        table.add_row(*row, f"{counted.get(row, 0):,} of {amount:,}")
    return table
