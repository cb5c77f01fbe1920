"""The invoices of the local Stripe: made at a period's end, drafts for an hour, then finalised and never changed."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from infra.local.stripe.event_log import EventLog
from infra.local.stripe.invoice import DRAFT_TIME, Invoice, Part, in_version
from infra.local.stripe.meter import HOUR, Latest, Meter, Quantity
from infra.local.stripe.params import (
    PAGING,
    Params,
    StripeError,
    expanded,
    moments,
    one_of,
    only,
    page,
    text,
)
from infra.local.stripe.subscription import Subscription

CYCLE, FINALIZE = "cycle", "finalize"
PRICES = "data.pricing.price_details.price"

Due = tuple[int, int, str, str]  # when, which number, what, of whom

PREVIEW_LIFE = 72 * HOUR  # docs.stripe.com/invoicing/preview: a preview can be retrieved for so long


@dataclass(slots=True)
class Billing:
    """The subscriptions and invoices of an account, and what is due on them when.

    `summary_delay_s` is how many seconds a meter event takes to be seen in a preview or a draft. A finalised invoice
    holds every event that was accepted before it (docs.stripe.com/billing/subscriptions/usage-based/recording-usage).
    """

    meters: Mapping[str, Meter]
    customers: Mapping[str, dict[str, Any]]
    log: EventLog
    latest: Latest
    summary_delay_s: float
    times: Mapping[str, int]  # what each test clock shows, by its id
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    invoices: dict[str, Invoice] = field(default_factory=dict)
    previews: dict[str, tuple[Invoice, float]] = field(default_factory=dict)  # each with when it was made
    _agendas: dict[str, list[Due]] = field(default_factory=dict)  # a heap for each clock, "" for customers without one
    _noted: int = 0

    def advance(self, now: float) -> None:
        """Let everything happen that is due by now, in the order of time: periods end, drafts are finalised."""
        for clock, agenda in self._agendas.items():
            until = self.times.get(clock, now)
            while agenda and agenda[0][0] <= until:
                moment, _, what, whom = heapq.heappop(agenda)
                if what == CYCLE:
                    self._cycle(self.subscriptions[whom], moment)
                elif self.invoices[whom].finalized_at is None:
                    self.finalize(self.invoices[whom], moment)

    def note(self, moment: int, what: str, whom: str) -> None:
        """Remember what is due on a subscription or an invoice at a moment."""
        self._noted += 1
        customer = self.subscriptions[whom].customer if what == CYCLE else self.invoices[whom].customer["id"]
        agenda = self._agendas.setdefault(self._clock_of(customer), [])
        heapq.heappush(agenda, (moment, self._noted, what, whom))

    def time_of(self, customer: str, now: float) -> float:
        """Give a customer's time: its test clock's, if it has one (docs.stripe.com/api/test_clocks)."""
        return self.times.get(self._clock_of(customer), now)

    def _clock_of(self, customer: str) -> str:
        return self.customers.get(customer, {}).get("test_clock") or ""

    def leave(self, customer: str, at: int) -> None:
        """End every subscription of a customer that is deleted (docs.stripe.com/api/customers/delete).

        They are listed still (? subscriptions_of_a_deleted_customer).
        """
        for subscription in self.subscriptions.values():
            if subscription.customer == customer and subscription.canceled_at is None:
                subscription.canceled_at = at
                self.log.record("customer.subscription.deleted", subscription.as_json(), at)

    def draft(self, subscription: Subscription, parts: Sequence[Part], reason: str, at: int) -> Invoice:
        """Make a draft invoice, which is finalised after an hour."""
        invoice = self._invoice(f"in_{len(self.invoices) + 1:014d}", subscription, parts, reason, at)
        self.invoices[invoice.id] = invoice
        subscription.latest_invoice = invoice.id
        self._record("invoice.created", invoice, at)
        self.note(at + DRAFT_TIME, FINALIZE, invoice.id)
        return invoice

    def finalize(self, invoice: Invoice, at: int) -> None:
        """Freeze an invoice with what the meters hold now."""
        invoice.lines = invoice.current_lines(self._measure)
        invoice.finalized_at = at
        customer = invoice.customer
        invoice.number = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}"
        customer["next_invoice_sequence"] += 1
        self._record("invoice.finalized", invoice, at)
        if invoice.status == "paid":
            self._record("invoice.paid", invoice, at)

    def list_invoices(self, params: Params, now: float) -> dict[str, Any]:
        """List invoices, newest first (docs.stripe.com/api/invoices/list)."""
        only(params, "collection_method", "created", "customer", "status", "subscription", *PAGING)
        statuses = ("draft", "open", "paid", "uncollectible", "void")
        status = one_of(params, "status", statuses, default="")
        customer, subscription = text(params, "customer", default=""), text(params, "subscription", default="")
        collection = one_of(params, "collection_method", ("charge_automatically", "send_invoice"), default="")
        created = moments(params, "created")
        invoices = [
            self._as_json(invoice, now)
            for invoice in reversed(self.invoices.values())
            if status in ("", invoice.status)
            and customer in ("", invoice.customer["id"])
            and subscription in ("", invoice.subscription)
            and collection in ("", invoice.collection_method)
            and created(invoice.created)
        ]
        return page(invoices, params, "/v1/invoices")

    def retrieve_invoice(self, invoice: str, params: Params, now: float) -> dict[str, Any]:
        """Give one invoice, or a preview."""
        only(params)
        return self._as_json(self._found(invoice, now), now)

    def list_lines(self, invoice: str, params: Params, now: float) -> dict[str, Any]:
        """List every line of an invoice; the invoice itself shows the first ten (docs.stripe.com/api/invoices).

        So it is of a preview (docs.stripe.com/invoicing/preview, "Invoice Line pagination").
        """
        only(params, "expand", *PAGING)
        found = self._found(invoice, now)
        lines = found.current_lines(lambda part: self._seen(part, now))
        if expanded(params, PRICES):  # docs.stripe.com/changelog/clover/2025-12-15/expandable-price-details-price
            prices = {part.price.id: part.price.as_json() for part in found.parts}
            lines = [_with_price(line, prices) for line in lines]
        return page(lines, params, f"/v1/invoices/{invoice}/lines")

    def finalize_invoice(self, invoice: str, params: Params, now: float) -> dict[str, Any]:
        """Finalise a draft before its hour is over (docs.stripe.com/api/invoices/finalize)."""
        only(params)
        finalised = self._found(invoice)
        if finalised.finalized_at is not None:
            raise StripeError("This invoice is already finalized, you can't re-finalize a non-draft invoice.")
        self.finalize(finalised, int(self.time_of(finalised.customer["id"], now)))
        return self._as_json(finalised, now)

    def void_invoice(self, invoice: str, params: Params, now: float) -> dict[str, Any]:
        """Make a finalised invoice void, for good (docs.stripe.com/api/invoices/void).

        An open or an uncollectible one; a draft or a paid one is answered 400 (observed: useautumn/autumn#3468), in
        words of its own; these are not Stripe's.
        """
        only(params)
        voided = self._found(invoice)
        if voided.status not in ("open", "uncollectible"):
            raise StripeError(f"You can only void an invoice that is open or uncollectible; it is {voided.status}.")
        voided.voided_at = int(now)
        self._record("invoice.voided", voided, int(now))
        return self._as_json(voided, now)

    def mark_uncollectible(self, invoice: str, params: Params, now: float) -> dict[str, Any]:
        """Give up hope that an open invoice is paid (docs.stripe.com/api/invoices/mark_uncollectible)."""
        only(params)
        given_up = self._found(invoice)
        if given_up.status != "open":
            raise StripeError(f"You can only give up an invoice that is open; it is {given_up.status}.")
        given_up.uncollectible_at = int(now)
        self._record("invoice.marked_uncollectible", given_up, int(now))
        return self._as_json(given_up, now)

    def create_preview(self, params: Params, now: float) -> dict[str, Any]:
        """Show the next invoice as it would be if the period ended now (docs.stripe.com/api/invoices/create_preview).

        Of one subscription: a customer alone is refused, which the reference says otherwise (observed in these words:
        RoboFinSystems/robosystems#940, 2026-07; stripe/stripe-node#2347). It stays as it is, and is kept until the
        subscription is previewed again; no list shows it, and nothing changes it.
        """
        only(params, "customer", "preview_mode", "subscription")
        one_of(params, "preview_mode", ("next",), default="next")
        wanted, customer = text(params, "subscription", default=""), text(params, "customer", default="")
        if not wanted:
            raise StripeError(
                "The Preview Invoice API only supports previewing the upcoming invoice for a specific subscription or "
                "subscription schedule, not for a customer as a whole. You need to explicitly pass one of "
                "`subscription`, `schedule`, `subscription_details.items`, `schedule_details.phases`, or "
                "`invoice_items`."
            )
        subscription = self.subscriptions.get(wanted)
        if subscription is None or customer not in ("", subscription.customer):
            message = f"No such subscription: '{wanted}'"
            raise StripeError(message, status=404, code="resource_missing", param="subscription")
        if subscription.canceled_at is not None:
            message = f"No upcoming invoices for subscription: '{wanted}'"
            raise StripeError(message, status=404, code="invoice_upcoming_none")
        at = subscription.next_end
        parts = [
            replace(part, quantity=self._seen(part, now)) if part.quantity is None else part
            for part in subscription.cycle_parts(at)
        ]
        preview = self._invoice(f"upcoming_in_{subscription.id[4:]}", subscription, parts, "upcoming", at)
        self.previews[preview.id] = (preview, now)
        return self._as_json(preview, now)

    def _cycle(self, subscription: Subscription, moment: int) -> None:
        """End the periods that end at a moment, with a draft of what they cost, and begin the next ones.

        Of one that is `past_due` as well ("continues to create invoices"); what becomes of those of an `unpaid` one,
        which stay drafts, is not built here (docs.stripe.com/billing/subscriptions/overview, "Subscription statuses").
        """
        if subscription.status not in ("active", "past_due") or subscription.next_end > moment:
            return
        parts = list(subscription.cycle_parts(moment))
        if subscription.ends_with_period:
            if parts:
                self.draft(subscription, parts, "subscription_cycle", moment)
            subscription.canceled_at = moment
            self.log.record("customer.subscription.deleted", subscription.as_json(), moment)
            return
        self.draft(subscription, parts, "subscription_cycle", moment)
        subscription.cycle(moment)
        self.note(subscription.next_end, CYCLE, subscription.id)
        # "renewing a subscription" is one of what triggers it (docs.stripe.com/billing/subscriptions/webhooks)
        self.log.record("customer.subscription.updated", subscription.as_json(), moment)

    def _invoice(
        self, invoice: str, subscription: Subscription, parts: Sequence[Part], reason: str, at: int
    ) -> Invoice:
        """Make an invoice of parts; its own period is the one that ends, not that of its lines."""
        first = reason == "subscription_create"
        return Invoice(
            id=invoice,
            created=at,
            customer=self.customers[subscription.customer],
            subscription=subscription.id,
            subscription_metadata=dict(subscription.metadata),
            currency=subscription.currency,
            billing_reason=reason,
            period_start=at if first else min(item.start for item in subscription.items.values()),
            period_end=at,
            parts=tuple(parts),
            collection_method=subscription.collection_method,
            days_until_due=subscription.days_until_due,
        )

    def _record(self, kind: str, invoice: Invoice, at: int) -> None:
        """Record an event of an invoice, as the account's default version has it."""
        self.log.record(kind, in_version(self._as_json(invoice, at), invoice.parts, self.log.version), at)

    def _as_json(self, invoice: Invoice, now: float) -> dict[str, Any]:
        """Give an invoice as it is seen now."""
        return invoice.as_json(lambda part: self._seen(part, now))

    def _seen(self, part: Part, now: float) -> Quantity:
        """Measure what a meter shows now, which lags behind what it holds."""
        return self._measure(part, now - self.summary_delay_s if self.summary_delay_s else None)

    def _measure(self, part: Part, until: float | None = None) -> Quantity:
        """Measure the usage of an item's meter in [start, end), by events that arrived by `until`; never less than 0.

        "If the overall cycle usage is negative, Stripe reports the invoice line item usage quantity as 0"
        (docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api).
        """
        meter = self.meters[part.price.recurring.meter or ""]
        return max(0, meter.aggregate(list(meter.in_force(part.customer, part.start, part.end, self.latest, until))))

    def _found(self, invoice: str, now: float | None = None) -> Invoice:
        """Find an invoice by its id, or answer 404; at a moment a preview, too."""
        preview, made_at = self.previews.get(invoice, (None, 0.0))
        if preview and now is not None and now < made_at + PREVIEW_LIFE:
            return preview
        if invoice not in self.invoices:
            raise StripeError(f"No such invoice: '{invoice}'", status=404, code="resource_missing", param="invoice")
        return self.invoices[invoice]


def _with_price(line: dict[str, Any], prices: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Give a line with its price in full."""
    details = line["pricing"]["price_details"]
    if details is None:
        return line
    return {**line, "pricing": {**line["pricing"], "price_details": {**details, "price": prices[details["price"]]}}}
