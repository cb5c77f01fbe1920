"""What was used, and closing it."""

from itertools import compress
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
from infra.cli.streams import goes_into_a_pipe, print_json_as_it_comes, print_rows_as_they_come
from infra.operate import posting, usage
from infra.operate.deployment import Deployment
from infra.operate.usage_lines import COUNTED, Line
from infra.operate.usage_of_all import Span
from infra.operate.words import count
from metering.model.periods import LATEST_RECORD, Hour, due_before
from metering.portal.reading import By
from metering.stores.marks import MOST_COUNTED

app: Final = typer.Typer()
MOST_SHOWN: Final = 20
"""Customers that a terminal is shown, where nobody says how many."""

First = Annotated[
    Hour | None,
    typer.Option(
        "--from",
        parser=hour,
        metavar="HOUR",
        help="The first hour; if left out 24 hours back, with --by day seven days, with --by month this month.",
    ),
]

Top = Annotated[
    int | None,
    typer.Option(
        "--top",
        min=1,
        metavar="NUMBER",
        help="Without CUSTOMER, add up the keys of each customer, and show so many, the largest first; on a terminal "
        f"{MOST_SHOWN} if left out.",
    ),
]

unbilled_app: Final = group("Usage that Stripe has and nobody pays: doctor names who, usage shows why.")
app.add_typer(unbilled_app, name="unbilled")


@on_deployment(app, "usage")
def usage_command(
    connect: Connect,
    customer_id: Annotated[
        str | None, typer.Argument(metavar="CUSTOMER", help="One customer; all if left out.")
    ] = None,
    first: First = None,
    end: Annotated[
        Hour | None,
        typer.Option("--to", parser=hour, metavar="HOUR", help="The hour to stop before; now if left out."),
    ] = None,
    by: Annotated[
        By | None,
        typer.Option(help="Add up by this period (UTC): by hour if left out, and what --top shows as a whole."),
    ] = None,
    most: Top = None,
    by_dimension: Annotated[
        bool, typer.Option("--by-dimension", help="Split the metrics that have a dimension by its values.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what was used: counted so far (also in open hours), and its state in the ledger.

    States: OPEN (counted, its hour is not closed), PENDING (to be posted), POSTED (Stripe has it), HELD (kept: no
    customer, no Stripe customer, or too old), REJECTED (Stripe said no). The reason stands beside it, also why nobody
    pays for what is POSTED: by the customer's subscriptions as Stripe showed them at the last look, once a day.

    Without CUSTOMER, of everyone: on a terminal the largest alone, by the first metric that app.py declares. Into a
    pipe or a file, and with --json, all: keys of nobody, then one customer after the other, as they are read.
    """
    if first and end:
        _check_span(first, end)
    if customer_id is not None and most is not None:
        raise typer.BadParameter("--top is of everyone: leave it out, or CUSTOMER")
    deployment, moment = connect(), now()
    running = Hour.containing(deployment.gateway_clock(moment))
    end = end or running.next()
    first = first or _first(by or By.HOUR, min(end, running.next()))
    _check_span(first, end)
    if customer_id is not None:
        known_customer(deployment.ledger, customer_id)
    reasons = usage.Reasons(deployment.ledger, deployment.changes, deployment.switch.read(), moment)
    uniques = usage.MonthOnce(deployment.uniques.claims, deployment.ledger.holders)
    report = usage.Report(deployment.counters, uniques, deployment.ledger, customer_id, by_dimension, reasons)
    if customer_id is None:
        _show_everyone(deployment, report, report.span(first, end, moment), by, most, as_json=as_json)
        return
    lines = report.lines(first, end, by=by or By.HOUR, now=moment, progress=progress("reading", as_json))
    if as_json:
        print_json([_usage_json(line, split=by_dimension) for line in lines])
        return
    last = min(end, Hour.containing(moment + LATEST_RECORD).next())
    err.print(f"from {first} up to {last} (UTC)" if first < last else f"{first} is still to come")
    table(_columns(split=by_dimension), (_row(line, split=by_dimension) for line in lines))


def _show_everyone(
    deployment: Deployment, report: usage.Report, span: Span, by: By | None, most: int | None, *, as_json: bool
) -> None:
    """Say how much will be read, read it, and show the largest, or all of it as it comes."""
    with err.status("looking who there is"):
        scope = report.everyone.scope(span)
    nobodys = f" and {count(len(scope.keys), 'key')} of nobody" if scope.keys else ""
    how_much = f"{count(scope.hours, 'hour')} of {count(len(scope.customers), 'customer')}{nobodys}"
    if not as_json:
        covered = f"from {span.first} up to {span.end} (UTC)" if scope.hours else f"{span.first} is still to come"
        err.print(f"{how_much}: {covered}")
    if most is None and out.is_terminal and not as_json:
        most = MOST_SHOWN
    whole = f"{span.first}/{span.end}" if most and by is None else ""
    period = (lambda _: whole) if whole else (by or By.HOUR).period
    reading = progress(f"reading {how_much}", as_json or goes_into_a_pipe())
    if most:
        found, of_all = report.everyone.largest(scope, span, period, reading, most, deployment.metrics)
        if as_json:
            print_json([_usage_json(line, split=report.split) for line in found])
            return
        shown = [not (name == "period" and whole) for name in _columns(split=report.split)]
        rows = (_row(line, split=report.split) for line in found)
        table(compress(_columns(split=report.split), shown), (compress(row, shown) for row in rows))
        if found:
            largest, more = (f"the {most:,} largest", "--top more, ") if most < of_all else ("all", "")
            err.print(
                f"{largest} of {of_all:,} that used something, by {deployment.metrics[0]}: "
                f"'metering usage CUSTOMER' shows one by key and hour, {more}a pipe or --json all"
            )
        return
    parts = report.everyone.parts(scope, span, period, reading)
    if as_json:
        print_json_as_it_comes([_usage_json(line, split=report.split) for line in part] for part in parts)
        return
    columns = _columns(split=report.split)
    widths = {"period": 13, "customer": max(map(len, scope.customers), default=0), "quantity": 15, "state": 8}
    widths["metric"] = max(map(len, deployment.metrics))
    as_rows = ([_row(line, split=report.split) for line in part] for part in parts)
    if not print_rows_as_they_come(columns, as_rows, [widths.get(name, 0) for name in columns]):
        err.print("nothing there")


def _columns(*, split: bool) -> tuple[str, ...]:
    value = ("value",) if split else ()
    return ("period", "customer", "key", "metric", *value, "quantity", "state", "reason")


def _row(line: Line, *, split: bool) -> tuple[str, ...]:
    return (
        line.period,
        line.customer or "(none)",
        line.key or ("-" if line.kind == COUNTED else line.kind),
        line.metric,
        *((line.value,) if split else ()),
        f"{line.quantity:,}",
        line.state,
        line.reason,
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
    return {
        "period": line.period,
        "customer": line.customer or None,
        "key": line.key or None,
        "metric": line.metric,
        **({"value": line.value or None} if split else {}),
        "quantity": line.quantity,
        "state": line.state,
        "reason": line.reason or None,
        "kind": line.kind,
    }


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
    due = due_before(now())
    late = f", and {count(deployment.counters.marks.late_count(due), 'late mark')}"
    with err.status(f"closing what is due{late}"):
        report = deployment.close()
        switch = deployment.switch.read()
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
    for reason, number in report["reasons"].items():
        out.print(f"{number:>8}  wait because: {reason}")
