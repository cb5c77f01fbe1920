"""Payloads: what AWS hands to ``record_usage``, cut into batches.

Both roads end in a batch: lines, and a token that is a hash of their content alone, so that the same lines in
another envelope or under another name are the same batch (I2).
"""

import base64
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

import msgspec

from metering.model.batches import PIECE, Chunk, EventBatch, Source, batch_of, token_of
from metering.model.our_lines import short

CHUNK: Final = 12 << 20
"""An object is recorded in chunks of this many bytes (30,000 lines), gunzipped, and up to the end of the line. It must
never change: an object that comes again would be cut otherwise, and count twice."""

_GZIP: Final = b"\x1f\x8b"


class PayloadError(ValueError):
    """A payload that is not what AWS sends; the message says what was got and wanted."""


class LogEvent(msgspec.Struct, frozen=True, gc=False):
    """One line as CloudWatch Logs delivers it; ``id`` is unique to it, ``timestamp`` in milliseconds since 1970."""

    id: str
    message: str
    timestamp: int = 0


class Subscription(msgspec.Struct, frozen=True, rename="camel"):
    """A subscription payload (CloudWatch Logs User Guide, "Log group-level subscription filters")."""

    message_type: str
    log_group: str
    log_stream: str
    log_events: tuple[LogEvent, ...]

    @property
    def is_probe(self) -> bool:
        """Say whether this is a probe of CloudWatch Logs for whether the function can be reached."""
        return self.message_type == "CONTROL_MESSAGE"

    def batch(self, access_log_group: str) -> EventBatch:
        """Return the events as a batch; those of any other log group than the access log's are usage lines."""
        source = Source.ACCESS_LOG if self.log_group == access_log_group else Source.USAGE_LINES
        ids, lines = [event.id for event in self.log_events], [event.message for event in self.log_events]
        at = min((event.timestamp for event in self.log_events), default=0)
        return batch_of(ids, lines, source, f"{self.log_group} {self.log_stream}", at)


@dataclass(frozen=True, slots=True)
class Notified:
    """Messages of SQS, each of which holds a notification of S3: the event as it came, for who answers by message."""

    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RedriveWanted:
    """What an operator wants to be counted of what was set aside, as :mod:`metering.counting.redriving` reads it."""

    wanted: Any


Received = Subscription | Notified | RedriveWanted
"""What ``record_usage`` is invoked with."""


def received(event: Any) -> Received:
    """Return what a Lambda event is, or raise PayloadError."""
    match event:
        case {"Records": [{"eventSource": "aws:sqs"}, *_]}:
            return Notified(event)
        case {"Records": [{"eventSource": source}, *_]}:
            raise PayloadError(f"wanted messages of SQS, got records of {short(source)}, which nothing here reads")
        case {"redrive": wanted}:
            return RedriveWanted(wanted)
        case _:
            return subscription(event)


def subscription(event: Mapping[str, Any]) -> Subscription:
    """Return what a Lambda event of CloudWatch Logs holds, or raise PayloadError."""
    logs = event.get("awslogs") if isinstance(event, Mapping) else None
    if not (isinstance(logs, Mapping) and isinstance(logs.get("data"), str)):
        raise PayloadError(
            'wanted {"awslogs": {"data": "..."}}, {"Records": [...]} of SQS or {"redrive": {...}}, got '
            + _outline(event)
        )
    try:
        payload = gzip.decompress(base64.b64decode(logs["data"], validate=True))
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise PayloadError(f"awslogs.data must be base64 of gzipped JSON, got something else: {error}") from error
    try:
        delivered = msgspec.json.decode(payload, type=Subscription)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        try:
            delivered = msgspec.json.decode(_spelled_out(payload), type=Subscription)
        except (ValueError, RecursionError):
            what = "awslogs.data must hold a subscription payload of CloudWatch Logs"
            raise PayloadError(f"{what}: {error}") from error
    if delivered.message_type not in ("DATA_MESSAGE", "CONTROL_MESSAGE"):
        raise PayloadError(f"messageType must be DATA_MESSAGE or CONTROL_MESSAGE, got {short(delivered.message_type)}")
    return delivered


def _spelled_out(payload: bytes) -> str:
    """Return JSON in which half a surrogate pair, which is no text, is spelled out: its line alone is set aside."""
    text = json.dumps(json.loads(payload), ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda half: rf"\\u{ord(half[0]):x}", text)


@dataclass(frozen=True, slots=True)
class ArchiveObject:
    """An object of the archive that S3 tells of; ``version`` changes when another is written under its name."""

    bucket: str
    key: str
    version: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def notified_objects(body: str) -> list[ArchiveObject]:
    """Return the objects that an S3 notification names, or raise PayloadError; a test event names none.

    Source: Amazon S3 User Guide, "Event message structure". A key is URL-encoded there.
    """
    try:
        notification = msgspec.json.decode(body)
        if notification.get("Event") == "s3:TestEvent":
            return []
        return [
            ArchiveObject(
                found["s3"]["bucket"]["name"],
                unquote_plus(found["s3"]["object"]["key"]),
                found["s3"]["object"].get("eTag", ""),
            )
            for found in notification["Records"]
        ]
    except (msgspec.DecodeError, AttributeError, KeyError, RecursionError, TypeError, UnicodeError) as error:
        raise PayloadError(f"wanted a notification of S3, got something else: {type(error).__name__}") from error


def batches(pieces: Iterable[bytes], origin: str) -> Iterator[Chunk]:
    """Cut an object's bytes, gzipped or not, into batches; no more than two chunks are in memory at a time.

    Raises PayloadError for an object that ends in the middle of its gzip stream, or is none after all.
    """
    for chunk in _chunks(_gunzipped(pieces, origin)):
        # Blank lines, which Firehose leaves where a record brought its own line end, would only slow the reader down.
        text = re.sub(rb"\n{2,}", b"\n", chunk) if b"\n\n" in chunk else chunk
        yield Chunk(token_of(chunk), Source.ACCESS_LOG, origin, text.strip(b"\n"))


def _chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Cut at the first line end after each CHUNK bytes; what has none for as long again is cut there."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        ended = size >= CHUNK and (b"\n" in piece or size >= 2 * CHUNK)
        if not ended:
            continue
        text = b"".join(waiting)
        while len(text) >= CHUNK:
            end = text.find(b"\n", CHUNK - 1, 2 * CHUNK) + 1
            if not end and len(text) < 2 * CHUNK:
                break
            # What joined objects without line ends is cut where a record of ours begins, what is none anywhere.
            end = end or max(text.find(b'{"metering"', CHUNK, 2 * CHUNK), 0) or 2 * CHUNK
            yield text[:end]
            text = text[end:]
        waiting, size = [text], len(text)
    if size:
        yield b"".join(waiting)


def _gunzipped(pieces: Iterable[bytes], origin: str) -> Iterator[bytes]:
    """Gunzip what begins as gzip, member by member, and pass on what does not."""
    incoming = iter(pieces)
    first = b""
    for piece in incoming:
        first += piece
        if len(first) >= len(_GZIP):
            break
    if not first.startswith(_GZIP):
        yield first
        yield from incoming
        return
    member = zlib.decompressobj(wbits=31)
    for piece in _after(first, incoming):
        rest = piece
        while rest:
            if member.eof:
                rest = rest.lstrip(b"\0")  # zeros fill up a block, as gzip(1) takes them
                if not rest:
                    break
                member = zlib.decompressobj(wbits=31)
            try:
                yield member.decompress(rest, PIECE)
            except zlib.error as error:
                raise PayloadError(f"{origin} is not gzip all through: {error}") from error
            rest = member.unused_data if member.eof else member.unconsumed_tail
    if not member.eof:
        raise PayloadError(f"{origin} ends in the middle of its gzip stream")


def _after(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others


def _outline(event: Any) -> str:
    """Describe an event without its content, which may be anything."""
    if isinstance(event, Mapping):
        return f"an object with the fields {sorted(map(str, event))[:10]}"
    return f"a value of the type {type(event).__name__}"
