"""Who may call: commands among those of the customers."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from infra.cli.customers import customers_app, say_notes
from infra.cli.keys import check_new, write_value
from infra.cli.shared import Connect, Json, err, known_customer, now, on_deployment, out, print_json
from infra.operate.access import Access, Changed, Rotated, in_words, reason_as_json
from infra.operate.keys import check_keys
from metering.model.limits import OPERATOR
from metering.stores.holders import Customer

_DURATION: Final = re.compile(r"(\d{1,4})([mhd])", re.ASCII)
_UNITS: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_DAY: Final = timedelta(days=1)


def duration(text: str) -> timedelta:
    """Read an option's duration: 90m, 24h, 7d, or 0."""
    written = _DURATION.fullmatch(text)
    if written is None and text != "0":
        raise typer.BadParameter(f"a duration is written 90m, 24h or 7d, or 0 for none at all; got {text!r}")
    return int(written[1]) * _UNITS[written[2]] if written else timedelta(0)


@on_deployment(customers_app, "rotate-key")
def customers_rotate_key(
    connect: Connect,
    customer_id: Annotated[str, typer.Argument(metavar="ID", help="Not needed with --finish.")] = "",
    key: Annotated[str, typer.Option(help="The id of the key to replace, if the customer has several.")] = "",
    overlap: Annotated[
        timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="How long the old key stays valid; 24h if left out."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the new key's value to this new file, for you alone.")
    ] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="Take old keys out of their plans whose time is over, and nothing else.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Give a customer a new API key in the usage plans of its old one, and show its value.

    The old key stays valid for --overlap and is taken out of its plans by --finish from then on: run that by your own
    clock, for one customer or for all. 'metering doctor' tells of those that are due. With --overlap 0 the old key is
    out at once; also later, while it is still valid.
    """
    if finish and (key or overlap is not None or to):
        raise typer.BadParameter("--finish goes with no other option but a customer")
    if not finish and not customer_id:
        raise typer.BadParameter("name the customer whose key is to be replaced")
    check_new(to)
    deployment = connect()
    access = Access.of(deployment, now)
    if finish:
        if customer_id:
            known_customer(deployment.ledger, customer_id)
        _say(access.finish(customer_id, now=now()), as_json)
        return
    customer = known_customer(deployment.ledger, customer_id)
    if key:
        say_notes(check_keys(deployment, key))
    with err.status("making the new key"):
        done = access.rotate(customer, key, _DAY if overlap is None else overlap, now=now())
        value = access.plans.value(done.new)
    if to is not None:
        write_value(value, to)
    _say_rotated(done, value, to, as_json)


@on_deployment(customers_app, "suspend")
def customers_suspend(
    connect: Connect,
    customer_id: Annotated[str, typer.Argument(metavar="ID")],
    as_json: Json = False,
) -> None:
    """Take all of a customer's keys out of their usage plans, so that they open nothing; doing it again is harmless.

    What was used is billed as ever, and so are late records of it. It stays so until 'resume', whatever limits say.
    """
    deployment = connect()
    customer = known_customer(deployment.ledger, customer_id)
    with err.status("closing the keys"):
        done = Access.of(deployment, now).suspend(customer, now=now())
    _say_changed(customer, done, as_json)


@on_deployment(customers_app, "resume")
def customers_resume(
    connect: Connect,
    customer_id: Annotated[str, typer.Argument(metavar="ID")],
    as_json: Json = False,
) -> None:
    """Put a suspended customer's keys back into the usage plans that they were in; doing it again is harmless.

    Where a limit, a budget or an unpaid invoice closes them as well, they stay closed for that, which is said.
    """
    deployment = connect()
    customer = known_customer(deployment.ledger, customer_id)
    with err.status("opening the keys"):
        done = Access.of(deployment, now).resume(customer, now=now())
    _say_changed(customer, done, as_json)


def _say(said: list[str], as_json: bool) -> None:
    if as_json:
        print_json({"changed": said})
        return
    for sentence in said or ["nothing to change"]:
        out.print(sentence)


def _say_changed(customer: Customer, done: Changed, as_json: bool) -> None:
    if as_json:
        print_json({"changed": done.said, "reasons": [reason_as_json(reason) for reason in done.reasons]})
        return
    for sentence in done.said or ["nothing to change"]:
        out.print(sentence)
    for reason in done.reasons:
        if reason.name != OPERATOR:
            out.print(f"{customer.id} is {in_words(reason)}")


def _say_rotated(done: Rotated, value: str, to: Path | None, as_json: bool) -> None:
    until = f"{done.until:%Y-%m-%dT%H:%MZ}" if done.until else None
    if as_json:
        shown: dict[str, Any] = {"customer": done.customer, "old": done.old, "old_valid_until": until, "new": done.new}
        shown |= {"name": done.name, "plans": list(done.plans)}
        print_json(shown | ({"value_in": str(to)} if to else {"value": value}))
        return
    out.print(f"key {done.new} of {done.customer} takes the place of {done.old}")
    out.print(
        f"key {done.old} stays valid until {until}; from then on 'metering customers rotate-key --finish' takes it out"
        if until
        else f"key {done.old} opens nothing any more"
    )
    out.print(f"its value is in {to}, for you alone" if to else f"its value: {value}")
