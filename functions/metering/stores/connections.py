"""Connections: which log groups are read, how, and since when. In the Ledger table.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| a connection | ``connections`` | its name | ``value``: JSON, a :class:`Connection`; ``version`` |
| how a log group is read | ``log-group#<log group>`` | ``<since>#<name>`` | ``value``: the same |
| a log group | ``log-groups`` | its name | |

All are written together. The others stay when the first ends and begins anew, perhaps with another log group: late
lines, and a recount, are read as they were then.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from metering.model.connections import Connection, is_name
from metering.stores.aws import Item, side_by_side, to_item
from metering.stores.table import Table, item_key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

ALL: Final = "connections"
LOG_GROUPS: Final = "log-groups"
MOST: Final = 4
"""Pages of 1 MB that all connections fill at most: some 1,500 of them."""


def is_of_connections(pk: str) -> bool:
    """Say whether items of a partition tell how log groups are read, and not what is billed."""
    return pk in (ALL, LOG_GROUPS) or pk.startswith(_OF_LOG_GROUP)


_OF_LOG_GROUP: Final = "log-group#"
_decoder: Final = msgspec.json.Decoder(Connection)


class UnreadableConnectionError(ValueError):
    """A connection that this version cannot read; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Connections:
    """The verbs. Reads are consistent; errors of DynamoDB are raised as they are."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    def all(self) -> list[Connection]:
        """Return each connection by its name, those that have ended, too; TooMuchError for thousands of them."""
        return [_read(item) for item in self._items.query(ALL, most_pages=MOST)]

    def readable(self) -> tuple[list[Connection], list[str]]:
        """Return those of all that can be read, and why the others cannot: nobody waits for these (I6)."""
        read, unread = [], []
        for item in self._items.query(ALL, most_pages=MOST):
            try:
                read.append(_read(item))
            except UnreadableConnectionError as error:
                unread.append(str(error))
        return read, unread

    def get(self, name: str) -> Connection | None:
        """Return a connection, or None."""
        item = self._items.get(ALL, name)
        return None if item is None else _read(item)

    def has_caller(self, key: str) -> bool:
        """Say whether a key is what a connection calls somebody, as ``orders`` does ``orders:ann``."""
        name, colon, _ = key.partition(":")
        return bool(colon) and is_name(name) and self._items.get(ALL, name) is not None

    def bears(self, name: str) -> bool:
        """Say whether a connection bears a name, or once did; half a read unit for most."""
        return is_name(name) and any(True for _ in self._items.query(ALL, between=(name, name), most=1))

    def names(self) -> frozenset[str]:
        """Return every name that a connection bears, or once did; TooMuchError for thousands of them."""
        return frozenset(item["sk"]["S"] for item in self._items.query(ALL, most_pages=MOST))

    def of_log_group(self, log_group: str) -> list[Connection]:
        """Return how a log group was read since it was first connected, in order; nothing for one that never was."""
        return [_read(item) for item in self._items.query(f"{_OF_LOG_GROUP}{log_group}", most_pages=MOST)]

    def ever(self) -> list[Connection]:
        """Return how every log group was ever read: a connection once for each time that it began.

        TooMuchError for thousands of log groups.
        """
        groups = [item["sk"]["S"] for item in self._items.query(LOG_GROUPS, most_pages=MOST)]
        return [connection for of_group in side_by_side(self.of_log_group, groups) for connection in of_group]

    def save(self, connection: Connection, *, former: Connection | None = None) -> Connection:
        """Write a connection as it is read from now on, and return it with its new version.

        ``former`` is how it was read until then, where it begins anew: it ends in the same transaction, so that at no
        moment nothing is in force. Raises RowChangedError if somebody else has changed it since it was read. The same
        write again is refused, too, and whoever reads it then finds what it wrote.
        """
        saved = msgspec.structs.replace(connection, version=connection.version + 1)
        value = to_item({"value": msgspec.json.encode(saved).decode()})
        number = {"version": {"N": str(saved.version)}}
        table = self._items
        table.transact(
            table.putting({**item_key(ALL, saved.name), **value, **number}, version=connection.version),
            table.putting(_of_log_group(saved)),
            table.putting(item_key(LOG_GROUPS, saved.log_group)),
            *([table.putting(_of_log_group(former))] if former else []),
        )
        return saved

    def forget(self, log_group: str, until: int) -> None:
        """Forget how a log group was read up to a moment, so that each batch reads few items (I10).

        To be said once it is connected anew: of one of which nothing is known, all would be usage lines.
        """
        for item in self._items.query(f"{_OF_LOG_GROUP}{log_group}", most_pages=MOST):
            if 0 < _read(item).until < until:
                self.client.delete_item(TableName=self.table, Key={name: item[name] for name in ("pk", "sk")})


def _of_log_group(connection: Connection) -> Item:
    key = item_key(f"{_OF_LOG_GROUP}{connection.log_group}", f"{connection.since:013}#{connection.name}")
    return key | to_item({"value": msgspec.json.encode(connection).decode()})


def _read(item: Item) -> Connection:
    try:
        return _decoder.decode(item["value"]["S"])
    except msgspec.DecodeError as error:
        name = item["sk"]["S"].rpartition("#")[2]
        raise UnreadableConnectionError(
            f"the connection {name} cannot be read ({error}): if a newer version wrote it, deploy that and use its "
            "commands"
        ) from error
