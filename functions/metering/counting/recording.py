"""Recording: a batch of lines → counters, each once.

The order of writes is what makes it safe to stop anywhere and to be delivered again: first what is set aside, then
the claims, then the counters, then the late marks.

```
delivery   set aside ── claims ── counter ── counter ── … ── late mark
crash            ↑ or ↑ or ↑ or ↑ anywhere: the whole batch comes again
redelivery   its object stands, its claims are its own, each counter refuses what it has, each late mark is put again
```
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol, Self, TypeVar, assert_never

from metering.model.access_log import Partly, Reader, Rejected
from metering.model.batches import Batch, Piece, Source, batch_of, token_of
from metering.model.log_format import AccessRecord
from metering.model.measuring import NOT_BILLED, Tally, Usage, measure
from metering.model.metrics import Metric, declared
from metering.model.periods import CLOCK_SKEW, GRACE, Hour
from metering.model.subjects import subject_of_source
from metering.model.usage_lines import Report, UsageLineReader, measure_reports
from metering.stores import claims
from metering.stores.attribution import tenure
from metering.stores.aws import each_side_by_side, side_by_side
from metering.stores.claims import Claim, Claims, Key
from metering.stores.counters import Counters
from metering.stores.holders import Holders
from metering.stores.marks import new_mark
from metering.stores.set_aside import SetAside, SetAsideBatch, SetAsideLine, Waiting

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _LineReader(Protocol[T_co]):
    """What reads lines of one kind, for the metrics of these names."""

    @property
    def measured(self) -> Sequence[str]: ...

    def read(self, line: str, /) -> T_co | Partly[T_co] | Rejected | None:
        """Return what a line holds, why it must be set aside, both, or None if it is none of our business."""


@dataclass(slots=True)
class Recorded:
    """What became of lines: read = billed + unbilled + set aside - partly, which are among both."""

    read: int = 0
    billed: int = 0
    unbilled: Counter[str] = field(default_factory=Counter)
    set_aside: int = 0
    partly: int = 0
    """Of those set aside: lines that are so for some metrics alone, and count for the others."""

    refused: int = 0
    """Batches of which every counter said that it had counted them before."""

    oldest: datetime | None = None
    """The time of the oldest good record."""

    def include(self, other: Self) -> None:
        """Add what became of another batch."""
        self.read += other.read
        self.billed += other.billed
        self.unbilled += other.unbilled
        self.set_aside += other.set_aside
        self.partly += other.partly
        self.refused += other.refused
        moments = [moment for moment in (self.oldest, other.oldest) if moment is not None]
        self.oldest = min(moments) if moments else None


@dataclass(frozen=True, slots=True)
class Hashing:
    """What telling values and ids apart needs: the secret of their hashes, and who holds which key since when."""

    secret: bytes
    holders: Holders


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of a line that was redriven: whether it counts, for which metrics it still waits, and why."""

    counted: bool = False
    left: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Read:
    """The lines of a batch that are our business: how many count, what they add up to, and what does not, by id."""

    good: int
    partly: int
    """Of the good ones: those that are set aside for some metrics, now or before."""

    usage: Usage
    rejected: dict[str, Rejected]
    oldest: int | None
    """The time of the oldest good one, in milliseconds since 1970."""

    metrics: tuple[str, ...]
    """The metrics that were asked, or that the lines name."""


@dataclass(frozen=True, slots=True)
class Recorder:
    """Records batches by these metrics into this table and bucket; ``clock`` gives the present moment.

    ``nonces`` are those that the access log's lines begin and end with. ``hashing`` may be None if no metric counts
    distinct values or deduplicates.
    """

    metrics: Sequence[Metric]
    nonces: tuple[str, ...]
    counters: Counters
    claims: Claims
    set_aside: SetAside
    clock: Callable[[], datetime]
    hashing: Hashing | None = None

    def record(self, batch: Batch) -> Recorded:
        """Count a batch, each record in its own hour (I3).

        What a failing table or bucket raises is raised, so that Lambda delivers the batch again.
        """
        kept = self.set_aside.of(batch.token.hex())
        left_out = kept.left_out
        read = self._read(batch, left_out)
        usage = read.usage
        if read.rejected:
            lines = [SetAsideLine(name, bad.line, bad.reason, bad.metrics) for name, bad in read.rejected.items()]
            doubtful = kept.certain is not None or self._was_counted(usage.touched, batch.token)
            counters = tuple(sorted(f"{hour} {key}" for hour, key in usage.touched))
            bad = SetAsideBatch(batch.token.hex(), batch.source, batch.origin, tuple(lines), counters)
            if doubtful:
                self.set_aside.keep_doubtful(bad, kept)
            else:
                self.set_aside.keep(bad)
        counted = self._count(usage, batch.token)
        apart = {name: bad.metrics for name, bad in read.rejected.items()} | left_out
        return Recorded(
            read=read.good + len(apart) - read.partly,
            billed=usage.billed,
            unbilled=usage.unbilled,
            set_aside=len(apart),
            partly=read.partly,
            refused=int(bool(counted) and not any(counted)),
            oldest=None if read.oldest is None else datetime.fromtimestamp(read.oldest / 1000, UTC),
        )

    def redrive(self, waiting: Waiting, *, believed: bool) -> Redriven:
        """Count a line that was set aside, for the metrics that it waits for, as far as they can read it now.

        Each metric counts by itself, under a token that is derived from the batch, the line's id and its name: so it
        counts once however often it is redriven, and whatever else is redriven with it, and by which code (I2).
        """
        kept, line, names = waiting.batch, waiting.line, waiting.metrics
        batch = batch_of([line.id], [line.message], kept.source, kept.origin)
        if not names:
            whole = self._read(batch, {})
            bad = whole.rejected.get(line.id)
            if bad and not bad.metrics:
                return Redriven(reason=bad.reason)
            names = tuple(dict.fromkeys((*whole.metrics, *(bad.metrics if bad else ()))))
        reasons = {name: self._redrive_for(name, waiting, batch, believed=believed) for name in names}
        left = tuple(name for name, reason in reasons.items() if reason)
        reason = "; ".join(dict.fromkeys(filter(None, reasons.values())))
        counted = len(left) < len(names) or not names
        return Redriven(counted=counted, left=left if counted else waiting.metrics, reason=reason)

    def _redrive_for(self, name: str, waiting: Waiting, batch: Batch, *, believed: bool) -> str:
        """Count a line for one metric, and return why not, or an empty string.

        It is not counted by a counter that has the batch, if an earlier delivery may have counted it there: if it is
        doubtful and not ``believed``, or the delivery that set it aside did not itself count into that counter.
        """
        kept, line = waiting.batch, waiting.line
        read = self._read(batch, {}, (name,))
        if line.id in read.rejected:
            return read.rejected[line.id].reason
        if waiting.metrics and read.usage.unbilled[NOT_BILLED]:
            return f"{name} does not bill it as the metrics are declared now"
        in_doubt = waiting.doubtful and not believed
        asked = [where for where in read.usage.touched if in_doubt or f"{where[0]} {where[1]}" not in kept.counters]
        of_batch = bytes.fromhex(kept.batch)
        if self._was_counted(asked, of_batch):
            return "doubtful: its counter has the batch, so an earlier delivery may have counted it"
        self._count(read.usage, token_of(f"{kept.batch}\0{line.id}\0{name}".encode()), instead_of=of_batch)
        return ""

    def _read(self, batch: Batch, left_out: Mapping[str, tuple[str, ...]], only: tuple[str, ...] = ()) -> _Read:
        """Read a batch's lines, but for what was set aside of them before, and add them up; for ``only`` these metrics.

        ``left_out`` are metrics by the ids of lines; a line without any is left out whole.
        """
        match batch.source:
            case Source.ACCESS_LOG:
                return self._read_access_log(batch, left_out, only)
            case Source.USAGE_LINES:
                return self._read_usage_lines(batch, left_out, only)
            case _:
                assert_never(batch.source)

    def _read_access_log(self, batch: Batch, left_out: Mapping[str, tuple[str, ...]], only: tuple[str, ...]) -> _Read:
        metrics = [metric for metric in self.metrics if metric.name in only or not only]
        reader, tally = Reader(self.clock(), metrics, self.nonces), Tally(metrics, declared(metrics))
        apart: dict[tuple[str, ...], list[AccessRecord]] = {}
        good = partly = 0
        rejected: dict[str, Rejected] = {}
        for piece in batch.pieces():
            records = None if left_out else reader.read_at_once(piece.text)
            if records is None:
                records = []
                for name, record, before in _one_by_one(piece, reader, left_out, rejected):
                    partly += bool(before) or name in rejected
                    (apart.setdefault(before, []) if before else records).append(record)
            tally.add(records)
            good += len(records)
        usage = tally.usage()
        for before, records in apart.items():
            others = [metric for metric in metrics if metric.name not in before]
            usage.include(measure(records, others, declared(metrics)))
            good += len(records)
        return _Read(good, partly, usage, rejected, tally.oldest, tuple(reader.measured))

    def _read_usage_lines(self, batch: Batch, left_out: Mapping[str, tuple[str, ...]], only: tuple[str, ...]) -> _Read:
        reader = UsageLineReader(self.clock(), self.metrics, only)
        reports: list[Report] = []
        partly = 0
        rejected: dict[str, Rejected] = {}
        for piece in batch.pieces():
            for name, report, before in _one_by_one(piece, reader, left_out, rejected):
                partly += bool(before) or name in rejected
                amounts = {metric: amount for metric, amount in report.amounts.items() if metric not in before}
                reports.append(replace(report, amounts=amounts))
        oldest = min((report.time for report in reports), default=None)
        names = tuple(dict.fromkeys(name for report in reports for name in report.amounts))
        return _Read(len(reports), partly, measure_reports(reports, self.metrics), rejected, oldest, names)

    def _was_counted(self, cells: Iterable[tuple[Hour, str]], token: bytes) -> bool:
        """Say whether one of these counters has a batch; asked only if a line is rejected."""
        return any(side_by_side(lambda cell: self.counters.has_counted(*cell, token), cells))

    def _count(self, usage: Usage, token: bytes, *, instead_of: bytes = b"") -> list[bool]:
        """Claim what is new, count each hour and key, then mark each hour that may have been closed before that.

        The clock is asked after the counters are written: whoever closes an hour later than this reads them, whoever
        has read them earlier finds the mark. A duplicate is marked too: the first delivery may have died in between.
        A cell that fails keeps no other from being counted and marked (I6); then the batch fails, and comes again.
        Claims of the batch ``instead_of`` which this is counted are taken over where that has not counted them.
        """
        self._claim_values(usage, token, instead_of)
        self._claim_ids(usage, token, instead_of)
        cells = [where for where, amounts in usage.cells.items() if amounts]
        counted, failures = each_side_by_side(
            lambda where: self.counters.count(*where, usage.cells[where], token), cells
        )
        now = self.clock()
        late = [where for where in cells if where[0].is_due(now, grace=GRACE - CLOCK_SKEW)]
        marks = self.counters.marks
        _, unmarked = each_side_by_side(
            lambda where: marks.mark_late(where[0], subject_of_source(where[1]), new_mark()), late
        )
        for failure in (*failures, *unmarked):
            raise failure
        return counted

    def _claim_values(self, usage: Usage, token: bytes, instead_of: bytes) -> None:
        """Add to the usage how many of the values that it saw are this batch's to count."""
        if not usage.seen:
            return
        if self.hashing is None:
            raise ValueError("distinct values can only be counted with the secret of their hashes")
        holdings = self.hashing.holders.holdings({key for _, key in usage.seen})
        wanted: dict[Key, Hour] = {}
        whose: dict[Key, tuple[str, str]] = {}
        for (hour, key), seen in sorted(usage.seen.items(), key=lambda one: one[0]):
            since = tenure(holdings[key], hour)
            for metric, values in seen.items():
                for value in values:
                    hashed = claims.hashed(self.hashing.secret, metric, value)
                    claim = claims.of_value(metric, key, hour, hashed, since)
                    wanted.setdefault(claim, hour)  # the first of the batch's hours
                    whose[claim] = (key, metric)
        for claim, made in self.claims.claim(wanted, token, self.clock()).items():
            key, metric = whose[claim]
            if self._is_ours(claim, made, key, token, instead_of):
                uniques = usage.cell(made.hour, key).uniques
                uniques[metric] = uniques.get(metric, 0) + 1

    def _claim_ids(self, usage: Usage, token: bytes, instead_of: bytes) -> None:
        """Add to the usage what counts once per id, where the id is this batch's to count."""
        if not usage.once:
            return
        if self.hashing is None:
            raise ValueError("ids of usage lines can only be told apart with the secret of their hashes")
        secret = self.hashing.secret
        lines = {
            claims.of_line(metric, source, claims.hashed(secret, metric, name)): (metric, source, name)
            for metric, source, name in usage.once
        }
        wanted = {claim: usage.once[name][0] for claim, name in lines.items()}
        for claim, made in self.claims.claim(wanted, token, self.clock()).items():
            metric, source, _ = lines[claim]
            if self._is_ours(claim, made, source, token, instead_of):
                _, quantity = usage.once[lines[claim]]
                sums = usage.cell(made.hour, source).sums
                sums[metric] = sums.get(metric, 0) + quantity

    def _is_ours(self, key: Key, made: Claim, source: str, token: bytes, instead_of: bytes) -> bool:
        """Say whether a batch counts what a claim is for: its own, or one that it takes over.

        The claim of a delivery that died before it counted would otherwise count for nobody, once its line was set
        aside (I1). A claim is taken over once, so that two lines with one value count it once (I2).
        """
        if made.batch != instead_of or not instead_of:
            return made.batch == token
        return not self.counters.has_counted(made.hour, source, instead_of) and self.claims.take_over(key, made, token)


def _one_by_one(
    piece: Piece, reader: _LineReader[T], left_out: Mapping[str, tuple[str, ...]], rejected: dict[str, Rejected]
) -> Iterator[tuple[str, T, tuple[str, ...]]]:
    """Yield what the lines of a piece hold, behind their ids, with the metrics that it is not to be counted for.

    What cannot be counted goes to ``rejected``, by the lines' ids.
    """
    for name, line in piece.lines():
        before = left_out.get(name, ())
        if name in left_out and not before:
            continue
        found = reader.read(line)
        good, bad = (found.good, found.bad) if isinstance(found, Partly) else (found, None)
        if isinstance(good, Rejected):
            good, bad = None, good
        if bad and before:  # it was set aside for some metrics: now it is so for more
            known = frozenset(before)
            metrics = tuple(metric for metric in bad.metrics or reader.measured if metric not in known)
            bad = replace(bad, metrics=metrics) if metrics else None
        if bad:
            rejected[name] = bad
        if good is not None:
            yield name, good, before
