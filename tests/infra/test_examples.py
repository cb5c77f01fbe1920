"""The examples are synthesised as app.py is, and what they attach is what is read."""

import ast
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import aws_cdk as cdk
import pytest
from aws_cdk import aws_sqs as sqs
from aws_cdk.cx_api import CloudAssembly

from infra.stack.examples import http_api, reporting, usage_lines, websocket_api
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import declared
from metering.model.usage_lines import Report, UsageLineReader
from tests.doubles.access_log import NONCE
from tests.doubles.template import Template, exports, flat, joined, of_type, properties

EXAMPLES = Path(http_api.__file__).parent
FILES = sorted(path for path in EXAMPLES.glob("*.py") if path.name != "__init__.py")

Build = Callable[[cdk.App], cdk.App]


def test_every_example_is_tested_here() -> None:
    """An example that nothing synthesises would rot; reporting's other tests are in test_reporters.py."""
    assert [path.stem for path in FILES] == ["http_api", "reporting", "usage_lines", "websocket_api"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_imports_of_ours_the_stack_alone(path: Path) -> None:
    """As an app of one's own does, so that it can be copied to wherever the stack can be imported."""
    allowed = {"aws_cdk", "cdk_nag", "infra.stack"}
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    named = [
        name
        for node in imports
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    ]
    assert set(named) - sys.stdlib_module_names == allowed


@pytest.mark.parametrize(
    "build",
    [http_api.build, reporting.build, usage_lines.build, websocket_api.build],
    ids=lambda build: build.__module__,
)
def test_an_open_finding_fails_an_examples_synthesis(app: cdk.App, build: Build) -> None:
    """That the templates below can be synthesised at all means that cdk-nag has found nothing else."""
    sqs.Queue(cast("cdk.Stack", build(app).node.find_child("Metering")), "Careless")
    with pytest.raises(RuntimeError, match="AwsSolutions-SQS4"):
        app.synth()


@pytest.fixture(scope="module")
def http(context: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> CloudAssembly:
    """The example of an HTTP API."""
    return http_api.build(_app(context, tmp_path_factory)).synth()


@pytest.fixture(scope="module")
def lines(context: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> CloudAssembly:
    """The example of usage lines."""
    return usage_lines.build(_app(context, tmp_path_factory)).synth()


@pytest.fixture(scope="module")
def socket(context: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> CloudAssembly:
    """The example of a WebSocket API."""
    return websocket_api.build(_app(context, tmp_path_factory)).synth()


def _app(context: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> cdk.App:
    return cdk.App(context=context, outdir=str(tmp_path_factory.mktemp("cdk.out")))


def _template(assembly: CloudAssembly, stack: str) -> Template:
    return dict(assembly.get_stack_by_name(stack).template)


def test_the_http_stage_writes_the_format_that_the_reader_reads(http: CloudAssembly) -> None:
    """Who is billed is the token's subject; the metrics' fields are those of an HTTP API."""
    (stage,) = of_type(_template(http, "ItemsApi"), "AWS::ApiGatewayV2::Stage").values()
    written = joined(stage["Properties"]["AccessLogSettings"]["Format"], NONCE)
    assert '"key":"$context.authorizer.claims.sub"' in written
    log = AccessLog(api=Api.HTTP, caller="authorizer.claims.sub")
    assert written == log.format(NONCE, declared(http_api.METRICS))


def test_the_http_stage_writes_into_the_metered_log(http: CloudAssembly) -> None:
    """The metering stack exports its access log to the API's, and record_usage subscribes to it."""
    metering = _template(http, "Metering")
    (exported,) = exports(metering)
    assert flat(exported["Value"]) == "AccessLog"
    (stage,) = of_type(_template(http, "ItemsApi"), "AWS::ApiGatewayV2::Stage").values()
    assert exported["Export"]["Name"] in str(stage["Properties"]["AccessLogSettings"]["DestinationArn"])
    subscription = properties(metering, "IngestSubscription")
    assert flat(subscription["LogGroupName"]) == "AccessLog"
    assert flat(subscription["DestinationArn"]) == "IngestRecordUsage"


def test_every_route_asks_for_a_token(http: CloudAssembly) -> None:
    """I7: whom a request is billed to is what the issuer has signed."""
    template = _template(http, "ItemsApi")
    ((name, authorizer),) = of_type(template, "AWS::ApiGatewayV2::Authorizer").items()
    assert authorizer["Properties"]["AuthorizerType"] == "JWT"
    assert authorizer["Properties"]["JwtConfiguration"] == {"Audience": ["items"], "Issuer": http_api.ISSUER}
    routes = of_type(template, "AWS::ApiGatewayV2::Route").values()
    assert {route["Properties"]["RouteKey"]: route["Properties"]["AuthorizerId"] for route in routes} == {
        "GET /items": {"Ref": name}
    }


def test_the_websocket_stage_writes_the_format_that_the_reader_reads(socket: CloudAssembly) -> None:
    """Who is billed is whom the authorizer names; the messages are counted that come in."""
    (stage,) = of_type(_template(socket, "ChatApi"), "AWS::ApiGatewayV2::Stage").values()
    written = joined(stage["Properties"]["AccessLogSettings"]["Format"], NONCE)
    log = AccessLog(api=Api.WEBSOCKET, caller="authorizer.customer")
    assert written == log.format(NONCE, declared(websocket_api.METRICS))
    assert '"method":"$context.eventType","resource":"$context.routeKey"' in written


def test_nobody_connects_without_the_authorizer(socket: CloudAssembly) -> None:
    """I7: API Gateway asks it on $connect, and gives no other route a message of anybody else's."""
    template = _template(socket, "ChatApi")
    ((name, authorizer),) = of_type(template, "AWS::ApiGatewayV2::Authorizer").items()
    assert authorizer["Properties"]["AuthorizerType"] == "REQUEST"
    assert authorizer["Properties"]["IdentitySource"] == ["route.request.querystring.ticket"]
    routes = of_type(template, "AWS::ApiGatewayV2::Route").values()
    assert {route["Properties"]["RouteKey"]: route["Properties"].get("AuthorizerId") for route in routes} == {
        "$connect": {"Ref": name},
        "$default": None,
    }


def test_the_workers_log_is_subscribed_to_for_its_usage_lines(lines: CloudAssembly) -> None:
    """Filter and permission stand beside the log group; record_usage may be invoked from there alone."""
    template = _template(lines, "Worker")
    (subscription,) = of_type(template, "AWS::Logs::SubscriptionFilter").values()
    assert flat(subscription["Properties"]["LogGroupName"]) == "Log"
    assert subscription["Properties"]["FilterPattern"] == "usage"
    imported = subscription["Properties"]["DestinationArn"]["Fn::ImportValue"]
    (exported,) = [found for found in _template(lines, "Metering")["Outputs"].values() if "Export" in found]
    assert exported["Export"]["Name"] == imported
    assert flat(exported["Value"]) == "IngestRecordUsage"
    (permission,) = of_type(template, "AWS::Lambda::Permission").values()
    assert permission["Properties"]["Action"] == "lambda:InvokeFunction"
    assert permission["Properties"]["FunctionName"] == {"Fn::ImportValue": imported}
    assert flat(permission["Properties"]["SourceArn"]) == "Log"
    (function,) = of_type(template, "AWS::Lambda::Function").values()
    assert flat(function["Properties"]["LoggingConfig"]["LogGroup"]) == "Log"


def test_the_workers_role_alone_may_write_its_log(lines: CloudAssembly) -> None:
    """I7: whoever can write there can bill anyone."""
    template = _template(lines, "Worker")
    ((policy_name, policy),) = of_type(template, "AWS::IAM::Policy").items()
    (statement,) = policy["Properties"]["PolicyDocument"]["Statement"]
    assert policy_name.startswith("RoleDefaultPolicy")
    assert statement["Action"] == ["logs:CreateLogStream", "logs:PutLogEvents"]
    assert flat(statement["Resource"]) == "Log"
    assert of_type(template, "AWS::Logs::ResourcePolicy") == {}


def test_what_the_worker_prints_is_a_usage_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Its amount is that of the metric, in the hour in which the job ran, and the text stays out of the log."""
    namespace: dict[str, Any] = {}
    exec(usage_lines.WORKER, namespace)  # noqa: S102 - the inline code of the example's function
    job = {"id": "job-17", "customer": "acme", "text": "nobody else's business"}
    assert namespace["handler"](job, None) == {"words": 3}
    (printed,) = capsys.readouterr().out.splitlines()
    assert "business" not in printed
    now = datetime.now(UTC) + timedelta(minutes=1)  # the reader's clock is behind nobody's
    report = UsageLineReader(now, usage_lines.METRICS).read(printed)
    assert isinstance(report, Report)
    assert (report.id, report.source, report.amounts) == ("job-17", "@acme", {"words": 3})
    assert now - timedelta(hours=1) <= datetime.fromtimestamp(report.moment / 1000, UTC) <= now
