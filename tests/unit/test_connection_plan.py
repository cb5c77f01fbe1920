"""What connecting a stage will do: which case it is, whom it bills, and each reason for which it is refused."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.operate.connections.plan import COUNTING_USD_PER_MILLION, Plan, plan
from infra.operate.connections.refusing import MOST_FILTERS
from infra.operate.connections.stage import Authorizer, Filter, LiveStage, LogGroup, Method
from infra.operate.connections.terms import Case, Place, Wishes
from infra.operate.deployment import OperatorError
from metering.model.connections import Connection, Form, StageLog, Step
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import Count, Metric, Sum, declared
from tests.doubles.access_log import NONCE

ROOT = Path(__file__).parents[2]
ARN = "arn:aws:logs:us-east-1:123456789012:log-group:"
THEIRS = f"{ARN}theirs"
FUNCTION = "arn:aws:lambda:us-east-1:123456789012:function:record-usage"
FIREHOSE = "arn:aws:firehose:us-east-1:123456789012:deliverystream/amazon-apigateway-theirs"
FORMAT = (
    '{"id":"$context.extendedRequestId","at":"$context.requestTimeEpoch","key":"$context.identity.apiKeyId",'
    '"status":"$context.status"}'
)
LACKING = '{"id":"$context.extendedRequestId","status":"$context.status"}'
CLF = (
    "$context.identity.sourceIp $context.identity.caller $context.identity.user [$context.requestTime]"
    '"$context.httpMethod $context.resourcePath $context.protocol" $context.status $context.responseLength '
    "$context.requestId $context.extendedRequestId"
)
"""AWS's own (API Gateway Developer Guide, "CloudWatch log formats for API Gateway")."""

KEYED = Method("GET /items", asks_for_key=True, authorization="NONE")
OPEN = Method("GET /health", asks_for_key=False, authorization="NONE")
JWT = Method("GET /items", asks_for_key=False, authorization="JWT")
LAMBDA = Method("$connect", asks_for_key=False, authorization="CUSTOM")
GROUP = LogGroup(name="theirs", kind="STANDARD", retention=7, filters=())
STAGE = LiveStage(
    api=Api.REST,
    api_id="orders0001",
    api_name="Orders",
    name="prod",
    region="us-east-1",
    log=StageLog(),
    methods=(KEYED, OPEN),
    log_role="role",
)
PLACE = Place(
    stack="Metering",
    access_log=AccessLog(),
    access_log_group="access-log",
    connected_logs="/connected/",
    group_arn=ARN,
    function_arn=FUNCTION,
    nonce=NONCE,
    metrics=(Count(name="requests"),),
)


def with_log(written: str, destination: str = THEIRS, **more: Any) -> LiveStage:
    """Return a stage that writes an access log of its own."""
    return replace(STAGE, log=StageLog(destination, written), **({"group": GROUP} | more))


def planned(stage: LiveStage = STAGE, *ledger: Connection, metrics: tuple[Metric, ...] = (), **wishes: Any) -> Plan:
    """Return the plan for a stage."""
    return plan(stage, replace(PLACE, metrics=metrics or PLACE.metrics), Wishes(**wishes), ledger)


def refused(found: Plan) -> str:
    """Return the one reason for which a plan is refused, with the way out."""
    (refusal,) = found.refusals
    return f"{refusal.why}: {refusal.way_out}"


def connected(**fields: Any) -> Connection:
    """Return a connection of the ledger."""
    known: dict[str, Any] = {
        "name": "orders",
        "form": Form.OURS,
        "step": Step.CONNECTED,
        "log_group": "/connected/orders",
    }
    known |= {"since": 1, "by": "ada", "api": Api.REST, "api_id": "orders0001", "api_name": "Orders", "stage": "prod"}
    return Connection(**(known | fields))


# --- cases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "wishes", "case", "refusals"),
    [
        (STAGE, {}, Case.NO_LOG, 0),
        (with_log(FORMAT), {}, Case.IN_PLACE, 0),
        (with_log(FORMAT), {"extend": True}, Case.IN_PLACE, 0),
        (with_log(LACKING), {"extend": True}, Case.EXTEND, 0),
        (with_log(LACKING), {}, Case.EXTEND, 1),
        (with_log(CLF), {"extend": True}, Case.REFUSED, 1),
        (with_log(FORMAT, FIREHOSE, group=None), {"extend": True}, Case.REFUSED, 1),
    ],
)
def test_what_a_stage_writes_decides_what_is_done(
    stage: LiveStage, wishes: dict[str, Any], case: Case, refusals: int
) -> None:
    """In this order: nothing, what does for a bill, JSON that lacks something, all else."""
    found = planned(stage, **wishes)
    assert (found.case, len(found.refusals)) == (case, refusals)
    if case is Case.IN_PLACE:
        assert found.connection.before == found.connection.after == stage.log


def test_a_json_format_that_lacks_something_is_extended_only_if_that_is_asked_for() -> None:
    """What it lacks is named."""
    assert refused(planned(with_log(LACKING))) == (
        "the stage prod of Orders writes JSON of its own, and the format cannot be billed by: it lacks "
        "$context.requestTimeEpoch, $context.identity.apiKeyId: say --extend to put our line in front of it, as the "
        "field metering; the rest stays as it is"
    )


def test_a_text_format_is_refused_with_the_line_to_paste() -> None:
    """What it lacks in front of what it has; that line would be read in place."""
    found = planned(with_log(CLF))
    (refusal,) = found.refusals
    (line,) = refusal.lines
    assert line == f"$context.identity.apiKeyId {CLF}"
    assert planned(with_log(line)).refusals == ()


def test_a_text_format_in_which_a_callers_text_must_not_stand_is_refused_with_the_line_without_it() -> None:
    """Beside an authorizer's value that is billed."""
    metrics = (Sum(name="tokens", of="authorizer.tokens"),)
    front = f"$context.identity.apiKeyId $context.authorizer.tokens {CLF}"
    (refusal,) = planned(with_log(f'{front} "$context.path" $context.stage'), metrics=metrics).refusals
    assert refusal.lines == (f'{front} "-" $context.stage',)
    assert planned(with_log(*refusal.lines), metrics=metrics).refusals == ()


def test_a_text_format_that_cannot_be_mended_is_refused_with_our_own() -> None:
    """Two variables with nothing between them are read by nobody."""
    (refusal,) = planned(with_log("$context.requestId$context.status")).refusals
    assert refusal.lines == (AccessLog(connection="orders").format(NONCE, declared(PLACE.metrics)),)


def test_firehose_is_refused_with_destination_and_format() -> None:
    """A stage has one destination."""
    (refusal,) = planned(with_log(FORMAT, FIREHOSE, group=None)).refusals
    assert (
        refusal.why
        == "the stage prod of Orders writes to Firehose (amazon-apigateway-theirs), and a stage has one destination"
    )
    assert [line.partition(":")[0] for line in refusal.lines] == ["destination", "format"]


def test_what_would_be_larger_than_api_gateway_takes_is_refused() -> None:
    """3 KB, with ours in front; and ours alone, if the metrics name that many variables."""
    longer = LACKING.replace("{", '{"note":"' + "n" * 2500 + '",', 1)
    assert "an access-log format has at most 3072 bytes" in refused(planned(with_log(longer), extend=True))
    many = tuple(Sum(name=f"m{number}", of=f"authorizer.{'x' * 40}{number}") for number in range(40))
    found = planned(metrics=many)
    assert (found.case, "at most 3072 bytes" in refused(found)) == (Case.REFUSED, True)


def test_a_stage_that_writes_into_the_deployments_own_log_is_not_connected() -> None:
    """It is metered; a connection that it had is to be ended."""
    with pytest.raises(OperatorError, match=r"own access log: there is nothing to connect$"):
        planned(with_log(FORMAT, f"{ARN}access-log"))
    with pytest.raises(OperatorError, match="end its connection by 'metering disconnect orders --keep-log'"):
        planned(with_log(FORMAT, f"{ARN}access-log"), connected())


# --- callers ---------------------------------------------------------------------------------------------------------

CALLERS: list[tuple[LiveStage, str | None]] = [
    (STAGE, "identity.apiKeyId"),
    (replace(STAGE, methods=(OPEN,), authorizers=(Authorizer("pool", "COGNITO_USER_POOLS"),)), "authorizer.claims.sub"),
    (replace(STAGE, methods=(OPEN,), authorizers=(Authorizer("mine", "TOKEN"),)), "authorizer.principalId"),
    (replace(STAGE, api=Api.HTTP, methods=(JWT,), authorizers=(Authorizer("login", "JWT"),)), "authorizer.claims.sub"),
    (
        replace(STAGE, api=Api.WEBSOCKET, methods=(LAMBDA,), authorizers=(Authorizer("a", "REQUEST"),)),
        "authorizer.principalId",
    ),
    (replace(STAGE, api=Api.HTTP, methods=(replace(JWT, authorization="AWS_IAM"),)), "identity.accountId"),
    (replace(STAGE, api=Api.HTTP, methods=(LAMBDA,), authorizers=(Authorizer("tenants", "REQUEST"),)), None),
    (replace(STAGE, api=Api.HTTP, methods=(OPEN,)), None),
    (replace(STAGE, methods=(OPEN,)), None),
    (
        replace(
            STAGE,
            api=Api.HTTP,
            methods=(JWT, replace(JWT, authorization="AWS_IAM")),
            authorizers=(Authorizer("login", "JWT"),),
        ),
        None,
    ),
]


@pytest.mark.parametrize(("stage", "variable"), CALLERS)
def test_a_caller_is_proposed_where_only_one_can_be_meant(stage: LiveStage, variable: str | None) -> None:
    """Else it is to be named, and the plan says why."""
    found = planned(stage)
    if variable is None:
        assert "--caller" in refused(found) or "authorizer" in refused(found)
        named = planned(stage, caller="identity.apiKeyId" if stage.api is Api.REST else "authorizer.tenant")
        assert named.refusals == ()
        return
    assert (found.refusals, found.connection.log.variable) == ((), variable)


def test_a_caller_that_is_none_is_wrong() -> None:
    """By the sentence of the format itself."""
    with pytest.raises(OperatorError, match=r"--caller: an HTTP API cannot log 'identity.apiKeyId'"):
        planned(replace(STAGE, api=Api.HTTP), caller="identity.apiKeyId")


def test_methods_that_name_nobody_are_told() -> None:
    """By API keys, and by an authorizer."""
    assert "this method will be billed to nobody, for it asks for no API key: GET /health" in planned().notes
    assert planned().notes[0] == (
        "billed are API keys: by 'metering customers add ID --name NAME --key KEY_ID' each becomes a customer's"
    )
    many = replace(STAGE, methods=(KEYED, *(replace(OPEN, name=f"GET /{name}") for name in "abc")))
    assert (
        "these 3 methods will be billed to nobody, for they ask for no API key: GET /a, GET /b, GET /c"
        in planned(many).notes
    )
    http = replace(STAGE, api=Api.HTTP, methods=(JWT, OPEN), authorizers=(Authorizer("login", "JWT"),))
    assert (
        "this route will be billed to nobody, for it names no authorizer.claims.sub: GET /health" in planned(http).notes
    )


def test_whoever_is_billed_is_told_with_the_connections_name() -> None:
    """As customers are given it."""
    http = replace(STAGE, api=Api.HTTP, methods=(JWT,), authorizers=(Authorizer("login", "JWT"),))
    assert planned(http).notes[0] == (
        "billed are orders:$context.authorizer.claims.sub: "
        "by 'metering customers add ID --name NAME --key orders:CALLER' each becomes a customer's"
    )
    assert planned(http).connection.log.prefix == "orders:"


def test_a_websocket_stage_says_what_is_not_confirmed() -> None:
    """And whose word counts: the authorizer of $connect."""
    socket = replace(STAGE, api=Api.WEBSOCKET, methods=(LAMBDA,), authorizers=(Authorizer("a", "REQUEST"),))
    assert any("is not confirmed on AWS yet" in note for note in planned(socket).notes)


# --- refusals --------------------------------------------------------------------------------------------------------

NO_ROLE = replace(STAGE, log_role="")
FULL = replace(GROUP, filters=(Filter("shipper", "arn:one", ""), Filter("siem", "arn:two", "")))
PARTLY = replace(GROUP, filters=(Filter("usage", FUNCTION, "usage"),))

REFUSALS: list[tuple[LiveStage, dict[str, Any], str, str]] = [
    (replace(STAGE, owner="shop"), {}, "belongs to the CloudFormation stack shop", "--force"),
    (replace(STAGE, managed=True), {}, "was made by API Gateway's quick create", "make a stage of your own"),
    (NO_ROLE, {}, "has no role to write access logs by in us-east-1", "--make-role"),
    (with_log(FORMAT, group=None), {}, "the log group theirs, which is not there", "make it"),
    (with_log(FORMAT, group=FULL), {}, "has two subscription filters", "take one away"),
    (with_log(FORMAT, group=PARTLY), {}, "filter usage of theirs brings some of its lines here", "take that"),
    (with_log(FORMAT, group=replace(GROUP, kind="INFREQUENT_ACCESS")), {}, "class INFREQUENT_ACCESS", "STANDARD"),
    (with_log(LACKING, owner="shop"), {"extend": True}, "belongs to the CloudFormation stack shop", "--print"),
]


@pytest.mark.parametrize(("stage", "wishes", "why", "way_out"), REFUSALS)
def test_what_cannot_be_done_is_refused_with_the_way_out(
    stage: LiveStage, wishes: dict[str, Any], why: str, way_out: str
) -> None:
    """In a sentence each."""
    (refusal,) = planned(stage, **wishes).refusals
    assert why in refusal.why
    assert way_out in refusal.way_out


@pytest.mark.parametrize(
    ("stage", "wishes"),
    [
        (replace(STAGE, owner="shop"), {"force": True}),
        (NO_ROLE, {"make_role": True}),
        (replace(NO_ROLE, api=Api.HTTP, methods=(JWT,), authorizers=(Authorizer("login", "JWT"),)), {}),
        (with_log(FORMAT, owner="shop"), {}),
        (with_log(FORMAT, log_role=""), {}),
        (with_log(FORMAT, group=replace(FULL, filters=(FULL.filters[0], Filter("ours", FUNCTION, "")))), {}),
    ],
)
def test_what_can_be_done_is_not_refused(stage: LiveStage, wishes: dict[str, Any]) -> None:
    """By the way out, or since it does not concern that stage."""
    assert planned(stage, **wishes).refusals == ()


def test_all_reasons_are_said_at_once() -> None:
    """Nobody finds the second when the first is mended."""
    found = planned(replace(NO_ROLE, owner="shop", methods=(OPEN,)))
    assert len(found.refusals) == 3


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("api_name", "name"),
    [
        ("Orders", "orders"),
        ("Pet Store (v2)", "pet-store-v2"),
        ("2nd", "api-2nd"),
        ("注文", "api-orders0001"),
        ("a" * 40, "a" * 32),
        (f"{'a' * 31}-b", "a" * 31),
    ],
)
def test_a_connection_is_called_as_its_api(api_name: str, name: str) -> None:
    """In the signs that a name may have."""
    assert planned(replace(STAGE, api_name=api_name)).connection.name == name


def test_another_stage_of_the_same_api_has_its_stages_name_behind() -> None:
    """Both are connected."""
    first = connected()
    assert planned(replace(STAGE, name="v2"), first).connection.name == "orders-v2"


def test_a_name_that_another_stage_bears_is_refused() -> None:
    """Even by force."""
    found = planned(STAGE, connected(api_id="other", api_name="Old orders"), force=True)
    assert refused(found) == "the name orders is that of the stage prod of Old orders: give another one: --name"


def test_a_name_that_another_api_once_bore_is_taken_only_by_force() -> None:
    """I7: equal callers would be billed to the former one's customers."""
    former = connected(api_id="other", api_name="Old orders", step=Step.DISCONNECTED, until=2, version=4)
    assert "whose customers would be billed" in refused(planned(STAGE, former))
    taken = planned(STAGE, former, force=True)
    assert (taken.refusals, taken.connection.version) == ((), 4)


def test_a_name_whose_callers_were_told_otherwise_is_taken_only_by_force() -> None:
    """I7: ``orders:42`` may have been a subject, and be a tenant now."""
    ours = StageLog("arn:aws:logs:us-east-1:123456789012:log-group:/connected/orders", "ours")
    former = connected(caller="authorizer.claims.sub", step=Step.DISCONNECTED, until=2, after=ours)
    assert "callers were told by authorizer.claims.sub" in refused(planned(STAGE, former, caller="authorizer.tenant"))
    assert planned(STAGE, former, caller="authorizer.claims.sub").refusals == ()
    assert planned(STAGE, former, caller="authorizer.tenant", force=True).refusals == ()
    assert planned(STAGE, former, caller="authorizer.tenant", name="tenants").refusals == ()
    assert planned(STAGE, former).refusals == ()  # API keys keep their ids


@pytest.mark.parametrize("name", ["Orders", "1st", "a" * 33, "a b"])
def test_a_name_that_is_none_is_wrong(name: str) -> None:
    """It stands in keys and in metrics."""
    with pytest.raises(OperatorError, match="a connection's name is written"):
        planned(name=name)


@pytest.mark.parametrize("wishes", [{"name": "people"}, {"caller": "authorizer.principalId"}])
def test_a_connected_stage_keeps_its_name_and_its_caller(wishes: dict[str, Any]) -> None:
    """Its lines bear them."""
    with pytest.raises(OperatorError, match="say 'metering disconnect orders' first"):
        planned(STAGE, connected(), **wishes)


def test_a_stage_that_is_being_disconnected_is_not_connected() -> None:
    """First the one, then the other."""
    with pytest.raises(OperatorError, match="go on with 'metering disconnect orders'"):
        planned(STAGE, connected(step=Step.DISCONNECTING))


# --- who shares a log group ------------------------------------------------------------------------------------------

SHARED = ("the stage prod of People",)
BOUND = FORMAT.replace("{", '{"api":"$context.apiId","stage":"$context.stage",', 1)


def test_a_log_group_that_is_shared_is_bound_by_api_and_stage_or_refused() -> None:
    """Lines of others are billed to nobody."""
    found = planned(with_log(FORMAT, sharing=SHARED))
    assert "it lacks $context.apiId, $context.stage" in refused(found)
    bound = planned(with_log(BOUND, sharing=SHARED))
    assert (bound.refusals, bound.connection.shares_log) == ((), True)
    assert any("the stage prod of People writes into theirs, too" in note for note in bound.notes)
    assert planned(with_log(LACKING, sharing=SHARED), extend=True).connection.shares_log
    assert not planned(with_log(LACKING), extend=True).connection.shares_log


def test_lines_are_held_to_api_and_stage_wherever_the_format_has_them() -> None:
    """Whoever writes there later does not count."""
    assert planned(with_log(BOUND)).connection.shares_log
    assert not planned(with_log(FORMAT)).connection.shares_log


def test_a_log_group_that_another_connection_reads_whole_is_refused() -> None:
    """Its lines would count twice."""
    other = connected(name="people", form=Form.THEIRS, api_id="people0001", log_group="theirs")
    assert "people reads every line of theirs as one of its own stage" in refused(planned(with_log(BOUND), other))
    assert planned(with_log(BOUND), connected(**{**_fields(other), "shares_log": True})).refusals == ()
    usage = connected(**{**_fields(other), "form": Form.USAGE, "api": None, "api_id": "", "stage": ""})
    assert "people reads usage lines of theirs: say 'metering disconnect people' first" in refused(
        planned(with_log(BOUND), usage)
    )


def _fields(connection: Connection) -> dict[str, Any]:
    return {name: getattr(connection, name) for name in connection.__struct_fields__}


def test_how_far_others_were_looked_for_is_said() -> None:
    """The search is bounded."""
    found = planned(with_log(FORMAT, apis=250, looked_at=100))
    assert "of 250 APIs, 100 were looked at for others that write into the same log group" in found.notes


def test_whoever_can_write_into_the_log_group_is_named() -> None:
    """A bill is as trustworthy as they are."""
    assert any("whoever may write into theirs (logs:PutLogEvents)" in note for note in planned(with_log(FORMAT)).notes)
    extended = planned(with_log(LACKING), extend=True)
    assert any("whoever may read theirs sees the nonce" in note for note in extended.notes)


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_counting_costs_what_the_readme_says() -> None:
    """At 100 requests a second by subscription, as the benchmark has it."""
    table = (ROOT / "infra/stack/README.md").read_text(encoding="utf-8")
    row = re.search(r"^\| subscription \| 100 \| ([\d.]+) \|", table, re.MULTILINE)
    prices = (ROOT / "tests/benchmarks/prices.py").read_text(encoding="utf-8")
    assert row
    assert float(row[1]) == COUNTING_USD_PER_MILLION
    assert "LOGS_GB: Final = 0.50" in prices


def test_a_stage_that_is_left_alone_costs_only_the_counting() -> None:
    """What its own log costs it cost before."""
    assert planned(with_log(FORMAT)).usd_per_million == COUNTING_USD_PER_MILLION
    assert planned().usd_per_million == pytest.approx(COUNTING_USD_PER_MILLION + planned().line_bytes * 1e6 / 2**30 / 2)
    assert 300 < planned().line_bytes < 600
    assert MOST_FILTERS == 2
