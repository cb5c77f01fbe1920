"""Invoices that Stripe has issued to a customer for what a deployment bills, as that customer may see them."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from stripe import StripeClient

from metering.stripe.prices import DEPLOYMENT, metadata_of
from metering.stripe.subscriptions import Caller, plans_of

MOST_SHOWN: Final = 24
"""Two years of months."""

_MOST_READ: Final = MOST_SHOWN + 6
"""Invoices in one answer: each is some 15 KB, with its first ten lines."""

_MOST_SUBSCRIPTIONS: Final = 100

MOST_LOOKED_AT: Final = 4
"""Subscriptions whose invoices are read: a customer has one as a rule, and one more for each change of its plan."""

_EXPIRED: Final = "incomplete_expired"
"""The state of a subscription whose first invoice was never paid, and is void."""

_WELL: Final = frozenset({"active", "trialing"})
"""States of a subscription whose latest charge has not failed."""

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
        """How the customer stands with these: ``past_due``, ``open``, or ``settled``."""
        states = {invoice["state"] for invoice in self.invoices}
        return next((state for state in (_PAST_DUE, _OPEN) if state in states), "settled")


def issued(stripe: Caller, stripe_customer: str, now: datetime) -> Issued | None:
    """Return the newest invoices of a customer's subscriptions; None if it never had one to plans of ours.

    Two calls as a rule: a list of subscriptions, and one of invoices for each of the newest of ours. Other business in
    the account, also with the same Stripe customer, is never read, so that however much there is it hides nothing, and
    whoever has a link to this usage sees nothing of it. Drafts are left out, which are not issued yet.
    """

    def subscribed(client: StripeClient) -> dict[str, str]:
        wanted: Any = {"customer": stripe_customer, "status": "all", "limit": _MOST_SUBSCRIPTIONS}
        return {
            one.id: one.status
            for one in client.v1.subscriptions.list(wanted).data
            if metadata_of(one).get(DEPLOYMENT) == stripe.deployment or plans_of(one, stripe.deployment)
            if one.status != _EXPIRED
        }

    ours = stripe.call(subscribed)
    if not ours:
        return None
    looked_at = [*ours][:MOST_LOOKED_AT]
    reads = [partial(_invoices, stripe_customer, one) for one in looked_at]
    with ThreadPoolExecutor(len(reads)) as pool:  # one after the other they might take longer than an answer may
        answers = list(pool.map(stripe.call, reads))
    found = sorted((one for answer in answers for one in answer.data), key=lambda one: one.created, reverse=True)
    shown = [shown_of(one, now, _state(one, ours)) for one in found if one.status != "draft"]
    more = len(ours) > len(looked_at) or any(answer.has_more for answer in answers) or len(shown) > MOST_SHOWN
    return Issued(tuple(shown[:MOST_SHOWN]), more=more)


def _invoices(stripe_customer: str, subscription: str, client: StripeClient) -> Any:
    wanted: Any = {"customer": stripe_customer, "subscription": subscription, "limit": _MOST_READ}
    return client.v1.invoices.list(wanted)


def _state(invoice: Any, subscriptions: Mapping[str, str]) -> str:
    """Return the state of the subscription that an invoice is of."""
    details = invoice.parent.subscription_details if invoice.parent else None
    return subscriptions.get(str(details.subscription), "") if details else ""


def shown_of(invoice: Any, now: datetime, subscription: str) -> dict[str, Any]:
    """Return an issued invoice as it is shown; amounts in the currency's smallest unit. ``subscription`` is its state.

    What is open is past due once its date is over, or once a charge for it has failed.
    """
    is_late = invoice.due_date is not None and invoice.due_date <= now.timestamp()
    has_failed = _has_failed(invoice, subscription)
    state = _PAST_DUE if invoice.status == _OPEN and (is_late or has_failed) else invoice.status
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


def _has_failed(invoice: Any, subscription: str) -> bool:
    """Say whether a charge for an open invoice has failed, and is not under way.

    A debit of a bank account takes days, in which its invoice is open, was attempted once and is not tried again, while
    its subscription is active; that of a failed charge is not (SDK 16.1, ``Invoice.attempt_count`` and
    ``Subscription.status``).
    """
    again = invoice.attempt_count > 1 or invoice.next_payment_attempt is not None
    return bool(invoice.attempt_count) and (again or subscription not in _WELL)


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _address(url: str | None) -> str | None:
    """Return an address that a page may lead to, or None."""
    return url if url and url.startswith("https://") else None
