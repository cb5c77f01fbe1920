"""When a billing period begins and ends: intervals counted from an anchor, in UTC."""

from calendar import monthrange
from datetime import UTC, datetime

SECONDS = {"day": 86_400, "week": 7 * 86_400}
MONTHS = {"month": 1, "year": 12}


def boundary(anchor: int, interval: str, count: int, number: int) -> int:
    """Give the `number`-th boundary after the anchor, in seconds since the epoch; before it where negative.

    A month that lacks the anchor's day ends on its last one (docs.stripe.com/billing/subscriptions/billing-cycle).
    """
    if interval in SECONDS:
        return anchor + number * count * SECONDS[interval]
    at = datetime.fromtimestamp(anchor, UTC)
    year, month = divmod(at.year * 12 + at.month - 1 + number * count * MONTHS[interval], 12)
    day = min(at.day, monthrange(year, month + 1)[1])
    return int(at.replace(year=year, month=month + 1, day=day).timestamp())


def period(anchor: int, interval: str, count: int, moment: int) -> tuple[int, int]:
    """Give the period [start, end) that contains a moment; the anchor is a boundary."""
    longest = count * (SECONDS[interval] if interval in SECONDS else MONTHS[interval] * 31 * 86_400)
    number = (moment - anchor) // longest - 1 if moment >= anchor else -1
    while boundary(anchor, interval, count, number) > moment:
        number -= 1
    while boundary(anchor, interval, count, number + 1) <= moment:
        number += 1
    return boundary(anchor, interval, count, number), boundary(anchor, interval, count, number + 1)
