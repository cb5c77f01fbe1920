"""What Stripe has billed: finalised invoices, and whether a customer is billed at all. Reads only, within a budget.

Which invoices became final, or void, is found by Stripe's list of events, which it keeps for 30 days (Stripe API
reference, "Events"), so that none is missed by a webhook that was lost; older ones by its list of invoices. An event
has its object as the *account's* version of the API spells it, whatever version is asked for ("rendered according to
Stripe API version at its creation time"). So only what every version spells alike is taken from it: the invoice, its
customer, and when; an invoice's lines are always asked for, in the version that this code is for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar

import stripe

from metering.model.identifiers import FIRST_DATED_S, first_dated
from metering.model.periods import Hour
from metering.stripe.answers import UNKNOWN_CUSTOMER
from metering.stripe.client import StripeRejectedError
from metering.stripe.meters import Meter, StripeMeters
from metering.stripe.reading import Reads
from metering.stripe.subscriptions import NEVER_BEGAN, bills_since, is_running, with_all_items

FINALISED: Final = "invoice.finalized"
VOIDED: Final = "invoice.voided"

_PRICE: Final = "data.pricing.price_details.price"
"""What is expanded, so that no price is read for itself (Stripe changelog, 2025-12-15)."""

_MOST: Final = 100
"""Objects in one answer (Stripe API reference, "Pagination")."""

T = TypeVar("T")


class UnreadableInvoiceError(Exception):
    """An invoice has a line that should say its price, and does not."""


@dataclass(frozen=True, slots=True)
class FinalInvoice:
    """An invoice that became final, or ``void``, ``at`` a moment in seconds since 1970."""

    invoice: str
    stripe_customer: str
    at: int
    void: bool = False

    @property
    def is_of_account(self) -> bool:
        """Whether it names an account instead of a customer (Accounts v2)."""
        return self.stripe_customer.startswith("acct_")


@dataclass(frozen=True, slots=True)
class InvoicedMetric:
    """What a finalised invoice bills of a metric by one ``item`` of a subscription, for the hours ``first`` to ``end``.

    The last one is exclusive. An hour is one of a line's if its usage, which is dated in its last ten minutes, is; and
    also if the line ends within it and nothing bills that usage any more. The line's own time is from ``begun`` up to
    ``ended``, in seconds since 1970. ``within`` says that it ends within its last hour; ``packaged``, that the price
    divides the quantity first, and then it could not be confirmed what a line's quantity is.
    """

    metric: str
    item: str
    first: Hour
    end: Hour
    quantity: int
    begun: int
    ended: int
    packaged: bool = False
    within: bool = False


@dataclass(frozen=True, slots=True)
class Subscribed:
    """That a subscription bills a meter from ``start`` up to ``end``, or until further notice (seconds since 1970).

    It was ``made`` at a moment, perhaps after its start; ``running`` says that its usage gets onto an invoice now.
    """

    meter: str
    made: int
    start: int
    end: int | None
    running: bool

    def bills(self, hour: Hour) -> bool:
        """Say whether an hour's usage falls into that time."""
        return self.bills_at(first_dated(hour))

    def bills_at(self, moment: int) -> bool:
        """Say whether usage that is dated at a moment falls into that time."""
        return self.start <= moment and (self.end is None or moment < self.end)


def _first_from(moment: int) -> Hour:
    """Return the first hour whose usage is dated at a moment or later."""
    return Hour(-(-(moment + FIRST_DATED_S) // 3600) - 1)


@dataclass(slots=True)
class StripeReader:
    """What Stripe says, by the ``reads`` of one run; raises OutOfBudgetError instead of one too many."""

    meters: StripeMeters
    reads: Reads
    unknown: set[str] = field(default_factory=set)
    """The Stripe customers that Stripe has said it does not know: ids that are wrong, deleted, or of the other mode."""

    _by_metric: dict[str, Meter] | None = None
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
        found = self._of_known(lambda: self.meters.totals(meter, stripe_customer, first, end, window=window))
        if found is None:
            self.unknown.add(stripe_customer)
        return found or {}

    def total(self, metric: str, stripe_customer: str, first: Hour, end: Hour) -> int:
        """Return what Stripe shows of a customer's metric in some hours: 0 of a customer that it does not know."""
        meter = self.by_metric().get(metric)
        if meter is None:
            return 0
        return self._of_known(lambda: self.meters.total(meter, stripe_customer, first, end)) or 0

    def _of_known(self, read: Callable[[], T]) -> T | None:
        """Make a read about a customer; return None if Stripe does not know such a one."""
        try:
            return self.reads.make(read)
        except StripeRejectedError as error:
            if not error.means(UNKNOWN_CUSTOMER):
                raise
            return None

    def became_final(self, since: int, until: int, after: str = "") -> Iterator[tuple[str, list[FinalInvoice]]]:
        """Yield the invoices that became final or void from ``since`` up to ``until``, exclusive, newest first.

        That is a hundred events at a time, with the last one's id; ``after`` an event the rest. Moments are in seconds
        since 1970, of the last 30 days.
        """
        wanted: Any = {"types": [FINALISED, VOIDED], "created": {"gte": since, "lt": until}}
        for events in self._pages(lambda client, page: client.v1.events.list(_params(**wanted, **page)), after):
            if events:
                yield (
                    events[-1].id,
                    [self._final(event.data.object, event.created, void=event.type == VOIDED) for event in events],
                )

    def were_made(self, since: int, until: int, after: str = "") -> Iterator[tuple[str, list[FinalInvoice]]]:
        """Yield the invoices that are final by now and whose drafts were made in a time, as :meth:`became_final` does.

        That is a hundred invoices at a time, with the last one's id; however long ago it is.
        """
        between = {"gte": since, "lt": until}
        for made in self._pages(lambda client, page: client.v1.invoices.list(_params(created=between, **page)), after):
            if made:
                yield (
                    made[-1].id,
                    [
                        self._final(invoice, invoice.status_transitions.finalized_at, void=invoice.status == "void")
                        for invoice in made
                        if invoice.status_transitions.finalized_at
                    ],
                )

    def _final(self, invoice: Any, at: int, *, void: bool) -> FinalInvoice:
        """Return an invoice, asked for once more where an event does not say whose it is."""
        whose = _customer_of(invoice)
        if not whose:
            whose = _customer_of(self.call(lambda client: client.v1.invoices.retrieve(invoice.id)))
        return FinalInvoice(invoice.id, whose, at, void)

    def lines(self, invoice: str, stripe_customer: str) -> list[InvoicedMetric]:
        """Return what an invoice bills of our metrics; the lines of one item and period, one a tier, are one.

        Raises UnreadableInvoiceError for a line of a subscription that says no price.
        """
        metrics = {meter.id: metric for metric, meter in self.by_metric().items()}
        expand = [_PRICE]
        quantities: dict[tuple[str, str, int, int, bool], Decimal] = {}
        for line in self._all(
            lambda client, page: client.v1.invoices.line_items.list(invoice, _params(expand=expand, **page))
        ):
            price = _price_of(line, invoice)
            meter = price.recurring.meter if price and price.recurring else None
            if meter in metrics:
                name = (meter, _item_of(line), line.period.start, line.period.end, bool(price.transform_quantity))
                quantities[name] = quantities.get(name, Decimal(0)) + _quantity_of(line)
        found = []
        for (meter, item, start, end, packaged), quantity in quantities.items():
            last = self._end_of(stripe_customer, meter, end)
            within = end < int(last.start.timestamp())
            first = _first_from(start)
            found.append(InvoicedMetric(metrics[meter], item, first, last, int(quantity), start, end, packaged, within))
        return [line for line in found if line.first < line.end]

    def _end_of(self, stripe_customer: str, meter: str, moment: int) -> Hour:
        """Return up to which hour a line bills that ends at a moment; see :class:`InvoicedMetric`."""
        end = _first_from(moment)
        if moment <= int(end.start.timestamp()):
            return end
        goes_on = any(one.meter == meter and one.bills(end) for one in self.subscribed(stripe_customer))
        return end if goes_on else end.next()

    def is_billed(self, stripe_customer: str, metric: str) -> bool:
        """Say whether a customer has a subscription that bills this metric now."""
        return any(one.running for one in self._of(stripe_customer, metric))

    def is_billed_anew(self, stripe_customer: str, metric: str, hour: Hour, since: int) -> bool:
        """Say whether a subscription bills an hour's usage that was made at a moment, or later."""
        return any(one.made >= since and one.bills(hour) for one in self._of(stripe_customer, metric))

    def is_billed_at(self, stripe_customer: str, metric: str, moment: int) -> bool:
        """Say whether a subscription bills what is dated at a moment, in seconds since 1970."""
        return any(one.bills_at(moment) for one in self._of(stripe_customer, metric))

    def billed_from(self, stripe_customer: str, metric: str) -> Hour | None:
        """Return the first hour that a subscription of a customer has ever billed a metric of, or None."""
        return min((_first_from(one.start) for one in self._of(stripe_customer, metric)), default=None)

    def _of(self, stripe_customer: str, metric: str) -> list[Subscribed]:
        meter = self.by_metric().get(metric)
        return [one for one in self.subscribed(stripe_customer) if one.meter == meter.id] if meter else []

    def subscribed(self, stripe_customer: str) -> list[Subscribed]:
        """Return what a customer's subscriptions bill, and billed."""
        return [
            Subscribed(
                item.price.recurring.meter,
                one.created,
                bills_since(item, one),
                one.ended_at,
                is_running(one),
            )
            for one in self.subscriptions(stripe_customer)
            if one.status not in NEVER_BEGAN
            for item in one["items"].data
            if item.price.recurring and item.price.recurring.meter
        ]

    def subscriptions(self, stripe_customer: str) -> list[Any]:
        """Return every subscription that a customer has or had, newest first, each with all its items.

        One call for each hundred in a run, and one for the items beyond the ten that a subscription shows. That is none
        for a customer that Stripe does not know.
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
            self._subscriptions[stripe_customer] = [self._in_full(one) for one in found]
        return self._subscriptions[stripe_customer]

    def _in_full(self, subscription: Any) -> Any:
        more: bool = subscription["items"].has_more
        return self.call(lambda _: with_all_items(subscription)) if more else subscription

    @property
    def deployment(self) -> str:
        """The deployment's name."""
        return self.meters.deployment

    def call(self, do: Callable[[stripe.StripeClient], T]) -> T:
        """Make one call, as every read is to be made that needs no meter."""
        return self.reads.make(lambda: self.meters.call(do))

    def _all(self, call: Callable[[stripe.StripeClient, dict[str, str]], Any]) -> list[Any]:
        """Return every object of a list, newest first, with a call for each hundred."""
        return [one for page in self._pages(call) for one in page]

    def _pages(
        self, call: Callable[[stripe.StripeClient, dict[str, str]], Any], after: str = ""
    ) -> Iterator[list[Any]]:
        """Yield a list's objects, newest first, a hundred at a time; ``after`` one of them the rest."""
        page = {"starting_after": after} if after else {}
        while True:
            answer = self._page(call, page)
            yield answer.data
            if not answer.has_more:
                return
            page = {"starting_after": answer.data[-1].id}

    def _page(self, call: Callable[[stripe.StripeClient, dict[str, str]], Any], page: dict[str, str]) -> Any:
        return self.call(lambda client: call(client, page))


def _params(**given: Any) -> Any:
    """Return a list's parameters, for pages as long as Stripe has them."""
    return {"limit": _MOST, **given}


def _customer_of(invoice: Any) -> str:
    """Return whom an invoice is for; Accounts v2 name an account instead of a customer (API reference, "Invoices")."""
    return getattr(invoice, "customer", None) or getattr(invoice, "customer_account", None) or ""


def _price_of(line: Any, invoice: str) -> Any:
    """Return a line's price, in full, or None for a line that has none and is of no subscription."""
    details = line.pricing.price_details if line.pricing else None
    price = details.price if details else None
    if isinstance(price, str) or (price is None and line.parent and line.parent.subscription_item_details):
        raise UnreadableInvoiceError(f"line {line.id} of {invoice} does not show the price that it is billed by")
    return price


def _item_of(line: Any) -> str:
    """Return which item a line is of: one of a subscription, or of its own, as of a metered price that was removed."""
    parent = line.parent
    if parent and parent.subscription_item_details:
        return str(parent.subscription_item_details.subscription_item)
    return str(parent.invoice_item_details.invoice_item) if parent and parent.invoice_item_details else str(line.id)


def _quantity_of(line: Any) -> Decimal:
    """Return a line's quantity; ``quantity`` alone is cut to a whole number, and is to go (API reference)."""
    exact = getattr(line, "quantity_decimal", None)
    return Decimal(line.quantity or 0) if exact is None else exact
