"""Forgetting a key that was given by mistake, such as its value in the place of its id (I8).

Everywhere it stands, as far as nothing was used by it: what is billed keeps its key (I5). What closes keys notes it
beside its customers, so that is first; then who holds it, all of it or nothing; what is found by the key alone is last.
So a command that dies is made good by the same command again. That another key has taken its place stays noted under
its id: it may have been replaced since it had leaked.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

import msgspec

from infra.operate.access_notes import AccessNotes
from infra.operate.deployment import Deployment, OperatorError
from infra.operate.keys import masked_key, used_in
from metering.limits.usage_plans import looks_like_value
from metering.model.limits import Level
from metering.model.periods import Hour
from metering.model.subjects import is_id, source_of_key
from metering.stores.counters import Counters
from metering.stores.gate_list import GateList
from metering.stores.holders import Holding
from metering.stores.ledger import Ledger
from metering.stores.limits import LimitItems
from metering.stores.mistakes import Mistakes
from metering.stores.table import RowChangedError

T = TypeVar("T")

_CUT: Final = ("...", "\u2026")
_LEAST_SHOWN: Final = 4

_NOT_CLOSED_YET: Final = 24
"""Hours of which counters are looked at. What was counted before, while no hour was closed for a day, is held as a
key's that nobody has, which ``doctor`` tells."""


@dataclass(frozen=True, slots=True)
class Forgetting:
    """The verb, on a deployment. ``asked`` is None where there are no limits."""

    ledger: Ledger
    counters: Counters
    limits: LimitItems
    notes: AccessNotes
    mistakes: Mistakes
    asked: GateList | None = None

    @classmethod
    def of(cls, deployment: Deployment) -> "Forgetting":
        """Return that of a deployment."""
        dynamodb, outputs = deployment.client("dynamodb"), deployment.outputs
        return cls(
            deployment.ledger,
            deployment.counters,
            LimitItems(dynamodb, outputs.ledger_table),
            AccessNotes(dynamodb, outputs.ledger_table),
            Mistakes(dynamodb, outputs.ledger_table),
            GateList(dynamodb, outputs.access_table) if outputs.access_table else None,
        )

    def forget(self, given: str, *, now: datetime) -> list[str]:
        """Forget a key, which may be given by how a value begins, ``09f3...``; say what was done.

        Raises OperatorError if there is usage of it, or it is closed or being replaced just now.
        """
        name = self._meant(given)
        holding = self.ledger.holders.of_keys([name])[name]
        if refusal := self.refusal(holding, now):
            raise OperatorError(f"the key {masked_key(name)} cannot be forgotten: {refusal}")
        try:
            return self._forget(holding)
        except RowChangedError as error:
            raise OperatorError(
                f"the key {masked_key(name)} was changed by somebody else just now: try again"
            ) from error

    def _forget(self, holding: Holding) -> list[str]:
        name, said = holding.key, []
        for customer in _customers(holding):
            gate = self.limits.of(customer).gate
            if name in gate.left:
                self.limits.save_gate(customer, msgspec.structs.replace(gate, left=_without(gate.left, name)))
            closed = self.asked.closed_of(customer) if self.asked else None
            if self.asked and closed and name in closed.homes:
                self.asked.put_closed(customer, msgspec.structs.replace(closed, homes=_without(closed.homes, name)))
        if holding.version or self.ledger.holders.is_listed(name):
            self.mistakes.forget_key(holding)
            said.append(f"key {masked_key(name)} is forgotten")
        if self.asked:
            self.asked.open_caller(name)
        home = self.limits.homes([name]).get(name)
        if home and (not home.retired or looks_like_value(name)):  # else 'keys create' would find and open it again
            self.limits.forget_home(name, home)
        return said

    def _meant(self, given: str) -> str:
        """Return the key that is given as it is, or by how it begins, so that a value need not be written again."""
        beginning = given.removesuffix(_CUT[0]).removesuffix(_CUT[1])
        if beginning == given:
            if not is_id(given):
                raise OperatorError(f"there can be no key {masked_key(given)!r}")
            return given
        if len(beginning) < _LEAST_SHOWN:
            raise OperatorError(f"say at least {_LEAST_SHOWN} characters of how the value begins, got {given!r}")
        keys = self.ledger.holders.key_ids()
        begin_so = [name for name in keys if name.startswith(beginning) and looks_like_value(name)]
        if len(begin_so) != 1:
            raise OperatorError(f"{len(begin_so)} stored values of keys begin with {beginning!r}: give more of it")
        return begin_so[0]

    def refusal(self, holding: Holding, now: datetime) -> str:
        """Say why a key cannot be forgotten; empty if it can."""
        name = holding.key
        used = used_in(self.ledger, holding) or self.counted_in(source_of_key(name), now)
        if used is not None:
            return (
                f"it was used in {used}, and what was counted keeps its key. 'metering keys exclude' with --from, or "
                "'customers add' of another customer, changes who is billed from then on"
            )
        for customer in _customers(holding):
            if any(name in (one.old, one.new) for one in self.notes.rotations(customer)):
                return f"it is being replaced: 'metering customers rotate-key {customer} --finish' ends that"
            if name in self.limits.former(customer):
                return f"{customer} is suspended: 'metering customers resume {customer}' opens it"
        home = self.limits.homes([name]).get(name)
        if home and home.plans and home.level is not Level.OPEN:
            return f"it is closed, and would go back into {', '.join(home.plans)}: open its customer's keys first"
        return ""

    def counted_in(self, source: str, now: datetime) -> Hour | None:
        """Return an hour of the last day in which a source was counted, whose row may not be written yet."""
        last = Hour.containing(now)
        hours = (Hour(last.number - back) for back in range(_NOT_CLOSED_YET + 1))
        return next((hour for hour in hours if self.counters.of_sources(hour, [source])), None)


def _customers(holding: Holding) -> list[str]:
    return sorted({holder.customer for holder in holding.holders if holder.customer})


def _without(named: dict[str, T], name: str) -> dict[str, T]:
    return {key: value for key, value in named.items() if key != name}
