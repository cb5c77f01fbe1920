"""The alarms watch what the functions tell, and reach someone."""

import json
import re
from typing import Any

from metering.signals import NAMESPACE, Signal
from tests.conftest import ROOT
from tests.doubles.template import DEPLOYMENT, Template, flat, of_type, properties

RUNBOOK = (ROOT / "infra" / "operate" / "RUNBOOK.md").read_text()
CHAPTERS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
"""What the runbook says of each alarm."""


def _alarm(template: Template, name: str) -> dict[str, Any]:
    return properties(template, f"Alarms{name}")


def test_there_are_few_alarms(template: Template, firehose_template: Template, limits_template: Template) -> None:
    """Each costs $0.10 a month, and one that nobody acts on costs more."""
    few = {
        "RecordUsageErrors",
        "RecordsSetAside",
        "ClosePeriodsErrors",
        "HoursBehind",
        "UsageRejected",
        "RowsRejected",
        "RowsWithoutStripeCustomer",
        "RowsUnbilled",
        "LinesNotCounted",
        "LinesCountedTwice",
        "RequestsNotLogged",
        "RequestsCountedTwice",
        "CheckCompletenessErrors",
        "UsageDiffering",
        "ReconcileUsageErrors",
        "CountingBehind",
        "RecordUsageThrottles",
        "BatchesFailed",
        "UsageUnmapped",
        "HoursUnposted",
        "PortalErrors",
        "ShowUsageErrors",
        "ShowUsageThrottles",
        "ReceiveEventsErrors",
        "ReceiveEventsThrottles",
    }
    assert {name[6:-8] for name in of_type(template, "AWS::CloudWatch::Alarm")} == few
    assert {name[6:-8] for name in of_type(firehose_template, "AWS::CloudWatch::Alarm")} == few | {
        "ObjectsFailed",
        "DeliveryBehind",
        "DeliveryThrottled",
    }
    assert {name[6:-8] for name in of_type(limits_template, "AWS::CloudWatch::Alarm")} == few | {
        "LimitsUnenforced",
        "WatchLimitsErrors",
        "EnforceLimitsErrors",
    }


def test_every_alarm_says_what_to_do_and_tells_the_topic(limits_template: Template) -> None:
    """A sentence, and the runbook's heading, which the test below finds there."""
    (topic,) = of_type(limits_template, "AWS::SNS::Topic")
    for name, alarm in of_type(limits_template, "AWS::CloudWatch::Alarm").items():
        what_to_do, _, where = alarm["Properties"]["AlarmDescription"].partition(" Runbook: infra/operate/RUNBOOK.md#")
        assert what_to_do.endswith(".")
        assert len(what_to_do) > 60
        assert where == name[6:-8].lower()
        assert alarm["Properties"]["AlarmActions"] == [{"Ref": topic}]
        # A threshold that is not to be undercut is one of a part of a whole.
        below = alarm["Properties"]["ComparisonOperator"] == "LessThanThreshold"
        assert below == (0 < alarm["Properties"]["Threshold"] < 1)


def test_the_runbook_tells_of_each_alarm_and_of_no_other(
    firehose_template: Template, limits_template: Template
) -> None:
    """What it means, where to look first, how to mend it, and how one sees that it is over."""
    alarms = (of_type(made, "AWS::CloudWatch::Alarm") for made in (firehose_template, limits_template))
    assert {name[6:-8] for made in alarms for name in made} == CHAPTERS.keys()
    parts = ["Means", "First look", "Mend", "Over when"]
    assert {
        name for name, text in CHAPTERS.items() if re.findall(r"^- \*\*(.+?)\*\*: .", text, re.MULTILINE) != parts
    } == set()


def test_signals_are_spelled_as_the_functions_spell_them(template: Template) -> None:
    """Namespace, name and dimension come from signals.py; the dimension is the deployment."""
    for name, signal in (
        ("RecordsSetAside", Signal.RECORDS_SET_ASIDE),
        ("UsageRejected", Signal.USAGE_REJECTED),
        ("HoursBehind", Signal.HOURS_BEHIND),
        ("UsageDiffering", Signal.USAGE_DIFFERING),
    ):
        alarm = _alarm(template, name)
        assert (alarm["Namespace"], alarm["MetricName"]) == (NAMESPACE, signal.value)
        assert alarm["Dimensions"] == [{"Name": "service", "Value": DEPLOYMENT}]


def test_a_stop_that_is_a_minute_old_raises_the_alarm(limits_template: Template) -> None:
    """In one minute of one sweep; the signal is sent only then, so that silence about it is good news."""
    alarm = _alarm(limits_template, "LimitsUnenforced")
    assert (alarm["Namespace"], alarm["MetricName"]) == (NAMESPACE, Signal.LIMITS_UNENFORCED.value)
    assert (alarm["Threshold"], alarm["EvaluationPeriods"], alarm["Period"]) == (60, 1, 60)
    assert (alarm["Statistic"], alarm["TreatMissingData"]) == ("Maximum", "notBreaching")


def test_a_watcher_that_fails_or_does_not_run_raises_the_alarm(limits_template: Template) -> None:
    """It runs each minute, so that silence means that nobody watches; the worker runs when it is woken."""
    for name, silence in (("WatchLimitsErrors", "breaching"), ("EnforceLimitsErrors", "notBreaching")):
        alarm = _alarm(limits_template, name)
        assert (alarm["Namespace"], alarm["MetricName"], alarm["Statistic"]) == ("AWS/Lambda", "Errors", "Sum")
        assert (alarm["Threshold"], alarm["EvaluationPeriods"], alarm["Period"]) == (0, 3, 300)
        assert alarm["TreatMissingData"] == silence


def test_one_record_set_aside_is_enough(template: Template) -> None:
    """And silence about it is good news."""
    alarm = _alarm(template, "RecordsSetAside")
    assert (alarm["Threshold"], alarm["EvaluationPeriods"]) == (0, 1)
    assert alarm["TreatMissingData"] == "notBreaching"


def test_an_hour_of_being_behind_raises_the_alarm(template: Template) -> None:
    """The signal is sent only when an hour is behind, so that silence about it is good news."""
    alarm = _alarm(template, "HoursBehind")
    assert (alarm["Threshold"], alarm["EvaluationPeriods"], alarm["Period"]) == (0, 12, 300)
    assert alarm["Statistic"] == "Maximum"
    assert alarm["TreatMissingData"] == "notBreaching"


def test_an_hour_of_failed_runs_or_of_none_raises_the_alarm(template: Template) -> None:
    """AWS counts the errors of every run, none included, so that silence means that close_periods does not run."""
    alarm = _alarm(template, "ClosePeriodsErrors")
    assert (alarm["Namespace"], alarm["MetricName"], alarm["Statistic"]) == ("AWS/Lambda", "Errors", "Sum")
    assert (alarm["Threshold"], alarm["EvaluationPeriods"], alarm["Period"]) == (0, 12, 300)
    assert "DatapointsToAlarm" not in alarm
    assert alarm["TreatMissingData"] == "breaching"


def test_one_total_that_stripe_refused_raises_the_alarm(template: Template) -> None:
    """I4: at once or by a notification, an operator must act; silence about it is good news."""
    alarm = _alarm(template, "UsageRejected")
    assert (alarm["Threshold"], alarm["EvaluationPeriods"], alarm["Statistic"]) == (0, 1, "Sum")
    assert alarm["TreatMissingData"] == "notBreaching"


def test_usage_that_is_still_not_billed_raises_an_alarm_every_hour(template: Template) -> None:
    """I9: whoever missed that it came to be is told that it is; silence about it is good news."""
    for name, signal in (
        ("RowsRejected", Signal.ROWS_REJECTED),
        ("RowsWithoutStripeCustomer", Signal.ROWS_WITHOUT_STRIPE_CUSTOMER),
        ("RowsUnbilled", Signal.ROWS_UNBILLED),
    ):
        alarm = _alarm(template, name)
        assert (alarm["MetricName"], alarm["Statistic"], alarm["Period"]) == (signal.value, "Maximum", 3600)
        assert (alarm["Threshold"], alarm["EvaluationPeriods"]) == (0, 1)
        assert alarm["TreatMissingData"] == "notBreaching"


def test_one_total_that_stays_different_raises_the_alarm(template: Template) -> None:
    """I4: reconcile_usage tells it only after it has posted the total again in vain."""
    alarm = _alarm(template, "UsageDiffering")
    assert (alarm["Threshold"], alarm["EvaluationPeriods"], alarm["Statistic"]) == (0, 1, "Maximum")
    assert alarm["TreatMissingData"] == "notBreaching"
    assert "metering reconcile" in alarm["AlarmDescription"]


def test_a_failed_look_at_stripe_raises_the_alarm(template: Template) -> None:
    """A Stripe that cannot be reached is no error of the function; the next run looks again."""
    alarm = _alarm(template, "ReconcileUsageErrors")
    assert (alarm["Namespace"], alarm["MetricName"], alarm["Statistic"]) == ("AWS/Lambda", "Errors", "Sum")
    assert flat(alarm["Dimensions"][0]["Value"]) == "BillingReconcileUsage"


def test_one_object_that_could_not_be_counted_raises_the_alarm(firehose_template: Template) -> None:
    """Its message lies in the dead-letter queue."""
    alarm = _alarm(firehose_template, "ObjectsFailed")
    assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/SQS", "ApproximateNumberOfMessagesVisible")
    assert (alarm["Threshold"], alarm["EvaluationPeriods"], alarm["Statistic"]) == (0, 1, "Maximum")
    assert flat(alarm["Dimensions"][0]["Value"]) == "IngestDeliveryFailed"


def test_one_line_that_firehose_refuses_raises_the_alarm(firehose_template: Template) -> None:
    """I1: API Gateway does not promise to send it again."""
    alarm = _alarm(firehose_template, "DeliveryThrottled")
    assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/Firehose", "ThrottledRecords")
    assert (alarm["Threshold"], alarm["EvaluationPeriods"], alarm["Statistic"]) == (0, 1, "Sum")
    assert [(one["Name"], flat(one["Value"])) for one in alarm["Dimensions"]] == [
        ("DeliveryStreamName", "IngestDeliveryStream")
    ]


def test_functions_that_anyone_may_call_are_watched(template: Template) -> None:
    """One crash is enough; that too much is asked of them, only for a quarter of an hour."""
    for function, name in (("PortalShowUsage", "ShowUsage"), ("BillingReceiveEvents", "ReceiveEvents")):
        for metric, periods in (("Errors", 1), ("Throttles", 3)):
            alarm = _alarm(template, f"{name}{metric}")
            assert (alarm["Namespace"], alarm["MetricName"], alarm["Statistic"]) == ("AWS/Lambda", metric, "Sum")
            assert (alarm["Threshold"], alarm["EvaluationPeriods"], alarm["Period"]) == (0, periods, 300)
            assert alarm["TreatMissingData"] == "notBreaching"
            assert [flat(one["Value"]) for one in alarm["Dimensions"]] == [function]


def test_lag_throttles_and_dead_letters_raise_alarms(template: Template) -> None:
    """I1: each before anything is lost."""
    watched = {
        name: (
            alarm["Namespace"],
            alarm["MetricName"],
            alarm["Statistic"],
            alarm["Threshold"],
            alarm["EvaluationPeriods"],
        )
        for name in ("CountingBehind", "RecordUsageThrottles", "BatchesFailed", "UsageUnmapped", "HoursUnposted")
        if (alarm := _alarm(template, name))
    }
    assert watched == {
        "CountingBehind": (NAMESPACE, "OldestRecordAge", "Maximum", 1800, 3),
        "RecordUsageThrottles": ("AWS/Lambda", "Throttles", "Sum", 0, 3),
        "BatchesFailed": ("AWS/Lambda", "AsyncEventsDropped", "Sum", 0, 1),
        "UsageUnmapped": (NAMESPACE, "UsageUnmapped", "Sum", 0, 1),
        "HoursUnposted": (NAMESPACE, "HoursUnposted", "Maximum", 0, 12),
    }
    assert {_alarm(template, name)["TreatMissingData"] for name in watched} == {"notBreaching"}


def test_errors_that_customers_see_raise_an_alarm(template: Template) -> None:
    """The function answers 500 and does not fail, so that Lambda counts no error."""
    alarm = _alarm(template, "PortalErrors")
    assert (alarm["Namespace"], alarm["MetricName"], alarm["Statistic"]) == ("AWS/ApiGateway", "5xx", "Sum")
    assert (alarm["Threshold"], alarm["EvaluationPeriods"]) == (0, 3)
    assert [one["Name"] for one in alarm["Dimensions"]] == ["ApiId"]


def test_the_dashboard_shows_every_signal_and_alarm(limits_template: Template) -> None:
    """Of each function, too, its errors and throttles."""
    (board,) = of_type(limits_template, "AWS::CloudWatch::Dashboard").values()
    shown = json.dumps(board["Properties"]["DashboardBody"])
    assert [signal for signal in Signal if f'\\"{signal}\\"' not in shown] == []
    assert all(name in shown for name in of_type(limits_template, "AWS::CloudWatch::Alarm"))
    functions = of_type(limits_template, "AWS::Lambda::Function")
    assert len(functions) > 5
    assert all(shown.count(f'"{name}"') >= 2 for name in functions)


def test_both_ratios_of_completeness_are_watched_on_both_sides(template: Template) -> None:
    """I1, I2: for three runs on end, since what is lost stays in a day's ratio; silence means no traffic."""
    watched = {
        name: (alarm["MetricName"], alarm["ComparisonOperator"], alarm["Threshold"])
        for name in ("LinesNotCounted", "LinesCountedTwice", "RequestsNotLogged", "RequestsCountedTwice")
        if (alarm := _alarm(template, name))
    }
    assert watched == {
        "LinesNotCounted": ("CompletenessOfLines", "LessThanThreshold", 0.995),
        "LinesCountedTwice": ("CompletenessOfLines", "GreaterThanThreshold", 1.005),
        "RequestsNotLogged": ("CompletenessOfRequests", "LessThanThreshold", 0.95),
        "RequestsCountedTwice": ("CompletenessOfRequests", "GreaterThanThreshold", 1.005),
    }
    for name in watched:
        alarm = _alarm(template, name)
        assert (alarm["Namespace"], alarm["Dimensions"]) == (NAMESPACE, [{"Name": "service", "Value": DEPLOYMENT}])
        statistic = "Minimum" if name in ("LinesNotCounted", "RequestsNotLogged") else "Maximum"
        assert (alarm["Period"], alarm["EvaluationPeriods"], alarm["Statistic"]) == (3600, 3, statistic)
        assert alarm["TreatMissingData"] == "notBreaching"
        assert name == "RequestsNotLogged" or "metering recount" in alarm["AlarmDescription"]


def test_a_check_that_fails_for_three_hours_raises_the_alarm(template: Template) -> None:
    """Nobody would see lines that are lost."""
    alarm = _alarm(template, "CheckCompletenessErrors")
    assert (alarm["Namespace"], alarm["MetricName"], alarm["Statistic"]) == ("AWS/Lambda", "Errors", "Sum")
    assert (alarm["Threshold"], alarm["EvaluationPeriods"], alarm["Period"]) == (0, 3, 3600)


def test_alarms_may_publish_and_only_over_tls(template: Template) -> None:
    """A topic policy replaces the default one, which would have let the account's alarms publish."""
    deny, allow = properties(template, "AlarmsTopicPolicy")["PolicyDocument"]["Statement"]
    assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert (allow["Effect"], allow["Principal"]) == ("Allow", {"Service": "cloudwatch.amazonaws.com"})
    assert allow["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
