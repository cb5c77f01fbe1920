"""Callers that are no API keys: who can be one on which API, and how a claim is read in whatever quotes it stands."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infra.local.aws.log_line import render
from infra.operate.connections.plan import Plan, plan
from infra.operate.connections.stage import LiveStage, Method
from infra.operate.connections.terms import Place, Wishes
from infra.operate.recount.raw_formats import RawFormat
from infra.operate.recount.raw_lines import UnreadableError, read_access_line
from metering.model.access_log import Reader
from metering.model.connections import Connection, Form, StageLog, Step
from metering.model.foreign_format import compile_format
from metering.model.log_format import AccessLog, AccessRecord, Api
from metering.model.metric_checks import MetricError, check, unverified
from metering.model.metrics import Count, Metric, Sum, Unique
from metering.model.our_lines import Ours
from metering.model.subjects import source_of_key
from tests.doubles.access_log import NONCE, line_of
from tests.unit.test_access_log import GOOD, NOW, NOW_MS

REQUESTS = (Count(name="requests"),)
MARK = "the value"


def written(value: str, field: str = "key") -> str:
    """Return a line that has this value between the quotes of a field, to the letter."""
    return line_of(GOOD | {field: MARK}).replace(MARK, value)


def counted(line: str, *metrics: Metric) -> AccessRecord | None:
    """Return the record that the functions count; None for a line that is set aside."""
    found = Reader(NOW, metrics or REQUESTS, (Ours((NONCE,)),)).read(line)
    return found if isinstance(found, AccessRecord) else None


def recounted(line: str) -> str | None:
    """Return the key that a recount bills; None for a line that it cannot read."""
    try:
        found = read_access_line(line, REQUESTS, (NONCE,))
    except UnreadableError:
        return None
    return found.source if found else "-"


# --- who can be one ---------------------------------------------------------------------------------------------------

EVERYWHERE = ("authorizer.tenant", "authorizer.principalId", "identity.accountId", "identity.userArn")
CLAIMS = ("authorizer.claims.sub", "authorizer.claims.custom:tenant")
CERTIFICATES = ("identity.clientCert.subjectDN", "identity.clientCert.serialNumber")


@pytest.mark.parametrize(
    ("api", "good", "bad"),
    [
        (Api.REST, ("identity.apiKeyId", *EVERYWHERE, *CLAIMS, *CERTIFICATES), ()),
        (Api.HTTP, (*EVERYWHERE, *CLAIMS, *CERTIFICATES), ("identity.apiKeyId",)),
        (Api.WEBSOCKET, EVERYWHERE, ("identity.apiKeyId", *CLAIMS, *CERTIFICATES)),
    ],
)
def test_a_caller_is_what_aws_says_that_this_kind_of_api_logs(
    api: Api, good: Sequence[str], bad: Sequence[str]
) -> None:
    """By the tables of variables, one for each kind."""
    for caller in good:
        assert json.loads(AccessLog(api, caller).format(NONCE))["key"] == f"$context.{caller}"
    for caller in bad:
        with pytest.raises(ValueError, match=f"{api.noun} cannot log {caller!r}: write 'authorizer.<property>'"):
            AccessLog(api, caller)


def test_a_websocket_api_is_not_told_to_bill_by_a_claim() -> None:
    """It has no JWT authorizer."""
    with pytest.raises(ValueError, match=r"for example caller='authorizer\.user'"):
        AccessLog(Api.WEBSOCKET)


@pytest.mark.parametrize("statuses", [("403",), ("2xx", "401"), ("4xx",)])
@pytest.mark.parametrize("caller", ["identity.accountId", *CERTIFICATES])
def test_nobody_is_billed_for_a_request_that_only_says_who_it_is(caller: str, statuses: tuple[str, ...]) -> None:
    """I7: a certificate that failed mutual TLS is logged, and may name anybody."""
    metric = Count(name="refused", statuses=statuses)
    with pytest.raises(MetricError, match="'refused' bills 401 or 403, which a caller gets that only says who it is"):
        check((metric,), AccessLog(Api.HTTP, caller))
    check((metric,), AccessLog(Api.HTTP, "authorizer.tenant"))
    check((Count(name="a", statuses=("2xx", "404", "429")),), AccessLog(Api.HTTP, caller))
    assert unverified([metric, Count(name="a")], "identity.apiKeyId") == []
    assert unverified([metric, Count(name="a")], caller) == [
        "'refused' bills 401 or 403, which a caller gets that only says who it is"
    ]


@pytest.mark.parametrize(
    ("api", "caller", "value"),
    [
        (Api.REST, "identity.accountId", "123456789012"),
        (Api.HTTP, "identity.userArn", "arn:aws:iam::123456789012:user/acme/ann"),
        (Api.HTTP, "identity.clientCert.subjectDN", "C=US,ST=WA,O=Acme Ltd,CN=client-17"),
        (Api.HTTP, "identity.clientCert.serialNumber", "a1:b2:c3"),
        (Api.WEBSOCKET, "identity.userArn", "arn:aws:sts::123456789012:assumed-role/acme/session"),
    ],
)
def test_whoever_api_gateway_names_is_billed_as_it_names_it(api: Api, caller: str, value: str) -> None:
    """At a connected API behind the connection's name; none is nobody."""
    log = AccessLog(api, caller, "orders")
    good = {"requestId": "r=", "extendedRequestId": "r=", "requestTimeEpoch": str(NOW_MS), "status": "200"}
    for told, key in ((value, f"orders:{value}"), ("", "-")):
        line = render(log.format(NONCE), good | {caller: told, "httpMethod": "GET", "eventType": "MESSAGE"})
        record = counted(line)
        assert record is not None
        assert record.key == key
        assert recounted(line) == (key if key == "-" else source_of_key(key))


def test_a_caller_that_is_longer_than_an_id_is_set_aside() -> None:
    """As an assumed role's ARN may be, and a subject: 128 characters are an id."""
    assert counted(written("a" * 128)) is not None
    assert counted(written("a" * 129)) is None
    assert recounted(written("a" * 129)) is None


# --- claims that a REST API's JWT authorizer tells as JSON text -------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("ann", "ann"),
        ('"ann"', '"ann"'),
        (r"\"ann\"", '"ann"'),
        ('orders:"ann"', 'orders:"ann"'),
        (r"orders:\"ann\"", 'orders:"ann"'),
        (r'orders:"caf\u00E9"', r'orders:"caf\u00E9"'),
        (r"orders:\"caf\\u00E9\"", r'orders:"caf\u00E9"'),
        ("orders:42", "orders:42"),
        ('"42"', '"42"'),
        (r'"a\"b"', r'"a\"b"'),
        (r"\"a\\\"b\"", r'"a\"b"'),
        ("a1b2c3d4e5", "a1b2c3d4e5"),
        ('orders:"-"', 'orders:"-"'),
    ],
)
def test_a_claim_names_the_same_caller_whether_the_log_escapes_its_quotes_or_not(value: str, key: str) -> None:
    """I7: a Cognito authorizer tells its text, in which anybody may have quotes, a JWT authorizer JSON text."""
    record = counted(written(value))
    assert record is not None
    assert record.key == key
    source = read_access_line(written(value), REQUESTS, (NONCE,))
    assert source is not None
    assert source.source == source_of_key(key)


@pytest.mark.parametrize("value", ['["a","b"]', '{"id":"a"}', '"a","status":"200"', '"', '"a', '""a""', '"a" "b"'])
def test_a_claim_that_is_no_text_and_no_number_names_nobody(value: str) -> None:
    """I1, I7: the line is set aside, and no quote makes a field of it."""
    assert counted(written(value)) is None
    assert recounted(written(value)) is None


def test_a_claim_that_a_metric_reads_is_its_text() -> None:
    """The same user is one, by whichever authorizer it comes."""
    users, claim = Unique(name="users", of="authorizer.claims.sub", opaque_id=True), "authorizer.claims.sub"
    for value in ("ann", '"ann"', r"\"ann\""):
        record = counted(written(value, claim), users)
        assert record is not None
        assert record.x0 == "ann"  # type: ignore[attr-defined]
        brought = read_access_line(written(value, claim), (users,), (NONCE,))
        assert brought is not None
        assert brought.values == {"users": "ann"}


@given(text=st.text(st.sampled_from('"\\:,{}u0a-\n orders\u00e9\ud800'), max_size=24), escaped=st.booleans())
@example(text='orders:"x"', escaped=False)
def test_both_readers_take_any_text_in_the_callers_place_for_the_same(text: str, escaped: bool) -> None:  # noqa: FBT001
    """I5, I7: whatever stands there, escaped by the log or not, is one caller for both, or none for either."""
    line = written(json.dumps(text)[1:-1] if escaped else text)
    record = counted(line)
    assert (record is None) == (recounted(line) is None)
    if record is not None and record.key != "-":
        plain = written(json.dumps(record.key)[1:-1])
        assert recounted(line) == recounted(plain)
        assert record.status == 200


@pytest.mark.parametrize("form", ['{"id":"$context.extendedRequestId",%s}', '$context.extendedRequestId "%s"'])
@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("ann", "orders:ann"),
        ('"ann"', 'orders:"ann"'),
        (r"\"ann\"", 'orders:"ann"'),
        ('"-"', 'orders:"-"'),
        ("-", "-"),
        ('"ann', None),
    ],
)
def test_a_claim_names_the_same_caller_in_a_format_of_others(form: str, value: str, key: str | None) -> None:
    """I7: whether the log escapes its quotes or not, for both readers."""
    caller, status, time = "authorizer.claims.sub", "status", "requestTimeEpoch"
    names = (caller, status, time)
    written = form % (
        ",".join(f'"{name}":"$context.{name}"' for name in names)
        if form.startswith("{")
        else '" "'.join(f"$context.{name}" for name in names)
    )
    line = written
    for name, text in (("extendedRequestId", "r="), (caller, value), (status, "200"), (time, str(NOW_MS))):
        line = line.replace(f"$context.{name}", text)
    log = AccessLog(Api.REST, caller, "orders")
    connection = Connection(
        "orders", Form.THEIRS, Step.CONNECTED, "g", 1, "a", api=Api.REST, stage="v1", caller=caller,
        after=StageLog("", written),
    )  # fmt: skip
    counts, recounts = compile_format(log, written, REQUESTS, stage="v1"), RawFormat(connection)
    if key is None:
        with pytest.raises(ValueError, match="not the stage's format"):
            counts.fields(line)
        with pytest.raises(UnreadableError):
            recounts.fields(line, REQUESTS)
        return
    assert ((counts.fields(line) or {})["key"], (recounts.fields(line, REQUESTS) or {})["key"]) == (key, key)


# --- what a plan to connect says of them ------------------------------------------------------------------------------


def planned(api: Api, *metrics: Metric, caller: str = "", authorization: str = "AWS_IAM") -> Plan:
    """Return the plan to connect a stage without a log, called ``orders``, in a deployment of these metrics."""
    stage = LiveStage(
        api=api, api_id="a1b2c3d4e5", api_name="Orders", name="v1", region="us-east-1", log=StageLog(),
        methods=(Method("GET /items", asks_for_key=False, authorization=authorization),), log_role="role",
    )  # fmt: skip
    place = Place(
        stack="Metering", access_log=AccessLog(), access_log_group="ours", connected_logs="/aws/vendedlogs/metering/",
        group_arn="arn:aws:logs:us-east-1:123456789012:log-group:", function_arn="arn", nonce=NONCE, metrics=metrics,
    )  # fmt: skip
    return plan(stage, place, Wishes(caller=caller), [])


def test_a_plan_says_which_metrics_the_api_cannot_bring_anything_to() -> None:
    """I9: of those that bill it at all."""
    found = planned(
        Api.WEBSOCKET,
        Count(name="requests"),
        Sum(name="bytes", of="response_length"),
        Sum(name="others", of="response_length", apis=("carts",)),
        Sum(name="older", of="response_length", stages=("v0",)),
    )
    assert [note for note in found.notes if "cannot log" in note] == [
        "'bytes' reads 'response_length', which a WebSocket API cannot log: its requests add nothing to it"
    ]


def test_a_plan_is_refused_by_which_a_stranger_could_have_others_billed() -> None:
    """I7: refused requests of a caller that only says who it is; and what would make it safe is said."""
    refused = Count(name="refused", statuses=("403",))
    (refusal,) = planned(Api.HTTP, refused).refusals
    assert refusal.why == (
        "by identity.accountId, anybody could have somebody else billed: "
        "'refused' bills 401 or 403, which a caller gets that only says who it is"
    )
    assert planned(Api.HTTP, Count(name="refused", statuses=("403",), apis=("carts",))).refusals == ()
    assert planned(Api.HTTP, refused, caller="authorizer.tenant", authorization="CUSTOM").refusals == ()


@pytest.mark.parametrize(("api", "is_mentioned"), [(Api.HTTP, True), (Api.WEBSOCKET, False)])
def test_mutual_tls_is_proposed_where_it_can_say_who_calls(api: Api, is_mentioned: bool) -> None:  # noqa: FBT001
    """Not to a WebSocket API, whose plan is shown all the same."""
    (refusal,) = planned(api, Count(name="requests"), authorization="NONE").refusals
    assert ("identity.clientCert.subjectDN" in refusal.way_out) is is_mentioned
