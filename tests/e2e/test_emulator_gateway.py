"""A real emulator with a REST API in it, and the gateway that writes its access log."""

import asyncio
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from infra.local.aws import emulator as emulator_module
from infra.local.aws.emulator import REPOSITORY, Emulator, EmulatorFailed
from infra.local.aws.gateway import Gateway
from infra.local.demo.steps import PATIENCE_S, wait_until

LOG_GROUP = "access"
FIELDS = {
    "id": "extendedRequestId",
    "request": "requestId",
    "time": "requestTimeEpoch",
    "key": "identity.apiKeyId",
    "status": "status",
    "method": "httpMethod",
    "resource": "resourcePath",
    "error": "error.message",
    "unknown": "authorizer.units",
    "user": "authorizer.user",
    "seats": "authorizer.seats",
    "trial": "authorizer.trial",
    "asked": "authorizer.asked",
}
FORMAT = json.dumps({name: f"$context.{variable}" for name, variable in FIELDS.items()})
TWO_HOURS_S = 7_200

FUNCTION = """
import os

def handler(event, context):
    if event["queryStringParameters"]:
        raise RuntimeError("asked to fail")
    return {"statusCode": 201, "headers": {"x-endpoint": os.environ["AWS_ENDPOINT_URL"]}, "body": event["body"]}
"""


AUTHORIZER = """
import json, time

def handler(event, context):
    user = event["headers"]["x-user"]
    if user == "nobody":
        raise Exception("Unauthorized")
    effect = "Deny" if user == "banned" else "Allow"
    statement = {"Action": "execute-api:Invoke", "Effect": effect, "Resource": event["methodArn"]}
    path = json.dumps(event["pathParameters"]).replace('"', "'")
    told = {"user": f"{user} {path}", "seats": 3, "trial": True, "units": None, "asked": str(time.time_ns())}
    return {"principalId": user, "policyDocument": {"Version": "2012-10-17", "Statement": [statement]}, "context": told}
"""


@dataclass(frozen=True, slots=True)
class Api:
    """A stage `v1`, and its keys: `/open` (no key, no function), `/items/{id}` (both), `/mine/{id}` (an authorizer).

    The slow key may make two requests, the other as many as it likes.
    """

    emulator: Emulator
    api_id: str
    key_id: str
    key: str
    slow_key_id: str
    slow_key: str

    def gateway(self, clock: Callable[[], float] = time.time) -> Gateway:
        """Return a gateway of its stage."""
        return Gateway(self.emulator, api_id=self.api_id, stage="v1", clock=clock)


def make_function(emulator: Emulator, name: str = "backend", code: str = FUNCTION) -> str:
    """Make a function, by default the one that the API calls, and return its ARN."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("index.py", code)
    functions = emulator.client("lambda")
    arn: str = functions.create_function(
        FunctionName=name,
        Runtime=f"python3.{sys.version_info.minor}",
        Role=any_role(emulator),
        Handler="index.handler",
        Code={"ZipFile": archive.getvalue()},
    )["FunctionArn"]
    functions.close()
    return arn


def any_role(emulator: Emulator) -> str:
    """Return a role that may do everything: nothing here is about rights."""
    iam = emulator.client("iam")
    trust = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": "*"}}
    everything = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}
    with suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_role(RoleName="any", AssumeRolePolicyDocument=json.dumps(trust))
    iam.put_role_policy(RoleName="any", PolicyName="everything", PolicyDocument=json.dumps(everything))
    iam.close()
    return f"arn:aws:iam::{emulator.account_id}:role/any"


def make_api(emulator: Emulator) -> Api:
    """Make the API, its stage, keys and log group."""
    apigateway, logs = emulator.client("apigateway"), emulator.client("logs")
    logs.create_log_group(logGroupName=LOG_GROUP)
    api_id = apigateway.create_rest_api(name="sample")["id"]
    root = apigateway.get_resources(restApiId=api_id)["items"][0]["id"]
    integration = f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{make_function(emulator)}/invocations"

    def resource(parent: str, part: str) -> str:
        made: str = apigateway.create_resource(restApiId=api_id, parentId=parent, pathPart=part)["id"]
        return made

    items = {"restApiId": api_id, "resourceId": resource(resource(root, "items"), "{id}"), "httpMethod": "ANY"}
    apigateway.put_method(**items, authorizationType="NONE", apiKeyRequired=True)
    apigateway.put_integration(**items, type="AWS_PROXY", integrationHttpMethod="POST", uri=integration)
    opened = {"restApiId": api_id, "resourceId": resource(root, "open"), "httpMethod": "ANY"}
    apigateway.put_method(**opened, authorizationType="NONE", apiKeyRequired=False)
    apigateway.put_integration(**opened, type="MOCK", requestTemplates={"application/json": '{"statusCode": 200}'})
    apigateway.put_method_response(**opened, statusCode="200")
    apigateway.put_integration_response(**opened, statusCode="200")
    asks = make_function(emulator, "authorizer", AUTHORIZER)
    authorizer = apigateway.create_authorizer(
        restApiId=api_id,
        name="asks",
        type="REQUEST",
        authorizerUri=f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{asks}/invocations",
        identitySource="method.request.header.x-user",
        authorizerResultTtlInSeconds=300,
    )["id"]
    mine = {"restApiId": api_id, "resourceId": resource(resource(root, "mine"), "{id}"), "httpMethod": "GET"}
    apigateway.put_method(**mine, authorizationType="CUSTOM", authorizerId=authorizer, apiKeyRequired=False)
    apigateway.put_integration(**mine, type="MOCK", requestTemplates={"application/json": '{"statusCode": 200}'})
    apigateway.put_method_response(**mine, statusCode="200")
    apigateway.put_integration_response(**mine, statusCode="200")
    deployment = apigateway.create_deployment(restApiId=api_id)["id"]
    apigateway.create_stage(restApiId=api_id, stageName="v1", deploymentId=deployment)
    group_arn = f"arn:aws:logs:us-east-1:{emulator.account_id}:log-group:{LOG_GROUP}"
    settings = {"/accessLogSettings/format": FORMAT, "/accessLogSettings/destinationArn": group_arn}
    operations = [{"op": "replace", "path": path, "value": value} for path, value in settings.items()]
    apigateway.update_stage(restApiId=api_id, stageName="v1", patchOperations=operations)

    def key(name: str, rate: float, burst: int) -> tuple[str, str]:
        plan = apigateway.create_usage_plan(
            name=name,
            apiStages=[{"apiId": api_id, "stage": "v1"}],
            throttle={"rateLimit": rate, "burstLimit": burst},
        )["id"]
        made = apigateway.create_api_key(name=name, enabled=True)
        apigateway.create_usage_plan_key(usagePlanId=plan, keyId=made["id"], keyType="API_KEY")
        return made["id"], made["value"]

    api = Api(emulator, api_id, *key("roomy", 1_000.0, 1_000), *key("slow", 0.01, 2))
    apigateway.close()
    logs.close()
    return api


def make_stage(api: Api, name: str, destination: str = "", deployment: str = "") -> None:
    """Make another stage of the API, with an access log if it is to go somewhere."""
    apigateway = api.emulator.client("apigateway")
    deployment = deployment or apigateway.get_deployments(restApiId=api.api_id)["items"][0]["id"]
    apigateway.create_stage(restApiId=api.api_id, stageName=name, deploymentId=deployment)
    settings = {"/accessLogSettings/format": FORMAT, "/accessLogSettings/destinationArn": destination}
    if destination:
        operations = [{"op": "replace", "path": path, "value": value} for path, value in settings.items()]
        apigateway.update_stage(restApiId=api.api_id, stageName=name, patchOperations=operations)
    apigateway.close()


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """One emulator for this module."""
    with Emulator() as emulator:
        yield make_api(emulator)


def lines(emulator: Emulator) -> list[dict[str, str]]:
    """Return what the log group holds."""
    logs = emulator.client("logs")
    events = logs.filter_log_events(logGroupName=LOG_GROUP)["events"]
    logs.close()
    return [json.loads(event["message"]) | {"logged": event["timestamp"]} for event in events]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller sees."""

    status: int
    headers: Mapping[str, str]
    body: str


def send(gateway: Gateway, *requests: tuple[str, str, Mapping[str, str]], at_once: int = 1) -> list[Answer]:
    """Send (method, path, headers) requests and return their answers."""

    async def all_of_them() -> list[Answer]:
        limit = asyncio.Semaphore(at_once)

        async def one(method: str, path: str, headers: Mapping[str, str]) -> Answer:
            async with limit, session.request(method, gateway.url + path, headers=headers, data=b"hello") as answer:
                return Answer(answer.status, answer.headers, await answer.text())

        async with aiohttp.ClientSession() as session:
            return list(await asyncio.gather(*(one(*request) for request in requests)))

    return asyncio.run(all_of_them())


def new_lines(api: Api, gateway: Gateway, *requests: tuple[str, str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Send the requests one after another and return their lines, whose ids the callers were told."""
    answers = send(gateway, *requests)
    gateway.flush()
    written = {line["id"]: line for line in lines(api.emulator)}
    return [written[answer.headers["x-amz-apigw-id"]] for answer in answers]


def test_a_request_with_a_key_reaches_the_backend_and_is_logged_by_the_keys_id(api: Api) -> None:
    """Status, resource template, method and the gateway's own times; the value of the key is nowhere."""
    with api.gateway() as gateway:
        before = time.time()
        [answer] = send(gateway, ("PUT", "/items/17", {"x-api-key": api.key}))
        gateway.flush()
        line = lines(api.emulator)[-1]
    assert (answer.status, answer.body) == (201, "hello")
    assert answer.headers["x-endpoint"] == api.emulator.endpoint_url
    assert {name: line[name] for name in ("key", "status", "method", "resource", "error", "unknown")} == {
        "key": api.key_id,
        "status": "201",
        "method": "PUT",
        "resource": "/items/{id}",
        "error": "-",
        "unknown": "-",
    }
    assert before - 1 <= int(line["time"]) / 1000 <= time.time()
    assert api.key not in json.dumps(line)


def test_what_api_gateway_refuses_or_a_backend_breaks_is_logged_as_well(api: Api) -> None:
    """No key, an unknown key, no such resource, a throttled key, a failing function."""
    slow = {"x-api-key": api.slow_key}
    with api.gateway() as gateway:
        found = new_lines(
            api,
            gateway,
            ("GET", "/items/1", {}),
            ("GET", "/items/1", {"x-api-key": "no-such-key-in-this-account"}),
            ("GET", "/nowhere", {"x-api-key": api.key}),
            *[("GET", "/items/1", slow)] * 3,
            ("GET", "/items/1?fail=1", {"x-api-key": api.key}),
        )
    assert [(line["status"], line["key"], line["resource"]) for line in found] == [
        ("403", "-", "/items/{id}"),
        ("403", "-", "/items/{id}"),
        ("403", "-", "-"),
        ("201", api.slow_key_id, "/items/{id}"),
        ("201", api.slow_key_id, "/items/{id}"),
        ("429", api.slow_key_id, "/items/{id}"),
        ("502", api.key_id, "/items/{id}"),
    ]
    assert found[0]["error"] == "Forbidden"


def test_a_refusal_in_words_of_ones_own_is_logged_as_api_gateways(api: Api) -> None:
    """Its body and its type are the API's own, its message in the line is not."""
    apigateway, problem = api.emulator.client("apigateway"), '{"title": "Closed", "status": 403}'
    apigateway.put_gateway_response(
        restApiId=api.api_id,
        responseType="INVALID_API_KEY",
        responseParameters={"gatewayresponse.header.Content-Type": "'application/problem+json'"},
        responseTemplates={"application/json": problem},
    )
    # A response is in force from the next deployment on.
    deployment = apigateway.create_deployment(restApiId=api.api_id)["id"]
    group = f"arn:aws:logs:us-east-1:{api.emulator.account_id}:log-group:{LOG_GROUP}"
    make_stage(api, "worded", group, deployment)
    with Gateway(api.emulator, api_id=api.api_id, stage="worded") as gateway:
        [answer] = send(gateway, ("GET", "/items/1", {"x-api-key": api.key}))  # no plan of the key has this stage
        gateway.flush()
    apigateway.delete_gateway_response(restApiId=api.api_id, responseType="INVALID_API_KEY")
    apigateway.close()
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (403, "application/problem+json", problem)
    assert [line["error"] for line in lines(api.emulator) if line["id"] == answer.headers["x-amz-apigw-id"]] == [
        "Forbidden"
    ]


def test_a_method_without_a_required_key_logs_none(api: Api) -> None:
    """As documented of identity.apiKeyId, whatever the caller sends."""
    with api.gateway() as gateway:
        [line] = new_lines(api, gateway, ("GET", "/open", {"x-api-key": api.key}))
    assert (line["status"], line["key"], line["resource"]) == ("200", "-", "/open")


def test_what_an_authorizer_told_is_logged(api: Api) -> None:
    """Numbers and truth values as they are written; a null is missing."""
    with api.gateway() as gateway:
        [line] = new_lines(api, gateway, ("GET", "/mine/a%20b", {"x-user": "ada"}))
    told = {name: line[name] for name in ("status", "user", "seats", "trial", "unknown")}
    assert told == {"status": "200", "user": "ada {'id': 'a b'}", "seats": "3", "trial": "true", "unknown": "-"}


def test_an_authorizers_answer_is_kept_for_its_identity(api: Api) -> None:
    """As API Gateway keeps it; another user is asked about anew."""
    with api.gateway() as gateway:
        first, again, other = new_lines(
            api, gateway, *[("GET", "/mine/1", {"x-user": user}) for user in ("bea", "bea", "cem")]
        )
    assert first["asked"] == again["asked"]
    assert other["asked"] != first["asked"]


def test_an_authorizer_that_was_not_asked_or_did_not_answer_tells_nothing(api: Api) -> None:
    """Without its header nobody asks it; one that denies has told all the same."""
    with api.gateway() as gateway:
        missing, failed, denied, elsewhere = new_lines(
            api,
            gateway,
            ("GET", "/mine/1", {}),
            ("GET", "/mine/1", {"x-user": "nobody"}),
            ("GET", "/mine/1", {"x-user": "banned"}),
            ("GET", "/open", {"x-user": "ada"}),
        )
    assert [(line["status"], line["seats"]) for line in (missing, failed, denied, elsewhere)] == [
        ("401", "-"),
        ("401", "-"),
        ("403", "3"),
        ("200", "-"),
    ]


def test_lines_for_firehose_become_objects(api: Api) -> None:
    """A stage may name a stream; what leaves together is one object, as Firehose's buffering makes it."""
    s3, firehose = api.emulator.client("s3"), api.emulator.client("firehose")
    s3.create_bucket(Bucket="archive")
    stream = firehose.create_delivery_stream(
        DeliveryStreamName="amazon-apigateway-test",
        ExtendedS3DestinationConfiguration={
            "RoleARN": any_role(api.emulator),
            "BucketARN": "arn:aws:s3:::archive",
            "Prefix": "access-log/!{timestamp:yyyy/MM/dd/HH}/",
            "ErrorOutputPrefix": "errors/!{firehose:error-output-type}/",
        },
    )["DeliveryStreamARN"]
    firehose.close()
    make_stage(api, "archived", stream)
    with Gateway(api.emulator, api_id=api.api_id, stage="archived") as gateway:
        answers = send(gateway, *[("GET", "/open", {})] * 3)
        gateway.flush()
        wait_until(lambda: "Contents" in s3.list_objects_v2(Bucket="archive"))
        objects = s3.list_objects_v2(Bucket="archive")["Contents"]
    written = [gzip.decompress(s3.get_object(Bucket="archive", Key=one["Key"])["Body"].read()) for one in objects]
    s3.close()
    lines = b"".join(written).decode().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == [answer.headers["x-amz-apigw-id"] for answer in answers]
    assert all(line.endswith("\n") for line in lines)


def test_a_caller_chooses_the_request_id_but_not_the_extended_one(api: Api) -> None:
    """Two calls that claim to be one are two (I7)."""
    chosen = "6f1ed2a4-7f0b-4f7e-9d3c-0f2f1f3a9b11"
    headers = {"x-api-key": api.key, "x-amzn-RequestId": chosen, "x-amz-apigw-id": "mine="}
    with api.gateway() as gateway:
        first, second = new_lines(api, gateway, *[("GET", "/items/1", headers)] * 2)
    assert first["request"] == second["request"] == chosen
    assert len({first["id"], second["id"], "mine="}) == 3


def test_a_key_made_after_the_gateway_started_is_known(api: Api) -> None:
    """Keys are read again on a miss."""
    apigateway = api.emulator.client("apigateway")
    with api.gateway() as gateway:
        new_lines(api, gateway, ("GET", "/items/1", {"x-api-key": api.key}))
        plan = next(item["id"] for item in apigateway.get_usage_plans()["items"] if item["name"] == "roomy")
        made = apigateway.create_api_key(name="late", enabled=True)
        apigateway.create_usage_plan_key(usagePlanId=plan, keyId=made["id"], keyType="API_KEY")
        [line] = new_lines(api, gateway, ("GET", "/items/1", {"x-api-key": made["value"]}))
    apigateway.close()
    assert (line["status"], line["key"]) == ("201", made["id"])


def test_the_clock_decides_about_both_times(api: Api) -> None:
    """A demonstration may play two hours ago."""
    before = time.time()
    with api.gateway(clock=lambda: time.time() - TWO_HOURS_S) as gateway:
        [line] = new_lines(api, gateway, ("GET", "/items/1", {"x-api-key": api.key}))
    for stamp in (int(line["time"]), line["logged"]):
        assert before - 1 <= stamp / 1000 + TWO_HOURS_S <= time.time()


def test_fifty_requests_at_a_time_leave_a_line_each(api: Api) -> None:
    """Also when leaving the gateway is all that flushes (I1)."""
    request: tuple[str, str, Mapping[str, str]] = ("POST", "/open", {})
    with api.gateway() as gateway:
        answers = send(gateway, *[request] * 300, at_once=50)
    assert [answer.status for answer in answers] == [200] * 300
    assert {answer.headers["x-amz-apigw-id"] for answer in answers} <= {line["id"] for line in lines(api.emulator)}


def test_a_stage_without_an_access_log_is_refused(api: Api) -> None:
    """Nothing could be logged."""
    make_stage(api, "silent")
    with (
        pytest.raises(ValueError, match=r"stage silent .* got 'no access log'"),
        Gateway(api.emulator, api_id=api.api_id, stage="silent"),
    ):
        pass


def members(group: int) -> list[int]:
    """Return the living processes of a process group."""
    everything = ["ps", "-A", "-o", "pid=,pgid=,stat="]
    table = subprocess.run(everything, capture_output=True, text=True, check=True).stdout  # noqa: S603  ours
    rows = [row.split() for row in table.splitlines()]
    return [int(pid) for pid, pgid, state in rows if int(pgid) == group and not state.startswith("Z")]


def wait_until_ended(group: int) -> None:
    """Wait until the group has no living process."""
    wait_until(lambda: not members(group))


def invoke_and_leave_running(emulator: Emulator) -> None:
    """Make the emulator start a process for a function."""
    make_function(emulator)
    functions = emulator.client("lambda")
    functions.invoke(FunctionName="backend", Payload=b'{"queryStringParameters": null, "body": ""}')
    functions.close()


def test_nothing_of_the_emulator_outlives_it() -> None:
    """Neither its processes, functions among them, nor its files."""
    with Emulator() as emulator:
        invoke_and_leave_running(emulator)
        assert len(members(emulator.pid)) >= 2
    wait_until_ended(emulator.pid)
    assert not emulator.log_path.exists()


def test_an_error_in_the_block_keeps_the_log_and_says_where() -> None:
    """The processes end all the same."""
    emulator = Emulator()
    with pytest.raises(ZeroDivisionError) as raised, emulator:
        _ = 1 / 0
    wait_until_ended(emulator.pid)
    assert raised.value.__notes__ == [f"the emulator's log: {emulator.log_path}"]
    assert emulator.log_path.exists()
    shutil.rmtree(emulator.log_path.parent)


STARTER = """
import signal
from infra.local.aws.emulator import Emulator
from tests.e2e.test_emulator_gateway import invoke_and_leave_running

signal.signal(signal.SIGINT, signal.default_int_handler)
with Emulator() as emulator:
    invoke_and_leave_running(emulator)
    print(emulator.pid, emulator.log_path, flush=True)
    signal.pause()
"""
"""Heeds SIGINT whoever starts it: a shell leaves what it runs in the background, and all its children, deaf to it."""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_of_the_emulator_outlives_a_killed_starter(how: signal.Signals) -> None:
    """Also when the starter cannot clean up."""
    with subprocess.Popen(  # noqa: S603  ours
        [sys.executable, "-c", STARTER], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as starter:
        assert starter.stdout is not None
        group, log_path = starter.stdout.readline().split()
        assert len(members(int(group))) >= 2
        os.kill(starter.pid, how)
        starter.wait(PATIENCE_S)
        wait_until_ended(int(group))
        wait_until(lambda: not Path(log_path).exists())  # the files go after the processes


def test_a_failing_command_is_one_error_with_what_it_said(tmp_path: Path) -> None:
    """A deployment fails in synthesis, bootstrapping or deployment: the command and its last lines tell which."""
    failing = [sys.executable, "-c", "raise SystemExit('no such metric')"]
    with pytest.raises(EmulatorFailed, match=r"(?s)code 1 from: .*no such metric$"):
        emulator_module._run(failing, cwd=tmp_path, environment={})


def test_two_emulators_at_a_time_know_nothing_of_each_other() -> None:
    """Each has a port and a state of its own."""

    def buckets_of(name: str) -> list[str]:
        with Emulator() as emulator:
            s3 = emulator.client("s3")
            s3.create_bucket(Bucket=name)
            found = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
            s3.close()
            return found

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(buckets_of, ["one-bucket", "two-bucket"])) == [["one-bucket"], ["two-bucket"]]
