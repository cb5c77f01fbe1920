"""The few alarms that someone must act on; each costs about $0.10 a month and says what to do.

Each of our own metrics costs $0.30 a month while it is sent, so the functions send one only when it is not zero: its
silence is good news. That a function runs at all is seen by AWS's own metrics, which cost nothing.
"""

import aws_cdk as cdk
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from constructs import Construct

from infra.stack.delivery import Delivery
from infra.stack.limiting import Limiting
from metering.signals import NAMESPACE, Signal

A_MINUTE = cdk.Duration.minutes(1)
FIVE_MINUTES = cdk.Duration.minutes(5)
AN_HOUR_OF_FIVE_MINUTES = 12
AN_HOUR = cdk.Duration.hours(1)
THREE_RUNS = 3
LONGEST_STOP = 60
"""Seconds in which a stop is seen done, or somebody is told."""

TOLERANCE = 0.005
"""Ten minutes of a day are 0.7 %: so long CloudWatch Logs switches a subscription off."""

UNLOGGED = 0.05
"""API Gateway may write no line of a 413, an excessive 429, or an internal 500 (API Gateway Developer Guide)."""


class Alarms(Construct):
    """Tells ``topic``, to which someone must subscribe, when usage is not counted, closed or taken by Stripe.

    And when limits are not acted on, where there are any.
    """

    def __init__(  # noqa: PLR0913 - what it watches, each by name
        self,
        scope: Construct,
        construct_id: str,
        *,
        deployment: str,
        record_usage: lambda_.Function,
        close_periods: lambda_.Function,
        reconcile_usage: lambda_.Function,
        check_completeness: lambda_.Function,
        show_usage: lambda_.Function,
        receive_events: lambda_.Function,
        customers_api: apigatewayv2.HttpApi,
        delivery: Delivery | None,
        limiting: Limiting | None,
    ) -> None:
        super().__init__(scope, construct_id)
        self.all: list[cloudwatch.Alarm] = []
        self._dimensions = {"service": deployment}
        self.topic = self._topic()
        self._watch_counting(record_usage)
        self._watch_closing(close_periods)
        self._watch_completeness(check_completeness)
        self._watch_stripe(reconcile_usage, receive_events)
        self._watch_portal(customers_api, show_usage)
        if delivery:
            self._watch_delivery(delivery)
        if limiting:
            self._watch_limits(limiting)

    def _topic(self) -> sns.Topic:
        topic = sns.Topic(self, "Topic", enforce_ssl=True)
        # A topic policy of one's own replaces the default one, which lets the account's alarms publish.
        topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid="AlarmsOfThisAccount",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": cdk.Stack.of(self).account}},
            )
        )
        return topic

    def _watch_counting(self, record_usage: lambda_.Function) -> None:
        """Watch that lines are counted, soon, and for somebody."""
        self._alarm(
            "RecordUsageErrors",
            record_usage.metric_errors(period=FIVE_MINUTES),
            "Batches of lines failed to be counted; each is tried again. Read the log of record_usage and mend the "
            "cause.",
        )
        self._alarm(
            "RecordsSetAside",
            self._signal(Signal.RECORDS_SET_ASIDE, "Sum"),
            "Lines could not be counted as they stand: `metering set-aside list` shows them with their reasons. Mend "
            "the cause, then redrive them.",
        )
        self._alarm(
            "CountingBehind",
            self._signal(Signal.OLDEST_RECORD_AGE, "Maximum"),
            "For a quarter of an hour lines have been counted more than half an hour after their requests. Look for "
            "errors and throttles of record_usage, and at the account's limit of concurrent functions.",
            above=1800,
            periods=THREE_RUNS,
        )
        self._alarm(
            "RecordUsageThrottles",
            record_usage.metric_throttles(period=FIVE_MINUTES),
            "Lambda has run no more of record_usage for a quarter of an hour. Raise the account's limit of concurrent "
            "functions, or find the function that uses it up; deliveries are tried again for six hours.",
            periods=THREE_RUNS,
        )
        self._alarm(
            "BatchesFailed",
            record_usage.metric("AsyncEventsDropped", statistic="Sum", period=FIVE_MINUTES),
            "Batches of lines failed in all tries and are kept under aws/lambda/async/ in the bucket: mend the cause, "
            "then `metering set-aside redrive --all`.",
        )
        self._alarm(
            "UsageUnmapped",
            self._signal(Signal.USAGE_UNMAPPED, "Sum"),
            "A key that belongs to no customer was used, and nobody is billed for it until it does: `metering usage` "
            "shows it; `metering customers add --key` gives it to its customer, `metering keys exclude` to nobody.",
        )

    def _watch_closing(self, close_periods: lambda_.Function) -> None:
        """Watch that hours are closed, and that Stripe takes what they hold."""
        self._alarm(
            "ClosePeriodsErrors",
            close_periods.metric_errors(period=FIVE_MINUTES),
            "For an hour close_periods has failed at each run, or does not run at all: read its log, and look whether "
            "its schedule is enabled. The next good run takes up all the work.",
            periods=AN_HOUR_OF_FIVE_MINUTES,
            # There is a data point for each run, so that silence means that there is no run.
            silence=cloudwatch.TreatMissingData.BREACHING,
        )
        self._alarm(
            "HoursBehind",
            self._signal(Signal.HOURS_BEHIND, "Maximum"),
            "Hours that are due have stayed open for an hour, although close_periods runs: `metering close` says what "
            "waits and why.",
            periods=AN_HOUR_OF_FIVE_MINUTES,
        )
        self._alarm(
            "HoursUnposted",
            self._signal(Signal.HOURS_UNPOSTED, "Maximum"),
            "For an hour, usage of an hour that ended before has waited for Stripe: `metering close` says why. Look "
            "for errors of post_usage, at Stripe's status, and whether the Stripe key still has its rights.",
            periods=AN_HOUR_OF_FIVE_MINUTES,
        )
        self._alarm(
            "UsageRejected",
            self._signal(Signal.USAGE_REJECTED, "Sum"),
            "Stripe refused usage for good: look at the rejected rows of the ledger with their reasons, mend the "
            "customer or the meter in Stripe, then post them again.",
        )
        self._alarm(
            "RowsRejected",
            self._signal(Signal.ROWS_REJECTED, "Maximum", period=AN_HOUR),
            "Usage that Stripe refused for good is still not billed, counted every hour. `metering rejected list` "
            "shows it with Stripe's words: mend the customer or the meter, then `metering rejected retry --all`.",
        )
        self._alarm(
            "RowsWithoutStripeCustomer",
            self._signal(Signal.ROWS_WITHOUT_STRIPE_CUSTOMER, "Maximum", period=AN_HOUR),
            "Usage is held since its customer has no Stripe customer, and is billed to nobody until it has one: "
            "`metering doctor` names the customers, `metering customers subscribe` gives them one.",
        )

        self._alarm(
            "RowsUnbilled",
            self._signal(Signal.ROWS_UNBILLED, "Maximum", period=AN_HOUR),
            "Stripe has usage that no subscription bills: there is none, it has no price of the metric, it has ended, "
            "or its invoices are not collected. `metering doctor` names the customers with the reason and what to do.",
        )

    def _watch_stripe(self, reconcile_usage: lambda_.Function, receive_events: lambda_.Function) -> None:
        """Watch that Stripe ends at the ledger's totals (I4), and that its notifications are taken."""
        self._alarm(
            "UsageDiffering",
            self._signal(Signal.USAGE_DIFFERING, "Maximum"),
            "Stripe shows other totals than the ledger, although they were posted again (`metering reconcile` lists "
            "them), or an invoice bills something else than was used (`metering held list` says which). Look whether "
            "somebody else posts to these meters, or changed a meter or a customer at Stripe.",
        )
        self._alarm(
            "ReconcileUsageErrors",
            reconcile_usage.metric_errors(period=FIVE_MINUTES),
            "The hourly look at Stripe failed: read the log of reconcile_usage. The next good run does its work.",
        )

        self._alarm(
            "ReceiveEventsErrors",
            receive_events.metric_errors(period=FIVE_MINUTES),
            "Requests to the address for Stripe's notifications failed: read the log of receive_events. Stripe sends a "
            "notification again for three days.",
        )
        self._alarm(
            "ReceiveEventsThrottles",
            receive_events.metric_throttles(period=FIVE_MINUTES),
            "For a quarter of an hour more has been sent to the address for Stripe's notifications than may run at "
            "once. Look at NotificationsRefused whether it is Stripe at all, and at the account's limit of concurrent "
            "functions.",
            periods=THREE_RUNS,
        )

    def _watch_portal(self, customers_api: apigatewayv2.HttpApi, show_usage: lambda_.Function) -> None:
        """Watch what customers get to see, and whether one of them wants too much."""
        self._alarm(
            "PortalErrors",
            customers_api.metric_server_error(statistic="Sum", period=FIVE_MINUTES),
            "For a quarter of an hour customers who looked at their usage have got errors. Read the log of show_usage; "
            "503 is what it answers while Stripe does not. With ReceiveEventsErrors, it may be Stripe who got them.",
            periods=THREE_RUNS,
        )

        self._alarm(
            "ShowUsageErrors",
            show_usage.metric_errors(period=FIVE_MINUTES),
            "show_usage crashed, or took longer than it may: read its log. A customer has got no answer to something "
            "that it could ask again at once.",
        )
        self._alarm(
            "ShowUsageThrottles",
            show_usage.metric_throttles(period=FIVE_MINUTES),
            "For a quarter of an hour more has been asked of show_usage than may run at once. Look at who asks; a "
            "customer's links end with `metering portal rotate-key --end-links`. Counting and billing go on.",
            periods=THREE_RUNS,
        )

    def _watch_delivery(self, delivery: Delivery) -> None:
        """Watch the road over Firehose."""
        self._alarm(
            "DeliveryThrottled",
            _of_stream(delivery, "ThrottledRecords", "Sum"),
            "API Gateway sent more lines than Firehose takes of a stream, 1 MiB a second in most Regions, and does not "
            "promise to send them again: have the quota raised. What is missing shows in RequestsNotLogged.",
        )
        self._alarm(
            "DeliveryBehind",
            _of_stream(delivery, "DeliveryToS3.DataFreshness", "Maximum"),
            "Firehose has held lines of the access log for over an hour and cannot deliver them; after 24 hours it "
            "drops them. Read its error log, and look under access-log-errors/ in the bucket.",
            above=3600,
        )
        self._alarm(
            "ObjectsFailed",
            delivery.failed.metric_approximate_number_of_messages_visible(statistic="Maximum", period=FIVE_MINUTES),
            "Objects of the access log could not be counted for four days. Read the log of record_usage, mend the "
            "cause, then move the messages back with the queue's dead-letter redrive: what was counted already is "
            "refused by the counters themselves.",
        )

    def _watch_limits(self, limiting: Limiting) -> None:
        """Watch that stops are done, and that somebody looks for them at all.

        What cannot be reopened is among the errors of enforce_limits; throttled runs are none, so that a watcher that
        Lambda does not run is silent, as one is whose clock stands still.
        """
        self._alarm(
            "LimitsUnenforced",
            self._signal(Signal.LIMITS_UNENFORCED, "Maximum", period=A_MINUTE),
            "A customer's keys should be closed and have not been seen closed for over a minute, so that what it uses "
            "goes on: `metering doctor` says whose. Look at the log of enforce_limits, at its errors and throttles.",
            above=LONGEST_STOP,
        )
        self._alarm(
            "WatchLimitsErrors",
            limiting.watch_limits.metric_errors(period=FIVE_MINUTES),
            "For a quarter of an hour watch_limits has failed, or does not run at all, so that nobody is warned or "
            "stopped: read its log, and look at its schedule and the account's limit of concurrent functions.",
            periods=THREE_RUNS,
            # There is a run each minute, so that silence means that there is none.
            silence=cloudwatch.TreatMissingData.BREACHING,
        )
        self._alarm(
            "EnforceLimitsErrors",
            limiting.enforce_limits.metric_errors(period=FIVE_MINUTES),
            "For a quarter of an hour enforce_limits has failed, so that keys are neither closed nor opened: read its "
            "log. Whoever has been reopened may still be kept out.",
            periods=THREE_RUNS,
        )

    def _watch_completeness(self, check_completeness: lambda_.Function) -> None:
        """Watch both ratios on both sides; what is lost stays in them for a day, what an edge makes, for an hour."""
        least, most = (  # of several logs, each of which has a value
            self._signal(Signal.COMPLETENESS_OF_LINES, statistic, period=AN_HOUR)
            for statistic in ("Minimum", "Maximum")
        )
        fewest, too_many = (  # of several connections, each of which has a value
            self._signal(Signal.COMPLETENESS_OF_REQUESTS, statistic, period=AN_HOUR)
            for statistic in ("Minimum", "Maximum")
        )
        self._alarm(
            "LinesNotCounted",
            least,
            "Lines of the access log, or of another log group that is read, were written in the last day and not "
            "counted: CloudWatch Logs skips some when it cannot deliver to record_usage. The log of "
            "check_completeness says of which. See that its subscription and permission are there, then bring the "
            "lines in: `metering recount --all --from HOUR`, and with --fix.",
            below=1 - TOLERANCE,
            periods=THREE_RUNS,
        )
        self._alarm(
            "LinesCountedTwice",
            most,
            "More lines were counted in the last day than were written into the access log, or into another log group "
            "that is read, which the log of check_completeness names: a delivery has come again "
            "in other pieces, or lines of the day before came late. `metering recount --all --from HOUR` says which "
            "hours differ, and with --fix --lower corrects them.",
            above=1 + TOLERANCE,
            periods=THREE_RUNS,
        )
        self._alarm(
            "RequestsNotLogged",
            fewest,
            "Over a twentieth of the requests of a stage, or of those that are compared together, were not counted in "
            "the last day; the log of check_completeness says of which. If LinesNotCounted is silent, "
            "the stage does not log them: `metering doctor` compares its access log with what it should be. Requests "
            "that API Gateway never logs, such as 413 and excessive 429, are no fault.",
            below=1 - UNLOGGED,
            periods=THREE_RUNS,
        )
        self._alarm(
            "RequestsCountedTwice",
            too_many,
            "More lines were counted in the last day than the stage had requests: another stage writes into its "
            "log and was not named with compare_with, or `metering recount --all --from HOUR` says which hours differ, "
            "and with --fix --lower corrects them.",
            above=1 + TOLERANCE,
            periods=THREE_RUNS,
        )
        self._alarm(
            "CheckCompletenessErrors",
            check_completeness.metric_errors(period=AN_HOUR),
            "For three hours check_completeness has failed, so that nobody would see lines that are lost: read its log "
            "and mend the cause. The next good run looks at the whole day.",
            periods=THREE_RUNS,
        )

    def _signal(self, signal: Signal, statistic: str, *, period: cdk.Duration = FIVE_MINUTES) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace=NAMESPACE,
            metric_name=signal.value,
            dimensions_map=self._dimensions,
            statistic=statistic,
            period=period,
        )

    def _alarm(  # noqa: PLR0913 - one alarm's properties, the unusual ones by name
        self,
        name: str,
        metric: cloudwatch.Metric,
        what_to_do: str,
        *,
        above: float = 0,
        below: float | None = None,
        periods: int = 1,
        silence: cloudwatch.TreatMissingData = cloudwatch.TreatMissingData.NOT_BREACHING,
    ) -> None:
        operators = cloudwatch.ComparisonOperator
        compare = operators.GREATER_THAN_THRESHOLD if below is None else operators.LESS_THAN_THRESHOLD
        alarm = cloudwatch.Alarm(
            self,
            name,
            metric=metric,
            alarm_description=f"{what_to_do} Runbook: {runbook(name)}",
            threshold=above if below is None else below,
            comparison_operator=compare,
            evaluation_periods=periods,
            treat_missing_data=silence,
        )
        alarm.add_alarm_action(actions.SnsAction(self.topic))
        self.all.append(alarm)


def _of_stream(delivery: Delivery, name: str, statistic: str) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace="AWS/Firehose",
        metric_name=name,
        dimensions_map={"DeliveryStreamName": delivery.stream.ref},
        statistic=statistic,
        period=FIVE_MINUTES,
    )


def runbook(alarm: str) -> str:
    """Return where one finds what an alarm asks of a person."""
    return f"infra/operate/RUNBOOK.md#{alarm.lower()}"
