"""How the local Stripe reads parameters and pages lists, and the error it answers with where it cannot."""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import unquote_plus

API_VERSION = "2026-10-28.endive"
PAGING = ("ending_before", "limit", "starting_after")

Params = Mapping[str, Any]


class StripeError(Exception):
    """A refusal, in the terms of docs.stripe.com/api/errors.

    `saved` says whether an idempotency key remembers it: it does once "the execution of an endpoint begins", not when
    parameters fail validation (docs.stripe.com/api/idempotent_requests). `report` is the code of the same failure in an
    error report, where a meter event is checked only later.
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
        report: str = "",
    ) -> None:
        super().__init__(message)
        self.report = report
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


def page(objects: Sequence[Mapping[str, Any]], params: Params, url: str) -> dict[str, Any]:
    """Cut one page out of a list (docs.stripe.com/api/pagination): 10 objects, or `limit` of 1 to 100."""
    limit = integer(params, "limit", default=10)
    if not 1 <= limit <= 100:  # noqa: PLR2004  the documented range
        raise StripeError(f"Invalid limit: must be between 1 and 100, got {limit}.", param="limit")
    first, last = 0, len(objects)
    for name in ("starting_after", "ending_before"):
        if name not in params:
            continue
        cursor = text(params, name)
        at = next((index for index, each in enumerate(objects) if each["id"] == cursor), None)
        if at is None:
            raise StripeError(f"No such object: '{cursor}'", code="resource_missing", param=name)
        first, last = (at + 1, last) if name == "starting_after" else (max(first, at - limit), at)
    data = list(objects[first : min(last, first + limit)])
    has_more = first > 0 if "ending_before" in params else first + limit < last
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def only(params: Params, *known: str) -> None:
    """Refuse a parameter that the route does not know here, rather than leave it without effect."""
    if "expand" in params and "expand" not in known:
        expanded(params)
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


def flag(params: Params, name: str, *, default: bool) -> bool:
    """Read a boolean, which a form writes as `true` or `false`."""
    written = params.get(name, "true" if default else "false")
    if written not in ("true", "false"):
        raise StripeError(f"Invalid boolean: {written}", code="parameter_invalid_boolean", param=name)
    return bool(written == "true")


def amount(params: Params, name: str, *, within: str = "") -> Decimal | None:
    """Read an amount in the smallest currency unit: `name` as an integer, or `name`_decimal with up to 12 places.

    The source is docs.stripe.com/api/prices/create, `unit_amount_decimal`: "Only one of unit_amount and
    unit_amount_decimal can be set." Nothing is None.
    """
    exact = f"{name}_decimal"
    if name in params and exact in params:
        raise StripeError(f"You may only specify one of these parameters: {name}, {exact}.", param=f"{within}{name}")
    if name in params:
        read = integer(params, name)
        if read < 0:
            raise StripeError("This value must be greater than or equal to 0.", param=f"{within}{name}")
        return Decimal(read)
    if exact not in params:
        return None
    written = text(params, exact, most=40)
    if not re.fullmatch(r"\d{1,12}(\.\d{1,12})?", written, re.ASCII):
        raise StripeError(
            f"Invalid decimal: {written}; must be at least 0 and contain at most 12 decimal places.",
            param=f"{within}{exact}",
        )
    return Decimal(written)


def rows(params: Params, name: str) -> list[Params]:
    """Read a parameter that holds a list of objects; none where it is missing."""
    value = params.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        raise StripeError(f"Invalid array: {value}", param=name)
    return value


def texts(params: Params, name: str) -> list[str] | None:
    """Read a parameter that holds a list of texts; None where it is missing."""
    value = params.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise StripeError(f"Invalid array: {value}", param=name)
    return value


def metadata(old: Mapping[str, str], params: Params) -> dict[str, str]:
    """Merge the parameter `metadata`: an empty value removes a key, an empty parameter all (docs: api/metadata)."""
    if params.get("metadata", {}) == "":
        return {}
    merged = {**old, **(mapping(params, "metadata") if "metadata" in params else {})}
    return {name: value for name, value in merged.items() if value}


def expanded(params: Params, *known: str) -> set[str]:
    """Read what to expand, of what this route can expand here (docs.stripe.com/api/expanding_objects)."""
    wanted = set(texts(params, "expand") or ())
    for name in wanted - set(known):
        raise StripeError(f"This property cannot be expanded ({name}).", param="expand")
    return wanted


def moments(params: Params, name: str) -> Callable[[int], bool]:
    """Read a filter on a time: an exact one, or bounds `gt`, `gte`, `lt`, `lte` (seconds since the epoch)."""
    if isinstance(params.get(name, {}), str):
        exact = integer(params, name)
        return lambda moment: moment == exact
    bounds = nested(params, name)
    only(bounds, "gt", "gte", "lt", "lte")
    read = {bound: integer(bounds, bound) for bound in bounds}
    return lambda moment: (
        moment > read.get("gt", moment - 1)
        and moment >= read.get("gte", moment)
        and moment < read.get("lt", moment + 1)
        and moment <= read.get("lte", moment)
    )
