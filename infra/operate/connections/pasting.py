"""What is printed for a stage that whoever deployed it is to change by their own tool. Pure, and nothing is done."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from infra.operate.connections.plan import ours
from infra.operate.connections.snippets import Tool, own_log, snippet
from infra.operate.connections.stage import LiveStage, group_of
from infra.operate.connections.telling import billed, not_logged
from infra.operate.connections.terms import Place, Wishes
from infra.operate.deployment import OperatorError
from metering.model.connections import Connection, StageLog, Step
from metering.model.log_format import AccessLog, Api

VENDED: Final = "/aws/vendedlogs/"
"""Where CloudWatch Logs delivers without a line in the account's resource policy."""


@dataclass(frozen=True, slots=True)
class Paste:
    """The lines for a tool, the two values that they give the stage, and what to know before they are deployed."""

    tool: Tool
    name: str
    destination: str
    format: str
    lines: str
    notes: tuple[str, ...]


def to_paste(tool: Tool, stage: LiveStage, place: Place, wishes: Wishes, ledger: Sequence[Connection]) -> Paste:
    """Return the lines that let a stage write into the deployment's own log, whether it could be connected or not.

    Raises OperatorError where it is unclear who is billed, or the name is another stage's.
    """
    log, unclear = ours(stage, place, wishes, ledger)
    if unclear:
        raise OperatorError(*(f"{refusal.why}: {refusal.way_out}" for refusal in unclear))
    try:
        wanted = own_log(place, log)
    except ValueError as error:
        raise OperatorError(str(error)) from error
    there = (one for one in ledger if (one.api_id, one.stage) == (stage.api_id, stage.name))
    connected = next((one.name for one in there if one.step is not Step.DISCONNECTED), "")
    lines = snippet(tool, stage.api, wanted)
    return Paste(
        tool,
        log.connection,
        wanted.destination,
        wanted.format,
        lines,
        tuple(_told(stage, place, log, wanted, connected)),
    )


def _told(stage: LiveStage, place: Place, log: AccessLog, wanted: StageLog, connected: str) -> Iterator[str]:
    """Yield what to know before the lines are deployed; ``connected`` is the connection that the stage has, or none."""
    if stage.log == wanted:
        yield f"{stage} writes so already"
    elif stage.log.destination.removesuffix(":*") != wanted.destination and stage.log.destination:
        yield (
            f"AWS lets a stage write one access log: these lines end the one that goes to {stage.log.destination}"
            + ("" if connected else ". Whether it can be billed as it is, 'metering connect' says without --print")
        )
    if stage.managed:
        yield (
            f"{stage} was made by API Gateway's quick create: a template changes it by an "
            "AWS::ApiGatewayV2::ApiGatewayManagedOverrides, in whose Stage the lines belong"
        )
    if connected:
        yield (
            f"{stage} is connected as {connected}: once the lines are deployed, say "
            f"'metering disconnect {connected} --keep-log'"
        )
    yield from billed(stage, log)
    yield from not_logged(stage, place, log)
    yield f"metrics know it as {log.connection}; give each API a name of its own (--name)"
    yield from _compared(stage, place)
    yield from _of_the_log(stage, place, group_of(wanted.destination))
    yield (
        "the format holds the nonce by which this deployment knows its lines: whoever knows it, and may write into the "
        "log, can bill anyone. Keep the lines where your templates are, and no more public"
    )


def _compared(stage: LiveStage, place: Place) -> Iterator[str]:
    """Say how its requests are compared with what is counted."""
    if stage.api is not Api.WEBSOCKET:
        api = stage.api_name if stage.api is Api.REST else stage.api_id
        yield (
            "to have its requests compared with what is counted, name it in app.py: "
            f"metering.compare_with(api={api!r}, stage={stage.name!r}, kind=Api.{stage.api.name})"
        )
    elif place.access_log.api is not Api.WEBSOCKET:
        yield (
            "its lines are compared with no number of CloudWatch's, and go into a log whose lines are compared with "
            "requests of other stages, where they can make up for missing ones: 'metering connect' without --print "
            "gives it a log group of its own"
        )


def _of_the_log(stage: LiveStage, place: Place, group: str) -> Iterator[str]:
    """Say what this log asks of AWS; without a log group it is a stream."""
    if not group:
        yield (
            "this is the stream of the Firehose road: before the deployment goes back to the other one, give the stage "
            f"the log group {place.access_log_group}, which is read on either"
        )
    if stage.api.logs_by_role and group and not stage.log_role:
        yield (
            "API Gateway has no role to write this log by (aws apigateway get-account shows no cloudwatchRoleArn): "
            "make one before (infra/stack/README.md, Attach your own API)"
        )
    if stage.api is Api.HTTP and not group.startswith(VENDED):
        yield (
            f"the log group {group} is not below {VENDED}: for an HTTP API, AWS enters it into the account's resource "
            "policy AWSLogDeliveryWrite20150319, which holds 5,120 characters. Where that is full, the deployment "
            "fails with 'Policy document length breaking Cloudwatch Logs Constraints'; 'metering connect' without "
            "--print needs no room there"
        )
