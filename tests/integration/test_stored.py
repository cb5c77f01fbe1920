"""What released versions stored is read, counted, closed, posted and mended by the present code as by themselves."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import boto3
import pytest

from infra.local.stripe.server import LocalStripe
from infra.operate.access_notes import AccessNotes
from infra.operate.customers import Customers, Entry
from infra.outputs import Outputs
from metering.billing.rejections import tell_rejected
from metering.counting.redriving import redrive
from metering.model.batches import Source
from metering.model.periods import Hour
from metering.portal.tokens import Use, key_id, verify
from metering.stores.counters import Counters
from metering.stores.holders import Holder
from metering.stores.ledger import Ledger
from metering.stores.limits import LimitItems
from metering.stores.set_aside import SetAside
from tests.conftest import needs_code_of
from tests.doubles.aws import Account, Bus
from tests.doubles.clock import Clock
from tests.doubles.released import STORED, remake
from tests.integration.billing import due
from tests.integration.lambdas import told_to_eventbridge
from tests.integration.operator_commands import Operator
from tests.integration.raw import JOBS_LOG, Raw
from tests.integration.stored import VERSIONS, Left, left_by, sums
from tests.integration.world import ACCESS_LOG_GROUP, HOUR, World

HASHED = "auth0|5f7c8ec7c33c6c004bbafe82"
GROUPS = {Source.ACCESS_LOG: ACCESS_LOG_GROUP, Source.USAGE_LINES: JOBS_LOG}


@pytest.fixture(autouse=True)
def few_partitions() -> None:
    """As many as deployments have: what is stored lies in them."""


@pytest.fixture
def stripe_time() -> Callable[[], float]:
    """The world's hour begins."""
    return HOUR.start.timestamp


@pytest.fixture
def operator(left: Left, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    """Whoever gives the commands of now."""
    return Operator(left.world, monkeypatch, capsys)


@pytest.fixture(params=VERSIONS)
def left(request: pytest.FixtureRequest, dynamodb: Any, s3: Any, stripe: LocalStripe) -> Left:
    """What a version left."""
    counters, ledger = Counters(dynamodb, "counters"), Ledger(dynamodb, "ledger")
    return left_by(request.param, World(stripe, counters, ledger, SetAside(s3, "bucket"), Clock(HOUR.start)))


def test_usage_is_shown_as_the_version_showed_it(left: Left) -> None:
    """I5: each amount, whose it is, and where it stands."""
    assert left.usage() == left.kept["usage"]


def test_whatever_was_delivered_counts_nothing_when_it_is_delivered_again(left: Left) -> None:
    """I2: batches have the tokens, and values the claims, that the version gave them."""
    world = left.world
    before = left.usage()
    for _, batch in left.deliveries():
        world.recorder().record(batch)
    assert left.usage() == before


def test_what_was_under_way_ends_and_is_billed_once(left: Left) -> None:
    """I1, I2, I4: late and open hours, postings without an answer, an adjustment, a carry, and an invoice of before."""
    left.at(left.world.now + timedelta(hours=2))
    left.settle()
    assert sums(left.usage()) == sums(left.kept["usage"]) | {("acme", "requests"): 14 - 1}  # the adjustment
    assert {line["state"] for line in left.usage() if line["customer"] in ("acme", HASHED)} == {"POSTED"}
    assert at_stripe(left) == {
        "cus_acme": {"bytes": 190, "jobs": 1, "requests": 13, "seats": 11, "tokens": 42, "users": 5},
        "cus_hashed": {"bytes": 30, "requests": 3, "users": 1},
    }
    assert [(change.amount, change.carry) for change in left.changes()] == [(-1, False), (2, True)]
    assert (left.invoiced(), left.still_open()) == ([5], 6)


def test_a_late_record_is_carried_from_an_invoice_that_the_version_had_noted(left: Left) -> None:
    """I4: once, and no more than the invoice lacks."""
    left.at(left.world.now + timedelta(hours=2))
    left.settle()
    left.world.record(left.world.line(key="key1", **{"authorizer.user": "ann"}))
    left.settle()
    assert [change.amount for change in left.changes() if change.carry] == [2, 1]
    left.at(due(Hour.containing(left.world.now)))
    left.settle()
    assert sum(left.invoiced()) + left.still_open() == 12


def test_what_was_rejected_and_held_is_posted_once_its_cause_is_mended(left: Left, operator: Operator) -> None:
    """I1, I9: of a Stripe customer that was missing, of a customer without one, and of a key of nobody's."""
    for name in ("cus_gone", "cus_globex"):
        left.world.stripe.add_customer(name)
    assert [row["customer"] for row in operator.run("rejected", "list", "--json").document] == ["initech"] * 3
    operator.run("rejected", "retry", "--all")
    Customers(left.world.ledger, left.world.counters).add(
        Entry("globex", "Globex", "cus_globex", ("key5",)), now=left.world.now
    )
    left.at(left.world.now + timedelta(hours=2))
    left.settle()
    held = at_stripe(left)
    assert held["cus_gone"] == {"bytes": 10, "requests": 1, "users": 1}
    assert held["cus_globex"] == {"bytes": 20 + 10, "requests": 2 + 1, "users": 1}


def test_what_was_set_aside_is_redriven_and_what_was_dismissed_is_not(left: Left) -> None:
    """I1, I2: the line of eve's and nothing else: one is no line, one may have been counted, one nobody pays for."""
    world = left.world
    answers = [
        redrive(world.recorder(), {"batch": batch}, deadline=world.now + timedelta(minutes=1))
        for batch in sorted({name.rpartition("/")[2].partition(".")[0] for name in left.kept["bucket"]})
    ]
    assert sorted((answer["counted"], answer["left"]) for answer in answers) == [(0, 0), (0, 1), (1, 2)]
    assert world.counted(HOUR.next()) == {
        "key1": {"requests": 1, "bytes": 10},
        "key2": {"requests": 1, "bytes": 10, "users": 1},
    }
    assert world.counted()["key1"] == {"requests": 5, "bytes": 120, "users": 2, "seats": 7}


def test_the_raw_log_is_recounted_to_what_the_version_counted(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    """I5: but for what waits set aside, or was dismissed; the metrics are noted as the first tick of now notes them."""
    moments = [at for at, _ in left.deliveries()]
    monkeypatch.setattr("moto.logs.models.utcnow", lambda: moments[0].replace(tzinfo=None))
    logs, raw = boto3.client("logs"), Raw(left.world)
    for group in GROUPS.values():
        logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName="stream")
    monkeypatch.setattr("moto.logs.models.utcnow", lambda: left.world.now.replace(tzinfo=None))
    for at, batch in left.deliveries():
        raw.log(*batch.events, group=GROUPS[batch.source], hour=Hour.containing(at))
    raw.noted(left.world.now)
    lines = raw.recount(None, HOUR, Hour.containing(left.world.now))
    assert len(lines) == 27
    assert {(line.difference, line.refused) for line in lines} == {(0, "")}
    assert {(str(line.subject), line.metric): line.waiting for line in lines if line.waiting} == {
        ("customer#acme", "requests"): 2,
        ("customer#acme", "bytes"): 20,
    }


def test_keys_that_were_being_replaced_or_were_suspended_are_known(left: Left) -> None:
    """A command of now ends what one of then began."""
    world = left.world
    [rotation] = AccessNotes(world.ledger.client, world.ledger.table).rotations("acme")
    assert (rotation.old, rotation.new, rotation.plans) == ("key1", "key8", ("plan1",))
    former = LimitItems(world.ledger.client, world.ledger.table).former(HASHED)
    assert {key: home.plans for key, home in former.items()} == {"key4": ("plan1", "plan2")}
    assert world.ledger.holders.of_keys(["key7"])["key7"].at(HOUR) == Holder(Hour(0), "", "our own tests")
    assert [holder.customer for holder in world.ledger.holders.of_keys(["key2"])["key2"].holders] == ["acme", "globex"]


def test_a_session_goes_on(left: Left) -> None:
    """Nobody has to open a new link because the deployment was updated."""
    key, token = left.told["token"]["key"], left.told["token"]["session"]
    keys = {key_id(key): key}
    bearer = verify(token, keys.get, deployment="Metering", now=left.world.now, use=Use.SESSION)
    assert bearer.customer == "acme"


def test_the_outputs_are_read(left: Left) -> None:
    """A command works on a stack that is not updated yet, but for what that one has not."""
    told = left.told["outputs"]
    read = Outputs.read(told)
    assert (read.is_metering, read.ledger_table) == (True, "ledger")
    assert sorted(vars(read).values()) == sorted(told.values())  # each of them is still one


def test_events_say_what_they_said(left: Left, aws: Account) -> None:
    """Whoever acts on a rejected total by program goes on; there may be more in one."""
    aws.services["events"] = Bus()
    calls = told_to_eventbridge()
    then = left.told["events"]
    said = [json.loads(event["Detail"]) for event in then]
    tell_rejected({detail["identifier"]: detail["reason"] for detail in said}, left.world.ledger.holders)
    [details] = calls
    assert all(now.items() >= detail.items() for now, detail in zip(details, said, strict=True))
    assert {(event["Source"], event["DetailType"]) for event in then} == {("metering", "Usage rejected")}


def at_stripe(left: Left) -> dict[str, dict[str, int]]:
    """Return what Stripe holds of each Stripe customer and metric."""
    held: dict[str, dict[str, int]] = {}
    for (stripe_customer, meter, _), quantity in left.world.stripe.hour_totals().items():
        sums_of_it = held.setdefault(stripe_customer, {})
        metric = meter.removeprefix("Metering_")
        sums_of_it[metric] = sums_of_it.get(metric, 0) + int(quantity)
    return held


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_kept_is_what_the_version_writes(version: str) -> None:
    """Nobody has mended it by hand: a version that is run again writes the same."""
    needs_code_of(version)
    kept = {path.name: path.read_text(encoding="utf-8") for path in (STORED / version).iterdir()}
    assert remake(version) == kept
