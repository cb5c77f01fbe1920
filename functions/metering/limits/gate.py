"""The gate: brings customers' keys to the level that their reasons ask for, one customer after the other.

```
read why keys are to be closed ──▶ bring each key ──▶ read again: still so? ──▶ write how it stands, tell, done
              ▲                                                  │ no
              └──────────────────────────────────────────────────┘
```

What is asked for stands in a list, and is taken off only when all of it was seen done, so that a worker may die
anywhere. Two at once, which a lease mostly prevents, do the same twice; whoever acts last reads the reasons after it.
Operators' commands bring customers by the same verbs, and leave what was asked for to the worker to see and to tell.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import msgspec
from aws_lambda_powertools import Logger

from metering.limits.keys import Keys, Moved, NotAsWantedError, Wanted
from metering.limits.usage_plans import UnavailableError
from metering.model.limits import OPERATOR, Level, Reason, level_by
from metering.model.periods import Hour
from metering.stores.gate_list import Asked, Closed, GateList
from metering.stores.holders import Holders
from metering.stores.limits import Gate as Stands
from metering.stores.limits import Home, LimitItems, OfOne
from metering.stores.table import TABLE_ERRORS, RowChangedError

logger = Logger(child=True)

_ROUNDS: Final = 5
_LEASE: Final = timedelta(seconds=60)
_LOOK_AGAIN: Final = timedelta(seconds=2)
_TELL_AGAIN: Final = timedelta(minutes=1)

_MOST_UNDER_WAY: Final = 8
"""Customers with so many keys that others are brought in between."""

Tell = Callable[[str, Sequence[Reason], Stands], bool]
"""Tells of a customer what is ``untold`` of how it stands, for reasons that hold now; says whether all of it is."""


class UnsettledError(Exception):
    """Why a customer's keys are closed kept changing while they were brought there."""


class OverError(Exception):
    """The time is over: what is left is for the next run."""


class ElsewhereError(Exception):
    """Somebody else has the lease."""


_OF_ONE: Final = (
    *TABLE_ERRORS,
    ExceptionGroup,
    NotAsWantedError,
    UnavailableError,
    UnsettledError,
    msgspec.MsgspecError,
    ValueError,
    LookupError,
)
"""What may be wrong with one customer, and is none of the others' concern (I6)."""


def _go_on() -> None:
    """Go on however long it takes."""


def reasons_of_one(limits: LimitItems, name: str, now: datetime) -> list[Reason]:
    """Return why a customer's keys are to be closed now, also where an earlier version suspended it."""
    reasons = limits.of(name).reasons(now)
    if limits.former(name) and OPERATOR not in {reason.name for reason in reasons}:
        reasons.append(Reason(OPERATOR, Level.STOPPED, int(now.timestamp())))
    return sorted(reasons)


@dataclass(frozen=True, slots=True)
class Brought:
    """Where a customer's keys were brought, why, and what was done with each; ``until`` one of them changes hands."""

    level: Level
    reasons: tuple[Reason, ...]
    moved: tuple[Moved, ...]
    stands: Stands
    until: Hour | None


@dataclass(slots=True)
class Ran:
    """What a run of the worker did. ``left`` customers wait for the next one, ``failed`` are tried again then, too."""

    brought: int = 0
    left: int = 0
    failed: dict[str, Exception] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Held:
    """The keys that a customer holds, and when the next of them changes hands; None if that is not known of any."""

    keys: tuple[str, ...]
    until: Hour | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """The verbs. ``asked`` is None where a deployment has no limits, or no more: then the operator's reason is all."""

    limits: LimitItems
    holders: Holders
    keys: Keys
    clock: Callable[[], datetime]
    asked: GateList | None = None
    tell: Tell | None = None

    def reasons(self, name: str) -> list[Reason]:
        """Return why a customer's keys are to be closed now."""
        return reasons_of_one(self.limits, name, self.clock())

    def ask(self, name: str, level: Level | None = None, *, saved: bool = False) -> None:
        """Ask the worker to look at a customer, for a level, or that which its reasons ask for now.

        Before something is changed by which keys are closed or opened, so that whoever dies then is made good, and
        when it is ``saved``, in case the worker was faster.
        """
        if self.asked is not None:
            level = level_by(self.reasons(name)) if level is None else level
            self.asked.ask(name, Asked(level, int(self.clock().timestamp()), saved=saved))

    def adopt(self, name: str) -> None:
        """Take over what an earlier version wrote of a customer's suspended keys."""
        for key, home in self.limits.former(name).items():
            self.limits.adopt(name, key, home, at=int(self.clock().timestamp()))

    def bring(self, name: str, going_on: Callable[[], None] = _go_on) -> Brought:
        """Bring the keys that a customer holds now to the level that its reasons ask for, and see them there.

        ``going_on`` is called before each key, and may raise. What fails for a key is raised when the others are done;
        whatever is raised, the same again makes it good.
        """
        moved: dict[str, list[Moved]] = {}
        ours: dict[str, tuple[str, ...]] = {}
        for _ in range(_ROUNDS):
            with suppress(RowChangedError):  # somebody else is at it: read again, and decide again
                self.adopt(name)
                before = self.limits.of(name)
                wanted = self._wanted(before)
                held = self._held(name, wanted.at)
                for one in self._bring(before, wanted, held, ours, going_on):
                    moved.setdefault(one.key, []).append(one)
                after = self.limits.of(name)
                still = self._wanted(after)
                if still.level is wanted.level and self._held(name, still.at) == held:
                    stands = self._save(after, still, [moved[key][-1] for key in held.keys])
                    done = tuple(map(_together, moved.values()))
                    return Brought(still.level, still.reasons, done, stands, held.until)
        raise UnsettledError(
            f"why the keys of {name} are closed kept changing while they were brought there: try again"
        )

    def run(self, holder: str, until: datetime) -> Ran:
        """Bring whoever is asked for, stops first, until nothing is left or the time is over.

        Nobody else does so meanwhile, by a lease that the ``holder`` keeps; without it nothing is done. It is looked at
        again whether somebody was asked for after the lease was given back: whoever was woken meanwhile did nothing.
        """
        ran = Ran()

        def going_on() -> None:
            now = self.clock()
            if now >= until:
                raise OverError
            if not self._list.lease(holder, now=now, until=now + _LEASE):
                raise ElsewhereError

        try:
            while True:
                going_on()
                self._bring_each(ran, going_on)
                self._list.give_back(holder)
                if not self._due().keys() - ran.failed.keys():
                    return ran
        except OverError:
            self._list.give_back(holder)
            ran.left = len(self._due())
        except ElsewhereError:
            pass  # whoever has the lease sees all that is asked for
        return ran

    @property
    def _list(self) -> GateList:
        if self.asked is None:
            raise ValueError("a worker needs the list of whom the gate is asked for")
        return self.asked

    def _bring_each(self, ran: Ran, going_on: Callable[[], None], under_way: Mapping[str, Asked] | None = None) -> None:
        """Bring one after the other; those that fail once more when all others are done.

        While others are ``under_way``, whoever is not to be closed less than they are.
        """
        under_way = under_way or {}
        level = max((asked.level for asked in under_way.values()), default=Level.OPEN)
        looked, due = self.clock(), self._due()
        while names := [name for name in due if due[name].level >= level and name not in {*ran.failed, *under_way}]:
            going_on()
            self._try(names[0], due.pop(names[0]), going_on, ran, under_way)
            if len(names) == 1 or self.clock() - looked >= _LOOK_AGAIN:
                looked, due = self.clock(), self._due()  # who is to be stopped since then comes first
        if under_way:
            return
        for name in [*ran.failed]:
            if asked := self._due().get(name):
                going_on()
                self._try(name, asked, going_on, ran, under_way)

    def _try(
        self, name: str, asked: Asked, going_on: Callable[[], None], ran: Ran, under_way: Mapping[str, Asked]
    ) -> None:
        """Bring a customer; between its keys, if they take long, bring others (I6)."""
        looked = self.clock()

        def go_on() -> None:
            nonlocal looked
            going_on()
            if self.clock() - looked >= _LOOK_AGAIN and len(under_way) < _MOST_UNDER_WAY:
                self._bring_each(ran, going_on, {**under_way, name: asked})
                looked = self.clock()

        try:
            brought = self.bring(name, go_on)
            is_told = self._tell(name, brought)
            self._list.done(name, asked, _later(brought.until) if is_told else self._soon())
        except _OF_ONE as error:
            logger.exception("customer not brought", customer=name)
            ran.failed[name] = error
            return
        ran.failed.pop(name, None)
        ran.brought += 1

    def _soon(self) -> Asked:
        """Return how to be asked again to tell what was not told: keys are as they should be, which is no stop."""
        after = int((self.clock() + _TELL_AGAIN).timestamp())
        return Asked(Level.OPEN, after, after=after)

    def _due(self) -> dict[str, Asked]:
        now = self.clock().timestamp()
        return {name: asked for name, asked in self._list.asked().items() if asked.after <= now}

    def _wanted(self, one: OfOne) -> Wanted:
        now = self.clock()
        reasons = tuple(reason for reason in one.reasons(now) if self.asked is not None or reason.name == OPERATOR)
        return Wanted(level_by(reasons), reasons, now)

    def _held(self, name: str, now: datetime) -> _Held:
        hour = Hour.containing(now)
        ever = self.holders.of_keys(sorted(self.holders.keys_of(name)))
        held = [key for key, holding in ever.items() if (holder := holding.at(hour)) and holder.customer == name]
        changes = [holder.since for holding in ever.values() for holder in holding.holders if holder.since > hour]
        return _Held(tuple(held), min(changes, default=None))

    def _bring(
        self,
        one: OfOne,
        wanted: Wanted,
        held: _Held,
        ours: dict[str, tuple[str, ...]],
        going_on: Callable[[], None],
    ) -> list[Moved]:
        """Bring each key, whichever fails, and return what was done; raise afterwards what failed.

        ``ours`` are the homes of keys that were closed in this call, also of those that somebody opened meanwhile: what
        was taken out after that is put back by it.
        """
        closed = self.asked.closed_of(one.name) if self.asked else None
        if closed is not None and (others := closed.homes.keys() - {*held.keys}):
            self._give_back(one.name, {key: closed.homes[key] for key in sorted(others)}, wanted.at)
        homes = self.limits.homes(held.keys) if held.keys else {}
        homes = _with_those(_with_those(homes, closed.homes if closed else {}), ours)
        known = {key: home.plans for key in held.keys if (home := homes.get(key)) and home.level is not Level.OPEN}
        closed = self._note_closed(one.name, wanted, closed, known)
        moved, failures = [], []
        for key in held.keys:

            def remember(home: Home, key: str = key) -> Home:
                nonlocal closed
                saved = self.limits.save_home(key, home)
                if saved.level is not Level.OPEN:
                    known[key] = ours[key] = saved.plans
                    closed = self._note_closed(one.name, wanted, closed, known)
                return saved

            going_on()
            try:
                moved.append(self.keys.bring(key, wanted, homes.get(key), remember))
            except (*TABLE_ERRORS, NotAsWantedError, UnavailableError) as error:
                failures.append(error)
        if failures:
            raise ExceptionGroup(f"keys of {one.name} could not be brought", failures)
        if wanted.level is Level.OPEN and closed is not None and self.asked is not None:
            # Before the reasons are read again: who closes it at this moment writes it after that, or is seen then.
            self.asked.drop_closed(one.name)
        return moved

    def _give_back(self, name: str, plans: Mapping[str, tuple[str, ...]], now: datetime) -> None:
        """Ask for whoever has keys now that were closed as a customer's: an hour's turn has handed them over by itself.

        If the ledger was restored to a moment before they were its own, it knows nothing of where they belong, and what
        is noted of it here is about to be written anew without them: so it is written there first.
        """
        written, holdings = self.limits.homes(plans), self.holders.of_keys(plans)
        for key, home in _with_those(written, plans).items():
            if home != written.get(key):
                self.limits.save_home(key, home)
            holder = holdings[key].at(Hour.containing(now))
            if holder is not None and holder.customer not in ("", name):
                self.ask(holder.customer)

    def _note_closed(
        self, name: str, wanted: Wanted, before: Closed | None, homes: Mapping[str, tuple[str, ...]]
    ) -> Closed | None:
        """Write that a customer is closed, and a second time where its keys belong, before they are taken there."""
        if self.asked is None or wanted.level is Level.OPEN:
            return before
        until = min((reason.until for reason in wanted.reasons if reason.until), default=0)
        same = before is not None and before.level is wanted.level
        at = before.at if before is not None and same else int(wanted.at.timestamp())
        after = Closed(wanted.level, at, until, dict(homes))
        if after != before:
            self.asked.put_closed(name, after)
        return after

    def _save(self, one: OfOne, wanted: Wanted, moved: Sequence[Moved]) -> Stands:
        """Write how a customer's keys stand; a level that is felt anew is to be told."""
        before = one.gate
        after = msgspec.structs.replace(
            before,
            level=wanted.level,
            reasons=tuple(reason.name for reason in wanted.reasons),
            keys=len(moved),
            left={each.key: each.left for each in moved if each.left},
        )
        if before.felt is not after.felt:
            number = before.changes + 1
            told = f"{number}:{before.felt.name.lower()}:{after.felt.name.lower()}"
            after = msgspec.structs.replace(after, changes=number, untold=(*before.untold, told))
        # Also where nothing changed: whoever has brought it elsewhere, from what was before, is refused by that.
        return self.limits.save_gate(one.name, msgspec.structs.replace(after, at=int(wanted.at.timestamp())))

    def _tell(self, name: str, brought: Brought) -> bool:
        """Tell what is to be told, then write that it was; say whether all is.

        Whoever dies in between tells it again, by the same id.
        """
        if self.tell is None or not brought.stands.untold:
            return True
        if not self.tell(name, brought.reasons, brought.stands):
            return False
        with suppress(RowChangedError):  # somebody changed it meanwhile, and tells what is left, some of it again
            self.limits.save_gate(name, msgspec.structs.replace(brought.stands, untold=()))
        return True


def _later(hour: Hour | None) -> Asked | None:
    """Return how to be asked again when a key changes hands: by itself the hour's turn moves no key."""
    if hour is None:
        return None
    begin = int(hour.start.timestamp())
    return Asked(Level.OPEN, begin, after=begin)


def _with_those(homes: Mapping[str, Home], plans: Mapping[str, tuple[str, ...]]) -> dict[str, Home]:
    """Return where keys belong, those that are known elsewhere to be closed as well.

    The ledger may know nothing of it, if it was restored to an earlier moment, or say that a key is open by now.
    """
    closed = {
        key: msgspec.structs.replace(home, plans=theirs, level=Level.STOPPED)
        for key, theirs in plans.items()
        if (home := homes.get(key, Home())).level is Level.OPEN and not home.retired
    }
    return {**homes, **closed}


def _together(moved: Sequence[Moved]) -> Moved:
    """Return what several rounds did with a key, as one."""
    out = {plan for one in moved for plan in one.out}
    into = {plan for one in moved for plan in one.into}
    last = moved[-1]
    return Moved(last.key, tuple(sorted(out - into)), tuple(sorted(into - out)), last.lost, last.left)
