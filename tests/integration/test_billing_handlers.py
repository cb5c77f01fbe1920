"""The functions that close, post and reconcile, as AWS calls them: answers, signals, logs, and under their roles."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import boto3
import msgspec
import pytest
import stripe as stripe_sdk
from aws_lambda_powertools import Metrics
from botocore.exceptions import ClientError, EndpointConnectionError

import check_completeness
import close_periods
import record_usage
from infra.local.stripe.faults import Fault
from infra.local.stripe.server import LocalStripe
from infra.operate.customers import Customers, Entry
from metering.billing import posting
from metering.billing.posting import Poster
from metering.billing.rejections import tell_rejected
from metering.layout import SHARDS
from metering.model.amounts import Amounts
from metering.model.identifiers import epoch_of
from metering.model.log_format import Api
from metering.model.metrics import Count, encode
from metering.model.periods import Hour, due_before
from metering.model.read_allotment import ReadAllotment
from metering.model.stages import Stage
from metering.model.stages import encode as encode_stages
from metering.model.subjects import customer
from metering.model.usage_row import Change
from metering.settings import CheckCompletenessSettings, RecordUsageSettings, SettingsError
from metering.signals import NAMESPACE
from metering.stores import aws as clients
from metering.stores.declarations import Declarations
from metering.stores.limits import LimitItems
from metering.stores.read_budget import ReadBudget
from metering.stores.rows import shard_of
from metering.stores.switch import Switch
from metering.stores.table import Table
from metering.stripe import client as stripe_client
from tests.doubles.access_log import NONCE
from tests.doubles.lambdas import context
from tests.doubles.template import of_type
from tests.integration.billing import FINALISED, Billing, due
from tests.integration.lambdas import POST_USAGE, SECRET, Clock, Functions, begin, forget, said, told_to_eventbridge
from tests.integration.world import ACCESS_LOG_GROUP, HOUR, METRICS, World, envelope, moment

KEY, LIVE_KEY = "sk_test_local", "sk_live_local"
EVERY_SHARD = list(range(SHARDS))
STAGE = Stage(Api.REST, "SampleApi", "v1")
NO_KEY = "the secret holds no Stripe key: run 'metering stripe connect'"
POST = "POST /v1/billing/meter_events"


@pytest.fixture
def stripe(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStripe]:
    """The local Stripe, which has the functions' clock."""
    monkeypatch.setattr(Clock, "at", HOUR.start, raising=False)
    with LocalStripe(api_keys=[KEY, LIVE_KEY], now=_now) as server:
        yield server


def _now() -> float:
    return Clock.at.timestamp()


@pytest.fixture
def functions(world: World, template: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Functions]:
    """The functions' processes, which have just begun."""
    with begin(world, template, monkeypatch) as begun:
        yield begun


@pytest.fixture
def started(functions: Functions) -> list[tuple[str, str, list[int]]]:
    """The workers that were started: the function, how it was invoked, and its shards."""
    del functions
    found: list[tuple[str, str, list[int]]] = []

    def take(_: str, sent: Mapping[str, Any]) -> dict[str, Any]:
        asked = json.loads(sent["Payload"])
        found.append((sent["FunctionName"], sent["InvocationType"], asked.get("shards", asked)))
        return {"StatusCode": 202}

    lambda_: Any = clients.functions()
    lambda_.before.append(take)
    return found


@pytest.fixture
def secrets(aws: None) -> Any:
    """Secrets Manager, with the deployment's secret, which holds no value yet."""
    del aws
    found: Any = boto3.client("secretsmanager")
    found.create_secret(Name=SECRET)
    return found


@pytest.fixture
def connected(secrets: Any) -> None:
    """A key that Stripe takes, in the secret."""
    secrets.put_secret_value(SecretId=SECRET, SecretString=json.dumps({"api_key": KEY}))


@pytest.fixture
def used(world: World, started: list[Any]) -> World:
    """One customer's key, another one's without a Stripe customer, and a key of nobody: one request each."""
    del started
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.customer("globex", "key2")
    world.record(world.line(), world.line(key="key2"), world.line(key="key3"))
    Clock.at = HOUR.end + timedelta(minutes=10)
    return world


LONG: Final = "m" * 95
"""A metric whose meter's name, and whose identifiers, are longer than Stripe takes."""


def rejectable(world: World, *names: str) -> None:
    """Make customers who used something that Stripe cannot take."""
    for n, name in enumerate(names):
        world.customer(name, f"big{n}", stripe_customer=f"cus_{name}")
        world.counters.count(HOUR, f"big{n}", Amounts({LONG: 1}), b"123456789012")
    Clock.at = HOUR.end + timedelta(minutes=10)


def turn(world: World, *, on: bool) -> None:
    """Turn posting on or off."""
    world.switch.turn(msgspec.structs.replace(world.switch.read(), on=on))


# --- close_periods ---------------------------------------------------------------------------------------------------


def test_a_tick_closes_and_starts_a_worker(
    functions: Functions, used: World, started: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """I4: it posts nothing itself; the hour is settled when the worker has posted."""
    assert functions.close() == {
        "written": ["2026-11-22T05"],
        "closed": [],
        "closed_again": 0,
        "behind": 1,
        "unmapped": 1,
        "posting": True,
        "workers": 1,
    }
    assert started == [(POST_USAGE, "Event", EVERY_SHARD)]
    assert used.in_ledger("customer#acme")["requests"] == (1, "PENDING")
    assert used.stripe.calls[POST] == 0
    assert said(capsys) == {"HoursBehind": (1, "Count"), "UsageUnmapped": (1, "Count")}


@pytest.mark.usefixtures("connected")
def test_an_hour_is_closed_at_the_first_tick_after_its_worker(
    functions: Functions, used: World, started: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """I4: and no worker is started for nothing."""
    functions.close()
    assert functions.post()["posted"] == 2
    said(capsys)
    Clock.at += timedelta(minutes=5)
    report = functions.close()
    assert (report["closed"], report["behind"], report["workers"]) == (["2026-11-22T05"], 0, 0)
    assert len(started) == 1
    assert used.at_stripe("cus_acme") == 1
    assert said(capsys) == {}  # a signal costs money while it is sent, so none is sent that says nothing


@pytest.mark.parametrize(
    ("rows", "workers"), [(0, 1), (1, 1), (10_000, 1), (10_001, 2), (20_001, 4), (80_001, 16), (10**9, 16)]
)
def test_a_backlog_gets_the_workers_that_it_needs(rows: int, workers: int) -> None:
    """As many as the shards can be dealt out to evenly, and never more than shards."""
    assert close_periods.workers_for(rows) == workers


def test_several_workers_share_the_shards(
    functions: Functions, world: World, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: each shard has one worker, so that no customer is posted by two and none by nobody."""
    monkeypatch.setattr(close_periods, "ROWS_PER_WORKER", 2)
    for n in range(7):
        world.customer(f"customer{n}", f"key{n}", stripe_customer=f"cus_{n}")
    world.record(*(world.line(key=f"key{n}") for n in range(7)))
    Clock.at = HOUR.end + timedelta(minutes=10)
    functions.close()
    Clock.at += timedelta(minutes=5)
    started.clear()
    assert functions.close()["workers"] == 4
    assert [len(shards) for _, _, shards in started] == [4, 4, 4, 4]
    assert sorted(shard for _, _, shards in started for shard in shards) == EVERY_SHARD


def test_no_worker_is_started_for_nothing(functions: Functions, world: World, started: list[Any]) -> None:
    """An idle deployment costs next to nothing."""
    Clock.at = HOUR.end + timedelta(minutes=10)
    report = functions.close()
    assert (report["closed"], report["workers"], started) == (["2026-11-22T05"], 0, [])
    assert world.ledger.progress.cursor() == HOUR.next()


def test_what_is_declared_is_noted_by_the_first_run_that_knows_it(
    functions: Functions, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I5: a recount counts each hour by what was in force in it. Going back is a change like any other."""
    declarations = Declarations(world.ledger.client, "ledger")
    wider = [Count(name="requests", statuses=("2xx", "4xx"))]
    for n, metrics in enumerate((METRICS, METRICS, wider, METRICS)):
        monkeypatch.setenv("METRICS", encode(metrics))
        monkeypatch.setattr(Clock, "at", HOUR.start + timedelta(hours=n))
        forget()  # a deployment begins new processes
        functions.close()
        functions.close()
    assert [(list(one.metrics), one.since) for one in declarations.all()] == [
        (list(METRICS), HOUR.start),
        (wider, HOUR.start + timedelta(hours=2)),
        (list(METRICS), HOUR.start + timedelta(hours=3)),
    ]


def test_a_correction_that_becomes_void_is_told_once(
    functions: Functions, used: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I9: it was made against a count that is no longer there; the log says whose."""
    functions.close()
    count = used.in_ledger("customer#acme")["requests"][0]
    used.changes.add("acme", HOUR, Change("a", "requests", 7, "recount", "ann", 0, if_counted=count, recount=True))
    functions.close()
    assert "CorrectionsVoid" not in said(capsys)
    used.now = Clock.at
    used.record(used.line())
    functions.close()
    assert said(capsys)["CorrectionsVoid"] == (1, "Count")
    assert "a correction is void" in functions.log.getvalue()
    functions.close()
    assert "CorrectionsVoid" not in said(capsys)


def test_of_two_runs_that_note_at_once_one_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I2: the other one looks again at the next tick of its process."""
    notes = Declarations(world.ledger.client, "ledger")
    inner, others = Table.query, iter(["another"])

    def query(table: Table, *arguments: Any, **more: Any) -> Iterator[Any]:
        found = list(inner(table, *arguments, **more))
        for other in others:
            notes.note(encode([Count(name=other)]), world.now)
        return iter(found)

    monkeypatch.setattr(Table, "query", query)
    notes.note(encode(METRICS), world.now)
    assert [one.metrics[0].name for one in notes.all()] == ["another"]
    notes.note(encode(METRICS), world.now)
    assert [len(one.metrics) for one in notes.all()] == [1, 2]


def test_a_note_that_aws_refuses_keeps_nothing_from_being_closed(functions: Functions, used: World) -> None:
    """I6: the run fails after all else, and the next one notes."""
    dynamodb: Any = clients.dynamodb()

    def refuse(operation: str, arguments: Any) -> None:
        if operation == "PutItem" and arguments["Item"]["pk"]["S"] == "period#declared":
            raise ClientError({"Error": {"Code": "ThrottlingException"}}, operation)

    dynamodb.before.append(refuse)
    with pytest.raises(ClientError):
        functions.close()
    dynamodb.before.remove(refuse)
    assert used.in_ledger("customer#acme")["requests"][0] > 0
    functions.close()
    assert len(Declarations(used.ledger.client, "ledger").all()) == 1


def test_whoever_posts_by_itself_asks_for_no_worker(functions: Functions, used: World, started: list[Any]) -> None:
    """As 'metering close' does."""
    report = functions.close({"post": False})
    assert (report["written"], report["workers"], started) == (["2026-11-22T05"], 0, [])
    assert used.in_ledger("customer#acme")["requests"] == (1, "PENDING")


@pytest.mark.parametrize(
    ("hours", "rows", "closers"),
    [(0, 0, 1), (1, 25_000, 1), (1, 25_001, 2), (3, 25_000, 3), (1, 10**7, 16), (744, 0, 1)],
)
def test_large_hours_get_the_runs_that_they_need(hours: int, rows: int, closers: int) -> None:
    """As many as are left to close, as large as the last one was, and never more than pieces."""
    assert close_periods.closers_for(hours, rows) == closers


def test_where_hours_are_large_more_runs_are_started(
    functions: Functions, used: World, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: they close with this one, start nothing themselves, and settle nothing."""
    functions.close()
    functions.post()
    monkeypatch.setattr(close_periods, "ROWS_PER_CLOSER", 1)  # acme and the key of nobody are two
    started.clear()
    used.record(used.line(time=moment(HOUR.next(), 0)))
    Clock.at = HOUR.next().end + timedelta(minutes=10)
    answer = functions.close({"help": True})
    assert (answer["written"], answer["help"], started) == (["2026-11-22T06"], True, [])
    assert used.ledger.progress.cursor() == HOUR
    Clock.at += timedelta(hours=1)
    assert functions.close()["written"] == ["2026-11-22T07"]
    assert [one for one in started if one[0] != POST_USAGE] == []  # the last hour had one row
    started.clear()
    monkeypatch.setattr(close_periods, "closers_for", lambda *_: 3)
    functions.close()
    assert [one for one in started if one[0] != POST_USAGE] == [("Metering-Function", "Event", {"help": True})] * 2


def test_what_is_pending_is_posted_before_anything_is_closed(
    functions: Functions, used: World, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: workers wait for no closing, also where that fails."""
    functions.close()
    started.clear()

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("metering.billing.closing.Closer.close_due", fail)
    with pytest.raises(MemoryError):
        functions.close()
    assert started == [(POST_USAGE, "Event", EVERY_SHARD)]
    assert used.in_ledger("customer#acme")["requests"] == (1, "PENDING")


def test_what_cannot_be_closed_fails_the_run_after_all_else(
    functions: Functions, used: World, started: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """I9: the alarm on errors tells; the others are closed, told, and posted."""
    used.customer("bolt", "key7", stripe_customer="cus_bolt")
    used.record(used.line(key="key7"))
    tables: Any = clients.dynamodb()

    def refuse(operation: str, asked: Mapping[str, Any]) -> None:
        if operation == "PutItem" and asked["Item"]["pk"]["S"] == "customer#bolt":
            raise ClientError({"Error": {"Code": "ValidationException", "Message": "too large"}}, "PutItem")

    tables.before.append(refuse)
    with pytest.raises(ClientError, match="too large"):
        functions.close()
    assert said(capsys) == {"HoursBehind": (1, "Count"), "UsageUnmapped": (1, "Count")}
    assert (used.in_ledger("customer#acme")["requests"], used.in_ledger("customer#bolt")) == ((1, "PENDING"), {})
    assert started == [(POST_USAGE, "Event", EVERY_SHARD)]


@pytest.mark.parametrize("sent", [{}, {"source": "operator"}, {"post": True}])
def test_any_other_event_is_a_tick(functions: Functions, used: World, started: list[Any], sent: Any) -> None:
    """What is due depends on the clock alone."""
    assert used.clock() < Clock.at
    assert functions.close(sent)["workers"] == 1
    assert len(started) == 1


@pytest.mark.usefixtures("connected")
def test_nothing_is_posted_while_posting_is_off(
    functions: Functions, used: World, started: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """I4: hours are closed all the same, nothing is behind, and what waits is posted once it is turned on."""
    turn(used, on=False)
    report = functions.close()
    assert (report["posting"], report["workers"], report["closed"], report["behind"]) == (
        False, 0, ["2026-11-22T05"], 0
    )  # fmt: skip
    assert functions.post() == {
        "posted": 0,
        "rejected": 0,
        "held": 0,
        "pending": 0,
        "reasons": {},
        "leased": [],
        "posting": False,
    }
    assert (started, used.stripe.calls[POST]) == ([], 0)
    assert said(capsys) == {"UsageUnmapped": (1, "Count")}
    assert used.in_ledger("customer#acme")["requests"] == (1, "PENDING")
    turn(used, on=True)
    Clock.at += timedelta(minutes=5)
    assert functions.close()["workers"] == 1
    functions.post()
    assert used.at_stripe("cus_acme") == 1


def test_a_deployment_that_was_never_turned_on_bills_nothing(
    functions: Functions, used: World, started: list[Any]
) -> None:
    """The ledger fills, for the operator to look at."""
    boto3.client("dynamodb").delete_item(TableName="ledger", Key={"pk": {"S": "posting"}, "sk": {"S": "switch"}})
    assert used.switch.read() == Switch()
    report = functions.close()
    assert (report["posting"], report["closed"], started) == (False, ["2026-11-22T05"], [])
    assert functions.post()["posting"] is False


def test_usage_from_before_posting_began_is_left(functions: Functions, used: World) -> None:
    """Only the hours that the operator chose are billed."""
    used.switch.turn(msgspec.structs.replace(used.switch.read(), since=str(HOUR.next())))
    assert functions.close()["closed"] == ["2026-11-22T05"]
    assert functions.post()["pending"] == 0
    assert used.stripe.calls[POST] == 0


@pytest.mark.usefixtures("started")
def test_a_worker_that_cannot_be_started_fails_the_run_after_its_signals(
    functions: Functions, used: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I4: the alarm on errors tells; what is closed stays closed, and the next tick starts the worker."""

    def refuse(*_: Any) -> None:
        raise ClientError({"Error": {"Code": "TooManyRequestsException", "Message": "Rate exceeded"}}, "Invoke")

    lambda_: Any = clients.functions()
    lambda_.before.insert(0, refuse)
    with pytest.raises(ClientError, match="Rate exceeded"):
        functions.close()
    assert said(capsys)["HoursBehind"] == (1, "Count")
    assert used.in_ledger("customer#acme")["requests"] == (1, "PENDING")
    lambda_.before.remove(refuse)
    Clock.at += timedelta(minutes=5)
    assert functions.close()["workers"] == 1


@pytest.mark.usefixtures("used")
def test_a_closing_run_without_time_leaves_everything_to_the_next_one(functions: Functions) -> None:
    """I1: nothing is begun that could not be ended."""
    report = functions.close(milliseconds=0)
    assert (report["written"], report["behind"], report["workers"]) == ([], 1, 0)
    assert functions.close()["written"] == ["2026-11-22T05"]


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize(("limits", "noted"), [("true", 1), ("", 0)])
def test_where_there_are_limits_an_hour_that_is_closed_again_is_noted(
    used: World, monkeypatch: pytest.MonkeyPatch, limits: str, noted: int
) -> None:
    """Not when it is closed for the first time; without limits, nothing is. The role of a stack with limits may."""
    monkeypatch.setenv("LIMITS", limits)
    forget()
    items = LimitItems(used.ledger.client, used.ledger.table)
    close_periods.handler({"post": False}, context(240_000))
    assert items.of("acme").changes == 0
    used.now = Clock.at
    used.record(used.line())
    close_periods.handler({"post": False}, context(240_000))
    assert items.of("acme").changes == noted


@pytest.mark.usefixtures("connected")
def test_a_late_record_is_closed_again_and_posted(functions: Functions, used: World) -> None:
    """I3, I4: under the deployed roles."""
    functions.close()
    functions.post()
    used.now = Clock.at
    used.record(used.line())
    Clock.at += timedelta(minutes=5)
    report = functions.close()
    assert (report["closed_again"], report["workers"]) == (1, 1)
    assert functions.post()["posted"] == 2
    assert used.at_stripe("cus_acme") == 2


@pytest.mark.usefixtures("used", "connected")
def test_every_report_is_json(functions: Functions) -> None:
    """Lambda returns it, and the command line shows it."""
    for report in (functions.close(), functions.post(), functions.reconcile()):
        assert json.loads(json.dumps(report)) == report


# --- post_usage ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("connected")
def test_a_worker_posts_what_is_pending(functions: Functions, used: World, capsys: pytest.CaptureFixture[str]) -> None:
    """I4: with the key from the secret; who has no Stripe customer is held."""
    functions.close({"post": False})
    said(capsys)
    assert functions.post() == {
        "posted": 2,
        "rejected": 0,
        "held": 2,
        "pending": 0,
        "reasons": {},
        "leased": [],
        "posting": True,
    }
    assert used.at_stripe("cus_acme") == 1
    assert used.at_stripe("cus_acme", "bytes") == 10
    assert used.in_ledger("customer#globex")["requests"] == (1, "HELD")
    assert said(capsys) == {"UsagePosted": (2, "Count")}


@pytest.mark.usefixtures("connected")
def test_a_tick_and_a_worker_that_come_twice_do_nothing_new(functions: Functions, used: World) -> None:
    """I2, I4: Scheduler may send a tick twice, Lambda may invoke a function twice for one event."""
    functions.close()
    functions.post()
    again = functions.post()
    assert (again["posted"], again["pending"], again["held"]) == (0, 0, 0)
    assert functions.close()["written"] == []
    assert used.stripe.calls[POST] == 2


@pytest.mark.usefixtures("secrets")
def test_usage_stays_pending_while_the_secret_holds_no_key(
    functions: Functions, used: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I4: it is in the ledger, the reason says what to do, and the hour is not closed."""
    functions.close()
    said(capsys)
    report = functions.post()
    assert (report["posted"], report["pending"], report["reasons"]) == (0, 2, {NO_KEY: 2})
    assert used.in_ledger("customer#acme")["requests"] == (1, "PENDING")
    assert used.stripe.calls[POST] == 0
    assert said(capsys) == {"UsagePending": (2, "Count")}
    Clock.at += timedelta(minutes=5)
    assert functions.close()["behind"] == 1


def test_a_secret_that_does_not_exist_is_like_an_empty_one(functions: Functions, used: World) -> None:
    """I4: somebody deleted it."""
    functions.close()
    assert functions.post()["reasons"] == {NO_KEY: 2}
    assert used.in_ledger("customer#acme")["requests"] == (1, "PENDING")


@pytest.mark.parametrize("text", [KEY, json.dumps({"api_key": KEY, "webhook_secret": "whsec_a"})])
def test_a_key_that_comes_later_posts_what_was_pending(
    functions: Functions, used: World, secrets: Any, text: str
) -> None:
    """I4: the same process goes on when the secret has its value, also one that was put by hand."""
    functions.close()
    assert functions.post()["pending"] == 2
    secrets.put_secret_value(SecretId=SECRET, SecretString=text)
    Clock.at += timedelta(minutes=5)
    assert functions.post()["posted"] == 2
    assert used.at_stripe("cus_acme") == 1


@pytest.mark.usefixtures("connected")
def test_a_rotated_key_is_read_afresh_when_stripe_does_not_take_the_old_one(
    functions: Functions, used: World, secrets: Any
) -> None:
    """I4: a warm process remembers the key for five minutes; a refusal makes it look again."""
    functions.close()
    functions.post()
    used.now = Clock.at
    used.record(used.line())
    used.stripe.rotate_key("rk_test_rotated")
    secrets.put_secret_value(SecretId=SECRET, SecretString=json.dumps({"api_key": "rk_test_rotated"}))
    functions.close()
    report = functions.post()
    assert (report["posted"], report["pending"]) == (2, 0)
    assert used.at_stripe("cus_acme") == 2


def test_a_key_that_stripe_does_not_take_leaves_usage_pending(functions: Functions, used: World, secrets: Any) -> None:
    """I4: nothing is rejected for good because of a key."""
    secrets.put_secret_value(SecretId=SECRET, SecretString="rk_test_k3yvalue_of_another_account")
    functions.close()
    report = functions.post()
    assert (report["posted"], report["rejected"], report["pending"]) == (0, 0, 2)
    assert used.in_ledger("customer#acme")["bytes"] == (10, "PENDING")


@pytest.mark.parametrize("key", [KEY, "rk_test_k3yvalue_of_another_account"])
def test_no_stripe_key_is_logged_or_returned(
    functions: Functions, used: World, secrets: Any, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """I8: whether Stripe takes it or not."""
    assert used.stripe.calls[POST] == 0
    values = json.dumps({"api_key": key, "webhook_secret": "whsec_k3yvalue"})
    secrets.put_secret_value(SecretId=SECRET, SecretString=values)
    reports = [functions.close(), functions.post(), functions.reconcile()]
    printed = capsys.readouterr().out + functions.log.getvalue() + json.dumps(reports)
    assert printed.count("run finished") == 3
    for secret in (key, "k3yvalue", "testing"):
        assert secret not in printed


@pytest.mark.usefixtures("functions")
def test_no_key_is_in_the_environment() -> None:
    """I8: the environment names the secret; it does not hold it."""
    assert os.environ["STRIPE_SECRET"] == SECRET
    assert not [name for name, value in os.environ.items() if value.startswith(("sk_", "rk_", "whsec_"))]


@pytest.mark.usefixtures("connected")
def test_a_worker_without_time_leaves_everything_to_the_next_one(functions: Functions, used: World) -> None:
    """I4: no posting is begun that could not be answered in time."""
    functions.close()
    report = functions.post(milliseconds=14_000)
    assert (report["posted"], report["pending"], report["reasons"]) == (0, 2, {"out of time": 2})
    assert used.stripe.calls[POST] == 0
    assert functions.post()["posted"] == 2


@pytest.mark.usefixtures("connected")
def test_a_worker_takes_only_free_shards(functions: Functions, used: World) -> None:
    """I4: what another worker posts from is left to it, and named."""
    functions.close()
    theirs = shard_of(customer("acme"))
    taken = used.switch.lease([theirs], "other", now=Clock.at, until=Clock.at + timedelta(minutes=4))
    report = functions.post()
    assert (report["leased"], report["posted"], report["held"]) == (taken, 0, 2)
    assert functions.post(theirs)["leased"] == [theirs]
    assert used.stripe.calls[POST] == 0
    Clock.at += timedelta(minutes=4)  # the other one has died; a lease ends by itself
    report = functions.post(theirs)
    assert (report["leased"], report["posted"]) == ([], 2)


@pytest.mark.usefixtures("connected")
def test_a_worker_posts_from_its_own_shards_alone(functions: Functions, used: World) -> None:
    """I4: the others are other workers'."""
    functions.close()
    others = [shard for shard in EVERY_SHARD if shard != shard_of(customer("acme"))]
    assert functions.post(*others)["posted"] == 0
    assert functions.post(shard_of(customer("acme")))["posted"] == 2
    assert used.at_stripe("cus_acme") == 1


@pytest.mark.usefixtures("connected")
def test_a_worker_gives_its_leases_back(functions: Functions, used: World) -> None:
    """So that 'metering close' right after a tick need not wait."""
    functions.close()
    functions.post()
    assert _leases() == []
    until = Clock.at + timedelta(minutes=4)
    assert used.switch.lease(EVERY_SHARD, "other", now=Clock.at, until=until) == EVERY_SHARD


@pytest.mark.usefixtures("connected", "used")
def test_a_worker_that_fails_gives_its_leases_back(functions: Functions) -> None:
    """I4: the next one need not wait until they end."""
    functions.close()

    def fail(operation: str, _: Any) -> None:
        if operation == "BatchGetItem":
            raise EndpointConnectionError(endpoint_url="https://dynamodb.us-east-1.amazonaws.com")

    dynamodb: Any = clients.dynamodb()
    dynamodb.before.append(fail)
    with pytest.raises(ExceptionGroup) as raised:
        functions.post()
    assert [type(error) for error in raised.value.exceptions] == [EndpointConnectionError]
    assert _leases() == []
    dynamodb.before.remove(fail)
    assert functions.post()["posted"] == 2


def _leases() -> list[Any]:
    found = boto3.client("dynamodb").query(
        TableName="ledger",
        KeyConditionExpression="#pk = :pk AND begins_with(#sk, :sk)",
        ExpressionAttributeNames={"#pk": "pk", "#sk": "sk"},
        ExpressionAttributeValues={":pk": {"S": "posting"}, ":sk": {"S": "lease#"}},
    )
    return list(found["Items"])


@pytest.mark.usefixtures("connected")
def test_a_worker_keeps_its_share_of_the_rate(
    functions: Functions, used: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shard of sixteen has a sixteenth: all workers together keep what the account allows."""
    monkeypatch.setenv("STRIPE_RATE", str(2 * SHARDS))
    functions.close()
    began = time.monotonic()
    assert functions.post(shard_of(customer("acme")))["posted"] == 2
    assert time.monotonic() - began >= 0.5  # the second posting begins half a second after the first one
    assert used.at_stripe("cus_acme") == 1


def test_hours_go_by_the_event_stream_from_the_one_that_is_set(
    functions: Functions, used: World, secrets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I4: the setting moves posting at an hour's boundary."""
    secrets.put_secret_value(SecretId=SECRET, SecretString=json.dumps({"api_key": LIVE_KEY}))
    monkeypatch.setenv("STREAMED_FROM", str(HOUR))
    functions.close()
    assert functions.post()["posted"] == 2
    assert used.stripe.calls[POST] == 0
    assert used.at_stripe("cus_acme") == 1


@pytest.mark.usefixtures("connected", "started")
def test_a_rejection_is_told_to_eventbridge(
    functions: Functions, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I6: with what an operator's program needs, and once; others are posted all the same."""
    told = told_to_eventbridge()
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    rejectable(world, "globex")
    functions.close()
    said(capsys)
    report = functions.post()
    assert (report["posted"], report["rejected"]) == (2, 1)
    assert said(capsys) == {"UsagePosted": (2, "Count"), "UsageRejected": (1, "Count")}
    assert functions.post()["rejected"] == 0
    ((event,),) = told
    assert "100 characters" in event.pop("reason")
    assert event == {
        "customer": "globex",
        "metric": LONG,
        "hour": "2026-11-22T05",
        "identifier": f"{epoch_of('1', 'Metering')}.globex.{LONG}.2026-11-22T05.r1",
    }


@pytest.mark.usefixtures("connected", "started")
def test_many_rejections_are_all_told(functions: Functions, world: World) -> None:
    """Each row's when it is written; and of those that come at once ten in a call (EventBridge API Reference)."""
    told = told_to_eventbridge()
    names = [f"customer{n:02}" for n in range(11)]
    rejectable(world, *names)
    functions.close()
    assert functions.post()["rejected"] == 11
    assert sorted(event["customer"] for call in told for event in call) == names
    told.clear()
    at_once = {f"1.{name}.requests.2026-11-22T05.r1": "too many digits" for name in names}
    tell_rejected(at_once, world.ledger.holders)
    assert [len(call) for call in told] == [10, 1]


@pytest.mark.usefixtures("connected", "started")
def test_a_rejection_is_told_although_another_row_cannot_be_written(
    functions: Functions, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I6, I9: the others are posted, what was rejected is told, and the run fails in the end."""
    told = told_to_eventbridge()
    for name in ("acme", "initech"):
        world.customer(name, f"key-of-{name}", stripe_customer=f"cus_{name}")
        world.record(world.line(key=f"key-of-{name}"))
    rejectable(world, "globex")
    functions.close()
    said(capsys)
    with failing_writes("customer#acme"), pytest.raises(ExceptionGroup, match="could not be read or written"):
        functions.post()
    assert said(capsys) == {
        "UsagePosted": (2, "Count"),
        "UsagePending": (1, "Count"),
        "UsageRejected": (1, "Count"),
    }
    assert [event["customer"] for call in told for event in call] == ["globex"]
    assert world.in_ledger("customer#initech") == {"requests": (1, "POSTED"), "bytes": (10, "POSTED")}
    functions.post()
    assert world.in_ledger("customer#acme") == {"requests": (1, "POSTED"), "bytes": (10, "POSTED")}
    assert len(told) == 1


@pytest.mark.usefixtures("connected", "started")
def test_a_rejection_is_told_although_the_process_dies_of_another_row(
    functions: Functions, world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """I9: it is told when it is written, and not when all is done."""
    told = told_to_eventbridge()
    monkeypatch.setattr(posting, "CUSTOMERS_AT_ONCE", 1)
    monkeypatch.setattr(Poster, "_in_turn", lambda _self, names: sorted(names, reverse=True))
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    rejectable(world, "globex")
    functions.close()
    said(capsys)
    with failing_writes("customer#acme", MemoryError()), pytest.raises(MemoryError):
        functions.post()
    assert said(capsys) == {"UsageRejected": (1, "Count")}
    assert [event["customer"] for call in told for event in call] == ["globex"]


@contextmanager
def failing_writes(pk: str, error: Exception | None = None) -> Iterator[None]:
    """Let every put of an item with this partition key fail, as if DynamoDB could not be reached."""

    def fail(operation: str, arguments: Any) -> None:
        if operation == "PutItem" and arguments["Item"]["pk"]["S"] == pk:
            raise error or EndpointConnectionError(endpoint_url="https://dynamodb.us-east-1.amazonaws.com")

    dynamodb: Any = clients.dynamodb()
    dynamodb.before.append(fail)
    yield
    dynamodb.before.remove(fail)


@pytest.mark.usefixtures("connected", "started")
def test_a_bus_that_cannot_be_reached_loses_no_rejection(
    functions: Functions, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I4: the row and the alarm tell of it as well."""
    rejectable(world, "acme")
    functions.close()
    said(capsys)

    def fail(*_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="https://events.us-east-1.amazonaws.com")

    bus: Any = clients.events()
    bus.before.append(fail)
    assert functions.post()["rejected"] == 1
    assert said(capsys) == {"UsageRejected": (1, "Count")}
    assert world.in_ledger("customer#acme")[LONG] == (1, "REJECTED")
    assert "no event could be put" in functions.log.getvalue()


# --- reconcile_usage -------------------------------------------------------------------------------------------------

NOTHING = {
    "rejected": 0,
    "unposted": 0,
    "without_stripe_customer": 0,
    "too_old": 0,
    "invoices": 0,
    "carried": 0,
    "held": 0,
    "unbilled": 0,
    "before_subscription": 0,
    "customers": 0,
    "odd": 0,
    "posted_again": 0,
    "differing": 0,
    "round_over": False,
    "cut_short": "",
}
HELD = {"without_stripe_customer": 1}
"""Of the fixture's second customer, which has no Stripe customer; the first has no subscription."""

TOLD = {"RowsWithoutStripeCustomer": (1, "Count")}
UNPAID = {"RowsUnbilled": (1, "Count")}


@pytest.fixture
def posted(functions: Functions, used: World, connected: None, capsys: pytest.CaptureFixture[str]) -> World:
    """The hour is closed and posted, and Stripe has had the time to show it."""
    del connected
    functions.close()
    functions.post()
    said(capsys)
    Clock.at += timedelta(hours=2)
    return used


def test_a_look_that_finds_nothing_says_nothing(
    functions: Functions, posted: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stripe shows what the ledger holds, and nobody pays for it."""
    calls = posted.stripe.calls[POST]
    assert functions.reconcile() == NOTHING | HELD | {"unbilled": 1, "customers": 2, "round_over": True}
    assert posted.stripe.calls[POST] == calls
    assert said(capsys) == TOLD | UNPAID


def test_what_stripe_does_not_show_is_posted_again(
    functions: Functions, posted: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I4: Stripe has lost a total; the next worker posts it under the next revision."""
    _overwrite_at_stripe("cus_acme", 7, posted)
    assert posted.at_stripe("cus_acme") == 7
    report = functions.reconcile()
    assert report == NOTHING | HELD | {"unbilled": 1, "customers": 2, "posted_again": 1, "round_over": True}
    assert said(capsys) == TOLD | UNPAID | {"UsagePostedAgain": (1, "Count")}
    assert functions.close()["workers"] == 1
    assert functions.post()["posted"] == 1
    assert posted.at_stripe("cus_acme") == 1


def test_a_difference_that_stays_wakes_a_person(
    functions: Functions, posted: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I4: somebody else posts to our meter each time."""
    for n in range(5):
        _overwrite_at_stripe("cus_acme", 7, posted)
        report = functions.reconcile()
        told = said(capsys)
        assert (report["posted_again"], report["differing"]) == ((1, 0) if n == 0 else (0, 1))
        differing = "UsagePostedAgain" if n == 0 else "UsageDiffering"
        assert told == TOLD | UNPAID | {differing: (1, "Count")}
        functions.post()
        capsys.readouterr()
        Clock.at += timedelta(hours=2)


@pytest.mark.usefixtures("connected", "started")
def test_what_is_not_billed_is_told_every_hour(
    functions: Functions, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I9: as it stands, whoever was told when it came to be; and what is put right is told of no more."""
    told_to_eventbridge()
    world.customer("initech", "key1")
    world.record(world.line())
    rejectable(world, "globex", "umbrella")
    functions.close()
    assert functions.reconcile()["unposted"] == 0  # not for an hour
    Clock.at = HOUR.end + timedelta(hours=1)
    said(capsys)
    assert functions.reconcile()["unposted"] == 3
    assert said(capsys) == {"RowsUnposted": (3, "Count")}
    functions.post()
    said(capsys)
    for _ in range(2):
        report = functions.reconcile()
        assert [report[name] for name in ("rejected", "unposted", "without_stripe_customer")] == [2, 0, 1]
        assert said(capsys) == {"RowsRejected": (2, "Count"), "RowsWithoutStripeCustomer": (1, "Count")}
        turn(world, on=False)  # what is rejected or held is so while posting is off, too
    turn(world, on=True)
    customers = Customers(world.ledger, world.counters)
    world.stripe.add_customer("cus_initech")
    customers.add(Entry("initech", "Initech", "cus_initech", ()), now=Clock.at)
    functions.close()
    functions.post()
    said(capsys)
    assert functions.reconcile()["without_stripe_customer"] == 0
    assert said(capsys)["RowsRejected"] == (2, "Count")


@pytest.mark.usefixtures("posted")
def test_nothing_is_compared_while_posting_was_never_on(
    functions: Functions, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is billed, so nothing can differ; Stripe is not asked."""
    boto3.client("dynamodb").delete_item(TableName="ledger", Key={"pk": {"S": "posting"}, "sk": {"S": "switch"}})
    calls = world.stripe.calls
    assert functions.reconcile() == NOTHING | HELD
    assert world.stripe.calls == calls
    assert said(capsys) == TOLD


def test_a_stripe_that_cannot_be_reached_is_looked_at_by_the_next_run(
    functions: Functions, posted: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """I4: no failure of ours, and no difference either."""
    monkeypatch.setattr(stripe_client, "RETRIES", 0)
    with monkeypatch.context() as away:
        away.setenv("STRIPE_API_BASE", "http://127.0.0.1:1")
        assert functions.reconcile() == NOTHING | HELD | {"cut_short": "Stripe gives no answer"}
    assert said(capsys) == TOLD
    forget()
    assert functions.reconcile() == NOTHING | HELD | {"unbilled": 1, "customers": 2, "round_over": True}
    assert posted.in_ledger("customer#acme")["requests"] == (1, "POSTED")


def test_a_customer_that_stripe_does_not_know_keeps_no_other_from_being_compared(
    functions: Functions, posted: World
) -> None:
    """I6: somebody deleted it at Stripe, or mistyped its id."""
    entry = Entry("aaa", "Aaa", "cus_nobody", ("key0",), None)
    Customers(posted.ledger, posted.counters).add(entry, now=posted.now)
    _overwrite_at_stripe("cus_acme", 7, posted)
    report = functions.reconcile()
    assert (report["posted_again"], report["round_over"]) == (1, True)


SUMMARIES = "GET /v1/billing/meters/:id/event_summaries"


def test_one_customer_that_stripe_answers_oddly_keeps_no_other_from_being_compared(
    functions: Functions, posted: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I6, I8: it is counted and named, in none of Stripe's words, and the round goes on."""
    _another_customer("aaa", functions, posted)
    said(capsys)
    _overwrite_at_stripe("cus_acme", 7, posted)
    posted.stripe.set_faults({Fault.REFUSED: 1.0}, route=SUMMARIES, customer="cus_aaa")
    report = functions.reconcile()
    assert (report["posted_again"], report["odd"], report["round_over"]) == (1, 1, True)
    assert '"customer":"aaa"' in functions.log.getvalue()
    assert "cannot be used here" not in functions.log.getvalue()
    assert posted.ledger.progress.round().odd == ("aaa",)
    posted.stripe.clear_faults()
    Clock.at += timedelta(hours=2)
    assert functions.reconcile()["odd"] == 0
    assert posted.ledger.progress.round().odd == ()


def test_what_was_found_before_stripe_failed_is_told(
    functions: Functions, posted: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """I4: acme's total is to be posted again, whatever the next customer's read came to."""
    monkeypatch.setattr(stripe_client, "RETRIES", 0)
    _another_customer("zzz", functions, posted)
    said(capsys)
    _overwrite_at_stripe("cus_acme", 7, posted)
    posted.stripe.set_faults({Fault.ERROR_BEFORE: 1.0}, route=SUMMARIES, customer="cus_zzz")
    report = functions.reconcile()
    assert (report["posted_again"], report["cut_short"]) == (1, "Stripe answers with an error (500)")
    assert said(capsys)["UsagePostedAgain"] == (1, "Count")


def test_a_run_that_is_refused_for_its_pace_waits_and_goes_on(functions: Functions, posted: World) -> None:
    """The SDK makes no second attempt after a 429 by itself."""
    posted.stripe.set_faults([Fault.RATE_LIMITED] * 3, route=None)
    assert functions.reconcile() == NOTHING | HELD | {"unbilled": 1, "customers": 2, "round_over": True}


def test_no_run_makes_more_reads_than_have_come_in(
    functions: Functions, posted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thousand in 30 days, those of two days at first, and then one an hour; each run goes on."""
    monkeypatch.setenv("STRIPE_READS_A_MONTH", "1000")
    report = functions.reconcile()
    assert (_reads(posted), report["cut_short"]) == (62, "the 62 reads of this run are made")
    Clock.at += timedelta(hours=10)
    functions.reconcile()
    assert _reads(posted) == 62 + 13


def test_reads_that_a_run_did_not_make_are_given_back(functions: Functions, posted: World) -> None:
    """I10: another one has them."""
    budget = ReadBudget(boto3.client("dynamodb"), "ledger", ReadAllotment(100_000))
    before = budget.left(Clock.at)
    functions.reconcile()
    assert budget.left(Clock.at) == before - _reads(posted)
    assert _reads(posted) > 100


def test_customers_who_left_keep_nobody_from_being_looked_at_or_compared(
    functions: Functions, posted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I4, I6, I9: what each has used since its last invoice waits for a subscription, and costs reads in each run."""
    monkeypatch.setenv("STRIPE_READS_A_MONTH", "10000")
    bill = Billing(posted)
    bill.at(Clock.at)
    subscribed = bill.client().v1.subscriptions
    for number in range(15):
        name = f"left{number}"
        posted.customer(name, f"key-{name}", stripe_customer=f"cus_{name}")
        subscription = bill.subscribe(f"cus_{name}")
        subscribed.cancel(subscription, {"invoice_now": True})
        bill.use(1, Hour.containing(Clock.at), name=f"key-{name}")
    Clock.at = posted.now = due(Hour.containing(Clock.at))
    functions.close()
    functions.post()
    budget = ReadBudget(boto3.client("dynamodb"), "ledger", ReadAllotment(10_000))
    budget.take(10_000, Clock.at)  # what came in is spent
    told = []
    for _ in range(3):
        Clock.at += timedelta(hours=1)
        report = functions.reconcile()
        told.append((report["unbilled"] > 0, report["customers"] > 0))
    assert told == [(True, True)] * 3


def invoiced(functions: Functions, world: World) -> Billing:
    """Return the billing of acme, whose use of five is on an invoice that is about to become final."""
    bill = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    Clock.at = HOUR.start
    bill.subscribe()
    bill.use(5)
    Clock.at = due(HOUR)
    functions.close()
    functions.post()
    Clock.at = world.now = FINALISED
    world.ledger.progress.advance_cursor(due_before(FINALISED))
    return bill


@pytest.mark.usefixtures("started", "connected")
def test_what_an_invoice_has_not_billed_is_carried(
    functions: Functions, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I4, I5: a record comes after its invoice is final; all under the deployed roles."""
    bill = invoiced(functions, world)
    assert functions.reconcile()["invoices"] == 1
    bill.use(2)
    functions.close()
    functions.post()
    said(capsys)
    report = functions.reconcile()
    assert (report["invoices"], report["carried"], report["held"]) == (0, 1, 0)
    assert said(capsys)["UsageCarried"] == (1, "Count")
    assert bill.carries() == [(Hour.containing(FINALISED), 2)]
    Clock.at = due(Hour.containing(FINALISED))
    functions.close()
    functions.post()
    assert world.at_stripe("cus_acme", hour=Hour.containing(FINALISED)) == 2
    assert functions.reconcile()["carried"] == 0


@pytest.mark.usefixtures("started", "connected")
def test_while_posting_is_off_invoices_are_noted_and_what_waits_for_a_person_wakes_one_after_it(
    functions: Functions, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I4, I9: nothing is carried in the pause; an invoice that states something else than was used is told after it."""
    invoiced(functions, world)
    world.stripe.advance()
    (invoice,) = world.stripe._account.billing.invoices.values()
    invoice.lines[0].update(quantity=1, quantity_decimal="1")
    turn(world, on=False)
    report = functions.reconcile()
    assert (report["invoices"], report["held"], report["differing"]) == (1, 0, 0)
    assert [noted.read for noted in world.changes.noted("acme")] == [False]
    turn(world, on=True)
    said(capsys)
    report = functions.reconcile()
    assert (report["invoices"], report["carried"], report["held"], report["differing"]) == (0, 0, 1, 1)
    assert said(capsys)["UsageDiffering"] == (1, "Count")


def _reads(world: World) -> int:
    """Return how many reads Stripe has answered."""
    return sum(count for route, count in world.stripe.calls.items() if route.startswith("GET "))


def _another_customer(name: str, functions: Functions, world: World) -> None:
    """Let another customer have used something in the world's hour, which is posted and shown."""
    world.now = Clock.at
    world.customer(name, f"key-{name}", stripe_customer=f"cus_{name}")
    Billing(world).use(1, name=f"key-{name}")
    functions.close()
    functions.post()
    Clock.at += timedelta(hours=2)


def _overwrite_at_stripe(stripe_customer: str, value: int, world: World) -> None:
    """Post another total of the hour's requests past the ledger."""
    client = stripe_sdk.StripeClient(KEY, base_addresses={"api": world.stripe.url})
    client.v1.billing.meter_events.create(
        {
            "event_name": "Metering_requests",
            "timestamp": int(HOUR.end.timestamp()) - 1,
            "payload": {"stripe_customer_id": stripe_customer, "value": str(value)},
        }
    )


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def counting(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The processes of record_usage and check_completeness, which have just begun."""
    for settings in (
        RecordUsageSettings("counters", "bucket", encode(world.metrics), NONCE, ACCESS_LOG_GROUP, "ledger"),
        CheckCompletenessSettings(
            "counters", "ledger", "Metering", ACCESS_LOG_GROUP, "", encode_stages([Stage(Api.REST, "SampleApi", "v1")])
        ),
    ):
        for name, value in settings.environment().items():
            monkeypatch.setenv(name, value)
    for module in (record_usage, check_completeness):
        monkeypatch.setattr(module, "datetime", Clock)
        monkeypatch.setattr(module, "signals", Metrics())
    caches = (record_usage._parts, check_completeness._sources, clients.cloudwatch, clients.s3)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def _put(namespace: str, metric: str, **dimensions: str) -> None:
    """Put a number into CloudWatch, as of three hours ago."""
    found: Any = [{"Name": name, "Value": value} for name, value in dimensions.items()]
    data: Any = [{"MetricName": metric, "Dimensions": found, "Timestamp": Clock.at - timedelta(hours=3), "Value": 9}]
    boto3.client("cloudwatch").put_metric_data(Namespace=namespace, MetricData=data)


@pytest.mark.usefixtures("connected", "started", "counting")
def test_every_signal_that_an_alarm_reads_is_told_by_a_function(
    functions: Functions, world: World, template: Mapping[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """An alarm on a metric that nobody sends would be silent for ever."""
    told_to_eventbridge()
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.customer("initech", "key2")
    Clock.at = HOUR.start + timedelta(minutes=30)
    lines = (world.line(), world.line(key="key2"), world.line(key="stray"), "GET / 200")
    record_usage.handler(envelope(*lines), context())
    rejectable(world, "globex")
    functions.close()
    Clock.at = HOUR.end + timedelta(hours=1)
    functions.close()
    functions.post()
    for _ in range(2):
        Clock.at += timedelta(hours=2)
        _overwrite_at_stripe("cus_acme", 7, world)
        functions.reconcile()
        functions.post()
    _put("AWS/Logs", "IncomingLogEvents", LogGroupName=ACCESS_LOG_GROUP)
    _put("AWS/ApiGateway", "Count", ApiName="SampleApi", Stage="v1")
    check_completeness.handler({}, context())
    alarms = [one["Properties"] for one in of_type(dict(template), "AWS::CloudWatch::Alarm").values()]
    ours = [one for one in alarms if one["Namespace"] == NAMESPACE]
    assert {one["MetricName"] for one in ours} - said(capsys).keys() == set()
    assert {dimension["Name"] for one in ours for dimension in one["Dimensions"]} == {"service"}
    # AWS sends these of every function by itself (Lambda Developer Guide, "Types of metrics for Lambda functions").
    theirs = {(one["Namespace"], one["MetricName"]) for one in alarms if one["Namespace"] != NAMESPACE}
    of_functions = {("AWS/Lambda", name) for name in ("Errors", "Throttles", "AsyncEventsDropped")}
    assert theirs == of_functions | {("AWS/ApiGateway", "5xx")}  # "Monitor CloudWatch metrics for HTTP APIs"


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["COUNTERS_TABLE", "LEDGER_TABLE", "POST_USAGE_FUNCTION"])
def test_a_missing_setting_of_close_periods_is_named(
    functions: Functions, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment error is read off the log."""
    monkeypatch.delenv(name)
    with pytest.raises(SettingsError, match=f"^the environment must set {name}$"):
        functions.close()


@pytest.mark.parametrize(
    "name",
    ["COUNTERS_TABLE", "LEDGER_TABLE", "DEPLOYMENT", "LEDGER_EPOCH", "STRIPE_SECRET", "STRIPE_API_BASE", "STRIPE_RATE"],
)
def test_a_missing_setting_of_post_usage_is_named(
    functions: Functions, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment error is read off the log."""
    monkeypatch.delenv(name)
    with pytest.raises(SettingsError, match=f"^the environment must set {name}$"):
        functions.post()


@pytest.mark.parametrize(
    "name", ["COUNTERS_TABLE", "LEDGER_TABLE", "DEPLOYMENT", "STRIPE_SECRET", "STRIPE_API_BASE", "STRIPE_READS_A_MONTH"]
)
def test_a_missing_setting_of_reconcile_usage_is_named(
    functions: Functions, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment error is read off the log."""
    monkeypatch.delenv(name)
    with pytest.raises(SettingsError, match=f"^the environment must set {name}$"):
        functions.reconcile()
