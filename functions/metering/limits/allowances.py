"""Allowances: how much of each source a process may see used before somebody has to look at its customer. Pure.

It is a part of what an exact look found left, so small that nothing passes a threshold unnoticed, whichever of a
customer's sources brings it and whichever process sees it::

    allowance = left ÷ (2 · processes · sources)

*Sources*, since each gets one. *Processes*, since each that sees a source has one of its own: whichever is free gets
the next batch. *Two*, since a look here may be older than one elsewhere: who has less than half of what the list of who
is near says is entered there anew, and whoever looked before that has to look again. So all that is used unseen is less
than half of what the list says, and that is no more than what is left.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from metering.stores.gate_list import Near

PROCESSES: Final = 4
"""How many processes may see a source's records in turn: a new table has four shards, each has one batch at a time, and
nothing says which process gets it (Lambda Developer Guide, "Using Lambda with DynamoDB")."""

FALLEN: Final = 2

REMEMBERED_S: Final = 15 * 60
MOST_SOURCES: Final = 100_000
"""Sources that are remembered, of 450 bytes or so each; beyond them, the one seen longest ago is new again."""

_HOUR_S: Final = 3600


@dataclass(slots=True)
class _Allowance:
    """What may still be used of a source, by metric; any amount of other metrics.

    ``customer`` is whose it was found to be: empty where it is nobody's, None where nobody looked. ``at`` is when that
    was, and ``until`` when it is forgotten, in seconds since 1970.
    """

    left: dict[str, int]
    customer: str | None
    at: int
    until: int


@dataclass(slots=True)
class Allowances:
    """Those of one process, which may forget any of them at any time. Moments are in seconds since 1970.

    ``limited`` are the metrics of declared limits. As long as no round has met anybody whom one of them limits, as in a
    new deployment, nothing is known of what strangers have left of it: their first usage calls for a look.
    """

    limited: frozenset[str] = frozenset()

    near: dict[str, Near] = field(default_factory=dict)
    """Who is near, as this process read it last."""

    _by_source: dict[str, _Allowance] = field(default_factory=dict, repr=False)
    """Whichever was seen last is at the end."""

    _near_by_source: dict[str, str] = field(default_factory=dict, repr=False)
    _jump: dict[str, int] = field(default_factory=dict)
    _jump_at: int = 0

    def learn(self, near: Mapping[str, Near], jump: Mapping[str, int], now: int) -> None:
        """Take in who is near, and the least that any source of anybody else has left, by metric."""
        self.near = dict(near)
        self._near_by_source = {source: name for name, one in near.items() for source in one.sources}
        if self._jump != jump:
            self._jump, self._jump_at = dict(jump), now

    def enter(self, name: str, near: Near) -> None:
        """Take in that a customer is near."""
        self.near[name] = near
        self._near_by_source |= dict.fromkeys(near.sources, name)

    def is_spent(self, source: str, amounts: Mapping[str, int], now: int) -> bool:
        """Take off what was added to a source, and say whether its customer is to be looked at."""
        allowance = self._by_source.pop(source, None)
        if allowance is not None and allowance.until <= now:
            allowance = None
        name = self._near_by_source.get(source)
        if name and (allowance is None or allowance.customer != name or allowance.at < self.near[name].at):
            return True  # somebody looked who knows more
        if allowance is None or (allowance.customer is None and allowance.at < self._jump_at):
            if (amounts.keys() & self.limited) - self._jump.keys():
                return True
            before = allowance.left if allowance else {}
            free = {metric: min(_part(most), before.get(metric, most)) for metric, most in self._jump.items()}
            allowance = _Allowance(free, None, now, _end(now))
        for metric in allowance.left.keys() & amounts.keys():
            allowance.left[metric] -= amounts[metric]
        self._keep(source, allowance)
        return any(allowance.left[metric] <= 0 for metric in allowance.left.keys() & amounts.keys())

    def customer_of(self, source: str) -> str | None:
        """Return whose a source is known to be; None if that is not known."""
        allowance = self._by_source.get(source)
        return self._near_by_source.get(source) or (allowance.customer if allowance else None)

    def is_to_be_entered(self, name: str, left: Mapping[str, int]) -> bool:
        """Say whether the list of who is near says too much of a customer that has so much left, or too little."""
        listed = self.near[name].left if name in self.near else {}
        return listed.keys() != left.keys() or any(
            not listed[metric] <= FALLEN * left[metric] <= FALLEN * listed[metric] for metric in left
        )

    def allow(self, name: str, left: Mapping[str, int], sources: Iterable[str], now: int) -> bool:
        """Take in what a customer has left, in whole, and by which sources; say whether none may be used unseen."""
        of_it = [*sources]
        parts = {metric: _part(whole, max(1, len(of_it))) for metric, whole in left.items()}
        for source in of_it:
            self._keep(source, _Allowance(dict(parts), name, now, _end(now)))
        return not all(parts.values())

    def _keep(self, source: str, allowance: _Allowance) -> None:
        self._by_source.pop(source, None)
        while len(self._by_source) >= MOST_SOURCES:
            del self._by_source[next(iter(self._by_source))]
        self._by_source[source] = allowance


def _part(whole: int, sources: int = 1) -> int:
    return whole // (FALLEN * PROCESSES * sources)


def _end(now: int) -> int:
    """Return when what is found now is forgotten: with the hour at the latest.

    With it windows turn, and keys change hands.
    """
    return min(now + REMEMBERED_S, now - now % _HOUR_S + _HOUR_S)
