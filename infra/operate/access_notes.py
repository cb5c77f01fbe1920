"""What the Ledger table remembers of keys that are on their way out of their usage plans.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| rotation | ``rotations`` | ``<short id>#<old key>`` | the fields of :class:`Rotation` |

Each item has a ``version``, too, and is written before what it tells of is done, so that a command that dies is made
good by the same command again. Only operators' commands read them.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from metering.model.subjects import short_id
from metering.stores.aws import Item, from_item, to_item
from metering.stores.table import Table, item_key, unchanged

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

_ROTATIONS: Final = "rotations"


class Rotation(msgspec.Struct, frozen=True):
    """A key and the ``new`` one that takes its place in ``plans``; ``new`` is empty until it is made.

    ``until`` is when the old one is to leave them (seconds since 1970), and 0 until the new one is in them.
    """

    customer: str
    old: str
    plans: tuple[str, ...]
    new: str = ""
    until: int = 0
    version: int = 0

    def is_due(self, now: datetime) -> bool:
        """Say whether the old key is to leave its plans now."""
        return 0 < self.until <= now.timestamp()


@dataclass(frozen=True, slots=True)
class AccessNotes:
    """The verbs. Writes raise RowChangedError if the item is not as it was read; reads are consistent."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    def rotations(self, name: str = "") -> Iterator[Rotation]:
        """Yield the rotations whose old key is not taken out yet, of one customer or of all."""
        for item in self._items.query(_ROTATIONS, beginning=f"{short_id(name)}#" if name else ""):
            yield _read_rotation(item)

    def write(self, after: Rotation) -> Rotation:
        """Write how far a rotation has got, and return it as it now stands."""
        written = msgspec.structs.replace(after, version=after.version + 1)
        item = {**_rotation_key(written), **to_item(msgspec.to_builtins(written))}
        self._items.put_as_read(item, version=after.version)
        return written

    def end(self, before: Rotation) -> None:
        """Delete a rotation that is over, unless it was changed since it was read."""
        self._delete(_rotation_key(before), before.version)

    def _delete(self, key: Item, version: int) -> None:
        # A replay finds nothing and changes nothing; what somebody else has changed is theirs to delete.
        with suppress(self.client.exceptions.ConditionalCheckFailedException):
            self.client.delete_item(TableName=self.table, Key=key, **unchanged(version))


def _rotation_key(rotation: Rotation) -> Item:
    return item_key(_ROTATIONS, f"{short_id(rotation.customer)}#{rotation.old}")


def _read_rotation(item: Item) -> Rotation:
    return msgspec.convert(from_item(item), Rotation)
