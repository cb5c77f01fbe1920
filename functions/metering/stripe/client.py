"""The way to Stripe: the key, the connections, and how a call's failures are sorted."""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

import stripe
import urllib3
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError
from botocore.exceptions import ClientError

from metering.stripe.answers import ONE_AT_A_TIME, Refusal

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.parameters import SecretsProvider

TIMEOUT: Final = (3, 7)
"""Seconds to connect, and to wait for an answer; the SDK's own default is 80."""

IMPATIENT: Final = (1, 3)
"""The same where somebody waits: then the SDK makes no further attempts either."""

RETRIES: Final = 2
"""Attempts after the first that the SDK makes by itself, but not of a posting, which has a pace to keep."""

SLOWEST_CALL: Final = sum(TIMEOUT)
"""Seconds after which a posting has ended in any case."""

CONNECTIONS: Final = 80
"""Connections that are kept open; more calls at once get some of their own."""

_API: Final = "https://api.stripe.com"

API_KEY: Final = "api_key"
WEBHOOK_SECRET: Final = "webhook_secret"  # noqa: S105 - the name of one
"""What Stripe's secret holds, under these names; the second until it is given a place of its own."""

CONNECT: Final = "run 'metering stripe connect'"
NO_KEY: Final = f"the secret holds no Stripe key: {CONNECT}"

SANDBOX_KEYS: Final = ("sk_test_", "rk_test_")

KEPT_S: Final = 300
"""Seconds for which a secret that was read is believed."""

LOOKED_S: Final = 30
"""Seconds for which nobody looks again whether there is a signing secret."""

logging.getLogger("stripe").setLevel(logging.WARNING)  # at INFO the SDK writes two lines a call

T = TypeVar("T")


class StripeUnavailableError(Exception):
    """Stripe did not answer, or not now: the same call is made again by a later run; ``again`` as below.

    ``do`` is what a person may do who waits for it, where the message does not say it.
    """

    again = False
    do = "try again later; status.stripe.com says more"


class StripeBusyError(StripeUnavailableError):
    """Stripe wants fewer calls, the next one in ``retry_after`` seconds if it says so.

    With ``alone`` it is only at work for this very customer and meter.
    """

    def __init__(self, message: str, retry_after: float | None, *, alone: bool) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.alone = alone


class StripeNotConnectedError(StripeUnavailableError):
    """No call can succeed before an operator acts: there is no key, or it lacks the right."""

    do = ""


class StripeKeyRefusedError(StripeNotConnectedError):
    """Stripe does not take the key."""


class StripeForbiddenError(StripeNotConnectedError):
    """The key lacks the right to this call."""


class MeterMissingError(StripeUnavailableError):
    """No total of this metric can be posted before an operator makes its meter; other metrics are not concerned."""

    do = ""


class StripeRejectedError(Exception):
    """Stripe said no for good; the message is Stripe's own, as are the code and the parameter, where it names them.

    ``again`` is set by who had made the same call before, without an answer: that one may have been taken.
    """

    again = False

    def __init__(self, message: str, code: str = "", param: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.param = param

    def means(self, refusal: Refusal) -> bool:
        """Say whether this is what Stripe said."""
        return refusal.is_said_by(str(self), self.code, self.param)


@dataclass(frozen=True, slots=True)
class StripeAccount:
    """The account, as one deployment calls it.

    ``api_key`` returns the restricted key, read afresh when its argument is true; ``not_taken`` says what to do where
    Stripe does not take it.
    """

    api_key: Callable[[bool], str]
    deployment: str
    api_base: str
    somebody_waits: bool = False
    not_taken: str = f"Stripe does not take the key: {CONNECT} with a valid one"

    def key(self, *, fresh: bool = False) -> str:
        """Return the restricted key; raise StripeNotConnectedError if there is none to call Stripe with."""
        return self.api_key(fresh)

    def is_sandbox(self) -> bool:
        """Say whether the key is a sandbox's, or of test mode."""
        return is_sandbox_key(self.key())

    def call(self, do: Callable[[stripe.StripeClient], T]) -> T:
        """Make a call; with a fresh key once more if Stripe does not take the key; sort its failures."""
        try:
            try:
                return do(self._client_of(self.key()))
            except (stripe.AuthenticationError, stripe.TemporarySessionExpiredError):
                _forget_sessions()
                return do(self._client_of(self.key(fresh=True)))
        except stripe.AuthenticationError as error:  # its own words quote a part of the key (I8)
            raise StripeKeyRefusedError(self.not_taken) from error
        except stripe.PermissionError as error:
            raise StripeForbiddenError(
                "the Stripe key lacks a right: infra/operate/README.md lists those it needs"
            ) from error
        except stripe.InvalidRequestError as error:
            raise StripeRejectedError(error.user_message or str(error), _code(error), error.param or "") from error
        except stripe.StripeError as error:  # too many calls, no connection, Stripe's own failure
            status = error.http_status
            if alone := _is_alone(error):
                message = f"Stripe is at work for the same customer ({status})"
                raise StripeBusyError(message, _seconds(error), alone=alone) from error
            if isinstance(error, stripe.RateLimitError) or status == HTTPStatus.TOO_MANY_REQUESTS:
                raise StripeBusyError(f"Stripe wants fewer calls ({status})", _seconds(error), alone=alone) from error
            raise StripeUnavailableError(
                f"Stripe answers with an error ({status})" if status else "Stripe gives no answer"
            ) from error

    def in_session(self, client: stripe.StripeClient) -> stripe.StripeClient:
        """Return a client in a session of the event stream, which lasts for 15 minutes."""
        return self._client_of(_session(client, self.key(), time.monotonic()))

    def _client_of(self, token: str) -> stripe.StripeClient:
        return _client(token, self.api_base, somebody_waits=self.somebody_waits)


def is_sandbox_key(key: str) -> bool:
    """Say whether a key is a sandbox's, or of test mode, as Stripe writes them (Stripe docs, "API keys")."""
    return key.startswith(SANDBOX_KEYS)


def key_from(provider: "SecretsProvider", secret: str) -> Callable[[bool], str]:
    """Return a way to read the restricted key from Secrets Manager, cached for five minutes."""

    def read(fresh: bool) -> str:  # noqa: FBT001 - the signature that StripeMeters names
        key = _read_secret(provider, secret, fresh=fresh).get(API_KEY, "")
        if not key:
            raise StripeNotConnectedError(NO_KEY)
        return key

    return read


def signing_secret_from(
    provider: "SecretsProvider", secret: str, former: str, clock: Callable[[], float] = time.monotonic
) -> Callable[[], str]:
    """Return a way to read the signing secret of Stripe's notifications, which is empty if there is none.

    Where it has not been given since it has a place of its own, it stands beside the API key, in ``former``. A look is
    believed for ``KEPT_S``, one that finds none, or fails, for ``LOOKED_S``: anyone may bring it about, and it costs
    more than all else that a request without a signature does.
    """
    looks_again_at, found, why = -math.inf, "", ""

    def look() -> str:
        own = _stored(provider, secret, "the signing secret", fresh=True).strip()
        return own or _read_secret(provider, former, fresh=True).get(WEBHOOK_SECRET, "")

    def read() -> str:
        nonlocal looks_again_at, found, why
        if clock() >= looks_again_at:
            found, why = "", ""
            try:
                found = look()
            except StripeNotConnectedError as error:
                why = str(error)
            looks_again_at = clock() + (KEPT_S if found else LOOKED_S)
        if why:
            raise StripeNotConnectedError(why)
        return found

    return read


def _read_secret(provider: "SecretsProvider", secret: str, *, fresh: bool) -> dict[str, str]:
    return secret_values(_stored(provider, secret, "the secret with the Stripe key", fresh=fresh))


def _stored(provider: "SecretsProvider", secret: str, what: str, *, fresh: bool) -> str:
    """Return what a secret holds: nothing if it has no value yet, or is gone."""
    try:
        return str(provider.get(secret, max_age=KEPT_S, force_fetch=fresh) or "")
    except GetParameterError as error:
        cause = error.__cause__ or error.__context__
        code = cause.response["Error"]["Code"] if isinstance(cause, ClientError) else type(cause).__name__
        if code != "ResourceNotFoundException":
            raise StripeNotConnectedError(f"{what} cannot be read: {code}") from error
        return ""


def secret_values(text: str) -> dict[str, str]:
    """Return what Stripe's secret holds: JSON, or the API key alone, as somebody may have put it by hand."""
    try:
        values = json.loads(text)
    except ValueError:
        return {API_KEY: text}
    return values if isinstance(values, dict) else {}


def answer_of(error: Exception) -> str:
    """Return what an error of Stripe is known by: its status, code and request, and none of its words (I8)."""
    answer = error.__cause__
    if not isinstance(answer, stripe.StripeError):
        return type(error).__name__
    return " ".join(str(part) for part in (answer.http_status, answer.code, answer.request_id) if part)


class Transport(stripe.HTTPClient):
    """The SDK's way to the network, with one pool of connections for all threads, and timeouts.

    A call through it costs half the CPU of one through the SDK's own, which is made of requests (0.9 and 1.8 ms on the
    machine of the benchmarks), and CPU is what bounds a worker.
    """

    name = "urllib3"

    def __init__(self, *, somebody_waits: bool = False) -> None:
        super().__init__()
        connect, read = IMPATIENT if somebody_waits else TIMEOUT
        self._pool = urllib3.PoolManager(
            maxsize=CONNECTIONS,
            retries=False,  # the SDK's and the callers' own are enough
            timeout=urllib3.Timeout(connect=connect, read=read),
            ca_certs=stripe.ca_bundle_path,
        )

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        *,
        _usage: list[str] | None = None,
    ) -> tuple[str, int, Mapping[str, str]]:
        """Make one request and return the answer's body, status and headers."""
        try:
            answer = self._pool.request(method.upper(), url, body=post_data, headers=dict(headers or {}))
        except urllib3.exceptions.HTTPError as error:
            raise _not_connected(type(error).__name__) from error
        return answer.data.decode(), answer.status, answer.headers

    def close(self) -> None:
        """Close every connection."""
        self._pool.clear()


def _not_connected(why: str) -> stripe.APIConnectionError:
    return stripe.APIConnectionError(why, should_retry=True)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=4)  # a rotated key and a session's token are new ones
def _client(api_key: str, api_base: str, *, somebody_waits: bool) -> stripe.StripeClient:
    transport: Any = Transport(somebody_waits=somebody_waits)
    addresses: Any = {"api": api_base} if api_base == _API else {"api": api_base, "meter_events": api_base}
    retries = 0 if somebody_waits else RETRIES
    return stripe.StripeClient(api_key, base_addresses=addresses, max_network_retries=retries, http_client=transport)


_sessions: dict[str, tuple[str, float]] = {}
_sessions_lock: Final = threading.Lock()
_SESSION_S: Final = 14 * 60  # a minute less than it lasts


def _session(client: stripe.StripeClient, api_key: str, now: float) -> str:
    """Return the token of a session of the event stream, which is made anew before it ends.

    The lock is not held during the call, behind which all other threads would wait; two at once make one each.
    """
    with _sessions_lock:
        token, made_at = _sessions.get(api_key, ("", 0.0))
    if not token or now - made_at > _SESSION_S:
        token = client.v2.billing.meter_event_session.create().authentication_token
        with _sessions_lock:
            _sessions[api_key] = (token, now)
    return token


def _forget_sessions() -> None:
    with _sessions_lock:
        _sessions.clear()


def _code(error: stripe.StripeError) -> str:
    """Return an error's code, which the SDK hands over for some kinds of errors and leaves in the body of others."""
    return error.code or getattr(error.error, "code", None) or ""


def _is_alone(error: stripe.StripeError) -> bool:
    """Say whether Stripe is only at work for this customer and meter: by the code, or by what a limit would name.

    A limit that is reached names itself in a header, which such an answer lacks (Stripe docs, "Rate limits").
    """
    code = _code(error)
    limit = "stripe-rate-limited-reason" in _headers(error)
    return code in ONE_AT_A_TIME or (isinstance(error, stripe.RateLimitError) and not code and not limit)


def _seconds(error: stripe.StripeError) -> float | None:
    """Return when Stripe wants the next call, if it says so in seconds."""
    try:
        return max(0.0, float(_headers(error)["retry-after"]))
    except (KeyError, ValueError):
        return None


def _headers(error: stripe.StripeError) -> dict[str, str]:
    return {name.lower(): value for name, value in (error.headers or {}).items()}
