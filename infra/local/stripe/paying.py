"""How customers of the local Stripe pay: cards, Checkout, by which they give one, and Stripe's portal for them.

Nobody pays here, and no page is served: a control of the server completes a Checkout session as a customer would.
"""

from dataclasses import dataclass, field
from typing import Any

from infra.local.stripe.customers import TEST_CARD, Customers
from infra.local.stripe.params import PAGING, Params, StripeError, metadata, one_of, only, page, text

SESSION_LIFE = 24 * 3_600  # docs.stripe.com/api/checkout/sessions/create, `expires_at`: by default 24 hours


@dataclass(slots=True)
class Paying:
    """The payment methods and the sessions of an account."""

    directory: Customers
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    _portals: int = 0

    def attach_payment_method(self, method: str, params: Params, now: float) -> dict[str, Any]:
        """Attach a card to a customer (docs.stripe.com/api/payment_methods/attach): one of the cards for testing.

        "To use this PaymentMethod as the default for invoice or subscription payments, set
        invoice_settings.default_payment_method": attaching alone does not (the same page).
        """
        only(params, "customer")
        return self.directory.attach(text(params, "customer"), method, now)

    def list_payment_methods(self, customer: str, params: Params, _now: float) -> dict[str, Any]:
        """List a customer's payment methods, newest first (docs.stripe.com/api/payment_methods/customer_list)."""
        only(params, "type", *PAGING)
        kind = text(params, "type", default="")
        found = [method for method in self.directory.methods_of(customer) if kind in ("", method["type"])]
        return page(found, params, f"/v1/customers/{customer}/payment_methods")

    def create_checkout_session(self, params: Params, now: float) -> dict[str, Any]:
        """Begin Checkout in setup mode (docs.stripe.com/payments/checkout/save-during-payment, "setup mode").

        "Checkout uses Dynamic payment methods by default, which requires you to pass the currency parameter when using
        setup mode" (docs.stripe.com/payments/save-and-reuse).
        """
        only(params, "cancel_url", "currency", "customer", "metadata", "mode", "success_url")
        one_of(params, "mode", ("setup",))
        customer, currency = text(params, "customer"), text(params, "currency")
        self.directory.methods_of(customer)
        name = f"cs_test_{len(self.sessions) + 1:014d}"
        self.sessions[name] = {
            **_unchanging(),
            "id": name,
            "object": "checkout.session",
            "cancel_url": text(params, "cancel_url", default="") or None,
            "created": int(now),
            "currency": currency,
            "customer": customer,
            "expires_at": int(now) + SESSION_LIFE,
            "metadata": metadata({}, params),
            "mode": "setup",
            "payment_status": "no_payment_required",
            "status": "open",
            "success_url": text(params, "success_url"),
            "url": f"https://checkout.stripe.com/c/pay/{name}",
        }
        return dict(self.sessions[name])

    def retrieve_checkout_session(self, session: str, params: Params, _now: float) -> dict[str, Any]:
        """Give one session."""
        only(params)
        return dict(self._session(session))

    def complete(self, session: str, now: float) -> None:
        """Do what a customer does on the page of a session: give a card.

        It is attached to the customer, and is not its default (observed: dust-tt/dust, pull request 25429).
        """
        completed = self._session(session)
        self.directory.attach(completed["customer"], TEST_CARD, now)
        completed |= {"status": "complete", "url": None}

    def create_portal_session(self, params: Params, now: float) -> dict[str, Any]:
        """Give a link to the customer portal (docs.stripe.com/api/customer_portal/sessions/create)."""
        only(params, "customer", "return_url")
        customer = text(params, "customer")
        self.directory.methods_of(customer)
        self._portals += 1
        name = f"bps_test_{self._portals:014d}"
        return {
            "id": name,
            "object": "billing_portal.session",
            "configuration": "bpc_test_00000000000001",
            "created": int(now),
            "customer": customer,
            "customer_account": None,
            "flow": None,
            "livemode": False,
            "locale": None,
            "on_behalf_of": None,
            "return_url": text(params, "return_url", default="") or None,
            "url": f"https://billing.stripe.com/p/session/{name}",
        }

    def _session(self, session: str) -> dict[str, Any]:
        """Find a session by its id, or answer 404."""
        if session not in self.sessions:
            raise StripeError(f"No such checkout.session: {session}", status=404, code="resource_missing")
        return self.sessions[session]


def _unchanging() -> dict[str, Any]:
    """Give what is the same of every session here."""
    unset = (
        *("after_expiration", "allow_promotion_codes", "amount_subtotal", "amount_total", "billing_address_collection"),
        *("client_reference_id", "client_secret", "collected_information", "consent", "consent_collection"),
        *("currency_conversion", "customer_account", "customer_creation", "customer_details", "customer_email"),
        *("discounts", "integration_identifier", "invoice", "invoice_creation", "locale", "origin_context"),
        *("payment_intent", "payment_link", "payment_method_configuration_details", "permissions", "recovered_from"),
        *("payment_method_collection", "saved_payment_method_options", "setup_intent", "shipping_address_collection"),
        *("shipping_cost", "submit_type", "subscription", "total_details", "ui_mode", "wallet_options"),
    )
    return dict.fromkeys(unset) | {
        "adaptive_pricing": {"enabled": False},
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "custom_fields": [],
        "custom_text": {
            "after_submit": None,
            "shipping_address": None,
            "submit": None,
            "terms_of_service_acceptance": None,
        },
        "livemode": False,
        "managed_payments": {"enabled": False},
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "phone_number_collection": {"enabled": False},
        "shipping_options": [],
    }
