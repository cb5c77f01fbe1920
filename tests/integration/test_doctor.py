"""``metering doctor``: a healthy deployment in moto, and what each check says once something is wrong."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import msgspec
import pytest
from botocore.exceptions import ClientError

from infra.local.stripe.destinations import Destination
from infra.local.stripe.server import LocalStripe
from infra.operate import redrive, rights
from infra.operate.access_notes import AccessNotes, Rotation
from infra.operate.deployment import Deployment, OperatorError
from infra.operate.doctor import account as health_account
from infra.operate.doctor import examine as doctor
from infra.operate.doctor import ledger as health_ledger
from infra.operate.doctor import stages as health_stages
from infra.operate.doctor import stripe as health_stripe
from infra.operate.doctor.examine import CHECKS, Line
from infra.operate.notifications import EVENTS, destine
from infra.outputs import Outputs
from metering.billing.snapshots import KEY_OF_NOBODY
from metering.layout import FAILED_BATCHES
from metering.model.connections import Step
from metering.model.log_format import AccessLog, Api, Declared
from metering.model.metrics import USAGE_LINES, Sum, declared
from metering.model.periods import Hour
from metering.model.stages import Stage, encode
from metering.model.subjects import customer, key
from metering.model.usage_row import NO_STRIPE_CUSTOMER, TOO_OLD, State, Total, UsageRow
from metering.settings import CheckCompletenessSettings
from metering.stores.marks import new_mark
from metering.stores.progress import Round
from metering.stripe.webhooks import SUBSCRIPTION_EVENTS
from tests.doubles.access_log import NONCE
from tests.doubles.outputs import outputs
from tests.integration.connected import JOBS
from tests.integration.operator_commands import Operator
from tests.integration.world import ACCESS_LOG_GROUP, HOUR, METRICS, World

FUNCTIONS = (
    "record-usage", "close-periods", "post-usage", "reconcile-usage", "receive-events", "check-completeness",
    "show-usage",
)  # fmt: skip
STAGE = Stage(Api.REST, "items", "v1")
SCHEDULES = {
    "five-minutes": ("cron(*/5 * * * ? *)", "close-periods"),
    "hour": ("cron(40 * * * ? *)", "reconcile-usage"),
}
STREAM = "amazon-apigateway-metering-access-log"
HEALTHY = [
    "credentials", "clock", "stack", "version", "log role", "stages", "billed lines", "subscription",
    *["functions"] * 7, "schedules", "schedules", "closing", "set aside", "dead letters", "Stripe key", "meters",
    "notifications", "reads", "corrections", "posting", "unbilled", "invoices", "subscriptions", "keys",
    "key values", "alarms", "API keys",
    "concurrency",
]  # fmt: skip


@dataclass
class Pages:
    """An operation of AWS's that moto lacks, as one page."""

    page: dict[str, Any]

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        """Return the only one."""
        return [self.page]


@dataclass
class Answering:
    """A client of AWS that gives some answers of its own, or refuses: an error is raised."""

    client: Any
    answers: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name not in self.answers:
            return getattr(self.client, name)
        answer = self.answers[name]

        def call(**_: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    def get_paginator(self, name: str) -> Any:
        """Return one that gives the answer as its only page."""
        if name not in self.answers:
            return self.client.get_paginator(name)
        return Pages(getattr(self, name)())


@dataclass
class Ward:
    """A deployment where all is well, and who looks at it; ``answers`` are AWS's where moto has none."""

    world: World
    operator: Operator
    outputs: Outputs
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    api: str = ""
    operator_key: str = ""
    log: AccessLog = field(default_factory=AccessLog)
    clients: dict[str, Any] = field(default_factory=dict)

    def client(self, name: str, **_: Any) -> Any:
        """Return a client as a deployment does."""
        if name not in self.clients:
            self.clients[name] = boto3.client(name)  # type: ignore[call-overload]
        return Answering(self.clients[name], self.answers.get(name, {}))

    @property
    def deployment(self) -> Deployment:
        """The deployment as it stands."""
        found = Deployment(self.client, self.outputs, operator_key=self.operator_key)
        log = {"api": self.log.api.value} | ({"caller": self.log.caller} if self.log.caller else {})
        vars(found)["declared"] = {"metrics": msgspec.to_builtins(METRICS), "plans": [], "access_log": log}
        return found

    def tell(self, **told: str) -> None:
        """Let outputs be otherwise."""
        self.outputs = replace(self.outputs, **told)

    def clock(self) -> datetime:
        """Return the world's time."""
        return self.world.now

    def examine(self) -> list[Line]:
        """Make every check; the clock's, by the real time, since AWS's answers are dated by it."""
        return [*doctor.examine(self.deployment, self.clock)]

    def of(self, check: str, **only: Any) -> list[tuple[str, str, str]]:
        """Make one check and return what it finds."""
        monkeypatch: pytest.MonkeyPatch = self.operator.monkeypatch
        with monkeypatch.context() as patch:
            patch.setattr(doctor, "CHECKS", {check: CHECKS[check]})
            clock: Callable[[], datetime] = only.get("clock", self.clock)
            return [(str(line.state), line.said, line.do) for line in doctor.examine(self.deployment, clock)]

    def measure(self, namespace: str, name: str, value: float, **dimensions: str) -> None:
        """Let CloudWatch have measured something a minute ago."""
        boto3.client("cloudwatch").put_metric_data(
            Namespace=namespace,
            MetricData=[
                {
                    "MetricName": name,
                    "Dimensions": [{"Name": key, "Value": of} for key, of in dimensions.items()],
                    "Timestamp": self.world.now - timedelta(minutes=1),
                    "Value": value,
                }
            ],
        )

    def compare_with(self, *stages: Stage) -> None:
        """Let these stages be compared."""
        settings = CheckCompletenessSettings(
            "counters", "ledger", "Metering", ACCESS_LOG_GROUP, stages=encode(stages)
        ).environment()
        boto3.client("lambda").update_function_configuration(
            FunctionName="check-completeness", Environment={"Variables": settings}
        )

    def set_log(self, **settings: str) -> None:
        """Change the stage's access log."""
        changes: Any = [
            {"op": "replace", "path": f"/accessLogSettings/{name}", "value": value} for name, value in settings.items()
        ]
        boto3.client("apigateway").update_stage(restApiId=self.api, stageName="v1", patchOperations=changes)


def function(name: str) -> str:
    """Make a Lambda function; return its ARN."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        file.writestr("index.py", "")
    made: Any = boto3.client("lambda").create_function(
        FunctionName=name,
        Runtime="python3.13",
        Role="arn:aws:iam::123456789012:role/functions",
        Handler="index.handler",
        Code={"ZipFile": held.getvalue()},
    )
    return str(made["FunctionArn"])


def subscribe(arn: str) -> None:
    """Bring the access log to a function."""
    boto3.client("logs").put_subscription_filter(
        logGroupName=ACCESS_LOG_GROUP, filterName="filter", filterPattern="", destinationArn=arn
    )


@pytest.fixture
def stripe() -> Iterator[LocalStripe]:
    """The local Stripe, with a key for each right that another lacks."""
    least = rights.FUNCTIONS
    lesser = {f"rk_test_no_{name}": {one: has for one, has in least.items() if one != name} for name in least}
    more = {f"rk_test_writes_{name}": {**least, name: level} for name, level in rights.OPERATORS.items()}
    keys = {"rk_test_functions": least, "rk_test_operator": rights.OPERATORS, **lesser, **more}
    with LocalStripe(api_keys=["sk_test_local", "sk_live_local"], restricted_keys=keys) as it:
        yield it


@pytest.fixture
def ward(world: World, apigateway: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ward:
    """A deployment where all is well."""
    operator = Operator(world, monkeypatch, capsys)
    topic: Any = boto3.client("sns").create_topic(Name="alarms")
    boto3.client("sns").subscribe(
        TopicArn=topic["TopicArn"], Protocol="sqs", Endpoint="arn:aws:sqs:us-east-1:123456789012:q"
    )
    told = outputs(stripe_api_base=world.stripe.url, access_log_group=ACCESS_LOG_GROUP, alarm_topic=topic["TopicArn"])
    found = Ward(world, operator, told)
    _deploy(found, apigateway)
    boto3.client("secretsmanager").create_secret(Name="signing-secret")
    destine(found.deployment, told.notifications_url)
    world.ledger.progress.advance_cursor(HOUR)
    world.now = HOUR.start + timedelta(minutes=30)
    monkeypatch.setattr(Deployment, "find", lambda *_, **__: found.deployment)
    monkeypatch.setattr("infra.cli.doctor.now", world.clock)
    monkeypatch.setattr(health_account, "parsedate_to_datetime", lambda _text: world.now)
    return found


def _deploy(ward: Ward, rest: Any) -> None:
    boto3.client("iam").create_role(RoleName="functions", AssumeRolePolicyDocument="{}")
    arns = {name: function(name) for name in FUNCTIONS}
    boto3.client("lambda").add_permission(
        FunctionName="record-usage", StatementId="s", Action="lambda:InvokeFunction", Principal="logs.amazonaws.com"
    )
    boto3.client("logs").create_log_group(logGroupName=ACCESS_LOG_GROUP)
    subscribe(arns["record-usage"])
    for name, (expression, target) in SCHEDULES.items():
        boto3.client("scheduler").create_schedule(
            Name=name,
            ScheduleExpression=expression,
            FlexibleTimeWindow={"Mode": "OFF"},
            Target={"Arn": arns[target], "RoleArn": "arn:aws:iam::123456789012:role/functions"},
        )
    for name in FUNCTIONS:
        ward.measure("AWS/Lambda", "Invocations", 6, FunctionName=name)
    ward.api = rest.create_rest_api(name="items")["id"]
    (root,) = rest.get_resources(restApiId=ward.api)["items"]
    rest.put_method(restApiId=ward.api, resourceId=root["id"], httpMethod="GET", authorizationType="NONE")
    rest.put_integration(restApiId=ward.api, resourceId=root["id"], httpMethod="GET", type="MOCK")
    deployed = rest.create_deployment(restApiId=ward.api)["id"]
    rest.create_stage(restApiId=ward.api, stageName="v1", deploymentId=deployed)
    ward.compare_with(STAGE)
    rest.update_account(
        patchOperations=[
            {"op": "replace", "path": "/cloudwatchRoleArn", "value": "arn:aws:iam::123456789012:role/logs"}
        ]
    )
    for name in ("record-usage", "show-usage"):
        boto3.client("lambda").put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=50)
    ward.set_log(
        destinationArn=f"arn:aws:logs:us-east-1:123456789012:log-group:{ACCESS_LOG_GROUP}",
        format=AccessLog().format(NONCE, declared(METRICS)),
    )
    limits = {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 900}
    since = ward.world.now - timedelta(days=3)
    stack = {"StackStatus": "UPDATE_COMPLETE", "CreationTime": since, "LastUpdatedTime": since}
    resources = [
        {"ResourceType": "AWS::Scheduler::Schedule", "PhysicalResourceId": name, "LastUpdatedTimestamp": since}
        for name in SCHEDULES
    ]
    ward.answers = {
        "cloudformation": {
            "describe_stacks": {"Stacks": [stack]},
            "list_stack_resources": {"StackResourceSummaries": resources},
        },
        "lambda": {"get_account_settings": {"AccountLimit": limits}},
    }


def test_where_all_is_well_every_line_is_ok(ward: Ward) -> None:
    """Each check says something; nothing is to be done."""
    found = ward.examine()
    assert [(line.check, line.state, line.do) for line in found] == [(name, "ok", "") for name in HEALTHY]


def test_the_command_says_so_and_exits_with_0(ward: Ward) -> None:
    """One line a check; or one document."""
    said = ward.operator.run("doctor")
    assert (said.code, said.err) == (0, "")
    assert (
        "ok       schedules: the schedule five-minutes fires: 6 runs of close-periods in the last 30 minutes"
        in said.out
    )
    document = ward.operator.run("doctor", "--json").document
    assert (document["broken"], [one["check"] for one in document["checks"]]) == (False, HEALTHY)


def test_the_command_exits_with_1_only_if_something_is_broken(ward: Ward) -> None:
    """And says what to do under the line."""
    ward.world.switch.turn(msgspec.structs.replace(ward.world.switch.read(), on=False))
    said = ward.operator.run("doctor")
    assert said.code == 0
    assert "warning  posting: posting is off, so that nothing is billed\n         -> metering posting on" in said.out
    boto3.client("logs").delete_subscription_filter(logGroupName=ACCESS_LOG_GROUP, filterName="filter")
    said = ward.operator.run("doctor", "--json")
    assert said.code == 1
    assert said.document["broken"]


def test_nothing_is_changed(ward: Ward) -> None:
    """Neither here nor at Stripe, whose objects a probe names that are not there."""
    before = ward.world.stripe.state()
    events = len(ward.world.stripe.events)
    ward.examine()
    after = ward.world.stripe.state()
    assert (after["hour_totals"], after["events"]) == (before["hour_totals"], before["events"])
    assert len(ward.world.stripe.events) == events
    written = [route for route in after["calls"] if route.startswith("POST") and not route.endswith(":id")]
    asked = {"POST /v1/billing/meter_events", "POST /v1/invoices/create_preview"}
    assert set(written) - set(before["calls"]) == asked


# --- what cannot be checked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            "User: x is not authorized to perform: logs:DescribeSubscriptionFilters on resource: y",
            "logs:DescribeSubscriptionFilters",
        ),
        ("no", "DescribeSubscriptionFilters"),
    ],
)
def test_what_may_not_be_looked_at_is_a_warning_that_names_the_permission(ward: Ward, words: str, named: str) -> None:
    """And every other check is made."""
    refused = ClientError({"Error": {"Code": "AccessDeniedException", "Message": words}}, "DescribeSubscriptionFilters")
    ward.answers["logs"] = {"describe_subscription_filters": refused}
    found = ward.examine()
    assert [line.check for line in found] == HEALTHY
    (odd,) = [line for line in found if line.state != "ok"]
    assert (odd.check, odd.state) == ("subscription", "warning")
    assert (odd.said, odd.do) == (
        f"could not be checked: you have no permission for {named}",
        f"let your own role {named}",
    )


def test_what_fails_in_another_way_is_a_warning_with_the_words(ward: Ward) -> None:
    """AWS's own, or the program's."""
    broken = ClientError({"Error": {"Code": "InternalFailure", "Message": "sorry"}}, "DescribeStacks")
    ward.answers["cloudformation"]["describe_stacks"] = broken
    ((state, said, _),) = ward.of("stack")
    assert (state, said) == ("warning", "could not be checked: AWS answered InternalFailure to DescribeStacks: sorry")
    ward.answers["cloudformation"]["describe_stacks"] = {}
    assert ward.of("stack")[0][:2] == ("warning", "could not be checked: 'Stacks'")


# --- each check ------------------------------------------------------------------------------------------------------


def test_credentials_are_said(ward: Ward) -> None:
    """Whose, and where."""
    ((_, said, _),) = ward.of("credentials")
    assert "123456789012" in said
    assert "us-east-1" in said
    ward.answers["sts"] = {"get_caller_identity": ClientError({"Error": {"Code": "ExpiredToken"}}, "GetCallerIdentity")}
    assert ward.of("credentials")[0][0] == "warning"


@pytest.mark.parametrize(("off", "state"), [(119, "ok"), (121, "warning"), (301, "broken")])
def test_a_clock_that_is_wrong_is_told(ward: Ward, off: int, state: str) -> None:
    """From two minutes on, which is what late marks allow for; AWS refuses five."""
    for sign in (1, -1):
        ((found, said, _),) = ward.of("clock", clock=lambda s=sign: ward.world.now + timedelta(seconds=s * off))
        assert (found, said) == (state, f"this machine's clock and AWS's are {off} s apart")


def test_the_clock_is_compared_with_the_date_of_awss_answer(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HTTP writes it."""
    monkeypatch.undo()
    answer = {"ResponseMetadata": {"HTTPHeaders": {"date": "Sun, 22 Nov 2026 05:30:10 GMT"}}}
    deployment = Deployment(lambda *_, **__: Answering(None, {"get_caller_identity": answer}), ward.outputs)
    (found,) = CHECKS["clock"](deployment, datetime(2026, 11, 22, 5, 30, tzinfo=UTC))
    assert found.said == "this machine's clock and AWS's are 10 s apart"


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("CREATE_COMPLETE", "ok"),
        ("UPDATE_IN_PROGRESS", "warning"),
        ("UPDATE_ROLLBACK_COMPLETE", "warning"),
        ("UPDATE_ROLLBACK_FAILED", "broken"),
        ("ROLLBACK_COMPLETE", "broken"),
    ],
)
def test_a_stack_whose_deployment_failed_is_told(ward: Ward, status: str, state: str) -> None:
    """Rolled back, it works as before."""
    ward.answers["cloudformation"]["describe_stacks"]["Stacks"][0]["StackStatus"] = status
    assert ward.of("stack")[0][0] == state


def test_a_stack_of_another_version_is_told(ward: Ward) -> None:
    """By what it lacks."""
    told = ward.outputs.written()
    del told["NotificationsUrl"]
    ward.outputs = Outputs.read(told)
    [(state, said, do)] = ward.of("version")
    assert (state, said.partition(": ")[0]) == ("broken", "the stack has no NotificationsUrl")
    assert do.startswith("deploy the stack again: the Metering stack first, then those of your APIs")


@pytest.mark.parametrize(
    ("commands", "stack", "state", "do"),
    [
        ("1.2.0", "1.2.0", "ok", ""),
        ("1.2.0", "1.10.0", "warning", "bring these commands to 1.10.0 first"),
        ("1.2.0", "1.2.0.dev0", "warning", "deploy the Metering stack first, then those of your APIs"),
        ("1.10.0", "1.2.0", "warning", "deploy the Metering stack first, then those of your APIs"),
        ("1.1.0", "", "warning", "deploy the Metering stack first, then those of your APIs"),
        ("1.0.0", "", "ok", ""),
    ],
)
def test_which_version_to_bring_up_first_is_told(  # noqa: PLR0913, PLR0917
    ward: Ward, monkeypatch: pytest.MonkeyPatch, commands: str, stack: str, state: str, do: str
) -> None:
    """The one that is older, and of the stacks the one that reads what the others write; 1.0.0 told no version."""
    be_of(ward, monkeypatch, commands, stack)
    [(found, said, advice)] = ward.of("version")
    assert (found, advice.startswith(do), bool(advice)) == (state, True, bool(do))
    assert (stack or "1.0.0") in said
    assert commands in said


def be_of(ward: Ward, monkeypatch: pytest.MonkeyPatch, commands: str, stack: str) -> None:
    """Let the commands be of a version, and what deployed the stack of another."""
    for module in ("versions", "doctor.account"):
        monkeypatch.setattr(f"infra.operate.{module}.VERSION", commands)
    told = ward.outputs.written() | {"Version": stack}
    ward.outputs = Outputs.read({name: value for name, value in told.items() if value})


def test_a_stage_of_before_is_deployed_after_the_stack_and_after_that_by_itself(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 'version' says; the API's own stack is the last."""
    ward.set_log(format=AccessLog().format(NONCE, declared(METRICS)).replace('"data_processed":"-",', ""))
    stage = (
        "give the stage v1 of items metering.access_log_format, and deploy it: until then its lines may be set aside"
    )
    be_of(ward, monkeypatch, "1.2.0", "1.1.0")
    [(_, _, version), (state, _, do)] = ward.of("version") + ward.of("stages")
    assert version.startswith("deploy the Metering stack first, then those of your APIs: until then 'stages' tells")
    assert (state, do) == ("broken", f"deploy the Metering stack first, then {stage}")
    be_of(ward, monkeypatch, "1.2.0", "1.2.0")
    assert [ward.of("version")[0][0], ward.of("stages")[0][2]] == ["ok", stage]


def test_commands_that_are_behind_have_nothing_deployed(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """They know neither what the newer stack declares nor the format of its stages, and would take both back."""
    first = "bring these commands to 1.3.0 first, by git and 'uv sync', and deploy nothing before"
    be_of(ward, monkeypatch, "1.2.0", "1.3.0")
    ward.set_log(format=AccessLog().format(NONCE, declared(METRICS)).replace('"status"', '"domain":"-","status"'))
    assert [line[2] for line in ward.of("version") + ward.of("stages")] == [first] * 2
    assert ward.of("stages")[0][:2] == (
        "warning",
        "the stage v1 of items writes another format than these commands know: it has also domain",
    )
    deployment = ward.deployment
    deployment.declared["metrics"][0]["colour"] = "blue"
    with pytest.raises(OperatorError, match=f"^the stack '.*' was deployed by another version: {first}$"):
        _ = deployment.declared_metrics


def test_a_stage_with_another_format_is_told_with_the_difference(ward: Ward) -> None:
    """Field by field; in another order it would be read all the same, but not at once."""
    good = json.loads(AccessLog().format(NONCE, declared(METRICS)))
    other = {name: value for name, value in good.items() if name != "status"} | {"path": "$context.path", "time": "1"}
    for text, said in {
        json.dumps(other): "it lacks status; it has also path; it has otherwise time",
        json.dumps(good, indent=1): "its fields are in another order",
        "$context.requestId": "it is no JSON object",
        '{"key":"$context.identity.apiKeyId"}': "it lacks ",
    }.items():
        ward.set_log(format=text)
        ((state, found, _),) = ward.of("stages")
        assert state == "broken"
        assert f"the stage v1 of items writes another format than ours: {said}" in found


def test_the_caller_that_the_stack_declares_is_our_format(ward: Ward) -> None:
    """It is said whom the stage bills; another caller is another format."""
    ward.set_log(format=AccessLog(caller="authorizer.tenant").format(NONCE, declared(METRICS)))
    assert ward.of("stages")[0][:2] == (
        "broken",
        "the stage v1 of items writes another format than ours: it has otherwise key",
    )
    ward.log = AccessLog(caller="authorizer.tenant")
    assert ward.of("stages") == [("ok", "the stage v1 of items writes our format, and bills authorizer.tenant", "")]


def test_an_http_apis_stages_are_compared_too(ward: Ward) -> None:
    """By the API's id, with the format of its kind; they need no role of the account."""
    ward.log = AccessLog(Api.HTTP, "authorizer.claims.sub")
    http: Any = boto3.client("apigatewayv2")
    ids = {name: http.create_api(Name=name, ProtocolType="HTTP")["ApiId"] for name in ("orders", "returns")}
    destination = f"arn:aws:logs:us-east-1:123456789012:log-group:{ACCESS_LOG_GROUP}:*"
    for name, written in {"orders": ward.log, "returns": AccessLog()}.items():
        log = {"DestinationArn": destination, "Format": written.format(NONCE, declared(METRICS))}
        http.create_stage(ApiId=ids[name], StageName="$default", AccessLogSettings=log)
    ward.compare_with(*(Stage(Api.HTTP, api, "$default") for api in ids.values()))
    found = ward.of("stages")
    assert ("ok", "the stage $default of orders writes our format, and bills authorizer.claims.sub", "") in found
    assert sorted(said.partition(" writes ")[0] for state, said, _ in found if state == "broken") == [
        "the stage $default of returns",
        "the stage v1 of items",
    ]
    assert "the requests of the stage v1 of items:" in found[-1][1]
    assert ward.of("log role") == []


def test_lines_that_were_pasted_are_our_format_too(ward: Ward) -> None:
    """They bear a name of their own; when a metric names another variable, they are to be pasted anew."""
    http: Any = boto3.client("apigatewayv2")
    api = http.create_api(Name="Shop", ProtocolType="HTTP")["ApiId"]
    log = AccessLog(Api.HTTP, "authorizer.claims.sub", "shop")
    settings = {
        "DestinationArn": f"arn:aws:logs:us-east-1:123456789012:log-group:{ACCESS_LOG_GROUP}",
        "Format": log.format(NONCE, declared(METRICS)),
    }
    http.create_stage(ApiId=api, StageName="v1", AccessLogSettings=settings)
    ward.compare_with(STAGE, Stage(Api.HTTP, api, "v1"))
    said = ("ok", "the stage v1 of Shop writes our format as shop, and bills shop:authorizer.claims.sub", "")
    assert said in ward.of("stages")
    former = log.format(NONCE, Declared(("authorizer.former",)))
    http.delete_stage(ApiId=api, StageName="v1")
    http.create_stage(ApiId=api, StageName="v1", AccessLogSettings=settings | {"Format": former})
    ((_, _, todo),) = [found for found in ward.of("stages") if found[0] == "broken"]
    assert todo.startswith(f"paste the lines anew that 'metering connect {api} v1 --print TOOL' shows, and deploy it")


def test_a_compared_stage_that_writes_elsewhere_is_told(ward: Ward) -> None:
    """Whatever its format: its requests are billed to nobody."""
    elsewhere = f"arn:aws:logs:us-east-1:123456789012:log-group:not-{ACCESS_LOG_GROUP}"
    ward.set_log(destinationArn=elsewhere)
    assert [found[:2] for found in ward.of("stages")] == [
        ("broken", f"the stage v1 of items writes its access log to {elsewhere}: its requests are billed to nobody")
    ]


def test_a_compared_stage_that_writes_nothing_or_is_gone_is_told(ward: Ward) -> None:
    """Somebody deployed over it, or took it away."""
    rest: Any = boto3.client("apigateway")
    deployed = rest.create_deployment(restApiId=ward.api)["id"]
    rest.create_stage(restApiId=ward.api, stageName="v2", deploymentId=deployed)
    ward.compare_with(STAGE, Stage(Api.REST, "items", "v2"), Stage(Api.REST, "items", "v3"))
    assert [found[:2] for found in ward.of("stages")] == [
        ("broken", "the stage v2 of items writes no access log: its requests are billed to nobody"),
        ("broken", "the stage v3 of items is to be compared, and is not there"),
        ("ok", "the stage v1 of items writes our format, and bills identity.apiKeyId"),
    ]


def test_where_no_stage_is_compared_it_is_told(ward: Ward) -> None:
    """I7: whoever may write into the log could write lines of requests that were never made."""
    ward.compare_with()
    good, alone = ward.of("stages")
    assert (good[0], alone[0]) == ("ok", "warning")
    assert "lines that somebody else writes into the log would be noticed" in alone[1]
    ward.set_log(destinationArn="arn:aws:logs:us-east-1:123456789012:log-group:other")
    assert [found[:2] for found in ward.of("stages")] == [("warning", "no stage writes into the access log")]


def test_apis_of_one_name_are_told(ward: Ward) -> None:
    """CloudWatch adds up their requests; and it knows a name without what is not ASCII."""
    rest: Any = boto3.client("apigateway")
    other = rest.create_rest_api(name="itemsé")["id"]
    (root,) = rest.get_resources(restApiId=other)["items"]
    rest.put_method(restApiId=other, resourceId=root["id"], httpMethod="GET", authorizationType="NONE")
    rest.put_integration(restApiId=other, resourceId=root["id"], httpMethod="GET", type="MOCK")
    rest.create_stage(restApiId=other, stageName="v1", deploymentId=rest.create_deployment(restApiId=other)["id"])
    told, good = ward.of("stages")
    assert told[:2] == ("warning", "2 APIs of the Region are named items, and their requests are counted together")
    assert good[0] == "ok"


def test_of_many_apis_those_that_are_compared_are_looked_at(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: each of the others is a call."""
    monkeypatch.setattr(health_stages, "MOST_APIS", 1)
    for number in range(3):
        boto3.client("apigateway").create_rest_api(name=f"another {number}")
    good, bounded = ward.of("stages")
    assert (good[0], bounded[:2]) == ("ok", ("warning", "2 APIs of the Region were not looked at"))


def test_an_account_without_a_role_for_logs_is_told(ward: Ward) -> None:
    """A REST API's stage can write none then, unless it writes to Firehose."""
    assert ward.of("log role") == [("ok", "API Gateway writes access logs by the role logs", "")]
    ward.answers["apigateway"] = {"get_account": {}}
    assert ward.of("log role")[0][:2] == (
        "broken",
        "API Gateway has no role to write access logs by, so that no REST or WebSocket API of this Region can",
    )
    ward.tell(delivery_stream=STREAM)
    assert ward.of("log role") == []


def test_a_subscription_that_is_not_there_is_told(ward: Ward) -> None:
    """Also where it leads elsewhere."""
    subscribe(function("elsewhere"))
    ((state, said, do),) = ward.of("subscription")
    assert (state, said) == ("broken", f"no subscription brings the log group {ACCESS_LOG_GROUP} to record-usage")
    assert do.endswith("metering recount --all --from HOUR --fix")


def test_a_subscription_that_may_not_invoke_is_told(ward: Ward) -> None:
    """Its lines are skipped for good."""
    boto3.client("lambda").remove_permission(FunctionName="record-usage", StatementId="s")
    ((state, said, _),) = ward.of("subscription")
    assert (state, said) == ("broken", "CloudWatch Logs may not invoke record-usage, so that it skips lines for good")
    boto3.client("lambda").add_permission(
        FunctionName="record-usage", StatementId="t", Action="lambda:InvokeFunction", Principal="s3.amazonaws.com"
    )
    assert ward.of("subscription")[0][0] == "broken"


def test_usage_lines_that_nothing_brings_are_told(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9: a log group that the stack subscribes brings some, or one that is connected; else it is said."""
    assert ward.of("usage lines") == []
    monkeypatch.setattr(Deployment, "declared_metrics", (Sum(name="tokens", of=USAGE_LINES),))
    ((state, said, do),) = ward.of("usage lines")
    assert (state, said) == ("warning", "a metric measures usage lines, and no log group brings any")
    assert do.endswith("connect one that is there: metering connect-log")
    ward.deployment.connections.save(JOBS)
    assert ward.of("usage lines") == [("ok", "usage lines come from /app/jobs", "")]
    ended = msgspec.structs.replace(JOBS, version=1, step=Step.DISCONNECTED, until=JOBS.since + 1)
    ward.deployment.connections.save(ended)
    for name in ("work", "jobs"):
        boto3.client("lambda").add_permission(
            FunctionName="record-usage",
            StatementId=name,
            Action="lambda:InvokeFunction",
            Principal="logs.amazonaws.com",
            SourceArn=f"arn:aws:logs:us-east-1:123456789012:log-group:/app/{name}:*",
        )
    (_, said, do), well = ward.of("usage lines")
    assert said.startswith("/app/jobs is subscribed by its own stack, but its connection has ended")
    assert do.startswith("metering connect-log /app/jobs; or ")
    assert well == ("ok", "usage lines come from /app/work", "")


def test_a_subscription_with_a_pattern_is_told(ward: Ward) -> None:
    """It keeps lines away that nobody would ever see."""
    boto3.client("logs").put_subscription_filter(
        logGroupName=ACCESS_LOG_GROUP,
        filterName="filter",
        filterPattern="200",
        destinationArn="arn:aws:lambda:us-east-1:123456789012:function:record-usage",
    )
    assert ward.of("subscription")[0][:2] == ("broken", "the subscription has a pattern, which keeps lines away unseen")


def test_errors_of_the_subscription_are_told(ward: Ward) -> None:
    """Of the last day, by whatever CloudWatch calls a function; those of another subscription are not ours."""
    for kind, name, count in (("Lambda", "filter", 3), ("LambdaFunction", "filter", 4), ("Lambda", "other", 5)):
        ward.measure(
            "AWS/Logs", "DeliveryErrors", count, LogGroupName=ACCESS_LOG_GROUP, DestinationType=kind, FilterName=name
        )
    ward.measure(
        "AWS/Logs", "DeliveryThrottling", 6, LogGroupName="elsewhere", DestinationType="x", FilterName="filter"
    )
    assert ward.of("subscription")[0][:2] == (
        "warning",
        "7 log events could not be delivered at once in the last day",
    )


def _deliver_by_stream(ward: Ward) -> None:
    boto3.client("firehose").create_delivery_stream(
        DeliveryStreamName=STREAM,
        S3DestinationConfiguration={
            "RoleARN": "arn:aws:iam::123456789012:role/functions",
            "BucketARN": "arn:aws:s3:::bucket",
        },
    )
    ward.tell(delivery_stream=STREAM)


def test_a_stream_is_checked_where_there_is_one(ward: Ward) -> None:
    """It is active, its objects are taken, and it holds nothing for long."""
    assert ward.of("stream") == []
    _deliver_by_stream(ward)
    assert ward.of("stream")[0][:2] == ("broken", "the queue of its objects is not there")
    queue: Any = boto3.client("sqs").create_queue(QueueName="objects")
    arn = "arn:aws:sqs:us-east-1:123456789012:objects"
    boto3.client("lambda").create_event_source_mapping(FunctionName="record-usage", EventSourceArn=arn)
    assert queue
    assert ward.of("stream") == [
        ("ok", f"the delivery stream {STREAM} delivers, and its objects are taken", ""),
        ("ok", f"the delivery stream {STREAM} took at most 0% of the bytes a second that it may, in the last day", ""),
    ]
    ward.measure("AWS/Firehose", "DeliveryToS3.DataFreshness", 7200, DeliveryStreamName=STREAM)
    assert ward.of("stream")[0][:2] == (
        "broken",
        f"the delivery stream {STREAM} holds lines for 120 minutes; after 24 hours it drops them",
    )


def test_a_stream_near_its_quota_is_told(ward: Ward) -> None:
    """Before it refuses lines, and once it does: API Gateway may never send them again."""
    _deliver_by_stream(ward)
    for name, value in (
        ("BytesPerSecondLimit", 1_048_576),
        ("IncomingBytes", 300 * 524_288),
        ("RecordsPerSecondLimit", 1_000),
        ("IncomingRecords", 300 * 790),
    ):
        ward.measure("AWS/Firehose", name, value, DeliveryStreamName=STREAM)
    said = f"the delivery stream {STREAM} took at most"
    assert ward.of("stream")[-1] == ("ok", f"{said} 79% of the records a second that it may, in the last day", "")
    ward.measure("AWS/Firehose", "IncomingBytes", 300 * 524_288, DeliveryStreamName=STREAM)
    state, found, do = ward.of("stream")[-1]
    assert (state, found) == ("warning", f"{said} 100% of the bytes a second that it may, in the last day")
    ward.measure("AWS/Firehose", "ThrottledRecords", 7, DeliveryStreamName=STREAM)
    assert ward.of("stream")[-1][:2] == ("warning", f"{found}, and refused 7 lines")
    assert do.startswith("ask for more in Service Quotas (Firehose)")


def test_a_stage_that_writes_to_the_stream_is_compared(ward: Ward) -> None:
    """By its ARN."""
    ward.tell(delivery_stream=STREAM)
    ward.set_log(destinationArn=f"arn:aws:firehose:us-east-1:123456789012:deliverystream/{STREAM}")
    assert ward.of("stages")[0][0] == "ok"


def test_a_function_that_fails_is_told(ward: Ward) -> None:
    """Some failures are a warning; where every other run fails, it is broken."""
    ward.measure("AWS/Lambda", "Errors", 2, FunctionName="post-usage")
    ward.measure("AWS/Lambda", "Throttles", 1, FunctionName="post-usage")
    (odd,) = [found for found in ward.of("functions") if found[0] != "ok"]
    assert odd[:2] == ("warning", "post-usage: 6 runs in the last day, 2 failed, 1 throttled")
    ward.measure("AWS/Lambda", "Errors", 1, FunctionName="post-usage")
    assert [found[0] for found in ward.of("functions")].count("broken") == 1


def test_a_function_that_cannot_run_is_told(ward: Ward) -> None:
    """As after a failed update."""
    answer = {"State": "Failed", "LastUpdateStatus": "Failed", "StateReason": "no image"}
    ward.answers["lambda"]["get_function_configuration"] = answer
    assert ward.of("functions")[0][:2] == ("broken", "check-completeness is Failed, its last update Failed: no image")


def test_a_schedule_that_is_disabled_is_told(ward: Ward) -> None:
    """Somebody may have forgotten it."""
    scheduler: Any = boto3.client("scheduler")
    was = scheduler.get_schedule(Name="hour")
    wanted = {name: was[name] for name in ("Name", "ScheduleExpression", "FlexibleTimeWindow", "Target")}
    scheduler.update_schedule(**wanted, State="DISABLED")
    assert [found[:2] for found in ward.of("schedules")][1:] == [("broken", "the schedule hour is DISABLED")]


def test_a_schedule_that_does_not_fire_is_told(ward: Ward) -> None:
    """Three of its ticks have passed; just after a deployment there was no time for one."""
    ward.world.now += timedelta(hours=1)
    fast, slow = ward.of("schedules")
    assert fast[:2] == (
        "broken",
        "the schedule five-minutes is enabled, but close-periods did not run in the last 30 minutes",
    )
    assert slow[0] == "ok"
    resources = ward.answers["cloudformation"]["list_stack_resources"]["StackResourceSummaries"]
    resources[0]["LastUpdatedTimestamp"] = ward.world.now - timedelta(minutes=3)
    assert ward.of("schedules")[0][:2] == ("warning", "close-periods has not run yet since it was deployed")


def test_a_schedule_whose_every_run_fails_is_told(ward: Ward) -> None:
    """It fires, and nothing is done."""
    ward.measure("AWS/Lambda", "Errors", 6, FunctionName="close-periods")
    assert ward.of("schedules")[0][:2] == (
        "broken",
        "each of 6 runs of close-periods in the last 30 minutes failed",
    )


def test_a_stack_without_schedules_is_told(ward: Ward) -> None:
    """Nothing would be closed."""
    ward.answers["cloudformation"]["list_stack_resources"]["StackResourceSummaries"] = []
    assert ward.of("schedules")[0][0] == "broken"


def test_hours_that_stay_open_are_told(ward: Ward) -> None:
    """One or two are under way."""
    ward.world.now += timedelta(hours=2)
    assert ward.of("closing")[0][0] == "ok"
    ward.world.now += timedelta(hours=1)
    assert ward.of("closing")[0][:2] == (
        "broken",
        "3 hours are due and not closed, from 2026-11-22T05 on",
    )


def test_a_ledger_in_which_nothing_is_closed_is_told(ward: Ward) -> None:
    """A new one."""
    boto3.client("dynamodb").delete_item(TableName="ledger", Key={"pk": {"S": "period#cursor"}, "sk": {"S": "close"}})
    assert ward.of("closing")[0][:2] == ("warning", "no hour is closed yet")


def test_posting_that_is_off_is_told(ward: Ward) -> None:
    """Everything else may be well, and nobody pays."""
    ward.world.switch.turn(msgspec.structs.replace(ward.world.switch.read(), on=False))
    assert ward.of("posting")[0][:2] == ("warning", "posting is off, so that nothing is billed")


def test_what_waits_while_posting_is_off_is_told(ward: Ward) -> None:
    """I9: for however long."""
    row = UsageRow(customer("acme"), HOUR, totals={"requests": Total(5, 1, State.PENDING)})
    ward.world.ledger.rows.save(row)
    ward.world.switch.turn(msgspec.structs.replace(ward.world.switch.read(), on=False))
    assert ward.of("posting")[0][1] == "posting is off, so that nothing is billed: 1 customer's hour waits"


def test_what_is_from_before_posting_began_is_told(ward: Ward) -> None:
    """I9: it waits for ever. What is older than Stripe takes is counted, and nobody has to act."""
    rows = ward.world.ledger.rows
    rows.save(UsageRow(customer("acme"), HOUR, totals={"requests": Total(5, 1, State.PENDING)}))
    ward.world.switch.turn(msgspec.structs.replace(ward.world.switch.read(), on=True, since=str(HOUR.next())))
    (state, said, do), on = ward.of("posting")
    assert (state, said[:62]) == ("warning", "1 customer's hour of the last 35 days is from before posting b")
    assert do.startswith("nothing, if they were to be free; else metering posting on with --since")
    assert on[0] == "ok"
    ward.world.now += timedelta(days=36)
    ((state, said, _),) = ward.of("posting")
    assert (state, said) == (
        "ok", f"posting is on: everything since {HOUR.next()} is billed, and 1 customer's hour from before is not"
    )  # fmt: skip


def test_usage_under_keys_of_nobody_is_told(ward: Ward) -> None:
    """I9: each key with what it used; one that somebody excluded is as it should be."""
    world = ward.world
    for name, reason in (("key7", KEY_OF_NOBODY), ("key8", KEY_OF_NOBODY), ("key9", "not billed: our own")):
        world.ledger.holders.list_key(name)
        total = Total(160 if name == "key7" else 3, 1, State.HELD, reason=reason)
        world.ledger.rows.save(UsageRow(key(name), HOUR, totals={"requests": total}))
    ((state, said, do),) = ward.of("unbilled")
    named = "key7 (requests: 160), key8 (requests: 3)"
    told = f"usage of the last 35 days is held under 2 keys that belong to no customer: {named}"
    assert (state, said) == ("warning", told)
    assert "--key KEY" in do


def test_late_marks_that_wait_are_told(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9: a few are dealt with by the next run; more than a run takes at a time are a backlog."""
    marks = ward.world.counters.marks
    for number in range(3):
        marks.mark_late(Hour(HOUR.number - 1), customer(f"c{number}"), new_mark())
    marks.mark_late(Hour.containing(ward.world.now), customer("c9"), new_mark())
    assert ward.of("closing")[-1][1].endswith(", and 3 late marks wait for the next run")
    monkeypatch.setattr("infra.operate.doctor.ledger.MARKS_AT_A_TIME", 2)
    ((state, said, do),) = ward.of("closing")
    assert (state, said[:18], do[:14]) == ("warning", "3 late marks wait:", "metering close")
    monkeypatch.setattr("metering.stores.marks.MOST_COUNTED", 4)
    monkeypatch.setattr("infra.operate.doctor.ledger.MOST_MARKS_COUNTED", 4)
    assert ward.of("closing")[0][1].startswith("4 or more late marks wait")


def test_lines_of_which_none_is_billed_are_told(ward: Ward) -> None:
    """I9: the stage writes them, and they name nobody: its methods ask for no API key."""
    ward.measure("Metering", "RecordsUnbilled", 1200, service="Metering")
    ((state, said, do),) = ward.of("billed lines")
    assert state == "warning"
    assert said == (
        "1,200 good lines came in the last day, and none of them is billed; no API key is asked for by GET / of items"
    )
    assert "apiKeyRequired" in do
    ward.measure("Metering", "RecordsBilled", 1, service="Metering")
    assert ward.of("billed lines") == [("ok", "1 line of the last day is billed, and 1,200 good ones are not", "")]


def test_methods_that_ask_for_a_key_are_not_named(ward: Ward, apigateway: Any) -> None:
    """Nor those by which browsers ask, nor any where an authorizer says who calls."""
    ward.measure("Metering", "RecordsUnbilled", 1200, service="Metering")
    (root,) = apigateway.get_resources(restApiId=ward.api)["items"]
    where = {"restApiId": ward.api, "resourceId": root["id"], "authorizationType": "NONE"}
    apigateway.put_method(**where, httpMethod="OPTIONS")
    ward.log = AccessLog(caller="authorizer.customer")
    assert "no API key" not in ward.of("billed lines")[0][1]
    ward.log = AccessLog()
    apigateway.delete_method(restApiId=ward.api, resourceId=root["id"], httpMethod="GET")
    apigateway.put_method(**where, httpMethod="GET", apiKeyRequired=True)
    assert "no API key" not in ward.of("billed lines")[0][1]


def test_lines_that_were_set_aside_are_told(ward: Ward) -> None:
    """With a reason."""
    ward.world.record("nonsense", ward.world.line())
    assert ward.of("set aside")[0][:2] == (
        "warning",
        "1 line of 1 batch is set aside and not billed: not JSON",
    )


def test_lines_that_were_dismissed_wait_no_longer(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of many batches some are looked at (I10), which is said."""
    ward.world.record("nonsense")
    (batch,) = ward.world.set_aside.batches()
    assert redrive.dismiss(ward.deployment, batch, (), "not ours", now=ward.world.now) == 1
    assert ward.of("set aside") == [("ok", "nothing is set aside that waits", "")]
    monkeypatch.setattr(health_ledger, "MOST_BATCHES", 0)
    said = "nothing is set aside that waits of the first 0 batches: metering set-aside list reads them all"
    assert ward.of("set aside") == [("ok", said, "")]


def test_a_batch_that_failed_for_good_is_told(ward: Ward) -> None:
    """It is no line that was set aside."""
    boto3.client("s3").put_object(Bucket="bucket", Key=f"{FAILED_BATCHES}record-usage/2026/11/22/x", Body=b"{}")
    assert ward.of("dead letters")[0][:2] == ("broken", "1 batch failed for good and is not counted")
    assert ward.of("set aside")[0][0] == "ok"


def test_an_object_that_failed_for_good_is_told(ward: Ward) -> None:
    """On the road over Firehose."""
    sqs: Any = boto3.client("sqs")
    url = sqs.create_queue(QueueName="failed")["QueueUrl"]
    ward.tell(failed_objects=url)
    assert ward.of("dead letters")[0][0] == "ok"
    sqs.send_message(QueueUrl=url, MessageBody="x")
    assert ward.of("dead letters")[0][:2] == (
        "broken",
        "about 1 objects of the access log could not be counted in ten tries",
    )


def put_key(key: str) -> None:
    """Put a key in Stripe's secret."""
    boto3.client("secretsmanager").put_secret_value(SecretId="stripe-secret", SecretString=key)


def test_a_deployment_without_a_stripe_key_is_told(ward: Ward) -> None:
    """Or with one that Stripe does not take, of which nothing is said (I8)."""
    put_key("{}")
    assert ward.of("Stripe key")[0][:2] == (
        "broken",
        "the secret holds no Stripe key: run 'metering stripe connect'",
    )
    put_key("sk_test_unknown")
    ((state, said, _),) = ward.of("Stripe key")
    assert (state, "unknown" in said) == ("broken", False)


def test_a_stripe_key_that_lacks_a_right_is_told_which(ward: Ward) -> None:
    """Each of them."""
    for right, level in rights.FUNCTIONS.items():
        put_key(f"rk_test_no_{right}")
        assert ward.of("Stripe key")[0][:2] == ("broken", f"the Stripe key lacks the right to {right} ({level})")


def test_a_restricted_key_is_enough_and_an_unrestricted_one_too_much(ward: Ward) -> None:
    """In test mode it does no harm."""
    put_key("rk_test_functions")
    assert ward.of("Stripe key") == [("ok", "Stripe takes the key, which has all 6 rights", "")]
    put_key("sk_live_local")
    assert ward.of("Stripe key")[0][:2] == ("warning", "the Stripe key may do everything")


@pytest.mark.parametrize("right", rights.OPERATORS)
def test_a_restricted_key_that_may_write_more_than_usage_is_told(ward: Ward, right: str) -> None:
    """I7: whoever takes over a function has its key; nothing is written at Stripe to find out."""
    put_key(f"rk_test_writes_{right}")
    ((state, said, do),) = ward.of("Stripe key")
    level = rights.OPERATORS[right]
    assert (state, said) == ("warning", f"the Stripe key may also {level} {right}, which no function does")
    assert "a restricted key with the functions' rights alone" in do
    assert ward.world.stripe.state()["events"] == []
    assert len(destinations(ward)) == 1


def test_every_right_has_a_probe() -> None:
    """So that none is forgotten."""
    assert health_stripe.PROBES.keys() == {*rights.FUNCTIONS.items(), *rights.OPERATORS.items()}


def destinations(ward: Ward) -> list[str]:
    """Return the ids of the event destinations at Stripe."""
    listed = ward.world.meters().call(lambda client: client.v2.core.event_destinations.list())
    return [one.id for one in listed.data]


def test_an_address_that_stripe_does_not_know_is_told(ward: Ward) -> None:
    """As after an update that moved it; nothing depends on it."""
    (made,) = destinations(ward)
    assert ward.of("notifications") == [
        ("ok", f"Stripe sends its notifications here, by the event destination {made}", "")
    ]
    ward.tell(notifications_url="https://elsewhere.example.com/v1/notifications")
    assert ward.of("notifications") == [
        (
            "warning",
            "no event destination at Stripe has the address https://elsewhere.example.com/v1/notifications",
            "metering stripe webhook",
        )
    ]


@pytest.mark.parametrize(
    ("as_it_is", "said"),
    [
        ({"status": "disabled"}, f"is disabled, with thin payloads of {', '.join(EVENTS)}"),
        ({"event_payload": "snapshot"}, f"is enabled, with snapshot payloads of {', '.join(EVENTS)}"),
        ({"enabled_events": [EVENTS[0]]}, f"is enabled, with thin payloads of {EVENTS[0]}"),
    ],
)
def test_a_destination_that_sends_something_else_is_told(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, as_it_is: dict[str, Any], said: str
) -> None:
    """As one that was changed by hand: what Stripe could not use would be heard of by the hourly look alone."""
    (made,) = destinations(ward)
    shown = Destination.as_json
    monkeypatch.setattr(Destination, "as_json", lambda *whatever: {**shown(*whatever), **as_it_is})
    (found,) = ward.of("notifications")
    assert found[:2] == (
        "warning",
        f"the event destination {made} {said}: wanted are thin payloads of {', '.join(EVENTS)}",
    )


def test_a_destination_from_before_there_were_limits_is_told(ward: Ward) -> None:
    """Whether customers pay would be heard of a day later, or a week; a command adds what is missing."""
    (made,) = destinations(ward)
    ward.tell(access_table="access")
    wanted = ", ".join([*EVENTS, *SUBSCRIPTION_EVENTS])
    said = f"is enabled, with thin payloads of {', '.join(EVENTS)}: wanted are thin payloads of {wanted}"
    assert ward.of("notifications") == [
        ("warning", f"the event destination {made} {said}", "metering stripe webhook"),
    ]
    destine(ward.deployment, ward.deployment.outputs.notifications_url)
    assert ward.of("notifications")[0][0] == "ok"


def test_two_destinations_of_the_address_are_told(ward: Ward) -> None:
    """Only one of them can be signed with what is here."""
    (made,) = destinations(ward)
    hook: Any = {
        "name": "another",
        "type": "webhook_endpoint",
        "event_payload": "thin",
        "enabled_events": [*EVENTS],
        "webhook_endpoint": {"url": ward.deployment.outputs.notifications_url},
    }
    another = ward.world.meters().call(lambda client: client.v2.core.event_destinations.create(hook)).id
    (found,) = ward.of("notifications")
    assert found[0] == "warning"
    assert (
        f"2 event destinations have this address: delete {another} in Stripe's dashboard, and keep {made}" in found[1]
    )


def test_a_signing_secret_that_is_not_known_is_told(ward: Ward) -> None:
    """Everything that Stripe sends would be refused."""
    (made,) = destinations(ward)
    put_key("sk_test_local")
    boto3.client("secretsmanager").put_secret_value(SecretId="signing-secret", SecretString=" ")
    assert ward.of("notifications") == [
        ("warning", f"no signing secret is known of the event destination {made}", "metering stripe webhook")
    ]
    put_key(json.dumps({"api_key": "sk_test_local", "webhook_secret": "whsec_older"}))
    assert ward.of("notifications")[0][0] == "ok"


def test_destinations_are_looked_at_where_a_key_may(ward: Ward) -> None:
    """The functions' may not, and that is as it should be; an operator's may."""
    put_key("rk_test_functions")
    assert ward.of("notifications") == []
    ward.operator_key = "rk_test_operator"
    assert ward.of("notifications")[0][0] == "ok"
    assert ward.of("Stripe key")[0][0] == "ok"  # which is the one in the secret


def test_while_stripe_does_not_answer_it_is_a_warning(ward: Ward) -> None:
    """Nothing is said of the key."""
    ward.tell(stripe_api_base="http://127.0.0.1:1")
    assert ward.of("Stripe key")[0] == (
        "warning",
        "could not be checked: Stripe gives no answer",
        "try again later; status.stripe.com says more",
    )


def test_a_stream_that_a_sandbox_does_without_is_told(ward: Ward) -> None:
    """Else one would wonder at the calls."""
    posting: Any = {"Variables": {"STREAMED_FROM": "2026-12-01T00"}}
    boto3.client("lambda").update_function_configuration(FunctionName="post-usage", Environment=posting)
    assert ward.of("meters")[1][:2] == (
        "warning",
        "the key is a sandbox's, where totals go by a call each, although streamed_from is 2026-12-01T00",
    )
    put_key("sk_live_local")
    assert [state for state, _, _ in ward.of("meters")] == ["ok"]


def test_meters_that_are_missing_or_wrong_are_told(ward: Ward) -> None:
    """Their usage would wait, or be billed wrongly."""
    ward.tell(metrics="requests,bytes,users")
    assert ward.of("meters")[0][:2] == (
        "broken",
        "Stripe has no meter Metering_users, so that its usage waits",
    )
    wanted: Any = {
        "display_name": "users",
        "event_name": "Metering_users",
        "default_aggregation": {"formula": "sum"},
        "event_time_window": "day",
    }
    ward.world.meters().call(lambda client: client.v1.billing.meters.create(wanted))
    ((state, said, _),) = ward.of("meters")
    assert (state, "the meter Metering_users exists with the window 'day'" in said) == ("broken", True)


def test_how_far_the_reads_reach_that_stripe_allots_is_told(ward: Ward) -> None:
    """And where that is not far enough, whatever is to be done."""
    ward.tell(metrics="requests,bytes,users")
    for n in range(100):
        ward.world.customer(f"c{n}")
    ((state, said, _),) = ward.of("reads")
    customers = len([*ward.world.ledger.holders.customer_ids()])
    assert (state, f"10,000 reads in 30 days look at {customers} customers with 3 metrics every" in said) == (
        "ok",
        True,
    )
    assert said.endswith("; 625 are left now")
    ward.tell(metrics="requests,bytes,users", stripe_reads_a_month="1000")
    ((state, said, do),) = ward.of("reads")
    assert (state, "are too few" in said, "500 for each transaction" in do) == ("warning", True, True)


def test_customers_of_whom_stripe_answers_oddly_are_named(ward: Ward) -> None:
    """I6, I9: nobody compares their usage."""
    ward.world.ledger.progress.save_round(Round("acme", number=3, odd=("aaa", "zzz")))
    state, said, do = ward.of("reads")[1]
    assert (state, said) == ("warning", "Stripe would not sum up the usage of aaa, zzz, which is not compared")
    assert do.startswith("metering reconcile CUSTOMER")


def test_keys_that_were_to_leave_are_told(ward: Ward) -> None:
    """A replaced key that is still valid in its time is as it should be."""
    notes = AccessNotes(ward.world.ledger.client, "ledger")
    until = int((ward.world.now + timedelta(minutes=1)).timestamp())
    notes.write(Rotation("acme", "old1", ("plan",), "new1", until))
    assert ward.of("keys") == [("ok", "1 replaced keys are still valid, as they should be", "")]
    ward.world.now += timedelta(minutes=1)
    notes.write(Rotation("globex", "old2", ("plan",)))
    assert ward.of("keys") == [
        (
            "broken",
            "replaced keys still open what they should not: old1 of acme",
            "metering customers rotate-key --finish",
        ),
        (
            "warning",
            "the rotation of the key old2 of globex was interrupted",
            "metering customers rotate-key globex --key old2",
        ),
    ]


def test_a_value_that_stands_for_a_keys_id_is_told_and_not_printed(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """I8: as an older version took it; an id by which usage came is none, however long it is."""
    assert ward.of("key values") == [("ok", "no stored key looks like a key's value", "")]
    used = "u" * 32
    ward.world.record(ward.world.line(key=used))
    ward.world.after_grace()
    ward.world.run()
    ward.world.customer("acme", used, "key1", "09f355a1ddaf4861ab67b7b55fbf6f9e")
    ((state, said, do),) = ward.of("key values")
    assert (state, said) == ("warning", "1 stored key looks like a value (the secret): 09f3...")
    assert do.startswith("metering keys forget, with how it begins, takes one out")
    ward.world.customer("globex", "f" * 20, "g" * 20)
    monkeypatch.setattr("infra.operate.doctor.ledger.MOST_VALUES", 2)
    assert ward.of("key values")[0][1] == "2 or more stored keys look like a value (the secret): 09f3..., ffff..."
    ward.log = AccessLog(Api.HTTP, "authorizer.customer")
    assert ward.of("key values") == []


def test_alarms_that_ring_or_that_nobody_hears_are_told(ward: Ward) -> None:
    """Those of this stack alone, whatever they are called."""
    cloudwatch: Any = boto3.client("cloudwatch")
    resources = ward.answers["cloudformation"]["list_stack_resources"]["StackResourceSummaries"]
    resources.append({"ResourceType": "AWS::CloudWatch::Alarm", "PhysicalResourceId": "Metering-HoursBehind"})
    for name in ("Metering-HoursBehind", "Metering-eu-HoursBehind"):
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            MetricName="m",
            Namespace="n",
            Statistic="Sum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=0,
            ComparisonOperator="GreaterThanThreshold",
        )
        cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="test")
    assert [found[:2] for found in ward.of("alarms")] == [("warning", "alarms ring: Metering-HoursBehind")]
    sns: Any = boto3.client("sns")
    for one in sns.list_subscriptions_by_topic(TopicArn=ward.outputs.alarm_topic)["Subscriptions"]:
        sns.unsubscribe(SubscriptionArn=one["SubscriptionArn"])
    assert ward.of("alarms")[0][:2] == ("warning", "nobody is told of an alarm")


def test_api_keys_near_their_quota_are_told(ward: Ward) -> None:
    """The quota of a Region cannot be raised."""
    for count, state in {7_999: "ok", 8_000: "warning", 10_000: "broken"}.items():
        ward.answers["apigateway"] = {"get_api_keys": {"items": [{}] * count}}
        assert ward.of("API keys")[0][:2] == (state, f"{count:,} of 10,000 API keys of the Region are used")


def test_functions_near_their_quota_are_told(ward: Ward) -> None:
    """And the small quota of a new account, which has nothing to reserve."""
    ward.measure("AWS/Lambda", "ConcurrentExecutions", 799)
    assert ward.of("concurrency")[0][0] == "ok"
    ward.measure("AWS/Lambda", "ConcurrentExecutions", 800)
    assert ward.of("concurrency")[0][:2] == (
        "warning",
        "at most 800 of 1,000 functions ran at once in the last day",
    )
    limits = {"ConcurrentExecutions": 10, "UnreservedConcurrentExecutions": 10}
    ward.answers["lambda"]["get_account_settings"]["AccountLimit"] = limits
    boto3.client("lambda").delete_function_concurrency(FunctionName="show-usage")
    ward.world.now += timedelta(days=2)
    ((state, said, _),) = ward.of("concurrency")
    assert state == "warning"
    assert said == (
        "at most 0 of 10 functions ran at once in the last day, which is what a new account may: a burst of lines "
        "takes them from the functions of your API"
    )


def test_functions_that_nothing_bounds_are_told(ward: Ward) -> None:
    """I6: where there is something to reserve, with the settings that reserve it."""
    for name in ("record-usage", "show-usage"):
        boto3.client("lambda").delete_function_concurrency(FunctionName=name)
    _, (state, said, do) = ward.of("concurrency")
    assert state == "warning"
    assert said == (
        "nothing keeps record-usage and show-usage from taking all 1,000 functions of the account, also from your "
        "API's own"
    )
    assert do == "set record_usage_concurrency and portal_concurrency of the stack, and deploy it"


def test_what_is_not_billed_is_counted_with_what_mends_it(ward: Ward) -> None:
    """I9: rejected, waiting for Stripe although it is old, and held, by reason."""
    rows, hour = ward.world.ledger.rows, Hour.containing(ward.world.now - timedelta(hours=9))
    for name, total in {
        "globex": Total(1, 1, State.REJECTED),
        "initech": Total(1, 1, State.PENDING),
        "umbrella": Total(1, 1, State.HELD, reason=NO_STRIPE_CUSTOMER),
        "acme": Total(1, 1, State.HELD, reason=TOO_OLD),
    }.items():
        rows.save(UsageRow(customer(name), hour, totals={"requests": total}))
    ward.world.switch.turn(msgspec.structs.replace(ward.world.switch.read(), on=True, since=str(hour)))
    assert [(state, said[:30], do[:28]) for state, said, do in ward.of("unbilled")] == [
        ("broken", "1 customer's hour holds usage ", "metering rejected list says "),
        ("broken", "1 customer's hour that ended o", "metering close says why"),
        ("warning", "1 hour of customers without a ", "metering customers subscribe"),
        ("warning", "1 customer's hour is held as t", "metering customers subscribe"),
    ]
