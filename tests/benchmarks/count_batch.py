"""How fast a batch is decoded, measured and added up.

The floor is gunzip and a bare typed decode of the same bytes, which any reader of this log must do. Both are timed in
turns, in one process, as CPU time; the ratio is that of the fastest rounds, which other work on the machine disturbs
least. What DynamoDB takes is not part of it: see ``write_cost.py`` and ``hot_key.py``.
"""

import base64
import gzip
import json
import random
import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from metering.counting import payloads
from metering.model import metrics
from metering.model.access_log import Reader
from metering.model.log_format import AccessLog, AccessRecord
from metering.model.measuring import Tally
from metering.model.metrics import Count, Metric, Sum
from metering.model.our_lines import Ours
from tests.benchmarks.common import parser, report
from tests.doubles.access_log import NONCE

KEYS: Final = 200
PER_BATCH: Final = 10_000
"""Lines of one delivery of a log subscription; the other road's object holds all of them."""

NOW: Final = datetime(2026, 11, 22, 5, 55, tzinfo=UTC)
METRICS: Final[tuple[Metric, ...]] = (
    Count(name="writes", methods=("POST", "PUT")),
    Count(name="item_calls", resources=("/items/*",)),
    Sum(name="bytes", of="response_length"),
    Count(name="requests", by="resource"),
)
ROUTES: Final = (("GET", "/items"), ("GET", "/items/{id}"), ("POST", "/messages"), ("GET", "/users/{id}"))


def lines(count: int) -> list[str]:
    """Return access-log lines of half an hour, as the format writes them: heavy-tailed keys, 5 % failures."""
    draw = random.Random(1)
    keys = draw.choices(range(KEYS), [1 / (rank + 1) for rank in range(KEYS)], k=count)
    fields = json.loads(AccessLog().format(NONCE, metrics.declared(METRICS)))
    start = int(NOW.timestamp() * 1000) - 1_800_000
    made = []
    for number in range(count):
        method, resource_path = draw.choice(ROUTES)
        line = fields | {
            "request_id": f"Fzk1aHqZIAMF{number:07d}=",
            "time": str(start + 1_800_000 * number // count),
            "key": f"k{keys[number]:09d}",
            "status": draw.choice(["200"] * 19 + ["404"]),
            "method": method,
            "resource": resource_path,
            "response_length": str(draw.randrange(20_000)),
            "response_latency": str(draw.randrange(300)),
            "integration_latency": str(draw.randrange(300)),
        }
        made.append(json.dumps(line, separators=(",", ":")))
    return made


def deliveries(made: list[str]) -> list[dict[str, Any]]:
    """Return the lines as CloudWatch Logs delivers them."""
    events = [{"id": f"{n:056d}", "timestamp": 1795325400000, "message": line} for n, line in enumerate(made)]
    about = {"messageType": "DATA_MESSAGE", "owner": "1", "logGroup": "g", "logStream": "s", "subscriptionFilters": []}
    bodies = [
        json.dumps({**about, "logEvents": events[n : n + PER_BATCH]}).encode() for n in range(0, len(made), PER_BATCH)
    ]
    return [{"awslogs": {"data": base64.b64encode(gzip.compress(body)).decode()}} for body in bodies]


class Event(msgspec.Struct, gc=False):
    """A log event, decoded bare."""

    id: str
    timestamp: int
    message: str


class Delivery(msgspec.Struct, rename="camel"):
    """A subscription's payload, decoded bare."""

    message_type: str
    log_events: list[Event]


def floor_of_subscription(sent: list[dict[str, Any]]) -> int:
    """Gunzip and decode, and keep nothing."""
    line, envelope = msgspec.json.Decoder(AccessRecord, strict=False), msgspec.json.Decoder(Delivery)
    count = 0
    for event in sent:
        found = envelope.decode(gzip.decompress(base64.b64decode(event["awslogs"]["data"])))
        count += len([line.decode(one.message) for one in found.log_events])
    return count


def floor_of_object(compressed: bytes) -> int:
    """Gunzip and decode, and keep nothing."""
    return len(msgspec.json.Decoder(AccessRecord, strict=False).decode_lines(gzip.decompress(compressed)))


def count(batches: Any) -> int:
    """Do what record_usage does with batches before it writes; return how many records are billed or unbilled."""
    declared = metrics.declared(METRICS)
    total = 0
    for batch in batches:
        reader, tally = Reader(NOW, METRICS, (Ours((NONCE,)),)), Tally(METRICS, declared)
        for piece in batch.pieces():
            records = reader.read_at_once(piece.text)
            if records is None:
                raise ValueError("a piece was not read at once")
            tally.add(records)
        usage = tally.usage()
        total += usage.billed + sum(usage.unbilled.values())
    return total


def in_turns(floor: Callable[[], int], ours: Callable[[], int], *, records: int, rounds: int) -> dict[str, float]:
    """Time both in turns; each must have seen every record."""
    times: dict[Callable[[], int], list[float]] = {floor: [], ours: []}
    for _ in range(rounds):
        for run in (floor, ours):
            start = time.process_time()
            seen = run()
            times[run].append(time.process_time() - start)
            if seen != records:
                raise ValueError(f"{records} records were to be seen, got {seen}")
    floor_s, ours_s = min(times[floor]), min(times[ours])
    return {
        "ratio_to_floor": round(ours_s / floor_s, 2),
        "floor_ms": round(floor_s * 1000),
        "ms": round(ours_s * 1000),
        "records_per_s_per_core": round(records / ours_s),
    }


def main() -> None:
    """Print the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--records", type=int, default=100_000, help="how many records (default: 100000)")
    arguments.add_argument("--rounds", type=int, default=25, help="how often each is timed (default: 25)")
    options = arguments.parse_args()
    made = lines(options.records)
    sent, compressed = deliveries(made), gzip.compress("\n".join(made).encode() + b"\n")
    del made
    slices = [compressed[n : n + (1 << 18)] for n in range(0, len(compressed), 1 << 18)]
    subscription = in_turns(
        lambda: floor_of_subscription(sent),
        lambda: count(payloads.subscription(event).batch("g") for event in sent),
        records=options.records,
        rounds=options.rounds,
    )
    firehose = in_turns(
        lambda: floor_of_object(compressed),
        lambda: count(payloads.batches(slices, "object")),
        records=options.records,
        rounds=options.rounds,
    )
    report(
        {
            "ratio_to_floor": subscription["ratio_to_floor"],
            "records_per_s_per_core": subscription["records_per_s_per_core"],
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "records": options.records,
            "keys": KEYS,
            "metrics": len(METRICS),
            "subscription": subscription,
            "firehose": firehose,
        },
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
