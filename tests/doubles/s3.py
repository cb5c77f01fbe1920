"""S3 in memory: objects, with the conditions under which they are written (S3 User Guide, "Conditional writes")."""

import io
import zlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError
from botocore.response import StreamingBody

OWNER = "123456789012"
"""The account of every bucket here."""


class NoSuchKey(ClientError):  # noqa: N818  as clients name it
    """There is no such object."""


class NoSuchBucket(ClientError):  # noqa: N818
    """There is no such bucket."""


class Exceptions:
    """What the client raises, under the names that boto3 has."""

    NoSuchKey = NoSuchKey
    NoSuchBucket = NoSuchBucket


class Buckets:
    """Buckets of objects, which lists show in pages of so many."""

    exceptions = Exceptions

    def __init__(self, names: Iterable[str] = ("bucket",), page: int = 1000) -> None:
        self._buckets: dict[str, dict[str, bytes]] = {name: {} for name in names}
        self._tags: dict[tuple[str, str], list[dict[str, str]]] = {}
        self._page = page
        self._lifecycles: dict[str, list[dict[str, Any]]] = {}
        self._written: dict[tuple[str, str], datetime] = {}
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def objects(self, bucket: str = "bucket") -> dict[str, bytes]:
        """Return the objects of a bucket by their keys."""
        return self._of(bucket, "ListObjectsV2")

    def get_object(
        self,
        *,
        Bucket: str,  # noqa: N803  as S3 names them, here and below
        Key: str,  # noqa: N803
        ExpectedBucketOwner: str = OWNER,  # noqa: N803
    ) -> dict[str, Any]:
        """Return an object, if the bucket is whose it is said to be."""
        if ExpectedBucketOwner != OWNER:
            denied: Any = {"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}
            raise ClientError(denied, "GetObject")
        objects = self._of(Bucket, "GetObject")
        if Key not in objects:
            said: Any = {"Error": {"Code": "NoSuchKey", "Message": "The specified key does not exist.", "Key": Key}}
            raise NoSuchKey(said, "GetObject")
        body = objects[Key]
        stream = StreamingBody(io.BytesIO(body), len(body))
        return {"Body": stream, "ETag": _etag(body), "ContentLength": len(body)}

    def put_object(  # noqa: PLR0913
        self,
        *,
        Bucket: str,  # noqa: N803
        Key: str,  # noqa: N803
        Body: bytes | str,  # noqa: N803
        IfNoneMatch: str = "",  # noqa: N803
        IfMatch: str = "",  # noqa: N803
        ContentType: str = "",  # noqa: N803, ARG002  which nobody asks for
    ) -> dict[str, Any]:
        """Write an object, unless it must not exist and does, or must be as it was read and is not."""
        objects = self._of(Bucket, "PutObject")
        there = objects.get(Key)
        refused = there is not None if IfNoneMatch == "*" else IfMatch and _etag(there or b"") != IfMatch
        if refused:
            said: Any = {"Error": {"Code": "PreconditionFailed"}, "ResponseMetadata": {"HTTPStatusCode": 412}}
            raise ClientError(said, "PutObject")
        body = Body.encode() if isinstance(Body, str) else Body
        objects[Key] = body
        self._written[Bucket, Key] = self.clock()
        self._tags.pop((Bucket, Key), None)
        return {"ETag": _etag(body)}

    def put_bucket_lifecycle_configuration(
        self,
        *,
        Bucket: str,  # noqa: N803
        LifecycleConfiguration: dict[str, Any],  # noqa: N803
    ) -> dict[str, Any]:
        """Keep the rules by which objects would expire; no time passes here."""
        self._of(Bucket, "PutBucketLifecycleConfiguration")
        self._lifecycles[Bucket] = LifecycleConfiguration["Rules"]
        return {}

    def get_bucket_lifecycle_configuration(self, *, Bucket: str) -> dict[str, Any]:  # noqa: N803
        """Return the rules, if there are any."""
        self._of(Bucket, "GetBucketLifecycleConfiguration")
        if Bucket not in self._lifecycles:
            said: Any = {"Error": {"Code": "NoSuchLifecycleConfiguration", "Message": "There are none."}}
            raise ClientError(said, "GetBucketLifecycleConfiguration")
        return {"Rules": self._lifecycles[Bucket]}

    def put_object_tagging(self, *, Bucket: str, Key: str, Tagging: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        """Tag an object; it loses its tags when it is written anew."""
        self.get_object(Bucket=Bucket, Key=Key)
        self._tags[Bucket, Key] = list(Tagging["TagSet"])
        return {}

    def get_object_tagging(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        """Return an object's tags."""
        return {"TagSet": self._tags.get((Bucket, Key), [])}

    def delete_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        """Delete an object, whether it is there or not."""
        self._of(Bucket, "DeleteObject").pop(Key, None)
        return {}

    def list_objects_v2(
        self,
        *,
        Bucket: str,  # noqa: N803
        Prefix: str = "",  # noqa: N803
        MaxKeys: int = 1000,  # noqa: N803
        ContinuationToken: str = "",  # noqa: N803
    ) -> dict[str, Any]:
        """Return the next page of objects below a prefix, in order of their keys."""
        objects = self._of(Bucket, "ListObjectsV2")
        keys = sorted(key for key in objects if key.startswith(Prefix) and key > ContinuationToken)
        shown = keys[: min(MaxKeys, self._page)]
        page: dict[str, Any] = {"KeyCount": len(shown), "IsTruncated": len(shown) < len(keys)}
        if shown:
            page["Contents"] = [
                {
                    "Key": key,
                    "Size": len(objects[key]),
                    "ETag": _etag(objects[key]),
                    "LastModified": self._written.get((Bucket, key), self.clock()),
                }
                for key in shown
            ]
        return page | ({"NextContinuationToken": shown[-1]} if len(shown) < len(keys) else {})

    def create_bucket(self, *, Bucket: str) -> dict[str, Any]:  # noqa: N803
        """Make a bucket."""
        self._buckets.setdefault(Bucket, {})
        return {}

    def delete_bucket(self, *, Bucket: str) -> dict[str, Any]:  # noqa: N803
        """Delete a bucket, which has to be empty."""
        assert not self._of(Bucket, "DeleteBucket"), "a bucket that is deleted is empty"
        del self._buckets[Bucket]
        return {}

    def _of(self, bucket: str, operation: str) -> dict[str, bytes]:
        if bucket not in self._buckets:
            said = "The specified bucket does not exist"
            raise NoSuchBucket({"Error": {"Code": "NoSuchBucket", "Message": said}}, operation)
        return self._buckets[bucket]


def _etag(body: bytes) -> str:
    return f'"{zlib.crc32(body):08x}"'
