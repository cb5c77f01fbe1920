"""The one clock of all tests: it stands still until somebody sets it, sleeps by it, or looks at it."""

import heapq
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class Clock:
    """A time of its own, in seconds; with a ``step`` it goes on by itself each time that a machine looks at it.

    ``slept`` is who slept how long by it.
    """

    def __init__(self, start: datetime | float = 0.0, step: timedelta = timedelta()) -> None:
        self.now = start.timestamp() if isinstance(start, datetime) else start
        self.slept: list[float] = []
        self._step = step.total_seconds()
        self._later: list[tuple[float, int, Callable[[], object]]] = []
        self._noted = 0
        self._turn = threading.RLock()

    def __call__(self) -> float:
        """Return the present moment in seconds (since 1970, if it began so)."""
        return self.now

    @property
    def moment(self) -> datetime:
        """The present moment, of a clock whose seconds count from 1970."""
        return datetime.fromtimestamp(self.now, UTC)

    @moment.setter
    def moment(self, moment: datetime) -> None:
        self.now = moment.timestamp()

    def look(self) -> datetime:
        """Return the present moment; stands for a function that asks the clock."""
        return self.of_a_machine(timedelta())()

    def of_a_machine(self, skew: timedelta) -> Callable[[], datetime]:
        """Return the clock of a machine, which is off by this much."""

        def look() -> datetime:
            with self._turn:
                if self._step:
                    self.advance(self._step)
                return self.moment + skew

        return look

    def later(self, seconds: float, do: Callable[[], object]) -> None:
        """Let something happen by itself after so many seconds."""
        self._noted += 1
        heapq.heappush(self._later, (self.now + seconds, self._noted, do))

    def advance(self, seconds: float) -> None:
        """Move on, and let happen what is due meanwhile, in the order of time."""
        with self._turn:
            end = self.now + seconds
            while self._later and self._later[0][0] <= end:
                self.now, _, do = heapq.heappop(self._later)
                do()
            self.now = end

    def sleep(self, seconds: float) -> None:
        """Let time pass; stands for `time.sleep`."""
        with self._turn:
            self.slept.append(seconds)
            self.advance(seconds)
