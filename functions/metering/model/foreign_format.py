"""Formats of others: what a connected stage writes by its own format, and how the fields are found in there. Pure.

A format is text with ``$context`` variables in it, whether it is JSON, CLF, CSV or XML: it is cut at them, and becomes
one anchored regular expression in which each variable has the signs that API Gateway can write for it. API Gateway is
not relied on to escape what a caller writes. So a format is read in one of two ways, and refused where neither is safe
(I7):

- **In front**: whatever a bill needs stands before the first variable in which somebody else's text can stand. What
  comes behind the last of them is not looked at, so that no text in there forges a field, nor sets its line aside.
- **Whole**: where an authorizer's value is needed, which may hold what its caller chose, the line is read to its end,
  and no other text may stand in it. The sign that ends such a value can stand in no other, so that a value which holds
  it makes one more than the format has: such a line is set aside, as one of our own format would be.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Final

import msgspec

from metering.model.log_format import (
    FIELDS,
    LONGEST_FORMAT,
    MEASURED_FIELDS,
    MISSING,
    VARIABLE_PATTERN,
    AccessLog,
    AccessRecord,
    Api,
    Declared,
)
from metering.model.metrics import Count, Max, Metric, Sum, declared, of_stage, of_the_access_log
from metering.model.periods import EPOCH


class FormatError(ValueError):
    """A format that cannot be read for a bill; the message says what to change.

    ``lacking`` are the ``$context`` variables that are not in it, ``to_move`` those that stand behind what a caller can
    write, ``in_the_way`` what a caller can write and must go, because an authorizer's value is needed beside it.
    """

    def __init__(
        self,
        reason: str,
        *,
        lacking: tuple[str, ...] = (),
        to_move: tuple[str, ...] = (),
        in_the_way: tuple[str, ...] = (),
    ) -> None:
        super().__init__(reason)
        self.lacking, self.to_move, self.in_the_way = lacking, to_move, in_the_way


@dataclass(frozen=True, slots=True, eq=False)
class ForeignFormat:
    """A stage's own format, compiled: finds the fields of an access log's record in its lines."""

    log: AccessLog
    stage: str
    api_id: str
    """What the lines must name, with the stage, where others write into the log group, too; empty where none do."""

    pattern: re.Pattern[str]
    places: Mapping[str, int]
    """The number of the pattern's group that holds a variable."""

    chosen: Mapping[str, str]
    """The variable that holds a field, or a metric's variable."""

    alone: bool = False
    """No other stage writes there, as far as is known: what does not name the API is not read for another's."""

    unread: Mapping[str, str] = field(default_factory=dict)
    """The names of metrics that the format lacks something for, and what: they were declared after it was connected."""

    def at_once(self, lines: bytes, log: Declared) -> None:
        """Leave them to be read one by one."""

    def fields(self, line: str) -> dict[str, str] | None:
        """Return a line's fields and variables, each as text; None for a line of another stage.

        Raises ValueError for a line that is not as the format writes them. Where the format names the API, its every
        line does: what does not is another stage's, whatever that writes.
        """
        match = self.pattern.match(line)
        if match is None:
            if self.api_id and not self.alone and self.api_id not in line:
                return None
            raise ValueError("not the stage's format: the line is not as it was when the stage was connected")
        found = {name: _bare(match[self.places[variable]]) for name, variable in self.chosen.items()}
        if self.api_id and (found["api_id"], found["stage"]) != (self.api_id, self.stage):
            return None
        key = _unescaped(match[self.places[self.chosen["key"]]])
        return {
            **dict.fromkeys(AccessRecord.__struct_fields__, MISSING),
            **found,
            "key": key if key == MISSING else f"{self.log.prefix}{key}",
            "time": _epoch_ms(found["time"]) if self.chosen["time"] == "requestTime" else found["time"],
            "api_id": self.log.connection,
            "stage": self.stage,
        }


def compile_format(
    log: AccessLog, written: str, metrics: Sequence[Metric], *, stage: str, api_id: str = ""
) -> ForeignFormat:
    """Return a stage's own format, ``written`` as API Gateway has it, as it is read for these metrics.

    ``api_id`` is the API's id where other stages write into the log group, too: then each line must name it, and the
    stage. Raises FormatError for a format that lacks something, or in which a caller could write what is billed.
    """
    literals, variables = _cut(written)
    wanted = _wanted(log, metrics, stage, shared=bool(api_id))
    texts = [place for place, name in enumerate(variables) if _kind(name) is None]
    front = _choose(wanted, variables[: texts[0]] if texts else variables)
    in_the_way = _distinct(name for name in variables if _kind(name) is None and not _is_set_text(name))
    if len(front) == len(wanted):
        chosen, last = front, max(variables.index(name) for name in front.values())
    else:
        chosen, last = _choose(wanted, variables), len(variables) - 1
        lacking = tuple(names[0] for field, names in wanted.items() if field not in chosen)
        if lacking or in_the_way:
            raise _refused(lacking, chosen, front, variables[texts[0]] if texts else "", in_the_way)
    whole = last == len(variables) - 1
    pattern = _pattern(literals[: last + 2], variables[: last + 1], whole=whole)
    places = {name: variables.index(name) + 1 for name in chosen.values()}
    return ForeignFormat(log, stage, api_id, pattern, places, chosen)


def as_far_as_readable(
    log: AccessLog, written: str, metrics: Sequence[Metric], *, stage: str, api_id: str = ""
) -> ForeignFormat:
    """Return a stage's own format as it is read for those of these metrics that it has all for; ``unread`` the others.

    Raises FormatError for a format that none of them can be measured by.
    """

    def compiled(some: Sequence[Metric]) -> ForeignFormat:
        return compile_format(log, written, some, stage=stage, api_id=api_id)

    unread: dict[str, str] = {}
    for metric in of_the_access_log(metrics):
        try:
            compiled([metric])
        except FormatError as error:
            unread[metric.name] = str(error)
    return replace(compiled([one for one in metrics if one.name not in unread]), unread=unread)


def extended(ours: str, theirs: str) -> str:
    """Return a stage's own JSON format with our line in front, as the object ``metering``.

    Raises FormatError for what is no JSON object, has that field already, or becomes larger than API Gateway takes.
    """
    text = theirs.strip()
    try:
        # A variable may stand unquoted, as a number would.
        fields = msgspec.json.decode(_VARIABLE.sub("1", text), type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise FormatError("only a format that is one JSON object can be extended: this is none") from error
    if EXTENSION in fields:
        raise FormatError(f"the format has a field {EXTENSION!r} already: take it out of the stage's format first")
    rest = text.removeprefix("{").lstrip()
    made = f"{_WRAP}{ours}{'' if rest == '}' else ','}{rest}"
    if (size := len(made.encode())) > LONGEST_FORMAT:
        raise FormatError(
            f"an access-log format has at most {LONGEST_FORMAT} bytes, and this would have {size} with ours in front: "
            "take some fields out of the stage's format first"
        )
    return made


EXTENSION: Final = "metering"
"""The field that an extended format has in front."""

FRONT: Final = f'{{"{EXTENSION}":{{"metering":'
"""How a line of an extended format begins."""

_WRAP: Final = f'{{"{EXTENSION}":'


def unwrapped(line: str, nonces: Sequence[str]) -> str:
    """Return our line out of an extended one; raise ValueError for a line that does not hold one whole in front.

    What a caller wrote stands behind it, or within it, where it is read as strictly as any line of ours.
    """
    if not line.startswith(FRONT):
        raise ValueError(f"not the extended format: the line does not begin with the object {EXTENSION!r}")
    ends = [place + len(end) for end in (f'"end":"{one}"}}' for one in nonces) if (place := line.find(end)) >= 0]
    if not ends:
        raise ValueError("not the extended format: the object in front does not end with the nonce of this deployment")
    return line[len(_WRAP) : min(ends)]


def _cut(written: str) -> tuple[list[str], list[str]]:
    """Return the literals of a format, and the variables between them."""
    pieces = _VARIABLE.split(written.strip())
    return pieces[::2], pieces[1::2]


def _wanted(log: AccessLog, metrics: Sequence[Metric], stage: str, *, shared: bool) -> dict[str, tuple[str, ...]]:
    """Return what a bill needs, by field or metric's variable: the ``$context`` variables that can say it."""
    reading = of_stage(of_the_access_log(metrics), log.connection, stage)
    # A client chooses a REST API's requestId.
    names = ("extendedRequestId",) if log.api is Api.REST else ("requestId", "extendedRequestId")
    wanted: dict[str, tuple[str, ...]] = {
        "request_id": names,
        "time": ("requestTimeEpoch", "requestTime"),
        "key": (log.variable,),
        "status": ("status",),
    }
    splits = {metric.by for metric in reading if isinstance(metric, Count | Sum)}
    if "method" in splits or any(metric.methods for metric in reading):
        wanted["method"] = _of(log, "method")
    if "resource" in splits or any(metric.resources for metric in reading):
        wanted["resource"] = _of(log, "resource")
    if shared:
        wanted |= {"api_id": ("apiId",), "stage": ("stage",)}
    for metric in reading:
        if isinstance(metric, Sum | Max) and metric.of in MEASURED_FIELDS and FIELDS[metric.of].on(log.api):
            wanted[metric.of] = _of(log, metric.of)
    return wanted | {name: (name,) for name in declared(reading).variables if log.can_log(name)}


def _of(log: AccessLog, field: str) -> tuple[str, ...]:
    """Return the variables that hold a field on this kind of API."""
    name = FIELDS[field].on(log.api)
    others = ("integrationLatency",) if field == "integration_latency" else ()
    return (name, *others) if name else ()


def _choose(wanted: Mapping[str, Sequence[str]], variables: Sequence[str]) -> dict[str, str]:
    """Return which of these variables holds each field, as far as one does."""
    there = {field: next((name for name in names if name in variables), "") for field, names in wanted.items()}
    return {field: name for field, name in there.items() if name}


def _refused(
    lacking: tuple[str, ...],
    chosen: Mapping[str, str],
    front: Mapping[str, str],
    first_text: str,
    in_the_way: tuple[str, ...],
) -> FormatError:
    """Return why a format is refused, and what is to be changed in it."""
    behind = [name for field, name in chosen.items() if field not in front]
    to_move = _distinct(name for name in behind if not _is_set_text(name))
    texts = _distinct(name for name in behind if _is_set_text(name))
    reasons = []
    if lacking:
        reasons.append(f"it lacks {_named(lacking)}")
    if to_move and not texts:
        reasons.append(f"{_named(to_move)} must stand in front of {_named([first_text])}, in which others' text can be")
    if texts and in_the_way:
        reasons.append(
            f"beside {_named(texts)}, which may hold what its caller chose, no text of a caller may stand in a line: "
            f"leave out {_named(in_the_way)}"
        )
    return FormatError(
        f"the format cannot be billed by: {'; '.join(reasons)}",
        lacking=lacking,
        to_move=to_move if not texts else (),
        in_the_way=in_the_way if texts else (),
    )


def _named(variables: Sequence[str]) -> str:
    return ", ".join(f"$context.{name}" for name in variables)


def _distinct(names: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _pattern(literals: Sequence[str], variables: Sequence[str], *, whole: bool) -> re.Pattern[str]:
    """Return a format, or what of it stands in front, as a regular expression with a group for each variable."""
    if strange := next((literal for literal in literals if "$" in literal), None):
        got = strange[strange.index("$") :][:40]
        raise FormatError(f"a format that is billed by holds no variables but those of $context, got {got!r}")
    signs = [literal[:1] for literal in literals[1:]]
    kinds = [_kind(name) for name in variables]
    text_ends = {sign for sign, kind in zip(signs, kinds, strict=True) if kind is None and sign}
    text = f"[^{re.escape(''.join(sorted(text_ends)))}{_NEVER_TEXT}]*+"
    written = [re.escape(literals[0])]
    for place, (name, kind, sign) in enumerate(zip(variables, kinds, signs, strict=True)):
        if not sign and not (whole and place == len(variables) - 1):
            raise FormatError(f"nothing stands behind {_named([name])} but another variable: put a sign between them")
        for end in sorted({sign, *text_ends} if kind else ()):
            if kind and end and re.fullmatch(f"[{kind.signs}]", end):
                raise FormatError(f"{_named([name])} may itself hold {end!r}, which ends a value: write it in quotes")
        quoted = rf'\\"{text}\\"|"{text}"|' if name.startswith("authorizer.claims.") else ""
        written += [f"({kind.pattern if kind else quoted + text})", re.escape(literals[place + 1])]
    return re.compile("".join(written) + (r"\s*\Z" if whole else ""))


_VARIABLE: Final = re.compile(r"\$context\.([A-Za-z0-9_]+(?:[.:-][A-Za-z0-9_]+)*)")

_NEVER_TEXT: Final = r'"\\\x00-\x1f\x7f-\x9f\u2028\u2029'
"""Signs that no value of an authorizer's is read with: a quote would end it, a backslash or a line end may."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What API Gateway writes for a variable, if it has a value: the ``signs`` it may hold, and how they stand."""

    signs: str
    shape: str = ""

    @property
    def pattern(self) -> str:
        """The regular expression for a value, or for none."""
        return f"(?:{self.shape}|{MISSING})" if self.shape else f"(?:[{self.signs}]++|{MISSING})"


_NUMBER: Final = _Kind("0-9")
_ID: Final = _Kind("A-Za-z0-9_=+/-")
_WORD: Final = _Kind("A-Za-z0-9_-")
_ROUTE: Final = "A-Za-z0-9._~:/{}+$@!*=%&-"
_IAM: Final = _Kind("A-Za-z0-9_+=,.@:/-")
_CLF_TIME: Final = r"[0-9]{2}/[A-Za-z]{3}/[0-9]{4}:[0-9]{2}:[0-9]{2}:[0-9]{2} [+-][0-9]{4}"

_KINDS: Final = {
    **dict.fromkeys(("requestId", "extendedRequestId", "connectionId", "messageId", "identity.apiKeyId"), _ID),
    **dict.fromkeys(("accountId", "apiId", "deploymentId", "resourceId", "identity.accountId"), _ID),
    **dict.fromkeys(("requestTimeEpoch", "connectedAt", "status", "responseLength", "responseLatency"), _NUMBER),
    **dict.fromkeys(("integration.latency", "integrationLatency", "dataProcessed"), _NUMBER),
    **dict.fromkeys(("integration.status", "integration.integrationStatus", "integrationStatus"), _NUMBER),
    **dict.fromkeys(("authorize.latency", "authorize.status", "waf.latency", "waf.status"), _NUMBER),
    **dict.fromkeys(("authenticate.latency", "authenticate.status"), _NUMBER),
    **dict.fromkeys(("eventType", "messageDirection", "error.responseType", "wafResponseCode"), _WORD),
    **dict.fromkeys(("identity.caller", "identity.user", "identity.userArn"), _IAM),
    "identity.clientCert.serialNumber": _Kind("0-9A-Fa-f:"),
    "identity.sourceIp": _Kind("0-9A-Fa-f.:"),
    "httpMethod": _Kind("A-Za-z0-9!#$%&'*+.^_`|~-"),  # RFC 9110, "Tokens"
    "protocol": _Kind("A-Za-z0-9/.-"),
    "requestTime": _Kind("A-Za-z0-9/:+-", _CLF_TIME),  # the space in it is always there
    "resourcePath": _Kind(_ROUTE),
    "routeKey": _Kind(f" {_ROUTE}", f"[{_ROUTE}]++(?: [{_ROUTE}]++)?+"),
    "stage": _Kind("A-Za-z0-9_$-"),
}
"""Variables whose values API Gateway makes itself, or takes in one form alone (Developer Guide, "Variables for access
logging"; a client's own ``requestId`` that is no UUID is replaced, "Access logging for REST APIs"; names of IAM's by
IAM's User Guide, "Name requirements")."""


def _bare(value: str) -> str:
    """Return a value without the quotes in which a REST API's JWT authorizer tells a claim, escaped by the log or not.

    See :mod:`metering.model.token_claims`. No other value has a quote in it.
    """
    return _unescaped(value).strip('"')


def _unescaped(value: str) -> str:
    """Return a value as it was told: whoever calls keeps such quotes (I7)."""
    return value.replace("\\", "")


def _kind(variable: str) -> _Kind | None:
    """Return what a variable's values look like; None where somebody else's text can stand in it."""
    return _KINDS.get(variable)


def _is_set_text(variable: str) -> bool:
    """Say whether an authorizer, an integration or a certificate sets a variable's text, and not a request as such."""
    return bool(re.fullmatch(rf"{VARIABLE_PATTERN}|{_CERTIFICATE}", variable))


_CERTIFICATE: Final = r"identity\.clientCert\.(subjectDN|issuerDN)"

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CLF: Final = re.compile(r"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)", re.ASCII)


def _epoch_ms(written: str) -> str:
    """Return a moment as CLF writes it (``26/Nov/2026:22:30:00 +0000``) in milliseconds since 1970."""
    found = _CLF.fullmatch(written)
    if found is None or found[2] not in _MONTHS:
        raise ValueError(f"requestTime must be a moment such as '26/Nov/2026:22:30:00 +0000', got {written!r}")
    day, year, hour, minute, second = map(int, found.group(1, 3, 4, 5, 6))
    ahead = timedelta(hours=int(found[8]), minutes=int(found[9])) * (1 if found[7] == "+" else -1)
    try:
        zone = timezone(ahead)
        moment = datetime(year, _MONTHS.index(found[2]) + 1, day, hour, minute, second, tzinfo=zone)
    except ValueError as error:
        raise ValueError(f"requestTime must be a moment that there is, got {written!r}") from error
    return str((moment - EPOCH) // timedelta(milliseconds=1))
