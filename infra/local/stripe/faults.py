"""What can go wrong between a client and the local Stripe, on demand and repeatably."""

import random
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from enum import StrEnum, unique

METER_EVENTS = "POST /v1/billing/meter_events"
METER_EVENT_STREAM = "POST /v2/billing/meter_event_stream"


@unique
class Fault(StrEnum):
    """One way for a call to fail. "Accepted" means that the call has its effect, whatever the client learns of it."""

    RATE_LIMITED = "rate_limited"
    """429 with no word on retrying: the official SDK gives up at once. Not accepted."""
    RATE_LIMITED_RETRY = "rate_limited_retry"
    """429 with `Stripe-Should-Retry: true`: the official SDK tries again. Not accepted."""
    LOCKED = "locked"
    """Another call is at work for this customer and meter: 429 `lock_timeout`, 409 on the stream. Not accepted."""
    ERROR_BEFORE = "error_before"
    """500, not accepted. The idempotency key remembers the 500."""
    ERROR_AFTER = "error_after"
    """500, although accepted. The idempotency key remembers the 500."""
    TIMEOUT_BEFORE = "timeout_before"
    """The request is lost: not accepted, never answered."""
    TIMEOUT_AFTER = "timeout_after"
    """The answer is lost: accepted, never answered."""
    RESET_BEFORE = "reset_before"
    """The connection is reset: not accepted."""
    RESET_AFTER = "reset_after"
    """The connection is reset, although accepted."""
    REFUSED = "refused"
    """400 in words that no document has: something about an object that Stripe does not want. Not accepted."""
    LANDS_LATE = "lands_late"
    """The request is held up on its way and accepted later, even where the client has given up on it."""


class FaultPlan:
    """Which call meets which fault, drawn once for each call that the plan concerns.

    `faults` is either a rate for each fault (drawn from a generator seeded with `seed`; the rates add up to at most 1),
    or a script with one entry for each call, `None` for a call without fault; after its end no call has one. The plan
    concerns calls of `route` (None: of all routes), and where `customer` is given only those that name that Stripe
    customer. A call that lands late does so after `late_s` seconds, or on command where that is None. `drawn` counts
    the faults.
    """

    def __init__(
        self,
        faults: Mapping[Fault, float] | Iterable[Fault | None] = (),
        *,
        seed: int = 0,
        customer: str | None = None,
        route: str | None = METER_EVENTS,
        late_s: float | None = None,
    ) -> None:
        self.customer = customer
        self.route = route
        self.late_s = late_s
        self.drawn: Counter[Fault] = Counter()
        self._rates: dict[Fault, float] = {}
        self._script: deque[Fault | None] = deque()
        if isinstance(faults, Mapping):
            self._rates = {Fault(fault): rate for fault, rate in faults.items()}
        else:
            self._script.extend(None if fault is None else Fault(fault) for fault in faults)
        if any(rate < 0 for rate in self._rates.values()) or sum(self._rates.values()) > 1 + 1e-9:
            raise ValueError(f"fault rates must be at least 0 and add up to at most 1, got {self._rates}")
        self._random = random.Random(seed)  # noqa: S311  repeatable on purpose

    @property
    def is_over(self) -> bool:
        """Whether no call will ever meet a fault again."""
        return not self._script and not self._rates

    def draw(self, route: str, customer: str | None) -> Fault | None:
        """Say what happens to one call of `route` that concerns the Stripe customer, if any."""
        fault = self._draw(route, customer)
        if fault is not None:
            self.drawn[fault] += 1
        return fault

    def _draw(self, route: str, customer: str | None) -> Fault | None:
        if self.route not in (None, route) or self.customer not in (None, customer):
            return None
        if self._script:
            return self._script.popleft()
        if not self._rates:
            return None
        drawn = self._random.random()
        for fault, rate in self._rates.items():
            drawn -= rate
            if drawn < 0:
                return fault
        return None
