"""How the local gateway renders an access-log line and finds the resource or route of a request (I7)."""

import asyncio
import gzip
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from infra.local.aws.gateway import extended_request_id, request_id
from infra.local.aws.log_line import Error, Exchange, Kind, render, request_time
from infra.local.aws.log_writer import AccessLog, AccessLogFailed, DeliveryStream, Destination, LogStream
from infra.local.aws.stage import Method, Resource, match, match_route

RESOURCES = [
    Resource("/", {"GET": Method()}),
    Resource("/items", {"GET": Method(requires_key=True, authorizer_id="a1"), "ANY": Method()}),
    Resource("/items/new", {"GET": Method()}),
    Resource("/items/{id}", {"GET": Method(), "DELETE": Method()}),
    Resource("/items/{id}/parts/{part}", {"ANY": Method()}),
    Resource("/files/{proxy+}", {"ANY": Method()}),
    Resource("/{proxy+}", {"POST": Method()}),
]


@pytest.mark.parametrize(
    ("kind", "unknown"),
    [
        (Kind.REST, ("routeKey", "dataProcessed", "eventType", "connectionId")),
        (Kind.HTTP, ("resourcePath", "identity.apiKeyId", "eventType", "connectionId")),
        (Kind.WEBSOCKET, ("httpMethod", "path", "resourcePath", "responseLength", "responseLatency", "dataProcessed")),
    ],
)
def test_what_a_kind_of_api_does_not_know_is_a_hyphen(kind: Kind, unknown: Sequence[str]) -> None:
    """As AWS's three tables have it; what all of them know is there."""
    exchange = Exchange(
        kind=kind,
        api_id="a1b2",
        stage="v1",
        at=1_795_305_600_123,
        request_id="r=",
        extended_request_id="e=",
        method="GET",
        path="/items",
        resource="/items",
        status=200,
        response_length=7,
        connection_id="c=" if kind is Kind.WEBSOCKET else "",
    )
    values = exchange.variables()
    assert render(" ".join(f"$context.{name}" for name in unknown), values) == " ".join("-" * len(unknown))
    assert render("$context.apiId $context.stage $context.status", values) == "a1b2 v1 200"


def test_an_http_apis_request_has_one_identifier_and_counts_in_seconds() -> None:
    """Both bodies are data that was processed."""
    exchange = Exchange(
        kind=Kind.HTTP,
        at=1_795_305_600_999,
        request_id="r=",
        extended_request_id="e=",
        status=200,
        request_length=5,
        response_length=7,
    )
    line = "$context.requestId $context.extendedRequestId $context.requestTimeEpoch $context.dataProcessed"
    assert render(line, exchange.variables()) == "r= r= 1795305600 12"


def test_an_error_has_its_message_with_and_without_quotes() -> None:
    """The message with quotes is JSON already."""
    exchange = Exchange(kind=Kind.REST, at=0, request_id="r", status=403, error=Error('no "key"'))
    line = render('{"a":"$context.error.message","b":$context.error.messageString}', exchange.variables())
    assert json.loads(line) == {"a": 'no "key"', "b": 'no "key"'}


def test_each_variable_is_replaced_by_its_value_and_all_else_is_kept() -> None:
    """Text, braces and other dollars of the format stay as they are."""
    line = render(
        '{"s":"$context.status","cost":"$5","m":"$context.httpMethod"}', {"status": "200", "httpMethod": "GET"}
    )
    assert line == '{"s":"200","cost":"$5","m":"GET"}'


def test_the_longest_name_wins() -> None:
    """The id of a key is not its secret value followed by `Id`, and a time not a longer time's beginning."""
    values = {
        "identity.apiKey": "secret",
        "identity.apiKeyId": "abc",
        "requestTime": "22/Nov/2026:00:00:00 +0000",
        "requestTimeEpoch": "1795305600000",
    }
    assert render("$context.identity.apiKeyId $context.requestTimeEpoch", values) == "abc 1795305600000"
    assert render("$context.identity.apiKey", values) == "secret"


def test_an_unknown_longer_name_never_shows_the_secret_that_it_begins_with() -> None:
    """`identity.apiKeyIdentifier` is no variable."""
    assert (
        render("$context.identity.apiKeyIdentifier", {"identity.apiKey": "secret", "identity.apiKeyId": "abc"}) == "-"
    )


@pytest.mark.parametrize(
    "variable",
    [
        "identity.apiKeyId",
        "nonsense",
        "authorizer.units-per-call",
        "authorizer.claims.sub",
        "authorizer.claims.cognito:username",
        "responseOverride.header.x-u",
    ],
)
def test_a_missing_value_is_a_hyphen(variable: str) -> None:
    """Also one of an authorizer or mapping template, whose names may hold hyphens."""
    assert render(f'"$context.{variable}"', {}) == '"-"'


def test_an_empty_value_is_a_hyphen() -> None:
    """API Gateway writes no empty value."""
    assert render("[$context.error.message]", {"error.message": ""}) == "[-]"


def test_punctuation_after_a_variable_is_not_part_of_its_name() -> None:
    """A full stop or a hyphen ends the name."""
    values = {"stage": "v1", "apiId": "a1b2"}
    assert render("$context.stage-$context.apiId. $context.stage/$context.apiId", values) == "v1-a1b2. v1/a1b2"


def test_a_value_is_not_rendered_again() -> None:
    """A caller that sends `$context.identity.apiKey` as its user agent learns nothing."""
    values = {"identity.userAgent": "$context.identity.apiKey", "identity.apiKey": "secret"}
    assert render("$context.identity.userAgent", values) == "$context.identity.apiKey"


ATTACK = '"},\n{"status":"200","key":"victim'


def test_values_are_escaped_as_json_is() -> None:
    """Quotes and backslashes as was seen; other marks as JSON has them, of which nothing was seen."""
    line = render('{"agent":"$context.identity.userAgent"}', {"identity.userAgent": ATTACK})
    assert json.loads(line) == {"agent": ATTACK}
    assert "\n" not in line


def test_a_raw_value_can_break_the_line() -> None:
    """Nobody promises that values are escaped; this is why the deployed format has no such field."""
    line = render('{"agent":"$context.identity.userAgent"}', {"identity.userAgent": ATTACK}, raw=True)
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)


def test_a_format_of_safe_fields_shows_nothing_that_a_caller_wrote() -> None:
    """Path, user agent and key value are hostile; the line is one JSON object with the values of the gateway (I7)."""
    fields = ("extendedRequestId", "requestTimeEpoch", "identity.apiKeyId", "status", "httpMethod", "resourcePath")
    template = json.dumps({field: f"$context.{field}" for field in fields})
    resource = match(RESOURCES, "GET", f"/items/{ATTACK}")
    assert resource is not None
    values = {
        "extendedRequestId": extended_request_id(),
        "requestTimeEpoch": "1795305600000",
        "status": "403",
        "httpMethod": "GET",
        "resourcePath": resource.path,
        "path": f"/v1/items/{ATTACK}",
        "requestId": request_id({"x-amzn-RequestId": ATTACK}),
        "identity.userAgent": ATTACK,
        "identity.apiKey": ATTACK,
    }
    line = json.loads(render(template, values))
    assert line["resourcePath"] == "/items/{id}"
    assert line["identity.apiKeyId"] == "-"
    assert "victim" not in json.dumps(line)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", "/"),
        ("GET", "/items", "/items"),
        ("GET", "/items/", "/items"),
        ("GET", "/items/new", "/items/new"),
        ("GET", "/items/17", "/items/{id}"),
        ("GET", "/items/a%22b", "/items/{id}"),
        ("GET", "/%69tems", "/items"),
        ("DELETE", "/items/new", "/items/{id}"),
        ("PUT", "/items/17/parts/3", "/items/{id}/parts/{part}"),
        ("GET", "/files/a/b/c", "/files/{proxy+}"),
        ("POST", "/files/a", "/files/{proxy+}"),
        ("POST", "/items/17", "/{proxy+}"),
        ("POST", "/anything/at/all", "/{proxy+}"),
    ],
)
def test_the_most_literal_resource_that_serves_the_method_is_found(method: str, path: str, expected: str) -> None:
    """A literal comes before a parameter, and that before the greedy one."""
    found = match(RESOURCES, method, path)
    assert found is not None
    assert found.path == expected


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/files"), ("GET", "/unknown"), ("POST", "/"), ("PUT", "/items/17")]
)
def test_a_request_that_nothing_serves_has_no_resource(method: str, path: str) -> None:
    """A greedy parameter takes at least one segment."""
    assert match(RESOURCES, method, path) is None


ROUTES = [
    Resource("/", {"GET": Method()}),
    Resource("/items", {"GET": Method(), "ANY": Method(is_lambda=False)}),
    Resource("/items/new", {"GET": Method()}),
    Resource("/items/{id}", {"ANY": Method()}),
    Resource("/files/{proxy+}", {"GET": Method()}),
    Resource("/{any}/old", {"GET": Method()}),
    Resource("/{proxy+}", {"POST": Method()}),
    Resource("$default", {"ANY": Method()}),
]


@pytest.mark.parametrize(
    ("method", "path", "key"),
    [
        ("GET", "/", "GET /"),
        ("GET", "/items", "GET /items"),
        ("PUT", "/items", "ANY /items"),
        ("GET", "/items/new", "GET /items/new"),
        ("GET", "/items/17", "ANY /items/{id}"),
        ("GET", "/%69tems", "GET /items"),
        ("GET", "/files/a/b", "GET /files/{proxy+}"),
        ("GET", "/files/old", "GET /{any}/old"),
        ("POST", "/a/b", "POST /{proxy+}"),
        ("GET", "/items/", "$default"),
        ("GET", "/files", "$default"),
        ("DELETE", "/", "$default"),
    ],
)
def test_the_most_specific_route_is_found(method: str, path: str, key: str) -> None:
    """A full match comes before a greedy one, a method's own before ANY, and the default last."""
    found = match_route(ROUTES, method, path)
    assert found is not None
    assert found.name == key


def test_without_a_default_route_a_request_may_have_none() -> None:
    """API Gateway then answers 404, and logs no route."""
    assert match_route(ROUTES[:-1], "DELETE", "/nowhere") is None


def test_a_method_of_its_own_decides_about_key_and_authorizer_before_any() -> None:
    """`ANY` speaks for the methods that have no entry."""
    items = RESOURCES[1]
    assert items.serving("GET") == Method(requires_key=True, authorizer_id="a1")
    assert items.serving("PUT") == Method()
    assert RESOURCES[2].serving("PUT") is None


def test_the_request_time_is_in_common_log_format() -> None:
    """English months in every locale."""
    assert request_time(1_795_305_600_900) == "22/Nov/2026:00:00:00 +0000"


def test_a_caller_can_choose_the_request_id_only_as_a_uuid() -> None:
    """The header x-amzn-RequestId is honoured when it is one."""
    chosen = "6f1ed2a4-7f0b-4f7e-9d3c-0f2f1f3a9b11"
    assert request_id({"x-amzn-RequestId": chosen}) == chosen
    made = request_id({"x-amzn-RequestId": 'x","status":"200'})
    assert str(uuid.UUID(made)) == made
    assert request_id({}) != request_id({})


def test_extended_request_ids_are_distinct() -> None:
    """They are the record's identity."""
    assert len({extended_request_id() for _ in range(10_000)}) == 10_000


class FakeLogs:
    """PutLogEvents and PutRecord that fail as often as told and remember what they took."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls: list[list[str]] = []

    def put_log_events(self, *, logEvents: Sequence[Mapping[str, Any]], **_: str) -> dict[str, Any]:  # noqa: N803  AWS's name
        """Take the events, or fail."""
        if self.failures:
            self.failures -= 1
            raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")
        self.calls.append([event["message"] for event in logEvents])
        return {}

    def put_record(self, *, DeliveryStreamName: str, Record: Mapping[str, bytes]) -> None:  # noqa: N803  AWS's names
        """Take the record, or fail."""
        self.put_log_events(logEvents=[{"message": gzip.decompress(Record["Data"]).decode()}], s=DeliveryStreamName)


def _written(logs: FakeLogs, lines: Sequence[tuple[int, str]]) -> list[list[str]]:
    return _put(LogStream(logs, "g", "s"), logs, lines)


def _put(destination: Destination, taken: FakeLogs, lines: Sequence[tuple[int, str]]) -> list[list[str]]:
    async def write() -> None:
        async with AccessLog(destination, first_pause_s=0.001) as log:
            for at, line in lines:
                log.add(at, line)

    asyncio.run(write())
    return taken.calls


def test_lines_leave_in_order_a_thousand_a_call() -> None:
    """None is lost and none is put twice."""
    calls = _written(FakeLogs(0), [(n, str(n)) for n in range(2_500)])
    assert [len(call) for call in calls] == [1_000, 1_000, 500]
    assert [line for call in calls for line in call] == [str(n) for n in range(2_500)]


def test_a_call_stays_below_a_mebibyte() -> None:
    """What PutLogEvents takes at most."""
    assert [len(call) for call in _written(FakeLogs(0), [(n, "x" * 400_000) for n in range(3)])] == [2, 1]


def test_a_failing_call_is_made_again() -> None:
    """The lines arrive once."""
    assert _written(FakeLogs(3), [(1, "a"), (2, "b")]) == [["a", "b"]]


def test_lines_for_firehose_leave_as_a_record_that_is_what_an_object_holds() -> None:
    """Gzipped, each with its line end, and again after a failure."""
    taken = FakeLogs(1)
    assert _put(DeliveryStream(taken, "s"), taken, [(1, "a"), (2, "b")]) == [["a\nb\n"]]


def test_lines_that_cannot_be_put_are_told_on_closing() -> None:
    """The error says how many and why."""
    with pytest.raises(AccessLogFailed, match=r"2 lines could not be put in g: .*127\.0\.0\.1:1"):
        _written(FakeLogs(1_000), [(1, "a"), (2, "b")])
