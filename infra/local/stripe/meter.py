"""What a billing meter is, and what its events add up to: plain data and pure rules."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from infra.local.stripe.params import StripeError

HOUR, DAY = 3_600, 86_400  # seconds
MAX_DIGITS = 15  # significant ones
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)

INVALID_VALUE = "meter_event_invalid_value"

Latest = Literal["arrival", "timestamp"]
Quantity = int | Decimal


@dataclass(frozen=True, slots=True)
class MeterEvent:
    """One accepted call of `POST /v1/billing/meter_events`. `timestamp` and `created` are seconds since the epoch."""

    event_name: str
    customer: str
    value: Quantity
    identifier: str
    timestamp: int
    created: int
    payload: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Give the meter event object (docs.stripe.com/api/billing/meter-event/object)."""
        return {
            "object": "billing.meter_event",
            "created": self.created,
            "event_name": self.event_name,
            "identifier": self.identifier,
            "livemode": False,
            "payload": dict(self.payload),
            "timestamp": self.timestamp,
        }


@dataclass(slots=True)
class Meter:
    """A billing meter; immutable but for its display name and status (docs.stripe.com/api/billing/meter/object)."""

    id: str
    created: int
    display_name: str
    event_name: str
    formula: str
    event_time_window: str | None
    customer_key: str
    value_key: str
    updated: int
    deactivated_at: int | None = None
    counted: dict[str, dict[int, list[MeterEvent]]] = field(default_factory=dict)  # by customer, by start of window

    @property
    def window(self) -> int:
        """The seconds of a window; a meter that has none keeps its events by the hour."""
        return DAY if self.event_time_window == "day" else HOUR

    def add(self, event: MeterEvent) -> None:
        """Take an event of a known customer into account."""
        by_window = self.counted.setdefault(event.customer, {})
        by_window.setdefault(event.timestamp - event.timestamp % self.window, []).append(event)

    def in_force(
        self, customer: str, start: int, end: int, latest: Latest, until: float | None = None
    ) -> Iterator[MeterEvent]:
        """Yield the customer's events that count in [start, end): all of them, or the latest of each window.

        Where `until` is given (seconds since the epoch), events that arrived after it are not there yet.

        "Stripe only uses the most recent meter event within the hourly or daily window"
        (docs.stripe.com/billing/subscriptions/usage-based/meters/configure): most recent by arrival or by timestamp.
        """
        for window_start, events in self.counted.get(customer, {}).items():
            if window_start + self.window <= start or window_start >= end:
                continue
            chosen: Sequence[MeterEvent] = events
            if until is not None:
                chosen = [event for event in events if event.created <= until]
            if self.event_time_window is not None and chosen:
                chosen = [chosen[-1] if latest == "arrival" else _newest(chosen)]
            yield from (event for event in chosen if start <= event.timestamp < end)

    def aggregate(self, events: Sequence[MeterEvent]) -> Quantity:
        """Reduce events by the meter's formula; nothing is 0."""
        if self.formula == "count":
            return len(events)
        if self.formula == "last":
            return _newest(events).value if events else 0
        return sum((event.value for event in events), start=0)

    def read_value(self, payload: Mapping[str, str]) -> Quantity:
        """Read an event's value; a counting meter needs none. A whole number is an int."""
        written = payload.get(self.value_key)
        if written is None and self.formula == "count":
            return 1
        if written is None:
            raise StripeError(f"Missing required payload key: {self.value_key}.", param="payload", report=INVALID_VALUE)
        if not NUMBER.fullmatch(written):
            message = f"Invalid value: {written!r} is not a number."
            raise StripeError(message, param=f"payload[{self.value_key}]", report=INVALID_VALUE)
        if len(written.lstrip("+-0.").replace(".", "")) > MAX_DIGITS:
            raise StripeError(
                f"Invalid value: {written} has more than {MAX_DIGITS} significant digits.",
                param=f"payload[{self.value_key}]",
                report="meter_event_value_too_many_digits",
            )
        exact = Decimal(written)
        return int(exact) if exact == exact.to_integral_value() else exact

    def summary(self, customer: str, start: int, end: int, events: Sequence[MeterEvent]) -> dict[str, Any]:
        """Give a meter event summary object; its id is derived, so that it can serve as a cursor on the next page."""
        total = self.aggregate(events)
        digest = hashlib.sha256(f"{self.id} {customer} {start} {end}".encode()).hexdigest()
        return {
            "id": f"mtrusg_test_{digest[:24]}",
            "object": "billing.meter_event_summary",
            "aggregated_value": total if isinstance(total, int) else float(total),
            "end_time": end,
            "livemode": False,
            "meter": self.id,
            "start_time": start,
        }

    def as_json(self) -> dict[str, Any]:
        """Give the meter object."""
        return {
            "id": self.id,
            "object": "billing.meter",
            "created": self.created,
            "customer_mapping": {"event_payload_key": self.customer_key, "type": "by_id"},
            "default_aggregation": {"formula": self.formula},
            "display_name": self.display_name,
            "event_name": self.event_name,
            "event_time_window": self.event_time_window,
            "livemode": False,
            "status": "active" if self.deactivated_at is None else "inactive",
            "status_transitions": {"deactivated_at": self.deactivated_at},
            "updated": self.updated,
            "value_settings": {"event_payload_key": self.value_key},
        }


def _newest(events: Sequence[MeterEvent]) -> MeterEvent:
    """Give the event with the greatest timestamp; of equal ones, the one that arrived last."""
    return max(enumerate(events), key=lambda numbered: (numbered[1].timestamp, numbered[0]))[1]
