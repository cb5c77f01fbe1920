"""Whether the prefixes of an item's key hold where AWS documents them for no call: in transactions, on an index."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.live.points import Points
from tests.live.run import Run, trust

SOURCE = "Service Authorization Reference, 'Condition keys for Amazon DynamoDB'; documented for single calls alone"
EMULATOR = "the emulator never fills dynamodb:LeadingKeys in"


@pytest.fixture(scope="module")
def as_post_usage(live: Run) -> Iterator[Any]:
    """DynamoDB, as somebody who may do exactly what ``post_usage`` may."""
    iam, functions = live.cloud.client("iam"), live.cloud.client("lambda")
    function = live.deployment.outputs.post_usage_function
    role = functions.get_function_configuration(FunctionName=function)["Role"].rpartition("/")[2]
    probe = f"{live.name}-probe"
    account = f"arn:aws:iam::{live.cloud.account_id}:root"
    made = iam.create_role(RoleName=probe, AssumeRolePolicyDocument=trust(account=account))["Role"]["Arn"]
    for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        document = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
        written = document if isinstance(document, str) else json.dumps(document)
        iam.put_role_policy(RoleName=probe, PolicyName=policy, PolicyDocument=written)
    sts = live.cloud.client("sts")

    def assumed() -> dict[str, str]:
        try:
            found: dict[str, str] = sts.assume_role(RoleArn=made, RoleSessionName="probe")["Credentials"]
        except ClientError:  # a new role is not known everywhere at once
            return {}
        return found

    live.wait(lambda: bool(assumed()), "the role can be taken")
    keys = assumed()
    session = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], live.cloud.region)
    dynamodb = session.client("dynamodb", endpoint_url=live.cloud.client("dynamodb").meta.endpoint_url)
    live.wait(lambda: _put(dynamodb, live, "customer#probe") == "allowed", "the role may do what it is to")
    yield dynamodb
    dynamodb.close()


def test_a_single_write_is_held_to_its_prefix(live: Run, as_post_usage: Any) -> None:
    """As documented; and what it may write it can."""
    _note(live.points, "PutItem", _put(as_post_usage, live, "period#x"))


def test_a_write_in_a_transaction_is_held_to_its_prefix(live: Run, as_post_usage: Any) -> None:
    """If it is not, the prefixes bind single calls alone, and the grants promise less than they seem to."""
    assert _transact(as_post_usage, live, "customer#probe") == "allowed"
    _note(live.points, "TransactWriteItems", _transact(as_post_usage, live, "period#x"))


@pytest.mark.parametrize("key", ["rejected#0", "x#0"])
def test_a_query_of_the_index_is_held_to_its_prefix(live: Run, as_post_usage: Any, key: str) -> None:
    """The index has a partition key of its own, which a condition may or may not look at."""
    assert _query(as_post_usage, live, "pending#0") == "allowed"
    _note(live.points, f"Query of the index pending, {key}", _query(as_post_usage, live, key))


def _note(points: Points, call: str, observed: str) -> None:
    points.beyond_the_emulator(
        f"dynamodb:LeadingKeys, {call} with another key than granted",
        expected="denied",
        observed=observed,
        source=SOURCE,
        why_not=EMULATOR,
    )


# None of these writes anything: what is asked for first is never so.
NEVER_SO = {"ConditionExpression": "attribute_exists(pk)"}


def _put(dynamodb: Any, live: Run, key: str) -> str:
    item = {"pk": {"S": key}, "sk": {"S": "probe"}}
    return _answer(lambda: dynamodb.put_item(TableName=_ledger(live), Item=item, **NEVER_SO))


def _transact(dynamodb: Any, live: Run, key: str) -> str:
    item = {"pk": {"S": key}, "sk": {"S": "probe"}}
    write = {"Put": {"TableName": _ledger(live), "Item": item, **NEVER_SO}}
    return _answer(lambda: dynamodb.transact_write_items(TransactItems=[write]))


def _query(dynamodb: Any, live: Run, key: str) -> str:
    return _answer(
        lambda: dynamodb.query(
            TableName=_ledger(live),
            IndexName="pending",
            KeyConditionExpression="pending = :key",
            ExpressionAttributeValues={":key": {"S": key}},
            Limit=1,
        )
    )


def _ledger(live: Run) -> str:
    return live.deployment.outputs.ledger_table


def _answer(ask: Any) -> str:
    """Return whether a call was allowed: refused for its condition, it was."""
    try:
        ask()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "AccessDeniedException":
            return "denied"
        if code not in ("ConditionalCheckFailedException", "TransactionCanceledException"):
            raise
    return "allowed"
