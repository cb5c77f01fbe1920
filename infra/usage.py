"""What was used: counted so far, what the ledger holds of it, and its state."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from metering.counters import Counters
from metering.ledger import Ledger, by_kind, mapped_to
from metering.periods import COUNTER_LIFE, LATEST_RECORD, Hour, hours
from metering.subjects import Kind, Subject, customer, key
from metering.usage_row import UsageRow

OPEN: Final = "OPEN"
"""Counted, but not in the ledger yet: the hour is not closed, or not closed again since a late record."""

_LEAST_SETTLED_FIRST: Final = ("REJECTED", "HELD", "PENDING", OPEN, "POSTED")


class By(Enum):
    """The period that usage is added up by; the value is how much of a written hour names it."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"

    def period(self, hour: Hour) -> str:
        """Return the period in which an hour lies, as it is written."""
        return str(hour)[: {By.HOUR: 13, By.DAY: 10, By.MONTH: 7}[self]]


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """One line of the report. ``customer`` is empty for a key that has none.

    ``key`` is empty for what stands in the ledger alone: adjustments, and hours whose counters have expired.
    """

    period: str
    customer: str
    key: str
    metric: str
    quantity: int
    state: str


def report(  # noqa: PLR0913 - what to read, what of it, and how to show it
    counters: Counters,
    ledger: Ledger,
    *,
    only: str | None,
    first: Hour,
    end: Hour,
    by: By,
    now: datetime,
    progress: Callable[[Iterable[Hour], int], Iterable[Hour]],
) -> list[Line]:
    """Return what one customer, or everyone, used from ``first`` up to ``end``, exclusive."""
    keys = ledger.keys_of(only) if only else None
    counters_begin = Hour.containing(now - COUNTER_LIFE)
    everyone = [customer(only)] if only else []
    if first < counters_begin and not only:
        everyone = [*map(customer, ledger.customer_ids()), *map(key, ledger.key_ids())]
    end = min(end, Hour.containing(now + LATEST_RECORD).next())  # nothing is counted of later hours
    added: dict[tuple[str, str, str, str], tuple[int, str]] = {}
    for hour in progress(hours(first, end), max(0, end.number - first.number)):
        if hour < counters_begin:  # a counter that is still there may be one of several
            lines = _ledger_alone(hour, ledger.rows(hour, everyone), {})
        else:
            lines = _hour(counters, ledger, hour, keys=keys, only=customer(only) if only else None)
        for line in lines:
            name = (by.period(hour), line.customer, line.key, line.metric)
            quantity, state = added.get(name, (0, line.state))
            added[name] = (quantity + line.quantity, min(state, line.state, key=_LEAST_SETTLED_FIRST.index))
    return sorted(Line(*name, *value) for name, value in added.items())


def _hour(
    counters: Counters, ledger: Ledger, hour: Hour, *, keys: set[str] | None, only: Subject | None
) -> Iterator[Line]:
    counted = counters.read(hour, keys)
    holdings = ledger.holdings(counted)
    owners = {name: mapped_to(holdings[name], hour) or key(name) for name in counted}
    wanted = {only} if only else set(owners.values())
    rows = ledger.rows(hour, wanted)
    cells = [
        (owners[name], name, metric, quantity)
        for name, sums in counted.items()
        if owners[name] in wanted
        for metric, quantity in sums.items()
    ]
    shown: dict[tuple[Subject, str], int] = {}
    for owner, _, metric, quantity in cells:
        shown[owner, metric] = shown.get((owner, metric), 0) + quantity
    for owner, name, metric, quantity in cells:
        total = rows[owner].totals.get(metric)
        in_ledger = total is not None and total.counted == shown[owner, metric]
        yield Line(str(hour), _customer(owner), name, metric, quantity, total.state if total and in_ledger else OPEN)
    yield from _ledger_alone(hour, rows, shown)


def _ledger_alone(
    hour: Hour, rows: Mapping[Subject, UsageRow], shown: Mapping[tuple[Subject, str], int]
) -> Iterator[Line]:
    """Yield what the ledger holds of an hour beyond the counters that were read."""
    for subject, row in rows.items():
        for metric, total in row.totals.items():
            beyond = total.adjusted + total.carried
            if (subject, metric) not in shown:
                beyond += total.counted
            if beyond:
                whose = subject.id if subject.kind is Kind.KEY else ""
                yield Line(str(hour), _customer(subject), whose, metric, beyond, total.state)


def _customer(subject: Subject) -> str:
    return "".join(by_kind([subject], Kind.CUSTOMER))
