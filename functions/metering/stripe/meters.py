"""Stripe's meters, and their events.

Meters are made with ``event_time_window=hour``: within an hour the latest event of a customer replaces the earlier
ones, so an hour's absolute total can be posted again and corrected (Stripe API reference, "The Meter object").
"""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import stripe

from metering.model.periods import Hour
from metering.model.usage_row import Posting
from metering.stripe.answers import DUPLICATE, NO_METER
from metering.stripe.client import MeterMissingError, StripeAccount, StripeRejectedError

WINDOW: Final = "hour"
FORMULA: Final = "sum"

SHOWN_AFTER: Final = timedelta(hours=1)
"""How long Stripe may take to show what it has taken; the documents say "eventually", and name no time."""

STREAM_BATCH: Final = 100
"""The most events in one call of the event stream (Stripe API reference, "Create a meter event stream")."""

EVENTS_TO_A_CALL: Final = 10
"""So many events of the stream take as much of an account's rate as a call for one: 10,000 a second and 1,000 in live
mode (Stripe docs, "Rate limits")."""


@dataclass(frozen=True, slots=True)
class Meter:
    """A meter at Stripe; ``window`` is "hour", "day", or empty for none."""

    id: str
    event_name: str
    window: str
    formula: str


@dataclass(frozen=True, slots=True)
class StripeMeters(StripeAccount):
    """One deployment's meters."""

    def post(self, metric: str, posting: Posting) -> None:
        """Tell Stripe a total.

        Returning means that Stripe has it, from this attempt or an earlier one of the same identifier; any error means
        what its class says.
        """

        def send(client: stripe.StripeClient) -> None:
            client.v1.billing.meter_events.create(
                {
                    "event_name": self.event_name(metric),
                    "identifier": posting.identifier,
                    "timestamp": posting.timestamp,
                    "payload": {"stripe_customer_id": posting.stripe_customer, "value": str(posting.quantity)},
                },
                # Of its own for each attempt, since a saved answer of 500 would come again for ever; and it names the
                # posting, which is what Stripe's error reports know it by.
                {"max_network_retries": 0, "idempotency_key": f"{posting.identifier}#{secrets.token_hex(4)}"},
            )

        try:
            self.call(send)
        except StripeRejectedError as error:
            if error.means(DUPLICATE):
                return
            if error.means(NO_METER):
                raise MeterMissingError(str(error)) from error
            raise

    def stream(self, postings: Sequence[tuple[str, Posting]]) -> None:
        """Tell Stripe up to ``STREAM_BATCH`` totals, each with its metric, by the event stream.

        Returning means that Stripe has taken them and will look at each later. A session lasts for 15 minutes.
        """
        events: Any = [
            {
                "event_name": self.event_name(metric),
                "identifier": posting.identifier,
                "timestamp": datetime.fromtimestamp(posting.timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "payload": {"stripe_customer_id": posting.stripe_customer, "value": str(posting.quantity)},
            }
            for metric, posting in postings
        ]

        def send(client: stripe.StripeClient) -> None:
            self.in_session(client).v2.billing.meter_event_stream.create({"events": events}, {"max_network_retries": 0})

        self.call(send)

    def event_name(self, metric: str) -> str:
        """Return the name of a metric's meter: two deployments never share one."""
        return f"{self.deployment}_{metric}"

    def meters(self) -> dict[str, Meter]:
        """Return the active meters of the whole account, by event name."""

        def fetch(client: stripe.StripeClient) -> dict[str, Meter]:
            listed = client.v1.billing.meters.list({"status": "active", "limit": 100}).auto_paging_iter()
            return {
                meter.event_name: Meter(
                    meter.id, meter.event_name, meter.event_time_window or "", meter.default_aggregation.formula
                )
                for meter in listed
            }

        return self.call(fetch)

    def create_meter(self, metric: str) -> None:
        """Make a metric's meter. A second active meter of one name is refused by Stripe, so none is made twice."""
        self.call(
            lambda client: client.v1.billing.meters.create(
                {
                    "display_name": f"{metric} ({self.deployment})",
                    "event_name": self.event_name(metric),
                    "default_aggregation": {"formula": FORMULA},
                    "event_time_window": WINDOW,
                    "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
                    "value_settings": {"event_payload_key": "value"},
                }
            )
        )

    def total(self, meter: Meter, stripe_customer: str, first: Hour, end: Hour) -> int:
        """Return what Stripe holds for a customer from ``first`` up to ``end``, exclusive, in one number."""

        def fetch(client: stripe.StripeClient) -> list[Any]:
            moments: Any = {"start_time": int(first.start.timestamp()), "end_time": int(end.start.timestamp())}
            asked: Any = {"customer": stripe_customer, **moments}
            return client.v1.billing.meters.event_summaries.list(meter.id, asked).data

        return sum(int(summary.aggregated_value) for summary in self.call(fetch))

    def totals(
        self, meter: Meter, stripe_customer: str, first: Hour, end: Hour, *, window: Literal["hour", "day"] = "hour"
    ) -> dict[Hour, int]:
        """Return what Stripe holds for a customer from ``first`` up to ``end``, exclusive, by hour or by "day".

        A day is named by its first hour, and with it the period must begin and end at midnight (UTC).
        Eventually consistent: Stripe adds up events some minutes after it took them.
        """

        def fetch(client: stripe.StripeClient) -> Iterator[tuple[Hour, int]]:
            summaries = client.v1.billing.meters.event_summaries.list(
                meter.id,
                {
                    "customer": stripe_customer,
                    "start_time": int(first.start.timestamp()),
                    "end_time": int(end.start.timestamp()),
                    "value_grouping_window": window,
                    "limit": 100,
                },
            )
            for summary in summaries.auto_paging_iter():
                yield Hour.of_epoch_ms(summary.start_time * 1000), int(summary.aggregated_value)

        return dict(self.call(lambda client: list(fetch(client))))
