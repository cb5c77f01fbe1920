"""The guide for whoever connects an API: its formats are what it says of them, its rights those that the code needs."""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import botocore.session
import pytest
from botocore import xform_name
from cfnlint.decode import decode_str

from metering.model.foreign_format import FormatError, compile_format
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import Count, Sum
from tests.conftest import ROOT
from tests.infra.referees import policy_findings

PAGE: Final = (ROOT / "infra" / "operate" / "CONNECTING.md").read_text(encoding="utf-8")

RIGHTS: Final = {
    "add_permission": "lambda:AddPermission",
    "attach_role_policy": "iam:AttachRolePolicy",
    "create_log_group": "logs:CreateLogGroup",
    "create_role": "iam:CreateRole",
    "delete_access_log_settings": "apigateway:DELETE",
    "delete_metric_filter": "logs:DeleteMetricFilter",
    "delete_subscription_filter": "logs:DeleteSubscriptionFilter",
    "describe_log_groups": "logs:DescribeLogGroups",
    "describe_log_streams": "logs:DescribeLogStreams",
    "describe_metric_filters": "logs:DescribeMetricFilters",
    "describe_stack_resources": "cloudformation:DescribeStackResources",
    "describe_subscription_filters": "logs:DescribeSubscriptionFilters",
    "filter_log_events": "logs:FilterLogEvents",
    "get_account": "apigateway:GET",
    "get_api": "apigateway:GET",
    "get_apis": "apigateway:GET",
    "get_authorizers": "apigateway:GET",
    "get_caller_identity": "sts:GetCallerIdentity",
    "get_function_configuration": "lambda:GetFunctionConfiguration",
    "get_log_events": "logs:GetLogEvents",
    "get_policy": "lambda:GetPolicy",
    "get_resources": "apigateway:GET",
    "get_rest_api": "apigateway:GET",
    "get_rest_apis": "apigateway:GET",
    "get_role": "iam:GetRole",
    "get_routes": "apigateway:GET",
    "get_stage": "apigateway:GET",
    "get_stages": "apigateway:GET",
    "put_metric_filter": "logs:PutMetricFilter",
    "put_retention_policy": "logs:PutRetentionPolicy",
    "put_subscription_filter": "logs:PutSubscriptionFilter",
    "remove_permission": "lambda:RemovePermission",
    "update_account": "apigateway:PATCH",
    "update_stage": "apigateway:PATCH",
}
"""What each call of the room takes (Service Authorization Reference)."""

FOR_A_ROLE: Final = {"iam:PassRole"}
"""Whoever gives API Gateway a role passes it (API Gateway Developer Guide, "Permissions for CloudWatch logging")."""

FOR_HTTP_APIS: Final = {
    f"logs:{name}"
    for name in (
        "CreateLogDelivery",
        "DeleteLogDelivery",
        "DescribeResourcePolicies",
        "GetLogDelivery",
        "ListLogDeliveries",
        "PutResourcePolicy",
        "UpdateLogDelivery",
    )
}
"""What API Gateway does in the name of who sets an HTTP API's log (Developer Guide, "Permissions to activate
logging")."""

FOR_A_DEPLOYMENT: Final = {
    "cloudformation:DescribeStacks",
    "cloudformation:GetTemplate",
    "cloudformation:ListStackResources",
    "dynamodb:DeleteItem",
    "dynamodb:GetItem",
    "dynamodb:PutItem",
    "dynamodb:Query",
}
"""What finding a deployment takes, with its log groups and its ledger: a connection is read, listed, and written by a
transaction."""


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def _calls() -> Iterator[str]:
    """Yield the operations of AWS that the code of the room calls by their names, also those that are paged."""
    session = botocore.session.get_session()
    services = ("apigateway", "apigatewayv2", "cloudformation", "iam", "lambda", "logs", "sts")
    known = {xform_name(name) for one in services for name in session.get_service_model(one).operation_names}
    for file in (ROOT / "infra" / "operate" / "connections").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", "")
            if isinstance(name, str) and name in known:
                yield name


def test_the_rights_of_who_connects_are_those_that_the_code_needs() -> None:
    """No more and no less, and each an action of IAM's on a resource that it takes."""
    (policy,) = [json.loads(block) for block in _blocks("json") if '"Statement"' in block]
    actions = {action for one in policy["Statement"] for action in _listed(one["Action"])}
    assert RIGHTS.keys() == set(_calls())
    assert actions == {*RIGHTS.values()} | FOR_A_ROLE | FOR_HTTP_APIS | FOR_A_DEPLOYMENT
    made = {"Resources": {"Rights": {"Type": "AWS::IAM::Policy", "Properties": {"PolicyDocument": policy}}}}
    assert policy_findings(made) == []


def test_the_sizes_of_a_policy_are_iams() -> None:
    """It fits where it is to be put (IAM User Guide, "IAM and AWS STS quotas": a managed policy, without blanks)."""
    (policy,) = [json.loads(block) for block in _blocks("json") if '"Statement"' in block]
    assert len(json.dumps(policy, separators=(",", ":"))) < 6144


def test_one_format_of_the_page_can_be_billed_by_and_the_other_is_refused_with_its_words() -> None:
    """I7: they have the same fields, and differ in what stands behind a caller's own text."""
    good, bad = (block.strip() for block in _blocks("json") if "$context" in block)
    assert {*json.loads(good)} == {*json.loads(bad)}
    log, metrics = AccessLog(connection="orders"), [Count(name="requests")]
    assert compile_format(log, good, metrics, stage="prod").chosen["key"] == "identity.apiKeyId"
    with pytest.raises(FormatError) as refused:
        compile_format(log, bad, metrics, stage="prod")
    (quoted,) = re.findall(r"^> the format .*\n(?:> .*\n)*", PAGE, re.MULTILINE)
    assert " ".join(quoted.replace("> ", "").split()) == str(refused.value)


def test_the_serverless_frameworks_formats_can_be_billed_by() -> None:
    """By what metrics usually read: the resource, the method, and what was answered."""
    rest, http = (_format(decode_str(block)[0]["provider"]["logs"]) for block in _blocks("yaml"))
    metrics = [Count(name="requests", by="resource"), Count(name="methods", by="method")]
    answered = Sum(name="bytes", of="response_length")
    compile_format(AccessLog(connection="orders"), rest, [*metrics, answered], stage="prod")
    log = AccessLog(Api.HTTP, "authorizer.claims.sub", "shop")
    compile_format(log, http, metrics, stage="$default")


def _format(logs: Any) -> str:
    (api,) = logs.values()
    return str(api["format"])


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
