"""Calls by the short way: what they write and read, and what a refusal, an error or no answer does, is as by boto3."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import msgspec
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

from metering.model.subjects import customer
from metering.model.usage_row import State, Total, UsageRow
from metering.stores.decoding import as_items, decode_fast, page_of
from metering.stores.lean_calls import LeanCall, call_leanly
from metering.stores.rows import Rows
from metering.stores.table import RowChangedError, Table
from tests.doubles.dynamodb_local import DynamoDBLocal, table_definition
from tests.integration.world import HOUR

OK = (200, b"{}")
DOWN = (500, b'{"__type":"com.amazonaws.dynamodb.v20120810#InternalServerError"}')
SLOW_DOWN = (400, b'{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"slow down"}')
DENIED = (400, b'{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"may not"}')
REFUSED = (400, b'{"__type":"com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException","message":"no"}')
GARBLED = (400, b"ConditionalCheckFailedException")
ITEM = {"pk": {"S": "a"}, "sk": {"S": "é"}, "n": {"N": "1"}}


class Scripted:
    """A DynamoDB that answers as it is told; it keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.asked: list[tuple[dict[str, str], dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.append(({name.lower(): value for name, value in self.headers.items()}, json.loads(body)))
                status, answer = outer.answers.pop(0)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def client(self) -> Any:
        """Return a client of it whose calls are lean."""
        return call_leanly(client_at(self.server.server_port))


def client_at(port: int) -> Any:
    """Return boto3's own client of something on this machine."""
    return boto3.client(
        "dynamodb",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="secret",
        aws_session_token="token",
        config=Config(retries={"mode": "standard", "total_max_attempts": 3}, connect_timeout=1, read_timeout=1),
    )


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """It, until the test is over; boto3 waits for nobody."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    found = Scripted()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_a_put_is_one_signed_request(scripted: Scripted) -> None:
    """By the client's own signer, with the token of a function's role."""
    scripted.answers = [OK]
    Table(scripted.client(), "ledger").put_as_read(ITEM, version=3)
    ((headers, body),) = scripted.asked
    assert headers["x-amz-target"] == "DynamoDB_20120810.PutItem"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert headers["x-amz-security-token"] == "token"
    assert body == {
        "TableName": "ledger",
        "Item": ITEM,
        "ConditionExpression": "#version = :version",
        "ExpressionAttributeNames": {"#version": "version"},
        "ExpressionAttributeValues": {":version": {"N": "3"}},
    }


@pytest.mark.parametrize("answers", [[DOWN, OK], [SLOW_DOWN, DOWN, OK]])
def test_what_boto3_tries_again_is_tried_again(scripted: Scripted, answers: list[tuple[int, bytes]]) -> None:
    """As often as it is told to, after the first."""
    scripted.answers = [*answers]
    Table(scripted.client(), "ledger").put(ITEM)
    assert [body for _, body in scripted.asked] == [{"TableName": "ledger", "Item": ITEM}] * len(answers)


def test_what_stays_wrong_is_raised_as_boto3_raises_it(scripted: Scripted) -> None:
    """In its own class, with its code."""
    scripted.answers = [DOWN] * 4
    with pytest.raises(ClientError, match="InternalServerError"):
        Table(scripted.client(), "ledger").put(ITEM)
    scripted.answers = [DENIED] * 2
    with pytest.raises(ClientError, match="AccessDeniedException"):
        Table(scripted.client(), "ledger").put(ITEM)
    scripted.answers = [GARBLED] * 2
    with pytest.raises(ClientError):
        Table(scripted.client(), "ledger").put(ITEM)
    assert scripted.answers == []


def test_a_condition_that_refuses_is_asked_once(scripted: Scripted) -> None:
    """It is an answer, in the client's own class."""
    client = scripted.client()
    scripted.answers = [REFUSED]
    with pytest.raises(client.exceptions.ConditionalCheckFailedException, match="no"):
        client.put_item(TableName="ledger", Item=ITEM, ConditionExpression="attribute_not_exists(pk)")
    scripted.answers = [REFUSED]
    with pytest.raises(RowChangedError):
        Table(client, "ledger").put_as_read(ITEM, version=1)
    assert len(scripted.asked) == 2


def test_a_replay_meets_its_own_write(scripted: Scripted) -> None:
    """I4: the first attempt landed, and its answer was an error: the caller reads again."""
    scripted.answers = [DOWN, REFUSED]
    with pytest.raises(RowChangedError):
        Table(scripted.client(), "ledger").put_as_read(ITEM, version=1)


def test_nobody_there_is_boto3s_own_error() -> None:
    """A connection that is refused."""
    with pytest.raises(EndpointConnectionError):
        Table(call_leanly(client_at(1)), "ledger").put(ITEM)


def test_what_is_asked_for_besides_is_answered(scripted: Scripted) -> None:
    """What a call used, for one."""
    scripted.answers = [(200, b'{"ConsumedCapacity":{"TableName":"ledger","CapacityUnits":1.0}}')]
    answer = scripted.client().put_item(TableName="ledger", Item=ITEM, ReturnConsumedCapacity="TOTAL")
    assert answer["ConsumedCapacity"]["CapacityUnits"] == 1.0


def test_behind_a_proxy_calls_go_by_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows how to reach one."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert not isinstance(call_leanly(client_at(2)).put_item, LeanCall)


def test_dynamodb_takes_rows_by_the_short_way(template: dict[str, Any], dynamodb_local: DynamoDBLocal) -> None:
    """AWS's own engine: written as read, and refused otherwise."""
    client: Any = dynamodb_local.client()
    client.create_table(TableName="lean", **table_definition(template, "Ledger"))
    try:
        rows = Rows(call_leanly(dynamodb_local.client()), "lean")
        row = UsageRow(customer("société"), HOUR, totals={"requests": Total(10**30, 1, State.PENDING, split={"é": 1})})
        written = rows.save(row)
        assert Rows(client, "lean").at(HOUR, [row.subject]) == {row.subject: written}
        with pytest.raises(RowChangedError):
            rows.save(row)
        assert rows.save(written).version == 2
    finally:
        client.delete_table(TableName="lean")


def test_a_transaction_that_is_made_again_is_the_same_one(scripted: Scripted) -> None:
    """I2: the first attempt may have landed."""
    scripted.answers = [DOWN, OK]
    scripted.client().transact_write_items(TransactItems=[{"Put": {"TableName": "ledger", "Item": ITEM}}])
    first, second = (body["ClientRequestToken"] for _, body in scripted.asked)
    assert first == second


CANCELED = (
    b'{"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException","Message":"no",'
    b'"CancellationReasons":[{"Code":"TransactionConflict"},{"Code":"None"}]}'
)


def test_a_transaction_that_is_canceled_says_why(scripted: Scripted) -> None:
    """It is an answer, in the client's own class, and is not asked for again here."""
    client = scripted.client()
    scripted.answers = [(400, CANCELED)]
    with pytest.raises(client.exceptions.TransactionCanceledException, match="no") as caught:
        client.transact_write_items(TransactItems=[{"Put": {"TableName": "ledger", "Item": ITEM}}])
    reasons: Any = caught.value.response
    assert [reason["Code"] for reason in reasons["CancellationReasons"]] == ["TransactionConflict", "None"]


def test_what_is_read_by_the_short_way_is_what_boto3_reads(
    template: dict[str, Any], dynamodb_local: DynamoDBLocal
) -> None:
    """Pages, bytes and sets of them, numbers, lists and maps; what is not there; and what refuses a write."""
    whole: Any = dynamodb_local.client()
    whole.create_table(TableName="lean", **table_definition(template, "Ledger"))
    lean: Any = call_leanly(dynamodb_local.client())
    try:
        items = [
            {**ITEM, "sk": {"S": f"é{n}"}, "b": {"B": bytes([n, 255])}, "bs": {"BS": [b"a", bytes([n])]}}
            for n in range(9)
        ]
        for item in items:
            lean.put_item(
                TableName="lean", Item=item | {"l": {"L": [{"M": {"x": {"BOOL": True}}}]}, "s": {"SS": ["é"]}}
            )
        asked: dict[str, Any] = {
            "TableName": "lean",
            "KeyConditionExpression": "#pk = :pk",
            "ExpressionAttributeNames": {"#pk": "pk"},
            "ExpressionAttributeValues": {":pk": {"S": "a"}},
            "ConsistentRead": True,
            "Limit": 4,
        }
        pages = [client.get_paginator("query").paginate(**asked) for client in (lean, whole)]
        found = [[(page["Items"], page.get("LastEvaluatedKey")) for page in some] for some in pages]
        assert found[0] == found[1]
        assert sum(len(some) for some, _ in found[0]) == 9
        keys = [{"pk": {"S": "a"}, "sk": {"S": sk}} for sk in ("é3", "none")]
        answers = [client.batch_get_item(RequestItems={"lean": {"Keys": keys}}) for client in (lean, whole)]
        assert answers[0]["Responses"] == answers[1]["Responses"]
        assert answers[0]["UnprocessedKeys"] == answers[1]["UnprocessedKeys"] == {}
        refusals = []
        for client in (lean, whole):
            with pytest.raises(client.exceptions.ConditionalCheckFailedException) as caught:
                client.put_item(
                    TableName="lean",
                    Item=items[0],
                    ConditionExpression="attribute_not_exists(pk)",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
            refusals.append(caught.value.response["Item"])
        assert refusals[0] == refusals[1]
    finally:
        whole.delete_table(TableName="lean")


def test_a_client_that_decodes_fast_reads_by_boto3(template: dict[str, Any], dynamodb_local: DynamoDBLocal) -> None:
    """Its event does the decoding; what it writes still goes the short way."""
    client: Any = call_leanly(dynamodb_local.client())
    client.create_table(TableName="lean", **table_definition(template, "Ledger"))
    try:
        decode_fast(client)
        client.put_item(TableName="lean", Item=ITEM)
        assert [isinstance(one, LeanCall) for one in (client.query, client.put_item)] == [False, True]

        class Shown(msgspec.Struct):
            n: dict[str, int]

        with as_items(page_of(Shown)):
            found: Any = list(Table(client, "lean").query("a"))
            assert found == [Shown({"N": 1})]
    finally:
        client.delete_table(TableName="lean")
