"""The customers, their Stripe customers and their API keys."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Final

import typer

from infra.cli.shared import (
    Connect,
    Json,
    Most,
    OperatorKey,
    changing_stripe,
    err,
    first_of,
    group,
    hour,
    known_customer,
    now,
    on_deployment,
    out,
    print_json,
    progress,
    table,
)
from infra.operate.access import Access, in_words, reason_as_json
from infra.operate.customer_file import Standing, read_csv, standing
from infra.operate.customer_list import Wanted, listed
from infra.operate.customers import Change, Customers, Entry, Progress, is_connected, look_up, renamings
from infra.operate.deployment import Deployment, OperatorError
from infra.operate.keeping import keep_subscribed
from infra.operate.key_list import KeyList
from infra.operate.keys import check_keys, look_at
from infra.operate.paying import portal_link
from infra.operate.portal_access import portal_url
from infra.operate.removing import Removing
from infra.operate.subscribing import Subscriber, Wishes
from infra.operate.words import count
from metering.limits.gate import reasons_of_one
from metering.model.limits import level_by
from metering.model.periods import Hour
from metering.model.subjects import is_id
from metering.stores.limits import LimitItems

Unchecked = Annotated[bool, typer.Option("--unchecked", help="Do not ask Stripe whether it knows a Stripe customer.")]
Rename = Annotated[bool, typer.Option("--rename", help="Give a known customer another name.")]
ReturnUrl = Annotated[
    str, typer.Option(help="The page to which the customer comes back from Stripe; the customers' page if left out.")
]

customers_app: Final = group("The customers, their Stripe customers and their API keys.")


@on_deployment(customers_app, "add")
def customers_add(
    connect: Connect,
    customer_id: Annotated[str, typer.Argument(metavar="ID", help="Your own id for the customer.")],
    name: Annotated[str, typer.Option(help="The customer's name; needed for a new one only.")] = "",
    stripe_customer: Annotated[str, typer.Option(help="The customer's id at Stripe, cus_...")] = "",
    key: Annotated[
        list[str] | None, typer.Option(help="The id of an API key (not its value); may be repeated.")
    ] = None,
    since: Annotated[
        Hour | None,
        typer.Option("--from", parser=hour, metavar="HOUR", help="The hour from which on the keys change hands."),
    ] = None,
    rename: Rename = False,
    unchecked: Unchecked = False,
    as_json: Json = False,
) -> None:
    """Add a customer, or its Stripe customer and keys; adding the same again changes nothing.

    Usage that a key had before it was given to anyone is billed to its first customer. A key that belongs to another
    customer is refused unless --from says when it changes hands. A Stripe customer that is new here must be one that
    Stripe knows.
    """
    deployment = connect()
    entry = _of_customer(deployment, Entry(customer_id, name, stripe_customer, tuple(key or ()), since), rename)
    say_notes(check_keys(deployment, *entry.keys))
    if refused := _look_up(deployment, {1: entry}, None if unchecked else progress("asking Stripe", as_json)).get(1):
        raise OperatorError(*refused)
    change = Customers(deployment.ledger, deployment.counters).add(entry, now=now())
    change += settled(Access.of(deployment, now), entry.keys)
    notes = keep_subscribed(deployment, customer_id, now=now()) if stripe_customer else []
    say_change(change, as_json)
    say_notes(notes)


@on_deployment(customers_app, "list")
def customers_list(
    connect: Connect,
    plan: Annotated[
        str, typer.Option(metavar="PLAN", help="Only who is subscribed to this plan, as Stripe says.")
    ] = "",
    no_subscription: Annotated[
        bool, typer.Option("--no-subscription", help="Only who is on no plan, as Stripe says.")
    ] = False,
    suspended: Annotated[bool, typer.Option("--suspended", help="Only who is suspended.")] = False,
    after: Annotated[str, typer.Option(metavar="CUSTOMER", help="Begin after this customer, by id.")] = "",
    most: Most = None,
    as_json: Json = False,
) -> None:
    """List the customers, in the order of their ids."""
    if plan and no_subscription:
        raise typer.BadParameter("--plan and --no-subscription exclude each other")
    wanted = Wanted(after, plan, no_subscription, suspended)
    deployment = connect()
    with err.status("looking at customers"):
        shown, is_more = first_of(listed(deployment, wanted, now=now()), most)
    if as_json:
        print_json([one.as_json() for one in shown])
        return
    table(
        ("customer", "name", "Stripe customer", "keys are"),
        [(one.customer.id, one.customer.name, one.customer.stripe_customer or "none", one.state()) for one in shown],
        "customer",
        way_on=f"--after {shown[-1].customer.id}" if is_more else "",
    )


@on_deployment(customers_app, "show")
def customers_show(
    connect: Connect,
    customer_id: Annotated[str, typer.Argument(metavar="ID")],
    as_json: Json = False,
) -> None:
    """Show a customer, the keys that it holds or has held, and why they are closed, if they are."""
    deployment = connect()
    ledger = deployment.ledger
    customer = known_customer(ledger, customer_id)
    keys = [*KeyList(deployment, now()).of_customer(customer_id)]
    shown = {key.id: key.key for key in keys}
    limits = LimitItems(deployment.client("dynamodb"), deployment.outputs.ledger_table)
    reasons, stands = reasons_of_one(limits, customer_id, now()), limits.of(customer_id).gate
    left = {shown.get(name, name): why for name, why in stands.left.items()}
    if as_json:
        access = {"access": level_by(reasons).name.lower(), "reasons": [reason_as_json(one) for one in reasons]}
        print_json({**asdict(customer), "keys": [key.as_json() for key in keys], **access, "left": left})
        return
    out.print(f"{customer.id}: {customer.name}, Stripe customer {customer.stripe_customer or 'none yet'}")
    for reason in reasons:
        out.print(in_words(reason))
    for key, why in left.items():
        out.print(f"key {key} is left as it is: {why}")
    if not keys:
        out.print(
            f"it has no keys: 'metering keys create {customer_id} --plan PLAN' makes one, 'metering customers add "
            f"{customer_id} --key KEY' gives it one that there is"
        )
        return
    table(
        ("key", "name", "from", "to", "state"),
        [(key.key, key.name, str(key.since or "the beginning"), str(key.to or "now"), key.state()) for key in keys],
    )
    say_notes(
        f"{masked} is a key's value (the secret): 'metering keys forget {masked}' takes it out"
        for name, masked in shown.items()
        if masked != name
    )


@on_deployment(customers_app, "remove")
def customers_remove(
    connect: Connect,
    customer_id: Annotated[str, typer.Argument(metavar="ID")],
    as_json: Json = False,
) -> None:
    """Take out a customer that was added by mistake, with its keys and limits, as far as nothing was used.

    One that was used stays with all that was billed: 'suspend' ends its access. Nothing changes at Stripe, nor in usage
    plans: a key that is in one still opens the API, and what is used by it is held as nobody's.
    """
    deployment = connect()
    said = Removing.of(deployment).remove(customer_id, now=now())
    if not said:
        err.print(f"note: there is no customer {customer_id!r}")
    say_change(Change(said), as_json)


@on_deployment(customers_app, "import")
def customers_import(
    connect: Connect,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.csv", exists=True, dir_okay=False, help="Columns: id, name, stripe_customer, keys."
        ),
    ],
    unchecked: Unchecked = False,
    rename: Rename = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the whole file, say what would be done, and write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add the customers of a CSV file; the whole file is checked before anything is written.

    The first line names the columns: id, name, stripe_customer (may be empty), keys (with spaces between them). They
    are parted by commas, semicolons or tabs. Importing the same file again goes on where it was stopped.
    """
    try:
        entries, problems = read_csv(file)
    except UnicodeDecodeError as error:
        raise OperatorError(
            f"{file} must be a CSV file in UTF-8, got something else: have the spreadsheet save it as 'CSV UTF-8'"
        ) from error
    deployment = connect()
    if not rename:
        for line, refused in renamings(deployment.ledger, entries).items():
            problems.setdefault(line, []).append(refused)
    asking = progress("asking Stripe", as_json)
    notes = _checked(deployment, file, entries, problems, asking=None if unchecked else asking)
    say_notes(notes)
    stands = standing(deployment.ledger, entries)
    if dry_run:
        _say_standing(stands, as_json)
        return
    if stands.there:
        say_notes([f"{stands.there:,} of {count(stands.customers, 'customer')} of the file are there already"])
    customers, whole, access = (
        Customers(deployment.ledger, deployment.counters),
        Change(),
        Access.of(deployment, now),
    )
    for entry in progress("importing", as_json)(entries.values(), len(entries)):
        whole += customers.add(entry, now=now()) + settled(access, entry.keys)
    say_change(whole, as_json)


def _of_customer(deployment: Deployment, entry: Entry, rename: bool) -> Entry:
    """Return an entry with its customer's name where none is given; another one is refused unless that is meant."""
    known = deployment.ledger.holders.customers([entry.id]).get(entry.id) if is_id(entry.id) else None
    if not entry.name:
        if known is None and is_id(entry.id):
            raise typer.BadParameter(f"there is no customer {entry.id!r} yet: give a new one a --name")
        return replace(entry, name=known.name if known else "")
    if not rename and (refused := renamings(deployment.ledger, {1: entry})):
        raise OperatorError(refused[1])
    return entry


def _checked(
    deployment: Deployment,
    file: Path,
    entries: Mapping[int, Entry],
    problems: dict[int, list[str]],
    *,
    asking: Progress | None,
) -> list[str]:
    """Return what to say of a file's customers; raise OperatorError, with each line of which something is wrong."""
    looked_at = look_at(deployment, (name for entry in entries.values() for name in entry.keys))
    values = {
        line: [looked_at.refused[name] for name in entry.keys if name in looked_at.refused]
        for line, entry in entries.items()
    }
    good = {line: entry for line, entry in entries.items() if not values[line]}
    checked = Customers(deployment.ledger, deployment.counters).check(good, now=now())
    for line, found in (*values.items(), *checked.items()):
        problems[line] = [*problems.get(line, []), *found]
    problems |= _look_up(deployment, {} if any(problems.values()) else entries, asking)
    bad = [f"  line {line}: {problem}" for line, found in sorted(problems.items()) for problem in found]
    if bad:
        raise OperatorError(f"nothing was imported from {file}:", *bad)
    return looked_at.notes


def _say_standing(stands: Standing, as_json: bool) -> None:
    if as_json:
        print_json({"dry_run": True, **asdict(stands)})
        return
    out.print(
        f"of {count(stands.customers, 'customer')} {stands.added:,} would be added and {stands.changed:,} changed, "
        f"{stands.there:,} are there already; {count(stands.keys, 'key')} would be given; nothing was written"
    )


@on_deployment(customers_app, "subscribe")
def customers_subscribe(
    connect: Connect,
    customer_id: Annotated[str, typer.Argument(metavar="ID")],
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="The name of a plan in app.py.")],
    stripe_customer: Annotated[str, typer.Option(help="Its id at Stripe, cus_..., if it has one there.")] = "",
    subscription: Annotated[str, typer.Option(help="Its subscription at Stripe, sub_..., if it has one.")] = "",
    email: Annotated[
        str,
        typer.Option(
            help="Send invoices, due in 30 days unless --due says otherwise; a customer that has no address at Stripe "
            "gets this one."
        ),
    ] = "",
    due: Annotated[
        int | None,
        typer.Option(min=1, help="Send invoices that are due in so many days, to the address that Stripe knows."),
    ] = None,
    change: Annotated[
        bool,
        typer.Option(
            "--change", help="Let a subscription to another plan end with its period, for this one to follow."
        ),
    ] = False,
    operator_key: OperatorKey = False,
    return_url: ReturnUrl = "",
    as_json: Json = False,
) -> None:
    """Subscribe a customer to a plan at Stripe; doing it again changes nothing.

    It is made a customer at Stripe if it is none. The subscription begins with the current hour (UTC), which is billed
    as a whole; what was used in the hours before is not billed. Without --email and --due, the payment method that
    the customer has at Stripe is charged. If it has none and the plan has a fee, a link is printed where it gives one:
    then say the same again.

    With --change, a subscription to another plan ends with its period. Once it has, say the same again: the new one
    begins with the very hour at which the other ended, so that no hour is billed twice or left out.
    """
    if change and subscription:
        raise typer.BadParameter("--change and --subscription exclude each other")
    deployment = changing_stripe(connect, ask=operator_key)
    customer = known_customer(deployment.ledger, customer_id)
    wishes = Wishes(stripe_customer, subscription, email, due, return_url)
    subscriber = Subscriber.of(deployment)
    do = subscriber.change if change else subscriber.subscribe
    with err.status("subscribing at Stripe"):
        done = do(customer, plan, wishes, now=deployment.gateway_clock(now()))
        done.notes += keep_subscribed(deployment, customer_id, now=now())
    if as_json:
        print_json(done.as_json())
        return
    nothing = [f"nothing to change: {done.customer} is subscribed to {done.plan}"] if done.subscription else []
    for sentence in done.said or nothing:
        out.print(sentence)
    for note in done.notes:
        out.print(f"note: {note}")
    if done.checkout_url:
        out.print(done.checkout_url)


@on_deployment(customers_app, "portal")
def customers_portal(
    connect: Connect,
    customer_id: Annotated[str, typer.Argument(metavar="ID")],
    return_url: ReturnUrl = "",
    operator_key: OperatorKey = False,
    as_json: Json = False,
) -> None:
    """Make a link to Stripe's own portal, where a customer sees its invoices and changes how it pays.

    It ends after some minutes unless it is opened (Stripe says when). 'metering customers link' gives our own page.
    """
    deployment = changing_stripe(connect, ask=operator_key)
    customer = known_customer(deployment.ledger, customer_id)
    url = portal_link(deployment.operators_stripe(), customer, return_url or portal_url(deployment))
    if as_json:
        print_json({"customer": customer.id, "url": url})
        return
    out.print(url)


def settled(access: Access, keys: Sequence[str]) -> Change:
    """Bring keys that were given to somebody to where they belong, also if a command before died at it."""
    return Change(access.settle(keys, now=now()))


def _look_up(deployment: Deployment, entries: Mapping[int, Entry], asking: Progress | None) -> dict[int, list[str]]:
    """Return which entries name a Stripe customer that cannot be billed, by line; print what could not be checked.

    Nobody is asked where there is no way of ``asking``.
    """
    if asking is None or not any(entry.stripe_customer for entry in entries.values()):
        return {}
    stripe = deployment.operators_stripe()
    if is_connected(stripe):
        found = look_up(stripe, deployment.ledger, entries, now=now(), progress=asking)
        say_notes(found.unchecked)
        return found.unusable
    err.print("note: no Stripe key is connected yet, so that nobody was asked whether Stripe knows the Stripe customer")
    return {}


def say_notes(notes: Iterable[str]) -> None:
    """Print what is to be known besides what was done."""
    for note in notes:
        err.print(f"note: {note}")


def say_change(change: Change, as_json: bool) -> None:
    """Print what a verb changed."""
    if as_json:
        print_json({"changed": change.said, "hours_to_close_again": change.marks})
        return
    for sentence in change.said or ["nothing to change"]:
        out.print(sentence)
    if change.marks:
        hours = count(change.marks, "closed hour is", "closed hours are")
        out.print(f"{hours} closed again at the next tick, or by 'metering close'")
