"""Subscriptions, invoices, events and restricted keys of the local Stripe, driven with the official SDK."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest
from stripe import APIError, InvalidRequestError, RequestsClient, StripeClient
from stripe import PermissionError as StripePermissionError

from infra.local.stripe.account import Account
from infra.local.stripe.calendar import period
from infra.local.stripe.faults import Fault
from infra.local.stripe.routes import RIGHTS, endpoints
from infra.local.stripe.server import LocalStripe
from infra.local.stripe.stream import Stream

HOUR, DAY = 3_600, 86_400
START = 1_795_323_600  # 2026-11-22T05:00:00Z
END = START + 30 * DAY  # 2026-12-22T05:00:00Z


@dataclass
class World:
    """An account with the meter `calls`, a metered price in hundredths of a dollar, and the customer `cus_a`."""

    stripe: LocalStripe
    http_client: RequestsClient
    client: StripeClient = field(init=False)
    prices: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = self.connect(self.stripe.api_key)
        self.stripe.add_customer("cus_a")
        self.client.v1.products.create({"id": "prod_calls", "name": "Calls"})
        meter = self.client.v1.billing.meters.create(
            {
                "display_name": "Calls",
                "event_name": "calls",
                "default_aggregation": {"formula": "sum"},
                "event_time_window": "hour",
            }
        )
        self.meter = meter.id
        metered: Any = {"interval": "month", "usage_type": "metered", "meter": meter.id}
        self.price("metered", unit_amount=2, recurring=metered)
        self.price("licence", unit_amount=3_000, recurring={"interval": "month"})
        tiers = [{"up_to": 100, "flat_amount": 500}, {"up_to": "inf", "unit_amount": 1}]
        self.price("tiered", billing_scheme="tiered", tiers_mode="graduated", tiers=tiers, recurring=metered)

    def connect(self, key: str) -> StripeClient:
        """Make a client with a key of its own."""
        return StripeClient(
            key, base_addresses={"api": self.stripe.url}, http_client=self.http_client, max_network_retries=0
        )

    def price(self, name: str, **params: Any) -> str:
        """Create a price and remember it by a name."""
        made: Any = {"currency": "usd", "product": "prod_calls"} | params
        self.prices[name] = self.client.v1.prices.create(made).id
        return self.prices[name]

    def subscribe(self, *names: str, **params: Any) -> Any:
        """Subscribe `cus_a` to prices."""
        wanted: Any = {"customer": "cus_a", "items": [{"price": self.prices[name]} for name in names]} | params
        return self.client.v1.subscriptions.create(wanted)

    def use(self, value: int, timestamp: int) -> None:
        """Post an hour's total."""
        payload = {"stripe_customer_id": "cus_a", "value": str(value)}
        self.client.v1.billing.meter_events.create({"event_name": "calls", "payload": payload, "timestamp": timestamp})

    def at(self, moment: float) -> None:
        """Put the account's clock to a later moment."""
        self.stripe.advance(moment - self.stripe.now)

    def invoices(self, **params: Any) -> list[Any]:
        """List invoices, oldest first."""
        listed: Any = params
        return list(reversed(self.client.v1.invoices.list(listed).data))

    def kinds(self, **params: Any) -> list[str]:
        """List the types of events, oldest first."""
        listed: Any = params
        return [event.type for event in reversed(self.client.v1.events.list(listed).data)]


@pytest.fixture
def world() -> Iterator[World]:
    """At 05:00 sharp; the clock moves only where it is told to."""
    keys = {"rk_test_posting1234": {"billing_meter_event": "write", "invoice": "read"}}
    with LocalStripe(now=lambda: START, restricted_keys=keys) as stripe, closing(RequestsClient()) as http_client:
        yield World(stripe, http_client)


def lines(invoice: Any) -> list[tuple[str, int, int]]:
    """Give an invoice's lines as (price, quantity, amount)."""
    return [(line.pricing.price_details.price, line.quantity, line.amount) for line in invoice.lines.data]


class TestSubscriptions:
    """`/v1/subscriptions`."""

    def test_a_metered_subscription_starts_without_an_invoice(self, world: World) -> None:
        """In flexible billing mode there is no line of zero, and so no invoice."""
        subscription = world.subscribe("metered", metadata={"customer": "acme"})
        [item] = subscription["items"].data
        assert (item.current_period_start, item.current_period_end) == (START, END)
        assert (subscription.status, subscription.latest_invoice, subscription.billing_mode.type) == (
            "active",
            None,
            "flexible",
        )
        assert "quantity" not in item.to_dict()
        assert world.invoices() == []
        assert world.kinds() == ["customer.subscription.created"]

    def test_a_licence_is_invoiced_in_advance(self, world: World) -> None:
        """And that invoice is final at once."""
        subscription = world.subscribe("licence", "metered")
        [invoice] = world.invoices()
        assert invoice.id == subscription.latest_invoice
        assert (invoice.status, invoice.total, invoice.billing_reason) == ("open", 3_000, "subscription_create")
        assert lines(invoice) == [(world.prices["licence"], 1, 3_000)]

    def test_an_anchor_makes_a_short_first_period(self, world: World) -> None:
        """A licence costs its share of a whole one (10 of the 30 days to 2026-12-02), or nothing without proration."""
        for behaviour, totals in (("create_prorations", [1_000]), ("none", [])):
            subscription = world.subscribe(
                "licence", billing_cycle_anchor=START + 10 * DAY, proration_behavior=behaviour
            )
            [item] = subscription["items"].data
            assert (item.current_period_start, item.current_period_end) == (START, START + 10 * DAY)
            assert [each.total for each in world.invoices(subscription=subscription.id)] == totals

    def test_a_backdated_subscription_bills_the_usage_since_its_start(self, world: World) -> None:
        """Recorded before there was a subscription."""
        world.use(7, START - HOUR)
        world.use(9, START - 3 * HOUR)
        subscription = world.subscribe("metered", backdate_start_date=START - 2 * HOUR)
        assert (subscription.start_date, subscription.billing_cycle_anchor) == (START - 2 * HOUR, START - 2 * HOUR)
        preview = world.client.v1.invoices.create_preview({"subscription": subscription.id})
        assert lines(preview) == [(world.prices["metered"], 7, 14)]

    @pytest.mark.parametrize(
        ("params", "complaint"),
        [
            ({"customer": "cus_none"}, "No such customer"),
            ({"items": []}, "items"),
            ({"items": [{"price": "price_none"}]}, "No such price"),
            ({"billing_cycle_anchor": START}, "in the future"),
            ({"billing_cycle_anchor": START + 31 * DAY}, "later than next natural billing date"),
            ({"backdate_start_date": START + 1}, "in the past"),
            ({"billing_mode": {"type": "classic"}}, "billing_mode"),
            ({"collection_method": "send_invoice"}, "days_until_due"),
            ({"currency": "eur"}, "currency"),
            ({"trial_period_days": 3}, "unknown parameter: trial_period_days"),
        ],
    )
    def test_a_subscription_that_cannot_be_is_refused(
        self, world: World, params: dict[str, Any], complaint: str
    ) -> None:
        """And leaves nothing behind."""
        with pytest.raises(InvalidRequestError, match=complaint):
            world.subscribe("metered", **params)
        assert world.client.v1.subscriptions.list().data == []
        assert world.kinds() == []

    def test_a_metered_price_has_no_quantity(self, world: World) -> None:
        """Nor can it be there twice."""
        with pytest.raises(InvalidRequestError, match="metered price"):
            world.subscribe("metered", items=[{"price": world.prices["metered"], "quantity": 1}])
        with pytest.raises(InvalidRequestError, match="same price"):
            world.subscribe("metered", "metered")

    def test_a_changed_item_bills_its_usage_up_to_the_change(self, world: World) -> None:
        """What the old price held is billed with the next invoice, the new one counts from then on."""
        subscription = world.subscribe("metered")
        world.use(10, START)
        world.at(START + DAY)
        world.client.v1.subscriptions.update(
            subscription.id,
            {"items": [{"id": subscription["items"].data[0].id, "deleted": True}, {"price": world.prices["tiered"]}]},
        )
        world.use(40, START + DAY)
        world.at(END + HOUR)
        [invoice] = world.invoices()
        tiered = world.prices["tiered"]
        assert lines(invoice) == [(world.prices["metered"], 10, 20), (tiered, 40, 0), (tiered, 0, 500)]
        assert [line.period.end for line in invoice.lines.data] == [START + DAY, END, END]

    def test_a_refused_change_changes_nothing(self, world: World) -> None:
        """Although the first of its items could be deleted."""
        subscription = world.subscribe("metered", "tiered")
        [first, _] = subscription["items"].data
        with pytest.raises(InvalidRequestError, match="same price"):
            world.client.v1.subscriptions.update(
                subscription.id,
                {
                    "items": [
                        {"id": first.id, "deleted": True},
                        {"price": world.prices["licence"]},
                        {"price": world.prices["tiered"]},
                    ]
                },
            )
        assert world.client.v1.subscriptions.retrieve(subscription.id).to_dict() == subscription.to_dict()

    @pytest.mark.parametrize(("params", "totals"), [({}, []), ({"invoice_now": True}, [20])])
    def test_a_canceled_subscription_bills_its_usage_on_demand_alone(
        self, world: World, params: Any, totals: list[int]
    ) -> None:
        """Otherwise it is never billed; it is listed among the canceled."""
        subscription = world.subscribe("metered")
        world.use(10, START)
        world.at(START + DAY)
        assert world.client.v1.subscriptions.cancel(subscription.id, params).status == "canceled"
        world.at(END + DAY)
        assert [invoice.total for invoice in world.invoices()] == totals
        assert world.client.v1.subscriptions.list({"customer": "cus_a"}).data == []
        assert [each.id for each in world.client.v1.subscriptions.list({"status": "canceled"})] == [subscription.id]
        with pytest.raises(InvalidRequestError, match="No upcoming invoices"):
            world.client.v1.invoices.create_preview({"subscription": subscription.id})

    def test_more_than_ten_items_are_paged(self, world: World) -> None:
        """The subscription itself shows ten."""
        names = [world.price(f"p{n}", unit_amount=n, recurring={"interval": "month"}) and f"p{n}" for n in range(12)]
        made = world.subscribe(*names)
        items = world.client.v1.subscriptions.retrieve(made.id)["items"]
        assert (len(items.data), items.has_more) == (10, True)
        assert [item.price.id for item in items.auto_paging_iter()] == [world.prices[name] for name in names]

    def test_subscriptions_are_listed_by_customer_and_price(self, world: World) -> None:
        """Newest first."""
        one, two = world.subscribe("metered"), world.subscribe("licence")
        assert [each.id for each in world.client.v1.subscriptions.list({"customer": "cus_a"})] == [two.id, one.id]
        assert [each.id for each in world.client.v1.subscriptions.list({"price": world.prices["metered"]})] == [one.id]


class TestInvoices:
    """`/v1/invoices`."""

    def test_a_period_makes_a_draft_that_is_final_after_an_hour(self, world: World) -> None:
        """Usage that arrives in the draft's hour is billed, later usage never is."""
        world.subscribe("metered")
        world.use(10, START)
        world.at(END)
        [draft] = world.invoices()
        assert (draft.status, draft.total, draft.created) == ("draft", 20, END)
        assert (draft.automatically_finalizes_at, draft.billing_reason) == (END + HOUR, "subscription_cycle")
        assert (draft.period_start, draft.period_end) == (START, END)
        world.use(5, END - 1)
        world.at(END + HOUR - 1)
        assert [invoice.total for invoice in world.invoices()] == [30]
        world.at(END + HOUR)
        world.use(700, END - 2 * HOUR)
        [final] = world.invoices()
        assert (final.status, final.total, final.status_transitions.finalized_at) == ("open", 30, END + HOUR)
        assert final.number is not None
        assert lines(final) == [(world.prices["metered"], 15, 30)]
        assert world.kinds(type="invoice.*") == ["invoice.created", "invoice.finalized"]

    def test_an_event_at_the_end_belongs_to_the_next_period(self, world: World) -> None:
        """A period is [start, end)."""
        subscription = world.subscribe("metered")
        world.use(1, START)
        world.at(END)
        world.use(10, END - 1)
        world.use(100, END)
        [draft] = world.invoices()
        assert lines(draft) == [(world.prices["metered"], 11, 22)]
        preview = world.client.v1.invoices.create_preview({"subscription": subscription.id})
        assert lines(preview) == [(world.prices["metered"], 100, 200)]

    def test_many_periods_pass_in_order(self, world: World) -> None:
        """Each with its invoice, when nobody asked for long."""
        world.subscribe("metered", "licence")
        world.at(START + 95 * DAY)
        found = [(invoice.created, invoice.status, invoice.total) for invoice in world.invoices()]
        ends = [END, END + 31 * DAY, END + 62 * DAY]
        assert found == [(START, "open", 3_000), *((end, "open", 3_000) for end in ends)]

    def test_a_preview_shows_what_the_period_would_cost(self, world: World) -> None:
        """By tier, with the flat amount as a line of its own, and the licence of the next period."""
        subscription = world.subscribe("tiered", "licence")
        world.use(250, START)
        preview: Any = world.client.v1.invoices.create_preview({"subscription": subscription.id})
        tiered, licence = world.prices["tiered"], world.prices["licence"]
        assert lines(preview) == [(tiered, 100, 0), (tiered, 0, 500), (tiered, 150, 150), (licence, 1, 3_000)]
        assert [(line.period.start, line.period.end) for line in preview.lines.data] == [
            *[(START, END)] * 3,
            (END, END + 31 * DAY),
        ]
        details = preview.lines.data[0].parent.subscription_item_details
        assert (details.subscription, details.subscription_item) == (
            subscription.id,
            subscription["items"].data[0].id,
        )
        assert preview.lines.data[0].description == "100 \N{MULTIPLICATION SIGN} Calls (Tier 1)"
        assert (preview.total, preview.status, preview.billing_reason) == (3_650, "draft", "upcoming")
        assert world.invoices(status="draft") == []

    def test_an_invoice_without_anything_to_pay_is_paid(self, world: World) -> None:
        """It is finalised like any other, and says 0 of its price."""
        world.subscribe("metered")
        world.at(END + HOUR)
        [invoice] = world.invoices()
        assert (invoice.status, invoice.status_transitions.finalized_at) == ("paid", END + HOUR)
        assert lines(invoice) == [(world.prices["metered"], 0, 0)]

    def test_a_draft_is_finalised_early_once(self, world: World) -> None:
        """And then never changes, also not at the end of its hour."""
        world.subscribe("metered")
        world.use(10, START)
        world.at(END + 60)
        [draft] = world.invoices()
        final = world.client.v1.invoices.finalize_invoice(draft.id)
        assert (final.status, final.status_transitions.finalized_at) == ("open", END + 60)
        world.use(10, END - HOUR)
        world.at(END + HOUR)
        assert [invoice.total for invoice in world.invoices(created={"gte": END})] == [20]
        with pytest.raises(InvalidRequestError, match="already finalized"):
            world.client.v1.invoices.finalize_invoice(draft.id)

    def test_an_open_invoice_is_given_up_or_made_void(self, world: World) -> None:
        """One that was given up can be made void, too; neither a draft nor what is paid or void already."""
        world.subscribe("metered")
        world.use(10, START)
        world.at(END + 60)
        [draft] = world.invoices()
        with pytest.raises(InvalidRequestError, match="it is draft"):
            world.client.v1.invoices.void_invoice(draft.id)
        world.at(END + HOUR)
        given_up = world.client.v1.invoices.mark_uncollectible(draft.id)
        assert (given_up.status, given_up.status_transitions.marked_uncollectible_at) == ("uncollectible", END + HOUR)
        world.at(END + 2 * HOUR)
        void = world.client.v1.invoices.void_invoice(draft.id)
        assert (void.status, void.status_transitions.voided_at, void.total) == ("void", END + 2 * HOUR, 20)
        for call in (world.client.v1.invoices.void_invoice, world.client.v1.invoices.mark_uncollectible):
            with pytest.raises(InvalidRequestError, match="it is void"):
                call(draft.id)
        assert world.kinds(types=["invoice.voided", "invoice.marked_uncollectible"]) == [
            "invoice.marked_uncollectible",
            "invoice.voided",
        ]
        assert [invoice.id for invoice in world.invoices(status="void")] == [draft.id]

    def test_lines_show_their_prices_where_they_are_expanded(self, world: World) -> None:
        """Else its id alone; nothing else of a line can be expanded here."""
        world.subscribe("metered")
        world.at(END + HOUR)
        [invoice] = world.invoices()
        price = "data.pricing.price_details.price"
        [line] = world.client.v1.invoices.line_items.list(invoice.id, {"expand": [price]}).data
        shown: Any = line.pricing and line.pricing.price_details and line.pricing.price_details.price
        assert (shown.id, shown.recurring.meter) == (world.prices["metered"], world.meter)
        [line] = world.client.v1.invoices.line_items.list(invoice.id).data
        assert lines(invoice) == [(world.prices["metered"], line.quantity, 0)]
        with pytest.raises(InvalidRequestError, match="cannot be expanded"):
            world.client.v1.invoices.line_items.list(invoice.id, {"expand": ["data.discounts"]})

    def test_more_than_ten_lines_are_paged(self, world: World) -> None:
        """The invoice itself shows ten."""
        names = [world.price(f"p{n}", unit_amount=n, recurring={"interval": "month"}) and f"p{n}" for n in range(12)]
        world.subscribe(*names)
        [invoice] = world.invoices()
        assert (len(invoice.lines.data), invoice.lines.has_more) == (10, True)
        listed = world.client.v1.invoices.line_items.list(invoice.id, {"limit": 5}).auto_paging_iter()
        assert [line.amount for line in listed] == list(range(12))

    def test_a_preview_of_more_than_ten_lines_is_paged_for_72_hours(self, world: World) -> None:
        """Each page is of the same preview; no list shows it, and nothing can be done with it."""
        names = [world.price(f"p{n}", unit_amount=n, recurring={"interval": "month"}) and f"p{n}" for n in range(11)]
        subscription = world.subscribe(*names, "metered")
        world.use(10, START)
        preview = world.client.v1.invoices.create_preview({"subscription": subscription.id})
        assert (len(preview.lines.data), preview.lines.has_more) == (10, True)
        world.use(90, START + 60)
        assert [line.amount for line in preview.lines.auto_paging_iter()] == [*range(11), 20]
        assert world.client.v1.invoices.retrieve(preview.id).total == preview.total
        assert preview.id not in [invoice.id for invoice in world.invoices()]
        with pytest.raises(InvalidRequestError, match="No such invoice"):
            world.client.v1.invoices.finalize_invoice(preview.id)
        world.at(START + 72 * HOUR)
        with pytest.raises(InvalidRequestError, match="No such invoice"):
            world.client.v1.invoices.line_items.list(preview.id)

    def test_invoices_are_filtered(self, world: World) -> None:
        """By status, customer, subscription and time."""
        one, _ = world.subscribe("licence"), world.subscribe("licence")
        world.at(END)
        assert len(world.invoices()) == 4
        assert len(world.invoices(status="draft", customer="cus_a")) == 2
        assert len(world.invoices(subscription=one.id)) == 2
        assert len(world.invoices(created={"gte": START + 1, "lt": END + 1})) == 2
        with pytest.raises(InvalidRequestError, match="unknown parameter"):
            world.invoices(wanted="all")

    def test_young_events_are_not_seen_yet(self) -> None:
        """In summaries, previews and drafts; a finalised invoice holds them."""
        with (
            LocalStripe(now=lambda: START, summary_delay_s=300) as stripe,
            closing(RequestsClient()) as http_client,
        ):
            world = World(stripe, http_client)
            subscription = world.subscribe("metered")
            world.at(END - 60)
            world.use(10, END - 60)

            def seen() -> tuple[float, int]:
                summed = world.client.v1.billing.meters.event_summaries.list(
                    world.meter, {"customer": "cus_a", "start_time": START, "end_time": END}
                )
                preview = world.client.v1.invoices.create_preview({"subscription": subscription.id})
                return summed.data[0].aggregated_value, preview.total

            assert seen() == (0, 0)
            world.at(END)
            [draft] = world.invoices()
            assert draft.total == 0
            assert world.client.v1.invoices.finalize_invoice(draft.id).total == 20
            world.at(END + 240)
            assert seen()[0] == 10


class TestEvents:
    """`GET /v1/events`."""

    def test_events_are_filtered_by_type_and_time(self, world: World) -> None:
        """One type, several, a beginning; newest first; for thirty days."""
        world.price("daily", unit_amount=100, recurring={"interval": "day"})
        world.subscribe("daily")
        world.at(START + DAY)
        both = ["invoice.created", "invoice.finalized"]
        assert world.kinds(types=both) == [*both, "invoice.created"]
        assert world.kinds(created={"gt": START}) == ["invoice.created", "customer.subscription.updated"]
        listed = world.client.v1.events.list({"type": "invoice.created", "limit": 1})
        assert [event.created for event in listed.auto_paging_iter()] == [START + DAY, START]
        world.at(START + 30 * DAY)
        assert world.kinds(created={"lte": START}) == []

    def test_an_event_keeps_the_object_as_it_was(self, world: World) -> None:
        """The draft's event still shows a draft."""
        world.subscribe("metered")
        world.at(END)
        world.use(5, END - 1)
        world.at(END + HOUR)
        created, finalized = reversed(world.client.v1.events.list({"type": "invoice.*"}).data[-2:])
        shown = [(event.data.object["status"], event.data.object["total"]) for event in (created, finalized)]
        assert shown == [("draft", 0), ("open", 10)]
        assert world.client.v1.events.retrieve(created.id).type == "invoice.created"

    def test_an_account_of_an_older_version_has_its_events_in_that(self) -> None:
        """Before 2025-03-31 a line has its price in full, and an invoice its subscription; answers are as ever."""
        with (
            LocalStripe(now=lambda: START, event_version="2024-06-20") as stripe,
            closing(RequestsClient()) as http_client,
        ):
            world = World(stripe, http_client)
            subscription = world.subscribe("metered")
            world.at(END + HOUR)
            [event] = world.client.v1.events.list({"type": "invoice.finalized"}).data
            shown: Any = event.data.object
            [line] = shown["lines"]["data"]
            assert (event.api_version, shown["subscription"]) == ("2024-06-20", subscription.id)
            assert (line["price"]["recurring"]["meter"], line["type"]) == (world.meter, "subscription")
            assert [name for name in ("pricing", "parent", "quantity_decimal") if name in line] == []
            [invoice] = world.invoices()
            assert lines(invoice) == [(world.prices["metered"], 0, 0)]


class TestRestrictedKeys:
    """A key with some rights."""

    def test_a_call_without_its_right_is_403(self, world: World) -> None:
        """In Stripe's words, which name the right."""
        restricted = world.connect("rk_test_posting1234")
        restricted.v1.invoices.list()
        with pytest.raises(StripePermissionError) as error:
            restricted.v1.products.create({"name": "Calls"})
        assert error.value.http_status == 403
        assert str(error.value.user_message) == (
            "The provided key 'rk_test_*******1234' does not have the required permissions for this endpoint on "
            "account 'acct_local'. Having the 'rak_product_write' permission would allow this request to continue."
        )

    def test_to_read_is_not_to_write(self, world: World) -> None:
        """But to write is also to read."""
        restricted = world.connect("rk_test_posting1234")
        with pytest.raises(StripePermissionError, match="rak_invoice_write"):
            restricted.v1.invoices.finalize_invoice("in_1")

    def test_every_route_has_a_right_and_an_answer(self) -> None:
        """So that the list of rights is the list of routes."""
        assert endpoints(Account(), Stream(Account())).keys() == RIGHTS.keys()


def test_a_read_may_fail(world: World) -> None:
    """Any route can be given a fault."""
    world.stripe.set_faults([Fault.ERROR_BEFORE], route="GET /v1/invoices")
    with pytest.raises(APIError) as error:
        world.invoices()
    assert error.value.http_status == 500
    assert world.invoices() == []


def test_another_process_can_put_the_clock_forward(world: World) -> None:
    """By a route that Stripe has not."""
    world.subscribe("metered")
    body = json.dumps({"seconds": 31 * DAY}).encode()
    with urllib.request.urlopen(f"{world.stripe.url}/_local/advance", body) as answer:  # noqa: S310  on the loopback
        assert answer.status == 200
    assert [invoice.created for invoice in world.invoices()] == [END]


@pytest.mark.parametrize(
    ("interval", "count", "after", "expected"),
    [
        ("day", 1, 36 * HOUR, (DAY, 2 * DAY)),
        ("week", 2, 15 * DAY, (14 * DAY, 28 * DAY)),
        ("month", 1, -1, (-31 * DAY, 0)),
        ("month", 1, 29 * DAY, (28 * DAY, 59 * DAY)),
        ("month", 3, 0, (0, 89 * DAY)),
        ("year", 1, 800 * DAY, (730 * DAY, 1_096 * DAY)),
    ],
)
def test_periods_are_counted_from_the_anchor(interval: str, count: int, after: int, expected: tuple[int, int]) -> None:
    """From 2026-01-31: February ends on its 28th, March has its 31st again; 2028 is a leap year."""
    anchor = 1_769_817_600  # 2026-01-31T00:00:00Z
    start, end = period(anchor, interval, count, anchor + after)
    assert (start - anchor, end - anchor) == expected


class TestClocks:
    """`/v1/test_helpers/test_clocks`: customers of a time of their own."""

    def test_what_is_of_a_clocks_customer_happens_at_its_time(self, world: World) -> None:
        """And what is of others at the account's."""
        clocks = world.client.v1.test_helpers.test_clocks
        clock = clocks.create({"frozen_time": START - 90 * DAY, "name": "a quarter ago"})
        customer = world.client.v1.customers.create({"test_clock": clock.id})
        items: Any = [{"price": world.prices["metered"]}]
        subscription = world.client.v1.subscriptions.create({"customer": customer.id, "items": items})
        assert (subscription.created, subscription.start_date) == (START - 90 * DAY, START - 90 * DAY)
        end = subscription["items"].data[0].current_period_end
        world.at(END)
        assert world.client.v1.invoices.list({"customer": customer.id}).data == []
        assert clocks.advance(clock.id, {"frozen_time": end}).status == "ready"
        assert [one.status for one in world.client.v1.invoices.list({"customer": customer.id}).data] == ["draft"]
        clocks.advance(clock.id, {"frozen_time": end + HOUR})
        assert [one.status for one in world.client.v1.invoices.list({"customer": customer.id}).data] == ["paid"]

    @pytest.mark.parametrize("ahead", [0, -1, 3 * 31 * DAY])
    def test_a_clock_goes_forward_and_by_two_intervals_at_most(self, world: World, ahead: int) -> None:
        """Of the shortest subscription of its customers."""
        clocks = world.client.v1.test_helpers.test_clocks
        clock = clocks.create({"frozen_time": START})
        customer = world.client.v1.customers.create({"test_clock": clock.id})
        items: Any = [{"price": world.prices["metered"]}]
        world.client.v1.subscriptions.create({"customer": customer.id, "items": items})
        with pytest.raises(InvalidRequestError, match="Invalid frozen_time"):
            clocks.advance(clock.id, {"frozen_time": START + ahead})

    def test_a_clock_is_deleted_with_its_customers(self, world: World) -> None:
        """Whose subscriptions end."""
        clocks = world.client.v1.test_helpers.test_clocks
        clock = clocks.create({"frozen_time": START})
        customer = world.client.v1.customers.create({"test_clock": clock.id})
        items: Any = [{"price": world.prices["metered"]}]
        subscription = world.client.v1.subscriptions.create({"customer": customer.id, "items": items})
        assert [one.id for one in clocks.list().data] == [clock.id]
        clocks.delete(clock.id)
        assert clocks.list().data == []
        assert world.client.v1.customers.retrieve(customer.id).deleted
        assert world.client.v1.subscriptions.retrieve(subscription.id).status == "canceled"
        with pytest.raises(InvalidRequestError, match="No such test clock"):
            world.client.v1.customers.create({"test_clock": clock.id})


def test_a_customer_is_deleted_with_its_subscriptions(world: World) -> None:
    """Its id is known to have been one, and usage of it is nobody's."""
    subscription = world.subscribe("metered")
    assert world.client.v1.customers.delete("cus_a").deleted
    assert world.client.v1.customers.retrieve("cus_a").deleted
    assert world.client.v1.subscriptions.retrieve(subscription.id).status == "canceled"
    with pytest.raises(InvalidRequestError, match="No such customer"):
        world.client.v1.customers.delete("cus_a")


def test_a_customer_alone_has_no_preview(world: World) -> None:
    """Of which subscription has to be said."""
    world.subscribe("metered")
    with pytest.raises(InvalidRequestError, match="not for a customer as a whole"):
        world.client.v1.invoices.create_preview({"customer": "cus_a"})
