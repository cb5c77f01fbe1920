"""record_usage as AWS calls it: events in, answers, metrics and logs out."""

import base64
import gzip
import io
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import boto3
import pytest
from aws_lambda_powertools import Metrics
from botocore.exceptions import ClientError

import record_usage
from metering.counting.payloads import PayloadError
from metering.model.connections import Connection, Form, StageLog, Step
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import USAGE_LINES, Sum, Unique, encode
from metering.settings import RecordUsageSettings, SettingsError
from metering.stores import aws as clients
from metering.stores.connections import Connections
from tests.doubles.access_log import NONCE
from tests.doubles.lambdas import context, event
from tests.integration.lambdas import Clock, said
from tests.integration.world import ACCESS_LOG_GROUP, HOUR, METRICS, World, envelope


def unpacked(sent: dict[str, Any]) -> Any:
    """Return what is in a subscription's envelope."""
    return json.loads(gzip.decompress(base64.b64decode(sent["awslogs"]["data"])))


def packed(content: bytes) -> dict[str, Any]:
    """Return a subscription's envelope around anything."""
    return {"awslogs": {"data": base64.b64encode(gzip.compress(content)).decode()}}


def message(**changes: Any) -> dict[str, Any]:
    """Return an envelope around a data message with some fields changed."""
    return packed(json.dumps(event("data_message_decoded") | changes).encode())


def forget() -> None:
    """Forget what a process keeps between two events, as a new one would."""
    for cached in (record_usage._parts, clients.dynamodb, clients.s3, clients.secrets):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def log(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log of a process that has just begun, with its settings and its clock."""
    del world
    settings = RecordUsageSettings(
        counters_table="counters",
        bucket="bucket",
        metrics=encode(METRICS),
        nonces=NONCE,
        access_log_group=ACCESS_LOG_GROUP,
        ledger_table="ledger",
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Clock, "at", HOUR.start + timedelta(minutes=30), raising=False)
    written = io.StringIO()
    monkeypatch.setattr(record_usage.logger.registered_handler, "stream", written)
    monkeypatch.setattr(record_usage, "datetime", Clock)
    monkeypatch.setattr(record_usage, "signals", Metrics())
    forget()
    yield written
    forget()


def twice(sent: dict[str, Any]) -> dict[str, Any]:
    """Return an event whose gzip holds everything twice, in two members."""
    packed_twice = base64.b64decode(sent["awslogs"]["data"]) * 2
    return {"awslogs": {"data": base64.b64encode(packed_twice).decode()}}


def everything_stored() -> list[Any]:
    """Return every item and object that a handler could have written."""
    items = boto3.client("dynamodb").scan(TableName="counters")["Items"]
    return [*items, *boto3.client("s3").list_objects_v2(Bucket="bucket").get("Contents", [])]


# --- record_usage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data_message", "control_message"])
def test_the_envelopes_hold_the_readable_messages(name: str) -> None:
    """The readable files are what the encoded ones say."""
    assert unpacked(event(name)) == event(f"{name}_decoded")


def test_half_a_surrogate_pair_costs_its_own_line_alone(world: World) -> None:
    """I6: it is no text, and JSON can spell it all the same."""
    body = json.dumps(event("data_message_decoded")).replace("POST", "PO\\ud83dST")
    answer = record_usage.handler(packed(body.encode()), context())
    assert answer == {"read": 4, "billed": 2, "set_aside": 1}
    assert world.counted()["a1b2c3d4e5"]["requests"] == 1


def test_the_data_message_holds_lines_of_our_format() -> None:
    """What the stage's format would write, field by field."""
    fields = json.loads(AccessLog().format(NONCE)).keys()
    lines = [json.loads(log["message"]) for log in event("data_message_decoded")["logEvents"]]
    assert [list(line) for line in lines] == [list(fields)] * 4


def test_a_data_message_is_counted(world: World) -> None:
    """I1: four lines: two keys, and one line without a key that nobody is billed for."""
    answer = record_usage.handler(event("data_message"), context())
    assert answer == {"read": 4, "billed": 3, "set_aside": 0}
    assert world.counted() == {
        "a1b2c3d4e5": {"requests": 2, "bytes": 1111},
        "f6g7h8i9j0": {"requests": 1, "bytes": 2048},
    }


def test_a_data_message_that_comes_again_is_counted_once(world: World) -> None:
    """I2: in another process, hours later."""
    record_usage.handler(event("data_message"), context())
    forget()
    Clock.at += timedelta(hours=5)
    record_usage.handler(event("data_message"), context())
    assert world.counted()["a1b2c3d4e5"] == {"requests": 2, "bytes": 1111}


def test_a_stage_that_is_connected_between_two_deliveries_counts_at_once(world: World) -> None:
    """I1: the ledger is asked each time, by the process that asked it before."""
    shop = AccessLog(Api.HTTP, "authorizer.claims.sub", "shop")
    written = StageLog("arn:aws:logs:us-east-1:123456789012:log-group:/x", shop.format(NONCE))
    sent = envelope(world.line(api_id="shop", key="shop:ann"), log_group="/x/shop")
    assert record_usage.handler(sent, context()) == {"read": 0, "billed": 0, "set_aside": 0}
    Connections(world.ledger.client, world.ledger.table).save(
        Connection(
            "shop",
            Form.OURS,
            Step.CONNECTED,
            "/x/shop",
            since=int(HOUR.start.timestamp() * 1000),
            by="arn:aws:iam::123456789012:user/operator",
            api=shop.api,
            api_id="a1b2c3",
            stage="$default",
            caller=shop.caller,
            after=written,
        )
    )
    assert record_usage.handler(sent, context()) == {"read": 1, "billed": 1, "set_aside": 0}
    assert world.counted() == {"shop:ann": {"requests": 1, "bytes": 10}}


def test_a_control_message_is_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    """It is a probe: no record, no metric, nothing written, and no setting is needed to answer it."""
    assert record_usage.handler(event("control_message"), context()) == {"read": 0}
    assert everything_stored() == []
    assert said(capsys) == {}


TRUNCATED = {"awslogs": {"data": base64.b64encode(gzip.compress(b'{"messageType": "DATA_MESSAGE"}')[:-12]).decode()}}
SHAPE = "awslogs.data must hold a subscription payload of CloudWatch Logs: "
OTHER = "wanted messages of SQS, got records of "
PACKING = "awslogs.data must be base64 of gzipped JSON, got something else: "
OUTER = 'wanted {"awslogs": {"data": "..."}}, {"Records": [...]} of SQS or {"redrive": {...}}, got '


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        (None, OUTER + "a value of the type NoneType"),
        ([], OUTER + "a value of the type list"),
        ([{"awslogs": {"data": "x"}}], OUTER + "a value of the type list"),
        ("awslogs", OUTER + "a value of the type str"),
        (7, OUTER + "a value of the type int"),
        ({}, OUTER + "an object with the fields []"),
        ({"Records": [], "a": 1}, OUTER + "an object with the fields ['Records', 'a']"),
        ({"awslogs": None}, OUTER + "an object with the fields ['awslogs']"),
        ({"awslogs": "x"}, OUTER + "an object with the fields ['awslogs']"),
        ({"awslogs": {}}, OUTER + "an object with the fields ['awslogs']"),
        ({"awslogs": {"data": 7}}, OUTER + "an object with the fields ['awslogs']"),
        ({"awslogs": {"data": ["x"]}}, OUTER + "an object with the fields ['awslogs']"),
        ({"Records": [{"eventSource": "aws:kinesis", "kinesis": {"data": "H4s="}}]}, OTHER + "'aws:kinesis'"),
        ({"Records": [{"eventSource": "aws:s3", "s3": {}}]}, OTHER + "'aws:s3'"),
        ({"Records": [{"EventSource": "aws:sns", "Sns": {}}]}, OUTER + "an object with the fields ['Records']"),
        ({"Records": [7]}, OUTER + "an object with the fields ['Records']"),
        ({"invocationId": "1", "records": []}, OUTER + "an object with the fields ['invocationId', 'records']"),
        ({"awslogs": {"data": ""}}, SHAPE + "Input data was truncated"),
        (packed(json.dumps(event("data_message_decoded")).encode() * 2), SHAPE + "JSON is malformed: trailing"),
        (twice(packed(json.dumps(event("data_message_decoded")).encode())), SHAPE + "JSON is malformed: trailing"),
        ({"awslogs": {"data": "no base64!"}}, PACKING),
        ({"awslogs": {"data": "größe"}}, PACKING),
        ({"awslogs": {"data": "abcde"}}, PACKING),
        ({"awslogs": {"data": base64.b64encode(b'{"messageType": "DATA_MESSAGE"}').decode()}}, PACKING),
        (TRUNCATED, PACKING),
        (packed(b""), SHAPE + "Input data was truncated"),
        (packed(b"GET / 200"), SHAPE + "JSON is malformed"),
        (packed(b'{"messageType": "DATA_MESSAGE"'), SHAPE + "Input data was truncated"),
        (packed(b"null"), SHAPE + "Expected `object`, got `null`"),
        (packed(b"[]"), SHAPE + "Expected `object`, got `array`"),
        (packed(b"{}"), SHAPE + "Object missing required field `messageType`"),
        (message(messageType=None), SHAPE + "Expected `str`, got `null` - at `$.messageType`"),
        (message(logGroup=7), SHAPE + "Expected `str`, got `int` - at `$.logGroup`"),
        (message(logEvents={}), SHAPE + "Expected `array`, got `object` - at `$.logEvents`"),
        (message(logEvents=["line"]), SHAPE + "Expected `object`, got `str` - at `$.logEvents[0]`"),
        (
            message(logEvents=[{"id": "1", "timestamp": 1}]),
            SHAPE + "Object missing required field `message` - at `$.logEvents[0]`",
        ),
        (message(messageType="data_message"), "messageType must be DATA_MESSAGE or CONTROL_MESSAGE, got"),
        (message(messageType=""), "messageType must be DATA_MESSAGE or CONTROL_MESSAGE, got ''"),
    ],
)
def test_a_malformed_event_fails_with_a_sentence_and_writes_nothing(
    sent: Any, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """I1: it goes to the on-failure destination; a part of it must not have been counted."""
    with pytest.raises(PayloadError) as caught:
        record_usage.handler(sent, context())
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
    assert everything_stored() == []
    assert said(capsys) == {}


def test_a_malformed_events_error_does_not_repeat_what_is_in_it() -> None:
    """I8: an error is logged, and an event may hold anything."""
    events: list[Any] = [{"awslogs": {"data": ["k3yvalue"]}}, {"a": "k3yvalue"}, ["k3yvalue"], packed(b'"k3yvalue"')]
    for sent in events:
        with pytest.raises(PayloadError) as caught:
            record_usage.handler(sent, context())
        assert "k3yvalue" not in str(caught.value)


@pytest.mark.parametrize("name", ["COUNTERS_TABLE", "BUCKET", "METRICS"])
def test_a_missing_setting_of_record_usage_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment error is read off the log."""
    monkeypatch.delenv(name)
    with pytest.raises(SettingsError, match=f"^the environment must set {name}$"):
        record_usage.handler(event("data_message"), context())


def test_all_missing_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one is missing, too."""
    monkeypatch.delenv("COUNTERS_TABLE")
    monkeypatch.setenv("METRICS", "")
    with pytest.raises(SettingsError, match=r"^the environment must set COUNTERS_TABLE, METRICS$"):
        record_usage.handler(event("data_message"), context())


def test_read_is_billed_and_unbilled_and_set_aside(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """I1: and the metrics say so, with their units."""
    earlier = str(int((HOUR.start + timedelta(minutes=10)).timestamp() * 1000))
    lines = [
        world.line(),
        world.line(time=earlier),
        world.line(key="-"),
        world.line(status="403"),
        world.line(status="500"),
        "GET / 200",
    ]
    record_usage.handler(envelope(*lines), context())
    metrics = said(capsys)
    assert metrics == {
        "RecordsRead": (6, "Count"),
        "RecordsBilled": (2, "Count"),
        "RecordsUnbilled": (3, "Count"),
        "RecordsSetAside": (1, "Count"),
        "OldestRecordAge": (1200, "Seconds"),
    }


def test_a_refused_batch_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """I2: what a redelivery reads is told again, and that it was refused."""
    sent = envelope(world.line())
    record_usage.handler(sent, context())
    said(capsys)
    record_usage.handler(sent, context())
    metrics = said(capsys)
    assert metrics["BatchesRefused"] == (1, "Count")
    assert metrics["RecordsRead"] == (1, "Count")


def test_a_record_from_a_clock_ahead_has_no_negative_age(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """The gateway's clock may be ahead by seconds."""
    ahead = str(int((Clock.at + timedelta(seconds=30)).timestamp() * 1000))
    record_usage.handler(envelope(world.line(time=ahead)), context())
    assert said(capsys)["OldestRecordAge"] == (0, "Seconds")


def test_a_batch_without_a_good_record_has_no_age(capsys: pytest.CaptureFixture[str]) -> None:
    """An age of zero would hide a real one."""
    record_usage.handler(envelope("nonsense"), context())
    metrics = said(capsys)
    assert "OldestRecordAge" not in metrics
    assert metrics["RecordsSetAside"] == (1, "Count")


def test_record_usage_logs_numbers_and_no_line(
    world: World, log: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    """I8: neither the line that was set aside nor whose it was is logged."""
    lines = [world.line(key="key-of-somebody"), "GET /?token=k3yvalue", world.line(key="k3yvalue and a tab\t")]
    record_usage.handler(envelope(*lines), context())
    (recorded,) = [json.loads(line) for line in log.getvalue().splitlines()]
    assert recorded["message"] == "batch recorded"
    assert {name: recorded[name] for name in ("read", "billed", "unbilled", "set_aside", "refused")} == {
        "read": 3,
        "billed": 1,
        "unbilled": {},
        "set_aside": 2,
        "refused": False,
    }
    for secret in ("k3yvalue", "key-of-somebody", "request-", "testing"):
        assert secret not in log.getvalue() + capsys.readouterr().out


# --- record_usage: objects and redriving ------------------------------------------------------------------------------

DECODED_KEY = "access-log/2026/11/22/05/amazon-apigateway-metering-1-2026-11-22-05-34-11-a b+cé.gz"


def put_archived(*lines: str, name: str = DECODED_KEY) -> None:
    """Put an object as Firehose writes it."""
    body = gzip.compress("".join(f"{line}\n" for line in lines).encode())
    boto3.client("s3").put_object(Bucket="bucket", Key=name, Body=body)


def queued(*bodies: str) -> dict[str, Any]:
    """Return an event of SQS with a message for each body."""
    (message_,) = event("sqs_message")["Records"]
    return {"Records": [message_ | {"messageId": f"m{n}", "body": body} for n, body in enumerate(bodies)]}


def told(name: str) -> str:
    """Return the body in which S3 tells of an object."""
    found = {"bucket": {"name": "bucket"}, "object": {"key": name, "size": 1, "eTag": "e"}}
    return json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": found}]})


def test_an_object_that_a_message_names_is_counted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """I1: its key is URL-encoded there; what became of its lines is told."""
    put_archived(world.line(), world.line(key="key2"), world.line(key="-"), "nonsense")
    assert record_usage.handler(event("sqs_message"), context()) == {"batchItemFailures": []}
    assert world.counted() == {name: {"requests": 1, "bytes": 10} for name in ("key1", "key2")}
    metrics = said(capsys)
    assert [metrics[f"Records{name}"][0] for name in ("Read", "Billed", "Unbilled", "SetAside")] == [4, 2, 1, 1]


def test_a_message_that_comes_again_counts_once(world: World) -> None:
    """I2: SQS delivers at least once, and S3 may tell of an object twice."""
    put_archived(world.line())
    for _ in range(2):
        record_usage.handler(event("sqs_message"), context())
        forget()
    assert world.counted()["key1"]["requests"] == 1


def test_a_message_that_fails_is_delivered_again_alone(world: World, log: io.StringIO) -> None:
    """I1, I6: a broken object, one that is gone and a body of another form keep no other from being counted."""
    put_archived(world.line(), name="access-log/good")
    boto3.client("s3").put_object(Bucket="bucket", Key="access-log/broken", Body=gzip.compress(b"x" * 1000)[:-8])
    sent = queued(
        told("access-log/broken"), told("access-log/good"), told("access-log/gone"), "k3yvalue: no notification"
    )
    answer = record_usage.handler(sent, context())
    assert answer == {"batchItemFailures": [{"itemIdentifier": name} for name in ("m0", "m2", "m3")]}
    assert world.counted()["key1"]["requests"] == 1
    assert "k3yvalue" not in log.getvalue()


def test_a_run_that_records_nothing_fails(log: io.StringIO) -> None:
    """I1, I9: its message is delivered again as it is, and Lambda counts an error, on which there is an alarm."""
    with pytest.raises(ClientError, match="NoSuchKey"):
        record_usage.handler(queued(told("access-log/gone")), context())
    with pytest.raises(PayloadError):
        record_usage.handler(queued("k3yvalue: no notification", told("access-log/gone")), context())
    assert "k3yvalue" not in log.getvalue()


def test_the_test_event_of_s3_is_a_success() -> None:
    """S3 sends it when the notification is set up; it must not end in the dead-letter queue."""
    body = '{"Service":"Amazon S3","Event":"s3:TestEvent","Time":"2026-11-22T05:00:00.000Z","Bucket":"bucket"}'
    assert record_usage.handler(queued(body), context()) == {"batchItemFailures": []}
    assert everything_stored() == []


def test_a_message_without_a_record_is_a_success() -> None:
    """Nothing is lost in it."""
    assert record_usage.handler(queued('{"Records":[]}'), context()) == {"batchItemFailures": []}


def test_a_run_without_time_gives_its_message_back(world: World) -> None:
    """I1: no chunk is begun that might not be ended; the next run has the time."""
    put_archived(world.line())
    put_archived(world.line(), name="access-log/other")
    sent = {"Records": [*event("sqs_message")["Records"], *queued(told("access-log/other"))["Records"]]}
    answer = record_usage.handler(sent, context(milliseconds=59_000))
    assert [failed["itemIdentifier"] for failed in answer["batchItemFailures"]] == [
        message_["messageId"] for message_ in sent["Records"]
    ]
    assert world.counted() == {}
    assert record_usage.handler(sent, context()) == {"batchItemFailures": []}
    assert world.counted()["key1"]["requests"] == 2


def test_usage_lines_come_from_any_other_log_group(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I7: a usage line in the access log's group is none, and an access-log line elsewhere is none either."""
    monkeypatch.setenv("METRICS", encode([*METRICS, Sum(name="tokens", of=USAGE_LINES)]))
    time = int((HOUR.start + timedelta(minutes=20)).timestamp() * 1000)
    lines = [json.dumps({"usage": {"id": "a", "time": time, "customer": "acme", "tokens": 5}}), world.line()]
    assert record_usage.handler(envelope(*lines, log_group="/aws/lambda/yours"), context()) == {
        "read": 1, "billed": 1, "set_aside": 0
    }  # fmt: skip
    assert world.counted() == {"@acme": {"tokens": 5}}
    assert record_usage.handler(envelope(*lines[::-1]), context())["set_aside"] == 1


def test_distinct_values_are_hashed_with_the_deployments_secret(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I8: it is read once, and neither it nor a value is logged or stored."""
    name = "arn:aws:secretsmanager:us-east-1:123456789012:secret:HashSecret"
    boto3.client("secretsmanager").create_secret(Name=name, SecretString="k3yvalue")
    monkeypatch.setenv("METRICS", encode([Unique(name="users", of="authorizer.user", opaque_id=True)]))
    monkeypatch.setenv("LEDGER_TABLE", "ledger")
    monkeypatch.setenv("HASH_SECRET", name)
    for _ in range(2):
        record_usage.handler(envelope(world.line(**{"authorizer.user": "ann-of-globex"})), context())
    assert world.counted() == {"key1": {"users": 1}}
    assert "ann-of-globex" not in str(everything_stored())
    assert "k3yvalue" not in str(everything_stored())


def test_a_redrive_answers_what_it_did(world: World) -> None:
    """I1, I2: as 'metering set-aside redrive' shows it."""
    ahead = world.line(time=str(int((HOUR.end + timedelta(minutes=1)).timestamp() * 1000)))
    record_usage.handler(envelope(ahead, "nonsense"), context())
    (kept,) = boto3.client("s3").list_objects_v2(Bucket="bucket")["Contents"]
    batch = kept["Key"].removeprefix("set-aside/").removesuffix(".json")
    Clock.at = HOUR.end + timedelta(minutes=30)
    answer = record_usage.handler({"redrive": {"batch": batch}}, context())
    reasons = {f"{1:056d}": "not JSON"}
    assert answer == {"batch": batch, "counted": 1, "left": 1, "reasons": reasons, "to_do": 0, "next": None}
    assert json.loads(json.dumps(answer)) == answer
    assert record_usage.handler({"redrive": {"batch": batch}}, context())["counted"] == 0
    assert world.counted(HOUR.next())["key1"]["requests"] == 1


def test_a_redrive_ends_before_its_time_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: with a minute left for the lines that it is at; what is to do is said."""
    monkeypatch.setattr("metering.counting.redriving.PIECE", 2)
    lines = [world.line(time=str(int((HOUR.end + timedelta(minutes=1)).timestamp() * 1000))) for _ in range(5)]
    record_usage.handler(envelope(*lines), context())
    (batch,) = world.set_aside.batches()
    Clock.at = HOUR.end + timedelta(minutes=30)
    wanted = {"batch": batch}
    for milliseconds, place, done in ((61_000, 0, (5, 0, None)), (59_000, 0, (0, 0, None))):
        answer = record_usage.handler({"redrive": wanted | {"from": place}}, context(milliseconds))
        assert (answer["counted"], answer["to_do"], answer["next"]) == done
    world.set_aside.client.delete_object(Bucket="bucket", Key=f"set-aside/{batch}.redriven.json")
    answer = record_usage.handler({"redrive": wanted | {"from": 1}}, context(59_000))
    assert (answer["counted"], answer["to_do"], answer["next"]) == (2, 2, 3)
    assert world.counted(HOUR.next()) == {"key1": {"requests": 5, "bytes": 50}}


@pytest.mark.parametrize("wanted", [None, {}, {"batch": "k3yvalue"}, {"batch": "a" * 24}])
def test_a_malformed_redrive_fails_with_a_sentence(wanted: Any) -> None:
    """I8: and without what was in it, unless it is the name of a batch."""
    with pytest.raises(PayloadError) as caught:
        record_usage.handler({"redrive": wanted}, context())
    assert "k3yvalue" not in str(caught.value)
    assert everything_stored() == []
