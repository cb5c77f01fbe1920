"""The event destination at Stripe that sends its notifications here: made by the API, once, with its signing secret."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stripe.v2.core import EventDestination

from infra.operate.deployment import Deployment, OperatorError
from metering.stripe.client import StripeUnavailableError
from metering.stripe.meters import StripeMeters
from metering.stripe.prices import DEPLOYMENT
from metering.stripe.webhooks import ERROR_REPORT, NO_METER_FOUND, SUBSCRIPTION_EVENTS

EVENTS: Final = (ERROR_REPORT, NO_METER_FOUND)
"""What every deployment is told; one with limits also of subscriptions."""

IN_THE_DASHBOARD: Final = (
    "in Stripe's dashboard, Workbench, Webhooks, 'Create new destination': these events, the payload style 'Thin' "
    "under 'Show advanced options', and this address as a webhook endpoint; then give its signing secret to 'metering "
    "stripe webhook'"
)
"""How a destination is made by hand (Stripe, "Record usage for billing with the API", "Listen to events")."""

ROLL: Final = (
    "Stripe shows a signing secret only once: roll it there ('Roll secret') and give it to this command, or delete the "
    "destination and run this again"
)


@dataclass(frozen=True, slots=True)
class Destined:
    """The destination that there is now, whether it was made, and whether its signing secret was beside the key.

    ``added`` are the events that it is sent from now on, and was not.
    """

    id: str
    made: bool
    parted: bool = False
    added: tuple[str, ...] = ()


def wanted_by(deployment: Deployment) -> tuple[str, ...]:
    """Return the types of the events that a deployment wants."""
    return (*EVENTS, *(SUBSCRIPTION_EVENTS if deployment.outputs.access_table else ()))


def destine(deployment: Deployment, url: str) -> Destined:
    """Have Stripe send its notifications to an address, and keep what it signs them with; once more changes nothing.

    One that is there is sent what it lacks of the events that are wanted, as after limits were declared.

    Raises OperatorError for a destination that is there and would not do, or whose signing secret is not here, and for
    two of them; and StripeNotConnectedError where the key may not make one. If the process dies between Stripe's answer
    and the secret, the next run says how to go on.
    """
    stripe = deployment.operators_stripe()
    found, wanted = destinations_of(stripe, url), wanted_by(deployment)
    if not found:
        return _make(deployment, stripe, url, wanted)
    if len(found) > 1:
        raise OperatorError(too_many(found))
    there = found[0]
    if not is_sent_thin(there):
        raise OperatorError(
            f"the event destination {there.id} has this address and {amiss(there, wanted)}. Change it in Stripe's "
            "dashboard, or delete it there and run this again"
        )
    if not deployment.has_signing_secret():
        raise OperatorError(f"the event destination {there.id} has this address, but no signing secret is here. {ROLL}")
    lacking = tuple(event for event in wanted if event not in there.enabled_events)
    if lacking:
        every = [*there.enabled_events, *lacking]
        stripe.call(lambda client: client.v2.core.event_destinations.update(there.id, {"enabled_events": every}))
    return Destined(there.id, made=False, parted=deployment.part_signing_secret(), added=lacking)


def destinations_of(stripe: StripeMeters, url: str) -> list[EventDestination]:
    """Return the event destinations of an address, the one to keep first: one that would do, and the eldest of these.

    So two commands that have made one each at the same time name the same.
    """

    def find(client: Any) -> list[EventDestination]:
        listed = client.v2.core.event_destinations.list({"include": ["webhook_endpoint.url"]})
        every = listed.auto_paging_iter()
        return [one for one in every if one.webhook_endpoint and one.webhook_endpoint.url == url]

    return sorted(stripe.call(find), key=lambda one: (bool(amiss(one, EVENTS)), one.created, one.id))


def too_many(found: Sequence[EventDestination]) -> str:
    """Say which of several event destinations of the address are to be deleted, in the order of destinations_of."""
    keep, *surplus = (one.id for one in found)
    return (
        f"{len(found)} event destinations have this address: delete {', '.join(surplus)} in Stripe's dashboard, and "
        f"keep {keep}. If notifications are refused then, roll its signing secret there and give it to "
        "'metering stripe webhook'"
    )


def is_sent_thin(there: EventDestination) -> bool:
    """Say whether a destination is as it has to be, but for the events that it is sent, which can be changed."""
    return bool(there.status == "enabled" and there.event_payload == "thin")


def amiss(there: EventDestination, wanted: Collection[str]) -> str:
    """Return how a destination is and which events are wanted, or nothing if it would do."""
    if is_sent_thin(there) and {*wanted} <= {*there.enabled_events}:
        return ""
    return (
        f"is {there.status}, with {there.event_payload} payloads of {', '.join(there.enabled_events)}: wanted are thin "
        f"payloads of {', '.join(wanted)}"
    )


def _make(deployment: Deployment, stripe: StripeMeters, url: str, wanted: Sequence[str]) -> Destined:
    made = stripe.call(
        lambda client: client.v2.core.event_destinations.create(
            {
                "name": f"Usage metering of {stripe.deployment}"[:100],
                "type": "webhook_endpoint",
                "event_payload": "thin",
                "enabled_events": [*wanted],
                "webhook_endpoint": {"url": url},
                "metadata": {DEPLOYMENT: stripe.deployment},
                "include": ["webhook_endpoint.signing_secret"],
            }
        )
    )
    secret = made.webhook_endpoint and made.webhook_endpoint.signing_secret
    if not secret:
        raise OperatorError(f"the event destination {made.id} is made, but Stripe told no signing secret. {ROLL}")
    try:
        there = destinations_of(stripe, url)
    except StripeUnavailableError:
        there = []  # the secret is shown but now; of two the next run tells
    if len(there) <= 1 or there[0].id == made.id:
        deployment.put_signing_secret(secret)
    if len(there) > 1:  # another command has made one at the same time
        raise OperatorError(too_many(there))
    return Destined(made.id, made=True)
