"""Lambda behind an HTTP API: the budget that a customer gives itself. It may write nothing else."""

import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import CORSConfig
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.model.declared import Declared
from metering.portal import budget
from metering.portal.http import cors_of
from metering.portal.tokens import PortalKeys
from metering.settings import SetBudgetSettings
from metering.stores import aws
from metering.stores.limits import LimitItems

DECLARED: Final = Path(__file__).with_name("declared.json")
"""What ``app.py`` declares."""

logger = Logger()


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer a request."""
    return budget.answer(event, context, budgets=_budgets, cors=_cors(), now=_clock())


def _clock() -> datetime:
    return datetime.now(UTC)


@cache
def _budgets() -> budget.Budgets:
    settings = SetBudgetSettings.read()
    keys = PortalKeys(aws.secrets(), settings.portal_secret, time.monotonic)
    items = LimitItems(aws.dynamodb(), settings.ledger_table)
    return budget.Budgets(
        settings.deployment,
        keys,
        items,
        Declared.read(DECLARED.read_bytes()).plans,
        aws.functions(),
        settings.watch_limits_function,
    )


@cache
def _cors() -> CORSConfig | None:
    return cors_of(SetBudgetSettings.read().portal_origins)
