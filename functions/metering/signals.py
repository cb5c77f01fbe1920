"""What the functions tell: the names of their metrics, shared with the alarms that watch them, and of their events."""

from enum import StrEnum
from typing import Final

NAMESPACE: Final = "Metering"
"""The CloudWatch namespace; the dimension ``service`` is the deployment's name."""


def written_usage_lines(deployment: str) -> str:
    """Return the namespace in which CloudWatch counts what is written of usage lines, by the log group's name.

    It does so by the pattern of the subscription that brings them, whether that delivers them or not.
    """
    return f"{NAMESPACE}/{deployment}"


SOURCE: Final = "metering"
"""Who puts an event on the account's bus."""

DETAIL_TYPE: Final = "Usage rejected"
"""What is put there: one event for each total that Stripe rejected."""


LIMITS_SOURCE: Final = "metering.limits"
"""Who puts events about limits on the account's bus."""

THRESHOLD_REACHED: Final = "Threshold reached"
ACCESS_SLOWED: Final = "Access slowed"
ACCESS_STOPPED: Final = "Access stopped"
ACCESS_REOPENED: Final = "Access reopened"
LIMITS_DETAIL_TYPES: Final = (THRESHOLD_REACHED, ACCESS_SLOWED, ACCESS_STOPPED, ACCESS_REOPENED)
"""What is put there: one event for each threshold of a window, and for each change of a customer's access."""


class Signal(StrEnum):
    """A CloudWatch metric.

    Counts but for ``OLDEST_RECORD_AGE`` and ``LIMITS_UNENFORCED``, which are in seconds, and the two ratios.
    """

    RECORDS_READ = "RecordsRead"
    """Lines that reached ``record_usage``, usage lines too: billed + unbilled + set aside."""

    RECORDS_BILLED = "RecordsBilled"
    """Lines that a metric bills."""

    RECORDS_UNBILLED = "RecordsUnbilled"
    """Good lines that nobody is billed for: no API key, or a status that no metric bills."""

    RECORDS_SET_ASIDE = "RecordsSetAside"
    """Lines that cannot be counted as they stand, kept in the bucket with their reason."""

    BATCHES_REFUSED = "BatchesRefused"
    """Batches of which every counter said that it had counted them before."""

    OLDEST_RECORD_AGE = "OldestRecordAge"
    """Seconds between the oldest request of a batch and its counting."""

    HOURS_BEHIND = "HoursBehind"
    """Due hours that are not closed; more than one for long means that something keeps them open."""

    HOURS_UNPOSTED = "HoursUnposted"
    """Hours that ended over an hour ago and have a total that waits for Stripe; while posting is on."""

    USAGE_POSTED = "UsagePosted"
    """Totals that Stripe accepted."""

    USAGE_PENDING = "UsagePending"
    """Totals that are still to be posted, after a run."""

    USAGE_REJECTED = "UsageRejected"
    """Totals that Stripe refused for good: an operator must act."""

    USAGE_UNMAPPED = "UsageUnmapped"
    """Rows written in a run for keys that belong to no customer: ``HELD`` until the keys have one."""

    CORRECTIONS_VOID = "CorrectionsVoid"
    """Corrections that were made against another count than there is now: ``metering recount`` says what is missing."""

    COMPLETENESS_OF_LINES = "CompletenessOfLines"
    """Lines counted or set aside, divided by lines written, of the last day: a value for the access log, and one for
    each log group of usage lines or of a connection."""

    COMPLETENESS_OF_REQUESTS = "CompletenessOfRequests"
    """Lines counted or set aside, divided by the stages' requests, of the last day: a value for the stages that write
    the access log, and one for each connection."""

    USAGE_CARRIED = "UsageCarried"
    """Differences that were carried into the current hour: from an invoice, an hour too old, or one that came to less
    than nothing or to more than Stripe takes."""

    USAGE_WITHOUT_SUBSCRIPTION = "UsageWithoutSubscription"
    """Differences that wait until the customer has a subscription which bills their metric, or for a person."""

    USAGE_POSTED_AGAIN = "UsagePostedAgain"
    """Totals that Stripe did not show, and that were posted again."""

    USAGE_DIFFERING = "UsageDiffering"
    """Totals that Stripe does not show although they were posted again, and invoices that bill something else than was
    used, or cannot be read: a person must look."""

    ROWS_REJECTED = "RowsRejected"
    """Customers' hours that hold usage which Stripe refused for good, as they stand at the hourly look."""

    ROWS_UNPOSTED = "RowsUnposted"
    """Customers' hours that ended over an hour ago and hold usage which waits for Stripe, as they stand; also while
    posting is off, once it has been on."""

    ROWS_WITHOUT_STRIPE_CUSTOMER = "RowsWithoutStripeCustomer"
    """Customers' hours that are held until the customer has a Stripe customer, as they stand."""

    ROWS_TOO_OLD = "RowsTooOld"
    """Customers' hours that are held as too old for Stripe, as they stand: they are carried when somebody pays."""

    ROWS_UNBILLED = "RowsUnbilled"
    """Customers' hours of the last 35 days that Stripe has and that no subscription bills, as each was looked at in the
    last day: there is none, it has no price of the metric, it has ended, or its invoices are not collected."""

    ROWS_BEFORE_SUBSCRIPTION = "RowsBeforeSubscription"
    """The same of hours from before a subscription, or in its trial, which are never billed and ask for nothing."""

    NOTIFICATIONS_REFUSED = "NotificationsRefused"
    """Requests to the address for Stripe's notifications that were none."""

    LIMITS_UNENFORCED = "LimitsUnenforced"
    """Seconds that the oldest stop of a customer's keys has waited to be seen done at the gateway."""
