"""The lines to paste, before what reads them: the CDK, CloudFormation's and SAM's schemas, Terraform's language."""

import base64
import json
import os
import random
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import aws_cdk as cdk
import pytest
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_logs as logs
from cfnlint.api import lint
from cfnlint.config import ManualArgs
from cfnlint.decode import decode_str
from hcl2 import SerializationOptions, loads
from hypothesis import given
from hypothesis import strategies as st

from infra.local.npm import NpmError
from infra.operate.connections.snippets import Tool, hcl, lines_to_paste, own_log, pasted, snippet, yaml
from infra.operate.connections.terms import Place
from metering.model.connections import StageLog
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import Count, Sum, Unique, declared
from tests.conftest import cannot_run
from tests.doubles.access_log import NONCE
from tests.doubles.template import Template, of_type
from tests.infra.cdk_typescript import TypeScriptError, synthesised

METRICS: Final = (
    Count(name="requests"),
    Sum(name="units", of="responseOverride.header.X-Units"),
    Sum(name="tokens", of="authorizer.claims.custom:tokens"),
    Unique(name="users", of="authorizer.user_id", opaque_id=True),
)
"""With variables of every kind that a metric may name."""

PLACE: Final = Place(
    stack="Metering",
    access_log=AccessLog(),
    access_log_group="Metering-AccessLog1A2B3C4D-xYz",
    connected_logs="/aws/vendedlogs/metering/Metering/",
    group_arn="arn:aws-us-gov:logs:us-gov-west-1:123456789012:log-group:",
    function_arn="arn:aws-us-gov:lambda:us-gov-west-1:123456789012:function:record-usage",
    nonce=NONCE,
    metrics=METRICS,
)

LOGS: Final = {
    Api.REST: own_log(PLACE, AccessLog(Api.REST, None, "orders", keys_apart=True)),
    Api.HTTP: own_log(PLACE, AccessLog(Api.HTTP, "authorizer.claims.cognito:username", "shop")),
    Api.WEBSOCKET: own_log(PLACE, AccessLog(Api.WEBSOCKET, "authorizer.tenant", "chat")),
}

OTHERS: Final = StageLog(
    "arn:aws:logs:us-east-1:123456789012:log-group:it's theirs",
    "$context.requestId \"it's\" '' \\n \\\\ \\\" \\' ${a} $${b} %{c} %%{d} $$context.status {{x}}: # , `${e}` "
    "\t\u00e9\u2028\U0001f600",
)
"""What nobody would write, and a stage may have all the same."""

APIS: Final = pytest.mark.parametrize("api", Api, ids=lambda api: api.value)


def test_a_stage_writes_into_the_deployments_own_log() -> None:
    """Of its account, Region and partition, and without the ``:*`` at the end that REST APIs do not take."""
    group = "arn:aws-us-gov:logs:us-gov-west-1:123456789012:log-group:Metering-AccessLog1A2B3C4D-xYz"
    assert {log.destination for log in LOGS.values()} == {group}
    streaming = replace(PLACE, delivery_stream="amazon-apigateway-Metering")
    assert own_log(streaming, AccessLog()).destination == (
        "arn:aws-us-gov:firehose:us-gov-west-1:123456789012:deliverystream/amazon-apigateway-Metering"
    )
    assert own_log(streaming, AccessLog(Api.HTTP, "authorizer.claims.sub")).destination == group


def test_a_format_bears_the_name_of_its_connection_and_the_nonce() -> None:
    """So that its lines are read without anything in the ledger."""
    assert LOGS[Api.REST].format.startswith(f'{{"metering":"1:17:{NONCE}"')
    shop = json.loads(LOGS[Api.HTTP].format)
    assert (shop["api_id"], shop["key"]) == ("shop", "shop:$context.authorizer.claims.cognito:username")
    assert shop["authorizer.claims.custom:tokens"] == "$context.authorizer.claims.custom:tokens"


@APIS
def test_a_pasted_format_says_whose_it_is(api: Api) -> None:
    """By its name and its caller; what any other says is not believed."""
    log = pasted(api, LOGS[api].format, keys_apart=True)
    assert log is not None
    assert log.format(NONCE, declared(METRICS)) == LOGS[api].format
    other = '{"api_id":"orders","key":"$context.path"}'
    for text in (
        AccessLog().format(NONCE),
        other,
        '{"api_id":"orders"}',
        "[1]",
        "$context.requestId",
        '{"api_id":1,"key":2}',
    ):
        assert pasted(api, text, keys_apart=False) is None


def test_lines_begin_with_where_they_belong() -> None:
    """In a comment of the language; of no tool, they are the two values."""
    lines = "".join(snippet(tool, Api.REST, LOGS[Api.REST]) for tool in Tool)
    assert re.findall(r"^(?:#|//) .*$", lines, re.MULTILINE) == [
        (
            "// TypeScript: `api` is your RestApi, or `api.deploymentStage` any Stage; "
            "a CfnStage needs no `.node.defaultChild`"
        ),
        (
            "# Python: `api` is your RestApi, or `api.deployment_stage` any Stage; "
            "a CfnStage needs no `.node.default_child`"
        ),
        "# Properties of your AWS::Serverless::Api; of an API that SAM makes by itself: Globals, Api",
        "# Properties of your AWS::ApiGateway::Stage",
        "# in your aws_api_gateway_stage",
    ]
    assert lines_to_paste(StageLog("arn", "$context")) == ("destination: arn", "format: $context")


# SAM and CloudFormation

REST_STAGE: Final = """
Resources:
  Api:
    Type: AWS::ApiGateway::RestApi
    Properties: {Name: Orders}
  Method:
    Type: AWS::ApiGateway::Method
    Properties:
      RestApiId: !Ref Api
      ResourceId: !GetAtt Api.RootResourceId
      HttpMethod: GET
      AuthorizationType: NONE
      ApiKeyRequired: true
      Integration: {Type: MOCK}
  Deployment:
    Type: AWS::ApiGateway::Deployment
    DependsOn: Method
    Properties: {RestApiId: !Ref Api}
  Stage:
    Type: AWS::ApiGateway::Stage
    Properties:
      RestApiId: !Ref Api
      DeploymentId: !Ref Deployment
      StageName: v1
"""
HTTP_STAGE: Final = """
Resources:
  Api:
    Type: AWS::ApiGatewayV2::Api
    Properties: {Name: Orders, ProtocolType: HTTP}
  Stage:
    Type: AWS::ApiGatewayV2::Stage
    Properties:
      ApiId: !Ref Api
      StageName: $default
      AutoDeploy: true
"""
BY_CLOUDFORMATION: Final = {
    Api.REST: REST_STAGE,
    Api.HTTP: HTTP_STAGE,
    Api.WEBSOCKET: HTTP_STAGE.replace("HTTP", "WEBSOCKET, RouteSelectionExpression: $request.body.action"),
}
"""Templates that end within the properties of a stage, where the lines belong."""

SAM: Final = "Transform: AWS::Serverless-2016-10-31"
BY_SAM: Final = {
    Api.REST: f"""{SAM}
Resources:
  Api:
    Type: AWS::Serverless::Api
    Properties:
      StageName: v1
      DefinitionBody: {{swagger: "2.0", info: {{title: Orders, version: "1"}}, paths: {{}}}}
""",
    Api.HTTP: f"""{SAM}
Resources:
  Api:
    Type: AWS::Serverless::HttpApi
    Properties:
      DefinitionBody: {{openapi: "3.0.1", info: {{title: Orders, version: "1"}}, paths: {{}}}}
""",
    Api.WEBSOCKET: f"""{SAM}
Resources:
  Api:
    Type: AWS::Serverless::WebSocketApi
    Properties:
      RouteSelectionExpression: $request.body.action
      Routes: {{$default: {{FunctionArn: "arn:aws:lambda:us-east-1:123456789012:function:orders"}}}}
""",
}
BY_SAM_ITSELF: Final = """{sam}
Globals:
  {kind}:
{lines}
Resources:
  Function:
    Type: AWS::Serverless::Function
    Properties:
      Runtime: python3.13
      Handler: index.handler
      InlineCode: "def handler(event, context): return {{}}"
      Events:
        Call: {{Type: {kind}, Properties: {{Path: /, Method: get}}}}
"""


def _findings(template: str) -> list[str]:
    return [str(match) for match in lint(template, config=ManualArgs(regions=["us-east-1"]))]


def _read(template: str) -> Template:
    """Return a template of YAML as cfn-lint reads it, of plain types."""
    found, errors = decode_str(template)
    assert errors == []
    plain: Template = json.loads(json.dumps(found))
    return plain


def _translated(template: str) -> Template:
    """Return what SAM makes of a template."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "run",
        "--quiet",
        "--frozen",
        "--script",
        str(Path(__file__).with_name("sam.py")),
    ]
    done = subprocess.run(  # noqa: S603 - our own arguments
        command, input=json.dumps(_read(template)), capture_output=True, text=True, check=True, timeout=600
    )
    translated: Template = json.loads(done.stdout)
    return translated


def _log_of_the_stage(template: Template) -> StageLog:
    """Return the access log of the only stage of a template."""
    stages = {**of_type(template, "AWS::ApiGateway::Stage"), **of_type(template, "AWS::ApiGatewayV2::Stage")}
    (stage,) = stages.values()
    (settings,) = [value for name, value in stage["Properties"].items() if name.startswith("AccessLogSetting")]
    assert settings.keys() == {"DestinationArn", "Format"}
    return StageLog(settings["DestinationArn"], settings["Format"])


@APIS
def test_cloudformation_reads_the_lines_to_the_letter(api: Api) -> None:
    """Its schemas take them in a stage's properties."""
    lines = snippet(Tool.CLOUDFORMATION, api, LOGS[api])
    template = BY_CLOUDFORMATION[api] + textwrap.indent(lines, " " * 6)
    assert _findings(template) == []
    assert _log_of_the_stage(_read(template)) == LOGS[api]


def test_lines_of_the_other_kind_of_api_are_found() -> None:
    """The schemas can refuse: a REST API has one setting, the others have settings."""
    lines = snippet(Tool.CLOUDFORMATION, Api.REST, LOGS[Api.REST])
    (finding,) = _findings(BY_CLOUDFORMATION[Api.HTTP] + textwrap.indent(lines, " " * 6))
    assert "'AccessLogSetting' was unexpected" in finding


@APIS
def test_sam_gives_the_lines_to_the_stage_that_it_makes(api: Api) -> None:
    """As its own translator does, whose outcome CloudFormation's schemas take; cfn-lint takes the lines as well."""
    template = BY_SAM[api] + textwrap.indent(snippet(Tool.SAM, api, LOGS[api]), " " * 6)
    assert _findings(template) == []
    translated = _translated(template)
    assert _log_of_the_stage(translated) == LOGS[api]
    assert _findings(json.dumps(translated)) == []


@pytest.mark.parametrize(("api", "kind"), [(Api.REST, "Api"), (Api.HTTP, "HttpApi")])
def test_sam_takes_the_lines_for_apis_that_it_makes_by_itself(api: Api, kind: str) -> None:
    """Where the template names no API, but for the events of functions."""
    lines = textwrap.indent(snippet(Tool.SAM, api, LOGS[api]), " " * 4)
    translated = _translated(BY_SAM_ITSELF.format(sam=SAM, kind=kind, lines=lines))
    assert _log_of_the_stage(translated) == LOGS[api]


# Terraform


def _terraform(lines: str, resource: str) -> StageLog:
    """Return the access log of a resource in Terraform's language."""
    text = f'resource "{resource}" "orders" {{\n{textwrap.indent(lines, "  ")}}}\n'
    read = loads(text, serialization_options=SerializationOptions(strip_string_quotes=True, with_comments=False))
    ((block,),) = [found[resource]["orders"]["access_log_settings"] for found in read["resource"]]
    return StageLog(block["destination_arn"], block["format"])


@APIS
def test_terraform_reads_the_lines_to_the_letter(api: Api) -> None:
    """A block within the resource of a stage."""
    resource = "aws_api_gateway_stage" if api is Api.REST else "aws_apigatewayv2_stage"
    lines = snippet(Tool.TERRAFORM, api, LOGS[api])
    assert lines.startswith(f"# in your {resource}\n")
    assert _terraform(lines, resource) == LOGS[api]


def test_terraform_itself_reads_any_text_to_the_letter(tmp_path: Path) -> None:
    """Also where a text has what begins a template of its language, or what escapes one."""
    terraform = shutil.which("terraform")
    if terraform is None:
        cannot_run("there is no terraform", needs="terraform")
    signs = random.Random(1)
    nasty = ["".join(signs.choices("$%{}\\\"'\n a", k=12)) for _ in range(1000)]
    formats = [*(log.format for log in LOGS.values()), OTHERS.format, *nasty]
    (tmp_path / "main.tf").write_text(f"locals {{ formats = [{', '.join(map(hcl, formats))}] }}", encoding="utf-8")
    done = subprocess.run(  # noqa: S603 - our own arguments
        [terraform, "console"],
        cwd=tmp_path,
        input="base64encode(jsonencode(local.formats))",
        env={**os.environ, "CHECKPOINT_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert json.loads(base64.b64decode(json.loads(done.stdout))) == formats


# The CDK

APP: Final = """
import { App, Stack } from "aws-cdk-lib";
import * as apigateway from "aws-cdk-lib/aws-apigateway";
import { CfnStage as CfnHttpStage, HttpApi, WebSocketApi, WebSocketStage } from "aws-cdk-lib/aws-apigatewayv2";
import { LogGroup } from "aws-cdk-lib/aws-logs";

export const app = new App();

const rest = new Stack(app, "REST");
export const restApi = new apigateway.RestApi(rest, "Api", {
  deployOptions: { accessLogDestination: new apigateway.LogGroupLogDestination(new LogGroup(rest, "TheirOwn")) },
});
restApi.root.addMethod("GET");
export const httpApi = new HttpApi(new Stack(app, "HTTP"), "Api");
const websocket = new Stack(app, "WEBSOCKET");
export const webSocketStage = new WebSocketStage(websocket, "Stage", {
  webSocketApi: new WebSocketApi(websocket, "Api"),
  stageName: "v1",
});
"""
IN_APP: Final = {
    Api.REST: 'import { restApi as api } from "./app";\n',
    Api.HTTP: 'import { httpApi as api } from "./app";\n',
    Api.WEBSOCKET: 'import { webSocketStage as stage } from "./app";\n',
}
MAIN: Final = """
import { app } from "./app";
import "./rest";
import "./http";
import "./websocket";

app.synth();
"""


def _apart(lines: str) -> tuple[str, str]:
    """Return the lines of TypeScript and of Python."""
    typescript_lines, label, python_lines = lines.partition("# Python:")
    assert typescript_lines.startswith("// TypeScript:")
    return typescript_lines, label + python_lines


def _modules(logs_of: Mapping[Api, StageLog]) -> dict[str, str]:
    pasted = {f"{api.value}.ts": IN_APP[api] + _apart(snippet(Tool.CDK, api, log))[0] for api, log in logs_of.items()}
    return {"app.ts": APP, "main.ts": MAIN, **pasted}


def _synthesised(folder: Path, files: Mapping[str, str]) -> dict[str, Template]:
    try:
        return synthesised(folder, files)
    except NpmError as error:
        cannot_run(str(error), needs="npm")


def test_an_app_in_typescript_writes_the_lines_to_the_letter(tmp_path: Path) -> None:
    """In the place of a log that the stage has, and whatever the format holds."""
    found = {name: _log_of_the_stage(template) for name, template in _synthesised(tmp_path, _modules(LOGS)).items()}
    assert found == {api.name: log for api, log in LOGS.items()}


def test_an_app_in_typescript_writes_any_text_to_the_letter(tmp_path: Path) -> None:
    """As a stage's own format may be, which is extended."""
    found = _synthesised(tmp_path, _modules(dict.fromkeys(Api, OTHERS)))
    assert {_log_of_the_stage(template).format for template in found.values()} == {OTHERS.format}


def test_lines_that_the_compiler_does_not_take_are_found(tmp_path: Path) -> None:
    """The compiler can refuse."""
    files = _modules(LOGS)
    with pytest.raises(TypeScriptError, match="'destination' does not exist in type"):
        _synthesised(tmp_path, {**files, "http.ts": files["http.ts"].replace("destinationArn", "destination")})


@APIS
@pytest.mark.parametrize("log", ["ours", "any"])
def test_an_app_in_python_writes_the_lines_to_the_letter(api: Api, log: str, app: cdk.App) -> None:
    """In the place of a log that the stage has, and whatever the format holds."""
    stack = cdk.Stack(app, "Orders")
    wanted = LOGS[api] if log == "ours" else OTHERS
    exec(_apart(snippet(Tool.CDK, api, wanted))[1], _given(stack, api))  # noqa: S102 - our own lines
    assert _log_of_the_stage(app.synth().get_stack_by_name("Orders").template) == wanted


def _given(stack: cdk.Stack, api: Api) -> dict[str, Any]:
    """Return what the lines of Python take for granted."""
    match api:
        case Api.REST:
            theirs = apigateway.LogGroupLogDestination(logs.LogGroup(stack, "TheirOwn"))
            options = apigateway.StageOptions(access_log_destination=theirs)
            rest = apigateway.RestApi(stack, "Api", deploy_options=options)
            rest.root.add_method("GET")
            return {"api": rest}
        case Api.HTTP:
            return {"api": apigatewayv2.HttpApi(stack, "Api")}
        case Api.WEBSOCKET:
            web_socket_api = apigatewayv2.WebSocketApi(stack, "Api")
            return {
                "stage": apigatewayv2.WebSocketStage(stack, "Stage", web_socket_api=web_socket_api, stage_name="v1")
            }


# Any text


@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.text("$%{}\\'\"`\n #:a"))
def test_any_text_is_read_to_the_letter(text: str) -> None:
    """By YAML, and by Terraform's language, as far as this reader knows it: of its templates it knows too little."""
    assert _read(f"Format: {yaml(text)}\n") == {"Format": text}
    text = text.replace("{", "")
    lines = f'access_log_settings {{\n  destination_arn = ""\n  format = {hcl(text)}\n}}\n'
    assert _terraform(lines, "x").format == text
