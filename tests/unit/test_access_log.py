"""The access log: the format a stage writes, and how its lines are read."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.model.access_log import Reader, Rejected, amount
from metering.model.log_format import AccessLog, AccessRecord, Api, Declared

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
        ({"key": ""}, "key must be 1 to 128 printable characters, no space around them, not '-', got ''"),
        ({"key": " a"}, "key must be 1 to 128 printable characters, no space around them, not '-', got ' a'"),
        (
            {"key": "a\n"},
            "key must be 1 to 128 printable characters, no space around them, not '-', got 'a\\n'",
        ),
        (
            {"key": "k" * 129},
            "key must be 1 to 128 printable characters, no space around them, not '-', got 'kkkkk",
        ),
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


@pytest.mark.parametrize("name", ["cognito:username", "custom:tenant", "client_id"])
def test_a_user_pools_claims_may_name_the_caller(name: str) -> None:
    """Amazon Cognito's own claims and custom attributes have a colon in their names (its Developer Guide)."""
    log = AccessLog(Api.HTTP, f"authorizer.claims.{name}")
    assert json.loads(log.format())["key"] == f"$context.authorizer.claims.{name}"


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
        (Api.REST, "authorizer.custom:tenant", "caller must be"),
    ],
)
def test_a_caller_that_can_be_forged_or_is_secret_is_refused(api: Api, caller: str | None, why: str) -> None:
    """I7, I8: whom a request is billed to is never the secret value, nor anything a caller writes."""
    with pytest.raises(ValueError, match=why):
        AccessLog(api, caller)


# --- variables that metrics name --------------------------------------------------------------------------------------

DECLARED = Declared(
    ("authorizer.messages", "authorizer.user", "responseOverride.header.x-seconds"),
    {"authorizer.messages": 0, "responseOverride.header.x-seconds": 2},
    frozenset({"authorizer.user"}),
)
VALUES = {"authorizer.messages": "100", "authorizer.user": "u-1", "responseOverride.header.x-seconds": "1.25"}


def written(changes: Mapping[str, str] | None = None, declared: Declared = DECLARED) -> str:
    """Return a line as API Gateway writes it by the format, without a space."""
    line = json.loads(AccessLog().format(declared))
    values = {"data_processed": "-"} | GOOD | VALUES | {"metering": line["metering"]} | dict(changes or {})
    return json.dumps({name: values[name] for name in line}, separators=(",", ":"))


def values_of(record: AccessRecord | Rejected | None) -> dict[str, str]:
    """Return what a record holds of the declared variables."""
    assert isinstance(record, AccessRecord)
    return {variable: getattr(record, DECLARED.attribute(variable)) for variable in DECLARED.variables}


def test_the_format_names_each_declared_variable_once() -> None:
    """Writer and reader come from the same declaration; the count of fields says so."""
    line = json.loads(AccessLog().format(DECLARED))
    assert line["metering"] == "1:14"
    assert {name: line[name] for name in DECLARED.variables} == {
        "authorizer.messages": "$context.authorizer.messages",
        "authorizer.user": "$context.authorizer.user",
        "responseOverride.header.x-seconds": "$context.responseOverride.header.x-seconds",
    }
    assert len(line) == 14


def test_a_line_with_variables_is_read_singly_and_at_once() -> None:
    """Both give the same record."""
    reader = Reader(NOW, DECLARED)
    assert values_of(reader.read(written())) == VALUES
    assert [values_of(record) for record in reader.read_at_once(written().encode()) or []] == [VALUES]


def test_a_line_of_an_older_format_has_what_it_has() -> None:
    """A deployment that adds a metric still gets lines which were written before it."""
    older = written(declared=Declared(("authorizer.user",)))
    assert json.loads(older)["metering"] == "1:12"
    assert values_of(Reader(NOW, DECLARED).read(older)) == {
        "authorizer.messages": "-",
        "authorizer.user": "u-1",
        "responseOverride.header.x-seconds": "-",
    }
    assert Reader(NOW, DECLARED).read_at_once(older.encode()) is None


def test_a_line_of_a_newer_format_is_read_without_what_is_new() -> None:
    """A deployment that takes a metric out still gets lines which were written before it."""
    newer = written()
    assert isinstance(Reader(NOW).read(newer), AccessRecord)
    assert Reader(NOW).read_at_once(newer.encode()) is None


@pytest.mark.parametrize("forged", ['1","key":"victim', '1","authorizer.user":"u-2'])
@pytest.mark.parametrize("declared", [Declared(), Declared(("authorizer.user",)), DECLARED])
def test_a_field_forged_inside_a_variable_is_rejected_by_older_and_newer_code(forged: str, declared: Declared) -> None:
    """I7: a line says how many fields it was written with before any value."""
    forgery = written().replace("100", forged)
    assert "so that a value holds some" in reason(Reader(NOW, declared).read(forgery))
    assert Reader(NOW, declared).read_at_once(forgery.encode()) is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"authorizer.messages": "many"}, "authorizer.messages must be a whole number from 0 to 10^12, got 'many'"),
        ({"authorizer.messages": "-5"}, "authorizer.messages must be a whole number from 0 to 10^12, got '-5'"),
        ({"authorizer.messages": "1.5"}, "authorizer.messages must be a whole number from 0 to 10^12, got '1.5'"),
        ({"authorizer.messages": "1000000000001"}, "must be a whole number from 0 to 10^12, got '1000000000001'"),
        ({"authorizer.messages": "9" * 5000}, "must be a whole number from 0 to 10^12, got '9999"),
        ({"authorizer.messages": "\u0663"}, "authorizer.messages must be a whole number from 0 to 10^12, got '\u0663'"),
        ({"authorizer.messages": "1e3"}, "authorizer.messages must be a whole number from 0 to 10^12, got '1e3'"),
        (
            {"responseOverride.header.x-seconds": "1.255"},
            "responseOverride.header.x-seconds must be a number with at most 2 decimals from 0 to 10^10, got '1.255'",
        ),
        ({"responseOverride.header.x-seconds": "1."}, "must be a number with at most 2 decimals"),
        ({"responseOverride.header.x-seconds": "10000000000.01"}, "from 0 to 10^10, got '10000000000.01'"),
        ({"authorizer.user": "u" * 257}, "authorizer.user must have at most 256 characters, got 257"),
    ],
)
def test_a_variable_that_cannot_be_counted_sets_its_line_aside(changes: dict[str, str], why: str) -> None:
    """I1: with what was got and wanted; nothing is rounded, nothing lowers a bill."""
    line = written(changes)
    assert why in reason(Reader(NOW, DECLARED).read(line))
    assert Reader(NOW, DECLARED).read_at_once(line.encode()) is None


@pytest.mark.parametrize(
    ("text", "scale", "wanted"),
    [("-", 0, 0), ("", 2, 0), ("0", 0, 0), ("100", 0, 100), ("100", 2, 10_000), ("1.5", 2, 150), ("1.25", 2, 125),
     ("1000000000000", 0, 10**12), ("10000000000", 2, 10**12), ("0.000000001", 9, 1), ("007", 0, 7)],
)  # fmt: skip
def test_an_amount_is_the_whole_multiple_of_its_scale(text: str, scale: int, wanted: int) -> None:
    """Integers in the smallest unit, never floats; what is missing is nothing."""
    assert amount(text, scale) == wanted


GOOD_LINES = st.fixed_dictionaries(
    {
        "time": st.integers(NOW_MS - 60 * 86_400_000, NOW_MS + 300_000).map(str),
        "key": st.sampled_from(["-", "k1", "auth0|5f", "a b@#"]),
        "status": st.sampled_from(["200", "404"]),
        "method": st.sampled_from(["GET", "POST", "PROPFIND"]),
        "authorizer.messages": st.sampled_from(["-", "", "0", "100"]),
        "authorizer.user": st.text("abc\\/\n\t\u00e9\U0001f600", max_size=5),
        "response_length": st.sampled_from(["-", "0", "1000000000000"]),
    }
)
BAD_LINES = st.sampled_from(
    [
        {"time": str(NOW_MS + 300_001)},
        {"time": str(NOW_MS - 60 * 86_400_000 - 1)},
        {"key": "a b "},
        {"request_id": "-"},
        {"request_id": ""},
        {"status": "x"},
        {"metering": "1:13"},
        {"metering": "2:14"},
        {"authorizer.messages": "-1"},
        {"authorizer.user": "u" * 257},
        {"resource": 'a","x":"b'},
    ]
)


def same(record: AccessRecord | Rejected) -> dict[str, Any]:
    """Return a record's fields, since the two ways of reading make two classes."""
    assert isinstance(record, AccessRecord)
    return {name: getattr(record, name) for name in (*AccessRecord.__struct_fields__, "x0", "x1", "x2")}


@settings(deadline=None)  # the first example compiles
@given(st.lists(GOOD_LINES, min_size=1, max_size=8))
def test_lines_read_at_once_are_what_they_are_one_by_one(changes: list[dict[str, str]]) -> None:
    """I1: the fast way is only faster, and leaves to the slow one what it does not know."""
    lines = [written(change) for change in changes]
    reader = Reader(NOW, DECLARED)
    at_once = reader.read_at_once("\n".join(lines).encode())
    if at_once is not None:
        assert [same(record) for record in at_once] == [same(reader.read(line)) for line in lines]
    else:
        assert any(change["method"] == "PROPFIND" for change in changes)


@settings(deadline=None)  # the first example compiles
@given(st.lists(GOOD_LINES, max_size=4), BAD_LINES, st.lists(GOOD_LINES, max_size=4))
def test_one_bad_line_keeps_its_piece_from_being_read_at_once(
    before: list[dict[str, str]], bad: dict[str, str], after: list[dict[str, str]]
) -> None:
    """I1, I7: what the slow way would set aside, the fast one does not let pass among good lines."""
    line = written(bad)
    if "resource" in bad:
        line = written().replace("/items/{id}", bad["resource"])
    reader = Reader(NOW, DECLARED)
    assert isinstance(reader.read(line), Rejected)
    lines = [*(written(change) for change in before), line, *(written(change) for change in after)]
    assert reader.read_at_once("\n".join(lines).encode()) is None
