"""Looking exactly at one customer: what it used, how its limits stand by that, and what follows.

Only this decides anything. Whoever looks, and however often, comes to the same; dying anywhere is made good by the next
look, and two at once meet in the one conditional write by which a threshold acts::

    read ── decide ── gate asked ── state written ── gate asked, woken ── told ── no longer to be told
                          │               │                 │               │
    died after: the gate finds no reason  │  asked again at the next look   │  told again, by the same id
                           acted: it never acts again in its window
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import msgspec
from aws_lambda_powertools import Logger

from metering.limits.asking import Asking
from metering.limits.standing import NEVER, Running, Standing, prices_of
from metering.limits.telling import Reached, Teller, taken
from metering.limits.usage import MOST_SOURCES, Used, WindowReader
from metering.model.limits import SPEND, UNPAID, Applying, Level, LimitState, Reason, applying, level_by
from metering.model.periods import Hour
from metering.model.prices import Plan, limits_of
from metering.model.subjects import source_of_key
from metering.model.subscribed import is_unpaid
from metering.stores.gate_list import Asked
from metering.stores.limits import Gate, Held, LimitItems, OfOne
from metering.stores.table import RowChangedError

logger = Logger(child=True)

ATTEMPTS: Final = 5
"""How often a customer is looked at anew when its items change meanwhile."""

FAR: Final = 2
"""Whoever had used less than one part in so many of each step ahead is far from it,"""

FAR_FOR: Final = timedelta(minutes=55)
"""and for so long, its usage need not be read again: the stream tells of what takes it nearer."""

FORGOTTEN: Final = 5
"""So often, until it is looked at by a later round, those who read the stream forget what they have seen it use."""

SEEN_AGAIN: Final = timedelta(hours=1)
"""Keys that are closed are seen to be so each hour: somebody may have put them back, or a lane of theirs is gone."""

UNTOLD_BY_GATE: Final = timedelta(minutes=2)
"""A change at the gateway that is untold for longer is told by asking the gate again."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look came to.

    ``states`` and ``used`` are by limit's name, money in the subscription's smallest unit. ``left`` says by metric how
    many units may still be used until something acts or the level rises; a metric that nothing limits any more is not
    there. ``sources`` are those whose usage is the customer's now. ``rate`` is what is used in a second, in parts of a
    limit by a million. ``near`` says that something acts soon, in ``reach_s`` seconds at twice the recent pace. Where
    more is open than a look reads, it is not ``whole``: at least so much was used.
    """

    name: str
    applying: tuple[Applying, ...] = ()
    states: Mapping[str, LimitState] = field(default_factory=dict)
    reasons: tuple[Reason, ...] = ()
    level: Level = Level.OPEN
    left: Mapping[str, int] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    rate: int = 0
    used: Mapping[str, int] = field(default_factory=dict)
    near: bool = False
    reach_s: int = NEVER
    gate: Level = Level.OPEN
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Looker:
    """Looks at customers; ``plans`` are those declared. Errors of DynamoDB are raised as they are.

    Whoever has not paid for ``unpaid_days`` is closed; nobody, if that is None.
    """

    items: LimitItems
    reader: WindowReader
    asking: Asking
    teller: Teller
    plans: Sequence[Plan]
    unpaid_days: int | None = None

    def look(self, name: str, now: datetime) -> Looked:
        """Look at a customer, decide, write that down, ask the gate and tell whom it concerns.

        What changed meanwhile is looked at anew; raise RowChangedError if that goes on and on.
        """
        for _ in range(ATTEMPTS - 1):
            with suppress(RowChangedError):
                return self._look(self.items.of(name), now)
        return self._look(self.items.of(name), now)

    def look_in_round(self, name: str, now: datetime) -> Looked:
        """Look at a customer, but read no usage of one who was far from everything at a look not long ago.

        Which limits apply, and where their steps are, is read in any case: so edits, plans and windows that turn are
        found by each round.
        """
        one = self.items.of(name)
        with suppress(RowChangedError):
            return self._far(one, now) or self._look(one, now)
        return self.look(name, now)

    def _far(self, one: OfOne, now: datetime) -> Looked | None:
        """Return what is known of a customer who is far from everything; None if it is not.

        Of what it had left there is one part for each time that what it uses unseen is forgotten.

        Two units to read, where a look of one key is a dozen.
        """
        limits, prices = self._applying(one, now), prices_of(one.subscribed)
        running = [Running.of(limit, one, prices, now) for limit in limits]
        is_settled = (one.gate.level, one.gate.untold) == (Level.OPEN, ()) and self._held(one, now) == one.held == {}
        if not is_settled or one.states.keys() != {limit.name for limit in limits}:
            return None
        if not all(limit.is_far(now, FAR_FOR, FAR) and not _is_priced_anew(limit, one) for limit in running):
            return None
        keys, _ = self.reader.ledger.holders.first_keys_of(one.name, MOST_SOURCES)
        left = _least(limit.as_it_stood().left for limit in running)
        return Looked(
            one.name,
            tuple(limits),
            one.states,
            left={metric: units // FORGOTTEN for metric, units in left.items()},
            sources=tuple(sorted(map(source_of_key, keys))),
            used={limit.limit.name: limit.before.used for limit in running},
        )

    def _look(self, one: OfOne, now: datetime) -> Looked:
        standings, used = self._standings(one, now)
        after = {standing.running.limit.name: standing.after for standing in standings}
        left_over = {name: _let_go(state, now) for name, state in one.states.items() if name not in after}
        held = self._held(one, now)
        wanted = OfOne(one.name, states={**after, **left_over}, held=held)
        reasons = wanted.reasons(now)
        level, rate = level_by(reasons), max((standing.rate for standing in standings), default=0)
        asked = None
        if level != one.gate.level:
            asked = Asked(level, _since(wanted, level, reasons, now), rate)
        elif _is_to_be_seen_again(one.gate, reasons, now):
            asked = Asked(level, _s(now))  # keys are where they should be: no stop waits for this
        elif level is not Level.OPEN and one.gate.at + SEEN_AGAIN.total_seconds() <= _s(now):
            asked = Asked(Level.OPEN, _s(now))  # after all others
        if asked is not None:
            self.asking.ask(one.name, asked)
        self._save_held(one, held)
        states, reached = self._save(one, standings, left_over, now)
        if asked is not None:
            self.asking.ask(one.name, msgspec.structs.replace(asked, saved=True))
            self.asking.wake()
        self._tell(one, states, reached)
        return Looked(
            one.name,
            tuple(standing.running.limit for standing in standings),
            states,
            tuple(reasons),
            level,
            _least(standing.left for standing in standings),
            used.sources if used else (),
            rate,
            {standing.running.limit.name: standing.after.used for standing in standings},
            near=any(standing.is_near for standing in standings),
            reach_s=min((standing.reach_s for standing in standings), default=NEVER),
            gate=one.gate.level,
            whole=used.whole if used else True,
        )

    def _standings(self, one: OfOne, now: datetime) -> tuple[list[Standing], Used | None]:
        """Return how each limit that applies stands, and what was read for that."""
        limits = self._applying(one, now)
        if not limits:
            return [], None
        prices = prices_of(one.subscribed)
        running = [Running.of(limit, one, prices, now) for limit in limits]
        used = self.reader.read(one.name, min(limit.upto for limit in running), now)

        def stand(used: Used) -> list[Standing]:
            return [limit.stands(used, one.changes, now) for limit in running]

        standings = stand(used)
        if used.several and _differ(standings, stand(used.without_several())):
            used = self.reader.join(one.name, used)
            standings = stand(used)
        if not used.whole:
            logger.warning("a customer has more open hours, keys or claims than a look reads", customer=one.name)
        return standings, used

    def _applying(self, one: OfOne, now: datetime) -> list[Applying]:
        plans = one.subscribed.plans if one.subscribed is not None else ()
        return applying(limits_of(self.plans, plans), one.own, one.budget, now)

    def _held(self, one: OfOne, now: datetime) -> dict[str, Held]:
        """Return what is to be held by itself: as it is, but for whether the customer has paid."""
        held = dict(one.held)
        owes = self.unpaid_days is not None and is_unpaid(one.subscribed, self.unpaid_days, now)
        if owes and UNPAID not in held and one.subscribed is not None:
            held[UNPAID] = Held(_s(now), f"the subscription is {one.subscribed.status}")
        elif not owes:
            held.pop(UNPAID, None)
        return held

    def _save_held(self, one: OfOne, held: Mapping[str, Held]) -> None:
        """Write whether the customer has paid; a replay finds it so, since it is written as it was read."""
        if UNPAID in held and UNPAID not in one.held:
            self.items.hold(one.name, UNPAID, held[UNPAID])
        elif UNPAID in one.held and UNPAID not in held:
            self.items.release(one.name, UNPAID, one.held[UNPAID])

    def _save(
        self, one: OfOne, standings: Iterable[Standing], left_over: Mapping[str, LimitState], now: datetime
    ) -> tuple[dict[str, LimitState], list[Reached]]:
        """Write what is news, and return the states as they are then, and what is to be told by this look alone.

        Of a limit that applies no longer, what has acted is kept until its window ends: it may apply again.
        """
        states: dict[str, LimitState] = {}
        reached: list[Reached] = []
        for standing in standings:
            limit, after, window = standing.running.limit, standing.after, standing.running.window
            states[limit.name] = after
            untold = [Reached(limit, window, one_told) for one_told in after.untold if one_told.taken <= _s(now)]
            if untold or standing.is_news:
                states[limit.name] = self.items.save_state(one.name, limit.name, taken(after, now))
                reached += untold
        for name, after in left_over.items():
            if not after.acted or _is_over(after, now):
                self.items.forget_state(one.name, name, after)
            elif after != one.states[name]:
                self.items.save_state(one.name, name, after)
        return states, reached

    def _tell(self, one: OfOne, states: dict[str, LimitState], reached: Sequence[Reached]) -> None:
        """Tell what was reached; what was told is told no more, what was not is by a look two minutes later."""
        told, put = self.teller.tell(one, reached) if reached else ([], [])
        for name in {each.limit.name for each in put}:
            done, halfway = (
                {(each.told.step, each.told.at) for each in some if each.limit.name == name} for some in (told, put)
            )
            states[name] = self._told(one.name, name, states[name], done, halfway)

    def _told(
        self,
        name: str,
        limit: str,
        state: LimitState,
        done: Collection[tuple[str, int]],
        halfway: Collection[tuple[str, int]],
    ) -> LimitState:
        """Write that these steps are told, or their events put; another look may have written the state meanwhile."""
        for _ in range(ATTEMPTS):
            left = tuple(
                msgspec.structs.replace(told, put=told.put or (told.step, told.at) in halfway)
                for told in state.untold
                if (told.step, told.at) not in done
            )
            if left == state.untold:
                return state
            try:
                return self.items.save_state(name, limit, msgspec.structs.replace(state, untold=left))
            except RowChangedError:
                state = self.items.of(name).states.get(limit, LimitState())
        raise RowChangedError(f"{limit} of {name} kept changing while it was noted what is told")


def _is_priced_anew(limit: Running, one: OfOne) -> bool:
    """Say whether what was spent may cost something else by now: prices have been read since it was looked at."""
    if limit.limit.metric != SPEND or one.subscribed is None:
        return False
    return limit.before.looked <= one.subscribed.at


def _let_go(state: LimitState, now: datetime) -> LimitState:
    """Return a state of a limit that applies no longer: it asks for nothing, and tells nobody."""
    since = state.since if state.level is Level.OPEN else _s(now)
    untold = {told.step for told in state.untold}  # as if they had not acted: should it apply again, they are told then
    acted = {step: at for step, at in state.acted.items() if step not in untold}
    return msgspec.structs.replace(state, acted=acted, level=Level.OPEN, since=since, untold=())


def _is_over(state: LimitState, now: datetime) -> bool:
    return state.end <= str(Hour.containing(now))


def _differ(several: Sequence[Standing], others: Sequence[Standing]) -> bool:
    """Say whether another step is reached."""
    return any(
        (one.after.level, one.after.acted) != (other.after.level, other.after.acted)
        for one, other in zip(several, others, strict=True)
    )


def _is_to_be_seen_again(gate: Gate, reasons: Iterable[Reason], now: datetime) -> bool:
    """Say whether the gate is to look at keys that are where they should be.

    What it did may be untold; and keys may be closed for other reasons than it has written, which end at another
    moment: authorizers read of a caller until when it is closed.
    """
    if gate.untold and gate.at + UNTOLD_BY_GATE.total_seconds() <= _s(now):
        return True
    return {*gate.reasons} != {reason.name for reason in reasons}


def _since(one: OfOne, level: Level, reasons: Iterable[Reason], now: datetime) -> int:
    """Return since when a level is wanted: the same at each look, so that it shows how long the gate takes."""
    if level:
        return min(reason.since for reason in reasons if reason.level == level)
    return max((state.since for state in one.states.values()), default=_s(now))


def _least(several: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the least of each metric."""
    least: dict[str, int] = {}
    for left in several:
        for metric, units in left.items():
            least[metric] = min(units, least.get(metric, units))
    return least


def _s(now: datetime) -> int:
    return int(now.timestamp())
