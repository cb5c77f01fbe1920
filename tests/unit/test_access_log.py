"""The access log: the format a stage writes, and how its lines are read."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.operate.recount.raw_lines import UnreadableError, read_access_line
from metering.model.access_log import Partly, Reader, Rejected, amount
from metering.model.log_format import AccessLog, AccessRecord, Api
from metering.model.measuring import measure
from metering.model.metrics import Count, Max, Metric, Sum, Unique, declared
from metering.model.our_lines import Ours
from tests.doubles.access_log import NONCE, line_of

NOW = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
NOW_MS = 1795325400000
GOOD = {
    "request_id": "Fzk1aHqZIAMF3xw=",
    "time": str(NOW_MS),
    "key": "a1b2c3d4e5",
    "status": "200",
    "method": "GET",
    "resource": "/items/{id}",
    "response_length": "5120",
    "response_latency": "31",
}
REQUESTS = (Count(name="requests"),)


def reader(*metrics: Metric) -> Reader:
    """Return a reader for these metrics."""
    return Reader(NOW, metrics or REQUESTS, (Ours((NONCE,)),))


def read(**changes: Any) -> AccessRecord | Partly[AccessRecord] | Rejected | None:
    """Read a good line with some fields changed; None takes a field out."""
    return reader().read(line_of(GOOD | changes))


def reason(found: AccessRecord | Partly[AccessRecord] | Rejected | None) -> str:
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


BAD: list[tuple[dict[str, Any], str]] = [
    ({"time": "12ab"}, "time must be milliseconds or seconds since 1970, got '12ab'"),
    ({"time": "-"}, "time must be milliseconds or seconds since 1970, got '-'"),
    ({"time": str(NOW_MS + 5 * 60_000 + 1)}, "over 5 minutes ahead of 2026-11-22T05:30:00Z, got 1795325700001"),
    ({"time": str(NOW_MS - 60 * 86_400_000 - 1)}, "over 60 days before 2026-11-22T05:30:00Z, got 1790141399999"),
    ({"time": "9" * 15}, "over 5 minutes ahead"),
    ({"time": "9" * 40}, "time must be milliseconds or seconds since 1970, got '9999"),
    ({"status": "-"}, "status must be a whole number up to 10^12, got '-'"),
    ({"status": "-1"}, "status must be a whole number up to 10^12, got '-1'"),
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
    ({"key": {"a": "b"}}, "key must be a string, got {'a': 'b'}"),
    ({"key": {"a": 1}}, "key must be a string, got {'a': 1}"),
    ({"stage": ["a"]}, "stage must be a string, got ['a']"),
    ({"metering": "2"}, "the version of 'metering' must be 1 and its nonce must follow, got '2'"),
    ({"metering": "1:14"}, "the version of 'metering' must be 1 and its nonce must follow, got '1:14'"),
    ({"metering": f"1:14:{NONCE[::-1]}"}, "not of this deployment: 'metering' holds another nonce than its own"),
    ({"metering": f"1:13:{NONCE}"}, "the line says that it has 13 fields, got 14"),
    ({"end": "-"}, "the line does not end with the nonce"),
    ({"end": None}, "the line does not end with the nonce"),
    ({"path": "/"}, "it has no field 'path'"),
]


@pytest.mark.parametrize(("changes", "why"), BAD)
def test_a_bad_line_is_rejected_with_its_reason(changes: dict[str, Any], why: str) -> None:
    """I1: the reason says what was got and what was wanted."""
    assert why in reason(read(**changes))


@pytest.mark.parametrize("changes", [changes for changes, why in BAD if not why.startswith("over ")])
def test_a_recount_takes_no_bad_line_for_a_good_one(changes: dict[str, Any]) -> None:
    """I5: it reads by code of its own; but when a line arrived it is not told, and so it believes any time."""
    with pytest.raises(UnreadableError):
        read_access_line(line_of(GOOD | changes), REQUESTS, (NONCE,))


@pytest.mark.parametrize(
    "line", ["", "{", "GET / 200", '{"metering":"1"', '{"metering":"1","x":' + "[" * 100_000, "\ud800"]
)
def test_what_is_not_json_is_rejected(line: str) -> None:
    """I1: also half a line, nesting without end and half a surrogate pair."""
    assert reason(reader().read(line)) == "not JSON"


@pytest.mark.parametrize("line", ["[]", "1", '"metering"', "null", "{}", '{"level":"info"}'])
def test_json_of_another_kind_is_not_our_format(line: str) -> None:
    """I1: somebody else's line in the log group is set aside, not counted."""
    assert reason(reader().read(line)).startswith("not our format")


def test_a_rejected_line_is_kept_whole_and_its_reason_is_short() -> None:
    """I1: a megabyte of nonsense does not become a megabyte of reason."""
    found = read(status="x" * 1_000_000)
    assert isinstance(found, Rejected)
    assert len(found.line) > 1_000_000
    assert len(found.reason) < 200


def test_the_reason_is_short_whatever_a_field_is_called() -> None:
    """I1: also where its name is what is wrong."""
    line = line_of(GOOD | {"x" * 5_000: "1"})
    assert len(reason(reader().read(line))) < 200
    assert len(reason(reader().read(line.replace(':"1"', ":null")))) < 200


def test_a_byte_order_mark_is_no_part_of_a_line() -> None:
    """What joined or copied an object may have put one in front."""
    assert isinstance(reader().read("\ufeff" + line_of(GOOD)), AccessRecord)


@pytest.mark.parametrize("time", ["1795325400", "1795325400000"])
def test_seconds_are_as_good_as_milliseconds(time: str) -> None:
    """I3: HTTP APIs write seconds, REST and WebSocket APIs milliseconds; the hour is the same."""
    found = read(time=time)
    assert isinstance(found, AccessRecord)
    (at_once,) = reader().read_at_once(line_of(GOOD | {"time": time}).encode()) or []
    usage = measure([found, at_once], REQUESTS)
    assert {str(hour): amounts.sums for (hour, _), amounts in usage.cells.items()} == {"2026-11-22T05": {"requests": 2}}


def test_a_nonce_of_before_is_as_good_where_it_is_accepted() -> None:
    """A stack made again reads what stages still write by the former one."""
    former = "0f0e0d0c-0000-11f0-8000-0a58a9feac02"
    line = line_of(GOOD).replace(NONCE, former)
    assert "another nonce" in reason(reader().read(line))
    both = Reader(NOW, REQUESTS, (Ours((NONCE, former)),))
    assert isinstance(both.read(line), AccessRecord)
    assert len(both.read_at_once(f"{line}\n{line_of(GOOD)}".encode()) or []) == 2


@given(
    st.text(max_size=300)
    | st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(st.text(), inner)).map(json.dumps)
)
def test_any_line_is_read_or_rejected(line: str) -> None:
    """I1: no line raises."""
    assert isinstance(reader().read(line), Rejected)


@given(st.sampled_from(sorted(GOOD)), st.text(max_size=50) | st.integers() | st.none() | st.booleans())
def test_any_value_in_any_field_is_read_or_rejected(field: str, value: object) -> None:
    """I1: whatever stands in a field, the line is counted or set aside with a reason."""
    line = json.loads(line_of(GOOD)) | {field: value}
    found = reader().read(json.dumps(line, separators=(",", ":")))
    assert isinstance(found, AccessRecord) or (isinstance(found, Rejected) and found.reason)


def test_the_format_quotes_every_value_and_names_only_what_a_caller_cannot_write() -> None:
    """I7, I8: no raw path, query or user agent, no request id that a client chooses, never the key's value."""
    variables = json.loads(AccessLog().format(NONCE))
    assert variables == {
        "metering": f"1:14:{NONCE}",
        "request_id": "$context.extendedRequestId",
        "time": "$context.requestTimeEpoch",
        "key": "$context.identity.apiKeyId",
        "status": "$context.status",
        "method": "$context.httpMethod",
        "resource": "$context.resourcePath",
        "api_id": "$context.apiId",
        "stage": "$context.stage",
        "response_length": "$context.responseLength",
        "response_latency": "$context.responseLatency",
        "integration_latency": "$context.integration.latency",
        "data_processed": "-",
        "end": NONCE,
    }
    assert next(iter(variables)) == "metering"
    assert next(reversed(variables)) == "end"


@pytest.mark.parametrize(
    ("number", "variable"),
    [(28, "authorizer.claims.custom_units_of_feature_{}"), (40, "authorizer.units_of_feature_number_{}")],
)
def test_a_format_that_api_gateway_would_refuse_is_refused(number: int, variable: str) -> None:
    """Its size is limited to 3 KB, which the deployment of the API's stack would find out."""
    metrics = [Sum(name=f"units_{n}", of=variable.format(n)) for n in range(number)]
    with pytest.raises(ValueError, match=rf"at most 3072 bytes, got \d+: .* than these {number}$"):
        AccessLog(Api.HTTP, "authorizer.claims.sub").format(NONCE, declared(metrics))
    assert AccessLog().format(NONCE, declared(metrics[:10]))


def test_the_nonce_counts_by_the_length_that_it_will_have() -> None:
    """A token of the CDK is shorter or longer than the GUID that it becomes."""
    metrics = [Sum(name=f"units_{n}", of=f"authorizer.units_{n:057d}") for n in range(15)]
    size = len(AccessLog().format(NONCE, declared(metrics)))
    assert 3072 - 145 < size <= 3072
    assert len(AccessLog().format("${Token[" + "x" * 2000 + "]}", declared(metrics))) > 3072


def test_an_http_api_names_its_caller_by_an_authorizer() -> None:
    """HTTP APIs have no API keys; the route key is their resource."""
    variables = json.loads(AccessLog(Api.HTTP, "authorizer.claims.sub").format(NONCE))
    assert variables["key"] == "$context.authorizer.claims.sub"
    assert variables["resource"] == "$context.routeKey"
    assert variables["data_processed"] == "$context.dataProcessed"
    assert variables["request_id"] == "$context.requestId"


def test_a_websocket_api_tells_of_events_and_routes() -> None:
    """Its events are the methods, its routes the resources; what it cannot log is missing."""
    variables = json.loads(AccessLog(Api.WEBSOCKET, "authorizer.user").format(NONCE))
    assert (variables["method"], variables["resource"]) == ("$context.eventType", "$context.routeKey")
    assert (variables["key"], variables["request_id"]) == ("$context.authorizer.user", "$context.requestId")
    assert variables["response_length"] == variables["response_latency"] == "-"


@pytest.mark.parametrize("name", ["cognito:username", "custom:tenant", "client_id"])
def test_a_user_pools_claims_may_name_the_caller(name: str) -> None:
    """Amazon Cognito's own claims and custom attributes have a colon in their names (its Developer Guide)."""
    log = AccessLog(Api.HTTP, f"authorizer.claims.{name}")
    assert json.loads(log.format(NONCE))["key"] == f"$context.authorizer.claims.{name}"


def test_the_reader_reads_what_the_format_writes() -> None:
    """Writer and reader come from one definition and know the same fields."""
    for log in (AccessLog(), AccessLog(Api.HTTP, "authorizer.tenant")):
        assert set(json.loads(log.format(NONCE))) <= set(AccessRecord.__struct_fields__)


@pytest.mark.parametrize(
    ("api", "caller", "why"),
    [
        (Api.HTTP, None, "say who is billed"),
        (Api.HTTP, "identity.apiKeyId", "an HTTP API cannot log 'identity.apiKeyId'"),
        (Api.WEBSOCKET, None, "a WebSocket API has no API keys: say who is billed"),
        (Api.WEBSOCKET, "identity.apiKeyId", "a WebSocket API cannot log 'identity.apiKeyId'"),
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

METRICS = (
    Count(name="requests"),
    Sum(name="messages", of="authorizer.messages"),
    Sum(name="seconds", of="responseOverride.header.x-seconds", scale=2),
    Max(name="slowest", of="responseOverride.header.x-seconds", scale=2),
    Unique(name="users", of="authorizer.user", opaque_id=True),
)
DECLARED = declared(METRICS)
VALUES = {"authorizer.messages": "100", "authorizer.user": "u-1", "responseOverride.header.x-seconds": "1.25"}


def written(changes: Mapping[str, str | None] | None = None, metrics: Sequence[Metric] = METRICS) -> str:
    """Return a line as API Gateway writes it by the format, without a space."""
    log = declared(metrics)
    values = {name: value for name, value in VALUES.items() if name in log.variables}
    return line_of(GOOD | values | dict(changes or {}), log)


def values_of(record: AccessRecord | Partly[AccessRecord] | Rejected | None) -> dict[str, str]:
    """Return what a record holds of the declared variables."""
    assert isinstance(record, AccessRecord)
    return {variable: getattr(record, DECLARED.attribute(variable)) for variable in DECLARED.variables}


def test_the_format_names_each_declared_variable_once() -> None:
    """Writer and reader come from the same declaration; the count of fields says so."""
    line = json.loads(AccessLog().format(NONCE, DECLARED))
    assert line["metering"] == f"1:17:{NONCE}"
    assert {name: line[name] for name in DECLARED.variables} == {
        "authorizer.messages": "$context.authorizer.messages",
        "authorizer.user": "$context.authorizer.user",
        "responseOverride.header.x-seconds": "$context.responseOverride.header.x-seconds",
    }
    assert len(line) == 17


def test_a_line_with_variables_is_read_singly_and_at_once() -> None:
    """Both give the same record."""
    assert values_of(reader(*METRICS).read(written())) == VALUES
    at_once = reader(*METRICS).read_at_once(written().encode())
    assert [values_of(record) for record in at_once or []] == [VALUES]


def test_a_line_of_an_older_format_has_what_it_has() -> None:
    """A deployment that adds a metric still gets lines which were written before it."""
    older = written(metrics=METRICS[4:])
    assert json.loads(older)["metering"] == f"1:15:{NONCE}"
    assert values_of(reader(*METRICS).read(older)) == {
        "authorizer.messages": "-",
        "authorizer.user": "u-1",
        "responseOverride.header.x-seconds": "-",
    }
    assert reader(*METRICS).read_at_once(older.encode()) is None


def test_a_line_of_a_newer_format_is_read_without_what_is_new() -> None:
    """A deployment that takes a metric out still gets lines which were written before it."""
    assert isinstance(reader().read(written()), AccessRecord)
    assert reader().read_at_once(written().encode()) is None


@pytest.mark.parametrize(
    "forged",
    [
        '1","key":"victim',  # a field once more
        '1","authorizer.user":"u-2',  # a variable once more
        '1","authorizer.more":"1',  # a variable that the format does not have
        '1"}\n{"metering":"1:17","key":"victim","x":"',  # a line of its own
        f'1"}}\n{{"metering":"1:17:{NONCE[::-1]}","key":"victim","x":"',
        '0","authorizer.user":"-","responseOverride.header.x-seconds":"0"}\n{"x":"',  # its own line, cut short
        '0","authorizer.user":"-","responseOverride.header.x-seconds":"0","end":"guessed"}\n{"x":"',
        '1"},{"metering":"1:17","key":"victim","x":"',
        '1","metering":"1:18',
        "1\\",
    ],
)
@pytest.mark.parametrize("metrics", [REQUESTS, METRICS[4:], METRICS])
def test_nothing_forged_inside_a_variable_makes_a_line(forged: str, metrics: tuple[Metric, ...]) -> None:
    """I7: whatever text stands there unescaped, by older and newer code, whole or cut at its line ends."""
    forgery = written().replace('"100"', f'"{forged}"')
    assert reader(*metrics).read_at_once(forgery.encode()) is None
    for line in (forgery, *forgery.split("\n")):
        assert isinstance(reader(*metrics).read(line), Rejected)


@pytest.mark.parametrize("value", ['19" rack', '{"id":"u1"}', "C:\\temp", "line\nend", '","key":"victim'])
def test_an_escaped_value_is_what_it_is(value: str) -> None:
    """A line that is known to be ours may hold any text, as JSON spells it."""
    found = reader(*METRICS).read(written({"authorizer.user": value}))
    assert values_of(found)["authorizer.user"] == value


@pytest.mark.parametrize(
    ("changes", "metrics", "why"),
    [
        (
            {"authorizer.messages": "many"},
            ("messages",),
            "authorizer.messages must be a whole number from 0 to 10^12, got 'many'",
        ),
        ({"authorizer.messages": "-5"}, ("messages",), "a whole number from 0 to 10^12, got '-5'"),
        ({"authorizer.messages": "1.5"}, ("messages",), "a whole number from 0 to 10^12, got '1.5'"),
        ({"authorizer.messages": "1000000000001"}, ("messages",), "from 0 to 10^12, got '1000000000001'"),
        ({"authorizer.messages": "1e13"}, ("messages",), "from 0 to 10^12, got '1e13'"),
        ({"authorizer.messages": "1e999"}, ("messages",), "from 0 to 10^12, got '1e999'"),
        ({"authorizer.messages": "1e-999"}, ("messages",), "from 0 to 10^12, got '1e-999'"),
        ({"authorizer.messages": "9" * 5000}, ("messages",), "from 0 to 10^12, got '9999"),
        ({"authorizer.messages": "\u0663"}, ("messages",), "from 0 to 10^12, got '\u0663'"),
        ({"authorizer.messages": "1_000"}, ("messages",), "from 0 to 10^12, got '1_000'"),
        ({"authorizer.messages": "1,000"}, ("messages",), "from 0 to 10^12, got '1,000'"),
        ({"authorizer.messages": "0x10"}, ("messages",), "from 0 to 10^12, got '0x10'"),
        ({"authorizer.messages": "NaN"}, ("messages",), "from 0 to 10^12, got 'NaN'"),
        (
            {"responseOverride.header.x-seconds": "1.255"},
            ("seconds", "slowest"),
            "responseOverride.header.x-seconds must be a number with at most 2 decimals from 0 to 10^10, got '1.255'",
        ),
        ({"responseOverride.header.x-seconds": "10000000000.01"}, ("seconds", "slowest"), "from 0 to 10^10"),
        ({"authorizer.user": "u" * 257}, ("users",), "authorizer.user must have at most 256 characters, got 257"),
        ({"authorizer.user": "u" * 257, "authorizer.messages": "x"}, ("messages", "users"), "; authorizer.user must"),
    ],
)
def test_a_value_that_cannot_be_counted_costs_its_own_metrics_alone(
    changes: dict[str, str], metrics: tuple[str, ...], why: str
) -> None:
    """I1: the request is counted by the others; nothing is rounded, nothing lowers a bill."""
    line = written(changes)
    found = reader(*METRICS).read(line)
    assert isinstance(found, Partly)
    assert found.bad.metrics == metrics
    assert why in found.bad.reason
    assert values_of(found.good) == VALUES | dict.fromkeys(changes, "-")
    assert reader(*METRICS).read_at_once(line.encode()) is None


@pytest.mark.parametrize("metric", [Sum(name="bytes", of="response_length"), Max(name="most", of="response_length")])
def test_a_measured_field_that_is_no_number_costs_its_own_metrics_alone(metric: Metric) -> None:
    """I1: a field that nothing sums costs nothing."""
    line = line_of(GOOD | {"response_length": "1.5"})
    assert isinstance(reader().read(line), AccessRecord)
    found = reader(*REQUESTS, metric).read(line)
    assert isinstance(found, Partly)
    assert found.bad.reason == "response_length must be a whole number from 0 to 10^12, got '1.5'"
    assert found.good.response_length == "-"


def test_what_no_metric_can_read_is_set_aside_whole() -> None:
    """I1: the one metric that bills the request is the one that cannot."""
    changes = {"authorizer.messages": "x"}
    only = Sum(name="messages", of="authorizer.messages")
    assert reader(only).read(written(changes)) == Rejected(
        written(changes), "authorizer.messages must be a whole number from 0 to 10^12, got 'x'", ("messages",)
    )
    others = (Count(name="posts", methods=("POST",)), only)
    assert isinstance(reader(*others).read(written(changes)), Rejected)
    assert isinstance(reader(*others).read(written(changes | {"method": "POST"})), Partly)


@pytest.mark.parametrize("changes", [{"key": "-"}, {"status": "404"}])
def test_a_value_that_nothing_bills_is_no_fault(changes: dict[str, str]) -> None:
    """A request without a key, or one that fails, is nobody's whatever it says."""
    found = reader(*METRICS).read(written({"authorizer.messages": "x"} | changes))
    assert isinstance(found, AccessRecord)


@pytest.mark.parametrize(
    ("text", "scale", "wanted"),
    [("-", 0, 0), ("", 2, 0), ("0", 0, 0), ("100", 0, 100), ("100", 2, 10_000), ("1.5", 2, 150), ("1.25", 2, 125),
     ("1000000000000", 0, 10**12), ("10000000000", 2, 10**12), ("0.000000001", 9, 1), ("007", 0, 7),
     ("3.0", 0, 3), ("12.50", 1, 125), ("1.2e+06", 0, 1_200_000), ("2E3", 0, 2000), ("1e12", 0, 10**12), ("5.", 0, 5),
     (".5", 1, 5), ("+7", 0, 7), ("-0", 0, 0), ("-0.0", 2, 0), ("150e-2", 1, 15), ("0e999", 0, 0), ("1.000", 0, 1)],
)  # fmt: skip
def test_an_amount_is_the_whole_multiple_of_its_scale(text: str, scale: int, wanted: int) -> None:
    """Integers in the smallest unit, never floats; what is missing is nothing."""
    assert amount(text, scale) == wanted


GOOD_LINES = st.fixed_dictionaries(
    {
        "time": st.integers(NOW_MS - 60 * 86_400_000, NOW_MS + 300_000).map(str),
        "key": st.sampled_from(["-", "k1", "auth0|5f", "a b@#", "shop:-", "shop:ann"]),
        "api_id": st.sampled_from(["shop", "orders"]),
        "status": st.sampled_from(["200", "404"]),
        "method": st.sampled_from(["GET", "POST", "CONNECT", "MESSAGE", "-", "PROPFIND"]),
        "authorizer.messages": st.sampled_from(["-", "", "0", "100"]),
        "authorizer.user": st.text('abc"\\/\n\t\u00e9\U0001f600', max_size=5),
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
        {"metering": f"1:16:{NONCE}"},
        {"metering": f"2:17:{NONCE}"},
        {"metering": f"1:17:{NONCE[::-1]}"},
        {"end": NONCE[::-1]},
        {"stage": None, "path": "/"},
        {"authorizer.user": None, "path": "/"},
        {"resource": 'a","x":"b'},
    ]
)


def same(record: AccessRecord | Partly[AccessRecord] | Rejected | None) -> dict[str, Any]:
    """Return a record's fields, since the two ways of reading make two classes."""
    assert isinstance(record, AccessRecord)
    return {name: getattr(record, name) for name in (*AccessRecord.__struct_fields__, "x0", "x1", "x2")}


@settings(deadline=None)  # the first example compiles
@given(st.lists(GOOD_LINES, min_size=1, max_size=8))
def test_lines_read_at_once_are_what_they_are_one_by_one(changes: list[dict[str, str]]) -> None:
    """I1: the fast way is only faster, and leaves to the slow one what it does not know."""
    lines = [written(change) for change in changes]
    read = reader(*METRICS).read
    at_once = reader(*METRICS).read_at_once("\n".join(lines).encode())
    if at_once is not None:
        assert [same(record) for record in at_once] == [same(read(line)) for line in lines]
    else:
        # What is left to the slow way: a method without a name of its own, and text that JSON spells with a quote.
        assert any(change["method"] == "PROPFIND" or '"' in change["authorizer.user"] for change in changes)


@pytest.mark.parametrize("name", ["time", "status", "response_length", "response_latency"])
@pytest.mark.parametrize(
    "spelling",
    [
        "{}.0",
        "{}e0",
        f"{{}}.{'0' * 100}",
        f"{{}}.{'0' * 400}",
        "{}.0000000000000000000000000000001",
        "{}00000000000000000000e-20",
        "0{}",
        "+{}",
        " {}",
        "{}_0",
    ],
)
def test_a_number_is_read_at_once_only_if_it_is_spelled_in_digits(name: str, spelling: str) -> None:
    """I1: a double would round it; what any other spelling of any length is worth, the slow way says."""
    number = str(NOW_MS) if name == "time" else "200"
    assert reader(*METRICS).read_at_once(written({name: number}).encode())
    assert reader(*METRICS).read_at_once(written({name: spelling.format(number)}).encode()) is None


@settings(deadline=None)  # the first example compiles
@given(st.lists(GOOD_LINES, max_size=4), BAD_LINES, st.lists(GOOD_LINES, max_size=4))
def test_one_bad_line_keeps_its_piece_from_being_read_at_once(
    before: list[dict[str, str]], bad: dict[str, str], after: list[dict[str, str]]
) -> None:
    """I1, I7: what the slow way would set aside, the fast one does not let pass among good lines."""
    line = written(bad)
    if "resource" in bad:
        line = written().replace("/items/{id}", bad["resource"])
    assert isinstance(reader(*METRICS).read(line), Rejected)
    lines = [*(written(change) for change in before), line, *(written(change) for change in after)]
    assert reader(*METRICS).read_at_once("\n".join(lines).encode()) is None
