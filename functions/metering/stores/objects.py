"""Objects of the bucket, read piece by piece."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_PIECE: Final = 1 << 18


def pieces(client: "S3Client", bucket: str, key: str) -> Iterator[bytes]:
    """Yield an object's bytes as they come; errors of S3 are raised as they are."""
    yield from client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(_PIECE)
