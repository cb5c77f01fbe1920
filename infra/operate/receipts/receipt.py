"""Receipt: what one request was counted as, for whom, and how that stands; or why nobody is billed for it.

Its line is read as ``record_usage`` reads it, by the metrics that were in force in its hour; nothing is written. That a
line was delivered is not known from it: whether all lines of an hour were counted, ``metering recount`` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from infra.operate import redrive
from infra.operate.deployment import Deployment, OperatorError
from infra.operate.receipts.search import Line, Search, Searched
from infra.operate.recount.in_force import InForce
from infra.operate.recount.log_groups import archive_of
from infra.operate.recount.whole import Places
from infra.operate.usage import Reasons
from infra.operate.usage_lines import OPEN
from metering.layout import SET_ASIDE
from metering.model.access_log import Partly, Reader, Rejected
from metering.model.line_forms import forms_of
from metering.model.log_format import MISSING, AccessRecord
from metering.model.measuring import Usage, measure
from metering.model.metrics import Max, Metric, declared
from metering.model.our_lines import LineForm, Ours
from metering.model.periods import GRACE, LATEST_RECORD, Hour, epoch_ms
from metering.model.subjects import Kind, source_of_key
from metering.model.usage_row import State
from metering.stores.attribution import owner_of
from metering.stores.declarations import Declarations

MOST_SET_ASIDE: Final = 100
"""Batches of what was set aside, of those written since the line was, that are looked through for it."""

_STUCK: Final = (str(State.HELD), str(State.REJECTED))
"""States in which nobody is billed for a total, until somebody mends the cause."""

_MOST_PAGES: Final = 10
"""Pages of 1,000 objects that are listed for that."""

_REDELIVERED: Final = timedelta(hours=26)
"""CloudWatch Logs delivers for 24 hours (User Guide, "Real-time processing of log data with subscriptions")."""

_COUNTED: Final = "counted"
"""What a line is that was set aside, and redriven since."""

NOT_LOGGED: Final = (
    "API Gateway may write no line for 413, for very many 429, for 4xx on a custom domain without a mapping, and for "
    "its own errors; test calls of its console are never logged"
)
"""API Gateway Developer Guide, "Set up CloudWatch logging for REST APIs": what may not be logged."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a request adds to one metric: ``how`` is "added", "highest of the hour" or "distinct in the month".

    ``state`` is that of the customer's hour, as ``metering usage`` has it; ``corrections`` are changes of its total.
    """

    metric: str
    quantity: int
    how: str
    state: str = ""
    reason: str = ""
    corrections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Waits:
    """A line that was set aside: in which batch, how that stands, why, and for which metrics alone, if for some."""

    batch: str
    line: str
    state: str
    reason: str
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is known of a request; without a ``place`` no line of it was found."""

    request: str
    searched: Sequence[Searched]
    place: str = ""
    at: datetime | None = None
    connection: str = ""
    said: str = ""
    hour: str = ""
    hour_state: str = ""
    key: str = ""
    customer: str = ""
    metrics: tuple[Counted, ...] = ()
    why: str = ""
    """Why nobody is billed for it, or not by every metric."""

    set_aside: Waits | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_billed(self) -> bool:
        """Whether it adds anything to what a customer is billed, or will be when its hour is closed and posted."""
        return bool(self.customer and any(one.quantity and one.state not in _STUCK for one in self.metrics))


@dataclass(frozen=True, slots=True)
class _Read:
    """A line as it is read: its record, the metrics in force in its hour, and why some of them, or all, cannot."""

    record: AccessRecord | None
    metrics: tuple[Metric, ...] = ()
    bad: Rejected | None = None


def receipt(deployment: Deployment, search: Search, now: datetime) -> Receipt:
    """Find a request's line and say what became of it; a line that holds its id and cannot be read comes last.

    Raises OperatorError for a request of a moment that has not come yet.
    """
    if search.at > now + LATEST_RECORD:
        raise OperatorError(f"{search.at:%Y-%m-%dT%H:%M:%S%z} has not come yet: give the moment of the request")
    notes = Declarations(deployment.client("dynamodb"), deployment.outputs.ledger_table).all()
    reading = _Reading(
        InForce(notes, deployment.declared_metrics), tuple(deployment.outputs.nonces.split()), deployment, now
    )
    unreadable: tuple[Line, _Read] | None = None
    for line in search.lines():
        read = reading.read(line, line.at)
        if read is not None and read.record is None:
            unreadable = unreadable or (line, read)
        elif read is not None and read.record is not None and read.record.request_id == search.request:
            return _of(reading, search, line, read)
    if unreadable:
        return _of(reading, search, *unreadable)
    hour = Hour.containing(search.at)
    archive = archive_of(deployment, deployment.connections.ever(), reads_usage_lines=False)
    places = Places(archive, deployment.client("firehose"), deployment.outputs.delivery_stream, now)
    gone = [kept.said for kept in places.of_access_log(hour, hour.next()) if hour < kept.first]
    return Receipt(search.request, search.searched, why="no line of it was found", notes=(*gone, NOT_LOGGED))


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reads lines as ``record_usage`` does."""

    in_force: InForce
    nonces: tuple[str, ...]
    deployment: Deployment
    now: datetime

    def read(self, line: Line, at: datetime) -> _Read | None:
        """Read a line as one that came at a moment, by what was in force in its hour; None for another stage's."""
        first = self._by(line, self.in_force.ever, at)
        if first is None or first.record is None:
            return first
        return self._by(line, self.in_force.at(Hour.of_epoch_ms(epoch_ms(first.record.time))).metrics, at)

    def _by(self, line: Line, metrics: tuple[Metric, ...], at: datetime) -> _Read | None:
        ours: tuple[LineForm, ...] = (Ours(self.nonces),)
        forms = forms_of(line.connections, self.nonces, metrics) if line.connections else ours
        found = Reader(at, metrics, forms, self.deployment.connections.bears).read(line.text)
        match found:
            case None:
                return None
            case Rejected():
                return _Read(None, metrics, found)
            case Partly():
                return _Read(found.good, metrics, found.bad)
            case _:
                return _Read(found, metrics)


def _of(reading: _Reading, search: Search, line: Line, read: _Read) -> Receipt:
    """Say what became of a line that was found."""
    deployment, now = reading.deployment, reading.now
    waits, note = _set_aside(deployment, line)
    if waits and waits.state == _COUNTED:  # it could be read by then
        read = reading.read(line, now) or read
    names = {one.name: one for one in line.connections}
    notes = (note,) if note else ()
    found = Receipt(search.request, search.searched, line.origin, line.at, set_aside=waits, notes=notes)
    if read.record is None:
        reason = read.bad.reason if read.bad else ""
        return replace(found, why=_aside(waits, reason, ()))
    record, hour = read.record, Hour.of_epoch_ms(epoch_ms(read.record.time))
    bad = read.bad.metrics if read.bad else ()
    apart = (waits.metrics or tuple(one.name for one in read.metrics)) if waits and waits.state != _COUNTED else ()
    metrics = [one for one in read.metrics if one.name not in {*bad, *apart}]
    usage = measure([record], metrics, declared(read.metrics))
    found = replace(
        found,
        connection=record.api_id if record.api_id in names else "",
        said=f"{record.call}, status {record.status}",
        hour=str(hour),
        hour_state=_hour_state(deployment, hour, now),
        key="" if record.key == MISSING else record.key,
    )
    if not line.is_metered:
        return replace(found, why="its stage was not connected when it was written: nobody is billed")
    if record.key == MISSING:
        return replace(found, why="it names no key or caller: nobody is billed")
    found = replace(found, metrics=_amounts(usage, metrics), why=_unbilled(waits, read, usage))
    return _for_whom(deployment, found, hour, now)


def _for_whom(deployment: Deployment, found: Receipt, hour: Hour, now: datetime) -> Receipt:
    """Say for whom a request counts, and how that stands."""
    source = source_of_key(found.key)
    holding = deployment.ledger.holders.holdings([source])[source]
    owner, holder = owner_of(source, holding, hour), holding.at(hour)
    if owner.kind is not Kind.CUSTOMER:
        excluded = f"nobody is billed for the key: {holder.reason}" if holder and holder.reason else ""
        whose = excluded or "the key belonged to no customer in that hour"
        return replace(found, why="; ".join(filter(None, (found.why, whose))))
    row = deployment.ledger.rows.at(hour, [owner])[owner]
    reasons = Reasons(deployment.ledger, deployment.changes, deployment.switch.read(), now).of(row)
    changes = deployment.changes.of(owner.id, hour)
    stand = []
    for one in found.metrics:
        total = row.totals.get(one.metric)
        corrections = tuple(f"{change.amount:+,}: {change.reason}" for change in changes if change.metric == one.metric)
        state, reason = (str(total.state), reasons.get(one.metric, "")) if total else (OPEN, "")
        stand.append(Counted(one.metric, one.quantity, one.how, state, reason, corrections))
    stuck = [f"{one.metric} is {one.state}: {one.reason}" for one in stand if one.state in _STUCK]
    return replace(found, customer=owner.id, metrics=tuple(stand), why="; ".join(filter(None, (found.why, *stuck))))


def _amounts(usage: Usage, metrics: Sequence[Metric]) -> tuple[Counted, ...]:
    """Return what a record adds to each of the metrics that bill it."""
    peaks = {one.name for one in metrics if isinstance(one, Max)}
    counted = [
        Counted(meter, quantity, "highest of the hour" if meter in peaks else "added")
        for amounts in usage.cells.values()
        for meter, quantity in sorted(amounts.quantities().items())
    ]
    distinct = [Counted(metric, 1, "distinct in the month") for seen in usage.seen.values() for metric in seen]
    return (*counted, *distinct)


def _unbilled(waits: Waits | None, read: _Read, usage: Usage) -> str:
    """Say why a request is not billed, or not by every metric; nothing if it is."""
    record, why = read.record, []
    if read.bad or (waits and waits.state != _COUNTED):
        why.append(_aside(waits, read.bad.reason if read.bad else "", read.bad.metrics if read.bad else ()))
    elif record and usage.unbilled:
        why.append(f"no metric bills {record.call} with status {record.status}")
    return "; ".join(why)


def _aside(waits: Waits | None, reason: str, metrics: Sequence[str]) -> str:
    """Say in words that a line was set aside, and what became of it since."""
    if waits is None:
        only = f" for {', '.join(metrics)}" if metrics else ""
        return f"it cannot be read{only}: {reason}"
    only = f" for {', '.join(waits.metrics)}" if waits.metrics else ""
    return f"it was set aside{only}: {waits.reason}; now it is {waits.state} (metering set-aside show {waits.batch})"


def _set_aside(deployment: Deployment, line: Line) -> tuple[Waits | None, str]:
    """Return how a line stands that was set aside, if it is among the batches that were written soon after it.

    Where that are too many to look through, say so.
    """
    batches, is_all = _written_since(deployment, line.at)
    for batch in batches:
        kept = deployment.set_aside.of(batch)
        names = {one.id for of, one in kept.lines if _is(line, of.origin, one.id, one.message)}
        for shown in redrive.lines(deployment, batch) if names else ():
            if shown.id in names:
                return Waits(batch, shown.id, shown.state, shown.reason, shown.metrics), ""
    return None, "" if is_all else f"of what was set aside {len(batches)} batches were looked through, and not all"


def _written_since(deployment: Deployment, at: datetime) -> tuple[list[str], bool]:
    """Return the batches that were set aside soon after a moment, and whether these are all."""
    pages = deployment.client("s3").get_paginator("list_objects_v2")
    batches: dict[str, None] = {}
    for number, page in enumerate(pages.paginate(Bucket=deployment.outputs.bucket, Prefix=SET_ASIDE)):
        for found in page.get("Contents", []):
            if at - timedelta(minutes=5) <= found["LastModified"] <= at + _REDELIVERED:
                batches[found["Key"].removeprefix(SET_ASIDE).partition(".")[0]] = None
        if len(batches) > MOST_SET_ASIDE or (number + 1 == _MOST_PAGES and page["IsTruncated"]):
            return list(batches)[:MOST_SET_ASIDE], False
    return list(batches), True


def _is(line: Line, origin: str, name: str, message: str) -> bool:
    """Say whether what was set aside is this line: events have ids of their own, an object's lines have none."""
    if line.event:
        return name == line.event and origin.partition(" ")[0] == line.origin
    return message == line.text and origin == line.origin


def _hour_state(deployment: Deployment, hour: Hour, now: datetime) -> str:
    if not hour.is_due(now):
        return f"open until {hour.end + GRACE:%Y-%m-%dT%H:%MZ}"
    return "closed" if deployment.ledger.progress.periods([hour]) else "to be closed"
