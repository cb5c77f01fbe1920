"""Log groups: those in which a deployment's lines are, and in which of them there are usage lines."""

import json
from collections.abc import Collection

from infra.operate.deployment import Deployment
from infra.operate.recount.raw_log import Archive
from metering.model.connections import Connection


def archive_of(deployment: Deployment, connections: Collection[Connection], *, reads_usage_lines: bool) -> Archive:
    """Return where a deployment's lines are; ``connections`` are all that there ever were."""
    client, outputs = deployment.client, deployment.outputs
    groups = usage_log_groups(deployment) if reads_usage_lines else set()
    connected = tuple(one for one in connections if one.is_access_log or reads_usage_lines)
    # How lines of a log group that was ever connected are read, the ledger alone says.
    others = groups - {connection.log_group for connection in connections}
    return Archive(client("s3"), client("logs"), outputs.bucket, outputs.access_log_group, sorted(others), connected)


def usage_log_groups(deployment: Deployment) -> set[str]:
    """Return the log groups that may invoke ``record_usage`` by a statement of their own, but for the access log.

    A statement for many, such as that for the log groups of connections, names none.
    """
    function = deployment.outputs.record_usage_function
    policy = json.loads(deployment.client("lambda").get_policy(FunctionName=function)["Policy"])
    arns = [
        str(of_arn)
        for statement in policy["Statement"]
        for condition in statement.get("Condition", {}).values()
        for name, of_arn in condition.items()
        if name.lower() == "aws:sourcearn"
    ]
    groups = {arn.split(":log-group:")[1].removesuffix(":*") for arn in arns if ":log-group:" in arn}
    return {group for group in groups if "*" not in group} - {deployment.outputs.access_log_group}
