"""The calls that work makes: recorded and counted as they are sent, and made again by a bare HTTP client.

What is recorded is what goes over the wire, to DynamoDB Local and to the local Stripe. It is made again in another
database and at another Stripe, in which the same things stand as in the first ones before: so the same is answered, and
answers of another status are an error.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from unittest.mock import patch
from urllib.parse import urlsplit

import boto3
import urllib3

from tests.benchmarks.place import Place
from tests.benchmarks.units import refused_units
from tests.doubles.item_size import size_of

_READS: Final = ("GetItem", "BatchGetItem", "Query")
_TRANSACTION: Final = "TransactWriteItems"
_TARGET: Final = "X-Amz-Target"


@dataclass(frozen=True)
class Call:
    """What was sent, and the status of the answer. ``operation`` is DynamoDB's, and empty for one of Stripe."""

    operation: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int

    def read_of(self, beginnings: Collection[str]) -> str:
        """Return which partition is read page by page, if its key begins so; else an empty string."""
        if self.operation != "Query":
            return ""
        asked = json.loads(self.body)
        condition = asked["KeyConditionExpression"].lower()
        if "begins_with" in condition or "between" in condition:  # some of its items
            return ""
        texts = [value.get("S", "") for value in asked["ExpressionAttributeValues"].values()]
        return next((text for text in texts if text.startswith(tuple(beginnings))), "")


@dataclass
class Recorded:
    """Calls in the order in which they were sent, and the units that DynamoDB took for them."""

    calls: list[Call] = field(default_factory=list)
    reads: float = 0
    writes: float = 0

    def reading(self, *beginnings: str) -> tuple[list[str], list[Call]]:
        """Return the partitions that were read page by page and whose keys begin so, and all other calls."""
        found = [(call.read_of(beginnings), call) for call in self.calls]
        return sorted({partition for partition, _ in found if partition}), [call for part, call in found if not part]


def recorded(do: Callable[[], object]) -> Recorded:
    """Do something and return the calls that it made, by clients that it made itself."""
    made = Recorded()
    with _sent(made.calls), _counted(made):
        do()
    made.writes += sum(transaction_units(json.loads(one.body)) for one in made.calls if one.operation == _TRANSACTION)
    return made


def transaction_units(asked: dict[str, Any]) -> int:
    """Return the write units of a transaction, for which DynamoDB Local says twice as many, or more.

    Two for each KB of an item (Developer Guide, "Read and write operations": transactional writes), and one for the
    entry in the index of what is pending, where a new row gets one.
    """
    units = 0
    for write in asked["TransactItems"]:
        put = write.get("Put", {})
        item = put.get("Item", {})
        units += 2 * max(1, math.ceil(size_of(item) / 1024))
        units += "pending" in item and "attribute_not_exists" in put.get("ConditionExpression", "")
    return units


@contextmanager
def _sent(calls: list[Call]) -> Iterator[None]:
    """Record whatever goes through urllib3, which botocore and our way to Stripe have in common."""
    send = urllib3.HTTPConnectionPool.urlopen

    def urlopen(pool: Any, method: str, url: str, body: Any = None, headers: Any = None, **named: Any) -> Any:
        answer = send(pool, method, url, body, headers, **named)
        told = {name: value.decode() if isinstance(value, bytes) else value for name, value in headers.items()}
        content = body.encode() if isinstance(body, str) else body or b""
        operation = told.get(_TARGET, "").rpartition(".")[2]
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        calls.append(Call(operation, method, path, told, content, answer.status))
        return answer

    with patch.object(urllib3.HTTPConnectionPool, "urlopen", urlopen):
        yield


@contextmanager
def _counted(made: Recorded) -> Iterator[None]:
    """Ask for the units of each call, by clients that are made from now on."""

    def ask(params: dict[str, Any], model: Any, **_: Any) -> None:
        if "ReturnConsumedCapacity" in model.input_shape.members:
            params["ReturnConsumedCapacity"] = "TOTAL"

    def note(parsed: dict[str, Any], model: Any, **_: Any) -> None:
        found = parsed.get("ConsumedCapacity", [])
        units = sum(one.get("CapacityUnits", 0) for one in (found if isinstance(found, list) else [found]))
        if parsed.get("Error", {}).get("Code") == "ConditionalCheckFailedException":
            units += refused_units(parsed)
        if model.name in _READS:
            made.reads += units
        elif model.name != _TRANSACTION:
            made.writes += units

    boto3.setup_default_session()
    events = boto3.DEFAULT_SESSION.events  # type: ignore[union-attr]  # it is there now
    events.register("provide-client-params.dynamodb", ask)
    events.register("after-call.dynamodb", note)
    try:
        with patch.object(Place, "dynamodb", Place.whole_dynamodb):
            yield
    finally:
        boto3.setup_default_session()


def make_again(place: Place, calls: Iterable[Call]) -> float:
    """Make calls again, one after the other, by a bare HTTP client that looks at no answer; return seconds of CPU.

    Raises RuntimeError if not as many were answered with each status as before.
    """
    stripe = urlsplit(place.stripe_url)
    dynamodb = urllib3.HTTPConnectionPool("127.0.0.1", place.dynamodb_port, retries=False)
    pools = [urllib3.HTTPConnectionPool(stripe.hostname or "127.0.0.1", stripe.port, retries=False), dynamodb]
    sent = [(pools[bool(call.operation)], call, _headers(call, place)) for call in calls]
    before = Counter(call.status for _, call, _ in sent)
    statuses: Counter[int] = Counter()
    began = time.process_time()
    for pool, call, headers in sent:
        statuses[pool.urlopen(call.method, call.path, call.body, headers).status] += 1
    took = time.process_time() - began
    if statuses != before:
        raise RuntimeError(f"calls were answered {dict(before)} first, and {dict(statuses)} when they were made again")
    return took


def _headers(call: Call, place: Place) -> dict[str, str]:
    """Return a call's headers, for this place's database. Nobody checks the signature."""
    if not call.operation:
        return call.headers
    before, _, after = call.headers["Authorization"].partition("Credential=")
    return {**call.headers, "Authorization": f"{before}Credential={place.database}/{after.partition('/')[2]}"}


def read_pages(place: Place, partitions: Iterable[str]) -> float:
    """Read partitions of the counters by botocore's paginator and look at no item; return seconds of CPU."""
    paginator = place.whole_dynamodb().get_paginator("query")
    began = time.process_time()
    for partition in partitions:
        pages = paginator.paginate(
            TableName="Counters",
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": partition}},
            ConsistentRead=True,
        )
        for _ in pages:
            pass
    return time.process_time() - began
