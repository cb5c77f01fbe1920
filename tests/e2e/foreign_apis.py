"""APIs of each kind that this app did not deploy, made by API Gateway's own calls on the embedded AWS."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from infra.local.aws.emulator import REPOSITORY, Emulator
from infra.local.aws.json_web_tokens import Issuer
from infra.local.cloud import LocalCloud
from tests.e2e.test_emulator_gateway import make_function

URI: Final = "arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{}/invocations"

BACKEND: Final = """
def handler(event, context):
    return {"statusCode": 200, "headers": {"content-type": "text/plain"}, "body": "welcome"}
"""

AUTHORIZER: Final = """
def handler(event, context):
    statement = {"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": event["methodArn"]}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    return {"principalId": event["queryStringParameters"]["user"], "policyDocument": policy}
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a stage writes and where, empty where it has no access log."""

    destination: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True)
class Foreign:
    """A stage of somebody else's; ``key_id`` and ``key`` are those of a REST API's only caller."""

    emulator: Emulator
    api_id: str
    stage: str
    key_id: str = ""
    key: str = ""

    @property
    def settings(self) -> Settings:
        """The stage's access log, as API Gateway tells of it now."""
        if self.key_id:
            with client(self.emulator, "apigateway") as rest:
                told = rest.get_stage(restApiId=self.api_id, stageName=self.stage).get("accessLogSettings") or {}
            return Settings(told.get("destinationArn", ""), told.get("format", ""))
        with client(self.emulator, "apigatewayv2") as other:
            told = other.get_stage(ApiId=self.api_id, StageName=self.stage).get("AccessLogSettings") or {}
        return Settings(told.get("DestinationArn", ""), told.get("Format", ""))


@contextmanager
def client(emulator: Emulator, service: str) -> Iterator[Any]:
    """Make a client, and close it."""
    made = emulator.client(service)
    try:
        yield made
    finally:
        made.close()


def make_rest_api(emulator: Emulator, name: str, log: tuple[str, str] | None = None) -> Foreign:
    """Make a REST API with one method that asks for a key, a key, and a stage that writes a format into a log group."""
    with client(emulator, "apigateway") as apigateway:
        api_id = apigateway.create_rest_api(name=name)["id"]
        root = apigateway.get_resources(restApiId=api_id)["items"][0]["id"]
        items = apigateway.create_resource(restApiId=api_id, parentId=root, pathPart="items")["id"]
        method = {"restApiId": api_id, "resourceId": items, "httpMethod": "GET"}
        apigateway.put_method(**method, authorizationType="NONE", apiKeyRequired=True)
        backend = URI.format(make_function(emulator, f"{name}-backend", BACKEND))
        apigateway.put_integration(**method, type="AWS_PROXY", integrationHttpMethod="POST", uri=backend)
        deployment = apigateway.create_deployment(restApiId=api_id)["id"]
        apigateway.create_stage(restApiId=api_id, stageName="prod", deploymentId=deployment)
        if log:
            settings = {"destinationArn": make_log_group(emulator, log[0]), "format": log[1]}
            operations = [
                {"op": "replace", "path": f"/accessLogSettings/{what}", "value": value}
                for what, value in settings.items()
            ]
            apigateway.update_stage(restApiId=api_id, stageName="prod", patchOperations=operations)
        plan = apigateway.create_usage_plan(name=name, apiStages=[{"apiId": api_id, "stage": "prod"}])["id"]
        key = apigateway.create_api_key(name=name, enabled=True)
        apigateway.create_usage_plan_key(usagePlanId=plan, keyId=key["id"], keyType="API_KEY")
    return Foreign(emulator, api_id, "prod", key["id"], key["value"])


def make_http_api(emulator: Emulator, name: str, issuer: Issuer) -> Foreign:
    """Make an HTTP API with one route that takes tokens of an issuer, and a stage without an access log."""
    with client(emulator, "apigatewayv2") as apigateway:
        api_id = apigateway.create_api(Name=name, ProtocolType="HTTP")["ApiId"]
        authorizer = apigateway.create_authorizer(
            ApiId=api_id,
            Name="callers",
            AuthorizerType="JWT",
            IdentitySource=["$request.header.Authorization"],
            JwtConfiguration={"Issuer": issuer.url, "Audience": [Issuer.AUDIENCE]},
        )["AuthorizerId"]
        target = apigateway.create_integration(
            ApiId=api_id,
            IntegrationType="AWS_PROXY",
            IntegrationUri=make_function(emulator, f"{name}-backend", BACKEND),
            PayloadFormatVersion="2.0",
        )["IntegrationId"]
        apigateway.create_route(
            ApiId=api_id,
            RouteKey="GET /items",
            Target=f"integrations/{target}",
            AuthorizationType="JWT",
            AuthorizerId=authorizer,
        )
        apigateway.create_stage(ApiId=api_id, StageName="$default", AutoDeploy=True)
    return Foreign(emulator, api_id, "$default")


def make_socket_api(emulator: Emulator, name: str) -> Foreign:
    """Make a WebSocket API with an authorizer that believes anybody, and a stage without an access log."""
    with client(emulator, "apigatewayv2") as apigateway:
        api_id = apigateway.create_api(
            Name=name, ProtocolType="WEBSOCKET", RouteSelectionExpression="$request.body.action"
        )["ApiId"]
        authorizer = apigateway.create_authorizer(
            ApiId=api_id,
            Name="callers",
            AuthorizerType="REQUEST",
            AuthorizerUri=URI.format(make_function(emulator, f"{name}-authorizer", AUTHORIZER)),
            IdentitySource=["route.request.querystring.user"],
        )["AuthorizerId"]
        target = apigateway.create_integration(
            ApiId=api_id,
            IntegrationType="AWS_PROXY",
            IntegrationUri=URI.format(make_function(emulator, f"{name}-backend", BACKEND)),
        )["IntegrationId"]
        asks = {"AuthorizationType": "CUSTOM", "AuthorizerId": authorizer}
        for key, more in {"$connect": asks, "$disconnect": {}, "$default": {}}.items():
            apigateway.create_route(ApiId=api_id, RouteKey=key, Target=f"integrations/{target}", **more)
        apigateway.create_stage(ApiId=api_id, StageName="live")
    return Foreign(emulator, api_id, "live")


def make_log_group(emulator: Emulator, name: str) -> str:
    """Make a log group and return its ARN."""
    with client(emulator, "logs") as logs:
        logs.create_log_group(logGroupName=name)
    return f"arn:aws:logs:{emulator.region}:{emulator.account_id}:log-group:{name}"


def metering(cloud: LocalCloud, *arguments: str) -> Any:
    """Run a command as its user does, in a process of its own, and return the JSON that it prints."""
    emulator = cloud.emulator
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": emulator.endpoint_url,
        "AWS_ACCESS_KEY_ID": emulator.access_key_id,
        "AWS_SECRET_ACCESS_KEY": emulator.secret_access_key,
        "AWS_DEFAULT_REGION": emulator.region,
    }
    command = [sys.executable, "-m", "infra.cli.main", *arguments, "--json"]
    ran = subprocess.run(  # noqa: S603 - our own command
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"{' '.join(arguments)}: {ran.stdout}{ran.stderr}"
    return json.loads(ran.stdout)


def call(url: str, each: Sequence[Mapping[str, str]]) -> list[int]:
    """Send a request with each of these headers, and return the statuses."""

    async def calls() -> list[int]:
        async with aiohttp.ClientSession() as session:
            return [await one(session, headers) for headers in each]

    async def one(session: aiohttp.ClientSession, headers: Mapping[str, str]) -> int:
        async with session.get(url, headers=headers) as answer:
            return answer.status

    return asyncio.run(calls())


def talk(url: str, messages: int) -> None:
    """Connect, send messages, and go."""

    async def connected() -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
            for _ in range(messages):
                await socket.send_str('{"action": "say"}')

    asyncio.run(connected())
