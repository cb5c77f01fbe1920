"""Closing and posting one hour of many customers, against the time that Stripe's own limit asks for.

The limit takes 1,000 calls a second, so that an hour's totals take `customers x metrics / 1,000` seconds at least: what
is measured is given as a ratio to that. The ledger and the counters are in DynamoDB Local, the local Stripe answers
after 100 ms, and everything shares the machine's processors: `bound` says who used how much of them.

Then a second run with nothing changed, one with 1 % late changes, and the same hour over Stripe's event stream.

The closer and each worker of an hour run in processes of their own, which have imported everything and done nothing yet
when the hour begins. ``rss_mb`` is the most that any of them held, ``rss_growth_mb`` the most that came with the work:
beyond what is held for the imports and a client.
"""

import math
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

from metering.billing.closing import Closer
from metering.billing.pacing import Pace
from metering.billing.posting import Poster
from metering.layout import SHARDS
from metering.model.amounts import Amounts
from metering.model.batches import TOKEN_BYTES
from metering.model.periods import Hour
from metering.model.subjects import subject_of_source
from metering.stores.attribution import Uniques
from metering.stores.changes import Changes
from metering.stores.claims import Claims
from metering.stores.counters import Counters, counter_key
from metering.stores.holders import Holder, Holding
from metering.stores.ledger import Ledger
from metering.stores.marks import new_mark
from metering.stores.switch import PostingSwitch, Switch, shards_of_workers
from metering.stripe.meters import StripeMeters
from tests.benchmarks.common import parser, report
from tests.doubles.dynamodb_local import DynamoDBLocal, table_definition

METRICS: Final = ("requests", "bytes", "messages")
BATCHES: Final = 12
LIMIT: Final = 1_000
"""Calls a second that Stripe takes (docs.stripe.com, "Recording usage with the API", "Rate limits")."""

LATENCY_S: Final = 0.1
WORKERS: Final = 2
CUSTOMERS_PER_FILLER: Final = 500
"""So many customers are worth a process that writes their counters."""

LATE: Final = 100
"""One customer in so many has a late record."""

HOUR: Final = Hour.containing(datetime.now(UTC) - timedelta(hours=3))
STREAMED: Final = HOUR.next()
HOURS: Final = (HOUR, STREAMED)
TABLES: Final = ("Counters", "Ledger")
STRIPE_KEY: Final = "sk_test_close"


@dataclass(frozen=True)
class Place:
    """Where a process finds everything, and the hour that is posted by calls; the next one is streamed."""

    dynamodb_port: int
    stripe_url: str
    hour: Hour

    def dynamodb(self) -> Any:
        """Return a client."""
        return boto3.client(
            "dynamodb",
            endpoint_url=f"http://127.0.0.1:{self.dynamodb_port}",
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",
            config=Config(max_pool_connections=96, read_timeout=60, retries={"total_max_attempts": 4}),
        )

    def stripe(self) -> StripeMeters:
        """Return the meters."""
        return StripeMeters(lambda _: STRIPE_KEY, "Metering", self.stripe_url)


@dataclass(frozen=True)
class Effort:
    """What a process took for its work: seconds of CPU, the most it held, and how much of that came with the work."""

    cpu_s: float
    rss_mb: float
    rss_growth_mb: float


class Watch:
    """Watches this process from now on; forgets the most that it held so far."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak becomes what is held now
        self._rss_mb = _held_mb("VmRSS")
        self._cpu_s = time.process_time()

    def effort(self) -> Effort:
        """Return what was taken since."""
        peak = _held_mb("VmHWM")
        return Effort(time.process_time() - self._cpu_s, peak, peak - self._rss_mb)


def _held_mb(field: str) -> float:
    """Return a figure of proc(5)'s ``status``: that of getrusage(2) begins with what the starter of a process held."""
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(f"{field}:")]
    return int(line.split()[1]) / 1024


def prepare(place: Place) -> None:
    """Do what comes before the work: coming here has imported everything, a first client reads botocore's files."""
    place.dynamodb()
    place.stripe()


@contextmanager
def fresh_processes(place: Place) -> Iterator[Sequence[ProcessPoolExecutor]]:
    """Start a closer and workers that have done nothing yet, each a process behind an executor of its own."""
    with ExitStack() as running:
        spawn = multiprocessing.get_context("spawn")
        pools = [running.enter_context(ProcessPoolExecutor(1, spawn)) for _ in range(1 + WORKERS)]
        for prepared in [pool.submit(prepare, place) for pool in pools]:
            prepared.result()
        yield pools


def post(place: Place, shards: list[int], now: datetime) -> tuple[int, Effort]:
    """Do what post_usage does with these shards; return how many totals were posted."""
    watch = Watch()
    dynamodb = place.dynamodb()
    ledger, counters = Ledger(dynamodb, "Ledger"), Counters(dynamodb, "Counters")
    pace = Pace(LIMIT * len(shards) / SHARDS)
    streamed_from, deadline = place.hour.next(), now + timedelta(hours=9)
    poster = Poster(ledger, counters, place.stripe(), "1", lambda: now, deadline, pace, streamed_from)
    did = poster.post_pending(place.hour, shards)
    if did.pending or did.rejected:
        raise RuntimeError(f"not everything was posted: {did}")
    return did.posted, watch.effort()


def close(place: Place, now: datetime) -> Effort:
    """Do what close_periods does."""
    watch = Watch()
    dynamodb = place.dynamodb()
    counters, ledger = Counters(dynamodb, "Counters"), Ledger(dynamodb, "Ledger")
    uniques = Uniques(Claims(dynamodb, "Counters"), ledger.holders)
    changes = Changes(dynamodb, "Ledger", counters)
    closer = Closer(counters, uniques, ledger, changes, lambda: now, now + timedelta(hours=9))
    did = closer.close_due()
    closer.settle(did, unsettled=set())
    return watch.effort()


def fill(place: Place, hour: Hour, first: int, last: int) -> None:
    """Write the counters of one hour of customers number ``first`` up to ``last``; names are their keys' as well."""
    dynamodb = place.dynamodb()
    draw = random.Random(first)
    items = []
    for number in range(first, last):
        for _ in range(BATCHES):
            token = draw.randbytes(TOKEN_BYTES)
            amounts = {f"n:{metric}": {"N": str(draw.randint(1, 500))} for metric in METRICS}
            items.append({**counter_key(hour, f"k{number:06d}", token), **amounts, "batches": {"BS": [token]}})
    whole = {(item["pk"]["S"], item["sk"]["S"]): item for item in items}  # two batches of one slot: the later one
    _write(dynamodb, "Counters", list(whole.values()))


def make_customers(place: Place, first: int, last: int) -> None:
    """Write customers, each with one key, as ``metering customers add`` does."""
    dynamodb = place.dynamodb()
    items: list[dict[str, Any]] = []
    for number in range(first, last):
        name, key = f"c{number:06d}", f"k{number:06d}"
        holder = {"since": {"S": str(Hour(0))}, "customer": {"S": name}, "reason": {"S": ""}}
        stripe_customer = {"S": f"cus_{number:06d}"}
        items += [
            {
                "pk": {"S": f"customer#{name}"},
                "sk": {"S": "profile"},
                "name": {"S": name},
                "stripe_customer": stripe_customer,
            },
            {"pk": {"S": f"customer#{name}"}, "sk": {"S": f"key#{key}"}},
            {
                "pk": {"S": f"key#{key}"},
                "sk": {"S": "holders"},
                "version": {"N": "1"},
                "holders": {"L": [{"M": holder}]},
            },
        ]
    _write(dynamodb, "Ledger", items)
    ledger = Ledger(dynamodb, "Ledger")
    (made,) = ledger.holders.holdings([f"k{first:06d}"]).values()
    if made != Holding(f"k{first:06d}", (Holder(Hour(0), f"c{first:06d}"),), 1):
        raise RuntimeError(f"the ledger reads another key than was written: {made}")


def _write(dynamodb: Any, table: str, items: list[dict[str, Any]]) -> None:
    for start in range(0, len(items), 25):
        asked = {table: [{"PutRequest": {"Item": item}} for item in items[start : start + 25]]}
        while asked:
            asked = dynamodb.batch_write_item(RequestItems=asked).get("UnprocessedItems")


def serve(customers: int, pipe: Connection) -> None:
    """Run the local Stripe with its customers; answer what is asked through the pipe."""
    from infra.local.stripe.server import LocalStripe  # noqa: PLC0415 - closers and workers do not hold it

    with LocalStripe(api_keys=(STRIPE_KEY,), latency_s=LATENCY_S, events_per_second=LIMIT) as server:
        for number in range(customers):
            server.add_customer(f"cus_{number:06d}")
        pipe.send(server.url)
        while pipe.recv() != "end":
            totals = server.hour_totals()
            sums = {hour: sum(int(v) for (_, _, at), v in totals.items() if at == hour) for hour in map(_epoch, HOURS)}
            pipe.send({"cpu_s": time.process_time(), "calls": dict(server.calls), "sums": sums})


def _epoch(hour: Hour) -> int:
    return int(hour.start.timestamp())


@contextmanager
def local_stripe(customers: int) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Run the local Stripe in a process of its own; give its address, and a way to ask what it did."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(customers, theirs), daemon=True)
    process.start()
    url = ours.recv()

    def ask() -> dict[str, Any]:
        ours.send("ask")
        return dict(ours.recv())

    try:
        meters = StripeMeters(lambda _: STRIPE_KEY, "Metering", url)
        for metric in METRICS:
            meters.create_meter(metric)
        yield url, ask
    finally:
        ours.send("end")
        process.join()


def cpu_of(process: int) -> float:
    """Return the seconds of CPU that a process and those it waited for have used (proc(5), fields 14 to 17)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def cpu_of_group(leader: int) -> float:
    """Return the seconds of CPU of all processes of a group."""
    used = 0.0
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader:
                used += cpu_of(int(entry.name))
    return used


@dataclass
class Bench:
    """Everything that runs, and what it has used so far."""

    place: Place
    customers: int
    ask: Callable[[], dict[str, Any]]
    java: int
    pool: ProcessPoolExecutor

    def run(self, hour: Hour, processes: Sequence[ProcessPoolExecutor]) -> dict[str, Any]:
        """Close in the first process what is due a while after an hour, and post it in the others."""
        now = hour.end + timedelta(minutes=15)
        closer, *posters = processes
        before, java = self.ask(), cpu_of_group(self.java)
        began = time.monotonic()
        closing = closer.submit(close, self.place, now).result()
        closed = time.monotonic()
        workers = [
            poster.submit(post, self.place, shards, now)
            for poster, shards in zip(posters, shards_of_workers(WORKERS), strict=True)
        ]
        posted = [worker.result() for worker in workers]
        ended = time.monotonic()
        efforts = [closing, *(effort for _, effort in posted)]
        after = self.ask()
        calls = {name: count - before["calls"].get(name, 0) for name, count in after["calls"].items()}
        return {
            "seconds": round(ended - began, 2),
            "close_seconds": round(closed - began, 2),
            "post_seconds": round(ended - closed, 2),
            "totals_posted": sum(totals for totals, _ in posted),
            "calls": {name: count for name, count in sorted(calls.items()) if count},
            "rss_mb": round(max(effort.rss_mb for effort in efforts)),
            "rss_growth_mb": {
                "close_periods": round(closing.rss_growth_mb, 1),
                "post_usage": round(max(effort.rss_growth_mb for _, effort in posted), 1),
            },
            "cpu_seconds": {
                "close_periods": round(closing.cpu_s, 1),
                "post_usage": round(sum(effort.cpu_s for _, effort in posted), 1),
                "local_stripe": round(after["cpu_s"] - before["cpu_s"], 1),
                "dynamodb_local": round(cpu_of_group(self.java) - java, 1),
            },
        }

    def check(self, hour: Hour) -> None:
        """Raise RuntimeError unless Stripe holds, over all customers, what the counters hold."""
        counters = Counters(self.place.dynamodb(), "Counters")
        counted = sum(sum(amounts.quantities().values()) for amounts in counters.read(hour).values())
        at_stripe = self.ask()["sums"][_epoch(hour)]
        if counted != at_stripe:
            raise RuntimeError(f"{counted} were counted in {hour}, Stripe holds {at_stripe}")

    def fill(self, hour: Hour) -> None:
        """Write one hour's counters, in several processes."""
        step = max(1, self.customers // 16)
        starts = range(0, self.customers, step)
        for one in [self.pool.submit(fill, self.place, hour, n, min(n + step, self.customers)) for n in starts]:
            one.result()


def measure(customers: int) -> dict[str, Any]:
    """Measure everything once."""
    with (
        DynamoDBLocal() as dynamodb,
        local_stripe(customers) as (url, ask),
        ProcessPoolExecutor(
            min(WORKERS, math.ceil(customers / CUSTOMERS_PER_FILLER)), multiprocessing.get_context("spawn")
        ) as pool,
    ):
        place = Place(dynamodb.port, url, HOUR)
        bench = Bench(place, customers, ask, dynamodb.group, pool)
        template = synthesised()
        for name in TABLES:
            place.dynamodb().create_table(TableName=name, **table_definition(template, name))
        client = place.dynamodb()
        PostingSwitch(client, "Ledger").turn(Switch(on=True, since=str(HOUR)))
        ledger = Ledger(client, "Ledger")
        ledger.progress.advance_cursor(HOUR)
        make_customers(place, 0, customers)
        bench.fill(HOUR)
        say(f"{customers} customers are there; closing and posting")
        with fresh_processes(place) as processes:
            first = bench.run(HOUR, processes)
            bench.check(HOUR)
            say("again, with nothing changed")
            second = bench.run(HOUR, processes)
            late = range(0, customers, LATE)
            counters = Counters(client, "Counters")
            for number in late:
                key = f"k{number:06d}"
                counters.count(HOUR, key, Amounts({"requests": 1}), random.randbytes(TOKEN_BYTES))
                counters.marks.mark_late(HOUR, subject_of_source(key), new_mark())
            say("again, with 1 % late records")
            third = bench.run(HOUR, processes)
            bench.check(HOUR)
        say("the next hour, over the event stream")
        bench.fill(STREAMED)
        with fresh_processes(place) as processes:
            streamed = bench.run(STREAMED, processes)
        bench.check(STREAMED)
    limit = customers * len(METRICS) / LIMIT
    rows = customers
    posting_calls = first["calls"].get("POST /v1/billing/meter_events", 0)
    return {
        "customers": customers,
        "workers": WORKERS,
        "limit_seconds": limit,
        "ratio_to_limit": round(first["seconds"] / limit, 2),
        "stream_ratio_to_limit": round(streamed["seconds"] / limit, 2),
        "post_ratio_to_limit": round(first["post_seconds"] / limit, 2),
        "stream_post_ratio_to_limit": round(streamed["post_seconds"] / limit, 2),
        "rss_mb": max(first["rss_mb"], streamed["rss_mb"]),
        "rss_growth_mb": max(*first["rss_growth_mb"].values(), *streamed["rss_growth_mb"].values()),
        "calls_per_row": round(posting_calls / rows, 3),
        "bound": bound(first),
        "first": first,
        "unchanged": second,
        "late": third,
        "stream": streamed,
    }


def bound(run: dict[str, Any]) -> str:
    """Say what the run was bound by."""
    used, there = sum(run["cpu_seconds"].values()), run["seconds"] * (os.cpu_count() or 1)
    return f"{used:.0f} s of {there:.0f} s of CPU were used, by: " + ", ".join(
        f"{name} {seconds:.0f} s" for name, seconds in run["cpu_seconds"].items()
    )


def synthesised() -> dict[str, Any]:
    """Return a template with the metering stack's tables."""
    import aws_cdk as cdk  # noqa: PLC0415 - starts Node, which closers and workers have no use for
    from aws_cdk import aws_logs as logs  # noqa: PLC0415 - likewise

    from infra.stack.storage import Storage  # noqa: PLC0415 - imports aws_cdk

    with tempfile.TemporaryDirectory() as folder:
        app = cdk.App(outdir=folder)
        stack = cdk.Stack(app, "Tables")
        Storage(
            stack, access_log_retention=logs.RetentionDays.THREE_MONTHS, archive_days=400, hashes=False, vended=None
        )
        return dict(app.synth().get_stack_by_name("Tables").template)


def say(what: str) -> None:
    """Tell, on a long way, how far it is."""
    sys.stderr.write(f"{what}\n")


def main() -> None:
    """Print what was measured."""
    arguments = parser(__doc__)
    arguments.add_argument("--customers", type=int, default=100_000, help="how many customers (default: 100000)")
    wanted = arguments.parse_args()
    report(measure(wanted.customers), as_json=wanted.json)


if __name__ == "__main__":
    main()
