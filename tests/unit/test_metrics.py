"""Metrics: which are refused, what each bills, and how records add up."""

import re
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.model.log_format import AccessLog, AccessRecord, Api
from metering.model.measuring import Usage, measure
from metering.model.metric_checks import MetricError, check
from metering.model.metrics import (
    USAGE_LINES,
    Count,
    Max,
    Metric,
    RequestKind,
    Sum,
    Unique,
    bills,
    declared,
    decode,
    encode,
    in_full,
    meters,
    needs_hash,
    not_logged_by,
    reads_usage_lines,
    titles_of,
    unit_of,
)
from metering.model.periods import Hour
from tests.doubles.access_log import NONCE

HOUR = Hour.parse("2026-11-22T05")
METRICS: tuple[Metric, ...] = (
    Count(name="requests"),
    Count(name="writes", methods=("POST", "PUT")),
    Sum(name="bytes", of="response_length"),
    Count(name="errors", statuses=("5xx", "429")),
)


def record(  # noqa: PLR0913 - one argument a field
    *,
    key: str = "k1",
    status: int = 200,
    method: str = "GET",
    resource: str = "/items",
    length: int = 10,
    hour: Hour = HOUR,
) -> AccessRecord:
    """Make a record."""
    return AccessRecord(
        metering=f"1:14:{NONCE}",
        request_id="r",
        time=hour.number * 3_600_000 + 1,
        key=key,
        status=status,
        method=method,
        resource=resource,
        api_id="a1b2c3d4e5",
        stage="v1",
        end=NONCE,
        response_length=length,
    )


def test_what_a_websocket_api_cannot_log_is_refused_with_what_can_be_summed() -> None:
    """It logs no length and no latency, so that none is offered."""
    with pytest.raises(
        MetricError, match=r"a WebSocket API cannot log: write 'authorizer\.<property>' or USAGE_LINES, or name in apis"
    ):
        check((Sum(name="a", of="response_length"),), AccessLog(Api.WEBSOCKET, "authorizer.user"))


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ((), "no metric is declared: write for example"),
        ((Count(name="API calls"),), "got 'API calls': write 'api_calls'"),
        ((Count(name=""),), "a metric's name is up to 32"),
        ((Count(name="x" * 33),), "a metric's name is up to 32"),
        ((Count(name="a"), Sum(name="a", of="response_length")), "the metric 'a' is declared twice"),
        ((Sum(name="a", of="responseLength"),), "which is no measured field of the log: write 'response_length'"),
        ((Sum(name="a", of="status"),), "which is no measured field of the log: write"),
        ((Sum(name="a", of="data_processed"),), "which a REST API cannot log: write 'response_length', "),
        ((Count(name="a", statuses=()),), "bills no status at all"),
        ((Count(name="a", statuses=("ok",)),), "a status is written '2xx' or '404', got 'ok'"),
        ((Count(name="a", methods=("post",)),), "got 'post': write 'POST'"),
        (
            (Count(name="a", resources=("items",)),),
            "got 'items'; if that is a route of a connected WebSocket API, name",
        ),
        ((Count(name="a", resources=("items",), methods=("GET",)),), "a resource is written"),
        ((Count(name="a", resources=("send message",), methods=("MESSAGE",)),), "a resource is written"),
        ((Count(name="a", apis=("Orders API",)),), "by its id .*, got 'Orders API': write 'orders-api'"),
        ((Count(name="a", apis=("${Token[TOKEN.7]}",)),), r"by its id \('a1b2c3d4e5'\), got '\$\{Token"),
        ((Count(name="a", apis=("orders", "")),), r"as its connection is named \('orders'\) or .*, got ''"),
        ((Count(name="a", stages=("v 1",)),), r"a stage is written 'v1' or '\$default', got 'v 1'"),
        ((Count(name="a", by="api_id"),), "'a' is split by 'api_id': write one of"),
        ((Unique(name="a", of="authorizer.user"),), "say opaque_id=True if they are opaque ids"),
        ((Unique(name="a", of="resource", opaque_id=True),), "'a' counts the distinct values of 'resource', which"),
        ((Unique(name="a", of="user", opaque_id=True),), "write 'authorizer.<property>'"),
        ((Sum(name="a", of="authorizer.n", scale=10),), "a scale is from 0 to 9 decimals, got 10"),
        ((Sum(name="a", of="authorizer.n", scale=-1),), "a scale is from 0 to 9 decimals, got -1"),
        ((Sum(name="a", of="authorizer.n", scale=7),), "a sum has at most 6 decimals, so that an hour .*, got 7"),
        ((Max(name="a", of="response_length", scale=2),), "'response_length', which is whole: leave scale out"),
        ((Max(name="a", of="authorizer.n\n"),), "which is no measured field of the log: write 'response_length', "),
        (
            (Sum(name="a", of="authorizer.n", scale=1), Max(name="b", of="authorizer.n", scale=2)),
            "'authorizer.n' is read with two scales",
        ),
        (
            (Sum(name="a", of="authorizer.n"), Count(name="b", by="authorizer.n", meters=("gold",))),
            "'b' takes 'authorizer.n' for text, and another metric for a number: give the text and the number a",
        ),
        (
            (Unique(name="a", of="authorizer.n", opaque_id=True), Max(name="b", of="authorizer.n")),
            "'a' takes 'authorizer.n' for text",
        ),
        ((Sum(name="a", of="authorizer.n", by="authorizer.n"),), "'a' takes 'authorizer.n' for text"),
        ((Sum(name="a", of="response_length", deduplicate=True),), "only usage lines have an id to deduplicate by"),
        ((Sum(name="a", of="authorizer.n", deduplicate=True),), "only usage lines have an id to deduplicate by"),
        ((Sum(name="a", of=USAGE_LINES, statuses=("200",)),), "leave its filters and by out"),
        ((Max(name="a", of=USAGE_LINES, methods=("GET",)),), "leave its filters and by out"),
        ((Sum(name="a", of=USAGE_LINES, resources=("/x",)),), "leave its filters and by out"),
        ((Sum(name="a", of=USAGE_LINES, apis=("orders",)),), "leave its filters and by out"),
        ((Sum(name="a", of=USAGE_LINES, stages=("v1",)),), "leave its filters and by out"),
        ((Sum(name="a", of=USAGE_LINES, by="method"),), "leave its filters and by out"),
        ((Unique(name="a", of=USAGE_LINES, opaque_id=True),), "which the log does not hold"),
        ((Count(name="a", by="plan"),), "'a' is split by 'plan', which the log does not hold"),
        ((Count(name="a", by="status"),), r"'a' is split by 'status': write one of \('resource', 'method', 'status_cl"),
        ((Count(name="a", by="key"),), "'a' is split by 'key': write one of"),
        (
            (Count(name="a", by="authorizer.plan", meters=("pro", "-")),),
            "'a': a meter is named by the letters a to z and digits of its value, got '-', which has none",
        ),
        ((Count(name="a", meters=("GET",)),), "names meters for values: say with by="),
        (
            tuple(Count(name=f"a{n}", by="method") for n in range(5)),
            r"at most 4 metrics can be split, got \['a0', 'a1', 'a2', 'a3', 'a4'\]",
        ),
        (
            tuple(Count(name=f"a{n}") for n in range(321)),
            "by one update, which takes at most 320 metrics and meters of values, got 321: declare fewer",
        ),
        (
            (
                Count(name="a", by="method"),
                Count(name="b", by="authorizer.plan", meters=tuple(f"v{n}" for n in range(187))),
            ),
            "by one update, which beside splits takes at most 188 metrics and meters of values, got 189",
        ),
        (
            (Count(name="calls", by="method", meters=("GET",)), Count(name="calls_get")),
            "the metric 'calls_get' is declared twice",
        ),
        ((Count(name="calls", by="method", meters=("GET", "get")),), "the metric 'calls_get' is declared twice"),
        ((Count(name="calls", by="authorizer.p", meters=("o.ther", "o-ther")),), "'calls_o_ther' is declared twice"),
        ((Count(name="x" * 28, by="method", meters=("GET",)),), "over 32 characters: name 'x+' shorter"),
    ],
)
def test_a_metric_that_cannot_be_counted_is_refused(metrics: tuple[Metric, ...], why: str) -> None:
    """The sentence says what to write instead."""
    with pytest.raises(MetricError, match=why):
        check(metrics, AccessLog())


def test_an_http_api_may_sum_what_only_it_can_log() -> None:
    """The check is against the API's own kind."""
    check((Sum(name="a", of="data_processed"),), AccessLog(Api.HTTP, "authorizer.tenant"))


@pytest.mark.parametrize(
    "metric",
    [
        Count(name="a", resources=("$connect", "$disconnect", "$default", "/items/*")),
        Count(name="a", methods=("CONNECT", "DISCONNECT")),
        Count(name="a", methods=("MESSAGE",), resources=("sendMessage", "room/*", "$default")),
        Count(name="a", apis=("chat",), resources=("sendMessage",)),
        Sum(name="a", of="data_processed", apis=("orders",)),
        Sum(name="a", of="response_length", by="authorizer.claims.plan"),
    ],
)
def test_a_metric_may_be_about_a_connected_api_of_another_kind(metric: Metric) -> None:
    """A WebSocket API's routes and events, and what an HTTP API alone can log, in a deployment with a REST API."""
    check((metric,), AccessLog())


def test_a_route_of_a_websocket_api_is_a_resource_of_its_own_deployment() -> None:
    """There any word may be one."""
    check((Count(name="a", resources=("sendMessage",)),), AccessLog(Api.WEBSOCKET, "authorizer.user"))


@pytest.mark.parametrize(
    ("metric", "rest", "http", "websocket"),
    [
        (Count(name="a"), "", "", ""),
        (Count(name="a", by="api"), "", "", ""),
        (Unique(name="a", of="key"), "", "", ""),
        (Max(name="a", of=USAGE_LINES), "", "", ""),
        (Sum(name="a", of="authorizer.units", by="authorizer.plan"), "", "", ""),
        (
            Sum(name="a", of="data_processed"),
            "'a' reads 'data_processed', which a REST API cannot log",
            "",
            "'a' reads",
        ),
        (Max(name="a", of="response_length"), "", "", "'a' reads 'response_length', which a WebSocket API cannot log"),
        (
            Sum(name="a", of="responseOverride.header.n"),
            "",
            "'a' reads 'responseOverride.header.n', which",
            "'a' reads",
        ),
        (Unique(name="a", of="authorizer.claims.sub", opaque_id=True), "", "", "its requests add nothing to it"),
        (Count(name="a", by="authorizer.claims.plan"), "", "", "its requests stand under '-'"),
        (Count(name="a", by="authorizer.claims.plan", meters=("pro",)), "", "", "its requests stand under 'a_other'"),
    ],
)
def test_what_another_kind_of_api_cannot_log_is_said(metric: Metric, rest: str, http: str, websocket: str) -> None:
    """I9: whoever connects such an API reads which metrics its requests bring nothing to."""
    for api, words in ((Api.REST, rest), (Api.HTTP, http), (Api.WEBSOCKET, websocket)):
        said = not_logged_by([metric], api)
        assert len(said) == bool(words)
        assert words in "".join(said)


EVERY_KIND: tuple[Metric, ...] = (
    Count(name="requests", by="status_class"),
    Count(name="calls", by="authorizer.plan", meters=("free", "pro")),
    Sum(name="messages", of="authorizer.messages", by="resource"),
    Sum(name="seconds", of="responseOverride.header.x-seconds", scale=3, methods=("POST",)),
    Sum(name="tokens", of=USAGE_LINES, scale=1, deduplicate=True),
    Unique(name="users", of="authorizer.claims.sub", opaque_id=True),
    Unique(name="active_keys", of="key"),
    Max(name="seats", of="authorizer.seats"),
    Max(name="stored", of=USAGE_LINES),
    Count(name="orders", apis=("orders", "a1b2c3d4e5"), stages=("v1", "$default"), by="api"),
)


def test_metrics_travel_as_json() -> None:
    """What app.py declares is what the function counts, each kind with all that it says."""
    check(EVERY_KIND, AccessLog())
    assert decode(encode(METRICS)) == METRICS
    assert decode(encode(EVERY_KIND)) == EVERY_KIND


def test_what_was_declared_before_is_no_other_declaration() -> None:
    """I5: a note in the ledger of a time without ``apis`` and ``stages`` reads the same, and is written the same."""
    noted = (
        '[{"type":"count","name":"requests","by":"resource"},'
        '{"type":"sum","name":"writes","statuses":["2xx"],"methods":["POST"],"resources":["/a"],"of":"response_length"}]'
    )
    assert decode(noted) == (
        Count(name="requests", by="resource"),
        Sum(name="writes", of="response_length", statuses=("2xx",), methods=("POST",), resources=("/a",)),
    )
    assert encode(decode(noted)) == noted


@pytest.mark.parametrize(
    "metric",
    [
        Sum(name="a", of="responseOverride.header.x-n"),
        Count(name="a", by="responseOverride.header.x-n"),
        Unique(name="a", of="responseOverride.header.x-n", opaque_id=True),
    ],
)
def test_an_http_api_cannot_log_a_header_that_an_integration_sets(metric: Metric) -> None:
    """Only a mapping template of a non-proxy REST integration sets one."""
    check((metric,), AccessLog())
    with pytest.raises(MetricError, match=r"'responseOverride\.header\.x-n', which an HTTP API cannot log"):
        check((metric,), AccessLog(Api.HTTP, "authorizer.tenant"))


def test_the_log_holds_the_variables_that_metrics_name_and_no_other() -> None:
    """Each once, with its scale where it is a number."""
    found = declared(EVERY_KIND)
    assert found.variables == (
        "authorizer.claims.sub",
        "authorizer.messages",
        "authorizer.plan",
        "authorizer.seats",
        "responseOverride.header.x-seconds",
    )
    assert found.amounts == {
        "authorizer.messages": 0,
        "responseOverride.header.x-seconds": 3,
        "authorizer.seats": 0,
    }
    assert found.ids == {"authorizer.claims.sub"}


def test_each_meter_has_a_name() -> None:
    """A metric with meters for values has none of its own, and one for all other values."""
    assert meters(EVERY_KIND) == [
        "requests", "calls_free", "calls_pro", "calls_other", "messages", "seconds", "tokens", "users", "active_keys",
        "seats", "stored", "orders",
    ]  # fmt: skip


def test_the_meter_of_a_value_is_named_after_all_of_it() -> None:
    """A status class, or a plan's version, differs from others in its digits alone."""
    metric = Count(name="calls", statuses=("2xx", "4xx"), by="status_class", meters=("2xx", "4xx"))
    check((metric,), AccessLog())
    assert meters([metric]) == ["calls_2xx", "calls_4xx", "calls_other"]
    plans = Count(name="calls", by="authorizer.plan", meters=("v1", "v2", "3"))
    check((plans,), AccessLog())
    assert meters([plans]) == ["calls_v1", "calls_v2", "calls_3", "calls_other"]


def test_only_what_is_told_apart_needs_a_secret_and_only_usage_lines_a_log_of_their_own() -> None:
    """What is not needed is not deployed."""
    assert needs_hash([Unique(name="keys", of="key")])
    assert needs_hash([Sum(name="jobs", of=USAGE_LINES, deduplicate=True)])
    assert not needs_hash([Sum(name="tokens", of=USAGE_LINES)])
    assert reads_usage_lines(EVERY_KIND)
    assert not needs_hash(METRICS)
    assert not reads_usage_lines(METRICS)
    assert reads_usage_lines([Max(name="stored", of=USAGE_LINES)])


@pytest.mark.parametrize(
    ("status", "billed"),
    [(200, True), (204, True), (302, True), (400, False), (403, False), (429, False), (500, False)],
)
def test_successes_are_billed_and_failures_are_not(status: int, billed: bool) -> None:  # noqa: FBT001 - a literal
    """Unless a metric says otherwise."""
    assert bills(Count(name="a"), RequestKind(status, "GET", "/items", "orders", "v1")) is billed


@pytest.mark.parametrize(
    ("pattern", "resource", "billed"),
    [
        ("/items", "/items", True),
        ("/items", "/items/{id}", False),
        ("/items/*", "/items/{id}", True),
        ("/items/*", "/items", False),
        ("/items/{id}", "GET /items/{id}", True),
        ("$default", "$default", True),
    ],
)
def test_a_resource_is_billed_as_the_api_declares_it(pattern: str, resource: str, billed: bool) -> None:  # noqa: FBT001
    """An HTTP API's route key is its resource behind the method."""
    assert bills(Count(name="a", resources=(pattern,)), RequestKind(200, "GET", resource, "orders", "v1")) is billed


@pytest.mark.parametrize(
    ("metric", "billed"),
    [
        (Count(name="a", apis=("orders",)), True),
        (Count(name="a", apis=("carts", "orders"), stages=("v1",)), True),
        (Count(name="a", apis=("order",)), False),
        (Count(name="a", stages=("v2",)), False),
        (Count(name="a", apis=("orders",), stages=("v2",)), False),
    ],
)
def test_a_metric_may_be_of_some_apis_and_stages_alone(metric: Metric, billed: bool) -> None:  # noqa: FBT001
    """By the connection's name, or the API's id; to the letter."""
    assert bills(metric, RequestKind(200, "GET", "/items", "orders", "v1")) is billed


def sums(usage: Usage) -> dict[tuple[Hour, str], dict[str, int]]:
    """Return what is billed of each hour and key."""
    return {cell: amounts.quantities() for cell, amounts in usage.cells.items() if amounts}


def test_each_record_adds_to_every_metric_that_bills_it() -> None:
    """One request may be a call, a write and some bytes."""
    usage = measure([record(method="POST", length=7), record(length=5), record(status=503)], METRICS)
    assert sums(usage) == {(HOUR, "k1"): {"requests": 2, "writes": 1, "bytes": 12, "errors": 1}}
    assert usage.billed == 3


def test_who_is_not_billed_is_tallied_with_the_reason() -> None:
    """I1: nothing is dropped without a trace."""
    usage = measure([record(key="-"), record(status=404), record()], METRICS)
    assert usage.billed == 1
    assert usage.unbilled == {"no API key": 1, "no metric bills such a request": 1}


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        (Sum(name="a", of="response_length"), "bytes"),
        (Sum(name="a", of="data_processed"), "bytes"),
        (Max(name="a", of="response_length"), "bytes"),
        (Sum(name="a", of="response_latency"), "milliseconds"),
        (Sum(name="a", of="integration_latency"), "milliseconds"),
        (Sum(name="bytes", of="authorizer.bytes"), None),
        (Max(name="milliseconds", of=USAGE_LINES), None),
        (Count(name="a"), None),
        (Unique(name="a", of="key"), None),
    ],
)
def test_the_unit_is_that_of_what_is_measured(metric: Metric, unit: str | None) -> None:
    """A name says nothing of it, and a number that others set has none that is known here."""
    assert unit_of(metric) == unit


def test_what_people_read_is_no_part_of_what_is_declared() -> None:
    """It stands neither in an environment of 4 KB, nor in the ledger, where 1.0.0 would refuse it."""
    plain = [Count(name=f"metric_{n}", by="resource", resources=("/items/*",)) for n in range(20)]
    told = [msgspec.structs.replace(one, title="What you send to us", unit="requests") for one in plain]
    assert encode(told) == encode(plain)
    assert decode(in_full(told)) == tuple(told)
    assert unit_of(told[0]) == "requests"


def test_each_meter_of_a_metric_has_a_title() -> None:
    """By the value that it is for; without one declared there is none."""
    split = Count(name="requests", title="Requests", by="method", meters=("GET",))
    assert titles_of(split) == {"requests_get": "Requests: GET", "requests_other": "Requests: other"}
    assert titles_of(Count(name="requests", title="Requests")) == {"requests": "Requests"}
    assert titles_of(Count(name="requests")) == {"requests": None}


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        (Count(name="a", title=" Requests"), "'a': a title is 1 to 100 printable characters, got ' Requests'"),
        (Count(name="a", title="x" * 101), "'a': a title is 1 to 100 printable characters"),
        (Count(name="a", title="for\n you"), "'a': a title is 1 to 100 printable"),
        (Count(name="a", unit="x" * 33), "'a': a unit is 1 to 32 printable characters"),
        (Sum(name="a", of="response_length", unit="MB"), "'a' is measured in bytes, got the unit 'MB': leave the unit"),
    ],
)
def test_what_nobody_could_read_is_refused(metric: Metric, why: str) -> None:
    """And a unit that would be another than what is counted."""
    with pytest.raises(MetricError, match=re.escape(why)):
        check([metric], AccessLog())


def test_usage_belongs_to_the_hour_of_its_request() -> None:
    """I3: one batch may hold two hours."""
    usage = measure([record(), record(hour=HOUR.next())], (Count(name="requests"),))
    assert sums(usage) == {(HOUR, "k1"): {"requests": 1}, (HOUR.next(), "k1"): {"requests": 1}}


RECORDS = st.builds(
    record,
    key=st.sampled_from(["k1", "k2", "-"]),
    status=st.sampled_from([200, 301, 404, 429, 500]),
    method=st.sampled_from(["GET", "POST"]),
    resource=st.sampled_from(["/items", "/items/{id}"]),
    length=st.integers(0, 10**12),
    hour=st.sampled_from([HOUR, HOUR.next()]),
)


@given(st.lists(RECORDS), st.randoms(), st.integers(0, 50))
def test_adding_up_is_independent_of_order_and_batches(records: list[AccessRecord], random: object, cut: int) -> None:
    """I2, I5: however records are shuffled and split, they add up to the same."""
    shuffled = list(records)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    whole = measure(records, METRICS)
    parts = [measure(shuffled[:cut], METRICS), measure(shuffled[cut:], METRICS)]
    added: Counter[tuple[Hour, str, str]] = Counter()
    for part in parts:
        for (hour, key), found in sums(part).items():
            added.update({(hour, key, metric): amount for metric, amount in found.items()})
    expected = {(*cell, metric): n for cell, found in sums(whole).items() for metric, n in found.items()}
    assert dict(added) == expected
    assert sum(part.billed for part in parts) == whole.billed
    assert sum((part.unbilled for part in parts), Counter()) == whole.unbilled


@given(st.lists(RECORDS))
def test_every_record_is_billed_or_unbilled(records: list[AccessRecord]) -> None:
    """I1: read = billed + unbilled."""
    usage = measure(records, METRICS)
    assert usage.billed + sum(usage.unbilled.values()) == len(records)
