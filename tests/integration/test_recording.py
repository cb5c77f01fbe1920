"""Recording: each line is counted once or set aside, whatever happens on the way."""

import base64
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from metering.counting.payloads import subscription
from metering.model.periods import Hour
from metering.model.subjects import key
from metering.stores.counters import Counters
from metering.stores.marks import PARTITIONS, Mark, partition
from metering.stores.set_aside import SetAside
from tests.doubles.dying import Dying, KilledError, Life
from tests.integration.world import HOUR, World


def dying(world: World, writes: int, *, after: bool) -> Counters:
    """Return the counters of a process that dies at its n-th write."""
    return Counters(cast("Any", Dying(world.counters.client, Life(writes, accepted=after))), world.counters.table)


def counted(world: World, hour: Hour = HOUR) -> dict[str, dict[str, int]]:
    """Return an hour's counters."""
    return world.counted(hour)


def test_a_batch_is_counted(world: World) -> None:
    """I1: each metric, by hour and key."""
    recorded = world.record(world.line(), world.line(), world.line(key="key2", response_length="7"))
    assert counted(world) == {"key1": {"requests": 2, "bytes": 20}, "key2": {"requests": 1, "bytes": 7}}
    assert (recorded.read, recorded.billed, recorded.set_aside, recorded.refused) == (3, 3, 0, False)


def test_a_redelivered_batch_counts_once(world: World) -> None:
    """I2: the counter itself refuses what it has."""
    lines = [world.line(), world.line(key="key2")]
    world.record(*lines)
    recorded = world.record(*lines)
    assert counted(world) == {"key1": {"requests": 1, "bytes": 10}, "key2": {"requests": 1, "bytes": 10}}
    assert recorded.refused


def test_the_same_events_in_another_envelope_and_order_are_the_same_batch(world: World) -> None:
    """I2: the token is a hash of the content."""
    events = [{"id": f"e{n}", "timestamp": 1, "message": world.line()} for n in range(3)]
    for group, order in (("group", events), ("group", events[::-1] + events[:1])):
        body = {"messageType": "DATA_MESSAGE", "logGroup": group, "logStream": "s", "logEvents": order}
        data = base64.b64encode(gzip.compress(json.dumps(body).encode())).decode()
        world.recorder().record(subscription({"awslogs": {"data": data}}).batch("group"))
    assert counted(world)["key1"]["requests"] == 3


def test_different_batches_add_up(world: World) -> None:
    """I1: also when they land in the same slot."""
    for _ in range(30):
        world.record(world.line())
    assert counted(world)["key1"]["requests"] == 30


def test_batches_side_by_side_count_once_each(world: World) -> None:
    """I2: eight workers deliver twenty batches twice."""
    batches = [world.batch(world.line(), world.line(key=f"key{n % 3}")) for n in range(20)] * 2
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(world.recorder().record, batches))
    assert sum(sums["requests"] for sums in counted(world).values()) == 40


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("writes", [1, 2, 3, 4, 5, 6])
def test_a_crash_at_any_write_loses_and_doubles_nothing(world: World, writes: int, after: bool) -> None:  # noqa: FBT001
    """I1, I2: the batch is delivered again whole, and the late marks are there in the end."""
    world.after_grace()
    batch = world.batch(world.line(), world.line(key="key2"), world.line(key="key3"))
    with pytest.raises(KilledError):
        world.recorder(dying(world, writes, after=after)).record(batch)
    world.recorder().record(batch)
    assert counted(world) == {name: {"requests": 1, "bytes": 10} for name in ("key1", "key2", "key3")}
    assert {mark.subject for mark in world.counters.marks.of_kind(Mark.LATE)} == {key("key1"), key("key2"), key("key3")}


def test_usage_belongs_to_the_hour_of_its_request(world: World) -> None:
    """I3: not to the hour in which it arrives."""
    world.now = HOUR.end + timedelta(hours=30)
    world.record(world.line())
    assert counted(world) == {"key1": {"requests": 1, "bytes": 10}}


def test_a_late_record_marks_its_hour(world: World) -> None:
    """I4: from two minutes before the grace ends, for clocks that differ."""
    world.now = HOUR.end + timedelta(minutes=8) - timedelta(seconds=1)
    world.record(world.line())
    assert world.counters.marks.of_kind(Mark.LATE) == []
    world.now = HOUR.end + timedelta(minutes=8)
    world.record(world.line())
    (mark,) = world.counters.marks.of_kind(Mark.LATE)
    assert (mark.hour, mark.subject) == (HOUR, key("key1"))


def test_a_duplicate_marks_its_hour_too(world: World) -> None:
    """I4: the first delivery may have died between the counter and the mark."""
    line = world.line()
    world.record(line)
    world.after_grace()
    assert world.record(line).refused
    assert len(world.counters.marks.of_kind(Mark.LATE)) == 1


def test_a_renewed_mark_is_not_cleared(world: World) -> None:
    """I4: a change after the mark was read is dealt with by the next run."""
    world.counters.marks.mark_late(HOUR, key("key1"), "first")
    (read,) = world.counters.marks.of_kind(Mark.LATE)
    world.counters.marks.mark_late(HOUR, key("key1"), "second")
    world.counters.marks.clear(read)
    assert len(world.counters.marks.of_kind(Mark.LATE)) == 1
    world.counters.marks.clear(world.counters.marks.of_kind(Mark.LATE)[0])
    assert world.counters.marks.of_kind(Mark.LATE) == []


def test_a_batch_that_comes_again_renews_another_batchs_mark(world: World) -> None:
    """I4: what a closer had read before is not what it clears, although the same batch has marked twice."""
    first, second = world.batch(world.line()), world.batch(world.line())
    world.after_grace()
    world.recorder().record(first)
    (read,) = world.counters.marks.of_kind(Mark.LATE)
    world.recorder().record(second)
    world.recorder().record(first)
    world.counters.marks.clear(read)
    assert len(world.counters.marks.of_kind(Mark.LATE)) == 1


def objects() -> dict[str, Any]:
    """Return the objects in the bucket."""
    s3 = boto3.client("s3")
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="bucket").get("Contents", [])]
    return {name: json.loads(s3.get_object(Bucket="bucket", Key=name)["Body"].read()) for name in keys}


def test_a_bad_line_is_set_aside_and_the_others_are_counted(world: World) -> None:
    """I1: whole, with its reason."""
    recorded = world.record(world.line(), "GET / 200", world.line(status="x"))
    assert counted(world) == {"key1": {"requests": 1, "bytes": 10}}
    assert (recorded.read, recorded.billed, recorded.set_aside) == (3, 1, 2)
    ((name, kept),) = objects().items()
    assert name.startswith("set-aside/")
    assert [line["reason"] for line in kept["lines"]] == [
        "not JSON",
        "status must be a whole number up to 10^12, got 'x'",
    ]
    assert kept["lines"][0]["message"] == "GET / 200"


def test_a_redelivery_writes_the_same_object(world: World) -> None:
    """I2: its name comes from the batch's content."""
    bad = ["nonsense", world.line()]
    world.record(*bad)
    before = objects()
    world.record(*bad)
    assert objects() == before


def test_what_was_set_aside_stays_so_when_newer_code_could_read_it(world: World) -> None:
    """I2: a line from the future is readable an hour later, but only its redrive may count it."""
    future = world.line(time=str(int((HOUR.end + timedelta(minutes=1)).timestamp() * 1000)))
    assert world.record(future).set_aside == 1
    world.now = HOUR.end + timedelta(minutes=5)
    recorded = world.record(future)
    assert (recorded.read, recorded.billed, recorded.set_aside) == (1, 0, 1)
    assert counted(world, HOUR.next()) == {}


def old(world: World) -> str:
    """Return a line that can be counted today, and not in two days."""
    return world.line(time=str(int((HOUR.start - timedelta(days=59)).timestamp() * 1000)))


@pytest.mark.parametrize("other", ["nonsense", "good"])
def test_what_an_earlier_delivery_may_have_counted_is_kept_apart(world: World, other: str) -> None:
    """I1, I2: a later delivery, of stricter code or another clock, neither drops nor redrives it."""
    lines = [old(world), world.line() if other == "good" else other]
    assert world.record(*lines).billed == len(lines) - (other == "nonsense")
    world.now += timedelta(days=2)
    recorded = world.record(*lines)
    assert recorded.read == recorded.billed + sum(recorded.unbilled.values()) + recorded.set_aside
    (doubtful,) = [batch for name, batch in objects().items() if name.endswith(".doubtful.json")]
    assert [line["message"] for line in doubtful["lines"]] == [lines[0]]


def test_a_line_that_a_crashed_delivery_did_not_set_aside_is_kept_by_the_next(world: World) -> None:
    """I1: the first delivery died before it counted; the second finds one line more to be bad."""
    lines = [old(world), "nonsense"]
    with pytest.raises(KilledError):
        world.recorder(dying(world, 1, after=False)).record(world.batch(*lines))
    world.now += timedelta(days=2)
    assert world.record(*lines).set_aside == 2
    assert sorted(line["message"] for batch in objects().values() for line in batch["lines"]) == sorted(lines)


class Conflicting:
    """A bucket in which another write of the same key is always under way."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def put_object(self, **_: Any) -> None:
        """Answer as S3 does (API reference, "Error responses"): the other write may yet fail."""
        raise ClientError({"Error": {"Code": "ConditionalRequestConflict"}}, "PutObject")


def test_a_conflicting_write_to_the_bucket_fails_the_batch(world: World) -> None:
    """I1: nothing says that the other delivery's object will stand."""
    recorder = replace(world.recorder(), set_aside=SetAside(cast("Any", Conflicting(world.set_aside.client)), "bucket"))
    with pytest.raises(ClientError):
        recorder.record(world.batch("nonsense"))


def test_who_is_billed_for_nothing_is_neither_counted_nor_set_aside(world: World) -> None:
    """I1: read = billed + unbilled + set aside."""
    recorded = world.record(world.line(key="-"), world.line(status="403"), world.line(), "nonsense")
    assert recorded.read == recorded.billed + sum(recorded.unbilled.values()) + recorded.set_aside == 4
    assert recorded.unbilled == {"no API key": 1, "no metric bills such a request": 1}


def test_a_failing_bucket_fails_the_batch_before_anything_is_counted(world: World) -> None:
    """I1: Lambda delivers it again."""
    boto3.client("s3").delete_bucket(Bucket="bucket")
    with pytest.raises(ClientError):
        world.record(world.line(), "nonsense")
    assert counted(world) == {}


def test_a_failing_table_fails_the_batch(world: World) -> None:
    """I1: Lambda delivers it again."""
    boto3.client("dynamodb").delete_table(TableName="counters")
    with pytest.raises(ClientError):
        world.record(world.line())


def test_a_keys_counter_is_read_alone_or_with_the_hour(world: World) -> None:
    """A key whose id begins like another's is not mixed up with it."""
    world.record(world.line(key="k"), world.line(key="k-2"), world.line(key="k2"))
    assert counted(world).keys() == {"k", "k-2", "k2"}
    assert world.counters.read(HOUR, {"k"}).keys() == {"k"}
    many = {f"x{n}" for n in range(100)} | {"k2"}
    assert world.counters.read(HOUR, many).keys() == {"k2"}


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=10, max_size=10))
def test_a_partition_is_one_of_sixteen(name: str) -> None:
    """Closing an hour is so many queries."""
    assert 0 <= partition(name) < PARTITIONS == 16


def test_counters_live_62_days_longer_than_their_hour(world: World) -> None:
    """A late record must find its hour."""
    world.record(world.line())
    items = boto3.client("dynamodb").scan(TableName="counters")["Items"]
    (item,) = [item for item in items if item["pk"]["S"].startswith("hour#")]
    assert int(item["ttl"]["N"]) == int((HOUR.end + timedelta(days=62)).timestamp())
    assert len(next(iter(item["batches"]["BS"]))) == 12
