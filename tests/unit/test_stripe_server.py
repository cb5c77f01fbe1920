"""The local Stripe, driven with the official SDK."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from stripe import (
    APIConnectionError,
    APIError,
    AuthenticationError,
    IdempotencyError,
    InvalidRequestError,
    RateLimitError,
    RequestsClient,
    StripeClient,
)
from stripe.billing import Meter, MeterEvent, MeterEventSummary

from infra.local.stripe.faults import Fault, FaultPlan
from infra.local.stripe.params import decode_form
from infra.local.stripe.server import LocalStripe
from tests.doubles.clock import Clock

HOUR = 1_795_323_600  # 2026-11-22T05:00:00Z
NOW = HOUR + 4_200  # 06:10, the hour's grace has passed
POST_EVENT = "POST /v1/billing/meter_events"


@pytest.fixture
def clock() -> Clock:
    """Ten past six."""
    return Clock(NOW)


@pytest.fixture
def stripe(clock: Clock) -> Iterator[LocalStripe]:
    """A local Stripe with the customers `cus_a` and `cus_b` and no meter."""
    with LocalStripe(now=clock) as server:
        server.add_customer("cus_a")
        server.add_customer("cus_b")
        yield server


@pytest.fixture
def connect() -> Iterator[Callable[..., StripeClient]]:
    """A maker of SDK clients that are closed after the test."""
    with ExitStack() as open_clients:

        def connect(stripe: LocalStripe, *, timeout: float = 60, retries: int = 0, key: str = "") -> StripeClient:
            http_client = RequestsClient(timeout=timeout)
            open_clients.callback(http_client.close)
            return StripeClient(
                key or stripe.api_key,
                base_addresses={"api": stripe.url},
                http_client=http_client,
                max_network_retries=retries,
            )

        yield connect


@pytest.fixture
def client(stripe: LocalStripe, connect: Callable[..., StripeClient]) -> StripeClient:
    """A patient client that never tries again."""
    return connect(stripe)


@pytest.fixture
def calls(client: StripeClient) -> Meter:
    """A meter for calls, whose events are hourly totals."""
    return create_meter(client)


def create_meter(client: StripeClient, event_name: str = "calls", window: str | None = "hour", **more: Any) -> Meter:
    """Create a summing meter."""
    params: Any = {"display_name": event_name.title(), "event_name": event_name} | more
    params.setdefault("default_aggregation", {"formula": "sum"})
    if window:
        params["event_time_window"] = window
    return client.v1.billing.meters.create(params)


def post(  # noqa: PLR0913  the parts of a meter event, and its idempotency key
    client: StripeClient,
    value: int | str,
    identifier: str = "",
    *,
    customer: str = "cus_a",
    timestamp: int = HOUR + 3_000,
    key: str = "",
) -> MeterEvent:
    """Post a meter event of the meter `calls`."""
    params: Any = {"event_name": "calls", "payload": {"stripe_customer_id": customer, "value": str(value)}}
    params["timestamp"] = timestamp
    if identifier:
        params["identifier"] = identifier
    return client.v1.billing.meter_events.create(params, {"idempotency_key": key} if key else {})


def summaries(client: StripeClient, meter: Meter, start: int, end: int, **more: Any) -> list[MeterEventSummary]:
    """Read every summary of `cus_a`, page by page."""
    params: Any = {"customer": "cus_a", "start_time": start, "end_time": end} | more
    return list(client.v1.billing.meters.event_summaries.list(meter.id, params).auto_paging_iter())


def refusal(error: pytest.ExceptionInfo[Any]) -> tuple[int, str]:
    """Give the HTTP status and the message of an SDK error."""
    return error.value.http_status, error.value.user_message


def code(error: pytest.ExceptionInfo[Any]) -> str:
    """Give the code of an SDK error; of a 429 the SDK keeps it in the error object alone."""
    return str(error.value.error.code)


class TestMeterEvents:
    """`POST /v1/billing/meter_events`."""

    def test_an_event_counts_in_the_hour_of_its_timestamp(
        self, stripe: LocalStripe, client: StripeClient, calls: Meter
    ) -> None:
        """An event posted at 06:10 for 05:50 counts in the hour from 05:00."""
        event = post(client, 42, "e1")
        assert (event.identifier, event.timestamp, event.created) == ("e1", HOUR + 3_000, NOW)
        assert event.payload.to_dict() == {"stripe_customer_id": "cus_a", "value": "42"}
        assert stripe.hour_totals() == {("cus_a", "calls", HOUR): 42}
        assert calls.status == "active"

    @pytest.mark.usefixtures("calls")
    def test_a_repeated_identifier_is_refused(self, stripe: LocalStripe, client: StripeClient) -> None:
        """A repeat changes nothing, whatever it carries (docs: uniqueness of `identifier`)."""
        post(client, 42, "e1")
        with pytest.raises(InvalidRequestError) as error:
            post(client, 43, "e1")
        assert refusal(error) == (400, "An event already exists with identifier e1.")
        assert error.value.code is None
        assert stripe.hour_totals() == {("cus_a", "calls", HOUR): 42}

    @pytest.mark.usefixtures("calls")
    def test_an_identifier_is_forgotten_after_a_day(
        self, stripe: LocalStripe, client: StripeClient, clock: Clock
    ) -> None:
        """Stripe promises 24 hours and no more, so the worst case comes right after them."""
        post(client, 42, "e1")
        clock.now += 86_400
        post(client, 43, "e1")
        assert stripe.hour_totals() == {("cus_a", "calls", HOUR): 43}

    @pytest.mark.usefixtures("calls")
    def test_an_event_without_identifier_and_timestamp_gets_both(self, client: StripeClient) -> None:
        """Two events without identifier are two events, of now."""
        payload = {"stripe_customer_id": "cus_a", "value": "1"}
        one = client.v1.billing.meter_events.create({"event_name": "calls", "payload": payload})
        two = client.v1.billing.meter_events.create({"event_name": "calls", "payload": payload})
        assert (one.timestamp, two.timestamp) == (NOW, NOW)
        assert len({one.identifier, two.identifier}) == 2

    @pytest.mark.usefixtures("calls")
    def test_an_identifier_has_at_most_a_hundred_characters(self, client: StripeClient) -> None:
        """A hundred pass, one more does not."""
        assert post(client, 1, "i" * 100).identifier == "i" * 100
        with pytest.raises(InvalidRequestError, match="at most 100 characters"):
            post(client, 1, "i" * 101)

    @pytest.mark.usefixtures("calls")
    def test_a_timestamp_is_at_most_35_days_old_and_5_minutes_ahead(
        self, stripe: LocalStripe, client: StripeClient
    ) -> None:
        """Both ends are accepted, a second beyond them is not."""
        post(client, 1, timestamp=NOW - 35 * 86_400)
        post(client, 1, timestamp=NOW + 300)
        with pytest.raises(InvalidRequestError, match="more than 35 days in past") as error:
            post(client, 1, timestamp=NOW - 35 * 86_400 - 1)
        assert error.value.http_status == 400
        with pytest.raises(InvalidRequestError, match="more than 5 minutes in the future"):
            post(client, 1, timestamp=NOW + 301)
        assert len(stripe.events) == 2

    @pytest.mark.usefixtures("calls")
    @pytest.mark.parametrize("value", ["", "many", "1e3", "0x10", "NaN", "1_000", "1234567890123456"])
    def test_a_value_that_is_no_number_of_15_digits_is_refused(self, client: StripeClient, value: str) -> None:
        """Text, exponents, and a sixteenth digit."""
        with pytest.raises(InvalidRequestError) as error:
            post(client, value)
        assert (error.value.http_status, error.value.param) == (400, "payload[value]")

    @pytest.mark.usefixtures("calls")
    def test_a_value_of_15_digits_is_kept_exactly(self, stripe: LocalStripe, client: StripeClient) -> None:
        """It is an int, not a float."""
        post(client, 999_999_999_999_999)
        assert stripe.hour_totals() == {("cus_a", "calls", HOUR): 999_999_999_999_999}

    def test_an_event_without_active_meter_is_refused(self, client: StripeClient, calls: Meter) -> None:
        """Whether the meter never was or was deactivated."""
        client.v1.billing.meters.deactivate(calls.id)
        with pytest.raises(InvalidRequestError) as error:
            post(client, 1)
        assert refusal(error) == (400, 'No active meter found for event name "calls".')

    @pytest.mark.usefixtures("calls")
    def test_an_event_must_name_its_customer_and_value(self, client: StripeClient) -> None:
        """The payload's keys are those of the meter."""
        with pytest.raises(InvalidRequestError, match="stripe_customer_id"):
            client.v1.billing.meter_events.create({"event_name": "calls", "payload": {"value": "1"}})
        with pytest.raises(InvalidRequestError, match="payload key: value"):
            client.v1.billing.meter_events.create({"event_name": "calls", "payload": {"stripe_customer_id": "cus_a"}})
        with pytest.raises(InvalidRequestError, match="Missing required param: payload"):
            client.v1.billing.meter_events.create({"event_name": "calls", "payload": {}})

    @pytest.mark.usefixtures("calls")
    def test_an_unknown_customer_is_accepted_and_counts_for_nobody(
        self, stripe: LocalStripe, client: StripeClient
    ) -> None:
        """Stripe reports it later (`meter_event_customer_not_found`)."""
        post(client, 7, "e1", customer="cus_gone")
        assert stripe.hour_totals() == {}
        assert [(event.identifier, event.customer) for event in stripe.rejected_events] == [("e1", "cus_gone")]
        assert [event.identifier for event in stripe.events] == ["e1"]

    def test_a_meter_may_have_keys_of_its_own(self, stripe: LocalStripe, client: StripeClient) -> None:
        """`customer_mapping` and `value_settings` say where to look in the payload."""
        mapping = {"type": "by_id", "event_payload_key": "who"}
        create_meter(client, "bytes", customer_mapping=mapping, value_settings={"event_payload_key": "size"})
        client.v1.billing.meter_events.create({"event_name": "bytes", "payload": {"who": "cus_a", "size": "2.50"}})
        assert stripe.hour_totals() == {("cus_a", "bytes", HOUR + 3_600): 2.5}


class TestWindows:
    """What counts of several events of a customer and meter."""

    @pytest.mark.usefixtures("calls")
    def test_the_event_that_arrived_last_is_the_hours_total(self, stripe: LocalStripe, client: StripeClient) -> None:
        """Also where its timestamp is the older one; other hours and customers stay as they are."""
        post(client, 10, "r1", timestamp=HOUR + 3_001)
        post(client, 12, "r2", timestamp=HOUR + 3_000)
        post(client, 5, "h2", timestamp=HOUR + 3_600)
        post(client, 6, "b", customer="cus_b")
        assert stripe.hour_totals() == {
            ("cus_a", "calls", HOUR): 12,
            ("cus_a", "calls", HOUR + 3_600): 5,
            ("cus_b", "calls", HOUR): 6,
        }

    def test_the_event_with_the_greatest_timestamp_can_be_the_total_instead(
        self, clock: Clock, connect: Callable[..., StripeClient]
    ) -> None:
        """The other reading of "most recent"; of equal timestamps the later arrival counts."""
        with LocalStripe(now=clock, latest="timestamp") as stripe:
            stripe.add_customer("cus_a")
            client = connect(stripe)
            create_meter(client)
            post(client, 10, "r1", timestamp=HOUR + 3_001)
            post(client, 12, "r2", timestamp=HOUR + 3_000)
            assert stripe.hour_totals() == {("cus_a", "calls", HOUR): 10}
            post(client, 13, "r3", timestamp=HOUR + 3_001)
            assert stripe.hour_totals() == {("cus_a", "calls", HOUR): 13}

    @pytest.mark.parametrize(("formula", "total"), [("sum", 30), ("count", 2), ("last", 20)])
    def test_without_a_window_every_event_counts(
        self, stripe: LocalStripe, client: StripeClient, formula: str, total: int
    ) -> None:
        """By the meter's formula; the last event is the one with the greatest timestamp."""
        create_meter(client, window=None, default_aggregation={"formula": formula})
        post(client, 20, timestamp=HOUR + 2)
        post(client, 10, timestamp=HOUR + 1)
        assert stripe.hour_totals() == {("cus_a", "calls", HOUR): total}

    def test_a_daily_window_keeps_one_event_a_day(self, stripe: LocalStripe, client: StripeClient) -> None:
        """It stays in the hour of its timestamp."""
        create_meter(client, window="day")
        post(client, 20, timestamp=HOUR)
        post(client, 10, timestamp=HOUR - 3_600)
        assert stripe.hour_totals() == {("cus_a", "calls", HOUR - 3_600): 10}


class TestSummaries:
    """`GET /v1/billing/meters/:id/event_summaries`."""

    def test_summaries_show_what_counts_newest_first(self, client: StripeClient, calls: Meter) -> None:
        """Hour by hour, without the hours that hold nothing."""
        post(client, 10, "r1")
        post(client, 12, "r2")
        post(client, 5, "h2", timestamp=HOUR + 3_600)
        post(client, 1, "old", timestamp=HOUR - 86_400)
        hourly = summaries(client, calls, HOUR - 86_400, HOUR + 7_200, value_grouping_window="hour", limit=2)
        assert [(each.start_time - HOUR, each.end_time - HOUR, each.aggregated_value) for each in hourly] == [
            (3_600, 7_200, 5),
            (0, 3_600, 12),
            (-86_400, -82_800, 1),
        ]
        day = HOUR - HOUR % 86_400
        daily = summaries(client, calls, day - 86_400, day + 86_400, value_grouping_window="day")
        assert [(each.start_time, each.aggregated_value) for each in daily] == [(day, 17), (day - 86_400, 1)]
        whole = summaries(client, calls, HOUR - 86_400, HOUR + 7_200)
        assert [each.aggregated_value for each in whole] == [18]

    def test_a_range_is_half_open_and_empty_ranges_hold_nothing(self, client: StripeClient, calls: Meter) -> None:
        """The end is exclusive; an ungrouped range has its one summary anyway."""
        post(client, 10, timestamp=HOUR)
        assert [each.aggregated_value for each in summaries(client, calls, HOUR - 60, HOUR)] == [0]
        assert [each.aggregated_value for each in summaries(client, calls, HOUR, HOUR + 60)] == [10]
        assert summaries(client, calls, HOUR - 3_600, HOUR, value_grouping_window="hour") == []

    @pytest.mark.parametrize(
        ("start", "end", "grouping"),
        [(1, 120, None), (0, 61, None), (60, 3_600, "hour"), (0, 3_660, "hour"), (0, 3_600, "day"), (60, 60, None)],
    )
    def test_a_range_must_be_aligned_and_not_empty(
        self, client: StripeClient, calls: Meter, start: int, end: int, grouping: str | None
    ) -> None:
        """To minutes, or to the hours or UTC days it is grouped by."""
        more = {"value_grouping_window": grouping} if grouping else {}
        with pytest.raises(InvalidRequestError) as error:
            summaries(client, calls, HOUR + start, HOUR + end, **more)
        assert error.value.http_status == 400


class TestMeters:
    """`/v1/billing/meters`."""

    def test_a_second_active_meter_of_a_name_is_refused(self, client: StripeClient, calls: Meter) -> None:
        """Also when the first one comes back."""
        with pytest.raises(InvalidRequestError, match="An active meter already exists for event name 'calls'"):
            create_meter(client)
        client.v1.billing.meters.deactivate(calls.id)
        create_meter(client)
        with pytest.raises(InvalidRequestError, match="An active meter already exists"):
            client.v1.billing.meters.reactivate(calls.id)

    def test_only_the_name_of_a_meter_can_change(self, client: StripeClient, calls: Meter, clock: Clock) -> None:
        """Anything else is an unknown parameter."""
        clock.now += 60
        updated = client.v1.billing.meters.update(calls.id, {"display_name": "API calls"})
        assert (updated.display_name, updated.event_time_window, updated.updated) == ("API calls", "hour", NOW + 60)
        wrong: Any = {"event_name": "other"}
        with pytest.raises(InvalidRequestError, match="unknown parameter: event_name"):
            client.v1.billing.meters.update(calls.id, wrong)

    def test_a_deactivated_meter_can_come_back(self, client: StripeClient, calls: Meter) -> None:
        """And says since when it was away."""
        away = client.v1.billing.meters.deactivate(calls.id)
        assert (away.status, away.status_transitions.deactivated_at) == ("inactive", NOW)
        back = client.v1.billing.meters.reactivate(calls.id)
        assert (back.status, back.status_transitions.deactivated_at) == ("active", None)

    def test_meters_are_listed_newest_first_and_by_status(self, client: StripeClient) -> None:
        """Across pages, with the cursor that the SDK follows."""
        made = [create_meter(client, f"m{number}").id for number in range(5)]
        client.v1.billing.meters.deactivate(made[0])
        listed = client.v1.billing.meters.list({"limit": 2})
        assert ([meter.id for meter in listed.data], listed.has_more) == ([made[4], made[3]], True)
        assert [meter.id for meter in listed.auto_paging_iter()] == made[::-1]
        assert [meter.id for meter in client.v1.billing.meters.list({"status": "inactive"}).data] == [made[0]]
        before = client.v1.billing.meters.list({"limit": 1, "ending_before": made[1]})
        assert ([meter.id for meter in before.data], before.has_more) == ([made[2]], True)

    @pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 101}, {"starting_after": "mtr_x"}, {"status": "gone"}])
    def test_a_wrong_page_is_refused(self, client: StripeClient, wrong: Any) -> None:
        """Limits from 1 to 100, a cursor that exists, a status that there is."""
        with pytest.raises(InvalidRequestError):
            client.v1.billing.meters.list(wrong)

    @pytest.mark.parametrize(
        ("wrong", "param"),
        [
            ({"default_aggregation": {"formula": "max"}}, "default_aggregation[formula]"),
            ({"event_time_window": "week"}, "event_time_window"),
            ({"display_name": ""}, "display_name"),
        ],
    )
    def test_a_meter_that_stripe_does_not_know_is_refused(self, client: StripeClient, wrong: Any, param: str) -> None:
        """The error names the parameter."""
        with pytest.raises(InvalidRequestError) as error:
            create_meter(client, **({"window": None} | wrong))
        assert error.value.param == param

    def test_a_missing_object_is_404(self, client: StripeClient) -> None:
        """With the code `resource_missing`."""
        with pytest.raises(InvalidRequestError) as error:
            client.v1.billing.meters.retrieve("mtr_x")
        assert (error.value.http_status, error.value.code) == (404, "resource_missing")
        with pytest.raises(InvalidRequestError, match="No such customer: 'cus_x'"):
            client.v1.customers.retrieve("cus_x")


class TestCustomers:
    """`/v1/customers`."""

    def test_a_customer_is_created_changed_and_found(self, client: StripeClient) -> None:
        """Metadata is merged; an empty value removes a key."""
        made = client.v1.customers.create({"name": "Acme", "metadata": {"customer": "acme", "plan": "pro"}})
        client.v1.customers.update(made.id, {"email": "a@acme.test", "metadata": {"plan": "", "team": "x"}})
        found = client.v1.customers.retrieve(made.id)
        assert (found.name, found.email) == ("Acme", "a@acme.test")
        assert found.metadata is not None
        assert found.metadata.to_dict() == {"customer": "acme", "team": "x"}
        assert [each.id for each in client.v1.customers.list({"email": "a@acme.test"}).data] == [made.id]
        assert [each.id for each in client.v1.customers.list({"limit": 1}).auto_paging_iter()] == [
            made.id,
            "cus_b",
            "cus_a",
        ]

    def test_a_parameter_it_does_not_keep_is_refused(self, client: StripeClient) -> None:
        """Rather than dropped in silence; nothing is created then."""
        with pytest.raises(InvalidRequestError, match="unknown parameter: balance"):
            client.v1.customers.create({"balance": 100})
        assert len(client.v1.customers.list().data) == 2


class TestRequests:
    """Keys, headers, idempotency, limits."""

    def test_an_unknown_key_is_401(self, stripe: LocalStripe, connect: Callable[..., StripeClient]) -> None:
        """And the error does not show the key."""
        with pytest.raises(AuthenticationError, match="Invalid API Key provided") as error:
            connect(stripe, key="sk_test_somebody_elses").v1.customers.list()
        assert error.value.http_status == 401
        assert "sk_test_somebody_elses" not in str(error.value)

    def test_a_rotated_key_is_401_and_the_others_still_work(
        self, clock: Clock, connect: Callable[..., StripeClient]
    ) -> None:
        """Keys change at run time."""
        with LocalStripe(now=clock, api_keys=("sk_test_one", "sk_test_two")) as stripe:
            one, two = connect(stripe), connect(stripe, key="sk_test_two")
            stripe.rotate_key("sk_test_three")
            with pytest.raises(AuthenticationError, match="Expired API Key"):
                one.v1.customers.list()
            assert two.v1.customers.list().data == []
            assert stripe.api_key == "sk_test_three"
            assert connect(stripe).v1.customers.list().data == []

    def test_basic_auth_and_the_headers_of_an_answer(self, stripe: LocalStripe) -> None:
        """The key may be a user name; the version is echoed; each answer has an id."""
        request = urllib.request.Request(f"{stripe.url}/v1/customers")  # noqa: S310  on the loopback
        request.add_header("Authorization", "Basic c2tfdGVzdF9sb2NhbDo=")
        request.add_header("Stripe-Version", "2026-10-28.endive")
        with urllib.request.urlopen(request) as answer:  # noqa: S310  on the loopback
            assert answer.headers["Stripe-Version"] == "2026-10-28.endive"
            assert answer.headers["Request-Id"].startswith("req_")
            assert len(json.load(answer)["data"]) == 2

    def test_an_unknown_route_is_404(self, client: StripeClient) -> None:
        """In Stripe's words."""
        with pytest.raises(InvalidRequestError) as error:
            client.v1.coupons.list()
        assert error.value.http_status == 404
        assert str(error.value.user_message).startswith("Unrecognized request URL (GET: /v1/coupons).")

    @pytest.mark.usefixtures("calls")
    def test_an_idempotency_key_replays_its_first_answer(self, stripe: LocalStripe, client: StripeClient) -> None:
        """The event is accepted once, and the identifier is not complained about."""
        first, second = post(client, 42, "e1", key="k"), post(client, 42, "e1", key="k")
        assert first.to_dict() == second.to_dict()
        assert second.last_response is not None
        assert second.last_response.headers["idempotent-replayed"] == "true"
        assert len(stripe.events) == 1

    @pytest.mark.usefixtures("calls")
    def test_an_idempotency_key_with_other_parameters_is_refused(self, client: StripeClient) -> None:
        """The error is of its own type."""
        post(client, 42, "e1", key="k")
        with pytest.raises(IdempotencyError) as error:
            post(client, 43, "e1", key="k")
        assert error.value.http_status == 400

    @pytest.mark.usefixtures("calls")
    def test_an_idempotency_key_does_not_save_what_validation_refused(self, client: StripeClient) -> None:
        """The endpoint never ran, so the key is still free."""
        with pytest.raises(InvalidRequestError):
            post(client, "many", "e1", key="k")
        assert post(client, 42, "e1", key="k").identifier == "e1"

    def test_more_calls_in_a_second_than_allowed_are_429(
        self, clock: Clock, connect: Callable[..., StripeClient]
    ) -> None:
        """Until the next second."""
        ticks = Clock(0.0)
        with LocalStripe(now=clock, ticks=ticks, events_per_second=2) as stripe:
            client = connect(stripe)
            create_meter(client)
            post(client, 1)
            post(client, 1)
            with pytest.raises(RateLimitError) as error:
                post(client, 1)
            assert (error.value.http_status, code(error)) == (429, "rate_limit")
            ticks.now = 1.0
            post(client, 1)
            assert stripe.calls[POST_EVENT] == 4

    def test_more_reads_of_one_endpoint_in_a_second_than_allowed_are_429(
        self, clock: Clock, connect: Callable[..., StripeClient]
    ) -> None:
        """Each endpoint by itself, until the next second, and with the reason in a header."""
        ticks = Clock(0.0)
        with LocalStripe(now=clock, ticks=ticks, endpoint_per_second=25) as stripe:
            client = connect(stripe)
            for _ in range(25):
                client.v1.billing.meters.list()
            with pytest.raises(RateLimitError) as error:
                client.v1.billing.meters.list()
            assert (error.value.http_status, code(error)) == (429, "rate_limit")
            assert (error.value.headers or {})["Stripe-Rate-Limited-Reason"] == "endpoint-rate"
            client.v1.prices.list()
            ticks.now = 1.0
            client.v1.billing.meters.list()

    def test_a_call_is_refused_in_words_that_nobody_has_documented(
        self, stripe: LocalStripe, client: StripeClient
    ) -> None:
        """For one customer, and no other."""
        meter = create_meter(client)
        stripe.set_faults({Fault.REFUSED: 1.0}, customer="cus_a", route=None)
        with pytest.raises(InvalidRequestError, match="cannot be used here"):
            client.v1.billing.meters.event_summaries.list(
                meter.id, {"customer": "cus_a", "start_time": 0, "end_time": 3_600}
            )
        client.v1.billing.meters.event_summaries.list(
            meter.id, {"customer": "cus_b", "start_time": 0, "end_time": 3_600}
        )

    def test_a_second_call_at_a_time_for_a_customer_and_meter_is_429(
        self, clock: Clock, connect: Callable[..., StripeClient]
    ) -> None:
        """The first one is held for an hour; another customer is not in its way, until the client gives up."""
        with LocalStripe(now=clock, latency_s=3_600) as stripe:
            client = connect(stripe)
            create_meter(client)
            failed: list[APIConnectionError] = []
            first = threading.Thread(target=lambda: failed.append(expect_no_answer(client, "cus_a")))
            first.start()
            while not stripe.events:
                first.join(0.001)
            with pytest.raises(RateLimitError) as error:
                post(client, 2)
            assert (error.value.http_status, code(error)) == (429, "lock_timeout")
            give_up_on(stripe, connect, "cus_b")
            assert [event.customer for event in stripe.events] == ["cus_a", "cus_b"]
        first.join()
        assert len(failed) == 1


def expect_no_answer(client: StripeClient, customer: str = "cus_a", identifier: str = "") -> APIConnectionError:
    """Post 10, see the call end without an answer, and give the error."""
    with pytest.raises(APIConnectionError) as error:
        post(client, 10, identifier, customer=customer)
    return error.value


def give_up_on(
    stripe: LocalStripe, connect: Callable[..., StripeClient], customer: str = "cus_a", identifier: str = ""
) -> None:
    """Post 10 with so much patience that the call arrives, which is never answered."""
    before, patience = stripe.calls[POST_EVENT], 0.1
    while stripe.calls[POST_EVENT] == before:
        patience *= 2
        expect_no_answer(connect(stripe, timeout=patience), customer, identifier)


@pytest.mark.usefixtures("calls")
class TestFaults:
    """Faults on demand."""

    @pytest.mark.parametrize(
        ("fault", "status", "accepted"),
        [
            (Fault.RATE_LIMITED, 429, False),
            (Fault.RATE_LIMITED_RETRY, 429, False),
            (Fault.LOCKED, 429, False),
            (Fault.ERROR_BEFORE, 500, False),
            (Fault.ERROR_AFTER, 500, True),
        ],
    )
    def test_an_error_comes_before_or_after_acceptance(
        self, stripe: LocalStripe, client: StripeClient, fault: Fault, status: int, *, accepted: bool
    ) -> None:
        """The next call has no fault, and learns which it was."""
        stripe.set_faults([fault])
        with pytest.raises((RateLimitError, APIError)) as error:
            post(client, 10, "e1")
        assert error.value.http_status == status
        assert [event.identifier for event in stripe.events] == (["e1"] if accepted else [])

    @pytest.mark.parametrize(
        ("fault", "accepted"),
        [
            (Fault.TIMEOUT_BEFORE, False),
            (Fault.TIMEOUT_AFTER, True),
            (Fault.RESET_BEFORE, False),
            (Fault.RESET_AFTER, True),
        ],
    )
    def test_an_answer_is_lost_before_or_after_acceptance(
        self, stripe: LocalStripe, connect: Callable[..., StripeClient], fault: Fault, *, accepted: bool
    ) -> None:
        """The client cannot tell; a new attempt with the same identifier settles it."""
        stripe.set_faults([fault])
        give_up_on(stripe, connect, identifier="e1")
        assert [event.identifier for event in stripe.events] == (["e1"] if accepted else [])

    def test_the_sdk_tries_again_only_where_the_429_says_so(
        self, stripe: LocalStripe, connect: Callable[..., StripeClient]
    ) -> None:
        """`Stripe-Should-Retry: true` makes the difference."""
        client = connect(stripe, retries=1)
        stripe.set_faults([Fault.RATE_LIMITED_RETRY])
        post(client, 10, "e1")
        assert stripe.calls[POST_EVENT] == 2
        stripe.set_faults([Fault.RATE_LIMITED])
        with pytest.raises(RateLimitError):
            post(client, 10, "e2")
        assert stripe.calls[POST_EVENT] == 3

    def test_an_idempotency_key_replays_a_saved_500(
        self, stripe: LocalStripe, connect: Callable[..., StripeClient]
    ) -> None:
        """So the SDK's retry meets the same 500; a new key with the same identifier gets through."""
        stripe.set_faults([Fault.ERROR_BEFORE])
        with pytest.raises(APIError):
            post(connect(stripe, retries=1), 10, "e1", key="k")
        assert stripe.calls[POST_EVENT] == 2
        assert stripe.events == []
        post(connect(stripe), 10, "e1", key="new")
        assert stripe.hour_totals() == {("cus_a", "calls", HOUR): 10}

    def test_a_retry_after_a_lost_answer_is_given_that_answer(
        self, stripe: LocalStripe, connect: Callable[..., StripeClient]
    ) -> None:
        """The SDK's retry has the same idempotency key; without it, the identifier is taken."""
        stripe.set_faults([Fault.RESET_AFTER, None, Fault.RESET_AFTER])
        post(connect(stripe, retries=1), 10, "e1")
        expect_no_answer(connect(stripe), identifier="e2")
        with pytest.raises(InvalidRequestError, match="already exists with identifier e2"):
            post(connect(stripe), 10, "e2")
        assert len(stripe.events) == 2

    def test_a_call_that_lands_late_overwrites_a_newer_total(
        self, stripe: LocalStripe, client: StripeClient, connect: Callable[..., StripeClient]
    ) -> None:
        """The danger that a poster has to reckon with."""
        stripe.set_faults([Fault.LANDS_LATE])
        give_up_on(stripe, connect, identifier="r1")
        post(client, 12, "r2")
        assert stripe.hour_totals() == {("cus_a", "calls", HOUR): 12}
        assert stripe.land_late_calls() == 1
        assert stripe.hour_totals() == {("cus_a", "calls", HOUR): 10}
        assert stripe.land_late_calls() == 0

    def test_a_call_that_lands_late_is_checked_when_it_lands(
        self, stripe: LocalStripe, client: StripeClient, connect: Callable[..., StripeClient]
    ) -> None:
        """A repeat of what was posted meanwhile changes nothing."""
        stripe.set_faults([Fault.LANDS_LATE])
        give_up_on(stripe, connect, identifier="r1")
        post(client, 10, "r1")
        stripe.land_late_calls()
        assert [event.identifier for event in stripe.events] == ["r1"]

    def test_a_patient_client_is_answered_when_its_call_lands(self, stripe: LocalStripe, client: StripeClient) -> None:
        """After `late_s` seconds by itself."""
        stripe.set_faults([Fault.LANDS_LATE], late_s=0.01)
        assert post(client, 10, "r1").identifier == "r1"

    def test_faults_can_be_for_one_customer_only(self, stripe: LocalStripe, client: StripeClient) -> None:
        """Others are served as ever, until the faults are cleared."""
        stripe.set_faults({Fault.RATE_LIMITED: 1.0}, customer="cus_b")
        post(client, 10)
        with pytest.raises(RateLimitError):
            post(client, 10, customer="cus_b")
        stripe.clear_faults()
        post(client, 10, customer="cus_b")

    def test_faults_can_be_for_any_route(self, stripe: LocalStripe, client: StripeClient) -> None:
        """By default they are for meter events alone."""
        stripe.set_faults([Fault.RATE_LIMITED])
        client.v1.customers.list()
        stripe.set_faults([Fault.RATE_LIMITED], route=None)
        with pytest.raises(RateLimitError):
            client.v1.customers.list()

    def test_another_process_sets_faults_and_reads_the_state(self, stripe: LocalStripe, client: StripeClient) -> None:
        """`POST /_local/faults` and `GET /_local/state`."""
        assert local(stripe, "faults", {"faults": [None, "error_after"], "customer": "cus_a"}) == {}
        post(client, 10, "e1")
        with pytest.raises(APIError):
            post(client, 11, "e2")
        state = local(stripe, "state")
        assert state["hour_totals"] == [{"customer": "cus_a", "event_name": "calls", "hour": HOUR, "value": "11"}]
        assert [event["identifier"] for event in state["events"]] == ["e1", "e2"]
        assert (state["rejected_events"], state["calls"][POST_EVENT]) == ([], 2)
        local(stripe, "faults", {"faults": {"rate_limited": 1.0}, "seed": 7})
        with pytest.raises(RateLimitError):
            post(client, 12, "e3")
        with pytest.raises(urllib.error.HTTPError, match="400") as error:
            local(stripe, "faults", {"faults": ["earthquake"]})
        error.value.close()


def local(stripe: LocalStripe, name: str, body: Any = None) -> Any:
    """Call one of the routes that Stripe has not."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"{stripe.url}/_local/{name}", data) as answer:  # noqa: S310  on the loopback
        return json.load(answer)


class TestFaultPlans:
    """Which call meets which fault."""

    def test_rates_are_drawn_the_same_from_the_same_seed(self) -> None:
        """And about as often as they say."""
        rates = {Fault.RATE_LIMITED: 0.1, Fault.TIMEOUT_AFTER: 0.2}
        one, two = FaultPlan(rates, seed=3), FaultPlan(rates, seed=3)
        drawn = [one.draw(POST_EVENT, "cus_a") for _ in range(1_000)]
        assert drawn == [two.draw(POST_EVENT, "cus_b") for _ in range(1_000)]
        assert 50 < drawn.count(Fault.RATE_LIMITED) < 150
        assert 150 < drawn.count(Fault.TIMEOUT_AFTER) < 250
        assert drawn.count(Fault.RATE_LIMITED) + drawn.count(Fault.TIMEOUT_AFTER) + drawn.count(None) == 1_000

    def test_a_script_is_used_up_by_the_calls_it_concerns(self) -> None:
        """A call of another customer takes nothing from it."""
        plan = FaultPlan([Fault.RESET_AFTER, None, Fault.ERROR_AFTER], customer="cus_a")
        assert plan.draw(POST_EVENT, "cus_b") is None
        drawn = [plan.draw(POST_EVENT, "cus_a") for _ in range(4)]
        assert drawn == [Fault.RESET_AFTER, None, Fault.ERROR_AFTER, None]

    @pytest.mark.parametrize("rates", [{Fault.RATE_LIMITED: -0.1}, {Fault.RATE_LIMITED: 0.6, Fault.RESET_AFTER: 0.5}])
    def test_rates_that_cannot_be_are_refused(self, rates: dict[Fault, float]) -> None:
        """Each at least 0, all together at most 1."""
        with pytest.raises(ValueError, match="add up to at most 1"):
            FaultPlan(rates)


@pytest.mark.parametrize(
    ("encoded", "decoded"),
    [
        ("", {}),
        ("a=1&b=x+y%26", {"a": "1", "b": "x y&"}),
        ("payload[value]=3&payload%5Bwho%5D=cus_a", {"payload": {"value": "3", "who": "cus_a"}}),
        ("a[]=1&a[]=2", {"a": ["1", "2"]}),
        ("a[1]=y&a[0]=x", {"a": ["x", "y"]}),
        ("a[0][b]=1&a[1][b]=2", {"a": [{"b": "1"}, {"b": "2"}]}),
        ("a=1&a[b]=2", {"a": {"b": "2"}}),
        ("a=", {"a": ""}),
    ],
)
def test_a_form_is_decoded_into_nested_parameters(encoded: str, decoded: dict[str, Any]) -> None:
    """As the SDKs encode them."""
    assert decode_form(encoded) == decoded


def test_a_taken_port_is_reported_and_leaves_nothing_behind(stripe: LocalStripe) -> None:
    """The thread and its loop end with the error."""
    before = set(threading.enumerate())
    with pytest.raises(OSError, match="address already in use"), LocalStripe(port=int(stripe.url.rsplit(":", 1)[1])):
        pass
    assert set(threading.enumerate()) <= before
