"""How the local Stripe reads parameters and pages lists, and the error it answers with where it cannot."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_plus

PAGING = ("ending_before", "limit", "starting_after")

Params = Mapping[str, Any]


class StripeError(Exception):
    """A refusal, in the terms of docs.stripe.com/api/errors.

    `saved` says whether an idempotency key remembers it: it does once "the execution of an endpoint begins", not when
    parameters fail validation (docs.stripe.com/api/idempotent_requests).
    """

    def __init__(  # noqa: PLR0913  the parts of Stripe's error object
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        saved: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.headers = dict(headers or {})
        self.saved = saved
        details = {"code": code, "doc_url": code and f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"}
        details |= {"message": message, "param": param, "type": kind}
        self.body = {"error": {name: value for name, value in details.items() if value is not None}}


def decode_form(encoded: str) -> dict[str, Any]:
    """Decode an URL-encoded form as Stripe does: `a[b]=1` is {"a": {"b": "1"}}, `a[]=1` and `a[0]=1` are {"a": ["1"]}.

    Where names contradict each other (`a=1&a[b]=2`), the last one stands.
    """
    form: dict[str, Any] = {}
    for pair in encoded.split("&") if encoded else ():
        name, _, value = map(unquote_plus, pair.partition("="))
        if "[" not in name:
            form[name] = value
            continue
        head, _, rest = name.partition("[")
        parts = [head, *rest.removesuffix("]").split("][")]
        inner = form
        for part in parts[:-1]:
            at = part or str(len(inner))
            if not isinstance(inner.get(at), dict):
                inner[at] = {}
            inner = inner[at]
        inner[parts[-1] or str(len(inner))] = value
    return {name: _lists(value) for name, value in form.items()}


def _lists(value: Any) -> Any:
    """Turn what is numbered from 0 on into a list."""
    if not isinstance(value, dict):
        return value
    inner = {name: _lists(each) for name, each in value.items()}
    if inner and all(name.isdecimal() for name in inner):
        return [inner[name] for name in sorted(inner, key=int)]
    return inner


def page(found: Sequence[Mapping[str, Any]], params: Params, url: str) -> dict[str, Any]:
    """Cut one page out of a list (docs.stripe.com/api/pagination): 10 objects, or `limit` of 1 to 100."""
    limit = integer(params, "limit", default=10)
    if not 1 <= limit <= 100:  # noqa: PLR2004  the documented range
        raise StripeError(f"Invalid limit: must be between 1 and 100, got {limit}.", param="limit")
    first, last = 0, len(found)
    for name in ("starting_after", "ending_before"):
        if name not in params:
            continue
        cursor = text(params, name)
        at = next((index for index, each in enumerate(found) if each["id"] == cursor), None)
        if at is None:
            raise StripeError(f"No such object: '{cursor}'", code="resource_missing", param=name)
        first, last = (at + 1, last) if name == "starting_after" else (max(first, at - limit), at)
    data = list(found[first : min(last, first + limit)])
    has_more = first > 0 if "ending_before" in params else first + limit < last
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def only(params: Params, *known: str) -> None:
    """Refuse a parameter that the route does not know here, rather than leave it without effect."""
    for name in params:
        if name not in known and name != "expand":
            raise StripeError(f"Received unknown parameter: {name}", code="parameter_unknown", param=name)


def text(params: Params, name: str, *, default: str | None = None, most: int = 5_000) -> str:
    """Read a text of at most `most` characters; it is required where it has no default."""
    value = params.get(name, default)
    if value is None or (value == "" and default is None):
        raise StripeError(f"Missing required param: {name}.", code="parameter_missing", param=name)
    if not isinstance(value, str):
        raise StripeError(f"Invalid string: {value}", param=name)
    if len(value) > most:
        raise StripeError(f"Invalid string: {value[:10]}...; must be at most {most} characters", param=name)
    return value


def integer(params: Params, name: str, *, default: int | None = None) -> int:
    """Read an integer; it is required where it has no default."""
    written = text(params, name, default=None if default is None else str(default))
    if not re.fullmatch(r"-?\d{1,18}", written, re.ASCII):
        raise StripeError(f"Invalid integer: {written}", code="parameter_invalid_integer", param=name)
    return int(written)


def one_of(
    params: Params, name: str, known: Sequence[str], *, default: str | None = None, within: str | None = None
) -> str:
    """Read one of the known words; `within` names the parameter that holds this one, for the message."""
    param = f"{within}[{name}]" if within else name
    if name not in params and default is None:
        raise StripeError(f"Missing required param: {param}.", code="parameter_missing", param=param)
    value = text(params, name, default=default)
    if value not in known and value != default:
        raise StripeError(f"Invalid {param}: must be one of {', '.join(known)}", param=param)
    return value


def nested(params: Params, name: str, *, required: bool = False) -> Params:
    """Read a parameter that holds parameters; none where it is missing and not required."""
    if name not in params and required:
        raise StripeError(f"Missing required param: {name}.", code="parameter_missing", param=name)
    value = params.get(name, {})
    if not isinstance(value, Mapping):
        raise StripeError(f"Invalid object: {value}", param=name)
    return value


def mapping(params: Params, name: str) -> dict[str, str]:
    """Read a parameter that maps text to text."""
    value = nested(params, name, required=True)
    for key, each in value.items():
        if not isinstance(each, str):
            raise StripeError(f"Invalid string: {each}", param=f"{name}[{key}]")
    return dict(value)
