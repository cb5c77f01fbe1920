"""JSON Web Tokens as HTTP APIs check them, and an issuer on this machine that signs some.

What API Gateway looks at: docs.aws.amazon.com/apigateway/latest/developerguide/http-api-jwt-authorizer.html
"""

import asyncio
import base64
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp
import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from infra.local.aws.forwarding import Forwarder
from infra.local.aws.sources import Source

ALGORITHMS: Final = ("RS256", "RS384", "RS512")  # "Currently, only RSA-based algorithms are supported"
BEARER: Final = "bearer "


class RefusedError(Exception):
    """A token that lets nobody in; the message says why, and `is_known` whether it is good but lacks a scope."""

    def __init__(self, why: str, *, is_known: bool = False) -> None:
        super().__init__(why)
        self.is_known = is_known


@dataclass(frozen=True, slots=True)
class JwtAuthorizer:
    """A JWT authorizer: where a request has its token, who must have issued it, and for whom."""

    source: Source
    issuer: str
    audience: tuple[str, ...]

    @classmethod
    def read(cls, declared: Mapping[str, Any]) -> Self:
        """Read one as GetAuthorizers describes it."""
        configuration = declared["JwtConfiguration"]
        (source,) = declared["IdentitySource"]
        return cls(Source.read(source), configuration["Issuer"], tuple(configuration.get("Audience", ())))


class Tokens:
    """Checks tokens by the keys of their issuers, which it asks for once, and again for a key that it does not know."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._keys: dict[str, jwt.PyJWKSet] = {}
        self._asking = asyncio.Lock()

    async def claims(self, authorizer: JwtAuthorizer, request: web.Request, scopes: Sequence[str]) -> Mapping[str, Any]:
        """Return what a request's token claims; raise RefusedError if it does not let it in."""
        given = authorizer.source.value(request)
        token = given[len(BEARER) :].strip() if given.lower().startswith(BEARER) else given
        if not token:
            raise RefusedError("there is no token")
        try:
            key = await self._key(authorizer.issuer, jwt.get_unverified_header(token).get("kid", ""))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                issuer=authorizer.issuer,
                options={"verify_aud": False, "require": ["exp"]},
            )
        except (jwt.PyJWTError, aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
            raise RefusedError(str(error)) from error
        _check_audience(claims, authorizer.audience)
        _check_scopes(claims, scopes)
        return claims

    async def _key(self, issuer: str, key_id: str) -> jwt.PyJWK:
        async with self._asking:
            if issuer not in self._keys or key_id not in {key.key_id for key in self._keys[issuer].keys}:
                about = await self._ask(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
                self._keys[issuer] = jwt.PyJWKSet.from_dict(await self._ask(about["jwks_uri"]))
        for key in self._keys[issuer].keys:
            if key.key_id == key_id:
                return key
        raise RefusedError(f"the issuer has no key {key_id!r}")

    async def _ask(self, url: str) -> dict[str, Any]:
        async with self._session.get(url) as answer:
            answer.raise_for_status()
            found: dict[str, Any] = json.loads(await answer.read())
            return found


def _check_audience(claims: Mapping[str, Any], audience: Sequence[str]) -> None:
    """Refuse a token for others; `client_id` is looked at if there is no `aud`."""
    meant = claims.get("aud", claims.get("client_id", []))
    if not {*audience} & {*([meant] if isinstance(meant, str) else meant)}:
        raise RefusedError(f"the token is for {meant!r}")


def _check_scopes(claims: Mapping[str, Any], scopes: Sequence[str]) -> None:
    had = claims.get("scope", claims.get("scp", ""))
    if scopes and not {*scopes} & {*(had.split() if isinstance(had, str) else had)}:
        raise RefusedError(f"the token must have one of the scopes {', '.join(scopes)}", is_known=True)


def logged(claims: Mapping[str, Any]) -> dict[str, str]:
    """Return claims as they are logged: text as it is, numbers as digits, several values between brackets."""
    return {f"authorizer.claims.{name}": _text(value) for name, value in claims.items()}


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"[{' '.join(_text(one) for one in value)}]"
    return value if isinstance(value, str) else json.dumps(value)


class Issuer(Forwarder):
    """An identity provider on a free port of 127.0.0.1 for as long as its `with` lasts; `url` is what it calls itself.

    It tells its public key as OpenID Connect has it (Discovery 1.0, section 4), and gives a token for the asking.
    """

    AUDIENCE: Final = "items"

    def __init__(self) -> None:
        super().__init__()
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def token(self, subject: str, *, life_s: int = 3600, **claims: Any) -> str:
        """Return a signed token of a subject; one with a negative life has expired."""
        now = int(time.time())
        told = {"iss": self.url, "aud": self.AUDIENCE, "sub": subject, "iat": now + min(life_s, 0), "exp": now + life_s}
        return jwt.encode(told | claims, self._key, algorithm=ALGORITHMS[0], headers={"kid": "1"})

    async def serve(self) -> None:
        """Tell whoever asks."""
        await self.listen(self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        match request.path:
            case "/.well-known/openid-configuration":
                return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/.well-known/jwks.json"})
            case "/.well-known/jwks.json":
                numbers = self._key.public_key().public_numbers()
                key = {"kty": "RSA", "use": "sig", "alg": ALGORITHMS[0], "kid": "1"}
                return web.json_response({"keys": [key | {"n": _number(numbers.n), "e": _number(numbers.e)}]})
            case _:
                return web.Response(status=404)


def _number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8)).rstrip(b"=").decode()
