"""Measuring: records → usage per hour and key. Pure.

Records that are alike (one hour, key, status, method, resource, and whatever else a metric asks for) are first added up
together; the metrics are asked once for each such group, not for each record.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import attrgetter
from typing import Any, Final, Self, assert_never

from metering.model.access_log import amount
from metering.model.amounts import Amounts
from metering.model.log_format import MISSING, NOTHING_DECLARED, AccessRecord, Declared
from metering.model.metrics import (
    OTHER,
    Count,
    Max,
    Metric,
    RequestKind,
    Sum,
    Unique,
    bills,
    meters_of,
    of_the_access_log,
)
from metering.model.periods import Hour, all_in_ms
from metering.model.subjects import source_of_key

LONGEST_VALUE: Final = 64
"""Bytes of a split's value; a longer one stands under ``other``."""

_HOUR_MS: Final = 3_600_000
_FIELDS: Final = {"status_class": "status", "api": "api_id"}
"""The field of a record that a dimension is made of, where it has another name."""


@dataclass(slots=True)
class Usage:
    """What records add up to: ``cells`` holds the amounts of each hour and source.

    Every record is in ``billed`` or, by its reason, in ``unbilled``. Adding up is independent of the records' order
    and of how they are split into batches.
    """

    cells: dict[tuple[Hour, str], Amounts] = field(default_factory=dict)
    seen: dict[tuple[Hour, str], dict[str, set[str]]] = field(default_factory=dict)
    """The values that each hour and source saw, by metric; which of them are new in the month is for claims to say."""

    once: dict[tuple[str, str, str], tuple[Hour, int]] = field(default_factory=dict)
    """By metric, source and id: what counts only if this id has not been counted before."""

    billed: int = 0
    unbilled: Counter[str] = field(default_factory=Counter)

    @property
    def touched(self) -> set[tuple[Hour, str]]:
        """The hours and sources whose counters these records may reach, also by what claims have to say."""
        return {*self.cells, *self.seen, *((hour, source) for (_, source, _), (hour, _) in self.once.items())}

    def include(self, other: Self) -> None:
        """Add what other records add up to."""
        for (hour, source), amounts in other.cells.items():
            self.cell(hour, source).include(amounts)
        for where, of_metrics in other.seen.items():
            for metric, values in of_metrics.items():
                self.seen.setdefault(where, {}).setdefault(metric, set()).update(values)
        self.once = {**other.once, **self.once}
        self.billed += other.billed
        self.unbilled += other.unbilled

    def cell(self, hour: Hour, source: str) -> Amounts:
        """Return the amounts of an hour and source, to be added to."""
        found = self.cells.get((hour, source))
        if found is None:
            found = self.cells[hour, source] = Amounts()
        return found


NO_KEY: Final = "no API key"
NOT_BILLED: Final = "no metric bills such a request"


def measure(records: Sequence[AccessRecord], metrics: Sequence[Metric], log: Declared = NOTHING_DECLARED) -> Usage:
    """Add up what each hour and key used."""
    tally = Tally(metrics, log)
    tally.add(records)
    return tally.usage()


@dataclass(frozen=True, slots=True)
class _Column:
    """What is taken from each record beside its being one."""

    get: Callable[[AccessRecord], Any]
    kind: type
    scale: int | None
    """Of text that holds a number; None for what is a number already."""

    def beginning(self) -> Any:
        """Return what no record at all adds up to."""
        return set() if self.kind is Unique else 0

    def add(self, cells: Sequence[list[Any]], place: int, records: Sequence[AccessRecord]) -> None:
        """Add each record's value to its cell: to the sum, the highest, or the distinct values so far."""
        values = map(self.get, records)
        if self.kind is Unique:
            for cell, value in zip(cells, values, strict=True):
                cell[place].add(value)
            return
        numbers = values if self.scale is None else (amount(value, self.scale) for value in values)
        if self.kind is Max:
            for cell, number in zip(cells, numbers, strict=True):
                if number != MISSING and number > cell[place]:
                    cell[place] = number
            return
        for cell, number in zip(cells, numbers, strict=True):
            if number != MISSING:
                cell[place] += number


class Tally:
    """Adds up records piece by piece; a piece that fits into the processor's cache is added up several times faster."""

    def __init__(self, metrics: Sequence[Metric], log: Declared) -> None:
        self._metrics = of_the_access_log(metrics)
        splits = [one.by for one in metrics if isinstance(one, Count | Sum) and one.by]
        filters = ["api"] * any(one.apis for one in metrics) + ["stage"] * any(one.stages for one in metrics)
        self._dimensions = list(dict.fromkeys([*splits, *filters]))
        measured = [one for one in self._metrics if not isinstance(one, Count) and one.of != "key"]
        self._places = {name: n for n, name in enumerate(dict.fromkeys((one.of, type(one)) for one in measured), 1)}
        self._columns = [_Column(attrgetter(log.attribute(of)), kind, log.amounts.get(of)) for of, kind in self._places]
        names = [_FIELDS.get(name) or log.attribute(name) for name in self._dimensions]
        self._alike = attrgetter("key", "status", "method", "resource", *names)
        self._hours: dict[int, defaultdict[tuple[Any, ...], list[Any]]] = {}
        """By hour and group: how many records, and each column of them."""

        self.oldest: int | None = None
        """The earliest time of a record, in milliseconds since 1970."""

    def add(self, records: Sequence[AccessRecord]) -> None:
        """Add records to what there is."""
        if not records:
            return
        times = all_in_ms([record.time for record in records])
        oldest = min(times)
        self.oldest = oldest if self.oldest is None else min(self.oldest, oldest)
        for number, of_hour in _by_hour(records, times).items():
            groups = self._hours.setdefault(number, defaultdict(self._new_cell))
            cells = [groups[group] for group in map(self._alike, of_hour)]
            for cell in cells:
                cell[0] += 1
            for place, column in enumerate(self._columns, 1):
                column.add(cells, place, of_hour)

    def _new_cell(self) -> list[Any]:
        return [0, *(column.beginning() for column in self._columns)]

    def usage(self) -> Usage:
        """Return what all records add up to."""
        usage = Usage()
        billing: dict[RequestKind, list[Metric]] = {}
        source_of = cache(source_of_key)
        for number, groups in self._hours.items():
            hour = Hour(number)
            for (key, status, method, resource, *values), cell in groups.items():
                if key == MISSING:
                    usage.unbilled[NO_KEY] += cell[0]
                    continue
                kind = RequestKind(status, method, resource, self._of("api", values), self._of("stage", values))
                if kind not in billing:
                    billing[kind] = [metric for metric in self._metrics if bills(metric, kind)]
                if not billing[kind]:
                    usage.unbilled[NOT_BILLED] += cell[0]
                    continue
                usage.billed += cell[0]
                self._add_group(usage, (hour, source_of(key)), billing[kind], cell, values)
        for amounts in usage.cells.values():
            amounts.cap_splits()
        return usage

    def _of(self, dimension: str, values: Sequence[Any]) -> str:
        """Return a group's value of a dimension; nothing where no metric asks for it."""
        return values[self._dimensions.index(dimension)] if dimension in self._dimensions else ""

    def _add_group(
        self,
        usage: Usage,
        where: tuple[Hour, str],
        billing: Sequence[Metric],
        cell: Sequence[Any],
        values: Sequence[Any],
    ) -> None:
        """Add what a group of like records is for each of the metrics that bill it."""
        amounts = usage.cell(*where)
        for metric in billing:
            match metric:
                case Count():
                    self._add_sum(amounts, metric, cell[0], values)
                case Sum():
                    self._add_sum(amounts, metric, cell[self._places[metric.of, Sum]], values)
                case Max():
                    if peak := cell[self._places[metric.of, Max]]:  # zero would cost a write and say nothing
                        amounts.peaks[metric.name] = max(peak, amounts.peaks.get(metric.name, 0))
                case Unique():
                    if (
                        seen := {where[1]}
                        if metric.of == "key"
                        else cell[self._places[metric.of, Unique]] - {MISSING, ""}
                    ):
                        usage.seen.setdefault(where, {}).setdefault(metric.name, set()).update(seen)
                case _:
                    assert_never(metric)

    def _add_sum(self, amounts: Amounts, metric: Count | Sum, total: int, values: Sequence[Any]) -> None:
        if not total:
            return
        name = metric.name
        if metric.by:
            value = _named(metric.by, values[self._dimensions.index(metric.by)])
            if metric.meters:
                names = meters_of(metric)
                name = names.get(value) or names[OTHER]
            else:
                split = amounts.splits.setdefault(name, {})
                split[value] = split.get(value, 0) + total
        amounts.sums[name] = amounts.sums.get(name, 0) + total


def _named(dimension: str, value: Any) -> str:
    """Return a dimension's value as a split names it."""
    text = f"{value // 100}xx" if dimension == "status_class" else str(value) or MISSING
    return text if len(text.encode()) <= LONGEST_VALUE else OTHER


def _by_hour(records: Sequence[AccessRecord], times: Sequence[int]) -> dict[int, Sequence[AccessRecord]]:
    """Part records by their hour; a piece is mostly of one."""
    first, last = min(times) // _HOUR_MS, max(times) // _HOUR_MS
    if first == last:
        return {first: records}
    parts: dict[int, list[AccessRecord]] = {}
    for record, time in zip(records, times, strict=True):
        parts.setdefault(time // _HOUR_MS, []).append(record)
    return dict(parts)
