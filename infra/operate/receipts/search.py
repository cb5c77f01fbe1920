"""Search: the line of one request, near the moment at which it was made, within bounds that are known before (I10).

The log groups are asked first: the access log's own, then those that were connected at that moment; then the objects of
the archive that came in then. What was looked through is told, and where a bound ended it.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from infra.operate.deployment import Deployment, OperatorError
from infra.operate.recount.raw_log import BrokenObjectError, lines_of
from metering.layout import ARCHIVE
from metering.model.connections import Connection, in_force
from metering.model.periods import Hour, hours

WITHIN: Final = timedelta(minutes=15)
"""So long before and after the moment that is given a line is looked for, if nothing else is said."""

MOST_CALLS: Final = 50
"""Calls of FilterLogEvents in one search; one looks through a part of a log group, which may hold no match."""

MOST_BYTES: Final = 200 << 20
"""Bytes of the archive's objects, as they are stored, that one search reads."""

_MOST_KEYS: Final = 4000
_NEAR: Final = (timedelta(minutes=-1), timedelta(minutes=2))
"""What is looked through first: a line is written when its request ends, and clocks differ."""

_LONGEST_WAY: Final = timedelta(minutes=20)
"""Firehose writes an object 15 minutes after its first line came at the latest ("Buffering hints"), and retries."""

_ID: Final = re.compile(r"[A-Za-z0-9_=+/-]{1,128}")


@dataclass(frozen=True, slots=True)
class Searched:
    """A place that was looked through, from one moment to another; ``left`` says what of it a bound left out."""

    place: str
    first: datetime
    end: datetime
    read: str
    left: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line that names the request: where it stands, since when, and the connections that may have written it.

    ``origin`` is a log group, or an object; ``event`` is the log event's id, and empty in an object. ``is_metered``
    says whether its log group was connected when it was written; the access log's own always is.
    """

    origin: str
    text: str
    at: datetime
    event: str = ""
    connections: tuple[Connection, ...] = ()
    is_metered: bool = True


@dataclass(slots=True)
class Search:
    """Looks for the lines of one request, around ``at``, in at most so many ``calls`` and bytes."""

    deployment: Deployment
    request: str
    at: datetime
    within: timedelta = WITHIN
    calls: int = MOST_CALLS
    searched: list[Searched] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.request):
            raise OperatorError(
                "a request is named by what its answer's header x-amz-apigw-id says (apigw-requestid, of an HTTP API): "
                f"letters, digits and _=+/-, got {self.request[:80]!r}"
            )

    def lines(self) -> Iterator[Line]:
        """Yield the lines that hold the request's id, the nearest places first; how far they are read is the caller's.

        Other lines may hold it, too: a caller can write it.
        """
        yield from self._of_log_group(self.deployment.outputs.access_log_group, ())
        first, end = map(_ms, self._window)
        groups: dict[str, list[Connection]] = {}
        for connection in self.deployment.connections.ever():
            began, ended = connection.first, connection.until or end
            if connection.is_access_log and began < end and ended > first:
                groups.setdefault(connection.log_group, []).append(connection)
        for group, connections in sorted(groups.items()):
            yield from self._of_log_group(group, connections)
        yield from self._of_archive()

    # --- log groups -------------------------------------------------------------------------------------------------

    def _of_log_group(self, group: str, connections: Sequence[Connection]) -> Iterator[Line]:
        """Yield the lines of a log group, in as many calls as are left."""
        before, waiting = self.calls, [(*window, "") for window in self._windows()]
        while waiting and self.calls:
            first, end, token = waiting.pop(0)
            self.calls -= 1
            events, token = self._page(group, first, end, token)
            if token:
                waiting.insert(0, (first, end, token))
            for event in events:
                at = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
                then = in_force(connections, event["timestamp"])
                yield Line(
                    group,
                    event["message"],
                    at,
                    event["eventId"],
                    then or tuple(connections),
                    not connections or bool(then),
                )
        left = "the calls of this search were used up: give --at more exactly, or more --calls" if waiting else ""
        read = f"{before - self.calls} calls of CloudWatch Logs"
        self.searched.append(Searched(f"the log group {group}", *self._window, read, left))

    def _windows(self) -> list[tuple[datetime, datetime]]:
        """Return what is looked through in turn: what is near, what came later, and what came before."""
        (first, end), near = self._window, (self.at + _NEAR[0], self.at + _NEAR[1])
        begin, stop = max(first, near[0]), min(end, near[1])
        return [window for window in ((begin, stop), (stop, end), (first, begin)) if window[0] < window[1]]

    @property
    def _window(self) -> tuple[datetime, datetime]:
        return self.at - self.within, self.at + self.within

    def _page(self, group: str, first: datetime, end: datetime, token: str) -> tuple[list[dict[str, Any]], str]:
        logs = self.deployment.client("logs")
        goes_on = {"nextToken": token} if token else {}
        with suppress(logs.exceptions.ResourceNotFoundException):
            answer = logs.filter_log_events(
                logGroupName=group,
                startTime=_ms(first),
                endTime=_ms(end) - 1,
                filterPattern=f'"{self.request}"',
                **goes_on,
            )
            return answer["events"], answer.get("nextToken", "")
        return [], ""

    # --- the archive ------------------------------------------------------------------------------------------------

    def _of_archive(self) -> Iterator[Line]:
        first, end = self.at - self.within, self.at + self.within
        objects, is_all = self._objects(first, end + _LONGEST_WAY)
        if not objects and is_all and not self.deployment.outputs.delivery_stream:
            return
        s3, bucket = self.deployment.client("s3"), self.deployment.outputs.bucket
        read = size = 0
        for found in objects:
            if size + found["Size"] > MOST_BYTES:
                break
            read, size = read + 1, size + found["Size"]
            # Of one that is cut off, what comes before is read.
            with suppress(BrokenObjectError):
                for text in lines_of(s3.get_object(Bucket=bucket, Key=found["Key"])["Body"]):
                    if self.request in text:
                        yield Line(f"s3://{bucket}/{found['Key']}", text, found["LastModified"])
        is_cut = read < len(objects) or not is_all
        left = f"{len(objects) - read} objects, or more: give a shorter --within" if is_cut else ""
        what = f"{read} objects of {size:,} bytes"
        self.searched.append(Searched(f"s3://{bucket}/{ARCHIVE}", first, end + _LONGEST_WAY, what, left))

    def _objects(self, first: datetime, end: datetime) -> tuple[list[dict[str, Any]], bool]:
        """Return the objects that were written from one moment to another, those soon after ``at`` first.

        Firehose names an object by the hour in which its first line came, and writes it some minutes later.
        """
        pages = self.deployment.client("s3").get_paginator("list_objects_v2")
        found: list[dict[str, Any]] = []
        seen = 0
        for hour in hours(Hour.containing(first - _LONGEST_WAY), Hour.containing(end).next()):
            prefix = f"{ARCHIVE}{hour.start:%Y/%m/%d/%H}/"
            for page in pages.paginate(Bucket=self.deployment.outputs.bucket, Prefix=prefix):
                for one in page.get("Contents", []):
                    seen += 1
                    if first <= one["LastModified"] <= end:
                        found.append(one)
                if seen >= _MOST_KEYS:
                    return self._nearest(found), False
        return self._nearest(found), True

    def _nearest(self, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(objects, key=lambda one: (one["LastModified"] < self.at, one["LastModified"]))


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _ms_of(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
