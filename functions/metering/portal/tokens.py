"""Portal tokens: what lets one customer see its own usage, for a day at most.

There are two, told apart by the claim ``use``: a link's, which a browser's history keeps, opens nothing but a session;
and a session's, which shows usage, and which a page keeps for its tab alone. So a link that somebody finds is worth
nothing once it has ended, however long the session goes on that it opened. What else may be done than to look, the
claim ``may`` lists: a session may what its link may. A token without it shows, and changes nothing.

A token is a JWT (RFC 7519) under HMAC-SHA-256. Its key is a secret's value: the current one signs, and that one and the
previous one verify, so that a link outlives the rotation of the key. ``kid`` tells them apart: the first eight hex
digits of the key's SHA-256, which say nothing about a random key of 256 bits.
"""

import hashlib
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import jwt

from metering.model.subjects import is_id

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient

LONGEST_LIFE: Final = timedelta(hours=24)
LINK_LIFE: Final = timedelta(minutes=10)
"""How long a link opens sessions, unless more is asked for: it is opened by whoever has just asked for it."""

SESSION_LIFE: Final = timedelta(hours=8)
"""How long a session shows usage: a working day."""

SKEW: Final = timedelta(seconds=30)
"""How far the clocks of who signs and who verifies may differ."""

MAX_AGE_S: Final = 300
"""Seconds for which keys that verify are kept before they are read again: as long as an ended key may go on."""

PATIENCE_S: Final = 10
"""Seconds between two reads that signing or unknown keys' ids cause, whoever asks."""

LONGEST_TOKEN: Final = 3072
"""That of the longest id, of letters that JSON spells with twelve signs each, has 2,300 characters."""

SHORTEST_KEY: Final = 48

_ALGORITHM: Final = "HS256"
_CLAIMS: Final = ("sub", "aud", "iat", "exp", "use")


class Use(StrEnum):
    """What a token is for."""

    LINK = "link"
    """It opens sessions."""

    SESSION = "session"
    """It shows usage."""


class Right(StrEnum):
    """What a token lets somebody do besides looking."""

    BUDGET = "budget"
    """Set the customer's budget."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whom a token is for, and what it lets them do besides looking."""

    customer: str
    may: frozenset[Right]


_USED: Final = {
    Use.LINK: "the token is not that of a link, which a session is opened with",
    Use.SESSION: "the token is that of a link: POST /v1/session gives one for it that shows usage",
}


class TokenRefusedError(Exception):
    """The token opens nothing; the message says why, and nothing of what it holds."""


def key_id(key: str) -> str:
    """Return what names a key in a token's header."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def issue(  # noqa: PLR0913 - a token's claims
    key: str,
    *,
    deployment: str,
    customer: str,
    now: datetime,
    life: timedelta,
    use: Use,
    may: Collection[Right] = (),
) -> tuple[str, datetime]:
    """Return a token for one customer, and when it ends; ValueError if it would live too long."""
    if not timedelta(minutes=1) <= life <= LONGEST_LIFE:
        raise ValueError(f"a token lives from one minute to 24 hours, got {life}")
    begins = int(now.timestamp())
    ends = begins + int(life.total_seconds())
    claims: dict[str, Any] = {"sub": customer, "aud": deployment, "iat": begins, "exp": ends, "use": use}
    if may:
        claims["may"] = sorted(set(may))
    token = jwt.encode(claims, key, algorithm=_ALGORITHM, headers={"kid": key_id(key)})
    return token, datetime.fromtimestamp(ends, UTC)


def verify(token: str, key_of: Callable[[str], str | None], *, deployment: str, now: datetime, use: Use) -> Bearer:
    """Return whom a token of this use is for, or raise TokenRefusedError.

    ``key_of`` returns the key of an id, or None. The times are compared with ``now`` and nothing else.
    """
    if len(token) > LONGEST_TOKEN:
        raise TokenRefusedError("the token is too long")
    try:
        named = jwt.get_unverified_header(token).get("kid")
        key = key_of(named) if isinstance(named, str) else None
        if key is None:
            raise TokenRefusedError("the token is signed with a key that is not, or no longer, known")
        claims = jwt.decode(
            token,
            key,
            algorithms=[_ALGORITHM],  # never what the token says: "none" and public keys are no HMAC
            audience=deployment,
            options={
                "require": list(_CLAIMS),
                "strict_aud": True,
                "verify_exp": False,
                "verify_iat": False,
            },
        )
    except jwt.PyJWTError as error:
        raise TokenRefusedError("the token is not one of this deployment") from error
    _check_times(claims, now)
    if claims["use"] != use:
        raise TokenRefusedError(_USED[use])
    customer: object = claims["sub"]
    if not is_id(customer):
        raise TokenRefusedError("the token names no customer")
    return Bearer(customer, _rights(claims.get("may", [])))


def _rights(may: object) -> frozenset[Right]:
    """Return the rights that a token lists; one that is not known here lets nobody do anything."""
    if not isinstance(may, list):
        raise TokenRefusedError("the token does not list what may be done with it")
    return frozenset(right for right in Right if right in may)


def _check_times(claims: Mapping[str, Any], now: datetime) -> None:
    begins, ends = claims["iat"], claims["exp"]
    if type(begins) is not int or type(ends) is not int:
        raise TokenRefusedError("the token does not say when it begins and ends")
    if not 0 < ends - begins <= LONGEST_LIFE.total_seconds():
        raise TokenRefusedError("the token would live for more than 24 hours")
    if begins > (now + SKEW).timestamp():
        raise TokenRefusedError("the token begins in the future")
    if ends <= now.timestamp():
        raise TokenRefusedError("the token has expired")


@dataclass(slots=True)
class PortalKeys:
    """The keys in the secret, kept for ``MAX_AGE_S``. ``clock`` counts seconds."""

    client: "SecretsManagerClient"
    secret: str
    clock: Callable[[], float]
    _keys: dict[str, str] = field(default_factory=dict)
    _current: str = ""
    _read_at: float | None = None
    _looked_at: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def current(self) -> str:
        """Return the key that signs: never one that was ended more than ``PATIENCE_S`` ago."""
        with self._lock:
            self._refresh(PATIENCE_S)
            return self._current

    def of(self, name: str) -> str | None:
        """Return the key of this id, if it is the current or the previous one."""
        with self._lock:
            self._refresh(MAX_AGE_S)
            if name not in self._keys and self._is_time_to_look():
                self._refresh(0)
            return self._keys.get(name)

    def _is_time_to_look(self) -> bool:
        """Say whether a key that is not known may be looked for: after a rotation at once, and else now and then."""
        now = self.clock()
        if self._looked_at is not None and now - self._looked_at < PATIENCE_S:
            return False
        self._looked_at = now
        return True

    def _refresh(self, max_age: float) -> None:
        now = self.clock()
        if self._read_at is not None and now - self._read_at < max_age:
            return
        current = self.client.get_secret_value(SecretId=self.secret)["SecretString"]
        try:
            previous = self.client.get_secret_value(SecretId=self.secret, VersionStage="AWSPREVIOUS")["SecretString"]
        except self.client.exceptions.ResourceNotFoundException:  # it was never rotated
            previous = current
        # A key that somebody put by hand must not be one that can be guessed: with an empty one, anyone could sign.
        if len(current) < SHORTEST_KEY:
            raise ValueError(f"the portal's key must have at least {SHORTEST_KEY} characters, got {len(current)}")
        self._current = current
        self._keys = {key_id(key): key for key in (previous, current) if len(key) >= SHORTEST_KEY}
        self._read_at = now
