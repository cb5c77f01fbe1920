"""APIs of a Region, of every kind, and their stages, as the two services of API Gateway list them. Reads only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import items
from metering.model.log_format import Api
from metering.model.stages import Stage


@dataclass(frozen=True, slots=True)
class ApiThere:
    """An API of the Region."""

    kind: Api
    id: str
    name: str

    def is_of(self, stage: Stage) -> bool:
        """Say whether CloudWatch counts this API's requests where it counts the stage's."""
        return self.kind is stage.kind and stage.api in (
            self.id,
            self.name,
            self.name.encode("ascii", "ignore").decode(),
        )


def apis_there(deployment: Deployment) -> Iterator[ApiThere]:
    """Yield the APIs of the Region; a call for 500 REST APIs, and for each page of the others."""
    rest, other = deployment.client("apigateway"), deployment.client("apigatewayv2")
    for api in items(rest, "get_rest_apis", "items", PaginationConfig={"PageSize": 500}):
        yield ApiThere(Api.REST, api["id"], api["name"])
    for api in items(other, "get_apis", "Items"):
        yield ApiThere(Api[api.get("ProtocolType", "HTTP")], api["ApiId"], api["Name"])


def stages_there(deployment: Deployment, api: ApiThere) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the stages of an API by their names, in the spelling of its service; a call, and one for each page more."""
    if api.kind is Api.REST:
        for stage in deployment.client("apigateway").get_stages(restApiId=api.id)["item"]:
            yield stage["stageName"], stage
    else:
        for stage in items(deployment.client("apigatewayv2"), "get_stages", "Items", ApiId=api.id):
            yield stage["StageName"], stage
