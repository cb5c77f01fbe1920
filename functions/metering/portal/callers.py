"""Who asks: the customer whose token comes with a request."""

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any

from metering.portal.http import ProblemError, header
from metering.portal.tokens import Bearer, PortalKeys, TokenRefusedError, Use, verify


def check_token(event: Mapping[str, Any]) -> str:
    """Return the token that came with a request, unseen; raise ProblemError where there is none."""
    scheme, _, token = header(event, "authorization").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "a portal token is wanted, as 'Authorization: Bearer ...': ask whoever bills you for a new link",
            {"WWW-Authenticate": "Bearer"},
        )
    return token.strip()


def bearer_of(token: str, keys: PortalKeys, *, deployment: str, now: datetime, use: Use) -> Bearer:
    """Return whom a token is for; raise ProblemError if it opens nothing."""
    try:
        return verify(token, keys.of, deployment=deployment, now=now, use=use)
    except TokenRefusedError as error:
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            f"{error}: ask whoever bills you for a new link",
            {"WWW-Authenticate": 'Bearer error="invalid_token"'},
        ) from error
