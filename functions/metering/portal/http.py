"""How the customers' API speaks HTTP: problems, headers that every answer has, revalidation, compression."""

import base64
import gzip
import hashlib
import json
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

import mimeparse
import msgspec
from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, CORSConfig, Response
from aws_lambda_powertools.event_handler.api_gateway import ResponseBuilder
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.openapi.exceptions import RequestUnsupportedContentType, RequestValidationError
from aws_lambda_powertools.event_handler.router import APIGatewayHttpRouter
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEventV2
from botocore.exceptions import ClientError

from metering.model.hints import one_of

logger = Logger(child=True)

PRIVATE: Final = "private, no-cache"
"""One customer's data: kept by nobody but its browser, and shown again only once it was found unchanged."""

SECURITY: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Strict-Transport-Security": "max-age=63072000",
    "Vary": "Accept, Accept-Encoding, Authorization, Origin",
    "X-Content-Type-Options": "nosniff",
}
"""What every answer says, whatever it is."""

LONGEST_SHOWN: Final = 80
"""Characters of what was got that an answer quotes."""

LONGEST_BODY: Final = 4096
"""Characters of what may be sent."""

_DEEPEST_BODY: Final = 16
_MOST_NAMED: Final = 5
_SMALLEST_GZIP: Final = 1024


class ProblemError(Exception):
    """What is wrong with a request, as it is answered (RFC 9457)."""

    def __init__(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})

    def response(self) -> Response[str]:
        """Return the answer."""
        body = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": int(self.status),
            "detail": self.detail,
        }
        headers: dict[str, Any] = {"Cache-Control": "no-store", **self.headers}
        return Response(int(self.status), "application/problem+json", msgspec.json.encode(body).decode(), headers)


def new_router() -> APIGatewayHttpRouter:
    """Return a router without routes."""
    return APIGatewayHttpRouter()  # type: ignore[no-untyped-call]


def application(cors: CORSConfig | None, *routers: APIGatewayHttpRouter) -> APIGatewayHttpResolver:
    """Return routes as Powertools plays them, with every failure answered as a problem; ``cors`` may call."""
    app = APIGatewayHttpResolver(cors=cors, enable_validation=True)
    for router in routers:
        app.include_router(router)
    app.exception_handler(ProblemError)(ProblemError.response)
    app.exception_handler(NotFoundError)(not_found)
    app.exception_handler(RequestValidationError)(invalid)
    app.exception_handler(RequestUnsupportedContentType)(unsupported)
    app.exception_handler(Exception)(failed)
    return app


def cors_of(origins: str) -> CORSConfig | None:
    """Return which other origins' pages may call, with spaces between them; never all."""
    first, *others = origins.split() or [""]
    if not first:
        return None
    return CORSConfig(
        first, others, allow_headers=["If-None-Match"], expose_headers=["ETag", "Retry-After"], max_age=600
    )


def good(body: str, media: str = "application/json", headers: Mapping[str, str] | None = None) -> Response[str]:
    """Return a good answer; one customer's, unless its headers say otherwise."""
    return Response(
        int(HTTPStatus.OK), media, body, {"Cache-Control": PRIVATE, "ETag": etag_of(body.encode()), **(headers or {})}
    )


def etag_of(content: bytes) -> str:
    """Return what tells one content from another; weak, since it may travel compressed or not."""
    return f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'


def header(event: Mapping[str, Any], name: str) -> str:
    """Return a request's header, or an empty string; API Gateway writes their names in lower case."""
    return str((event.get("headers") or {}).get(name, ""))


def check_body(event: Mapping[str, Any]) -> None:
    """Raise ProblemError for a body that Python could not even read as JSON: too long, too deep, too long a number."""
    body = event.get("body") or ""
    if len(body) > LONGEST_BODY:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"the body must have at most {LONGEST_BODY:,} characters, got {len(body):,}"
        )
    try:
        text = base64.b64decode(body).decode() if event.get("isBase64Encoded") else body
        if text.count("[") + text.count("{") > _DEEPEST_BODY:
            raise ProblemError(HTTPStatus.BAD_REQUEST, "the body must be one flat JSON object")
        with suppress(json.JSONDecodeError):  # which is answered where the body's type is known
            json.loads(text)
    except ValueError as error:  # a number of thousands of digits, or no UTF-8
        raise ProblemError(HTTPStatus.BAD_REQUEST, "the body must be JSON with numbers that can be meant") from error


def check_query(event: Mapping[str, Any], known: Sequence[str] = ()) -> None:
    """Raise ProblemError for parameters that there are not: whoever misspells one would be answered something else."""
    wrong = [name[:LONGEST_SHOWN] for name in event.get("queryStringParameters") or {} if name not in known]
    if wrong:
        meant = [f"{name!r}: write {one_of(name, known)}" if known else repr(name) for name in wrong[:_MOST_NAMED]]
        there = "there is no such parameter" if known else "this takes no parameters"
        raise ProblemError(HTTPStatus.BAD_REQUEST, f"{there}; got {', '.join(meant)}")


def prefers_csv(accept: str) -> bool:
    """Say if a caller that accepts these media types would rather have CSV than JSON (RFC 9110, 12.5.1).

    What accepts neither is answered as if it had said nothing, which the RFC leaves to the server: whoever can read no
    JSON could not read why it is refused either.
    """
    ranges = _ranges(accept.split(","))
    return bool(_quality("text/csv", ranges) > _quality("application/json", ranges))


def takes_gzip(accept_encoding: str) -> bool:
    """Say if a caller that accepts these codings takes gzip, and likes none of them less (RFC 9110, 12.5.3)."""
    # A coding has the grammar of a media type without a slash.
    ranges = _ranges(f"coding/{coding.strip()}" for coding in accept_encoding.split(","))
    gzip_quality = _quality("coding/gzip", ranges)
    return bool(gzip_quality > 0 and gzip_quality >= _quality("coding/identity", ranges))


def _ranges(written: Iterable[str]) -> list[Any]:
    """Return what can be read of a header's elements; another one means nothing."""
    ranges = []
    for element in written:
        with suppress(mimeparse.MimeTypeParseException):
            ranges.append(mimeparse.parse_media_range(element.lower()))
    return ranges


def _quality(wanted: str, ranges: list[Any]) -> float:
    return float(mimeparse.quality_parsed(wanted, ranges))


def finished(answer: dict[str, Any], event: Mapping[str, Any], cors: CORSConfig | None) -> dict[str, Any]:
    """Return an answer with the headers that every one has, without a body where the caller has it, and compressed."""
    headers = answer.setdefault("headers", {})
    headers |= SECURITY
    origin = header(event, "origin")
    if cors is not None and cors.allowed_origin(origin):
        headers |= cors.to_dict(origin)
    asked = {tag.strip() for tag in header(event, "if-none-match").split(",")}
    if answer["statusCode"] == HTTPStatus.OK and headers.get("ETag") in asked:
        headers.pop("Content-Type", None)
        return answer | {"statusCode": int(HTTPStatus.NOT_MODIFIED), "body": ""}
    body = answer["body"]
    if body and len(body) >= _SMALLEST_GZIP and takes_gzip(header(event, "accept-encoding")):
        headers["Content-Encoding"] = "gzip"
        packed = base64.b64encode(gzip.compress(body.encode(), 6, mtime=0)).decode()
        return answer | {"body": packed, "isBase64Encoded": True}
    return answer


def built(response: Response[str], event: dict[str, Any]) -> dict[str, Any]:
    """Return an answer in API Gateway's form."""
    builder: ResponseBuilder[Any] = ResponseBuilder(response)
    return builder.build(APIGatewayProxyEventV2(event))


def not_found(_error: Exception) -> Response[str]:
    """Answer what no route is for."""
    return ProblemError(HTTPStatus.NOT_FOUND, "there is nothing here: /v1/openapi.json says what there is").response()


def invalid(error: RequestValidationError) -> Response[str]:
    """Answer a request whose parameters are not as the document says."""
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
    return f"{where} {wanted}; got {str(error['input'])[:LONGEST_SHOWN]!r}"


def unsupported(_error: Exception) -> Response[str]:
    """Answer a body of another type."""
    return ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json").response()


def failed(error: Exception) -> Response[str]:
    """Answer what nobody expected: the log says where it was, the caller learns nothing."""
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    where = traceback.format_tb(error.__traceback__)
    logger.error("request failed", error=type(error).__name__, code=code, where=where)  # no message: it may quote
    return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "something went wrong here: try again later").response()
