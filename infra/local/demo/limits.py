"""The demo of limits: a client runs into one on this machine, and everything around it is looked at.

``acme`` calls as fast as its usage plan lets it, until the gateway refuses it, while ``globex`` goes on. Then the
operator raises the limit, calls pass again, and the customer sets a budget and stops itself. What was let in beyond the
limit is compared with the bound that was stated before.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import msgspec
from rich.console import Console

from infra.local.cloud import LocalCloud, start
from infra.local.demo.steps import PATIENCE_S, PLAN, wait_until
from infra.operate.customers import Customers, Entry
from infra.operate.keeping import keep_subscribed
from infra.operate.limits.bound import bound_of, delay_of
from infra.operate.limits.measuring import Probe, call
from infra.operate.portal_access import make_link
from infra.operate.subscribing import Subscriber, Wishes
from metering.limits.usage_plans import UsagePlans
from metering.model.limits import SPEND, Limit, OfCustomer
from metering.model.periods import Hour
from metering.model.subjects import source_of_key
from metering.portal.tokens import Right
from metering.signals import LIMITS_SOURCE
from metering.stores.limits import LimitItems

ALERTS_FROM: Final = "metering@example.com"
BUSY: Final = "acme"
OTHER: Final = "globex"
SAMPLES: Final = 5
CALLS_A_SECOND: Final = 25
OTHERS: Final = 25
"""One call of the other customer's comes with so many of the busy one's."""

STAYS: Final = 20
"""So many refusals in a row say that a customer is stopped."""

NOW: Final = timedelta(0)
"""The gateway's clock is right: limits are about the hours that run."""


@dataclass(slots=True)
class Client:
    """Somebody who calls the sample API with a key, and counts what comes back."""

    url: str
    key: str
    value: str
    sent: int = 0
    let_in: int = 0
    refused: int = 0

    def call(self) -> int:
        """Call once; return the status."""
        self.sent += 1
        request = urllib.request.Request(f"{self.url}/items?n=1", headers={"x-api-key": self.value, "x-user": "u1"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 - this machine's gateway
                answer.read()
                self.let_in += 1
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                self.refused += error.code == HTTPStatus.FORBIDDEN
                return error.code


@dataclass(slots=True)
class LimitsResult:
    """What the demo of limits saw. ``stages`` says of each thing that was to happen whether it did."""

    road: str
    limit: int
    calls_sent: int = 0
    calls_let_in: int = 0
    counted: int = 0
    overshoot_calls: int = 0
    bound_calls: int | None = None
    delay: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    stages: dict[str, bool] = field(default_factory=dict)
    elapsed_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether what was let in was counted, no more than was stated came after the limit, and all happened."""
        bounded = self.bound_calls is not None and 0 <= self.overshoot_calls <= self.bound_calls
        return self.calls_let_in == self.counted and bounded and all(self.stages.values())

    def as_json(self) -> dict[str, Any]:
        """Return it as ``metering demo --limits --json`` prints it."""
        fields = ("road", "limit", "calls_sent", "calls_let_in", "counted", "overshoot_calls", "bound_calls")
        told = {name: getattr(self, name) for name in fields}
        more = {"delay": dict(self.delay), "measured": dict(self.measured), "stages": self.stages}
        return {"equal": self.equal, **told, **more, "elapsed_s": dict(self.elapsed_s)}


def run(*, road: str = "subscription", say: Console) -> LimitsResult:
    """Run the demo of limits by a road; ``say`` is told what happens."""
    began = time.monotonic()
    with start(road=road, alerts_from=ALERTS_FROM, back=NOW, say=say) as cloud:
        result = _Play(cloud, say).play()
        result.elapsed_s = {**cloud.phases.elapsed_s, "total": round(time.monotonic() - began, 2)}
    verdict = "the limit acted as it should" if result.equal else "the limit did not act as it should"
    say.print(f"{verdict}, after {result.elapsed_s['total']:.1f} s", style="bold green" if result.equal else "bold red")
    return result


class _Play:
    """One play of the demo, on a cloud that has limits."""

    def __init__(self, cloud: LocalCloud, say: Console) -> None:
        self._cloud, self._say = cloud, say
        self._deployment = cloud.deployment
        self._told = Told(cloud)
        (plan,) = [plan for plan in self._deployment.declared_plans if plan.name == PLAN]
        (self._limit,) = [limit for limit in plan.limits if isinstance(limit, Limit)]
        self._result = LimitsResult(cloud.outputs.road, self._limit.units)

    def play(self) -> LimitsResult:
        """Play it, and return what was seen."""
        with self._cloud.phases.time("subscribing two customers", "subscribe"):
            busy, other = self._customer(BUSY), self._customer(OTHER)
        with self._cloud.phases.time("measuring how fast the gate acts", "measure"):
            self._measure(busy)
        with self._cloud.phases.time(f"calling until {BUSY} is stopped", "stop"):
            self._until_stopped(busy, other)
        self._compare(busy, other)
        with self._cloud.phases.time("raising the limit", "raise"):
            self._raise(busy)
        with self._cloud.phases.time("setting a budget", "budget"):
            self._budget(busy, other)
        return self._result

    def _customer(self, name: str) -> Client:
        """Make a customer on the plan that has the limit, whose key is in a usage plan with a throttle."""
        key, value = self._cloud.add_api_key(name, plan="Standard")
        now = datetime.now(UTC)
        Customers(self._deployment.ledger, self._deployment.counters).add(
            Entry(name, name.capitalize(), keys=(key,)), now=now
        )
        owner = self._deployment.ledger.holders.customers([name])[name]
        Subscriber.of(self._deployment).subscribe(owner, PLAN, Wishes(email=f"billing@{name}.example"), now=now)
        keep_subscribed(self._deployment, name, now=now)
        self._limits.address(name, [f"alerts@{name}.example"])
        return Client(self._cloud.gateway.url, key, value)

    @property
    def _limits(self) -> LimitItems:
        return LimitItems(self._deployment.client("dynamodb"), self._deployment.outputs.ledger_table)

    def _measure(self, busy: Client) -> None:
        """Measure the gate, and state how far the limit can be overrun."""
        plans = UsagePlans(self._deployment.client("apigateway"))
        url = f"{self._cloud.gateway.url}/items?n=1"
        probe = Probe(self._deployment, plans, partial(call, headers={"x-user": "probe"}))
        measured = probe.measure(url, "Standard", samples=SAMPLES, now=datetime.now(UTC))
        self._result.measured = msgspec.to_builtins(measured)
        delay = delay_of(self._deployment, datetime.now(UTC))
        bound = bound_of({busy.key: plans.of(busy.key)}, delay.seconds)
        self._result.delay, self._result.bound_calls = delay.as_json(), bound.calls
        self._say.print(
            f"stated: at most {bound.calls:,} calls can come after {self._limit.units:,}: "
            f"burst + rate x {delay.seconds:.1f} s of one key"
        )

    def _until_stopped(self, busy: Client, other: Client) -> None:
        """Call until so many refusals have come in a row; what goes on for minutes is shown as not stopped."""
        deadline, in_a_row = time.monotonic() + PATIENCE_S, 0
        while in_a_row < STAYS and time.monotonic() < deadline:
            in_a_row = in_a_row + 1 if busy.call() == HTTPStatus.FORBIDDEN else 0
            if busy.sent % OTHERS == 0:
                other.call()
            time.sleep(1 / CALLS_A_SECOND)
        self._cloud.gateway.flush()
        self._result.stages["stopped at the gateway"] = in_a_row >= STAYS
        self._say.print(f"{BUSY}: {busy.let_in} calls let in, then {busy.refused} refused with 403")

    def _compare(self, busy: Client, other: Client) -> None:
        """Compare what was let in with what was counted, and look at what everybody was told."""
        result = self._result
        result.calls_sent, result.calls_let_in = busy.sent, busy.let_in
        result.overshoot_calls = busy.let_in - self._limit.units
        counted: list[int] = [0]

        def is_counted() -> bool:
            counted[0] = self._counted(busy)
            return counted[0] >= busy.let_in

        self._happens("all that was let in is counted", is_counted)
        result.counted = counted[0]
        result.stages["other customers go on"] = other.let_in == other.sent > 0
        self._say.print(
            f"overshoot: {result.overshoot_calls} calls beyond {result.limit}, stated were at most {result.bound_calls}"
        )
        for step in self._limit.at:
            self._happens(f"an event at {step.at} %", partial(self._told.is_told, BUSY, step.at))
        self._happens("an event that access stopped", lambda: self._told.access(BUSY, "Access stopped") == 1)
        self._happens(
            "an e-mail for each threshold", lambda: self._told.emails(f"alerts@{BUSY}.example") == len(self._limit.at)
        )
        self._happens("the page says so", lambda: self._page(BUSY)["access"] == "stopped")

    def _raise(self, busy: Client) -> None:
        """Raise the limit as the operator does, until calls pass again."""
        raised = OfCustomer("requests", "period", self._limit.units * 100, raised=True, reason="the demo raises it")
        self._limits.set(BUSY, raised)
        self._look(BUSY)
        self._happens("calls pass again after it is raised", lambda: busy.call() == HTTPStatus.OK)
        self._happens("an event that access reopened", lambda: self._told.access(BUSY, "Access reopened") == 1)

    def _budget(self, busy: Client, other: Client) -> None:
        """Set a budget below what the period costs already, as the customer does on its page, and take it back."""
        cost = next(one["used"] for one in self._page(BUSY)["limits"] if one["metric"] == SPEND)
        self._put_budget(BUSY, {"notify": None, "stop": max(1, cost)})
        self._happens("the customer's own budget stops it", lambda: busy.call() == HTTPStatus.FORBIDDEN, look=BUSY)
        self._put_budget(BUSY, {"notify": None, "stop": None})
        self._happens("without the budget calls pass again", lambda: busy.call() == HTTPStatus.OK, look=BUSY)
        self._happens("other customers went on all the while", lambda: other.call() == HTTPStatus.OK)

    def _counted(self, client: Client) -> int:
        source = source_of_key(client.key)
        hour = Hour.containing(datetime.now(UTC))
        counted = [self._deployment.counters.read(at, [source]) for at in (Hour(hour.number - 1), hour)]
        return sum(one[source].sums.get("requests", 0) for one in counted if source in one)

    def _look(self, name: str) -> None:
        self._deployment.invoke(str(self._deployment.outputs.watch_limits_function), {"look": [name]})

    def _happens(self, what: str, is_so: Callable[[], bool], *, look: str = "") -> None:
        """Wait until something is so; note whether it came to be. ``look`` is at whom the sweep would, in a minute."""
        if look:
            self._look(look)
        try:
            wait_until(is_so)
        except TimeoutError:
            self._result.stages[what] = False
            self._say.print(f"NOT SO: {what}", style="red")
        else:
            self._result.stages[what] = True
            self._say.print(f"so it is: {what}", highlight=False)

    def _page(self, name: str) -> dict[str, Any]:
        """Return what the customer's page is told of its limits."""
        return dict(self._ask(name, "GET", "v1/limits", None))

    def _put_budget(self, name: str, budget: Mapping[str, Any]) -> None:
        self._ask(name, "PUT", "v1/budget", budget)

    def _ask(self, name: str, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        """Ask the customers' API with a session of a link that may set a budget."""
        link = make_link(self._deployment, name, hours=1, now=datetime.now(UTC), may=(Right.BUDGET,))
        url, _, token = link.url.partition("#")
        session = _send(f"{url}v1/session", "POST", token, b"")
        return _send(f"{url}{path}", method, session["token"], None if body is None else json.dumps(body).encode())


def _send(url: str, method: str, token: str, body: bytes | None) -> Any:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers, method=method)  # noqa: S310 - the emulator's own
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
        return json.loads(answer.read() or b"null")


class Told:
    """What was told about limits: events, by way of a queue, and the e-mail that the emulator's SES has sent."""

    def __init__(self, cloud: LocalCloud) -> None:
        self._emulator = cloud.emulator
        self._sqs, events = cloud.emulator.client("sqs"), cloud.emulator.client("events")
        self._queue = self._sqs.create_queue(QueueName="told-of-limits")["QueueUrl"]
        arn = self._sqs.get_queue_attributes(QueueUrl=self._queue, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        events.put_rule(Name="told-of-limits", EventPattern=json.dumps({"source": [LIMITS_SOURCE]}))
        events.put_targets(Rule="told-of-limits", Targets=[{"Id": "queue", "Arn": arn}])
        events.close()
        ses = cloud.emulator.client("sesv2")
        ses.create_email_identity(EmailIdentity=ALERTS_FROM)
        # Out of SES's sandbox, which sends to verified addresses alone, as a new account does on AWS.
        ses.put_account_details(
            MailType="TRANSACTIONAL", WebsiteURL="https://example.com", ProductionAccessEnabled=True
        )
        ses.close()
        self._events: dict[str, dict[str, Any]] = {}

    def is_told(self, customer: str, percent: int) -> bool:
        """Say whether one event, by its id, told of a threshold of a metric."""
        told = [one["detail"] for one in self._all() if one["detail-type"] == "Threshold reached"]
        ours = [one for one in told if (one["customer"], one["percent"]) == (customer, percent)]
        return len([one for one in ours if one["metric"] != SPEND]) == 1

    def access(self, customer: str, what: str) -> int:
        """Return how many events told of a change of a customer's access."""
        return sum(one["detail-type"] == what and one["detail"]["customer"] == customer for one in self._all())

    def emails(self, address: str) -> int:
        """Return how many e-mails about thresholds went to an address."""
        return sum(address in one["To"] for one in self._emulator.emails())

    def _all(self) -> list[dict[str, Any]]:
        while messages := self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                event = json.loads(message["Body"])
                self._events[event["detail"]["id"]] = event
                self._sqs.delete_message(QueueUrl=self._queue, ReceiptHandle=message["ReceiptHandle"])
        return [*self._events.values()]
