"""The whole way of an HTTP API's requests on the embedded AWS: tokens, access log, functions, tables, Stripe."""

import asyncio
import io
import uuid
from collections.abc import Sequence

import aiohttp
import pytest
from rich.console import Console

from infra.local.aws.json_web_tokens import Issuer
from infra.local.demo import steps as demo
from infra.stack import SampleHttpApi
from metering.model.metrics import declared
from tests.e2e.conftest import Deployed


def test_every_request_with_a_token_is_counted_billed_and_at_stripe(http: Deployed) -> None:
    """I1 to I5: the demo itself, in small: sent = counted = ledger = Stripe, in total and by route."""
    result = demo.play(http.cloud, requests=120, say=Console(file=io.StringIO()))
    document = result.as_json()
    assert document["equal"] is True, document
    assert (document["road"], document["requests"]) == ("subscription", 120)
    assert [customer["id"] for customer in document["customers"]] == ["acme", "globex", "initech"]
    acme = document["customers"][0]
    assert set(acme["metrics"]) == {"requests", "response_bytes", "users"}
    assert set(acme["by_dimension"]["requests"]) == {"GET /items", "GET /items/{id}", "POST /messages"}
    # Seven users came with both of its subjects, and count once.
    assert set(acme["metrics"]["users"].values()) == {7}


def test_the_deployed_stage_carries_our_format(http: Deployed) -> None:
    """I7, I8: what the gateway renders is what the template says."""
    apigateway = http.cloud.emulator.client("apigatewayv2")
    stage = apigateway.get_stage(ApiId=http.cloud.sample["ApiId"], StageName=http.cloud.sample["StageName"])
    apigateway.close()
    assert stage["AccessLogSettings"]["Format"] == SampleHttpApi.ACCESS_LOG.format(
        http.cloud.outputs.nonces, declared(SampleHttpApi.METRICS)
    )


def test_whoever_cannot_prove_it_bills_nobody(http: Deployed) -> None:
    """I7: without a token, with one that has expired, and with one that another has signed in the same name."""
    good = _issuer(http)
    with Issuer() as other:
        forged = other.token("victim", iss=good.url)
    refused = ("", good.token("victim", life_s=-60), good.token("victim", aud="others"), forged)
    tokens = [*refused, good.token("honest")]
    assert _statuses(http, tokens) == [401, 401, 401, 401, 200]
    demo.wait_until(lambda: _counted(http, "honest") == 1)
    assert _counted(http, "victim") == 0


@pytest.mark.parametrize("text", ['","key":"victim', '"}\n{"key":"victim"}', "\\", '\\"', "ünï\u2028cödé", "a" * 200])
def test_a_claim_that_its_user_has_written_changes_no_count(http: Deployed, text: str) -> None:
    """I7: an identity provider vouches for who somebody is, not for what it calls itself."""
    subject = f"auth0|{uuid.uuid4().hex}"
    assert _statuses(http, [_issuer(http).token(subject, user=text)]) == [200]
    demo.wait_until(lambda: _counted(http, subject) == 1)
    assert _counted(http, "victim") == 0


def _issuer(http: Deployed) -> Issuer:
    assert http.cloud.issuer is not None
    return http.cloud.issuer


def _counted(http: Deployed, key: str) -> int:
    """Return how many requests of a key are counted, in this hour and the next."""
    hours = (http.hour, http.hour.next())
    found = [http.cloud.deployment.counters.read(hour, [key]).get(key) for hour in hours]
    return sum(amounts.sums.get("requests", 0) for amounts in found if amounts is not None)


def _statuses(http: Deployed, tokens: Sequence[str]) -> list[int]:
    """Send a request with each token, and return the answers' statuses once their lines are where they go."""

    async def send() -> list[int]:
        async with aiohttp.ClientSession() as session:
            return [await ask(session, token) for token in tokens]

    async def ask(session: aiohttp.ClientSession, token: str) -> int:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        async with session.get(f"{http.cloud.gateway.url}/items", headers=headers) as answer:
            return answer.status

    statuses = asyncio.run(send())
    http.cloud.gateway.flush()
    return statuses
