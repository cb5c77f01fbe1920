"""Lambda around a handler: what it tells a function, the function's clock, what it says, and what its role allows."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, tzinfo
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, ClassVar, Self

import pytest
from aws_lambda_powertools import Metrics

import close_periods
import post_usage
import receive_events
import reconcile_usage
from metering.model.metrics import encode
from metering.settings import ClosePeriodsSettings, PostUsageSettings, ReceiveEventsSettings, ReconcileUsageSettings
from metering.stores import aws as clients
from tests.doubles.aws import Bus, Client, Nobody
from tests.doubles.lambdas import context, event
from tests.doubles.template import ATTRIBUTES, KEYS, denials, grants
from tests.integration.world import METRICS, World

SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:StripeSecret"
SIGNING_SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:SigningSecret"
POST_USAGE = "Metering-PostUsage"


class Clock(datetime):
    """The clock that the handlers ask."""

    at: ClassVar[datetime]

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        """Return the moment that the test has set."""
        return cls.fromtimestamp(cls.at.timestamp(), tz)


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the metrics that were printed, each with its unit."""
    found: dict[str, Any] = {}
    for line in capsys.readouterr().out.splitlines():
        printed = json.loads(line)
        (told,) = printed["_aws"]["CloudWatchMetrics"]
        assert (told["Namespace"], told["Dimensions"], printed["service"]) == ("Metering", [["service"]], "Metering")
        for metric in told["Metrics"]:
            (value,) = printed[metric["Name"]]
            found[metric["Name"]] = (value, metric["Unit"])
    return found


def told_to_eventbridge() -> list[list[dict[str, Any]]]:
    """Return what this process will tell EventBridge from now on: the details of each call's events."""
    calls: list[list[dict[str, Any]]] = []

    def take(_: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        entries = arguments["Entries"]
        assert {(one["Source"], one["DetailType"]) for one in entries} == {("metering", "Usage rejected")}
        assert {one.get("EventBusName", "default") for one in entries} == {"default"}
        calls.append([json.loads(one["Detail"]) for one in entries])
        return {"FailedEntryCount": 0, "Entries": []}

    bus: Any = clients.events()
    bus.before.append(take)
    return calls


def forget() -> None:
    """Forget what the billing functions' processes keep between two events, as new ones would."""
    for cached in (
        close_periods._parts,
        close_periods._note_declared,
        post_usage._parts,
        reconcile_usage._parts,
        receive_events._receiver,
        clients.dynamodb,
        clients.events,
        clients.functions,
        clients.secrets,
    ):
        cached.cache_clear()


@dataclass
class Functions:
    """The billing functions in processes that have just begun, each under its own role. ``log`` is what they logged."""

    world: World
    template: Mapping[str, Any]
    log: io.StringIO

    def close(self, sent: Any = None, *, milliseconds: int = 240_000) -> dict[str, Any]:
        """Let a tick reach close_periods."""
        with self._acting_as("ClosePeriods"):
            sent = event("scheduler_tick") if sent is None else sent
            return dict(close_periods.handler(sent, context(milliseconds)))

    def post(self, *shards: int, milliseconds: int = 240_000) -> dict[str, Any]:
        """Let a worker begin that has these shards, or all."""
        with self._acting_as("PostUsage"):
            sent = {"shards": list(shards)} if shards else {}
            return dict(post_usage.handler(sent, context(milliseconds)))

    def reconcile(self, *, milliseconds: int = 240_000) -> dict[str, Any]:
        """Let the hourly tick reach reconcile_usage."""
        with self._acting_as("ReconcileUsage"):
            return dict(reconcile_usage.handler(event("scheduler_tick"), context(milliseconds)))

    def receive(self, sent: dict[str, Any]) -> dict[str, Any]:
        """Let a request reach receive_events by its address."""
        with self._acting_as("ReceiveEvents"):
            return dict(receive_events.handler(sent, context()))

    def _acting_as(self, name: str) -> "AbstractContextManager[list[Need]]":
        return under_role(self.template, f"Billing{name}Role")


Need = tuple[str, str, str]
"""What a call to DynamoDB needs: an action, on which resource, and the partition key that it names."""


@contextmanager
def under_role(template: Mapping[str, Any], role: str) -> Iterator[list[Need]]:
    """Hold each call to DynamoDB against what the template lets a role do; return what was needed.

    The emulator cannot: it never fills in which partition keys a call names.
    """
    allowed, needed = grants(dict(template), role), []
    denied = [one["Condition"] for one in denials(dict(template), role)]

    def check(operation: str, arguments: Mapping[str, Any]) -> None:
        for action, resource, pk in _needs(operation, arguments):
            needed.append((action, resource, pk))
            assert any(
                (f"dynamodb:{action}", resource) == granted[:2]
                and (not granted[2] or any(fnmatchcase(pk, pattern) for pattern in granted[2]))
                for granted in allowed
            ), f"{role} may not {action} {pk} of {resource}"
        for item in _put(operation, arguments):
            assert not any(
                fnmatchcase(item["pk"]["S"], pattern) and item.keys() & set(one["ForAnyValue:StringEquals"][ATTRIBUTES])
                for one in denied
                for pattern in one["ForAnyValue:StringLike"][KEYS]
            ), f"{role} is denied to put {sorted(item)} below {item['pk']['S']}"

    dynamodb: Any = clients.dynamodb()
    dynamodb.before.append(check)
    try:
        yield needed
    finally:
        dynamodb.before.remove(check)


def _put(operation: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    puts = [one.get("Put", {}) for one in params.get("TransactItems", ())]
    return [put["Item"] for put in [*puts, params if operation == "PutItem" else {}] if put]


_TABLES = {"counters": "Counters", "ledger": "Ledger", "access": "Access"}


def _needs(operation: str, params: Mapping[str, Any]) -> Iterator[Need]:
    match operation:
        case "TransactWriteItems":
            actions = {"Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem"}
            for one in params["TransactItems"]:
                ((kind, inner),) = one.items()
                yield from _needs(actions.get(kind, "ConditionCheckItem"), inner)
        case "BatchGetItem":
            for table, asked in params["RequestItems"].items():
                for key in asked["Keys"]:
                    yield operation, _TABLES[table], key["pk"]["S"]
        case "Query":
            index = f"/index/{params['IndexName']}" if "IndexName" in params else ""
            yield operation, _TABLES[params["TableName"]] + index, params["ExpressionAttributeValues"][":pk"]["S"]
        case "DescribeTable":
            yield operation, _TABLES[params["TableName"]], ""
        case _:
            key = params.get("Item") or params["Key"]
            yield operation, _TABLES[params["TableName"]], key["pk"]["S"]


@contextmanager
def begin(world: World, template: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Functions]:
    """Begin the billing functions' processes, with their settings and their clock."""
    stripe = {"deployment": "Metering", "stripe_secret": SECRET, "stripe_api_base": world.stripe.url}
    for settings in (
        ClosePeriodsSettings("counters", "ledger", POST_USAGE, encode(METRICS)),
        PostUsageSettings("counters", "ledger", ledger_epoch="1", stripe_rate="1000", **stripe),
        ReconcileUsageSettings("counters", "ledger", stripe_reads_a_month="100000", **stripe),
        ReceiveEventsSettings("ledger", signing_secret=SIGNING_SECRET, **stripe),
    ):
        for name, value in settings.environment().items():
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(Clock, "at", world.now, raising=False)
    for module in (close_periods, post_usage, reconcile_usage, receive_events):
        monkeypatch.setattr(module, "datetime", Clock)
        monkeypatch.setattr(module, "signals", Metrics())
    written = io.StringIO()
    handler = close_periods.logger.registered_handler  # one for all: it belongs to the service's name
    monkeypatch.setattr(handler, "stream", written)
    monkeypatch.setattr(clients, "functions", cache(lambda: Client("lambda", Nobody())))
    monkeypatch.setattr(clients, "events", cache(lambda: Client("events", Bus())))
    forget()
    yield Functions(world, template, written)
    forget()
