"""What cannot be counted as it stands: kept in the bucket with its reason, by this file alone.

What a batch set aside is decided once, by the first delivery that gets here: a line that was set aside is counted by
a later redrive alone, never by a redelivery of its batch to newer code that could read it (I2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PREFIX: Final = "set-aside/"

_ALREADY_THERE: Final = {"PreconditionFailed", "ConditionalRequestConflict"}


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

    def keep(self, lines: Sequence[SetAsideLine], *, batch: str, log_group: str, log_stream: str) -> SetAsideBatch:
        """Write what a batch sets aside, unless another delivery has decided already; return what stands.

        The key is the batch's own, so that a replay meets the first delivery's object and writes nothing (I2).
        """
        ours = SetAsideBatch(batch, log_group, log_stream, tuple(lines))
        try:
            self.client.put_object(
                Bucket=self.bucket,
                Key=_object_key(batch),
                Body=msgspec.json.encode(ours),
                ContentType="application/json",
                IfNoneMatch="*",
            )
        except ClientError as error:
            if error.response["Error"]["Code"] not in _ALREADY_THERE:
                raise
            return self.of(batch) or ours
        return ours


def _object_key(batch: str) -> str:
    return f"{PREFIX}{batch}.json"
