"""What a metering stack takes, refuses, tells and offers."""

from collections.abc import Callable
from typing import Any, cast

import aws_cdk as cdk
import pytest
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_logs as logs
from aws_cdk.assertions import Template as Synthesised

from infra.stack.ingest import Road
from infra.stack.metering import MeteringStack
from metering.model.log_format import AccessLog, Api
from metering.model.metric_checks import MetricError
from metering.model.metrics import USAGE_LINES, Count, Sum
from tests.doubles.access_log import NONCE
from tests.doubles.template import DEPLOYMENT, Template, flat, joined, of_type, properties

MakeStack = Callable[..., MeteringStack]


def test_the_outputs_are_what_the_command_reads(
    template: Template, firehose_template: Template, limits_template: Template
) -> None:
    """Their names are an interface; exports for the sample are none."""
    outputs = {
        "Version",
        "AccessLogFormat",
        "AccessLogDestinationArn",
        "CountersTable",
        "LedgerTable",
        "Bucket",
        "Road",
        "AccessLogGroup",
        "ConnectedLogs",
        "RecordUsageFunction",
        "ClosePeriodsFunction",
        "PostUsageFunction",
        "ReconcileUsageFunction",
        "CheckCompletenessFunction",
        "ReceiveEventsFunction",
        "NotificationsUrl",
        "SigningSecret",
        "StripeSecret",
        "StripeApiBase",
        "StripeReadsAMonth",
        "Deployment",
        "Metrics",
        "Nonces",
        "AlarmTopic",
        *(["Dashboard"] if "Dashboard" in template["Outputs"] else []),
        "PortalUrl",
        "PortalSecret",
        "ShowUsageFunction",
    }
    assert _outputs(template) == outputs
    assert _outputs(firehose_template) == outputs | {"DeliveryStream", "FailedObjects"}
    of_functions = {f"{name}Function" for name in ("WatchLimits", "EnforceLimits", "SetBudget")}
    assert _outputs(limits_template) == outputs | of_functions | {"AccessTable", "GateQueue"}
    assert template["Outputs"]["Deployment"]["Value"] == DEPLOYMENT
    assert template["Outputs"]["Metrics"]["Value"] == "requests,response_bytes,messages,users"
    assert template["Outputs"]["Road"]["Value"] == "subscription"
    assert firehose_template["Outputs"]["Road"]["Value"] == "firehose"
    assert flat(firehose_template["Outputs"]["FailedObjects"]["Value"]) == "IngestDeliveryFailed"


def test_a_stage_of_another_tool_gets_its_format_and_its_destination(
    template: Template, firehose_template: Template, sample: Template
) -> None:
    """By outputs: what the sample's own stage writes, and where, without the end that only IAM's ARNs have."""
    told = template["Outputs"]
    (stage,) = of_type(sample, "AWS::ApiGateway::Stage").values()
    written = stage["Properties"]["AccessLogSetting"]["Format"]
    assert joined(told["AccessLogFormat"]["Value"], known=NONCE) == joined(written, known=NONCE)
    assert flat(told["AccessLogDestinationArn"]["Value"]).endswith(":log-group:AccessLog")
    assert flat(firehose_template["Outputs"]["AccessLogDestinationArn"]["Value"]) == "IngestDeliveryStream"


def test_a_format_that_is_too_long_is_no_output(stack: MakeStack) -> None:
    """'metering connect --print' tells it, and a stage of the CDK takes it as ever."""
    many = [Sum(name=f"units_{n}", of=f"authorizer.a_property_with_a_long_name_{n}") for n in range(12)]
    template = Synthesised.from_stack(stack(metrics=many)).to_json()
    assert "AccessLogFormat" not in template["Outputs"]
    assert "AccessLogDestinationArn" in template["Outputs"]


def _outputs(template: Template) -> set[str]:
    return {name for name, output in template["Outputs"].items() if "Export" not in output}


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


@pytest.mark.parametrize("epoch", [0, 100])
def test_an_epoch_out_of_bounds_is_refused(stack: MakeStack, epoch: int) -> None:
    """It begins each identifier, whose length is bounded."""
    with pytest.raises(ValueError, match=f"ledger_epoch must be from 1 to 99, got {epoch}"):
        stack(ledger_epoch=epoch)


def test_the_key_is_never_sent_in_the_clear(stack: MakeStack) -> None:
    """I8: plain HTTP is for the emulator alone."""
    with pytest.raises(ValueError, match="stripe_api_base must begin with https://"):
        stack(stripe_api_base="http://api.stripe.com")
    stack("Local", stripe_api_base="http://127.0.0.1:1", local=True)


def test_settings_reach_the_functions(stack: MakeStack) -> None:
    """The deployment, the epoch, where Stripe is and how much it takes."""
    made = _template(
        stack(
            deployment="prod-eu",
            ledger_epoch=7,
            stripe_api_base="https://stripe.example",
            stripe_rate=200,
            stripe_reads_a_month=1800,
            streamed_from="2026-12-01T00",
        )
    )
    posting = properties(made, "BillingPostUsage")["Environment"]["Variables"]
    assert posting["LEDGER_EPOCH"] == "7"
    assert posting["STRIPE_RATE"] == "200"
    assert posting["STREAMED_FROM"] == "2026-12-01T00"
    assert properties(made, "BillingReconcileUsage")["Environment"]["Variables"]["STRIPE_READS_A_MONTH"] == "1800"
    for name in ("PostUsage", "ReconcileUsage", "ReceiveEvents"):
        environment = properties(made, f"Billing{name}")["Environment"]["Variables"]
        assert environment["DEPLOYMENT"] == "prod-eu"
        assert environment["STRIPE_API_BASE"] == "https://stripe.example"
        assert environment["POWERTOOLS_SERVICE_NAME"] == "prod-eu"
    assert properties(made, "AlarmsUsageRejected")["Dimensions"] == [{"Name": "service", "Value": "prod-eu"}]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"stripe_rate": 0}, "stripe_rate must be 1 or more, got 0"),
        ({"stripe_reads_a_month": 999}, "stripe_reads_a_month must be 1000 or more, got 999"),
        ({"streamed_from": "tomorrow"}, "streamed_from: .*tomorrow"),
        ({"streamed_from": "2026-12-01T00:30"}, "streamed_from: .*2026-12-01T00:30"),
    ],
)
def test_a_posting_that_could_never_begin_is_refused(stack: MakeStack, setting: Any, sentence: str) -> None:
    """At synthesis, in a sentence."""
    with pytest.raises(ValueError, match=sentence):
        stack(**setting)


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
    assert joined(stage["Properties"]["AccessLogSetting"]["Format"], NONCE) == AccessLog().format(NONCE)


def test_an_http_api_takes_metering(stack: MakeStack) -> None:
    """Its stage writes an HTTP API's variables, and whom its authorizer names."""
    access_log = AccessLog(api=Api.HTTP, caller="authorizer.claims.sub")
    metering = stack(access_log=access_log, metrics=[Sum(name="bytes", of="data_processed")])
    api = apigatewayv2.HttpApi(metering, "Api", create_default_stage=False)
    apigatewayv2.HttpStage(metering, "Stage", http_api=api, access_log_settings=metering.access_log_settings)
    stages = of_type(_template(metering), "AWS::ApiGatewayV2::Stage").values()
    (written,) = [found for stage in stages if (found := stage["Properties"].get("AccessLogSettings"))]
    assert joined(written["Format"], NONCE) == access_log.format(NONCE)
    assert "$context.authorizer.claims.sub" in joined(written["Format"], NONCE)
    assert "AccessLogD598EBE9" in str(written["DestinationArn"])


def test_a_websocket_api_takes_metering(stack: MakeStack) -> None:
    """By the log group's ARN without ``:*`` at its end, which API Gateway refuses there."""
    access_log = AccessLog(Api.WEBSOCKET, "authorizer.user")
    metering = stack(access_log=access_log)
    api = apigatewayv2.WebSocketApi(metering, "Api")
    apigatewayv2.WebSocketStage(
        metering, "Stage", web_socket_api=api, stage_name="v1", access_log_settings=metering.access_log_settings
    )
    stages = of_type(_template(metering), "AWS::ApiGatewayV2::Stage").values()
    (written,) = [found for stage in stages if (found := stage["Properties"].get("AccessLogSettings"))]
    assert joined(written["Format"], NONCE) == access_log.format(NONCE)
    _, parts = written["DestinationArn"]["Fn::Join"]
    assert parts[-2:] == [":log-group:", {"Ref": "AccessLogD598EBE9"}]


def test_a_websocket_apis_log_is_written_by_the_accounts_role(stack: MakeStack) -> None:
    """As a REST API's, so that its name needs no prefix."""
    made = properties(_template(stack(access_log=AccessLog(Api.WEBSOCKET, "authorizer.user"))), "AccessLog")
    assert "LogGroupName" not in made


def test_an_http_apis_log_has_a_name_that_log_delivery_needs_no_policy_for(stack: MakeStack) -> None:
    """And that is of this stack's making alone: the log of one that was deleted stays, and stands in nobody's way."""
    http = AccessLog(api=Api.HTTP, caller="authorizer.claims.sub")
    named = properties(_template(stack("Billing-Prod", access_log=http)), "AccessLog")["LogGroupName"]
    assert named == {
        "Fn::Join": [
            "",
            [
                "/aws/vendedlogs/metering/Billing-Prod/",
                {"Fn::Select": [2, {"Fn::Split": ["/", {"Ref": "AWS::StackId"}]}]},
            ],
        ]
    }


@pytest.mark.parametrize("access_log", [AccessLog(), AccessLog(api=Api.HTTP, caller="authorizer.claims.sub")])
def test_a_log_that_is_delivered_to_would_feed_itself_too(stack: MakeStack, access_log: AccessLog) -> None:
    """By the name that CloudFormation has given it, or a command that connected a stage."""
    metering = stack(metrics=[TOKENS], access_log=access_log)
    named = logs.LogGroup.from_log_group_name(metering, "Named", "/aws/vendedlogs/metering/Metering/0e1f2a3b")
    with pytest.raises(ValueError, match="belongs to metering itself, which would feed itself for ever"):
        metering.meter_usage_lines(named)


def test_a_stage_of_the_other_kind_is_refused(stack: MakeStack) -> None:
    """Its lines would name no caller, and nobody would be billed."""
    with pytest.raises(ValueError, match="reads the log of REST APIs, not of HTTP or WEBSOCKET APIs"):
        _ = stack("Rest").access_log_settings
    socket = stack("Socket", access_log=AccessLog(api=Api.WEBSOCKET, caller="authorizer.user"))
    with pytest.raises(ValueError, match="reads the log of WEBSOCKET APIs, not of REST APIs"):
        _ = socket.access_log_destination
    http = stack("Http", access_log=AccessLog(api=Api.HTTP, caller="authorizer.claims.sub"))
    with pytest.raises(ValueError, match="reads the log of HTTP APIs, not of REST APIs"):
        _ = http.access_log_destination


def test_the_usage_lines_of_another_stacks_log_are_metered(app: cdk.App, stack: MakeStack) -> None:
    """Filter and permission stand beside the log group, so that no circle arises between the stacks."""
    metering = stack(metrics=[TOKENS])
    backend = cdk.Stack(app, "Backend")
    metering.meter_usage_lines(logs.LogGroup(backend, "Log"))
    made = _template(backend)
    (subscription,) = of_type(made, "AWS::Logs::SubscriptionFilter").values()
    assert subscription["Properties"]["FilterPattern"] == "usage"
    assert flat(subscription["Properties"]["LogGroupName"]) == "Log"
    assert "IngestRecordUsage" in str(subscription["Properties"]["DestinationArn"])
    (permission,) = of_type(made, "AWS::Lambda::Permission").values()
    assert permission["Properties"]["Principal"] == "logs.amazonaws.com"
    assert flat(permission["Properties"]["SourceArn"]) == "Log"
    (written,) = of_type(
        made, "AWS::Logs::MetricFilter"
    ).values()  # counts what is to be delivered, by the same pattern
    assert written["Properties"]["FilterPattern"] == subscription["Properties"]["FilterPattern"]
    (metric,) = written["Properties"]["MetricTransformations"]
    assert (flat(metric["MetricName"]), metric["MetricValue"]) == ("Log", "1")
    assert "Metering/" in str(metric["MetricNamespace"])
    assert len(of_type(_template(metering), "AWS::Logs::SubscriptionFilter")) == 1


def test_the_usage_lines_of_a_log_that_exists_already_are_metered(stack: MakeStack) -> None:
    """Beside those of others; two deployments may meter the same log."""
    one, other = stack(metrics=[TOKENS]), stack("Other", metrics=[TOKENS])
    there = logs.LogGroup.from_log_group_name(one, "Jobs", "/aws/lambda/jobs")
    one.meter_usage_lines(there)
    one.meter_usage_lines(logs.LogGroup.from_log_group_name(one, "Batches", "/aws/lambda/batches"))
    other.meter_usage_lines(there)
    filters = of_type(_template(one), "AWS::Logs::SubscriptionFilter").values()
    assert sorted(str(found["Properties"]["LogGroupName"]) for found in filters)[:3] == [
        "/aws/lambda/batches",
        "/aws/lambda/jobs",
        "/aws/lambda/jobs",
    ]


@pytest.mark.parametrize(
    "mine",
    [
        "IngestRecordUsageLog",
        "BillingClosePeriodsLog",
        "BillingPostUsageLog",
        "BillingReconcileUsageLog",
        "BillingReceiveEventsLog",
        "CheckingCheckCompletenessLog",
        "PortalShowUsageLog",
        "PortalSetBudgetLog",
        "LimitingWatchLimitsLog",
        "LimitingEnforceLimitsLog",
        "IngestDeliveryErrorLog",
        "AccessLog",
    ],
)
def test_a_log_that_would_feed_itself_is_refused(stack: MakeStack, mine: str) -> None:
    """By reference, and by the name that CloudFormation has given it."""
    metering = stack(metrics=[TOKENS], road=Road.FIREHOSE, limits=True)
    (own,) = [one for one in metering.node.find_all() if isinstance(one, logs.LogGroup) and _logical_id(one) == mine]
    with pytest.raises(ValueError, match="belongs to metering itself, which would feed itself for ever"):
        metering.meter_usage_lines(own)
    logical_id = metering.get_logical_id(cast("cdk.CfnElement", own.node.default_child))
    named = logs.LogGroup.from_log_group_name(metering, "Named", f"Metering-{logical_id}-a1B2c3D4e5F6")
    with pytest.raises(ValueError, match="belongs to metering itself, which would feed itself for ever"):
        metering.meter_usage_lines(named)


@pytest.mark.parametrize(
    "name", ["/aws/appsync/apis/${Token}", "API-Gateway-Execution-Logs_a1/prod", "aws-waf-logs-front"]
)
def test_a_log_that_callers_text_gets_into_is_refused(stack: MakeStack, name: str) -> None:
    """I7: a query that holds a usage line would bill whom it names."""
    metering = stack(metrics=[TOKENS])
    token = cdk.Fn.import_value("ApiId")
    named = logs.LogGroup.from_log_group_name(metering, "Named", name.replace("${Token}", token))
    with pytest.raises(ValueError, match="so that whoever calls could write a usage line there, and bill anyone"):
        metering.meter_usage_lines(named)


def test_usage_lines_that_nothing_measures_are_refused(stack: MakeStack) -> None:
    """They would be delivered, paid for, and set aside."""
    metering = stack()
    with pytest.raises(ValueError, match="no metric measures usage lines: declare one first"):
        metering.meter_usage_lines(logs.LogGroup(metering, "Log"))


TOKENS = Sum(name="tokens", of=USAGE_LINES)


def _logical_id(log_group: logs.LogGroup) -> str:
    return cdk.Stack.of(log_group).get_logical_id(cast("cdk.CfnElement", log_group.node.default_child))[:-8]


def _template(stack: cdk.Stack) -> Template:
    return dict(Synthesised.from_stack(stack).to_json())
