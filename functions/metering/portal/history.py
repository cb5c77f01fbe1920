"""What customers used in their running periods, by hour: read piece by piece and kept, since a period may be a year.

A request reads one piece at most, which is as much as one answer may be about (I10), and the hours that are open. A
month is one piece; a year is several, so that the first requests for it find it still being added up. Where rows turn
out to be too large for that, a customer's pieces are as many hours as are answered whatever they hold.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from metering.model.periods import COUNTER_LIFE, LATEST_RECORD, Hour
from metering.portal.kept import keep
from metering.portal.reading import Cells, UsageReader
from metering.stores.table import TooMuchError

KEPT_S: Final = 60
"""Seconds after which a piece is read again, in which late records may have changed what no mark tells any more."""

SETTLED_S: Final = 3600
"""The same of a piece that no late record can change."""

MOST_KEPT: Final = 50
"""Periods that are kept at once: each takes up to a megabyte, and a customer may have two, its invoice's and one of its
limits."""

MOST_CORRECTED: Final = 100
"""Hours, the latest, of which is kept what stands beside what was counted: a recount may have put all of them right."""

ByHour = Mapping[Hour, Mapping[str, int]]
"""What was used, by hour and metric. What no record changes any more stands under the first hour of its piece."""


class Correction(NamedTuple):
    """What an hour is billed of a metric beside what was counted."""

    adjusted: int
    carried: int


class AddingUpError(Exception):
    """A long period is not read whole yet: the next request goes on."""

    def __init__(self, known: int, wanted: int) -> None:
        super().__init__(
            f"the period is long, and is being added up: {known:,} of its {wanted:,} hours so far are known; "
            "ask again at once"
        )


@dataclass(slots=True)
class _Kept:
    first: Hour
    end: Hour
    piece: int
    used: dict[Hour, dict[str, int]] = field(default_factory=dict)
    corrected: dict[Hour, dict[str, Correction]] = field(default_factory=dict)
    read_at: dict[Hour, float] = field(default_factory=dict)
    """When each piece was read last, by its first hour."""

    since: Hour | None = None
    """From which hour on ``used`` may have changed without a late mark."""

    def note(self, cells: Cells) -> None:
        """Note what stands beside the counts of hours that were read anew."""
        found = {
            hour: {
                metric: Correction(cell.adjusted, cell.carried)
                for metric, cell in of_hour.items()
                if cell.adjusted or cell.carried
            }
            for hour, of_hour in cells.items()
        }
        self.corrected |= found
        corrected = sorted(hour for hour, of_hour in self.corrected.items() if of_hour)[-MOST_CORRECTED:]
        self.corrected = {hour: self.corrected[hour] for hour in corrected}


@dataclass(slots=True)
class History:
    """Reads periods. ``clock`` counts seconds; a piece is ``piece`` hours, or ``sure`` ones. For one thread."""

    reader: UsageReader
    piece: int
    sure: int
    clock: Callable[[], float]
    _kept: dict[tuple[str, Hour, Hour], _Kept] = field(default_factory=dict)

    def corrections(self, name: str, first: Hour, end: Hour) -> Mapping[Hour, Mapping[str, Correction]]:
        """Return what stands beside the counts of a period that :meth:`of` has returned, of the latest hours."""
        kept = self._kept.get((name, first, end))
        return kept.corrected if kept else {}

    def of(self, name: str, first: Hour, end: Hour, now: datetime) -> ByHour:
        """Return what was used from ``first`` up to ``end``, exclusive; raise AddingUpError until it is known."""
        kept = self._kept.get((name, first, end)) or _Kept(first, end, self.piece)
        keep(self._kept, (name, first, end), kept, MOST_KEPT)
        pieces = dict(_pieces(first, min(end, Hour.containing(now + LATEST_RECORD).next()), kept.piece))
        try:
            self._read(name, kept, pieces, now)
        except TooMuchError as error:
            if kept.piece <= self.sure:
                raise
            self._kept[name, first, end] = _Kept(first, end, self.sure)
            raise AddingUpError(0, _hours(pieces)) from error
        unknown = [begin for begin in pieces if begin not in kept.read_at]
        if unknown:
            wanted = _hours(pieces)
            raise AddingUpError(wanted - sum(pieces[begin].number - begin.number for begin in unknown), wanted)
        return kept.used

    def _read(self, name: str, kept: _Kept, pieces: Mapping[Hour, Hour], now: datetime) -> None:
        """Read the piece that has waited longest, if one is due, and what moves."""
        at, settled = self.clock(), Hour.containing(now - COUNTER_LIFE)
        due = [begin for begin in pieces if begin not in kept.read_at] or sorted(
            (
                begin
                for begin, read_at in kept.read_at.items()
                if at - read_at >= (SETTLED_S if pieces[begin] <= settled else KEPT_S)
            ),
            key=kept.read_at.__getitem__,
        )
        spans = [(begin, pieces[begin]) for begin in due[:1]]
        if kept.since is not None:
            spans.append((kept.since, kept.end))
        usage = self.reader.read(self.reader.known(name), kept.first, kept.end, now=now, spans=spans)
        used = {hour: {metric: cell.quantity for metric, cell in cells.items()} for hour, cells in usage.cells.items()}
        for begin in due[:1]:
            kept.read_at[begin] = at
            if pieces[begin] <= settled:
                inside = [hour for hour in used if begin <= hour < pieces[begin]]
                total: Counter[str] = Counter()
                for hour in inside:
                    total.update(used.pop(hour))
                used[begin] = dict(total)
                for hour in [hour for hour in kept.used if begin < hour < pieces[begin]]:
                    del kept.used[hour]
        kept.used |= used
        kept.note(usage.cells)
        kept.since = usage.open_from


def _hours(pieces: Mapping[Hour, Hour]) -> int:
    return sum(end.number - begin.number for begin, end in pieces.items())


def _pieces(first: Hour, end: Hour, piece: int) -> Iterator[tuple[Hour, Hour]]:
    for number in range(first.number, end.number, piece):
        yield Hour(number), Hour(min(end.number, number + piece))
