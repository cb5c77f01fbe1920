"""What a customer is going to pay."""

from typing import Annotated, Final

import typer

from infra.cli.shared import Connect, Json, err, known_customer, on_deployment, out, print_json, table
from infra.operate.invoice_lines import unit_amount
from infra.operate.previewing import as_it_would_be, preview
from metering.model.prices import in_money

app: Final = typer.Typer()


@on_deployment(app, "invoice")
def invoice(
    connect: Connect,
    customer_id: Annotated[str, typer.Argument(metavar="CUSTOMER")],
    as_json: Json = False,
) -> None:
    """Show Stripe's own preview of a customer's running invoice.

    It holds what was posted so far, some minutes late; fees are those of the next period, which are paid in advance.
    While posting is off, usage is taken from the ledger instead, at the declared prices. With --json, amounts are in
    the currency's smallest unit.
    """
    deployment = connect()
    owner = known_customer(deployment.ledger, customer_id)
    posting = deployment.switch.read().on
    with err.status("asking Stripe"):
        invoiced = preview(deployment.stripe(), owner) | {"posting": posting}
    if not posting:
        invoiced = as_it_would_be(deployment.ledger, deployment.declared_plans, owner, invoiced)
    if as_json:
        print_json(invoiced)
        return
    currency = invoiced["currency"]
    if not posting:
        err.print("posting is off: this is what the ledger holds, at the declared prices")
    period = invoiced["period"]
    out.print(f"{invoiced['customer']}, {', '.join(invoiced['plans'])}, {period['from']} to {period['to']} (UTC)")
    rows = [
        (
            line["price"],
            line["description"],
            "" if line["quantity"] is None else f"{line['quantity']:,}",
            unit_amount(line, currency),
            in_money(line["amount"], currency),
        )
        for line in invoiced["lines"]
    ]
    table(("price", "line", "quantity", "unit amount", "amount"), rows)
    for line in invoiced["lines"]:
        if line["period"] != period:
            out.print(f"{line['price']} is for {line['period']['from']} to {line['period']['to']}")
    out.print(f"total {in_money(invoiced['total'], currency)}")
