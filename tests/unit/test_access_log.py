"""The access log: the format a stage writes, and how its lines are read."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.access_log import AccessLog, AccessRecord, Api, Reader, Rejected

NOW = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
NOW_MS = 1795325400000
GOOD = {
    "metering": "1",
    "request_id": "Fzk1aHqZIAMF3xw=",
    "time": str(NOW_MS),
    "key": "a1b2c3d4e5",
    "status": "200",
    "method": "GET",
    "resource": "/items/{id}",
    "response_length": "5120",
    "response_latency": "31",
    "integration_latency": "-",
}


def read(**changes: Any) -> AccessRecord | Rejected:
    """Read a good line with some fields changed; None takes a field out."""
    line = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return Reader(NOW).read(json.dumps(line))


def reason(found: AccessRecord | Rejected) -> str:
    """Return why a line was rejected."""
    assert isinstance(found, Rejected)
    return found.reason


def test_a_good_line_gives_a_typed_record() -> None:
    """Numbers arrive as strings and are read as numbers; what a request does not have stays '-'."""
    record = read()
    assert isinstance(record, AccessRecord)
    assert (record.time, record.status, record.response_length) == (NOW_MS, 200, 5120)
    assert (record.key, record.resource, record.integration_latency) == ("a1b2c3d4e5", "/items/{id}", "-")


def test_a_request_without_a_key_is_a_good_line() -> None:
    """Nobody is billed for it, but nothing is wrong with it."""
    record = read(key="-")
    assert isinstance(record, AccessRecord)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"time": "12ab"}, "time must be milliseconds since 1970, got '12ab'"),
        ({"time": str(NOW_MS + 5 * 60_000 + 1)}, "over 5 minutes ahead of 2026-11-22T05:30:00Z, got 1795325700001"),
        ({"time": str(NOW_MS - 60 * 86_400_000 - 1)}, "over 60 days before 2026-11-22T05:30:00Z, got 1790141399999"),
        ({"time": "9" * 40}, "over 5 minutes ahead"),
        ({"status": "-"}, "status must be a whole number from 0 to 10^12, got '-'"),
        ({"status": "-1"}, "status must be a whole number from 0 to 10^12, got '-1'"),
        ({"response_length": "1000000000001"}, "response_length must be a whole number from 0 to 10^12"),
        ({"response_length": "1.5"}, "response_length must be a whole number from 0 to 10^12, got '1.5'"),
        ({"response_length": "-5"}, "response_length must be a whole number from 0 to 10^12, got '-5'"),
        ({"request_id": None}, "the field 'request_id' is missing"),
        ({"request_id": "-"}, "request_id must name the request, got '-'"),
        ({"key": None}, "the field 'key' is missing"),
        ({"key": 7}, "key must be a string, got 7"),
        ({"key": "a#b"}, "key must be 1 to 64 letters, digits, '_' or '-', got 'a#b'"),
        ({"key": "a\n"}, "key must be 1 to 64 letters, digits, '_' or '-', got 'a\\n'"),
        ({"key": "k" * 65}, "key must be 1 to 64 letters, digits, '_' or '-', got 'kkkkk"),
        ({"metering": None}, "not our format: the line is no JSON object with the field 'metering'"),
        ({"metering": "2"}, "not our format: the version of 'metering' must be 1, got '2'"),
    ],
)
def test_a_bad_line_is_rejected_with_its_reason(changes: dict[str, Any], why: str) -> None:
    """I1: the reason says what was got and what was wanted."""
    assert why in reason(read(**changes))


@pytest.mark.parametrize(
    "line", ["", "{", "GET / 200", '{"metering":"1"', '{"metering":"1","x":' + "[" * 100_000, "\ud800"]
)
def test_what_is_not_json_is_rejected(line: str) -> None:
    """I1: also half a line, nesting without end and half a surrogate pair."""
    assert reason(Reader(NOW).read(line)) == "not JSON"


@pytest.mark.parametrize("line", ["[]", "1", '"metering"', "null", "{}", '{"level":"info"}'])
def test_json_of_another_kind_is_not_our_format(line: str) -> None:
    """I1: somebody else's line in the log group is set aside, not counted."""
    assert reason(Reader(NOW).read(line)).startswith("not our format")


def test_a_rejected_line_is_kept_whole_and_its_reason_is_short() -> None:
    """I1: a megabyte of nonsense does not become a megabyte of reason."""
    found = read(status="x" * 1_000_000)
    assert isinstance(found, Rejected)
    assert len(found.line) > 1_000_000
    assert len(found.reason) < 200


@given(
    st.text(max_size=300)
    | st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(st.text(), inner)).map(json.dumps)
)
def test_any_line_is_read_or_rejected(line: str) -> None:
    """I1: no line raises."""
    assert isinstance(Reader(NOW).read(line), AccessRecord | Rejected)


@given(st.sampled_from(sorted(GOOD)), st.text(max_size=50) | st.integers() | st.none() | st.booleans())
def test_any_value_in_any_field_is_read_or_rejected(field: str, value: object) -> None:
    """I1: whatever stands in a field, the line is counted or set aside with a reason."""
    found = Reader(NOW).read(json.dumps(GOOD | {field: value}))
    assert isinstance(found, AccessRecord) or found.reason


def test_the_format_quotes_every_value_and_names_only_what_a_caller_cannot_write() -> None:
    """I7, I8: no raw path, query or user agent, no request id that a client chooses, never the key's value."""
    variables = json.loads(AccessLog().format())
    assert variables == {
        "metering": "1:11",
        "request_id": "$context.extendedRequestId",
        "time": "$context.requestTimeEpoch",
        "key": "$context.identity.apiKeyId",
        "status": "$context.status",
        "method": "$context.httpMethod",
        "resource": "$context.resourcePath",
        "response_length": "$context.responseLength",
        "response_latency": "$context.responseLatency",
        "integration_latency": "$context.integration.latency",
        "data_processed": "-",
    }


def test_an_http_api_names_its_caller_by_an_authorizer() -> None:
    """HTTP APIs have no API keys; the route key is their resource."""
    variables = json.loads(AccessLog(Api.HTTP, "authorizer.claims.sub").format())
    assert variables["key"] == "$context.authorizer.claims.sub"
    assert variables["resource"] == "$context.routeKey"
    assert variables["data_processed"] == "$context.dataProcessed"


def test_the_reader_reads_what_the_format_writes() -> None:
    """Writer and reader come from one definition and know the same fields."""
    for log in (AccessLog(), AccessLog(Api.HTTP, "authorizer.tenant")):
        assert set(json.loads(log.format())) <= set(AccessRecord.__struct_fields__)


@pytest.mark.parametrize("log", [AccessLog(caller="authorizer.tenant"), AccessLog(Api.HTTP, "authorizer.claims.sub")])
@pytest.mark.parametrize("forged", ['mallory","key":"victim', 'mallory","status":"500', 'a","x":"b'])
def test_a_field_forged_inside_an_authorizers_value_is_rejected(log: AccessLog, forged: str) -> None:
    """I7: should a value ever come with quotes, its line is set aside."""
    rendered = re.sub(r"\$context\.[\w.]+", "-", log.format())
    line = json.dumps(json.loads(rendered) | GOOD | {"metering": "1:11"}, separators=(",", ":"))
    assert isinstance(Reader(NOW).read(line), AccessRecord)
    assert Reader(NOW).read_at_once(line.encode())
    forgery = line.replace(GOOD["key"], forged)
    assert "wanted 44 quotes, got 48" in reason(Reader(NOW).read(forgery))
    assert Reader(NOW).read_at_once(forgery.encode()) is None


@pytest.mark.parametrize(
    ("api", "caller", "why"),
    [
        (Api.HTTP, None, "say who is billed"),
        (Api.HTTP, "identity.apiKeyId", "an HTTP API cannot log 'identity.apiKeyId'"),
        (Api.REST, "identity.apiKey", "caller must be 'identity.apiKeyId'"),
        (Api.REST, 'authorizer.x","status":"200', "caller must be"),
        (Api.REST, "identity.userAgent", "caller must be"),
    ],
)
def test_a_caller_that_can_be_forged_or_is_secret_is_refused(api: Api, caller: str | None, why: str) -> None:
    """I7, I8: whom a request is billed to is never the secret value, nor anything a caller writes."""
    with pytest.raises(ValueError, match=why):
        AccessLog(api, caller)
