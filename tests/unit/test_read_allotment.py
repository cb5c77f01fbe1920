"""How what Stripe allots is spread over time, and how far it reaches."""

from datetime import timedelta
from itertools import accumulate

import pytest

from metering.model.read_allotment import A_SECOND, ReadAllotment

HOUR = 3600 * 1000
NOW = 1_800_000_000_000


def spend(allotment: ReadAllotment, hours: int, most: int = 10**9) -> list[int]:
    """Return how many reads each of so many hourly runs makes that take all they can."""
    made, until = [], 0
    for hour in range(hours):
        now = NOW + hour * HOUR
        taken = min(most, allotment.left(until, now))
        until = allotment.spent(until, taken, now)
        made.append(taken)
    return made


@pytest.mark.parametrize("a_month", [1_000, 10_000, 7_777_777, 50_000_000])
def test_no_thirty_days_have_more_reads_than_are_allotted(a_month: int) -> None:
    """Whatever was kept before them; and nearly all of them can be made."""
    made = spend(ReadAllotment(a_month), 90 * 24)
    sums = [0, *accumulate(made)]
    windows = [sums[end] - sums[end - 720] for end in range(720, len(sums))]
    assert max(windows) <= a_month
    assert min(windows) >= 0.9 * a_month


def test_reads_never_run_dry() -> None:
    """Each hour has its own, also for who takes all of them at once."""
    made = spend(ReadAllotment(10_000), 90 * 24)
    assert made[0] == 625
    assert {*made[1:]} <= {13, 14}


def test_what_nobody_reads_is_kept_for_two_days() -> None:
    """And no longer: a burst after a quiet month is no month's worth."""
    allotment = ReadAllotment(10_000)
    until = allotment.spent(0, allotment.left(0, NOW), NOW)
    assert [allotment.left(until, NOW + hours * HOUR) for hours in (0, 1, 24, 48, 480)] == [0, 13, 312, 625, 625]


@pytest.mark.parametrize(
    ("a_month", "metrics", "comparing", "looking"),
    [(10_000, 1, 6, 2), (10_000, 3, 6, 2), (10_000, 4, 7, 2), (10_000, 9, 7, 2), (50_000, 20, 40, 8), (1_000, 3, 0, 0)],
)
def test_each_part_of_a_run_has_its_share(a_month: int, metrics: int, comparing: int, looking: int) -> None:
    """Of what comes in in an hour; a whole customer's is for comparing, unless nothing were left of the run."""
    allotment = ReadAllotment(a_month)
    assert allotment.for_comparing(metrics) == comparing
    assert allotment.for_looking(allotment.an_hour, metrics) == looking


def test_reads_that_are_given_back_can_be_made() -> None:
    """A run took 100 and made 40."""
    allotment = ReadAllotment(10_000)
    until = allotment.spent(allotment.spent(0, 100, NOW), -60, NOW)
    assert allotment.left(until, NOW) == 625 - 40


def test_what_a_command_reads_beyond_them_stops_others_for_a_day_at_most() -> None:
    """So does a clock that was a year ahead."""
    allotment = ReadAllotment(10_000)
    until = allotment.spent(0, 10**6, NOW)
    assert [allotment.left(until, NOW + hours * HOUR) for hours in (0, 24, 25)] == [0, 0, 13]
    ahead = allotment.spent(0, 1, NOW + 365 * 24 * HOUR)
    assert allotment.left(allotment.spent(ahead, 0, NOW), NOW + 25 * HOUR) == 13


@pytest.mark.parametrize(
    ("a_month", "metrics", "hour", "day"),
    [
        (10_000, 3, 2, 66),
        (10_000, 1, 5, 132),
        (50_000, 3, 15, 378),
        (5_000_000, 3, 1012, 24_300),
        (50_000_000, 3, 1012, 24_300),
        (1_000, 3, 0, 0),
    ],
)
def test_how_many_customers_are_looked_at(a_month: int, metrics: int, hour: int, day: int) -> None:
    """One read for each metric and one more, after two for the run itself; and no run has time for more than 4,050."""
    allotment = ReadAllotment(a_month)
    assert allotment.looks_in(timedelta(hours=1), metrics) == hour
    assert allotment.looks_in(timedelta(days=1), metrics) == day
    assert A_SECOND == 15


@pytest.mark.parametrize(
    ("a_month", "customers", "hours"), [(10_000, 100, 37), (50_000_000, 100_000, 99), (10_000, 0, 0), (1_000, 1, None)]
)
def test_in_how_many_hours_all_customers_are_looked_at(a_month: int, customers: int, hours: int | None) -> None:
    """With three metrics each."""
    assert ReadAllotment(a_month).hours_for(customers, 3) == hours
