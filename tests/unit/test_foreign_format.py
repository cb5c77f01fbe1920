"""Formats of others: what is read of them, what they lack, and what is refused because a caller could write it."""

import json

import pytest

from metering.model.foreign_format import FormatError, compile_format, extended
from metering.model.log_format import LONGEST_FORMAT, AccessLog, Api
from metering.model.metrics import Count, Metric, Sum

REQUESTS: tuple[Metric, ...] = (Count(name="requests"),)
REST = AccessLog(Api.REST, None, "orders")
HTTP = AccessLog(Api.HTTP, "authorizer.claims.sub", "shop")
SOCKET = AccessLog(Api.WEBSOCKET, "authorizer.principalId", "chat")

JSON = json.dumps(
    {
        "id": "$context.extendedRequestId",
        "time": "$context.requestTime",
        "who": {"key": "$context.identity.apiKeyId", "ip": "$context.identity.sourceIp"},
        "status": "$context.status",
        "agent": "$context.identity.userAgent",
    }
)
CLAIMS = json.dumps(
    {
        "requestId": "$context.requestId",
        "ip": "$context.identity.sourceIp",
        "requestTime": "$context.requestTime",
        "routeKey": "$context.routeKey",
        "sub": "$context.authorizer.claims.sub",
        "status": "$context.status",
    }
)


def test_a_nested_json_format_is_read() -> None:
    """The key of the record is the API key's id, its API the connection."""
    line = (
        '{"id": "JKJa=", "time": "26/Nov/2026:22:30:00 +0100", "who": {"key": "a1b2c3", "ip": "1.2.3.4"}, '
        '"status": "200", "agent": "curl"}'
    )
    fields = compile_format(REST, JSON, REQUESTS, stage="v1").fields(line)
    assert fields is not None
    assert {name: value for name, value in fields.items() if value != "-"} == {
        "request_id": "JKJa=",
        "time": "1795728600000",
        "key": "a1b2c3",
        "status": "200",
        "api_id": "orders",
        "stage": "v1",
    }


def test_an_unquoted_variable_is_read_and_what_stands_behind_is_not_looked_at() -> None:
    """The format's literals alone say where a value ends: it need not be JSON at all."""
    written = (
        '{"s":$context.status,"t":$context.requestTimeEpoch,"k":"$context.identity.apiKeyId",'
        '"e":"$context.extendedRequestId","ua":"$context.identity.userAgent"}'
    )
    fields = compile_format(REST, written, REQUESTS, stage="v1").fields(
        '{"s":201,"t":1795728600000,"k":"-","e":"R=","ua":"\\"}{'
    )
    assert fields is not None
    assert (fields["status"], fields["time"], fields["key"]) == ("201", "1795728600000", "-")


def test_an_authorizers_value_is_read_where_no_text_of_a_caller_stands_in_the_line() -> None:
    """It is the connection's, so that nobody can choose a value that is another's key (I7)."""
    line = (
        '{"requestId": "JKJa=", "ip": "1.2.3.4", "requestTime": "26/Nov/2026:22:30:00 +0000", '
        '"routeKey": "GET /pets/{id}", "sub": "auth0|7 é", "status": "200"}'
    )
    fields = compile_format(HTTP, CLAIMS, REQUESTS, stage="$default").fields(line)
    assert fields is not None
    assert (fields["key"], fields["stage"], fields["time"]) == ("shop:auth0|7 é", "$default", "1795732200000")


@pytest.mark.parametrize(
    "forged",
    [
        'victim","status":"200',
        'victim", "status": "200"}',
        'victim", "status": "200", "x": "',
        "victim\\",
        "victim\n",
    ],
)
def test_an_authorizers_value_that_would_end_itself_makes_its_line_unreadable(forged: str) -> None:
    """I7: it makes more signs than the format has."""
    line = (
        '{"requestId": "JKJa=", "ip": "1.2.3.4", "requestTime": "26/Nov/2026:22:30:00 +0000", '
        f'"routeKey": "GET /pets", "sub": "{forged}", "status": "403"}}'
    )
    with pytest.raises(ValueError, match="not the stage's format"):
        compile_format(HTTP, CLAIMS, REQUESTS, stage="$default").fields(line)


def test_what_a_format_lacks_is_named() -> None:
    """The operator knows which lines to add; a client chooses a REST API's requestId."""
    with pytest.raises(
        FormatError, match=r"it lacks \$context.extendedRequestId, \$context.identity.apiKeyId"
    ) as error:
        compile_format(REST, "$context.requestId [$context.requestTime] $context.status", REQUESTS, stage="v1")
    assert error.value.lacking == ("extendedRequestId", "identity.apiKeyId")


def test_what_stands_behind_a_callers_text_is_to_be_moved() -> None:
    """I7: a path could hold whatever stands behind it."""
    written = '{"path":"$context.path",' + JSON.removeprefix("{")
    with pytest.raises(FormatError, match=r"must stand in front of \$context.path") as error:
        compile_format(REST, written, REQUESTS, stage="v1")
    assert error.value.to_move == ("extendedRequestId", "requestTime", "identity.apiKeyId", "status")


def test_beside_an_authorizers_value_no_text_of_a_caller_may_stand() -> None:
    """I7: its end could not be told from what a caller writes."""
    written = '{"path":"$context.path",' + CLAIMS.removeprefix("{")
    with pytest.raises(FormatError, match=r"leave out \$context.path") as error:
        compile_format(HTTP, written, REQUESTS, stage="$default")
    assert error.value.in_the_way == ("path",)


def test_two_variables_need_a_sign_between_them() -> None:
    """It could not be told where the one ends."""
    written = "$context.extendedRequestId $context.requestTimeEpoch$context.status $context.identity.apiKeyId"
    with pytest.raises(FormatError, match="nothing stands behind"):
        compile_format(REST, written, REQUESTS, stage="v1")


def test_a_format_needs_what_the_metrics_read() -> None:
    """And nothing for metrics of other APIs."""
    paid = Sum(name="bytes", of="response_length", methods=("POST",))
    with pytest.raises(FormatError) as error:
        compile_format(REST, JSON, (paid,), stage="v1")
    assert error.value.lacking == ("httpMethod", "responseLength")
    others = Sum(name="bytes", of="response_length", apis=("shop",))
    assert compile_format(REST, JSON, (*REQUESTS, others), stage="v1")


def test_where_stages_share_a_log_group_each_line_says_whose_it_is() -> None:
    """Those of others are nobody's."""
    with pytest.raises(FormatError) as error:
        compile_format(REST, JSON, REQUESTS, stage="v1", api_id="abc123")
    assert error.value.lacking == ("apiId", "stage")
    written = '{"api":"$context.apiId","stage":"$context.stage",' + JSON.removeprefix("{")
    shared = compile_format(REST, written, REQUESTS, stage="v1", api_id="abc123")
    line = (
        '{"api":"abc123","stage":"v1","id": "J=", "time": "26/Nov/2026:22:30:00 +0000", '
        '"who": {"key": "k", "ip": "::1"}, "status": "200", "agent": "'
    )
    assert shared.fields(line) is not None
    assert shared.fields(line.replace("v1", "v2")) is None
    assert shared.fields(line.replace("abc123", "abc124")) is None


def test_a_json_format_is_extended_in_front() -> None:
    """What reads it as JSON finds its own fields as before."""
    ours = '{"metering":"1:2:n","end":"n"}'
    assert (
        extended(ours, ' { "a": $context.status }\n')
        == '{"metering":{"metering":"1:2:n","end":"n"},"a": $context.status }'
    )
    assert extended(ours, "{}") == '{"metering":{"metering":"1:2:n","end":"n"}}'


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        ("$context.status $context.requestId", "one JSON object"),
        ('["$context.status"]', "one JSON object"),
        ('{"metering":"$context.status"}', "a field 'metering' already"),
        ('{"a":"' + "x" * LONGEST_FORMAT + '"}', "at most 3072 bytes"),
    ],
)
def test_what_cannot_be_extended_is_refused(theirs: str, why: str) -> None:
    """Its readers would break, or API Gateway refuse it."""
    with pytest.raises(FormatError, match=why):
        extended('{"metering":"1:2:n","end":"n"}', theirs)
