"""Connecting a deployment to Stripe: its key, and the meters that bill its metrics."""

from collections.abc import Iterable, Mapping
from typing import Any

from infra.operate.deployment import Deployment, OperatorError
from metering.stripe.client import StripeForbiddenError
from metering.stripe.meters import FORMULA, WINDOW, Meter, StripeMeters


def connect(deployment: Deployment, api_key: str) -> list[dict[str, Any]]:
    """Put a Stripe key in the secret and make the meters that are missing; return each meter and whether it was made.

    The meters are made with the operator's key, if there is one.

    Nothing is changed if Stripe does not take the key, the operator's is of another mode, or a meter of ours exists
    that would bill wrongly.
    """
    stripe, maker = deployment.stripe(api_key), deployment.operators_stripe(api_key)
    there = stripe.meters()
    names = {metric: stripe.event_name(metric) for metric in deployment.metrics}
    if wrong := meters_in_the_way(stripe, there, deployment.metrics):
        raise OperatorError(f"{'; '.join(wrong)}. Nothing was changed")
    deployment.put_stripe_key(api_key)
    missing = [metric for metric, name in names.items() if name not in there]
    for metric in missing:
        try:
            maker.create_meter(metric)
        except StripeForbiddenError as error:
            raise OperatorError(
                f"the key is in the secret, but may not make the meter {names[metric]}, without which its usage waits: "
                "run this again, or 'metering stripe apply', with the operator's key"
            ) from error
    return [{"meter": name, "metric": metric, "made": metric in missing} for metric, name in names.items()]


def meters_in_the_way(stripe: StripeMeters, there: Mapping[str, Meter], metrics: Iterable[str]) -> list[str]:
    """Say which meters that are at Stripe have the names of these metrics' own and would bill wrongly."""
    return [
        f"the meter {name} exists with the window {meter.window or 'none'!r} and the formula {meter.formula!r}; "
        f"wanted are the window {WINDOW!r} and the formula {FORMULA!r}. A meter cannot be changed: deactivate it at "
        "Stripe, or deploy under another name"
        for name in map(stripe.event_name, metrics)
        if (meter := there.get(name)) and (meter.window, meter.formula) != (WINDOW, FORMULA)
    ]
