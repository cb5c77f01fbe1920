"""Who is near a limit, and what everyone else has left at least: what the instances that read the stream go by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import msgspec

from metering.limits.looking import Looked
from metering.stores import gate_list
from metering.stores.gate_list import GateList, Near
from metering.stores.table import RowChangedError

MOST_SOURCES: Final = 200
"""Sources of a customer that are listed; of one who has more, the others are as those of whoever is not near."""

WRITTEN_AGAIN: Final = timedelta(minutes=5)
"""A customer that stays near is written at least so often, so that its look is known to be recent."""

_TRIES: Final = 20


@dataclass(slots=True)
class Nearness:
    """What a process finds out about it, and writes. Errors of DynamoDB are raised as they are."""

    gate: GateList
    _near: dict[str, Near] | None = None
    _jump: dict[str, int] = field(default_factory=dict)
    _moved: bool = False

    @property
    def near(self) -> dict[str, Near]:
        """Who is near, as it was read first and as this process has changed it."""
        if self._near is None:
            self._near = self.gate.near()
        return self._near

    def note(self, looked: Looked, now: datetime) -> None:
        """Take in a look: the customer is written as near or as not; :data:`MOST_NEAR` are kept, the nearest.

        Whoever is not has its share in what is left at least. A replay writes the same.
        """
        near, name = self.near, looked.name
        if not looked.near or not looked.left:
            self._lower(looked.left, len(looked.sources))
            self._drop(name)
            return
        after = entry_of(looked, now)
        if len(looked.sources) > MOST_SOURCES:
            self._lower(looked.left, len(looked.sources))
        if name not in near and len(near) >= gate_list.MOST_NEAR:
            farthest = max(near, key=lambda one: (near[one].reach_s, one))
            if near[farthest].reach_s <= after.reach_s:
                self._lower(looked.left, len(looked.sources))
                return
            self._lower(near[farthest].left, len(near[farthest].sources))
            self._drop(farthest)
        before = near.get(name)
        if before is None or _changed(before, after):
            self.gate.put_near(name, after)
            near[name], self._moved = after, True

    def lower(self) -> None:
        """Write what others have left at least, if that is less than is written; several sweepers may be at it."""
        for _ in range(_TRIES):
            sweep = self.gate.sweep()
            jump = _least(sweep.jump, self._jump)
            if jump == sweep.jump:
                return
            try:
                self.gate.save_sweep(msgspec.structs.replace(sweep, jump=jump))
            except RowChangedError:
                continue
            return

    def move_head(self) -> None:
        """Tell the instances that something has changed, if it has: what others have left, once a round is over."""
        sweep = self.gate.sweep()
        one_is_over = sweep.customers or (sweep.begun and not sweep.name)
        jump = _least(sweep.before, sweep.jump) if one_is_over else None
        number, told = self.gate.head()
        if self._moved or (jump is not None and (not number or jump != told)):
            self.gate.move_head(jump)
            self._moved = False

    def _lower(self, left: Mapping[str, int], sources: int) -> None:
        self._jump = _least(self._jump, {metric: max(1, units // max(1, sources)) for metric, units in left.items()})

    def _drop(self, name: str) -> None:
        if self.near.pop(name, None) is not None:
            self.gate.drop_near(name)
            self._moved = True


def entry_of(looked: Looked, now: datetime) -> Near:
    """Return what is written of a customer that a look at this moment has found near."""
    return Near(looked.sources[:MOST_SOURCES], dict(looked.left), int(now.timestamp()), looked.reach_s)


def _changed(before: Near, after: Near) -> bool:
    same = (before.sources, before.left) == (after.sources, after.left)
    return not same or after.at - before.at >= WRITTEN_AGAIN.total_seconds()


def _least(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    both = {metric: min(one.get(metric, units), units) for metric, units in other.items()}
    return {**one, **both}
