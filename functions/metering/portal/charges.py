"""What a customer's running period costs: so far, as a forecast, and by Stripe's own preview.

The prices are those that the customer's subscription really has at Stripe, where an older one goes on to be paid after
``app.py`` has another; what they make of a quantity is worked out here (:func:`metering.model.prices.explain`), so that
the amount moves with each call and not with Stripe's preview, which is some minutes late.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, assert_never

from metering.model.metrics import Metric, Unique, scales_of
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
from metering.portal.agreements import Agreements
from metering.portal.history import ByHour, History
from metering.stripe.subscriptions import Terms

BASIS: Final = "the usage of the last 24 hours goes on until the period ends, with no more distinct values"
_BASIS: Final = timedelta(hours=24)


@dataclass(slots=True)
class Charges:
    """Works out invoices, by what customers are subscribed to and what they used.

    Raises NotSubscribedError, what Stripe's trouble is, and AddingUpError.
    """

    agreements: Agreements
    history: History
    metrics: Sequence[Metric]
    plans: Sequence[Plan]

    def invoice(self, name: str, *, now: datetime) -> dict[str, Any]:
        """Return what a customer's running period costs; amounts in the currency's smallest unit."""
        agreement = self.agreements.of(name, now)
        terms, preview = agreement.terms, agreement.preview
        by_hour = self.history.of(name, terms.first, terms.end, now)
        used: Counter[str] = Counter()
        for of_hour in by_hour.values():
            used.update(of_hour)
        distinct = {metric.name for metric in self.metrics if isinstance(metric, Unique)}
        forecast = self._lines(terms, goes_on(by_hour, terms, now, distinct=distinct))
        so_far = self._lines(terms, used)
        return {
            "customer": name,
            "name": agreement.customer.name,
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
                "total": preview["total"],
                "as_of": agreement.as_of.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "lines": [
                    {field: line[field] for field in ("description", "price", "quantity", "amount")}
                    for line in preview["lines"]
                ],
            },
        }

    def _title(self, plan_name: str, price: Price) -> str:
        """Return what invoices call a price, as it is declared now."""
        plan = next((plan for plan in self.plans if plan.name == plan_name), None)
        declared = [declared for declared in plan.prices if name_of(declared) == name_of(price)] if plan else []
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
                    "title": self._title(item.plan, item.price),
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


def goes_on(by_hour: ByHour, terms: Terms, now: datetime, *, distinct: Collection[str]) -> dict[str, int]:
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
