"""What the commands share: the options that find a deployment, and how they print."""

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any, Final, TypeVar, get_type_hints

import boto3
import typer
from rich.cells import cell_len
from rich.progress import track
from rich.table import Table

from infra.cli import terminal
from infra.cli.stopping import READ, WROTE, course
from infra.cli.streams import goes_into_a_pipe
from infra.cli.terminal import line
from infra.operate.deployment import OPERATOR_KEY, Deployment, OperatorError, checked_key
from infra.operate.words import count
from metering.model.periods import Hour
from metering.model.subjects import is_id
from metering.stores.holders import Customer
from metering.stores.ledger import Ledger

out: Final = terminal.out
err: Final = terminal.err

WIDEST: Final = 1000
_SHORT: Final = 24
"""Names of at most so many signs, which a row begins with, are never cut into lines."""

_WHOLE: Final = {
    *("period", "hour", "id"),
    *("quantity", "amount", "difference", "counted", "ledger", "Stripe"),
}
"""Columns of which no cell is cut into lines where there is room for that: it is a number, or is copied from there."""

_LEAST: Final = 8
"""Signs that are left to a line of any other column then."""

_READING: Final = {
    "connections",
    "doctor",
    "invoice",
    "list",
    "plan",
    "request",
    "show",
    "status",
    "top",
    "usage",
    "would",
}
"""Commands that change nothing, whatever group they are in."""

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Stack = Annotated[str, typer.Option(help="The metering stack's name.", envvar="METERING_STACK")]
Region = Annotated[str | None, typer.Option(help="The AWS Region; the AWS environment's if left out.")]
Profile = Annotated[str | None, typer.Option(help="The AWS profile; the AWS environment's if left out.")]
Local = Annotated[bool, typer.Option("--local", help="Act on the running 'metering local' instead of AWS.")]

Most = Annotated[int | None, typer.Option(min=1, help="How many to show at most; all if left out.")]

OperatorKey = Annotated[
    bool,
    typer.Option(
        "--operator-key",
        help="Ask for the operator's Stripe key without echo, or read it from stdin; else it is STRIPE_OPERATOR_KEY, "
        "or the one in the secret.",
    ),
]

Connect = Callable[[], Deployment]
"""Finds the deployment that a command's options name; raises OperatorError if there is none."""


def group(purpose: str) -> typer.Typer:
    """Return a group of commands."""
    return typer.Typer(help=purpose, no_args_is_help=True)


def on_deployment(commands: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command that acts on a deployment.

    Its first argument is a :data:`Connect`, in whose place the command line gets the options that name a deployment.
    """

    def register(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*, stack: str, region: str | None, profile: str | None, local: bool, **given: Any) -> None:
            only_looks = name in _READING or given.get("dry_run") or given.get("fix") is False
            course.begin(way_on=READ if only_looks else WROTE)
            command(functools.partial(_connect, stack, region, profile, local), **given)

        _, *own = inspect.signature(command).parameters.values()
        options = inspect.signature(_options).parameters.values()
        signature = inspect.Signature(
            [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *options)]
        )
        hints = get_type_hints(command, include_extras=True) | get_type_hints(_options, include_extras=True)
        vars(run).update(__signature__=signature, __annotations__={name: hints[name] for name in signature.parameters})
        del run.__wrapped__  # so that the signature above is the one that is looked at
        commands.command(name)(run)
        return command

    return register


def _options(stack: Stack = "Metering", region: Region = None, profile: Profile = None, local: Local = False) -> None:
    """Declare the options that name a deployment."""


def _connect(stack: str, region: str | None, profile: str | None, local: bool) -> Deployment:
    if local:
        from infra.local import cloud as local_cloud  # noqa: PLC0415 - its servers are for the local commands alone

        return local_cloud.running().deployment(stack)
    deployment = Deployment.find(stack, boto3.Session(region_name=region, profile_name=profile))
    deployment.operator_key = os.environ.get(OPERATOR_KEY, "")
    return deployment


def changing_stripe(connect: Connect, *, ask: bool) -> Deployment:
    """Return the deployment for a command that changes something at Stripe, perhaps with a key that is typed now."""
    deployment = connect()
    if ask:
        deployment.operator_key = stripe_key("Stripe operator key")
    return deployment


def stripe_key(asked_for: str) -> str:
    """Return a Stripe key that is typed without echo, or comes on stdin; OperatorError for what is none."""
    return checked_key(typed(asked_for), "what was given")


def typed(asked_for: str) -> str:
    """Return what is typed without echo, or comes on stdin."""
    if sys.stdin.isatty():
        return str(typer.prompt(asked_for, hide_input=True, err=True, default="", show_default=False)).strip()
    return sys.stdin.buffer.read().decode(errors="replace").strip()


def hour(text: str) -> Hour:
    """Read an option's hour: 2026-11-22T05 or a whole day, 2026-11-22; UTC."""
    try:
        return Hour.parse(text if "T" in text else f"{text}T00")
    except ValueError as error:
        raise typer.BadParameter(f"an hour is written 2026-11-22T05, a day 2026-11-22 (UTC); got {text!r}") from error


def now() -> datetime:
    """Return the present moment."""
    return datetime.now(UTC)


def known_customer(ledger: Ledger, customer_id: str) -> Customer:
    """Return a customer; raise OperatorError if there is none."""
    customer = ledger.holders.customers([customer_id]).get(customer_id) if is_id(customer_id) else None
    if customer is None:
        raise OperatorError(f"there is no customer {customer_id!r}: 'metering customers list' shows them")
    return customer


def print_json(document: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def print_as_it_is(text: str) -> None:
    """Print text that goes into a file, to the letter, but for signs by which it could act on a terminal."""
    sys.stdout.write("".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text))


def first_of(things: Iterable[T], most: int | None) -> tuple[list[T], bool]:
    """Return the first ``most`` things, or all for None, and whether there are more; no further one is looked for."""
    found = [*islice(things, most + 1 if most else None)]
    return found[:most], most is not None and len(found) > most


def table(
    columns: Iterable[str], rows: Iterable[Iterable[str]], of: str = "", *, which: str = "", way_on: str = ""
) -> None:
    """Print a table, with each row on one line where nobody looks; on stderr how many there are ``of`` what.

    ``which`` says of all that are there which are meant; where there are more, ``way_on`` is how they are seen.
    """
    made = Table(box=None, pad_edge=False, header_style="bold")
    lines = [[*row] for row in rows]
    columns = [*columns]
    whole = _whole(columns, lines, out.width)
    for place, column in enumerate(columns):
        made.add_column(
            column,
            justify="right" if column in ("quantity", "lines an hour") else "left",
            overflow="fold",
            no_wrap=place in whole,
        )
    for row in lines:
        made.add_row(*map(line, row))
    if made.row_count:
        if not out.is_terminal:
            out.width = WIDEST  # a pipe gets each row on one line
        number = count(made.row_count, of) + which
        told = f"{number} shown; there are more: {way_on}" if way_on else number * bool(of)
        into_less = goes_into_a_pipe() and err.is_terminal  # it draws there from the first row on
        if into_less and way_on:
            err.print(told)
        out.print(made)
        if told and not into_less:
            err.print(told)
    else:
        err.print(f"nothing there{which}")


def _whole(columns: Sequence[str], lines: Sequence[Sequence[str]], room: int) -> set[int]:
    """Return the places of the columns of which no cell is cut; numbers are, rather than left out in part."""
    always = {place for place, column in enumerate(columns) if column in ("since", "last line")}
    if all(len(row[0]) <= _SHORT for row in lines):
        always.add(0)
    wanted = always | {place for place, column in enumerate(columns) if column in _WHOLE}
    widest = [max(map(cell_len, cells)) for cells in zip(columns, *lines, strict=True)]
    least = sum(width if place in wanted else min(width, _LEAST) for place, width in enumerate(widest))
    return wanted if least + 2 * len(columns) <= room else always


def progress(doing: str, quiet: bool) -> Callable[[Iterable[Any], int], Iterable[Any]]:
    """Return a way to go through things with a progress bar, on a terminal and where there is time to see it."""

    def go_through(things: Iterable[Any], total: int) -> Iterator[Any]:
        shown = track(
            things, description=doing, total=total, console=err, disable=quiet or not err.is_terminal, transient=True
        )
        course.how_far = f"{doing}, 0 of {total} done"
        for done, thing in enumerate(shown, 1):
            yield thing
            course.how_far = f"{doing}, {done} of {total} done"

    return go_through
