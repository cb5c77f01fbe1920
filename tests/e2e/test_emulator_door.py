"""A real emulator while a web page is open that means ill: nothing of AWS answers it (I7, I8)."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser

from infra.local.aws.emulator import Emulator
from tests.e2e.test_emulator_gateway import make_function

WHAT_IS_INHERITED = """
import os

def handler(event, context):
    return dict(os.environ) | {"home": os.path.expanduser("~")}
"""

# What a page may send without asking first, in each of the ways that the emulator would take for root's; then what it
# asks first.
ATTACK = """
async (endpoint) => {
    const credential = (key, service) => "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20261122T000000Z" +
        `&X-Amz-Credential=${key}%2F20261122%2Fus-east-1%2F${service}%2Faws4_request` +
        "&X-Amz-SignedHeaders=host&X-Amz-Signature=00";
    const action = "Action=CreateUser&Version=2010-05-08&UserName=evil";
    const form = {"content-type": "application/x-www-form-urlencoded"};
    const said = [];
    for (const key of ["test", "000000000000", ""]) {
        for (const path of ["/", "/_aws/execute-api/x", "/_aws/lambda-url/x", "/_aws/execute-api/x/y/"]) {
            for (const mode of ["cors", "no-cors"]) {
                const there = endpoint + path + (key ? credential(key, "iam") : "");
                const sent = {method: "POST", mode, headers: form, body: action};
                said.push(await fetch(there, sent).then((answer) => answer.type, () => "refused"));
            }
        }
    }
    const signed = {authorization: "AWS4-HMAC-SHA256 Credential=test/20261122/us-east-1/iam/aws4_request"};
    const asked = {method: "POST", headers: {...form, ...signed}, body: action};
    said.push(await fetch(endpoint, asked).then((answer) => answer.type, () => "refused"));
    await fetch(endpoint + "/_ministack/reset", {method: "POST", mode: "no-cors"});
    return said;
}
"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def page_of_somebody_else() -> Iterator[str]:
    """An address of another origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """One for this module."""
    with Emulator() as started:
        yield started


def users(emulator: Emulator) -> list[str]:
    """Return who there is."""
    iam = emulator.client("iam")
    found = [user["UserName"] for user in iam.list_users()["Users"]]
    iam.close()
    return found


def test_a_page_changes_and_reads_nothing(emulator: Emulator, browser: Browser) -> None:
    """Neither by what a browser lets any page send, nor by what it asks about first; and it empties nothing."""
    iam = emulator.client("iam")
    iam.create_user(UserName="good")
    iam.close()
    with page_of_somebody_else() as address:
        page = browser.new_page()
        page.goto(address)
        said = page.evaluate(ATTACK, emulator.endpoint_url)
        page.close()
    assert set(said) == {"refused", "opaque"}
    assert users(emulator) == ["good"]


@pytest.mark.parametrize("host", ["x.execute-api.localhost", "a1b2c3d4.execute-api.localhost", "bucket.s3.localhost"])
def test_no_name_below_localhost_leads_to_what_empties_it(emulator: Emulator, host: str) -> None:
    """A page may ask any of them: a browser takes them all for this machine."""
    iam = emulator.client("iam")
    iam.create_user(UserName=host)
    address = emulator.endpoint_url.removeprefix("http://")
    connection = HTTPConnection(address)
    headers = {"Host": f"{host}:{address.partition(':')[2]}", "Origin": "https://evil.example"}
    for path in ("/_ministack/reset", "/_ministack/config"):
        connection.request("POST", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 403
    connection.close()
    assert host in users(emulator)
    iam.delete_user(UserName=host)
    iam.close()


def test_functions_inherit_neither_a_home_nor_the_root_key(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `~` holds is the emulator's folder; what signs is the role's."""
    monkeypatch.setenv("STRIPE_API_KEY", "sk_of_the_developer")
    with Emulator() as started:
        functions = started.client("lambda")
        make_function(started, "tells", WHAT_IS_INHERITED)
        told = json.loads(functions.invoke(FunctionName="tells")["Payload"].read())
        functions.close()
        assert told["home"] == str(started.log_path.parent)
        assert told["AWS_ACCESS_KEY_ID"].startswith("ASIA")
        assert {started.access_key_id, started.secret_access_key, "sk_of_the_developer"}.isdisjoint(told.values())
        assert started.access_key_id != emulator.access_key_id
