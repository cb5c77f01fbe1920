"""The local Stripe has the shape of Stripe's own API, as stripe-mock knows it from Stripe's OpenAPI description.

Every request goes to both servers: stripe-mock must find it valid, and the local answer must have the same keys and
types. stripe-mock keeps nothing, so values are not compared.
"""

import os
import shutil
import socket
import subprocess
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from stripe import RequestsClient, StripeClient
from stripe.events import V1BillingMeterErrorReportTriggeredEvent, V1BillingMeterNoMeterFoundEvent
from stripe.v2.billing import MeterEventSession
from stripe.v2.core import EventDestination

from infra.local.cache import kept
from infra.local.stripe.server import LocalStripe
from tests.conftest import cannot_run
from tests.doubles.stripe_types import differences as differences_of_type

HOUR = 1_795_323_600  # 2026-11-22T05:00:00Z
STRIPE_MOCK = "v0.203.0"  # whose content Go compares with its public log of checksums
FREE_TEXT = {"metadata", "payload"}  # their keys are the caller's
OPTIONAL = (".pricing.price_details",)  # in the description of the API, but not in stripe-mock's example of a line
SNAPSHOT = ".data.object"  # of an event: whatever object it is about, each of which is compared by itself


@dataclass(frozen=True, slots=True)
class Ids:
    """The objects that the local Stripe holds; stripe-mock takes any id."""

    meter: str
    customer: str
    product: str
    price: str
    subscription: str
    invoice: str
    event: str
    clock: str
    session: str


Ask = Callable[[StripeClient, Ids], Any]


def find_stripe_mock() -> Path | None:
    """Return stripe-mock, of this version and no other, which Go installs once on a machine, where there is Go."""
    go = shutil.which("go")
    if not go:
        return None
    module = f"github.com/stripe/stripe-mock@{STRIPE_MOCK}"
    folder = kept(f"stripe-mock-{STRIPE_MOCK}", lambda into: run(go, "install", module, GOBIN=str(into)))
    return folder / "stripe-mock"


def run(*command: str, **environment: str) -> None:
    """Run a program to its end, with more environment variables."""
    done = subprocess.run(  # noqa: S603  Go, as found on PATH
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        cannot_run(f"Go could not install stripe-mock: {done.stderr.strip()}", needs="go")


def free_port() -> int:
    """Find a port that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Tell whether somebody listens on a port of this machine."""
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def stripe_mock() -> Iterator[str]:
    """The address of a running stripe-mock, on the loopback alone."""
    program = find_stripe_mock()
    if program is None:
        cannot_run("stripe-mock is installed by Go, which is not on PATH", needs="go")
    port, https_port = free_port(), free_port()
    addresses = ["-http-addr", f"127.0.0.1:{port}", "-https-addr", f"127.0.0.1:{https_port}"]
    process = subprocess.Popen(  # noqa: S603  stripe-mock, as found above
        [program, *addresses], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not answers(port):
            if process.poll() is not None:
                cannot_run(f"stripe-mock ended with status {process.returncode}", needs="go")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def mock_client(stripe_mock: str) -> Iterator[StripeClient]:
    """An SDK client of stripe-mock."""
    with closing(RequestsClient()) as http_client:
        yield StripeClient("sk_test_123", base_addresses={"api": stripe_mock}, http_client=http_client)


@pytest.fixture
def local_stripe() -> Iterator[LocalStripe]:
    """A new local Stripe, whose clock stands at 06:10."""
    with LocalStripe(now=lambda: HOUR + 4_200) as stripe:
        yield stripe


@pytest.fixture
def local_client(local_stripe: LocalStripe) -> Iterator[StripeClient]:
    """An SDK client of the local Stripe."""
    with closing(RequestsClient()) as http_client:
        yield StripeClient(local_stripe.api_key, base_addresses={"api": local_stripe.url}, http_client=http_client)


@pytest.fixture
def ids(local_client: StripeClient) -> Ids:
    """A meter and a customer with one event, who pays for a licence and for calls."""
    client = local_client.v1
    customer = client.customers.create(
        {
            "name": "Acme",
            "email": "billing@acme.example",
            "metadata": {"customer": "acme"},
            "payment_method": "pm_card_visa",
            "invoice_settings": {"default_payment_method": "pm_card_visa"},
        }
    ).id
    meter = create_meter(local_client, "calls").id
    post(local_client, customer)
    product = client.products.create({"name": "Calls", "metadata": {"metric": "calls"}}).id
    metered = create_price(local_client, product, meter).id
    price = client.prices.create(
        {"currency": "usd", "product": product, "unit_amount": 500, "recurring": {"interval": "month"}}
    ).id
    subscription = client.subscriptions.create(
        {
            "customer": customer,
            "items": [{"price": price, "quantity": 2}, {"price": metered}],
            "metadata": {"plan": "pro"},
        }
    )
    invoice = str(subscription.latest_invoice)
    clock = client.test_helpers.test_clocks.create({"frozen_time": HOUR}).id
    session = client.checkout.sessions.create(
        {"mode": "setup", "customer": customer, "currency": "usd", "success_url": "https://usage.example/"}
    ).id
    event = client.events.list().data[0].id
    return Ids(meter, customer, product, price, subscription.id, invoice, event, clock, session)


def create_price(client: StripeClient, product: str, meter: str, **more: Any) -> Any:
    """Create a price as a deployment does."""
    params: Any = {
        "currency": "usd",
        "product": product,
        "recurring": {"interval": "month", "usage_type": "metered", "meter": meter},
        "billing_scheme": "tiered",
        "tiers_mode": "graduated",
        "tiers": [{"up_to": 1_000, "flat_amount": 500}, {"up_to": "inf", "unit_amount_decimal": "0.0004"}],
        "metadata": {"metric": "calls"},
    }
    return client.v1.prices.create(params | more)


def create_meter(client: StripeClient, event_name: str) -> Any:
    """Create a meter as a deployment does."""
    return client.v1.billing.meters.create(
        {
            "display_name": "Calls",
            "event_name": event_name,
            "default_aggregation": {"formula": "sum"},
            "event_time_window": "hour",
            "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
            "value_settings": {"event_payload_key": "value"},
        }
    )


def post(client: StripeClient, customer: str) -> Any:
    """Post an hour's total."""
    return client.v1.billing.meter_events.create(
        {
            "event_name": "calls",
            "identifier": f"{customer}.{time.monotonic_ns()}",
            "payload": {"stripe_customer_id": customer, "value": "42"},
            "timestamp": HOUR + 3_000,
        }
    )


def summaries(client: StripeClient, ids: Ids, **grouping: Any) -> Any:
    """Read what an hour holds."""
    params: Any = {"customer": ids.customer, "start_time": HOUR, "end_time": HOUR + 3_600} | grouping
    return client.v1.billing.meters.event_summaries.list(ids.meter, params)


REQUESTS: dict[str, Ask] = {
    "create a meter": lambda client, _: create_meter(client, "bytes"),
    "list meters": lambda client, _: client.v1.billing.meters.list({"status": "active", "limit": 3}),
    "list meters after one": lambda client, ids: client.v1.billing.meters.list({"starting_after": ids.meter}),
    "retrieve a meter": lambda client, ids: client.v1.billing.meters.retrieve(ids.meter),
    "update a meter": lambda client, ids: client.v1.billing.meters.update(ids.meter, {"display_name": "API calls"}),
    "deactivate a meter": lambda client, ids: client.v1.billing.meters.deactivate(ids.meter),
    "reactivate a meter": lambda client, ids: client.v1.billing.meters.reactivate(ids.meter),
    "post a meter event": lambda client, ids: post(client, ids.customer),
    "summarise a range": summaries,
    "summarise by hour": lambda client, ids: summaries(client, ids, value_grouping_window="hour", limit=100),
    "create a customer": lambda client, _: client.v1.customers.create(
        {"name": "Beta", "email": "b@beta.test", "metadata": {"customer": "beta"}}
    ),
    "list customers": lambda client, _: client.v1.customers.list({"limit": 3}),
    "list customers by email": lambda client, _: client.v1.customers.list({"email": "b@beta.test"}),
    "retrieve a customer": lambda client, ids: client.v1.customers.retrieve(ids.customer),
    "update a customer": lambda client, ids: client.v1.customers.update(ids.customer, {"metadata": {"plan": "pro"}}),
    "delete a customer": lambda client, ids: client.v1.customers.delete(ids.customer),
    "create a test clock": lambda client, _: client.v1.test_helpers.test_clocks.create({"frozen_time": HOUR}),
    "list test clocks": lambda client, _: client.v1.test_helpers.test_clocks.list({"limit": 3}),
    "retrieve a test clock": lambda client, ids: client.v1.test_helpers.test_clocks.retrieve(ids.clock),
    "advance a test clock": lambda client, ids: client.v1.test_helpers.test_clocks.advance(
        ids.clock, {"frozen_time": HOUR + 7_200}
    ),
    "delete a test clock": lambda client, ids: client.v1.test_helpers.test_clocks.delete(ids.clock),
    "create a customer of a test clock": lambda client, ids: client.v1.customers.create({"test_clock": ids.clock}),
    "attach a payment method": lambda client, ids: client.v1.payment_methods.attach(
        "pm_card_visa", {"customer": ids.customer}
    ),
    "list a customer's payment methods": lambda client, ids: client.v1.customers.payment_methods.list(
        ids.customer, {"limit": 1}
    ),
    "create a customer with a card": lambda client, _: client.v1.customers.create(
        {"payment_method": "pm_card_visa", "invoice_settings": {"default_payment_method": "pm_card_visa"}}
    ),
    "create a Checkout session": lambda client, ids: client.v1.checkout.sessions.create(
        {
            "mode": "setup",
            "customer": ids.customer,
            "currency": "usd",
            "success_url": "https://usage.example/",
            "cancel_url": "https://usage.example/",
        }
    ),
    "retrieve a Checkout session": lambda client, ids: client.v1.checkout.sessions.retrieve(ids.session),
    "create a session of the customer portal": lambda client, ids: client.v1.billing_portal.sessions.create(
        {"customer": ids.customer, "return_url": "https://usage.example/"}
    ),
    "create a product": lambda client, _: client.v1.products.create({"name": "Bytes", "metadata": {"metric": "bytes"}}),
    "list products": lambda client, _: client.v1.products.list({"active": True, "limit": 3}),
    "retrieve a product": lambda client, ids: client.v1.products.retrieve(ids.product),
    "update a product": lambda client, ids: client.v1.products.update(ids.product, {"active": False}),
    "create a tiered price": lambda client, ids: create_price(client, ids.product, ids.meter),
    "create a package price": lambda client, ids: client.v1.prices.create(
        {
            "currency": "usd",
            "product": ids.product,
            "unit_amount": 200,
            "lookup_key": "calls",
            "transfer_lookup_key": True,
            "transform_quantity": {"divide_by": 1_000, "round": "up"},
            "recurring": {"interval": "month", "usage_type": "metered", "meter": ids.meter},
        }
    ),
    "list prices": lambda client, ids: client.v1.prices.list(
        {"active": True, "product": ids.product, "expand": ["data.tiers"]}
    ),
    "list prices by lookup key": lambda client, _: client.v1.prices.list({"lookup_keys": ["calls"]}),
    "retrieve a price": lambda client, ids: client.v1.prices.retrieve(ids.price, {"expand": ["tiers"]}),
    "update a price": lambda client, ids: client.v1.prices.update(
        ids.price, {"active": False, "lookup_key": "seats", "transfer_lookup_key": True, "nickname": "Seats"}
    ),
    "create a subscription": lambda client, ids: client.v1.subscriptions.create(
        {
            "customer": ids.customer,
            "items": [{"price": ids.price}],
            "billing_mode": {"type": "flexible"},
            "billing_cycle_anchor": HOUR + 7_200,
            "backdate_start_date": HOUR,
            "proration_behavior": "none",
            "collection_method": "send_invoice",
            "days_until_due": 14,
        }
    ),
    "list subscriptions": lambda client, ids: client.v1.subscriptions.list(
        {"customer": ids.customer, "status": "all", "price": ids.price}
    ),
    "retrieve a subscription": lambda client, ids: client.v1.subscriptions.retrieve(ids.subscription),
    "update a subscription": lambda client, ids: client.v1.subscriptions.update(
        ids.subscription, {"metadata": {"plan": "free"}, "items": []}
    ),
    "cancel a subscription": lambda client, ids: client.v1.subscriptions.cancel(
        ids.subscription, {"invoice_now": True}
    ),
    "list invoices": lambda client, ids: client.v1.invoices.list(
        {"customer": ids.customer, "subscription": ids.subscription, "status": "open", "created": {"gte": HOUR}}
    ),
    "retrieve an invoice": lambda client, ids: client.v1.invoices.retrieve(ids.invoice),
    "list an invoice's lines": lambda client, ids: client.v1.invoices.line_items.list(ids.invoice, {"limit": 100}),
    "preview a subscription's invoice": lambda client, ids: client.v1.invoices.create_preview(
        {"subscription": ids.subscription}
    ),
    "list events": lambda client, _: client.v1.events.list({"type": "invoice.finalized", "created": {"gte": HOUR}}),
    "list events of types": lambda client, _: client.v1.events.list({"types": ["invoice.created"], "limit": 3}),
    "retrieve an event": lambda client, ids: client.v1.events.retrieve(ids.event),
}


def kind(value: Any) -> str:
    """Name the JSON type of a value."""
    if value is None:
        return "null"
    kinds = {bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "object"}
    return next(name for type_, name in kinds.items() if isinstance(value, type_))  # the SDK's objects are OrderedDicts


def differences(ours: Any, theirs: Any, at: str = "") -> list[str]:
    """Name every place where two answers differ in keys or types; null has the shape of anything."""
    kinds = (kind(ours), kind(theirs))
    found: list[str] = []
    if at.endswith(SNAPSHOT) and kinds == ("object", "object"):
        return []
    if "null" not in kinds and kinds[0] != kinds[1]:
        found = [f"{at}: {kinds[0]} is not {kinds[1]}"]
    elif kinds == ("list", "list") and ours and theirs:
        found = differences(ours[0], theirs[0], f"{at}[0]")
    elif kinds == ("object", "object") and at.rpartition(".")[2] in FREE_TEXT:
        found = [f"{at}.{key}: {kind(value)} is not text" for key, value in ours.items() if kind(value) != "text"]
    elif kinds == ("object", "object"):
        lonely = (f"{at}.{key}" for key in sorted(ours.keys() ^ theirs.keys()))
        found = [f"{path}: only one of the two has it" for path in lonely if not path.endswith(OPTIONAL)]
        for key in sorted(ours.keys() & theirs.keys()):
            found += differences(ours[key], theirs[key], f"{at}.{key}")
    return found


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
def test_an_answer_has_the_shape_of_stripes_own(
    local_client: StripeClient, mock_client: StripeClient, ids: Ids, request_: Ask
) -> None:
    """stripe-mock finds the request valid and answers with the keys and types that the local Stripe answers with."""
    ours, theirs = request_(local_client, ids).last_response, request_(mock_client, ids).last_response
    assert (ours.code, theirs.code) == (200, 200)
    assert differences(ours.data, theirs.data) == []


def test_a_finalised_invoice_has_the_shape_of_stripes_own(mock_client: StripeClient) -> None:
    """It was a draft of a period that has ended; then no draft is left."""
    with LocalStripe(now=lambda: HOUR) as stripe, closing(RequestsClient()) as http_client:
        client = StripeClient(stripe.api_key, base_addresses={"api": stripe.url}, http_client=http_client)
        stripe.add_customer("cus_a")
        product = client.v1.products.create({"name": "Calls"}).id
        price = create_price(client, product, create_meter(client, "calls").id).id
        client.v1.subscriptions.create({"customer": "cus_a", "items": [{"price": price}]})
        stripe.advance(30 * 86_400)
        [draft] = client.v1.invoices.list({"status": "draft"}).data
        finals: list[Any] = [each.v1.invoices.finalize_invoice(draft.id) for each in (client, mock_client)]
        ours, theirs = (final.last_response.data for final in finals)
        assert differences(ours, theirs) == []
        assert client.v1.invoices.list({"status": "draft"}).data == []


def test_the_object_inside_an_event_has_the_shape_of_stripes_own(
    local_client: StripeClient, mock_client: StripeClient, ids: Ids
) -> None:
    """In the pinned version: an account whose default is an older one has older objects in its events."""
    stripes_own: dict[str, Callable[[], Any]] = {
        "invoice": lambda: mock_client.v1.invoices.retrieve(ids.invoice),
        "subscription": lambda: mock_client.v1.subscriptions.retrieve(ids.subscription),
    }
    listed: Any = local_client.v1.events.list().last_response
    snapshots = {event["data"]["object"]["object"]: event["data"]["object"] for event in listed.data["data"]}
    assert snapshots.keys() == stripes_own.keys()
    for name, ask in stripes_own.items():
        assert differences(snapshots[name], ask().last_response.data) == []


def test_answers_of_v2_are_of_the_sdks_own_types(local_stripe: LocalStripe, local_client: StripeClient) -> None:
    """Which stripe-mock does not know: a session, and events of both kinds, of which one has what its type has not.

    That one is as the guide gives it ("Example error event for an incorrect meter").
    """
    create_meter(local_client, "calls")
    session: Any = local_client.v2.billing.meter_event_session.create()
    assert differences_of_type(session.last_response.data, MeterEventSession, "") == []
    nobodys = {"stripe_customer_id": "cus_none", "value": "1"}
    with closing(RequestsClient()) as http_client:
        token, addresses = session.authentication_token, {"meter_events": local_stripe.url}
        streaming = StripeClient(token, base_addresses=addresses, http_client=http_client)  # type: ignore[arg-type]
        streaming.v2.billing.meter_event_stream.create(
            {"events": [{"event_name": name, "payload": nobodys} for name in ("calls", "nothing")]}
        )
    local_stripe.report_errors()
    listed: Any = local_client.v2.core.events.list().last_response
    of_nothing, of_calls = listed.data["data"]
    assert differences_of_type(of_calls, V1BillingMeterErrorReportTriggeredEvent, "") == []
    assert differences_of_type(of_nothing, V1BillingMeterNoMeterFoundEvent, "") == [
        ".related_object: Stripe's type has no such field"
    ]


def test_an_event_destination_is_of_the_sdks_own_type(local_client: StripeClient) -> None:
    """With what is included, and deleted again."""
    destinations = local_client.v2.core.event_destinations
    made: Any = destinations.create(
        {
            "name": "Metering",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": ["v1.billing.meter.error_report_triggered"],
            "webhook_endpoint": {"url": "https://example.com"},
            "include": ["webhook_endpoint.signing_secret"],
        }
    )
    listed: Any = destinations.list({"include": ["webhook_endpoint.url"]}).last_response
    for shown in (made.last_response.data, *listed.data["data"]):
        assert differences_of_type(shown, EventDestination, "") == []
    destinations.delete(made.id)
    assert destinations.list().data == []


def test_a_list_with_objects_is_compared(local_client: StripeClient, ids: Ids) -> None:
    """So that the comparison above is not of two empty lists."""
    assert len(local_client.v1.billing.meters.list().data) == 1
    assert len(local_client.v1.customers.list().data) == 1
    assert [each.aggregated_value for each in summaries(local_client, ids, value_grouping_window="hour").data] == [42]


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        ({"a": 1, "b": None}, {"a": 2.5, "b": {"c": 1}}, []),
        ({"a": 1}, {"a": 1, "b": None}, [".b: only one of the two has it"]),
        ({"a": {"b": [{"c": "1"}]}}, {"a": {"b": [{"c": 1}]}}, [".a.b[0].c: text is not number"]),
        ({"a": 1}, {"a": True}, [".a: number is not boolean"]),
        ({"a": {}}, {"a": "x"}, [".a: object is not text"]),
        (OrderedDict(a=OrderedDict(b=1)), {"a": {"b": "1"}}, [".a.b: number is not text"]),
        ({"metadata": {"a": "1"}}, {"metadata": {}}, []),
        ({"payload": {"a": 1}}, {"payload": {}}, [".payload.a: number is not text"]),
    ],
)
def test_differences_of_shape_are_found(ours: Any, theirs: Any, found: list[str]) -> None:
    """In keys, types, and inside lists."""
    assert differences(ours, theirs) == found
