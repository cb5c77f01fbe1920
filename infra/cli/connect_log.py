"""Log groups of usage lines: connected to a deployment, after it is shown what their last lines would be."""

from dataclasses import asdict
from typing import Annotated, Any, Final

import typer
from msgspec import to_builtins

from infra.cli.connections import Yes, agreed, say, show_refusals
from infra.cli.shared import Connect, Json, err, now, on_deployment, out, print_json
from infra.operate.connections.connecting import Connecting, place_of
from infra.operate.connections.patience import Patience
from infra.operate.connections.usage_log import TERM, LogPlan, look_at_log, plan_log
from infra.operate.connections.usage_sample import Sample, sample

app: Final = typer.Typer()


@on_deployment(app, "connect-log")
def connect_log(
    connect: Connect,
    log_group: Annotated[str, typer.Argument(metavar="LOG_GROUP", help="The name of a log group of this account.")],
    yes: Yes = False,
    name: Annotated[
        str, typer.Option(help="What the connection is called; the last part of the log group's name if left out.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Meter the usage lines that your own code writes into a log group; 'disconnect' ends it.

    First the plan is shown, and what the last lines there would be: counted, set aside, or nobody's. It may be
    interrupted and run again: it goes on where it was. Exits with 1 if the log group cannot be connected.
    """
    deployment = connect()
    with err.status("looking at the log group"):
        place = place_of(deployment)
        planned = plan_log(look_at_log(deployment, log_group), place, name, deployment.connections.all())
        lines = None if planned.refusals else sample(deployment, log_group, place.metrics, now())
    document: dict[str, Any] = {
        "plan": log_plan_as_json(planned) | {"sample": lines.as_json() if lines else None},
        "connection": None,
    }
    if not as_json:
        _show_log(planned, lines)
    does = not planned.refusals and (yes or (not as_json and agreed("connect it")))
    if does:
        connection = Connecting(deployment, place, Patience(say=say)).connect(planned.connection)
        document["connection"] = to_builtins(connection)
    if as_json:
        print_json(document)
    elif does:
        out.print(f"{log_group} is connected as {planned.connection.name}")
    elif not planned.refusals:
        out.print("nothing is done: say it again with --yes")
    if planned.refusals:
        raise typer.Exit(1)


def log_plan_as_json(planned: LogPlan) -> dict[str, Any]:
    """Return the plan of a log group for programs."""
    return {
        "name": planned.connection.name,
        "log_group": planned.connection.log_group,
        "connected": planned.done,
        "steps": list(planned.steps),
        "notes": list(planned.notes),
        "refusals": [asdict(refusal) for refusal in planned.refusals],
    }


def _show_log(planned: LogPlan, lines: Sample | None) -> None:
    """Print the plan of a log group for people."""
    out.print(f"the log group {planned.connection.log_group}")
    if lines:
        out.print(f"  name:  {planned.connection.name}")
        total = lines.counted + lines.set_aside + lines.nobodys
        which = "all" if lines.is_all else "the last of more"
        out.print(f"  lines: {total:,} of the last day have the word {TERM} ({which}), of which")
        out.print(f"         {lines.counted:,} would count")
        out.print(f"         {lines.set_aside:,} would be set aside, wholly or for some metrics")
        out.print(f"         {lines.nobodys:,} are nobody's")
        for (whose, metric), number in lines.reports.most_common(_MOST_SHOWN):
            out.print(f"         {number:,} for {whose}: {metric}")
        if len(lines.reports) > _MOST_SHOWN:
            out.print(f"         and for {len(lines.reports) - _MOST_SHOWN:,} more; --json names all")
        for reason, number in lines.reasons.most_common(_MOST_SHOWN):
            out.print(f"         {number:,} set aside: {reason}")
    if planned.done:
        out.print("It is connected; what lacks is made good:")
    for number, step in enumerate(planned.steps, 1):
        out.print(f"  {number}. {step}")
    for note in planned.notes:
        out.print(f"  - {note}")
    show_refusals(planned.refusals)


_MOST_SHOWN: Final = 10
