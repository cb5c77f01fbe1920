"""Limits: the function that notices, fed by the counters' stream and by a clock, and the one that acts at the gateway.

```
Counters ── stream ── watch_limits ── queue ── enforce_limits ── usage plans, or items that an authorizer reads
               clock ──┘
```
"""

from collections.abc import Mapping
from typing import Final, cast

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.stack import bundle
from infra.stack.clock import tick
from infra.stack.sizes import Size
from infra.stack.storage import Storage
from metering.model.log_format import Api
from metering.settings import EnforceLimitsSettings, WatchLimitsSettings

GATHERED_S: Final = 3
"""How long records of a shard are gathered before a run: with less, there are more runs.

With four shards, as a new table has, and something counted all the time, three seconds are 3.5 million runs a month,
$0.70 of requests. It is part of how late a limit acts.
"""

RECORDS_AT_ONCE: Final = 1000
"""Records of a run at most: with both images of items of a KB, about as much as Lambda hands over, 6 MB."""

TRIES_OF_A_BATCH: Final = 3
OLDEST_RECORD: Final = cdk.Duration.minutes(10)
"""A batch that fails is halved and tried so often; then its shard goes on. The sweep finds what it told, a minute or a
quarter of an hour to an hour later, so that nothing keeps what was given up."""

AT_ONCE: Final = 2
"""The fewest that SQS's event source takes; a lease holds the work to one (Lambda Developer Guide, "Scaling")."""

VISIBLE_AFTER: Final = 6
"""So many times as long as a run may take a message is hidden, as AWS recommends ("Using Lambda with Amazon SQS")."""


class Limiting(Construct):
    """Watches how much customers have used of their limits, and closes or opens their keys."""

    def __init__(  # noqa: PLR0913 - what its functions need, each by name
        self,
        scope: Construct,
        construct_id: str,
        *,
        storage: Storage,
        api: Api,
        declared: bytes,
        portal_url: str,
        alerts_from: str,
        unpaid_days: int | None,
        sizes: Mapping[str, Size],
        deployment: str,
        local: bool,
    ) -> None:
        super().__init__(scope, construct_id)
        access, enforcing = cast("dynamodb.TableV2", storage.access), sizes["enforce_limits"]
        self.gate_queue = self._queue(enforcing.timeout)
        self.watch_limits = bundle.function(
            self,
            "WatchLimits",
            module="watch_limits",
            local=local,
            settings=WatchLimitsSettings(
                counters_table=storage.counters.table_name,
                ledger_table=storage.ledger.table_name,
                access_table=access.table_name,
                deployment=deployment,
                gate_queue=self.gate_queue.queue_url,
                portal_url=portal_url,
                alerts_from=alerts_from,
                unpaid_days="" if unpaid_days is None else str(unpaid_days),
            ).environment(),
            deployment=deployment,
            size=sizes["watch_limits"],
            description="Looks how much customers have used of their limits, and says when one is reached.",
            more={"declared.json": declared},
        )
        self.enforce_limits = bundle.function(
            self,
            "EnforceLimits",
            module="enforce_limits",
            local=local,
            settings=EnforceLimitsSettings(
                ledger_table=storage.ledger.table_name,
                access_table=access.table_name,
                deployment=deployment,
                gate_queue=self.gate_queue.queue_url,
                api=api.value,
            ).environment(),
            deployment=deployment,
            size=enforcing,
            description="Closes and opens customers' keys at the gateway.",
        )
        self._watch(storage)
        self._wake()

    @property
    def functions(self) -> Mapping[str, lambda_.Function]:
        """Both functions, by their names."""
        return {"watch_limits": self.watch_limits, "enforce_limits": self.enforce_limits}

    def _watch(self, storage: Storage) -> None:
        """Bring what is counted from now on to the watcher, and wake it each minute to sweep."""
        lambda_.EventSourceMapping(
            self,
            "Counted",
            target=self.watch_limits,
            event_source_arn=storage.counters.table_stream_arn,
            # What was counted before is found by the first sweeps.
            starting_position=lambda_.StartingPosition.LATEST,
            # Records that the filter leaves out start nothing and cost nothing.
            filters=[
                lambda_.FilterCriteria.filter(
                    {
                        "eventName": lambda_.FilterRule.or_("INSERT", "MODIFY"),
                        "dynamodb": {"Keys": {"pk": {"S": lambda_.FilterRule.begins_with("hour#")}}},
                    }
                )
            ],
            batch_size=RECORDS_AT_ONCE,
            max_batching_window=cdk.Duration.seconds(GATHERED_S),
            parallelization_factor=1,
            retry_attempts=TRIES_OF_A_BATCH,
            max_record_age=OLDEST_RECORD,
            bisect_batch_on_error=True,
        )
        # A sweep that is lost or fails is made good by the next one, a minute later.
        self.watch_limits.configure_async_invoke(retry_attempts=0, max_event_age=cdk.Duration.minutes(1))
        tick(self, "EveryMinute", minute="*", function=self.watch_limits, role="Clock", event={"sweep": True})

    def _wake(self) -> None:
        """Start the worker with each message of the queue."""
        lambda_.EventSourceMapping(
            self,
            "Waking",
            target=self.enforce_limits,
            event_source_arn=self.gate_queue.queue_arn,
            batch_size=1,
            max_concurrency=AT_ONCE,
        )

    def _queue(self, timeout: int) -> sqs.Queue:
        """Return the queue that wakes the worker: what is to be done stands in the table, and no message says it.

        So a message that is lost costs a minute, until the sweep sends another, and one that fails is worth nothing.
        """
        queue = sqs.Queue(
            self,
            "Gate",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            visibility_timeout=cdk.Duration.seconds(VISIBLE_AFTER * timeout),
            retention_period=cdk.Duration.seconds(VISIBLE_AFTER * timeout),
        )
        cdk.Validations.of(queue).acknowledge(
            cdk.Acknowledgment(
                id="AwsSolutions-SQS3",
                reason="A message only wakes the worker, and the sweep sends another each minute while something is "
                "to be done: dead ones would say nothing. LimitsUnenforced tells of what is not done.",
            )
        )
        return queue
