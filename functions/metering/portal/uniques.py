"""Distinct values that came through several keys: their claims are all of a month's, so that they are kept a while."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from metering.model.amounts import Amounts
from metering.model.periods import Hour
from metering.portal.kept import keep
from metering.stores.attribution import Uniques
from metering.stores.claims import SHARDS
from metering.stores.holders import Holding
from metering.stores.table import TooMuchError

MOST_QUERIES: Final = 128
"""Queries of a month's claims, 16 for each metric and key, half a read unit at least: of more than eight keys, or four
where two metrics count distinct values, these show once an hour is closed."""

MOST_VALUES: Final = 6144
"""Values that are read of a month, spread over the queries; each is 130 bytes as a rule, a read unit for 60."""

SHORTEST_KEPT_S: Final = 5
MOST_KEPT: Final = 200


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the claims say; ``known`` is false where there are too many to be looked at."""

    by_hour: Counter[Hour] | None
    known: bool
    until: float


@dataclass(slots=True)
class KeptUniques:
    """Settles distinct values as the ledger does, as far as that is few reads.

    They are kept for a second for each key that a customer has ever had, and five seconds at least: so they cost at
    most 16 queries a second for any customer. For one thread.
    """

    uniques: Uniques
    metrics: int = 1
    """How many count distinct values: they share what may be read."""

    clock: Callable[[], float] = time.monotonic
    _kept: dict[tuple[str, str, str], _Kept] = field(default_factory=dict)

    def settle(self, customer: str, hour: Hour, amounts: Amounts, holdings: Mapping[str, Holding]) -> None:
        """Where a customer's distinct values came through several hands, let the claims say how many count.

        Where there are more claims than may be read (I10), nothing is said of them until the hour is closed.
        """
        for metric in list(amounts.uniques):
            kept = self._of(customer, metric, hour, holdings)
            if not kept.known:
                del amounts.uniques[metric]
            elif kept.by_hour is not None:
                amounts.uniques[metric] = kept.by_hour[hour]

    def _of(self, customer: str, metric: str, hour: Hour, holdings: Mapping[str, Holding]) -> _Kept:
        name, now = (customer, metric, hour.month), self.clock()
        kept = self._kept.get(name)
        if kept is not None and kept.until > now:
            return kept
        until = now + max(SHORTEST_KEPT_S, len(holdings))
        queries = SHARDS * len(holdings) * max(1, self.metrics)
        try:
            most = MOST_VALUES // max(1, queries) if queries <= MOST_QUERIES else 0
            by_hour = self.uniques.among(holdings, customer, metric, hour, most=most)
            kept = _Kept(by_hour, known=True, until=until)
        except TooMuchError:
            kept = _Kept(None, known=False, until=until)
        keep(self._kept, name, kept, MOST_KEPT)
        return kept
