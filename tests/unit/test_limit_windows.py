"""Windows: the hours in which usage counts against a limit."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.model.periods import Hour
from metering.model.subscribed import Subscribed, Window, window_of
from tests.unit.moments import at, epoch, window

NOW = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
MONTH = Window(Hour.parse("2026-11-01T00"), Hour.parse("2026-12-01T00"))
MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - they get one


def subscribed(begin: str, end: str, interval: str = "month", anchor: str = "") -> Subscribed:
    """Return a subscription whose period ran from one moment to another."""
    return Subscribed(
        at=0,
        stripe_customer="cus_acme",
        status="active",
        since=0,
        interval=interval,
        anchor=epoch(anchor) if anchor else 0,
        begin=epoch(begin),
        end=epoch(end),
    )


@pytest.mark.parametrize(
    ("per", "now", "expected"),
    [
        ("hour", "2026-11-22T05:00:00", window("2026-11-22T05", "2026-11-22T06")),
        ("hour", "2026-12-31T23:59:59", window("2026-12-31T23", "2027-01-01T00")),
        ("day", "2026-11-22T05:30:00", window("2026-11-22T00", "2026-11-23T00")),
        ("day", "2026-12-31T23:59:59", window("2026-12-31T00", "2027-01-01T00")),
        ("day", "2028-02-29T00:00:00", window("2028-02-29T00", "2028-03-01T00")),
        ("month", "2026-11-30T23:59:59", window("2026-11-01T00", "2026-12-01T00")),
        ("month", "2026-12-01T00:00:00", window("2026-12-01T00", "2027-01-01T00")),
        ("month", "2027-02-10T00:00:00", window("2027-02-01T00", "2027-03-01T00")),
        ("month", "2028-02-29T23:00:00", window("2028-02-01T00", "2028-03-01T00")),
        ("period", "2026-12-24T12:00:00", window("2026-12-01T00", "2027-01-01T00")),
    ],
)
def test_a_window_is_an_hour_a_day_or_a_month_of_utc(per: str, now: str, expected: Window) -> None:
    """Half-open, over the ends of months and years; of who has no subscription, a period is the month."""
    assert window_of(per, at(now), None) == expected


@pytest.mark.parametrize(
    "told",
    [
        "2026-03-29T01:59:59+01:00",  # Europe puts its clocks forward a second later
        "2026-10-25T02:30:00+02:00",  # and back, so that this hour comes twice
        "2026-10-25T02:30:00+01:00",
        "2026-11-01T01:30:00-04:00",  # America
        "2026-11-01T01:30:00-05:00",
    ],
)
def test_a_day_on_which_clocks_are_put_forward_or_back_has_24_hours(told: str) -> None:
    """Nobody's local time matters, whatever zone a moment is told in."""
    found = window_of("day", datetime.fromisoformat(told), None)
    assert (str(found), found.end.number - found.begin.number) == (f"{told[:10]}T00", 24)


def test_a_window_is_of_a_known_kind_and_a_moment_has_a_zone() -> None:
    """What else is asked for is a defect, and is told as one."""
    with pytest.raises(ValueError, match=r"a window is one of \('hour', 'day', 'month', 'period'\), got 'week'"):
        window_of("week", NOW, None)
    with pytest.raises(ValueError, match="a moment needs a time zone"):
        window_of("day", NOW.replace(tzinfo=None), None)


@pytest.mark.parametrize(
    ("terms", "now", "expected"),
    [
        (subscribed("2026-11-15T10:00:00", "2026-12-15T10:00:00"), NOW, window("2026-11-15T10", "2026-12-15T10")),
        # the period in which it is now was never seen
        (
            subscribed("2026-08-15T10:00:00", "2026-09-15T10:00:00"),
            NOW,
            window("2026-11-15T10", "2026-12-15T10"),
        ),
        # the last moment, and the first
        (
            subscribed("2026-11-15T10:00:00", "2026-12-15T10:00:00"),
            at("2026-12-15T09:59:59"),
            window("2026-11-15T10", "2026-12-15T10"),
        ),
        (
            subscribed("2026-11-15T10:00:00", "2026-12-15T10:00:00"),
            at("2026-12-15T10:00:00"),
            window("2026-12-15T10", "2027-01-15T10"),
        ),
        # the hour in which a period ends is the next one's
        (
            subscribed("2026-11-15T10:40:00", "2026-12-15T10:40:00"),
            at("2026-12-15T10:05:00"),
            window("2026-12-15T10", "2027-01-15T10"),
        ),
        # anchored on the 31st: the last of a shorter month, and the 31st again
        (
            subscribed("2027-01-31T08:00:00", "2027-02-28T08:00:00", anchor="2026-10-31T08:00:00"),
            at("2027-03-01T00:00:00"),
            window("2027-02-28T08", "2027-03-31T08"),
        ),
        (
            subscribed("2027-01-31T08:00:00", "2027-02-28T08:00:00", anchor="2026-10-31T08:00:00"),
            at("2027-05-30T00:00:00"),
            window("2027-04-30T08", "2027-05-31T08"),
        ),
        (
            subscribed("2027-12-31T08:00:00", "2028-01-31T08:00:00", anchor="2026-10-31T08:00:00"),
            at("2028-02-29T07:59:59"),
            window("2028-01-31T08", "2028-02-29T08"),
        ),
        # without an anchor, the day of the period that was seen
        (
            subscribed("2026-12-31T08:00:00", "2027-01-31T08:00:00"),
            at("2027-04-01T00:00:00"),
            window("2027-03-31T08", "2027-04-30T08"),
        ),
        (
            subscribed("2024-02-29T00:00:00", "2025-02-28T00:00:00", "year", anchor="2024-02-29T00:00:00"),
            at("2028-06-01T00:00:00"),
            window("2028-02-29T00", "2029-02-28T00"),
        ),
        (
            subscribed("2026-10-26T00:00:00", "2026-11-02T00:00:00", "week"),
            NOW,
            window("2026-11-16T00", "2026-11-23T00"),
        ),
        (
            subscribed("2026-02-27T06:00:00", "2026-02-28T06:00:00", "day"),
            at("2026-03-01T05:00:00"),
            window("2026-02-28T06", "2026-03-01T06"),
        ),
        # it begins tomorrow: until then the month counts
        (subscribed("2026-11-23T00:00:00", "2026-12-23T00:00:00"), NOW, MONTH),
        (Subscribed(at=0, stripe_customer="cus_acme", status="active", since=0), NOW, MONTH),
    ],
)
def test_a_period_is_the_subscriptions_own_and_rolls_on_by_itself(
    terms: Subscribed, now: datetime, expected: Window
) -> None:
    """As Stripe rolls it, whether or not anybody has looked there since."""
    assert window_of("period", now, terms) == expected


@given(MOMENTS, MOMENTS, st.sampled_from(["day", "week", "month", "year"]), st.integers(1, 31))
def test_periods_follow_one_another_without_a_gap(begun: datetime, now: datetime, interval: str, days: int) -> None:
    """Every hour is in the one window that its own look finds, and the next begins where that ends."""
    begin, end = begun.timestamp(), (begun + timedelta(days=days)).timestamp()
    terms = Subscribed(
        at=0, stripe_customer="c", status="active", since=0, interval=interval, begin=int(begin), end=int(end)
    )
    period = terms.period(now)
    if period is None:
        assert Hour.containing(now) < Hour.of_epoch_ms(int(begin) * 1000)
        return
    assert period.begin <= Hour.containing(now) < period.end
    assert terms.period(period.end.start - timedelta(seconds=1)) == period
    after = terms.period(period.end.start)
    assert after is not None
    assert after.begin == period.end


@given(st.sampled_from(["hour", "day", "month"]), st.lists(MOMENTS, min_size=2, max_size=20))
def test_two_moments_are_of_one_window_or_of_two_that_share_no_hour(per: str, moments: list[datetime]) -> None:
    """So that each use counts against one window alone."""
    windows = sorted({window_of(per, moment, None) for moment in moments})
    assert all(first.end <= second.begin for first, second in pairwise(windows))


@pytest.mark.parametrize(
    ("terms", "moment", "expected"),
    [
        (subscribed("2026-11-15T10:00:00", "2026-12-15T10:00:00"), NOW, window("2026-11-15T10", "2026-12-15T10")),
        (
            subscribed("2026-11-15T10:00:00", "2026-12-15T10:00:00"),
            at("2026-11-15T09:59:59"),
            window("2026-10-15T10", "2026-11-15T10"),
        ),
        (
            subscribed("2027-02-28T08:00:00", "2027-03-31T08:00:00", anchor="2026-10-31T08:00:00"),
            at("2026-12-01T00:00:00"),
            window("2026-11-30T08", "2026-12-31T08"),
        ),
        (
            subscribed("2028-02-29T00:00:00", "2029-02-28T00:00:00", "year", anchor="2024-02-29T00:00:00"),
            at("2027-06-01T00:00:00"),
            window("2027-02-28T00", "2028-02-29T00"),
        ),
        (
            subscribed("2026-11-16T00:00:00", "2026-11-23T00:00:00", "week"),
            at("2026-11-05T00:00:00"),
            window("2026-11-02T00", "2026-11-09T00"),
        ),
        (Subscribed(at=0, stripe_customer="cus_acme", status="active", since=0), NOW, MONTH),
    ],
)
def test_periods_of_before_are_those_from_which_the_present_one_follows(
    terms: Subscribed, moment: datetime, expected: Window
) -> None:
    """As if the subscription always had been: so limits are tried on usage of before."""
    assert window_of("period", moment, terms.as_of(moment)) == expected
    if terms.end:
        assert window_of("period", NOW + timedelta(days=4000), terms.as_of(moment)) == window_of(
            "period", NOW + timedelta(days=4000), terms
        )
