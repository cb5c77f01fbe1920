"""Usage lines: what your own code says was used, in its own log. Pure.

One object is the whole interface::

    {"usage": {"id": "job-17", "time": "2026-11-22T05:17:00Z", "customer": "acme", "tokens": 1250}}

``time`` is a moment with its time zone, or milliseconds since 1970; whoever used it is a ``key`` (the id of an API key)
or a ``customer``; every other field is a metric and its number. What a logger puts around it does not matter:
:mod:`metering.model.usage_frames`. Whoever can write into that log can bill anyone: that must be your own code alone.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeGuard

from metering.model.access_log import Partly, Rejected, amount, explain_time
from metering.model.amounts import Amounts
from metering.model.log_format import MISSING
from metering.model.measuring import Usage
from metering.model.metrics import USAGE_LINES, Max, Metric, Sum
from metering.model.our_lines import short
from metering.model.periods import EPOCH, FIRST_MS, LATEST_RECORD, OLDEST_RECORD, Hour, aware
from metering.model.subjects import ID_RULE, is_id, is_printable, source_of_customer, source_of_key
from metering.model.usage_frames import WHICH, WHOSE, Frames, Number, Object

LONGEST_ID: Final = 128

MOST_FIELDS: Final = 100
"""What a line is set aside for is kept by name, and so is bounded (I10): no function's environment holds as many."""

_SHOWN: Final = 3
"""So many of a line's faults are told."""


@dataclass(frozen=True, slots=True)
class Report:
    """One usage line: ``source`` is a key, or a customer as the counters spell it; ``amounts`` are scaled."""

    id: str
    hour: Hour
    source: str
    amounts: Mapping[str, int]
    moment: int
    """Milliseconds since 1970."""

    @property
    def time(self) -> int:
        """The moment, under the name that a record has for it."""
        return self.moment


@dataclass(slots=True)
class UsageLineReader:
    """Reads the lines of a batch that arrived at ``now``, for the metrics of usage lines, or ``only`` some of them."""

    now: datetime
    metrics: Sequence[Metric]
    only: tuple[str, ...] = ()
    _scales: dict[str, int] = field(init=False)
    _frames: Frames = field(init=False)

    def __post_init__(self) -> None:
        self._scales = {
            metric.name: metric.scale
            for metric in self.metrics
            if isinstance(metric, Sum | Max) and metric.of == USAGE_LINES
        }
        self._frames = Frames(self._scales)

    @property
    def measured(self) -> list[str]:
        """The names of the metrics that it reads for."""
        return list(self._scales)

    def read(self, line: str) -> Report | Partly[Report] | Rejected | None:
        """Return what a line reports, as far as metrics can read it, and why it must be set aside where they cannot.

        None if it is none of our business. What a line says twice counts once: a router may keep a text beside what it
        read of it. Two reports are none: no id of the line would be left for the second.
        """
        usages, broken = self._frames.open(line)
        found = [self._report(line, usage) for usage in usages]
        if any(_said(one) != _said(found[0]) for one in found):
            return Rejected(line, "usage: more than one report in a line: log each in a line of its own")
        if broken:
            return Rejected(line, "usage: no JSON that can be read: broken, cut off, or not written as JSON")
        return found[0] if found else None

    def _report(self, line: str, usage: Object) -> Report | Partly[Report] | Rejected:
        try:
            fields = _fields(usage)
            name, moment, source = _id(fields.get("id")), self._moment(fields.get("time")), _source(fields)
        except ValueError as error:
            return Rejected(line, f"usage: {error}")
        amounts: dict[str, int] = {}
        bad: dict[str, str] = {}
        for metric, value in fields.items():
            if metric in WHICH or metric in WHOSE or (self.only and metric not in self.only):
                continue
            try:
                amounts[metric] = self._amount(metric, value)
            except ValueError as error:
                bad[metric] = str(error)
        more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        reason = "; ".join([*bad.values()][:_SHOWN]) or f"no metric is named: write one of {sorted(self._scales)}"
        rejected = Rejected(line, f"usage: {reason}{more}", tuple(sorted(bad)) if amounts else ())
        report = Report(name, Hour.of_epoch_ms(moment), source, amounts, moment)
        if bad and amounts:
            return Partly(report, rejected)
        return report if amounts else rejected

    def _moment(self, time: object) -> int:
        moment = _milliseconds(time)
        if moment is None:
            raise ValueError(
                f"time must be a moment such as '2026-11-22T05:17:00Z' or milliseconds since 1970, got {_shown(time)}"
            )
        if 0 < moment < FIRST_MS:
            raise ValueError(f"time must be milliseconds since 1970, got {short(time)}, which looks like seconds")
        latest = int((self.now + LATEST_RECORD).timestamp() * 1000)
        if not int((self.now - OLDEST_RECORD).timestamp() * 1000) <= moment <= latest:
            raise ValueError(explain_time(moment, latest, self.now))
        return moment

    def _amount(self, metric: str, value: object) -> int:
        if metric not in self._scales:
            raise ValueError(f"{short(metric)} is none of the metrics of usage lines: {sorted(self._scales)}")
        if not isinstance(value, str) or value in ("", MISSING):
            raise ValueError(f"{metric} must be a number, got {_shown(value)}")
        try:
            return amount(value, self._scales[metric])
        except ValueError as error:
            raise ValueError(f"{metric} must be {error}") from error


def measure_reports(reports: Iterable[Report], metrics: Sequence[Metric]) -> Usage:
    """Add up what usage lines report; what is to count once per id is left in ``once``."""
    kinds = {metric.name: metric for metric in metrics}
    usage = Usage()
    for report in reports:
        usage.billed += 1
        for name, quantity in report.amounts.items():
            metric = kinds[name]
            if isinstance(metric, Max):
                more = Amounts(peaks={name: quantity})
            elif isinstance(metric, Sum) and metric.deduplicate:
                usage.once.setdefault((name, report.source, report.id), (report.hour, quantity))
                continue
            else:
                more = Amounts(sums={name: quantity})
            if quantity:
                usage.cell(report.hour, report.source).include(more)
    return usage


def _said(found: Report | Partly[Report] | Rejected) -> tuple[Report | None, tuple[str, ...]]:
    if isinstance(found, Partly):
        return found.good, found.bad.metrics
    return (None, ()) if isinstance(found, Rejected) else (found, ())


def _fields(usage: Object) -> dict[str, Any]:
    """Return an object's values by name, where half a surrogate pair, which is no text, is spelled out."""
    if len(usage) > MOST_FIELDS:
        raise ValueError(f"a usage object must have at most {MOST_FIELDS} fields, got {len(usage)}")
    fields: dict[str, Any] = {}
    for name, value in usage:
        spelled = name.encode(errors="backslashreplace").decode()
        if spelled in fields:
            raise ValueError(f"{short(spelled)} stands there twice")
        fields[spelled] = value
    return fields


def _id(name: object) -> str:
    if not (_is_text(name) and 0 < len(name) <= LONGEST_ID and is_printable(name)):
        raise ValueError(f"id must be a string of 1 to {LONGEST_ID} printable characters, got {_shown(name)}")
    return name


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and not isinstance(value, Number)


def _milliseconds(time: object) -> int | None:
    """Return a moment in milliseconds since 1970, of which a fraction is left out, or None if it is none."""
    if not isinstance(time, str):
        return None
    if len(time) <= _LONGEST_NUMBER and _NUMBER.fullmatch(time):
        return int(Decimal(time))
    try:
        return (aware(datetime.fromisoformat(time)) - EPOCH) // timedelta(milliseconds=1)
    except ValueError:
        return None


def _source(usage: Mapping[str, Any]) -> str:
    key, customer = usage.get("key"), usage.get("customer")
    if (key is None) == (customer is None):
        raise ValueError("exactly one of key and customer must say who used it")
    if key is not None:
        if not (_is_text(key) and is_id(key)):
            raise ValueError(f"key must be {ID_RULE}, got {_shown(key)}")
        return source_of_key(key)
    if not (_is_text(customer) and is_id(customer)):
        raise ValueError(f"customer must be {ID_RULE}, got {_shown(customer)}")
    return source_of_customer(customer)


def _shown(value: object) -> str:
    """Return a value of a line as a reason shows it."""
    return "an object" if isinstance(value, tuple) else "a list" if isinstance(value, list) else short(value)


_LONGEST_NUMBER: Final = 64
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
