"""What connecting does, step by step, and what its operator should know before it is done. Pure."""

from collections.abc import Iterator
from typing import Final, assert_never

from infra.operate.connections.callers import billed_to_nobody
from infra.operate.connections.stage import LiveStage
from infra.operate.connections.terms import Place, Wishes
from infra.operate.doctor.findings import named
from metering.model.connections import Connection, Form
from metering.model.log_format import API_KEY, AccessLog, Api
from metering.model.metrics import not_logged_by, of_stage

_MOST_NAMED: Final = 10


def steps(stage: LiveStage, place: Place, wishes: Wishes, connection: Connection) -> Iterator[str]:
    """Yield what is done, in this order."""
    group = connection.log_group
    subscribed = f"let CloudWatch Logs bring the lines of {group}, and subscribe to it"
    if place.policy_is_full:
        subscribed += (
            ": by one statement for all log groups of this account, in the place of one for each, for which the "
            "function's policy has no more room; then whoever may subscribe a log group here can bring usage lines"
        )
    yield f"write down in the ledger what {stage} has now, so that 'metering disconnect {connection.name}' puts it back"
    match connection.form:
        case Form.OURS:
            if wishes.make_role and stage.api.logs_by_role and not stage.log_role:
                yield "make a role for API Gateway to write access logs by, for the whole account and Region"
            yield f"make the log group {group}, and subscribe to it"
            yield f"let {stage} write our format into it"
        case Form.EXTENDED:
            yield f"put our line in front of the format of {stage}, as the field metering; it goes on into {group}"
            yield subscribed
        case Form.THEIRS:
            yield subscribed
            yield f"leave {stage} as it is"
        case Form.USAGE:
            yield subscribed
        case _:
            assert_never(connection.form)


def told(stage: LiveStage, wishes: Wishes, connection: Connection) -> Iterator[str]:
    """Yield what follows from it."""
    yield from billed(stage, connection.log)
    yield from _unconfirmed(stage)
    yield from _trust(connection)
    yield from _undone(stage, wishes, connection)
    if stage.sharing:
        yield (
            f"{', '.join(stage.sharing)} write{'s' * (len(stage.sharing) == 1)} into {connection.log_group}, too: "
            "such lines are billed to nobody until their stage is connected"
        )
    if stage.looked_at < stage.apis:
        yield f"of {stage.apis:,} APIs, {stage.looked_at} were looked at for others that write into the same log group"


def billed(stage: LiveStage, log: AccessLog) -> Iterator[str]:
    """Yield who is billed for a stage's requests, and which of them nobody is."""
    variable = log.variable
    whom = "API keys" if variable == API_KEY and not log.prefix else f"{log.prefix}$context.{variable}"
    key = "KEY_ID" if variable == API_KEY else "CALLER"
    add = f"metering customers add ID --name NAME --key {log.prefix}{key}"
    yield f"billed are {whom}: by '{add}' each becomes a customer's"
    nobody = billed_to_nobody(stage, variable)
    if not nobody:
        return
    many = len(nobody) != 1
    what = "route" if stage.api is not Api.REST else "method"
    lacks = "asks for no API key" if variable == API_KEY else f"names no {variable}"
    lacks = lacks.replace("asks", "ask").replace("names", "name") if many else lacks
    yield (
        f"{'these' if many else 'this'} {f'{len(nobody):,} {what}s' if many else what} will be billed to nobody, for "
        f"{'they' if many else 'it'} {lacks}: {named(nobody, len(nobody), _MOST_NAMED)}"
    )
    if stage.api is Api.WEBSOCKET:
        yield "an authorizer of $connect says who calls; without one no message names a caller"


def _unconfirmed(stage: LiveStage) -> Iterator[str]:
    if stage.api is Api.WEBSOCKET:
        yield (
            "that lines of messages name the caller as that of $connect does is not confirmed on AWS yet: if they do "
            "not, messages are billed to nobody, and 'metering doctor' says so"
        )


def not_logged(stage: LiveStage, place: Place, log: AccessLog) -> list[str]:
    """Return which metrics its requests bring nothing to, since its kind of API cannot log what they read."""
    return not_logged_by(of_stage(place.metrics, log.connection, stage.name), stage.api)


def _trust(connection: Connection) -> Iterator[str]:
    group = connection.log_group
    match connection.form:
        case Form.THEIRS:
            yield (
                f"whoever may write into {group} (logs:PutLogEvents) can write what passes for requests: the bill is "
                "as trustworthy as they are"
            )
        case Form.EXTENDED:
            yield f"whoever may read {group} sees the nonce by which this deployment knows its lines"
        case Form.OURS | Form.USAGE:
            pass
        case _:
            assert_never(connection.form)


def _undone(stage: LiveStage, wishes: Wishes, connection: Connection) -> Iterator[str]:
    if connection.form not in (Form.OURS, Form.EXTENDED):
        return
    if stage.owner and wishes.force:
        yield (
            f"the CloudFormation stack {stage.owner} undoes it when it next changes the stage's access log: put the "
            "lines into its template, too (--print)"
        )
    elif not stage.owner:
        yield (
            "if Terraform, Pulumi or the Serverless Framework made the stage, which AWS does not tell, the next "
            "deployment undoes it: put the lines there, too (--print)"
        )
