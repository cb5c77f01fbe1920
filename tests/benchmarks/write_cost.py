"""What counting costs: write units per 1,000 requests, on DynamoDB Local.

The floor is one write unit for each distinct hour and key of a batch: no design that keeps counts per hour and key
writes less. A batch writes one more: how many lines it had. Beside it, the same input by one update per line, and by a
transaction of a marker and an ADD per key.

``sustained`` is one key that takes more and more batches within its hour: an item grows with the tokens of its batches,
and is to stay under 1 KB. ``unique`` is what a value costs that was not seen in the month before.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from metering.counting.recording import Hashing, Recorder
from metering.model import metrics
from metering.model.amounts import Amounts
from metering.model.batches import TOKEN_BYTES, Source, batch_of
from metering.model.log_format import AccessLog
from metering.model.metrics import Count, Metric, Sum, Unique
from metering.model.periods import Hour
from metering.stores.aws import side_by_side
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.holders import Holders, Holding
from metering.stores.set_aside import Kept, SetAside
from tests.benchmarks.capacity import fresh_counters
from tests.benchmarks.common import parser, report
from tests.doubles.access_log import NONCE
from tests.doubles.dynamodb_local import DynamoDBLocal

KEYS: Final = 200
USERS: Final = 2_000
BATCHES: Final = (100, 1_000, 10_000)
SUSTAINED: Final = (1_000, 5_000, 15_000)
PER_LINE: Final = 2_000
"""So many lines are written singly; the rest would cost the same."""

HOUR: Final = Hour.parse("2026-11-22T05")
NOW: Final = datetime(2026, 11, 22, 5, 50, tzinfo=UTC)
CASES: Final[dict[str, tuple[Metric, ...]]] = {
    "count_and_sum": (Count(name="requests"), Sum(name="bytes", of="response_length")),
    "grouped": (Count(name="requests", by="resource"), Sum(name="bytes", of="response_length")),
    "unique": (Count(name="requests"), Unique(name="users", of="authorizer.user", opaque_id=True)),
}
ROUTES: Final = ("/items", "/items/{id}", "/messages", "/users/{id}", "/reports/{id}")


class NothingAside(SetAside):
    """A bucket in which nothing is set aside."""

    def of(self, batch: str) -> Kept:
        """Return nothing."""
        del batch
        return Kept()


class NoHolders(Holders):
    """Holders where no key ever changed hands."""

    def holdings(self, sources: Iterable[str], *, consistent: bool = True) -> dict[str, Holding]:  # noqa: ARG002
        """Return no history."""
        return {source: Holding(source) for source in sources}


def lines(declared: Sequence[Metric], count: int) -> list[tuple[str, str]]:
    """Return keys and access-log lines of one hour, with heavy-tailed keys and users."""
    draw = random.Random(1)
    fields = json.loads(AccessLog().format(NONCE, metrics.declared(declared)))
    keys = draw.choices(range(KEYS), [1 / (rank + 1) for rank in range(KEYS)], k=count)
    users = draw.choices(range(USERS), [1 / (rank + 1) for rank in range(USERS)], k=count)
    made = []
    for number, (key, user) in enumerate(zip(keys, users, strict=True)):
        line = fields | {
            "request_id": f"Fzk1aHqZIAMF{number:07d}=",
            "time": str(int(HOUR.start.timestamp() * 1000) + number),
            "key": f"k{key:09d}",
            "status": "200",
            "method": "GET",
            "resource": draw.choice(ROUTES),
            "response_length": str(draw.randrange(20_000)),
            "response_latency": "20",
            "integration_latency": "15",
        }
        if "authorizer.user" in line:
            line["authorizer.user"] = f"u{user}"
        made.append((line["key"], json.dumps(line, separators=(",", ":"))))
    return made


def measure(dynamodb: DynamoDBLocal, declared: Sequence[Metric], requests: int, size: int) -> dict[str, Any]:
    """Record all lines in batches of a size through the real recorder."""
    counters, capacity = fresh_counters(dynamodb)
    recorder = Recorder(
        declared,
        (NONCE,),
        counters,
        Claims(counters.client, counters.table),
        NothingAside(None, ""),  # type: ignore[arg-type]
        lambda: NOW,
        Hashing(b"secret", NoHolders(counters.client, "")),
    )
    made = lines(declared, requests)
    floor = 0
    for start in range(0, len(made), size):
        batch = made[start : start + size]
        floor += len({key for key, _ in batch})
        ids = [f"{start + n:056d}" for n in range(len(batch))]
        recorder.record(batch_of(ids, [line for _, line in batch], Source.ACCESS_LOG, "benchmark"))
    counted = sum(amounts.sums["requests"] for amounts in counters.read(HOUR).values())
    if counted != requests:
        raise ValueError(f"{requests} requests were to be counted, got {counted}")
    found: dict[str, Any] = {
        "batch": size,
        "units_per_1000_requests": round(capacity.units["UpdateItem"] / requests * 1000, 2),
        "ratio_to_floor": round(capacity.units["UpdateItem"] / floor, 3),
    }
    if metrics.needs_hash(declared):
        values = sum(amounts.uniques.get("users", 0) for amounts in counters.read(HOUR).values())
        found["new_values"] = values
        found["units_per_new_value"] = round(capacity.units["PutItem"] / values, 3)
        found["read_units_per_1000_requests"] = round(capacity.units["BatchGetItem"] / requests * 1000, 2)
    return found


def one_update_per_line(dynamodb: DynamoDBLocal, requests: int) -> float:
    """Return the units per 1,000 requests of an ADD for each line."""
    counters, capacity = fresh_counters(dynamodb)
    made = lines(CASES["count_and_sum"], requests)[:PER_LINE]

    def add(line: tuple[str, str]) -> None:
        counters.client.update_item(
            TableName=counters.table,
            Key={"pk": {"S": f"hour#{HOUR}"}, "sk": {"S": line[0]}},
            UpdateExpression="ADD #requests :one, #bytes :bytes",
            ExpressionAttributeNames={"#requests": "requests", "#bytes": "bytes"},
            ExpressionAttributeValues={":one": {"N": "1"}, ":bytes": {"N": "10"}},
        )

    side_by_side(add, made)
    return capacity.written / len(made) * 1000


def marker_and_add(dynamodb: DynamoDBLocal, requests: int, size: int) -> float:
    """Return the units per 1,000 requests of a transaction for each batch and key: a marker that is new, and an ADD."""
    counters, capacity = fresh_counters(dynamodb)
    made = lines(CASES["count_and_sum"], requests)[: max(PER_LINE, size)]
    for start in range(0, len(made), size):
        for key in {key for key, _ in made[start : start + size]}:
            marker = {"pk": {"S": f"batch#{start}"}, "sk": {"S": key}}
            counters.client.transact_write_items(
                TransactItems=[
                    {
                        "Put": {
                            "TableName": counters.table,
                            "Item": marker,
                            "ConditionExpression": "attribute_not_exists(pk)",
                        }
                    },
                    {
                        "Update": {
                            "TableName": counters.table,
                            "Key": {"pk": {"S": f"hour#{HOUR}"}, "sk": {"S": key}},
                            "UpdateExpression": "ADD #requests :n",
                            "ExpressionAttributeNames": {"#requests": "requests"},
                            "ExpressionAttributeValues": {":n": {"N": "1"}},
                        }
                    },
                ]
            )
    return capacity.written / len(made) * 1000


def sustained(dynamodb: DynamoDBLocal, sampled: int) -> dict[str, float]:
    """Return the units per batch up to so many batches of one key within one hour.

    So many of the 256 items of a key and hour are ``sampled``, really filled; the others would be filled alike.
    """
    counters, capacity = fresh_counters(dynamodb)
    found = {}
    done = 0
    for upto in SUSTAINED:
        tokens = [hashlib.sha256(f"batch {n}".encode()).digest()[:TOKEN_BYTES] for n in range(done, upto)]
        side_by_side(lambda token: _count_batch(counters, token), [one for one in tokens if one[-1] < sampled])
        done = upto
        found[str(upto)] = round(capacity.units["UpdateItem"] / capacity.calls["UpdateItem"], 3)
    return found


def _count_batch(counters: Counters, token: bytes) -> None:
    if not counters.count(HOUR, "k000000001", Amounts({"requests": 20, "response_bytes": 20_480}), token):
        raise ValueError(f"the batch {token.hex()} was refused")


def main() -> None:
    """Print the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--requests", type=int, default=10_000, help="how many requests (default: 10000)")
    arguments.add_argument(
        "--sampled", type=int, default=16, help="how many of a key's 256 items of an hour are filled (default: 16)"
    )
    options = arguments.parse_args()
    requests = options.requests
    with DynamoDBLocal() as dynamodb:
        cases = {name: [measure(dynamodb, case, requests, size) for size in BATCHES] for name, case in CASES.items()}
        per_line = one_update_per_line(dynamodb, requests)
        transactions = {str(size): round(marker_and_add(dynamodb, requests, size), 1) for size in BATCHES}
        growing = sustained(dynamodb, options.sampled)
    plain = cases["count_and_sum"]
    report(
        {
            "ratio_to_floor": max(*(one["ratio_to_floor"] for one in plain), *growing.values()),
            "fewer_than_one_update_per_line_at_10000": round(per_line / plain[-1]["units_per_1000_requests"], 1),
            "units_per_new_value": max(one["units_per_new_value"] for one in cases["unique"]),
            "requests": requests,
            "keys": KEYS,
            **cases,
            "sustained_units_per_batch": growing,
            "one_update_per_line_units_per_1000_requests": round(per_line, 1),
            "marker_and_add_units_per_1000_requests": transactions,
        },
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
