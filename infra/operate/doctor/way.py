"""Checks of a line's way to the counters, and of what ticks: subscription, stream, functions, schedules."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Final

from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import (
    DAY,
    DEPLOY,
    NEAR,
    PERIOD,
    Finding,
    Measured,
    broken,
    items,
    measured,
    named,
    ok,
    resources,
    series,
    warning,
)
from infra.operate.recount.log_groups import usage_log_groups
from metering.model.connections import Form, Step
from metering.model.metrics import reads_usage_lines

_MOST_NAMED: Final = 10


def check_subscription(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """See that the access log is brought to ``record_usage``, that it may be, and whether it failed in the last day."""
    group, name = deployment.outputs.access_log_group, deployment.outputs.record_usage_function
    logs, functions = deployment.client("logs"), deployment.client("lambda")
    filters = [
        subscription
        for subscription in items(logs, "describe_subscription_filters", "subscriptionFilters", logGroupName=group)
        if subscription["destinationArn"].split(":function:")[-1].split(":")[0] == name
    ]
    if not filters:
        yield broken(
            f"no subscription brings the log group {group} to {name}",
            f"{DEPLOY}, then bring in what was missed: metering recount --all --from HOUR --fix",
        )
        return
    if any(subscription.get("filterPattern") for subscription in filters):
        yield broken("the subscription has a pattern, which keeps lines away unseen", DEPLOY)
    if not may_start(statements(functions, name), group):
        yield broken(
            f"CloudWatch Logs may not invoke {name}, so that it skips lines for good",
            f"{DEPLOY}, then bring in what was missed: metering recount --all --from HOUR --fix",
        )
        return
    metrics = [*_delivery_errors(deployment, group, {subscription["filterName"] for subscription in filters})]
    if failed := sum(measured(deployment, metrics, now, DAY)):
        yield warning(
            f"{failed:,.0f} log events could not be delivered at once in the last day",
            f"read the log of {name}; whether lines were lost, metering recount --all --from HOUR says",
        )
    else:
        yield ok(f"the subscription of {group} delivers to {name}, without an error in the last day")


def _delivery_errors(deployment: Deployment, group: str, filters: Collection[str]) -> Iterator[Measured]:
    """Yield the metrics of what could not be delivered by these filters, under the dimensions that CloudWatch lists.

    What stands for a destination's type in them is documented nowhere, and one that does not exist reads as zero.
    """
    cloudwatch, of_group = deployment.client("cloudwatch"), [{"Name": "LogGroupName", "Value": group}]
    for name in ("DeliveryErrors", "DeliveryThrottling"):
        wanted = {"Namespace": "AWS/Logs", "MetricName": name, "Dimensions": of_group}
        for metric in items(cloudwatch, "list_metrics", "Metrics", **wanted):
            dimensions = {one["Name"]: one["Value"] for one in metric["Dimensions"]}
            if dimensions.get("FilterName") in filters:
                yield "AWS/Logs", name, "Sum", dimensions


def statements(functions: Any, name: str) -> list[dict[str, Any]]:
    """Return what a function's policy allows CloudWatch Logs."""
    try:
        policy = json.loads(functions.get_policy(FunctionName=name)["Policy"])
    except functions.exceptions.ResourceNotFoundException:
        return []
    return [one for one in policy["Statement"] if one["Effect"] == "Allow" and _is_of_logs(one.get("Principal"))]


def may_start(allowed: Iterable[Mapping[str, Any]], log_group: str) -> bool:
    """Say whether one of the :func:`statements` is for a log group, or for any."""
    arns = [_source_arn(one) for one in allowed]
    return any(not arn or fnmatchcase(f"{log_group}:*", arn.partition(":log-group:")[2]) for arn in arns)


def _is_of_logs(principal: Any) -> bool:
    service = principal.get("Service", "") if isinstance(principal, dict) else ""
    return re.fullmatch(r"logs\.([a-z0-9-]+\.)?amazonaws\.com(\.cn)?", str(service)) is not None


def _source_arn(statement: Mapping[str, Any]) -> str:
    """Return the log groups' ARN that a statement is held to, or nothing; names of conditions know no case."""
    conditions = [named for of_kind in statement.get("Condition", {}).values() for named in of_kind.items()]
    return next((str(value) for name, value in conditions if name.lower() == "aws:sourcearn"), "")


def check_usage_lines(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """Where a metric measures usage lines, see that some log group brings any."""
    del now
    if not reads_usage_lines(deployment.declared_metrics):
        return
    connections = deployment.connections.all()
    read = {one.log_group for one in connections if one.form is Form.USAGE and not one.until}
    subscribed = usage_log_groups(deployment)
    left = {one.log_group for one in connections if one.step is Step.DISCONNECTED}
    ended = left - {one.log_group for one in connections if one.step is not Step.DISCONNECTED}
    for group in sorted(subscribed & ended):
        yield warning(
            f"{group} is subscribed by its own stack, but its connection has ended: what it says is billed to nobody",
            f"metering connect-log {group}; or take metering.meter_usage_lines out of the stack",
        )
    groups = sorted(subscribed - {one.log_group for one in connections} | read)
    if groups:
        yield ok(f"usage lines come from {named(groups, len(groups), _MOST_NAMED)}")
        return
    yield warning(
        "a metric measures usage lines, and no log group brings any",
        "call metering.meter_usage_lines(log_group) in your stack, or connect one that is there: metering connect-log",
    )


def check_stream(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """On the road over Firehose: see that the stream is active, delivers, and that its objects are taken."""
    name, function = deployment.outputs.delivery_stream, deployment.outputs.record_usage_function
    if not name:
        return
    found = deployment.client("firehose").describe_delivery_stream(DeliveryStreamName=name)
    status = found["DeliveryStreamDescription"]["DeliveryStreamStatus"]
    if status != "ACTIVE":
        yield broken(f"the delivery stream {name} is {status}", f"look at it in Firehose, then {DEPLOY}")
    sources = [
        *items(deployment.client("lambda"), "list_event_source_mappings", "EventSourceMappings", FunctionName=function)
    ]
    taken = [one["State"] for one in sources if ":sqs:" in one["EventSourceArn"]]
    if taken != ["Enabled"]:
        yield broken(f"the queue of its objects is {', '.join(taken) or 'not there'}", DEPLOY)
    freshness: Measured = ("AWS/Firehose", "DeliveryToS3.DataFreshness", "Maximum", {"DeliveryStreamName": name})
    (oldest,) = measured(deployment, [freshness], now, timedelta(hours=1))
    if oldest > timedelta(hours=1).total_seconds():
        yield broken(
            f"the delivery stream {name} holds lines for {oldest / 60:,.0f} minutes; after 24 hours it drops them",
            "read its error log, and see whether its role may still write into the bucket",
        )
    if status == "ACTIVE" and taken == ["Enabled"] and oldest <= timedelta(hours=1).total_seconds():
        yield ok(f"the delivery stream {name} delivers, and its objects are taken")
    yield _quota(deployment, name, now)


_QUOTAS: Final = {
    "bytes": ("IncomingBytes", "BytesPerSecondLimit"),
    "records": ("IncomingRecords", "RecordsPerSecondLimit"),
    "calls": ("IncomingPutRequests", "PutRequestsPerSecondLimit"),
}
"""What Firehose takes, and how much a second it may be (Firehose Developer Guide, "Monitoring with CloudWatch")."""


def _quota(deployment: Deployment, name: str, now: datetime) -> Finding:
    """Compare the busiest five minutes of the last day with what the stream may take, and say what it refused."""
    where = {"DeliveryStreamName": name}
    pairs: list[Measured] = [("AWS/Firehose", metric, "Sum", where) for metric, _ in _QUOTAS.values()]
    pairs += [("AWS/Firehose", limit, "Maximum", where) for _, limit in _QUOTAS.values()]
    *values, refused = series(deployment, [*pairs, ("AWS/Firehose", "ThrottledRecords", "Sum", where)], now, DAY)
    most = [max(one, default=0.0) for one in values]
    used, limits = (most[: len(_QUOTAS)], most[len(_QUOTAS) :])
    parts = {
        what: taken / PERIOD.total_seconds() / limit
        for what, taken, limit in zip(_QUOTAS, used, limits, strict=True)
        if limit
    }
    part, what = max(((part, what) for what, part in parts.items()), default=(0.0, "bytes"))
    said = f"the delivery stream {name} took at most {part:.0%} of the {what} a second that it may, in the last day"
    do = "ask for more in Service Quotas (Firehose): API Gateway does not promise to send again what is refused"
    if sum(refused):
        return warning(f"{said}, and refused {sum(refused):,.0f} lines", f"{do}; see RequestsNotLogged for how many")
    return warning(said, do) if part >= NEAR else ok(said)


def check_functions(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """See that each function can run, and how often it failed or was throttled in the last day."""
    functions = deployment.client("lambda")
    for name in deployment.outputs.functions:
        function = functions.get_function_configuration(FunctionName=name)
        state, update = function.get("State", "Active"), function.get("LastUpdateStatus", "Successful")
        if (state, update) not in (("Active", "Successful"), ("Inactive", "Successful")):
            yield broken(f"{name} is {state}, its last update {update}: {function.get('StateReason', '')}", DEPLOY)
            continue
        where = {"FunctionName": name}
        wanted: list[Measured] = [
            ("AWS/Lambda", metric, "Sum", where) for metric in ("Invocations", "Errors", "Throttles")
        ]
        runs, errors, throttles = measured(deployment, wanted, now, DAY)
        said = f"{name}: {runs:,.0f} runs in the last day, {errors:,.0f} failed, {throttles:,.0f} throttled"
        do = "read its log; what an alarm asks of you is in infra/operate/RUNBOOK.md"
        if errors and errors >= runs / 2:
            yield broken(said, do)
        else:
            yield warning(said, do) if errors or throttles else ok(said)


def check_schedules(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """See that each schedule is enabled, and that its function has run of late, and not failed each time."""
    schedules = [*resources(deployment, "AWS::Scheduler::Schedule")]
    if not schedules:
        yield broken("the stack has no schedule, so that nothing is closed by itself", DEPLOY)
    for resource in schedules:
        name = resource["PhysicalResourceId"]
        schedule = deployment.client("scheduler").get_schedule(Name=name)
        if schedule["State"] != "ENABLED":
            yield broken(f"the schedule {name} is {schedule['State']}", "enable it in EventBridge Scheduler")
            continue
        function = schedule["Target"]["Arn"].split(":function:")[-1].split(":")[0]
        window = 3 * max(_interval(schedule["ScheduleExpression"]), timedelta(minutes=10))
        where = {"FunctionName": function}
        wanted: list[Measured] = [("AWS/Lambda", metric, "Sum", where) for metric in ("Invocations", "Errors")]
        runs, errors = measured(deployment, wanted, now, window)
        of_late = f"in the last {window.total_seconds() / 60:.0f} minutes"
        if runs and errors < runs:
            yield ok(f"the schedule {name} fires: {runs:.0f} runs of {function} {of_late}")
        elif runs:
            yield broken(f"each of {runs:.0f} runs of {function} {of_late} failed", "read its log and mend the cause")
        elif (changed := resource.get("LastUpdatedTimestamp")) and now - changed < window:
            yield warning(f"{function} has not run yet since it was deployed", "run this again in some minutes")
        else:
            yield broken(
                f"the schedule {name} is enabled, but {function} did not run {of_late}",
                "see in EventBridge Scheduler whether its role may still invoke the function",
            )


def _interval(expression: str) -> timedelta:
    """Return how long it is between two ticks of a schedule of ours: each n minutes, or each hour."""
    found = re.match(r"cron\(\*/(\d+) ", expression)
    return timedelta(minutes=int(found[1])) if found else timedelta(hours=1)
