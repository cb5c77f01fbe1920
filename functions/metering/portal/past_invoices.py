"""What customers were invoiced, as Stripe said last, and where they pay.

An invoice's addresses open it to whoever has them: they are answered to its customer's session alone, which keeps them
nowhere, and are written into no log.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from metering.model.prices import decimals_of
from metering.portal.asking import Asking, NotSubscribedError
from metering.stripe.issued import Issued, issued


@dataclass(frozen=True, slots=True)
class Answered:
    """Invoices as they were at a moment."""

    issued: Issued
    as_of: datetime
    stands_until: ClassVar[None] = None
    """For good: what is issued stays so, and it is said when it was looked at."""


@dataclass(slots=True)
class PastInvoices(Asking[Answered]):
    """Knows what customers were invoiced; ``stripe_portal_login`` is where they log in at Stripe, if that is said."""

    stripe_portal_login: str = ""

    def shown(self, name: str, now: datetime) -> dict[str, Any]:
        """Return what a customer was invoiced; raise NotSubscribedError, or what Stripe's trouble was."""
        answered = self.of(name, now)
        return {
            "customer": name,
            "invoices": [one | {"decimals": decimals_of(one["currency"])} for one in answered.issued.invoices],
            "more": answered.issued.more,
            "payment": {"state": answered.issued.standing, "manage_url": self.stripe_portal_login or None},
            "as_of": answered.as_of.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def ask(self, name: str, now: datetime) -> Answered:
        """Read a customer's invoices; raise as described."""
        customer = self.holders.customers([name]).get(name)
        if customer is None or not customer.stripe_customer:
            raise NotSubscribedError(name)
        found = issued(self.stripe, customer.stripe_customer, now)
        if found is None:
            raise NotSubscribedError(name)
        return Answered(found, now)
