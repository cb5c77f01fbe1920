"""How a customer stands with its limits, as the last exact look left it: what it decided is what is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from infra.operate.deployment import Deployment
from infra.operate.limits.setting import items_of
from metering.model.limit_checks import stops_unslowed
from metering.model.limits import (
    BUDGET,
    STOP_OF_BUDGET,
    Applying,
    Level,
    LimitState,
    Reason,
    Stop,
    applying,
    level_by,
)
from metering.model.prices import limits_of
from metering.model.subscribed import Window, window_of
from metering.portal.limits import moment, shown_limit
from metering.stores.limits import OfOne

FIREHOSE: Final = "firehose"
"""What the output ``Road`` says where counts are minutes old."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A limit that applies, in the window that runs; ``state`` is None if nobody has looked at it in this one yet."""

    limit: Applying
    window: Window
    state: LimitState | None

    @property
    def stops(self) -> bool:
        """Whether it may stop anybody."""
        return any(isinstance(step, Stop) for step in self.limit.steps)

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it, by the names of the customers' API."""
        state = self.state or LimitState()
        used = self.state.used if self.state else None
        shown = shown_limit(self.limit, self.window, used, state.acted, self.limit.why)
        return shown | {"as_of": moment(state.looked), "access": state.level.name.lower()}


@dataclass(frozen=True, slots=True)
class Standing:
    """How a customer stands: its limits, why its keys are to be closed, and how far they were seen to be.

    ``notes`` are sentences about what is to be known beside that.
    """

    known: OfOne
    limits: Sequence[Shown]
    reasons: Sequence[Reason]
    notes: Sequence[str]

    @property
    def level(self) -> Level:
        """How far the customer's keys are to be closed."""
        return level_by(self.reasons)

    def why(self, reason: Reason) -> str:
        """Say in words why a reason holds."""
        held = self.known.held.get(reason.name)
        if held is not None:
            return ", ".join(filter(None, (held.why, f"by {held.who}" * bool(held.who))))
        return next((one.limit.why for one in self.limits if _is_of(reason, one.limit)), "")

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        subscribed = self.known.subscribed
        return {
            "customer": self.known.name,
            "access": self.level.name.lower(),
            "reasons": [
                {
                    "name": reason.name,
                    "access": reason.level.name.lower(),
                    "since": moment(reason.since),
                    "until": moment(reason.until),
                    "why": self.why(reason),
                }
                for reason in self.reasons
            ],
            "keys_seen": {
                "access": self.known.gate.level.name.lower(),
                "at": moment(self.known.gate.at),
                "left": self.known.gate.left,
            },
            "plans": list(subscribed.plans) if subscribed else [],
            "currency": (subscribed.currency if subscribed else "") or None,
            "limits": [one.as_json() for one in self.limits],
            "addresses": len(self.known.addresses),
            "notes": list(self.notes),
        }


def standing(deployment: Deployment, name: str, now: datetime) -> Standing:
    """Return how a customer stands; reads only."""
    known = items_of(deployment).of(name)
    plans = known.subscribed.plans if known.subscribed else ()
    shown = []
    for limit in applying(limits_of(deployment.declared_plans, plans), known.own, known.budget, now):
        window, state = window_of(limit.per, now, known.subscribed), known.states.get(limit.name)
        shown.append(Shown(limit, window, state if state is not None and state.is_of(window) else None))
    reasons = known.reasons(now)
    return Standing(known, shown, reasons, [*_notes(deployment, known, shown, level_by(reasons))])


def _notes(deployment: Deployment, known: OfOne, shown: Sequence[Shown], level: Level) -> list[str]:
    """Say what is to be known beside the numbers."""
    notes = []
    if known.subscribed is None:
        notes.append("no subscription of it is known, so that no plan's limits apply, and a period is the month")
    elif known.subscribed.unpriced:
        notes.append(
            f"what it spends is not known, since it has prices of its own: {', '.join(known.subscribed.unpriced)}"
        )
    if known.gate.level is not level:
        notes.append(f"its keys were last seen {known.gate.level.name.lower()}, and the gate is to bring them further")
    notes += [f"key {key} is left as it is: {why}" for key, why in known.gate.left.items()]
    late = [one.limit.name for one in shown if stops_unslowed(one.limit.steps)]
    if late and deployment.outputs.road == FIREHOSE:
        notes.append(
            f"counts are minutes old on the road over Firehose, and nothing slows before {', '.join(late)} stops"
        )
    return notes


def _is_of(reason: Reason, limit: Applying) -> bool:
    if limit.name == STOP_OF_BUDGET:
        return reason.name == BUDGET
    return reason.name.startswith(f"limit:{limit.name}:")
