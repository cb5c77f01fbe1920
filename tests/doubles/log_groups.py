"""What stands around a connected stage, in memory: log groups, a function's policy, roles, stacks, and who asks.

- A log group has two subscription filters at most, then LimitExceededException; a filter under the name of another
  takes its place (CloudWatch Logs API Reference, "PutSubscriptionFilter"; User Guide, "CloudWatch Logs quotas").
  CloudWatch Logs tries the function when the filter is put: "Could not execute the lambda function. Make sure you have
  given CloudWatch Logs permission to execute your function.", an InvalidParameterException, where it may not.
- AddPermission refuses a statement's id that is there (ResourceConflictException) and a policy of more than 20 KB
  (PolicyLengthExceededException); without a statement there is no policy (Lambda API Reference, "AddPermission",
  "GetPolicy"; Developer Guide, "Lambda quotas").
- DescribeStackResources by a physical id answers ValidationError for what is in no stack (CloudFormation's API
  Reference).
- Every answer has a date (RFC 9110, "Date"), in whole seconds.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from fnmatch import fnmatchcase
from typing import Any, Final

from botocore.exceptions import ClientError

from tests.doubles.api_gateway import ACCOUNT

REGION: Final = "us-east-1"
FUNCTION: Final = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:record-usage"
LOG_GROUP_ARN: Final = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:"
OPERATOR: Final = f"arn:aws:iam::{ACCOUNT}:user/ada"
MOST_FILTERS: Final = 2
LONGEST_POLICY: Final = 20 << 10


class ResourceNotFoundException(ClientError):  # noqa: N818  as clients name it
    """There is no such log group, filter, policy or statement."""


class ResourceAlreadyExistsException(ClientError):  # noqa: N818  as clients name it
    """There is such a log group."""


class ResourceConflictException(ClientError):  # noqa: N818  as clients name it
    """There is such a statement."""


class EntityAlreadyExistsException(ClientError):  # noqa: N818  as clients name it
    """There is such a role."""


class Exceptions:
    """What the clients raise, under the names that boto3 has."""

    ResourceNotFoundException = ResourceNotFoundException
    ResourceAlreadyExistsException = ResourceAlreadyExistsException
    ResourceConflictException = ResourceConflictException
    EntityAlreadyExistsException = EntityAlreadyExistsException


@dataclass
class FunctionOfAws:
    """The client ``lambda`` for one function: its policy, by the statements' names."""

    exceptions = Exceptions
    statements: dict[str, str] = field(default_factory=dict)

    def may_be_started_for(self, log_group: str) -> bool:
        """Say whether a statement names a log group."""
        arn = f"{LOG_GROUP_ARN}{log_group}:*"
        return any(fnmatchcase(arn, pattern) for pattern in self.statements.values())

    def get_function_configuration(self, *, FunctionName: str) -> dict[str, Any]:  # noqa: N803  as AWS names them, here and below
        """Return the function's name."""
        assert FunctionName == "record-usage"
        return {"FunctionArn": FUNCTION}

    def get_policy(self, *, FunctionName: str) -> dict[str, Any]:  # noqa: N803
        """Return the policy, if there is one."""
        assert FunctionName == FUNCTION
        if not self.statements:
            raise error(ResourceNotFoundException, "GetPolicy", "The resource you requested does not exist.")
        return {"Policy": self._policy()}

    def add_permission(  # noqa: PLR0913 - as AWS has them
        self,
        *,
        FunctionName: str,  # noqa: N803
        StatementId: str,  # noqa: N803
        Action: str,  # noqa: N803
        Principal: str,  # noqa: N803
        SourceAccount: str,  # noqa: N803
        SourceArn: str,  # noqa: N803
    ) -> dict[str, Any]:
        """Add a statement."""
        assert (FunctionName, Action) == (FUNCTION, "lambda:InvokeFunction")
        assert (Principal, SourceAccount) == ("logs.amazonaws.com", ACCOUNT)
        if StatementId in self.statements:
            words = f"The statement id ({StatementId}) provided already exists."
            raise error(ResourceConflictException, "AddPermission", words)
        self.statements[StatementId] = SourceArn
        if len(self._policy()) > LONGEST_POLICY:
            del self.statements[StatementId]
            raise ClientError({"Error": {"Code": "PolicyLengthExceededException"}}, "AddPermission")
        return {"Statement": "{}"}

    def remove_permission(self, *, FunctionName: str, StatementId: str) -> None:  # noqa: N803
        """Take a statement out."""
        assert FunctionName == FUNCTION
        if self.statements.pop(StatementId, None) is None:
            raise error(ResourceNotFoundException, "RemovePermission", "The resource you requested does not exist.")

    def _policy(self) -> str:
        statements = [
            {
                "Sid": name,
                "Effect": "Allow",
                "Principal": {"Service": "logs.amazonaws.com"},
                "Action": "lambda:InvokeFunction",
                "Resource": FUNCTION,
                "Condition": {"StringEquals": {"AWS:SourceAccount": ACCOUNT}, "ArnLike": {"AWS:SourceArn": arn}},
            }
            for name, arn in self.statements.items()
        ]
        return json.dumps({"Version": "2012-10-17", "Id": "default", "Statement": statements})


@dataclass
class LogGroupsOfAws:
    """The client ``logs``: groups by their names, each with its retention, class and filters."""

    function: FunctionOfAws
    exceptions = Exceptions
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    filters: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    refusals: int = 0
    """How often a permission is still unknown."""

    events: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Lines by their log group, each with its moment in milliseconds."""

    def add(
        self, name: str, *, retention: int | None = None, kind: str = "STANDARD", filters: tuple[str, ...] = ()
    ) -> None:
        """Make a log group, with filters that bring its lines to others."""
        self.groups[name] = {"logGroupName": name, "logGroupClass": kind}
        self.groups[name] |= {"retentionInDays": retention} if retention else {}
        elsewhere = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:elsewhere"
        self.filters[name] = {one: {"filterName": one, "destinationArn": elsewhere} for one in filters}

    def create_log_group(self, *, logGroupName: str) -> None:  # noqa: N803
        """Make a log group."""
        if logGroupName in self.groups:
            words = "The specified log group already exists"
            raise error(ResourceAlreadyExistsException, "CreateLogGroup", words)
        self.add(logGroupName)

    def put_retention_policy(self, *, logGroupName: str, retentionInDays: int) -> None:  # noqa: N803
        """Say how long its lines are kept."""
        self._of(logGroupName, "PutRetentionPolicy")["retentionInDays"] = retentionInDays

    def describe_log_groups(self, *, logGroupNamePrefix: str) -> dict[str, Any]:  # noqa: N803
        """Return the log groups whose names begin so, in order."""
        return {"logGroups": [one for name, one in sorted(self.groups.items()) if name.startswith(logGroupNamePrefix)]}

    def describe_subscription_filters(self, *, logGroupName: str) -> dict[str, Any]:  # noqa: N803
        """Return a log group's filters."""
        self._of(logGroupName, "DescribeSubscriptionFilters")
        return {"subscriptionFilters": [*self.filters[logGroupName].values()]}

    def put_subscription_filter(
        self,
        *,
        logGroupName: str,  # noqa: N803
        filterName: str,  # noqa: N803
        filterPattern: str,  # noqa: N803
        destinationArn: str,  # noqa: N803
    ) -> None:
        """Subscribe a function that may be started."""
        self._of(logGroupName, "PutSubscriptionFilter")
        if self.refusals or not self.function.may_be_started_for(logGroupName):
            self.refusals = max(0, self.refusals - 1)
            words = (
                "Could not execute the lambda function. Make sure you have given CloudWatch Logs permission to execute "
                "your function."
            )
            raise error(ClientError, "PutSubscriptionFilter", words, code="InvalidParameterException")
        filters = self.filters[logGroupName]
        if filterName not in filters and len(filters) == MOST_FILTERS:
            raise error(ClientError, "PutSubscriptionFilter", "Resource limit exceeded.", code="LimitExceededException")
        put = {"filterName": filterName, "filterPattern": filterPattern, "destinationArn": destinationArn}
        filters[filterName] = put

    def delete_subscription_filter(self, *, logGroupName: str, filterName: str) -> None:  # noqa: N803
        """End a subscription."""
        self._of(logGroupName, "DeleteSubscriptionFilter")
        if self.filters[logGroupName].pop(filterName, None) is None:
            words = "The specified subscription filter does not exist."
            raise error(ResourceNotFoundException, "DeleteSubscriptionFilter", words)

    def filter_log_events(self, *, logGroupName: str, startTime: int) -> dict[str, Any]:  # noqa: N803
        """Return a log group's lines from a moment on."""
        self._of(logGroupName, "FilterLogEvents")
        events = self.events.get(logGroupName, [])
        return {"events": [{"timestamp": at, "message": text} for at, text in events if at >= startTime]}

    def _of(self, name: str, operation: str) -> dict[str, Any]:
        if name not in self.groups:
            raise error(ResourceNotFoundException, operation, "The specified log group does not exist.")
        return self.groups[name]


@dataclass
class RolesOfAws:
    """The client ``iam``: roles by their names, with the policies that are attached."""

    exceptions = Exceptions
    roles: dict[str, list[str]] = field(default_factory=dict)

    def create_role(self, *, RoleName: str, AssumeRolePolicyDocument: str, Description: str) -> dict[str, Any]:  # noqa: N803
        """Make a role."""
        assert "apigateway.amazonaws.com" in AssumeRolePolicyDocument
        assert Description
        if RoleName in self.roles:
            words = f"Role with name {RoleName} already exists."
            raise error(EntityAlreadyExistsException, "CreateRole", words)
        self.roles[RoleName] = []
        return self.get_role(RoleName=RoleName)

    def get_role(self, *, RoleName: str) -> dict[str, Any]:  # noqa: N803
        """Return a role."""
        return {"Role": {"Arn": f"arn:aws:iam::{ACCOUNT}:role/{RoleName}"}}

    def attach_role_policy(self, *, RoleName: str, PolicyArn: str) -> None:  # noqa: N803
        """Attach a policy; again is the same."""
        self.roles[RoleName] = [*dict.fromkeys([*self.roles[RoleName], PolicyArn])]


@dataclass
class StacksOfAws:
    """The client ``cloudformation``: which stack made what, by its physical id."""

    made: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    """Those of the stack Metering, the only one that can be described."""

    template: dict[str, Any] = field(default_factory=dict)

    def describe_stacks(self, *, StackName: str) -> dict[str, Any]:  # noqa: N803
        """Return a stack with its outputs."""
        assert StackName == "Metering"
        outputs = [{"OutputKey": name, "OutputValue": value} for name, value in self.outputs.items()]
        return {"Stacks": [{"StackName": StackName, "Outputs": outputs}]}

    def get_template(self, *, StackName: str) -> dict[str, Any]:  # noqa: N803
        """Return a stack's template."""
        assert StackName == "Metering"
        return {"TemplateBody": self.template}

    def describe_stack_resources(self, *, PhysicalResourceId: str) -> dict[str, Any]:  # noqa: N803
        """Return what a stack has made."""
        if PhysicalResourceId not in self.made:
            words = f"Stack for {PhysicalResourceId} does not exist"
            raise error(ClientError, "DescribeStackResources", words, code="ValidationError")
        stack = self.made[PhysicalResourceId]
        return {"StackResources": [{"StackName": stack, "PhysicalResourceId": PhysicalResourceId}]}


@dataclass
class CallersOfAws:
    """The client ``sts``."""

    clock: Callable[[], datetime]

    def get_caller_identity(self) -> dict[str, Any]:
        """Return who asks, with the date of the answer."""
        date = format_datetime(self.clock(), usegmt=True)
        return {"Arn": OPERATOR, "Account": ACCOUNT, "ResponseMetadata": {"HTTPHeaders": {"date": date}}}


def error(kind: type[ClientError], operation: str, message: str, *, code: str = "") -> ClientError:
    """Return an error as a client raises it."""
    return kind({"Error": {"Code": code or kind.__name__, "Message": message}}, operation)
