"""Attacks: a caller who sends what it likes is billed for the requests it makes, and nobody else is (I7)."""

import base64
import gzip
import http.client
import json
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from infra.local.aws.log_line import render
from infra.local.demo import steps as demo
from tests.e2e.conftest import Deployed

HOSTILE = (
    '","key":"victim',
    '"}\n{"metering":"1:13","key":"victim"}',
    "\\",
    '\\"',
    "\\u0022",
    "$context.identity.apiKeyId",
    "a" * 10_000,
    '"' * 5_000,
    "\x00\x1b\x7f",
    "ünï\u2028cödé",
)


class Caller:
    """Someone with an API key of its own, and a count of what it was served."""

    def __init__(self, deployed: Deployed, name: str) -> None:
        self.deployed = deployed
        self.key, self._value = deployed.cloud.add_api_key(name, plan="Standard")
        self.served = 0

    def call(self, path: str = "/items", method: str = "GET", body: str = "", **headers: str) -> int:
        """Send a request, with headers that may hold anything HTTP can carry; return its status."""
        connection = http.client.HTTPConnection(
            urlsplit(self.deployed.cloud.gateway.url).netloc, timeout=demo.PATIENCE_S
        )
        sent = {"x-api-key": self._value, "x-user": "mallory"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in sent.items():
            connection.putheader(name, value.encode("utf-8"))
        if body:
            connection.putheader("content-length", str(len(body.encode())))
        connection.endheaders(body.encode() or None)
        try:
            status = connection.getresponse().status
        except (http.client.HTTPException, OSError):  # the gateway hung up on what is no HTTP
            return 0
        finally:
            connection.close()
        self.served += 200 <= status < 400
        return status

    def counted(self) -> int:
        """Return how many requests are counted for its key, in this hour and the next."""
        counters = self.deployed.cloud.deployment.counters
        hours = (self.deployed.hour, self.deployed.hour.next())
        found = [counters.read(hour, [self.key]).get(self.key) for hour in hours]
        return sum(amounts.sums.get("requests", 0) for amounts in found if amounts is not None)

    def is_counted(self) -> None:
        """Wait until what it was served is counted, and see that no more is."""
        self.deployed.cloud.gateway.flush()
        demo.wait_until(lambda: self.counted() == self.served)


@pytest.fixture
def caller(deployed: Deployed) -> Iterator[Caller]:
    """A caller, and afterwards: the victim whose id it wrote everywhere was billed for nothing."""
    yield Caller(deployed, f"mallory-{uuid.uuid4().hex[:8]}")
    for hour in (deployed.hour, deployed.hour.next()):
        assert "victim" not in deployed.cloud.deployment.counters.read(hour, ["victim"])


def test_a_caller_that_repeats_a_request_id_pays_for_each_request(caller: Caller) -> None:
    """API Gateway takes requestId from the caller; the identity of a record is extendedRequestId."""
    same = str(uuid.uuid4())
    assert [caller.call(x_amzn_RequestId=same) for _ in range(12)] == [200] * 12
    assert caller.served == 12
    caller.is_counted()


def test_hostile_headers_change_no_count(caller: Caller) -> None:
    """Whatever is served is counted once, whatever stands in its headers."""
    for text in HOSTILE:
        for name in ("user_agent", "x_forwarded_for", "referer", "cookie", "x_amzn_requestid", "x_messages", "accept"):
            caller.call(**{name: text.replace("\n", " ").replace("\x00", "")[:7_000]})
    assert caller.call() == 200
    caller.is_counted()


def test_hostile_paths_and_queries_change_no_count(caller: Caller) -> None:
    """The log names the resource as the API declares it, never the path as it was sent."""
    for text in HOSTILE:
        caller.call(f"/items/{quote(text[:3_000], safe='')}")
        caller.call(f"/items?n=3&x={quote(text[:3_000], safe='')}")
    assert caller.served > len(HOSTILE)
    caller.is_counted()


def test_an_authorizer_lets_no_hostile_value_through(caller: Caller) -> None:
    """The sample's authorizer tells plain ids alone; others are refused, and cost nothing."""
    before = caller.served
    for text in HOSTILE:
        assert caller.call(x_user=text.replace("\n", " ").replace("\x00", "")[:7_000]) not in range(200, 400)
    assert caller.served == before
    assert caller.call() == 200
    caller.is_counted()


def test_a_caller_cannot_declare_fewer_messages_than_it_sends(caller: Caller) -> None:
    """The backend compares what the authorizer was told with what the body holds."""
    body = json.dumps({"messages": ["m"] * 5})
    assert caller.call("/messages", "POST", body, x_messages="1") == 400
    assert caller.call("/messages", "POST", body, x_messages="5") == 202
    caller.is_counted()


@pytest.mark.parametrize("forged", ['","key":"victim', 'x","status":"500', '","request_id":"-', 'a","more":"b'])
def test_an_authorizer_that_tells_a_callers_own_text_forges_no_field(deployed: Deployed, forged: str) -> None:
    """Values are put into the line as they are: one with quotes is set aside whole, and nobody is billed by it."""
    stage = json.loads(deployed.access_line("forger"))
    template = json.dumps({name: f"$context.{name}" for name in stage}, separators=(",", ":"))
    line = render(template, stage | {"authorizer.user": forged}, raw=True)
    payload = deployed.payload("honest")
    assert deployed.deliver(_with_line(payload, line)) == {"read": 2, "billed": 1, "set_aside": 1}
    assert deployed.counted("victim") == deployed.counted("forger") == 0


def test_a_usage_line_in_the_access_log_bills_nobody(deployed: Deployed) -> None:
    """What API Gateway writes is read as its format alone: it is set aside."""
    line = json.dumps({"usage": {"id": "1", "time": 0, "customer": "victim", "messages": 7}})
    answer = deployed.deliver(_with_line(deployed.payload("honest-2"), line))
    assert (answer["billed"], answer["set_aside"]) == (1, 1)


def _with_line(payload: dict[str, Any], line: str) -> dict[str, Any]:
    """Return a delivery with one line more."""
    body = json.loads(gzip.decompress(base64.b64decode(payload["awslogs"]["data"])))
    body["logEvents"].append({"id": uuid.uuid4().hex, "timestamp": 0, "message": line})
    return {"awslogs": {"data": base64.b64encode(gzip.compress(json.dumps(body).encode())).decode()}}
