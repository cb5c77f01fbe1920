"""Who may let the function be started: CloudWatch Logs, for the log groups of connections.

A function's policy has room for 20 KB (Lambda Developer Guide, "Lambda quotas": "Function resource-based policy"),
which is some fifty statements. As long as there is room each log group has its own; beyond :data:`FULL` one statement
for every log group of the account takes their place. Log groups that were made for stages need none: the stack's own
statement is for all of them.
"""

import hashlib
import json
from typing import Any, Final

FULL: Final = 16 << 10
"""Bytes of the policy from which on the statements are made one, while there is still room to do so."""

PREFIX: Final = "metering-connection-"
EVERY: Final = f"{PREFIX}every-log-group"


class Permission:
    """The statements of a function by which CloudWatch Logs may start it for others' log groups."""

    def __init__(self, client: Any, function_arn: str) -> None:
        self._client = client
        self._arn = function_arn
        _, self._partition, _, self._region, self._account, *_ = function_arn.split(":")

    @property
    def is_full(self) -> bool:
        """Say whether the next log group makes one statement of all."""
        policy, names = self._policy()
        return EVERY not in names and len(policy) > FULL

    def grant(self, log_group: str) -> None:
        """Let CloudWatch Logs start the function for a log group; doing it again changes nothing."""
        policy, names = self._policy()
        if EVERY in names or statement_of(log_group) in names:
            return
        if len(policy) <= FULL:
            self._add(statement_of(log_group), log_group)
            return
        self._add(EVERY, "*")
        # Only now, so that at no moment a log group that is read has none.
        for name in names:
            if name.startswith(PREFIX):
                self._remove(name)

    def revoke(self, log_group: str, *, last: bool) -> None:
        """Take a log group's statement back, and with the ``last`` of them the one for all; harmless where none is."""
        for name in self._policy()[1]:
            if name == statement_of(log_group) or (last and name == EVERY):
                self._remove(name)

    def _policy(self) -> tuple[str, list[str]]:
        """Return the policy, and the names of its statements."""
        try:
            policy = str(self._client.get_policy(FunctionName=self._arn)["Policy"])
        except self._client.exceptions.ResourceNotFoundException:
            return "", []
        return policy, [statement["Sid"] for statement in json.loads(policy)["Statement"]]

    def _add(self, name: str, log_group: str) -> None:
        every = log_group if log_group == "*" else f"{log_group}:*"
        try:
            self._client.add_permission(
                FunctionName=self._arn,
                StatementId=name,
                Action="lambda:InvokeFunction",
                Principal="logs.amazonaws.com",
                SourceAccount=self._account,
                SourceArn=f"arn:{self._partition}:logs:{self._region}:{self._account}:log-group:{every}",
            )
        except self._client.exceptions.ResourceConflictException:
            return  # somebody else has just added the same: its name is that of the log group

    def _remove(self, name: str) -> None:
        try:
            self._client.remove_permission(FunctionName=self._arn, StatementId=name)
        except self._client.exceptions.ResourceNotFoundException:
            return  # somebody else has just removed it


def statement_of(log_group: str) -> str:
    """Return the name of a log group's statement, which may hold none of a log group's signs but letters and digits."""
    return PREFIX + hashlib.sha256(log_group.encode()).hexdigest()[:16]
