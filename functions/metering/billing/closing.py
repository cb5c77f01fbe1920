"""Closing: an hour's counters → the ledger, the first time and every time after.

The first close of an hour writes rows that were never there. Everything else is closing again, which reads in this
order: the ledger row, then who holds the keys, then the counters; and writes on condition that the row is still as it
was read. In another order a slow run would overwrite a newer total with an older one (I4)::

    slow run    reads the row ─────── reads counters: 5 ────────────────────── writes 5: refused, the row has changed
    other run              reads the row ── reads counters: 5+1 ── writes 6
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from aws_lambda_powertools import Logger

from metering.model.amounts import Amounts
from metering.model.periods import Hour, due_before, hours
from metering.model.subjects import Kind, Subject, customer, source_of, source_of_key, subject_of_source
from metering.model.usage_row import Change, State, UsageRow, recounted
from metering.stores.attribution import Share, Uniques, shares
from metering.stores.aws import in_pieces, side_by_side
from metering.stores.changes import Changes
from metering.stores.counters import Counted, Counters
from metering.stores.holders import Holding, by_kind, mapped_to
from metering.stores.ledger import Ledger
from metering.stores.marks import Marked, new_mark
from metering.stores.progress import Period, PeriodState
from metering.stores.rows import ByKey
from metering.stores.table import RowChangedError

logger = Logger(child=True)

FIRST_LOOK_BACK: Final = timedelta(hours=24)
"""A new deployment closes the hours since its table was made, and this much before."""

INDEX_LAG: Final = timedelta(minutes=1)
"""A row that was written longer ago than this is seen in the index of pending rows."""

_ROUNDS: Final = 5
"""How often closing again reads afresh when rows change under it, before it leaves the rest to the next run."""

_PIECE: Final = 1000
"""How many rows are written between two looks at the clock."""

Totals = dict[Subject, Amounts]
"""What was used, by subject."""


class OutOfTimeError(Exception):
    """The run must end now; what is left is done by the next one."""


@dataclass(slots=True)
class Closed:
    """What a run of closing did."""

    written: list[Hour] = field(default_factory=list)
    closed: list[Hour] = field(default_factory=list)
    again: int = 0
    """Late marks that were dealt with."""

    unmapped: int = 0
    """Rows written for keys that belong to no customer."""

    behind: int = 0
    """Due hours that are not closed."""

    pending: set[Hour] = field(default_factory=set)
    """Hours with a row that this run left pending; the index may not show it yet."""


@dataclass(frozen=True, slots=True)
class Closer:
    """Closes hours from the counters into the ledger; ``clock`` gives the present moment.

    No new piece of work is begun after ``deadline``: OutOfTimeError is raised, and what was done stands.
    """

    counters: Counters
    uniques: Uniques
    ledger: Ledger
    changes: Changes
    clock: Callable[[], datetime]
    deadline: datetime

    def close_due(self) -> Closed:
        """Write the rows of every due hour that has none yet, and of every hour that has a late mark."""
        did = Closed()
        marks = self.counters.marks.late()  # before the counters are read, so that each mark is seen or stays
        due = self.open_hours()
        written = self.ledger.progress.periods(due)
        try:
            for hour in due:
                if hour not in written:
                    self._write_due(hour, did)
            for hour, late in _by_hour(marks).items():
                if hour.is_due(self.clock()):
                    self._close_marked(hour, late, did)
        except OutOfTimeError:
            logger.warning("closing ran out of time and goes on at the next run", written=len(did.written))
        return did

    def open_hours(self) -> list[Hour]:
        """Return the due hours from the cursor on, closed or not."""
        now = self.clock()
        return list(hours(self.ledger.progress.cursor() or self._first_hour(now), due_before(now)))

    def _first_hour(self, now: datetime) -> Hour:
        """Return where a ledger without a cursor begins.

        A record of an hour before the table was made was late when it was counted, so its hour has a late mark.
        """
        return Hour.containing(min(self.counters.made_at(), now - FIRST_LOOK_BACK))

    def settle(self, did: Closed, *, unsettled: set[Hour]) -> None:
        """Close each written hour in which nothing is pending, and move the cursor over what is closed.

        ``unsettled`` are the hours with a row that is known to wait for Stripe; none while posting is off.
        """
        now = self.clock()
        due = self.open_hours()
        periods = self.ledger.progress.periods(due)
        for hour, period in sorted(periods.items()):
            seen = hour in did.written or period.written_at + INDEX_LAG <= now
            if period.state is PeriodState.WRITTEN and hour not in unsettled and seen:
                closed = Period(hour, PeriodState.CLOSED, period.written_at, period.customers, period.unmapped, now)
                self.ledger.progress.save_period(closed)
                periods[hour] = closed
                did.closed.append(hour)
                logger.info("hour closed", hour=str(hour), customers=period.customers)
        still_open = [hour for hour in due if hour not in periods or periods[hour].state is not PeriodState.CLOSED]
        did.behind = len(still_open)
        self.ledger.progress.advance_cursor(still_open[0] if still_open else due_before(now))

    def _write_due(self, hour: Hour, did: Closed) -> None:
        self._check_time()
        try:
            self._write_hour(hour, did)
        except RowChangedError as error:
            logger.warning("hour is written at the next run", hour=str(hour), reason=str(error))

    def _write_hour(self, hour: Hour, did: Closed) -> None:
        """Write an hour's rows for the first time, or go on where an earlier run stopped.

        A row that was never there cannot hide a newer total, so what was counted is written as it was read. A row
        that is there already and says something else is closed again, in the safe order.
        """
        counted = self.counters.read(hour)
        holdings = self.ledger.holders.holdings(counted)
        by_owner = shares(hour, counted, holdings)
        totals = self._totals(hour, counted, by_owner)
        rows = self.ledger.rows.at(hour, {*totals, *_ever_concerned(holdings)})
        fresh = [
            self._recounted(row, totals, holdings) for row in rows.values() if not row.version and row.subject in totals
        ]
        there = [row for row in rows.values() if row.version]
        _note_pending(there, did)
        by_key = _by_key(by_owner)
        again = {row.subject for row in there if _differs(row, totals, holdings)} | self._write(fresh, by_key, did)
        self.close_again(hour, again | self._moved(hour, holdings), did)
        customers = len(by_kind(totals, Kind.CUSTOMER))
        unmapped = sum(holdings[source_of_key(name)].at(hour) is None for name in by_kind(totals, Kind.KEY))
        self.ledger.progress.save_period(Period(hour, PeriodState.WRITTEN, self.clock(), customers, unmapped))
        did.written.append(hour)
        did.unmapped += unmapped
        logger.info("hour written", hour=str(hour), customers=customers, unmapped=unmapped)

    def _close_marked(self, hour: Hour, marks: Sequence[Marked], did: Closed) -> None:
        subjects = {mark.subject for mark in marks}
        try:
            if hour.is_past_change(self.clock()):
                self._close_by_changes(hour, subjects, did)
            else:
                self.close_again(hour, subjects, did)
        except RowChangedError as error:
            logger.warning("hour is closed again at the next run", hour=str(hour), reason=str(error))
            return
        side_by_side(self.counters.marks.clear, marks)
        did.again += len(marks)

    def close_again(self, hour: Hour, subjects: set[Subject], did: Closed) -> None:
        """Bring these subjects' rows of an hour up to date, and touch no other.

        A key brings in the customer that holds it; a customer, all its keys. Raises RowChangedError if rows keep
        changing; the late mark stays, and the next run tries again.
        """
        todo = subjects
        for _ in range(_ROUNDS):
            if not todo:
                return
            self._check_time()
            named = self.ledger.holders.holdings(map(source_of_key, by_kind(todo, Kind.KEY)))
            rows = self.ledger.rows.at(hour, todo | _ever_concerned(named))
            holdings = self.ledger.holders.holdings(self._sources_of(rows))
            counted = self.counters.read(hour, holdings.keys())
            by_owner = shares(hour, counted, holdings)
            totals = self._totals(hour, counted, by_owner, concerned=rows)
            changes = self._changes(hour, rows)
            changed = [
                after
                for before in rows.values()
                if (after := self._recounted(before, totals, holdings, changes)) is not before and after.totals
            ]
            refused = self._write(changed, _by_key(by_owner), did)
            self._ask_to_check(hour, rows)
            # A named key may have got its holder just now, and any key may have changed hands meanwhile.
            owners = {owner for name in named if (owner := mapped_to(holdings[name], hour))}
            todo = refused | self._moved(hour, holdings) | (owners - rows.keys())
        if todo:
            raise RowChangedError(f"rows of {hour} kept changing while they were closed again")

    def _close_by_changes(self, hour: Hour, subjects: set[Subject], did: Closed) -> None:
        """Bring rows up to date of an hour whose counters may have expired: what was counted stays as it is."""
        rows = self.ledger.rows.at(hour, [customer(name) for name in by_kind(subjects, Kind.CUSTOMER)])
        changes = self._changes(hour, rows)
        changed = [
            after
            for before in rows.values()
            if (after := recounted(before, None, changes[before.subject])) is not before and after.totals
        ]
        if self._write(changed, None, did):
            raise RowChangedError(f"rows of {hour} changed while they were closed again")
        self._ask_to_check(hour, rows)

    def _changes(self, hour: Hour, subjects: Iterable[Subject]) -> dict[Subject, list[Change]]:
        """Return what stands beside customers' counters; read after them, as all that a late mark is put for."""
        names = by_kind(subjects, Kind.CUSTOMER)
        found = side_by_side(lambda name: self.changes.of(name, hour), names)
        return {customer(name): changes for name, changes in zip(names, found, strict=True)}

    def _ask_to_check(self, hour: Hour, subjects: Iterable[Subject]) -> None:
        """Ask whether invoices still bill what the rows say; after they are written, and before the late mark is gone.

        Not for an hour that is closed for the first time: an invoice is looked at when all its hours are closed.
        """
        names = by_kind(subjects, Kind.CUSTOMER)
        side_by_side(lambda name: self.counters.marks.mark_to_check(hour, customer(name)), names)

    def _sources_of(self, subjects: Collection[Subject]) -> set[str]:
        return set(map(source_of, subjects)).union(
            *side_by_side(self.ledger.holders.sources_of, by_kind(subjects, Kind.CUSTOMER))
        )

    def _totals(
        self, hour: Hour, counted: Counted, by_owner: Mapping[Subject, Share], concerned: Collection[Subject] = ()
    ) -> Totals:
        """Add up keys' counters by who held them in the hour; a key that nobody held stands for itself.

        Where a customer's distinct values came through several hands, its claims say how many count in this hour; the
        month's other hours are looked at, too, also for those of the ``concerned`` who have lost their key.
        """
        totals = {subject: share.together for subject, share in by_owner.items()}
        distinct = {metric for amounts in counted.values() for metric in amounts.uniques}
        for owner in by_kind({*totals, *concerned}, Kind.CUSTOMER):
            uniques = totals.get(customer(owner), Amounts()).uniques
            for metric in distinct if customer(owner) in concerned else [*uniques]:
                by_hour = self.uniques.by_hour(owner, metric, hour)
                if by_hour is not None:
                    if metric in uniques:
                        uniques[metric] = by_hour[hour]
                    self._mark_unlike(owner, metric, by_hour, hour)
        return totals

    def _mark_unlike(self, owner: str, metric: str, by_hour: Counter[Hour], hour: Hour) -> None:
        """Ask for the month's other hours to be closed again that say something else than the claims say now.

        A key that joined or left the customer takes values with it that were billed in other hours than its own.
        """
        for row in self.ledger.rows.of(customer(owner), hour.month_begin, hour.month_end):
            total = row.totals.get(metric)
            if row.hour != hour and total is not None and total.counted != by_hour[row.hour]:
                self.counters.marks.mark_late(row.hour, row.subject, new_mark())

    def _recounted(
        self,
        row: UsageRow,
        totals: Totals,
        holdings: Mapping[str, Holding],
        changes: Mapping[Subject, Sequence[Change]] = MappingProxyType({}),
    ) -> UsageRow:
        counted = totals.get(row.subject, Amounts())
        why_held = _why_held(row, holdings) if row.subject.kind is Kind.KEY else ""
        return recounted(row, counted, changes.get(row.subject), held=why_held)

    def _write(self, rows: Sequence[UsageRow], by_key: Mapping[Subject, ByKey] | None, did: Closed) -> set[Subject]:
        """Write rows, and how they split ``by_key`` if they were counted just now.

        Returns the subjects for which another run was faster.
        """
        refused = set()
        for piece in in_pieces(rows, _PIECE):
            self._check_time()
            written = side_by_side(
                lambda row: self._write_row(row, None if by_key is None else by_key.get(row.subject, {})), piece
            )
            _note_pending([row for row in written if row is not None], did)
            refused |= {row.subject for row, done in zip(piece, written, strict=True) if done is None}
        return refused

    def _write_row(self, row: UsageRow, by_key: ByKey | None) -> UsageRow | None:
        if row.subject.kind is Kind.KEY:
            self.ledger.holders.list_key(row.subject.id)  # first, so that no usage is where nobody looks
        try:
            return self.ledger.rows.save(row, by_key)
        except RowChangedError:
            return None

    def _moved(self, hour: Hour, before: Mapping[str, Holding]) -> set[Subject]:
        """Return whom an hour's usage belonged to, and belongs to now, for each key that changed hands since read.

        Whoever changes a key's holder marks the hours that have rows *after* that. Rows written meanwhile by a run
        that had read the old holder are found here: looked at after they were written.
        """
        moved: set[Subject] = set()
        for source, now in self.ledger.holders.holdings(before).items():
            was, is_now = before[source].at(hour), now.at(hour)
            if was != is_now:
                moved |= {subject_of_source(source)} | {
                    owner for holding in (before[source], now) if (owner := mapped_to(holding, hour))
                }
        return moved

    def _check_time(self) -> None:
        if self.clock() >= self.deadline:
            raise OutOfTimeError


def _by_key(by_owner: Mapping[Subject, Share]) -> Mapping[Subject, ByKey]:
    """Return what customers' keys were counted for, each by itself."""
    return {owner: share.by_key for owner, share in by_owner.items() if owner.kind is Kind.CUSTOMER}


def _by_hour(marks: Iterable[Marked]) -> dict[Hour, list[Marked]]:
    by_hour: dict[Hour, list[Marked]] = {}
    for mark in marks:
        by_hour.setdefault(mark.hour, []).append(mark)
    return by_hour


def _note_pending(rows: Iterable[UsageRow], did: Closed) -> None:
    for row in rows:
        if row.in_state(State.PENDING):
            did.pending.add(row.hour)


def _differs(row: UsageRow, totals: Totals, holdings: Mapping[str, Holding]) -> bool:
    """Say whether a row says something else than was just read."""
    counted = {metric: total.counted for metric, total in row.totals.items() if total.counted}
    now = {metric: quantity for metric, quantity in totals.get(row.subject, Amounts()).quantities().items() if quantity}
    if counted != now:
        return True
    return row.subject.kind is Kind.KEY and any(
        total.reason != _why_held(row, holdings) for total in row.totals.values()
    )


def _ever_concerned(holdings: Mapping[str, Holding]) -> set[Subject]:
    """Return whose rows may hold a key's usage: its own, and those of all who ever held it.

    A run that died may have left a row by a holder that has since been replaced.
    """
    holders = {customer(one.customer) for holding in holdings.values() for one in holding.holders if one.customer}
    return holders | {subject_of_source(source) for source in holdings}


def _why_held(row: UsageRow, holdings: Mapping[str, Holding]) -> str:
    """Say why a key's own row is billed to nobody."""
    holder = holdings[source_of(row.subject)].at(row.hour)
    if holder is None:
        return "the key belongs to no customer"
    return f"counted for the customer {holder.customer}" if holder.customer else f"not billed: {holder.reason}"
