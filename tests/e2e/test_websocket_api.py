"""A WebSocket API in an app of the CDK's, on the embedded AWS: connections, access log, functions, counters."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import boto3

from infra.local.aws.emulator import REPOSITORY, Emulator
from infra.local.aws.websocket import SocketGateway
from infra.local.demo.steps import wait_until
from infra.operate.deployment import Deployment
from metering.model.periods import Hour
from tests.e2e.foreign_apis import AUTHORIZER, BACKEND, talk

APP: Final = f"""
import aws_cdk as cdk
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_apigatewayv2_authorizers as authorizers
from aws_cdk import aws_apigatewayv2_integrations as integrations

from infra.stack import AccessLog, Api, Count, MeteringStack
from infra.stack.sample_api import function

app = cdk.App()
metering = MeteringStack(
    app,
    "Metering",
    metrics=[
        Count(name="messages", methods=("MESSAGE",)), Count(name="says", resources=("say",)), Count(name="events")
    ],
    access_log=AccessLog(Api.WEBSOCKET, "authorizer.principalId"),
    local=True,
)
stack = cdk.Stack(app, "ChatApi")
backend = integrations.WebSocketLambdaIntegration("Backend", function(stack, "Function", {BACKEND!r}))
callers = authorizers.WebSocketLambdaAuthorizer(
    "Callers", function(stack, "Authorizer", {AUTHORIZER!r}), identity_source=["route.request.querystring.user"]
)
api = apigatewayv2.WebSocketApi(
    stack,
    "Api",
    connect_route_options=apigatewayv2.WebSocketRouteOptions(integration=backend, authorizer=callers),
    default_route_options=apigatewayv2.WebSocketRouteOptions(integration=backend),
)
api.add_route("say", integration=backend)
settings = metering.access_log_settings
stage = apigatewayv2.WebSocketStage(
    stack, "Stage", web_socket_api=api, stage_name="v1", auto_deploy=True, access_log_settings=settings
)
cdk.CfnOutput(stack, "ApiId", value=api.api_id)
app.synth()
"""


def test_messages_are_counted_for_whom_the_authorizer_let_in(tmp_path: Path) -> None:
    """I1 to I3, I7: in the format and the log group that the deployed stage has."""
    (tmp_path / "app.py").write_text(APP)
    settings = json.loads((REPOSITORY / "cdk.json").read_text()) | {"app": f"{sys.executable} app.py"}
    (tmp_path / "cdk.json").write_text(json.dumps(settings))
    path = f"{REPOSITORY}:{REPOSITORY / 'functions'}"
    began = Hour.containing(datetime.now(UTC))
    with Emulator() as emulator:
        told = emulator.deploy({"PYTHONPATH": path}, context={}, app=tmp_path)
        session = boto3.Session(emulator.access_key_id, emulator.secret_access_key, region_name=emulator.region)
        deployment = Deployment.find("Metering", session, embedded_at=emulator.endpoint_url)
        with SocketGateway(emulator, api_id=told["ChatApi"]["ApiId"], stage="v1") as gateway:
            for user, messages in {"ada": 3, "bea": 2}.items():
                talk(f"{gateway.socket}?user={user}", messages=messages)

        def counted(user: str) -> dict[str, int]:
            hours = (began, began.next())
            found = [deployment.counters.read(hour, [user]).get(user) for hour in hours]
            sums = [amounts.sums for amounts in found if amounts is not None]
            return {metric: sum(each.get(metric, 0) for each in sums) for metric in ("messages", "says", "events")}

        # No route takes the end of a connection here, so that it has no line; its beginning has one.
        wanted = {
            "ada": {"messages": 3, "says": 3, "events": 4},
            "bea": {"messages": 2, "says": 2, "events": 3},
        }
        wait_until(lambda: {user: counted(user) for user in wanted} == wanted)
