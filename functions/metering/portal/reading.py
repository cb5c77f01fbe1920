"""What one customer used, hour by hour: closed hours from the ledger, the others from the counters.

A customer's rows lie in one partition, one row an hour, however many keys it has. Hours that are not in the ledger yet,
and those with a late mark, are counted afresh by the customer's keys; so a call shows as soon as it is counted.

What was shown is never taken back while an hour gets closed: marks and the cursor are read before the rows, and the
rows before the counters. Whatever had not been written when a row was read is then still found in the counters::

    cursor, marks ──▶ rows ──▶ counters
         ▲ closed, or mark cleared here: its row is read afterwards
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from metering.model.periods import COUNTER_LIFE, LATEST_RECORD, Hour, hours
from metering.model.subjects import Subject, customer, key, source_of_customer, source_of_key
from metering.model.usage_row import State, UsageRow
from metering.stores.attribution import Share, Uniques, sources_of
from metering.stores.aws import in_pieces, side_by_side
from metering.stores.claims import Claims
from metering.stores.counters import Counted, Counters
from metering.stores.decoding import as_items, decode_fast, page_of
from metering.stores.holders import Holding
from metering.stores.ledger import Ledger
from metering.stores.rows import ByKey
from metering.stores.table import Table

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

A = TypeVar("A")
B = TypeVar("B")

MOST_OPEN_HOURS: Final = 48
"""How many hours are counted afresh at most; if closing is further behind, the earliest wait until it has caught up."""

BY_KEY: Final = "key"
"""The dimension that every metric has."""

NO_VALUE: Final = ""
"""Stands for what belongs to no single value of a dimension."""

_SHORTEST_KEPT_S: Final = 5
_MONTH: Final = 31 * 24


class Standing(IntEnum):
    """How settled a quantity is, least settled first."""

    COUNTING = 0
    """Its hour runs, is not in the ledger yet, or has been counted anew since."""

    CLOSED = 1
    """In the ledger, and not at Stripe."""

    POSTED = 2
    """Stripe has it."""


class By(Enum):
    """The period that usage is added up by; the value is how much of a written hour names it."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"

    def period(self, hour: Hour) -> str:
        """Return the period in which an hour lies, as it is written."""
        return str(hour)[: {By.HOUR: 13, By.DAY: 10, By.MONTH: 7}[self]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One metric in one hour: what is ``counted``, and the adjustments and carries ``beside`` it."""

    counted: int
    beside: int
    standing: Standing
    split: Mapping[str, int]
    """How ``counted`` splits by the values of the metric's dimension; empty if it has none."""

    keys: Mapping[str, int]
    """How ``counted`` splits by key; empty if that was not asked for, or is not known."""

    @property
    def quantity(self) -> int:
        """What is billed: never less than nothing, as in the ledger."""
        return max(0, self.counted + self.beside)


Cells = dict[Hour, dict[str, Cell]]
"""What was used, by hour and metric."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a customer used; the hours from ``open_from`` on were not in the ledger yet."""

    cells: Cells
    open_from: Hour


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
    """Add up by period, and by the values of a dimension; of some metrics, or of all."""
    wanted = frozenset(metrics)
    added: dict[tuple[str, str, str | None], tuple[int, Standing]] = {}
    for hour, of_hour in cells.items():
        period = by.period(hour)
        for metric, cell in of_hour.items():
            if wanted and metric not in wanted:
                continue
            for value, quantity in _parts(cell, dimension):
                name = (period, metric, value)
                before, standing = added.get(name, (0, cell.standing))
                added[name] = (before + quantity, min(standing, cell.standing))
    return sorted(Line(*name, *found) for name, found in added.items())


def _parts(cell: Cell, dimension: str | None) -> Iterator[tuple[str | None, int]]:
    """Yield a quantity by the values of a dimension; what belongs to none, or to several at once, has none.

    That is what stands beside the counters, one peak of several keys, and distinct values that keys have in common.
    """
    if dimension is None:
        yield None, cell.quantity
        return
    split = cell.keys if dimension == BY_KEY else cell.split
    if sum(split.values()) != cell.counted:
        split = {}
    rest = cell.quantity - sum(split.values())
    yield from ((value, number) for value, number in split.items() if number)
    if rest:
        yield NO_VALUE, rest


class _Number(msgspec.Struct, frozen=True):
    N: int


class _Text(msgspec.Struct, frozen=True):
    S: str


class _Numbers(msgspec.Struct, frozen=True):
    M: dict[str, _Number]


_ZERO: Final = _Number(0)
_STANDING: Final = {State.POSTED.value: Standing.POSTED}
"""What the ledger's states are to a customer; every other one is :attr:`Standing.CLOSED`."""


class _Total(msgspec.Struct, frozen=True):
    counted: _Number
    state: _Text
    adjusted: _Number = _ZERO
    carried: _Number = _ZERO
    split: _Numbers | None = None


class _TotalMap(msgspec.Struct, frozen=True):
    M: _Total


class _Totals(msgspec.Struct, frozen=True):
    M: dict[str, _TotalMap]


class _Row(msgspec.Struct, frozen=True):
    """A usage row of :mod:`metering.stores.rows`, as far as it is shown."""

    sk: _Text
    totals: _Totals
    only_key: _Text | None = None

    @property
    def hour(self) -> Hour:
        return Hour.parse(self.sk.S.removeprefix("usage#"))


_ROWS: Final = page_of(_Row)


@dataclass(slots=True)
class _Kept:
    """Distinct values by hour, kept for as many seconds as a customer has keys, each of which is a read a second."""

    by_hour: Counter[Hour] | None
    until: float


@dataclass(slots=True)
class KeptUniques(Uniques):
    """Distinct values that came through several keys: their claims are all of a month's, so that they are kept a while.

    Reading them takes 16 queries for each key. They are kept for a second for each key that a customer has ever had,
    and five seconds at least: so they cost at most 16 queries a second for any customer.
    """

    clock: Callable[[], float] = time.monotonic
    _kept: dict[tuple[str, str, str], _Kept] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def by_hour(self, customer: str, metric: str, hour: Hour) -> Counter[Hour] | None:
        """Return how many values of the month of ``hour`` count in each hour; None if the key's counters say so."""
        name, now = (customer, metric, hour.month), self.clock()
        with self._lock:
            kept = self._kept.get(name)
        if kept is None or kept.until <= now:
            found = Uniques.by_hour(self, customer, metric, hour)
            keys = 1 if found is None else len(self.holders.keys_of(customer))
            kept = _Kept(found, now + max(_SHORTEST_KEPT_S, keys))
            with self._lock:
                for other in [other for other, one in self._kept.items() if one.until <= now]:
                    del self._kept[other]
                self._kept[name] = kept
        return kept.by_hour


@dataclass(frozen=True, slots=True)
class UsageReader:
    """Reads what one customer used. Errors of DynamoDB are raised as they are."""

    counters: Counters
    uniques: Uniques
    ledger: Ledger

    @classmethod
    def of(cls, client: "DynamoDBClient", counters_table: str, ledger_table: str) -> "UsageReader":
        """Return the reader of two tables, whose client then decodes rows fast."""
        decode_fast(client)
        ledger = Ledger(client, ledger_table)
        return cls(
            Counters(client, counters_table), KeptUniques(Claims(client, counters_table), ledger.holders), ledger
        )

    def read(  # noqa: PLR0913 - what a caller may say, each by name
        self, name: str, first: Hour, end: Hour, *, now: datetime, by_key: bool = False, since: Hour | None = None
    ) -> "Usage":
        """Return what a customer used from ``first`` up to ``end``, exclusive; with ``by_key``, by key as well.

        With ``since``, of the hours before it only those that are counted afresh.
        """
        end = min(end, Hour.containing(now + LATEST_RECORD).next())  # nothing is counted of later hours
        if first >= end:
            return Usage({}, end)
        mine = customer(name)
        cursor, keys = _both(self.ledger.progress.cursor, lambda: self.ledger.holders.keys_of(name))
        open_from = min(end, max(first, cursor or first, Hour(end.number - MOST_OPEN_HOURS)))
        counters_begin = max(first, Hour.containing(now - COUNTER_LIFE).next())
        holdings, marked = _both(
            lambda: self.ledger.holders.holdings([source_of_customer(name), *map(source_of_key, keys)]),
            lambda: self.counters.marks.late_hours([mine, *map(key, keys)], counters_begin, open_from),
        )
        rows_from = max(first, since or first)
        afresh = [*marked, *hours(open_from, end)]
        rows = self._rows(mine, rows_from, end)
        earlier = self.ledger.rows.written((mine, hour) for hour in marked if hour < rows_from)
        splits = dict(self.ledger.rows.by_key(mine, first, end)) if by_key else {}
        cells = {row.hour: _of_row(row, splits) for row in rows} | {row.hour: _of_usage_row(row) for row in earlier}
        counted = side_by_side(lambda hour: self._counted(mine, hour, holdings), afresh)
        for hour, found in zip(afresh, counted, strict=True):
            cells[hour] = self._afresh(mine, hour, found, cells.get(hour, {}))
        return Usage(cells, open_from)

    def _rows(self, subject: Subject, first: Hour, end: Hour) -> list["_Row"]:
        """Return a customer's rows, in order of time, a month by each query."""
        table = Table(self.ledger.client, self.ledger.table)

        def read(some: Sequence[int]) -> list[_Row]:
            with as_items(_ROWS):
                between = (f"usage#{Hour(some[0])}", f"usage#{Hour(some[-1])}")
                found: Iterator[Any] = table.query(str(subject), between=between)
                return list(found)

        return [row for rows in side_by_side(read, in_pieces(range(first.number, end.number), _MONTH)) for row in rows]

    def _counted(self, mine: Subject, hour: Hour, holdings: Mapping[str, Holding]) -> Counted:
        """Return what the counters hold of an hour, by each key that the customer held in it."""
        return self.counters.read_keys(hour, sources_of(mine, holdings, hour))

    def _afresh(self, mine: Subject, hour: Hour, counted: Counted, before: Mapping[str, Cell]) -> dict[str, Cell]:
        """Return an hour's cells: what is counted now, with what the ledger holds beside it."""
        share = Share.of(counted)
        together = share.together
        self.uniques.settle(mine.id, hour, together)
        cells, by_key = dict(before), share.by_key
        for metric, number in together.quantities().items():
            known = before.get(metric)
            beside = known.beside if known else 0
            keys = {key: quantities.get(metric, 0) for key, quantities in by_key.items()}
            standing = known.standing if known and known.counted == number else Standing.COUNTING
            cells[metric] = Cell(number, beside, standing, together.splits.get(metric, {}), keys)
        return cells


def _both(one: Callable[[], A], other: Callable[[], B]) -> tuple[A, B]:
    """Do two things side by side."""
    found: list[Any] = side_by_side(lambda do: do(), (one, other))
    return found[0], found[1]


def _of_row(row: "_Row", splits: Mapping[Hour, ByKey]) -> dict[str, Cell]:
    by_key = {} if row.only_key else splits.get(row.hour, {})
    cells = {}
    for metric, total in row.totals.M.items():
        booked = total.M
        counted = booked.counted.N
        keys = (
            {row.only_key.S: counted}
            if row.only_key
            else {name: numbers[metric] for name, numbers in by_key.items() if metric in numbers}
        )
        split = {value: number.N for value, number in booked.split.M.items()} if booked.split else {}
        cells[metric] = Cell(
            counted, booked.adjusted.N + booked.carried.N, _STANDING.get(booked.state.S, Standing.CLOSED), split, keys
        )
    return cells


def _of_usage_row(row: UsageRow) -> dict[str, Cell]:
    return {
        metric: Cell(
            total.counted,
            total.adjusted + total.carried,
            _STANDING.get(total.state, Standing.CLOSED),
            total.split,
            {row.only_key: total.counted} if row.only_key else {},
        )
        for metric, total in row.totals.items()
    }
