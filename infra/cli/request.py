"""What became of one request."""

import re
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import typer

from infra.cli.shared import Connect, Json, err, now, on_deployment, out, print_json
from infra.operate.receipts.receipt import Counted, Receipt, receipt
from infra.operate.receipts.search import MOST_CALLS, WITHIN, Search

app: Final = typer.Typer()


def _moment(text: str) -> datetime:
    """Read an option's moment: ISO 8601 with its zone."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None or not re.match(r"\d{4}-\d\d-\d\dT\d\d", text):
        raise typer.BadParameter(
            f"a moment is written with its zone, 2026-11-22T05:17:30Z or 2026-11-22T06:17:30+01:00; got {text!r}"
        )
    return at


def _span(text: str) -> timedelta:
    """Read an option's span: 45m, 6h."""
    found = re.fullmatch(r"([1-9]\d{0,3})([mh])", text)
    span = timedelta(minutes=int(found[1]) * (60 if found[2] == "h" else 1)) if found else timedelta(0)
    if not timedelta(0) < span <= timedelta(hours=48):
        raise typer.BadParameter(f"write how far to look as 45m or 6h, up to 48h; got {text!r}")
    return span


@on_deployment(app, "request")
def request(
    connect: Connect,
    request_id: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="What the answer's header x-amz-apigw-id says (apigw-requestid, of an HTTP API); at the end, "
            "behind --, if it begins with -.",
        ),
    ],
    at: Annotated[
        datetime, typer.Option("--at", parser=_moment, metavar="TIME", help="When it was made: 2026-11-22T05:17:30Z.")
    ],
    within: Annotated[
        timedelta | None,
        typer.Option("--within", parser=_span, metavar="SPAN", help="How far around that to look: 45m, 6h (15m)."),
    ] = None,
    calls: Annotated[
        int, typer.Option(min=1, max=5000, help="How many calls of CloudWatch Logs this may take.")
    ] = MOST_CALLS,
    as_json: Json = False,
) -> None:
    """Tell what became of one request: billed or not, for which metrics, in which hour and state, for whom, or why not.

    Its line is looked for in the access log's group, in those of connections and in the archive, around the moment that
    is given; how much of them was read is told. Exits with 1 if no line of it was found.
    """
    moment = now()
    search = Search(connect(), request_id, at, within or WITHIN, calls)
    with err.status("looking for its line"):
        found = receipt(search.deployment, search, moment)
    if as_json:
        print_json(_json(found))
    else:
        for line in _words(found):
            out.print(line)
    if not found.place:
        raise typer.Exit(1)


def _json(found: Receipt) -> dict[str, Any]:
    empty = {"place", "connection", "hour", "hour_state", "key", "customer", "why"}
    shown = {name: value or None if name in empty else value for name, value in asdict(found).items()}
    del shown["said"]
    return {
        **shown,
        "found": bool(found.place),
        "billed": found.is_billed,
        "at": found.at and f"{found.at:%Y-%m-%dT%H:%M:%SZ}",
        "call": found.said or None,
        "searched": [
            asdict(place) | {"first": f"{place.first:%Y-%m-%dT%H:%M:%S%z}", "end": f"{place.end:%Y-%m-%dT%H:%M:%S%z}"}
            for place in found.searched
        ],
    }


def _words(found: Receipt) -> list[str]:
    """Say it in sentences."""
    lines = []
    if found.place:
        at = f", at {found.at:%Y-%m-%dT%H:%M:%SZ}" if found.at else ""
        lines.append(f"{found.said or 'a line that names it'}: in {found.place}{at}")
    whom = f"billed to {found.customer} (key {found.key})" if found.is_billed else "not billed"
    if found.customer and not found.is_billed:
        whom += f" to {found.customer} (key {found.key})"
    lines.append(f"{whom}: {found.why}" if found.why else whom)
    if found.hour:
        lines.append(f"hour {found.hour}: {found.hour_state}")
    lines += [_counted(one) for one in found.metrics]
    for place in found.searched:
        window = f"{place.first:%Y-%m-%dT%H:%M:%S%z} to {place.end:%Y-%m-%dT%H:%M:%S%z}"
        lines.append(
            f"looked through {place.place}, {window}: {place.read}{f'; left out: {place.left}' * bool(place.left)}"
        )
    lines += found.notes
    if found.is_billed:
        lines.append(
            f"whether every line of the hour was counted: metering recount {found.customer} --hour {found.hour}"
        )
    return lines


def _counted(one: Counted) -> str:
    state = f", {one.state}" if one.state else ""
    reason = f" ({one.reason})" if one.reason else ""
    corrected = f"; the hour was corrected by {'; '.join(one.corrections)}" if one.corrections else ""
    return f"    {one.metric} {one.quantity:,}, {one.how}{state}{reason}{corrected}"
