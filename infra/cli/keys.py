"""API keys: made for customers, billed to nobody, or given by mistake."""

import os
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Final

import typer

from infra.cli.customers import say_change, say_notes, settled
from infra.cli.shared import (
    Connect,
    Json,
    err,
    first_of,
    group,
    hour,
    known_customer,
    now,
    on_deployment,
    out,
    print_json,
    table,
)
from infra.operate.access import Access, in_words, reason_as_json
from infra.operate.customers import Change, Customers
from infra.operate.deployment import OperatorError
from infra.operate.forgetting import Forgetting
from infra.operate.key_list import KeyList
from infra.operate.keys import check_keys, name_key
from infra.operate.new_keys import LABEL, Created, create_key
from metering.model.log_format import API_KEY
from metering.model.periods import Hour

keys_app: Final = group("API keys: made for customers, billed to nobody, or given by mistake.")


@on_deployment(keys_app, "list")
def keys_list(
    connect: Connect,
    customer_id: Annotated[
        str, typer.Argument(metavar="CUSTOMER", help="Only the keys that it holds or has held; all if left out.")
    ] = "",
    excluded: Annotated[bool, typer.Option("--excluded", help="Only keys that nobody is billed for.")] = False,
    after: Annotated[str, typer.Option(metavar="KEY", help="Begin after this key, by id.")] = "",
    most: Annotated[int, typer.Option(min=1, max=10_000, help="How many to show at most.")] = 100,
    as_json: Json = False,
) -> None:
    """List keys in the order of their ids: what they are called, whose they are since when, and what closes them.

    Those that usage came by, and that nobody holds, are among them. What opens by itself shows as open, also where it
    is in no usage plan.
    """
    if customer_id and excluded:
        raise typer.BadParameter("a customer's keys are billed to it: give either CUSTOMER or --excluded")
    deployment = connect()
    keys = KeyList(deployment, now())
    if customer_id:
        known_customer(deployment.ledger, customer_id)
    with err.status("looking at keys"):
        listed = keys.of_customer(customer_id, after) if customer_id else keys.of_all(after)
        wanted = (key for key in listed if key.excluded or not excluded)
        # A key that a customer held more than once is shown whole: --after goes on behind all of it.
        first, more = first_of((tuple(spans) for _, spans in groupby(wanted, attrgetter("id"))), most)
    shown = [*chain.from_iterable(first)]
    if as_json:
        print_json({"keys": [key.as_json() for key in shown], "more_after": shown[-1].key if more else None})
        return
    table(
        ("key", "name", "customer", "from", "to", "state"),
        [
            (key.key, key.name, key.customer, str(key.since or "the beginning"), str(key.to or ""), key.state())
            for key in shown
        ],
        "key",
        way_on=f"--after {shown[-1].key}" if more else "",
    )


@on_deployment(keys_app, "create")
def keys_create(
    connect: Connect,
    customer_id: Annotated[str, typer.Argument(metavar="CUSTOMER")],
    plan: Annotated[str, typer.Option(help="The usage plan that opens the API to the key: its id, or its name.")],
    name: Annotated[
        str,
        typer.Option(help="What tells the key from the customer's others, to the customer, too: 'production'."),
    ] = LABEL,
    to: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the key's value to this new file, for you alone."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an API key, give it to a customer, put it into a usage plan, and show its value, which callers send.

    Run again, after it was interrupted or not, it goes on with the same key. While a customer's keys are closed, the
    new one is, too, and opens with them.
    """
    check_new(to)
    deployment = connect()
    customer = known_customer(deployment.ledger, customer_id)
    access_log = deployment.access_log
    if access_log.variable != API_KEY:
        raise OperatorError(
            f"who calls {access_log.api.noun} of this deployment is told by {access_log.variable}, not by API keys: "
            f"'metering customers add {customer_id} --key' says whom that is billed to"
        )
    access = Access.of(deployment, now)
    with err.status("making the key"):
        done = create_key(access, customer, plan, name, now=now())
        value = access.plans.value(done.key)
    if to is not None:
        write_value(value, to)
    _say_created(done, value, to, as_json)


@on_deployment(keys_app, "name")
def keys_name(
    connect: Connect,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The id of an API key (not its value).")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the customer knows it by: 'CI'; '' takes it away.")],
    as_json: Json = False,
) -> None:
    """Give a key the name by which its customer knows it, which stands on the customer's page beside its id.

    Whoever gets the key later does not see it.
    """
    deployment = connect()
    say_notes(check_keys(deployment, key))
    say_change(Change(name_key(deployment.ledger, key, name, now=now())), as_json)


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


def check_new(to: Path | None) -> None:
    """Raise OperatorError for a file that cannot be made, before there is a value to write into it."""
    if to is not None and (to.exists() or not to.parent.is_dir() or not os.access(to.parent, os.W_OK)):
        raise OperatorError(f"{to} cannot be made: name a new file, in a folder that there is, for the key's value")


def write_value(value: str, to: Path) -> None:
    """Write a key's value into a new file, which only its owner can read (I8)."""
    with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{value}\n")


def _say_created(done: Created, value: str, to: Path | None, as_json: bool) -> None:
    if as_json:
        shown = {"customer": done.customer, "key": done.key, "name": done.name, "plan": done.plan.id}
        reasons = [reason_as_json(reason) for reason in done.reasons]
        print_json({**shown, "reasons": reasons, **({"value_in": str(to)} if to else {"value": value})})
        return
    out.print(f"key {done.key} belongs to {done.customer}, and its usage plan is {done.plan.id} ({done.plan.name})")
    for reason in done.reasons:
        out.print(f"it is closed as long as {done.customer} is {in_words(reason)}")
    if not done.plan.stages:
        err.print("note: that usage plan has no stage of an API, so that the key opens nothing yet")
    out.print(f"its value is in {to}, for you alone" if to else f"its value: {value}")
