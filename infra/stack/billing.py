"""From the counters to Stripe and back: the functions that close, post, reconcile and are notified; their clocks."""

from collections.abc import Mapping
from functools import partial

import aws_cdk as cdk
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
        counters, ledger = storage.counters.table_name, storage.ledger.table_name
        stripe_secret, noted = storage.stripe_secret.ref, "true" if limits else ""
        function = partial(bundle.function, self, deployment=deployment, local=local)
        self.post_usage = function(
            "PostUsage",
            module="post_usage",
            size=sizes["post_usage"],
            settings=PostUsageSettings(
                counters_table=counters,
                ledger_table=ledger,
                deployment=deployment,
                ledger_epoch=str(ledger_epoch),
                stripe_secret=stripe_secret,
                stripe_api_base=stripe_api_base,
                stripe_rate=str(stripe_rate),
                streamed_from=streamed_from,
            ).environment(),
            description="Posts what the ledger holds to Stripe.",
        )
        self.close_periods = function(
            "ClosePeriods",
            module="close_periods",
            size=sizes["close_periods"],
            settings=ClosePeriodsSettings(
                counters_table=counters,
                ledger_table=ledger,
                post_usage_function=self.post_usage.function_name,
                metrics=metrics,
                limits=noted,
            ).environment(),
            description="Closes the hours that are due into the ledger, and starts workers that post their usage.",
        )
        self.reconcile_usage = function(
            "ReconcileUsage",
            module="reconcile_usage",
            size=sizes["reconcile_usage"],
            settings=ReconcileUsageSettings(
                counters_table=counters,
                ledger_table=ledger,
                deployment=deployment,
                stripe_secret=stripe_secret,
                stripe_api_base=stripe_api_base,
                stripe_reads_a_month=str(stripe_reads_a_month),
                limits=noted,
            ).environment(),
            description="Compares Stripe and its invoices with the ledger, and mends what differs.",
        )
        self.receive_events = function(
            "ReceiveEvents",
            module="receive_events",
            size=sizes["receive_events"],
            settings=ReceiveEventsSettings(
                ledger_table=ledger,
                deployment=deployment,
                stripe_secret=stripe_secret,
                signing_secret=storage.signing_secret.ref,
                stripe_api_base=stripe_api_base,
                limits=noted,
            ).environment(),
            description="Takes Stripe's word about usage that it could not use.",
        )
        # No retry of an event, no dead-letter queue: a run takes up whatever is due or pending, so that the next tick
        # makes good a lost or failed one, and a retry would only run beside it. What must not happen is that no tick
        # comes at all, and the alarm on ClosePeriodsErrors tells of that.
        for ticked in (self.close_periods, self.post_usage, self.reconcile_usage):
            ticked.configure_async_invoke(retry_attempts=0, max_event_age=cdk.Duration.minutes(5))
        # At ten past, too, when the grace of an hour has just passed.
        tick(self, "EveryFiveMinutes", minute="*/5", function=self.close_periods, role="Clock")
        tick(self, "EveryHour", minute="40", function=self.reconcile_usage, role="ReconcileClock")
