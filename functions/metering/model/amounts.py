"""Amounts: what was used in an hour, by metric, and how amounts are added up. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from metering.model.metrics import OTHER

MOST_VALUES: Final = 50
"""How many values of a split are kept per key and hour; what is beyond them stands under ``other``."""


@dataclass(slots=True)
class Amounts:
    """What one key, or one customer, used in one hour, by metric.

    ``uniques`` are values that had not been seen in the month before; ``peaks`` the highest value of the hour;
    ``splits`` say by value how a sum came about, and are not billed.
    """

    sums: dict[str, int] = field(default_factory=dict)
    uniques: dict[str, int] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    splits: dict[str, dict[str, int]] = field(default_factory=dict)

    def quantities(self) -> dict[str, int]:
        """Return what is billed, by metric."""
        return {**self.sums, **self.uniques, **self.peaks}

    def include(self, other: "Amounts") -> None:
        """Take in what another key, slot or batch holds of the same hour."""
        _add(self.sums, other.sums)
        _add(self.uniques, other.uniques)
        for metric, peak in other.peaks.items():
            self.peaks[metric] = max(peak, self.peaks.get(metric, 0))
        for metric, split in other.splits.items():
            _add(self.splits.setdefault(metric, {}), split)

    def cap_splits(self) -> None:
        """Keep each split's largest values, and put the rest under ``other``."""
        for metric, split in self.splits.items():
            self.splits[metric] = _capped(split)

    def keeping(self, kept: Collection[tuple[str, str]]) -> "Amounts":
        """Return the same amounts with these values of splits, each given with its metric, and the rest as one."""
        splits: dict[str, dict[str, int]] = {}
        for metric, split in self.splits.items():
            for value, number in split.items():
                known_as = value if (metric, value) in kept else OTHER
                _add(splits.setdefault(metric, {}), {known_as: number})
        return replace(self, splits=splits)

    def __bool__(self) -> bool:
        return any(self.quantities().values())


def _add(sums: dict[str, int], more: Mapping[str, int]) -> None:
    for name, number in more.items():
        sums[name] = sums.get(name, 0) + number


def _capped(split: dict[str, int]) -> dict[str, int]:
    values = split.keys() - {OTHER}
    if len(values) <= MOST_VALUES:
        return split
    largest = sorted(values, key=lambda value: (-split[value], value))[:MOST_VALUES]
    kept = {value: split[value] for value in largest}
    return kept | {OTHER: sum(split.values()) - sum(kept.values())}
