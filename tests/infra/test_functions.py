"""How the functions are run, and what sets them off."""

import pytest
from aws_cdk.cx_api import CloudAssembly

from app import METRICS
from metering.metrics import decode, encode
from tests.infra.resources import DEPLOYMENT, Template, of_type, properties


@pytest.mark.parametrize("name", ["IngestRecordUsage", "BillingClosePeriods", "CheckingCheckCompleteness"])
def test_functions_run_python_3_13_on_arm64(template: Template, name: str) -> None:
    """And log JSON into a log group of their own that keeps it for 30 days."""
    function = properties(template, name)
    assert function["Architectures"] == ["arm64"]
    assert function["Runtime"] == "python3.13"
    assert function["LoggingConfig"]["LogFormat"] == "JSON"
    assert function["LoggingConfig"]["LogGroup"]["Ref"].startswith(f"{name}Log")
    assert properties(template, f"{name}Log")["RetentionInDays"] == 30


@pytest.mark.parametrize("name", ["IngestRecordUsage", "BillingClosePeriods", "CheckingCheckCompleteness"])
def test_functions_reserve_no_concurrency(template: Template, name: str) -> None:
    """A new account has ten in all, and a reservation would fail its first deployment."""
    assert "ReservedConcurrentExecutions" not in properties(template, name)


def test_record_usage_knows_tables_bucket_metrics_and_secret(template: Template) -> None:
    """Its environment is what RecordUsageSettings reads, and what Powertools calls its metrics by.

    The secret of the hashes is named there, never its value (I8).
    """
    environment = properties(template, "IngestRecordUsage")["Environment"]["Variables"]
    assert environment == {
        "METRICS": encode(METRICS),
        "COUNTERS_TABLE": {"Ref": "CountersFDB211E7"},
        "LEDGER_TABLE": {"Ref": "LedgerB7379752"},
        "BUCKET": {"Ref": "Bucket83908E77"},
        "ACCESS_LOG_GROUP": {"Ref": "AccessLogD598EBE9"},
        "HASH_SECRET": {"Ref": "HashSecret3D9FFBC2"},
        "POWERTOOLS_SERVICE_NAME": DEPLOYMENT,
        "POWERTOOLS_METRICS_NAMESPACE": "Metering",
    }


def test_the_metrics_travel_unchanged(template: Template) -> None:
    """What the function decodes is what app.py declares."""
    assert decode(properties(template, "IngestRecordUsage")["Environment"]["Variables"]["METRICS"]) == METRICS


def test_close_periods_knows_tables_and_stripe(template: Template) -> None:
    """Its environment is what ClosePeriodsSettings reads; the secret is named there, never its value (I8)."""
    assert properties(template, "BillingClosePeriods")["Environment"]["Variables"] == {
        "COUNTERS_TABLE": {"Ref": "CountersFDB211E7"},
        "LEDGER_TABLE": {"Ref": "LedgerB7379752"},
        "DEPLOYMENT": DEPLOYMENT,
        "LEDGER_EPOCH": "1",
        "STRIPE_SECRET": {"Ref": "StripeSecret"},
        "STRIPE_API_BASE": "https://api.stripe.com",
        "POWERTOOLS_SERVICE_NAME": DEPLOYMENT,
        "POWERTOOLS_METRICS_NAMESPACE": "Metering",
    }


def test_every_line_of_the_access_log_reaches_record_usage(template: Template) -> None:
    """I1: one subscription, with the pattern that lets everything through."""
    (subscription,) = of_type(template, "AWS::Logs::SubscriptionFilter").values()
    assert subscription["Properties"]["FilterPattern"] == ""
    assert subscription["Properties"]["LogGroupName"] == {"Ref": "AccessLogD598EBE9"}


def test_only_the_access_log_may_invoke_record_usage(template: Template) -> None:
    """I7: nobody else's log group can hand it lines."""
    (permission,) = of_type(template, "AWS::Lambda::Permission").values()
    assert permission["Properties"]["Principal"] == "logs.amazonaws.com"
    assert permission["Properties"]["SourceArn"] == {"Fn::GetAtt": ["AccessLogD598EBE9", "Arn"]}


def test_a_batch_that_fails_for_good_is_kept_in_the_bucket(template: Template) -> None:
    """I1: two retries, six hours, then the whole event goes to the bucket."""
    retries = properties(template, "IngestRetries")
    assert retries["MaximumRetryAttempts"] == 2
    assert retries["MaximumEventAgeInSeconds"] == 21_600
    assert retries["DestinationConfig"] == {"OnFailure": {"Destination": {"Fn::GetAtt": ["Bucket83908E77", "Arn"]}}}


def test_the_functions_own_logs_are_not_metered(template: Template) -> None:
    """A subscription to the log of a function in its own delivery path would feed itself for ever."""
    (subscription,) = of_type(template, "AWS::Logs::SubscriptionFilter").values()
    assert subscription["Properties"]["LogGroupName"]["Ref"] == "AccessLogD598EBE9"


def test_periods_are_closed_every_five_minutes_of_utc(template: Template) -> None:
    """A local time that daylight saving skips would never fire."""
    schedule = properties(template, "BillingEveryFiveMinutes")
    assert schedule["ScheduleExpression"] == "cron(*/5 * * * ? *)"
    assert schedule["ScheduleExpressionTimezone"] == "Etc/UTC"
    assert schedule["State"] == "ENABLED"
    assert schedule["Target"]["RetryPolicy"]["MaximumRetryAttempts"] == 0


def test_a_failed_run_is_not_retried_beside_the_next_one(template: Template) -> None:
    """The next tick takes up whatever is due."""
    assert properties(template, "BillingClosePeriodsEventInvokeConfig")["MaximumRetryAttempts"] == 0


def test_two_stacks_make_one_assembly(assembly: CloudAssembly) -> None:
    """The app deploys the metering and the sample, and nothing else."""
    assert [stack.stack_name for stack in assembly.stacks] == ["Metering", "SampleApi"]
