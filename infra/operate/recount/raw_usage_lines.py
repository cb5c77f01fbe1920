"""Usage lines of the raw archive, read in the plainest way.

Why there is a second reader: :mod:`infra.operate.recount.raw_log`.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from infra.operate.recount.raw_lines import Record, UnreadableError, scaled
from metering.model.log_format import LONGEST_VALUE
from metering.model.metrics import USAGE_LINES, Max, Metric, Sum
from metering.model.periods import Hour
from metering.model.subjects import is_id, source_of_customer, source_of_key

_LONGEST_LINE_ID: Final = 128


def read_usage_line(event_id: str, line: str, metrics: Sequence[Metric]) -> Record | None:
    """Return what a usage line reports, or None if it is none; raise UnreadableError."""
    try:
        parsed = json.loads(line, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError):
        return None
    usage = parsed.get("usage") if isinstance(parsed, dict) else None
    if not isinstance(usage, dict):
        return None
    kinds = {metric.name: metric for metric in metrics if isinstance(metric, Sum | Max) and metric.of == USAGE_LINES}
    named = {name: value for name, value in usage.items() if name not in ("id", "time", "key", "customer")}
    line_id = usage.get("id")
    has_id = isinstance(line_id, str) and 0 < len(line_id) <= _LONGEST_LINE_ID
    if not (has_id and named and named.keys() <= kinds.keys()):
        raise UnreadableError("no id, or no metric of usage lines")
    amounts: dict[str, int] = {}
    once: dict[str, int] = {}
    for name, value in named.items():
        metric = kinds[name]
        per_id = isinstance(metric, Sum) and metric.deduplicate
        (once if per_id else amounts)[name] = _reported(value, metric.scale)
    return Record(event_id, _moment(usage.get("time")), _reporter(usage), amounts, {}, once, str(line_id))


def _reported(value: Any, scale: int) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and not (isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) <= LONGEST_VALUE):
        raise UnreadableError("not a number")
    return scaled(Fraction(value), scale)


def _moment(time: object) -> Hour:
    if isinstance(time, int) and not isinstance(time, bool):
        return Hour.of_epoch_ms(time)
    try:
        return Hour.containing(datetime.fromisoformat(str(time)))
    except (ValueError, OverflowError) as error:
        raise UnreadableError("no time") from error


def _reporter(usage: Mapping[str, Any]) -> str:
    key, customer = usage.get("key"), usage.get("customer")
    if customer is None and is_id(key):
        return source_of_key(key)
    if key is None and is_id(customer):
        return source_of_customer(customer)
    raise UnreadableError("exactly one of key and customer must say who used it")
