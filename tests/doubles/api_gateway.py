"""API Gateway's APIs and stages in memory, by AWS's documents: the emulator knows no owner, and moto no removal.

- A REST API's stage is changed by patches: ``replace`` of ``/accessLogSettings/destinationArn`` and ``/format``, and
  ``remove`` of ``/accessLogSettings`` (API Gateway API Reference, "Patch Operations", Stage; Terraform's AWS provider
  does so, ``internal/service/apigateway/stage.go``). It has no tags unless somebody gave it some, CloudFormation among
  them (CloudFormation User Guide, "Resource tag").
- The stage of an HTTP or WebSocket API takes the whole structure, or loses it by DeleteAccessLogSettings; one that
  quick create made cannot be changed (API Gateway V2 API Reference, "Stage", ``apiGatewayManaged``).
- Without the account's role, a REST or WebSocket API's stage takes no access log: "CloudWatch Logs role ARN must be set
  in account settings to enable logging", a BadRequestException (github.com/aws/aws-cdk/pull/33977 has it of WebSocket).
- A role that IAM has just made is refused at first: "The role ARN does not have required permissions configured"
  (API Gateway Developer Guide, "Permissions for CloudWatch logging", and what people report).
- Any call may be answered by TooManyRequestsException (the references of either service, "Errors").
"""

from dataclasses import dataclass, field
from typing import Any, Final

from botocore.exceptions import ClientError

from tests.doubles.usage_plans import (
    BadRequestException,
    Exceptions,
    NotFoundException,
    TooManyRequestsException,
)

ACCOUNT: Final = "123456789012"


@dataclass
class ApiOfAws:
    """An API: ``methods`` are those of its resources, or its routes, as API Gateway describes them."""

    name: str
    protocol: str
    stages: dict[str, dict[str, Any]]
    methods: dict[str, dict[str, Any]]
    authorizers: list[dict[str, Any]]


@dataclass
class ApisOfAws:
    """The APIs of a Region, of all three kinds, and the account's role.

    ``refusals`` are how many of the next changes are answered by TooManyRequestsException, ``unknown_for`` how often
    a role is still unknown.
    """

    apis: dict[str, ApiOfAws] = field(default_factory=dict)
    role: str = ""
    refusals: int = 0
    unknown_for: int = 0
    changes: list[str] = field(default_factory=list)

    def add(  # noqa: PLR0913 - what an API has
        self,
        api_id: str,
        name: str,
        *,
        protocol: str = "REST",
        stage: str = "prod",
        log: tuple[str, str] = ("", ""),
        methods: dict[str, dict[str, Any]] | None = None,
        authorizers: list[dict[str, Any]] | None = None,
        **more: Any,
    ) -> None:
        """Make an API with a stage, which may have an access log: its destination and format."""
        made = {"log": log, **more}
        self.apis[api_id] = ApiOfAws(name, protocol, {stage: made}, methods or {}, authorizers or [])

    def log_of(self, api_id: str, stage: str = "prod") -> tuple[str, str]:
        """Return a stage's destination and format."""
        destination, written = self.apis[api_id].stages[stage]["log"]
        return destination, written

    def change(self, operation: str) -> None:
        """Take note of a change, or refuse it for now."""
        if self.refusals:
            self.refusals -= 1
            raise _error(TooManyRequestsException, operation, "Too Many Requests")
        self.changes.append(operation)

    def of(self, api_id: str, operation: str, *, rest: bool) -> ApiOfAws:
        """Return an API of one of the services."""
        api = self.apis.get(api_id)
        if api is None or (api.protocol == "REST") is not rest:
            raise _error(NotFoundException, operation, "Invalid API identifier specified")
        return api

    def stage_of(self, api_id: str, stage: str, operation: str, *, rest: bool) -> dict[str, Any]:
        """Return a stage of an API."""
        api = self.of(api_id, operation, rest=rest)
        if stage not in api.stages:
            raise _error(NotFoundException, operation, "Invalid stage identifier specified")
        return api.stages[stage]

    def check_role(self, destination: str, operation: str) -> None:
        """Refuse an access log in a log group that nobody can write."""
        if ":log-group:" in destination and not self.role:
            words = "CloudWatch Logs role ARN must be set in account settings to enable logging"
            raise _error(BadRequestException, operation, words)


class RestService:
    """What the client ``apigateway`` is answered."""

    exceptions = Exceptions

    def __init__(self, apis: ApisOfAws) -> None:
        self._apis = apis

    def get_account(self) -> dict[str, Any]:
        """Return the account's role."""
        return {"cloudwatchRoleArn": self._apis.role} if self._apis.role else {}

    def update_account(self, *, patchOperations: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803  as AWS names them, here and below
        """Give the account a role, once that is known."""
        (patch,) = patchOperations
        assert (patch["op"], patch["path"]) == ("replace", "/cloudwatchRoleArn")
        self._apis.change("update_account")
        if self._apis.unknown_for:
            self._apis.unknown_for -= 1
            words = "The role ARN does not have required permissions configured"
            raise _error(BadRequestException, "UpdateAccount", words)
        self._apis.role = patch["value"]
        return self.get_account()

    def get_rest_apis(self) -> dict[str, Any]:
        """Return all."""
        apis = self._apis.apis.items()
        return {"items": [{"id": api_id, "name": api.name} for api_id, api in apis if api.protocol == "REST"]}

    def get_rest_api(self, *, restApiId: str) -> dict[str, Any]:  # noqa: N803
        """Return an API; by no id, the list of them, whose address that is."""
        if not restApiId:
            return self.get_rest_apis()
        return {"id": restApiId, "name": self._apis.of(restApiId, "GetRestApi", rest=True).name}

    def get_stages(self, *, restApiId: str) -> dict[str, Any]:  # noqa: N803
        """Return an API's stages."""
        api = self._apis.of(restApiId, "GetStages", rest=True)
        return {"item": [_rest_stage(name, stage) for name, stage in api.stages.items()]}

    def get_stage(self, *, restApiId: str, stageName: str) -> dict[str, Any]:  # noqa: N803
        """Return a stage; by no name, the list of them, whose address that is."""
        if not stageName:
            return self.get_stages(restApiId=restApiId)
        return _rest_stage(stageName, self._apis.stage_of(restApiId, stageName, "GetStage", rest=True))

    def get_resources(self, *, restApiId: str, embed: list[str]) -> dict[str, Any]:  # noqa: N803
        """Return an API's resources with their methods."""
        assert embed == ["methods"]
        by_path: dict[str, dict[str, Any]] = {"/": {}}
        for name, method in self._apis.of(restApiId, "GetResources", rest=True).methods.items():
            verb, path = name.split()
            by_path.setdefault(path, {})[verb] = method
        return {"items": [{"path": path, "resourceMethods": methods} for path, methods in by_path.items()]}

    def get_authorizers(self, *, restApiId: str, limit: int) -> dict[str, Any]:  # noqa: N803
        """Return an API's authorizers."""
        return {"items": self._apis.of(restApiId, "GetAuthorizers", rest=True).authorizers[:limit]}

    def update_stage(self, *, restApiId: str, stageName: str, patchOperations: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
        """Patch a stage's access log: all patches, or none."""
        stage = self._apis.stage_of(restApiId, stageName, "UpdateStage", rest=True)
        self._apis.change("update_stage")
        destination, written = stage["log"]
        for patch in patchOperations:
            match patch["op"], patch["path"]:
                case "replace", "/accessLogSettings/destinationArn":
                    destination = patch["value"]
                case "replace", "/accessLogSettings/format":
                    written = patch["value"]
                case "remove", "/accessLogSettings":
                    destination = written = ""
                case _:
                    raise _error(BadRequestException, "UpdateStage", f"Invalid patch path {patch['path']}")
        self._apis.check_role(destination, "UpdateStage")
        stage["log"] = (destination, written)
        return _rest_stage(stageName, stage)


class OtherService:
    """What the client ``apigatewayv2`` is answered."""

    exceptions = Exceptions

    def __init__(self, apis: ApisOfAws) -> None:
        self._apis = apis

    def get_apis(self) -> dict[str, Any]:
        """Return all."""
        apis = self._apis.apis.items()
        return {"Items": [_other_api(api_id, api) for api_id, api in apis if api.protocol != "REST"]}

    def get_api(self, *, ApiId: str) -> dict[str, Any]:  # noqa: N803
        """Return an API."""
        return _other_api(ApiId, self._apis.of(ApiId, "GetApi", rest=False))

    def get_stages(self, *, ApiId: str) -> dict[str, Any]:  # noqa: N803
        """Return an API's stages."""
        stages = self._apis.of(ApiId, "GetStages", rest=False).stages
        return {"Items": [_other_stage(name, stage) for name, stage in stages.items()]}

    def get_stage(self, *, ApiId: str, StageName: str) -> dict[str, Any]:  # noqa: N803
        """Return a stage."""
        return _other_stage(StageName, self._apis.stage_of(ApiId, StageName, "GetStage", rest=False))

    def get_routes(self, *, ApiId: str) -> dict[str, Any]:  # noqa: N803
        """Return an API's routes."""
        routes = self._apis.of(ApiId, "GetRoutes", rest=False).methods
        return {"Items": [{"RouteKey": key, **route} for key, route in routes.items()]}

    def get_authorizers(self, *, ApiId: str) -> dict[str, Any]:  # noqa: N803
        """Return an API's authorizers."""
        return {"Items": self._apis.of(ApiId, "GetAuthorizers", rest=False).authorizers}

    def update_stage(self, *, ApiId: str, StageName: str, AccessLogSettings: dict[str, str]) -> dict[str, Any]:  # noqa: N803
        """Give a stage an access log in place of what it has."""
        stage = self._changed(ApiId, StageName, "UpdateStage")
        if self._apis.apis[ApiId].protocol == "WEBSOCKET":
            self._apis.check_role(AccessLogSettings["DestinationArn"], "UpdateStage")
        stage["log"] = (AccessLogSettings["DestinationArn"], AccessLogSettings["Format"])
        return _other_stage(StageName, stage)

    def delete_access_log_settings(self, *, ApiId: str, StageName: str) -> None:  # noqa: N803
        """Take a stage's access log away."""
        self._changed(ApiId, StageName, "DeleteAccessLogSettings")["log"] = ("", "")

    def _changed(self, api_id: str, name: str, operation: str) -> dict[str, Any]:
        stage = self._apis.stage_of(api_id, name, operation, rest=False)
        self._apis.change("update_stage")
        if stage.get("managed"):
            raise _error(BadRequestException, operation, "Cannot update a managed stage")
        return stage


def _rest_stage(name: str, stage: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"stageName": name, "tags": stage.get("tags", {})}
    destination, written = stage["log"]
    if destination:
        described["accessLogSettings"] = {"destinationArn": destination, "format": written}
    return described


def _other_stage(name: str, stage: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"StageName": name, "Tags": stage.get("tags", {})}
    destination, written = stage["log"]
    if destination:
        described["AccessLogSettings"] = {"DestinationArn": destination, "Format": written}
    return described | ({"ApiGatewayManaged": True} if stage.get("managed") else {})


def _other_api(api_id: str, api: ApiOfAws) -> dict[str, Any]:
    return {"ApiId": api_id, "Name": api.name, "ProtocolType": api.protocol}


def _error(kind: type[ClientError], operation: str, message: str) -> ClientError:
    return kind({"Error": {"Code": kind.__name__, "Message": message}}, operation)
