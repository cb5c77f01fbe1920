"""Stripe's notifications: whether one is Stripe's own, and which totals its event names."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import stripe

from metering.model.usage_row import named_by
from metering.stripe.meters import StripeMeters

LARGEST_BODY: Final = 64 * 1024
"""A notification names its event and holds nothing else, in less than 1 KB."""

ERROR_REPORT: Final = "v1.billing.meter.error_report_triggered"
NO_METER_FOUND: Final = "v1.billing.meter.no_meter_found"

OLDEST: Final = 300
"""Seconds after which a signature is too old: who has caught a notification cannot send it again later."""

NOT_STRIPES: Final = "the signature is not Stripe's, or too old"


class RefusedError(Exception):
    """A request that is no notification of Stripe's which concerns us; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Reads notifications. ``secret`` returns the endpoint's signing secret, which is empty if there is none."""

    meters: StripeMeters
    secret: Callable[[], str]

    def rejected(self, body: bytes, signature: str) -> dict[str, str]:
        """Return the identifiers of this deployment's totals that a notification's event names, with Stripe's words.

        Raises RefusedError for anything but a notification that Stripe signed within the last five minutes, and
        whatever error keeps the event from being read.
        """
        if len(body) > LARGEST_BODY:
            raise RefusedError(f"a body of at most {LARGEST_BODY} bytes was expected, got {len(body)}")
        if not signature.isascii():  # which the SDK compares and cannot
            raise RefusedError(NOT_STRIPES)
        secret = self.secret()
        if not secret:
            raise RefusedError("no signing secret is known: 'metering stripe webhook' puts it")
        try:
            stripe.WebhookSignature.verify_header(body.decode(), signature, secret, tolerance=OLDEST)
        except (stripe.SignatureVerificationError, UnicodeDecodeError) as error:
            raise RefusedError(NOT_STRIPES) from error
        return dict(self._named(self.meters.call(lambda client: _fetch(client, body))))

    def _named(self, event: Any) -> Iterator[tuple[str, str]]:
        concerns = self._concerned(getattr(event, "related_object", None))
        for kind in event.data.reason.error_types:
            for sample in kind.sample_errors:
                known_as = sample.request.identifier.partition("#")[0]
                try:
                    _, metric, _ = named_by(known_as)
                except ValueError:
                    continue
                if concerns(self.meters.event_name(metric)):
                    yield known_as, sample.error_message

    def _concerned(self, about: Any) -> Callable[[str], bool]:
        """Return whether an event about a meter, or about none that there is, concerns usage of an event name."""
        if about is None:
            there = self.meters.meters()
            return lambda event_name: event_name not in there
        meter = self.meters.call(lambda client: client.v1.billing.meters.retrieve(about.id))  # archived ones, too
        return lambda event_name: event_name == meter.event_name


def _fetch(client: stripe.StripeClient, body: bytes) -> Any:
    """Return the event that a notification names: a notification itself says no more than that."""
    try:
        notification = client.parse_event_notification_without_verification(body.decode())
        kind = notification.type
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise RefusedError("no notification of an event") from error
    if kind not in (ERROR_REPORT, NO_METER_FOUND):
        raise RefusedError(f"no event that concerns us: {kind[:80]!r}")
    return notification.fetch_event()
