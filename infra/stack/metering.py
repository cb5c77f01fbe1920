"""The metering stack: what it is made of, and what it takes, refuses and tells."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.outputs import Outputs
from infra.stack import grants, rest_limits
from infra.stack.alarms import Alarms
from infra.stack.billing import Billing
from infra.stack.checking import Checking
from infra.stack.checks import (
    check_compared,
    check_concurrency,
    check_limits,
    check_names,
    check_nonces,
    check_posting,
    check_road,
    check_slowing,
    check_usage_log,
)
from infra.stack.dashboard import Dashboard
from infra.stack.ingest import Ingest, Road
from infra.stack.limiting import Limiting
from infra.stack.notices import NoUsageLines, warn_of
from infra.stack.portal import Portal
from infra.stack.sizes import Size, sizes_of
from infra.stack.storage import Storage, guid
from infra.stack.telling import tell
from metering.model.log_format import AccessLog, Api
from metering.model.metric_checks import check
from metering.model.metrics import Metric, declared, encode, meters, needs_hash, reads_usage_lines
from metering.model.price_checks import check as check_plans
from metering.model.prices import Plan
from metering.model.read_allotment import LEAST

STRIPE: Final = "https://api.stripe.com"
REST_API_KEYS: Final = AccessLog()


class MeteringStack(cdk.Stack):
    """Counts the usage that the stages' access logs tell of, and bills it through Stripe.

    ``metrics`` is what is billed for, ``plans`` at which prices; ``access_log`` says what kind of API writes the log
    and who is billed; ``road`` is how its lines reach the counters. They are kept for ``access_log_retention`` in the
    log group, or for ``archive_days`` (62 at least) where Firehose puts them. At most ``record_usage_concurrency`` of
    ``record_usage`` run at once (5 at least; default: what the account has left), which are kept for it alone.
    ``deployment`` (default: the stack's name and its Region) begins the names of Stripe's meters. ``ledger_epoch`` goes
    up by one when the ledger was restored from a backup. Stripe takes ``stripe_rate`` postings a second, and
    ``stripe_reads_a_month`` reads that look whether all is right. Hours from ``streamed_from`` on (``"2026-12-01T00"``,
    UTC) are posted by Stripe's event stream. Pages of ``portal_origins`` (``"https://app.example.com"``) may call the
    customers' API from browsers, which has at most ``portal_concurrency`` executions at once. Customers change how they
    pay at Stripe's ``stripe_portal_login``. ``sizes`` are memory and time limits of functions, by their names, other
    than the defaults. ``local`` bundles for this machine, for the emulator.

    With ``limits``, which a plan that declares some implies, functions watch what is used and close customers' keys.
    E-mail about that comes from ``alerts_from``, an address that SES may send from, or is not sent. Whoever has not
    paid for ``unpaid_days`` is closed, or nobody.

    ``nonce`` (default: the GUID of the stack's own id) begins and ends each line of the access log, and no caller may
    know it; lines with ``former_nonce`` count, too, while stages still write it: give both when a nonce became known,
    and the former one when the stack was made again.

    Raises MetricError for a metric that cannot be counted, PriceError for a plan that cannot be billed, LimitError for
    a limit that cannot act, and ValueError for any other setting out of bounds.
    """

    def __init__(  # noqa: PLR0913 - what an operator can choose, each by name
        self,
        scope: Construct,
        construct_id: str,
        *,
        metrics: Sequence[Metric],
        plans: Sequence[Plan] = (),
        access_log: AccessLog = REST_API_KEYS,
        road: Road = Road.SUBSCRIPTION,
        access_log_retention: logs.RetentionDays = logs.RetentionDays.THREE_MONTHS,
        archive_days: int = 400,
        record_usage_concurrency: int | None = None,
        deployment: str | None = None,
        ledger_epoch: int = 1,
        stripe_api_base: str = STRIPE,
        stripe_rate: int = 1000,
        stripe_reads_a_month: int = LEAST,
        stripe_calls: int | None = None,
        streamed_from: str = "",
        portal_origins: Sequence[str] = (),
        portal_concurrency: int | None = None,
        stripe_portal_login: str = "",
        limits: bool | None = None,
        alerts_from: str = "",
        unpaid_days: int | None = None,
        sizes: Mapping[str, Size] | None = None,
        nonce: str | None = None,
        former_nonce: str = "",
        local: bool = False,
        **stack_props: Any,
    ) -> None:
        super().__init__(scope, construct_id, **stack_props)
        check(metrics, access_log)
        check_plans(plans, metrics)
        deployment = f"{self.stack_name}-{self.region}" if deployment is None else deployment
        check_names(deployment, ledger_epoch, stripe_api_base, local=local)
        check_posting(stripe_rate, stripe_reads_a_month, streamed_from)
        check_road(road, access_log, archive_days)
        check_concurrency(record_usage_concurrency, portal_concurrency)
        check_nonces(nonce=nonce, former_nonce=former_nonce)
        self._limits = check_limits(plans, limits, alerts_from=alerts_from, unpaid_days=unpaid_days)

        self.is_without_usage_lines = reads_usage_lines(metrics)
        self._metrics, self._plans, self._access_log, self.sizes = metrics, plans, access_log, sizes_of(sizes)
        warn_of(self, plans, road, access_log.api, stripe_calls)
        self.deployment, self._stripe_api_base, self.local = deployment, stripe_api_base, local
        self._nonce = nonce or guid(self)
        self._nonces = f"{self._nonce} {former_nonce}".strip()
        self._connected_logs = f"{self._vended}{guid(self)}/"  # how names of log groups made for connected stages begin
        self._storage = self._make_storage(access_log_retention, archive_days)
        self._ingest = self._make_ingest(road, record_usage_concurrency)
        self._billing = self._make_billing(ledger_epoch, stripe_rate, stripe_reads_a_month, streamed_from)
        self._checking = self._make_checking()
        self._portal = self._make_portal(portal_origins, portal_concurrency, stripe_portal_login)
        self._limiting = self._make_limiting(alerts_from, unpaid_days) if self._limits else None
        self._alarms = self._make_alarms()
        self._dashboard = self._make_dashboard()
        self._grant(alerts_from)
        self._tell(road, stripe_reads_a_month)
        self.node.add_validation(NoUsageLines(self, lambda: self.is_without_usage_lines))

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
        """Where and what a stage of an HTTP or WebSocket API must write; raise ValueError if the stack reads REST's."""
        return self._ingest.access_log_settings

    def meter_usage_lines(self, log_group: logs.ILogGroup) -> None:
        """Meter the usage lines that your own code writes into a log group.

        Whoever can write there can bill anyone. It takes one of the two subscription filters that a log group can have.
        Raises ValueError if no metric measures usage lines, and for the log groups on the way of a line itself: what
        ``record_usage`` writes would come back to it for ever.
        """
        if not reads_usage_lines(self._metrics):
            raise ValueError(
                "no metric measures usage lines: declare one first, for example Sum(name='tokens', of=USAGE_LINES)"
            )
        delivery, functions = self._ingest.delivery, self._functions.values()
        logs_of_functions = [function.log_group for function in functions]
        ours = [self._storage.access_log, *logs_of_functions, *([delivery.error_log] if delivery else [])]
        check_usage_log(log_group, ours, begins=self._vended)
        self.is_without_usage_lines = False
        self._ingest.subscribe(log_group)

    def compare_with(self, *, api: str, stage: str, kind: Api | None = None) -> None:
        """Compare what is counted with the requests of a stage that writes the access log, every hour.

        ``api`` is a REST API's name, or an HTTP API's id, as CloudWatch's metrics know it; a REST API whose name has no
        ASCII character is known by its id, too. APIs that share a name in one Region share their metrics. Of an API in
        another stack, which needs this one, write both as text. ``kind`` is the API's, where it is another than that of
        ``access_log``. Raises ValueError for a WebSocket API's stage: its lines stand beside no number of CloudWatch's.
        """
        kind = kind or self._access_log.api
        check_compared(kind)
        self._checking.compare_with(kind, api, stage)

    @property
    def access_table(self) -> dynamodb.TableV2 | None:
        """The table in which authorizers of HTTP APIs read who is closed; None where there are no limits."""
        return self._storage.access

    def slow_lane(self, api: apigateway.RestApi, *, rate: float = 1, burst: int = 1) -> apigateway.UsagePlan:
        """Give a REST API a usage plan for slowed customers, whose keys may then send ``rate`` requests a second.

        It is made in the API's stack, and covers the stage that the API is deployed to. Without one a customer is told
        of what would slow it, and not slowed. Raises ValueError where there are no limits.
        """
        check_slowing(self._access_log.api, has_limits=self._limits)
        return rest_limits.slow_lane(api, self.deployment, rate=rate, burst=burst)

    def explain_refusals(self, api: apigateway.RestApi, *, link: str | None = None) -> None:
        """Have a REST API answer calls that it refuses with a problem (RFC 9457) instead of ``Forbidden``.

        ``link`` is where people find out more; the customers' page, unless told otherwise.
        """
        rest_limits.explain_refusals(api, self._portal.url if link is None else link)

    @property
    def _vended(self) -> str:
        """How names of log groups begin into which CloudWatch Logs delivers itself, as it does HTTP APIs' logs.

        Under this prefix they need no line in the account's own resource policy, which can be full.
        """
        return f"/aws/vendedlogs/metering/{self.stack_name}/"

    def _make_storage(self, access_log_retention: logs.RetentionDays, archive_days: int) -> Storage:
        return Storage(
            self,
            vended=None if self._access_log.api.logs_by_role else self._vended,
            access_log_retention=access_log_retention,
            archive_days=archive_days,
            hashes=needs_hash(self._metrics),
            limits=self._limits,
        )

    def _make_ingest(self, road: Road, concurrency: int | None) -> Ingest:
        return Ingest(
            self,
            "Ingest",
            road=road,
            access_log=self._access_log,
            access_log_format=self._access_log.format(self._nonce, declared(self._metrics)),
            storage=self._storage,
            metrics=encode(self._metrics),
            nonces=self._nonces,
            connected_logs=self._connected_logs,
            deployment=self.deployment,
            size=self.sizes["record_usage"],
            concurrency=concurrency,
            local=self.local,
        )

    def _make_billing(
        self, ledger_epoch: int, stripe_rate: int, stripe_reads_a_month: int, streamed_from: str
    ) -> Billing:
        return Billing(
            self,
            "Billing",
            storage=self._storage,
            metrics=encode(self._metrics),
            ledger_epoch=ledger_epoch,
            stripe_api_base=self._stripe_api_base,
            stripe_rate=stripe_rate,
            stripe_reads_a_month=stripe_reads_a_month,
            streamed_from=streamed_from,
            limits=self._limits,
            sizes=self.sizes,
            deployment=self.deployment,
            local=self.local,
        )

    def _make_checking(self) -> Checking:
        return Checking(
            self,
            "Checking",
            storage=self._storage,
            delivery=self._ingest.delivery,
            deployment=self.deployment,
            size=self.sizes["check_completeness"],
            local=self.local,
        )

    def _make_portal(self, origins: Sequence[str], concurrency: int | None, stripe_portal_login: str) -> Portal:
        return Portal(
            self,
            "Portal",
            storage=self._storage,
            stripe_api_base=self._stripe_api_base,
            metrics=self._metrics,
            plans=self._plans,
            limits=self._limits,
            receive_events=self._billing.receive_events,
            origins=origins,
            stripe_portal_login=stripe_portal_login,
            sizes=self.sizes,
            concurrency=concurrency,
            deployment=self.deployment,
            local=self.local,
        )

    def _make_limiting(self, alerts_from: str, unpaid_days: int | None) -> Limiting:
        limiting = Limiting(
            self,
            "Limiting",
            storage=self._storage,
            api=self._access_log.api,
            declared=self._portal.declared,
            portal_url=self._portal.url,
            alerts_from=alerts_from,
            unpaid_days=unpaid_days,
            sizes=self.sizes,
            deployment=self.deployment,
            local=self.local,
        )
        self._portal.take_budgets(
            storage=self._storage,
            watch_limits=limiting.watch_limits,
            size=self.sizes["set_budget"],
            deployment=self.deployment,
            local=self.local,
        )
        return limiting

    def _make_alarms(self) -> Alarms:
        return Alarms(
            self,
            "Alarms",
            deployment=self.deployment,
            record_usage=self._ingest.record_usage,
            close_periods=self._billing.close_periods,
            reconcile_usage=self._billing.reconcile_usage,
            check_completeness=self._checking.check_completeness,
            show_usage=self._portal.show_usage,
            receive_events=self._billing.receive_events,
            customers_api=self._portal.api,
            delivery=self._ingest.delivery,
            limiting=self._limiting,
        )

    def _make_dashboard(self) -> Dashboard:
        return Dashboard(
            self,
            "Dashboard",
            deployment=self.deployment,
            alarms=self._alarms.all,
            functions=self._functions,
            record_usage=self._ingest.record_usage,
            delivery=self._ingest.delivery,
            limiting=self._limiting,
        )

    @property
    def _functions(self) -> dict[str, lambda_.Function]:
        return {
            "record_usage": self._ingest.record_usage,
            "close_periods": self._billing.close_periods,
            "post_usage": self._billing.post_usage,
            "reconcile_usage": self._billing.reconcile_usage,
            "receive_events": self._billing.receive_events,
            "check_completeness": self._checking.check_completeness,
            "show_usage": self._portal.show_usage,
            **({"set_budget": self._portal.set_budget} if self._portal.set_budget else {}),
            **(self._limiting.functions if self._limiting else {}),
        }

    def _grant(self, alerts_from: str) -> None:
        storage, billing = self._storage, self._billing
        grants.record_usage(self._ingest.record_usage, storage, takes_objects=self._ingest.delivery is not None)
        grants.close_periods(billing.close_periods, storage, post_usage=billing.post_usage)
        grants.post_usage(billing.post_usage, storage)
        grants.reconcile_usage(billing.reconcile_usage, storage)
        grants.receive_events(billing.receive_events, storage)
        grants.check_completeness(self._checking.check_completeness, storage)
        grants.show_usage(self._portal.show_usage, storage, portal_key=self._portal.secret)
        if limiting := self._limiting:
            set_budget, queue = cast("lambda_.Function", self._portal.set_budget), limiting.gate_queue
            grants.set_budget(set_budget, storage, portal_key=self._portal.secret, watch_limits=limiting.watch_limits)
            grants.watch_limits(limiting.watch_limits, storage, gate_queue=queue, alerts_from=alerts_from)
            grants.enforce_limits(limiting.enforce_limits, storage, gate_queue=queue, api=self._access_log.api)

    def _tell(self, road: Road, stripe_reads_a_month: int) -> None:
        """Write what the ``metering`` command reads."""
        delivery, storage = self._ingest.delivery, self._storage
        outputs = Outputs(
            counters_table=storage.counters.table_name,
            ledger_table=storage.ledger.table_name,
            access_table=storage.access.table_name if storage.access else None,
            bucket=storage.bucket.bucket_name,
            road=road.value,
            access_log_group=storage.access_log.log_group_name,
            connected_logs=self._connected_logs,
            notifications_url=self._portal.notifications_url,
            portal_url=self._portal.url,
            portal_secret=self._portal.secret.secret_arn,
            stripe_secret=storage.stripe_secret.ref,
            signing_secret=storage.signing_secret.ref,
            stripe_api_base=self._stripe_api_base,
            stripe_reads_a_month=str(stripe_reads_a_month),
            deployment=self.deployment,
            metrics=",".join(meters(self._metrics)),
            nonces=self._nonces,
            alarm_topic=self._alarms.topic.topic_arn,
            dashboard=self._dashboard.name,
            access_log_format=self._ingest.told_format,
            access_log_destination_arn=self._ingest.destination_arn,
            delivery_stream=delivery.stream.ref if delivery else None,
            failed_objects=delivery.failed.queue_url if delivery else None,
            gate_queue=self._limiting.gate_queue.queue_url if self._limiting else None,
            **{f"{name}_function": function.function_name for name, function in self._functions.items()},
        )
        tell(self, outputs, metrics=self._metrics, plans=self._plans, access_log=self._access_log)
        if delivery:
            # A stage of another stack imports the log group until it has changed over to this road, which its stack
            # does after this one; CloudFormation refuses to take away an export that is in use.
            self.export_value(storage.access_log.log_group_name)
