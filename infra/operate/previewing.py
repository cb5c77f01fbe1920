"""What a customer will pay: Stripe's own preview, and what the ledger holds at the declared prices."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from infra.operate.deployment import OperatorError
from metering.model.periods import Hour
from metering.model.prices import Flat, Package, Plan, explain, terms, title_of, written
from metering.model.subjects import customer as subject_of
from metering.stores.holders import Customer
from metering.stores.ledger import Ledger
from metering.stripe.meters import StripeMeters
from metering.stripe.subscriptions import preview_of, running


def preview(stripe: StripeMeters, customer: Customer) -> dict[str, Any]:
    """Return Stripe's preview of a customer's running invoice, amounts in the currency's smallest unit.

    Raises OperatorError where the customer has no subscription to a plan.
    """
    subscribe = f"subscribe it with 'metering customers subscribe {customer.id} PLAN'"
    if not customer.stripe_customer:
        raise OperatorError(f"{customer.id} has no Stripe customer yet, so that nothing is invoiced: {subscribe}")
    subscription = running(stripe, customer.stripe_customer)
    if subscription is None:
        raise OperatorError(f"{customer.id} has no subscription to a plan, so that nothing is invoiced: {subscribe}")
    return {
        "customer": customer.id,
        "stripe_customer": customer.stripe_customer,
        **preview_of(stripe, subscription),
    }


def as_it_would_be(
    ledger: Ledger, plans: Sequence[Plan], customer: Customer, shown: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a preview with what the ledger holds of its period, at the declared prices, not with what was posted."""
    first, end = (Hour.containing(datetime.fromisoformat(shown["period"][name])) for name in ("from", "to"))
    used: Counter[str] = Counter()
    for row in ledger.rows.of(subject_of(customer.id), first, end):
        used.update({metric: total.quantity for metric, total in row.totals.items()})
    metered = {
        name: price
        for plan in plans
        if plan.name in shown["plans"]
        for name, price in terms(plan).items()
        if not isinstance(price, Flat)
    }
    lines = [line for line in shown["lines"] if line["price"] not in metered]
    for name, price in metered.items():
        lines += [
            {
                "price": name,
                "description": title_of(price),
                "quantity": line.quantity,
                "unit_amount": written(line.unit_amount),
                "package": price.size if isinstance(price, Package) else None,
                "amount": line.amount,
                "period": shown["period"],
            }
            for line in explain(price, used[name])
        ]
    return {**shown, "lines": lines, "total": sum(line["amount"] for line in lines)}
