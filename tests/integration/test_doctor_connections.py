"""``metering doctor`` on connections: what was deployed over stages, lines that do not arrive, names nobody bears."""

import io
import json
import zipfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import boto3
import msgspec
import pytest

from infra.operate.deployment import Deployment
from infra.operate.doctor import connections as checks
from infra.operate.doctor.connections import check_connections
from infra.operate.doctor.stages import check_billed, check_log_role, check_stages
from infra.outputs import VERSION
from metering.model.connections import Connection, Form, StageLog, Step
from metering.model.foreign_format import extended
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import Count, Metric, Sum, declared
from metering.model.stages import Stage, encode
from metering.settings import CheckCompletenessSettings
from tests.doubles.access_log import NONCE
from tests.doubles.outputs import outputs
from tests.integration.connected import JOBS, ORDERS, make_log_group, write_lines
from tests.integration.operator_commands import Operator
from tests.integration.world import World

NOW: Final = datetime.now(UTC).replace(microsecond=0)
"""Moto takes no events of other weeks."""
SINCE: Final = int((NOW - timedelta(days=2)).timestamp() * 1000)
REQUESTS: Final[tuple[Metric, ...]] = (Count(name="requests"),)
LOGS: Final = "arn:aws:logs:us-east-1:123456789012:log-group:"
OWN: Final = '{"id":"$context.extendedRequestId","at":"$context.requestTimeEpoch","ip":"$context.identity.sourceIp"}'
THEIRS: Final = (
    '{"id":"$context.extendedRequestId","at":"$context.requestTimeEpoch","key":"$context.identity.apiKeyId",'
    '"status":"$context.status"}'
)
WELL: Final = [("ok", "orders as connected, and delivered", "")]


@dataclass
class Patient:
    """A deployment that has connected a REST API's stage, and what the check says of it."""

    deployment: Deployment
    api: str
    metrics: tuple[Metric, ...] = REQUESTS
    connection: Connection = field(init=False)

    def __post_init__(self) -> None:
        """Connect the stage with our format."""
        self.declare(*self.metrics)
        self.connection = msgspec.structs.replace(ORDERS, api_id=self.api, since=SINCE)
        self.keep(after=StageLog(f"{LOGS}{ORDERS.log_group}", self.ours()))
        self.write(self.connection.after)

    def ours(self, *metrics: Metric) -> str:
        """Return our format of these metrics, or of those that are declared."""
        return self.connection.log.format(NONCE, declared(metrics or self.metrics))

    def declare(self, *metrics: Metric) -> None:
        """Let other metrics be declared."""
        self.metrics = metrics
        vars(self.deployment)["declared"] = {
            "metrics": msgspec.to_builtins(metrics),
            "plans": [],
            "access_log": {"api": "rest"},
        }

    def keep(self, **changes: Any) -> None:
        """Let the ledger say something else of the connection."""
        self.connection = self.deployment.connections.save(msgspec.structs.replace(self.connection, **changes))

    def write(self, log: StageLog) -> None:
        """Let the stage write a log, or none."""
        changes: Any = [
            {"op": "replace", "path": "/accessLogSettings/destinationArn", "value": log.destination},
            {"op": "replace", "path": "/accessLogSettings/format", "value": log.format},
        ]
        if not log.destination:
            changes = [{"op": "remove", "path": "/accessLogSettings"}]
        boto3.client("apigateway").update_stage(restApiId=self.api, stageName="v1", patchOperations=changes)

    def measure(self, namespace: str, name: str, value: int, **dimensions: str) -> None:
        """Let CloudWatch have measured something ten minutes ago."""
        entry: Any = {
            "MetricName": name,
            "Dimensions": [{"Name": key, "Value": of} for key, of in dimensions.items()],
            "Timestamp": NOW - timedelta(minutes=10),
            **({"Values": [1], "Counts": [value]} if name == "Count" else {"Value": value}),
        }
        boto3.client("cloudwatch").put_metric_data(Namespace=namespace, MetricData=[entry])

    def found(self) -> list[tuple[str, str, str]]:
        """Make the check; what is to be done speaks of this API."""
        return [
            (str(one.state), one.said, one.do.replace(self.api, "API"))
            for one in check_connections(self.deployment, NOW)
        ]

    def said(self) -> list[tuple[str, str]]:
        """Make the check, and leave out what is to be done."""
        return [(state, said) for state, said, _ in self.found()]


@pytest.fixture
def patient(
    world: World, apigateway: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Patient:
    """A deployment where all is well."""
    _make_function()
    boto3.client("logs").create_log_group(logGroupName="access-log")
    make_log_group(ORDERS.log_group)
    subscribe(ORDERS.log_group)
    permit("/aws/vendedlogs/metering/*")
    api = apigateway.create_rest_api(name="Orders")["id"]
    (root,) = apigateway.get_resources(restApiId=api)["items"]
    apigateway.put_method(restApiId=api, resourceId=root["id"], httpMethod="GET", authorizationType="NONE")
    apigateway.put_integration(restApiId=api, resourceId=root["id"], httpMethod="GET", type="MOCK")
    deployed = apigateway.create_deployment(restApiId=api)["id"]
    apigateway.create_stage(restApiId=api, stageName="v1", deploymentId=deployed)
    return Patient(Operator(world, monkeypatch, capsys).deployment, api)


def _make_function() -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        file.writestr("index.py", "")
    boto3.client("iam").create_role(RoleName="functions", AssumeRolePolicyDocument="{}")
    for name in ("record-usage", "check-completeness"):
        boto3.client("lambda").create_function(
            FunctionName=name,
            Runtime="python3.13",
            Role="arn:aws:iam::123456789012:role/functions",
            Handler="index.handler",
            Code={"ZipFile": held.getvalue()},
        )


def subscribe(log_group: str, pattern: str = "") -> None:
    """Bring a log group's lines to the function."""
    arn = "arn:aws:lambda:us-east-1:123456789012:function:record-usage"
    boto3.client("logs").put_subscription_filter(
        logGroupName=log_group, filterName="ours", filterPattern=pattern, destinationArn=arn
    )


def permit(log_groups: str) -> None:
    """Let CloudWatch Logs start the function for log groups."""
    boto3.client("lambda").add_permission(
        FunctionName="record-usage",
        StatementId="ours",
        Action="lambda:InvokeFunction",
        Principal="logs.amazonaws.com",
        SourceArn=f"{LOGS}{log_groups}",
    )


def test_where_all_is_well_one_line_says_so(patient: Patient) -> None:
    """However many connections there are."""
    assert patient.found() == WELL


def test_where_nothing_is_connected_nothing_is_said(patient: Patient) -> None:
    """Nor of what is disconnected."""
    patient.keep(step=Step.DISCONNECTED, until=SINCE + 1)
    patient.write(StageLog())
    assert patient.found() == []


def test_a_command_to_paste_is_one_that_a_shell_gives_on(patient: Patient) -> None:
    """Which takes $default for a variable of its own."""
    patient.keep(step=Step.CONNECTING, stage="$default")
    ((_, _, do),) = patient.found()
    assert do.startswith("metering connect API '$default' --yes goes on with it")


# --- the stage -------------------------------------------------------------------------------------------------------


DEPLOYED_OVER: Final = (
    "metering connect API v1 --yes, or paste the lines of metering connect API v1 --print TOOL into what deploys "
    "it, so that they stay: what it wrote meanwhile may be billed to nobody"
)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (StageLog(), "no longer writes an access log"),
        (StageLog(f"{LOGS}/elsewhere", OWN), f"no longer writes to {ORDERS.log_group}, but to /elsewhere"),
        (StageLog(f"{LOGS}{ORDERS.log_group}", OWN), "no longer writes our format"),
    ],
)
def test_a_stage_over_which_something_was_deployed_is_told(patient: Patient, log: StageLog, said: str) -> None:
    """I9: its calls are billed to nobody from then on."""
    patient.write(log)
    assert patient.found() == [("broken", f"the stage v1 of Orders {said}: something deployed over it", DEPLOYED_OVER)]


def test_a_stage_whose_lines_were_pasted_needs_no_connection(patient: Patient) -> None:
    """Nor is a metric wrong that names the API so, once the connection is over."""
    patient.write(StageLog(f"{LOGS}access-log", patient.ours()))
    assert patient.found() == [
        (
            "warning",
            "the stage v1 of Orders writes into the deployment's own access log by now, and needs no connection",
            "metering disconnect orders --keep-log",
        )
    ]
    patient.declare(Count(name="requests", apis=("orders",)))
    patient.keep(step=Step.DISCONNECTED, until=SINCE + 1)
    assert patient.found() == []


def test_a_stage_that_is_gone_is_told(patient: Patient) -> None:
    """Its API was deleted."""
    boto3.client("apigateway").delete_rest_api(restApiId=patient.api)
    assert patient.found() == [("broken", "the stage v1 of Orders is gone", "metering disconnect orders")]


def test_our_format_of_an_older_declaration_is_told(patient: Patient) -> None:
    """What a metric sums by now is not in it."""
    patient.declare(*REQUESTS, Sum(name="tokens", of="authorizer.tokens"))
    ((state, said, do),) = patient.found()
    assert (state, do) == ("broken", "metering connect API v1 --yes, which gives it the format of now")
    assert said == (
        "the stage v1 of Orders writes our format as it was declared once: it lacks authorizer.tokens; it has "
        "otherwise metering"
    )


def test_a_format_that_older_commands_do_not_know_is_left_alone(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would take it back; and newer ones wait for the stack."""
    patient.declare(*REQUESTS, Sum(name="tokens", of="authorizer.tokens"))
    monkeypatch.setattr("infra.operate.versions.VERSION", "1.0.1")
    ((state, said, do),) = patient.found()
    assert (state, said.partition(":")[0]) == (
        "warning",
        "the stage v1 of Orders writes another format than these commands know",
    )
    assert do.startswith(f"bring these commands to {VERSION} first")
    monkeypatch.setattr("infra.operate.versions.VERSION", "9.0.0")
    ((state, _, do),) = patient.found()
    assert (state, do) == (
        "broken",
        "deploy the Metering stack first, then metering connect API v1 --yes, which gives it the format of now",
    )


def test_an_extended_format_is_compared_with_ours_in_front_of_the_stages_own(patient: Patient) -> None:
    """As it was before."""
    before = StageLog(f"{LOGS}{ORDERS.log_group}", OWN)
    log = StageLog(before.destination, extended(patient.ours(), OWN))
    patient.keep(form=Form.EXTENDED, before=before, after=log)
    patient.write(log)
    assert patient.found() == WELL
    patient.declare(*REQUESTS, Sum(name="tokens", of="authorizer.tokens"))
    assert patient.said() == [("broken", "the stage v1 of Orders writes our format as it was declared once")]


def test_a_format_of_its_own_that_lacks_what_a_metric_reads_since_is_told(patient: Patient) -> None:
    """With the variables that it lacks."""
    log = StageLog(f"{LOGS}{ORDERS.log_group}", THEIRS)
    patient.keep(form=Form.THEIRS, before=log, after=log)
    patient.write(log)
    assert patient.found() == WELL
    patient.declare(*REQUESTS, Sum(name="bytes", of="response_length"))
    ((state, said, do),) = patient.found()
    assert (state, do) == ("broken", "change its format so, or metering connect API v1 --extend")
    assert said == (
        "by the format of its own that the stage v1 of Orders writes, metrics can no longer be billed: the format "
        "cannot be billed by: it lacks $context.responseLength"
    )


def test_a_format_of_its_own_that_was_changed_is_told(patient: Patient) -> None:
    """The lines are no longer read."""
    log = StageLog(f"{LOGS}{ORDERS.log_group}", THEIRS)
    patient.keep(form=Form.THEIRS, before=log, after=log)
    patient.write(StageLog(log.destination, OWN))
    ((_, said, _),) = patient.found()
    assert "no longer writes the format that it was connected with: something deployed over it" in said


# --- its lines -------------------------------------------------------------------------------------------------------

BRING_IN: Final = (
    "metering connect API v1 --yes, then bring in what was missed: metering recount --all --from HOUR --fix"
)


def test_a_subscription_that_is_not_there_is_told(patient: Patient) -> None:
    """Or that brings the lines elsewhere."""
    boto3.client("logs").delete_subscription_filter(logGroupName=ORDERS.log_group, filterName="ours")
    said = f"no subscription brings the log group {ORDERS.log_group} to record-usage"
    assert patient.found() == [("broken", said, BRING_IN)]


def test_a_subscription_with_a_pattern_is_told(patient: Patient) -> None:
    """It keeps lines away unseen; that of usage lines has one."""
    subscribe(ORDERS.log_group, "{ $.status = 200 }")
    said = f"the subscription of {ORDERS.log_group} has a pattern, which keeps lines away unseen"
    assert patient.found() == [("broken", said, f"delete its filter ours, and {BRING_IN}")]
    subscribe(ORDERS.log_group)
    make_log_group(JOBS.log_group)
    subscribe(JOBS.log_group, "usage")
    boto3.client("lambda").remove_permission(FunctionName="record-usage", StatementId="ours")
    permit("*")
    patient.deployment.connections.save(JOBS)
    assert patient.found() == [("ok", "jobs, orders as connected, and delivered", "")]
    subscribe(JOBS.log_group, "tokens")
    ((_, said, do),) = patient.found()
    assert said == "the subscription of /app/jobs has a pattern, which keeps lines away unseen"
    assert do.startswith("delete its filter ours, and metering connect-log /app/jobs --yes")


def test_lines_that_may_not_be_delivered_are_told(patient: Patient) -> None:
    """Another log group's permission is none."""
    boto3.client("lambda").remove_permission(FunctionName="record-usage", StatementId="ours")
    permit("/aws/vendedlogs/metering/others:*")
    said = f"CloudWatch Logs may not invoke record-usage for {ORDERS.log_group}, so that it skips lines for good"
    assert patient.found() == [("broken", said, BRING_IN)]


def test_a_log_group_that_is_gone_is_told(patient: Patient) -> None:
    """So is what makes it again."""
    boto3.client("logs").delete_log_group(logGroupName=ORDERS.log_group)
    assert patient.said() == [("broken", f"the log group {ORDERS.log_group} of orders is gone")]


def test_an_hour_with_requests_and_no_line_is_told(patient: Patient) -> None:
    """I9: the stage is as it should be, and API Gateway cannot write."""
    patient.measure("AWS/ApiGateway", "Count", 1200, ApiName="Orders", Stage="v1")
    assert patient.said() == [("broken", "no line of orders for an hour, 1,200 requests at the gateway")]
    patient.measure("AWS/Logs", "IncomingLogEvents", 1, LogGroupName=ORDERS.log_group)
    assert patient.found() == WELL


def test_a_stage_that_was_connected_within_the_hour_is_not_silent_yet(patient: Patient) -> None:
    """Its requests of before are in no line."""
    patient.keep(since=int((NOW - timedelta(minutes=50)).timestamp() * 1000))
    patient.measure("AWS/ApiGateway", "Count", 1200, ApiName="Orders", Stage="v1")
    assert patient.found() == WELL


@pytest.mark.parametrize(
    ("step", "finding"),
    [
        (
            Step.CONNECTING,
            (
                "broken",
                "orders was begun to be connected, and is not: its lines may not be counted",
                "metering connect API v1 --yes goes on with it, metering disconnect orders goes back",
            ),
        ),
        (
            Step.DISCONNECTING,
            ("warning", "orders was begun to be disconnected, and is not", "metering disconnect orders --yes"),
        ),
    ],
)
def test_what_was_begun_and_is_not_done_is_told(patient: Patient, step: Step, finding: tuple[str, str, str]) -> None:
    """And nothing else of it: it may be anything in between."""
    patient.keep(step=step)
    patient.write(StageLog())
    assert patient.found() == [finding]


def test_of_many_connections_some_are_not_looked_at(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: which is said."""
    monkeypatch.setattr(checks, "MOST_LOOKED_AT", 1)
    patient.deployment.connections.save(msgspec.structs.replace(ORDERS, name="zebras"))
    assert patient.said() == [("warning", "1 more connections were not looked at"), WELL[0][:2]]


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_metric_by_which_a_stranger_could_have_others_billed_is_told(patient: Patient) -> None:
    """I7: one that came after the connection; only where API Gateway itself names a caller that it may have refused."""
    refused = Count(name="refused", statuses=("403",))
    patient.declare(refused)
    assert patient.found() == WELL
    patient.keep(caller="identity.accountId")
    patient.keep(after=StageLog(patient.connection.after.destination, patient.ours()))
    patient.write(patient.connection.after)
    assert patient.found() == [
        (
            "broken",
            (
                "at the stage v1 of Orders, billed by identity.accountId, anybody could have somebody else billed: "
                "'refused' bills 401 or 403, which a caller gets that only says who it is"
            ),
            "take these statuses out of app.py, and deploy it",
        )
    ]
    patient.declare(Count(name="refused", statuses=("403",), apis=("a1b2c3d4e5",)))
    assert "anybody" not in str(patient.found())


def test_a_metric_of_an_api_that_nothing_is_called_is_told(patient: Patient) -> None:
    """I9: it bills nobody."""
    patient.declare(Count(name="requests", apis=("ordres", "orders", patient.api)))
    said = (
        "the metric requests bills requests of 'ordres', which no connection is called, nor is it an API's id: it "
        "bills nobody there"
    )
    assert patient.found() == [("warning", said, "write 'orders'")]


def test_a_metric_of_an_api_that_was_disconnected_is_told(patient: Patient) -> None:
    """It was right once."""
    patient.declare(Count(name="requests", apis=("orders",)))
    patient.keep(step=Step.DISCONNECTED, until=SINCE + 1)
    assert patient.said() == [("warning", "the metric requests bills requests of 'orders', which is disconnected")]


def test_requests_that_are_counted_under_another_name_are_told(patient: Patient, apigateway: Any) -> None:
    """CloudWatch knows a REST API by its name."""
    apigateway.create_rest_api(name="Orders")
    assert patient.said() == [
        ("warning", "2 APIs of the Region are named Orders, and their requests are counted together")
    ]
    rename: Any = [{"op": "replace", "path": "/name", "value": "Orders 2"}]
    apigateway.update_rest_api(restApiId=patient.api, patchOperations=rename)
    assert patient.said() == [
        ("warning", "the API of orders is called Orders 2 now, and its requests are compared as those of Orders")
    ]


# --- WebSocket -------------------------------------------------------------------------------------------------------


def chat(patient: Patient) -> Connection:
    """Connect a WebSocket API in the place of the other."""
    patient.keep(step=Step.DISCONNECTED, until=SINCE + 1)
    client: Any = boto3.client("apigatewayv2")
    api = client.create_api(Name="Chat", ProtocolType="WEBSOCKET", RouteSelectionExpression="$request.body.action")
    log = AccessLog(Api.WEBSOCKET, "authorizer.sub", "chat")
    after = StageLog(f"{LOGS}/aws/vendedlogs/metering/chat", log.format(NONCE, declared(REQUESTS)))
    settings = {"DestinationArn": after.destination, "Format": after.format}
    client.create_stage(ApiId=api["ApiId"], StageName="v1", AccessLogSettings=settings)
    make_log_group("/aws/vendedlogs/metering/chat")
    connection = Connection(
        name="chat",
        form=Form.OURS,
        step=Step.CONNECTED,
        log_group="/aws/vendedlogs/metering/chat",
        since=SINCE,
        by=ORDERS.by,
        api=Api.WEBSOCKET,
        api_id=api["ApiId"],
        api_name="Chat",
        stage="v1",
        caller="authorizer.sub",
        after=after,
    )
    return patient.deployment.connections.save(connection)


def event_line(connection: Connection, number: int, **fields: str) -> str:
    """Return a line of a WebSocket API's stage."""
    written: dict[str, str] = json.loads(connection.after.format)
    line = {name: "-" if value.startswith("$context.") else value for name, value in written.items()}
    values = {"request_id": f"Iq8gj{number}=", "time": f"{NOW.timestamp() * 1000:.0f}", "status": "200", "stage": "v1"}
    return json.dumps(line | values | fields, separators=(",", ":"))


def test_messages_that_name_their_callers_are_well(patient: Patient) -> None:
    """Whatever a handshake names."""
    connection = chat(patient)
    lines = [
        event_line(connection, 1, method="CONNECT", key="chat:-", resource="$connect", stage="MESSAGES"),
        event_line(connection, 2, method="MESSAGE", key="chat:ada", resource="send"),
    ]
    write_lines(connection.log_group, dict.fromkeys(lines, NOW - timedelta(minutes=1)))
    subscribe(connection.log_group)
    assert patient.found() == [("ok", "chat as connected, and delivered", "")]


def test_messages_that_name_no_caller_are_told(patient: Patient) -> None:
    """I9: API Gateway may write what an authorizer told in the line of $connect alone."""
    connection = chat(patient)
    lines = [
        event_line(connection, 1, method="CONNECT", key="chat:ada", resource="$connect"),
        event_line(connection, 2, method="MESSAGE", key="chat:-", resource="send"),
        event_line(connection, 3, method="MESSAGE", key="chat:ada", resource="send"),
    ]
    write_lines(connection.log_group, dict.fromkeys(lines, NOW - timedelta(minutes=1)))
    subscribe(connection.log_group)
    ((state, said, do),) = patient.found()
    assert state == "warning"
    assert said == (
        "of 2 messages to chat in the last hour 1 name no caller, and are billed to nobody: $context.authorizer.sub "
        "has no value in their lines"
    )
    assert "usage lines" in do


def test_messages_are_not_looked_for_where_there_is_no_log_group(patient: Patient) -> None:
    """What is wrong is said all the same."""
    connection = chat(patient)
    boto3.client("logs").delete_log_group(logGroupName=connection.log_group)
    assert patient.said() == [("broken", f"the log group {connection.log_group} of chat is gone")]


# --- the checks of stages --------------------------------------------------------------------------------------------


def test_a_connected_stage_is_no_stranger_to_the_checks_of_stages(patient: Patient) -> None:
    """Neither where none writes the access log, nor where it is compared by name as well."""
    compare(patient)
    assert [(str(one.state), one.said) for one in check_stages(patient.deployment, NOW)] == [
        ("ok", "no stage writes into the access log; those of connections write elsewhere")
    ]
    compare(patient, Stage(Api.REST, "Orders", "v1"))
    (finding,) = check_stages(patient.deployment, NOW)
    assert str(finding.state) == "warning"
    assert finding.said == (
        "the stage v1 of Orders is connected, and its requests are compared with the access log, too, which it does "
        "not write"
    )


def compare(patient: Patient, *stages: Stage) -> None:
    """Let these stages be compared with the access log."""
    assert patient.deployment.outputs.check_completeness_function == "check-completeness"
    settings = CheckCompletenessSettings("counters", "ledger", "Metering", "access-log", stages=encode(stages))
    boto3.client("lambda").update_function_configuration(
        FunctionName="check-completeness", Environment={"Variables": settings.environment()}
    )


def test_methods_of_a_connected_stage_that_ask_for_no_key_are_named(patient: Patient) -> None:
    """Where none of the good lines is billed."""
    service = outputs().deployment
    patient.measure("Metering", "RecordsUnbilled", 50, service=service)
    (finding,) = check_billed(patient.deployment, NOW)
    assert "; no API key is asked for by GET / of Orders" in finding.said


def test_the_role_for_logs_is_looked_at_for_connected_stages_too(patient: Patient) -> None:
    """Also where the stack itself reads HTTP APIs' logs, which need none."""
    vars(patient.deployment)["declared"]["access_log"] = {"api": "http", "caller": "authorizer.claims.sub"}
    assert [str(one.state) for one in check_log_role(patient.deployment, NOW)] == ["broken"]
    patient.keep(step=Step.DISCONNECTED, until=SINCE + 1)
    assert [*check_log_role(patient.deployment, NOW)] == []
