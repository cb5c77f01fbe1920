"""Completeness: the day's numbers put into CloudWatch by hand, and the ratios that are published of them."""

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import boto3
import msgspec
import pytest
from aws_lambda_powertools import Metrics

import check_completeness
import record_usage
from metering.counting import completeness
from metering.counting.completeness import ratio
from metering.model.connections import Connection, Form, Step
from metering.model.log_format import Api
from metering.model.metrics import USAGE_LINES, Count, Sum
from metering.model.metrics import encode as encode_metrics
from metering.model.periods import Hour
from metering.model.stages import Stage, connected, encode
from metering.settings import CheckCompletenessSettings, RecordUsageSettings
from metering.stores import aws as clients
from metering.stores.connections import Connections, UnreadableConnectionError
from metering.stores.lines import Lines
from tests.doubles.access_log import NONCE
from tests.doubles.lambdas import context
from tests.integration.lambdas import Clock
from tests.integration.world import ACCESS_LOG_GROUP, HOUR, World, envelope

NOW = datetime.fromisoformat("2026-11-22T17:20:00+00:00")
SAMPLE = Stage(Api.REST, "SampleApi", "v1")
BEFORE = ("Metering", "LinesCounted", {"service": "Metering-us-east-1"})
WRITTEN = "Metering/Metering-us-east-1"
"""Where CloudWatch counts what is written of usage lines."""
LOG_GROUP = ("AWS/Logs", "IncomingLogEvents", {"LogGroupName": ACCESS_LOG_GROUP})
STREAM = ("AWS/Firehose", "IncomingRecords", {"DeliveryStreamName": "amazon-apigateway-metering"})
REQUESTS = ("AWS/ApiGateway", "Count", {"ApiName": "SampleApi", "Stage": "v1"})

Metric = tuple[str, str, dict[str, str]]


@pytest.fixture(autouse=True)
def fresh(aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Functions that have just started, at twenty past five by their clocks."""
    del aws
    monkeypatch.setattr(Clock, "at", NOW, raising=False)
    for module in (check_completeness, record_usage):
        monkeypatch.setattr(module, "datetime", Clock)
        monkeypatch.setattr(module, "signals", Metrics())
    yield
    for cached in (
        check_completeness._sources,
        clients.cloudwatch,
        record_usage._parts,
        clients.dynamodb,
        clients.s3,
    ):
        cached.cache_clear()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> CheckCompletenessSettings:
    """The settings on the road over a subscription, with one stage."""
    made = CheckCompletenessSettings("counters", "ledger", "Metering-us-east-1", ACCESS_LOG_GROUP, "", encode([SAMPLE]))
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    return made


def put(metric: Metric, number: float, at: datetime = NOW - timedelta(hours=3)) -> None:
    """Put a number into CloudWatch; API Gateway puts a 1 for each request."""
    namespace, name, dimensions = metric
    listed = [{"Name": key, "Value": value} for key, value in dimensions.items()]
    of_each = {"Values": [1], "Counts": [number]} if namespace == "AWS/ApiGateway" else {"Value": number}
    entry: Any = {"MetricName": name, "Dimensions": listed, "Timestamp": at, "Unit": "Count", **of_each}
    boto3.client("cloudwatch").put_metric_data(Namespace=namespace, MetricData=[entry])


def count(number: int, at: datetime = NOW - timedelta(hours=3), log: str = "access log") -> None:
    """Let lines of a log have been dealt with that were written at a moment."""
    token = f"{number:06d}{at.timestamp():.0f}".encode()[:12]
    Lines(clients.dynamodb(), "counters").count(Hour.containing(at), log, number, token)


def check(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], dict[str, float]]:
    """Run the function; return its answer, and the ratios that it tells CloudWatch."""
    capsys.readouterr()
    answer = check_completeness.handler({}, context())
    told: dict[str, float] = {}
    for line in capsys.readouterr().out.splitlines():
        found = json.loads(line)
        if "_aws" in found:
            names = [metric["Name"] for one in found["_aws"]["CloudWatchMetrics"] for metric in one["Metrics"]]
            told |= {name: found[name][0] for name in names}
            told |= {f"{name} again": found[name][1] for name in names if len(found[name]) > 1}
    return answer, told


@pytest.mark.usefixtures("settings")
def test_where_everything_is_counted_both_ratios_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    """I1: of lines, and of requests."""
    for metric in (LOG_GROUP, REQUESTS):
        put(metric, 5000)
        put(metric, 300, NOW - timedelta(hours=20))
    count(5000)
    count(300, NOW - timedelta(hours=20))
    answer, told = check(capsys)
    assert (answer["counted"], answer["written"], answer["requests"]) == (5300, 5300, 5300)
    assert told == {"CompletenessOfLines": 1.0, "CompletenessOfRequests": 1.0}


@pytest.mark.usefixtures("settings")
def test_lines_that_were_skipped_show_in_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    """I1: ten minutes of a day, for which CloudWatch Logs switched the subscription off, are beyond the tolerance."""
    count(14_300)
    put(LOG_GROUP, 14_400)
    put(REQUESTS, 14_400)
    _, told = check(capsys)
    assert told["CompletenessOfLines"] == pytest.approx(0.9931, abs=0.0001)
    assert told["CompletenessOfLines"] < 0.995


@pytest.mark.usefixtures("settings")
def test_lines_that_were_counted_twice_show_in_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    """I2: a delivery that came again in other pieces."""
    count(1100)
    put(LOG_GROUP, 1000)
    put(REQUESTS, 1000)
    _, told = check(capsys)
    assert told == {"CompletenessOfLines": 1.1, "CompletenessOfRequests": 1.1}


@pytest.mark.usefixtures("settings")
def test_a_stage_that_does_not_log_shows_in_the_ratio_of_requests_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """What is written is counted."""
    count(900)
    put(LOG_GROUP, 900)
    put(REQUESTS, 1000)
    _, told = check(capsys)
    assert told == {"CompletenessOfLines": 1.0, "CompletenessOfRequests": 0.9}


@pytest.mark.usefixtures("settings")
def test_where_there_was_no_traffic_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A metric costs money for as long as it is sent."""
    none: dict[str, Any] = {"of_usage_lines": {}, "of_connected_lines": {}, "of_connected_requests": {}}
    answer = {"counted": 0, "written": 0, "requests": 0, "of_lines": None, "of_requests": None} | none
    assert check(capsys) == (answer, {})


@pytest.mark.usefixtures("settings")
def test_a_day_is_compared_that_ended_an_hour_ago(capsys: pytest.CaptureFixture[str]) -> None:
    """CloudWatch's own numbers of the last hour may still be on their way."""
    for metric in (LOG_GROUP, REQUESTS):
        put(metric, 100, NOW - timedelta(hours=2))
    count(100, NOW - timedelta(hours=2))
    count(7000, NOW - timedelta(minutes=30))
    put(LOG_GROUP, 7000, NOW - timedelta(hours=26))
    answer, _ = check(capsys)
    assert (answer["counted"], answer["written"], answer["requests"]) == (100, 100, 100)


def test_on_the_road_over_firehose_its_records_are_what_was_written(
    settings: CheckCompletenessSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside those of the log group, where a stage writes until it has changed over."""
    monkeypatch.setenv("DELIVERY_STREAM", STREAM[2]["DeliveryStreamName"])
    monkeypatch.delenv("STAGES")
    assert settings.stages
    count(1000)
    put(STREAM, 800)
    put(LOG_GROUP, 200)
    answer, told = check(capsys)
    assert (answer["written"], answer["requests"]) == (1000, None)
    assert told == {"CompletenessOfLines": 1.0}


@pytest.mark.parametrize(
    ("counted", "expected", "wanted"),
    [(2, 3, 1.0), (0, 9, 1.0), (0, 10, 0.0), (0, 0, None), (20, 0, 2.0), (500, 100, 2.0), (995, 1000, 1.0)],
)
def test_a_few_lines_are_no_news_and_no_ratio_is_above_two(counted: int, expected: int, wanted: float | None) -> None:
    """Two of three missing wake nobody; all of ten do."""
    assert ratio(counted, expected) == wanted


def test_the_stages_of_http_apis_are_known_by_their_ids() -> None:
    """As CloudWatch's metrics know them."""
    assert Stage(Api.HTTP, "a1b2c3", "v1").dimensions == {"ApiId": "a1b2c3", "Stage": "v1"}


@pytest.mark.usefixtures("settings")
def test_what_the_version_before_has_told_is_counted_along(capsys: pytest.CaptureFixture[str]) -> None:
    """So the day of a deployment is whole."""
    put(BEFORE, 600)
    count(400)
    put(LOG_GROUP, 1000)
    assert check(capsys)[0]["of_lines"] == 1.0


@pytest.mark.usefixtures("settings")
def test_usage_lines_that_a_subscription_skipped_show_in_the_ratio_of_their_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """I1: whatever the other logs hold; CloudWatch counts them by the pattern of the subscription."""
    put(LOG_GROUP, 100_000)
    count(100_000)
    for log, written in (("/app/jobs", 1000), ("/app/tasks", 50), ("/app/idle", 0)):
        put((WRITTEN, log, {}), written)
    count(900, log="/app/jobs")
    count(50, log="/app/tasks")
    answer, told = check(capsys)
    assert answer["of_usage_lines"] == {"/app/jobs": 0.9, "/app/tasks": 1.0}
    assert (told["CompletenessOfLines"], told["CompletenessOfLines again"]) == (1.0, 0.9)


@pytest.fixture
def counted(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, int]]:
    """What tells how many lines of each log of the present hour were dealt with, of requests and usage lines."""
    declared = (Count(name="requests"), Sum(name="jobs", of=USAGE_LINES))
    made = RecordUsageSettings("counters", "bucket", encode_metrics(declared), NONCE, ACCESS_LOG_GROUP, "ledger")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    return lambda: dict(world.counters.lines.by_hour(HOUR, HOUR.next())[HOUR])


@pytest.mark.parametrize("how", ["billed", "unbilled", "set aside", "usage lines"])
def test_lines_that_come_again_are_counted_once(world: World, counted: Callable[[], dict[str, int]], how: str) -> None:
    """I2: whatever becomes of them, and whoever is billed for them."""
    line = {"billed": world.line(), "unbilled": world.line(key="-"), "set aside": "nonsense"}
    usage_line = json.dumps({"usage": {"id": "a", "time": NOW.isoformat(), "key": "key1", "jobs": 3}})
    log = ACCESS_LOG_GROUP if how in line else "jobs"
    sent = envelope(*[line.get(how, usage_line)] * 7, log_group=log)
    for hour in range(3):
        Clock.at = NOW + timedelta(hours=hour)
        record_usage.handler(sent, context())
    assert counted() == {"jobs" if log == "jobs" else "access log": 7}


@pytest.mark.parametrize("writes", range(6))
def test_lines_of_a_batch_whose_first_delivery_died_are_counted_once(
    world: World, counted: Callable[[], dict[str, int]], writes: int
) -> None:
    """I1, I2: before any of its writes, or after all of them and before anything was told of it."""
    late = Clock.at = NOW + timedelta(hours=1)
    sent = envelope(world.line(key="key1"), world.line(key="key2"), "nonsense")
    left = [writes]

    def die(operation: str, _: Any) -> None:
        if operation in ("UpdateItem", "PutItem"):
            left[0] -= 1
            if left[0] < 0:
                raise MemoryError

    dynamodb: Any = clients.dynamodb()
    dynamodb.before.append(die)
    with contextlib.suppress(MemoryError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_usage, "_tell", lambda _: die("UpdateItem", None))
        record_usage.handler(sent, context())
    dynamodb.before.remove(die)
    Clock.at = late + timedelta(minutes=5)
    record_usage.handler(sent, context())
    assert counted() == {"access log": 3}


def test_two_logs_that_number_their_events_alike_are_counted_each(
    world: World, counted: Callable[[], dict[str, int]]
) -> None:
    """I1: and a line that only holds the word is one that was delivered."""
    for log in ("jobs", "tasks"):
        record_usage.handler(envelope("usage: see --help", log_group=log), context())
    assert counted() == {"jobs": 1, "tasks": 1}
    assert world.counted() == {}


# --- connections -----------------------------------------------------------------------------------------------------

ORDERS = Connection(
    name="orders",
    form=Form.THEIRS,
    step=Step.CONNECTED,
    log_group="/theirs/orders",
    since=int(datetime.fromisoformat("2026-11-22T12:20:00+00:00").timestamp() * 1000),
    by="arn:aws:iam::123456789012:user/ops",
    api=Api.REST,
    api_id="a1b2c3",
    api_name="Orders",
    stage="v1",
)
THEIR_LOG = ("AWS/Logs", "IncomingLogEvents", {"LogGroupName": "/theirs/orders"})
THEIR_REQUESTS = ("AWS/ApiGateway", "Count", {"ApiName": "Orders", "Stage": "v1"})
AT_NOON, AT_ONE, AT_TWO = (datetime.fromisoformat(f"2026-11-22T{hour}:30:00+00:00") for hour in (12, 13, 14))


def connect(connection: Connection = ORDERS, **changes: Any) -> None:
    """Let a stage be connected, or a log group."""
    Connections(clients.dynamodb(), "ledger").save(msgspec.structs.replace(connection, **changes))


@pytest.mark.usefixtures("settings")
def test_a_connection_is_compared_from_its_first_whole_hour_on(capsys: pytest.CaptureFixture[str]) -> None:
    """I1: what was written into a log group of somebody else's before that is no loss; what is skipped then is one."""
    connect()
    for metric in (THEIR_LOG, THEIR_REQUESTS):
        put(metric, 90_000, NOW - timedelta(hours=20))
        put(metric, 5000, AT_NOON)
        put(metric, 700, AT_ONE)
        put(metric, 300, AT_TWO)
    count(3000, AT_NOON, log="/theirs/orders")
    count(700, AT_ONE, log="/theirs/orders")
    count(200, AT_TWO, log="/theirs/orders")
    answer, told = check(capsys)
    assert answer["of_connected_lines"] == {"/theirs/orders": 0.9}
    assert answer["of_connected_requests"] == {"orders": 0.9}
    assert told == {"CompletenessOfLines": 0.9, "CompletenessOfRequests": 0.9}


@pytest.mark.usefixtures("settings")
def test_a_connection_that_writes_nothing_any_more_shows_beside_an_access_log_that_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """I9: each has a value of its own, however much the others write."""
    connect()
    for metric in (LOG_GROUP, REQUESTS):
        put(metric, 100_000)
    count(100_000)
    put(THEIR_REQUESTS, 1200, AT_ONE)
    _, told = check(capsys)
    assert told == {
        "CompletenessOfLines": 1.0,
        "CompletenessOfRequests": 1.0,
        "CompletenessOfRequests again": 0.0,
    }


@pytest.mark.usefixtures("settings")
def test_a_connection_that_cannot_be_read_keeps_no_other_from_being_compared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """I6, I9: a newer version may have written it; the others are compared, then an error rings the alarm."""
    connect()
    connect(name="newer", log_group="/theirs/newer")
    key = {"pk": {"S": "connections"}, "sk": {"S": "newer"}}
    newer = {":value": {"S": '{"form":"of tomorrow"}'}}
    clients.dynamodb().update_item(
        TableName="ledger",
        Key=key,
        UpdateExpression="SET #value = :value",
        ExpressionAttributeNames={"#value": "value"},
        ExpressionAttributeValues=newer,
    )
    put(THEIR_LOG, 300, AT_TWO)
    count(200, AT_TWO, log="/theirs/orders")
    with pytest.raises(UnreadableConnectionError, match=r"the connection newer cannot be read \(.*deploy that and use"):
        check_completeness.handler({}, context())
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["CompletenessOfLines"] for line in told if "_aws" in line] == [[2 / 3]]


@pytest.mark.usefixtures("settings")
def test_what_comes_after_a_disconnection_is_compared_with_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Their log group goes on being written."""
    connect(step=Step.DISCONNECTED, until=int(AT_TWO.timestamp() * 1000))
    for at in (AT_ONE, AT_TWO):
        put(THEIR_LOG, 400, at)
        put(THEIR_REQUESTS, 400, at)
    count(400, AT_ONE, log="/theirs/orders")
    assert check(capsys)[1] == {"CompletenessOfLines": 1.0, "CompletenessOfRequests": 1.0}


@pytest.mark.parametrize("how", [{"step": Step.CONNECTING}, {"form": Form.USAGE, "api": None}])
@pytest.mark.usefixtures("settings")
def test_what_is_not_connected_yet_and_usage_lines_are_not_compared_so(
    capsys: pytest.CaptureFixture[str], how: dict[str, Any]
) -> None:
    """Usage lines are among many others in their log group: the pattern of their subscription counts them."""
    connect(**how)
    put(THEIR_LOG, 400, AT_ONE)
    put(THEIR_REQUESTS, 400, AT_ONE)
    assert check(capsys)[1] == {}


@pytest.mark.usefixtures("settings")
def test_of_a_log_group_that_stages_share_only_too_few_lines_show(capsys: pytest.CaptureFixture[str]) -> None:
    """I1: no sum says whose lines they were; those of a stage that is not connected are none too many."""
    connect(shares_log=True)
    connect(name="items", api_name="Items", shares_log=True)
    put(THEIR_LOG, 5000, AT_ONE)
    count(5000, AT_ONE, log="/theirs/orders")
    put(THEIR_REQUESTS, 1200, AT_ONE)
    put(("AWS/ApiGateway", "Count", {"ApiName": "Items", "Stage": "v1"}), 10_000, AT_ONE)
    answer, _ = check(capsys)
    assert answer["of_connected_lines"] == {"/theirs/orders": 1.0}
    assert answer["of_connected_requests"] == {"orders": 1.0, "items": 0.5}


@pytest.mark.usefixtures("settings")
def test_a_websocket_api_has_no_requests_to_compare_with(capsys: pytest.CaptureFixture[str]) -> None:
    """Its messages are counted in both directions, and what the back end sends is in no access log."""
    connect(api=Api.WEBSOCKET, caller="authorizer.sub")
    put(THEIR_LOG, 300, AT_ONE)
    put(("AWS/ApiGateway", "ConnectCount", {"ApiId": "a1b2c3", "Stage": "v1"}), 10, AT_ONE)
    count(300, AT_ONE, log="/theirs/orders")
    answer, _ = check(capsys)
    assert (answer["of_connected_lines"], answer["of_connected_requests"]) == ({"/theirs/orders": 1.0}, {})


@pytest.mark.usefixtures("settings")
def test_more_connections_than_one_call_takes_metrics_are_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CloudWatch takes 500 in a call."""
    monkeypatch.setattr(completeness, "MOST_METRICS", 2)
    for number in range(4):
        connect(name=f"orders-{number}", log_group=f"/theirs/{number}", api_name=f"Orders{number}")
        put(("AWS/ApiGateway", "Count", {"ApiName": f"Orders{number}", "Stage": "v1"}), 100 * (number + 1), AT_ONE)
        count(100, AT_ONE, log=f"/theirs/{number}")
    answer, _ = check(capsys)
    assert answer["of_connected_requests"] == {
        "orders-0": 1.0,
        "orders-1": 0.5,
        "orders-2": pytest.approx(1 / 3),
        "orders-3": 0.25,
    }


@pytest.mark.parametrize(
    ("changes", "dimensions"),
    [
        ({"api_name": "Bestellungen für alle"}, {"ApiName": "Bestellungen fr alle", "Stage": "v1"}),
        ({"api_name": "注文"}, {"ApiName": "a1b2c3", "Stage": "v1"}),
        ({"api": Api.HTTP, "caller": "authorizer.claims.sub"}, {"ApiId": "a1b2c3", "Stage": "v1"}),
    ],
)
def test_a_connections_stage_is_known_as_cloudwatch_knows_it(
    changes: dict[str, Any], dimensions: dict[str, str]
) -> None:
    """A REST API by what of its name is ASCII, or by its id."""
    assert connected(msgspec.structs.replace(ORDERS, **changes)).dimensions == dimensions
