"""Lambda: a tick of the clock → which part of the access log, and of the requests, was counted."""

from datetime import UTC, datetime
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.counting.completeness import Sources
from metering.model.stages import decode
from metering.settings import CheckCompletenessSettings
from metering.signals import Signal
from metering.stores import aws
from metering.stores.connections import Connections, UnreadableConnectionError
from metering.stores.counters import Counters

logger = Logger()
signals = Metrics()


@logger.inject_lambda_context
def handler(_event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Compare the day that ended an hour ago; where there was no traffic, nothing is told, and nothing paid."""
    completeness = _sources().read(aws.cloudwatch(), datetime.now(UTC))
    of_logs = completeness.of_usage_lines | completeness.of_connected_lines
    ratios = {
        Signal.COMPLETENESS_OF_LINES: [completeness.of_lines, *of_logs.values()],
        Signal.COMPLETENESS_OF_REQUESTS: [completeness.of_requests, *completeness.of_connected_requests.values()],
    }
    for signal, parts in ratios.items():
        for part in parts:
            if part is not None:
                signals.add_metric(signal, MetricUnit.NoUnit, part)
    if signals.metric_set:
        signals.flush_metrics()
    report: dict[str, Any] = {
        "counted": completeness.counted,
        "written": completeness.written,
        "requests": completeness.requests,
        "of_lines": completeness.of_lines,
        "of_requests": completeness.of_requests,
        "of_usage_lines": completeness.of_usage_lines,
        "of_connected_lines": completeness.of_connected_lines,
        "of_connected_requests": completeness.of_connected_requests,
    }
    logger.info("completeness checked", **report)
    if completeness.not_compared:  # an error, which rings an alarm, once all others are compared
        raise UnreadableConnectionError("; ".join(completeness.not_compared))
    return report


@cache
def _sources() -> Sources:
    settings = CheckCompletenessSettings.read()
    lines = Counters(aws.dynamodb(), settings.counters_table).lines
    return Sources(
        lines,
        Connections(aws.dynamodb(), settings.ledger_table),
        settings.deployment,
        settings.access_log_group,
        settings.delivery_stream,
        decode(settings.stages),
    )
