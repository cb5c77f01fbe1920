"""How far a limit can be overrun: what can still come after a stop, stated from real throttles and measured delays.

    calls = sum over the customer's keys of burst + rate x T
    T     = request, log and count (one figure: how old the oldest request of a batch is when it is counted)
          + look (from a counter's write to the decision) + wake (of the gate's worker, by a queue)
          + turn (of the key: the gate takes one after the other, at a pace that leaves deployments room)
          + gate (from its call to the first refusal)

API Gateway applies throttles by best effort, so this is as good as they are (API Gateway Developer Guide, "Throttle
requests to your REST APIs"). A key in a usage plan without a throttle has no bound.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import series
from infra.operate.limits.setting import items_of
from metering.limits.usage_plans import CALLS_A_SECOND, UsagePlan, UsagePlans, is_caller
from metering.model.limits import Level
from metering.model.periods import Hour
from metering.signals import NAMESPACE, Signal
from metering.stores.table import Table, item_key

LOOK_S: Final = 5.0
"""What a look takes from a counter's write at most, as the benchmark has it (tests/benchmarks/limits.py, detect_s)."""

WAKE_S: Final = 2.0
"""What it takes a message to start the gate's worker; where many are to be stopped at once, they come one by one."""

COUNT_S: Final = {"subscription": 180.0, "firehose": 480.0}
"""Where nothing was counted lately or measured, by the road: what AWS says of a log's delay ("usually less than three
minutes"), and on the road over Firehose the 300 seconds for which it holds lines back."""

_LATELY: Final = timedelta(days=1)
_PLACE: Final = ("measured", "gate")


class Measured(msgspec.Struct, frozen=True):
    """How long the gate took to be felt, of so many ``samples``, in milliseconds; and ``where`` (aws, emulator).

    ``closed`` is from the call that takes a key out of its plan to the first of the refusals that stay, ``opened`` from
    the call that puts it back to the first answer; ``counted`` from the last of many calls to the counter that has them
    all. ``at`` is in seconds since 1970.
    """

    at: int
    where: str
    samples: int
    closed_p50_ms: int
    closed_p99_ms: int
    opened_p50_ms: int
    opened_p99_ms: int
    counted_ms: int


@dataclass(frozen=True, slots=True)
class Delay:
    """The parts of T, in seconds, but for the keys' turns.

    ``notes`` say what was not measured, and so is left out or taken from elsewhere; ``is_measured`` whether the gate
    was, on AWS.
    """

    count_s: float
    gate_s: float
    look_s: float = LOOK_S
    wake_s: float = WAKE_S
    notes: tuple[str, ...] = ()
    is_measured: bool = True

    @property
    def seconds(self) -> float:
        """T of a key that nothing has to be waited for."""
        return self.count_s + self.look_s + self.wake_s + self.gate_s

    def as_json(self) -> dict[str, Any]:
        """Return it as commands print it."""
        parts = {"count_s": self.count_s, "look_s": self.look_s, "wake_s": self.wake_s, "gate_s": self.gate_s}
        return {"seconds": round(self.seconds, 3), **parts, "notes": list(self.notes)}

    def in_words(self) -> str:
        """Say of what it is made up."""
        return (
            f"a stop is felt {self.seconds:.1f} s after its limit is reached: {self.count_s:.1f} s until a request "
            f"is counted, {self.look_s:.1f} s until it is looked at, {self.wake_s:.1f} s until the gate runs, "
            f"{self.gate_s:.1f} s until that is felt, and the turns of a customer's keys"
        )


@dataclass(frozen=True, slots=True)
class Bound:
    """How many calls of so many ``keys`` can still come after a stop; None if there is no bound.

    The gate has come to the last of the keys in ``turns_s`` seconds. The ``unbounded`` usage plans, by their names, are
    those without a throttle; the ``callers`` of connected APIs are in no usage plan.
    """

    calls: int | None
    keys: int
    turns_s: float = 0.0
    unbounded: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()

    def in_words(self, delay: Delay) -> str:
        """Say it as commands do."""
        if self.calls is None:
            why = [
                f"keys in usage plans that have no throttle: {', '.join(self.unbounded)}" * bool(self.unbounded),
                f"callers that no usage plan closes, but an authorizer of their API at best: {', '.join(self.callers)}"
                * bool(self.callers),
            ]
            return f"what can still come after a stop has no bound, with {'; and '.join(filter(None, why))}"
        return (
            f"after a stop at most {self.calls:,} calls can still come: burst and {delay.seconds:.1f} s of the rate of "
            f"{self.keys} key{'s' * (self.keys != 1)}, and up to {self.turns_s:.1f} s until a key has its turn, by "
            "throttles that API Gateway keeps by best effort"
        )

    def as_json(self, delay: Delay) -> dict[str, Any]:
        """Return it as commands print it."""
        return {
            "calls": self.calls,
            "keys": self.keys,
            "turns_s": round(self.turns_s, 3),
            "unbounded": list(self.unbounded),
            "callers": list(self.callers),
            "delay": delay.as_json(),
        }


def save_measured(deployment: Deployment, measured: Measured) -> None:
    """Keep what was measured last."""
    text = msgspec.json.encode(measured).decode()
    Table(deployment.client("dynamodb"), str(deployment.outputs.access_table)).put(
        {**item_key(*_PLACE), "value": {"S": text}}
    )


def read_measured(deployment: Deployment) -> Measured | None:
    """Return what was measured last, or None."""
    found = Table(deployment.client("dynamodb"), str(deployment.outputs.access_table)).get(*_PLACE)
    return msgspec.json.decode(found["value"]["S"], type=Measured) if found else None


def delay_of(deployment: Deployment, now: datetime) -> Delay:
    """Return how long a stop takes: by what was counted in the last day, and by what was measured of the gate.

    The slowest count of the day is taken, since one as slow may be next: it may be an incident's, and then says so for
    a day.
    """
    notes = []
    measured = read_measured(deployment)
    if measured is None:
        notes.append("the gate is left out, for how fast it acts was not measured here: run 'metering limits measure'")
    elif measured.where != "aws":
        notes.append(f"how fast the gate acts was measured on the {measured.where} alone")
    metric = (NAMESPACE, Signal.OLDEST_RECORD_AGE, "Maximum", {"service": deployment.outputs.deployment})
    (ages,) = series(deployment, [metric], now, _LATELY)
    count_s = max(ages, default=measured.counted_ms / 1000 if measured else COUNT_S[deployment.outputs.road])
    if not ages:
        by = "what was measured then" if measured else "what AWS says of a log's delay"
        notes.append(f"nothing was counted in the last day: {by}, {count_s:.0f} s, is taken for it")
    gate_s, on_aws = (measured.closed_p99_ms / 1000, measured.where == "aws") if measured else (0.0, False)
    return Delay(count_s, gate_s, notes=tuple(notes), is_measured=on_aws)


def bound_of(plans_by_key: Mapping[str, Sequence[UsagePlan]], seconds: float) -> Bound:
    """Return how many calls of these keys, each in these usage plans, can still come in so many seconds.

    And until each has its turn, in their order: it is looked for, seen in each plan, taken out, and looked for again.
    """
    unbounded = sorted({plan.name for plans in plans_by_key.values() for plan in plans if plan.throttle is None})
    calls, asked = 0, 0
    for plans in plans_by_key.values():
        asked += 2 + 2 * len(plans)
        throttles = [plan.throttle for plan in plans if plan.throttle]
        calls += sum(
            math.ceil(throttle.burst + throttle.rate * (seconds + asked / CALLS_A_SECOND)) for throttle in throttles
        )
    callers = tuple(key for key in plans_by_key if is_caller(key))
    bound = None if unbounded or callers else calls
    return Bound(bound, len(plans_by_key), asked / CALLS_A_SECOND, tuple(unbounded), callers)


def overrun_of(deployment: Deployment, name: str, now: datetime) -> tuple[Bound, Delay] | None:
    """Return how far a customer's stops can be overrun; None where callers have no keys, so that throttles are others'.

    By the plans that its keys are in, or belong to while they are closed: two management calls for a key.
    """
    if not deployment.access_log.api.bills_by_key:
        return None
    delay = delay_of(deployment, now)
    plans = UsagePlans(deployment.client("apigateway"))
    by_id = {plan.id: plan for plan in plans.all()}
    held = deployment.ledger.holders.held_by(name, Hour.containing(now))
    homes = items_of(deployment).homes(held)
    # Of a key that is open, its home is wherever it is seen: an operator may have moved it since it was closed.
    closed = {key: home.plans for key, home in homes.items() if home.level is not Level.OPEN}
    by_key = {
        key: [by_id[plan] for plan in closed[key] if plan in by_id] if key in closed else plans.of(key) for key in held
    }
    return bound_of({key: found for key, found in by_key.items() if found or is_caller(key)}, delay.seconds), delay
