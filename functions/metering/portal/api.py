"""The customers' API, and the page that it serves: what one customer used, and what it costs.

Every route is here, with what the OpenAPI document says of it. What a route works with comes in the request's context.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

import msgspec
from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, CORSConfig, Response
from aws_lambda_powertools.event_handler.openapi.params import Body, Query
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, Field

from metering.model.metrics import Count, Sum, scales_of
from metering.model.periods import Hour
from metering.model.subjects import LONGEST_ID, is_id
from metering.portal.answers import LinkAnswer, SessionAnswer, UsageAnswer
from metering.portal.callers import bearer_of, check_token
from metering.portal.document import PORTAL_TOKEN, declared, document, may_answer
from metering.portal.http import (
    ProblemError,
    built,
    check_body,
    check_query,
    etag_of,
    failed,
    finished,
    good,
    header,
    new_router,
    prefers_csv,
)
from metering.portal.http import application as application_of
from metering.portal.invoice_routes import invoice_routes
from metering.portal.limit_routes import limit_routes
from metering.portal.limits import NO_LIMITS
from metering.portal.lines import lines
from metering.portal.money_answers import PricesAnswer
from metering.portal.page import FILES, read
from metering.portal.parts import Parts
from metering.portal.queries import LESS, as_csv, check_bound, check_known, check_size, row, span
from metering.portal.reading import BY_KEY, By, Cells, Known
from metering.portal.tokens import LINK_LIFE, SESSION_LIFE, Bearer, Right, Use, issue
from metering.stores.table import TooMuchError

OPENAPI: Final = "/v1/openapi.json"
LINKS: Final = "/v1/links"
SESSION: Final = "/v1/session"
QUERIES: Final = {"/v1/usage": ("from", "to", "by", "metric", "dimension", "format")}
"""What may be asked by a query; of any other route nothing."""

OPEN_TO_ALL: Final = {*FILES, OPENAPI}

_WRITTEN: Final = r"^([0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2})?)?$"

logger = Logger(child=True)
routes = new_router()


def answer(
    event: dict[str, Any], context: LambdaContext, *, parts: Callable[[], Parts], cors: CORSConfig | None, now: datetime
) -> dict[str, Any]:
    """Answer a request; ``parts`` are made when one needs them. Who asks is known before anything else is looked at."""
    app = application(cors=cors)
    # The route, not the path, which a custom domain lets begin with a name of its own.
    method, _, path = event["routeKey"].partition(" ")
    base = event["rawPath"].removesuffix(path)
    try:
        needs_none = method == "OPTIONS" or path in OPEN_TO_ALL
        bearer = None if needs_none else _authenticated(event, path, parts, now)
        if method != "OPTIONS" and path not in FILES:  # whose address holds what the page shows
            check_query(event, QUERIES.get(path, ()))
        check_body(event)
        app.append_context(  # type: ignore[no-untyped-call]
            app=app, parts=parts, now=now, bearer=bearer, base=base, whole=event["rawPath"].endswith(path)
        )
        answered = app.resolve({**event, "rawPath": path}, context)
    except ProblemError as problem:
        answered = built(problem.response(), event)
    except Exception as error:  # noqa: BLE001 - the process's outermost edge
        answered = built(failed(error), event)
    return finished(answered, event, cors)


@lru_cache(maxsize=1)  # the routes tell what a request is about by the application that took them in last
def application(*, cors: CORSConfig | None) -> APIGatewayHttpResolver:
    """Return the routes as Powertools plays them; those of ``cors`` may call from browsers."""
    return application_of(cors, routes, invoice_routes, limit_routes)


def _parts() -> Parts:
    made: Parts = routes.context["parts"]()
    return made


def _bearer() -> Bearer:
    bearer: Bearer = routes.context["bearer"]
    return bearer


def _now() -> datetime:
    moment: datetime = routes.context["now"]
    return moment


def _authenticated(event: Mapping[str, Any], path: str, parts: Callable[[], Parts], now: datetime) -> Bearer | None:
    """Return whose token came with a request; None for the operator's own, which API Gateway has checked.

    Raises ProblemError for anybody else.
    """
    if path == LINKS:
        if not (event["requestContext"].get("authorizer") or {}).get("iam"):
            raise ProblemError(HTTPStatus.FORBIDDEN, "links are given out to callers that sign with AWS credentials")
        return None
    token = check_token(event)  # before anything is made to look at it with
    known = parts()
    use = Use.LINK if path == SESSION else Use.SESSION
    return bearer_of(token, known.keys, deployment=known.deployment, now=now, use=use)


_LINK_TOKEN: Final[list[dict[str, list[str]]]] = [{"linkToken": []}]


@routes.get(
    "/v1/usage",
    summary="What was used",
    operation_id="usage",
    security=PORTAL_TOKEN,
    responses=may_answer(UsageAnswer, HTTPStatus.UNAUTHORIZED),
)
def usage(  # noqa: PLR0913, PLR0917 - the query's parameters
    from_: Annotated[
        str, Query(alias="from", pattern=_WRITTEN, description="2026-11-01 or 2026-11-22T05, UTC; this month if empty")
    ] = "",
    to: Annotated[str, Query(pattern=_WRITTEN, description="the hour to stop before; the next hour if empty")] = "",
    by: Annotated[Literal["hour", "day", "month"], Query(description="the period to add up by")] = "day",
    metric: Annotated[str, Query(description="one metric; all if empty")] = "",
    dimension: Annotated[str, Query(description="'key', or the dimension of a metric; no split if empty")] = "",
    format_: Annotated[Literal["", "json", "csv"], Query(alias="format", description="by Accept if empty")] = "",
) -> Response[str]:
    """Return what the customer used, with how settled each quantity is."""
    parts, customer, now = _parts(), _bearer().customer, _now()
    first, end = span(from_, to, now)
    scales = scales_of(parts.metrics)
    dimensions = [BY_KEY, *sorted({one.by for one in parts.metrics if isinstance(one, Count | Sum) and one.by})]
    check_known("metric", metric, list(scales))
    check_known("dimension", dimension, dimensions)
    # What is asked is measured by what was declared; by key, by how many keys this customer has, too.
    check_bound(parts.bounds.most_hours(By(by), dimension=dimension, metric=metric), first, end)
    known = parts.reader.known(customer)
    check_bound(parts.bounds.most_hours(By(by), dimension=dimension, metric=metric, keys=known.keys), first, end)
    cells = _read(parts, known, first, end, by_key=dimension == BY_KEY)
    try:
        added = lines(cells, by=By(by), dimension=dimension or None, metrics=[metric] if metric else [])
    except TooMuchError as error:
        raise ProblemError(HTTPStatus.BAD_REQUEST, f"{error}: {LESS}") from error
    rows = [row(line, scales) for line in added]
    there = {line.value for line in added}
    names = {key: name for key, name in known.names.items() if dimension == BY_KEY and key in there}
    if format_ == "csv" or (not format_ and prefers_csv(header(routes.current_event.raw_event, "accept"))):
        name = f"usage-{re.sub('[^A-Za-z0-9._-]', '_', customer)}-{first}-{end}.csv"
        attachment = {"Content-Disposition": f'attachment; filename="{name}"'}
        return good(check_size(as_csv(rows, names)), "text/csv; charset=utf-8", attachment)
    shown: dict[str, Any] = {
        "customer": customer,
        "from": str(first),
        "to": str(end),
        "by": by,
        "dimension": dimension or None,
        "names": names,
        "usage": rows,
    }
    etag = etag_of(msgspec.json.encode(shown))  # of the usage: that it was looked at later is no difference
    as_of = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return good(check_size(msgspec.json.encode(shown | {"as_of": as_of}).decode()), headers={"ETag": etag})


def _read(parts: Parts, known: Known, first: Hour, end: Hour, *, by_key: bool) -> Cells:
    try:
        return parts.reader.read(known, first, end, now=_now(), by_key=by_key).cells
    except TooMuchError as error:
        sure = parts.bounds.sure_hours(known.keys, by_key=by_key)
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"{error}; {sure:,} hours are always answered by day or by month: {LESS}"
        ) from error


@routes.get(
    "/v1/prices",
    summary="The plans and the metrics",
    operation_id="prices",
    security=PORTAL_TOKEN,
    responses=may_answer(PricesAnswer, HTTPStatus.UNAUTHORIZED),
)
def prices() -> Response[str]:
    """Return the plans and metrics as they are declared, and how much this customer may ask for at once."""
    parts = _parts()
    keys = parts.reader.known(_bearer().customer).keys
    return good(declared(parts.plans, parts.metrics, keys))


class Wanted(BaseModel):
    """Whom a link is for, and for how many hours it is to open sessions, if ten minutes are too few.

    A session may look, and what is listed in ``may`` besides: set the customer's ``budget``.
    """

    customer: str = Field(min_length=1, max_length=LONGEST_ID)
    hours: int | None = Field(default=None, ge=1, le=24, strict=True)
    may: list[Literal["budget"]] = Field(default=[], max_length=len(Right))


@routes.post(
    LINKS,
    summary="Make a link for a customer (AWS Signature Version 4)",
    operation_id="link",
    security=[{"aws": []}],
    responses=may_answer(
        LinkAnswer,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ),
)
def link(wanted: Annotated[Wanted, Body()]) -> Response[str]:
    """Return a link to a customer's page, for the operator's own back end to hand on.

    It opens the page for ten minutes, or as many ``hours`` as are asked for.
    """
    parts = _parts()
    if not is_id(wanted.customer) or not parts.reader.ledger.holders.customers([wanted.customer]):
        raise ProblemError(HTTPStatus.NOT_FOUND, f"there is no customer {wanted.customer!r}")
    if wanted.may and parts.limits is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, NO_LIMITS)
    life = LINK_LIFE if wanted.hours is None else timedelta(hours=wanted.hours)
    token, ends = _issued(Bearer(wanted.customer, frozenset(map(Right, wanted.may))), life, Use.LINK)
    by = _caller(routes.current_event.raw_event)
    logger.info("link issued", customer=wanted.customer, may=wanted.may, by=by, until=ends)
    return _made({"url": f"{_base_url()}/#{token}", "expires_at": ends})


@routes.post(
    SESSION,
    summary="Open a session with a link's token",
    operation_id="session",
    security=_LINK_TOKEN,
    responses=may_answer(SessionAnswer, HTTPStatus.UNAUTHORIZED),
)
def session() -> Response[str]:
    """Return what shows the link's customer its usage for eight hours; the link itself shows none.

    The session may what the link may.
    """
    bearer = _bearer()
    token, ends = _issued(bearer, SESSION_LIFE, Use.SESSION)
    logger.info("session opened", customer=bearer.customer, until=ends)
    return _made({"customer": bearer.customer, "token": token, "expires_at": ends})


def _issued(bearer: Bearer, life: timedelta, use: Use) -> tuple[str, str]:
    parts = _parts()
    token, ends = issue(
        parts.keys.current(),
        deployment=parts.deployment,
        customer=bearer.customer,
        now=_now(),
        life=life,
        use=use,
        may=bearer.may,
    )
    return token, ends.strftime("%Y-%m-%dT%H:%M:%SZ")


def _made(answer: Mapping[str, str]) -> Response[str]:
    body = msgspec.json.encode(answer).decode()
    return Response(int(HTTPStatus.CREATED), "application/json", body, {"Cache-Control": "no-store"})


def _caller(event: Mapping[str, Any]) -> str:
    """Return the ARN of the role or user that signed a request, without its session, which often is a person (I8)."""
    arn = str(event["requestContext"]["authorizer"]["iam"].get("userArn", ""))
    return "/".join(arn.split("/")[:2]) if ":assumed-role/" in arn else arn


def _base_url() -> str:
    """Return the address under which this API was called, without a slash at its end."""
    return f"https://{routes.current_event.request_context.domain_name}{routes.context['base']}"


@routes.get(OPENAPI, summary="This document", operation_id="openapi", responses=may_answer(dict[str, Any]), security=[])
def openapi() -> Response[str]:
    """Return the API's OpenAPI document."""
    return good(document(routes.context["app"], _base_url()), headers={"Cache-Control": "no-cache"})


@routes.get("/", include_in_schema=False)
def page() -> Response[str]:
    """Return the page; where an address ends without the slash that its relative links need, lead to one."""
    if not routes.context["whole"]:
        return Response(int(HTTPStatus.PERMANENT_REDIRECT), body="", headers={"Location": f"{_base_url()}/"})
    return _file("/")


def _answer_file(path: str) -> None:
    """Answer with a file of the page where its path is asked for."""

    @routes.get(path, include_in_schema=False)
    def file() -> Response[str]:
        return _file(path)


for _path in FILES.keys() - {"/"}:
    _answer_file(_path)


def _file(path: str) -> Response[str]:
    name, media = FILES[path]
    return good(read(name), media, {"Cache-Control": "no-cache"})
