"""What becomes of requests to DynamoDB: a client that suffers what a network and a busy service do."""

from collections.abc import Callable, Container, Mapping
from enum import Enum
from typing import Any, Final

from botocore.exceptions import ClientError, ReadTimeoutError

from tests.doubles.aws import Pages
from tests.doubles.dying import KilledError
from tests.faults.stage import Process


class Fate(Enum):
    """What becomes of a request to DynamoDB."""

    LOST = "fails before DynamoDB gets it, at every attempt"
    UNANSWERED = "fails after DynamoDB did it"
    REPLAYED = "is done, sent again after a read timeout, and meets its own write"
    BELATED = "is sent again after a read timeout, and its first copy lands later"
    CONFLICT = "meets a transaction"


WRITES: Final = {"put_item", "update_item", "delete_item", "transact_write_items"}
READS: Final = {"get_item", "batch_get_item", "query", "describe_table"}


class TableClient:
    """A process's client of `backing`: in memory, or boto3's own. ``fates`` says how likely each fate is.

    Queries of the partitions in ``unreadable`` are throttled.
    """

    def __init__(
        self, backing: Any, process: Process, fates: Mapping[Any, float], unreadable: Container[str] = ()
    ) -> None:
        self.exceptions = backing.exceptions
        self._backing = backing
        self._process = process
        self._fates = fates
        self._unreadable = unreadable

    def __getattr__(self, name: str) -> Any:
        if name in WRITES:
            return lambda **arguments: self._write(name, arguments)
        if name in READS:
            return lambda **arguments: self._read(name, arguments)
        raise AssertionError(f"an unknown operation: {name}")

    def get_paginator(self, name: str) -> Pages:
        """Return what reads every page."""
        assert name == "query"
        return Pages(lambda **arguments: self._read("query", arguments))

    def _read(self, name: str, arguments: dict[str, Any]) -> Any:
        self._process.stage.step()
        if self._draw({Fate.LOST}) is Fate.LOST:
            raise ReadTimeoutError(endpoint_url="dynamodb")
        if name == "query" and arguments["ExpressionAttributeValues"][":pk"]["S"] in self._unreadable:
            error: Any = {"Error": {"Code": "ThrottlingException"}}
            raise ClientError(error, "Query")
        answer = getattr(self._backing, name)(**arguments)
        for items in answer.get("Responses", {}).values():  # in any order; in one here, so that a seed plays the same
            items.sort(key=lambda item: (item["pk"]["S"], item["sk"]["S"]))
        return answer

    def _write(self, name: str, arguments: dict[str, Any]) -> Any:
        return self._process.life.write(lambda: self._suffer(name, arguments))

    def _suffer(self, name: str, arguments: dict[str, Any]) -> Any:
        stage = self._process.stage
        world = stage.world
        send: Callable[[], Any] = lambda: getattr(self._backing, name)(**arguments)  # noqa: E731
        fate = self._draw({*Fate})
        again = fate in (Fate.REPLAYED, Fate.BELATED) and name != "transact_write_items"  # which has a token for that
        if fate is Fate.LOST:
            raise ReadTimeoutError(endpoint_url="dynamodb")
        if fate is Fate.CONFLICT and _may_conflict(name, arguments):
            error: Any = {"Error": {"Code": "TransactionConflictException"}}
            raise self.exceptions.TransactionConflictException(error, name)
        if fate is Fate.CONFLICT and name == "transact_write_items":
            reasons: Any = [{"Code": "TransactionConflict"}, {"Code": "None"}]
            raise self.exceptions.TransactionCanceledException(
                {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}, name
            )
        if again:
            world.advance(5)
        if again and fate is Fate.BELATED:
            world.later(stage.chance.random() * 20, lambda: _quietly(send))
        answer = send()
        if fate is Fate.UNANSWERED:
            raise ReadTimeoutError(endpoint_url="dynamodb")
        return send() if again and fate is Fate.REPLAYED else answer

    def _draw(self, possible: set[Fate]) -> Fate | None:
        if not self._fates:
            return None
        stage = self._process.stage
        drawn = stage.chance.random()
        for fate, rate in self._fates.items():
            drawn -= rate
            if drawn < 0:
                stage.met[fate.name] += fate in possible
                return fate if fate in possible else None
        return None


def _may_conflict(name: str, arguments: Mapping[str, Any]) -> bool:
    """Say whether a write is of an item that transactions write, too: a usage row, or a late mark."""
    if name == "put_item":
        return str(arguments["Item"]["sk"]["S"]).startswith("usage#")
    return name in ("update_item", "delete_item") and str(arguments["Key"]["pk"]["S"]).startswith("late#")


def _quietly(send: Callable[[], Any]) -> None:
    """Let a copy land that nobody waits for."""
    try:
        send()
    except ClientError:
        pass
    except KilledError:
        raise AssertionError("a copy has no process") from None
