"""DynamoDB in memory, as far as the money side uses it, and a client that suffers what a network does.

An expression, operation or argument that is not known raises: what is here must be as DynamoDB has it, or not be.
`test_money.py` plays the same schedules on DynamoDB Local and compares what both hold at the end.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from botocore.exceptions import ClientError, ReadTimeoutError

from tests.faults.money_stage import KilledError, Process

Item = dict[str, Any]
Names = Mapping[str, str]
Test = Callable[[Item, Names, Item], bool]

INDEX: Final = "pending"

_TOKEN: Final = re.compile(r"\s*(<>|<=|>=|[=<>(),]|[#:]?\w+)")
_SECTION: Final = re.compile(r"\b(SET|ADD)\b")


class ConditionalCheckFailed(ClientError):  # noqa: N818  as clients name it
    """A condition did not hold."""


class TransactionConflict(ClientError):  # noqa: N818
    """A transaction is at work on the item."""


class TransactionCanceled(ClientError):  # noqa: N818
    """A transaction was not done."""


class Exceptions:
    """What the client raises, under the names that boto3 has."""

    ConditionalCheckFailedException = ConditionalCheckFailed
    TransactionConflictException = TransactionConflict
    TransactionCanceledException = TransactionCanceled


class Tables:
    """Tables with `pk` and `sk`, and the sparse index `pending`, which shows a write only after `lag()` seconds."""

    exceptions = Exceptions

    def __init__(self, now: Callable[[], float], lag: Callable[[], float]) -> None:
        self._now, self._lag = now, lag
        self._items: dict[str, dict[str, dict[str, Item]]] = {}
        self._index: dict[str, dict[tuple[str, str], list[tuple[float, Item | None]]]] = {}

    def get_item(
        self,
        *,
        TableName: str,  # noqa: N803  as DynamoDB names them, here and below
        Key: Item,  # noqa: N803
        ConsistentRead: bool = False,  # noqa: N803, ARG002
        ProjectionExpression: str = "",  # noqa: N803
        ExpressionAttributeNames: Names | None = None,  # noqa: N803
    ) -> dict[str, Any]:
        """Return an item."""
        found = self._get(TableName, Key)
        if found is not None and ProjectionExpression:
            wanted = {(ExpressionAttributeNames or {})[name.strip()] for name in ProjectionExpression.split(",")}
            found = {name: value for name, value in found.items() if name in wanted}
        return {} if found is None else {"Item": dict(found)}

    def batch_get_item(self, *, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        """Return items; some are left for the next call where they are many, as DynamoDB does."""
        responses: dict[str, list[Item]] = {}
        for table, asked in RequestItems.items():
            keys = [_place(key) for key in asked["Keys"]]
            if not 1 <= len(keys) <= 100 or len({*keys}) < len(keys):
                raise AssertionError(f"BatchGetItem takes 1 to 100 different keys, got {keys}")
            found = (self._get(table, key) for key in asked["Keys"])
            responses[table] = [dict(item) for item in found if item is not None]
        return {"Responses": responses, "UnprocessedKeys": {}}

    def query(  # noqa: PLR0913
        self,
        *,
        TableName: str,  # noqa: N803
        KeyConditionExpression: str,  # noqa: N803
        ExpressionAttributeNames: Names,  # noqa: N803
        ExpressionAttributeValues: Item,  # noqa: N803
        ConsistentRead: bool = False,  # noqa: N803
        IndexName: str = "",  # noqa: N803
    ) -> dict[str, Any]:
        """Return the items of a partition that meet a condition, in order of `sk`."""
        first, _, rest = KeyConditionExpression.partition(" AND ")
        if first != "#pk = :pk":
            raise AssertionError(f"a key condition begins with '#pk = :pk', got {KeyConditionExpression}")
        pk = ExpressionAttributeValues[":pk"]["S"]
        if IndexName:
            if ConsistentRead or (IndexName, ExpressionAttributeNames["#pk"]) != (INDEX, INDEX):
                raise AssertionError("an index is read by its own key, and never consistently")
            found = sorted(self._shown(TableName, pk), key=lambda item: (item["sk"]["S"], item["pk"]["S"]))
        else:
            partition = self._items.get(TableName, {}).get(pk, {})
            found = [partition[sk] for sk in sorted(partition)]
        if rest:
            meets = _condition(rest)
            found = [item for item in found if meets(item, ExpressionAttributeNames, ExpressionAttributeValues)]
        return {"Items": [dict(item) for item in found]}

    def put_item(
        self,
        *,
        TableName: str,  # noqa: N803
        Item: Item,  # noqa: N803
        ReturnValuesOnConditionCheckFailure: str = "",  # noqa: N803, ARG002
        **condition: Any,
    ) -> dict[str, Any]:
        """Write an item."""
        self._check(TableName, Item, "PutItem", **condition)
        self._put(TableName, Item)
        return {}

    def update_item(
        self,
        *,
        TableName: str,  # noqa: N803
        Key: Item,  # noqa: N803
        UpdateExpression: str,  # noqa: N803
        **condition: Any,
    ) -> dict[str, Any]:
        """Change an item, which is made if it is not there."""
        self._check(TableName, Key, "UpdateItem", **condition)
        self._update(TableName, Key, UpdateExpression, condition)
        return {}

    def delete_item(self, *, TableName: str, Key: Item, **condition: Any) -> dict[str, Any]:  # noqa: N803
        """Delete an item."""
        self._check(TableName, Key, "DeleteItem", **condition)
        pk, sk = _place(Key)
        self._items.get(TableName, {}).get(pk, {}).pop(sk, None)
        return {}

    def transact_write_items(self, *, TransactItems: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        """Do all of the writes, or none."""
        places: set[tuple[str, tuple[str, str]]] = set()
        reasons = []
        for write in TransactItems:
            ((kind, what),) = write.items()
            key = what["Item"] if kind == "Put" else what["Key"]
            places.add((what["TableName"], _place(key)))
            names = ("ConditionExpression", "ExpressionAttributeNames", "ExpressionAttributeValues")
            try:
                self._check(what["TableName"], key, kind, **{name: what[name] for name in names if name in what})
            except ConditionalCheckFailed:
                reasons.append({"Code": "ConditionalCheckFailed"})
            else:
                reasons.append({"Code": "None"})
        if len(places) < len(TransactItems):
            raise AssertionError("a transaction writes an item once")
        if any(reason["Code"] != "None" for reason in reasons):
            raise canceled(reasons)
        for write in TransactItems:
            ((kind, what),) = write.items()
            if kind == "Put":
                self._put(what["TableName"], what["Item"])
            elif kind == "Update":
                self._update(what["TableName"], what["Key"], what["UpdateExpression"], what)
            elif kind != "ConditionCheck":
                raise AssertionError(f"a transaction puts, updates or checks, got {kind}")
        return {}

    def describe_table(self, *, TableName: str) -> dict[str, Any]:  # noqa: N803
        """Say when a table was made."""
        return {"Table": {"TableName": TableName, "CreationDateTime": datetime.fromtimestamp(0, UTC)}}

    def get_paginator(self, name: str) -> "Pages":
        """Return what reads every page."""
        assert name == "query"
        return Pages(self.query)

    def scan(self, table: str) -> Iterator[Item]:
        """Yield every item of a table."""
        for partition in self._items.get(table, {}).values():
            yield from partition.values()

    def _get(self, table: str, key: Item) -> Item | None:
        pk, sk = _place(key)
        return self._items.get(table, {}).get(pk, {}).get(sk)

    def _put(self, table: str, item: Item) -> None:
        pk, sk = _place(item)
        self._items.setdefault(table, {}).setdefault(pk, {})[sk] = dict(item)
        index = self._index.setdefault(table, {})
        if INDEX in item or (pk, sk) in index:
            shown = dict(item) if INDEX in item else None
            history = index.setdefault((pk, sk), [])
            at = max(self._now() + self._lag(), history[-1][0] if history else 0.0)
            index[pk, sk] = [*history[-4:], (at, shown)]

    def _shown(self, table: str, value: str) -> Iterator[Item]:
        now = self._now()
        for history in self._index.get(table, {}).values():
            item = next((item for at, item in reversed(history) if at <= now), None)
            if item is not None and item[INDEX]["S"] == value:
                yield item

    def _check(  # noqa: PLR0913, PLR0917  as DynamoDB names them
        self,
        table: str,
        key: Item,
        operation: str,
        ConditionExpression: str = "",  # noqa: N803
        ExpressionAttributeNames: Names | None = None,  # noqa: N803
        ExpressionAttributeValues: Item | None = None,  # noqa: N803
    ) -> None:
        if not ConditionExpression:
            return
        there = self._get(table, key)
        meets = _condition(ConditionExpression)
        if not meets(there or {}, ExpressionAttributeNames or {}, ExpressionAttributeValues or {}):
            error: Any = {"Error": {"Code": "ConditionalCheckFailedException"}}
            raise ConditionalCheckFailed(error | ({"Item": dict(there)} if there else {}), operation)

    def _update(self, table: str, key: Item, expression: str, arguments: Mapping[str, Any]) -> None:
        names, values = arguments["ExpressionAttributeNames"], arguments["ExpressionAttributeValues"]
        item = dict(self._get(table, key) or key)
        _, *sections = _SECTION.split(expression)
        if _:
            raise AssertionError(f"SET or ADD come first, got {expression}")
        for verb, body in zip(sections[::2], sections[1::2], strict=True):
            for clause in body.split(","):
                name, value = clause.replace("=", " ").split() if verb == "SET" else clause.split()
                item[names[name]] = values[value] if verb == "SET" else _added(item.get(names[name]), values[value])
        self._put(table, item)


def canceled(reasons: list[dict[str, str]]) -> TransactionCanceled:
    """Return the error of a transaction that was not done."""
    error: Any = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}
    return TransactionCanceled(error, "TransactWriteItems")


def _place(key: Item) -> tuple[str, str]:
    return key["pk"]["S"], key["sk"]["S"]


def _added(before: Item | None, value: Item) -> Item:
    ((kind, more),) = value.items()
    if kind == "N":
        return {"N": str(int(before["N"] if before else 0) + int(more))}
    if kind == "BS":
        return {"BS": [*dict.fromkeys([*(before["BS"] if before else []), *more])]}
    raise AssertionError(f"ADD takes numbers and binary sets here, got {kind}")


@lru_cache
def _condition(expression: str) -> Test:
    """Compile a condition expression; raise AssertionError for what is not known."""
    tokens = [match[1] for match in _TOKEN.finditer(expression)]
    if "".join(tokens) != re.sub(r"\s", "", expression):
        raise AssertionError(f"an unknown condition: {expression}")
    reader = _Reader(tokens)
    test = reader.either()
    if reader.tokens:
        raise AssertionError(f"an unknown condition: {expression}")
    return test


class _Reader:
    """Reads a condition, token by token: OR binds less than AND, AND less than NOT."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens

    def either(self) -> Test:
        tests = [self._both()]
        while self._take("OR"):
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else lambda *about: any(test(*about) for test in tests)

    def _both(self) -> Test:
        tests = [self._one()]
        while self._take("AND"):
            tests.append(self._one())
        return tests[0] if len(tests) == 1 else lambda *about: all(test(*about) for test in tests)

    def _one(self) -> Test:
        if self._take("NOT"):
            test = self._one()
            return lambda *about: not test(*about)
        if self._take("("):
            test = self.either()
            self._expect(")")
            return test
        first = self.tokens.pop(0)
        if first in ("attribute_not_exists", "contains", "begins_with"):
            return self._function(first)
        operator = self.tokens.pop(0)
        if operator == "BETWEEN":
            low = self.tokens.pop(0)
            self._expect("AND")
            high = self.tokens.pop(0)
            return lambda *about: _compare(first, ">=", low, about) and _compare(first, "<=", high, about)
        second = self.tokens.pop(0)
        return lambda *about: _compare(first, operator, second, about)

    def _function(self, name: str) -> Test:
        self._expect("(")
        about = self.tokens.pop(0)
        if name == "attribute_not_exists":
            self._expect(")")
            return lambda item, names, _: names[about] not in item
        self._expect(",")
        value = self.tokens.pop(0)
        self._expect(")")
        if name == "begins_with":
            return lambda item, names, values: item[names[about]]["S"].startswith(values[value]["S"])
        return lambda item, names, values: values[value]["B"] in item.get(names[about], {"BS": []})["BS"]

    def _take(self, token: str) -> bool:
        if self.tokens[:1] == [token]:
            self.tokens.pop(0)
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise AssertionError(f"{token!r} was expected before {self.tokens}")


def _compare(  # noqa: PLR0911  a comparison each
    first: str, operator: str, second: str, about: tuple[Item, Names, Item]
) -> bool:
    """Compare an attribute with a value; one that is not there, or of another kind, is only unequal."""
    item, names, values = about
    ((kind, wanted),) = values[second].items()
    attribute = item.get(names[first])
    if attribute is None or kind not in attribute:
        return operator == "<>"
    there = attribute[kind]
    if kind == "N":
        there, wanted = int(there), int(wanted)
    match operator:
        case "=":
            return bool(there == wanted)
        case "<>":
            return bool(there != wanted)
        case "<":
            return bool(there < wanted)
        case "<=":
            return bool(there <= wanted)
        case ">":
            return bool(there > wanted)
        case ">=":
            return bool(there >= wanted)
    raise AssertionError(f"an unknown comparison: {operator}")


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
    """A process's client of `backing`: in memory, or boto3's own. ``fates`` says how likely each fate is."""

    def __init__(self, backing: Any, process: Process, fates: Mapping[Fate, float]) -> None:
        self.exceptions = backing.exceptions
        self._backing = backing
        self._process = process
        self._fates = fates

    def __getattr__(self, name: str) -> Any:
        if name in WRITES:
            return lambda **arguments: self._write(name, arguments)
        if name in READS:
            return lambda **arguments: self._read(name, arguments)
        raise AssertionError(f"an unknown operation: {name}")

    def get_paginator(self, name: str) -> "Pages":
        """Return what reads every page."""
        assert name == "query"
        return Pages(lambda **arguments: self._read("query", arguments))

    def _read(self, name: str, arguments: dict[str, Any]) -> Any:
        self._process.stage.step()
        if self._draw({Fate.LOST}) is Fate.LOST:
            raise ReadTimeoutError(endpoint_url="dynamodb")
        answer = getattr(self._backing, name)(**arguments)
        for items in answer.get("Responses", {}).values():  # in any order; in one here, so that a seed plays the same
            items.sort(key=_place)
        return answer

    def _write(self, name: str, arguments: dict[str, Any]) -> Any:
        self._process.stage.step()
        return self._process.write(lambda: self._suffer(name, arguments))

    def _suffer(self, name: str, arguments: dict[str, Any]) -> Any:
        world = self._process.stage.world
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
            world.later(self._process.stage.chance.random() * 20, lambda: _quietly(send))
        answer = send()
        if fate is Fate.UNANSWERED:
            raise ReadTimeoutError(endpoint_url="dynamodb")
        return send() if again and fate is Fate.REPLAYED else answer

    def _draw(self, possible: set[Fate]) -> Fate | None:
        if not self._fates:
            return None
        drawn = self._process.stage.chance.random()
        for fate, rate in self._fates.items():
            drawn -= rate
            if drawn < 0:
                return fate if fate in possible else None
        return None


def _may_conflict(name: str, arguments: Mapping[str, Any]) -> bool:
    """Say whether a write is of an item that transactions write, too: a usage row, or a late mark."""
    if name == "put_item":
        return str(arguments["Item"]["sk"]["S"]).startswith("usage#")
    return name in ("update_item", "delete_item") and str(arguments["Key"]["pk"]["S"]).startswith("late#")


class Pages:
    """A paginator, of one page or more."""

    def __init__(self, query: Callable[..., dict[str, Any]]) -> None:
        self._query = query

    def paginate(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Yield the pages."""
        while True:
            page = self._query(**arguments)
            yield page
            if "LastEvaluatedKey" not in page:
                return
            arguments["ExclusiveStartKey"] = page["LastEvaluatedKey"]


def _quietly(send: Callable[[], Any]) -> None:
    """Let a copy land that nobody waits for."""
    try:
        send()
    except ClientError:
        pass
    except KilledError:
        raise AssertionError("a copy has no process") from None
