"""Sweeping, each minute: whoever is asked for, near or closed is looked at, and in rounds everyone else.

So nothing depends on the stream: lost records, windows that turn, late records, adjustments, and limits or plans that
changed are found by the next look. A minute's work is bounded by its deadline, and what does not fit is done first::

    asked for ──▶ whose reason has ended ──▶ near ──▶ closed ──▶ a round through all, 500 at a time, shared by several

A group is taken by a conditional write and then looked at, whole. Who dies in it leaves it to the next round.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from random import sample
from typing import Final

import msgspec
from aws_lambda_powertools import Logger

from metering.limits.looking import Looked, Looker
from metering.limits.nearness import Nearness
from metering.model.limits import Level
from metering.stores.aws import in_pieces, side_by_side
from metering.stores.gate_list import Asked, Closed, GateList, Sweep
from metering.stores.holders import Holders
from metering.stores.table import TABLE_ERRORS, RowChangedError, TooMuchError

logger = Logger(child=True)

FAILURES: Final = (*TABLE_ERRORS, RowChangedError, TooMuchError, msgspec.MsgspecError, ValueError, LookupError)
"""What the look at one customer may raise; it keeps nobody else from being looked at (I6)."""

ROUND: Final = timedelta(minutes=15)
"""How often a round through all customers begins."""

GROUP: Final = 500
"""Customers that a sweeper takes at once."""

PER_MINUTE: Final = 2_000
"""Customers that one sweeper looks at in a minute (functions/metering/README.md says how that was measured)."""

MOST_HELP: Final = 3
"""So many more sweepers are started at once."""

MOST_ASKED: Final = 1_000
"""Customers whom the gate is asked for that are looked at each minute, at most: it has them on its list already."""

MOST_CLOSED: Final = 5_000
"""Closed customers that are looked at each minute, at most; others in their round."""

UNENFORCED_AFTER: Final = timedelta(minutes=1)

_NOT_LISTED: Final = Closed(Level.OPEN, 0)

_AT_ONCE: Final = 64
"""Customers that are looked at between two looks at the clock."""

_TRIES: Final = 20


@dataclass(slots=True)
class Swept:
    """What a sweep did: ``unenforced_s`` is for how many seconds the oldest stop has waited for the gate, if long."""

    looked: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    unenforced_s: int = 0


@dataclass(slots=True)
class Sweeper:
    """Sweeps until ``deadline``; ``clock`` gives the present moment. Errors that concern all are raised as they are."""

    looker: Looker
    gate: GateList
    holders: Holders
    clock: Callable[[], datetime]
    deadline: datetime
    nearness: Nearness = field(init=False)

    def __post_init__(self) -> None:
        self.nearness = Nearness(self.gate)

    def sweep(self) -> Swept:
        """Look at whoever is asked for, near or closed, then go on with the round."""
        swept, asked, now = Swept(), self.gate.asked(), self.clock().timestamp()
        self._look_at_asked(asked, swept)
        ended = {name: one for name, one in self._closed() if 0 < one.until <= now and name not in asked}
        self._look_at_closed(ended, swept)
        self._look_at(self.nearness.near.keys() - swept.looked, swept)
        self.nearness.move_head()
        self._look_at_closed({name: one for name, one in self._closed() if name not in ended}, swept)
        self._go_round(swept)
        return swept

    def help(self) -> Swept:
        """Go on with the round that another sweeper is at."""
        swept = Swept()
        self._go_round(swept)
        return swept

    def look(self, names: Iterable[str]) -> Swept:
        """Look at these customers."""
        swept = Swept()
        self._look_at([*names], swept)
        self.nearness.lower()
        self.nearness.move_head()
        return swept

    def wanted_help(self) -> int:
        """Return how many more sweepers the round is to have: as many as the round before had minutes of work."""
        sweep = self.gate.sweep()
        return min(MOST_HELP, sweep.customers // PER_MINUTE) if self._is_going(sweep) else 0

    def _look_at_asked(self, asked: Mapping[str, Asked], swept: Swept) -> None:
        now = int(self.clock().timestamp())
        if asked:
            self.looker.asking.wake()
        waited = max((now - one.at for one in asked.values() if one.level is Level.STOPPED), default=0)
        swept.unenforced_s = waited if waited > UNENFORCED_AFTER.total_seconds() else 0
        self._look_at([*asked][:MOST_ASKED], swept)

    def _closed(self) -> Iterator[tuple[str, Closed]]:
        return islice(self.gate.closed(), MOST_CLOSED)

    def _look_at_closed(self, closed: Mapping[str, Closed], swept: Swept) -> None:
        """Look at who is closed, in any order: what does not fit into a minute is not the same each time."""
        for some in in_pieces(sample([*closed], len(closed)), _AT_ONCE):
            if self._is_late():
                return
            for looked in self._look_at(some, swept):
                self._ask_again(looked, closed[looked.name])

    def _ask_again(self, looked: Looked, closed: Closed) -> None:
        """Ask the gate to look at a customer whom the ledger has forgotten to be closed, or not to be.

        So also if it is closed until another moment than is written, which authorizers go by.
        """
        until = min((reason.until for reason in looked.reasons if reason.until), default=0)
        if looked.level == looked.gate and (looked.level, until) != (closed.level, closed.until):
            self.gate.ask(looked.name, Asked(looked.level, int(self.clock().timestamp()), saved=True))
            self.looker.asking.wake()

    def _go_round(self, swept: Swept) -> None:
        while not self._is_late() and (names := self._take_group()):
            looked = self._look_at([name for name in names if name not in swept.looked], swept, in_round=True)
            if to_be_closed := [one for one in looked if one.level is not Level.OPEN]:
                listed = dict(self.gate.closed())
                for one in to_be_closed:
                    self._ask_again(one, listed.get(one.name, _NOT_LISTED))
            self.nearness.lower()
        self.nearness.move_head()

    def _take_group(self) -> list[str]:
        """Take the next group of the round, which begins if it is time; empty if nothing is to be done."""
        for _ in range(_TRIES):
            sweep = self.gate.sweep()
            if not self._is_going(sweep):
                return []
            if not sweep.name:
                sweep = Sweep(
                    begun=int(self.clock().timestamp()),
                    customers=sweep.customers,
                    before=sweep.jump,
                    version=sweep.version,
                )
            names = [*self.holders.customer_ids(sweep.name, most=GROUP)]
            looked = sweep.looked + len(names)
            after = msgspec.structs.replace(sweep, name=names[-1] if len(names) == GROUP else "", looked=looked)
            if not after.name:
                after = msgspec.structs.replace(after, customers=looked)
            with suppress(RowChangedError):
                self.gate.save_sweep(after)
                return names
        return []

    def _is_going(self, sweep: Sweep) -> bool:
        """Say whether a round is under way, or is to begin."""
        return bool(sweep.name) or sweep.begun + ROUND.total_seconds() <= self.clock().timestamp()

    def _look_at(self, names: Collection[str], swept: Swept, *, in_round: bool = False) -> list[Looked]:
        """Look at customers, as many as the time allows or the whole group of a round, and note who is near."""
        look = self.looker.look_in_round if in_round else self.looker.look
        looked: list[Looked] = []
        for some in in_pieces([*names], _AT_ONCE):
            if self._is_late() and not in_round:
                break
            now = self.clock()
            for name, answer in zip(some, side_by_side(partial(self._attempt, look, now), some), strict=True):
                swept.looked.add(name)
                if answer is None:
                    swept.failed.append(name)
                else:
                    self.nearness.note(answer, now)
                    looked.append(answer)
        return looked

    def _attempt(self, look: Callable[[str, datetime], Looked], now: datetime, name: str) -> Looked | None:
        try:
            return look(name, now)
        except FAILURES:
            logger.exception("a customer could not be looked at", customer=name)
            return None

    def _is_late(self) -> bool:
        return self.clock() >= self.deadline
