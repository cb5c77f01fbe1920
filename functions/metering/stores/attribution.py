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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from metering.model.amounts import Amounts
from metering.model.periods import Hour
from metering.model.subjects import Kind, Subject, customer, key_of_source, source_of_key, subject_of_source
from metering.stores.claims import PARTS, SHARDS, Claim, Claims
from metering.stores.counters import Counted, Counters
from metering.stores.holders import Holder, Holders, Holding, mapped_to
from metering.stores.progress import Join
from metering.stores.rows import ByKey
from metering.stores.table import TooMuchError

WHOLE: Final = PARTS // SHARDS
"""The parts of a shard."""

MOST_ITEMS: Final = 20_000
"""Counters of one customer and hour that are looked for by partition; where there are more, each key is a query."""

MOST_JOINED: Final = 50_000
"""Claims that are held at once, of 250 bytes or so; more are read in parts."""


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

    def hours_of_customer(self, name: str, hours: Iterable[Hour]) -> dict[Hour, Amounts]:
        """Return what one customer used in hours that are over."""
        return {hour: share.together for hour, share in self.shares_of_customer(name, hours)}

    def shares_of_customer(self, name: str, hours: Iterable[Hour]) -> Iterator[tuple[Hour, Share]]:
        """Yield what one customer used in each of some hours that are over: who holds its keys is read once.

        An hour's counters of many keys are a query for each partition, as long as not many others' lie between.
        """
        holders, subject = self.uniques.holders, customer(name)
        holdings = holders.holdings(holders.sources_of(name))
        for hour in hours:
            sources = sources_of(subject, holdings, hour)
            counted = self.counters.read_keys(hour, sources, most=MOST_ITEMS)
            share = Share.of(self.counters.read(hour, sources) if counted is None else counted)
            self._settle(hour, [(subject, share)])
            yield hour, share

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
        holdings = self.holders.holdings(map(source_of_key, self.holders.keys_of(customer)))
        if alone(holdings, customer, hour):
            return None
        joined = self.join(holdings, customer, metric, hour, Join(), most=None, go_on=lambda: True)
        return Counter({Hour(number): count for number, count in joined.by_hour.items()})

    def join(  # noqa: PLR0913 - whose claims, of what, how far, and how much of it
        self,
        holdings: Mapping[str, Holding],
        customer: str,
        metric: str,
        hour: Hour,
        join: Join,
        *,
        most: int | None,
        go_on: Callable[[], bool],
    ) -> Join:
        """Join the claims of all keys that a customer held in a month, part by part, from where ``join`` has got to.

        A value counts once, in the hour of the claim that was made first. It ends with the last part, or with the one
        after which ``go_on`` says no. A shard of more than :data:`MOST_JOINED` claims is read in 16 parts, so that what
        is held at a time is bounded (I10). Raises TooMuchError once more than ``most`` claims have been read.
        """
        concerned = {source: one for source, one in sorted(holdings.items()) if _held_in_month(one, customer, hour)}

        def first_of(part: int, parts: int, most: int | None) -> FirstClaims:
            first = FirstClaims(customer, hour, most)
            for source, holding in concerned.items():
                first.take(holding, self.claims.of_part(metric, source, hour, part, parts))
            return first

        read = 0
        while join.parts < PARTS:
            parts = WHOLE if join.parts % WHOLE == 0 else 1
            try:
                first = first_of(join.parts, parts, MOST_JOINED if parts > 1 else None)
            except TooMuchError:
                parts, first = 1, first_of(join.parts, 1, None)
            read += first.read
            if most is not None and read > most:
                raise TooMuchError(f"a customer has more than {most} claims of {metric} in a month")
            by_hour = Counter(join.by_hour) + Counter({at.number: count for at, count in first.by_hour().items()})
            overtaken = join.overtaken | {at.number for at in first.overtaken()}
            join = Join(join.of, join.asked, join.parts + parts, dict(by_hour), overtaken)
            if not go_on():
                break
        return join

    def settle(self, customer: str, hour: Hour, amounts: Amounts) -> None:
        """Where a customer's distinct values came through several hands, let the claims say how many count."""
        for metric in amounts.uniques:
            by_hour = self.by_hour(customer, metric, hour)
            if by_hour is not None:
                amounts.uniques[metric] = by_hour[hour]


class FirstClaims:
    """The first claim of each value that a customer's keys brought in the month of an hour."""

    def __init__(self, customer: str, hour: Hour, most: int | None = None) -> None:
        self.read = 0
        self._customer, self._hour, self._most = customer, hour, most
        self._first: dict[str, Claim] = {}
        self._later: list[tuple[str, Hour]] = []

    def take(self, holding: Holding, claims: Iterable[tuple[str, Claim]]) -> None:
        """Take in a key's claims, those that were made while the customer held it.

        Of two that were made in the same millisecond the one that is taken in first counts: take keys in order. Raises
        TooMuchError once more than ``most`` have been read.
        """
        mine: dict[Hour, bool] = {}
        for value, claim in claims:
            self.read += 1
            if self._most is not None and self.read > self._most:
                raise TooMuchError(f"more than {self._most} claims")
            at = claim.hour
            if at not in mine:
                holder = holding.at(at)
                mine[at] = holder is not None and holder.customer == self._customer
            if mine[at]:
                before = self._first.setdefault(value, claim)
                if before is not claim:
                    earlier, later = (claim, before) if claim.at < before.at else (before, claim)
                    self._first[value] = earlier
                    if earlier.hour != later.hour:
                        self._later.append((value, later.hour))

    def by_hour(self) -> Counter[Hour]:
        """Return how many values count in each hour."""
        return Counter(claim.hour for claim in self._first.values())

    def overtaken(self) -> set[Hour]:
        """Return the other hours in which values of the hour were claimed, too, but later."""
        return {at for value, at in self._later if self._first[value].hour == self._hour} - {self._hour}


def tenure(holding: Holding, hour: Hour) -> Hour | None:
    """Return since when a key is in the hands in which it is at an hour, if that changed in the hour's month."""
    holder = holding.at(hour)
    return holder.since if holder is not None and holder.since > hour.month_begin else None


def alone(holdings: Mapping[str, Holding], customer: str, hour: Hour) -> bool:
    """Say whether one key alone stands for a customer in the month of an hour."""
    concerned = [one for one in holdings.values() if _held_in_month(one, customer, hour)]
    return len(concerned) <= 1 and not any(_changed_in_month(one, hour) for one in concerned)


def _held_in_month(holding: Holding, customer: str, hour: Hour) -> bool:
    """Say whether a customer held a key at any time of an hour's month."""
    held = (holding.at(hour.month_begin), *_changed_in_month(holding, hour))
    return any(one is not None and one.customer == customer for one in held)


def _changed_in_month(holding: Holding, hour: Hour) -> list[Holder]:
    """Return who got a key within an hour's month."""
    return [one for one in holding.holders if hour.month_begin < one.since < hour.month_end]
