"""What happens to a WebSocket's connection: what a function is told of it, and what stands in its line.

docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-websocket-api-mapping-template-reference.html, and
…/websocket-api-logging.html for lines; what is published of both has ids that API Gateway made, another for each event.
"""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from infra.local.aws.log_line import Exchange, Integration, Kind, request_time
from infra.local.aws.socket_stage import Route, SocketStage

LARGEST_MESSAGE: Final = 128 << 10
"""Bytes; what is larger closes the connection with 1009 (…/apigateway-websocket-api-routes-integrations.html)."""


def new_id() -> str:
    """Return an identifier of the form that API Gateway makes."""
    return base64.urlsafe_b64encode(secrets.token_bytes(11)).decode()


@dataclass(slots=True)
class Connection:
    """A connection: since when it is there, in milliseconds since 1970, and what the authorizer told of it."""

    host: str
    source_ip: str
    user_agent: str
    at: int
    told: Mapping[str, str] = field(default_factory=dict)
    id: str = field(default_factory=new_id)
    socket: web.WebSocketResponse = field(default_factory=lambda: web.WebSocketResponse(max_msg_size=LARGEST_MESSAGE))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a function answered; ``failed`` is API Gateway's own answer in its place."""

    status: int
    body: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """A connection that is made or ended, or a message; ``route`` is None where no route takes it.

    ``more`` is what a function is told besides: headers and query of the one, the reason of the other.
    """

    connection: Connection
    kind: str
    route: Route | None
    at: int
    body: str = ""
    message_id: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=new_id)

    @property
    def route_key(self) -> str:
        """The selected route's key, or nothing."""
        return self.route.key if self.route else ""

    def payload(self, stage: SocketStage) -> dict[str, Any]:
        """Return what a function is given."""
        connection = self.connection
        context = {
            "routeKey": self.route_key,
            "eventType": self.kind,
            "messageDirection": "IN",
            "stage": stage.name,
            "apiId": stage.api_id,
            "domainName": connection.host,
            "connectionId": connection.id,
            "connectedAt": connection.at,
            "requestId": self.id,
            "extendedRequestId": self.id,
            "requestTime": request_time(self.at),
            "requestTimeEpoch": self.at,
            "identity": {"sourceIp": connection.source_ip, "userAgent": connection.user_agent},
            **self.context,
        }
        if self.message_id:
            context["messageId"] = self.message_id
        if connection.told:
            context["authorizer"] = dict(connection.told)
        return {**self.more, "requestContext": context, "body": self.body, "isBase64Encoded": False}

    def exchange(self, stage: SocketStage, account_id: str, answer: Answer, latency_ms: int) -> Exchange:
        """Return what a line can tell of it."""
        connection, function = self.connection, self.route.function if self.route else ""
        return Exchange(
            kind=Kind.WEBSOCKET,
            account_id=account_id,
            api_id=stage.api_id,
            stage=stage.name,
            domain_name=connection.host.partition(":")[0],
            at=self.at,
            request_id=self.id,
            extended_request_id=self.id,
            source_ip=connection.source_ip,
            user_agent=connection.user_agent,
            resource=self.route_key,
            status=answer.status,
            integration=Integration(answer.status, latency_ms) if function else None,
            caller={f"authorizer.{name}": value for name, value in connection.told.items()},
            event_type=self.kind,
            connection_id=connection.id,
            message_id=self.message_id,
        )
