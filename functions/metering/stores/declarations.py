"""Declarations: which metrics were in force, from when on. In the Ledger table.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| declaration | ``period#declared`` | ``<number>`` | ``metrics``: as JSON; ``at``: when it was first seen |

A number is given once: of two runs that note something at the same moment, one does, and the other looks again at its
next tick. Going back to an older declaration is another note.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from metering.model.metrics import Declaration, decode
from metering.stores.aws import to_item
from metering.stores.table import RowChangedError, Table, item_key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

_DECLARED: Final = "period#declared"


@dataclass(frozen=True, slots=True)
class Declarations:
    """The verbs. Errors of DynamoDB are raised as they are; reads are consistent, and as long as there were changes."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    def all(self) -> list[Declaration]:
        """Return what was ever noted, the oldest first."""
        return [
            Declaration(decode(item["metrics"]["S"]), datetime.fromtimestamp(int(item["at"]["N"]), UTC))
            for item in self._items.query(_DECLARED)
        ]

    def note(self, metrics: str, now: datetime) -> None:
        """Note that metrics, as :func:`metrics.encode` writes them, are in force, unless the last note says so.

        The number is the next one, so that a replay, or another run, is refused (I2).
        """
        before = list(self._items.query(_DECLARED))
        if before and before[-1]["metrics"]["S"] == metrics:
            return
        values = {"metrics": metrics, "at": int(now.timestamp())}
        with suppress(RowChangedError):
            self._items.put_as_read({**item_key(_DECLARED, f"{len(before):06}"), **to_item(values)}, version=0)
