"""Lambda: a tick of the clock → due hours closed into the ledger, and posted to Stripe."""

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.typing import LambdaContext

from metering import aws
from metering.claims import Claims
from metering.closing import Closed, Closer
from metering.counters import Counters
from metering.ledger import Ledger
from metering.posting import Posted, Poster
from metering.settings import ClosePeriodsSettings
from metering.signals import Signal
from metering.stripe_meters import SLOWEST_CALL, StripeMeters, key_from
from metering.uniques import Uniques

logger = Logger()
signals = Metrics()


@logger.inject_lambda_context
def handler(_event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Close what is due and post what is pending; what does not fit into the time is done by the next tick."""
    start = datetime.now(UTC)
    time = timedelta(milliseconds=context.get_remaining_time_in_millis()) - timedelta(seconds=SLOWEST_CALL + 5)
    settings, counters, uniques, ledger, stripe = _parts()
    closer = Closer(counters, uniques, ledger, clock=_clock, deadline=start + time / 2)
    closed = closer.close_due()
    poster = Poster(ledger, stripe, epoch=settings.ledger_epoch, clock=_clock, deadline=start + time)
    posted = poster.post_pending(closed.pending)
    closer.settle(closed, unsettled=posted.unsettled)
    _tell(closed, posted)
    return report(closed, posted)


def report(closed: Closed, posted: Posted) -> dict[str, Any]:
    """Return what a run did, as the command line shows it."""
    return {
        "written": [str(hour) for hour in closed.written],
        "closed": [str(hour) for hour in closed.closed],
        "closed_again": closed.again,
        "behind": closed.behind,
        "unmapped": closed.unmapped,
        "posted": posted.posted,
        "rejected": posted.rejected,
        "held": posted.held,
        "pending": posted.pending,
        "reasons": dict(posted.reasons),
    }


def _clock() -> datetime:
    return datetime.now(UTC)


@cache
def _parts() -> tuple[ClosePeriodsSettings, Counters, Uniques, Ledger, StripeMeters]:
    settings = ClosePeriodsSettings.read()
    key = key_from(SecretsProvider(boto3_client=aws.secrets()), settings.stripe_secret)
    ledger = Ledger(aws.dynamodb(), settings.ledger_table)
    return (
        settings,
        Counters(aws.dynamodb(), settings.counters_table),
        Uniques(Claims(aws.dynamodb(), settings.counters_table), ledger),
        ledger,
        StripeMeters(key, settings.deployment, settings.stripe_api_base),
    )


def _tell(closed: Closed, posted: Posted) -> None:
    """Emit the signals that are not zero: each costs money for as long as it is sent."""
    for signal, count in {
        Signal.HOURS_BEHIND: closed.behind,
        Signal.USAGE_POSTED: posted.posted,
        Signal.USAGE_PENDING: posted.pending,
        Signal.USAGE_REJECTED: posted.rejected,
        Signal.USAGE_UNMAPPED: closed.unmapped,
    }.items():
        if count:
            signals.add_metric(signal, MetricUnit.Count, count)
    if signals.metric_set:
        signals.flush_metrics()
    logger.info("run finished", **report(closed, posted))
