"""``metering connect-log``: a log group of usage lines in moto, what is shown of it, and the ways it may end."""

import base64
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import msgspec
import pytest
from aws_lambda_powertools import Metrics

import record_usage
from infra.operate.connections import usage_sample
from infra.operate.deployment import Deployment
from infra.outputs import Outputs
from metering.model.connections import Connection, Form, Step
from metering.model.metrics import USAGE_LINES, Count, Metric, Sum, encode
from metering.model.periods import Hour
from metering.settings import RecordUsageSettings
from metering.stores import aws as clients
from tests.doubles.api_gateway import ApisOfAws, OtherService, RestService
from tests.doubles.aws import Client
from tests.doubles.dying import Dying, KilledError, Life
from tests.doubles.lambdas import context
from tests.doubles.log_groups import LOG_GROUP_ARN
from tests.doubles.outputs import outputs
from tests.integration.connected import ORDERS, make_log_group, write_lines
from tests.integration.operator_commands import Said, run_metering
from tests.integration.world import World

JOBS = "/app/jobs"
NOW = datetime.now(UTC)
METRICS: tuple[Metric, ...] = (
    Count(name="requests"),
    Sum(name="tokens", of=USAGE_LINES),
    Sum(name="rows", of=USAGE_LINES),
)
FUNCTION = "arn:aws:lambda:us-east-1:123456789012:function:record-usage"
WRITES = frozenset(
    {
        *("transact_write_items", "add_permission", "remove_permission", "put_subscription_filter"),
        *("delete_subscription_filter", "put_metric_filter", "delete_metric_filter"),
    }
)


@dataclass
class Stack:
    """CloudFormation, as far as it knows the stack's own log groups."""

    log_groups: tuple[str, ...] = ("access-log", "Metering-RecordUsageLog-1")

    def get_paginator(self, name: str) -> "Stack":
        """Return one for the stack's resources."""
        assert name == "list_stack_resources"
        return self

    def paginate(self, **_: str) -> Iterator[dict[str, Any]]:
        """Yield them on a page."""
        kind = "AWS::Logs::LogGroup"
        yield {
            "StackResourceSummaries": [{"ResourceType": kind, "PhysicalResourceId": name} for name in self.log_groups]
        }


@dataclass
class Place:
    """An account with a deployment and a log group; whoever acts there may die."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    told: Outputs
    metrics: tuple[Metric, ...] = METRICS
    apis: ApisOfAws = field(default_factory=ApisOfAws)
    life: Life = field(default_factory=lambda: Life(of=WRITES))

    @property
    def deployment(self) -> Deployment:
        """The deployment as the command line reaches it."""
        clients: dict[str, Any] = {
            "cloudformation": Stack(),
            "apigateway": Client("apigateway", RestService(self.apis)),
            "apigatewayv2": Client("apigatewayv2", OtherService(self.apis)),
        }

        def client(name: str, **_: Any) -> Any:
            return clients.setdefault(name, Dying(boto3.client(name), self.life))  # type: ignore[call-overload]

        found = Deployment(client, self.told)
        vars(found)["declared"] = {
            "metrics": msgspec.to_builtins(self.metrics),
            "plans": [],
            "access_log": {"api": "rest"},
        }
        return found

    def run(self, *arguments: str) -> Said:
        """Run a command line."""
        return run_metering(self.monkeypatch, self.capsys, *arguments)

    def connection(self, name: str = "jobs") -> Connection:
        """Return what the ledger holds."""
        found = self.deployment.connections.get(name)
        assert found
        return found


@pytest.fixture
def place(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    """An account with a log group into which nobody has written yet."""
    boto3.client("iam").create_role(RoleName="functions", AssumeRolePolicyDocument="{}")
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as file:
        file.writestr("index.py", "")
    boto3.client("lambda").create_function(
        FunctionName="record-usage",
        Runtime="python3.13",
        Role="arn:aws:iam::123456789012:role/functions",
        Handler="index.handler",
        Code={"ZipFile": code.getvalue()},
    )
    make_log_group(JOBS)
    found = Place(monkeypatch, capsys, outputs(stripe_api_base=world.stripe.url))
    monkeypatch.setattr(Deployment, "find", lambda *_, **__: found.deployment)
    return found


def line(name: str, customer: str = "acme", **fields: Any) -> str:
    """Return a usage line of a minute ago."""
    at = int((NOW - timedelta(minutes=1)).timestamp() * 1000)
    return json.dumps({"usage": {"id": name, "time": at, "customer": customer, **fields}})


def stands(name: str = JOBS) -> tuple[list[Any], list[Any], list[Any]]:
    """Return a log group's subscriptions and metric filters, and who may start the function."""
    logs, functions = boto3.client("logs"), boto3.client("lambda")
    subscriptions = logs.describe_subscription_filters(logGroupName=name)["subscriptionFilters"]
    counted = logs.describe_metric_filters(logGroupName=name)["metricFilters"]
    try:
        policy = json.loads(functions.get_policy(FunctionName="record-usage")["Policy"])["Statement"]
    except functions.exceptions.ResourceNotFoundException:
        policy = []
    return [*subscriptions], [*counted], policy


def test_it_is_shown_what_the_last_lines_would_be_and_nothing_is_done(place: Place) -> None:
    """For whom and for which metrics; what is set aside has its reason."""
    lines = [
        line("1", tokens=5),
        line("2", tokens=7, rows=1),
        line("3", "globex", tokens=1, rows="many"),
        line("4", "globex", tokens=-1),
        "usage: jobs [--once]",
        "nothing of the kind",
    ]
    write_lines(JOBS, dict.fromkeys(lines, NOW - timedelta(minutes=1)))
    plan = place.run("connect-log", JOBS, "--json").document["plan"]
    sample = plan["sample"]
    assert (sample["counted"], sample["set_aside"], sample["nobodys"], sample["is_all"]) == (3, 2, 1, True)
    assert {(one["whose"], one["metric"]): one["lines"] for one in sample["reports"]} == {
        ("customer#acme", "tokens"): 2,
        ("customer#acme", "rows"): 1,
        ("customer#globex", "tokens"): 1,
    }
    assert sorted(sample["reasons"].values()) == [1, 1]
    assert (plan["name"], plan["connected"], plan["refusals"]) == ("jobs", False, [])
    said = place.run("connect-log", JOBS)
    assert (said.code, said.err) == (0, "")
    assert "3 would count" in said.out
    assert "can bill anyone" in said.out
    assert "nothing is done: say it again with --yes" in said.out
    assert stands() == ([], [], [])
    assert place.deployment.connections.all() == []


def test_a_log_group_is_connected_as_the_stack_would_subscribe_it(place: Place) -> None:
    """Said again, nothing changes."""
    assert place.run("connect-log", JOBS, "--yes").code == 0
    before, stood = place.connection(), stands()
    assert (before.form, before.step, before.log_group) == (Form.USAGE, Step.CONNECTED, JOBS)
    ((subscription,), (counted,), (statement,)) = stood
    assert (subscription["filterPattern"], subscription["destinationArn"]) == ("usage", FUNCTION)
    (metric,) = counted["metricTransformations"]
    assert (counted["filterPattern"], metric["metricNamespace"], metric["metricName"], metric["metricValue"]) == (
        "usage",
        "Metering/Metering",
        JOBS,
        "1",
    )
    assert statement["Condition"]["ArnLike"]["AWS:SourceArn"].endswith(f":log-group:{JOBS}:*")
    said = place.run("connect-log", JOBS, "--yes")
    assert (said.code, "It is connected; what lacks is made good" in said.out) == (0, True)
    assert (place.connection(), stands()) == (before, stood)


def test_disconnecting_leaves_a_log_group_as_it_was(place: Place) -> None:
    """And it can be connected again, also by its name."""
    for _ in range(2):
        assert place.run("connect-log", JOBS, "--yes", "--name", "work").code == 0
        assert place.run("disconnect", "work", "--yes").code == 0
        assert stands() == ([], [], [])
        assert place.connection("work").step is Step.DISCONNECTED


def test_what_its_stack_subscribes_later_is_connected_again(place: Place) -> None:
    """A log group that ever was a connection is read by the ledger alone (I9); its lines are not counted twice (I2)."""
    assert place.run("connect-log", JOBS, "--yes").code == 0
    assert place.run("disconnect", "jobs", "--yes").code == 0
    _subscribe("MeteringUsageLines")
    written: Any = {"metricName": JOBS, "metricNamespace": "Metering/Metering", "metricValue": "1"}
    boto3.client("logs").put_metric_filter(
        logGroupName=JOBS, filterName="stack", filterPattern="usage", metricTransformations=[written]
    )
    assert place.run("connect-log", JOBS, "--yes").code == 0
    assert place.connection().step is Step.CONNECTED
    subscriptions, counted, _ = stands()
    assert [one["filterName"] for one in subscriptions] == ["MeteringUsageLines"]
    assert [one["filterName"] for one in counted] == ["stack"]


@pytest.fixture
def record(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """``record_usage`` as a new process, which is given a log group's lines that were written at a moment."""
    told = place.told
    settings = RecordUsageSettings(
        counters_table=told.counters_table,
        bucket=told.bucket,
        metrics=encode(METRICS),
        nonces=told.nonces,
        access_log_group=told.access_log_group,
        ledger_table=told.ledger_table,
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)

    monkeypatch.setattr(record_usage, "signals", Metrics())

    def deliver(*lines: str, at: datetime) -> dict[str, Any]:
        moment = int(at.timestamp() * 1000)
        events = [{"id": f"{moment}{n:043d}", "timestamp": moment, "message": text} for n, text in enumerate(lines)]
        body = {"messageType": "DATA_MESSAGE", "logGroup": JOBS, "logStream": "s", "logEvents": events}
        data = base64.b64encode(gzip.compress(json.dumps(body).encode())).decode()
        return record_usage.handler({"awslogs": {"data": data}}, context())

    for cached in (record_usage._parts, clients.dynamodb, clients.s3, clients.secrets):
        cached.cache_clear()
    yield deliver
    for cached in (record_usage._parts, clients.dynamodb, clients.s3, clients.secrets):
        cached.cache_clear()


def test_lines_count_from_connecting_to_disconnecting(
    place: Place, world: World, record: Callable[..., dict[str, Any]]
) -> None:
    """By the function itself, which asks the ledger; what comes later is nobody's, and is no line set aside."""
    assert place.run("connect-log", JOBS, "--yes").code == 0
    begun = datetime.fromtimestamp(place.connection().since / 1000, UTC)
    told = record(line("1", tokens=5), line("2", "globex", tokens=7), "usage: jobs [--once]", at=begun)
    assert (told["billed"], told["set_aside"]) == (2, 0)
    assert place.run("disconnect", "jobs", "--yes").code == 0
    ended = datetime.fromtimestamp(place.connection().until / 1000, UTC)
    assert record(line("3", tokens=11), at=ended + timedelta(seconds=1))["billed"] == 0
    hour = Hour.containing(NOW - timedelta(minutes=1))
    counted = world.counters.read(hour, ["@acme", "@globex"])
    assert {source: usage.sums for source, usage in counted.items()} == {
        "@acme": {"tokens": 5},
        "@globex": {"tokens": 7},
    }


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "arguments", [("connect-log", JOBS, "--yes"), ("disconnect", "jobs", "--yes")], ids=lambda it: str(it[0])
)
def test_it_may_die_at_each_of_its_writes(place: Place, arguments: tuple[str, ...], when: str) -> None:
    """I1: run again it ends as if it had not died; what is delivered is always in the ledger."""
    deaths = 0
    for writes in range(1, 20):
        if arguments[0] == "disconnect":
            assert place.run("connect-log", JOBS, "--yes").code == 0
        place.life = Life(dies_at=writes, accepted=when == "after", of=WRITES)
        try:
            assert place.run(*arguments).code == 0
        except KilledError:
            deaths += 1
        died, place.life = place.life.writes >= writes, Life(of=WRITES)
        if stands()[0]:
            assert place.connection().log_group == JOBS
        assert place.run(*arguments).code == 0
        if arguments[0] == "connect-log":
            assert place.connection().step is Step.CONNECTED
            assert [len(what) for what in stands()] == [1, 1, 1]
            assert place.run("disconnect", "jobs", "--yes").code == 0
        assert stands() == ([], [], [])
        if not died:
            break
    assert deaths == 5


def _subscribe(name: str, *, destination: str = FUNCTION) -> None:
    boto3.client("logs").put_subscription_filter(
        logGroupName=JOBS, filterName=name, filterPattern="", destinationArn=destination
    )


def _two_of_others(_place: Place) -> None:
    boto3.client("lambda").create_function(
        FunctionName="other",
        Runtime="python3.13",
        Role="arn:aws:iam::123456789012:role/functions",
        Handler="index.handler",
        Code={"ZipFile": b"PK\x05\x06" + bytes(18)},
    )
    for name in ("a", "b"):
        _subscribe(name, destination=FUNCTION.replace("record-usage", "other"))


def _no_metric(place: Place) -> None:
    place.metrics = (Count(name="requests"),)


def _written_by_a_stage(place: Place) -> None:
    """Let an API write its callers' User-Agents there."""
    place.apis.add("shop000001", "Shop", protocol="HTTP", log=(f"{LOG_GROUP_ARN}{JOBS}", "$context.requestId"))


def _read_as(**fields: Any) -> Callable[[Place], None]:
    def save(place: Place) -> None:
        place.deployment.connections.save(msgspec.structs.replace(ORDERS, log_group=JOBS, **fields))

    return save


@pytest.mark.parametrize(
    ("group", "prepare", "why"),
    [
        ("access-log", None, "belongs to metering itself"),
        ("Metering-RecordUsageLog-1", None, "belongs to metering itself"),
        ("/aws/lambda/close-periods", None, "belongs to metering itself"),
        (outputs().connected_logs + "orders", None, "belongs to metering itself"),
        ("/aws/appsync/apis/a1", None, "so that whoever calls could write a usage line"),
        ("API-Gateway-Execution-Logs_a1/prod", None, "so that whoever calls could write a usage line"),
        ("/app/job", None, "there is no log group '/app/job'"),
        ("", None, "there is no log group ''"),
        (JOBS, _no_metric, "no metric measures usage lines"),
        (JOBS, _two_of_others, "has two subscription filters, as many as there can be: a and b"),
        (JOBS, lambda _: _subscribe("UsageLines"), "the subscription filter UsageLines of /app/jobs brings its lines"),
        (JOBS, _written_by_a_stage, "the stage prod of Shop writes into /app/jobs what callers send"),
        (JOBS, _read_as(), "is the access log of the connection orders"),
        (JOBS, _read_as(name="work", form=Form.USAGE), "the log group /app/jobs is connected as work"),
        (JOBS, _read_as(name="jobs", form=Form.USAGE, step=Step.DISCONNECTING, until=ORDERS.since + 1), "go on with"),
        (JOBS, lambda place: place.deployment.connections.save(msgspec.structs.replace(ORDERS, name="jobs")), "--name"),
    ],
)
def test_what_cannot_be_connected_is_refused_with_the_way_out(
    place: Place, group: str, prepare: Callable[[Place], None] | None, why: str
) -> None:
    """And nothing is done."""
    if prepare:
        prepare(place)
    before = place.deployment.connections.all()
    said = place.run("connect-log", group, "--yes", "--name", "jobs")
    assert said.code == 1
    assert why in said.err
    assert "error: " in said.err
    assert place.deployment.connections.all() == before
    assert stands()[1:] == ([], [])
    assert place.run("connect-log", group, "--json", "--name", "jobs").document["plan"]["refusals"]


def test_the_callers_text_in_appsyncs_own_log_would_be_a_usage_line(place: Place) -> None:
    """I7: this is why that log group is refused."""
    forged = line("1", "globex", tokens=10**6)
    write_lines(JOBS, {f"7f0a GraphQL Query: query {{ find(text: {json.dumps(forged)}) }}, Operation: null": NOW})
    sample = usage_sample.sample(place.deployment, JOBS, METRICS, NOW + timedelta(seconds=1))
    assert sample.reports == {("customer#globex", "tokens"): 1}


def test_of_many_lines_the_latest_are_looked_at(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: by so many calls, and it is said that there are more."""
    monkeypatch.setattr(usage_sample, "MOST_LINES", 3)
    write_lines(JOBS, {line(f"o{n}", "old", tokens=1): NOW - timedelta(hours=1, seconds=n) for n in range(8, -1, -1)})
    write_lines(JOBS, {line(f"n{n}", "new", tokens=1): NOW - timedelta(seconds=n + 1) for n in (1, 0)})
    sample = usage_sample.sample(place.deployment, JOBS, METRICS, NOW)
    assert sample.reports == {("customer#new", "tokens"): 2, ("customer#old", "tokens"): 1}
    assert not sample.is_all
    monkeypatch.setattr(usage_sample, "MOST_LINES", 1000)
    monkeypatch.setattr(usage_sample, "MOST_ANSWERS", 2)
    assert not usage_sample.sample(place.deployment, JOBS, METRICS, NOW).is_all
