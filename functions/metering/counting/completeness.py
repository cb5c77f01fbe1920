"""Completeness: whether everything that was written into the access log has been counted, and every request written.

The lines that ``record_usage`` has dealt with are compared with two numbers of CloudWatch: the lines that arrived where
the stage writes them, and the requests of the stage; and those of each log group of usage lines with the lines that
arrived there. Of connections the log group's lines and the stage's requests are compared as well, in the hours through
which they were connected: what stood in a log group of somebody else's before, nobody has counted.

It is needed since CloudWatch Logs skips lines for good when it cannot
deliver to a subscription (a missing permission, a deleted function): nothing else would ever tell. They are still in
the log group, and ``metering recount --fix`` brings them in.

A whole day is compared, hour by hour anew, that ended an hour ago, when CloudWatch's own numbers are complete. A line
that is written before an edge of the day and counted behind it makes little difference, since there is one at either
edge; and what it makes is gone in the next hour, while what was lost stays for a day.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from metering.model.batches import Source
from metering.model.connections import Connection, Step
from metering.model.log_format import Api
from metering.model.periods import Hour
from metering.model.stages import Stage, connected
from metering.signals import NAMESPACE, written_usage_lines
from metering.stores.aws import in_pieces
from metering.stores.connections import Connections
from metering.stores.lines import Lines

WINDOW: Final = timedelta(hours=24)
SETTLING: Final = timedelta(hours=1)
"""How long CloudWatch's own metrics may take until they are complete."""

FEWEST: Final = 10
"""A difference of fewer lines is none: two of three missing are no news."""

MOST: Final = 2.0
"""No ratio is greater, so that a comparison with nothing has one, too."""

COUNTED_BEFORE: Final = "LinesCounted"
"""The metric in which version 1.0.0 told what it had dealt with: so the day of a deployment is whole."""

MOST_METRICS: Final = 500
"""How many one call is asked for (CloudWatch API Reference, "GetMetricData")."""

_PERIOD: Final = 3600
_NONE: Final[dict[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Completeness:
    """A day's numbers of lines ``counted`` (or set aside), lines ``written``, and ``requests``, None if not known."""

    counted: int
    written: int
    requests: int | None
    usage_lines: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """The usage lines that were counted and those that were written, by log group."""

    connected_lines: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """The same of connections' log groups."""

    connected_requests: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Lines that were counted and requests, by connection; without WebSocket APIs, whose requests nothing counts."""

    not_compared: Sequence[str] = ()
    """Why connections could not be read: nothing of these is compared."""

    @property
    def of_usage_lines(self) -> dict[str, float]:
        """Which part of the usage lines was counted, by log group; without groups that had none."""
        return _ratios(self.usage_lines)

    @property
    def of_connected_lines(self) -> dict[str, float]:
        """Which part of connections' lines was counted, by log group; without groups that had none."""
        return _ratios(self.connected_lines)

    @property
    def of_connected_requests(self) -> dict[str, float]:
        """Which part of connected stages' requests was counted, by connection; without those that had none."""
        return _ratios(self.connected_requests)

    @property
    def of_lines(self) -> float | None:
        """Which part of the lines was counted; None if there were none."""
        return ratio(self.counted, self.written)

    @property
    def of_requests(self) -> float | None:
        """Which part of the requests was counted; None if there were none, or no stage is known."""
        return None if self.requests is None else ratio(self.counted, self.requests)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the numbers are: ``delivery_stream`` is empty on the road without one."""

    lines: Lines
    connections: Connections
    deployment: str
    access_log_group: str
    delivery_stream: str
    stages: Sequence[Stage]

    def read(self, cloudwatch: Any, now: datetime) -> Completeness:
        """Return the numbers of the day that ended an hour ago; errors of AWS are raised as they are."""
        end = Hour.containing(now - SETTLING)
        day = [Hour(number) for number in range(Hour.containing(end.start - WINDOW).number, end.number)]
        readable, unread = self.connections.readable()
        connections = _Connected.during(day, readable)
        counted_by_hour = self.lines.by_hour(day[0], end)
        counted = sum(counted_by_hour.values(), Counter[str]())
        before = [(NAMESPACE, COUNTED_BEFORE, {"service": self.deployment}, "Sum")]
        written = [("AWS/Logs", "IncomingLogEvents", {"LogGroupName": self.access_log_group}, "Sum")]
        if self.delivery_stream:
            # Beside the log group: a stage writes there until its own stack has changed over to this road.
            written.append(("AWS/Firehose", "IncomingRecords", {"DeliveryStreamName": self.delivery_stream}, "Sum"))
        requests = [_requests(stage) for stage in self.stages]
        namespace = written_usage_lines(self.deployment)
        logs = [log for log in _names(cloudwatch, namespace) if log not in connections.hours_of_log]
        usage_lines = [(namespace, log, _NONE, "Sum") for log in logs]
        wanted = [*before, *written, *requests, *usage_lines, *connections.metrics()]
        found = iter(_by_hour(cloudwatch, wanted, end))
        sums = (of_metric.total() for of_metric in found)
        return Completeness(
            counted[Source.ACCESS_LOG.value] + next(sums),
            sum(islice(sums, len(written))),
            sum(islice(sums, len(requests))) if requests else None,
            {log: (counted[log], next(sums)) for log in logs},
            *connections.compared(counted_by_hour, lambda: next(found)),
            not_compared=unread,
        )


@dataclass(frozen=True, slots=True)
class _Connected:
    """Connections, and through which whole hours of the day: those of a log group are those of any that reads it."""

    stages: Mapping[str, tuple[Connection, Stage]]
    hours: Mapping[str, Sequence[Hour]]
    hours_of_log: Mapping[str, frozenset[Hour]]

    @classmethod
    def during(cls, day: Sequence[Hour], connections: Iterable[Connection]) -> "_Connected":
        """Return those that were connected through an hour of the day; usage lines are compared in another way."""
        hours = {}
        reading = {one.name: one for one in connections if one.is_access_log and one.step is not Step.CONNECTING}
        for name, one in reading.items():
            hours[name] = [hour for hour in day if one.covers_all_of(hour)]
        of_log: dict[str, frozenset[Hour]] = {}
        for name, there in hours.items():
            if there:
                log = reading[name].log_group
                of_log[log] = of_log.get(log, frozenset()) | frozenset(there)
        # Only the handshakes of a WebSocket API have a metric that counts nothing else beside them.
        stages = {
            name: (reading[name], connected(reading[name]))
            for name, there in hours.items()
            if there and reading[name].api is not Api.WEBSOCKET
        }
        return cls(stages, hours, of_log)

    def metrics(self) -> "list[_Metric]":
        """Return the metrics of what was written and asked, in the order in which :meth:`compared` takes them."""
        written: list[_Metric] = [
            ("AWS/Logs", "IncomingLogEvents", {"LogGroupName": log}, "Sum") for log in self.hours_of_log
        ]
        return [*written, *(_requests(stage) for _, stage in self.stages.values())]

    def compared(
        self, counted: Mapping[Hour, Counter[str]], next_metric: Callable[[], Counter[Hour]]
    ) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
        """Return lines counted and written by log group, and lines counted and requests by connection.

        Of a log group that other stages share, no line says in a sum whose it was: of these no more than the requests
        are taken to be counted, so that only too few of them show.
        """
        lines, requests = {}, {}
        for log, hours in self.hours_of_log.items():
            written = next_metric()
            lines[log] = (sum(counted[hour][log] for hour in hours), sum(written[hour] for hour in hours))
        for name, (connection, _) in self.stages.items():
            asked, is_shared = next_metric(), connection.shares_log and not connection.alone
            there = sum(counted[hour][connection.log_group] for hour in self.hours[name])
            wanted = sum(asked[hour] for hour in self.hours[name])
            requests[name] = (min(there, wanted) if is_shared else there, wanted)
        return lines, requests


_Metric = tuple[str, str, Mapping[str, str], str]
"""A metric of CloudWatch: namespace, name, dimensions, statistic."""


def _requests(stage: Stage) -> _Metric:
    """Return the metric of a stage's requests (API Gateway Developer Guide, "Dimensions and metrics")."""
    return "AWS/ApiGateway", "Count", stage.dimensions, "SampleCount"


def ratio(counted: int, expected: int) -> float | None:
    """Return how much was counted of what was expected, at most :data:`MOST`; None where there was nothing at all."""
    if not counted and not expected:
        return None
    if abs(counted - expected) < FEWEST:
        return 1.0
    return min(counted / expected, MOST) if expected else MOST


def _names(cloudwatch: Any, namespace: str) -> list[str]:
    """Return the names of a namespace's metrics of the last two weeks (CloudWatch API Reference, "ListMetrics")."""
    pages = cloudwatch.get_paginator("list_metrics").paginate(Namespace=namespace)
    return sorted({metric["MetricName"] for page in pages for metric in page["Metrics"]})


def _ratios(numbers: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    ratios = {name: ratio(*pair) for name, pair in numbers.items()}
    return {name: part for name, part in ratios.items() if part is not None}


def _by_hour(cloudwatch: Any, metrics: Sequence[_Metric], end: Hour) -> list[Counter[Hour]]:
    """Return the sums of each metric's statistic in the hours of the day before an hour."""
    queries = [
        {
            "Id": f"m{number}",
            "MetricStat": {
                "Metric": {
                    "Namespace": namespace,
                    "MetricName": name,
                    "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
                },
                "Period": _PERIOD,
                "Stat": statistic,
            },
        }
        for number, (namespace, name, dimensions, statistic) in enumerate(metrics)
    ]
    sums: dict[Any, Counter[Hour]] = {query["Id"]: Counter() for query in queries}
    paginator = cloudwatch.get_paginator("get_metric_data")
    for some in in_pieces(queries, MOST_METRICS):
        for page in paginator.paginate(MetricDataQueries=some, StartTime=end.start - WINDOW, EndTime=end.start):
            for found in page["MetricDataResults"]:
                for at, value in zip(found["Timestamps"], found["Values"], strict=True):
                    sums[found["Id"]][Hour.containing(at)] += round(value)
    return list(sums.values())
