"""A local Stripe: billing meters, meter events, event summaries and customers over HTTP, with faults on demand.

    with LocalStripe() as stripe:
        client = StripeClient(stripe.api_key, base_addresses={"api": stripe.url})

It keeps the documented rules (`stripe_api`, `stripe_account`), fails as told (`stripe_faults`), and says what Stripe
would bill. Other processes use `python -m infra.local.stripe_server`: one line of JSON gives its address and API key.
"""

import argparse
import asyncio
import json
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar, assert_never

from aiohttp import web

from infra.local.stripe_account import Account
from infra.local.stripe_api import API_VERSION, Answer, Api, Call, decode, lock_timeout, refuse
from infra.local.stripe_faults import METER_EVENTS, Fault, FaultPlan
from infra.local.stripe_meter import Latest, MeterEvent, Quantity

API_KEY = "sk_test_local"
EVENTS_PER_SECOND = 1_000  # docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api, "Rate limits"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for zero seconds: closing sends RST instead of FIN

Result = TypeVar("Result")


class LocalStripe:
    """A Stripe account behind HTTP on 127.0.0.1, for as long as its `with` lasts, on an event loop in its own thread.

    Every method may be called from any thread, those that tell what it holds also afterwards.

    - `api_keys`: the accepted keys; `api_key` is the first of them. All others are answered 401.
    - `port`: 0 takes a free one.
    - `latest`: which event of a window counts: the one that arrived last, or the one with the greatest timestamp.
    - `latency_s`: how long an accepted call waits for its answer; for that long it holds its customer and meter.
    - `events_per_second`: more meter-event calls in one second are answered 429.
    - `now`: the account's clock, in seconds since the epoch. `ticks`: the rate limit's clock, in seconds.
    """

    def __init__(  # noqa: PLR0913  each is one documented property of Stripe, or a clock
        self,
        *,
        api_keys: Sequence[str] = (API_KEY,),
        port: int = 0,
        latest: Latest = "arrival",
        latency_s: float = 0.0,
        events_per_second: int = EVENTS_PER_SECOND,
        now: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self.api_key = api_keys[0]
        self.url = ""
        self._port = port
        self._latency_s = latency_s
        self._now = now
        self._account = Account(latest)
        self._api = Api(
            self._account, keys=frozenset(api_keys), events_per_second=events_per_second, now=now, ticks=ticks
        )
        self._plan = FaultPlan()
        self._calls: Counter[str] = Counter()
        self._busy: set[tuple[str, str | None]] = set()  # what a call is at work on
        self._lock = threading.Lock()  # guards the account, the API, the plan and the calls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="local-stripe", daemon=True)
        self._late: dict[asyncio.Task[Answer], asyncio.Event] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._in_loop(self._start())
        except OSError:  # the port is taken
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._in_loop(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def hour_totals(self) -> dict[tuple[str, str, int], Quantity]:
        """Give what Stripe holds, by (Stripe customer, event name, start of the UTC hour in epoch seconds)."""
        with self._lock:
            return self._account.hour_totals()

    @property
    def events(self) -> list[MeterEvent]:
        """Every accepted meter event, in the order of arrival."""
        with self._lock:
            return list(self._account.events)

    @property
    def rejected_events(self) -> list[MeterEvent]:
        """The accepted meter events of unknown customers, which Stripe reports later and bills nobody for."""
        with self._lock:
            return list(self._account.rejected_events)

    @property
    def calls(self) -> Counter[str]:
        """How often each route was called, whatever the answer: `calls["POST /v1/billing/meter_events"]`."""
        with self._lock:
            return self._calls.copy()

    def set_faults(
        self,
        faults: Mapping[Fault, float] | Iterable[Fault | None],
        *,
        seed: int = 0,
        customer: str | None = None,
        route: str | None = METER_EVENTS,
        late_s: float | None = None,
    ) -> None:
        """Let calls fail from now on, as `FaultPlan` says; it replaces the plan before it."""
        plan = FaultPlan(faults, seed=seed, customer=customer, route=route, late_s=late_s)
        with self._lock:
            self._plan = plan

    def clear_faults(self) -> None:
        """Let no call fail from now on. Calls that were to land late still do."""
        self.set_faults(())

    def land_late_calls(self) -> int:
        """Let every call that is still on its way arrive now, oldest first; give their number."""
        return self._in_loop(self._land_late_calls())

    def rotate_key(self, new: str) -> None:
        """Make `new` the API key; the one before it is answered 401 from now on."""
        with self._lock:
            self._api.rotate_key(self.api_key, new)
            self.api_key = new

    def add_customer(self, customer: str) -> None:
        """Add a customer under an id of the caller's choice, which the API itself does not allow."""
        with self._lock:
            self._account.add_customer(customer, self._now())

    def state(self) -> dict[str, Any]:
        """Give the answer of `GET /_local/state`: totals, events and calls as JSON."""
        with self._lock:
            totals = self._account.hour_totals()
            return {
                "hour_totals": [
                    {"customer": customer, "event_name": event_name, "hour": hour, "value": str(value)}
                    for (customer, event_name, hour), value in sorted(totals.items())
                ],
                "events": [event.as_json() for event in self._account.events],
                "rejected_events": [event.as_json() for event in self._account.rejected_events],
                "calls": dict(self._calls),
            }

    def _in_loop(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the server's thread and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _start(self) -> None:
        """Listen on the loopback interface alone."""
        # A client that gives up cancels its handler: that is how an unanswered call ends.
        server = web.Server(self._respond, handler_cancellation=True, access_log=None, lingering_time=0)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.05)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        """Drop what is still on its way, close every connection and stop listening."""
        late = list(self._late)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await self._runner.cleanup()

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request, or lose it as the fault plan says."""
        body = await request.text()
        if request.path.startswith("/_local/"):
            return self._control(request, body)
        call = decode(request, body)
        with self._lock:
            self._calls[call.route] += 1
            about = {"Request-Id": f"req_{self._calls.total():014d}"}
            about["Stripe-Version"] = call.headers.get("Stripe-Version", API_VERSION)
            plan = self._plan
            fault = plan.draw(call.route, self._account.target(call.params)[1])
        match fault:
            case None | Fault.RATE_LIMITED | Fault.RATE_LIMITED_RETRY | Fault.ERROR_BEFORE | Fault.ERROR_AFTER:
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
        return web.Response(body=json.dumps(answer.body).encode(), status=answer.status, headers=about)

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

    async def _land_late_calls(self) -> int:
        """Perform the calls that are held up, one after the other."""
        late = list(self._late.items())
        for task, arrived in late:
            arrived.set()
            await task
        return len(late)

    async def _answer(self, call: Call, fault: Fault | None) -> Answer:
        """Perform a call and take the time that Stripe takes, with the customer and the meter held meanwhile."""
        held = self._account.target(call.params)
        if not self._latency_s or call.route != METER_EVENTS or fault is not None:
            return self._perform(call, fault)
        if held in self._busy:
            return refuse(lock_timeout())
        self._busy.add(held)
        try:
            answer = self._perform(call)
            if answer.executed:
                await asyncio.sleep(self._latency_s)
            return answer
        finally:
            self._busy.discard(held)

    def _perform(self, call: Call, fault: Fault | None = None) -> Answer:
        """Let the API perform a call while no other thread looks."""
        with self._lock:
            return self._api.perform(call, fault)

    def _control(self, request: web.BaseRequest, body: str) -> web.Response:
        """Answer the routes that Stripe has not: `POST /_local/faults` and `GET /_local/state`."""
        if (request.method, request.path) == ("GET", "/_local/state"):
            return web.json_response(self.state())
        if (request.method, request.path) != ("POST", "/_local/faults"):
            return web.json_response({"error": f"no {request.method} {request.path} here"}, status=404)
        try:
            wanted = json.loads(body)
            faults = wanted.pop("faults", ())
            if isinstance(faults, Mapping):
                faults = {Fault(name): float(rate) for name, rate in faults.items()}
            self.set_faults(faults, **wanted)
        except (ValueError, TypeError, AttributeError) as error:
            return web.json_response({"error": f"not a fault plan: {error}"}, status=400)
        return web.json_response({})


def _reset(request: web.BaseRequest) -> None:
    """Close a connection so that the client sees it reset, not ended."""
    transport = request.transport
    if isinstance(transport, asyncio.Transport):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        transport.abort()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM, after one line of JSON with `url` and `api_key`."""
    parser = argparse.ArgumentParser(description="A local Stripe for usage-based billing.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--api-key", default=API_KEY, help="the test key it accepts")
    parser.add_argument(
        "--latest", choices=("arrival", "timestamp"), default="arrival", help="which event of a window counts"
    )
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that an accepted call takes")
    wanted = parser.parse_args(arguments)
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with LocalStripe(
        port=wanted.port, api_keys=(wanted.api_key,), latest=wanted.latest, latency_s=wanted.latency
    ) as stripe:
        sys.stdout.write(json.dumps({"url": stripe.url, "api_key": stripe.api_key}) + "\n")
        sys.stdout.flush()
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
