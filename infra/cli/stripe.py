"""The connection to Stripe, and what is sold there."""

import re
import sys
from typing import Final

import typer

from infra.cli.shared import Connect, Json, group, on_deployment, out, print_json
from infra.operate.catalog import Catalog, Step
from infra.operate.deployment import OperatorError
from infra.operate.deployment import connect as connect_stripe

stripe_app: Final = group("The connection to Stripe, and the meters, products and prices there.")


@on_deployment(stripe_app, "connect")
def stripe_connect(
    connect: Connect,
    as_json: Json = False,
) -> None:
    """Put the restricted Stripe key in the secret, and make the meters that the metrics need.

    The key is asked for without echo, or read from stdin. infra/operate/README.md lists the rights that it needs.
    """
    deployment = connect()
    meters = connect_stripe(deployment, _stripe_key())
    if as_json:
        print_json({"connected": True, "meters": meters})
        return
    out.print("the key is in the secret")
    for meter in meters:
        out.print(f"meter {meter['meter']} {'made' if meter['made'] else 'exists'}")


@on_deployment(stripe_app, "plan")
def stripe_plan(
    connect: Connect,
    as_json: Json = False,
) -> None:
    """Show what 'apply' would do, and change nothing: how Stripe differs from what app.py declares."""
    difference = Catalog.of(connect()).difference()
    if as_json:
        print_json(difference.as_json())
        return
    for step in difference.steps:
        out.print(str(step))
    for metric in difference.unpriced:
        out.print(f"note: no plan has a price for {metric}")
    for obstacle in difference.in_the_way:
        out.print(f"in the way: {obstacle}")
    if not difference.steps and not difference.in_the_way:
        out.print("Stripe is as declared")


@on_deployment(stripe_app, "apply")
def stripe_apply(
    connect: Connect,
    as_json: Json = False,
) -> None:
    """Make the meters, products and prices that app.py declares; running it again changes nothing.

    A price is never changed: another one takes its place, and the old one is archived, on which those stay who are
    subscribed to it. What this deployment did not make is never touched.
    """
    done = Catalog.of(connect()).apply(_quiet if as_json else _say)
    if as_json:
        print_json({"done": [step.as_json() for step in done]})
    elif not done:
        out.print("nothing to change")


@on_deployment(stripe_app, "webhook")
def stripe_webhook(connect: Connect, as_json: Json = False) -> None:
    """Put the signing secret of Stripe's notifications in the secret, and show the address they are to be sent to.

    Make an event destination at Stripe (a webhook endpoint with thin payloads) for this address and the events
    v1.billing.meter.error_report_triggered and v1.billing.meter.no_meter_found. Its signing secret is asked for without
    echo, or read from stdin; without one the address alone is shown.
    """
    deployment = connect()
    address = deployment.outputs.notifications_url
    if not as_json:
        out.print(f"the address for Stripe's notifications: {address}")
    secret = _typed("Signing secret (empty: leave it as it is)")
    if secret and not re.fullmatch(r"whsec_[A-Za-z0-9+/=_-]+", secret):
        raise OperatorError("a signing secret is written whsec_...; what was given is none")
    if secret:
        deployment.put_webhook_secret(secret)
    if as_json:
        print_json({"url": address, "secret_put": bool(secret)})
    elif secret:
        out.print("the signing secret is in the secret")


def _say(step: Step) -> None:
    out.print(str(step))


def _quiet(_step: Step) -> None:
    """Say nothing."""


def _stripe_key() -> str:
    key = _typed("Stripe restricted key")
    if not re.fullmatch(r"[rs]k_[A-Za-z0-9_]+", key):
        raise OperatorError("a Stripe key is written rk_... (restricted) or sk_...; what was given is none")
    return key


def _typed(asked_for: str) -> str:
    """Return what is typed without echo, or comes on stdin."""
    if sys.stdin.isatty():
        return str(typer.prompt(asked_for, hide_input=True, err=True, default="", show_default=False)).strip()
    return sys.stdin.buffer.read().decode(errors="replace").strip()
