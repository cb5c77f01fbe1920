"""What cannot be counted as it stands: kept in the bucket with its reason, by this file alone.

What a batch set aside is decided once, by the first delivery that gets here: a line that was set aside is counted by
a later redrive alone, never by a redelivery of its batch to newer code that could read it (I2). A line that only a
later delivery finds bad (other code, another clock) may have been counted before: it is kept apart, as doubtful.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PREFIX: Final = "set-aside/"


class SetAsideLine(msgspec.Struct, frozen=True):
    """A line as it came, its log event's id and time (milliseconds since 1970), and why it was set aside."""

    id: str
    timestamp: int
    message: str
    reason: str


class SetAsideBatch(msgspec.Struct, frozen=True):
    """One object of the bucket: the lines that one batch set aside."""

    batch: str
    log_group: str
    log_stream: str
    lines: tuple[SetAsideLine, ...]


@dataclass(frozen=True, slots=True)
class SetAside:
    """The bucket's verbs. Errors of S3 are raised as they are."""

    client: "S3Client"
    bucket: str

    def of(self, batch: str) -> SetAsideBatch | None:
        """Return what a batch has set aside, or None if no delivery of it has set anything aside."""
        try:
            found = self.client.get_object(Bucket=self.bucket, Key=_object_key(batch))
        except self.client.exceptions.NoSuchKey:
            return None
        return msgspec.json.decode(found["Body"].read(), type=SetAsideBatch)

    def keep(self, lines: Sequence[SetAsideLine], *, batch: str, log_group: str, log_stream: str) -> None:
        """Write what a batch sets aside.

        The key is the batch's own, so that a replay writes the same object (I2). If another delivery is faster, S3
        refuses the write, the error is raised, and the next delivery finds what was decided.
        """
        self._put(_object_key(batch), SetAsideBatch(batch, log_group, log_stream, tuple(lines)), IfNoneMatch="*")

    def keep_doubtful(self, lines: Sequence[SetAsideLine], *, batch: str, log_group: str, log_stream: str) -> None:
        """Write lines that an earlier delivery of the batch may have counted, beside what it set aside.

        A replay writes the same lines to the same key again.
        """
        self._put(f"{PREFIX}{batch}.doubtful.json", SetAsideBatch(batch, log_group, log_stream, tuple(lines)))

    def _put(self, key: str, batch: SetAsideBatch, **condition: str) -> None:
        body = msgspec.json.encode(batch)
        self.client.put_object(
            Bucket=self.bucket,
            Key=key,
            Body=body,
            ContentType="application/json",
            **condition,  # type: ignore[arg-type]
        )


def _object_key(batch: str) -> str:
    return f"{PREFIX}{batch}.json"
