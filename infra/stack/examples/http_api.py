"""An HTTP API whose callers show a JWT: each request is billed to the ``sub`` of its token.

HTTP APIs have no API keys, so what stands for one is a claim that the authorizer has verified. Give each customer the
``sub`` values that are its own: ``metering customers add acme --name "Acme Ltd" --key SUB``. They are whatever the
issuer gives, up to 128 printable characters.
"""

import aws_cdk as cdk
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_apigatewayv2_authorizers as authorizers
from aws_cdk import aws_apigatewayv2_integrations as integrations
from cdk_nag import AwsSolutionsChecks

from infra.stack import AccessLog, Api, Count, MeteringStack, Sum

ISSUER = "https://login.example.com/"
AUDIENCE = "items"
BACKEND = "https://backend.example.com/items"

METRICS = (
    Count(name="requests", by="resource"),
    Sum(name="response_bytes", of="response_length"),
)


class ItemsApi(cdk.Stack):
    """An API of one route, in front of a backend that is there already."""

    def __init__(self, scope: cdk.App, construct_id: str, *, metering: MeteringStack) -> None:
        super().__init__(scope, construct_id)
        api = apigatewayv2.HttpApi(self, "Api", create_default_stage=False)
        api.add_routes(
            path="/items",
            methods=[apigatewayv2.HttpMethod.GET],
            integration=integrations.HttpUrlIntegration("Backend", BACKEND),
            authorizer=authorizers.HttpJwtAuthorizer("Callers", ISSUER, jwt_audience=[AUDIENCE]),
        )
        apigatewayv2.HttpStage(
            self,
            "Stage",
            http_api=api,
            auto_deploy=True,
            throttle=apigatewayv2.ThrottleSettings(rate_limit=100, burst_limit=200),
            # This is all that metering asks of an HTTP API.
            access_log_settings=metering.access_log_settings,
        )


def build(app: cdk.App) -> cdk.App:
    """Add the stacks to ``app``, and the checks that fail its synthesis."""
    metering = MeteringStack(
        app,
        "Metering",
        metrics=METRICS,
        access_log=AccessLog(api=Api.HTTP, caller="authorizer.claims.sub"),
    )
    ItemsApi(app, "ItemsApi", metering=metering)
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    return app


if __name__ == "__main__":
    build(cdk.App()).synth()
