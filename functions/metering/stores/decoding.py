"""What DynamoDB answers, decoded fast.

botocore's parser walks each attribute of each item in Python: a month of a customer's rows takes it ten times as long
as everything else that is done for them (``tests/benchmarks/usage_read.py``). Its event ``before-parse`` lets somebody
else decode the body, which is JSON in the very form that the parser would give it, but for binary values: those stay
text in base64.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import msgspec

from metering.stores.lean_calls import LeanCall

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

_READS: Final = ("Query", "GetItem", "BatchGetItem")
_FIRST_FAILURE: Final = 300

_items: ContextVar["msgspec.json.Decoder[Any] | None"] = ContextVar("items", default=None)


def decode_fast(client: "DynamoDBClient") -> None:
    """Let a client's reads be decoded fast from now on; doing it again changes nothing.

    They go by boto3 again, whose event this needs, where they went a short way.
    """
    for name in ("query", "batch_get_item"):
        if isinstance(call := getattr(client, name), LeanCall):
            setattr(client, name, call.whole)
    for operation in _READS:
        event = f"before-parse.dynamodb.{operation}"
        client.meta.events.register(event, _decode, unique_id=f"metering-{operation}")


def page_of(item: type) -> "msgspec.json.Decoder[Any]":
    """Return what decodes a page of such items. Numbers travel as text, and are read as the struct wants them."""
    fields: Any = [("Items", list[item], []), ("LastEvaluatedKey", dict[str, Any] | None, None)]  # type: ignore[valid-type]
    return msgspec.json.Decoder(msgspec.defstruct("Page", fields), strict=False)


@contextmanager
def as_items(page: "msgspec.json.Decoder[Any]") -> Iterator[None]:
    """Let the queries of this thread, by clients that decode fast, yield the page's items."""
    token = _items.set(page)
    try:
        yield
    finally:
        _items.reset(token)


def _decode(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    if response_dict["status_code"] >= _FIRST_FAILURE:
        return  # for the parser, which knows what errors look like
    page = _items.get()
    if page is None:
        customized_response_dict |= msgspec.json.decode(response_dict["body"])
    else:
        found = page.decode(response_dict["body"])
        customized_response_dict["Items"] = found.Items
        if found.LastEvaluatedKey is not None:
            customized_response_dict["LastEvaluatedKey"] = found.LastEvaluatedKey
    response_dict["body"] = b"{}"
