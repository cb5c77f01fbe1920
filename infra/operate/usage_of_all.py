"""What everybody used: closed hours from each one's rows, the others from the counters, as for one customer.

How far hours are written, and which are to be closed again, is read first; then the counters of these hours, each
whole; then one customer after the other, its rows by one query. So a customer's lines are there as soon as its rows
are, and what is held is a few customers' rows, and the counters of the hours that are not in the ledger yet.

What splits by a dimension and a key at once the counters alone know: then each hour's are read whole, one after the
other, as they are where very many hours wait to be closed again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from heapq import nsmallest
from typing import Any, Final

from infra.operate.usage_lines import Line, Lines, Sums, added_up, keys_of
from metering.model.periods import COUNTER_LIFE, HOUR, OLDEST_RECORD, Hour, hours
from metering.model.subjects import Kind, Subject, customer, key, subject_of_source
from metering.model.usage_row import UsageRow
from metering.stores import marks
from metering.stores.attribution import Attribution, Share, Uniques, shares
from metering.stores.aws import in_pieces, side_by_side
from metering.stores.counters import Counted, Counters
from metering.stores.holders import Holding, mapped_to
from metering.stores.ledger import Ledger
from metering.stores.rows import ByKey

MOST_MARKS: Final = 1_000
"""Late marks of a partition; where there are as many, hours are counted, whatever their rows say."""

_KEYS_AT_ONCE: Final = 1_000
_ROWS_AT_ONCE: Final = 50_000
_MOST_AT_ONCE: Final = 64
"""Customers whose lines are held at a time, or so many rows; hours that are looked at together."""

Progress = Callable[[Iterable[Any], int], Iterable[Any]]
Period = Callable[[Hour], str]


@dataclass(frozen=True, slots=True)
class Span:
    """The hours of a report, from ``first`` up to ``end``, exclusive, and whence they are read.

    From ``counters_begin`` on there are counters; before ``written`` there are rows.
    """

    first: Hour
    end: Hour
    counters_begin: Hour
    written: Hour

    @classmethod
    def of(cls, first: Hour, end: Hour, now: datetime, written: Hour) -> "Span":
        """Return the span of a report that is made now; where ``written`` is not known, all of it is counted."""
        return cls(first, end, Hour.containing(now - COUNTER_LIFE), min(end, written))

    @property
    def settled_before(self) -> Hour:
        """Before which hour nobody's usage becomes a customer's, whoever gets its key: so long do counters outlive."""
        return Hour(self.counters_begin.number + (COUNTER_LIFE - OLDEST_RECORD) // HOUR + 1)

    def not_written(self) -> list[Hour]:
        """Return the hours that are in no row yet."""
        return [*hours(max(self.first, self.written, self.counters_begin), self.end)]


@dataclass(frozen=True, slots=True)
class Scope:
    """Of how much a report is, as it is known before it is read."""

    hours: int
    customers: list[str]
    keys: list[str]
    """Those that belonged to no customer in one of the hours."""

    others: list[str] = field(default_factory=list)
    """The other keys, where hours are too old to become a customer's with a key that it got later."""

    @property
    def subjects(self) -> list[Subject]:
        """The keys of nobody, then others that may have rows of their own, then the customers."""
        return [*map(key, self.keys), *map(key, self.others), *map(customer, self.customers)]


@dataclass(frozen=True, slots=True)
class RowsReader:
    """Reads one subject's hours: those that are not afresh from its rows."""

    ledger: Ledger
    lines: Lines

    def of(
        self,
        subject: Subject,
        span: Span,
        afresh: Iterable[Hour],
        counted: Callable[[list[Hour]], Iterable[tuple[Hour, Share]]],
    ) -> Iterator[Line]:
        """Yield what a subject used; of hours that are ``afresh``, as they are ``counted``, and what rows hold beside.

        So are those whose row does not tell more than so many keys apart.
        """
        wanted = set(afresh)
        rows: dict[Hour, UsageRow] = {}
        by_key: dict[Hour, ByKey] | None = None

        def split(hour: Hour) -> ByKey | None:
            nonlocal by_key
            if by_key is None:
                first = max(hour, span.counters_begin)
                by_key = dict(self.ledger.rows.by_key(subject, first, span.end))
            return by_key.get(hour)

        for row in self.ledger.rows.of(subject, span.first, span.end):
            if row.hour < span.counters_begin:
                yield from self.lines.of_ledger(row)
                continue
            keys = None if row.hour in wanted else keys_of(row, split)
            if keys is None:
                rows[row.hour] = row
                wanted.add(row.hour)
            else:
                yield from self.lines.of_row(row, keys)
        for hour, share in counted(sorted(wanted)):
            row = rows.get(hour) or UsageRow(subject, hour)
            yield from self.lines.of_share(row, share, again=hour < span.written)


@dataclass(frozen=True, slots=True)
class Everyone:
    """Reads what everybody used. ``learn`` is told of customers before their lines are made."""

    counters: Counters
    uniques: Uniques
    ledger: Ledger
    lines: Lines
    learn: Callable[[Iterable[str]], None]
    _holdings: dict[str, Holding] = field(default_factory=dict)

    def scope(self, span: Span) -> Scope:
        """Look who there is: pages of names, and of each key its history, a hundred in a read."""
        first, end = span.first, span.end
        if first >= end:
            return Scope(0, [], [])
        holders = self.ledger.holders
        nobodys: list[str] = []
        others: list[str] = []
        for some in in_pieces(holders.key_ids(), _KEYS_AT_ONCE):
            for name, held in holders.of_keys(some).items():
                (nobodys if _was_nobodys(held, first, end) else others).append(name)
        others = others if first < span.settled_before else []
        return Scope(end.number - first.number, [*holders.customer_ids()], nobodys, others)

    def parts(self, scope: Scope, span: Span, period: Period, progress: Progress) -> Iterator[list[Line]]:
        """Yield the lines, added up by periods, as they come: of one customer or key after the other.

        Split by dimensions, or where very many hours wait to be closed again: of one period after the other.
        """
        marked = None if self.lines.split else self._marked(span)
        if marked is None:
            yield from self._by_period(scope, span, period, progress)
        else:
            yield from self._by_subject(scope, span, marked, period, progress)

    def largest(  # noqa: PLR0913, PLR0917 - what :meth:`parts` is told, and of how many
        self, scope: Scope, span: Span, period: Period, progress: Progress, most: int, metrics: Sequence[str]
    ) -> tuple[list[Line], int]:
        """Return the lines of so many who used most, the largest first, and how many used something.

        It goes by what they used of the first of the metrics, then of the next. A customer's keys are added up.
        """
        marked = None if self.lines.split else self._marked(span)
        if marked is None:  # a customer is in each period's part
            by_period = self._by_period(scope, span, period, progress)
            return _largest([[line for part in by_period for line in part]], most, metrics)
        return _largest(self._by_subject(scope, span, marked, period, progress), most, metrics)

    # --- by rows ----------------------------------------------------------------------------------------------------

    def _by_subject(
        self, scope: Scope, span: Span, marked: Mapping[Hour, set[Subject]], period: Period, progress: Progress
    ) -> Iterator[list[Line]]:
        open_hours = span.not_written()
        afresh = sorted({*open_hours, *marked})
        counted: dict[Subject, dict[Hour, Share]] = {}
        for hour in progress(afresh, len(afresh)):
            wanted = None if hour >= span.written else marked[hour]
            for subject, share in self._shares(hour).items():
                if wanted is None or subject in wanted:
                    counted.setdefault(subject, {})[hour] = share
        again: dict[Subject, set[Hour]] = {subject: {*by_hour} for subject, by_hour in counted.items()}
        for hour, subjects in marked.items():
            for subject in subjects:
                again.setdefault(subject, set()).add(hour)
        unlisted = {*again, *self._reported(span, progress)} - {*scope.subjects}
        everyone = sorted({*scope.subjects, *unlisted}, key=lambda one: (one.kind is Kind.CUSTOMER, one))

        def read(subject: Subject) -> list[Line]:
            own = counted.pop(subject, {})
            hours_again = {*open_hours, *again.get(subject, ())}
            lines = RowsReader(self.ledger, self.lines).of(
                subject, span, hours_again, partial(self._settled, subject, own, hours_again)
            )
            return added_up(lines, period)

        yield from self._side_by_side(everyone, _at_once(scope), read, progress)

    def _side_by_side(
        self, subjects: list[Subject], some: int, read: Callable[[Subject], list[Line]], progress: Progress
    ) -> Iterator[list[Line]]:
        def found() -> Iterator[list[Line]]:
            for piece in in_pieces(subjects, some):
                self.learn(one.id for one in piece if one.kind is Kind.CUSTOMER)
                yield from side_by_side(read, piece)

        return (lines for lines in progress(found(), len(subjects)) if lines)

    def _settled(
        self, subject: Subject, own: Mapping[Hour, Share], again: set[Hour], wanted: list[Hour]
    ) -> Iterator[tuple[Hour, Share]]:
        """Yield what a subject was counted for, distinct values settled; hours that are not read yet are read now.

        Those are hours in which a customer used more keys than its row tells apart: only its own counters are read.
        """
        for hour in wanted:
            share = own.get(hour)
            if hour in again:
                if share is not None and subject.kind is Kind.CUSTOMER:
                    self.uniques.settle(subject.id, hour, share.together)
                yield hour, share or Share.of({})
        if many := [hour for hour in wanted if hour not in again]:
            yield from Attribution(self.counters, self.uniques).shares_of_customer(subject.id, many)

    def _marked(self, span: Span) -> dict[Hour, set[Subject]] | None:
        """Return whose hours are to be closed again, also of who held a key before; None if very many wait (I10)."""
        pages = side_by_side(lambda n: self.counters.marks.some(n, "", MOST_MARKS), range(marks.PARTITIONS))
        if any(len(page) >= MOST_MARKS for page in pages):
            return None
        first = max(span.first, span.counters_begin)
        found = [mark for page in pages for mark in page if first <= mark.hour < span.end]
        holdings = self.ledger.holders.of_keys({mark.subject.id for mark in found if mark.subject.kind is Kind.KEY})
        marked: dict[Hour, set[Subject]] = {}
        for mark in found:
            concerned = marked.setdefault(mark.hour, set())
            concerned.add(mark.subject)
            if mark.subject.kind is Kind.KEY:
                held = holdings[mark.subject.id]
                concerned.update(customer(one.customer) for one in held.holders if one.customer)
        return marked

    def _reported(self, span: Span, progress: Progress) -> set[Subject]:
        """Return whom usage lines have named in hours that are written: also who is no customer yet (I9)."""
        written = [*hours(max(span.first, span.counters_begin), span.written)]
        pieces = in_pieces(written, _MOST_AT_ONCE)
        found = (sources for some in pieces for sources in side_by_side(self.counters.reported, some))
        return {subject_of_source(source) for sources in progress(found, len(written)) for source in sources}

    # --- by counters ------------------------------------------------------------------------------------------------

    def _by_period(self, scope: Scope, span: Span, period: Period, progress: Progress) -> Iterator[list[Line]]:
        """Yield each period's lines once its last hour is read; what is older than the counters is read first."""
        sums: dict[str, Sums] = {}
        if span.first < span.counters_begin:
            before = replace(span, end=min(span.end, span.counters_begin))
            rows = RowsReader(self.ledger, self.lines)

            def read(subject: Subject) -> list[Line]:
                return added_up(rows.of(subject, before, (), lambda _: ()), period)

            for lines in self._side_by_side(scope.subjects, _at_once(scope), read, progress):
                for line in lines:
                    sums.setdefault(line.period, Sums()).add(line, line.period)
        rest = [*hours(max(span.first, span.counters_begin), span.end)]
        for hour in progress(rest, len(rest)):
            name = period(hour)
            for over in sorted(one for one in sums if one < name):
                yield sums.pop(over).lines()
            for line in self._of_hour(hour):
                sums.setdefault(name, Sums()).add(line, name)
        for name in sorted(sums):
            yield sums[name].lines()

    def _of_hour(self, hour: Hour) -> Iterator[Line]:
        by_owner = self._shares(hour)
        customers = [subject for subject in by_owner if subject.kind is Kind.CUSTOMER]
        side_by_side(lambda one: self.uniques.settle(one.id, hour, by_owner[one].together), customers)
        self.learn(one.id for one in customers)
        for subject, row in self.ledger.rows.at(hour, sorted(by_owner)).items():
            yield from self.lines.of_share(row, by_owner[subject])

    def _shares(self, hour: Hour) -> dict[Subject, Share]:
        """Return what each subject was counted for in an hour; distinct values are still to be settled."""
        counted: Counted = self.counters.read(hour)
        self._holdings.update(self.uniques.holders.holdings(counted.keys() - self._holdings.keys()))
        return shares(hour, counted, self._holdings)


def _largest(parts: Iterable[list[Line]], most: int, metrics: Sequence[str]) -> tuple[list[Line], int]:
    """Return the lines of the largest, and how many there are; nobody is in two parts."""
    best: list[tuple[tuple[int, ...], tuple[str, str], list[Line]]] = []
    of_all = 0
    for part in parts:
        subjects: dict[tuple[str, str], Sums] = {}
        for line in part:
            whose = line.customer, "" if line.customer else line.key
            subjects.setdefault(whose, Sums()).add(replace(line, key=whose[1]), line.period)
        of_all += len(subjects)
        for whose, sums in subjects.items():
            lines = sums.lines()
            size = tuple(-sum(line.quantity for line in lines if line.metric == metric) for metric in metrics)
            best.append((size, whose, lines))
        if len(best) > 2 * most:
            best = nsmallest(most, best)
    return [line for _, _, lines in nsmallest(most, best) for line in lines], of_all


def _at_once(scope: Scope) -> int:
    """Return of how many the lines are held at a time."""
    return max(1, min(_MOST_AT_ONCE, _ROWS_AT_ONCE // max(1, scope.hours)))


def _was_nobodys(holding: Holding, first: Hour, end: Hour) -> bool:
    """Say whether a key belonged to no customer in one of the hours."""
    changed = [holder for holder in holding.holders if first < holder.since < end]
    return mapped_to(holding, first) is None or not all(holder.customer for holder in changed)
