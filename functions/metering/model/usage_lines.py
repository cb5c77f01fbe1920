"""Usage lines: what your own code says was used, in its own log. Pure.

One line of JSON is the whole interface::

    {"usage": {"id": "job-17", "time": "2026-11-22T05:17:00Z", "customer": "acme", "tokens": 1250}}

``time`` is a moment with its time zone, or milliseconds since 1970; whoever used it is a ``key`` (the id of an API key)
or a ``customer``; every other field is a metric and its number. Whoever can write into that log can bill anyone: that
must be your own code alone.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from metering.model.access_log import Rejected, amount, explain_time, short
from metering.model.amounts import Amounts
from metering.model.measuring import Usage
from metering.model.metrics import USAGE_LINES, Max, Metric, Sum
from metering.model.periods import LATEST_RECORD, OLDEST_RECORD, Hour, aware
from metering.model.subjects import ID_RULE, is_id, source_of_customer, source_of_key

LONGEST_ID: Final = 128

_MEANT: Final = re.compile(r'\s*\{\s*"usage"\s*:\s*\{')
"""How a usage line begins that was cut off: it was meant, so it is set aside."""

_NOT_METRICS: Final = frozenset({"id", "time", "key", "customer"})


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

    def __post_init__(self) -> None:
        scales = {
            metric.name: metric.scale
            for metric in self.metrics
            if isinstance(metric, Sum | Max) and metric.of == USAGE_LINES
        }
        self._scales = scales

    @property
    def measured(self) -> list[str]:
        """The names of the metrics that it reads for."""
        return list(self._scales)

    def without(self, report: Report, metrics: Sequence[str]) -> Report:
        """Return a report without the amounts of these metrics."""
        return replace(report, amounts={name: n for name, n in report.amounts.items() if name not in metrics})

    def read(self, line: str) -> Report | Rejected | None:
        """Return what a line reports, why it must be set aside, or None if it is none of our business."""
        try:
            found = _decoder.decode(line)
        except (msgspec.DecodeError, RecursionError, UnicodeError, ArithmeticError):  # the last: no Decimal is so large
            return Rejected(line, "not JSON, though it begins as a usage line") if _MEANT.match(line) else None
        usage = found.get("usage") if isinstance(found, dict) else None
        if not isinstance(usage, dict):
            return None
        try:
            return self._report(usage)
        except ValueError as error:
            return Rejected(line, f"usage: {error}")

    def _report(self, usage: Mapping[str, Any]) -> Report:
        name = usage.get("id")
        if not (isinstance(name, str) and 0 < len(name) <= LONGEST_ID):
            raise ValueError(f"id must be a string of 1 to {LONGEST_ID} characters, got {short(name)}")
        moment = self._moment(usage.get("time"))
        amounts = {metric: self._amount(metric, usage[metric]) for metric in usage if metric not in _NOT_METRICS}
        if not amounts:
            raise ValueError(f"no metric is named: write one of {sorted(self._scales)}")
        return Report(name, Hour.of_epoch_ms(moment), _source(usage), amounts, moment)

    def _moment(self, time: object) -> int:
        moment: int | None = None
        if isinstance(time, int) and not isinstance(time, bool):
            moment = time
        elif isinstance(time, str):
            try:
                moment = int(aware(datetime.fromisoformat(time)).timestamp() * 1000)
            except (ValueError, OverflowError):
                moment = None
        if moment is None:
            raise ValueError(
                f"time must be a moment such as '2026-11-22T05:17:00Z' or milliseconds since 1970, got {short(time)}"
            )
        latest = int((self.now + LATEST_RECORD).timestamp() * 1000)
        if not int((self.now - OLDEST_RECORD).timestamp() * 1000) <= moment <= latest:
            raise ValueError(explain_time(moment, latest, self.now))
        return moment

    def _amount(self, metric: str, value: object) -> int:
        if metric not in self._scales:
            raise ValueError(f"{short(metric)} is none of the metrics of usage lines: {sorted(self._scales)}")
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise ValueError(f"{metric} must be a number, got {short(value)}")  # noqa: TRY004 - a line's value, not our type
        try:
            return amount(_plain(value), self._scales[metric])
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


def _source(usage: Mapping[str, Any]) -> str:
    key, customer = usage.get("key"), usage.get("customer")
    if (key is None) == (customer is None):
        raise ValueError("exactly one of key and customer must say who used it")
    if key is not None:
        if not is_id(key):
            raise ValueError(f"key must be {ID_RULE}, got {short(key)}")
        return source_of_key(key)
    if not is_id(customer):
        raise ValueError(f"customer must be {ID_RULE}, got {short(customer)}")
    return source_of_customer(customer)


def _plain(value: int | Decimal) -> str:
    """Write a number without an exponent and without zeros at its end: 1.50 is as fine as 1.5."""
    if isinstance(value, int):
        return str(value)
    if not value.is_finite() or abs(value.adjusted()) > 40:  # noqa: PLR2004 - far beyond any amount
        return str(value)
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


_decoder: Final = msgspec.json.Decoder(Any, float_hook=Decimal)
