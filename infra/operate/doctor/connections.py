"""Checks of connections: whether each stage is as it was left, its lines are delivered, and metrics name APIs that are.

Of each connection one call for its stage and two for its log group, of :data:`MOST_LOOKED_AT` at most; of a WebSocket
API also one page of its last hour's lines. For all together the function's policy, the Region's APIs and two numbers of
CloudWatch for each.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from shlex import quote
from typing import Any, Final

from infra.operate.connections.apis import ApiThere, apis_there
from infra.operate.connections.first_line import reader_of
from infra.operate.connections.listing import moment
from infra.operate.connections.stage import LogGroup, group_of, log_group, log_of
from infra.operate.connections.usage_log import TERM
from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import Finding, Measured, broken, measured, named, ok, warning
from infra.operate.doctor.stages import difference, pasted_names
from infra.operate.doctor.way import may_start, statements
from infra.operate.versions import are_behind, first_up
from metering.model.access_log import Partly, Rejected
from metering.model.connections import Connection, Form, StageLog, Step
from metering.model.foreign_format import FormatError, compile_format, extended
from metering.model.hints import one_of
from metering.model.log_format import MISSING, AccessRecord, Api
from metering.model.metric_checks import unverified
from metering.model.metrics import Metric, declared, of_stage
from metering.model.periods import HOUR
from metering.model.stages import connected
from metering.stores.aws import side_by_side

MOST_LOOKED_AT: Final = 100
"""API Gateway takes ten calls a second of an account, in all (API Gateway Developer Guide, "Quotas"), and CloudWatch
500 metrics in a call."""

MOST_MESSAGES: Final = 100
"""Lines of a WebSocket API that are read: one page (CloudWatch Logs API Reference, "FilterLogEvents")."""

FEWEST: Final = 10
"""So many requests without a line are no accident: API Gateway logs none of some refusals."""

_MOST_NAMED: Final = 10
_BRING_IN: Final = "then bring in what was missed: metering recount --all --from HOUR --fix"


def check_connections(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """See that connected stages write what they were left with, that their lines are delivered, and who is named."""
    everything = deployment.connections.all()
    alive = [one for one in everything if one.step is not Step.DISCONNECTED]
    looked_at = alive[:MOST_LOOKED_AT]
    if not (alive or any(one.apis for one in deployment.declared_metrics)):
        return
    apis = [*apis_there(deployment)]
    wrong = [*_of_connections(deployment, looked_at, apis, now), *_unknown(deployment, everything, apis)]
    yield from wrong
    if len(alive) > len(looked_at):
        yield warning(
            f"{len(alive) - len(looked_at):,} more connections were not looked at", "look at them: metering connections"
        )
    if looked_at and not wrong:
        yield ok(f"{named((one.name for one in looked_at), len(looked_at), _MOST_NAMED)} as connected, and delivered")


@dataclass(frozen=True, slots=True)
class _Around:
    """What is the same for all connections: who may start the function, which metrics are declared, what came."""

    deployment: Deployment
    function: str
    policy: Sequence[Mapping[str, Any]]
    metrics: Sequence[Metric]
    silent: Mapping[str, float]
    """The requests of the last hour, by connection, where no line of its log group came."""

    now: datetime


def _of_connections(
    deployment: Deployment, connections: Sequence[Connection], apis: Sequence[ApiThere], now: datetime
) -> Iterator[Finding]:
    if not connections:
        return
    function = deployment.outputs.record_usage_function
    policy, silent = statements(deployment.client("lambda"), function), _silent(deployment, connections, now)
    around = _Around(deployment, function, policy, deployment.declared_metrics, silent, now)
    for found in side_by_side(lambda one: [*_of_one(around, one)], connections):
        yield from found
    for one in connections:
        yield from _misnamed(one, apis)


def _of_one(around: _Around, one: Connection) -> Iterator[Finding]:
    if one.step is not Step.CONNECTED:
        yield _unfinished(one)
        return
    wrong = [*_of_stage(around, one), *_of_log_group(around, one)]
    if one.name in around.silent and not wrong:
        wrong.append(
            broken(
                f"no line of {one.name} for an hour, {around.silent[one.name]:,.0f} requests at the gateway",
                f"see whether API Gateway may write into {one.log_group}: by the account's role, or by log delivery",
            )
        )
    yield from wrong
    if one.is_access_log and (unsafe := unverified(of_stage(around.metrics, one.name, one.stage), one.log.variable)):
        yield broken(
            f"at {_stage(one)}, billed by {one.log.variable}, anybody could have somebody else billed: "
            f"{'; '.join(unsafe)}",
            "take these statuses out of app.py, and deploy it",
        )
    if one.api is Api.WEBSOCKET and not wrong:
        yield from _nameless_messages(around, one)


def _unfinished(one: Connection) -> Finding:
    if one.step is Step.CONNECTING:
        return broken(
            f"{one.name} was begun to be connected, and is not: its lines may not be counted",
            f"{_again(one)} goes on with it, metering disconnect {one.name} goes back",
        )
    return warning(f"{one.name} was begun to be disconnected, and is not", f"metering disconnect {one.name} --yes")


def _of_stage(around: _Around, one: Connection) -> Iterator[Finding]:
    """Compare a stage with what it was left with, and that with what is declared now."""
    if one.api is None:
        return
    log, stage = log_of(around.deployment, one.api, one.api_id, one.stage), _stage(one)
    if log is None:
        yield broken(f"{stage} is gone", f"metering disconnect {one.name}")
    elif group_of(log.destination) == around.deployment.outputs.access_log_group:
        yield warning(
            f"{stage} writes into the deployment's own access log by now, and needs no connection",
            f"metering disconnect {one.name} --keep-log",
        )
    elif log != one.after:
        yield broken(
            f"{stage} {_drifted(one, log)}: something deployed over it",
            f"{_again(one)}, or paste the lines of {_connect(one)} --print TOOL into what deploys it, so that they stay"
            ": what it wrote meanwhile may be billed to nobody",
        )
    else:
        yield from _outdated(around, one)


def _drifted(one: Connection, log: StageLog) -> str:
    if not log.destination:
        return "no longer writes an access log"
    if log.destination != one.after.destination:
        return f"no longer writes to {one.log_group}, but to {group_of(log.destination) or log.destination}"
    if one.form is Form.THEIRS:
        return "no longer writes the format that it was connected with"
    return "no longer writes our format"


def _outdated(around: _Around, one: Connection) -> Iterator[Finding]:
    """See that what a stage writes has all that the metrics read by now."""
    if one.form is Form.THEIRS:
        try:
            shared = one.api_id if one.shares_log else ""
            compile_format(one.log, one.after.format, around.metrics, stage=one.stage, api_id=shared)
        except FormatError as error:
            yield broken(
                f"by the format of its own that {_stage(one)} writes, metrics can no longer be billed: {error}",
                f"change its format so, or {_connect(one)} --extend",
            )
        return
    ours = one.log.format(around.deployment.outputs.nonces.partition(" ")[0], declared(around.metrics))
    wanted = extended(ours, one.before.format) if one.form is Form.EXTENDED else ours
    if one.after.format != wanted:
        how = difference(one.after.format, wanted) if one.form is Form.OURS else ""
        first = first_up(around.deployment.outputs)
        if are_behind(around.deployment.outputs):
            yield warning(f"{_stage(one)} writes another format than these commands know{how}", first)
            return
        yield broken(
            f"{_stage(one)} writes our format as it was declared once{how}",
            f"{f'{first}, then ' * bool(first)}{_again(one)}, which gives it the format of now",
        )


def _of_log_group(around: _Around, one: Connection) -> Iterator[Finding]:
    """See that the lines of a connection's log group are brought to ``record_usage``, and may be."""
    group = log_group(around.deployment, one.log_group)
    if group is None:
        yield broken(f"the log group {one.log_group} of {one.name} is gone", f"{_again(one)} makes it, or its owner")
        return
    filters = _filters(group, around.function)
    if not filters:
        yield broken(
            f"no subscription brings the log group {one.log_group} to {around.function}", f"{_again(one)}, {_BRING_IN}"
        )
    bringing_all = {""} if one.is_access_log else {"", TERM}
    if filters and bringing_all.isdisjoint(filters.values()):
        yield broken(
            f"the subscription of {one.log_group} has a pattern, which keeps lines away unseen",
            f"delete its filter {next(iter(filters))}, and {_again(one)}, {_BRING_IN}",
        )
    if not may_start(around.policy, one.log_group):
        yield broken(
            f"CloudWatch Logs may not invoke {around.function} for {one.log_group}, so that it skips lines for good",
            f"{_again(one)}, {_BRING_IN}",
        )


def _filters(group: LogGroup, function: str) -> dict[str, str]:
    """Return the patterns of the filters that bring a log group's lines to a function, by the filters' names."""
    ours = (one for one in group.filters if one.destination.split(":function:")[-1].split(":")[0] == function)
    return {one.name: one.pattern for one in ours}


def _silent(deployment: Deployment, connections: Sequence[Connection], now: datetime) -> dict[str, float]:
    """Return the requests of the last hour of stages of whose log groups no line came; two numbers for each."""
    whole = [
        one
        for one in connections
        if one.step is Step.CONNECTED and one.api in (Api.REST, Api.HTTP) and moment(one.since) < now - HOUR
    ]
    if not whole:
        return {}
    written: list[Measured] = [
        ("AWS/Logs", "IncomingLogEvents", "Sum", {"LogGroupName": one.log_group}) for one in whole
    ]
    asked: list[Measured] = [("AWS/ApiGateway", "Count", "SampleCount", connected(one).dimensions) for one in whole]
    numbers = measured(deployment, [*written, *asked], now, HOUR)
    pairs = zip(whole, numbers[: len(whole)], numbers[len(whole) :], strict=True)
    return {one.name: requests for one, lines, requests in pairs if not lines and requests >= FEWEST}


def _misnamed(one: Connection, apis: Sequence[ApiThere]) -> Iterator[Finding]:
    """Say where CloudWatch, which knows REST APIs by their names, counts others' requests as a connection's."""
    if one.api is not Api.REST or one.step is not Step.CONNECTED:
        return
    there = next((api for api in apis if api.id == one.api_id), None)
    if there and there.name != one.api_name:
        yield warning(
            f"the API of {one.name} is called {there.name} now, and its requests are compared as those of "
            f"{one.api_name}",
            f"give it that name again, or metering disconnect {one.name}, and connect it again",
        )
    alike = sum(1 for api in apis if api.kind is Api.REST and api.name == one.api_name)
    if alike > 1:
        yield warning(
            f"{alike} APIs of the Region are named {one.api_name}, and their requests are counted together",
            "give yours a name of its own",
        )


def _unknown(deployment: Deployment, everything: Sequence[Connection], apis: Sequence[ApiThere]) -> Iterator[Finding]:
    """Name the APIs that metrics bill and that nothing is called, so that nobody is billed for them (I9)."""
    alive = {one.name for one in everything if one.step is not Step.DISCONNECTED}
    ended = {one.name for one in everything} - alive
    wanted = [(metric.name, name) for metric in deployment.declared_metrics for name in metric.apis]
    unknown = [pair for pair in wanted if pair[1] not in alive | {api.id for api in apis}]
    by_lines = pasted_names(deployment) if unknown else set()
    for metric, name in unknown:
        if name in by_lines:
            continue
        said = f"the metric {metric} bills requests of {name!r}"
        if name in ended:
            yield warning(f"{said}, which is disconnected", "connect it again, or take it out of the metric's apis")
            continue
        known = sorted(alive | by_lines)
        do = f"write {one_of(name, known)}" if known else "connect it by that name: metering connect --name"
        yield warning(f"{said}, which no connection is called, nor is it an API's id: it bills nobody there", do)


def _nameless_messages(around: _Around, one: Connection) -> Iterator[Finding]:
    """Say whether lines of a WebSocket API's messages name no caller, of whom its authorizer told when it connected."""
    reader = reader_of(around.deployment, one, around.now)
    page = around.deployment.client("logs").filter_log_events(
        logGroupName=one.log_group,
        startTime=int((around.now - HOUR).timestamp() * 1000),
        filterPattern="MESSAGE",
        limit=MOST_MESSAGES,
    )
    read = [reader.read(event["message"]) for event in page["events"]]
    good = [found.good if isinstance(found, Partly) else found for found in read if not isinstance(found, Rejected)]
    messages = [record for record in good if isinstance(record, AccessRecord) and record.method == "MESSAGE"]
    nameless = sum(1 for record in messages if record.key == MISSING)
    if nameless:
        yield warning(
            f"of {len(messages)} messages to {one.name} in the last hour {nameless} name no caller, and are billed to "
            f"nobody: $context.{one.log.variable} has no value in their lines",
            "if the authorizer sets it for each connection, API Gateway writes it in the line of $connect alone: bill "
            "by usage lines of your integration instead, as infra/stack/README.md says",
        )


def _again(one: Connection) -> str:
    """Return what goes on with a connection, or makes good what it lacks."""
    return f"{_connect(one)} --yes"


def _connect(one: Connection) -> str:
    """Return the command that connects it, as a shell takes it: an HTTP API's stage is often called $default."""
    return f"metering connect {one.api_id} {quote(one.stage)}" if one.api else f"metering connect-log {one.log_group}"


def _stage(one: Connection) -> str:
    return f"the stage {one.stage} of {one.api_name}"
