"""The routes of invoices in the customers' API: the running one, and those that were issued."""

from http import HTTPStatus
from typing import Final

import msgspec
from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import Response

from metering.portal.asking import NotSubscribedError
from metering.portal.document import PORTAL_TOKEN, may_answer
from metering.portal.history import AddingUpError
from metering.portal.http import ProblemError, etag_of, good, new_router
from metering.portal.money_answers import InvoiceAnswer, PastInvoicesAnswer
from metering.portal.parts import Parts
from metering.stores.table import TooMuchError
from metering.stripe.client import StripeRejectedError, StripeUnavailableError

RETRY_AFTER_S: Final = 10

logger = Logger(child=True)
invoice_routes = new_router()


def _parts() -> Parts:
    made: Parts = invoice_routes.context["parts"]()
    return made


def _customer() -> str:
    name: str = invoice_routes.context["bearer"].customer
    return name


@invoice_routes.get(
    "/v1/invoice",
    summary="What the running period costs",
    operation_id="invoice",
    security=PORTAL_TOKEN,
    responses=may_answer(InvoiceAnswer, HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
)
def invoice() -> Response[str]:
    """Return what the running period costs so far, as a forecast, and by Stripe's own preview."""
    try:
        charged = _parts().charges.invoice(_customer(), now=invoice_routes.context["now"])
    except NotSubscribedError as error:
        raise _not_subscribed() from error
    except (StripeUnavailableError, StripeRejectedError) as error:
        raise _no_answer(error, "the prices of the subscription") from error
    except AddingUpError as error:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error), {"Retry-After": "1"}) from error
    except TooMuchError as error:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, f"the period cannot be added up: {error}") from error
    return good(msgspec.json.encode(charged).decode())


@invoice_routes.get(
    "/v1/invoices",
    summary="What was invoiced",
    operation_id="invoices",
    security=PORTAL_TOKEN,
    responses=may_answer(
        PastInvoicesAnswer, HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE
    ),
)
def invoices() -> Response[str]:
    """Return the invoices that Stripe has issued, with where each can be looked at and paid, and where one pays."""
    try:
        shown = _parts().past_invoices.shown(_customer(), invoice_routes.context["now"])
    except NotSubscribedError as error:
        raise _not_subscribed() from error
    except (StripeUnavailableError, StripeRejectedError) as error:
        raise _no_answer(error, "the invoices") from error
    etag = etag_of(msgspec.json.encode({name: shown[name] for name in shown if name != "as_of"}))
    # Whoever has an invoice's address sees the invoice: not even the browser is to keep one.
    return good(msgspec.json.encode(shown).decode(), headers={"ETag": etag, "Cache-Control": "no-store"})


def _not_subscribed() -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, "there is no subscription to a plan, so that nothing is invoiced")


def _no_answer(error: Exception, what: str) -> ProblemError:
    logger.warning("Stripe gave no answer", error=type(error).__name__)
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"Stripe, which keeps {what}, does not answer now: try again",
        {"Retry-After": str(RETRY_AFTER_S)},
    )
