"""Adjustments by an operator: what is billed beside what was counted, each with who made it and why."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from infra.operate.deployment import Deployment, OperatorError, check_reason
from metering.billing.unbilled import Invoices
from metering.model.periods import LAST_CHANGE, Hour
from metering.model.subjects import customer
from metering.model.unbilled import WhyUnbilled, why_unbilled
from metering.model.usage_row import Change
from metering.stores.table import RowChangedError
from metering.stripe.invoices import StripeReader
from metering.stripe.reading import Reads

LARGEST: Final = 10**12
"""As for a record's amount."""

_MOST_READS: Final = 100
"""At Stripe, for one customer's subscriptions."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What was less than nothing in an hour, or more than Stripe takes of one, and was carried from it to ``hour``."""

    hour: str
    amount: int


@dataclass(frozen=True, slots=True)
class Adjusted:
    """What an adjustment does: ``before`` and ``after`` are what is billed for the hour, ``amount`` what it adds.

    ``made`` is false for one that changes nothing, was made before, or was only tried. ``elsewhere`` counts in other
    hours, whatever becomes of this one.
    """

    customer: str
    metric: str
    hour: str
    before: int
    after: int
    amount: int
    reason: str
    who: str
    made: bool = False
    elsewhere: tuple[Moved, ...] = ()


def refuse_never_billed(deployment: Deployment, name: str, metric: str, hour: Hour, now: datetime) -> None:
    """Raise OperatorError for an hour of which nothing is ever billed, so that an adjustment would wait for ever.

    That is one before posting began, and one before all that the customer was ever subscribed to, on no invoice: Stripe
    is asked for that where it looked so at the last look, and nothing is known of who was never looked at. What is too
    old for Stripe is carried, and is not refused.
    """
    switch = deployment.switch.read()
    if switch.since and hour < Hour.parse(switch.since):
        raise OperatorError(
            f"{hour} is before posting began with {switch.since}, so that nothing of it is ever billed: adjust an hour "
            f"from then on, or bill from {hour} on by 'metering posting on --since {hour}'"
        )
    shown = deployment.ledger.agreements.of([name]).get(name)
    (row,) = deployment.ledger.rows.at(hour, [customer(name)]).values()
    total = row.totals.get(metric)
    dated = total.dated if total else 0
    whom = total.posted_to if total else ""
    whom = whom or deployment.ledger.holders.customers([name])[name].stripe_customer
    if shown is None or not whom:
        return
    looks_so = why_unbilled(metric, hour, shown.agreed.get(whom, ()), now, dated=dated) is WhyUnbilled.BEFORE
    invoices = Invoices(deployment.changes, name).billed() if looks_so else []
    if not looks_so or any(one.is_of(whom, metric) and one.covers(hour, dated) for one in invoices):
        return
    reads = Reads(_MOST_READS)
    since = StripeReader(deployment.stripe(), reads).billed_from(whom, metric)
    deployment.read_budget.note(reads.made, now)
    if since is not None and hour < since:
        raise OperatorError(
            f"{hour} is before {name}'s first subscription, which bills {metric} from {since} on: nobody ever pays for "
            "it, so adjust an hour from then on"
        )


def adjust(  # noqa: PLR0913 - what an adjustment says, each by name
    deployment: Deployment,
    name: str,
    metric: str,
    hour: Hour,
    *,
    reason: str,
    who: str,
    now: datetime,
    by: int | None = None,
    to: int | None = None,
    if_counted: int | None = None,
    below_zero: bool = False,
    dry_run: bool = False,
) -> Adjusted:
    """Add ``by`` to what is billed of a metric in an hour, or as much as makes it ``to``.

    A late record changes what is counted and leaves the adjustment, unless the adjustment is bound to what was
    counted, ``if_counted``: then it is void while something else is. The same adjustment, for the same reason, is made
    once; of two that say ``to`` what at the same moment, one is made. What would lower an hour ``below_zero`` has to be
    asked for: the rest is taken from later hours. Raises OperatorError for what cannot be.
    """
    if (by is None) == (to is None):
        raise OperatorError("an adjustment says either by how much or to what")
    check_reason(reason)
    if not (hour.end <= now):
        raise OperatorError(f"{hour} is not over yet: adjust it when it is")
    count = counted(deployment, name, metric, hour, now)
    changes = [one for one in deployment.changes.of(name, hour) if one.metric == metric]
    before = billed_of(count, changes)
    amount = by if by is not None else (to or 0) - before
    if (to is not None and not 0 <= to <= LARGEST) or abs(by or 0) > LARGEST:
        raise OperatorError(f"an adjustment is by or to at most 10^12, got {to if by is None else by}")
    known_as = id_of(name, metric, hour, by, to, if_counted, reason) if by is not None else next_id(changes)
    change = Change(
        id=known_as,
        metric=metric,
        amount=amount,
        reason=reason,
        who=who,
        at=int(now.timestamp()),
        if_counted=if_counted,
    )
    elsewhere = carried_from(hour, changes)
    done = Adjusted(name, metric, str(hour), before, before + amount, amount, reason, who, elsewhere=elsewhere)
    is_known = any(one.id == change.id for one in changes)
    if not (below_zero or is_known):
        refuse_below_zero(done)
    if not amount or dry_run:
        return done
    if not is_added(deployment, name, hour, change):
        is_now = billed(deployment, name, metric, hour, now) if by is None else None
        raise OperatorError(_was_made(done, is_now))
    return replace(done, made=True)


def refuse_below_zero(done: Adjusted) -> None:
    """Raise OperatorError for what lowers an hour to less than nothing, which nobody asked for."""
    if done.after < min(0, done.before):
        raise OperatorError(
            f"{done.customer}'s {done.metric} of {done.hour} would be {done.after:,} after {done.before:,}, and what "
            "is below zero would be taken from later hours: say --below-zero if you mean it, or adjust it --to 0"
        )


def is_added(deployment: Deployment, name: str, hour: Hour, change: Change) -> bool:
    """Write a change, which is made once; return whether it was not there already."""
    try:
        deployment.changes.add(name, hour, change)
    except RowChangedError as error:
        if all(one.id != change.id for one in deployment.changes.of(name, hour) if one.metric == change.metric):
            raise OperatorError("something else was written for this hour at the same moment: try again") from error
        return False
    return True


def carried_from(hour: Hour, changes: Iterable[Change]) -> tuple[Moved, ...]:
    """Return what was moved out of an hour into others, by its changes of one metric: such a carry has the hour's name.

    It entered the hour in which it was made (:mod:`metering.billing.carrying`).
    """
    moved: Counter[Hour] = Counter()
    for one in changes:
        if one.carry and one.id.startswith(f"{hour}."):
            moved[Hour(one.at // 3600)] -= one.amount
    return tuple(Moved(str(to), amount) for to, amount in sorted(moved.items()) if amount)


def _was_made(wanted: Adjusted, is_now: int | None) -> str:
    """Say that an adjustment was made already; or where it says ``to`` what, somebody else's."""
    what = f"{wanted.customer}'s {wanted.metric} of {wanted.hour}"
    if is_now is None:
        return (
            f"{what} was adjusted in this way and for this reason already: if it is meant a second time, say so in its "
            "reason"
        )
    return (
        f"somebody else adjusted {what} meanwhile: it was {wanted.before}, and is now {is_now}. Nothing was changed: "
        "say it again, if you mean it"
    )


def billed(deployment: Deployment, name: str, metric: str, hour: Hour, now: datetime) -> int:
    """Return what is billed of a metric in an hour once all that is known is closed; it may be less than nothing.

    That is the counters, or the row where they have expired, and all changes that are not void.
    """
    count = counted(deployment, name, metric, hour, now)
    return billed_of(count, [one for one in deployment.changes.of(name, hour) if one.metric == metric])


def billed_of(count: int, changes: Iterable[Change]) -> int:
    """Return what is billed of a count with its changes."""
    return count + sum(one.amount for one in changes if not one.is_void(count))


def counted(deployment: Deployment, name: str, metric: str, hour: Hour, now: datetime) -> int:
    """Return what the counters hold of a customer's metric in an hour; the row's count where they have expired."""
    if hour.end + LAST_CHANGE <= now:
        (row,) = deployment.ledger.rows.at(hour, [customer(name)]).values()
        return row.totals[metric].counted if metric in row.totals else 0
    return deployment.attribution.of_customer(name, hour).quantities().get(metric, 0)


def next_id(changes: Iterable[Change]) -> str:
    """Return the id of the change that comes after these of a metric's hour: whoever read the same makes the same.

    So of two that are made against one state, the second is refused.
    """
    return id_of("after", *sorted(one.id for one in changes))


def id_of(*parts: object) -> str:
    """Return the id of a change that is known by these."""
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:16]
