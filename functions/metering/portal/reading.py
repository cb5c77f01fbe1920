"""What one customer used, hour by hour: closed hours from the ledger, the others from the counters.

A customer's rows lie in one partition, one row an hour, however many keys it has. Hours that are not in the ledger yet,
and those with a late mark, are counted afresh by the customer's keys; so a call shows as soon as it is counted.

What was shown is never taken back while an hour gets closed: marks and the cursor are read before the rows, and the
rows before the counters. Whatever had not been written when a row was read is then still found in the counters::

    cursor, marks ──▶ rows ──▶ counters
         ▲ closed, or mark cleared here: its row is read afterwards
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from metering.model.periods import COUNTER_LIFE, LATEST_RECORD, Hour, hours
from metering.model.subjects import Subject, customer, key, source_of_customer, source_of_key
from metering.model.usage_row import State, UsageRow
from metering.portal.uniques import KeptUniques
from metering.stores.attribution import Share, Uniques, sources_of
from metering.stores.aws import side_by_side
from metering.stores.claims import Claims
from metering.stores.counters import Counters
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

FEWEST_AFRESH: Final = 3
"""The running hour, the one before it until that is closed, and one more."""

MOST_QUERIES: Final = 240
"""Queries that counting afresh may take, one for each key and hour."""

MOST_KEYS: Final = 100
"""Keys of a customer whose counters are looked at: each is a read unit, for who held it."""

MOST_ITEMS: Final = 2048
"""Counters that are read, all hours together: 300 bytes as a rule, a read unit for 27, and 1 KB where a
key sends much; splits of very many long values make them larger.

An hour that has more shows once it is closed.
"""

RECENT_HOURS: Final = 24
"""How far before the cursor rows are read consistently."""

MOST_PAGES: Final = 2
"""Pages of 1 MB that rows may fill, 128 read units each; by key, half as many and as many again of what keys used.

What one answer is about (:mod:`metering.portal.bounds`) as a rule fills one and a half.
"""

BY_KEY: Final = "key"
"""The dimension that every metric has."""


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
        day, of_day = divmod(hour.number, 24)
        if self is By.HOUR:
            return f"{_written(day)}T{of_day:02d}"
        return _written(day) if self is By.DAY else _written(day)[:7]


@lru_cache(maxsize=1024)
def _written(day: int) -> str:
    """Return a day since 1970 as it is written."""
    return str(Hour(day * 24)).partition("T")[0]


@lru_cache(maxsize=1024)
def _midnight(day: str) -> int:
    """Return the number of a written day's first hour."""
    return Hour.parse(f"{day}T00").number


class Cell(msgspec.Struct, frozen=True, gc=False):
    """One metric in one hour: what is ``counted``, and beside it what was ``adjusted``, and what ``carried`` hither."""

    counted: int
    adjusted: int
    carried: int
    standing: Standing
    split: Mapping[str, int]
    """How ``counted`` splits by the values of the metric's dimension; empty if it has none."""

    keys: Mapping[str, int]
    """How ``counted`` splits by key; empty if that was not asked for, or is not known."""

    @property
    def quantity(self) -> int:
        """What is billed: never less than nothing, as in the ledger."""
        return max(0, self.counted + self.adjusted + self.carried)


Cells = dict[Hour, dict[str, Cell]]
"""What was used, by hour and metric."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a customer used; the hours from ``open_from`` on were not in the ledger yet."""

    cells: Cells
    open_from: Hour


# A month of rows is tens of thousands of these, and none holds itself: the garbage collector need not look at them.
class _Number(msgspec.Struct, frozen=True, gc=False):
    N: int


class _Text(msgspec.Struct, frozen=True, gc=False):
    S: str


class _Numbers(msgspec.Struct, frozen=True, gc=False):
    M: dict[str, _Number]


_ZERO: Final = _Number(0)
_STANDING: Final = {State.POSTED.value: Standing.POSTED}
"""What the ledger's states are to a customer; every other one is :attr:`Standing.CLOSED`."""


class _Total(msgspec.Struct, frozen=True, gc=False):
    counted: _Number
    state: _Text
    adjusted: _Number = _ZERO
    carried: _Number = _ZERO
    split: _Numbers | None = None


class _TotalMap(msgspec.Struct, frozen=True, gc=False):
    M: _Total


class _Totals(msgspec.Struct, frozen=True, gc=False):
    M: dict[str, _TotalMap]


class _Row(msgspec.Struct, frozen=True, gc=False):
    """A usage row of :mod:`metering.stores.rows`, as far as it is shown."""

    sk: _Text
    totals: _Totals
    only_key: _Text | None = None

    def hour(self) -> Hour:
        """Return the row's hour: the sort key is ``usage#2026-11-22T05``."""
        day, _, of_day = self.sk.S.removeprefix("usage#").partition("T")
        return Hour(_midnight(day) + int(of_day))


_ROWS: Final = page_of(_Row)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a customer before its usage is read: how far hours are closed, and every key it ever had.

    ``keys`` is None where those are more than :data:`MOST_KEYS`: its usage shows once its hours are closed. ``names``
    are what keys are called that have a name, as far as they are known.
    """

    customer: str
    cursor: Hour | None
    keys: frozenset[str] | None
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UsageReader:
    """Reads what one customer used. Errors of DynamoDB are raised as they are.

    What is read is bounded before it begins (I10): so many pages of rows, keys, and items of counters and claims.
    """

    counters: Counters
    uniques: KeptUniques
    ledger: Ledger

    @classmethod
    def of(
        cls, client: "DynamoDBClient", counters_table: str, ledger_table: str, *, distinct: int = 1
    ) -> "UsageReader":
        """Return the reader of two tables, whose client then decodes rows fast; ``distinct`` metrics count values."""
        decode_fast(client)
        ledger = Ledger(client, ledger_table)
        uniques = KeptUniques(Uniques(Claims(client, counters_table), ledger.holders), metrics=distinct)
        return cls(Counters(client, counters_table), uniques, ledger)

    def known(self, name: str) -> Known:
        """Look at a customer: two reads, of two or three units."""
        cursor, keys = _both(self.ledger.progress.cursor, lambda: self.ledger.holders.few_keys_of(name, MOST_KEYS))
        if keys is None:
            return Known(name, cursor, None)
        return Known(name, cursor, frozenset(keys), {key: called for key, called in keys.items() if called})

    def read(  # noqa: PLR0913 - what a caller may say, each by name
        self,
        known: Known,
        first: Hour,
        end: Hour,
        *,
        now: datetime,
        by_key: bool = False,
        spans: Sequence[tuple[Hour, Hour]] | None = None,
    ) -> "Usage":
        """Return what a customer used from ``first`` up to ``end``, exclusive; with ``by_key``, by key as well.

        With ``spans``, of the hours outside them only those that are counted afresh. Raises TooMuchError where the
        rows fill more than :data:`MOST_PAGES`.
        """
        end = min(end, Hour.containing(now + LATEST_RECORD).next())  # nothing is counted of later hours
        if first >= end:
            return Usage({}, end)
        mine = customer(known.customer)
        open_from = min(end, max(first, known.cursor or first, Hour(end.number - MOST_OPEN_HOURS)))
        holdings, afresh = self._afresh(known, first, open_from, end, now)
        cells: Cells = {}
        for begin, until in spans if spans is not None else ((first, end),):
            cells |= self._closed(mine, max(first, begin), min(end, until), known.cursor or open_from, by_key=by_key)
        earlier = self.ledger.rows.written((mine, hour) for hour in afresh if hour < open_from and hour not in cells)
        cells |= {row.hour: _of_usage_row(row) for row in earlier}
        most = MOST_ITEMS // max(1, len(afresh))
        counted = side_by_side(
            lambda hour: self.counters.read_keys(hour, sources_of(mine, holdings, hour), most=most), afresh
        )
        shares = {hour: Share.of(found) for hour, found in zip(afresh, counted, strict=True) if found is not None}
        its_name = source_of_customer(known.customer)
        self.uniques.settle(
            known.customer, shares, {source: holding for source, holding in holdings.items() if source != its_name}
        )
        cells |= {hour: _of_share(share, cells.get(hour, {})) for hour, share in shares.items()}
        return Usage(cells, open_from)

    def _afresh(
        self, known: Known, first: Hour, open_from: Hour, end: Hour, now: datetime
    ) -> tuple[Mapping[str, Holding], list[Hour]]:
        """Return who holds the keys, and the hours to count afresh: as many as so many keys allow, late ones last."""
        if known.keys is None:
            return {}, []
        mine = customer(known.customer)
        counters_begin = max(first, Hour.containing(now - COUNTER_LIFE).next())
        holdings, marked = _both(
            lambda: self.ledger.holders.holdings(
                [source_of_customer(known.customer), *map(source_of_key, known.keys or ())]
            ),
            lambda: self.counters.marks.late_hours([mine, *map(key, known.keys or ())], counters_begin, open_from),
        )
        most = max(FEWEST_AFRESH, MOST_QUERIES // max(1, len(known.keys)))
        still_open = [*hours(open_from, end)][-most:]
        late = marked[-(most - len(still_open)) :] if most > len(still_open) else []
        return holdings, [*late, *still_open]

    def _closed(self, mine: Subject, first: Hour, end: Hour, cursor: Hour, *, by_key: bool) -> Cells:
        """Return what the ledger holds, in order of time.

        Rows of hours that were closed lately are read consistently, since the cursor may just have passed them; all
        others are not, for half the units: what a late record changed in them may show a moment later.
        """
        recent = max(first, min(end, Hour(cursor.number - RECENT_HOURS)))
        table = Table(self.ledger.client, self.ledger.table)
        most_pages = MOST_PAGES // 2 if by_key else MOST_PAGES
        cells: Cells = {}
        for begin, until, consistent in ((first, recent, False), (recent, end, True)):
            if begin >= until:
                continue
            splits = (
                dict(self.ledger.rows.by_key(mine, begin, until, consistent=consistent, most_pages=MOST_PAGES))
                if by_key
                else {}
            )
            with as_items(_ROWS):
                between = (f"usage#{begin}", f"usage#{Hour(until.number - 1)}")
                rows: Iterator[Any] = table.query(
                    str(mine), between=between, consistent=consistent, most_pages=most_pages
                )
                for row in rows:
                    hour = row.hour()
                    cells[hour] = _of_row(row, splits.get(hour, {}))
        return cells


def _both(one: Callable[[], A], other: Callable[[], B]) -> tuple[A, B]:
    """Do two things side by side."""
    found: list[Any] = side_by_side(lambda do: do(), (one, other))
    return found[0], found[1]


def _of_share(share: Share, before: Mapping[str, Cell]) -> dict[str, Cell]:
    """Return an hour's cells: what is counted now, with what the ledger holds beside it."""
    cells, by_key = dict(before), share.by_key
    for metric, number in share.together.quantities().items():
        ledgers = before.get(metric)
        adjusted, carried = (ledgers.adjusted, ledgers.carried) if ledgers else (0, 0)
        keys = {key: quantities.get(metric, 0) for key, quantities in by_key.items()}
        standing = ledgers.standing if ledgers and ledgers.counted == number else Standing.COUNTING
        cells[metric] = Cell(number, adjusted, carried, standing, share.together.splits.get(metric, {}), keys)
    return cells


def _of_row(row: "_Row", by_key: ByKey) -> dict[str, Cell]:
    only_key = row.only_key.S if row.only_key else ""
    cells = {}
    for metric, wrapped in row.totals.M.items():
        total = wrapped.M
        counted = total.counted.N
        if only_key:
            keys = {only_key: counted}
        else:
            keys = {name: numbers[metric] for name, numbers in by_key.items() if metric in numbers}
        split = {value: number.N for value, number in total.split.M.items()} if total.split else {}
        standing = _STANDING.get(total.state.S, Standing.CLOSED)
        cells[metric] = Cell(counted, total.adjusted.N, total.carried.N, standing, split, keys)
    return cells


def _of_usage_row(row: UsageRow) -> dict[str, Cell]:
    return {
        metric: Cell(
            total.counted,
            total.adjusted,
            total.carried,
            _STANDING.get(total.state, Standing.CLOSED),
            total.split,
            {row.only_key: total.counted} if row.only_key else {},
        )
        for metric, total in row.totals.items()
    }
