"""A stage of somebody else's that is connected: what it is, what it writes, and its log group."""

from typing import Any

import boto3

from infra.local.aws.log_line import render
from metering.model.connections import Connection, Form, StageLog, Step
from metering.model.log_format import Api
from metering.stores.connections import Connections
from tests.integration.raw import DEPLOYED, Raw

THEIR_LOG = "/their/orders"
THEIR_FORMAT = (
    '{"id":"$context.requestId","at":"$context.requestTime","status":$context.status,"size":$context.responseLength,"route":"$context.routeKey",'
    '"sub":"$context.authorizer.claims.sub"}'
)
ORDERS = Connection(
    "orders",
    Form.THEIRS,
    Step.CONNECTED,
    THEIR_LOG,
    since=int(DEPLOYED.timestamp() * 1000),
    by="arn:aws:iam::123456789012:user/operator",
    api=Api.HTTP,
    api_id="a1b2c3d4e5",
    api_name="Orders",
    stage="$default",
    caller="authorizer.claims.sub",
    before=StageLog("arn", THEIR_FORMAT),
    after=StageLog("arn", THEIR_FORMAT),
)
CALLED = {
    "requestId": "JKJaXmPLvHcESHA=",
    "requestTime": "22/Nov/2026:05:29:00 +0000",
    "status": "200",
    "responseLength": "10",
    "routeKey": "GET /items/{id}",
    "authorizer.claims.sub": "ann",
    "apiId": "a1b2c3d4e5",
    "stage": "$default",
}


def connect(raw: Raw, *connections: Connection) -> None:
    """Write connections into the ledger, and let their log groups be there since they began."""
    logs: Any = boto3.client("logs")
    for connection in connections:
        Connections(raw.world.ledger.client, raw.world.ledger.table).save(connection)
        there = logs.describe_log_groups(logGroupNamePrefix=connection.log_group)["logGroups"]
        if not there:
            now, raw.world.now = raw.world.now, DEPLOYED
            logs.create_log_group(logGroupName=connection.log_group)
            logs.create_log_stream(logGroupName=connection.log_group, logStreamName="stream")
            raw.world.now = now


def theirs(number: int = 1, **changes: str) -> str:
    """Return a line of the stage's own format."""
    return render(THEIR_FORMAT, CALLED | {"requestId": f"call-{number}="} | changes)
