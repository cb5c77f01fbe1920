"""Payloads: an object is cut into the same batches however it comes, and no line of it is lost."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.counting import payloads
from metering.counting.payloads import ArchiveObject, PayloadError, batches, notified_objects
from metering.model import batches as model
from metering.model.access_log import Reader, Rejected
from metering.model.batches import Chunk, Source, batch_of
from metering.model.metrics import Count
from metering.model.our_lines import Ours
from tests.doubles.access_log import NONCE

LINE = b'{"metering":"1:11","request_id":"r-%04d="}'


def lines_of(chunks: Iterable[Chunk]) -> list[str]:
    """Return every line of some chunks."""
    return [line for chunk in chunks for piece in chunk.pieces() for _, line in piece.lines()]


def cut(content: bytes, size: int) -> Iterator[bytes]:
    """Cut an object as S3 may stream it."""
    return (content[start : start + size] for start in range(0, len(content), size))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 64 bytes and pieces of 16, so that a test needs no megabytes."""
    monkeypatch.setattr(payloads, "CHUNK", 64)
    for module in (payloads, model):
        monkeypatch.setattr(module, "PIECE", 16)


PLAIN = b"one\ntwo\nthree\n"
WAYS = {
    "plain": PLAIN,
    "gzipped": gzip.compress(PLAIN),
    "gzip members one after the other": gzip.compress(b"one\ntw") + gzip.compress(b"") + gzip.compress(b"o\nthree\n"),
    "without an end of the last line": PLAIN.removesuffix(b"\n"),
    "gzipped without an end of the last line": gzip.compress(PLAIN.removesuffix(b"\n")),
    "with blank lines": b"\none\n\n  \ntwo\nthree\n\n",
}


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("way", WAYS)
def test_every_line_of_an_object_is_read_whichever_way_it_is_packed(way: str, size: int) -> None:
    """I1: Firehose writes gzip where it was asked to, emulators write it plain; blank lines are nobody's."""
    assert lines_of(batches(cut(WAYS[way], size), "origin")) == ["one", "two", "three"]


def test_an_empty_object_holds_nothing() -> None:
    """Neither a plain nor a gzipped one."""
    assert list(batches([], "origin")) == list(batches([gzip.compress(b"")], "origin")) == []


WHOLE = gzip.compress(PLAIN)
BROKEN = {
    "without its last byte": (WHOLE[:-1], "ends in the middle of its gzip stream"),
    "within its header": (WHOLE[:5], "ends in the middle of its gzip stream"),
    "within its second member": (WHOLE + WHOLE[:9], "ends in the middle of its gzip stream"),
    "followed by something else": (WHOLE + b"and more", "not gzip all through"),
    "that only begins as gzip": (b"\x1f\x8b and more", "not gzip all through"),
}


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_object_fails_with_a_sentence(broken: str, size: int) -> None:
    """I1: it goes to the dead-letter queue; half of it is not taken for the whole."""
    content, why = BROKEN[broken]
    with pytest.raises(PayloadError, match=f"^s3://bucket/key (is )?{why}"):
        list(batches(cut(content, size), "s3://bucket/key"))


def test_a_line_that_is_no_utf_8_is_kept_with_its_bytes_spelled_out() -> None:
    """I1: it is set aside, and the lines around it are as they were."""
    found = lines_of(batches([b"one\nt\xffo\n\xed\xa0\x80\nthr\xc3\xa9e\n"], "origin"))
    assert found == ["one", "t\\xffo", "\\xed\\xa0\\x80", "thrée"]
    reader = Reader(datetime(2026, 11, 22, 5, 30, tzinfo=UTC), [Count(name="requests")], (Ours((NONCE,)),))
    assert all(isinstance(reader.read(line), Rejected) for line in found)


def test_the_lines_of_an_object_are_known_by_their_place(small: None) -> None:  # noqa: ARG001 - asked for what it does
    """I2: a redelivery finds them under the same ids, in whatever pieces they are read; blank lines have no place."""
    content = b"\n" + b"".join(b"line %d\n\n" % n for n in range(6))
    (chunk,) = batches([content], "origin")
    assert [found for piece in chunk.pieces() for found in piece.lines()] == [(str(n), f"line {n}") for n in range(6)]


def test_a_chunk_ends_with_the_line_that_fills_it(small: None) -> None:  # noqa: ARG001 - asked for what it does
    """64 bytes, and up to the end of the line: a line that ends there exactly begins no other chunk."""
    content = b"a" * 63 + b"\n" + b"b" * 64 + b"\n" + b"c\n"
    assert [chunk.text for chunk in batches([content], "origin")] == [b"a" * 63, b"b" * 64, b"c"]


def test_a_line_without_an_end_is_cut_after_two_chunks(small: None) -> None:  # noqa: ARG001 - asked for what it does
    """I1: memory is bounded, nothing is lost, and the lines behind it are whole again."""
    content = b"x" * 300 + b"\n" + b"good\n"
    found = list(batches(cut(content, 10), "origin"))
    assert [len(chunk.text) for chunk in found] == [128, 128, 44 + 1 + 4]
    assert lines_of(found)[-1] == "good"
    assert b"".join(chunk.text for chunk in found) == content.removesuffix(b"\n")


@given(
    st.lists(st.integers(0, 200) | st.sampled_from([62, 63, 64, 126, 127, 128]), max_size=12),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_an_object_is_cut_into_the_same_chunks_however_s3_streams_it(
    lengths: list[int],
    ended: bool,  # noqa: FBT001 - drawn
    gzipped: bool,  # noqa: FBT001 - drawn
    seed: int,
) -> None:
    """I2: the tokens depend on the content alone. I1: the chunks together are the content."""
    content = b"\n".join(bytes([97 + n % 26]) * length for n, length in enumerate(lengths)) + b"\n" * ended
    random = Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payloads, "CHUNK", 64)
        size = random.choice([1, 16, 1000])
        for module in (payloads, model):
            patch.setattr(module, "PIECE", size)
        whole = list(batches([content], "origin"))
        packed = gzip.compress(content) if gzipped else content
        at = sorted(random.choices(range(len(packed) + 1), k=random.randint(0, 12)))
        pieces = [packed[start:end] for start, end in zip([0, *at], [*at, len(packed)], strict=True)]
        cut_up = list(batches(pieces, "origin"))
        assert [chunk.token for chunk in cut_up] == [chunk.token for chunk in whole]
        assert "".join(lines_of(cut_up)) == content.decode().replace("\n", "")


def test_a_chunk_that_ends_where_a_piece_of_the_stream_ends_is_cut_there(small: None) -> None:  # noqa: ARG001 - asked for what it does
    """I2: as it is where the stream is cut elsewhere, also if no line end follows."""
    first, second = b"a" * 63 + b"\n", b"no end"
    assert [chunk.text for chunk in batches([first + second], "origin")] == [b"a" * 63, second]
    assert [chunk.text for chunk in batches([first, second], "origin")] == [b"a" * 63, second]


def test_the_same_content_has_the_same_token_under_any_name() -> None:
    """I2: another object is another token."""
    tokens = {
        name: [chunk.token for chunk in batches([content], name)]
        for name, content in {"a": PLAIN, "b": gzip.compress(PLAIN), "c": PLAIN + b"four\n"}.items()
    }
    assert tokens["a"] == tokens["b"] != tokens["c"]


def test_memory_stays_small_for_an_object_of_many_chunks() -> None:
    """64 MB, made and gzipped on the fly: a chunk and what is cut from it, never the object."""
    packer = zlib.compressobj(1, wbits=31)
    block = b"".join(LINE % n + b"x" * 950 + b"\n" for n in range(1024))

    def pieces() -> Iterator[bytes]:
        for _ in range(64):
            yield packer.compress(block)
        yield packer.flush()

    tracemalloc.start()
    try:
        sizes = [len(chunk.text) + 1 for chunk in batches(pieces(), "origin")]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(sizes) == 64 * len(block)
    assert len(sizes) == 6
    assert peak < 64 << 20


# --- log groups -------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=8), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_a_batch_of_events_has_each_line_once_whatever_stands_in_it(lines: list[str], random: Random) -> None:
    """I1, I2: line ends, nothing at all and any order of delivery, with events that come twice."""
    events = [(f"id{n}", line) for n, line in enumerate(lines)]
    again = events + random.choices(events, k=3)
    random.shuffle(again)
    batch, other = (
        batch_of([name for name, _ in some], [line for _, line in some], Source.ACCESS_LOG, "origin")
        for some in (events, again)
    )
    assert [found for piece in batch.pieces() for found in piece.lines()] == events
    assert sorted(found for piece in other.pieces() for found in piece.lines()) == sorted(events)
    assert batch.token == other.token


def test_many_events_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line end within a message makes its piece alone unreadable at once."""
    monkeypatch.setattr(model, "_PIECE_LINES", 2)
    ids, lines = [f"id{n}" for n in range(5)], ["a", "b", "c\nd", "e", "f"]
    pieces = list(batch_of(ids, lines, Source.ACCESS_LOG, "origin").pieces())
    assert [piece.text for piece in pieces] == [b"a\nb", b"", b"f"]
    assert [found for piece in pieces for found in piece.lines()] == list(zip(ids, lines, strict=True))


# --- notifications ----------------------------------------------------------------------------------------------------


def notification(key: str, etag: str | None = "e1") -> str:
    """Return the body of a message in which S3 tells of an object."""
    found = {"key": key, "size": 1} | ({"eTag": etag} if etag else {})
    return json.dumps(
        {"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": found}}]}
    )


@pytest.mark.parametrize(
    ("encoded", "key"),
    [
        ("archive/2026/11/22/05/a-1.gz", "archive/2026/11/22/05/a-1.gz"),
        ("archive/a+b%2Bc%20d%C3%A9.gz", "archive/a b+c dé.gz"),
    ],
)
def test_an_objects_key_is_decoded(encoded: str, key: str) -> None:
    """S3 URL-encodes it, a space as a plus."""
    assert notified_objects(notification(encoded)) == [ArchiveObject("b", key, "e1")]


def test_an_object_without_an_etag_has_no_version() -> None:
    """A message that another program sent may lack it."""
    assert notified_objects(notification("k", None)) == [ArchiveObject("b", "k", "")]


def test_the_test_event_of_s3_names_no_object() -> None:
    """S3 sends it once, when the notification is set up."""
    assert notified_objects('{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"b"}') == []


@pytest.mark.parametrize(
    "body",
    ["", "no json", "[]", "null", "7", "{}", '{"Records":7}', '{"Records":[7]}', '{"Records":[{"s3":{}}]}',
     '{"Records":[{"s3":{"bucket":{"name":"b"},"object":{"key":7}}}]}'],
)  # fmt: skip
def test_a_malformed_message_fails_with_a_sentence(body: str) -> None:
    """I1: it goes to the dead-letter queue."""
    with pytest.raises(PayloadError, match="wanted a notification of S3"):
        notified_objects(body)
