"""Completeness: the day's numbers put into CloudWatch by hand, and the ratios that are published of them."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import boto3
import pytest
from aws_lambda_powertools import Metrics

import check_completeness
import record_usage
from metering.counting.completeness import ratio
from metering.model.log_format import Api
from metering.model.metrics import USAGE_LINES, Count, Sum
from metering.model.metrics import encode as encode_metrics
from metering.model.periods import Hour
from metering.model.stages import Stage, encode
from metering.settings import CheckCompletenessSettings, RecordUsageSettings
from metering.stores import aws as clients
from tests.doubles.access_log import NONCE
from tests.doubles.lambdas import context
from tests.integration.lambdas import Clock
from tests.integration.world import ACCESS_LOG_GROUP, World, envelope

NOW = datetime.fromisoformat("2026-11-22T17:20:00+00:00")
SAMPLE = Stage(Api.REST, "SampleApi", "v1")
OURS = ("Metering", "LinesCounted", {"service": "Metering-us-east-1"})
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
    made = CheckCompletenessSettings("Metering-us-east-1", ACCESS_LOG_GROUP, "", encode([SAMPLE]))
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
    return answer, told


@pytest.mark.usefixtures("settings")
def test_where_everything_is_counted_both_ratios_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    """I1: of lines, and of requests."""
    for metric in (OURS, LOG_GROUP, REQUESTS):
        put(metric, 5000)
        put(metric, 300, NOW - timedelta(hours=20))
    answer, told = check(capsys)
    assert (answer["counted"], answer["written"], answer["requests"]) == (5300, 5300, 5300)
    assert told == {"CompletenessOfLines": 1.0, "CompletenessOfRequests": 1.0}


@pytest.mark.usefixtures("settings")
def test_lines_that_were_skipped_show_in_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    """I1: ten minutes of a day, for which CloudWatch Logs switched the subscription off, are beyond the tolerance."""
    put(OURS, 14_300)
    put(LOG_GROUP, 14_400)
    put(REQUESTS, 14_400)
    _, told = check(capsys)
    assert told["CompletenessOfLines"] == pytest.approx(0.9931, abs=0.0001)
    assert told["CompletenessOfLines"] < 0.995


@pytest.mark.usefixtures("settings")
def test_lines_that_were_counted_twice_show_in_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    """I2: a delivery that came again in other pieces."""
    put(OURS, 1100)
    put(LOG_GROUP, 1000)
    put(REQUESTS, 1000)
    _, told = check(capsys)
    assert told == {"CompletenessOfLines": 1.1, "CompletenessOfRequests": 1.1}


@pytest.mark.usefixtures("settings")
def test_a_stage_that_does_not_log_shows_in_the_ratio_of_requests_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """What is written is counted."""
    put(OURS, 900)
    put(LOG_GROUP, 900)
    put(REQUESTS, 1000)
    _, told = check(capsys)
    assert told == {"CompletenessOfLines": 1.0, "CompletenessOfRequests": 0.9}


@pytest.mark.usefixtures("settings")
def test_where_there_was_no_traffic_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A metric costs money for as long as it is sent."""
    assert check(capsys) == (
        {"counted": 0, "written": 0, "requests": 0, "of_lines": None, "of_requests": None},
        {},
    )


@pytest.mark.usefixtures("settings")
def test_a_day_is_compared_that_ended_an_hour_ago(capsys: pytest.CaptureFixture[str]) -> None:
    """CloudWatch's own numbers of the last hour may still be on their way."""
    for metric in (OURS, LOG_GROUP, REQUESTS):
        put(metric, 100, NOW - timedelta(hours=2))
    put(OURS, 7000, NOW - timedelta(minutes=30))
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
    put(OURS, 1000)
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


def test_record_usage_tells_lines_without_usage_lines_and_without_what_came_again(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """I2: what is compared with the log group is one line of it each."""
    declared = (Count(name="requests"), Sum(name="jobs", of=USAGE_LINES))
    made = RecordUsageSettings("counters", "bucket", encode_metrics(declared), NONCE, ACCESS_LOG_GROUP)
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    lines = [world.line(time=str(int((NOW - timedelta(minutes=1)).timestamp() * 1000))) for _ in range(3)]
    usage_line = json.dumps({"usage": {"id": "a", "time": NOW.isoformat(), "key": "key1", "jobs": 3}})
    for event in (
        envelope(*lines, "nonsense"),
        envelope(*lines, "nonsense"),
        envelope(usage_line, log_group="jobs"),
    ):
        record_usage.handler(event, context())
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one.get("LinesCounted") for one in told if "_aws" in one] == [[4.0], None, None]
    assert world.counted(Hour.containing(NOW))["key1"] == {"requests": 3, "jobs": 3}
