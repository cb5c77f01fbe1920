"""How lines of connected stages are written, and so how their fields are found. Pure.

A form finds the fields; what is in them is then looked at in the same way, whatever the form (``access_log.Reader``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import assert_never

from metering.model.connections import Connection, Form
from metering.model.foreign_format import FRONT, FormatError, as_far_as_readable, unwrapped
from metering.model.log_format import AccessRecord, Declared
from metering.model.metrics import Metric
from metering.model.our_lines import LineForm, Ours


@dataclass(frozen=True, slots=True)
class Extended:
    """Lines of a stage's own format with one of ours in front; those of others where they ``share`` the log group."""

    written: Ours
    shares: bool

    @property
    def unread(self) -> Mapping[str, str]:
        """None, as with lines of ours."""
        return self.written.unread

    def at_once(self, lines: bytes, log: Declared) -> list[AccessRecord] | None:
        """Return the records of our lines in front; None if a line has none there, and is of no other stage."""
        if not lines:  # where a line end stands within one of them
            return None
        found = []
        for line in lines.decode(errors="surrogateescape").split("\n"):
            try:
                if not self.shares or line.startswith(FRONT):
                    found.append(unwrapped(line, self.written.nonces))
            except ValueError:
                return None
        return self.written.at_once("\n".join(found).encode(errors="surrogateescape"), log) if found else []

    def fields(self, line: str) -> dict[str, str] | None:
        """Return a line's fields; None for one of a stage that is another connection's, or none's; else ValueError.

        API Gateway itself writes what a line begins with, so that no caller's text makes one another's.
        """
        if self.shares and not line.startswith(FRONT):
            return None
        ours = unwrapped(line, self.written.nonces)
        try:
            return self.written.fields(ours)
        except ValueError:
            if not self.shares:
                raise
            Ours(self.written.nonces).fields(ours)  # ValueError, unless it is another connection's
            return None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Lines of a format that no metric can be measured by any more: each is set aside with the reason."""

    reason: str

    @property
    def unread(self) -> Mapping[str, str]:
        """None, since each line is set aside whole."""
        return {}

    def at_once(self, lines: bytes, log: Declared) -> None:
        """Leave them to be read one by one."""

    def fields(self, line: str) -> None:
        """Raise ValueError."""
        del line
        raise ValueError(self.reason)


def forms_of(
    connections: Sequence[Connection], nonces: tuple[str, ...], metrics: Sequence[Metric]
) -> tuple[LineForm, ...]:
    """Return how lines are written that any of these connected stages writes."""
    return tuple(_form(one, nonces, tuple(metrics)) for one in connections if one.is_access_log)


@lru_cache
def _form(connection: Connection, nonces: tuple[str, ...], metrics: tuple[Metric, ...]) -> LineForm:
    match connection.form:
        case Form.OURS:
            return Ours(nonces, connection.name)
        case Form.EXTENDED:
            return Extended(Ours(nonces, connection.name), connection.shares_log)
        case Form.THEIRS:
            shared = connection.api_id if connection.shares_log else ""
            try:
                written = as_far_as_readable(
                    connection.log, connection.after.format, metrics, stage=connection.stage, api_id=shared
                )
                return replace(written, alone=connection.alone)
            except FormatError as error:
                return Unreadable(str(error))
        case Form.USAGE:
            raise ValueError(f"{connection.name} is a log of usage lines")
        case _:
            assert_never(connection.form)
