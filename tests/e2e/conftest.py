"""The whole deployment, once for all tests by each road: the same local cloud that the demo runs on."""

import base64
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from app import METRICS
from infra.customers import Customers, Entry
from infra.local.cloud import CLOCK_BACK, LocalCloud, start
from infra.posting import turn_on
from metering.access_log import AccessLog
from metering.metrics import declared
from metering.periods import Hour
from metering.subjects import Subject


@dataclass
class Deployed:
    """The local cloud, and what the tests do with it; each test uses customers and keys of its own."""

    cloud: LocalCloud
    hour: Hour
    lines: int = 0

    def customer(self, name: str, *keys: str, stripe: bool = True, known: bool = True) -> None:
        """Add a customer of this name, with a Stripe customer, which Stripe knows, unless told otherwise."""
        stripe_customer = f"cus_{name}" if stripe else ""
        if stripe and known:
            self.cloud.stripe.add_customer(stripe_customer)
        deployment = self.cloud.deployment
        customers = Customers(deployment.ledger, deployment.counters)
        customers.add(Entry(name, name, stripe_customer, keys), now=datetime.now(UTC))

    def access_line(self, key: str) -> str:
        """Return the line of one good request of a key, in the closed hour."""
        self.lines += 1
        line = json.loads(AccessLog().format(declared(METRICS))) | {
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
        return json.dumps(line, separators=(",", ":"))

    def payload(self, *keys: str) -> dict[str, Any]:
        """Return what CloudWatch Logs would deliver of one good request of each key."""
        lines = [self.access_line(key) for key in keys]
        body = {
            "messageType": "DATA_MESSAGE",
            "logGroup": self.cloud.outputs["Metering"]["AccessLogGroup"],
            "logStream": "s",
            "logEvents": [
                {"id": f"{self.lines - n:056d}", "timestamp": 0, "message": line} for n, line in enumerate(lines)
            ],
        }
        return {"awslogs": {"data": base64.b64encode(gzip.compress(json.dumps(body).encode())).decode()}}

    def deliver(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Give a payload to the deployed ``record_usage``."""
        return self.cloud.deployment.invoke("RecordUsageFunction", payload)

    def counted(self, key: str) -> int:
        """Return how many requests of a key the hour's counters hold."""
        counted = self.cloud.deployment.counters.read(self.hour, [key])
        return counted[key].sums["requests"] if key in counted else 0

    def in_ledger(self, subject: str) -> tuple[int, str]:
        """Return what the ledger holds of a subject's requests in the hour, and its state."""
        whose = Subject.parse(subject)
        total = self.cloud.deployment.ledger.rows(self.hour, [whose])[whose].totals["requests"]
        return total.quantity, str(total.state)

    def at_stripe(self, name: str) -> int:
        """Return what Stripe holds of a customer's requests in the hour, by its own summaries."""
        stripe = self.cloud.deployment.stripe()
        meter = stripe.meters()[stripe.event_name("requests")]
        return stripe.totals(meter, f"cus_{name}", self.hour, self.hour.next()).get(self.hour, 0)


@pytest.fixture(scope="session")
def deployed() -> Iterator[Deployed]:
    """The deployed stacks on the embedded AWS, connected to the local Stripe."""
    with start(say=Console(file=io.StringIO())) as cloud:
        yield posting(cloud)


@pytest.fixture(scope="session")
def firehose() -> Iterator[Deployed]:
    """The same on the road over Firehose."""
    with start(road="firehose", say=Console(file=io.StringIO())) as cloud:
        yield posting(cloud)


def posting(cloud: LocalCloud) -> Deployed:
    """Turn posting on, which a deployment does not begin with."""
    now = datetime.now(UTC)
    hour = Hour.containing(now - CLOCK_BACK)
    turn_on(cloud.deployment, hour, who=cloud.deployment.who(), now=now, progress=lambda names, _: names)
    return Deployed(cloud, hour)
