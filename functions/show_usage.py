"""Lambda behind an HTTP API: what one customer used, what it costs, and the page that shows both."""

import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import CORSConfig
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.model.declared import Declared
from metering.portal import api
from metering.portal.agreements import Agreements
from metering.portal.asking import Break
from metering.portal.bounds import Bounds
from metering.portal.charges import Charges
from metering.portal.history import History
from metering.portal.http import cors_of
from metering.portal.limits import Limits
from metering.portal.parts import Parts
from metering.portal.past_invoices import PastInvoices
from metering.portal.reading import UsageReader
from metering.portal.tokens import PortalKeys
from metering.settings import ShowUsageSettings
from metering.stores import aws
from metering.stores.limits import LimitItems
from metering.stripe.client import StripeAccount, key_from

DECLARED: Final = Path(__file__).with_name("declared.json")
"""What ``app.py`` declares."""

logger = Logger()


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer a request."""
    return api.answer(event, context, parts=_parts, cors=_cors(), now=_clock())


def _clock() -> datetime:
    return datetime.now(UTC)


@cache
def _parts() -> Parts:
    settings = ShowUsageSettings.read()
    declared = Declared.read(DECLARED.read_bytes())
    bounds = Bounds(declared.metrics)
    reader = UsageReader.of(aws.dynamodb(), settings.counters_table, settings.ledger_table, distinct=bounds.distinct)
    stripe_key = key_from(SecretsProvider(boto3_client=aws.secrets()), settings.stripe_secret)
    stripe = StripeAccount(stripe_key, settings.deployment, settings.stripe_api_base, somebody_waits=True)
    history = History(reader, bounds.most_hours(), bounds.sure_hours(), time.monotonic)
    pause = Break()
    agreements = Agreements(reader.ledger.holders, stripe, time.monotonic, pause)
    past = PastInvoices(
        reader.ledger.holders, stripe, time.monotonic, pause, stripe_portal_login=settings.stripe_portal_login
    )
    charges = Charges(agreements, history, declared.metrics, declared.plans)
    items = LimitItems(aws.dynamodb(), settings.ledger_table)
    limits = Limits(items, history, declared.metrics, declared.plans) if settings.limits else None
    keys = PortalKeys(aws.secrets(), settings.portal_secret, time.monotonic)
    return Parts(settings.deployment, keys, reader, charges, past, declared.metrics, declared.plans, limits)


@cache
def _cors() -> CORSConfig | None:
    return cors_of(ShowUsageSettings.read().portal_origins)
