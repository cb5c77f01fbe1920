"""The invoices of the local Stripe: made at a period's end, drafts for an hour, then finalised and never changed."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from infra.local.stripe.event_log import EventLog
from infra.local.stripe.invoice import DRAFT_TIME, Invoice, Part
from infra.local.stripe.meter import HOUR, Latest, Meter, Quantity
from infra.local.stripe.params import (
    PAGING,
    Params,
    StripeError,
    moments,
    one_of,
    only,
    page,
    text,
)
from infra.local.stripe.subscription import Subscription

CYCLE, FINALIZE = "cycle", "finalize"

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
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    invoices: dict[str, Invoice] = field(default_factory=dict)
    previews: dict[str, tuple[Invoice, float]] = field(default_factory=dict)  # each with when it was made
    _agenda: list[tuple[int, int, str, str]] = field(default_factory=list)  # a heap: when, which number, what, of whom
    _noted: int = 0

    def advance(self, now: float) -> None:
        """Let everything happen that is due by now, in the order of time: periods end, drafts are finalised."""
        while self._agenda and self._agenda[0][0] <= now:
            moment, _, what, whom = heapq.heappop(self._agenda)
            if what == CYCLE:
                self._cycle(self.subscriptions[whom], moment)
            else:
                invoice = self.invoices[whom]
                if invoice.finalized_at is None:
                    self.finalize(invoice, moment)

    def note(self, moment: int, what: str, whom: str) -> None:
        """Remember what is due on a subscription or an invoice at a moment."""
        self._noted += 1
        heapq.heappush(self._agenda, (moment, self._noted, what, whom))

    def draft(self, subscription: Subscription, parts: Sequence[Part], reason: str, at: int) -> Invoice:
        """Make a draft invoice, which is finalised after an hour."""
        invoice = self._invoice(f"in_{len(self.invoices) + 1:014d}", subscription, parts, reason, at)
        self.invoices[invoice.id] = invoice
        subscription.latest_invoice = invoice.id
        self.log.record("invoice.created", self._as_json(invoice, at), at)
        self.note(at + DRAFT_TIME, FINALIZE, invoice.id)
        return invoice

    def finalize(self, invoice: Invoice, at: int) -> None:
        """Freeze an invoice with what the meters hold now."""
        invoice.lines = invoice.current_lines(self._measure)
        invoice.finalized_at = at
        customer = invoice.customer
        invoice.number = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}"
        customer["next_invoice_sequence"] += 1
        shown = self._as_json(invoice, at)
        self.log.record("invoice.finalized", shown, at)
        if invoice.status == "paid":
            self.log.record("invoice.paid", shown, at)

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
        only(params, *PAGING)
        found = self._found(invoice, now)
        return page(found.current_lines(lambda part: self._seen(part, now)), params, f"/v1/invoices/{invoice}/lines")

    def finalize_invoice(self, invoice: str, params: Params, now: float) -> dict[str, Any]:
        """Finalise a draft before its hour is over (docs.stripe.com/api/invoices/finalize)."""
        only(params)
        finalised = self._found(invoice)
        if finalised.finalized_at is not None:
            raise StripeError("This invoice is already finalized, you can't re-finalize a non-draft invoice.")
        self.finalize(finalised, int(now))
        return self._as_json(finalised, now)

    def create_preview(self, params: Params, now: float) -> dict[str, Any]:
        """Show the next invoice as it would be if the period ended now (docs.stripe.com/api/invoices/create_preview).

        Without `subscription` it is "the next upcoming invoice from among the customer's subscriptions". It stays as
        it is, and is kept until the subscription is previewed again; no list shows it, and nothing changes it.
        """
        only(params, "customer", "preview_mode", "subscription")
        one_of(params, "preview_mode", ("next",), default="next")
        customer = text(params, "customer", default="")
        if customer and customer not in self.customers:
            raise StripeError(f"No such customer: '{customer}'", status=404, code="resource_missing", param="customer")
        wanted = text(params, "subscription", default="")
        if not (customer or wanted):
            raise StripeError("You must specify a customer or a subscription.", param="customer")
        if wanted and wanted not in self.subscriptions:
            message = f"No such subscription: '{wanted}'"
            raise StripeError(message, status=404, code="resource_missing", param="subscription")
        upcoming = [
            each
            for each in self.subscriptions.values()
            if each.canceled_at is None and wanted in ("", each.id) and customer in ("", each.customer)
        ]
        if not upcoming:
            message = (
                f"No upcoming invoices for {f'customer: {customer!r}' if customer else f'subscription: {wanted!r}'}"
            )
            raise StripeError(message, status=404, code="invoice_upcoming_none")
        subscription = min(upcoming, key=lambda each: each.next_end)
        at = subscription.next_end
        parts = [
            replace(part, quantity=self._seen(part, now)) if part.quantity is None else part
            for part in subscription.cycle_parts(at)
        ]
        preview = self._invoice(f"upcoming_in_{subscription.id[4:]}", subscription, parts, "upcoming", at)
        self.previews[preview.id] = (preview, now)
        return self._as_json(preview, now)

    def _cycle(self, subscription: Subscription, moment: int) -> None:
        """End the periods that end at a moment, with a draft of what they cost, and begin the next ones."""
        if subscription.canceled_at is not None or subscription.next_end > moment:
            return
        parts = list(subscription.cycle_parts(moment))
        self.draft(subscription, parts, "subscription_cycle", moment)
        subscription.cycle(moment)
        self.note(subscription.next_end, CYCLE, subscription.id)

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

    def _as_json(self, invoice: Invoice, now: float) -> dict[str, Any]:
        """Give an invoice as it is seen now."""
        return invoice.as_json(lambda part: self._seen(part, now))

    def _seen(self, part: Part, now: float) -> Quantity:
        """Measure what a meter shows now, which lags behind what it holds."""
        return self._measure(part, now - self.summary_delay_s if self.summary_delay_s else None)

    def _measure(self, part: Part, until: float | None = None) -> Quantity:
        """Measure the usage of an item's meter in [start, end), by events that arrived by `until`; never less than 0.

        What less than nothing would cost could not be confirmed (?): it is nothing, so that it is lost.
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
