"""Lines of the access log in the raw archive, read in the plainest way.

Why there is a second reader: :mod:`infra.operate.recount.raw_log`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Final, assert_never

from metering.model.log_format import FORMAT_VERSION, LARGEST, LONGEST_VALUE, MEASURED_FIELDS, MISSING
from metering.model.metrics import OTHER, USAGE_LINES, Count, Max, Metric, Sum, Unique, declared, meters_of
from metering.model.periods import Hour
from metering.model.subjects import is_id, source_of_key

_LONGEST_SPLIT: Final = 64


class UnreadableError(ValueError):
    """A line that cannot be counted as it stands; it lies among what was set aside."""


@dataclass(frozen=True, slots=True)
class Record:
    """One good line: what it adds, by meter, and the values that it brings, by metric.

    ``id`` is the request's or the log event's own; ``source`` is a key, or ``@<customer>``. What is in ``once`` counts
    only the first time that ``line_id`` is met.
    """

    id: str
    hour: Hour
    source: str
    amounts: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    once: Mapping[str, int] = field(default_factory=dict)
    line_id: str = ""


def read_access_line(line: str, metrics: tuple[Metric, ...]) -> Record | None:
    """Return what a line of the access log adds up to, or None if it names no key; raise UnreadableError."""
    fields = _fields(line)
    scales, ids = _declared(metrics)
    numbers = {name: _number(fields.get(name, MISSING), scale) for name, scale in scales.items()}
    if any(len(fields.get(name, "")) > LONGEST_VALUE for name in ids):
        raise UnreadableError("a value is too long")
    key = fields["key"]
    if key == MISSING:
        return None
    if not is_id(key):
        raise UnreadableError("not the id of a key")
    billing = [metric for metric in metrics if _lets_through(metric, fields)]
    amounts: dict[str, int] = {}
    values: dict[str, str] = {}
    for metric in billing:
        match metric:
            case Count():
                amounts[_meter(metric, fields)] = 1
            case Sum() | Max():
                if metric.of != USAGE_LINES:
                    amounts[_meter(metric, fields)] = numbers[metric.of]
            case Unique():
                values[metric.name] = fields.get(metric.of, "")
            case _:
                assert_never(metric)
    brought = {name: value for name, value in values.items() if value not in (MISSING, "")}
    return Record(fields["request_id"], Hour.of_epoch_ms(int(fields["time"])), source_of_key(key), amounts, brought)


@lru_cache
def _declared(metrics: tuple[Metric, ...]) -> tuple[dict[str, int], frozenset[str]]:
    """Return how many decimals of each number count, and which variables hold ids."""
    variables = declared(metrics)
    return dict.fromkeys(MEASURED_FIELDS, 0) | dict(variables.amounts), variables.ids


def _fields(line: str) -> dict[str, str]:
    """Return a line's fields as text; raise UnreadableError for what is not our format."""
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UnreadableError("not JSON") from error
    if not isinstance(parsed, dict) or not isinstance(parsed.get("metering"), str):
        raise UnreadableError("not our format")
    fields = {name: str(value) for name, value in parsed.items()}
    version, _, written = fields["metering"].partition(":")
    if version != FORMAT_VERSION or written not in ("", str(len(fields))):
        raise UnreadableError("not our format")
    # Each field has four quotes of its own: more of them, and a value holds some or a field stands there twice (I7).
    if line.count('"') > 4 * len(fields):
        raise UnreadableError("a value holds quotes")
    if not all(re.fullmatch("[0-9]{1,15}", fields.get(name, "")) for name in ("time", "status")):
        raise UnreadableError("no time or no status")
    if fields.get("request_id", MISSING) in ("", MISSING) or not {"key", "method", "resource"} <= fields.keys():
        raise UnreadableError("a field is missing")
    return fields


@lru_cache(maxsize=1 << 14)
def _number(text: str, scale: int) -> int:
    """Return a number of the log times ten to the power of ``scale``; a missing one is 0."""
    if text in (MISSING, ""):
        return 0
    if not re.fullmatch(r"[0-9]{1,13}(\.[0-9]{1,9})?", text):
        raise UnreadableError("not a number")
    return scaled(Fraction(text), scale)


def scaled(number: Fraction, scale: int) -> int:
    """Return a number times ten to the power of ``scale``; raise UnreadableError if that is not exact."""
    multiple = number * 10**scale
    if multiple.denominator != 1 or not 0 <= multiple <= LARGEST:
        raise UnreadableError("a number that is negative, too large or too fine")
    return int(multiple)


def _lets_through(metric: Metric, fields: Mapping[str, str]) -> bool:
    status = int(fields["status"])
    path = fields["resource"].split(" ")[-1]  # an HTTP API's route key is "GET /items/{id}"
    right_status = str(status) in metric.statuses or f"{status // 100}xx" in metric.statuses
    right_method = not metric.methods or fields["method"] in metric.methods
    right_path = not metric.resources or any(
        path == wanted or (wanted.endswith("*") and path.startswith(wanted[:-1])) for wanted in metric.resources
    )
    return right_status and right_method and right_path


def _meter(metric: Count | Sum | Max, fields: Mapping[str, str]) -> str:
    """Return the name that a record is billed under, where a metric's values have meters of their own."""
    if isinstance(metric, Max) or not metric.meters:
        return metric.name
    value = f"{int(fields['status']) // 100}xx" if metric.by == "status_class" else fields.get(metric.by) or MISSING
    names = meters_of(metric)
    return names[value if value in names and len(value) <= _LONGEST_SPLIT else OTHER]
