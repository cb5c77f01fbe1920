"""A Stripe that the table of behaviours is played against: the local one, or a sandbox of Stripe's own.

Both are set up, called and cleaned up in the same way, by the official SDK. Whatever is made bears the name of the run,
by which it is found again and removed; customers are on test clocks, with which they are deleted. Should a run die,
`python -m tests.live.stripe_place` removes what any has left.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import stripe

from infra.local.stripe.server import LocalStripe

HOUR, DAY = 3_600, 86_400  # seconds

CALLS_PER_SECOND: Final = 20
"""A sandbox takes 25 in all (docs.stripe.com/rate-limits), and whoever else uses it is to have some."""

PREFIX: Final = "referee"
"""Begins the name of a run, and so of whatever it makes."""

SHOWN_WITHIN: Final = 300
"""Seconds for which is waited until a sandbox shows what it has taken; its documents say "eventually"."""

_TEST_KEY: Final = re.compile(r"(rk|sk)_test_\w+")
DESTINATION: Final = "https://example.com/referee"
"""The address of event destinations: one that is nobody's (RFC 2606)."""

API: Final = "https://api.stripe.com"
KEY: Final = "STRIPE_SANDBOX_KEY"
BASE: Final = "STRIPE_SANDBOX_BASE"
"""The environment's names for the sandbox's test key, and for another address than Stripe's, of this machine alone."""

T = TypeVar("T")


class NotASandboxError(ValueError):
    """A key or an address with which nothing is done."""


class Paced(stripe.RequestsClient):
    """The SDK's way to the network, which lets no more than so many calls pass in a second, attempts included."""

    def __init__(
        self,
        calls_per_second: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(timeout=60)
        self._step = 1 / calls_per_second
        self._clock, self._sleep = clock, sleep
        self._next = clock()
        self._lock = threading.Lock()

    def request(self, *what: Any, **how: Any) -> Any:
        """Make one request when it is its turn."""
        with self._lock:
            turn = max(self._next, self._clock())
            self._next = turn + self._step
        self._sleep(max(0.0, turn - self._clock()))
        return super().request(*what, **how)


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer at Stripe, and the test clock that it is on."""

    id: str
    clock: str


@dataclass(frozen=True, slots=True)
class Place:
    """One account in test mode, and how long it may take to show what it has taken.

    ``local`` is the local Stripe if it is that one, which can be made to fail; ``run`` names whatever is made.
    """

    client: stripe.StripeClient
    transport: stripe.RequestsClient
    api_base: str
    run: str
    patience: float
    local: LocalStripe | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1_000_000)))

    @classmethod
    def of_sandbox(
        cls, key: str, api_base: str = API, *, run: str, transport: Paced | None = None, patience: float = SHOWN_WITHIN
    ) -> Self:
        """Return the sandbox of a test key; another address than Stripe's can only be one of this machine."""
        if not _TEST_KEY.fullmatch(key):
            raise NotASandboxError(f"the key of a sandbox begins rk_test_ or sk_test_, got one that begins {key[:8]!r}")
        if api_base != API and urlsplit(api_base).hostname != "127.0.0.1":
            raise NotASandboxError(f"the key is sent to Stripe or to this machine, not to {api_base!r}")
        way = transport or Paced(CALLS_PER_SECOND)
        return cls(_client(key, api_base, way), way, api_base, run, patience)

    @classmethod
    def of_local(cls, server: LocalStripe, *, run: str) -> Self:
        """Return the local Stripe, which shows at once what it has taken, and has no pace to keep."""
        way = stripe.RequestsClient()
        return cls(_client(server.api_key, server.url, way), way, server.url, run, 0, server)

    @property
    def now(self) -> int:
        """The time, in seconds since the epoch."""
        return int(time.time())

    def hour(self, ago: int = 3) -> int:
        """Return when an hour began, so many before the one that runs."""
        return (self.now // HOUR - ago) * HOUR

    def midnight(self, ago: int = 3) -> int:
        """Return when a day (UTC) began, so many before the one that runs."""
        return (self.now // DAY - ago) * DAY

    def named(self, what: str = "it") -> str:
        """Return a name that nothing else has."""
        return f"{self.run}_{what}_{next(self._numbers)}"

    def customer(self, *, at: int | None = None, **more: Any) -> Customer:
        """Make a customer on a test clock of its own, which shows the real time or a moment."""
        clock = self.client.v1.test_helpers.test_clocks.create({"frozen_time": at or self.now, "name": self.named()})
        params: Any = {"test_clock": clock.id, **more}
        return Customer(self.client.v1.customers.create(params).id, clock.id)

    def advance(self, customer: Customer, to: int) -> None:
        """Let it be a moment for a customer, with all that comes of it."""
        clocks = self.client.v1.test_helpers.test_clocks
        clocks.advance(customer.clock, {"frozen_time": to})
        clock = self.eventually(lambda: clocks.retrieve(customer.clock), lambda clock: clock.status != "advancing")
        assert clock.status == "ready", f"the test clock {clock.id} is {clock.status}"

    def meter(self, event_name: str = "", **more: Any) -> Any:
        """Make a meter as a deployment does: of an hour's events that of the last counts."""
        params: Any = {
            "display_name": self.run,
            "event_name": event_name or self.named("calls"),
            "default_aggregation": {"formula": "sum"},
            "event_time_window": "hour",
        }
        return self.client.v1.billing.meters.create(params | more)

    def product(self) -> str:
        """Make a product; return its id."""
        return self.client.v1.products.create({"name": self.named("product"), "metadata": {PREFIX: self.run}}).id

    def price(self, meter: Any = None, **more: Any) -> Any:
        """Make a price for a day: of a meter's usage, 2 a unit if nothing else is said, or of a licence, 3,000."""
        recurring = {"interval": "day"} | ({"usage_type": "metered", "meter": meter.id} if meter else {})
        amount = {} if "tiers" in more else {"unit_amount": 2 if meter else 3_000}
        if "product" not in more:
            more["product"] = self.product()
        params: Any = {"currency": "usd", "recurring": recurring} | amount
        return self.client.v1.prices.create(params | more)

    def subscribe(self, customer: Customer, *prices: Any, **more: Any) -> Any:
        """Subscribe a customer to prices."""
        params: Any = {"customer": customer.id, "items": [{"price": price.id} for price in prices]}
        return self.client.v1.subscriptions.create(params | more)

    def post(self, meter: Any, customer: str, value: str | int, at: int, identifier: str = "", **options: Any) -> Any:
        """Post usage of a customer at a moment."""
        params: Any = {
            "event_name": meter if isinstance(meter, str) else meter.event_name,
            "payload": {"stripe_customer_id": customer, "value": str(value)},
            "identifier": identifier or self.named("event"),
            "timestamp": at,
        }
        how: Any = {"max_network_retries": 0, **options}
        return self.client.v1.billing.meter_events.create(params, how)

    def summaries(self, meter: Any, customer: str, start: int, end: int, **window: Any) -> list[tuple[int, float]]:
        """Return what a meter shows of a customer, by the beginnings of the windows, newest first."""
        params: Any = {"customer": customer, "start_time": start, "end_time": end, "limit": 100, **window}
        listed = self.client.v1.billing.meters.event_summaries.list(meter.id, params)
        return [(summary.start_time, summary.aggregated_value) for summary in listed.auto_paging_iter()]

    def held(self, meter: Any, customer: Customer, start: int, end: int, wanted: float) -> float:
        """Return what a meter holds of a customer from one moment to another, as soon as it is what is wanted."""

        def look() -> float:
            return sum(value for _, value in self.summaries(meter, customer.id, start, end))

        return self.eventually(look, lambda value: value == wanted)

    def eventually(self, look: Callable[[], T], is_there: Callable[[T], bool]) -> T:
        """Look until something is there, or for as long as this Stripe may take; return what was seen last."""
        gives_up_at = time.monotonic() + self.patience
        while not is_there(seen := look()) and time.monotonic() < gives_up_at:
            time.sleep(2)
        return seen

    def stream(self, *events: Mapping[str, Any], token: str = "", **options: Any) -> None:
        """Send meter events by the event stream, in a session of its own or of a token."""
        token = token or self.client.v2.billing.meter_event_session.create().authentication_token
        client = _client(token, self.api_base, self.transport)
        given: Any = {"events": list(events)}
        how: Any = {"max_network_retries": 0, **options}
        client.v2.billing.meter_event_stream.create(given, how)

    def destination(self) -> Any:
        """Make an event destination for error reports, at an address where nobody listens; with its secret."""
        params: Any = {
            "name": self.named("destination"),
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": ["v1.billing.meter.error_report_triggered"],
            "webhook_endpoint": {"url": DESTINATION},
            "include": ["webhook_endpoint.signing_secret"],
        }
        return self.client.v2.core.event_destinations.create(params)

    def reports(self) -> list[Any]:
        """Return the error reports of the last 30 days; a Stripe makes them by itself, in its own time."""
        events = self.client.v2.core.events
        if self.local:
            return [events.retrieve(event) for event in self.local.report_errors()]
        return list(events.list({"types": ["v1.billing.meter.error_report_triggered"]}).auto_paging_iter())

    def told_of(self, subscription: str, kind: str) -> list[Any]:
        """Return the latest thin events of a kind that name a subscription, as soon as there is one."""
        wanted: Any = {"types": [f"v1.customer.subscription.{kind}"], "limit": 100}

        def look() -> list[Any]:
            latest: Any = islice(self.client.v2.core.events.list(wanted).auto_paging_iter(), 500)
            return [event for event in latest if event.related_object.id == subscription]

        return self.eventually(look, bool)

    def at_once(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Make calls side by side; give what each returned, or Stripe's refusal of it."""

        def outcome(call: Callable[[], Any]) -> Any:
            try:
                return call()
            except stripe.StripeError as error:
                return error

        with ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(outcome, calls))

    def remove(self) -> None:
        """Remove whatever the run has made: nothing of it is billed, posted to or sold any more."""
        client = self.client.v1
        for destination in self._destinations():
            self.client.v2.core.event_destinations.delete(destination.id)
        for clock in self._clocks():
            client.test_helpers.test_clocks.delete(clock.id)
        for meter in self._meters():
            client.billing.meters.deactivate(meter.id)
        for product in self._products():
            for price in self._prices(product):
                client.prices.update(price.id, {"active": False})
            client.products.update(product.id, {"active": False})

    def left(self) -> list[str]:
        """Return what is there of the run, by its ids."""
        products = self._products()
        prices = [price for product in products for price in self._prices(product)]
        return [one.id for one in (*self._destinations(), *self._clocks(), *self._meters(), *products, *prices)]

    def _destinations(self) -> list[Any]:
        destinations = self.client.v2.core.event_destinations.list({"limit": 100}).auto_paging_iter()
        return [destination for destination in destinations if destination.name.startswith(self.run)]

    def _clocks(self) -> list[Any]:
        clocks = self.client.v1.test_helpers.test_clocks.list({"limit": 100}).auto_paging_iter()
        return [clock for clock in clocks if (clock.name or "").startswith(self.run)]

    def _meters(self) -> list[Any]:
        meters = self.client.v1.billing.meters.list({"status": "active", "limit": 100}).auto_paging_iter()
        return [meter for meter in meters if meter.event_name.startswith(self.run)]

    def _products(self) -> list[Any]:
        products = self.client.v1.products.list({"active": True, "limit": 100}).auto_paging_iter()
        return [product for product in products if product.metadata.to_dict().get(PREFIX, "").startswith(self.run)]

    def _prices(self, product: Any) -> list[Any]:
        return list(
            self.client.v1.prices.list({"product": product.id, "active": True, "limit": 100}).auto_paging_iter()
        )


def _client(key: str, api_base: str, transport: stripe.RequestsClient) -> stripe.StripeClient:
    addresses: Any = {"api": api_base} if api_base == API else {"api": api_base, "meter_events": api_base}
    return stripe.StripeClient(key, base_addresses=addresses, max_network_retries=2, http_client=transport)


if __name__ == "__main__":
    Place.of_sandbox(os.environ[KEY], os.environ.get(BASE, API), run=PREFIX).remove()
