"""Closing: an hour's counters → the ledger, the first time and every time after.

An hour is closed piece by piece, side by side by as many runs as it needs: a piece is a partition of its counters, read
in the order of keys and leased by one run at a time. Rows are written for some hundred keys, then it is noted how far
the piece is. A run that dies there leaves rows that the next one finds (:mod:`metering.billing.writing`)::

    a step     counters of some keys ── rows written ── holders read again ── how far is noted
    crash                             ↑              ↑                     ↑ the step is done again, and finds its rows

What a step cannot finish is noted by key, and done once everything else is: rows that keep changing, and customers of
very many keys or claims, which delay nobody but themselves (I6). An hour is written when nothing of its pieces is left.

Whatever changes in an hour after that puts a late mark. Marks are dealt with a few hundred at a time, the oldest hours
first; one that fails stands behind all others.
"""

import uuid
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from random import sample
from typing import Any, Final

import msgspec
from aws_lambda_powertools import Logger

from metering.billing.closed import Closed
from metering.billing.late_marks import LateMarks
from metering.billing.settling import FAILURES, OutOfTimeError
from metering.billing.writing import RowWriter, Wrote
from metering.model.amounts import Amounts
from metering.model.periods import Hour, due_before, hours
from metering.model.subjects import source_of, subject_of_source
from metering.stores.attribution import Uniques
from metering.stores.changes import Changes
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stores.marks import PARTITIONS, Marked
from metering.stores.progress import Done, Lease, Leased, LeaseLostError, Period, PeriodState, Piece
from metering.stores.table import TooMuchError

logger = Logger(child=True)

FIRST_LOOK_BACK: Final = timedelta(hours=24)
"""A new deployment closes the hours since its table was made, and this much before."""

INDEX_LAG: Final = timedelta(minutes=1)
"""A row that was written longer ago than this is seen in the index of pending rows."""

FIRST_STEP: Final = 10
STEP: Final = 500
"""How many sources are closed between two notes of how far a piece is: at first, and at most."""

SHORT_STEP: Final = timedelta(seconds=1)
LONG_STEP: Final = timedelta(seconds=2)
"""A step that took less is followed by one of twice as many, one that took longer by one of half as many."""

MOST_LEFT: Final = 100_000
"""Characters of the keys that a piece may leave for later, some 8,000 of usual ids: all that its item should hold."""

ASKED_AT_ONCE: Final = 48
"""Of how many written hours a run asks whether something of them is pending."""

MOST_SETTLED: Final = 100_000
"""Of how many sources a run knows that their row is written already."""


@dataclass(slots=True)
class Closer:
    """Closes hours from the counters into the ledger; ``clock`` gives the present moment.

    No new piece of work is begun after ``deadline``; what was done stands, and the next run goes on. ``holder`` names
    the run, which is over in any case ``until`` a moment: for so long nobody else does what it has leased. Whose rows
    are closed again, ``note_change`` is told.
    """

    counters: Counters
    uniques: Uniques
    ledger: Ledger
    changes: Changes
    clock: Callable[[], datetime]
    deadline: datetime
    until: datetime | None = None
    usage_lines: bool = False
    note_change: Callable[[str], object] | None = None
    holder: str = field(default_factory=lambda: uuid.uuid4().hex)
    _settled: dict[Hour, dict[str, bool]] = field(default_factory=dict)
    """By hour: the sources that this run has found or put into their rows, and which of them are firsts."""

    @property
    def _writer(self) -> RowWriter:
        return RowWriter(
            self.counters,
            self.uniques,
            self.ledger,
            self.changes,
            self.clock,
            self.deadline,
            self.usage_lines,
            self.note_change,
        )

    @property
    def _late_marks(self) -> LateMarks:
        return LateMarks(self.counters.marks, self._writer, self.ledger.progress, self.clock, self._take, self.holder)

    @property
    def _until(self) -> datetime:
        return self.until or self.deadline

    def close_due(self, *, marked: bool = True) -> Closed:
        """Write the rows of every due hour that has none yet, and unless not asked for, of what has a late mark.

        First everybody's, then what takes long. What fails is among the ``errors`` of what is returned: it delays
        nothing else.
        """
        did = Closed()
        due = self.open_hours()
        written = self.ledger.progress.periods(due)
        new = [hour for hour in due if hour not in written]
        large: list[Marked] = []
        with suppress(OutOfTimeError):
            for hour in new:
                self._attempt(did, self._close_pieces, hour, did)
            if marked:
                self._attempt(did, lambda: large.extend(self._late_marks.close(did)))
            for hour in new:
                self._attempt(did, self._close_left, hour, did)
            self._attempt(did, self._late_marks.close_large, large, did)
            return did
        logger.warning("closing ran out of time and goes on at the next run", written=len(did.written))
        return did

    def _attempt(self, did: Closed, do: Callable[..., object], *arguments: Any) -> None:
        """Do something, and note what goes wrong."""
        try:
            do(*arguments)
        except FAILURES as error:
            logger.exception("something is closed at the next run")
            did.errors.append(error)

    def open_hours(self) -> list[Hour]:
        """Return the due hours from the cursor on, closed or not."""
        now = self.clock()
        return list(hours(self.ledger.progress.cursor() or self._first_hour(now), due_before(now)))

    def size_of(self, due: Sequence[Hour]) -> tuple[int, int]:
        """Return how many rows the hour has that was written last, as far as is known, and how many hours are not."""
        if not due:
            return 0, 0
        periods = self.ledger.progress.periods([Hour(due[0].number - 1), *due])
        rows = [one.customers + one.unmapped for _, one in sorted(periods.items())]
        return (rows[-1] if rows else 0), sum(hour not in periods for hour in due)

    def _first_hour(self, now: datetime) -> Hour:
        """Return where a ledger without a cursor begins.

        A record of an hour before the table was made was late when it was counted, so its hour has a late mark.
        """
        return Hour.containing(min(self.counters.made_at(), now - FIRST_LOOK_BACK))

    # --- an hour that was never closed ------------------------------------------------------------------------------

    def _close_pieces(self, hour: Hour, did: Closed) -> None:
        """Close the pieces of an hour that nobody has closed yet or is at work on."""
        if sum(map(len, self._settled.values())) > MOST_SETTLED:
            self._settled.clear()
        pieces = self.ledger.progress.pieces(hour, PARTITIONS)
        begin = zlib.crc32(self.holder.encode()) % PARTITIONS  # several runs are not to meet at the same piece
        for number in [*range(begin, PARTITIONS), *range(begin)]:
            if not pieces[number].done.read:
                self._lease(pieces[number], did, partial(self._close_piece, hour, number, did))
        self._end_hour(hour, did)

    def _close_left(self, hour: Hour, did: Closed) -> None:
        """Close what the pieces of an hour have left for later."""
        for piece in self.ledger.progress.pieces(hour, PARTITIONS):
            if piece.done.left:
                self._lease(piece, did, partial(self._close_left_of, hour, did))
        if hour not in did.written:
            self._end_hour(hour, did)

    def _lease(self, work: Leased[Piece], did: Closed, do: Callable[[Lease[Piece]], None]) -> None:
        """Do something to a piece while it is leased, unless somebody else is at it; note what goes wrong."""
        self._writer.check_time()
        try:
            lease = self._take(work)
            try:
                do(lease)
            except (OutOfTimeError, *FAILURES):
                lease.give_back()
                raise
        except LeaseLostError:
            logger.info("another run is at a piece", piece=work.place)
        except FAILURES as error:
            logger.exception("a piece is closed at the next run", piece=work.place)
            did.errors.append(error)

    def _take(self, work: Leased[Done]) -> Lease[Done]:
        return self.ledger.progress.take(work, self.holder, now=self.clock(), until=self._until)

    def _close_piece(self, hour: Hour, number: int, did: Closed, lease: Lease[Piece]) -> None:
        """Write the rows of a piece's sources, step by step; then it is given back."""
        stream = self.counters.in_order(hour, number, after=lease.done.after)
        size, done, begun_before = FIRST_STEP, lease.done, bool(lease.done.after)
        while True:
            began, step = self.clock(), [*islice(stream, size)]
            if step:
                done = self._close_step(hour, step, done, did)
            if len(step) < size:
                break
            lease.save(done)
            if sum(map(len, done.left)) > MOST_LEFT:
                raise TooMuchError(f"{len(done.left)} keys of {lease.work.place} could not be closed")
            took = self.clock() - began
            if took < SHORT_STEP or took > LONG_STEP:
                size = min(STEP, size * 2) if took < SHORT_STEP else max(1, size // 2)
            self._writer.check_time()
        lease.end(msgspec.structs.replace(done, read=True))
        did.pieces[hour] += not begun_before

    def _close_step(self, hour: Hour, step: Sequence[tuple[str, Amounts]], done: Piece, did: Closed) -> Piece:
        """Write the rows of some sources, and return how far the piece is then."""
        settled = self._settled.get(hour, {})
        wrote = self._writer.create(hour, dict(step), settled)
        left = tuple(sorted(map(source_of, wrote.left)))
        firsts = [source for source, _ in step if source in wrote.firsts or settled.get(source)]
        self._note(hour, wrote, did)
        did.unmapped += wrote.unmapped
        return msgspec.structs.replace(
            done,
            after=step[-1][0],
            left=(*done.left, *left),
            customers=done.customers + sum(source not in left for source in firsts),
            unmapped=done.unmapped + wrote.unmapped,
        )

    def _note(self, hour: Hour, wrote: Wrote, did: Closed) -> None:
        """Note what was written; whoever comes to a source whose row was just written need not read it again."""
        did.note(hour, wrote)
        settled = self._settled.setdefault(hour, {})
        if len(settled) > MOST_SETTLED:
            settled.clear()
        settled |= {source: source in wrote.firsts for source in wrote.settled}

    def _close_left_of(self, hour: Hour, did: Closed, lease: Lease[Piece]) -> None:
        """Close the keys that a piece has left, each customer by itself."""
        settled = self._settled.setdefault(hour, {})
        done = [source for source in lease.done.left if source in settled]
        if done:
            doubtful = self._writer.doubtful(hour, done)
            done = [source for source in done if source not in doubtful]
        saved = self.clock()
        try:
            for owner, sources in self._writer.by_owner(hour, set(lease.done.left) - {*done}).items():
                self._writer.check_time()
                wrote = self._writer.bring_large(hour, owner, map(subject_of_source, sources), asked={"piece"})
                self._note(hour, wrote, did)
                if not wrote.left:
                    done += sources
                if self.clock() - saved > SHORT_STEP:
                    lease.save(_without(lease.done, done, settled))
                    done, saved = [], self.clock()
        finally:
            lease.end(_without(lease.done, done, settled))

    def _end_hour(self, hour: Hour, did: Closed) -> None:
        """Say that an hour is written if nothing of it is left."""
        pieces = [piece.done for piece in self.ledger.progress.pieces(hour, PARTITIONS)]
        if not all(piece.is_done for piece in pieces):
            return
        customers, unmapped = sum(one.customers for one in pieces), sum(one.unmapped for one in pieces)
        self.ledger.progress.save_period(Period(hour, PeriodState.WRITTEN, self.clock(), customers, unmapped))
        did.written.append(hour)
        logger.info("hour written", hour=str(hour), customers=customers, unmapped=unmapped)

    # --- what is settled --------------------------------------------------------------------------------------------

    def settle(self, did: Closed, first: Hour | None) -> None:
        """Close each written hour in which nothing is pending, and move the cursor over what is closed.

        ``first`` is the first hour that is posted; None while posting is off, when nothing waits for Stripe. Each hour
        is asked for by itself; of very many, the oldest and some others.
        """
        now = self.clock()
        due = self.open_hours()
        periods = self.ledger.progress.periods(due)
        written = [hour for hour in due if hour in periods and periods[hour].state is PeriodState.WRITTEN]
        oldest, others = written[: ASKED_AT_ONCE // 2], written[ASKED_AT_ONCE // 2 :]
        asked = [*oldest, *sorted(sample(others, min(len(others), ASKED_AT_ONCE // 2)))]
        for hour in asked:
            period = periods[hour]
            is_posted = first is not None and hour >= first
            if is_posted and (hour in did.pending or self.ledger.rows.is_pending(hour)):
                did.unposted.add(hour)
            elif not is_posted or hour in did.alone or period.written_at + INDEX_LAG <= now:
                closed = Period(hour, PeriodState.CLOSED, period.written_at, period.customers, period.unmapped, now)
                self.ledger.progress.save_period(closed)
                periods[hour] = closed
                did.closed.append(hour)
                logger.info("hour closed", hour=str(hour), customers=period.customers)
        still_open = [hour for hour in due if hour not in periods or periods[hour].state is not PeriodState.CLOSED]
        did.behind = len(still_open)
        self.ledger.progress.advance_cursor(still_open[0] if still_open else due_before(now))


def _without(done: Piece, sources: Collection[str], firsts: Mapping[str, bool]) -> Piece:
    """Return how far a piece is when these sources are left no longer."""
    left = tuple(one for one in done.left if one not in sources)
    customers = done.customers + sum(firsts.get(source, False) for source in sources)
    return msgspec.structs.replace(done, left=left, customers=customers)
