"""Checks of the account and the stack as a whole: who asks, how it was deployed, who is told, what quotas leave."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from infra.operate.deployment import Deployment, OperatorError
from infra.operate.doctor.findings import DAY, DEPLOY, NEAR, Finding, broken, items, measured, ok, resources, warning
from infra.operate.versions import are_behind, first_up
from infra.operate.words import count
from infra.outputs import VERSION
from metering.model.periods import CLOCK_SKEW
from metering.stores.aws import in_pieces

MOST_API_KEYS: Final = 10_000
"""API keys per account and Region (API Gateway Developer Guide, "Quotas"); it cannot be raised."""

NEW_ACCOUNT: Final = 10
"""How many functions a new account may run at once."""

LEAST_UNRESERVED: Final = 100
"""So many of an account's concurrent functions Lambda leaves to those that have none reserved (Lambda Developer Guide,
"Configuring reserved concurrency")."""

_DEPLOYED: Final = "the stack, its functions and its format"

_STAGES: Final = "those of your APIs: until then 'stages' tells of a stage that writes the format of before"

REFUSED_SKEW: Final = timedelta(minutes=5)
"""AWS refuses a request whose signature is further from its own time (IAM User Guide, "Signature Version 4")."""


def check_credentials(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """Say who asks, and where."""
    sts = deployment.client("sts")
    who = sts.get_caller_identity()
    yield ok(f"{who['Arn']} in the account {who['Account']} and the Region {sts.meta.region_name}")


def check_clock(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """Compare this machine's clock with AWS's, as its answers are dated."""
    answer = deployment.client("sts").get_caller_identity()["ResponseMetadata"]["HTTPHeaders"]
    if "date" not in answer:
        yield warning("AWS's answer has no date to compare with", "compare this machine's clock by hand")
        return
    off = abs(parsedate_to_datetime(answer["date"]) - now)
    said = f"this machine's clock and AWS's are {off.total_seconds():.0f} s apart"
    do = "let this machine set its clock by NTP: commands choose hours by it"
    if off >= REFUSED_SKEW:
        yield broken(said, do)
    else:
        yield ok(said) if off < CLOCK_SKEW else warning(said, do)


def check_stack(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """Look at how the last deployment ended."""
    stack = deployment.client("cloudformation").describe_stacks(StackName=deployment.stack)["Stacks"][0]
    status = stack["StackStatus"]
    changed = stack.get("LastUpdatedTime") or stack["CreationTime"]
    said = f"the stack {deployment.stack} is {status} since {changed:%Y-%m-%dT%H:%MZ}"
    if status in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"):
        yield ok(said)
    elif status.endswith("_IN_PROGRESS"):
        yield warning(said, "wait until it is deployed, then run this again")
    elif status == "UPDATE_ROLLBACK_COMPLETE":
        yield warning(
            f"{said}: the last deployment failed", "read the stack's events, mend the cause, and deploy again"
        )
    else:
        yield broken(said, "read the stack's events, mend the cause, and deploy again")


def check_version(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """See that the stack was deployed by a version that these commands fit."""
    there, first = deployment.outputs.deployed_version, first_up(deployment.outputs)
    if are_behind(deployment.outputs):
        yield warning(f"{there} deployed {_DEPLOYED}, and these commands are {VERSION}", first)
        return
    if missing := deployment.outputs.missing:
        said = f"the stack has no {', '.join(missing)}: {there} deployed it, and these commands are {VERSION}"
        yield broken(said, f"{DEPLOY}: the Metering stack first, then {_STAGES}")
        return
    try:
        metrics, plans = deployment.declared_metrics, deployment.declared_plans
    except OperatorError as error:
        yield broken(str(error), DEPLOY)
        return
    if first:
        said = f"{there} deployed {_DEPLOYED}, and these commands are {VERSION}"
        yield warning(said, f"{first}, then {_STAGES}")
    else:
        declared = f"{count(len(metrics), 'metric')} and {count(len(plans), 'plan')}"
        yield ok(f"{VERSION} deployed it, with {declared}, which these commands read")


def check_alarms(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """See that somebody is told, and what rings."""
    topic = deployment.outputs.alarm_topic
    told = [
        listed
        for listed in items(deployment.client("sns"), "list_subscriptions_by_topic", "Subscriptions", TopicArn=topic)
        if listed["SubscriptionArn"] != "PendingConfirmation"
    ]
    if not told:
        yield warning("nobody is told of an alarm", f"subscribe to the topic {topic}, and confirm it")
    cloudwatch = deployment.client("cloudwatch")
    ours = [resource["PhysicalResourceId"] for resource in resources(deployment, "AWS::CloudWatch::Alarm")]
    ringing = [
        listed["AlarmName"]
        for names in in_pieces(ours, 100)
        for listed in items(cloudwatch, "describe_alarms", "MetricAlarms", StateValue="ALARM", AlarmNames=names)
    ]
    if ringing:
        yield warning(
            f"alarms ring: {', '.join(ringing)}", "infra/operate/RUNBOOK.md says under each alarm's name what to do"
        )
    if told and not ringing:
        yield ok(f"{count(len(told), 'subscriber is', 'subscribers are')} told of alarms, and none rings")


def check_api_keys(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """Compare the Region's API keys with their quota; a call for 500 of them."""
    pages = deployment.client("apigateway").get_paginator("get_api_keys")
    there = sum(len(page.get("items", [])) for page in pages.paginate(PaginationConfig={"PageSize": 500}))
    said = f"{there:,} of {MOST_API_KEYS:,} API keys of the Region are used"
    do = "delete keys that are in no usage plan, or use another Region or account for new customers"
    if there >= MOST_API_KEYS:
        yield broken(said, do)
    else:
        yield ok(said) if there < NEAR * MOST_API_KEYS else warning(said, do)


def check_concurrency(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """Compare how many functions the account ran at once in the last day with how many it may, and who may take all."""
    limits = deployment.client("lambda").get_account_settings()["AccountLimit"]
    most = limits["ConcurrentExecutions"]
    (peak,) = measured(deployment, [("AWS/Lambda", "ConcurrentExecutions", "Maximum", {})], now, DAY)
    said = f"at most {peak:.0f} of {most:,} functions ran at once in the last day"
    do = "ask for more in Service Quotas (Lambda, concurrent executions): what is throttled is counted late"
    if most <= NEW_ACCOUNT:
        yield warning(
            f"{said}, which is what a new account may: a burst of lines takes them from the functions of your API", do
        )
    else:
        yield warning(said, do) if peak >= NEAR * most else ok(said)
    unbounded = [*_unbounded(deployment)] if limits["UnreservedConcurrentExecutions"] > LEAST_UNRESERVED else []
    if unbounded:
        yield warning(
            f"nothing keeps {' and '.join(name for name, _ in unbounded)} from taking all {most:,} functions of the "
            "account, also from your API's own",
            f"set {' and '.join(setting for _, setting in unbounded)} of the stack, and deploy it",
        )


def _unbounded(deployment: Deployment) -> Iterator[tuple[str, str]]:
    """Yield the functions that callers and viewers can start without a bound, with the stack's setting for one."""
    outputs, functions = deployment.outputs, deployment.client("lambda")
    bounded_by = {
        outputs.record_usage_function: "record_usage_concurrency",
        outputs.show_usage_function: "portal_concurrency",
    }
    for name, setting in bounded_by.items():
        if "ReservedConcurrentExecutions" not in functions.get_function_concurrency(FunctionName=name):
            yield name, setting
