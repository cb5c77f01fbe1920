"""Lambda: who is asked for at the gate → usage plans, or items that authorizers read."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.limits.asking import Asking
from metering.limits.gate import Gate
from metering.limits.keys import CallerKeys, Keys, PlanKeys
from metering.limits.telling import access_events, put_events
from metering.limits.usage_plans import UsagePlans
from metering.model.limits import Reason
from metering.model.log_format import Api
from metering.settings import EnforceLimitsSettings
from metering.stores import aws
from metering.stores.connections import Connections
from metering.stores.gate_list import GateList
from metering.stores.holders import Holders
from metering.stores.limits import Gate as Stands
from metering.stores.limits import LimitItems

logger = Logger()

MARGIN: Final = timedelta(seconds=45)
"""No key is begun so shortly before the end: as long as one takes that API Gateway wants fewer calls for."""


@logger.inject_lambda_context
def handler(_event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Bring everybody who is asked for, whatever the message says: it only wakes. What is left goes on in a new run."""
    until = _clock() + timedelta(milliseconds=context.get_remaining_time_in_millis()) - MARGIN
    ran = _gate().run(context.aws_request_id, until)
    told: dict[str, Any] = {"brought": ran.brought, "failed": len(ran.failed), "left": ran.left}
    logger.info("run finished", **told)
    if ran.left:
        settings = EnforceLimitsSettings.read()
        Asking(_list(settings), aws.queues(), settings.gate_queue).wake()
    return told


def _clock() -> datetime:
    return datetime.now(UTC)


def _list(settings: EnforceLimitsSettings) -> GateList:
    return GateList(aws.dynamodb(), settings.access_table)


@cache
def _gate() -> Gate:
    settings, dynamodb = EnforceLimitsSettings.read(), aws.dynamodb()
    asked = _list(settings)
    connections = Connections(dynamodb, settings.ledger_table)
    keys: Keys = (
        PlanKeys(UsagePlans(aws.apigateway()), settings.deployment, CallerKeys(asked))
        if Api(settings.api).bills_by_key
        else CallerKeys(asked, connections.has_caller)
    )

    def tell(name: str, reasons: Sequence[Reason], stands: Stands) -> bool:
        events = access_events(settings.deployment, name, reasons, stands)
        return len(put_events(aws.events(), events)) == len(events)

    limits = LimitItems(dynamodb, settings.ledger_table)
    return Gate(limits, Holders(dynamodb, settings.ledger_table), keys, _clock, asked, tell)
