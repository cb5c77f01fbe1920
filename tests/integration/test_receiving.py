"""receive_events as its address calls it: Stripe's own deliveries, and everything else that anyone may send there.

``tests/events/stripe_events.json`` has the examples of Stripe's documents, to the letter, each with its ``source``.
"""

import base64
import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest
import stripe as stripe_sdk
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from botocore.exceptions import ClientError

from infra.local.stripe.faults import Fault
from infra.operate.customers import Customers, Entry
from metering.model.amounts import Amounts
from metering.model.subjects import customer
from metering.settings import SettingsError
from metering.stores import aws as clients
from metering.stripe.client import StripeNotConnectedError, StripeUnavailableError, signing_secret_from
from metering.stripe.webhooks import LARGEST_BODY
from tests.doubles.clock import Clock
from tests.integration.lambdas import SECRET, SIGNING_SECRET, Functions, begin, said, told_to_eventbridge
from tests.integration.world import HOUR, World

KEY = "sk_test_local"
SIGNS = "whsec_k3yvalue"
REPORT = "v1.billing.meter.error_report_triggered"
IDENTIFIER = f"1.acme.requests.{HOUR}.r1"
DOCUMENTED = json.loads((Path(__file__).parents[1] / "events" / "stripe_events.json").read_text())
FORGED = f"t=1,v1={'0' * 64}"
NO_METER = "v1.billing.meter.no_meter_found"


@pytest.fixture
def functions(world: World, template: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Functions]:
    """The functions' processes, which have just begun, with a key and a signing secret."""
    secrets: Any = boto3.client("secretsmanager")
    secrets.create_secret(Name=SECRET, SecretString=json.dumps({"api_key": KEY}))
    secrets.create_secret(Name=SIGNING_SECRET, SecretString=SIGNS)
    with begin(world, template, monkeypatch) as begun:
        yield begun


def put_secret(name: str, text: str) -> None:
    """Put a text in one of the deployment's secrets."""
    secrets: Any = boto3.client("secretsmanager")
    secrets.put_secret_value(SecretId=name, SecretString=text)


@pytest.fixture
def unknown(world: World) -> World:
    """Usage that Stripe accepted for a customer that it does not know, and will report."""
    Customers(world.ledger, world.counters).add(Entry("acme", "Acme", "cus_acme", ("key1",), None), now=world.now)
    world.customer("globex", "key2", stripe_customer="cus_globex")
    world.record(world.line(), world.line(key="key2"))
    world.after_grace()
    world.run()
    assert world.in_ledger("customer#acme") == {"requests": (1, "POSTED"), "bytes": (10, "POSTED")}
    return world


def client(world: World) -> stripe_sdk.StripeClient:
    """Return Stripe's own client."""
    return stripe_sdk.StripeClient(KEY, base_addresses={"api": world.stripe.url})


def request(body: str, signature: str | None = None, *, encoded: bool = False) -> dict[str, Any]:
    """Return an event of an HTTP API (API Gateway Developer Guide, "AWS Lambda proxy integrations", format 2.0)."""
    signed = sign(body) if signature is None else signature
    return {
        "version": "2.0",
        "routeKey": "POST /v1/notifications",
        "rawPath": "/v1/notifications",
        "headers": {"content-type": "application/json; charset=utf-8"}
        | ({"stripe-signature": signed} if signed else {}),
        "requestContext": {"http": {"method": "POST", "path": "/v1/notifications", "sourceIp": "192.0.2.1"}},
        "body": base64.b64encode(body.encode()).decode() if encoded else body,
        "isBase64Encoded": encoded,
    }


def sign(body: str, *, secret: str = SIGNS, seconds_ago: int = 0) -> str:
    """Sign a body as Stripe does."""
    at = int(time.time()) - seconds_ago
    return str(stripe_sdk.WebhookSignature.generate_signature_header(body, secret, at))


def notification(event: str, kind: str = REPORT) -> str:
    """Return a notification of an event."""
    return json.dumps(
        {
            "id": event,
            "object": "v2.core.event",
            "context": None,
            "created": "2026-11-22T07:00:00.000Z",
            "livemode": False,
            "reason": None,
            "type": kind,
            "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
        }
    )


def notifications(world: World) -> list[str]:
    """Let Stripe report what it could not use; return its notifications."""
    return [notification(event) for event in world.stripe.report_errors()]


def rows() -> list[Any]:
    """Return everything that the ledger holds."""
    return list(boto3.client("dynamodb").scan(TableName="ledger")["Items"])


class Address(ThreadingHTTPServer):
    """The API in front of it: each request becomes an event, the answer's status that of the response."""

    def __init__(self, functions: Functions) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.functions = functions
        self.answers: list[int] = []


class _Request(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Answer 502 for an error, as AWS does."""
        assert isinstance(self.server, Address)
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        try:
            status = self.server.functions.receive(request(body, self.headers["Stripe-Signature"]))["statusCode"]
        except Exception:  # noqa: BLE001 - Lambda's edge
            status = 502
        self.server.answers.append(status)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def delivering(functions: Functions) -> Iterator[list[int]]:
    """Have Stripe deliver its notifications to the function's address; give the answers."""
    with Address(functions) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        functions.world.stripe.set_webhook(f"http://127.0.0.1:{server.server_port}/", SIGNS)
        yield server.answers
        server.shutdown()


# --- what Stripe delivers --------------------------------------------------------------------------------------------


def test_what_stripe_could_not_use_is_marked_with_its_words(
    functions: Functions, unknown: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I4, I6: by Stripe's own delivery; other customers are not concerned."""
    with delivering(functions) as answers:
        unknown.stripe.report_errors()
    assert set(answers) == {200}
    assert unknown.in_ledger("customer#acme") == {"requests": (1, "REJECTED"), "bytes": (10, "REJECTED")}
    row = unknown.ledger.rows.at(HOUR, [customer("acme")])[customer("acme")]
    assert row.totals["requests"].reason == "No customer found for the provided stripe_customer_id: cus_acme."
    assert {state for _, state in unknown.in_ledger("customer#globex").values()} == {"POSTED"}
    assert said(capsys)["UsageRejected"] == (1, "Count")
    assert "Stripe rejected usage later" in functions.log.getvalue()


def test_a_rejection_that_is_notified_is_told_to_eventbridge(functions: Functions, unknown: World) -> None:
    """As one that Stripe answers at once."""
    told = told_to_eventbridge()
    with delivering(functions):
        unknown.stripe.report_errors()
    assert sorted(event["identifier"] for (event,) in told) == [IDENTIFIER.replace("requests", "bytes"), IDENTIFIER]


def test_what_stripe_could_not_use_of_a_customer_of_any_id_is_marked(functions: Functions, world: World) -> None:
    """I4: its identifiers hold a hash of its id."""
    Customers(world.ledger, world.counters).add(Entry("acme.com", "Acme", "cus_acme", ("key1",), None), now=world.now)
    world.record(world.line())
    world.after_grace()
    world.run()
    told = told_to_eventbridge()
    with delivering(functions) as answers:
        world.stripe.report_errors()
    assert set(answers) == {200}
    assert world.in_ledger("customer#acme.com") == {"requests": (1, "REJECTED"), "bytes": (10, "REJECTED")}
    assert {event["customer"] for (event,) in told} == {"acme.com"}


def test_a_notification_that_comes_twice_changes_nothing_new(
    functions: Functions, unknown: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I2: Stripe delivers at least once; the second one is answered 200 as well, and tells nothing."""
    body, *_ = notifications(unknown)
    assert functions.receive(request(body))["statusCode"] == 200
    said(capsys)
    before = rows()
    assert functions.receive(request(body)) == {"statusCode": 200, "body": "ok"}
    assert rows() == before
    assert said(capsys) == {}


def test_a_notification_after_a_newer_total_changes_nothing(functions: Functions, unknown: World) -> None:
    """I4: what it names is no longer what is billed."""
    bodies = notifications(unknown)
    unknown.stripe.add_customer("cus_acme")
    unknown.record(unknown.line())
    unknown.run()
    assert unknown.at_stripe("cus_acme") == 2
    for body in bodies:
        assert functions.receive(request(body))["statusCode"] == 200
    assert unknown.in_ledger("customer#acme") == {"requests": (2, "POSTED"), "bytes": (20, "POSTED")}


def test_a_body_in_base64_is_the_same_notification(functions: Functions, unknown: World) -> None:
    """API Gateway encodes a body whose content type it does not take for text."""
    for body in notifications(unknown):
        assert functions.receive(request(body, encoded=True))["statusCode"] == 200
    assert unknown.in_ledger("customer#acme")["requests"] == (1, "REJECTED")


def test_headers_are_found_however_they_are_written(functions: Functions, unknown: World) -> None:
    """HTTP does not tell apart what differs in case alone."""
    for body in notifications(unknown):
        sent = request(body)
        sent["headers"] = {name.title(): value for name, value in sent["headers"].items()}
        assert functions.receive(sent)["statusCode"] == 200
    assert unknown.in_ledger("customer#acme")["requests"] == (1, "REJECTED")


@pytest.mark.parametrize("archived", [False, True])
def test_usage_without_a_meter_is_marked_too(functions: Functions, world: World, archived: bool) -> None:  # noqa: FBT001
    """The stream takes events of a meter that there is not, or no longer; Stripe reports them later."""
    world.stream_from(HOUR)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.counters.count(HOUR, "key1", Amounts({"retired": 3}), b"123456789012")
    world.after_grace()
    if archived:
        world.meters().create_meter("retired")
        client(world).v1.billing.meters.deactivate(world.meters().meters()["Metering_retired"].id)
    world.run()
    assert world.in_ledger("customer#acme")["retired"] == (3, "POSTED")
    with delivering(functions) as answers:
        world.stripe.report_errors()
    assert answers == [200]
    assert world.in_ledger("customer#acme") == {
        "requests": (1, "POSTED"),
        "bytes": (10, "POSTED"),
        "retired": (3, "REJECTED"),
    }


def test_another_deployments_meter_changes_nothing(
    functions: Functions, unknown: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I6: both share a Stripe account, and their customers may have the same ids."""
    unknown.stripe.report_errors()
    before = rows()
    client(unknown).v1.billing.meters.create(
        {
            "display_name": "another",
            "event_name": "Other_requests",
            "default_aggregation": {"formula": "sum"},
            "event_time_window": "hour",
        }
    )
    unknown.stripe.advance(25 * 3600)  # so that Stripe has forgotten our identifier
    client(unknown).v1.billing.meter_events.create(
        {
            "event_name": "Other_requests",
            "identifier": IDENTIFIER,
            "timestamp": int(HOUR.end.timestamp()) - 1,
            "payload": {"stripe_customer_id": "cus_acme", "value": "1"},
        }
    )
    with delivering(functions) as answers:
        assert len(unknown.stripe.report_errors()) == 1
    assert answers == [200]
    assert rows() == before
    assert said(capsys) == {}


def test_identifiers_that_are_not_ours_change_nothing(functions: Functions, unknown: World) -> None:
    """Somebody posts to our meter by hand."""
    unknown.stripe.report_errors()
    before = rows()
    client(unknown).v1.billing.meter_events.create(
        {
            "event_name": "Metering_requests",
            "identifier": "by-hand",
            "timestamp": int(HOUR.end.timestamp()) - 1,
            "payload": {"stripe_customer_id": "cus_nobody", "value": "1"},
        }
    )
    with delivering(functions) as answers:
        unknown.stripe.report_errors()
    assert answers == [200]
    assert rows() == before


def test_a_notification_that_cannot_be_dealt_with_now_comes_again(
    functions: Functions, unknown: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I1: an error is no refusal; Stripe delivers it again until it is answered 200."""
    failed: list[int] = []

    def fail_once(operation: str, _: Any) -> None:
        if operation == "PutItem" and not failed:
            failed.append(1)
            raise TimeoutError

    dynamodb: Any = clients.dynamodb()
    dynamodb.before.append(fail_once)
    with delivering(functions) as answers:
        unknown.stripe.report_errors()
    assert answers[:2] == [502, 200]
    assert unknown.in_ledger("customer#acme")["requests"] == (1, "REJECTED")
    assert "NotificationsRefused" not in said(capsys)


# --- what anyone may send --------------------------------------------------------------------------------------------


def refused(functions: Functions, sent: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """See that a request is refused, changes nothing, and asks Stripe nothing; return why, as it is logged."""
    before, calls = rows(), functions.world.stripe.calls
    capsys.readouterr()
    assert functions.receive(sent) == {"statusCode": 400, "body": "refused"}
    assert rows() == before
    assert functions.world.stripe.calls == calls
    printed = capsys.readouterr()
    assert "k3yvalue" not in functions.log.getvalue() + printed.out + printed.err
    (line,) = [json.loads(line) for line in printed.out.splitlines()]
    assert line["NotificationsRefused"] == [1]
    logged = json.loads(functions.log.getvalue().splitlines()[-1])
    assert logged["message"] == "request refused"
    return str(logged["reason"])


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "nonsense",
        "t=,v1=",
        "t=1",
        "t=now,v1=0123",
        f"t=NOW,v1={'0' * 64}",
        f"t=NOW,v0={'0' * 64}",
        "ünï",
        "t=NOW,v1=é",
        "t=NOW,v1=\udcff",
        "t=é,v1=0123",
        f"t={'9' * 5_000},v1=0123",
        f"t={'9' * 4_000},v1=0123",
    ],
)
def test_a_bad_signature_is_refused(
    functions: Functions, unknown: World, signature: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """I7: nobody but Stripe can mark a row."""
    body, *_ = notifications(unknown)
    now = str(int(time.time()))
    said_to_be = refused(functions, request(body, signature.replace("NOW", now)), capsys)
    assert said_to_be == "the signature is not Stripe's, or too old"


def test_a_signature_by_another_secret_is_refused(
    functions: Functions, unknown: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I7: also an empty one, which anyone could sign with."""
    body, *_ = notifications(unknown)
    for secret in ("whsec_another", ""):
        why = refused(functions, request(body, sign(body, secret=secret)), capsys)
        assert why == "the signature is not Stripe's, or too old"


def test_a_signature_of_another_body_is_refused(
    functions: Functions, unknown: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I7: every byte is signed."""
    body, *_ = notifications(unknown)
    assert refused(functions, request(body + " ", sign(body)), capsys).startswith("the signature is not Stripe's")


@pytest.mark.parametrize(("seconds_ago", "status"), [(0, 200), (290, 200), (310, 400), (86_400, 400)])
def test_a_signature_is_good_for_five_minutes(
    functions: Functions, unknown: World, seconds_ago: int, status: int
) -> None:
    """I7: whoever has caught a notification cannot send it later."""
    body, *_ = notifications(unknown)
    sent = request(body, sign(body, seconds_ago=seconds_ago))
    assert functions.receive(sent)["statusCode"] == status


def test_a_body_that_is_too_large_is_refused(functions: Functions, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is done with it, also with a good signature, and encoded."""
    body = notification("evt_1" + "x" * LARGEST_BODY)
    for encoded in (False, True):
        why = refused(functions, request(body, encoded=encoded), capsys)
        assert why.startswith("a body of at most 65536 bytes was expected, got ")


def test_a_body_that_is_no_base64_is_refused(functions: Functions, capsys: pytest.CaptureFixture[str]) -> None:
    """Although it was announced."""
    for body in ("no base64!", "größe", "abcde"):
        sent = request("{}") | {"body": body, "isBase64Encoded": True}
        assert refused(functions, sent, capsys) == "a body in base64 was announced"


def test_bytes_that_are_no_text_are_refused(functions: Functions, capsys: pytest.CaptureFixture[str]) -> None:
    """A signature is of text."""
    sent = request("{}", encoded=True) | {"body": base64.b64encode(b"\xff\xfe").decode()}
    assert refused(functions, sent, capsys) == "the signature is not Stripe's, or too old"


def test_half_a_character_is_refused(functions: Functions, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON, as which Lambda is given a request, can write one, and no bytes can hold it."""
    sent = request("{}") | {"body": "\ud800"}
    assert refused(functions, sent, capsys) == "a body of whole characters was expected"


@pytest.mark.parametrize("missing", ["headers", "body"])
def test_a_request_without_headers_or_body_is_refused(
    functions: Functions, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a scanner sends it: GET / without anything."""
    refused(functions, request("{}", "") | {missing: None}, capsys)
    sent = request("{}", "")
    del sent[missing]
    refused(functions, sent, capsys)


# --- what Stripe signs, whatever it is ------------------------------------------------------------------------------


def taken(functions: Functions, body: str, capsys: pytest.CaptureFixture[str]) -> str:
    """See that a signed body is answered 200, changes nothing, and is told to nobody; return what is logged of it."""
    before = rows()
    capsys.readouterr()
    assert functions.receive(request(body)) == {"statusCode": 200, "body": "ok"}
    assert rows() == before
    assert said(capsys) == {}
    assert "Traceback" not in functions.log.getvalue()
    return functions.log.getvalue()


@pytest.mark.parametrize("documented", DOCUMENTED, ids=lambda one: str(one["event"]["id"]))
def test_what_stripe_documents_is_taken_to_the_letter(
    functions: Functions, unknown: World, documented: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """I6: it names a meter and totals that are none of ours; a report is fetched, a ping is not."""
    event = documented["event"]
    unknown.stripe.keep_event(event)
    before = unknown.stripe.calls["GET /v2/core/events/:id"]
    taken(functions, json.dumps({name: value for name, value in event.items() if name != "data"}), capsys)
    fetched = unknown.stripe.calls["GET /v2/core/events/:id"] - before
    assert fetched == (event["type"] in (REPORT, NO_METER))


@pytest.mark.parametrize(
    "documented", [one for one in DOCUMENTED if one["event"]["type"] == REPORT], ids=lambda one: one["event"]["id"]
)
@pytest.mark.parametrize("suffix", ["", "#0123abcd"])
def test_a_report_names_a_total_in_each_of_the_documented_ways(
    functions: Functions, unknown: World, documented: dict[str, Any], suffix: str
) -> None:
    """I4: by the meter event's identifier or by the idempotency key, which begins with it."""
    event = copy.deepcopy(documented["event"])
    event["related_object"]["id"] = unknown.meters().meters()["Metering_requests"].id
    (sample,) = event["data"]["reason"]["error_types"][0]["sample_errors"]
    sample["request"] = {name: value and f"{IDENTIFIER}{suffix}" for name, value in sample["request"].items()}
    unknown.stripe.keep_event(event)
    assert functions.receive(request(notification(event["id"])))["statusCode"] == 200
    assert unknown.in_ledger("customer#acme") == {"requests": (1, "REJECTED"), "bytes": (10, "POSTED")}
    row = unknown.ledger.rows.at(HOUR, [customer("acme")])[customer("acme")]
    assert row.totals["requests"].reason == "Customer mapping key stripe_customer_id not found in payload."


@pytest.mark.parametrize(
    "body",
    [
        "",
        "nonsense",
        "{",
        "null",
        "7",
        "[]",
        '"k3yvalue"',
        "{}",
        '{"type": 7}',
        '{"object": "event", "id": "e"}',
        "[" * 30_000,
        '{"id":' * 5_000,
        json.dumps({"type": REPORT}),
        json.dumps({"type": REPORT, "id": 7}),
        json.dumps({"type": ["invoice.paid"], "id": "evt_1"}),
    ],
    ids=lambda body: body[:40],
)
def test_a_signed_body_that_is_no_notification_is_taken(
    functions: Functions, body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A destination that was set up with another payload style; never an answer that Stripe would repeat for days."""
    assert "not understood" in taken(functions, body, capsys)
    assert functions.world.stripe.calls["GET /v2/core/events/:id"] == 0


@pytest.mark.parametrize("kind", ["v1.billing.meter.created", "invoice.paid", "v2.core.event_destination.ping", ""])
def test_another_event_is_taken_and_not_fetched(
    functions: Functions, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A destination that was set up for more than it should, and the ping of a new one."""
    taken(functions, notification("evt_1", kind), capsys)
    assert functions.world.stripe.calls["GET /v2/core/events/:id"] == 0


@pytest.mark.parametrize("event", ["evt_nowhere", "../../v1/customers?x=", "evt_1/../../x", "évt", "#"])
def test_an_event_that_stripe_does_not_know_is_taken(
    functions: Functions, event: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of another account's key: no repetition could help, and the hourly look finds what it told of."""
    assert "not understood" in taken(functions, notification(event), capsys)


@pytest.mark.parametrize(
    "more",
    [
        {"data": None},
        {"data": {"reason": None}},
        {"data": {"reason": {"error_types": None}}},
        {"data": {"reason": {"error_types": [{"code": "new", "sample_errors": None}]}}},
        {"data": {"reason": {"error_types": [{"sample_errors": [{"request": None}, {"request": {}}]}]}}},
        {"data": {"reason": {"error_types": [{"sample_errors": [{"error_message": None}]}]}}},
        {"data": []},
        {"data": {"reason": {"error_types": {"code": "new"}}}},
        {"related_object": "mtr_1"},
        {},
    ],
)
def test_an_event_of_another_shape_names_nothing(
    functions: Functions, more: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """What may be missing is, and what is otherwise than documented is taken once."""
    functions.world.stripe.keep_event(json.loads(notification("evt_odd")) | {"related_object": None} | more)
    taken(functions, notification("evt_odd"), capsys)


def test_what_cannot_be_read_beside_a_total_does_not_hide_it(functions: Functions, unknown: World) -> None:
    """I6: a batch of the event stream that is named by one key, a stranger's event, and ours."""
    samples = [
        {"error_message": "a batch", "request": {"id": "", "idempotency_key": "2b1f0b7e-0000-4000-8000-000000000000"}},
        {"error_message": None, "request": None},
        {"error_message": "gone", "request": {"identifier": IDENTIFIER}},
    ]
    event = json.loads(notification("evt_mixed")) | {
        "related_object": {"id": unknown.meters().meters()["Metering_requests"].id},
        "data": {"reason": {"error_types": [{"code": "meter_event_customer_not_found", "sample_errors": samples}]}},
    }
    unknown.stripe.keep_event(event)
    assert functions.receive(request(notification("evt_mixed")))["statusCode"] == 200
    assert unknown.in_ledger("customer#acme") == {"requests": (1, "REJECTED"), "bytes": (10, "POSTED")}


@pytest.mark.parametrize("fault", [Fault.ERROR_BEFORE, Fault.RATE_LIMITED])
def test_a_report_that_cannot_be_fetched_now_is_not_taken(functions: Functions, unknown: World, fault: Fault) -> None:
    """I1: Stripe sends it again. It is asked once: it gives an answer some seconds only."""
    body, *_ = notifications(unknown)
    unknown.stripe.set_faults([fault], route="GET /v2/core/events/:id")
    with pytest.raises(StripeUnavailableError):
        functions.receive(request(body))
    assert unknown.stripe.calls["GET /v2/core/events/:id"] == 1
    assert functions.receive(request(body))["statusCode"] == 200
    assert "REJECTED" in {state for _, state in unknown.in_ledger("customer#acme").values()}


# --- before there is a secret ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", ["null", "{}", KEY, {"api_key": KEY}, {"api_key": KEY, "webhook_secret": ""}])
def test_without_a_signing_secret_everything_is_refused(
    functions: Functions, unknown: World, values: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """I7: before 'metering stripe webhook' nobody can have signed anything; an empty secret signs nothing."""
    put_secret(SIGNING_SECRET, " ")
    put_secret(SECRET, values if isinstance(values, str) else json.dumps(values))
    body, *_ = notifications(unknown)
    why = refused(functions, request(body, sign(body, secret="")), capsys)
    assert why == "no signing secret is known: 'metering stripe webhook' puts it"


def test_a_signing_secret_that_stands_beside_the_key_is_still_read(functions: Functions, unknown: World) -> None:
    """As before there was one of its own, and until there is; once for many requests."""
    put_secret(SIGNING_SECRET, " ")
    put_secret(SECRET, json.dumps({"api_key": KEY, "webhook_secret": SIGNS}))
    asked: list[Any] = []
    secrets: Any = clients.secrets()
    secrets.before.append(lambda _, arguments: asked.append(arguments["SecretId"]))
    body, *_ = notifications(unknown)
    for signature in (FORGED, FORGED, sign(body), FORGED):
        functions.receive(request(body, signature))
    assert "REJECTED" in {state for _, state in unknown.in_ledger("customer#acme").values()}
    assert asked == [SIGNING_SECRET, SECRET]


def test_a_signing_secret_of_its_own_goes_before_the_older_one(functions: Functions, unknown: World) -> None:
    """I7: whoever can write the key's secret cannot sign."""
    put_secret(SECRET, json.dumps({"api_key": KEY, "webhook_secret": "whsec_older"}))
    body, *_ = notifications(unknown)
    assert functions.receive(request(body, sign(body, secret="whsec_older")))["statusCode"] == 400
    assert functions.receive(request(body))["statusCode"] == 200


@pytest.mark.parametrize("name", ["LEDGER_TABLE", "DEPLOYMENT", "STRIPE_SECRET", "SIGNING_SECRET", "STRIPE_API_BASE"])
def test_a_missing_setting_of_receive_events_is_named(
    functions: Functions, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment error is read off the log."""
    monkeypatch.delenv(name)
    with pytest.raises(SettingsError, match=f"^the environment must set {name}$"):
        functions.receive(request("{}"))


def test_no_secret_is_logged_or_answered(
    functions: Functions, unknown: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """I8: neither the signing secret nor the key nor a signature."""
    answers = []
    for body in notifications(unknown):
        signature = sign(body)
        answers += [functions.receive(request(body)), functions.receive(request(body, signature + "0"))]
        printed = capsys.readouterr()
        everything = printed.out + printed.err + functions.log.getvalue() + json.dumps(answers)
        for secret in (SIGNS, "k3yvalue", KEY, signature, signature.partition("v1=")[2]):
            assert secret not in everything


def test_a_hundred_refusals_ask_for_the_secret_once(functions: Functions) -> None:
    """Anyone may call the address, and each look at the secret costs money."""
    asked = []
    secrets: Any = clients.secrets()
    secrets.before.append(lambda *_: asked.append(1))
    for _ in range(100):
        functions.receive(request("{}", FORGED))
    assert len(asked) == 1


@pytest.mark.parametrize(
    "sent",
    [
        {"headers": {"stripe-signature": signature}}
        for signature in ("", "nonsense", "t=1", "t=,v1=", f"v1={'0' * 64}", f"t=é,v1={'0' * 64}", "t=1,v1=0123")
    ]
    + [
        {"headers": {}},
        {"headers": None},
        {"headers": {"stripe-signature": None}},
        {"body": "x" * (LARGEST_BODY + 1)},
        {"body": "é" * (LARGEST_BODY // 2 + 1)},
        {"body": "x" * 6_000_000, "isBase64Encoded": True},
        {"body": "AAAA" * (LARGEST_BODY // 3 + 1), "isBase64Encoded": True},
        {"body": "no base64!", "isBase64Encoded": True},
        {"body": "\ud800"},
    ],
    ids=lambda sent: str(sent)[:60],
)
def test_what_stripe_cannot_have_signed_asks_for_no_secret(
    functions: Functions, sent: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor for anything else, and is refused without a trace of how."""
    asked = failing_secrets("AccessDeniedException")
    refused(functions, request("{}", FORGED) | sent, capsys)
    assert asked == []
    assert "Traceback" not in functions.log.getvalue()


NOT_THERE = "ResourceNotFoundException"


@pytest.mark.parametrize(("code", "answer"), [(NOT_THERE, 400), ("AccessDeniedException", 502)])
def test_a_hundred_requests_without_a_secret_ask_for_it_once(functions: Functions, code: str, answer: int) -> None:
    """From the deployment to 'metering stripe connect' there is none."""
    asked = failing_secrets(code)
    assert [status(functions, FORGED) for _ in range(100)] == [answer] * 100
    assert len(asked) == (2 if code == NOT_THERE else 1)  # its own, and where it stood before


@pytest.mark.parametrize("code", [NOT_THERE, "AccessDeniedException", "ThrottlingException"])
def test_half_a_minute_later_the_secret_is_looked_for_again(world: World, code: str) -> None:
    """And found, as soon as it is there; then it is kept for five minutes."""
    in_memory: Any = boto3.client("secretsmanager")
    in_memory.create_secret(Name=SIGNING_SECRET, SecretString=SIGNS)
    clock, asked = Clock(world.now), failing_secrets(code)
    secret = signing_secret_from(SecretsProvider(boto3_client=clients.secrets()), SIGNING_SECRET, SECRET, clock)
    assert [look(secret), look(secret)] == ["" if code == NOT_THERE else f"cannot be read: {code}"] * 2
    clock.advance(29)
    look(secret)
    once = len(asked)
    assert once == (2 if code == NOT_THERE else 1)
    clock.advance(1)
    look(secret)
    assert len(asked) == 2 * once
    clock.advance(30)
    secrets: Any = clients.secrets()
    secrets.before.clear()
    assert look(secret) == SIGNS
    put_secret(SIGNING_SECRET, "whsec_rolled")
    clock.advance(299)
    assert look(secret) == SIGNS
    clock.advance(1)
    assert look(secret) == "whsec_rolled"


def failing_secrets(code: str) -> list[str]:
    """Let Secrets Manager fail from now on; return what it will be asked."""
    asked: list[str] = []

    def fail(operation: str, _: Any) -> None:
        asked.append(operation)
        raise ClientError({"Error": {"Code": code}}, operation)

    secrets: Any = clients.secrets()
    secrets.before.append(fail)
    return asked


def look(secret: Callable[[], str]) -> str:
    """Return the signing secret, or the end of what is said in its place."""
    try:
        return secret()
    except StripeNotConnectedError as error:
        return str(error).removeprefix("the signing secret ")


def status(functions: Functions, signature: str) -> int:
    """Return what a request with this signature is answered: 502 for an error, as AWS does."""
    try:
        return int(functions.receive(request("{}", signature))["statusCode"])
    except StripeNotConnectedError:
        return 502


def test_a_report_of_a_closed_hour_counts_days_later(functions: Functions, unknown: World) -> None:
    """I4: a report that comes a day later marks the row all the same."""
    bodies = notifications(unknown)
    unknown.now += timedelta(days=1)
    unknown.run()
    for body in bodies:
        functions.receive(request(body))
    assert unknown.in_ledger("customer#acme")["requests"] == (1, "REJECTED")
