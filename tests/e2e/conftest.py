"""The whole deployment, once for all tests by each road: the same local cloud that the demo runs on."""

import base64
import gzip
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from rich.console import Console

from app import METRICS
from infra.local.cloud import CLOCK_BACK, LocalCloud, start
from infra.local.demo.front import Front
from infra.local.demo.steps import PATIENCE_S
from infra.local.npm import NpmError
from infra.operate.customers import Customers, Entry
from infra.operate.portal_access import portal_url
from infra.operate.posting import turn_on
from metering.model.log_format import AccessLog
from metering.model.metrics import declared
from metering.model.periods import Hour
from metering.model.subjects import Subject
from tests.conftest import cannot_run
from tests.e2e import axe

CHROMIUM = (
    "--no-sandbox",  # in a container it may make no namespaces of its own, and it visits nothing but this machine
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
)
"""What keeps Debian's Chromium from asking anything of anybody but the page."""


@dataclass
class Deployed:
    """The local cloud, and what the tests do with it; each test uses customers and keys of its own."""

    cloud: LocalCloud
    hour: Hour
    road: str
    lines: int = 0

    def customer(self, name: str, *keys: str, stripe: bool = True, known: bool = True) -> None:
        """Add a customer of this name, with a Stripe customer, which Stripe knows, unless told otherwise."""
        stripe_customer = f"cus_{name}" if stripe else ""
        if stripe and known:
            self.cloud.stripe.add_customer(stripe_customer)
        deployment = self.cloud.deployment
        customers = Customers(deployment.ledger, deployment.counters)
        customers.add(Entry(name, name, stripe_customer, keys), now=datetime.now(UTC))

    @property
    def nonce(self) -> str:
        """What a line begins and ends with."""
        return self.cloud.outputs.nonces

    def access_line(self, key: str, form: str = "", **changes: str) -> str:
        """Return the line of one good request of a key, in the closed hour, as the format says; ours if none is given.

        ``changes`` are values of other fields, or others than are usual.
        """
        self.lines += 1
        line = json.loads(form or AccessLog().format(self.nonce, declared(METRICS))) | {
            "request_id": f"r{self.lines}=",
            "time": str(int(self.hour.start.timestamp() * 1000) + self.lines),
            "key": key,
            "status": "200",
            "method": "GET",
            "resource": "/items",
            "response_length": "10",
            "response_latency": "5",
            "integration_latency": "-",
            "authorizer.messages": "-",
            "authorizer.user": "-",
        }
        line |= changes
        return json.dumps(line, separators=(",", ":"))

    def payload(self, *keys: str) -> dict[str, Any]:
        """Return what CloudWatch Logs would deliver of one good request of each key."""
        return self.payload_of([self.access_line(key) for key in keys])

    def payload_of(self, lines: list[str], log_group: str = "", at: int = 0) -> dict[str, Any]:
        """Return what CloudWatch Logs would deliver of the latest lines, written into a log group at a moment."""
        body = {
            "messageType": "DATA_MESSAGE",
            "logGroup": log_group or self.cloud.outputs.access_log_group,
            "logStream": "s",
            "logEvents": [
                {"id": f"{self.lines - n:056d}", "timestamp": at, "message": line} for n, line in enumerate(lines)
            ],
        }
        return {"awslogs": {"data": base64.b64encode(gzip.compress(json.dumps(body).encode())).decode()}}

    def deliver(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Give a payload to the deployed ``record_usage``."""
        return self.cloud.deployment.invoke(self.cloud.outputs.record_usage_function, payload)

    def counted(self, key: str) -> int:
        """Return how many requests of a key the hour's counters hold."""
        counted = self.cloud.deployment.counters.read(self.hour, [key])
        return counted[key].sums["requests"] if key in counted else 0

    def in_ledger(self, subject: str) -> tuple[int, str]:
        """Return what the ledger holds of a subject's requests in the hour, and its state."""
        whose = Subject.parse(subject)
        total = self.cloud.deployment.ledger.rows.at(self.hour, [whose])[whose].totals["requests"]
        return total.quantity, str(total.state)

    def at_stripe(self, name: str) -> int:
        """Return what Stripe holds of a customer's requests in the hour, by its own summaries."""
        stripe = self.cloud.deployment.stripe()
        meter = stripe.meters()[stripe.event_name("requests")]
        return stripe.totals(meter, f"cus_{name}", self.hour, self.hour.next()).get(self.hour, 0)


@pytest.fixture(scope="session")
def deployed() -> Iterator[Deployed]:
    """The deployed stacks on the embedded AWS, connected to the local Stripe."""
    with _posting("subscription") as there:
        yield there


@pytest.fixture(scope="session")
def firehose() -> Iterator[Deployed]:
    """The same on the road over Firehose."""
    with _posting("firehose") as there:
        yield there


@pytest.fixture(scope="session")
def http() -> Iterator[Deployed]:
    """The same with the sample of an HTTP API."""
    with _posting("subscription", api="http") as there:
        yield there


@pytest.fixture(scope="session")
def limited() -> Iterator[Deployed]:
    """The same with limits."""
    with _posting("subscription", alerts_from="alerts@example.com") as there:
        yield there


@pytest.fixture(params=["subscription", "firehose"])
def there(request: pytest.FixtureRequest) -> Deployed:
    """One and the other, for what holds on both roads."""
    made: Deployed = request.getfixturevalue("deployed" if request.param == "subscription" else request.param)
    return made


@contextmanager
def _posting(road: str, *, api: str = "rest", alerts_from: str | None = None) -> Iterator[Deployed]:
    """Deploy, and turn posting on, which a deployment does not begin with."""
    with start(road=road, api=api, alerts_from=alerts_from, say=Console(file=io.StringIO())) as cloud:
        _stop_clocks(cloud)
        if alerts_from:
            _stop_limits(cloud)
        now = datetime.now(UTC)
        hour = Hour.containing(now - CLOCK_BACK)
        turn_on(cloud.deployment, hour, who=cloud.deployment.who(), now=now, progress=lambda names, _: names)
        yield Deployed(cloud, hour, road)


def _stop_clocks(cloud: LocalCloud) -> None:
    """Leave it to the tests when a function runs: one that ticks beside them would take what they wait for."""
    scheduler = cloud.emulator.client("scheduler")
    for name in [one["Name"] for one in scheduler.list_schedules()["Schedules"]]:
        schedule = scheduler.get_schedule(Name=name)
        kept = {field: schedule[field] for field in ("ScheduleExpression", "FlexibleTimeWindow", "Target")}
        scheduler.update_schedule(Name=name, State="DISABLED", **kept)
    scheduler.close()


def _stop_limits(cloud: LocalCloud) -> None:
    """Leave it to the tests as well when what is counted is watched, and when the gate works."""
    functions = cloud.emulator.client("lambda")
    for source in functions.list_event_source_mappings()["EventSourceMappings"]:
        functions.update_event_source_mapping(UUID=source["UUID"], Enabled=False)
    functions.close()


@pytest.fixture(scope="session")
def front(deployed: Deployed) -> Iterator[Front]:
    """The usage page at an address of its own."""
    with Front(portal_url(deployed.cloud.deployment)) as there:
        yield there


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        cannot_run("there is no Chromium on PATH: apt-get install chromium", needs="chromium")
    expect.set_options(timeout=PATIENCE_S * 1000)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=list(CHROMIUM))
        yield started
        started.close()


@pytest.fixture(scope="session")
def axe_script() -> str:
    """axe-core's script."""
    try:
        return axe.source()
    except NpmError as error:
        cannot_run(str(error), needs="chromium")
