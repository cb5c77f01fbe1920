"""From the counters to Stripe: the clock and ``close_periods``."""

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_scheduler_targets as targets
from constructs import Construct

from infra import bundle
from metering.settings import ClosePeriodsSettings


class Billing(Construct):
    """Closes the hours that are due and posts their usage, every five minutes."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: ClosePeriodsSettings,
        deployment: str,
        local: bool,
    ) -> None:
        super().__init__(scope, construct_id)
        self.close_periods = bundle.function(
            self,
            "ClosePeriods",
            module="close_periods",
            local=local,
            settings=settings.environment(),
            deployment=deployment,
            memory_size=1024,
            description="Closes the hours that are due into the ledger and posts their usage to Stripe.",
        )
        # No retry of an event, no dead-letter queue: a run takes up whatever is due or pending, so that the next tick
        # makes good a lost or failed one, and a retry would only run beside it. What must not happen is that no tick
        # comes at all, and the alarm on ClosePeriodsErrors tells of that.
        self.close_periods.configure_async_invoke(retry_attempts=0, max_event_age=cdk.Duration.minutes(5))
        scheduler.Schedule(
            self,
            "EveryFiveMinutes",
            description="Ticks for close_periods.",
            # Cron, not a rate, so that a tick comes at ten past, when the grace of an hour has just passed; UTC,
            # since a local time that daylight saving skips would never fire.
            schedule=scheduler.ScheduleExpression.cron(minute="*/5", time_zone=cdk.TimeZone.ETC_UTC),
            target=targets.LambdaInvoke(
                self.close_periods,
                role=self._clock().without_policy_updates(),
                retry_attempts=0,
                max_event_age=cdk.Duration.minutes(5),
            ),
        )

    def _clock(self) -> iam.Role:
        """Return the schedule's role; the one that CDK makes could invoke every version of the function, too."""
        return iam.Role(
            self,
            "Clock",
            assumed_by=iam.ServicePrincipal(
                "scheduler.amazonaws.com",
                conditions={"StringEquals": {"aws:SourceAccount": cdk.Stack.of(self).account}},
            ),
            inline_policies={
                "Tick": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(
                            sid="Tick",
                            actions=["lambda:InvokeFunction"],
                            resources=[self.close_periods.function_arn],
                        )
                    ]
                )
            },
        )
