"""Recording: a batch of log lines → counters, each once.

The order of writes is what makes it safe to stop anywhere and to be delivered again: first what is set aside, then
the counters, then the late marks.

```
delivery   set aside ── counter ── counter ── … ── late mark
crash            ↑ or ↑ or ↑ anywhere: the whole batch comes again
redelivery   its object stands, each counter refuses what it has, each late mark is put again
```
"""

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from aws_lambda_powertools.utilities.data_classes import CloudWatchLogsEvent

from metering.access_log import AccessRecord, Reader, Rejected
from metering.aws import side_by_side
from metering.counters import TOKEN_BYTES, Counters
from metering.metrics import Metric, Usage, measure
from metering.periods import CLOCK_SKEW, GRACE
from metering.set_aside import SetAside, SetAsideLine
from metering.subjects import key


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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
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
        reader = Reader(self.clock())
        read = {event.id: (event, reader.read(event.message)) for event in batch.log_events}
        decided = self.set_aside.of(batch.token.hex())
        kept = {line.id for line in decided.lines} if decided else set()
        good = [found for name, (_, found) in read.items() if isinstance(found, AccessRecord) and name not in kept]
        usage = measure(good, self.metrics)
        rejected = [
            SetAsideLine(name, event.timestamp, event.message, found.reason)
            for name, (event, found) in read.items()
            if isinstance(found, Rejected) and name not in kept
        ]
        if rejected:
            self._put_aside(batch, rejected, doubtful=decided is not None or self._was_counted(usage, batch.token))
        counted = self._count(usage, batch.token)
        return Recorded(
            read=len(read),
            billed=usage.billed,
            unbilled=usage.unbilled,
            set_aside=len(kept) + len(rejected),
            refused=bool(counted) and not any(counted),
            oldest=datetime.fromtimestamp(min(found.time for found in good) / 1000, UTC) if good else None,
        )

    def _put_aside(self, batch: Batch, rejected: Sequence[SetAsideLine], *, doubtful: bool) -> None:
        """Write down what this delivery rejects; doubtful is what an earlier delivery may have counted."""
        where = {"batch": batch.token.hex(), "log_group": batch.log_group, "log_stream": batch.log_stream}
        if doubtful:
            self.set_aside.keep_doubtful(rejected, **where)
        else:
            self.set_aside.keep(rejected, **where)

    def _was_counted(self, usage: Usage, token: bytes) -> bool:
        """Say whether an earlier delivery has counted anything of this batch; asked only if a line is rejected."""
        return any(side_by_side(lambda cell: self.counters.has_counted(*cell, token), usage.cells))

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
