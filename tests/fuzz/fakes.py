"""DynamoDB and S3 in memory: the calls that counters, claims and set-aside lines need, with their conditions."""

import io
import re
import threading
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from metering.stores.aws import Item


class ConditionalCheckFailedException(ClientError):  # noqa: N818 - as boto3 names it
    """DynamoDB's answer to a write whose condition does not hold."""


class NoSuchKey(ClientError):  # noqa: N818 - as boto3 names it
    """S3's answer where there is no object."""


class DynamoDB:
    """Tables of items by ``pk`` and ``sk``; knows the conditions that the counters write, and no others."""

    class exceptions:  # noqa: N801 - as boto3 names it
        """The client's exceptions."""

        ConditionalCheckFailedException = ConditionalCheckFailedException

    def __init__(self) -> None:
        self.items: dict[tuple[str, str, str], Item] = {}
        self._lock = threading.Lock()

    def get_item(self, **asked: Any) -> dict[str, Any]:
        """Return an item, whole."""
        item = self.items.get(_place(asked["TableName"], asked["Key"]))
        return {"Item": item} if item else {}

    def batch_get_item(self, *, RequestItems: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N803 - as boto3 names it
        """Return those of the items that there are."""
        found = {
            table: [item for key in asked["Keys"] if (item := self.items.get(_place(table, key)))]
            for table, asked in RequestItems.items()
        }
        return {"Responses": found}

    def put_item(self, **asked: Any) -> None:
        """Put an item, unless it must not be there and is."""
        place = _place(asked["TableName"], asked["Item"])
        with self._lock:
            there = self.items.get(place)
            if there and asked.get("ConditionExpression") == "attribute_not_exists(#pk)":
                raise _refused(there)
            self.items[place] = asked["Item"]

    def update_item(self, **asked: Any) -> None:
        """Add to an item or set its attributes, if the condition holds."""
        names, values = asked["ExpressionAttributeNames"], asked["ExpressionAttributeValues"]
        with self._lock:
            item = self.items.setdefault(_place(asked["TableName"], asked["Key"]), {})
            if not _holds(asked.get("ConditionExpression"), item, names, values):
                raise _refused(item)
            for clause in re.split(r" (?=ADD |SET )", asked["UpdateExpression"]):
                for change in clause[len("ADD ") :].split(", "):
                    name, value = re.split(r" = | ", change)
                    more = values[value]
                    item[names[name]] = _sum(item.get(names[name]), more) if clause.startswith("ADD ") else more

    def total(self, attribute: str) -> int:
        """Add up a number over all items."""
        return sum(int(item[attribute]["N"]) for item in self.items.values() if attribute in item)


class S3:
    """Objects of one bucket by their keys."""

    class exceptions:  # noqa: N801 - as boto3 names it
        """The client's exceptions."""

        NoSuchKey = NoSuchKey

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def get_object(self, **asked: Any) -> dict[str, Any]:
        """Return an object, or raise NoSuchKey."""
        body = self.objects.get(asked["Key"])
        if body is None:
            raise NoSuchKey({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        return {"Body": io.BytesIO(body), "ETag": str(hash(body))}

    def put_object(self, **asked: Any) -> None:
        """Put an object as the caller's condition allows."""
        there = self.objects.get(asked["Key"])
        allowed = (asked.get("IfNoneMatch") != "*" or there is None) and asked.get("IfMatch") in (
            None,
            str(hash(there)),
        )
        if not allowed:
            raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "PutObject")
        self.objects[asked["Key"]] = asked["Body"]


def _place(table: str, key: Item) -> tuple[str, str, str]:
    return table, key["pk"]["S"], key["sk"]["S"]


def _refused(item: Item) -> ConditionalCheckFailedException:
    answer: Any = {"Error": {"Code": "ConditionalCheckFailedException"}, "Item": item}
    return ConditionalCheckFailedException(answer, "PutItem")


def _holds(condition: str | None, item: Item, names: Mapping[str, str], values: Item) -> bool:
    match condition:
        case None:
            return True
        case "NOT contains(#batches, :token)":
            return values[":token"]["B"] not in item.get(names["#batches"], {"BS": []})["BS"]
        case "attribute_not_exists(#peak) OR #peak < :peak":
            there = item.get(names["#peak"])
            return there is None or int(there["N"]) < int(values[":peak"]["N"])
        case _:
            raise NotImplementedError(condition)


def _sum(there: Item | None, more: Item) -> Item:
    if "BS" in more:
        return {"BS": [*(there["BS"] if there else []), *more["BS"]]}
    return {"N": str(int(there["N"] if there else 0) + int(more["N"]))}
