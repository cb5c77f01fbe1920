"""What is billed: posting on and off, what Stripe rejected, and what Stripe holds."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from infra.cli.shared import (
    Connect,
    Json,
    Most,
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
from infra.operate import posting, unpaid
from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import named
from infra.operate.words import count
from metering.billing.reconciling import NOT_POSTED
from metering.billing.standing import MOST_COUNTED
from metering.model.periods import Hour
from metering.stores.holders import Customer
from metering.stores.switch import Switch

app: Final = typer.Typer()

_MOST_NAMED: Final = 10
OTHERS: Final = "a larger --most, or --customer"
"""How one sees what a list left off that cannot be gone on with."""

Whose = Annotated[str, typer.Option("--customer", metavar="ID", help="Only this customer's; all if left out.")]

posting_app: Final = group("Whether usage is posted to Stripe: off until you turn it on.")
rejected_app: Final = group("Usage that Stripe rejected, and another try.")
app.add_typer(posting_app, name="posting")
app.add_typer(rejected_app, name="rejected")


@on_deployment(posting_app, "on")
def posting_on(
    connect: Connect,
    since: Annotated[
        Hour | None,
        typer.Option(parser=hour, metavar="HOUR", help="The first hour that is billed; the current one if left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Post usage from an hour on; turning it on again, or off and on, bills no hour twice and skips none.

    The first hour can be set earlier later on, never later. What of the last 35 days is then billed to nobody is said,
    such as hours before a customer's first subscription.
    """
    deployment, moment = connect(), now()
    at, looking = deployment.gateway_clock(moment), progress("looking for invoices", as_json)
    turned = posting.turn_on(deployment, since, who=deployment.who(), now=at, progress=looking)
    first = Hour.parse(turned.since)
    found = unpaid.of_everyone(deployment, first, moment, progress("looking who pays", as_json))
    if as_json:
        _say_switch(deployment, turned, as_json, found=found)
        return
    _say_switch(deployment, turned, as_json)
    for one in found.unpaid:
        whose = named(one.customers, len(one.customers), _MOST_NAMED)
        are = "is" if one.hours == 1 else "are"
        out.print(f"{_hours(one.hours)} since {first} {are} billed to nobody, {one.reason}: {whose}")
    if found.not_known:
        out.print(f"whether somebody pays for what is posted is not known: {found.not_known}")
    elif not found.is_all:
        out.print(f"of the first {found.looked_at:,} customers; 'metering doctor' says more once each was looked at")


@on_deployment(posting_app, "off")
def posting_off(connect: Connect, as_json: Json = False) -> None:
    """Post nothing more for now; counting and closing go on, and what waits is posted when it is on again."""
    deployment = connect()
    turned = posting.turn_off(deployment, who=deployment.who(), now=deployment.gateway_clock(now()))
    _say_switch(deployment, turned, as_json)


@on_deployment(posting_app, "status")
def posting_status(connect: Connect, as_json: Json = False) -> None:
    """Show whether usage is posted, since which hour, who turned it, and how much waits."""
    deployment = connect()
    _say_switch(deployment, deployment.switch.read(), as_json)


def _say_switch(deployment: Deployment, switch: Switch, as_json: bool, *, found: unpaid.Found | None = None) -> None:
    waiting, before = posting.waiting(deployment), posting.before_posting(deployment, switch)
    at = datetime.fromtimestamp(switch.at, UTC).isoformat() if switch.at else None
    shown: dict[str, Any] = {
        "on": switch.on,
        "since": switch.since or None,
        "who": switch.who or None,
        "at": at,
        "waiting": waiting,
    }
    shown["before_posting"] = before
    if found is not None:
        shown["unpaid"] = [asdict(one) for one in found.unpaid]
        shown["unpaid_not_known"] = found.not_known or None
    if as_json:
        print_json(shown)
        return
    if switch.on:
        out.print(f"posting is on: usage from {switch.since} on is billed")
    elif switch.since:
        out.print(f"posting is off: usage from {switch.since} on is posted when it is turned on")
    else:
        out.print("posting is off, and never was on: nothing is billed until 'metering posting on'")
    if switch.who:
        out.print(f"turned by {switch.who} at {at}")
    out.print(f"{_hours(waiting, 'waits', 'wait', more=waiting >= posting.MOST_WAITING)} to be posted")
    if before:
        out.print(f"{before_posting(before, switch.since)}")


def _hours(number: int, does: str = "", do: str = "", *, more: bool = False) -> str:
    """Say how many customers' hours there are, and what each, or all of them, do."""
    return count(number, f"customer's hour {does}".strip(), f"customers' hours {do}".strip(), more=more)


def before_posting(hours: int, since: str) -> str:
    """Say how many customers' hours are from before posting began, and what bills them."""
    return (
        f"{_hours(hours, 'is', 'are', more=hours >= MOST_COUNTED)} from before posting began with {since} and "
        f"{'is' if hours == 1 else 'are'} never billed, unless 'metering posting on' is given an earlier hour by "
        "--since"
    )


@on_deployment(rejected_app, "list")
def rejected_list(connect: Connect, customer_id: Whose = "", most: Most = None, as_json: Json = False) -> None:
    """List the totals that Stripe rejected, with Stripe's own words."""
    deployment = connect()
    if customer_id:
        known_customer(deployment.ledger, customer_id)
    rejections, is_more = first_of(posting.rejections(deployment, customer_id), most)
    if as_json:
        print_json([asdict(rejection) for rejection in rejections])
        return
    table(
        ("customer", "metric", "hour", "quantity", "reason"),
        [
            (rejection.customer, rejection.metric, rejection.hour, f"{rejection.quantity:,}", rejection.reason)
            for rejection in rejections
        ],
        "total",
        way_on=OTHERS * is_more,
    )


@on_deployment(rejected_app, "retry")
def rejected_retry(
    connect: Connect,
    customers: Annotated[list[str] | None, typer.Argument(metavar="CUSTOMER", help="Whose totals.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every customer's.")] = False,
    as_json: Json = False,
) -> None:
    """Have rejected totals posted again, once the cause is mended at Stripe; each gets the next revision."""
    if bool(customers) == everything:
        raise typer.BadParameter("name the customers, or give --all for every one")
    deployment = connect()
    names = customers or sorted(deployment.ledger.rows.rejected())
    for name in names:
        known_customer(deployment.ledger, name)
    hours = posting.retry(deployment, names)
    if as_json:
        print_json({"hours": hours})
        return
    when = "at the next tick, or by 'metering close'"
    out.print(f"{_hours(hours, 'is', 'are')} posted again {when}" if hours else "nothing to change")


@on_deployment(app, "reconcile")
def reconcile(
    connect: Connect,
    customer_id: Annotated[
        str | None, typer.Argument(metavar="CUSTOMER", help="One customer; all if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare counters, ledger and Stripe, and post again what differs.

    Hour by hour for the last two days, and where a day differs further back, its hours. Of all customers only what
    differs is shown. Exits with 1 if a difference stays, or Stripe does not say what it holds of somebody. Stripe may
    take some minutes to show what was posted.
    """
    deployment = connect()
    only = known_customer(deployment.ledger, customer_id) if customer_id else None
    on = deployment.switch.read().on
    if on:
        posting.carry(deployment, now=now())
    looked = posting.reconcile(deployment, only, now=now(), progress=progress("asking Stripe", as_json))
    staying = [row for row in looked.rows if row.difference and (on or row.what != NOT_POSTED)]
    if as_json:
        print_json(
            {
                "posting": on,
                "compared": looked.compared,
                "differing": len(staying),
                "rows": [asdict(row) | {"difference": row.difference} for row in looked.rows],
                "not_compared": looked.odd,
                "reads": looked.reads,
                "unpaid": looked.unpaid,
            }
        )
    else:
        if looked.rows:
            _show_rows(looked.rows)
        for name, answer in looked.odd.items():
            err.print(f"{name} is not compared, since Stripe answers: {answer}")
        err.print(
            f"{count(looked.compared, 'total')} compared by {count(looked.reads, 'read')} at Stripe, "
            f"{len(staying):,} differ" + ("" if on else "; posting is off") + _said_unpaid(looked.unpaid, only)
        )
    if staying or looked.odd:
        raise typer.Exit(1)


def _said_unpaid(unpaid: Mapping[str, int], only: Customer | None) -> str:
    """Say what nobody pays although nothing differs; of all customers, what the daily looks found last (I9)."""
    if not unpaid:
        return ""
    why = ", ".join(f"{reason} ({number:,})" for reason, number in sorted(unpaid.items()))
    if only:
        return f"; nobody pays for {count(sum(unpaid.values()), 'total')}: {why}"
    return f"; nobody pays for {_hours(sum(unpaid.values()))}, as found last: {why}; see 'metering doctor'"


def _show_rows(rows: list[posting.Row]) -> None:
    table(
        ("customer", "metric", "hour", "counted", "ledger", "Stripe", "difference", "state", ""),
        [
            (
                row.customer,
                row.metric,
                row.hour,
                f"{row.counted:,}",
                f"{row.ledger:,}",
                f"{row.stripe:,}",
                f"{row.difference:+,}" if row.difference else "",
                row.state,
                ", ".join(filter(None, (row.what, row.unpaid and f"nobody pays: {row.unpaid}"))),
            )
            for row in rows
        ],
    )
