"""What API Gateway writes of a request into an access log, for each kind of API. Pure.

Which variables there are, and what they hold, stands in AWS's tables:
docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-variables-for-access-logging.html (REST),
…/http-api-logging-variables.html and …/websocket-api-logging.html. What the tables leave open is as in lines that
people have published: tests/events/access_log_lines.json, with their sources.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

MISSING: Final = "-"
MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# An authorizer chooses its properties' names, an issuer its claims' (`cognito:username`), and a mapping template those
# of headers; all other names are words.
VARIABLE: Final = re.compile(
    r"\$context\.(authorizer\.claims\.[\w:-]+|(?:authorizer|responseOverride\.header)\.[\w-]+|\w+(?:\.\w+)*)"
)
LAMBDA_ANSWERED: Final = 200


class Kind(StrEnum):
    """The kinds of API; each has a table of variables of its own."""

    REST = "REST"
    HTTP = "HTTP"
    WEBSOCKET = "WEBSOCKET"


@dataclass(frozen=True, slots=True)
class Integration:
    """What answered a request: the status that it chose, and after how long; ``is_lambda`` if a function did."""

    status: int
    latency_ms: int
    is_lambda: bool = True


@dataclass(frozen=True, slots=True)
class Error:
    """What API Gateway itself answered; ``type`` is a gateway response's (``ACCESS_DENIED``)."""

    message: str
    type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and its answer, as far as a line can tell of them.

    ``at`` is when it came, in milliseconds since 1970; lengths are in bytes. ``resource`` is a REST resource's path, or
    a route's key; an empty one found nothing. ``caller`` holds what is known of who called, by the variables' names.
    ``connection_id`` and ``message_id`` are a WebSocket's.
    """

    kind: Kind
    account_id: str = ""
    api_id: str = ""
    stage: str = ""
    domain_name: str = ""
    at: int
    request_id: str
    extended_request_id: str = ""
    method: str = ""
    path: str = ""
    source_ip: str = ""
    user_agent: str = ""
    resource: str = ""
    status: int
    request_length: int = 0
    response_length: int = 0
    response_latency_ms: int = 0
    integration: Integration | None = None
    error: Error | None = None
    caller: Mapping[str, str] = field(default_factory=dict)
    event_type: str = ""
    connection_id: str = ""
    message_id: str = ""

    def variables(self) -> dict[str, str]:
        """Return the variables that have a value, by their names, not yet escaped."""
        values = self._of_every_kind() | self._of_its_kind() | dict(self.caller)
        if self.integration:
            status, latency = str(self.integration.status), str(self.integration.latency_ms)
            service = str(LAMBDA_ANSWERED) if self.integration.is_lambda else status
            values |= {
                "integration.status": status,
                "integration.integrationStatus": service,
                "integrationStatus": service,
                "integration.latency": latency,
                "integrationLatency": latency,
            }
        if self.error:
            values |= {"error.message": self.error.message, "error.responseType": self.error.type}
        return {name: value for name, value in values.items() if value}

    def _of_every_kind(self) -> dict[str, str]:
        return {
            "accountId": self.account_id,
            "apiId": self.api_id,
            "stage": self.stage,
            "domainName": self.domain_name,
            "domainPrefix": self.domain_name.partition(".")[0],
            "requestId": self.request_id,
            "extendedRequestId": self.extended_request_id,
            "requestTime": request_time(self.at),
            "requestTimeEpoch": str(self.at),
            "identity.sourceIp": self.source_ip,
            "identity.userAgent": self.user_agent,
            "status": str(self.status),
        }

    def _of_its_kind(self) -> dict[str, str]:
        if self.kind is Kind.WEBSOCKET:
            return {
                "eventType": self.event_type,
                "routeKey": self.resource,
                "connectionId": self.connection_id,
                "messageId": self.message_id,
            }
        values = {
            "httpMethod": self.method,
            "path": self.path,
            "protocol": "HTTP/1.1",  # also where the caller spoke HTTP/2
            "responseLength": str(self.response_length),
            "responseLatency": str(self.response_latency_ms),
        }
        if self.kind is Kind.REST:
            return values | {"resourcePath": self.resource}
        return values | {
            "routeKey": self.resource,
            "extendedRequestId": self.request_id,
            # In seconds, of HTTP APIs alone.
            "requestTimeEpoch": str(self.at // 1000),
            # What exactly is counted is documented nowhere: here both bodies.
            "dataProcessed": str(self.request_length + self.response_length),
        }


def render(template: str, values: Mapping[str, str], *, raw: bool = False) -> str:
    r"""Return the access-log line: `template` with each `$context.<name>` replaced by its value, or by `-` without one.

    A value is not looked at again, and a name is read as far as it goes, so that `$context.identity.apiKeyId` is not
    `$context.identity.apiKey` followed by `Id`.

    Values are escaped as JSON's strings are. That is published of quotes and backslashes in the user agents of a REST
    API; an older report saw none escaped, and of line ends or an authorizer's values nothing is known. So nobody may
    rely on it: `raw` writes values as they are.
    """

    def value(found: re.Match[str]) -> str:
        text = values.get(found[1], "")
        return (text if raw else escaped(text)) or MISSING

    return VARIABLE.sub(value, _with_quoted_errors(template, values))


def escaped(text: str) -> str:
    """Return text as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _with_quoted_errors(template: str, values: Mapping[str, str]) -> str:
    """Put `error.messageString` in, which is the message with its quotes."""
    message = values.get("error.message")
    if message is None:
        return template
    return re.sub(r"\$context\.error\.messageString\b", lambda _: json.dumps(message), template)


def request_time(at: int) -> str:
    """Return a moment as `$context.requestTime`: `09/Apr/2026:12:34:56 +0000`, whatever the locale."""
    moment = datetime.fromtimestamp(at // 1000, UTC)
    return f"{moment.day:02}/{MONTHS[moment.month - 1]}/{moment:%Y:%H:%M:%S} +0000"
