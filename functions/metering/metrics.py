"""Metrics: what is billed for, and how records become usage. Pure.

A metric is declared once, in ``app.py``; it travels to the functions as JSON in their environment.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

import msgspec

from metering.access_log import FIELDS, MEASURED_FIELDS, MISSING, AccessLog, AccessRecord
from metering.periods import Hour

BILLED_STATUSES: Final = ("2xx", "3xx")
"""What is billed unless a metric says otherwise: a caller does not pay for its own mistakes (4xx), for being
throttled (429) or for our failures (5xx)."""

LONGEST_NAME: Final = 32

_STATUS = re.compile(r"[1-5](xx|\d\d)")


class MetricError(ValueError):
    """A metric that cannot be counted; the message says what to write instead."""


class _Filters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which requests a metric bills: an empty ``methods`` or ``resources`` means all of them.

    ``statuses`` are codes (``"404"``) or classes (``"2xx"``). ``resources`` are resource paths as the API declares
    them (``"/items/{id}"``); one that ends in ``*`` stands for all that begin so.
    """

    statuses: tuple[str, ...] = BILLED_STATUSES
    methods: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()


class Count(_Filters, frozen=True, tag="count"):
    """Bills each request as one."""

    name: str


class Sum(_Filters, frozen=True, tag="sum"):
    """Bills the sum of a measured field of the log, such as ``response_length``; a request without it adds nothing."""

    name: str
    of: str


Metric = Count | Sum
"""Every kind of metric. A new kind is a class above, a case in :func:`_amount`, and a member here."""


def check(metrics: Sequence[Metric], log: AccessLog) -> None:
    """Raise MetricError for the first metric that this log cannot measure."""
    if not metrics:
        raise MetricError("no metric is declared: write for example Count(name='requests')")
    seen: set[str] = set()
    for metric in metrics:
        if not re.fullmatch(rf"[a-z][a-z0-9_]{{0,{LONGEST_NAME - 1}}}", metric.name):
            raise MetricError(
                f"a metric's name is up to {LONGEST_NAME} lower-case letters, digits and '_', beginning with a letter, "
                f"got {metric.name!r}{_instead(_spelled(metric.name))}"
            )
        if metric.name in seen:
            raise MetricError(f"the metric {metric.name!r} is declared twice: give one of them another name")
        seen.add(metric.name)
        _check_filters(metric, log)
        if isinstance(metric, Sum):
            _check_field(metric, log)


def _check_filters(metric: Metric, log: AccessLog) -> None:
    if not metric.statuses:
        raise MetricError(f"{metric.name!r} bills no status at all: leave statuses out to bill {BILLED_STATUSES}")
    for status in metric.statuses:
        if not _STATUS.fullmatch(status):
            raise MetricError(f"{metric.name!r}: a status is written '2xx' or '404', got {status!r}")
    for method in metric.methods:
        if not re.fullmatch(r"[A-Z]+", method):
            raise MetricError(f"{metric.name!r}: a method is written 'GET', got {method!r}{_instead(method.upper())}")
    for resource in metric.resources:
        if not (resource.startswith("/") or (resource == "$default" and log.api.value == "http")):
            raise MetricError(f"{metric.name!r}: a resource is written '/items/{{id}}' or '/items/*', got {resource!r}")


def _check_field(metric: Sum, log: AccessLog) -> None:
    loggable = [name for name in MEASURED_FIELDS if FIELDS[name].on(log.api)]
    if metric.of in MEASURED_FIELDS and metric.of not in loggable:
        raise MetricError(
            f"{metric.name!r} sums {metric.of!r}, which a {log.api.name} API cannot log: write one of {loggable}"
        )
    if metric.of not in MEASURED_FIELDS:
        close = difflib.get_close_matches(metric.of, loggable, 1, 0.4)
        raise MetricError(
            f"{metric.name!r} sums {metric.of!r}, which is no measured field of the log: "
            f"write {repr(close[0]) if close else f'one of {loggable}'}"
        )


def _spelled(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789")[:LONGEST_NAME]


def _instead(spelling: str) -> str:
    return f": write {spelling!r}" if spelling else ""


def encode(metrics: Sequence[Metric]) -> str:
    """Return the metrics as they stand in a function's environment."""
    return msgspec.json.encode(metrics).decode()


def decode(text: str) -> tuple[Metric, ...]:
    """Read what :func:`encode` wrote; raise msgspec.DecodeError for anything else."""
    return msgspec.json.decode(text, type=tuple[Metric, ...])


@dataclass(slots=True)
class Usage:
    """What records add up to: ``cells`` holds each metric's sum per hour and key.

    Every record is in ``billed`` or, by its reason, in ``unbilled``. Adding up is independent of the records' order
    and of how they are split into batches.
    """

    cells: dict[tuple[Hour, str], dict[str, int]] = field(default_factory=dict)
    billed: int = 0
    unbilled: Counter[str] = field(default_factory=Counter)


NO_KEY: Final = "no API key"
NOT_BILLED: Final = "no metric bills this status, method and resource"


def measure(records: Iterable[AccessRecord], metrics: Sequence[Metric]) -> Usage:
    """Add up what each hour and key used."""
    usage = Usage()
    unbilled = usage.unbilled
    sums: dict[tuple[int, str], dict[str, int]] = {}
    applicable: dict[tuple[int, str, str], list[Metric]] = {}
    for record in records:
        if record.key == MISSING:
            unbilled[NO_KEY] += 1
            continue
        kind = (record.status, record.method, record.resource)
        billing = applicable.get(kind)
        if billing is None:
            billing = applicable[kind] = [metric for metric in metrics if bills(metric, *kind)]
        if not billing:
            unbilled[NOT_BILLED] += 1
            continue
        usage.billed += 1
        where = (record.time // 3_600_000, record.key)
        cell = sums.get(where)
        if cell is None:
            cell = sums[where] = {}
        for metric in billing:
            amount = _amount(metric, record)
            if amount:
                cell[metric.name] = cell.get(metric.name, 0) + amount
    usage.cells = {(Hour(number), key): cell for (number, key), cell in sums.items() if cell}
    return usage


def bills(metric: Metric, status: int, method: str, resource: str) -> bool:
    """Say whether a metric's filters let such a request through."""
    path = resource.rpartition(" ")[2]  # an HTTP API's route key is "GET /items/{id}"
    return (
        any(wanted in (str(status), f"{status // 100}xx") for wanted in metric.statuses)
        and (not metric.methods or method in metric.methods)
        and (not metric.resources or any(_covers(wanted, path) for wanted in metric.resources))
    )


def _covers(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


def _amount(metric: Metric, record: AccessRecord) -> int:
    match metric:
        case Count():
            return 1
        case Sum():
            value = getattr(record, metric.of)
            return 0 if value == MISSING else value
        case _:
            assert_never(metric)
