"""What an invoice of a subscription holds: its lines and its totals. Plain data and pure rules."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from infra.local.stripe.meter import HOUR, Quantity
from infra.local.stripe.price import Price, written

DRAFT_TIME = HOUR  # docs.stripe.com/invoicing/integration/automatic-advancement-collection: "approximately 1 hour"
EMBEDDED = 10  # lines inside of an invoice; the rest is at its `lines` url
BASIL = "2025-03-31"  # docs.stripe.com/changelog/basil/2025-03-31: a line's `price` and `plan` became `pricing`


@dataclass(frozen=True, slots=True)
class Part:
    """What one item contributes to an invoice: a quantity in [start, end), or None for what its meter holds."""

    customer: str
    item: str
    price: Price
    start: int
    end: int
    quantity: Quantity | None
    share: Fraction = Fraction(1)
    proration: bool = False


Measure = Callable[[Part], Quantity]


@dataclass(slots=True)
class Invoice:
    """An invoice: a draft takes its quantities from the meters, a finalised one never changes again."""

    id: str
    created: int
    customer: dict[str, Any]
    subscription: str
    subscription_metadata: dict[str, str]
    currency: str
    billing_reason: str
    period_start: int
    period_end: int
    parts: Sequence[Part]
    collection_method: str
    days_until_due: int | None
    number: str | None = None
    finalized_at: int | None = None
    voided_at: int | None = None
    uncollectible_at: int | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)  # once it is finalised

    @property
    def status(self) -> str:
        """`draft`, or `open`; nothing to pay is paid at once (docs.stripe.com/invoicing/overview, "Zero-amount").

        An open one can be given up as `uncollectible`, and either be made `void` (the same page, "Invoice statuses").
        """
        if self.finalized_at is None:
            return "draft"
        if self.voided_at is not None:
            return "void"
        if self.uncollectible_at is not None:
            return "uncollectible"
        return "open" if _total(self.lines) else "paid"

    def current_lines(self, measure: Measure) -> list[dict[str, Any]]:
        """Give its lines, those of a draft by what the meters hold now."""
        if self.finalized_at is not None:
            return self.lines
        lines: list[dict[str, Any]] = []
        for part in self.parts:
            quantity = measure(part) if part.quantity is None else part.quantity
            for charge in part.price.charges(quantity, part.share):
                lines.append(
                    self._line(len(lines) + 1, part, charge.quantity, charge.amount)
                    | {
                        "description": f"{charge.quantity} \N{MULTIPLICATION SIGN} {part.price.name}{charge.text}",
                        "pricing": {
                            "price_details": {"price": part.price.id, "product": part.price.product},
                            "type": "price_details",
                            "unit_amount_decimal": written(charge.unit_amount),
                        },
                    }
                )
        return lines

    def _line(self, number: int, part: Part, quantity: Quantity, amount: int) -> dict[str, Any]:
        """Give a line item object (docs.stripe.com/api/invoice-line-item/object)."""
        return {
            "id": f"il_{self.id.rpartition('_')[2]}{number:04d}",
            "object": "line_item",
            "amount": amount,
            "currency": self.currency,
            "discount_amounts": [],
            "discountable": True,
            "discounts": [],
            "invoice": self.id,
            "livemode": False,
            "metadata": dict(self.subscription_metadata),
            "parent": {
                "invoice_item_details": None,
                "subscription_item_details": {
                    "invoice_item": None,
                    "proration": part.proration,
                    "proration_details": {"credited_items": None},
                    "subscription": self.subscription,
                    "subscription_item": part.item,
                },
                "type": "subscription_item_details",
            },
            "period": {"end": part.end, "start": part.start},
            "pretax_credit_amounts": [],
            "quantity": int(quantity),  # docs.stripe.com/api/invoice-line-item: "with any decimal precision truncated"
            "quantity_decimal": str(quantity),
            "subscription": self.subscription,
            "subtotal": amount,
            "taxes": [],
        }

    def as_json(self, measure: Measure) -> dict[str, Any]:
        """Give the invoice object (docs.stripe.com/api/invoices/object)."""
        lines = self.current_lines(measure)
        total, status = _total(lines), self.status
        paid = total if status == "paid" else 0
        return {
            **_unchanging(),
            **self._addresses(),
            "id": self.id,
            "object": "invoice",
            "amount_due": total,
            "amount_paid": paid,
            "amount_remaining": total - paid,
            "attempted": status == "paid",
            "auto_advance": status in ("draft", "open"),
            "automatically_finalizes_at": self.created + DRAFT_TIME if self.finalized_at is None else None,
            "billing_reason": self.billing_reason,
            "collection_method": self.collection_method,
            "created": self.created,
            "currency": self.currency,
            "customer": self.customer["id"],
            "customer_email": self.customer["email"],
            "customer_name": self.customer["name"],
            "customer_phone": self.customer["phone"],
            "due_date": self._due_date(),
            "effective_at": self.finalized_at,
            "ending_balance": None if self.finalized_at is None else 0,
            "lines": {
                "object": "list",
                "data": lines[:EMBEDDED],
                "has_more": len(lines) > EMBEDDED,
                "url": f"/v1/invoices/{self.id}/lines",
            },
            "number": self.number,
            "parent": {
                "quote_details": None,
                "subscription_details": {
                    "metadata": dict(self.subscription_metadata),
                    "subscription": self.subscription,
                },
                "type": "subscription_details",
            },
            "period_end": self.period_end,
            "period_start": self.period_start,
            "status": status,
            "status_transitions": {
                "finalized_at": self.finalized_at,
                "marked_uncollectible_at": self.uncollectible_at,
                "paid_at": self.finalized_at if status == "paid" else None,
                "voided_at": self.voided_at,
            },
            "subtotal": total,
            "subtotal_excluding_tax": total,
            "total": total,
            "total_excluding_tax": total,
        }

    def _addresses(self) -> dict[str, str | None]:
        """Give where a finalised invoice can be looked at and paid; of a draft neither is there.

        They are written as those of the example there (docs.stripe.com/api/invoices/object), and lead nowhere.
        """
        if self.finalized_at is None:
            return {"hosted_invoice_url": None, "invoice_pdf": None}
        secret = "test_" + hashlib.sha256(self.id.encode()).hexdigest()[:40]
        return {
            "hosted_invoice_url": f"https://invoice.stripe.com/i/acct_local/{secret}?s=ap",
            "invoice_pdf": f"https://pay.stripe.com/invoice/acct_local/{secret}/pdf?s=ap",
        }

    def _due_date(self) -> int | None:
        """When an invoice that is sent must be paid: days after it was finalised."""
        if self.days_until_due is None:
            return None
        return (self.finalized_at or self.created + DRAFT_TIME) + self.days_until_due * 86_400


def in_version(invoice: dict[str, Any], parts: Sequence[Part], version: str) -> dict[str, Any]:
    """Give an invoice as an account has it in its events whose default is an older version of the API.

    Before BASIL a line says its price in `price` and `plan`, both in full, and the subscription beside it, and an
    invoice its subscription at the top (docs.stripe.com/changelog/basil/2025-03-31, "Invoice Line Item", "Invoice").
    """
    if version >= BASIL:
        return invoice
    prices = {part.price.id: part.price.as_json() for part in parts}
    lines = []
    for line in invoice["lines"]["data"]:
        price = prices[line["pricing"]["price_details"]["price"]]
        plan = {"id": price["id"], "object": "plan", "product": price["product"], **price["recurring"]}
        details = line["parent"]["subscription_item_details"]
        old = {name: value for name, value in line.items() if name not in ("parent", "pricing", "quantity_decimal")}
        old |= {"plan": plan, "price": price, "proration": details["proration"], "type": "subscription"}
        lines.append(old | {"subscription_item": details["subscription_item"]})
    details = invoice["parent"]["subscription_details"]
    old = {name: value for name, value in invoice.items() if name != "parent"}
    old |= {"paid": invoice["status"] == "paid", "subscription": details["subscription"]}
    return old | {
        "lines": {**invoice["lines"], "data": lines},
        "subscription_details": {"metadata": details["metadata"]},
    }


def _total(lines: Sequence[dict[str, Any]]) -> int:
    """Add the amounts of lines."""
    return sum(line["amount"] for line in lines)


def _unchanging() -> dict[str, Any]:
    """Give what is the same of every invoice here."""
    return {
        "account_country": "US",
        "account_name": None,
        "account_tax_ids": None,
        "amount_overpaid": 0,
        "amount_paid_off_stripe": 0,
        "amount_shipping": 0,
        "application": None,
        "attempt_count": 0,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "custom_fields": None,
        "customer_account": None,
        "customer_address": None,
        "customer_shipping": None,
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "footer": None,
        "from_invoice": None,
        "issuer": {"type": "self"},
        "last_finalization_error": None,
        "latest_revision": None,
        "livemode": False,
        "metadata": {},
        "next_payment_attempt": None,
        "on_behalf_of": None,
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "receipt_number": None,
        "rendering": None,
        "shipping_cost": None,
        "shipping_details": None,
        "starting_balance": 0,
        "statement_descriptor": None,
        "test_clock": None,
        "total_discount_amounts": [],
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
        "webhooks_delivered_at": None,
    }
