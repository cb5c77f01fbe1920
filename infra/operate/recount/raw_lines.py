"""Lines of the access log in the raw archive, read in the plainest way.

Why there is a second reader: :mod:`infra.operate.recount.raw_log`.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from typing import Final, Self, assert_never

import msgspec

from metering.model.log_format import (
    FORMAT_VERSION,
    LARGEST,
    LONGEST_VALUE,
    MISSING,
    VARIABLE_PATTERN,
    AccessRecord,
)
from metering.model.metrics import OTHER, USAGE_LINES, Count, Max, Metric, Sum, Unique, meters_of
from metering.model.periods import Hour
from metering.model.subjects import is_id, source_of_key

_LONGEST_SPLIT: Final = 64
LONGEST_NUMBER: Final = 64
SECONDS_BELOW: Final = 10**11
"""In seconds the year 5138, in milliseconds 1973: no moment below it is in milliseconds."""

_NEVER: Final = 10**15
_NUMBER: Final = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d{1,3})?", re.ASCII | re.IGNORECASE)
_VARIABLE: Final = re.compile(VARIABLE_PATTERN)
_EVERY_LINE: Final = frozenset(AccessRecord.__struct_fields__)
_CLAIM: Final = re.compile(r'"(?:key":"(?:[a-z][a-z0-9-]{0,31}:)?|authorizer\.claims\.[\w:]+":")(?=")', re.ASCII)
"""Where a claim begins that a REST API's JWT authorizer tells as JSON text, and so in quotes of its own."""


class UnreadableError(ValueError):
    """A line that cannot be counted as it stands; it lies among what was set aside."""


@dataclass(frozen=True, slots=True)
class Record:
    """One good line: what it adds, by meter, and the values that it brings, by metric.

    ``id`` is the request's or the log event's own; ``source`` is a key, or ``@<customer>``. What is in ``once`` counts
    only the first time that ``line_id`` is met; ``bad`` are metrics that cannot read it.
    """

    id: str
    hour: Hour
    source: str
    amounts: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    once: Mapping[str, int] = field(default_factory=dict)
    line_id: str = ""
    bad: tuple[str, ...] = ()

    def parted(self, metrics: Collection[str]) -> tuple[Self, Self]:
        """Return what these meters and metrics have of it, and what the others have."""
        return self._of(lambda name: name in metrics), self._of(lambda name: name not in metrics)

    def _of(self, has: Callable[[str], bool]) -> Self:
        return replace(
            self,
            amounts={name: amount for name, amount in self.amounts.items() if has(name)},
            values={name: value for name, value in self.values.items() if has(name)},
            once={name: amount for name, amount in self.once.items() if has(name)},
        )


def read_access_line(line: str, metrics: tuple[Metric, ...], nonces: Sequence[str]) -> Record | None:
    """Return what a line of the access log adds up to, or None if it names no key; raise UnreadableError.

    A metric that cannot read its value is in ``bad``; a line that no metric can read raises.
    """
    return read_by_hour(line, lambda _: metrics, nonces)


def read_by_hour(
    line: str,
    metrics_in_force: Callable[[Hour], Sequence[Metric]],
    nonces: Sequence[str],
    connections: Collection[str] = (),
) -> Record | None:
    """Return the same, by the metrics that were in force in the hour of the request.

    A key that begins with the name of one of the ``connections`` is that of a caller of its, and of no other API's.
    """
    fields = fields_of_ours(line, nonces)
    name, *rest = fields["key"].split(":", 1)
    if rest and name in connections and name != fields["api_id"]:
        raise UnreadableError("the key of another API's caller")
    return record_of(fields, metrics_in_force(hour_of(fields)))


def record_of(fields: Mapping[str, str], metrics: Sequence[Metric], others: Sequence[Metric] = ()) -> Record | None:
    """Return what the fields of a line add up to, whoever wrote its format; see :func:`read_access_line`.

    ``others`` are metrics for which the format lacks something: what they may bill is bad.
    """
    key, hour = fields["key"], hour_of(fields)
    if any(fields[name] in ("", MISSING) for name in ("request_id", "time", "status")):
        raise UnreadableError("no request, no time or no status")
    _number(fields["status"], 0)
    if key in (MISSING, f"{fields['api_id']}:{MISSING}"):
        return None
    if not is_id(key):
        raise UnreadableError("not the id of a key")
    billing = [metric for metric in metrics if _lets_through(metric, fields)]
    amounts: dict[str, int] = {}
    values: dict[str, str] = {}
    bad: list[str] = []
    for metric in billing:
        try:
            match metric:
                case Count():
                    amounts[_meter(metric, fields)] = 1
                case Sum() | Max():
                    amounts[_meter(metric, fields)] = _number(fields.get(metric.of, MISSING), metric.scale)
                case Unique():
                    values[metric.name] = _value(fields.get(metric.of, MISSING))
                case _:
                    assert_never(metric)
        except UnreadableError:
            bad.append(metric.name)
    can_read = len(billing) - len(bad)
    bad += [metric.name for metric in others if _may_let_through(metric, fields)]
    if bad and not can_read:
        raise UnreadableError("no metric can read its value")
    brought = {name: value for name, value in values.items() if value not in (MISSING, "")}
    return Record(fields["request_id"], hour, source_of_key(key), amounts, brought, bad=tuple(bad))


def fields_of_ours(line: str, nonces: Sequence[str]) -> dict[str, str]:
    """Return a line's fields; raise UnreadableError for what is no line of ours, whole as it was written (I7)."""
    try:
        pairs = json.loads(_with_escaped_claims(line).strip("\ufeff, \t\r\n"), object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise UnreadableError("not JSON") from error
    is_flat = isinstance(pairs, list) and all(isinstance(pair, tuple) and isinstance(pair[1], str) for pair in pairs)
    if not is_flat or not pairs or pairs[0][0] != "metering":
        raise UnreadableError("not our format")
    fields = dict(pairs)
    try:
        "".join(fields.values()).encode()
    except UnicodeEncodeError as error:
        raise UnreadableError("half a surrogate pair") from error
    beginnings = [f"{FORMAT_VERSION}:{len(pairs)}:{nonce}" for nonce in nonces]
    if fields["metering"] not in beginnings or fields.get("end") not in nonces:
        raise UnreadableError("not of this deployment, or not as long as it says")
    others = fields.keys() - _EVERY_LINE
    if len(fields) != len(pairs) or not fields.keys() >= _EVERY_LINE or not all(map(_VARIABLE.fullmatch, others)):
        raise UnreadableError("a field twice, missing or of another kind")
    claims = {name for name in fields if name.startswith("authorizer.claims.")}
    return {name: _bare(text) if name in claims else text for name, text in fields.items()}


def _with_escaped_claims(line: str) -> str:
    """Return a line in which the quotes that a claim itself has are escaped: they belong to who calls (I7)."""
    parts, done = [], 0
    for place in _CLAIM.finditer(line):
        claim, end = _text_at(line, place.end())
        if claim is not None and line[end : end + 2] in ('",', '"}'):
            parts += [line[done : place.end()], json.dumps(line[place.end() : end])[1:-1]]
            done = end
    return "".join([*parts, line[done:]])


def _bare(text: str) -> str:
    """Return a claim that a metric reads without quotes of its own."""
    claim, end = _text_at(text, 0) if text.startswith('"') else (None, 0)
    return text if claim is None or end != len(text) else claim


def _text_at(line: str, place: int) -> tuple[str | None, int]:
    """Return the text of JSON that begins at a place, and where it ends; None if there is none."""
    try:
        text, end = json.JSONDecoder().raw_decode(line, place)
        text.encode()
    except (ValueError, AttributeError, RecursionError):
        return None, place
    return text, end


def hour_of(fields: Mapping[str, str]) -> Hour:
    """Return the hour of a line whose time is in milliseconds, or in seconds as HTTP APIs write it."""
    moment = exact(fields["time"])
    if moment.denominator != 1 or not 0 <= moment <= _NEVER:
        raise UnreadableError("no time")
    return Hour.of_epoch_ms(int(moment) if moment >= SECONDS_BELOW else int(moment) * 1000)


def _value(text: str) -> str:
    if len(text) > LONGEST_VALUE:
        raise UnreadableError("a value is too long")
    return text


@lru_cache(maxsize=1 << 14)
def _number(text: str, scale: int) -> int:
    """Return a number of the log times ten to the power of ``scale``; a missing one is 0."""
    if text in (MISSING, ""):
        return 0
    return scaled(exact(text), scale)


def exact(text: str) -> Fraction:
    """Return a number as it is spelled; raise UnreadableError for what is none, or too long."""
    if len(text) > LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        raise UnreadableError("not a number")
    return Fraction(text)


def scaled(number: Fraction, scale: int) -> int:
    """Return a number times ten to the power of ``scale``; raise UnreadableError if that is not exact."""
    multiple = number * 10**scale
    if multiple.denominator != 1 or not 0 <= multiple <= LARGEST:
        raise UnreadableError("a number that is negative, too large or too fine")
    return int(multiple)


def _lets_through(metric: Metric, fields: Mapping[str, str]) -> bool:
    if not isinstance(metric, Count | Unique) and metric.of == USAGE_LINES:
        return False
    status = _number(fields["status"], 0)
    path = fields["resource"].split(" ")[-1]  # an HTTP API's route key is "GET /items/{id}"
    right_status = str(status) in metric.statuses or f"{status // 100}xx" in metric.statuses
    right_method = not metric.methods or fields["method"] in metric.methods
    right_path = not metric.resources or any(
        path == wanted or (wanted.endswith("*") and path.startswith(wanted[:-1])) for wanted in metric.resources
    )
    right_api = fields["api_id"] in metric.apis or not metric.apis
    right_stage = fields["stage"] in metric.stages or not metric.stages
    return right_status and right_method and right_path and right_api and right_stage


def _may_let_through(metric: Metric, fields: Mapping[str, str]) -> bool:
    """Say whether a metric lets a record through whose method and resource may not be known."""
    return _lets_through(msgspec.structs.replace(metric, methods=(), resources=()), fields)


def _meter(metric: Count | Sum | Max, fields: Mapping[str, str]) -> str:
    """Return the name that a record is billed under, where a metric's values have meters of their own."""
    if isinstance(metric, Max) or not metric.meters:
        return metric.name
    made = {"status_class": f"{_number(fields['status'], 0) // 100}xx", "api": fields["api_id"]}
    value = made.get(metric.by) or fields.get(metric.by) or MISSING
    names = meters_of(metric)
    return names[value if value in names and len(value.encode()) <= _LONGEST_SPLIT else OTHER]
