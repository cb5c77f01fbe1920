"""Usage lines of the raw archive, read in the plainest way.

Why there is a second reader: :mod:`infra.operate.recount.raw_log`. What it must find in whatever a logger puts around
a usage line: :mod:`metering.model.usage_frames`, whose rule :mod:`infra.operate.recount.raw_usage_frames` follows.
"""

import calendar
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Final

from infra.operate.recount.raw_lines import LONGEST_NUMBER, SECONDS_BELOW, Record, UnreadableError, exact, scaled
from infra.operate.recount.raw_usage_frames import FIXED, Looked, Pairs
from metering.model.metrics import USAGE_LINES, Max, Metric, Sum
from metering.model.periods import Hour
from metering.model.subjects import is_id, is_printable, source_of_customer, source_of_key

_LONGEST_LINE_ID: Final = 128
_MOST_FIELDS: Final = 100
_TIME: Final = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d{1,3})?", re.ASCII | re.IGNORECASE)


def read_usage_line(event_id: str, line: str, metrics: Sequence[Metric]) -> Record | None:
    """Return what a usage line reports, or None if it is none; raise UnreadableError.

    A metric that cannot read its number is in ``bad``; a line that no metric can read raises.
    """
    kinds = {metric.name: metric for metric in metrics if isinstance(metric, Sum | Max) and metric.of == USAGE_LINES}
    found = Looked(frozenset(kinds))
    found.at(line)
    if found.unread:
        raise UnreadableError("what may be a usage line, but is no JSON")
    reports = [_report(event_id, usage, kinds) for usage in found.usages]
    if any(report != reports[0] for report in reports):
        raise UnreadableError("more than one report")
    return reports[0][0] if reports else None


def _report(event_id: str, usage: Pairs, kinds: Mapping[str, Sum | Max]) -> tuple[Record, int]:
    """Return what an object reports, and its moment: two that differ in that alone are two."""
    if len(usage) > _MOST_FIELDS:
        raise UnreadableError("too many fields")
    fields = {_spelled(name): value for name, value in usage}
    line_id = fields.get("id")
    has_id = type(line_id) is str and 0 < len(line_id) <= _LONGEST_LINE_ID and is_printable(line_id)
    if len(fields) != len(usage) or not has_id:
        raise UnreadableError("no id, or a name that stands there twice")
    amounts: dict[str, int] = {}
    once: dict[str, int] = {}
    bad: list[str] = []
    for name in fields.keys() - FIXED:
        try:
            metric = kinds[name]
            number = scaled(_number(fields[name]), metric.scale)
        except (KeyError, UnreadableError):
            bad.append(name)
        else:
            (once if isinstance(metric, Sum) and metric.deduplicate else amounts)[name] = number
    if not amounts and not once:
        raise UnreadableError("no metric that can be read")
    moment = _moment(fields.get("time"))
    bad.sort()
    return Record(
        event_id, Hour.of_epoch_ms(moment), _reporter(fields), amounts, {}, once, str(line_id), tuple(bad)
    ), moment


def _number(value: object) -> Fraction:
    if not isinstance(value, str):
        raise UnreadableError("not a number")
    return exact(value)


def _moment(time: object) -> int:
    """Return a moment in milliseconds since 1970, without a fraction of one."""
    if not isinstance(time, str):
        raise UnreadableError("no time")
    if len(time) <= LONGEST_NUMBER and _TIME.fullmatch(time):
        moment = math.floor(Fraction(time))
        if 0 < moment < SECONDS_BELOW:
            raise UnreadableError("a time in seconds")
        return moment
    try:
        at = datetime.fromisoformat(time)
        if at.tzinfo is None:
            raise UnreadableError("a time without its zone")
        at = at.astimezone(UTC)  # a zone may be off by a fraction of a second, too
        return calendar.timegm(at.timetuple()) * 1000 + at.microsecond // 1000
    except (ValueError, OverflowError) as error:
        raise UnreadableError("no time") from error


def _reporter(fields: Mapping[str, Any]) -> str:
    key, customer = fields.get("key"), fields.get("customer")
    if customer is None and type(key) is str and is_id(key):
        return source_of_key(key)
    if key is None and type(customer) is str and is_id(customer):
        return source_of_customer(customer)
    raise UnreadableError("exactly one of key and customer must say who used it")


def _spelled(name: str) -> str:
    """Return a name as text, which half a surrogate pair is not."""
    return "".join(f"\\u{ord(sign):04x}" if "\ud800" <= sign <= "\udfff" else sign for sign in name)
