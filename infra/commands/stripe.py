"""The connection to Stripe."""

import re
import sys
from typing import Final

import typer

from infra.commands.shared import Connect, Json, group, on_deployment, out, print_json
from infra.deployment import OperatorError
from infra.deployment import connect as connect_stripe

stripe_app: Final = group("The connection to Stripe.")


@on_deployment(stripe_app, "connect")
def stripe_connect(
    connect: Connect,
    as_json: Json = False,
) -> None:
    """Put the restricted Stripe key in the secret, and make the meters that the metrics need.

    The key is asked for without echo, or read from stdin. It needs the rights to write meters and meter events.
    """
    deployment = connect()
    meters = connect_stripe(deployment, _stripe_key())
    if as_json:
        print_json({"connected": True, "meters": meters})
        return
    out.print("the key is in the secret")
    for meter in meters:
        out.print(f"meter {meter['meter']} {'made' if meter['made'] else 'exists'}")


def _stripe_key() -> str:
    if sys.stdin.isatty():
        key = str(typer.prompt("Stripe restricted key", hide_input=True, err=True))
    else:
        key = sys.stdin.buffer.read().decode(errors="replace")
    key = key.strip()
    if not re.fullmatch(r"[rs]k_[A-Za-z0-9_]+", key):
        raise OperatorError("a Stripe key is written rk_... (restricted) or sk_...; what was given is none")
    return key
