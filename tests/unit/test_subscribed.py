"""What limits make of a subscription: its periods, and from when on it is not paid for."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infra.local.stripe.calendar import boundary, period
from metering.model.periods import Hour
from metering.model.subscribed import Subscribed, Window, is_unpaid

SINCE = datetime(2026, 11, 1, 12, tzinfo=UTC)
HOUR_S = 3600
YEARS = 6 * 366 * 24
FIRST = int(datetime(2023, 1, 1, tzinfo=UTC).timestamp())


def at(text: str) -> int:
    """Return a moment in seconds since 1970."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def subscribed(**more: object) -> Subscribed:
    """Return what a customer is subscribed to since November began."""
    known = {"at": 0, "stripe_customer": "cus_acme", "status": "active", "since": int(SINCE.timestamp())}
    return Subscribed(**(known | more))  # type: ignore[arg-type]


@given(
    anchor=st.integers(0, 3 * 366 * 24).map(lambda hours: FIRST + hours * HOUR_S),
    interval=st.sampled_from(["day", "week", "month", "year"]),
    seen=st.integers(0, 40),
    later=st.integers(0, YEARS),
)
@example(at("2024-01-31T05:00"), "month", 0, 24 * 59)
@example(at("2024-01-31T05:00"), "month", 1, 24 * 45)
@example(at("2024-02-29T23:00"), "year", 1, 24 * 366 * 4)
@example(at("2023-12-30T00:00"), "month", 2, 0)
def test_the_period_is_the_one_that_stripe_bills(anchor: int, interval: str, seen: int, later: int) -> None:
    """However long ago it was seen last: by the calendar of Stripe's own documents, over years."""
    begin, end = boundary(anchor, interval, 1, seen), boundary(anchor, interval, 1, seen + 1)
    now = begin + later * HOUR_S
    shown = subscribed(anchor=anchor, begin=begin, end=end, interval=interval)
    first, last = period(anchor, interval, 1, now)
    assert shown.period(datetime.fromtimestamp(now, UTC)) == Window(
        Hour.of_epoch_ms(first * 1000), Hour.of_epoch_ms(last * 1000)
    )


def test_a_short_first_period_is_followed_by_whole_ones() -> None:
    """It ends with the anchor, which is the 31st."""
    shown = subscribed(
        anchor=at("2026-01-31T00:00"), begin=at("2026-01-10T07:00"), end=at("2026-01-31T00:00"), interval="month"
    )
    for now, begin, end in (
        ("2026-01-30T23:59", "2026-01-10T07", "2026-01-31T00"),
        ("2026-01-31T00:00", "2026-01-31T00", "2026-02-28T00"),
        ("2026-02-28T00:00", "2026-02-28T00", "2026-03-31T00"),
        ("2026-03-31T00:00", "2026-03-31T00", "2026-04-30T00"),
    ):
        moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
        assert shown.period(moment) == Window(Hour.parse(begin), Hour.parse(end)), now


@pytest.mark.parametrize("status", ["past_due", "unpaid", "canceled"])
def test_who_does_not_pay_is_unpaid_after_the_days_of_grace_and_never_before(status: str) -> None:
    """To the second."""
    owing = subscribed(status=status)
    assert not is_unpaid(owing, 7, SINCE + timedelta(days=7) - timedelta(seconds=1))
    assert is_unpaid(owing, 7, SINCE + timedelta(days=7))
    assert is_unpaid(owing, 0, SINCE)


@pytest.mark.parametrize("status", ["active", "trialing", "paused", "incomplete", "incomplete_expired", ""])
def test_who_pays_or_owes_nothing_is_never_unpaid(status: str) -> None:
    """However long it is so; what is not on the list is not known to be owed."""
    assert not is_unpaid(subscribed(status=status), 0, SINCE + timedelta(days=999))
    assert not is_unpaid(None, 0, SINCE)
