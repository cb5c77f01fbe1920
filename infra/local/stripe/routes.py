"""The routes of the local Stripe, the right that a restricted key needs for each, and what answers it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from infra.local.stripe.account import Account
from infra.local.stripe.faults import METER_EVENT_STREAM, METER_EVENTS
from infra.local.stripe.stream import Stream


class Right(NamedTuple):
    """What a restricted key must have: a resource's name, and `read` or `write`, which includes reading."""

    name: str
    level: str


# By resource (docs.stripe.com/keys-api, "Permissions"); of payment methods, Checkout and the portal as observed in
# refusals. Stripe's messages call prices `plan`; the names of the rights for meters, test clocks and event destinations
# could not be confirmed (? names_of_rights). The stream itself takes a session's token, and no key.
RIGHTS: dict[str, Right] = {
    METER_EVENTS: Right("billing_meter_event", "write"),
    "POST /v1/billing/meters": Right("billing_meter", "write"),
    "GET /v1/billing/meters": Right("billing_meter", "read"),
    "GET /v1/billing/meters/:id": Right("billing_meter", "read"),
    "POST /v1/billing/meters/:id": Right("billing_meter", "write"),
    "POST /v1/billing/meters/:id/deactivate": Right("billing_meter", "write"),
    "POST /v1/billing/meters/:id/reactivate": Right("billing_meter", "write"),
    "GET /v1/billing/meters/:id/event_summaries": Right("billing_meter", "read"),
    "POST /v1/customers": Right("customer", "write"),
    "GET /v1/customers": Right("customer", "read"),
    "GET /v1/customers/:id": Right("customer", "read"),
    "POST /v1/customers/:id": Right("customer", "write"),
    "DELETE /v1/customers/:id": Right("customer", "write"),
    "GET /v1/customers/:id/payment_methods": Right("payment_method", "read"),
    "POST /v1/payment_methods/:id/attach": Right("payment_method", "write"),
    "POST /v1/checkout/sessions": Right("checkout_session", "write"),
    "GET /v1/checkout/sessions/:id": Right("checkout_session", "read"),
    "POST /v1/billing_portal/sessions": Right("customer_portal", "write"),
    "POST /v1/products": Right("product", "write"),
    "GET /v1/products": Right("product", "read"),
    "GET /v1/products/:id": Right("product", "read"),
    "POST /v1/products/:id": Right("product", "write"),
    "POST /v1/prices": Right("plan", "write"),
    "GET /v1/prices": Right("plan", "read"),
    "GET /v1/prices/:id": Right("plan", "read"),
    "POST /v1/prices/:id": Right("plan", "write"),
    "POST /v1/subscriptions": Right("subscription", "write"),
    "GET /v1/subscriptions": Right("subscription", "read"),
    "GET /v1/subscriptions/:id": Right("subscription", "read"),
    "POST /v1/subscriptions/:id": Right("subscription", "write"),
    "DELETE /v1/subscriptions/:id": Right("subscription", "write"),
    "GET /v1/subscription_items": Right("subscription", "read"),
    "GET /v1/invoices": Right("invoice", "read"),
    "POST /v1/invoices/create_preview": Right("invoice", "read"),
    "GET /v1/invoices/:id": Right("invoice", "read"),
    "GET /v1/invoices/:id/lines": Right("invoice", "read"),
    "POST /v1/invoices/:id/finalize": Right("invoice", "write"),
    "POST /v1/invoices/:id/mark_uncollectible": Right("invoice", "write"),
    "POST /v1/invoices/:id/void": Right("invoice", "write"),
    "GET /v1/events": Right("event", "read"),
    "GET /v1/events/:id": Right("event", "read"),
    "GET /v2/core/events": Right("event", "read"),
    "GET /v2/core/events/:id": Right("event", "read"),
    "GET /v2/core/event_destinations": Right("webhook", "read"),
    "DELETE /v2/core/event_destinations/:id": Right("webhook", "write"),
    "POST /v2/core/event_destinations": Right("webhook", "write"),
    "POST /v2/core/event_destinations/:id": Right("webhook", "write"),
    "POST /v1/test_helpers/test_clocks": Right("billing_clock", "write"),
    "GET /v1/test_helpers/test_clocks": Right("billing_clock", "read"),
    "GET /v1/test_helpers/test_clocks/:id": Right("billing_clock", "read"),
    "POST /v1/test_helpers/test_clocks/:id/advance": Right("billing_clock", "write"),
    "DELETE /v1/test_helpers/test_clocks/:id": Right("billing_clock", "write"),
    "POST /v2/billing/meter_event_session": Right("billing_meter_event", "write"),
    METER_EVENT_STREAM: Right("billing_meter_event", "write"),
}
UNRECOGNIZED = "unrecognized"
PLACES_OF_ID = (3, 4)  # in /v1/customers/:id, in /v1/billing/meters/:id

Endpoint = Callable[..., Mapping[str, Any]]


def endpoints(account: Account, stream: Stream) -> dict[str, Endpoint]:
    """Give what answers each route: it takes the id in the path, if there is one, the parameters, and the time."""
    catalog, subscriptions, billing, log = account.catalog, account.subscriptions, account.billing, account.log
    return {
        METER_EVENTS: account.create_meter_event,
        "POST /v1/billing/meters": account.create_meter,
        "GET /v1/billing/meters": account.list_meters,
        "GET /v1/billing/meters/:id": account.retrieve_meter,
        "POST /v1/billing/meters/:id": account.update_meter,
        "POST /v1/billing/meters/:id/deactivate": account.deactivate_meter,
        "POST /v1/billing/meters/:id/reactivate": account.reactivate_meter,
        "GET /v1/billing/meters/:id/event_summaries": account.list_event_summaries,
        "POST /v1/customers": account.directory.create_customer,
        "GET /v1/customers": account.directory.list_customers,
        "GET /v1/customers/:id": account.directory.retrieve_customer,
        "POST /v1/customers/:id": account.directory.update_customer,
        "DELETE /v1/customers/:id": account.delete_customer,
        "GET /v1/customers/:id/payment_methods": account.paying.list_payment_methods,
        "POST /v1/payment_methods/:id/attach": account.paying.attach_payment_method,
        "POST /v1/checkout/sessions": account.paying.create_checkout_session,
        "GET /v1/checkout/sessions/:id": account.paying.retrieve_checkout_session,
        "POST /v1/billing_portal/sessions": account.paying.create_portal_session,
        "POST /v1/products": catalog.create_product,
        "GET /v1/products": catalog.list_products,
        "GET /v1/products/:id": catalog.retrieve_product,
        "POST /v1/products/:id": catalog.update_product,
        "POST /v1/prices": catalog.create_price,
        "GET /v1/prices": catalog.list_prices,
        "GET /v1/prices/:id": catalog.retrieve_price,
        "POST /v1/prices/:id": catalog.update_price,
        "POST /v1/subscriptions": subscriptions.create_subscription,
        "GET /v1/subscriptions": subscriptions.list_subscriptions,
        "GET /v1/subscriptions/:id": subscriptions.retrieve_subscription,
        "POST /v1/subscriptions/:id": subscriptions.update_subscription,
        "DELETE /v1/subscriptions/:id": subscriptions.cancel_subscription,
        "GET /v1/subscription_items": subscriptions.list_items,
        "GET /v1/invoices": billing.list_invoices,
        "POST /v1/invoices/create_preview": billing.create_preview,
        "GET /v1/invoices/:id": billing.retrieve_invoice,
        "GET /v1/invoices/:id/lines": billing.list_lines,
        "POST /v1/invoices/:id/finalize": billing.finalize_invoice,
        "POST /v1/invoices/:id/mark_uncollectible": billing.mark_uncollectible,
        "POST /v1/invoices/:id/void": billing.void_invoice,
        "GET /v1/events": log.list_events,
        "GET /v1/events/:id": log.retrieve_event,
        "GET /v2/core/events": account.reports.list_thin_events,
        "GET /v2/core/events/:id": account.reports.retrieve_thin_event,
        "GET /v2/core/event_destinations": account.destinations.list_destinations,
        "DELETE /v2/core/event_destinations/:id": account.destinations.delete_destination,
        "POST /v2/core/event_destinations": account.destinations.create_destination,
        "POST /v2/core/event_destinations/:id": account.destinations.update_destination,
        "POST /v1/test_helpers/test_clocks": account.clocks.create_clock,
        "GET /v1/test_helpers/test_clocks": account.clocks.list_clocks,
        "GET /v1/test_helpers/test_clocks/:id": account.clocks.retrieve_clock,
        "POST /v1/test_helpers/test_clocks/:id/advance": account.clocks.advance_clock,
        "DELETE /v1/test_helpers/test_clocks/:id": account.clocks.delete_clock,
        "POST /v2/billing/meter_event_session": stream.create_session,
        METER_EVENT_STREAM: stream.create_events,
    }


def route_of(method: str, path: str) -> tuple[str, str | None]:
    """Find the route of a request, and the id in its path."""
    route = f"{method} {path}"
    if route in RIGHTS:
        return route, None
    parts = path.split("/")
    for place in PLACES_OF_ID:
        if len(parts) > place and parts[place]:
            route = f"{method} {'/'.join([*parts[:place], ':id', *parts[place + 1 :]])}"
            if route in RIGHTS:
                return route, parts[place]
    return UNRECOGNIZED, None


def permits(rights: Mapping[str, str], wanted: Right) -> bool:
    """Tell whether a restricted key's rights, by resource, are enough."""
    return rights.get(wanted.name) in ({"write"} if wanted.level == "write" else {"read", "write"})
