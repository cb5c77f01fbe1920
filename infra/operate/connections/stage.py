"""What a stage is that somebody else deployed: its kind, its log, whose it is, and who its callers are. Reads only.

REST APIs and the others (HTTP, WebSocket) are two services of AWS with two spellings of the same; here they are one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from botocore.exceptions import ClientError

from infra.operate.connections.apis import ApiThere, apis_there, stages_there
from infra.operate.deployment import Deployment, OperatorError
from infra.operate.doctor.findings import items, named
from metering.model.connections import StageLog
from metering.model.log_format import Api

MOST_METHODS: Final = 2_000
"""Methods that are looked at; an API has 300 resources or routes unless AWS allowed more (API Gateway "Quotas")."""

MOST_APIS: Final = 100
"""APIs whose stages are looked at for others that write into the same log group, by a call each."""

MOST_NAMED: Final = 5

STANDARD: Final = "STANDARD"
"""The only class of log groups that has subscription filters (CloudWatch Logs User Guide, "Log classes")."""

_OWNER: Final = "aws:cloudformation:stack-name"
"""The tag that CloudFormation gives what it makes (CloudFormation User Guide, "Resource tag")."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a REST API (``GET /items``), or a route: whether it asks for an API key, and who authorizes calls.

    ``authorization`` is API Gateway's own word: NONE, AWS_IAM, CUSTOM, COGNITO_USER_POOLS or JWT.
    """

    name: str
    asks_for_key: bool
    authorization: str


@dataclass(frozen=True, slots=True)
class Authorizer:
    """An authorizer by its name; ``kind`` is API Gateway's own word: TOKEN, REQUEST, COGNITO_USER_POOLS or JWT."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Filter:
    """A subscription filter of a log group: where it brings the lines that have its pattern."""

    name: str
    destination: str
    pattern: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogGroup:
    """A log group: its class, its subscription filters, and the retention in days, None for ever."""

    name: str
    kind: str
    retention: int | None
    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStage:
    """A stage as it is now.

    ``log`` is empty where it has no access log; ``group`` is its log group, if it writes into one. ``owner`` is the
    CloudFormation stack that made it, or empty: what other tools made, no call of AWS's tells. ``managed`` says that
    API Gateway itself keeps the stage, which nobody can change. ``methods`` are the API's as it would be deployed now.
    ``log_role`` is the ARN of the role that API Gateway writes the logs of REST and WebSocket APIs by, or empty.
    ``sharing`` names other stages that write into the same log group, among ``looked_at`` APIs of ``apis``.
    """

    api: Api
    api_id: str
    api_name: str
    name: str
    region: str
    log: StageLog
    owner: str = ""
    managed: bool = False
    methods: tuple[Method, ...] = ()
    authorizers: tuple[Authorizer, ...] = ()
    log_role: str = ""
    group: LogGroup | None = None
    sharing: tuple[str, ...] = ()
    looked_at: int = 0
    apis: int = 0

    @property
    def is_alone(self) -> bool:
        """Say whether no other stage writes into its log group: all were looked at."""
        return not self.sharing and self.looked_at >= self.apis

    def __str__(self) -> str:
        return f"the stage {self.name} of {self.api_name}"


def look(deployment: Deployment, api_id: str, stage: str) -> LiveStage:
    """Return a stage as it is now, with some dozen calls; OperatorError names what there is where it is not."""
    # By an empty id or name AWS is asked for the list, and answers with that.
    read = (_rest(deployment, api_id, stage) or _other(deployment, api_id, stage)) if api_id else None
    if read is None:
        raise OperatorError(f"there is no API {api_id!r} in {_region(deployment)}{_instead(deployment)}")
    return read


def log_of(deployment: Deployment, api: Api, api_id: str, stage: str) -> StageLog | None:
    """Return a stage's access-log settings as they are now, or None if the API or the stage is gone."""
    client = deployment.client("apigateway" if api is Api.REST else "apigatewayv2")
    try:
        if api is Api.REST:
            return _log(client.get_stage(restApiId=api_id, stageName=stage))
        return _log(client.get_stage(ApiId=api_id, StageName=stage))
    except client.exceptions.NotFoundException:
        return None


def log_group(deployment: Deployment, name: str) -> LogGroup | None:
    """Return a log group by its name, or None."""
    if not name:
        return None
    logs = deployment.client("logs")
    pages = logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=name)
    # A name comes before all that are longer, so that it is on the first page.
    there: Any = next((group for page in islice(pages, 1) for group in page["logGroups"]), {})
    if there.get("logGroupName") != name:
        return None
    filters = logs.describe_subscription_filters(logGroupName=name)["subscriptionFilters"]
    return LogGroup(
        name=name,
        kind=there.get("logGroupClass", STANDARD),
        retention=there.get("retentionInDays"),
        filters=tuple(
            Filter(found["filterName"], found["destinationArn"], found.get("filterPattern", "")) for found in filters
        ),
    )


def writing_into(deployment: Deployment, group: str) -> tuple[str, ...]:
    """Return the stages that write their access log into a log group, of :data:`MOST_APIS` APIs."""
    apis = tuple(islice(apis_there(deployment), MOST_APIS))
    return tuple(_writing_into(deployment, group, apis, but=("", "")))


def group_of(destination: str) -> str:
    """Return the name of the log group that a destination's ARN names, or nothing if it is no log group's."""
    _, _, name = destination.removesuffix(":*").partition(":log-group:")
    return name


def _rest(deployment: Deployment, api_id: str, stage: str) -> LiveStage | None:
    client = deployment.client("apigateway")
    try:
        api = client.get_rest_api(restApiId=api_id)
    except client.exceptions.NotFoundException:
        return None
    there = _stage(lambda: client.get_stage(restApiId=api_id, stageName=stage), client) if stage else None
    if there is None:
        names = [found["stageName"] for found in client.get_stages(restApiId=api_id)["item"]]
        raise OperatorError(_no_stage(stage, api["name"], names))
    resources = items(client, "get_resources", "items", restApiId=api_id, embed=["methods"])
    methods = (
        Method(
            f"{name} {resource['path']}", method.get("apiKeyRequired", False), method.get("authorizationType", "NONE")
        )
        for resource in resources
        for name, method in sorted(resource.get("resourceMethods", {}).items())
        if name != "OPTIONS"  # a browser's question, which nobody pays for
    )
    return _with_surroundings(
        deployment,
        LiveStage(
            api=Api.REST,
            api_id=api_id,
            api_name=api["name"],
            name=stage,
            region=_region(deployment),
            log=_log(there),
            owner=_owner(deployment, api_id, there.get("tags", {})),
            methods=tuple(islice(methods, MOST_METHODS)),
            authorizers=tuple(
                Authorizer(found["name"], found["type"])
                for found in client.get_authorizers(restApiId=api_id, limit=500).get("items", [])
            ),
        ),
    )


def _other(deployment: Deployment, api_id: str, stage: str) -> LiveStage | None:
    client = deployment.client("apigatewayv2")
    try:
        api = client.get_api(ApiId=api_id)
    except client.exceptions.NotFoundException:
        return None
    there = _stage(lambda: client.get_stage(ApiId=api_id, StageName=stage), client) if stage else None
    if there is None:
        names = [found["StageName"] for found in items(client, "get_stages", "Items", ApiId=api_id)]
        raise OperatorError(_no_stage(stage, api["Name"], names))
    routes = islice(items(client, "get_routes", "Items", ApiId=api_id), MOST_METHODS)
    return _with_surroundings(
        deployment,
        LiveStage(
            api=Api(api["ProtocolType"].lower()),
            api_id=api_id,
            api_name=api["Name"],
            name=stage,
            region=_region(deployment),
            log=_log(there),
            owner=_owner(deployment, api_id, there.get("Tags", {})),
            managed=there.get("ApiGatewayManaged", False),
            methods=tuple(
                Method(route["RouteKey"], route.get("ApiKeyRequired", False), route.get("AuthorizationType", "NONE"))
                for route in routes
            ),
            authorizers=tuple(
                Authorizer(found["Name"], found["AuthorizerType"])
                for found in islice(items(client, "get_authorizers", "Items", ApiId=api_id), MOST_METHODS)
            ),
        ),
    )


def _with_surroundings(deployment: Deployment, stage: LiveStage) -> LiveStage:
    """Return a stage with what stands around it: the account's role, its log group, and who else writes there."""
    more: dict[str, Any] = {}
    if stage.api.logs_by_role:
        more["log_role"] = deployment.client("apigateway").get_account().get("cloudwatchRoleArn", "")
    name = group_of(stage.log.destination)
    if name:
        more["group"] = log_group(deployment, name)
        apis = [*apis_there(deployment)]
        more["apis"], more["looked_at"] = len(apis), min(len(apis), MOST_APIS)
        more["sharing"] = tuple(_writing_into(deployment, name, apis[:MOST_APIS], but=(stage.api_id, stage.name)))
    return replace(stage, **more)


def _writing_into(
    deployment: Deployment, group: str, apis: Sequence[ApiThere], *, but: tuple[str, str]
) -> Iterator[str]:
    for api in apis:
        for name, stage in stages_there(deployment, api):
            if (api.id, name) != but and group_of(_log(stage).destination) == group:
                yield f"the stage {name} of {api.name}"


def _stage(ask: Callable[[], Any], client: Any) -> Any:
    try:
        return ask()
    except client.exceptions.NotFoundException:
        return None


def _log(stage: Any) -> StageLog:
    """Read a stage's access-log settings, in the spelling of either service."""
    rest, other = stage.get("accessLogSettings") or {}, stage.get("AccessLogSettings") or {}
    return StageLog(
        (rest.get("destinationArn") or other.get("DestinationArn") or "").removesuffix(":*"),
        rest.get("format") or other.get("Format") or "",
    )


def _owner(deployment: Deployment, api_id: str, tags: dict[str, str]) -> str:
    """Return the stack that made a stage: the one it is tagged with, or that of its API."""
    if _OWNER in tags:
        return tags[_OWNER]
    try:
        found = deployment.client("cloudformation").describe_stack_resources(PhysicalResourceId=api_id)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationError":  # which says that it is in no stack
            raise
        return ""
    return next((resource["StackName"] for resource in found["StackResources"]), "")


def _region(deployment: Deployment) -> str:
    return str(deployment.client("apigateway").meta.region_name)


def _no_stage(stage: str, api: str, names: Sequence[str]) -> str:
    there = f"it has {named(names, len(names), MOST_NAMED)}" if names else "it has none"
    return f"the API {api} has no stage {stage!r}: {there}"


def _instead(deployment: Deployment) -> str:
    apis = [f"{api.id} ({api.name}, {api.kind.name})" for api in apis_there(deployment)]
    return f": there are {named(apis, len(apis), MOST_NAMED)}" if apis else ", nor any other: give another --region"
