"""Recording: a batch of log lines → counters, each once.

The order of writes is what makes it safe to stop anywhere and to be delivered again: first what is set aside, then
the counters, then the late marks.

```
delivery   set aside ── counter ── counter ── … ── late mark
crash            ↑ or ↑ or ↑ anywhere: the whole batch comes again
redelivery   same object, each counter refuses what it has, each late mark is put again
```
"""

import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from aws_lambda_powertools.utilities.data_classes import CloudWatchLogsEvent

from metering.access_log import AccessRecord, Reader, Rejected
from metering.aws import side_by_side
from metering.counters import TOKEN_BYTES, Counters
from metering.metrics import Metric, Usage, measure
from metering.periods import CLOCK_SKEW, GRACE
from metering.set_aside import SetAside, SetAsideLine
from metering.subjects import key

SETTLED: Final = "decided by an earlier delivery"
"""Why a line is tallied as unbilled that reads as bad now, but was not set aside by its batch's first delivery."""


class PayloadError(ValueError):
    """An event that is no CloudWatch Logs subscription payload; the message says what was got and wanted."""


class LogEvent(msgspec.Struct, frozen=True, gc=False):
    """One line as CloudWatch Logs delivers it: ``id`` is unique to it, ``timestamp`` is in milliseconds since 1970."""

    id: str
    timestamp: int
    message: str


class Batch(msgspec.Struct, frozen=True, rename="camel"):
    """A subscription payload (CloudWatch Logs User Guide, "Log group-level subscription filters")."""

    message_type: str
    log_group: str
    log_stream: str
    log_events: tuple[LogEvent, ...]

    @property
    def is_probe(self) -> bool:
        """Say whether this is a probe of CloudWatch Logs for whether the function can be reached."""
        return self.message_type == "CONTROL_MESSAGE"

    @property
    def token(self) -> bytes:
        """A hash of the batch's content: the same events in another envelope or order are the same batch."""
        ids = "\n".join(sorted({event.id for event in self.log_events}))
        return hashlib.sha256(ids.encode()).digest()[:TOKEN_BYTES]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a batch: read = billed + unbilled + set aside."""

    read: int
    billed: int
    unbilled: Mapping[str, int]
    set_aside: int
    refused: bool
    """Every counter had counted this batch before."""

    oldest: datetime | None
    """The time of the oldest good record."""


def decode(event: Mapping[str, Any]) -> Batch:
    """Return the batch inside a Lambda event, or raise PayloadError."""
    logs = event.get("awslogs") if isinstance(event, Mapping) else None
    if not (isinstance(logs, Mapping) and isinstance(logs.get("data"), str)):
        raise PayloadError('wanted {"awslogs": {"data": "..."}}, got ' + _outline(event))
    try:
        payload = CloudWatchLogsEvent(dict(event)).decompress_logs_data
    except (ValueError, zlib.error) as error:
        raise PayloadError(f"awslogs.data must be base64 of gzipped JSON, got something else: {error}") from error
    try:
        batch = msgspec.json.decode(payload, type=Batch)
    except msgspec.DecodeError as error:
        raise PayloadError(f"awslogs.data must hold a subscription payload of CloudWatch Logs: {error}") from error
    if batch.message_type not in ("DATA_MESSAGE", "CONTROL_MESSAGE"):
        raise PayloadError(f"messageType must be DATA_MESSAGE or CONTROL_MESSAGE, got {batch.message_type!r}")
    return batch


@dataclass(frozen=True, slots=True)
class Recorder:
    """Records batches by these metrics into this table and bucket; ``clock`` gives the present moment."""

    metrics: Sequence[Metric]
    counters: Counters
    set_aside: SetAside
    clock: Callable[[], datetime]

    def record(self, batch: Batch) -> Recorded:
        """Count a batch, each record in its own hour (I3).

        What a failing table or bucket raises is raised, so that Lambda delivers the batch again.
        """
        events = {event.id: event for event in batch.log_events}
        reader = Reader(self.clock())
        read = {event.id: reader.read(event.message) for event in events.values()}
        aside = self._put_aside(batch, events, read)
        good = [found for name, found in read.items() if isinstance(found, AccessRecord) and name not in aside]
        usage = measure(good, self.metrics)
        counted = self._count(usage, batch.token)
        settled = len(read) - len(good) - len(aside)
        return Recorded(
            read=len(read),
            billed=usage.billed,
            unbilled=usage.unbilled + Counter({SETTLED: settled} if settled else {}),
            set_aside=len(aside),
            refused=bool(counted) and not any(counted),
            oldest=datetime.fromtimestamp(min(found.time for found in good) / 1000, UTC) if good else None,
        )

    def _put_aside(
        self, batch: Batch, events: Mapping[str, LogEvent], read: Mapping[str, AccessRecord | Rejected]
    ) -> set[str]:
        """Return the ids of the events that this batch sets aside, written down before anything is counted."""
        name = batch.token.hex()
        kept = self.set_aside.of(name)
        if kept is None:
            rejected = [
                SetAsideLine(name, events[name].timestamp, events[name].message, found.reason)
                for name, found in read.items()
                if isinstance(found, Rejected)
            ]
            if not rejected:
                return set()
            kept = self.set_aside.keep(rejected, batch=name, log_group=batch.log_group, log_stream=batch.log_stream)
        return {line.id for line in kept.lines}

    def _count(self, usage: Usage, token: bytes) -> list[bool]:
        """Count each sum, then mark each hour that may have been closed before its counter was written.

        The clock is asked after the counters are written: whoever closes an hour later than this reads them, whoever
        has read them earlier finds the mark. A duplicate is marked too: the first delivery may have died in between.
        """
        counted = side_by_side(
            lambda cell: self.counters.count(cell[0][0], cell[0][1], cell[1], token), usage.cells.items()
        )
        now = self.clock()
        late = [where for where in usage.cells if where[0].is_due(now, grace=GRACE - CLOCK_SKEW)]
        side_by_side(lambda where: self.counters.mark_late(where[0], key(where[1]), token.hex()), late)
        return counted


def _outline(event: Any) -> str:
    """Describe an event without its content, which may be anything."""
    if isinstance(event, Mapping):
        return f"an object with the fields {sorted(map(str, event))[:10]}"
    return f"a value of the type {type(event).__name__}"
