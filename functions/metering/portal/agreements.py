"""What customers are subscribed to, as Stripe said last.

It is kept, and so is that there is nothing or that Stripe gave no answer: neither pages that stay open nor an attacker
with a link can make more than a few calls a minute for a customer, and while Stripe has trouble a process asks it once
in ten seconds. Whoever's terms are known is then shown these, with their age.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from metering.portal.kept import keep
from metering.stores.holders import Customer, Holders
from metering.stripe.client import StripeAccount, StripeBusyError, StripeRejectedError, StripeUnavailableError
from metering.stripe.subscriptions import Offers, Terms, preview_of, running

KEPT_S: Final = 60
"""Seconds for which Stripe's answers about a customer are kept."""

REFUSED_S: Final = 30
"""Seconds for which a customer without a subscription, or about whom Stripe gave no answer, is not asked for again."""

BREAK_S: Final = 10
"""Seconds for which nothing at all is asked after a call that Stripe did not answer."""

MOST_KEPT: Final = 200


class NotSubscribedError(Exception):
    """The customer has no subscription to a plan, so that nothing is invoiced."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a customer pays for, and what Stripe's preview said at a moment."""

    customer: Customer
    terms: Terms
    preview: Mapping[str, Any]
    as_of: datetime


@dataclass(frozen=True, slots=True)
class _Kept:
    known: Agreement | NotSubscribedError | StripeUnavailableError | StripeRejectedError
    until: float


@dataclass(slots=True)
class Agreements:
    """Knows what customers are subscribed to. ``clock`` counts seconds. For one thread."""

    holders: Holders
    stripe: StripeAccount
    clock: Callable[[], float]
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _closed_until: float = 0.0
    _offers: Offers = field(init=False)

    def __post_init__(self) -> None:
        self._offers = Offers(self.stripe)

    def of(self, name: str, now: datetime) -> Agreement:
        """Return what a customer is subscribed to; raise NotSubscribedError, or what Stripe's trouble was."""
        kept = self._kept.get(name)
        if kept is None or kept.until <= self.clock():
            kept = self._renewed(name, kept, now)
        keep(self._kept, name, kept, MOST_KEPT)
        if isinstance(kept.known, Agreement):
            return kept.known
        raise kept.known.with_traceback(None)

    def _renewed(self, name: str, kept: _Kept | None, now: datetime) -> _Kept:
        """Ask Stripe, unless it is left alone for now; what was known before stands in for an answer."""
        before = kept.known if kept is not None else None
        if not isinstance(before, Agreement) or before.terms.end.start <= now:
            before = None
        at = self.clock()
        if at < self._closed_until:
            return _Kept(before or StripeUnavailableError("Stripe gave no answer a moment ago"), self._closed_until)
        try:
            return _Kept(self._ask(name, now), at + KEPT_S)
        except NotSubscribedError as error:
            return _Kept(error, at + REFUSED_S)
        except StripeRejectedError as error:
            return _Kept(before or error, at + REFUSED_S)
        except StripeUnavailableError as error:
            at = self.clock()
            if not (isinstance(error, StripeBusyError) and error.alone):
                self._closed_until = at + BREAK_S
            return _Kept(before or error, at + REFUSED_S)

    def _ask(self, name: str, now: datetime) -> Agreement:
        customer = self.holders.customers([name]).get(name)
        subscription = running(self.stripe, customer.stripe_customer) if customer and customer.stripe_customer else None
        if customer is None or subscription is None:
            raise NotSubscribedError(name)
        terms = Terms.of(subscription, self._offers)
        return Agreement(customer, terms, preview_of(self.stripe, subscription), now)
