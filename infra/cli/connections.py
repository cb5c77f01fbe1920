"""Stages that somebody else deployed: connected to a deployment, and given back as they were."""

import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta
from textwrap import wrap
from typing import Annotated, Any, Final, assert_never

import typer
from msgspec import to_builtins

from infra.cli.shared import (
    Connect,
    Json,
    Most,
    err,
    first_of,
    now,
    on_deployment,
    out,
    print_as_it_is,
    print_json,
    table,
)
from infra.operate.connections.connecting import Connecting, place_of
from infra.operate.connections.first_line import FirstLine, example_call, wait_for_first_line
from infra.operate.connections.listing import listed, moment, shown
from infra.operate.connections.pasting import Paste, to_paste
from infra.operate.connections.patience import Patience
from infra.operate.connections.plan import PRICES, Plan, plan
from infra.operate.connections.snippets import Tool
from infra.operate.connections.stage import group_of, look
from infra.operate.connections.terms import Case, Refusal, Wishes
from infra.operate.deployment import Deployment, OperatorError
from metering.model.connections import Connection, Form, StageLog, Step

app: Final = typer.Typer()

PATIENCE: Final = timedelta(minutes=3)
"""What CloudWatch Logs says it takes a log at most, usually."""

_WIDTH: Final = 78
_WIDE: Final = 120
_ON_NARROW: Final = ("name", "stage or log group", "last line", "lines an hour", "step")
"""Columns of the list on a terminal of less than so many signs; all of them would be cut into pieces there."""

_SHORT: Final = 60
"""Signs of a format that are shown; ``--json`` has the whole."""

Yes = Annotated[bool, typer.Option("--yes", help="Do it; without this the plan is shown, and a terminal is asked.")]


@on_deployment(app, "connect")
def connect_stage(
    connect: Connect,
    api_id: Annotated[str, typer.Argument(metavar="API_ID", help="The id of a REST, HTTP or WebSocket API.")],
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="The stage's name, such as prod or '$default'.")],
    yes: Yes = False,
    name: Annotated[
        str, typer.Option(help="What metrics and callers' keys call this API; its own name, in short, if left out.")
    ] = "",
    caller: Annotated[
        str, typer.Option(metavar="VARIABLE", help="Who is billed, such as authorizer.claims.sub; found if left out.")
    ] = "",
    extend: Annotated[
        bool, typer.Option("--extend", help="Put our line in front of a JSON format that lacks what a bill needs.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Change a stage that a CloudFormation stack made, or take a former name.")
    ] = False,
    make_role: Annotated[
        bool, typer.Option("--make-role", help="Give API Gateway a role to write logs by, if the account has none.")
    ] = False,
    print_for: Annotated[
        Tool | None,
        typer.Option("--print", help="Print the lines for the tool that deployed the stage, and change nothing."),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the first line.")] = False,
    as_json: Json = False,
) -> None:
    """Meter a stage that is live already, whoever deployed it; 'disconnect' puts back what was there.

    First the plan is shown. It may be interrupted and run again: it goes on where it was. At the end it waits three
    minutes for the first line, and says what that was counted as. Exits with 1 if the stage cannot be connected as it
    is; then the plan says why, and the way out.
    """
    deployment = connect()
    with err.status("looking at the stage"):
        place = place_of(deployment)
        wishes = Wishes(name=name, caller=caller, extend=extend, force=force, make_role=make_role)
        live, ledger = look(deployment, api_id, stage), deployment.connections.all()
    if print_for:
        _print(to_paste(print_for, live, place, wishes, ledger), as_json=as_json)
        return
    planned = plan(live, place, wishes, ledger)
    if not as_json:
        _show(planned)
    document: dict[str, Any] = {"plan": plan_as_json(planned), "connection": None, "first_line": None}
    if planned.refusals or not (yes or (not as_json and agreed("connect it"))):
        if as_json:
            print_json(document)
        elif not planned.refusals:
            out.print("nothing is done: say it again with --yes")
        raise typer.Exit(1 if planned.refusals else 0)
    verbs = Connecting(deployment, place, Patience(say=say))
    connection = verbs.connect(planned.connection, former=planned.former, make_role=make_role)
    if not as_json:
        out.print(f"{planned.stage} is connected as {connection.name}")
    first = None if no_wait else _first_line(deployment, connection, planned)
    if as_json:
        print_json(document | {"connection": to_builtins(connection), "first_line": first.as_json() if first else None})
    elif not no_wait:
        out.print(str(first or "no line has come yet: 'metering connections' shows the last one of each"))


def _print(paste: Paste, *, as_json: bool) -> None:
    """Print lines to paste, and nothing else, on stdout: not as a terminal would show them, but as they are."""
    if as_json:
        print_json(asdict(paste))
        return
    for note in paste.notes:
        err.print(f"- {note}")
    print_as_it_is(paste.lines)


@on_deployment(app, "disconnect")
def disconnect_stage(
    connect: Connect,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A connection's name; or an API's id, with STAGE.")],
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="The stage, where an API's id is given.")] = "",
    yes: Yes = False,
    keep_log: Annotated[
        bool, typer.Option("--keep-log", help="Leave the stage writing what it writes now; only the metering ends.")
    ] = False,
    as_json: Json = False,
) -> None:
    """End the metering of a connected stage or log group, and put back the access log that the stage had.

    A stage that is not as it was left is not touched, and the command says what differs. What was counted stays, and
    is billed. It may be interrupted and run again.
    """
    deployment = connect()
    with err.status("looking at the stage"):
        connection = _connection(deployment, name, stage)
        verbs = Connecting(deployment, place_of(deployment, to_disconnect=True), Patience(say=say))
        is_there = verbs.check_way_back(connection, keep_log=keep_log)
    steps = _way_back(connection, keep_log=keep_log, is_there=is_there)
    if not as_json:
        for step in steps:
            _say_wrapped("- ", step)
    do = yes or connection.step is Step.DISCONNECTED or (not as_json and agreed("disconnect it"))
    if do:
        connection = verbs.disconnect(connection, keep_log=keep_log)
    if as_json:
        print_json({"steps": steps, "connection": to_builtins(connection)})
    else:
        out.print(f"{connection.name} is disconnected" if do else "nothing is done: say it again with --yes")


@on_deployment(app, "connections")
def list_connections(
    connect: Connect,
    ended: Annotated[bool, typer.Option("--all", help="Also those that have been disconnected.")] = False,
    after: Annotated[str, typer.Option(metavar="NAME", help="Begin after this connection, by name.")] = "",
    most: Most = None,
    as_json: Json = False,
) -> None:
    """List the stages and log groups that are connected, with the last line seen and the lines of the last whole hour.

    Both are of the connection's log group, which other stages may share. The last line is asked for of the first 200.
    """
    deployment = connect()
    with err.status("reading log groups"):
        some, is_more = first_of((one for one in shown(deployment, ended=ended) if one.name > after), most)
        found = listed(deployment, some, deployment.gateway_clock(now()))
    if as_json:
        print_json([one.as_json() for one in found])
        return
    columns = ("name", "stage or log group", "read as", "since", "last line", "lines an hour", "connected by", "step")
    rows = [
        (
            one.connection.name,
            one.where,
            one.read_as,
            f"{moment(one.connection.since):%Y-%m-%d}",
            f"{one.last_line:%Y-%m-%dT%H:%MZ}" if one.last_line else "-",
            f"{one.lines:,}",
            one.connection.by.rpartition(":")[2],
            "" if one.connection.step is Step.CONNECTED else one.connection.step.value,
        )
        for one in found
    ]
    shown_columns = _ON_NARROW if out.is_terminal and out.width < _WIDE else columns
    kept = [number for number, column in enumerate(columns) if column in shown_columns]
    table(
        shown_columns,
        [[row[number] for number in kept] for row in rows],
        "connection",
        way_on=f"--after {some[-1].name}" if is_more else "",
    )
    if rows and shown_columns is _ON_NARROW:
        err.print(f"how each is read, since when and by whom: {_WIDE} columns, or --json")


def plan_as_json(planned: Plan) -> dict[str, Any]:
    """Return a plan for programs: ``case`` A to D, ``stage`` as it is, and what is told to people in sentences."""
    connection = planned.connection
    return {
        "case": planned.case.value,
        "name": connection.name,
        "api": planned.stage.api.value,
        "api_id": planned.stage.api_id,
        "api_name": planned.stage.api_name,
        "stage": planned.stage.name,
        "owner": planned.stage.owner or None,
        "caller": connection.log.variable,
        "log_group": connection.log_group or None,
        "before": to_builtins(connection.before),
        "after": to_builtins(connection.after),
        "connected": planned.done,
        "steps": list(planned.steps),
        "notes": list(planned.notes),
        "refusals": [asdict(refusal) for refusal in planned.refusals],
        "usd_per_million": round(planned.usd_per_million, 3),
    }


def _show(planned: Plan) -> None:
    """Print a plan for people."""
    stage, connection = planned.stage, planned.connection
    whose = f"of the CloudFormation stack {stage.owner}" if stage.owner else "of no CloudFormation stack"
    out.print(f"{stage.api_name} ({stage.api_id}), {stage.api.noun}, stage {stage.name}, {whose}")
    is_changed = stage.log != connection.before
    _say_wrapped("had:   " if is_changed else "now:   ", _log(connection.before))
    if planned.case is not Case.REFUSED:
        _say_wrapped("now:   " if is_changed and stage.log == connection.after else "then:  ", _then(connection))
        _say_wrapped("name:  ", connection.name)
        _say_wrapped("cost:  ", f"${planned.usd_per_million:.2f} for a million requests ({PRICES})")
        _say_wrapped("delay: ", "usually seconds; CloudWatch Logs says less than three minutes")
        out.print("What is done:" if not planned.done else "It is connected; of this, what lacks is made good:")
    for number, step in enumerate(planned.steps, 1):
        _say_wrapped(f"{number}. ", step)
    if planned.notes:
        out.print("To know:")
    for note in planned.notes:
        _say_wrapped("- ", note)
    show_refusals(planned.refusals)


def show_refusals(refusals: Iterable[Refusal]) -> None:
    """Print why nothing can be connected, each with the way out, and what is to be pasted as it is."""
    for refusal in refusals:
        err.print(f"error: {refusal.why}", style="red")
        err.print(f"    -> {refusal.way_out}")
        for text in refusal.lines:
            print_as_it_is(f"{text}\n")


def _say_wrapped(begins: str, text: str) -> None:
    """Print a sentence in lines that are read anywhere, below each other."""
    for number, part in enumerate(wrap(text, _WIDTH - len(begins), break_long_words=False, break_on_hyphens=False)):
        out.print(f"  {begins if number == 0 else ' ' * len(begins)}{part}")


def _then(connection: Connection) -> str:
    match connection.form:
        case Form.OURS:
            return f"our format, into {connection.log_group}"
        case Form.EXTENDED:
            return f"the same, with our line in front as the field metering, into {connection.log_group}"
        case Form.THEIRS | Form.USAGE:
            return "the same"
        case _:
            assert_never(connection.form)


def _log(log: StageLog) -> str:
    if not log.destination:
        return "no access log"
    where = group_of(log.destination) or f"Firehose ({log.destination.rpartition('/')[2]})"
    written = log.format if len(log.format) <= _SHORT else f"{log.format[:_SHORT]}..."
    return f"{written} into {where}"


def _way_back(connection: Connection, *, keep_log: bool, is_there: bool) -> list[str]:
    """Say what disconnecting does."""
    if connection.step is Step.DISCONNECTED:
        return [f"{connection.name} is disconnected already: nothing to change"]
    said = []
    if connection.form in (Form.OURS, Form.EXTENDED):
        stage = f"the stage {connection.stage} of {connection.api_name}"
        back = (
            f"gets back what it had: {_log(connection.before)}" if is_there else "is gone: there is nothing to put back"
        )
        said.append(f"{stage} goes on writing what it writes" if keep_log else f"{stage} {back}")
    said.append(
        f"lines of {connection.log_group} are read no longer; what was counted stays, and is billed. Should lines of "
        "the last minutes lack, 'metering recount --all' of this hour finds them"
    )
    if connection.form is Form.OURS:
        said.append(f"{connection.log_group} stays until its retention: it is what was billed from")
    return said


def _connection(deployment: Deployment, name: str, stage: str) -> Connection:
    if not stage:
        connection = deployment.connections.get(name)
        if connection is None:
            raise OperatorError(f"there is no connection {name!r}: 'metering connections' lists them")
        return connection
    for connection in deployment.connections.all():
        if (connection.api_id, connection.stage) == (name, stage):
            return connection
    raise OperatorError(f"the stage {stage} of {name} is not connected: 'metering connections' lists what is")


def _first_line(deployment: Deployment, connection: Connection, planned: Plan) -> FirstLine | None:
    """Wait for a connection's first line, and say how to make one."""
    methods = [method.name for method in planned.stage.methods]
    call = example_call(connection, region=planned.stage.region, methods=methods)
    if deployment.embedded_at:
        call = f"call the address that 'metering local' prints for {connection.name}"
    err.print(f"waiting up to three minutes for the first line; to make one: {call}")
    with err.status("waiting"):
        return wait_for_first_line(deployment, connection, patience=PATIENCE)


def agreed(to: str) -> bool:
    """Ask whoever sits at a terminal; nobody else is asked, and nothing is done."""
    return sys.stdin.isatty() and typer.confirm(f"{to}?", err=True)


def say(doing: str) -> None:
    """Tell what is being done, while it is."""
    err.print(f"{doing} ...")
