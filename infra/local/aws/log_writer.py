"""Lines on their way to where a stage's access log goes, batched as API Gateway batches them."""

import asyncio
import contextlib
import gzip
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self

from botocore.exceptions import BotoCoreError, ClientError

from infra.operate.deployment import OperatorError

FLUSH_EVERY_S: Final = 2.0
FLUSH_ATTEMPTS: Final = 5

# docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html: a batch is 1 MiB at most, with 26
# bytes for each event besides its message. A record of Firehose is 1,000 KiB at most.
LINES_PER_CALL: Final = 1_000
BYTES_PER_CALL: Final = 1_024_000
BYTES_PER_LINE: Final = 26


class AccessLogFailed(OperatorError):  # noqa: N818  it says what happened, as the others here do
    """Lines could not be put where the access log goes; the message says how many and why."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clock by which requests come, and that by which their lines are written: seconds since the epoch."""

    of_requests: Callable[[], float]
    of_log: Callable[[], float]


Line = tuple[int, str]
"""A line and its time, in milliseconds since 1970."""


class Destination(Protocol):
    """Where lines go."""

    name: str

    def put(self, lines: Sequence[Line]) -> str:
        """Put lines there and return what was not taken for good, as a message, or nothing.

        Raises what boto3 raises if they may be taken at another time.
        """

    def close(self) -> None:
        """Close the connections."""


@dataclass(slots=True)
class LogStream:
    """A log stream, by a boto3 client of CloudWatch Logs."""

    logs: Any
    name: str
    stream: str

    def put(self, lines: Sequence[Line]) -> str:
        """Put the lines as log events."""
        # PutLogEvents wants the events of a call in the order of their times; the sort leaves equal ones as they came.
        events = [{"timestamp": at, "message": line} for at, line in sorted(lines, key=lambda entry: entry[0])]
        answer = self.logs.put_log_events(logGroupName=self.name, logStreamName=self.stream, logEvents=events)
        return str(answer.get("rejectedLogEventsInfo") or "")

    def close(self) -> None:
        """Close the client."""
        self.logs.close()


@dataclass(slots=True)
class DeliveryStream:
    """A stream of Firehose, by its boto3 client.

    The emulator's Firehose neither buffers nor compresses: it writes each record at once, as it came, into an object of
    its own. So this plays the buffering: lines that leave together are one record, which holds what an object of the
    real one holds, each line with its line end, gzipped.
    """

    firehose: Any
    name: str

    def put(self, lines: Sequence[Line]) -> str:
        """Put the lines as one record."""
        content = gzip.compress("".join(f"{line}\n" for _, line in lines).encode())
        self.firehose.put_record(DeliveryStreamName=self.name, Record={"Data": content})
        return ""

    def close(self) -> None:
        """Close the client."""
        self.firehose.close()


class AccessLog:
    """Lines on their way to their destination, in order, at most two seconds after they were added.

    A line leaves only when the destination has taken it. A call that fails is made again after growing pauses; after
    five attempts `flush` raises, the lines stay, and the next attempt is made with the next flush or two seconds.
    Belongs to one event loop. Leaving its `async with` flushes.
    """

    def __init__(self, destination: Destination, *, first_pause_s: float = 0.1) -> None:
        self._destination = destination
        self._first_pause_s = first_pause_s
        self._waiting: deque[Line] = deque()
        self._writing = asyncio.Lock()
        self._full = asyncio.Event()
        self._closing = False
        self._rejected: list[str] = []

    async def __aenter__(self) -> Self:
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._full.set()
        await self._ticking
        await self.flush()

    def add(self, timestamp_ms: int, line: str) -> None:
        """Take a line, with the log event's time."""
        self._waiting.append((timestamp_ms, line))
        if len(self._waiting) >= LINES_PER_CALL:
            self._full.set()

    async def flush(self) -> None:
        """Return when every line added so far was taken; raise `AccessLogFailed` after five attempts."""
        async with self._writing:
            while batch := self._next_batch():
                await self._put(batch)
                for _ in batch:
                    self._waiting.popleft()
        if self._rejected:
            raise AccessLogFailed(f"{self._destination.name} took no line of these times: {self._rejected}")

    async def _tick(self) -> None:
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), FLUSH_EVERY_S)
            self._full.clear()
            # What could not be put is still waiting; the flush that someone waits for raises.
            with contextlib.suppress(AccessLogFailed):
                await self.flush()

    def _next_batch(self) -> list[Line]:
        batch: list[Line] = []
        size = 0
        for timestamp_ms, line in self._waiting:
            size += len(line.encode()) + BYTES_PER_LINE
            if batch and (len(batch) == LINES_PER_CALL or size > BYTES_PER_CALL):
                break
            batch.append((timestamp_ms, line))
        return batch

    async def _put(self, batch: Sequence[Line]) -> None:
        pause_s = self._first_pause_s
        for attempt in range(1, FLUSH_ATTEMPTS + 1):
            try:
                rejected = await asyncio.to_thread(self._destination.put, batch)
            except (BotoCoreError, ClientError) as error:
                if attempt == FLUSH_ATTEMPTS:
                    raise AccessLogFailed(
                        f"{len(self._waiting)} lines could not be put in {self._destination.name}: {error}"
                    ) from error
                await asyncio.sleep(pause_s)
                pause_s *= 2
            else:
                if rejected:
                    self._rejected.append(rejected)
                return
