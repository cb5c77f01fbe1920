"""The public side: an HTTP API for customers and for Stripe's notifications, and the key that signs links."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final, cast

import aws_cdk as cdk
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_apigatewayv2_authorizers as authorizers
from aws_cdk import aws_apigatewayv2_integrations as integrations
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from infra.stack import bundle
from infra.stack.sizes import Size
from infra.stack.storage import Storage
from metering.model.metrics import Metric, in_full
from metering.model.prices import Plan
from metering.model.prices import encode as encode_plans
from metering.portal.page import FILES, FOLDER
from metering.settings import SetBudgetSettings, ShowUsageSettings

OPEN_ROUTES: Final = (
    *(f"GET {path}" for path in FILES),
    "GET /v1/openapi.json",
    "GET /v1/usage",
    "GET /v1/invoice",
    "GET /v1/invoices",
    "GET /v1/prices",
    "POST /v1/session",
    "OPTIONS /v1/{proxy+}",
)
"""What anyone may call; of those with a customer's data, the function checks the token before anything else."""

SIGNED_ROUTE: Final = "POST /v1/links"
"""What callers of the account may call who are allowed ``execute-api:Invoke`` on it."""

RATE: Final = 50
BURST: Final = 100
"""Requests a second for all callers of a route together, for what is the same for everybody."""

READING: Final = {"ThrottlingRateLimit": 10, "ThrottlingBurstLimit": 20}
"""The same for what reads: fifty pages that are open, each of which asks every five seconds."""

NOTIFICATIONS: Final = "POST /v1/notifications"
"""What Stripe calls, which has no AWS credentials and signs what it sends."""

NOTIFYING: Final = {"ThrottlingRateLimit": 5, "ThrottlingBurstLimit": 20}
"""The same for notifications: Stripe sends one a meter and some minutes, where there are limits a few for whatever
happens to a subscription, and what is throttled again later."""

LIMITS: Final = "GET /v1/limits"
"""What is asked by callers who want to know before they send; where there are limits."""

BUDGET: Final = "PUT /v1/budget"
"""What a customer gives itself; where there are limits, to a function of its own."""

BUDGETING: Final = {"ThrottlingRateLimit": 5, "ThrottlingBurstLimit": 10}
"""The same for budgets, which people change now and then."""

THROTTLES: Final = {
    **dict.fromkeys(("GET /v1/usage", "GET /v1/invoice", "GET /v1/invoices"), READING),
    **dict.fromkeys(("POST /v1/session", SIGNED_ROUTE), READING),
    NOTIFICATIONS: NOTIFYING,
}
"""Each route has a bucket of its own, so that whoever floods one leaves the others their own (API Gateway Developer
Guide, "Throttle requests to your HTTP APIs")."""


class Portal(Construct):
    """Shows customers what they used and what it costs, to whoever has a link of theirs; takes Stripe's notifications.

    An HTTP API, since it can have a domain of one's own, IAM on a single route, and throttling; a function's URL has
    none of these. The page is served by the same function: what is asked for twice is answered by 304, and a
    distribution in front of it would cost a second deployment's time for a few small files.
    """

    def __init__(  # noqa: PLR0913 - what its function needs, each by name
        self,
        scope: Construct,
        construct_id: str,
        *,
        storage: Storage,
        stripe_api_base: str,
        metrics: Sequence[Metric],
        plans: Sequence[Plan],
        limits: bool,
        receive_events: lambda_.Function,
        origins: Sequence[str],
        stripe_portal_login: str,
        sizes: Mapping[str, Size],
        concurrency: int | None,
        deployment: str,
        local: bool,
    ) -> None:
        super().__init__(scope, construct_id)
        self._origins = _origins(origins, local=local)
        self.secret = self._key()
        self.declared = _declared(metrics, plans)
        self.show_usage = bundle.function(
            self,
            "ShowUsage",
            module="show_usage",
            local=local,
            settings=ShowUsageSettings(
                counters_table=storage.counters.table_name,
                ledger_table=storage.ledger.table_name,
                deployment=deployment,
                portal_secret=self.secret.secret_arn,
                stripe_secret=storage.stripe_secret.ref,
                stripe_api_base=stripe_api_base,
                portal_origins=self._origins,
                limits="true" if limits else "",
                stripe_portal_login=_login(stripe_portal_login),
            ).environment(),
            deployment=deployment,
            size=sizes["show_usage"],
            concurrency=concurrency,
            description="Shows a customer what it used and what it costs.",
            more={
                "declared.json": self.declared,
                **{f"page/{name}": (FOLDER / name).read_bytes() for name, _ in FILES.values()},
            },
        )
        self.api = apigatewayv2.HttpApi(
            self, "Api", create_default_stage=False, description="What customers used, and what it costs."
        )
        notifications = self._route_alone(
            NOTIFICATIONS,
            "ReceiveEvents",
            receive_events,
            "Stripe has no AWS credentials: the function checks its signature before anything else.",
        )
        routes = [*self._route(limits=limits), notifications]
        self.set_budget: lambda_.Function | None = None
        self.stage = self._stage(THROTTLES | ({LIMITS: READING, BUDGET: BUDGETING} if limits else {}))
        self.stage.node.add_dependency(*routes)  # which its throttles name

    def take_budgets(
        self, *, storage: Storage, watch_limits: lambda_.Function, size: Size, deployment: str, local: bool
    ) -> None:
        """Take the budgets that customers give themselves, and have whoever gave itself one looked at at once."""
        self.set_budget = bundle.function(
            self,
            "SetBudget",
            module="set_budget",
            local=local,
            settings=SetBudgetSettings(
                ledger_table=storage.ledger.table_name,
                deployment=deployment,
                portal_secret=self.secret.secret_arn,
                watch_limits_function=watch_limits.function_name,
                portal_origins=self._origins,
            ).environment(),
            deployment=deployment,
            size=size,
            description="Writes the budget that a customer gives itself.",
            more={"declared.json": self.declared},
        )
        budget = self._route_alone(
            BUDGET,
            "SetBudget",
            self.set_budget,
            "Customers have no AWS credentials: the function checks their token before anything else.",
        )
        self.stage.node.add_dependency(budget)

    @property
    def url(self) -> str:
        """Where the page is; ends with a slash."""
        return self.stage.url

    @property
    def notifications_url(self) -> str:
        """Where Stripe's notifications are to be sent."""
        return f"{self.url}{NOTIFICATIONS.partition('/')[2]}"

    def _key(self) -> secretsmanager.Secret:
        """Return the place of what signs the links."""
        secret = secretsmanager.Secret(
            self,
            "Key",
            description="What signs the links to customers' usage; `metering portal rotate-key` puts another.",
            generate_secret_string=secretsmanager.SecretStringGenerator(password_length=64, exclude_punctuation=True),
        )
        cdk.Validations.of(secret).acknowledge(
            cdk.Acknowledgment(
                id="AwsSolutions-SMG4",
                reason="A link lives for a day at most, and `metering portal rotate-key` puts another key at any time.",
            )
        )
        return secret

    def _route(self, *, limits: bool) -> list[apigatewayv2.HttpRoute]:
        """Bring each route to the function; callers of the account alone reach the signed one."""
        routes = []
        integration = integrations.HttpLambdaIntegration("ShowUsage", self.show_usage, scope_permission_to_route=False)
        for route in (*OPEN_ROUTES, *([LIMITS] if limits else []), SIGNED_ROUTE):
            method, _, path = route.partition(" ")
            made = self.api.add_routes(
                path=path,
                methods=[apigatewayv2.HttpMethod(method)],
                integration=integration,
                authorizer=authorizers.HttpIamAuthorizer() if route == SIGNED_ROUTE else None,
            )
            routes += made
            if route != SIGNED_ROUTE:
                cdk.Validations.of(made[0]).acknowledge(
                    cdk.Acknowledgment(
                        id="AwsSolutions-APIG4",
                        reason="Customers have no AWS credentials: the function checks their token before anything "
                        "else, and what needs none is the same for everybody.",
                    )
                )
        return routes

    def _route_alone(self, route: str, name: str, function: lambda_.Function, reason: str) -> apigatewayv2.HttpRoute:
        """Bring one route to a function with a role of its own, and nothing else to it; say why anyone may call it."""
        method, _, path = route.partition(" ")
        (made,) = self.api.add_routes(
            path=path,
            methods=[apigatewayv2.HttpMethod(method)],
            integration=integrations.HttpLambdaIntegration(name, function),
        )
        cdk.Validations.of(made).acknowledge(cdk.Acknowledgment(id="AwsSolutions-APIG4", reason=reason))
        return made

    def _stage(self, throttles: Mapping[str, Mapping[str, int]]) -> apigatewayv2.HttpStage:
        stage = apigatewayv2.HttpStage(
            self,
            "Stage",
            http_api=self.api,
            stage_name="$default",
            auto_deploy=True,
            throttle=apigatewayv2.ThrottleSettings(rate_limit=RATE, burst_limit=BURST),
        )
        cast("apigatewayv2.CfnStage", stage.node.default_child).route_settings = throttles
        cdk.Validations.of(stage).acknowledge(
            cdk.Acknowledgment(
                id="AwsSolutions-APIG1",
                reason="Its lines would hold the addresses of customers' people and nothing that is needed.",
            )
        )
        return stage


def _declared(metrics: Sequence[Metric], plans: Sequence[Plan]) -> bytes:
    """Return what ``app.py`` declares, as functions find it in their zips."""
    declared = {"metrics": json.loads(in_full(metrics)), "plans": json.loads(encode_plans(plans))}
    return json.dumps(declared, sort_keys=True).encode()


def _origins(origins: Sequence[str], *, local: bool) -> str:
    """Return the origins whose pages may call, as the functions read them."""
    schemes = "https?" if local else "https"
    for origin in origins:
        if not (isinstance(origin, str) and re.fullmatch(rf"{schemes}://[a-z0-9.-]+(:[0-9]+)?", origin)):
            raise ValueError(f"portal_origins: an origin is written 'https://app.example.com', got {origin!r}")
    return " ".join(origins)


_LOGIN: Final = re.compile(r"https://[a-z0-9.-]+/p/login/[A-Za-z0-9_-]+")
"""Stripe docs, "Customer portal": a login page's link; one's own domain may stand in the place of Stripe's."""


def _login(address: str) -> str:
    """Return where customers log in at Stripe, as it is declared, or nothing."""
    if address and not (isinstance(address, str) and _LOGIN.fullmatch(address)):
        raise ValueError(
            "stripe_portal_login: the link to the customer portal's login page is written "
            f"'https://billing.stripe.com/p/login/...', got {address!r}"
        )
    return address
