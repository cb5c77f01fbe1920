"""What limits cost: the calls of an hour of traffic, the processor time of a batch and a look, published prices."""

import gc
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from infra.stack.sizes import DEFAULTS
from metering.limits.watching import Watcher
from metering.stores import aws
from tests.benchmarks import prices
from tests.benchmarks.cost import CORE_MB, DYNAMODB_ANSWER_S, HOURS_A_MONTH, MONTH_S, POLLS_A_MONTH
from tests.benchmarks.watched_hour import Hourly, Traffic, looker_of
from tests.doubles.aws import Client
from tests.doubles.stream import Record, Streamed

CUSTOMERS: Final = 200
RATE: Final = 100
OBJECTS_EVERY_S: Final = 300
NEAR_PERCENT: Final = 1
ROUTINE_CPU_S: Final = 0.0015
"""What Lambda's runtime and the handler's frame take of each run beside its work, of a whole core."""

LOG_LINE: Final = 450
"""Bytes of a line that a run logs that had something to look at, with Lambda's own fields of the JSON format."""

POLLING: Final = prices.SQS_REQUEST * POLLS_A_MONTH
"""Dollars a month of polling the queue that wakes the gate."""

MEMORY: Final = DEFAULTS["watch_limits"].memory


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of a whole core: of a batch of so many records that calls for nothing, and of a look.

    ``floor`` is to read the same batch's JSON, which Lambda does before.
    """

    batch: float
    floor: float
    look: float


def cpu_of(sample: list[Record], look: float, *, repeats: int) -> Cpu:
    """Measure a batch, which calls for no look: of records of customers who have much left."""
    tables = Streamed()
    client: Any = Client("dynamodb", tables)
    looker = looker_of(client)
    looker.asking.gate.move_head({"requests": 10**12, "response_bytes": 10**15, "messages": 10**12})
    watcher = Watcher(looker, looker.asking.gate, looker.reader.ledger.holders)
    now = Traffic.of(1, 1).now
    watcher.take(sample, now)
    payload = json.dumps({"Records": sample})
    batch, floor = [], []
    gc.disable()
    for _ in range(repeats):
        began = time.process_time()
        records = json.loads(payload)["Records"]
        read = time.process_time()
        watcher.take(records, now)
        batch.append(time.process_time() - read)
        floor.append(read - began)
    gc.enable()
    return Cpu(_median(batch), _median(floor), look)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def watching_usd(hour: Hourly, cpu: Cpu) -> dict[str, float]:
    """Return what it cost to watch the time that passed by."""
    records_a_batch = len(hour.sample)
    of_records = (cpu.batch + cpu.floor) * hour.records / max(1, records_a_batch)
    core_s = of_records + (hour.batches + hour.sweeps) * ROUTINE_CPU_S + (hour.looks + hour.sweep_looks) * cpu.look
    calls = hour.units.calls.total()
    waiting_s = (calls - hour.sweep_calls + hour.sweep_calls / aws.WORKERS) * DYNAMODB_ANSWER_S
    duration_s = core_s / (MEMORY / CORE_MB) + waiting_s
    logged = (hour.batches_with_looks + hour.sweeps) * LOG_LINE
    return {
        "lambda_requests": (hour.batches + hour.sweeps) * prices.LAMBDA_REQUEST,
        "lambda_compute": duration_s * MEMORY / 1024 * prices.LAMBDA_GB_S,
        "dynamodb_reads": hour.units.reads * prices.DYNAMODB_READ,
        "dynamodb_writes": hour.units.writes * prices.DYNAMODB_WRITE,
        "scheduler": hour.sweeps * prices.SCHEDULER_INVOCATION,
        "own_logs": logged / 2**30 * (prices.LOGS_GB + prices.LOGS_GB_MONTH),
    }


def per_million(hour: Hourly, cpu: Cpu, seconds: int) -> dict[str, float]:
    """Return what a million requests cost more with limits, item by item."""
    times = 1e6 / (RATE * seconds)
    items = {name: usd * times for name, usd in watching_usd(hour, cpu).items()}
    return items | {"sqs_polling": POLLING / (RATE * MONTH_S) * 1e6}


def costs(seconds: int, customers: int, look_cpu_s: float) -> dict[str, Any]:
    """Return what limits cost on both roads."""
    traffic = Traffic.of(CUSTOMERS, NEAR_PERCENT)
    traffic.fill()
    hour = traffic.pass_by(RATE, delivered_every_s=1, seconds=seconds)
    cpu = cpu_of(hour.sample, look_cpu_s, repeats=201)
    items = per_million(hour, cpu, seconds)
    slow = Traffic.of(customers, NEAR_PERCENT)
    slow.fill()
    by_firehose = slow.pass_by(RATE, delivered_every_s=OBJECTS_EVERY_S, seconds=seconds)
    monthly = {
        name: usd * HOURS_A_MONTH * 3600 / seconds * 1000 / customers
        for name, usd in watching_usd(by_firehose, cpu).items()
    } | {"sqs_polling": POLLING}
    written = hour.written["counters"]
    return {
        "usd_per_million_requests": round(sum(items.values()), 5),
        "usd_per_month_per_1000_limited_customers": round(sum(monthly.values()), 2),
        "write_units_ratio": round(written / hour.counted_units.writes, 6),
        "usd_per_million_requests_items": _rounded(items, 6),
        "usd_per_month_per_1000_limited_customers_items": _rounded(monthly, 3),
        "watched": {
            "batches": hour.batches,
            "records": hour.records,
            "looks": hour.looks,
            "sweeps": hour.sweeps,
            "sweep_looks": hour.sweep_looks,
            "read_units_per_look": round(hour.units.reads / max(1, hour.looks + hour.sweep_looks), 2),
            "read_units": hour.units.reads,
            "write_units": hour.units.writes,
        },
        "cpu": {
            "batch_ms": round(cpu.batch * 1000, 3),
            "floor_ms": round(cpu.floor * 1000, 3),
            "ratio_to_floor": round(cpu.batch / cpu.floor, 2),
            "records": len(hour.sample),
            "look_ms": round(cpu.look * 1000, 2),
        },
    }


def _rounded(items: Mapping[str, float], digits: int) -> dict[str, float]:
    return {name: round(usd, digits) for name, usd in items.items()}
