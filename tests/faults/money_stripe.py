"""The local Stripe without HTTP: the SDK hands its requests to the same `Api`, by a transport that fails as told."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, cast

import stripe

from infra.local.stripe.account import Account
from infra.local.stripe.api import Answer, Api, Call, lock_timeout, refuse
from infra.local.stripe.faults import METER_EVENT_STREAM, METER_EVENTS, Fault
from infra.local.stripe.meter import Latest
from infra.local.stripe.params import StripeError
from metering.stripe.client import SLOWEST_CALL
from metering.stripe.meters import StripeMeters
from tests.doubles.stripe import call_of
from tests.faults.stage import Stage

API_KEY: Final = "sk_live_local"
DEPLOYMENT: Final = "Metering"

OLDER: Final = "2024-06-20"
"""A version of the API in which an account may have its events, whatever version we ask for."""

LANDS_WITHIN_S: Final = 540
"""A call that is held up lands at most so long after it was sent. With a life of 300 s and clocks that differ by two
minutes, that is within the FLIGHT_TIME that the code allows for."""


class Trouble(Enum):
    """What becomes of a call, beside the faults of the local Stripe."""

    BUSY = "429, another call is at work for this customer and meter"
    REFUSED = "400: Stripe says no"
    SLOWED = "429 with Retry-After"
    CROWDED = "429 to a read"


_TO_POSTS: Final = {Trouble.REFUSED, Trouble.BUSY}
_NOT_TO_POSTS: Final = {Trouble.CROWDED}


Fates = Mapping[Enum, float]


class Behaviour(Enum):
    """How an account behaves for one Stripe customer until it is mended."""

    SILENT = "500 to every call that posts"
    BUSY = "429 for this customer alone to every call that posts"
    REFUSED = "400 to every call that posts"
    UNKNOWN = "posts are accepted, and reported later: there is no such customer"


@dataclass
class StripeAccount:
    """An account, with the stage's time. ``fates`` says how likely each fate of a call is, ``bad`` who behaves how.

    ``older`` says that its events are in an older version of the API.
    """

    stage: Stage
    latest: Latest
    summary_delay_s: float
    fates: Fates = field(default_factory=dict)
    bad: dict[str, Behaviour] = field(default_factory=dict)
    older: bool = False

    def __post_init__(self) -> None:
        """Open the account."""
        version = {"event_version": OLDER} if self.older else {}
        self.account = Account(self.latest, self.summary_delay_s, **version)
        # The events of a customer that is unknown for a while are accepted and counted for nobody. Its subscription
        # runs on meanwhile, which is why the account's own directory keeps it.
        self.account.customers = cast("Any", _Known(self.account.directory.customers, self.bad))
        now: Callable[[], float] = lambda: self.stage.world.now  # noqa: E731
        self.api = Api(
            self.account,
            keys=frozenset({API_KEY}),
            restricted_keys={},
            events_per_second=10**6,
            endpoint_per_second=25,
            now=now,
            ticks=now,
        )
        self.meters = StripeMeters(lambda _: API_KEY, DEPLOYMENT, "https://stripe.invalid")

    def client(self, token: str, _base: str, **_waits: object) -> stripe.StripeClient:
        """Make a client of the SDK; it stands for the one of `metering.stripe.meters`."""
        return stripe.StripeClient(token, max_network_retries=2, http_client=_Transport(self))

    @contextmanager
    def by_others(self) -> Iterator[stripe.StripeClient]:
        """Give a client to somebody beside us, whose calls meet no fate and take no time."""
        process, self.stage.current = self.stage.current, None
        try:
            yield self.client(API_KEY, "")
        finally:
            self.stage.current = process

    def running(self, whom: str) -> list[Any]:
        """Return a customer's subscriptions that have not ended."""
        return [
            one for one in self.account.billing.subscriptions.values() if one.customer == whom and not one.canceled_at
        ]

    def is_paid(self, whom: str, hour: int) -> bool:
        """Say whether a subscription of a customer's holds the end of an hour, in which its total is dated."""
        end = (hour + 1) * 3600
        return any(
            one.start_date < end and (one.canceled_at is None or end <= one.canceled_at)
            for one in self._subscriptions(whom)
        )

    def _subscriptions(self, whom: str) -> list[Any]:
        return [one for one in self.account.billing.subscriptions.values() if one.customer == whom]

    def totals(self) -> dict[tuple[str, str, int], int]:
        """Return what Stripe holds, by Stripe customer, metric and hour's number."""
        held = self.account.hour_totals().items()
        prefix = f"{DEPLOYMENT}_"
        return {(whom, name.removeprefix(prefix), at // 3600): int(value) for (whom, name, at), value in held}

    def perform(self, call: Call) -> Answer:
        """Meet a call's fate; raise APIConnectionError where no answer comes."""
        process = self.stage.current
        if process is None:
            return self.api.perform(call)
        if call.method == "GET":
            self.stage.step()
            return self._suffer(call)
        answer: Answer = process.life.write(lambda: self._suffer(call))
        return answer

    def _suffer(self, call: Call) -> Answer:  # noqa: PLR0911  a fate each
        fate = self._draw(call)
        if fate is not None:
            self.stage.met[fate.name] += 1
        match fate:
            case Trouble.BUSY:
                return refuse(lock_timeout())
            case Trouble.REFUSED:
                return refuse(StripeError("This customer cannot be billed now."))
            case Trouble.CROWDED:
                return self.api.perform(call, Fault.RATE_LIMITED)
            case Trouble.SLOWED:
                answer = self.api.perform(call, Fault.RATE_LIMITED)
                return Answer(answer.status, answer.body, {**answer.headers, "Retry-After": "7"})
            case Fault.TIMEOUT_BEFORE | Fault.RESET_BEFORE:
                return self._no_answer(SLOWEST_CALL if fate is Fault.TIMEOUT_BEFORE else 0)
            case Fault.TIMEOUT_AFTER | Fault.RESET_AFTER:
                self.api.perform(call)
                return self._no_answer(SLOWEST_CALL if fate is Fault.TIMEOUT_AFTER else 0)
            case Fault.LANDS_LATE:
                late = self.stage.chance.random() * LANDS_WITHIN_S
                self.stage.world.later(late, lambda: self.api.perform(call))
                return self._no_answer(SLOWEST_CALL)
            case _:
                return self.api.perform(call, fate)

    def _no_answer(self, seconds: float) -> Answer:
        self.stage.sleep(seconds)
        raise stripe.APIConnectionError("no answer", should_retry=True)  # type: ignore[no-untyped-call]

    def _draw(self, call: Call) -> Fault | Trouble | None:
        posts = call.route in (METER_EVENTS, METER_EVENT_STREAM)
        if posts and (found := self._of_customer(call)):
            return found
        drawn = self.stage.chance.random() * (1 if posts else 3)  # a third as often where nothing is posted
        for fate, rate in self.fates.items():
            drawn -= rate
            if drawn < 0:
                assert isinstance(fate, Fault | Trouble)
                return fate if fate not in (_NOT_TO_POSTS if posts else _TO_POSTS) else None
        return None

    def _of_customer(self, call: Call) -> Fault | Trouble | None:
        behaviours = {self.bad[whom] for whom in _customers(call) if whom in self.bad}
        if Behaviour.REFUSED in behaviours:
            return Trouble.REFUSED
        if call.route == METER_EVENT_STREAM:  # which is taken whole: a customer's own trouble does not show
            return None
        if Behaviour.SILENT in behaviours:
            return Fault.ERROR_BEFORE
        return Trouble.BUSY if Behaviour.BUSY in behaviours else None


class _Known(Mapping[str, Any]):
    """The customers that are not unknown for now."""

    def __init__(self, everybody: Mapping[str, Any], bad: Mapping[str, Behaviour]) -> None:
        self._everybody, self._bad = everybody, bad

    def __getitem__(self, whom: str) -> Any:
        if self._bad.get(whom) is Behaviour.UNKNOWN:
            raise KeyError(whom)
        return self._everybody[whom]

    def __iter__(self) -> Iterator[str]:
        return (whom for whom in self._everybody if self._bad.get(whom) is not Behaviour.UNKNOWN)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Transport(stripe.HTTPClient):
    """Hands the SDK's requests over."""

    name = "in process"

    def __init__(self, account: StripeAccount) -> None:
        super().__init__()
        self._account = account

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        **_: Any,
    ) -> tuple[str, int, Mapping[str, str]]:
        """Answer a request."""
        answer = self._account.perform(call_of(method, url, headers, post_data or ""))
        return answer.body.decode(), answer.status, answer.headers

    def _sleep_time_seconds(self, *_: Any, **__: Any) -> float:
        """Let the stage's time pass instead."""
        self._account.stage.sleep(random.Random(0).random())
        return 0.0

    def close(self) -> None:
        """Keep nothing open."""


def _customers(call: Call) -> list[str]:
    """Return the Stripe customers that a call posts for."""
    events = call.params.get("events", []) if call.route == METER_EVENT_STREAM else [call.params]
    return [str(event["payload"]["stripe_customer_id"]) for event in events]
