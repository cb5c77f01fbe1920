"""Distinct values that came through several keys: their claims are all of a month's, so that few are read, and kept.

An hour's distinct values are those of the customer's whose first claim of the month is of that hour. A key brought some
of them if its counters of the hour say so: the claims of such keys are read whole, and of all other keys only the
shards that those values are in, as far as they lie between them::

    counters of the hour ──▶ keys that brought new values ──▶ their claims ──▶ values of the hour
                                                                                 │ claimed before, by
                                                                                 ▼ another key?
                                                              other keys' claims, between those values
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from metering.model import subjects
from metering.model.periods import Hour
from metering.portal.kept import keep
from metering.stores.attribution import FirstClaims, Share, Uniques, alone
from metering.stores.aws import side_by_side
from metering.stores.claims import SHARDS, Claim, of_value
from metering.stores.holders import Holding, mapped_to
from metering.stores.table import TooMuchError

MOST_QUERIES: Final = 128
"""Queries of a month's claims, 16 for each metric and key, half a read unit at least: of more than eight keys, or four
where two metrics count distinct values, these show once an hour is closed. It takes so many only if every key brought
new values in the hours that are counted afresh, and none where no key did."""

MOST_VALUES: Final = 6144
"""Values that are read of a month, spread over the queries; each is 130 bytes as a rule, a read unit for 60."""

SHORTEST_KEPT_S: Final = 5
MOST_KEPT: Final = 200


@dataclass(frozen=True, slots=True)
class _Kept:
    """How many values count in each hour that was looked at; None where there are too many claims to be looked at."""

    by_hour: dict[Hour, int | None]
    until: float


@dataclass(slots=True)
class KeptUniques:
    """Settles distinct values as the ledger does, as far as that is few reads.

    What was found of an hour is kept for a second for each key that a customer has ever had, and five at least. For one
    thread.
    """

    uniques: Uniques
    metrics: int = 1
    """How many count distinct values: they share what may be read."""

    clock: Callable[[], float] = time.monotonic
    _kept: dict[tuple[str, str, str], _Kept] = field(default_factory=dict)

    def settle(self, customer: str, shares: Mapping[Hour, Share], holdings: Mapping[str, Holding]) -> None:
        """Where a customer's distinct values came through several hands, let the claims say how many count.

        Where there are more claims than may be read (I10), nothing is said of them until the hour is closed.
        """
        by_month: dict[str, dict[Hour, Share]] = {}
        for hour, share in shares.items():
            if share.together.uniques:
                by_month.setdefault(hour.month, {})[hour] = share
        for month, of_month in by_month.items():
            if alone(holdings, customer, min(of_month)):
                continue
            for metric in {metric for share in of_month.values() for metric in share.together.uniques}:
                wanted = {hour: share for hour, share in of_month.items() if metric in share.together.uniques}
                settled = self._of(customer, metric, month, wanted, holdings)
                for hour, share in wanted.items():
                    number = settled[hour]
                    if number is None:
                        del share.together.uniques[metric]
                    else:
                        share.together.uniques[metric] = number

    def _of(
        self, customer: str, metric: str, month: str, shares: Mapping[Hour, Share], holdings: Mapping[str, Holding]
    ) -> Mapping[Hour, int | None]:
        """Return how many values count in each of these hours of a month, and maybe of others."""
        name, now = (customer, metric, month), self.clock()
        kept = self._kept.get(name)
        if kept is None or kept.until <= now:
            kept = _Kept({}, now + max(SHORTEST_KEPT_S, len(holdings)))
            keep(self._kept, name, kept, MOST_KEPT)
        unknown = {hour: share for hour, share in shares.items() if hour not in kept.by_hour}
        if unknown:
            try:
                by_hour = self._first_claimed(customer, metric, unknown, holdings)
                kept.by_hour.update({hour: by_hour[hour] for hour in unknown})
            except TooMuchError:
                kept.by_hour.update(dict.fromkeys(unknown))
        return kept.by_hour

    def _first_claimed(
        self, customer: str, metric: str, shares: Mapping[Hour, Share], holdings: Mapping[str, Holding]
    ) -> Counter[Hour]:
        """Return how many values were first claimed in each of these hours of a month.

        Raises TooMuchError where that would take more reads than it may.
        """
        queries = SHARDS * len(holdings) * max(1, self.metrics)
        if queries > MOST_QUERIES:
            raise TooMuchError(f"{len(holdings)} keys' distinct values take {queries} queries")
        most = MOST_VALUES // queries

        owner, claims = subjects.customer(customer), self.uniques.claims
        brought = {
            source
            for share in shares.values()
            for source, amounts in share.by_source.items()
            if source in holdings and amounts.uniques.get(metric)
        }
        found = {source: claims.of_source(metric, source, min(shares), most=most) for source in brought}
        values = {
            value
            for source, claimed in found.items()
            for value, claim in claimed
            if claim.hour in shares and mapped_to(holdings[source], claim.hour) == owner
        }
        found |= self._some_of(metric, holdings.keys() - brought, min(shares), values, most)
        first = FirstClaims(customer, min(shares))
        for source, claimed in sorted(found.items()):
            first.take(holdings[source], (one for one in claimed if one[0] in values))
        return first.by_hour()

    def _some_of(
        self, metric: str, sources: Iterable[str], month: Hour, values: Collection[str], most: int
    ) -> dict[str, list[tuple[str, Claim]]]:
        """Return these sources' claims of values, and others between them; raise TooMuchError for ``most`` in a shard.

        As many queries for a source as there are values, and no more than it has shards.
        """
        between: dict[tuple[str, str], tuple[str, str]] = {}
        for source in sources:
            for value in sorted(values):
                shard, _ = of_value(metric, source, month, value, None)
                first, _ = between.get((source, shard), (value, value))
                between[source, shard] = (first, value)

        def look(where: tuple[str, str]) -> list[tuple[str, Claim]]:
            first, last = between[where]
            return self.uniques.claims.some(where[1], between=(f"{first}#", f"{last}$"), most=most)

        found: dict[str, list[tuple[str, Claim]]] = {}
        for (source, _), claimed in zip(between, side_by_side(look, between), strict=True):
            found.setdefault(source, []).extend(claimed)
        return found
