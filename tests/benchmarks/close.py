"""Closing and posting an hour of many customers: its time, against Stripe's own limit, and what a customer takes.

**The hour.** Stripe takes 1,000 calls a second, so that an hour's totals take `customers x metrics / 1,000` seconds at
least: the time is given as a ratio to that. The ledger and the counters are in DynamoDB Local, the local Stripe answers
after 100 ms, and everything shares the machine's processors: `bound` says who used how much of them. One hour is of
customers with one key each, and posted by calls; then a second run with nothing changed, and one with 1 % late changes.
The next hour is of customers with two keys each, and posted by Stripe's event stream.

`closing` and `posting` say what a customer, or a total of one metric, takes: CPU, calls, and units of DynamoDB.
`needed` reckons from that CPU how many closers and workers an hour of 100,000 customers wants within 300 s, at the
share of a core that Lambda gives a function of its memory.

**Busy keys** are in every delivery of an hour, so that each has all of its 256 slots.

**Distinct values**: `customers` with two keys have a few each, half of them by both keys; a single one has many, from
all hours of a month, which is at its end.

**The floor** of the same run: what a bare paginator of botocore takes to read the same partitions, and a bare HTTP
client to make the same calls. Calls and units are those of a smaller run beside it, of `sampled` customers, keys or
values, whose calls are recorded; with its few customers, what a run does once weighs more than it would.

The closer and each worker of an hour run in processes of their own, which have imported everything and done nothing yet
when the hour begins. `rss_mb` is the most that any of them held, `rss_growth_mb` the most that came with the work:
beyond what is held for the imports and a client.
"""

import math
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from metering.model.amounts import Amounts
from metering.model.batches import TOKEN_BYTES
from metering.model.periods import Hour
from metering.model.subjects import subject_of_source
from metering.stores.counters import Counters
from metering.stores.marks import new_mark
from metering.stores.switch import shards_of_workers
from tests.benchmarks.common import parser, report
from tests.benchmarks.filling import Customers, fill, fill_hour, make_customers
from tests.benchmarks.large_hours import measure_busy_keys, measure_uniques
from tests.benchmarks.place import (
    LIMIT,
    METRICS,
    Place,
    Tables,
    awaited,
    cpu_of_group,
    dynamodb_local,
    fresh_processes,
    local_stripe,
    make_tables,
    say,
    synthesised,
)
from tests.benchmarks.recorded_calls import Recorded, make_again, read_pages
from tests.benchmarks.runs import SAMPLED, called, close, later, post, record_hours, taken

LATENCY_S: Final = 0.1
WORKERS: Final = 2
MOST_WITH_TWO: Final = 2_000
"""Customers with two keys: their rows are transactions, for which DynamoDB Local takes the longer the more it holds, 50
ms each at 100,000 customers."""

LATE: Final = 100
"""One customer in so many has a late record."""

NEEDED: Final = 100_000
"""So many customers are to be closed and posted in NEEDED_S."""

NEEDED_S: Final = 300
MEMORY_OF_A_CORE: Final = 1769
"""With so many megabytes a function has one core (Lambda Developer Guide, "Configure Lambda function memory")."""

SECTIONS: Final = ("hour", "busy_keys", "uniques")


@dataclass(frozen=True)
class Size:
    """How much is measured of what: customers of an hour, keys, customers with distinct values, values of one."""

    customers: int
    busy_keys: int
    unique_customers: int
    values: int


@dataclass
class Bench:
    """What runs for the hours, and what it has used so far."""

    place: Place
    ask: Callable[[], dict[str, Any]]
    java: int

    def run(self, hour: Hour, processes: Sequence[ProcessPoolExecutor], *, streamed: bool = False) -> dict[str, Any]:
        """Close in the first process what is due a while after an hour, and post it in the others."""
        now = later(hour)
        closer, *posters = processes
        before, java = self.ask(), cpu_of_group(self.java)
        began = time.monotonic()
        closing = awaited("closing", closer.submit(close, self.place, now))
        closed = time.monotonic()
        workers = [
            poster.submit(post, self.place, hour, shards, now, streamed=streamed)
            for poster, shards in zip(posters, shards_of_workers(WORKERS), strict=True)
        ]
        posted = [awaited("posting", worker) for worker in workers]
        ended = time.monotonic()
        efforts = {"close_periods": [closing], "post_usage": [effort for _, effort in posted]}
        after = self.ask()
        calls = {name: count - before["calls"].get(name, 0) for name, count in after["calls"].items()}
        return {
            "seconds": round(ended - began, 2),
            "close_seconds": round(closed - began, 2),
            "post_seconds": round(ended - closed, 2),
            "totals_posted": sum(totals for totals, _ in posted),
            "calls": {name: count for name, count in sorted(calls.items()) if count},
            "rss_mb": {who: round(max(effort.rss_mb for effort in made)) for who, made in efforts.items()},
            "rss_growth_mb": {
                who: round(max(effort.rss_growth_mb for effort in made), 1) for who, made in efforts.items()
            },
            "cpu_seconds": {
                **{who: round(sum(effort.cpu_s for effort in made), 3) for who, made in efforts.items()},
                "local_stripe": round(after["cpu_s"] - before["cpu_s"], 3),
                "dynamodb_local": round(cpu_of_group(self.java) - java, 3),
            },
        }

    def check(self, hour: Hour, written: Mapping[str, int]) -> None:
        """Raise RuntimeError unless Stripe holds, over all customers, what was written into the counters."""
        counted, at_stripe = sum(written.values()), self.ask()["sums"][int(hour.start.timestamp())]
        if counted != at_stripe:
            raise RuntimeError(f"{counted} were counted in {hour}, Stripe holds {at_stripe}")


@dataclass(frozen=True)
class TwoHours:
    """An hour of customers with one key, which is posted by calls, and the next, with two keys, by the event stream."""

    first: Hour
    one_key: Customers
    two_keys: Customers

    @property
    def stripe_customers(self) -> list[str]:
        """Whom Stripe knows."""
        return [*self.one_key.stripe_customers(), *self.two_keys.stripe_customers()]

    def few(self) -> "TwoHours":
        """Return the same with as many customers as are sampled."""
        return TwoHours(self.first, self.one_key.few(SAMPLED), self.two_keys.few(SAMPLED))

    def make(self, place: Place, template: Mapping[str, Any], pool: ProcessPoolExecutor) -> list[Counter[str]]:
        """Make the tables, and what is in them; return the sums of both hours."""
        make_tables(place, template, self.first)
        sums = []
        for hour, customers in ((self.first, self.one_key), (self.first.next(), self.two_keys)):
            fill(pool, "customers", customers.count, partial(make_customers, place, customers))
            sums.append(fill(pool, "counters", customers.count, partial(fill_hour, place, hour, customers)))
        return sums


@dataclass(frozen=True)
class Sample:
    """The calls of closing or of posting a few customers.

    ``pages`` are the partitions that were read page by page, ``again_s`` what making all other calls again took.
    """

    recorded: Recorded
    pages: Sequence[str]
    again_s: float


def sample_of(hours: TwoHours, template: Mapping[str, Any], tables: Tables) -> Sequence[Sample]:
    """Close and post two hours, record the calls, and make them again; return closing and posting of each in turn."""
    with local_stripe(hours.stripe_customers) as (url, _):
        place = Place(tables.port, url, "recorded")
        hours.make(place, template, tables.fillers)
        recordings = tables.beside("recording", record_hours, place, hours.first)
    samples = []
    with local_stripe(hours.stripe_customers) as (url, _):
        place = Place(tables.port, url, "again")
        hours.make(place, template, tables.fillers)
        for recording in recordings:
            pages, rest = recording.reading("hour#")
            samples.append(Sample(recording, pages, tables.beside("making calls again", make_again, place, rest)))
    return samples


def measure_hour(count: int, template: Mapping[str, Any]) -> dict[str, Any]:
    """Measure closing and posting an hour of customers."""
    hour = Hour.containing(datetime.now(UTC) - timedelta(hours=3))
    hours = TwoHours(hour, Customers("c", 1, count), Customers("d", 2, min(count, MOST_WITH_TWO)))
    with dynamodb_local() as tables:
        few = hours.few()
        say(f"the calls of {few.one_key.count} customers are recorded, and made again")
        samples = sample_of(few, template, tables)
        with local_stripe(hours.stripe_customers, latency_s=LATENCY_S, most_a_second=LIMIT) as (url, ask):
            place = Place(tables.port, url)
            bench = Bench(place, ask, tables.java)
            say(f"{count} customers with one key, and {hours.two_keys.count} with two, are made")
            counted, streamed = hours.make(place, template, tables.fillers)
            say("they are there; closing and posting")
            with fresh_processes(place, 1 + WORKERS) as processes:
                runs = {"first": bench.run(hour, processes)}
                bench.check(hour, counted)
                say("again, with nothing changed")
                runs["unchanged"] = bench.run(hour, processes)
                counted += come_late(place, hour, hours.one_key)
                say("again, with 1 % late records")
                runs["late"] = bench.run(hour, processes)
                bench.check(hour, counted)
            say("the next hour, of customers with two keys, over the event stream")
            with fresh_processes(place, 1 + WORKERS) as processes:
                runs["stream"] = bench.run(hour.next(), processes, streamed=True)
            bench.check(hour.next(), streamed)
            say("the floor: reading the same")
            pages = [tables.beside("reading", read_pages, place, one.pages) for one in samples]
    return told_of_hour(hours, samples, pages, runs, template)


def told_of_hour(
    hours: TwoHours,
    samples: Sequence[Sample],
    pages_s: Sequence[float],
    runs: Mapping[str, Any],
    template: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the figures of the hours; ``pages_s`` is what reading the pages of each sample takes of all customers."""
    first, stream = runs["first"], runs["stream"]
    limit, stream_limit = (some.count * len(METRICS) / LIMIT for some in (hours.one_key, hours.two_keys))
    closing, posting = {}, {}
    for n, (keys, way, run) in enumerate((("one_key", "by_call", first), ("two_keys", "by_stream", stream))):
        count, sampled = getattr(hours, keys).count, getattr(hours.few(), keys).count
        totals, cpu_s = count * len(METRICS), run["cpu_seconds"]
        close_floor, post_floor = (
            read_s + one.again_s * count / sampled
            for one, read_s in zip(samples[2 * n : 2 * n + 2], pages_s[2 * n : 2 * n + 2], strict=True)
        )
        closing[keys] = taken("customer", cpu_s["close_periods"], close_floor, count)
        closing[keys] |= called("customer", samples[2 * n].recorded, sampled)
        posting[way] = taken("total", cpu_s["post_usage"], post_floor, totals)
        posting[way] |= called("total", samples[2 * n + 1].recorded, sampled * len(METRICS))
    return {
        "customers": hours.one_key.count,
        "with_two_keys": hours.two_keys.count,
        "workers": WORKERS,
        "sampled": hours.few().one_key.count,
        "limit_seconds": limit,
        "ratio_to_limit": round(first["seconds"] / limit, 2),
        "stream_ratio_to_limit": round(stream["seconds"] / stream_limit, 2),
        "post_ratio_to_limit": round(first["post_seconds"] / limit, 2),
        "stream_post_ratio_to_limit": round(stream["post_seconds"] / stream_limit, 2),
        **{held: max(*first[held].values(), *stream[held].values()) for held in ("rss_mb", "rss_growth_mb")},
        "calls_per_row": round(first["calls"].get("POST /v1/billing/meter_events", 0) / hours.one_key.count, 3),
        "bound": bound(first),
        "closing": closing,
        "posting": posting,
        "needed": needed(template, closing, posting),
        **runs,
    }


def come_late(place: Place, hour: Hour, customers: Customers) -> Counter[str]:
    """Count a late record of some of the customers; return how many came."""
    counters = Counters(place.dynamodb(), "Counters")
    numbers = range(0, customers.count, LATE)
    for key in (customers.keys_of(number)[0] for number in numbers):
        counters.count(hour, key, Amounts({"requests": 1}), random.randbytes(TOKEN_BYTES))
        counters.marks.mark_late(hour, subject_of_source(key), new_mark())
    return Counter(requests=len(numbers))


def needed(
    template: Mapping[str, Any], closing: Mapping[str, Mapping[str, float]], posting: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Return how many closers and workers are needed at once, by the CPU that they take here and have at Lambda."""
    shares = {name: min(1, memory_mb(template, name) / MEMORY_OF_A_CORE) for name in ("close_periods", "post_usage")}
    closers_s, workers_s = (NEEDED_S * shares[name] for name in ("close_periods", "post_usage"))
    totals = NEEDED * len(METRICS)
    return {
        "customers": NEEDED,
        "metrics": len(METRICS),
        "seconds": NEEDED_S,
        "share_of_a_core": {name: round(share, 3) for name, share in shares.items()},
        "closers_needed": {
            keys: math.ceil(NEEDED * took["cpu_ms_per_customer"] / 1000 / closers_s) for keys, took in closing.items()
        },
        "workers_needed": {
            way: math.ceil(totals * took["cpu_ms_per_total"] / 1000 / workers_s) for way, took in posting.items()
        },
    }


def memory_mb(template: Mapping[str, Any], function: str) -> int:
    """Return a function's memory in megabytes, as the stack gives it by default."""
    (memory,) = [
        int(resource["Properties"]["MemorySize"])
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::Lambda::Function" and resource["Properties"]["Handler"] == f"{function}.handler"
    ]
    return memory


def bound(run: dict[str, Any]) -> str:
    """Say what the run was bound by."""
    used, there = sum(run["cpu_seconds"].values()), run["seconds"] * (os.cpu_count() or 1)
    return f"{used:.0f} s of {there:.0f} s of CPU were used, by: " + ", ".join(
        f"{name} {seconds:.0f} s" for name, seconds in run["cpu_seconds"].items()
    )


def measure(size: Size, sections: Sequence[str] = SECTIONS) -> dict[str, Any]:
    """Measure sections; the hour's figures stand by themselves, those of the others under their name."""
    template = synthesised()
    found: dict[str, Any] = {}
    if "hour" in sections:
        found |= measure_hour(size.customers, template)
    if "busy_keys" in sections:
        found["busy_keys"] = measure_busy_keys(size.busy_keys, template)
    if "uniques" in sections:
        found["uniques"] = measure_uniques(size.unique_customers, size.values, template)
    return found


def main() -> None:
    """Print what was measured."""
    arguments = parser(__doc__)
    for option, what, usual in (
        ("--customers", "customers of the hour", 100_000),
        ("--busy-keys", "keys that are in every delivery; 10000 are 2.5 million items", 100),
        ("--unique-customers", "customers with two keys and a few distinct values", 500),
        ("--values", "distinct values of one customer", 20_000),
    ):
        arguments.add_argument(option, type=int, default=usual, metavar="N", help=f"{what} (default: {usual})")
    arguments.add_argument("--only", choices=SECTIONS, help="one section alone")
    wanted = arguments.parse_args()
    size = Size(wanted.customers, wanted.busy_keys, wanted.unique_customers, wanted.values)
    report(measure(size, [wanted.only] if wanted.only else SECTIONS), as_json=wanted.json)


if __name__ == "__main__":
    main()
