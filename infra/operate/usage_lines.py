"""The lines of a report of what was used, made from rows of the ledger and from what was counted. Pure."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from metering.model.amounts import Amounts
from metering.model.periods import Hour
from metering.model.subjects import Kind, Subject, key_of_source
from metering.model.usage_row import Total, UsageRow
from metering.stores.attribution import Share
from metering.stores.rows import OTHER_KEYS, ByKey

OPEN: Final = "OPEN"
"""Counted, but not in the ledger yet: the hour is not closed, or not closed again since a late record."""

COUNTED: Final = "counted"
ADJUSTED: Final = "adjusted"
CARRIED: Final = "carried"

_LEAST_SETTLED_FIRST: Final = ("REJECTED", "HELD", "PENDING", OPEN, "POSTED")


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """One line of the report. ``customer`` is empty for a key that has none.

    ``key`` is empty for what belongs to a customer as a whole: adjustments, usage that was reported without a key,
    hours whose counters have expired, and where several keys have one peak, or distinct values in common. ``value`` is
    that of the metric's dimension, where the report is split.
    """

    period: str
    customer: str
    key: str
    metric: str
    value: str
    quantity: int
    state: str
    reason: str = ""
    """Why it stands so, or why nobody pays for it although it is posted; several where they are added up."""
    kind: str = COUNTED
    """Whether it was counted, or stands beside that: what people adjusted, or what was carried from or to elsewhere."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Makes lines: ``split`` by the metrics' dimensions, each with ``why`` its row's metrics stand as they do."""

    split: bool
    why: Callable[[UsageRow], Mapping[str, str]]

    def of_row(self, row: UsageRow, keys: ByKey) -> Iterator[Line]:
        """Yield what a row holds, each key by itself where they add up to it, as :meth:`of_share` does of counters."""
        why = self.why(row)
        whose, hour = customer_of(row.subject), written(row.hour)
        own = row.subject.id if row.subject.kind is Kind.KEY else ""
        for metric, total in row.totals.items():
            stands = str(total.state), why.get(metric, "")
            parts = {name: numbers[metric] for name, numbers in keys.items() if metric in numbers}
            if sum(parts.values()) != total.counted:
                parts = {own: total.counted}
            told = [(name, number, COUNTED) for name, number in parts.items()]
            for name, number, kind in (*told, (own, total.adjusted, ADJUSTED), (own, total.carried, CARRIED)):
                if number:
                    yield Line(hour, whose, name, metric, "", number, *stands, kind)

    def of_share(self, row: UsageRow, share: Share, *, again: bool = False) -> Iterator[Line]:
        """Yield what was counted of a row's hour just now, and what the row holds beyond that.

        Of an hour that is to be closed ``again`` that is no count: what its counters have no more is somebody else's.
        """
        whose, hour, why = customer_of(row.subject), written(row.hour), self.why(row)
        shown = share.together.quantities()
        for metric, quantity in sorted(shown.items()):
            state = _state(row.totals.get(metric), quantity)
            reason = why.get(metric, "") if state != OPEN else ""
            by_key = {name: amounts.quantities().get(metric, 0) for name, amounts in share.by_source.items()}
            if sum(by_key.values()) != quantity:  # one peak of several keys, or values that they have in common
                yield Line(hour, whose, "", metric, "", quantity, state, reason)
                continue
            for name, number in by_key.items():
                for value, part in self._parts(share.by_source[name], metric, number):
                    yield Line(hour, whose, key_of_source(name), metric, value, part, state, reason)
        yield from self.of_ledger(row, {**row.totals, **shown} if again else shown)

    def _parts(self, amounts: Amounts, metric: str, number: int) -> list[tuple[str, int]]:
        """Return a quantity by the values of its dimension, if it is to be split and has one."""
        split = amounts.splits.get(metric) if self.split else None
        if split:
            return sorted(split.items())
        return [("", number)] if number else []

    def of_ledger(self, row: UsageRow, shown: Collection[str] = ()) -> Iterator[Line]:
        """Yield what the ledger alone has of an hour; of metrics that were ``shown``, what stands beside the count."""
        whose, hour, why = customer_of(row.subject), written(row.hour), self.why(row)
        own = row.subject.id if row.subject.kind is Kind.KEY else ""
        for metric, total in row.totals.items():
            stands = str(total.state), why.get(metric, "")
            parts = [("", total.counted, COUNTED)]
            if metric in shown:
                parts = []
            elif self.split and total.split:
                parts = [(value, part, COUNTED) for value, part in total.split.items()]
            for value, part, kind in (*parts, ("", total.adjusted, ADJUSTED), ("", total.carried, CARRIED)):
                if part:
                    yield Line(hour, whose, own, metric, value, part, *stands, kind)


class Sums:
    """Adds lines up that differ in nothing but what they say of it; the least settled state stands for the whole."""

    def __init__(self) -> None:
        self._added: dict[tuple[str, str, str, str, str, str], tuple[int, str, set[str]]] = {}

    def add(self, line: Line, period: str) -> None:
        """Add a line to those of a period."""
        name = (period, line.customer, line.key, line.metric, line.value, line.kind)
        reasons = {line.reason} if line.reason else set()
        before = self._added.get(name)
        if before is None:
            self._added[name] = line.quantity, line.state, reasons
        else:
            state = min(before[1], line.state, key=_LEAST_SETTLED_FIRST.index)
            self._added[name] = before[0] + line.quantity, state, before[2] | reasons

    def lines(self) -> list[Line]:
        """Return the sums, sorted."""
        return sorted(
            Line(*name[:5], quantity, state, ", ".join(sorted(reasons)), name[5])
            for name, (quantity, state, reasons) in self._added.items()
        )


def added_up(lines: Iterable[Line], period: Callable[[Hour], str]) -> list[Line]:
    """Return lines of hours added up by longer periods."""
    periods: dict[str, str] = {}
    sums = Sums()
    for line in lines:
        if line.period not in periods:
            periods[line.period] = period(Hour.parse(line.period))
        sums.add(line, periods[line.period])
    return sums.lines()


def keys_of(row: UsageRow, by_key: Callable[[Hour], ByKey | None]) -> ByKey | None:
    """Return how a row's counts split by key; nothing of what came without one; None if too many keys are one there."""
    if row.subject.kind is Kind.KEY or row.only_key:
        return {row.only_key or row.subject.id: {metric: total.counted for metric, total in row.totals.items()}}
    if not any(total.counted for total in row.totals.values()):
        return {}
    found = by_key(row.hour) or {}
    return None if OTHER_KEYS in found else found


def _state(total: Total | None, quantity: int) -> str:
    return total.state if total is not None and total.counted == quantity else OPEN


def customer_of(subject: Subject) -> str:
    """Return a customer's id, and an empty string for a key without one."""
    return subject.id if subject.kind is Kind.CUSTOMER else ""


@lru_cache(maxsize=2048)
def written(hour: Hour) -> str:
    """Return an hour as it is written; a report names each as often as there are customers."""
    return str(hour)
