"""Connections that tests begin with: a stage of each form, and a log group of usage lines."""

from datetime import datetime
from typing import Any, Final

import boto3

from metering.model.connections import Connection, Form, Step
from metering.model.log_format import Api

BEGUN: Final = datetime.fromisoformat("2026-11-22T03:10:00+00:00")

ORDERS: Final = Connection(
    name="orders",
    form=Form.OURS,
    step=Step.CONNECTED,
    log_group="/aws/vendedlogs/metering/orders",
    since=int(BEGUN.timestamp() * 1000),
    by="arn:aws:iam::123456789012:user/ops",
    api=Api.REST,
    api_id="a1b2c3",
    api_name="Orders",
    stage="v1",
)
JOBS: Final = Connection(
    name="jobs", form=Form.USAGE, step=Step.CONNECTED, log_group="/app/jobs", since=ORDERS.since, by=ORDERS.by
)


def make_log_group(name: str) -> None:
    """Make a log group with one stream."""
    logs: Any = boto3.client("logs")
    logs.create_log_group(logGroupName=name)
    logs.create_log_stream(logGroupName=name, logStreamName="stream")


def write_lines(name: str, lines: dict[str, datetime]) -> None:
    """Write lines into a log group's stream, each with its moment."""
    events: Any = [{"message": line, "timestamp": int(at.timestamp() * 1000)} for line, at in lines.items()]
    boto3.client("logs").put_log_events(logGroupName=name, logStreamName="stream", logEvents=events)
