"""Hours: to which hour a moment belongs, and when an hour may be closed."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.model.periods import GRACE, Hour, due_before, hours

FIVE = Hour.parse("2026-11-22T05")


def test_an_hour_is_half_open() -> None:
    """I3: the first moment belongs to the hour, the last to the next."""
    assert Hour.containing(datetime(2026, 11, 22, 5, tzinfo=UTC)) == FIVE
    assert Hour.containing(datetime(2026, 11, 22, 5, 59, 59, 999999, tzinfo=UTC)) == FIVE
    assert Hour.containing(datetime(2026, 11, 22, 6, tzinfo=UTC)) == FIVE.next()
    assert Hour.of_epoch_ms(1795323600000) == FIVE
    assert Hour.of_epoch_ms(1795323600000 - 1) < FIVE


def test_an_hour_is_one_of_utc_whatever_the_time_zone() -> None:
    """I3: six o'clock in Berlin is five o'clock here."""
    berlin = timezone(timedelta(hours=1))
    assert Hour.containing(datetime(2026, 11, 22, 6, 30, tzinfo=berlin)) == FIVE


def test_a_naive_moment_is_refused() -> None:
    """A moment that does not say its time zone has no hour."""
    with pytest.raises(ValueError, match="a moment needs a time zone, got 2026-11-22T05:00:00"):
        Hour.containing(datetime(2026, 11, 22, 5))  # noqa: DTZ001 - that is the point


@pytest.mark.parametrize(
    "text", ["2026-11-22", "2026-11-22T5", "2026-11-22T24", "2026-13-01T00", "", "now", "\uff12026-11-22T05"]
)
def test_what_is_no_hour_is_refused(text: str) -> None:
    """A malformed hour raises ValueError, whatever is wrong with it."""
    with pytest.raises(ValueError, match=r"."):
        Hour.parse(text)


def test_an_hour_is_due_when_its_grace_has_passed() -> None:
    """Ten minutes after its end, and not a microsecond before."""
    assert not FIVE.is_due(FIVE.end + GRACE - timedelta(microseconds=1))
    assert FIVE.is_due(FIVE.end + GRACE)
    assert due_before(FIVE.end + GRACE) == FIVE.next()


def test_hours_are_counted_without_their_end() -> None:
    """The end is exclusive."""
    assert list(hours(FIVE, Hour(FIVE.number + 2))) == [FIVE, FIVE.next()]


def test_what_stripe_takes_ends_before_its_35_days() -> None:
    """34.5 days are half a day on the safe side."""
    assert not FIVE.is_past_stripe(FIVE.start + timedelta(days=34))
    assert FIVE.is_past_stripe(FIVE.start + timedelta(days=34, hours=12))


@given(st.integers(min_value=0, max_value=4_000_000_000_000))
def test_an_hour_reads_back_as_it_is_written(milliseconds: int) -> None:
    """The text form loses nothing, and the moment lies inside."""
    hour = Hour.of_epoch_ms(milliseconds)
    assert Hour.parse(str(hour)) == hour
    assert hour.start <= datetime.fromtimestamp(milliseconds / 1000, UTC) < hour.end
