"""Event destinations of the local Stripe, driven with the official SDK: who is sent its thin events."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from stripe import InvalidRequestError, PermissionError, RequestsClient, StripeClient  # noqa: A004 - Stripe's

from infra.local.stripe.server import LocalStripe

REPORT = "v1.billing.meter.error_report_triggered"
SEES = "rk_test_sees"


@pytest.fixture
def stripe() -> Iterator[LocalStripe]:
    """An account, with a key that may see destinations and make none."""
    with LocalStripe(restricted_keys={SEES: {"webhook": "read"}}) as made:
        yield made


@pytest.fixture
def client(stripe: LocalStripe) -> Iterator[StripeClient]:
    """Return Stripe's own client."""
    with closing(RequestsClient()) as http_client:
        yield StripeClient(stripe.api_key, base_addresses={"api": stripe.url}, http_client=http_client)


def make(client: StripeClient, url: str = "https://example.com/hook", **more: Any) -> Any:
    """Make a webhook endpoint for error reports."""
    params: Any = {
        "name": "ours",
        "type": "webhook_endpoint",
        "event_payload": "thin",
        "enabled_events": [REPORT],
        "webhook_endpoint": {"url": url},
    }
    return client.v2.core.event_destinations.create(params | more)


def test_a_signing_secret_is_shown_once_and_only_where_it_is_asked_for(client: StripeClient) -> None:
    """As the reference has it: neither retrieved nor listed later; the address is, where it is included."""
    silent = make(client)
    assert (silent.webhook_endpoint.signing_secret, silent.webhook_endpoint.url) == (None, None)
    made = make(client, include=["webhook_endpoint.signing_secret"])
    assert made.webhook_endpoint.signing_secret.startswith("whsec_")
    listed = client.v2.core.event_destinations.list({"include": ["webhook_endpoint.url"]}).data
    assert [(one.id, one.enabled_events, one.status) for one in listed] == [
        (silent.id, [REPORT], "enabled"),
        (made.id, [REPORT], "enabled"),
    ]
    endpoints: Any = [one.webhook_endpoint for one in listed]
    assert {(one.signing_secret, one.url) for one in endpoints} == {(None, "https://example.com/hook")}
    unseen: Any = client.v2.core.event_destinations.list().data[0].webhook_endpoint
    assert unseen.url is None
    wrong: Any = {"include": ["webhook_endpoint.signing_secret"]}
    with pytest.raises(InvalidRequestError, match="cannot be included"):
        client.v2.core.event_destinations.list(wrong)


def test_a_list_of_many_has_pages(client: StripeClient) -> None:
    """Each names the next."""
    for number in range(5):
        make(client, f"https://example.com/{number}")
    listed = client.v2.core.event_destinations.list({"limit": 2, "include": ["webhook_endpoint.url"]})
    assert len(listed.data) == 2
    urls = [one.webhook_endpoint.url for one in listed.auto_paging_iter() if one.webhook_endpoint]
    assert urls == [f"https://example.com/{number}" for number in range(5)]


def test_which_events_a_destination_is_sent_can_be_changed(client: StripeClient) -> None:
    """And nothing else of it changes with that."""
    made = make(client)
    both = [REPORT, "v1.customer.subscription.updated"]
    client.v2.core.event_destinations.update(made.id, {"enabled_events": both})
    (listed,) = client.v2.core.event_destinations.list().data
    assert (listed.id, listed.name, listed.enabled_events) == (made.id, "ours", both)
    with pytest.raises(InvalidRequestError, match="not found"):
        client.v2.core.event_destinations.update("ed_none", {"enabled_events": both})


def test_what_happens_to_a_subscription_is_told_by_a_thin_event(stripe: LocalStripe, client: StripeClient) -> None:
    """It names the subscription, which is then read; what it has become is in no notification."""
    stripe.add_customer("cus_acme")
    product = client.v1.products.create({"name": "Fee"}).id
    price = client.v1.prices.create(
        {"currency": "usd", "product": product, "recurring": {"interval": "day"}, "unit_amount": 100}
    )
    with endpoint() as (url, arrived):
        made = make(client, url, enabled_events=["v1.customer.subscription.updated"])
        subscription = client.v1.subscriptions.create({"customer": "cus_acme", "items": [{"price": price.id}]}).id
        stripe.advance(86_400)
        stripe.set_status(subscription, "past_due")
        client.v1.subscriptions.cancel(subscription)
        told = stripe.tell_changes()
        assert stripe.tell_changes() == []
    kinds = [client.raw_request("get", f"/v2/core/events/{event}").data["type"] for event in told]
    assert [kind.rpartition(".")[2] for kind in kinds] == ["created", "updated", "updated", "deleted"]
    ping, renewed, changed = (json.loads(body) for body, _ in arrived)
    assert ping["related_object"]["id"] == made.id
    assert (renewed["id"], changed["id"]) == (told[1], told[2])
    assert renewed["related_object"] == {
        "id": subscription,
        "type": "subscription",
        "url": f"/v1/subscriptions/{subscription}",
    }
    assert "data" not in renewed


@pytest.mark.parametrize(
    "more", [{"type": "amazon_eventbridge"}, {"enabled_events": []}, {"snapshot_api_version": "x"}]
)
def test_what_is_not_known_here_is_refused(client: StripeClient, more: dict[str, Any]) -> None:
    """Rather than left without effect."""
    with pytest.raises(InvalidRequestError):
        make(client, **more)


def test_a_key_needs_the_right_of_webhooks(stripe: LocalStripe) -> None:
    """Reading is not enough to make one."""
    sees = StripeClient(SEES, base_addresses={"api": stripe.url})
    assert sees.v2.core.event_destinations.list().data == []
    with pytest.raises(PermissionError):
        make(sees)


@contextmanager
def endpoint() -> Iterator[tuple[str, list[tuple[bytes, str]]]]:
    """Listen for notifications; give the address, and what arrives with its signature."""
    arrived: list[tuple[bytes, str]] = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Keep what arrives."""
            arrived.append((self.rfile.read(int(self.headers["Content-Length"])), self.headers["Stripe-Signature"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", arrived
        server.shutdown()
        thread.join()


def test_a_destination_gets_a_ping_and_what_it_wants(stripe: LocalStripe, client: StripeClient) -> None:
    """Signed with the secret that was shown."""
    client.v1.billing.meters.create(
        {"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}}
    )
    payload = {"stripe_customer_id": "cus_none", "value": "1"}
    client.v1.billing.meter_events.create({"event_name": "calls", "identifier": "e1", "payload": payload})
    with endpoint() as (url, arrived):
        secret = make(client, url, include=["webhook_endpoint.signing_secret"]).webhook_endpoint.signing_secret
        make(client, url, enabled_events=["v1.billing.meter.no_meter_found"])
        stripe.report_errors()
        stripe.report_errors()
    kinds = [json.loads(body)["type"] for body, _ in arrived]
    assert kinds == ["v2.core.event_destination.ping", "v2.core.event_destination.ping", REPORT]
    for body, signature in (arrived[0], arrived[2]):
        assert client.parse_event_notification(body, signature, secret).type in kinds
