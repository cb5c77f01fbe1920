"""How much one answer may be about: known by what is asked and what is declared, before any usage is read (I10).

An hour of a customer is a row, whose size grows with the metrics and with the values that they are split by; where it
used several keys, a second item grows with these. The sizes below are those of the rows that the benchmark
``usage_read.py`` fills; that no row is larger than they say, :data:`metering.portal.reading.MOST_PAGES` sees to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from metering.model.amounts import MOST_VALUES
from metering.model.metrics import Count, Metric, Sum, meters_of
from metering.portal.reading import BY_KEY, MOST_KEYS, MOST_LINES, By

MOST_UNITS: Final = 200
"""DynamoDB's read units for the rows of one answer."""

FEWEST_HOURS: Final = 31 * 24
"""One answer may always be about a month, unless it is by key."""

_UNIT: Final = 8192  # bytes of a read that is not consistent
_ROW, _METRIC, _VALUE = 100, 150, 20  # bytes of a row, of a metric in it, of a value that the metric is split by
_KEY, _METRIC_OF_KEY = 16, 15  # bytes of a key, and of a metric of it


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one answer may be about, where these metrics are declared."""

    metrics: Sequence[Metric]

    def most_hours(self, by: By = By.DAY, *, dimension: str = "", metric: str = "", keys: int = MOST_KEYS) -> int:
        """Return how many hours one answer may be about, for a customer that has or had so many keys."""
        names = [name for declared in self.metrics for name in meters_of(declared).values()]
        size = _ROW + _METRIC * len(names) + _VALUE * MOST_VALUES * len(self._split())
        fewest = FEWEST_HOURS
        if dimension == BY_KEY and keys > 1:
            size += keys * (_KEY + _METRIC_OF_KEY * len(names))
            fewest = 24
        by_units = max(fewest, MOST_UNITS * _UNIT // size)
        wanted = [name for name in names if metric in ("", name)]
        lines = len(wanted)
        if dimension == BY_KEY:
            lines += len(wanted) * keys
        elif dimension:
            lines += (MOST_VALUES + 1) * sum(self._split().get(name) == dimension for name in wanted)
        hours = {By.HOUR: 1, By.DAY: 24, By.MONTH: 28 * 24}[by]
        return min(by_units, MOST_LINES // max(1, lines) * hours)

    def _split(self) -> dict[str, str]:
        """Return what each metric that is split is split by."""
        return {
            name: declared.by
            for declared in self.metrics
            if isinstance(declared, Count | Sum) and declared.by and not declared.meters
            for name in meters_of(declared).values()
        }
