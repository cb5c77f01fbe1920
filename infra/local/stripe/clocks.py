"""The test clocks of the local Stripe: customers whose time stands still until somebody advances it.

The source is docs.stripe.com/api/test_clocks. What is of a clock's customers happens at the clock's time; that meter
events are dated by it as well could not be confirmed (? meter_events_go_by_the_real_time): here they are dated by the
account's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from infra.local.stripe.billing import Billing
from infra.local.stripe.customers import Customers
from infra.local.stripe.meter import DAY
from infra.local.stripe.params import PAGING, Params, StripeError, integer, only, page, text

LIFE = 30 * DAY  # docs.stripe.com/api/test_clocks/object, `deletes_after`
FARTHEST = 2  # intervals of the shortest subscription, the same page, "Advance a test clock", `frozen_time`


@dataclass(slots=True)
class Clocks:
    """The clocks of an account, by id; `directory.times` is what each of them shows."""

    billing: Billing
    directory: Customers
    clocks: dict[str, dict[str, Any]] = field(default_factory=dict)
    _made: int = 0

    def create_clock(self, params: Params, now: float) -> dict[str, Any]:
        """Make a clock that shows `frozen_time`."""
        only(params, "frozen_time", "name")
        self._made += 1
        clock = f"clock_{self._made:014d}"
        self.directory.times[clock] = integer(params, "frozen_time")
        self.clocks[clock] = {
            "id": clock,
            "object": "test_helpers.test_clock",
            "created": int(now),
            "deletes_after": int(now) + LIFE,
            "frozen_time": self.directory.times[clock],
            "livemode": False,
            "name": text(params, "name", default="") or None,
            "status": "ready",
            "status_details": {},
        }
        return self.clocks[clock]

    def list_clocks(self, params: Params, _now: float) -> dict[str, Any]:
        """List the clocks, newest first."""
        only(params, *PAGING)
        return page(list(reversed(self.clocks.values())), params, "/v1/test_helpers/test_clocks")

    def retrieve_clock(self, clock: str, params: Params, _now: float) -> dict[str, Any]:
        """Give one clock."""
        only(params)
        return self._clock(clock)

    def advance_clock(self, clock: str, params: Params, now: float) -> dict[str, Any]:
        """Put a clock forward, and let everything happen that is due by then; it is ready at once."""
        only(params, "frozen_time")
        shown, wanted = self._clock(clock), integer(params, "frozen_time")
        latest = min(self._farthest(clock), default=None)
        if wanted <= shown["frozen_time"] or (latest is not None and wanted > latest):
            raise StripeError(
                "Invalid frozen_time: must be after the clock's current time, and no more than two intervals of its "
                "shortest subscription ahead.",
                param="frozen_time",
            )
        self.directory.times[clock] = shown["frozen_time"] = wanted
        self.billing.advance(now)
        return shown

    def delete_clock(self, clock: str, params: Params, now: float) -> dict[str, Any]:
        """Delete a clock with its customers, whose subscriptions end."""
        only(params)
        del self.clocks[self._clock(clock)["id"]]
        for customer in [each["id"] for each in self.directory.customers.values() if each["test_clock"] == clock]:
            self.directory.remove(customer)
            self.billing.leave(customer, int(now))
        del self.directory.times[clock]
        return {"id": clock, "object": "test_helpers.test_clock", "deleted": True}

    def _farthest(self, clock: str) -> Iterator[int]:
        """Yield how far each running subscription of a clock's customers lets it be put forward."""
        for subscription in self.billing.subscriptions.values():
            customer = self.directory.customers.get(subscription.customer)
            if customer and customer["test_clock"] == clock and subscription.canceled_at is None:
                for item in subscription.items.values():
                    yield subscription.period_at(item.price.recurring, item.end)[1]

    def _clock(self, clock: str) -> dict[str, Any]:
        """Find a clock by its id, or answer 404."""
        if clock not in self.clocks:
            raise StripeError(f"No such test clock: '{clock}'", status=404, code="resource_missing", param="test_clock")
        return self.clocks[clock]
