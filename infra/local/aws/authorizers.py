"""What a stage's functions for authorizing say of a request, for its access-log line.

The emulator asks REQUEST authorizers itself, and lets in or refuses; but it shows nobody what they answered, and API
Gateway logs that as `$context.authorizer.<name>`. So the gateway asks their functions once more, with the event that
they get on AWS, and keeps the answers as long as API Gateway would:
docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-use-lambda-authorizer.html and, of HTTP APIs,
docs.aws.amazon.com/apigateway/latest/developerguide/http-api-lambda-authorizer.html
"""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote

from aiohttp import web
from botocore.exceptions import BotoCoreError, ClientError

from infra.local.aws.sources import Source


@dataclass(frozen=True, slots=True)
class Authorizer:
    """A REQUEST authorizer: its function, what its answers are cached by, and for how many seconds.

    `payload` is the version of the event that it is given; one that `answers_simply` says yes or no. `is_http` is one
    of an HTTP API.
    """

    id: str
    function: str
    sources: tuple[Source, ...]
    ttl_s: int
    payload: str = "1.0"
    answers_simply: bool = False
    is_http: bool = False

    @classmethod
    def of_rest(cls, declared: Mapping[str, Any]) -> Self:
        """Read a REST API's as GetAuthorizers describes it."""
        sources = tuple(Source.read(text) for text in declared.get("identitySource", "").split(",") if text.strip())
        ttl_s = int(declared.get("authorizerResultTtlInSeconds", 300))
        return cls(declared["id"], function_of(declared["authorizerUri"]), sources, ttl_s)

    @classmethod
    def of_http(cls, declared: Mapping[str, Any]) -> Self:
        """Read an HTTP API's as GetAuthorizers describes it; without a source its answers are not cached."""
        sources = tuple(Source.read(text) for text in declared.get("IdentitySource", ()))
        return cls(
            declared["AuthorizerId"],
            function_of(declared["AuthorizerUri"]),
            sources,
            int(declared.get("AuthorizerResultTtlInSeconds", 0)) if sources else 0,
            declared.get("AuthorizerPayloadFormatVersion", "2.0"),
            bool(declared.get("EnableSimpleResponses")),
            is_http=True,
        )

    def identity(self, request: web.Request) -> tuple[str, ...] | None:
        """Return the values that the answer is cached by; None if one is missing, which is answered 401 unasked.

        A REST API lets them be missing where nothing is cached.
        """
        values = tuple(source.value(request) for source in self.sources)
        return values if all(values) or not (self.ttl_s or self.is_http) else None


@dataclass(frozen=True, slots=True)
class Route:
    """The method that a request reaches: of which API and stage, by which resource's path or route's key."""

    region: str
    account_id: str
    api_id: str
    stage: str
    resource: str
    key: str = ""

    def event(self, request: web.Request, authorizer: Authorizer) -> dict[str, Any]:
        """Return what a REQUEST authorizer is given of a request."""
        return self._second(request, authorizer) if authorizer.payload == "2.0" else self._first(request)

    def _arn(self, method: str) -> str:
        return f"arn:aws:execute-api:{self.region}:{self.account_id}:{self.api_id}/{self.stage}/{method}"

    def _first(self, request: web.Request) -> dict[str, Any]:
        path, method = request.rel_url.raw_path, request.method
        headers = {name: request.headers.getall(name) for name in request.headers}
        query = {name: request.query.getall(name) for name in request.query}
        return {
            "type": "REQUEST",
            "methodArn": f"{self._arn(method)}{path}",
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

    def _second(self, request: web.Request, authorizer: Authorizer) -> dict[str, Any]:
        path, method = request.rel_url.raw_path, request.method
        root = "" if self.stage == "$default" else f"/{self.stage}"
        return {
            "version": "2.0",
            "type": "REQUEST",
            "routeArn": f"{self._arn(method)}{path}",
            "identitySource": [source.value(request) for source in authorizer.sources],
            "routeKey": self.key,
            "rawPath": f"{root}{path}",
            "rawQueryString": request.rel_url.raw_query_string,
            "headers": {name.lower(): ",".join(request.headers.getall(name)) for name in request.headers},
            "queryStringParameters": {name: ",".join(request.query.getall(name)) for name in request.query},
            "pathParameters": _path_parameters(self.resource, path),
            "stageVariables": {},
            "requestContext": {
                "accountId": self.account_id,
                "apiId": self.api_id,
                "http": {
                    "method": method,
                    "path": f"{root}{path}",
                    "protocol": "HTTP/1.1",
                    "sourceIp": request.remote,
                    "userAgent": request.headers.get("User-Agent", ""),
                },
                "routeKey": self.key,
                "stage": self.stage,
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
            answer = await asyncio.to_thread(self._ask, authorizer.function, route.event(request, authorizer))
        except (BotoCoreError, ClientError, ValueError):
            return {}  # the request has its line all the same
        decision = "isAuthorized" if authorizer.answers_simply else "policyDocument"
        if not (isinstance(answer, dict) and isinstance(answer.get(decision), bool | dict)):
            return {}
        variables = {f"authorizer.{name}": value for name, value in told_by(answer).items()}
        if authorizer.ttl_s:
            self._kept[authorizer.id, identity] = (time.monotonic() + authorizer.ttl_s, variables)
        return variables

    def _ask(self, function: str, event: Mapping[str, Any]) -> Any:
        answer = self._functions.invoke(FunctionName=function, Payload=json.dumps(event).encode())
        payload = answer["Payload"].read()
        return None if "FunctionError" in answer else json.loads(payload)


def told_by(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return an answer's properties as they are logged: strings, numbers and truth values; nothing nested, no null."""
    given = {**(answer.get("context") or {}), "principalId": answer.get("principalId")}
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in given.items()
        if isinstance(value, str | int | float)
    }


def function_of(uri: str) -> str:
    """Return the ARN of the function that an integration or an authorizer invokes by this URI."""
    return uri.partition("/functions/")[2].removesuffix("/invocations")


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
