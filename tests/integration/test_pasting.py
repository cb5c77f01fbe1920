"""The lines that are printed for a stage, and what is said beside them: nothing is done, whatever the stage is."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import msgspec
import pytest

from infra.local.aws.log_line import render
from infra.operate.connections.connecting import place_of
from infra.operate.connections.pasting import to_paste
from infra.operate.connections.snippets import Tool
from infra.operate.connections.stage import Authorizer, LiveStage, Method, look
from infra.operate.connections.terms import Place, Wishes
from infra.operate.deployment import Deployment, OperatorError
from infra.operate.recount.raw_lines import read_access_line
from metering.model.access_log import Reader
from metering.model.connections import Connection, StageLog, Step
from metering.model.log_format import AccessLog, AccessRecord, Api
from metering.model.metrics import Count, Sum
from metering.model.our_lines import Ours
from tests.doubles.access_log import NONCE
from tests.doubles.aws import Account
from tests.doubles.log_groups import LOG_GROUP_ARN
from tests.integration.connected import ORDERS
from tests.integration.live_apis import KEYED, LiveApis
from tests.integration.operator_commands import run_metering

PLACE: Final = Place(
    stack="Metering",
    access_log=AccessLog(),
    access_log_group="Metering-AccessLog",
    connected_logs="/aws/vendedlogs/metering/Metering/",
    group_arn="arn:aws:logs:us-east-1:123456789012:log-group:",
    function_arn="arn:aws:lambda:us-east-1:123456789012:function:record-usage",
    nonce=NONCE,
    metrics=(Count(name="requests"),),
)
REST: Final = LiveStage(
    api=Api.REST,
    api_id="a1b2c3",
    api_name="Orders",
    name="v1",
    region="us-east-1",
    log=StageLog(),
    owner="OrdersStack",
    methods=(Method("GET /items", asks_for_key=True, authorization="NONE"),),
    log_role="arn:aws:iam::123456789012:role/logs",
)
HTTP: Final = replace(
    REST, api=Api.HTTP, api_name="Shop", authorizers=(Authorizer("tokens", "JWT"),), methods=(), log_role=""
)
SOCKET: Final = replace(HTTP, api=Api.WEBSOCKET, api_name="Chat", authorizers=(Authorizer("callers", "REQUEST"),))


NO_WISHES: Final = Wishes()


def _notes(
    stage: LiveStage, place: Place = PLACE, wishes: Wishes = NO_WISHES, ledger: Sequence[Connection] = ()
) -> str:
    return "\n".join(to_paste(Tool.SAM, stage, place, wishes, ledger).notes)


def test_a_stage_that_a_stack_made_gets_its_lines() -> None:
    """It is refused by 'connect' without --force: lines in its template are what it needs."""
    paste = to_paste(Tool.CLOUDFORMATION, REST, PLACE, NO_WISHES, [])
    assert paste.lines.startswith("# Properties of your AWS::ApiGateway::Stage\nAccessLogSetting:\n")
    assert (paste.name, paste.destination) == ("orders", f"{PLACE.group_arn}Metering-AccessLog")
    assert paste.format == AccessLog(connection="orders").format(NONCE)
    http = to_paste(Tool.TERRAFORM, HTTP, PLACE, NO_WISHES, [])
    assert '\\"key\\":\\"shop:$context.authorizer.claims.sub\\"' in http.lines


def test_what_a_deployment_of_the_lines_may_meet_is_said_before() -> None:
    """A log that ends, a role that is missing, a policy of the account that may be full: each where it can happen."""
    theirs = StageLog("arn:aws:logs:us-east-1:123456789012:log-group:theirs", "$context.requestId")
    for stage in (REST, HTTP, SOCKET):
        assert "one access log" not in _notes(stage)
        assert "these lines end the one that goes to arn:aws:logs:us-east-1:123456789012:log-group:theirs" in _notes(
            replace(stage, log=theirs)
        )
    assert "no role" not in _notes(REST) + _notes(HTTP)
    assert "no role to write this log by" in _notes(replace(REST, log_role=""))
    assert "no role to write this log by" in _notes(SOCKET)
    assert "no role" not in _notes(replace(REST, log_role=""), replace(PLACE, delivery_stream="amazon-apigateway-M"))
    assert "AWSLogDeliveryWrite20150319, which holds 5,120 characters" in _notes(HTTP)
    vended = replace(PLACE, access_log_group="/aws/vendedlogs/metering/Metering/1")
    assert "5,120" not in _notes(HTTP, vended) + _notes(REST) + _notes(SOCKET)


def test_what_a_stage_is_to_metering_is_said() -> None:
    """Who is billed, what metrics call it, how it is compared, and that it is connected already, or writes so."""
    assert "billed are API keys" in _notes(REST)
    assert "this method will be billed to nobody" in _notes(
        replace(REST, methods=(*REST.methods, Method("GET /", asks_for_key=False, authorization="NONE")))
    )
    assert "metrics know it as orders" in _notes(REST)
    assert "metering.compare_with(api='Orders', stage='v1', kind=Api.REST)" in _notes(REST)
    assert "metering.compare_with(api='a1b2c3', stage='v1', kind=Api.HTTP)" in _notes(HTTP)
    assert "compare_with" not in _notes(SOCKET)
    others = "make up for missing ones"
    assert others in _notes(SOCKET)
    alike = replace(PLACE, access_log=AccessLog(Api.WEBSOCKET, "authorizer.tenant"))
    assert others not in _notes(REST) + _notes(SOCKET, alike)
    streaming = replace(PLACE, delivery_stream="amazon-apigateway-M")
    assert "give the stage the log group Metering-AccessLog" in _notes(REST, streaming)
    assert "'metering disconnect orders --keep-log'" in _notes(REST, ledger=[ORDERS])
    theirs, asked = replace(REST, log=StageLog("arn:aws:logs:us-east-1:1:log-group:theirs", "{}")), "Whether it can"
    assert (asked in _notes(theirs), asked in _notes(theirs, ledger=[ORDERS])) == (True, False)
    assert "ApiGatewayManagedOverrides" in _notes(replace(HTTP, managed=True))
    assert "ApiGatewayManagedOverrides" not in _notes(HTTP)
    paste = to_paste(Tool.SAM, REST, PLACE, NO_WISHES, [])
    assert "writes so already" in _notes(replace(REST, log=StageLog(paste.destination, paste.format)))
    assert "the nonce" in _notes(REST)
    length = Sum(name="bytes", of="response_length")
    assert "bytes" in _notes(SOCKET, replace(PLACE, metrics=(length,)), Wishes(caller="authorizer.principalId"))


def test_lines_that_would_bill_nobody_or_somebody_else_are_not_printed() -> None:
    """It is unclear who calls, the name is another API's, or is none, or the format is too long for API Gateway."""
    with pytest.raises(OperatorError, match="may be told by"):
        _notes(replace(HTTP, methods=(Method("GET /", asks_for_key=False, authorization="AWS_IAM"),)))
    other = replace(REST, api_id="z9y8x7")
    for step in (Step.CONNECTED, Step.DISCONNECTED):
        with pytest.raises(OperatorError, match="give another one: --name"):
            to_paste(Tool.SAM, other, PLACE, NO_WISHES, [msgspec.structs.replace(ORDERS, step=step)])
    forged = Count(name="refused", statuses=("403",))
    with pytest.raises(OperatorError, match="anybody could have somebody else billed"):
        _notes(HTTP, replace(PLACE, metrics=(forged,)), Wishes(caller="identity.accountId"))
    with pytest.raises(OperatorError, match="a connection's name is written"):
        _notes(REST, wishes=Wishes(name="Orders API"))
    many = tuple(Sum(name=f"m{number}", of=f"authorizer.{'x' * 50}{number}") for number in range(30))
    with pytest.raises(OperatorError, match="an access-log format has at most 3072 bytes"):
        _notes(REST, replace(PLACE, metrics=many))


@pytest.mark.parametrize(
    ("log", "owner"),
    [
        (("", ""), "OrdersStack"),
        (("arn:aws:firehose:us-east-1:123456789012:deliverystream/amazon-apigateway-x", "$context.requestId"), ""),
    ],
    ids=["of a stack", "to Firehose"],
)
def test_the_command_prints_lines_alone_and_changes_nothing(
    aws: Account,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    log: tuple[str, str],
    owner: str,
) -> None:
    """Of stages that are refused, too. What is to be known goes to stderr; with --json all of it is one document."""
    live = LiveApis(aws)
    tags = {"aws:cloudformation:stack-name": owner} if owner else {}
    live.apis.add("orders0001", "Orders", methods=KEYED, log=log, tags=tags)
    before = live.standing()
    assert live.plan().refusals
    monkeypatch.setattr(Deployment, "find", lambda *_, **__: live.deployment())
    said = run_metering(
        monkeypatch, capsys, "connect", "orders0001", "prod", "--print", "terraform", "--name", "shop", "--yes"
    )
    deployment = live.deployment()
    paste = to_paste(
        Tool.TERRAFORM, look(deployment, "orders0001", "prod"), place_of(deployment), Wishes(name="shop"), []
    )
    assert (said.code, said.out) == (0, paste.lines)
    assert [line.removeprefix("- ") for line in said.err.splitlines()] == list(paste.notes)
    document = run_metering(monkeypatch, capsys, "connect", "orders0001", "prod", "--print", "sam", "--json").document
    assert document["format"] == AccessLog(connection="orders").format(NONCE)
    assert (document["destination"], document["name"]) == (f"{LOG_GROUP_ARN}access-log", "orders")
    assert (live.standing(), live.apis.changes, deployment.connections.all()) == (before, [], [])


@pytest.mark.parametrize("who", ["ann", ""])
@pytest.mark.parametrize("stage", [REST, HTTP, SOCKET], ids=["rest", "http", "websocket"])
def test_lines_that_were_pasted_bill_whom_they_name(stage: LiveStage, who: str) -> None:
    """Without anything in the ledger, in both ways from a line to a bill; and nobody where they name nobody."""
    wishes = Wishes(caller="" if stage.api is not Api.WEBSOCKET else "authorizer.tenant", name="shop")
    paste = to_paste(Tool.SAM, stage, PLACE, wishes, [])
    names = {"identity.apiKeyId": who, "authorizer.claims.sub": who, "authorizer.tenant": who}
    moment = "1795305600" if stage.api is Api.HTTP else "1795305600000"
    request = {"requestId": "r1", "extendedRequestId": "r1", "requestTimeEpoch": moment, "status": "200"}
    line = render(paste.format, {**names, **request, "stage": "v1", "routeKey": "GET /items"})
    record = Reader(datetime.fromtimestamp(1795305660, UTC), PLACE.metrics, (Ours((NONCE,)),)).read(line)
    recounted = read_access_line(line, PLACE.metrics, [NONCE])
    billed = ("" if stage.api is Api.REST else "shop:") + who
    assert isinstance(record, AccessRecord)
    assert (record.key, record.api_id, record.stage) == (billed if who else "-", "shop", "v1")
    assert (recounted.source if recounted else "-") == record.key
