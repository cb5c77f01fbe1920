"""Checks of a line's way to the counters, and of what ticks: stage, access log, stream, functions, schedules."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import DAY, DEPLOY, Finding, Measured, broken, items, measured, ok, warning
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import declared


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stage that writes an access log somewhere."""

    name: str
    api: Api
    destination: str
    format: str


def check_log_format(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """Compare the access-log format of every stage that writes to us with ours.

    One call for each REST and HTTP API of the Region.
    """
    ours = [f":log-group:{deployment.outputs.access_log_group}"]
    if deployment.outputs.delivery_stream:
        ours.append(f":deliverystream/{deployment.outputs.delivery_stream}")
    variables = declared(deployment.declared_metrics)
    there = [one for one in _stages(deployment) if one.destination.removesuffix(":*").endswith(tuple(ours))]
    if not there:
        yield warning(
            "no stage writes into the access log", "attach your API, as infra/stack/README.md says, and deploy it"
        )
    for stage in there:
        try:
            wanted = AccessLog(stage.api, _caller(stage.format)).format(variables)
        except ValueError as error:
            yield broken(f"{stage.name} writes another format than ours: {error}", _reformat(stage))
            continue
        if stage.format.strip() == wanted:
            yield ok(f"{stage.name} writes our format, and bills {_caller(stage.format)}")
        else:
            yield broken(
                f"{stage.name} writes another format than ours{_difference(stage.format, wanted)}", _reformat(stage)
            )


def _stages(deployment: Deployment) -> Iterator[_Stage]:
    rest, http = deployment.client("apigateway"), deployment.client("apigatewayv2")
    for api in items(rest, "get_rest_apis", "items"):
        for stage in rest.get_stages(restApiId=api["id"])["item"]:
            log = stage.get("accessLogSettings", {})
            name = f"the stage {stage['stageName']} of {api['name']}"
            yield _Stage(name, Api.REST, log.get("destinationArn", ""), log.get("format", ""))
    for api in items(http, "get_apis", "Items"):
        for stage in items(http, "get_stages", "Items", ApiId=api["ApiId"]):
            log = stage.get("AccessLogSettings", {})
            name = f"the stage {stage['StageName']} of {api['Name']}"
            yield _Stage(name, Api.HTTP, log.get("DestinationArn", ""), log.get("Format", ""))


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _caller(text: str) -> str:
    """Return the variable by which a format says whom a request is billed to, which is the stack's own choice."""
    return str(_fields(text).get("key", "")).removeprefix("$context.")


def _difference(text: str, wanted: str) -> str:
    there, ours = _fields(text), _fields(wanted)
    if not there:
        return ": it is no JSON object"
    lacking, extra = sorted(ours.keys() - there.keys()), sorted(there.keys() - ours.keys())
    other = sorted(name for name in ours.keys() & there.keys() if ours[name] != there[name])
    parts = {"lacks": lacking, "has also": extra, "has otherwise": other}
    said = [f"{what} {', '.join(names)}" for what, names in parts.items() if names]
    return f": it {'; it '.join(said)}" if said else ": its fields are in another order"


def _reformat(stage: _Stage) -> str:
    return f"give {stage.name} metering.access_log_format, and deploy it: until then its lines are set aside"


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
    if not _may_be_invoked(functions, name):
        yield broken(
            f"CloudWatch Logs may not invoke {name}, so that it skips lines for good",
            f"{DEPLOY}, then bring in what was missed: metering recount --all --from HOUR --fix",
        )
        return
    dimensions = [
        {"LogGroupName": group, "DestinationType": "Lambda", "FilterName": subscription["filterName"]}
        for subscription in filters
    ]
    names = ("DeliveryErrors", "DeliveryThrottling")
    metrics: list[Measured] = [("AWS/Logs", metric, "Sum", where) for metric in names for where in dimensions]
    if failed := sum(measured(deployment, metrics, now, DAY)):
        yield warning(
            f"{failed:,.0f} deliveries of the subscription failed in the last day",
            f"read the log of {name}; whether lines were lost, metering recount --all --from HOUR says",
        )
    else:
        yield ok(f"the subscription of {group} delivers to {name}, without an error in the last day")


def _may_be_invoked(functions: Any, name: str) -> bool:
    """Say whether a function's policy lets CloudWatch Logs invoke it."""
    try:
        policy = json.loads(functions.get_policy(FunctionName=name)["Policy"])
    except functions.exceptions.ResourceNotFoundException:
        return False
    principals = [one.get("Principal", {}) for one in policy["Statement"] if one["Effect"] == "Allow"]
    named = [one.get("Service", "") for one in principals if isinstance(one, dict)]
    return any(re.fullmatch(r"logs\.([a-z0-9-]+\.)?amazonaws\.com(\.cn)?", str(one)) for one in named)


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
    resources = items(
        deployment.client("cloudformation"),
        "list_stack_resources",
        "StackResourceSummaries",
        StackName=deployment.stack,
    )
    schedules = [resource for resource in resources if resource["ResourceType"] == "AWS::Scheduler::Schedule"]
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
