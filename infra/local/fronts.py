"""Gateways in front of connected stages, of which the embedded AWS itself writes no lines."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from botocore.exceptions import ClientError

from infra.local.aws.emulator import Emulator
from infra.local.aws.gateway import Gateway
from infra.local.aws.websocket import SocketGateway
from metering.model.connections import Connection, Step
from metering.model.log_format import Api

LOOK_EVERY: Final = 2.0
"""Seconds between two looks at what is connected, while somebody tries things."""


@dataclass
class Fronts:
    """A gateway for each stage that is connected, for as long as it is; `say` is told where it takes requests.

    Requests come ``back`` before now, so that their hour can be closed at once; their lines are written now, since what
    was written before a stage was connected is nobody's.
    """

    emulator: Emulator
    back: timedelta
    say: Callable[[str], object] = lambda _: None
    _open: dict[str, tuple[Connection, ExitStack, str]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.be_of([])

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where callers reach each connected stage, by its connection's name."""
        return {name: address for name, (_, _, address) in self._open.items() if address}

    def be_of(self, connections: list[Connection]) -> None:
        """Open a gateway for each stage that is connected now, anew for one that is connected otherwise."""
        there = {one.name: one for one in connections if one.is_access_log and one.step is Step.CONNECTED}
        for name in [name for name, (one, _, _) in self._open.items() if there.get(name) != one]:
            _, running, _ = self._open.pop(name)
            running.close()
        for name in there.keys() - self._open.keys():
            self._open[name] = (there[name], *self._start(there[name]))

    def _start(self, one: Connection) -> tuple[ExitStack, str]:
        running = ExitStack()
        stage = {"api_id": one.api_id, "stage": one.stage}
        try:
            if one.api is Api.WEBSOCKET:
                socket = SocketGateway(self.emulator, **stage, clock=self._clock, writes_by=time.time)
                address = running.enter_context(socket).socket
            else:
                gateway = Gateway(self.emulator, **stage, clock=self._clock, writes_by=time.time)
                address = running.enter_context(gateway).url
        except (ClientError, ValueError) as error:  # it is gone, or somebody has taken its access log away
            self.say(f"{one.name} is connected, and cannot be called here: {error}")
            return running, ""
        self.say(f"{one.name} takes requests at {address}, where its access log is written")
        return running, address

    def _clock(self) -> float:
        return time.time() - self.back.total_seconds()
