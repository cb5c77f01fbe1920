"""Uniques: in which hours a customer's values of a month count.

Each value that a key brings is claimed in one hour (:mod:`metering.stores.claims`). A customer with one key, which
stayed in its hands for the whole month, is billed by that key's counters. Where a customer has several keys, or a key
changed hands in the month, the claims of all its keys decide together: a value counts once, in the hour in which it was
first claimed.

Nothing is written for this: a month's uniques are a function of its claims and of who held which key, so that a second
key, or a value that arrives late, needs no second set of claims to be mended. A claim knows one hour alone: of a value
that a key brought on both sides of a hand-over before that was entered, the later holder has no claim.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from metering.model.amounts import Amounts
from metering.model.periods import Hour
from metering.stores.claims import Claim, Claims
from metering.stores.holders import Holders, Holding


@dataclass(frozen=True, slots=True)
class Uniques:
    """Reads who held which key, and the claims."""

    claims: Claims
    holders: Holders

    def by_hour(self, customer: str, metric: str, hour: Hour) -> Counter[Hour] | None:
        """Return how many values of the month of ``hour`` count in each hour; None if the key's counters say so."""
        holdings = self.holders.holdings(self.holders.keys_of(customer))
        if _alone(holdings, customer, hour):
            return None
        first: dict[str, Claim] = {}
        for key, holding in sorted(holdings.items()):
            for value, claim in self.claims.of_key(metric, key, hour):
                holder = holding.at(claim.hour)
                mine = holder is not None and holder.customer == customer
                if mine and (value not in first or claim.at < first[value].at):
                    first[value] = claim
        return Counter(claim.hour for claim in first.values())

    def settle(self, customer: str, hour: Hour, amounts: Amounts) -> None:
        """Where a customer's distinct values came through several hands, let the claims say how many count."""
        for metric in amounts.uniques:
            by_hour = self.by_hour(customer, metric, hour)
            if by_hour is not None:
                amounts.uniques[metric] = by_hour[hour]


def tenure(holding: Holding, hour: Hour) -> Hour | None:
    """Return since when a key is in the hands in which it is at an hour, if that changed in the hour's month."""
    holder = holding.at(hour)
    return holder.since if holder is not None and holder.since > hour.month_begin else None


def _alone(holdings: Mapping[str, Holding], customer: str, hour: Hour) -> bool:
    """Say whether one key alone stands for a customer in the month of an hour."""
    concerned = []
    for holding in holdings.values():
        changes = [holder for holder in holding.holders if hour.month_begin < holder.since < hour.month_end]
        at_first = holding.at(hour.month_begin)
        held = [one for one in (at_first, *changes) if one is not None and one.customer == customer]
        if held:
            concerned.append(not changes)
    return len(concerned) <= 1 and all(concerned)
