"""Receiving: Stripe's word, hours or days later, that it could not use a total which it had accepted.

Nothing depends on it: what Stripe does not hold is found by the hourly look as well. But Stripe's own words say why.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import stripe
from aws_lambda_powertools import Logger

from metering.model.usage_row import named_by, rejected_later
from metering.stores.ledger import Ledger
from metering.stores.table import RowChangedError
from metering.stripe.meters import StripeMeters

logger = Logger(child=True)

LARGEST_BODY: Final = 64 * 1024
"""A notification names its event and holds nothing else, in less than 1 KB."""

ERROR_REPORT: Final = "v1.billing.meter.error_report_triggered"
NO_METER_FOUND: Final = "v1.billing.meter.no_meter_found"

OLDEST: Final = 300
"""Seconds after which a signature is too old: who has caught a notification cannot send it again later."""

_ROUNDS: Final = 5


class RefusedError(Exception):
    """A request that is no notification of Stripe's which concerns us; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """Marks what Stripe reports. ``secret`` returns the endpoint's signing secret, which is empty if there is none."""

    ledger: Ledger
    meters: StripeMeters
    secret: Callable[[], str]

    def receive(self, body: bytes, signature: str) -> dict[str, str]:
        """Mark the totals that a notification's event names; return what was rejected, with Stripe's words.

        Raises RefusedError for anything but a notification that Stripe signed within the last five minutes, and
        whatever error keeps it from being dealt with, so that Stripe sends it again.
        """
        if len(body) > LARGEST_BODY:
            raise RefusedError(f"a body of at most {LARGEST_BODY} bytes was expected, got {len(body)}")
        secret = self.secret()
        if not secret:
            raise RefusedError("no signing secret is known: 'metering stripe webhook' puts it")
        try:
            stripe.WebhookSignature.verify_header(body.decode(), signature, secret, tolerance=OLDEST)
        except (stripe.SignatureVerificationError, UnicodeDecodeError) as error:
            raise RefusedError("the signature is not Stripe's, or too old") from error
        event = self.meters.call(lambda client: _fetch(client, body))
        return {known_as: words for known_as, words in self._named(event) if self._mark(known_as, words)}

    def _named(self, event: Any) -> Iterator[tuple[str, str]]:
        """Yield the identifiers that an event names, as far as they are of this deployment's meters."""
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

    def _mark(self, known_as: str, words: str) -> bool:
        """Mark a total as rejected, unless another one has taken its place."""
        subject, _, hour = named_by(known_as)
        for _ in range(_ROUNDS):
            (row,) = self.ledger.rows.at(hour, [subject]).values()
            after = rejected_later(row, known_as, words)
            if after is row:
                return False
            try:
                self.ledger.rows.save(after)
            except RowChangedError:
                continue
            logger.warning("Stripe rejected usage later", identifier=known_as, reason=words)
            return True
        raise RowChangedError(f"the row of {known_as} kept changing")


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
