"""Whether the deployment is well."""

from contextlib import nullcontext
from typing import Final

import typer

from infra.cli.shared import Connect, Json, err, now, on_deployment, out, print_json
from infra.cli.streams import goes_into_a_pipe
from infra.cli.terminal import line as said
from infra.operate.doctor.examine import examine
from infra.operate.doctor.findings import State

app: Final = typer.Typer()

_STYLES: Final = {State.OK: "green", State.WARNING: "yellow", State.BROKEN: "bold red"}


@on_deployment(app, "doctor")
def doctor(connect: Connect, as_json: Json = False) -> None:
    """Check a whole deployment, and say what to do about what is not as it should be; nothing is changed.

    Exits with 1 if anything is broken. What you may not look at is a warning that names the permission.
    """
    lines = []
    with err.status("checking") if not goes_into_a_pipe() else nullcontext():  # less draws where it would turn
        for line in examine(connect(), now):
            lines.append(line)
            if not as_json:
                out.print(said(f"{line.state:<8}", _STYLES[line.state]) + said(f" {line.check}: {line.said}"))
                if line.do:
                    out.print(said(f"{'':8} -> {line.do}"))
    is_broken = any(line.state is State.BROKEN for line in lines)
    if as_json:
        print_json({"broken": is_broken, "checks": [line.as_json() for line in lines]})
    if is_broken:
        raise typer.Exit(1)
