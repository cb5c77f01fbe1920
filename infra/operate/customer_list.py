"""Which customers are listed: all, or those that are suspended, on a plan, or on none."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final

from stripe import StripeClient, Subscription

from infra.operate.deployment import Deployment, OperatorError
from metering.limits.gate import reasons_of_one
from metering.model.limits import OPERATOR, Level
from metering.stores.aws import in_pieces, side_by_side
from metering.stores.holders import Customer
from metering.stores.limits import Gate, LimitItems
from metering.stripe.subscriptions import is_running, plans_of, with_all_items

_MOST: Final = 20_000
"""Subscriptions that are read at most, 100 by a call."""

_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which customers: ``after`` one by id; on a ``plan``, or without any ``no_subscription``; ``suspended`` ones."""

    after: str = ""
    plan: str = ""
    no_subscription: bool = False
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class ListedCustomer:
    """A customer, and how far its keys were closed at the gateway, by the names of the reasons."""

    customer: Customer
    access: Level
    reasons: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {**asdict(self.customer), "access": self.access.name.lower(), "reasons": list(self.reasons)}

    def state(self) -> str:
        """Say it in some words."""
        return self.access.name.lower() + f" because of {', '.join(self.reasons)}" * bool(self.reasons)


def listed(deployment: Deployment, wanted: Wanted, *, now: datetime) -> Iterator[ListedCustomer]:
    """Yield customers in the order of their ids; Stripe is asked only for who is subscribed to what.

    Raises OperatorError for a plan that there is not.
    """
    conditions: list[Callable[[Customer], bool]] = []
    if wanted.plan or wanted.no_subscription:
        plans = _plans(deployment)
        if wanted.plan:
            _check_plan(deployment, wanted.plan, plans)
            conditions.append(lambda one: wanted.plan in plans.get(one.stripe_customer, ()))
        else:
            conditions.append(lambda one: not plans.get(one.stripe_customer))
    limits = LimitItems(deployment.client("dynamodb"), deployment.outputs.ledger_table)
    if wanted.suspended:
        conditions.append(lambda one: OPERATOR in {reason.name for reason in reasons_of_one(limits, one.id, now)})
    holders = deployment.ledger.holders
    for names in in_pieces([*holders.customer_ids(wanted.after)], _AT_ONCE):
        known = sorted(holders.customers(names).values(), key=lambda customer: customer.id)
        fits = side_by_side(lambda one: all(fit(one) for fit in conditions), known)
        shown = [customer for customer, is_wanted in zip(known, fits, strict=True) if is_wanted]
        gates = limits.gates(customer.id for customer in shown)
        yield from (_with_access(customer, gates.get(customer.id, Gate())) for customer in shown)


def _with_access(customer: Customer, gate: Gate) -> ListedCustomer:
    is_closed = gate.felt is not Level.OPEN
    return ListedCustomer(customer, gate.felt, gate.reasons if is_closed else ())


def _plans(deployment: Deployment) -> Mapping[str, set[str]]:
    """Return the plans of ours that Stripe customers are on by a subscription that runs."""
    stripe = deployment.operators_stripe()

    def fetch(client: StripeClient) -> list[Subscription]:
        every = client.v1.subscriptions.list({"limit": 100}).auto_paging_iter()
        return [with_all_items(one) for one in islice(every, _MOST + 1)]

    found = stripe.call(fetch)
    if len(found) > _MOST:
        raise OperatorError(f"Stripe has more than {_MOST:,} subscriptions: it lists them by plan itself")
    plans: dict[str, set[str]] = {}
    for subscription in filter(is_running, found):
        plans.setdefault(str(subscription.customer), set()).update(plans_of(subscription, stripe.deployment))
    return plans


def _check_plan(deployment: Deployment, plan: str, plans: Mapping[str, set[str]]) -> None:
    there = {declared.name for declared in deployment.declared_plans}.union(*plans.values())
    if plan not in there:
        raise OperatorError(f"there is no plan {plan!r}: app.py declares {', '.join(sorted(there)) or 'none'}")
