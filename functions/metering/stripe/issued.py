"""Invoices that Stripe has issued to a customer for what a deployment bills, as that customer may see them."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from stripe import StripeClient

from metering.stripe.prices import DEPLOYMENT, metadata_of
from metering.stripe.subscriptions import Caller, plans_of

MOST_SHOWN: Final = 24
"""Two years of months."""

_MOST_READ: Final = 40
"""Invoices in the one answer: each is some 15 KB, with its first ten lines."""

_MOST_SUBSCRIPTIONS: Final = 100

_OPEN: Final = "open"
_PAST_DUE: Final = "past_due"
_OWED: Final = frozenset({_OPEN, _PAST_DUE, "uncollectible"})
"""What can still be paid, one that was given up, too (docs.stripe.com/invoicing/overview, "Invoice statuses")."""


@dataclass(frozen=True, slots=True)
class Issued:
    """Invoices, newest first; with ``more``, Stripe has earlier ones."""

    invoices: tuple[dict[str, Any], ...]
    more: bool

    @property
    def standing(self) -> str:
        """How the customer stands with them: ``past_due``, ``open``, or ``settled``."""
        states = {invoice["state"] for invoice in self.invoices}
        return next((state for state in (_PAST_DUE, _OPEN) if state in states), "settled")


def issued(stripe: Caller, stripe_customer: str, now: datetime) -> Issued | None:
    """Return the newest invoices of a customer's subscriptions; None if it never had one to plans of ours.

    Two calls, whatever there is. Drafts are left out, which are not issued yet, as are invoices of other business in
    the account, which are no business of whoever has a link to this usage.
    """

    def subscribed(client: StripeClient) -> set[str]:
        wanted: Any = {"customer": stripe_customer, "status": "all", "limit": _MOST_SUBSCRIPTIONS}
        return {
            one.id
            for one in client.v1.subscriptions.list(wanted).data
            if metadata_of(one).get(DEPLOYMENT) == stripe.deployment or plans_of(one, stripe.deployment)
        }

    ours = stripe.call(subscribed)
    if not ours:
        return None
    wanted: Any = {"customer": stripe_customer, "limit": _MOST_READ}
    answer = stripe.call(lambda client: client.v1.invoices.list(wanted))
    shown = [shown_of(one, now) for one in answer.data if one.status != "draft" and _is_of(one, ours)]
    return Issued(tuple(shown[:MOST_SHOWN]), more=answer.has_more or len(shown) > MOST_SHOWN)


def _is_of(invoice: Any, subscriptions: Collection[str]) -> bool:
    details = invoice.parent.subscription_details if invoice.parent else None
    return details is not None and str(details.subscription) in subscriptions


def shown_of(invoice: Any, now: datetime) -> dict[str, Any]:
    """Return an issued invoice as it is shown; amounts in the currency's smallest unit.

    What is open is past due once its date is over, or once an attempt to charge for it has failed: a charge that
    succeeds leaves none open (SDK 16.1, ``Invoice.attempt_count``).
    """
    is_late = invoice.due_date is not None and invoice.due_date <= now.timestamp()
    state = _PAST_DUE if invoice.status == _OPEN and (is_late or invoice.attempt_count) else invoice.status
    return {
        "id": invoice.id,
        "number": invoice.number,
        "from": _moment(invoice.period_start),
        "to": _moment(invoice.period_end),
        "state": state,
        "currency": invoice.currency,
        "total": invoice.total,
        "due": invoice.amount_remaining if state in _OWED else 0,
        "due_at": _moment(invoice.due_date),
        "attempts": invoice.attempt_count,
        "next_attempt_at": _moment(invoice.next_payment_attempt) if state in _OWED else None,
        "page_url": _address(invoice.hosted_invoice_url),
        "pdf_url": _address(invoice.invoice_pdf),
    }


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _address(url: str | None) -> str | None:
    """Return an address that a page may lead to, or None."""
    return url if url and url.startswith("https://") else None
