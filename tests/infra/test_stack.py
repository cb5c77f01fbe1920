"""What a metering stack takes, refuses, tells and offers."""

from collections.abc import Callable

import aws_cdk as cdk
import pytest
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_logs as logs
from aws_cdk.assertions import Template as Synthesised

from infra.stack import MeteringStack
from metering.access_log import AccessLog, Api
from metering.metrics import Count, MetricError, Sum
from tests.infra.resources import DEPLOYMENT, Template, of_type, properties

MakeStack = Callable[..., MeteringStack]


def test_the_outputs_are_what_the_command_reads(template: Template) -> None:
    """Their names are an interface; exports for the sample are none."""
    outputs = {name for name, output in template["Outputs"].items() if "Export" not in output}
    assert outputs == {
        "CountersTable",
        "LedgerTable",
        "Bucket",
        "AccessLogGroup",
        "RecordUsageFunction",
        "ClosePeriodsFunction",
        "StripeSecret",
        "StripeApiBase",
        "Deployment",
        "Metrics",
        "AlarmTopic",
    }
    assert template["Outputs"]["Deployment"]["Value"] == DEPLOYMENT
    assert template["Outputs"]["Metrics"]["Value"] == "requests,response_bytes"


def test_a_metric_that_cannot_be_counted_is_refused(stack: MakeStack) -> None:
    """At synthesis, with the sentence that says what to write instead."""
    with pytest.raises(MetricError, match=r"'bytes' sums 'response_lenght'.*: write 'response_length'"):
        stack(metrics=[Sum(name="bytes", of="response_lenght")])


def test_a_metric_must_fit_the_kind_of_api(stack: MakeStack) -> None:
    """A REST API cannot log what an HTTP API can."""
    with pytest.raises(MetricError, match="'data_processed', which a REST API cannot log"):
        stack(metrics=[Sum(name="bytes", of="data_processed")])


def test_metrics_that_overflow_the_environment_are_refused(stack: MakeStack) -> None:
    """Lambda allows 4 KB; CloudFormation would find out much later."""
    many = [Count(name=f"metric_{n}", resources=("/a/very/long/resource/path/{id}",)) for n in range(50)]
    with pytest.raises(ValueError, match=r"record_usage must fit into 4096 bytes, got \d+: declare fewer"):
        stack(metrics=many)


@pytest.mark.parametrize("deployment", ["", "a" * 41, "a.b", "ä"])
def test_a_deployment_that_stripe_could_not_carry_is_refused(stack: MakeStack, deployment: str) -> None:
    """It begins the names of Stripe's meters."""
    with pytest.raises(ValueError, match="deployment must be 1 to 40 letters"):
        stack(deployment=deployment)


@pytest.mark.parametrize("epoch", [0, 1000])
def test_an_epoch_out_of_bounds_is_refused(stack: MakeStack, epoch: int) -> None:
    """It begins each identifier, whose length is bounded."""
    with pytest.raises(ValueError, match=f"ledger_epoch must be from 1 to 999, got {epoch}"):
        stack(ledger_epoch=epoch)


def test_the_key_is_never_sent_in_the_clear(stack: MakeStack) -> None:
    """I8: plain HTTP is for the emulator alone."""
    with pytest.raises(ValueError, match="stripe_api_base must begin with https://"):
        stack(stripe_api_base="http://api.stripe.com")
    stack("Local", stripe_api_base="http://127.0.0.1:1", local=True)


def test_settings_reach_the_functions(stack: MakeStack) -> None:
    """The deployment, the epoch and where Stripe is."""
    made = _template(stack(deployment="prod-eu", ledger_epoch=7, stripe_api_base="https://stripe.example"))
    environment = properties(made, "BillingClosePeriods")["Environment"]["Variables"]
    assert environment["DEPLOYMENT"] == "prod-eu"
    assert environment["LEDGER_EPOCH"] == "7"
    assert environment["STRIPE_API_BASE"] == "https://stripe.example"
    assert environment["POWERTOOLS_SERVICE_NAME"] == "prod-eu"
    assert properties(made, "AlarmsUsageRejected")["Dimensions"] == [{"Name": "service", "Value": "prod-eu"}]


def test_the_access_log_is_kept_for_90_days_unless_told_otherwise(template: Template, stack: MakeStack) -> None:
    """Longer than counters can be recounted from it."""
    assert properties(template, "AccessLog")["RetentionInDays"] == 90
    longer = _template(stack(access_log_retention=logs.RetentionDays.ONE_YEAR))
    assert properties(longer, "AccessLog")["RetentionInDays"] == 365


def test_a_rest_api_in_the_same_stack_takes_metering(stack: MakeStack) -> None:
    """The stage writes what the reader reads, into the log that is subscribed to."""
    metering = stack()
    options = apigateway.StageOptions(
        access_log_destination=metering.access_log_destination, access_log_format=metering.access_log_format
    )
    apigateway.RestApi(metering, "Api", deploy_options=options).root.add_method("GET")
    (stage,) = of_type(_template(metering), "AWS::ApiGateway::Stage").values()
    assert stage["Properties"]["AccessLogSetting"]["Format"] == AccessLog().format()


def test_an_http_api_takes_metering(stack: MakeStack) -> None:
    """Its stage writes an HTTP API's variables, and whom its authorizer names."""
    access_log = AccessLog(api=Api.HTTP, caller="authorizer.claims.sub")
    metering = stack(access_log=access_log, metrics=[Sum(name="bytes", of="data_processed")])
    api = apigatewayv2.HttpApi(metering, "Api", create_default_stage=False)
    apigatewayv2.HttpStage(metering, "Stage", http_api=api, access_log_settings=metering.access_log_settings)
    (stage,) = of_type(_template(metering), "AWS::ApiGatewayV2::Stage").values()
    written = stage["Properties"]["AccessLogSettings"]
    assert written["Format"] == access_log.format()
    assert "$context.authorizer.claims.sub" in written["Format"]
    assert "AccessLogD598EBE9" in str(written["DestinationArn"])


def test_a_stage_of_the_other_kind_is_refused(stack: MakeStack) -> None:
    """Its lines would name no caller, and nobody would be billed."""
    with pytest.raises(ValueError, match="reads the log of REST APIs, not of HTTP APIs"):
        _ = stack("Rest").access_log_settings
    http = stack("Http", access_log=AccessLog(api=Api.HTTP, caller="authorizer.claims.sub"))
    with pytest.raises(ValueError, match="reads the log of HTTP APIs, not of REST APIs"):
        _ = http.access_log_destination


def _template(stack: cdk.Stack) -> Template:
    return dict(Synthesised.from_stack(stack).to_json())
