"""Which metrics were in force in an hour: by these it is recounted, whatever is declared today (I5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Final

from metering.model.metrics import Declaration, Max, Metric, Unique, meters_of
from metering.model.periods import Hour

CHANGING: Final = timedelta(minutes=15)
"""So long before and after a declaration was noted, functions may have counted by it or by the one before: a deployment
changes one function after the other, and ``close_periods`` looks every five minutes."""


@dataclass(frozen=True)
class Declared:
    """Metrics that were in force for a whole hour.

    ``is_certain`` says that nothing changed in the hour, and that what was declared is known at all.
    """

    metrics: tuple[Metric, ...]
    is_certain: bool = True
    is_known: bool = True

    @cached_property
    def peaks(self) -> set[str]:
        """The names of those whose highest value counts."""
        return {metric.name for metric in self.metrics if isinstance(metric, Max)}

    @cached_property
    def uniques(self) -> set[str]:
        """The names of those that count distinct values."""
        return {metric.name for metric in self.metrics if isinstance(metric, Unique)}

    @cached_property
    def meters(self) -> list[str]:
        """The names under which all of them are billed."""
        return [name for metric in self.metrics for name in meters_of(metric).values()]


class InForce:
    """What was in force, by hour, as ``close_periods`` has noted it; ``today`` is what the stack declares.

    Of hours before the first note nothing is known. They are taken for hours of what was noted first.
    """

    def __init__(self, notes: Sequence[Declaration], today: tuple[Metric, ...]) -> None:
        self._notes = notes
        self._today = today
        self._of_hours: dict[Hour, Declared] = {}
        self._same: dict[tuple[int, int, bool], Declared] = {}

    @property
    def ever(self) -> tuple[Metric, ...]:
        """One metric of each name that was ever declared, as it was declared last."""
        lists = [*(note.metrics for note in self._notes), self._today]
        return tuple({metric.name: metric for metrics in lists for metric in metrics}.values())

    def at(self, hour: Hour) -> Declared:
        """Return what was in force for the whole of an hour."""
        found = self._of_hours.get(hour)
        if found is None:
            found = self._of_hours[hour] = self._find(hour)
        return found

    def _find(self, hour: Hour) -> Declared:
        first = sum(note.since <= hour.start - CHANGING for note in self._notes)
        end = sum(note.since < hour.end + CHANGING for note in self._notes)
        known = first > 0
        begin = max(0, first - 1)
        place = (begin, max(end, begin + 1), known)
        if place not in self._same:
            lists = [note.metrics for note in self._notes[begin : place[1]]] or [self._today]
            metrics = tuple(metric for metric in lists[0] if all(metric in others for others in lists))
            self._same[place] = Declared(metrics, is_certain=known and len(lists) == 1, is_known=known)
        return self._same[place]
