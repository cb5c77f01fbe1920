"""Checks of a deployment's Stripe side. Nothing is changed there."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Final, Literal

import stripe
from stripe import StripeClient

from infra.operate.connecting_stripe import meters_in_the_way
from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import Finding, broken, named, ok, warning
from infra.operate.held_invoices import held_invoices
from infra.operate.notifications import amiss, destinations_of, is_sent_thin, too_many, wanted_by
from infra.operate.rights import FUNCTIONS, OPERATORS
from infra.operate.words import count
from metering.model.read_allotment import A_TRANSACTION
from metering.stripe.client import StripeForbiddenError, StripeNotConnectedError, StripeRejectedError
from metering.stripe.meters import StripeMeters

MOST_COUNTED: Final = 1_000_000
"""So many customers are counted, a thousand or more in a read."""

_LATEST: Final = 30 * 24
"""Hours. What is found later may be too old to be mended: Stripe takes usage of 35 days."""

_NAMED: Final = 10

_CONNECT: Final = "metering stripe connect, with a key that has the rights that infra/operate/README.md lists"
_LESS: Final = (
    "make a restricted key with the functions' rights alone, which infra/operate/README.md lists, for metering stripe "
    "connect, and give the one with more to the commands that need it"
)

_READ: Final = "read"

Probe = tuple[Literal["get", "post"], str]

PROBES: Final[dict[tuple[str, str], Probe]] = {
    ("billing_meter_event", "write"): ("post", "/v1/billing/meter_events"),
    ("billing_meter", _READ): ("get", "/v1/billing/meters?limit=1"),
    ("billing_meter", "write"): ("post", "/v1/billing/meters/mtr_metering_doctor"),
    ("product", "write"): ("post", "/v1/products/metering-doctor"),
    ("plan", _READ): ("get", "/v1/prices?limit=1"),
    ("plan", "write"): ("post", "/v1/prices/price_metering_doctor"),
    ("customer", "write"): ("post", "/v1/customers/cus_meteringdoctor"),
    ("subscription", _READ): ("get", "/v1/subscriptions?limit=1"),
    ("subscription", "write"): ("post", "/v1/subscriptions/sub_meteringdoctor"),
    ("payment_method", _READ): ("get", "/v1/customers/cus_meteringdoctor/payment_methods"),
    ("checkout_session", "write"): ("post", "/v1/checkout/sessions"),
    ("customer_portal", "write"): ("post", "/v1/billing_portal/sessions"),
    ("invoice", _READ): ("post", "/v1/invoices/create_preview"),  # which is what must not be refused
    ("event", _READ): ("get", "/v1/events?limit=1"),
    ("webhook", "write"): ("post", "/v2/core/event_destinations"),
}
"""A call that needs each of the rights and can change nothing: it asks for a change of what is not there, or leaves out
what is needed. Stripe refuses it with 403 for want of the right, and with 404 or 400 where the key has it."""


def check_stripe_key(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """See that there is a key, that Stripe takes it, and that it has the rights the functions need, and no more."""
    stripe = deployment.stripe()
    try:
        key = stripe.key()
        lacking = [f"{right} ({level})" for right, level in FUNCTIONS.items() if not _has(stripe, right, level)]
        is_restricted = not key.startswith("sk_")
        needless = [
            f"{level} {right}" for right, level in OPERATORS.items() if is_restricted and _has(stripe, right, level)
        ]
    except StripeNotConnectedError as error:
        yield broken(str(error), _CONNECT)
        return
    if lacking:
        yield broken(f"the Stripe key lacks the right to {', '.join(lacking)}", _CONNECT)
    elif key.startswith("sk_live_"):
        yield warning("the Stripe key may do everything", _LESS)
    elif needless:
        yield warning(f"the Stripe key may also {', '.join(needless)}, which no function does", _LESS)
    else:
        yield ok(f"Stripe takes the key, which has all {len(FUNCTIONS)} rights")


def _has(stripe: StripeMeters, right: str, level: str) -> bool:
    method, path = PROBES[right, level]

    def ask(client: StripeClient) -> None:
        client.raw_request(method, path)

    try:
        stripe.call(ask)
    except StripeRejectedError:  # there is no such thing, or something is missing
        return True
    except StripeForbiddenError:
        return False
    return True


def check_notifications(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """See that Stripe sends its notifications here, where the key may see that: the operator's, or the functions'."""
    url, do = deployment.reachable(deployment.outputs.notifications_url), "metering stripe webhook"
    try:
        there = destinations_of(deployment.operators_stripe(), url)
    except StripeForbiddenError:
        return  # the functions' key need not, and nothing depends on them
    if not there:
        yield warning(f"no event destination at Stripe has the address {url}", do)
        return
    found = there[0]
    if len(there) > 1:
        yield warning(too_many(there), "delete what is too much in Stripe's dashboard")
    elif wrong := amiss(found, wanted_by(deployment)):
        change = do if is_sent_thin(found) else "change it in Stripe's dashboard"
        yield warning(f"the event destination {found.id} {wrong}", change)
    elif not deployment.has_signing_secret():
        yield warning(f"no signing secret is known of the event destination {found.id}", do)
    else:
        yield ok(f"Stripe sends its notifications here, by the event destination {found.id}")


def check_reads(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """Say how far the reads reach that Stripe allots, and of whom Stripe would not say what it holds."""
    budget, metrics = deployment.read_budget, len(deployment.metrics)
    customers = sum(1 for _ in islice(deployment.ledger.holders.customer_ids(), MOST_COUNTED))
    hours = budget.allotment.hours_for(customers, metrics)
    a_month = f"{budget.allotment.a_month:,} reads in 30 days"
    whom = f"{count(customers, 'customer', more=customers == MOST_COUNTED)} with {count(metrics, 'metric')}"
    if hours is None or hours > _LATEST:
        yield warning(
            f"{a_month} are too few to look at {whom} while Stripe still takes what is mended",
            f"deploy with stripe_reads_a_month as Stripe allots them: {A_TRANSACTION} for each transaction of 30 days",
        )
    else:
        yield ok(f"{a_month} look at {whom} every {count(max(1, hours), 'hour')}; {budget.left(now):,} are left now")
    if odd := deployment.ledger.progress.round().odd:
        yield warning(
            f"Stripe would not sum up the usage of {named(odd, len(odd), _NAMED)}, which is not compared",
            "metering reconcile CUSTOMER shows Stripe's answer; see whether its Stripe customer was deleted or merged",
        )


def check_meters(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """See that every metric has its meter, with the window and the formula that it is posted for."""
    stripe = deployment.stripe()
    there = stripe.meters()
    wrong = meters_in_the_way(stripe, there, deployment.metrics)
    yield from map(partial(broken, do="deactivate the meter at Stripe, or deploy under another name"), wrong)
    missing = [name for name in map(stripe.event_name, deployment.metrics) if name not in there]
    if missing:
        yield broken(f"Stripe has no meter {', '.join(missing)}, so that its usage waits", "metering stripe connect")
    if not wrong and not missing:
        yield ok(f"each of {count(len(deployment.metrics), 'metric')} has its meter with the hour as its window")
    if stripe.is_sandbox() and (hour := _streamed_from(deployment)):
        yield warning(
            f"the key is a sandbox's, where totals go by a call each, although streamed_from is {hour}",
            "nothing, or metering stripe connect with a key of live mode",
        )


def _streamed_from(deployment: Deployment) -> str:
    name = deployment.outputs.post_usage_function
    found = deployment.client("lambda").get_function_configuration(FunctionName=name)
    return str(found.get("Environment", {}).get("Variables", {}).get("STREAMED_FROM", ""))


def check_invoices(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """Name the invoices that wait for a person, and say in which version the account has its events."""
    held = [*islice(held_invoices(deployment), _NAMED + 1)]
    if held:
        which = ", ".join(sorted({f"{one.invoice} of {one.customer}" for one in held[:_NAMED]}))
        yield broken(
            f"invoices bill something else than was used, or cannot be read: {which}"
            + " and more" * (len(held) > _NAMED),
            "metering held list says why; then metering held carry, or leave",
        )
    newest = deployment.stripe().call(lambda client: client.v1.events.list({"limit": 1})).data
    theirs = newest[0].api_version if newest else None
    of_account = f"the account's own version of the API is {theirs}" if theirs else "the account has no event yet"
    readable = "every invoice that was noted can be read; " * (not held)
    yield ok(f"{readable}{of_account}, and ours {stripe.api_version}")
