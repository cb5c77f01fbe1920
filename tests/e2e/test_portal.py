"""The customers' API on the embedded AWS: from the operator's link to what a customer sees."""

import json
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from infra.local.demo.steps import PATIENCE_S
from infra.operate.portal_access import make_link, portal_url, rotate_key
from infra.operate.usage import Report
from metering.portal.reading import By
from tests.e2e.conftest import Deployed


def ask(url: str, *, token: str = "", body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Send a request as a browser or program does."""
    given = {name.replace("_", "-"): text for name, text in headers.items()}
    if token:
        given["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data=body, headers=given)  # noqa: S310 - the emulator's own address
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def link_of(deployed: Deployed, name: str) -> tuple[str, str]:
    """Return the address of a link, as the command makes it, and the token of the session that it opens."""
    link = make_link(deployed.cloud.deployment, name, hours=1, now=datetime.now(UTC))
    url, _, token = link.url.partition("#")
    return url, session_of(url, token)


def session_of(url: str, link: str) -> str:
    """Return the token of a session that a link opens."""
    status, _, answer = ask(f"{url}v1/session", token=link, body=b"")
    assert status == 201, answer
    return str(json.loads(answer)["token"])


def test_a_link_shows_what_the_operator_sees(deployed: Deployed) -> None:
    """Before the hour is closed, and after: each as `metering usage` has it."""
    deployed.customer("portal", "portal-one", "portal-two")
    deployed.deliver(deployed.payload("portal-one", "portal-one", "portal-two"))
    url, token = link_of(deployed, "portal")
    for state in ({"counting"}, {"closed", "posted"}):
        status, headers, body = ask(f"{url}v1/usage?by=hour", token=token)
        assert (status, headers["Content-Type"]) == (200, "application/json")
        lines = json.loads(body)["usage"]
        assert {line["state"] for line in lines} <= state, lines
        assert {(line["period"], line["metric"]): line["quantity"] for line in lines} == _operators(deployed, "portal")
        assert {line["metric"]: line["quantity"] for line in lines}["requests"] == 3
        deployed.cloud.deployment.close()


def _operators(deployed: Deployed, name: str) -> dict[tuple[str, str], int]:
    deployment = deployed.cloud.deployment
    report = Report(deployment.counters, deployment.uniques, deployment.ledger, name, split=False)
    shown: dict[tuple[str, str], int] = {}
    now = datetime.now(UTC)
    lines = report.lines(deployed.hour, deployed.hour.next(), by=By.HOUR, now=now, progress=lambda hours, _: hours)
    for line in lines:
        shown[line.period, line.metric] = shown.get((line.period, line.metric), 0) + line.quantity
    return shown


def test_without_a_link_nothing_is_shown(deployed: Deployed) -> None:
    """But for the page and the API's description."""
    url = portal_url(deployed.cloud.deployment)
    for path in ("usage", "invoice", "prices"):
        status, headers, _ = ask(f"{url}v1/{path}")
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert ask(f"{url}v1/openapi.json")[0] == 200
    status, headers, body = ask(url)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert body.lstrip().lower().startswith(b"<!doctype html>")


def test_prices_are_those_that_are_declared(deployed: Deployed) -> None:
    """They travel in the function's zip."""
    deployed.customer("shopper")
    url, token = link_of(deployed, "shopper")
    shown = json.loads(ask(f"{url}v1/prices", token=token)[2])
    assert [plan["name"] for plan in shown["plans"]] == ["standard"]
    assert [metric["name"] for metric in shown["metrics"]] == ["requests", "response_bytes", "messages", "users"]


def test_links_are_given_to_signed_requests_alone(deployed: Deployed) -> None:
    """I7: by API Gateway, which checks AWS's signature before the function is asked."""
    deployed.customer("linked")
    url = f"{portal_url(deployed.cloud.deployment)}v1/links"
    body = json.dumps({"customer": "linked", "hours": 1}).encode()
    content: dict[str, str] = {"content_type": "application/json"}
    assert ask(url, body=body, **content)[0] == 403
    _, token = link_of(deployed, "linked")
    assert ask(url, body=body, token=token, **content)[0] == 403
    status, _, answer = ask(url, body=body, **_signed(deployed, url, body))
    assert status == 201, answer
    token = session_of(portal_url(deployed.cloud.deployment), json.loads(answer)["url"].partition("#")[2])
    status, _, answer = ask(f"{portal_url(deployed.cloud.deployment)}v1/usage", token=token)
    assert (status, json.loads(answer)["customer"]) == (200, "linked")


def _signed(deployed: Deployed, url: str, body: bytes) -> dict[str, str]:
    """Return the headers of a request that the operator's back end signs."""
    emulator = deployed.cloud.emulator
    request = AWSRequest("POST", url, data=body, headers={"content-type": "application/json"})
    signer: Any = SigV4Auth(
        Credentials(emulator.access_key_id, emulator.secret_access_key), "execute-api", emulator.region
    )
    signer.add_auth(request)
    return {name.replace("-", "_"): text for name, text in request.headers.items()}


def test_a_rotated_key_signs_at_once(deployed: Deployed) -> None:
    """And a link of the key before goes on to work."""
    deployed.customer("rotated")
    url, before = link_of(deployed, "rotated")
    assert ask(f"{url}v1/prices", token=before)[0] == 200
    rotate_key(deployed.cloud.deployment, times=1)
    _, after = link_of(deployed, "rotated")
    assert [ask(f"{url}v1/prices", token=token)[0] for token in (before, after)] == [200, 200]
