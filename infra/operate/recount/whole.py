"""From which hour on the raw log is whole: what is no longer kept was not "not logged"."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

from botocore.exceptions import ClientError

from infra.operate.recount.raw_log import Archive, is_connected_in
from metering.layout import ARCHIVE
from metering.model.periods import Hour, hours

MARGIN: Final = timedelta(hours=2)
"""So much younger than what expires next an hour must be: lines are read from before it on, and reading takes time."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How long a place keeps lines: whole are hours from ``first`` on, and it has been there since ``made``."""

    place: str
    days: int | None
    first: Hour
    made: datetime | None = None

    @property
    def said(self) -> str:
        """What is to be said of an hour before the first."""
        return f"{self.place} keeps lines for {self.days} days: the first hour that can be recounted is {self.first}"


@dataclass
class Places:
    """The places of a deployment's lines; ``stream`` is that of the road over Firehose, if it is its own."""

    archive: Archive
    firehose: Any
    stream: str | None
    now: datetime
    _log_groups: dict[str, Kept] = field(default_factory=dict)

    def of_usage_lines(self, first: Hour, end: Hour) -> list[Kept]:
        """Return the log groups of usage lines of hours from ``first`` up to ``end``, exclusive."""
        kept = [self._log_group(name) for name in self.archive.usage_log_groups]
        return kept + self._connected(first, end, is_access_log=False)

    def of_access_log(self, first: Hour, end: Hour) -> list[Kept]:
        """Return where lines of stages are: places of the road, of the one before it, and connections' log groups."""
        made = self._stream_made
        kept = [] if made and made + timedelta(hours=1) <= first.start else [self._group]
        kept += [self._objects] if self._objects else []
        return kept + self._connected(first, end, is_access_log=True)

    def _connected(self, first: Hour, end: Hour, *, is_access_log: bool) -> list[Kept]:
        """Return what log groups keep of the time in which they were connected: before that, nothing is missing."""
        kept = []
        for connection in self.archive.connections:
            begun = datetime.fromtimestamp(connection.since / 1000, UTC)
            concerned = any(is_connected_in(connection, hour) for hour in hours(first, end))
            if connection.is_access_log is is_access_log and concerned:
                there = self._log_group(connection.log_group)
                earliest = there.first if there.first > Hour.containing(begun) else Hour(0)
                kept.append(
                    Kept(f"{there.place} of {connection.name}", there.days, earliest, max(begun, there.made or begun))
                )
        return kept

    @cached_property
    def _group(self) -> Kept:
        return self._log_group(self.archive.access_log_group)

    @cached_property
    def _objects(self) -> Kept | None:
        """The archive in the bucket, if Firehose writes or ever wrote there."""
        s3, bucket = self.archive.s3, self.archive.bucket
        if not (self.stream or s3.list_objects_v2(Bucket=bucket, Prefix=ARCHIVE, MaxKeys=1).get("Contents")):
            return None
        return _kept(f"s3://{bucket}/{ARCHIVE}", min(_expirations(s3, bucket), default=None), self.now)

    @cached_property
    def _stream_made(self) -> datetime | None:
        """When Firehose's stream was made: from then on lines are in the archive alone."""
        if not self.stream:
            return None
        described = self.firehose.describe_delivery_stream(DeliveryStreamName=self.stream)
        made: datetime | None = described["DeliveryStreamDescription"].get("CreateTimestamp")
        return made

    def _log_group(self, name: str) -> Kept:
        if name not in self._log_groups:
            self._log_groups[name] = self._look_at_log_group(name)
        return self._log_groups[name]

    def _look_at_log_group(self, name: str) -> Kept:
        """Return how long a log group keeps lines; one that is not there keeps none that are older than this moment."""
        for page in self.archive.logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=name):
            for group in page["logGroups"]:
                if group["logGroupName"] == name:
                    made = (
                        datetime.fromtimestamp(group["creationTime"] / 1000, UTC) if "creationTime" in group else None
                    )
                    return _kept(f"the log group {name}", group.get("retentionInDays"), self.now, made)
        return _kept(f"the log group {name}, which is not there,", 0, self.now)


def last(kept: Sequence[Kept]) -> Kept | None:
    """Return the place whose lines begin last: before that, the log is not whole."""
    return max(kept, key=lambda one: one.first, default=None)


def _kept(place: str, days: int | None, now: datetime, made: datetime | None = None) -> Kept:
    first = Hour(0) if days is None else Hour.containing(now - timedelta(days=days) + MARGIN).next()
    return Kept(place, days, first, made)


def _expirations(s3: Any, bucket: str) -> Iterator[int]:
    """Yield after how many days rules let objects of the archive expire, all or some of them."""
    try:
        rules = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchLifecycleConfiguration":
            return
        raise
    for rule in rules:
        scope = rule.get("Filter", {})
        both = scope.get("And", scope)
        prefix = both.get("Prefix", rule.get("Prefix", ""))
        is_tagged = "Tag" in both or "Tags" in both  # Firehose tags nothing
        days = rule.get("Expiration", {}).get("Days")
        if rule["Status"] == "Enabled" and days and not is_tagged and _meet(prefix, ARCHIVE):
            yield days


def _meet(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)
