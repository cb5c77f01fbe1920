"""Settling: how many of a customer's distinct values count in an hour, where they came through several hands.

Each key's counters say what was new to that key. A customer of several keys, or of one that changed hands in the month,
is billed by the claims of all of them: a value counts once, in the hour of the claim that was made first
(:mod:`metering.stores.attribution`). An hour is settled from its own claims and those of the same values elsewhere; the
month's other rows are looked at when the customer's keys have changed, or where an earlier claim came in.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from metering.model.amounts import Amounts
from metering.model.periods import CLOCK_SKEW, GRACE, Hour
from metering.model.subjects import Subject, subject_of_source
from metering.model.usage_row import UsageRow
from metering.stores.attribution import Uniques, alone
from metering.stores.aws import side_by_side
from metering.stores.claims import PARTS
from metering.stores.holders import Holding
from metering.stores.ledger import Ledger
from metering.stores.marks import Marks, new_mark
from metering.stores.progress import Join
from metering.stores.table import TABLE_ERRORS, RowChangedError, TooMuchError

MOST_KEYS: Final = 32
"""The claims of up to so many keys, 16 queries each, are read along; a customer of more waits, likewise."""

MOST_CLAIMS: Final = 5_000
"""Up to so many claims of a customer are read along, in vain where there are more: then it waits for its turn (I6)."""

_SAVED_EVERY: Final = timedelta(seconds=5)
"""How often it is written how far the claims of one customer are joined."""


FAILURES: Final = (RowChangedError, TooMuchError, *TABLE_ERRORS)
"""What keeps a subject from being brought up to date, and no other one."""


class OutOfTimeError(Exception):
    """The run must end now; what is left is done by the next one."""


@dataclass(slots=True)
class Values:
    """Distinct values that are to be settled: a customer's row, its amounts, and every key that it ever held."""

    row: UsageRow
    together: Amounts
    holdings: Mapping[str, Holding]
    answered: frozenset[str] | None = None
    """What was asked when the oldest of the joins began by which they are settled; None: none was gone on with."""

    @property
    def held(self) -> dict[str, Holding]:
        """The keys; what came without one has no claims."""
        return {source: holding for source, holding in self.holdings.items() if holding.key}

    @property
    def keys(self) -> str:
        """What tells these keys, and who held them when, from others."""
        versions = sorted((source, holding.version) for source, holding in self.held.items())
        return hashlib.sha256(repr(versions).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Settler:
    """Settles distinct values; ``clock`` gives the present moment. OutOfTimeError is raised after ``deadline``."""

    marks: Marks
    uniques: Uniques
    ledger: Ledger
    clock: Callable[[], datetime]
    deadline: datetime

    def settle(
        self,
        values: Iterable[Values],
        hour: Hour,
        metrics: Collection[str] = (),
        *,
        asked: frozenset[str] = frozenset(),
    ) -> dict[Subject, Exception]:
        """Where customers' distinct values came through several hands, let the claims say how many count in an hour.

        ``metrics`` are looked at, too, where a customer has none of them in the hour any more. Returns whose could not
        be settled, and why: they are too many, unless it was ``asked`` for this customer alone.
        """
        several = [one for one in values if not alone(one.held, one.row.subject.id, hour)]
        looked = self.ledger.progress.settled_with([one.row.subject.id for one in several], hour)

        def settle(one: Values) -> Exception | None:
            try:
                self._settle(one, {*one.together.uniques, *metrics}, looked.get(one.row.subject.id, ""), asked)
            except FAILURES as error:
                return error
            return None

        done = zip(several, side_by_side(settle, several), strict=True)
        return {one.row.subject: error for one, error in done if error is not None}

    def _settle(self, values: Values, metrics: Iterable[str], looked: str, asked: frozenset[str]) -> None:
        """Settle one customer's.

        Where its keys brought no value that was new to them, none of its claims is of this hour, and none is read;
        unless the keys are others than those with which the month was ``looked`` at: then what they bring, or took with
        them, may count in any hour.
        """
        row, uniques = values.row, values.together.uniques
        have_changed = looked != values.keys
        for metric in sorted(metrics):
            if have_changed or uniques.get(metric):
                join = self._join(values, metric, asked)
                self._mark_overtaken(values, metric, join)
                if have_changed:
                    self._mark_unlike(row, metric, join)
                if metric in uniques:
                    uniques[metric] = join.by_hour.get(row.hour.number, 0)
        if have_changed:
            self.ledger.progress.save_settled_with(row.subject.id, row.hour, values.keys)

    def _join(self, values: Values, metric: str, asked: frozenset[str]) -> Join:
        """Join a customer's claims; if it was ``asked`` for it alone, from where an earlier run has got to.

        Only if the row and the keys are as they were then: what was read before them is older than they are. By what is
        gone on with, only that is answered which was asked when it began.
        """
        hour, name = values.row.hour, values.row.subject.id
        join_from = partial(self.uniques.join, values.held, name, metric, hour)
        if not asked:
            if len(values.held) > MOST_KEYS:
                raise TooMuchError(f"the customer has held {len(values.held)} keys")
            return join_from(Join(), most=MOST_CLAIMS, go_on=lambda: True)
        of = f"{values.row.version} {values.keys}"
        saved = self.ledger.progress.join(hour, name, metric)
        join = saved if saved.of == of else Join(of, asked)
        values.answered = join.asked if values.answered is None else values.answered & join.asked
        while join.parts < PARTS:
            until = min(self.deadline, self.clock() + _SAVED_EVERY)
            join = join_from(join, most=None, go_on=partial(self._is_before, until))
            if join.parts < PARTS:
                self.ledger.progress.save_join(hour, name, metric, join)
                saved = join
                if self.clock() >= self.deadline:
                    raise OutOfTimeError
        if saved.of:
            self.ledger.progress.save_join(hour, name, metric, Join())  # nobody goes on with it once it is over
        return join

    def _is_before(self, moment: datetime) -> bool:
        return self.clock() < moment

    def _mark_overtaken(self, values: Values, metric: str, join: Join) -> None:
        """Ask for the other hours to be closed again that may count values which count in this one.

        A claim's moment precedes its landing, so that an hour may be closed by a claim which then turns out to be the
        later one. Its row says so, or is about to: if it is not there, or is to be closed again for this customer or a
        key of its, whoever writes it may not have seen the earlier claim. An hour that is not due is closed after this.
        """
        now = self.clock()
        due = [at for at in map(Hour, join.overtaken) if at.is_due(now, grace=GRACE - CLOCK_SKEW)]
        if not due:
            return
        subject = values.row.subject
        rows = {row.hour: row for row in self.ledger.rows.written((subject, at) for at in due)}
        asked = self.marks.asked(due, [subject, *map(subject_of_source, values.held)])
        for at in due:
            if at in asked or at not in rows or _counted(rows[at], metric) != join.by_hour.get(at.number, 0):
                self.marks.mark_late(at, subject, new_mark())

    def _mark_unlike(self, row: UsageRow, metric: str, join: Join) -> None:
        """Ask for the month's other hours to be closed again that say something else than the claims say now.

        A key that joined or left the customer takes values with it that were billed in other hours than its own.
        """
        for other in self.ledger.rows.of(row.subject, row.hour.month_begin, row.hour.month_end):
            is_other = other.hour != row.hour and metric in other.totals
            if is_other and _counted(other, metric) != join.by_hour.get(other.hour.number, 0):
                self.marks.mark_late(other.hour, row.subject, new_mark())


def _counted(row: UsageRow, metric: str) -> int:
    return row.totals[metric].counted if metric in row.totals else 0
