"""Standing: how much usage is not billed as things stand, whoever was told of it when it came to be (I9)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from metering.model.periods import Hour
from metering.model.usage_row import WhyHeld
from metering.stores.rows import Rows

UNPOSTED_AFTER: Final = timedelta(hours=1)
"""An hour's usage is at Stripe a quarter of an hour after its end."""

MOST_COUNTED: Final = 100_000
"""More rows are not counted: some 1,300 read units (I10)."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How many customers' hours hold usage that is rejected, old and still pending, or held, by reason.

    Of the first two :data:`MOST_COUNTED` mean that many or more.
    """

    rejected: int
    unposted: int
    held: Mapping[WhyHeld, int]


def standing(rows: Rows, first: Hour | None, now: datetime) -> Standing:
    """Return how things stand; before posting was ever on, and there is a ``first`` hour, nothing waits for Stripe."""
    before = Hour.containing(now - UNPOSTED_AFTER)
    return Standing(
        rows.rejected_count(most=MOST_COUNTED),
        rows.pending_count(first, before=before, most=MOST_COUNTED) if first else 0,
        rows.held_sums.read(),
    )
