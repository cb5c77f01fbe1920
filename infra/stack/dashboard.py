"""One page of CloudWatch: is everything counted, closed and posted, and what stands in the way.

The first three dashboards of an account cost nothing (aws.amazon.com/cloudwatch/pricing).
"""

from collections.abc import Mapping, Sequence

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.stack.delivery import Delivery
from infra.stack.limiting import Limiting
from metering.signals import NAMESPACE, Signal

FIVE_MINUTES = cdk.Duration.minutes(5)
AN_HOUR = cdk.Duration.hours(1)

WIDTH = 24
"""The columns of CloudWatch's grid."""


class Dashboard(Construct):
    """Shows the alarms, then the way of usage from left to right and from top to bottom, then the functions."""

    def __init__(  # noqa: PLR0913 - what it shows, each by name
        self,
        scope: Construct,
        construct_id: str,
        *,
        deployment: str,
        alarms: Sequence[cloudwatch.Alarm],
        functions: Mapping[str, lambda_.Function],
        record_usage: lambda_.Function,
        delivery: Delivery | None,
        limiting: Limiting | None,
    ) -> None:
        super().__init__(scope, construct_id)
        self._dimensions = {"service": deployment}
        dead_letters = [record_usage.metric("AsyncEventsDropped", label="batches", statistic="Sum")]
        if delivery:
            dead_letters.append(delivery.failed.metric_approximate_number_of_messages_visible(label="objects"))
        board = cloudwatch.Dashboard(self, "Board", default_interval=cdk.Duration.days(1))
        self.name = board.dashboard_name
        board.add_widgets(cloudwatch.AlarmStatusWidget(title="Alarms", alarms=list(alarms), width=WIDTH, height=3))
        board.add_widgets(
            self._graph(
                "Lines",
                Signal.RECORDS_READ,
                Signal.RECORDS_BILLED,
                Signal.RECORDS_UNBILLED,
                Signal.BATCHES_REFUSED,
            ),
            self._graph("Age of the oldest line when counted (s)", Signal.OLDEST_RECORD_AGE, statistic="Maximum"),
            self._graph("Set aside", Signal.RECORDS_SET_ASIDE),
        )
        board.add_widgets(
            self._graph("Hours behind", Signal.HOURS_BEHIND, Signal.HOURS_UNPOSTED, statistic="Maximum"),
            self._graph("Unmapped, and corrections that are void", Signal.USAGE_UNMAPPED, Signal.CORRECTIONS_VOID),
            self._graph(
                "Counted of a day, the least of all logs and stages",
                Signal.COMPLETENESS_OF_LINES,
                Signal.COMPLETENESS_OF_REQUESTS,
                statistic="Minimum",
                period=AN_HOUR,
            ),
        )
        board.add_widgets(
            self._graph("Posted", Signal.USAGE_POSTED, Signal.USAGE_PENDING),
            self._graph("Rejected by Stripe", Signal.USAGE_REJECTED, Signal.NOTIFICATIONS_REFUSED),
            self._graph(
                "Put right",
                Signal.USAGE_POSTED_AGAIN,
                Signal.USAGE_DIFFERING,
                Signal.USAGE_CARRIED,
                Signal.USAGE_WITHOUT_SUBSCRIPTION,
            ),
        )
        board.add_widgets(self._standing(), *(self._limits(limiting) if limiting else ()))
        board.add_widgets(
            _of_functions("Errors", {name: one.metric_errors(label=name) for name, one in functions.items()}),
            _of_functions("Throttles", {name: one.metric_throttles(label=name) for name, one in functions.items()}),
            cloudwatch.GraphWidget(title="Dead letters", left=dead_letters, width=WIDTH // 3, period=FIVE_MINUTES),
        )

    def _limits(self, limiting: Limiting) -> tuple[cloudwatch.GraphWidget, ...]:
        age = limiting.watch_limits.metric("IteratorAge", label="ms", statistic="Maximum")
        return (
            self._graph("Oldest stop that is not done (s)", Signal.LIMITS_UNENFORCED, statistic="Maximum"),
            cloudwatch.GraphWidget(
                title="Age of what is watched (ms)", left=[age], width=WIDTH // 3, period=FIVE_MINUTES
            ),
        )

    def _standing(self) -> cloudwatch.GraphWidget:
        return self._graph(
            "Customers' hours that are not billed",
            Signal.ROWS_REJECTED,
            Signal.ROWS_UNPOSTED,
            Signal.ROWS_WITHOUT_STRIPE_CUSTOMER,
            Signal.ROWS_TOO_OLD,
            Signal.ROWS_UNBILLED,
            Signal.ROWS_BEFORE_SUBSCRIPTION,
            statistic="Maximum",
            period=AN_HOUR,
        )

    def _graph(
        self, title: str, *signals: Signal, statistic: str = "Sum", period: cdk.Duration = FIVE_MINUTES
    ) -> cloudwatch.GraphWidget:
        metrics: list[cloudwatch.IMetric] = [
            cloudwatch.Metric(
                namespace=NAMESPACE,
                metric_name=signal.value,
                dimensions_map=self._dimensions,
                statistic=statistic,
                period=period,
                label=signal.value,
            )
            for signal in signals
        ]
        return cloudwatch.GraphWidget(title=title, left=metrics, width=WIDTH // 3, period=period)


def _of_functions(title: str, metrics: Mapping[str, cloudwatch.Metric]) -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(
        title=title, left=list(metrics.values()), width=WIDTH // 3, statistic="Sum", period=FIVE_MINUTES
    )
