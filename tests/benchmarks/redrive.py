"""Redriving a large batch: processor time of the function for each line, and how many runs of it that takes.

``partly`` are lines of one key of which one metric waits, ``whole`` lines of 200 keys that every metric is to count,
with a value each that is new in the month. Lines are set aside and redriven through the recorder, on DynamoDB Local.

The floor is the same calls of DynamoDB, made into another table by the bare client, for the lines of a ``--sample``.
``runs`` are counted by a clock that goes as slowly as the function's share of a processor; the bucket is in memory.
"""

import multiprocessing
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

from botocore.config import Config

from metering.counting import redriving
from metering.counting.recording import Hashing, Recorder
from metering.model.batches import Chunk, Source, token_of
from metering.model.metrics import Count, Metric, Sum, Unique
from metering.model.periods import Hour
from metering.stores.aws import CONFIG, side_by_side
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.holders import Holders, Holding
from metering.stores.set_aside import SetAside
from tests.benchmarks.common import parser, report
from tests.doubles.access_log import NONCE, line_of
from tests.doubles.dynamodb_local import DynamoDBLocal
from tests.doubles.s3 import Buckets

HOUR: Final = Hour.parse("2026-11-22T05")
BEGIN: Final = HOUR.end + timedelta(hours=2)

LINES: Final = 27_000
"""Of the format's shortest lines, so many are a chunk of Firehose's objects."""

SHARE: Final = 512 / 1769
"""Of a processor, with the function's memory (Lambda Developer Guide, "Configure Lambda function memory")."""

LIMIT: Final = timedelta(seconds=300)

MESSAGES: Final = "authorizer.messages"


@dataclass(frozen=True, slots=True)
class Case:
    """Lines that are set aside: of how many keys, whether wholly, and which metrics then count them."""

    keys: int
    whole: bool
    metrics: tuple[Metric, ...]


CASES: Final[Mapping[str, Case]] = {
    "partly": Case(1, False, (Count(name="requests"), Sum(name="messages", of=MESSAGES, scale=1))),  # noqa: FBT003
    "whole": Case(
        200,
        True,  # noqa: FBT003
        (
            Count(name="requests", by="resource"),
            Sum(name="messages", of=MESSAGES, scale=1),
            Unique(name="users", of="authorizer.user", opaque_id=True),
        ),
    ),
}


class NoHolders(Holders):
    """Holders where no key ever changed hands."""

    def holdings(self, sources: Iterable[str], *, consistent: bool = True) -> dict[str, Holding]:  # noqa: ARG002
        """Return no history."""
        return {source: Holding(source) for source in sources}


@dataclass
class Bench:
    """A function's process beside DynamoDB Local: what it asked, and a clock as slow as its share of a processor."""

    client: Any
    bucket: Buckets = field(default_factory=Buckets)
    notes: list[int] = field(default_factory=list)
    """The bytes of each note that was written."""

    def clock(self) -> datetime:
        """Return the present moment of a function that has a part of a processor."""
        return BEGIN + timedelta(seconds=time.process_time() / SHARE)

    def recorder(self, metrics: Sequence[Metric], nonce: str = NONCE) -> Recorder:
        """Return what record_usage works with."""
        hashing = Hashing(b"secret", NoHolders(self.client, ""))
        counters, claims = Counters(self.client, "counters"), Claims(self.client, "counters")
        set_aside = SetAside(cast("Any", self), "bucket")
        return Recorder(metrics, (nonce,), counters, claims, set_aside, self.clock, hashing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bucket, name)

    def put_object(self, **asked: Any) -> Any:
        """Write an object, and note its size if it is a note."""
        if asked["Key"].endswith(".redriven.json"):
            self.notes.append(len(asked["Body"]))
        return self.bucket.put_object(**asked)

    def set_aside(self, case: Case, name: str, count: int) -> str:
        """Deliver lines that are set aside, and return their batch."""
        draw = random.Random(name)
        lines = [
            line_of(
                {
                    "request_id": f"JKJaXmPLvHcES{number:06d}A=",
                    "time": str(HOUR.number * 3_600_000 + number),
                    "key": f"a1b2c3d{number % case.keys:03d}",
                    "status": "200",
                    "method": "GET",
                    "resource": draw.choice(("/v1/items", "/v1/items/{id}", "/v1/messages")),
                    "response_length": "1234",
                    MESSAGES: "1.5",
                    "authorizer.user": f"{name}-{number}",
                }
            )
            for number in range(count)
        ]
        chunk = Chunk(token_of(name.encode()), Source.ACCESS_LOG, f"s3://bucket/{name}", "\n".join(lines).encode())
        coarse = [in_wholes(metric) for metric in case.metrics]
        aside = self.recorder(coarse, "another-nonce-of-before" if case.whole else NONCE).record(chunk).set_aside
        if aside != count:
            raise ValueError(f"{count} lines were to be set aside, got {aside}")
        return chunk.token.hex()

    def redrive(self, case: Case, batch: str, count: int) -> int:
        """Redrive a batch, and return how many runs it took."""
        counted, runs, place = 0, 0, 0
        while place is not None:
            runs += 1
            deadline = self.clock() + LIMIT - redriving.SLOWEST_PIECE
            wanted = {"batch": batch, "from": place}
            answer = redriving.redrive(self.recorder(case.metrics), wanted, deadline=deadline)
            counted, place = counted + answer["counted"], answer["next"]
        if counted != count:
            raise ValueError(f"{count} lines were to be counted, got {counted}")
        return runs


def in_wholes(metric: Metric) -> Metric:
    """Return a metric as it was declared when it could not read halves."""
    return Sum(name=metric.name, of=metric.of) if isinstance(metric, Sum) else metric


@dataclass
class Calls:
    """What a client was asked for, to be asked again of another table."""

    client: Any
    made: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.client, name)
        if name not in ("update_item", "put_item", "batch_get_item", "get_item"):
            return found

        def call(**asked: Any) -> Any:
            self.made.append((name, asked))
            return found(**asked)

        return call

    def again(self) -> float:
        """Ask for all of it again, and return the processor time that this takes, in seconds."""
        work = [(getattr(self.client, name), _elsewhere(asked)) for name, asked in self.made]
        began = time.process_time()
        side_by_side(lambda one: one[0](**one[1]), work)
        return time.process_time() - began


def _elsewhere(asked: dict[str, Any]) -> dict[str, Any]:
    if "RequestItems" in asked:
        return {"RequestItems": {"again": asked["RequestItems"]["counters"]}}
    return asked | {"TableName": "again"}


def measure(client: Any, name: str, count: int, sample: int) -> dict[str, Any]:
    """Set lines aside and redrive them: those of a sample to see what the calls alone take, then all."""
    case = CASES[name]
    calls = Calls(client)
    small = Bench(calls)
    batch = small.set_aside(case, f"{name} sample", sample)
    calls.made.clear()
    small.redrive(case, batch, sample)
    writes = sum(call in ("update_item", "put_item") for call, _ in calls.made)
    floor = calls.again() / sample * 1000

    bench = Bench(client)
    batch = bench.set_aside(case, name, count)
    objects = dict(bench.bucket.objects())
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        growth = fresh.submit(memory_of, batch, objects).result()
    began = time.process_time()
    runs = bench.redrive(case, batch, count)
    cpu = (time.process_time() - began) / count * 1000
    return {
        "cpu_ms_per_line": round(cpu, 3),
        "floor_ms_per_line": round(floor, 3),
        "ratio_to_floor": round(cpu / floor, 2),
        "writes_per_line": round(writes / sample, 2),
        "runs": runs,
        "object_mb": round(sum(map(len, objects.values())) / 1e6, 2),
        "notes_mb": round(sum(bench.notes) / 1e6, 2),
        "rss_growth_mb": round(growth, 1),
    }


def memory_of(batch: str, objects: Mapping[str, bytes]) -> float:
    """Return by how many MB a process grows that holds a batch of lines, and reads it again at the end of its run."""
    bucket = Buckets()
    bucket.objects().update(objects)
    set_aside = SetAside(cast("Any", bucket), "bucket")
    set_aside.of("0" * 24)
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak becomes what is held now
    held = _held_mb("VmRSS")
    waiting = set_aside.of(batch).waiting
    set_aside.mark_done(batch)
    return _held_mb("VmHWM") - held if waiting else 0.0


def _held_mb(field: str) -> float:
    """Return a figure of proc(5)'s ``status``."""
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(f"{field}:")]
    return int(line.split()[1]) / 1024


def main() -> None:
    """Print the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--lines", type=int, default=LINES, help=f"how many lines (default: {LINES})")
    arguments.add_argument("--sample", type=int, default=2000, help="lines of which the floor is taken (default: 2000)")
    options = arguments.parse_args()
    with DynamoDBLocal() as dynamodb:
        client: Any = dynamodb.client(CONFIG.merge(Config(retries={"mode": "standard", "total_max_attempts": 4})))
        for table in ("counters", "again"):
            client.create_table(
                TableName=table,
                KeySchema=[
                    {"AttributeName": name, "KeyType": kind} for name, kind in (("pk", "HASH"), ("sk", "RANGE"))
                ],
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
                BillingMode="PAY_PER_REQUEST",
            )
        cases = {name: measure(client, name, options.lines, options.sample) for name in CASES}
    report(
        {
            "lines": options.lines,
            "runs": max(one["runs"] for one in cases.values()),
            "cpu_ms_per_line": max(one["cpu_ms_per_line"] for one in cases.values()),
            "ratio_to_floor": max(one["ratio_to_floor"] for one in cases.values()),
            "share_of_a_processor": round(SHARE, 2),
            "limit_seconds": LIMIT.seconds,
            **cases,
        },
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
