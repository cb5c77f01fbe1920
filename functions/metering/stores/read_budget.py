"""The reads that are left of what Stripe allots, for all who read. In the Ledger table.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| reads | ``period#reconciled`` | ``reads`` | ``spent_until``: up to when they are, in ms since 1970; ``version`` |
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from metering.model.read_allotment import ReadAllotment
from metering.stores.table import RowChangedError, Table, item_key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

_PLACE: Final = ("period#reconciled", "reads")
_ATTEMPTS: Final = 10


@dataclass(frozen=True, slots=True)
class ReadBudget:
    """What is left of an allotment.

    A run takes its reads before it makes them, and gives back those it did not make: so a run that dies loses no more
    than it took, and two at once make together what one may.
    """

    client: "DynamoDBClient"
    table: str
    allotment: ReadAllotment

    def left(self, now: datetime) -> int:
        """Return how many reads may be made now."""
        return self.allotment.left(self._read()[0], _ms(now))

    def take(self, most: int, now: datetime) -> int:
        """Take up to ``most`` reads and return how many: none if others are at it for too long."""
        for _ in range(_ATTEMPTS):
            spent_until, version = self._read()
            taken = min(most, self.allotment.left(spent_until, _ms(now)))
            if self._save(self.allotment.spent(spent_until, taken, _ms(now)), version):
                return taken
        return 0

    def note(self, reads: int, now: datetime) -> None:
        """Note reads that were made without asking, or give back as many less than none; at worst nobody notes them."""
        for _ in range(_ATTEMPTS):
            spent_until, version = self._read()
            if not reads or self._save(self.allotment.spent(spent_until, reads, _ms(now)), version):
                return

    def _read(self) -> tuple[int, int]:
        found = Table(self.client, self.table).get(*_PLACE)
        return (int(found["spent_until"]["N"]), int(found["version"]["N"])) if found else (0, 0)

    def _save(self, spent_until: int, version: int) -> bool:
        values = {"spent_until": {"N": str(spent_until)}, "version": {"N": str(version + 1)}}
        try:
            Table(self.client, self.table).put_as_read({**item_key(*_PLACE), **values}, version=version)
        except RowChangedError:
            return False
        return True


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
