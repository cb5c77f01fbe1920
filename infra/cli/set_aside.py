"""What could not be counted, and the way back in."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import repeat
from typing import Annotated, Final

import typer

from infra.cli.shared import (
    WIDEST,
    Connect,
    Json,
    err,
    first_of,
    group,
    now,
    on_deployment,
    out,
    print_json,
    progress,
    table,
)
from infra.operate import redrive
from infra.operate.deployment import Deployment

set_aside_app: Final = group("Usage that could not be counted, and the way back in.")


@on_deployment(set_aside_app, "list")
def set_aside_list(
    connect: Connect,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Only batches with a reason that has this in it.")] = "",
    failed: Annotated[bool, typer.Option("--failed", help="Only batches that failed for good.")] = False,
    most: Annotated[int | None, typer.Option(min=1, help="Stop reading after so many; all if left out.")] = None,
    as_json: Json = False,
) -> None:
    """List the batches of which something is not counted: lines set aside, and batches that failed for good.

    The oldest are first.
    """
    deployment = connect()
    with err.status("reading the bucket"):
        found = redrive.failed(deployment) if failed else redrive.entries(deployment)
        wanted = (entry for entry in found if any(reason in one for one in entry.reasons))
        entries, more = first_of(wanted, most)
    entries.sort(key=lambda entry: entry.at or "")
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    table(
        ("batch", "at", "kind", "left", "doubtful", "from", "reasons"),
        [
            (
                entry.batch,
                entry.at or "-",
                entry.kind,
                f"{entry.left:,}",
                f"{entry.doubtful:,}",
                entry.origin or "-",
                "; ".join(sorted(entry.reasons)),
            )
            for entry in entries
        ],
        "batch",
        way_on="a larger --most" if more else "",
    )


@on_deployment(set_aside_app, "show")
def set_aside_show(
    connect: Connect,
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="A batch that 'set-aside list' names.")],
    as_json: Json = False,
) -> None:
    """Show each line that a batch set aside, and why.

    A line that only some metrics could not read is set aside for these, and counts for the others.
    """
    lines = redrive.lines(connect(), batch)
    if as_json:
        print_json([asdict(line) for line in lines])
        return
    for line in lines:
        only = f" for {', '.join(line.metrics)}" if line.metrics else ""
        ended = [f"    dismissed by {why['who']} at {why['at']}: {why['reason']}"] if (why := line.dismissal) else []
        out.print(f"{line.id}  {line.state}{only}: {line.reason}", *ended, f"    {line.message[:WIDEST]}", sep="\n")


@on_deployment(set_aside_app, "redrive")
def set_aside_redrive(
    connect: Connect,
    batches: Annotated[
        list[str] | None, typer.Argument(metavar="BATCH", help="Batches that 'set-aside list' names.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Redrive every batch that has something left.")] = False,
    doubtful: Annotated[
        bool,
        typer.Option(
            "--doubtful", help="Also count lines that an earlier delivery may have counted: look at them first."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Count what was set aside, once its cause is mended; a line counts once, however often it is redriven.

    A large batch takes several runs of the function. Where one is cut off, redrive the batch again: it goes on there.
    Exits with 1 if something is left that still cannot be counted.
    """
    if bool(batches) == everything:
        raise typer.BadParameter("name the batches to redrive, or give --all for every one")
    deployment = connect()
    with err.status("reading the bucket"):
        if batches:
            sizes = {name: redrive.waiting_lines(deployment, name) for name in batches}
        else:
            sizes = {entry.batch: entry.left for entry in redrive.entries(deployment)}
    reports: dict[str, redrive.Redriven] = {}
    for report in progress("redriving", as_json)(_by_line(deployment, sizes, doubtful=doubtful), sum(sizes.values())):
        reports[report.batch] = report
    if as_json:
        print_json([asdict(report) for report in reports.values()])
    else:
        if not reports:
            out.print("nothing to change")
        for report in reports.values():
            out.print(f"{report.batch}: {report.counted} counted, {report.left} left")
            for name, reason in report.reasons.items():
                out.print(f"    {name}: {reason}")
    if any(report.left for report in reports.values()):
        raise typer.Exit(1)


def _by_line(deployment: Deployment, sizes: Mapping[str, int], *, doubtful: bool) -> Iterator[redrive.Redriven]:
    """Redrive batches, and yield what has become of one for each of its lines: a progress bar counts these."""
    for name, size in sizes.items():
        told = 0
        for report in redrive.redrive(deployment, name, doubtful=doubtful):
            done = min(size, report.counted + report.left)
            yield from repeat(report, max(1, done - told))
            told = done


@on_deployment(set_aside_app, "dismiss")
def set_aside_dismiss(
    connect: Connect,
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="A batch that 'set-aside list' names.")],
    reason: Annotated[str, typer.Option(help="Why nobody is to be billed for it; it is kept beside the lines.")],
    lines: Annotated[
        list[str] | None, typer.Option("--line", metavar="ID", help="A line that 'set-aside show' names; all if none.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say that nobody will ever be billed for lines that were set aside: they wait no longer, and are not redriven.

    It cannot be taken back. What a dismissed line would have been billed can still be entered by 'metering adjust'.
    """
    dismissed = redrive.dismiss(connect(), batch, lines or (), reason, now=now())
    if as_json:
        print_json({"batch": batch, "dismissed": dismissed})
        return
    out.print(f"{batch}: {dismissed:,} dismissed" if dismissed else "nothing to change")
