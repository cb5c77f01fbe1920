"""What the local Stripe holds: meters, customers and meter events, by the rules Stripe documents. No I/O.

Time is an argument (seconds since the epoch). Objects have the shape of Stripe's API reference, and error messages are
Stripe's own where they are known. A method takes the decoded form of a request and gives the response's JSON object.
"""

import uuid
from collections.abc import Mapping
from typing import Any

from infra.local.stripe.billing import Billing
from infra.local.stripe.catalog import Catalog
from infra.local.stripe.clocks import Clocks
from infra.local.stripe.customers import Customers
from infra.local.stripe.destinations import Destinations
from infra.local.stripe.event_log import EventLog
from infra.local.stripe.meter import DAY, HOUR, Latest, Meter, MeterEvent, Quantity
from infra.local.stripe.params import (
    API_VERSION,
    PAGING,
    Params,
    StripeError,
    integer,
    mapping,
    nested,
    one_of,
    only,
    page,
    text,
)
from infra.local.stripe.paying import Paying
from infra.local.stripe.reports import NO_METER, Failure, Reports
from infra.local.stripe.subscribing import Subscriptions

MINUTE = 60
IDENTIFIER_MEMORY = 24 * HOUR  # docs.stripe.com/api/billing/meter-event/create: "a rolling period of at least 24 hours"
OLDEST, NEWEST = 35 * DAY, 5 * MINUTE  # the same page, `timestamp`
METER_PARAMS = ("customer_mapping", "default_aggregation", "display_name", "event_name", "event_time_window")


class Account:
    """One Stripe account in test mode, with nothing in it. Not safe for threads: the server guards it with a lock."""

    def __init__(
        self, latest: Latest = "arrival", summary_delay_s: float = 0.0, event_version: str = API_VERSION
    ) -> None:
        self.latest: Latest = latest
        self.summary_delay_s = summary_delay_s
        self.meters: dict[str, Meter] = {}
        self.active: dict[str, Meter] = {}  # by event name
        self.directory = Customers()
        self.customers = self.directory.customers
        self.events: list[MeterEvent] = []
        self.rejected_events: list[MeterEvent] = []
        self._accepted_at: dict[str, float] = {}  # by identifier
        self._unnamed = 0
        self.reports = Reports()
        self.destinations = Destinations()
        self.log = EventLog(event_version, self.reports)
        self.catalog = Catalog(self.meters, {}, {})
        self.billing = Billing(self.meters, self.customers, self.log, latest, summary_delay_s, self.directory.times)
        self.clocks = Clocks(self.billing, self.directory)
        self.subscriptions = Subscriptions(self.catalog, self.billing, self.directory)
        self.paying = Paying(self.directory)

    def create_meter_event(self, params: Params, now: float) -> dict[str, Any]:
        """Accept one meter event, or refuse it (docs.stripe.com/api/billing/meter-event/create).

        An unknown customer is no refusal: Stripe accepts the event and reports it later, as
        `meter_event_customer_not_found`. Such an event counts for nobody and stays in `rejected_events`.
        """
        only(params, "event_name", "identifier", "payload", "timestamp")
        event_name = text(params, "event_name", most=100)
        identifier = text(params, "identifier", default="", most=100)
        payload = mapping(params, "payload")
        timestamp = integer(params, "timestamp", default=int(now))
        event = self.check_event(event_name, identifier, payload, timestamp, now)
        if not self.first_of(event.identifier, now):
            raise StripeError(f"An event already exists with identifier {event.identifier}.", saved=True)
        self.take(event)
        return event.as_json()

    def first_of(self, identifier: str, now: float) -> bool:
        """Remember an identifier, and tell whether it is new."""
        accepted_at = self._accepted_at.get(identifier)
        if accepted_at is not None and now - accepted_at < IDENTIFIER_MEMORY:
            return False
        self._accepted_at[identifier] = now
        return True

    def take(self, event: MeterEvent) -> None:
        """Count a checked event, or note that its customer is unknown."""
        self.events.append(event)
        meter = self.active[event.event_name]
        if event.customer in self.customers:
            meter.add(event)
            return
        self.rejected_events.append(event)
        message = f"No customer found for the provided {meter.customer_key}: {event.customer}."
        failure = Failure("meter_event_customer_not_found", meter.id, message, event.identifier, event.created)
        self.reports.failures.append(failure)

    def target(self, params: Params) -> tuple[str, str | None]:
        """Name the meter and the customer of a meter event, as far as a form that is not yet checked tells."""
        event_name, payload = str(params.get("event_name")), params.get("payload")
        meter = self.active.get(event_name)
        if meter is None or not isinstance(payload, Mapping):
            return event_name, None
        customer = payload.get(meter.customer_key)
        return event_name, customer if isinstance(customer, str) else None

    def check_event(
        self, event_name: str, identifier: str, payload: Mapping[str, str], timestamp: int, now: float
    ) -> MeterEvent:
        """Check what a meter event says, in the order of the reference; the identifier may still be a repeat."""
        meter = self.active.get(event_name)
        if meter is None:
            raise StripeError(
                f'No active meter found for event name "{event_name}".',
                code="resource_missing",
                report="archived_meter" if self.meter_named(event_name) else NO_METER,
            )
        if timestamp < now - OLDEST:
            raise StripeError(
                "The event timestamp cannot be more than 35 days in past. "
                f"Expected a timestamp greater than or equal to {int(now - OLDEST)}.",
                param="timestamp",
                report="timestamp_too_far_in_past",
            )
        if timestamp > now + NEWEST:
            raise StripeError(
                "The event timestamp cannot be more than 5 minutes in the future. "
                f"Expected a timestamp less than or equal to {int(now + NEWEST)}.",
                param="timestamp",
                report="timestamp_in_future",
            )
        customer = payload.get(meter.customer_key)
        if not customer:
            raise StripeError(
                f"Missing required payload key: {meter.customer_key}.",
                param="payload",
                report="meter_event_no_customer_defined",
            )
        return MeterEvent(
            event_name=event_name,
            customer=customer,
            value=meter.read_value(payload),
            identifier=identifier or self.new_identifier(),
            timestamp=timestamp,
            created=int(now),
            payload=payload,
        )

    def meter_named(self, event_name: str) -> str | None:
        """Give the id of the newest meter with an event name, active or not."""
        named = [meter.id for meter in self.meters.values() if meter.event_name == event_name]
        return named[-1] if named else None

    def new_identifier(self) -> str:
        """Make an identifier for an event that has none."""
        self._unnamed += 1
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"meter event {self._unnamed}"))

    def create_meter(self, params: Params, now: float) -> dict[str, Any]:
        """Create a meter; no other active one may have its event name (docs.stripe.com/api/billing/meter/create)."""
        only(params, *METER_PARAMS, "value_settings")
        aggregation = nested(params, "default_aggregation", required=True)
        mapped = nested(params, "customer_mapping")
        one_of(mapped, "type", ("by_id",), default="by_id", within="customer_mapping")
        meter = Meter(
            id=f"mtr_test_{len(self.meters) + 1:014d}",
            created=int(now),
            display_name=text(params, "display_name", most=250),
            event_name=text(params, "event_name", most=100),
            formula=one_of(aggregation, "formula", ("count", "last", "sum"), within="default_aggregation"),
            event_time_window=one_of(params, "event_time_window", ("day", "hour"), default="") or None,
            customer_key=text(mapped, "event_payload_key", default="stripe_customer_id"),
            value_key=text(nested(params, "value_settings"), "event_payload_key", default="value"),
            updated=int(now),
        )
        self._activate(meter)
        self.meters[meter.id] = meter
        return meter.as_json()

    def list_meters(self, params: Params, _now: float) -> dict[str, Any]:
        """List meters, newest first, all or those of one `status` (docs.stripe.com/api/billing/meter/list)."""
        only(params, "status", *PAGING)
        status = one_of(params, "status", ("active", "inactive"), default="")
        found = [meter.as_json() for meter in reversed(self.meters.values())]
        return page([meter for meter in found if status in ("", meter["status"])], params, "/v1/billing/meters")

    def retrieve_meter(self, meter: str, params: Params, _now: float) -> dict[str, Any]:
        """Give one meter."""
        only(params)
        return self._meter(meter).as_json()

    def update_meter(self, meter: str, params: Params, now: float) -> dict[str, Any]:
        """Change a meter's display name; nothing else of it can change (docs.stripe.com/api/billing/meter/update)."""
        only(params, "display_name")
        changed = self._meter(meter)
        changed.display_name = text(params, "display_name", default=changed.display_name, most=250)
        changed.updated = int(now)
        return changed.as_json()

    def deactivate_meter(self, meter: str, params: Params, now: float) -> dict[str, Any]:
        """Accept no more events for a meter; what it holds stays."""
        only(params)
        changed = self._meter(meter)
        if changed.deactivated_at is None:
            changed.deactivated_at = changed.updated = int(now)
            del self.active[changed.event_name]
        return changed.as_json()

    def reactivate_meter(self, meter: str, params: Params, now: float) -> dict[str, Any]:
        """Accept events for a meter again, unless another one has its event name by now."""
        only(params)
        changed = self._meter(meter)
        if changed.deactivated_at is not None:
            self._activate(changed)
            changed.deactivated_at, changed.updated = None, int(now)
        return changed.as_json()

    def list_event_summaries(self, meter: str, params: Params, now: float) -> dict[str, Any]:
        """Sum up what a meter holds for a customer in [start_time, end_time), newest first.

        The source is docs.stripe.com/api/billing/meter-event-summary/list. Grouped, a window without events is left
        out; ungrouped, there is one summary whatever it holds. Events younger than `summary_delay_s` are not in it.
        """
        only(params, "customer", "start_time", "end_time", "value_grouping_window", *PAGING)
        summed = self._meter(meter)
        customer = text(params, "customer")
        start, end = integer(params, "start_time"), integer(params, "end_time")
        grouping = one_of(params, "value_grouping_window", ("day", "hour"), default="")
        unit, step = {"": ("minute", MINUTE), "hour": ("hour", HOUR), "day": ("UTC day", DAY)}[grouping]
        for name, moment in (("start_time", start), ("end_time", end)):
            if moment % step:
                raise StripeError(f"{name} must be aligned with {unit} boundaries, got {moment}.", param=name)
        if end <= start:
            raise StripeError(f"end_time must be after start_time, got {start} to {end}.", param="end_time")
        if customer not in self.customers:
            raise StripeError(f"No such customer: '{customer}'", code="resource_missing", param="customer")
        arrived_by = now - self.summary_delay_s if self.summary_delay_s else None
        events = list(summed.in_force(customer, start, end, self.latest, arrived_by))
        windows: dict[tuple[int, int], list[MeterEvent]] = {} if grouping else {(start, end): events}
        for event in events if grouping else ():
            opens = event.timestamp - event.timestamp % step
            windows.setdefault((opens, opens + step), []).append(event)
        summaries = [summed.summary(customer, *window, windows[window]) for window in sorted(windows, reverse=True)]
        return page(summaries, params, f"/v1/billing/meters/{meter}/event_summaries")

    def hour_totals(self) -> dict[tuple[str, str, int], Quantity]:
        """Give what Stripe would bill, after overwriting, by (customer, event name, start of the UTC hour)."""
        totals: dict[tuple[str, str, int], Quantity] = {}
        for meter in self.meters.values():
            for customer, by_window in meter.counted.items():
                hours: dict[int, list[MeterEvent]] = {}
                for event in meter.in_force(customer, min(by_window), max(by_window) + meter.window, self.latest):
                    hours.setdefault(event.timestamp - event.timestamp % HOUR, []).append(event)
                for hour, events in hours.items():
                    key = (customer, meter.event_name, hour)
                    totals[key] = totals.get(key, 0) + meter.aggregate(events)
        return totals

    def delete_customer(self, customer: str, params: Params, now: float) -> dict[str, Any]:
        """Delete a customer for good, which ends its subscriptions (docs.stripe.com/api/customers/delete)."""
        only(params)
        at = int(self.billing.time_of(customer, now))
        gone = self.directory.remove(customer)
        self.billing.leave(customer, at)
        return gone

    def _activate(self, meter: Meter) -> None:
        """Let a meter receive the events of its name, which no other active meter may have."""
        if meter.event_name in self.active:
            raise StripeError(
                f"An active meter already exists for event name '{meter.event_name}'. To create a new meter with the "
                "same event name, first deactivate the currently active meter.",
                saved=True,
            )
        self.active[meter.event_name] = meter

    def _meter(self, meter: str) -> Meter:
        """Find a meter by its id, or answer 404."""
        if meter not in self.meters:
            raise StripeError(f"No such billing meter: '{meter}'", status=404, code="resource_missing", param="id")
        return self.meters[meter]
