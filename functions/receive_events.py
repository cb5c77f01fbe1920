"""Lambda behind ``POST /v1/notifications``: Stripe's notifications → totals that it could not use are marked.

And, where there are limits, what customers are subscribed to is written down.
"""

import base64
import binascii
from datetime import UTC, datetime
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.billing.keeping import Keeper
from metering.billing.receiving import Receiver
from metering.billing.rejections import tell_rejected
from metering.settings import ReceiveEventsSettings
from metering.signals import Signal
from metering.stores import aws
from metering.stores.ledger import Ledger
from metering.stores.limits import LimitItems
from metering.stripe.client import key_from, signing_secret_from
from metering.stripe.meters import StripeMeters
from metering.stripe.subscriptions import Offers
from metering.stripe.webhooks import LARGEST_BODY, RefusedError, Webhooks

_LONGEST_TEXT = 4 * LARGEST_BODY // 3 + 4
"""Of a body in base64; what is longer is not even decoded."""

logger = Logger()
signals = Metrics()


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Answer 200 to whatever Stripe signed, 400 to anything else; an error, so that a notification comes again."""
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    try:
        refused = _receiver().receive(_body(event), headers.get("stripe-signature") or "")
    except RefusedError as error:
        logger.warning("request refused", reason=str(error))
        _tell(Signal.NOTIFICATIONS_REFUSED, 1)
        return {"statusCode": 400, "body": "refused"}
    if refused:
        _tell(Signal.USAGE_REJECTED, len(refused))
        tell_rejected(refused, _receiver().ledger.holders)
    return {"statusCode": 200, "body": "ok"}


def _body(event: dict[str, Any]) -> bytes:
    """Return a request's body as it was sent: the signature is of its bytes."""
    body = event.get("body") or ""
    if len(body) > _LONGEST_TEXT:
        raise RefusedError(f"a body of at most {LARGEST_BODY} bytes was expected, got more")
    if not event.get("isBase64Encoded"):
        try:
            return str(body).encode()
        except UnicodeEncodeError as error:  # JSON writes halves of characters, too
            raise RefusedError("a body of whole characters was expected") from error
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError("a body in base64 was announced") from error


def _tell(signal: Signal, count: int) -> None:
    signals.add_metric(signal, MetricUnit.Count, count)
    signals.flush_metrics()


@cache
def _receiver() -> Receiver:
    settings = ReceiveEventsSettings.read()
    secrets = SecretsProvider(boto3_client=aws.secrets())
    key = key_from(secrets, settings.stripe_secret)
    meters = StripeMeters(key, settings.deployment, settings.stripe_api_base, somebody_waits=True)
    webhooks = Webhooks(meters, signing_secret_from(secrets, settings.signing_secret, settings.stripe_secret))
    dynamodb = aws.dynamodb()
    limits = LimitItems(dynamodb, settings.ledger_table) if settings.limits else None
    keeper = Keeper(limits, Offers(meters), lambda: datetime.now(UTC)) if limits else None
    return Receiver(Ledger(dynamodb, settings.ledger_table), webhooks, keeper)
