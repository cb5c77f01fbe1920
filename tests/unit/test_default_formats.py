"""The formats that API Gateway's console proposes: what each lacks to be billed by, and how it is read with that in it.

Sources: API Gateway Developer Guide, "Access logging for REST APIs", "Configure logging for HTTP APIs" and "Configure
logging for WebSocket APIs".
"""

import pytest

from infra.local.aws.log_line import render
from metering.model.foreign_format import FormatError, compile_format
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import Count, Sum

METRICS = (Count(name="requests", methods=("GET", "MESSAGE")), Count(name="by_resource", resources=("/pets",)))
BYTES = Sum(name="bytes", of="response_length")

LOGS = {
    Api.REST: AccessLog(Api.REST, None, "pets"),
    Api.HTTP: AccessLog(Api.HTTP, "authorizer.claims.sub", "pets"),
    Api.WEBSOCKET: AccessLog(Api.WEBSOCKET, "authorizer.principalId", "pets"),
}
FORMATS = {
    (Api.REST, "CLF"): '$context.identity.sourceIp $context.identity.caller $context.identity.user [$context.requestTime]"$context.httpMethod $context.resourcePath $context.protocol" $context.status $context.responseLength $context.requestId $context.extendedRequestId',  # noqa: E501 - as AWS has it
    (Api.REST, "JSON"): '{ "requestId":"$context.requestId", "extendedRequestId":"$context.extendedRequestId","ip": "$context.identity.sourceIp", "caller":"$context.identity.caller", "user":"$context.identity.user", "requestTime":"$context.requestTime", "httpMethod":"$context.httpMethod", "resourcePath":"$context.resourcePath", "status":"$context.status", "protocol":"$context.protocol", "responseLength":"$context.responseLength" }',  # noqa: E501
    (Api.REST, "XML"): '<request id="$context.requestId"> <extendedRequestId>$context.extendedRequestId</extendedRequestId> <ip>$context.identity.sourceIp</ip> <caller>$context.identity.caller</caller> <user>$context.identity.user</user> <requestTime>$context.requestTime</requestTime> <httpMethod>$context.httpMethod</httpMethod> <resourcePath>$context.resourcePath</resourcePath> <status>$context.status</status> <protocol>$context.protocol</protocol> <responseLength>$context.responseLength</responseLength> </request>',  # noqa: E501
    (Api.REST, "CSV"): "$context.identity.sourceIp,$context.identity.caller,$context.identity.user,$context.requestTime,$context.httpMethod,$context.resourcePath,$context.protocol,$context.status,$context.responseLength,$context.requestId,$context.extendedRequestId",  # noqa: E501
    (Api.HTTP, "CLF"): '$context.identity.sourceIp - - [$context.requestTime] "$context.httpMethod $context.routeKey $context.protocol" $context.status $context.responseLength $context.requestId',  # noqa: E501
    (Api.HTTP, "JSON"): '{ "requestId":"$context.requestId", "ip": "$context.identity.sourceIp", "requestTime":"$context.requestTime", "httpMethod":"$context.httpMethod","routeKey":"$context.routeKey", "status":"$context.status","protocol":"$context.protocol", "responseLength":"$context.responseLength" }',  # noqa: E501
    (Api.HTTP, "XML"): '<request id="$context.requestId"> <ip>$context.identity.sourceIp</ip> <requestTime>$context.requestTime</requestTime> <httpMethod>$context.httpMethod</httpMethod> <routeKey>$context.routeKey</routeKey> <status>$context.status</status> <protocol>$context.protocol</protocol> <responseLength>$context.responseLength</responseLength> </request>',  # noqa: E501
    (Api.HTTP, "CSV"): "$context.identity.sourceIp,$context.requestTime,$context.httpMethod,$context.routeKey,$context.protocol,$context.status,$context.responseLength,$context.requestId",  # noqa: E501
    (Api.WEBSOCKET, "CLF"): '$context.identity.sourceIp $context.identity.caller $context.identity.user [$context.requestTime] "$context.eventType $context.routeKey $context.connectionId" $context.status $context.requestId',  # noqa: E501
    (Api.WEBSOCKET, "JSON"): '{ "requestId":"$context.requestId", "ip": "$context.identity.sourceIp", "caller":"$context.identity.caller", "user":"$context.identity.user", "requestTime":"$context.requestTime", "eventType":"$context.eventType", "routeKey":"$context.routeKey", "status":"$context.status", "connectionId":"$context.connectionId" }',  # noqa: E501
    (Api.WEBSOCKET, "XML"): '<request id="$context.requestId"> <ip>$context.identity.sourceIp</ip> <caller>$context.identity.caller</caller> <user>$context.identity.user</user> <requestTime>$context.requestTime</requestTime> <eventType>$context.eventType</eventType> <routeKey>$context.routeKey</routeKey> <status>$context.status</status> <connectionId>$context.connectionId</connectionId> </request>',  # noqa: E501
    (Api.WEBSOCKET, "CSV"): "$context.identity.sourceIp,$context.identity.caller,$context.identity.user,$context.requestTime,$context.eventType,$context.routeKey,$context.connectionId,$context.status,$context.requestId",  # noqa: E501
}  # fmt: skip
VALUES = {
    "requestId": "0a1b2c3d-0000-11f0-8000-0a58a9feac02",
    "extendedRequestId": "JKJaXmPLvHcESHA=",
    "identity.sourceIp": "2001:db8::1",
    "identity.apiKeyId": "a1b2c3d4e5",
    "authorizer.claims.sub": "auth0|7",
    "authorizer.principalId": "ann",
    "requestTime": "26/Nov/2026:22:30:00 +0000",
    "httpMethod": "GET",
    "resourcePath": "/pets",
    "routeKey": "GET /pets",
    "protocol": "HTTP/1.1",
    "status": "200",
    "responseLength": "512",
    "eventType": "MESSAGE",
    "connectionId": "Iq8gj1UmIAMCKpA=",
}


@pytest.mark.parametrize(("api", "name"), FORMATS)
def test_no_format_that_the_console_proposes_names_a_caller(api: Api, name: str) -> None:
    """It lacks that alone, as long as nothing is billed that the kind of API does not log."""
    with pytest.raises(FormatError) as error:
        compile_format(LOGS[api], FORMATS[api, name], METRICS, stage="v1")
    assert error.value.lacking == (LOGS[api].variable,)


@pytest.mark.parametrize(("api", "name"), [(api, name) for api, name in FORMATS if name != "JSON" or api is Api.REST])
def test_a_caller_in_front_of_it_makes_it_one_that_can_be_billed_by(api: Api, name: str) -> None:
    """In quotes, since an authorizer's value may hold whatever ends the others."""
    written = f'"$context.{LOGS[api].variable}" {FORMATS[api, name]}'
    spaced = (api, name) in ((Api.HTTP, "CLF"), (Api.WEBSOCKET, "CLF"))
    commas = (api, name) in ((Api.REST, "CSV"), (Api.WEBSOCKET, "CSV"))
    if spaced or commas:
        may_hold = r"routeKey may itself hold ' '" if spaced else r"identity.caller may itself hold ','"
        with pytest.raises(FormatError, match=may_hold):
            compile_format(LOGS[api], written, METRICS, stage="v1")
        return
    compiled = compile_format(LOGS[api], written, METRICS, stage="v1")
    fields = compiled.fields(render(written, VALUES))
    assert fields is not None
    assert (fields["status"], fields["time"]) == ("200", "1795732200000")
    assert fields["key"] in ("a1b2c3d4e5", "pets:auth0|7", "pets:ann")
    assert (fields["method"], fields["resource"]) in (("GET", "/pets"), ("GET", "GET /pets"), ("MESSAGE", "GET /pets"))


def test_a_json_format_with_a_callers_field_can_be_billed_by_in_place() -> None:
    """Its bytes, too, of a kind that logs them."""
    theirs = FORMATS[Api.HTTP, "JSON"]
    written = theirs.replace("{ ", '{ "sub":"$context.authorizer.claims.sub", ')
    fields = compile_format(LOGS[Api.HTTP], written, (*METRICS, BYTES), stage="$default").fields(
        render(written, VALUES)
    )
    assert fields is not None
    assert (fields["key"], fields["request_id"], fields["response_length"]) == (
        "pets:auth0|7",
        VALUES["requestId"],
        "512",
    )
    sockets = FORMATS[Api.WEBSOCKET, "JSON"].replace("{ ", '{ "who":"$context.authorizer.principalId", ')
    assert compile_format(LOGS[Api.WEBSOCKET], sockets, (*METRICS, BYTES), stage="v1").fields(render(sockets, VALUES))


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "OK"},
        {"requestTime": "26/Nov/2026 22:30:00"},
        {"requestTime": "31/Feb/2026:22:30:00 +0000"},
        {"requestTime": "26/Nov/2026:22:30:00 +9900"},
        {"requestTime": "26/nov/2026:22:30:00 +0000"},
        {"responseLength": "1e3"},
        {"httpMethod": "GE T"},
        {"resourcePath": "/pets dogs"},
        {"extendedRequestId": "a b"},
        {"identity.sourceIp": "localhost"},
    ],
)
def test_a_value_that_api_gateway_does_not_write_makes_a_line_unreadable(changed: dict[str, str]) -> None:
    """I1: it is set aside, and not read as another."""
    written = f"$context.identity.apiKeyId {FORMATS[Api.REST, 'CLF']}"
    compiled = compile_format(LOGS[Api.REST], written, METRICS, stage="v1")
    assert compiled.fields(render(written, VALUES))
    with pytest.raises(ValueError, match=r"must be a moment|not the stage's format"):
        compiled.fields(render(written, VALUES | changed))


def test_a_request_that_has_nothing_of_what_is_wanted_is_read_all_the_same() -> None:
    """API Gateway writes a hyphen; what that means is seen with the values."""
    written = f"$context.identity.apiKeyId {FORMATS[Api.REST, 'CLF']}"
    fields = compile_format(LOGS[Api.REST], written, METRICS, stage="v1").fields(
        render(written, {name: VALUES[name] for name in ("extendedRequestId", "requestTime", "status")})
    )
    assert fields is not None
    assert (fields["key"], fields["method"], fields["resource"]) == ("-", "-", "-")
