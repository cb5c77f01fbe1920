"""The road over Firehose on the embedded AWS: objects, notifications, deployed function, counters."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from app import METRICS
from infra.local.demo import steps as demo
from metering.model.log_format import AccessLog
from metering.model.metrics import declared
from tests.doubles.hostile import HOSTILE, hostile_line
from tests.e2e.conftest import Deployed


@pytest.fixture
def s3(firehose: Deployed) -> Iterator[Any]:
    """A client of the bucket's."""
    client = firehose.cloud.emulator.client("s3")
    yield client
    client.close()


def _put(firehose: Deployed, s3: Any, name: str, content: bytes) -> str:
    key = f"access-log/2026/11/22/05/{name}"
    s3.put_object(Bucket=firehose.cloud.outputs.bucket, Key=key, Body=content)
    return key


def _content(firehose: Deployed, *keys: str) -> bytes:
    return "".join(f"{firehose.access_line(key)}\n" for key in keys).encode()


def _settled(firehose: Deployed, s3: Any) -> None:
    """Wait until one more object is counted, and no message waits or is being dealt with."""
    _put(firehose, s3, "last", _content(firehose, "last"))
    demo.wait_until(lambda: firehose.counted("last") == 1)
    sqs = firehose.cloud.emulator.client("sqs")
    (queue,) = [url for url in sqs.list_queues()["QueueUrls"] if "DeliveryObjects" in url]
    waiting = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]

    def is_empty() -> bool:
        found = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=waiting)["Attributes"]
        return {found[name] for name in waiting} == {"0"}

    demo.wait_until(is_empty)
    sqs.close()


def test_an_object_is_counted_gzipped_or_not(firehose: Deployed, s3: Any) -> None:
    """I1: Firehose gzips as it was told to; an object that somebody unpacked and put back is as good."""
    _put(firehose, s3, "gzipped.gz", gzip.compress(_content(firehose, "gzipped", "gzipped", "gzipped")))
    _put(firehose, s3, "plain", _content(firehose, "plain", "plain"))
    demo.wait_until(lambda: (firehose.counted("gzipped"), firehose.counted("plain")) == (3, 2))


def test_text_that_ends_its_line_bills_nobody(firehose: Deployed, s3: Any) -> None:
    """I7: an authorizer's value as it is, by the format that is deployed: Firehose ends a line where the value does."""
    template = AccessLog().format(firehose.nonce, declared(METRICS))
    time = str(int(firehose.hour.start.timestamp() * 1000))
    for number, text in enumerate(HOSTILE.values()):
        line = hostile_line(number, text, "authorizer.user", raw=True, template=template, time=time)
        _put(firehose, s3, f"hostile-{number}.gz", gzip.compress(f"{line}\n".encode()))
    _settled(firehose, s3)
    assert firehose.counted("victim") == 0
    assert list(firehose.cloud.deployment.set_aside.batches())


def test_an_object_that_is_notified_twice_counts_once(firehose: Deployed, s3: Any) -> None:
    """I2: notifications come at least once; the second may come hours later."""
    content = gzip.compress(_content(firehose, "notified"))
    key = _put(firehose, s3, "notified.gz", content)
    demo.wait_until(lambda: firehose.counted("notified") == 1)
    bucket = firehose.cloud.outputs.bucket
    notification = {"Records": [{"s3": {"bucket": {"name": bucket}, "object": {"key": key, "eTag": "other"}}}]}
    record = {"messageId": "m1", "body": json.dumps(notification), "eventSource": "aws:sqs"}
    assert firehose.deliver({"Records": [record]}) == {"batchItemFailures": []}
    assert firehose.counted("notified") == 1


def test_the_same_content_under_another_name_counts_once(firehose: Deployed, s3: Any) -> None:
    """I2: after a timeout Firehose may write the same records into another object, and compress them otherwise."""
    content = _content(firehose, "renamed", "renamed")
    _put(firehose, s3, "first.gz", gzip.compress(content))
    demo.wait_until(lambda: firehose.counted("renamed") == 2)
    _put(firehose, s3, "second.gz", gzip.compress(content, compresslevel=1))
    _put(firehose, s3, "third", content)
    _settled(firehose, s3)
    assert firehose.counted("renamed") == 2


def test_an_object_that_cannot_be_read_is_reported_and_not_lost(firehose: Deployed, s3: Any) -> None:
    """I1: the message comes again, at last into the dead-letter queue; the object stays."""
    content = gzip.compress(_content(firehose, "cut"))
    key = _put(firehose, s3, "cut.gz", content[: len(content) // 2])
    bucket = firehose.cloud.outputs.bucket
    notification = {"Records": [{"s3": {"bucket": {"name": bucket}, "object": {"key": key}}}]}
    record = {"messageId": "m1", "body": json.dumps(notification), "eventSource": "aws:sqs"}
    good = _put(firehose, s3, "whole.gz", gzip.compress(_content(firehose, "whole")))
    other = {**record, "messageId": "m2", "body": record["body"].replace(key, good)}
    assert firehose.deliver({"Records": [record, other]}) == {"batchItemFailures": [{"itemIdentifier": "m1"}]}
    assert (firehose.counted("cut"), firehose.counted("whole")) == (0, 1)
    assert s3.head_object(Bucket=bucket, Key=key)["ContentLength"] == len(content) // 2
