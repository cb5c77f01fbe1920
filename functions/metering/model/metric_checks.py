"""Which metrics can be counted: what cannot is refused at synthesis, with what to write instead. Pure."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Final, assert_never

import msgspec

from metering.model import connections
from metering.model.log_format import FIELDS, IDENTITY_PATTERN, LARGEST_SCALE, MEASURED_FIELDS, AccessLog, Api
from metering.model.metrics import (
    BILLED_STATUSES,
    DIMENSIONS,
    MOST_NAMES,
    OTHER,
    USAGE_LINES,
    Count,
    Max,
    Metric,
    Sum,
    Unique,
    is_variable,
    meters,
    meters_of,
    spelled,
    unit_of,
)
from metering.model.subjects import is_name

LONGEST_NAME: Final = 32
LONGEST_TITLE: Final = 100
LONGEST_UNIT: Final = 32
MOST_SPLITS: Final = 4
"""How many metrics may be split: their values stand in one update expression, which DynamoDB limits to 4 KB."""

LARGEST_SCALE_OF_A_SUM: Final = 6
"""With more decimals a customer's hour could come to more than Stripe's 15 digits (Stripe docs, "Record usage"): a
record may hold 10^12 of the smallest unit, and only a highest value is no more than one of them."""

MOST_ADDED: Final = 320
"""How many numbers one update can add to: its expression may have 4 KB (DynamoDB Developer Guide, "Constraints")."""

_EVENTS: Final = frozenset({"CONNECT", "MESSAGE", "DISCONNECT"})
"""What happens at a WebSocket API stands in the method's place."""

_ROUTES: Final = frozenset({"$default", "$connect", "$disconnect"})
_UNVERIFIED: Final = frozenset({"401", "403", "4xx"})
_STATUS = re.compile(r"[1-5](xx|\d\d)")
_API_ID = re.compile(r"[a-z0-9]{1,32}")
_STAGE = re.compile(r"[A-Za-z0-9_-]{1,128}|\$default")
"""An HTTP API's is ``$default`` or of these signs, as every other's (API Gateway Developer Guide, "Stages")."""


class MetricError(ValueError):
    """A metric that cannot be counted; the message says what to write instead."""


def check(metrics: Sequence[Metric], log: AccessLog) -> None:
    """Raise MetricError for the first metric that this log cannot measure."""
    if not metrics:
        raise MetricError("no metric is declared: write for example Count(name='requests')")
    seen: set[str] = set()
    for metric in metrics:
        if not re.fullmatch(rf"[a-z][a-z0-9_]{{0,{LONGEST_NAME - 1}}}", metric.name):
            raise MetricError(
                f"a metric's name is up to {LONGEST_NAME} lower-case letters, digits and '_', beginning with a letter, "
                f"got {metric.name!r}{_instead(spelled(metric.name).lstrip('_0123456789')[:LONGEST_NAME])}"
            )
        for name in meters_of(metric).values():
            if name in seen:
                raise MetricError(f"the metric {name!r} is declared twice: give one of them another name")
            if len(name) > LONGEST_NAME:
                raise MetricError(
                    f"the meter's name {name!r} is over {LONGEST_NAME} characters: name {metric.name!r} shorter"
                )
            seen.add(name)
        _check_words(metric)
        _check_filters(metric, log)
        _check_source(metric, log)
        if isinstance(metric, Count | Sum):
            _check_split(metric, log)
    _check_together(metrics)


def _check_words(metric: Metric) -> None:
    """Raise MetricError for a title or a unit that is not a line to be read, or a unit of what has one already."""
    for word, text, longest in (("title", metric.title, LONGEST_TITLE), ("unit", metric.unit, LONGEST_UNIT)):
        if text and not (isinstance(text, str) and is_name(text, longest)):
            raise MetricError(
                f"{metric.name!r}: a {word} is 1 to {longest} printable characters, got {str(text)[:LONGEST_TITLE]!r}"
            )
    measured = unit_of(msgspec.structs.replace(metric, unit=""))
    if measured and metric.unit:
        raise MetricError(
            f"{metric.name!r} is measured in {measured}, got the unit {metric.unit!r}: leave the unit out, and whoever "
            "shows a quantity may write it in another"
        )


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
        if not _is_resource(resource, metric, log):
            raise MetricError(
                f"{metric.name!r}: a resource is written '/items/{{id}}' or '/items/*', got {resource!r}; "
                "if that is a route of a connected WebSocket API, name the API in apis, or write methods=('MESSAGE',)"
            )
    _check_places(metric)
    if wrong := unverified([metric], log.variable):
        raise MetricError(f"{wrong[0]}: let it bill neither where callers are {log.variable!r}")


def _is_resource(text: str, metric: Metric, log: AccessLog) -> bool:
    """Say whether this can be a resource's path, or the key of a route: a WebSocket API's may be any word.

    A word is more likely a path that lacks its slash, unless the metric is about a WebSocket API.
    """
    if text.startswith("/") or text in _ROUTES:
        return True
    is_of_websocket = log.api is Api.WEBSOCKET or metric.apis or set(metric.methods) & _EVENTS
    return bool(is_of_websocket) and re.fullmatch(r"\S+", text) is not None


def unverified(metrics: Iterable[Metric], caller: str) -> list[str]:
    """Say which metrics bill requests whose caller nobody has verified, where API Gateway itself names the ``caller``.

    A certificate is logged that failed mutual TLS, too (API Gateway Developer Guide, "Variables for access logging"),
    and of a signature that is wrong nothing is said: a stranger would bill whoever it names (I7). What an authorizer
    tells of a caller it tells of one that it has let in.
    """
    if not re.fullmatch(IDENTITY_PATTERN, caller):
        return []
    return [
        f"{metric.name!r} bills 401 or 403, which a caller gets that only says who it is"
        for metric in metrics
        if _UNVERIFIED & {*metric.statuses}
    ]


def _check_places(metric: Metric) -> None:
    for api in metric.apis:
        if not connections.is_name(api) and not _API_ID.fullmatch(api):
            raise MetricError(
                f"{metric.name!r}: an API is written as its connection is named ('orders') or by its id "
                f"('a1b2c3d4e5'), got {api!r}{_instead(spelled(api).replace('_', '-')[:LONGEST_NAME])}"
            )
    for stage in metric.stages:
        if not _STAGE.fullmatch(stage):
            raise MetricError(f"{metric.name!r}: a stage is written 'v1' or '$default', got {stage!r}")


def _check_source(metric: Metric, log: AccessLog) -> None:
    match metric:
        case Count():
            return
        case Unique():
            if metric.of != "key":
                _check_variable(metric, metric.of, log, "counts the distinct values of")
                if not metric.opaque_id:
                    raise MetricError(
                        f"{metric.name!r} counts the distinct values of {metric.of!r}, which the access log will hold: "
                        "say opaque_id=True if they are opaque ids, never names or addresses"
                    )
        case Sum() | Max():
            _check_scale(metric)
            if metric.of == USAGE_LINES:
                _check_usage_lines(metric)
            elif isinstance(metric, Sum) and metric.deduplicate:
                raise MetricError(f"{metric.name!r}: only usage lines have an id to deduplicate by: leave it out")
            elif metric.of in FIELDS and metric.scale:
                raise MetricError(f"{metric.name!r} sums {metric.of!r}, which is whole: leave scale out")
            else:
                _check_amount(metric, log)
        case _:
            assert_never(metric)


def _check_scale(metric: Sum | Max) -> None:
    if not 0 <= metric.scale <= LARGEST_SCALE:
        raise MetricError(f"{metric.name!r}: a scale is from 0 to {LARGEST_SCALE} decimals, got {metric.scale}")
    if isinstance(metric, Sum) and metric.scale > LARGEST_SCALE_OF_A_SUM:
        raise MetricError(
            f"{metric.name!r}: a sum has at most {LARGEST_SCALE_OF_A_SUM} decimals, so that an hour may hold a "
            f"billion of what it counts in the 15 digits that Stripe takes, got {metric.scale}: measure it in "
            "a larger unit, under another name if it was billed before"
        )


def _check_usage_lines(metric: Sum | Max) -> None:
    filters = (metric.statuses, metric.methods, metric.resources, metric.apis, metric.stages)
    if filters != (BILLED_STATUSES, (), (), (), ()) or (isinstance(metric, Sum) and metric.by):
        raise MetricError(
            f"{metric.name!r} measures usage lines, which have no status, method, resource, API or other dimension: "
            "leave its filters and by out"
        )


def _check_amount(metric: Sum | Max, log: AccessLog) -> None:
    loggable = [name for name in MEASURED_FIELDS if log.api.can_log(name)]  # none of a WebSocket API
    instead = ", ".join([*map(repr, loggable), "'authorizer.<property>' or USAGE_LINES"])
    if metric.of in loggable or (metric.of in MEASURED_FIELDS and metric.apis):
        return
    if metric.of in MEASURED_FIELDS:
        raise MetricError(
            f"{metric.name!r} sums {metric.of!r}, which {log.api.noun} cannot log: write {instead}, or name in apis "
            "the connected APIs that can"
        )
    if is_variable(metric.of):
        _check_variable(metric, metric.of, log, "sums")
        return
    close = difflib.get_close_matches(metric.of, loggable, 1, 0.4)
    raise MetricError(
        f"{metric.name!r} sums {metric.of!r}, which is no measured field of the log: write "
        + (repr(close[0]) if close else instead)
    )


def _check_variable(metric: Metric, variable: str, log: AccessLog, doing: str) -> None:
    if not is_variable(variable):
        raise MetricError(
            f"{metric.name!r} {doing} {variable!r}, which the log does not hold: "
            "write 'authorizer.<property>', 'authorizer.claims.<name>' or 'responseOverride.header.<name>'"
        )
    if not log.api.can_log(variable) and not metric.apis:
        raise MetricError(
            f"{metric.name!r} {doing} {variable!r}, which {log.api.noun} cannot log: name in apis the connected APIs "
            "that can"
        )


def _check_split(metric: Count | Sum, log: AccessLog) -> None:
    if metric.by and metric.by not in DIMENSIONS:
        if metric.by in FIELDS or metric.by in ("key", "request_id"):
            raise MetricError(f"{metric.name!r} is split by {metric.by!r}: write one of {DIMENSIONS} or a variable")
        _check_variable(metric, metric.by, log, "is split by")
    if metric.meters and not metric.by:
        raise MetricError(f"{metric.name!r} names meters for values: say with by=… what they are values of")
    if nameless := [value for value in metric.meters if not spelled(value)]:
        raise MetricError(
            f"{metric.name!r}: a meter is named by the letters a to z and digits of its value, got {nameless[0]!r}, "
            f"which has none: leave it to {OTHER!r}"
        )


def _check_together(metrics: Sequence[Metric]) -> None:
    scales: dict[str, int] = {}
    for metric in metrics:
        if not isinstance(metric, Sum | Max) or not is_variable(metric.of):
            continue
        if scales.setdefault(metric.of, metric.scale) != metric.scale:
            raise MetricError(f"{metric.of!r} is read with two scales: give its metrics the same")
    for metric in metrics:
        text = metric.of if isinstance(metric, Unique) else metric.by if isinstance(metric, Count | Sum) else ""
        if text in scales:  # a value that is no number could not count for one of them and be text for the other
            raise MetricError(
                f"{metric.name!r} takes {text!r} for text, and another metric for a number: "
                "give the text and the number a variable each"
            )
    split = [metric.name for metric in metrics if isinstance(metric, Count | Sum) and metric.by and not metric.meters]
    if len(split) > MOST_SPLITS:
        raise MetricError(f"at most {MOST_SPLITS} metrics can be split, got {split}")
    names = meters([metric for metric in metrics if not isinstance(metric, Max)])
    most = MOST_ADDED - (MOST_NAMES + MOST_SPLITS if split else 0)
    if len(names) > most:
        raise MetricError(
            f"one key's hour is counted by one update, which {'beside splits ' if split else ''}takes at most {most} "
            f"metrics and meters of values, got {len(names)}: declare fewer"
        )


def _instead(spelling: str) -> str:
    return f": write {spelling!r}" if spelling else ""
