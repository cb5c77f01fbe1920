"""The demo with its customers' pages: traffic that goes on, and hours closed over and over, until it is stopped."""

import asyncio
import itertools
import signal
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from rich.console import Console

from infra.local.cloud import LocalCloud
from infra.local.demo import steps as demo
from infra.local.demo.front import Front
from infra.local.demo.result import Result
from infra.local.demo.traffic import Caller, ask
from infra.operate.deployment import Deployment
from infra.operate.portal_access import make_link, portal_url
from metering.portal.tokens import Right

REQUESTS_A_SECOND: Final = 4
CLOSE_EVERY_S: Final = 20
LINK_HOURS: Final = 24


def run(  # noqa: PLR0913 - what the command can be told, each by name
    *,
    requests: int,
    road: str,
    api: str,
    faults: bool,
    say: Console,
    ready: Callable[[Mapping[str, str]], None],
) -> Result:
    """Run the demo, tell ``ready`` the link of each customer, and go on until SIGINT or SIGTERM.

    Commands find it with ``--local``. It ends with the demo if a step differs.
    """

    def go_on(cloud: LocalCloud, callers: list[Caller]) -> None:
        with Front(portal_url(cloud.deployment)) as front:
            ready(links(cloud.deployment, front.url, {caller.customer for caller in callers}))
            asyncio.run(_flow(cloud, callers, requests, say))

    return demo.run(requests=requests, road=road, api=api, faults=faults, say=say, then=go_on)


def links(deployment: Deployment, address: str, customers: set[str], may: Collection[Right] = ()) -> dict[str, str]:
    """Return a link to the page of each customer, where the page is on this machine."""
    now = datetime.now(UTC)
    made = {name: make_link(deployment, name, hours=LINK_HOURS, now=now, may=may) for name in sorted(customers)}
    return {name: f"{address}/#{urlsplit(link.url).fragment}" for name, link in made.items()}


async def _flow(cloud: LocalCloud, callers: list[Caller], sent: int, say: Console) -> None:
    """Send requests, after so many as were sent before, and close and post, until a signal."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for ending in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(ending, ended.set)

    async def send() -> None:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            for n in itertools.count(sent):
                await ask(session, cloud.gateway.url, callers, n)
                await asyncio.sleep(1 / REQUESTS_A_SECOND)

    async def close() -> None:
        while True:
            await asyncio.sleep(CLOSE_EVERY_S)
            await asyncio.to_thread(demo.close, cloud.deployment, say, runs=1)

    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(what) for what in (ended.wait(), send(), close())]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for task in done:
        task.result()
