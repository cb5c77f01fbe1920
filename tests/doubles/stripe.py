"""The local Stripe without HTTP, for calls to which nothing happens on their way: half of what a test would cost."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch
from urllib.parse import urlsplit

import stripe
from multidict import CIMultiDict

from infra.local.stripe.api import Call, decode
from infra.local.stripe.server import LocalStripe
from metering.stripe.client import Transport

Sent = tuple[str, int, Mapping[str, str]]


def call_of(method: str, url: str, headers: Mapping[str, str] | None, body: str) -> Call:
    """Return a request of the SDK as the local Stripe reads it."""
    address = urlsplit(url)
    request: Any = SimpleNamespace(
        method=method.upper(), path=address.path, query_string=address.query, headers=CIMultiDict(headers or {})
    )
    return decode(request, body)


@contextmanager
def in_process() -> Iterator[None]:
    """Let local Stripes be called without HTTP, while no fault is planned and no call takes its time."""
    servers: dict[str, LocalStripe] = {}
    begin, end = LocalStripe.__enter__, LocalStripe.__exit__

    def enter(server: LocalStripe) -> LocalStripe:
        begin(server)
        servers[server.url] = server
        return server

    def leave(server: LocalStripe, *how: Any) -> None:
        servers.pop(server.url, None)
        end(server, *how)

    def through(over_http: Any) -> Any:
        def request(
            client: Any, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None, **_: Any
        ) -> Sent:
            address = urlsplit(url)
            server = servers.get(f"{address.scheme}://{address.netloc}")
            if server is None or not server._wire.is_plain:
                return cast("Sent", over_http(client, method, url, headers, post_data))
            return _answer(server, call_of(method, url, headers, post_data or ""))

        return request

    with (
        patch.object(LocalStripe, "__enter__", enter),
        patch.object(LocalStripe, "__exit__", leave),
        patch.object(Transport, "request", through(Transport.request)),
        patch.object(stripe.RequestsClient, "request", through(stripe.RequestsClient.request)),
    ):
        yield


def _answer(server: LocalStripe, call: Call) -> Sent:
    with server._lock:
        server._wire.calls[call.route] += 1
        number = server._wire.calls.total()
        answer = server._api.perform(call, None)
    return answer.body.decode(), answer.status, {"Request-Id": f"req_{number:014d}", **answer.headers}
