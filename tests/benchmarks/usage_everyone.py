"""What it takes to show an operator what everybody used: `metering usage` of a day, on DynamoDB Local.

Each customer has one key and used three metrics in each hour; all hours but the last one are closed. ``cpu_seconds`` is
the processor time of the report, from the first read to the last line; ``first_line_seconds`` is when its first line is
there. The floor is the same calls by a bare HTTP client that looks at no answer. ``by_counters`` is the same of a
report by dimension, which the counters alone know.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

from infra.operate.usage import MonthOnce, Reasons, Report
from infra.operate.usage_lines import Line
from metering.model.periods import Hour, hours
from metering.portal.reading import By
from metering.stores.changes import Changes
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stores.switch import Switch
from tests.benchmarks.common import parser, report
from tests.benchmarks.filling import Customers, fill, fill_hour, make_customers, row
from tests.benchmarks.place import METRICS, Place, dynamodb_local, make_tables, say, synthesised
from tests.benchmarks.recorded_calls import make_again, recorded

OPEN: Final = Hour.parse("2026-11-22T05")
NOW: Final = OPEN.start + timedelta(minutes=30)


def measure(template: Mapping[str, Any], customers: Customers, hours_back: int) -> dict[str, Any]:
    """Fill the tables, read them, and return what came out."""
    first = Hour(OPEN.number - hours_back)
    with dynamodb_local() as tables:
        place = Place(tables.port)
        make_tables(place, template, OPEN)
        say(f"{hours_back + 1} hours of {customers.count:,} customers are made")
        fill(tables.fillers, "customers", customers.count, Made(make_customers, place, customers))
        place.write("Ledger", _directory(customers))
        for hour in hours(first, OPEN.next()):
            fill(tables.fillers, str(hour), customers.count, Made(fill_hour, place, hour, customers))
        place.write("Ledger", _rows(customers, first))
        say("they are read")
        return {
            "customers": customers.count,
            "hours": hours_back + 1,
            "by_rows": _measured(place, first, split=False),
            "by_counters": _measured(place, first, split=True),
        }


class Made:
    """What writes a piece of something, in a process of its own."""

    def __init__(self, do: Callable[..., Any], *what: Any) -> None:
        self._do, self._what = do, what

    def __call__(self, first: int, last: int) -> Any:
        """Write from one number up to another."""
        return self._do(*self._what, first, last)


def _directory(customers: Customers) -> Iterator[dict[str, Any]]:
    for number in range(customers.count):
        yield {"pk": {"S": "list#customers"}, "sk": {"S": customers.name(number)}}
        for key in customers.keys_of(number):
            yield {"pk": {"S": "list#keys"}, "sk": {"S": key}}


def _rows(customers: Customers, first: Hour) -> Iterator[dict[str, Any]]:
    for number in range(customers.count):
        for hour in hours(first, OPEN):
            of_hour = row(customers.name(number), hour, **dict.fromkeys(METRICS, 3_000))
            yield {**of_hour, "only_key": {"S": customers.keys_of(number)[0]}}


def _measured(place: Place, first: Hour, *, split: bool) -> dict[str, Any]:
    made = recorded(lambda: _read(place, first, split=split))
    floor_s = make_again(place, made.calls)
    began, cpu = time.monotonic(), time.process_time()
    lines = _lines(place, first, split=split)
    next(lines)
    first_line_s = time.monotonic() - began
    count = 1 + sum(1 for _ in lines)
    cpu_s, seconds = time.process_time() - cpu, time.monotonic() - began
    return {
        "ratio_to_floor": round(cpu_s / floor_s, 2),
        "cpu_seconds": round(cpu_s, 2),
        "floor_cpu_seconds": round(floor_s, 2),
        "seconds": round(seconds, 2),
        "first_line_seconds": round(first_line_s, 2),
        "lines": count,
        "calls": len(made.calls),
        "read_units": round(made.reads),
    }


def _read(place: Place, first: Hour, *, split: bool) -> None:
    for _ in _lines(place, first, split=split):
        pass


def _lines(place: Place, first: Hour, *, split: bool) -> Iterator[Line]:
    client = place.dynamodb()
    counters, ledger = Counters(client, "Counters"), Ledger(client, "Ledger")
    reasons = Reasons(ledger, Changes(client, "Ledger", counters), Switch(on=True, since=str(first)), NOW)
    uniques = MonthOnce(Claims(client, "Counters"), ledger.holders)
    made = Report(counters, uniques, ledger, None, split, reasons)
    span = made.span(first, OPEN.next(), NOW)
    scope = made.everyone.scope(span)
    for part in made.everyone.parts(scope, span, By.HOUR.period, lambda things, _: things):
        yield from part


def main() -> None:
    """Run it."""
    arguments = parser(__doc__)
    arguments.add_argument("--customers", type=int, default=1_000, help="how many there are (default: %(default)s)")
    arguments.add_argument("--hours", type=int, default=24, help="how many are closed (default: %(default)s)")
    options = arguments.parse_args()
    customers = Customers("c", 1, options.customers)
    report(measure(synthesised(), customers, options.hours), as_json=options.json)


if __name__ == "__main__":
    main()
