"""Who may call an HTTP API: by a token that is good, and as long as it is not stopped."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from infra.local.aws.json_web_tokens import Issuer
from metering.limits.authorizing import Authorizer, IssuerKeys
from metering.model.limits import Level
from metering.stores.gate_list import GateList
from tests.doubles.dynamodb import Tables

NOW = datetime.now(UTC)
AT = int(NOW.timestamp())


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """An identity provider that signs tokens."""
    with Issuer() as there:
        yield there


@pytest.fixture
def callers() -> GateList:
    """Who is closed: nobody."""
    return GateList(Tables(), "access")  # type: ignore[arg-type]


def authorizer(issuer: Issuer, callers: GateList, **more: Any) -> Authorizer:
    """Return an authorizer of the issuer's tokens."""
    keys = more.pop("keys", None) or IssuerKeys(issuer.url, lambda: 0.0)
    usual: dict[str, Any] = {"audience": ("items",), "claim": "sub", "callers": callers, "fails_open": True}
    return Authorizer(keys, **(usual | more))


def asked(token: str) -> dict[str, Any]:
    """Return what API Gateway asks of a request with this token (payload format version 2.0)."""
    return {"version": "2.0", "type": "REQUEST", "identitySource": [token], "routeKey": "GET /items"}


def test_a_good_token_lets_its_caller_in(issuer: Issuer, callers: GateList) -> None:
    """What it claims is there for the access log, as text."""
    claims: dict[str, Any] = {"seats": 3, "trial": True, "groups": ["a"], "cognito:username": "x"}
    token = issuer.token("acme", **claims)
    answer = authorizer(issuer, callers).answer(asked(f"Bearer {token}"), NOW)
    assert answer["isAuthorized"] is True
    told = answer["context"]
    assert (told["sub"], told["seats"], told["trial"], told["aud"]) == ("acme", "3", "true", "items")
    assert not {"groups", "cognito:username"} & told.keys()


def test_a_caller_that_is_stopped_is_refused(issuer: Issuer, callers: GateList) -> None:
    """As long as the reason holds; others go on, and so does who is slowed."""
    door, acme, globex = authorizer(issuer, callers), asked(issuer.token("acme")), asked(issuer.token("globex"))
    callers.close_caller("acme", Level.STOPPED, since=AT, until=AT + 60, why="limit:requests/day:2026-11-22T00")
    assert (door.answer(acme, NOW)["isAuthorized"], door.answer(globex, NOW)["isAuthorized"]) == (False, True)
    assert door.answer(acme, NOW + timedelta(seconds=60))["isAuthorized"] is True
    callers.close_caller("acme", Level.STOPPED, since=AT, until=0, why="operator")
    assert door.answer(acme, NOW)["isAuthorized"] is False
    callers.close_caller("acme", Level.SLOWED, since=AT, until=0, why="limit:requests/day:2026-11-22T00")
    assert door.answer(acme, NOW)["isAuthorized"] is True
    callers.close_caller("acme", Level.STOPPED, since=AT, until=0, why="operator")
    callers.open_caller("acme")
    assert door.answer(acme, NOW)["isAuthorized"] is True


@pytest.mark.parametrize("claims", [{"aud": "others"}, {"iss": "https://evil.example/"}, {"aud": ["others", "more"]}])
def test_a_token_of_or_for_others_is_refused(issuer: Issuer, callers: GateList, claims: dict[str, Any]) -> None:
    """I7: whom a request is billed to is what the issuer has signed, for this API."""
    answer = authorizer(issuer, callers).answer(asked(issuer.token("acme", **claims)), NOW)
    assert answer == {"isAuthorized": False}


def test_a_token_that_is_over_forged_or_none_is_refused(issuer: Issuer, callers: GateList) -> None:
    """I7: a key of the caller's own, one that passes for a shared secret, and no signature at all."""
    door = authorizer(issuer, callers)
    claims = {"iss": issuer.url, "aud": "items", "sub": "acme", "exp": AT + 60}
    shared = jwt.encode(claims, "s" * 64, algorithm="HS256", headers={"kid": "1"})
    unsigned = jwt.encode(claims, "", algorithm="none", headers={"kid": "1"})
    unknown = jwt.encode(claims, "s" * 64, algorithm="HS256", headers={"kid": "2"})
    for token in (issuer.token("acme", life_s=-60), shared, unsigned, unknown, "", "Bearer ", "no.token.at-all"):
        assert door.answer(asked(token), NOW) == {"isAuthorized": False}


@pytest.mark.parametrize("subject", ["", 7, None])
def test_a_token_that_names_nobody_is_refused(issuer: Issuer, callers: GateList, subject: Any) -> None:
    """It could be billed to nobody."""
    answer = authorizer(issuer, callers, claim="customer").answer(asked(issuer.token("x", customer=subject)), NOW)
    assert answer == {"isAuthorized": False}


def test_a_client_id_is_looked_at_where_there_is_no_audience(issuer: Issuer, callers: GateList) -> None:
    """As API Gateway does: Cognito's access tokens have one."""
    token = issuer.token("acme", aud=None, client_id="items")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["aud"] is None
    assert authorizer(issuer, callers).answer(asked(token), NOW) == {"isAuthorized": False}
    private = {name: value for name, value in claims.items() if name != "aud"}
    signed = jwt.encode(private, issuer._key, algorithm="RS256", headers={"kid": "1"})
    assert authorizer(issuer, callers).answer(asked(signed), NOW)["isAuthorized"] is True


@pytest.mark.parametrize("fails_open", [True, False])
def test_a_table_that_is_away_lets_in_or_keeps_out_as_declared(
    issuer: Issuer, fails_open: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has no good token is refused all the same."""
    tables = Tables()
    door = authorizer(issuer, GateList(tables, "access"), fails_open=fails_open)  # type: ignore[arg-type]
    failures: list[Exception] = [
        ClientError({"Error": {"Code": "ResourceNotFoundException", "Message": "gone"}}, "GetItem"),
        ConnectTimeoutError(endpoint_url="https://dynamodb.example"),
    ]
    for failure in failures:

        def fail(failure: Exception = failure, **_: Any) -> None:
            raise failure

        monkeypatch.setattr(tables, "get_item", fail)
        assert door.answer(asked(issuer.token("acme")), NOW)["isAuthorized"] is fails_open
        assert door.answer(asked("x"), NOW)["isAuthorized"] is False


def test_an_issuer_is_asked_for_its_keys_once(issuer: Issuer, callers: GateList) -> None:
    """And again for one that it may have made since, a minute later at the earliest: callers can make up any number."""
    seconds, urls = [0.0], []
    good = IssuerKeys(issuer.url, lambda: 0.0)

    def count(url: str) -> Any:
        urls.append(url)
        return good.fetch(url)

    door = authorizer(issuer, callers, keys=IssuerKeys(issuer.url, lambda: seconds[0], count))
    made_up = jwt.encode({"sub": "acme"}, "s" * 64, algorithm="HS256", headers={"kid": "made-up"})
    for token in [issuer.token("acme"), *[made_up] * 3, issuer.token("acme")]:
        door.answer(asked(token), NOW)
    assert len(urls) == 2  # where they are, and the keys
    seconds[0] = 60.0
    door.answer(asked(made_up), NOW)
    assert len(urls) == 4


def test_an_issuer_that_does_not_answer_is_no_refusal(callers: GateList) -> None:
    """API Gateway answers 500 then, and nothing is kept."""

    def away(_: str) -> Any:
        raise OSError("connection refused")

    keys = IssuerKeys("https://login.example.com", lambda: 0.0, away)
    door = Authorizer(keys, ("items",), "sub", callers, fails_open=True)
    token = jwt.encode({"sub": "acme"}, "s" * 64, algorithm="HS256", headers={"kid": "1"})
    with pytest.raises(OSError, match="connection refused"):
        door.answer(asked(token), NOW)
