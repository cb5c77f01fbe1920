"""What was used, and closing it."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any, Final, assert_never

import typer

from infra.cli.posting import before_posting
from infra.cli.shared import (
    Connect,
    Json,
    err,
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
from infra.operate import posting, usage
from infra.operate.usage_lines import COUNTED, Line
from metering.model.periods import LATEST_RECORD, Hour, due_before
from metering.portal.reading import By
from metering.stores.marks import MOST_COUNTED

app: Final = typer.Typer()
unbilled_app: Final = group("Usage that Stripe has and nobody pays: doctor names who, usage shows why.")
app.add_typer(unbilled_app, name="unbilled")


@on_deployment(app, "usage")
def usage_command(
    connect: Connect,
    customer_id: Annotated[
        str | None, typer.Argument(metavar="[CUSTOMER]", help="One customer; all if left out.")
    ] = None,
    first: Annotated[
        Hour | None,
        typer.Option(
            "--from",
            parser=hour,
            metavar="HOUR",
            help="The first hour; if left out 24 hours back, with --by day seven days, with --by month this month.",
        ),
    ] = None,
    end: Annotated[
        Hour | None,
        typer.Option("--to", parser=hour, metavar="HOUR", help="The hour to stop before; now if left out."),
    ] = None,
    by: Annotated[By, typer.Option(help="Add up by this period (UTC).")] = By.HOUR,
    by_dimension: Annotated[
        bool, typer.Option("--by-dimension", help="Split the metrics that have a dimension by its values.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what was used: counted so far (also in open hours), and its state in the ledger.

    States: OPEN (counted, its hour is not closed), PENDING (to be posted), POSTED (Stripe has it), HELD (kept: no
    customer, no Stripe customer, or too old), REJECTED (Stripe said no). The reason stands beside it, also why nobody
    pays for what is POSTED: by the customer's subscriptions as Stripe showed them at the last look, once a day.
    """
    if first and end:
        _check_span(first, end)
    deployment, moment = connect(), now()
    running = Hour.containing(deployment.gateway_clock(moment))
    end = end or running.next()
    first = first or _first(by, min(end, running.next()))
    _check_span(first, end)
    if customer_id is not None:
        known_customer(deployment.ledger, customer_id)
    reasons = usage.Reasons(deployment.ledger, deployment.changes, deployment.switch.read(), moment)
    uniques = usage.MonthOnce(deployment.uniques.claims, deployment.ledger.holders)
    report = usage.Report(deployment.counters, uniques, deployment.ledger, customer_id, by_dimension, reasons)
    lines = report.lines(first, end, by=by, now=moment, progress=progress("reading", as_json))
    if as_json:
        print_json([_usage_json(line, split=by_dimension) for line in lines])
        return
    last = min(end, Hour.containing(moment + LATEST_RECORD).next())
    err.print(f"from {first} up to {last} (UTC)" if first < last else f"{first} is still to come")
    _show(lines, by_dimension=by_dimension)


def _show(lines: Iterable[Line], *, by_dimension: bool) -> None:
    split = ("value",) if by_dimension else ()
    table(
        ("period", "customer", "key", "metric", *split, "quantity", "state", "reason"),
        [
            (
                line.period,
                line.customer or "(none)",
                line.key or ("-" if line.kind == COUNTED else line.kind),
                line.metric,
                *([line.value] if by_dimension else []),
                f"{line.quantity:,}",
                line.state,
                line.reason,
            )
            for line in lines
        ],
    )


def _check_span(first: Hour, end: Hour) -> None:
    if first >= end:
        raise typer.BadParameter(f"--from must be before --to, got {first} and {end}")


def _first(by: By, end: Hour) -> Hour:
    """Return where a report that ends so begins: the last 25 hours with the running one, seven days, or a month."""
    last = Hour(end.number - 1)
    match by:
        case By.HOUR:
            return Hour(last.number - 24)
        case By.DAY:
            return Hour((last.number // 24 - 6) * 24)
        case By.MONTH:
            return last.month_begin
        case _:
            assert_never(by)


def _usage_json(line: Line, *, split: bool) -> dict[str, Any]:
    shown = {**asdict(line), "customer": line.customer or None, "key": line.key or None, "value": line.value or None}
    shown["reason"] = line.reason or None
    if not split:
        del shown["value"]
    return shown


@on_deployment(unbilled_app, "accept")
def unbilled_accept(
    connect: Connect,
    customer_id: Annotated[str, typer.Argument(metavar="CUSTOMER")],
    reason: Annotated[str, typer.Option(help="Why; usage shows it beside the hours.")],
    before: Annotated[
        Hour | None,
        typer.Option(parser=hour, metavar="HOUR", help="The hour to stop before; the current one if left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say that a customer need not pay for what nobody pays so far: it is no longer counted, nor named by doctor.

    Nothing is billed or changed by it. The count is without it once the next daily round of looks is over.
    """
    moment = now()
    deployment = connect()
    known_customer(deployment.ledger, customer_id)
    before = before or Hour.containing(moment)
    accepted = usage.accept(deployment, customer_id, before, reason=reason, now=moment)
    if as_json:
        print_json({"customer": customer_id, "before": accepted.before, "reason": reason, "who": accepted.who})
        return
    out.print(f"what nobody pays of {customer_id} before {accepted.before} is accepted")


@on_deployment(app, "close")
def close(connect: Connect, as_json: Json = False) -> None:
    """Close what is due now, as the schedule would, and say what was done."""
    deployment = connect()
    with err.status("closing what is due"):
        report = deployment.close()
        switch, due = deployment.switch.read(), due_before(now())
        before = posting.before_posting(deployment, switch)
        marks = deployment.counters.marks.late_count(due)
    report |= {"before_posting": before, "marks_left": marks}
    if as_json:
        print_json(report)
        return
    for what, text in {
        "written": "hours written into the ledger",
        "closed": "hours closed",
        "closed_again": "late marks dealt with",
        "posted": "totals that Stripe accepted",
        "pending": "totals that are still to be posted",
        "rejected": "totals that Stripe rejected",
        "held": "totals held, for want of a Stripe customer or as too old",
        "unmapped": "rows written for keys that belong to no customer",
        "behind": "due hours that the next run closes, if nothing of them is pending then",
    }.items():
        value = report[what]
        out.print(f"{len(value) if isinstance(value, list) else value:>8}  {text}")
    if marks:
        out.print(f"{marks:>8,}  late marks that the next runs deal with{', or more' * (marks >= MOST_COUNTED)}")
    if before:
        out.print(before_posting(before, switch.since))
    if not report["posting"]:
        out.print("posting is off: 'metering posting on' turns it on")
    for reason, count in report["reasons"].items():
        out.print(f"{count:>8}  wait because: {reason}")
