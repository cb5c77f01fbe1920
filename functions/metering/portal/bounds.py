"""How much one answer may be about: known by what is asked and what is declared, before any usage is read (I10).

An hour of a customer is a row, whose size grows with the metrics and with the values that they are split by; where it
used several keys, a second item grows with these. Most rows are small; where values and ids are as long as they may be,
one is four times as large. So there are two bounds: what goes beyond :meth:`Bounds.most_hours` is refused before it is
read, and up to :meth:`Bounds.sure_hours` everything is answered, whatever the rows hold. What lies between ends at
:data:`metering.portal.reading.MOST_PAGES`, which no reading goes beyond.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from metering.model.amounts import MOST_VALUES
from metering.model.metrics import Count, Metric, Sum, Unique, meters_of
from metering.model.subjects import LONGEST_ID
from metering.portal.lines import MOST_LINES
from metering.portal.reading import BY_KEY, MOST_KEYS, By

MOST_UNITS: Final = 200
"""DynamoDB's read units for the rows of one answer."""

FEWEST_HOURS: Final = 31 * 24
"""One answer may be about a month, unless it is by key or its rows are large."""

DAY: Final = 24
"""What any answer may be about: the page asks for whole days."""

_UNIT: Final = 8192  # bytes of a read that is not consistent
_METRIC_OF_KEY: Final = 14  # bytes of a metric of a key, beside the metric's name
_LARGEST_KEY: Final = 4 * LONGEST_ID


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes of a row, of a metric in it, and of a value that the metric is split by."""

    row: int
    metric: int
    value: int


_USUAL: Final = _Sizes(100, 150, 20)
"""Those of the rows that the benchmark ``usage_read.py`` fills."""

_LARGEST: Final = _Sizes(1200, 400, 76)
"""Ids of 128 characters with four bytes each, and values of 64 bytes."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one answer may be about, where these metrics are declared."""

    metrics: Sequence[Metric]

    def most_hours(
        self, by: By = By.DAY, *, dimension: str = "", metric: str = "", keys: Collection[str] | None = frozenset()
    ) -> int:
        """Return how many hours may be asked for of a customer that has or had these keys; None are too many to tell.

        Where rows are larger than usual, fewer are answered.
        """
        by_units = self._by_units(_USUAL, keys, by_key=dimension == BY_KEY)
        if dimension != BY_KEY:
            by_units = max(FEWEST_HOURS, by_units)
        wanted = [name for name in self._names() if metric in ("", name)]
        lines = len(wanted)
        if dimension == BY_KEY:
            lines += len(wanted) * max(1, MOST_KEYS if keys is None else len(keys))
        elif dimension:
            lines += (MOST_VALUES + 1) * sum(self._split().get(name) == dimension for name in wanted)
        hours = {By.HOUR: 1, By.DAY: 24, By.MONTH: 28 * 24}[by]
        return min(by_units, MOST_LINES // max(1, lines) * hours)

    def sure_hours(self, keys: Collection[str] | None = frozenset(), *, by_key: bool = False) -> int:
        """Return how many hours are answered whatever they hold: by any period, and by month where they are split."""
        return max(DAY, min(self._by_units(_LARGEST, keys, by_key=by_key), MOST_LINES // max(1, len(self._names()))))

    @property
    def distinct(self) -> int:
        """How many metrics count distinct values: they share what is read of these."""
        return sum(isinstance(metric, Unique) for metric in self.metrics)

    def _by_units(self, sizes: _Sizes, keys: Collection[str] | None, *, by_key: bool) -> int:
        """Return how many hours can be read; by key, no more than half of the units are for the rows themselves."""
        row = sizes.row + sizes.metric * len(self._names()) + sizes.value * (MOST_VALUES + 1) * len(self._split())
        if not by_key:
            return max(DAY, MOST_UNITS * _UNIT // row)
        of_key = sum(len(name) + _METRIC_OF_KEY for name in self._names())
        sizes_of_keys = [_LARGEST_KEY] * MOST_KEYS if keys is None else [len(msgspec.json.encode(key)) for key in keys]
        beside = sum(sizes_of_keys) + len(sizes_of_keys) * of_key
        return max(DAY, MOST_UNITS * _UNIT // max(row + beside, 2 * row))

    def _names(self) -> list[str]:
        return [name for declared in self.metrics for name in meters_of(declared).values()]

    def _split(self) -> dict[str, str]:
        """Return what each metric that is split is split by."""
        return {
            name: declared.by
            for declared in self.metrics
            if isinstance(declared, Count | Sum) and declared.by and not declared.meters
            for name in meters_of(declared).values()
        }
