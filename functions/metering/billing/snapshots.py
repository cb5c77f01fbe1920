"""Snapshots: what rows of an hour are made from, as it was read, and what they say then. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from metering.model.amounts import Amounts
from metering.model.subjects import Kind, Subject, source_of
from metering.model.usage_row import Change, UsageRow, recounted
from metering.stores.attribution import Share
from metering.stores.holders import Holding
from metering.stores.rows import ByKey

KEY_OF_NOBODY: Final = "the key belongs to no customer"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What rows of an hour are made from, as it was read."""

    rows: Mapping[Subject, UsageRow]
    holdings: Mapping[str, Holding]
    shares: Mapping[Subject, Share]
    changes: Mapping[Subject, Sequence[Change]]
    answered: frozenset[str] = frozenset()
    """What of that which was asked had been put before anything of this was read."""

    def voided(self, after: UsageRow) -> list[Change]:
        """Return the corrections of a row that it makes void: what they were made against is no longer counted."""
        before = self.rows[after.subject]
        return [
            change
            for change in self.changes.get(after.subject, ())
            if change.is_void(_counted(after, change.metric)) and not change.is_void(_counted(before, change.metric))
        ]

    def changed(self) -> list[UsageRow]:
        """Return the rows that say something else than what was read, as they are to be written."""
        made = [(row, self._made(row)) for row in self.rows.values()]
        return [after for before, after in made if after is not before and after.totals]

    def _made(self, row: UsageRow) -> UsageRow:
        share = self.shares.get(row.subject)
        held = _why_held(row, self.holdings) if row.subject.kind is Kind.KEY else ""
        return recounted(row, share.together if share else Amounts(), self.changes.get(row.subject), held=held)

    def by_key(self, subject: Subject) -> ByKey:
        """Return what a customer's keys were counted for, each by itself."""
        share = self.shares.get(subject)
        return share.by_key if share and subject.kind is Kind.CUSTOMER else {}


def _why_held(row: UsageRow, holdings: Mapping[str, Holding]) -> str:
    """Say why a key's own row is billed to nobody."""
    holder = holdings[source_of(row.subject)].at(row.hour)
    if holder is None:
        return KEY_OF_NOBODY
    return f"counted for the customer {holder.customer}" if holder.customer else f"not billed: {holder.reason}"


def _counted(row: UsageRow, metric: str) -> int:
    return row.totals[metric].counted if metric in row.totals else 0
