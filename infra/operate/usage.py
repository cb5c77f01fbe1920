"""What was used: counted so far, what the ledger holds of it, and its state."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from infra.operate.deployment import Deployment, OperatorError, check_reason
from metering.billing.unbilled import Invoices, unbilled
from metering.model.amounts import Amounts
from metering.model.periods import COUNTER_LIFE, LATEST_RECORD, Hour, hours
from metering.model.subjects import Kind, Subject, customer, key, key_of_source, subject_of_source
from metering.model.usage_row import State, Total, UsageRow
from metering.portal.reading import By
from metering.stores.agreements import Accepted, Shown
from metering.stores.attribution import Attribution, Share, Uniques
from metering.stores.aws import side_by_side
from metering.stores.changes import Changes
from metering.stores.counters import Counters
from metering.stores.holders import by_kind
from metering.stores.ledger import Ledger
from metering.stores.marks import partition
from metering.stores.rows import OTHER_KEYS, ByKey
from metering.stores.switch import Switch

OPEN: Final = "OPEN"
"""Counted, but not in the ledger yet: the hour is not closed, or not closed again since a late record."""

COUNTED: Final = "counted"
ADJUSTED: Final = "adjusted"
CARRIED: Final = "carried"

MOST_MARKS: Final = 1_000
"""Late marks of a partition; where there are as many, a customer's hours are counted, whatever its rows say."""

Progress = Callable[[Iterable[Hour], int], Iterable[Hour]]

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
class Reasons:
    """Says of rows why their totals stand as they do, and why nobody pays for them, as Stripe showed it last (I9)."""

    ledger: Ledger
    changes: Changes
    posting: Switch
    now: datetime
    _known: dict[str, tuple[Shown | None, Invoices, Accepted | None]] = field(default_factory=dict)

    def of(self, row: UsageRow) -> dict[str, str]:
        """Return the reasons of a row's totals that have one, by metric."""
        reasons = {metric: total.reason for metric, total in row.totals.items() if total.reason}
        if row.subject.kind is not Kind.CUSTOMER:
            return reasons
        if unposted := self._why_unposted(row.hour):
            reasons |= dict.fromkeys(row.in_state(State.PENDING), unposted)
        name = row.subject.id
        if name not in self._known:
            shown = self.ledger.agreements.of([name]).get(name)
            invoices = Invoices(self.changes, name)
            self._known[name] = shown, invoices, self.ledger.agreements.accepted(name)
        shown, invoices, accepted = self._known[name]
        if shown is not None:
            decided = f"; accepted: {accepted.reason}" if accepted and row.hour < Hour.parse(accepted.before) else ""
            reasons |= {one.metric: one.why + decided for one in unbilled([row], shown, invoices, self.now)}
        return reasons

    def _why_unposted(self, hour: Hour) -> str:
        if self.posting.since and hour < Hour.parse(self.posting.since):
            return f"before posting began with {self.posting.since}"
        return "" if self.posting.on else "posting is off"


@dataclass(slots=True)
class MonthOnce(Uniques):
    """Joins the claims of a customer's keys once for a month, however many of its hours are asked for, in one report.

    What comes meanwhile is in the next report: an hour that it is of is shown as it was a moment before.
    """

    _joined: dict[tuple[str, str, str], Counter[Hour] | None] = field(default_factory=dict)

    def by_hour(self, customer: str, metric: str, hour: Hour) -> Counter[Hour] | None:
        """Return how many values of the month of ``hour`` count in each hour; None if the key's counters say so."""
        place = (customer, metric, hour.month)
        if place not in self._joined:
            self._joined[place] = Uniques.by_hour(self, customer, metric, hour)
        return self._joined[place]


@dataclass(frozen=True, slots=True)
class Report:
    """Reads what one customer (``only``), or everyone, used; ``split`` by the metrics' dimensions."""

    counters: Counters
    uniques: Uniques
    ledger: Ledger
    only: str | None
    split: bool
    reasons: Reasons | None = None

    def lines(
        self,
        first: Hour,
        end: Hour,
        *,
        by: By,
        now: datetime,
        progress: Progress,
    ) -> list[Line]:
        """Return what was used from ``first`` up to ``end``, exclusive."""
        end = min(end, Hour.containing(now + LATEST_RECORD).next())  # nothing is counted of later hours
        found = (
            self._of_one(self.only, first, end, now, progress) if self.only else self._all(first, end, now, progress)
        )
        added: dict[tuple[str, str, str, str, str, str], tuple[int, str, set[str]]] = {}
        for line in found:
            period = by.period(Hour.parse(line.period))
            name = (period, line.customer, line.key, line.metric, line.value, line.kind)
            quantity, state, reasons = added.get(name, (0, line.state, set()))
            state = min(state, line.state, key=_LEAST_SETTLED_FIRST.index)
            added[name] = quantity + line.quantity, state, reasons | {line.reason} - {""}
        return sorted(
            Line(*name[:5], quantity, state, ", ".join(sorted(reasons)), name[5])
            for name, (quantity, state, reasons) in added.items()
        )

    def _all(self, first: Hour, end: Hour, now: datetime, progress: Progress) -> Iterator[Line]:
        """Yield what everybody used, hour by hour."""
        counters_begin = Hour.containing(now - COUNTER_LIFE)
        everyone: list[Subject] = []
        if first < counters_begin:
            everyone = [*map(customer, self.ledger.holders.customer_ids()), *map(key, self.ledger.holders.key_ids())]
        for hour in progress(hours(first, end), max(0, end.number - first.number)):
            if hour < counters_begin:  # a counter that is still there may be one of several
                yield from self._ledger_alone(hour, self.ledger.rows.at(hour, everyone), {})
            else:
                yield from self._hour(hour, None)

    def _of_one(self, name: str, first: Hour, end: Hour, now: datetime, progress: Progress) -> Iterator[Line]:
        """Yield what one customer used: of hours that are written from its rows, of the others from the counters.

        As the customer's page does it: how far hours are written and what has a late mark is read before the rows, and
        those before the counters. So an hour that is being closed is never shown as less than it was. How a metric
        splits by its dimension and key at once, the counters alone say.
        """
        sources = self.ledger.holders.sources_of(name)
        counters_begin = Hour.containing(now - COUNTER_LIFE)
        written = min(end, self.ledger.progress.written_before(now))
        marked = None if self.split else self._marked(sources)
        from_rows = first if marked is None else max(first, written)
        afresh = {*hours(max(from_rows, counters_begin), end)} | {one for one in marked or () if first <= one < end}
        mine = customer(name)
        by_key = {} if marked is None else dict(self.ledger.rows.by_key(mine, max(first, counters_begin), end))
        for row in self.ledger.rows.of(mine, first, end):
            if row.hour in afresh and row.hour >= counters_begin:
                continue
            keys = _keys_of(row, by_key.get(row.hour))
            if row.hour < counters_begin:
                yield from self._ledger_alone(row.hour, {mine: row}, {})
            elif keys is None:
                afresh.add(row.hour)
            else:
                yield from self._of_row(row, keys)
        yield from self._counted(sorted(one for one in afresh if one >= counters_begin), sources, progress)

    def _counted(self, afresh: list[Hour], sources: set[str], progress: Progress) -> Iterator[Line]:
        for hour in progress(afresh, len(afresh)):
            yield from self._hour(hour, sources)

    def _marked(self, sources: Iterable[str]) -> set[Hour] | None:
        """Return the hours that are to be closed again for these sources; None if very many marks wait (I10)."""
        subjects = {customer(self.only or ""), *map(subject_of_source, sources)}
        numbers = sorted({partition(str(subject)) for subject in subjects})
        found = side_by_side(lambda number: self.counters.marks.some(number, "", MOST_MARKS), numbers)
        if any(len(marks) == MOST_MARKS for marks in found):
            return None
        return {mark.hour for marks in found for mark in marks if mark.subject in subjects}

    def _of_row(self, row: UsageRow, keys: ByKey) -> Iterator[Line]:
        """Yield what a row holds, each key by itself where they add up to it, as :meth:`_hour` does of counters."""
        why = self._reasons(row)
        whose, hour = _customer(row.subject), str(row.hour)
        for metric, total in row.totals.items():
            stands = str(total.state), why.get(metric, "")
            parts = {name: numbers[metric] for name, numbers in keys.items() if metric in numbers}
            if sum(parts.values()) != total.counted:
                parts = {"": total.counted}
            told = [(name, number, COUNTED) for name, number in parts.items()]
            for name, number, kind in (*told, ("", total.adjusted, ADJUSTED), ("", total.carried, CARRIED)):
                if number:
                    yield Line(hour, whose, name, metric, "", number, *stands, kind)

    def _hour(self, hour: Hour, sources: set[str] | None) -> Iterator[Line]:
        only = customer(self.only) if self.only else None
        by_owner = Attribution(self.counters, self.uniques).of_hour(hour, sources, only=only)
        wanted = {only} if only else set(by_owner)
        rows = self.ledger.rows.at(hour, wanted)
        why = {owner: self._reasons(rows[owner]) for owner in wanted}
        shown: dict[tuple[Subject, str], int] = {}
        for owner in sorted(wanted):
            share = by_owner.get(owner) or Share.of({})
            for metric, quantity in sorted(share.together.quantities().items()):
                shown[owner, metric] = quantity
                state = _state(rows[owner].totals.get(metric), quantity)
                reason = why[owner].get(metric, "") if state != OPEN else ""
                by_key = {name: amounts.quantities().get(metric, 0) for name, amounts in share.by_source.items()}
                if sum(by_key.values()) != quantity:  # one peak of several keys, or values that they have in common
                    yield Line(str(hour), _customer(owner), "", metric, "", quantity, state, reason)
                    continue
                for name, number in by_key.items():
                    for value, part in self._parts(share.by_source[name], metric, number):
                        yield Line(str(hour), _customer(owner), key_of_source(name), metric, value, part, state, reason)
        yield from self._ledger_alone(hour, rows, shown)

    def _parts(self, amounts: Amounts, metric: str, number: int) -> list[tuple[str, int]]:
        """Return a quantity by the values of its dimension, if it is to be split and has one."""
        split = amounts.splits.get(metric) if self.split else None
        if split:
            return sorted(split.items())
        return [("", number)] if number else []

    def _ledger_alone(
        self, hour: Hour, rows: Mapping[Subject, UsageRow], shown: Mapping[tuple[Subject, str], int]
    ) -> Iterator[Line]:
        """Yield what the ledger holds of an hour beyond the counters that were read."""
        for subject, row in rows.items():
            whose = subject.id if subject.kind is Kind.KEY else ""
            why = self._reasons(row)
            for metric, total in row.totals.items():
                stands = str(total.state), why.get(metric, "")
                parts = [("", total.counted, COUNTED)]
                if (subject, metric) in shown:
                    parts = []
                elif self.split and total.split:
                    parts = [(value, part, COUNTED) for value, part in total.split.items()]
                parts += [("", total.adjusted, ADJUSTED), ("", total.carried, CARRIED)]
                for value, part, kind in parts:
                    if part:
                        yield Line(str(hour), _customer(subject), whose, metric, value, part, *stands, kind)

    def _reasons(self, row: UsageRow) -> Mapping[str, str]:
        return self.reasons.of(row) if self.reasons else {}


def _keys_of(row: UsageRow, by_key: ByKey | None) -> ByKey | None:
    """Return how a row's counts split by key; None if it does not say so of every key."""
    if row.only_key:
        return {row.only_key: {metric: total.counted for metric, total in row.totals.items()}}
    if not any(total.counted for total in row.totals.values()):
        return {}
    return None if by_key is None or OTHER_KEYS in by_key else by_key


def _state(total: Total | None, quantity: int) -> str:
    return total.state if total is not None and total.counted == quantity else OPEN


def _customer(subject: Subject) -> str:
    return "".join(by_kind([subject], Kind.CUSTOMER))


def accept(deployment: Deployment, name: str, before: Hour, *, reason: str, now: datetime) -> Accepted:
    """Say that nobody is to be asked about what a customer used before an hour and nobody pays."""
    check_reason(reason)
    if before > Hour.containing(now):
        raise OperatorError(f"what is accepted has to be over: write {Hour.containing(now)} or before, got {before}")
    accepted = Accepted(str(before), reason, deployment.who(), int(now.timestamp()))
    deployment.ledger.agreements.accept(name, accepted)
    return accepted
