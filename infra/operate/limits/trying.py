"""Trying limits on usage of before: who would have been warned, slowed and stopped, and in which hours.

From the ledger's rows alone, and so of closed hours, as they are billed: nothing is written, and nobody is told. A row
knows no moment within its hour; so a step is said to act in an hour, and what came in that hour after it is not told
apart. What a stop would have kept away stands in the rows all the same: nothing is taken off.

Customers are read one after another, each by one query, of which an hour is held at a time; of a customer that would
have been told nothing, nothing is kept (I10).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from infra.operate.deployment import Deployment, OperatorError
from infra.operate.limits.setting import items_of
from metering.limits.standing import prices_of
from metering.model.hints import one_of
from metering.model.limits import SPEND, Applying, LimitState, Slow, Step, Stop, applying, decide, written
from metering.model.periods import Hour
from metering.model.prices import Plan, Price, asked_for, limits_of, terms
from metering.model.subjects import customer
from metering.model.subscribed import Subscribed, window_of
from metering.model.usage_row import UsageRow
from metering.stores.aws import in_pieces, side_by_side
from metering.stores.limits import OfOne

MOST_DAYS: Final = 366

_AT_ONCE: Final = 32
"""Customers that are read side by side."""


@dataclass(frozen=True, slots=True)
class Act:
    """A step of a customer's limit that would have acted in some ``windows``.

    First in the hour ``first``, with ``used`` of ``most`` at its end, and in the last window in the hour ``last``.
    """

    customer: str
    limit: str
    step: Step
    windows: int
    first: Hour
    last: Hour
    used: int
    most: int


@dataclass(slots=True)
class Tried:
    """What limits would have done in the hours from ``first`` up to ``end``, exclusive.

    ``customers`` were read; ``unlimited`` are those of them to whom no limit applies. Of the acts those of the first
    customers are kept, and the others counted.
    """

    first: Hour
    end: Hour
    customers: int = 0
    unlimited: int = 0
    told: int = 0
    slowed: int = 0
    stopped: int = 0
    acts: list[Act] = field(default_factory=list)
    left_off: int = 0

    def add(self, acts: Sequence[Act], most: int) -> None:
        """Count what one customer would have been told, and keep it if there is room."""
        self.told += bool(acts)
        self.slowed += any(isinstance(act.step, Slow) for act in acts)
        self.stopped += any(isinstance(act.step, Stop) for act in acts)
        if len(self.acts) + len(acts) > most:
            self.left_off += len(acts)
        else:
            self.acts += acts

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        numbers = ("customers", "unlimited", "told", "slowed", "stopped", "left_off")
        return {
            "from": str(self.first),
            "to": str(self.end),
            **{name: getattr(self, name) for name in numbers},
            "acts": [
                {
                    "customer": act.customer,
                    "limit": act.limit,
                    "step": written(act.step),
                    "windows": act.windows,
                    "first": str(act.first),
                    "last": str(act.last),
                    "used": act.used,
                    "most": act.most,
                }
                for act in self.acts
            ],
        }


@dataclass(frozen=True, slots=True)
class Trying:
    """Tries limits: those of a ``plan`` for everybody, or by what each customer is subscribed to, and its own."""

    deployment: Deployment
    plan: Plan | None

    @classmethod
    def of(cls, deployment: Deployment, plan: str) -> "Trying":
        """Return that of a deployment; OperatorError if there is no such plan, or it has no limits."""
        items_of(deployment)
        plans = {one.name: one for one in deployment.declared_plans}
        if plan and plan not in plans:
            raise OperatorError(f"there is no plan {plan!r}: write {one_of(plan, [*plans])}")
        if plan and not plans[plan].limits:
            raise OperatorError(f"the plan {plan!r} has no limits: declare some, and deploy")
        return cls(deployment, plans.get(plan))

    def run(
        self,
        names: Sequence[str],
        days: int,
        *,
        now: datetime,
        most: int,
        progress: Callable[[Iterable[Sequence[str]], int], Iterable[Sequence[str]]],
    ) -> Tried:
        """Try the limits on the last days that are closed; ``most`` acts are kept."""
        end = self.deployment.ledger.progress.cursor()
        if end is None:
            raise OperatorError("no hour is closed yet, so that there is nothing to try limits on")
        tried = Tried(Hour.containing(end.start - timedelta(days=days)), end)
        pieces = in_pieces(names, _AT_ONCE)
        for piece in progress(pieces, len(pieces)):
            for acts in side_by_side(partial(self._acts, first=tried.first, end=end, now=now), piece):
                tried.customers += 1
                if acts is None:
                    tried.unlimited += 1
                else:
                    tried.add(acts, most)
        return tried

    def _acts(self, name: str, first: Hour, end: Hour, now: datetime) -> list[Act] | None:
        """Return what would have acted for a customer; None if it has no limits."""
        known = items_of(self.deployment).of(name)
        limits = self._limits(known, now)
        if not limits:
            return None
        subscribed = known.subscribed.as_of(first.start) if known.subscribed else None
        prices = tuple(terms(self.plan).values()) if self.plan else prices_of(known.subscribed)
        running = [_Running(name, limit, subscribed, prices) for limit in limits]
        begin = min(window_of(limit.per, first.start, subscribed).begin for limit in limits)
        for row in self.deployment.ledger.rows.of(customer(name), begin, end):
            for one in running:
                one.use(row, tell=row.hour >= first)
        return [act for one in running for act in one.acts.values()]

    def _limits(self, known: OfOne, now: datetime) -> list[Applying]:
        if self.plan is not None:
            return applying([(self.plan.name, limit) for limit in self.plan.limits], [], None, now)
        plans = known.subscribed.plans if known.subscribed else ()
        return applying(limits_of(self.deployment.declared_plans, plans), known.own, None, now)


@dataclass(slots=True)
class _Running:
    """One limit, row by row."""

    customer: str
    limit: Applying
    subscribed: Subscribed | None
    prices: Sequence[Price]
    state: LimitState = field(default_factory=LimitState)
    used: Counter[str] = field(default_factory=Counter)
    acts: dict[Step, Act] = field(default_factory=dict)

    def use(self, row: UsageRow, *, tell: bool) -> None:
        """Take in an hour, and what acts in it; of hours before those that are asked for, nothing is told."""
        window = window_of(self.limit.per, row.hour.start, self.subscribed)
        if not self.state.is_of(window):
            self.used.clear()
        self.used.update({metric: total.quantity for metric, total in row.totals.items()})
        is_money = self.limit.metric == SPEND
        used = asked_for(self.prices, self.used) if is_money else self.used[self.limit.metric]
        before = self.state.acted if self.state.is_of(window) else {}
        self.state = decide(self.limit, self.state, window, used, row.hour.start)
        for step in self.limit.steps:
            if tell and written(step) in self.state.acted.keys() - before.keys():
                self._act(step, row.hour)

    def _act(self, step: Step, hour: Hour) -> None:
        earlier = self.acts.get(step)
        self.acts[step] = (
            replace(earlier, windows=earlier.windows + 1, last=hour)
            if earlier
            else Act(self.customer, self.limit.name, step, 1, hour, hour, self.state.used, self.limit.most)
        )
