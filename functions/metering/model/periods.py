"""Hours: to which hour usage belongs, and when an hour may be closed. Pure; time is always an argument."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

HOUR = timedelta(hours=1)

GRACE = timedelta(minutes=10)
"""How long after its end an hour waits for records that are still under way before it is closed."""

CLOCK_SKEW = timedelta(minutes=2)
"""How far two machines' clocks may differ before a late record could be missed: late marks are put this much early."""

LATEST_RECORD = timedelta(minutes=5)
"""A record further ahead than this is not believed."""

OLDEST_RECORD = timedelta(days=60)
"""A record older than this is not counted. Counters live two days longer, so that none is re-made after it expired."""

LAST_CHANGE: Final = timedelta(days=61)
"""An hour that ended longer ago changes by adjustment only: a day later than its last record can be counted, and a day
before its counters expire."""

COUNTER_LIFE = timedelta(days=62)
"""How long a counter outlives its hour."""

STRIPE_REACH = timedelta(days=34, hours=12)
"""How far back Stripe still takes usage: 35 days (API reference, "Create a billing meter event"), less half a day."""

FIRST_MS: Final = 10**11
"""In seconds the year 5138, in milliseconds 1973: a smaller moment is in seconds, a larger one in milliseconds."""

_WRITTEN = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d)", re.ASCII)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def epoch_ms(moment: int) -> int:
    """Return a moment since 1970 in milliseconds; HTTP APIs log it in seconds, REST and WebSocket APIs as it is here.

    Source: AWS says "in milliseconds" of REST and WebSocket APIs' ``requestTimeEpoch`` alone, and the lines of HTTP
    APIs that are published hold seconds (API Gateway Developer Guide, "Variables for access logging").
    """
    return moment * 1000 if moment < FIRST_MS else moment


def all_in_ms(moments: list[int]) -> list[int]:
    """Return moments in milliseconds; they mostly are, which costs one look at the earliest."""
    return moments if min(moments, default=FIRST_MS) >= FIRST_MS else [epoch_ms(moment) for moment in moments]


@dataclass(frozen=True, slots=True, order=True)
class Hour:
    """One hour of UTC, half-open: ``start`` belongs to it, ``end`` to the next. Written ``2026-11-22T05``."""

    number: int
    """Whole hours since 1970-01-01T00Z."""

    @classmethod
    def of_epoch_ms(cls, milliseconds: int) -> Self:
        """Return the hour of a moment given in milliseconds since 1970."""
        return cls(milliseconds // 3_600_000)

    @classmethod
    def containing(cls, moment: datetime) -> Self:
        """Return the hour in which an aware ``moment`` lies."""
        return cls((aware(moment) - EPOCH) // HOUR)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``2026-11-22T05``; raise ValueError for anything else."""
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise ValueError(f"an hour is written 2026-11-22T05 (UTC), got {text!r}")
        year, month, day, hour = map(int, match.groups())
        return cls.containing(datetime(year, month, day, hour, tzinfo=UTC))

    @property
    def start(self) -> datetime:
        """The hour's first moment."""
        return EPOCH + self.number * HOUR

    @property
    def end(self) -> datetime:
        """The next hour's first moment; exclusive."""
        return EPOCH + (self.number + 1) * HOUR

    @property
    def month(self) -> str:
        """The calendar month (UTC) in which the hour lies, written ``2026-11``."""
        return self.start.strftime("%Y-%m")

    @property
    def month_begin(self) -> "Hour":
        """The first hour of its month."""
        return Hour.containing(self.start.replace(day=1, hour=0))

    @property
    def month_end(self) -> "Hour":
        """The first hour of the next month; exclusive."""
        return Hour.containing((self.start.replace(day=1, hour=0) + timedelta(days=32)).replace(day=1))

    def next(self) -> "Hour":
        """Return the hour that begins where this one ends."""
        return Hour(self.number + 1)

    def is_due(self, now: datetime, *, grace: timedelta = GRACE) -> bool:
        """Say whether the hour has ended and its grace has passed."""
        return self.end + grace <= aware(now)

    def is_past_change(self, now: datetime) -> bool:
        """Say whether the hour is so old that its counters may be gone, so that only an adjustment changes it."""
        return self.end + LAST_CHANGE <= aware(now)

    def is_past_stripe(self, now: datetime) -> bool:
        """Say whether Stripe would refuse usage of this hour as too old."""
        return self.start + STRIPE_REACH <= aware(now)

    def __str__(self) -> str:
        return self.start.strftime("%Y-%m-%dT%H")


def hours(first: Hour, end: Hour) -> Iterator[Hour]:
    """Yield the hours from ``first`` up to ``end``, exclusive."""
    return (Hour(number) for number in range(first.number, end.number))


def due_before(now: datetime, *, grace: timedelta = GRACE) -> Hour:
    """Return the first hour that is not due yet; every hour before it is."""
    return Hour.containing(aware(now) - grace)


def aware(moment: datetime) -> datetime:
    """Return ``moment``, or raise ValueError if it does not say its time zone."""
    if moment.tzinfo is None:
        raise ValueError(f"a moment needs a time zone, got {moment.isoformat()}")
    return moment
