"""A run that fails in the middle leaves nothing: what it made is found by its name, and removed."""

import json
from pathlib import Path

import pytest

from tests.live import removal
from tests.live.cloud import embedded
from tests.live.run import DeployError, Run, run, trust


def test_a_run_that_fails_removes_what_it_made_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is protected from deletion, a bucket with versions, a log group, a secret, a role with a policy."""
    left: list[str] = []

    def deploy(made: Run) -> None:
        _make_one_of_each(made)
        left.extend(removal.left(made.cloud, made.name))
        raise DeployError("asked to fail")

    monkeypatch.setattr(Run, "deploy", deploy)
    with embedded() as cloud:
        with pytest.raises(DeployError), run(cloud, tmp_path / "live.json"):
            pass
        told = json.loads((tmp_path / "live.json").read_text())
        name = told["run"]
        assert removal.left(cloud, name) == []
        apigateway = cloud.client("apigateway")
        assert not apigateway.get_account().get("cloudwatchRoleArn")
        apigateway.close()
    kinds = {kind for kind in removal.KINDS if any(one.startswith(f"{kind} ") for one in left)}
    assert kinds == {"table", "bucket", "log group", "secret", "role"}
    assert (told["state"], told["left"], told["points"]) == ("removed", [], [])
    assert 0 < told["cost"]["dollars"] < told["cost"]["bound"]


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
    cloud.client("logs").create_log_group(logGroupName=f"/aws/vendedlogs/{name}-http")
    tags = [{"Key": "aws:cloudformation:stack-name", "Value": name}]
    cloud.client("secretsmanager").create_secret(Name="StripeSecret-0123", SecretString="none", Tags=tags)
    iam = cloud.client("iam")
    iam.create_role(RoleName=f"{name}-probe", AssumeRolePolicyDocument=trust(service="lambda.amazonaws.com"))
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_role_policy(RoleName=f"{name}-probe", PolicyName="probe", PolicyDocument=policy)
