"""Lambda behind a URL: Stripe's notifications → totals that it could not use are marked."""

import base64
import binascii
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.billing.receiving import Receiver
from metering.billing.rejections import tell_rejected
from metering.settings import ReceiveEventsSettings
from metering.signals import Signal
from metering.stores import aws
from metering.stores.ledger import Ledger
from metering.stripe.client import key_from, webhook_secret_from
from metering.stripe.meters import StripeMeters
from metering.stripe.webhooks import RefusedError, Webhooks

logger = Logger()
signals = Metrics()


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Answer 200 to a notification that was dealt with, 400 to anything else; an error, so that it comes again."""
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    try:
        refused = _receiver().receive(_body(event), headers.get("stripe-signature", ""))
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
    meters = StripeMeters(key_from(secrets, settings.stripe_secret), settings.deployment, settings.stripe_api_base)
    webhooks = Webhooks(meters, webhook_secret_from(secrets, settings.stripe_secret))
    return Receiver(Ledger(aws.dynamodb(), settings.ledger_table), webhooks)
