"""Whether limits act, and how soon: what feeds their functions, who waits to be stopped, and what is not known."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import DEPLOY, Finding, broken, items, named, ok, warning
from infra.operate.limits.bound import delay_of
from metering.limits.usage_plans import UsagePlans
from metering.model.limit_checks import slows
from metering.model.limits import Level
from metering.stores.gate_list import GateList
from metering.stores.limits import LimitItems

MOST_CUSTOMERS: Final = 500
"""So many are looked at, 100 a read: of whom something is missing is told by the first of them."""

UNENFORCED: Final = timedelta(minutes=1)
"""How long a stop may take to be seen done; the alarm of that name has the same."""

_NAMED: Final = 10


def check_limits(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """Where there are limits: see that they are noticed, enforced and told, and known of everybody."""
    access = deployment.outputs.access_table
    if not access:
        return
    wrong = [
        *_fed(deployment),
        *_unenforced(GateList(deployment.ledger.client, access), now),
        *_mailed(deployment),
        *_known(deployment),
    ]
    yield from wrong or [ok("limits are noticed, enforced and told as they should be")]
    if deployment.access_log.api.bills_by_key:
        yield from _bounded(deployment, now)


def _fed(deployment: Deployment) -> Iterator[Finding]:
    """See that the stream and the queue reach their functions; without the stream the sweep notices, later."""
    functions = deployment.client("lambda")
    for name, source, what, otherwise in (
        (deployment.outputs.watch_limits_function, ":dynamodb:", "the counters' stream", "up to an hour"),
        (deployment.outputs.enforce_limits_function, ":sqs:", "the gate's queue", "a minute or more"),
    ):
        mappings = items(functions, "list_event_source_mappings", "EventSourceMappings", FunctionName=name)
        states = [one["State"] for one in mappings if source in one["EventSourceArn"]]
        if states != ["Enabled"]:
            said = f"{what} to {name} is {', '.join(states) or 'not there'}, so that limits act {otherwise} later"
            yield broken(said, DEPLOY)


def _unenforced(gate: GateList, now: datetime) -> Iterator[Finding]:
    """Name the customers who are to be stopped, and are not seen to be."""
    before = (now - UNENFORCED).timestamp()
    waiting = {
        name: asked for name, asked in gate.asked().items() if asked.level is Level.STOPPED and asked.at <= before
    }
    if waiting:
        minutes = (now.timestamp() - min(asked.at for asked in waiting.values())) // 60
        yield broken(
            f"{_customers(len(waiting))} not stopped, for up to {minutes:,.0f} minutes: "
            f"{named(waiting, len(waiting), _NAMED)}",
            "read the log of enforce_limits, and see in infra/operate/RUNBOOK.md what LimitsUnenforced asks of you",
        )


def _mailed(deployment: Deployment) -> Iterator[Finding]:
    """See that SES may send from the address of ``alerts_from``, by itself or by a domain of it, and to everybody."""
    function = deployment.client("lambda").get_function_configuration(
        FunctionName=deployment.outputs.watch_limits_function
    )
    address = str(function.get("Environment", {}).get("Variables", {}).get("ALERTS_FROM", ""))
    if not address:
        return
    ses, labels = deployment.client("sesv2"), address.rpartition("@")[2].split(".")
    domains = [".".join(labels[first:]) for first in range(len(labels) - 1)]
    if not any(_may_send(ses, identity) for identity in (address, *domains)):
        yield broken(
            "SES may not send from the address of alerts_from, so that no customer gets e-mail about its limits",
            "verify that address, or its domain, in SES, in this Region",
        )
    elif not ses.get_account().get("ProductionAccessEnabled"):
        yield warning(
            "SES is in its sandbox here: e-mail about limits reaches verified addresses alone",
            "ask for production access in SES, in this Region",
        )


def _may_send(ses: Any, identity: str) -> bool:
    try:
        return bool(ses.get_email_identity(EmailIdentity=identity).get("VerifiedForSendingStatus"))
    except ses.exceptions.NotFoundException:
        return False


def _known(deployment: Deployment) -> Iterator[Finding]:
    """Name those of whom limits do not know what they need: the plans, or all prices."""
    holders = deployment.ledger.holders
    names = [*islice(holders.customer_ids(), MOST_CUSTOMERS)]
    owners = [owner for owner in holders.customers(names).values() if owner.stripe_customer]
    known = LimitItems(deployment.ledger.client, deployment.ledger.table).subscribed_each(one.id for one in owners)
    unknown = sorted({owner.id for owner in owners} - {*known})
    if unknown and any(plan.limits for plan in deployment.declared_plans):
        yield warning(
            f"what {_customers(len(unknown))} subscribed to is not known yet, so that no plan's limits apply: "
            f"{named(unknown, len(unknown), _NAMED)}",
            "wait a day for the hourly look, or say metering customers subscribe again, which changes nothing else",
        )
    if odd := sorted(name for name, one in known.items() if one.unpriced):
        yield warning(
            f"{_customers(len(odd))} subscribed to prices that no plan can have, of which limits know nothing: "
            f"{named(odd, len(odd), _NAMED)}",
            "move them to prices of app.py at Stripe, or give them limits of metrics alone",
        )


def _bounded(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """State how soon a stop acts, and name the usage plans from whose keys any number can come until then.

    The plans are listed once, and no customer's keys are looked up: ``metering limits show`` states each one's bound.
    """
    delay, plans = delay_of(deployment, now), UsagePlans(deployment.client("apigateway"))
    has_slow = any(slows(limit) for plan in deployment.declared_plans for limit in plan.limits)
    if has_slow and not plans.lanes(deployment.outputs.deployment):
        yield warning(
            "a plan has a Slow, and there is no slow lane, so that it is only told",
            "metering.slow_lane(api) in the API's stack makes one",
        )
    if unbounded := sorted(plan.name or plan.id for plan in plans.all() if plan.throttle is None):
        yield warning(
            "what can still come after a stop is unbounded for keys in a usage plan without a throttle: "
            f"{named(unbounded, len(unbounded), _NAMED)}",
            "give each that customers' keys are in a rate and a burst, in the API's stack",
        )
    said = "; ".join([delay.in_words(), *delay.notes])
    if delay.is_measured:
        yield ok(said)
    else:
        yield warning(said, "run metering limits measure against the API on AWS")


def _customers(number: int) -> str:
    return f"{number:,} customer{'s are' if number != 1 else ' is'}"
