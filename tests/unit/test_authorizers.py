"""What the local gateway asks an authorizer, keeps of its answers, and writes of them."""

import asyncio
import io
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from botocore.exceptions import EndpointConnectionError
from multidict import CIMultiDict

from infra.local.aws.authorizers import Answers, Authorizer, Route
from infra.local.aws.sources import Source

ROUTE = Route("us-east-1", "123456789012", "a1b2", "v1", "/files/{owner}/{path+}")
POLICY = {"Version": "2012-10-17", "Statement": []}
SOURCES = (Source("header", "X-User"), Source("querystring", "team"))


@dataclass
class FakeFunctions:
    """Lambda's Invoke, which answers as told and remembers what it was asked."""

    answer: object
    error: bool = False
    down: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)

    def invoke(self, *, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803  AWS's names
        """Answer."""
        if self.down:
            raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")
        self.asked.append({"function": FunctionName, **json.loads(Payload)})
        answered = {"Payload": io.BytesIO(json.dumps(self.answer).encode())}
        return {**answered, "FunctionError": "Unhandled"} if self.error else answered


def _request(user: str = "ada", team: str = "red", path: str = "/files/ada/a/b%20c") -> web.Request:
    headers = CIMultiDict({"x-user": user} if user else {})
    headers.add("x-tag", "1")
    headers.add("x-tag", "2")
    return make_mocked_request("GET", f"{path}?team={team}&n=1&n=2", headers=headers)


def _of(functions: FakeFunctions, *requests: web.Request, ttl_s: int = 300) -> list[dict[str, str]]:
    authorizer = Authorizer("a1", "asks", SOURCES, ttl_s)

    async def ask() -> list[dict[str, str]]:
        answers = Answers(functions)
        return [await answers.of(authorizer, request, ROUTE) for request in requests]

    return asyncio.run(ask())


def test_it_is_asked_with_the_event_that_it_gets_on_aws() -> None:
    """The last of several values, and all of them; decoded, but for the path."""
    functions = FakeFunctions({"policyDocument": POLICY})
    _of(functions, _request())
    (event,) = functions.asked
    assert event["function"] == "asks"
    assert event["type"] == "REQUEST"
    assert event["methodArn"] == "arn:aws:execute-api:us-east-1:123456789012:a1b2/v1/GET/files/ada/a/b%20c"
    assert (event["resource"], event["path"], event["httpMethod"]) == (ROUTE.resource, "/files/ada/a/b%20c", "GET")
    assert (event["headers"]["x-tag"], event["multiValueHeaders"]["x-tag"]) == ("2", ["1", "2"])
    assert event["queryStringParameters"] == {"team": "red", "n": "2"}
    assert event["multiValueQueryStringParameters"] == {"team": ["red"], "n": ["1", "2"]}
    assert event["pathParameters"] == {"owner": "ada", "path": "a/b c"}
    assert event["requestContext"]["resourcePath"] == ROUTE.resource


def test_its_answer_is_written_as_strings() -> None:
    """Nothing nested and no null; a value may hold anything, and is not escaped."""
    context = {"text": 'a "b"', "whole": 3, "part": 1.5, "yes": True, "null": None, "nested": {"a": 1}}
    (told,) = _of(FakeFunctions({"principalId": "p", "policyDocument": POLICY, "context": context}), _request())
    assert told == {
        "authorizer.text": 'a "b"',
        "authorizer.whole": "3",
        "authorizer.part": "1.5",
        "authorizer.yes": "true",
        "authorizer.principalId": "p",
    }


def test_it_is_asked_once_for_the_same_identity() -> None:
    """The values of its sources, whatever else differs."""
    functions = FakeFunctions({"policyDocument": POLICY})
    _of(functions, _request(), _request(path="/files/x/y"), _request(user="bea"), _request(team="blue"))
    assert len(functions.asked) == 3


def test_without_a_time_to_live_it_is_asked_each_time_whoever_calls() -> None:
    """Then a missing value is for its function to judge."""
    functions = FakeFunctions({"policyDocument": POLICY})
    _of(functions, _request(), _request(), _request(user=""), ttl_s=0)
    assert len(functions.asked) == 3


def test_it_is_not_asked_where_a_value_is_missing() -> None:
    """API Gateway answers 401 by itself."""
    functions = FakeFunctions({"policyDocument": POLICY, "context": {"a": "b"}})
    assert _of(functions, _request(user=""), _request(team="")) == [{}, {}]
    assert functions.asked == []


@pytest.mark.parametrize(
    "functions",
    [
        FakeFunctions({"policyDocument": POLICY, "context": {"a": "b"}}, error=True),
        FakeFunctions({"policyDocument": POLICY}, down=True),
        FakeFunctions({"context": {"a": "b"}}),
        FakeFunctions("no object"),
        FakeFunctions(None),
    ],
)
def test_what_is_no_answer_tells_nothing(functions: FakeFunctions) -> None:
    """The request has its line all the same."""
    assert _of(functions, _request()) == [{}]


ARN = "arn:aws:lambda:us-east-1:123456789012:function:asks"
URI = f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{ARN}/invocations"


def test_it_is_read_as_api_gateway_describes_it() -> None:
    """The function's ARN is within a URI; five minutes unless told otherwise."""
    written = "method.request.header.X-User, method.request.querystring.team"
    described = {"id": "a1", "authorizerUri": URI, "identitySource": written}
    assert Authorizer.of_rest(described) == Authorizer("a1", ARN, SOURCES, 300)
    assert Authorizer.of_rest({"id": "a1", "authorizerUri": URI, "authorizerResultTtlInSeconds": 0}).sources == ()


HTTP_API = {
    "AuthorizerId": "a1",
    "AuthorizerUri": URI,
    "IdentitySource": ["$request.header.X-User", "$request.querystring.team"],
    "AuthorizerPayloadFormatVersion": "2.0",
    "AuthorizerResultTtlInSeconds": 60,
    "EnableSimpleResponses": True,
}


def test_an_http_apis_is_read_as_api_gateway_describes_it() -> None:
    """Nothing is kept of one without a source."""
    assert Authorizer.of_http(HTTP_API) == Authorizer("a1", ARN, SOURCES, 60, "2.0", answers_simply=True, is_http=True)
    assert Authorizer.of_http(HTTP_API | {"IdentitySource": []}).ttl_s == 0


def test_an_http_apis_is_not_asked_where_a_value_is_missing_even_if_nothing_is_kept() -> None:
    """API Gateway then answers 401 by itself, as long as there is a source."""
    uncached = HTTP_API | {"AuthorizerResultTtlInSeconds": 0}
    assert Authorizer.of_http(uncached).identity(_request(user="")) is None
    assert Authorizer.of_http(uncached | {"IdentitySource": []}).identity(_request(user="")) == ()


@pytest.mark.parametrize(("answer", "told"), [(True, "b"), (False, "b"), ("yes", None)])
def test_an_http_apis_may_say_yes_or_no(answer: object, told: str | None) -> None:
    """One that denies has told all the same; what is neither tells nothing."""
    functions = FakeFunctions({"isAuthorized": answer, "context": {"a": "b", "n": 3}})
    route = Route(
        "us-east-1", "123456789012", "a1b2", "$default", "/files/{owner}/{path+}", "GET /files/{owner}/{path+}"
    )
    answered = asyncio.run(Answers(functions).of(Authorizer.of_http(HTTP_API), _request(), route))
    assert answered.get("authorizer.a") == told
    (event,) = functions.asked
    assert (event["version"], event["routeKey"], event["rawPath"]) == ("2.0", route.key, "/files/ada/a/b%20c")
    assert event["routeArn"] == "arn:aws:execute-api:us-east-1:123456789012:a1b2/$default/GET/files/ada/a/b%20c"
    assert (event["identitySource"], event["headers"]["x-tag"]) == (["ada", "red"], "1,2")
    assert event["queryStringParameters"] == {"team": "red", "n": "1,2"}
    assert event["pathParameters"] == {"owner": "ada", "path": "a/b c"}
