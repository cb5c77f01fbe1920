"""What the functions tell CloudWatch: the names of their metrics, shared with the alarms that watch them."""

from enum import StrEnum
from typing import Final

NAMESPACE: Final = "Metering"
"""The CloudWatch namespace; the dimension ``service`` is the deployment's name."""


class Signal(StrEnum):
    """A CloudWatch metric. Counts but for ``OLDEST_RECORD_AGE``, which is in seconds."""

    RECORDS_READ = "RecordsRead"
    """Access-log lines that reached ``record_usage``: billed + unbilled + set aside."""

    RECORDS_BILLED = "RecordsBilled"
    RECORDS_UNBILLED = "RecordsUnbilled"
    """Good lines that nobody is billed for: no API key, or a status that no metric bills."""

    RECORDS_SET_ASIDE = "RecordsSetAside"
    """Lines that cannot be counted as they stand, kept in the bucket with their reason."""

    BATCHES_REFUSED = "BatchesRefused"
    """Batches of which every counter said that it had counted them before."""

    OLDEST_RECORD_AGE = "OldestRecordAge"

    HOURS_BEHIND = "HoursBehind"
    """Due hours that are not closed; more than one for long means that something keeps them open."""

    USAGE_POSTED = "UsagePosted"
    """Totals that Stripe accepted."""

    USAGE_PENDING = "UsagePending"
    """Totals that are still to be posted, after a run."""

    USAGE_REJECTED = "UsageRejected"
    """Totals that Stripe refused for good: an operator must act."""

    USAGE_UNMAPPED = "UsageUnmapped"
    """Rows written in this run for keys that belong to no customer: they are billed once the keys have one."""
