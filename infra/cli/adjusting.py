"""Corrections of what is billed, by hand: making one, listing them, and taking one back."""

from dataclasses import asdict
from itertools import islice
from typing import Annotated, Final

import typer

from infra.cli.shared import (
    Connect,
    Json,
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
from infra.operate.adjusting import Adjusted, adjust, refuse_never_billed
from infra.operate.adjustments import adjustments, undo
from infra.operate.deployment import Deployment, OperatorError
from metering.model.periods import COUNTER_LIFE, Hour

app: Final = typer.Typer()
adjustments_app: Final = group("What was corrected by hand, how it stands, and taking it back.")
app.add_typer(adjustments_app, name="adjustments")


def one_hour(text: str) -> Hour:
    """Read the hour that is adjusted; a day is none, though other options take it for its first hour."""
    if "T" not in text:
        raise typer.BadParameter(f"an adjustment is of one hour, written 2026-11-22T05 (UTC); got {text!r}")
    return hour(text)


OfCustomer = Annotated[str, typer.Argument(metavar="CUSTOMER")]
OfMetric = Annotated[str, typer.Argument(metavar="METRIC")]
OneHour = Annotated[Hour, typer.Argument(metavar="HOUR", parser=one_hour, help="Such as 2026-11-22T05 (UTC).")]
BelowZero = Annotated[
    bool, typer.Option("--below-zero", help="Let the hour be less than nothing: later hours are lowered by the rest.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]


@on_deployment(app, "adjust")
def adjust_command(
    connect: Connect,
    customer_id: OfCustomer,
    metric: OfMetric,
    when: OneHour,
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger beside the amount.")],
    to: Annotated[int | None, typer.Option("--to", metavar="N", help="What is to be billed for the hour.")] = None,
    by: Annotated[int | None, typer.Option("--by", metavar="N", help="What is added to it; may be negative.")] = None,
    below_zero: BelowZero = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Correct what is billed for an hour, beside what was counted: a later late record changes neither.

    The hour is closed again at the next tick; if an invoice has billed it already, the difference is carried into the
    current hour. An hour of which nothing is ever billed is refused: one before posting began, or before the customer's
    first subscription.
    """
    if (to is None) == (by is None):
        raise typer.BadParameter("give either --to or --by")
    deployment = connect()
    _check_known(deployment, customer_id, metric)
    moment = now()
    refuse_never_billed(deployment, customer_id, metric, when, moment)
    done = adjust(
        deployment,
        customer_id,
        metric,
        when,
        to=to,
        by=by,
        reason=reason,
        who=deployment.who(),
        now=moment,
        below_zero=below_zero,
        dry_run=dry_run,
    )
    _say(done, dry_run=dry_run, as_json=as_json)


def _check_known(deployment: Deployment, customer_id: str, metric: str) -> None:
    known_customer(deployment.ledger, customer_id)
    if metric not in deployment.metrics:
        raise OperatorError(f"there is no metric {metric!r}: write one of {', '.join(deployment.metrics)}")


def _said(done: Adjusted, *, dry_run: bool) -> str:
    what = f"{done.customer}'s {done.metric} of {done.hour}: {done.before:,} -> {done.after:,} ({done.amount:+,})"
    if not done.amount:
        return f"{what}: nothing to change"
    if dry_run:
        return f"{what}: this would be done"
    return f"{what}: the hour is closed again at the next tick, or by 'metering close'"


def _say(done: Adjusted, *, dry_run: bool, as_json: bool) -> None:
    """Say what was done, and what of the hour counts in another one, whatever this one is adjusted to."""
    if as_json:
        print_json(asdict(done))
        return
    out.print(_said(done, dry_run=dry_run))
    for moved in done.elsewhere:
        out.print(
            f"{moved.amount:+,} of {done.hour} were carried to {moved.hour} before, and count there or later, beside "
            f"this: see 'metering adjustments list {done.customer} --from {done.hour}'"
        )


@on_deployment(adjustments_app, "list")
def adjustments_list(
    connect: Connect,
    customer_id: Annotated[
        str | None, typer.Argument(metavar="CUSTOMER", help="One customer; all if left out.")
    ] = None,
    first: Annotated[
        Hour | None,
        typer.Option("--from", parser=hour, metavar="HOUR", help="The first hour; 62 days back if left out."),
    ] = None,
    end: Annotated[
        Hour | None,
        typer.Option("--to", parser=hour, metavar="HOUR", help="The hour to stop before; now if left out."),
    ] = None,
    most: Annotated[int | None, typer.Option(min=1, help="How many to show at most; all if left out.")] = None,
    as_json: Json = False,
) -> None:
    """List what was corrected by hand, or by a recount, with who did so and why, in the order of hours.

    States: UNDONE (another is its opposite), VOID (made against another count than there is now), OPEN (its hour is
    still to be closed with it), and those of 'metering usage' for what is billed of the hour with it.
    """
    deployment, moment = connect(), now()
    first = first or Hour.containing(moment - COUNTER_LIFE)
    end = end or Hour.containing(moment).next()
    if first >= end:
        raise typer.BadParameter(f"--from must be before --to, got {first} and {end}")
    ledger = deployment.ledger
    names = [known_customer(ledger, customer_id).id] if customer_id else sorted(ledger.holders.customer_ids())
    read = adjustments(deployment, names, first, end, progress=progress("reading", as_json))
    found = [*islice(read, most + 1 if most else None)]
    shown = found[:most]
    if as_json:
        print_json([one.as_json() for one in shown])
        return
    table(
        ("customer", "metric", "hour", "id", "amount", "state", "reason, who and when"),
        [
            (
                one.customer,
                one.metric,
                one.hour,
                one.id,
                f"{one.amount:+,}",
                one.state,
                _why(one.reason, one.who, one.at),
            )
            for one in shown
        ],
        "adjustment",
        which=f" of hours from {first} up to {end} (UTC)",
        way_on="a larger --most, or CUSTOMER" if len(found) > len(shown) else "",
    )


def _why(reason: str, who: str, at: str) -> str:
    """Return why, who made it (the end of an ARN: JSON has all of it) and when."""
    return f"{reason} ({who.rpartition(':')[2]}, {at})"


@on_deployment(adjustments_app, "undo")
def adjustments_undo(
    connect: Connect,
    customer_id: OfCustomer,
    metric: OfMetric,
    when: OneHour,
    known_as: Annotated[str, typer.Argument(metavar="ID", help="As 'metering adjustments list' shows it.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger beside both.")],
    below_zero: BelowZero = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Take an adjustment back, once, by another of the opposite amount: both stand in the ledger.

    The hour is closed again at the next tick; if an invoice has billed it already, the difference is carried into the
    current hour.
    """
    deployment = connect()
    known_customer(deployment.ledger, customer_id)
    done = undo(
        deployment,
        customer_id,
        metric,
        when,
        known_as,
        reason=reason,
        who=deployment.who(),
        now=now(),
        below_zero=below_zero,
        dry_run=dry_run,
    )
    _say(done, dry_run=dry_run, as_json=as_json)
