"""Who may post: the switch that turns posting on, and the leases of the shards of what is pending.

While posting is off, rows are pending as ever and nobody posts them. To hold them instead would need a sweep over all
rows when it is turned on, beside runs that had read the switch before: so there is no sweep, and no such race.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| switch | ``posting`` | ``switch`` | ``version``, ``on``, ``since``, ``who``, ``at`` |
| lease | ``posting`` | ``lease#<shard>`` | ``holder``, ``until`` |
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from metering.layout import SHARDS
from metering.model.periods import Hour
from metering.stores.aws import from_item, side_by_side, to_item
from metering.stores.table import Table, item_key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

POSTING: Final = "posting"
"""The partition of all that is kept here."""


class Switch(msgspec.Struct, frozen=True):
    """Whether usage is posted, and the hour ``since`` which all usage is billed; empty before posting was ever on.

    ``who`` turned it last (an ARN), ``at`` a moment in seconds since 1970. ``version`` counts the writes.
    """

    on: bool = False
    since: str = ""
    who: str = ""
    at: int = 0
    version: int = 0

    @property
    def first(self) -> Hour | None:
        """The first hour that is posted now, or None if posting is off."""
        return Hour.parse(self.since) if self.on else None


@dataclass(frozen=True, slots=True)
class PostingSwitch:
    """The verbs, in the Ledger table."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    def read(self) -> Switch:
        """Return how the switch stands; a consistent read."""
        found = self._items.get(POSTING, "switch")
        return msgspec.convert(from_item(found), Switch) if found else Switch()

    def turn(self, after: Switch) -> None:
        """Turn the switch; raise RowChangedError if it is not as it was read."""
        values = {"on": after.on, "since": after.since, "who": after.who, "at": after.at}
        item = {**item_key(POSTING, "switch"), **to_item(values | {"version": after.version + 1})}
        self._items.put_as_read(item, version=after.version)

    def lease(self, shards: Iterable[int], holder: str, *, now: datetime, until: datetime) -> list[int]:
        """Return those of the shards that nobody else posts from until then; ``holder`` alone gives them back.

        A lease only keeps two workers from calling Stripe for the same customer at once; should a clock be so wrong
        that two hold it, nothing is billed wrongly.
        """
        wanted = list(shards)

        def take(shard: int) -> bool:
            return self._items.lease(*_lease(shard), holder, now=now, until=until)

        return sorted(shard for shard, is_ours in zip(wanted, side_by_side(take, wanted), strict=True) if is_ours)

    def release(self, shards: Iterable[int], holder: str) -> None:
        """Give leases back before they end."""
        side_by_side(lambda shard: self._items.give_back(*_lease(shard), holder), shards)


def _lease(shard: int) -> tuple[str, str]:
    return POSTING, f"lease#{shard}"


def shards_of_workers(workers: int) -> list[list[int]]:
    """Deal the shards out to so many workers."""
    return [list(range(n, SHARDS, workers)) for n in range(workers)]
