"""The routes of limits in the customers' API."""

from http import HTTPStatus
from typing import Annotated

import msgspec
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body

from metering.portal.answers import BudgetAnswer, LimitsAnswer
from metering.portal.budget import BUDGET, WantedBudget
from metering.portal.document import PORTAL_TOKEN, may_answer
from metering.portal.history import AddingUpError
from metering.portal.http import ProblemError, etag_of, good, new_router
from metering.portal.limits import NO_LIMITS
from metering.portal.parts import Parts
from metering.stores.table import TooMuchError

limit_routes = new_router()


@limit_routes.get(
    "/v1/limits",
    summary="What is left, and whether calls are let in",
    operation_id="limits",
    security=PORTAL_TOKEN,
    responses=may_answer(LimitsAnswer, HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
)
def limits() -> Response[str]:
    """Return how the customer stands with each of its limits, its budget, and why its access is closed, if it is.

    For callers that ask before they send: send the ETag, and nothing comes back while nothing has changed.
    """
    parts: Parts = limit_routes.context["parts"]()
    if parts.limits is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, NO_LIMITS)
    now = limit_routes.context["now"]
    try:
        shown = parts.limits.of(limit_routes.context["bearer"], now)
    except AddingUpError as error:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error), {"Retry-After": "1"}) from error
    except TooMuchError as error:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, f"the limits cannot be added up: {error}") from error
    etag = etag_of(msgspec.json.encode(shown))  # that they were looked at later is no difference
    as_of = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return good(msgspec.json.encode(shown | {"as_of": as_of}).decode(), headers={"ETag": etag})


@limit_routes.put(
    BUDGET,
    summary="Set the budget",
    operation_id="budget",
    security=PORTAL_TOKEN,
    responses=may_answer(
        BudgetAnswer,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
)
def budget(wanted: Annotated[WantedBudget, Body()]) -> Response[str]:  # noqa: ARG001 - only described here
    """Set the whole budget of the running period, with a session that may; it is looked at at once.

    ``notify`` tells at an amount, ``stop`` stops at one, where the plan lets customers do so, and never above the limit
    at which the plan stops. Null is none. Whoever sets it last has meant it.
    """
    # A function of its own answers where there are limits, which may write; this is for where there are none.
    raise ProblemError(HTTPStatus.NOT_FOUND, NO_LIMITS)
