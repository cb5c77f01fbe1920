"""A deployed stage's public side, whichever kind of API it is of: what its gateways are made of, and wait for."""

import asyncio
import time
from collections.abc import Callable

from infra.local.aws.emulator import Emulator
from infra.local.aws.forwarding import Forwarder
from infra.local.aws.log_writer import AccessLog, Clocks


class StageFront(Forwarder):
    """Takes what comes for a stage, and writes its access log into `_lines`, which a subclass opens as it serves."""

    _lines: AccessLog

    def __init__(
        self,
        emulator: Emulator,
        *,
        api_id: str,
        stage: str,
        clock: Callable[[], float] = time.time,
        writes_by: Callable[[], float] | None = None,
    ) -> None:
        super().__init__()
        self._emulator = emulator
        self._api_id = api_id
        self._stage_name = stage
        self._clocks = Clocks(clock, writes_by or clock)

    def flush(self) -> None:
        """Return when the lines of everything answered so far are where they go; else `AccessLogFailed`."""
        asyncio.run_coroutine_threadsafe(self._lines.flush(), self.loop).result()
