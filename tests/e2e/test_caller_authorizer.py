"""The ready authorizer on the embedded AWS: a caller of an HTTP API that is stopped is refused, and let in again."""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from infra.local.aws.emulator import REPOSITORY, Emulator
from infra.local.aws.gateway import Gateway
from infra.local.aws.json_web_tokens import Issuer
from infra.local.demo.steps import wait_until
from infra.outputs import Outputs
from metering.model.limits import Level
from metering.stores.gate_list import GateList

APP: Final = """
import aws_cdk as cdk
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_apigatewayv2_integrations as integrations

from infra.stack import AccessLog, Api, Count, MeteringStack, caller_authorizer
from infra.stack.sample_api import function
from infra.stack.sample_http_api import BACKEND

app = cdk.App()
log = AccessLog(Api.HTTP, "authorizer.sub")
metering = MeteringStack(
    app, "Metering", metrics=[Count(name="requests")], access_log=log, limits=True, local=True
)
stack = cdk.Stack(app, "ItemsApi")
api = apigatewayv2.HttpApi(stack, "Api", create_default_stage=False)
issuer = app.node.try_get_context("issuer")
callers = caller_authorizer(stack, "Callers", metering=metering, issuer=issuer, audience=["items"])
to = integrations.HttpLambdaIntegration("Backend", function(stack, "Function", BACKEND))
api.add_routes(path="/items", methods=[apigatewayv2.HttpMethod.GET], integration=to, authorizer=callers)
settings = metering.access_log_settings
stage = apigatewayv2.HttpStage(stack, "Stage", http_api=api, auto_deploy=True, access_log_settings=settings)
for name, value in {"ApiId": api.api_id, "StageName": stage.stage_name}.items():
    cdk.CfnOutput(stack, name, value=value)
app.synth()
"""


def test_a_caller_that_is_stopped_is_refused_until_it_is_open(tmp_path: Path) -> None:
    """Within the ten seconds for which API Gateway keeps an answer; others go on meanwhile."""
    (tmp_path / "app.py").write_text(APP)
    settings = json.loads((REPOSITORY / "cdk.json").read_text()) | {"app": f"{sys.executable} app.py"}
    (tmp_path / "cdk.json").write_text(json.dumps(settings))
    path = f"{REPOSITORY}:{REPOSITORY / 'functions'}"
    with Emulator() as emulator, Issuer() as issuer:
        told = emulator.deploy({"PYTHONPATH": path}, context={"issuer": issuer.url}, app=tmp_path)
        outputs, api = Outputs.read(told["Metering"]), told["ItemsApi"]
        dynamodb = emulator.client("dynamodb")
        callers = GateList(dynamodb, outputs.access_table or "")
        with Gateway(emulator, api_id=api["ApiId"], stage=api["StageName"]) as gateway:
            url = f"{gateway.url}/items"
            acme, globex = issuer.token("acme"), issuer.token("globex")
            assert [_status(url, token) for token in (acme, globex, "x.y.z", None)] == [200, 200, 403, 401]
            callers.close_caller("acme", Level.STOPPED, since=0, until=0, why="operator")
            wait_until(lambda: _status(url, acme) == 403)
            assert _status(url, globex) == 200
            callers.open_caller("acme")
            wait_until(lambda: _status(url, acme) == 200)
        dynamodb.close()


def _status(url: str, token: str | None) -> int:
    """Return how a request with a token is answered."""
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"} if token else {})  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - ours
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
