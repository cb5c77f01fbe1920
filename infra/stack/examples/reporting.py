"""Usage of what has no access log: a function URL, AppSync, a load balancer's target, containers, jobs, LLM tokens.

What each of them logs is in ``reporters``: a dozen lines each, which also say who is billed, and why that can be
trusted. Here is what they need of AWS: a log group of its own for each, into which its own role alone may write.
"""

from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_appsync as appsync
from aws_cdk import aws_batch as batch
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as event_sources
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs
from cdk_nag import AwsSolutionsChecks

from infra.stack import USAGE_LINES, MeteringStack, Sum

METRICS = (
    Sum(name="words", of=USAGE_LINES),
    Sum(name="queries", of=USAGE_LINES),
    Sum(name="minutes", of=USAGE_LINES, deduplicate=True),
    Sum(name="rows", of=USAGE_LINES, deduplicate=True),
    Sum(name="input_tokens", of=USAGE_LINES, deduplicate=True),
    Sum(name="output_tokens", of=USAGE_LINES, deduplicate=True),
)

REPORTERS = Path(__file__).parent / "reporters"
ISSUER = "https://login.example.com/"
IMAGE = "public.ecr.aws/example/server:1"
MODEL = "amazon.nova-lite-v1:0"


class Reporters(cdk.Stack):
    """One of each kind; copy the one that is yours."""

    def __init__(self, scope: cdk.App, construct_id: str, *, metering: MeteringStack) -> None:
        super().__init__(scope, construct_id)
        self._metering = metering
        self._function_url()
        self._appsync()
        self._containers()
        self._tokens()

    def _log(self, name: str) -> logs.LogGroup:
        log = logs.LogGroup(self, f"{name}Log", retention=logs.RetentionDays.THREE_MONTHS)
        # This is all that metering asks of it; 'metering connect-log' does the same to a log group that is there.
        self._metering.meter_usage_lines(log)
        return log

    def _function(self, name: str, runtime: lambda_.Runtime, handler: str) -> lambda_.Function:
        log = self._log(name)
        role = iam.Role(self, f"{name}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        log.grant_write(role)
        code = lambda_.Code.from_asset(str(REPORTERS))
        return lambda_.Function(
            self,
            name,
            code=code,
            handler=handler,
            runtime=runtime,
            role=role,
            log_group=log,
            timeout=cdk.Duration.minutes(1),
        )

    def _function_url(self) -> None:
        function = self._function("FunctionUrl", lambda_.Runtime.NODEJS_24_X, "function_url.handler")
        function.add_function_url(auth_type=lambda_.FunctionUrlAuthType.AWS_IAM)

    def _appsync(self) -> None:
        log = self._log("AppSync")
        stream = logs.LogStream(self, "AppSyncStream", log_group=log)
        issuer = appsync.OpenIdConnectConfig(oidc_provider=ISSUER)
        token = appsync.AuthorizationMode(
            authorization_type=appsync.AuthorizationType.OIDC, open_id_connect_config=issuer
        )
        api = appsync.GraphqlApi(
            self,
            "AppSync",
            name="hello",
            definition=appsync.Definition.from_file(str(REPORTERS / "schema.graphql")),
            authorization_config=appsync.AuthorizationConfig(default_authorization=token),
            environment_variables={"USAGE_LOG": log.log_group_name, "USAGE_STREAM": stream.log_stream_name},
        )
        cdk.Validations.of(api).acknowledge(
            cdk.Acknowledgment(id="AwsSolutions-ASC3", reason="An example needs no log of AppSync's own.")
        )
        writer = api.add_http_data_source(
            "Usage",
            f"https://logs.{self.region}.{self.url_suffix}",
            authorization_config=appsync.AwsIamConfig(signing_region=self.region, signing_service_name="logs"),
        )
        log.grant(writer.grant_principal, "logs:PutLogEvents")
        runtime = appsync.FunctionRuntime.JS_1_0_0
        report = writer.create_function(
            "Report", name="report", code=appsync.Code.from_asset(str(REPORTERS / "appsync.js")), runtime=runtime
        )
        answer = appsync.Code.from_inline(
            "export const request = () => ({});\nexport const response = (ctx) => ctx.prev.result;"
        )
        hello = api.add_none_data_source("Nothing").create_function(
            "Hello",
            name="hello",
            code=appsync.Code.from_inline(
                "export const request = () => ({ payload: 'hello' });\nexport const response = (ctx) => ctx.result;"
            ),
            runtime=runtime,
        )
        api.create_resolver(
            "Answer",
            type_name="Query",
            field_name="hello",
            code=answer,
            runtime=runtime,
            pipeline_config=[hello, report],
        )

    def _containers(self) -> None:
        """Make a server, behind a load balancer or not, and a job, whose driver writes lines as they are."""
        image = ecs.ContainerImage.from_registry(IMAGE)
        server = ecs.FargateTaskDefinition(self, "Server")
        server.add_container("App", image=image, logging=_driver(self._log("Server")))
        batch.EcsJobDefinition(
            self,
            "Job",
            container=batch.EcsFargateContainerDefinition(
                self,
                "JobContainer",
                image=image,
                cpu=1,
                memory=cdk.Size.gibibytes(2),
                command=["python", "job.py", "rows.csv"],
                logging=_driver(self._log("Job")),
            ),
            retry_attempts=3,
        )

    def _tokens(self) -> None:
        function = self._function("Tokens", lambda_.Runtime.PYTHON_3_14, "tokens.handler")
        function.add_environment("MODEL", MODEL)
        unanswered = sqs.Queue(self, "Unanswered", enforce_ssl=True)
        questions = sqs.Queue(
            self,
            "Questions",
            enforce_ssl=True,
            visibility_timeout=cdk.Duration.minutes(6),
            dead_letter_queue=sqs.DeadLetterQueue(queue=unanswered, max_receive_count=3),
        )
        function.add_event_source(event_sources.SqsEventSource(questions, batch_size=1))
        model = f"arn:{self.partition}:bedrock:{self.region}::foundation-model/{MODEL}"
        function.add_to_role_policy(iam.PolicyStatement(actions=["bedrock:InvokeModel"], resources=[model]))


def _driver(log: logs.LogGroup) -> ecs.LogDriver:
    return ecs.LogDriver.aws_logs(stream_prefix="app", log_group=log)


def build(app: cdk.App) -> cdk.App:
    """Add the stacks to ``app``, and the checks that fail its synthesis."""
    metering = MeteringStack(app, "Metering", metrics=METRICS)
    Reporters(app, "Reporters", metering=metering)
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    return app


if __name__ == "__main__":
    build(cdk.App()).synth()
