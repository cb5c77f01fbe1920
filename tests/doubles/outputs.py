"""A metering stack's outputs where there is no stack."""

from typing import Any

from infra.outputs import Outputs
from tests.doubles.access_log import NONCE


def outputs(**told: Any) -> Outputs:
    """Return outputs that name the tables and the bucket of tests; ``told`` are those that are to be otherwise."""
    named = {
        "counters_table": "counters",
        "ledger_table": "ledger",
        "bucket": "bucket",
        "road": "subscription",
        "access_log_group": "access-log",
        "connected_logs": "/aws/vendedlogs/metering/Metering/00000000-0000-11f0-8000-0a58a9feac02/",
        "record_usage_function": "record-usage",
        "close_periods_function": "close-periods",
        "post_usage_function": "post-usage",
        "reconcile_usage_function": "reconcile-usage",
        "check_completeness_function": "check-completeness",
        "receive_events_function": "receive-events",
        "notifications_url": "https://example.com",
        "show_usage_function": "show-usage",
        "portal_url": "https://portal.example.com/",
        "portal_secret": "portal-secret",
        "stripe_secret": "stripe-secret",
        "signing_secret": "signing-secret",
        "stripe_api_base": "http://127.0.0.1:1",
        "stripe_reads_a_month": "10000",
        "deployment": "Metering",
        "metrics": "requests,bytes",
        "nonces": NONCE,
        "alarm_topic": "alarms",
        "dashboard": "Metering",
    }
    return Outputs(**(named | told))
