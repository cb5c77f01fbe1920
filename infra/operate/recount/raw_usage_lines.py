"""Usage lines of the raw archive, read in the plainest way.

Why there is a second reader: :mod:`infra.operate.recount.raw_log`. What it must find in whatever a logger puts around
a usage line: :mod:`metering.model.usage_frames`, whose rule this follows sign by sign and value by value.
"""

import calendar
import json
import math
import re
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any, Final, NoReturn

from infra.operate.recount.raw_lines import Record, UnreadableError, scaled
from metering.model.metrics import USAGE_LINES, Max, Metric, Sum
from metering.model.periods import Hour
from metering.model.subjects import is_id, is_printable, source_of_customer, source_of_key

_LONGEST_LINE_ID: Final = 128
_LONGEST_NUMBER: Final = 64
_SECONDS_BELOW: Final = 10**11
_MOST_SIGNS: Final = 20
_ESCAPED_SPACES: Final = ("\\n", "\\r", "\\t")
_FIXED: Final = frozenset({"id", "time", "key", "customer"})
_NUMBER: Final = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d{1,3})?", re.ASCII | re.IGNORECASE)
_TIME: Final = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d{1,3})?", re.ASCII | re.IGNORECASE)


def read_usage_line(event_id: str, line: str, metrics: Sequence[Metric]) -> Record | None:
    """Return what a usage line reports, or None if it is none; raise UnreadableError.

    A metric that cannot read its number is in ``bad``; a line that no metric can read raises.
    """
    kinds = {metric.name: metric for metric in metrics if isinstance(metric, Sum | Max) and metric.of == USAGE_LINES}
    found = _Looked(frozenset(kinds))
    found.at(line)
    if found.unread:
        raise UnreadableError("what may be a usage line, but is no JSON")
    reports = [_report(event_id, usage, kinds) for usage in found.usages]
    if any(report != reports[0] for report in reports):
        raise UnreadableError("more than one report")
    return reports[0][0] if reports else None


def _report(event_id: str, usage: "_Pairs", kinds: Mapping[str, Sum | Max]) -> tuple[Record, int]:
    """Return what an object reports, and its moment: two that differ in that alone are two."""
    fields = {_spelled(name): value for name, value in usage}
    line_id = fields.get("id")
    is_id = type(line_id) is str and 0 < len(line_id) <= _LONGEST_LINE_ID and is_printable(line_id)
    if len(fields) != len(usage) or not is_id:
        raise UnreadableError("no id, or a name that stands there twice")
    amounts: dict[str, int] = {}
    once: dict[str, int] = {}
    bad: list[str] = []
    for name in fields.keys() - _FIXED:
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
    if not isinstance(value, str) or len(value) > _LONGEST_NUMBER or not _NUMBER.fullmatch(value):
        raise UnreadableError("not a number")
    return Fraction(value)


def _moment(time: object) -> int:
    """Return a moment in milliseconds since 1970, without a fraction of one."""
    if not isinstance(time, str):
        raise UnreadableError("no time")
    if len(time) <= _LONGEST_NUMBER and _TIME.fullmatch(time):
        moment = math.floor(Fraction(time))
        if 0 < moment < _SECONDS_BELOW:
            raise UnreadableError("a time in seconds")
        return moment
    try:
        at = datetime.fromisoformat(time)
        if at.tzinfo is None:
            raise UnreadableError("a time without its zone")
        return calendar.timegm(at.utctimetuple()) * 1000 + at.microsecond // 1000
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


class _Pairs(list[tuple[str, Any]]):
    """A JSON object: its names and values, each as often as it stands there."""


class _Figure(str):
    """A JSON number as it is spelled."""

    __slots__ = ()


def _no_json(constant: str) -> NoReturn:
    raise ValueError(constant)


_JSON: Final = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_int=_Figure, parse_float=_Figure, parse_constant=_no_json
)


@dataclass(slots=True)
class _Looked:
    """What a look at a line has found: objects that are ours, and whether one may stand where nothing can be read."""

    metrics: frozenset[str]
    usages: list[_Pairs] = field(default_factory=list)
    unread: bool = False

    def at(self, text: str, *, is_usage: bool = False) -> None:
        """Look at a text, which is the value of ``usage`` or is not."""
        if not (is_usage or "usage" in text):
            return
        read_to = 0
        brace = text.find("{")
        while brace >= 0:
            quote = _first_sign(text, brace + 1)
            end = brace + 1
            if quote:
                try:
                    value, end = self._json(text, brace, escaped=quote == "\\")
                except (ValueError, RecursionError):
                    break
                named = self._pass_by(text, read_to, brace)
                self._look_into(value, is_usage=is_usage or named)
                read_to = end
            brace = text.find("{", end)
        self._pass_by(text, read_to, len(text))
        unread = text.find("{", read_to)
        if is_usage and unread >= 0:
            self.unread = self.unread or self._is_own_text(text, unread + 1)

    def _json(self, text: str, start: int, *, escaped: bool) -> tuple[Any, int]:
        if not escaped:
            return _JSON.raw_decode(text, start)
        end = start
        while end < len(text) and text[end] != '"':
            pair = 2 if text[end] == "\\" else 1
            if end + pair > len(text):
                break
            end += pair
        return json.loads(f'"{text[start:end]}"'), end

    def _look_into(self, value: Any, *, is_usage: bool) -> None:
        values = deque([(value, is_usage)])
        while values:
            value, is_usage = values.popleft()
            if isinstance(value, _Pairs):
                if is_usage and self._is_own({name for name, _ in value}):
                    self.usages.append(value)
                else:
                    values.extend((member, name == "usage") for name, member in value)
            elif isinstance(value, list):
                values.extend((member, is_usage) for member in value)
            elif type(value) is str:
                self.at(value, is_usage=is_usage)

    def _pass_by(self, text: str, start: int, brace: int) -> bool:
        """Note whether what is passed by unread may be a usage line; say whether the object at ``brace`` is named."""
        at = text.find("usage", start, brace)
        while at >= 0:
            opens = _opens(text, at + len("usage")) if _begins(text, at) else 0
            if opens == brace + 1:
                return True
            if 0 < opens <= brace:
                self.unread = self.unread or self._is_own_text(text, opens)
            at = text.find("usage", at + 1, brace)
        return False

    def _is_own(self, names: Collection[str]) -> bool:
        if "key" in names or "customer" in names:
            return True
        return ("id" in names and "time" in names) or (
            ("id" in names or "time" in names) and any(name in names for name in self.metrics)
        )

    def _is_own_text(self, text: str, start: int) -> bool:
        """Say whether the fields of a usage line may begin there: what goes on unread may have any, or none yet."""
        brace = re.compile("[{}]").search(text, start)
        inside = text[start : brace.start() if brace else len(text)]
        names = {name for name in {*_FIXED, *self.metrics} if _has_field(inside, name)}
        if brace and brace[0] == "}":
            return self._is_own(names)
        return bool(names) or (brace is None and ":" not in inside and "=" not in inside)


def _first_sign(text: str, at: int) -> str:
    """Return the quote or brace with which the inside of an object begins, a backslash if it is escaped, or nothing."""
    while text[at : at + 1].isspace() or text[at : at + 2] in _ESCAPED_SPACES:
        at += 1 if text[at].isspace() else 2
    if text[at : at + 1] in ('"', "}"):
        return text[at]
    behind = at
    while text[behind : behind + 1] == "\\":
        behind += 1
    return "\\" if behind > at and text.startswith(('"', "u0022"), behind) else ""


def _begins(text: str, at: int) -> bool:
    """Say whether a word begins there."""
    return at == 0 or not _is_of_a_word(text[at - 1]) or text.endswith((*_ESCAPED_SPACES, "u0022"), 0, at)


def _is_of_a_word(sign: str) -> bool:
    return sign.isalnum() or sign == "_"


def _has_field(text: str, name: str) -> bool:
    at = text.find(name)
    while at >= 0:
        sign = _past_signs(text, at + len(name))
        if _begins(text, at) and text[sign : sign + 1] in (":", "="):
            return True
        at = text.find(name, at + 1)
    return False


def _opens(text: str, at: int) -> int:
    """Return where the inside of an object begins whose name ended there, or 0 if none does."""
    sign = _past_signs(text, at)
    if text[sign : sign + 1] not in (":", "="):
        return 0
    brace = _past_signs(text, sign + 1)
    return brace + 1 if text[brace : brace + 1] == "{" else 0


def _past_signs(text: str, at: int) -> int:
    """Return where the signs between a name and its value end, of which there are not many."""
    for _ in range(_MOST_SIGNS):
        if text[at : at + 2] in _ESCAPED_SPACES:
            at += 2
        elif text.startswith(("u0022", "quot"), at):
            at += 5 if text[at] == "u" else 4
        elif at < len(text) and not _is_of_a_word(text[at]) and text[at] not in "{}:=":
            at += 1
        else:
            break
    return at
