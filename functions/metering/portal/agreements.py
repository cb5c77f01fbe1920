"""What customers are subscribed to, as Stripe said last."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from metering.portal.asking import Asking, NotSubscribedError
from metering.stores.holders import Customer
from metering.stripe.subscriptions import Offers, Terms, preview_of, running


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a customer pays for, and what Stripe's preview said at a moment."""

    customer: Customer
    terms: Terms
    preview: Mapping[str, Any]
    as_of: datetime

    @property
    def stands_until(self) -> datetime:
        """When its period ends."""
        return self.terms.end.start


@dataclass(slots=True)
class Agreements(Asking[Agreement]):
    """Knows what customers are subscribed to."""

    _offers: Offers = field(init=False)

    def __post_init__(self) -> None:
        self._offers = Offers(self.stripe)

    def ask(self, name: str, now: datetime) -> Agreement:
        """Read a subscription and its preview; raise as described."""
        customer = self.holders.customers([name]).get(name)
        subscription = running(self.stripe, customer.stripe_customer) if customer and customer.stripe_customer else None
        if customer is None or subscription is None:
            raise NotSubscribedError(name)
        terms = Terms.of(subscription, self._offers)
        return Agreement(customer, terms, preview_of(self.stripe, subscription), now)
