"""A customer in front of its page: what it sends, what its browser asks for, and what a machine can find wrong."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Literal

from playwright.sync_api import Browser, Page, Route

from infra.local.demo import steps as demo
from infra.local.demo.front import Front
from infra.local.demo.live import links
from infra.operate.customers import Customers, Entry
from infra.operate.subscribing import Subscriber, Wishes
from metering.portal.http import SECURITY
from metering.portal.page import FILES, read
from tests.e2e.conftest import Deployed

ColorScheme = Literal["light", "dark"]
PATIENCE_S = demo.PATIENCE_S


@dataclass
class Reader:
    """A customer that is subscribed and has two keys, and what its browser asks for."""

    there: Deployed
    front: Front
    id: str
    keys: list[tuple[str, str]]
    sent: int = 0
    asked: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    @property
    def link(self) -> str:
        """A link to the page."""
        return links(self.there.cloud.deployment, self.front.url, {self.id})[self.id]

    @property
    def token(self) -> str:
        """The token of a session that a link opens."""
        return session_of(self.link)

    def send(self, requests: int) -> None:
        """Send good requests with each key in turn, of two resources."""
        for _ in range(requests):
            path = "items?n=3" if self.sent % 3 else "items/7"
            _, value = self.keys[self.sent % len(self.keys)]
            self.sent += 1
            headers = {"x-api-key": value, "x-user": f"user-{self.sent % 4}"}
            request = urllib.request.Request(f"{self.there.cloud.gateway.url}/{path}", headers=headers)  # noqa: S310
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 - this machine's gateway
                assert answer.status == 200
        self.there.cloud.gateway.flush()

    def ask(self, path: str, accept: str = "application/json") -> str:
        """Return what the API answers."""
        headers = {"Authorization": f"Bearer {self.token}", "Accept": accept}
        request = urllib.request.Request(f"{self.front.url}/{path}", headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 - this machine's front
            return str(answer.read().decode())

    @contextmanager
    def page(
        self, browser: Browser, *, size: tuple[int, int] = (1280, 900), scheme: ColorScheme = "light", link: str = ""
    ) -> Iterator[Page]:
        """Open the page in a browser of its own; what it asks for, and what goes wrong in it, is noted."""
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, locale="en-US", accept_downloads=True
        )
        opened = context.new_page()
        opened.set_default_timeout(PATIENCE_S * 1000)
        context.on("request", lambda request: self.asked.append(request.url))
        opened.on("pageerror", lambda error: self.troubles.append(str(error)))
        opened.on("console", lambda said: self.troubles.append(said.text) if "Content Security" in said.text else None)
        visit(opened, link or self.link)
        yield opened
        context.close()


def visit(page: Page, link: str) -> None:
    """Go to a page, and again where one of its files came too late for the gateway: without it, it stays empty."""
    late, deadline = list[str](), time.monotonic() + PATIENCE_S
    page.on("response", lambda answer: late.append(answer.url) if answer.status == HTTPStatus.GATEWAY_TIMEOUT else None)
    page.goto(link)
    while late and time.monotonic() < deadline:
        late.clear()
        page.goto("about:blank")  # else only the part behind the # would be another one
        page.goto(link)


def session_of(link: str) -> str:
    """Return the token of a session that a link opens."""
    address, _, token = link.partition("#")
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{address}v1/session", data=b"", headers=headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 - this machine's front
        return str(json.loads(answer.read())["token"])


def subscribed(there: Deployed, front: Front, name: str, title: str, *, since: datetime) -> Reader:
    """Make a customer with two keys that is subscribed to the declared plan."""
    deployment = there.cloud.deployment
    keys = [there.cloud.add_api_key(f"{name}-{n}", plan="Standard") for n in range(2)]
    entry = Entry(name, title, keys=tuple(key for key, _ in keys))
    Customers(deployment.ledger, deployment.counters).add(entry, now=datetime.now(UTC))
    owner = deployment.ledger.holders.customers([name])[name]
    Subscriber.of(deployment).subscribe(owner, demo.PLAN, Wishes(email="billing@acme.example"), now=since)
    return Reader(there, front, name, keys)


class _Files(BaseHTTPRequestHandler):
    """Serves the page's files, with the headers that the API gives them."""

    def do_GET(self) -> None:
        """Answer with a file, or not at all."""
        name, media = FILES.get(self.path.partition("?")[0], ("", ""))
        self.send_response(200 if name else 404)
        for header, value in {"Content-Type": media or "text/plain", **SECURITY}.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(read(name).encode() if name else b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def files() -> Iterator[str]:
    """Serve the page's files without a deployment: what its API would answer, a test makes up."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Files) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def answering(answer: Any, status: int = 200) -> Callable[[Route], None]:
    """Return what answers a request so."""
    return lambda route: route.fulfill(status=status, content_type="application/json", body=json.dumps(answer))


def until(page: Page, is_so: Callable[[], bool], *, seconds: float) -> float:
    """Wait until something is so on the page; return after how many seconds it was."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < seconds, f"it was not so within {seconds} s"
        page.wait_for_timeout(100)
    return time.monotonic() - began


def violations(page: Page, script: str) -> list[str]:
    """Return what axe-core finds, by rule and element."""
    page.evaluate(script)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{one['id']}: {node['html'][:120]}" for one in found["violations"] for node in one["nodes"]]
