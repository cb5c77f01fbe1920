"""Removing a customer that was added by mistake. One who used anything stays, with all that was billed (I5).

Its keys are forgotten first, one after the other, then its limits, and the customer last, so that a command that died
is gone on with by the same command. Who gives it a key meanwhile leaves a key whose usage is held, and told.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from infra.operate.customers import is_connected
from infra.operate.deployment import Deployment, OperatorError
from infra.operate.forgetting import Forgetting
from infra.operate.keys import masked_key
from metering.model.limits import OPERATOR
from metering.model.subjects import is_id, source_of_customer
from metering.stores.holders import Customer
from metering.stores.table import RowChangedError
from metering.stripe.meters import StripeMeters
from metering.stripe.subscriptions import MAY_BILL_YET, ended_too, is_running, plans_of

_MOST_KEYS: Final = 100
_OF_NO_USAGE: Final = ("profile", "keys", "subscriptions")


@dataclass(frozen=True, slots=True)
class Removing:
    """The verb, on a deployment; ``stripe`` is None where no Stripe is connected."""

    forgetting: Forgetting
    stripe: StripeMeters | None = None

    @classmethod
    def of(cls, deployment: Deployment) -> "Removing":
        """Return that of a deployment."""
        stripe = deployment.operators_stripe()
        return cls(Forgetting.of(deployment), stripe if is_connected(stripe) else None)

    def remove(self, name: str, *, now: datetime) -> list[str]:
        """Remove a customer with its keys and limits; say what was done, which is nothing if it is not there.

        Raises OperatorError if anything was used, or may be: it is subscribed, or its keys are closed or replaced.
        """
        ledger = self.forgetting.ledger
        customer = ledger.holders.customers([name]).get(name) if is_id(name) else None
        if customer is None:
            return []
        if refusal := self._refusal(customer, now):
            raise OperatorError(f"the customer {name} cannot be removed: {refusal}")
        said = []
        for key in sorted(ledger.holders.keys_of(name)):
            said += self.forgetting.forget(key, now=now)
        # What is written from here on is left where it is, and found under its name: nothing is deleted unseen.
        beside = self.forgetting.mistakes.beside_keys(name)
        if _of_usage(beside):
            raise OperatorError(f"the customer {name} cannot be removed: {_used(name)}")
        self.forgetting.limits.forget_customer(name)
        if self.forgetting.asked:
            self.forgetting.asked.drop_closed(name)
        try:
            self.forgetting.mistakes.forget_customer(customer, beside)
        except RowChangedError as error:
            # boto3 may have met its own write after a read timeout: then it is gone, as was wanted.
            if ledger.holders.customers([name]):
                raise OperatorError(f"the customer {name} was changed by somebody else just now: try again") from error
        return [*said, f"customer {name} is removed"]

    def _refusal(self, customer: Customer, now: datetime) -> str:
        """Say why a customer cannot be removed, and what can be done; empty if it can."""
        name, forgetting = customer.id, self.forgetting
        beside = forgetting.mistakes.beside_keys(name)
        if _of_usage(beside) or forgetting.counted_in(source_of_customer(name), now) is not None:
            return _used(name)
        if OPERATOR in forgetting.limits.of(name).held or forgetting.limits.former(name):
            return f"it is suspended: 'metering customers resume {name}' first, or leave it so"
        if refusal := self._refusal_of_keys(name, now):
            return refusal
        if self.stripe and customer.stripe_customer:
            for one in ended_too(self.stripe, customer.stripe_customer):
                if (is_running(one) or one.status in MAY_BILL_YET) and plans_of(one, self.stripe.deployment):
                    return f"its subscription {one.id} is {one.status}: cancel that at Stripe first"
        return ""

    def _refusal_of_keys(self, name: str, now: datetime) -> str:
        """Say why one of a customer's keys cannot be forgotten; empty if all can."""
        holders = self.forgetting.ledger.holders
        keys = holders.keys_of(name)
        if len(keys) > _MOST_KEYS:
            return f"it has {len(keys)} keys: 'metering keys forget' takes them out, down to {_MOST_KEYS}"
        for key, holding in holders.of_keys(sorted(keys)).items():
            if any(holder.customer != name for holder in holding.holders):
                return f"its key {masked_key(key)} was somebody else's, too, and the key's history names both"
            if refusal := self.forgetting.refusal(holding, now):
                return f"of its key {masked_key(key)}, {refusal}"
        return ""


def _of_usage(beside: Iterable[str]) -> bool:
    """Say whether something of a customer is written that somebody used, is billed for, or decided of that."""
    return any(sk not in _OF_NO_USAGE and not sk.startswith(("month#", "suspended#")) for sk in beside)


def _used(name: str) -> str:
    return (
        f"it was used or billed, and what is billed keeps its customer. 'metering customers suspend {name}' ends its "
        "access, and its subscription ends at Stripe"
    )
