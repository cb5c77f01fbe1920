"""A real emulator with an HTTP API in it, and the gateway that writes its access log."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from infra.local.aws.emulator import Emulator
from infra.local.aws.gateway import Gateway
from infra.local.aws.json_web_tokens import Issuer
from tests.e2e.test_emulator_gateway import LOG_GROUP, lines, make_function, send

FIELDS = {
    "id": "requestId",
    "extended": "extendedRequestId",
    "time": "requestTimeEpoch",
    "key": "authorizer.claims.sub",
    "seats": "authorizer.claims.seats",
    "user": "authorizer.user",
    "admin": "authorizer.admin",
    "status": "status",
    "method": "httpMethod",
    "resource": "routeKey",
    "path": "path",
    "rest": "resourcePath",
    "rest_key": "identity.apiKeyId",
    "length": "responseLength",
    "latency": "responseLatency",
    "integration": "integration.latency",
    "chosen": "integration.status",
    "lambda": "integrationStatus",
    "data": "dataProcessed",
    "api": "apiId",
    "stage": "stage",
    "error": "error.message",
    "why": "authorizer.error",
    "agent": "identity.userAgent",
}
FORMAT = json.dumps({name: f"$context.{variable}" for name, variable in FIELDS.items()})

BACKEND = """
def handler(event, context):
    if event["rawPath"].endswith("/refused"):
        return {"statusCode": 401, "body": "not by me"}
    return {"statusCode": 201, "body": event["routeKey"]}
"""

AUTHORIZER = """
def handler(event, context):
    user = event["headers"]["x-user"]
    return {"isAuthorized": user != "banned", "context": {"user": user, "admin": False}}
"""


@dataclass(frozen=True, slots=True)
class Api:
    """An HTTP API with two stages, `$default` and `v1`: `/items…` wants a token, `/mine` a user, `$default` nothing."""

    emulator: Emulator
    issuer: Issuer
    api_id: str

    def gateway(self, stage: str = "$default") -> Gateway:
        """Return a gateway of a stage."""
        return Gateway(self.emulator, api_id=self.api_id, stage=stage)

    def token(self, subject: str = "auth0|abc", **claims: Any) -> dict[str, str]:
        """Return a header with a good token."""
        return {"authorization": f"Bearer {self.issuer.token(subject, **claims)}"}


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """One emulator for this module."""
    with Issuer() as issuer, Emulator() as emulator:
        yield make_api(emulator, issuer)


def make_api(emulator: Emulator, issuer: Issuer) -> Api:
    """Make the API, its functions, routes, stages and log group."""
    apigateway, logs = emulator.client("apigatewayv2"), emulator.client("logs")
    logs.create_log_group(logGroupName=LOG_GROUP)
    api_id = apigateway.create_api(Name="sample", ProtocolType="HTTP")["ApiId"]
    jwt = apigateway.create_authorizer(
        ApiId=api_id,
        Name="callers",
        AuthorizerType="JWT",
        IdentitySource=["$request.header.Authorization"],
        JwtConfiguration={"Issuer": issuer.url, "Audience": [Issuer.AUDIENCE]},
    )["AuthorizerId"]
    asked = make_function(emulator, "authorizer", AUTHORIZER)
    custom = apigateway.create_authorizer(
        ApiId=api_id,
        Name="users",
        AuthorizerType="REQUEST",
        AuthorizerUri=f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{asked}/invocations",
        AuthorizerPayloadFormatVersion="2.0",
        EnableSimpleResponses=True,
        IdentitySource=["$request.header.x-user"],
    )["AuthorizerId"]
    target = apigateway.create_integration(
        ApiId=api_id,
        IntegrationType="AWS_PROXY",
        IntegrationUri=make_function(emulator, "backend", BACKEND),
        PayloadFormatVersion="2.0",
    )["IntegrationId"]
    for key, who in {
        "GET /items": {"AuthorizationType": "JWT", "AuthorizerId": jwt},
        "ANY /items/{proxy+}": {"AuthorizationType": "JWT", "AuthorizerId": jwt},
        "DELETE /items": {"AuthorizationType": "JWT", "AuthorizerId": jwt, "AuthorizationScopes": ["delete"]},
        "GET /mine": {"AuthorizationType": "CUSTOM", "AuthorizerId": custom},
        "GET /open": {},
    }.items():
        apigateway.create_route(ApiId=api_id, RouteKey=key, Target=f"integrations/{target}", **who)
    to = f"arn:aws:logs:{emulator.region}:{emulator.account_id}:log-group:{LOG_GROUP}:*"
    for stage in ("$default", "v1"):
        apigateway.create_stage(
            ApiId=api_id,
            StageName=stage,
            AutoDeploy=True,
            AccessLogSettings={"DestinationArn": to, "Format": FORMAT},
        )
    apigateway.create_stage(ApiId=api_id, StageName="silent", AutoDeploy=True)
    apigateway.close()
    logs.close()
    return Api(emulator, issuer, api_id)


def new_lines(api: Api, *requests: tuple[str, str, Mapping[str, str]], stage: str = "$default") -> list[dict[str, Any]]:
    """Send the requests one after another and return their lines, whose ids the callers were told."""
    with api.gateway(stage) as gateway:
        answers = send(gateway, *requests)
        gateway.flush()
    written = {line["id"]: line for line in lines(api.emulator)}
    found = [written[answer.headers["apigw-requestid"]] for answer in answers]
    assert [int(line["status"]) for line in found] == [answer.status for answer in answers]
    return found


def test_a_request_with_a_token_is_logged_by_what_the_token_claims(api: Api) -> None:
    """Its route's key and its one identifier; seconds; what a REST API alone knows is a hyphen."""
    before = int(time.time())
    [line] = new_lines(api, ("GET", "/items", api.token(seats=3)))
    expected = {
        "extended": line["id"],
        "key": "auth0|abc",
        "seats": "3",
        "status": "201",
        "method": "GET",
        "resource": "GET /items",
        "path": "/items",
        "rest": "-",
        "rest_key": "-",
        "length": "10",
        "chosen": "201",
        "lambda": "200",
        "data": "15",
        "api": api.api_id,
        "stage": "$default",
        "error": "-",
        "why": "-",
        "user": "-",
    }
    assert {name: line[name] for name in expected} == expected
    assert before <= int(line["time"]) <= time.time()
    assert int(line["integration"]) <= int(line["latency"])


def test_a_request_without_a_good_token_is_refused_and_logged_without_a_caller(api: Api) -> None:
    """I7: none, an expired one, one for others, one of another issuer that calls itself the same."""
    with Issuer() as other:
        forged = other.token("victim", iss=api.issuer.url)
    found = new_lines(
        api,
        ("GET", "/items", {}),
        ("GET", "/items", api.token("victim", life_s=-60)),
        ("GET", "/items", api.token("victim", aud="others")),
        ("GET", "/items", {"authorization": f"Bearer {forged}"}),
        ("DELETE", "/items", api.token("victim", scope="read")),
    )
    assert [(line["status"], line["key"], line["error"], line["integration"]) for line in found] == [
        *[("401", "-", "Unauthorized", "-")] * 4,
        ("403", "-", "Forbidden", "-"),
    ]
    assert found[0]["resource"] == "GET /items"
    assert "victim" not in json.dumps(found)


def test_a_function_that_answers_401_itself_has_a_caller(api: Api) -> None:
    """The token was good; Lambda has answered, and the function has chosen."""
    [line] = new_lines(api, ("GET", "/items/refused", api.token()))
    assert (line["status"], line["chosen"], line["lambda"]) == ("401", "401", "200")
    assert (line["key"], line["resource"], line["error"]) == ("auth0|abc", "ANY /items/{proxy+}", "-")


def test_what_a_function_told_of_a_caller_is_logged(api: Api) -> None:
    """Also where it denies; without its header nobody asks it."""
    let_in, denied, unasked = new_lines(
        api, ("GET", "/mine", {"x-user": "ada"}), ("GET", "/mine", {"x-user": "banned"}), ("GET", "/mine", {})
    )
    assert (let_in["status"], let_in["user"], let_in["admin"], let_in["error"]) == ("201", "ada", "false", "-")
    assert (denied["status"], denied["user"], denied["error"], denied["chosen"]) == ("403", "banned", "Forbidden", "-")
    assert (unasked["status"], unasked["user"], unasked["error"]) == ("401", "-", "Unauthorized")


def test_what_no_route_takes_is_logged_without_one(api: Api) -> None:
    """API Gateway answers 404 by itself; a slash more is another path."""
    found = new_lines(api, ("GET", "/nowhere", {}), ("GET", "/items/", api.token()))
    assert [(line["status"], line["resource"], line["error"]) for line in found] == [("404", "-", "Not Found")] * 2


def test_a_named_stage_is_in_the_path(api: Api) -> None:
    """As the log has it; callers of this gateway leave it out."""
    [line] = new_lines(api, ("GET", "/open", {}), stage="v1")
    assert (line["stage"], line["path"], line["resource"]) == ("v1", "/v1/open", "GET /open")


def test_a_caller_chooses_no_identifier_and_breaks_no_line(api: Api) -> None:
    """I7: an HTTP API's identifier is its own, and quotes are escaped."""
    headers = {"apigw-requestid": "mine=", "x-amzn-RequestId": "6f1ed2a4-7f0b-4f7e-9d3c-0f2f1f3a9b11"}
    [line] = new_lines(api, ("GET", "/open", headers | {"user-agent": 'a "quoted" \\ agent'}))
    assert line["id"] not in {*headers.values(), "-"}
    assert line["agent"] == 'a "quoted" \\ agent'


def test_a_stage_without_an_access_log_is_refused(api: Api) -> None:
    """Nothing could be logged."""
    with pytest.raises(ValueError, match=r"stage silent .* got 'no access log'"), api.gateway("silent"):
        pass
