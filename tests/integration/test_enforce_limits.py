"""The function enforce_limits: woken by a message or by hand, under its own role, as Lambda runs it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import pytest

import enforce_limits
from infra.operate.customers import Customers, Entry
from metering.model.limits import UNPAID, Level
from metering.settings import EnforceLimitsSettings
from metering.stores import aws as clients
from metering.stores.counters import Counters
from metering.stores.gate_list import Asked, GateList
from metering.stores.ledger import Ledger
from metering.stores.limits import Held, LimitItems
from tests.doubles.aws import Account
from tests.doubles.lambdas import context, event
from tests.doubles.usage_plans import UsagePlansOfAws
from tests.integration.lambdas import Clock, under_role
from tests.integration.limits import Bus, Queue
from tests.integration.world import HOUR

QUEUE = "https://sqs.us-east-1.amazonaws.com/123456789012/Metering-Gate"


@dataclass
class Deployed:
    """The function's process, and an API Gateway in which acme and globex have a key each."""

    account: Account
    aws: UsagePlansOfAws
    template: dict[str, Any]
    bus: Bus
    queue: Queue

    def __post_init__(self) -> None:
        dynamodb = self.account.client("dynamodb")
        customers = Customers(Ledger(dynamodb, "ledger"), Counters(dynamodb, "counters"))
        plan = self.aws.add_plan("Standard", "api1/prod")
        for name in ("acme", "globex"):
            customers.add(Entry(name, name, "", (self.aws.add_key(plan),)), now=Clock.at)
        self.asked, self.limits = GateList(dynamodb, "access"), LimitItems(dynamodb, "ledger")

    def stop(self, *names: str) -> None:
        """Ask for customers who have not paid to be stopped."""
        for name in names:
            self.limits.hold(name, UNPAID, Held(1))
            self.asked.ask(name, Asked(Level.STOPPED, int(Clock.at.timestamp())))

    def run(self, sent: dict[str, Any], milliseconds: int = 240_000) -> dict[str, Any]:
        """Let an event reach the function."""
        with under_role(self.template, "LimitingEnforceLimitsRole"):
            return dict(enforce_limits.handler(sent, context(milliseconds)))


@pytest.fixture
def deployed(aws: Account, limits_template: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    """A process that has just begun."""
    settings = EnforceLimitsSettings("ledger", "access", "Metering", QUEUE, "rest")
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Clock, "at", HOUR.start + timedelta(minutes=30), raising=False)
    monkeypatch.setattr("enforce_limits.datetime", Clock)
    plans, bus, queue = UsagePlansOfAws(), Bus(), Queue()
    aws.services["apigateway"] = plans
    monkeypatch.setattr(clients, "events", cache(lambda: bus))
    monkeypatch.setattr(clients, "queues", cache(lambda: queue))
    enforce_limits._gate.cache_clear()
    yield Deployed(aws, plans, limits_template, bus, queue)
    enforce_limits._gate.cache_clear()


@pytest.mark.parametrize("sent", [{}, event("sqs_message")])
def test_whoever_is_asked_for_is_stopped_and_told_whatever_the_message_says(
    deployed: Deployed, sent: dict[str, Any]
) -> None:
    """The list is the truth; a second message finds nothing to do."""
    deployed.stop("acme")
    assert deployed.run(sent) == {"brought": 1, "failed": 0, "left": 0}
    assert [deployed.aws.of(key) for key in deployed.aws.keys] == [set(), {"Standard"}]
    (told,) = deployed.bus.put
    assert (told["Source"], told["DetailType"]) == ("metering.limits", "Access stopped")
    assert told["Detail"] == {
        "id": "0f2de56b49276e8b7aa8dbcf5614a0f4",
        "deployment": "Metering",
        "customer": "acme",
        "at": "2026-11-22T05:30:00Z",
        "level": "stopped",
        "reasons": ["unpaid"],
        "keys": 1,
    }
    assert deployed.run(sent) == {"brought": 0, "failed": 0, "left": 0}
    assert (len(deployed.bus.put), deployed.queue.sent) == (1, [])


def test_what_is_left_when_the_time_is_over_wakes_the_next_run(deployed: Deployed) -> None:
    """No key is begun in the last three quarters of a minute."""
    deployed.stop("acme", "globex")
    assert deployed.run({}, milliseconds=45_000) == {"brought": 0, "failed": 0, "left": 2}
    assert deployed.queue.sent == ["{}"]
    assert deployed.run({})["brought"] == 2


def test_a_table_that_fails_fails_the_message_and_loses_nothing(deployed: Deployed) -> None:
    """SQS brings it again; and who is asked for stays so."""
    deployed.stop("acme")
    dynamodb: Any = clients.dynamodb()

    def refuse(operation: str, arguments: Any) -> None:
        if operation == "Query" and arguments["TableName"] == "access":
            raise ConnectionError("no table")

    dynamodb.before.append(refuse)
    with pytest.raises(ConnectionError):
        deployed.run({})
    dynamodb.before.remove(refuse)
    assert deployed.run({})["brought"] == 1
