"""Recount: what the raw archive says was used, beside what was counted and what the ledger holds of it.

An hour's difference is what is left once everything that is known has explained itself::

    difference = recounted - counted - corrected - waiting

``corrected`` are adjustments that recounts made and that are still valid; ``waiting`` is what stands in lines that were
set aside, as far as it is missing. Other adjustments and carries are an operator's or an invoice's business: they are
in the ledger's quantity, and no difference. So a recount that is repeated mends nothing twice.

Its readers know nothing of the way that counts. Whose usage a key's is, it asks of the same attribution as closing.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from infra.operate.adjusting import adjust
from infra.operate.deployment import Deployment, OperatorError
from infra.operate.recount.raw_lines import UnreadableError, read_access_line
from infra.operate.recount.raw_log import Archive, HourTally, RawLog, usage_record_id
from metering.model.batches import Source
from metering.model.metrics import Max, Unique, meters_of, reads_usage_lines
from metering.model.periods import Hour, due_before, hours
from metering.model.subjects import Kind, Subject, customer
from metering.model.usage_row import Change, UsageRow
from metering.stores.attribution import owner_of
from metering.stores.marks import new_mark
from metering.stores.set_aside import SetAsideBatch, SetAsideLine

ACCESS_AHEAD: Final = 2
"""Hours after its own in which a request's line is looked for. API Gateway writes it at the request's end, and Firehose
names an object by the arrival of its first line: a line that comes later than that is met by a longer look."""

USAGE_AHEAD: Final = 24
"""Hours after its own in which a usage line is looked for: your own code says when it writes."""

NO_CUSTOMER: Final = "the key belongs to no customer: give it one, then recount"

_Where = tuple[Subject, str]
"""Whom usage belongs to, and the meter or metric."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One line of the report; ``period`` is an hour, or a month for distinct values.

    ``subject`` is a customer, or a key that has none. ``ledger`` is what is billed, None where there is no row.
    ``stale`` are the hours that the ledger holds with another count than the counters have now. A correction is to be
    entered in the hour ``at``, of which ``against`` was counted. ``fixed`` says that what was to be mended is; ``note``
    why not, or what else is to be known.
    """

    period: str
    subject: Subject
    metric: str
    recounted: int
    counted: int
    ledger: int | None
    corrected: int
    waiting: int
    at: Hour
    against: int
    stale: Sequence[Hour] = ()
    fixed: bool = False
    note: str = ""

    @property
    def difference(self) -> int:
        """What nothing explains: more than nothing was not counted, less than nothing was counted too often."""
        return self.recounted - self.counted - self.corrected - self.waiting

    @property
    def stays(self) -> bool:
        """Whether the ledger will not end at what was recounted unless something is done."""
        return (bool(self.difference) or bool(self.stale)) and not self.fixed


@dataclass(slots=True)
class _Month:
    """What the hours of a month have brought so far: values by whom they belong to, and how many were counted when."""

    ready: dict[_Where, set[str]] = field(default_factory=dict)
    waiting: dict[_Where, set[str]] = field(default_factory=dict)
    counted: dict[_Where, dict[Hour, int]] = field(default_factory=dict)


class Recount:
    """Recounts one customer (``only``), or everyone. Lines are looked for ``ahead`` hours after their own, if given.

    Distinct values are compared by month, since the hour in which a value counts is the one in which it *arrived*
    first: in those months of which every hour that is over is recounted. The month's values are in memory.
    """

    def __init__(self, deployment: Deployment, only: str | None, now: datetime, ahead: int | None = None) -> None:
        self._deployment = deployment
        self._only = only
        self._now = now
        self._metrics = deployment.declared_metrics
        self._nonces = deployment.outputs.nonces.split()
        self._peaks = {metric.name for metric in self._metrics if isinstance(metric, Max)}
        self._uniques = {metric.name for metric in self._metrics if isinstance(metric, Unique)}
        self._meters = [name for metric in self._metrics for name in meters_of(metric).values()]
        self._sources = deployment.ledger.holders.sources_of(only) if only else None
        self._raw = RawLog(
            self._archive(),
            self._metrics,
            self._nonces,
            ACCESS_AHEAD if ahead is None else ahead,
            USAGE_AHEAD if ahead is None else ahead,
            self._set_aside(),
            self._sources,
        )

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

        Raises OperatorError for hours whose counters may have expired, or whose lines may still be on their way.
        """
        if first.is_past_change(self._now):
            raise OperatorError(f"the counters of {first} may have expired: only the last 61 days can be recounted")
        over = due_before(self._now)
        if end > over:
            raise OperatorError(f"lines of {Hour(end.number - 1)} may still be on their way: recount up to {over}")
        month = _Month()
        written = set(self._deployment.ledger.progress.periods(hours(first, end)))
        for hour, tally in self._raw.tallies(first, end, self._now):
            lines = list(self._compare_hour(hour, tally, month, is_written=hour in written))
            if hour.next() == min(hour.month_end, over) and first <= hour.month_begin:
                lines += self._compare_month(hour, month, written)
            if hour.next() == hour.month_end:
                month = _Month()
            yield lines

    def months_left_out(self, first: Hour, end: Hour) -> list[str]:
        """Return the months of which there are distinct values to compare, and not every hour is recounted."""
        left_out = []
        begin = first.month_begin
        while self._uniques and begin < end:
            if first > begin or end < min(begin.month_end, due_before(self._now)):
                left_out.append(begin.month)
            begin = begin.month_end
        return left_out

    def fix(self, line: Compared, who: str) -> Compared:
        """Mend what a line says, and return it with a note that this is done, or why not.

        The correction is bound to the count that it was made against: it is void once another is counted.
        """
        if line.difference:
            if line.subject.kind is Kind.KEY:
                return replace(line, note=NO_CUSTOMER)
            try:
                adjust(
                    self._deployment,
                    line.subject.id,
                    line.metric,
                    line.at,
                    by=line.difference,
                    reason=f"recount of {line.period}: the archive holds {line.recounted}, counted were {line.counted}",
                    who=who,
                    if_counted=line.against,
                    now=self._now,
                )
            except OperatorError as error:
                return replace(line, note=str(error))
        for hour in line.stale:
            self._deployment.counters.marks.mark_late(hour, line.subject, new_mark())
        return replace(line, fixed=line.stays)

    # --- an hour ----------------------------------------------------------------------------------------------------

    def _compare_hour(self, hour: Hour, tally: HourTally, month: _Month, *, is_written: bool) -> Iterator[Compared]:
        deployment = self._deployment
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
        ready, waiting, before = (self._by_owner(numbers, owners) for numbers in (*archived[:2], counted))
        for subject in sorted(subjects):
            for meter in self._meters:
                where = (subject, meter)
                if meter in self._uniques:
                    if before.get(where, 0):
                        month.counted.setdefault(where, {})[hour] = before[where]
                    continue
                numbers = (ready.get(where, 0), waiting.get(where, 0), before.get(where, 0))
                total = rows[subject].totals.get(meter)
                if any(numbers) or total is not None:
                    yield self._compare_meter(hour, where, numbers, rows[subject], is_written=is_written)
        for into, values in ((month.ready, archived[2]), (month.waiting, archived[3])):
            for (source, metric), distinct in values.items():
                if owners[source] in subjects:
                    into.setdefault((owners[source], metric), set()).update(distinct)

    def _compare_meter(
        self, hour: Hour, where: _Where, numbers: tuple[int, int, int], row: UsageRow, *, is_written: bool
    ) -> Compared:
        (subject, meter), (ready, waiting, counted) = where, numbers
        total = row.totals.get(meter)
        recounted = max(ready, waiting) if meter in self._peaks else ready + waiting
        # A query for each customer and hour would cost more than all the rest.
        concerned = subject.kind is Kind.CUSTOMER and (recounted != counted or (total is not None and total.adjusted))
        changes = self._deployment.changes.between(subject.id, hour, hour.next()) if concerned else ()
        corrected, note = _corrections(changes, meter, {hour: counted})
        return Compared(
            str(hour),
            subject,
            meter,
            recounted,
            counted,
            None if total is None else total.quantity,
            corrected,
            _explained(recounted - counted - corrected, recounted - ready),
            at=hour,
            against=counted,
            stale=_stale([row], meter, {hour: counted}) if is_written else [],
            note=note,
        )

    def _by_owner(self, numbers: Mapping[tuple[str, str], int], owners: Mapping[str, Subject]) -> dict[_Where, int]:
        """Add up what sources used by whom it belongs to; of peaks the highest."""
        added: dict[_Where, int] = {}
        for (source, meter), number in numbers.items():
            where = (owners[source], meter)
            before = added.get(where, 0)
            added[where] = max(before, number) if meter in self._peaks else before + number
        return added

    # --- a month's distinct values ----------------------------------------------------------------------------------

    def _compare_month(self, last: Hour, month: _Month, written: Collection[Hour]) -> Iterator[Compared]:
        """Yield what the month of its ``last`` hour that is over holds of distinct values."""
        for where in sorted({*month.counted, *month.ready, *month.waiting}):
            subject, metric = where
            ready, waiting = month.ready.get(where, set()), month.waiting.get(where, set())
            recounted = len(ready | waiting)
            counted = self._counted_in_month(subject, metric, last, month.counted.get(where, {}))
            rows = list(self._deployment.ledger.rows.of(subject, last.month_begin, last.next()))
            is_customer = subject.kind is Kind.CUSTOMER
            changes = self._deployment.changes.between(subject.id, last.month_begin, last.next()) if is_customer else ()
            corrected, note = _corrections(changes, metric, counted)
            # Where the most were counted, too many can be taken back.
            at = max(counted, key=lambda hour: (counted[hour], hour.number), default=last)
            total = sum(counted.values())
            yield Compared(
                last.month,
                subject,
                metric,
                recounted,
                total,
                sum(row.totals[metric].quantity for row in rows if metric in row.totals),
                corrected,
                _explained(recounted - total - corrected, recounted - len(ready)),
                at=at,
                against=counted.get(at, 0),
                stale=[hour for hour in _stale(rows, metric, counted) if hour in written],
                note=note,
            )

    def _counted_in_month(
        self, subject: Subject, metric: str, last: Hour, own: Mapping[Hour, int]
    ) -> Mapping[Hour, int]:
        """Return how many values count in each hour: as the key's counters say, or the claims of several keys."""
        if subject.kind is Kind.CUSTOMER:
            by_hour = self._deployment.uniques.by_hour(subject.id, metric, last)
            if by_hour is not None:
                return {hour: number for hour, number in by_hour.items() if hour <= last}
        return own

    # --- what is read -----------------------------------------------------------------------------------------------

    def _archive(self) -> Archive:
        client, outputs = self._deployment.client, self._deployment.outputs
        usage_logs = self._usage_log_groups() if reads_usage_lines(self._metrics) else []
        return Archive(client("s3"), client("logs"), outputs.bucket, outputs.access_log_group, usage_logs)

    def _usage_log_groups(self) -> list[str]:
        """Return the log groups that may invoke ``record_usage``, but for the access log: those of usage lines."""
        function = self._deployment.outputs.record_usage_function
        policy = json.loads(self._deployment.client("lambda").get_policy(FunctionName=function)["Policy"])
        arns = [
            str(of_arn)
            for statement in policy["Statement"]
            for condition in statement.get("Condition", {}).values()
            for name, of_arn in condition.items()
            if name.lower() == "aws:sourcearn"
        ]
        groups = {arn.split(":log-group:")[1].removesuffix(":*") for arn in arns if ":log-group:" in arn}
        return sorted(groups - {self._deployment.outputs.access_log_group})

    def _set_aside(self) -> dict[str, Collection[str]]:
        """Return the metrics, by the ids of records, for which these were set aside, surely not counted, and not since.

        What was dismissed is among them: it explains itself, and nobody is billed for it.
        """
        set_aside: dict[str, Collection[str]] = {}
        for name in self._deployment.set_aside.batches():
            kept = self._deployment.set_aside.of(name)
            left = {waiting.line.name: waiting.metrics for waiting in kept.waiting if not waiting.doubtful}
            for line in kept.certain.lines if kept.certain else ():
                if line.name in left or line.name in kept.dismissed:
                    record = self._record_of(kept.certain, line)
                    if record:
                        set_aside[record] = left.get(line.name, line.metrics)
        return set_aside

    def _record_of(self, kept: SetAsideBatch | None, line: SetAsideLine) -> str:
        """Return the id of the record that a line holds, or nothing if it cannot be read in the archive, either."""
        if kept and kept.source is Source.USAGE_LINES:
            return usage_record_id(kept.origin.split(" ")[0], line.id)
        with suppress(UnreadableError):
            record = read_access_line(line.message, self._metrics, self._nonces)
            return record.id if record else ""
        return ""


def _corrections(changes: Iterable[tuple[Hour, Change]], metric: str, counted: Mapping[Hour, int]) -> tuple[int, str]:
    """Return the sum of what recounts have corrected, as far as it is valid, and a note on what is void."""
    made = [
        (change, change.is_void(counted.get(hour, 0)))
        for hour, change in changes
        if change.metric == metric and change.if_counted is not None and not change.carry
    ]
    void = [change for change, is_void in made if is_void]
    note = "; ".join(f"void: the correction of {it.amount:+} made against a count of {it.if_counted}" for it in void)
    return sum(change.amount for change, is_void in made if not is_void), note


def _stale(rows: Iterable[UsageRow], metric: str, counted: Mapping[Hour, int]) -> list[Hour]:
    """Return the hours of which the ledger holds another count."""
    closed = {row.hour: row.totals[metric].counted for row in rows if metric in row.totals}
    return [hour for hour in sorted({*closed, *counted}) if closed.get(hour, 0) != counted.get(hour, 0)]


def _explained(missing: int, waiting: int) -> int:
    """Return how much of what is missing waits among what was set aside."""
    return min(max(0, missing), waiting)
