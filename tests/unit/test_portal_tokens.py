"""Portal tokens: what opens one customer's usage, and everything that must not."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from metering.portal.tokens import Bearer, Right, TokenRefusedError, Use, issue, key_id, verify

KEY = "k" * 64
OTHER_KEY = "o" * 64
NOW = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
AT = int(NOW.timestamp())
CLAIMS = {"sub": "acme", "aud": "Metering", "iat": AT, "exp": AT + 3600, "use": "session"}
DAY = timedelta(days=1)


def held(token: str, *, now: datetime = NOW, deployment: str = "Metering") -> Bearer:
    """Return whom a token is for."""
    return verify(token, {key_id(KEY): KEY}.get, deployment=deployment, now=now, use=Use.SESSION)


def opens(token: str, *, now: datetime = NOW, deployment: str = "Metering") -> str:
    """Return the customer that a token opens."""
    return held(token, now=now, deployment=deployment).customer


def signed(claims: Any, key: str = KEY, algorithm: str = "HS256", **header: Any) -> str:
    """Return a token with these claims."""
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": key_id(KEY), **header})


def piece(value: Any) -> str:
    """Return a part of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def by_hand(header: Any, claims: Any, key: bytes = KEY.encode()) -> str:
    """Return a token that no library would make, with a true HMAC of it."""
    said = f"{piece(header)}.{piece(claims)}"
    signature = base64.urlsafe_b64encode(hmac.digest(key, said.encode(), hashlib.sha256)).rstrip(b"=").decode()
    return f"{said}.{signature}"


def test_a_token_opens_its_customers_usage_until_it_ends() -> None:
    """And not a second longer."""
    token, ends = issue(KEY, deployment="Metering", customer="acme", now=NOW, life=timedelta(hours=2), use=Use.SESSION)
    assert ends == NOW + timedelta(hours=2)
    assert opens(token) == opens(token, now=ends - timedelta(seconds=1)) == "acme"
    with pytest.raises(TokenRefusedError, match="expired"):
        opens(token, now=ends)


@pytest.mark.parametrize("life", [timedelta(0), timedelta(seconds=59), timedelta(hours=24, seconds=1)])
def test_no_token_is_made_for_longer_than_a_day(life: timedelta) -> None:
    """Nor for no time at all."""
    with pytest.raises(ValueError, match="from one minute to 24 hours"):
        issue(KEY, deployment="Metering", customer="acme", now=NOW, life=life, use=Use.LINK)


def _public_key() -> str:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public.decode()


def _rs256() -> str:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return jwt.encode(CLAIMS, private, algorithm="RS256", headers={"kid": key_id(KEY)})


def _tampered(part: int, change: Callable[[str], str]) -> str:
    parts = signed(CLAIMS).split(".")
    parts[part] = change(parts[part])
    return ".".join(parts)


ATTACKS: dict[str, Callable[[], str]] = {
    "signed with another key": lambda: signed(CLAIMS, OTHER_KEY),
    "signed with an empty key": lambda: by_hand({"alg": "HS256", "kid": key_id(KEY)}, CLAIMS, b""),
    "signed with its own kid": lambda: by_hand({"alg": "HS256", "kid": key_id(KEY)}, CLAIMS, key_id(KEY).encode()),
    "expired": lambda: signed(CLAIMS | {"iat": AT - 7200, "exp": AT - 1}),
    "of another deployment": lambda: signed(CLAIMS | {"aud": "Metering-eu"}),
    "of several deployments": lambda: signed(CLAIMS | {"aud": ["Metering", "Metering-eu"]}),
    "alg none": lambda: f"{piece({'alg': 'none', 'kid': key_id(KEY)})}.{piece(CLAIMS)}.",
    "alg None": lambda: f"{piece({'alg': 'None', 'kid': key_id(KEY)})}.{piece(CLAIMS)}.",
    "alg none with a true signature": lambda: by_hand({"alg": "none", "kid": key_id(KEY)}, CLAIMS),
    "no alg": lambda: by_hand({"kid": key_id(KEY)}, CLAIMS),
    "another HMAC": lambda: signed(CLAIMS, algorithm="HS512"),
    "a signature of RSA": _rs256,
    "an HMAC by a public key": lambda: by_hand({"alg": "HS256", "kid": key_id(KEY)}, CLAIMS, _public_key().encode()),
    "another customer put in": lambda: _tampered(1, lambda _: piece(CLAIMS | {"sub": "globex"})),
    "a longer life put in": lambda: _tampered(1, lambda _: piece(CLAIMS | {"exp": AT + 7200})),
    "another kid put in": lambda: _tampered(
        0, lambda _: piece({"alg": "HS256", "typ": "JWT", "kid": key_id(OTHER_KEY)})
    ),
    "a path for a kid": lambda: _tampered(0, lambda _: piece({"alg": "HS256", "kid": "../../etc/passwd"})),
    "a list for a kid": lambda: by_hand({"alg": "HS256", "kid": [key_id(KEY)]}, CLAIMS),
    "no kid": lambda: by_hand({"alg": "HS256"}, CLAIMS),
    "no signature": lambda: _tampered(2, lambda _: ""),
    "a signature cut short": lambda: _tampered(2, lambda text: text[:-4]),
    "the key in its header": lambda: by_hand(
        {"alg": "HS256", "jwk": {"kty": "oct", "k": piece(OTHER_KEY)}}, CLAIMS, OTHER_KEY.encode()
    ),
    "an extension that must be understood": lambda: signed(CLAIMS, crit=["b64"], b64=False),
    "a life of more than a day": lambda: signed(CLAIMS | {"exp": AT + 86_401}),
    "an end before its beginning": lambda: signed(CLAIMS | {"iat": AT + 20, "exp": AT + 10}),
    "a beginning in the future": lambda: signed(CLAIMS | {"iat": AT + 60, "exp": AT + 120}),
    "not valid yet": lambda: signed(CLAIMS | {"nbf": 2**40}),
    **{f"no {name}": lambda name=name: signed({k: v for k, v in CLAIMS.items() if k != name}) for name in CLAIMS},  # type: ignore[misc]
    "an end in words": lambda: signed(CLAIMS | {"exp": "tomorrow"}),
    "an end of text": lambda: signed(CLAIMS | {"exp": str(AT + 60)}),
    "an end with a fraction": lambda: signed(CLAIMS | {"exp": AT + 60.5}),
    "an end that is true": lambda: signed(CLAIMS | {"iat": False, "exp": True}),
    "an end that never comes": lambda: by_hand({"alg": "HS256", "kid": key_id(KEY)}, CLAIMS | {"exp": float("inf")}),
    "a link's": lambda: signed(CLAIMS | {"use": "link"}),
    "for any use": lambda: signed(CLAIMS | {"use": ["link", "session"]}),
    "no customer": lambda: signed(CLAIMS | {"sub": ""}),
    "two customers": lambda: by_hand({"alg": "HS256", "kid": key_id(KEY)}, CLAIMS | {"sub": ["acme", "globex"]}),
    "a customer that is no id": lambda: signed(CLAIMS | {"sub": "-"}),
    "a customer with a line break": lambda: signed(CLAIMS | {"sub": "acme\n"}),
    "claims that are a list": lambda: by_hand({"alg": "HS256", "kid": key_id(KEY)}, [CLAIMS]),
    "a header that is a list": lambda: by_hand(["HS256"], CLAIMS),
    "a right that is no list": lambda: signed(CLAIMS | {"may": "budget"}),
    "a right put in": lambda: _tampered(1, lambda _: piece(CLAIMS | {"may": ["budget"]})),
    "not a token": lambda: "not a token",
    "two points": lambda: "..",
    "an encrypted token's five parts": lambda: "a.b.c.d.e",
    "an API key": lambda: "sk_live_" + "a" * 24,
    "far too long": lambda: signed(CLAIMS | {"more": "x" * 3000}),
    "not ASCII": lambda: "ü.ü.ü",
    "nothing": lambda: "",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_other_token_opens_anything(attack: str) -> None:
    """I7: and the reason says nothing of what is in it."""
    token = ATTACKS[attack]()
    with pytest.raises(TokenRefusedError) as refused:
        opens(token)
    assert not {"acme", "globex", KEY, key_id(KEY)} & set(str(refused.value).replace(":", " ").split())


def test_a_token_lets_nobody_do_more_than_it_lists() -> None:
    """Those of before list nothing and go on to show; a right that nobody knows here is none."""
    whose: dict[str, Any] = {"deployment": "Metering", "customer": "acme", "now": NOW, "life": DAY, "use": Use.SESSION}
    assert held(issue(KEY, **whose)[0]) == held(signed(CLAIMS)) == Bearer("acme", frozenset())
    assert held(issue(KEY, **whose, may=[Right.BUDGET, Right.BUDGET])[0]) == Bearer("acme", frozenset({Right.BUDGET}))
    assert held(signed(CLAIMS | {"may": ["everything", ["budget"], None]})) == Bearer("acme", frozenset())


def test_a_token_that_only_shows_is_as_it_was() -> None:
    """An older version of the functions, to which one goes back, reads it."""
    token, _ = issue(KEY, deployment="Metering", customer="acme", now=NOW, life=DAY, use=Use.LINK)
    assert set(jwt.decode(token, options={"verify_signature": False})) == {"sub", "aud", "iat", "exp", "use"}


def test_clocks_may_differ_by_half_a_minute() -> None:
    """Whoever signs may be a little ahead."""
    assert opens(signed(CLAIMS | {"iat": AT + 29})) == "acme"


def test_a_keys_id_says_nothing_of_it() -> None:
    """Eight hex digits of its hash."""
    assert len(key_id(KEY)) == 8
    assert key_id(KEY) != key_id(OTHER_KEY)
