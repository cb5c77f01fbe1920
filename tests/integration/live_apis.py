"""A Region with APIs that somebody else deployed, a deployment beside them, and an operator who connects them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from infra.operate.connections.connecting import Connecting, place_of
from infra.operate.connections.patience import Patience
from infra.operate.connections.plan import Plan, plan
from infra.operate.connections.stage import look
from infra.operate.connections.terms import Wishes
from infra.operate.deployment import Deployment
from infra.outputs import METADATA
from metering.model.connections import Connection
from tests.doubles.api_gateway import ApisOfAws, OtherService, RestService
from tests.doubles.aws import Account
from tests.doubles.dying import Dying, Life
from tests.doubles.log_groups import (
    LOG_GROUP_ARN,
    CallersOfAws,
    FunctionOfAws,
    LogGroupsOfAws,
    RolesOfAws,
    StacksOfAws,
)
from tests.doubles.outputs import outputs

BEGIN: Final = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
METRICS: Final = ({"type": "count", "name": "requests"},)
ROLE: Final = "arn:aws:iam::123456789012:role/logs"
KEYED: Final = {
    "GET /items": {"apiKeyRequired": True, "authorizationType": "NONE"},
    "GET /health": {"apiKeyRequired": False, "authorizationType": "NONE"},
}
BILLABLE: Final = (
    '{"id":"$context.extendedRequestId","time":"$context.requestTimeEpoch","key":"$context.identity.apiKeyId",'
    '"status":"$context.status","agent":"$context.identity.userAgent"}'
)
"""A format of somebody's that has all that a bill needs, before the first text of a caller."""

LACKING: Final = '{"request":"$context.requestId","status":"$context.status","agent":"$context.identity.userAgent"}'


@dataclass
class LiveApis:
    """The Region; ``access_log`` is what the deployment's stack declares."""

    account: Account
    access_log: dict[str, str] = field(default_factory=lambda: {"api": "rest"})
    metrics: list[dict[str, str]] = field(default_factory=lambda: [*METRICS])
    time: datetime = BEGIN
    paused: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.apis, self.function, self.roles, self.stacks = ApisOfAws(), FunctionOfAws(), RolesOfAws(), StacksOfAws()
        self.groups = LogGroupsOfAws(self.function)
        self.apis.role = ROLE
        told = outputs()
        self.stacks.outputs = told.written()
        self.stacks.template = {"Metadata": {METADATA: self.declared}}
        self.function.statements["stack"] = f"{LOG_GROUP_ARN}{told.connected_logs}*"
        self.groups.add(told.access_log_group, retention=90)
        self.groups.add("theirs", retention=7)
        self.account.services |= {
            "apigateway": RestService(self.apis),
            "apigatewayv2": OtherService(self.apis),
            "lambda": self.function,
            "logs": self.groups,
            "iam": self.roles,
            "cloudformation": self.stacks,
            "sts": CallersOfAws(self._tick),
        }

    def deployment(self, life: Life | None = None) -> Deployment:
        """Return the deployment as a process with a life reaches it."""

        def client(service: str, **_: Any) -> Any:
            made = self.account.client(service)
            return Dying(made, life) if life else made

        deployment = Deployment(client, outputs())
        vars(deployment)["declared"] = self.declared
        return deployment

    @property
    def declared(self) -> dict[str, Any]:
        """What the stack tells in its template."""
        return {"access_log": self.access_log, "metrics": self.metrics, "plans": []}

    def plan(self, api_id: str = "orders0001", stage: str = "prod", life: Life | None = None, **wishes: Any) -> Plan:
        """Return the plan for a stage."""
        deployment = self.deployment(life)
        live = look(deployment, api_id, stage)
        return plan(live, place_of(deployment), Wishes(**wishes), deployment.connections.all())

    def connect(
        self, api_id: str = "orders0001", stage: str = "prod", life: Life | None = None, **wishes: Any
    ) -> Connection:
        """Do what ``metering connect`` does."""
        planned = self.plan(api_id, stage, life, **wishes)
        assert [refusal.why for refusal in planned.refusals] == []
        make_role = bool(wishes.get("make_role"))
        return self._verbs(life).connect(planned.connection, former=planned.former, make_role=make_role)

    def disconnect(self, name: str = "orders", life: Life | None = None, *, keep_log: bool = False) -> Connection:
        """Do what ``metering disconnect`` does."""
        connection = self.deployment(life).connections.get(name)
        assert connection
        return self._verbs(life).disconnect(connection, keep_log=keep_log)

    def filters(self, group: str) -> dict[str, str]:
        """Return whereto a log group's lines are brought, by the filters' names."""
        return {name: one["destinationArn"] for name, one in self.groups.filters.get(group, {}).items()}

    def standing(self) -> dict[str, Any]:
        """Return all that a connection can change but the ledger."""
        return {
            "stages": {api_id: api.stages["prod"]["log"] for api_id, api in self.apis.apis.items()},
            "filters": {name: self.filters(name) for name in self.groups.filters},
            "statements": dict(self.function.statements),
            "role": self.apis.role,
            "roles": dict(self.roles.roles),
        }

    def _verbs(self, life: Life | None) -> Connecting:
        deployment = self.deployment(life)
        return Connecting(deployment, place_of(deployment), Patience(pause=self.paused.append))

    def _tick(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time


class Everything(frozenset[str]):
    """The names of all calls."""

    def __contains__(self, _: object) -> bool:
        return True


def lives() -> Iterator[Life]:
    """Yield lives that end before and after the first call, the second, and so on."""
    for number in range(1, 200):
        yield Life(number, of=Everything())
        yield Life(number, accepted=True, of=Everything())
