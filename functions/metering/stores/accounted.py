"""Accounted: which records a recount has brought in, so that none counts when it comes late. In the Counters table.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| brought in | ``accounted#<hour>`` | ``<source>#<metric>#<correction>#<n>`` | ``ids``: hashes of their ids; ``ttl`` |

A correction stands for all records of an hour that the archive held when it was made: it is what was missing of them.
So the count may change afterwards by other records, and the correction stays; a record that is among them adds nothing
any more (I2). Records and correction are written in one transaction.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from metering.model.periods import COUNTER_LIFE, Hour
from metering.stores.aws import in_pieces
from metering.stores.table import Table, item_key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

_HASH: Final = 8
_IN_ITEM: Final = 40_000
"""Hashes in one item, which may have 400 KB (DynamoDB Developer Guide, "Constraints")."""

MOST_RECORDS: Final = 100_000
"""Records that one correction stands for at most: a late delivery of their hour reads them, 200 read units."""

MOST_ITEMS: Final = 90
"""Items of one correction at most: a transaction has 100 (DynamoDB API reference)."""


def hashed(record: str) -> bytes:
    """Return what is kept of a record's id."""
    return hashlib.blake2b(record.encode(errors="surrogatepass"), digest_size=_HASH).digest()


@dataclass(frozen=True, slots=True)
class Accounted:
    """The verbs. Errors of DynamoDB are raised as they are; reads are consistent."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    def any(self, hour: Hour) -> bool:
        """Say whether a recount has brought in records of this hour, of whomever."""
        return next(self._items.query(_pk(hour), most=1), None) is not None

    def of(self, hour: Hour, source: str) -> dict[str, frozenset[bytes]]:
        """Return the hashes of a source's records that were brought in, by metric."""
        found: dict[str, set[bytes]] = {}
        for item in self._items.query(_pk(hour), beginning=f"{source}#"):
            metric, ids = item["sk"]["S"].split("#")[1], item["ids"]["B"]
            found.setdefault(metric, set()).update(ids[n : n + _HASH] for n in range(0, len(ids), _HASH))
        return {metric: frozenset(ids) for metric, ids in found.items()}

    def adding(
        self, hour: Hour, metric: str, correction: str, records: Mapping[str, Iterable[str]]
    ) -> list[dict[str, Any]] | None:
        """Return a transaction's writes of the records, by source, that a correction stands for; None if too many."""
        ttl = {"N": str(int((hour.end + COUNTER_LIFE).timestamp()))}
        items = [
            item_key(_pk(hour), f"{source}#{metric}#{correction}#{n}") | {"ids": {"B": b"".join(some)}, "ttl": ttl}
            for source, ids in records.items()
            for n, some in enumerate(in_pieces(sorted(map(hashed, ids)), _IN_ITEM))
        ]
        if len(items) > MOST_ITEMS or sum(len(item["ids"]["B"]) for item in items) > MOST_RECORDS * _HASH:
            return None
        return [self._items.putting(item) for item in items]


def _pk(hour: Hour) -> str:
    return f"accounted#{hour}"
