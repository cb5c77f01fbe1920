"""Where closing and posting are measured: tables in DynamoDB Local, a local Stripe, and processes that start fresh.

DynamoDB Local keeps a database for each access key, so that what runs in one is not seen in another.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import boto3
import msgspec
import urllib3
from botocore.config import Config

from metering.model.periods import Hour
from metering.stores.aws import LEAN
from metering.stores.lean_calls import call_leanly
from metering.stores.ledger import Ledger
from metering.stores.switch import PostingSwitch, Switch
from metering.stripe.meters import StripeMeters
from tests.doubles.dynamodb_local import DynamoDBLocal, table_definition

METRICS: Final = ("requests", "bytes", "messages")
LIMIT: Final = 1_000
"""Calls a second that Stripe takes (docs.stripe.com, "Recording usage with the API", "Rate limits")."""

TABLES: Final = ("Counters", "Ledger")
STRIPE_KEY: Final = "sk_live_close"
STILL_S: Final = 30
"""Seconds after which it is told what is still running."""

_BATCH: Final = 25
_ROOT: Final = Path(__file__).parents[2]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Place:
    """Where a process finds everything."""

    dynamodb_port: int
    stripe_url: str = ""
    database: str = "measured"

    def dynamodb(self) -> Any:
        """Return a client as the functions have it."""
        return call_leanly(self.whole_dynamodb())

    def whole_dynamodb(self) -> Any:
        """Return a client all of whose calls are boto3's own, so that its hooks see them."""
        return boto3.client(
            "dynamodb",
            endpoint_url=f"http://127.0.0.1:{self.dynamodb_port}",
            region_name="us-east-1",
            aws_access_key_id=self.database,
            aws_secret_access_key="local",
            config=Config(max_pool_connections=96, read_timeout=60, retries={"total_max_attempts": 4}).merge(LEAN),
        )

    def stripe(self) -> StripeMeters:
        """Return the meters."""
        return StripeMeters(lambda _: STRIPE_KEY, "Metering", self.stripe_url)

    def write(self, table: str, items: Iterable[Mapping[str, Any]]) -> None:
        """Write items in batches, by a bare HTTP client, which takes a quarter of what botocore does."""
        pool = urllib3.HTTPConnectionPool("127.0.0.1", self.dynamodb_port, retries=False)
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Target": "DynamoDB_20120810.BatchWriteItem",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={self.database}/20261101/us-east-1/dynamodb/aws4_request, "
            "SignedHeaders=host, Signature=0",  # which nobody checks
        }
        rest = iter(items)
        while batch := list(islice(rest, _BATCH)):
            asked: Any = {table: [{"PutRequest": {"Item": item}} for item in batch]}
            while asked:
                answer = pool.urlopen("POST", "/", msgspec.json.encode({"RequestItems": asked}), headers)
                if answer.status != 200:
                    raise RuntimeError(f"items were not written: {answer.data.decode()}")
                asked = json.loads(answer.data).get("UnprocessedItems")


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


@contextmanager
def fresh_processes(place: Place, count: int = 1) -> Iterator[Sequence[ProcessPoolExecutor]]:
    """Start processes that have imported everything and done nothing yet, each behind an executor of its own."""
    with ExitStack() as running:
        spawn = multiprocessing.get_context("spawn")
        pools = [running.enter_context(ProcessPoolExecutor(1, spawn)) for _ in range(count)]
        for prepared in [pool.submit(_prepare, place) for pool in pools]:
            prepared.result()
        yield pools


def _prepare(place: Place) -> None:
    """Do what comes before the work: coming here has imported everything, a first client reads botocore's files."""
    place.dynamodb()
    place.stripe()


def awaited(what: str, running: Future[R]) -> R:
    """Wait for something, and tell now and then how long it takes."""
    began = time.monotonic()
    while not wait([running], STILL_S).done:
        say(f"{what}: {time.monotonic() - began:.0f} s so far")
    return running.result()


def running_from(now: datetime) -> Callable[[], datetime]:
    """Return a clock that shows ``now``, and goes on from there."""
    began = time.monotonic()
    return lambda: now + timedelta(seconds=time.monotonic() - began)


def make_tables(place: Place, template: Mapping[str, Any], hour: Hour) -> None:
    """Make the tables of a database; everything before ``hour`` is closed."""
    client = place.dynamodb()
    for name in TABLES:
        client.create_table(TableName=name, **table_definition(template, name))
    PostingSwitch(client, "Ledger").turn(Switch(on=True, since=str(hour)))
    Ledger(client, "Ledger").progress.advance_cursor(hour)


def _serve(stripe_customers: Sequence[str], latency_s: float, most_a_second: int, pipe: Connection) -> None:
    """Run the local Stripe with its customers; answer what is asked through the pipe."""
    from infra.local.stripe.server import LocalStripe  # noqa: PLC0415 - closers and workers do not hold it

    with LocalStripe(api_keys=(STRIPE_KEY,), latency_s=latency_s, events_per_second=most_a_second) as server:
        for name in stripe_customers:
            server.add_customer(name)
        pipe.send(server.url)
        while pipe.recv() != "end":
            sums: Counter[int] = Counter()
            for (_, _, at), total in server.hour_totals().items():
                sums[at] += int(total)
            pipe.send({"cpu_s": time.process_time(), "calls": dict(server.calls), "sums": sums})


@contextmanager
def local_stripe(
    stripe_customers: Sequence[str], *, latency_s: float = 0, most_a_second: int = 10**9
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Run the local Stripe in a process of its own; give its address, and a way to ask what it did.

    ``sums`` in its answer are the quantities of each hour, by its first second since 1970.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(stripe_customers, latency_s, most_a_second, theirs), daemon=True)
    process.start()
    url = ours.recv()

    def ask() -> dict[str, Any]:
        ours.send("ask")
        return dict(ours.recv())

    try:
        for metric in METRICS:
            Place(0, url).stripe().create_meter(metric)
        yield url, ask
    finally:
        ours.send("end")
        process.join()


@dataclass(frozen=True)
class Tables:
    """DynamoDB Local, its group of processes, processes that fill it, and one for what is done beside the work."""

    port: int
    java: int
    fillers: ProcessPoolExecutor
    aside: ProcessPoolExecutor

    def beside(self, what: str, do: Callable[P, R], *args: P.args, **named: P.kwargs) -> R:
        """Do something in a process of its own, and tell when it takes long."""
        return awaited(what, self.aside.submit(do, *args, **named))


@contextmanager
def dynamodb_local() -> Iterator[Tables]:
    """Run DynamoDB Local with what belongs to it."""
    spawn = multiprocessing.get_context("spawn")
    with (
        DynamoDBLocal() as dynamodb,
        ProcessPoolExecutor(os.cpu_count(), spawn) as fillers,
        ProcessPoolExecutor(1, spawn) as aside,
    ):
        yield Tables(dynamodb.port, dynamodb.group, fillers, aside)


def cpu_of_group(leader: int) -> float:
    """Return the seconds of CPU of all processes of a group."""
    used = 0.0
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader:
                used += _cpu_of(int(entry.name))
    return used


def _cpu_of(process: int) -> float:
    """Return the seconds of CPU that a process and those it waited for have used (proc(5), fields 14 to 17)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def synthesised() -> dict[str, Any]:
    """Return the metering stack's template, as it is by default."""
    import aws_cdk as cdk  # noqa: PLC0415 - starts Node, which closers and workers have no use for

    from infra.stack import Count, MeteringStack  # noqa: PLC0415 - imports aws_cdk

    flags = json.loads((_ROOT / "cdk.json").read_text())["context"] | {"aws:cdk:bundling-stacks": []}
    with tempfile.TemporaryDirectory() as folder:
        app = cdk.App(context=flags, outdir=folder)
        MeteringStack(app, "Metering", metrics=(Count(name="requests"),))
        return dict(app.synth().get_stack_by_name("Metering").template)


def say(what: str) -> None:
    """Tell, on a long way, how far it is."""
    sys.stderr.write(f"{what}\n")
    sys.stderr.flush()
