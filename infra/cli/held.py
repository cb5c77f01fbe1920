"""Differences of invoices that wait for a person."""

from dataclasses import asdict
from typing import Annotated, Final

import typer

from infra.cli.posting import OTHERS, Whose
from infra.cli.shared import (
    Connect,
    Json,
    Most,
    first_of,
    group,
    known_customer,
    now,
    on_deployment,
    out,
    print_json,
    table,
)
from infra.operate import held_invoices
from infra.operate.held_invoices import Decision

held_app: Final = group("Differences of invoices that no late record explains, and what is to be done about them.")


@on_deployment(held_app, "list")
def held_list(connect: Connect, customer_id: Whose = "", most: Most = None, as_json: Json = False) -> None:
    """List the invoices that bill something else than was used, for no reason that is known, or cannot be read."""
    deployment = connect()
    if customer_id:
        known_customer(deployment.ledger, customer_id)
    found, is_more = first_of(held_invoices.held_invoices(deployment, customer_id), most)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    table(
        ("customer", "invoice", "metric", "from", "to", "invoiced", "difference", "reason"),
        [
            (
                one.customer,
                one.invoice,
                one.metric,
                one.first,
                one.end,
                f"{one.invoiced:,}",
                f"{one.difference:+,}",
                one.reason,
            )
            for one in found
        ],
        "difference",
        way_on=OTHERS * is_more,
    )


HeldInvoice = Annotated[str, typer.Argument(metavar="INVOICE", help="As 'metering held list' shows it.")]
HeldMetric = Annotated[str, typer.Argument(metavar="METRIC")]
HeldCustomer = Annotated[str, typer.Argument(metavar="CUSTOMER")]
Why = Annotated[str, typer.Option("--reason", help="Why; it stands in the ledger.")]


@on_deployment(held_app, "carry")
def held_carry(
    connect: Connect,
    customer_id: HeldCustomer,
    invoice: HeldInvoice,
    metric: HeldMetric,
    reason: Why,
    as_json: Json = False,
) -> None:
    """Bill a difference after all, in the current hour."""
    _decide(connect, customer_id, invoice, metric, Decision("carry", reason, now()), as_json)


@on_deployment(held_app, "leave")
def held_leave(
    connect: Connect,
    customer_id: HeldCustomer,
    invoice: HeldInvoice,
    *,
    metric: Annotated[
        str, typer.Argument(metavar="METRIC", help="Leave it out for an invoice that cannot be read.")
    ] = "",
    reason: Why,
    as_json: Json = False,
) -> None:
    """Bill a difference to nobody, for good: the invoice is right as it is, or it cannot be read.

    Of one that cannot be read, nothing is compared any more, and what comes late to its hours is not carried.
    """
    if metric:
        _decide(connect, customer_id, invoice, metric, Decision("leave", reason, now()), as_json)
        return
    deployment = connect()
    known_customer(deployment.ledger, customer_id)
    held_invoices.leave_unread(deployment, customer_id, invoice, reason=reason, now=now())
    if as_json:
        print_json({"amount": None, "decision": "leave"})
        return
    out.print(f"nothing of {invoice} is compared any more")


def _decide(
    connect: Connect,
    customer_id: str,
    invoice: str,
    metric: str,
    decision: Decision,
    as_json: bool,
) -> None:
    deployment = connect()
    known_customer(deployment.ledger, customer_id)
    amount = held_invoices.decide(deployment, customer_id, invoice, metric, decision)
    if as_json:
        print_json({"amount": amount, "decision": decision.what})
        return
    where = "are billed in the current hour" if decision.what == "carry" else "are billed to nobody"
    out.print(f"{amount:+,} {metric} of {invoice} {where}")
