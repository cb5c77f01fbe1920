"""What commands that change a subscription write down of it, for limits to know at once."""

from datetime import datetime

from infra.operate.deployment import Deployment
from metering.billing.keeping import Keeper
from metering.stores.limits import LimitItems
from metering.stores.table import RowChangedError
from metering.stripe.client import StripeRejectedError, StripeUnavailableError
from metering.stripe.subscriptions import Offers


def keep_subscribed(deployment: Deployment, name: str, *, now: datetime) -> list[str]:
    """Write down what a customer is subscribed to now, where there are limits; return what is to be known of it.

    What was done at Stripe before is done: a failure here is a note; the notification or the next look makes it good.
    """
    owner = deployment.ledger.holders.customers([name]).get(name)
    if not deployment.outputs.access_table or owner is None:
        return []
    items = LimitItems(deployment.ledger.client, deployment.ledger.table)
    try:
        Keeper(items, Offers(deployment.operators_stripe()), lambda: now).keep(owner)
    except (StripeUnavailableError, StripeRejectedError, RowChangedError) as error:
        return [f"the limits of {name} go by what was known of its subscription, for a day at most: {error}"]
    return []
