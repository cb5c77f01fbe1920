"""Unbilled usage: why nobody pays, as things stand, for what Stripe has taken (I9). Pure.

A total is ``POSTED`` when Stripe has it, whoever is billed for it: that is a question of subscriptions, and of moments.
An hour's events are dated in its last ten minutes, and Stripe bills a subscription's price for the events that are
dated while it runs (docs.stripe.com/billing/subscriptions/usage-based/manage-billing-setup).
"""

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from metering.model.identifiers import first_dated
from metering.model.periods import Hour

OPEN_PERIOD: Final = timedelta(days=35)
"""How far back usage that nobody pays is counted: for so long Stripe would still have taken it."""

LAST_INVOICE: Final = timedelta(hours=2)
"""After a subscription's end: for an hour its last invoice is a draft (docs.stripe.com/billing/invoices/subscription),
and the next run notes it."""


class WhyUnbilled(StrEnum):
    """Why nobody is billed for posted usage, as things stand. What comes first is told where several are true."""

    PAUSED = "subscription paused"
    UNPAID = "subscription unpaid"
    INCOMPLETE = "subscription incomplete"
    NO_PRICE = "no price in subscription"
    ENDED = "subscription ended"
    TRIAL = "on trial"
    BEFORE = "before subscription"
    NO_SUBSCRIPTION = "no subscription"

    @property
    def is_agreed(self) -> bool:
        """Whether nobody has to act: it is never billed, whatever its age, and was not to be."""
        return self in (WhyUnbilled.TRIAL, WhyUnbilled.BEFORE)


class Agreed(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is read of a subscription: its state in Stripe's word, and from when to when it bills what.

    ``prices`` says since when it has a price of each metric. Moments are in seconds since 1970; ``end`` is 0 while it
    runs. ``collects`` is false while ``pause_collection`` keeps its invoices from being paid.
    """

    status: str
    start: int
    end: int = 0
    prices: dict[str, int] = {}
    trial_start: int = 0
    trial_end: int = 0
    collects: bool = True


def why_unbilled(
    metric: str, hour: Hour, agreed: Iterable[Agreed], now: datetime, *, dated: int = 0
) -> WhyUnbilled | None:
    """Return why no subscription bills a metric's hour that is on no invoice yet; None if one does, or is about to.

    What was posted is ``dated`` at a moment in seconds since 1970; 0 if nothing was.
    """
    at = dated or first_dated(hour)
    reasons = [_why(metric, at, one, now) for one in agreed if one.status != "incomplete_expired"]
    known = [reason for reason in reasons if reason is not None]
    if len(known) < len(reasons):
        return None
    return min(known, key=_RANKS.__getitem__, default=WhyUnbilled.NO_SUBSCRIPTION)


_RANKS: Final = {why: rank for rank, why in enumerate(WhyUnbilled)}


def _why(metric: str, at: int, one: Agreed, now: datetime) -> WhyUnbilled | None:
    is_over = at >= one.end or now.timestamp() >= one.end + LAST_INVOICE.total_seconds()
    reasons = (
        (WhyUnbilled.BEFORE, at < one.start),
        (WhyUnbilled.ENDED, bool(one.end) and is_over),
        (WhyUnbilled.NO_PRICE, at < one.prices.get(metric, math.inf)),
        (WhyUnbilled.TRIAL, one.trial_start <= at < one.trial_end),
        (WhyUnbilled.INCOMPLETE, one.status == "incomplete"),
        (WhyUnbilled.UNPAID, one.status == "unpaid"),
        (WhyUnbilled.PAUSED, one.status == "paused" or not one.collects),
    )
    return next((why for why, holds in reasons if holds), None)
