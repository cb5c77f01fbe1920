"""What a million metered requests cost on each road, item by item, and what a deployment costs that meters nothing.

Measured here: the length of a line, the requests and DynamoDB units that the functions' own code makes for a batch of
each size (with heavy-tailed keys), the processor time that it takes, and what it logs. Assumed: the prices, the batches
that each road brings and the waiting for AWS; each is a constant, below or in ``prices.py``, with its source.
"""

import base64
import contextlib
import gzip
import importlib
import io
import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, Self, cast

from infra.local.aws.emulator import Emulator
from infra.operate.customers import Customers, Entry
from infra.stack.sizes import DEFAULTS
from metering.billing.posting import CUSTOMERS_AT_ONCE
from metering.model import metrics
from metering.model.amounts import Amounts
from metering.model.batches import TOKEN_BYTES
from metering.model.log_format import AccessLog
from metering.model.metrics import Count, Metric, Sum
from metering.model.periods import Hour, due_before
from metering.settings import (
    ClosePeriodsSettings,
    PostUsageSettings,
    ReconcileUsageSettings,
    RecordUsageSettings,
    WatchLimitsSettings,
)
from metering.stores import aws
from metering.stores.counters import SLOTS, Counters
from metering.stores.ledger import Ledger
from metering.stores.marks import PARTITIONS
from metering.stores.switch import PostingSwitch, Switch
from metering.stores.table import item_key
from metering.stripe.meters import StripeMeters
from tests.benchmarks import prices
from tests.benchmarks.common import parser, report
from tests.benchmarks.units import Units
from tests.doubles.access_log import NONCE
from tests.doubles.lambdas import context

KEYS: Final = 200
"""Active in an hour, of as many customers by default."""

WEIGHTS: Final = [1 / (rank + 1) for rank in range(KEYS)]
"""How often each is used: Zipf's law."""

LARGEST_DELIVERY: Final = 1_000
"""Lines. CloudWatch Logs documents no batch size: it is taken to deliver each second what has arrived, in pieces of at
most so many lines. Since that is a guess, each row also tells the price with a tenth of the lines in a delivery."""

BUFFER_SECONDS: Final = 300
BUFFER_BYTES: Final = 128 << 20
"""Firehose ends an object at whichever comes first (the delivery stream's buffering hints), before compression."""

MEMORY_GB: Final = {name: size.memory / 1024 for name, size in DEFAULTS.items()}
CORE_MB: Final = 1769
"""Memory with which a function has one whole processor; it has less in proportion (Lambda Developer Guide, "Configure
Lambda function memory"). A core here is taken to be as fast as one there."""

S3_ANSWER_S: Final = 0.03
DYNAMODB_ANSWER_S: Final = 0.005
STRIPE_ANSWER_S: Final = 0.2
POLLS_A_MONTH: Final = 5 * 3 * 60 * 24 * 30
"""An event source mapping polls its queue with five long polls of 20 seconds at a time, also an empty one (Lambda
Developer Guide, "Using Lambda with Amazon SQS")."""

ALARMS: Final = {"subscription": 25, "firehose": 28}
LIMITS_ALARMS: Final = 3
SWEEPS_A_MONTH: Final = 60 * 24 * 30
SECRETS: Final = 3
"""The Stripe key, what Stripe signs its notifications with, and the key that signs links."""

FREE_ALARMS: Final = 10
RATIOS: Final = frozenset({"CompletenessOfLines", "CompletenessOfRequests"})
COMPARED_METRICS: Final = 3
"""So many metrics ``check_completeness`` asks for in each hour: lines counted, lines written, requests of one stage."""

LINES_READ: Final = 24 * PARTITIONS / 2
"""Read units of each look of ``check_completeness`` at how many lines were counted in a day: half a one a partition."""

LOG_MONTHS: Final = 3
STANDARD_MONTHS: Final = 3
COLD_MONTHS: Final = 310 / 30
MONTH_S: Final = 30 * 86_400
TICKS_A_MONTH: Final = 12 * 24 * 30
"""Each is taken to meet the environment of the one before: Lambda promises nothing, but keeps an idle one longer."""

HOURS_A_MONTH: Final = 24 * 30

FREE_TIER: Final = frozenset({"lambda", "custom_metrics", "own_logs", "sqs_polling", "scheduler"})
"""What the always free allowances cover of an idle deployment, if nothing else in the account uses them: a million
requests and 400,000 GB-s of Lambda, 10 alarms, 10 metrics and 5 GB of logs of CloudWatch, a million requests of SQS,
14 million of EventBridge Scheduler. DynamoDB's covers no on-demand requests."""

METRICS: Final[tuple[Metric, ...]] = (
    Count(name="requests", by="resource"),
    Sum(name="response_bytes", of="response_length"),
    Sum(name="messages", of="authorizer.messages"),
)
ROUTES: Final = (("GET", "/items"), ("GET", "/items/{id}"), ("POST", "/messages"), ("GET", "/users/{id}"))


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a function takes: seconds of a whole core and of waiting, units, requests, bytes of log."""

    lines: int
    cpu_s: float
    waiting_s: float
    writes: float
    counter_bytes: float
    reads: float
    s3_gets: int
    log_bytes: int
    signals: frozenset[str]

    def lambda_usd(self, function: str) -> dict[str, float]:
        """Return what Lambda takes for it."""
        memory = MEMORY_GB[function]
        duration = self.cpu_s / (memory * 1024 / CORE_MB) + self.waiting_s
        return {"lambda_requests": prices.LAMBDA_REQUEST, "lambda_compute": duration * memory * prices.LAMBDA_GB_S}

    def log_usd(self) -> float:
        """Return what its own log costs, kept for a month."""
        return self.log_bytes / 2**30 * (prices.LOGS_GB + prices.LOGS_GB_MONTH)


@dataclass(frozen=True, slots=True)
class Bench:
    """The functions' own code on the embedded AWS, and what it is fed with."""

    units: Units
    draw: random.Random
    repeats: int

    def lines(self, count: int) -> list[str]:
        """Return access-log lines of the present hour; five in a hundred are failures."""
        form = json.loads(AccessLog().format(NONCE, metrics.declared(METRICS)))
        keys = self.draw.choices(range(KEYS), WEIGHTS, k=count)
        moment = int(time.time() * 1000)
        made = []
        for key in keys:
            method, resource = self.draw.choice(ROUTES)
            line = form | {
                "request_id": base64.b64encode(self.draw.randbytes(11)).decode(),
                "time": str(moment - self.draw.randrange(1_000)),
                "key": _key(key),
                "status": self.draw.choice(["200"] * 19 + ["404"]),
                "method": method,
                "resource": resource,
                "response_length": str(self.draw.randrange(20_000)),
                "response_latency": str(self.draw.randrange(300)),
                "integration_latency": str(self.draw.randrange(300)),
                "authorizer.messages": str(self.draw.randrange(1, 100)) if method == "POST" else "-",
            }
            made.append(json.dumps(line, separators=(",", ":")))
        return made

    def delivery(self, count: int) -> Run:
        """Measure a delivery of CloudWatch Logs."""
        return _median([self._delivery(count) for _ in range(self.repeats)])

    def _delivery(self, count: int) -> Run:
        events = [
            {"id": f"{self.draw.randrange(10**56):056d}", "timestamp": 0, "message": line} for line in self.lines(count)
        ]
        body = {"messageType": "DATA_MESSAGE", "logGroup": "access-log", "logStream": "s", "logEvents": events}
        data = base64.b64encode(gzip.compress(json.dumps(body).encode())).decode()
        return self._run("record_usage", {"awslogs": {"data": data}}, count)

    def object(self, count: int) -> Run:
        """Measure an object of Firehose."""
        return _median([self._object(count) for _ in range(self.repeats if count < LARGEST_DELIVERY * 50 else 1)])

    def _object(self, count: int) -> Run:
        some = self.lines(min(count, 50_000))
        content = "".join(f"{line}\n" for line in itertools.islice(itertools.cycle(some), count)).encode()
        key = f"access-log/{self.draw.randrange(10**9)}.gz"
        aws.s3().put_object(Bucket="bucket", Key=key, Body=gzip.compress(content))
        del content
        notification = {"Records": [{"s3": {"bucket": {"name": "bucket"}, "object": {"key": key, "eTag": "e"}}}]}
        message = {"messageId": "m", "body": json.dumps(notification), "eventSource": "aws:sqs"}
        return self._run("record_usage", {"Records": [message]}, count)

    def tick(self) -> Run:
        """Measure a run of ``close_periods``."""
        return self._run("close_periods", {"post": False}, 0)

    def post(self) -> Run:
        """Measure a run of ``post_usage`` that has all shards."""
        return self._run("post_usage", {}, 0)

    def look(self) -> Run:
        """Measure a run of ``reconcile_usage``."""
        return self._run("reconcile_usage", {}, 0)

    def sweep(self) -> Run:
        """Measure a sweep over limits of which nobody has any, in the middle of a round."""
        with tempfile.TemporaryDirectory() as folder:
            declared = Path(folder) / "declared.json"
            declared.write_text(f'{{"metrics": {metrics.encode(METRICS)}, "plans": []}}')
            importlib.import_module("watch_limits").DECLARED = declared  # type: ignore[attr-defined]
            first, *others = (self._run("watch_limits", {"sweep": True}, 0) for _ in range(1 + self.repeats))
        if first.writes <= 0:
            raise RuntimeError(f"the first sweep was to begin a round, got {first}")
        return _median(others)

    def _run(self, name: str, event: Mapping[str, Any], lines: int) -> Run:
        function = importlib.import_module(name)  # now that its environment is set
        self.units.clear()
        said = io.StringIO()
        function.logger.registered_handler.setStream(said)
        with contextlib.redirect_stdout(said):
            began = time.process_time()
            answer = function.handler(event, context())
            used = time.process_time() - began
        if answer.get("batchItemFailures"):
            raise RuntimeError(said.getvalue())
        calls = self.units.calls
        writes = self.units.first_writes
        return Run(
            lines=lines,
            cpu_s=used,
            waiting_s=calls["GetObject"] * S3_ANSWER_S
            + (calls.total() - calls["GetObject"]) / aws.WORKERS * DYNAMODB_ANSWER_S
            + answer.get("posted", 0) / CUSTOMERS_AT_ONCE * STRIPE_ANSWER_S,
            writes=self.units.writes,
            counter_bytes=statistics.mean(writes) if writes else 0,
            reads=self.units.reads,
            s3_gets=calls["GetObject"],
            log_bytes=len(said.getvalue().encode()),
            signals=_signals(said.getvalue()),
        )


def _median(runs: Sequence[Run]) -> Run:
    return sorted(runs, key=lambda run: run.cpu_s)[len(runs) // 2]


def _signals(said: str) -> frozenset[str]:
    """Return the names of the CloudWatch metrics that a function's log sends."""
    found = (json.loads(line) for line in said.splitlines())
    blobs = [line["_aws"]["CloudWatchMetrics"] for line in found if "_aws" in line]
    return frozenset(metric["Name"] for blob in blobs for one in blob for metric in one["Metrics"])


@contextmanager
def bench(repeats: int) -> Iterator[Bench]:
    """Start the embedded AWS and the local Stripe with what the functions need, and set their environment."""
    serve = [sys.executable, "-m", "infra.local.stripe.server"]
    with Emulator() as emulator, subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as stripe:  # noqa: S603 - ours
        try:
            told = json.loads(cast("IO[str]", stripe.stdout).readline())
            os.environ.update(emulator.environment() | _settings(told["url"]))
            _make_resources(emulator, told["api_key"])
            units = Units()
            units.watch(aws.dynamodb())
            units.watch(aws.s3())
            yield Bench(units, random.Random(1), repeats)
        finally:
            stripe.terminate()


def _settings(stripe_url: str) -> dict[str, str]:
    recording = RecordUsageSettings("counters", "bucket", metrics.encode(METRICS), NONCE, "access-log", "ledger")
    closing = ClosePeriodsSettings("counters", "ledger", "post-usage", metrics.encode(METRICS))
    posting = PostUsageSettings("counters", "ledger", "Metering", "1", "stripe", stripe_url, "1000")
    reconciling = ReconcileUsageSettings("counters", "ledger", "Metering", "stripe", stripe_url, "5000")
    watching = WatchLimitsSettings("counters", "ledger", "access", "Metering", "http://queue.example", "https://page/")
    powertools = {"POWERTOOLS_SERVICE_NAME": "Metering-us-east-1", "POWERTOOLS_METRICS_NAMESPACE": "Metering"}
    ours = recording.environment() | closing.environment() | posting.environment() | reconciling.environment()
    return watching.environment() | ours | powertools


def _make_resources(emulator: Emulator, stripe_key: str) -> None:
    dynamodb = aws.dynamodb()
    key: Any = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
    index: Any = {
        "IndexName": "pending",
        "KeySchema": [{"AttributeName": "pending", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        "Projection": {"ProjectionType": "KEYS_ONLY"},
    }
    tables: Any = (
        ("counters", ("pk", "sk"), {}),
        ("ledger", ("pk", "sk", "pending"), {"GlobalSecondaryIndexes": [index]}),
        ("access", ("pk", "sk"), {}),
    )
    for table, names, indexes in tables:
        dynamodb.create_table(
            TableName=table,
            KeySchema=key,
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
            BillingMode="PAY_PER_REQUEST",
            **indexes,
        )
    aws.s3().create_bucket(Bucket="bucket")
    secrets = emulator.client("secretsmanager")
    secrets.create_secret(Name="stripe", SecretString=stripe_key)
    secrets.close()
    stripe = StripeMeters(lambda _fresh: stripe_key, "Metering", os.environ["STRIPE_API_BASE"])
    for metric in metrics.meters(METRICS):
        stripe.create_meter(metric)


@dataclass(frozen=True, slots=True)
class Closing:
    """What runs of ``close_periods`` take: with nothing to do, with an empty hour to close, with customers.

    ``posting`` is what it then takes to post them, ``looking`` the hourly look at Stripe with nobody to look at.
    """

    idle: Run
    empty: Run
    full: Run
    posting: Run
    looking: Run

    @classmethod
    def measure(cls, bench: Bench, customers: int) -> Self:
        """Close the last hour that is due, first empty, then with something counted for each key."""
        counters, ledger = Counters(aws.dynamodb(), "counters"), Ledger(aws.dynamodb(), "ledger")
        hour = Hour(due_before(datetime.now(UTC)).number - 1)
        ledger.progress.advance_cursor(hour)
        PostingSwitch(aws.dynamodb(), "ledger").turn(Switch(on=True, since=str(hour)))
        empty, idle = bench.tick(), bench.tick()
        looking = bench.look()
        pieces = [(f"period#{hour}", f"piece#{number}") for number in range(PARTITIONS)]
        # So that it can be closed again.
        for place in [(f"period#{hour}", "close"), ("period#cursor", "close"), *pieces]:
            aws.dynamodb().delete_item(TableName="ledger", Key=item_key(*place))
        ledger.progress.advance_cursor(hour)
        entries = Customers(ledger, counters)
        amounts = Amounts({"requests": 9, "response_bytes": 90_000, "messages": 5}, splits={"requests": {"/items": 9}})
        for number in range(customers):
            name = _key(number)
            entries.add(Entry(f"customer{number}", "Customer", f"cus_{number}", (name,)), now=datetime.now(UTC))
            counters.count(hour, name, amounts, bytes(TOKEN_BYTES))
        full, posting = bench.tick(), bench.post()
        if idle.writes >= empty.writes or full.writes < customers:
            raise RuntimeError(f"nothing, an empty and a full hour were to be closed, got {idle}, {empty} and {full}")
        return cls(idle, empty, full, posting, looking)

    def month_usd(self, hour: Run) -> dict[str, float]:
        """Return a month's cost of closing every hour as in this run, and of posting it where there is something."""
        items: dict[str, float] = defaultdict(float)
        runs = [
            ("close_periods", hour, HOURS_A_MONTH),
            ("close_periods", self.idle, TICKS_A_MONTH - HOURS_A_MONTH),
            ("reconcile_usage", self.looking, HOURS_A_MONTH),
            ("post_usage", self.posting, HOURS_A_MONTH if hour is self.full else 0),
        ]
        for function, run, times in runs:
            items["lambda"] += sum(run.lambda_usd(function).values()) * times
            items["dynamodb"] += (run.writes * prices.DYNAMODB_WRITE + run.reads * prices.DYNAMODB_READ) * times
            items["own_logs"] += run.log_usd() * times
        items["dynamodb"] += LINES_READ * prices.DYNAMODB_READ * HOURS_A_MONTH
        items["scheduler"] = prices.SCHEDULER_INVOCATION * (TICKS_A_MONTH + 2 * HOURS_A_MONTH)
        items["metrics_asked_for"] = prices.METRIC_ASKED_FOR * COMPARED_METRICS * HOURS_A_MONTH
        return dict(items)

    def idle_usd(self, road: str) -> dict[str, dict[str, float]]:
        """Return a month's cost of a deployment through which no request goes, without and with the free tier."""
        items = self.month_usd(self.empty) | {
            "secrets": prices.SECRET_MONTH * SECRETS,
            "alarms": prices.ALARM_MONTH * ALARMS[road],
            "custom_metrics": prices.METRIC_MONTH * len(self.empty.signals),
        }
        if road == "firehose":
            items["sqs_polling"] = prices.SQS_REQUEST * POLLS_A_MONTH
        free = {name: usd for name, usd in items.items() if name not in FREE_TIER}
        free["alarms"] = prices.ALARM_MONTH * max(0, ALARMS[road] - FREE_ALARMS)
        return {"without_free_tier": _summed(items), "with_free_tier": _summed(free)}


def limits_idle_usd(sweep: Run) -> dict[str, dict[str, float]]:
    """Return what limits add to a month's cost of a deployment that nobody uses, without and with the free tier."""
    items = {
        "lambda": sum(sweep.lambda_usd("watch_limits").values()) * SWEEPS_A_MONTH,
        "dynamodb": (sweep.writes * prices.DYNAMODB_WRITE + sweep.reads * prices.DYNAMODB_READ) * SWEEPS_A_MONTH,
        "own_logs": sweep.log_usd() * SWEEPS_A_MONTH,
        "scheduler": prices.SCHEDULER_INVOCATION * SWEEPS_A_MONTH,
        "sqs_polling": prices.SQS_REQUEST * POLLS_A_MONTH,
        "alarms": prices.ALARM_MONTH * LIMITS_ALARMS,
    }
    free = {name: usd for name, usd in items.items() if name not in FREE_TIER}
    return {"without_free_tier": _summed(items), "with_free_tier": _summed(free)}


def recording(run: Run, rate: int) -> dict[str, float]:
    """Return what a million requests cost to be counted, if each run of ``record_usage`` takes what this one did."""
    runs_an_hour = 3600 * rate / run.lines
    items = run.lambda_usd("record_usage") | {
        "dynamodb_writes": run.writes
        * units_per_write(run.counter_bytes, run.lines, runs_an_hour)
        * prices.DYNAMODB_WRITE,
        "dynamodb_reads": run.reads * prices.DYNAMODB_READ,
        "s3_requests": run.s3_gets * prices.S3_GET,
        "own_logs": run.log_usd(),
    }
    return {name: usd * 1e6 / run.lines for name, usd in items.items()}


def units_per_write(counter_bytes: float, lines: int, batches_an_hour: float) -> float:
    """Return what a write of a counter takes, over an hour in which each batch that has its key adds a token to it.

    The mean of the counter's size in KB, rounded up, over all writes of all keys.
    """
    in_a_batch = [1 - (1 - weight / sum(WEIGHTS)) ** lines for weight in WEIGHTS]
    units = [_units_of_key(counter_bytes, round(chance * batches_an_hour / SLOTS)) for chance in in_a_batch]
    return statistics.fmean(units, in_a_batch)


def _units_of_key(counter_bytes: float, tokens: int) -> float:
    return statistics.mean(math.ceil((counter_bytes + TOKEN_BYTES * n) / 1024) for n in range(1, max(1, tokens) + 1))


def row(road: str, rate: int, run: Run, closing: Closing, transport: float) -> dict[str, Any]:
    """Return the cost of a million requests on a road."""
    items = recording(run, rate)
    monthly = {
        "closing": sum(closing.month_usd(closing.full).values()) + prices.SECRET_CALL * HOURS_A_MONTH,
        "custom_metrics": prices.METRIC_MONTH
        * len(run.signals | closing.full.signals | closing.posting.signals | RATIOS),
    }
    if road == "firehose":
        items["sqs_requests"] = 3 * prices.SQS_REQUEST * 1e6 / run.lines  # sent, received, deleted
        monthly["sqs_polling"] = prices.SQS_REQUEST * POLLS_A_MONTH
    items |= {name: usd / (rate * MONTH_S) * 1e6 for name, usd in monthly.items()}
    return {
        "road": road,
        "requests_per_s": rate,
        "usd_per_million": round(sum(items.values()), 4),
        "transport_usd_per_million": round(transport, 4),
        "items": {name: round(usd, 4) for name, usd in items.items()},
        "lines_at_once": run.lines,
        "cpu_ms_at_once": round(1000 * run.cpu_s, 1),
        "writes_at_once": run.writes,
        "own_log_bytes_at_once": run.log_bytes,
    }


def transport_by_log(line: float, gzipped: float) -> float:
    """Return what CloudWatch Logs takes for a million lines of so many bytes."""
    kept = gzipped + prices.LOGS_EVENT
    return (line * prices.LOGS_GB + kept * prices.LOGS_GB_MONTH * LOG_MONTHS) / 2**30 * 1e6


def transport_by_firehose(line: float, gzipped: float, lines: int) -> float:
    """Return what Firehose and the archive take for a million lines, so many of which are an object."""
    billed = math.ceil(line / prices.FIREHOSE_LEAST_RECORD) * prices.FIREHOSE_LEAST_RECORD
    kept = gzipped * (prices.S3_GB_MONTH * STANDARD_MONTHS + prices.GLACIER_INSTANT_GB_MONTH * COLD_MONTHS)
    return (
        (billed * prices.FIREHOSE_GB + kept) / 2**30 + (prices.S3_PUT + prices.GLACIER_INSTANT_TRANSITION) / lines
    ) * 1e6


def _summed(items: Mapping[str, float]) -> dict[str, float]:
    return {name: round(usd, 4) for name, usd in items.items()} | {"total": round(sum(items.values()), 4)}


def _key(number: int) -> str:
    return f"k{number:09d}"


def measured(rates: Sequence[int], *, customers: int, repeats: int, sample_lines: int) -> dict[str, Any]:
    """Measure everything and return the figures."""
    with bench(repeats) as at:
        sample = "".join(f"{line}\n" for line in at.lines(sample_lines)).encode()
        line, gzipped = len(sample) / sample_lines, len(gzip.compress(sample)) / sample_lines
        sweep, closing = at.sweep(), Closing.measure(at, customers)
        rows = []
        for rate in rates:
            at_once = min(rate, LARGEST_DELIVERY)
            less = row("subscription", rate, at.delivery(max(1, at_once // 10)), closing, 0)
            by_log = row("subscription", rate, at.delivery(at_once), closing, transport_by_log(line, gzipped))
            rows.append(by_log | {"usd_per_million_with_a_tenth_at_once": less["usd_per_million"]})
        for rate in rates:
            at_once = round(min(BUFFER_SECONDS * rate, BUFFER_BYTES / line))
            run = at.object(at_once)
            rows.append(row("firehose", rate, run, closing, transport_by_firehose(line, gzipped, at_once)))
    return {
        "prices": "US East (N. Virginia), November 2026",
        "line_bytes": round(line),
        "line_bytes_gzipped": round(gzipped),
        "active_keys": KEYS,
        "customers": customers,
        "rows": rows,
        "idle_usd_per_month": {road: closing.idle_usd(road) for road in ALARMS},
        "limits_idle_usd_per_month": limits_idle_usd(sweep),
        "signals_while_idle": sorted(closing.empty.signals | sweep.signals),
        "close_periods": {
            name: {"cpu_ms": round(1000 * run.cpu_s), "write_units": run.writes, "read_units": run.reads}
            for name, run in (("idle", closing.idle), ("empty_hour", closing.empty), ("full_hour", closing.full))
        },
        "post_usage": {
            "cpu_ms": round(1000 * closing.posting.cpu_s),
            "write_units": closing.posting.writes,
            "read_units": closing.posting.reads,
        },
    }


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument(
        "--rates", type=int, nargs="+", default=[1, 100, 10_000], help="requests a second (default: 1 100 10000)"
    )
    options.add_argument(
        "--customers", type=int, default=KEYS, help=f"how many are closed and posted each hour (default: {KEYS})"
    )
    options.add_argument("--repeats", type=int, default=7, help="of how many batches the median is taken (default: 7)")
    options.add_argument("--sample", type=int, default=20_000, help="lines whose length is measured (default: 20000)")
    arguments = options.parse_args()
    result = measured(
        arguments.rates,
        customers=arguments.customers,
        repeats=arguments.repeats,
        sample_lines=arguments.sample,
    )
    report(result, as_json=arguments.json)
