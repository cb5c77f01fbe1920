"""AWS's prices: US East (N. Virginia), on demand, without discounts, in dollars, as of November 2026.

From each service's pricing page at aws.amazon.com; the first tier where a price falls with volume.
"""

from typing import Final

LAMBDA_REQUEST: Final = 0.20 / 1e6
LAMBDA_GB_S: Final = 0.0000133334  # arm64
DYNAMODB_WRITE: Final = 0.625 / 1e6
DYNAMODB_READ: Final = 0.125 / 1e6
S3_PUT: Final = 0.005 / 1e3
S3_GET: Final = 0.0004 / 1e3
S3_GB_MONTH: Final = 0.023
GLACIER_INSTANT_GB_MONTH: Final = 0.004
GLACIER_INSTANT_TRANSITION: Final = 0.02 / 1e3
SQS_REQUEST: Final = 0.40 / 1e6
LOGS_GB: Final = 0.50
"""Ingestion of an API's access log and of a function's own log (both "vended": cheaper beyond 10 TB a month)."""

LOGS_GB_MONTH: Final = 0.03  # gzipped
LOGS_EVENT: Final = 26
"""Bytes of metadata that are kept with each line."""

METRIC_MONTH: Final = 0.30  # by the hour in which it is sent
METRIC_ASKED_FOR: Final = 0.01 / 1e3  # GetMetricData
ALARM_MONTH: Final = 0.10
SECRET_MONTH: Final = 0.40
SECRET_CALL: Final = 0.05 / 1e4
SCHEDULER_INVOCATION: Final = 1.00 / 1e6
FIREHOSE_GB: Final = 0.029
FIREHOSE_LEAST_RECORD: Final = 5 * 1024
"""Every record is billed as a multiple of this, and API Gateway writes a record for each line."""
