"""What a subscription is, which periods its items run through, and what they contribute to an invoice. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import Any

from infra.local.stripe.calendar import boundary, period
from infra.local.stripe.invoice import EMBEDDED, Part
from infra.local.stripe.price import Price, Recurring


@dataclass(slots=True)
class Item:
    """One price of a subscription, in its current period [start, end); metered usage counts from `since` on."""

    id: str
    customer: str
    price: Price
    quantity: int
    created: int
    since: int
    start: int
    end: int
    metadata: dict[str, str] = field(default_factory=dict)

    def usage(self, end: int) -> Part:
        """Give what its meter holds of the current period up to `end`."""
        return Part(self.customer, self.id, self.price, max(self.start, self.since), end, None)

    def licence(self, start: int, end: int, share: Fraction = Fraction(1)) -> Part:
        """Give its quantity for a period, or for a share of one."""
        return Part(self.customer, self.id, self.price, start, end, self.quantity, share, proration=share != 1)

    def as_json(self, subscription: str) -> dict[str, Any]:
        """Give the subscription item object; a metered one has no quantity."""
        shown: dict[str, Any] = {
            "id": self.id,
            "object": "subscription_item",
            "billing_thresholds": None,
            "created": self.created,
            "current_period_end": self.end,
            "current_period_start": self.start,
            "discounts": [],
            "metadata": dict(self.metadata),
            "price": self.price.as_json(),
            "subscription": subscription,
            "tax_rates": [],
        }
        return shown if self.price.metered else shown | {"quantity": self.quantity}


@dataclass(slots=True)
class Subscription:
    """A subscription in flexible billing mode, which is the default since 2025-09-30 and the only one here."""

    id: str
    created: int
    customer: str
    currency: str
    anchor: int
    start_date: int
    collection_method: str
    days_until_due: int | None
    prorate: bool
    description: str | None
    metadata: dict[str, str]
    items: dict[str, Item] = field(default_factory=dict)
    pending: list[Part] = field(default_factory=list)  # removed metered items, for the next invoice
    made_items: int = 0
    latest_invoice: str | None = None
    canceled_at: int | None = None
    ends_with_period: bool = False
    asked_to_end_at: int | None = None
    payment_method: str | None = None
    uncanceled: str = "active"  # its status until it is canceled; nothing here fails to be paid by itself

    @property
    def status(self) -> str:
        """`active`, `canceled`, or `incomplete` as long as its first invoice waits for a payment method."""
        return self.uncanceled if self.canceled_at is None else "canceled"

    @property
    def next_end(self) -> int:
        """When the first of its items' periods ends."""
        return min(item.end for item in self.items.values())

    def add_item(self, price: Price, quantity: int, now: int) -> Item:
        """Add an item, in the period that the anchor gives it; usage counts from now on, at first from the start date.

        docs.stripe.com/billing/subscriptions/usage-based/manage-billing-setup: of an item that is added in the middle
        of a period, the invoice has the usage from then on; of a backdated subscription, that since its start.
        """
        self.made_items += 1
        start, end = self.period_at(price.recurring, now)
        item = Item(
            id=f"si_{self.id.rpartition('_')[2]}{self.made_items:04d}",
            customer=self.customer,
            price=price,
            quantity=quantity,
            created=now,
            since=self.start_date if now == self.created else now,
            start=start,
            end=end,
        )
        self.items[item.id] = item
        return item

    def period_at(self, recurring: Recurring, moment: int) -> tuple[int, int]:
        """Give the period that contains a moment; the first one begins with the subscription and may be short."""
        if moment < self.anchor:
            return self.start_date, self.anchor
        start, end = period(self.anchor, recurring.interval, recurring.interval_count, moment)
        return max(start, self.start_date), end

    def first_parts(self) -> Iterator[Part]:
        """Give what is invoiced at once: licences in advance, for a short first period by its share of a whole one.

        Only the period that ends with the anchor is short. One that begins with it is whole, however many days its
        month has: "If a month doesn't have the anchor day, the subscription is billed on the last day of the month"
        (docs.stripe.com/billing/subscriptions/billing-cycle).
        """
        for item in self.items.values():
            if item.price.metered:
                continue
            recurring = item.price.recurring
            share = Fraction(1)
            if item.end == self.anchor:
                whole_start = boundary(self.anchor, recurring.interval, recurring.interval_count, -1)
                share = Fraction(item.end - item.start, item.end - whole_start)
            if share >= 1:
                yield item.licence(item.start, item.end)
            elif self.prorate:
                yield item.licence(item.start, item.end, share)

    def cycle_parts(self, moment: int) -> Iterator[Part]:
        """Give what an invoice at `moment`, an end of periods, holds: usage of what ended, licences for what begins.

        Of a subscription that ends with its period nothing begins, and its usage is on a final invoice
        (docs.stripe.com/billing/subscriptions/cancel, as others quote it).
        """
        yield from self.pending
        for item in self.items.values():
            if item.end != moment or (self.ends_with_period and not item.price.metered):
                continue
            if item.price.metered:
                yield item.usage(moment)
            else:
                yield item.licence(*self.period_at(item.price.recurring, moment))

    def cycle(self, moment: int) -> None:
        """Begin the next period of every item whose period ends at `moment`."""
        self.pending = []
        for item in self.items.values():
            if item.end == moment:
                item.start, item.end = self.period_at(item.price.recurring, moment)

    def as_json(self) -> dict[str, Any]:
        """Give the subscription object (docs.stripe.com/api/subscriptions/object)."""
        return {
            **_unchanging(),
            "id": self.id,
            "object": "subscription",
            "default_payment_method": self.payment_method,
            "billing_cycle_anchor": self.anchor,
            "cancel_at": self.next_end if self.ends_with_period else None,
            "cancel_at_period_end": self.ends_with_period,
            "canceled_at": self.asked_to_end_at or self.canceled_at,
            "cancellation_details": {
                "comment": None,
                "feedback": None,
                "feedback_option": None,
                "reason": None if (self.asked_to_end_at or self.canceled_at) is None else "cancellation_requested",
            },
            "collection_method": self.collection_method,
            "created": self.created,
            "currency": self.currency,
            "customer": self.customer,
            "days_until_due": self.days_until_due,
            "description": self.description,
            "ended_at": self.canceled_at,
            "items": {
                "object": "list",
                "data": [item.as_json(self.id) for item in islice(self.items.values(), EMBEDDED)],
                "has_more": len(self.items) > EMBEDDED,
                "url": f"/v1/subscription_items?subscription={self.id}",
            },
            "latest_invoice": self.latest_invoice,
            "metadata": dict(self.metadata),
            "start_date": self.start_date,
            "status": self.status,
        }


def _unchanging() -> dict[str, Any]:
    """Give what is the same of every subscription here."""
    return {
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor_config": None,
        "billing_mode": {"flexible": {}, "type": "flexible"},
        "billing_schedules": [],
        "billing_thresholds": None,
        "customer_account": None,
        "default_source": None,
        "default_tax_rates": [],
        "discounts": [],
        "invoice_settings": {
            "account_tax_ids": None,
            "custom_fields": None,
            "description": None,
            "footer": None,
            "issuer": {"type": "self"},
        },
        "livemode": False,
        "managed_payments": {"enabled": False},
        "next_pending_invoice_item_invoice": None,
        "on_behalf_of": None,
        "pause_collection": None,
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": None,
        },
        "pending_invoice_item_interval": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "test_clock": None,
        "transfer_data": None,
        "trial_end": None,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": None,
    }
