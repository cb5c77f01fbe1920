"""What completeness is checked with: its function, its hour, and the stages that it is compared with."""

from collections.abc import Callable

import aws_cdk as cdk
import pytest
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk.assertions import Template as Synthesised

from infra.stack.metering import MeteringStack
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import Count
from metering.model.stages import Stage, decode, encode
from tests.doubles.template import DEPLOYMENT, Template, grants, properties


def _environment(template: Template) -> dict[str, object]:
    return dict(properties(template, "CheckingCheckCompleteness")["Environment"]["Variables"])


def test_the_function_knows_the_log_and_the_samples_stage(template: Template) -> None:
    """Its environment is what CheckCompletenessSettings reads; the sample's names are text, or a circle would arise."""
    assert _environment(template) == {
        "COUNTERS_TABLE": {"Ref": "CountersFDB211E7"},
        "LEDGER_TABLE": {"Ref": "LedgerB7379752"},
        "DEPLOYMENT": DEPLOYMENT,
        "ACCESS_LOG_GROUP": {"Ref": "AccessLogD598EBE9"},
        "STAGES": encode([Stage(Api.REST, "Api", "v1")]),
        "POWERTOOLS_SERVICE_NAME": DEPLOYMENT,
        "POWERTOOLS_METRICS_NAMESPACE": "Metering",
    }


def test_on_the_road_over_firehose_it_knows_the_stream(firehose_template: Template) -> None:
    """Whose records are what was written."""
    stream = _environment(firehose_template)["DELIVERY_STREAM"]
    assert stream == {
        "Ref": next(name for name in firehose_template["Resources"] if name.startswith("IngestDeliveryStream"))
    }


def test_the_sample_api_and_its_stage_are_called_so(sample: Template) -> None:
    """CloudWatch knows a REST API's metrics by its name."""
    (stage,) = [found for found in sample["Resources"].values() if found["Type"] == "AWS::ApiGateway::Stage"]
    (api,) = [found for found in sample["Resources"].values() if found["Type"] == "AWS::ApiGateway::RestApi"]
    assert (api["Properties"]["Name"], stage["Properties"]["StageName"]) == ("Api", "v1")


def test_it_runs_every_hour_of_utc(template: Template) -> None:
    """Once: a lost run is made good by the next, which looks at nearly the same day."""
    schedule = properties(template, "CheckingEveryHour")
    assert schedule["ScheduleExpression"] == "cron(20 * * * ? *)"
    assert schedule["ScheduleExpressionTimezone"] == "Etc/UTC"
    assert schedule["Target"]["RetryPolicy"]["MaximumRetryAttempts"] == 0
    assert properties(template, "CheckingCheckCompletenessEventInvokeConfig")["MaximumRetryAttempts"] == 0
    assert grants(template, "CheckingClock") == {("lambda:InvokeFunction", "CheckingCheckCompleteness", ())}


def test_stages_of_the_same_stack_are_compared_with_by_reference(stack: Callable[..., MeteringStack]) -> None:
    """Several that write one log are added up."""
    metering = stack(metrics=[Count(name="requests")], access_log=AccessLog(Api.HTTP, "authorizer.claims.sub"))
    api = apigatewayv2.HttpApi(metering, "Api", create_default_stage=False)
    metering.compare_with(api=api.api_id, stage="v1")
    metering.compare_with(api="a1b2c3", stage="v2")
    made = _environment(dict(Synthesised.from_stack(metering).to_json()))["STAGES"]
    assert isinstance(made, dict)
    _, (before, reference, after) = made["Fn::Join"]
    assert decode(f"{before}id{after}") == (Stage(Api.HTTP, "id", "v1"), Stage(Api.HTTP, "a1b2c3", "v2"))
    assert "Ref" in reference


def test_a_stage_of_another_kind_of_api_is_compared_as_what_it_is(stack: Callable[..., MeteringStack]) -> None:
    """Lines that were pasted into it reach the same log, and CloudWatch counts its requests in another place."""
    metering = stack()
    metering.compare_with(api="a1b2c3", stage="v1", kind=Api.HTTP)
    made = _environment(dict(Synthesised.from_stack(metering).to_json()))["STAGES"]
    assert decode(str(made)) == (Stage(Api.HTTP, "a1b2c3", "v1"),)
    with pytest.raises(ValueError, match="counts a WebSocket API's messages in both directions"):
        metering.compare_with(api="a1b2c3", stage="v1", kind=Api.WEBSOCKET)


def test_a_websocket_apis_requests_are_compared_with_nothing(stack: Callable[..., MeteringStack]) -> None:
    """CloudWatch has one number for the messages of both directions, and lines only of one."""
    metering = stack(access_log=AccessLog(Api.WEBSOCKET, "authorizer.user"))
    with pytest.raises(ValueError, match=r"counts a WebSocket API's messages in both directions .* leave compare_with"):
        metering.compare_with(api="a1b2c3", stage="v1")


def test_a_name_is_spelled_as_cloudwatch_spells_it(stack: Callable[..., MeteringStack]) -> None:
    """Without what is not ASCII; a name of which nothing is left is no dimension, the API's id is."""
    metering = stack()
    metering.compare_with(api="Gebühren-API", stage="v1")
    made = _environment(dict(Synthesised.from_stack(metering).to_json()))["STAGES"]
    assert decode(str(made)) == (Stage(Api.REST, "Gebhren-API", "v1"),)
    with pytest.raises(ValueError, match=r"knows an API by its id if its name has no ASCII character.*got '料金'"):
        metering.compare_with(api="料金", stage="v1")


def test_an_api_of_another_stack_is_named_as_text(app: cdk.App, stack: Callable[..., MeteringStack]) -> None:
    """By reference, each of the two stacks would need the other."""
    metering = stack(access_log=AccessLog(Api.HTTP, "authorizer.claims.sub"))
    other = cdk.Stack(app, "Other")
    api = apigatewayv2.HttpApi(other, "Api", create_default_stage=False)
    apigatewayv2.HttpStage(other, "Stage", http_api=api, access_log_settings=metering.access_log_settings)
    metering.compare_with(api=api.api_id, stage="v1")
    with pytest.raises(RuntimeError, match=r"(?i)cyclic"):
        app.synth()
