"""Recording: a batch of lines → counters, each once.

The order of writes makes it safe to stop anywhere and to be delivered again: what is set aside, the claims, the
counters without what a recount has brought in meanwhile, the late marks, and in the end how many lines they were.

```
delivery   set aside ── claims ── counter ── counter ── … ── late mark ── lines
crash            ↑ or ↑ or ↑ or ↑ anywhere: the whole batch comes again
redelivery   its object stands, its claims are its own, each counter refuses what it has, each late mark is put again
```
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol, TypeVar, assert_never

from metering.counting.log_groups import LogGroups
from metering.counting.recorded import Recorded
from metering.model.access_log import Partly, Reader, Rejected, no_connection
from metering.model.amounts import Amounts
from metering.model.batches import Batch, Piece, Source
from metering.model.log_format import AccessRecord
from metering.model.measuring import Tally, Usage, measure
from metering.model.metrics import Metric, declared
from metering.model.our_lines import LineForm, Ours
from metering.model.periods import CLOCK_SKEW, GRACE, Hour, epoch_ms
from metering.model.subjects import source_of_key, subject_of_source
from metering.model.usage_lines import Report, UsageLineReader, measure_reports
from metering.stores import claims
from metering.stores.accounted import Accounted, hashed
from metering.stores.attribution import tenure
from metering.stores.aws import each_side_by_side, side_by_side
from metering.stores.claims import Claim, Claims, Key
from metering.stores.counters import Counters, item_of
from metering.stores.holders import Holders
from metering.stores.marks import new_mark
from metering.stores.set_aside import SetAside, SetAsideBatch, SetAsideLine

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _LineReader(Protocol[T_co]):
    """What reads lines of one kind, for the metrics of these names."""

    @property
    def measured(self) -> Sequence[str]: ...

    def read(self, line: str, /) -> T_co | Partly[T_co] | Rejected | None:
        """Return what a line holds, why it must be set aside, both, or None if it is none of our business."""


@dataclass(frozen=True, slots=True)
class Hashing:
    """What telling values and ids apart needs: the secret of their hashes, and who holds which key since when."""

    secret: bytes
    holders: Holders


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


@dataclass(frozen=True, slots=True)
class _Claiming:
    """Whose claim is wanted, and what each of the batches that want it counts if it is its own."""

    hour: Hour
    source: str
    metric: str
    quantities: dict[bytes, int]
    is_value: bool
    """A value, not the id of a usage line."""


@dataclass(frozen=True, slots=True)
class Recorder:
    """Records batches by these metrics into this table and bucket; ``clock`` gives the present moment.

    ``nonces`` are those that the access log's lines begin and end with. ``hashing`` may be None if no metric counts
    distinct values or deduplicates, and ``log_groups`` if what was set aside is all of the access log itself.
    """

    metrics: Sequence[Metric]
    nonces: tuple[str, ...]
    counters: Counters
    claims: Claims
    set_aside: SetAside
    clock: Callable[[], datetime]
    hashing: Hashing | None = None
    log_groups: LogGroups | None = None

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
            doubtful = kept.certain is not None or bool(self.counted_in(usage.touched, batch.token))
            counters = tuple(sorted(f"{hour} {key}" for hour, key in usage.touched))
            bad = SetAsideBatch(batch.token.hex(), batch.source, batch.origin, tuple(lines), counters, batch.at)
            if doubtful:
                self.set_aside.keep_doubtful(bad, kept)
            else:
                self.set_aside.keep(bad)
        counted = self._count(self._still_to_count(batch, usage, left_out), batch.token)
        apart = {name: bad.metrics for name, bad in read.rejected.items()} | left_out
        number = read.good + len(apart) - read.partly
        self.counters.lines.count_batch(batch, number, read.oldest, self.clock())
        return Recorded(
            read=number,
            billed=usage.billed,
            unbilled=usage.unbilled,
            set_aside=len(apart),
            partly=read.partly,
            refused=int(bool(counted) and not any(counted)),
            oldest=None if read.oldest is None else datetime.fromtimestamp(read.oldest / 1000, UTC),
        )

    def count_together(self, usages: Mapping[bytes, Usage], *, instead_of: bytes) -> None:
        """Count what lines of a batch add up to, each under a token of its own: once, whichever others come with it.

        One write counts what one item does. Claims of the batch ``instead_of`` which they are counted are taken over
        where that has not counted them.
        """
        self._claim(usages, instead_of)
        items: dict[tuple[Hour, str, int], dict[bytes, Amounts]] = {}
        for token, usage in usages.items():
            for where, amounts in usage.cells.items():
                if amounts:
                    items.setdefault((*where, item_of(amounts, token)), {})[token] = amounts
        _, failures = each_side_by_side(lambda item: self.counters.count_together(item[0], item[1], items[item]), items)
        self._mark_late({(hour, source): None for hour, source, _ in items}, failures)

    def counted_in(self, cells: Iterable[tuple[Hour, str]], token: bytes) -> set[tuple[Hour, str]]:
        """Return which of these counters have a batch; asked only if a line is rejected."""
        asked = list(cells)
        found = side_by_side(lambda cell: self.counters.has_counted(*cell, token), asked)
        return {cell for cell, counted in zip(asked, found, strict=True) if counted}

    def _read(self, batch: Batch, left_out: Mapping[str, tuple[str, ...]]) -> _Read:
        """Read a batch's lines, but for what was set aside of them before, and add them up.

        ``left_out`` are metrics by the ids of lines; a line without any is left out whole.
        """
        match batch.source:
            case Source.ACCESS_LOG:
                return self._read_access_log(batch, left_out)
            case Source.USAGE_LINES:
                return self._read_usage_lines(batch, left_out)
            case _:
                assert_never(batch.source)

    def _read_access_log(self, batch: Batch, left_out: Mapping[str, tuple[str, ...]]) -> _Read:
        reader, tally = self._reader(batch), Tally(self.metrics, declared(self.metrics))
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
            others = [metric for metric in self.metrics if metric.name not in before]
            usage.include(measure(records, others, declared(self.metrics)))
            good += len(records)
        return _Read(good, partly, usage, rejected, tally.oldest)

    def _read_usage_lines(self, batch: Batch, left_out: Mapping[str, tuple[str, ...]]) -> _Read:
        reader = UsageLineReader(self.clock(), self.metrics)
        reports: list[Report] = []
        partly = 0
        rejected: dict[str, Rejected] = {}
        for piece in batch.pieces():
            for name, report, before in _one_by_one(piece, reader, left_out, rejected):
                partly += bool(before) or name in rejected
                amounts = {metric: amount for metric, amount in report.amounts.items() if metric not in before}
                reports.append(replace(report, amounts=amounts))
        oldest = min((report.time for report in reports), default=None)
        return _Read(len(reports), partly, measure_reports(reports, self.metrics), rejected, oldest)

    def _reader(self, batch: Batch) -> Reader:
        forms = (Ours(self.nonces),) if batch.forms is None else batch.forms
        return self.reader(self.metrics, forms)

    def reader(self, metrics: Sequence[Metric], forms: tuple[LineForm, ...]) -> Reader:
        """Return what reads lines of these forms."""
        bears = self.log_groups.bears() if self.log_groups else no_connection
        return Reader(self.clock(), metrics, forms, bears)

    def _still_to_count(self, batch: Batch, usage: Usage, left_out: Mapping[str, tuple[str, ...]]) -> Usage:
        """Return what a batch adds up to without what a recount has brought in, which is in the ledger already (I2).

        It is asked before a counter is written, which then takes the rest in one write: so a crash changes nothing. A
        batch that reads before a correction is written, and counts after it was checked, doubles what both have; that
        takes a moment, and the next recount finds it.
        """
        accounted = self._accounted(usage)
        if not accounted:
            return usage
        apart = dict(left_out)
        for name, record, where in self._records(batch, left_out):
            known = hashed(record)
            metrics = tuple(metric for metric, ids in accounted.get(where, {}).items() if known in ids)
            if metrics:
                apart[name] = (*left_out.get(name, ()), *metrics)
        return self._read(batch, apart).usage

    def _accounted(self, usage: Usage) -> dict[tuple[Hour, str], dict[str, frozenset[bytes]]]:
        """Return which records of what is counted late were brought in by a recount, by metric; mostly none."""
        now = self.clock()
        late = [where for where, amounts in usage.cells.items() if amounts and _is_late(where[0], now)]
        accounted = Accounted(self.claims.client, self.claims.table)
        corrected = {hour for hour in {hour for hour, _ in late} if accounted.any(hour)}
        asked = [where for where in late if where[0] in corrected]
        found = side_by_side(lambda where: accounted.of(*where), asked)
        return {where: ids for where, ids in zip(asked, found, strict=True) if ids}

    def _records(
        self, batch: Batch, left_out: Mapping[str, tuple[str, ...]]
    ) -> Iterator[tuple[str, str, tuple[Hour, str]]]:
        """Yield the ids of a batch's good lines, those of the records in them, and where these count."""
        now = self.clock()
        for piece in batch.pieces():
            match batch.source:
                case Source.ACCESS_LOG:
                    for name, record, _ in _one_by_one(piece, self._reader(batch), left_out, {}):
                        where = Hour.of_epoch_ms(epoch_ms(record.time)), source_of_key(record.key)
                        yield name, record.request_id, where
                case Source.USAGE_LINES:
                    group = batch.origin.partition(" ")[0]
                    for name, report, _ in _one_by_one(piece, UsageLineReader(now, self.metrics), left_out, {}):
                        yield name, f"{group} {name}", (report.hour, report.source)
                case _:
                    assert_never(batch.source)

    def _count(self, usage: Usage, token: bytes) -> list[bool]:
        """Claim what is new, count each hour and key, then mark each hour that may have been closed before that."""
        self._claim({token: usage}, b"")
        cells = [where for where, amounts in usage.cells.items() if amounts]
        counted, failures = each_side_by_side(
            lambda where: self.counters.count(*where, usage.cells[where], token), cells
        )
        self._mark_late(cells, failures)
        return counted

    def _mark_late(self, cells: Iterable[tuple[Hour, str]], failures: Sequence[Exception]) -> None:
        """Mark each hour of what was counted that may have been closed before that; then raise the first failure.

        The clock is asked after the counters are written: whoever closes an hour later than this reads them, whoever
        has read them earlier finds the mark. A duplicate is marked too: the first delivery may have died in between.
        A cell that fails keeps no other from being counted and marked (I6); then the batch fails, and comes again.
        """
        now = self.clock()
        late = [where for where in cells if _is_late(where[0], now)]
        marks = self.counters.marks
        _, unmarked = each_side_by_side(
            lambda where: marks.mark_late(where[0], subject_of_source(where[1]), new_mark()), late
        )
        for failure in (*failures, *unmarked):
            raise failure

    def _claim(self, usages: Mapping[bytes, Usage], instead_of: bytes) -> None:
        """Add to each token's usage what counts once, where the claim of it is the token's own or becomes so."""
        wanted = self._claims_of_values(usages) | self._claims_of_ids(usages)
        if not wanted:
            return
        at = int(self.clock().timestamp() * 1000)
        # The first that brings a value claims it.
        first = {key: Claim(one.hour, next(iter(one.quantities)), at) for key, one in wanted.items()}
        for key, made in self.claims.claim(first).items():
            claiming = wanted[key]
            token = self._counting(key, made, claiming, instead_of)
            if token is not None:
                amounts = usages[token].cell(made.hour, claiming.source)
                numbers = amounts.uniques if claiming.is_value else amounts.sums
                numbers[claiming.metric] = numbers.get(claiming.metric, 0) + claiming.quantities[token]

    def _claims_of_values(self, usages: Mapping[bytes, Usage]) -> dict[Key, _Claiming]:
        """Return the claims of the values that usages saw, the earliest hour first."""
        seen = [(*where, token, saw) for token, usage in usages.items() for where, saw in usage.seen.items()]
        if not seen:
            return {}
        if self.hashing is None:
            raise ValueError("distinct values can only be counted with the secret of their hashes")
        holdings = self.hashing.holders.holdings({source for _, source, _, _ in seen})
        wanted: dict[Key, _Claiming] = {}
        for hour, source, token, saw in sorted(seen, key=lambda one: one[:2]):
            since = tenure(holdings[source], hour)
            for metric, values in saw.items():
                for value in values:
                    hashed = claims.hashed(self.hashing.secret, metric, value)
                    claim = claims.of_value(metric, source, hour, hashed, since)
                    one = wanted.setdefault(claim, _Claiming(hour, source, metric, {}, is_value=True))
                    one.quantities[token] = 1
        return wanted

    def _claims_of_ids(self, usages: Mapping[bytes, Usage]) -> dict[Key, _Claiming]:
        """Return the claims of the ids of lines that count once per id."""
        wanted: dict[Key, _Claiming] = {}
        for token, usage in usages.items():
            if not usage.once:
                continue
            if self.hashing is None:
                raise ValueError("ids of usage lines can only be told apart with the secret of their hashes")
            for (metric, source, name), (hour, quantity) in usage.once.items():
                claim = claims.of_line(metric, source, claims.hashed(self.hashing.secret, metric, name))
                one = wanted.setdefault(claim, _Claiming(hour, source, metric, {}, is_value=False))
                one.quantities[token] = quantity
        return wanted

    def _counting(self, key: Key, made: Claim, claiming: _Claiming, instead_of: bytes) -> bytes | None:
        """Return which of the tokens that want a claim counts what it is for: its own, or one that takes it over.

        The claim of a delivery that died before it counted would otherwise count for nobody, once its line was set
        aside (I1). A claim is taken over once, so that two lines with one value count it once (I2).
        """
        if made.batch in claiming.quantities:
            return made.batch
        if not instead_of or made.batch != instead_of:
            return None
        if self.counters.has_counted(made.hour, claiming.source, instead_of):
            return None
        token = next(iter(claiming.quantities))
        return token if self.claims.take_over(key, made, token) else None


def _is_late(hour: Hour, now: datetime) -> bool:
    return hour.is_due(now, grace=GRACE - CLOCK_SKEW)


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
            yield name, good, (*before, *bad.metrics) if bad else before
