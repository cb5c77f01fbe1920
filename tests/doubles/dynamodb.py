"""DynamoDB in memory, as far as this project uses it.

An expression, operation or argument that is not known raises: what is here must be as DynamoDB has it, or not be.
`tests/integration/test_expressions.py` asks the same of moto and of DynamoDB Local, and `tests/faults` compares what
whole schedules leave in DynamoDB Local.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate, takewhile
from typing import Any, Final

from botocore.exceptions import ClientError

from tests.doubles.item_size import size_of

Item = dict[str, Any]
Names = Mapping[str, str]
Test = Callable[[Item, Names, Item], bool]

INDEX: Final = "pending"
BEGINNING: Final = datetime.fromtimestamp(0, UTC)

LONGEST_PK: Final = 2048
LONGEST_SK: Final = 1024
"""In bytes (Developer Guide, "Constraints in Amazon DynamoDB")."""

MOST_BYTES: Final = 1 << 20
"""Of a page, as the items are before a projection (Developer Guide, "Paginating table query results")."""

_TOKEN: Final = re.compile(r"\s*(<>|<=|>=|[=<>(),]|[#:]?\w+)")
_SECTION: Final = re.compile(r"\b(SET|ADD|DELETE)\b")


class ConditionalCheckFailed(ClientError):  # noqa: N818  as clients name it
    """A condition did not hold."""


class TransactionConflict(ClientError):  # noqa: N818
    """A transaction is at work on the item."""


class TransactionCanceled(ClientError):  # noqa: N818
    """A transaction was not done."""


class ResourceNotFound(ClientError):  # noqa: N818
    """There is no such table."""


class Exceptions:
    """What the client raises, under the names that boto3 has."""

    ConditionalCheckFailedException = ConditionalCheckFailed
    TransactionConflictException = TransactionConflict
    TransactionCanceledException = TransactionCanceled
    ResourceNotFoundException = ResourceNotFound


class Tables:
    """Tables with `pk` and `sk`, and the sparse index `pending` of their keys, which lags `lag()` seconds behind."""

    exceptions = Exceptions

    def __init__(
        self,
        names: Iterable[str] = ("counters", "ledger", "access"),
        now: Callable[[], float] = lambda: 0.0,
        lag: Callable[[], float] = lambda: 0.0,
        made: datetime = BEGINNING,
    ) -> None:
        self._now, self._lag, self._made = now, lag, made
        self._items: dict[str, dict[str, dict[str, Item]]] = {name: {} for name in names}
        self._index: dict[str, dict[tuple[str, str], list[tuple[float, Item | None]]]] = {name: {} for name in names}

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
        names = ExpressionAttributeNames or {}
        _used({ProjectionExpression}, names, {})
        return {} if found is None else {"Item": _projected(found, ProjectionExpression, names)}

    def batch_get_item(self, *, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        """Return items, all that are asked for."""
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
        ProjectionExpression: str = "",  # noqa: N803
        Limit: int = 0,  # noqa: N803
        ExclusiveStartKey: Item | None = None,  # noqa: N803
        Select: str = "",  # noqa: N803
    ) -> dict[str, Any]:
        """Return the items of a partition that meet a condition, in order of `sk`, or only how many they are."""
        names, values = ExpressionAttributeNames, ExpressionAttributeValues
        _used({KeyConditionExpression, ProjectionExpression}, names, values)
        first, _, rest = KeyConditionExpression.partition(" AND ")
        if first != "#pk = :pk":
            raise AssertionError(f"a key condition begins with '#pk = :pk', got {KeyConditionExpression}")
        pk = values[":pk"]["S"]
        if IndexName:
            if ConsistentRead or (IndexName, names["#pk"]) != (INDEX, INDEX):
                raise AssertionError("an index is read by its own key, and never consistently")
            keys = [{name: item[name] for name in ("pk", "sk", INDEX)} for item in self._shown(TableName, pk)]
            found = sorted(keys, key=lambda item: (item["sk"]["S"], item["pk"]["S"]))
        else:
            partition = self._table(TableName).get(pk, {})
            found = [partition[sk] for sk in sorted(partition)]
        if rest:
            meets = _condition(rest)
            found = [item for item in found if meets(item, names, values)]
        page = _page(found, Limit, ExclusiveStartKey, ProjectionExpression, names, INDEX if IndexName else "")
        if Select not in ("", "COUNT"):
            raise AssertionError(f"a query answers items or their COUNT, got {Select}")
        page["Count"] = len(page["Items"])
        return {name: value for name, value in page.items() if name != "Items" or not Select}

    def scan(  # noqa: PLR0913
        self,
        *,
        TableName: str,  # noqa: N803
        ConsistentRead: bool = False,  # noqa: N803, ARG002
        ProjectionExpression: str = "",  # noqa: N803
        ExpressionAttributeNames: Names | None = None,  # noqa: N803
        Limit: int = 0,  # noqa: N803
        ExclusiveStartKey: Item | None = None,  # noqa: N803
    ) -> dict[str, Any]:
        """Return every item."""
        names = ExpressionAttributeNames or {}
        _used({ProjectionExpression}, names, {})
        found = sorted(self.items(TableName), key=_place)
        return _page(found, Limit, ExclusiveStartKey, ProjectionExpression, names)

    def put_item(
        self,
        *,
        TableName: str,  # noqa: N803
        Item: Item,  # noqa: N803
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
        self._check(TableName, Key, "UpdateItem", UpdateExpression, **condition)
        self._update(TableName, Key, UpdateExpression, condition)
        return {}

    def delete_item(self, *, TableName: str, Key: Item, **condition: Any) -> dict[str, Any]:  # noqa: N803
        """Delete an item."""
        self._check(TableName, Key, "DeleteItem", **condition)
        pk, sk = _place(Key)
        self._table(TableName).get(pk, {}).pop(sk, None)
        assert (pk, sk) not in self._index[TableName], "nothing that the index shows is ever deleted"
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
                about = {name: what[name] for name in names if name in what}
                self._check(what["TableName"], key, kind, what.get("UpdateExpression", ""), **about)
            except ConditionalCheckFailed:
                reasons.append({"Code": "ConditionalCheckFailed"})
            else:
                reasons.append({"Code": "None"})
        if len(places) < len(TransactItems):
            raise AssertionError("a transaction writes an item once")
        if any(reason["Code"] != "None" for reason in reasons):
            raise canceled(reasons)
        for write in TransactItems:
            self._write(**write)
        return {}

    def _write(
        self,
        Put: Item | None = None,  # noqa: N803  as a transaction names them
        Update: Item | None = None,  # noqa: N803
        Delete: Item | None = None,  # noqa: N803
        ConditionCheck: Item | None = None,  # noqa: N803
    ) -> None:
        if Put:
            self._put(Put["TableName"], Put["Item"])
        elif Update:
            self._update(Update["TableName"], Update["Key"], Update["UpdateExpression"], Update)
        elif Delete:
            self.delete_item(TableName=Delete["TableName"], Key=Delete["Key"])
        else:
            assert ConditionCheck

    def describe_table(self, *, TableName: str) -> dict[str, Any]:  # noqa: N803
        """Say when a table was made, and what its key is."""
        self._table(TableName)
        keys = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
        return {"Table": {"TableName": TableName, "CreationDateTime": self._made, "KeySchema": keys}}

    def delete_table(self, *, TableName: str) -> dict[str, Any]:  # noqa: N803
        """Delete a table."""
        del self._items[TableName]
        return {}

    def items(self, table: str) -> Iterator[Item]:
        """Yield every item of a table."""
        for partition in self._table(table).values():
            yield from partition.values()

    def _table(self, name: str) -> dict[str, dict[str, Item]]:
        if name not in self._items:
            said: Any = {"Error": {"Code": "ResourceNotFoundException", "Message": "Requested resource not found"}}
            raise ResourceNotFound(said, "DynamoDB")
        return self._items[name]

    def _get(self, table: str, key: Item) -> Item | None:
        pk, sk = _place(key)
        return self._table(table).get(pk, {}).get(sk)

    def _put(self, table: str, item: Item) -> None:
        pk, sk = _place(item)
        if len(pk) > LONGEST_PK // 4 or len(sk) > LONGEST_SK // 4:  # a character has four bytes at most
            assert len(pk.encode()) <= LONGEST_PK, pk
            assert len(sk.encode()) <= LONGEST_SK, sk
        self._table(table).setdefault(pk, {})[sk] = dict(item)
        index = self._index[table]
        if INDEX in item or (pk, sk) in index:
            shown = dict(item) if INDEX in item else None
            history = index.setdefault((pk, sk), [])
            at = max(self._now() + self._lag(), history[-1][0] if history else 0.0)
            index[pk, sk] = [*history[-4:], (at, shown)]

    def _shown(self, table: str, value: str) -> Iterator[Item]:
        now = self._now()
        for history in self._index[table].values():
            item = next((item for at, item in reversed(history) if at <= now), None)
            if item is not None and item[INDEX]["S"] == value:
                yield item

    def _check(  # noqa: PLR0913, PLR0917  as DynamoDB names them
        self,
        table: str,
        key: Item,
        operation: str,
        update: str = "",
        ConditionExpression: str = "",  # noqa: N803
        ExpressionAttributeNames: Names | None = None,  # noqa: N803
        ExpressionAttributeValues: Item | None = None,  # noqa: N803
        ReturnValuesOnConditionCheckFailure: str = "NONE",  # noqa: N803
    ) -> None:
        there = self._get(table, key)
        names, values = ExpressionAttributeNames or {}, ExpressionAttributeValues or {}
        _used({ConditionExpression, update}, names, values)
        if not ConditionExpression:
            return
        if not _condition(ConditionExpression)(there or {}, names, values):
            said: Any = {"Error": {"Code": "ConditionalCheckFailedException"}}
            if there and ReturnValuesOnConditionCheckFailure == "ALL_OLD":
                said["Item"] = dict(there)
            raise ConditionalCheckFailed(said, operation)

    def _update(self, table: str, key: Item, expression: str, arguments: Mapping[str, Any]) -> None:
        names, values = arguments["ExpressionAttributeNames"], arguments["ExpressionAttributeValues"]
        item = dict(self._get(table, key) or key)
        _, *sections = _SECTION.split(expression)
        if _:
            raise AssertionError(f"SET, ADD or DELETE come first, got {expression}")
        for verb, body in zip(sections[::2], sections[1::2], strict=True):
            for clause in body.split(","):
                name, value = clause.replace("=", " ").split() if verb == "SET" else clause.split()
                if verb == "DELETE":
                    _delete_from(item, names[name], values[value])
                    continue
                item[names[name]] = values[value] if verb == "SET" else _added(item.get(names[name]), values[value])
        self._put(table, item)


def canceled(reasons: list[dict[str, str]]) -> TransactionCanceled:
    """Return the error of a transaction that was not done."""
    error: Any = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}
    return TransactionCanceled(error, "TransactWriteItems")


def _place(key: Item) -> tuple[str, str]:
    return key["pk"]["S"], key["sk"]["S"]


def _used(expressions: Iterable[str], names: Names, values: Item) -> None:
    """Raise AssertionError unless expressions use each name and value, and no other, as DynamoDB asks for."""
    used = frozenset[str]().union(*(_placeholders(one) for one in expressions))
    if used != names.keys() | values.keys():
        raise AssertionError(f"{sorted(expressions)} use {sorted(used)}, and given are {[*names, *values]}")


@lru_cache(maxsize=1024)
def _placeholders(expression: str) -> frozenset[str]:
    return frozenset(re.findall(r"[#:]\w+", expression))


def _projected(item: Item, expression: str, names: Names) -> Item:
    wanted = {names[name.strip()] for name in expression.split(",")} if expression else item.keys()
    return {name: value for name, value in item.items() if name in wanted}


def _page(  # noqa: PLR0913, PLR0917  as a query and a scan name them
    found: list[Item], limit: int, after: Item | None, expression: str, names: Names, index: str = ""
) -> dict[str, Any]:
    """Return the items that come after one, at most so many, and no more than 1 MB of them; an index is in its order.

    The one that they come after need not be there any more.
    """
    order = _place_in_index if index else _place
    if after:
        if after.keys() != {"pk", "sk", *([index] if index else [])}:
            raise AssertionError(f"to go on, a query of {index or 'a table'} has to be given its own key, got {after}")
        found = [item for item in found if order(item) > order(after)]
    sizes = accumulate(size_of(item) for item in found[: limit or None])
    whole = sum(1 for size in takewhile(lambda size: size <= MOST_BYTES, sizes)) or len(found[:1])
    page: dict[str, Any] = {"Items": [_projected(item, expression, names) for item in found[:whole]]}
    if whole < len(found) or (limit and whole == limit):
        last = found[whole - 1]
        page["LastEvaluatedKey"] = {name: last[name] for name in ("pk", "sk", *([index] if index else []))}
    return page


def _place_in_index(key: Item) -> tuple[str, str]:
    return key["sk"]["S"], key["pk"]["S"]


def _added(before: Item | None, value: Item) -> Item:
    ((kind, more),) = value.items()
    if kind == "N":
        return {"N": str(int(before["N"] if before else 0) + int(more))}
    if kind in ("BS", "SS"):
        return {kind: [*dict.fromkeys([*(before[kind] if before else []), *more])]}
    raise AssertionError(f"ADD takes numbers and sets of strings or bytes here, got {kind}")


def _delete_from(item: Item, name: str, value: Item) -> None:
    """Take elements out of a set, which goes with its last one (Developer Guide, "Using update expressions")."""
    ((kind, less),) = value.items()
    left = [one for one in item.pop(name, {}).get(kind, []) if one not in less]
    if left:
        item[name] = {kind: left}


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
        if first in ("attribute_exists", "attribute_not_exists", "contains", "begins_with"):
            return self._function(first)
        if first == "size":
            return self._size()
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
        if name in ("attribute_exists", "attribute_not_exists"):
            self._expect(")")
            return lambda item, names, _: (names[about] in item) is (name == "attribute_exists")
        self._expect(",")
        value = self.tokens.pop(0)
        self._expect(")")
        if name == "begins_with":
            return lambda item, names, values: item[names[about]]["S"].startswith(values[value]["S"])
        return lambda item, names, values: values[value]["B"] in item.get(names[about], {"BS": []})["BS"]

    def _size(self) -> Test:
        self._expect("(")
        about = self.tokens.pop(0)
        self._expect(")")
        self._expect("<=")
        most = self.tokens.pop(0)
        # Of what is not there, or has no size, no comparison holds.
        return lambda item, names, values: names[about] in item and _size(item[names[about]]) <= int(values[most]["N"])

    def _take(self, token: str) -> bool:
        if self.tokens[:1] == [token]:
            self.tokens.pop(0)
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise AssertionError(f"{token!r} was expected before {self.tokens}")


def _size(attribute: Item) -> int:
    ((kind, value),) = attribute.items()
    if kind not in ("BS", "SS"):
        raise AssertionError(f"size is asked of sets here, got {kind}")
    return len(value)


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
