"""A REST API to try metering with; replace it by your own."""

from collections.abc import Mapping

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct, IConstruct

from infra.stack.bundle import RUNTIME
from infra.stack.metering import MeteringStack

STAGE = "v1"
USER = "x-user"
MESSAGES = "x-messages"

AUTHORIZER = """
import re

def handler(event, context):
    user, messages = (_header(event, name) for name in ("x-user", "x-messages"))
    known = re.fullmatch("[A-Za-z0-9_-]{1,64}", user)
    told = {"user": user} if known else {}
    if known and event["httpMethod"] == "POST" and re.fullmatch("[1-9][0-9]?|100", messages):
        told["messages"] = messages
    api_and_stage = "/".join(event["methodArn"].split("/")[:2])
    statement = {
        "Action": "execute-api:Invoke",
        "Effect": "Allow" if known else "Deny",
        "Resource": f"{api_and_stage}/*",
    }
    return {
        "principalId": user if known else "unknown",
        "policyDocument": {"Version": "2012-10-17", "Statement": [statement]},
        "context": told,
    }

def _header(event, wanted):
    values = [values for name, values in event["multiValueHeaders"].items() if name.lower() == wanted]
    return values[0][0] if [len(found) for found in values] == [1] else ""
"""
"""Who calls, and how many messages a call carries: what the access log can bill by.

A header that stands twice is none: which of its values the answer is cached by is not for the caller to choose. What is
cached by the user alone holds nothing else, so that ``messages`` is told of POST only.
"""

BACKEND = """
import json

def handler(event, context):
    if event["resource"] == "/fail":
        return {"statusCode": 500, "body": json.dumps({"message": "this path always fails"})}
    if event["httpMethod"] == "POST":
        return _take(event)
    if event["resource"] == "/items/{id}":
        return {"statusCode": 200, "body": json.dumps({"id": event["pathParameters"]["id"]})}
    asked = (event.get("queryStringParameters") or {}).get("n", "3")
    n = min(int(asked), 1000) if asked.isdecimal() and len(asked) < 10 else 3
    return {"statusCode": 200, "body": json.dumps({"items": [f"item {i}" for i in range(n)]})}

def _take(event):
    declared = event["requestContext"]["authorizer"].get("messages")
    try:
        held = len(json.loads(event["body"])["messages"])
    except (KeyError, RecursionError, TypeError, ValueError):
        held = None
    if declared is None or str(held) != declared:
        wanted = "x-messages must say how many messages, 1 to 100, the body holds"
        return {"statusCode": 400, "body": json.dumps({"message": wanted})}
    return {"statusCode": 202, "body": json.dumps({"accepted": held})}
"""


class SampleApi(cdk.Stack):
    """An API whose every method needs an API key, with two plans; its usage is what ``metering`` counts.

    Its authorizer tells metering of the user and of the messages in a call. It takes both from the caller's headers,
    and the backend accepts no other number of messages than was told. A real authorizer would take the user from a
    token that it has verified. ``log_role`` makes the role by which API Gateway writes logs. It is one for the whole
    account and Region, so that one which is there already would be replaced, and none comes back.
    """

    def __init__(self, scope: Construct, construct_id: str, *, metering: MeteringStack, log_role: bool = False) -> None:
        super().__init__(scope, construct_id)
        api = apigateway.RestApi(
            self,
            "Api",
            endpoint_types=[apigateway.EndpointType.REGIONAL],  # the only type in every partition
            deploy_options=apigateway.StageOptions(
                stage_name=STAGE,
                # This is all that metering asks of an API, and that it is compared with (below).
                access_log_destination=metering.access_log_destination,
                access_log_format=metering.access_log_format,
            ),
            default_method_options=apigateway.MethodOptions(api_key_required=True),
            cloud_watch_role=log_role,
        )
        metering.compare_with(api=api.rest_api_name, stage=STAGE)
        backend = apigateway.LambdaIntegration(function(self, "Backend", BACKEND), allow_test_invoke=False)
        knows = function(self, "Authorizer", AUTHORIZER)
        # Answers are cached by these headers; a request that lacks one is answered 401, and the function is not asked.
        readers, senders = self._authorizer("Readers", knows, USER), self._authorizer("Senders", knows, USER, MESSAGES)
        for method, path, authorizer in (
            ("GET", "items", readers),
            ("GET", "items/{id}", readers),
            ("POST", "messages", senders),
            ("GET", "fail", readers),
        ):
            acknowledge(
                api.root.resource_for_path(path).add_method(method, backend, authorizer=authorizer),
                {"COG4": "A caller is known by its API key, which is what is billed."},
            )

        standard = _plan(api, "Standard", rate=500, burst=1000)
        trial = _plan(api, "Trial", rate=2, burst=5)
        if metering.access_table:
            metering.slow_lane(api, rate=1, burst=1)
            metering.explain_refusals(api)
        for name, value in {
            "ApiUrl": api.url,
            "ApiId": api.rest_api_id,
            "StageName": api.deployment_stage.stage_name,
            "StandardPlan": standard.usage_plan_id,
            "TrialPlan": trial.usage_plan_id,
        }.items():
            cdk.CfnOutput(self, name, value=value)
        acknowledge(api, {"APIG2": "The backend checks its only parameter and its only body itself."})
        acknowledge(
            api.deployment_stage,
            {
                "APIG3": "A firewall costs more than this sample; its plans' throttles bound what it can cost.",
                "APIG6": "The access log is what metering needs; execution logs would hold callers' data.",
            },
        )
        if log_role:
            acknowledge(
                api.node.find_child("CloudWatchRole"),
                {
                    "IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/"
                    "AmazonAPIGatewayPushToCloudWatchLogs]": "API Gateway asks for this managed policy by name."
                },
            )

    def _authorizer(self, name: str, handler: lambda_.Function, *headers: str) -> apigateway.RequestAuthorizer:
        return apigateway.RequestAuthorizer(
            self,
            name,
            handler=handler,
            identity_sources=[apigateway.IdentitySource.header(header) for header in headers],
            results_cache_ttl=cdk.Duration.minutes(5),
        )


def _plan(api: apigateway.RestApi, name: str, *, rate: int, burst: int) -> apigateway.UsagePlan:
    """Add a usage plan; its throttle is per key. No quota, since API Gateway keeps quotas by best effort only."""
    return api.add_usage_plan(
        name,
        name=name,
        throttle=apigateway.ThrottleSettings(rate_limit=rate, burst_limit=burst),
        api_stages=[apigateway.UsagePlanPerApiStage(api=api, stage=api.deployment_stage)],
    )


def function(stack: cdk.Stack, name: str, code: str) -> lambda_.Function:
    """Add a function of inline code, with a log and a role of its own."""
    log = logs.LogGroup(
        stack, f"{name}Log", retention=logs.RetentionDays.ONE_WEEK, removal_policy=cdk.RemovalPolicy.DESTROY
    )
    role = iam.Role(stack, f"{name}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
    log.grant_write(role)
    made = lambda_.Function(
        stack,
        name,
        code=lambda_.Code.from_inline(code.lstrip()),
        handler="index.handler",
        runtime=RUNTIME,
        architecture=lambda_.Architecture.ARM_64,
        role=role,
        log_group=log,
    )
    acknowledge(made, {"L1": "The same runtime as the metering functions'."})
    return made


def acknowledge(construct: IConstruct, reasons: Mapping[str, str]) -> None:
    """Acknowledge each of cdk-nag's rules, named without their common prefix, with its reason."""
    cdk.Validations.of(construct).acknowledge(
        *(cdk.Acknowledgment(id=f"AwsSolutions-{rule}", reason=reason) for rule, reason in reasons.items())
    )
