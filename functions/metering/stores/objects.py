"""Objects of a bucket, read piece by piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_PIECE: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of the account ``owner``: S3 refuses the read if it has come to be another account's."""

    client: "S3Client"
    name: str
    owner: str

    def pieces(self, key: str) -> Iterator[bytes]:
        """Yield an object's bytes as they come; errors of S3 are raised as they are."""
        answer = self.client.get_object(Bucket=self.name, Key=key, ExpectedBucketOwner=self.owner)
        yield from answer["Body"].iter_chunks(_PIECE)
