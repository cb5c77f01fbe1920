"""From the counters to Stripe and back: the functions that close, post, reconcile and are notified; their clocks."""

from collections.abc import Mapping
from functools import partial

import aws_cdk as cdk
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.stack import bundle
from infra.stack.clock import tick
from infra.stack.sizes import Size
from infra.stack.storage import Storage
from metering.settings import ClosePeriodsSettings, PostUsageSettings, ReceiveEventsSettings, ReconcileUsageSettings


class Billing(Construct):
    """Every five minutes closes the hours that are due and posts their usage; every hour looks whether all is right.

    The settings are the stack's; with ``limits``, what these depend on is noted as well.
    """

    def __init__(  # noqa: PLR0913 - what its functions need, each by name
        self,
        scope: Construct,
        construct_id: str,
        *,
        storage: Storage,
        metrics: str,
        ledger_epoch: int,
        stripe_api_base: str,
        stripe_rate: int,
        stripe_reads_a_month: int,
        streamed_from: str,
        limits: bool,
        sizes: Mapping[str, Size],
        deployment: str,
        local: bool,
    ) -> None:
        super().__init__(scope, construct_id)
        self._storage, self._sizes, self._deployment = storage, sizes, deployment
        self._stripe_api_base, self._noted = stripe_api_base, "true" if limits else ""
        self._function = partial(bundle.function, self, deployment=deployment, local=local)
        self.post_usage = self._make_post_usage(ledger_epoch, stripe_rate, streamed_from)
        self.close_periods = self._make_close_periods(metrics)
        self.reconcile_usage = self._make_reconcile_usage(stripe_reads_a_month)
        self.receive_events = self._make_receive_events()
        # No retry of an event, no dead-letter queue: a run takes up whatever is due or pending, so that the next tick
        # makes good a lost or failed one, and a retry would only run beside it. What must not happen is that no tick
        # comes at all, and the alarm on ClosePeriodsErrors tells of that.
        for ticked in (self.close_periods, self.post_usage, self.reconcile_usage):
            ticked.configure_async_invoke(retry_attempts=0, max_event_age=cdk.Duration.minutes(5))
        # At ten past, too, when the grace of an hour has just passed.
        tick(self, "EveryFiveMinutes", minute="*/5", function=self.close_periods, role="Clock")
        tick(self, "EveryHour", minute="40", function=self.reconcile_usage, role="ReconcileClock")

    def _make_post_usage(self, ledger_epoch: int, stripe_rate: int, streamed_from: str) -> lambda_.Function:
        return self._function(
            "PostUsage",
            module="post_usage",
            size=self._sizes["post_usage"],
            settings=PostUsageSettings(
                counters_table=self._storage.counters.table_name,
                ledger_table=self._storage.ledger.table_name,
                deployment=self._deployment,
                ledger_epoch=str(ledger_epoch),
                stripe_secret=self._storage.stripe_secret.ref,
                stripe_api_base=self._stripe_api_base,
                stripe_rate=str(stripe_rate),
                streamed_from=streamed_from,
            ).environment(),
            description="Posts what the ledger holds to Stripe.",
        )

    def _make_close_periods(self, metrics: str) -> lambda_.Function:
        return self._function(
            "ClosePeriods",
            module="close_periods",
            size=self._sizes["close_periods"],
            settings=ClosePeriodsSettings(
                counters_table=self._storage.counters.table_name,
                ledger_table=self._storage.ledger.table_name,
                post_usage_function=self.post_usage.function_name,
                metrics=metrics,
                limits=self._noted,
            ).environment(),
            description="Closes the hours that are due into the ledger, and starts workers that post their usage.",
        )

    def _make_reconcile_usage(self, stripe_reads_a_month: int) -> lambda_.Function:
        return self._function(
            "ReconcileUsage",
            module="reconcile_usage",
            size=self._sizes["reconcile_usage"],
            settings=ReconcileUsageSettings(
                counters_table=self._storage.counters.table_name,
                ledger_table=self._storage.ledger.table_name,
                deployment=self._deployment,
                stripe_secret=self._storage.stripe_secret.ref,
                stripe_api_base=self._stripe_api_base,
                stripe_reads_a_month=str(stripe_reads_a_month),
                limits=self._noted,
            ).environment(),
            description="Compares Stripe and its invoices with the ledger, and mends what differs.",
        )

    def _make_receive_events(self) -> lambda_.Function:
        return self._function(
            "ReceiveEvents",
            module="receive_events",
            size=self._sizes["receive_events"],
            settings=ReceiveEventsSettings(
                ledger_table=self._storage.ledger.table_name,
                deployment=self._deployment,
                stripe_secret=self._storage.stripe_secret.ref,
                signing_secret=self._storage.signing_secret.ref,
                stripe_api_base=self._stripe_api_base,
                limits=self._noted,
            ).environment(),
            description="Takes Stripe's word about usage that it could not use.",
        )
