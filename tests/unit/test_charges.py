"""A forecast, marked as one."""

from datetime import timedelta

from metering.model.periods import Hour
from metering.portal.charges import goes_on
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
