"""Adjustments by an operator: what is billed beside what was counted, each with who made it and why."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from infra.operate.deployment import Deployment, OperatorError, check_reason
from metering.model.periods import LAST_CHANGE, Hour
from metering.model.subjects import customer
from metering.model.usage_row import Change
from metering.stores.table import RowChangedError

LARGEST: Final = 10**12
"""As for a record's amount."""


@dataclass(frozen=True, slots=True)
class Adjusted:
    """What an adjustment does: ``before`` and ``after`` are what is billed for the hour, ``amount`` what it adds.

    ``made`` is false for one that changes nothing, was made before, or was only tried.
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
    dry_run: bool = False,
) -> Adjusted:
    """Add ``by`` to what is billed of a metric in an hour, or as much as makes it ``to``.

    A late record changes what is counted and leaves the adjustment, unless the adjustment is bound to what was
    counted, ``if_counted``: then it is void while something else is. The same adjustment, for the same reason, is made
    once; of two that say ``to`` what at the same moment, one is made. Raises OperatorError for what cannot be.
    """
    if (by is None) == (to is None):
        raise OperatorError("an adjustment says either by how much or to what")
    check_reason(reason)
    if not (hour.end <= now):
        raise OperatorError(f"{hour} is not over yet: adjust it when it is")
    count = counted(deployment, name, metric, hour, now)
    changes = [one for one in deployment.changes.of(name, hour) if one.metric == metric]
    before = _billed(count, changes)
    amount = by if by is not None else (to or 0) - before
    if (to is not None and not 0 <= to <= LARGEST) or abs(by or 0) > LARGEST:
        raise OperatorError(f"an adjustment is by or to at most 10^12, got {to if by is None else by}")
    known_as = _id_of(name, metric, hour, by, to, if_counted, reason) if by is not None else next_id(changes)
    change = Change(
        id=known_as,
        metric=metric,
        amount=amount,
        reason=reason,
        who=who,
        at=int(now.timestamp()),
        if_counted=if_counted,
    )
    done = Adjusted(name, metric, str(hour), before, before + amount, amount, reason, who)
    if not amount or dry_run:
        return done
    try:
        deployment.changes.add(name, hour, change)
    except RowChangedError as error:
        if all(one.id != change.id for one in deployment.changes.of(name, hour)):
            raise OperatorError("something else was written for this hour at the same moment: try again") from error
        if by is None:
            raise OperatorError(
                f"somebody else adjusted {name}'s {metric} of {hour} meanwhile: it was {before}, and is "
                f"now {billed(deployment, name, metric, hour, now)}. Nothing was changed: say it again, if you mean it"
            ) from error
        raise OperatorError(
            f"{name}'s {metric} of {hour} was adjusted in this way and for this reason already: "
            "if it is meant a second time, say so in its reason"
        ) from error
    return replace(done, made=True)


def billed(deployment: Deployment, name: str, metric: str, hour: Hour, now: datetime) -> int:
    """Return what is billed of a metric in an hour once all that is known is closed; it may be less than nothing.

    That is the counters, or the row where they have expired, and all changes that are not void.
    """
    count = counted(deployment, name, metric, hour, now)
    return _billed(count, [one for one in deployment.changes.of(name, hour) if one.metric == metric])


def _billed(count: int, changes: Iterable[Change]) -> int:
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
    return _id_of("after", *sorted(one.id for one in changes))


def _id_of(*parts: object) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:16]
