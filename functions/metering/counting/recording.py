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
from metering.model.measuring import Tally, Usage
from metering.model.metrics import Metric, declared
from metering.model.periods import CLOCK_SKEW, GRACE, Hour
from metering.model.subjects import subject_of_source
from metering.model.usage_lines import Report, UsageLineReader, measure_reports
from metering.stores import claims
from metering.stores.attribution import tenure
from metering.stores.aws import each_side_by_side, side_by_side
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.holders import Holders
from metering.stores.marks import new_mark
from metering.stores.set_aside import SetAside, SetAsideBatch, SetAsideLine, Waiting

T = TypeVar("T")


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
    usage: Usage
    rejected: dict[str, Rejected]
    oldest: int | None
    """The time of the oldest good one, in milliseconds since 1970."""


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
        partly = sum(1 for metrics in apart.values() if metrics)
        return Recorded(
            read=read.good + len(apart) - partly,
            billed=usage.billed,
            unbilled=usage.unbilled,
            set_aside=len(apart),
            partly=partly,
            refused=int(bool(counted) and not any(counted)),
            oldest=None if read.oldest is None else datetime.fromtimestamp(read.oldest / 1000, UTC),
        )

    def redrive(self, waiting: Waiting, *, believed: bool) -> Redriven:
        """Count a line that was set aside, for the metrics that it waits for, as far as they can read it now.

        Its token is derived from its batch, its own id and these metrics, so that it counts once however often it is
        redriven, and whatever else is redriven with it (I2). A line whose counter has the batch is not counted, if an
        earlier delivery may have counted it there: if it is doubtful and not ``believed``, or the delivery that set it
        aside did not itself count into that counter.
        """
        kept, line, metrics = waiting.batch, waiting.line, waiting.metrics
        token = token_of(" ".join((f"{kept.batch}\0{line.id}", *metrics)).encode())
        read = self._read(batch_of([line.id], [line.message], kept.source, kept.origin), {}, metrics)
        bad = read.rejected.get(line.id)
        if bad and not bad.metrics:
            return Redriven(left=metrics, reason=bad.reason)
        in_doubt = waiting.doubtful and not believed
        asked = [where for where in read.usage.cells if in_doubt or f"{where[0]} {where[1]}" not in kept.counters]
        if self._was_counted(asked, bytes.fromhex(kept.batch)):
            return Redriven(
                left=metrics, reason="doubtful: its counter has the batch, so an earlier delivery may have counted it"
            )
        self._count(read.usage, token)
        return Redriven(counted=True, left=bad.metrics if bad else (), reason=bad.reason if bad else "")

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
        good = 0
        rejected: dict[str, Rejected] = {}
        for piece in batch.pieces():
            records = None if left_out else reader.read_at_once(piece.text)
            if records is None:
                records = list(_one_by_one(piece, reader, left_out, rejected))
            tally.add(records)
            good += len(records)
        return _Read(good, tally.usage(), rejected, tally.oldest)

    def _read_usage_lines(self, batch: Batch, left_out: Mapping[str, tuple[str, ...]], only: tuple[str, ...]) -> _Read:
        reader = UsageLineReader(self.clock(), self.metrics, only)
        reports: list[Report] = []
        rejected: dict[str, Rejected] = {}
        for piece in batch.pieces():
            reports += _one_by_one(piece, reader, left_out, rejected)
        oldest = min((report.time for report in reports), default=None)
        return _Read(len(reports), measure_reports(reports, self.metrics), rejected, oldest)

    def _was_counted(self, cells: Iterable[tuple[Hour, str]], token: bytes) -> bool:
        """Say whether one of these counters has a batch; asked only if a line is rejected."""
        return any(side_by_side(lambda cell: self.counters.has_counted(*cell, token), cells))

    def _count(self, usage: Usage, token: bytes) -> list[bool]:
        """Claim what is new, count each hour and key, then mark each hour that may have been closed before that.

        The clock is asked after the counters are written: whoever closes an hour later than this reads them, whoever
        has read them earlier finds the mark. A duplicate is marked too: the first delivery may have died in between.
        A cell that fails keeps no other from being counted and marked (I6); then the batch fails, and comes again.
        """
        self._claim_values(usage, token)
        self._claim_ids(usage, token)
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

    def _claim_values(self, usage: Usage, token: bytes) -> None:
        """Add to the usage how many of the values that it saw are this batch's to count."""
        if not usage.seen:
            return
        if self.hashing is None:
            raise ValueError("distinct values can only be counted with the secret of their hashes")
        holdings = self.hashing.holders.holdings({key for _, key in usage.seen})
        wanted: dict[claims.Key, Hour] = {}
        whose: dict[claims.Key, tuple[str, str]] = {}
        for (hour, key), seen in sorted(usage.seen.items(), key=lambda one: one[0]):
            since = tenure(holdings[key], hour)
            for metric, values in seen.items():
                for value in values:
                    hashed = claims.hashed(self.hashing.secret, metric, value)
                    claim = claims.of_value(metric, key, hour, hashed, since)
                    wanted.setdefault(claim, hour)  # the first of the batch's hours
                    whose[claim] = (key, metric)
        for claim, made in self.claims.claim(wanted, token, self.clock()).items():
            if made.batch == token:
                key, metric = whose[claim]
                uniques = usage.cell(made.hour, key).uniques
                uniques[metric] = uniques.get(metric, 0) + 1

    def _claim_ids(self, usage: Usage, token: bytes) -> None:
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
            if made.batch == token:
                metric, source, _ = lines[claim]
                _, quantity = usage.once[lines[claim]]
                sums = usage.cell(made.hour, source).sums
                sums[metric] = sums.get(metric, 0) + quantity


class _LineReader(Protocol[T]):
    """What reads lines of one kind, for the metrics of these names."""

    @property
    def measured(self) -> Sequence[str]: ...

    def read(self, line: str, /) -> T | Partly[T] | Rejected | None:
        """Return what a line holds, why it must be set aside, both, or None if it is none of our business."""

    def without(self, good: T, metrics: Sequence[str], /) -> T:
        """Return what a line holds but for what these metrics read of it."""


def _one_by_one(
    piece: Piece, reader: _LineReader[T], left_out: Mapping[str, tuple[str, ...]], rejected: dict[str, Rejected]
) -> Iterator[T]:
    """Yield what the lines of a piece hold; what cannot be counted goes to ``rejected``, by the lines' ids."""
    for name, line in piece.lines():
        before = left_out.get(name, ())
        if name in left_out and not before:
            continue
        found = reader.read(line)
        good, bad = (found.good, found.bad) if isinstance(found, Partly) else (found, None)
        if isinstance(good, Rejected):
            good, bad = None, good
        if bad and before:  # it was set aside for some metrics: now it is so for more
            metrics = tuple(metric for metric in bad.metrics or reader.measured if metric not in before)
            bad = replace(bad, metrics=metrics) if metrics else None
        if bad:
            rejected[name] = bad
        if good is not None:
            yield reader.without(good, before) if before else good
