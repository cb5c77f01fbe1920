"""The local Stripe's API, without a network: keys, idempotency, rate limit, routes. A call in, an answer out."""

import base64
import binascii
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from infra.local.stripe.account import Account
from infra.local.stripe.faults import METER_EVENT_STREAM, METER_EVENTS, Fault
from infra.local.stripe.meter import HOUR
from infra.local.stripe.params import StripeError, decode_form
from infra.local.stripe.routes import RIGHTS, endpoints, permits, route_of
from infra.local.stripe.stream import Stream

IDEMPOTENCY_MEMORY = 24 * HOUR  # docs.stripe.com/api/idempotent_requests: "at least 24 hours"


@dataclass(frozen=True, slots=True)
class Call:
    """One request, decoded. `route` has `:id` for the id in its path, or is "unrecognized"."""

    route: str
    method: str
    path: str
    object_id: str | None
    params: Mapping[str, Any]
    body: str
    headers: Mapping[str, str]

    @property
    def fingerprint(self) -> bytes:
        """What an idempotency key holds its request to: the path and the parameters as they were written."""
        return hashlib.blake2b(f"{self.path} {self.body}".encode(), digest_size=12).digest()


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. `executed` tells an endpoint's own answer, which takes the latency and is saved for its key."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    executed: bool = False


@dataclass(frozen=True, slots=True)
class Saved:
    """What an idempotency key remembers of its first request."""

    fingerprint: bytes
    answer: Answer
    at: float


class Api:
    """One account's API. Not safe for threads: the server guards it with a lock.

    `ticks` is the clock of the rate limit, in seconds; `now` is the account's, in seconds since the epoch.
    """

    def __init__(  # noqa: PLR0913  each is one property of an account's API, or a clock
        self,
        account: Account,
        *,
        keys: frozenset[str],
        restricted_keys: Mapping[str, Mapping[str, str]],
        events_per_second: int,
        endpoint_per_second: int | None = None,
        now: Callable[[], float],
        ticks: Callable[[], float],
    ) -> None:
        self._account = account
        self._stream = Stream(account)
        self._endpoints = endpoints(account, self._stream)
        self._keys = keys | restricted_keys.keys()
        self._rights = restricted_keys
        self._expired_keys: frozenset[str] = frozenset()
        self._events_per_second = events_per_second
        self._endpoint_per_second = endpoint_per_second
        self._now = now
        self._ticks = ticks
        self._saved: dict[str, Saved] = {}
        self._second = 0  # the current one
        self._in_second: Counter[str] = Counter()  # how many calls of a route were made in it

    def perform(self, call: Call, fault: Fault | None = None) -> Answer:
        """Do what a call asks for, once per idempotency key, and answer as Stripe does, or with the fault's error.

        The stream needs no such keys: its events have identifiers, and a repeat is ignored.
        """
        key = (
            call.headers.get("Idempotency-Key") if call.method == "POST" and call.route != METER_EVENT_STREAM else None
        )
        now = self._now()
        try:
            self._authenticate(call, now)
            saved = self._saved.get(key) if key else None
            if saved and now - saved.at < IDEMPOTENCY_MEMORY:
                return _replay(saved, call)
            self._limit_rate(call.route)
            answer = self._execute(call, fault, now)
        except StripeError as refusal:
            answer = refuse(refusal)
        if key and answer.executed:
            self._saved[key] = Saved(call.fingerprint, answer, now)
        return answer

    def target(self, call: Call) -> tuple[str, str | None]:
        """Name the meter and the customer of a meter event, as far as a call that is not yet checked tells."""
        return self._account.target(call.params)

    def customer(self, call: Call) -> str | None:
        """Name the Stripe customer that a call is about, if it names one."""
        named = self.target(call)[1] or call.params.get("customer")
        return named if isinstance(named, str) else None

    def rotate_key(self, old: str, new: str) -> None:
        """Accept the key `new` in place of `old`."""
        self._keys = (self._keys - {old}) | {new}
        self._expired_keys = (self._expired_keys | {old}) - {new}

    def _execute(self, call: Call, fault: Fault | None, now: float) -> Answer:
        """Hand a call to the account, unless the fault comes first; or spoil the account's answer afterwards."""
        if fault in (Fault.RATE_LIMITED, Fault.RATE_LIMITED_RETRY):
            raise _rate_limited(retry=fault is Fault.RATE_LIMITED_RETRY)
        if fault is Fault.LOCKED:
            raise _too_many_at_once() if call.route == METER_EVENT_STREAM else lock_timeout()
        if fault is Fault.ERROR_BEFORE:
            raise _server_error()
        if fault is Fault.REFUSED:
            raise StripeError("This object cannot be used here.")
        self._account.billing.advance(now)
        endpoint = self._endpoints.get(call.route)
        if endpoint is None:
            raise StripeError(
                f"Unrecognized request URL ({call.method}: {call.path}). Please see https://stripe.com/docs or we can "
                "help at https://support.stripe.com/.",
                status=404,
            )
        about = () if call.object_id is None else (call.object_id,)
        body = endpoint(*about, call.params, now)
        if fault is Fault.ERROR_AFTER:
            raise _server_error()
        return Answer(200, _encode(body), executed=True)

    def _authenticate(self, call: Call, now: float) -> None:
        """Accept a known key, as bearer token or as user name of basic auth (docs.stripe.com/api/authentication)."""
        scheme, _, credentials = call.headers.get("Authorization", "").partition(" ")
        key = credentials.strip()
        if scheme.lower() == "basic":
            try:
                key = base64.b64decode(key, validate=True).decode().partition(":")[0]
            except (binascii.Error, UnicodeDecodeError):
                key = ""
        if call.route == METER_EVENT_STREAM:
            self._stream.authenticate(key, now)
            return
        if key in self._keys:
            self._permit(key, call)
            return
        challenge = {"WWW-Authenticate": 'Basic realm="Stripe"'}
        if key in self._expired_keys:
            message = f"Expired API Key provided: {masked(key)}"
            raise StripeError(message, status=401, code="api_key_expired", headers=challenge)
        message = f"Invalid API Key provided: {masked(key)}" if key else "You did not provide an API key."
        raise StripeError(message, status=401, headers=challenge)

    def _permit(self, key: str, call: Call) -> None:
        """Refuse a call for which a restricted key lacks the right (docs.stripe.com/keys#limit-access)."""
        right = RIGHTS.get(call.route)
        if key not in self._rights or right is None or permits(self._rights[key], right):
            return
        raise StripeError(
            f"The provided key '{masked(key)}' does not have the required permissions for this endpoint on account "
            f"'acct_local'. Having the 'rak_{right.name}_{right.level}' permission would allow this request to "
            "continue.",
            status=403,
        )

    def _limit_rate(self, route: str) -> None:
        """Count a call against the current second; meter events have their own limit (docs.stripe.com/rate-limits)."""
        most = self._events_per_second if route == METER_EVENTS else self._endpoint_per_second
        if most is None or route == METER_EVENT_STREAM:
            return
        second = int(self._ticks())
        if second != self._second:
            self._second = second
            self._in_second.clear()
        self._in_second[route] += 1
        if self._in_second[route] > most:
            raise _rate_limited(retry=False)


def decode(request: web.BaseRequest, body: str) -> Call:
    """Find the route and the parameters of a request: in the body of a POST, in the query of a GET."""
    route, object_id = route_of(request.method, request.path)
    if request.method == "POST" and request.path.startswith("/v2/"):
        params = _decode_json(body)
    else:
        params = decode_form(body if request.method == "POST" else request.query_string)
    return Call(
        route=route,
        method=request.method,
        path=request.path,
        object_id=object_id,
        params=params,
        body=body,
        headers=request.headers,
    )


def _decode_json(body: str) -> Mapping[str, Any]:
    """Decode the body of a v2 call; what is no object has no parameters, and is refused for what it lacks."""
    try:
        decoded = json.loads(body)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, Mapping) else {}


def masked(key: str) -> str:
    """Show a key's ends alone."""
    return f"{key[:8]}{'*' * max(len(key) - 12, 4)}{key[12:][-4:]}"


def _replay(saved: Saved, call: Call) -> Answer:
    """Answer again what an idempotency key was answered first (docs.stripe.com/api/idempotent_requests)."""
    if saved.fingerprint != call.fingerprint:
        key = call.headers["Idempotency-Key"]
        raise StripeError(
            "Keys for idempotent requests can only be used with the same parameters they were first used with. Try "
            f"using a key other than '{key}' if you meant to execute a different request.",
            kind="idempotency_error",
        )
    headers = {**saved.answer.headers, "Idempotent-Replayed": "true"}
    return Answer(saved.answer.status, saved.answer.body, headers)


def refuse(error: StripeError) -> Answer:
    """Put a refusal into an answer."""
    return Answer(error.status, _encode(error.body), error.headers, executed=error.saved)


def _encode(body: Mapping[str, Any]) -> bytes:
    """Write an answer's body."""
    return json.dumps(body).encode()


def _rate_limited(*, retry: bool) -> StripeError:
    """Refuse a call too many (docs.stripe.com/rate-limits); `retry` tells the official SDK to try again."""
    headers = {"Stripe-Rate-Limited-Reason": "endpoint-rate"} | ({"Stripe-Should-Retry": "true"} if retry else {})
    message = "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits."
    return StripeError(message, status=429, code="rate_limit", headers=headers)


def lock_timeout() -> StripeError:
    """Refuse a second call for a customer and meter (docs.stripe.com/error-codes, `lock_timeout`).

    Without the header that names a limit, as docs.stripe.com/rate-limits has it.
    """
    message = (
        "This object cannot be accessed right now because another API request or Stripe process is currently accessing "
        "it. If you see this error intermittently, retry the request. If you see this error frequently and are making "
        "multiple concurrent requests to a single object, make your requests serially or at a lower rate."
    )
    return StripeError(message, status=429, code="lock_timeout")


def _too_many_at_once() -> StripeError:
    """Refuse a second call for a customer and meter as v2 does (docs.stripe.com/api/v2/billing/meter-event/create).

    The code and the status are documented; the words, and that the stream answers so as well, could not be confirmed
    (? the_stream_refuses_what_is_busy).
    """
    return StripeError("Too many concurrent requests.", status=409, code="too_many_concurrent_requests")


def key_in_use(key: str) -> StripeError:
    """Refuse a call while another one with its idempotency key is answered (docs.stripe.com/error-codes)."""
    message = (
        "There is currently another in-progress request using this Idempotent Key (that probably means you submitted "
        f"twice, and the other request is still going through): {key}. Please try again later."
    )
    return StripeError(message, status=409, kind="idempotency_error", code="idempotency_key_in_use")


def _server_error() -> StripeError:
    """Fail as Stripe does on an error of its own."""
    message = "An unknown error occurred. If this persists, please contact us at https://support.stripe.com/."
    return StripeError(message, status=500, kind="api_error", saved=True)
