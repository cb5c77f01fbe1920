"""An HTTP API to try metering with, whose callers show a JSON Web Token; replace it by your own."""

from typing import ClassVar

import aws_cdk as cdk
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_apigatewayv2_authorizers as authorizers
from aws_cdk import aws_apigatewayv2_integrations as integrations
from constructs import Construct

from infra.stack.metering import MeteringStack
from infra.stack.sample_api import function
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import Count, Metric, Sum, Unique
from metering.model.prices import Flat, Graduated, Package, PerUnit, Plan, Tier

ISSUER = "https://login.example.com/"
AUDIENCE = "items"

BACKEND = """
import base64, json

def handler(event, context):
    if event["routeKey"] == "GET /fail":
        return {"statusCode": 500, "body": json.dumps({"message": "this path always fails"})}
    if event["routeKey"] == "POST /messages":
        return _take(event)
    if event["routeKey"] == "GET /items/{id}":
        return {"statusCode": 200, "body": json.dumps({"id": event["pathParameters"]["id"]})}
    asked = (event.get("queryStringParameters") or {}).get("n", "3")
    n = min(int(asked), 1000) if asked.isdecimal() and len(asked) < 10 else 3
    return {"statusCode": 200, "body": json.dumps({"items": [f"item {i}" for i in range(n)]})}

def _take(event):
    body = event.get("body") or ""
    try:
        held = len(json.loads(base64.b64decode(body) if event.get("isBase64Encoded") else body)["messages"])
    except (KeyError, RecursionError, TypeError, ValueError):
        return {"statusCode": 400, "body": json.dumps({"message": "the body must hold messages"})}
    return {"statusCode": 202, "body": json.dumps({"accepted": held})}
"""


class SampleHttpApi(cdk.Stack):
    """An API whose every route asks for a token of ``issuer``; its usage is what ``metering`` counts.

    Each request is billed to the ``sub`` of its token; its claim ``user`` says who of that customer's users it is.
    What is billed for differs from ``app.py``'s, since a token says nothing of the call that it is shown in.
    """

    ACCESS_LOG: ClassVar = AccessLog(api=Api.HTTP, caller="authorizer.claims.sub")
    METRICS: ClassVar[tuple[Metric, ...]] = (
        Count(name="requests", by="resource"),
        Sum(name="response_bytes", of="response_length"),
        Unique(name="users", of="authorizer.claims.user", opaque_id=True),
    )
    PLANS: ClassVar = (
        Plan(
            name="standard",
            title="Standard",
            currency="usd",
            prices=(
                Flat(amount=4900),
                Graduated(metric="requests", tiers=(Tier(up_to=10_000, amount=0), Tier(amount="0.04"))),
                Package(metric="response_bytes", size=1_000_000, amount=2),
                PerUnit(metric="users", amount=25),
            ),
        ),
    )

    def __init__(self, scope: Construct, construct_id: str, *, metering: MeteringStack, issuer: str = ISSUER) -> None:
        super().__init__(scope, construct_id)
        api = apigatewayv2.HttpApi(self, "Api", create_default_stage=False)
        backend = integrations.HttpLambdaIntegration("Backend", function(self, "Function", BACKEND))
        callers = authorizers.HttpJwtAuthorizer("Callers", issuer, jwt_audience=[AUDIENCE])
        for method, path in (
            (apigatewayv2.HttpMethod.GET, "/items"),
            (apigatewayv2.HttpMethod.GET, "/items/{id}"),
            (apigatewayv2.HttpMethod.POST, "/messages"),
            (apigatewayv2.HttpMethod.GET, "/fail"),
        ):
            api.add_routes(path=path, methods=[method], integration=backend, authorizer=callers)
        stage = apigatewayv2.HttpStage(
            self,
            "Stage",
            http_api=api,
            auto_deploy=True,
            # A route's throttle is for all of its callers together: HTTP APIs have none for each.
            throttle=apigatewayv2.ThrottleSettings(rate_limit=500, burst_limit=1000),
            # This is all that metering asks of an HTTP API.
            access_log_settings=metering.access_log_settings,
        )
        # compare_with() would want the API's id as text, which is known once the API is deployed.
        for name, value in {"ApiUrl": stage.url, "ApiId": api.api_id, "StageName": stage.stage_name}.items():
            cdk.CfnOutput(self, name, value=value)
