"""The v2 meter event stream and the error reports of the local Stripe, driven with the official SDK."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, cast

import pytest
from stripe import RequestsClient, SignatureVerificationError, StripeClient, StripeError

from infra.local.stripe.faults import Fault
from infra.local.stripe.server import LocalStripe

HOUR = 1_795_323_600  # 2026-11-22T05:00:00Z
NOW = HOUR + 4_200
SECRET = "whsec_test"
STREAM = "POST /v2/billing/meter_event_stream"


@pytest.fixture
def http_client() -> Iterator[RequestsClient]:
    """The SDK's own HTTP client."""
    with closing(RequestsClient(timeout=60)) as http_client:
        yield http_client


@pytest.fixture
def stripe(http_client: RequestsClient) -> Iterator[LocalStripe]:
    """An account with the meter `calls`, an archived meter `bytes` and the customer `cus_a`."""
    with LocalStripe(now=lambda: NOW) as stripe:
        stripe.add_customer("cus_a")
        client = connect(stripe, http_client)
        for name in ("calls", "bytes"):
            meter = client.v1.billing.meters.create(
                {
                    "display_name": name,
                    "event_name": name,
                    "default_aggregation": {"formula": "sum"},
                    "event_time_window": "hour",
                }
            )
        client.v1.billing.meters.deactivate(meter.id)
        yield stripe


def connect(stripe: LocalStripe, http_client: RequestsClient, key: str = "") -> StripeClient:
    """Make a client whose stream is here, too."""
    return StripeClient(
        key or stripe.api_key,
        base_addresses={"api": stripe.url, "meter_events": stripe.url},
        http_client=http_client,
        max_network_retries=0,
    )


@pytest.fixture
def client(stripe: LocalStripe, http_client: RequestsClient) -> StripeClient:
    """A client with the API key."""
    return connect(stripe, http_client)


@pytest.fixture
def stream(stripe: LocalStripe, http_client: RequestsClient, client: StripeClient) -> StripeClient:
    """A client with a session's token."""
    session = client.v2.billing.meter_event_session.create()
    assert (session.created, session.expires_at) == ("2026-11-22T06:10:00.000Z", "2026-11-22T06:25:00.000Z")
    return connect(stripe, http_client, session.authentication_token)


def event(
    identifier: str,
    value: str = "1",
    *,
    customer: str = "cus_a",
    name: str = "calls",
    timestamp: str = "2026-11-22T05:50:00Z",
) -> Any:
    """Make an event of the stream."""
    payload = {"stripe_customer_id": customer, "value": value}
    return {"event_name": name, "identifier": identifier, "payload": payload, "timestamp": timestamp}


def send(stream: StripeClient, *events: Any) -> None:
    """Send events in one call."""
    stream.v2.billing.meter_event_stream.create({"events": list(events)})


class TestStream:
    """`POST /v2/billing/meter_event_stream`."""

    def test_events_count_in_the_same_meters_as_v1(
        self, stripe: LocalStripe, client: StripeClient, stream: StripeClient
    ) -> None:
        """The latest of an hour stands, whichever way it came."""
        client.v1.billing.meter_events.create(
            {"event_name": "calls", "payload": {"stripe_customer_id": "cus_a", "value": "5"}, "timestamp": HOUR}
        )
        send(stream, event("e1", "7"), event("e2", "9", timestamp="2026-11-22T07:10:00.5+01:00"))
        assert stripe.hour_totals() == {("cus_a", "calls", HOUR): 7, ("cus_a", "calls", HOUR + 3_600): 9}

    def test_a_repeated_identifier_is_ignored(
        self, stripe: LocalStripe, client: StripeClient, stream: StripeClient
    ) -> None:
        """Within a call, of an earlier call, and of v1."""
        payload = {"stripe_customer_id": "cus_a", "value": "5"}
        client.v1.billing.meter_events.create({"event_name": "calls", "identifier": "e0", "payload": payload})
        send(stream, event("e1", "7"), event("e1", "8"), event("e0", "1"))
        send(stream, event("e1", "9"))
        assert [(each.identifier, each.value) for each in stripe.events] == [("e0", 5), ("e1", 7)]

    @pytest.mark.parametrize(
        "events",
        [
            [],
            [event(f"e{number}") for number in range(101)],
            [event("e1"), {"payload": {}}],
            [event("e1"), event("i" * 101)],
            [event("e1"), event("e2") | {"payload": {"value": 1}}],
            [event("e1"), event("e2") | {"timestamp": HOUR}],
            [event("e1"), event("e2", timestamp="2026-11-22T05:50:00")],
            [event("e1"), event("e2") | {"surprise": 1}],
        ],
    )
    def test_a_malformed_event_refuses_the_whole_call(
        self, stripe: LocalStripe, stream: StripeClient, events: list[Any]
    ) -> None:
        """Also those beside it, and nothing is reported later."""
        with pytest.raises(StripeError) as error:
            send(stream, *events)
        assert error.value.http_status == 400
        assert stripe.events == []
        assert stripe.report_errors() == []

    def test_a_session_ends_after_fifteen_minutes(self, stripe: LocalStripe, stream: StripeClient) -> None:
        """A second before it does not."""
        stripe.advance(899)
        send(stream, event("e1"))
        stripe.advance(1)
        with pytest.raises(StripeError) as error:
            send(stream, event("e2"))
        assert type(error.value).__name__ == "TemporarySessionExpiredError"
        assert (error.value.http_status, error.value.code) == (401, "billing_meter_event_session_expired")

    def test_the_stream_takes_tokens_and_the_api_takes_keys(
        self, stripe: LocalStripe, client: StripeClient, stream: StripeClient
    ) -> None:
        """Not the other way about."""
        for refused in (
            lambda: send(client, event("e1")),
            stream.v1.customers.list,
            stream.v2.billing.meter_event_session.create,
        ):
            with pytest.raises(StripeError) as error:
                refused()
            assert error.value.http_status == 401
        assert stripe.events == []

    def test_the_stream_can_fail(self, stripe: LocalStripe, stream: StripeClient) -> None:
        """Accepted or not."""
        stripe.set_faults([Fault.ERROR_BEFORE, Fault.ERROR_AFTER, Fault.RATE_LIMITED], route=STREAM)
        for number, status in enumerate([500, 500, 429]):
            with pytest.raises(StripeError) as error:
                send(stream, event(f"e{number}"))
            assert error.value.http_status == status
        assert [each.identifier for each in stripe.events] == ["e1"]


class TestReports:
    """Events that were accepted and cannot be counted."""

    def test_each_meter_has_a_report_with_what_was_wrong(
        self, stripe: LocalStripe, client: StripeClient, stream: StripeClient
    ) -> None:
        """By code; a name that no meter has is reported without one."""
        send(
            stream,
            event("good"),
            event("who", customer="cus_none"),
            event("nobody", customer=""),
            event("words", "many"),
            event("long", "1234567890123456"),
            event("old", timestamp="2026-10-18T06:09:59Z"),
            event("early", timestamp="2026-11-22T06:15:01Z"),
            event("archived", name="bytes"),
            event("unknown", name="sessions"),
        )
        assert [each.identifier for each in stripe.rejected_events] == ["who"]
        calls, archived, unknown = [
            cast("Any", client.v2.core.events.retrieve(each)) for each in stripe.report_errors()
        ]
        assert {each.code: each.sample_errors[0].request.identifier for each in calls.data.reason.error_types} == {
            "meter_event_customer_not_found": "who",
            "meter_event_no_customer_defined": "nobody",
            "meter_event_invalid_value": "words",
            "meter_event_value_too_many_digits": "long",
            "timestamp_too_far_in_past": "old",
            "timestamp_in_future": "early",
        }
        assert (calls.type, calls.data.reason.error_count) == ("v1.billing.meter.error_report_triggered", 6)
        assert calls.data.developer_message_summary == "There are 6 invalid events"
        assert (calls.data.validation_start, calls.data.validation_end) == (
            "2026-11-22T06:10:00.000Z",
            "2026-11-22T06:10:01.000Z",
        )
        assert calls.fetch_related_object().event_name == "calls"
        assert archived.data.reason.error_types[0].code == "archived_meter"
        assert archived.fetch_related_object().status == "inactive"
        assert (unknown.type, unknown.data.reason.error_types[0].code) == (
            "v1.billing.meter.no_meter_found",
            "no_meter",
        )
        assert stripe.report_errors() == []

    def test_an_unknown_customer_of_v1_is_reported_too(self, stripe: LocalStripe, client: StripeClient) -> None:
        """Stripe accepts it at first; of many alike, a few are named."""
        for number in range(7):
            client.v1.billing.meter_events.create(
                {
                    "event_name": "calls",
                    "identifier": f"e{number}",
                    "payload": {"stripe_customer_id": "cus_none", "value": "5"},
                }
            )
        [report] = stripe.report_errors()
        [wrong] = cast("Any", client.v2.core.events.retrieve(report)).data.reason.error_types
        assert (wrong.code, wrong.error_count, len(wrong.sample_errors)) == ("meter_event_customer_not_found", 7, 5)
        with pytest.raises(StripeError) as error:
            client.v2.core.events.retrieve("evt_none")
        assert error.value.http_status == 404


@contextmanager
def endpoint(*answers: int) -> Iterator[tuple[str, list[tuple[bytes, str]]]]:
    """Listen for webhooks, answering with these statuses and then with 200; give the address and what arrived."""
    arrived: list[tuple[bytes, str]] = []
    statuses = iter(answers)

    class Endpoint(BaseHTTPRequestHandler):
        """Keeps every body and its signature."""

        def do_POST(self) -> None:
            """Answer with the next status."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            arrived.append((body, self.headers["Stripe-Signature"]))
            self.send_response(next(statuses, 200))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", arrived
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestWebhooks:
    """What an endpoint gets."""

    def test_a_notification_is_one_that_the_sdk_accepts(
        self, stripe: LocalStripe, client: StripeClient, stream: StripeClient
    ) -> None:
        """Its signature is right, it names the meter, and the event can be fetched from it."""
        send(stream, event("who", customer="cus_none"), event("unknown", name="sessions"))
        with endpoint() as (url, arrived):
            stripe.set_webhook(url, SECRET)
            stripe.report_errors()
        notifications = [cast("Any", client.parse_event_notification(*each, SECRET)) for each in arrived]
        assert [notification.type for notification in notifications] == [
            "v1.billing.meter.error_report_triggered",
            "v1.billing.meter.no_meter_found",
        ]
        assert notifications[0].fetch_related_object().event_name == "calls"
        [wrong] = notifications[0].fetch_event().data.reason.error_types
        assert wrong.sample_errors[0].request.identifier == "who"
        with pytest.raises(SignatureVerificationError):
            client.parse_event_notification(arrived[0][0] + b" ", arrived[0][1], SECRET)

    def test_a_webhook_that_fails_is_tried_again(self, stripe: LocalStripe, stream: StripeClient) -> None:
        """With the same event, a few times."""
        send(stream, event("who", customer="cus_none"))
        with endpoint(500, 400) as (url, arrived):
            stripe.set_webhook(url, SECRET)
            stripe.report_errors()
        assert len(arrived) == 3
        assert len({body for body, _ in arrived}) == 1

    def test_a_webhook_that_is_gone_loses_nothing_else(
        self, stripe: LocalStripe, client: StripeClient, stream: StripeClient
    ) -> None:
        """The event can still be fetched."""
        send(stream, event("who", customer="cus_none"))
        with endpoint() as (url, arrived):
            pass
        stripe.set_webhook(url, SECRET)
        [report] = stripe.report_errors()
        assert arrived == []
        assert client.v2.core.events.retrieve(report).id == report

    def test_another_process_sets_the_webhook_and_asks_for_reports(
        self, stripe: LocalStripe, stream: StripeClient
    ) -> None:
        """By the routes that Stripe has not."""
        send(stream, event("who", customer="cus_none"))

        def control(name: str, **body: str) -> Any:
            with urllib.request.urlopen(f"{stripe.url}/_local/{name}", json.dumps(body).encode()) as answer:  # noqa: S310
                return json.load(answer)

        with endpoint() as (url, arrived):
            control("webhook", url=url, secret=SECRET)
            [report] = control("report_errors")
        assert [json.loads(body)["id"] for body, _ in arrived] == [report]
