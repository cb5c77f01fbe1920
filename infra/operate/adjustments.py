"""The adjustments that were made: how each stands, and taking one back by its opposite, which is one more."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

from infra.operate.adjusting import (
    Adjusted,
    billed_of,
    carried_from,
    counted,
    id_of,
    is_added,
    refuse_below_zero,
)
from infra.operate.deployment import Deployment, OperatorError, check_reason
from infra.operate.usage_lines import OPEN
from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.usage_row import Change, Total

UNDONE: Final = "UNDONE"
VOID: Final = "VOID"

Progress = Callable[[Iterable[str], int], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Adjustment:
    """An adjustment as it stands: ``state`` is that of its hour's total, or UNDONE, or VOID.

    OPEN is one that its hour is still to be closed with. It is ``undone_by`` another, or ``undoes`` one itself, by id.
    """

    customer: str
    metric: str
    hour: str
    id: str
    amount: int
    state: str
    reason: str
    who: str
    at: str
    undoes: str = ""
    undone_by: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as ``metering adjustments list --json`` prints it."""
        return asdict(self) | {"undoes": self.undoes or None, "undone_by": self.undone_by or None}


def adjustments(
    deployment: Deployment, names: Sequence[str], first: Hour, end: Hour, *, progress: Progress
) -> Iterator[Adjustment]:
    """Yield what was adjusted of these customers' hours from ``first`` up to ``end``, exclusive, hour by hour."""
    for name in progress(names, len(names)):
        for hour, changes in groupby(deployment.changes.between(name, first, end), key=lambda found: found[0]):
            made = [change for _, change in changes if not change.carry]
            (row,) = deployment.ledger.rows.at(hour, [customer(name)]).values() if made else [None]
            for metric, of_metric in groupby(made, key=lambda change: change.metric):
                yield from _stand(name, hour, [*of_metric], row.totals.get(metric) if row else None)


def _stand(name: str, hour: Hour, made: Sequence[Change], total: Total | None) -> Iterator[Adjustment]:
    """Yield the adjustments of a metric's hour as its total has them, in the order in which they were made."""
    undone = {change.id: undo for change in made for undo in made if undo.id == _undo_id(change.id)}
    undoing = {undo.id: known_as for known_as, undo in undone.items()}
    count = total.counted if total else 0
    has_all = total is not None and total.adjusted == sum(one.amount for one in made if not one.is_void(count))
    for change in sorted(made, key=lambda one: (one.at, one.id in undoing, one.id)):
        state = str(total.state) if total is not None and has_all else OPEN
        if change.is_void(count):
            state = VOID
        if change.id in undone:
            state = UNDONE
        yield Adjustment(
            name,
            change.metric,
            str(hour),
            change.id,
            change.amount,
            state,
            change.reason,
            change.who,
            f"{datetime.fromtimestamp(change.at, UTC):%Y-%m-%dT%H:%M:%SZ}",
            undoes=undoing.get(change.id, ""),
            undone_by=undone[change.id].id if change.id in undone else "",
        )


def undo(  # noqa: PLR0913 - what it says, each by name
    deployment: Deployment,
    name: str,
    metric: str,
    hour: Hour,
    known_as: str,
    *,
    reason: str,
    who: str,
    now: datetime,
    below_zero: bool = False,
    dry_run: bool = False,
) -> Adjusted:
    """Take an adjustment back by another of the opposite amount: both stand in the ledger (I5), and it is made once.

    One that is bound to a count is taken back as far as it holds, by one that is bound to the same. Raises
    OperatorError for one that is not there, was undone already, or is an undo itself.
    """
    check_reason(reason)
    changes = [one for one in deployment.changes.of(name, hour) if one.metric == metric]
    made = {one.id: one for one in changes if not one.carry}
    if known_as not in made:
        raise OperatorError(
            f"there is no adjustment {known_as!r} of {name}'s {metric} of {hour}: 'metering adjustments list {name} "
            f"--from {hour}' shows them"
        )
    if any(_undo_id(other) == known_as for other in made):
        raise OperatorError(f"{known_as} has undone another adjustment: make that anew with 'metering adjust'")
    change = opposite(made[known_as], reason=reason, who=who, now=now)
    if change.id in made:
        raise OperatorError(_was_undone(made[change.id], known_as))
    count = counted(deployment, name, metric, hour, now)
    before, after = billed_of(count, changes), billed_of(count, [*changes, change])
    elsewhere = carried_from(hour, changes)
    done = Adjusted(name, metric, str(hour), before, after, change.amount, reason, who, elsewhere=elsewhere)
    if not below_zero:
        refuse_below_zero(done)
    if dry_run:
        return done
    if not is_added(deployment, name, hour, change):
        undone = next(one for one in deployment.changes.of(name, hour) if one.id == change.id)
        raise OperatorError(_was_undone(undone, known_as))
    return replace(done, made=True)


def opposite(change: Change, *, reason: str, who: str, now: datetime) -> Change:
    """Return what takes a change back: known by that change, so that whoever undoes it, too, makes the same."""
    return Change(
        id=_undo_id(change.id),
        metric=change.metric,
        amount=-change.amount,
        reason=reason,
        who=who,
        at=int(now.timestamp()),
        if_counted=change.if_counted,
    )


def _undo_id(known_as: str) -> str:
    return id_of("undo", known_as)


def _was_undone(undone: Change, known_as: str) -> str:
    return f"{known_as} was undone already, by {undone.who}: {undone.reason}"
