"""A WebSocket API of your own, metered: an authorizer lets a client connect, and each of its messages counts.

WebSocket APIs have no API keys to bill by, so the authorizer of ``$connect`` says who is billed for what comes by that
connection. Have its function check what the client shows, and return the client's id as ``customer``.
"""

import aws_cdk as cdk
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_apigatewayv2_authorizers as authorizers
from aws_cdk import aws_apigatewayv2_integrations as integrations
from aws_cdk import aws_lambda as lambda_
from cdk_nag import AwsSolutionsChecks

from infra.stack import AccessLog, Api, Count, MeteringStack

METRICS = (Count(name="messages", methods=("MESSAGE",)),)
"""A line's method is ``CONNECT``, ``MESSAGE`` or ``DISCONNECT``. What the back end sends is in no line."""
AUTHORIZER = "chat-authorizer"
BACKEND = "chat-backend"


class ChatApi(cdk.Stack):
    """An API in front of two functions that are there already, by their names."""

    def __init__(self, scope: cdk.App, construct_id: str, *, metering: MeteringStack) -> None:
        super().__init__(scope, construct_id)
        backend = integrations.WebSocketLambdaIntegration("Backend", self._function(BACKEND))
        callers = authorizers.WebSocketLambdaAuthorizer(
            "Callers", self._function(AUTHORIZER), identity_source=["route.request.querystring.ticket"]
        )
        api = apigatewayv2.WebSocketApi(
            self,
            "Api",
            connect_route_options=apigatewayv2.WebSocketRouteOptions(integration=backend, authorizer=callers),
            default_route_options=apigatewayv2.WebSocketRouteOptions(integration=backend),
        )
        # API Gateway takes an authorizer on $connect alone, and lets nobody else send messages.
        acknowledged = cdk.Acknowledgment(id="AwsSolutions::AwsSolutions-APIG4", reason="$connect asks an authorizer")
        cdk.Validations.of(api.node.find_child("$default-Route")).acknowledge(acknowledged)
        apigatewayv2.WebSocketStage(
            self,
            "Stage",
            web_socket_api=api,
            stage_name="v1",
            auto_deploy=True,
            throttle=apigatewayv2.ThrottleSettings(rate_limit=100, burst_limit=200),
            # This is all that metering asks of a WebSocket API.
            access_log_settings=metering.access_log_settings,
        )

    def _function(self, name: str) -> lambda_.IFunction:
        arn = self.format_arn(
            service="lambda", resource="function", resource_name=name, arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME
        )
        # Of this account and Region, so that the API is allowed to invoke it.
        return lambda_.Function.from_function_attributes(self, name, function_arn=arn, same_environment=True)


def build(app: cdk.App) -> cdk.App:
    """Add the stacks to ``app``, and the checks that fail its synthesis."""
    metering = MeteringStack(
        app,
        "Metering",
        metrics=METRICS,
        access_log=AccessLog(api=Api.WEBSOCKET, caller="authorizer.customer"),
    )
    ChatApi(app, "ChatApi", metering=metering)
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    return app


if __name__ == "__main__":
    build(cdk.App()).synth()
