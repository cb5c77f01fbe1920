"""What a customer's subscriptions bill, from when to when, as Stripe shows them."""

from typing import Any

from metering.model.unbilled import Agreed
from metering.stripe.invoices import StripeReader
from metering.stripe.subscriptions import bills_since


def agreed(reader: StripeReader, stripe_customer: str) -> tuple[Agreed, ...]:
    """Return what each subscription of a customer bills of this deployment's metrics, newest first; one call in a run.

    Those of other business in the account bill none of them.
    """
    metrics = {meter.id: metric for metric, meter in reader.by_metric().items()}
    return tuple(_agreed(one, metrics) for one in reader.subscriptions(stripe_customer))


def _agreed(subscription: Any, metrics: dict[str, str]) -> Agreed:
    """Read a subscription; ``canceled_at`` is when somebody asked for its end, which may be to come (SDK 16.1)."""
    prices: dict[str, int] = {}
    for item in subscription["items"].data:
        recurring = item.price.recurring
        metric = metrics.get((recurring and recurring.meter) or "")
        if metric:
            since = bills_since(item, subscription)
            prices[metric] = min(since, prices.get(metric, since))
    return Agreed(
        subscription.status,
        subscription.start_date,
        subscription.ended_at or 0,
        prices,
        subscription.trial_start or 0,
        subscription.trial_end or 0,
        collects=not subscription.pause_collection,
    )
