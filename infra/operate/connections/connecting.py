"""Connecting, and the way back: each step may be the last that this process takes, and is harmless when taken again.

The ledger first, then AWS, then the ledger. What a stage had is written down before it is changed, a stage's access log
is changed by one call from what it was to what it is to be, and nothing is put back over what somebody else has set.
"""

from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Final

import msgspec

from infra.operate.connections import log_role
from infra.operate.connections.patience import Patience
from infra.operate.connections.permission import Permission
from infra.operate.connections.stage import group_of, log_group, log_of
from infra.operate.connections.terms import Place, is_as_left
from infra.operate.connections.usage_log import TERM, count_no_longer, count_written, filter_name
from infra.operate.deployment import Deployment, OperatorError
from metering.model.connections import EARLY, Connection, Form, StageLog, Step
from metering.model.log_format import Api
from metering.model.periods import COUNTER_LIFE
from metering.stores.table import RowChangedError

EVERY_LINE: Final = ""
_EARLY_MS: Final = int(EARLY.total_seconds() * 1000)
_FORGOTTEN_MS: Final = int(COUNTER_LIFE.total_seconds() * 1000)
"""So long after a connection ended no line of it is counted, redriven or recounted any more."""

_CHANGING_MS: Final = 60_000
"""So long a stage that is given our line in front may write as before: its lines are read by what was there, too."""

_CHANGES_STAGE: Final = (Form.OURS, Form.EXTENDED)


def place_of(deployment: Deployment, *, to_disconnect: bool = False) -> Place:
    """Return where a deployment's lines go; two calls.

    ``to_disconnect`` does without what a version that has no connections does not tell: whoever went back to it with a
    stage connected has to give that back.
    """
    outputs, functions = deployment.outputs, deployment.client("lambda")
    arn = str(functions.get_function_configuration(FunctionName=outputs.record_usage_function)["FunctionArn"])
    _, partition, _, region, account, *_ = arn.split(":")
    return Place(
        stack=deployment.stack,
        access_log=deployment.access_log,
        access_log_group=outputs.access_log_group,
        connected_logs="" if to_disconnect else outputs.connected_logs,
        group_arn=f"arn:{partition}:logs:{region}:{account}:log-group:",
        function_arn=arn,
        nonce=outputs.nonces.partition(" ")[0],
        metrics=deployment.declared_metrics,
        policy_is_full=Permission(functions, arn).is_full,
        delivery_stream=outputs.delivery_stream or "",
    )


def moment_of(deployment: Deployment) -> tuple[int, str]:
    """Return the time by AWS's clock, in milliseconds since 1970, and the ARN of whoever asks."""
    answer = deployment.client("sts").get_caller_identity()
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    if "date" not in headers:
        raise OperatorError("AWS's answer has no date, by which connections begin and end: try it again")
    return int(parsedate_to_datetime(headers["date"]).timestamp() * 1000), str(answer["Arn"])


@dataclass(frozen=True)
class Connecting:
    """The verbs, on a deployment; ``patience`` says what takes its time."""

    deployment: Deployment
    place: Place
    patience: Patience

    def connect(self, wanted: Connection, *, former: Connection | None = None, make_role: bool = False) -> Connection:
        """Do what a plan says, or the rest of it, and return the connection as it is then in the ledger.

        Raises OperatorError if somebody else changes the stage or the connection at the same time.
        """
        connection = self._begin(wanted, former)
        if connection.form is Form.OURS:
            if make_role:
                self._say("giving API Gateway a role to write logs by, unless it has one")
                log_role.make(self.deployment, self.place.function_arn.split(":")[1], self.patience)
            self._make_log_group(connection.log_group)
        if connection.form is Form.EXTENDED:
            self._set_stage(connection, connection.after)
        if connection.form is not Form.OURS:
            self._say(f"letting CloudWatch Logs bring the lines of {connection.log_group}")
            self._permission.grant(connection.log_group)
        self._subscribe(connection)
        if connection.form is Form.USAGE:
            self._say(f"counting what is written into {connection.log_group}")
            count_written(self.deployment, connection.log_group, self._filter_name)
        if connection.form is Form.OURS:
            self._set_stage(connection, connection.after)
        return self._save(msgspec.structs.replace(connection, step=Step.CONNECTED))

    def disconnect(self, connection: Connection, *, keep_log: bool = False) -> Connection:
        """Put back what the stage had, and read its log group no longer; with ``keep_log`` the stage stays as it is.

        Raises OperatorError, and changes nothing, where the stage is not as it was left.
        """
        self.check_way_back(connection, keep_log=keep_log)
        if connection.step is Step.DISCONNECTED:
            return connection
        puts_back = _puts_back(connection, keep_log=keep_log)
        if connection.step is not Step.DISCONNECTING:
            moment, _ = moment_of(self.deployment)
            until = max(moment, connection.since + 1)
            connection = self._save(msgspec.structs.replace(connection, step=Step.DISCONNECTING, until=until))
        if puts_back and self._log_of(connection) is not None:
            self._set_stage(connection, connection.before)
        self._leave_log_group(connection)
        return self._save(msgspec.structs.replace(connection, step=Step.DISCONNECTED))

    def check_way_back(self, connection: Connection, *, keep_log: bool = False) -> bool:
        """Say whether a stage that is to get back what it had is there; OperatorError if it is not as it was left."""
        if connection.step is Step.DISCONNECTED or not _puts_back(connection, keep_log=keep_log):
            return True
        log = self._check_as_left(connection)
        return log is not None

    def _begin(self, wanted: Connection, former: Connection | None) -> Connection:
        """Write down what will be done, unless it is written; a beginning that brought no line yet begins now."""
        if wanted.step is Step.CONNECTED:
            return wanted
        stored = self.deployment.connections.get(wanted.name)
        if wanted.since and (wanted.form is Form.OURS or self._subscription(wanted.log_group)):
            is_written = stored is not None and _reads_as(stored, wanted)
            return wanted if is_written else self._save(wanted)
        moment, who = moment_of(self.deployment)
        until = moment + (_CHANGING_MS if wanted.form is Form.EXTENDED else 0)
        ended = msgspec.structs.replace(former, step=Step.DISCONNECTED, until=until) if former else None
        if wanted.since:
            nothing_came = wanted.since - _EARLY_MS
            ended = msgspec.structs.replace(wanted, step=Step.DISCONNECTED, until=nothing_came)
        since = max([moment, *(one.since + 1 for one in (stored, former) if one)])
        self._say(f"writing down in the ledger what will be done, as the connection {wanted.name}")
        read = self._was_read(wanted, moment)
        begun = self._save(msgspec.structs.replace(wanted, since=since, by=who, was_read=read), former=ended)
        self.deployment.connections.forget(begun.log_group, moment - _FORGOTTEN_MS)
        return begun

    def _was_read(self, wanted: Connection, moment: int) -> bool:
        """Say whether lines that were written before a connection begins may come: those of others' are delivered."""
        known = self.deployment.connections.of_log_group(wanted.log_group)
        others = [one for one in known if (one.name, one.since) != (wanted.name, wanted.since)]
        return any(not one.until or one.until > moment - _EARLY_MS for one in others)

    def _save(self, connection: Connection, *, former: Connection | None = None) -> Connection:
        """Write a connection, unless it is there as it is to be; OperatorError if somebody else changed it."""
        connections = self.deployment.connections
        stored = connections.get(connection.name)
        if stored and _is_same(stored, connection):
            return stored
        try:
            return connections.save(connection, former=former)
        except RowChangedError as error:
            stored = connections.get(connection.name)
            if stored and _is_same(stored, connection):
                return stored  # by somebody who did the same, or by this very call, whose answer was lost
            raise OperatorError(
                f"somebody else has just changed the connection {connection.name}: look at it with 'metering "
                "connections', then say this again"
            ) from error

    def _check_as_left(self, connection: Connection) -> StageLog | None:
        """Return what the stage writes, None if it is gone; OperatorError if it is not as it was left."""
        log = self._log_of(connection)
        if log not in (None, connection.before) and not self._is_as_left(connection, log):
            raise OperatorError(
                f"the stage {connection.stage} of {connection.api_name} is no longer as it was left: "
                f"{_difference(connection.after, log)}. Say --keep-log to leave it as it is, and only end the metering"
            )
        return log

    def _log_of(self, connection: Connection) -> StageLog | None:
        return log_of(self.deployment, connection.log.api, connection.api_id, connection.stage)

    def _is_as_left(self, connection: Connection, log: StageLog | None) -> bool:
        return log is not None and is_as_left(connection, log, self.place.nonce)

    def _set_stage(self, connection: Connection, wanted: StageLog) -> None:
        """Change a stage's access log from what it had before to what it has since, or back.

        Raises OperatorError if it is neither.
        """
        named = f"the stage {connection.stage} of {connection.api_name}"
        log = self._log_of(connection)
        if log == wanted:
            return
        if log is None:
            raise OperatorError(f"{named} is gone: say 'metering disconnect {connection.name}'")
        if log != connection.before and not self._is_as_left(connection, log):
            difference = _difference(connection.before, log)
            raise OperatorError(
                f"somebody has changed {named} meanwhile: {difference}. Say this again to see what it is now"
            )
        self._say(f"changing what {named} writes")
        # "CloudWatch Logs role ARN must be set in account settings to enable logging": until a new role is known.
        self.patience.call(lambda: self._change(connection, wanted), until="role")
        read_back = self._log_of(connection)
        if read_back != wanted:
            raise OperatorError(f"API Gateway took the change, but {named} is not so: say this again")

    def _change(self, connection: Connection, wanted: StageLog) -> None:
        """Give a stage an access log by one call, so that at no moment it has half of one."""
        if connection.api is Api.REST:
            self.deployment.client("apigateway").update_stage(
                restApiId=connection.api_id, stageName=connection.stage, patchOperations=_patches(wanted)
            )
            return
        client, stage = self.deployment.client("apigatewayv2"), {"ApiId": connection.api_id}
        stage["StageName"] = connection.stage
        if wanted.destination:
            settings = {"DestinationArn": wanted.destination, "Format": wanted.format}
            client.update_stage(**stage, AccessLogSettings=settings)
        else:
            client.delete_access_log_settings(**stage)

    def _make_log_group(self, name: str) -> None:
        """Make a log group that keeps its lines as long as the deployment's own access log does."""
        logs = self.deployment.client("logs")
        self._say(f"making the log group {name}")
        # There is one if this was begun before, or of an earlier connection, whose lines stay.
        with suppress(logs.exceptions.ResourceAlreadyExistsException):
            logs.create_log_group(logGroupName=name)
        own = log_group(self.deployment, self.place.access_log_group)
        if own and own.retention:
            self.patience.call(lambda: logs.put_retention_policy(logGroupName=name, retentionInDays=own.retention))

    def _subscription(self, group: str) -> str:
        """Return the name of the filter that brings a log group's lines here, or nothing."""
        found = log_group(self.deployment, group)
        filters = found.filters if found else ()
        return next((one.name for one in filters if one.destination == self.place.function_arn), "")

    def _subscribe(self, connection: Connection) -> None:
        if self._subscription(connection.log_group):
            return
        self._say(f"subscribing to {connection.log_group}")
        logs, pattern = self.deployment.client("logs"), EVERY_LINE
        if connection.form is Form.USAGE:
            pattern = TERM
        # "Could not execute the lambda function": until the permission is known.
        self.patience.call(
            lambda: logs.put_subscription_filter(
                logGroupName=connection.log_group,
                filterName=self._filter_name,
                filterPattern=pattern,
                destinationArn=self.place.function_arn,
            ),
            until="execute the lambda function",
        )

    def _leave_log_group(self, connection: Connection) -> None:
        """Bring its lines no longer, unless another connection reads them."""
        others = [
            one
            for one in self.deployment.connections.all()
            if one.name != connection.name and one.step is not Step.DISCONNECTED
        ]
        if any(one.log_group == connection.log_group for one in others):
            return
        logs = self.deployment.client("logs")
        self._say(f"ending the subscription to {connection.log_group}")
        # There is none if it was never put, somebody has taken it away, or the log group is gone.
        with suppress(logs.exceptions.ResourceNotFoundException):
            logs.delete_subscription_filter(logGroupName=connection.log_group, filterName=self._filter_name)
        if connection.form is Form.USAGE:
            count_no_longer(self.deployment, connection.log_group, self._filter_name)
        if connection.form is not Form.OURS:
            last = all(one.form is Form.OURS for one in others)
            self._permission.revoke(connection.log_group, last=last)

    @property
    def _filter_name(self) -> str:
        return filter_name(self.place)

    @cached_property
    def _permission(self) -> Permission:
        return Permission(self.deployment.client("lambda"), self.place.function_arn)

    def _say(self, doing: str) -> None:
        self.patience.say(doing)


def _puts_back(connection: Connection, *, keep_log: bool) -> bool:
    return connection.form in _CHANGES_STAGE and not keep_log


def _is_same(stored: Connection, wanted: Connection) -> bool:
    return msgspec.structs.replace(stored, version=wanted.version) == wanted


def _reads_as(stored: Connection, wanted: Connection) -> bool:
    """Say whether lines are read alike by both."""
    return (stored.after, stored.shares_log, stored.alone) == (wanted.after, wanted.shares_log, wanted.alone)


def _patches(wanted: StageLog) -> list[dict[str, str]]:
    """Return what makes a REST API's stage write so (API Gateway API Reference, "Patch Operations", Stage)."""
    if not wanted.destination:
        return [{"op": "remove", "path": "/accessLogSettings"}]
    return [
        {"op": "replace", "path": "/accessLogSettings/destinationArn", "value": wanted.destination},
        {"op": "replace", "path": "/accessLogSettings/format", "value": wanted.format},
    ]


def _difference(was: StageLog, now: StageLog | None) -> str:
    if now is None or not now.destination:
        return "it writes no access log"
    if now.destination != was.destination:
        where = group_of(now.destination) or now.destination
        return f"it writes to {where}" + (f", not to {group_of(was.destination)}" if was.destination else "")
    return "it writes another format"
