"""How limits stand by what was used, what is left of them, and how soon something acts. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from metering.limits.usage import Quantities, Used, added
from metering.model.limits import SPEND, Applying, Level, LimitState, decide, left_until
from metering.model.periods import Hour
from metering.model.prices import Flat, Price, Volume, asked_for, units_until
from metering.model.subscribed import Subscribed, Window, window_of
from metering.stores.limits import OfOne

SOON: Final = timedelta(minutes=20)
"""Whoever would reach a step in this time at twice the recent pace is near it."""

NEAR_PART: Final = 5
"""So is whoever has less than one part in so many of the step left."""

WRITTEN_AGAIN: Final = timedelta(minutes=50)
"""What was used is written at least so often, while it changes."""

WRITTEN_PARTS: Final = 100
"""And as soon as it changed by one part in so many of the limit."""

CLOSED_AGAIN: Final = 24
"""After so many closed hours in which nothing was used, it is written that they are closed."""

NEVER: Final = 10**9
"""More seconds than any window has."""


_PRICE: Final[msgspec.json.Decoder[Price]] = msgspec.json.Decoder(Price)


def prices_of(subscribed: Subscribed | None) -> tuple[Price, ...]:
    """Return the prices that a customer's subscription really has."""
    written = subscribed.prices if subscribed is not None else ()
    return tuple(map(_PRICE.decode, written))


@dataclass(frozen=True, slots=True)
class Running:
    """A limit in the window that runs, as it stood at the look ``before``.

    ``closed`` is what the rows of the window before the hour ``upto`` hold of the limit's metrics; it ``is_kept`` if it
    is what that look found.
    """

    limit: Applying
    window: Window
    before: LimitState
    closed: Quantities
    upto: Hour
    prices: Sequence[Price] = ()
    is_kept: bool = False

    @classmethod
    def of(cls, limit: Applying, one: OfOne, prices: Sequence[Price], now: datetime) -> "Running":
        """Return a limit as it stood, without what was kept of closed hours if that is of another window or old.

        It is old if rows were written anew since, which ``changes`` counts, or of other metrics than are asked for now.
        """
        before = one.states.get(limit.name, LimitState())
        window = window_of(limit.per, now, one.subscribed)
        metrics = _metrics_of(limit, prices)
        is_kept = bool(before.upto) and before.is_of(window) and before.changes == one.changes
        if is_kept and metrics <= before.closed.keys():
            return cls(limit, window, before, before.closed, Hour.parse(before.upto), prices, is_kept=True)
        return cls(limit, window, before, dict.fromkeys(metrics, 0), window.begin, prices)

    def is_far(self, now: datetime, lately: timedelta, part: int) -> bool:
        """Say whether little was used, as a look found ``lately``, and nothing has changed that it went by.

        Less than one part in so many of the first step, and nothing acted.
        """
        before, first = self.before, min(map(self.limit.threshold, self.limit.steps), default=0)
        is_same = self.is_kept and before.most == self.limit.most
        is_untouched = not before.acted and before.level is Level.OPEN
        is_recent = timedelta(0) <= now - datetime.fromtimestamp(before.looked, UTC) < lately
        return is_same and is_untouched and is_recent and before.used * part < first

    def as_it_stood(self) -> "Standing":
        """Return how the limit stood at the look before, whose open hours are in no metric's quantity."""
        return Standing(self, self.before, self.closed)

    def stands(self, used: Used, changes: int, now: datetime) -> "Standing":
        """Return how the limit stands by what was used from the hour ``upto`` on.

        Of what is not ``whole`` it is known that at least so much was used, and at least as much as at the look before;
        what it costs at least is only known where more never costs less.
        """
        upto = max(self.upto, min(used.open_from, self.window.end))
        closed = _only(self.closed, added((self.closed, used.since(self.upto, upto))))
        quantities = _only(self.closed, added((closed, used.since(upto, self.window.end))))
        is_money = self.limit.metric == SPEND
        total = asked_for(self.prices, quantities) if is_money else quantities[self.limit.metric]
        if not used.whole:
            so_far = 0 if is_money and any(isinstance(price, Volume) for price in self.prices) else total
            total = max(so_far, self.before.used if self.before.is_of(self.window) else 0)
        after = decide(self.limit, self.before, self.window, total, now)
        if not after.is_of(self.window):  # a clock that is late decides nothing, and what was kept stays
            return Standing(self, after, quantities)
        return Standing(
            self, msgspec.structs.replace(after, upto=str(upto), closed=closed, changes=changes), quantities
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """How a limit stands ``after`` a look, and what of each of its metrics was used in the window."""

    running: Running
    after: LimitState
    quantities: Quantities

    @property
    def is_news(self) -> bool:
        """Whether it is worth a write: something acted, reopened, was edited or closed, or much was used since."""
        before, after = self.running.before, self.after
        same = msgspec.structs.replace(after, used=before.used, looked=before.looked)
        if same.closed == before.closed and before.upto and _hours_between(before.upto, after.upto) < CLOSED_AGAIN:
            same = msgspec.structs.replace(same, upto=before.upto)
        if same != before:
            return True
        moved = abs(after.used - before.used)
        return bool(moved) and (
            moved * WRITTEN_PARTS >= after.most or after.looked - before.looked >= WRITTEN_AGAIN.total_seconds()
        )

    @property
    def ahead(self) -> int | None:
        """How much may still be used before something acts or the level rises; None if nothing is ahead."""
        return left_until(self.running.limit, self.after, self.after.used)

    @property
    def left(self) -> dict[str, int]:
        """The same in units of each metric.

        Money is shared out among the metrics that cost some: together they reach no step before one of them has used
        its share.
        """
        ahead, running = self.ahead, self.running
        if ahead is None:
            return {}
        if running.limit.metric != SPEND:
            return {running.limit.metric: ahead}
        metered = [price for price in running.prices if not isinstance(price, Flat)]
        share = ahead // max(1, len(metered))
        found = {price.metric: units_until(price, self.quantities[price.metric], share) for price in metered}
        return {metric: units for metric, units in found.items() if units is not None}

    @property
    def rate(self) -> int:
        """What is used in a second, in parts of the limit by a million."""
        used, seconds = self._lately()
        return used * 10**6 // (seconds * max(1, self.after.most))

    @property
    def reach_s(self) -> int:
        """In how many seconds the next step is reached at twice the recent pace; :data:`NEVER`, if it is not."""
        used, seconds = self._lately()
        return NEVER if self.ahead is None or not used else min(NEVER, self.ahead * seconds // (2 * used))

    @property
    def is_near(self) -> bool:
        """Whether little is left before something acts, or will be soon."""
        ahead = self.ahead
        if ahead is None:
            return False
        return ahead * NEAR_PART <= self.after.used + ahead or self.reach_s <= SOON.total_seconds()

    def _lately(self) -> tuple[int, int]:
        """Return how much was used since the look before, or since the window began, and in how many seconds."""
        before, window = self.running.before, self.running.window
        if before.is_of(window) and before.looked < self.after.looked:
            return max(0, self.after.used - before.used), self.after.looked - before.looked
        return self.after.used, max(1, self.after.looked - int(window.begin.start.timestamp()))


def _metrics_of(limit: Applying, prices: Iterable[Price]) -> set[str]:
    if limit.metric != SPEND:
        return {limit.metric}
    return {price.metric for price in prices if not isinstance(price, Flat)}


def _only(wanted: Quantities, quantities: Quantities) -> dict[str, int]:
    return {metric: quantities.get(metric, 0) for metric in wanted}


def _hours_between(first: str, last: str) -> int:
    return Hour.parse(last).number - Hour.parse(first).number
