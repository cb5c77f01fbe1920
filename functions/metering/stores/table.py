"""A DynamoDB table of items with ``pk`` and ``sk``, and its conditional writes; what the items mean is for others."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from metering.stores.aws import ERRORS, Item, in_pieces, side_by_side, to_item

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

BATCH: Final = 100
"""Keys in one BatchGetItem (DynamoDB API reference)."""

ATTEMPTS: Final = 8
"""How often what was left unprocessed is asked for."""

FIRST_PAUSE: Final = 0.05
"""Seconds, at most, before the second attempt; twice as many before each further one: 6.35 in all."""

CONFLICTS: Final = 4
"""How often a transaction that met another one is tried again."""

CONFLICT_PAUSE: Final = 0.02
"""Seconds, at most, before the first of these; twice as many before each further one: 0.3 in all."""


class UnprocessedError(Exception):
    """DynamoDB kept leaving keys unprocessed: the table, or one partition of it, is asked for too much."""


class TooMuchError(Exception):
    """What was asked for is more than a bounded read may take; nothing of it is known."""


class RowChangedError(Exception):
    """An item is no longer as it was read; read it again and decide again."""


TABLE_ERRORS: Final = (*ERRORS, UnprocessedError)
"""What reading and writing items may raise; whoever deals with many does not let those of one stop the others."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table's verbs. Reads are consistent; errors of DynamoDB are raised as they are."""

    client: "DynamoDBClient"
    name: str

    def get(self, pk: str, sk: str) -> Item | None:
        """Return an item, or None."""
        return self.client.get_item(TableName=self.name, Key=item_key(pk, sk), ConsistentRead=True).get("Item")

    def read(
        self, wanted: Mapping[tuple[str, str], Any], make: Callable[[Item], Any], *, consistent: bool = True
    ) -> dict[Any, Any]:
        """Return what is there of the ``wanted`` keys, each under the name given for it.

        A read that need not be ``consistent`` costs half the units.
        """
        found: dict[Any, Any] = {}
        read = partial(batch_get, self.client, self.name, consistent=consistent)
        for items in side_by_side(read, in_pieces(list(wanted), BATCH)):
            found |= {wanted[item["pk"]["S"], item["sk"]["S"]]: make(item) for item in items}
        return found

    def query(  # noqa: PLR0913 - what a query may say
        self,
        pk: str,
        *,
        beginning: str = "",
        between: tuple[str, str] | None = None,
        after: str = "",
        consistent: bool = True,
        most_pages: int | None = None,
        most: int = 0,
    ) -> Iterator[Item]:
        """Yield a partition's items in order: all, or those whose ``sk`` begins so, lies between, or comes after.

        A page is 1 MB: 256 read units, or half as many where it need not be ``consistent``. Raises TooMuchError if
        there are more than ``most_pages`` (I10); with ``most`` it ends after so many items, or a page of them.
        """
        condition = _condition("pk", pk, beginning=beginning, between=between, after=after)
        reading: dict[str, Any] = {"ConsistentRead": True} if consistent else {}
        if most:
            yield from self.client.query(TableName=self.name, Limit=most, **condition, **reading)["Items"]
            return
        yield from self._pages(condition | reading, most_pages)

    def some(self, pk: str, *, between: tuple[str, str], most: int) -> tuple[list[Item], bool]:
        """Return the first ``most`` items whose ``sk`` lies between, or 1 MB of them, and whether there may be more.

        It is no consistent read, for half the units.
        """
        page = self.client.query(TableName=self.name, Limit=most, **_condition("pk", pk, between=between))
        return page["Items"], "LastEvaluatedKey" in page or len(page["Items"]) == most

    def query_index(self, index: str, pk: str, *, between: tuple[str, str] | None = None) -> Iterator[Item]:
        """Yield the items of an index's partition, which is named as the index is; eventually consistent."""
        yield from self._pages({"IndexName": index, **_condition(index, pk, between=between)})

    def index_page(
        self, index: str, pk: str, *, between: tuple[str, str], most: int, after: Item | None = None
    ) -> tuple[list[Item], Item | None]:
        """Return up to ``most`` keys of an index's partition that come ``after`` one, and where to go on, if anywhere.

        1 MB of them at most, and eventually consistent. A key that has left the index meanwhile marks its place still.
        """
        asked = _condition(index, pk, between=between)
        asked["ExpressionAttributeNames"] |= {"#base": "pk"}
        page = self.client.query(
            TableName=self.name,
            IndexName=index,
            Limit=most,
            ProjectionExpression="#base, #sk",
            **asked,
            **_going_on(after),
        )
        return page["Items"], page.get("LastEvaluatedKey")

    def index_count(
        self, index: str, pk: str, *, between: tuple[str, str], most: int, after: Item | None = None
    ) -> tuple[int, Item | None]:
        """Return how many there are, as :meth:`index_page` would return them, and where to go on, if anywhere."""
        page = self.client.query(
            TableName=self.name,
            IndexName=index,
            Limit=most,
            Select="COUNT",
            **_condition(index, pk, between=between),
            **_going_on(after),
        )
        return page["Count"], page.get("LastEvaluatedKey")

    def _pages(self, asked: Mapping[str, Any], most_pages: int | None = None) -> Iterator[Item]:
        pages = self.client.get_paginator("query").paginate(TableName=self.name, **asked)
        for number, page in enumerate(pages, 1):
            yield from page["Items"]
            if number == most_pages and "LastEvaluatedKey" in page:
                raise TooMuchError(f"the items fill more than {most_pages} pages of 1 MB")

    def put(self, item: Item) -> None:
        """Write an item, whatever is there."""
        self.client.put_item(TableName=self.name, Item=item)

    def put_as_read(self, item: Item, *, version: int) -> None:
        """Write an item provided that it is as it was read, else raise RowChangedError; version 0: it was not there.

        A replay by boto3 after a read timeout meets its own write and is refused, too.
        """
        try:
            self.client.put_item(TableName=self.name, Item=item, **unchanged(version))
        except (
            self.client.exceptions.ConditionalCheckFailedException,
            self.client.exceptions.TransactionConflictException,
        ) as error:
            raise RowChangedError(f"{item['pk']['S']} {item['sk']['S']} changed since it was read") from error

    def lease(self, pk: str, sk: str, holder: str, *, now: datetime, until: datetime) -> bool:
        """Take a lease, or keep it, until a moment; return False if somebody else has it now.

        It only spares work: should a clock be so wrong that two hold it, nothing may be written wrongly.
        """
        free_or_ours = "attribute_not_exists(#until) OR #until <= :now OR #holder = :holder"
        try:
            self.client.put_item(
                TableName=self.name,
                Item={**item_key(pk, sk), **to_item({"holder": holder, "until": int(until.timestamp())})},
                ConditionExpression=free_or_ours,
                ExpressionAttributeNames={"#until": "until", "#holder": "holder"},
                ExpressionAttributeValues=to_item({":now": int(now.timestamp()), ":holder": holder}),
            )
        except self.client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def give_back(self, pk: str, sk: str, holder: str) -> None:
        """Give a lease back before it ends; one that is somebody else's by now stays theirs."""
        with suppress(self.client.exceptions.ConditionalCheckFailedException):
            self.client.delete_item(
                TableName=self.name,
                Key=item_key(pk, sk),
                ConditionExpression="#holder = :holder",
                ExpressionAttributeNames={"#holder": "holder"},
                ExpressionAttributeValues=to_item({":holder": holder}),
            )

    def putting(self, item: Item, *, version: int | None = None) -> dict[str, Any]:
        """Return a transaction's write of an item; with ``version``, provided that it is as it was read."""
        condition = {} if version is None else unchanged(version)
        return {"Put": {"TableName": self.name, "Item": item, **condition}}

    def transact(self, *writes: dict[str, Any]) -> None:
        """Do all the writes, of this table and of others, or none; raise RowChangedError if a condition fails.

        Another transaction at one of the items at this very moment is no reason to leave it: nothing was done, and
        after a short while, drawn at random, the same is tried again.
        """
        for attempt in range(CONFLICTS + 1):
            try:
                self.client.transact_write_items(TransactItems=list(writes))  # type: ignore[arg-type]
            except self.client.exceptions.TransactionCanceledException as error:
                reasons = {reason.get("Code") for reason in error.response["CancellationReasons"]}
                if reasons <= {"None", "TransactionConflict"} and attempt < CONFLICTS:
                    time.sleep(random.uniform(0, CONFLICT_PAUSE * 2**attempt))  # noqa: S311 - no secret
                    continue
                if reasons & {"ConditionalCheckFailed", "TransactionConflict"}:
                    raise RowChangedError("an item changed since it was read") from error
                raise
            return


def _going_on(after: Item | None) -> dict[str, Any]:
    return {"ExclusiveStartKey": after} if after else {}


def _condition(
    pk_name: str, pk: str, *, beginning: str = "", between: tuple[str, str] | None = None, after: str = ""
) -> dict[str, Any]:
    """Return a query's key condition with its names and values, as the client takes them."""
    condition, names, values = "#pk = :pk", {"#pk": pk_name}, {":pk": pk}
    if beginning:
        condition += " AND begins_with(#sk, :first)"
        values |= {":first": beginning}
    elif between:
        condition += " AND #sk BETWEEN :first AND :last"
        values |= {":first": between[0], ":last": between[1]}
    elif after:
        condition += " AND #sk > :first"
        values |= {":first": after}
    if ":first" in values:
        names["#sk"] = "sk"
    return {
        "KeyConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": to_item(values),
    }


def batch_get(client: "DynamoDBClient", table: str, keys: Sequence[tuple[str, str]], *, consistent: bool) -> list[Item]:
    """Return what is there of up to :data:`BATCH` keys.

    What DynamoDB leaves unprocessed is asked for again, after a while that grows and is drawn at random, as its
    documentation of BatchGetItem recommends: at once, it would most likely be left again. Raises UnprocessedError after
    :data:`ATTEMPTS`, some seconds later.
    """
    items: list[Item] = []
    asked: Any = {table: {"Keys": [item_key(*key) for key in keys], "ConsistentRead": consistent}}
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(random.uniform(0, FIRST_PAUSE * 2 ** (attempt - 1)))  # noqa: S311 - no secret
        answer = client.batch_get_item(RequestItems=asked)
        items += answer["Responses"].get(table, [])
        asked = answer.get("UnprocessedKeys")
        if not asked:
            return items
    left = len(asked[table]["Keys"])
    raise UnprocessedError(
        f"{table}: {left} of {len(keys)} keys were left unprocessed {ATTEMPTS} times: "
        "the table is asked for too much, try again later"
    )


def item_key(pk: str, sk: str) -> Item:
    """Return an item's key."""
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def item_there(error: ClientError) -> Item:
    """Return the item that refused a write which asked for it, or none; boto3 gives it in the answer as it came."""
    answer: Mapping[str, Any] = error.response
    item: Item = answer.get("Item", {})
    return item


def unchanged(version: int) -> dict[str, Any]:
    """Return the condition that an item is as it was read; version 0 means that it was not there."""
    if not version:
        return {"ConditionExpression": "attribute_not_exists(#pk)", "ExpressionAttributeNames": {"#pk": "pk"}}
    return {
        "ConditionExpression": "#version = :version",
        "ExpressionAttributeNames": {"#version": "version"},
        "ExpressionAttributeValues": {":version": {"N": str(version)}},
    }
