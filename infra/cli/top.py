"""What is going on just now."""

import time
from collections.abc import Iterable
from contextlib import suppress
from decimal import Decimal
from typing import Annotated, Final

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infra.cli.shared import WIDEST, Connect, Json, hour, now, on_deployment, out, print_json
from infra.cli.terminal import line
from infra.operate.access import in_words
from infra.operate.looks import Busy, Look, in_units
from infra.operate.top import MOST_SET_ASIDE, Top
from infra.operate.words import count
from metering.model.periods import Hour
from metering.model.prices import in_money

app: Final = typer.Typer()

_NAMED: Final = 5
"""How many keys without a customer are named."""


@on_deployment(app, "top")
def top_command(
    connect: Connect,
    once: Annotated[bool, typer.Option("--once", help="Look once and stop; so does whatever is no terminal.")] = False,
    seconds: Annotated[int, typer.Option(min=2, help="How long to wait between two looks.")] = 10,
    rows: Annotated[int, typer.Option(min=1, max=100, help="How many customers and keys to show.")] = 10,
    of: Annotated[
        Hour | None,
        typer.Option("--hour", parser=hour, metavar="HOUR", help="Another hour (UTC) than the running one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the busiest customers and keys, requests a second, money an hour, and what waits for a person, until Ctrl-C.

    A rate is taken since the look before, at first since the hour's begin. An hour's cost is what it adds to the
    period's, by the declared prices and without fees. With --json it looks once.
    """
    deployment = connect()
    top = Top(deployment, rows, of)
    look = top.look(deployment.gateway_clock(now()))
    if as_json:
        print_json(look.as_json())
        return
    if not out.is_terminal:
        out.width = WIDEST  # a pipe gets each row on one line
    if once or not out.is_terminal:
        out.print(shown(look))
        return
    with suppress(KeyboardInterrupt), Live(shown(look), console=out, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(seconds)
            live.update(shown(top.look(deployment.gateway_clock(now()))), refresh=True)


def shown(look: Look) -> Group:
    """Return a look as it is printed."""
    since = "the hour's begin" if look.is_first else f"{look.since:%H:%M:%S}"
    heading = f"{look.hour} at {look.at:%H:%M:%S} UTC: {look.per_second:,} {look.rate_of} a second since {since}"
    money = [
        f"{_up_to(look.is_up_to(currency))}{_money(cost, currency)} so far in this hour, "
        f"{_money(per_hour, currency)} an hour"
        for currency, (cost, per_hour) in look.money.items()
    ]
    a_second = f"{look.rate_of} a second"
    customers = _table(
        ("customer", a_second, "so far", "keys", "plan", "costs", "an hour"),
        (
            (
                busy.name,
                f"{busy.per_second:,}",
                _quantities(busy),
                str(busy.keys),
                busy.plan or "-",
                _up_to(busy.costs_up_to) + _money(busy.cost, busy.currency),
                _up_to(busy.costs_up_to) + _money(busy.per_hour, busy.currency),
            )
            for busy in look.customers
        ),
    )
    keys = _table(
        ("key", a_second, "so far", "customer"),
        (
            (busy.name, f"{busy.per_second:,}", _quantities(busy), busy.customer or busy.reason or "(none)")
            for busy in look.keys
        ),
    )
    blocks: list[Table | Text] = [block for block in (customers, keys) if block.row_count] or [
        Text("nothing is counted in this hour")
    ]
    return Group(
        line(heading, "bold"),
        *map(line, money),
        *(part for block in blocks for part in (Text(), block)),
        Text(),
        *(line(sentence, "yellow") for sentence in waiting(look)),
    )


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        is_number = column.endswith("a second") or column in ("keys", "costs", "an hour")
        made.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(line, row))
    return made


def _quantities(busy: Busy) -> str:
    return ", ".join(
        f"{_up_to(metric in busy.up_to)}{quantity:,} {metric}" for metric, quantity in sorted(busy.quantities.items())
    )


def _up_to(may_be_less: bool) -> str:
    return "up to " if may_be_less else ""


def _money(amount: Decimal | None, currency: str) -> str:
    return "-" if amount is None else in_money(in_units(amount), currency)


def waiting(look: Look) -> list[str]:
    """Say what waits for a person, and whose keys are closed."""
    said = list(look.notes)
    said += [f"{busy.name} is {in_words(reason)}" for busy in look.customers for reason in busy.reasons]
    if look.unmapped:
        names = ", ".join(one.name for one in look.unmapped[:_NAMED]) + ", ..." * (len(look.unmapped) > _NAMED)
        keys = count(len(look.unmapped), "key belongs", "keys belong")
        said.append(f"{keys} to no customer: {names}: 'metering customers add ID --key KEY'")
    if look.set_aside:
        batches = count(look.set_aside, "batch", more=look.set_aside >= MOST_SET_ASIDE)
        said.append(f"something of {batches} is set aside: 'metering set-aside list'")
    if look.rejected:
        hours = count(look.rejected, "customer's hour was", "customers' hours were")
        said.append(f"{hours} rejected by Stripe: 'metering rejected list'")
    if look.unbilled:
        hours = count(look.unbilled, "customer's hour", "customers' hours")
        said.append(f"{hours} of the last 35 days nobody pays: 'metering doctor'")
    return said
