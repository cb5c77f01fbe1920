"""The local Stripe while a web page is open that means ill: it answers the programs of this machine alone (I7)."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from infra.local.stripe.server import LocalStripe
from tests.doubles.clock import Clock

NOW = 1_795_327_800  # 2026-11-22T06:10:00Z
NO_PAGE = "the local Stripe answers no web page\n"

Headers = dict[str, str]
Route = tuple[str, str, Any]


@pytest.fixture
def stripe() -> Iterator[LocalStripe]:
    """A local Stripe that holds one customer."""
    with LocalStripe(now=Clock(NOW)) as server:
        server.add_customer("cus_a")
        yield server


def ask(stripe: LocalStripe, route: Route, host: str, headers: Headers) -> tuple[int, str]:
    """Return the answer to a request of this host and these headers; its body is what a page may send unasked."""
    method, path, body = route
    connection = HTTPConnection(stripe.url.removeprefix("http://"))
    connection.putrequest(method, path, skip_host=True)
    sent = json.dumps(body).encode() if body is not None else b""
    given = {"Host": host, "Content-Type": "text/plain", "Content-Length": str(len(sent))}
    for name, value in (given | headers).items():
        connection.putheader(name, value)
    connection.endheaders(sent)
    answer = connection.getresponse()
    told = answer.status, answer.read().decode()
    assert not any(name.lower().startswith("access-control-") for name, _ in answer.getheaders())
    connection.close()
    return told


ROUTES: list[Route] = [
    ("GET", "/_local/state", None),
    ("POST", "/_local/faults", {"faults": {"timeout_after": 1.0}, "route": None}),
    ("POST", "/_local/advance", {"seconds": 86_400}),
    ("POST", "/_local/webhook", {"url": "http://192.0.2.1/", "secret": "whsec_evil"}),
    ("POST", "/_local/report_errors", None),
    ("OPTIONS", "/_local/advance", None),
    ("GET", "/v1/customers", None),
    ("POST", "/v1/customers", None),
]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "sent",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
def test_a_page_is_answered_nothing(stripe: LocalStripe, route: Route, sent: Headers) -> None:
    """Neither what a browser lets any page send, nor what it asks about first; not with the key either."""
    headers = sent | {"Authorization": f"Bearer {stripe.api_key}"}
    host = stripe.url.removeprefix("http://")
    assert ask(stripe, route, host, headers) == (403, NO_PAGE)
    assert (stripe.now, stripe.calls) == (NOW, {})


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "host", ["", "evil.example", "127.0.0.1.evil.example:80", "evil.localhost", "localhost.", "[::1]:80"]
)
def test_a_name_of_somebody_elses_that_leads_here_is_refused(stripe: LocalStripe, route: Route, host: str) -> None:
    """A page that rebinds its name sends no origin."""
    status, said = ask(stripe, route, host, {"Authorization": f"Bearer {stripe.api_key}"})
    assert said == f"this is the local Stripe of 127.0.0.1; a request for {host!r} belongs elsewhere\n"
    assert (status, stripe.now, stripe.calls) == (403, NOW, {})


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "127.0.0.1:1"])
def test_a_program_of_this_machine_is_answered(stripe: LocalStripe, host: str) -> None:
    """By either name of the machine, through any port."""
    named = host.format(port=stripe.url.rpartition(":")[2])
    assert ask(stripe, ("POST", "/_local/advance", {"seconds": 60}), named, {})[0] == 200
    assert ask(stripe, ("GET", "/v1/customers", None), named, {"Authorization": f"Bearer {stripe.api_key}"})[0] == 200
    assert (stripe.now, stripe.calls) == (NOW + 60, {"GET /v1/customers": 1})
