"""What a check of a deployment finds, and CloudWatch's numbers for it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any, Final

from infra.operate.deployment import Deployment

DAY: Final = timedelta(days=1)
PERIOD: Final = timedelta(minutes=5)
DEPLOY: Final = "deploy the stack again"

NEAR: Final = 0.8
"""From this part of a quota on, somebody should know."""


class State(StrEnum):
    """How something is; only what is broken makes ``metering doctor`` exit with 1."""

    OK = "ok"
    WARNING = "warning"
    """It works, or could not be looked at; a person should act, or know."""

    BROKEN = "broken"
    """Usage is not counted, closed or billed as it should be, until a person acts."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: how something is, and ``do``, what to do about it, which is empty only where all is well."""

    state: State
    said: str
    do: str = ""


Check = Callable[[Deployment, datetime], Iterator[Finding]]
"""Looks at one thing at a moment and changes nothing. What it cannot ask, it raises."""


def ok(said: str) -> Finding:
    """Return that all is well."""
    return Finding(State.OK, said)


def warning(said: str, do: str) -> Finding:
    """Return what a person should know."""
    return Finding(State.WARNING, said, do)


def broken(said: str, do: str) -> Finding:
    """Return what does not work."""
    return Finding(State.BROKEN, said, do)


def named(names: Iterable[str], number: int, most: int) -> str:
    """Name the first ``most`` of a number of things, and say how many more there are."""
    return ", ".join(islice(names, most)) + f" and {number - most:,} more" * (number > most)


def in_quantities(used: Mapping[str, int]) -> str:
    """Write quantities by metric: ``bytes: 70, requests: 1,200``."""
    return ", ".join(f"{metric}: {quantity:,}" for metric, quantity in sorted(used.items()))


Measured = tuple[str, str, str, Mapping[str, str]]
"""A metric of CloudWatch: namespace, name, statistic, dimensions."""


def measured(deployment: Deployment, metrics: Sequence[Measured], now: datetime, window: timedelta) -> list[float]:
    """Return each metric's sum, or for the statistic Maximum its highest value, in the time before ``now``."""
    return [
        max(values, default=0.0) if statistic == "Maximum" else sum(values)
        for (_, _, statistic, _), values in zip(metrics, series(deployment, metrics, now, window), strict=True)
    ]


def series(deployment: Deployment, metrics: Sequence[Measured], now: datetime, window: timedelta) -> list[list[float]]:
    """Return each metric's values in the time before ``now``, one for each :data:`PERIOD` in which it was measured.

    One call for up to 500 metrics.
    """
    queries = [
        {
            "Id": f"m{number}",
            "MetricStat": {
                "Metric": {
                    "Namespace": namespace,
                    "MetricName": name,
                    "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
                },
                "Period": int(PERIOD.total_seconds()),
                "Stat": statistic,
            },
        }
        for number, (namespace, name, statistic, dimensions) in enumerate(metrics)
    ]
    values: dict[str, list[float]] = {str(query["Id"]): [] for query in queries}
    pages = deployment.client("cloudwatch").get_paginator("get_metric_data")
    for page in pages.paginate(MetricDataQueries=queries, StartTime=now - window, EndTime=now):
        for found in page["MetricDataResults"]:
            values[found["Id"]] += found["Values"]
    return list(values.values())


def resources(deployment: Deployment, kind: str) -> Iterator[Any]:
    """Yield the stack's own resources of a kind, such as ``AWS::CloudWatch::Alarm``."""
    client = deployment.client("cloudformation")
    for resource in items(client, "list_stack_resources", "StackResourceSummaries", StackName=deployment.stack):
        if resource["ResourceType"] == kind:
            yield resource


def items(client: Any, operation: str, name: str, **arguments: Any) -> Iterator[Any]:
    """Yield what is under ``name`` on every page of an operation's answers."""
    for page in client.get_paginator(operation).paginate(**arguments):
        yield from page.get(name, [])
