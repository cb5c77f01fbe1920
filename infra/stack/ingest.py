"""From the access log to the counters: the roads that lines can take, and ``record_usage`` at their end.

```
subscription   stage ── log group ── subscription ── record_usage           seconds
firehose       stage ── Firehose ── S3 object ── SQS ── record_usage        minutes; cheaper at volume
```
"""

from enum import Enum
from typing import Final, cast

import aws_cdk as cdk
import jsii
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_logs_destinations as logs_destinations
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.outputs import LONGEST_OUTPUT
from infra.stack import bundle
from infra.stack.delivery import Delivery
from infra.stack.sizes import Size
from infra.stack.storage import Storage
from metering.model.log_format import NONCE_LENGTH, AccessLog, Api
from metering.settings import RecordUsageSettings
from metering.signals import written_usage_lines

USAGE_LINES: Final = "usage"
"""The term that brings a usage line; what else holds the word, the function lets lie.

A term is found in any part of an event, also within a word, as in ``\\u0022usage\\u0022`` (CloudWatch Logs User Guide,
"Matching terms in log events": ``ERROR`` matches ``Exiting with ERRORCODE: -1``).
"""


class Road(Enum):
    """How lines of the access log reach ``record_usage``; the value is how it is written."""

    SUBSCRIPTION = "subscription"
    """Through a log group and its subscription, usually seconds later; the log group is the archive."""

    FIREHOSE = "firehose"
    """Through Firehose into objects of the bucket, within minutes; the objects are the archive. REST APIs only."""


class Ingest(Construct):
    """Counts what API Gateway writes into the access log; a stage takes it on with one of the properties below."""

    def __init__(  # noqa: PLR0913 - the resources it joins, each by name
        self,
        scope: Construct,
        construct_id: str,
        *,
        road: Road,
        access_log: AccessLog,
        access_log_format: str,
        storage: Storage,
        metrics: str,
        nonces: str,
        connected_logs: str,
        deployment: str,
        size: Size,
        concurrency: int | None,
        local: bool,
    ) -> None:
        super().__init__(scope, construct_id)
        self._access_log = access_log
        self._deployment = deployment
        self._format = access_log_format
        self._log_group = log_group = storage.access_log
        bucket, secret = storage.bucket, storage.hash_secret
        self.record_usage = bundle.function(
            self,
            "RecordUsage",
            module="record_usage",
            local=local,
            settings=RecordUsageSettings(
                counters_table=storage.counters.table_name,
                bucket=bucket.bucket_name,
                metrics=metrics,
                nonces=nonces,
                access_log_group=log_group.log_group_name,
                ledger_table=storage.ledger.table_name,
                hash_secret=secret.secret_arn if secret else "",
            ).environment(),
            deployment=deployment,
            size=size,
            concurrency=concurrency,
            description="Adds a batch of access-log lines to the usage counters.",
        )
        self._deliver(bucket)
        self._let_connected_logs_in(connected_logs)
        self.delivery = (
            Delivery(self, "Delivery", bucket=bucket, record_usage=self.record_usage, timeout=size.timeout)
            if road is Road.FIREHOSE
            else None
        )

    def _deliver(self, bucket: s3.Bucket) -> None:
        """Bring every line of the log group to ``record_usage``, and what it gives up into the bucket."""
        lambda_.CfnEventInvokeConfig(
            self,
            "Retries",
            function_name=self.record_usage.function_name,
            qualifier="$LATEST",
            maximum_retry_attempts=2,
            maximum_event_age_in_seconds=cdk.Duration.hours(6).to_seconds(),
            destination_config=lambda_.CfnEventInvokeConfig.DestinationConfigProperty(
                on_failure=lambda_.CfnEventInvokeConfig.OnFailureProperty(destination=bucket.bucket_arn)
            ),
        )
        # On both roads: a stage that is moved to Firehose writes here until its own stack is deployed (I1).
        logs.SubscriptionFilter(
            self,
            "Subscription",
            log_group=self._log_group,
            destination=logs_destinations.LambdaDestination(self.record_usage),
            # Everything: a line that this pattern let through unseen would be lost without a reason (I1).
            filter_pattern=logs.FilterPattern.all_events(),
        )

    def _let_connected_logs_in(self, prefix: str) -> None:
        """Let log groups that are made for connected stages bring their lines, by one statement for all of them.

        A function's policy has room for few (Lambda Developer Guide, "Lambda quotas").
        """
        arn = cdk.Stack.of(self).format_arn(
            service="logs",
            resource="log-group",
            resource_name=f"{prefix}*",
            arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
        )
        self.record_usage.add_permission(
            "ConnectedLogs",
            principal=iam.ServicePrincipal("logs.amazonaws.com"),
            source_arn=arn,
            source_account=cdk.Stack.of(self).account,
        )

    @property
    def access_log_format(self) -> apigateway.AccessLogFormat:
        """The format that a stage must write, of the kind of API as which the access log was declared."""
        return apigateway.AccessLogFormat.custom(self._format)

    @property
    def access_log_destination(self) -> apigateway.IAccessLogDestination:
        """The destination for a REST API's stage; raise ValueError if the access log is an HTTP API's."""
        self._expect(Api.REST)
        if self.delivery:
            return apigateway.FirehoseLogDestination(self.delivery.stream)
        return apigateway.LogGroupLogDestination(self._log_group)

    @property
    def told_format(self) -> str | None:
        """The format as an output tells it to tools that describe stages; None where it is too long for one."""
        return self._format if len(self._format) + 2 * NONCE_LENGTH <= LONGEST_OUTPUT else None

    @property
    def destination_arn(self) -> str:
        """Where a stage of any kind is to write."""
        return self.delivery.stream.attr_arn if self.delivery else _arn_of(self._log_group)

    @property
    def access_log_settings(self) -> apigatewayv2.IAccessLogSettings:
        """Destination and format for a stage of an HTTP or a WebSocket API; raise ValueError if it is a REST API's."""
        self._expect(Api.HTTP, Api.WEBSOCKET)
        # An HTTP API keeps CloudFormation's own ARN: with another, another value would be exported, and the one that a
        # deployed stage imports cannot be taken away.
        by_arn = apigatewayv2.LogGroupLogDestination(self._log_group)
        by_name = cast("apigatewayv2.IAccessLogDestination", _LogGroupByName(self._log_group))
        destination = by_name if self._access_log.api is Api.WEBSOCKET else by_arn
        return _AccessLogSettings(destination, self.access_log_format)

    def subscribe(self, usage_log: logs.ILogGroup) -> None:
        """Bring the usage lines of an application's log group to ``record_usage``.

        Filter and permission are made beside the log group, whose stack then needs this one, and never the reverse.
        A log group takes two subscription filters: where both are taken, the deployment of its stack fails.
        """
        usage_log.add_subscription_filter(
            f"{cdk.Stack.of(self).node.id}UsageLines",
            destination=logs_destinations.LambdaDestination(self.record_usage),
            filter_pattern=logs.FilterPattern.literal(USAGE_LINES),
        )
        # What is to be delivered is counted by CloudWatch, which skips lines for good when it cannot deliver.
        usage_log.add_metric_filter(
            f"{cdk.Stack.of(self).node.id}UsageLinesWritten",
            filter_pattern=logs.FilterPattern.literal(USAGE_LINES),
            metric_namespace=written_usage_lines(self._deployment),
            metric_name=usage_log.log_group_name,
        )

    def _expect(self, *apis: Api) -> None:
        """Refuse a stage that would write lines which name no caller, and so would bill nobody."""
        if self._access_log.api not in apis:
            kinds = " or ".join(api.name for api in apis)
            declared = " or ".join(f"Api.{api.name}" for api in apis)
            raise ValueError(
                f"this stack reads the log of {self._access_log.api.name} APIs, not of {kinds} APIs: "
                f"declare it with access_log=AccessLog(api={declared}, …)"
            )


@jsii.implements(apigatewayv2.IAccessLogDestination)
class _LogGroupByName:
    """A log group by its ARN without the ``:*`` at its end, which a WebSocket API's stage refuses.

    "Access log destination must only contain characters a-z, A-Z, 0-9, '_', '-', '/', '.'"
    (github.com/serverless/serverless/issues/6304).
    """

    def __init__(self, log_group: logs.ILogGroup) -> None:
        self._log_group = log_group

    def bind(self, _stage: apigatewayv2.IStage) -> apigatewayv2.AccessLogDestinationConfig:
        return apigatewayv2.AccessLogDestinationConfig(destination_arn=_arn_of(self._log_group))


def _arn_of(log_group: logs.ILogGroup) -> str:
    """Return a log group's ARN without the ``:*`` at its end."""
    return cdk.Stack.of(log_group).format_arn(
        service="logs",
        resource="log-group",
        resource_name=log_group.log_group_name,
        arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
    )


@jsii.implements(apigatewayv2.IAccessLogSettings)
class _AccessLogSettings:
    def __init__(
        self, destination: apigatewayv2.IAccessLogDestination, access_log_format: apigateway.AccessLogFormat
    ) -> None:
        self._destination = destination
        self._format = access_log_format

    @property
    def destination(self) -> apigatewayv2.IAccessLogDestination:
        return self._destination

    @property
    def format(self) -> apigateway.AccessLogFormat:
        return self._format
