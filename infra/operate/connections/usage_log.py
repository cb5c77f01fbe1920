"""A log group of usage lines: whether it can be connected, what is done then, and how what is written there is counted.

Any log group of the account may be one in which your own code alone writes. Whoever else can write there, or have
something of theirs written there, can bill anyone.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from infra.operate.connections.refusing import no_room_in, without_subscriptions
from infra.operate.connections.stage import MOST_NAMED, LogGroup, log_group, writing_into
from infra.operate.connections.terms import Place, Refusal, named_after
from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import resources
from metering.model.connections import NAME_PATTERN, Connection, Form, Step, callers_write, is_name
from metering.model.metrics import reads_usage_lines
from metering.signals import written_usage_lines

TERM: Final = "usage"
"""The pattern that brings usage lines, as the stack's own subscriptions have it (``infra.stack.ingest``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPlan:
    """What connecting a log group will do: ``done`` says that it is connected, and only what lacks is made good."""

    connection: Connection
    done: bool
    steps: tuple[str, ...]
    notes: tuple[str, ...]
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLog:
    """A log group as it is now: ``group`` if it is there, and the ``stages`` of APIs that write into it.

    ``is_own`` says that it is metering's own, ``history`` how it was ever read.
    """

    name: str
    group: LogGroup | None
    is_own: bool
    history: Sequence[Connection]
    stages: Sequence[str]


def look_at_log(deployment: Deployment, name: str) -> LiveLog:
    """Return a log group as it is now; a call for each API whose stages are looked at."""
    return LiveLog(
        name=name,
        group=log_group(deployment, name),
        is_own=name in own_log_groups(deployment),
        history=deployment.connections.of_log_group(name),
        stages=writing_into(deployment, name),
    )


def plan_log(live: LiveLog, place: Place, called: str, ledger: Sequence[Connection]) -> LogPlan:
    """Decide about a log group; pure.

    ``called`` is the connection's name that the operator wants, or empty; ``ledger`` holds all connections.
    """
    name, group = live.name, live.group
    readers = [one for one in ledger if one.log_group == name and one.step is not Step.DISCONNECTED]
    former = next((one for one in readers if one.form is Form.USAGE), None)
    called = called or (former.name if former else named_after(name.rstrip("/").rpartition("/")[2], "log"))
    bearer = next((one for one in ledger if one.name == called), None)
    connection = former or Connection(
        name=called,
        form=Form.USAGE,
        step=Step.CONNECTING,
        log_group=name,
        since=0,
        by="",
        version=bearer.version if bearer else 0,
    )
    refusals = [*_unfit(live, place)]
    if group and not refusals:
        taken = _taken(called, former, bearer, name)
        refusals = [*taken, *_read(readers, former), *_no_room(group, place, live.history)]
    if group and not refusals:
        refusals = [*_of_callers(name, live.stages)]
    return LogPlan(
        connection=connection,
        done=former is not None and former.step is Step.CONNECTED,
        steps=() if refusals else tuple(_steps(name)),
        notes=() if refusals else tuple(_told(name, place)),
        refusals=tuple(refusals),
    )


def own_log_groups(deployment: Deployment) -> set[str]:
    """Return the log groups that lines of metering itself are written into: none of them may be read for usage."""
    made = {resource["PhysicalResourceId"] for resource in resources(deployment, "AWS::Logs::LogGroup")}
    return made | {f"/aws/lambda/{function}" for function in deployment.outputs.functions}


def count_written(deployment: Deployment, log_group: str, name: str) -> None:
    """Have CloudWatch count what is to be delivered, whether it is or not, unless something has it counted already.

    This is what ``check_completeness`` compares with what was counted.
    """
    logs, namespace = deployment.client("logs"), written_usage_lines(deployment.outputs.deployment)
    # Of a name and a namespace in the whole Region: only the stack's own filters, and these, count so.
    counting = logs.describe_metric_filters(metricName=log_group, metricNamespace=namespace)["metricFilters"]
    if any(one["logGroupName"] == log_group for one in counting):
        return
    metric: Any = {"metricName": log_group, "metricNamespace": namespace, "metricValue": "1"}
    logs.put_metric_filter(logGroupName=log_group, filterName=name, filterPattern=TERM, metricTransformations=[metric])


def count_no_longer(deployment: Deployment, log_group: str, name: str) -> None:
    """Take the counting away; harmless where there is none, or the log group is gone."""
    logs = deployment.client("logs")
    with suppress(logs.exceptions.ResourceNotFoundException):
        logs.delete_metric_filter(logGroupName=log_group, filterName=name)


def _unfit(live: LiveLog, place: Place) -> Iterator[Refusal]:
    name, group = live.name, live.group
    if not reads_usage_lines(place.metrics):
        yield Refusal(
            "no metric measures usage lines",
            "declare one, for example Sum(name='tokens', of=USAGE_LINES), and deploy the stack",
        )
    if live.is_own or name == place.access_log_group or name.startswith(place.connected_logs):
        yield Refusal(
            f"the log group {name} belongs to metering itself, which would feed itself for ever",
            "name the log group of your own code",
        )
    elif written := callers_write(name):
        yield Refusal(written, "let your own code write its usage lines into a log group of their own")
    elif group is None:
        yield Refusal(
            f"there is no log group {name!r}", "name one that is there, or another --region; its name is all it takes"
        )
    else:
        yield from without_subscriptions(group, "your code")


def _of_callers(name: str, stages: Sequence[str]) -> Iterator[Refusal]:
    """Refuse an access log: a usage line in a User-Agent or a path is one (I7)."""
    if stages:
        yield Refusal(
            f"{' and '.join(stages[:MOST_NAMED])} writes into {name} what callers send, so that whoever calls could "
            "write a usage line there, and bill anyone",
            "meter that stage by 'metering connect'; let your own code write its usage lines into a log group of their "
            "own",
        )


def _taken(called: str, former: Connection | None, bearer: Connection | None, name: str) -> Iterator[Refusal]:
    """Refuse a name that is none, is another's, or is not the one that the log group is connected by."""
    if not is_name(called):
        yield Refusal(f"a connection's name is written {NAME_PATTERN}, got {called[:40]!r}", "give another one: --name")
    elif former and called != former.name:
        yield Refusal(
            f"the log group {name} is connected as {former.name}",
            f"for another name, say 'metering disconnect {former.name}' first",
        )
    elif bearer and bearer.log_group != name:
        ended = bearer.step is Step.DISCONNECTED
        yield Refusal(
            f"the name {called} {'was' if ended else 'is'} that of the log group {bearer.log_group}",
            "give another one: --name",
        )


def _read(readers: Sequence[Connection], former: Connection | None) -> Iterator[Refusal]:
    """Refuse a log group that is read for something else, or is just being left."""
    for reader in readers:
        if reader.is_access_log:
            yield Refusal(
                f"the log group {reader.log_group} is the access log of the connection {reader.name}",
                "let your own code write its usage lines into a log group of their own",
            )
    if former and former.step is Step.DISCONNECTING:
        yield Refusal(
            f"the log group {former.log_group} is being disconnected",
            f"go on with 'metering disconnect {former.name}', then connect it again",
        )


def _no_room(group: LogGroup, place: Place, history: Sequence[Connection]) -> Iterator[Refusal]:
    """Refuse a log group that its own stack has subscribed, or that has no room for a subscription.

    One that ever was a connection is read by the ledger alone: also where its stack subscribes it, it must be in there.
    """
    ours = [one for one in group.filters if one.destination == place.function_arn]
    others = [one for one in ours if one.name != filter_name(place)]
    if others and not history:
        yield Refusal(
            f"the subscription filter {others[0].name} of {group.name} brings its lines here already: "
            "metering.meter_usage_lines made it",
            "there is nothing to connect",
        )
    elif not ours:
        yield from no_room_in(group, "write usage lines into a log group of their own")


def _steps(name: str) -> Iterator[str]:
    yield "write down in the ledger that this log group holds usage lines, from now on"
    yield f"let CloudWatch Logs bring the lines of {name} that have the word {TERM}, and subscribe to them"
    yield "count what is written there, by a metric filter: doctor and alarms compare it with what was counted"


def _told(name: str, place: Place) -> Iterator[str]:
    yield (
        f"whoever may write into {name} (logs:PutLogEvents) can bill anyone, and so can whoever has text of theirs "
        "written there: it must be your own code alone, and may log nothing that a caller sends"
    )
    yield "what was written there before is not counted"
    if place.policy_is_full:
        yield (
            "the policy of record_usage is nearly full: from now on one statement lets CloudWatch Logs start it for "
            "every log group of this account"
        )


def filter_name(place: Place) -> str:
    """Return what a deployment's filters of others' log groups are called."""
    return f"metering-{place.stack}"
