"""What others reported of their own loggers, gateways, meters and bills, played here: each input with its right value.

``tests/events/reported.jsonl`` has one on each line, with the public report as its ``source``; what has none is another
of the same kind. A line of the access log is written anew with the present format, and every line is read by both ways:
the one that counts, and the recount's.
"""

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import boto3
import pytest

import record_usage
from infra.operate.customers import Customers, Entry
from infra.operate.deployment import OperatorError
from infra.operate.recount.raw_log import Archive as RawArchive
from infra.operate.recount.raw_log import RawLog
from metering.counting import payloads
from metering.counting.archive import Archive
from metering.counting.payloads import ArchiveObject, PayloadError
from metering.model.amounts import Amounts
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import USAGE_LINES, Count, Sum, declared, decode
from metering.model.periods import Hour
from metering.stores.objects import Bucket
from tests.doubles.access_log import NONCE
from tests.doubles.lambdas import context as lambda_context
from tests.doubles.template import properties
from tests.integration.billing import Billing, due
from tests.integration.operator_commands import Operator
from tests.integration.portal import Portal, opened
from tests.integration.told import told
from tests.integration.world import ACCESS_LOG_GROUP, HOUR, World, envelope, moment

REPORTED = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "events" / "reported.jsonl").read_text(encoding="utf-8").splitlines()
]
JOBS_LOG = "jobs"
OBJECT = "access-log/2026/11/22/05/one"
ROADS = ["subscription", "firehose"]


def reported(kind: str) -> pytest.MarkDecorator:
    """Play a test with every report of a kind."""
    found = [pytest.param(one["input"], one["right"], id=one["what"]) for one in REPORTED if one["type"] == kind]
    assert found
    return pytest.mark.parametrize(("given", "right"), found)


@dataclass
class Logs:
    """CloudWatch Logs, as far as a recount reads what log groups got in the world's hour."""

    lines: Mapping[str, list[str]]

    def filter_log_events(self, **asked: Any) -> dict[str, Any]:
        """Return a group's events of the time that is asked for."""
        at = int(moment(HOUR))
        lines = self.lines.get(asked["logGroupName"], []) if asked["startTime"] <= at <= asked["endTime"] else []
        return {"events": [{"eventId": f"{number:056d}", "message": line} for number, line in enumerate(lines)]}


@dataclass
class Read:
    """What became of lines, as one of the ways read them: by source and metric, and how many it could not read."""

    amounts: dict[str, dict[str, int]]
    unread: int


def delivered(world: World, *lines: str, group: str = ACCESS_LOG_GROUP) -> Read:
    """Let CloudWatch Logs deliver lines to the way that counts."""
    batch = payloads.subscription(envelope(*lines, log_group=group)).batch(ACCESS_LOG_GROUP)
    set_aside = world.recorder().record(batch).set_aside
    return Read(counted(world), set_aside)


def counted(world: World) -> dict[str, dict[str, int]]:
    """Return what the hour's counters hold, without what is nothing."""
    return {source: amounts for source, amounts in world.counted().items() if any(amounts.values())}


def archived(world: World, body: bytes) -> Read:
    """Let S3 tell the way that counts of an object."""
    s3: Any = boto3.client("s3")
    etag = s3.put_object(Bucket="bucket", Key=OBJECT, Body=body)["ETag"].strip('"')
    bucket = Bucket(cast("Any", s3), "bucket", "123456789012")
    archive = Archive(bucket, world.recorder(), world.clock, world.now + timedelta(minutes=5))
    set_aside = archive.record(ArchiveObject("bucket", OBJECT, etag)).set_aside
    return Read(counted(world), set_aside)


def recounted(world: World, lines: Mapping[str, list[str]] | None = None) -> Read:
    """Let the recount read log groups' lines and what is in the archive."""
    archive = RawArchive(boto3.client("s3"), Logs(lines or {}), "bucket", ACCESS_LOG_GROUP, [JOBS_LOG])
    raw = RawLog(archive, world.metrics, (NONCE,), access_ahead=0, usage_ahead=0)
    ((_, tally),) = raw.tallies(HOUR, HOUR.next(), world.now)
    amounts: dict[str, dict[str, int]] = {}
    for (source, meter), amount in tally.ready.amounts.items():
        if amount:
            amounts.setdefault(source, {})[meter] = amount
    for (source, metric), values in tally.ready.values.items():
        amounts.setdefault(source, {})[metric] = len(values)
    return Read(amounts, raw.unreadable)


def waiting(world: World) -> list[tuple[str, tuple[str, ...]]]:
    """Return why lines were set aside, and for which metrics alone."""
    kept = [world.set_aside.of(batch) for batch in world.set_aside.batches()]
    return [(line.reason, line.metrics) for batch in kept for _, line in batch.lines]


def expect(world: World, read: Read, right: Mapping[str, Any], *, subject: str) -> None:
    """Hold what became of a line against what is right, and what was set aside of it against its reason."""
    wanted = {right.get("subject", subject): right["counted"]} if right["counted"] else {}
    assert read == Read(wanted, int("set_aside" in right))
    reasons = waiting(world)
    assert [metrics for _, metrics in reasons] == [tuple(right.get("metrics", ()))] * read.unread
    assert [reason for reason, _ in reasons if right["set_aside"] not in reason or "Decimal(" in reason] == []


@reported("usage_line")
def test_a_usage_line_counts_as_its_logger_writes_it(
    world: World, given: Mapping[str, str], right: Mapping[str, Any]
) -> None:
    """I1, I5: in both ways; what cannot be read is set aside with a reason, and what is nobody's is let lie."""
    world.metrics = (Sum(name="tokens", of=USAGE_LINES),)
    read = delivered(world, given["line"], group=JOBS_LOG)
    expect(world, read, right, subject="@acme")
    assert recounted(world, {JOBS_LOG: [given["line"]]}) == read


@pytest.mark.parametrize("road", ROADS)
@reported("access_line")
def test_a_line_of_the_access_log_counts_as_far_as_it_can_be_read(
    world: World, given: Mapping[str, Any], right: Mapping[str, Any], road: str
) -> None:
    """I1, I5: on both roads, and in both ways; a value that one metric cannot read costs that metric alone."""
    world.metrics = decode(json.dumps(given["metrics"]))
    log = AccessLog(Api(given.get("api", "rest")), given.get("caller"))
    assert json.loads(log.format(NONCE, declared(world.metrics)))["metering"].endswith(NONCE)
    line = world.line(**given["changes"])
    if road == "subscription":
        read, again = delivered(world, line), recounted(world, {ACCESS_LOG_GROUP: [line]})
    else:
        read, again = archived(world, gzip.compress(line.encode() + b"\n")), recounted(world)
    expect(world, read, right, subject="key1")
    assert again == read


@reported("object")
def test_an_object_is_read_however_its_records_were_joined(
    world: World, given: Mapping[str, Any], right: Mapping[str, Any]
) -> None:
    """I1, I5: in both ways; no record is lost with what stands around it."""
    world.metrics = (Count(name="requests"),)
    records = given.get("between", "\n").join(world.line() for _ in range(3))
    body = f"{given.get('before', '')}{records}".encode()
    if "zeros" in given:
        body = gzip.compress(body) + bytes(given["zeros"])
    read = archived(world, body)
    assert read == Read({"key1": {"requests": right["requests"]}}, 0)
    assert recounted(world) == read


@reported("event")
def test_an_event_of_another_service_fails_with_a_sentence(given: Mapping[str, Any], right: Mapping[str, Any]) -> None:
    """I1: it is delivered again, or found among the failed ones, and never taken for an empty batch."""
    assert right == {"error": PayloadError.__name__}
    with pytest.raises(PayloadError, match=r"wanted messages of SQS|wanted \{|awslogs.data must "):
        record_usage.handler(given["event"], lambda_context())


@reported("name")
def test_a_customers_name_is_one_that_people_have(
    world: World, given: Mapping[str, str], right: Mapping[str, bool]
) -> None:
    """Words and signs that cannot be written without joiners; nothing that changes what stands around it."""
    customers, entry = Customers(world.ledger, world.counters), Entry("acme", given["name"])
    if not right["accepted"]:
        with pytest.raises(OperatorError, match="a name is 1 to 200 printable characters"):
            customers.add(entry, now=world.now)
        return
    customers.add(entry, now=world.now)
    assert world.ledger.holders.customers(["acme"])["acme"].name == given["name"]


@pytest.fixture
def portal(world: World, template: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Portal]:
    """The customers' API."""
    world.customer("acme", "key1")
    with opened(world, template, monkeypatch, tmp_path, metrics=world.metrics) as made:
        yield made


@reported("negotiation")
def test_an_answer_is_as_its_caller_likes_it(
    portal: Portal, given: Mapping[str, str], right: Mapping[str, str]
) -> None:
    """By weight, whatever the case of the letters (RFC 9110, 12.5)."""
    path, shown = {
        "accept": ("/v1/usage", "Content-Type"),
        "accept-encoding": ("/v1/openapi.json", "Content-Encoding"),
    }[given["header"]]
    answer = portal.call("GET", path, headers={given["header"]: given["value"]})
    assert (answer.status, answer.headers.get(shown, "").partition(";")[0]) == (200, right["got"])


@reported("http_log_group")
def test_an_http_apis_log_group_is_one_that_log_delivery_may_write_to(
    context: Mapping[str, Any], tmp_path: Path, given: Mapping[str, str], right: Mapping[str, str]
) -> None:
    """Below that prefix no deployment fails on the account's policy for logs, which has 5,120 characters."""
    import aws_cdk as cdk  # noqa: PLC0415 - starts Node, which the other tests need not wait for

    from infra.stack.metering import MeteringStack  # noqa: PLC0415 - imports aws_cdk

    app = cdk.App(context=dict(context), outdir=str(tmp_path))
    log = AccessLog(Api.HTTP, "authorizer.claims.sub")
    MeteringStack(app, given["stack"], metrics=[Count(name="requests")], access_log=log)
    written = app.synth().get_stack_by_name(given["stack"]).template
    name = properties(written, "AccessLog")["LogGroupName"]
    assert name["Fn::Join"][1][0].startswith(right["name_begins"])


@reported("format")
def test_a_format_that_api_gateway_would_refuse_is_refused_before(
    given: Mapping[str, Any], right: Mapping[str, bool]
) -> None:
    """With a sentence, where the metrics are declared."""
    metrics = [Sum(name=f"m{n}", of=given["variable"].format(n)) for n in range(given["number"])]
    log = AccessLog(Api(given["api"]), "authorizer.claims.sub")
    if right["refused"]:
        with pytest.raises(ValueError, match="an access-log format has at most 3072 bytes, got"):
            log.format(NONCE, declared(metrics))
    else:
        assert len(log.format(NONCE, declared(metrics)).encode()) <= 3072


# --- usage that nobody would pay --------------------------------------------------------------------------------------


@pytest.fixture
def stripe_time() -> Any:
    """The world's hour begins, here and at Stripe."""
    return HOUR.start.timestamp


@pytest.fixture
def operator(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    """Whoever runs the doctor."""
    return Operator(world, monkeypatch, capsys)


@reported("cancelled")
def test_what_was_used_until_a_subscription_ended_is_invoiced_or_told(
    world: World, operator: Operator, given: Mapping[str, Any], right: Mapping[str, int]
) -> None:
    """I9: an invoice holds it, or the doctor names the customer and how much it is; never both, never neither."""
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    subscription = billing.subscribe()
    ends = HOUR.start + timedelta(minutes=given["cancelled_at_minute"])
    for after, number in given["used"]:
        billing.use(number, Hour(HOUR.number + after))
    for hour in (Hour(HOUR.number + after) for after in range(12)):
        if world.now < ends <= due(hour):
            billing.at(ends)
            cancel: Any = {"invoice_now": given["invoice_now"]}
            billing.client().v1.subscriptions.cancel(subscription, cancel)
        billing.at(due(hour))
        billing.settle()
    assert sum(billing.invoiced()) + told(operator).get("requests", 0) == right["invoiced_or_told"]


@reported("posted_for_nobody")
def test_what_is_posted_for_nobody_is_told(
    world: World, operator: Operator, given: Mapping[str, str], right: Mapping[str, bool]
) -> None:
    """I9: by customer and metric, as long as it is so."""
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="" if given["how"] == "no Stripe customer" else "cus_acme")
    metric = "bytes" if given["how"] == "another metric" else "requests"
    if given["how"] in ("another metric", "ended"):
        subscription = billing.subscribe()
    if given["how"] == "ended":
        billing.client().v1.subscriptions.cancel(subscription)
        billing.jump(HOUR.start + timedelta(days=3))
    hour = Hour.containing(world.now)
    world.counters.count(hour, "key1", Amounts({metric: 7}), b"\0" * 12)
    billing.at(due(hour))
    billing.settle()
    assert right == {"told": True}
    assert told(operator) == {metric: 7}
