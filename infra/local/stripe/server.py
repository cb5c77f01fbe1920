"""A local Stripe: meters and their events, customers, prices, subscriptions and invoices, with faults on demand.

    with LocalStripe() as stripe:
        client = StripeClient(stripe.api_key, base_addresses={"api": stripe.url})

It keeps the documented rules (`stripe_api`, `stripe_account`), fails as told (`stripe_faults`), and says what Stripe
would bill. Other processes use `python -m infra.local.stripe.server`: one line of JSON gives its address and API key.
"""

import argparse
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from infra.local.stripe.account import Account
from infra.local.stripe.api import Api
from infra.local.stripe.customers import TEST_CARD
from infra.local.stripe.faults import METER_EVENTS, Fault, FaultPlan
from infra.local.stripe.meter import Latest, MeterEvent, Quantity
from infra.local.stripe.params import API_VERSION
from infra.local.stripe.webhook import Webhook
from infra.local.stripe.wire import Wire

API_KEY = "sk_test_local"
NO_KEYS: Mapping[str, Mapping[str, str]] = {}
EVENTS_PER_SECOND = 1_000  # docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api, "Rate limits"


class LocalStripe:
    """A Stripe account behind HTTP on 127.0.0.1, for as long as its `with` lasts, on an event loop in its own thread.

    Every method may be called from any thread, those that tell what it holds also afterwards.

    - `api_keys`: the accepted keys; `api_key` is the first of them. All others are answered 401.
    - `port`: 0 takes a free one.
    - `latest`: which event of a window counts: the one that arrived last, or the one with the greatest timestamp.
    - `latency_s`: how long an accepted call waits for its answer; for that long it holds its customer and meter.
    - `events_per_second`: more meter-event calls in one second are answered 429.
    - `endpoint_per_second`: the same for each other endpoint, 25 at Stripe (docs.stripe.com/rate-limits); None: any.
    - `restricted_keys`: more keys, each with its rights: `{"rk_test_a": {"product": "write", "invoice": "read"}}`.
      A call that needs another right is answered 403; `stripe_routes.RIGHTS` names the right of each route.
    - `event_version`: the account's default version of the API, in which its events have their objects,
      whatever version is asked for (docs.stripe.com/api/events: "at its creation time").
    - `summary_delay_s`: how long an event takes until summaries, drafts and previews show it.
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
        endpoint_per_second: int | None = None,
        restricted_keys: Mapping[str, Mapping[str, str]] = NO_KEYS,
        summary_delay_s: float = 0.0,
        event_version: str = API_VERSION,
        now: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self.api_key = api_keys[0]
        self.url = ""
        self._port = port
        self._clock = now
        self._ahead = 0.0  # seconds
        self._account = Account(latest, summary_delay_s, event_version)
        self._api = Api(
            self._account,
            keys=frozenset(api_keys),
            restricted_keys=restricted_keys,
            events_per_second=events_per_second,
            endpoint_per_second=endpoint_per_second,
            now=lambda: self.now,
            ticks=ticks,
        )
        self._webhook: Webhook | None = None
        self._lock = threading.Lock()  # guards the account, the API, the plan and the calls
        self._wire = Wire(self._api, self._lock, latency_s, self._controls())

    def __enter__(self) -> Self:
        self.url = self._wire.start(self._port)
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.stop()

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
            return self._wire.calls.copy()

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
            self._wire.plan = plan

    @property
    def faults(self) -> Counter[Fault]:
        """How often each fault of the present plan has happened."""
        with self._lock:
            return self._wire.plan.drawn.copy()

    def clear_faults(self) -> None:
        """Let no call fail from now on. Calls that were to land late still do."""
        self.set_faults(())

    def land_late_calls(self) -> int:
        """Let every call that is still on its way arrive now, oldest first; give their number."""
        return self._wire.land_late_calls()

    def rotate_key(self, new: str) -> None:
        """Make `new` the API key; the one before it is answered 401 from now on."""
        with self._lock:
            self._api.rotate_key(self.api_key, new)
            self.api_key = new

    def advance(self, seconds: float = 0.0) -> None:
        """Put the account's clock forward, for good, and let everything happen that is due by then.

        Periods end and drafts are finalised by themselves whenever the account is called; this calls it.
        """
        with self._lock:
            self._ahead += seconds
            self._account.billing.advance(self.now)

    @property
    def now(self) -> float:
        """The account's time, in seconds since the epoch."""
        return self._clock() + self._ahead

    def set_webhook(self, url: str, secret: str) -> None:
        """Deliver thin events to an address from now on, signed with a secret."""
        with self._lock:
            self._webhook = Webhook(url, secret)

    def report_errors(self) -> list[str]:
        """Report the meter events that could not be counted since the last time; give the ids of the thin events.

        Stripe does so by itself, minutes or days later. Each is delivered before this returns: to the webhook that is
        set, and to the event destinations that want it, of which new ones get a ping first.
        """
        with self._lock:
            notifications = self._account.reports.report(self.now)
        self._send(notifications)
        return [notification["id"] for notification in notifications]

    def tell_changes(self) -> list[str]:
        """Tell what has happened to subscriptions since the last time; give the ids of the thin events.

        Stripe does so by itself, in its own time and in any order. Each is delivered as error reports are.
        """
        with self._lock:
            notifications = self._account.reports.take_untold()
        self._send(notifications)
        return [notification["id"] for notification in notifications]

    def _send(self, notifications: Iterable[Mapping[str, Any]]) -> None:
        with self._lock:
            destinations = self._account.destinations
            set_by_hand = [self._webhook] if self._webhook else []
            sent = [(Webhook(to.url, to.secret), ping) for to, ping in destinations.take_pings()]
            for notification in notifications:
                to_whom = [Webhook(to.url, to.secret) for to in destinations.wanting(notification["type"])]
                sent += [(webhook, dict(notification)) for webhook in (*set_by_hand, *to_whom)]
        for webhook, notification in sent:
            webhook.deliver(notification)

    def set_status(self, subscription: str, status: str) -> None:
        """Let a subscription be in a status that comes of payments, or of a pause, neither of which is built here."""
        with self._lock:
            self._account.subscriptions.set_status(subscription, status, self.now)

    def keep_event(self, event: Mapping[str, Any]) -> None:
        """Have a thin event of the caller's own, which can then be fetched: as one of Stripe's documents."""
        with self._lock:
            self._account.reports.thin_events[str(event["id"])] = dict(event)

    def add_customer(self, customer: str) -> None:
        """Add a customer under an id of the caller's choice, which the API itself does not allow.

        It can be charged and sent invoices: it has a card, and an address.
        """
        with self._lock:
            directory = self._account.directory
            made = directory.add(customer, self.now)
            card = directory.attach(customer, TEST_CARD, self.now)["id"]
            made["email"] = f"{customer}@customers.test"
            made["invoice_settings"] = made["invoice_settings"] | {"default_payment_method": card}

    def complete_checkout(self, session: str) -> None:
        """Do what a customer does on the page of a Checkout session: give a card."""
        with self._lock:
            self._account.paying.complete(session, self.now)

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
                "calls": dict(self._wire.calls),
            }

    def _controls(self) -> dict[tuple[str, str], Callable[..., Any]]:
        """Give what answers the routes that Stripe has not; a body's names are the method's own."""
        return {
            ("GET", "/_local/state"): self.state,
            ("POST", "/_local/faults"): self._plan_faults,
            ("POST", "/_local/advance"): self.advance,
            ("POST", "/_local/webhook"): self.set_webhook,
            ("POST", "/_local/report_errors"): self.report_errors,
            ("POST", "/_local/tell_changes"): self.tell_changes,
            ("POST", "/_local/set_status"): self.set_status,
        }

    def _plan_faults(self, faults: Mapping[str, float] | Sequence[Fault | None] = (), **more: Any) -> dict[str, Any]:
        """Set the faults that are written in JSON."""
        if isinstance(faults, Mapping):
            self.set_faults({Fault(name): float(rate) for name, rate in faults.items()}, **more)
        else:
            self.set_faults(faults, **more)
        return {}


def _restricted_key(written: str) -> tuple[str, dict[str, str]]:
    """Read a key and its rights."""
    key, _, rights = written.partition("=")
    return key, dict(right.split(":", 1) for right in rights.split(",")) if rights else {}


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM, after one line of JSON with `url` and `api_key`."""
    parser = argparse.ArgumentParser(description="A local Stripe for usage-based billing.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--api-key", default=API_KEY, help="the test key it accepts")
    parser.add_argument(
        "--latest", choices=("arrival", "timestamp"), default="arrival", help="which event of a window counts"
    )
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that an accepted call takes")
    parser.add_argument("--events-per-second", type=int, default=EVENTS_PER_SECOND, help="more calls are answered 429")
    parser.add_argument("--summary-delay", type=float, default=0.0, help="seconds until summaries show an event")
    parser.add_argument(
        "--restricted-key",
        action="append",
        default=[],
        metavar="KEY=RESOURCE:LEVEL,…",
        help="one more key, with its rights, as in rk_test_a=product:write,invoice:read",
    )
    wanted = parser.parse_args(arguments)
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with LocalStripe(
        port=wanted.port,
        api_keys=(wanted.api_key,),
        latest=wanted.latest,
        latency_s=wanted.latency,
        events_per_second=wanted.events_per_second,
        restricted_keys=dict(map(_restricted_key, wanted.restricted_key)),
        summary_delay_s=wanted.summary_delay,
    ) as stripe:
        sys.stdout.write(json.dumps({"url": stripe.url, "api_key": stripe.api_key}) + "\n")
        sys.stdout.flush()
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
