"""Keeping: what limits need of customers' subscriptions is written down by whoever sees them at Stripe.

Who changes one by a command, Stripe's notifications, and the hourly look each write the whole of it, from a read of all
of a customer's subscriptions; what a notification says of it does not matter, nor in which order they come. The item is
read before Stripe is asked, and written as it was read or not at all: of two at once the later one asks Stripe anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from aws_lambda_powertools import Logger

from metering.model.subscribed import Subscribed
from metering.stores.holders import Customer
from metering.stores.limits import LimitItems
from metering.stores.table import RowChangedError
from metering.stripe.answers import UNKNOWN_CUSTOMER
from metering.stripe.client import StripeRejectedError
from metering.stripe.reading import OutOfBudgetError
from metering.stripe.subscribed import standing, subscribed
from metering.stripe.subscriptions import Offers, is_running, newest

logger = Logger(child=True)

IDLE_FOR: Final = timedelta(days=7)
"""How often the subscriptions of a customer are read by the hourly look that nothing else is read of at Stripe."""

_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Keeper:
    """Writes down what customers are subscribed to; ``offers`` say what prices do, and whom they are asked from."""

    items: LimitItems
    offers: Offers
    clock: Callable[[], datetime]

    def keep(self, owner: Customer) -> None:
        """Read a customer's subscriptions at Stripe and write them down; raise whatever keeps that from being done.

        That is one call, and one more for each price that was never read. A replay writes the same (I2).
        """
        if not owner.stripe_customer:
            return
        for _ in range(_ROUNDS):
            before, at = self.items.subscribed(owner.id), self.clock()
            try:
                self._write(owner, before, self._read(owner.stripe_customer), at)
            except RowChangedError:
                continue
            return
        raise RowChangedError(f"what {owner.id} is subscribed to kept changing")

    def is_wanted(self, owner: Customer, before: Subscribed | None) -> bool:
        """Say whether a customer's subscriptions are to be read though nobody else needs them: a week after the last.

        It may have used nothing for a month, and still begin at any moment.
        """
        if before is None or before.stripe_customer != owner.stripe_customer:
            return True
        return before.at <= (self.clock() - IDLE_FOR).timestamp()

    def keep_shown(self, owner: Customer, before: Subscribed | None, found: Sequence[Any]) -> None:
        """Write down what Stripe showed of a customer since the clock's moment, unless somebody else has since then.

        ``before`` was read before Stripe was asked. Where no reads are left for its prices, others go on (I6); then a
        later round has them.
        """
        at = self.clock()
        if before is not None and before.at > at.timestamp():
            return
        try:
            self._write(owner, before, found, at)
        except RowChangedError:
            logger.info("somebody else has just written what a customer is subscribed to", customer=owner.id)
        except OutOfBudgetError as error:
            logger.info("a later round reads the prices", customer=owner.id, reason=str(error))

    def _read(self, stripe_customer: str) -> Sequence[Any]:
        """Return a customer's subscriptions: none of one that Stripe does not know."""
        try:
            return newest(self.offers.account, stripe_customer)
        except StripeRejectedError as error:
            if not error.means(UNKNOWN_CUSTOMER):
                raise
            return ()

    def _write(self, owner: Customer, before: Subscribed | None, found: Sequence[Any], at: datetime) -> None:
        whom = owner.stripe_customer
        if not found and before is not None and before.status and before.stripe_customer == whom:
            # Stripe lists also what has ended, so it does not know the customer any more: with a key of another account
            # or mode none of them. Nothing new is known.
            logger.warning("Stripe knows a customer no more", customer=owner.id, stripe_customer=whom)
            return
        after = subscribed(found, whom, self.offers, before, int(at.timestamp()))
        if after.unpriced:
            logger.warning("prices are like none that can be declared", customer=owner.id, prices=after.unpriced)
        if len(others := [*filter(is_running, standing(found, self.offers.account.deployment))]) > 1:
            logger.warning(
                "the newest of several subscriptions counts",
                customer=owner.id,
                subscriptions=[one.id for one in others],
            )
        self.items.subscribe(owner.id, msgspec.structs.replace(after, version=before.version if before else 0))
