"""A forecast, marked as one."""

from datetime import timedelta

from metering.model.periods import Hour
from metering.portal.forecast import as_counted, bounds, goes_on, is_early
from metering.portal.history import Correction
from metering.stripe.subscriptions import Terms

FIRST = Hour.parse("2026-11-01T00")
TERMS = Terms(("standard",), "usd", FIRST, Hour.parse("2026-12-01T00"), ())
NOW = FIRST.start + timedelta(days=20)


def test_calls_go_on_as_in_the_last_day() -> None:
    """One in each of the last 23 hours are 240 in the ten days that are left; what was earlier counts as it is."""
    last_day = {Hour(FIRST.number + 20 * 24 - n): {"requests": 1} for n in range(1, 24)}
    assert goes_on({FIRST: {"requests": 7}, **last_day}, TERMS, NOW, distinct=()) == {"requests": 7 + 23 + 240}


def test_a_busy_customers_usage_goes_on_as_anyones() -> None:
    """10^12 bytes in each of the last 23 hours, which no span of time can be multiplied by."""
    last_day = {Hour(FIRST.number + 20 * 24 - n): {"bytes": 10**12} for n in range(1, 24)}
    assert goes_on(last_day, TERMS, NOW, distinct=()) == {"bytes": 263 * 10**12}


def test_distinct_values_stay_as_many_as_they_are() -> None:
    """Most of tomorrow's users have been seen today."""
    just_now = {Hour(FIRST.number + 20 * 24 - 1): {"users": 7}}
    assert goes_on(just_now, TERMS, NOW, distinct={"users"}) == {"users": 7}


def test_nothing_goes_on_after_the_end() -> None:
    """The invoice is not made yet, and its period is over."""
    late = {Hour(TERMS.end.number - 1): {"requests": 3}}
    assert goes_on(late, TERMS, TERMS.end.start + timedelta(minutes=5), distinct=()) == {"requests": 3}


def test_the_halves_of_the_last_day_say_how_far_off_it_may_be() -> None:
    """Two in each of twelve hours and ten in the eleven others are 5.8 an hour; each half goes on for ten days."""
    last_day = {Hour(FIRST.number + 20 * 24 - n): {"bytes": 10 if n < 12 else 2} for n in range(1, 24)}
    expected = goes_on(last_day, TERMS, NOW, distinct=())
    low, high = bounds(last_day, TERMS, NOW, distinct=())
    used = 11 * 10 + 12 * 2
    assert low == {"bytes": used + 22 * 240 // 12}  # an hour of the 24 runs, and counts for nothing
    assert high == {"bytes": used + (11 * 10 + 2) * 240 // 12}
    assert low["bytes"] < expected["bytes"] < high["bytes"]


def test_what_was_carried_or_adjusted_is_asked_once_and_does_not_go_on() -> None:
    """A million of last month's in the first hour, and five that were counted in it, are no million an hour."""
    now = FIRST.start + timedelta(minutes=65)
    by_hour = {FIRST: {"requests": 1_000_005}, FIRST.next(): {"requests": 2}}
    counted = as_counted(by_hour, {FIRST: {"requests": Correction(400_000, 600_000)}, FIRST.next(): {}})
    assert counted == {FIRST: {"requests": 5}, FIRST.next(): {"requests": 2}}
    left = 30 * 24 * 60 - 65
    expected = goes_on(by_hour, TERMS, now, distinct=(), counted=counted)
    assert expected == {"requests": 1_000_007 + 7 * left // 65}
    low, high = bounds(by_hour, TERMS, now, distinct=(), counted=counted)
    assert low == {"requests": 1_000_007}
    assert high == {"requests": max(expected["requests"], 1_000_007 + 5 * left // 60)}
    assert as_counted({FIRST: {"requests": 0}}, {FIRST: {"requests": Correction(0, 4)}}) == {FIRST: {"requests": 0}}


def test_what_is_not_known_is_idle_at_best_and_no_busier_at_worst() -> None:
    """One hour of 10^12 may be all of a day, or go on; distinct values stay."""
    now = FIRST.start + timedelta(minutes=65)
    by_hour = {FIRST: {"bytes": 10**12, "users": 3}, FIRST.next(): {"bytes": 5}}
    low, high = bounds(by_hour, TERMS, now, distinct={"users"})
    assert low == {"bytes": 10**12 + 5, "users": 3}
    assert high == {"bytes": 10**12 + 5 + 10**12 * (30 * 24 * 60 - 65) // 60, "users": 3}


def test_it_is_early_until_a_tenth_has_passed() -> None:
    """Three days of thirty."""
    tenth = FIRST.start + timedelta(days=3)
    assert is_early(TERMS, tenth - timedelta(seconds=1))
    assert not is_early(TERMS, tenth)
