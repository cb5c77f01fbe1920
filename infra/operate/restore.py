"""Restoring the ledger: a table that DynamoDB restored from a point in time, copied into the deployment's own.

DynamoDB restores into a new table, and a stack cannot take over another one. So the items are copied, and those that
the restored table does not have are deleted. Whether posting is on stays as it is now, which is off, and so does what
is connected, which is how things stand at AWS: a log group that is subscribed, and of which the ledger knows nothing,
would be read for usage lines, and any caller of its API could write one.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from infra.operate.deployment import Deployment, OperatorError
from metering.model.limits import Level
from metering.stores.aws import Item, in_pieces, side_by_side
from metering.stores.connections import is_of_connections
from metering.stores.gate_list import Asked, GateList
from metering.stores.holders import Holders
from metering.stores.switch import POSTING
from metering.stores.table import unchanged

_PIECE: Final = 1000
_KEY: Final = "#pk, #sk"
_NAMES: Final = {"#pk": "pk", "#sk": "sk"}

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done; ``closed_before`` is the hour up to which the restored ledger is closed, empty if none was.

    ``epoch`` is the one that identifiers begin with until the stack is deployed with the next.
    """

    written: int
    deleted: int
    closed_before: str
    epoch: int


def restore(deployment: Deployment, table: str, *, progress: Progress) -> Restored:
    """Make the ledger what ``table`` holds; it may be interrupted and run again.

    Raises OperatorError unless posting is off and ``close_periods`` is stopped, or if the table is no ledger.
    """
    dynamodb, ledger = deployment.client("dynamodb"), deployment.outputs.ledger_table
    _check_stopped(deployment)
    _check_table(dynamodb, table, ledger)
    kept: set[tuple[str, str]] = set()
    written = 0
    for piece in progress(*_pieces(dynamodb, table)):
        items = [item for item in piece if item["pk"]["S"] != POSTING]
        side_by_side(partial(_put, dynamodb, ledger), items)
        kept |= {_key(item) for item in items}
        written += len(items)
    gone = [
        item
        for item in _scan(dynamodb, ledger, ProjectionExpression=_KEY, ExpressionAttributeNames=_NAMES)
        if _key(item) not in kept and item["pk"]["S"] != POSTING and not is_of_connections(item["pk"]["S"])
    ]
    for piece in progress(in_pieces(gone, _PIECE), len(gone) // _PIECE + 1):
        side_by_side(lambda key: dynamodb.delete_item(TableName=ledger, Key=key), piece)
    if deployment.outputs.access_table:
        gate = GateList(dynamodb, deployment.outputs.access_table)
        ask_for_all(deployment.ledger.holders, gate, now=datetime.now(UTC))
    cursor = deployment.ledger.progress.cursor()
    return Restored(written, len(gone), str(cursor or ""), _epoch(deployment))


def _put(dynamodb: Any, ledger: str, item: Item) -> None:
    """Write an item; what tells of connections only where nothing does any more."""
    if not is_of_connections(item["pk"]["S"]):
        dynamodb.put_item(TableName=ledger, Item=item)
        return
    with suppress(dynamodb.exceptions.ConditionalCheckFailedException):
        dynamodb.put_item(TableName=ledger, Item=item, **unchanged(0))


def ask_for_all(holders: Holders, gate: GateList, *, now: datetime) -> None:
    """Ask the gate to look at every customer: what it has done since is in the ledger no longer."""
    asked = Asked(Level.OPEN, int(now.timestamp()), saved=True)
    for names in in_pieces([*holders.customer_ids()], _PIECE):
        side_by_side(lambda name: gate.ask(name, asked), names)


def _check_stopped(deployment: Deployment) -> None:
    if deployment.switch.read().on:
        raise OperatorError("posting must be off while the ledger is restored: 'metering posting off'")
    functions, name = deployment.client("lambda"), deployment.outputs.close_periods_function
    allowed = functions.get_function_concurrency(FunctionName=name).get("ReservedConcurrentExecutions")
    if allowed != 0:
        raise OperatorError(
            "close_periods must be stopped while the ledger is restored: 'aws lambda put-function-concurrency "
            f"--function-name {name} --reserved-concurrent-executions 0'"
        )


def _check_table(dynamodb: Any, table: str, ledger: str) -> None:
    if table == ledger:
        raise OperatorError(f"{table} is the ledger itself: name the table that DynamoDB restored")
    try:
        described = dynamodb.describe_table(TableName=table)["Table"]
    except dynamodb.exceptions.ResourceNotFoundException as error:
        raise OperatorError(f"there is no table {table!r} in this account and Region") from error
    if described["TableStatus"] != "ACTIVE":
        raise OperatorError(f"the table {table} is {described['TableStatus']}: wait until it is ACTIVE")
    if described["KeySchema"] != dynamodb.describe_table(TableName=ledger)["Table"]["KeySchema"] or not any(
        item["pk"]["S"].partition("#")[0] in ("period", "list", "customer") for item in _scan(dynamodb, table, Limit=50)
    ):
        raise OperatorError(f"the table {table} holds no ledger: name the one that DynamoDB restored")


def _pieces(dynamodb: Any, table: str) -> tuple[Iterator[list[Item]], int]:
    """Return a table's items in pieces, and about how many pieces there are."""
    pages = dynamodb.get_paginator("scan").paginate(TableName=table, ConsistentRead=True, Limit=_PIECE)
    about = dynamodb.describe_table(TableName=table)["Table"].get("ItemCount", 0)
    return (page["Items"] for page in pages), about // _PIECE + 1


def _scan(dynamodb: Any, table: str, **arguments: Any) -> Iterator[Item]:
    pages = dynamodb.get_paginator("scan").paginate(TableName=table, ConsistentRead=True, **arguments)
    return (item for page in pages for item in page["Items"])


def _key(item: Item) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"]


def _epoch(deployment: Deployment) -> int:
    functions, name = deployment.client("lambda"), deployment.outputs.post_usage_function
    return int(functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]["LEDGER_EPOCH"])
