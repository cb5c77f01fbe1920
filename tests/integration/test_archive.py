"""The archive: each line of an object counts once, however often, under whatever name and in how many runs it comes."""

import gzip
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

import boto3
import pytest

from infra.operate.recount import raw_log
from metering.counting import payloads
from metering.counting.archive import Archive, OutOfTimeError
from metering.counting.payloads import ArchiveObject, PayloadError
from metering.counting.recorded import Recorded
from metering.counting.redriving import redrive
from metering.model.batches import Batch
from metering.stores.counters import Counters
from metering.stores.objects import Bucket
from tests.integration.world import HOUR, World


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 1500 bytes, which are five lines, and few partitions, each of which is a call to moto."""
    monkeypatch.setattr(payloads, "CHUNK", 1500)
    for name in ("marks.PARTITIONS", "rows.SHARDS"):
        monkeypatch.setattr(f"metering.stores.{name}", 2)


@dataclass
class Watching:
    """A recorder that keeps count of the batches that it was given."""

    world: World
    recorded: list[bytes] = field(default_factory=list)

    @property
    def counters(self) -> Counters:
        """The recorder's counters."""
        return self.world.counters

    def record(self, batch: Batch) -> Recorded:
        """Record a batch."""
        self.recorded.append(batch.token)
        return self.world.recorder().record(batch)


def put(content: bytes, name: str = "access-log/2026/11/22/05/one.gz") -> ArchiveObject:
    """Put an object, and return it as S3 tells of it."""
    found = boto3.client("s3").put_object(Bucket="bucket", Key=name, Body=content)
    return ArchiveObject("bucket", name, found["ETag"].strip('"'))


def archive(world: World, recorder: Watching | None = None, moments: Iterable[datetime] = ()) -> Archive:
    """Return what records objects; its clock tells some moments and then stands still, its time is over in an hour."""
    ticking = iter(moments)
    return Archive(
        Bucket(cast("Any", boto3.client("s3")), "bucket", "123456789012"),
        cast("Any", recorder or Watching(world)),
        lambda: next(ticking, world.now),
        world.now + timedelta(hours=1),
    )


def requests(world: World) -> int:
    """Return how many requests of the hour were counted."""
    return sum(sums["requests"] for sums in world.counted().values())


def lines(world: World, count: int = 20) -> bytes:
    """Return access-log lines of three keys, as Firehose writes them."""
    return "".join(world.line(key=f"key{n % 3}") + "\n" for n in range(count)).encode()


def test_an_object_is_counted_chunk_by_chunk(world: World) -> None:
    """I1: what became of its lines is told of them all."""
    watching = Watching(world)
    content = lines(world) + b"nonsense\n\n" + world.line(key="-").encode()
    recorded = archive(world, watching).record(put(gzip.compress(content)))
    assert len(watching.recorded) == len(set(watching.recorded)) == 5
    assert (recorded.read, recorded.billed, recorded.set_aside, recorded.refused) == (22, 20, 1, 0)
    assert recorded.unbilled == {"no API key": 1}
    assert world.counted() == {
        "key0": {"requests": 7, "bytes": 70},
        "key1": {"requests": 7, "bytes": 70},
        "key2": {"requests": 6, "bytes": 60},
    }


def test_an_object_that_s3_tells_of_twice_counts_once(world: World) -> None:
    """I2: every chunk is refused the second time."""
    found = put(gzip.compress(lines(world)))
    archive(world).record(found)
    recorded = archive(world).record(found)
    assert (recorded.read, recorded.refused) == (20, 4)
    assert requests(world) == 20


def test_the_same_content_under_another_name_counts_once(world: World) -> None:
    """I2: gzipped, in several members, or plain."""
    content = lines(world)
    packed = gzip.compress(content[:500]) + gzip.compress(content[500:])
    for number, body in enumerate((gzip.compress(content), content, packed)):
        archive(world).record(put(body, f"access-log/{number}"))
    assert requests(world) == 20


def test_an_object_without_a_line_counts_nothing(world: World) -> None:
    """Blank lines are nobody's."""
    for number, body in enumerate((b"", b"\n\n", gzip.compress(b""))):
        assert archive(world).record(put(body, f"access-log/{number}")).read == 0


def test_a_line_that_is_no_utf_8_is_set_aside_and_its_neighbours_count(world: World) -> None:
    """I1: with its bytes spelled out; where it came from stands beside it."""
    watching = Watching(world)
    content = [world.line(), world.line().replace("/items", "/\udcff"), world.line()]
    body = "\n".join(content).encode(errors="surrogateescape")
    recorded = archive(world, watching).record(put(body, "access-log/bad"))
    assert (recorded.billed, recorded.set_aside) == (2, 1)
    kept = world.set_aside.of(watching.recorded[0].hex()).certain
    assert kept is not None
    assert kept.origin == "s3://bucket/access-log/bad"
    ((name, message),) = [(line.id, line.message) for line in kept.lines]
    assert (name, "/\\xff" in message) == ("1", True)


def test_a_line_longer_than_two_chunks_is_set_aside_in_pieces_and_its_neighbours_count(world: World) -> None:
    """I1: memory is bounded by the chunks, not by the line."""
    watching = Watching(world)
    body = b"\n".join([world.line().encode(), b"x" * 5000, world.line().encode()])
    recorded = archive(world, watching).record(put(body))
    assert (recorded.billed, recorded.set_aside) == (2, 2)
    kept = [world.set_aside.of(token.hex()).certain for token in watching.recorded]
    assert sum(len(line.message) for batch in kept if batch for line in batch.lines) == 5000


def test_a_truncated_object_fails_and_the_whole_one_counts_the_rest(world: World) -> None:
    """I1, I2: what was whole is counted already and refused then."""
    content = lines(world, 12)
    with pytest.raises(PayloadError, match="ends in the middle of its gzip stream"):
        archive(world).record(put(gzip.compress(content)[:-8]))
    assert 0 < requests(world) < 12
    archive(world).record(put(gzip.compress(content)))
    assert requests(world) == 12


def test_what_is_left_of_a_truncated_object_can_be_put_back(world: World) -> None:
    """I1, I2: packed anew, it counts what was not counted yet; the line that was cut is set aside."""
    packed = gzip.compress(lines(world, 12), 1)
    left = zlib.decompressobj(31).decompress(packed[: len(packed) * 9 // 10])
    with pytest.raises(PayloadError):
        archive(world).record(put(packed[: len(packed) * 9 // 10]))
    before, whole = requests(world), left.count(b"\n")
    recorded = archive(world).record(put(gzip.compress(left)))
    assert 0 < before < whole < 12
    assert (requests(world), recorded.set_aside) == (whole, 1)


def test_a_run_out_of_time_goes_on_where_it_stopped(world: World) -> None:
    """I1, I2: no chunk is recorded twice, though each run reads the object from its beginning."""
    watching = Watching(world)
    found = put(gzip.compress(lines(world)))
    later = world.now + timedelta(hours=2)
    with pytest.raises(OutOfTimeError, match="goes on at chunk 2 in the next run"):
        archive(world, watching, [world.now, world.now, later]).record(found)
    assert (len(watching.recorded), requests(world)) == (2, 10)
    with pytest.raises(OutOfTimeError, match="goes on at chunk 3 in the next run"):
        archive(world, watching, [world.now, later, later]).record(found)
    recorded = archive(world, watching).record(found)
    assert (recorded.read, recorded.refused) == (5, 0)
    assert len(watching.recorded) == len(set(watching.recorded)) == 4
    assert requests(world) == 20


def test_a_run_without_any_time_begins_nothing_and_loses_no_progress(world: World) -> None:
    """I1: it is delivered again until there is time."""
    watching = Watching(world)
    found = put(lines(world))
    later = world.now + timedelta(hours=2)
    for moments in ([world.now, later, later], [later, later], [later, later]):
        with pytest.raises(OutOfTimeError, match="goes on at chunk 1 in the next run"):
            archive(world, watching, moments).record(found)
    assert len(watching.recorded) == 1


def test_another_object_under_the_same_name_is_read_from_its_beginning(world: World) -> None:
    """I1: how far the first one got says nothing about the second."""
    later = world.now + timedelta(hours=2)
    with pytest.raises(OutOfTimeError):
        archive(world, None, [world.now, world.now, later]).record(put(lines(world)))
    archive(world).record(put(lines(world, 4)))
    assert requests(world) == 10 + 4


def test_progress_is_forgotten_after_62_days(world: World) -> None:
    """An object that comes so late finds no counter either: its lines are too old."""
    later = world.now + timedelta(hours=2)
    with pytest.raises(OutOfTimeError):
        archive(world, None, [later]).record(put(lines(world)))
    (item,) = boto3.client("dynamodb").scan(TableName="counters")["Items"]
    assert (item["pk"]["S"][:7], item["chunks"]["N"]) == ("object#", "0")
    assert int(item["ttl"]["N"]) == int((world.now + timedelta(days=62)).timestamp())


def test_what_an_object_set_aside_is_redriven_once(world: World) -> None:
    """I1, I2: and the object may come again before and after."""
    watching = Watching(world)
    world.now = HOUR.start
    found = put(lines(world))
    assert archive(world, watching).record(found).set_aside == 20
    world.now = HOUR.start + timedelta(minutes=30)
    archive(world).record(found)
    assert world.counted() == {}
    for token in watching.recorded * 2:
        redrive(world.recorder(), {"batch": token.hex()}, deadline=world.now)
    archive(world).record(found)
    assert requests(world) == 20


@pytest.mark.parametrize("where", [("strangers-bucket", "access-log/a.gz"), ("bucket", "set-aside/a.json")])
def test_what_is_not_where_firehose_writes_is_read_by_nobody(world: World, where: tuple[str, str]) -> None:
    """I7: whoever has a bucket in the account can tell the queue of it, and let its lines bill anybody."""
    bucket, name = where
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key=name, Body=lines(world))
    with pytest.raises(PayloadError, match=f"wanted an object of s3://bucket/access-log/, got s3://{bucket}/{name}"):
        archive(world).record(ArchiveObject(bucket, name, "1"))
    assert requests(world) == 0


@pytest.mark.parametrize(
    ("joined", "count"),
    [
        (lambda found: b"\xef\xbb\xbf" + b"\n".join(found), 20),
        (b"".join, 20),
        (b",".join, 20),
        (b",\r\n".join, 20),
        (lambda found: gzip.compress(b"\n".join(found)) + bytes(2000), 20),
        (lambda found: gzip.compress(found[0]) + bytes(500) + gzip.compress(b"\n" + found[1]) + bytes(9), 2),
    ],
)
def test_an_object_that_something_joined_is_read_all_the_same(
    world: World, joined: Callable[[list[bytes]], bytes], count: int
) -> None:
    """I1: a byte order mark, records without line ends or with commas, blocks filled up with zeros."""
    recorded = archive(world).record(put(joined(lines(world).splitlines())))
    assert (recorded.billed, recorded.set_aside, requests(world)) == (count, 0, count)


def test_a_record_behind_what_another_broke_is_read(world: World) -> None:
    """I1, I6: a value with a line end, and no line end between two records: the second is somebody else's."""
    broken = world.line(key="key2", **{"authorizer.user": "a\nb"}).replace("\\n", "\n")
    recorded = archive(world).record(put((broken + world.line()).encode()))
    assert (recorded.billed, recorded.set_aside) == (1, 2)
    assert world.counted() == {"key1": {"requests": 1, "bytes": 10}}


@pytest.mark.parametrize("text", ["}" + " " * 50_000, "}" + "," * 50_000, '}{"metering"' * 4_000])
def test_a_value_that_looks_like_the_end_of_records_takes_no_time(world: World, text: str) -> None:
    """I6, I10: what tells records apart reads each sign once, and so does the recount's: else this takes minutes."""
    line = world.line(**{"authorizer.user": text + '"metering'})
    recorded = archive(world).record(put("\n".join([line] * 20).encode()))
    read = [record for _ in range(20) for record in raw_log._records_of(line)]
    assert recorded.read + len(read) >= 20
