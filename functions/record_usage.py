"""Lambda: what the access log tells, by either road, and your own code's usage lines → counters."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, assert_never

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.counting import archive, payloads, redriving
from metering.counting.log_groups import LogGroups
from metering.counting.recorded import Recorded
from metering.counting.recording import Hashing, Recorder
from metering.model import metrics
from metering.model.batches import Batch
from metering.settings import RecordUsageSettings
from metering.signals import Signal
from metering.stores import aws
from metering.stores.claims import Claims
from metering.stores.connections import Connections
from metering.stores.counters import Counters
from metering.stores.holders import Holders
from metering.stores.objects import Bucket
from metering.stores.set_aside import SetAside

logger = Logger()
signals = Metrics()


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Count what CloudWatch Logs delivers, or what S3 tells of through SQS, or what is to be redriven.

    An error makes Lambda, or SQS, deliver it again.
    """
    match payloads.received(event):
        case payloads.Notified() as notified:
            return _record_objects(notified, context)
        case payloads.RedriveWanted(wanted):
            deadline = _end(context) - redriving.SLOWEST_PIECE
            return redriving.redrive(_parts().recorder, wanted, deadline=deadline)
        case payloads.Subscription() as subscription:
            return _record_lines(subscription)
        case other:
            assert_never(other)


def _record_lines(subscription: payloads.Subscription) -> dict[str, Any]:
    if subscription.is_probe:
        return {"read": 0}
    parts = _parts()
    recorded = parts.recorder.record(parts.log_groups.batch(subscription))
    return {"read": recorded.read, "billed": recorded.billed, "set_aside": recorded.set_aside}


def _record_objects(notified: payloads.Notified, context: LambdaContext) -> dict[str, Any]:
    """Record the objects of each message; only those that failed, or go on in the next run, come again.

    Where every message failed, so does the function, so that Lambda counts an error and its log says which.
    """
    end = _end(context)
    parts = _parts()
    bucket = Bucket(aws.s3(), parts.bucket, owner=context.invoked_function_arn.split(":")[4])
    reading = archive.Archive(bucket, parts.recorder, _clock, end - archive.SLOWEST_CHUNK)
    processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)
    answer = process_partial_response(
        event=notified.event,
        record_handler=lambda record: _record_notified(reading, record),
        processor=processor,
        context=context,
    )
    # One object that goes on in the next run is no error: its message comes again.
    errors = [error for _, error, _ in processor.exceptions if error and not isinstance(error, archive.OutOfTimeError)]
    if errors and len(errors) == len(notified.event["Records"]):
        raise errors[0]
    return dict(answer)


class _TellingRecorder(Recorder):
    """Tells of each batch once it is recorded: also of those of a big object that another run goes on with."""

    def record(self, batch: Batch) -> Recorded:
        recorded = super().record(batch)
        _tell(recorded)
        return recorded


def _record_notified(reading: archive.Archive, message: SQSRecord) -> None:
    for found in payloads.notified_objects(message.body):
        reading.record(found)


def _clock() -> datetime:
    return datetime.now(UTC)


def _end(context: LambdaContext) -> datetime:
    """Return when Lambda ends this run, whatever it is at."""
    return _clock() + timedelta(milliseconds=context.get_remaining_time_in_millis())


@dataclass(frozen=True, slots=True)
class Parts:
    """What the function works with, made once in a process."""

    log_groups: LogGroups
    bucket: str
    recorder: Recorder


@cache
def _parts() -> Parts:
    settings = RecordUsageSettings.read()
    declared, nonces = metrics.decode(settings.metrics), tuple(settings.nonces.split())
    connections = Connections(aws.dynamodb(), settings.ledger_table)
    log_groups = LogGroups(settings.access_log_group, nonces, declared, connections)
    recorder = _TellingRecorder(
        metrics=declared,
        nonces=nonces,
        counters=Counters(aws.dynamodb(), settings.counters_table),
        claims=Claims(aws.dynamodb(), settings.counters_table),
        set_aside=SetAside(aws.s3(), settings.bucket),
        clock=_clock,
        hashing=_hashing(settings) if metrics.needs_hash(declared) else None,
        log_groups=log_groups,
    )
    return Parts(log_groups, settings.bucket, recorder)


def _hashing(settings: RecordUsageSettings) -> Hashing:
    secret = SecretsProvider(boto3_client=aws.secrets()).get(settings.hash_secret)
    return Hashing(str(secret).encode(), Holders(aws.dynamodb(), settings.ledger_table))


def _tell(recorded: Recorded) -> None:
    """Emit the signals that are not zero: each costs money for as long as it is sent."""
    for signal, count in {
        Signal.RECORDS_READ: recorded.read,
        Signal.RECORDS_BILLED: recorded.billed,
        Signal.RECORDS_UNBILLED: sum(recorded.unbilled.values()),
        Signal.RECORDS_SET_ASIDE: recorded.set_aside,
        Signal.BATCHES_REFUSED: recorded.refused,
    }.items():
        if count:
            signals.add_metric(signal, MetricUnit.Count, count)
    if recorded.oldest is not None:
        age = max(0.0, (_clock() - recorded.oldest).total_seconds())
        signals.add_metric(Signal.OLDEST_RECORD_AGE, MetricUnit.Seconds, age)
    if recorded.read:
        signals.flush_metrics()
    logger.info(
        "batch recorded",
        read=recorded.read,
        billed=recorded.billed,
        unbilled=dict(recorded.unbilled),
        set_aside=recorded.set_aside,
        partly=recorded.partly,
        refused=recorded.refused,
    )
