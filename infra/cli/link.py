"""What customers see: links to their usage, and the key that signs them."""

from typing import Annotated, Final

import typer

from infra.cli.customers import customers_app
from infra.cli.shared import Connect, Json, err, group, known_customer, now, on_deployment, out, print_json
from infra.operate.portal_access import make_link
from infra.operate.portal_access import rotate_key as rotate
from metering.portal.tokens import Right

portal_app: Final = group("The customers' own view of their usage.")


@on_deployment(customers_app, "link")
def customers_link(
    connect: Connect,
    customer_id: Annotated[str, typer.Argument(metavar="ID")],
    hours: Annotated[int, typer.Option(min=1, max=24, help="For how many hours the link opens the page.")] = 24,
    may: Annotated[
        list[Right] | None,
        typer.Option(help="What may be done besides looking: set the customer's budget, which may stop it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a link that shows a customer its usage and what it costs, in a browser.

    Whoever has the link can open this one customer's page until it ends, and can change nothing unless --may says so. A
    page that was opened goes on for eight hours.
    """
    deployment = connect()
    customer = known_customer(deployment.ledger, customer_id)
    link = make_link(deployment, customer.id, hours=hours, now=now(), may=may or ())
    ends = link.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    if as_json:
        print_json({"customer": customer.id, "url": link.url, "expires_at": ends, "may": sorted(may or ())})
        return
    out.print(link.url)
    rights = "; whoever has it may set the budget" if may else ""
    err.print(
        f"it opens the page until {ends}, for eight hours each time{rights}; give it to {customer.name} and to nobody "
        "else"
    )


@on_deployment(portal_app, "rotate-key")
def rotate_key(
    connect: Connect,
    end_links: Annotated[
        bool, typer.Option("--end-links", help="End the links that were given out before, as when the key got known.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put another key that signs the links. Those that were given out before go on to work until they end.

    With --end-links none of them works any more, within five minutes.
    """
    rotate(connect(), times=2 if end_links else 1)
    if as_json:
        print_json({"rotated": True, "links_ended": end_links})
        return
    out.print(
        "links that were given out before end within five minutes"
        if end_links
        else "another key signs from now on; links that were given out before go on to work until they end"
    )
