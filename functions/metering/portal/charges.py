"""What a customer's running period costs: so far, as a forecast, and by Stripe's own preview.

The prices are those that the customer's subscription really has at Stripe, where an older one goes on to be paid after
``app.py`` has another; what they make of a quantity is worked out here (:func:`metering.model.prices.explain`), so that
the amount moves with each call and not with Stripe's preview, which is some minutes late.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, assert_never

from metering.model.metrics import Metric, Unique, scales_of
from metering.model.periods import Hour
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
from metering.portal.forecast import BASIS, as_counted, bounds, goes_on, is_early
from metering.portal.history import Correction, History
from metering.stripe.subscriptions import Terms

MOST_CORRECTIONS: Final = 100


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
        corrections = self.history.corrections(name, terms.first, terms.end)
        counted = as_counted(by_hour, corrections)
        forecast = self._lines(terms, goes_on(by_hour, terms, now, distinct=distinct, counted=counted))
        so_far = self._lines(terms, used)
        low, high = None, None
        if is_early(terms, now):
            uses = bounds(by_hour, terms, now, distinct=distinct, counted=counted)
            ends = [_total(forecast), *(_total(self._lines(terms, one)) for one in uses)]
            low, high = min(ends), max(ends)  # with a volume price, more may cost less
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
                "low": low,
                "high": high,
                "lines": [{field: line[field] for field in ("price", "quantity", "amount")} for line in forecast],
                "basis": BASIS,
            },
            "corrections": self._corrections(corrections),
            "preview": {
                "total": preview["total"],
                "as_of": agreement.as_of.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "lines": [
                    {field: line[field] for field in ("description", "price", "quantity", "amount")}
                    for line in preview["lines"]
                ],
            },
        }

    def _corrections(self, by_hour: Mapping[Hour, Mapping[str, Correction]]) -> list[dict[str, Any]]:
        """Return what is billed beside what was counted, latest hour first: that it was so, and how much.

        Not the reason, which an operator has written for operators.
        """
        scales = scales_of(self.metrics)
        found = [
            {"metric": metric, "hour": str(hour), "kind": kind, "quantity": quantity, "scale": scales.get(metric, 0)}
            for hour, of_hour in sorted(by_hour.items(), reverse=True)
            for metric, one in sorted(of_hour.items())
            for kind, quantity in (("adjustment", one.adjusted), ("carried", one.carried))
            if quantity
        ]
        return found[:MOST_CORRECTIONS]

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
                    "in_advance": isinstance(item.price, Flat),
                    "in_words": in_words(item.price),
                    "terms": terms_of(item.price, item.interval),
                    "steps": [_step(step) for step in steps],
                }
            )
        return lines


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
