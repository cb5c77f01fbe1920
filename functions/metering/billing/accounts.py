"""Accounts: what invoices bill of a customer's metric for some hours, taken once however many lines bill them. Pure.

Two prices on one meter, two subscriptions, an item that was added later, an invoice in place of one that was made void:
each bills the same usage. So lines whose hours lie within those of another one are one account with it, and it is
compared with the ledger as a whole. A gap between two lines is in neither's hours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from metering.model.periods import Hour
from metering.stores.changes import Billed, Noted

DOUBTFUL: Final = "the invoice says another quantity than its meter holds, and no later usage explains it"
OVERLAPPING: Final = "some of these hours are on another invoice, too, which may have billed the difference"

FOR_A_PERSON: Final = {DOUBTFUL, OVERLAPPING}
"""What is held for these reasons is never carried by itself."""


@dataclass(frozen=True, slots=True)
class Account:
    """What the lines of one Stripe customer and metric bill; those of void invoices bill nothing.

    The first line's hours hold those of the others, and it keeps what was carried.
    """

    lines: tuple[Billed, ...]
    invoices: tuple[Noted, ...]
    """Those of the lines, but for old ones that nobody noted."""

    follows_older: bool = False
    """Whether the line before, which an older version wrote, ends where the hour begins in which this one does.

    That version took such an hour out of the line before, to count it with this one, whose hours begin after it.
    """

    @property
    def principal(self) -> Billed:
        """The line that says how the account stands."""
        return self.lines[0]

    @property
    def first(self) -> Hour:
        """The first hour."""
        return Hour.parse(self.principal.first)

    @property
    def end(self) -> Hour:
        """The hour after the last."""
        return Hour.parse(self.principal.end)

    @property
    def stated(self) -> int:
        """The quantity that the lines state, also of void invoices."""
        return _once(self.lines)

    @property
    def quantity(self) -> int:
        """The quantity that is billed."""
        void = {one.invoice for one in self.invoices if one.void}
        return _once([line for line in self.lines if line.invoice not in void])

    @property
    def settled(self) -> int:
        """What has been billed elsewhere, or is billed to nobody by a person's decision."""
        return sum(line.carried + line.left for line in self.lines)

    @property
    def counted(self) -> bool:
        """Whether the lines have been seen to state what was used."""
        return any(line.counted for line in self.lines)

    @property
    def packaged(self) -> bool:
        """Whether a price divides the quantity."""
        return any(line.packaged for line in self.lines)

    @property
    def became_final(self) -> int:
        """When the first invoice did, in seconds since 1970; 0 if that is not known of each."""
        known = {one.invoice for one in self.invoices}
        if any(line.invoice not in known for line in self.lines):
            return 0
        return min(one.at for one in self.invoices)

    def is_asked_for_by(self, hour: Hour) -> bool:
        """Say whether an hour's mark asks for it: it is one of its own, or that in which one of its invoices is new."""
        own = self.principal.earliest <= hour < self.end
        return own or any(one.hour == hour for one in self.invoices)

    def overlaps(self, other: "Account") -> bool:
        """Say whether another account has some of these hours, and others besides."""
        ours, theirs = self.principal, other.principal
        alike = (ours.stripe_customer, ours.metric) == (theirs.stripe_customer, theirs.metric)
        return alike and ours != theirs and self.first < other.end and other.first < self.end


def accounts_of(lines: Iterable[Billed], invoices: Iterable[Noted]) -> list[Account]:
    """Return the accounts of a customer's lines, in order of Stripe customer, metric and time."""
    noted = {one.invoice: one for one in invoices}
    found: list[Account] = []
    in_order = sorted(lines, key=lambda line: (*_whose(line), line.first, -Hour.parse(line.end).number, line.known_as))
    older = {(*_whose(line), line.end) for line in in_order if not line.item}
    for whose, some in groupby(in_order, _whose):
        together: list[list[Billed]] = []
        for line in some:
            if together and line.end <= together[-1][0].end:
                together[-1].append(line)
            else:
                together.append([line])
        for group in together:
            names = dict.fromkeys(line.invoice for line in group)
            edge = group[0].earliest
            follows_older = str(edge) < group[0].first and (*whose, str(edge)) in older
            found.append(Account(tuple(group), tuple(noted[name] for name in names if name in noted), follows_older))
    return found


def _whose(line: Billed) -> tuple[str, str]:
    return line.stripe_customer, line.metric


def _once(lines: Sequence[Billed]) -> int:
    """Return the most that lines bill of which no two have an hour in common."""
    best: dict[str, int] = {}
    for line in sorted(lines, key=lambda line: line.end):
        before = max((quantity for end, quantity in best.items() if end <= line.first), default=0)
        best[line.end] = max(before + line.quantity, *best.values(), 0)
    return max(best.values(), default=0)
