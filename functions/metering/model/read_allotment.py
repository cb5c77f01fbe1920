"""How many reads Stripe allots an account, how they are spread over time, and how far they reach. Pure.

Stripe allots 500 reads for each transaction of 30 days, and 10,000 at least (docs.stripe.com/rate-limits). They are
spent as they come in, evenly: what nobody spends is kept for two days. Of these, comparing leaves a day's to
the invoices, of which many are finalised at once.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

LEAST: Final = 10_000
A_TRANSACTION: Final = 500

A_SECOND: Final = 15
"""Reads that begin in a second at most: Stripe takes 25 of each kind (docs.stripe.com/rate-limits), and not from this
deployment alone."""

_PERIOD: Final = timedelta(days=30)
_KEPT: Final = timedelta(days=2)
_LONGEST_DEBT: Final = timedelta(days=1)
"""What a command has read beyond the allotment stops the hourly look for no longer; nor does a clock that was wrong."""

_A_RUN_S: Final = 270
"""How long an hourly run can read."""

_OF_A_RUN: Final = 2
"""Reads of each hourly run that look at no customer: which meters and which new invoices there are."""

_REST_OF_A_RUN: Final = _OF_A_RUN + 4
"""And those that bring an invoice, and the look who pays, a customer further."""


@dataclass(frozen=True, slots=True)
class ReadAllotment:
    """So many reads in 30 days.

    What is left follows from one number: up to when, in milliseconds since 1970, the reads that came in are spent.
    """

    a_month: int

    @property
    def _each(self) -> int:
        """In how many milliseconds one comes in: in no 30 days are more than ``a_month`` made, kept ones among them."""
        return -(-_ms(_PERIOD + _KEPT) // self.a_month)

    @property
    def an_hour(self) -> int:
        """How many come in in an hour."""
        return _ms(timedelta(hours=1)) // self._each

    @property
    def kept_for_invoices(self) -> int:
        """How many comparing leaves."""
        return _ms(_KEPT) // 2 // self._each

    def for_comparing(self, metrics: int) -> int:
        """Return how many reads of a run are for comparing in any case.

        That is a half of what comes in in an hour, or what a customer takes whose days and hours are read, if that is
        more and enough stays for the rest of the run.
        """
        return max(self.an_hour // 2, min(2 * metrics, self.an_hour - _REST_OF_A_RUN))

    def for_looking(self, taken: int, metrics: int) -> int:
        """Return how many of the reads that a run took are for the look who pays, whatever invoices ask for."""
        comparing = self.for_comparing(metrics)
        return min(comparing // 2, max(0, taken - comparing) // 3)

    def left(self, spent_until: int, now: int) -> int:
        """Return how many reads may be made now."""
        return max(0, now - max(spent_until, now - _ms(_KEPT))) // self._each

    def spent(self, spent_until: int, reads: int, now: int) -> int:
        """Return up to when they are spent after so many more; less than none were given back."""
        until = max(spent_until, now - _ms(_KEPT)) + reads * self._each
        return min(until, now + _ms(_LONGEST_DEBT))

    def looks_in(self, span: timedelta, metrics: int) -> int:
        """Return how many customers can be looked at in a span, at Stripe's pace.

        That is one read for each metric, and one for what they are subscribed to.
        """
        allotted = _ms(span) // self._each - _OF_A_RUN * (span // timedelta(hours=1))
        in_time = A_SECOND * _A_RUN_S * (span // timedelta(hours=1))
        return max(0, min(allotted, in_time)) // (metrics + 1)

    def hours_for(self, customers: int, metrics: int) -> int | None:
        """Return in how many hours each of so many is looked at once; None if none ever is."""
        a_day = self.looks_in(timedelta(days=1), metrics)
        return -(-24 * customers // a_day) if a_day else None


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
