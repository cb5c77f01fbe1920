"""Checks of a deployment's Stripe side. Nothing is changed there."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Final, Literal

from stripe import PermissionError as StripePermissionError
from stripe import StripeClient

from infra.operate.catalog import RIGHTS
from infra.operate.deployment import Deployment, meters_in_the_way
from infra.operate.doctor.findings import Finding, broken, ok, warning
from metering.stripe.client import StripeNotConnectedError, StripeRejectedError
from metering.stripe.meters import StripeMeters

_CONNECT: Final = "metering stripe connect, with a key that has the rights that infra/operate/README.md lists"

PROBES: Final[dict[str, tuple[Literal["get", "post"], str]]] = {
    "billing_meter_event": ("post", "/v1/billing/meter_events"),
    "billing_meter": ("post", "/v1/billing/meters/mtr_metering_doctor"),
    "product": ("post", "/v1/products/metering-doctor"),
    "plan": ("post", "/v1/prices/price_metering_doctor"),
    "customer": ("post", "/v1/customers/cus_meteringdoctor"),
    "subscription": ("post", "/v1/subscriptions/sub_meteringdoctor"),
    "invoice": ("get", "/v1/invoices?limit=1"),
    "event": ("get", "/v1/events?limit=1"),
}
"""A call that needs each of the rights and can change nothing: it asks for a change of what is not there, or leaves out
what is needed. Stripe refuses it with 403 for want of the right, and with 404 or 400 where the key has it."""


def check_stripe_key(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """See that there is a key, that Stripe takes it, and that it has each right."""
    stripe = deployment.stripe()
    try:
        key = stripe.key()
        lacking = [f"{right} ({level})" for right, level in RIGHTS.items() if not _has(stripe, right)]
    except StripeNotConnectedError as error:
        yield broken(str(error), _CONNECT)
        return
    if lacking:
        yield broken(f"the Stripe key lacks the right to {', '.join(lacking)}", _CONNECT)
    elif key.startswith("sk_live_"):
        yield warning("the Stripe key may do everything", f"{_CONNECT}, and no others")
    else:
        yield ok(f"Stripe takes the key, which has all {len(RIGHTS)} rights")


def _has(stripe: StripeMeters, right: str) -> bool:
    method, path = PROBES[right]

    def ask(client: StripeClient) -> None:
        client.raw_request(method, path)

    try:
        stripe.call(ask)
    except StripeRejectedError:  # there is no such thing, or something is missing
        return True
    except StripeNotConnectedError as error:
        if isinstance(error.__cause__, StripePermissionError):
            return False
        raise
    return True


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
        yield ok(f"each of {len(deployment.metrics)} metrics has its meter with the hour as its window")
    if stripe.is_sandbox() and (hour := _streamed_from(deployment)):
        yield warning(
            f"the key is a sandbox's, where totals go by a call each, although streamed_from is {hour}",
            "nothing, or metering stripe connect with a key of live mode",
        )


def _streamed_from(deployment: Deployment) -> str:
    name = deployment.outputs.post_usage_function
    found = deployment.client("lambda").get_function_configuration(FunctionName=name)
    return str(found.get("Environment", {}).get("Variables", {}).get("STREAMED_FROM", ""))
