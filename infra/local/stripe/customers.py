"""The customers of the local Stripe."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from infra.local.stripe.params import PAGING, Params, StripeError, metadata, nested, only, page, text

TEST_CARD = "pm_card_visa"  # docs.stripe.com/testing


@dataclass(slots=True)
class Customers:
    """Whom an account bills, by id."""

    customers: dict[str, dict[str, Any]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    times: dict[str, int] = field(default_factory=dict)  # what each test clock shows, by its id
    methods: list[dict[str, Any]] = field(default_factory=list)  # payment methods, oldest first

    def create_customer(self, params: Params, now: float) -> dict[str, Any]:
        """Create a customer; of the parameters in docs.stripe.com/api/customers/create, it knows a few."""
        clock = text(params, "test_clock", default="") or None
        if clock not in (None, *self.times):
            raise StripeError(f"No such test clock: '{clock}'", code="resource_missing", param="test_clock")
        customer = self.add(f"cus_{len(self.customers) + len(self.deleted) + 1:014d}", now) | {"test_clock": clock}
        self.customers[customer["id"]] = customer
        try:
            if method := text(params, "payment_method", default=""):
                self.attach(customer["id"], method, now)
            at_once = ("payment_method", "test_clock")
            return self._change(customer, {name: each for name, each in params.items() if name not in at_once})
        except StripeError:
            del self.customers[customer["id"]]
            raise

    def add(self, customer: str, now: float) -> dict[str, Any]:
        """Add a customer under an id of the caller's choice."""
        if customer in self.customers:
            raise StripeError(f"Customer already exists: {customer}", code="resource_already_exists")
        self.customers[customer] = {
            "id": customer,
            "object": "customer",
            "address": None,
            "balance": 0,
            "created": int(now),
            "currency": None,
            "default_source": None,
            "delinquent": False,
            "description": None,
            "discount": None,
            "email": None,
            "invoice_prefix": hashlib.sha256(customer.encode()).hexdigest()[:8].upper(),
            "invoice_settings": {
                "custom_fields": None,
                "default_payment_method": None,
                "footer": None,
                "rendering_options": None,
            },
            "livemode": False,
            "metadata": {},
            "name": None,
            "next_invoice_sequence": 1,
            "phone": None,
            "preferred_locales": [],
            "shipping": None,
            "tax_exempt": "none",
            "test_clock": None,
        }
        return self.customers[customer]

    def list_customers(self, params: Params, _now: float) -> dict[str, Any]:
        """List customers, newest first, all or those of one `email` (docs.stripe.com/api/customers/list)."""
        only(params, "email", *PAGING)
        email = text(params, "email", default="")
        found = [customer for customer in reversed(self.customers.values()) if email in ("", customer["email"])]
        return page(found, params, "/v1/customers")

    def retrieve_customer(self, customer: str, params: Params, _now: float) -> dict[str, Any]:
        """Give one customer, of a deleted one that it is (docs.stripe.com/api/customers/retrieve)."""
        only(params)
        if customer in self.deleted:
            return _deleted(customer)
        return self._customer(customer)

    def update_customer(self, customer: str, params: Params, _now: float) -> dict[str, Any]:
        """Change a customer; metadata is merged, and an empty value removes a key (docs.stripe.com/api/metadata)."""
        return self._change(self._customer(customer), params)

    def attach(self, customer: str, method: str, now: float) -> dict[str, Any]:
        """Attach a card for testing to a customer, under an id of its own (docs.stripe.com/testing, "PaymentMethods").

        A customer's first one is no default by that.
        """
        self._customer(customer)
        if method != TEST_CARD:
            message = f"No such PaymentMethod: '{method}'"
            raise StripeError(message, status=404, code="resource_missing", param="payment_method")
        self.methods.append(_card(f"pm_{len(self.methods) + 1:014d}", customer, now))
        return self.methods[-1]

    def methods_of(self, customer: str) -> list[dict[str, Any]]:
        """Give a customer's payment methods, newest first."""
        self._customer(customer)
        return [method for method in reversed(self.methods) if method["customer"] == customer]

    def method_of(self, customer: str, method: str) -> str:
        """Give the id of one that is attached to a customer; the card for testing stands for its newest."""
        named = [each["id"] for each in self.methods_of(customer) if method in (each["id"], TEST_CARD)]
        if not named:
            raise StripeError(
                f"The customer does not have a payment method with the ID {method}. The payment method must be "
                "attached to the customer.",
                code="resource_missing",
            )
        return str(named[0])

    def remove(self, customer: str) -> dict[str, Any]:
        """Let a customer be one of those that were deleted."""
        del self.customers[self._customer(customer)["id"]]
        self.deleted.add(customer)
        return _deleted(customer)

    def _change(self, customer: dict[str, Any], params: Params) -> dict[str, Any]:
        """Set a customer's texts and default payment method, merge its metadata, all or nothing; empty unsets."""
        texts = ("description", "email", "name", "phone")
        only(params, "invoice_settings", "metadata", *texts)
        changes: dict[str, Any] = {name: text(params, name, default="") or None for name in texts if name in params}
        changes["metadata"] = metadata(customer["metadata"], params)
        settings = nested(params, "invoice_settings")
        only(settings, "default_payment_method")
        if settings:
            method = text(settings, "default_payment_method", default="")
            method = method and self.method_of(customer["id"], method)
            changes["invoice_settings"] = customer["invoice_settings"] | {"default_payment_method": method or None}
        customer.update(changes)
        return customer

    def _customer(self, customer: str) -> dict[str, Any]:
        """Find a customer by its id, or answer 404."""
        if customer not in self.customers:
            raise StripeError(f"No such customer: '{customer}'", status=404, code="resource_missing", param="id")
        return self.customers[customer]


def _deleted(customer: str) -> dict[str, Any]:
    """Give what is left of a customer that was deleted."""
    return {"id": customer, "object": "customer", "deleted": True}


def _card(method: str, customer: str, now: float) -> dict[str, Any]:
    """Give a payment method that is a card (docs.stripe.com/api/payment_methods/object)."""
    address = ("city", "country", "line1", "line2", "postal_code", "state")
    return {
        "id": method,
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": {
            "address": dict.fromkeys(address),
            "email": None,
            "name": None,
            "phone": None,
            "tax_id": None,
        },
        "card": {
            "brand": "visa",
            "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
            "country": "US",
            "display_brand": "visa",
            "exp_month": 8,
            "exp_year": 2030,
            "fingerprint": "AOB934RVNwzk6xtn",
            "funding": "credit",
            "generated_from": None,
            "last4": "4242",
            "networks": {"available": ["visa"], "preferred": None},
            "regulated_status": "unregulated",
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        },
        "created": int(now),
        "customer": customer,
        "customer_account": None,
        "livemode": False,
        "metadata": {},
        "type": "card",
    }
