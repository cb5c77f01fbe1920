"""Whether one busy key is slower than many quiet ones: concurrent batches on one key, and on as many keys.

DynamoDB Local has no partitions, so what AWS's partitions would make of it is computed from the real keys: each batch
is one write unit on its counter's partition key, and AWS takes 1,000 a second there (Amazon DynamoDB Developer Guide,
"Best practices for designing and using partition keys effectively").
"""

import hashlib
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from botocore.exceptions import ClientError

from metering.model.amounts import Amounts
from metering.model.batches import TOKEN_BYTES
from metering.model.periods import Hour
from metering.stores.counters import Counters, counter_key
from tests.benchmarks.capacity import fresh_counters
from tests.benchmarks.common import parser, report
from tests.doubles.dynamodb_local import DynamoDBLocal

AT_ONCE: Final = 32
HOUR: Final = Hour.parse("2026-11-22T05")

RATE: Final = 10_000
"""Requests a second of one key."""

LINES_PER_BATCH: Final = 100
"""What a log subscription is assumed to deliver at this rate; at 100 deliveries a second a log group is still far from
its quotas. Firehose's chunks hold some 20,000 lines."""


def play(counters: Counters, batches: int, keys: int, name: str) -> tuple[float, int, int]:
    """Count the batches concurrently; return the seconds, the errors, and how many counts are missing."""
    work = [(f"{name}-{n % keys}", _token(f"{name} {n}")) for n in range(batches)]

    def count(one: tuple[str, bytes]) -> int:
        try:
            counters.count(HOUR, one[0], Amounts({"requests": 7}), one[1])
        except ClientError:
            return 1
        return 0

    with ThreadPoolExecutor(AT_ONCE) as pool:
        start = time.perf_counter()
        conflicts = sum(pool.map(count, work))
        seconds = time.perf_counter() - start
    found = counters.read(HOUR, {key for key, _ in work})
    return seconds, conflicts, 7 * batches - sum(amounts.sums["requests"] for amounts in found.values())


def busiest_partition(lines_per_batch: int) -> float:
    """Return the units a second that the busiest partition key gets from one key's batches, by the real keys."""
    a_minute = RATE * 60 // lines_per_batch
    units = Counter(counter_key(HOUR, "k000000001", _token(f"batch {n}"))["pk"]["S"] for n in range(a_minute))
    return round(max(units.values()) / 60, 1)


def _token(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:TOKEN_BYTES]


def main() -> None:
    """Print the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--batches", type=int, default=500, help="how many batches in a round (default: 500)")
    arguments.add_argument("--rounds", type=int, default=9, help="of how many rounds the medians are (default: 9)")
    options = arguments.parse_args()
    batches, rounds = options.batches, options.rounds
    seconds: dict[int, list[float]] = {1: [], batches: []}
    conflicts = lost = 0
    with DynamoDBLocal() as dynamodb:
        counters, _ = fresh_counters(dynamodb)
        play(counters, batches, batches, "warm")
        for number in range(rounds):
            for keys, taken in seconds.items():
                took, errors, missing = play(counters, batches, keys, f"r{number}-{keys}")
                taken.append(took)
                conflicts += errors
                lost += missing
    one, many = (statistics.median(taken) for taken in seconds.values())
    result: dict[str, Any] = {
        "ratio_to_spread": round(one / many, 2),
        "conflicts": conflicts,
        "lost": lost,
        "busiest_partition_units_per_s": busiest_partition(LINES_PER_BATCH),
        "batches": batches,
        "at_once": AT_ONCE,
        "rounds": rounds,
        "one_key_ms": round(one * 1000),
        "many_keys_ms": round(many * 1000),
        "lines_per_batch": LINES_PER_BATCH,
        "busiest_partition_units_per_s_by_lines_per_batch": {
            str(size): busiest_partition(size) for size in (25, 100, 1_000, 20_000)
        },
    }
    report(result, as_json=options.json)


if __name__ == "__main__":
    main()
