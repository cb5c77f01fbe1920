"""How the local Stripe is reached: HTTP on the loopback interface, where calls are lost or late as a plan says."""

import asyncio
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar, assert_never

from aiohttp import web

from infra.local.stripe.api import Answer, Api, Call, decode, key_in_use, lock_timeout, refuse
from infra.local.stripe.faults import METER_EVENT_STREAM, METER_EVENTS, Fault, FaultPlan
from infra.local.stripe.params import API_VERSION

RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for zero seconds: closing sends RST instead of FIN

OWN_HOSTS: Final = ("127.0.0.1", "localhost")
OF_A_PAGE: Final = ("Origin", "Sec-Fetch-Site")
"""What a browser adds to what a page sends: one to anything that changes something, the other to everything."""

Result = TypeVar("Result")
Controls = Mapping[tuple[str, str], Callable[..., Any]]


class Wire:
    """An API behind HTTP, on an event loop in its own thread.

    - `lock` guards the API, `plan` and `calls`.
    - `latency_s`: how long an accepted meter event waits for its answer; for that long it holds its customer and meter.
    - `controls`: what answers the routes that Stripe has not, by method and path; a body's names are its arguments.
    """

    def __init__(self, api: Api, lock: threading.Lock, latency_s: float, controls: Controls) -> None:
        self.plan = FaultPlan()
        self.calls: Counter[str] = Counter()
        self._api = api
        self._lock = lock
        self._latency_s = latency_s
        self._controls = controls
        self._busy: set[tuple[str, str | None]] = set()  # what a call is at work on
        self._keys: set[str] = set()  # the idempotency keys of such calls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="local-stripe", daemon=True)
        self._late: dict[asyncio.Task[Answer], asyncio.Event] = {}

    def start(self, port: int) -> str:
        """Listen on a port, or on a free one where it is 0; give the address."""
        self._thread.start()
        try:
            return self._in_loop(self._start(port))
        except OSError:  # the port is taken
            self.stop()
            raise

    def stop(self) -> None:
        """Close every connection and end the thread."""
        self._in_loop(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def is_plain(self) -> bool:
        """Whether calls are answered at once, and none is lost or late."""
        return not self._latency_s and self.plan.is_over

    def land_late_calls(self) -> int:
        """Let every call that is still on its way arrive now, oldest first; give their number."""
        return self._in_loop(self._land_all())

    def _in_loop(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the server's thread and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _start(self, port: int) -> str:
        """Listen on the loopback interface alone; give the address."""
        # A client that gives up cancels its handler: that is how an unanswered call ends.
        server = web.Server(self._respond, handler_cancellation=True, access_log=None, lingering_time=0)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.05)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        """Drop what is still on its way, close every connection and stop listening."""
        late = list(self._late)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await self._runner.cleanup()

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request, or lose it as the fault plan says."""
        if reason := _refusal(request):
            return web.Response(status=403, text=f"{reason}\n")
        body = await request.text()
        if request.path.startswith("/_local/"):
            return await self._control(request, body)
        call = decode(request, body)
        with self._lock:
            self.calls[call.route] += 1
            about = {"Request-Id": f"req_{self.calls.total():014d}"}
            about["Stripe-Version"] = call.headers.get("Stripe-Version", API_VERSION)
            plan = self.plan
            fault = plan.draw(call.route, self._api.customer(call))
        match fault:
            case (
                None
                | Fault.RATE_LIMITED
                | Fault.RATE_LIMITED_RETRY
                | Fault.LOCKED
                | Fault.ERROR_BEFORE
                | Fault.ERROR_AFTER
                | Fault.REFUSED
            ):
                answer = await self._answer(call, fault)
            case Fault.TIMEOUT_BEFORE | Fault.TIMEOUT_AFTER | Fault.RESET_BEFORE | Fault.RESET_AFTER:
                if fault in (Fault.TIMEOUT_AFTER, Fault.RESET_AFTER):
                    self._perform(call)
                if fault in (Fault.RESET_BEFORE, Fault.RESET_AFTER):
                    _reset(request)
                answer = await asyncio.get_running_loop().create_future()  # never: until the connection is gone
            case Fault.LANDS_LATE:
                answer = await asyncio.shield(self._hold_up(call, plan.late_s))
            case _:
                assert_never(fault)
        about |= {"Content-Type": "application/json", **answer.headers}
        return web.Response(body=answer.body, status=answer.status, headers=about)

    def _hold_up(self, call: Call, late_s: float | None) -> asyncio.Task[Answer]:
        """Perform a call after `late_s` seconds or on command, in a task that outlives the client's patience."""
        arrived = asyncio.Event()

        async def land() -> Answer:
            try:
                async with asyncio.timeout(late_s):
                    await arrived.wait()
            except TimeoutError:
                pass  # it has arrived by itself
            return self._perform(call)

        task = asyncio.get_running_loop().create_task(land())
        self._late[task] = arrived
        task.add_done_callback(self._late.pop)
        return task

    async def _land_all(self) -> int:
        """Perform the calls that are held up, one after the other."""
        late = list(self._late.items())
        for task, arrived in late:
            arrived.set()
            await task
        return len(late)

    async def _answer(self, call: Call, fault: Fault | None) -> Answer:
        """Perform a call and take the time that Stripe takes, with the customer and the meter held meanwhile."""
        if not self._latency_s or call.route not in (METER_EVENTS, METER_EVENT_STREAM) or fault is not None:
            return self._perform(call, fault)
        if call.route == METER_EVENT_STREAM:
            answer = self._perform(call)
            await asyncio.sleep(self._latency_s)
            return answer
        held, key = self._api.target(call), call.headers.get("Idempotency-Key")
        if key in self._keys:
            return refuse(key_in_use(key))
        if held in self._busy:
            return refuse(lock_timeout())
        self._busy.add(held)
        self._keys.add(key or "")
        try:
            answer = self._perform(call)
            if answer.executed:
                await asyncio.sleep(self._latency_s)
            return answer
        finally:
            self._busy.discard(held)
            self._keys.discard(key or "")

    def _perform(self, call: Call, fault: Fault | None = None) -> Answer:
        """Let the API perform a call while no other thread looks."""
        with self._lock:
            return self._api.perform(call, fault)

    async def _control(self, request: web.BaseRequest, body: str) -> web.Response:
        """Answer a route that Stripe has not."""
        control = self._controls.get((request.method, request.path))
        if control is None:
            return web.json_response({"error": f"no {request.method} {request.path} here"}, status=404)
        try:
            # In a thread of its own: a webhook that is called may call back.
            told = await asyncio.to_thread(control, **json.loads(body or "{}"))
        except (ValueError, TypeError, AttributeError) as error:
            return web.json_response({"error": f"{request.path} cannot take {body[:200]}: {error}"}, status=400)
        return web.json_response(told)


def _refusal(request: web.BaseRequest) -> str:
    """Return why a request is refused: a page sends it, or a name of somebody else's leads here; nothing if it is not.

    A page that rebinds its name is known by that name alone: to its browser it asks its own server.
    """
    host = request.headers.get("Host", "")  # no request has two: aiohttp answers 400
    if host.lower().partition(":")[0] not in OWN_HOSTS:
        return f"this is the local Stripe of 127.0.0.1; a request for {host!r} belongs elsewhere"
    if any(name in request.headers for name in OF_A_PAGE):
        return "the local Stripe answers no web page"
    return ""


def _reset(request: web.BaseRequest) -> None:
    """Close a connection so that the client sees it reset, not ended."""
    transport = request.transport
    if isinstance(transport, asyncio.Transport):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        transport.abort()
