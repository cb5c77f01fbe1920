"""API keys: those that nobody is billed for, and those that were given by mistake."""

from typing import Annotated, Final

import typer

from infra.cli.customers import say_change, say_notes, settled
from infra.cli.shared import Connect, Json, group, hour, now, on_deployment
from infra.operate.access import Access
from infra.operate.customers import Change, Customers
from infra.operate.forgetting import Forgetting
from infra.operate.keys import check_keys
from metering.model.periods import Hour

keys_app: Final = group("API keys: those that are not billed, those given by mistake.")


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


@on_deployment(keys_app, "forget")
def keys_forget(
    connect: Connect,
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="What was given as a key's id; a value by how it begins: '09f3...'.")
    ],
    as_json: Json = False,
) -> None:
    """Take out a key that was given by mistake, as far as nothing was used by it; doing it again is harmless.

    So a key's value leaves the ledger that was given in the place of its id. Copies in backups stay as long as those
    do: give the customer a new key. A key that is in a usage plan still opens the API: take it out there, too.
    """
    say_change(Change(Forgetting.of(connect()).forget(key, now=now())), as_json)
