"""Lines on their way to a log group, batched as API Gateway batches its access log's."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from botocore.exceptions import BotoCoreError, ClientError

from infra.deployment import OperatorError

# docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html: a batch is 1 MiB at most, with 26
# bytes for each event besides its message.
LINES_PER_CALL: Final = 1_000
BYTES_PER_CALL: Final = 1_048_576
BYTES_PER_LINE: Final = 26
FLUSH_EVERY_S: Final = 2.0
FLUSH_ATTEMPTS: Final = 5


class AccessLogFailed(OperatorError):  # noqa: N818  it says what happened, as the others here do
    """Lines could not be put in the log group; the message says how many and why."""


class AccessLog:
    """Lines on their way to a log stream, in order, at most two seconds after they were added.

    A line leaves only when PutLogEvents has taken it. A call that fails is made again after growing pauses; after five
    attempts `flush` raises, the lines stay, and the next attempt is made with the next flush or two seconds.
    Belongs to one event loop. Leaving its `async with` flushes.
    """

    def __init__(self, logs: Any, *, log_group: str, log_stream: str, first_pause_s: float = 0.1) -> None:
        self._logs = logs
        self._log_group = log_group
        self._log_stream = log_stream
        self._first_pause_s = first_pause_s
        self._waiting: deque[tuple[int, str]] = deque()
        self._writing = asyncio.Lock()
        self._full = asyncio.Event()
        self._closing = False
        self._rejected: list[Mapping[str, int]] = []

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
        """Return when every line added so far is in the log group; raise `AccessLogFailed` after five attempts."""
        async with self._writing:
            while batch := self._next_batch():
                await self._put(batch)
                for _ in batch:
                    self._waiting.popleft()
        if self._rejected:
            raise AccessLogFailed(f"{self._log_group} took no line of these times: {self._rejected}")

    async def _tick(self) -> None:
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), FLUSH_EVERY_S)
            self._full.clear()
            # What could not be put is still waiting; the flush that someone waits for raises.
            with contextlib.suppress(AccessLogFailed):
                await self.flush()

    def _next_batch(self) -> list[tuple[int, str]]:
        batch: list[tuple[int, str]] = []
        size = 0
        for timestamp_ms, line in self._waiting:
            size += len(line.encode()) + BYTES_PER_LINE
            if batch and (len(batch) == LINES_PER_CALL or size > BYTES_PER_CALL):
                break
            batch.append((timestamp_ms, line))
        return batch

    async def _put(self, batch: list[tuple[int, str]]) -> None:
        # PutLogEvents wants the events of a call in the order of their times; the sort leaves equal ones as they came.
        events = [{"timestamp": at, "message": line} for at, line in sorted(batch, key=lambda entry: entry[0])]
        pause_s = self._first_pause_s
        for attempt in range(1, FLUSH_ATTEMPTS + 1):
            try:
                answer = await asyncio.to_thread(
                    self._logs.put_log_events,
                    logGroupName=self._log_group,
                    logStreamName=self._log_stream,
                    logEvents=events,
                )
            except (BotoCoreError, ClientError) as error:
                if attempt == FLUSH_ATTEMPTS:
                    raise AccessLogFailed(
                        f"{len(self._waiting)} lines could not be put in {self._log_group}: {error}"
                    ) from error
                await asyncio.sleep(pause_s)
                pause_s *= 2
            else:
                if rejected := answer.get("rejectedLogEventsInfo"):
                    self._rejected.append(rejected)
                return
