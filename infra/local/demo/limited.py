"""Customers with limits on this machine: what they send, what they ask of their page, and what they are told."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from infra.local.cloud import LocalCloud
from infra.local.demo.steps import PATIENCE_S, PLAN
from infra.operate.customers import Customers, Entry
from infra.operate.deployment import Deployment
from infra.operate.keeping import keep_subscribed
from infra.operate.limits.setting import write_addresses
from infra.operate.portal_access import make_link
from infra.operate.subscribing import Subscriber, Wishes
from metering.model.limits import SPEND
from metering.model.periods import Hour
from metering.model.subjects import source_of_key
from metering.portal.tokens import Right
from metering.signals import LIMITS_SOURCE

ALERTS_FROM: Final = "metering@example.com"

NOW: Final = timedelta(0)
"""How far the gateway's clock is set back: limits are about the hours that run."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back of a call: its status, its media type and its body."""

    status: int
    media: str
    body: bytes


@dataclass(slots=True)
class Client:
    """Somebody who calls the sample API with a key, and counts what comes back."""

    url: str
    key: str
    value: str
    sent: int = 0
    let_in: int = 0
    refused: int = 0

    @property
    def address(self) -> str:
        """What it calls."""
        return f"{self.url}/items?n=1"

    def call(self) -> int:
        """Call once; return the status."""
        return self.ask().status

    def ask(self) -> Answer:
        """Call once."""
        self.sent += 1
        request = urllib.request.Request(self.address, headers={"x-api-key": self.value, "x-user": "u1"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 - this machine's gateway
                self.let_in += 1
                return Answer(answer.status, answer.headers.get_content_type(), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                self.refused += error.code == HTTPStatus.FORBIDDEN
                return Answer(error.code, error.headers.get_content_type(), error.read())


def alerts_to(name: str) -> str:
    """Return where a customer gets e-mail about its limits."""
    return f"alerts@{name}.example"


def add_customer(cloud: LocalCloud, name: str) -> Client:
    """Make a customer on the plan that has the limit, whose key is in a usage plan with a throttle."""
    deployment, now = cloud.deployment, datetime.now(UTC)
    key, value = cloud.add_api_key(name, plan="Standard")
    Customers(deployment.ledger, deployment.counters).add(Entry(name, name.capitalize(), keys=(key,)), now=now)
    owner = deployment.ledger.holders.customers([name])[name]
    Subscriber.of(deployment).subscribe(owner, PLAN, Wishes(email=f"billing@{name}.example"), now=now)
    keep_subscribed(deployment, name, now=now)
    write_addresses(deployment, name, [alerts_to(name)])
    return Client(cloud.gateway.url, key, value)


def counted(deployment: Deployment, client: Client) -> int:
    """Return how many calls of a client's are counted in this hour and the one before."""
    source, hour = source_of_key(client.key), Hour.containing(datetime.now(UTC))
    found = [deployment.counters.read(at, [source]) for at in (Hour(hour.number - 1), hour)]
    return sum(one[source].sums.get("requests", 0) for one in found if source in one)


@dataclass(frozen=True, slots=True)
class Page:
    """What a customer's page asks for, with a session of a link that may set a budget."""

    deployment: Deployment
    customer: str

    def limits(self) -> dict[str, Any]:
        """Return how the customer stands."""
        return dict(self._ask("GET", "v1/limits", None))

    def spent(self) -> int:
        """Return what its period costs so far, in the smallest unit of its currency."""
        return next(int(one["used"]) for one in self.limits()["limits"] if one["metric"] == SPEND)

    def put_budget(self, *, stop: int | None) -> None:
        """Set the budget that stops it, or take it back."""
        self._ask("PUT", "v1/budget", {"notify": None, "stop": stop})

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        link = make_link(self.deployment, self.customer, hours=1, now=datetime.now(UTC), may=(Right.BUDGET,))
        url, _, token = link.url.partition("#")
        session = _send(f"{url}v1/session", "POST", token, b"")
        return _send(f"{url}{path}", method, session["token"], None if body is None else json.dumps(body).encode())


def _send(url: str, method: str, token: str, body: bytes | None) -> Any:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers, method=method)  # noqa: S310 - the emulator's own
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
        return json.loads(answer.read())


class Told:
    """What is told about limits from now on: events, by way of a queue, and the e-mail of the emulator's SES."""

    def __init__(self, cloud: LocalCloud) -> None:
        self._emulator = cloud.emulator
        self._sqs, events = cloud.emulator.client("sqs"), cloud.emulator.client("events")
        self._queue = self._sqs.create_queue(QueueName="told-of-limits")["QueueUrl"]
        found = self._sqs.get_queue_attributes(QueueUrl=self._queue, AttributeNames=["QueueArn"])
        events.put_rule(Name="told-of-limits", EventPattern=json.dumps({"source": [LIMITS_SOURCE]}))
        events.put_targets(Rule="told-of-limits", Targets=[{"Id": "queue", "Arn": found["Attributes"]["QueueArn"]}])
        events.close()
        ses = cloud.emulator.client("sesv2")
        ses.create_email_identity(EmailIdentity=ALERTS_FROM)
        # Out of SES's sandbox, which sends to verified addresses alone, as a new account does on AWS.
        ses.put_account_details(
            MailType="TRANSACTIONAL", WebsiteURL="https://example.com", ProductionAccessEnabled=True
        )
        ses.close()
        self._events: dict[str, dict[str, Any]] = {}

    def steps(self, customer: str) -> list[int]:
        """Return the percentages at which events, each by its id, told of a metric's thresholds."""
        told = [one["detail"] for one in self._all() if one["detail-type"] == "Threshold reached"]
        return sorted(one["percent"] for one in told if one["customer"] == customer and one["metric"] != SPEND)

    def access(self, customer: str) -> list[str]:
        """Return what events, in their order, told of changes of a customer's access."""
        told = [one for one in self._all() if one["detail-type"].startswith("Access ")]
        return [one["detail-type"] for one in told if one["detail"]["customer"] == customer]

    def emails(self, customer: str) -> list[str]:
        """Return the subjects of the e-mails to a customer."""
        return [one["Subject"] for one in self._emulator.emails() if alerts_to(customer) in one["To"]]

    def _all(self) -> list[dict[str, Any]]:
        while messages := self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                event = json.loads(message["Body"])
                self._events[event["detail"]["id"]] = event
                self._sqs.delete_message(QueueUrl=self._queue, ReceiptHandle=message["ReceiptHandle"])
        return sorted(self._events.values(), key=lambda event: str(event["detail"]["at"]))
