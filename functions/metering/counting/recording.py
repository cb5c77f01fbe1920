"""Recording: a batch of lines → counters, each once.

The order of writes is what makes it safe to stop anywhere and to be delivered again: first what is set aside, then
the claims, then the counters, then the late marks.

```
delivery   set aside ── claims ── counter ── counter ── … ── late mark
crash            ↑ or ↑ or ↑ or ↑ anywhere: the whole batch comes again
redelivery   its object stands, its claims are its own, each counter refuses what it has, each late mark is put again
```
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self, TypeVar, assert_never

from metering.model.access_log import Reader, Rejected
from metering.model.batches import TOKEN_BYTES, Batch, Piece, Source, batch_of
from metering.model.log_format import Declared
from metering.model.measuring import Tally, Usage
from metering.model.metrics import Metric
from metering.model.periods import CLOCK_SKEW, GRACE, Hour
from metering.model.subjects import subject_of_source
from metering.model.usage_lines import Report, UsageLineReader, measure_reports
from metering.stores import claims
from metering.stores.attribution import tenure
from metering.stores.aws import side_by_side
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.holders import Holders
from metering.stores.marks import new_mark
from metering.stores.set_aside import SetAside, SetAsideBatch, SetAsideLine

T = TypeVar("T")


@dataclass(slots=True)
class Recorded:
    """What became of lines: read = billed + unbilled + set aside."""

    read: int = 0
    billed: int = 0
    unbilled: Counter[str] = field(default_factory=Counter)
    set_aside: int = 0
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
        self.refused += other.refused
        moments = [moment for moment in (self.oldest, other.oldest) if moment is not None]
        self.oldest = min(moments) if moments else None


@dataclass(frozen=True, slots=True)
class Hashing:
    """What counting distinct values needs: the secret of their hashes, and who holds which key since when."""

    secret: bytes
    holders: Holders


@dataclass(frozen=True, slots=True)
class _Read:
    """The lines of a batch that are our business: how many are good, what they add up to, and the others by id."""

    good: int
    usage: Usage
    rejected: dict[str, Rejected]
    oldest: int | None
    """The time of the oldest good one, in milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Recorder:
    """Records batches by these metrics into this table and bucket; ``clock`` gives the present moment.

    ``hashing`` may be None if no metric counts distinct values.
    """

    metrics: Sequence[Metric]
    log: Declared
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
        read = self._read(batch, leave_out=kept.ids)
        usage = read.usage
        if read.rejected:
            lines = [SetAsideLine(name, found.line, found.reason) for name, found in read.rejected.items()]
            doubtful = kept.certain is not None or self._was_counted(usage.cells, batch.token)
            counters = tuple(sorted(f"{hour} {key}" for hour, key in usage.cells))
            bad = SetAsideBatch(batch.token.hex(), batch.source, batch.origin, tuple(lines), counters)
            if doubtful:
                self.set_aside.keep_doubtful(bad, kept)
            else:
                self.set_aside.keep(bad)
        counted = self._count(usage, batch.token)
        return Recorded(
            read=read.good + len(read.rejected) + len(kept.ids),
            billed=usage.billed,
            unbilled=usage.unbilled,
            set_aside=len(kept.ids) + len(read.rejected),
            refused=int(bool(counted) and not any(counted)),
            oldest=None if read.oldest is None else datetime.fromtimestamp(read.oldest / 1000, UTC),
        )

    def redrive(self, kept: SetAsideBatch, line: SetAsideLine, *, doubtful: bool) -> str:
        """Count a line that was set aside, if it can be read now; return why not, or an empty string.

        Its token is derived from its batch and its own id, so that it counts once however often it is redriven, and
        whatever else is redriven with it (I2). A line whose counter has the batch is not counted, if an earlier
        delivery may have counted it there: if the line is ``doubtful``, or the delivery that set it aside did not
        itself count into that counter.
        """
        token = hashlib.sha256(f"{kept.batch}\0{line.id}".encode()).digest()[:TOKEN_BYTES]
        read = self._read(batch_of([line.id], [line.message], kept.source, kept.origin), leave_out=set())
        if read.rejected:
            return read.rejected[line.id].reason
        asked = [where for where in read.usage.cells if doubtful or f"{where[0]} {where[1]}" not in kept.counters]
        if self._was_counted(asked, bytes.fromhex(kept.batch)):
            return "doubtful: its counter has the batch, so an earlier delivery may have counted it"
        self._count(read.usage, token)
        return ""

    def _read(self, batch: Batch, *, leave_out: set[str]) -> _Read:
        """Read a batch's lines but for those that were set aside before, and add them up."""
        match batch.source:
            case Source.ACCESS_LOG:
                return self._read_access_log(batch, leave_out)
            case Source.USAGE_LINES:
                return self._read_usage_lines(batch, leave_out)
            case _:
                assert_never(batch.source)

    def _read_access_log(self, batch: Batch, leave_out: set[str]) -> _Read:
        reader, tally = Reader(self.clock(), self.log), Tally(self.metrics, self.log)
        good = 0
        rejected: dict[str, Rejected] = {}
        for piece in batch.pieces():
            records = None if leave_out else reader.read_at_once(piece.text)
            if records is None:
                records = list(_one_by_one(piece, reader.read, leave_out, rejected))
            tally.add(records)
            good += len(records)
        return _Read(good, tally.usage(), rejected, tally.oldest)

    def _read_usage_lines(self, batch: Batch, leave_out: set[str]) -> _Read:
        reader = UsageLineReader(self.clock(), self.metrics)
        reports: list[Report] = []
        rejected: dict[str, Rejected] = {}
        for piece in batch.pieces():
            reports += _one_by_one(piece, reader.read, leave_out, rejected)
        oldest = min((report.time for report in reports), default=None)
        return _Read(len(reports), measure_reports(reports, self.metrics), rejected, oldest)

    def _was_counted(self, cells: Iterable[tuple[Hour, str]], token: bytes) -> bool:
        """Say whether one of these counters has a batch; asked only if a line is rejected."""
        return any(side_by_side(lambda cell: self.counters.has_counted(*cell, token), cells))

    def _count(self, usage: Usage, token: bytes) -> list[bool]:
        """Claim what is new, count each hour and key, then mark each hour that may have been closed before that.

        The clock is asked after the counters are written: whoever closes an hour later than this reads them, whoever
        has read them earlier finds the mark. A duplicate is marked too: the first delivery may have died in between.
        """
        self._claim_values(usage, token)
        self._claim_ids(usage, token)
        cells = [where for where, amounts in usage.cells.items() if amounts]
        counted = side_by_side(lambda where: self.counters.count(*where, usage.cells[where], token), cells)
        now = self.clock()
        late = [where for where in cells if where[0].is_due(now, grace=GRACE - CLOCK_SKEW)]
        marks = self.counters.marks
        side_by_side(lambda where: marks.mark_late(where[0], subject_of_source(where[1]), new_mark()), late)
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
        lines = {claims.of_line(*name): name for name in usage.once}
        wanted = {claim: usage.once[name][0] for claim, name in lines.items()}
        for claim, made in self.claims.claim(wanted, token, self.clock()).items():
            if made.batch == token:
                metric, source, _ = lines[claim]
                _, quantity = usage.once[lines[claim]]
                sums = usage.cell(made.hour, source).sums
                sums[metric] = sums.get(metric, 0) + quantity


def _one_by_one(
    piece: Piece, read: Callable[[str], T | Rejected | None], leave_out: set[str], rejected: dict[str, Rejected]
) -> Iterator[T]:
    """Yield what the lines of a piece hold; those that cannot be counted go to ``rejected``, by their ids."""
    for name, line in piece.lines():
        found = None if name in leave_out else read(line)
        if isinstance(found, Rejected):
            rejected[name] = found
        elif found is not None:
            yield found
