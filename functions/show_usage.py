"""Lambda behind an HTTP API: what one customer used, what it costs, and the page that shows both."""

import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import CORSConfig
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.model.metrics import Metric
from metering.model.prices import Plan
from metering.portal import api
from metering.portal.agreements import Agreements
from metering.portal.bounds import Bounds
from metering.portal.charges import Charges
from metering.portal.history import History
from metering.portal.reading import UsageReader
from metering.portal.tokens import PortalKeys
from metering.settings import ShowUsageSettings
from metering.stores import aws
from metering.stripe.client import StripeAccount, key_from

DECLARED: Final = Path(__file__).with_name("declared.json")
"""What ``app.py`` declares; it is in this function's zip alone."""

logger = Logger()


class Declared(msgspec.Struct, frozen=True):
    """The file :data:`DECLARED`."""

    metrics: tuple[Metric, ...]
    plans: tuple[Plan, ...]


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer a request."""
    return api.answer(event, context, parts=_parts, cors=_cors(), now=_clock())


def _clock() -> datetime:
    return datetime.now(UTC)


@cache
def _parts() -> api.Parts:
    settings = ShowUsageSettings.read()
    declared = msgspec.json.decode(DECLARED.read_bytes(), type=Declared)
    bounds = Bounds(declared.metrics)
    reader = UsageReader.of(aws.dynamodb(), settings.counters_table, settings.ledger_table, distinct=bounds.distinct)
    stripe_key = key_from(SecretsProvider(boto3_client=aws.secrets()), settings.stripe_secret)
    stripe = StripeAccount(stripe_key, settings.deployment, settings.stripe_api_base, somebody_waits=True)
    charges = Charges(
        Agreements(reader.ledger.holders, stripe, time.monotonic),
        History(reader, bounds.most_hours(), bounds.sure_hours(), time.monotonic),
        declared.metrics,
        declared.plans,
    )
    keys = PortalKeys(aws.secrets(), settings.portal_secret, time.monotonic)
    return api.Parts(settings.deployment, keys, reader, charges, declared.metrics, declared.plans)


@cache
def _cors() -> CORSConfig | None:
    """Return which other origins' pages may call; never all."""
    first, *others = ShowUsageSettings.read().portal_origins.split() or [""]
    if not first:
        return None
    return CORSConfig(
        first, others, allow_headers=["If-None-Match"], expose_headers=["ETag", "Retry-After"], max_age=600
    )
