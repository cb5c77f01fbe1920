"""The customers' API as API Gateway calls it, under the role that the template gives it."""

import base64
import gzip
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

import set_budget
import show_usage
from metering.model.metrics import Metric, in_full
from metering.model.periods import Hour
from metering.model.prices import Plan
from metering.model.prices import encode as encode_plans
from metering.portal import api, budget, document
from metering.portal.tokens import Use, issue
from metering.settings import SetBudgetSettings, ShowUsageSettings
from metering.stores import aws as clients
from tests.doubles.lambdas import context, request
from tests.integration.lambdas import Need, under_role
from tests.integration.world import World

PORTAL_KEY = "k" * 64
IAM = {
    "iam": {"userArn": "arn:aws:sts::123456789012:assumed-role/backend/ann@example.com", "accountId": "123456789012"}
}
ORIGIN = "https://app.example.com"


@dataclass
class Answer:
    """An answer as a client sees it."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body."""
        return json.loads(self.body)


@dataclass
class Portal:
    """The function in a process that has just begun."""

    world: World
    secret: str
    template: Mapping[str, Any]
    limits: bool = False
    calls: list[Need] = field(default_factory=list)
    """What it did with DynamoDB: action, table and partition key."""

    def token(self, customer: str = "acme", *, key: str = PORTAL_KEY, **wanted: Any) -> str:
        """Return a session's token of this moment for a day."""
        said: dict[str, Any] = {
            "deployment": "Metering",
            "now": self.world.now,
            "life": timedelta(days=1),
            "use": Use.SESSION,
            **wanted,
        }
        return issue(key, customer=customer, **said)[0]

    def get(
        self, path: str, query: Mapping[str, str] | None = None, *, token: str | None = None, **headers: str
    ) -> Answer:
        """Ask as acme, unless another token is given; an empty one is none."""
        return self.call("GET", path, query, token=token, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def usage(self, customer: str = "acme", **query: str) -> list[tuple[Any, ...]]:
        """Return the lines of an answer: period, metric, value, quantity and state."""
        wanted = {name.rstrip("_"): value for name, value in query.items()}
        answer = self.get("/v1/usage", wanted, token=self.token(customer))
        assert answer.status == 200, answer.body
        shown = ("period", "metric", "value", "quantity", "state")
        return [tuple(line[name] for name in shown) for line in answer.json()["usage"]]

    def call(  # noqa: PLR0913 - what a request may say
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: str | None = None,
        authorizer: Any = None,
        base: str = "",
        route: str = "",
    ) -> Answer:
        """Send a request as API Gateway writes it (payload version 2.0)."""
        given = {name.lower(): value for name, value in (headers or {}).items()}
        token = self.token() if token is None else token
        sent = request(method, path, query, given | ({"authorization": f"Bearer {token}"} if token else {}), body)
        sent |= {"routeKey": route or f"{method} {path}", "rawPath": base + path}
        sent["requestContext"]["http"]["path"] = base + path
        if authorizer:
            sent["requestContext"]["authorizer"] = authorizer
        return self.send(sent)

    def send(self, sent: dict[str, Any]) -> Answer:
        """Give an event to the function whose route it is."""
        writes = sent["routeKey"] == "PUT /v1/budget" and self.limits
        role, handler = ("SetBudget", set_budget.handler) if writes else ("ShowUsage", show_usage.handler)
        with under_role(self.template, f"Portal{role}Role") as needed:
            got = handler(sent, context())
        self.calls += needed
        raw = got["body"] or ""
        content = base64.b64decode(raw) if got["isBase64Encoded"] else raw.encode()
        if got["headers"].get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        return Answer(got["statusCode"], got["headers"], content)


@contextmanager
def opened(  # noqa: PLR0913 - what a deployment declares
    world: World,
    template: Mapping[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *,
    metrics: tuple[Metric, ...],
    plans: tuple[Plan, ...] = (),
    origins: str = "",
    limits: bool = False,
    stripe_portal_login: str = "",
) -> Iterator[Portal]:
    """Begin the functions' processes, with their settings, their clock and their files."""
    secrets = boto3.client("secretsmanager")
    secret = secrets.create_secret(Name="portal", SecretString=PORTAL_KEY)["ARN"]
    stripe = secrets.create_secret(Name="stripe", SecretString="sk_test_local")["ARN"]
    on = "true" if limits else ""
    settings = ShowUsageSettings(
        "counters", "ledger", "Metering", secret, stripe, world.stripe.url, origins, on, stripe_portal_login
    )
    budgets = SetBudgetSettings("ledger", "Metering", secret, "watch-limits", origins)
    for name, value in (settings.environment() | budgets.environment()).items():
        monkeypatch.setenv(name, value)
    declared = folder / "declared.json"
    declared.write_text(f'{{"metrics": {in_full(metrics)}, "plans": {encode_plans(plans)}}}')
    for function in (show_usage, set_budget):
        monkeypatch.setattr(function, "DECLARED", declared)
        monkeypatch.setattr(function, "_clock", lambda: world.now)
    forget()
    yield Portal(world, secret, template, limits)
    forget()


def forget() -> None:
    """Forget what the function's process keeps, as a new one would."""
    for cached in (
        show_usage._parts,
        show_usage._cors,
        set_budget._budgets,
        set_budget._cors,
        budget._application,
        api.application,
        document.document,
        clients.dynamodb,
        clients.secrets,
    ):
        cached.cache_clear()


def hour_after(hour: Hour, number: int) -> Hour:
    """Return the hour that begins so many hours later."""
    return Hour(hour.number + number)
