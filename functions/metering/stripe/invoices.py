"""What Stripe has billed: finalised invoices, and whether a customer is billed at all. Reads only, within a budget.

Invoices are found by Stripe's list of events, which it keeps for 30 days (Stripe API reference, "Events"): so none is
missed by a webhook that was lost, or by an outage that was shorter than that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import stripe

from metering.model.periods import Hour
from metering.stripe.answers import UNKNOWN_CUSTOMER
from metering.stripe.client import StripeRejectedError
from metering.stripe.meters import Meter, StripeMeters
from metering.stripe.reading import Reads

FINALISED: Final = "invoice.finalized"

_MOST: Final = 100
"""Objects in one answer (Stripe API reference, "Pagination")."""

_BILLING: Final = {"active", "past_due", "trialing", "unpaid"}
"""States of a subscription whose usage gets onto an invoice."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InvoicedMetric:
    """What one finalised invoice bills of one metric, for the hours from ``first`` up to ``end``, exclusive."""

    invoice: str
    stripe_customer: str
    metric: str
    first: Hour
    end: Hour
    quantity: int


@dataclass(slots=True)
class StripeReader:
    """What Stripe says, by the ``reads`` of one run; raises OutOfBudgetError instead of one too many."""

    meters: StripeMeters
    reads: Reads
    unknown: set[str] = field(default_factory=set)
    """The Stripe customers that Stripe has said it does not know: ids that are wrong, deleted, or of the other mode."""

    _by_metric: dict[str, Meter] | None = None
    _meter_of_price: dict[str, str] = field(default_factory=dict)
    _billed: dict[str, frozenset[str]] = field(default_factory=dict)
    _subscriptions: dict[str, list[Any]] = field(default_factory=dict)

    def by_metric(self) -> dict[str, Meter]:
        """Return this deployment's active meters by metric; one call in a run."""
        if self._by_metric is None:
            prefix = self.meters.event_name("")
            found = self.reads.make(self.meters.meters).items()
            self._by_metric = {name.removeprefix(prefix): meter for name, meter in found if name.startswith(prefix)}
        return self._by_metric

    def totals(
        self, metric: str, stripe_customer: str, first: Hour, end: Hour, window: Literal["hour", "day"]
    ) -> dict[Hour, int]:
        """Return what Stripe shows of a customer's metric, by the first hour of each ``window``: "hour" or "day".

        That is nothing for a customer that Stripe does not know.
        """
        meter = self.by_metric().get(metric)
        if meter is None:
            return {}
        try:
            return self.reads.make(lambda: self.meters.totals(meter, stripe_customer, first, end, window=window))
        except StripeRejectedError as error:
            if not error.means(UNKNOWN_CUSTOMER):
                raise
            self.unknown.add(stripe_customer)
            return {}

    def finalised(self, since: int, until: int, after: str = "") -> Iterator[tuple[str, list[InvoicedMetric]]]:
        """Yield what the invoices bill that were finalised from ``since`` up to ``until``, exclusive, newest first.

        That is a hundred events at a time, with the last one's id; ``after`` an event the rest. Moments are in seconds
        since 1970.
        """
        between = {"gte": since, "lt": until}
        pages = self._pages(
            lambda client, page: client.v1.events.list(_params(type=FINALISED, created=between, **page)), after
        )
        for found in pages:
            if found:
                yield found[-1].id, [one for event in found for one in self._metered(event.data.object)]

    def is_billed(self, stripe_customer: str, metric: str) -> bool:
        """Say whether a customer has a subscription that bills this metric now."""
        meter = self.by_metric().get(metric)
        if meter is None:
            return False
        if stripe_customer not in self._billed:
            billing = (one for one in self.subscriptions(stripe_customer) if one.status in _BILLING)
            items = (item for subscription in billing for item in subscription["items"].data)
            self._billed[stripe_customer] = frozenset(
                item.price.recurring.meter for item in items if item.price.recurring and item.price.recurring.meter
            )
        return meter.id in self._billed[stripe_customer]

    def subscriptions(self, stripe_customer: str) -> list[Any]:
        """Return every subscription that a customer has or had, newest first; one call for each hundred in a run.

        That is none for a customer that Stripe does not know.
        """
        if stripe_customer not in self._subscriptions:
            try:
                found = self._all(
                    lambda client, page: client.v1.subscriptions.list(
                        _params(customer=stripe_customer, status="all", **page)
                    )
                )
            except StripeRejectedError as error:
                if not error.means(UNKNOWN_CUSTOMER):
                    raise
                found = []
            self._subscriptions[stripe_customer] = found
        return self._subscriptions[stripe_customer]

    def _metered(self, invoice: Any) -> Iterator[InvoicedMetric]:
        """Yield what an invoice bills of each metric; a tiered price has a line for each tier that was reached."""
        lines = invoice["lines"]
        whole = lines.data
        if lines.has_more:
            whole = self._all(lambda client, page: client.v1.invoices.line_items.list(invoice.id, _params(**page)))
        metered: dict[str, tuple[Hour, Hour, int]] = {}
        for line in whole:
            metric = self._metric_of(line)
            if metric is None:
                continue
            first, end = (Hour.of_epoch_ms(at * 1000) for at in (line.period.start, line.period.end))
            before = metered.get(metric, (first, end, 0))
            metered[metric] = (min(first, before[0]), max(end, before[1]), before[2] + int(line.quantity or 0))
        for metric, (first, end, quantity) in metered.items():
            yield InvoicedMetric(invoice.id, invoice.customer, metric, first, end, quantity)

    def _metric_of(self, line: Any) -> str | None:
        pricing = getattr(line, "pricing", None)
        details = getattr(pricing, "price_details", None)
        if details is None or not details.price:
            return None
        price = details.price if isinstance(details.price, str) else details.price.id
        if price not in self._meter_of_price:
            found = self._one(lambda client: client.v1.prices.retrieve(price))
            self._meter_of_price[price] = (found.recurring and found.recurring.meter) or ""
        meters = {meter.id: metric for metric, meter in self.by_metric().items()}
        return meters.get(self._meter_of_price[price])

    def _one(self, call: Callable[[stripe.StripeClient], T]) -> T:
        """Make one call, as every read is to be made that this file makes itself."""
        return self.reads.make(lambda: self.meters.call(call))

    def _all(self, call: Callable[[stripe.StripeClient, dict[str, str]], Any]) -> list[Any]:
        """Return every object of a list, newest first, with a call for each hundred."""
        return [one for page in self._pages(call) for one in page]

    def _pages(
        self, call: Callable[[stripe.StripeClient, dict[str, str]], Any], after: str = ""
    ) -> Iterator[list[Any]]:
        """Yield a list's objects, newest first, a hundred at a time; ``after`` one of them the rest."""
        page = {"starting_after": after} if after else {}
        while True:
            answer = self._one(lambda client, page=page: call(client, page))  # type: ignore[misc]
            yield answer.data
            if not answer.has_more:
                return
            page = {"starting_after": answer.data[-1].id}


def _params(**given: Any) -> Any:
    """Return a list's parameters, for pages as long as Stripe has them."""
    return {"limit": _MOST, **given}
