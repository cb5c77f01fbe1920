"""The access log: what API Gateway writes of a request, and how a line is read. Pure.

One class, :class:`AccessRecord`, defines the fields: name, ``$context`` variable and type. The stage's format and the
reader both come from it, so that they cannot drift apart.

Every value is quoted in the format and arrives as a string; a missing one is written ``-`` (API Gateway Developer
Guide, "Variables for access logging"). No field is one that a caller can write freely (no raw path, query or user
agent): a caller can neither break the JSON nor forge a field (I7).
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Annotated, Final, Literal, get_args, get_type_hints

import msgspec

from metering.periods import LATEST_RECORD, OLDEST_RECORD, aware

MISSING: Final = "-"
"""How API Gateway logs a variable that has no value."""

LARGEST: Final = 10**12
"""The largest number a record may hold; a larger one could not be added up within a counter's 38 digits for ever."""

ID_PATTERN: Final = r"[A-Za-z0-9_-]{1,64}"
"""What the id of an API key looks like here: it becomes part of the keys of tables."""

FORMAT_VERSION: Final = "1"


class Api(Enum):
    """The kind of API that writes the log."""

    REST = "rest"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Context:
    """The ``$context`` variable behind a field, for each kind of API that can log it."""

    rest: str | None = None
    http: str | None = None

    def on(self, api: Api) -> str | None:
        """Return the variable's name on this kind of API, or None where it cannot be logged."""
        return self.rest if api is Api.REST else self.http


_Moment = Annotated[int, msgspec.Meta(ge=0)]
_Whole = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
_Measured = _Whole | Literal["-"]


class AccessRecord(msgspec.Struct, frozen=True, gc=False):
    """One request, as the access log tells it.

    ``request_id`` is ``extendedRequestId``, because a client can choose ``requestId`` with a header. ``key`` is the
    API key's id, never its value, which is the secret. ``time`` is in milliseconds since 1970, lengths are in bytes,
    latencies in milliseconds; a measured field is ``-`` where the request had no such thing.
    """

    metering: Literal["1"]
    request_id: Annotated[str, Context(rest="extendedRequestId", http="extendedRequestId")]
    time: Annotated[_Moment, Context(rest="requestTimeEpoch", http="requestTimeEpoch")]
    key: str
    status: Annotated[_Whole, Context(rest="status", http="status")]
    method: Annotated[str, Context(rest="httpMethod", http="httpMethod")]
    resource: Annotated[str, Context(rest="resourcePath", http="routeKey")]
    response_length: Annotated[_Measured, Context(rest="responseLength", http="responseLength")] = MISSING
    response_latency: Annotated[_Measured, Context(rest="responseLatency", http="responseLatency")] = MISSING
    integration_latency: Annotated[_Measured, Context(rest="integration.latency", http="integration.latency")] = MISSING
    data_processed: Annotated[_Measured, Context(http="dataProcessed")] = MISSING


def _fields() -> dict[str, tuple[Context, bool]]:
    """Return each field's context variable, and whether it is a measured number, by its name."""
    found = {}
    for name, hint in get_type_hints(AccessRecord, include_extras=True).items():
        for note in getattr(hint, "__metadata__", ()):
            if isinstance(note, Context):
                found[name] = (note, MISSING in [get_args(part)[0] for part in get_args(get_args(hint)[0])])
    return found


FIELDS: Final = {name: context for name, (context, _) in _fields().items()}
"""Each field's ``$context`` variable; ``key`` is not among them, since the caller's identity is the stack's choice."""

MEASURED_FIELDS: Final = tuple(name for name, (_, measured) in _fields().items() if measured)
"""The fields that a metric may sum."""


@dataclass(frozen=True, slots=True)
class AccessLog:
    """What a stage writes: its kind of API, and the ``$context`` variable that says whom a request is billed to.

    REST APIs have API keys. HTTP APIs have none, so there an authorizer must name the caller:
    ``authorizer.<property>`` or ``authorizer.claims.<name>``. Raises ValueError for any other variable.
    """

    api: Api = Api.REST
    caller: str | None = None

    def __post_init__(self) -> None:
        if self.caller is None and self.api is Api.HTTP:
            raise ValueError(
                "an HTTP API has no API keys: say who is billed, for example caller='authorizer.claims.sub'"
            )
        if self.caller is not None and not re.fullmatch(
            r"identity\.apiKeyId|authorizer\.(claims\.)?[A-Za-z0-9_]{1,64}", self.caller
        ):
            raise ValueError(
                "caller must be 'identity.apiKeyId', 'authorizer.<property>' or 'authorizer.claims.<name>', "
                f"got {self.caller!r}"
            )
        if self.api is Api.HTTP and self.caller == "identity.apiKeyId":
            raise ValueError("an HTTP API cannot log 'identity.apiKeyId': write 'authorizer.<property>' instead")

    def format(self) -> str:
        """Return the stage's access-log format: one line of JSON with every field and every value quoted."""
        variables = {name: variable for name, context in FIELDS.items() if (variable := context.on(self.api))}
        variables["key"] = self.caller or "identity.apiKeyId"
        line = {"metering": FORMAT_VERSION} | dict.fromkeys(AccessRecord.__struct_fields__[1:], MISSING)
        line |= {name: f"$context.{variable}" for name, variable in variables.items()}
        return msgspec.json.encode(line).decode()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that cannot be counted as it stands, and why."""

    line: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the lines of a batch that arrived at ``now``."""

    now: datetime
    _earliest: int = field(init=False)
    _latest: int = field(init=False)
    _known_keys: set[str] = field(init=False, default_factory=lambda: {MISSING})

    def __post_init__(self) -> None:
        object.__setattr__(self, "_earliest", int((aware(self.now) - OLDEST_RECORD).timestamp() * 1000))
        object.__setattr__(self, "_latest", int((aware(self.now) + LATEST_RECORD).timestamp() * 1000))

    def read(self, line: str) -> AccessRecord | Rejected:
        """Return the line's record, or why it must be set aside."""
        try:
            record = _decoder.decode(line)
        except _UNREADABLE as error:
            return Rejected(line, _explain(line, error))
        if line.count('"') > _QUOTES:
            return Rejected(line, f"not our format: more than {_QUOTES} quotes, so that a value holds some")
        if not self._earliest <= record.time <= self._latest:
            return Rejected(line, self._explain_time(record.time))
        if record.key not in self._known_keys:
            if not re.fullmatch(ID_PATTERN, record.key):
                return Rejected(line, f"key must be 1 to 64 letters, digits, '_' or '-', got {_short(record.key)}")
            self._known_keys.add(record.key)
        if record.request_id in ("", MISSING):
            return Rejected(line, f"request_id must name the request, got {record.request_id!r}")
        return record

    def _explain_time(self, time: int) -> str:
        if time > self._latest:
            return f"time must not be over 5 minutes ahead of {self.now:%Y-%m-%dT%H:%M:%SZ}, got {time}"
        return f"time must not be over 60 days before {self.now:%Y-%m-%dT%H:%M:%SZ}, got {time}"


_QUOTES: Final = 4 * len(AccessRecord.__struct_fields__)
"""How many quotes a line has: a field that stands twice, forged inside an authorizer's value, makes more (I7)."""

_UNREADABLE: Final = (msgspec.DecodeError, RecursionError, UnicodeEncodeError)
"""How a line fails to decode: not JSON or not the record's types, nested too deep, half a surrogate pair."""

_decoder = msgspec.json.Decoder(AccessRecord, strict=False)


def _explain(line: str, error: Exception) -> str:
    """Say in one sentence why a line does not decode; slow, for the few lines that do not."""
    try:
        values = msgspec.json.decode(line)
    except _UNREADABLE:
        return "not JSON"
    if not isinstance(values, dict) or "metering" not in values:
        return "not our format: the line is no JSON object with the field 'metering'"
    if values["metering"] != FORMAT_VERSION:
        return f"not our format: 'metering' must be {FORMAT_VERSION!r}, got {_short(values['metering'])}"
    for name in AccessRecord.__struct_fields__:
        if name not in values:
            if name in AccessRecord.__struct_fields__[: -len(AccessRecord.__struct_defaults__)]:
                return f"the field {name!r} is missing"
            continue
        try:
            msgspec.convert(values[name], _types[name], strict=False)
        except msgspec.ValidationError:
            return f"{name} must be {_wanted(name)}, got {_short(values[name])}"
    return f"not our format: {error}"


def _wanted(name: str) -> str:
    if name == "time":
        return "milliseconds since 1970"
    return "a whole number from 0 to 10^12" if "int" in str(_types[name]) else "a string"


_types = {name: get_type_hints(AccessRecord, include_extras=True)[name] for name in AccessRecord.__struct_fields__}


def _short(value: object) -> str:
    """Return a value as it may stand in a reason: bounded, since a line may be as long as 1 MB."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - one line of a terminal
