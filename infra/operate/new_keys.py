"""A customer's new API key: made at API Gateway, the customer's in the ledger, then put into a usage plan.

Its name follows from the customer and a label, so that a command that died finds the key that it made. In this order no
call of the key is ever unmapped. Whether it was in its plan once is told by its home, so that one that somebody has
taken out of it since, because it had leaked, is not put back.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from infra.operate.access import Access
from infra.operate.customers import Entry
from infra.operate.deployment import OperatorError
from infra.operate.keys import check_name
from metering.limits.usage_plans import UsagePlan
from metering.model.limits import Level, Reason
from metering.model.subjects import short_id
from metering.stores.holders import BEGINNING, Customer
from metering.stores.limits import Home

LABEL: Final = "key"
"""What a customer's first key is called at API Gateway, unless it is said; to the customer it has no name then."""

_NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class Created:
    """A key of a customer's, in ``plan``, or going there as soon as no reason holds any more."""

    customer: str
    key: str
    name: str
    plan: UsagePlan
    reasons: tuple[Reason, ...]


def create_key(access: Access, customer: Customer, plan: str, label: str, *, now: datetime) -> Created:
    """Give a customer a new key in a usage plan, which is named by its id or its name; or go on with one of this label.

    Raises OperatorError if there is no such plan, or the customer had a key of this label that opens nothing any more.
    """
    check_name(label)
    into = _plan(access.plans.all(fresh=True), plan, access.deployment)
    access.gate.adopt(customer.id)
    name = f"{access.deployment}-{short_id(customer.id)}.{label}"
    key = access.plans.make_key(name, f"{customer.name}: {label}")
    if why := _is_of_the_past(access, customer, key, into):
        raise OperatorError(f"there is a key {name!r} already, {key}, {why}: give the new one another --name")
    access.customers.add(Entry(customer.id, customer.name, "", (key,)), now=now)
    if label != LABEL:
        access.ledger.holders.name_key(customer.id, key, label)
    is_there = access.plans.holds(into.id, key) and _home(access, key).level is Level.OPEN
    if not is_there and not access.bring_new(customer, key, (into.id,)):
        raise OperatorError(
            f"the new key {key} could not be put into the usage plan {into.id}: look at it in API Gateway, then run "
            "this again"
        )
    return Created(customer.id, key, name, into, tuple(access.gate.reasons(customer.id)))


def _is_of_the_past(access: Access, customer: Customer, key: str, into: UsagePlan) -> str:
    """Say why the key of this name is none that a run before was making; empty if it is, or is just made."""
    holders = access.ledger.holders.of_keys([key])[key].holders
    if [(holder.since, holder.customer) for holder in holders] not in ([], [(BEGINNING, customer.id)]):
        return "which has changed hands"
    home = _home(access, key)
    if home.retired:
        return "whose place another key has taken"
    there = access.home_of(key)
    if there and there != (into.id,):
        return f"which is in the usage plan {', '.join(there)}"
    if home.plans and home.level is Level.OPEN and not there:
        return f"which was taken out of the usage plan {', '.join(home.plans)}"
    return ""


def _home(access: Access, key: str) -> Home:
    return access.gate.limits.homes([key]).get(key, Home())


def _plan(plans: Iterable[UsagePlan], given: str, deployment: str) -> UsagePlan:
    """Return the usage plan of this id, or else of this name, in whichever case if only one has it."""
    known = [plan for plan in plans if not plan.is_lane(deployment)]
    found = (
        [plan for plan in known if plan.id == given]
        or [plan for plan in known if plan.name == given]
        or [plan for plan in known if plan.name.casefold() == given.casefold()]
    )
    if len(found) == 1:
        return found[0]
    if found:
        raise OperatorError(f"{len(found)} usage plans are called {given!r}: say which by its id, {_listed(found)}")
    raise OperatorError(
        f"there is no usage plan {given!r} in this account and Region; there "
        + (f"is {_listed(known)}" if known else "is none: make one for your API's stage")
    )


def _listed(plans: list[UsagePlan]) -> str:
    more = f" and {len(plans) - _NAMED} more" if len(plans) > _NAMED else ""
    return ", ".join(f"{plan.id} ({plan.name})" for plan in plans[:_NAMED]) + more
