"""The alarms watch what the functions tell, and reach someone."""

from metering.signals import NAMESPACE, Signal
from tests.infra.resources import DEPLOYMENT, Template, of_type, properties


def _alarm(template: Template, name: str) -> dict[str, object]:
    return properties(template, f"Alarms{name}")


def test_there_are_few_alarms(template: Template) -> None:
    """Each costs $0.10 a month, and one that nobody acts on costs more."""
    assert {name[6:-8] for name in of_type(template, "AWS::CloudWatch::Alarm")} == {
        "RecordUsageErrors",
        "BatchesLost",
        "RecordsSetAside",
        "ClosePeriodsErrors",
        "HoursBehind",
        "UsageRejected",
    }


def test_every_alarm_says_what_to_do_and_tells_the_topic(template: Template) -> None:
    """A sentence that names a place to look at."""
    (topic,) = of_type(template, "AWS::SNS::Topic")
    for alarm in of_type(template, "AWS::CloudWatch::Alarm").values():
        assert alarm["Properties"]["AlarmDescription"].endswith(".")
        assert len(alarm["Properties"]["AlarmDescription"]) > 60
        assert alarm["Properties"]["AlarmActions"] == [{"Ref": topic}]
        assert alarm["Properties"]["ComparisonOperator"] == "GreaterThanThreshold"


def test_signals_are_spelled_as_the_functions_spell_them(template: Template) -> None:
    """Namespace, name and dimension come from signals.py; the dimension is the deployment."""
    for name, signal in (
        ("RecordsSetAside", Signal.RECORDS_SET_ASIDE),
        ("UsageRejected", Signal.USAGE_REJECTED),
        ("HoursBehind", Signal.HOURS_BEHIND),
    ):
        alarm = _alarm(template, name)
        assert (alarm["Namespace"], alarm["MetricName"]) == (NAMESPACE, signal.value)
        assert alarm["Dimensions"] == [{"Name": "service", "Value": DEPLOYMENT}]


def test_one_record_set_aside_is_enough(template: Template) -> None:
    """And silence about it is good news."""
    alarm = _alarm(template, "RecordsSetAside")
    assert (alarm["Threshold"], alarm["EvaluationPeriods"]) == (0, 1)
    assert alarm["TreatMissingData"] == "notBreaching"


def test_an_hour_of_being_behind_or_of_silence_raises_the_alarm(template: Template) -> None:
    """Silence means that no run closes hours at all."""
    alarm = _alarm(template, "HoursBehind")
    assert (alarm["Threshold"], alarm["EvaluationPeriods"], alarm["Period"]) == (1, 12, 300)
    assert alarm["Statistic"] == "Maximum"
    assert alarm["TreatMissingData"] == "breaching"


def test_alarms_may_publish_and_only_over_tls(template: Template) -> None:
    """A topic policy replaces the default one, which would have let the account's alarms publish."""
    deny, allow = properties(template, "AlarmsTopicPolicy")["PolicyDocument"]["Statement"]
    assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert (allow["Effect"], allow["Principal"]) == ("Allow", {"Service": "cloudwatch.amazonaws.com"})
    assert allow["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
