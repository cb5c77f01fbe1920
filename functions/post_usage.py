"""Lambda: what is pending in the ledger, in some shards of it → Stripe."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering.billing.posting import Poster
from metering.billing.rejections import tell_rejected
from metering.billing.sending import Posted
from metering.layout import SHARDS
from metering.model.identifiers import epoch_of
from metering.model.periods import Hour
from metering.settings import PostUsageSettings
from metering.signals import Signal
from metering.stores import aws
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stores.switch import PostingSwitch
from metering.stripe.client import SLOWEST_CALL, key_from
from metering.stripe.meters import StripeMeters
from metering.stripe.pacing import Pace

logger = Logger()
signals = Metrics()


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Post what is pending in the shards that the event names (all without any), as far as nobody else does already."""
    now = _clock()
    time = timedelta(milliseconds=context.get_remaining_time_in_millis())
    parts = _parts()
    first = parts.switch.read().first
    wanted = event.get("shards", list(range(SHARDS)))
    if first is None:
        return report(Posted(), leased=[]) | {"posting": False}
    holder = context.aws_request_id
    shards = parts.switch.lease(wanted, holder, now=now, until=now + time)
    posted = Posted()
    if shards:
        try:
            posted = _poster(parts, len(shards), now + time).post_pending(first, shards)
        finally:
            parts.switch.release(shards, holder)
    _tell({Signal.USAGE_POSTED: posted.posted, Signal.USAGE_PENDING: posted.pending})
    told = report(posted, leased=sorted({*wanted} - {*shards})) | {"posting": True}
    logger.info("run finished", **told)
    if posted.failures:  # after everyone else's usage is posted and told of, the run fails all the same
        raise ExceptionGroup("rows could not be read or written", posted.failures)
    return told


def _poster(parts: "Parts", shards: int, until: datetime) -> Poster:
    """Return a poster for the share of the account's rate that belongs to so many shards."""
    settings = parts.settings
    return Poster(
        parts.ledger,
        parts.counters,
        parts.stripe,
        epoch=epoch_of(settings.ledger_epoch, settings.deployment),
        clock=_clock,
        deadline=until - timedelta(seconds=SLOWEST_CALL + 5),
        pace=Pace(float(settings.stripe_rate) * shards / SHARDS),
        streamed_from=Hour.parse(settings.streamed_from) if settings.streamed_from else None,
        tell=_tell_rejected,
    )


def report(posted: Posted, *, leased: list[int]) -> dict[str, Any]:
    """Return what a run did, as the command line shows it; ``leased`` are the shards that somebody else posts."""
    return {
        "posted": posted.posted,
        "rejected": posted.rejected,
        "held": posted.held,
        "pending": posted.pending,
        "reasons": dict(posted.reasons),
        "leased": leased,
    }


def _clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the function works with, made once in a process."""

    settings: PostUsageSettings
    ledger: Ledger
    counters: Counters
    switch: PostingSwitch
    stripe: StripeMeters


@cache
def _parts() -> Parts:
    settings = PostUsageSettings.read()
    dynamodb = aws.dynamodb()
    key = key_from(SecretsProvider(boto3_client=aws.secrets()), settings.stripe_secret)
    return Parts(
        settings,
        Ledger(dynamodb, settings.ledger_table),
        Counters(dynamodb, settings.counters_table),
        PostingSwitch(dynamodb, settings.ledger_table),
        StripeMeters(key, settings.deployment, settings.stripe_api_base),
    )


def _tell_rejected(refused: Mapping[str, str]) -> None:
    """Emit the signal, and put an event for each total that Stripe rejected."""
    _tell({Signal.USAGE_REJECTED: len(refused)})
    tell_rejected(refused, _parts().ledger.holders)


def _tell(counts: Mapping[Signal, int]) -> None:
    """Emit the signals that are not zero."""
    for signal, count in counts.items():
        if count:
            signals.add_metric(signal, MetricUnit.Count, count)
    if signals.metric_set:
        signals.flush_metrics()
