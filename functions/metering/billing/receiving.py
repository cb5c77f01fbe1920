"""Receiving: Stripe's word, hours or days later, that it could not use a total which it had accepted.

Nothing depends on it: what Stripe does not hold is found by the hourly look as well. But Stripe's own words say why.
So it is where there are limits with its word that a subscription has changed, which is then read and written down.
"""

from dataclasses import dataclass
from typing import Final

from aws_lambda_powertools import Logger

from metering.billing.keeping import Keeper
from metering.model.identifiers import named_by
from metering.model.subjects import customer
from metering.model.usage_row import rejected_later
from metering.stores.ledger import Ledger
from metering.stores.table import RowChangedError
from metering.stripe.client import StripeRejectedError
from metering.stripe.webhooks import NotUnderstoodError, Webhooks, customer_of

logger = Logger(child=True)

_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Receiver:
    """Marks what Stripe reports; a ``keeper``, where there are limits, writes down what subscriptions have become."""

    ledger: Ledger
    webhooks: Webhooks
    keeper: Keeper | None = None

    def receive(self, body: bytes, signature: str) -> dict[str, str]:
        """Mark the totals that a notification's event names; return what was rejected, with Stripe's words.

        Or write down what the customer of a subscription that has changed is subscribed to now.

        Raises RefusedError for a request that Stripe has not signed, and whatever error keeps a notification from being
        dealt with, so that Stripe sends it again. What no repetition would help is taken, and left to the hourly look.
        """
        try:
            told = self.webhooks.told(body, signature)
            if told.subscription and self.keeper:
                self._keep(told.subscription, self.keeper)
        except (NotUnderstoodError, StripeRejectedError) as error:
            logger.warning("notification not understood", reason=str(error))
            return {}
        return {known_as: words for known_as, words in told.rejected.items() if self._mark(known_as, words)}

    def _keep(self, subscription: str, keeper: Keeper) -> None:
        """Write down what a subscription's customer is subscribed to, if it is one of ours.

        One whom a customer of ours had before it was given another is none any more.
        """
        whom = customer_of(self.webhooks.meters, subscription)
        name = self.ledger.holders.owner(whom)
        owner = self.ledger.holders.customers([name]).get(name) if name else None
        if owner is not None and owner.stripe_customer == whom:
            keeper.keep(owner)

    def _mark(self, known_as: str, words: str) -> bool:
        """Mark a total as rejected, unless another one has taken its place."""
        short, _, hour = named_by(known_as)
        name = self.ledger.holders.id_of(short)
        if not name:
            return False
        for _ in range(_ROUNDS):
            (row,) = self.ledger.rows.at(hour, [customer(name)]).values()
            after = rejected_later(row, known_as, words)
            if after is row:
                return False
            try:
                self.ledger.rows.save(after)
            except RowChangedError:
                continue
            logger.warning("Stripe rejected usage later", identifier=known_as, reason=words)
            return True
        raise RowChangedError(f"the row of {known_as} kept changing")
