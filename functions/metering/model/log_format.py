"""The access log's format: what API Gateway writes of a request. Pure.

One class, :class:`AccessRecord`, defines the fields that every log has: name, ``$context`` variable and type. The
stage's format and the reader (:mod:`metering.model.access_log`) both come from it, so that they cannot drift apart. A
metric may name further variables: an authorizer's properties, and headers that an integration sets. Each is a field
under the variable's own name.

Every value is quoted in the format and arrives as a string; a missing one is written ``-`` (API Gateway Developer
Guide, "Variables for access logging"). API Gateway promises to escape nothing (quotes in a REST API's user agent were
seen escaped, and nothing is known of the rest), so that a value may end its own line or add a field. What no value can
do is to begin or to end a line of ours (I7): a line begins and ends with a nonce that no caller ever sees, and says how
many fields it has::

    {"metering":"1:<fields>:<nonce>","request_id":…, …,"end":"<nonce>"}

Without the nonce in front, text behind a line end would be a line; without the one at the end, a line that text has
cut short, with fields of its own, would be whole.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Final, Literal, assert_never, get_args, get_type_hints

import msgspec

MISSING: Final = "-"
"""How API Gateway logs a variable that has no value."""

LARGEST: Final = 10**12
"""The largest number a record may hold; a larger one could not be added up within a counter's 38 digits for ever."""

FORMAT_VERSION: Final = "1"

LONGEST_FORMAT: Final = 3 << 10
"""Bytes of an access-log format (API Gateway Developer Guide, "Quotas": "Access log template size", 3 KB)."""

NONCE_PATTERN: Final = r"[A-Za-z0-9-]{16,64}"
NONCE_LENGTH: Final = 36
"""The characters of a stack's GUID, which is only known once it is deployed."""

CALLER_PATTERN: Final = r"authorizer\.(claims\.[A-Za-z0-9_:]{1,64}|[A-Za-z0-9_]{1,64})"
"""What an authorizer tells: a property, or a token's claim, such as Cognito's ``custom:tenant``."""

IDENTITY_PATTERN: Final = r"identity\.(accountId|userArn|clientCert\.(serialNumber|subjectDN))"
"""What API Gateway itself has seen of a caller that signed by IAM, or showed a certificate."""

API_KEY: Final = "identity.apiKeyId"
CERTIFICATE: Final = "identity.clientCert."
"""How what mutual TLS tells of a caller begins."""

VARIABLE_PATTERN: Final = rf"{CALLER_PATTERN}|responseOverride\.header\.[A-Za-z0-9-]{{1,64}}"
"""The ``$context`` variables that a metric may name: what an authorizer returned (known before the call), and a header
that a mapping template of a non-proxy REST integration has set. A caller can write neither by itself."""

LARGEST_SCALE: Final = 9

LONGEST_VALUE: Final = 256
"""The longest value whose distinct occurrences are counted."""


class Api(Enum):
    """The kind of API that writes the log."""

    REST = "rest"
    HTTP = "http"
    WEBSOCKET = "websocket"

    @property
    def noun(self) -> str:
        """What a message calls one: ``an HTTP API``."""
        match self:
            case Api.REST:
                return "a REST API"
            case Api.HTTP:
                return "an HTTP API"
            case Api.WEBSOCKET:
                return "a WebSocket API"
            case _:
                assert_never(self)

    @property
    def bills_by_key(self) -> bool:
        """Say whether API keys and usage plans say who calls; else an authorizer does, which also refuses callers."""
        match self:
            case Api.REST:
                return True
            case Api.HTTP | Api.WEBSOCKET:
                # A WebSocket API asks for a key when somebody connects, and nothing says that later lines name it.
                return False
            case _:
                assert_never(self)

    @property
    def logs_by_role(self) -> bool:
        """Say whether API Gateway writes its access log by the account's role, or CloudWatch Logs delivers it.

        Of WebSocket APIs, CloudFormation's answer is published: "CloudWatch Logs role ARN must be set in account
        settings to enable logging" (github.com/aws/aws-cdk/pull/33977).
        """
        match self:
            case Api.REST | Api.WEBSOCKET:
                return True
            case Api.HTTP:
                return False
            case _:
                assert_never(self)

    def can_log(self, name: str) -> bool:
        """Say whether a field, or a variable, can be in its access log (API Gateway Developer Guide).

        REST: "Variables for access logging for API Gateway"; HTTP: "Customize HTTP API access logs"; WebSocket:
        "Configure logging for WebSocket APIs", which names no claims and no certificate, since neither a JWT authorizer
        nor mutual TLS is to be had there. Only a mapping template of a REST API overrides a response's headers.
        """
        if name in FIELDS:
            return FIELDS[name].on(self) is not None
        if name == API_KEY:
            return self.bills_by_key
        if name.startswith("responseOverride."):
            return self is Api.REST
        return self is not Api.WEBSOCKET or not name.startswith(("authorizer.claims.", CERTIFICATE))


@dataclass(frozen=True, slots=True)
class Context:
    """The ``$context`` variable behind a field, for each kind of API that can log it; ``unit`` is a measured one's."""

    rest: str | None = None
    http: str | None = None
    websocket: str | None = None
    unit: str | None = None

    def on(self, api: Api) -> str | None:
        """Return the variable's name on this kind of API, or None where it cannot be logged."""
        match api:
            case Api.REST:
                return self.rest
            case Api.HTTP:
                return self.http
            case Api.WEBSOCKET:
                return self.websocket
            case _:
                assert_never(api)


_Moment = Annotated[int, msgspec.Meta(ge=0)]
_Whole = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
_Measured = _Whole | Literal["-"]


class AccessRecord(msgspec.Struct, frozen=True, gc=False):
    """One request, as the access log tells it.

    ``request_id`` is a REST API's ``extendedRequestId``, because a client can choose ``requestId`` with a header; the
    ``requestId`` of others is the same as that, and the one that their formats must hold. ``key`` is the API key's id,
    never its value, which is the secret. ``time`` is in milliseconds since 1970, or in seconds where an HTTP API wrote
    it (:func:`metering.model.periods.epoch_ms`). ``method`` of a WebSocket API is the kind of event (``CONNECT``,
    ``MESSAGE``, ``DISCONNECT``). ``api_id`` is the connection's name where the stage was connected. Lengths are in
    bytes, latencies in milliseconds; a measured field is ``-`` where the request had no such thing. ``metering`` is the
    format's version, how many fields its lines have, and the nonce, which ``end`` repeats.
    """

    metering: str
    request_id: Annotated[str, Context(rest="extendedRequestId", http="requestId", websocket="requestId")]
    time: Annotated[_Moment, Context(rest="requestTimeEpoch", http="requestTimeEpoch", websocket="requestTimeEpoch")]
    key: str
    status: Annotated[_Whole, Context(rest="status", http="status", websocket="status")]
    method: Annotated[str, Context(rest="httpMethod", http="httpMethod", websocket="eventType")]
    resource: Annotated[str, Context(rest="resourcePath", http="routeKey", websocket="routeKey")]
    api_id: Annotated[str, Context(rest="apiId", http="apiId", websocket="apiId")]
    stage: Annotated[str, Context(rest="stage", http="stage", websocket="stage")]
    end: str
    response_length: Annotated[_Measured, Context(rest="responseLength", http="responseLength", unit="bytes")] = MISSING
    response_latency: Annotated[
        _Measured, Context(rest="responseLatency", http="responseLatency", unit="milliseconds")
    ] = MISSING
    integration_latency: Annotated[
        _Measured, Context(rest="integration.latency", http="integration.latency", unit="milliseconds")
    ] = MISSING
    data_processed: Annotated[_Measured, Context(http="dataProcessed", unit="bytes")] = MISSING

    @property
    def call(self) -> str:
        """What was called, as far as its line says so: a format of others may lack the method, or both.

        A route of an HTTP API holds its method: ``GET /items``.
        """
        if self.resource.startswith(f"{self.method} "):
            return self.resource
        return " ".join(part for part in (self.method, self.resource) if part != MISSING) or "a request"


def _fields() -> dict[str, tuple[Context, bool]]:
    """Return each field's context variable, and whether it is a measured number, by its name."""
    fields = {}
    for name, hint in get_type_hints(AccessRecord, include_extras=True).items():
        for note in getattr(hint, "__metadata__", ()):
            if isinstance(note, Context):
                fields[name] = (note, MISSING in [get_args(part)[0] for part in get_args(get_args(hint)[0])])
    return fields


FIELDS: Final = {name: context for name, (context, _) in _fields().items()}
"""Each field's ``$context`` variable; ``key`` is not among them, since the caller's identity is the stack's choice."""

MEASURED_FIELDS: Final = tuple(name for name, (_, measured) in _fields().items() if measured)
"""The fields of every log that a metric may sum."""


@dataclass(frozen=True, slots=True)
class Declared:
    """The variables that the metrics name beyond the fields of every log.

    ``amounts`` are those that hold numbers, each with its scale (how many decimals are kept); ``ids`` those whose
    distinct values are counted. All of them are in ``variables``.
    """

    variables: tuple[str, ...] = ()
    amounts: Mapping[str, int] = field(default_factory=dict)
    ids: frozenset[str] = frozenset()

    def attribute(self, name: str) -> str:
        """Return the attribute of a record that holds a field or variable."""
        return f"x{self.variables.index(name)}" if name in self.variables else name

    def record_type(self) -> type[AccessRecord]:
        """Return the class of this log's records: a line that lacks a variable is read as ``-`` there."""
        if not self.variables:
            return AccessRecord
        names = {self.attribute(variable): variable for variable in self.variables}
        made: Any = msgspec.defstruct(
            "DeclaredRecord",
            [(name, str, MISSING) for name in names],
            bases=(AccessRecord,),
            rename=names,
            frozen=True,
            gc=False,
        )
        record_type: type[AccessRecord] = made
        return record_type


NOTHING_DECLARED: Final = Declared()


@dataclass(frozen=True, slots=True)
class AccessLog:
    """What a stage writes: its kind of API, and the ``$context`` variable that says whom a request is billed to.

    REST APIs have API keys. Others have none, so there an authorizer must name the caller (``authorizer.<property>`` or
    ``authorizer.claims.<name>``), or what API Gateway has seen of it (``identity.accountId``). Raises ValueError for
    any other variable.

    A stage of a ``connection`` writes that name for its API's id. A caller that is no API key is then
    ``<connection>:<value>``, so that nobody can choose a value that is another's key; with ``keys_apart`` API keys are
    so, too, which is needed where the deployment's own callers are none.
    """

    api: Api = Api.REST
    caller: str | None = None
    connection: str = ""
    keys_apart: bool = False

    def __post_init__(self) -> None:
        if self.caller is None and not self.api.bills_by_key:
            example = "authorizer.user" if self.api is Api.WEBSOCKET else "authorizer.claims.sub"
            raise ValueError(f"{self.api.noun} has no API keys: say who is billed, for example caller={example!r}")
        if self.caller is not None and not re.fullmatch(
            rf"identity\.apiKeyId|{IDENTITY_PATTERN}|{CALLER_PATTERN}", self.caller
        ):
            raise ValueError(
                "caller must be 'identity.apiKeyId', 'authorizer.<property>', 'authorizer.claims.<name>', "
                "'identity.accountId', 'identity.userArn', 'identity.clientCert.subjectDN' or "
                f"'identity.clientCert.serialNumber', got {self.caller!r}"
            )
        if self.caller is not None and not self.api.can_log(self.caller):
            raise ValueError(f"{self.api.noun} cannot log {self.caller!r}: write 'authorizer.<property>' instead")

    @property
    def variable(self) -> str:
        """The ``$context`` variable that names the caller."""
        return self.caller or API_KEY

    @property
    def prefix(self) -> str:
        """What stands before a caller's value in its key: ``orders:``, or nothing."""
        return f"{self.connection}:" if self.connection and (self.keys_apart or self.variable != API_KEY) else ""

    def format(self, nonce: str, declared: Declared = NOTHING_DECLARED) -> str:
        """Return the stage's access-log format: one line of JSON with every field and every value quoted.

        ``nonce`` may be a token of the CDK that becomes one. A variable that this kind of API cannot log is ``-``.
        Raises ValueError for a format that API Gateway refuses.
        """
        line = dict.fromkeys(AccessRecord.__struct_fields__, MISSING)
        line |= {name: f"$context.{there}" for name, context in FIELDS.items() if (there := context.on(self.api))}
        line["key"] = f"{self.prefix}$context.{self.variable}"
        if self.connection:
            line["api_id"] = self.connection
        del line["end"]
        line |= {name: f"$context.{name}" if self.can_log(name) else MISSING for name in declared.variables}
        line |= {"metering": f"{FORMAT_VERSION}:{fields_of(declared)}:{nonce}", "end": nonce}
        written = msgspec.json.encode(line).decode()
        size = len(written.replace(nonce, "n" * NONCE_LENGTH).encode())
        if size > LONGEST_FORMAT:
            raise ValueError(
                f"an access-log format has at most {LONGEST_FORMAT} bytes, got {size}: let the metrics name fewer or "
                f"shorter variables than these {len(declared.variables)}"
            )
        return written

    def can_log(self, variable: str) -> bool:
        """Say whether the line can hold a variable that a metric names."""
        return self.api.can_log(variable)


def fields_of(declared: Declared) -> int:
    """Return how many fields a line has."""
    return len(AccessRecord.__struct_fields__) + len(declared.variables)
