"""Claims: which values were seen before, so that each counts once. In the Counters table.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| value | ``unique#<metric>#<2026-11>#<source>#<shard>`` | ``<hash>#<tenure>`` | ``hour``, ``batch``, ``at``, ``ttl`` |
| id of a usage line | ``once#<metric>#<source>#<shard>`` | ``<hash>`` | the same |

A claim is made once, and changed by a redrive alone: it says which batch the value counts in, and in which hour. A
batch counts the values whose claims are its own, so that a delivery which dies between its claims and its counters is
made good by the next one, and two batches at once count a value once (I1, I2)::

    batch A   claims v ── dies            claims v: its own ── counter +1
    batch B        claims v: A's ── counter +0

``tenure`` is the hour since which a key is in its present hands, if that hour lies in the month: a value that a key
brings before and after it changed hands counts for each of its holders. ``at`` is when the claim was made, in
milliseconds since 1970.
"""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from metering.model.periods import COUNTER_LIFE, Hour
from metering.stores.aws import Item, in_pieces, side_by_side
from metering.stores.table import BATCH, Table, TooMuchError, batch_get, item_key, item_there

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

SHARDS: Final = 16
"""How many partition keys one key's values of a month are spread over."""

PARTS: Final = SHARDS * 16
"""How many parts a month's values are read in where a shard is too much at once: one by one the first digits differ."""

_HASH_BYTES: Final = 16

Key = tuple[str, str]
"""A claim's pk and sk."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who counts a value: the batch with this token, in this hour."""

    hour: Hour
    batch: bytes
    at: int
    """When it was made, in milliseconds since 1970."""


def hashed(secret: bytes, metric: str, value: str) -> str:
    """Return a value's keyed hash (HMAC-SHA-256, 16 bytes in hex): nobody without the secret can look for a value."""
    return hmac.digest(secret, f"{metric}\0{value}".encode(errors="surrogatepass"), "sha256")[:_HASH_BYTES].hex()


def of_value(metric: str, source: str, hour: Hour, value: str, tenure: Hour | None) -> Key:
    """Return the claim of a hashed ``value`` that a source brought in an hour's month."""
    return f"{_of_month(metric, hour, source)}#{_shard(value)}", f"{value}#{tenure or ''}"


def of_line(metric: str, source: str, value: str) -> Key:
    """Return the claim of a usage line's hashed id."""
    return f"once#{metric}#{source}#{_shard(value)}", value


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims' verbs. Errors of DynamoDB are raised as they are."""

    client: "DynamoDBClient"
    table: str

    def claim(self, wanted: Mapping[Key, Claim]) -> dict[Key, Claim]:
        """Return each claim as it stands, made as wanted where there was none.

        One write unit for each new claim; the others are looked at first, since a refused write costs a unit, too.
        """
        claimed: dict[Key, Claim] = {}
        for piece in side_by_side(self._look, in_pieces(list(wanted), BATCH)):
            claimed |= piece
        new = [key for key in wanted if key not in claimed]
        made = side_by_side(lambda key: self._make(key, wanted[key]), new)
        return claimed | dict(zip(new, made, strict=True))

    def of_source(self, metric: str, source: str, month: Hour, *, most: int) -> list[tuple[str, Claim]]:
        """Return the hashed values that a source brought in the month of ``month``, and their claims.

        As :meth:`some` of each shard returns them.
        """
        beginning = _of_month(metric, month, source)
        shards = side_by_side(
            lambda shard: self.some(f"{beginning}#{shard}", between=("0", "~"), most=most), range(SHARDS)
        )
        return [claimed for shard in shards for claimed in shard]

    def some(self, shard: str, *, between: tuple[str, str], most: int) -> list[tuple[str, Claim]]:
        """Return a shard's values whose sort keys lie ``between``, and their claims; no consistent read.

        Raises TooMuchError where they are ``most`` or more (I10).
        """
        items, may_be_more = Table(self.client, self.table).some(shard, between=between, most=most)
        if may_be_more:
            raise TooMuchError(f"a shard of a month's claims holds {most} or more")
        return [(_value_of(item), _read(item)) for item in items]

    def of_part(self, metric: str, source: str, month: Hour, part: int, parts: int = 1) -> Iterator[tuple[str, Claim]]:
        """Yield the claims of a source's values whose hash begins alike, a page at a time; consistent reads.

        Of :data:`PARTS` parts, in which all values of a month lie evenly, those from ``part`` on are read: ``parts`` is
        1, or 16 for a whole shard.
        """
        shard, digit = divmod(part, 16)
        beginning = f"{digit:x}{shard:x}" if parts == 1 else ""
        for item in Table(self.client, self.table).query(
            f"{_of_month(metric, month, source)}#{shard}", beginning=beginning
        ):
            yield _value_of(item), _read(item)

    def take_over(self, key: Key, made: Claim, batch: bytes) -> bool:
        """Make a claim another batch's, and say whether it was still as it was read: it is taken over once (I2)."""
        unchanged = "#batch = :before"
        try:
            self.client.put_item(
                TableName=self.table,
                Item=_item(key, Claim(made.hour, batch, made.at)),
                ConditionExpression=unchanged,
                ExpressionAttributeNames={"#batch": "batch"},
                ExpressionAttributeValues={":before": {"B": made.batch}},
            )
        except self.client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def _look(self, keys: Sequence[Key]) -> dict[Key, Claim]:
        """Return the claims that are there. Not a consistent read: what it misses is found by the write."""
        items = batch_get(self.client, self.table, keys, consistent=False)
        return {(item["pk"]["S"], item["sk"]["S"]): _read(item) for item in items}

    def _make(self, key: Key, made: Claim) -> Claim:
        """Make a claim, or return the one that is there: another batch's, or our own that boto3 sent twice (I2)."""
        unclaimed = "attribute_not_exists(#pk)"
        try:
            self.client.put_item(
                TableName=self.table,
                Item=_item(key, made),
                ConditionExpression=unclaimed,
                ExpressionAttributeNames={"#pk": "pk"},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self.client.exceptions.ConditionalCheckFailedException as error:
            return _read(item_there(error))
        return made


def _item(key: Key, made: Claim) -> Item:
    life_begins = made.hour.month_end.start if key[0].startswith("unique#") else made.hour.end
    return {
        **item_key(*key),
        "hour": {"S": str(made.hour)},
        "batch": {"B": made.batch},
        "at": {"N": str(made.at)},
        "ttl": {"N": str(int((life_begins + COUNTER_LIFE).timestamp()))},
    }


def _of_month(metric: str, hour: Hour, source: str) -> str:
    return f"unique#{metric}#{hour.month}#{source}"


def _shard(value: str) -> int:
    return int(value[:2], 16) % SHARDS  # which is the second digit


def _value_of(item: Item) -> str:
    value: str = item["sk"]["S"].partition("#")[0]
    return value


def _read(item: Item) -> Claim:
    batch = item["batch"]["B"]
    return Claim(Hour.parse(item["hour"]["S"]), batch, int(item["at"]["N"]))
