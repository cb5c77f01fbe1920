"""Receipts: an operator learns what became of one request that a customer disputes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import boto3
import msgspec
import pytest

from infra.cli import main as cli
from infra.operate.customers import Customers
from infra.operate.deployment import OperatorError
from infra.operate.receipts import search as search_of
from infra.operate.receipts.receipt import Receipt, receipt
from infra.operate.receipts.search import Search
from metering.counting.redriving import redrive
from metering.model.metrics import Max, Sum, Unique
from metering.model.usage_row import Change
from tests.doubles.aws import Account
from tests.integration.raw import NEXT, WHO, Raw, close
from tests.integration.their_stage import ORDERS, THEIR_LOG, connect, theirs
from tests.integration.world import ACCESS_LOG_GROUP, HOUR

AT = HOUR.start + timedelta(minutes=30)


@dataclass(frozen=True)
class Told:
    """What a user sees of the command."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(raw: Raw, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Run 'metering request' on the deployment."""
    monkeypatch.setattr("infra.cli.shared._connect", lambda *_: raw.deployment)
    monkeypatch.setattr("infra.cli.request.now", raw.world.clock)

    def run(*arguments: str) -> Told:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["metering", "request", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return Told(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(autouse=True)
def written_at_the_worlds_time(raw: Raw, aws: Account) -> None:
    """Objects are dated by the world's clock."""
    aws.services["s3"].clock = raw.world.clock


def told(raw: Raw, request: str, **how: Any) -> Receipt:
    """Return a receipt of a request that was made at half past."""
    return receipt(raw.deployment, Search(raw.deployment, request, AT, **how), raw.world.now)


def test_a_request_that_is_billed_is_told_with_its_metrics_hour_state_and_customer(raw: Raw) -> None:
    """Before its hour is closed, and when it is."""
    raw.deliver(raw.world.line(request_id="JKJaXmPLvHcESHA=", response_length="512"), raw.world.line())
    found = told(raw, "JKJaXmPLvHcESHA=")
    assert (found.is_billed, found.why, found.customer, found.key) == (True, "", "acme", "key1")
    assert (found.hour, found.hour_state) == (str(HOUR), "open until 2026-11-22T06:10Z")
    assert [(one.metric, one.quantity, one.how, one.state) for one in found.metrics] == [
        ("bytes", 512, "added", "OPEN"),
        ("requests", 1, "added", "OPEN"),
    ]
    assert (found.place, found.at) == (ACCESS_LOG_GROUP, AT)
    raw.world.now = HOUR.end + timedelta(minutes=20)
    assert told(raw, "JKJaXmPLvHcESHA=").hour_state == "to be closed"
    close(raw)
    found = told(raw, "JKJaXmPLvHcESHA=")
    assert found.hour_state == "closed"
    assert [(one.metric, one.state, one.reason) for one in found.metrics] == [
        ("bytes", "PENDING", ""),
        ("requests", "PENDING", ""),
    ]


def test_a_request_whose_hour_is_posted_and_corrected_says_so(raw: Raw) -> None:
    """I5: what stands beside its count is told with its reason."""
    raw.world.customer("beta", "key2", stripe_customer="cus_beta")
    raw.deliver(raw.world.line(request_id="A=", key="key2"))
    close(raw)
    change = Change("1", "requests", 7, "a goodwill", WHO, int(raw.world.now.timestamp()))
    raw.deployment.changes.add("beta", HOUR, change)
    raw.world.post()
    (_, requests) = told(raw, "A=").metrics
    assert (requests.state, requests.corrections) == ("POSTED", ("+7: a goodwill",))


def test_a_request_whose_hour_is_held_is_not_billed_so_far(raw: Raw, command: Callable[..., Told]) -> None:
    """I9: as the ledger says why."""
    raw.deliver(raw.world.line(request_id="A="))
    close(raw)
    raw.world.post()
    found = told(raw, "A=")
    held = "is HELD: the customer has no Stripe customer"
    assert (found.is_billed, found.customer, found.why) == (False, "acme", f"bytes {held}; requests {held}")
    out = command("A=", "--at", "2026-11-22T05:30:00Z").out.splitlines()
    assert out[1] == f"not billed to acme (key key1): bytes {held}; requests {held}"


def test_a_peak_and_a_distinct_value_are_told_as_such(raw: Raw) -> None:
    """What they add depends on all others."""
    peak, users = Max(name="peak", of="response_length"), Unique(name="users", of="authorizer.user", opaque_id=True)
    raw.declared_ever_since(peak, users)
    raw.deliver(raw.world.line(request_id="A=", response_length="9", **{"authorizer.user": "ann"}))
    assert [(one.metric, one.quantity, one.how) for one in told(raw, "A=").metrics] == [
        ("peak", 9, "highest of the hour"),
        ("users", 1, "distinct in the month"),
    ]


def test_it_is_told_by_what_was_declared_in_its_hour(raw: Raw) -> None:
    """I5: another metric since changes nothing of it."""
    raw.deliver(raw.world.line(request_id="A="))
    close(raw)
    raw.declare(Sum(name="latency", of="response_latency"), at=NEXT.end)
    raw.world.now = NEXT.end + timedelta(hours=2)
    assert [one.metric for one in told(raw, "A=").metrics] == ["bytes", "requests"]


@pytest.mark.parametrize(
    ("changed", "whose", "why"),
    [
        ({"key": "-"}, "", "it names no key or caller: nobody is billed"),
        ({"status": "404"}, "acme", "no metric bills GET /items with status 404"),
        ({"key": "key9"}, "", "the key belonged to no customer in that hour"),
        ({"time": "1"}, "", "it cannot be read: time must not be over 60 days before 2026-11-22T05:30:00Z, got 1000"),
    ],
    ids=["no key", "a status", "nobody's key", "a time"],
)
def test_a_request_that_is_not_billed_is_told_with_the_reason(
    raw: Raw, changed: dict[str, str], whose: str, why: str
) -> None:
    """I9: there is one for each way out."""
    raw.log(raw.world.line(request_id="A=", **changed))
    found = told(raw, "A=")
    assert (found.is_billed, found.why, found.customer) == (False, why, whose)


def test_a_key_that_is_billed_to_nobody_is_told_with_the_reason(raw: Raw) -> None:
    """As somebody gave it."""
    Customers(raw.world.ledger, raw.world.counters).exclude(
        "key8", reason="health checks", since=None, now=raw.world.now
    )
    raw.log(raw.world.line(request_id="A=", key="key8"))
    assert told(raw, "A=").why == "nobody is billed for the key: health checks"


def test_a_key_that_changed_hands_is_told_for_whom_it_was_then(raw: Raw) -> None:
    """And not for whom it is today."""
    raw.log(raw.world.line(request_id="A="))
    raw.world.now = NEXT.start + timedelta(minutes=1)
    raw.world.customer("beta", "key1", since=NEXT.next())
    assert told(raw, "A=").customer == "acme"


def test_a_request_that_was_set_aside_is_told_with_its_batch_and_what_became_of_it(raw: Raw) -> None:
    """I1: it waits, or is counted since by a redrive."""
    early = str(int((AT + timedelta(minutes=20)).timestamp() * 1000))
    raw.deliver(raw.world.line(request_id="A=", time=early), raw.world.line())
    found = told(raw, "A=")
    (batch,) = raw.world.set_aside.batches()
    assert found.set_aside is not None
    assert (found.set_aside.batch, found.set_aside.state) == (batch, "set aside")
    assert found.why.startswith("it was set aside: time must not be over 5 minutes ahead of 2026-11-22T05:30:00Z")
    assert found.why.endswith(f"now it is set aside (metering set-aside show {batch})")
    assert not found.is_billed
    raw.world.now = AT + timedelta(minutes=25)
    redrive(raw.world.recorder(), {"batch": batch}, deadline=raw.world.now)
    found = told(raw, "A=")
    assert (found.is_billed, found.customer, found.set_aside and found.set_aside.state) == (True, "acme", "counted")
    assert [one.metric for one in found.metrics] == ["bytes", "requests"]


def test_a_request_that_one_metric_cannot_read_is_billed_for_the_others(raw: Raw) -> None:
    """I1: and it says for which it waits."""
    raw.deliver(raw.world.line(request_id="A=", response_length="much"), raw.world.line())
    found = told(raw, "A=")
    assert [one.metric for one in found.metrics] == ["requests"]
    assert found.is_billed
    assert found.why.startswith("it was set aside for bytes: response_length must be a whole number")


def test_an_id_that_begins_as_an_option_does_stands_behind_two_dashes(raw: Raw, command: Callable[..., Told]) -> None:
    """API Gateway's ids are written with - and _, too; the help says so to whom it befalls."""
    raw.deliver(raw.world.line(request_id="-wxVahddJP8wOEo="))
    at = f"{AT:%Y-%m-%dT%H:%M:%SZ}"
    assert command("-wxVahddJP8wOEo=", "--at", at).code == 2
    assert command("--at", at, "--", "-wxVahddJP8wOEo=").code == 0
    assert "behind --, if it" in " ".join(command("--help").out.replace("│", "").split())


def test_a_request_of_a_connected_stage_is_found_in_its_log_group(raw: Raw) -> None:
    """In the stage's own format."""
    raw.world.customer("beta", "orders:ann")
    connect(raw, ORDERS)
    raw.log(theirs(1), theirs(2), group=THEIR_LOG)
    found = told(raw, "call-2=")
    assert (found.place, found.connection, found.customer) == (THEIR_LOG, "orders", "beta")
    assert [one.metric for one in found.metrics] == ["bytes", "requests"]


def test_a_request_of_a_stage_that_was_not_connected_then_is_told_as_nobodys(raw: Raw) -> None:
    """Its line is found, since the stage was connected soon after."""
    connect(raw, msgspec.structs.replace(ORDERS, since=int((AT + timedelta(minutes=10)).timestamp() * 1000)))
    raw.log(theirs(1), group=THEIR_LOG)
    raw.world.now = AT + timedelta(minutes=20)
    found = told(raw, "call-1=")
    assert (found.is_billed, found.place) == (False, THEIR_LOG)
    assert found.why == "its stage was not connected when it was written: nobody is billed"


def test_a_line_that_is_no_longer_kept_is_told_as_such(raw: Raw) -> None:
    """It may have been there."""
    boto3.client("logs").put_retention_policy(logGroupName=ACCESS_LOG_GROUP, retentionInDays=3)
    raw.world.now = AT + timedelta(days=10)
    assert told(raw, "A=").notes[0].startswith(f"the log group {ACCESS_LOG_GROUP} keeps lines for 3 days")


def test_a_moment_that_has_not_come_yet_is_refused(raw: Raw) -> None:
    """It may be of another time zone."""
    raw.world.now = AT - timedelta(hours=1)
    with pytest.raises(OperatorError, match="has not come yet"):
        told(raw, "A=")


def test_a_request_is_found_in_the_archives_objects(raw: Raw) -> None:
    """Firehose writes them some minutes later, under the hour in which their first line came."""
    raw.archive(raw.world.line(), hour=HOUR, name="before")
    raw.world.now = AT + timedelta(minutes=16)
    raw.archive(raw.world.line(), raw.world.line(request_id="A="), hour=HOUR)
    found = told(raw, "A=")
    assert found.place == "s3://bucket/access-log/2026/11/22/05/0.gz"
    assert found.is_billed


def test_what_another_caller_wrote_into_its_line_is_no_receipt(raw: Raw) -> None:
    """I7: a line that only mentions the id is another request's."""
    raw.log(raw.world.line(request_id="B=", resource="/A="), raw.world.line(request_id="A=", status="404"))
    assert told(raw, "A=").why == "no metric bills GET /items with status 404"
    assert told(raw, "C=").place == ""


def test_where_no_line_is_found_it_is_told_where_was_looked(raw: Raw) -> None:
    """And which requests API Gateway writes no line of."""
    connect(raw, ORDERS)
    raw.archive(raw.world.line(), hour=HOUR)
    found = told(raw, "A=")
    assert (found.is_billed, found.place, found.why) == (False, "", "no line of it was found")
    first, end = AT - timedelta(minutes=15), AT + timedelta(minutes=15)
    assert [(one.place, one.first, one.read, one.left) for one in found.searched] == [
        (f"the log group {ACCESS_LOG_GROUP}", first, "3 calls of CloudWatch Logs", ""),
        (f"the log group {THEIR_LOG}", first, "3 calls of CloudWatch Logs", ""),
        ("s3://bucket/access-log/", first, f"1 objects of {len(next(iter(_objects().values())))} bytes", ""),
    ]
    assert found.searched[0].end == end
    assert "413" in found.notes[0]


def _objects() -> dict[str, bytes]:
    s3: Any = boto3.client("s3")
    listed = s3.list_objects_v2(Bucket="bucket")["Contents"]
    return {one["Key"]: s3.get_object(Bucket="bucket", Key=one["Key"])["Body"].read() for one in listed}


def test_a_search_ends_at_its_bounds_and_says_so(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: calls of CloudWatch Logs, and bytes of the archive."""
    raw.archive(raw.world.line(), hour=HOUR)
    monkeypatch.setattr(search_of, "MOST_BYTES", 10)
    found = told(raw, "A=", calls=2)
    assert [one.left for one in found.searched] == [
        "the calls of this search were used up: give --at more exactly, or more --calls",
        "1 objects, or more: give a shorter --within",
    ]


def test_a_log_group_that_is_gone_stops_no_search(raw: Raw) -> None:
    """Somebody else deleted it."""
    connect(raw, ORDERS)
    boto3.client("logs").delete_log_group(logGroupName=THEIR_LOG)
    assert told(raw, "A=").place == ""


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_it_in_sentences(raw: Raw, command: Callable[..., Told]) -> None:
    """Exit code 0, also for a request that is not billed."""
    raw.log(raw.world.line(request_id="A="), raw.world.line(request_id="B=", key="-"))
    result = command("A=", "--at", "2026-11-22T06:30:10+01:00")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        f"GET /items, status 200: in {ACCESS_LOG_GROUP}, at 2026-11-22T05:30:00Z",
        "billed to acme (key key1)",
        "hour 2026-11-22T05: open until 2026-11-22T06:10Z",
        "    bytes 10, added, OPEN",
        "    requests 1, added, OPEN",
        "whether every line of the hour was counted: metering recount acme --hour 2026-11-22T05",
    ]
    result = command("B=", "--at", "2026-11-22T05:30:10Z", "--within", "1h")
    assert result.code == 0
    assert "not billed: it names no key or caller: nobody is billed" in result.out.splitlines()


def test_the_command_prints_one_document(raw: Raw, command: Callable[..., Told]) -> None:
    """With every field, whatever was found."""
    raw.log(raw.world.line(request_id="A="))
    shown = json.loads(command("A=", "--at", "2026-11-22T05:30:00Z", "--json").out)
    missing = command("Z=", "--at", "2026-11-22T05:30:00Z", "--json")
    assert missing.code == 1
    assert json.loads(missing.out).keys() == shown.keys()
    assert json.loads(missing.out)["found"] is False
    assert shown == {
        "request": "A=",
        "found": True,
        "billed": True,
        "why": None,
        "place": ACCESS_LOG_GROUP,
        "connection": None,
        "at": "2026-11-22T05:30:00Z",
        "call": "GET /items, status 200",
        "hour": "2026-11-22T05",
        "hour_state": "open until 2026-11-22T06:10Z",
        "key": "key1",
        "customer": "acme",
        "metrics": [
            {"metric": name, "quantity": quantity, "how": "added", "state": "OPEN", "reason": "", "corrections": []}
            for name, quantity in (("bytes", 10), ("requests", 1))
        ],
        "set_aside": None,
        "searched": [],
        "notes": [],
    }


@pytest.mark.parametrize("at", ["yesterday", "2026-11-22", "2026-11-22T05:30:00", "1795324740"])
def test_a_moment_without_its_zone_is_wrong_use(command: Callable[..., Told], at: str) -> None:
    """It says what was wanted."""
    result = command("A=", "--at", at)
    assert (result.code, result.out) == (2, "")
    assert "2026-11-22T05:17:30Z" in result.err


def test_what_is_no_id_is_told(command: Callable[..., Told]) -> None:
    """It would be a pattern of its own."""
    result = command('"A" -B', "--at", "2026-11-22T05:30:00Z")
    assert result.code == 1
    assert "x-amz-apigw-id" in result.err
