"""What a customer used in the windows of its limits: exact, or the least that it surely is.

Hours whose rows are all written are taken from their rows, every later one from the counters: so each counts once::

    window begins            upto            open_from          now
         ├── kept in a state ──┤──── rows ───────┤─── counters ───┤

How far rows are written is read before the rows, and the rows before the counters: whatever had not been written when
a row was read is then still found in the counters, which stay for 62 days. A late record counts when its row has been
written anew: what was kept of closed hours is added up again when that has been noted.

What is read is bounded before it begins (I10): a row for each hour of a window, once; :data:`MOST_OPEN_HOURS`,
:data:`MOST_SOURCES` and :data:`MOST_READS`; :data:`MOST_CLAIMS`. What lies beyond is left out, and said so.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import msgspec

from metering.model.amounts import Amounts
from metering.model.periods import LATEST_RECORD, Hour
from metering.model.subjects import customer, source_of_customer, source_of_key
from metering.model.usage_row import State, Total, UsageRow
from metering.stores.attribution import Share, Uniques, alone, sources_of
from metering.stores.counters import Counters
from metering.stores.holders import Holding
from metering.stores.ledger import Ledger
from metering.stores.progress import Join
from metering.stores.table import TooMuchError

MOST_OPEN_HOURS: Final = 48
"""Hours that are counted afresh at most, the latest; of earlier ones whose rows are not written those that are."""

MOST_SOURCES: Final = 2_000
"""Sources of a customer whose counters are read."""

MOST_READS: Final = 4_000
"""Queries of one look, one for each hour and source: with very many sources, fewer hours are counted, the latest."""

MOST_CLAIMS: Final = 50_000
"""Claims of distinct values that are joined, of 130 bytes or so each; of who has more they count when hours close."""

ROWS_KNOWN_FOR: Final = timedelta(seconds=5)
"""So long it is remembered how far rows are written. An earlier hour is as right: more is read from the counters."""

Quantities = Mapping[str, int]
"""What is billed, by metric."""

_NOTHING: Final = Total(0, 0, State.PENDING)


@dataclass(frozen=True, slots=True)
class Used:
    """What a customer used, by hour and metric.

    ``by_row`` are hours before ``open_from``, and later ones that are not ``counted``, from the counters with what the
    ledger has beside these. ``sources`` are those whose usage is the customer's now. Of ``several``, hours and metrics
    of distinct values that came through more than one key, the keys' sum is there: an upper bound. ``whole`` says that
    no hour is missing.
    """

    by_row: Mapping[Hour, Quantities]
    counted: Mapping[Hour, Quantities]
    open_from: Hour
    sources: tuple[str, ...] = ()
    holdings: Mapping[str, Holding] = field(default_factory=dict)
    several: frozenset[tuple[Hour, str]] = frozenset()
    beside: Mapping[Hour, UsageRow] = field(default_factory=dict)
    whole: bool = True

    def since(self, first: Hour, end: Hour) -> Quantities:
        """Return what was used from an hour up to another, exclusive."""
        both = (*self.by_row.items(), *self.counted.items())
        return added(quantities for hour, quantities in both if first <= hour < end)

    def without_several(self) -> "Used":
        """Return the least that it is where distinct values came through more than one key: as if none had been new."""
        return self.settled(dict.fromkeys(self.several, 0))

    def settled(self, numbers: Mapping[tuple[Hour, str], int], *, whole: bool = True) -> "Used":
        """Return it with other counts of some hours and metrics."""
        counted = {hour: dict(quantities) for hour, quantities in self.counted.items()}
        for (hour, metric), number in numbers.items():
            counted[hour][metric] = _billed(self.beside.get(hour), metric, number)
        return replace(self, counted=counted, several=self.several - numbers.keys(), whole=self.whole and whole)


@dataclass(slots=True)
class WindowReader:
    """Reads what a customer used. Errors of DynamoDB are raised as they are; reads are consistent.

    ``usage_lines`` says that usage may be reported of customers without a key.
    """

    counters: Counters
    uniques: Uniques
    ledger: Ledger
    usage_lines: bool = False
    _written: tuple[datetime, Hour] | None = None

    def written_before(self, now: datetime) -> Hour:
        """Return the first hour whose rows are not all written; it is remembered for :data:`ROWS_KNOWN_FOR`."""
        if self._written is None or not timedelta(0) <= now - self._written[0] < ROWS_KNOWN_FOR:
            self._written = (now, self.ledger.progress.written_before(now))
        return self._written[1]

    def read(self, name: str, first: Hour, now: datetime) -> Used:
        """Return what a customer used from an hour on."""
        written = self.written_before(now)
        open_from = max(first, written)
        end = max(open_from, Hour.containing(now + LATEST_RECORD).next())  # nothing is counted of later hours
        rows = {row.hour: row for row in self.ledger.rows.of(customer(name), first, end)}
        keys, are_all = self.ledger.holders.first_keys_of(name, MOST_SOURCES)
        own = [source_of_customer(name)] if self.usage_lines else []  # else nothing is counted of a customer's own name
        holdings = self.ledger.holders.holdings(map(source_of_key, keys))
        afresh, are_whole = self._afresh(written, open_from, end, len(holdings))
        counted: dict[Hour, Quantities] = {}
        several: set[tuple[Hour, str]] = set()
        by_row = {hour: _quantities(row) for hour, row in rows.items() if hour not in afresh}
        for hour in afresh:
            sources = [*own, *sources_of(customer(name), holdings, hour)]
            share = Share.of(self.counters.of_sources(hour, sources))
            counted[hour] = _with_row(share.together, rows.get(hour))
            if share.together.uniques and not alone(holdings, name, hour):
                several |= {(hour, metric) for metric in share.together.uniques}
        beside = {hour: rows[hour] for hour in afresh if hour in rows}
        sources = [*own, *sources_of(customer(name), holdings, Hour.containing(now))]
        whole = are_all and are_whole
        return Used(by_row, counted, open_from, tuple(sources), holdings, frozenset(several), beside, whole)

    def _afresh(self, written: Hour, open_from: Hour, end: Hour, sources: int) -> tuple[Collection[Hour], bool]:
        """Return the hours to count from the counters, and whether those are all that are not written.

        A ledger that has not closed any hour yet is new: earlier ones hold nothing.
        """
        still_open = range(open_from.number, end.number)
        most = min(MOST_OPEN_HOURS, max(1, MOST_READS // max(1, sources)))
        return [Hour(number) for number in still_open[-most:]], len(still_open) <= most or written == Hour(0)

    def join(self, name: str, used: Used) -> Used:
        """Return it with distinct values as they will be billed: a value counts once, whichever keys brought it.

        Where there are too many claims to be joined, they do not count before their hours close.
        """
        numbers: dict[tuple[Hour, str], int] = {}
        whole = True
        for month, metric in sorted({(hour.month_begin, metric) for hour, metric in used.several}):
            concerned = [(hour, one) for hour, one in used.several if (hour.month_begin, one) == (month, metric)]
            try:
                joined = self.uniques.join(
                    used.holdings, name, metric, month, Join(), most=MOST_CLAIMS, go_on=lambda: True
                ).by_hour
            except TooMuchError:
                joined, whole = {}, False
            numbers |= {(hour, metric): joined.get(hour.number, 0) for hour, _ in concerned}
        return used.settled(numbers, whole=whole)


def added(several: Iterable[Quantities]) -> dict[str, int]:
    """Return the sum of quantities, metric by metric."""
    total: Counter[str] = Counter()
    for quantities in several:
        total.update(quantities)
    return dict(total)


def _quantities(row: UsageRow) -> Quantities:
    return {metric: total.quantity for metric, total in row.totals.items()}


def _with_row(counted: Amounts, row: UsageRow | None) -> Quantities:
    """Return what is billed of an hour by what is counted now, and what its row, if there is one, has beside that."""
    numbers = counted.quantities()
    return {metric: _billed(row, metric, numbers.get(metric, 0)) for metric in {*numbers, *(row.totals if row else ())}}


def _billed(row: UsageRow | None, metric: str, counted: int) -> int:
    total = (row.totals if row else {}).get(metric, _NOTHING)
    return msgspec.structs.replace(total, counted=counted).quantity
