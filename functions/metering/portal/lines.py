"""The lines of an answer: what was used, added up by period and by the values of a dimension. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from metering.model.periods import Hour
from metering.portal.reading import BY_KEY, By, Cell, Standing
from metering.stores.table import TooMuchError

MOST_LINES: Final = 30_000
"""Lines in one answer."""

NO_VALUE: Final = ""
"""Stands for what belongs to no single value of a dimension."""


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """One line of an answer; ``value`` is None where no dimension was asked for."""

    period: str
    metric: str
    value: str | None
    quantity: int
    standing: Standing


def lines(
    cells: Mapping[Hour, Mapping[str, Cell]], *, by: By, dimension: str | None, metrics: Iterable[str] = ()
) -> list[Line]:
    """Add up by period, and by the values of a dimension; of some metrics, or of all.

    Raises TooMuchError for more than :data:`MOST_LINES`.
    """
    wanted = frozenset(metrics)
    added: dict[tuple[str, str, str | None], tuple[int, Standing]] = {}
    for hour, of_hour in cells.items():
        period = by.period(hour)
        for metric, cell in of_hour.items():
            if wanted and metric not in wanted:
                continue
            for value, quantity in ((None, cell.quantity),) if dimension is None else _parts(cell, dimension):
                name = (period, metric, value)
                before, standing = added.get(name, (0, cell.standing))
                added[name] = (before + quantity, min(standing, cell.standing))
        if len(added) > MOST_LINES:
            raise TooMuchError(f"the answer would hold more than {MOST_LINES:,} lines")
    return sorted(Line(*name, *found) for name, found in added.items())


def _parts(cell: Cell, dimension: str) -> Iterator[tuple[str, int]]:
    """Yield a quantity by the values of a dimension; what belongs to none, or to several at once, has none.

    That is what stands beside the counters, one peak of several keys, and distinct values that keys have in common.
    """
    split = cell.keys if dimension == BY_KEY else cell.split
    if sum(split.values()) != cell.counted:
        split = {}
    rest = cell.quantity - sum(split.values())
    yield from ((value, number) for value, number in split.items() if number)
    if rest:
        yield NO_VALUE, rest
