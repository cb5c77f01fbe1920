"""Subscriptions at Stripe: what a customer is subscribed to, at which prices, and what Stripe's own preview says."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol, Self, TypeVar

from stripe import StripeClient, Subscription

from metering.model.periods import Hour
from metering.model.prices import Flat, Price
from metering.stripe.client import StripeAccount, StripeRejectedError
from metering.stripe.prices import DEPLOYMENT, PLAN, PRICE, Offer, metadata_of, offer_of

BILLING: Final = frozenset({"active", "past_due", "trialing", "unpaid"})
"""States of a subscription whose usage gets onto an invoice (Stripe docs, "How subscriptions work")."""

MAY_BILL_YET: Final = frozenset({"incomplete", "paused"})
"""States of one that bills nothing, and may yet: once it is paid, or resumed (the same)."""

NEVER_BEGAN: Final = frozenset({"incomplete", "incomplete_expired"})
"""States of one whose first invoice was never paid (the same)."""

_SAME_CALL_S: Final = 60
"""Seconds in which Stripe makes a subscription with its items."""

_MOST: Final = 100
"""Objects in one answer (Stripe API reference, "Pagination")."""

T = TypeVar("T")


class Caller(Protocol):
    """Who calls Stripe for a deployment: its account, or whoever has so many reads of it and no more."""

    @property
    def deployment(self) -> str:
        """The deployment's name."""

    def call(self, do: Callable[[StripeClient], T]) -> T:
        """Make a call; sort its failures."""


@dataclass(frozen=True, slots=True)
class Item:
    """One price of a subscription, asked for each ``interval``, and the plan that it is of."""

    plan: str
    price: Price
    interval: str

    @property
    def metric(self) -> str | None:
        """The metric whose usage is paid for; None for a fee."""
        return None if isinstance(self.price, Flat) else self.price.metric


@dataclass(slots=True)
class Offers:
    """Prices at Stripe, each read once: what one says never changes (its documentation, "Manage products and prices").

    Those that are ``known`` already are not read. While a thread reads one, others wait for it.
    """

    account: Caller
    known: dict[str, Offer] = field(default_factory=dict)
    _reading: threading.Lock = field(default_factory=threading.Lock)

    def of(self, price_id: str, name: str) -> Offer:
        """Return what a price says, under the name that we gave it."""
        with self._reading:
            if price_id not in self.known:
                shown = self.account.call(lambda client: client.v1.prices.retrieve(price_id, {"expand": ["tiers"]}))
                offer = offer_of(shown, name)
                if offer is None:
                    raise StripeRejectedError(f"the price {price_id} is like none that can be declared")
                self.known[price_id] = offer
            return self.known[price_id]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a customer is subscribed to, and the period that runs, whole hours from ``first`` up to ``end``."""

    plans: tuple[str, ...]
    currency: str
    first: Hour
    end: Hour
    items: tuple[Item, ...]

    @classmethod
    def of(cls, subscription: Subscription, offers: Offers) -> Self:
        """Return the terms of a subscription that has prices of ours."""
        ours = [
            (item, metadata)
            for item in subscription["items"].data
            if (metadata := metadata_of(item.price)).get(DEPLOYMENT) == offers.account.deployment
        ]
        first, _ = ours[0]
        return cls(
            plans=tuple(sorted({metadata[PLAN] for _, metadata in ours})),
            currency=subscription.currency,
            first=Hour.of_epoch_ms(first.current_period_start * 1000),
            end=Hour.of_epoch_ms(first.current_period_end * 1000),
            items=tuple(
                Item(metadata[PLAN], offer.price, offer.interval)
                for item, metadata in ours
                for offer in (offers.of(item.price.id, metadata[PRICE]),)
            ),
        )


def with_all_items(subscription: Subscription) -> Subscription:
    """Return a subscription with its items in full: it shows ten, and the rest is read, ten a call.

    To be called where failures of Stripe's are sorted.
    """
    items = subscription["items"]
    if items.has_more:
        items["data"] = list(items.auto_paging_iter())
        items["has_more"] = False
    return subscription


def plans_of(subscription: Subscription, deployment: str) -> set[str]:
    """Return the plans of a deployment that a subscription has prices of."""
    found = [metadata_of(item.price) for item in subscription["items"].data]
    return {metadata[PLAN] for metadata in found if metadata.get(DEPLOYMENT) == deployment}


def bills_since(item: Any, subscription: Any) -> int:
    """Return from when on an item bills: that of a backdated subscription from its start, one added later from then.

    Source: docs.stripe.com/billing/subscriptions/usage-based/manage-billing-setup.
    """
    came_with_it = item.created <= subscription.created + _SAME_CALL_S
    return int(subscription.start_date if came_with_it else item.created)


def is_running(subscription: Subscription) -> bool:
    """Say whether a subscription bills: not one that waits for its first payment, is paused, or has ended."""
    return subscription.status in BILLING


def newest(stripe: Caller, stripe_customer: str) -> list[Subscription]:
    """Return the hundred newest subscriptions that a customer has or had, with all their items: usually one call."""

    def fetch(client: StripeClient) -> list[Subscription]:
        wanted: Any = {"customer": stripe_customer, "status": "all", "limit": _MOST}
        return [with_all_items(one) for one in client.v1.subscriptions.list(wanted).data]

    return stripe.call(fetch)


def ended_too(stripe: StripeAccount, stripe_customer: str) -> list[Subscription]:
    """Return all subscriptions that a customer has or had, newest first, with all their items."""
    return _listed(stripe, {"customer": stripe_customer, "status": "all", "limit": _MOST})


def running(stripe: StripeAccount, stripe_customer: str) -> Subscription | None:
    """Return a customer's running subscription to plans of ours."""
    found = _listed(stripe, {"customer": stripe_customer, "limit": _MOST})
    return next((one for one in found if is_running(one) and plans_of(one, stripe.deployment)), None)


def _listed(stripe: StripeAccount, wanted: Any) -> list[Subscription]:
    def fetch(client: StripeClient) -> list[Subscription]:
        return [with_all_items(one) for one in client.v1.subscriptions.list(wanted).auto_paging_iter()]

    return stripe.call(fetch)


def preview_of(stripe: StripeAccount, subscription: Subscription) -> dict[str, Any]:
    """Return Stripe's preview of a subscription's running invoice, amounts in the currency's smallest unit.

    A line's ``package`` is how many units its amount is asked for, of which those that are begun are paid for; or None.
    """
    names = {item.price.id: metadata_of(item.price).get(PRICE, "") for item in subscription["items"].data}
    packages = {
        item.price.id: item.price.transform_quantity.divide_by
        for item in subscription["items"].data
        if item.price.transform_quantity
    }

    def look(client: StripeClient) -> tuple[Any, list[Any]]:
        invoice = client.v1.invoices.create_preview({"subscription": subscription.id})
        return invoice, list(invoice.lines.auto_paging_iter())

    invoice, lines = stripe.call(look)
    return {
        "subscription": subscription.id,
        "plans": sorted(plans_of(subscription, stripe.deployment)),
        "currency": invoice.currency,
        "period": _period(invoice.period_start, invoice.period_end),
        "lines": [_line(line, names, packages) for line in lines],
        "total": invoice.total,
    }


def _line(line: Any, names: Mapping[str, str], packages: Mapping[str, int]) -> dict[str, Any]:
    details = line.pricing.price_details if line.pricing else None
    unit = line.pricing.unit_amount_decimal if line.pricing else None
    return {
        "price": names.get(str(details.price), "") if details else "",
        "description": line.description or "",
        "quantity": line.quantity,
        "unit_amount": None if unit is None else f"{unit:f}",
        "package": packages.get(str(details.price)) if details else None,
        "amount": line.amount,
        "period": _period(line.period.start, line.period.end),
    }


def _period(start: int, end: int) -> dict[str, str]:
    return {
        name: datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%MZ") for name, at in (("from", start), ("to", end))
    }
