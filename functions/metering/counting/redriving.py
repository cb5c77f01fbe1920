"""Redriving: lines that were set aside are counted after all, each once.

Each line counts for each metric under a token of its own, which follows from the batch, the line's id and the metric's
name: so it counts once however often it is redriven, whatever else is redriven with it, and by which code (I2). So
lines may be counted some hundreds at a time, and a run may end anywhere::

    run 1   500 lines ── note ── 500 lines ── note ── … ── its time is over: it says where the next one goes on
    crash             ↑ counted, and not noted: the next run's writes are refused, and it takes the note
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final, assert_never

from metering.counting.payloads import PayloadError
from metering.counting.recording import Recorder
from metering.model.access_log import Partly, Reader, Rejected
from metering.model.batches import Source, token_of
from metering.model.log_format import AccessRecord
from metering.model.measuring import NOT_BILLED, Usage, measure
from metering.model.metrics import Metric, declared, of_the_access_log
from metering.model.our_lines import LineForm, Ours
from metering.model.periods import Hour
from metering.model.usage_lines import Report, UsageLineReader, measure_reports
from metering.stores.aws import each_side_by_side, in_pieces
from metering.stores.set_aside import BATCH_PATTERN, Waiting

SLOWEST_PIECE: Final = timedelta(seconds=60)
"""What counting some hundreds of lines may take; so much must be left of a run to begin with more."""

PIECE: Final = 500
"""Lines that are counted together, and then noted: what a run that is killed has done in vain."""

Cell = tuple[Hour, str]
"""The counters of an hour and a source."""

_MOST_REASONS: Final = 20
_DOUBTFUL: Final = "doubtful: its counter has the batch, so an earlier delivery may have counted it"


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of a line that was redriven: whether it counts, for which metrics it still waits, and why."""

    counted: bool = False
    left: tuple[str, ...] = ()
    reason: str = ""


def redrive(recorder: Recorder, wanted: Mapping[str, Any], *, deadline: datetime) -> dict[str, Any]:
    """Count what a batch set aside, as far as it can be read now; redriving again counts nothing twice (I2).

    ``wanted`` is ``{"batch": "<token in hex>", "doubtful": false, "from": 0}``; with ``true``, lines that an earlier
    delivery may have counted are counted, too. ``from`` is the place that another run has come to. Once ``deadline``
    has passed, no further lines are begun with.

    Returns how many lines are counted, for all the metrics that they waited for, how many are left, with the reasons by
    their ids, and how many are still to do, because the time was over, from which place on (None if there are none).
    Raises PayloadError for another form, or a batch of which nothing is kept.
    """
    name, first = _asked(wanted)
    kept = recorder.set_aside.of(name)
    if kept.certain is None:
        raise PayloadError(f"nothing is set aside of the batch {name}")
    work = [line for line in kept.waiting if line.place >= first]
    redriven: list[Redriven] = []
    noted = dict(kept.redriven)
    for piece in in_pieces(work, PIECE):
        if redriven and recorder.clock() >= deadline:
            break
        results = _redrive_piece(recorder, piece, believed=wanted.get("doubtful") is True)
        counted = {one.line.name: result.left for one, result in zip(piece, results, strict=True) if result.counted}
        if counted:
            noted |= counted
            recorder.set_aside.note_redriven(name, noted)
        redriven += results
    to_do = work[len(redriven) :]
    left = {one.line.id: result.reason for one, result in zip(work, redriven, strict=False) if result.reason}
    if not to_do and not left:
        recorder.set_aside.mark_done(name)
    return {
        "batch": name,
        "counted": sum(not result.reason for result in redriven),
        "left": len(left),
        "reasons": dict(list(left.items())[:_MOST_REASONS]),
        "to_do": len(to_do),
        "next": to_do[0].place if to_do else None,
    }


def _asked(wanted: Mapping[str, Any]) -> tuple[str, int]:
    """Return the batch and the place that a wish names; raise PayloadError for another form."""
    name, first = (wanted.get("batch"), wanted.get("from", 0)) if isinstance(wanted, Mapping) else (None, 0)
    if not (isinstance(name, str) and re.fullmatch(BATCH_PATTERN, name) and isinstance(first, int)):
        raise PayloadError('wanted {"redrive": {"batch": "<24 hex digits>"}}, got another form')
    return name, first


def _redrive_piece(recorder: Recorder, piece: Sequence[Waiting], *, believed: bool) -> list[Redriven]:
    """Redrive lines; where AWS refuses some, all of them are left, and the lines behind them are not kept waiting (I6).

    What was counted of them nevertheless is refused the next time (I2).
    """
    results, failures = each_side_by_side(lambda some: redrive_lines(recorder, some, believed=believed), [piece])
    for failure in failures:
        reason = f"not certainly counted, to be redriven again: {failure}"
        return [Redriven(left=one.metrics, reason=reason) for one in piece]
    return results[0]


def redrive_lines(recorder: Recorder, lines: Sequence[Waiting], *, believed: bool) -> list[Redriven]:
    """Count lines that one batch set aside, for the metrics that they wait for, as far as these can read them now.

    A line is not counted by a counter that has the batch, if an earlier delivery may have counted it there: if it is
    doubtful and not ``believed``, or the delivery that set it aside did not itself count into that counter.
    """
    if not lines:
        return []
    of_batch = bytes.fromhex(lines[0].batch.batch)
    batches = {one.doubtful: one.batch for one in lines}
    sure = {doubtful: frozenset(batch.counters) for doubtful, batch in batches.items()}
    readings = list(_read(recorder, lines))
    asked = [
        _asked_of(reading, frozenset() if one.doubtful and not believed else sure[one.doubtful])
        for one, reading in zip(lines, readings, strict=True)
    ]
    having = recorder.counted_in({cell for of_line in asked for cells in of_line.values() for cell in cells}, of_batch)
    usages: dict[bytes, Usage] = {}
    results = []
    for one, reading, of_line in zip(lines, readings, asked, strict=True):
        doubtful = {name: _DOUBTFUL for name, cells in of_line.items() if not having.isdisjoint(cells)}
        for name, usage in reading.usages.items():
            if name not in doubtful:
                usages[token_of(f"{one.batch.batch}\0{one.line.id}\0{name}".encode())] = usage
        reasons = {**reading.reasons, **doubtful}
        counted = len(doubtful) < len(reading.usages) or not reasons
        reason = "; ".join(dict.fromkeys(reasons.values()))
        results.append(Redriven(counted, tuple(reasons) if counted else one.metrics, reason))
    recorder.count_together(usages, instead_of=of_batch)
    return results


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a line adds up to, by the metrics that can read it, and why the others cannot."""

    usages: Mapping[str, Usage]
    reasons: Mapping[str, str]


def _asked_of(reading: _Reading, sure: frozenset[str]) -> dict[str, list[Cell]]:
    """Return by metric the counters that have to be asked whether they have the batch: all but those that are sure."""
    return {
        name: [cell for cell in usage.touched if f"{cell[0]} {cell[1]}" not in sure]
        for name, usage in reading.usages.items()
    }


def _read(recorder: Recorder, lines: Sequence[Waiting]) -> Iterator[_Reading]:
    """Read lines, each for the metrics that it waits for; for all, if it was set aside whole."""
    now = recorder.clock()

    @cache
    def forms(origin: str, at: int) -> tuple[LineForm, ...]:
        groups = recorder.log_groups
        return groups.forms_of_set_aside(origin, at) if groups else (Ours(recorder.nonces),)

    @cache
    def access_log(names: tuple[str, ...], written: tuple[LineForm, ...]) -> "_AccessLog":
        metrics = of_the_access_log([metric for metric in recorder.metrics if metric.name in names or not names])
        return _AccessLog(recorder.reader(metrics, written), metrics)

    @cache
    def usage_lines(names: tuple[str, ...]) -> "_UsageLines":
        return _UsageLines(UsageLineReader(now, recorder.metrics, names), recorder.metrics)

    for one in lines:
        match one.batch.source:
            case Source.ACCESS_LOG:
                yield access_log(one.metrics, forms(one.batch.origin, one.batch.at)).read(one)
            case Source.USAGE_LINES:
                yield usage_lines(one.metrics).read(one)
            case _:
                assert_never(one.batch.source)


@dataclass(frozen=True, slots=True)
class _AccessLog:
    """Reads lines of the access log for some metrics."""

    reader: Reader
    metrics: Sequence[Metric]

    def read(self, one: Waiting) -> _Reading:
        """Return what each metric makes of a line."""
        found = self.reader.read(one.line.message)
        if found is None:
            return _Reading({}, {})
        record = found.good if isinstance(found, Partly) else None if isinstance(found, Rejected) else found
        bad = found.bad if isinstance(found, Partly) else found if isinstance(found, Rejected) else None
        if bad and not bad.metrics:
            return _unreadable(one, bad.reason)
        usages = {metric.name: self._measured(record, metric) for metric in self.metrics}
        reasons = dict.fromkeys(bad.metrics, bad.reason) if bad else {}
        reasons |= {
            name: f"{name} does not bill it as the metrics are declared now"
            for name in one.metrics
            if name not in reasons and (name not in usages or usages[name].unbilled[NOT_BILLED])
        }
        return _Reading({name: usage for name, usage in usages.items() if name not in reasons}, reasons)

    def _measured(self, record: AccessRecord | None, metric: Metric) -> Usage:
        """Return what a record is for one metric; it is nothing where no metric that bills the request can read it."""
        if record is None:
            nothing = Usage()
            nothing.unbilled[NOT_BILLED] += 1
            return nothing
        return measure([record], [metric], declared(self.metrics))


@dataclass(frozen=True, slots=True)
class _UsageLines:
    """Reads usage lines for some metrics."""

    reader: UsageLineReader
    metrics: Sequence[Metric]

    def read(self, one: Waiting) -> _Reading:
        """Return what each metric makes of a line."""
        found = self.reader.read(one.line.message)
        if found is None:
            return _Reading({}, {})
        report, bad = (found.good, found.bad) if isinstance(found, Partly) else (found, None)
        if isinstance(report, Rejected):
            return _unreadable(one, report.reason)
        usages = {name: self._measured(report, name) for name in report.amounts}
        return _Reading(usages, dict.fromkeys(bad.metrics, bad.reason) if bad else {})

    def _measured(self, report: Report, name: str) -> Usage:
        alone = Report(report.id, report.hour, report.source, {name: report.amounts[name]}, report.moment)
        return measure_reports([alone], self.metrics)


def _unreadable(one: Waiting, reason: str) -> _Reading:
    """Return that no metric can read a line."""
    return _Reading({}, dict.fromkeys(one.metrics or ("",), reason))
