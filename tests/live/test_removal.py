"""A run that fails in the middle leaves nothing: what it made is found by its name, and removed."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.live import removal
from tests.live.cloud import Cloud, embedded
from tests.live.run import DeployError, Run, run, trust

OF_A_RUN = {"API key", "stack", "REST API", "table", "bucket", "log group", "secret", "role"}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """An embedded AWS for this module."""
    with embedded() as started:
        yield started


@dataclass
class Failed:
    """A run that made one of everything, and then failed to deploy: its results and its error."""

    told: dict[str, Any]
    error: BaseException

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.told["run"])


@pytest.fixture
def fail(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Failed]:
    """What lets a run fail, and a call be answered in place of AWS from then on until the run's end."""

    def fail(call: str = "", answer: Callable[..., Any] | None = None) -> Failed:
        there: list[str] = []
        with ExitStack() as broken:

            def deploy(made: Run) -> None:
                _make_one_of_each(made)
                there.extend(removal.left(made.cloud, made.name))
                if answer:
                    cloud.session.events.register_first(f"before-call.{call}", answer)
                    broken.callback(cloud.session.events.unregister, f"before-call.{call}", answer)
                raise DeployError("asked to fail")

            monkeypatch.setattr(Run, "deploy", deploy)
            results = tmp_path / "live.json"
            with pytest.raises((DeployError, AssertionError, FailsError)) as raised, run(cloud, results):
                pass
        assert kinds(there) == OF_A_RUN
        return Failed(json.loads(results.read_text()), raised.value)

    return fail


def kinds(found: list[str]) -> set[str]:
    """Return of which kinds it is."""
    return {kind for kind in removal.KINDS if any(one.startswith(f"{kind} ") for one in found)}


def test_a_run_that_fails_removes_what_it_made_and_says_so(cloud: Cloud, fail: Callable[..., Failed]) -> None:
    """A table that is protected from deletion, a bucket with versions, a log group, a secret, a role with a policy."""
    failed = fail()
    assert isinstance(failed.error, DeployError)
    assert removal.left(cloud, failed.name) == []
    apigateway = cloud.client("apigateway")
    assert not apigateway.get_account().get("cloudwatchRoleArn")
    apigateway.close()
    told = failed.told
    assert (told["state"], told["left"], told["points"]) == ("removed", [], [])
    assert 0 < told["cost"]["dollars"] < told["cost"]["bound"]


FAILING = {
    "apigateway.GetApiKeys": "API key",
    "apigateway.DeleteApiKey": "API key",
    "cloudformation.DeleteStack": "stack",
    "apigateway.DeleteRestApi": "REST API",
    "dynamodb.UpdateTable": "table",
    "s3.DeleteBucket": "bucket",
    "logs.DeleteLogGroup": "log group",
    "secretsmanager.DeleteSecret": "secret",
    "iam.DeleteRolePolicy": "role",
}


@pytest.mark.parametrize(("call", "kind"), FAILING.items())
def test_a_step_that_fails_leaves_no_other_undone(
    cloud: Cloud, fail: Callable[..., Failed], call: str, kind: str
) -> None:
    """What could not be removed is raised, and removed by the next attempt."""

    def refuse(**_: Any) -> None:
        raise FailsError(call)

    failed = fail(call, refuse)
    assert not isinstance(failed.error, DeployError)
    assert kinds(removal.left(cloud, failed.name)) == {kind}
    removal.remove(cloud, failed.name)
    assert removal.left(cloud, failed.name) == []


def test_a_stack_that_does_not_go_keeps_nothing_else(
    cloud: Cloud, fail: Callable[..., Failed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for in vain, which the run then says."""
    with monkeypatch.context() as impatient:
        impatient.setattr(removal, "DELETING_LIMIT_S", 0)
        failed = fail("cloudformation.DeleteStack", lambda **_: (SimpleNamespace(status_code=200), {}))
    stack = f"{failed.name}-Beside"
    assert (failed.told["left"], type(failed.error)) == ([f"stack {stack}"], AssertionError)
    assert str(failed.error.__context__) == f"the stack {stack} is being deleted for 0 s"
    removal.remove(cloud, failed.name)
    assert removal.left(cloud, failed.name) == []


class FailsError(Exception):
    """A call that was made to fail."""


def _make_one_of_each(made: Run) -> None:
    name, cloud = made.name, made.cloud
    key = {"AttributeName": "pk", "KeyType": "HASH"}
    cloud.client("dynamodb").create_table(
        TableName=f"{name}-Ledger",
        KeySchema=[key],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        DeletionProtectionEnabled=True,
    )
    s3, bucket = cloud.client("s3"), f"{name.lower()}-bucket"
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"first", b"second"):
        s3.put_object(Bucket=bucket, Key="object", Body=body)
    s3.delete_object(Bucket=bucket, Key="object")
    apigateway = cloud.client("apigateway")
    apigateway.create_api_key(name=name, enabled=True)
    apigateway.create_rest_api(name=f"{name}-probe")
    resource = {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": f"{name}-of-a-stack"}}
    template = json.dumps({"Resources": {"Group": resource}})
    cloudformation = cloud.client("cloudformation")
    cloudformation.create_stack(StackName=f"{name}-Beside", TemplateBody=template)
    cloudformation.get_waiter("stack_create_complete").wait(StackName=f"{name}-Beside", WaiterConfig={"Delay": 1})
    cloud.client("logs").create_log_group(logGroupName=f"/aws/vendedlogs/{name}-http")
    tags = [{"Key": "aws:cloudformation:stack-name", "Value": name}]
    cloud.client("secretsmanager").create_secret(Name="StripeSecret-0123", SecretString="none", Tags=tags)
    iam = cloud.client("iam")
    iam.create_role(RoleName=f"{name}-probe", AssumeRolePolicyDocument=trust(service="lambda.amazonaws.com"))
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_role_policy(RoleName=f"{name}-probe", PolicyName="probe", PolicyDocument=policy)
