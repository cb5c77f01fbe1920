"""Why a stage cannot be connected as it is, each with the way out. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from infra.operate.connections.stage import STANDARD, LiveStage, LogGroup, group_of
from infra.operate.connections.terms import Case, Place, Refusal, Wishes
from metering.model.connections import Connection, Form, Step
from metering.model.log_format import AccessLog
from metering.model.metric_checks import unverified
from metering.model.metrics import of_stage

MOST_FILTERS: Final = 2
"""Subscription filters of a log group (CloudWatch Logs User Guide, "CloudWatch Logs quotas")."""


def name_taken(name: str, stage: LiveStage, wishes: Wishes, bearer: Connection | None) -> Iterator[Refusal]:
    """Refuse a name that another stage bears, and, but for --force, one that another API once bore."""
    if bearer is None or (bearer.api_id, bearer.stage) == (stage.api_id, stage.name):
        return
    whose = f"the stage {bearer.stage} of {bearer.api_name}" if bearer.is_access_log else bearer.log_group
    if bearer.step is not Step.DISCONNECTED:
        yield Refusal(f"the name {name} is that of {whose}", "give another one: --name")
    elif bearer.api_id != stage.api_id and not wishes.force:
        yield Refusal(
            f"the name {name} was that of {whose}, whose customers would be billed for equal callers of this one",
            "give another one: --name; or --force if the callers are the same",
        )


def other_callers(log: AccessLog, wishes: Wishes, bearer: Connection | None) -> Iterator[Refusal]:
    """Refuse, but for --force, a name whose customers were known by another variable's values (I7)."""
    before = bearer.log if bearer and bearer.step is Step.DISCONNECTED and bearer.is_access_log else None
    if before and before.prefix and log.prefix and before.variable != log.variable and not wishes.force:
        yield Refusal(
            f"by the name {log.connection}, callers were told by {before.variable}: whoever has one's value as its "
            f"{log.variable} would be billed to that one's customer",
            "give another name: --name; or --force if the values are the same",
        )


def not_ours_to_change(stage: LiveStage, wishes: Wishes, case: Case) -> Iterator[Refusal]:
    """Refuse to change a stage that a stack made, but for --force, or that API Gateway keeps by itself."""
    if case not in (Case.NO_LOG, Case.EXTEND):
        return
    if stage.managed:
        yield Refusal(
            f"{stage} was made by API Gateway's quick create, and nobody can change it",
            "make a stage of your own for this API, and connect that",
        )
    if stage.owner and not wishes.force:
        yield Refusal(
            f"{stage} belongs to the CloudFormation stack {stage.owner}, whose next deployment may undo this",
            "put the lines into its template: --print cdk, sam or cloudformation shows them; or say --force",
        )


def anybody(stage: LiveStage, place: Place, log: AccessLog) -> Iterator[Refusal]:
    """Refuse a caller whom nobody has verified where a metric bills what such a caller gets (I7)."""
    if wrong := unverified(of_stage(place.metrics, log.connection, stage.name), log.variable):
        yield Refusal(
            f"by {log.variable}, anybody could have somebody else billed: {'; '.join(wrong)}",
            "take these statuses out of app.py and deploy it, or name an authorizer's value: --caller",
        )


def no_role(stage: LiveStage, wishes: Wishes, case: Case) -> Iterator[Refusal]:
    """Refuse what API Gateway could not write, for want of a role."""
    if case is Case.NO_LOG and stage.api.logs_by_role and not stage.log_role and not wishes.make_role:
        yield Refusal(
            f"API Gateway has no role to write access logs by in {stage.region}, which is a setting of the account",
            "say --make-role to make one, for all REST and WebSocket APIs of this account and Region",
        )


def read_by_another(stage: LiveStage, connection: Connection, ledger: Sequence[Connection]) -> Iterator[Refusal]:
    """Refuse a log group of which another connection takes every line for its own stage's, or for usage lines."""
    for other in ledger:
        is_its_own = (other.api_id, other.stage) == (stage.api_id, stage.name)
        if other.log_group != connection.log_group or other.step is Step.DISCONNECTED or is_its_own:
            continue
        if other.form is Form.USAGE:
            yield Refusal(
                f"the connection {other.name} reads usage lines of {other.log_group}",
                f"say 'metering disconnect {other.name}' first; or let the stage write into a log group of its own",
            )
        elif other.form is Form.THEIRS and not other.shares_log:
            yield Refusal(
                f"the connection {other.name} reads every line of {other.log_group} as one of its own stage",
                f"say 'metering disconnect {other.name}', and connect it again with a format that has $context.apiId "
                "and $context.stage in front",
            )


def no_room(stage: LiveStage, place: Place, case: Case) -> Iterator[Refusal]:
    """Refuse a log group of somebody's that cannot be subscribed to."""
    if case not in (Case.IN_PLACE, Case.EXTEND):
        return
    group = stage.group
    if group is None:
        yield Refusal(
            f"{stage} is to write into the log group {group_of(stage.log.destination)}, which is not there",
            "make it, or take the setting off the stage",
        )
        return
    yield from without_subscriptions(group, "the stage")
    ours = [found for found in group.filters if found.destination == place.function_arn]
    if any(found.pattern for found in ours):
        yield Refusal(
            f"the subscription filter {ours[0].name} of {group.name} brings some of its lines here already, which "
            "would count twice",
            "take that one away first: aws logs delete-subscription-filter",
        )
    elif not ours:
        yield from no_room_in(group, "let the stage write into a log group of its own")


def without_subscriptions(group: LogGroup, writer: str) -> Iterator[Refusal]:
    """Refuse a log group of a class that nobody can subscribe to."""
    if group.kind != STANDARD:
        yield Refusal(
            f"the log group {group.name} is of the class {group.kind}, which has no subscriptions",
            f"let {writer} write into one of the class STANDARD; the class of a log group cannot be changed",
        )


def no_room_in(group: LogGroup, else_do: str) -> Iterator[Refusal]:
    """Refuse a log group that has no room for one subscription more."""
    if len(group.filters) >= MOST_FILTERS:
        yield Refusal(
            f"the log group {group.name} has two subscription filters, as many as there can be: "
            f"{' and '.join(one.name for one in group.filters)}",
            f"take one away: aws logs delete-subscription-filter; or {else_do}",
        )
