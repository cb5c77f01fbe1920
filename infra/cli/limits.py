"""Limits of customers: set, raised, cleared, listed, shown and tried."""

from functools import partial
from typing import Annotated, Any, Final, Literal

import typer
from msgspec import to_builtins

from infra.cli.customers import customers_app
from infra.cli.shared import (
    Connect,
    Json,
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
from infra.operate.deployment import Deployment
from infra.operate.limits import setting
from infra.operate.limits.bound import overrun_of
from infra.operate.limits.measuring import Probe, call
from infra.operate.limits.setting import Limited, in_words, items_of, limited, moment
from infra.operate.limits.showing import Shown, Standing, standing
from infra.operate.limits.trying import MOST_DAYS, Trying
from infra.operate.words import count
from metering.limits.usage_plans import UsagePlans
from metering.model.limits import SPEND, Level, OfCustomer, Reason, written
from metering.model.periods import Hour
from metering.model.prices import in_money

limits_app: Final = group("How much customers may use, what acted, and why keys are closed.")

MOST_TRIED: Final = 1000
"""Lines of what limits would have done that are shown."""

Customer = Annotated[str, typer.Argument(metavar="CUSTOMER")]
Metric = Annotated[str, typer.Argument(metavar="METRIC|spend", help="A metric's name, or 'spend' for money.")]
Per = Annotated[
    Literal["hour", "day", "month", "period"],
    typer.Option(help="The window: hour, day or month (UTC), or the subscription's own period."),
]
OfWindow = Annotated[
    Literal["hour", "day", "month", "period"] | None,
    typer.Option("--per", help="The window, if there are several limits of the metric."),
]
Until = Annotated[
    Hour | None,
    typer.Option(parser=hour, metavar="HOUR", help="The hour (UTC) at which it ends; never if left out."),
]
Reason_ = Annotated[str, typer.Option("--reason", help="Why; it stands beside the limit, for the operator.")]


@on_deployment(limits_app, "set")
def limits_set(
    connect: Connect,
    customer_id: Customer,
    metric: Metric,
    stop: Annotated[
        int, typer.Option(metavar="N", help="Units of the metric, or money in the currency's smallest unit.")
    ],
    reason: Reason_,
    per: Per = "period",
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Let a customer stop at a limit of its own, beside its plan's: whichever is reached first acts first.

    The same again changes nothing, another number takes the place of the one before. What was used in the window
    counts, also what was used before this.
    """
    deployment = _connected(connect, customer_id)
    wanted = _wanted(deployment, metric, per, stop, until, reason)
    _say(deployment, customer_id, setting.set_limit(deployment, customer_id, wanted), as_json)


@on_deployment(limits_app, "raise")
def limits_raise(
    connect: Connect,
    customer_id: Customer,
    metric: Metric,
    to: Annotated[int, typer.Option(metavar="N", help="What the customer may use instead; more than in its plan.")],
    reason: Reason_,
    per: OfWindow = None,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Put a larger number in the place of the plan's limit for one customer; its steps and percentages stay.

    Whoever is stopped by it and has used less than that is let in again within seconds. What has acted in the window
    does not act again in it.
    """
    deployment = _connected(connect, customer_id)
    wanted = _wanted(deployment, metric, per or "", to, until, reason)
    _say(deployment, customer_id, setting.raise_limit(deployment, customer_id, wanted), as_json)


@on_deployment(limits_app, "clear")
def limits_clear(
    connect: Connect,
    customer_id: Customer,
    metric: Metric,
    per: OfWindow = None,
    as_json: Json = False,
) -> None:
    """Take back what was set and raised of a metric for a customer: its plan's limits hold again as declared."""
    deployment = _connected(connect, customer_id)
    _say(deployment, customer_id, setting.clear_limits(deployment, customer_id, metric, per or ""), as_json)


@on_deployment(limits_app, "list")
def limits_list(
    connect: Connect,
    after: Annotated[str, typer.Option(metavar="CUSTOMER", help="Begin after this customer, by id.")] = "",
    most: Annotated[int, typer.Option(min=1, max=10_000, help="How many to show at most.")] = 100,
    as_json: Json = False,
) -> None:
    """List the customers that have limits of their own, or whose keys are slowed or stopped, and why."""
    deployment, at = connect(), now()
    with err.status("looking at customers"):
        found, is_more = first_of(limited(deployment, at, after=after), most)
    more = found[-1].customer if is_more else None
    if as_json:
        print_json({"customers": [_limited(one) for one in found], "more_after": more})
        return
    table(
        ("customer", "keys", "why", "own limits"),
        [
            (
                one.customer,
                one.level.name.lower(),
                ", ".join(map(_since, one.reasons)) or ("-" if one.level is Level.OPEN else "about to be opened"),
                ", ".join(map(in_words, one.own)) or "-",
            )
            for one in found
        ],
        "customer",
        way_on=f"--after {more}" * is_more,
    )


@on_deployment(limits_app, "show")
def limits_show(connect: Connect, customer_id: Customer, as_json: Json = False) -> None:
    """Show every limit that applies to a customer, what is used and left of it, what acted, and why keys are closed.

    What is used is as of the moment beside it: at most an hour ago, and near a step within a percent of the limit.
    """
    deployment, at = _connected(connect, customer_id), now()
    shown = standing(deployment, customer_id, at)
    overrun = overrun_of(deployment, customer_id, at) if any(one.stops for one in shown.limits) else None
    if as_json:
        print_json(shown.as_json() | {"overrun": overrun and overrun[0].as_json(overrun[1])})
        return
    _print_standing(shown)
    if overrun:
        bound, delay = overrun
        for note in (bound.in_words(delay), *delay.notes):
            out.print(f"note: {note}")


@on_deployment(limits_app, "measure")
def limits_measure(
    connect: Connect,
    url: Annotated[str, typer.Option(help="An address of the API that asks for a key and costs nothing to call.")],
    plan: Annotated[str, typer.Option(help="The usage plan of the API to measure with; not needed if it is one.")] = "",
    samples: Annotated[int, typer.Option(min=1, max=100, help="How often to take the key out and put it back.")] = 20,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME:VALUE", help="A header that the API wants; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how fast a stop is felt, with a key of its own that is billed to nobody, while it calls an address.

    What comes out is kept, and from then on is a part of what 'metering limits show' states.
    """
    headers = {name.strip(): value.strip() for name, _, value in (one.partition(":") for one in header or ())}
    if not all(name and value for name, value in headers.items()):
        raise typer.BadParameter("a header is written NAME:VALUE")
    deployment = connect()
    items_of(deployment)
    probe = Probe(deployment, UsagePlans(deployment.client("apigateway")), partial(call, headers=headers))
    with err.status("measuring"):
        measured = probe.measure(url, plan, samples=samples, now=now())
    if as_json:
        print_json(to_builtins(measured))
        return
    where = "" if measured.where == "aws" else f", on the {measured.where} alone"
    out.print(
        f"a stop is felt after {measured.closed_p50_ms:,} ms (p50) and {measured.closed_p99_ms:,} ms (p99), "
        f"a reopening after {measured.opened_p50_ms:,} ms and {measured.opened_p99_ms:,} ms, of {samples} each{where}; "
        f"the probe's calls were counted after {measured.counted_ms:,} ms"
    )


@on_deployment(limits_app, "would")
def limits_would(
    connect: Connect,
    days: Annotated[int, typer.Option(min=1, max=MOST_DAYS, help="How many closed days to try the limits on.")] = 30,
    customer_id: Annotated[str, typer.Option("--customer", metavar="ID", help="One customer; all if left out.")] = "",
    plan: Annotated[str, typer.Option(help="A plan whose limits are tried, whoever is on it or not.")] = "",
    as_json: Json = False,
) -> None:
    """Show who would have been warned, slowed and stopped, and in which hours, by the limits as they are declared now.

    Without --plan each customer is tried by the plans that it is subscribed to and by its own limits. From the ledger's
    closed hours; nothing is written, and nobody is told. Nothing is taken off for what a stop would have kept away.
    """
    deployment = connect()
    if customer_id:
        known_customer(deployment.ledger, customer_id)
    trying = Trying.of(deployment, plan)
    names = [customer_id] if customer_id else [*deployment.ledger.holders.customer_ids()]
    tried = trying.run(names, days, now=now(), most=MOST_TRIED, progress=progress("trying limits", as_json))
    if as_json:
        print_json(tried.as_json())
        return
    table(
        ("customer", "limit", "step", "windows", "first", "last", "used", "of"),
        [
            (
                act.customer,
                act.limit,
                written(act.step),
                f"{act.windows:,}",
                str(act.first),
                str(act.last),
                f"{act.used:,}",
                f"{act.most:,}",
            )
            for act in tried.acts
        ],
    )
    err.print(
        f"of {count(tried.customers, 'customer')}, {tried.first} to {tried.end}: {tried.told:,} would have been told "
        f"of something, {tried.slowed:,} slowed, {tried.stopped:,} stopped; {tried.unlimited:,} have no limit"
    )
    if tried.left_off:
        err.print(
            f"{count(tried.left_off, 'more line is', 'more lines are')} not shown: name a customer with --customer"
        )


@on_deployment(customers_app, "alerts")
def customers_alerts(
    connect: Connect,
    customer_id: Annotated[str, typer.Argument(metavar="ID")],
    to: Annotated[list[str] | None, typer.Option(metavar="ADDRESS", help="An address; may be repeated.")] = None,
    nobody: Annotated[bool, typer.Option("--none", help="Send it no e-mail.")] = False,
    as_json: Json = False,
) -> None:
    """Say whom e-mail about a customer's limits goes to, in the place of those before; show it without an option.

    E-mail is sent where the stack has 'alerts_from'.
    """
    if to and nobody:
        raise typer.BadParameter("give either --to or --none")
    deployment = _connected(connect, customer_id)
    if to or nobody:
        setting.write_addresses(deployment, customer_id, to or [])
    addresses = items_of(deployment).of(customer_id).addresses
    if as_json:
        print_json({"customer": customer_id, "addresses": list(addresses)})
        return
    out.print(", ".join(addresses) or f"{customer_id} gets no e-mail about its limits")


def _connected(connect: Connect, customer_id: str) -> Deployment:
    """Return the deployment; OperatorError if it has no limits or no such customer."""
    deployment = connect()
    items_of(deployment)
    known_customer(deployment.ledger, customer_id)
    return deployment


def _wanted(deployment: Deployment, metric: str, per: str, most: int, until: Hour | None, reason: str) -> OfCustomer:
    ends = int(until.start.timestamp()) if until else 0
    return OfCustomer(metric, per, most, until=ends, reason=reason, who=deployment.who(), at=int(now().timestamp()))


def _say(deployment: Deployment, customer_id: str, said: list[str], as_json: bool) -> None:
    """Say what changed, and have it act at once: also of what was changed before, in case that did not."""
    note = setting.look(deployment, customer_id)
    if as_json:
        print_json({"changed": said, "looked_at": not note})
    for sentence in () if as_json else said or ["nothing to change"]:
        out.print(sentence)
    if note:
        err.print(f"note: {note}")


def _limited(one: Limited) -> dict[str, Any]:
    return {
        "customer": one.customer,
        "access": one.level.name.lower(),
        "reasons": [{"name": reason.name, "since": moment(reason.since)} for reason in one.reasons],
        "own": [
            {
                "metric": own.metric,
                "per": own.per,
                "most": own.most,
                "raised": own.raised,
                "until": moment(own.until) if own.until else None,
                "reason": own.reason,
                "who": own.who,
                "at": moment(own.at),
            }
            for own in one.own
        ],
    }


def _since(reason: Reason) -> str:
    return f"{reason.name} since {moment(reason.since)}"


def _print_standing(shown: Standing) -> None:
    known = shown.known
    plans = ", ".join(known.subscribed.plans) if known.subscribed else ""
    out.print(f"{known.name}: {plans or 'no plan known'}, keys {shown.level.name.lower()}")
    for reason in shown.reasons:
        until = f" until {moment(reason.until)}" if reason.until else ""
        out.print(f"{reason.level.name.lower()} because of {_since(reason)}{until}: {shown.why(reason)}")
    currency = known.subscribed.currency if known.subscribed else ""
    table(
        ("limit", "used", "left", "of", "percent", "window", "until", "from", "as of", "steps"),
        [_row(one, currency) for one in shown.limits],
    )
    for note in shown.notes:
        out.print(f"note: {note}")


def _row(shown: Shown, currency: str) -> tuple[str, ...]:
    told = shown.as_json()

    def amount(number: int | None) -> str:
        if number is None:
            return "-"
        return in_money(number, currency) if told["metric"] == SPEND and currency else f"{number:,}"

    return (
        told["limit"],
        amount(told["used"]),
        amount(told["remaining"]),
        amount(told["most"]),
        "-" if told["percent"] is None else f"{told['percent']} %",
        told["window"]["from"],
        told["window"]["to"],
        told["source_in_words"],
        told["as_of"] or "not yet",
        ", ".join(
            f"{step['does']} {step['percent']} %" + (f" acted {step['acted_at']}" if step["acted_at"] else "")
            for step in told["steps"]
        ),
    )
