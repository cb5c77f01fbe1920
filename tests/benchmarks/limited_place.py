"""Limited customers in DynamoDB Local: what one look takes, and what watching and sweeping hold of very many."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from metering.limits.sweeping import Sweeper
from metering.limits.watching import Watcher
from metering.model.periods import Hour
from metering.stores.gate_list import GateList
from metering.stores.ledger import Ledger
from tests.benchmarks.place import Effort, Place, Watch, fresh_processes
from tests.benchmarks.watched_hour import Traffic, looker_of
from tests.doubles.dynamodb_local import DynamoDBLocal
from tests.doubles.stream import Record, record

NEAR_PERCENT: Final = 40
"""Of those with limits, who are near: of 5,000 as many as the list has room for."""

SWEEP_S: Final = 45
BATCH: Final = 1_000
_KEY: Final[Any] = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
_INDEX: Final[Any] = {
    "IndexName": "pending",
    "KeySchema": [{"AttributeName": "pending", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    "Projection": {"ProjectionType": "KEYS_ONLY"},
}


@dataclass(frozen=True)
class Held:
    """What it takes to look, to sweep and to watch; ``floor_mb`` is a bare dict of as many sources."""

    look_cpu_s: float
    swept: int
    sweeper: Effort
    watcher: Effort
    floor_mb: float


def measured(limited: int, names: int, sources: int, *, seconds: float = SWEEP_S) -> Held:
    """Measure so many customers with limits, among so many names, and so many sources; each in a fresh process."""
    with _filled(limited, names) as place, fresh_processes(place, 4) as (looking, sweeping, watching, floor):
        look_cpu_s = looking.submit(_look, place, min(limited, 300)).result()
        swept, sweeper = sweeping.submit(_sweep, place, seconds).result()
        watcher = watching.submit(_watch, place, sources).result()
        bare = floor.submit(_hold, sources).result()
    return Held(look_cpu_s, swept, sweeper, watcher, bare.rss_growth_mb)


@contextmanager
def _filled(limited: int, names: int) -> Iterator[Place]:
    """Run DynamoDB Local with customers of whom the first have limits, and the others only their names."""
    hour = Hour.containing(datetime.now(UTC))
    traffic = Traffic.of(limited, NEAR_PERCENT, hour)
    traffic.fill()
    with DynamoDBLocal() as dynamodb:
        place = Place(dynamodb.port)
        client = place.whole_dynamodb()
        for table in ("counters", "ledger", "access"):
            columns = ("pk", "sk", "pending") if table == "ledger" else ("pk", "sk")
            client.create_table(
                TableName=table,
                KeySchema=_KEY,
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in columns],
                BillingMode="PAY_PER_REQUEST",
                **({"GlobalSecondaryIndexes": [_INDEX]} if table == "ledger" else {}),
            )
            place.write(table, map(_plain, traffic.tables.items(table)))
        more = range(limited, names)
        place.write("ledger", ({"pk": {"S": "list#customers"}, "sk": {"S": f"without{number:09d}"}} for number in more))
        yield place


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item without what JSON cannot hold: the tokens of the counters' batches, which nobody reads here."""
    return {name: value for name, value in item.items() if name != "batches"}


def _look(place: Place, customers: int) -> float:
    """Look at customers twice, and return the CPU that a look takes when its states are known."""
    client = place.dynamodb()
    looker = looker_of(client)
    took = 0.0
    for _ in range(2):
        began = time.process_time()
        for number in range(customers):
            looker.look(f"customer{number}", datetime.now(UTC))
        took = time.process_time() - began
    return took / customers


def _sweep(place: Place, seconds: float) -> tuple[int, Effort]:
    """Sweep for as long as a sweep lasts."""
    client = place.dynamodb()
    looker, deadline = looker_of(client), datetime.now(UTC) + timedelta(seconds=seconds)
    sweeper = Sweeper(looker, GateList(client, "access"), Ledger(client, "ledger").holders, _clock, deadline)
    watch = Watch()
    swept = sweeper.sweep()
    GateList(client, "access").move_head({"requests": 10**9, "response_bytes": 10**15})
    return len(swept.looked), watch.effort()


def _watch(place: Place, sources: int) -> Effort:
    """Take what so many sources use, none of whom is near; with the list of those who are."""
    client = place.dynamodb()
    watcher = Watcher(looker_of(client), GateList(client, "access"), Ledger(client, "ledger").holders)
    now = datetime.now(UTC)
    hour = Hour.containing(now)
    watcher.take([], now)
    watch = Watch()
    for first in range(0, sources, BATCH):
        watcher.take([_used(hour, number) for number in range(first, min(first + BATCH, sources))], now)
    return watch.effort()


def _hold(sources: int) -> Effort:
    """Hold a number for each source."""
    watch = Watch()
    held = {f"s{number:09d}": number + 1_000 for number in range(sources)}
    effort = watch.effort()
    assert len(held) == sources
    return effort


def _used(hour: Hour, number: int) -> Record:
    item = {
        "pk": {"S": f"hour#{hour}#{number % 16}"},
        "sk": {"S": f"s{number:09d}#7"},
        "n:requests": {"N": "1"},
        "n:response_bytes": {"N": "1000"},
    }
    return record(None, item, number=number)


def _clock() -> datetime:
    return datetime.now(UTC)
