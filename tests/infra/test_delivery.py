"""The road over Firehose: from the stage into objects, and a message to record_usage for each."""

import json
import re
from collections.abc import Callable
from typing import Any, get_args

import aws_cdk as cdk
import pytest
from aws_cdk import aws_apigateway as apigateway
from aws_cdk.assertions import Template as Synthesised

from infra.cli import local as commands
from infra.stack.ingest import Road
from infra.stack.metering import MeteringStack
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import Count
from tests.doubles.access_log import NONCE
from tests.doubles.template import Template, flat, joined, of_type, properties

MakeStack = Callable[..., MeteringStack]


def test_the_stage_writes_to_the_stream(firehose: dict[str, Template]) -> None:
    """In the same format as on the other road; API Gateway takes no stream whose name begins otherwise."""
    (stage,) = of_type(firehose["SampleApi"], "AWS::ApiGateway::Stage").values()
    setting = stage["Properties"]["AccessLogSetting"]
    assert "IngestDeliveryStream" in str(setting["DestinationArn"])
    assert '"authorizer.messages":"$context.authorizer.messages"' in joined(setting["Format"], NONCE)
    stream = properties(firehose["Metering"], "IngestDeliveryStream")
    assert stream["DeliveryStreamName"] == "amazon-apigateway-metering-access-log"


def test_a_long_stack_name_still_makes_a_name_of_its_own(stack: MakeStack) -> None:
    """At most 64 characters, and never that of another stack."""
    stacks = [
        stack(f"Metering-of-a-very-long-name-in-{where}", road=Road.FIREHOSE)
        for where in ("production", "production-eu")
    ]
    names = {properties(_template(one), "IngestDeliveryStream")["DeliveryStreamName"] for one in stacks}
    assert len(names) == 2
    assert all(len(name) <= 64 and name.startswith("amazon-apigateway-metering-of-a-") for name in names)


def test_lines_become_gzipped_objects_by_the_hour_of_their_arrival(firehose_template: Template) -> None:
    """A line each, encrypted on the way; what Firehose cannot process is kept apart, and its complaints are logged."""
    stream = properties(firehose_template, "IngestDeliveryStream")
    assert stream["DeliveryStreamType"] == "DirectPut"
    assert stream["DeliveryStreamEncryptionConfigurationInput"] == {"KeyType": "AWS_OWNED_CMK"}
    destination = stream["ExtendedS3DestinationConfiguration"]
    assert destination["Prefix"] == "access-log/!{timestamp:yyyy/MM/dd/HH}/"
    assert (
        destination["ErrorOutputPrefix"]
        == "access-log-errors/!{firehose:error-output-type}/!{timestamp:yyyy/MM/dd/HH}/"
    )
    assert destination["BufferingHints"] == {"IntervalInSeconds": 300, "SizeInMBs": 128}
    assert destination["CompressionFormat"] == "GZIP"
    assert destination["ProcessingConfiguration"]["Processors"] == [
        {
            "Type": "AppendDelimiterToRecord",
            "Parameters": [{"ParameterName": "Delimiter", "ParameterValue": "\\n"}],
        }
    ]
    assert flat(destination["CloudWatchLoggingOptions"]["LogGroupName"]) == "IngestDeliveryErrorLog"
    assert properties(firehose_template, "IngestDeliveryErrorLog")["RetentionInDays"] == 30


def test_each_object_of_the_archive_is_a_message(firehose_template: Template, template: Template) -> None:
    """By the bucket itself, without a function more; what is set aside, or Firehose could not process, is none."""
    (configuration,) = properties(firehose_template, "Bucket")["NotificationConfiguration"]["QueueConfigurations"]
    assert configuration["Event"] == "s3:ObjectCreated:*"
    assert configuration["Filter"] == {"S3Key": {"Rules": [{"Name": "prefix", "Value": "access-log/"}]}}
    assert flat(configuration["Queue"]) == "IngestDeliveryObjects"
    assert (
        of_type(firehose_template, "AWS::Lambda::Function").keys() == of_type(template, "AWS::Lambda::Function").keys()
    )


def test_the_bucket_may_send_before_it_is_told_to(firehose_template: Template) -> None:
    """S3 tries the queue when the notification is configured; the policy names the bucket by its beginning.

    I7: a stranger's bucket of the same account has no way into the queue; by reference it would be a circle.
    """
    needs = firehose_template["Resources"]["Bucket83908E77"]["DependsOn"]
    assert [name[:-8] for name in needs] == ["IngestDeliveryObjectsPolicy"]
    deny, allow = properties(firehose_template, "IngestDeliveryObjectsPolicy")["PolicyDocument"]["Statement"]
    assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert (allow["Principal"], allow["Action"]) == ({"Service": "s3.amazonaws.com"}, "sqs:SendMessage")
    assert allow["Condition"] == {
        "StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}},
        "ArnLike": {"aws:SourceArn": {"Fn::Join": ["", ["arn:", {"Ref": "AWS::Partition"}, ":s3:*:*:metering*"]]}},
    }


def test_the_bucket_of_a_stack_with_a_long_name_may_send(stack: MakeStack) -> None:
    """CloudFormation writes a stack's name small, and cuts it to make room in a bucket's 63 characters."""
    made = _template(stack("Metering-Of-A-Very-Long-Name-In-Production", road=Road.FIREHOSE))
    _, allow = properties(made, "IngestDeliveryObjectsPolicy")["PolicyDocument"]["Statement"]
    assert str(allow["Condition"]["ArnLike"]["aws:SourceArn"]).endswith(":s3:*:*:metering-of-a-ve*']]}")


def test_a_message_is_tried_for_four_days_and_kept_for_two_weeks(firehose_template: Template) -> None:
    """I1: no message is given to a second run while the first may still count it, and none is lost.

    An object that takes longer than a run goes on a minute after it.
    """
    queue = properties(firehose_template, "IngestDeliveryObjects")
    assert queue["VisibilityTimeout"] == 360
    assert properties(firehose_template, "IngestRecordUsage")["Timeout"] == 300
    assert queue["RedrivePolicy"]["maxReceiveCount"] == 1000
    assert 1000 * 360 / 86_400 > 4
    assert flat(queue["RedrivePolicy"]["deadLetterTargetArn"]) == "IngestDeliveryFailed"
    for name in ("IngestDeliveryObjects", "IngestDeliveryFailed"):
        kept = properties(firehose_template, name)
        assert (kept["MessageRetentionPeriod"], kept["SqsManagedSseEnabled"]) == (14 * 86_400, True)


def test_record_usage_takes_one_object_at_a_time(firehose_template: Template) -> None:
    """It answers with what it could not count, and leaves half of a new account's concurrency to others."""
    (source,) = of_type(firehose_template, "AWS::Lambda::EventSourceMapping").values()
    assert source["Properties"]["BatchSize"] == 1
    assert source["Properties"]["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert source["Properties"]["ScalingConfig"] == {"MaximumConcurrency": 5}


def test_the_subscription_road_has_neither_stream_nor_queue(template: Template) -> None:
    """And its bucket notifies nobody."""
    for kind in ("AWS::KinesisFirehose::DeliveryStream", "AWS::SQS::Queue", "AWS::Lambda::EventSourceMapping"):
        assert of_type(template, kind) == {}
    assert "NotificationConfiguration" not in properties(template, "Bucket")


def test_lines_that_are_under_way_when_the_road_changes_are_counted(
    template: Template, firehose_template: Template
) -> None:
    """I1: the stage writes into the log group until its own stack is deployed, and imports it until then."""
    for name in ("AccessLog", "IngestSubscription"):
        assert properties(template, name) == properties(firehose_template, name)
    exports = [name for name, output in template["Outputs"].items() if "Export" in output]
    assert exports
    assert [template["Outputs"][name] for name in exports] == [firehose_template["Outputs"][name] for name in exports]


def test_a_stage_can_go_back_before_the_road_is_taken_down(
    templates: dict[str, Template], firehose: dict[str, Template]
) -> None:
    """I1: its stack is deployed first, by itself; what it then imports, the stack of the other road exports, too."""
    exported = [output["Export"]["Name"] for output in firehose["Metering"]["Outputs"].values() if "Export" in output]
    wanted = set(re.findall(r'\{"Fn::ImportValue": "([^"]+)"\}', json.dumps(templates["SampleApi"])))
    assert len(wanted) >= 1
    assert wanted <= set(exported)


def test_the_archive_becomes_colder_and_expires(firehose_template: Template, stack: MakeStack) -> None:
    """After 90 and 400 days; one that is kept for too short to be worth it stays where it is."""
    assert _archive(firehose_template) == {
        "Id": "Archive",
        "Status": "Enabled",
        "Prefix": "access-log/",
        "ExpirationInDays": 400,
        "Transitions": [{"StorageClass": "GLACIER_IR", "TransitionInDays": 90}],
    }
    short = _archive(_template(stack(archive_days=62)))
    assert (short["ExpirationInDays"], short.get("Transitions")) == (62, None)


def _archive(template: Template) -> dict[str, Any]:
    rules = properties(template, "Bucket")["LifecycleConfiguration"]["Rules"]
    return next(rule for rule in rules if rule.get("Prefix") == "access-log/")


def test_an_archive_that_is_gone_before_the_counters_is_refused(stack: MakeStack) -> None:
    """They could not be recounted from it."""
    with pytest.raises(ValueError, match="archive_days must be 62 or more, as long as counters live, got 61"):
        stack(road=Road.FIREHOSE, archive_days=61)


@pytest.mark.parametrize("api", [Api.HTTP, Api.WEBSOCKET])
def test_only_a_rest_api_takes_this_road(stack: MakeStack, api: Api) -> None:
    """API Gateway writes the logs of others to CloudWatch Logs alone."""
    with pytest.raises(ValueError, match=f"{api.noun} cannot write its access log to Firehose"):
        stack(road=Road.FIREHOSE, access_log=AccessLog(api, "authorizer.sub"))


def test_the_command_line_offers_every_road() -> None:
    """It spells them itself, so that it starts without the CDK."""
    offered, *_ = get_args(commands.Road)
    assert get_args(offered) == tuple(road.value for road in Road)


def test_a_rest_api_in_the_same_stack_takes_this_road(stack: MakeStack) -> None:
    """Without a circle between stage, stream and bucket."""
    metering = stack(road=Road.FIREHOSE, metrics=[Count(name="requests")])
    options = apigateway.StageOptions(
        access_log_destination=metering.access_log_destination, access_log_format=metering.access_log_format
    )
    apigateway.RestApi(metering, "Api", deploy_options=options).root.add_method("GET")
    (stage,) = of_type(_template(metering), "AWS::ApiGateway::Stage").values()
    assert flat(stage["Properties"]["AccessLogSetting"]["DestinationArn"]) == "IngestDeliveryStream"


def _template(stack: cdk.Stack) -> Template:
    return dict(Synthesised.from_stack(stack).to_json())
