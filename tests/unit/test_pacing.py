"""Pacing: so many calls a second over all threads, and fewer while the other side asks for it."""

from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import pytest

from metering.stripe import pacing
from metering.stripe.pacing import Pace, pause
from tests.doubles.clock import Clock


@pytest.fixture
def clock() -> Clock:
    """A clock at 100 seconds."""
    return Clock(100.0)


def made(clock: Clock, per_second: float = 10) -> Pace:
    """Return a pace on this clock."""
    return Pace(per_second, now=clock, sleep=clock.sleep)


def begun_in(pace: Pace, clock: Clock, seconds: float) -> int:
    """Return how many calls one thread can begin in so many seconds."""
    end, calls = clock.now + seconds, 0
    while clock.now < end and pace.wait(1000):
        calls += clock.now < end
    return calls


def test_calls_begin_evenly_and_no_more_than_allowed(clock: Clock) -> None:
    """None at once, and none saved up while nobody called."""
    pace = made(clock)
    assert begun_in(pace, clock, 3) == pytest.approx(30, abs=1)
    clock.now += 60
    assert begun_in(pace, clock, 3) == pytest.approx(30, abs=1)


def test_all_threads_together_keep_one_rate() -> None:
    """Each of a hundred calls gets a turn of its own, however many threads ask at once."""
    turns: list[float] = []
    lock = Lock()

    def sleep(seconds: float) -> None:
        with lock:
            turns.append(seconds)

    pace = Pace(10, now=lambda: 100.0, sleep=sleep)
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda _: pace.wait(1000), range(100)))
    assert sorted(turns) == pytest.approx([n / 10 for n in range(1, 100)])


def test_a_turn_after_the_deadline_is_refused_at_once(clock: Clock) -> None:
    """And is not taken from those who can wait for it."""
    pace = made(clock)
    assert pace.wait(0)
    assert not pace.wait(0.05)
    assert clock.slept == []
    assert pace.wait(0.15)
    assert clock.now == pytest.approx(100.1)


def test_a_call_that_stands_for_more_takes_so_many_turns(clock: Clock) -> None:
    """And one for less a part of a turn."""
    pace = made(clock)
    begun = []
    for turns in (10, 0.5, 1, 1):
        assert pace.wait(1000, turns)
        begun.append(clock.now)
    assert begun == pytest.approx([100, 101, 101.05, 101.15])


def test_retry_after_is_kept_by_all(clock: Clock) -> None:
    """Nothing begins before the moment that the other side named."""
    pace = made(clock)
    assert pace.wait(0)
    pace.refused(7)
    assert not pace.wait(6.9)
    assert pace.wait(7.1)
    assert clock.now == pytest.approx(107)


def test_without_a_word_the_pause_grows_with_each_refusal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as long each time, with jitter, and never longer than half a minute."""
    monkeypatch.setattr("random.uniform", lambda least, _most: least)
    pace = made(clock)
    pauses = []
    for _ in range(10):
        before = clock.now
        pace.refused(None)
        assert pace.wait(1000)
        pauses.append(clock.now - before)
    assert pauses[:3] == pytest.approx([0.25, 0.5, 1.0])
    assert pauses[-1] == pytest.approx(15)
    assert pauses == sorted(pauses)


def test_jitter_spreads_a_pause_over_its_upper_half() -> None:
    """So that callers who were refused together do not come back together."""
    pauses = [pause(2) for _ in range(200)]
    assert all(0.5 <= one <= 1.0 for one in pauses)
    assert max(pauses) - min(pauses) > 0.2
    assert all(pause(50) <= pacing.LONGEST_PAUSE for _ in range(20))


def test_many_refusals_of_one_episode_halve_the_rate_once(clock: Clock) -> None:
    """They are of calls that had begun before the pause."""
    pace = made(clock)
    for _ in range(30):
        pace.refused(2)
    assert pace.wait(1000)
    assert clock.now == pytest.approx(102)
    assert begun_in(pace, clock, 10) == pytest.approx(50, abs=1)


def test_each_episode_halves_the_rate_down_to_a_floor(clock: Clock) -> None:
    """A sixty-fourth of what is allowed."""
    pace = made(clock, per_second=640)
    for episode in range(1, 9):
        pace.refused(1)
        clock.now += 1
        assert begun_in(pace, clock, 1) == pytest.approx(max(640 / 2**episode, 10), abs=1)


def test_calls_that_go_well_bring_the_rate_back_and_no_further(clock: Clock) -> None:
    """From the half to the whole in 35 calls."""
    pace = made(clock)
    pace.refused(0)
    for _ in range(35):
        pace.went_well()
    assert begun_in(pace, clock, 10) == pytest.approx(100, abs=1)
    for _ in range(100):
        pace.went_well()
    assert begun_in(pace, clock, 10) == pytest.approx(100, abs=1)


def test_after_a_call_that_went_well_a_new_episode_begins_with_a_short_pause(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not by one that had begun before the pause and was answered in it."""
    monkeypatch.setattr("random.uniform", lambda least, _most: least)
    pace = made(clock, per_second=1000)
    pace.refused(None)
    pace.went_well()
    assert pace.wait(1000)
    before = clock.now
    pace.refused(None)
    pace.wait(1000)
    assert clock.now - before == pytest.approx(0.5)
    pace.went_well()
    before = clock.now
    pace.refused(None)
    pace.wait(1000)
    assert clock.now - before == pytest.approx(0.25)


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_that_lets_nothing_through_is_refused(rate: float) -> None:
    """It would wait for ever."""
    with pytest.raises(ValueError, match="more than 0 calls per second"):
        Pace(rate)
