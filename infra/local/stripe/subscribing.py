"""The subscription routes of the local Stripe."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from infra.local.stripe.billing import CYCLE, Billing
from infra.local.stripe.calendar import boundary
from infra.local.stripe.catalog import Catalog
from infra.local.stripe.customers import Customers
from infra.local.stripe.invoice import Part
from infra.local.stripe.params import (
    PAGING,
    Params,
    StripeError,
    flag,
    integer,
    metadata,
    moments,
    nested,
    one_of,
    only,
    page,
    rows,
    text,
)
from infra.local.stripe.price import Price, Recurring
from infra.local.stripe.subscription import Item, Subscription

CREATE_PARAMS = (
    *("backdate_start_date", "billing_cycle_anchor", "billing_mode", "collection_method", "currency", "customer"),
    *("days_until_due", "default_payment_method", "description", "items", "metadata", "off_session"),
    *("payment_behavior", "proration_behavior"),
)
NO_PAYMENT_METHOD = (  # observed: clojurewerkz/elephant, issue 14; joshnuss/svelte-stripe, issue 30
    "This customer has no attached payment source or default payment method. Please consider adding a default payment "
    "method. For more information, visit "
    "https://stripe.com/docs/billing/subscriptions/payment-methods-setting#payment-method-priority."
)
NO_EMAIL = (  # observed of invoices that are sent
    "Missing email. In order to create invoices that are sent to the customer, the customer must have a valid email."
)
MOST_ITEMS = 20  # docs.stripe.com/api/subscriptions/create: "up to 20 subscription items"


@dataclass(slots=True)
class Subscriptions:
    """The subscriptions of an account: who pays which prices from when on."""

    catalog: Catalog
    billing: Billing
    directory: Customers

    def create_subscription(self, params: Params, now: float) -> dict[str, Any]:
        """Subscribe a customer (docs.stripe.com/api/subscriptions/create), in flexible billing mode.

        Metered items alone make no first invoice ("If the invoice is empty as a result, we don't generate one",
        docs.stripe.com/changelog/basil/2025-06-30/billing-mode). Licences are invoiced at once, and that invoice is
        final at once; charged automatically, they need a payment method, unless it is to be given later: then the
        subscription is `incomplete` (`payment_behavior`; that it ends after 23 hours is not built here).

        A backdated subscription without `billing_cycle_anchor` has its start as the anchor: flexible mode
        "automatically aligns the billing cycle anchor to the backdate_start_date when not explicitly set" (SDK 16).
        Of a backdated subscription, periods that have ended before now are not invoiced: what Stripe
        does with their usage could not be confirmed (? ended_periods_are_not_invoiced).
        """
        only(params, *CREATE_PARAMS)
        one_of(nested(params, "billing_mode"), "type", ("flexible",), default="flexible", within="billing_mode")
        behaviour = one_of(
            params,
            "payment_behavior",
            ("allow_incomplete", "default_incomplete", "error_if_incomplete", "pending_if_incomplete"),
            default="allow_incomplete",
        )
        flag(params, "off_session", default=False)
        customer = text(params, "customer")
        if customer not in self.billing.customers:
            raise StripeError(f"No such customer: '{customer}'", code="resource_missing", param="customer")
        wanted = [self._wanted(each, number) for number, each in enumerate(rows(params, "items"))]
        if not wanted:
            raise StripeError("Missing required param: items.", code="parameter_missing", param="items")
        currency = text(params, "currency", default=wanted[0][0].currency)
        collection, days = _collection(params)
        method = text(params, "default_payment_method", default="")
        method = method and self.directory.method_of(customer, method)
        at = int(self.billing.time_of(customer, now))
        start = integer(params, "backdate_start_date", default=at)
        if start > at:
            raise StripeError("backdate_start_date must be in the past.", param="backdate_start_date")
        subscription = Subscription(
            id=f"sub_{len(self.billing.subscriptions) + 1:014d}",
            created=at,
            customer=customer,
            currency=currency,
            anchor=_anchor(params, [price.recurring for price, _, _ in wanted], start, at),
            start_date=start,
            collection_method=collection,
            days_until_due=days,
            prorate=_prorates(params),
            description=text(params, "description", default="") or None,
            metadata=metadata({}, params),
            payment_method=method or None,
        )
        for price, quantity, about in wanted:
            self._add(subscription, price, quantity, at).metadata = about
        parts = list(subscription.first_parts())
        subscription.uncanceled = self._paid(subscription, parts, behaviour)
        self.billing.subscriptions[subscription.id] = subscription
        self.billing.note(subscription.next_end, CYCLE, subscription.id)
        self.billing.log.record("customer.subscription.created", subscription.as_json(), at)
        if parts:
            self.billing.finalize(self.billing.draft(subscription, parts, "subscription_create", at), at)
        return subscription.as_json()

    def list_subscriptions(self, params: Params, _now: float) -> dict[str, Any]:
        """List subscriptions, newest first (docs.stripe.com/api/subscriptions/list, `status`).

        "If no value is supplied, all subscriptions that have not been canceled are returned": also an incomplete one.
        """
        only(params, "created", "customer", "price", "status", *PAGING)
        statuses = (
            *("active", "all", "canceled", "ended", "incomplete", "incomplete_expired", "past_due", "paused"),
            *("trialing", "unpaid"),
        )
        status = one_of(params, "status", statuses, default="")
        customer, price = text(params, "customer", default=""), text(params, "price", default="")
        created = moments(params, "created")
        shown = {
            "": {*statuses} - {"all", "canceled", "ended"},
            "all": {*statuses},
            "ended": {"canceled", "incomplete_expired"},
        }.get(status, {status})
        subscriptions = [
            each.as_json()
            for each in reversed(self.billing.subscriptions.values())
            if each.status in shown
            and customer in ("", each.customer)
            and (not price or any(item.price.id == price for item in each.items.values()))
            and created(each.created)
        ]
        return page(subscriptions, params, "/v1/subscriptions")

    def retrieve_subscription(self, subscription: str, params: Params, _now: float) -> dict[str, Any]:
        """Give one subscription, also a canceled one."""
        only(params)
        return self._found(subscription).as_json()

    def list_items(self, params: Params, _now: float) -> dict[str, Any]:
        """List a subscription's items (docs.stripe.com/api/subscription_items/list).

        The subscription itself shows the first ten, as any list does (docs.stripe.com/api/pagination, `limit`: "the
        default is 10"); that this holds of a list inside of an object, too, could not be confirmed for items
        (? items_are_cut_at_ten).
        """
        only(params, "subscription", *PAGING)
        found = self._found(text(params, "subscription"))
        items = [item.as_json(found.id) for item in found.items.values()]
        return page(items, params, f"/v1/subscription_items?subscription={found.id}")

    def update_subscription(self, subscription: str, params: Params, now: float) -> dict[str, Any]:
        """Add and delete items, change metadata (docs.stripe.com/api/subscriptions/update), all or nothing.

        The usage of a deleted item is billed on the next invoice, unless proration_behavior is none
        (docs.stripe.com/billing/subscriptions/usage-based/manage-billing-setup). Licences that are added begin to cost
        with the next period, and deleted ones are not paid back: prorations of licences are not built here.
        With `cancel_at_period_end` it ends when the first of its items' periods does; until then, false takes it back.
        """
        only(params, "cancel_at_period_end", "description", "items", "metadata", "proration_behavior")
        changed = self._found(subscription)
        if changed.canceled_at is not None:
            raise StripeError("A canceled subscription can only update its cancellation_details and metadata.")
        prorates, at = _prorates(params), int(self.billing.time_of(changed.customer, now))
        ends = flag(params, "cancel_at_period_end", default=changed.ends_with_period)
        added, deleted = [], []
        for number, each in enumerate(rows(params, "items")):
            if flag(each, "deleted", default=False):
                only(each, "deleted", "id")
                deleted.append(self._item(changed, text(each, "id"), number))
            else:
                added.append(self._wanted(each, number))
        if len(deleted) == len(changed.items) and not added:
            raise StripeError("A subscription must have at least one item.", param="items")
        changed = replace(
            changed,
            items=dict(changed.items),
            pending=list(changed.pending),
            description=text(params, "description", default=changed.description or "") or None,
            metadata=metadata(changed.metadata, params),
            ends_with_period=ends,
            asked_to_end_at=(at if "cancel_at_period_end" in params else changed.asked_to_end_at) if ends else None,
        )
        for item in deleted:
            del changed.items[item.id]
            if item.price.metered and prorates:
                changed.pending.append(item.usage(at))
        for price, quantity, about in added:
            self._add(changed, price, quantity, at).metadata = about
        self.billing.subscriptions[changed.id] = changed
        self.billing.note(changed.next_end, CYCLE, changed.id)
        self.billing.log.record("customer.subscription.updated", changed.as_json(), at)
        return changed.as_json()

    def cancel_subscription(self, subscription: str, params: Params, now: float) -> dict[str, Any]:
        """End a subscription now; with `invoice_now` its usage so far is billed, otherwise never (docs: .../cancel)."""
        only(params, "invoice_now", "prorate")
        cancelled = self._found(subscription)
        at = int(self.billing.time_of(cancelled.customer, now))
        if cancelled.canceled_at is not None:
            message = f"No such subscription: '{subscription}'"
            raise StripeError(message, status=404, code="resource_missing", param="id")
        if flag(params, "prorate", default=False):
            raise StripeError("Prorations of licences are not built here.", param="prorate")
        if flag(params, "invoice_now", default=False):
            usage = [item.usage(at) for item in cancelled.items.values() if item.price.metered]
            if usage or cancelled.pending:
                invoice = self.billing.draft(cancelled, [*cancelled.pending, *usage], "subscription_update", at)
                self.billing.finalize(invoice, at)
        cancelled.canceled_at = at
        self.billing.log.record("customer.subscription.deleted", cancelled.as_json(), at)
        return cancelled.as_json()

    def set_status(self, subscription: str, status: str, now: float) -> None:
        """Let a subscription be in another status, with the event that Stripe names for it (the SDK's event classes).

        `paused` and `resumed` are told as such, whatever else Stripe may send then (? a_pause_is_told_twice).
        """
        changed = self._found(subscription)
        at = int(self.billing.time_of(changed.customer, now))
        pauses, resumes = status == "paused", changed.status == "paused"
        changed.uncanceled = status
        self.billing.note(changed.next_end, CYCLE, changed.id)
        what = "paused" if pauses else "resumed" if resumes else "updated"
        self.billing.log.record(f"customer.subscription.{what}", changed.as_json(), at)

    def _paid(self, subscription: Subscription, parts: Sequence[Part], behaviour: str) -> str:
        """Give the status of a new subscription, or refuse it where nobody can be asked to pay."""
        customer = self.billing.customers[subscription.customer]
        if subscription.collection_method == "send_invoice":
            if not customer["email"]:
                raise StripeError(NO_EMAIL)
            return "active"
        amounts = (charge.amount for part in parts for charge in part.price.charges(part.quantity or 0, part.share))
        default = customer["invoice_settings"]["default_payment_method"] or customer["default_source"]
        if subscription.payment_method or default or not sum(amounts):
            return "active"
        if behaviour == "default_incomplete":
            return "incomplete"
        raise StripeError(NO_PAYMENT_METHOD, code="resource_missing")

    def _wanted(self, params: Params, number: int) -> tuple[Price, int, dict[str, str]]:
        """Read an item: an active price, a quantity if it is a licence, metadata."""
        only(params, "metadata", "price", "quantity")
        param = f"items[{number}][price]"
        price = self.catalog.price(text(params, "price"), param=param, status=400)
        if not price.active:
            raise StripeError(
                f"The price specified is inactive. This field only accepts active prices: {price.id}.", param=param
            )
        if price.metered and "quantity" in params:
            raise StripeError("You cannot set a quantity for a metered price.", param=f"items[{number}][quantity]")
        quantity = integer(params, "quantity", default=1)
        if quantity < 0:
            raise StripeError("This value must be greater than or equal to 0.", param=f"items[{number}][quantity]")
        return price, quantity, metadata({}, params)

    def _add(self, subscription: Subscription, price: Price, quantity: int, at: int) -> Item:
        """Add an item, unless its price or currency does not go with what is there."""
        if any(item.price.id == price.id for item in subscription.items.values()):
            raise StripeError(f"Cannot add multiple subscription items with the same price: {price.id}", param="items")
        if price.currency != subscription.currency:
            raise StripeError(
                f"The price specified supports currencies of `{price.currency}`. This doesn't match the expected "
                f"currency: `{subscription.currency}`.",
                param="items",
            )
        if len(subscription.items) == MOST_ITEMS:
            raise StripeError(f"A subscription can have at most {MOST_ITEMS} items.", param="items")
        return subscription.add_item(price, quantity, at)

    def _item(self, subscription: Subscription, item: str, number: int) -> Item:
        """Find an item of a subscription by its id."""
        if item not in subscription.items:
            message = f"No such subscription item: '{item}'"
            raise StripeError(message, code="resource_missing", param=f"items[{number}][id]")
        return subscription.items[item]

    def _found(self, subscription: str) -> Subscription:
        """Find a subscription by its id, or answer 404."""
        if subscription not in self.billing.subscriptions:
            message = f"No such subscription: '{subscription}'"
            raise StripeError(message, status=404, code="resource_missing", param="id")
        return self.billing.subscriptions[subscription]


def _anchor(params: Params, recurring: list[Recurring], start: int, now: int) -> int:
    """Read the billing cycle's anchor: the start, or a time to come, but not after the first whole period."""
    if "billing_cycle_anchor" not in params:
        return start
    anchor = integer(params, "billing_cycle_anchor")
    if anchor <= now:
        message = "Invalid timestamp: must be an integer Unix timestamp in the future."
        raise StripeError(message, param="billing_cycle_anchor")
    latest = min(boundary(now, each.interval, each.interval_count, 1) for each in recurring)
    if anchor > latest:
        raise StripeError(
            f"billing_cycle_anchor cannot be later than next natural billing date ({latest}) for plan",
            param="billing_cycle_anchor",
        )
    return anchor


def _collection(params: Params) -> tuple[str, int | None]:
    """Read how it is paid: charged by itself, or by an invoice that is due after some days."""
    methods = ("charge_automatically", "send_invoice")
    method = one_of(params, "collection_method", methods, default="charge_automatically")
    if method == "send_invoice":
        return method, integer(params, "days_until_due")
    if "days_until_due" in params:
        raise StripeError("days_until_due can only be set where collection_method is send_invoice.")
    return method, None


def _prorates(params: Params) -> bool:
    """Read whether parts of a period cost their share; to invoice a change at once is not built here."""
    behaviours = ("create_prorations", "none")
    return one_of(params, "proration_behavior", behaviours, default="create_prorations") != "none"
