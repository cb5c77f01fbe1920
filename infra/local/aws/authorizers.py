"""What a stage's authorizers say of a request, for its access-log line.

The emulator asks REQUEST authorizers itself, and lets in or refuses; but it shows nobody what they answered, and API
Gateway logs that as `$context.authorizer.<name>`. So the gateway asks their functions once more, with the event that
they get on AWS, and keeps the answers as long as API Gateway would:
docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-use-lambda-authorizer.html
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import unquote

from aiohttp import web
from botocore.exceptions import BotoCoreError, ClientError

SOURCE: Final = re.compile(r"method\.request\.(header|querystring)\.(.+)")


@dataclass(frozen=True, slots=True)
class Authorizer:
    """A REQUEST authorizer: its function, what its answers are cached by, and for how many seconds."""

    id: str
    function: str
    sources: tuple[str, ...]
    ttl_s: int

    @classmethod
    def read(cls, declared: Mapping[str, Any]) -> Self:
        """Read one as GetAuthorizers describes it."""
        function = declared["authorizerUri"].partition("/functions/")[2].removesuffix("/invocations")
        sources = tuple(source.strip() for source in declared.get("identitySource", "").split(",") if source.strip())
        return cls(declared["id"], function, sources, int(declared.get("authorizerResultTtlInSeconds", 300)))

    def identity(self, request: web.Request) -> tuple[str, ...] | None:
        """Return the values that the answer is cached by; None if one is missing, which is answered 401 unasked."""
        values = tuple(_value(source, request) for source in self.sources)
        return values if all(values) or not self.ttl_s else None


@dataclass(frozen=True, slots=True)
class Route:
    """The method that a request reaches: of which API and stage, and by which resource's path."""

    region: str
    account_id: str
    api_id: str
    stage: str
    resource: str

    def event(self, request: web.Request) -> dict[str, Any]:
        """Return what a REQUEST authorizer is given of a request."""
        path, method = request.rel_url.raw_path, request.method
        arn = f"arn:aws:execute-api:{self.region}:{self.account_id}:{self.api_id}/{self.stage}/{method}"
        headers = {name: request.headers.getall(name) for name in request.headers}
        query = {name: request.query.getall(name) for name in request.query}
        return {
            "type": "REQUEST",
            "methodArn": f"{arn}{path}",
            "resource": self.resource,
            "path": path,
            "httpMethod": method,
            "headers": {name: values[-1] for name, values in headers.items()},
            "multiValueHeaders": headers,
            "queryStringParameters": {name: values[-1] for name, values in query.items()},
            "multiValueQueryStringParameters": query,
            "pathParameters": _path_parameters(self.resource, path),
            "stageVariables": {},
            "requestContext": {
                "accountId": self.account_id,
                "apiId": self.api_id,
                "stage": self.stage,
                "resourcePath": self.resource,
                "httpMethod": method,
                "path": f"/{self.stage}{path}",
                "identity": {"sourceIp": request.remote, "userAgent": request.headers.get("User-Agent")},
            },
        }


class Answers:
    """The authorizers' answers, kept for as long and by the same values as API Gateway keeps them."""

    def __init__(self, functions: Any) -> None:
        self._functions = functions
        self._kept: dict[tuple[str, tuple[str, ...]], tuple[float, dict[str, str]]] = {}

    async def of(self, authorizer: Authorizer, request: web.Request, route: Route) -> dict[str, str]:
        """Return the context variables of a request: none where its authorizer was not asked, or gave no answer."""
        identity = authorizer.identity(request)
        if identity is None:
            return {}
        until, kept = self._kept.get((authorizer.id, identity), (0.0, {}))
        if time.monotonic() < until:
            return kept
        try:
            answer = await asyncio.to_thread(self._ask, authorizer.function, route.event(request))
        except (BotoCoreError, ClientError, ValueError):
            return {}  # the request has its line all the same
        if not (isinstance(answer, dict) and isinstance(answer.get("policyDocument"), dict)):
            return {}
        variables = {f"authorizer.{name}": value for name, value in _written(answer).items()}
        if authorizer.ttl_s:
            self._kept[authorizer.id, identity] = (time.monotonic() + authorizer.ttl_s, variables)
        return variables

    def _ask(self, function: str, event: Mapping[str, Any]) -> Any:
        answer = self._functions.invoke(FunctionName=function, Payload=json.dumps(event).encode())
        payload = answer["Payload"].read()
        return None if "FunctionError" in answer else json.loads(payload)


def _written(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return an answer's properties as they are logged: strings, numbers and truth values; nothing nested, no null."""
    given = {**(answer.get("context") or {}), "principalId": answer.get("principalId")}
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in given.items()
        if isinstance(value, str | int | float)
    }


def _value(source: str, request: web.Request) -> str:
    """Return an identity source's value: the last of several; empty for kinds that are not played here."""
    named = SOURCE.fullmatch(source)
    if named is None:
        return ""
    values = request.headers if named[1] == "header" else request.query
    return values.getall(named[2], [""])[-1]


def _path_parameters(resource: str, path: str) -> dict[str, str]:
    parts = [part for part in resource.split("/") if part]
    segments = [unquote(segment) for segment in path.split("/") if segment]
    parameters = {}
    for position, part in enumerate(parts):
        if part.startswith("{") and part.endswith("+}"):
            parameters[part[1:-2]] = "/".join(segments[position:])
        elif part.startswith("{") and part.endswith("}"):
            parameters[part[1:-1]] = segments[position]
    return parameters
