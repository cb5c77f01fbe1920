"""Pacing: so many calls a second and no more, and fewer while the other side asks for it."""

import random
import threading
import time
from collections.abc import Callable
from typing import Final

LONGEST_PAUSE: Final = 30.0
"""Seconds between two attempts, however often the other side has refused, unless it names more itself."""

_SLOWEST: Final = 1 / 64
"""The rate never falls below this share of what is allowed."""

_RECOVERY: Final = 1.02
"""Each call that went well raises a lowered rate by so much: from the half to the whole in 35 calls."""


def pause(attempt: int) -> float:
    """Return how many seconds to wait after the n-th failed attempt in a row: twice as long each time, with jitter."""
    longest = min(LONGEST_PAUSE, 0.25 * 2**attempt)
    return random.uniform(longest / 2, longest)  # noqa: S311 - spreads callers, guards nothing


class Pace:
    """Lets ``per_second`` calls begin in each second, evenly, for all threads together.

    After a refusal all wait for as long as the other side says, or longer each time, and go on at half the rate, which
    recovers with each call that goes well.
    """

    def __init__(
        self,
        per_second: float,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if per_second <= 0:
            raise ValueError(f"a pace must be more than 0 calls per second, got {per_second}")
        self._most = self._rate = per_second
        self._now, self._sleep = now, sleep
        self._next = 0.0
        self._paused_until = 0.0
        self._refusals = 0
        self._lock = threading.Lock()

    def wait(self, longest: float, turns: float = 1) -> bool:
        """Wait until a call may begin; return False, at once, if that would take longer than so many seconds.

        A call that stands for more or less than one of those that the rate is of takes so many ``turns``.
        """
        with self._lock:
            now = self._now()
            turn = max(now, self._next)
            if turn - now > longest:
                return False
            self._next = turn + turns / self._rate
        if turn > now:
            self._sleep(turn - now)
        return True

    def refused(self, retry_after: float | None) -> None:
        """Note that the other side wants fewer calls, and when it wants the next one, if it said so.

        Refusals of calls that had begun before the pause are no reason for another one.
        """
        with self._lock:
            now = self._now()
            if now < self._paused_until:
                return
            self._refusals += 1
            self._rate = max(self._most * _SLOWEST, self._rate / 2)
            self._paused_until = now + (pause(self._refusals) if retry_after is None else retry_after)
            self._next = max(self._next, self._paused_until)

    def went_well(self) -> None:
        """Note that a call was taken."""
        with self._lock:
            if self._now() >= self._paused_until:
                self._refusals = 0
            self._rate = min(self._most, self._rate * _RECOVERY)
