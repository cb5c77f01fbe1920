"""Reading at Stripe: so many reads in a run, at a pace, and with patience where Stripe wants fewer."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from metering.model.read_allotment import A_SECOND
from metering.stripe.client import StripeBusyError
from metering.stripe.pacing import Pace

T = TypeVar("T")


class OutOfBudgetError(Exception):
    """The run can make no more reads: it has made all that it may, or its time is over; the next run goes on."""


@dataclass(slots=True)
class Reads:
    """The reads of one run: ``most``, for all threads together, while there are ``seconds_left``."""

    most: int
    pace: Pace = field(default_factory=lambda: Pace(A_SECOND))
    seconds_left: Callable[[], float] = lambda: math.inf
    made: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def left(self) -> int:
        """How many reads can still be made."""
        return max(0, self.most - self.made)

    def make(self, read: Callable[[], T]) -> T:
        """Make a read when its turn comes, again and later if Stripe wants fewer; raise OutOfBudgetError otherwise.

        Each attempt is one of the ``most``: Stripe has seen it. The SDK makes none by itself after a 429.
        """
        while True:
            self._spend()
            if not self.pace.wait(self.seconds_left()):
                raise OutOfBudgetError("Stripe wants fewer reads than this run has time for")
            try:
                answer = read()
            except StripeBusyError as busy:
                self.pace.refused(busy.retry_after)
                continue
            self.pace.went_well()
            return answer

    def _spend(self) -> None:
        with self._lock:
            if self.made >= self.most:
                raise OutOfBudgetError(f"the {self.most} reads of this run are made")
            self.made += 1
