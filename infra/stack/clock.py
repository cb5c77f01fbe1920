"""Schedules: what ticks for a function."""

from collections.abc import Mapping

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_scheduler_targets as targets
from constructs import Construct


def tick(  # noqa: PLR0913 - each by name
    scope: Construct,
    name: str,
    *,
    minute: str,
    function: lambda_.Function,
    role: str,
    event: Mapping[str, bool] | None = None,
) -> None:
    """Invoke a function at these minutes of each hour, under a role of that name which may do nothing else.

    With the ``event``, or with Scheduler's own, which says when it ticked.

    Cron, not a rate, so that the minutes are known; UTC, since a local time that daylight saving skips would never
    fire. A tick that is lost is made good by the next one: it is not tried again.
    """
    scheduler.Schedule(
        scope,
        name,
        description=f"Ticks for {function.node.id}.",
        schedule=scheduler.ScheduleExpression.cron(minute=minute, time_zone=cdk.TimeZone.ETC_UTC),
        target=targets.LambdaInvoke(
            function,
            role=_clock(scope, role, function).without_policy_updates(),
            retry_attempts=0,
            max_event_age=cdk.Duration.minutes(5),
            input=scheduler.ScheduleTargetInput.from_object(dict(event)) if event else None,
        ),
    )


def _clock(scope: Construct, name: str, function: lambda_.Function) -> iam.Role:
    """Return the schedule's role; the one that CDK makes could invoke every version of the function, too."""
    return iam.Role(
        scope,
        name,
        assumed_by=iam.ServicePrincipal(
            "scheduler.amazonaws.com",
            conditions={"StringEquals": {"aws:SourceAccount": cdk.Stack.of(scope).account}},
        ),
        inline_policies={
            "Tick": iam.PolicyDocument(
                statements=[
                    iam.PolicyStatement(
                        sid="Tick", actions=["lambda:InvokeFunction"], resources=[function.function_arn]
                    )
                ]
            )
        },
    )
