"""What cannot be counted as it stands: kept in the bucket with its reason, by this file alone.

| object below ``set-aside/`` | what |
| --- | --- |
| ``<batch>.json`` | lines that the batch's first delivery rejected, wholly or for some metrics |
| ``<batch>.doubtful.json`` | lines that only a later delivery rejected; an earlier one may have counted them |
| ``<batch>.redriven.json`` | which of these have been counted since, and for which metrics they still wait |
| ``<batch>.dismissed.json`` | which of these nobody will ever bill, who said so, and why |

What a batch set aside is decided once, by the first delivery that gets here: a line that was set aside is counted by
a redrive alone, never by a redelivery of its batch to newer code that could read it (I2). A line that only a later
delivery finds bad (other code, another clock) is kept apart, as doubtful, and is left out from then on, too.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from metering.layout import DONE, SET_ASIDE
from metering.model.batches import Source

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

BATCH_PATTERN: Final = r"[0-9a-f]{24}"
"""What names a batch: its token in hex."""

_LINES: Final = ".json"
_DOUBTFUL: Final = ".doubtful.json"
_REDRIVEN: Final = ".redriven.json"
_DISMISSED: Final = ".dismissed.json"


class SetAsideLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line as it came, its id within the batch, and why it was set aside: for ``metrics`` alone if it names any."""

    id: str
    message: str
    reason: str
    metrics: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the line is called in notes: one line may be set aside twice, each time for other metrics."""
        return "\0".join((self.id, *self.metrics))


class SetAsideBatch(msgspec.Struct, frozen=True):
    """The lines that one batch set aside; ``origin`` is the log group and stream, or the object, they came from.

    ``counters`` are the hours and keys, written ``<hour> <key>``, that the delivery which set them aside went on to
    count. ``at`` is when the first line of the batch was written, in milliseconds since 1970; 0 if that is not known.
    """

    batch: str
    source: Source
    origin: str
    lines: tuple[SetAsideLine, ...]
    counters: tuple[str, ...] = ()
    at: int = 0


class Dismissal(msgspec.Struct, frozen=True):
    """Who said, and why, that nobody will ever bill a line; ``at`` is a moment, ``2026-11-22T05:17:00Z``."""

    reason: str
    who: str
    at: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A line that waits to be counted, for ``metrics`` alone if it names any."""

    batch: SetAsideBatch
    line: SetAsideLine
    metrics: tuple[str, ...]
    doubtful: bool
    place: int
    """How many of the batch's lines stand before it, whatever became of them: it never changes."""


@dataclass(frozen=True, slots=True)
class Kept:
    """All that is kept of one batch."""

    certain: SetAsideBatch | None = None
    doubtful: SetAsideBatch | None = None
    doubtful_version: str = ""
    redriven: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By the names of lines that a redrive has counted: the metrics for which they still wait."""

    dismissed: Mapping[str, Dismissal] = field(default_factory=dict)
    """By the names of lines that nobody will ever bill."""

    @property
    def lines(self) -> list[tuple[SetAsideBatch, SetAsideLine]]:
        """Every line that was set aside, behind its batch: first the certain ones."""
        return [(batch, line) for batch in (self.certain, self.doubtful) if batch for line in batch.lines]

    @property
    def left_out(self) -> dict[str, tuple[str, ...]]:
        """By the ids of lines: the metrics for which no delivery of the batch counts them; for none at all if empty."""
        left_out: dict[str, tuple[str, ...]] = {}
        for _, line in self.lines:
            before = left_out.get(line.id)
            whole = not line.metrics or before == ()
            left_out[line.id] = () if whole else (*(before or ()), *line.metrics)
        return left_out

    @property
    def waiting(self) -> list[Waiting]:
        """What is neither counted nor dismissed."""
        return [
            Waiting(batch, line, self.redriven.get(line.name, line.metrics), batch is self.doubtful, place)
            for place, (batch, line) in enumerate(self.lines)
            if line.name not in self.dismissed and (line.name not in self.redriven or self.redriven[line.name])
        ]


@dataclass(frozen=True, slots=True)
class SetAside:
    """The bucket's verbs. Errors of S3 are raised as they are."""

    client: "S3Client"
    bucket: str

    def of(self, batch: str) -> Kept:
        """Return what is kept of a batch; one read where nothing is, since every batch asks."""
        certain, _ = self._read(batch, _LINES)
        if certain is None:
            return Kept()
        doubtful, version = self._read(batch, _DOUBTFUL)
        redriven, _ = self._read(batch, _REDRIVEN)
        dismissed, _ = self._read(batch, _DISMISSED)
        return Kept(
            msgspec.json.decode(certain, type=SetAsideBatch),
            msgspec.json.decode(doubtful, type=SetAsideBatch) if doubtful is not None else None,
            version,
            msgspec.json.decode(redriven or b"{}", type=dict[str, tuple[str, ...]]),
            msgspec.json.decode(dismissed or b"{}", type=dict[str, Dismissal]),
        )

    def keep(self, bad: SetAsideBatch) -> None:
        """Write what a batch sets aside.

        The key is the batch's own, so that a replay writes the same object (I2). If another delivery is faster, S3
        refuses the write, the error is raised, and the next delivery finds what was decided.
        """
        self._put(bad.batch, _LINES, msgspec.json.encode(bad), IfNoneMatch="*")

    def keep_doubtful(self, bad: SetAsideBatch, before: Kept) -> None:
        """Write lines that an earlier delivery of the batch may have counted, beside what was kept ``before``.

        If another delivery is faster, S3 refuses the write, the error is raised, and the next delivery finds its lines.
        """
        if before.certain is None:
            self.keep(msgspec.structs.replace(bad, lines=()))  # so that every later delivery looks further
        there = before.doubtful.lines if before.doubtful else ()
        kept = msgspec.structs.replace(bad, lines=(*there, *bad.lines))
        unchanged = {"IfMatch": before.doubtful_version} if before.doubtful else {"IfNoneMatch": "*"}
        self._put(bad.batch, _DOUBTFUL, msgspec.json.encode(kept), **unchanged)
        self._tag(bad.batch, self.of(bad.batch), {})  # what had ended waits again, all of it

    def note_redriven(self, batch: str, redriven: Mapping[str, Collection[str]]) -> None:
        """Write which lines have been counted, by their names, and for which metrics each still waits.

        A lost note is harmless: a line that is redriven again is refused.
        """
        self._put(batch, _REDRIVEN, msgspec.json.encode(redriven))

    def dismiss(self, batch: str, dismissed: Mapping[str, Dismissal]) -> None:
        """Write which lines nobody will ever bill, by their names; a replay writes the same."""
        self._put(batch, _DISMISSED, msgspec.json.encode(dict(dismissed)))
        self.mark_done(batch)

    def mark_done(self, batch: str) -> None:
        """Let a batch expire of which nothing waits any more.

        Dying before leaves it for good, which loses nothing; lines that come to be doubtful later are an object
        that is written anew, without the tag.
        """
        kept = self.of(batch)
        if not kept.waiting:
            self._tag(batch, kept, DONE)

    def _tag(self, batch: str, kept: Kept, tags: Mapping[str, str]) -> None:
        there = {_LINES: kept.certain, _DOUBTFUL: kept.doubtful, _REDRIVEN: kept.redriven, _DISMISSED: kept.dismissed}
        for kind in [kind for kind, content in there.items() if content]:
            self.client.put_object_tagging(
                Bucket=self.bucket,
                Key=f"{SET_ASIDE}{batch}{kind}",
                Tagging={"TagSet": [{"Key": key, "Value": value} for key, value in tags.items()]},
            )

    def batches(self) -> Iterator[str]:
        """Yield the batches of which something is kept."""
        seen = set()
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=SET_ASIDE):
            for found in page.get("Contents", []):
                batch = found["Key"].removeprefix(SET_ASIDE).partition(".")[0]
                if batch not in seen:
                    seen.add(batch)
                    yield batch

    def _read(self, batch: str, kind: str) -> tuple[bytes | None, str]:
        """Return an object and its version, or None and nothing."""
        try:
            found = self.client.get_object(Bucket=self.bucket, Key=f"{SET_ASIDE}{batch}{kind}")
        except self.client.exceptions.NoSuchKey:
            return None, ""
        return found["Body"].read(), found["ETag"]

    def _put(self, batch: str, kind: str, body: bytes, **condition: str) -> None:
        self.client.put_object(
            Bucket=self.bucket,
            Key=f"{SET_ASIDE}{batch}{kind}",
            Body=body,
            ContentType="application/json",
            **condition,  # type: ignore[arg-type]
        )
