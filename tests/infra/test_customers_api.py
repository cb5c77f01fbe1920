"""The customers' API: who may call what, and how much."""

from collections.abc import Callable

import pytest
from aws_cdk.assertions import Template as Synthesised

from infra.stack.metering import MeteringStack
from tests.doubles.template import DEPLOYMENT, Template, flat, of_type, properties


def test_one_route_is_signed_and_the_others_are_open(template: Template) -> None:
    """What is open, the function looks at by itself; nothing else is reached."""
    routes = [one["Properties"] for one in of_type(template, "AWS::ApiGatewayV2::Route").values()]
    assert {one["RouteKey"]: one["AuthorizationType"] for one in routes} == {
        "GET /": "NONE",
        "GET /api.js": "NONE",
        "GET /chart.js": "NONE",
        "GET /elements.js": "NONE",
        "GET /figures.js": "NONE",
        "GET /invoices.js": "NONE",
        "GET /limits.js": "NONE",
        "GET /main.js": "NONE",
        "GET /parts.js": "NONE",
        "GET /price.js": "NONE",
        "GET /reading.js": "NONE",
        "GET /style.css": "NONE",
        "GET /view.js": "NONE",
        "GET /words.js": "NONE",
        "GET /v1/openapi.json": "NONE",
        "GET /v1/usage": "NONE",
        "GET /v1/invoice": "NONE",
        "GET /v1/invoices": "NONE",
        "GET /v1/prices": "NONE",
        "POST /v1/session": "NONE",
        "POST /v1/notifications": "NONE",
        "OPTIONS /v1/{proxy+}": "NONE",
        "POST /v1/links": "AWS_IAM",
    }


def test_the_stage_is_throttled_and_logs_no_caller(template: Template) -> None:
    """I8: an access log would hold addresses; and what strangers can make it cost is bounded."""
    stage = properties(template, "PortalStage")
    assert stage["DefaultRouteSettings"] == {"ThrottlingBurstLimit": 100, "ThrottlingRateLimit": 50}
    assert "AccessLogSettings" not in stage


def test_show_usage_knows_tables_stripe_and_its_secret(template: Template) -> None:
    """Its environment is what ShowUsageSettings reads; secrets are named there, never their values (I8)."""
    environment = properties(template, "PortalShowUsage")["Environment"]["Variables"]
    assert environment == {
        "COUNTERS_TABLE": {"Ref": "CountersFDB211E7"},
        "LEDGER_TABLE": {"Ref": "LedgerB7379752"},
        "DEPLOYMENT": DEPLOYMENT,
        "PORTAL_SECRET": {"Ref": "PortalKey4F23AF2A"},
        "STRIPE_SECRET": {"Ref": "StripeSecret"},
        "STRIPE_API_BASE": "https://api.stripe.com",
        "POWERTOOLS_SERVICE_NAME": DEPLOYMENT,
        "POWERTOOLS_METRICS_NAMESPACE": "Metering",
    }


def test_the_key_is_made_at_deployment(template: Template) -> None:
    """I7, I8: 64 letters and digits that stand nowhere else."""
    made = properties(template, "PortalKey")
    assert made["GenerateSecretString"] == {"ExcludePunctuation": True, "PasswordLength": 64}
    assert "SecretString" not in made


def test_whoever_floods_a_route_leaves_the_others_their_own(template: Template) -> None:
    """I6: what reads has a bucket for each route, and so have links, which are the operator's."""
    settings = properties(template, "PortalStage")["RouteSettings"]
    bucket = {"ThrottlingBurstLimit": 20, "ThrottlingRateLimit": 10}
    assert settings == {
        "GET /v1/usage": bucket,
        "GET /v1/invoice": bucket,
        "GET /v1/invoices": bucket,
        "POST /v1/session": bucket,
        "POST /v1/links": bucket,
        "POST /v1/notifications": {"ThrottlingBurstLimit": 20, "ThrottlingRateLimit": 5},
    }
    stage = next(one for name, one in template["Resources"].items() if name.startswith("PortalStage"))
    routes = {name for name in template["Resources"] if name.startswith("PortalApi") and "Integration" not in name}
    assert set(of_type(template, "AWS::ApiGatewayV2::Route")) <= set(stage["DependsOn"]) <= routes


def test_nobody_waits_long(template: Template) -> None:
    """I10: an answer takes a second of work at most."""
    assert properties(template, "PortalShowUsage")["Timeout"] == 10


def test_executions_are_reserved_where_that_is_wished_for(
    stack: Callable[..., MeteringStack], template: Template
) -> None:
    """I6: a flood of the customers' API then leaves the others to counting; a new account has none to reserve."""
    made = properties(dict(Synthesised.from_stack(stack(portal_concurrency=50)).to_json()), "PortalShowUsage")
    assert made["ReservedConcurrentExecutions"] == 50
    assert "ReservedConcurrentExecutions" not in properties(template, "PortalShowUsage")


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "50"])
def test_another_concurrency_is_refused(stack: Callable[..., MeteringStack], wrong: object) -> None:
    """With what was got and wanted."""
    with pytest.raises(ValueError, match="portal_concurrency must be a whole number above zero, or None, got"):
        stack(portal_concurrency=wrong)


def test_the_address_ends_with_a_slash(template: Template) -> None:
    """A link is put together from it."""
    assert flat(template["Outputs"]["PortalUrl"]["Value"]).endswith("AWS::URLSuffix/")


def test_declared_origins_reach_the_function(stack: Callable[..., MeteringStack]) -> None:
    """As the browser will name them."""
    made = stack(portal_origins=["https://app.example.com", "https://app.example.com:8443"])
    environment = properties(dict(Synthesised.from_stack(made).to_json()), "PortalShowUsage")["Environment"]
    assert environment["Variables"]["PORTAL_ORIGINS"] == "https://app.example.com https://app.example.com:8443"


@pytest.mark.parametrize(
    "origin",
    ["*", "https://*.example.com", "http://app.example.com", "https://app.example.com/", "app.example.com", "null", ""],
)
def test_an_origin_that_lets_others_in_is_refused(stack: Callable[..., MeteringStack], origin: str) -> None:
    """No pattern, nothing in the clear, nothing that no browser sends."""
    with pytest.raises(ValueError, match=r"portal_origins: an origin is written 'https://app\.example\.com'"):
        stack(portal_origins=[origin])


def test_where_customers_log_in_at_stripe_reaches_the_function(stack: Callable[..., MeteringStack]) -> None:
    """So that the function needs no right to open Stripe's portal for them."""
    made = stack(stripe_portal_login="https://billing.stripe.com/p/login/test_7sI3cw")
    environment = properties(dict(Synthesised.from_stack(made).to_json()), "PortalShowUsage")["Environment"]
    assert environment["Variables"]["STRIPE_PORTAL_LOGIN"] == "https://billing.stripe.com/p/login/test_7sI3cw"


@pytest.mark.parametrize(
    "address",
    [
        "http://billing.stripe.com/p/login/a",
        "https://billing.stripe.com/p/session/bps_1",
        "https://billing.stripe.com/p/login/",
        "javascript:alert(1)",
        "https://billing.stripe.com/p/login/a?b=c",
    ],
)
def test_an_address_where_nobody_logs_in_is_refused(stack: Callable[..., MeteringStack], address: str) -> None:
    """A page for one customer, for an hour, least of all."""
    with pytest.raises(
        ValueError, match="stripe_portal_login: the link to the customer portal's login page is written"
    ):
        stack(stripe_portal_login=address)
