"""A REST API to try metering with; replace it by your own."""

from collections.abc import Mapping

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct, IConstruct

from infra.bundle import RUNTIME
from infra.stack import MeteringStack

BACKEND = """
import json

def handler(event, context):
    if event["resource"] == "/fail":
        return {"statusCode": 500, "body": json.dumps({"message": "this path always fails"})}
    if event["httpMethod"] == "POST":
        return {"statusCode": 202, "body": json.dumps({"accepted": True})}
    if event["resource"] == "/items/{id}":
        return {"statusCode": 200, "body": json.dumps({"id": event["pathParameters"]["id"]})}
    asked = (event.get("queryStringParameters") or {}).get("n", "3")
    n = min(int(asked), 1000) if asked.isdecimal() and len(asked) < 10 else 3
    return {"statusCode": 200, "body": json.dumps({"items": [f"item {i}" for i in range(n)]})}
"""


class SampleApi(cdk.Stack):
    """An API whose every method needs an API key, with two plans; its usage is what ``metering`` counts."""

    def __init__(self, scope: Construct, construct_id: str, *, metering: MeteringStack) -> None:
        super().__init__(scope, construct_id)
        api = apigateway.RestApi(
            self,
            "Api",
            deploy_options=apigateway.StageOptions(
                stage_name="v1",
                # This is all that metering asks of an API.
                access_log_destination=metering.access_log_destination,
                access_log_format=metering.access_log_format,
            ),
            default_method_options=apigateway.MethodOptions(api_key_required=True),
            cloud_watch_role=True,
        )
        backend = apigateway.LambdaIntegration(self._backend(), allow_test_invoke=False)
        for method, path in (("GET", "items"), ("GET", "items/{id}"), ("POST", "messages"), ("GET", "fail")):
            _acknowledge(
                api.root.resource_for_path(path).add_method(method, backend),
                dict.fromkeys(("APIG4", "COG4"), "A caller is known by its API key, which is what is billed."),
            )

        standard = _plan(api, "Standard", rate=500, burst=1000)
        trial = _plan(api, "Trial", rate=2, burst=5)
        for name, value in {
            "ApiUrl": api.url,
            "ApiId": api.rest_api_id,
            "StageName": api.deployment_stage.stage_name,
            "StandardPlan": standard.usage_plan_id,
            "TrialPlan": trial.usage_plan_id,
        }.items():
            cdk.CfnOutput(self, name, value=value)
        _acknowledge(api, {"APIG2": "The backend bounds its only parameter, and ignores bodies."})
        _acknowledge(
            api.deployment_stage,
            {
                "APIG3": "A firewall costs more than this sample; its plans' throttles bound what it can cost.",
                "APIG6": "The access log is what metering needs; execution logs would hold callers' data.",
            },
        )
        _acknowledge(
            api.node.find_child("CloudWatchRole"),
            {
                "IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/"
                "AmazonAPIGatewayPushToCloudWatchLogs]": "API Gateway asks for this managed policy by name."
            },
        )

    def _backend(self) -> lambda_.Function:
        log = logs.LogGroup(
            self, "BackendLog", retention=logs.RetentionDays.ONE_WEEK, removal_policy=cdk.RemovalPolicy.DESTROY
        )
        role = iam.Role(self, "BackendRole", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        log.grant_write(role)
        backend = lambda_.Function(
            self,
            "Backend",
            code=lambda_.Code.from_inline(BACKEND.lstrip()),
            handler="index.handler",
            runtime=RUNTIME,
            architecture=lambda_.Architecture.ARM_64,
            role=role,
            log_group=log,
        )
        _acknowledge(backend, {"L1": "The same runtime as the metering functions'."})
        return backend


def _plan(api: apigateway.RestApi, name: str, *, rate: int, burst: int) -> apigateway.UsagePlan:
    """Add a usage plan; its throttle is per key. No quota, since API Gateway keeps quotas by best effort only."""
    return api.add_usage_plan(
        name,
        name=name,
        throttle=apigateway.ThrottleSettings(rate_limit=rate, burst_limit=burst),
        api_stages=[apigateway.UsagePlanPerApiStage(api=api, stage=api.deployment_stage)],
    )


def _acknowledge(construct: IConstruct, reasons: Mapping[str, str]) -> None:
    """Acknowledge each of cdk-nag's rules, named without their common prefix, with its reason."""
    cdk.Validations.of(construct).acknowledge(
        *(cdk.Acknowledgment(id=f"AwsSolutions-{rule}", reason=reason) for rule, reason in reasons.items())
    )
