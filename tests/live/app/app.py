"""What the live tests deploy: a metering stack, and an API of each kind that writes what is to be looked at.

Context: ``name`` begins every stack's name; ``assets`` is the bucket that the deployment uploads to, so that nothing of
the account's own bootstrapping is needed or changed; ``road``; ``issuer`` of JSON Web Tokens, or none for a user pool;
``local`` for the emulator; ``broken`` for a stack whose creation fails; ``touch`` for a change of something else.
"""

import json
from typing import Any, Final, cast

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_apigatewayv2_authorizers as authorizers
from aws_cdk import aws_apigatewayv2_integrations as integrations
from aws_cdk import aws_cognito as cognito
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns

from infra.stack import USAGE_LINES, AccessLog, Api, Count, MeteringStack, Road, Sum
from tests.conftest import ROOT

METRICS: Final = (
    Count(name="requests"),
    Sum(name="tokens", of="responseOverride.header.tokens"),
    Sum(name="words", of=USAGE_LINES, deduplicate=True),
)
HTTP_NONCE: Final = "5b7fb2a0-3c0e-4d3a-9a55-0d1f9b0c7e11"
HTTP_LINE: Final = AccessLog(api=Api.HTTP, caller="authorizer.claims.sub").format(HTTP_NONCE)
"""What an HTTP API writes for metering; here it is looked at, and counted by nobody."""

AUDIENCE: Final = "live"
TOKENS: Final = 7
"""What each answer of the REST API carries."""

HOSTILE: Final = 'a "quoted" back\\slash and\na new line'
"""What the authorizer tells of a caller besides its name."""

PLAIN: Final = {
    "id": "extendedRequestId",
    "key": "identity.apiKeyId",
    "hyphenated": "responseOverride.header.x-tokens",
    "plain": "responseOverride.header.tokens",
    "text": "authorizer.text",
}
SOCKET: Final = {
    "event": "eventType",
    "route": "routeKey",
    "connection": "connectionId",
    "id": "requestId",
    "extended": "extendedRequestId",
    "time": "requestTimeEpoch",
    "status": "status",
    "user": "authorizer.user",
    "principal": "authorizer.principalId",
}

AUTHORIZER: Final = f"""
def handler(event, context):
    arn = event["methodArn"].split("/")
    statement = {{"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": "/".join(arn[:2]) + "/*"}}
    told = {{"user": "u1", "text": {HOSTILE!r}}}
    policy = {{"Version": "2012-10-17", "Statement": [statement]}}
    return {{"principalId": "p1", "policyDocument": policy, "context": told}}
"""

BACKEND: Final = """
def handler(event, context):
    return {"statusCode": 200, "body": "{}"}
"""

WORKER: Final = """
exports.handler = async (job) => {
    const usage = {id: job.id, time: new Date().toISOString(), customer: job.customer, words: job.words};
    console.log(JSON.stringify({usage}));
    return usage;
};
"""

# What a mapping template sets and the log may name; both names, since one of them has a hyphen.
OVERRIDE: Final = "".join(
    f'#set($context.responseOverride.header.{name} = "{TOKENS}")' for name in ("tokens", "x-tokens")
)


def as_format(fields: dict[str, str]) -> str:
    """Return an access-log format of these variables."""
    return json.dumps({name: f"$context.{variable}" for name, variable in fields.items()})


def _write(stage: apigatewayv2.HttpStage | apigatewayv2.WebSocketStage, log: logs.LogGroup, fields: str) -> None:
    """Let a stage write these fields into a log group."""
    made: Any = stage.node.default_child
    arn = cdk.Stack.of(stage).format_arn(
        service="logs",
        resource="log-group",
        resource_name=log.log_group_name,
        arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
    )
    made.access_log_settings = apigatewayv2.CfnStage.AccessLogSettingsProperty(destination_arn=arn, format=fields)


class Apis(cdk.Stack):
    """A REST, an HTTP and a WebSocket API, and a function of Node that reports usage."""

    def __init__(
        self, scope: cdk.App, construct_id: str, *, metering: MeteringStack, issuer: str, **props: Any
    ) -> None:
        super().__init__(scope, construct_id, **props)
        self._metering = metering
        self._knows = self._function("Authorizer", AUTHORIZER)
        self._backend = self._function("Backend", BACKEND)
        self._add_rest()
        self._add_http(issuer)
        self._add_socket()
        self._add_worker()

    def _add_rest(self) -> None:
        api = apigateway.RestApi(
            self,
            "Rest",
            rest_api_name=self.stack_name,
            endpoint_configuration=apigateway.EndpointConfiguration(types=[apigateway.EndpointType.REGIONAL]),
            deploy_options=apigateway.StageOptions(
                stage_name="metered",
                access_log_destination=self._metering.access_log_destination,
                access_log_format=self._metering.access_log_format,
            ),
            cloud_watch_role=False,
        )
        knows = apigateway.RequestAuthorizer(
            self,
            "Knows",
            handler=self._knows,
            identity_sources=[apigateway.IdentitySource.header("x-user")],
            results_cache_ttl=cdk.Duration.minutes(5),
        )
        answer = apigateway.MockIntegration(
            request_templates={"application/json": '{"statusCode": 200}'},
            integration_responses=[
                apigateway.IntegrationResponse(
                    status_code="200", response_templates={"application/json": OVERRIDE + "{}"}
                )
            ],
        )
        api.root.add_resource("items").add_method(
            "GET",
            answer,
            api_key_required=True,
            authorizer=knows,
            method_responses=[apigateway.MethodResponse(status_code="200")],
        )
        log = self._log("PlainLog")
        plain = apigateway.Stage(
            self,
            "Plain",
            deployment=cast("apigateway.Deployment", api.latest_deployment),
            stage_name="plain",
            access_log_destination=apigateway.LogGroupLogDestination(log),
            access_log_format=apigateway.AccessLogFormat.custom(as_format(PLAIN)),
        )
        stages = {"Metered": api.deployment_stage, "Plain": plain}
        plan = api.add_usage_plan(
            "Plan",
            description=self.node.try_get_context("touch"),
            api_stages=[apigateway.UsagePlanPerApiStage(api=api, stage=stage) for stage in stages.values()],
        )
        self._tell(RestId=api.rest_api_id, Plan=plan.usage_plan_id, PlainLog=log.log_group_name)
        for name, stage in stages.items():
            written: Any = cast("apigateway.CfnStage", stage.node.default_child).access_log_setting
            self._tell(**{f"{name}Destination": written.destination_arn, f"{name}Format": written.format})

    def _add_http(self, issuer: str) -> None:
        audience = AUDIENCE
        if not issuer:
            pool = cognito.UserPool(self, "Pool", removal_policy=cdk.RemovalPolicy.DESTROY)
            client = pool.add_client("Client", auth_flows=cognito.AuthFlow(admin_user_password=True))
            issuer, audience = pool.user_pool_provider_url, client.user_pool_client_id
            self._tell(Pool=pool.user_pool_id, PoolClient=audience)
        api = apigatewayv2.HttpApi(self, "Http", create_default_stage=False)
        api.add_routes(
            path="/items",
            methods=[apigatewayv2.HttpMethod.GET],
            integration=integrations.HttpLambdaIntegration("HttpBackend", self._backend),
            authorizer=authorizers.HttpJwtAuthorizer("Callers", issuer, jwt_audience=[audience]),
        )
        # Below this prefix, so that the account's one policy for log delivery need not have room for it.
        log = self._log("HttpLog", f"/aws/vendedlogs/{self.stack_name}-http")
        # The line is ours, and beside it stands what its time is to be compared with.
        written = f'{{"written":"$context.requestTime","line":{HTTP_LINE}}}'
        stage = apigatewayv2.HttpStage(self, "HttpStage", http_api=api, stage_name="live", auto_deploy=True)
        _write(stage, log, written)
        self._tell(HttpId=api.api_id, HttpLog=log.log_group_name, HttpFormat=written)

    def _add_socket(self) -> None:
        backend = integrations.WebSocketLambdaIntegration("SocketBackend", self._backend)
        api = apigatewayv2.WebSocketApi(
            self,
            "Socket",
            connect_route_options=apigatewayv2.WebSocketRouteOptions(
                integration=backend,
                authorizer=authorizers.WebSocketLambdaAuthorizer(
                    "SocketKnows", self._knows, identity_source=["route.request.querystring.user"]
                ),
            ),
            disconnect_route_options=apigatewayv2.WebSocketRouteOptions(integration=backend),
            default_route_options=apigatewayv2.WebSocketRouteOptions(integration=backend),
        )
        log = self._log("SocketLog")
        stage = apigatewayv2.WebSocketStage(
            self, "SocketStage", web_socket_api=api, stage_name="live", auto_deploy=True
        )
        written = as_format(SOCKET)
        _write(stage, log, written)
        self._tell(SocketId=api.api_id, SocketLog=log.log_group_name, SocketFormat=written)

    def _add_worker(self) -> None:
        log = self._log("WorkerLog")
        worker = self._function("Worker", WORKER, lambda_.Runtime.NODEJS_22_X, log)
        self._metering.meter_usage_lines(log)
        self._tell(Worker=worker.function_name)

    def _function(
        self,
        name: str,
        code: str,
        runtime: lambda_.Runtime = lambda_.Runtime.PYTHON_3_13,
        log: logs.LogGroup | None = None,
    ) -> lambda_.Function:
        log = log or self._log(f"{name}Log")
        role = iam.Role(self, f"{name}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        log.grant_write(role)
        return lambda_.Function(
            self,
            name,
            code=lambda_.Code.from_inline(code.lstrip()),
            handler="index.handler",
            runtime=runtime,
            role=role,
            log_group=log,
        )

    def _log(self, name: str, called: str | None = None) -> logs.LogGroup:
        day, goes = logs.RetentionDays.ONE_DAY, cdk.RemovalPolicy.DESTROY
        return logs.LogGroup(self, name, log_group_name=called, retention=day, removal_policy=goes)

    def _tell(self, **told: str) -> None:
        for name, value in told.items():
            cdk.CfnOutput(self, f"{name}Output", value=value).override_logical_id(name)


class Broken(MeteringStack):
    """A metering stack whose creation fails, by a subscription of no known protocol, once what holds data is there."""

    def __init__(self, scope: cdk.App, construct_id: str, **props: Any) -> None:
        super().__init__(scope, construct_id, **props)
        topic = sns.Topic(self, "Nobody", enforce_ssl=True)
        fails = sns.CfnSubscription(self, "Fails", topic_arn=topic.topic_arn, protocol="pigeon", endpoint="nowhere")
        for child in self.node.children:
            if child.node.id in ("Counters", "Ledger", "Bucket", "AccessLog"):
                fails.node.add_dependency(child)


def build() -> cdk.App:
    """Return the app, with the feature flags of the project's own."""
    app = cdk.App(context=json.loads((ROOT / "cdk.json").read_text())["context"])
    name, assets = (str(app.node.get_context(key)) for key in ("name", "assets"))
    road, issuer = (str(app.node.try_get_context(key) or "") for key in ("road", "issuer"))
    local, broken = (app.node.try_get_context(key) == "true" for key in ("local", "broken"))
    props: dict[str, Any] = {
        "metrics": METRICS,
        "road": Road(road or "subscription"),
        "local": local,
        "synthesizer": _synthesizer(assets),
    }
    if broken:
        Broken(app, f"{name}-Broken", **props)
        return app
    metering = MeteringStack(app, name, **props)
    Apis(app, f"{name}-Apis", metering=metering, issuer=issuer, synthesizer=_synthesizer(assets))
    metering.compare_with(api=f"{name}-Apis", stage="metered")
    return app


def _synthesizer(assets: str) -> cdk.IReusableStackSynthesizer:
    return cdk.CliCredentialsStackSynthesizer(file_assets_bucket_name=assets)


if __name__ == "__main__":
    build().synth()
