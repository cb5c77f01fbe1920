"""A deployed function's role: what its policy grants, taking a grant away, and this process acting under it.

The emulator holds each call against the policies of whoever makes it, but never fills in ``dynamodb:LeadingKeys`` and
``dynamodb:Attributes``, which a condition with ``ForAllValues`` therefore always meets. So these alone are looked at
here, before a call is made; which action is allowed on which resource is left to the emulator.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

import boto3
import pytest
from botocore.exceptions import ClientError

from infra.local.cloud import LocalCloud
from metering.stores import aws

_LEADING: Final = "dynamodb:LeadingKeys"
_ATTRIBUTES: Final = "dynamodb:Attributes"
_IN_TRANSACTION: Final = {"Put": "PutItem", "Update": "UpdateItem", "ConditionCheck": "ConditionCheckItem"}


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """One action on one resource, as one statement allows it; ``sid`` is empty where the statement has none."""

    sid: str
    action: str
    resource: str

    def __str__(self) -> str:
        return f"{self.sid}: {self.action} on {self.resource}"


@dataclass
class Role:
    """A role with its inline policies, which are made one.

    ``denied`` are the actions that calls under it lacked; ``used`` are the key patterns that they met, each with its
    statement's sid.
    """

    iam: Any
    name: str
    policy: str
    statements: list[dict[str, Any]]
    denied: set[str] = field(default_factory=set)
    used: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def read(cls, iam: Any, arn: str) -> "Role":
        """Read a role as it is deployed."""
        name = arn.rpartition("/")[2]
        first, *more = sorted(iam.list_role_policies(RoleName=name)["PolicyNames"])
        documents = [iam.get_role_policy(RoleName=name, PolicyName=one)["PolicyDocument"] for one in (first, *more)]
        role = cls(iam, name, first, [statement for one in documents for statement in one["Statement"]])
        role._put()
        for one in more:
            iam.delete_role_policy(RoleName=name, PolicyName=one)
        return role

    @property
    def grants(self) -> list[Grant]:
        """Everything that its policy allows."""
        return [
            Grant(one.get("Sid", ""), action, resource)
            for one in self.statements
            if one["Effect"] == "Allow"
            for action in _listed(one["Action"])
            for resource in _listed(one["Resource"])
        ]

    @property
    def patterns(self) -> set[tuple[str, str]]:
        """The patterns of partition keys that its statements name, each with the statement's sid."""
        return {(one["Sid"], pattern) for one in self.statements for pattern in _patterns(one)}

    @contextmanager
    def without(self, *taken: Grant) -> Iterator[None]:
        """Take grants out of the policy, and put them back."""
        before = self.statements
        self.statements = [left for one in before for left in _without(one, taken)]
        self._put()
        try:
            yield
        finally:
            self.statements = before
            self._put()

    def _put(self) -> None:
        # A policy needs a statement; this one allows nothing that anybody does.
        nothing = {"Effect": "Deny", "Action": "s3:DeleteBucket", "Resource": "*"}
        document = {"Version": "2012-10-17", "Statement": self.statements or [nothing]}
        self.iam.put_role_policy(RoleName=self.name, PolicyName=self.policy, PolicyDocument=json.dumps(document))

    def session(self, cloud: LocalCloud) -> boto3.Session:
        """Return a session with the role's credentials, whose calls are held against it and noted."""
        sts = cloud.emulator.client("sts")
        arn = self.iam.get_role(RoleName=self.name)["Role"]["Arn"]
        found = sts.assume_role(RoleArn=arn, RoleSessionName="grants")["Credentials"]
        sts.close()
        session = boto3.Session(
            found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"], region_name=cloud.emulator.region
        )
        events: Any = session.events
        events.register("before-parameter-build.dynamodb", self._check_keys)
        events.register("after-call", self._note_denial)
        return session

    def _check_keys(self, params: Mapping[str, Any], model: Any, **_: Any) -> None:
        for action, resource, key, attributes in _items_named(model.name, params):
            asked = [
                one
                for one in self.statements
                if _allows(one, f"dynamodb:{action}", resource) and _patterns(one) and _knows(one, attributes)
            ]
            met = {(one["Sid"], text) for one in asked for text in _patterns(one) if fnmatchcase(key, text)}
            self.used |= met
            denies = any(_denies(one, f"dynamodb:{action}", resource, key, attributes) for one in self.statements)
            if denies or (not met and any(_allows(one, f"dynamodb:{action}", resource) for one in self.statements)):
                self.denied.add(f"dynamodb:{action}")
                words = f"dynamodb:{action} of {key!r} with {sorted(attributes)} is not allowed to {self.name}"
                raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": words}}, model.name)

    def _note_denial(self, parsed: Mapping[str, Any], **_: Any) -> None:
        error = parsed.get("Error", {})
        if error.get("Code", "").startswith("AccessDenied"):
            self.denied |= set(re.findall(r"not authorized to perform: ([\w-]+:\w+)", error["Message"]))


@contextmanager
def acting(cloud: LocalCloud, function: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Role]:
    """Let this process be a deployed function, named by a part of its name: its settings, its role, its clients."""
    iam, functions = cloud.emulator.client("iam"), cloud.emulator.client("lambda")
    (found,) = [one for one in functions.list_functions()["Functions"] if function in one["FunctionName"]]
    role = Role.read(iam, found["Role"])
    environment = {name: value for name, value in cloud.emulator.environment().items() if "PROXY" in name.upper()}
    with monkeypatch.context() as changed:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            changed.delenv(name)
        changed.setenv("AWS_ENDPOINT_URL", cloud.emulator.endpoint_url)
        for name, value in (environment | found["Environment"]["Variables"]).items():
            changed.setenv(name, value)
        changed.setattr(boto3, "DEFAULT_SESSION", role.session(cloud))
        changed.setattr(aws, "call_leanly", lambda client: client)  # so that the session's hooks see each call
        yield role
    iam.close()
    functions.close()


def _items_named(operation: str, params: Mapping[str, Any]) -> Iterator[tuple[str, str, str, set[str]]]:
    """Yield the actions that a call to DynamoDB needs.

    Each with the end of its resource's ARN, a partition key, and the attributes that a put and its condition name.
    """
    match operation:
        case "TransactWriteItems":
            for write in params["TransactItems"]:
                ((kind, inner),) = write.items()
                yield from _items_named(_IN_TRANSACTION[kind], inner)
        case "BatchGetItem":
            for table, asked in params["RequestItems"].items():
                for key in asked["Keys"]:
                    yield operation, table, key["pk"]["S"], set()
        case "Query":
            index = f"/index/{params['IndexName']}" if "IndexName" in params else ""
            yield operation, params["TableName"] + index, params["ExpressionAttributeValues"][":pk"]["S"], set()
        case "GetItem" | "PutItem" | "UpdateItem" | "DeleteItem" | "ConditionCheckItem":
            item = params.get("Item", {})
            attributes = {*item, *params.get("ExpressionAttributeNames", {}).values()} if item else set()
            yield operation, params["TableName"], (item or params["Key"])["pk"]["S"], attributes
        case _:
            return


def _allows(statement: Mapping[str, Any], action: str, resource: str) -> bool:
    return statement["Effect"] == "Allow" and _is_about(statement, action, resource)


def _denies(statement: Mapping[str, Any], action: str, resource: str, key: str, attributes: set[str]) -> bool:
    if statement["Effect"] != "Deny" or not _is_about(statement, action, resource):
        return False
    keys = _listed(statement["Condition"]["ForAnyValue:StringLike"][_LEADING])
    names = _listed(statement["Condition"]["ForAnyValue:StringEquals"][_ATTRIBUTES])
    return any(fnmatchcase(key, pattern) for pattern in keys) and not attributes.isdisjoint(names)


def _is_about(statement: Mapping[str, Any], action: str, resource: str) -> bool:
    return action in _listed(statement["Action"]) and any(
        arn.endswith(f":table/{resource}") for arn in _listed(statement["Resource"])
    )


def _knows(statement: Mapping[str, Any], attributes: set[str]) -> bool:
    names = statement.get("Condition", {}).get("ForAllValues:StringEquals", {}).get(_ATTRIBUTES)
    return names is None or attributes <= set(_listed(names))


def _patterns(statement: Mapping[str, Any]) -> list[str]:
    keys = statement.get("Condition", {}).get("ForAllValues:StringLike", {}).get(_LEADING, [])
    return _listed(keys)


def _without(statement: dict[str, Any], taken: Sequence[Grant]) -> Iterator[dict[str, Any]]:
    """Yield a statement for each action and resource that stays."""
    for action in _listed(statement["Action"]):
        for resource in _listed(statement["Resource"]):
            if Grant(statement.get("Sid", ""), action, resource) not in taken:
                yield {**statement, "Action": action, "Resource": resource}


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
