"""A customer's subscription as limits need it, and the windows in which usage counts against a limit. Pure.

Most windows are an hour, a day or a month of UTC; a subscription brings a window of its own, the period it is paid for.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from metering.model.periods import Hour

PERS: Final = ("hour", "day", "month", "period")
"""How long a window lasts; hours, days and months of UTC, or the subscription's own period."""


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """The hours in which usage counts against a limit, half-open; written as its first hour."""

    begin: Hour
    end: Hour

    def __str__(self) -> str:
        return str(self.begin)


class Subscribed(msgspec.Struct, frozen=True, omit_defaults=True):
    """What limits need of a customer's subscription, as Stripe showed it ``at`` a moment.

    ``prices`` are those it really has, as JSON of :data:`metering.model.prices.Price`, whose included units are tiers;
    ``unpriced`` are the ids of those that are like none that can be declared: then nobody knows what it spends.
    ``begin`` and ``end`` bound the period that ran then; later ones follow from ``interval`` and ``anchor``. All
    moments are in seconds since 1970. ``status`` is Stripe's word, and empty without a subscription; ``since`` is when
    it was first seen, and stays while one that is not paid for turns into another of :data:`OWING`.
    """

    at: int
    stripe_customer: str
    status: str
    since: int
    plans: tuple[str, ...] = ()
    currency: str = ""
    interval: str = ""
    anchor: int = 0
    begin: int = 0
    end: int = 0
    prices: tuple[str, ...] = ()
    unpriced: tuple[str, ...] = ()
    version: int = 0

    def as_of(self, moment: datetime) -> "Subscribed":
        """Return the subscription with a period that runs at a moment or ran before it, as if it always had."""
        begin, end = self.begin, self.end
        while end and begin > moment.timestamp():
            begin, end = _after(begin, self.anchor or self.end, self.interval, -1), begin
        return msgspec.structs.replace(self, begin=begin, end=end)

    def period(self, now: datetime) -> "Window | None":
        """Return the period that runs now, in whole hours, as the portal shows it; None if none does.

        The hour in which one period ends is the next one's, since its usage is dated at its end.
        """
        begin, end = self.begin, self.end
        if not end:
            return None
        hour = Hour.containing(now)
        while Hour.of_epoch_ms(end * 1000) <= hour:
            begin, end = end, _after(end, self.anchor or self.end, self.interval)
        period = Window(Hour.of_epoch_ms(begin * 1000), Hour.of_epoch_ms(end * 1000))
        return period if period.begin <= hour else None


def _after(moment: int, anchor: int, interval: str, periods: int = 1) -> int:
    """Return the end of the period that begins at a moment, or -1 periods on: the begin of that which ends there.

    On the anchor's day of the month, or on the last of a month that lacks it (Stripe docs, "Billing cycle").
    """
    begin = datetime.fromtimestamp(moment, UTC)
    if interval in ("day", "week"):
        return int((begin + periods * timedelta(days=7 if interval == "week" else 1)).timestamp())
    months = begin.year * 12 + begin.month - 1 + periods * (12 if interval == "year" else 1)
    year, month = months // 12, months % 12 + 1
    day = min(datetime.fromtimestamp(anchor, UTC).day, monthrange(year, month)[1])
    return int(begin.replace(year=year, month=month, day=day).timestamp())


def window_of(per: str, now: datetime, subscribed: Subscribed | None) -> Window:
    """Return the window that runs now; of who has no subscription, a period is the month of UTC."""
    hour = Hour.containing(now)
    match per:
        case "hour":
            return Window(hour, hour.next())
        case "day":
            begin = Hour(hour.number - hour.number % 24)
            return Window(begin, Hour(begin.number + 24))
        case "period" if subscribed is not None and (period := subscribed.period(now)):
            return period
        case "month" | "period":
            return Window(hour.month_begin, hour.month_end)
        case _:
            raise ValueError(f"a window is one of {PERS}, got {per!r}")


OWING: Final = frozenset({"past_due", "unpaid", "canceled"})
"""States of a subscription for which nobody pays any more (Stripe docs, "How subscriptions work").

One that is ``incomplete`` has never begun, and Stripe ends it within a day; one that is ``paused`` owes nothing: what
is used meanwhile is told as billed to nobody.
"""


def is_unpaid(subscribed: Subscribed | None, days: int, now: datetime) -> bool:
    """Say whether a customer has not paid for as many days of grace; without a subscription nothing is owed."""
    if subscribed is None or subscribed.status not in OWING:
        return False
    return now.timestamp() >= subscribed.since + timedelta(days=days).total_seconds()
