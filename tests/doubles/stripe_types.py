"""What is sent to Stripe, and what it answers, is held to the SDK's own types, made from Stripe's OpenAPI description.

stripe-mock knows v1 alone; these types know v2 as well.
"""

import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, ClassVar, Final, Literal, NotRequired, Union, get_args, get_origin, get_type_hints
from unittest.mock import patch

from stripe import StripeObject
from stripe._request_options import RequestOptions
from stripe._stripe_service import StripeService
from typing_extensions import is_typeddict  # typing's own does not know the SDK's types before Python 3.13

OPTIONS: Final = RequestOptions.__optional_keys__ | RequestOptions.__required_keys__
"""What v1's older types name as well: it goes with a call and not into it."""

_NAMED: Final = re.compile(r"\w+Params\b")
_DECIMAL: Final = re.compile(r"-?\d+(\.\d+)?")


class WrongParameterError(AssertionError):
    """A call with a parameter that Stripe's own types do not have."""


@contextmanager
def typed_calls() -> Iterator[list[str]]:
    """Refuse each call of the SDK whose parameters are not of its own types; yield the names of the others."""
    calls: list[str] = []
    request = StripeService._request

    def checked(service: StripeService, method: str, url: str, params: Any = None, *rest: Any, **more: Any) -> Any:
        frame = inspect.currentframe()
        assert frame is not None
        assert frame.f_back is not None
        name = frame.f_back.f_code.co_name
        of: Any = type(service)
        wrong = differences(params or {}, type_of(of, name), "params")
        if wrong:
            raise WrongParameterError(f"{type(service).__name__}.{name} ({method.upper()} {url}): {'; '.join(wrong)}")
        calls.append(f"{type(service).__name__}.{name}")
        return request(service, method, url, params, *rest, **more)

    with patch.object(StripeService, "_request", checked):
        yield calls


@functools.cache
def type_of(service: Any, method: str) -> Any:
    """Return the type of a method's parameters; None for a method that has none."""
    annotation = inspect.signature(getattr(service, method)).parameters.get("params")
    if annotation is None:
        return None
    named = _NAMED.search(str(annotation.annotation))
    assert named is not None, f"{service.__name__}.{method} names no type of parameters"
    package = service.__module__.rpartition(".")[0].replace("stripe", "stripe.params", 1)
    return getattr(importlib.import_module(package), named.group())


@functools.cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Return a type's fields, each with its own type and whether it must be there."""
    own = {name: hint for name, hint in kind.__annotations__.items() if name not in OPTIONS}
    of_the_same_module = type(kind.__name__, (), {"__annotations__": own, "__module__": kind.__module__})
    return {
        name: (get_args(hint)[0], False) if get_origin(hint) is NotRequired else (hint, name in kind.__required_keys__)
        for name, hint in get_type_hints(of_the_same_module, include_extras=True).items()
    }


def differences(value: Any, wanted: Any, at: str) -> list[str]:
    """Say in which places a value is not of a type."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if wanted is None:
        return [f"{at}: no parameters are wanted"] if value else []
    if is_typeddict(wanted):
        return _differences_of_fields(value, _fields(wanted), at)
    if isinstance(origin or wanted, type) and issubclass(origin or wanted, StripeObject):
        if not inner:
            return _differences_of_fields(value, _shown(wanted), at)
        origin, inner = dict, (str, *inner)
    if origin in (Union, UnionType):
        found = [differences(value, one, at) for one in _closed(inner)]
        return [] if [] in found else min(found, key=len)
    if origin in (list, dict):
        return _differences_within(value, origin, inner, at)
    return _differences_of_kind(value, wanted, at)


def _closed(alternatives: Sequence[Any]) -> Sequence[Any]:
    """Leave out that any text will do, where the texts are named that do today; to unset something is no such text."""
    named = any(get_origin(one) is Literal and any(get_args(one)) for one in alternatives)
    return [one for one in alternatives if one is not str] if named else alternatives


def _differences_within(value: Any, kind: Any, inner: Sequence[Any], at: str) -> list[str]:
    if kind is dict and isinstance(value, Mapping):
        return [wrong for key, one in value.items() for wrong in differences(one, inner[1], f"{at}.{key}")]
    if kind is list and isinstance(value, Sequence) and not isinstance(value, str):
        return [wrong for number, one in enumerate(value) for wrong in differences(one, inner[0], f"{at}[{number}]")]
    return [f"{at}: {value!r} is no {'mapping' if kind is dict else 'list'}"]


def _is_of_the_class(hint: Any) -> bool:
    origin: Any = get_origin(hint)
    return origin is ClassVar


@functools.cache
def _shown(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Return the fields of an object that Stripe answers, each with its type and whether it must be there."""
    hints = {
        name: hint
        for each in reversed(kind.__mro__)
        if each is not StripeObject and issubclass(each, StripeObject)
        for name, hint in inspect.get_annotations(each).items()
        if name[0] != "_" and not _is_of_the_class(hint)
    }
    return {name: (hint, NoneType not in get_args(hint)) for name, hint in hints.items()}


def _differences_of_fields(value: Any, fields: Mapping[str, tuple[Any, bool]], at: str) -> list[str]:
    if not isinstance(value, Mapping):
        return [f"{at}: {value!r} is no mapping"]
    found = [f"{at}.{name}: Stripe's type has no such field" for name in value if name not in fields]
    found += [f"{at}.{name}: missing" for name, (_, required) in fields.items() if required and name not in value]
    for name, one in value.items():
        if name in fields:
            found += differences(one, fields[name][0], f"{at}.{name}")
    return found


def _differences_of_kind(value: Any, wanted: Any, at: str) -> list[str]:
    if get_origin(wanted) is Literal:
        known = get_args(wanted)
        return [] if value in known else [f"{at}: {value!r} is none of {', '.join(map(repr, known))}"]
    if wanted is Decimal and isinstance(value, str):  # as it is sent: the SDK would write some with an exponent
        return [] if _DECIMAL.fullmatch(value) else [f"{at}: {value!r} is no decimal number"]
    kind: Any = get_origin(wanted) or wanted
    is_right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return [] if is_right else [f"{at}: {value!r} is no {kind.__name__}"]
