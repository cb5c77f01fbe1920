"""Authorizing: who calls an HTTP API, by a JSON Web Token, and whether it is stopped.

The token is checked as API Gateway's own JWT authorizers do (API Gateway Developer Guide, "Control access to HTTP APIs
with JWT authorizers in API Gateway"): signature, issuer, audience, and its times.
"""

import json
import re
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import jwt
from aws_lambda_powertools import Logger

from metering.model.limits import Level
from metering.stores.aws import ERRORS, code_of
from metering.stores.gate_list import GateList

ALGORITHMS: Final = ("RS256", "RS384", "RS512")
"""As API Gateway has it: a key of the issuer's that is public can then never pass for a shared one."""

ASKED_AGAIN_S: Final = 60.0
"""An issuer is asked for its keys again at most so often, whatever keys callers make up."""

ASKED_FOR_S: Final = 2.0

_BEARER: Final = "bearer "
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")

logger = Logger(child=True)

Fetch = Callable[[str], Any]


class TokenRefusedError(Exception):
    """A token that lets nobody in; the message says why, and nothing of what it holds."""


def fetch(url: str) -> Any:
    """Return the JSON at an address of the issuer's; raise OSError or ValueError if it has none."""
    with urllib.request.urlopen(url, timeout=ASKED_FOR_S) as answer:  # noqa: S310 - declared in app.py, which checks it
        return json.load(answer)


@dataclass(slots=True)
class IssuerKeys:
    """The keys by which an issuer signs, kept, and read again for one that is not among them."""

    issuer: str
    clock: Callable[[], float]
    fetch: Fetch = fetch
    _keys: dict[str, jwt.PyJWK] = field(default_factory=dict)
    _asked_at: float | None = None

    def key(self, key_id: str) -> jwt.PyJWK:
        """Return a key; raise TokenRefusedError if the issuer has no such key, OSError if it does not answer."""
        if key_id not in self._keys and (self._asked_at is None or self.clock() - self._asked_at >= ASKED_AGAIN_S):
            about = self.fetch(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
            told = jwt.PyJWKSet.from_dict(self.fetch(about["jwks_uri"]))
            self._keys, self._asked_at = {key.key_id: key for key in told.keys if key.key_id}, self.clock()
        if key_id not in self._keys:
            raise TokenRefusedError("the issuer has no such key")
        return self._keys[key_id]


@dataclass(frozen=True, slots=True)
class Authorizer:
    """Says whether a request may pass; ``claim`` names the caller, as the access log bills it.

    ``fails_open`` lets callers with a good token pass where it cannot be read whether they are stopped.
    """

    keys: IssuerKeys
    audience: tuple[str, ...]
    claim: str
    callers: GateList
    fails_open: bool

    def answer(self, event: Mapping[str, Any], now: datetime) -> dict[str, Any]:
        """Return what an HTTP API expects of a simple response; its ``context`` is what the token claims.

        Raises what keeps the issuer's keys from being read, which API Gateway answers by 500.
        """
        try:
            claims = self._claims(_token(event))
        except TokenRefusedError as error:
            logger.info("request refused", reason=str(error))
            return {"isAuthorized": False}
        if self._is_stopped(claims[self.claim], now):
            return {"isAuthorized": False}
        return {"isAuthorized": True, "context": _shown(claims)}

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            key = self.keys.key(str(jwt.get_unverified_header(token).get("kid", "")))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                issuer=self.keys.issuer,
                options={"verify_aud": False, "require": ["exp"]},
            )
        except jwt.PyJWTError as error:
            raise TokenRefusedError(type(error).__name__) from error
        # As documented: `client_id` counts where there is no `aud`.
        named = claims.get("aud", claims.get("client_id"))
        if not {*self.audience} & {*(named if isinstance(named, list) else [named])}:
            raise TokenRefusedError("it is for somebody else")
        if not (isinstance(claims.get(self.claim), str) and claims[self.claim]):
            raise TokenRefusedError(f"its claim {self.claim!r} names nobody")
        return claims

    def _is_stopped(self, caller: str, now: datetime) -> bool:
        """Say whether a caller is stopped; who is slowed may pass, since an HTTP API has no lane."""
        try:
            item = self.callers.caller(caller)
        except ERRORS as error:
            logger.error("who is closed could not be read", code=code_of(error), fails_open=self.fails_open)  # noqa: TRY400 - it may name keys
            return not self.fails_open
        if item is None or item["level"]["S"] != Level.STOPPED.name.lower():
            return False
        until = int(item["until"]["N"])
        return not until or now.timestamp() < until


def _token(event: Mapping[str, Any]) -> str:
    (given,) = event.get("identitySource") or [""]
    return str(given[len(_BEARER) :] if given.lower().startswith(_BEARER) else given).strip()


def _shown(claims: Mapping[str, Any]) -> dict[str, str]:
    """Return the claims that the access log can name, as text; lists and objects are none."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in claims.items()
        if isinstance(value, str | int | float) and _NAME.fullmatch(name)
    }
