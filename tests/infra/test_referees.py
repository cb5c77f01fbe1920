"""Every combination of the stack's settings, before referees that know AWS and not this project."""

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import aws_cdk as cdk
import pytest
from aws_cdk import aws_logs as logs

import app as declared
from infra.stack import (
    USAGE_LINES,
    AccessLog,
    Api,
    Count,
    Flat,
    Limit,
    Max,
    MeteringStack,
    Notify,
    PerUnit,
    Plan,
    Road,
    Size,
    Slow,
    Spend,
    Stop,
    Sum,
    Unique,
)
from infra.stack.examples import http_api, usage_lines, websocket_api
from tests.doubles.template import Template
from tests.infra.pages import SETTINGS
from tests.infra.referees import policy_findings, schema_findings

TABLE: Final = {"Fn::GetAtt": ["CountersFDB211E7", "Arn"]}
BUCKET: Final = {"Fn::GetAtt": ["Bucket83908E77", "Arn"]}
OBJECTS: Final = {"Fn::Join": ["", [BUCKET, "/*"]]}

WAYS: Final[Mapping[str, Mapping[str, Any]]] = {
    "rest-subscription": {"road": Road.SUBSCRIPTION},
    "rest-firehose": {"road": Road.FIREHOSE},
    "http-subscription": {"access_log": AccessLog(Api.HTTP, "authorizer.claims.sub")},
    "websocket-subscription": {"access_log": AccessLog(Api.WEBSOCKET, "authorizer.user")},
}
"""Each kind of API by each road that it can take."""

FEWEST: Final[Mapping[str, Any]] = {"metrics": [Count(name="requests")]}
EVERY: Final[Mapping[str, Any]] = {
    "metrics": [
        Count(name="requests", by="resource"),
        Sum(name="tokens", of=USAGE_LINES),
        Unique(name="users", of="authorizer.user", opaque_id=True),
        Max(name="seats", of="authorizer.seats"),
    ],
    "plans": [
        Plan(
            name="standard",
            title="Standard",
            currency="usd",
            prices=(Flat(amount=4900), PerUnit(metric="tokens", amount=1)),
            limits=(Limit("tokens", 1_000_000, at=(Notify(80), Slow(90), Stop(100))), Spend(100_000)),
        )
    ],
    "access_log_retention": logs.RetentionDays.ONE_YEAR,
    "archive_days": 62,
    "record_usage_concurrency": 5,
    "deployment": "acme-prod",
    "ledger_epoch": 2,
    "stripe_api_base": "https://stripe.example.com",
    "stripe_rate": 100,
    "stripe_reads_a_month": 1000,
    "stripe_calls": 5000,
    "streamed_from": "2026-12-01T00",
    "portal_origins": ["https://app.example.com"],
    "stripe_portal_login": "https://billing.stripe.com/p/login/test_7sI3cw",
    "portal_concurrency": 20,
    "limits": True,
    "alerts_from": "alerts@example.com",
    "unpaid_days": 7,
    "sizes": {"close_periods": Size(3008, 600), "record_usage": Size(1024, 120), "show_usage": Size(128, 29)},
    "nonce": "0e1f2a3b-0000-4000-8000-000000000001",
    "former_nonce": "0e1f2a3b-0000-4000-8000-000000000002",
    "local": True,
}


def test_every_setting_is_among_those_that_are_tried() -> None:
    """A setting that is left out here would be deployed before it was ever checked."""
    assert EVERY.keys() | {"access_log", "road"} == SETTINGS.keys()


@pytest.fixture(
    scope="module", params=[(way, options) for way in WAYS for options in ("fewest", "every")], ids="-".join
)
def combination(
    request: pytest.FixtureRequest, context: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Template:
    """The metering stack's template, for each way of a line with the fewest settings and with every one."""
    way, options = request.param
    app = cdk.App(context=context, outdir=str(tmp_path_factory.mktemp("cdk.out")))
    stack = MeteringStack(app, "Metering", **WAYS[way], **(FEWEST if options == "fewest" else EVERY))
    if not way.startswith("websocket"):
        stack.compare_with(api="Api", stage="v1")
    if stack.is_without_usage_lines:
        stack.meter_usage_lines(logs.LogGroup.from_log_group_name(stack, "Jobs", "/aws/lambda/jobs"))
    return dict(app.synth().get_stack_by_name("Metering").template)


def test_cloudformation_takes_every_combination(combination: Template) -> None:
    """In all Regions at once: each has every type of resource that the stack is made of."""
    assert schema_findings(combination) == set()


def test_iam_knows_every_action_resource_and_condition_key(combination: Template) -> None:
    """A misspelt one is no error to IAM: it grants nothing, or holds nobody to anything."""
    assert policy_findings(combination) == []


def test_cloudformation_takes_the_sample_and_the_examples(
    templates: dict[str, Template],
    firehose: dict[str, Template],
    context: Mapping[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The APIs and the worker; the metering stacks beside them are among the combinations."""
    others: tuple[tuple[Callable[[cdk.App], cdk.App], Mapping[str, str]], ...] = (
        (declared.build, {"api": "http"}),
        (declared.build, {"log_role": "true"}),
        (http_api.build, {}),
        (usage_lines.build, {}),
        (websocket_api.build, {}),
    )
    apps = [
        build(cdk.App(context={**context, **more}, outdir=str(tmp_path_factory.mktemp("cdk.out")))).synth()
        for build, more in others
    ]
    beside = [stack.template for assembly in apps for stack in assembly.stacks if stack.stack_name != "Metering"]
    for template in (templates["SampleApi"], firehose["SampleApi"], *beside):
        assert schema_findings(template) == set()
        assert policy_findings(template) == []


def test_a_wrong_property_is_found(template: Template) -> None:
    """The schemas can refuse."""
    planted = copy.deepcopy(template)
    planted["Resources"]["CountersFDB211E7"]["Properties"]["TimeToLive"] = {"AttributeName": "ttl"}
    planted["Resources"]["Bucket83908E77"]["Properties"]["VersioningConfiguration"]["Status"] = "On"
    found = " ".join(sentence for _, sentence in schema_findings(planted))
    assert "'TimeToLive' was unexpected" in found
    assert "'On' is not one of ['Enabled', 'Suspended']" in found


def test_a_type_of_resource_that_a_region_lacks_is_found(template: Template) -> None:
    """The schemas know Regions."""
    planted = copy.deepcopy(template)
    planted["Resources"]["Planted"] = {"Type": "AWS::NimbleStudio::Studio", "Properties": {}}
    lacking = {
        region
        for _, sentence in schema_findings(planted)
        for region in re.findall("Resource type 'AWS::NimbleStudio::Studio' does not exist in '(.+)'", sentence)
    }
    assert {"eu-central-2", "ap-south-1"} <= lacking


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ({"Action": "dynamodb:PutItm", "Resource": TABLE}, "there is no action dynamodb:PutItm"),
        ({"Action": "dynamodb:PutItem", "Resource": BUCKET}, "dynamodb:PutItem takes none of "),
        ({"Action": ["s3:PutObject", "s3:ListBucket"], "Resource": BUCKET}, "s3:PutObject takes none of "),
        ({"Action": "s3:PutObject", "Resource": [OBJECTS, BUCKET]}, "no action of s3:PutObject takes "),
        ({"Action": "dynamodb:Query", "Resource": "*"}, r"dynamodb:Query takes none of \['\*'\]"),
        (
            {
                "Action": "dynamodb:PutItem",
                "Resource": TABLE,
                "Condition": {"StringLike": {"dynamodb:LeadingKey": "a"}},
            },
            "dynamodb:PutItem knows no condition key dynamodb:LeadingKey",
        ),
        (
            {
                "Action": "dynamodb:PutItem",
                "Resource": TABLE,
                "Condition": {"StringLike": {"dynamodb:Attributes": "a"}},
            },
            "dynamodb:Attributes is a list, which StringLike does not go through",
        ),
        (
            {"Action": "s3:PutObject", "Resource": OBJECTS, "Condition": {"StringEquals": {"aws:SourceAcount": "1"}}},
            "s3:PutObject knows no condition key aws:SourceAcount",
        ),
    ],
)
def test_a_statement_that_iam_would_not_understand_is_found(
    template: Template, statement: dict[str, Any], sentence: str
) -> None:
    """An action, a resource, or a condition key."""
    planted = copy.deepcopy(template)
    planted["Resources"]["Planted"] = {
        "Type": "AWS::IAM::Policy",
        "Properties": {"PolicyDocument": {"Statement": [{"Effect": "Allow"} | statement]}},
    }
    first, *_ = policy_findings(planted)
    assert re.match(sentence, first)
