"""One key at the gateway: taken out of its usage plans, moved into a lane, put back; or a caller's item written.

Every step may be done twice and begun anywhere. Where a key belongs is remembered before it leaves, and how it stands
is read back after each attempt::

    see in which plans it is ──▶ as wanted? ──▶ done
              ▲                      │
              └── out, then in ◀─────┘ remember its home first
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol, assert_never

import msgspec

from metering.limits.usage_plans import Put, UsagePlan, UsagePlans, is_caller, lanes_for
from metering.model.limits import Level, Reason
from metering.stores.gate_list import GateList
from metering.stores.limits import Home

_ATTEMPTS: Final = 4

NO_PLAN: Final = "it is in no usage plan"
NO_LANE: Final = "no lane covers the stages of its usage plans: to be slowed is only told"

RETIRED: Final = "another key has taken its place"
NO_LANE_FOR_CALLERS: Final = "callers that are no API keys are not slowed: that is only told"

FOR_ITS_AUTHORIZER: Final = "no usage plan closes it: it is refused only if its API's authorizer reads the Access table"
NO_TABLE: Final = (
    "no usage plan closes it, and without limits there is no Access table: its API's authorizer must refuse it"
)

NO_STAGES: Final = "its usage plans are gone, or have no stage"

Remember = Callable[[Home], Home]
"""Writes where a key belongs, before anything is done with it, and returns it as it now stands."""


class NotAsWantedError(Exception):
    """A key was read back in other plans than it was brought into, again and again."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The level that reasons ask for at a moment."""

    level: Level
    reasons: tuple[Reason, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class Moved:
    """What was done with a key: out of which plans it was taken, and into which it was put.

    ``lost`` are plans of its home that it could not be put into. ``left`` says why it is not at the level that is
    wanted; empty if it is.
    """

    key: str
    out: tuple[str, ...] = ()
    into: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    left: str = ""


class Keys(Protocol):
    """What keys are closed by: :class:`PlanKeys`, or :class:`CallerKeys` where the API has none."""

    def bring(self, key: str, wanted: Wanted, home: Home | None, remember: Remember) -> Moved:
        """Bring a key to a level, and see that it is there."""


@dataclass(frozen=True, slots=True)
class CallerKeys:
    """Callers that are no API keys: an item says who is closed, which their API's authorizer reads.

    Of those who are ``elsewhere``, at an API that is none of this app's, nobody knows whether it does: all of them
    where this app's own API has API keys.
    """

    callers: GateList
    elsewhere: Callable[[str], bool] = is_caller

    def bring(self, key: str, wanted: Wanted, home: Home | None, remember: Remember) -> Moved:
        """Write a caller's item, or delete it; that it is closed is remembered first, as of a key with a home."""
        if wanted.level is Level.OPEN and home is None:
            return Moved(key)
        before = home or Home()
        after = msgspec.structs.replace(before, level=wanted.level, at=int(wanted.at.timestamp()))
        if wanted.level is Level.OPEN:
            self.callers.open_caller(key)
        if before.level is not wanted.level:
            remember(after)
        if wanted.level is not Level.OPEN:
            holding = [reason for reason in wanted.reasons if reason.level is wanted.level]
            until = 0 if any(not reason.until for reason in holding) else max(reason.until for reason in holding)
            since = min(reason.since for reason in holding)
            self.callers.close_caller(key, wanted.level, since=since, until=until, why=holding[0].name)
        return Moved(key, left=self._left(key, wanted.level))

    def _left(self, key: str, level: Level) -> str:
        match level:
            case Level.OPEN:
                return ""
            case Level.SLOWED:
                return NO_LANE_FOR_CALLERS
            case Level.STOPPED:
                return FOR_ITS_AUTHORIZER if self.elsewhere(key) else ""
            case _:
                assert_never(level)


@dataclass(slots=True)
class _Done:
    out: list[str] = field(default_factory=list)
    into: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Wish:
    """In which ``plans`` a key is to be, and where it belongs; ``level`` is what that comes to."""

    plans: frozenset[str]
    home: tuple[str, ...]
    level: Level
    left: str = ""


@dataclass(frozen=True, slots=True)
class PlanKeys:
    """Keys of API Gateway's, in its usage plans; ``callers`` are those of connected APIs, which are no API keys.

    None where there is no Access table to write them into.
    """

    plans: UsagePlans
    deployment: str
    callers: CallerKeys | None = None

    def bring(self, key: str, wanted: Wanted, home: Home | None, remember: Remember) -> Moved:
        """Bring a key to a level; a key that was never closed is left alone as long as none is wanted.

        Raises NotAsWantedError if it is not there after some attempts, and what API Gateway raises.
        """
        if is_caller(key):
            if self.callers is None:
                return Moved(key, left="" if wanted.level is Level.OPEN else NO_TABLE)
            return self.callers.bring(key, wanted, home, remember)
        if wanted.level is Level.OPEN and home is None:
            return Moved(key)
        before, done, at = home or Home(), _Done(), int(wanted.at.timestamp())
        for attempt in range(_ATTEMPTS):
            seen = self.plans.of(key)
            wish = self._wish(wanted.level, before, seen, done.lost, fresh=attempt > 0)
            before = self._remembered(wish, before, seen, at, remember)
            if wish.plans == {plan.id for plan in seen}:
                out, into = set(done.out) - set(done.into), set(done.into) - set(done.out)
                return Moved(key, tuple(sorted(out)), tuple(sorted(into)), tuple(done.lost), wish.left)
            self._move(key, wish, seen, done)
        raise NotAsWantedError(f"the key {key} is not in the usage plans that it was brought into: try again later")

    def _wish(self, level: Level, home: Home, seen: Sequence[UsagePlan], lost: Sequence[str], *, fresh: bool) -> _Wish:
        """Return where a key is to be that was ``seen`` in these plans.

        Of a key that is open, its home is where it is seen; one that is being closed may have left part of it.
        """
        if home.retired:
            return _Wish(frozenset(), (), Level.OPEN, "" if level is Level.OPEN else RETIRED)
        here = {plan.id for plan in seen if not plan.is_lane(self.deployment)}
        remembered = set(home.plans) if home.level is not Level.OPEN else set()
        plans = tuple(sorted((here | remembered) - {*lost}))
        match level:
            case Level.OPEN:
                left = f"it could not be put into {', '.join(lost)}" if lost else ""
                return _Wish(frozenset(plans), plans, level, left)
            case Level.SLOWED:
                return self._slowed(plans, seen, fresh=fresh)
            case Level.STOPPED:
                return _Wish(frozenset(), plans, level, "" if plans or seen else NO_PLAN)
            case _:
                assert_never(level)

    def _slowed(self, plans: tuple[str, ...], seen: Sequence[UsagePlan], *, fresh: bool) -> _Wish:
        if not plans and not seen:
            return _Wish(frozenset(), plans, Level.OPEN, NO_PLAN)
        known = {plan.id: plan for plan in (*self.plans.all(fresh=fresh), *seen)}
        if not known.keys() >= {*plans}:
            known |= {plan.id: plan for plan in self.plans.all(fresh=True)}
        stages = frozenset[str]().union(*(known[plan].stages for plan in plans if plan in known))
        if not stages:
            return _Wish(frozenset(plan.id for plan in seen), plans, Level.SLOWED, NO_STAGES)
        lanes = lanes_for(self.plans.lanes(self.deployment), stages)
        if lanes is None:
            return _Wish(frozenset(plans), plans, Level.OPEN, NO_LANE)
        return _Wish(frozenset(lane.id for lane in lanes), plans, Level.SLOWED)

    @staticmethod
    def _remembered(wish: _Wish, before: Home, seen: Sequence[UsagePlan], at: int, remember: Remember) -> Home:
        """Write where a key belongs: before it is closed, and that it is open once it was seen to be.

        Before a key is taken out that is written anew, also where it is known: whoever opens it at the same time then
        reads it again. Else a key could be out while it is written to be open, and where it belongs be forgotten.
        """
        is_there = wish.plans == {plan.id for plan in seen}
        if wish.level is Level.OPEN and not is_there:
            return before  # on its way back; what is remembered is still needed
        if is_there and before.level is wish.level and (wish.level is Level.OPEN or before.plans == wish.home):
            return before
        if not (wish.home or before.version):
            return before
        return remember(msgspec.structs.replace(before, plans=wish.home, level=wish.level, at=at))

    def _move(self, key: str, wish: _Wish, seen: Sequence[UsagePlan], done: _Done) -> None:
        """Take a key out, then put it in: API Gateway refuses a second plan of the same stage."""
        there = {plan.id for plan in seen}
        done.out += [plan for plan in sorted(there - wish.plans) if self.plans.take_out(plan, key)]
        for plan in sorted(wish.plans - there):
            match self.plans.put(plan, key):
                case Put.DONE:
                    done.into.append(plan)
                case Put.GONE if plan in wish.home:
                    done.lost.append(plan)
                case Put.IN_THE_WAY if plan in wish.home and self._is_taken(plan, seen, wish):
                    done.lost.append(plan)
                case _:
                    pass  # seen and tried again

    def _is_taken(self, plan: str, seen: Sequence[UsagePlan], wish: _Wish) -> bool:
        """Say whether another plan of the same stage has the key for good: somebody put it there."""
        stages = next((one.stages for one in self.plans.all(fresh=True) if one.id == plan), frozenset[str]())
        return any(one.id in wish.plans and one.stages & stages for one in seen)
