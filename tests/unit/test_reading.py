"""Reads at Stripe: counted, paced, and patient."""

from collections.abc import Callable
from itertools import islice

import pytest

from metering.stripe.client import StripeBusyError
from metering.stripe.pacing import Pace
from metering.stripe.reading import OutOfBudgetError, Reads
from tests.doubles.clock import Clock


@pytest.fixture
def clock() -> Clock:
    """Seconds that pass by sleeping alone."""
    return Clock()


def refusing(times: int, retry_after: float | None = None) -> Callable[[], str]:
    """Return a read that Stripe refuses so many times."""
    left = iter(range(times))

    def read() -> str:
        for _ in islice(left, 1):
            raise StripeBusyError("Stripe wants fewer calls (429)", retry_after, alone=False)
        return "answer"

    return read


def reads(clock: Clock, most: int = 100, lasting: float = 270.0) -> Reads:
    """Return the reads of a run that lasts so many seconds."""
    end = clock() + lasting
    return Reads(most, Pace(15, now=clock, sleep=clock.sleep), lambda: end - clock())


def test_a_read_that_stripe_refuses_is_made_again_when_stripe_wants_it(clock: Clock) -> None:
    """The SDK makes none by itself after a 429."""
    begin = clock()
    made = reads(clock)
    assert made.make(refusing(2, retry_after=7.0)) == "answer"
    assert clock() - begin >= 14
    assert made.made == 3


def test_a_refusal_that_names_no_time_is_waited_out_as_well(clock: Clock) -> None:
    """For longer each time."""
    begin = clock()
    assert reads(clock).make(refusing(6)) == "answer"
    assert 1 < clock() - begin < 60


def test_a_run_does_not_wait_beyond_its_end(clock: Clock) -> None:
    """It ends at once, and the next one goes on."""
    begin = clock()
    with pytest.raises(OutOfBudgetError, match="than this run has time for"):
        reads(clock, lasting=60).make(refusing(1, retry_after=61.0))
    assert clock() == begin


def test_no_more_than_fifteen_reads_begin_in_a_second(clock: Clock) -> None:
    """Stripe takes 25 of each kind."""
    begin = clock()
    made = reads(clock)
    for _ in range(31):
        made.make(refusing(0))
    assert clock() - begin == pytest.approx(2.0)


def test_a_run_makes_as_many_reads_as_it_may_and_no_more(clock: Clock) -> None:
    """Refused ones are among them."""
    made = reads(clock, most=3)
    made.make(refusing(1))
    made.make(refusing(0))
    with pytest.raises(OutOfBudgetError, match="the 3 reads of this run are made"):
        made.make(refusing(0))
