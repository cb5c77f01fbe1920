"""How a running period is going to end: an estimate, and how far off it may be. Pure."""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Final

from metering.model.periods import HOUR, Hour
from metering.portal.history import ByHour, Correction
from metering.stripe.subscriptions import Terms

BASIS: Final = "the usage of the last 24 hours goes on until the period ends, with no more distinct values"
_BASIS: Final = timedelta(hours=24)
_DAY: Final = 24
_EARLY: Final = 10

_SECOND: Final = timedelta(seconds=1)
"""Whole ones: an int times a timedelta overflows at a thousand million days."""


def as_counted(by_hour: ByHour, corrections: Mapping[Hour, Mapping[str, Correction]]) -> ByHour:
    """Return what was used but for what stands beside the counts: what is put right once does not go on."""
    beside = {hour: {metric: sum(one) for metric, one in of_hour.items()} for hour, of_hour in corrections.items()}
    return {
        hour: {metric: max(0, number - beside.get(hour, {}).get(metric, 0)) for metric, number in of_hour.items()}
        for hour, of_hour in by_hour.items()
    }


def goes_on(
    by_hour: ByHour, terms: Terms, now: datetime, *, distinct: Collection[str], counted: ByHour | None = None
) -> dict[str, int]:
    """Return what will have been used when the period ends, if the last 24 hours' usage goes on.

    ``distinct`` values stay as many as they are: most of tomorrow's users have been seen today. What goes on is what
    was ``counted``, where that is not all.
    Of a period that has just begun there is less than that to go by, but never less than an hour.
    """
    begin = _begin(terms, now)
    used, lately = _used(by_hour), Counter[str]()
    for hour, of_hour in (by_hour if counted is None else counted).items():
        if hour >= begin:
            lately.update({metric: number for metric, number in of_hour.items() if metric not in distinct})
    passed = max(now - begin.start, HOUR) // _SECOND
    left = _left(terms, now)
    return {metric: quantity + lately[metric] * left // passed for metric, quantity in used.items()}


def is_early(terms: Terms, now: datetime) -> bool:
    """Say whether so little of a period has passed, less than a tenth, that a forecast may be far off."""
    return (now - terms.first.start) * _EARLY < terms.end.start - terms.first.start


def bounds(
    by_hour: ByHour, terms: Terms, now: datetime, *, distinct: Collection[str], counted: ByHour | None = None
) -> tuple[dict[str, int], dict[str, int]]:
    """Return what :func:`goes_on` does if the quieter half of the last day goes on, and if the busier half does.

    The hour that runs is left out where there is another. What came before the period is not known: in the quieter half
    that is an idle time, in the busier one it is left out. So of a first busy hour nothing need come again.
    """
    begin, this_hour = _begin(terms, now), Hour.containing(now)
    whole = [Hour(number) for number in range(begin.number, this_hour.number)] or [this_hour]
    left, expected = _left(terms, now), goes_on(by_hour, terms, now, distinct=distinct, counted=counted)
    lately = by_hour if counted is None else counted
    quieter, busier = dict(expected), dict(expected)
    for metric, quantity in _used(by_hour).items():
        if metric in distinct:
            continue
        seen = sorted(lately.get(hour, {}).get(metric, 0) for hour in whole)
        quiet = ([0] * (_DAY - len(seen)) + seen)[: _DAY // 2]
        busy = seen[len(seen) // 2 :]
        second = HOUR // _SECOND
        quieter[metric] = min(expected[metric], quantity + sum(quiet) * left // (len(quiet) * second))
        busier[metric] = max(expected[metric], quantity + sum(busy) * left // (len(busy) * second))
    return quieter, busier


def _begin(terms: Terms, now: datetime) -> Hour:
    return max(terms.first, Hour.containing(now - _BASIS).next())


def _left(terms: Terms, now: datetime) -> int:
    """Return how many seconds of the period are left."""
    return max(terms.end.start - now, timedelta(0)) // _SECOND


def _used(by_hour: ByHour) -> Counter[str]:
    used: Counter[str] = Counter()
    for of_hour in by_hour.values():
        used.update(of_hour)
    return used
