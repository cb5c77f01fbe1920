"""What stands on a free port of 127.0.0.1 and forwards requests to the emulator: in its own thread, for one `with`."""

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

# docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-execution-service-limits-table.html
INTEGRATION_TIMEOUT_S: Final = 29
PAYLOAD_LIMIT: Final = 10 * 1024 * 1024

# RFC 9110, section 7.6.1: these belong to one connection. The lengths and hosts of both sides are their own as well.
_NOT_FORWARDED: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
        *("transfer-encoding", "upgrade", "content-length", "host"),
    }
)


def forwarded(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Return the headers that go on to the other side."""
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _NOT_FORWARDED)


@contextlib.asynccontextmanager
async def emulator_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open connections to the emulator, by which answers come as they are."""
    # The emulator closes a connection after 5 s without a request; ours must not be about to use it then.
    connections = aiohttp.TCPConnector(limit=100, keepalive_timeout=2)
    async with aiohttp.ClientSession(
        connector=connections,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=INTEGRATION_TIMEOUT_S),
        auto_decompress=False,
    ) as session:
        yield session


@contextlib.asynccontextmanager
async def forward(
    session: aiohttp.ClientSession, request: web.Request, to: str, body: bytes
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send a request on to the address ``to``, as it came."""
    async with session.request(
        request.method,
        URL(to, encoded=True),
        headers=forwarded(request.headers),
        data=body or None,
        allow_redirects=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
    ) as response:
        yield response


class Forwarder:
    """Listens on a free port of 127.0.0.1 for as long as its `with` lasts, on an event loop in its own thread.

    A subclass opens what it needs in :meth:`serve` and calls :meth:`listen`. `url` is where it listens.
    """

    url: str
    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self._started: concurrent.futures.Future[str] = concurrent.futures.Future()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=type(self).__name__.lower())

    def __enter__(self) -> Self:
        self._ended = self._thread.submit(lambda: asyncio.run(self._run()))
        self._thread.shutdown(wait=False)
        both: list[concurrent.futures.Future[Any]] = [self._started, self._ended]
        concurrent.futures.wait(both, return_when=concurrent.futures.FIRST_COMPLETED)
        if self._ended.done():
            self._ended.result()
        self.url = self._started.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        failure = self._ended.exception()
        if failure is not None and error is None:
            raise failure

    async def serve(self) -> None:
        """Open what is needed, and listen."""
        raise NotImplementedError

    async def listen(self, answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
        """Answer requests until the `with` ends."""
        application = web.Application(client_max_size=PAYLOAD_LIMIT)
        application.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(application, access_log=None, auto_decompress=False)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            self._started.set_result(f"http://127.0.0.1:{port}")
            await self.ended()
        finally:
            await runner.cleanup()

    async def ended(self) -> None:
        """Return when the `with` ends."""
        await self._stop.wait()

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await self.serve()
