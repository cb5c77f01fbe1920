"""Making at Stripe what gets an id of Stripe's choice, such as a customer, once and not twice."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from stripe import StripeClient

from metering.model.subjects import short_id
from metering.stores.holders import Customer
from metering.stripe.client import StripeUnavailableError
from metering.stripe.meters import StripeMeters
from metering.stripe.prices import DEPLOYMENT, metadata_of

CUSTOMER: Final = "metering_customer"
ATTEMPTS: Final = 4
FIRST_FAILURE: Final = 500


def made_customer(stripe: StripeMeters, customer: Customer, email: str) -> str:
    """Make a customer at Stripe, and return its id there."""
    ours = {DEPLOYMENT: stripe.deployment, CUSTOMER: customer.id}
    parameters = {"name": customer.name, "metadata": ours} | ({"email": email} if email else {})

    def just_made() -> Any:
        newest = stripe.call(lambda client: client.v1.customers.list({"limit": 100}).data)
        return next((made for made in newest if metadata_of(made) == ours), None)

    made = make_once(
        stripe,
        f"customer.{stripe.deployment}.{short_id(customer.id)}",
        parameters,
        lambda given, options: lambda client: client.v1.customers.create(given, options),
        just_made,
    )
    return str(made.id)


def make_once(
    stripe: StripeMeters,
    what: str,
    parameters: Mapping[str, Any],
    make: Callable[[Any, Any], Callable[[StripeClient], Any]],
    find: Callable[[], Any],
) -> Any:
    """Make something whose id is Stripe's choice, once for the 24 hours that Stripe remembers a key.

    A key that met a failure of Stripe's own is answered with it ever after, and the thing may have been made all the
    same (API reference, "Idempotent requests"): so it is looked for, and then the next key is tried.
    """
    said = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]
    failure: StripeUnavailableError
    for attempt in range(ATTEMPTS):
        options = {"idempotency_key": f"{what}.{said}.{attempt}"}
        try:
            return stripe.call(make(dict(parameters), options))
        except StripeUnavailableError as error:
            if (getattr(error.__cause__, "http_status", None) or 0) < FIRST_FAILURE:
                raise
            failure = error
        if (made := find()) is not None:
            return made
    raise failure
