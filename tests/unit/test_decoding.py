"""Answers of DynamoDB, decoded beside botocore's parser, are what the parser makes of them."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import msgspec
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError

from metering.stores.decoding import as_items, decode_fast, page_of

PAGE = {
    "Count": 2,
    "ScannedCount": 2,
    "Items": [
        {"pk": {"S": "a"}, "n": {"N": "12345678901234567890"}, "m": {"M": {"x": {"L": [{"N": "-1"}, {"BOOL": True}]}}}},
        {"pk": {"S": "ü\n"}, "n": {"N": "0"}, "empty": {"M": {}}},
    ],
    "LastEvaluatedKey": {"pk": {"S": "ü\n"}},
}
QUERY: Any = {
    "TableName": "table",
    "KeyConditionExpression": "pk = :pk",
    "ExpressionAttributeValues": {":pk": {"S": "a"}},
}


class Raw:
    """A body as urllib3 gives it."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        """Yield it."""
        yield self.body


def answering(body: Any, status: int = 200) -> Any:
    """Return a client to which DynamoDB answers this, and nothing is sent."""
    client = boto3.client(
        "dynamodb",
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
    )
    headers: Any = {}
    raw: Any = Raw(json.dumps(body).encode())
    events: Any = client.meta.events
    events.register("before-send", lambda **_: AWSResponse("", status, headers, raw))
    return client


def without_metadata(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what an answer says."""
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


@pytest.mark.parametrize(
    ("method", "asked", "body"),
    [
        ("query", QUERY, PAGE),
        ("query", QUERY, {"Count": 0, "ScannedCount": 0, "Items": []}),
        ("get_item", {"TableName": "table", "Key": {"pk": {"S": "a"}}}, {"Item": PAGE["Items"][0]}),  # type: ignore[index]
        ("get_item", {"TableName": "table", "Key": {"pk": {"S": "a"}}}, {}),
        (
            "batch_get_item",
            {"RequestItems": {"table": {"Keys": [{"pk": {"S": "a"}}]}}},
            {"Responses": {"table": PAGE["Items"]}, "UnprocessedKeys": {}},
        ),
    ],
)
def test_it_is_decoded_as_the_parser_does(method: str, asked: dict[str, Any], body: dict[str, Any]) -> None:
    """Of reads, whatever they hold."""
    plain, fast = answering(body), answering(body)
    decode_fast(fast)
    decode_fast(fast)
    assert without_metadata(getattr(fast, method)(**asked)) == without_metadata(getattr(plain, method)(**asked)) == body


def test_an_error_is_left_to_the_parser() -> None:
    """It knows the exceptions."""
    client = answering({"__type": "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException", "message": "no"}, 400)
    decode_fast(client)
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.query(**QUERY)
    with pytest.raises(ClientError):
        client.get_item(TableName="table", Key={"pk": {"S": "a"}})


def test_items_are_decoded_into_a_struct_where_that_is_asked_for() -> None:
    """With numbers as numbers; what the struct does not name is left out."""
    number = msgspec.defstruct("Number", [("N", int)])
    row = msgspec.defstruct("Row", [("n", number)])
    client = answering(PAGE)
    decode_fast(client)
    with as_items(page_of(row)):
        answer = client.query(**QUERY)
    assert [item.n.N for item in answer["Items"]] == [12345678901234567890, 0]
    assert answer["LastEvaluatedKey"] == PAGE["LastEvaluatedKey"]
    assert client.query(**QUERY)["Items"] == PAGE["Items"]
