"""A deployment whose lines are in the archive, delivered or not."""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import boto3

from infra.operate.deployment import Deployment
from infra.operate.recount.compared import Compared
from infra.operate.recount.recount import Recount
from infra.outputs import METADATA
from metering.model.batches import Source, batch_of
from metering.model.metrics import Metric, encode
from metering.model.periods import Hour
from metering.stores.declarations import Declarations
from metering.stores.table import item_key
from tests.doubles.outputs import outputs
from tests.integration.world import ACCESS_LOG_GROUP, HOUR, World

JOBS_LOG = "jobs"
NEXT = HOUR.next()
DEPLOYED = HOUR.start - timedelta(days=1)
INVOKING = [ACCESS_LOG_GROUP, JOBS_LOG]
"""The log groups that may invoke record_usage, each by a statement of its own."""

WHO = "arn:aws:iam::123456789012:user/operator"


class Lambda:
    """Lambda's client, as far as it tells which log groups may invoke a function."""

    def get_policy(self, **_: str) -> dict[str, str]:
        """Return a policy with a statement for each log group."""
        arns = [f"arn:aws:logs:us-east-1:123456789012:log-group:{group}:*" for group in INVOKING]
        statements = [{"Condition": {"ArnLike": {"AWS:SourceArn": arn}}} for arn in arns]
        return {"Policy": json.dumps({"Statement": statements})}


@dataclass
class CloudFormation:
    """CloudFormation's client, as far as it tells which metrics the world bills."""

    world: World

    def get_template(self, **_: str) -> dict[str, Any]:
        """Return a template's metadata."""
        return {"TemplateBody": {"Metadata": {METADATA: {"metrics": json.loads(encode(self.world.metrics))}}}}


@dataclass
class Raw:
    """A deployment whose lines are in the archive, delivered or not."""

    world: World
    numbers: Iterable[int] = field(default_factory=lambda: iter(range(1000)))

    @property
    def deployment(self) -> Deployment:
        """The world as the command line reaches it."""
        ours = {"cloudformation": CloudFormation(self.world), "lambda": Lambda()}
        told = outputs(access_log_group=ACCESS_LOG_GROUP)
        return Deployment(lambda name, **_: ours.get(name) or boto3.client(name), told)

    def log(self, *lines: str, group: str = ACCESS_LOG_GROUP, hour: Hour = HOUR) -> list[str]:
        """Write lines into a log group at half past, and return their ids."""
        logs: Any = boto3.client("logs")
        at = int((hour.start + timedelta(minutes=30)).timestamp() * 1000)
        logs.put_log_events(
            logGroupName=group,
            logStreamName="stream",
            logEvents=[{"timestamp": at, "message": line} for line in lines],
        )
        found = logs.filter_log_events(logGroupName=group)["events"]
        return [event["eventId"] for event in found[-len(lines) :]]

    def deliver(self, *lines: str, source: Source = Source.ACCESS_LOG, hour: Hour = HOUR) -> None:
        """Write lines into a log group, from which they are counted."""
        group = ACCESS_LOG_GROUP if source is Source.ACCESS_LOG else JOBS_LOG
        ids = self.log(*lines, group=group, hour=hour)
        self.world.recorder().record(batch_of(ids, lines, source, f"{group} stream"))

    def archive(self, *lines: str, hour: Hour = HOUR, name: str = "") -> None:
        """Write lines into an object of the archive, as Firehose does."""
        key = f"access-log/{hour.start:%Y/%m/%d/%H}/{name or next(iter(self.numbers))}.gz"
        body = gzip.compress("".join(f"{line}\n" for line in lines).encode())
        boto3.client("s3").put_object(Bucket="bucket", Key=key, Body=body)

    def recount(self, only: str | None = None, first: Hour = HOUR, end: Hour = NEXT, **more: Any) -> list[Compared]:
        """Compare."""
        work = Recount(self.deployment, only, self.world.now, **more)
        return [line for lines in work.compare(first, end) for line in lines]

    def fix(self, only: str | None = None, *, hour: Hour = HOUR, lower: bool = False) -> list[Compared]:
        """Compare and mend."""
        work = Recount(self.deployment, only, self.world.now)
        lines = [line for of_hour in work.compare(hour, hour.next()) for line in of_hour]
        return [work.fix(line, WHO, lower=lower) if line.stays else line for line in lines]

    def declare(self, *metrics: Metric, at: datetime) -> None:
        """Bill by these metrics from now on, which close_periods has noted then."""
        self.world.bill(*metrics)
        self.noted(at)

    def declared_ever_since(self, *metrics: Metric) -> None:
        """Bill by these metrics, which were never others."""
        self.world.metrics = metrics
        self.forget_notes()
        self.noted(HOUR.month_begin.start - timedelta(days=1))

    def forget_notes(self) -> None:
        """Forget what was declared, as a deployment that has just come from an older version."""
        self.world.ledger.client.delete_item(TableName="ledger", Key=item_key("period#declared", "000000"))

    def noted(self, at: datetime) -> None:
        """Let close_periods have noted then what is declared."""
        Declarations(self.world.ledger.client, self.world.ledger.table).note(encode(self.world.metrics), at)


def raw_of(world: World) -> Raw:
    """Return a deployment of a day ago with one customer, in its hour, with logs that take lines of any time."""
    began, world.now = world.now, DEPLOYED
    logs = boto3.client("logs")
    for group in (ACCESS_LOG_GROUP, JOBS_LOG):
        logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName="stream")
    world.now = began
    world.customer("acme", "key1")
    raw = Raw(world)
    raw.noted(DEPLOYED)
    return raw


def said(lines: Iterable[Compared]) -> dict[str, tuple[int, int, int | None, int]]:
    """Return by metric what was recounted, counted, what the ledger has, and the difference."""
    return {line.metric: (line.recounted, line.counted, line.ledger, line.difference) for line in lines}


def close(raw: Raw) -> None:
    """Let everything that is due be closed."""
    raw.world.now = max(raw.world.now, HOUR.end + timedelta(hours=1))
    raw.world.close()
