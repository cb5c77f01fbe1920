"""The access log's lines, and how one is read: line → AccessRecord, Partly or Rejected. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Annotated, Any, Final, Generic, Literal, Protocol, TypeVar, get_type_hints

import msgspec

from metering.model.log_format import (
    FORMAT_VERSION,
    LARGEST,
    LONGEST_VALUE,
    MEASURED_FIELDS,
    MISSING,
    NONCE_PATTERN,
    VARIABLE_PATTERN,
    AccessRecord,
    Declared,
    fields_of,
)
from metering.model.metrics import Metric, bills, declared, of_the_access_log, value_of
from metering.model.periods import LATEST_RECORD, OLDEST_RECORD, all_in_ms, aware, epoch_ms
from metering.model.subjects import ID_RULE, is_id
from metering.model.token_claims import bare, may_be_claim, with_bare_claims

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that cannot be counted as it stands, and why; for ``metrics`` alone, or for any if it names none."""

    line: str
    reason: str
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Partly(Generic[T_co]):
    """A line that some metrics can read and others cannot: what counts of it, and what is set aside."""

    good: T_co
    bad: Rejected


class LineForm(Protocol):
    """How lines are written: whatever it is, the values found in one are looked at in the same way."""

    @property
    def unread(self) -> Mapping[str, str]:
        """The names of metrics that such lines cannot be measured by, and why."""

    def fields(self, line: str, /) -> dict[str, str] | None:
        """Return a line's fields and variables, each as text; None for one that is none of ours.

        Raises ValueError for a line that is not written so.
        """


@dataclass(frozen=True, slots=True)
class Ours:
    """Lines of our own format, with one of these nonces; those of one ``connection`` alone, if it is named."""

    nonces: tuple[str, ...]
    connection: str = ""

    @property
    def unread(self) -> Mapping[str, str]:
        """None: a metric reads what a line of before has not as a missing value."""
        return {}

    def fields(self, line: str) -> dict[str, str]:
        """Return a line's fields; raise ValueError for one that is not of our format."""
        fields = _fields(line, self.nonces)
        if self.connection and fields["api_id"] != self.connection:
            raise ValueError(f"not of the connection {self.connection}: api_id is {short(fields['api_id'])}")
        return fields


@dataclass(slots=True)
class Reader:
    """Reads the lines of a batch that arrived at ``now``, for these metrics; each is written in one of the forms."""

    now: datetime
    metrics: Sequence[Metric]
    forms: tuple[LineForm, ...]
    _measuring: list[Metric] = field(init=False)
    _ours: Ours | None = field(init=False)
    _log: Declared = field(init=False)
    _quotes: int = field(init=False)
    _earliest: int = field(init=False)
    _latest: int = field(init=False)
    _known_keys: set[str] = field(init=False, default_factory=lambda: {MISSING})

    def __post_init__(self) -> None:
        self._measuring = of_the_access_log(self.metrics)
        only = self.forms[0] if len(self.forms) == 1 else None
        self._ours = only if isinstance(only, Ours) else None
        self._log = declared(self.metrics)
        self._quotes = 4 * fields_of(self._log)
        self._earliest = int((aware(self.now) - OLDEST_RECORD).timestamp() * 1000)
        self._latest = int((aware(self.now) + LATEST_RECORD).timestamp() * 1000)

    @property
    def measured(self) -> list[str]:
        """The names of the metrics that it reads for."""
        return [metric.name for metric in self._measuring]

    def read_at_once(self, lines: bytes) -> list[AccessRecord] | None:
        """Read lines that are all as our format writes them, several times faster; None if any may not be.

        Each says how many fields its format has, and together they have as many quotes as that: then no value holds a
        quote, so that none can have forged a field (I7).
        """
        # A record a line: whatever else one is, the decoder refuses. A long needle is found faster than a short one.
        count = lines.count(b"\n" + _BEGINNING) + 1
        if not self._ours or not lines.startswith(_BEGINNING) or lines.count(b'"') != count * self._quotes:
            return None
        try:
            records = _exact_decoder(self._log.variables, self._ours).decode_lines(lines)
        except _UNREADABLE:
            return None
        times = all_in_ms([record.time for record in records])
        if len(records) != count or min(times) < self._earliest or max(times) > self._latest:
            return None
        keys = {record.key for record in records}
        if any(self._bad_key(key) for key in keys) or self._have_bad_values(records):
            return None
        if any(key.endswith(_NOBODY) for key in keys):
            return [_without_nobody(record) for record in records]
        return records

    def read(self, line: str) -> AccessRecord | Partly[AccessRecord] | Rejected | None:
        """Return the line's record, as far as the metrics can read it, and why it must be set aside where they cannot.

        None if it is of another stage. A value is only looked at for the metrics that bill the request by it: one that
        nothing bills is no fault.
        """
        try:
            form, fields = self._found(line)
            if form is None:
                return None
            self._check(fields)
        except ValueError as error:
            return Rejected(line, str(error))
        bad = {name: why for name, value in fields.items() if (why := self._bad_value(name, value))}
        record = self._record({name: MISSING if name in bad else value for name, value in fields.items()})
        if not (bad or form.unread) or record.key == MISSING:
            return record
        kind = (record.status, record.method, record.resource, record.api_id, record.stage)
        billing = [one for one in self._measuring if bills(one, *kind)]
        unread = {one.name: form.unread[one.name] for one in self._measuring if _may_bill(one, form, record)}
        failing = [one for one in billing if value_of(one) in bad and one.name not in unread]
        if not failing and not unread:
            return record
        reasons = [*(bad[name] for name in sorted({value_of(one) for one in failing})), *unread.values()]
        bad_for = Rejected(line, "; ".join(dict.fromkeys(reasons)), (*(one.name for one in failing), *unread))
        return Partly(record, bad_for) if {one.name for one in billing} - {*bad_for.metrics} else bad_for

    def _found(self, line: str) -> tuple[LineForm | None, dict[str, str]]:
        """Return the first form that a line has, and its fields; none if it is of another stage.

        Raises ValueError if it has none of the forms, and is not known to be another's.
        """
        errors = []
        for form in self.forms:
            try:
                if fields := form.fields(line):
                    return form, fields
            except ValueError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return None, {}

    def _have_bad_values(self, records: Sequence[AccessRecord]) -> bool:
        """Say whether a variable has a value, in any of these, that one metric cannot read."""
        return any(
            self._bad_value(variable, value)
            for variable in {*self._log.amounts, *self._log.ids}
            for value in {getattr(record, self._log.attribute(variable)) for record in records}
        )

    def _check(self, fields: Mapping[str, str]) -> None:
        """Raise ValueError for a value without which nothing of the request can be counted."""
        for name, wanted, largest in (
            ("time", "milliseconds or seconds since 1970", _NEVER),
            ("status", "a whole number up to 10^12", LARGEST),
        ):
            if fields[name] in ("", MISSING) or _bad_amount(fields[name], 0, largest):
                raise ValueError(f"{name} must be {wanted}, got {short(fields[name])}")
        moment = epoch_ms(amount(fields["time"], 0, _NEVER))
        if not self._earliest <= moment <= self._latest:
            raise ValueError(explain_time(moment, self._latest, self.now))
        if bad := self._bad_key(fields["key"]):
            raise ValueError(bad)
        if fields["request_id"] in ("", MISSING):
            raise ValueError(f"request_id must name the request, got {fields['request_id']!r}")

    def _record(self, fields: Mapping[str, str]) -> AccessRecord:
        key = MISSING if fields["key"] == f"{fields['api_id']}{_NOBODY}" else fields["key"]
        numbers = {"time": amount(fields["time"], 0, _NEVER), "status": amount(fields["status"], 0)}
        measured = {name: amount(fields[name], 0) for name in MEASURED_FIELDS if fields[name] not in ("", MISSING)}
        absent = dict.fromkeys((name for name in MEASURED_FIELDS if fields[name] == ""), MISSING)
        return msgspec.convert({**fields, "key": key, **absent, **numbers, **measured}, self._log.record_type())

    def _bad_key(self, key: str) -> str:
        if key in self._known_keys:
            return ""
        if not is_id(key):
            return f"key must be {ID_RULE}, got {short(key)}"
        self._known_keys.add(key)
        return ""

    def _bad_value(self, name: str, value: str) -> str:
        """Say what is wrong with the value of a measured field or a variable."""
        if name in self._log.ids and len(value) > LONGEST_VALUE:
            return f"{name} must have at most {LONGEST_VALUE} characters, got {len(value)}"
        if name in MEASURED_FIELDS or name in self._log.amounts:
            why = _bad_amount(value, self._log.amounts.get(name, 0), LARGEST)
            return f"{name} must be {why}" if why else ""
        return ""


def _may_bill(metric: Metric, form: LineForm, record: AccessRecord) -> bool:
    """Say whether a metric that cannot read such lines may bill this one: its method or resource may be unknown."""
    if metric.name not in form.unread:
        return False
    wider = msgspec.structs.replace(metric, methods=(), resources=())
    return bills(wider, record.status, record.method, record.resource, record.api_id, record.stage)


def _without_nobody(record: AccessRecord) -> AccessRecord:
    """Return a record of a connected stage without a key, if it is that of nobody."""
    return msgspec.structs.replace(record, key=MISSING) if record.key == f"{record.api_id}{_NOBODY}" else record


def _fields(line: str, nonces: tuple[str, ...]) -> dict[str, str]:
    """Return the fields of a line of ours; raise ValueError for any other (I7).

    It begins and ends with the nonce, has as many fields as it says, each once and each text, those that every line
    has and variables beside them. So a line that was written for more metrics or fewer is as good.

    A token's claim may stand in quotes of its own (:mod:`metering.model.token_claims`).
    """
    line = with_bare_claims(line)
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
    return {name: bare(value) if may_be_claim(name) else value for name, value in fields.items()}


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


@lru_cache(maxsize=1 << 14)
def amount(text: str, scale: int, largest: int = LARGEST) -> int:
    """Return a number's multiple of 10^-scale: ``amount("1.5", 3)`` is 1500; 0 for a missing one.

    Any spelling of an exact number is as good as another: ``3``, ``3.0``, ``3e0``. Raises ValueError, with what was
    wanted, for what is no number, is negative, too large, or finer than the scale: nothing is rounded.
    """
    if text in (MISSING, ""):
        return 0
    if not scale and len(text) <= _PLAIN and text.isascii() and text.isdigit():  # nearly all of them
        return int(text)
    if len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text):
        with localcontext(prec=2 * _LONGEST_NUMBER):
            scaled = Decimal(text).scaleb(scale)
            # The exponent first: a number of a billion digits is never written out.
            if scaled.is_zero() or (scaled.adjusted() < _LONGEST_NUMBER and scaled == scaled.to_integral_value()):
                whole = int(scaled)
                if 0 <= whole <= largest:
                    return whole
    kind = f"a number with at most {scale} decimals" if scale else "a whole number"
    most = f"10^{12 - scale}" if scale else "10^12"
    raise ValueError(f"{kind} from 0 to {most}, got {short(text)}")


def _bad_amount(text: str, scale: int, largest: int) -> str:
    """Say what was wanted instead of a text that is no such number, or nothing."""
    try:
        amount(text, scale, largest)
    except ValueError as error:
        return str(error)
    return ""


def explain_time(time: int, latest: int, now: datetime) -> str:
    """Say why a moment, in milliseconds since 1970, is not believed."""
    if time > latest:
        return f"time must not be over 5 minutes ahead of {now:%Y-%m-%dT%H:%M:%SZ}, got {short(time)}"
    return f"time must not be over 60 days before {now:%Y-%m-%dT%H:%M:%SZ}, got {short(time)}"


_NOBODY: Final = f":{MISSING}"
"""What stands behind a connection's name in the key of a request that names no caller."""

_AROUND: Final = "\ufeff, \t\r\n"
"""What may stand around a line: what joined objects leaves a byte order mark or a comma there."""

_BEGINNING: Final = f'{{"metering":"{FORMAT_VERSION}:'.encode()
_BEGINS: Final = re.compile(rf'[\ufeff,\s]*\{{\s*"metering"\s*:\s*"{FORMAT_VERSION}:([0-9]{{1,3}}):({NONCE_PATTERN})"')
"""How a line of ours begins, with the number of its fields and the nonce."""

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"')
"""A string of JSON."""

_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_LONGEST_NUMBER: Final = 64
_PLAIN: Final = 12  # as many digits are below the largest
_LONGEST_NAME: Final = 64
_NEVER: Final = 10**15
"""A moment far beyond any, in milliseconds since 1970."""

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
