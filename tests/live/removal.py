"""Everything of a live run is removed, what its stacks retain included; then it is looked for what is left.

Of a run that could not clean up behind itself: ``uv run python -m tests.live.removal NAME``, as it printed its name.
"""

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from botocore.exceptions import ClientError

from tests.live.cloud import Cloud, on_aws

DELETING_LIMIT_S: Final = 1_800
GONE: Final = {"DELETE_COMPLETE"}


def remove(cloud: Cloud, name: str) -> None:
    """Delete the stacks of a run, then what they retain, then what the run made beside them."""
    _delete_stacks(cloud, name)
    for delete, find in ((_delete_table, tables), (_delete_bucket, buckets), (_delete_log_group, log_groups)):
        for found in find(cloud, name):
            delete(cloud, found)
    secretsmanager = cloud.client("secretsmanager")
    for secret in secrets(cloud, name):
        secretsmanager.delete_secret(SecretId=secret, ForceDeleteWithoutRecovery=True)
    for role in roles(cloud, name):
        _delete_role(cloud, role)


def left(cloud: Cloud, name: str) -> list[str]:
    """Return what there is of a run, by its kind and its name."""
    return [f"{kind} {found}" for kind, find in KINDS.items() for found in find(cloud, name)]


def stacks(cloud: Cloud, name: str) -> list[str]:
    """Return the stacks of a run, those last that others need."""
    summaries = _all(cloud, "cloudformation", "list_stacks", "StackSummaries")
    there = {found["StackName"] for found in summaries if found["StackStatus"] not in GONE}
    return sorted((stack for stack in there if stack == name or stack.startswith(f"{name}-")), reverse=True)


def tables(cloud: Cloud, name: str) -> list[str]:
    """Return the tables of a run."""
    return _ours(name, _all(cloud, "dynamodb", "list_tables", "TableNames"))


def buckets(cloud: Cloud, name: str) -> list[str]:
    """Return the buckets of a run."""
    return _ours(name, (bucket["Name"] for bucket in cloud.client("s3").list_buckets()["Buckets"]))


def log_groups(cloud: Cloud, name: str) -> list[str]:
    """Return the log groups of a run."""
    return _ours(name, (group["logGroupName"] for group in _all(cloud, "logs", "describe_log_groups", "logGroups")))


def secrets(cloud: Cloud, name: str) -> list[str]:
    """Return the secrets of a run, which are named after their logical ids, and known by their stacks' tag."""
    found = _all(cloud, "secretsmanager", "list_secrets", "SecretList")
    return [secret["ARN"] for secret in found if _is_tagged(name, (tag["Value"] for tag in secret.get("Tags", ())))]


def roles(cloud: Cloud, name: str) -> list[str]:
    """Return the roles of a run."""
    return _ours(name, (role["RoleName"] for role in _all(cloud, "iam", "list_roles", "Roles")))


def functions(cloud: Cloud, name: str) -> list[str]:
    """Return the functions of a run."""
    return _ours(name, (found["FunctionName"] for found in _all(cloud, "lambda", "list_functions", "Functions")))


def streams(cloud: Cloud, name: str) -> list[str]:
    """Return the streams of Firehose of a run."""
    return _ours(name, cloud.client("firehose").list_delivery_streams(Limit=100)["DeliveryStreamNames"])


def alarms(cloud: Cloud, name: str) -> list[str]:
    """Return the alarms of a run."""
    found = cloud.client("cloudwatch").describe_alarms(AlarmNamePrefix=name, MaxRecords=100)
    return [alarm["AlarmName"] for alarm in found["MetricAlarms"]]


def apis(cloud: Cloud, name: str) -> list[str]:
    """Return the REST APIs of a run, and the others."""
    rest = cloud.client("apigateway").get_rest_apis(limit=500)["items"]
    others = cloud.client("apigatewayv2").get_apis(MaxResults="100")["Items"]
    ours = {api["ApiId"] for api in others if _is_tagged(name, api.get("Tags", {}).values())}
    return _ours(name, (api["name"] for api in rest)) + sorted(ours)


KINDS: Final[dict[str, Callable[[Cloud, str], list[str]]]] = {
    "stack": stacks,
    "table": tables,
    "bucket": buckets,
    "log group": log_groups,
    "secret": secrets,
    "role": roles,
    "function": functions,
    "stream": streams,
    "alarm": alarms,
    "API": apis,
}


def _is_tagged(name: str, values: Iterable[str]) -> bool:
    """Say whether a tag names a stack of a run, as CloudFormation tags what it makes."""
    return any(value == name or value.startswith(f"{name}-") for value in values)


def _ours(name: str, found: Iterable[str]) -> list[str]:
    """Return the names that hold a run's, in whatever case."""
    return sorted(one for one in found if name.lower() in one.lower())


def _all(cloud: Cloud, service: str, operation: str, items: str) -> list[Any]:
    pages = cloud.client(service).get_paginator(operation).paginate()
    return [item for page in pages for item in page[items]]


def _delete_stacks(cloud: Cloud, name: str) -> None:
    """Delete the stacks one after the other; one that fails is tried once more, as some resources let go late."""
    cloudformation = cloud.client("cloudformation")
    deadline = time.monotonic() + DELETING_LIMIT_S
    for stack in stacks(cloud, name):
        for _ in range(2):
            cloudformation.delete_stack(StackName=stack)
            while stack in stacks(cloud, name) and _status(cloudformation, stack) != "DELETE_FAILED":
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the stack {stack} is being deleted for {DELETING_LIMIT_S} s")
                time.sleep(5 if cloud.is_aws else 0.2)


def _status(cloudformation: Any, stack: str) -> str:
    with suppress(ClientError):
        return str(cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"])
    return ""


def _delete_table(cloud: Cloud, table: str) -> None:
    dynamodb = cloud.client("dynamodb")
    if dynamodb.describe_table(TableName=table)["Table"].get("DeletionProtectionEnabled"):
        dynamodb.update_table(TableName=table, DeletionProtectionEnabled=False)
    dynamodb.delete_table(TableName=table)
    dynamodb.get_waiter("table_not_exists").wait(TableName=table)


def _delete_bucket(cloud: Cloud, bucket: str) -> None:
    s3 = cloud.client("s3")
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
        objects = [{"Key": version["Key"], "VersionId": version["VersionId"]} for version in found]
        if objects:
            s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
    s3.delete_bucket(Bucket=bucket)


def _delete_log_group(cloud: Cloud, group: str) -> None:
    cloud.client("logs").delete_log_group(logGroupName=group)


def _delete_role(cloud: Cloud, role: str) -> None:
    iam = cloud.client("iam")
    for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        iam.delete_role_policy(RoleName=role, PolicyName=policy)
    for attached in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        iam.detach_role_policy(RoleName=role, PolicyArn=attached["PolicyArn"])
    iam.delete_role(RoleName=role)


def main(name: str) -> None:
    """Remove a run, and say what is left of it."""
    with on_aws() as cloud:
        remove(cloud, name)
        found = left(cloud, name)
    sys.exit("\n".join(f"left: {one}" for one in found) or None)


if __name__ == "__main__":
    main(*sys.argv[1:])
