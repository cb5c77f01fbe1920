"""An operator's desk at a deployment with limits: commands whose function looks at customers at once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from infra.operate.deployment import Deployment, OperatorError
from metering.model.limits import Level, Limit, Notify, Slow, Spend, Stop
from metering.model.metrics import Count, Metric, Sum
from metering.model.metrics import encode as encode_metrics
from metering.model.prices import PerUnit, Plan
from metering.model.prices import encode as encode_plans
from tests.doubles.aws import Client
from tests.doubles.outputs import outputs
from tests.doubles.usage_plans import UsagePlansOfAws
from tests.integration.limits import Limited
from tests.integration.operator_commands import WHO, Said, run_metering

METRICS: tuple[Metric, ...] = (Count(name="requests"), Sum(name="bytes", of="response_length"))
PLAN = Plan(
    name="pro",
    title="Pro",
    currency="usd",
    prices=(PerUnit(metric="requests", amount=2),),
    limits=(
        Limit("requests", 100, per="day", at=(Notify(80), Slow(90), Stop(100))),
        Limit("bytes", 5000, per="day"),
        Limit("bytes", 500, per="hour"),
        Spend(1000, at=(Notify(50), Stop(100)), customer_may_stop=True),
    ),
)


@dataclass
class CloudWatch:
    """CloudWatch, which has these values of the one metric that is asked for."""

    values: list[float] = field(default_factory=list)
    asked: list[Mapping[str, Any]] = field(default_factory=list)

    def get_metric_data(self, *, MetricDataQueries: Any, StartTime: datetime, EndTime: datetime) -> dict[str, Any]:  # noqa: N803
        """Answer with the values of each period that has one (CloudWatch API reference, "GetMetricData")."""
        (query,) = MetricDataQueries
        self.asked.append({**query["MetricStat"], "for": EndTime - StartTime})
        return {"MetricDataResults": [{"Id": query["Id"], "Values": self.values}]}


@dataclass
class Desk:
    """An operator's, at a deployment with limits whose customer acme is on the plan; its function looks at once."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    world: Limited = field(default_factory=lambda: Limited(plans=(PLAN,)))
    told: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = METRICS
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    fails: str = ""
    access_log: Mapping[str, str] = field(default_factory=lambda: {"api": "rest"})
    gateway: UsagePlansOfAws = field(default_factory=UsagePlansOfAws)
    cloudwatch: CloudWatch = field(default_factory=CloudWatch)

    def __post_init__(self) -> None:
        """Let commands find the deployment."""
        self.told = {"access_table": "access", "watch_limits_function": "watch-limits"}
        self.monkeypatch.setattr(Deployment, "find", lambda *_, **__: self.deployment)
        self.monkeypatch.setattr("infra.cli.limits.now", lambda: self.world.now)
        self.world.customer()

    @property
    def deployment(self) -> Deployment:
        """The deployment as the command line reaches it."""
        clients = {
            "dynamodb": self.world.client(),
            "apigateway": self.gateway.client(),
            "cloudwatch": Client("cloudwatch", self.cloudwatch),
            "sts": SimpleNamespace(get_caller_identity=lambda: {"Arn": WHO}),
        }
        deployment = Deployment(lambda name, **_: clients[name], outputs(**self.told))
        declared = {"metrics": encode_metrics(self.metrics), "plans": encode_plans(self.world.plans)}
        vars(deployment)["declared"] = {name: json.loads(text) for name, text in declared.items()} | {
            "access_log": self.access_log
        }
        object.__setattr__(deployment, "invoke", self._invoke)
        return deployment

    def _invoke(self, function: str, event: Mapping[str, Any]) -> dict[str, Any]:
        assert function == "watch-limits"
        self.asked.append(event)
        if self.fails:
            raise OperatorError(self.fails)
        return {"looked": [self.world.look(name).name for name in event["look"]]}

    def try_(self, *arguments: str) -> Said:
        """Run a command line."""
        return run_metering(self.monkeypatch, self.capsys, *arguments)

    def run(self, *arguments: str) -> str:
        """Run a command that succeeds, and return what it says."""
        said = self.try_(*arguments)
        assert (said.code, said.err) == (0, "")
        return said.out.strip()

    def document(self, *arguments: str) -> Any:
        """Run a command that succeeds, and return its document."""
        return json.loads(self.run(*arguments, "--json"))

    def refused(self, *arguments: str) -> str:
        """Run a command that fails, and return why; nothing is written by it."""
        before = self.world.items.of("acme")
        said = self.try_(*arguments)
        assert (said.code, said.out) == (1, "")
        assert self.world.items.of("acme") == before
        return said.err.strip().removeprefix("error: ")

    def level(self, name: str = "acme") -> Level:
        """Return how far a customer's keys are to be closed."""
        reasons = self.world.items.of(name).reasons(self.world.now)
        return max((reason.level for reason in reasons), default=Level.OPEN)

    def limits(self) -> dict[str, dict[str, Any]]:
        """Return the limits that 'show' shows, by name."""
        return {one["limit"]: one for one in self.document("limits", "show", "acme")["limits"]}
