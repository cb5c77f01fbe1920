"""Lambda behind an HTTP API: what one customer used, what it costs, and the page that shows both."""

import csv
import io
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, CORSConfig, Response
from aws_lambda_powertools.event_handler.api_gateway import ResponseBuilder
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.openapi.exceptions import RequestUnsupportedContentType, RequestValidationError
from aws_lambda_powertools.event_handler.openapi.models import HTTPBase, HTTPBearer, Server
from aws_lambda_powertools.event_handler.openapi.params import Body, Query
from aws_lambda_powertools.event_handler.router import APIGatewayHttpRouter
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEventV2
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import ClientError
from pydantic import BaseModel, Field

from metering.model.metrics import Count, Max, Metric, Sum, meters_of, unit_of
from metering.model.periods import Hour
from metering.model.prices import Plan, decimals_of
from metering.model.subjects import CUSTOMER_ID_PATTERN
from metering.portal.answers import InvoiceAnswer, LinkAnswer, PricesAnswer, Problem, UsageAnswer
from metering.portal.charges import Charges, NotSubscribedError, scales_of, terms_of
from metering.portal.http import ProblemError, etag_of, finished, good, header
from metering.portal.page import FILES
from metering.portal.reading import BY_KEY, By, Line, UsageReader, lines
from metering.portal.tokens import PortalKeys, TokenRefusedError, issue, verify
from metering.settings import ShowUsageSettings
from metering.stores import aws
from metering.stripe.client import StripeRejectedError, StripeUnavailableError, key_from
from metering.stripe.meters import StripeMeters

HERE: Final = Path(__file__).parent
DECLARED: Final = HERE / "declared.json"
"""What ``app.py`` declares; it is in this function's zip alone."""

LONGEST_RANGE: Final = timedelta(days=366)
MOST_LINES: Final = 30_000
"""Lines in one answer: as many as fit into what a Lambda may return, 6 MB."""

RETRY_AFTER_S: Final = 10

OPENAPI: Final = "/v1/openapi.json"
LINKS: Final = "/v1/links"
OPEN_TO_ALL: Final = {*FILES, OPENAPI}

_FIRST_YEAR: Final = 2020
_LAST_YEAR: Final = 2100
_WRITTEN: Final = r"^([0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2})?)?$"
_LONGEST_SHOWN: Final = 80

logger = Logger()
routes = APIGatewayHttpRouter()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the function works with, made once in a process."""

    settings: ShowUsageSettings
    keys: PortalKeys
    reader: UsageReader
    charges: Charges
    metrics: tuple[Metric, ...]
    plans: tuple[Plan, ...]


class Declared(msgspec.Struct, frozen=True):
    """The file :data:`DECLARED`."""

    metrics: tuple[Metric, ...]
    plans: tuple[Plan, ...]


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer a request. Who asks is known before anything else is looked at."""
    app = _app()
    # The route, not the path, which a custom domain lets begin with a name of its own.
    method, _, path = event["routeKey"].partition(" ")
    base = event["rawPath"].removesuffix(path)
    try:
        customer = None if method == "OPTIONS" or path in OPEN_TO_ALL else _authenticated(event, path)
        app.append_context(customer=customer, base=base, whole=event["rawPath"].endswith(path))  # type: ignore[no-untyped-call]
        answer = app.resolve({**event, "rawPath": path}, context)
    except ProblemError as problem:
        answer = _built(problem.response(), event)
    except Exception as error:  # noqa: BLE001 - the process's outermost edge
        answer = _built(_failed(error), event)
    return finished(answer, event, _cors())


def _built(response: Response[str], event: dict[str, Any]) -> dict[str, Any]:
    """Return an answer in API Gateway's form."""
    builder: ResponseBuilder[Any] = ResponseBuilder(response)
    return builder.build(APIGatewayProxyEventV2(event))


def _authenticated(event: Mapping[str, Any], path: str) -> str | None:
    """Return the customer whose token came with a request; None for the operator's own, which API Gateway has checked.

    Raises ProblemError for anybody else.
    """
    if path == LINKS:
        if not (event["requestContext"].get("authorizer") or {}).get("iam"):
            raise ProblemError(HTTPStatus.FORBIDDEN, "links are given out to callers that sign with AWS credentials")
        return None
    scheme, _, token = header(event, "authorization").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "a portal token is wanted, as 'Authorization: Bearer ...': ask whoever bills you for a new link",
            {"WWW-Authenticate": "Bearer"},
        )
    parts = _parts()
    try:
        return verify(token.strip(), parts.keys.of, deployment=parts.settings.deployment, now=_clock())
    except TokenRefusedError as error:
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            f"{error}: ask whoever bills you for a new link",
            {"WWW-Authenticate": 'Bearer error="invalid_token"'},
        ) from error


def _may_answer(answer: Any, *statuses: HTTPStatus, media: str = "application/json") -> Any:
    """Return an operation's answers for the OpenAPI document; ``statuses`` are problems."""
    good = HTTPStatus.CREATED if answer is LinkAnswer else HTTPStatus.OK
    content: dict[str, Any] = {media: {"model": answer}}
    if answer is UsageAnswer:
        content["text/csv"] = {"schema": {"type": "string"}}
    return {int(good): {"description": good.phrase, "content": content}} | {
        int(status): {"description": status.phrase, "content": {"application/problem+json": {"model": Problem}}}
        for status in statuses
    }


_TOKEN: Final[list[dict[str, list[str]]]] = [{"portalToken": []}]


@routes.get(
    "/v1/usage",
    summary="What was used",
    operation_id="usage",
    security=_TOKEN,
    responses=_may_answer(UsageAnswer, HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED),
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
    parts, customer, now = _parts(), routes.context["customer"], _clock()
    first, end = _range(from_, to, now)
    scales = scales_of(parts.metrics)
    dimensions = [BY_KEY, *sorted({one.by for one in parts.metrics if isinstance(one, Count | Sum) and one.by})]
    _check_known("metric", metric, list(scales))
    _check_known("dimension", dimension, dimensions)
    read = parts.reader.read(customer, first, end, now=now, by_key=dimension == BY_KEY)
    found = lines(read.cells, by=By(by), dimension=dimension or None, metrics=[metric] if metric else [])
    if len(found) > MOST_LINES:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            f"an answer holds {MOST_LINES:,} lines at most, and this one would hold {len(found):,}: "
            "ask for less time, for a longer period in by, or for one metric",
        )
    rows = [_row(line, scales) for line in found]
    if format_ == "csv" or (not format_ and "text/csv" in header(routes.current_event.raw_event, "accept")):
        name = f"usage-{customer}-{first}-{end}.csv"
        return good(_csv(rows), "text/csv; charset=utf-8", {"Content-Disposition": f'attachment; filename="{name}"'})
    shown = {
        "customer": customer,
        "from": str(first),
        "to": str(end),
        "by": by,
        "dimension": dimension or None,
        "usage": rows,
    }
    etag = etag_of(msgspec.json.encode(shown))  # of the usage: that it was looked at later is no difference
    as_of = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return good(msgspec.json.encode(shown | {"as_of": as_of}).decode(), headers={"ETag": etag})


def _range(from_: str, to: str, now: datetime) -> tuple[Hour, Hour]:
    this_hour = Hour.containing(now)
    first = _hour("from", from_) if from_ else this_hour.month_begin
    end = _hour("to", to) if to else this_hour.next()
    if first >= end:
        raise ProblemError(HTTPStatus.BAD_REQUEST, f"from must be before to; got {first} and {end}")
    if end.start - first.start > LONGEST_RANGE:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            f"from and to must be {LONGEST_RANGE.days} days apart at most; got {first} and {end}",
        )
    return first, end


def _hour(name: str, text: str) -> Hour:
    try:
        found = Hour.parse(text if "T" in text else f"{text}T00")
    except ValueError as error:  # a month or day that there is not
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"{name} must be a date or hour that exists; got {text!r}"
        ) from error
    if not _FIRST_YEAR <= found.start.year < _LAST_YEAR:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"{name} must be from {_FIRST_YEAR} on and before {_LAST_YEAR}; got {text!r}"
        )
    return found


def _check_known(name: str, given: str, known: Sequence[str]) -> None:
    if given and given not in known:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"{name} must be one of {', '.join(known)}; got {given[:_LONGEST_SHOWN]!r}"
        )


def _row(line: Line, scales: Mapping[str, int]) -> dict[str, Any]:
    return {
        "period": line.period,
        "metric": line.metric,
        "value": line.value,
        "quantity": line.quantity,
        "scale": scales.get(line.metric, 0),
        "state": line.standing.name.lower(),
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    written = io.StringIO()
    table = csv.writer(written)
    table.writerow(("period", "metric", "value", "quantity", "scale", "state"))
    for row in rows:
        value = row["value"] or ""
        # What a spreadsheet would take for a formula, it is to take for text.
        shown = f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
        table.writerow({**row, "value": shown}.values())
    return written.getvalue()


@routes.get(
    "/v1/invoice",
    summary="What the running period costs",
    operation_id="invoice",
    security=_TOKEN,
    responses=_may_answer(InvoiceAnswer, HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
)
def invoice() -> Response[str]:
    """Return what the running period costs so far, as a forecast, and by Stripe's own preview."""
    try:
        found = _parts().charges.invoice(routes.context["customer"], now=_clock())
    except NotSubscribedError as error:
        raise ProblemError(
            HTTPStatus.NOT_FOUND, "there is no subscription to a plan, so that nothing is invoiced"
        ) from error
    except (StripeUnavailableError, StripeRejectedError) as error:
        logger.warning("Stripe gave no answer", error=type(error).__name__)
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "Stripe, which keeps the prices of the subscription, does not answer now: try again",
            {"Retry-After": str(RETRY_AFTER_S)},
        ) from error
    return good(msgspec.json.encode(found).decode())


@routes.get(
    "/v1/prices",
    summary="The plans and the metrics",
    operation_id="prices",
    security=_TOKEN,
    responses=_may_answer(PricesAnswer, HTTPStatus.UNAUTHORIZED),
)
def prices() -> Response[str]:
    """Return the plans and metrics as they are declared."""
    return good(_declared_prices())


@cache
def _declared_prices() -> str:
    parts = _parts()
    plans = [
        {
            "name": plan.name,
            "title": plan.title,
            "currency": plan.currency,
            "decimals": decimals_of(plan.currency),
            "interval": plan.interval,
            "prices": [msgspec.to_builtins(price) | {"terms": terms_of(price, plan.interval)} for price in plan.prices],
        }
        for plan in parts.plans
    ]
    metrics = [
        {
            "name": name,
            "kind": str(metric.__struct_config__.tag),
            "scale": metric.scale if isinstance(metric, Sum | Max) else 0,
            "unit": unit_of(metric),
            "dimension": metric.by if isinstance(metric, Count | Sum) and metric.by and not metric.meters else None,
        }
        for metric in parts.metrics
        for name in meters_of(metric).values()
    ]
    return msgspec.json.encode({"plans": plans, "metrics": metrics}).decode()


class Wanted(BaseModel):
    """Whom a link is for, and for how many hours."""

    customer: str = Field(pattern=f"^{CUSTOMER_ID_PATTERN}$")
    hours: int = Field(default=24, ge=1, le=24, strict=True)


@routes.post(
    LINKS,
    summary="Make a link for a customer (AWS Signature Version 4)",
    operation_id="link",
    security=[{"aws": []}],
    responses=_may_answer(
        LinkAnswer,
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ),
)
def link(wanted: Annotated[Wanted, Body()]) -> Response[str]:
    """Return a link that shows a customer its usage, for the operator's own back end to hand on."""
    parts = _parts()
    if wanted.customer not in parts.reader.ledger.holders.customers([wanted.customer]):
        raise ProblemError(HTTPStatus.NOT_FOUND, f"there is no customer {wanted.customer!r}")
    token, ends = issue(
        parts.keys.current(),
        deployment=parts.settings.deployment,
        customer=wanted.customer,
        now=_clock(),
        life=timedelta(hours=wanted.hours),
    )
    found = {"url": f"{_base_url()}/#{token}", "expires_at": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
    return Response(
        int(HTTPStatus.CREATED), "application/json", msgspec.json.encode(found).decode(), {"Cache-Control": "no-store"}
    )


def _base_url() -> str:
    """Return the address under which this API was called, without a slash at its end."""
    return f"https://{routes.current_event.request_context.domain_name}{routes.context['base']}"


@routes.get(
    OPENAPI, summary="This document", operation_id="openapi", responses=_may_answer(dict[str, Any]), security=[]
)
def openapi() -> Response[str]:
    """Return the API's OpenAPI document."""
    return good(_document(_base_url()), headers={"Cache-Control": "no-cache"})


@cache
def _document(url: str) -> str:
    written = _app().get_openapi_json_schema(
        title="Usage",
        version="1",
        openapi_version="3.1.0",
        description="What a customer used, and what it costs.",
        servers=[Server(url=url)],
        security_schemes={
            "portalToken": HTTPBearer(bearerFormat="JWT", description="What stands behind '#' in a link."),
            "aws": HTTPBase(scheme="aws4-hmac-sha256", description="AWS Signature Version 4, for the operator."),
        },
    )
    document = msgspec.json.decode(written)
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # what Powertools would answer itself is a 400 here
    return msgspec.json.encode(document).decode()


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
    return good(_read(name), media, {"Cache-Control": "no-cache"})


@cache
def _read(name: str) -> str:
    return (HERE / "page" / name).read_text(encoding="utf-8")


def _clock() -> datetime:
    return datetime.now(UTC)


@cache
def _parts() -> Parts:
    settings = ShowUsageSettings.read()
    declared = msgspec.json.decode(DECLARED.read_bytes(), type=Declared)
    reader = UsageReader.of(aws.dynamodb(), settings.counters_table, settings.ledger_table)
    stripe_key = key_from(SecretsProvider(boto3_client=aws.secrets()), settings.stripe_secret)
    stripe = StripeMeters(stripe_key, settings.deployment, settings.stripe_api_base)
    charges = Charges(reader, stripe, declared.metrics, declared.plans, time.monotonic)
    keys = PortalKeys(aws.secrets(), settings.portal_secret, time.monotonic)
    return Parts(settings, keys, reader, charges, declared.metrics, declared.plans)


@cache
def _cors() -> CORSConfig | None:
    """Return which other origins' pages may call; never all."""
    first, *others = ShowUsageSettings.read().portal_origins.split() or [""]
    if not first:
        return None
    return CORSConfig(
        first, others, allow_headers=["If-None-Match"], expose_headers=["ETag", "Retry-After"], max_age=600
    )


@cache
def _app() -> APIGatewayHttpResolver:
    app = APIGatewayHttpResolver(cors=_cors(), enable_validation=True)
    app.include_router(routes)
    app.exception_handler(ProblemError)(ProblemError.response)
    app.exception_handler(NotFoundError)(_not_found)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(RequestUnsupportedContentType)(_unsupported)
    app.exception_handler(Exception)(_failed)
    return app


def _not_found(_error: Exception) -> Response[str]:
    return ProblemError(HTTPStatus.NOT_FOUND, "there is nothing here: /v1/openapi.json says what there is").response()


def _invalid(error: RequestValidationError) -> Response[str]:
    said = "; ".join(_sentence(one) for one in error.errors())
    return ProblemError(HTTPStatus.BAD_REQUEST, said).response()


def _sentence(error: Mapping[str, Any]) -> str:
    """Return what was wanted and what was got, as one sentence."""
    where = ".".join(str(part) for part in error["loc"][1:]) or "the body"
    match error["type"]:
        case "string_pattern_mismatch" if where in ("from", "to"):
            wanted = "must be written 2026-11-01 or 2026-11-22T05 (UTC)"
        case "literal_error":
            wanted = f"must be {error['ctx']['expected'].replace(chr(39), '').removeprefix(', ')}"
        case "missing":
            return f"{where} must be given"
        case "json_invalid":
            return "the body must be JSON"
        case _:
            wanted = error["msg"][:1].lower() + error["msg"][1:]
    return f"{where} {wanted}; got {str(error['input'])[:_LONGEST_SHOWN]!r}"


def _unsupported(_error: Exception) -> Response[str]:
    return ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json").response()


def _failed(error: Exception) -> Response[str]:
    """Answer what nobody expected: the log says where it was, the caller learns nothing."""
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    where = traceback.format_tb(error.__traceback__)
    logger.error("request failed", error=type(error).__name__, code=code, where=where)  # no message: it may quote
    return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "something went wrong here: try again later").response()
