"""Completeness: the clock and ``check_completeness``, which compares what was written with what was counted."""

import dataclasses

import aws_cdk as cdk
from constructs import Construct

from infra.stack import bundle
from infra.stack.clock import tick
from infra.stack.delivery import Delivery
from infra.stack.sizes import Size
from infra.stack.storage import Storage
from metering.model.log_format import Api
from metering.model.stages import Stage, encode
from metering.settings import CheckCompletenessSettings


class Checking(Construct):
    """Compares every hour the lines that were counted with those that were written, and with the stages' requests."""

    def __init__(  # noqa: PLR0913 - each by name
        self,
        scope: Construct,
        construct_id: str,
        *,
        storage: Storage,
        delivery: Delivery | None,
        deployment: str,
        size: Size,
        local: bool,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings = settings = CheckCompletenessSettings(
            counters_table=storage.counters.table_name,
            ledger_table=storage.ledger.table_name,
            deployment=deployment,
            access_log_group=storage.access_log.log_group_name,
            delivery_stream=delivery.stream.ref if delivery else "",
        )
        self._stages: list[Stage] = []
        self.check_completeness = bundle.function(
            self,
            "CheckCompleteness",
            module="check_completeness",
            local=local,
            settings=settings.environment(),
            deployment=deployment,
            size=size,
            description="Compares what was counted with what was written into the access log, and with the requests.",
        )
        # A lost or failed run is made good by the next one, which looks at nearly the same day.
        self.check_completeness.configure_async_invoke(retry_attempts=0, max_event_age=cdk.Duration.minutes(5))
        tick(self, "EveryHour", minute="20", function=self.check_completeness, role="Clock")

    def compare_with(self, kind: Api, api: str, stage: str) -> None:
        """Compare with the requests of one more stage.

        CloudWatch takes out of a REST API's name what is not ASCII, and knows one of which nothing is left by its id
        (API Gateway Developer Guide, "Dimensions and metrics"). Raises ValueError for such a name.
        """
        known_as = api if cdk.Token.is_unresolved(api) else api.encode("ascii", "ignore").decode()
        if not known_as:
            raise ValueError(
                f"CloudWatch knows an API by its id if its name has no ASCII character: give that, got {api!r}"
            )
        self._stages.append(Stage(kind, known_as, stage))
        with_stages = dataclasses.replace(self._settings, stages=encode(self._stages))
        for name, value in with_stages.environment().items():
            self.check_completeness.add_environment(name, value)
