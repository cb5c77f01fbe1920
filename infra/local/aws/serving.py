# /// script
# requires-python = ">=3.11"
# dependencies = ["boto3>=1.43", "cryptography>=46", "hypercorn>=0.18", "ministack==1.5.33"]
# ///
"""The emulator's own process: ministack behind hypercorn on the loopback, behind a door that no web page comes through.

Run by `infra.local.aws.emulator` in an environment of its own, which `serving.py.lock` beside it describes to the hash;
`uv lock --script infra/local/aws/serving.py` writes that anew. Nothing of the project is imported here, and nothing of
that environment by the project.
"""

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

API_PATH: Final = re.compile(r"/_aws/(?:execute-api/[^/]+/|lambda-url/[^/]+)")
"""How an API or a function's URL is reached: by its path alone.

Ministack would also take it from the host, or a bucket, a load balancer, a distribution: its own paths lie under every
one of them.
"""

ACCESS_LOG: Final = re.compile(r"(/v2/apis/[^/]+/stages/[^/]+)/accesslogsettings")
"""DeleteAccessLogSettings of HTTP and WebSocket APIs (API Gateway Version 2 API Reference), which ministack takes for
DeleteStage."""

OWN_HOSTS: Final = ("127.0.0.1", "localhost")

# What nobody signs: the health that the starter waits for, the answers of custom resources and of wait conditions,
# which carry a token, and the public keys that a JWT authorizer reads.
UNSIGNED: Final = re.compile(r"/_ministack/(?:health|cfn-(?:response|signal)/[^/]+)|/[^/]+/\.well-known/[a-z.-]+")

SIGNED: Final = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/,\s]+)/")
ISSUED: Final = re.compile(r"A[KS]IA[A-Z0-9]{12,}")
"""The keys of roles and users, whose signatures ministack checks. It checks none of root's, and takes for root whoever
names the key `test`, an account, or no key."""


@dataclass(frozen=True, slots=True)
class Door:
    """Lets in who was told the root key, and who has one that the emulator issued; to an API's callers, its API alone.

    What a web page can send carries `Origin` or `Sec-Fetch-Site`, or, where a name of its own leads to this machine, a
    foreign host; none of these comes further than an API, whose own affair it is whom it answers.
    """

    inside: Application
    port: int
    root_key: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on as if it had come by TLS, which buckets insist on, or answer 403 with the reason."""
        if scope["type"] not in ("http", "websocket"):
            await self.inside(scope, receive, send)
        elif reason := self.refusal(scope):
            await _refuse(scope["type"], reason, receive, send)
        elif scope.get("method") == "DELETE" and (stage := ACCESS_LOG.fullmatch(scope["path"])):
            update = {"method": "PATCH", "path": stage[1], "raw_path": stage[1].encode(), "scheme": "https"}
            await self.inside({**scope, **update}, _nothing_logged, send)
        else:
            secure = {**scope, "scheme": "https"} if scope["type"] == "http" else scope
            await self.inside(secure, receive, send if _is_for_api(scope) else _without_cors(send))

    def refusal(self, scope: Scope) -> str:
        """Return why a request is refused; nothing if it is not."""
        # By any port: what fails requests at random on their way has one of its own, and a caller's signature holds it.
        if _host(scope).partition(":")[0] not in OWN_HOSTS:
            return f"this is 127.0.0.1:{self.port}; a request for {_host(scope) or 'no host'!r} belongs elsewhere"
        named = _keys(scope)
        if strangers := [key for key in named if key != self.root_key and not ISSUED.fullmatch(key)]:
            return f"the access key {strangers[0][:80]!r} is not this emulator's: it has one of its own in each run"
        if _is_for_api(scope):
            return ""
        if any(_headers(scope, name) for name in (b"origin", b"sec-fetch-site")):
            return "the emulator answers no web page"
        if len(named) != 1 and not UNSIGNED.fullmatch(scope["path"]):
            return "a request to AWS is signed, with one access key"
        return ""


async def _nothing_logged() -> dict[str, Any]:
    """Read the body of an UpdateStage that takes the access log away."""
    return {"type": "http.request", "body": b'{"accessLogSettings": {}}', "more_body": False}


def _is_for_api(scope: Scope) -> bool:
    """Tell whether a request goes to a deployed API or function, and not to AWS."""
    return API_PATH.match(scope["path"]) is not None


def _keys(scope: Scope) -> list[str]:
    """Return the access keys that a request names, in its signature or in its query."""
    query = parse_qs(scope.get("query_string", b"").decode(errors="replace"), keep_blank_values=True)
    credentials = [value for name, values in query.items() if name.lower() == "x-amz-credential" for value in values]
    older = [value for name, values in query.items() if name.lower() == "awsaccesskeyid" for value in values]
    signatures = [value for value in _headers(scope, b"authorization") if value.startswith("AWS")]
    signing = [found[1] if (found := SIGNED.match(value)) else value for value in signatures]
    return [*signing, *older, *(credential.partition("/")[0] for credential in credentials)]


def _headers(scope: Scope, name: bytes) -> list[str]:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return [value.decode("latin-1").strip() for key, value in headers if key.lower() == name]


def _host(scope: Scope) -> str:
    """Return the host that a request names; nothing if it names none or several."""
    hosts = _headers(scope, b"host")
    return hosts[0].lower() if len(hosts) == 1 else ""


def _without_cors(send: Send) -> Send:
    """Take away what ministack says to every origin."""

    async def send_on(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            kept = [(k, v) for k, v in message.get("headers", ()) if not k.lower().startswith(b"access-control-")]
            message = {**message, "headers": kept}
        await send(message)

    return send_on


async def _refuse(kind: str, reason: str, receive: Receive, send: Send) -> None:
    if kind == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})


def _end_with_the_starter(folder: str) -> None:
    """Wait for the end of standard input; then end the process group, and after it the files.

    The starter alone holds the other end: however it ends, SIGKILL included, that pipe then ends, and the group with
    it. A living emulator without its files would start functions that fail, over and over.
    """
    os.read(0, 1)
    end = 'kill -s KILL -- "-$1"; rm -rf -- "$2"'
    subprocess.Popen(["/bin/sh", "-c", end, "sh", str(os.getpgrp()), folder], start_new_session=True)  # noqa: S603


def main(folder: str, descriptor: str) -> None:
    """Serve on an open socket; what the emulator keeps is in ``folder``."""
    threading.Thread(target=_end_with_the_starter, args=(folder,), daemon=True).start()
    # Beside the thread, since they take most of a second; and none of them is in the project's own environment.
    from hypercorn.asyncio import serve  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415
    from ministack.app import app  # noqa: PLC0415

    config = Config()
    config.bind = [f"fd://{descriptor}"]
    door = Door(app, int(os.environ["GATEWAY_PORT"]), os.environ["AWS_ACCESS_KEY_ID"])
    asyncio.run(serve(door, config))


if __name__ == "__main__":
    main(*sys.argv[1:])
