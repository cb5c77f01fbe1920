"""Lambda: a request to an HTTP API → whether its token is good and its caller is not stopped."""

import time
from datetime import UTC, datetime
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.limits.authorizing import Authorizer, IssuerKeys
from metering.settings import AuthorizeCallsSettings
from metering.stores import aws
from metering.stores.gate_list import GateList

logger = Logger()


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Answer API Gateway, which keeps it for some seconds."""
    return _authorizer().answer(event, datetime.now(UTC))


@cache
def _authorizer() -> Authorizer:
    settings = AuthorizeCallsSettings.read()
    return Authorizer(
        IssuerKeys(settings.issuer, time.monotonic),
        tuple(settings.audience.split()),
        settings.claim,
        GateList(aws.impatient_dynamodb(), settings.access_table),
        fails_open=bool(settings.fails_open),
    )
