"""The access log's lines, and how one is read: line → AccessRecord, Partly or Rejected. Pure.

How the fields of a line are found, its form says (:mod:`metering.model.line_forms`); here is what they must hold.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Final, Generic, TypeVar

import msgspec

from metering.model.log_format import LARGEST, LONGEST_VALUE, MEASURED_FIELDS, MISSING, AccessRecord, Declared
from metering.model.metrics import Metric, RequestKind, bills, declared, of_the_access_log, value_of
from metering.model.our_lines import LineForm, short
from metering.model.periods import LATEST_RECORD, OLDEST_RECORD, all_in_ms, aware, epoch_ms
from metering.model.subjects import ID_RULE, is_id

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


def no_connection(_: str) -> bool:
    """Say that no connection bears a name."""
    return False


@dataclass(slots=True)
class Reader:
    """Reads the lines of a batch that arrived at ``now``, for these metrics; each is written in one of the forms.

    ``bears`` says whether a connection bears a name, whose callers' keys then begin so: a caller of another API, which
    is known by what it calls itself, is none of them (I7).
    """

    now: datetime
    metrics: Sequence[Metric]
    forms: tuple[LineForm, ...]
    bears: Callable[[str], bool] = no_connection
    _measuring: list[Metric] = field(init=False)
    _log: Declared = field(init=False)
    _earliest: int = field(init=False)
    _latest: int = field(init=False)
    _known_keys: set[str] = field(init=False, default_factory=lambda: {MISSING})

    def __post_init__(self) -> None:
        self._measuring = of_the_access_log(self.metrics)
        self._log = declared(self.metrics)
        self._earliest = int((aware(self.now) - OLDEST_RECORD).timestamp() * 1000)
        self._latest = int((aware(self.now) + LATEST_RECORD).timestamp() * 1000)

    @property
    def measured(self) -> list[str]:
        """The names of the metrics that it reads for."""
        return [metric.name for metric in self._measuring]

    def read_at_once(self, lines: bytes) -> list[AccessRecord] | None:
        """Read lines that all hold one of our format, several times faster; None if any may not."""
        records = self.forms[0].at_once(lines, self._log) if len(self.forms) == 1 else None
        if records is None:
            return None
        times = all_in_ms([record.time for record in records])
        keys = {record.key for record in records}
        if times and (min(times) < self._earliest or max(times) > self._latest):
            return None
        if any(self._bad_key(key) for key in keys) or self._have_bad_values(records):
            return None
        if any(map(self._is_anothers, {(one.key, one.api_id) for one in records if ":" in one.key})):
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
        if self._is_anothers((fields["key"], fields["api_id"])):
            return Rejected(line, f"key must not begin as the callers of a connection do, got {short(fields['key'])}")
        bad = {name: why for name, value in fields.items() if (why := self._bad_value(name, value))}
        record = self._record({name: MISSING if name in bad else value for name, value in fields.items()})
        if not (bad or form.unread) or record.key == MISSING:
            return record
        billing = [one for one in self._measuring if bills(one, _kind(record))]
        unread = {one.name: form.unread[one.name] for one in self._measuring if _may_bill(one, form, record)}
        failing = [one for one in billing if value_of(one) in bad and one.name not in unread]
        if not failing and not unread:
            return record
        reasons = [*(bad[name] for name in sorted({value_of(one) for one in failing})), *unread.values()]
        bad_for = Rejected(line, "; ".join(dict.fromkeys(reasons)), (*(one.name for one in failing), *unread))
        return Partly(record, bad_for) if {one.name for one in billing} - {*bad_for.metrics} else bad_for

    def _is_anothers(self, caller: tuple[str, str]) -> bool:
        """Say whether the caller of an API has the key of a connection's that is not that API's."""
        key, api = caller
        name, colon, _ = key.partition(":")
        return bool(colon) and name != api and self.bears(name)

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
    return bills(wider, _kind(record))


def _kind(record: AccessRecord) -> RequestKind:
    return RequestKind(record.status, record.method, record.resource, record.api_id, record.stage)


def _without_nobody(record: AccessRecord) -> AccessRecord:
    """Return a record of a connected stage without a key, if it is that of nobody."""
    return msgspec.structs.replace(record, key=MISSING) if record.key == f"{record.api_id}{_NOBODY}" else record


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

_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_LONGEST_NUMBER: Final = 64
_PLAIN: Final = 12  # as many digits are below the largest
_NEVER: Final = 10**15
"""A moment far beyond any, in milliseconds since 1970."""
