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

logger = Logger()
signals = Metrics()


@logger.inject_lambda_context
def handler(_event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Compare the day that ended an hour ago; where there was no traffic, nothing is told, and nothing paid."""
    completeness = _sources().read(aws.cloudwatch(), datetime.now(UTC))
    ratios = {
        Signal.COMPLETENESS_OF_LINES: completeness.of_lines,
        Signal.COMPLETENESS_OF_REQUESTS: completeness.of_requests,
    }
    for signal, ratio in ratios.items():
        if ratio is not None:
            signals.add_metric(signal, MetricUnit.NoUnit, ratio)
    if signals.metric_set:
        signals.flush_metrics()
    report: dict[str, Any] = {
        "counted": completeness.counted,
        "written": completeness.written,
        "requests": completeness.requests,
        "of_lines": completeness.of_lines,
        "of_requests": completeness.of_requests,
    }
    logger.info("completeness checked", **report)
    return report


@cache
def _sources() -> Sources:
    settings = CheckCompletenessSettings.read()
    return Sources(settings.deployment, settings.access_log_group, settings.delivery_stream, decode(settings.stages))
