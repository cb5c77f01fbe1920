"""Lambda: a batch of access-log lines → counters."""

from datetime import UTC, datetime
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering import aws, metrics, recording
from metering.counters import Counters
from metering.set_aside import SetAside
from metering.settings import RecordUsageSettings
from metering.signals import Signal

logger = Logger()
signals = Metrics()


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Count what a CloudWatch Logs subscription delivers; an error makes Lambda deliver it again."""
    batch = recording.decode(event)
    if batch.is_probe:
        return {"read": 0}
    recorded = _recorder().record(batch)
    _tell(recorded)
    return {"read": recorded.read, "billed": recorded.billed, "set_aside": recorded.set_aside}


@cache
def _recorder() -> recording.Recorder:
    settings = RecordUsageSettings.read()
    return recording.Recorder(
        metrics=metrics.decode(settings.metrics),
        counters=Counters(aws.dynamodb(), settings.counters_table),
        set_aside=SetAside(aws.s3(), settings.bucket),
        clock=lambda: datetime.now(UTC),
    )


def _tell(recorded: recording.Recorded) -> None:
    unbilled = sum(recorded.unbilled.values())
    for signal, count in {
        Signal.RECORDS_READ: recorded.read,
        Signal.RECORDS_BILLED: recorded.billed,
        Signal.RECORDS_UNBILLED: unbilled,
        Signal.RECORDS_SET_ASIDE: recorded.set_aside,
        Signal.BATCHES_REFUSED: int(recorded.refused),
    }.items():
        signals.add_metric(signal, MetricUnit.Count, count)
    if recorded.oldest is not None:
        age = max(0.0, (datetime.now(UTC) - recorded.oldest).total_seconds())
        signals.add_metric(Signal.OLDEST_RECORD_AGE, MetricUnit.Seconds, age)
    signals.flush_metrics()
    logger.info(
        "batch recorded",
        read=recorded.read,
        billed=recorded.billed,
        unbilled=dict(recorded.unbilled),
        set_aside=recorded.set_aside,
        refused=recorded.refused,
    )
