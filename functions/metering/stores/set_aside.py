"""What cannot be counted as it stands: kept in the bucket with its reason, by this file alone.

| object below ``set-aside/`` | what |
| --- | --- |
| ``<batch>.json`` | lines that the batch's first delivery rejected |
| ``<batch>.doubtful.json`` | lines that only a later delivery rejected; an earlier one may have counted them |
| ``<batch>.redriven.json`` | which of these have been counted since |

What a batch set aside is decided once, by the first delivery that gets here: a line that was set aside is counted by
a redrive alone, never by a redelivery of its batch to newer code that could read it (I2). A line that only a later
delivery finds bad (other code, another clock) is kept apart, as doubtful, and is left out from then on, too.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from metering.layout import SET_ASIDE
from metering.model.batches import Source

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

BATCH_PATTERN: Final = r"[0-9a-f]{24}"
"""What names a batch: its token in hex."""

_LINES: Final = ".json"
_DOUBTFUL: Final = ".doubtful.json"
_REDRIVEN: Final = ".redriven.json"


class SetAsideLine(msgspec.Struct, frozen=True):
    """A line as it came, its id within the batch, and why it was set aside."""

    id: str
    message: str
    reason: str


class SetAsideBatch(msgspec.Struct, frozen=True):
    """The lines that one batch set aside; ``origin`` is the log group and stream, or the object, they came from.

    ``counters`` are the hours and keys, written ``<hour> <key>``, that the delivery which set them aside went on to
    count.
    """

    batch: str
    source: Source
    origin: str
    lines: tuple[SetAsideLine, ...]
    counters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """All that is kept of one batch."""

    certain: SetAsideBatch | None = None
    doubtful: SetAsideBatch | None = None
    doubtful_version: str = ""
    redriven: frozenset[str] = frozenset()
    """The ids of the lines that a redrive has counted."""

    @property
    def ids(self) -> set[str]:
        """The lines that no delivery of the batch counts any more."""
        return {line.id for batch in (self.certain, self.doubtful) if batch for line in batch.lines}


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
        return Kept(
            msgspec.json.decode(certain, type=SetAsideBatch),
            msgspec.json.decode(doubtful, type=SetAsideBatch) if doubtful is not None else None,
            version,
            msgspec.json.decode(redriven, type=frozenset[str]) if redriven is not None else frozenset(),
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

    def note_redriven(self, batch: str, ids: Collection[str]) -> None:
        """Write which lines have been counted. A lost note is harmless: a line that is redriven again is refused."""
        self._put(batch, _REDRIVEN, msgspec.json.encode(sorted(ids)))

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
