"""Batches: lines that are recorded together, whichever road they came by. Pure.

A batch's token is a hash of its content and, where that is a log group's, of the group's name: the same lines in
another envelope or under another name are the same batch (I2), and events that two log groups number alike are two.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import eq
from typing import Final

from metering.model.our_lines import LineForm

TOKEN_BYTES: Final = 12

PIECE: Final = 1 << 18
"""Bytes of an object that fit into a processor's cache."""

_PIECE_LINES: Final = 1000

_RECORD: Final = '"metering"'
_IN_THE_LINE: Final = len('{"')
_BETWEEN_RECORDS: Final = re.compile(rf"(?<=\}})[\s,]*+(?=\ufeff?\s*\{{\s*{_RECORD}\s*:)")
"""Where one record of an object ends and the next begins without a line end: what joins objects may leave them out.
Nothing is trusted for that: each part must be a whole line of ours."""


class Source(StrEnum):
    """What kind of lines a batch holds, and so how they are read."""

    ACCESS_LOG = "access log"
    USAGE_LINES = "usage lines"


@dataclass(frozen=True, slots=True)
class Piece:
    """Some lines of a batch: joined by line ends, which is how they can be read at once, and one by one.

    ``text`` is empty if a line end stands within a line. ``ids`` and ``events`` are those of a log group's lines; the
    lines of an object have no id but their place, counted from ``first``.
    """

    text: bytes
    first: int
    ids: Sequence[str] = ()
    events: Sequence[str] = ()

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield each line behind its id."""
        if self.events:
            yield from zip(self.ids, self.events, strict=True)
            return
        # A line that is no UTF-8 is kept with its bytes spelled out: it will be set aside.
        lines = self.text.decode(errors="backslashreplace").split("\n")
        for number, line in enumerate(lines, self.first):
            records = _BETWEEN_RECORDS.split(line) if line.find(_RECORD, _IN_THE_LINE) > 0 else [line]
            for place, record in enumerate(records):
                if record.strip():
                    yield f"{number}.{place}" if place else str(number), record


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Lines of a log group that are recorded together, with ids that are unique in the batch."""

    token: bytes
    source: Source
    origin: str
    ids: Sequence[str]
    events: Sequence[str]
    at: int = 0
    """When the first of them was written (milliseconds since 1970); 0 if that is not known."""

    forms: tuple[LineForm, ...] | None = None
    """How connected stages write them, or did; None where they are of no connection."""

    delivered: int = 0
    """How many lines came, those that are none of our business, too."""

    @property
    def log(self) -> str:
        """What the lines are of: the access log, whichever way it came, or a log group of others."""
        own = self.source is Source.ACCESS_LOG and self.forms is None
        return self.source.value if own else self.origin.partition(" ")[0]

    def pieces(self) -> Iterator[Piece]:
        """Yield the lines in pieces that fit into a processor's cache."""
        for first in range(0, len(self.events), _PIECE_LINES):
            events = self.events[first : first + _PIECE_LINES]
            text = "\n".join(events).encode(errors="surrogatepass")
            whole = text.count(b"\n") == len(events) - 1
            yield Piece(text if whole else b"", first, self.ids[first : first + _PIECE_LINES], events)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines of an object that are recorded together, joined by line ends."""

    token: bytes
    source: Source
    origin: str
    text: bytes
    at: int = 0
    forms: None = None

    @property
    def log(self) -> str:
        """What the lines are of: objects hold the access log alone."""
        return self.source.value

    def pieces(self) -> Iterator[Piece]:
        """Yield the lines in pieces that fit into a processor's cache."""
        start = first = 0
        while start < len(self.text):
            end = self.text.find(b"\n", start + PIECE)
            text = self.text[start : end if end >= 0 else len(self.text)]
            yield Piece(text, first)
            start, first = start + len(text) + 1, first + text.count(b"\n") + 1


Batch = EventBatch | Chunk
"""Lines that are recorded together, and where they came from; ``token`` is a hash of their content."""


def batch_of(ids: Sequence[str], events: Sequence[str], source: Source, origin: str, at: int = 0) -> EventBatch:
    """Return a batch of lines with their ids; its token is a hash of the ids, in whatever order they came.

    ``origin`` is their log group and stream, with a space between them.
    """
    ordered = sorted(ids)  # they mostly are
    if any(map(eq, ordered, ordered[1:])):  # one event twice in one delivery
        once = dict(zip(ids, events, strict=True))
        ids, events, ordered = list(once), list(once.values()), sorted(once)
    named = "\n".join((origin.partition(" ")[0], *ordered))
    return EventBatch(token_of(named.encode()), source, origin, ids, events, at, delivered=len(ids))


def token_of(content: bytes) -> bytes:
    """Return what names lines of this content, whatever they are delivered in (I2)."""
    return hashlib.sha256(content).digest()[:TOKEN_BYTES]
