"""Writing: the rows of an hour, made from what was counted, in the order in which no total is lost.

A row that was never there cannot hide a newer total: it is created from what was counted just before, on condition that
it is not there. A row that exists is brought up to date in this order: the row, then who holds the keys, then the
counters; and is written on condition that it is still as it was read. In another order a slow run would overwrite a
newer total with an older one (I4)::

    slow run    reads the row ─────── reads counters: 5 ────────────────────── writes 5: refused, the row has changed
    other run              reads the row ── reads counters: 5+1 ── writes 6

Who holds the keys is read again after rows are written. Whoever changes a key's holder marks the hours that have rows
*after* that: so a hand-over finds the row, or is found by the run that wrote it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from aws_lambda_powertools import Logger

from metering.billing.settling import FAILURES, OutOfTimeError, Settler, Values
from metering.billing.snapshots import Snapshot
from metering.model.periods import Hour
from metering.model.subjects import (
    Kind,
    Subject,
    customer,
    source_of,
    source_of_customer,
    source_of_key,
    subject_of_source,
)
from metering.model.usage_row import State, UsageRow, recounted
from metering.stores.attribution import Share, Uniques, owner_of, shares
from metering.stores.aws import ERRORS, in_pieces, side_by_side
from metering.stores.changes import Changes
from metering.stores.counters import Counted, Counters
from metering.stores.holders import Holding, by_kind, mapped_to
from metering.stores.ledger import Ledger
from metering.stores.table import RowChangedError, TooMuchError

logger = Logger(child=True)

MOST_KEYS: Final = 64
"""Up to so many keys of a customer are read along; one with more waits until others are done (I6)."""

MOST_SOURCES: Final = 1_000
"""Up to so many sources are read together when rows are brought up to date; more are brought one by one."""

TOGETHER: Final = 50
"""How many subjects are brought up to date at once."""

_ROUNDS: Final = 5
"""How often rows are read afresh when they change meanwhile, before they are left to the next run."""


@dataclass(slots=True)
class Wrote:
    """What became of sources, or of subjects, in an hour."""

    settled: set[str] = field(default_factory=set)
    """Sources whose usage stands in its row, after that was written or found right."""

    firsts: set[str] = field(default_factory=set)
    """Of the sources of one customer's row, the first: by these, customers are counted."""

    unmapped: int = 0
    """Rows of keys that nobody held; of what was counted, all such keys."""

    void: int = 0
    """Corrections that became void, because another count is there than they were made against."""

    pending: bool = False
    """Whether a row has something to be posted; the index may not show it yet."""

    left: dict[Subject, Exception] = field(default_factory=dict)
    """What is not done, and why; of a customer that is created, its keys."""

    answered: frozenset[str] = frozenset()
    """What of that for which the rows were to be brought up to date was put before anything of it was read."""

    def settle(self, subject: Subject, share: Share | None) -> None:
        """Note that a subject's row says what its share does."""
        if share is not None:
            self.settled |= share.by_source.keys()
            if subject.kind is Kind.CUSTOMER:
                self.firsts.add(min(share.by_source))

    def include(self, other: "Wrote") -> None:
        """Take in what became of others."""
        self.settled |= other.settled
        self.firsts |= other.firsts
        self.unmapped += other.unmapped
        self.void += other.void
        self.pending |= other.pending
        self.left |= other.left


@dataclass(frozen=True, slots=True)
class RowWriter:
    """Writes rows; ``clock`` gives the present moment, and OutOfTimeError is raised once ``deadline`` has come.

    ``usage_lines`` says that usage may be reported of customers without a key. ``note_change`` is told, for the limits,
    whose row of a closed hour may have been written anew.
    """

    counters: Counters
    uniques: Uniques
    ledger: Ledger
    changes: Changes
    clock: Callable[[], datetime]
    deadline: datetime
    usage_lines: bool = False
    note_change: Callable[[str], object] | None = None

    @property
    def _settler(self) -> Settler:
        return Settler(self.counters.marks, self.uniques, self.ledger, self.clock, self.deadline)

    def check_time(self) -> None:
        """Raise OutOfTimeError if nothing may be begun any more."""
        if self.clock() >= self.deadline:
            raise OutOfTimeError

    def create(self, hour: Hour, counted: Counted, settled: Collection[str] = ()) -> Wrote:
        """Create the rows that these sources of an hour belong in; ``counted`` is all that each was counted for.

        Those that were ``settled`` just now stand in their rows, and are left out unless they may stand elsewhere, too.

        A customer's other keys are read along: which they are and who holds them by a hundred at a time, what they were
        counted for by a query each; one of whom that fails is left, and nobody else waits for it. What may stand in
        another row than it belongs in is brought up to date in the safe order, key by key: it was ever held by somebody
        else, has a row of its own, or its row exists.
        """
        holders = self.ledger.holders
        holdings = holders.holdings(counted, consistent=False)  # what this misses is seen once the rows are written
        owners = {source: owner_of(source, holding, hour) for source, holding in holdings.items()}
        doubtful = self._doubtful(hour, owners, holdings)
        owners = {source: owner for source, owner in owners.items() if source in doubtful or source not in settled}
        apart = {owners[source] for source in doubtful}
        waiting: dict[Subject, Exception] = {}
        everything = self._sources_of(set(owners.values()) - apart, holdings, waiting)
        beside = {one for some in everything.values() for one in some} - counted.keys()
        holdings |= holders.holdings(beside, consistent=False)
        theirs = {one: owner for one in beside if (owner := owner_of(one, holdings[one], hour)) in everything}
        along = self._count_beside(hour, theirs, waiting)
        step = {one: counted[one] for one, owner in owners.items() if owner not in apart | waiting.keys()}
        by_owner = shares(hour, step | along, holdings)
        values = [
            Values(UsageRow(owner, hour), share.together, {one: holdings[one] for one in everything[owner]})
            for owner, share in by_owner.items()
            if owner in everything and share.together.uniques
        ]
        waiting |= self._settler.settle(values, hour)
        read = Snapshot(
            {owner: UsageRow(owner, hour) for owner in by_owner if owner not in waiting}, holdings, by_owner, {}
        )
        wrote = Wrote()
        apart |= self._write(read, wrote, waiting)
        moved = self._moved(hour, holdings)
        for owner in read.rows.keys() - apart - moved - waiting.keys():
            wrote.settle(owner, by_owner[owner])
        again = {subject_of_source(source) for source, owner in owners.items() if owner in apart}
        wrote.include(self.bring_up_to_date(hour, again | moved))
        wrote.left |= {subject_of_source(one): waiting[owner] for one, owner in owners.items() if owner in waiting}
        wrote.unmapped = sum(holdings[source].at(hour) is None for source in owners)  # also if it was written before
        return wrote

    def _doubtful(self, hour: Hour, owners: Mapping[str, Subject], holdings: Mapping[str, Holding]) -> set[str]:
        """Return the sources whose usage may stand in another row than it belongs in, left there by a run that died."""
        given = [source for source, owner in owners.items() if owner != subject_of_source(source)]
        own_rows = self.ledger.rows.written((subject_of_source(source), hour) for source in given)
        return {source_of(row.subject) for row in own_rows} | {
            source for source in owners if len(holdings[source].holders) > 1
        }

    def doubtful(self, hour: Hour, sources: Collection[str]) -> set[str]:
        """Return the sources whose usage may stand in another row, too, although it stands where it belongs."""
        holdings = self.ledger.holders.holdings(sources)
        return self._doubtful(hour, {one: owner_of(one, holding, hour) for one, holding in holdings.items()}, holdings)

    def by_owner(self, hour: Hour, sources: Collection[str]) -> dict[Subject, list[str]]:
        """Return sources by whom their usage of an hour belongs to, as far as it is known now."""
        found: dict[Subject, list[str]] = {}
        for source, holding in sorted(self.ledger.holders.holdings(sources).items()):
            found.setdefault(owner_of(source, holding, hour), []).append(source)
        return found

    def _sources_of(
        self, owners: Collection[Subject], holdings: Mapping[str, Holding], waiting: dict[Subject, Exception]
    ) -> dict[Subject, set[str]]:
        """Return every source whose usage may be each customer's; who has too many is ``waiting``."""
        sources = {}
        names = by_kind(owners, Kind.CUSTOMER)
        for name, keys in self.ledger.holders.keys_of_each(names, holdings.values(), consistent=False).items():
            if len(keys) <= MOST_KEYS:
                own = [source_of_customer(name)] if self.usage_lines else []
                sources[customer(name)] = {*map(source_of_key, keys), *own}
            else:
                waiting[customer(name)] = TooMuchError(f"the customer has held {len(keys)} keys")
        return sources

    def _count_beside(self, hour: Hour, theirs: Mapping[str, Subject], waiting: dict[Subject, Exception]) -> Counted:
        """Return what customers' other sources were counted for; whose cannot be read now is ``waiting`` (I6)."""

        def read(source: str) -> Counted:
            try:
                return self.counters.of_sources(hour, [source])
            except ERRORS as error:
                waiting[theirs[source]] = error
                return {}

        found = side_by_side(read, theirs)
        return {one: amounts for some in found for one, amounts in some.items() if theirs[one] not in waiting}

    def bring_up_to_date(self, hour: Hour, subjects: Collection[Subject], *, changes: bool = False) -> Wrote:
        """Bring rows of an hour up to date, whether they exist or not, and touch no others.

        A key brings in the customer that holds it; a customer, all its keys. With ``changes``, what stands beside the
        counters is read, too. What fails, or has too many claims, is ``left``; the others are done.
        """
        wrote = Wrote()
        for some in in_pieces(sorted(subjects), TOGETHER):
            try:
                wrote.include(self._bring(hour, some, changes=changes))
            except FAILURES:
                for one in some:
                    try:
                        wrote.include(self._bring(hour, [one], changes=changes))
                    except FAILURES as error:
                        wrote.left[one] = error
        return wrote

    def bring_large(
        self,
        hour: Hour,
        owner: Subject,
        subjects: Iterable[Subject],
        *,
        asked: Collection[str],
        changes: bool = False,
    ) -> Wrote:
        """Bring the rows of an owner's subjects up to date, whatever that takes; what fails is ``left`` under its name.

        The claims of a customer are joined from where an earlier run has got to. What was not ``asked`` when that began
        is not ``answered`` by it: what it was put for may lie in what had been read before.
        """
        try:
            return self._bring(hour, subjects, changes=changes, asked=frozenset(asked))
        except FAILURES as error:
            return Wrote(left={owner: error})

    def _bring(
        self, hour: Hour, subjects: Iterable[Subject], *, changes: bool, asked: frozenset[str] = frozenset()
    ) -> Wrote:
        todo, wrote = set(subjects), Wrote(answered=asked)
        for _ in range(_ROUNDS):
            if not todo:
                return wrote
            self.check_time()
            read = self._snapshot(hour, todo, changes=changes, asked=asked)
            failed: dict[Subject, Exception] = {}
            wrote.answered &= read.answered
            refused = self._write(read, wrote, failed)
            for error in failed.values():
                raise error
            if changes:
                self._ask_to_check(hour, read.rows)
            # A named key may have got its holder just now, and any key may have changed hands meanwhile.
            named = {source_of(subject) for subject in todo if subject.kind is Kind.KEY}
            owners = {owner for source in named if (owner := mapped_to(read.holdings[source], hour))}
            todo = refused | self._moved(hour, read.holdings) | (owners - read.rows.keys())
            for subject in read.rows.keys() - todo:
                wrote.settle(subject, read.shares.get(subject))
        if todo:
            raise RowChangedError(f"rows of {hour} kept changing while they were brought up to date")
        return wrote

    def _snapshot(self, hour: Hour, subjects: Collection[Subject], *, changes: bool, asked: frozenset[str]) -> Snapshot:
        """Read what rows are made from, in the safe order: rows, holders, counters and claims, changes."""
        named = self.ledger.holders.holdings(map(source_of_key, by_kind(subjects, Kind.KEY)))
        rows = self.ledger.rows.at(hour, {*subjects, *_ever_concerned(named)})
        names = by_kind(rows, Kind.CUSTOMER)
        keys = self.ledger.holders.keys_of_each(names, named.values())
        sources = {*map(source_of, rows), *(source_of_key(key) for some in keys.values() for key in some)}
        if len(sources) > MOST_SOURCES and not asked:
            raise TooMuchError(f"{len(names)} customers have {len(sources)} keys")
        holdings = self.ledger.holders.holdings(sources)
        counted: Counted = {}
        for some in in_pieces(sorted(sources), MOST_SOURCES):
            self.check_time()
            counted |= self.counters.of_sources(hour, some)
        by_owner = shares(hour, counted, holdings)
        distinct = {metric for share in by_owner.values() for metric in share.together.uniques}
        nothing = Share.of({})
        values = [
            Values(
                rows[customer(name)],
                by_owner.get(customer(name), nothing).together,
                {source_of_key(key): holdings[source_of_key(key)] for key in keys[name]},
            )
            for name in (names if distinct else ())
        ]
        for error in self._settler.settle(values, hour, distinct, asked=asked).values():
            raise error
        answered = asked.intersection(*(one.answered for one in values if one.answered is not None))
        # After the counters, as all that a late mark is put for.
        beside = side_by_side(lambda name: self.changes.of(name, hour), names) if changes else []
        return Snapshot(rows, holdings, by_owner, dict(zip(map(customer, names), beside, strict=False)), answered)

    def write_changes(self, hour: Hour, subjects: Collection[Subject]) -> Wrote:
        """Bring rows up to date of an hour whose counters may have expired: what was counted stays as it is."""
        wrote = Wrote()

        def write(name: str) -> None:
            subject = customer(name)
            try:
                (before,) = self.ledger.rows.at(hour, [subject]).values()
                after = recounted(before, None, self.changes.of(name, hour))
                if after is not before and after.totals:
                    wrote.pending |= bool(self.ledger.rows.save(after).in_state(State.PENDING))
                self._ask_to_check(hour, [subject])
            except FAILURES as error:
                wrote.left[subject] = error

        self.check_time()
        side_by_side(write, by_kind(subjects, Kind.CUSTOMER))
        return wrote

    # --- writes -----------------------------------------------------------------------------------------------------

    def _write(self, read: Snapshot, wrote: Wrote, failed: dict[Subject, Exception]) -> set[Subject]:
        """Write the rows that changed, and how they split by key; return those for which another run was faster.

        What else goes wrong with one is noted as ``failed``.
        """

        def write(row: UsageRow) -> UsageRow | Exception:
            try:
                if row.subject.kind is Kind.KEY:
                    self.ledger.holders.list_key(row.subject.id)  # first, so that no usage is where nobody looks
                return self.ledger.rows.save(row, read.by_key(row.subject))
            except (RowChangedError, *ERRORS) as error:
                return error

        refused = set()
        changed = read.changed()
        for row, done in zip(changed, side_by_side(write, changed), strict=True):
            match done:
                case RowChangedError():
                    refused.add(row.subject)
                case Exception():
                    failed[row.subject] = done
                case _:
                    wrote.unmapped += (
                        row.subject.kind is Kind.KEY and read.holdings[source_of(row.subject)].at(row.hour) is None
                    )
                    wrote.void += _tell_void(row, read)
        wrote.pending |= any(row.in_state(State.PENDING) for row in (*read.rows.values(), *changed))
        return refused

    def _ask_to_check(self, hour: Hour, subjects: Iterable[Subject]) -> None:
        """Ask whether invoices still bill what the rows say; after they are written, and before the late mark is gone.

        Not for an hour that is closed for the first time: an invoice is looked at when all its hours are closed, and
        what limits have kept is of closed hours.
        """
        names = by_kind(subjects, Kind.CUSTOMER)
        side_by_side(lambda name: self.counters.marks.mark_to_check(hour, customer(name)), names)
        if self.note_change is not None:
            side_by_side(self.note_change, names)

    def _moved(self, hour: Hour, before: Mapping[str, Holding]) -> set[Subject]:
        """Return whom an hour's usage belonged to, and belongs to now, for each key that changed hands since read."""
        moved: set[Subject] = set()
        for source, now in self.ledger.holders.holdings(before).items():
            if before[source].at(hour) != now.at(hour):
                moved |= {subject_of_source(source)} | {
                    owner for holding in (before[source], now) if (owner := mapped_to(holding, hour))
                }
        return moved


def _tell_void(row: UsageRow, read: Snapshot) -> int:
    """Log which corrections a row has made void, and return how many (I9)."""
    void = read.voided(row)
    for change in void:
        logger.warning("a correction is void", customer=row.subject.id, hour=str(row.hour), metric=change.metric)
    return len(void)


def _ever_concerned(holdings: Mapping[str, Holding]) -> set[Subject]:
    """Return whose rows may hold a key's usage: its own, and those of all who ever held it.

    A run that died may have left a row by a holder that has since been replaced.
    """
    holders = {customer(one.customer) for holding in holdings.values() for one in holding.holders if one.customer}
    return holders | {subject_of_source(source) for source in holdings}
