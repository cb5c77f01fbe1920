"""Lines of stages that somebody else deployed, in the raw archive: ours, theirs, and theirs with ours in front.

Why there is a second reader: :mod:`infra.operate.recount.raw_log`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from infra.operate.recount.raw_formats import RawFormat
from infra.operate.recount.raw_lines import Record, UnreadableError, fields_of_ours, hour_of, record_of
from metering.model.connections import Connection, Form
from metering.model.metrics import Metric
from metering.model.periods import Hour

_FRONT: Final = '{"metering":{"metering":'
_AROUND: Final = '{"metering":'


@dataclass(frozen=True, slots=True)
class ConnectedReader:
    """Reads lines of connections' log groups by the metrics that were in force in the hour of the request."""

    metrics_in_force: Callable[[Hour], tuple[Metric, ...]]
    nonces: Sequence[str]
    _formats: dict[Connection, RawFormat] = field(default_factory=dict)

    def read(self, connections: Sequence[Connection], line: str) -> Record | None:
        """Return what a line adds up to by the first of a log group's connections that can read it.

        None if it names no key, or is of a stage that is not connected; raises UnreadableError for any other.
        """
        unreadable: list[UnreadableError] = []
        for connection in connections:
            try:
                is_its_own, record = self._read(connection, line)
            except UnreadableError as error:
                unreadable.append(error)
                continue
            if is_its_own:
                return record
        if unreadable:
            raise unreadable[0]
        return None

    def _read(self, connection: Connection, line: str) -> tuple[bool, Record | None]:
        """Return whether a line is a connection's own, and what it adds up to."""
        match connection.form:
            case Form.OURS:
                return True, self._read_ours(connection, line)
            case Form.EXTENDED:
                if connection.shares_log and not line.startswith(_FRONT):
                    return False, None
                ours = in_front(line, self.nonces)
                if connection.shares_log and fields_of_ours(ours, self.nonces)["api_id"] != connection.name:
                    return False, None
                return True, self._read_ours(connection, ours)
            case Form.THEIRS:
                return self._read_theirs(connection, line)
            case Form.USAGE:
                raise UnreadableError("no line of a stage")
            case _:
                assert_never(connection.form)

    def _read_ours(self, connection: Connection, line: str) -> Record | None:
        fields = fields_of_ours(line, self.nonces)
        if fields["api_id"] != connection.name:
            raise UnreadableError("of another connection")
        return record_of(fields, self.metrics_in_force(hour_of(fields)))

    def _read_theirs(self, connection: Connection, line: str) -> tuple[bool, Record | None]:
        if connection not in self._formats:
            self._formats[connection] = RawFormat(connection)
        layout = self._formats[connection]
        fields = layout.fields(line, ())
        if fields is None:
            return False, None
        metrics = self.metrics_in_force(hour_of(fields))
        readable = layout.readable(metrics)
        others = [metric for metric in metrics if metric not in readable]
        fields = layout.fields(line, readable)
        return (False, None) if fields is None else (True, record_of(fields, readable, others))


def in_front(line: str, nonces: Sequence[str]) -> str:
    """Return our line, which stands in front of theirs and ends with the nonce that nobody else knows (I7)."""
    ends = [line.find(end) + len(end) for end in (f'"end":"{nonce}"}}' for nonce in nonces) if end in line]
    if not line.startswith(_FRONT) or not ends:
        raise UnreadableError("our line is not in front of theirs")
    return line[len(_AROUND) : min(ends)]
