"""Completeness: whether everything that was written into the access log has been counted, and every request written.

The lines that ``record_usage`` has dealt with are compared with two numbers of CloudWatch: the lines that arrived where
the stage writes them, and the requests of the stage; and those of each log group of usage lines with the lines that
arrived there. It is needed since CloudWatch Logs skips lines for good when it cannot
deliver to a subscription (a missing permission, a deleted function): nothing else would ever tell. They are still in
the log group, and ``metering recount --fix`` brings them in.

A whole day is compared, hour by hour anew, that ended an hour ago, when CloudWatch's own numbers are complete. A line
that is written before an edge of the day and counted behind it makes little difference, since there is one at either
edge; and what it makes is gone in the next hour, while what was lost stays for a day.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from metering.model.batches import Source
from metering.model.periods import Hour
from metering.model.stages import Stage
from metering.signals import NAMESPACE, written_usage_lines
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

    @property
    def of_usage_lines(self) -> dict[str, float]:
        """Which part of the usage lines was counted, by log group; without groups that had none."""
        ratios = {log: ratio(*numbers) for log, numbers in self.usage_lines.items()}
        return {log: part for log, part in ratios.items() if part is not None}

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
    deployment: str
    access_log_group: str
    delivery_stream: str
    stages: Sequence[Stage]

    def read(self, cloudwatch: Any, now: datetime) -> Completeness:
        """Return the numbers of the day that ended an hour ago; errors of AWS are raised as they are."""
        end = Hour.containing(now - SETTLING)
        counted = self.lines.of(Hour.containing(end.start - WINDOW), end)
        before = [(NAMESPACE, COUNTED_BEFORE, {"service": self.deployment}, "Sum")]
        written = [("AWS/Logs", "IncomingLogEvents", {"LogGroupName": self.access_log_group}, "Sum")]
        if self.delivery_stream:
            # Beside the log group: a stage writes there until its own stack has changed over to this road.
            written.append(("AWS/Firehose", "IncomingRecords", {"DeliveryStreamName": self.delivery_stream}, "Sum"))
        # The statistic that stands for the requests (API Gateway Developer Guide, "Dimensions and metrics").
        requests = [("AWS/ApiGateway", "Count", stage.dimensions, "SampleCount") for stage in self.stages]
        namespace = written_usage_lines(self.deployment)
        logs = _names(cloudwatch, namespace)
        usage_lines = [(namespace, log, _NONE, "Sum") for log in logs]
        sums = iter(_sums(cloudwatch, [*before, *written, *requests, *usage_lines], end))
        return Completeness(
            counted[Source.ACCESS_LOG.value] + next(sums),
            sum(islice(sums, len(written))),
            sum(islice(sums, len(requests))) if requests else None,
            {log: (counted[log], next(sums)) for log in logs},
        )


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


def _sums(cloudwatch: Any, metrics: Sequence[tuple[str, str, Mapping[str, str], str]], end: Hour) -> list[int]:
    """Return the sum of each metric's statistic over the day before an hour."""
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
    sums = dict.fromkeys((query["Id"] for query in queries), 0.0)
    pages = cloudwatch.get_paginator("get_metric_data").paginate(
        MetricDataQueries=queries, StartTime=end.start - WINDOW, EndTime=end.start
    )
    for page in pages:
        for found in page["MetricDataResults"]:
            sums[found["Id"]] += sum(found["Values"])
    return [round(number) for number in sums.values()]
