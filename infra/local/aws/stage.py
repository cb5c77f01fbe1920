"""A deployed stage as the gateway needs it: resources, authorizers, format, and where its lines go."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import unquote

from infra.local.aws.authorizers import Authorizer
from infra.local.aws.emulator import Emulator
from infra.local.aws.log_writer import DeliveryStream, Destination, LogStream

LOG_GROUP: Final = ":log-group:"
STREAM: Final = ":deliverystream/amazon-apigateway-"  # API Gateway takes no other


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a resource: whether it requires an API key, and which authorizer it asks, by its id."""

    requires_key: bool = False
    authorizer_id: str | None = None


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of a REST API: its path template and its methods."""

    path: str
    methods: Mapping[str, Method]

    def serving(self, method: str) -> Method | None:
        """Return its `method`, which comes before `ANY`, or that, or `None`."""
        return self.methods.get(method, self.methods.get("ANY"))


@dataclass(frozen=True, slots=True)
class Stage:
    """A deployed stage, read once: its access-log format, where its lines go, its resources and authorizers."""

    api_id: str
    name: str
    format: str
    destination: str
    """The ARN of a log group or of a stream of Firehose."""

    resources: tuple[Resource, ...]
    authorizers: Mapping[str, Authorizer]
    """Those of the type REQUEST, by their ids."""

    @classmethod
    def read(cls, apigateway: Any, *, api_id: str, name: str) -> Self:
        """Read it with GetStage, GetResources and GetAuthorizers; `ValueError` if it logs nowhere that we know."""
        settings = apigateway.get_stage(restApiId=api_id, stageName=name).get("accessLogSettings") or {}
        destination = settings.get("destinationArn", "")
        if not (LOG_GROUP in destination or STREAM in destination) or not settings.get("format"):
            raise ValueError(
                f"stage {name} of API {api_id} must log to a log group or to a stream of Firehose that is named "
                f"amazon-apigateway-…, got {destination or 'no access log'!r}"
            )
        pages = apigateway.get_paginator("get_resources").paginate(restApiId=api_id, embed=["methods"])
        resources = tuple(
            Resource(
                path=item["path"],
                methods={
                    method: Method(bool(declared.get("apiKeyRequired")), declared.get("authorizerId"))
                    for method, declared in item.get("resourceMethods", {}).items()
                },
            )
            for page in pages
            for item in page["items"]
        )
        # 500 is as many as one answer can hold, and ten is AWS's quota of an API.
        authorizers = {
            declared["id"]: Authorizer.read(declared)
            for declared in apigateway.get_authorizers(restApiId=api_id, limit=500)["items"]
            if declared["type"] == "REQUEST"
        }
        return cls(api_id, name, settings["format"], destination, resources, authorizers)

    def open_log(self, emulator: Emulator) -> Destination:
        """Return where its lines go; a log group gets a new log stream."""
        _, is_log_group, log_group = self.destination.partition(LOG_GROUP)
        if not is_log_group:
            return DeliveryStream(emulator.client("firehose"), self.destination.rpartition("/")[2])
        logs, name, stream = emulator.client("logs"), log_group.removesuffix(":*"), f"gateway-{uuid.uuid4().hex}"
        logs.create_log_stream(logGroupName=name, logStreamName=stream)
        return LogStream(logs, name, stream)


def match(resources: Iterable[Resource], method: str, path: str) -> Resource | None:
    """Return the resource that serves `method` on `path`, which is percent-encoded as it was sent.

    `None` if there is none: API Gateway then answers 403. Segment by segment a literal comes before `{param}`, and that
    before `{proxy+}`, which takes one segment or more.
    """
    segments = [unquote(segment) for segment in path.split("/") if segment]
    ranked = [
        (rank, resource)
        for resource in resources
        if resource.serving(method) and (rank := _rank(resource.path, segments)) is not None
    ]
    return min(ranked, key=lambda found: found[0])[1] if ranked else None


def _rank(template: str, segments: list[str]) -> list[int] | None:
    parts = [part for part in template.split("/") if part]
    rank: list[int] = []
    for position, part in enumerate(parts):
        if position == len(segments):
            return None
        if part.startswith("{") and part.endswith("+}"):
            return [*rank, 2]
        is_parameter = part.startswith("{") and part.endswith("}")
        if not is_parameter and part != segments[position]:
            return None
        rank.append(int(is_parameter))
    return rank if len(parts) == len(segments) else None
