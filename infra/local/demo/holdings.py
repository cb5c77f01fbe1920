"""What each step of the way holds: the counters, the ledger and Stripe, by customer and metric."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from infra.operate.deployment import Deployment
from metering.model.periods import Hour, hours
from metering.model.subjects import customer
from metering.stores.aws import side_by_side

Usage = Mapping[tuple[str, str], int]
"""Quantities by customer and metric."""

Split = Mapping[tuple[str, str, str], int]
"""Quantities by customer, metric and value of the metric's dimension."""

Part = tuple[str, Mapping[str, int], Mapping[str, Mapping[str, int]]]
"""A customer, its quantities by metric, and by metric and value."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of the way holds."""

    usage: Usage
    split: Split

    @classmethod
    def of(cls, parts: Iterable[Part]) -> "Step":
        """Add up parts."""
        usage: Counter[tuple[str, str]] = Counter()
        split: Counter[tuple[str, str, str]] = Counter()
        for name, quantities, splits in parts:
            usage.update({(name, metric): amount for metric, amount in quantities.items()})
            for metric, values in splits.items():
                split.update({(name, metric, value): amount for value, amount in values.items()})
        return cls(dict(usage), dict(split))


def counted_usage(deployment: Deployment, names: Iterable[str], span: tuple[Hour, Hour]) -> Step:
    """Return what the counters hold, by customer."""
    subjects = {customer(name) for name in names}
    return Step.of(
        (owner.id, share.together.quantities(), share.together.splits)
        for hour in hours(*span)
        for owner, share in deployment.attribution.of_hour(hour).items()
        if owner in subjects
    )


def ledger_usage(deployment: Deployment, names: Iterable[str], span: tuple[Hour, Hour]) -> Step:
    """Return what the ledger bills, by customer."""
    return Step.of(
        (
            name,
            {metric: total.quantity for metric, total in row.totals.items()},
            {metric: total.split for metric, total in row.totals.items()},
        )
        for name in names
        for row in deployment.ledger.rows.of(customer(name), *span)
    )


def stripe_usage(deployment: Deployment, names: Sequence[str], span: tuple[Hour, Hour]) -> Usage:
    """Return what Stripe holds, by customer, from its own event summaries."""
    stripe = deployment.stripe()
    meters = stripe.meters()
    customers = deployment.ledger.holders.customers(names)
    asked = [(name, metric) for name in names for metric in deployment.metrics]

    def held(row: tuple[str, str]) -> int:
        name, metric = row
        meter = meters[stripe.event_name(metric)]
        return sum(stripe.totals(meter, customers[name].stripe_customer, *span).values())

    return {row: amount for row, amount in zip(asked, side_by_side(held, asked), strict=True) if amount}
