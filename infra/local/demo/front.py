"""An address of its own for the portal, so that a link on this machine looks as it does on AWS.

    with Front(portal_url(deployment)) as front:
        print(f"{front.url}/#{token}")

The emulator serves an HTTP API under a path of its own address; what stands in front of it forwards to that path.
"""

from http import HTTPStatus

import aiohttp
from aiohttp import web

from infra.local.aws.forwarding import Forwarder, emulator_session, forward, forwarded


class Front(Forwarder):
    """Forwards what comes to `url` to the address `to`, which ends with a slash."""

    def __init__(self, to: str) -> None:
        super().__init__()
        self._to = to.removesuffix("/")

    async def serve(self) -> None:
        """Open connections, and forward."""
        async with emulator_session() as self._session:
            await self.listen(self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            async with forward(self._session, request, f"{self._to}{request.rel_url.raw_path_qs}", body) as response:
                content = await response.read()
                return web.Response(status=response.status, headers=forwarded(response.headers), body=content)
        except TimeoutError:
            return web.Response(status=HTTPStatus.GATEWAY_TIMEOUT)
        except aiohttp.ClientError:
            return web.Response(status=HTTPStatus.BAD_GATEWAY)
