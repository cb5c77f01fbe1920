"""The demo of limits: a client runs into one on this machine, and everything around it is looked at.

``acme`` calls as fast as its usage plan lets it, until the gateway refuses it, while ``globex`` goes on. Then the
operator raises the limit, calls pass again, and the customer sets a budget and stops itself. What was let in beyond the
limit is compared with the bound that was stated before.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import msgspec
from rich.console import Console

from infra.local.cloud import LocalCloud, start
from infra.local.demo.limited import ALERTS_FROM, NOW, Client, Page, Told, add_customer, counted
from infra.local.demo.steps import PATIENCE_S, PLAN, wait_until
from infra.operate.limits import setting
from infra.operate.limits.bound import bound_of, delay_of
from infra.operate.limits.measuring import Probe, call
from metering.limits.usage_plans import UsagePlans
from metering.model.limits import Limit, OfCustomer

BUSY: Final = "acme"
OTHER: Final = "globex"
SAMPLES: Final = 5
CALLS_A_SECOND: Final = 25
OTHERS: Final = 25
"""One call of the other customer's comes with so many of the busy one's."""

STAYS: Final = 20
"""So many refusals in a row say that a customer is stopped."""


@dataclass(slots=True)
class LimitsResult:
    """What the demo of limits saw. ``stages`` says of each thing that was to happen whether it did."""

    road: str
    limit: int
    calls_sent: int = 0
    calls_let_in: int = 0
    counted: int = 0
    overshoot_calls: int = 0
    bound_calls: int | None = None
    delay: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    stages: dict[str, bool] = field(default_factory=dict)
    elapsed_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether what was let in was counted, no more than was stated came after the limit, and all happened."""
        bounded = self.bound_calls is not None and 0 <= self.overshoot_calls <= self.bound_calls
        happened = bool(self.stages) and all(self.stages.values())
        return self.calls_let_in == self.counted and bounded and happened

    def as_json(self) -> dict[str, Any]:
        """Return it as ``metering demo --limits --json`` prints it."""
        fields = ("road", "limit", "calls_sent", "calls_let_in", "counted", "overshoot_calls", "bound_calls")
        told = {name: getattr(self, name) for name in fields}
        more = {"delay": dict(self.delay), "measured": dict(self.measured), "stages": self.stages}
        return {"equal": self.equal, **told, **more, "elapsed_s": dict(self.elapsed_s)}


def run(*, road: str = "subscription", say: Console) -> LimitsResult:
    """Run the demo of limits by a road; ``say`` is told what happens."""
    began = time.monotonic()
    with start(road=road, alerts_from=ALERTS_FROM, back=NOW, say=say) as cloud:
        result = _Play(cloud, say).play()
        result.elapsed_s = {**cloud.phases.elapsed_s, "total": round(time.monotonic() - began, 2)}
    verdict = "the limit acted as it should" if result.equal else "the limit did not act as it should"
    say.print(f"{verdict}, after {result.elapsed_s['total']:.1f} s", style="bold green" if result.equal else "bold red")
    return result


class _Play:
    """One play of the demo, on a cloud that has limits."""

    def __init__(self, cloud: LocalCloud, say: Console) -> None:
        self._cloud, self._say = cloud, say
        self._deployment = cloud.deployment
        self._told, self._page = Told(cloud), Page(cloud.deployment, BUSY)
        (plan,) = [plan for plan in self._deployment.declared_plans if plan.name == PLAN]
        (self._limit,) = [limit for limit in plan.limits if isinstance(limit, Limit)]
        self._result = LimitsResult(cloud.outputs.road, self._limit.units)

    def play(self) -> LimitsResult:
        """Play it, and return what was seen."""
        with self._cloud.phases.time("subscribing two customers", "subscribe"):
            busy, other = add_customer(self._cloud, BUSY), add_customer(self._cloud, OTHER)
        with self._cloud.phases.time("measuring how fast the gate acts", "measure"):
            self._measure(busy)
        with self._cloud.phases.time(f"calling until {BUSY} is stopped", "stop"):
            self._until_stopped(busy, other)
        self._compare(busy, other)
        with self._cloud.phases.time("raising the limit", "raise"):
            self._raise(busy)
        with self._cloud.phases.time("setting a budget", "budget"):
            self._budget(busy, other)
        return self._result

    def _measure(self, busy: Client) -> None:
        """Measure the gate, and state how far the limit can be overrun."""
        plans = UsagePlans(self._deployment.client("apigateway"))
        probe = Probe(self._deployment, plans, partial(call, headers={"x-user": "probe"}))
        measured = probe.measure(busy.address, "Standard", samples=SAMPLES, now=datetime.now(UTC))
        self._result.measured = msgspec.to_builtins(measured)
        delay = delay_of(self._deployment, datetime.now(UTC))
        bound = bound_of({busy.key: plans.of(busy.key)}, delay.seconds)
        self._result.delay, self._result.bound_calls = delay.as_json(), bound.calls
        self._say.print(
            f"stated: at most {bound.calls:,} calls can come after {self._limit.units:,}: "
            f"burst + rate x {delay.seconds:.1f} s of one key"
        )

    def _until_stopped(self, busy: Client, other: Client) -> None:
        """Call until so many refusals have come in a row; what goes on for minutes is shown as not stopped."""
        deadline, in_a_row = time.monotonic() + PATIENCE_S, 0
        while in_a_row < STAYS and time.monotonic() < deadline:
            in_a_row = in_a_row + 1 if busy.call() == HTTPStatus.FORBIDDEN else 0
            if busy.sent % OTHERS == 0:
                other.call()
            time.sleep(1 / CALLS_A_SECOND)
        self._cloud.gateway.flush()
        self._result.stages["stopped at the gateway"] = in_a_row >= STAYS
        self._say.print(f"{BUSY}: {busy.let_in} calls let in, then {busy.refused} refused with 403")

    def _compare(self, busy: Client, other: Client) -> None:
        """Compare what was let in with what was counted, and look at what everybody was told."""
        result = self._result
        result.calls_sent, result.calls_let_in = busy.sent, busy.let_in
        result.overshoot_calls = busy.let_in - self._limit.units
        self._happens("all that was let in is counted", lambda: counted(self._deployment, busy) >= busy.let_in)
        result.counted = counted(self._deployment, busy)
        result.stages["other customers go on"] = other.let_in == other.sent > 0
        self._say.print(
            f"overshoot: {result.overshoot_calls} calls beyond {result.limit}, stated were at most {result.bound_calls}"
        )
        steps = [step.at for step in self._limit.at]
        self._happens("an event for each threshold", lambda: self._told.steps(BUSY) == steps)
        self._happens("an event that access stopped", lambda: self._told.access(BUSY) == ["Access stopped"])
        self._happens("an e-mail for each threshold", lambda: len(self._told.emails(BUSY)) == len(steps))
        self._happens("the page says so", lambda: self._page.limits()["access"] == "stopped")

    def _raise(self, busy: Client) -> None:
        """Raise the limit as the operator does, until calls pass again."""
        at = int(datetime.now(UTC).timestamp())
        raised = OfCustomer("requests", "period", self._limit.units * 100, reason="the demo raises it", at=at)
        setting.raise_limit(self._deployment, BUSY, raised)
        self._happens("calls pass again after it is raised", lambda: busy.call() == HTTPStatus.OK, look=True)
        self._happens("an event that access reopened", lambda: self._told.access(BUSY)[1:] == ["Access reopened"])

    def _budget(self, busy: Client, other: Client) -> None:
        """Set a budget below what the period costs already, as the customer does on its page, and take it back."""
        self._page.put_budget(stop=max(1, self._page.spent()))
        self._happens("the customer's own budget stops it", lambda: busy.call() == HTTPStatus.FORBIDDEN, look=True)
        self._page.put_budget(stop=None)
        self._happens("without the budget calls pass again", lambda: busy.call() == HTTPStatus.OK, look=True)
        self._happens("other customers went on all the while", lambda: other.call() == HTTPStatus.OK)

    def _happens(self, what: str, is_so: Callable[[], bool], *, look: bool = False) -> None:
        """Wait until something is so; note whether it came to be. ``look`` spares the minute until the sweep looks."""
        if look:
            setting.look(self._deployment, BUSY)
        try:
            wait_until(is_so)
        except TimeoutError:
            self._result.stages[what] = False
            self._say.print(f"NOT SO: {what}", style="red")
        else:
            self._result.stages[what] = True
            self._say.print(f"so it is: {what}", highlight=False)
