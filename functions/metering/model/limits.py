"""Limits: how much a customer may use in a window, and what happens on the way there. Pure.

A limit is declared in a plan, beside its prices; set for one customer by the operator; or is the customer's own budget.
Each has a state of its own for the window that runs, so that whichever is reached first acts first: the tightest wins.
What has acted in a window never acts a second time in it, while the level follows the usage both ways::

    used ──▶ steps that are reached ──▶ acted: once a window, told
                        │
                        └─────────────▶ level: open, slowed, stopped; a correction reopens
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Final

import msgspec

from metering.model.periods import Hour
from metering.model.subscribed import Window

MOST_PERCENT: Final = 1000


class _Declared(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is written in ``app.py`` and travels as JSON."""


class Notify(_Declared, frozen=True, tag="notify"):
    """Tell the operator and the customer ``at`` so many percent of a limit."""

    at: int


class Slow(_Declared, frozen=True, tag="slow"):
    """Move the customer's keys into the slow lane ``at`` so many percent of a limit."""

    at: int


class Stop(_Declared, frozen=True, tag="stop"):
    """Take the customer's keys out of their usage plans ``at`` so many percent of a limit."""

    at: int


Step = Notify | Slow | Stop


class Limit(_Declared, frozen=True, tag="limit"):
    """How many ``units`` of a metric a customer may use in a window, and what happens on the way.

    ``per`` is one of :data:`metering.model.subscribed.PERS`. ``metric`` is a metric's name, or ``<name>_<value>`` for
    one that has meters of its own for values.
    """

    metric: str
    units: int
    per: str = "period"
    at: tuple[Step, ...] = (Stop(100),)


class Spend(_Declared, frozen=True, tag="spend"):
    """How much a customer's running period may cost, in the plan's smallest unit: what its page shows, fees too.

    Where the ``customer_may_stop``, it may give itself a budget that stops it.
    """

    amount: int
    at: tuple[Step, ...] = (Notify(80), Notify(100))
    customer_may_stop: bool = False

    @property
    def per(self) -> str:
        """The subscription's own period: the one that is priced."""
        return "period"


AnyLimit = Limit | Spend

SPEND: Final = "spend"
"""What a limit of money is called where others name their metric."""

BUDGET: Final = "budget"
NOTIFY_OF_BUDGET: Final = "budget/notify"
STOP_OF_BUDGET: Final = "budget/stop"
"""What a customer's own budget is known as, as a reason and as limits; no metric's limits are named so."""


class Level(IntEnum):
    """How far a customer's keys are closed."""

    OPEN = 0
    SLOWED = 1
    STOPPED = 2


class Origin(StrEnum):
    """Where a limit comes from."""

    PLAN = "plan"
    CUSTOMER = "customer"
    BUDGET = "budget"


def name_of(limit: AnyLimit) -> str:
    """Return what a plan's limit is known as: ``messages/period``, ``spend/period``; one of a plan has each name."""
    return f"{limit.metric if isinstance(limit, Limit) else SPEND}/{limit.per}"


@dataclass(frozen=True, slots=True)
class Applying:
    """A limit that applies to a customer: ``most`` are units of ``metric``, or money where that is :data:`SPEND`.

    ``name`` is unique among a customer's: ``messages/period`` of a plan, ``messages/period/customer`` of the operator's
    for this customer, ``budget/stop``. ``why`` says in words where it comes from.
    """

    name: str
    metric: str
    per: str
    most: int
    steps: tuple[Step, ...]
    origin: Origin
    why: str

    def threshold(self, step: Step) -> int:
        """Return what has to be used for a step: the first whole unit at or beyond its part."""
        return -(-self.most * step.at // 100)

    @property
    def tightness(self) -> tuple[bool, int, int]:
        """What is less for a limit that stops earlier; of those that stop nobody, for one of less."""
        stops = [self.threshold(step) for step in self.steps if isinstance(step, Stop)]
        return not stops, min(stops, default=0), self.most


class OfCustomer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the operator has set for one customer, in words that a command takes: beside the plan's, or ``raised``.

    A ``raised`` one takes the place of a smaller ``most`` in the plan's limit of this metric and window, whose steps
    stay; any other stops by itself. It holds ``until`` a moment in seconds since 1970, or for good where that is 0.
    ``who`` did so (an ARN) ``at`` a moment, for a ``reason``.
    """

    metric: str
    per: str
    most: int
    raised: bool = False
    until: int = 0
    reason: str = ""
    who: str = ""
    at: int = 0
    version: int = 0

    @property
    def known_as(self) -> str:
        """What tells it from a customer's others."""
        return f"{self.metric}/{self.per}{'/raised' * self.raised}"

    def holds(self, now: datetime) -> bool:
        """Say whether it is in force."""
        return not self.until or now.timestamp() < self.until


class Budget(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a customer has asked for itself, in its subscription's smallest unit; 0 for nothing.

    ``notify`` at an amount, ``stop`` at another; ``at`` a moment in seconds since 1970.
    """

    notify: int = 0
    stop: int = 0
    at: int = 0
    version: int = 0


def applying(
    declared: Iterable[tuple[str, AnyLimit]], own: Iterable[OfCustomer], budget: Budget | None, now: datetime
) -> list[Applying]:
    """Return the limits that apply to a customer whose plans ``declared`` these, each with its plan's name.

    Of two plans that declare the same, the tighter one applies. A raised one changes the plan's, until it ends.
    """
    declared, own = [*declared], [one for one in own if one.holds(now)]
    found: dict[str, Applying] = {}
    for plan, limit in declared:
        one = _of_plan(plan, limit)
        if one.name not in found or one.tightness < found[one.name].tightness:
            found[one.name] = one
    for setting in own:
        if not setting.raised:
            new = _of_customer(setting)
            found[new.name] = new
        elif (raised := found.get(f"{setting.metric}/{setting.per}")) and setting.most > raised.most:
            why = f"{raised.why}, raised from {raised.most:,}: {setting.reason}"
            found[raised.name] = replace(raised, most=setting.most, why=why)
    if budget is not None:
        found |= {one.name: one for one in of_budget(budget, may_stop=may_stop(limit for _, limit in declared))}
    return [*found.values()]


def _of_plan(plan: str, limit: AnyLimit) -> Applying:
    metric, most = (limit.metric, limit.units) if isinstance(limit, Limit) else (SPEND, limit.amount)
    return Applying(name_of(limit), metric, limit.per, most, limit.at, Origin.PLAN, f"the plan {plan}")


def _of_customer(setting: OfCustomer) -> Applying:
    name = f"{setting.known_as}/{Origin.CUSTOMER}"
    return Applying(name, setting.metric, setting.per, setting.most, (Stop(100),), Origin.CUSTOMER, setting.reason)


def may_stop(declared: Iterable[AnyLimit]) -> bool:
    """Say whether a customer of plans with these limits may stop itself."""
    return any(isinstance(limit, Spend) and limit.customer_may_stop for limit in declared)


def of_budget(budget: Budget, *, may_stop: bool) -> list[Applying]:
    """Return what a budget asks for: its notification and its stop are limits by themselves, of other amounts."""
    asked: list[tuple[str, int, Step]] = [(NOTIFY_OF_BUDGET, budget.notify, Notify(100))]
    if may_stop:
        asked.append((STOP_OF_BUDGET, budget.stop, Stop(100)))
    return [
        Applying(name, SPEND, "period", amount, (step,), Origin.BUDGET, "own budget")
        for name, amount, step in asked
        if amount
    ]


def written(step: Step) -> str:
    """Return how a step is written: ``stop:100``."""
    return f"{step.__struct_config__.tag}:{step.at}"


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """A threshold that acted ``at`` a moment and is to be told; ``taken`` until then by who is about to tell it.

    Its event may be ``put`` already, so that an e-mail is all that is left.
    """

    step: str
    used: int
    most: int
    at: int
    taken: int = 0
    put: bool = False


class LimitState(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one limit of one customer stands in the window from the hour ``begin`` up to ``end``, exclusive.

    ``acted`` says when each step acted (``stop:100``, seconds since 1970). ``level`` is what the last exact look came
    to, ``since`` when it began; ``used`` of ``most`` is what that look, ``looked`` at a moment, found. ``closed`` is
    what the ledger's rows before the hour ``upto`` hold of it, by metric, as they were when ``changes`` of them had
    been told. ``version`` counts the writes.
    """

    begin: str = ""
    end: str = ""
    acted: dict[str, int] = {}
    level: Level = Level.OPEN
    since: int = 0
    used: int = 0
    most: int = 0
    looked: int = 0
    upto: str = ""
    closed: dict[str, int] = {}
    changes: int = 0
    untold: tuple[Told, ...] = ()
    version: int = 0

    def is_of(self, window: Window) -> bool:
        """Say whether it is about this window."""
        return (self.begin, self.end) == (str(window.begin), str(window.end))

    def holds(self, now: datetime) -> Level:
        """Return the level that it asks for now: of a window that has ended, none."""
        runs = bool(self.end) and self.begin <= str(Hour.containing(now)) < self.end
        return self.level if runs else Level.OPEN


def decide(limit: Applying, before: LimitState, window: Window, used: int, now: datetime) -> LimitState:
    """Return how a limit stands after an exact look; what has acted in the window stays so.

    A step acts when it is reached for the first time in its window, also by an edit of the limit; the level is that of
    the steps that are reached now, so that a correction, or a raised limit, reopens. Who comes late, with a window that
    had ended before the one that is known began, decides nothing: else what has acted in this one would act again.
    """
    at = int(now.timestamp())
    if before.begin and str(window.end) <= before.begin:
        return before
    if before.begin == str(window.begin):
        # Of a window that now ends at another moment, as a trial that is extended, what has acted stays so.
        before = msgspec.structs.replace(before, end=str(window.end))
    else:
        # What was not told of the window before is too late: it warns nobody any more.
        before = LimitState(begin=str(window.begin), end=str(window.end), since=at, version=before.version)
    reached = [step for step in limit.steps if used >= limit.threshold(step)]
    new = [written(step) for step in reached if written(step) not in before.acted]
    level = max((level_of(step) for step in reached), default=Level.OPEN)
    return msgspec.structs.replace(
        before,
        acted=before.acted | dict.fromkeys(new, at),
        level=level,
        since=before.since if level == before.level else at,
        used=used,
        most=limit.most,
        looked=at,
        untold=(*before.untold, *(Told(step, used, limit.most, at) for step in new)),
    )


def level_of(step: Step) -> Level:
    """Return how far a step closes."""
    match step:
        case Notify():
            return Level.OPEN
        case Slow():
            return Level.SLOWED
        case Stop():
            return Level.STOPPED


def left_until(limit: Applying, state: LimitState, used: int) -> int | None:
    """Return how much may still be used until a step acts or the level rises; None if nothing is ahead."""
    ahead = [
        limit.threshold(step) - used
        for step in limit.steps
        if used < limit.threshold(step) and (written(step) not in state.acted or level_of(step) > state.level)
    ]
    return min(ahead, default=None)


@dataclass(frozen=True, slots=True, order=True)
class Reason:
    """Why a customer's keys are not open: ``operator``, ``unpaid``, ``budget``, or ``limit:<name>:<window>``."""

    name: str
    level: Level
    since: int
    until: int = 0
    """When it ends by itself, in seconds since 1970; 0 if it does not."""


OPERATOR: Final = "operator"
UNPAID: Final = "unpaid"


def reasons_of(states: Iterable[tuple[str, LimitState]], held: Sequence[Reason], now: datetime) -> list[Reason]:
    """Return every reason that holds now: those of limits, by name, and those ``held`` by themselves."""
    found = [*held]
    for name, state in states:
        if level := state.holds(now):
            what = BUDGET if name == STOP_OF_BUDGET else f"limit:{name}:{state.begin}"
            found.append(Reason(what, level, state.since, int(Hour.parse(state.end).start.timestamp())))
    return sorted(found)


def level_by(reasons: Iterable[Reason]) -> Level:
    """Return how far reasons close a customer's keys: they are open if and only if none holds."""
    return max((reason.level for reason in reasons), default=Level.OPEN)
