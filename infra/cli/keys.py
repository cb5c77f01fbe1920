"""API keys: those that nobody is billed for."""

from typing import Annotated, Final

import typer

from infra.cli.customers import say_change, say_notes, settled
from infra.cli.shared import Connect, Json, group, hour, now, on_deployment
from infra.operate.access import Access
from infra.operate.customers import Customers
from infra.operate.keys import check_keys
from metering.model.periods import Hour

keys_app: Final = group("API keys that are not billed.")


@on_deployment(keys_app, "exclude")
def keys_exclude(
    connect: Connect,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The id of an API key (not its value).")],
    reason: Annotated[str, typer.Option(help="Why the key is not billed, for example 'health check'.")],
    since: Annotated[
        Hour | None,
        typer.Option("--from", parser=hour, metavar="HOUR", help="The hour from which on it is not billed."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say that nobody is billed for a key, such as that of your own health checks."""
    deployment = connect()
    say_notes(check_keys(deployment, key))
    customers = Customers(deployment.ledger, deployment.counters)
    change = customers.exclude(key, reason=reason, since=since, now=now())
    say_change(change + settled(Access.of(deployment, now), (key,)), as_json)
