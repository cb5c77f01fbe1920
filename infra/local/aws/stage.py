"""A deployed stage as the gateway needs it: resources or routes, authorizers, format, and where its lines go."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import unquote

from infra.local.aws.authorizers import Authorizer
from infra.local.aws.emulator import Emulator
from infra.local.aws.json_web_tokens import JwtAuthorizer
from infra.local.aws.log_line import Kind
from infra.local.aws.log_writer import DeliveryStream, Destination, LogStream

LOG_GROUP: Final = ":log-group:"
STREAM: Final = ":deliverystream/amazon-apigateway-"  # API Gateway takes no other
DEFAULT: Final = "$default"
"""The stage without a part in the path, and the route of what no other takes."""

LAMBDA: Final = "AWS_PROXY"

REFUSED: Final = {"INVALID_API_KEY": "Forbidden", "THROTTLED": "Too Many Requests", "QUOTA_EXCEEDED": "Limit Exceeded"}
"""What `$context.error.message` is of refusals by key, whatever the body of a customised gateway response says."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a resource: whether it requires an API key, which authorizer it asks, by its id, and what it calls.

    A token must have one of `scopes`, if there are any.
    """

    requires_key: bool = False
    authorizer_id: str | None = None
    scopes: tuple[str, ...] = ()
    is_lambda: bool = True


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of a REST API, or the routes of an HTTP API that have one path: its path template and its methods."""

    path: str
    methods: Mapping[str, Method]

    def serving(self, method: str) -> Method | None:
        """Return its `method`, which comes before `ANY`, or that, or `None`."""
        return self.methods.get(method, self.methods.get("ANY"))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request belongs: its resource's path template, as the log calls it, and the method that serves it."""

    path: str
    name: str
    method: Method


@dataclass(frozen=True, slots=True)
class Stage:
    """A deployed stage, read once: its access-log format, where its lines go, its resources and authorizers."""

    kind: Kind
    api_id: str
    name: str
    format: str
    destination: str
    """The ARN of a log group, or, of a REST API alone, of a stream of Firehose."""

    resources: tuple[Resource, ...]
    authorizers: Mapping[str, Authorizer | JwtAuthorizer]
    """Those that ask a function with the whole request, and those for JSON Web Tokens, by their ids."""

    refusals: Mapping[bytes, str] = field(default_factory=dict)
    """Bodies with which API Gateway itself refuses a key where gateway responses say so, each with its message.

    As the customised template has them: what holds variables of a request is taken for a backend's answer.
    """

    @classmethod
    def read(cls, emulator: Emulator, *, api_id: str, name: str) -> Self:
        """Read it from API Gateway; `ValueError` if it logs nowhere that we know."""
        rest, http = emulator.client("apigateway"), emulator.client("apigatewayv2")
        try:
            if api_id in {api["id"] for api in rest.get_rest_apis(limit=500)["items"]}:
                return cls._read_rest(rest, api_id, name)
            return cls._read_http(http, api_id, name)
        finally:
            rest.close()
            http.close()

    @classmethod
    def _read_rest(cls, apigateway: Any, api_id: str, name: str) -> Self:
        settings = apigateway.get_stage(restApiId=api_id, stageName=name).get("accessLogSettings") or {}
        destination = _destination(api_id, name, settings.get("destinationArn", ""), settings.get("format"))
        pages = apigateway.get_paginator("get_resources").paginate(restApiId=api_id, embed=["methods"])
        resources = tuple(
            Resource(
                path=item["path"],
                methods={
                    method: Method(
                        requires_key=bool(declared.get("apiKeyRequired")),
                        authorizer_id=declared.get("authorizerId"),
                        is_lambda=declared.get("methodIntegration", {}).get("type") == LAMBDA,
                    )
                    for method, declared in item.get("resourceMethods", {}).items()
                },
            )
            for page in pages
            for item in page["items"]
        )
        # 500 is as many as one answer can hold, and ten is AWS's quota of an API.
        authorizers: dict[str, Authorizer | JwtAuthorizer] = {
            declared["id"]: Authorizer.of_rest(declared)
            for declared in apigateway.get_authorizers(restApiId=api_id, limit=500)["items"]
            if declared["type"] == "REQUEST"
        }
        refusals = {
            customised["responseTemplates"]["application/json"].encode(): REFUSED[customised["responseType"]]
            for customised in apigateway.get_gateway_responses(restApiId=api_id, limit=500)["items"]
            if customised["responseType"] in REFUSED and not customised.get("defaultResponse")
        }
        return cls(Kind.REST, api_id, name, settings["format"], destination, resources, authorizers, refusals)

    @classmethod
    def _read_http(cls, apigateway: Any, api_id: str, name: str) -> Self:
        settings = apigateway.get_stage(ApiId=api_id, StageName=name).get("AccessLogSettings") or {}
        destination = _destination(api_id, name, settings.get("DestinationArn", ""), settings.get("Format"))
        kinds = {
            found["IntegrationId"]: found.get("IntegrationType")
            for found in _all(apigateway, "get_integrations", api_id)
        }
        methods: dict[str, dict[str, Method]] = {}
        for route in _all(apigateway, "get_routes", api_id):
            method, _, path = route["RouteKey"].rpartition(" ")
            methods.setdefault(path, {})[method or "ANY"] = Method(
                authorizer_id=route.get("AuthorizerId"),
                scopes=tuple(route.get("AuthorizationScopes", ())),
                is_lambda=kinds.get(route.get("Target", "").removeprefix("integrations/")) == LAMBDA,
            )
        authorizers: dict[str, Authorizer | JwtAuthorizer] = {
            declared["AuthorizerId"]: JwtAuthorizer.read(declared)
            if declared["AuthorizerType"] == "JWT"
            else Authorizer.of_http(declared)
            for declared in _all(apigateway, "get_authorizers", api_id)
        }
        resources = tuple(Resource(path, served) for path, served in methods.items())
        return cls(Kind.HTTP, api_id, name, settings["Format"], destination, resources, authorizers)

    @property
    def root(self) -> str:
        """What the path of a request begins with: nothing of the default stage of an HTTP API."""
        return "" if self.name == DEFAULT else f"/{self.name}"

    def find(self, method: str, path: str) -> Place | None:
        """Return where a request belongs; its path is percent-encoded as it was sent."""
        if self.kind is Kind.REST:
            resource = match(self.resources, method, path)
            served = resource and resource.serving(method)
            return Place(resource.path, resource.path, served) if resource and served else None
        return match_route(self.resources, method, path)

    def open_log(self, emulator: Emulator) -> Destination:
        """Return where its lines go; a log group gets a new log stream."""
        _, is_log_group, log_group = self.destination.partition(LOG_GROUP)
        if not is_log_group:
            return DeliveryStream(emulator.client("firehose"), self.destination.rpartition("/")[2])
        logs, name, stream = emulator.client("logs"), log_group.removesuffix(":*"), f"gateway-{uuid.uuid4().hex}"
        logs.create_log_stream(logGroupName=name, logStreamName=stream)
        return LogStream(logs, name, stream)


def _destination(api_id: str, name: str, destination: str, template: str | None) -> str:
    if not (LOG_GROUP in destination or STREAM in destination) or not template:
        raise ValueError(
            f"stage {name} of API {api_id} must log to a log group or to a stream of Firehose that is named "
            f"amazon-apigateway-…, got {destination or 'no access log'!r}"
        )
    return destination


def _all(apigateway: Any, what: str, api_id: str) -> list[dict[str, Any]]:
    return [item for page in apigateway.get_paginator(what).paginate(ApiId=api_id) for item in page["Items"]]


def match(resources: Iterable[Resource], method: str, path: str) -> Resource | None:
    """Return the resource of a REST API that serves `method` on `path`, which is percent-encoded as it was sent.

    `None` if there is none: API Gateway then answers 403. Segment by segment a literal comes before `{param}`, and that
    before `{proxy+}`, which takes one segment or more.
    """
    segments = [unquote(segment) for segment in path.split("/") if segment]
    ranked = [
        (rank, resource)
        for resource in resources
        if resource.serving(method)
        and (rank := _rank([part for part in resource.path.split("/") if part], segments)) is not None
    ]
    return min(ranked, key=lambda found: found[0])[1] if ranked else None


def match_route(resources: Iterable[Resource], method: str, path: str) -> Place | None:
    """Return the route of an HTTP API that a request is given to, the most specific of those that take it.

    A full match comes before one with `{proxy+}`, and that before `$default`; of two full matches the one with fewer
    parameters, and a method's own before `ANY`. A slash at the end is another path:
    docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-routes.html
    """
    segments = [unquote(segment) for segment in path.split("/")]
    ranked: list[tuple[list[int], Place]] = []
    for resource in resources:
        for served in {method, "ANY"} & resource.methods.keys():
            if resource.path == DEFAULT:
                ranked.append(([3], Place(DEFAULT, DEFAULT, resource.methods[served])))
            elif (rank := _rank(resource.path.split("/"), segments)) is not None:
                place = Place(resource.path, f"{served} {resource.path}", resource.methods[served])
                ranked.append(([max(rank), sum(rank), int(served == "ANY")], place))
    return min(ranked, key=lambda found: found[0])[1] if ranked else None


def _rank(parts: list[str], segments: list[str]) -> list[int] | None:
    rank: list[int] = []
    for position, part in enumerate(parts):
        if position == len(segments):
            return None
        if part.startswith("{") and part.endswith("+}"):
            return [*rank, 2] if any(segments[position:]) else None
        is_parameter = part.startswith("{") and part.endswith("}")
        if not (segments[position] if is_parameter else part == segments[position]):
            return None
        rank.append(int(is_parameter))
    return rank if len(parts) == len(segments) else None
