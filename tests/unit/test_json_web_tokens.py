"""Whom the local gateway lets in to an HTTP API by a JSON Web Token (I7)."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp.test_utils import make_mocked_request

from infra.local.aws.json_web_tokens import Issuer, JwtAuthorizer, RefusedError, Tokens, logged


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """An issuer on this machine."""
    with Issuer() as started:
        yield started


def _authorizer(issuer: Issuer) -> JwtAuthorizer:
    configuration = {"Issuer": issuer.url, "Audience": ["items"]}
    return JwtAuthorizer.read({"IdentitySource": ["$request.header.Authorization"], "JwtConfiguration": configuration})


def _claims(issuer: Issuer, header: str, *scopes: str, url: str = "") -> dict[str, Any]:
    request = make_mocked_request("GET", "/items", headers={"authorization": header} if header else {})

    async def check() -> dict[str, Any]:
        async with aiohttp.ClientSession() as session:
            authorizer = _authorizer(issuer)
            asked = replace(authorizer, issuer=url or authorizer.issuer)
            return dict(await Tokens(session).claims(asked, request, scopes))

    return asyncio.run(check())


@pytest.mark.parametrize("prefix", ["", "Bearer ", "bearer "])
def test_a_good_token_lets_in_with_what_it_claims(issuer: Issuer, prefix: str) -> None:
    """Whom it is about, who has issued it, and whatever else it says."""
    claims = _claims(issuer, prefix + issuer.token("auth0|abc", user="ada"))
    assert (claims["sub"], claims["iss"], claims["user"]) == ("auth0|abc", issuer.url, "ada")


def test_no_token_lets_nobody_in(issuer: Issuer) -> None:
    """Nor does what is none, one that has expired, or one for others."""
    for header, why in {
        "": "there is no token",
        "Bearer": "Not enough segments",
        "Bearer nonsense": "Not enough segments",
        issuer.token("ada", life_s=-60): "Signature has expired",
        issuer.token("ada", aud="others"): "the token is for 'others'",
        issuer.token("ada", iss="https://login.example.com/"): "Invalid issuer",
    }.items():
        with pytest.raises(RefusedError, match=why):
            _claims(issuer, header)


def test_a_token_that_somebody_else_has_signed_lets_nobody_in(issuer: Issuer) -> None:
    """Neither by another key of the same name, nor by a secret, nor by none."""
    with Issuer() as other:
        forged = other.token("ada", iss=issuer.url)
    said = jwt.decode(forged, options={"verify_signature": False})
    with pytest.raises(RefusedError, match="Signature verification failed"):
        _claims(issuer, forged)
    with pytest.raises(RefusedError):
        _claims(issuer, jwt.encode(said, "s" * 32, algorithm="HS256", headers={"kid": "1"}))
    with pytest.raises(RefusedError):
        _claims(issuer, jwt.encode(said, "", algorithm="none", headers={"kid": "1"}))
    with pytest.raises(RefusedError, match="the issuer has no key '2'"):
        _claims(issuer, jwt.encode(said, "s" * 32, algorithm="HS256", headers={"kid": "2"}))


def test_an_issuer_that_does_not_answer_lets_nobody_in(issuer: Issuer) -> None:
    """The request is refused, and has its line."""
    with pytest.raises(RefusedError):
        _claims(issuer, issuer.token("ada"), url="http://127.0.0.1:1")


def test_a_route_may_ask_for_a_scope(issuer: Issuer) -> None:
    """One of several is enough; without any of them it is known who is refused."""
    token = issuer.token("ada", scope="read write")
    assert _claims(issuer, token, "write", "delete")["sub"] == "ada"
    assert _claims(issuer, issuer.token("ada", scp=["delete"]), "write", "delete")["sub"] == "ada"
    with pytest.raises(RefusedError, match="one of the scopes delete") as refused:
        _claims(issuer, token, "delete")
    assert refused.value.is_known


def test_claims_are_logged_as_text() -> None:
    """Numbers as digits, several values between brackets."""
    told = {"sub": "auth0|abc", "cognito:username": "ada", "n": 3, "yes": True, "groups": ["a", "b"]}
    assert logged(told) == {
        "authorizer.claims.sub": "auth0|abc",
        "authorizer.claims.cognito:username": "ada",
        "authorizer.claims.n": "3",
        "authorizer.claims.yes": "true",
        "authorizer.claims.groups": "[a b]",
    }
