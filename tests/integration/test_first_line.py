"""The first line of a connection, and what it is said to be counted as."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from infra.operate.connections.first_line import FirstLine, counted_as, example_call, wait_for_first_line
from infra.operate.customers import Customers
from infra.operate.deployment import Deployment
from metering.model.connections import Connection, Form, StageLog
from metering.model.log_format import Api
from metering.model.metrics import USAGE_LINES, Count, Metric, Sum, Unique
from tests.integration.connected import JOBS, ORDERS, make_log_group, write_lines
from tests.integration.operator_commands import Operator
from tests.integration.world import World

NOW = datetime.now(UTC).replace(microsecond=0)
"""Moto takes no events of other weeks."""
METRICS: tuple[Metric, ...] = (
    Count(name="requests"),
    Sum(name="bytes", of="response_length"),
    Unique(name="callers", of="key"),
    Sum(name="jobs", of=USAGE_LINES),
)
BEGUN = msgspec.structs.replace(ORDERS, since=int((NOW - timedelta(minutes=2)).timestamp() * 1000))


@pytest.fixture
def deployment(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Deployment:
    """A deployment whose log groups are there, and empty."""
    found = Operator(world, monkeypatch, capsys).deployment
    vars(found)["declared"] = {"metrics": msgspec.to_builtins(METRICS)}
    for one in (ORDERS, JOBS):
        make_log_group(one.log_group)
    return found


def line(world: World, **changes: str) -> str:
    """Return a line that a connected stage writes now."""
    return world.line(**{"time": str(int(NOW.timestamp() * 1000)), "api_id": "orders", "stage": "v1"} | changes)


def said(deployment: Deployment, text: str, connection: Connection = ORDERS) -> str:
    """Return in a sentence what a line is counted as."""
    return str(counted_as(deployment, connection, text, at=NOW, now=NOW)).replace(f"{NOW:%H:%M:%S}", "05:30:00")


def test_a_first_line_is_counted_for_the_customer_that_holds_the_key(world: World, deployment: Deployment) -> None:
    """In each metric that bills it."""
    world.customer("acme", "key1")
    write_lines(ORDERS.log_group, {line(world): NOW})
    found = wait_for_first_line(deployment, BEGUN, patience=timedelta(0))
    assert found is not None
    assert found.as_json() == {
        "at": f"{NOW:%Y-%m-%dT%H:%M:%SZ}",
        "said": "GET /items, status 200",
        "key": "key1",
        "customer": "acme",
        "excluded": "",
        "amounts": {"requests": 1, "bytes": 10, "callers": 1},
        "why": "",
    }
    assert said(deployment, line(world)) == (
        "the first line, of 05:30:00 UTC (GET /items, status 200), counts as bytes 10, callers 1, requests 1 for acme "
        "(key1)"
    )


def test_whoever_is_no_customer_yet_is_told_to_be_made_one(world: World, deployment: Deployment) -> None:
    """I9: or was excluded."""
    assert said(deployment, line(world)).endswith(
        "for key1, which is no customer's yet: metering customers add ID --name NAME --key key1"
    )
    Customers(world.ledger, world.counters).exclude("key1", reason="health check", since=None, now=NOW)
    assert said(deployment, line(world)).endswith("for key1, for which nobody is billed: health check")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"key": "-"}, "is billed to nobody: $context.identity.apiKeyId has no value, so that it names no caller"),
        ({"status": "500"}, "is billed to nobody: no metric bills GET /items with status 500"),
        ({"method": "-"}, "(/items, status 200), counts as"),
        ({"resource": "GET /items"}, "(GET /items, status 200), counts as"),
        ({"method": "-", "resource": "-", "status": "500"}, "no metric bills a request with status 500"),
        ({"status": "x"}, "is set aside: status must be a whole number up to 10^12, got 'x'"),
        ({"response_length": "x"}, "requests 1 for key1, which is no customer's yet"),
        ({"response_length": "x"}, "; is set aside for bytes: response_length must be a whole number"),
    ],
)
def test_what_is_not_counted_has_its_reason(
    world: World, deployment: Deployment, changes: dict[str, str], why: str
) -> None:
    """I9: also where only a metric could not read it."""
    assert why in said(deployment, line(world, **changes))


def test_a_usage_line_is_found_among_others(world: World, deployment: Deployment) -> None:
    """Of a log group in which an application writes all it does."""
    world.customer("acme")
    report = {"usage": {"id": "a", "time": NOW.isoformat(), "customer": "acme", "jobs": 3}}
    write_lines(JOBS.log_group, {"starting": NOW, json.dumps(report): NOW})
    found = wait_for_first_line(deployment, JOBS, patience=timedelta(0))
    assert found is not None
    assert (found.customer, found.key, found.amounts) == ("acme", "", {"jobs": 3})


OWN = (
    '{"id":"$context.extendedRequestId","api":"$context.apiId","stage":"$context.stage","at":$context.requestTimeEpoch,'
    '"key":"$context.identity.apiKeyId","status":"$context.status","bytes":"$context.responseLength",'
    '"agent":"$context.identity.userAgent"}'
)


def own_line(api: str) -> str:
    """Return a line of a stage by a format of its own."""
    values = {
        "extendedRequestId": "Iq8gj1UmIAMCKpA=",
        "apiId": api,
        "stage": "v1",
        "requestTimeEpoch": f"{NOW.timestamp() * 1000:.0f}",
        "identity.apiKeyId": f"key-of-{api}",
        "status": "200",
        "responseLength": "10",
        "identity.userAgent": 'curl","status":"500',
    }
    return re.sub(r"\$context\.([A-Za-z.]+)", lambda found: values[found[1]], OWN)


def test_a_line_of_a_stages_own_format_is_read_by_that(deployment: Deployment) -> None:
    """Of a log group that others share, the first that is this stage's."""
    theirs = msgspec.structs.replace(BEGUN, form=Form.THEIRS, shares_log=True, after=StageLog("", OWN))
    write_lines(ORDERS.log_group, {own_line("another"): NOW, own_line("a1b2c3"): NOW})
    found = wait_for_first_line(deployment, theirs, patience=timedelta(0))
    assert found is not None
    assert (found.key, found.amounts) == ("key-of-a1b2c3", {"requests": 1, "bytes": 10, "callers": 1})


def test_a_line_that_holds_ours_in_front_is_read_by_that(world: World, deployment: Deployment) -> None:
    """A caller that is none is told by its variable."""
    extended = msgspec.structs.replace(BEGUN, form=Form.EXTENDED, api=Api.HTTP, caller="authorizer.claims.sub")
    text = f'{{"metering":{line(world, key="orders:-")},"agent":"curl"}}'
    assert said(deployment, text, extended) == (
        "the first line, of 05:30:00 UTC (GET /items, status 200), is billed to nobody: $context.authorizer.claims.sub "
        "has no value, so that it names no caller"
    )


def test_it_waits_until_a_line_is_there_and_no_longer_than_asked(world: World, deployment: Deployment) -> None:
    """I10: as many looks as the patience has room for."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            write_lines(ORDERS.log_group, {line(world): NOW})

    found = wait_for_first_line(deployment, BEGUN, patience=timedelta(minutes=1), pause=pause)
    assert (found is not None, pauses) == (True, [5, 5, 5])
    pauses.clear()
    jobs = wait_for_first_line(deployment, JOBS, patience=timedelta(seconds=14), pause=pauses.append)
    assert (jobs, pauses) == (None, [5, 5])


def test_what_was_written_before_the_connection_began_is_not_its_first_line(
    world: World, deployment: Deployment
) -> None:
    """Of a log group of somebody else's."""
    write_lines(ORDERS.log_group, {line(world, key="before"): NOW - timedelta(minutes=5)})
    write_lines(ORDERS.log_group, {line(world, key="after"): NOW - timedelta(minutes=1)})
    found = wait_for_first_line(deployment, BEGUN, patience=timedelta(0))
    assert found is not None
    assert found.key == "after"


def test_no_more_lines_are_looked_at_than_a_look_has_room_for(deployment: Deployment) -> None:
    """I10: of a log group that is full of other lines."""
    report = json.dumps({"usage": {"id": "a", "time": NOW.isoformat(), "customer": "acme", "jobs": 3}})
    write_lines(JOBS.log_group, {f"nothing {number}": NOW - timedelta(seconds=30) for number in range(100)})
    write_lines(JOBS.log_group, {report: NOW})
    assert wait_for_first_line(deployment, JOBS, patience=timedelta(0)) is None


SIGNED = (
    'curl -i --aws-sigv4 "aws:amz:eu-west-1:execute-api" -u "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" '
    '-H "x-amz-security-token: $AWS_SESSION_TOKEN" "https://a1b2c3.execute-api.eu-west-1.amazonaws.com/v1/items"'
)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, 'curl -i -H "x-api-key: $API_KEY" "https://a1b2c3.execute-api.eu-west-1.amazonaws.com/v1/items"'),
        (
            {"api": Api.HTTP, "caller": "authorizer.claims.sub", "stage": "$default"},
            'curl -i -H "Authorization: Bearer $TOKEN" "https://a1b2c3.execute-api.eu-west-1.amazonaws.com/items"',
        ),
        ({"caller": "identity.userArn"}, SIGNED),
        (
            {"caller": "identity.clientCert.serialNumber"},
            'curl -i --cert client.pem --key client.key "https://$DOMAIN/items"',
        ),
        (
            {"api": Api.WEBSOCKET, "caller": "authorizer.sub"},
            'wscat -c wss://a1b2c3.execute-api.eu-west-1.amazonaws.com/v1 -H "Authorization: $TOKEN"',
        ),
    ],
)
def test_a_call_to_try_is_ready_to_be_pasted(changes: dict[str, Any], wanted: str) -> None:
    """What its caller has to show is left to a variable (I8)."""
    connection = msgspec.structs.replace(ORDERS, **changes)
    methods = ["POST /", "GET /items/{id}", "GET /items", "GET /others"]
    assert example_call(connection, region="eu-west-1", methods=methods) == wanted


def test_where_no_method_is_known_the_root_is_called() -> None:
    """Whatever it answers, it is a line."""
    assert example_call(ORDERS, region="cn-north-1", methods=["ANY /{proxy+}"]).endswith(
        '"https://a1b2c3.execute-api.cn-north-1.amazonaws.com.cn/v1/"'
    )


def test_a_line_that_adds_nothing_says_so() -> None:
    """It counts, and for nothing: an answer of no bytes."""
    found = FirstLine(NOW, "GET /items, status 200", key="key1")
    assert str(found).endswith("(GET /items, status 200), adds nothing to a metric")
