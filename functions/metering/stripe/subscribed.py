"""What limits need of a customer's subscription, as Stripe shows it."""

from collections.abc import Iterable, Sequence

import msgspec
from stripe import Subscription

from metering.model.prices import Price
from metering.model.subscribed import OWING, Subscribed
from metering.stripe.client import StripeRejectedError
from metering.stripe.prices import DEPLOYMENT, PLAN, PRICE, metadata_of
from metering.stripe.subscriptions import NEVER_BEGAN, Offers, is_running, plans_of


def standing(found: Iterable[Subscription], deployment: str) -> list[Subscription]:
    """Return a customer's subscriptions to plans of ours, newest first, the one that counts before all others.

    That is one that bills, as everywhere; else one that is paused; else the newest that ended. One that has never begun
    is none: who cancels, and does not pay for the next one, is not subscribed.
    """
    ours = [one for one in found if one.status not in NEVER_BEGAN and plans_of(one, deployment)]
    return sorted(ours, key=lambda one: (not is_running(one), one.status != "paused"))


def subscribed(
    found: Sequence[Subscription], stripe_customer: str, offers: Offers, before: Subscribed | None, at: int
) -> Subscribed:
    """Return what a Stripe customer is subscribed to by the subscriptions that Stripe showed ``at`` a moment.

    Plans and prices are those of the one that counts; without one there are none, and no status. ``before`` is what was
    known. A price that is like none that can be declared is ``unpriced``, and everything else is as it is.
    """
    before = before if before and before.stripe_customer == stripe_customer else None
    standings = standing(found, offers.account.deployment)
    status = str(standings[0].status) if standings else ""
    is_known = before is not None and (before.status == status or {before.status, status} <= OWING)
    shown = Subscribed(
        at=at,
        stripe_customer=stripe_customer,
        status=status,
        since=before.since if before and is_known else at,
    )
    return _with_terms(shown, standings[0], offers) if standings else shown


def _with_terms(shown: Subscribed, subscription: Subscription, offers: Offers) -> Subscribed:
    ours = [
        (item, metadata)
        for item in subscription["items"].data
        if (metadata := metadata_of(item.price)).get(DEPLOYMENT) == offers.account.deployment
    ]
    prices: list[Price] = []
    unpriced: list[str] = []
    for item, metadata in ours:
        try:
            prices.append(offers.of(item.price.id, metadata.get(PRICE, "")).price)
        except StripeRejectedError:
            unpriced.append(item.price.id)
    first, _ = ours[0]
    return msgspec.structs.replace(
        shown,
        plans=tuple(sorted({metadata[PLAN] for _, metadata in ours})),
        currency=subscription.currency,
        interval=first.price.recurring.interval,
        anchor=subscription.billing_cycle_anchor,
        begin=first.current_period_start,
        end=first.current_period_end,
        prices=tuple(msgspec.json.encode(price).decode() for price in prices),
        unpriced=tuple(unpriced),
    )
