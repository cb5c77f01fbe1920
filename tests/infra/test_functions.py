"""How the functions are run, and what sets them off."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from aws_cdk.assertions import Template as Synthesised

from app import METRICS
from infra.stack.metering import MeteringStack
from metering.model.metrics import decode, encode
from tests.doubles.template import DEPLOYMENT, Template, flat, of_type, properties

FUNCTIONS = [
    "IngestRecordUsage",
    "BillingClosePeriods",
    "BillingPostUsage",
    "BillingReconcileUsage",
    "BillingReceiveEvents",
    "CheckingCheckCompleteness",
    "PortalShowUsage",
]


def test_there_are_these_functions(template: Template) -> None:
    """Each is looked at below."""
    assert {name[:-8] for name in of_type(template, "AWS::Lambda::Function")} == {*FUNCTIONS}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_run_python_3_13_on_arm64(template: Template, name: str) -> None:
    """And log JSON into a log group of their own that keeps it for 30 days."""
    function = properties(template, name)
    assert function["Architectures"] == ["arm64"]
    assert function["Runtime"] == "python3.13"
    assert function["LoggingConfig"]["LogFormat"] == "JSON"
    assert function["LoggingConfig"]["LogGroup"]["Ref"].startswith(f"{name}Log")
    assert properties(template, f"{name}Log")["RetentionInDays"] == 30


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_reserve_no_concurrency(template: Template, name: str) -> None:
    """A new account has ten in all, and a reservation would fail its first deployment."""
    assert "ReservedConcurrentExecutions" not in properties(template, name)


def test_record_usage_alone_has_a_reservation_where_one_is_asked_for(stack: Callable[..., MeteringStack]) -> None:
    """So that it neither takes all that the account may run, nor goes without."""
    made = dict(Synthesised.from_stack(stack(record_usage_concurrency=20)).to_json())
    reserved = {
        name[:-8]: function["Properties"].get("ReservedConcurrentExecutions")
        for name, function in of_type(made, "AWS::Lambda::Function").items()
    }
    assert {name: number for name, number in reserved.items() if number} == {"IngestRecordUsage": 20}


def test_a_reservation_that_the_queue_would_exceed_is_refused(stack: Callable[..., MeteringStack]) -> None:
    """Its mapping may start five at once."""
    with pytest.raises(ValueError, match="record_usage_concurrency must be a whole number, 5 or more, or None, got 4"):
        stack(record_usage_concurrency=4)


def test_record_usage_knows_tables_bucket_metrics_and_secret(template: Template) -> None:
    """Its environment is what RecordUsageSettings reads, and what Powertools calls its metrics by.

    The secret of the hashes is named there, never its value (I8).
    """
    environment = properties(template, "IngestRecordUsage")["Environment"]["Variables"]
    assert environment == {
        "METRICS": encode(METRICS),
        "NONCES": {"Fn::Select": [2, {"Fn::Split": ["/", {"Ref": "AWS::StackId"}]}]},
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


COMMON = {"POWERTOOLS_SERVICE_NAME": DEPLOYMENT, "POWERTOOLS_METRICS_NAMESPACE": "Metering"}
COUNTERS = {"COUNTERS_TABLE": {"Ref": "CountersFDB211E7"}}
LEDGER = {"LEDGER_TABLE": {"Ref": "LedgerB7379752"}}
STRIPE = {
    "DEPLOYMENT": DEPLOYMENT,
    "STRIPE_SECRET": {"Ref": "StripeSecret"},
    "STRIPE_API_BASE": "https://api.stripe.com",
}


def _environment(template: Template, name: str) -> dict[str, Any]:
    return dict(properties(template, name)["Environment"]["Variables"])


def test_close_periods_knows_tables_and_who_posts(template: Template) -> None:
    """Its environment is what ClosePeriodsSettings reads; Stripe is none of its business."""
    (post_usage,) = [name for name in of_type(template, "AWS::Lambda::Function") if name[:-8] == "BillingPostUsage"]
    invoked = {"POST_USAGE_FUNCTION": {"Ref": post_usage}}
    declared = {"METRICS": _environment(template, "IngestRecordUsage")["METRICS"]}
    assert _environment(template, "BillingClosePeriods") == COUNTERS | LEDGER | invoked | declared | COMMON


def test_post_usage_knows_tables_and_stripe(template: Template) -> None:
    """Its environment is what PostUsageSettings reads; the secret is named there, never its value (I8)."""
    own = {"LEDGER_EPOCH": "1", "STRIPE_RATE": "1000"}
    assert _environment(template, "BillingPostUsage") == COUNTERS | LEDGER | STRIPE | own | COMMON


def test_reconcile_usage_knows_tables_and_stripe(template: Template) -> None:
    """Its environment is what ReconcileUsageSettings reads (I8)."""
    own = {"STRIPE_READS_A_MONTH": "10000"}
    assert _environment(template, "BillingReconcileUsage") == COUNTERS | LEDGER | STRIPE | own | COMMON


def test_receive_events_knows_the_ledger_and_stripe(template: Template) -> None:
    """Its environment is what ReceiveEventsSettings reads; the counters are none of its business (I8)."""
    own = {"SIGNING_SECRET": {"Ref": "SigningSecret"}}
    assert _environment(template, "BillingReceiveEvents") == LEDGER | STRIPE | own | COMMON


def test_notifications_reach_one_function_by_one_route(template: Template) -> None:
    """I7: Stripe has no AWS credentials, so that anyone may call its address; the signature is what counts.

    No function has an address of its own: no throttle stands before one, and 14 Regions have none.
    """
    assert of_type(template, "AWS::Lambda::Url") == {}
    (receive_events,) = [
        name for name in of_type(template, "AWS::Lambda::Function") if name[:-8] == "BillingReceiveEvents"
    ]
    target = {"Fn::GetAtt": [receive_events, "Arn"]}
    (integration,) = [
        name
        for name, made in of_type(template, "AWS::ApiGatewayV2::Integration").items()
        if made["Properties"]["IntegrationUri"] == target
    ]
    assert [
        route["Properties"]["RouteKey"]
        for route in of_type(template, "AWS::ApiGatewayV2::Route").values()
        if integration in json.dumps(route["Properties"]["Target"])
    ] == ["POST /v1/notifications"]
    (permission,) = [
        made["Properties"]
        for made in of_type(template, "AWS::Lambda::Permission").values()
        if made["Properties"]["FunctionName"] == target
    ]
    assert (permission["Principal"], permission["Action"]) == ("apigateway.amazonaws.com", "lambda:InvokeFunction")
    assert flat(permission["SourceArn"]).endswith("/*/*/v1/notifications")
    assert properties(template, "BillingReceiveEvents")["Timeout"] == 25


def test_the_address_for_notifications_is_that_route(template: Template) -> None:
    """As it is told to Stripe."""
    outputs = template["Outputs"]
    assert flat(outputs["NotificationsUrl"]["Value"]) == f"{flat(outputs['PortalUrl']['Value'])}v1/notifications"


def test_every_line_of_the_access_log_reaches_record_usage(template: Template) -> None:
    """I1: one subscription, with the pattern that lets everything through."""
    (subscription,) = of_type(template, "AWS::Logs::SubscriptionFilter").values()
    assert subscription["Properties"]["FilterPattern"] == ""
    assert subscription["Properties"]["LogGroupName"] == {"Ref": "AccessLogD598EBE9"}


def test_only_the_access_log_and_those_of_connected_stages_may_invoke_record_usage(template: Template) -> None:
    """I7: nobody else's log group can hand it lines; those of all connected stages take one statement."""
    connected, own = [
        one["Properties"]
        for one in of_type(template, "AWS::Lambda::Permission").values()
        if one["Properties"]["FunctionName"]["Fn::GetAtt"][0][:-8] == "IngestRecordUsage"
    ]
    assert {own["Principal"], connected["Principal"]} == {"logs.amazonaws.com"}
    assert own["SourceArn"] == {"Fn::GetAtt": ["AccessLogD598EBE9", "Arn"]}
    assert connected["SourceAccount"] == {"Ref": "AWS::AccountId"}
    assert flat(connected["SourceArn"]).endswith(f":log-group:{flat(template['Outputs']['ConnectedLogs']['Value'])}*")
    assert "/aws/vendedlogs/metering/Metering/" in flat(connected["SourceArn"])


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


def test_stripe_is_looked_at_every_hour_of_utc(template: Template) -> None:
    """At forty past, when the hour before has long been closed and posted."""
    schedule = properties(template, "BillingEveryHour")
    assert schedule["ScheduleExpression"] == "cron(40 * * * ? *)"
    assert schedule["ScheduleExpressionTimezone"] == "Etc/UTC"
    assert schedule["State"] == "ENABLED"
    assert schedule["Target"]["RetryPolicy"]["MaximumRetryAttempts"] == 0


@pytest.mark.parametrize("name", ["ClosePeriods", "PostUsage", "ReconcileUsage"])
def test_a_failed_run_is_not_retried_beside_the_next_one(template: Template, name: str) -> None:
    """The next tick takes up whatever is due."""
    invoked = properties(template, f"Billing{name}EventInvokeConfig")
    assert (invoked["MaximumRetryAttempts"], invoked["MaximumEventAgeInSeconds"]) == (0, 300)


def test_two_stacks_make_one_assembly(templates: dict[str, Template]) -> None:
    """The app deploys the metering and the sample, and nothing else."""
    assert list(templates) == ["Metering", "SampleApi"]
