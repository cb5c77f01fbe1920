"""Hours that are large in their own way: keys that are in every delivery, and many distinct values.

The rows that come of them are compared with what was written.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from metering.model.periods import Hour
from metering.stores.counters import SLOTS
from tests.benchmarks.filling import (
    EARLIER,
    VALUES_OF_A_KEY,
    Customers,
    check_rows,
    fill,
    fill_few_values,
    fill_hour,
    fill_many_values,
    fill_month,
    make_customers,
    month_of,
)
from tests.benchmarks.place import Place, awaited, dynamodb_local, fresh_processes, make_tables, say
from tests.benchmarks.recorded_calls import make_again, read_pages
from tests.benchmarks.runs import SAMPLED, called, close, later, record_close, taken

BUSY_BATCHES: Final = 3600
"""A delivery a second: with so many, none of the slots is empty."""

SAMPLED_KEYS: Final = 100
SAMPLED_VALUES: Final = 200_000


@dataclass(frozen=True)
class Hours:
    """An hour to be closed, of so many units of something, and how the tables are filled with them.

    ``make`` returns what must stand in the customers' rows at the end, by metric.
    """

    hour: Hour
    unit: str
    count: float
    customers: Customers
    make: Callable[[Place, ProcessPoolExecutor], Counter[str]]


def measure_busy_keys(count: int, template: Mapping[str, Any]) -> dict[str, Any]:
    """Measure closing an hour of keys that are in every delivery."""

    def hour_of(customers: Customers) -> Hours:
        hour = Hour.containing(datetime.now(UTC) - timedelta(hours=3))

        def make(place: Place, pool: ProcessPoolExecutor) -> Counter[str]:
            fill(pool, "customers", customers.count, partial(make_customers, place, customers))
            return fill(pool, "counters", customers.count, partial(fill_hour, place, hour, customers))

        return Hours(hour, "key", customers.count, customers, make)

    keys = Customers("c", 1, count, BUSY_BATCHES)
    found = measure_closing(template, hour_of(keys), hour_of(keys.few(SAMPLED_KEYS)), "hour#")
    return {"keys": count, "slots": SLOTS, **found}


def measure_uniques(customers: int, values: int, template: Mapping[str, Any]) -> dict[str, Any]:
    """Measure closing a month's last hour of customers with two keys and a metric of distinct values."""
    hour = Hour(Hour.containing(datetime.now(UTC)).month_begin.number - 1)

    def of_customers(customers: Customers) -> Hours:
        def make(place: Place, pool: ProcessPoolExecutor) -> Counter[str]:
            fill(pool, "customers", customers.count, partial(make_customers, place, customers))
            return fill(pool, "values", customers.count, partial(fill_few_values, place, hour, customers))

        return Hours(hour, "customer", customers.count, customers, make)

    def of_values(count: int) -> Hours:
        customers = Customers("b", 2, 1)

        def make(place: Place, pool: ProcessPoolExecutor) -> Counter[str]:
            make_customers(place, customers, 0, 1)
            requests = fill_month(place, hour, customers, count)
            return requests + fill(pool, "values", count, partial(fill_many_values, place, hour, customers))

        return Hours(hour, "1000_values", count / 1000, customers, make)

    many = Customers("d", 2, customers)
    of_many = measure_closing(template, of_customers(many), of_customers(many.few(SAMPLED)), "hour#")
    fewer = min(values, SAMPLED_VALUES)
    of_one = measure_closing(template, of_values(values), of_values(fewer), "hour#", "unique#")
    return {
        "customers": {"customers": customers, "values_of_a_key": VALUES_OF_A_KEY, "earlier_rows": EARLIER, **of_many},
        "one_customer": {"values": values, "earlier_rows": len(month_of(hour)) - 1, **of_one, "sampled": fewer},
    }


def measure_closing(template: Mapping[str, Any], whole: Hours, few: Hours, *paged: str) -> dict[str, Any]:
    """Measure closing an hour; the partitions whose keys begin as ``paged`` says are many pages, and so the floor's."""
    with dynamodb_local() as tables:
        place, first, second = [Place(tables.port, database=name) for name in ("measured", "recorded", "again")]
        say(f"the calls of {few.count:g} x {few.unit} are recorded, and made again")
        for other in (first, second):
            make_tables(other, template, few.hour)
            few.make(other, tables.fillers)
        recording = tables.beside("recording", record_close, first, few.hour)
        partitions, rest = recording.reading(*paged)
        again_s = tables.beside("making calls again", make_again, second, rest)
        say(f"{whole.count:g} x {whole.unit} are made")
        make_tables(place, template, whole.hour)
        written = whole.make(place, tables.fillers)
        say("they are there; closing")
        with fresh_processes(place) as (closer,):
            effort = awaited("closing", closer.submit(close, place, later(whole.hour)))
        check_rows(place, whole.hour, whole.customers, written)
        say("the floor: reading the same")
        pages_s = tables.beside("reading", read_pages, place, partitions)
    return {
        "sampled": few.count,
        **taken(whole.unit, effort.cpu_s, pages_s + again_s * whole.count / few.count, whole.count),
        **called(whole.unit, recording, few.count),
        "cpu_seconds": round(effort.cpu_s, 3),
        "rss_mb": round(effort.rss_mb),
        "rss_growth_mb": round(effort.rss_growth_mb, 1),
    }
