"""The lines that give a stage its access log, in the words of the tool that deployed it. Pure.

Whoever deploys the stage pastes them: then nothing that is deployed later undoes them. They need no connection in the
ledger, since the format explains itself: it bears the connection's name, and goes into the deployment's own log.
"""

import json
import re
from contextlib import suppress
from enum import StrEnum
from typing import Final, assert_never

from infra.operate.connections.terms import Place
from metering.model.connections import StageLog, is_name
from metering.model.log_format import API_KEY, AccessLog, Api
from metering.model.metrics import declared


class Tool(StrEnum):
    """What deploys a stage."""

    CDK = "cdk"
    SAM = "sam"
    CLOUDFORMATION = "cloudformation"
    TERRAFORM = "terraform"


def own_log(place: Place, log: AccessLog) -> StageLog:
    """Return what a stage is given that writes into the deployment's own log: its stream, if it has one for REST APIs.

    A log group's ARN is written without ``:*`` at its end, which REST APIs do not take (API Gateway Developer Guide,
    "Set up access logging for REST APIs", and for HTTP APIs its "Configure logging for HTTP APIs in API Gateway").
    Raises ValueError for a format that API Gateway refuses.
    """
    destination = f"{place.group_arn}{place.access_log_group}"
    if log.api is Api.REST and place.delivery_stream:
        _, partition, _, region, account, *_ = place.group_arn.split(":")
        destination = f"arn:{partition}:firehose:{region}:{account}:deliverystream/{place.delivery_stream}"
    return StageLog(destination, log.format(place.nonce, declared(place.metrics)))


def pasted(api: Api, text: str, *, keys_apart: bool) -> AccessLog | None:
    """Return what a stage of this kind of API writes by a format like that of lines to paste, or None for any other.

    Its name and its caller are read off it, and nothing else: whether it is the format of today, it says itself.
    """
    try:
        fields = json.loads(text)
        name, key = (str(fields[field]) for field in ("api_id", "key"))
    except (ValueError, LookupError, TypeError):
        return None
    variable = key.removeprefix(f"{name}:").removeprefix("$context.")
    with suppress(ValueError):  # of a variable that names nobody
        if is_name(name):
            return AccessLog(api, None if (api, variable) == (Api.REST, API_KEY) else variable, name, keys_apart)
    return None


def lines_to_paste(log: StageLog) -> tuple[str, str]:
    """Return what a stage is to be given where nothing is known of the tool."""
    return f"destination: {log.destination}", f"format: {log.format}"


def snippet(tool: Tool, api: Api, log: StageLog) -> str:
    """Return the lines that give a stage of this kind of API this log; for the CDK in TypeScript and in Python."""
    match tool:
        case Tool.CDK:
            return f"{_typescript_lines(api, log)}\n{_python_lines(api, log)}"
        case Tool.SAM | Tool.CLOUDFORMATION:
            return (
                f"# {_WHERE[tool][api]}\n"
                f"{'AccessLogSetting' if api is Api.REST else 'AccessLogSettings'}:\n"
                f"  DestinationArn: {yaml(log.destination)}\n"
                f"  Format: {yaml(log.format)}\n"
            )
        case Tool.TERRAFORM:
            return (
                f"# {_WHERE[tool][api]}\n"
                "access_log_settings {\n"
                f"  destination_arn = {hcl(log.destination)}\n"
                f"  format          = {hcl(log.format)}\n"
                "}\n"
            )
        case _:
            assert_never(tool)


_WHERE: Final = {
    Tool.SAM: {
        Api.REST: "Properties of your AWS::Serverless::Api; of an API that SAM makes by itself: Globals, Api",
        Api.HTTP: "Properties of your AWS::Serverless::HttpApi; of an API that SAM makes by itself: Globals, HttpApi",
        Api.WEBSOCKET: "Properties of your AWS::Serverless::WebSocketApi",
    },
    Tool.CLOUDFORMATION: {
        Api.REST: "Properties of your AWS::ApiGateway::Stage",
        Api.HTTP: "Properties of your AWS::ApiGatewayV2::Stage",
        Api.WEBSOCKET: "Properties of your AWS::ApiGatewayV2::Stage",
    },
    Tool.TERRAFORM: {
        Api.REST: "in your aws_api_gateway_stage",
        Api.HTTP: "in your aws_apigatewayv2_stage",
        Api.WEBSOCKET: "in your aws_apigatewayv2_stage",
    },
}
"""Where the lines of a tool belong."""

_IN_TYPESCRIPT: Final = {
    Api.REST: ("api.deploymentStage", "`api` is your RestApi, or `api.deploymentStage` any Stage"),
    Api.HTTP: ("api.defaultStage!", "`api` is your HttpApi, or `api.defaultStage` any HttpStage"),
    Api.WEBSOCKET: ("stage", "`stage` is your WebSocketStage"),
}
_IN_PYTHON: Final = {
    Api.REST: ("api.deployment_stage", "`api` is your RestApi, or `api.deployment_stage` any Stage"),
    Api.HTTP: ("api.default_stage", "`api` is your HttpApi, or `api.default_stage` any HttpStage"),
    Api.WEBSOCKET: ("stage", "`stage` is your WebSocketStage"),
}
"""How a stage is called, and what that takes for granted."""


def _typescript_lines(api: Api, log: StageLog) -> str:
    stage, given = _IN_TYPESCRIPT[api]
    module, setting = ("apigateway", "accessLogSetting") if api is Api.REST else ("apigatewayv2", "accessLogSettings")
    return (
        f"// TypeScript: {given}; a CfnStage needs no `.node.defaultChild`\n"
        f'import {{ CfnStage }} from "aws-cdk-lib/aws-{module}";\n\n'
        f"const metered = {stage}.node.defaultChild as CfnStage;\n"
        f"metered.{setting} = {{\n"
        f"  destinationArn: {typescript(log.destination)},\n"
        f"  format: {typescript(log.format)},\n"
        "};\n"
    )


def _python_lines(api: Api, log: StageLog) -> str:
    stage, given = _IN_PYTHON[api]
    module, setting, kind = (
        ("apigateway", "access_log_setting", "AccessLogSettingProperty")
        if api is Api.REST
        else ("apigatewayv2", "access_log_settings", "AccessLogSettingsProperty")
    )
    return (
        f"# Python: {given}; a CfnStage needs no `.node.default_child`\n"
        f"from aws_cdk.aws_{module} import CfnStage\n\n"
        f"metered = {stage}.node.default_child\n"
        f"metered.{setting} = CfnStage.{kind}(\n"
        f"    destination_arn={log.destination!r},\n"
        f"    format={log.format!r},\n"
        ")\n"
    )


def yaml(text: str) -> str:
    """Return a text as a scalar of YAML: within single quotes nothing but these has a meaning."""
    if _PLAIN.fullmatch(text):
        return "'" + text.replace("'", "''") + "'"
    return _within_double_quotes(text)


def hcl(text: str) -> str:
    """Return a text as a string of Terraform's language, where ``${`` and ``%{`` begin a template, and ``$`` nothing.

    (Terraform language, "Strings and Templates": "Escape Sequences".)
    """
    return re.sub(r"([$%])(?=\{)", r"\1\1", _within_double_quotes(text))


def typescript(text: str) -> str:
    """Return a text as a string of TypeScript: one of JSON, but within single quotes, since formats are full of others.

    (ECMAScript is a superset of JSON since its edition of 2019.)
    """
    inside = re.sub(r"\\(.)", lambda pair: pair[1] if pair[1] == '"' else pair[0], json.dumps(text)[1:-1])
    return "'" + inside.replace("'", "\\'") + "'"


def _within_double_quotes(text: str) -> str:
    """Return a text within double quotes, with the escapes that YAML and Terraform have in common."""
    return '"' + re.sub(r'["\\]|[^ -~]', _escape, text) + '"'


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if character in '"\\':
        return f"\\{character}"
    return f"\\u{ord(character):04x}" if ord(character) < _ASTRAL else f"\\U{ord(character):08x}"


_PLAIN: Final = re.compile(r"[ -~]*")
_ASTRAL: Final = 0x10000
"""From here on a character takes eight digits."""
