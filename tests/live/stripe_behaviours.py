"""What the code depends on of Stripe: each fact once, with its source, how sure it is, and how it is seen.

The same table is played against the local Stripe and against a sandbox of Stripe's own (`test_stripe.py`). What is not
documented and was not observed is on a page of its own, with what would go wrong if it were otherwise.

A fact is a sentence about Stripe, never about our code. Its check makes real calls and asserts on the answers, for any
account in test mode; it has to fail if Stripe did otherwise, which `stripe_breaks.py` shows on the local one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum, unique
from typing import Any, Final

import pytest
import stripe

from infra.local.stripe.faults import METER_EVENT_STREAM, Fault
from tests.live.stripe_place import DAY, DESTINATION, HOUR, PREFIX, Customer, Place

Check = Callable[[Place], None]


@unique
class Certainty(StrEnum):
    """How sure a fact is."""

    DOCUMENTED = "documented"
    """Stripe's documents say so, or its SDK, which is made from Stripe's OpenAPI description."""
    OBSERVED = "observed"
    """Somebody wrote down what the real Stripe did."""
    UNCONFIRMED = "unconfirmed"
    """Neither: the reading that is built upon, and the local Stripe's."""


@unique
class Where(StrEnum):
    """Against which Stripe a fact can be played."""

    BOTH = "both"
    LOCAL = "the local Stripe alone"
    """Nobody can bring it about at Stripe's own, or not without harm to whoever else uses the sandbox."""
    SANDBOX = "a sandbox alone"
    """The local Stripe does not have it."""
    NOWHERE = "nowhere"
    """It takes days, or live mode."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One fact: what Stripe does, who says so, and what would go wrong if it were otherwise."""

    name: str
    says: str
    source: str
    certainty: Certainty
    otherwise: str
    where: Where
    check: Check | None


BEHAVIOURS: Final[dict[str, Behaviour]] = {}

DOCUMENTED, OBSERVED, UNCONFIRMED = Certainty

RECORDING = "docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api, 2026-05"
CONFIGURING = "docs.stripe.com/billing/subscriptions/usage-based/meters/configure, 2026-05"
LIMITS = "docs.stripe.com/rate-limits, 2026-10"
SDK = "stripe-python 16.1.0 (API 2026-10-28.endive)"


def behaviour(
    says: str, source: str, certainty: Certainty, *, otherwise: str, where: Where = Where.BOTH
) -> Callable[[Check], Check]:
    """Put a fact into the table, with the function that sees it; it has the function's name."""

    def register(check: Check) -> Check:
        name = check.__name__
        BEHAVIOURS[name] = Behaviour(name, says, source, certainty, otherwise, where, check)
        return check

    return register


def unseen(name: str, says: str, source: str, certainty: Certainty, *, otherwise: str) -> None:
    """Put a fact into the table that no test can see."""
    BEHAVIOURS[name] = Behaviour(name, says, source, certainty, otherwise, Where.NOWHERE, None)


def refused(call: Callable[[], Any], *statuses: int) -> Any:
    """Make a call that has to be refused with 400, or one of these statuses; return Stripe's error."""
    with pytest.raises(stripe.StripeError) as caught:
        call()
    assert caught.value.http_status in (statuses or (400,)), f"{caught.value.http_status}: {caught.value.user_message}"
    return caught.value


def conflicts(stripe: Place, made: Callable[[], Callable[[], Any]]) -> list[Any]:
    """Return the refusals of one call that is made many times at once; skip where no two were made at the same time."""
    for _ in range(50 if stripe.local else 1):
        outcomes = stripe.at_once([made()] * 12)
        if errors := [outcome for outcome in outcomes if isinstance(outcome, Exception)]:
            return errors
    pytest.skip("the calls did not meet, which nobody can make them do")


# --- Meter events


@behaviour(
    "A meter event whose identifier was used is refused: 400, `invalid_request_error`, without a code, in the words "
    '"An event already exists with identifier …".',
    "langfuse/langfuse#16292, 2026",
    OBSERVED,
    otherwise="A total that Stripe has is taken for rejected: an alarm, and nothing billed wrongly.",
)
def duplicate_identifier(stripe: Place) -> None:
    """Post one event twice."""
    meter, customer, identifier = stripe.meter(), stripe.customer(), stripe.named("event")
    stripe.post(meter, customer.id, 5, stripe.hour(), identifier)
    error = refused(lambda: stripe.post(meter, customer.id, 5, stripe.hour(), identifier))
    assert error.json_body["error"]["type"] == "invalid_request_error"
    assert "code" not in error.json_body["error"]
    assert error.json_body["error"]["message"].startswith(f"An event already exists with identifier {identifier}")


unseen(
    "identifiers_are_unique_for_a_day",
    "An identifier is unique for at least 24 hours.",
    f"{SDK}, `MeterEventCreateParams.identifier`",
    DOCUMENTED,
    otherwise="A total that is sent again after an hour replaces a newer one, until the hourly look corrects it.",
)


@behaviour(
    "Of a meter of `event_time_window=hour`, the event that arrived last in an hour is the only one that counts, "
    "whatever its timestamp within the hour.",
    f'{CONFIGURING}: "the most recently received meter event in that time interval"',
    DOCUMENTED,
    otherwise="Every correction of an hour is wrong: the older total counts, or both.",
)
def last_arrival_wins(stripe: Place) -> None:
    """Post a smaller total of an earlier second after a greater one of a later."""
    meter, customer, hour = stripe.meter(), stripe.customer(), stripe.hour()
    stripe.post(meter, customer.id, 5, hour + 1_200)
    stripe.post(meter, customer.id, 3, hour + 600)
    assert stripe.held(meter, customer, hour, hour + HOUR, 3) == 3


@behaviour(
    "An event replaces those of its own customer alone: two customers in one hour are two totals.",
    'the only sensible reading of "for each customer"; no page says so of the window',
    UNCONFIRMED,
    otherwise="Of all customers with usage in an hour one is billed.",
)
def hours_are_each_customers_own(stripe: Place) -> None:
    """Post the same hour for two."""
    meter, one, two, hour = stripe.meter(), stripe.customer(), stripe.customer(), stripe.hour()
    stripe.post(meter, one.id, 5, hour + 60)
    stripe.post(meter, two.id, 7, hour + 60)
    assert stripe.held(meter, two, hour, hour + HOUR, 7) == 7
    assert stripe.held(meter, one, hour, hour + HOUR, 5) == 5


@behaviour(
    "The hours of a meter of `event_time_window=hour` and formula `sum` add up.",
    f"{CONFIGURING}",
    DOCUMENTED,
    otherwise="A day or a month is billed as its last hour.",
)
def hours_add_up(stripe: Place) -> None:
    """Post two hours of a day."""
    meter, customer, day = stripe.meter(), stripe.customer(), stripe.midnight()
    stripe.post(meter, customer.id, 5, day + 2 * HOUR)
    stripe.post(meter, customer.id, 7, day + 3 * HOUR)
    assert stripe.held(meter, customer, day, day + DAY, 12) == 12


@behaviour(
    'An event of 34 days ago is taken; one of 36 days is refused with 400: "cannot be more than 35 days in past".',
    f"{RECORDING}; the words observed on a real account",
    OBSERVED,
    otherwise="Late usage is carried into the running hour too early or not at all.",
)
def thirty_five_days_back(stripe: Place) -> None:
    """Post on either side of the bound."""
    meter, customer = stripe.meter(), stripe.customer()
    stripe.post(meter, customer.id, 1, stripe.now - 34 * DAY)
    error = refused(lambda: stripe.post(meter, customer.id, 1, stripe.now - 36 * DAY))
    assert "cannot be more than 35 days in past" in str(error)


@behaviour(
    "An event of up to 5 minutes ahead is taken, one of 10 minutes refused with 400.",
    RECORDING,
    DOCUMENTED,
    otherwise="A fast clock has totals rejected.",
)
def five_minutes_ahead(stripe: Place) -> None:
    """Post on either side of the bound."""
    meter, customer = stripe.meter(), stripe.customer()
    stripe.post(meter, customer.id, 1, stripe.now + 120)
    refused(lambda: stripe.post(meter, customer.id, 1, stripe.now + 600))


@behaviour(
    "An hour's total of 0 is taken and replaces the one before.",
    'v1 asks for "whole numbers"; v2 for "a positive integer" (docs.stripe.com/api/v2/billing/meter-event, 2026)',
    UNCONFIRMED,
    otherwise="A correction to nothing is rejected, and the hour stays billed.",
)
def nothing_replaces_something(stripe: Place) -> None:
    """Post 5, then 0."""
    meter, customer, hour = stripe.meter(), stripe.customer(), stripe.hour()
    stripe.post(meter, customer.id, 5, hour + 60)
    stripe.post(meter, customer.id, 0, hour + 60)
    assert stripe.held(meter, customer, hour, hour + HOUR, 0) == 0


@behaviour(
    "An hour may be negative; it lowers what the period adds up to.",
    f'{RECORDING}: "If the overall cycle usage is negative, Stripe reports … 0"',
    DOCUMENTED,
    otherwise="Nothing yet: what is owed to a customer is carried so that no hour is less than nothing.",
)
def an_hour_may_be_negative(stripe: Place) -> None:
    """Post two hours."""
    meter, customer, day = stripe.meter(), stripe.customer(), stripe.midnight()
    stripe.post(meter, customer.id, 9, day + 2 * HOUR)
    stripe.post(meter, customer.id, -4, day + 3 * HOUR)
    assert stripe.held(meter, customer, day, day + DAY, 5) == 5


@behaviour(
    "A value of 15 digits is taken, one of more refused with 400.",
    f"{SDK}: `meter_event_value_too_many_digits` in error reports; v1's reference: more than 15 digits are refused",
    DOCUMENTED,
    otherwise="Totals of 15 digits, to which they are bounded, are rejected.",
)
def fifteen_digits(stripe: Place) -> None:
    """Post on either side of the bound."""
    meter, customer, hour = stripe.meter(), stripe.customer(), stripe.hour()
    stripe.post(meter, customer.id, 999_999_999_999_999, hour)
    refused(lambda: stripe.post(meter, customer.id, 1_234_567_890_123_456, hour))


@behaviour(
    "An identifier of 100 characters is taken, one of more refused with 400.",
    "tiger_stripe 0.1.10 (made from Stripe's OpenAPI description)",
    DOCUMENTED,
    otherwise="Long names of metrics have their totals rejected.",
)
def identifiers_of_a_hundred_characters(stripe: Place) -> None:
    """Post on either side of the bound."""
    meter, customer, name = stripe.meter(), stripe.customer(), stripe.named("event")
    stripe.post(meter, customer.id, 1, stripe.hour(), name.ljust(100, "x"))
    refused(lambda: stripe.post(meter, customer.id, 1, stripe.hour(), name.ljust(101, "x")))


@behaviour(
    "An event name without an active meter is refused at once: 400, "
    '"No active meter found for event name …". So is that of an archived meter.',
    "the words stand in what others wrote of the real Stripe, 2025 to 2026, of a name that no meter has",
    OBSERVED,
    otherwise="Totals are rejected for good, instead of waiting for the meter.",
)
def no_active_meter(stripe: Place) -> None:
    """Post to a name of no meter, and to one whose meter is archived."""
    customer, name = stripe.customer(), stripe.named("nothing")
    assert f'No active meter found for event name "{name}"' in str(
        refused(lambda: stripe.post(name, customer.id, 1, stripe.hour()))
    )
    meter = stripe.meter()
    stripe.client.v1.billing.meters.deactivate(meter.id)
    assert "No active meter found" in str(refused(lambda: stripe.post(meter, customer.id, 1, stripe.hour())))


@behaviour(
    "An event of a customer that there is not is accepted; an error report tells of it later.",
    f"{RECORDING}: `meter_event_customer_not_found` among the asynchronous errors; whether v1 refuses at once as well "
    "is not said",
    UNCONFIRMED,
    otherwise="The total is rejected at once, which is told sooner: both ways are handled.",
)
def unknown_customer_is_told_later(stripe: Place) -> None:
    """Post for one."""
    event = stripe.post(stripe.meter(), "cus_thereisnone", 1, stripe.hour())
    assert event.object == "billing.meter_event"


@behaviour(
    "While a call for a customer and a meter is answered, another one for both is answered 429 with the code "
    "`lock_timeout` in its body, and without a `Stripe-Rate-Limited-Reason`.",
    f"{LIMITS}; {RECORDING}: one concurrent call per customer per meter",
    DOCUMENTED,
    otherwise="One busy customer halves the pace of the whole account.",
)
def one_call_at_a_time_for_a_customer_and_meter(stripe: Place) -> None:
    """Post many totals of one hour at once."""
    meter, customer, hour = stripe.meter(), stripe.customer(), stripe.hour()
    for error in conflicts(stripe, lambda: lambda: stripe.post(meter, customer.id, 1, hour)):
        assert (error.http_status, error.json_body["error"]["code"]) == (429, "lock_timeout")
        assert "stripe-rate-limited-reason" not in {name.lower() for name in error.headers}


@behaviour(
    "A call too many is answered 429 with the code `rate_limit` and a `Stripe-Rate-Limited-Reason`; "
    "the SDK does not send it again unless `Stripe-Should-Retry` says so.",
    f"{LIMITS}; {SDK}, tried",
    DOCUMENTED,
    otherwise="The account's limit is taken for one busy customer, and the pace is kept.",
    where=Where.LOCAL,
)
def a_call_too_many(stripe: Place) -> None:
    """Have one refused so."""
    meter, customer = stripe.meter(), stripe.customer()
    assert stripe.local is not None
    stripe.local.set_faults([Fault.RATE_LIMITED])
    error = refused(lambda: stripe.post(meter, customer.id, 1, stripe.hour(), max_network_retries=2), 429)
    assert error.json_body["error"]["code"] == "rate_limit"
    assert "stripe-rate-limited-reason" in {name.lower() for name in error.headers}


@behaviour(
    "Meter events are dated by the real time, also those of a customer on a test clock.",
    "no page says so",
    UNCONFIRMED,
    otherwise="Nothing but these tests: a sandbox's invoices cannot be tried as they are.",
)
def meter_events_go_by_the_real_time(stripe: Place) -> None:
    """Post an hour of today for somebody of two months ago."""
    meter, hour = stripe.meter(), stripe.hour()
    customer = stripe.customer(at=stripe.now - 60 * DAY)
    stripe.post(meter, customer.id, 5, hour)
    assert stripe.held(meter, customer, hour, hour + HOUR, 5) == 5


unseen(
    "a_thousand_meter_events_a_second",
    "An account takes 1,000 meter events a second in live mode; in a sandbox they count against 25 calls.",
    f"{RECORDING}; {LIMITS}",
    DOCUMENTED,
    otherwise="Workers post slower than Stripe takes, or are told to.",
)


unseen(
    "twenty_five_calls_a_second",
    "Each endpoint takes 25 calls a second unless its page says otherwise, a sandbox 25 in all.",
    LIMITS,
    DOCUMENTED,
    otherwise="Looks are slower than they might be, or wait when they are told to.",
)

unseen(
    "five_hundred_reads_a_transaction",
    "An account is allotted 500 reads for each transaction over 30 days, and at least 10,000 a month.",
    LIMITS,
    DOCUMENTED,
    otherwise="Fewer customers are looked at in a month than might be, or more; what Stripe does then is not said.",
)


# --- Error reports


@behaviour(
    "An event that could not be counted is told of later by a thin event about its meter, which names a few such "
    "by `request.identifier` or by `request.idempotency_key`.",
    "docs.stripe.com/api/v2/core/events/object and the guide to recording usage, which differ in the name",
    DOCUMENTED,
    otherwise="A rejected total is found by the hourly look, an hour later.",
)
def error_reports_are_thin_events(stripe: Place) -> None:
    """Post for nobody, and look at the reports that there are."""
    stripe.post(stripe.meter(), "cus_thereisnone", 1, stripe.hour())
    reports = stripe.reports()
    if not reports and not stripe.local:
        pytest.skip("no report yet: there is one when this is played again some hours later")
    assert reports
    for report in reports:
        assert report.related_object.type == "billing.meter"
        for kind in report.data.reason.error_types:
            assert kind.code
            for sample in kind.sample_errors:
                assert sample.error_message
                assert sample.request.to_dict().keys() & {"identifier", "idempotency_key"}


@behaviour(
    "What an error report names is the event's own identifier, or the idempotency key of its call.",
    'the reference calls it "the request idempotency key"; no page says it of the event',
    UNCONFIRMED,
    otherwise="A report marks nothing as rejected; the hourly look finds it.",
)
def error_reports_name_the_event(stripe: Place) -> None:
    """Post for nobody under a name and a key that begins with it."""
    identifier = stripe.named("event")
    how = {"idempotency_key": f"{identifier}#1"}
    stripe.post(stripe.meter(), "cus_thereisnone", 1, stripe.hour(), identifier, **how)
    named = [
        name
        for report in stripe.reports()
        for kind in report.data.reason.error_types
        for sample in kind.sample_errors
        for name in sample.request.to_dict().values()
        if str(name).startswith(PREFIX)
    ]
    if not named and not stripe.local:
        pytest.skip("no report of such a name yet: there is one when this is played again some hours later")
    assert identifier in {name.partition("#")[0] for name in named} or not stripe.local
    assert named


unseen(
    "reports_name_a_few",
    "An error report names up to five events of each kind of error.",
    'no page says how many "sample errors" there are',
    UNCONFIRMED,
    otherwise="More or fewer rejected totals are found by the hourly look instead.",
)


@behaviour(
    "An event destination shows its signing secret in the answer that makes it, if asked to include it, and afterwards "
    "its address alone.",
    f"{SDK}, `EventDestination.WebhookEndpoint`",
    DOCUMENTED,
    otherwise="`metering stripe webhook` has no secret to keep, and asks for it.",
)
def a_destination_shows_its_secret_once(stripe: Place) -> None:
    """Make one, and look for it."""
    made = stripe.destination()
    assert str(made.webhook_endpoint.signing_secret).startswith("whsec_")
    listed = stripe.client.v2.core.event_destinations.list({"include": ["webhook_endpoint.url"]}).auto_paging_iter()
    [shown] = [one for one in listed if one.id == made.id]
    assert shown.webhook_endpoint
    assert shown.webhook_endpoint.url == DESTINATION
    assert not getattr(shown.webhook_endpoint, "signing_secret", None)


unseen(
    "a_new_destination_is_pinged",
    "A new event destination is sent `v2.core.event_destination.ping`.",
    "observed of one that was made in the Dashboard; of one made by the API no page says so",
    UNCONFIRMED,
    otherwise="Nothing: whatever is signed is answered 200.",
)


@behaviour(
    "Which events a destination is sent can be changed.",
    f"{SDK}, `EventDestinationUpdateParams.enabled_events`",
    DOCUMENTED,
    otherwise="`metering stripe webhook` cannot add what a destination from before there were limits lacks.",
)
def a_destination_can_be_sent_more(stripe: Place) -> None:
    """Add a kind of events."""
    made = stripe.destination()
    every = [*made.enabled_events, "v1.customer.subscription.updated"]
    destinations = stripe.client.v2.core.event_destinations
    destinations.update(made.id, {"enabled_events": every})
    [shown] = [one for one in destinations.list().auto_paging_iter() if one.id == made.id]
    assert sorted(shown.enabled_events) == sorted(every)


# --- What happens to subscriptions


@behaviour(
    "What happens to a subscription is told by a thin event, which is called as it is in v1 after `v1.`, and names the "
    "subscription and where to read it.",
    "docs.stripe.com/changelog/endive/2026-09-30/thin-events-for-api-v1-resources-generally-available",
    DOCUMENTED,
    otherwise="Limits know a day later, or a week, what a customer is subscribed to, and whether it pays.",
)
def subscriptions_are_told_of_by_thin_events(stripe: Place) -> None:
    """Make one."""
    made = stripe.subscribe(stripe.customer(), stripe.price(stripe.meter()))
    told = [event.related_object for event in stripe.told_of(made.id, "created")]
    assert [(one.type, one.url) for one in told] == [("subscription", f"/v1/subscriptions/{made.id}")]


@behaviour(
    "That a subscription begins its next period is told by `updated`, as any change of it is, also of its status.",
    f'docs.stripe.com/billing/subscriptions/webhooks ("renewing a subscription"); {SDK}, '
    '`V1CustomerSubscriptionUpdatedEvent` ("changing the status")',
    DOCUMENTED,
    otherwise="Limits know a day later, or a week, that a customer does not pay, or pays again.",
)
def a_change_is_told_of_as_an_update(stripe: Place) -> None:
    """End its first period."""
    period = Period.begun(stripe)
    assert stripe.told_of(period.subscription.id, "created")
    period.end()
    assert stripe.told_of(period.subscription.id, "updated")


@behaviour(
    "The end of a subscription is told by `deleted`, also where its customer was deleted.",
    f'docs.stripe.com/api/customers/delete ("immediately cancels any active subscriptions"); {SDK}, '
    "`V1CustomerSubscriptionDeletedEvent`",
    DOCUMENTED,
    otherwise="Limits know a day later, or a week, that a subscription has ended.",
)
def an_end_is_told_of(stripe: Place) -> None:
    """Cancel one, and delete the customer of another."""
    price = stripe.price(stripe.meter())
    customers = [stripe.customer(), stripe.customer()]
    cancelled, left = (stripe.subscribe(customer, price) for customer in customers)
    stripe.client.v1.subscriptions.cancel(cancelled.id)
    stripe.client.v1.customers.delete(customers[1].id)
    for made in (cancelled, left):
        assert stripe.told_of(made.id, "deleted")


@behaviour(
    "A customer's list of subscriptions is as new as what was answered, or told, of one of them.",
    "no page says so of lists; a thin event is to be followed by a read of the latest state",
    UNCONFIRMED,
    otherwise="Limits know a day later, or a week, what a customer is subscribed to, and whether it pays.",
)
def a_list_of_subscriptions_is_new(stripe: Place) -> None:
    """Change one, end it, and look at once."""
    customer, subscriptions = stripe.customer(), stripe.client.v1.subscriptions
    made = stripe.subscribe(customer, stripe.price(stripe.meter()))
    subscriptions.update(made.id, {"metadata": {"seen": "yes"}})
    [listed] = subscriptions.list({"customer": customer.id, "status": "all"}).data
    assert listed.metadata.to_dict() == {"seen": "yes"}
    subscriptions.cancel(made.id)
    [listed] = subscriptions.list({"customer": customer.id, "status": "all"}).data
    assert listed.status == "canceled"


@behaviour(
    "The subscriptions of a deleted customer are listed, as canceled ones.",
    "the reference says that a deleted customer is retrieved still, and nothing of its subscriptions' list",
    UNCONFIRMED,
    otherwise="Limits go by what was known of the customer before; a grace that has begun goes on.",
)
def subscriptions_of_a_deleted_customer(stripe: Place) -> None:
    """Delete one."""
    customer = stripe.customer()
    made = stripe.subscribe(customer, stripe.price(stripe.meter()))
    stripe.client.v1.customers.delete(customer.id)
    listed = stripe.client.v1.subscriptions.list({"customer": customer.id, "status": "all"}).data
    assert [(one.id, one.status) for one in listed] == [(made.id, "canceled")]


unseen(
    "a_pause_is_told_twice",
    "A pause is told by `paused`, and its end by `resumed`.",
    f"{SDK}, the events' classes; whether `updated` is sent beside them no page says",
    UNCONFIRMED,
    otherwise="Nothing: all three are listened to, and each is followed by a read.",
)

unseen(
    "events_come_in_any_order",
    "Events are delivered at least once, and in any order.",
    "docs.stripe.com/webhooks, 2026",
    DOCUMENTED,
    otherwise="Nothing: of an event it matters only that something has happened.",
)


# --- Idempotency


@behaviour(
    "A v1 call with an idempotency key of before is answered as it was, with `Idempotent-Replayed`; with other "
    "parameters it is refused with 400, `idempotency_error`.",
    "docs.stripe.com/api/idempotent_requests, 2026",
    DOCUMENTED,
    otherwise="A subscription that is made again after a lost answer is a second one.",
)
def an_idempotency_key_is_answered_again(stripe: Place) -> None:
    """Make a product twice, and another one."""
    key = stripe.named("key")
    made = [
        stripe.client.v1.products.create(
            {"name": stripe.run, "metadata": {"referee": stripe.run}}, {"idempotency_key": key}
        )
        for _ in range(2)
    ]
    assert made[0].id == made[1].id
    answer = made[1].last_response
    assert answer is not None
    headers = {name.lower(): value for name, value in answer.headers.items()}
    assert headers["idempotent-replayed"] == "true"
    error = refused(lambda: stripe.client.v1.products.create({"name": "another"}, {"idempotency_key": key}))
    assert error.json_body["error"]["type"] == "idempotency_error"


@behaviour(
    "A 500 is remembered by its idempotency key, and answered again.",
    'docs.stripe.com/api/idempotent_requests, 2026: "including 500 errors"',
    DOCUMENTED,
    otherwise="Nothing: each attempt of a posting has a key of its own.",
    where=Where.LOCAL,
)
def an_idempotency_key_remembers_a_500(stripe: Place) -> None:
    """Let a posting fail, and make it again."""
    meter, customer, key = stripe.meter(), stripe.customer(), stripe.named("key")
    assert stripe.local is not None
    stripe.local.set_faults([Fault.ERROR_BEFORE])
    identifier = stripe.named("event")
    for _ in range(2):
        refused(lambda: stripe.post(meter, customer.id, 1, stripe.hour(), identifier, idempotency_key=key), 500)
    stripe.post(meter, customer.id, 1, stripe.hour(), identifier, idempotency_key=stripe.named("key"))


@behaviour(
    "A call whose idempotency key another one is at work with is answered 409, `idempotency_key_in_use`.",
    "docs.stripe.com/error-codes, 2026",
    DOCUMENTED,
    otherwise="The SDK tries again whatever it is: nothing is made twice by one key.",
)
def an_idempotency_key_in_use(stripe: Place) -> None:
    """Make one posting many times at once."""
    meter, customer, hour = stripe.meter(), stripe.customer(), stripe.hour()

    def one_posting() -> Callable[[], Any]:
        key, identifier = stripe.named("key"), stripe.named("event")
        return lambda: stripe.post(meter, customer.id, 1, hour, identifier, idempotency_key=key)

    for error in conflicts(stripe, one_posting):
        assert (error.http_status, error.json_body["error"]["code"]) == (409, "idempotency_key_in_use")


# --- Meters and their summaries


@behaviour(
    'A second active meter of one event name is refused: "An active meter already exists for event name …".',
    "the words stand in what others wrote of the real Stripe, 2025",
    OBSERVED,
    otherwise="`stripe apply` shows Stripe's refusal in other words.",
)
def one_active_meter_of_a_name(stripe: Place) -> None:
    """Make two."""
    meter = stripe.meter()
    error = refused(lambda: stripe.meter(meter.event_name))
    assert f"An active meter already exists for event name '{meter.event_name}'" in str(error)


@behaviour(
    "The event name of a deactivated meter is free for another.",
    "follows from the refusal's words, \"first deactivate the currently active meter\"; one provider's notes say the "
    "opposite (alchemy.run, stripe/billingmeter)",
    UNCONFIRMED,
    otherwise="A meter with a wrong window cannot be made anew under its metric's name.",
)
def a_deactivated_meter_frees_its_name(stripe: Place) -> None:
    """Make a meter in its place."""
    first = stripe.meter()
    stripe.client.v1.billing.meters.deactivate(first.id)
    assert stripe.meter(first.event_name).id != first.id


@behaviour(
    "Summaries by hour must begin and end at full hours, by day at midnight (UTC); others are refused with 400.",
    f"{SDK}, `MeterListEventSummariesParams`",
    DOCUMENTED,
    otherwise="The hourly look is refused, or reads windows that are not the ledger's.",
)
def summaries_are_aligned(stripe: Place) -> None:
    """Ask for some that are not."""
    meter, customer, day = stripe.meter(), stripe.customer(), stripe.midnight()
    asked = [("hour", day + 60), ("day", day + HOUR)]
    for window, start in asked:
        refused(lambda: stripe.summaries(meter, customer.id, start, day + DAY, value_grouping_window=window))  # noqa: B023
    assert stripe.summaries(meter, customer.id, day, day + DAY, value_grouping_window="day") in ([], [(day, 0)])


@behaviour(
    "By hour and by day, summaries are of the hours in them, newest first.",
    f"{SDK}, `MeterEventSummary`",
    DOCUMENTED,
    otherwise="Stripe is compared with other hours of the ledger than its own.",
)
def summaries_are_of_their_hours(stripe: Place) -> None:
    """Post three hours of two days."""
    meter, customer, day = stripe.meter(), stripe.customer(), stripe.midnight()
    for hour, value in ((1, 5), (2, 7), (25, 9)):
        stripe.post(meter, customer.id, value, day + hour * HOUR)
    assert stripe.held(meter, customer, day, day + 2 * DAY, 21) == 21
    hours = stripe.summaries(meter, customer.id, day, day + 2 * DAY, value_grouping_window="hour")
    assert [seen for seen in hours if seen[1]] == [(day + 25 * HOUR, 9), (day + 2 * HOUR, 7), (day + HOUR, 5)]
    days = stripe.summaries(meter, customer.id, day, day + 2 * DAY, value_grouping_window="day")
    assert days == [(day + DAY, 9), (day, 12)]


@behaviour(
    "Summaries that are not grouped are one, of all that was used.",
    f"{SDK}, `MeterListEventSummariesParams`",
    DOCUMENTED,
    otherwise="Every difference from an invoice is held for a person.",
)
def an_ungrouped_summary_is_one(stripe: Place) -> None:
    """Post two hours."""
    meter, customer, day = stripe.meter(), stripe.customer(), stripe.midnight()
    stripe.post(meter, customer.id, 5, day + HOUR)
    stripe.post(meter, customer.id, 7, day + 3 * HOUR)
    assert stripe.held(meter, customer, day, day + DAY, 12) == 12
    assert [value for _, value in stripe.summaries(meter, customer.id, day, day + DAY)] == [12]


@behaviour(
    "Summaries of a customer that was deleted are refused as those of one that never was.",
    "no page says so",
    UNCONFIRMED,
    otherwise="Its totals stay with it, and are told as billed by no subscription.",
)
def summaries_of_a_deleted_customer(stripe: Place) -> None:
    """Delete one that has used something."""
    meter, customer, hour = stripe.meter(), stripe.customer(), stripe.hour()
    stripe.post(meter, customer.id, 5, hour)
    stripe.client.v1.customers.delete(customer.id)
    refused(lambda: stripe.summaries(meter, customer.id, hour, hour + HOUR), 400, 404)


@behaviour(
    "A window in which nothing was used has no summary.",
    "no page says so",
    UNCONFIRMED,
    otherwise="Nothing: a window of 0 is read as one that is not there.",
)
def empty_windows_are_left_out(stripe: Place) -> None:
    """Post one hour of a day."""
    meter, customer, day = stripe.meter(), stripe.customer(), stripe.midnight()
    stripe.post(meter, customer.id, 5, day + HOUR)
    assert stripe.held(meter, customer, day, day + DAY, 5) == 5
    assert len(stripe.summaries(meter, customer.id, day, day + DAY, value_grouping_window="hour")) == 1


@behaviour(
    'Summaries of a customer that there is not are refused: `resource_missing`, or in the words "No such customer".',
    "the words of every v1 call with a customer that there is not; not seen of this one",
    OBSERVED,
    otherwise="One customer's wrong id is told as a failure of the look, of that customer alone.",
)
def summaries_of_an_unknown_customer(stripe: Place) -> None:
    """Ask for some."""
    meter, hour = stripe.meter(), stripe.hour()
    error = refused(lambda: stripe.summaries(meter, "cus_thereisnone", hour, hour + HOUR), 400, 404)
    assert error.json_body["error"].get("code") == "resource_missing" or "No such customer" in str(error)


# --- Prices and subscriptions


@behaviour(
    "A price's amount has up to 12 decimals, also of a price for a meter's usage.",
    f"{SDK}, `PriceCreateParams.unit_amount_decimal`",
    DOCUMENTED,
    otherwise="Prices of small units cannot be declared at Stripe.",
)
def amounts_have_twelve_decimals(stripe: Place) -> None:
    """Make one."""
    params: Any = {
        "currency": "usd",
        "product": stripe.product(),
        "unit_amount_decimal": "0.000000000001",
        "recurring": {"interval": "day", "usage_type": "metered", "meter": stripe.meter().id},
    }
    assert stripe.client.v1.prices.create(params).unit_amount_decimal == Decimal("0.000000000001")


@behaviour(
    "A subscription to metered prices alone is active at once, and makes no invoice before its period ends.",
    "docs.stripe.com/changelog/basil/2025-06-30/billing-mode",
    DOCUMENTED,
    otherwise="Customers without a payment method cannot be subscribed to usage alone.",
)
def metered_prices_alone_make_no_first_invoice(stripe: Place) -> None:
    """Subscribe somebody without a payment method."""
    customer = stripe.customer()
    subscription = stripe.subscribe(customer, stripe.price(stripe.meter()))
    assert (subscription.status, subscription.latest_invoice) == ("active", None)
    assert stripe.client.v1.invoices.list({"customer": customer.id}).data == []


@behaviour(
    "The day of a subscription without `billing_cycle_anchor` is that of its `backdate_start_date`: one of the 31st "
    "ends on the last of a shorter month and keeps the 31st, and its first fee is a whole one.",
    "docs.stripe.com/billing/subscriptions/backdating, 2026-04; flexible billing mode",
    DOCUMENTED,
    otherwise="Subscriptions of the month's last days move to an earlier one for good, or the first fee is a part.",
)
def the_thirty_first_stays(stripe: Place) -> None:
    """Subscribe somebody in February, since the last of January, to a fee that is paid by invoice."""
    january, february, end = (int(datetime(2026, *day, tzinfo=UTC).timestamp()) for day in ((1, 31), (2, 10), (2, 28)))
    customer = stripe.customer(at=february, email="referee@example.com")
    subscription = stripe.subscribe(
        customer,
        stripe.price(recurring={"interval": "month"}),
        backdate_start_date=january,
        collection_method="send_invoice",
        days_until_due=30,
    )
    item = subscription["items"].data[0]
    assert datetime.fromtimestamp(subscription.billing_cycle_anchor, UTC).day == 31
    assert (item.current_period_start, item.current_period_end) == (january, end)
    assert stripe.client.v1.invoices.retrieve(str(subscription.latest_invoice)).total == 3_000


@behaviour(
    "Of a backdated subscription, what was used between its start and its making is billed once.",
    "docs.stripe.com/billing/subscriptions/backdating, 2026-04, tells of an invoice of accrued usage at once; on which "
    "invoice it is if the period goes on is not said",
    UNCONFIRMED,
    otherwise="The first hour of a customer who is subscribed in its last minutes is billed twice or not at all.",
)
def usage_before_the_making_is_billed_once(stripe: Place) -> None:
    """Use something, subscribe afterwards since before it, and end the period."""
    start = stripe.midnight(3)
    customer, meter = stripe.customer(at=start + 12 * HOUR), stripe.meter()
    stripe.post(meter, customer.id, 5, start + HOUR)
    assert stripe.held(meter, customer, start, start + DAY, 5) == 5
    stripe.subscribe(customer, stripe.price(meter), backdate_start_date=start)
    stripe.advance(customer, start + DAY + 60)
    assert sum(invoice.total for invoice in stripe.client.v1.invoices.list({"customer": customer.id}).data) == 10


@behaviour(
    "Periods of a backdated subscription that ended before it was made have no invoice.",
    "docs.stripe.com/billing/subscriptions/backdating, 2026-04, does not tell of periods that ended",
    UNCONFIRMED,
    otherwise="Usage that is said to be billed by nobody is billed.",
)
def ended_periods_are_not_invoiced(stripe: Place) -> None:
    """Use something, subscribe two periods afterwards since before it, and end the period."""
    start = stripe.midnight(4)
    customer, meter = stripe.customer(at=start + 2 * DAY + 12 * HOUR), stripe.meter()
    stripe.post(meter, customer.id, 5, start + HOUR)
    assert stripe.held(meter, customer, start, start + DAY, 5) == 5
    stripe.subscribe(customer, stripe.price(meter), backdate_start_date=start)
    stripe.advance(customer, start + 3 * DAY + 60)
    assert sum(invoice.total for invoice in stripe.client.v1.invoices.list({"customer": customer.id}).data) == 0


@behaviour(
    "A customer that was deleted is still retrieved, with `deleted`, and cannot be subscribed.",
    "docs.stripe.com/api/customers/retrieve, 2026",
    DOCUMENTED,
    otherwise="A customer is billed to nobody until its totals are rejected.",
)
def a_deleted_customer_says_so(stripe: Place) -> None:
    """Delete one."""
    customer, price = stripe.customer(), stripe.price(stripe.meter())
    stripe.client.v1.customers.delete(customer.id)
    assert getattr(stripe.client.v1.customers.retrieve(customer.id), "deleted", False)
    assert "No such customer" in str(refused(lambda: stripe.subscribe(customer, price), 400, 404))


@behaviour(
    "With `status=all` canceled subscriptions are listed as well, with when they began and ended, and their items.",
    f"{SDK}, `SubscriptionListParams.status`, `Subscription.ended_at`",
    DOCUMENTED,
    otherwise="Usage of somebody whose subscription has ended is told for another reason.",
)
def canceled_subscriptions_are_listed_with_all(stripe: Place) -> None:
    """Cancel one."""
    customer = stripe.customer()
    made = stripe.subscribe(customer, stripe.price(stripe.meter()))
    stripe.client.v1.subscriptions.cancel(made.id)
    assert stripe.client.v1.subscriptions.list({"customer": customer.id}).data == []
    [listed] = stripe.client.v1.subscriptions.list({"customer": customer.id, "status": "all"}).data
    assert (listed.id, listed.status, listed.start_date) == (made.id, "canceled", made.start_date)
    assert listed.ended_at
    assert len(listed["items"].data) == 1


@behaviour(
    "An item that is added to a subscription bills what is used from then on.",
    "docs.stripe.com/billing/subscriptions/usage-based/manage-billing-setup, 2026",
    DOCUMENTED,
    otherwise="The hours before an added price are told for the wrong reason: as billed, or as billed by nobody.",
)
def an_added_item_bills_from_then_on(stripe: Place) -> None:
    """Add one in the middle of a period, with usage before and after."""
    period, meter = Period.begun(stripe), stripe.meter()
    price = stripe.price(meter)
    stripe.post(meter, period.customer.id, 5, period.start + HOUR)
    stripe.client.v1.subscriptions.update(period.subscription.id, {"items": [{"price": price.id}]})
    stripe.advance(period.customer, period.start + 18 * HOUR)
    stripe.post(meter, period.customer.id, 7, period.start + 15 * HOUR)
    assert stripe.held(meter, period.customer, period.start, period.start + DAY, 12) == 12
    period.end()
    billed = {line.pricing.price_details.price: line.quantity_decimal for line in period.lines()}
    assert billed[price.id] == 7


@behaviour(
    "A subscription whose collection is paused keeps its status, and its invoices are made.",
    f"{SDK}, `Subscription.pause_collection`",
    DOCUMENTED,
    otherwise="Usage is told as paid by nobody although it is collected, or the reverse.",
    where=Where.SANDBOX,
)
def a_paused_collection_keeps_the_status(stripe: Place) -> None:
    """Pause one, and end its period."""
    period = Period.begun(stripe)
    pause: Any = {"pause_collection": {"behavior": "void"}}
    assert stripe.client.v1.subscriptions.update(period.subscription.id, pause).status == "active"
    period.use(5)
    period.end()
    assert period.finalise().status == "void"


@behaviour(
    "A final invoice says where it can be looked at and where its PDF is, both by https; a draft says neither.",
    f"{SDK}, `Invoice.hosted_invoice_url`, `Invoice.invoice_pdf`",
    DOCUMENTED,
    otherwise="Customers see an invoice without a link to it.",
)
def a_final_invoice_can_be_looked_at(stripe: Place) -> None:
    """Let a period end, and its draft's hour."""
    period = Period.begun(stripe)
    period.use(5)
    draft = period.end()
    assert (draft.hosted_invoice_url, draft.invoice_pdf) == (None, None)
    final = period.finalise()
    assert str(final.hosted_invoice_url).startswith("https://invoice.stripe.com/")
    assert str(final.invoice_pdf).startswith("https://pay.stripe.com/")


@behaviour(
    'A fee that is charged by itself is refused to a customer without a payment method: 400, "This customer has no '
    'attached payment source or default payment method …".',
    "clojurewerkz/elephant#14, 2021; joshnuss/svelte-stripe#30, 2023",
    OBSERVED,
    otherwise="A subscription is incomplete for a day, and then gone: `customers subscribe` asks for a card before.",
)
def a_fee_needs_a_payment_method(stripe: Place) -> None:
    """Subscribe somebody who has none."""
    customer = stripe.customer()
    error = refused(lambda: stripe.subscribe(customer, stripe.price()), 400, 402)
    assert "no attached payment source or default payment method" in str(error)


@behaviour(
    "A card that is attached to a customer, and not its default, pays no fee.",
    "clojurewerkz/elephant#14, 2021; joshnuss/svelte-stripe#30, 2023",
    OBSERVED,
    otherwise="Nothing: whatever card there is is given to the subscription.",
)
def an_attached_card_is_no_default(stripe: Place) -> None:
    """Attach one, and subscribe."""
    customer = stripe.customer()
    stripe.client.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
    refused(lambda: stripe.subscribe(customer, stripe.price()), 400, 402)


unseen(
    "checkout_leaves_the_default",
    "Checkout in mode `setup` attaches the card that somebody gives, and does not make it the customer's default.",
    "dust-tt/dust#25429, 2026",
    OBSERVED,
    otherwise="Nothing: the default is found first.",
)


@behaviour(
    "A customer with a default payment method can be subscribed to a fee; the subscription is active at once.",
    "docs.stripe.com/api/payment_methods/attach and docs.stripe.com/api/subscriptions/create, 2026",
    DOCUMENTED,
    otherwise="Who has given a card by Checkout cannot be subscribed.",
)
def a_fee_is_paid_by_a_default_card(stripe: Place) -> None:
    """Give somebody a card, make it the default one, and subscribe."""
    customer = stripe.customer()
    card = stripe.client.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
    stripe.client.v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": card.id}})
    assert [one.id for one in stripe.client.v1.customers.payment_methods.list(customer.id).data] == [card.id]
    assert stripe.subscribe(customer, stripe.price()).status == "active"


@behaviour(
    'A subscription of `send_invoice` is refused to a customer without an e-mail address: 400, "Missing email …".',
    "observed of invoices that are sent, not of subscriptions",
    UNCONFIRMED,
    otherwise="Nothing: an address is asked for before.",
)
def an_invoice_needs_an_address(stripe: Place) -> None:
    """Subscribe somebody who has none."""
    customer, fee = stripe.customer(), stripe.price()
    sent: Any = {"collection_method": "send_invoice", "days_until_due": 30}
    assert "Missing email" in str(refused(lambda: stripe.subscribe(customer, fee, **sent)))


@behaviour(
    "Without `status`, all subscriptions are listed that were not canceled: also incomplete ones, which bill nothing.",
    f"{SDK}, `SubscriptionListParams.status`",
    DOCUMENTED,
    otherwise="Nothing: only states that bill count as running.",
)
def incomplete_subscriptions_are_listed(stripe: Place) -> None:
    """Leave one waiting for its first payment."""
    customer = stripe.customer()
    subscription = stripe.subscribe(customer, stripe.price(), payment_behavior="default_incomplete")
    assert subscription.status == "incomplete"
    listed = stripe.client.v1.subscriptions.list({"customer": customer.id}).data
    assert [one.id for one in listed] == [subscription.id]


@behaviour(
    "Checkout in mode `setup` takes a card of a customer: the session is open and has an address.",
    "docs.stripe.com/payments/save-and-reuse, 2026",
    DOCUMENTED,
    otherwise="The link that `customers subscribe` gives is not there; cards are taken in the Dashboard.",
)
def checkout_takes_a_card(stripe: Place) -> None:
    """Begin a session."""
    session = stripe.client.v1.checkout.sessions.create(
        {
            "mode": "setup",
            "customer": stripe.customer().id,
            "currency": "usd",
            "success_url": "https://example.com/done",
        }
    )
    assert (session.status, session.mode) == ("open", "setup")
    assert str(session.url).startswith("https://")


@behaviour(
    "A customer's portal session has an address.",
    f"{SDK}, `billing_portal.Session`",
    DOCUMENTED,
    otherwise="`customers portal` gives no link, and says in Stripe's words why.",
)
def the_portal_has_an_address(stripe: Place) -> None:
    """Begin a session; a sandbox in which the portal was never set up in the Dashboard says so."""
    sessions = stripe.client.v1.billing_portal.sessions
    assert sessions.create({"customer": stripe.customer().id}).url.startswith("https://")


@behaviour(
    "A preview of a customer alone is refused with 400; of one of its subscriptions it is given.",
    "RoboFinSystems/robosystems#940, 2026-07; stripe/stripe-node#2347",
    OBSERVED,
    otherwise="Nothing: a subscription is always named.",
)
def a_preview_is_of_a_subscription(stripe: Place) -> None:
    """Ask for both."""
    customer = stripe.customer()
    subscription = stripe.subscribe(customer, stripe.price(stripe.meter()))
    previews = stripe.client.v1.invoices
    refused(lambda: previews.create_preview({"customer": customer.id}))
    assert previews.create_preview({"subscription": subscription.id}).total == 0


@behaviour(
    "A subscription shows its first ten items, and says that there are more; a list of items has all.",
    'docs.stripe.com/api/pagination: "the default is 10"; not said of a list inside of an object',
    UNCONFIRMED,
    otherwise="Nothing: all are read whether the first ten are all or not.",
)
def items_are_cut_at_ten(stripe: Place) -> None:
    """Subscribe somebody to eleven fees."""
    subscription = eleven_fees(stripe)
    assert (len(subscription["items"].data), subscription["items"].has_more) == (10, True)
    items = stripe.client.v1.subscription_items.list({"subscription": subscription.id, "limit": 100})
    assert len(items.data) == 11


@behaviour(
    "An invoice shows its first ten lines, and says that there are more; a list of its lines has all.",
    f"{SDK}, `Invoice.lines`",
    DOCUMENTED,
    otherwise="Nothing: the lines are listed, never taken from the invoice.",
)
def lines_are_cut_at_ten(stripe: Place) -> None:
    """Subscribe somebody to eleven fees."""
    invoice = stripe.client.v1.invoices.retrieve(str(eleven_fees(stripe).latest_invoice))
    assert (len(invoice.lines.data), invoice.lines.has_more) == (10, True)
    assert len(stripe.client.v1.invoices.line_items.list(str(invoice.id), {"limit": 100}).data) == 11


def eleven_fees(stripe: Place) -> Any:
    """Return a subscription to so many, which are paid by invoice."""
    product = stripe.product()
    fees = [stripe.price(product=product, unit_amount=amount) for amount in range(1, 12)]
    customer = stripe.customer(email="referee@example.com")
    return stripe.subscribe(customer, *fees, collection_method="send_invoice", days_until_due=30)


# --- Invoices


@dataclass(frozen=True, slots=True)
class Period:
    """One customer's day, which was subscribed from its beginning to its end."""

    stripe: Place
    customer: Customer
    meter: Any
    subscription: Any
    start: int

    @classmethod
    def begun(cls, stripe: Place, **price: Any) -> "Period":
        """Subscribe a new customer to a price for a meter's usage, three days ago, and let half of the day go by."""
        start = stripe.midnight(3)
        customer, meter = stripe.customer(at=start), stripe.meter()
        subscription = stripe.subscribe(customer, stripe.price(meter, **price))
        stripe.advance(customer, start + 12 * HOUR)
        return cls(stripe, customer, meter, subscription, start)

    def use(self, *values: int) -> None:
        """Use something in the first hours, and wait until it is seen."""
        for hour, value in enumerate(values):
            self.stripe.post(self.meter, self.customer.id, value, self.start + hour * HOUR + 60)
        self.seen(sum(values))

    def seen(self, wanted: int) -> None:
        """Wait until the meter holds something."""
        held = self.stripe.held(self.meter, self.customer, self.start, self.start + DAY, wanted)
        assert held == wanted

    def end(self) -> Any:
        """Let the period end; return its invoice, a draft."""
        self.stripe.advance(self.customer, self.start + DAY + 60)
        return self.invoice()

    def finalise(self) -> Any:
        """Let the draft's hour be over; return the invoice."""
        self.stripe.advance(self.customer, self.start + DAY + 2 * HOUR)
        return self.stripe.eventually(self.invoice, lambda invoice: invoice.status != "draft")

    def invoice(self) -> Any:
        """Return the customer's last invoice."""
        return self.stripe.client.v1.invoices.list({"customer": self.customer.id, "limit": 1}).data[0]

    def lines(self) -> list[Any]:
        """Return the lines of that invoice."""
        invoice = self.invoice()
        return list(self.stripe.client.v1.invoices.line_items.list(invoice.id, {"limit": 100}).auto_paging_iter())

    def quantities(self) -> list[int]:
        """Return what each of its lines says was used."""
        return [int(line.quantity_decimal) for line in self.lines()]


@behaviour(
    "In the pinned version an invoice's line has `pricing.price_details.price`, its subscription's item, its period, "
    "and `quantity_decimal`.",
    f"{SDK}, `InvoiceLineItem`",
    DOCUMENTED,
    otherwise="No late usage after an invoice is ever carried.",
)
def lines_name_price_item_and_period(stripe: Place) -> None:
    """Look at the line of a day."""
    period = Period.begun(stripe)
    period.use(5, 7)
    period.end()
    [line] = period.lines()
    item = period.subscription["items"].data[0]
    assert line.pricing.price_details.price == item.price.id
    assert line.parent.subscription_item_details.subscription_item == item.id
    assert (line.period.start, line.period.end) == (period.start, period.start + DAY)
    assert (line.quantity_decimal, line.amount) == (12, 24)


@behaviour(
    "A list of an invoice's lines shows their prices in full if asked to expand `data.pricing.price_details.price`.",
    "docs.stripe.com/changelog/clover/2025-12-15/expandable-price-details-price",
    DOCUMENTED,
    otherwise="Each price is read by a call of its own, once.",
)
def lines_show_their_prices(stripe: Place) -> None:
    """Ask for it."""
    period = Period.begun(stripe)
    period.end()
    expand: Any = {"expand": ["data.pricing.price_details.price"]}
    [line] = stripe.client.v1.invoices.line_items.list(period.invoice().id, expand).data
    assert line.pricing
    assert line.pricing.price_details
    price = line.pricing.price_details.price
    assert not isinstance(price, str)
    assert price.recurring
    assert price.recurring.meter == period.meter.id


@behaviour(
    "A draft takes usage of its period that comes within an hour after it.",
    "docs.stripe.com/billing/subscriptions/usage-based/configure-grace-period, 2026",
    DOCUMENTED,
    otherwise="The last hours of a period are carried into the next one.",
)
def a_draft_takes_late_usage(stripe: Place) -> None:
    """Correct an hour of the period after its end."""
    period = Period.begun(stripe)
    period.use(5)
    assert period.end().status == "draft"
    stripe.post(period.meter, period.customer.id, 9, period.start + 60)
    period.seen(9)
    assert (period.finalise().total, period.quantities()) == (18, [9])


@behaviour(
    "A finalised invoice never changes, and usage of its period that comes later is on no invoice.",
    "docs.stripe.com/billing/subscriptions/usage-based/configure-grace-period, 2026",
    DOCUMENTED,
    otherwise="What is carried is billed twice.",
)
def a_finalised_invoice_never_changes(stripe: Place) -> None:
    """Correct an hour of the period after the invoice is final, and end the next one."""
    period = Period.begun(stripe)
    period.use(5)
    period.end()
    first = period.finalise()
    stripe.post(period.meter, period.customer.id, 900, period.start + 60)
    period.seen(900)
    assert (period.invoice().total, period.quantities()) == (10, [5])
    stripe.advance(period.customer, period.start + 2 * DAY + 60)
    assert period.invoice().id != first.id
    assert period.invoice().total == 0


@behaviour(
    "A voided invoice keeps its lines with their quantities, and what it was to bill is on no other invoice.",
    'docs.stripe.com/api/invoices/void, 2026: "similar to deletion"; of its lines and of usage no page says so',
    UNCONFIRMED,
    otherwise="What is carried after a void invoice is billed twice; of one that is void before it is first looked at, "
    "usage is billed to nobody.",
)
def a_voided_invoice_bills_nothing(stripe: Place) -> None:
    """Void one, and end the next period."""
    period = Period.begun(stripe)
    period.use(5)
    period.end()
    first = period.finalise()
    assert stripe.client.v1.invoices.void_invoice(first.id).status == "void"
    assert period.quantities() == [5]
    stripe.advance(period.customer, period.start + 2 * DAY + 60)
    assert period.invoice().id != first.id
    assert period.invoice().total == 0


@behaviour(
    "Only an open or an uncollectible invoice can be made void; a draft is refused with 400.",
    "useautumn/autumn#3468, 2026",
    OBSERVED,
    otherwise="Nothing: a void invoice is read as one whatever it was.",
)
def a_draft_cannot_be_voided(stripe: Place) -> None:
    """Try it."""
    period = Period.begun(stripe)
    period.use(5)
    draft = period.end()
    refused(lambda: stripe.client.v1.invoices.void_invoice(draft.id))


@behaviour(
    "The last invoice of a subscription that is canceled with `invoice_now` bills usage up to `ended_at`, exactly.",
    f"{SDK}, `SubscriptionCancelParams.invoice_now`; that the line ends at `ended_at` is not said",
    UNCONFIRMED,
    otherwise="The hour in which a subscription ended is told as billed although it is not, or the reverse.",
)
def the_last_invoice_ends_with_the_subscription(stripe: Place) -> None:
    """Cancel one in the middle of its period."""
    period = Period.begun(stripe)
    period.use(5)
    ended = stripe.client.v1.subscriptions.cancel(period.subscription.id, {"invoice_now": True}).ended_at
    [line] = period.lines()
    assert (line.quantity_decimal, line.period.end) == (5, ended)


@behaviour(
    "With `cancel_at_period_end` a subscription is over, and says so, when its period is; its usage is invoiced then.",
    "docs.stripe.com/billing/subscriptions/cancel as others quote it; that it is a draft for an hour is not said",
    UNCONFIRMED,
    otherwise="After a change of plan, hours are on two invoices or on none.",
)
def a_subscription_ends_with_its_period(stripe: Place) -> None:
    """Tell one to, in the middle of its period."""
    period = Period.begun(stripe)
    asked = stripe.client.v1.subscriptions.update(period.subscription.id, {"cancel_at_period_end": True})
    assert (asked.status, asked.cancel_at_period_end, asked.ended_at) == ("active", True, None)
    period.use(5)
    draft = period.end()
    ended = stripe.client.v1.subscriptions.retrieve(period.subscription.id)
    assert (ended.status, ended.cancel_at_period_end, ended.ended_at) == ("canceled", True, period.start + DAY)
    assert (draft.status, period.quantities()) == ("draft", [5])


@behaviour(
    "A metered item that is taken out of a subscription is billed when the period ends, by a line with its price.",
    "docs.stripe.com/billing/subscriptions/usage-based/manage-billing-setup, 2026; of the line's price it says nothing",
    UNCONFIRMED,
    otherwise="What comes late to the hours before the removal is carried by nobody.",
)
def a_removed_item_is_billed(stripe: Place) -> None:
    """Put another one in its place."""
    period = Period.begun(stripe)
    period.use(5)
    [item] = period.subscription["items"].data
    other = stripe.price(stripe.meter())
    items: Any = [{"id": item.id, "deleted": True}, {"price": other.id}]
    stripe.client.v1.subscriptions.update(period.subscription.id, {"items": items})
    period.end()
    billed = {line.pricing.price_details.price: line.quantity_decimal for line in period.lines()}
    assert billed.get(item.price.id) == 5


@behaviour(
    "Usage at graduated tiers has a line for each tier that it reaches, which add up to it; a tier's flat amount is a "
    "line of its own, of quantity 0.",
    "an invoice of Gitpod's, 2022, in classic billing mode",
    OBSERVED,
    otherwise="Usage at tiers seems more or less than what was billed: it is held for a person, and not carried.",
)
def tiers_have_lines_that_add_up(stripe: Place) -> None:
    """Use what reaches the second tier."""
    tiers = [
        {"up_to": 10, "unit_amount": 3, "flat_amount": 500},
        {"up_to": "inf", "unit_amount": 2, "flat_amount": 100},
    ]
    period = Period.begun(stripe, billing_scheme="tiered", tiers_mode="graduated", tiers=tiers)
    period.use(25)
    period.end()
    assert sorted(period.quantities()) == [0, 0, 10, 15]
    assert sorted(line.amount for line in period.lines()) == [30, 30, 100, 500]


@behaviour(
    "The flat amount of the first tier is due even if nothing was used.",
    "no page says so",
    UNCONFIRMED,
    otherwise="The portal's forecast shows a fee that Stripe does not ask for; no bill of ours is made of it.",
)
def the_first_flat_fee_is_always_due(stripe: Place) -> None:
    """Use nothing."""
    tiers = [{"up_to": 10, "unit_amount": 3, "flat_amount": 500}, {"up_to": "inf", "unit_amount": 2}]
    period = Period.begun(stripe, billing_scheme="tiered", tiers_mode="graduated", tiers=tiers)
    period.end()
    assert sum(line.amount for line in period.lines()) == 500


@behaviour(
    "The line of a price for packages (`transform_quantity`) has what was used as its quantity, not the packages.",
    'descriptions of real invoices ("9892 x … (at $0.08 per 60 units / month)"); the field itself was not seen',
    UNCONFIRMED,
    otherwise="Usage at such prices seems less than what was billed: it is held for a person, and not carried.",
)
def a_package_line_has_what_was_used(stripe: Place) -> None:
    """Use two and a half packages."""
    period = Period.begun(stripe, transform_quantity={"divide_by": 10, "round": "up"}, unit_amount=100)
    period.use(25)
    period.end()
    assert ([line.amount for line in period.lines()], period.quantities()) == ([300], [25])


@behaviour(
    "Each line is rounded half up to the smallest unit.",
    "consistent with a real invoice (31 x 3.6 ct = 112 ct); no rule was found",
    UNCONFIRMED,
    otherwise="The portal and `explain` differ from a bill by a cent a line.",
)
def lines_are_rounded_half_up(stripe: Place) -> None:
    """Use five times a half."""
    tiers = [{"up_to": "inf", "unit_amount_decimal": "0.5"}]
    period = Period.begun(stripe, billing_scheme="tiered", tiers_mode="volume", tiers=tiers)
    period.use(5)
    period.end()
    assert [line.amount for line in period.lines()] == [3]


@behaviour(
    "A period whose hours add up to less than nothing is billed as 0.",
    f"{RECORDING}",
    DOCUMENTED,
    otherwise="Nothing: no hour that is posted is less than nothing.",
)
def less_than_nothing_is_nothing(stripe: Place) -> None:
    """Use less than nothing."""
    period = Period.begun(stripe)
    period.use(5, -9)
    period.end()
    assert (period.invoice().total, period.quantities()) == (0, [0])


@behaviour(
    "Usage in a trial is on an invoice of its own, of nothing to pay, and on none after it.",
    "no page says so of meters",
    UNCONFIRMED,
    otherwise="Usage of a trial seems billed or not: it is held for a person, and not carried.",
    where=Where.SANDBOX,
)
def usage_in_a_trial_is_free(stripe: Place) -> None:
    """Use something in a trial of a day."""
    start = stripe.midnight(3)
    customer, meter = stripe.customer(at=start), stripe.meter()
    stripe.subscribe(customer, stripe.price(meter), trial_end=start + DAY)
    stripe.advance(customer, start + 12 * HOUR)
    stripe.post(meter, customer.id, 5, start + HOUR)
    assert stripe.held(meter, customer, start, start + DAY, 5) == 5
    stripe.advance(customer, start + 2 * DAY + 60)
    invoices = stripe.client.v1.invoices.list({"customer": customer.id})
    assert [invoice.total for invoice in invoices.data] == [0] * len(invoices.data)


@behaviour(
    "An event has its object in the version that was the account's default at its time, whatever version asks for it.",
    f"{SDK}, `Event`; docs.stripe.com/api/events",
    DOCUMENTED,
    otherwise="Nothing: of an event only its object's id is taken.",
)
def an_event_keeps_its_version(stripe: Place) -> None:
    """Ask for an event in an older version."""
    period = Period.begun(stripe)
    period.end()
    events = [
        stripe.client.v1.events.list({"type": "invoice.created", "limit": 1}, {"stripe_version": version}).data[0]
        for version in ("2024-06-20", stripe_version())
    ]
    assert events[0].api_version == events[1].api_version
    assert events[0].data.object.to_dict().keys() == events[1].data.object.to_dict().keys()


def stripe_version() -> str:
    """Return the version that the SDK asks for."""
    return str(stripe.api_version)


unseen(
    "events_are_listed_for_thirty_days",
    "Events are listed for 30 days; invoices for ever.",
    f"{SDK}, `EventService.list`",
    DOCUMENTED,
    otherwise="After a pause of more than 30 days late usage of the invoices of that time is not carried.",
)


# --- The event stream


@behaviour(
    "A session of the event stream lasts for 15 minutes.",
    f"{SDK}, `MeterEventSession`",
    DOCUMENTED,
    otherwise="Streams are refused with 401 once in a while, and a session is made anew.",
)
def a_session_lasts_fifteen_minutes(stripe: Place) -> None:
    """Make one."""
    session = stripe.client.v2.billing.meter_event_session.create()
    created, ends = (datetime.fromisoformat(str(at)) for at in (session.created, session.expires_at))
    assert (ends - created).total_seconds() == pytest.approx(900, abs=5)


@behaviour(
    "The event stream answers 401 to a token that never was, as it does to one that has ended.",
    f"{SDK} documents `billing_meter_event_session_expired` of one that has ended",
    UNCONFIRMED,
    otherwise="A lost session is told as a failure of the run, and the next run begins another.",
)
def an_unknown_session_is_unauthorized(stripe: Place) -> None:
    """Stream with one."""
    meter, customer = stripe.meter(), stripe.customer()
    event = streamed(stripe, meter, customer.id, 1, stripe.hour())
    refused(lambda: stripe.stream(event, token="mes_token_test_none"), 401)


def streamed(stripe: Place, meter: Any, customer: str, value: int, at: int) -> dict[str, Any]:
    """Return an event as the stream takes it."""
    return {
        "event_name": meter.event_name,
        "identifier": stripe.named("event"),
        "payload": {"stripe_customer_id": customer, "value": str(value)},
        "timestamp": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


@behaviour(
    "The event stream takes events in a sandbox, too, and they count as those of v1 do.",
    f'{LIMITS}: "This works in live mode only", and, on the same page, that in a sandbox it counts towards the limit',
    UNCONFIRMED,
    otherwise="Nothing: with the key of a sandbox totals go by calls.",
)
def the_stream_is_there_in_a_sandbox(stripe: Place) -> None:
    """Stream two customers' hours, of which one is in two events."""
    meter, one, two, hour = stripe.meter(), stripe.customer(), stripe.customer(), stripe.hour()
    stripe.stream(streamed(stripe, meter, one.id, 5, hour), streamed(stripe, meter, two.id, 7, hour))
    assert stripe.held(meter, one, hour, hour + HOUR, 5) == 5
    assert stripe.held(meter, two, hour, hour + HOUR, 7) == 7


@behaviour(
    "The event stream refuses a call of more than 100 events with 400.",
    f"{SDK}, `MeterEventStreamCreateParams.events`",
    DOCUMENTED,
    otherwise="Nothing: no call has more.",
)
def a_hundred_events_a_call(stripe: Place) -> None:
    """Stream one more."""
    meter, customer = stripe.meter(), stripe.customer()
    events = [streamed(stripe, meter, customer.id, 1, stripe.hour()) for _ in range(101)]
    refused(lambda: stripe.stream(*events))


@behaviour(
    "The event stream answers 409, `too_many_concurrent_requests`, where v1 answers `lock_timeout`.",
    "docs.stripe.com/api/v2/billing/meter-event/create documents it of single events; of the stream no page says so",
    UNCONFIRMED,
    otherwise="A call of a hundred totals waits, instead of being made again in smaller ones.",
    where=Where.LOCAL,
)
def the_stream_refuses_what_is_busy(stripe: Place) -> None:
    """Have a call refused so."""
    meter, customer = stripe.meter(), stripe.customer()
    assert stripe.local is not None
    stripe.local.set_faults([Fault.LOCKED], route=METER_EVENT_STREAM)
    error = refused(lambda: stripe.stream(streamed(stripe, meter, customer.id, 1, stripe.hour())), 409)
    assert error.json_body["error"]["code"] == "too_many_concurrent_requests"


unseen(
    "ten_thousand_streamed_events_a_second",
    "The event stream takes 10,000 events a second, in live mode.",
    f"{LIMITS}; docs.stripe.com/changelog/acacia/2024-09-30",
    DOCUMENTED,
    otherwise="The stream is told to slow down, or goes slower than it might.",
)

unseen(
    "a_streamed_event_that_fails_used_its_identifier",
    "An event of the stream that fails its later check has used up its identifier.",
    "no page says so",
    UNCONFIRMED,
    otherwise="Nothing: a retry has another identifier.",
)


# --- Rights


unseen(
    "names_of_rights",
    "A restricted key's rights for meters are `billing_meter` and `billing_meter_event`, for test clocks "
    "`billing_clock`, for event destinations `webhook`.",
    "the first two in a list of rights that somebody has tried (Infisical); of the others none",
    UNCONFIRMED,
    otherwise="The right has another name: Stripe's refusal says which.",
)

unseen(
    "a_preview_needs_to_read_invoices",
    "A preview of an invoice needs the right to read invoices.",
    "Stripe's table of rights gives POST as writing; of previews no page says so",
    UNCONFIRMED,
    otherwise="Previews are refused, and `doctor` says that the key lacks the right to write invoices.",
)
