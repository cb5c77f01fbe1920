"""Metrics: what is billed for. Pure; how records become usage is in :mod:`metering.model.measuring`.

A metric is declared once, in ``app.py``; it travels to the functions as JSON in their environment.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from metering.model.log_format import FIELDS, MEASURED_FIELDS, MISSING, VARIABLE_PATTERN, Api, Declared

BILLED_STATUSES: Final = ("2xx", "3xx")
"""What is billed unless a metric says otherwise: a caller does not pay for its own mistakes (4xx), for being
throttled (429) or for our failures (5xx)."""

USAGE_LINES: Final = "usage lines"
"""What a metric measures that comes from your own code's log: the numbers in its lines of the form ``{"usage": …}``."""

DIMENSIONS: Final = ("resource", "method", "status_class", "api", "stage")
"""What every log can be split by; a variable that an authorizer or an integration sets is another."""

OTHER: Final = "other"
"""Where a split puts what has no place of its own."""

MOST_NAMES: Final = 128
"""How many values of splits, all metrics' together, one counter item tells apart; what is beyond is under ``other``."""


class _Filters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which requests a metric bills: empty ``methods``, ``resources``, ``apis`` or ``stages`` mean all of them.

    ``statuses`` are codes (``"404"``) or classes (``"2xx"``). ``resources`` are resource paths as the API declares
    them (``"/items/{id}"``); one that ends in ``*`` stands for all that begin so. ``apis`` are names of connections, or
    the ids of APIs whose stages the CDK attached.

    ``title`` is what customers read for the metric, ``unit`` what they read behind its quantities; neither changes what
    is billed.
    """

    name: str
    statuses: tuple[str, ...] = BILLED_STATUSES
    methods: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    apis: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    title: str = ""
    unit: str = ""


class _Splittable(_Filters, frozen=True, kw_only=True):
    """A metric that may be split by one dimension of few values.

    ``by`` is one of :data:`DIMENSIONS` or a variable, such as ``authorizer.plan``.

    The total is billed and the split is shown. With ``meters``, each of these values is billed by a meter of its own
    instead, named ``<name>_<value>``, and all the others by ``<name>_other``.
    """

    by: str = ""
    meters: tuple[str, ...] = ()


class Count(_Splittable, frozen=True, kw_only=True, tag="count"):
    """Bills each request as one."""


class Sum(_Splittable, frozen=True, kw_only=True, tag="sum"):
    """Bills the sum of a number; a request without it adds nothing.

    ``of`` is a measured field of the log, such as ``response_length``; a variable that an authorizer returns or an
    integration sets (``authorizer.messages``, ``responseOverride.header.x-messages``); or :data:`USAGE_LINES`.
    ``scale`` is how many decimals count: with ``scale=3`` thousandths are billed. With ``deduplicate`` the usage lines
    of one key or customer that have the same id count once.
    """

    of: str
    scale: int = 0
    deduplicate: bool = False


class Unique(_Filters, frozen=True, kw_only=True, tag="unique"):
    """Bills the distinct values of a variable, such as ``authorizer.user``, per customer and calendar month (UTC).

    ``of="key"`` bills active API keys. Any other variable must be declared an opaque id with ``opaque_id=True``: the
    counters keep its values as a keyed hash alone, but the access log holds them as they are.
    """

    of: str
    opaque_id: bool = False


class Max(_Filters, frozen=True, kw_only=True, tag="max"):
    """Bills the sum of hourly peaks: each hour's highest value, over all of a customer's keys.

    So stored gigabytes are billed as gigabyte-hours, seats as seat-hours. ``of`` and ``scale`` as for :class:`Sum`.
    """

    of: str
    scale: int = 0


Metric = Count | Sum | Unique | Max
"""Every kind of metric. A new kind is a class above, a case in :mod:`metering.model.measuring`, and a member here."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What was declared, and ``since`` when it has been known to be in force."""

    metrics: tuple[Metric, ...]
    since: datetime


def declared(metrics: Sequence[Metric]) -> Declared:
    """Return the variables that the metrics name, which the log must then hold."""
    amounts = {
        metric.of: metric.scale for metric in metrics if isinstance(metric, Sum | Max) and is_variable(metric.of)
    }
    ids = {metric.of for metric in metrics if isinstance(metric, Unique) and is_variable(metric.of)}
    splits = {metric.by for metric in metrics if isinstance(metric, Count | Sum) and is_variable(metric.by)}
    return Declared(tuple(sorted({*amounts, *ids, *splits})), amounts, frozenset(ids))


def meters(metrics: Sequence[Metric]) -> list[str]:
    """Return the names under which the metrics are billed: each has a meter at Stripe."""
    return [name for metric in metrics for name in meters_of(metric).values()]


def meters_of(metric: Metric) -> dict[str, str]:
    """Return the names under which a metric is billed, by the value that each is for; one without values has one."""
    if not isinstance(metric, Count | Sum) or not metric.meters:
        return {"": metric.name}
    return {value: f"{metric.name}_{spelled(value)}" for value in (*metric.meters, OTHER)}


def scales_of(metrics: Iterable[Metric]) -> dict[str, int]:
    """Return how many decimals a quantity of each metric has, by the name that it is billed under."""
    return {
        name: metric.scale if isinstance(metric, Sum | Max) else 0
        for metric in metrics
        for name in meters_of(metric).values()
    }


def unit_of(metric: Metric) -> str | None:
    """Return the unit of what a metric measures, or the one that is declared; None where nobody says."""
    measured = FIELDS[metric.of].unit if isinstance(metric, Sum | Max) and metric.of in MEASURED_FIELDS else None
    return measured or metric.unit or None


def titles_of(metric: Metric) -> dict[str, str | None]:
    """Return what customers read for a metric, by the name that it is billed under; None where nobody says."""
    told = {value: f"{metric.title}: {value}" if value else metric.title for value in meters_of(metric)}
    return {name: told[value] if metric.title else None for value, name in meters_of(metric).items()}


def value_of(metric: Metric) -> str:
    """Return the field or variable whose values a metric reads; one that counts requests reads none."""
    return "" if isinstance(metric, Count) or metric.of == "key" else metric.of


def needs_hash(metrics: Sequence[Metric]) -> bool:
    """Say whether values, or ids of usage lines, are kept as keyed hashes."""
    return any(isinstance(one, Unique) or (isinstance(one, Sum) and one.deduplicate) for one in metrics)


def reads_usage_lines(metrics: Sequence[Metric]) -> bool:
    """Say whether a metric measures what your own code logs."""
    return any(isinstance(metric, Sum | Max) and metric.of == USAGE_LINES for metric in metrics)


def of_stage(metrics: Iterable[Metric], api: str, stage: str) -> list[Metric]:
    """Return the metrics that may bill requests of a stage: ``api`` is its connection's name, or the API's id."""
    return [one for one in metrics if (not one.apis or api in one.apis) and (not one.stages or stage in one.stages)]


def not_logged_by(metrics: Iterable[Metric], api: Api) -> list[str]:
    """Say which metrics read something that a kind of API cannot log: its requests bring nothing to them."""
    said = []
    for metric in metrics:
        if (of := value_of(metric)) and of != USAGE_LINES and not api.can_log(of):
            said.append(f"{metric.name!r} reads {of!r}, which {api.noun} cannot log: its requests add nothing to it")
        elif isinstance(metric, Count | Sum) and is_variable(metric.by) and not api.can_log(metric.by):
            under = meters_of(metric)[OTHER] if metric.meters else MISSING
            said.append(
                f"{metric.name!r} is split by {metric.by!r}, which {api.noun} cannot log: its requests stand under "
                f"{under!r}"
            )
    return said


def of_the_access_log(metrics: Sequence[Metric]) -> list[Metric]:
    """Return the metrics that measure requests, and not usage lines."""
    return [metric for metric in metrics if isinstance(metric, Count | Unique) or metric.of != USAGE_LINES]


def is_variable(name: str) -> bool:
    """Say whether this is a variable that a metric may name, and no field of every log."""
    return re.fullmatch(VARIABLE_PATTERN, name) is not None


def spelled(name: str) -> str:
    """Return a value, or a name that somebody would like, as names of meters and metrics are spelled."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def encode(metrics: Sequence[Metric]) -> str:
    """Return the metrics as they stand in a function's environment and in the ledger, which has 4 KB and lasts.

    Without what is only for people to read: another title is no other declaration, and 1.0.0 reads what is stored.
    """
    return in_full([msgspec.structs.replace(metric, title="", unit="") for metric in metrics])


def in_full(metrics: Sequence[Metric]) -> str:
    """Return the metrics as they stand in ``declared.json``, which is in the zip of the code that reads it."""
    return msgspec.json.encode(metrics).decode()


def decode(text: str) -> tuple[Metric, ...]:
    """Read what :func:`encode` or :func:`in_full` wrote; raise msgspec.DecodeError for anything else."""
    return msgspec.json.decode(text, type=tuple[Metric, ...])


class RequestKind(NamedTuple):
    """What filters look at in a request: those of one kind are billed by the same metrics."""

    status: int
    method: str
    resource: str
    api: str
    stage: str


def bills(metric: Metric, kind: RequestKind) -> bool:
    """Say whether a metric's filters let such a request through."""
    path = kind.resource.rpartition(" ")[2]  # an HTTP API's route key is "GET /items/{id}"
    return (
        any(wanted in (str(kind.status), f"{kind.status // 100}xx") for wanted in metric.statuses)
        and (not metric.methods or kind.method in metric.methods)
        and (not metric.resources or any(_covers(wanted, path) for wanted in metric.resources))
        and (not metric.apis or kind.api in metric.apis)
        and (not metric.stages or kind.stage in metric.stages)
    )


def _covers(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern
