"""Which stages and log groups are connected, as they are listed."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import msgspec
import pytest

from infra.cli.terminal import Terminal
from infra.operate.connections import listing
from infra.operate.connections.listing import listed, shown
from infra.operate.deployment import Deployment
from metering.model.connections import Step
from metering.model.periods import Hour
from tests.integration.connected import JOBS, ORDERS, make_log_group, write_lines
from tests.integration.operator_commands import Operator
from tests.integration.world import World

NOW = datetime.now(UTC).replace(microsecond=0)
"""Moto takes no events of other weeks."""
LAST_HOUR = Hour(Hour.containing(NOW).number - 1)


@pytest.fixture
def operator(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    """Who asks for the list, now."""
    monkeypatch.setattr("infra.cli.connections.now", lambda: NOW)
    return Operator(world, monkeypatch, capsys)


@pytest.fixture
def deployment(operator: Operator) -> Deployment:
    """A deployment with a stage and a log group that are connected, and a stage that was."""
    found = operator.deployment
    for one in (ORDERS, JOBS, msgspec.structs.replace(ORDERS, name="former", step=Step.DISCONNECTED, until=1)):
        found.connections.save(one)
    return found


def test_what_has_ended_is_listed_if_it_is_asked_for(deployment: Deployment) -> None:
    """By their names."""
    assert [one.name for one in shown(deployment, ended=False)] == ["jobs", "orders"]
    assert [one.name for one in shown(deployment, ended=True)] == ["former", "jobs", "orders"]


def test_the_newest_line_is_named_and_the_lines_of_the_last_whole_hour(world: World, deployment: Deployment) -> None:
    """Those that were counted, or found to be nobody's."""
    make_log_group(ORDERS.log_group)
    write_lines(ORDERS.log_group, {"older": NOW - timedelta(minutes=9), "newer": NOW - timedelta(minutes=2)})
    for hour, lines in ((LAST_HOUR, 1200), (LAST_HOUR.next(), 7)):
        world.counters.lines.count(hour, ORDERS.log_group, lines, b"123456789012")
    jobs, orders = listed(deployment, shown(deployment, ended=False), NOW)
    assert (orders.last_line, orders.lines) == (NOW - timedelta(minutes=2), 1200)
    assert (jobs.last_line, jobs.lines) == (None, 0)


def test_a_stream_that_says_too_little_of_its_last_line_is_looked_into(deployment: Deployment) -> None:
    """What it says of it may be an hour old (CloudWatch Logs API Reference, "LogStream")."""
    make_log_group(ORDERS.log_group)
    write_lines(ORDERS.log_group, {"older": NOW - timedelta(minutes=9), "newer": NOW - timedelta(minutes=2)})
    logs: Any = boto3.client("logs")
    an_hour_ago = int((NOW - timedelta(hours=1)).timestamp() * 1000)
    streams = {"logStreams": [{"logStreamName": "stream", "lastEventTimestamp": an_hour_ago}]}
    logs.describe_log_streams = lambda **_: streams
    lagging = Deployment(lambda name, **_: logs if name == "logs" else boto3.client(name), deployment.outputs)
    (orders,) = listed(lagging, [ORDERS], NOW)
    assert orders.last_line == NOW - timedelta(minutes=2)


def test_a_log_group_that_is_gone_has_no_last_line(deployment: Deployment) -> None:
    """Doctor says what to do about it."""
    make_log_group(JOBS.log_group)
    assert [one.last_line for one in listed(deployment, shown(deployment, ended=True), NOW)] == [None, None, None]


def test_of_many_connections_the_newest_lines_of_the_first_are_asked_for(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10."""
    monkeypatch.setattr(listing, "MOST_LOOKED_AT", 1)
    for one in (JOBS, ORDERS):
        make_log_group(one.log_group)
        write_lines(one.log_group, {"line": NOW})
    assert [one.last_line for one in listed(deployment, shown(deployment, ended=False), NOW)] == [NOW, None]


def test_the_command_prints_a_row_for_each(world: World, operator: Operator, deployment: Deployment) -> None:
    """Form in words, and the step only where something is unfinished; or one document."""
    deployment.connections.save(msgspec.structs.replace(ORDERS, name="half", step=Step.CONNECTING))
    world.counters.lines.count(LAST_HOUR, ORDERS.log_group, 1200, b"123456789012")
    heading, *rows = operator.run("connections").out.splitlines()
    assert heading.split("  ")[0] == "name"
    assert [row.split("  ")[0] for row in rows] == ["half", "jobs", "orders"]
    assert [part.strip() for part in rows[2].split("  ") if part.strip()] == [
        "orders",
        "v1 of Orders (a1b2c3)",
        "REST, our format",
        "2026-11-22",
        "-",
        "1,200",
        "user/ops",
    ]
    assert rows[0].rstrip().endswith("connecting")
    assert [one["name"] for one in operator.run("connections", "--all", "--json").document] == [
        "former",
        "half",
        "jobs",
        "orders",
    ]


def test_a_long_list_is_gone_on_with(operator: Operator, deployment: Deployment) -> None:
    """By names; how many there are is on stderr, where it is in no pipe's way."""
    del deployment
    first = operator.run("connections", "--all", "--most", "2")
    assert [row.split()[0] for row in first.out.splitlines()] == ["name", "former", "jobs"]
    assert first.err == "2 connections shown; there are more: --after jobs\n"
    rest = operator.run("connections", "--all", "--after", "jobs")
    assert ([row.split()[0] for row in rest.out.splitlines()], rest.err) == (["name", "orders"], "1 connection\n")


def test_a_connection_that_cannot_be_read_is_named(operator: Operator, deployment: Deployment) -> None:
    """It is no defect of the program: a newer version may have written it."""
    key = {"pk": {"S": "connections"}, "sk": {"S": "orders"}}
    item = {**key, "value": {"S": "{}"}, "version": {"N": "1"}}
    deployment.client("dynamodb").put_item(TableName=deployment.outputs.ledger_table, Item=item)
    said = operator.run("connections")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("error: the connection orders cannot be read (Object missing required field")


def test_as_json_a_connection_says_all_that_the_ledger_holds_of_it(deployment: Deployment) -> None:
    """But for formats, which hold the nonce (I8)."""
    found = listed(deployment, shown(deployment, ended=True), NOW)
    former, jobs, orders = (one.as_json() for one in found)
    assert orders == {
        "name": "orders",
        "kind": "rest",
        "api_id": "a1b2c3",
        "api_name": "Orders",
        "stage": "v1",
        "caller": "identity.apiKeyId",
        "form": "ours",
        "step": "connected",
        "log_group": "/aws/vendedlogs/metering/orders",
        "shares_log": False,
        "since": "2026-11-22T03:10:00Z",
        "until": None,
        "by": "arn:aws:iam::123456789012:user/ops",
        "last_line": None,
        "lines_last_hour": 0,
    }
    assert (former["step"], former["until"]) == ("disconnected", "1970-01-01T00:00:00Z")
    assert (jobs["kind"], jobs["stage"], jobs["caller"], jobs["form"]) == (None, None, None, "usage")


@pytest.mark.parametrize("columns", [80, 120, 140])
def test_names_and_moments_are_whole_on_a_terminal_of_any_width(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """On a narrow one how each is read and who connected it give way, and it is said where those are."""
    name = "checkout-production-eu"
    operator.deployment.connections.save(msgspec.structs.replace(JOBS, name=name))
    make_log_group(JOBS.log_group)
    write_lines(JOBS.log_group, {"line": NOW})
    shown_on = io.StringIO()
    terminal = Terminal(file=shown_on, width=columns, force_terminal=True, color_system=None)
    for module in ("shared", "connections"):
        monkeypatch.setattr(f"infra.cli.{module}.out", terminal)
    said = operator.run("connections")
    is_wide = columns >= 120
    row = shown_on.getvalue().splitlines()[-1]
    assert row.split()[:2] == [name, JOBS.log_group]
    assert f"{NOW:%Y-%m-%dT%H:%MZ}" in row
    assert len(row) <= columns
    assert (JOBS.by.rpartition(":")[2] in row) == is_wide
    assert ("by whom: 120 columns, or --json" in said.err) != is_wide
