"""Attribution: who used what in an hour.

What a key was counted for belongs to whoever held it in that hour; a key that nobody held, or that is billed to nobody,
stands for itself. What was reported without a key belongs to the customer that the report named.

**Distinct values** belong to hours, too. Each value that a key brings is claimed in one hour
(:mod:`metering.stores.claims`). A customer with one key, which stayed in its hands for the whole month, is billed by
that key's counters. Where a customer has several keys, or a key changed hands in the month, the claims of all its keys
decide together: a value counts once, in the hour in which it was first claimed.

Nothing is written for this: a month's distinct values are a function of its claims and of who held which key, so that a
second key, or a value that arrives late, needs no second set of claims to be mended. A claim knows one hour alone: of a
value that a key brought on both sides of a hand-over before that was entered, the later holder has no claim.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from metering.model.amounts import Amounts
from metering.model.periods import Hour
from metering.model.subjects import Kind, Subject, customer, key_of_source, source_of_key, subject_of_source
from metering.stores.claims import Claim, Claims
from metering.stores.counters import Counted, Counters
from metering.stores.holders import Holders, Holding, mapped_to
from metering.stores.rows import ByKey


def owner_of(source: str, holding: Holding, hour: Hour) -> Subject:
    """Return whom a source's usage of an hour belongs to."""
    return mapped_to(holding, hour) or subject_of_source(source)


def sources_of(subject: Subject, holdings: Mapping[str, Holding], hour: Hour) -> list[str]:
    """Return those of the sources whose usage of an hour belongs to a subject."""
    return [source for source, holding in holdings.items() if owner_of(source, holding, hour) == subject]


@dataclass(frozen=True, slots=True)
class Share:
    """What one subject used in an hour: ``by_source`` as each was counted, and all ``together``."""

    by_source: Mapping[str, Amounts]
    together: Amounts

    @classmethod
    def of(cls, by_source: Mapping[str, Amounts]) -> "Share":
        """Add up what was counted; distinct values are still to be settled."""
        together = Amounts()
        for amounts in by_source.values():
            together.include(amounts)
        together.cap_splits()
        return cls(by_source, together)

    @property
    def by_key(self) -> ByKey:
        """What each key was counted for by itself; distinct values as each key brought them."""
        return {key_of_source(source): amounts.quantities() for source, amounts in self.by_source.items()}


def shares(hour: Hour, counted: Counted, holdings: Mapping[str, Holding]) -> dict[Subject, Share]:
    """Return what each subject used; distinct values are still to be settled."""
    by_owner: dict[Subject, dict[str, Amounts]] = {}
    for source, amounts in counted.items():
        by_owner.setdefault(owner_of(source, holdings[source], hour), {})[source] = amounts
    return {owner: Share.of(by_source) for owner, by_source in by_owner.items()}


@dataclass(frozen=True, slots=True)
class Attribution:
    """Reads who used what, from the counters. Errors of DynamoDB are raised as they are."""

    counters: Counters
    uniques: "Uniques"

    def of_hour(
        self, hour: Hour, keys: Collection[str] | None = None, *, only: Subject | None = None
    ) -> dict[Subject, Share]:
        """Return what each subject used, of these keys or of all; of ``only`` one, no other's claims are read (I6)."""
        counted = self.counters.read(hour, keys)
        by_owner = shares(hour, counted, self.uniques.holders.holdings(counted))
        wanted = {owner: share for owner, share in by_owner.items() if only in (None, owner)}
        self._settle(hour, wanted.items())
        return wanted

    def of_customer(self, name: str, hour: Hour) -> Amounts:
        """Return what one customer used."""
        holders = self.uniques.holders
        holdings = holders.holdings(holders.sources_of(name))
        share = Share.of(self.counters.read(hour, sources_of(customer(name), holdings, hour)))
        self._settle(hour, [(customer(name), share)])
        return share.together

    def _settle(self, hour: Hour, shared: Iterable[tuple[Subject, Share]]) -> None:
        for subject, share in shared:
            if subject.kind is Kind.CUSTOMER:
                self.uniques.settle(subject.id, hour, share.together)


@dataclass(slots=True)
class Uniques:
    """Reads who held which key, and the claims."""

    claims: Claims
    holders: Holders

    def by_hour(self, customer: str, metric: str, hour: Hour) -> Counter[Hour] | None:
        """Return how many values of the month of ``hour`` count in each hour; None if the key's counters say so."""
        return self.among(
            self.holders.holdings(map(source_of_key, self.holders.keys_of(customer))), customer, metric, hour
        )

    def among(
        self,
        holdings: Mapping[str, Holding],
        customer: str,
        metric: str,
        hour: Hour,
        *,
        most: int | None = None,
    ) -> Counter[Hour] | None:
        """Return the same of a customer that holds or held these keys; ``most`` as in :meth:`Claims.of_source`."""
        if alone(holdings, customer, hour):
            return None
        first: dict[str, Claim] = {}
        for source, holding in sorted(holdings.items()):
            for value, claim in self.claims.of_source(metric, source, hour, most=most):
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


def alone(holdings: Mapping[str, Holding], customer: str, hour: Hour) -> bool:
    """Say whether one key alone stands for a customer in the month of an hour."""
    concerned = []
    for holding in holdings.values():
        changes = [holder for holder in holding.holders if hour.month_begin < holder.since < hour.month_end]
        at_first = holding.at(hour.month_begin)
        held = [one for one in (at_first, *changes) if one is not None and one.customer == customer]
        if held:
            concerned.append(not changes)
    return len(concerned) <= 1 and all(concerned)
