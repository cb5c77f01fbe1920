"""One run: a deployment under a name of its own, what the tests do with it, and its end."""

import contextlib
import json
import os
import secrets
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError

import boto3
from botocore.exceptions import ClientError

from infra.local import npm
from infra.operate.deployment import Deployment
from metering.model.periods import Hour, hours
from tests.conftest import ROOT
from tests.live import removal
from tests.live.cloud import Cloud, outputs
from tests.live.costs import Costs
from tests.live.points import Points

APP: Final = ROOT / "tests" / "live" / "app"
USER: Final = {"x-user": "someone"}


class DeployError(Exception):
    """The CDK CLI failed; the message ends with what it said."""


@dataclass
class Run:
    """A run in a cloud. ``told`` are the outputs of the stack of the APIs."""

    cloud: Cloud
    name: str
    points: Points
    costs: Costs
    assets: str
    told: dict[str, str] = field(default_factory=dict)
    _key: tuple[str, str] | None = None

    # --- deploying ---

    def deploy(self, *stacks: str, exclusively: bool = False, as_it_is: bool = False, **context: str) -> None:
        """Deploy the stacks of these suffixes ("" is the metering stack's), or all.

        ``as_it_is`` leaves alone what somebody else has changed, which the emulator's stages would lose.
        """
        selected = [f"{self.name}{stack}" for stack in stacks] or ["--all"]
        more = ["--exclusively"] if exclusively else []
        self._cdk("deploy", *selected, *more, "--require-approval", "never", "--method", "direct", **context)
        self.costs.deployments += 1
        cloudformation = self.cloud.client("cloudformation")
        self.told = outputs(cloudformation.describe_stacks(StackName=f"{self.name}-Apis")["Stacks"][0])
        if not as_it_is:
            self.cloud.use(self.told)

    def deploy_broken(self) -> None:
        """Deploy a metering stack whose creation fails; raise DeployError."""
        self._cdk("deploy", "--all", "--require-approval", "never", "--method", "direct", broken="true")

    def destroy(self) -> None:
        """Destroy the stacks as an operator does; what they retain stays."""
        self._cdk("destroy", "--all", "--force")

    def _cdk(self, command: str, *arguments: str, **context: str) -> None:
        told = {"name": self.name, "assets": self.assets, **self.cloud.context, **context}
        values = [part for name, value in told.items() for part in ("--context", f"{name}={value}")]
        environment = {**self.cloud.environment, "CDK_VALIDATION": "false", "CDK_DISABLE_VERSION_CHECK": "1"}
        cdk = str(npm.installed(npm.CDK) / ".bin" / "cdk")
        with tempfile.TemporaryDirectory(prefix="metering-live-") as folder:
            done = subprocess.run(  # noqa: S603  the arguments are ours
                [cdk, "--no-notices", "--output", folder, command, *arguments, *values],
                cwd=APP,
                env=environment,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        if done.returncode != 0:
            raise DeployError(f"cdk {command} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")

    @property
    def deployment(self) -> Deployment:
        """The metering stack, as it is deployed now."""
        return self.cloud.deployment(self.name)

    # --- calling ---

    @property
    def key(self) -> tuple[str, str]:
        """An API key on the plan of both stages: its id and its value."""
        if self._key is None:
            apigateway = self.cloud.client("apigateway")
            made = apigateway.create_api_key(name=self.name, enabled=True)
            apigateway.create_usage_plan_key(usagePlanId=self.told["Plan"], keyId=made["id"], keyType="API_KEY")
            self._key = made["id"], made["value"]
            # Changes of keys and plans take up to minutes to be felt.
            self.wait(lambda: self.call("RestId", "plain", **USER) == 200, "the new API key is let in")
        return self._key

    def forget_key(self) -> None:
        """Delete the API key, which no stack knows."""
        if self._key is not None:
            self.cloud.client("apigateway").delete_api_key(apiKey=self._key[0])
            self._key = None

    def call(self, api: str, stage: str, **headers: str) -> int:
        """Send ``GET /items`` to a stage and return the answer's status; to the REST API with the key."""
        if api == "RestId":
            assert self._key is not None or self.key
            headers |= {"x-api-key": self._key[1] if self._key else ""}
        url = f"{self.cloud.address(self.told[api], stage)}/items"
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self.costs.requests += 1
        request = urllib.request.Request(url, headers=sent)  # noqa: S310  the stage's own address
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  as above
                answer.read()
                return int(answer.status)
        except HTTPError as refused:
            refused.close()
            return refused.code

    def send(self, requests: int) -> None:
        """Send good requests to the metered stage, eight at a time."""
        _ = self.key
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: self.call("RestId", "metered", **USER), range(requests)))
        assert answers == [200] * requests
        self.cloud.written()

    # --- acting ---

    @contextmanager
    def acting_as(self, function: str) -> Iterator[boto3.Session]:
        """Take the role of a function, which the account may for that while; the session ends after an hour."""
        iam, functions, sts = (self.cloud.client(service) for service in ("iam", "lambda", "sts"))
        arn = functions.get_function_configuration(FunctionName=function)["Role"]
        role = arn.rpartition("/")[2]
        trusts = iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]
        before = trusts if isinstance(trusts, str) else json.dumps(trusts)
        root = f"arn:{self.cloud.partition}:iam::{self.cloud.account_id}:root"
        more = json.loads(trust(account=root))["Statement"]
        both = json.dumps({"Version": "2012-10-17", "Statement": json.loads(before)["Statement"] + more})
        found: dict[str, str] = {}

        def assumed() -> bool:
            with contextlib.suppress(ClientError):  # what a role trusts is not known everywhere at once
                found.update(sts.assume_role(RoleArn=arn, RoleSessionName="probe")["Credentials"])
            return bool(found)

        iam.update_assume_role_policy(RoleName=role, PolicyDocument=both)
        try:
            self.wait(assumed, "the role can be taken")
            yield boto3.Session(
                found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"], region_name=self.cloud.region
            )
        finally:
            iam.update_assume_role_policy(RoleName=role, PolicyDocument=before)

    # --- looking ---

    def lines(self, log_group: str) -> list[str]:
        """Return the lines of a log group of the last hours."""
        pages = self.cloud.client("logs").get_paginator("filter_log_events").paginate(logGroupName=log_group)
        return [event["message"] for page in pages for event in page["events"]]

    def counted(self, metric: str = "requests", source: str = "") -> int:
        """Return what the counters of the last three hours hold of a metric of the key, or of another source."""
        whose = source or self.key[0]
        now = datetime.now(UTC)
        total = 0
        for hour in hours(Hour.containing(now - timedelta(hours=3)), Hour.containing(now).next()):
            found = self.deployment.counters.read(hour, [whose])
            total += found[whose].sums.get(metric, 0) if whose in found else 0
        return total

    def wait(self, is_so: Callable[[], bool], what: str, *, patience_s: float | None = None) -> None:
        """Wait until something is so; TimeoutError if it is not in time."""
        patience_s = patience_s or self.cloud.patience_s
        deadline = time.monotonic() + patience_s
        while not is_so():
            if time.monotonic() > deadline:
                raise TimeoutError(f"it was not so within {patience_s:.0f} s that {what}")
            time.sleep(5 if self.cloud.is_aws else 0.2)

    def wait_for_line(self, log_group: str, is_it: Callable[[str], bool]) -> str:
        """Return the first line of a log group that is the one, once it is there."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [line for line in self.lines(log_group) if is_it(line)]
            return bool(found)

        self.cloud.written()
        self.wait(look, f"{log_group} has a line")
        return found[0]


@contextmanager
def run(cloud: Cloud, results: Path) -> Iterator[Run]:
    """Deploy, and remove everything at the end, whatever happens between; what is left is written down and raised."""
    costs = Costs()
    costs.watch(cloud.session)
    name = f"Live{datetime.now(UTC):%m%d%H%M}{secrets.token_hex(2)}"
    about: dict[str, Any] = {
        "run": name,
        "where": f"AWS account {cloud.account_id}" if cloud.is_aws else "the embedded AWS",
        "region": cloud.region,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    points = Points(results, about, cloud.is_aws)
    points.tell(state="deploying")
    made = Run(cloud, name, points, costs, f"{name.lower()}-assets-{cloud.account_id}")
    with contextlib.ExitStack() as ending:
        # The last one first, and each of them whatever the others raise.
        ending.callback(_tell_what_is_left, made)
        ending.callback(removal.remove, cloud, name)
        _make_assets_bucket(made)
        points.tell(without_a_role=_answer_without_a_role(made), state="running")
        ending.enter_context(_log_role(made))
        made.deploy()
        yield made


def _tell_what_is_left(made: Run) -> None:
    found = removal.left(made.cloud, made.name)
    made.points.tell(left=found, cost=made.costs.as_json(), state="removed")
    assert found == [], f"left of the run {made.name}: {found}"


def _make_assets_bucket(made: Run) -> None:
    s3, region = made.cloud.client("s3"), made.cloud.region
    where: dict[str, Any] = {} if region == "us-east-1" else {"LocationConstraint": region}
    s3.create_bucket(Bucket=made.assets, **({"CreateBucketConfiguration": where} if where else {}))


def _answer_without_a_role(made: Run) -> str | None:
    """Return what API Gateway says to an access log where the account has no role for it; None where it has one."""
    apigateway = made.cloud.client("apigateway")
    if apigateway.get_account().get("cloudwatchRoleArn"):
        return None
    api = apigateway.create_rest_api(name=f"{made.name}-probe")["id"]
    try:
        root = apigateway.get_resources(restApiId=api)["items"][0]["id"]
        method = {"restApiId": api, "resourceId": root, "httpMethod": "GET"}
        apigateway.put_method(**method, authorizationType="AWS_IAM")
        apigateway.put_integration(**method, type="MOCK")
        deployed = apigateway.create_deployment(restApiId=api)["id"]
        apigateway.create_stage(restApiId=api, stageName="probe", deploymentId=deployed)
        arn = (
            f"arn:{made.cloud.partition}:logs:{made.cloud.region}:{made.cloud.account_id}:log-group:{made.name}-nowhere"
        )
        values = {"destinationArn": arn, "format": "$context.requestId"}
        settings = [
            {"op": "replace", "path": f"/accessLogSettings/{name}", "value": value} for name, value in values.items()
        ]
        apigateway.update_stage(restApiId=api, stageName="probe", patchOperations=settings)
    except ClientError as error:
        return str(error.response["Error"].get("Message", error))
    else:
        return "it took it"
    finally:
        apigateway.delete_rest_api(restApiId=api)


@contextmanager
def _log_role(made: Run) -> Iterator[None]:
    """Give the account a role for access logs where it has none, and take it away again; else leave it as it is."""
    apigateway, iam = made.cloud.client("apigateway"), made.cloud.client("iam")
    if apigateway.get_account().get("cloudwatchRoleArn"):
        yield
        return
    trusts = trust(service="apigateway.amazonaws.com")
    arn = iam.create_role(RoleName=f"{made.name}-log", AssumeRolePolicyDocument=trusts)["Role"]["Arn"]
    policy = f"arn:{made.cloud.partition}:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"
    iam.attach_role_policy(RoleName=f"{made.name}-log", PolicyArn=policy)

    def put(value: str) -> bool:
        patch = [{"op": "replace", "path": "/cloudwatchRoleArn", "value": value}]
        with contextlib.suppress(ClientError):  # a new role is not known everywhere at once; and one call in 20 s
            apigateway.update_account(patchOperations=patch)
            return True
        return False

    try:
        made.wait(lambda: put(arn), "the account takes a role for access logs")
        yield
    finally:
        made.wait(lambda: put(""), "the account gives the role for access logs up")


def trust(**who: str) -> str:
    """Return a policy by which a service, or an account, may take a role."""
    ((kind, value),) = who.items()
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {_PRINCIPALS[kind]: value}}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


_PRINCIPALS: Final = {"service": "Service", "account": "AWS"}


def results_of(is_aws: bool, environment: Mapping[str, str] = os.environ) -> Path:  # noqa: FBT001  it is a question
    """Return the file that a run's results go to."""
    named = environment.get("LIVE_RESULTS") if is_aws else None
    return Path(named) if named else ROOT / ".metering" / ("live.json" if is_aws else "live-emulator.json")
