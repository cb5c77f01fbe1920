"""Everything of a live run is removed, what its stacks retain included; then it is looked for what is left.

Of a run that could not clean up behind itself: ``uv run python -m tests.live.removal NAME``, as it printed its name.
"""

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Any, Final

from botocore.exceptions import ClientError

from tests.live.cloud import Cloud, on_aws

DELETING_LIMIT_S: Final = 1_800
GONE: Final = {"DELETE_COMPLETE"}


def remove(cloud: Cloud, name: str) -> None:
    """Delete a run's API keys, its stacks, what those retain, and what the run made beside them.

    Whatever fails, all else is tried, and then the last failure is raised with those before it as its context.
    """
    with ExitStack() as steps:
        for kind, delete in reversed(DELETED.items()):
            steps.callback(_delete_all, cloud, name, kind, delete)


def _delete_all(cloud: Cloud, name: str, kind: str, delete: Callable[[Cloud, str], None]) -> None:
    with ExitStack() as steps:
        for found in reversed(KINDS[kind](cloud, name)):
            steps.callback(delete, cloud, found)


def left(cloud: Cloud, name: str) -> list[str]:
    """Return what there is of a run, by its kind and its name."""
    return [f"{kind} {found}" for kind, find in KINDS.items() for found in find(cloud, name)]


def api_keys(cloud: Cloud, name: str) -> list[str]:
    """Return the ids of the API keys of a run."""
    found = _all(cloud, "apigateway", "get_api_keys", "items")
    return [key["id"] for key in found if _ours(name, [key.get("name", "")])]


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


def rest_apis(cloud: Cloud, name: str) -> list[str]:
    """Return the ids of the REST APIs of a run."""
    found = _all(cloud, "apigateway", "get_rest_apis", "items")
    return [api["id"] for api in found if _ours(name, [api["name"]])]


def apis(cloud: Cloud, name: str) -> list[str]:
    """Return the ids of a run's other APIs."""
    found = _all(cloud, "apigatewayv2", "get_apis", "Items")
    return [api["ApiId"] for api in found if _is_tagged(name, api.get("Tags", {}).values())]


KINDS: Final[dict[str, Callable[[Cloud, str], list[str]]]] = {
    "API key": api_keys,
    "stack": stacks,
    "REST API": rest_apis,
    "table": tables,
    "bucket": buckets,
    "log group": log_groups,
    "secret": secrets,
    "role": roles,
    "function": functions,
    "stream": streams,
    "alarm": alarms,
    "other API": apis,
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


def _delete_api_key(cloud: Cloud, key: str) -> None:
    cloud.client("apigateway").delete_api_key(apiKey=key)


def _delete_stack(cloud: Cloud, stack: str) -> None:
    """Delete a stack; where that fails it is tried once more, as some resources let go late."""
    cloudformation = cloud.client("cloudformation")
    deadline = time.monotonic() + DELETING_LIMIT_S
    for _ in range(2):
        cloudformation.delete_stack(StackName=stack)
        while stack in stacks(cloud, stack) and _status(cloudformation, stack) != "DELETE_FAILED":
            if time.monotonic() > deadline:
                raise TimeoutError(f"the stack {stack} is being deleted for {DELETING_LIMIT_S} s")
            time.sleep(5 if cloud.is_aws else 0.2)


def _status(cloudformation: Any, stack: str) -> str:
    with suppress(ClientError):
        return str(cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"])
    return ""


def _delete_rest_api(cloud: Cloud, api: str) -> None:
    cloud.client("apigateway").delete_rest_api(restApiId=api)


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


def _delete_secret(cloud: Cloud, secret: str) -> None:
    cloud.client("secretsmanager").delete_secret(SecretId=secret, ForceDeleteWithoutRecovery=True)


def _delete_role(cloud: Cloud, role: str) -> None:
    iam = cloud.client("iam")
    for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        iam.delete_role_policy(RoleName=role, PolicyName=policy)
    for attached in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        iam.detach_role_policy(RoleName=role, PolicyArn=attached["PolicyArn"])
    iam.delete_role(RoleName=role)


DELETED: Final[dict[str, Callable[[Cloud, str], None]]] = {
    "API key": _delete_api_key,
    "stack": _delete_stack,
    "REST API": _delete_rest_api,
    "table": _delete_table,
    "bucket": _delete_bucket,
    "log group": _delete_log_group,
    "secret": _delete_secret,
    "role": _delete_role,
}
"""How each kind is deleted that a run makes beside its stacks, or they retain; the stacks before what they use."""


def main(name: str) -> None:
    """Remove a run, and say what is left of it."""
    with on_aws() as cloud, ExitStack() as ending:
        ending.callback(lambda: sys.stderr.writelines(f"left: {found}\n" for found in left(cloud, name)))
        remove(cloud, name)


if __name__ == "__main__":
    main(*sys.argv[1:])
