"""The raw archive, read again and added up: what a recount compares the counters with.

This is a second, plain way from a line to a bill. It shares the log's format and the declared metrics with the way that
counts, and none of its code: a fault there would otherwise be found equal to itself. So it is written to be obviously
right, and not to be fast: a line is parsed, its filters are asked, and its numbers are added up, one by one. What makes
two lines the same record is the record's own id, so that neither objects, batches nor their cuts matter.
"""

import gzip
import io
import re
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, TypeVar

from infra.operate.recount.in_force import Declared, InForce
from infra.operate.recount.raw_connected import ConnectedReader
from infra.operate.recount.raw_lines import Record, UnreadableError, read_by_hour
from infra.operate.recount.raw_usage_lines import read_usage_line
from metering.layout import ARCHIVE
from metering.model.connections import Connection, Form
from metering.model.metrics import Declaration, Metric, meters_of
from metering.model.periods import Hour, hours

MOST_EVENTS: Final = 10_000
"""What one answer of FilterLogEvents holds at most (API reference). An answer as full as this that names no next page
is one of the emulator, which has none: the rest is asked for in narrower windows."""

CHUNK: Final = 12 << 20
"""An object is counted in chunks of this many bytes, gunzipped, and up to the end of the line."""

T = TypeVar("T")

_OF_STAGES: Final = (Form.OURS, Form.THEIRS, Form.EXTENDED)

_TERM: Final = "usage"  # what the subscription of an application's log asks for, too


class BrokenObjectError(ValueError):
    """An object that begins as gzip and does not end so."""


@dataclass(frozen=True, slots=True)
class Archive:
    """Reads lines by the hour of their arrival. Errors of AWS are raised as they are.

    On either road the objects and the access log are read: a deployment that changed roads has lines in both. Of the
    log groups of ``connections`` what was written while these were connected is read.
    """

    s3: Any
    logs: Any
    bucket: str
    access_log_group: str
    usage_log_groups: Sequence[str]
    connections: Sequence[Connection] = ()

    def objects(self, hour: Hour) -> Iterator[tuple[str, Iterator[str]]]:
        """Yield the keys of the objects that Firehose wrote in an hour, each with its lines (:func:`lines_of`)."""
        prefix = f"{ARCHIVE}{hour.start:%Y/%m/%d/%H}/"
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for found in page.get("Contents", []):
                yield found["Key"], lines_of(self.s3.get_object(Bucket=self.bucket, Key=found["Key"])["Body"])

    def access_log(self, hour: Hour) -> Iterator[str]:
        """Yield the lines that API Gateway wrote into its log group in an hour."""
        for event in self._events(self.access_log_group, hour):
            yield event["message"]

    def usage_lines(self, hour: Hour) -> Iterator[tuple[str, str]]:
        """Yield what applications logged in an hour that may be usage lines, each behind its event's id."""
        for group in self.usage_log_groups:
            for event in self._events(group, hour, filterPattern=_TERM):
                yield usage_record_id(group, event["eventId"]), event["message"]
        for group, of_group in self._connected_in(hour, Form.USAGE).items():
            for event in self._events_there(group, hour, filterPattern=_TERM):
                if any(_is_of(connection, event) for connection in of_group):
                    yield usage_record_id(group, event["eventId"]), event["message"]

    def connected(self, hour: Hour) -> Iterator[tuple[Sequence[Connection], str]]:
        """Yield what stages that were connected wrote in an hour, each line behind the connections that it may be of.

        There are several where stages share a log group.
        """
        for group, of_group in self._connected_in(hour, *_OF_STAGES).items():
            for event in self._events_there(group, hour):
                connections = [connection for connection in of_group if _is_of(connection, event)]
                if connections:
                    yield connections, event["message"]

    def _connected_in(self, hour: Hour, *forms: Form) -> dict[str, list[Connection]]:
        """Return by log group the connections of these forms that may have lines of an hour, the latest first."""
        groups: dict[str, list[Connection]] = {}
        for connection in sorted(self.connections, key=lambda one: (one.log_group, -one.since)):
            if connection.form in forms and is_connected_in(connection, hour):
                groups.setdefault(connection.log_group, []).append(connection)
        return groups

    def _events_there(self, group: str, hour: Hour, **pattern: str) -> Iterator[dict[str, Any]]:
        """Yield the events of a log group that somebody else may have deleted; its lines are gone then."""
        with suppress(self.logs.exceptions.ResourceNotFoundException):
            yield from self._events(group, hour, **pattern)

    def _events(self, group: str, hour: Hour, **pattern: str) -> Iterator[dict[str, Any]]:
        first, end = (int(moment.timestamp() * 1000) for moment in (hour.start, hour.end))
        return self._between(group, first, end, pattern)

    def _between(self, group: str, first: int, end: int, pattern: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the events from ``first`` up to ``end``, exclusive; in milliseconds since 1970."""
        asked: dict[str, Any] = {"logGroupName": group, "startTime": first, "endTime": end - 1, **pattern}
        answer = self.logs.filter_log_events(**asked)
        if len(answer["events"]) >= MOST_EVENTS and "nextToken" not in answer and end - first > 1:
            middle = (first + end) // 2
            yield from self._between(group, first, middle, pattern)
            yield from self._between(group, middle, end, pattern)
            return
        yield from answer["events"]
        while "nextToken" in answer:
            answer = self.logs.filter_log_events(**asked, nextToken=answer["nextToken"])
            yield from answer["events"]


def _is_of(connection: Connection, event: Mapping[str, Any]) -> bool:
    """Say whether an event was written while its log group was connected.

    A line may be dated a little earlier than the connection began, if it came into the log group later: what was there
    already was never delivered.
    """
    at, came = event["timestamp"], event.get("ingestionTime", event["timestamp"])
    is_over = connection.until and at >= connection.until
    return at >= connection.first and came >= connection.since and not is_over


def is_connected_in(connection: Connection, hour: Hour) -> bool:
    """Say whether there can be lines in an hour that were written while a log group was connected."""
    first, end = (int(moment.timestamp() * 1000) for moment in (hour.start, hour.end))
    return connection.first < end and (not connection.until or connection.until > first)


def usage_record_id(log_group: str, event_id: str) -> str:
    """Return what a usage line is known by: two log groups may number their events alike."""
    return f"{log_group} {event_id}"


def lines_of(body: Any) -> Iterator[str]:
    """Yield an object's lines, gunzipped if it begins as gzip, with no more than one chunk of them in memory.

    Zeros behind a gzip stream fill up a block. Raises BrokenObjectError for an object that is cut off or damaged, once
    its whole chunks have been yielded: these are what was counted of it, and a line behind them was not, however well
    it can be read. (The two ways may differ on a chunk that ends within 256 KB of the damage.)
    """
    raw = io.BufferedReader(body)
    lines: Any = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
    chunk: list[bytes] = []
    size = 0
    try:
        for line in lines:
            chunk.append(line)
            size += len(line)
            if size >= CHUNK:
                yield from _texts(chunk)
                chunk, size = [], 0
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BrokenObjectError(str(error)) from error
    yield from _texts(chunk)


def _texts(lines: Sequence[bytes]) -> Iterator[str]:
    for line in lines:
        for text in _records_of(line.decode(errors="backslashreplace")):
            if text.strip():
                yield text.rstrip("\n")


def _records_of(line: str) -> list[str]:
    """Return the records of a line: more than one where what joined objects left line ends out."""
    return re.split(r'(?<=})[\s,]*+(?=\ufeff?\s*{\s*"metering"\s*:)', line)


@dataclass(slots=True)
class Tally:
    """What records of one hour add up to, by source and meter."""

    amounts: dict[tuple[str, str], int] = field(default_factory=dict)
    values: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def add(self, record: Record, peaks: Collection[str]) -> None:
        """Add a record; of the meters in ``peaks`` the highest amount is kept."""
        for meter, amount in record.amounts.items():
            where = (record.source, meter)
            before = self.amounts.get(where, 0)
            self.amounts[where] = max(before, amount) if meter in peaks else before + amount
        for meter, amount in record.once.items():
            self.amounts[record.source, meter] = self.amounts.get((record.source, meter), 0) + amount
        for metric, value in record.values.items():
            self.values.setdefault((record.source, metric), set()).add(value)


@dataclass(slots=True)
class HourTally:
    """What the archive holds of one hour, each record once.

    ``waiting`` is what stands in lines that were set aside and not redriven, ``ready`` all the rest. ``seen`` says by
    the ids of records whose they are, but for those of which something waits.
    """

    ready: Tally = field(default_factory=Tally)
    waiting: Tally = field(default_factory=Tally)
    seen: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class RawLog:
    """Adds up hour after hour what the archive holds, for some sources (None: for all).

    Each record counts by the metrics that were in force in its hour. Lines are looked for from five minutes before
    their hour until ``access_ahead`` and ``usage_ahead`` hours after it.
    In memory are the record ids of the hours that are being read, ``access_ahead`` + 2 of them: about 110 bytes each.
    ``waiting`` names, by the ids of records, the metrics whose part of them is kept apart; without any, all of it is.
    """

    archive: Archive
    metrics: tuple[Metric, ...]
    nonces: Sequence[str]
    access_ahead: int
    usage_ahead: int
    waiting: Mapping[str, Collection[str]] = field(default_factory=dict)
    sources: Collection[str] | None = None
    notes: Sequence[Declaration] = ()
    """What was in force before ``metrics``, which are declared today, and since when."""

    unreadable: int = 0
    """Lines that arrived in the hours that were read and could not be, wholly or for some metrics."""

    broken: list[str] = field(default_factory=list)
    """The keys of objects that are not gzip to their end."""

    in_force: InForce = field(init=False)
    _ever: tuple[Metric, ...] = field(init=False)
    _names: frozenset[str] = field(init=False)
    _connected: ConnectedReader = field(init=False)
    _open: dict[Hour, HourTally] = field(default_factory=dict)
    _counted_ids: set[tuple[str, str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.in_force = InForce(self.notes, self.metrics)
        self._ever = self.in_force.ever
        self._names = frozenset(one.name for one in self.archive.connections)
        self._connected = ConnectedReader(lambda hour: self.in_force.at(hour).metrics, self.nonces)

    def tallies(self, first: Hour, end: Hour, now: datetime) -> Iterator[tuple[Hour, HourTally]]:
        """Yield the hours from ``first`` up to ``end``, exclusive, each once its lines are read."""
        return self._tallies(list(hours(first, end)), now, until_now=False)

    def tallies_up_to_now(self, wanted: Sequence[Hour], now: datetime) -> Iterator[tuple[Hour, HourTally]]:
        """Yield these hours, which are in order, with whatever came of them up to ``now``."""
        return self._tallies(wanted, now, until_now=True)

    def _tallies(self, wanted: Sequence[Hour], now: datetime, *, until_now: bool) -> Iterator[tuple[Hour, HourTally]]:
        self._open = {hour: HourTally() for hour in wanted}
        latest = Hour.containing(now).number
        # As early as the latest usage line: an id that was reported before counts in the hour before.
        usage_read = wanted[0].number - self.usage_ahead - 1
        access_read = wanted[0].number - 2
        for hour in wanted:
            access_end, usage_end = (
                latest if until_now else min(hour.number + ahead, latest)
                for ahead in (self.access_ahead, self.usage_ahead)
            )
            for arrived in range(access_read + 1, access_end + 1):
                self._read_access_log(Hour(arrived))
                access_read = arrived
            for arrived in range(usage_read + 1, usage_end + 1):
                self._read(self.archive.usage_lines(Hour(arrived)), self._usage_record)
                usage_read = arrived
            yield hour, self._open.pop(hour)

    def _read_access_log(self, arrived: Hour) -> None:
        for key, lines in self.archive.objects(arrived):
            try:
                self._read(lines, self._access_record)
            except BrokenObjectError:
                self.broken.append(key)
        self._read(self.archive.access_log(arrived), self._access_record)
        self._read(self.archive.connected(arrived), lambda found: self._connected.read(*found))

    def _access_record(self, line: str) -> Record | None:
        return read_by_hour(line, lambda hour: self.in_force.at(hour).metrics, self.nonces, self._names)

    def _usage_record(self, event: tuple[str, str]) -> Record | None:
        """Read a usage line, and again where its hour, which a reader alone finds, had other metrics than all ever."""
        record = read_usage_line(*event, self._ever)
        metrics = self.in_force.at(record.hour).metrics if record else self._ever
        return record if metrics == self._ever else read_usage_line(*event, metrics)

    def _read(self, lines: Iterator[T], record_of: Callable[[T], Record | None]) -> None:
        for line in lines:
            try:
                record = record_of(line)
            except UnreadableError:
                self.unreadable += 1
                continue
            if record is not None:
                self._add(record)

    def _add(self, record: Record) -> None:
        self.unreadable += bool(record.bad)
        if self.sources is not None and record.source not in self.sources:
            return
        first_time = [name for name in record.once if (name, record.source, record.line_id) not in self._counted_ids]
        self._counted_ids.update((name, record.source, record.line_id) for name in first_time)
        hour = self._open.get(record.hour)
        if hour is None or record.id in hour.seen:
            return
        declared = self.in_force.at(record.hour)
        # What counts once per id is from here on what counts.
        record = replace(record, once={name: record.once[name] for name in first_time})
        set_aside = self.waiting.get(record.id)
        hour.seen[record.id] = sys.intern(record.source) if set_aside is None else ""  # a million ids have few sources
        if set_aside is None:
            hour.ready.add(record, declared.peaks)
        elif not set_aside:
            hour.waiting.add(record, declared.peaks)
        else:
            apart, counted = record.parted(_meters(declared, set_aside))
            hour.waiting.add(apart, declared.peaks)
            hour.ready.add(counted, declared.peaks)


def _meters(declared: Declared, names: Collection[str]) -> set[str]:
    """Return metrics' names with those of their meters, by which what they measure is called."""
    meters = {meter for one in declared.metrics if one.name in names for meter in meters_of(one).values()}
    return meters | set(names)
