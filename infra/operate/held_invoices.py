"""What invoices bill and a person has to look at: differences that no late record explains, and what cannot be read."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import msgspec

from infra.operate.deployment import Deployment, OperatorError, check_reason
from metering.billing.accounts import FOR_A_PERSON
from metering.model.periods import Hour
from metering.model.subjects import Kind
from metering.model.usage_row import Change
from metering.stores.aws import in_pieces, side_by_side
from metering.stores.changes import Billed
from metering.stores.marks import Mark
from metering.stores.table import RowChangedError

AT_ONCE: Final = 100
"""Customers that are looked at before the next ones are, two queries each."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person has decided about something that is held, for a reason, at a moment."""

    what: Literal["carry", "leave"]
    reason: str
    now: datetime


@dataclass(frozen=True, slots=True, order=True)
class Held:
    """A difference that is held; of an invoice that cannot be read, without a metric."""

    customer: str
    invoice: str
    metric: str
    first: str
    end: str
    invoiced: int
    difference: int
    reason: str


def held_invoices(deployment: Deployment, only: str = "") -> Iterator[Held]:
    """Yield all that is held for a person: the hourly run asks for each to be seen, and for many others besides."""
    marks = deployment.counters.marks.of_kind(Mark.CHECK)
    subjects = (mark.subject for mark in marks if mark.subject.kind is Kind.CUSTOMER)
    names = dict.fromkeys(subject.id for subject in subjects if only in ("", subject.id))
    for some in in_pieces([*names], AT_ONCE):
        for found in side_by_side(lambda name: [*_held_of(deployment, name)], some):
            yield from found


def _held_of(deployment: Deployment, name: str) -> Iterator[Held]:
    for noted in deployment.changes.noted(name):
        if noted.held:
            yield Held(name, noted.invoice, "", str(noted.hour), str(noted.hour), 0, 0, noted.held)
    for line in deployment.changes.billed(name):
        if line.held in FOR_A_PERSON:
            yield Held(name, line.invoice, line.metric, line.first, line.end, line.quantity, line.difference, line.held)


def decide(deployment: Deployment, name: str, invoice: str, metric: str, decision: Decision) -> int:
    """Bill a difference that is held in the current hour, or nobody, for good; return how much it is.

    Either way it stands in the ledger with the reason and who decided. Deciding twice is refused: there is nothing left
    to decide. What comes late to the invoice's hours from now on is carried by itself.
    """
    check_reason(decision.reason)
    lines = [
        line
        for line in deployment.changes.billed(name)
        if (line.invoice, line.metric) == (invoice, metric) and line.held in FOR_A_PERSON
    ]
    if not lines:
        raise OperatorError(f"nothing of {metric} on {invoice} is held for {name}: see 'metering held list'")
    for line in lines:
        _settle(deployment, name, line, decision)
    return sum(line.difference for line in lines)


def leave_unread(deployment: Deployment, name: str, invoice: str, *, reason: str, now: datetime) -> None:
    """Compare nothing of an invoice that cannot be read, for good: what comes late to its hours is not carried either.

    The reason, and who decided, stands beside the invoice. If it has been read meanwhile, nothing is left.
    """
    check_reason(reason)
    noted = deployment.changes.noted_one(name, invoice)
    if noted is None or not noted.held:
        raise OperatorError(
            f"{invoice} of {name} is not held as one that cannot be read: see 'metering held list', and name the metric"
        )
    who, at = deployment.who(), int(now.timestamp())
    after = msgspec.structs.replace(noted, read=True, held="", left=reason, left_by=who, left_at=at)
    try:
        deployment.changes.save_noted(name, after)
    except RowChangedError as error:
        raise _just_looked_at() from error


def _settle(deployment: Deployment, name: str, line: Billed, decision: Decision) -> None:
    amount, carries = line.difference, decision.what == "carry"
    settled = {"carried": line.carried + amount} if carries else {"left": line.left + amount}
    after = msgspec.structs.replace(line, **settled, difference=0, held="", counted=True)
    change = Change(
        f"{line.known_as.replace('#', '.')}.v{line.version}",
        line.metric,
        amount if carries else 0,
        f"{line.invoice}: {amount:+,} of {line.first} to {line.end} "
        f"{'are billed here' if carries else 'are billed to nobody'}: {decision.reason}",
        deployment.who(),
        int(decision.now.timestamp()),
        carry=True,
    )
    try:
        deployment.changes.carry(name, [after], Hour.containing(decision.now), change)
    except RowChangedError as error:
        raise _just_looked_at() from error


def _just_looked_at() -> OperatorError:
    return OperatorError("the invoice was just looked at: see 'metering held list', and decide again")
