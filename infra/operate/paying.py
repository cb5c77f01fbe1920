"""How customers pay at Stripe: what they can be charged by, Checkout, where they give it, and Stripe's portal."""

from typing import TYPE_CHECKING, Any

from infra.operate.deployment import OperatorError
from metering.model.prices import Flat, Plan, decimal
from metering.stores.holders import Customer
from metering.stripe.meters import StripeMeters

if TYPE_CHECKING:
    import stripe as stripe_sdk


def has_fee(plan: Plan) -> bool:
    """Say whether a plan asks for something as soon as it begins."""
    return any(isinstance(price, Flat) and decimal(price.amount) for price in plan.prices)


def default_of(shown: "stripe_sdk.Customer") -> str:
    """Return what a customer is charged by if a subscription says nothing else; empty for nothing."""
    default = (shown.invoice_settings and shown.invoice_settings.default_payment_method) or shown.default_source
    return default if isinstance(default, str) else str(default.id) if default else ""


def attached_to(stripe: StripeMeters, stripe_customer: str) -> str:
    """Return the payment method that a customer gave last; empty for none.

    Checkout attaches what a customer gives, and makes it nobody's default (observed by others in 2026).
    """
    newest = stripe.call(lambda client: client.v1.customers.payment_methods.list(stripe_customer, {"limit": 1}).data)
    return newest[0].id if newest else ""


def checkout_link(stripe: StripeMeters, stripe_customer: str, currency: str, page: str) -> str:
    """Return a link where a customer gives a payment method, and comes back to ``page``; it holds for 24 hours.

    In mode ``setup``: one of mode ``subscription`` cannot be backdated, so that it would begin within an hour.
    """
    wanted: Any = {
        "mode": "setup",
        "customer": stripe_customer,
        "currency": currency,
        "success_url": page,
        "cancel_url": page,
    }
    return str(stripe.call(lambda client: client.v1.checkout.sessions.create(wanted)).url)


def portal_link(stripe: StripeMeters, customer: Customer, page: str) -> str:
    """Return a link to Stripe's own portal, where a customer sees its invoices and changes how it pays.

    Raises OperatorError for a customer that Stripe does not know yet.
    """
    if not customer.stripe_customer:
        subscribe = f"'metering customers subscribe {customer.id} PLAN'"
        raise OperatorError(f"{customer.id} has no Stripe customer yet: subscribe it with {subscribe}")
    wanted: Any = {"customer": customer.stripe_customer, "return_url": page}
    return stripe.call(lambda client: client.v1.billing_portal.sessions.create(wanted)).url
