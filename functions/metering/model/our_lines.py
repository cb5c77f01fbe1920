"""Lines of our own format: which fields one has, and how many of them are read at once. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Protocol, get_type_hints

import msgspec

from metering.model.log_format import (
    FORMAT_VERSION,
    MEASURED_FIELDS,
    MISSING,
    NONCE_PATTERN,
    VARIABLE_PATTERN,
    AccessRecord,
    Declared,
    fields_of,
)
from metering.model.token_claims import bare, is_claim, with_escaped_claims


class LineForm(Protocol):
    """How lines are written: whatever it is, the values found in one are looked at in the same way."""

    @property
    def unread(self) -> Mapping[str, str]:
        """The names of metrics that such lines cannot be measured by, and why."""

    def fields(self, line: str, /) -> dict[str, str] | None:
        """Return a line's fields and variables, each as text; None for one that is none of ours.

        Raises ValueError for a line that is not written so.
        """

    def at_once(self, lines: bytes, log: Declared, /) -> list[AccessRecord] | None:
        """Return the records of lines that all hold one of ours, exactly as it is written; None if any may not."""


@dataclass(frozen=True, slots=True)
class Ours:
    """Lines of our own format, with one of these nonces; those of one ``connection`` alone, if it is named."""

    nonces: tuple[str, ...]
    connection: str = ""

    @property
    def unread(self) -> Mapping[str, str]:
        """None: a metric reads what a line of before has not as a missing value."""
        return {}

    def at_once(self, lines: bytes, log: Declared) -> list[AccessRecord] | None:
        """Return the records of lines that are all as our format writes them; None if any may not be.

        Each says how many fields its format has, and together they have as many quotes as that: then no value holds a
        quote, so that none can have forged a field (I7).
        """
        # A record a line: whatever else one is, the decoder refuses. A long needle is found faster than a short one.
        count = lines.count(b"\n" + _BEGINNING) + 1
        if not lines.startswith(_BEGINNING) or lines.count(b'"') != count * 4 * fields_of(log):
            return None
        try:
            records = _exact_decoder(log.variables, self).decode_lines(lines)
        except _UNREADABLE:
            return None
        return records if len(records) == count else None

    def fields(self, line: str) -> dict[str, str]:
        """Return a line's fields; raise ValueError for one that is not of our format."""
        fields = _fields(line, self.nonces)
        if self.connection and fields["api_id"] != self.connection:
            raise ValueError(f"not of the connection {self.connection}: api_id is {short(fields['api_id'])}")
        return fields


def _fields(line: str, nonces: tuple[str, ...]) -> dict[str, str]:
    """Return the fields of a line of ours; raise ValueError for any other (I7).

    It begins and ends with the nonce, has as many fields as it says, each once and each text, those that every line
    has and variables beside them. So a line that was written for more metrics or fewer is as good.

    A token's claim may stand in quotes of its own (:mod:`metering.model.token_claims`).
    """
    line = with_escaped_claims(line)
    try:
        fields = msgspec.json.decode(line.strip(_AROUND), type=dict[str, Any])
    except msgspec.ValidationError as error:
        raise ValueError("not our format: the line is no JSON object with the field 'metering'") from error
    except _UNREADABLE as error:
        raise ValueError("not JSON") from error
    begins = _BEGINS.match(line)
    if begins is None or begins[2] not in nonces:
        raise ValueError(_not_ours(fields, begins=begins is not None))
    strings = sum(1 for _ in _STRING.finditer(line))
    is_text = all(isinstance(value, str) for value in fields.values())
    if not is_text or not strings == 2 * len(fields) == 2 * int(begins[1]):
        raise ValueError(_miscounted(fields, int(begins[1]), strings))
    if fields.get("end", "") not in nonces:
        raise ValueError("not our format: the line does not end with the nonce")
    if missing := [name for name in AccessRecord.__struct_fields__ if name not in fields]:
        raise ValueError(f"the field {missing[0]!r} is missing")
    others = fields.keys() - AccessRecord.__struct_fields__
    if strange := [name for name in others if not re.fullmatch(VARIABLE_PATTERN, name)]:
        raise ValueError(f"not our format: it has no field {short(min(strange))}")
    return {name: bare(value) if is_claim(name) else value for name, value in fields.items()}


def _not_ours(fields: Mapping[str, Any], *, begins: bool) -> str:
    if begins:
        return "not of this deployment: 'metering' holds another nonce than its own"
    if "metering" not in fields:
        return "not our format: the line does not begin with 'metering'"
    got = short(fields["metering"])
    return f"not our format: the version of 'metering' must be {FORMAT_VERSION} and its nonce must follow, got {got}"


def _miscounted(fields: Mapping[str, Any], said: int, strings: int) -> str:
    """Say why a line has not as many strings as it says that it has fields, each with a name and a value."""
    for name, value in fields.items():
        if not isinstance(value, str):
            return f"{name[:_LONGEST_NAME]} must be a string, got {short(value)}"
    twice = " with one of them twice" if strings > 2 * len(fields) else ""
    return f"not our format: the line says that it has {said} fields, got {strings // 2}{twice}"


_AROUND: Final = "\ufeff, \t\r\n"
"""What may stand around a line: what joined objects leaves a byte order mark or a comma there."""

_BEGINNING: Final = f'{{"metering":"{FORMAT_VERSION}:'.encode()
_BEGINS: Final = re.compile(rf'[\ufeff,\s]*\{{\s*"metering"\s*:\s*"{FORMAT_VERSION}:([0-9]{{1,3}}):({NONCE_PATTERN})"')
"""How a line of ours begins, with the number of its fields and the nonce."""

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"')
"""A string of JSON."""

_LONGEST_NAME: Final = 64

_UNREADABLE: Final = (msgspec.DecodeError, RecursionError, UnicodeError)
"""How lines fail to decode: not JSON or not the record's types, nested too deep, no UTF-8, half a surrogate pair."""

_NEVER_SO: Final = Annotated[float, msgspec.Meta(gt=0, lt=0)]
"""What the decoder takes any spelling for that is not of digits alone, and so refuses: by itself, it would read such a
text as a double and round it, and a number of the log is exact or refused."""

_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_EVENTS: Final = ("CONNECT", "MESSAGE", "DISCONNECT", MISSING)
"""What a WebSocket API's log has for a method (API Gateway Developer Guide, "Set up logging for WebSocket APIs"), and
what it has for a handshake that failed."""


@lru_cache
def _exact_decoder(variables: tuple[str, ...], form: Ours) -> "msgspec.json.Decoder[AccessRecord]":
    """Return a decoder of lines that are exactly as the format writes them; what it refuses is looked at singly."""
    log = Declared(variables)
    begins = tuple(f"{FORMAT_VERSION}:{fields_of(log)}:{nonce}" for nonce in form.nonces)
    record_type = log.record_type()
    hints = get_type_hints(record_type, include_extras=True)
    exact: Any = msgspec.defstruct(
        "ExactRecord",
        [
            *((name, hints[name]) for name in record_type.__struct_fields__),  # none of them may be missing
            *((name, hints[name] | _NEVER_SO) for name in ("time", "status", *MEASURED_FIELDS)),
            ("metering", Literal[begins]),
            ("request_id", Annotated[str, msgspec.Meta(min_length=len(MISSING) + 1)]),
            ("method", Literal[(*_METHODS, *_EVENTS)]),
            *([("api_id", Literal[form.connection])] if form.connection else []),
            ("end", Literal[form.nonces]),
        ],
        bases=(record_type,),
        rename={log.attribute(variable): variable for variable in variables},
        forbid_unknown_fields=True,
        kw_only=True,
        frozen=True,
        gc=False,
    )
    return msgspec.json.Decoder(exact, strict=False)


def short(value: object) -> str:
    """Return a value as it may stand in a reason: bounded, since a line may be as long as 1 MB."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - one line of a terminal
