"""The metering stack: what it is made of, and what each function may do."""

import re
from collections.abc import Sequence
from typing import Any, Final, cast

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.alarms import Alarms
from infra.billing import Billing
from infra.ingest import Ingest
from infra.storage import Storage
from metering.access_log import AccessLog
from metering.metrics import Metric, check, encode
from metering.set_aside import PREFIX as SET_ASIDE
from metering.settings import ClosePeriodsSettings, RecordUsageSettings

STRIPE: Final = "https://api.stripe.com"
REST_API_KEYS: Final = AccessLog()
LAST_EPOCH: Final = 999


class MeteringStack(cdk.Stack):
    """Counts the usage that the stages' access logs tell of, and bills it through Stripe.

    ``metrics`` is what is billed for; ``access_log`` says what kind of API writes the log and who is billed.
    ``deployment`` (default: the stack's name and its Region) begins the names of Stripe's meters. ``ledger_epoch`` goes
    up by one when the ledger was restored from a backup. ``local`` bundles for this machine, for the emulator.

    Raises MetricError for a metric that cannot be counted and ValueError for any other setting out of bounds.
    """

    def __init__(  # noqa: PLR0913 - what an operator can choose, each by name
        self,
        scope: Construct,
        construct_id: str,
        *,
        metrics: Sequence[Metric],
        access_log: AccessLog = REST_API_KEYS,
        access_log_retention: logs.RetentionDays = logs.RetentionDays.THREE_MONTHS,
        deployment: str | None = None,
        ledger_epoch: int = 1,
        stripe_api_base: str = STRIPE,
        local: bool = False,
        **stack_props: Any,
    ) -> None:
        super().__init__(scope, construct_id, **stack_props)
        check(metrics, access_log)
        deployment = f"{self.stack_name}-{self.region}" if deployment is None else deployment
        _check_names(deployment, ledger_epoch, stripe_api_base, local=local)

        self._storage = Storage(self, access_log_retention=access_log_retention)
        self._ingest = Ingest(
            self,
            "Ingest",
            access_log=access_log,
            log_group=self._storage.access_log,
            bucket=self._storage.bucket,
            settings=RecordUsageSettings(
                counters_table=self._storage.counters.table_name,
                bucket=self._storage.bucket.bucket_name,
                metrics=encode(metrics),
            ),
            deployment=deployment,
            local=local,
        )
        self._billing = Billing(
            self,
            "Billing",
            settings=ClosePeriodsSettings(
                counters_table=self._storage.counters.table_name,
                ledger_table=self._storage.ledger.table_name,
                deployment=deployment,
                ledger_epoch=str(ledger_epoch),
                stripe_secret=self._storage.stripe_secret.ref,
                stripe_api_base=stripe_api_base,
            ),
            deployment=deployment,
            local=local,
        )
        alarms = Alarms(
            self,
            "Alarms",
            deployment=deployment,
            record_usage=self._ingest.record_usage,
            close_periods=self._billing.close_periods,
        )
        self._grant_record_usage()
        self._grant_close_periods()
        self._tell(
            CountersTable=self._storage.counters.table_name,
            LedgerTable=self._storage.ledger.table_name,
            Bucket=self._storage.bucket.bucket_name,
            AccessLogGroup=self._storage.access_log.log_group_name,
            RecordUsageFunction=self._ingest.record_usage.function_name,
            ClosePeriodsFunction=self._billing.close_periods.function_name,
            StripeSecret=self._storage.stripe_secret.ref,
            StripeApiBase=stripe_api_base,
            Deployment=deployment,
            Metrics=",".join(metric.name for metric in metrics),
            AlarmTopic=alarms.topic.topic_arn,
        )

    @property
    def access_log_format(self) -> apigateway.AccessLogFormat:
        """The format that a stage must write."""
        return self._ingest.access_log_format

    @property
    def access_log_destination(self) -> apigateway.IAccessLogDestination:
        """Where a REST API's stage must write; raise ValueError if the stack reads HTTP APIs' logs."""
        return self._ingest.access_log_destination

    @property
    def access_log_settings(self) -> apigatewayv2.IAccessLogSettings:
        """Where and what an HTTP API's stage must write; raise ValueError if the stack reads REST APIs' logs."""
        return self._ingest.access_log_settings

    def _grant_record_usage(self) -> None:
        counters, bucket, function = self._storage.counters, self._storage.bucket, self._ingest.record_usage
        for statement in (
            _items("CountHours", counters.table_arn, ["GetItem", "UpdateItem"], "hour#*"),
            _items("MarkLateHours", counters.table_arn, ["PutItem"], "late#*"),
            iam.PolicyStatement(
                sid="ReadWhatIsSetAside",
                actions=["s3:GetObject"],
                resources=[bucket.arn_for_objects(f"{SET_ASIDE}*")],
            ),
            # The on-failure destination writes below aws/lambda/async/ alone, but Lambda refuses it ("does not have
            # permissions to call PutObject on S3") unless the role may put any object. Versions undo an overwrite.
            iam.PolicyStatement(
                sid="SetAsideAndKeepFailedBatches",
                actions=["s3:PutObject"],
                resources=[bucket.arn_for_objects("*")],
            ),
            # For the on-failure destination, and so that a missing object is answered with 404, not 403.
            iam.PolicyStatement(sid="TellMissingObjects", actions=["s3:ListBucket"], resources=[bucket.bucket_arn]),
        ):
            function.add_to_role_policy(statement)
        self._acknowledge(
            function, f"{SET_ASIDE}*", "It reads lines that were set aside, whatever their batch is called."
        )
        self._acknowledge(
            function, "*", "Lambda refuses an on-failure destination unless the role may put any object of the bucket."
        )

    def _acknowledge(self, function: lambda_.Function, objects: str, reason: str) -> None:
        """Acknowledge that a function's policy names many objects of the bucket."""
        bucket = self.get_logical_id(cast("cdk.CfnElement", self._storage.bucket.node.default_child))
        cdk.Validations.of(cast("iam.Role", function.role).node.find_child("DefaultPolicy")).acknowledge(
            cdk.Acknowledgment(id=f"AwsSolutions-IAM5[Resource::<{bucket}.Arn>/{objects}]", reason=reason)
        )

    def _grant_close_periods(self) -> None:
        counters, ledger, function = self._storage.counters, self._storage.ledger, self._billing.close_periods
        rows = ("customer#*", "key#*", "period#*")
        for statement in (
            _items("ReadCounters", counters.table_arn, ["Query"], "hour#*", "late#*"),
            iam.PolicyStatement(
                sid="SeeWhenCountersWereMade", actions=["dynamodb:DescribeTable"], resources=[counters.table_arn]
            ),
            _items("ClearLateMarks", counters.table_arn, ["DeleteItem"], "late#*"),
            _items("ReadLedger", ledger.table_arn, ["GetItem", "BatchGetItem", "Query"], *rows),
            _items("WriteLedger", ledger.table_arn, ["PutItem"], *rows, "list#keys"),
            _items("CheckCustomer", ledger.table_arn, ["ConditionCheckItem"], "customer#*"),
            _items("ListPendingUsage", f"{ledger.table_arn}/index/pending", ["Query"], "pending#*"),
            iam.PolicyStatement(
                sid="ReadStripeKey",
                actions=["secretsmanager:GetSecretValue"],
                resources=[self._storage.stripe_secret.ref],
            ),
        ):
            function.add_to_role_policy(statement)

    def _tell(self, **outputs: str) -> None:
        """Write the outputs that the ``metering`` command reads, under names that no construct can take from them."""
        for name, value in outputs.items():
            cdk.CfnOutput(self, f"{name}Output", value=value).override_logical_id(name)


def _items(sid: str, resource_arn: str, actions: Sequence[str], *partition_keys: str) -> iam.PolicyStatement:
    """Allow ``actions`` on the items whose partition key begins as given.

    ForAllValues also lets a request pass that names no partition key at all. None of these actions can: Scan and
    PartiQL are the ones that could, and neither is ever granted. So the usual second condition (``Null``) would add
    nothing, and the emulator, which never fills the key in, would refuse everything.
    """
    return iam.PolicyStatement(
        sid=sid,
        actions=[f"dynamodb:{action}" for action in actions],
        resources=[resource_arn],
        conditions={"ForAllValues:StringLike": {"dynamodb:LeadingKeys": list(partition_keys)}},
    )


def _check_names(deployment: str, ledger_epoch: int, stripe_api_base: str, *, local: bool) -> None:
    if not (cdk.Token.is_unresolved(deployment) or re.fullmatch(r"[A-Za-z0-9_-]{1,40}", deployment)):
        raise ValueError(f"deployment must be 1 to 40 letters, digits, '_' or '-', got {deployment!r}")
    if not 1 <= ledger_epoch <= LAST_EPOCH:
        raise ValueError(f"ledger_epoch must be from 1 to {LAST_EPOCH}, got {ledger_epoch}")
    if not (stripe_api_base.startswith("https://") or local):
        raise ValueError(
            f"stripe_api_base must begin with https://, since the key is sent there, got {stripe_api_base!r}"
        )
