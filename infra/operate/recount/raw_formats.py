"""Lines in formats of others, read sign by sign: what stands where the stage's own format has its variables.

Why there is a second reader: :mod:`infra.operate.recount.raw_log`. Which formats can be read, and which signs a
variable's value has: :mod:`metering.model.foreign_format`, whose rule this follows without a pattern for it.
"""

import calendar
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from infra.operate.recount.raw_lines import UnreadableError
from metering.model.connections import Connection
from metering.model.log_format import FIELDS, MISSING, VARIABLE_PATTERN, Api
from metering.model.metrics import USAGE_LINES, Count, Metric, Sum

_CONTEXT: Final = "$context."
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CLF_TIME: Final = "00/aaa/0000:00:00:00 +0000"
_CLF_NUMBERS: Final = ((7, 11), (0, 2), (12, 14), (15, 17), (18, 20))
_DAY: Final = 86_400

_DIGITS: Final = frozenset(string.digits)
_HEX: Final = frozenset(string.hexdigits)
_LETTERS: Final = frozenset(string.ascii_letters + string.digits)
_ID: Final = _LETTERS | set("_=+/-")
_WORD: Final = _LETTERS | set("_-")
_PATH: Final = _LETTERS | set("._~:/{}+$@!*=%&-")
_IAM: Final = _LETTERS | set("_+=,.@:/-")
_JOINS: Final = frozenset(".:-")

_SIGNS: Final = {
    **dict.fromkeys(("requestTimeEpoch", "connectedAt", "status", "responseLength", "responseLatency"), _DIGITS),
    **dict.fromkeys(("integration.latency", "integrationLatency", "dataProcessed"), _DIGITS),
    **dict.fromkeys(("integration.status", "integration.integrationStatus", "integrationStatus"), _DIGITS),
    **dict.fromkeys(("authorize.latency", "authorize.status", "authenticate.latency", "authenticate.status"), _DIGITS),
    **dict.fromkeys(("waf.latency", "waf.status"), _DIGITS),
    **dict.fromkeys(("requestId", "extendedRequestId", "connectionId", "messageId", "identity.apiKeyId"), _ID),
    **dict.fromkeys(("accountId", "apiId", "deploymentId", "resourceId", "identity.accountId"), _ID),
    **dict.fromkeys(("eventType", "messageDirection", "error.responseType", "wafResponseCode"), _WORD),
    **dict.fromkeys(("identity.caller", "identity.user", "identity.userArn"), _IAM),
    "identity.clientCert.serialNumber": _HEX | {":"},
    "identity.sourceIp": _HEX | set(".:"),
    "httpMethod": _LETTERS | set("!#$%&'*+-.^_`|~"),
    "protocol": _LETTERS | set("/.-"),
    "requestTime": _LETTERS | set("/:+-"),
    "resourcePath": _PATH,
    "routeKey": _PATH | {" "},
    "stage": _LETTERS | set("_$-"),
}
"""The signs of what stands for a variable. What stands for any other is text, which somebody else wrote."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """What stands in a line as far as it is read: a text, then each variable and the text behind it.

    ``fields`` says which of the variables each field is; ``ends`` are the signs that end values of text.
    """

    beginning: str
    variables: Sequence[tuple[str, str]]
    fields: Mapping[str, int]
    ends: frozenset[str]
    to_the_end: bool

    def values(self, line: str) -> dict[str, str]:
        """Return what stands for each field; raise UnreadableError for a line that the format does not write."""
        if not line.startswith(self.beginning):
            raise UnreadableError("not in the stage's format")
        at = len(self.beginning)
        values = []
        for variable, behind in self.variables:
            end = _end_of_claim(line, at, behind, self.ends) if _may_be_quoted(variable) else 0
            end = end or _end_of_value(line, at, variable, self.ends)
            if not line.startswith(behind, end):
                raise UnreadableError("not in the stage's format")
            values.append(line[at:end])
            at = end + len(behind)
        if self.to_the_end and line[at:].strip():
            raise UnreadableError("more than the stage's format writes")
        # A JWT authorizer of a REST API's tells a claim in quotes of its own, which belong to who calls (I7).
        told = {field: values[place].replace("\\", "") for field, place in self.fields.items()}
        return {field: text if field == "key" else text.strip('"') for field, text in told.items()}


@dataclass(frozen=True, slots=True)
class RawFormat:
    """The format of a connection's stage, and what its lines hold."""

    connection: Connection
    _layouts: dict[tuple[Metric, ...], "_Layout | UnreadableError"] = field(default_factory=dict)

    def readable(self, metrics: Sequence[Metric]) -> tuple[Metric, ...]:
        """Return those of the metrics that the format has all for: others may have been declared later."""
        return tuple(metric for metric in metrics if isinstance(self._layout((metric,)), _Layout))

    def fields(self, line: str, metrics: tuple[Metric, ...]) -> dict[str, str] | None:
        """Return a line's fields, as far as these metrics read them, or None for a line of another stage.

        Raises UnreadableError for a format that cannot be read for these metrics, and for a line that is not in it.
        """
        layout, connection = self._layout(metrics), self.connection
        if isinstance(layout, UnreadableError):
            raise layout
        if connection.shares_log and not connection.alone and connection.api_id not in line:
            return None
        found = layout.values(line)
        if connection.shares_log and (found["api_id"], found["stage"]) != (connection.api_id, connection.stage):
            return None
        if layout.variables[layout.fields["time"]][0] == "requestTime":
            found["time"] = _in_milliseconds(found["time"])
        if found["key"] != MISSING:
            found["key"] = connection.log.prefix + found["key"]
        return {"method": MISSING, "resource": MISSING, **found, "api_id": connection.name, "stage": connection.stage}

    def _layout(self, metrics: tuple[Metric, ...]) -> "_Layout | UnreadableError":
        if metrics not in self._layouts:
            try:
                self._layouts[metrics] = _layout(self.connection, metrics)
            except UnreadableError as error:
                self._layouts[metrics] = error
        return self._layouts[metrics]


def _layout(connection: Connection, metrics: Sequence[Metric]) -> _Layout:
    """Return how a format's lines are read; raise UnreadableError where that is not safe (I7).

    Either all that is wanted stands in front of the first text that somebody else wrote, or, where such a text is
    wanted, no text stands in the line that nobody but its caller chose.
    """
    beginning, pieces = _cut(connection.after.format.strip())
    variables = [variable for variable, _ in pieces]
    texts = [place for place, variable in enumerate(variables) if variable not in _SIGNS]
    wanted = _wanted(connection, metrics)
    fields = _chosen(wanted, variables[: texts[0]] if texts else variables)
    last = max(fields.values(), default=0)
    if len(fields) < len(wanted):
        fields, last = _chosen(wanted, variables), len(variables) - 1
        if len(fields) < len(wanted) or any(not _is_set(variables[place]) for place in texts):
            raise UnreadableError("the stage's format cannot be billed by")
    read = pieces[: last + 1]
    ends = frozenset(behind[0] for variable, behind in read if variable not in _SIGNS and behind)
    if "$" in beginning or any("$" in behind for _, behind in read):
        raise UnreadableError("the stage's format has variables that are none of $context")
    for place, (variable, behind) in enumerate(read):
        if not behind and place < len(pieces) - 1:
            raise UnreadableError("nothing stands between two variables of the stage's format")
        if variable in _SIGNS and _SIGNS[variable] & {*behind[:1], *ends}:
            raise UnreadableError("a value of the stage's format has no certain end")
    return _Layout(beginning, read, fields, ends, to_the_end=last == len(pieces) - 1)


def _chosen(wanted: Mapping[str, Sequence[str]], variables: Sequence[str]) -> dict[str, int]:
    """Return at which of the variables each field is that can be had from them."""
    there = {field: [variable for variable in choice if variable in variables] for field, choice in wanted.items()}
    return {field: variables.index(choice[0]) for field, choice in there.items() if choice}


def _wanted(connection: Connection, metrics: Sequence[Metric]) -> dict[str, tuple[str, ...]]:
    """Return the variables that a field may come from, the best first, as far as these metrics read it."""
    log = connection.log
    wanted: dict[str, tuple[str, ...]] = {
        "request_id": ("extendedRequestId",) if log.api is Api.REST else ("requestId", "extendedRequestId"),
        "time": ("requestTimeEpoch", "requestTime"),
        "key": (log.variable,),
        "status": ("status",),
    }
    if connection.shares_log:
        wanted |= {"api_id": ("apiId",), "stage": ("stage",)}
    read: set[str] = set()
    for metric in metrics:
        of = "" if isinstance(metric, Count) else metric.of
        of_another_api = metric.apis and connection.name not in metric.apis
        if of == USAGE_LINES or of_another_api or (metric.stages and connection.stage not in metric.stages):
            continue
        by = metric.by if isinstance(metric, Count | Sum) else ""
        read |= {of, by, "method" if metric.methods else "", "resource" if metric.resources else ""}
    for name in read - {"", "key", "status_class", "api", "stage"}:
        variable = FIELDS[name].on(log.api) if name in FIELDS else name
        if variable and log.can_log(variable):
            also = ("integrationLatency",) if variable == "integration.latency" else ()
            wanted[name] = (variable, *also)
    return wanted


def _is_set(variable: str) -> bool:
    """Say whether a text is set by an authorizer, an integration or a certificate, and not by a request as such."""
    of_certificate = ("identity.clientCert.subjectDN", "identity.clientCert.issuerDN")
    return variable in of_certificate or re.fullmatch(VARIABLE_PATTERN, variable) is not None


def _cut(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the text that a format begins with, and its variables, each with the text behind it."""
    beginning, *parts = text.split(_CONTEXT)
    pieces: list[tuple[str, str]] = []
    for part in parts:
        end = _end_of_name(part)
        if end:
            pieces.append((part[:end], part[end:]))
        elif pieces:
            variable, behind = pieces.pop()
            pieces.append((variable, behind + _CONTEXT + part))
        else:
            beginning += _CONTEXT + part
    return beginning, pieces


def _end_of_name(text: str) -> int:
    """Return where a variable's name ends: words with a dot, a hyphen or a colon between them."""
    end = 0
    word = _LETTERS | {"_"}
    while text[end : end + 1] in word or (end and text[end : end + 1] in _JOINS and text[end + 1 : end + 2] in word):
        end += 1
    return end


def _end_of_value(line: str, at: int, variable: str, ends: frozenset[str]) -> int:
    """Return where a variable's value ends; raise UnreadableError where there is none."""
    signs = _SIGNS.get(variable)
    if signs is None:
        return _end_of_text(line, at, ends)
    if variable == "requestTime":
        end = at + len(_CLF_TIME) if _is_shaped(line[at : at + len(_CLF_TIME)], _CLF_TIME) else at
    elif variable == "routeKey":
        end = _end_of_run(line, at, _PATH)
        goes_on = line[end : end + 1] == " " and line[end + 1 : end + 2] in _PATH
        end = _end_of_run(line, end + 1, _PATH) if end > at and goes_on else end
    else:
        end = _end_of_run(line, at, signs)
    if end == at and line.startswith(MISSING, at):
        end += len(MISSING)
    if end == at:
        raise UnreadableError("not in the stage's format")
    return end


def _may_be_quoted(variable: str) -> bool:
    return variable.startswith("authorizer.claims.")


def _end_of_claim(line: str, at: int, behind: str, ends: frozenset[str]) -> int:
    """Return where a claim ends that stands in quotes of its own, escaped or not, before what is ``behind``; else 0."""
    for quote in ('\\"', '"'):
        end = _end_of_text(line, at + len(quote), ends)
        if line.startswith(quote, at) and line.startswith(quote + behind, end):
            return end + len(quote)
    return 0


def _end_of_text(line: str, at: int, ends: frozenset[str]) -> int:
    while at < len(line) and line[at] not in ends and not _is_never_text(line[at]):
        at += 1
    return at


def _end_of_run(line: str, at: int, signs: frozenset[str]) -> int:
    while at < len(line) and line[at] in signs:
        at += 1
    return at


def _is_never_text(sign: str) -> bool:
    """Say whether no text is read with a sign: a quote may end it, a backslash or a control sign, too."""
    return sign in '"\\\u2028\u2029' or sign < " " or "\x7f" <= sign <= "\x9f"


def _is_shaped(text: str, shape: str) -> bool:
    """Say whether a text has a digit for each 0 of a shape, a letter for each a, and otherwise its signs."""
    kinds = {"0": string.digits, "a": string.ascii_letters, "+": "+-"}
    return len(text) == len(shape) and all(sign in kinds.get(of, of) for sign, of in zip(text, shape, strict=True))


def _in_milliseconds(written: str) -> str:
    """Return a moment as CLF has it, 26/Jul/2023:12:07:03 +0000, in milliseconds since 1970."""
    day, month, year, hour, minute, second = (
        written[a:b] for a, b in ((0, 2), (3, 6), (7, 11), (12, 14), (15, 17), (18, 20))
    )
    try:
        number = _MONTHS.index(month) + 1
        at = datetime(int(year), number, int(day), int(hour), int(minute), int(second), tzinfo=UTC)
        east = (int(written[22:24]) * 60 + int(written[24:])) * 60
    except ValueError as error:
        raise UnreadableError("no time") from error
    if east >= _DAY:
        raise UnreadableError("no time")
    return str((calendar.timegm(at.timetuple()) + (-east if written[21] == "+" else east)) * 1000)
