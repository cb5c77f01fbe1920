"""The sample API is metered, and its every method needs a key."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest

from app import METRICS, build
from infra.stack.sample_api import AUTHORIZER, BACKEND
from metering.model.log_format import AccessLog
from metering.model.metrics import declared
from tests.doubles.access_log import NONCE
from tests.doubles.template import Template, exports, joined, of_type


def test_the_stage_writes_the_format_that_the_reader_reads(sample: Template) -> None:
    """Writer and reader come from one definition."""
    (stage,) = of_type(sample, "AWS::ApiGateway::Stage").values()
    written = joined(stage["Properties"]["AccessLogSetting"]["Format"], NONCE)
    assert written == AccessLog().format(NONCE, declared(METRICS))


def test_the_lines_hold_the_guid_of_the_metering_stack(template: Template, sample: Template) -> None:
    """I7: of the stack that counts, whichever one writes it down; no caller ever sees it."""
    (stage,) = of_type(sample, "AWS::ApiGateway::Stage").values()
    _, parts = stage["Properties"]["AccessLogSetting"]["Format"]["Fn::Join"]
    guids = [part for part in parts if not isinstance(part, str)]
    name = guids[0]["Fn::Select"][1]["Fn::Split"][1]["Fn::ImportValue"]
    assert guids == [{"Fn::Select": [2, {"Fn::Split": ["/", {"Fn::ImportValue": name}]}]}] * 2
    (exported,) = [output for output in template["Outputs"].values() if output.get("Export", {}).get("Name") == name]
    assert exported["Value"] == {"Ref": "AWS::StackId"}
    (function,) = [
        resource
        for resource in of_type(template, "AWS::Lambda::Function").values()
        if "NONCES" in resource["Properties"].get("Environment", {}).get("Variables", {})
    ]
    nonces = function["Properties"]["Environment"]["Variables"]["NONCES"]
    assert nonces == {"Fn::Select": [2, {"Fn::Split": ["/", {"Ref": "AWS::StackId"}]}]}


def test_the_stage_writes_into_the_metered_log(template: Template, sample: Template) -> None:
    """The metering stack exports its access log to the sample, and nothing else."""
    (exported,) = exports(template)
    assert exported["Value"] == {"Ref": "AccessLogD598EBE9"}
    (stage,) = of_type(sample, "AWS::ApiGateway::Stage").values()
    assert exported["Export"]["Name"] in str(stage["Properties"]["AccessLogSetting"]["DestinationArn"])


def test_every_method_needs_an_api_key(sample: Template) -> None:
    """A request without a key could be billed to nobody."""
    methods = of_type(sample, "AWS::ApiGateway::Method").values()
    assert len(methods) == 4
    assert all(method["Properties"]["ApiKeyRequired"] for method in methods)


def test_every_method_asks_the_authorizer(sample: Template) -> None:
    """Who sends must say how many messages; its answers are cached by all that they depend on."""
    authorizers = of_type(sample, "AWS::ApiGateway::Authorizer")
    sources = {name: found["Properties"]["IdentitySource"] for name, found in authorizers.items()}
    asked = {
        method["Properties"]["HttpMethod"]: sources[method["Properties"]["AuthorizerId"]["Ref"]]
        for method in of_type(sample, "AWS::ApiGateway::Method").values()
    }
    user = "method.request.header.x-user"
    assert asked == {"GET": user, "POST": f"{user},method.request.header.x-messages"}


def test_two_plans_throttle_their_keys(sample: Template) -> None:
    """Standard and Trial; neither has a quota, which API Gateway keeps by best effort only."""
    plans = [plan["Properties"] for plan in of_type(sample, "AWS::ApiGateway::UsagePlan").values()]
    assert {plan["UsagePlanName"]: plan["Throttle"] for plan in plans} == {
        "Standard": {"RateLimit": 500, "BurstLimit": 1000},
        "Trial": {"RateLimit": 2, "BurstLimit": 5},
    }
    assert not any("Quota" in plan for plan in plans)


def test_the_accounts_role_for_logs_is_left_alone_unless_asked_for(
    sample: Template, context: Mapping[str, Any], tmp_path: Path
) -> None:
    """It is one for the whole account and Region: another team's would be replaced."""
    assert of_type(sample, "AWS::ApiGateway::Account") == {}
    asked = build(cdk.App(context={**context, "log_role": "true"}, outdir=str(tmp_path))).synth()
    template = asked.get_stack_by_name("SampleApi").template
    (account,) = of_type(template, "AWS::ApiGateway::Account")
    (stage,) = of_type(template, "AWS::ApiGateway::Stage").values()
    assert stage["DependsOn"] == [account]


def test_the_api_is_of_a_type_that_every_partition_has(sample: Template) -> None:
    """An edge-optimised API is refused in China and in GovCloud."""
    (api,) = of_type(sample, "AWS::ApiGateway::RestApi").values()
    assert api["Properties"]["EndpointConfiguration"] == {"Types": ["REGIONAL"]}


def test_the_outputs_say_where_the_api_is(sample: Template) -> None:
    """Their names are an interface of the demo."""
    assert {"ApiUrl", "ApiId", "StageName", "StandardPlan", "TrialPlan"} <= set(sample["Outputs"])
    assert not of_type(sample, "AWS::ApiGateway::ApiKey")


def test_the_backend_answers_as_asked_and_within_bounds() -> None:
    """A body's length varies with n, up to 1,000 items; nonsense is answered with the default."""
    answers = {n: len(_call("/items", query={"n": n})["body"]) for n in ("0", "10", "1000", "99999", "x", "-1")}
    assert answers["0"] < answers["10"] < answers["1000"]
    assert answers["99999"] == answers["1000"]
    assert answers["x"] == answers["-1"] == len(_call("/items")["body"])
    assert _call("/items/{id}", path={"id": "7"})["body"] == '{"id": "7"}'


@pytest.mark.parametrize(
    ("body", "told", "status"),
    [
        ({"messages": ["a", "b"]}, {"messages": "2"}, 202),
        ({"messages": ["a", "b"]}, {"messages": "1"}, 400),
        ({"messages": ["a", "b"]}, {}, 400),
        ({"messages": []}, {"messages": "1"}, 400),
        ({"messages": 2}, {"messages": "2"}, 400),
        ({}, {"messages": "1"}, 400),
        ([], {"messages": "1"}, 400),
        (None, {"messages": "1"}, 400),
    ],
)
def test_the_backend_takes_as_many_messages_as_were_told(body: object, told: dict[str, str], status: int) -> None:
    """I7: nobody sends more than is billed; a refusal is not billed."""
    text = None if body is None else json.dumps(body)
    assert _call("/messages", method="POST", body=text, authorizer=told)["statusCode"] == status


def test_the_authorizer_tells_the_user_and_the_messages() -> None:
    """As strings of known form, and for every method of the stage, since the answer is cached for all of them."""
    answer = _ask("POST", {"X-User": ["u-1"], "x-messages": ["100"]})
    assert answer["context"] == {"user": "u-1", "messages": "100"}
    assert answer["policyDocument"]["Statement"] == [
        {
            "Action": "execute-api:Invoke",
            "Effect": "Allow",
            "Resource": "arn:aws:execute-api:us-east-1:123456789012:a1b2/v1/*",
        }
    ]


@pytest.mark.parametrize("messages", ["0", "101", "-1", "1.5", "07", "\u0661", "1\n", ""])
def test_the_authorizer_tells_no_number_that_is_none(messages: str) -> None:
    """I7: the backend then refuses the call."""
    assert _ask("POST", {"x-user": ["u"], "x-messages": [messages]})["context"] == {"user": "u"}


def test_the_authorizer_tells_a_reader_of_no_messages() -> None:
    """I7: the answer is cached by the user alone, and so would be the number, for everyone who names this user."""
    assert _ask("GET", {"x-user": ["u"], "x-messages": ["100"]})["context"] == {"user": "u"}


@pytest.mark.parametrize("user", [["u", "v"], ['u","key":"victim'], ["u" * 65], [""], ["\u00e4"], ["u\n"]])
def test_the_authorizer_lets_nobody_in_whose_name_is_not_plain(user: list[str]) -> None:
    """I7: two names neither, since the caller would choose which one the answer is cached by."""
    answer = _ask("POST", {"x-user": user, "x-messages": ["1"]})
    assert answer["policyDocument"]["Statement"][0]["Effect"] == "Deny"
    assert answer["context"] == {}


def _ask(method: str, headers: dict[str, list[str]]) -> dict[str, Any]:
    arn = f"arn:aws:execute-api:us-east-1:123456789012:a1b2/v1/{method}/messages"
    return _run(AUTHORIZER, {"httpMethod": method, "methodArn": arn, "multiValueHeaders": headers})


def _call(  # noqa: PLR0913 - what differs between the events, each by name
    resource: str,
    *,
    method: str = "GET",
    query: dict[str, str] | None = None,
    path: dict[str, str] | None = None,
    body: str | None = None,
    authorizer: dict[str, str] | None = None,
) -> dict[str, Any]:
    event = {
        "resource": resource,
        "httpMethod": method,
        "queryStringParameters": query,
        "pathParameters": path,
        "body": body,
        "requestContext": {"authorizer": {"user": "u", **(authorizer or {})}},
    }
    return _run(BACKEND, event)


def _run(code: str, event: dict[str, Any]) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(code, namespace)  # noqa: S102 - the inline code of the sample's functions
    return dict(namespace["handler"](event, None))
