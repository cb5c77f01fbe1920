"""Every expression that the code gives DynamoDB, on the tables in memory, in moto and in AWS's own engine: one answer.

All other tests have the tables in memory, so what these make of an expression has to be what DynamoDB makes of it.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from tests.conftest import ROOT
from tests.doubles.aws import Client
from tests.doubles.dynamodb import Tables
from tests.doubles.dynamodb_local import DynamoDBLocal, table_definition

Call = tuple[str, dict[str, Any]]

TABLE: Final = "ledger"
TOKENS: Final = (b"a" * 12, b"b" * 12)


def at(pk: str, sk: str, **values: Any) -> dict[str, Any]:
    """Return an item, or its key."""
    return {"pk": {"S": pk}, "sk": {"S": sk}, **{name: typed(value) for name, value in values.items()}}


def typed(value: Any) -> dict[str, Any]:
    """Return a value as DynamoDB has it."""
    match value:
        case int():
            return {"N": str(value)}
        case bytes():
            return {"B": value}
        case list():
            return {"SS" if isinstance(value[0], str) else "BS": value}
        case _:
            return {"S": value}


def put(item: dict[str, Any], condition: str = "", **values: Any) -> Call:
    """Return a put, perhaps with a condition."""
    return "put_item", {"Item": item, **about(condition, values, kind="ConditionExpression")}


def about(expression: str, values: Mapping[str, Any], *, kind: str) -> dict[str, Any]:
    """Return an expression with its names, each of which is the attribute's own, and its values."""
    if not expression:
        return {}
    given = {f":{name}": typed(value) for name, value in values.items()}
    found: dict[str, Any] = {kind: expression, "ExpressionAttributeNames": names(expression)}
    return found | ({"ExpressionAttributeValues": given} if given else {})


def names(*expressions: str) -> dict[str, str]:
    """Return the names that expressions use."""
    return {f"#{name}": name for one in expressions for name in re.findall(r"#(\w+)", one)}


def update(key: dict[str, Any], expression: str, condition: str = "", **values: Any) -> Call:
    """Return an update, perhaps with a condition."""
    found = about(expression, values, kind="UpdateExpression")
    more = {"ConditionExpression": condition} if condition else {}
    return "update_item", {"Key": key, **found, **more, "ExpressionAttributeNames": names(expression, condition)}


def delete(key: dict[str, Any], condition: str = "", **values: Any) -> Call:
    """Return a delete, perhaps with a condition."""
    return "delete_item", {"Key": key, **about(condition, values, kind="ConditionExpression")}


def query(  # noqa: PLR0913 - what a query may say
    condition: str,
    projection: str = "",
    limit: int = 0,
    index: str = "",
    after: dict[str, Any] | None = None,
    *,
    count: bool = False,
    **values: Any,
) -> Call:
    """Return a query."""
    found = about(condition, values, kind="KeyConditionExpression")
    found["ExpressionAttributeNames"] |= names(projection) | ({"#pk": index} if index else {})
    return "query", {
        **found,
        **({"ProjectionExpression": projection} if projection else {}),
        **({"Limit": limit} if limit else {}),
        **({"ExclusiveStartKey": after} if after else {}),
        **({"Select": "COUNT"} if count else {}),
        **({"IndexName": index} if index else {"ConsistentRead": True}),
    }


def together(*calls: Call) -> Call:
    """Return a transaction of writes."""
    kinds = {"put_item": "Put", "update_item": "Update", "check": "ConditionCheck"}
    return "transact_write_items", {
        "TransactItems": [{kinds[name]: {"TableName": TABLE, **arguments}} for name, arguments in calls]
    }


def check(key: dict[str, Any], condition: str, **values: Any) -> Call:
    """Return a transaction's condition on an item that it does not write."""
    return "check", {"Key": key, **about(condition, values, kind="ConditionExpression")}


def counting(token: bytes, number: int) -> Call:
    """Return what counts a batch."""
    return update(
        at("hour#1", "key1#0"),
        "ADD #m0 :m0, #m1 :m1, #batches :tokens SET #ttl = :ttl",
        "NOT contains(#batches, :token)",
        m0=number,
        m1=10**20,
        tokens=[token],
        ttl=7,
        token=token,
    )


def telling_apart(token: bytes, names: list[bytes], room: int, key: str = "key1#0") -> Call:
    """Return what counts a batch with a split, whose values must find room."""
    name, arguments = update(
        at("hour#1", key),
        "ADD #m0 :m0, #names :names, #batches :tokens SET #ttl = :ttl",
        "NOT contains(#batches, :token) AND (attribute_not_exists(#names) OR size(#names) <= :room)",
        m0=1,
        names=names,
        room=room,
        tokens=[token],
        ttl=7,
        token=token,
    )
    return name, {**arguments, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}


def pending_from(first: str, projection: str = "", **how: Any) -> Call:
    """Return a query of an index from a row on."""
    name, arguments = query(
        "#pk = :pk AND #sk BETWEEN :first AND :last",
        projection,
        index="pending",
        pk="P#1",
        first=first,
        last="usage#~",
        **how,
    )
    base = {"#base": "pk"} if projection else {}
    return name, {**arguments, "ExpressionAttributeNames": {"#pk": "pending", "#sk": "sk", **base}}


def counting_together(tokens: list[bytes], number: int) -> Call:
    """Return what counts batches together, if none of them is counted."""
    name, arguments = update(
        at("hour#1", "key1#0"),
        "ADD #m0 :m0, #batches :tokens SET #ttl = :ttl",
        " AND ".join(f"NOT contains(#batches, :token{n})" for n in range(len(tokens))),
        m0=number,
        tokens=tokens,
        ttl=7,
        **{f"token{n}": token for n, token in enumerate(tokens)},
    )
    return name, {**arguments, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}


def listing(new: list[str], most: int) -> Call:
    """Return what enters a key among a customer's, unless they are missing or too many."""
    name, arguments = update(
        at("customer#a", "keys"),
        "ADD #keys :new",
        "attribute_exists(#keys) AND size(#keys) <= :most",
        new=new,
        most=most,
    )
    return name, {**arguments, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}


NEW: Final = "attribute_not_exists(#pk)"
AS_READ: Final = "#version = :version"
PEAK: Final = "attribute_not_exists(#peak) OR #peak < :peak"
LEASE: Final = "attribute_not_exists(#until) OR #until <= :now OR #holder = :holder"
CURSOR: Final = "attribute_not_exists(#hour) OR #hour < :hour"
CLOSED: Final = "attribute_not_exists(#state) OR #state <> :closed"
SAME: Final = "#name = :name AND #stripe_customer = :stripe_customer"
FREE: Final = "attribute_not_exists(#pk) OR #customer = :customer"
NONE: Final = "attribute_not_exists(#pk) OR #stripe_customer = :none"
MARKED: Final = "SET #mark = :mark ADD #times :once"
MARK: Final = at("late#0", "2026-11-22T05#key#a")
ROWS: Final = [put(at("customer#a", f"usage#{n}", version=1, pending="P#1" if n % 2 else "P#2")) for n in range(1, 6)]
KEYS: Final = [put(at("hour#1", f"key{n}#{slot}", **{"n:requests": n})) for n in range(1, 4) for slot in (0, 12)]

CASES: Final[Mapping[str, Sequence[Call]]] = {
    "a batch counts once": [counting(TOKENS[0], 5), counting(TOKENS[0], 5), counting(TOKENS[1], 3)],
    "batches count together, or are refused with what is there": [
        counting_together([*TOKENS], 5),
        counting_together([b"c" * 12, TOKENS[1]], 5),
        counting_together([b"c" * 12, b"d" * 12, b"e" * 12], 7),
    ],
    "values of a split find room, or are refused with what is there": [
        telling_apart(TOKENS[0], [b"v" * 8], 0),
        telling_apart(TOKENS[0], [b"w" * 8], 9),
        telling_apart(TOKENS[1], [b"v" * 8, b"w" * 8], 0),
        telling_apart(TOKENS[1], [b"v" * 8, b"w" * 8], 1),
        telling_apart(b"c" * 12, [b"x" * 8], -1, "key2#0"),
        telling_apart(b"d" * 12, [b"y" * 8], -1, "key2#0"),
        counting(b"e" * 12, 2),
        telling_apart(b"f" * 12, [b"z" * 8], 1),
        telling_apart(b"f" * 12, [b"z" * 8], 2),
    ],
    "a peak rises": [
        update(at("hour#1", "key1#max"), "SET #peak = :peak, #ttl = :ttl", PEAK, peak=peak, ttl=1)
        for peak in (5, 5, 4, 10, 9)
    ],
    "a mark is made anew": [update(MARK, MARKED, mark=mark, once=1) for mark in ("x", "y")],
    "a mark is cleared unless it was renewed": [
        *(update(MARK, MARKED, mark=mark, once=1) for mark in ("x", "y")),
        *(delete(MARK, "#mark = :mark AND #times = :times", mark="y", times=times) for times in (1, 2, 2)),
    ],
    "keys are listed until they are too many": [
        listing(["k1"], 2),
        update(at("customer#a", "keys"), "ADD #keys :keys", keys=["-", "k1"]),
        listing(["k2"], 2),
        listing(["k2"], 2),
        listing(["k3"], 2),
    ],
    "a key that a set names, or not, leaves it; an item that is not there is not made": [
        update(at("customer#a", "keys"), "DELETE #keys :gone", "attribute_exists(#keys)", gone=["k1"]),
        update(at("customer#a", "keys"), "ADD #keys :keys", keys=["-", "k1"]),
        update(at("customer#a", "keys"), "DELETE #keys :gone", "attribute_exists(#keys)", gone=["k1"]),
        update(at("customer#a", "keys"), "DELETE #keys :gone", "attribute_exists(#keys)", gone=["k1"]),
        update(at("customer#a", "keys"), "DELETE #keys :gone", "attribute_exists(#keys)", gone=["-"]),
    ],
    "what is there gets a name, or none": [
        update(at("customer#a", "key#1"), "SET #name = :name", "attribute_exists(#pk)", name="CI"),
        put(at("customer#a", "key#1"), NEW),
        update(at("customer#a", "key#1"), "SET #name = :name", "attribute_exists(#pk)", name="CI"),
        put(at("customer#a", "key#1"), NEW),
        update(at("customer#a", "key#1"), "SET #name = :name", "attribute_exists(#pk)", name=""),
    ],
    "an item is made once": [
        put(at("a", "b", version=1), NEW),
        put(at("a", "b", version=2), NEW),
        ("put_item", {**put(at("a", "b", version=2), NEW)[1], "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}),
    ],
    "an item is written as it was read": [
        put(at("a", "b", version=1), AS_READ, version=1),
        put(at("a", "b", version=1)),
        put(at("a", "b", version=2), AS_READ, version=1),
        put(at("a", "b", version=2), AS_READ, version=1),
        delete(at("a", "b"), AS_READ, version=1),
        delete(at("a", "b"), AS_READ, version=2),
        delete(at("a", "b")),
    ],
    "a claim is taken over as it was read, once": [
        put(at("unique#users", "v#", batch=TOKENS[1]), "#batch = :before", before=TOKENS[0]),
        put(at("unique#users", "v#", batch=TOKENS[0]), NEW),
        put(at("unique#users", "v#", batch=TOKENS[1]), "#batch = :before", before=TOKENS[0]),
        put(at("unique#users", "v#", batch=b"c" * 12), "#batch = :before", before=TOKENS[0]),
    ],
    "who is asked for anew stays so": [
        put(at("gate", "acme", value="earlier")),
        delete(at("gate", "acme"), "#value = :value", value="other"),
        put(at("gate", "acme", value="later"), "#value = :value", value="other"),
        put(at("gate", "acme", value="later"), "#value = :value", value="earlier"),
        delete(at("gate", "acme"), "#value = :value", value="later"),
        delete(at("gate", "acme"), "#value = :value", value="later"),
    ],
    "what changes is numbered": [
        update(at("limits#acme", "changes"), "ADD #number :one", one=1),
        update(at("limits#acme", "changes"), "ADD #number :one", one=1),
        update(at("head", "near"), "ADD #number :one SET #jump = :jump", one=1, jump="{}"),
        update(at("head", "near"), "ADD #number :one SET #jump = :jump", one=1, jump="later"),
    ],
    "a lease is taken when it has ended, or by its holder": [
        put(at("posting", "lease#1", holder=who, until=until), LEASE, holder=who, now=now)
        for who, now, until in (("a", 1, 9), ("b", 8, 20), ("a", 8, 12), ("b", 12, 20), ("a", 13, 30))
    ]
    + [delete(at("posting", "lease#1"), "#holder = :holder", holder=who) for who in ("a", "b", "b")],
    "a cursor goes forward": [put(at("p", "c", hour=h), CURSOR, hour=h) for h in ("T05", "T04", "T05", "T06")],
    "what is closed stays closed": [
        put(at("p", "s", state=state), CLOSED, closed="CLOSED") for state in ("WRITTEN", "WRITTEN", "CLOSED", "WRITTEN")
    ],
    "a customer is claimed with its Stripe customer, or not at all": [
        together(
            put(at(f"customer#{name}", "profile", name=name, stripe_customer="cus_1"), NEW),
            put(at("list#customers", name)),
            put(at("stripe#cus_1", "owner", customer=name), FREE, customer=name),
        )
        for name in ("a", "a", "b")
    ]
    + [
        put(at("customer#a", "profile", name="b"), SAME, name=name, stripe_customer=whom)
        for name, whom in (("x", "cus_1"), ("a", "cus_2"), ("a", "cus_1"), ("b", "cus_1"))
    ],
    "a row is held while there is no Stripe customer": [
        together(
            put(at("customer#a", "usage#1", version=version), AS_READ if version else NEW, **seen),
            check(at("customer#a", "profile"), NONE, none=""),
        )
        for version, seen in ((0, {}), (1, {"version": 0}))
    ]
    + [
        put(at("customer#a", "profile", stripe_customer="cus_1")),
        together(put(at("customer#a", "usage#2")), check(at("customer#a", "profile"), NONE, none="")),
        put(at("customer#a", "profile", stripe_customer="")),
        together(put(at("customer#a", "usage#2")), check(at("customer#a", "profile"), NONE, none="")),
    ],
    "a change is written together with the mark of its hour": [
        together(put(at("customer#a", "change#1", amount=5), NEW), update(MARK, MARKED, mark=mark, once=1))
        for mark in ("x", "y")
    ],
    "items are read whole or in part": [
        *KEYS,
        counting(TOKENS[0], 5),
        ("get_item", {"Key": at("hour#1", "key1#0"), "ConsistentRead": True}),
        ("get_item", {"Key": at("hour#1", "none"), "ConsistentRead": True}),
        (
            "get_item",
            {
                "Key": at("hour#1", "key1#0"),
                "ProjectionExpression": "#batches",
                "ExpressionAttributeNames": {"#batches": "batches"},
            },
        ),
        (
            "batch_get_item",
            {"RequestItems": {TABLE: {"Keys": [at("hour#1", f"key{n}#0") for n in (1, 3, 9)], "ConsistentRead": True}}},
        ),
    ],
    "a partition is read in order": [
        *KEYS,
        query("#pk = :pk", pk="hour#1"),
        query("#pk = :pk", pk="hour#2"),
        query("#pk = :pk AND begins_with(#sk, :first)", pk="hour#1", first="key2#"),
        query("#pk = :pk AND begins_with(#sk, :beginning)", pk="hour#1", beginning="key3#"),
        query("#pk = :pk AND #sk BETWEEN :first AND :last", pk="hour#1", first="key1#12", last="key3#0"),
        query("#pk = :pk AND #sk BETWEEN :first AND :last", pk="hour#1", first="key1#", last="key2#~", limit=3),
        query("#pk = :pk AND #sk BETWEEN :first AND :last", pk="hour#1", first="key1#", last="key2#~", limit=5),
        query("#pk = :pk AND #sk BETWEEN :first AND :end", pk="hour#1", first="key1#", end="key2", projection="#sk"),
        query("#pk = :pk AND #sk > :first", pk="hour#1", first="key2#0"),
    ],
    "an index shows what is pending": [
        *ROWS,
        put(at("customer#a", "usage#3", version=2), AS_READ, version=1),
        put(at("customer#b", "usage#2", version=1, pending="P#1")),
        query("#pk = :pk", pk="P#1", index="pending"),
        query("#pk = :pk AND #sk BETWEEN :first AND :last", pk="P#2", first="usage#3", last="usage#~", index="pending"),
    ],
    "an index is counted, and read on from a place": [
        *ROWS,
        *(pending_from("usage#1", limit=most, count=True) for most in (1, 2, 4)),
        pending_from("usage#2", limit=9, count=True),
        *(pending_from("usage#1", "#base, #sk", limit=most) for most in (1, 2, 9)),
        pending_from("usage#1", "#base, #sk", limit=1, after=at("customer#a", "usage#1", pending="P#1")),
        pending_from("usage#1", limit=9, after=at("customer#a", "usage#2", pending="P#1"), count=True),
        pending_from("usage#1", "#base, #sk", limit=9, after=at("customer#a", "usage#5", pending="P#1")),
    ],
    "all is read": [
        *KEYS,
        ("scan", {"ConsistentRead": True}),
        ("scan", {"ProjectionExpression": "#pk, #sk", "ExpressionAttributeNames": {"#pk": "pk", "#sk": "sk"}}),
    ],
}


def answers(client: Any, calls: Sequence[Call]) -> Iterator[Any]:
    """Yield what calls are answered, and at last all that the table holds; what is in no order is sorted."""
    for name, arguments in [*calls, ("scan", {})]:
        whole = arguments if name in ("transact_write_items", "batch_get_item") else {"TableName": TABLE, **arguments}
        try:
            yield answered(getattr(client, name)(**whole), ordered=name == "query")
        except ClientError as error:
            said: Any = error.response
            reasons = [reason["Code"] for reason in said.get("CancellationReasons", [])]
            yield error.response["Error"]["Code"], reasons, in_order(said.get("Item", {}))


def in_order(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item whose attributes and sets are in order."""
    return {name: sorted(value.get("BS", value.get("SS", []))) or value for name, value in sorted(item.items())}


def answered(answer: Mapping[str, Any], *, ordered: bool) -> dict[str, Any]:
    """Return what an answer says that the code reads."""
    items = [*answer.get("Items", []), *answer.get("Responses", {}).get(TABLE, [])]
    shown = [in_order(item) for item in items]
    return {
        "items": shown if ordered else sorted(shown, key=str),
        "item": answer.get("Item"),
        "after": answer.get("LastEvaluatedKey"),
        "count": None if "Items" in answer else answer.get("Count"),
        "unprocessed": answer.get("UnprocessedKeys") or {},
    }


def in_memory(calls: Sequence[Call]) -> list[Any]:
    """Return the answers of the tables in memory."""
    return list(answers(Client("dynamodb", Tables([TABLE])), calls))


@pytest.mark.parametrize("case", CASES)
def test_moto_answers_as_the_tables_in_memory_do(
    case: str, template: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a table as the template defines it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        client: Any = boto3.client("dynamodb", region_name="us-east-1")
        client.create_table(TableName=TABLE, **table_definition(template, "Ledger"))
        assert list(answers(client, CASES[case])) == in_memory(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_dynamodb_answers_as_the_tables_in_memory_do(
    case: str, template: dict[str, Any], dynamodb_local: DynamoDBLocal
) -> None:
    """In AWS's own engine."""
    client: Any = dynamodb_local.client()
    client.create_table(TableName=TABLE, **table_definition(template, "Ledger"))
    try:
        assert list(answers(client, CASES[case])) == in_memory(CASES[case])
    finally:
        client.delete_table(TableName=TABLE)


_EXPRESSION: Final = re.compile(r"#\w+ (=|<|>|<=|<>|BETWEEN|:)|\w+\(#\w+(, :\w+)?\)")


def test_every_expression_of_the_code_is_asked() -> None:
    """Whoever writes another one adds it here."""
    asked = {
        text
        for calls in CASES.values()
        for _, arguments in calls
        for part in (one for write in arguments.get("TransactItems", [arguments]) for one in (write, *write.values()))
        if isinstance(part, dict)
        for name, text in part.items()
        if name.endswith("Expression")
    }
    written = [
        text
        for folder in ("functions", "infra/operate")
        for file in sorted(Path(ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(text := node.value, str)
        if "\n" not in text and _EXPRESSION.search(text)
    ]
    assert len(written) > 15
    assert [text for text in written if not any(text in one for one in asked)] == []
