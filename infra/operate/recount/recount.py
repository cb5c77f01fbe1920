"""Recount: what the raw archive says was used, beside what was counted and what the ledger holds of it.

An hour's difference is what is left once everything that is known has explained itself::

    difference = recounted - counted - corrected - waiting

``corrected`` are adjustments that recounts made and that are still valid; ``waiting`` is what stands in lines that were
set aside, as far as it is missing. Other adjustments and carries are an operator's or an invoice's business: they are
in the ledger's quantity, and no difference. So a recount that is repeated mends nothing twice.

Its readers know nothing of the way that counts. Whose usage a key's is, it asks of the same attribution as closing.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from infra.operate.deployment import Deployment, OperatorError
from infra.operate.recount import whole
from infra.operate.recount.compared import Compared, ReadHour, corrections, explained, is_of_usage_lines, stale
from infra.operate.recount.in_force import Declared, InForce
from infra.operate.recount.log_groups import archive_of
from infra.operate.recount.mending import mend
from infra.operate.recount.raw_log import HourTally, RawLog
from infra.operate.recount.waiting import waiting_records
from infra.operate.recount.whole import Kept, Places
from metering.model.metrics import Unique, meters_of, reads_usage_lines
from metering.model.periods import Hour, due_before, hours
from metering.model.subjects import Kind, Subject, customer
from metering.model.usage_row import UsageRow
from metering.stores.attribution import owner_of
from metering.stores.aws import in_pieces
from metering.stores.declarations import Declarations

ACCESS_AHEAD: Final = 2
"""Hours after its own in which a request's line is looked for. API Gateway writes it at the request's end, and Firehose
names an object by the arrival of its first line: a line that comes later than that is met by a longer look."""

USAGE_AHEAD: Final = 24
"""Hours after its own in which a usage line is looked for: your own code says when it writes."""

AGAIN_AT_ONCE: Final = 4
"""How many hours are looked at again together, up to now: their records are in memory."""

NO_CUSTOMER: Final = "the key belongs to no customer: give it one, then recount"
UNKNOWN: Final = "nothing says that it was declared then, and nobody was counted for it in this hour"
NEVER_LOWERED: Final = "what was declared changed in this hour, or is not known: it is never lowered"
LATE_VALUES: Final = "values may have come later: to lower it, look up to now (--ahead {})"

_Where = tuple[Subject, str]
"""Whom usage belongs to, and the meter or metric."""


@dataclass(slots=True)
class _Month:
    """What the hours of a month have brought so far: values by whom they belong to, and how many were counted when."""

    ready: dict[_Where, set[str]] = field(default_factory=dict)
    waiting: dict[_Where, set[str]] = field(default_factory=dict)
    counted: dict[_Where, dict[Hour, int]] = field(default_factory=dict)


class Recount:
    """Recounts one customer (``only``), or everyone. Lines are looked for ``ahead`` hours after their own, if given.

    Each hour is recounted by the metrics that were in force in it. Distinct values are compared by month, since the
    hour in which a value counts is the one in which it *arrived* first: in those months of which every hour that is
    over is recounted. The month's values are in memory.
    """

    def __init__(self, deployment: Deployment, only: str | None, now: datetime, ahead: int | None = None) -> None:
        self._deployment = deployment
        self._only = only
        self._now = now
        self._access_ahead = ACCESS_AHEAD if ahead is None else ahead
        self._usage_ahead = USAGE_AHEAD if ahead is None else ahead
        self._metrics = deployment.declared_metrics
        self._notes = Declarations(deployment.client("dynamodb"), deployment.outputs.ledger_table).all()
        self._in_force = InForce(self._notes, self._metrics)
        self._nonces = deployment.outputs.nonces.split()
        self._sources = deployment.ledger.holders.sources_of(only) if only else None
        self._reads_usage_lines = reads_usage_lines(self._in_force.ever)
        self._connections = deployment.connections.ever()
        self._archive = archive_of(deployment, self._connections, reads_usage_lines=self._reads_usage_lines)
        self._places = Places(self._archive, deployment.client("firehose"), deployment.outputs.delivery_stream, now)
        self._waiting = waiting_records(deployment, self._connections, self._in_force.ever)
        self._raw = self._make_raw()

    @property
    def unreadable(self) -> int:
        """How many of the lines that were read cannot be counted as they stand; they lie among what was set aside."""
        return self._raw.unreadable

    @property
    def broken(self) -> Sequence[str]:
        """The keys of objects that are not gzip to their end: what follows their last whole chunk counts nowhere."""
        return self._raw.broken

    def compare(self, first: Hour, end: Hour) -> Iterator[list[Compared]]:
        """Yield each hour's lines from ``first`` up to ``end``, exclusive; a month's with those of its last hour.

        An hour of which less was logged than counted is looked at again up to now, and comes last: a line that arrived
        late is no difference. Raises OperatorError for hours whose counters may have expired, of which the log is no
        longer whole, or whose lines may still be on their way.
        """
        self._check(first, end)
        month, again = _Month(), []
        written = set(self._deployment.ledger.progress.periods(hours(first, end)))
        for hour, tally in self._raw.tallies(first, end, self._now):
            lines = list(self._compare_hour(hour, tally, month, is_written=hour in written))
            if any(line.difference < 0 for line in lines) and not self._looked_up_to_now(hour):
                again.append(hour)
                lines = []
            if hour.next() == min(hour.month_end, due_before(self._now)) and first <= hour.month_begin:
                lines += self._compare_month(hour, month, written)
            if hour.next() == hour.month_end:
                month = _Month()
            yield lines
        for some in in_pieces(again, AGAIN_AT_ONCE):
            for hour, tally in self._make_raw().tallies_up_to_now(some, self._now):
                yield list(self._compare_hour(hour, tally, _Month(), is_written=hour in written))

    def _check(self, first: Hour, end: Hour) -> None:
        """Raise OperatorError if the hours cannot be recounted."""
        if first.is_past_change(self._now):
            raise OperatorError(f"the counters of {first} may have expired: only the last 61 days can be recounted")
        over = due_before(self._now)
        if end > over:
            raise OperatorError(f"lines of {Hour(end.number - 1)} may still be on their way: recount up to {over}")
        last = whole.last(self._places.of_access_log(first, end))
        if last is not None and first < last.first:
            raise OperatorError(f"{first} is no longer wholly in the log: {last.said}")

    def _looked_up_to_now(self, hour: Hour) -> bool:
        needed = Hour.containing(self._now).number - hour.number
        return needed <= self._access_ahead and (not self._reads_usage_lines or needed <= self._usage_ahead)

    def months_left_out(self, first: Hour, end: Hour) -> list[str]:
        """Return the months of which there are distinct values to compare, and not every hour is recounted."""
        left_out = []
        begin = first.month_begin
        has_uniques = any(isinstance(metric, Unique) for metric in self._in_force.ever)
        while has_uniques and begin < end:
            if first > begin or end < min(begin.month_end, due_before(self._now)):
                left_out.append(begin.month)
            begin = begin.month_end
        return left_out

    def usage_lines_left_out(self, first: Hour, end: Hour) -> str:
        """Say from which hour on usage lines are compared, if they are not from the first one on."""
        last = whole.last(self._places.of_usage_lines(first, end))
        if last is None or last.first <= first:
            return ""
        return f"what usage lines report is left out before {last.first}: {last.said}"

    def fix(self, line: Compared, who: str, *, lower: bool = False) -> Compared:
        """Mend what a line says, and return it with a note that this is done, or why not; see :mod:`mending`.

        A bill is made less only if it may be: ``lower``.
        """
        return mend(self._deployment, line, who, self._now, lower=lower)

    # --- an hour ----------------------------------------------------------------------------------------------------

    def _compare_hour(self, hour: Hour, tally: HourTally, month: _Month, *, is_written: bool) -> Iterator[Compared]:
        deployment, declared = self._deployment, self._in_force.at(hour)
        counted = {
            (source, metric): number
            for source, amounts in deployment.counters.read(hour, self._sources).items()
            for metric, number in amounts.quantities().items()
        }
        archived = (tally.ready.amounts, tally.waiting.amounts, tally.ready.values, tally.waiting.values)
        holdings = deployment.ledger.holders.holdings({source for names in (counted, *archived) for source, _ in names})
        owners = {source: owner_of(source, holding, hour) for source, holding in holdings.items()}
        named = [self._only] if self._only else deployment.ledger.holders.customer_ids()
        subjects = {*map(customer, named), *(() if self._only else owners.values())}
        rows = deployment.ledger.rows.at(hour, subjects)
        known = {metric for _, metric in counted} | {metric for row in rows.values() for metric in row.totals}
        read = ReadHour(hour, declared, known, owners, tally, is_written)
        ready, waiting, before = (self._by_owner(numbers, owners, declared) for numbers in (*archived[:2], counted))
        meters = self._meters(read)
        for subject in sorted(subjects):
            for meter in meters:
                where = (subject, meter)
                if meter in declared.uniques:
                    if before.get(where, 0):
                        month.counted.setdefault(where, {})[hour] = before[where]
                    continue
                numbers = (ready.get(where, 0), waiting.get(where, 0), before.get(where, 0))
                total = rows[subject].totals.get(meter)
                if any(numbers) or total is not None:
                    yield self._compare_meter(read, where, numbers, rows[subject])
        for into, values in ((month.ready, archived[2]), (month.waiting, archived[3])):
            for (source, metric), distinct in values.items():
                if owners[source] in subjects:
                    into.setdefault((owners[source], metric), set()).update(distinct)

    def _meters(self, read: ReadHour) -> list[str]:
        """Return the meters that can be compared: none of usage lines that are no longer kept."""
        last = whole.last(self._places.of_usage_lines(read.hour, read.hour.next()))
        gone = last is not None and read.hour < last.first
        return [
            meter
            for metric in read.declared.metrics
            if not (gone and is_of_usage_lines(metric))
            for meter in meters_of(metric).values()
        ]

    def _compare_meter(self, read: ReadHour, where: _Where, numbers: tuple[int, int, int], row: UsageRow) -> Compared:
        (subject, meter), (ready, waiting, counted) = where, numbers
        hour, declared, total = read.hour, read.declared, row.totals.get(meter)
        recounted = max(ready, waiting) if meter in declared.peaks else ready + waiting
        # A query for each customer and hour would cost more than all the rest.
        differs = recounted != counted or (total is not None and total.adjusted)
        concerned = subject.kind is Kind.CUSTOMER and (differs or self._only)
        changes = list(self._deployment.changes.between(subject.id, hour, hour.next())) if concerned else []
        corrected, note = corrections(changes, meter, {hour: counted})
        compared = Compared(
            str(hour),
            subject,
            meter,
            recounted,
            counted,
            None if total is None else total.quantity,
            corrected,
            explained(recounted - counted - corrected, recounted - ready),
            at=hour,
            against=counted,
            stale=stale([row], meter, {hour: counted}) if read.is_written else [],
            note=note,
            void=bool(note),
            changes=[change for _, change in changes if change.metric == meter],
            metrics=declared.metrics,
            seen=read.tally.seen,
            sources=read.sources_of(subject) if concerned else (),
        )
        return self._judged(compared, [hour], is_known=declared.is_known or meter in read.known)

    def _judged(self, line: Compared, concerned: Sequence[Hour], *, is_known: bool) -> Compared:
        """Say why a recount may not mend a line, if so: what it does not know must change no bill."""
        why = ""
        if line.difference and line.subject.kind is Kind.KEY:
            why = NO_CUSTOMER
        elif line.difference > 0 and not is_known:
            why = UNKNOWN
        elif line.difference < 0:
            if not all(self._in_force.at(hour).is_certain for hour in concerned):
                why = NEVER_LOWERED
            elif younger := self._younger_than(line, concerned[0]):
                why = f"{younger.place} was made later than this hour began: it is never lowered"
        return line.refusing(why) if why else line

    def _younger_than(self, line: Compared, hour: Hour) -> Kept | None:
        """Return a place, made since, in which the hour's lines would be if it had been there."""
        of_usage = any(is_of_usage_lines(one) for one in line.metrics if line.metric in meters_of(one).values())
        places = (self._places.of_usage_lines if of_usage else self._places.of_access_log)(hour, hour.next())
        return next((one for one in places if one.made and one.made > hour.start), None)

    def _by_owner(
        self, numbers: Mapping[tuple[str, str], int], owners: Mapping[str, Subject], declared: Declared
    ) -> dict[_Where, int]:
        """Add up what sources used by whom it belongs to; of peaks the highest."""
        added: dict[_Where, int] = {}
        for (source, meter), number in numbers.items():
            where = (owners[source], meter)
            before = added.get(where, 0)
            added[where] = max(before, number) if meter in declared.peaks else before + number
        return added

    # --- a month's distinct values ----------------------------------------------------------------------------------

    def _compare_month(self, last: Hour, month: _Month, written: Collection[Hour]) -> Iterator[Compared]:
        """Yield what the month of its ``last`` hour that is over holds of distinct values."""
        whole_month = [Hour(number) for number in range(last.month_begin.number, last.number + 1)]
        declared = [self._in_force.at(hour) for hour in whole_month]
        unchanged = [one for one in declared[0].metrics if all(one in other.metrics for other in declared)]
        uniques = {one.name for one in unchanged} & declared[0].uniques
        for where in sorted({*month.counted, *month.ready, *month.waiting}):
            subject, metric = where
            if metric not in uniques:
                continue
            ready, waiting = month.ready.get(where, set()), month.waiting.get(where, set())
            recounted = len(ready | waiting)
            counted = self._counted_in_month(subject, metric, last, month.counted.get(where, {}))
            rows = list(self._deployment.ledger.rows.of(subject, last.month_begin, last.next()))
            is_customer = subject.kind is Kind.CUSTOMER
            between = self._deployment.changes.between
            changes = list(between(subject.id, last.month_begin, last.next())) if is_customer else []
            corrected, note = corrections(changes, metric, counted)
            # Where the most were counted, too many can be taken back.
            at = max(counted, key=lambda hour: (counted[hour], hour.number), default=last)
            total = sum(counted.values())
            compared = Compared(
                last.month,
                subject,
                metric,
                recounted,
                total,
                sum(row.totals[metric].quantity for row in rows if metric in row.totals),
                corrected,
                explained(recounted - total - corrected, recounted - len(ready)),
                at=at,
                against=counted.get(at, 0),
                stale=[hour for hour in stale(rows, metric, counted) if hour in written],
                note=note,
                void=bool(note),
                changes=[change for hour, change in changes if change.metric == metric and hour == at],
                metrics=unchanged,
            )
            known = all(one.is_known for one in declared) or total > 0
            compared = self._judged(compared, whole_month, is_known=known)
            if compared.difference < 0 and not compared.refused and not self._looked_up_to_now(whole_month[0]):
                needed = Hour.containing(self._now).number - whole_month[0].number
                compared = compared.refusing(LATE_VALUES.format(needed))
            yield compared

    def _counted_in_month(
        self, subject: Subject, metric: str, last: Hour, own: Mapping[Hour, int]
    ) -> Mapping[Hour, int]:
        """Return how many values count in each hour: as the key's counters say, or the claims of several keys."""
        if subject.kind is Kind.CUSTOMER:
            by_hour = self._deployment.uniques.by_hour(subject.id, metric, last)
            if by_hour is not None:
                return {hour: number for hour, number in by_hour.items() if hour <= last}
        return own

    def _make_raw(self) -> RawLog:
        return RawLog(
            self._archive,
            self._metrics,
            self._nonces,
            self._access_ahead,
            self._usage_ahead,
            self._waiting,
            self._sources,
            self._notes,
        )
