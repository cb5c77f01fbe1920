"""The local Stripe, wrong in a known way for each fact of the table: the fact's check has to fail on it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from decimal import ROUND_FLOOR
from fractions import Fraction
from functools import partial
from typing import Any, Final
from unittest.mock import patch

from infra.local.stripe import (
    account,
    api,
    billing,
    destinations,
    invoice,
    meter,
    price,
    reports,
    stream,
    subscribing,
    subscription,
)
from infra.local.stripe.account import Account
from infra.local.stripe.billing import Billing
from infra.local.stripe.customers import Customers
from infra.local.stripe.destinations import Destinations
from infra.local.stripe.event_log import EventLog
from infra.local.stripe.invoice import Invoice
from infra.local.stripe.meter import Meter, MeterEvent
from infra.local.stripe.params import StripeError
from infra.local.stripe.paying import Paying
from infra.local.stripe.price import Charge, Price
from infra.local.stripe.subscribing import Subscriptions
from infra.local.stripe.subscription import Item, Subscription

Break = Callable[[], AbstractContextManager[Any]]

_in_force, _add, _aggregate, _read_value = Meter.in_force, Meter.add, Meter.aggregate, Meter.read_value
_check_event, _summaries, _activate = Account.check_event, Account.list_event_summaries, Account._activate
_charges, _price_as_json, _lines, _usage = Price.charges, Price.as_json, Invoice.current_lines, Item.usage
_add_item, _period_at = Subscription.add_item, Subscription.period_at
_record = EventLog.record
_cycle = Billing._cycle
_preview, _refusal = Billing.create_preview, StripeError.__init__


def _by_timestamp(self: Meter, *where: Any) -> Iterator[MeterEvent]:
    customer, start, end, _, *until = where
    return _in_force(self, customer, start, end, "timestamp", *until)


def _of_whom_ever(self: Meter, event: MeterEvent) -> None:
    """Let an event replace those of all customers."""
    for by_window in self.counted.values():
        by_window.pop(event.timestamp - event.timestamp % self.window, None)
    _add(self, event)


def _last_hour_alone(self: Meter, events: Sequence[MeterEvent]) -> Any:
    return _aggregate(self, events[-1:])


def _of_at_least(least: int) -> Break:
    """Take values of at least so much, as v2 does of 1."""

    def read(self: Meter, payload: Any) -> Any:
        value = _read_value(self, payload)
        if value < least:
            raise StripeError(f"must be at least {least}")
        return value

    return partial(patch.object, Meter, "read_value", read)


def _knows_customers(self: Account, event_name: str, identifier: str, payload: Any, *when: Any) -> MeterEvent:
    event = _check_event(self, event_name, identifier, payload, *when)
    if event.customer not in self.customers:
        raise StripeError(f"No such customer: '{event.customer}'", code="resource_missing")
    return event


def _by_the_clock(self: Account, event_name: str, identifier: str, payload: Any, *when: Any) -> MeterEvent:
    timestamp, now = when
    time = self.billing.time_of(payload["stripe_customer_id"], now)
    return _check_event(self, event_name, identifier, payload, timestamp, time)


def _counted_since_now(self: Subscription, price: Price, quantity: int, now: int) -> Item:
    item = _add_item(self, price, quantity, now)
    item.since = now
    return item


def _since_the_start(self: Subscription, recurring: Any, moment: int) -> tuple[int, int]:
    _, end = _period_at(self, recurring, moment)
    return self.start_date, end


def _in_other_words(words: str, **other: Any) -> Break:
    """Refuse what is refused in these words in others, or with another code or status."""

    def begin(self: StripeError, message: str, **how: Any) -> None:
        if words in message:
            message, how = (message if other else "No."), how | other
        _refusal(self, message, **how)

    return partial(patch.object, StripeError, "__init__", begin)


def _of_a_new_name(self: Account, meter: Meter) -> None:
    """Let no meter have the name of another, whether that one is active or not."""
    if any(each.event_name == meter.event_name for each in self.meters.values()):
        raise StripeError("An active meter already exists")
    _activate(self, meter)


def _summed(self: Account, meter_id: str, given: Any, now: float) -> Any:
    """Sum up whatever is asked for, as if it were aligned."""
    return _summaries(self, meter_id, {name: value for name, value in given.items() if "window" not in name}, now)


def _oldest_first(self: Account, meter_id: str, given: Any, now: float) -> Any:
    page = _summaries(self, meter_id, given, now)
    return page | {"data": page["data"][::-1]}


def _with_empty_windows(self: Account, meter_id: str, given: Any, now: float) -> Any:
    page = _summaries(self, meter_id, given, now)
    return page | {"data": [*page["data"], *({**one, "aggregated_value": 0} for one in page["data"])]}


def _of_nobody(self: Account, meter_id: str, given: Any, now: float) -> Any:
    if given["customer"] in self.customers:
        return _summaries(self, meter_id, given, now)
    return {"object": "list", "data": [], "has_more": False, "url": ""}


def _rounded(self: Price, **how: Any) -> Any:
    shown = _price_as_json(self, **how)
    return shown | {"unit_amount_decimal": "0"}


def _since_its_period_began(self: Item, end: int) -> Any:
    part = _usage(self, end)
    return type(part)(part.customer, part.item, part.price, self.start, end, None)


def _none_listed(*_: Any) -> dict[str, Any]:
    return {"object": "list", "data": [], "has_more": False, "url": ""}


def _completed(*_: Any) -> dict[str, Any]:
    return {"status": "complete", "mode": "setup", "url": None}


def _up_to_its_end(self: Item, end: int) -> Any:
    return _usage(self, end + meter.HOUR - end % meter.HOUR)


def _invoiced_at_once(self: Subscription) -> Iterator[Any]:
    for item in self.items.values():
        yield item.usage(item.end)


def _anchored(given: Any, recurring: Any, start: int, now: int) -> int:
    """Move the anchor to the 28th, as a given one would."""
    del given, recurring, now
    return start - 3 * 86_400


def _changed(self: Invoice, measure: Any) -> Any:
    """Give a finalised invoice's lines by what the meters hold now."""
    finalised, self.finalized_at = self.finalized_at, None
    try:
        return _lines(self, measure)
    finally:
        self.finalized_at = finalised


def _named(request: dict[str, str]) -> Break:
    """Name events in another way in error reports."""
    return partial(patch.object, reports, "_samples", lambda *_: [{"error_message": "No.", "request": request}])


def _without(name: str) -> Break:
    """Leave something out of each line."""

    def lines(self: Invoice, measure: Any) -> Any:
        return [line | {name: None} for line in _lines(self, measure)]

    return partial(patch.object, Invoice, "current_lines", lines)


def _in_one(self: Price, quantity: Any, share: Fraction = Fraction(1)) -> Iterator[Charge]:
    """Put all tiers into one line."""
    charges = list(_charges(self, quantity, share))
    yield Charge("", quantity, charges[0].unit_amount, sum(charge.amount for charge in charges))


def _no_flat_fee(self: Price, quantity: Any, share: Fraction = Fraction(1)) -> Iterator[Charge]:
    return (charge for charge in _charges(self, quantity, share) if quantity or not charge.amount)


def _in_packages(self: Price, quantity: Any, share: Fraction = Fraction(1)) -> Iterator[Charge]:
    for charge in _charges(self, quantity, share):
        units = self.package.count(quantity) if self.package else quantity
        yield Charge(charge.text, int(units), charge.unit_amount, charge.amount)


def _below_nothing(self: Billing, part: Any, until: float | None = None) -> Any:
    meter = self.meters[part.price.recurring.meter or ""]
    return meter.aggregate(list(meter.in_force(part.customer, part.start, part.end, self.latest, until)))


@contextmanager
def _in_the_version_asked_for() -> Iterator[None]:
    """Give events with objects of the version of the call: every other answer has one without its lines."""
    listed, count = EventLog.list_events, iter(range(10**6))

    def list_events(self: EventLog, given: Any, now: float) -> Any:
        page = listed(self, given, now)
        if next(count) % 2:
            return page
        data = [{**event, "data": {"object": {"id": "", "object": "invoice"}}} for event in page["data"]]
        return page | {"data": data}

    with patch.object(EventLog, "list_events", list_events):
        yield


def _billed_again(self: Item, end: int) -> Any:
    """Bill usage since the item began, once more."""
    part = _usage(self, end)
    return type(part)(part.customer, part.item, part.price, self.since, end, None)


def _previewed(self: Billing, given: Any, now: float) -> Any:
    if "subscription" in given:
        return _preview(self, given, now)
    mine = [one.id for one in self.subscriptions.values() if one.customer == given["customer"]]
    return _preview(self, {"subscription": mine[0]}, now)


def _of_an_item(self: EventLog, kind: str, about: Any, at: int) -> None:
    """Name what it is about otherwise."""
    _record(self, kind, {**about, "id": "si_1"} if kind.startswith("customer.subscription.") else about, at)


def _not_told(what: str) -> Break:
    """Do not tell what happens to subscriptions of one kind."""

    def record(self: EventLog, kind: str, *rest: Any) -> None:
        if kind != f"customer.subscription.{what}":
            _record(self, kind, *rest)

    return partial(patch.object, EventLog, "record", record)


def _left_quietly(self: Billing, customer: str, at: int) -> None:
    for each in self.subscriptions.values():
        if each.customer == customer:
            each.canceled_at = at


def _goes_on(self: Billing, subscription: Subscription, moment: int) -> None:
    subscription.ends_with_period = False
    _cycle(self, subscription, moment)


def _gone(self: Billing, customer: str, _at: int) -> None:
    for name in [name for name, each in self.subscriptions.items() if each.customer == customer]:
        del self.subscriptions[name]


def _unchanged(self: Subscriptions, subscription: str, *_: Any) -> Any:
    return self.billing.subscriptions[subscription].as_json()


_of: Any = partial

BREAKS: Final[dict[str, Break]] = {
    "a_subscription_ends_with_its_period": _of(patch.object, Billing, "_cycle", _goes_on),
    "duplicate_identifier": _in_other_words("An event already exists with identifier"),
    "last_arrival_wins": _of(patch.object, Meter, "in_force", _by_timestamp),
    "hours_are_each_customers_own": _of(patch.object, Meter, "add", _of_whom_ever),
    "hours_add_up": _of(patch.object, Meter, "aggregate", _last_hour_alone),
    "thirty_five_days_back": _of(patch.object, account, "OLDEST", 37 * meter.DAY),
    "five_minutes_ahead": _of(patch.object, account, "NEWEST", meter.HOUR),
    "nothing_replaces_something": _of_at_least(1),
    "an_hour_may_be_negative": _of_at_least(0),
    "fifteen_digits": _of(patch.object, meter, "MAX_DIGITS", 16),
    "identifiers_of_a_hundred_characters": _of(patch.object, account, "text", lambda given, name, **_: given.get(name)),
    "no_active_meter": _in_other_words("No active meter found"),
    "unknown_customer_is_told_later": _of(patch.object, Account, "check_event", _knows_customers),
    "one_call_at_a_time_for_a_customer_and_meter": _in_other_words("This object cannot be accessed", code="rate_limit"),
    "a_call_too_many": _in_other_words("Request rate limit exceeded", code="lock_timeout"),
    "an_idempotency_key_is_answered_again": _of(patch.object, api, "IDEMPOTENCY_MEMORY", -1),
    "an_idempotency_key_remembers_a_500": _of(patch.object, api, "IDEMPOTENCY_MEMORY", -1),
    "an_idempotency_key_in_use": _in_other_words("There is currently another", status=400),
    "one_active_meter_of_a_name": _in_other_words("An active meter already exists"),
    "a_deactivated_meter_frees_its_name": _of(patch.object, Account, "_activate", _of_a_new_name),
    "summaries_are_aligned": _of(patch.object, Account, "list_event_summaries", _summed),
    "summaries_are_of_their_hours": _of(patch.object, Account, "list_event_summaries", _oldest_first),
    "empty_windows_are_left_out": _of(patch.object, Account, "list_event_summaries", _with_empty_windows),
    "summaries_of_an_unknown_customer": _of(patch.object, Account, "list_event_summaries", _of_nobody),
    "amounts_have_twelve_decimals": _of(patch.object, Price, "as_json", _rounded),
    "metered_prices_alone_make_no_first_invoice": _of(patch.object, Subscription, "first_parts", _invoiced_at_once),
    "the_thirty_first_stays": _of(patch.object, subscribing, "_anchor", _anchored),
    "a_deleted_customer_says_so": _of(patch.object, Customers, "remove", lambda *_: {}),
    "canceled_subscriptions_are_listed_with_all": _of(patch.object, Subscription, "status", "active"),
    "an_added_item_bills_from_then_on": _of(patch.object, Item, "usage", _since_its_period_began),
    "a_fee_needs_a_payment_method": _in_other_words("This customer has no attached"),
    "a_fee_is_paid_by_a_default_card": _of(patch.object, Subscriptions, "_paid", lambda *_: "incomplete"),
    "an_invoice_needs_an_address": _of(patch.object, Subscriptions, "_paid", lambda *_: "active"),
    "incomplete_subscriptions_are_listed": _of(patch.object, Subscriptions, "list_subscriptions", _none_listed),
    "checkout_takes_a_card": _of(patch.object, Paying, "create_checkout_session", _completed),
    "the_portal_has_an_address": _of(patch.object, Paying, "create_portal_session", lambda *_: {"url": ""}),
    "a_draft_cannot_be_voided": _of(patch.object, Billing, "void_invoice", Billing.retrieve_invoice),
    "the_last_invoice_ends_with_the_subscription": _of(patch.object, Item, "usage", _up_to_its_end),
    "a_removed_item_is_billed": _of(patch.object, subscribing, "_prorates", lambda *_: False),
    "an_ungrouped_summary_is_one": _of(patch.object, Account, "list_event_summaries", _with_empty_windows),
    "summaries_of_a_deleted_customer": _of(patch.object, Account, "list_event_summaries", _of_nobody),
    "an_attached_card_is_no_default": _of(patch.object, Subscriptions, "_paid", lambda *_: "active"),
    "a_preview_is_of_a_subscription": _of(patch.object, Billing, "create_preview", _previewed),
    "lines_name_price_item_and_period": _without("quantity_decimal"),
    "a_draft_takes_late_usage": _of(patch.object, billing, "DRAFT_TIME", 0),
    "a_finalised_invoice_never_changes": _of(patch.object, Invoice, "current_lines", _changed),
    "a_voided_invoice_bills_nothing": _of(patch.object, Item, "usage", _billed_again),
    "tiers_have_lines_that_add_up": _of(patch.object, Price, "charges", _in_one),
    "the_first_flat_fee_is_always_due": _of(patch.object, Price, "charges", _no_flat_fee),
    "a_package_line_has_what_was_used": _of(patch.object, Price, "charges", _in_packages),
    "lines_are_rounded_half_up": _of(patch.object, price, "ROUND_HALF_UP", ROUND_FLOOR),
    "less_than_nothing_is_nothing": _of(patch.object, Billing, "_measure", _below_nothing),
    "error_reports_are_thin_events": _named({"id": "req_1"}),
    "error_reports_name_the_event": _named({"identifier": "req_1"}),
    "a_destination_shows_its_secret_once": _of(patch.object, destinations, "SIGNING_SECRET", "none"),
    "a_destination_can_be_sent_more": _of(patch.object, Destinations, "update_destination", lambda *_: {}),
    "subscriptions_are_told_of_by_thin_events": _of(patch.object, EventLog, "record", _of_an_item),
    "a_change_is_told_of_as_an_update": _not_told("updated"),
    "an_end_is_told_of": _of(patch.object, Billing, "leave", _left_quietly),
    "a_list_of_subscriptions_is_new": _of(patch.object, Subscriptions, "update_subscription", _unchanged),
    "subscriptions_of_a_deleted_customer": _of(patch.object, Billing, "leave", _gone),
    "items_are_cut_at_ten": _of(patch.object, subscription, "EMBEDDED", 20),
    "lines_are_cut_at_ten": _of(patch.object, invoice, "EMBEDDED", 20),
    "a_final_invoice_can_be_looked_at": _of(
        patch.object, Invoice, "_addresses", lambda *_: {"hosted_invoice_url": None, "invoice_pdf": None}
    ),
    "lines_show_their_prices": _of(patch.object, billing, "expanded", lambda *_: set()),
    "the_stream_is_there_in_a_sandbox": _of(patch.object, Account, "take", lambda *_: None),
    "a_hundred_events_a_call": _of(patch.object, stream, "MOST_EVENTS", 1_000),
    "the_stream_refuses_what_is_busy": _in_other_words("Too many concurrent requests", status=429),
    "an_unknown_session_is_unauthorized": _in_other_words("Invalid meter event session token", status=400),
    "meter_events_go_by_the_real_time": _of(patch.object, Account, "check_event", _by_the_clock),
    "usage_before_the_making_is_billed_once": _of(patch.object, Subscription, "add_item", _counted_since_now),
    "ended_periods_are_not_invoiced": _of(patch.object, Subscription, "period_at", _since_the_start),
    "an_event_keeps_its_version": _in_the_version_asked_for,
    "a_session_lasts_fifteen_minutes": _of(patch.object, stream, "SESSION_TIME", 60),
}
