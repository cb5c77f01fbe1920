"""What a customer's running period costs: so far, as a forecast, and by Stripe's own preview.

The prices are those that the customer's subscription really has at Stripe, where an older one goes on to be paid after
``app.py`` has another; what they make of a quantity is worked out here (:func:`metering.model.prices.explain`), so that
the amount moves with each call and not with Stripe's preview, which is some minutes late.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, assert_never

from stripe import StripeClient, Subscription

from metering.model.metrics import Max, Metric, Sum, Unique, meters_of
from metering.model.periods import HOUR, Hour
from metering.model.prices import (
    Amount,
    Flat,
    Graduated,
    Line,
    Package,
    PerUnit,
    Plan,
    Price,
    Volume,
    decimal,
    decimals_of,
    explain,
    in_words,
    name_of,
    title_of,
    written,
)
from metering.portal.reading import UsageReader
from metering.stores.holders import Customer
from metering.stripe.meters import StripeMeters, StripeUnavailableError
from metering.stripe.prices import DEPLOYMENT, PLAN, PRICE, Offer, metadata_of, offer_of

KEPT_S: Final = 60
"""Seconds for which Stripe's answers about a customer, and its closed hours, are kept."""

MOST_KEPT: Final = 50
"""Customers whose month is kept at once: each takes up to a megabyte."""

BASIS: Final = "the usage of the last 24 hours goes on until the period ends, with no more distinct values"
_BASIS: Final = timedelta(hours=24)


class NotSubscribedError(Exception):
    """The customer has no subscription to a plan, so that nothing is invoiced."""


@dataclass(frozen=True, slots=True)
class Item:
    """One price of a subscription, asked for each ``interval``; ``title`` is what invoices call it."""

    price: Price
    title: str
    interval: str

    @property
    def metric(self) -> str | None:
        """The metric whose usage is paid for; None for a fee."""
        return None if isinstance(self.price, Flat) else self.price.metric


@dataclass(frozen=True, slots=True)
class Terms:
    """What a customer is subscribed to, and the period that runs, whole hours from ``first`` up to ``end``."""

    plans: tuple[str, ...]
    currency: str
    first: Hour
    end: Hour
    items: tuple[Item, ...]


@dataclass(slots=True)
class _Kept:
    customer: Customer
    terms: Terms
    preview: Mapping[str, Any]
    as_of: datetime
    until: float
    used: dict[Hour, dict[str, int]] = field(default_factory=dict)
    """What was used, by hour and metric."""

    since: Hour | None = None
    """From which hour on ``used`` may have changed without a late mark."""


@dataclass(slots=True)
class Charges:
    """Works out invoices. ``clock`` counts seconds.

    Raises NotSubscribedError, and what :class:`StripeMeters` raises.
    """

    reader: UsageReader
    stripe: StripeMeters
    metrics: Sequence[Metric]
    plans: Sequence[Plan]
    clock: Callable[[], float]
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _offers: dict[str, Offer] = field(default_factory=dict)
    """By price id, for ever: what a price says never changes (Stripe's documentation, "Manage products and prices")."""

    def invoice(self, name: str, *, now: datetime) -> dict[str, Any]:
        """Return what a customer's running period costs; amounts in the currency's smallest unit."""
        kept = self._of(name, now)
        self._bring_up_to_date(kept, now)
        terms = kept.terms
        used: Counter[str] = Counter()
        for of_hour in kept.used.values():
            used.update(of_hour)
        distinct = {metric.name for metric in self.metrics if isinstance(metric, Unique)}
        forecast = self._lines(terms, goes_on(kept.used, terms, now, distinct=distinct))
        so_far = self._lines(terms, used)
        return {
            "customer": name,
            "name": kept.customer.name,
            "currency": terms.currency,
            "decimals": decimals_of(terms.currency),
            "period": {"from": str(terms.first), "to": str(terms.end)},
            "plans": list(terms.plans),
            "so_far": {"total": _total(so_far), "lines": so_far},
            "forecast": {
                "total": _total(forecast),
                "lines": [{field: line[field] for field in ("price", "quantity", "amount")} for line in forecast],
                "basis": BASIS,
            },
            "preview": {
                "total": kept.preview["total"],
                "as_of": kept.as_of.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "lines": [
                    {field: line[field] for field in ("description", "price", "quantity", "amount")}
                    for line in kept.preview["lines"]
                ],
            },
        }

    def _of(self, name: str, now: datetime) -> _Kept:
        kept, at = self._kept.get(name), self.clock()
        if kept is not None and at < kept.until:
            return kept
        customer = self.reader.ledger.holders.customers([name]).get(name)
        subscription = running(self.stripe, customer.stripe_customer) if customer and customer.stripe_customer else None
        if customer is None or subscription is None:
            raise NotSubscribedError(name)
        terms = self._terms(subscription)
        made = _Kept(customer, terms, preview_of(self.stripe, subscription), now, at + KEPT_S)
        self._kept.pop(name, None)
        while len(self._kept) >= MOST_KEPT:
            del self._kept[next(iter(self._kept))]  # the oldest
        self._kept[name] = made
        return made

    def _bring_up_to_date(self, kept: _Kept, now: datetime) -> None:
        """Read what may have changed: all at first, then the open hours and those with a late mark."""
        terms = kept.terms
        usage = self.reader.read(kept.customer.id, terms.first, terms.end, now=now, since=kept.since)
        for hour, cells in usage.cells.items():
            kept.used[hour] = {metric: cell.quantity for metric, cell in cells.items()}
        kept.since = usage.open_from

    def _terms(self, subscription: Subscription) -> Terms:
        ours = [
            (item, metadata)
            for item in subscription["items"].data
            if (metadata := metadata_of(item.price)).get(DEPLOYMENT) == self.stripe.deployment
        ]
        first, _ = ours[0]
        return Terms(
            plans=tuple(sorted({metadata[PLAN] for _, metadata in ours})),
            currency=subscription.currency,
            first=Hour.of_epoch_ms(first.current_period_start * 1000),
            end=Hour.of_epoch_ms(first.current_period_end * 1000),
            items=tuple(
                Item(offer.price, self._title(metadata[PLAN], offer.price), offer.interval)
                for item, metadata in ours
                for offer in (self._offer(item.price.id, metadata[PRICE]),)
            ),
        )

    def _offer(self, price_id: str, name: str) -> Offer:
        if price_id not in self._offers:
            shown = self.stripe.call(
                lambda client: client.v1.prices.retrieve(price_id, {"expand": ["tiers"]}),
            )
            offer = offer_of(shown, name)
            if offer is None:
                raise StripeUnavailableError(f"the price {price_id} is like none that can be declared")
            self._offers[price_id] = offer
        return self._offers[price_id]

    def _title(self, plan_name: str, price: Price) -> str:
        """Return what invoices call a price, as it is declared now."""
        plan = next((plan for plan in self.plans if plan.name == plan_name), None)
        declared = [one for one in plan.prices if name_of(one) == name_of(price)] if plan else []
        title = title_of(declared[0]) if declared else name_of(price).replace("_", " ").capitalize()
        return f"{plan.title}: {title}" if plan else title

    def _lines(self, terms: Terms, used: Mapping[str, int]) -> list[dict[str, Any]]:
        scales = scales_of(self.metrics)
        lines = []
        for item in terms.items:
            quantity = 1 if item.metric is None else used.get(item.metric, 0)
            steps = explain(item.price, quantity)
            lines.append(
                {
                    "price": name_of(item.price),
                    "title": item.title,
                    "metric": item.metric,
                    "kind": _kind(item.price),
                    "quantity": quantity,
                    "scale": scales.get(item.metric or "", 0),
                    "amount": sum(step.amount for step in steps),
                    "in_words": in_words(item.price),
                    "terms": terms_of(item.price, item.interval),
                    "steps": [_step(step) for step in steps],
                }
            )
        return lines


def goes_on(
    by_hour: Mapping[Hour, Mapping[str, int]], terms: Terms, now: datetime, *, distinct: Collection[str]
) -> dict[str, int]:
    """Return what will have been used when the period ends, if the last 24 hours' usage goes on.

    ``distinct`` values stay as many as they are: most of tomorrow's users have been seen today.
    Of a period that has just begun there is less than that to go by, but never less than an hour.
    """
    begin = max(terms.first, Hour.containing(now - _BASIS).next())
    used: Counter[str] = Counter()
    lately: Counter[str] = Counter()
    for hour, of_hour in by_hour.items():
        used.update(of_hour)
        if hour >= begin:
            lately.update({metric: number for metric, number in of_hour.items() if metric not in distinct})
    second = timedelta(seconds=1)  # whole ones: an int times a timedelta overflows at a thousand million days
    passed = max(now - begin.start, HOUR) // second
    left = max(terms.end.start - now, timedelta(0)) // second
    return {metric: quantity + lately[metric] * left // passed for metric, quantity in used.items()}


def _total(lines: Iterable[Mapping[str, Any]]) -> int:
    return sum(line["amount"] for line in lines)


def _step(line: Line) -> dict[str, Any]:
    return {
        "first": line.first,
        "last": line.last,
        "quantity": line.quantity,
        "unit_amount": written(line.unit_amount),
        "exact": written(line.exact),
        "amount": line.amount,
    }


def _kind(price: Price) -> str:
    """Return the kind of a price as its declaration spells it."""
    match price:
        case PerUnit() | Package() | Graduated() | Volume() | Flat():
            return str(price.__struct_config__.tag)
        case _:
            assert_never(price)


def terms_of(price: Price, interval: str) -> dict[str, Any]:
    """Return what a price asks for each interval, in fields to compute with; every amount is a decimal string.

    ``included`` is what a fee's declaration says. A price at Stripe knows nothing of it: there it is the first tier of
    the metric's own price.
    """
    asked: dict[str, Any] = {"kind": _kind(price), "interval": interval}
    match price:
        case PerUnit():
            return asked | {"amount": _spelled(price.amount)}
        case Package():
            return asked | {"amount": _spelled(price.amount), "size": price.size}
        case Graduated() | Volume():
            tiers = [
                {"up_to": tier.up_to, "amount": _spelled(tier.amount), "flat": _spelled(tier.flat)}
                for tier in price.tiers
            ]
            return asked | {"tiers": tiers}
        case Flat():
            return asked | {"amount": _spelled(price.amount), "included": dict(price.included)}
        case _:
            assert_never(price)


def _spelled(amount: Amount) -> str:
    return written(decimal(amount))


def scales_of(metrics: Iterable[Metric]) -> dict[str, int]:
    """Return how many decimals a quantity of each metric has, by the name that it is billed under."""
    return {
        name: metric.scale if isinstance(metric, Sum | Max) else 0
        for metric in metrics
        for name in meters_of(metric).values()
    }


def plans_of(subscription: Subscription, deployment: str) -> set[str]:
    """Return the plans of a deployment that a subscription has prices of."""
    found = [metadata_of(item.price) for item in subscription["items"].data]
    return {metadata[PLAN] for metadata in found if metadata.get(DEPLOYMENT) == deployment}


def running(stripe: StripeMeters, stripe_customer: str) -> Subscription | None:
    """Return a customer's running subscription to plans of ours."""

    def fetch(client: StripeClient) -> list[Subscription]:
        listed = client.v1.subscriptions.list({"customer": stripe_customer, "limit": 100})
        return list(listed.auto_paging_iter())

    return next((one for one in stripe.call(fetch) if plans_of(one, stripe.deployment)), None)


def preview_of(stripe: StripeMeters, subscription: Subscription) -> dict[str, Any]:
    """Return Stripe's preview of a subscription's running invoice, amounts in the currency's smallest unit."""
    names = {item.price.id: metadata_of(item.price).get(PRICE, "") for item in subscription["items"].data}

    def look(client: StripeClient) -> tuple[Any, list[Any]]:
        invoice = client.v1.invoices.create_preview({"subscription": subscription.id})
        return invoice, list(invoice.lines.auto_paging_iter())

    invoice, lines = stripe.call(look)
    return {
        "subscription": subscription.id,
        "plans": sorted(plans_of(subscription, stripe.deployment)),
        "currency": invoice.currency,
        "period": _period(invoice.period_start, invoice.period_end),
        "lines": [_line(line, names) for line in lines],
        "total": invoice.total,
    }


def _line(line: Any, names: Mapping[str, str]) -> dict[str, Any]:
    details = line.pricing.price_details if line.pricing else None
    unit = line.pricing.unit_amount_decimal if line.pricing else None
    return {
        "price": names.get(str(details.price), "") if details else "",
        "description": line.description or "",
        "quantity": line.quantity,
        "unit_amount": None if unit is None else f"{unit:f}",
        "amount": line.amount,
        "period": _period(line.period.start, line.period.end),
    }


def _period(start: int, end: int) -> dict[str, str]:
    return {
        name: datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%MZ") for name, at in (("from", start), ("to", end))
    }
