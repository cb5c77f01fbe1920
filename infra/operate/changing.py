"""Changing a customer's plan when its period ends: nothing is billed twice, and no hour is left out (I4).

Two steps, each one call at Stripe that is harmless to repeat. The running subscription is told to end with its period,
and which plan comes next. Once it has ended, its last invoice bills what was used; subscribing again then makes the
next one, which begins with the very hour at which the other ended, however much later in its first period that is
said. That the last invoice bills metered usage is in docs.stripe.com/billing/subscriptions/cancel as others quote it,
and was not seen at Stripe. A schedule would exchange the prices of one subscription without a second step; what it
bills of a metered price that is taken away when its period ends is not documented.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from infra.operate.deployment import OperatorError
from infra.operate.words import count
from metering.model.periods import Hour
from metering.model.prices import Plan
from metering.stores.holders import Customer
from metering.stripe.meters import StripeMeters
from metering.stripe.prices import metadata_of
from metering.stripe.subscriptions import NEVER_BEGAN

if TYPE_CHECKING:
    from stripe import Subscription

NEXT: Final = "metering_next_plan"

SHORTEST: Final = {
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=28),
    "year": timedelta(days=365),
}
"""The least that a period lasts: of a subscription that begins before the last one, what ended may be on no invoice."""


def end_of(subscription: "Subscription") -> Hour:
    """Return the hour with which a subscription's period ends, exclusive; OperatorError if it ends within one."""
    end = datetime.fromtimestamp(min(item.current_period_end for item in subscription["items"].data), UTC)
    if Hour.containing(end).start != end:
        raise OperatorError(
            f"the period of {subscription.id} ends at {end:%H:%M:%S}, within an hour, whose usage would be billed in "
            "part: reset its billing cycle at a whole hour (UTC) first"
        )
    return Hour.containing(end)


def next_plan(subscription: "Subscription") -> str:
    """Return the plan that comes after a subscription that ends with its period; nothing if it goes on."""
    return metadata_of(subscription).get(NEXT, "") if subscription.cancel_at_period_end else ""


def is_told_to_end(stripe: StripeMeters, subscription: "Subscription", plan: str) -> bool:
    """Let a subscription end with its period, with another plan to come; return whether it was not told so already."""
    if next_plan(subscription) == plan:
        return False
    _update(stripe, subscription, {"cancel_at_period_end": True, "metadata": {NEXT: plan}})
    return True


def is_let_go_on(stripe: StripeMeters, subscription: "Subscription") -> bool:
    """Take that back; return whether there was something to be taken back."""
    if not next_plan(subscription):
        return False
    _update(stripe, subscription, {"cancel_at_period_end": False, "metadata": {NEXT: ""}})
    return True


def _update(stripe: StripeMeters, subscription: "Subscription", wanted: Any) -> None:
    stripe.call(lambda client: client.v1.subscriptions.update(subscription.id, wanted))


def ended_for_another(former: Sequence["Subscription"]) -> "Subscription | None":
    """Return a customer's last subscription, newest first, if it ended with its period for another plan to come."""
    began = [one for one in former if one.status not in NEVER_BEGAN]
    if not began or not began[0].ended_at or not next_plan(began[0]):
        return None
    return began[0] if Hour.of_epoch_ms(began[0].ended_at * 1000) >= end_of(began[0]) else None


def begin_after(ended: "Subscription | None", interval: str, now: datetime) -> Hour:
    """Return the hour with which the next subscription begins: the one in which the last ended, or the running one."""
    if ended is not None and now < (end := end_of(ended)).start + SHORTEST[interval]:
        return end
    return Hour.containing(now)


def left_out(ended: "Subscription | None", begin: Hour) -> list[str]:
    """Say which hours are in neither of two subscriptions (I9)."""
    if ended is None or end_of(ended) >= begin:
        return []
    told = (
        f"it ended with {end_of(ended)}, longer ago than a period lasts: what was used from then to {begin} is billed "
        "to nobody, unless 'metering adjust' bills it in an hour after that"
    )
    return [told]


def how_to_go_on(customer: Customer, until: str, plan: Plan, ends: Hour) -> list[str]:
    """Say what becomes of a customer on a plan ``until`` it ends, and how the next one begins."""
    again, within = f"metering customers subscribe {customer.id}", count(SHORTEST[plan.interval].days, "day")
    then = (
        f"{customer.id} stays on {until} until {ends}. Say '{again} {plan.name}' then, or within {within}: it begins "
        f"with {ends} whenever that is said, and its limits hold once it is"
    )
    return [then, f"before that, '{again} {until} --change' lets {until} go on"]
