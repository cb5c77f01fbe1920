"""The access log's lines, and how one is read: line → AccessRecord or Rejected. Pure."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, get_type_hints

import msgspec

from metering.model.log_format import (
    FORMAT_VERSION,
    LARGEST,
    LONGEST_VALUE,
    MISSING,
    NOTHING_DECLARED,
    AccessRecord,
    Declared,
    version_of,
)
from metering.model.periods import LATEST_RECORD, OLDEST_RECORD, aware
from metering.model.subjects import ID_RULE, is_id


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that cannot be counted as it stands, and why."""

    line: str
    reason: str


@dataclass(slots=True)
class Reader:
    """Reads the lines of a batch that arrived at ``now``."""

    now: datetime
    declared: Declared = NOTHING_DECLARED
    _decoder: "msgspec.json.Decoder[AccessRecord]" = field(init=False)
    _exactly: "msgspec.json.Decoder[AccessRecord]" = field(init=False)
    _quotes: int = field(init=False)
    _earliest: int = field(init=False)
    _latest: int = field(init=False)
    _known_keys: set[str] = field(init=False, default_factory=lambda: {MISSING})

    def __post_init__(self) -> None:
        self._decoder = _decoder(self.declared.variables)
        self._exactly = _exact_decoder(self.declared.variables)
        self._quotes = 4 * (len(AccessRecord.__struct_fields__) + len(self.declared.variables))
        self._earliest = int((aware(self.now) - OLDEST_RECORD).timestamp() * 1000)
        self._latest = int((aware(self.now) + LATEST_RECORD).timestamp() * 1000)

    def read_at_once(self, lines: bytes) -> list[AccessRecord] | None:
        """Read lines that are all as our format writes them, several times faster; None if any may not be.

        Each says how many fields its format has, and together they have as many quotes as that: then no value holds a
        quote, so that none can have forged a field (I7).
        """
        count = lines.count(b"\n") + 1
        # One record a line: two of them and a blank line would have as many quotes.
        if lines.count(b'"') != count * self._quotes or lines[:1] != b"{" or lines.count(b"\n{") != count - 1:
            return None
        try:
            records = self._exactly.decode_lines(lines)
        except _UNREADABLE:
            return None
        times = [record.time for record in records]
        if len(records) != count or min(times) < self._earliest or max(times) > self._latest:
            return None
        if any(self._bad_key(key) for key in {record.key for record in records}):
            return None
        for variable in {*self.declared.amounts, *self.declared.ids}:
            attribute = self.declared.attribute(variable)
            if any(self._bad_value(variable, value) for value in {getattr(record, attribute) for record in records}):
                return None
        return records

    def read(self, line: str) -> AccessRecord | Rejected:
        """Return the line's record, or why it must be set aside."""
        try:
            record = self._decoder.decode(line)
        except _UNREADABLE as error:
            return Rejected(line, _explain(line, error))
        reason = self._bad_line(line, record) or self._bad_record(record)
        return Rejected(line, reason) if reason else record

    def _bad_line(self, line: str, record: AccessRecord) -> str:
        """Say what is wrong with a line that decodes: another format, or a value that holds quotes (I7).

        A line says by itself how many fields it was written with, before any value, so that one of an older or a newer
        format is good, too.
        """
        if record.metering.partition(":")[0] != FORMAT_VERSION:
            return f"not our format: the version of 'metering' must be {FORMAT_VERSION}, got {short(record.metering)}"
        written = _WRITTEN.match(line)
        most = 4 * int(written[1]) if written else self._quotes
        quotes = line.count('"')
        if quotes > most or (written and quotes < most):
            return f"not our format: wanted {most} quotes, got {quotes}, so that a value holds some"
        return ""

    def _bad_record(self, record: AccessRecord) -> str:
        if not self._earliest <= record.time <= self._latest:
            return explain_time(record.time, self._latest, self.now)
        if bad := self._bad_key(record.key):
            return bad
        if record.request_id in ("", MISSING):
            return f"request_id must name the request, got {record.request_id!r}"
        for variable in self.declared.variables:
            if bad := self._bad_value(variable, getattr(record, self.declared.attribute(variable))):
                return bad
        return ""

    def _bad_key(self, key: str) -> str:
        if key in self._known_keys:
            return ""
        if not is_id(key):
            return f"key must be {ID_RULE}, got {short(key)}"
        self._known_keys.add(key)
        return ""

    def _bad_value(self, variable: str, value: str) -> str:
        if variable in self.declared.ids and len(value) > LONGEST_VALUE:
            return f"{variable} must have at most {LONGEST_VALUE} characters, got {len(value)}"
        if variable in self.declared.amounts:
            try:
                amount(value, self.declared.amounts[variable])
            except ValueError as error:
                return f"{variable} must be {error}"
        return ""


@lru_cache(maxsize=1 << 14)
def amount(text: str, scale: int) -> int:
    """Return a number's multiple of 10^-scale: ``amount("1.5", 3)`` is 1500; 0 for a missing one.

    Raises ValueError, with what was wanted, for what is no number, is negative, too large, or finer than the scale:
    nothing is rounded.
    """
    if text in (MISSING, ""):
        return 0
    if re.fullmatch(rf"[0-9]{{1,13}}(\.[0-9]{{1,{scale}}})?" if scale else "[0-9]{1,13}", text):
        whole, _, decimals = text.partition(".")
        scaled = int(whole + decimals.ljust(scale, "0"))
        if scaled <= LARGEST:
            return scaled
    kind = f"a number with at most {scale} decimals" if scale else "a whole number"
    largest = f"10^{12 - scale}" if scale else "10^12"
    raise ValueError(f"{kind} from 0 to {largest}, got {short(text)}")


def explain_time(time: int, latest: int, now: datetime) -> str:
    """Say why a moment, in milliseconds since 1970, is not believed."""
    if time > latest:
        return f"time must not be over 5 minutes ahead of {now:%Y-%m-%dT%H:%M:%SZ}, got {short(time)}"
    return f"time must not be over 60 days before {now:%Y-%m-%dT%H:%M:%SZ}, got {short(time)}"


_WRITTEN: Final = re.compile(rf'\{{"metering":"{FORMAT_VERSION}:([0-9]{{1,3}})"')
"""How a line begins that API Gateway wrote, with the number of its fields."""

_UNREADABLE: Final = (msgspec.DecodeError, RecursionError, UnicodeError)
"""How lines fail to decode: not JSON or not the record's types, nested too deep, no UTF-8, half a surrogate pair."""


_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")


@lru_cache
def _exact_decoder(variables: tuple[str, ...]) -> "msgspec.json.Decoder[AccessRecord]":
    """Return a decoder of lines that are exactly as the format writes them; what it refuses is looked at singly."""
    declared = Declared(variables)
    exact: Any = msgspec.defstruct(
        "ExactRecord",
        [
            ("metering", Literal[version_of(declared)]),
            ("request_id", Annotated[str, msgspec.Meta(min_length=len(MISSING) + 1)]),
            ("method", Literal[_METHODS]),
        ],
        bases=(declared.record_type(),),
        kw_only=True,
        frozen=True,
        gc=False,
    )
    return msgspec.json.Decoder(exact, strict=False)


@lru_cache
def _decoder(variables: tuple[str, ...]) -> "msgspec.json.Decoder[AccessRecord]":
    return msgspec.json.Decoder(Declared(variables).record_type(), strict=False)


def _explain(line: str, error: Exception) -> str:
    """Say in one sentence why a line does not decode; slow, for the few lines that do not."""
    try:
        values = msgspec.json.decode(line)
    except _UNREADABLE:
        return "not JSON"
    if not isinstance(values, dict) or "metering" not in values:
        return "not our format: the line is no JSON object with the field 'metering'"
    for name in AccessRecord.__struct_fields__:
        if name not in values:
            if name in AccessRecord.__struct_fields__[: -len(AccessRecord.__struct_defaults__)]:
                return f"the field {name!r} is missing"
            continue
        try:
            msgspec.convert(values[name], _types[name], strict=False)
        except msgspec.ValidationError:
            return f"{name} must be {_wanted(name)}, got {short(values[name])}"
    return f"not our format: {short(str(error))}"


def _wanted(name: str) -> str:
    if name == "time":
        return "milliseconds since 1970"
    return "a whole number from 0 to 10^12" if "int" in str(_types[name]) else "a string"


_types = {name: get_type_hints(AccessRecord, include_extras=True)[name] for name in AccessRecord.__struct_fields__}


def short(value: object) -> str:
    """Return a value as it may stand in a reason: bounded, since a line may be as long as 1 MB."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - one line of a terminal
