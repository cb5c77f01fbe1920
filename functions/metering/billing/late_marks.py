"""Late marks: what changed in an hour that was closed, or may have been, is closed again.

Marks are dealt with some at a time, the oldest hours first; one that fails stands behind all others, and what takes
long by itself waits until everything else is done. A mark is cleared when all that it was put for stands in the rows.
"""

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final

from aws_lambda_powertools import Logger

from metering.billing.closed import Closed
from metering.billing.settling import FAILURES, OutOfTimeError
from metering.billing.writing import TOGETHER, RowWriter, Wrote
from metering.model.periods import Hour
from metering.model.subjects import Subject, source_of
from metering.stores.aws import each_side_by_side, in_pieces
from metering.stores.marks import PARTITIONS, Marked, Marks
from metering.stores.progress import Lease, Leased, LeaseLostError, Places, Progress
from metering.stores.table import TooMuchError

logger = Logger(child=True)

MARKS: Final = 100
"""How many late marks of each partition are taken at a time."""

MOST_WAITING: Final = 10_000
"""How many late marks that take long by themselves a run deals with."""


@dataclass(frozen=True, slots=True)
class LateMarks:
    """Deals with late marks; ``take`` leases the place up to which they are dealt with, ``holder`` names the run."""

    marks: Marks
    writer: RowWriter
    progress: Progress
    clock: Callable[[], datetime]
    take: Callable[[Leased[Places]], Lease[Places]]
    holder: str

    def close(self, did: Closed) -> list[Marked]:
        """Close again what marks ask for, as far as the time goes; return those that have to wait for their turn.

        Marks are read from where an earlier run ended, then from the oldest on: so one that fails, and stays, is met
        again only after all others.
        """
        place = self.progress.marks_place()
        marks = self._some_marks(place.done.after, did)
        if not (marks or place.done.after):
            return []
        waiting: list[Marked] = []
        try:
            lease = self.take(place)
            try:
                began_within = bool(place.done.after)
                while marks:
                    for some in _of_one_hour(marks):
                        waiting += self._close_some(some, did)
                        lease.save(Places({**lease.done.after, **{mark.partition: mark.place for mark in some}}))
                    marks = self._some_marks(lease.done.after, did)
                    if began_within and not marks:
                        began_within, marks = False, self._some_marks({}, did)
                        lease.save(Places())
                lease.end(Places())
            except (OutOfTimeError, *FAILURES):
                lease.give_back()
                raise
        except LeaseLostError:
            logger.info("another run deals with late marks")
        return waiting[:MOST_WAITING]

    def _some_marks(self, after: Mapping[int, str], did: Closed) -> list[Marked]:
        """Return the next late marks of each partition, of hours that are due; the oldest hour first."""
        now = self.clock()
        found, failures = each_side_by_side(lambda n: self.marks.some(n, after.get(n, ""), MARKS), range(PARTITIONS))
        did.errors += failures
        return sorted(mark for some in found for mark in some if mark.hour.is_due(now))

    def _close_some(self, marks: Sequence[Marked], did: Closed) -> list[Marked]:
        """Close an hour again for some subjects, and clear their marks; return those that have to wait."""
        hour = marks[0].hour
        wrote = self._bring(hour, {mark.subject for mark in marks})
        done = [mark for mark in marks if mark.subject not in wrote.left]
        self._clear(done, did)
        did.unmapped += wrote.unmapped
        did.note(hour, wrote)
        return [mark for mark in marks if isinstance(wrote.left.get(mark.subject), TooMuchError)]

    def _bring(self, hour: Hour, subjects: set[Subject]) -> Wrote:
        if hour.is_past_change(self.clock()):
            return self.writer.write_changes(hour, subjects)
        return self.writer.bring_up_to_date(hour, subjects, changes=True)

    def close_large(self, marks: Sequence[Marked], did: Closed) -> None:
        """Close again what takes long by itself: all marks of an owner's hour together.

        Each run begins with another one, so that who takes a whole run, or fails, keeps no other waiting.
        """
        groups: dict[tuple[Hour, Subject], list[Marked]] = {}
        for hour, of_hour in groupby(sorted(marks), key=lambda mark: mark.hour):
            of_source = {source_of(mark.subject): mark for mark in of_hour}
            for owner, sources in self.writer.by_owner(hour, of_source).items():
                groups[hour, owner] = [of_source[source] for source in sources]
        names = sorted(groups)
        begin = zlib.crc32(self.holder.encode()) % max(1, len(names))
        for hour, owner in names[begin:] + names[:begin]:
            self.writer.check_time()
            asked = {f"{mark.mark} {mark.times}": mark for mark in groups[hour, owner]}
            subjects = [mark.subject for mark in asked.values()]
            wrote = self.writer.bring_large(hour, owner, subjects, asked=asked, changes=True)
            did.note(hour, wrote)
            self._clear([asked[one] for one in wrote.answered], did)

    def _clear(self, marks: Collection[Marked], did: Closed) -> None:
        """Clear marks that were dealt with; one that cannot be cleared is dealt with again."""
        cleared, failures = each_side_by_side(self.marks.clear, marks)
        did.again += len(cleared)
        did.errors += failures


def _of_one_hour(marks: Sequence[Marked]) -> Iterator[Sequence[Marked]]:
    """Yield marks in order, of one hour each, as many as are dealt with together."""
    for _, of_hour in groupby(marks, key=lambda mark: mark.hour):
        yield from in_pieces([*of_hour], TOGETHER)
