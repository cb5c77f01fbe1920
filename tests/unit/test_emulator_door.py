"""The door of the embedded AWS: who is let in, and who is told to go away (I7, I8)."""

import asyncio
from typing import Any

import pytest

from infra.local.aws.serving import Door, Receive, Scope, Send

ROOT_KEY = "AKIAROOTROOTROOTROOT"
SIGNED = (
    b"authorization",
    b"AWS4-HMAC-SHA256 Credential=AKIAROOTROOTROOTROOT/20261122/us-east-1/iam/aws4_request, x=y",
)
ROLES = (b"authorization", b"AWS4-HMAC-SHA256 Credential=ASIA0123456789ABCDEF/20261122/us-east-1/iam/aws4_request")
HOST = (b"host", b"127.0.0.1:4566")
EVIL = (b"origin", b"https://evil.example")
QUERY = b"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00&X-Amz-Credential=%s%%2F20261122%%2Fus-east-1%%2Fiam"

Headers = list[tuple[bytes, bytes]]


async def emulator(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer as ministack does: to every origin."""
    headers = [(b"access-control-allow-origin", b"*"), (b"x-scheme", scope["scheme"].encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"inside"})


def ask(path: str, headers: Headers, query: bytes = b"", kind: str = "http") -> list[dict[str, Any]]:
    """Return what the door sends."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    door = Door(emulator, 4566, ROOT_KEY)
    scope = {"type": kind, "scheme": "http", "path": path, "headers": headers, "query_string": query}
    asyncio.run(door(scope, receive, send))
    return sent


@pytest.mark.parametrize(
    ("path", "headers", "query"),
    [
        ("/", [HOST, SIGNED], b""),
        ("/", [HOST, ROLES], b""),
        ("/bucket/key", [HOST], QUERY % b"AKIAROOTROOTROOTROOT"),
        ("/", [(b"host", b"localhost:4566"), SIGNED], b""),
        ("/", [(b"host", b"127.0.0.1:4567"), ROLES], b""),  # by a proxy
        ("/_ministack/health", [HOST], b""),
        ("/_ministack/cfn-response/0123", [HOST], b""),
        ("/pool/.well-known/jwks.json", [HOST], b""),
        # An API answers whom it will: no key, a page of any origin, a token of its own.
        ("/_aws/execute-api/a1b2c3d4/v1/items", [HOST], b""),
        ("/_aws/execute-api/a1b2c3d4/v1/items", [HOST, EVIL, (b"sec-fetch-site", b"cross-site")], b""),
        ("/_aws/execute-api/a1b2c3d4/$default/v1/usage", [HOST, (b"authorization", b"Bearer a.b.c")], b""),
        ("/_aws/lambda-url/0123/", [HOST, EVIL], b""),
    ],
)
def test_who_belongs_here_is_let_in(path: str, headers: Headers, query: bytes) -> None:
    """Whoever has the key of this run or one that was issued; what nobody signs; and an API's callers."""
    start, body = ask(path, headers, query)
    assert (start["status"], body["body"]) == (200, b"inside")
    assert (b"x-scheme", b"https") in start["headers"]


def test_taking_an_access_log_away_leaves_the_stage() -> None:
    """Ministack would delete it whole, so that it is asked for an update."""
    asked: list[tuple[str, str, bytes]] = []

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append((scope["method"], scope["path"], (await receive())["body"]))
        await emulator(scope, receive, send)

    async def nothing(_: Any = None) -> Any:
        return {"type": "http.request", "body": b""}

    path = "/v2/apis/a1b2c3/stages/$default"
    scope = {"type": "http", "scheme": "http", "headers": [HOST, SIGNED], "query_string": b"", "method": "DELETE"}
    for deleted in (f"{path}/accesslogsettings", path):
        asyncio.run(Door(inside, 4566, ROOT_KEY)({**scope, "path": deleted}, nothing, nothing))
    assert asked == [("PATCH", path, b'{"accessLogSettings": {}}'), ("DELETE", path, b"")]


NO_PAGE = "the emulator answers no web page\n"
UNSIGNED = "a request to AWS is signed, with one access key\n"


@pytest.mark.parametrize(
    ("path", "headers", "query", "reason"),
    [
        ("/", [HOST, SIGNED, EVIL], b"", NO_PAGE),
        ("/", [HOST, SIGNED, (b"origin", b"null")], b"", NO_PAGE),
        ("/", [HOST, SIGNED, (b"sec-fetch-site", b"same-origin")], b"", NO_PAGE),
        ("/_ministack/health", [HOST, EVIL], b"", NO_PAGE),
        ("/_ministack/reset", [HOST, EVIL], b"", NO_PAGE),
        ("/_ministack/reset", [HOST], b"", UNSIGNED),
        ("/2015-03-31/functions", [HOST], b"", UNSIGNED),
        ("/", [HOST, (b"authorization", b"Basic dGVzdDp0ZXN0")], b"", UNSIGNED),
        ("/", [HOST, SIGNED], QUERY % b"AKIAROOTROOTROOTROOT", UNSIGNED),
        # Paths that only begin as an API's do.
        ("/_aws/execute-api/a1b2c3d4", [HOST, EVIL], b"", NO_PAGE),
        ("/_aws/execute-api//v1/", [HOST, EVIL], b"", NO_PAGE),
        ("/_aws/lambda-url/", [HOST, EVIL], b"", NO_PAGE),
        ("/x/_aws/execute-api/a1b2c3d4/v1/items", [HOST, EVIL], b"", NO_PAGE),
    ],
)
def test_who_does_not_is_told_why(path: str, headers: Headers, query: bytes, reason: str) -> None:
    """A page, from wherever; and whoever was not told the key."""
    start, body = ask(path, headers, query)
    assert (start["status"], body["body"].decode()) == (403, reason)
    assert [name for name, _ in start["headers"]] == [b"content-type"]


@pytest.mark.parametrize("path", ["/", "/_aws/execute-api/a1b2c3d4/v1/items", "/_aws/lambda-url/0123/"])
@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ([], QUERY % b"test"),
        ([], QUERY % b"000000000000"),
        ([], QUERY % b""),
        ([], b"AWSAccessKeyId=test&Signature=00"),
        ([(b"authorization", b"AWS4-HMAC-SHA256 Credential=test/20261122/us-east-1/iam/aws4_request")], b""),
        ([(b"authorization", b"AWS4-HMAC-SHA256  Credential=test/20261122/us-east-1/iam/aws4_request")], b""),
        ([(b"authorization", b"AWS test:c2lnbmF0dXJl")], b""),
        ([SIGNED], QUERY % b"test"),
        ([SIGNED], (QUERY % b"test").replace(b"X-Amz-Credential", b"x-amz-credential")),
    ],
)
def test_a_key_that_the_emulator_would_take_for_roots_opens_nothing(path: str, headers: Headers, query: bytes) -> None:
    """It takes `test`, an account's number and no key for root, and checks no signature of theirs.

    At an API neither: whoever is root there makes links for every customer.
    """
    start, body = ask(path, [HOST, *headers], query)
    assert start["status"] == 403
    assert body["body"].endswith(b"is not this emulator's: it has one of its own in each run\n")


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [b"evil.example"],
        [b"evil.example:4566"],
        [b"127.0.0.1.evil.example:4566"],
        [b"0.0.0.0"],
        [b"localhost.evil.example"],
        [b"evil.on.aws:4566"],
        [b"127.0.0.1:4566", b"127.0.0.1:4566"],
    ],
)
def test_a_name_of_somebody_elses_that_leads_to_this_machine_is_refused(hosts: list[bytes]) -> None:
    """A page that rebinds its name has no origin to tell it by."""
    start, body = ask("/", [SIGNED, *((b"host", host) for host in hosts)])
    assert start["status"] == 403
    named = hosts[0].decode() if len(hosts) == 1 else "no host"
    assert body["body"].decode() == f"this is 127.0.0.1:4566; a request for {named!r} belongs elsewhere\n"


@pytest.mark.parametrize(
    "host",
    [
        "x.execute-api.localhost:4566",
        "a1b2c3d4.execute-api.localhost:4566",
        "0123456789abcdef0123456789abcdef.lambda-url.us-east-1.on.aws",
        "0123456789abcdef0123456789abcdef.lambda-url.us-east-1.localhost:4566",
        "bucket.s3.localhost:4566",
        "bucket.localhost:4566",
        "d0123.cloudfront.localhost:4566",
        "x.alb.localhost:4566",
    ],
)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/items",
        "/_ministack/reset",
        "/_ministack/config",
        "/_ministack/sqs/messages",
        "/_ministack/health",
        "/_aws/execute-api/a1b2c3d4/v1/items",
    ],
)
@pytest.mark.parametrize("headers", [[], [SIGNED], [EVIL]])
def test_a_host_names_no_part_of_the_emulator(host: str, path: str, headers: Headers) -> None:
    """Every name below `localhost` leads here, and under each of them lies what empties the emulator."""
    start, body = ask(path, [(b"host", host.encode()), *headers])
    assert start["status"] == 403
    assert body["body"].decode() == f"this is 127.0.0.1:4566; a request for {host!r} belongs elsewhere\n"
    assert [name for name, _ in start["headers"]] == [b"content-type"]


def test_nothing_is_allowed_to_every_origin_but_by_an_api_itself() -> None:
    """What an API says of origins is its own affair."""
    inside, *_ = ask("/", [HOST, SIGNED])
    by_an_api, *_ = ask("/_aws/execute-api/a1b2c3d4/v1/items", [HOST, EVIL])
    assert [name for name, _ in inside["headers"]] == [b"x-scheme"]
    assert (b"access-control-allow-origin", b"*") in by_an_api["headers"]


def test_a_page_opens_no_socket_but_an_apis() -> None:
    """A WebSocket is refused before it is accepted."""
    assert ask("/", [HOST, EVIL], kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    start, _ = ask("/_aws/execute-api/a1b2c3d4/v1", [HOST, EVIL], kind="websocket")
    assert start["status"] == 200
