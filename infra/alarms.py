"""The few alarms that someone must act on; each costs about $0.10 a month and says what to do."""

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from constructs import Construct

from metering.signals import NAMESPACE, Signal

FIVE_MINUTES = cdk.Duration.minutes(5)
AN_HOUR_OF_FIVE_MINUTES = 12


class Alarms(Construct):
    """Tells ``topic``, to which someone must subscribe, when usage is not counted, closed or taken by Stripe."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        deployment: str,
        record_usage: lambda_.Function,
        close_periods: lambda_.Function,
    ) -> None:
        super().__init__(scope, construct_id)
        self._dimensions = {"service": deployment}
        self.topic = sns.Topic(self, "Topic", enforce_ssl=True)
        # A topic policy of one's own replaces the default one, which lets the account's alarms publish.
        self.topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid="AlarmsOfThisAccount",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[self.topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": cdk.Stack.of(self).account}},
            )
        )
        self._alarm(
            "RecordUsageErrors",
            record_usage.metric_errors(period=FIVE_MINUTES),
            "Access-log batches failed to be counted. Lambda tries each three times: read the log of record_usage, and "
            "redrive what is under aws/lambda/async/ in the bucket.",
        )
        self._alarm(
            "BatchesLost",
            record_usage.metric("DestinationDeliveryFailures", statistic="Sum", period=FIVE_MINUTES),
            "A batch that had failed for good could not be kept in the bucket: recount these hours from the access "
            "log, which still holds its lines.",
        )
        self._alarm(
            "RecordsSetAside",
            self._signal(Signal.RECORDS_SET_ASIDE, "Sum"),
            "Access-log lines could not be read and are under set-aside/ in the bucket with their reasons: mend the "
            "cause, then redrive them.",
        )
        self._alarm(
            "ClosePeriodsErrors",
            close_periods.metric_errors(period=FIVE_MINUTES),
            "A run that closes hours failed; the next one takes up its work. If this stays, read the log of "
            "close_periods.",
        )
        self._alarm(
            "HoursBehind",
            self._signal(Signal.HOURS_BEHIND, "Maximum"),
            "Hours that are due have stayed open for an hour, or close_periods does not run at all: read its log, and "
            "look whether its schedule is enabled.",
            above=1,
            periods=AN_HOUR_OF_FIVE_MINUTES,
            # Each run says how far it is behind, so that silence means that there is no run.
            silence=cloudwatch.TreatMissingData.BREACHING,
        )
        self._alarm(
            "UsageRejected",
            self._signal(Signal.USAGE_REJECTED, "Sum"),
            "Stripe refused usage for good: look at the rejected rows of the ledger with their reasons, mend the "
            "customer or the meter in Stripe, then post them again.",
        )

    def _signal(self, signal: Signal, statistic: str) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace=NAMESPACE,
            metric_name=signal.value,
            dimensions_map=self._dimensions,
            statistic=statistic,
            period=FIVE_MINUTES,
        )

    def _alarm(  # noqa: PLR0913 - one alarm's properties, the unusual ones by name
        self,
        name: str,
        metric: cloudwatch.Metric,
        what_to_do: str,
        *,
        above: int = 0,
        periods: int = 1,
        silence: cloudwatch.TreatMissingData = cloudwatch.TreatMissingData.NOT_BREACHING,
    ) -> None:
        cloudwatch.Alarm(
            self,
            name,
            metric=metric,
            alarm_description=what_to_do,
            threshold=above,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            evaluation_periods=periods,
            treat_missing_data=silence,
        ).add_alarm_action(actions.SnsAction(self.topic))
