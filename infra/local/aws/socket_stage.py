"""A deployed stage of a WebSocket API as its gateway needs it: routes, authorizer, format, and where its lines go."""

import fnmatch
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from infra.local.aws.authorizers import Authorizer, function_of
from infra.local.aws.emulator import Emulator
from infra.local.aws.log_writer import LogStream

CONNECT: Final = "$connect"
DISCONNECT: Final = "$disconnect"
DEFAULT: Final = "$default"

SELECTED: Final = re.compile(r"\$\{?request\.body\.([\w.]+)\}?")


@dataclass(frozen=True, slots=True)
class Route:
    """A route: the function that it invokes, or none, and whether what that answers goes back to the client.

    It does so where the route has a response, which can only be `$default`:
    docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-websocket-api-route-response.html
    """

    key: str
    function: str = ""
    answers: bool = False


@dataclass(frozen=True, slots=True)
class SocketStage:
    """A stage, read once; `authorizer` is the one that `$connect` asks."""

    api_id: str
    name: str
    selection: str
    routes: Mapping[str, Route]
    authorizer: Authorizer | None
    format: str
    log_group: str

    @classmethod
    def read(cls, emulator: Emulator, *, api_id: str, name: str) -> Self:
        """Read it from API Gateway; `ValueError` if it has no access log."""
        apigateway = emulator.client("apigatewayv2")
        try:
            selection = apigateway.get_api(ApiId=api_id)["RouteSelectionExpression"]
            settings = apigateway.get_stage(ApiId=api_id, StageName=name).get("AccessLogSettings") or {}
            _, _, log_group = settings.get("DestinationArn", "").partition(":log-group:")
            if not (log_group and settings.get("Format")):
                raise ValueError(
                    f"stage {name} of API {api_id} must log to a log group, got {settings or 'no access log'}"
                )
            uris = {
                made["IntegrationId"]: made.get("IntegrationUri", "")
                for made in _all(apigateway, "get_integrations", api_id)
                if made["IntegrationType"] == "AWS_PROXY"
            }
            declared = list(_all(apigateway, "get_routes", api_id))
            routes = {
                route["RouteKey"]: Route(
                    route["RouteKey"],
                    function_of(uris.get(route.get("Target", "").removeprefix("integrations/"), "")),
                    bool(apigateway.get_route_responses(ApiId=api_id, RouteId=route["RouteId"])["Items"]),
                )
                for route in declared
            }
            asked = {route["RouteKey"]: route.get("AuthorizerId") for route in declared}.get(CONNECT)
            authorizer = (
                Authorizer.of_http(apigateway.get_authorizer(ApiId=api_id, AuthorizerId=asked)) if asked else None
            )
        finally:
            apigateway.close()
        return cls(api_id, name, selection, routes, authorizer, settings["Format"], log_group.removesuffix(":*"))

    def select(self, message: str) -> Route | None:
        """Return the route that takes a message: the one that its body names, or `$default`, if there is any.

        What is no JSON, or lacks what the expression asks for, is taken by `$default`:
        docs.aws.amazon.com/apigateway/latest/developerguide/websocket-api-develop-routes.html
        """
        try:
            body = json.loads(message)
        except ValueError:
            body = None
        values = [_value(body, found[1]) for found in SELECTED.finditer(self.selection)]
        named = None in values or SELECTED.sub(lambda found: str(_value(body, found[1])), self.selection)
        return self.routes.get(str(named), self.routes.get(DEFAULT))

    def open_log(self, emulator: Emulator) -> LogStream:
        """Make a log stream for its lines."""
        logs, stream = emulator.client("logs"), f"websocket-{uuid.uuid4().hex}"
        logs.create_log_stream(logGroupName=self.log_group, logStreamName=stream)
        return LogStream(logs, self.log_group, stream)


def allows(policy: Mapping[str, Any], arn: str) -> bool:
    """Say whether a policy that an authorizer returned lets somebody invoke: what it denies, nothing allows.

    Of conditions it knows nothing.
    """
    statements = policy.get("Statement", [])
    effects = {
        statement["Effect"]
        for statement in (statements if isinstance(statements, list) else [statements])
        if any(fnmatch.fnmatchcase(arn, _as_glob(resource)) for resource in _listed(statement.get("Resource")))
    }
    return effects == {"Allow"}


def _as_glob(resource: str) -> str:
    """Return an ARN in which `*` and `?` alone mean more than themselves."""
    return resource.replace("[", "[[]")


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []


def _value(body: Any, path: str) -> str | None:
    for name in path.split("."):
        body = body.get(name) if isinstance(body, dict) else None
    return None if body is None else str(body)


def _all(apigateway: Any, what: str, api_id: str) -> Iterator[dict[str, Any]]:
    for page in apigateway.get_paginator(what).paginate(ApiId=api_id):
        yield from page["Items"]
