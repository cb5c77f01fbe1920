"""Lines and payloads that are broken at random: nothing crashes, and every line is accounted for.

``FUZZ_LINES`` says how many lines are tried, ``FUZZ_SEED`` repeats a run; both are printed.
"""

import base64
import gzip
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar, cast

import pytest

from infra.operate.recount.raw_lines import Record, UnreadableError, read_access_line
from infra.operate.recount.raw_usage_lines import read_usage_line
from metering.counting import payloads, redriving
from metering.counting.payloads import PayloadError
from metering.counting.recorded import Recorded
from metering.counting.recording import Hashing, Recorder
from metering.model.access_log import Partly, Reader, Rejected
from metering.model.batches import Batch
from metering.model.log_format import AccessLog
from metering.model.measuring import NO_KEY, measure
from metering.model.metric_checks import check
from metering.model.metrics import USAGE_LINES, Count, Max, Metric, Sum, Unique, declared
from metering.model.our_lines import Ours
from metering.model.usage_lines import UsageLineReader
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.holders import Holders
from metering.stores.set_aside import SetAside
from tests.doubles.access_log import NONCE
from tests.doubles.dynamodb import Item, Tables
from tests.doubles.log_frames import FRAMES, NAMED
from tests.doubles.s3 import Buckets
from tests.fuzz.mutations import mutated, mutated_bytes

T = TypeVar("T")

LINES: Final = int(os.environ.get("FUZZ_LINES", "20000"))
SEED: Final = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(1 << 32)))

NOW: Final = datetime(2026, 11, 22, 5, 40, tzinfo=UTC)
GROUP: Final = "access-log"
METRICS: Final[tuple[Metric, ...]] = (
    Count(name="billed", statuses=("1xx", "2xx", "3xx", "4xx", "5xx")),  # counts what any other metric bills
    Count(name="requests", by="resource"),
    Sum(name="bytes", of="response_length", methods=("GET",)),
    Sum(name="messages", of="authorizer.messages", scale=2, by="authorizer.plan", meters=("free", "pro")),
    Max(name="slowest", of="response_latency"),
    Unique(name="users", of="authorizer.user", opaque_id=True),
    Sum(name="tokens", of=USAGE_LINES, scale=3),
    Sum(name="jobs", of=USAGE_LINES, deduplicate=True),
    Max(name="seats", of=USAGE_LINES),
)


_NAMED: Final = re.compile(r"(?<=got ).*|(?<=usage: ).*(?= is none of)|(?<=Expected `).*", re.DOTALL)
"""What a reason quotes of its line."""


@dataclass
class Game:
    """A recorder on tables in memory, and what became of all lines."""

    seed: int
    dynamodb: Tables = field(default_factory=Tables)
    s3: Buckets = field(default_factory=Buckets)
    lines: int = 0
    ignored: int = 0
    recorded: Recorded = field(default_factory=Recorded)
    reasons: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    """Lines that are billed in a batch whose every line another had, to the byte: its counters have it."""

    batches: list[str] = field(default_factory=list)
    """The batches that set lines aside."""

    def __post_init__(self) -> None:
        check(METRICS, AccessLog())
        self.draw = random.Random(self.seed)
        client = cast("Any", self.dynamodb)
        self.recorder = Recorder(
            METRICS,
            (NONCE,),
            Counters(client, "counters"),
            Claims(client, "counters"),
            SetAside(cast("Any", self.s3), "bucket"),
            lambda: NOW,
            Hashing(b"secret", Holders(client, "ledger")),
        )

    def record(self, batch: Batch, lines: Sequence[str], *, ours: int) -> None:
        """Record a batch and compare what it accounts for with what went in; ``ours`` are to be read of the lines."""
        recorded = self.recorder.record(batch)
        assert recorded.read == ours
        assert recorded.read == recorded.billed + recorded.unbilled.total() + recorded.set_aside - recorded.partly
        self._look_at_set_aside(batch, lines, recorded.set_aside)
        self.lines += len(lines)
        self.ignored += len(lines) - ours
        self.recorded.include(recorded)
        self.repeated += recorded.billed if recorded.refused else 0
        if self.draw.random() < 0.1:
            before = self._hours()
            again = self.recorder.record(batch)
            assert (again.read, again.set_aside) == (recorded.read, recorded.set_aside)
            assert self._hours() == before

    def _hours(self) -> list[Item]:
        return [item for item in self.dynamodb.items("counters") if item["pk"]["S"].startswith("hour#")]

    def _look_at_set_aside(self, batch: Batch, lines: Sequence[str], count: int) -> None:
        kept = self.recorder.set_aside.of(batch.token.hex())
        assert kept.doubtful is None
        found = kept.certain.lines if kept.certain else ()
        self.batches += [kept.certain.batch] if kept.certain else []
        assert len({line.id for line in found}) == len(found) == count
        assert {line.message for line in found} <= set(lines)
        for line in found:
            assert 0 < len(line.reason) < 500
            self.reasons[_NAMED.sub("…", line.reason)] += 1

    def judge(self) -> None:
        """Compare the counters with what was said of each batch, and say what the lines became."""
        recorded, unbilled = self.recorded, self.recorded.unbilled.total()
        tally = {
            "seed": self.seed,
            "lines": self.lines,
            "billed": recorded.billed,
            "unbilled": dict(recorded.unbilled),
            "partly": recorded.partly,
            "set aside": dict(self.reasons.most_common()),
            "no usage lines": self.ignored,
        }
        sys.stdout.write(f"{json.dumps(tally, indent=2, ensure_ascii=False)}\n")
        assert self.lines == recorded.billed + unbilled + recorded.set_aside - recorded.partly + self.ignored
        assert self.reasons.total() == recorded.set_aside
        before = list(self.dynamodb.items("counters"))
        for batch in self.batches[:20]:
            assert redriving.redrive(self.recorder, {"batch": batch}, deadline=NOW)["counted"] == 0
        assert list(self.dynamodb.items("counters")) == before

    def counted(self, attribute: str) -> int:
        """Add up a number over all counters."""
        return sum(int(item[attribute]["N"]) for item in self.dynamodb.items("counters") if attribute in item)


@pytest.fixture
def game() -> Game:
    """A new game; its seed is printed."""
    sys.stdout.write(f"FUZZ_LINES={LINES} FUZZ_SEED={SEED}\n")
    return Game(SEED)


def test_every_line_of_the_access_log_is_billed_unbilled_or_set_aside(game: Game) -> None:
    """I1: whatever API Gateway, or someone who gets at the log group, writes into a log event."""
    for number, lines in enumerate(_batches(game.draw, LINES // 3, _access_line)):
        batch = payloads.subscription(_packed(_delivery(GROUP, number, lines))).batch(GROUP)
        game.record(batch, lines, ours=sum(map(_is_read_alike, lines)))
    game.judge()
    assert game.counted("n:billed") == game.recorded.billed - game.repeated > LINES // 20


def test_every_line_of_an_object_is_billed_unbilled_or_set_aside(game: Game, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: objects are cut into chunks, at line ends; bytes that are no text are a line like any other."""
    monkeypatch.setattr(payloads, "CHUNK", 1 << 16)
    for lines in _batches(game.draw, LINES // 3, _access_line):
        content = "\n".join(lines).encode()
        if game.draw.random() < 0.6:
            content = mutated_bytes(game.draw, content)
        stored = gzip.compress(content, 1) if game.draw.random() < 0.5 else content
        for batch in payloads.batches([stored[n : n + 5_000] for n in range(0, len(stored), 5_000)], "object"):
            inside = [line for piece in batch.pieces() for _, line in piece.lines()]
            game.record(batch, inside, ours=sum(map(_is_read_alike, inside)))
    game.judge()
    assert game.counted("n:billed") == game.recorded.billed - game.repeated > LINES // 20


def test_every_usage_line_is_billed_or_set_aside_and_others_are_let_lie(game: Game) -> None:
    """I1: an application's log holds anything; what was meant as a usage line is counted, or kept with its reason."""
    for number, lines in enumerate(_batches(game.draw, LINES // 3, _usage_line)):
        batch = payloads.subscription(_packed(_delivery("application", number, lines))).batch(GROUP)
        game.record(batch, lines, ours=sum(map(_are_alike, lines)))
    game.judge()
    assert game.recorded.billed > LINES // 20


def test_a_payload_is_read_or_refused(game: Game) -> None:
    """Whatever comes instead of AWS's own payloads: a PayloadError, or a batch that can be recorded."""
    draw, refused, recorded, longest = game.draw, 0, 0, 0
    tried = LINES // 20
    for number, lines in enumerate(_batches(draw, tried, _access_line, size=3)):
        delivery = _delivery(draw.choice((GROUP, "application")), number, lines)
        content = "".join(f"{line}\n" for line in lines).encode(errors="surrogatepass")
        try:
            for batch in draw.choice(_BREAKAGES)(draw, delivery, content):
                game.recorder.record(batch)
            recorded += 1
        except PayloadError as error:
            refused += 1
            longest = max(longest, len(str(error)))
    sys.stdout.write(f"{recorded} payloads were recorded, {refused} refused\n")
    assert min(refused, recorded) > tried // 100
    assert longest < 1_000


def _batches(
    draw: random.Random, count: int, line: Callable[[random.Random, int], str], *, size: int = 300
) -> Iterator[list[str]]:
    """Yield lines in batches: of some all are mutated, of some one, of some none."""
    others = [line(draw, -number) for number in range(50)]
    made = 0
    while made < count:
        lines = [line(draw, made + number) for number in range(draw.randrange(1, size))]
        for number in draw.choice((range(len(lines)), range(len(lines)), [draw.randrange(len(lines))], [])):
            lines[number] = mutated(draw, lines[number], others)
        yield lines
        made += len(lines)


_FORMAT: Final = json.loads(AccessLog().format(NONCE, declared(METRICS)))


def _access_line(draw: random.Random, number: int) -> str:
    line = _FORMAT | {
        "request_id": f"request-{number}=",
        "time": str((int(NOW.timestamp() * 1000) - draw.randrange(7_200_000)) // draw.choice((1, 1, 1, 1000))),
        "key": draw.choice(("-", "key1", "key2", "key3", "key4")),
        "status": draw.choice(("200", "201", "304", "404", "500")),
        "method": draw.choice(("GET", "POST")),
        "resource": draw.choice(("/items", "/items/{id}", "/messages")),
        "response_length": str(draw.randrange(20_000)),
        "response_latency": str(draw.randrange(300)),
        "integration_latency": "-",
        "authorizer.messages": draw.choice(("-", "3", "1.25", "3.0", "1.2e+01", "125e-2", "-1", "1.255", "N/A")),
        "authorizer.plan": draw.choice(("free", "pro", "trial")),
        "authorizer.user": f"user-{draw.randrange(50)}",
    }
    return json.dumps(line, separators=(",", ":"))


def _both_read(
    found: T | Partly[T] | Rejected, recount: Callable[[], Record | None], late: str
) -> tuple[T, tuple[str, ...], Record | None] | None:
    """Return a line's record, the metrics that cannot read it, and the recount's record; None if neither reads it.

    The recount reads by code of its own. When a line arrived it is not told: so it reads, too, what is rejected for a
    reason that begins as ``late``.
    """
    try:
        record = recount()
    except UnreadableError:
        assert isinstance(found, Rejected)
        return None
    if isinstance(found, Rejected):
        assert found.reason.startswith(late)
        return None
    return (found.good, found.bad.metrics, record) if isinstance(found, Partly) else (found, (), record)


def _is_read_alike(line: str) -> bool:
    """Say that a line of the access log is ours to count or set aside, as every one is; the recount agrees (I5)."""
    found = Reader(NOW, METRICS, (Ours((NONCE,)),)).read(line)
    assert found is not None
    both = _both_read(found, partial(read_access_line, line, METRICS, (NONCE,)), "time must not be over ")
    if both is None:
        return True
    good, bad, record = both
    usage = measure([good], METRICS, declared(METRICS))
    if record is None:
        assert usage.unbilled == {NO_KEY: 1}
        return True
    seen = {metric: values for of_hour in usage.seen.values() for metric, values in of_hour.items()}
    assert seen == {metric: {value} for metric, value in record.values.items()}
    assert bad == record.bad
    amounts = {meter: amount for meter, amount in record.amounts.items() if amount}
    assert {where: found.quantities() for where, found in usage.cells.items() if found.quantities()} == (
        {(record.hour, record.source): amounts} if amounts else {}
    )
    return True


def _usage_line(draw: random.Random, number: int) -> str:
    if draw.random() < 0.1:
        return draw.choice(("started", '{"level":"INFO","usage":"none"}', "usage: metering [-h]", "[1, 2]", ""))
    whose = draw.choice(({"key": "key1"}, {"customer": "acme"}, {"customer": "globex"}))
    moment = draw.choice((int(NOW.timestamp() * 1000), NOW.isoformat(), "2026-11-22T05:00:00Z"))
    amounts: dict[str, Any] = draw.choice(
        (
            *({"tokens": 12.5}, {"jobs": 1}, {"tokens": 3, "jobs": 2, "seats": 7}, {"seats": 0}),
            *({"tokens": "1.2e+01", "jobs": -1}, {"seats": 2, "pages": 1}),
        )
    )
    usage = {"id": f"job-{number}", "time": moment, **whose, **amounts}
    name = draw.choice((*FRAMES, *NAMED))
    line = NAMED[name](usage) if name in NAMED else FRAMES[name]({"usage": usage})
    return FRAMES[draw.choice([*FRAMES])](line) if draw.random() < 0.3 else line


def _are_alike(line: str) -> bool:
    """Say whether a line is a usage line; the recount agrees (I5)."""
    found = UsageLineReader(NOW, METRICS).read(line)
    both = _both_read(found, partial(read_usage_line, "event", line, METRICS), "usage: time must not be over ")
    if both is None:
        return True
    report, bad, record = both
    if report is None or record is None:
        assert report is None
        assert record is None
        return False
    assert (report.hour, report.source, bad) == (record.hour, record.source, record.bad)
    assert report.amounts == {**record.amounts, **record.once}
    return True


def _delivery(group: str, number: int, lines: Sequence[str]) -> dict[str, Any]:
    """Return what CloudWatch Logs delivers, before it is packed."""
    events = [{"id": f"{number}-{n}", "timestamp": 1795325400000, "message": line} for n, line in enumerate(lines)]
    return {
        "messageType": "DATA_MESSAGE",
        "owner": "123456789012",
        "logGroup": group,
        "logStream": "stream",
        "subscriptionFilters": ["filter"],
        "logEvents": events,
    }


def _packed(delivery: Any) -> dict[str, Any]:
    return _envelope(gzip.compress(json.dumps(delivery).encode(), 1))


def _envelope(data: bytes) -> dict[str, Any]:
    return {"awslogs": {"data": base64.b64encode(data).decode()}}


Breakage = Callable[[random.Random, dict[str, Any], bytes], Iterable[Batch]]


def _broken_json(draw: random.Random, delivery: dict[str, Any], _: bytes) -> Iterable[Batch]:
    text = mutated_bytes(draw, json.dumps(delivery).encode())
    return [payloads.subscription(_envelope(gzip.compress(text, 1))).batch(GROUP)]


def _broken_field(draw: random.Random, delivery: dict[str, Any], _: bytes) -> Iterable[Batch]:
    text = mutated(draw, json.dumps(delivery), ["{}", "null"])
    return [payloads.subscription(_envelope(gzip.compress(text.encode(errors="surrogatepass"), 1))).batch(GROUP)]


def _broken_gzip(draw: random.Random, delivery: dict[str, Any], _: bytes) -> Iterable[Batch]:
    data = mutated_bytes(draw, gzip.compress(json.dumps(delivery).encode(), 1))
    return [payloads.subscription(_envelope(data)).batch(GROUP)]


def _broken_base64(draw: random.Random, delivery: dict[str, Any], _: bytes) -> Iterable[Batch]:
    packed = _packed(delivery)
    packed["awslogs"]["data"] = mutated(draw, packed["awslogs"]["data"], ["====", "é", "\ud800"])
    return [payloads.subscription(packed).batch(GROUP)]


def _other_event(draw: random.Random, delivery: dict[str, Any], _: bytes) -> Iterable[Batch]:
    event: Any = draw.choice((None, 1, "", [], {}, {"awslogs": None}, {"awslogs": {"data": 1}}, delivery, {"data": ""}))
    return [payloads.subscription(event).batch(GROUP)]


def _broken_notification(draw: random.Random, _: dict[str, Any], __: bytes) -> Iterable[Batch]:
    record = {"s3": {"bucket": {"name": "b"}, "object": {"key": "access-log/a%2Bb+c.gz", "eTag": "e"}}}
    body = mutated(draw, json.dumps({"Records": [record]}), ['{"Event":"s3:TestEvent"}', "null"])
    for found in payloads.notified_objects(body):
        assert str(found).startswith("s3://")
    return []


def _broken_object(draw: random.Random, _: dict[str, Any], content: bytes) -> Iterable[Batch]:
    stored = mutated_bytes(draw, gzip.compress(content, 1))
    return payloads.batches([stored[n : n + 100] for n in range(0, len(stored), 100)], "object")


_BREAKAGES: Final[Sequence[Breakage]] = (
    *(_broken_json, _broken_field, _broken_gzip, _broken_base64, _other_event, _broken_notification, _broken_object),
)
