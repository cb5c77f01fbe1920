"""The customers of the local Stripe."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from infra.local.stripe.params import PAGING, Params, StripeError, metadata, only, page, text


@dataclass(slots=True)
class Customers:
    """Whom an account bills, by id."""

    customers: dict[str, dict[str, Any]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    times: dict[str, int] = field(default_factory=dict)  # what each test clock shows, by its id

    def create_customer(self, params: Params, now: float) -> dict[str, Any]:
        """Create a customer; of the parameters in docs.stripe.com/api/customers/create, it knows a few."""
        clock = text(params, "test_clock", default="") or None
        if clock not in (None, *self.times):
            raise StripeError(f"No such test clock: '{clock}'", code="resource_missing", param="test_clock")
        customer = self.add(f"cus_{len(self.customers) + len(self.deleted) + 1:014d}", now) | {"test_clock": clock}
        self.customers[customer["id"]] = customer
        try:
            return _change_customer(customer, {name: each for name, each in params.items() if name != "test_clock"})
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
        return _change_customer(self._customer(customer), params)

    def remove(self, customer: str) -> dict[str, Any]:
        """Let a customer be one of those that were deleted."""
        del self.customers[self._customer(customer)["id"]]
        self.deleted.add(customer)
        return _deleted(customer)

    def _customer(self, customer: str) -> dict[str, Any]:
        """Find a customer by its id, or answer 404."""
        if customer not in self.customers:
            raise StripeError(f"No such customer: '{customer}'", status=404, code="resource_missing", param="id")
        return self.customers[customer]


def _deleted(customer: str) -> dict[str, Any]:
    """Give what is left of a customer that was deleted."""
    return {"id": customer, "object": "customer", "deleted": True}


def _change_customer(customer: dict[str, Any], params: Params) -> dict[str, Any]:
    """Set a customer's texts and merge its metadata, all or nothing; an empty text unsets."""
    texts = ("description", "email", "name", "phone")
    only(params, "metadata", *texts)
    changes: dict[str, Any] = {name: text(params, name, default="") or None for name in texts if name in params}
    changes["metadata"] = metadata(customer["metadata"], params)
    customer.update(changes)
    return customer
