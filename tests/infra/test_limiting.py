"""What a deployment has for limits, and that it has none of it without."""

import json
from collections.abc import Callable
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_apigatewayv2_integrations as integrations
from aws_cdk.assertions import Template as Synthesised

from infra.stack import AccessLog, Api, Count, Limit, MeteringStack, PerUnit, Plan, Size, Stop, caller_authorizer
from metering.model.metrics import encode
from metering.model.prices import encode as encode_plans
from tests.doubles.template import DEPLOYMENT, Template, flat, grants, of_type, properties

MakeStack = Callable[..., MeteringStack]

FUNCTIONS = ["LimitingWatchLimits", "LimitingEnforceLimits", "PortalSetBudget"]
ACCESS = {"ACCESS_TABLE": {"Ref": "Access9901B1FF"}}
LEDGER = {"LEDGER_TABLE": {"Ref": "LedgerB7379752"}}
GATE = {"GATE_QUEUE": {"Ref": "LimitingGateBD6808AF"}}
COMMON = {
    "DEPLOYMENT": DEPLOYMENT,
    "POWERTOOLS_SERVICE_NAME": DEPLOYMENT,
    "POWERTOOLS_METRICS_NAMESPACE": "Metering",
}

PLAN = Plan(
    name="standard",
    title="Standard",
    currency="usd",
    prices=(PerUnit(metric="requests", amount=1),),
    limits=(Limit("requests", 100, at=(Stop(100),)),),
)


def test_limits_add_and_change_nothing_else(template: Template, limits_template: Template) -> None:
    """What was there is there as it was, but for what functions are told and may, and which routes the page has."""
    told = {"AWS::IAM::Policy", "AWS::ApiGatewayV2::Stage", "AWS::CloudWatch::Dashboard"}
    for name, before in template["Resources"].items():
        after = json.loads(json.dumps(limits_template["Resources"][name]))
        if before["Type"] == "AWS::Lambda::Function":
            noted = after["Properties"]["Environment"]["Variables"].pop("LIMITS", None)
            named = {"BillingClosePeriods", "BillingReconcileUsage", "BillingReceiveEvents", "PortalShowUsage"}
            assert noted == ("true" if name[:-8] in named else None)
            after["Properties"]["Code"] = before["Properties"]["Code"]  # what is declared is in some zips
        if before["Type"] not in told:
            assert after == before


def test_without_limits_nothing_knows_of_any(template: Template, sample: Template) -> None:
    """No function, table, queue, mapping or alarm; the test of logical ids has them all."""
    for made in (template, sample):
        assert not {name for name in made["Resources"] if "Limit" in name or name.startswith("Access99")}
        assert not of_type(made, "AWS::Lambda::EventSourceMapping")
        assert not of_type(made, "AWS::SQS::Queue")
    assert not {"AccessTable", "GateQueue", "WatchLimitsFunction"} & template["Outputs"].keys()


def test_the_counters_are_as_without_limits(template: Template, limits_template: Template) -> None:
    """Reading their stream costs nothing, and nothing is added to how they are written."""
    assert properties(limits_template, "Counters") == properties(template, "Counters")
    assert properties(limits_template, "IngestRecordUsage") == properties(template, "IngestRecordUsage")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_functions_of_limits_are_as_the_others(limits_template: Template, name: str) -> None:
    """On arm64, with a log of their own, and without a reservation, which a new account could not make."""
    function = properties(limits_template, name)
    assert (function["Architectures"], function["Runtime"]) == (["arm64"], "python3.13")
    assert function["LoggingConfig"]["LogGroup"]["Ref"].startswith(f"{name}Log")
    assert "ReservedConcurrentExecutions" not in function


def test_what_they_are_told(limits_template: Template) -> None:
    """Their environments are what their settings read."""

    def environment(name: str) -> Any:
        return properties(limits_template, name)["Environment"]["Variables"]

    watched = environment("LimitingWatchLimits")
    assert flat(watched.pop("PORTAL_URL")) == flat(limits_template["Outputs"]["PortalUrl"]["Value"])
    counters = {"COUNTERS_TABLE": {"Ref": "CountersFDB211E7"}}
    assert watched == counters | LEDGER | ACCESS | GATE | COMMON | {"ALERTS_FROM": "alerts@example.com"}
    assert environment("LimitingEnforceLimits") == LEDGER | ACCESS | GATE | COMMON | {"API": "rest"}
    budgets = environment("PortalSetBudget")
    assert flat(budgets.pop("WATCH_LIMITS_FUNCTION")) == "LimitingWatchLimits"
    assert budgets == LEDGER | COMMON | {"PORTAL_SECRET": {"Ref": "PortalKey4F23AF2A"}}


def test_what_is_counted_reaches_the_watcher(limits_template: Template) -> None:
    """From the latest; a poisoned batch is halved, and given up after three tries or ten minutes: no shard stands."""
    mapping = properties(limits_template, "LimitingCounted")
    (wanted,) = mapping.pop("FilterCriteria")["Filters"]
    assert json.loads(wanted["Pattern"]) == {
        "eventName": ["INSERT", "MODIFY"],
        "dynamodb": {"Keys": {"pk": {"S": [{"prefix": "hour#"}]}}},
    }
    assert flat(mapping.pop("FunctionName")) == "LimitingWatchLimits"
    assert flat(mapping.pop("EventSourceArn")) == "Counters/stream"
    assert mapping == {
        "StartingPosition": "LATEST",
        "BatchSize": 1000,
        "MaximumBatchingWindowInSeconds": 3,
        "ParallelizationFactor": 1,
        "MaximumRetryAttempts": 3,
        "MaximumRecordAgeInSeconds": 600,
        "BisectBatchOnFunctionError": True,
    }


def test_a_sweep_comes_every_minute(limits_template: Template) -> None:
    """One that is lost or fails is made good by the next."""
    schedule = properties(limits_template, "LimitingEveryMinute")
    assert (schedule["ScheduleExpression"], schedule["ScheduleExpressionTimezone"]) == ("cron(* * * * ? *)", "Etc/UTC")
    assert json.loads(schedule["Target"]["Input"]) == {"sweep": True}
    assert schedule["Target"]["RetryPolicy"]["MaximumRetryAttempts"] == 0
    invoked = properties(limits_template, "LimitingWatchLimitsEventInvokeConfig")
    assert (invoked["MaximumRetryAttempts"], invoked["MaximumEventAgeInSeconds"]) == (0, 60)


def test_a_message_wakes_the_worker_and_says_nothing(limits_template: Template) -> None:
    """At most two at once, which is the least that SQS's event source takes; dead ones are of no use to anybody."""
    queue = properties(limits_template, "LimitingGate")
    assert "RedrivePolicy" not in queue
    assert queue["VisibilityTimeout"] == 6 * properties(limits_template, "LimitingEnforceLimits")["Timeout"]
    mapping = properties(limits_template, "LimitingWaking")
    assert flat(mapping.pop("FunctionName")) == "LimitingEnforceLimits"
    assert flat(mapping.pop("EventSourceArn")) == "LimitingGate"
    assert mapping == {"BatchSize": 1, "ScalingConfig": {"MaximumConcurrency": 2}}


def test_the_table_of_who_is_closed_stays_behind(limits_template: Template) -> None:
    """It says where closed keys belong, should the ledger be restored to an earlier moment; it has no name of ours."""
    table = limits_template["Resources"]["Access9901B1FF"]
    assert (table["DeletionPolicy"], table["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")
    assert table["Properties"]["BillingMode"] == "PAY_PER_REQUEST"
    assert "TableName" not in table["Properties"]


def test_a_budget_reaches_a_function_of_its_own(limits_template: Template) -> None:
    """With a bucket of its own; the function has no other route."""
    integrations = {
        name: flat(made["Properties"]["IntegrationUri"])
        for name, made in of_type(limits_template, "AWS::ApiGatewayV2::Integration").items()
    }
    routes = {
        made["Properties"]["RouteKey"]: integrations[made["Properties"]["Target"]["Fn::Join"][1][1]["Ref"]]
        for made in of_type(limits_template, "AWS::ApiGatewayV2::Route").values()
    }
    assert [route for route, function in routes.items() if function == "PortalSetBudget"] == ["PUT /v1/budget"]
    assert routes["GET /v1/limits"] == "PortalShowUsage"
    throttles = properties(limits_template, "PortalStage")["RouteSettings"]
    assert throttles["PUT /v1/budget"] == {"ThrottlingRateLimit": 5, "ThrottlingBurstLimit": 10}
    assert throttles["GET /v1/limits"] == throttles["GET /v1/usage"]


def test_the_outputs_say_where_it_is(limits_template: Template) -> None:
    """For the commands."""
    told = {name: flat(output["Value"]) for name, output in limits_template["Outputs"].items()}
    assert told["AccessTable"] == "Access"
    assert told["GateQueue"] == "LimitingGate"
    assert told["WatchLimitsFunction"] == "LimitingWatchLimits"
    assert told["EnforceLimitsFunction"] == "LimitingEnforceLimits"
    assert told["SetBudgetFunction"] == "PortalSetBudget"


def test_declared_limits_imply_the_functions(stack: MakeStack) -> None:
    """And what is declared is what they find in their zips."""
    made = stack(plans=[PLAN])
    assert made.access_table
    assert not stack("None").access_table
    assert json.loads(made._portal.declared) == {
        "metrics": json.loads(encode([Count(name="requests")])),
        "plans": json.loads(encode_plans([PLAN])),
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"plans": [PLAN], "limits": False}, "the plan standard has limits, and limits=False has nobody act on them"),
        ({"alerts_from": "alerts@example.com"}, "alerts_from acts only where there are limits: declare some in a plan"),
        ({"unpaid_days": 0}, "unpaid_days acts only where there are limits: declare some in a plan"),
        (
            {"limits": True, "alerts_from": "Alerts <alerts@example.com>"},
            "alerts_from must be an address that SES may send from, 'alerts@example.com', got 'Alerts <alerts@exa",
        ),
        ({"limits": True, "unpaid_days": -1}, "unpaid_days must be a whole number from 0 to 90, or None, got -1"),
        ({"limits": True, "unpaid_days": True}, "unpaid_days must be a whole number from 0 to 90, or None, got True"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(stack: MakeStack, settings: Any, words: str) -> None:
    """At synthesis, in a sentence."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its words are compared
        stack(**settings)
    assert words in str(caught.value)


def test_who_has_not_paid_is_closed_after_so_many_days(stack: MakeStack) -> None:
    """At once, if that is none; nobody, unless it is said."""
    soon, never = stack(limits=True, unpaid_days=0), stack("Other", limits=True)
    made, other = (dict(Synthesised.from_stack(one).to_json()) for one in (soon, never))
    assert properties(made, "LimitingWatchLimits")["Environment"]["Variables"]["UNPAID_DAYS"] == "0"
    assert not {"UNPAID_DAYS", "ALERTS_FROM"} & {*properties(other, "LimitingWatchLimits")["Environment"]["Variables"]}


def test_a_message_is_hidden_for_as_long_as_its_run_may_take(stack: MakeStack) -> None:
    """Whatever size the worker has."""
    made = dict(Synthesised.from_stack(stack(limits=True, sizes={"enforce_limits": Size(256, 900)})).to_json())
    assert properties(made, "LimitingGate")["VisibilityTimeout"] == 5400


def test_the_sample_has_a_lane_that_the_worker_finds(limits_templates: dict[str, Template]) -> None:
    """By its tag, and by its name; it covers the stage of the plans that keys leave, in the API's own stack."""
    plans = {
        name[:-8]: plan["Properties"]
        for name, plan in of_type(limits_templates["SampleApi"], "AWS::ApiGateway::UsagePlan").items()
    }
    lane = plans.pop("ApiSlowLane")
    assert lane["Tags"] == [{"Key": "metering:lane", "Value": DEPLOYMENT}]
    assert lane["UsagePlanName"] == {"Fn::Join": ["", ["Metering-", {"Ref": "AWS::Region"}, "-slow-lane-Api"]]}
    assert lane["Throttle"] == {"RateLimit": 1, "BurstLimit": 1}
    assert [plan["ApiStages"] for plan in plans.values()] == [lane["ApiStages"]] * 2


def test_refused_calls_are_answered_by_a_problem(limits_templates: dict[str, Template]) -> None:
    """With a link to the customers' page; whatever a caller accepts, API Gateway takes the template of JSON."""
    answers = {
        made["Properties"]["ResponseType"]: made["Properties"]
        for made in of_type(limits_templates["SampleApi"], "AWS::ApiGateway::GatewayResponse").values()
    }
    assert answers.keys() == {"INVALID_API_KEY", "THROTTLED", "QUOTA_EXCEEDED"}
    for kind, status in (("INVALID_API_KEY", 403), ("THROTTLED", 429), ("QUOTA_EXCEEDED", 429)):
        headers = answers[kind]["ResponseParameters"]
        assert headers["gatewayresponse.header.Content-Type"] == "'application/problem+json'"
        ((written, template),) = answers[kind]["ResponseTemplates"].items()
        problem = json.loads("".join(part if isinstance(part, str) else "x" for part in template["Fn::Join"][1]))
        assert written == "application/json"
        assert problem.keys() == {"type", "title", "status", "detail"}
        assert (problem["type"], problem["status"]) == ("https://x.execute-api.x.x/", status)
    assert answers["THROTTLED"]["ResponseParameters"]["gatewayresponse.header.Retry-After"] == "'1'"


def test_an_api_explains_its_refusals_by_a_link_of_ones_own(app: cdk.App, stack: MakeStack) -> None:
    """Also where there are no limits."""
    backend = cdk.Stack(app, "Backend")
    api = apigateway.RestApi(backend, "Api", cloud_watch_role=False)
    api.root.add_method("GET")
    stack().explain_refusals(api, link="https://example.com/limits")
    made = dict(Synthesised.from_stack(backend).to_json())
    links = {
        json.loads(answer["Properties"]["ResponseTemplates"]["application/json"])["type"]
        for answer in of_type(made, "AWS::ApiGateway::GatewayResponse").values()
    }
    assert links == {"https://example.com/limits"}


@pytest.mark.parametrize(
    ("settings", "lane", "words"),
    [
        ({}, {}, "nobody is ever slowed here: declare limits in a plan, or give the stack limits=True"),
        (
            {"limits": True, "access_log": AccessLog(Api.HTTP, "authorizer.claims.sub")},
            {},
            "an HTTP API has no usage plans, so that nobody can be slowed",
        ),
        (
            {"limits": True, "access_log": AccessLog(Api.WEBSOCKET, "authorizer.user")},
            {},
            "a WebSocket API has no usage plans, so that nobody can be slowed",
        ),
        ({"limits": True}, {"rate": 0}, "rate must be above 0 and burst 1 or more, got 0 and 1"),
        ({"limits": True}, {"burst": 0}, "rate must be above 0 and burst 1 or more, got 1 and 0"),
    ],
)
def test_a_lane_that_could_slow_nobody_is_refused(
    app: cdk.App, stack: MakeStack, settings: Any, lane: Any, words: str
) -> None:
    """With what is wanted instead."""
    api = apigateway.RestApi(cdk.Stack(app, "Backend"), "Api", cloud_watch_role=False)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its words are compared
        stack(**settings).slow_lane(api, **lane)
    assert words in str(caught.value)


def _routed(app: cdk.App, metering: MeteringStack, **more: Any) -> Template:
    """Return the template of an HTTP API's own stack, whose route asks the ready authorizer."""
    backend = cdk.Stack(app, "Backend")
    api = apigatewayv2.HttpApi(backend, "Api")
    callers = caller_authorizer(
        backend, "Callers", metering=metering, **{"issuer": "https://login.example.com/", "audience": ["items"]} | more
    )
    to = integrations.HttpUrlIntegration("To", "https://backend.example.com")
    api.add_routes(path="/items", methods=[apigatewayv2.HttpMethod.GET], integration=to, authorizer=callers)
    return dict(Synthesised.from_stack(backend).to_json())


HTTP: dict[str, Any] = {"limits": True, "access_log": AccessLog(Api.HTTP, "authorizer.sub")}


def test_an_http_apis_callers_are_asked_for_by_an_authorizer(app: cdk.App, stack: MakeStack) -> None:
    """In the API's own stack; an answer is kept for ten seconds, and it may read who is closed and nothing else."""
    made = _routed(app, stack(**HTTP))
    (authorizer,) = of_type(made, "AWS::ApiGatewayV2::Authorizer").values()
    asked = authorizer["Properties"]
    assert (asked["AuthorizerType"], asked["AuthorizerPayloadFormatVersion"]) == ("REQUEST", "2.0")
    assert (asked["EnableSimpleResponses"], asked["AuthorizerResultTtlInSeconds"]) == (True, 10)
    assert asked["IdentitySource"] == ["$request.header.Authorization"]
    environment = properties(made, "Callers")["Environment"]["Variables"]
    assert "Access9901B1FF" in str(environment.pop("ACCESS_TABLE"))
    assert environment == {
        "ISSUER": "https://login.example.com/",
        "AUDIENCE": "items",
        "CLAIM": "sub",
        "FAILS_OPEN": "true",
        "POWERTOOLS_SERVICE_NAME": DEPLOYMENT,
        "POWERTOOLS_METRICS_NAMESPACE": "Metering",
    }
    on_tables = {one for one in grants(made, "CallersRole") if one[0].startswith("dynamodb:")}
    ((action, table, keys),) = on_tables
    assert (action, "Access9901B1FF" in table, keys) == ("dynamodb:GetItem", True, ("access#*",))


def test_who_cannot_be_looked_up_is_refused_if_that_is_declared(app: cdk.App, stack: MakeStack) -> None:
    """Another claim, several audiences, closed when the table is away."""
    made = _routed(app, stack(**HTTP), claim="tenant", audience=["items", "more"], fails_open=False)
    environment = properties(made, "Callers")["Environment"]["Variables"]
    assert (environment["CLAIM"], environment["AUDIENCE"]) == ("tenant", "items more")
    assert "FAILS_OPEN" not in environment


@pytest.mark.parametrize(
    ("settings", "asked", "words"),
    [
        ({"access_log": HTTP["access_log"]}, {}, "nobody is ever stopped here: declare limits in a plan, or give"),
        (
            HTTP,
            {"issuer": "http://login.example.com"},
            "issuer must begin with https://, since its keys are read there",
        ),
        (HTTP, {"audience": []}, "audience must name who tokens are for, without spaces, got []"),
        (HTTP, {"audience": ["a b"]}, "audience must name who tokens are for, without spaces, got ['a b']"),
    ],
)
def test_an_authorizer_that_could_not_work_is_refused(
    app: cdk.App, stack: MakeStack, settings: Any, asked: Any, words: str
) -> None:
    """With what was got and what is wanted."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its words are compared
        _routed(app, stack(**settings), **asked)
    assert words in str(caught.value)
