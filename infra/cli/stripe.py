"""The connection to Stripe, and what is sold there."""

import re
from dataclasses import dataclass
from typing import Final

from infra.cli.shared import (
    Connect,
    Json,
    OperatorKey,
    changing_stripe,
    err,
    group,
    on_deployment,
    out,
    print_json,
    stripe_key,
    typed,
)
from infra.operate.catalog import Catalog, Step
from infra.operate.connecting_stripe import connect as connect_stripe
from infra.operate.deployment import OPERATOR_KEY, Deployment, OperatorError
from infra.operate.notifications import IN_THE_DASHBOARD, destine, wanted_by
from metering.stripe.client import StripeKeyRefusedError, StripeNotConnectedError

_PARTED: Final = "the signing secret is in its own secret now, and no longer beside the key"

stripe_app: Final = group("The connection to Stripe, and the meters, products and prices there.")


@on_deployment(stripe_app, "connect")
def stripe_connect(
    connect: Connect,
    as_json: Json = False,
) -> None:
    """Put the functions' restricted Stripe key in the secret, and make the meters that the metrics need.

    The key is asked for without echo, or read from stdin. infra/operate/README.md lists the rights that it needs; the
    meters are made with the operator's key, where STRIPE_OPERATOR_KEY is one.
    """
    deployment = connect()
    meters = connect_stripe(deployment, stripe_key("Stripe restricted key"))
    if as_json:
        print_json({"connected": True, "meters": meters})
        return
    out.print("the key is in the secret")
    for meter in meters:
        out.print(f"meter {meter['meter']} {'made' if meter['made'] else 'exists'}")


@on_deployment(stripe_app, "plan")
def stripe_plan(
    connect: Connect,
    operator_key: OperatorKey = False,
    as_json: Json = False,
) -> None:
    """Show what 'apply' would do, and change nothing: how Stripe differs from what app.py declared when deployed.

    What has changed in app.py since is planned and applied once it is deployed.
    """
    deployment = changing_stripe(connect, ask=operator_key)
    difference = Catalog.of(deployment).difference()
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
    err.print(f"as deployed {_deployed(deployment)}; what has changed in app.py since counts once it is deployed")


@on_deployment(stripe_app, "apply")
def stripe_apply(
    connect: Connect,
    operator_key: OperatorKey = False,
    as_json: Json = False,
) -> None:
    """Make the meters, products and prices that app.py declared when deployed; again it changes nothing.

    A price is never changed: another one takes its place, and the old one is archived, on which those stay who are
    subscribed to it. What this deployment did not make is never touched.
    """
    done = Catalog.of(changing_stripe(connect, ask=operator_key)).apply(_quiet if as_json else _say)
    if as_json:
        print_json({"done": [step.as_json() for step in done]})
    elif not done:
        out.print("nothing to change")


@on_deployment(stripe_app, "webhook")
def stripe_webhook(connect: Connect, operator_key: OperatorKey = False, as_json: Json = False) -> None:
    """Have Stripe send its notifications here: make the event destination, and keep what it signs them with.

    Its signing secret is asked for without echo, or read from stdin, if the destination was made in the dashboard;
    without one this command makes it, once. Where the key may not, it says what to click.
    """
    deployment = changing_stripe(connect, ask=operator_key)
    address = deployment.reachable(deployment.outputs.notifications_url)
    if not as_json:
        out.print(f"the address for Stripe's notifications: {address}")
    secret = "" if operator_key else typed("Signing secret (press Enter to have the event destination made at Stripe)")
    if secret and not re.fullmatch(r"whsec_[A-Za-z0-9+/=_-]+", secret):
        raise OperatorError("a signing secret is written whsec_...; what was given is none")
    done = _given(deployment, secret) if secret else _destined(deployment, address)
    if as_json:
        print_json({"url": address, **done.as_json()})
    else:
        for sentence in done.said:
            out.print(sentence)


@dataclass(frozen=True)
class _Told:
    """What came of it: the destination, if this command has seen it, and whether there is a new signing secret."""

    said: tuple[str, ...]
    secret_put: bool
    destination: str = ""

    def as_json(self) -> dict[str, object]:
        """Return it as ``--json`` prints it."""
        return {"secret_put": self.secret_put} | ({"destination": self.destination} if self.destination else {})


def _given(deployment: Deployment, secret: str) -> _Told:
    deployment.put_signing_secret(secret)
    return _Told(("the signing secret is in its secret",), secret_put=True)


def _destined(deployment: Deployment, address: str) -> _Told:
    try:
        found = destine(deployment, address)
    except StripeKeyRefusedError:
        raise
    except StripeNotConnectedError as error:
        why = f"no event destination is made: {error}; --operator-key or {OPERATOR_KEY} gives another"
        parted = deployment.part_signing_secret()
        how = f"make one for {', '.join(wanted_by(deployment))} {IN_THE_DASHBOARD}"
        return _Told((why, how, *([_PARTED] if parted else [])), secret_put=parted)
    kept = [*(["the signing secret is in its secret"] if found.made else []), *([_PARTED] if found.parted else [])]
    said = [f"event destination {found.id} {'made' if found.made else 'exists'}"]
    if found.added:
        said.append(f"it is sent {', '.join(found.added)} now, too")
    return _Told((*said, *kept), secret_put=found.made or found.parted, destination=found.id)


def _deployed(deployment: Deployment) -> str:
    """Say which version deployed the stack, and when, if it is known."""
    by = f"by {deployment.outputs.deployed_version}"
    return f"{deployment.deployed_at:%Y-%m-%dT%H:%MZ} {by}" if deployment.deployed_at else by


def _say(step: Step) -> None:
    out.print(str(step))


def _quiet(_step: Step) -> None:
    """Say nothing."""
