"""What was used: counted so far, what the ledger holds of it, and its state."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from infra.operate.deployment import Deployment, OperatorError, check_reason
from infra.operate.usage_lines import Line, Lines, added_up
from infra.operate.usage_of_all import MOST_MARKS, Everyone, Progress, RowsReader, Span
from metering.billing.unbilled import Invoices, unbilled
from metering.model.periods import LATEST_RECORD, Hour
from metering.model.subjects import Kind, customer, subject_of_source
from metering.model.usage_row import State, UsageRow
from metering.portal.reading import By
from metering.stores.agreements import Accepted, Shown
from metering.stores.attribution import Attribution, Share, Uniques
from metering.stores.aws import side_by_side
from metering.stores.changes import Changes
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stores.marks import partition
from metering.stores.switch import Switch


@dataclass(frozen=True, slots=True)
class Reasons:
    """Says of rows why their totals stand as they do, and why nobody pays for them, as Stripe showed it last (I9)."""

    ledger: Ledger
    changes: Changes
    posting: Switch
    now: datetime
    _known: dict[str, tuple[Shown | None, Invoices]] = field(default_factory=dict)
    _accepted: dict[str, Accepted | None] = field(default_factory=dict)

    def of(self, row: UsageRow) -> dict[str, str]:
        """Return the reasons of a row's totals that have one, by metric."""
        reasons = {metric: total.reason for metric, total in row.totals.items() if total.reason}
        if row.subject.kind is not Kind.CUSTOMER:
            return reasons
        if unposted := self._why_unposted(row.hour):
            reasons |= dict.fromkeys(row.in_state(State.PENDING), unposted)
        name = row.subject.id
        self.learn([name])
        shown, invoices = self._known[name]
        unpaid = [*unbilled([row], shown, invoices, self.now)] if shown else []
        if unpaid and name not in self._accepted:
            self._accepted[name] = self.ledger.agreements.accepted(name)
        accepted = self._accepted.get(name) if unpaid else None
        decided = f"; accepted: {accepted.reason}" if accepted and row.hour < Hour.parse(accepted.before) else ""
        return reasons | {one.metric: one.why + decided for one in unpaid}

    def learn(self, names: Iterable[str]) -> None:
        """Look at what these customers' subscriptions bill, a hundred in a read, but for those that are known."""
        unknown = [name for name in names if name not in self._known]
        shown = self.ledger.agreements.of(unknown) if unknown else {}
        self._known.update({name: (shown.get(name), Invoices(self.changes, name)) for name in unknown})

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

    @property
    def everyone(self) -> Everyone:
        """What reads everyone's."""
        learn = self.reasons.learn if self.reasons else lambda _: None
        return Everyone(self.counters, self.uniques, self.ledger, self._lines, learn)

    @property
    def _lines(self) -> Lines:
        return Lines(self.split, self.reasons.of if self.reasons else lambda _: {})

    def lines(self, first: Hour, end: Hour, *, by: By, now: datetime, progress: Progress) -> list[Line]:
        """Return what was used from ``first`` up to ``end``, exclusive, sorted."""
        span = self.span(first, end, now)
        if self.only:
            return added_up(self._of_one(self.only, span, progress), by.period)
        parts = self.everyone.parts(self.everyone.scope(span), span, by.period, progress)
        return sorted(line for part in parts for line in part)

    def span(self, first: Hour, end: Hour, now: datetime) -> Span:
        """Return what is read of some hours: nothing is counted of later ones. How far hours are written is read."""
        end = min(end, Hour.containing(now + LATEST_RECORD).next())
        return Span.of(first, end, now, self.ledger.progress.written_before(now))

    def _of_one(self, name: str, span: Span, progress: Progress) -> Iterator[Line]:
        """Yield what one customer used: of hours that are written from its rows, of the others from the counters.

        As the customer's page does it: how far hours are written and what has a late mark is read before the rows, and
        those before the counters. So an hour that is being closed is never shown as less than it was. How a metric
        splits by its dimension and key at once, the counters alone say.
        """
        mine = customer(name)
        sources = self.ledger.holders.sources_of(name)
        marked = None if self.split else self._marked(sources)
        if marked is None:
            span = replace(span, written=span.first)
        late = {one for one in marked or () if max(span.first, span.counters_begin) <= one < span.end}

        def counted(afresh: list[Hour]) -> Iterator[tuple[Hour, Share]]:
            attribution = Attribution(self.counters, self.uniques)
            for hour in progress(afresh, len(afresh)):
                yield hour, attribution.of_hour(hour, sources, only=mine).get(mine) or Share.of({})

        yield from RowsReader(self.ledger, self._lines).of(mine, span, {*span.not_written(), *late}, counted)

    def _marked(self, sources: Iterable[str]) -> set[Hour] | None:
        """Return the hours that are to be closed again for these sources; None if very many marks wait (I10)."""
        subjects = {customer(self.only or ""), *map(subject_of_source, sources)}
        numbers = sorted({partition(str(subject)) for subject in subjects})
        found = side_by_side(lambda number: self.counters.marks.some(number, "", MOST_MARKS), numbers)
        if any(len(marks) == MOST_MARKS for marks in found):
            return None
        return {mark.hour for marks in found for mark in marks if mark.subject in subjects}


def accept(deployment: Deployment, name: str, before: Hour, *, reason: str, now: datetime) -> Accepted:
    """Say that nobody is to be asked about what a customer used before an hour and nobody pays."""
    check_reason(reason)
    if before > Hour.containing(now):
        raise OperatorError(f"what is accepted has to be over: write {Hour.containing(now)} or before, got {before}")
    accepted = Accepted(str(before), reason, deployment.who(), int(now.timestamp()))
    deployment.ledger.agreements.accept(name, accepted)
    return accepted
