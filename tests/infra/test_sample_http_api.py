"""The sample of an HTTP API is metered, and its every route asks for a token."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from infra.stack import SampleHttpApi
from infra.stack.sample_http_api import BACKEND
from metering.model.metrics import declared
from tests.doubles.access_log import NONCE
from tests.doubles.template import Template, exports, joined, of_type


def test_either_sample_is_deployed_alone(http: Mapping[str, Template], templates: Mapping[str, Template]) -> None:
    """They want other metrics, and a metering stack reads the log of one kind of API."""
    assert list(http) == ["Metering", "SampleHttpApi"]
    assert list(templates) == ["Metering", "SampleApi"]


def test_the_stage_writes_the_format_that_the_reader_reads(http: Mapping[str, Template]) -> None:
    """Who is billed is the token's subject; the route's key stands for the resource."""
    (stage,) = of_type(http["SampleHttpApi"], "AWS::ApiGatewayV2::Stage").values()
    settings = stage["Properties"]["AccessLogSettings"]
    written = joined(settings["Format"], NONCE)
    assert written == SampleHttpApi.ACCESS_LOG.format(NONCE, declared(SampleHttpApi.METRICS))
    assert '"key":"$context.authorizer.claims.sub"' in written
    assert '"resource":"$context.routeKey"' in written
    (exported,) = exports(http["Metering"])
    assert exported["Export"]["Name"] in str(settings["DestinationArn"])


def test_every_route_asks_for_a_token(http: Mapping[str, Template]) -> None:
    """I7: whom a request is billed to is what the issuer has signed."""
    template = http["SampleHttpApi"]
    ((name, authorizer),) = of_type(template, "AWS::ApiGatewayV2::Authorizer").items()
    assert authorizer["Properties"]["JwtConfiguration"] == {
        "Audience": ["items"],
        "Issuer": "https://login.example.com/",
    }
    routes = [route["Properties"] for route in of_type(template, "AWS::ApiGatewayV2::Route").values()]
    assert {
        route["RouteKey"]: (route["AuthorizationType"], route["AuthorizerId"]) for route in routes
    } == dict.fromkeys(("GET /items", "GET /items/{id}", "POST /messages", "GET /fail"), ("JWT", {"Ref": name}))


def test_the_outputs_say_where_the_api_is(http: Mapping[str, Template]) -> None:
    """Their names are an interface of the demo."""
    assert {"ApiUrl", "ApiId", "StageName"} <= set(http["SampleHttpApi"]["Outputs"])


def test_the_backend_answers_as_asked_and_within_bounds() -> None:
    """A body's length varies with n, up to 1,000 items; nonsense is answered with the default."""
    answers = {n: len(_call("GET /items", query={"n": n})["body"]) for n in ("0", "10", "1000", "99999", "x", "-1")}
    assert answers["0"] < answers["10"] < answers["1000"]
    assert answers["99999"] == answers["1000"]
    assert answers["x"] == answers["-1"] == len(_call("GET /items")["body"])
    assert _call("GET /items/{id}", path={"id": "7"})["body"] == '{"id": "7"}'
    assert _call("GET /fail")["statusCode"] == 500


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"messages": ["a", "b"]}, 202),
        ({"messages": []}, 202),
        ({"messages": 2}, 400),
        ({}, 400),
        ([], 400),
        (None, 400),
    ],
)
@pytest.mark.parametrize("encoded", [False, True])
def test_the_backend_takes_messages(body: object, status: int, encoded: bool) -> None:  # noqa: FBT001  a case
    """As text or in base64, as API Gateway hands a body on."""
    text = "" if body is None else json.dumps(body)
    sent = base64.b64encode(text.encode()).decode() if encoded else text
    assert _call("POST /messages", body=sent, encoded=encoded)["statusCode"] == status


def _call(
    route: str,
    *,
    query: dict[str, str] | None = None,
    path: dict[str, str] | None = None,
    body: str | None = None,
    encoded: bool = False,
) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(BACKEND, namespace)  # noqa: S102 - the inline code of the sample's function
    event: dict[str, Any] = {"routeKey": route, "body": body, "isBase64Encoded": encoded}
    event |= {"queryStringParameters": query} if query else {}
    event |= {"pathParameters": path} if path else {}
    return dict(namespace["handler"](event, None))
