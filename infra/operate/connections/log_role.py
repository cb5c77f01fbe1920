"""The role that API Gateway writes the logs of REST and WebSocket APIs by: one for an account's whole Region."""

import json
from typing import Any, Final

from infra.operate.connections.patience import Patience
from infra.operate.deployment import Deployment

_TRUST: Final = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "apigateway.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}
_POLICY: Final = "service-role/AmazonAPIGatewayPushToCloudWatchLogs"
"""AWS's own (API Gateway Developer Guide, "Permissions for CloudWatch logging")."""


def make(deployment: Deployment, partition: str, patience: Patience) -> str:
    """Give API Gateway a role unless it has one, and return its ARN; it may be interrupted and run again."""
    gateway = deployment.client("apigateway")
    there = gateway.get_account().get("cloudwatchRoleArn")
    if there:
        return str(there)
    arn = _role(deployment.client("iam"), f"api-gateway-logs-{gateway.meta.region_name}", partition)
    change = {"op": "replace", "path": "/cloudwatchRoleArn", "value": arn}
    # "The role ARN does not have required permissions configured": until IAM has told API Gateway of it.
    patience.call(lambda: gateway.update_account(patchOperations=[change]), until="role")
    return arn


def _role(iam: Any, name: str, partition: str) -> str:
    try:
        made = iam.create_role(
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps(_TRUST),
            Description="API Gateway writes access logs by it; made by 'metering connect --make-role'.",
        )
    except iam.exceptions.EntityAlreadyExistsException:
        made = iam.get_role(RoleName=name)
    iam.attach_role_policy(RoleName=name, PolicyArn=f"arn:{partition}:iam::aws:policy/{_POLICY}")
    return str(made["Role"]["Arn"])
