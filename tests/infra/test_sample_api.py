"""The sample API is metered, and its every method needs a key."""

from typing import Any

from infra.sample_api import BACKEND
from metering.access_log import AccessLog
from tests.infra.resources import Template, of_type


def test_the_stage_writes_the_format_that_the_reader_reads(sample: Template) -> None:
    """Writer and reader come from one definition."""
    (stage,) = of_type(sample, "AWS::ApiGateway::Stage").values()
    assert stage["Properties"]["AccessLogSetting"]["Format"] == AccessLog().format()


def test_the_stage_writes_into_the_metered_log(template: Template, sample: Template) -> None:
    """The metering stack exports its access log to the sample, and nothing else."""
    (exported,) = [output for output in template["Outputs"].values() if "Export" in output]
    assert exported["Value"] == {"Ref": "AccessLogD598EBE9"}
    (stage,) = of_type(sample, "AWS::ApiGateway::Stage").values()
    assert exported["Export"]["Name"] in str(stage["Properties"]["AccessLogSetting"]["DestinationArn"])


def test_every_method_needs_an_api_key(sample: Template) -> None:
    """A request without a key could be billed to nobody."""
    methods = of_type(sample, "AWS::ApiGateway::Method").values()
    assert len(methods) == 4
    assert all(method["Properties"]["ApiKeyRequired"] for method in methods)


def test_two_plans_throttle_their_keys(sample: Template) -> None:
    """Standard and Trial; neither has a quota, which API Gateway keeps by best effort only."""
    plans = [plan["Properties"] for plan in of_type(sample, "AWS::ApiGateway::UsagePlan").values()]
    assert {plan["UsagePlanName"]: plan["Throttle"] for plan in plans} == {
        "Standard": {"RateLimit": 500, "BurstLimit": 1000},
        "Trial": {"RateLimit": 2, "BurstLimit": 5},
    }
    assert not any("Quota" in plan for plan in plans)


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
    assert _call("/messages", method="POST")["statusCode"] == 202


def _call(
    resource: str, *, method: str = "GET", query: dict[str, str] | None = None, path: dict[str, str] | None = None
) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(BACKEND, namespace)  # noqa: S102 - the inline code of the sample's function
    event = {"resource": resource, "httpMethod": method, "queryStringParameters": query, "pathParameters": path}
    return dict(namespace["handler"](event, None))
