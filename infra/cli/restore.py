"""After a disaster: the ledger from a point in time."""

from dataclasses import asdict
from typing import Annotated, Final

import typer

from infra.cli.shared import Connect, Json, on_deployment, out, print_json, progress
from infra.operate.restore import restore
from infra.operate.words import count

app: Final = typer.Typer()


@on_deployment(app, "restore")
def restore_ledger(
    connect: Connect,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The table that DynamoDB restored from the backup.")],
    as_json: Json = False,
) -> None:
    """Make the ledger what a restored table holds; what was written since goes.

    Posting must be off and close_periods stopped. infra/operate/RUNBOOK.md has every step.
    """
    done = restore(connect(), table, progress=progress("copying", as_json))
    if as_json:
        print_json(asdict(done))
        return
    written = count(done.written, "item")
    out.print(f"{written} written, {done.deleted:,} deleted; closed before {done.closed_before or 'nothing'}")
    out.print(f"next: deploy with ledger_epoch={done.epoch + 1}, before posting is turned on again")
