"""What limits need of customers' subscriptions: what is written of them, by whom, and in which order it may come."""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import aws_cdk as cdk
import boto3
import msgspec
import pytest
import stripe as stripe_sdk
from aws_cdk.assertions import Template as Synthesised

import receive_events
from infra.local.stripe.faults import Fault
from infra.local.stripe.server import LocalStripe
from infra.operate.catalog import Catalog
from infra.operate.customers import Customers, Entry
from infra.operate.subscribing import Subscriber, Wishes
from infra.stack import MeteringStack
from metering.billing.keeping import Keeper
from metering.billing.receiving import Receiver
from metering.billing.unbilled import Looker
from metering.model.amounts import Amounts
from metering.model.periods import Hour
from metering.model.prices import Flat, Graduated, PerUnit, Plan, Price, Tier
from metering.model.subscribed import Subscribed, Window, is_unpaid
from metering.stores.holders import Customer
from metering.stores.limits import LimitItems
from metering.stores.table import RowChangedError
from metering.stripe.client import StripeRejectedError, StripeUnavailableError
from metering.stripe.invoices import StripeReader
from metering.stripe.meters import StripeMeters
from metering.stripe.pacing import Pace
from metering.stripe.prices import Offer
from metering.stripe.reading import Reads
from metering.stripe.subscriptions import Offers
from metering.stripe.webhooks import Webhooks
from tests.doubles.clock import Clock
from tests.doubles.template import Template
from tests.integration.billing import due
from tests.integration.lambdas import SECRET, SIGNING_SECRET, begin
from tests.integration.world import HOUR, METRICS, World

KEY, SIGNS = "sk_test_local", "whsec_k3yvalue"
STANDARD = Plan(
    name="standard",
    title="Standard",
    currency="usd",
    prices=(Flat(amount=4900, included={"requests": 2}), PerUnit(metric="requests", amount="1.5")),
)
BASIC = Plan(name="basic", title="Basic", currency="usd", prices=(PerUnit(metric="requests", amount=2),))
LISTED, PRICED, RETRIEVED = "GET /v1/subscriptions", "GET /v1/prices/:id", "GET /v1/subscriptions/:id"
BEGIN = int(HOUR.start.timestamp())


@pytest.fixture
def clock() -> Clock:
    """One clock for the world and Stripe, in the world's hour."""
    return Clock(HOUR.start + timedelta(minutes=40))


@pytest.fixture
def stripe(clock: Clock) -> Iterator[LocalStripe]:
    """The local Stripe, whose clock is the world's."""
    with LocalStripe(api_keys=[KEY], now=clock) as server:
        yield server


@dataclass
class Desk:
    """A deployment with limits that sells, and everybody who writes down what customers are subscribed to."""

    world: World

    @property
    def items(self) -> LimitItems:
        """What is written down."""
        return LimitItems(self.world.ledger.client, self.world.ledger.table)

    def keeper(self) -> Keeper:
        """Return who writes it, with nothing read yet."""
        return Keeper(self.items, Offers(self.world.meters()), self.world.clock)

    def subscribe(self, name: str = "acme", plan: str = "standard", **wishes: Any) -> str:
        """Subscribe a customer as the command does; return the subscription."""
        catalog = Catalog(self.world.meters(), ("requests", "bytes"), (STANDARD, BASIC))
        customers = Customers(self.world.ledger, self.world.counters)
        given = Wishes(**(wishes or {"email": f"billing@{name}.example"}))
        subscriber = Subscriber(self.world.meters(), catalog, customers, "https://usage.example/")
        done = subscriber.subscribe(self.owner(name), plan, given, now=self.world.now)
        self.keeper().keep(self.owner(name))
        return done.subscription

    def owner(self, name: str = "acme") -> Customer:
        """Return a customer as the ledger has it."""
        return self.world.ledger.holders.customers([name])[name]

    def known(self, name: str = "acme") -> Subscribed | None:
        """Return what is written of a customer."""
        return self.items.subscribed(name)

    def status(self, name: str = "acme") -> tuple[str, int]:
        """Return a customer's status, and since how many minutes of the world's hour."""
        known = self.known(name)
        assert known is not None
        return known.status, (known.since - BEGIN) // 60

    def sdk(self) -> stripe_sdk.StripeClient:
        """Return a client of somebody else."""
        return stripe_sdk.StripeClient(KEY, base_addresses={"api": self.world.stripe.url})

    def told(self) -> list[str]:
        """Return Stripe's notifications of what has happened since the last time, in its order."""
        return [
            json.dumps({name: event[name] for name in ("id", "type", "related_object")})
            for event in (
                self.sdk().raw_request("get", f"/v2/core/events/{name}").data
                for name in self.world.stripe.tell_changes()
            )
        ]

    def receive(self, *bodies: str, keeper: Keeper | None = None) -> None:
        """Let notifications reach receive_events, each signed."""
        webhooks = Webhooks(self.world.meters(), lambda: SIGNS)
        receiver = Receiver(self.world.ledger, webhooks, keeper or self.keeper())
        for body in bodies:
            signature = str(stripe_sdk.WebhookSignature.generate_signature_header(body, SIGNS))
            assert receiver.receive(body.encode(), signature) == {}

    def look(self, reads: int = 1000, prices: dict[str, Offer] | None = None) -> int:
        """Do an hourly run's part; return how many reads it took."""
        world, made = self.world, Reads(reads, Pace(10_000))
        reader, began = StripeReader(world.meters(), made), world.now
        keeper = Keeper(self.items, Offers(reader, {} if prices is None else prices), lambda: began)
        since = Hour.parse(world.switch.read().since)
        Looker(world.ledger, world.changes, reader, since, world.clock, world.now + timedelta(minutes=5), keeper).run()
        return made.made

    def use(self, key: str = "key1") -> None:
        """Let something be used in the world's hour, and be posted."""
        self.world.counters.count(HOUR, key, Amounts({"requests": 3}), b"000000000001")
        self.world.now = due(HOUR)
        self.world.run()

    def later(self, **span: float) -> None:
        """Let time go by, here and at Stripe."""
        self.world.now += timedelta(**span)
        self.world.stripe.advance()


@pytest.fixture
def desk(world: World) -> Desk:
    """A deployment with a customer that Stripe does not know, and its catalog at Stripe."""
    made = Desk(world)
    world.customer("acme", "key1")
    Catalog(world.meters(), ("requests", "bytes"), (STANDARD, BASIC)).apply(lambda _: None)
    return made


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is logged."""
    written = io.StringIO()
    monkeypatch.setattr(receive_events.logger.registered_handler, "stream", written)
    return written


def prices_of(known: Subscribed | None) -> list[Price]:
    """Return the prices that a customer really has."""
    assert known is not None
    return [msgspec.json.decode(price, type=Price) for price in known.prices]


# --- what is written -------------------------------------------------------------------------------------------------


def test_who_is_subscribed_by_a_command_is_written_down_at_once(desk: Desk) -> None:
    """Its prices as they are, included units as tiers, and its period in whole hours."""
    desk.subscribe()
    known = desk.known()
    assert known is not None
    assert known == Subscribed(
        at=BEGIN + 40 * 60,
        stripe_customer=desk.owner().stripe_customer,
        status="active",
        since=BEGIN + 40 * 60,
        plans=("standard",),
        currency="usd",
        interval="month",
        anchor=BEGIN,
        begin=BEGIN,
        end=BEGIN + 30 * 86_400,
        prices=known.prices,
        version=1,
    )
    assert prices_of(known) == [
        Flat(amount="4900", name="base_fee"),
        Graduated(metric="requests", tiers=(Tier(up_to=2, amount="0", flat="0"), Tier(amount="1.5", flat="0"))),
    ]
    assert known.period(desk.world.now) == Window(HOUR, Hour.parse("2026-12-22T05"))


def test_subscribing_again_changes_nothing_but_when_it_was_seen(desk: Desk) -> None:
    """The command may be said twice (I2)."""
    desk.subscribe()
    before = desk.known()
    desk.later(minutes=5)
    desk.subscribe()
    assert before is not None
    assert desk.known() == msgspec.structs.replace(before, at=before.at + 300, version=2)


def test_who_has_no_subscription_is_known_to_have_none(desk: Desk) -> None:
    """Neither one of other business in the account, nor one that never began, is any."""
    desk.world.customer("globex", "key2", stripe_customer="cus_globex")
    product = desk.sdk().v1.products.create({"name": "Other"}).id
    other = desk.sdk().v1.prices.create(
        {"currency": "usd", "product": product, "recurring": {"interval": "month"}, "unit_amount": 100}
    )
    desk.sdk().v1.subscriptions.create({"customer": "cus_globex", "items": [{"price": other.id}]})
    desk.keeper().keep(desk.owner("globex"))
    assert desk.known("globex") == Subscribed(
        at=BEGIN + 40 * 60, stripe_customer="cus_globex", status="", since=BEGIN + 40 * 60, version=1
    )
    subscription = desk.subscribe("globex")
    desk.world.stripe.set_status(subscription, "incomplete_expired")
    desk.keeper().keep(desk.owner("globex"))
    assert desk.status("globex") == ("", 40)


def test_a_price_like_none_that_can_be_declared_is_told_of_that_customer_alone(desk: Desk, log: io.StringIO) -> None:
    """I6, I9: its plans, status and period are known all the same; what it spends nobody knows."""
    desk.subscribe()
    desk.world.customer("globex", "key2")
    subscription = desk.subscribe("globex", "basic")
    item = desk.sdk().v1.subscriptions.retrieve(subscription)["items"].data[0]
    wanted: Any = {
        "currency": "usd",
        "product": item.price.product,
        "recurring": {
            "interval": "month",
            "interval_count": 1,
            "usage_type": "metered",
            "meter": item.price.recurring.meter,
        },
        "unit_amount": 2,
        "transform_quantity": {"divide_by": 10, "round": "down"},
        "metadata": item.price.metadata.to_dict(),
    }
    odd = desk.sdk().v1.prices.create(wanted)
    desk.sdk().v1.subscriptions.update(subscription, {"items": [{"price": odd.id}, {"id": item.id, "deleted": True}]})
    desk.receive(*desk.told())
    known = desk.known("globex")
    assert known is not None
    assert (known.status, known.plans, known.prices, known.unpriced) == ("active", ("basic",), (), (odd.id,))
    assert known.period(desk.world.now) == Window(HOUR, Hour.parse("2026-12-22T05"))
    acme = desk.known()
    assert acme is not None
    assert (len(acme.prices), acme.unpriced) == (2, ())
    assert "prices are like none that can be declared" in log.getvalue()


def test_of_two_subscriptions_the_newest_that_bills_counts(desk: Desk, log: io.StringIO) -> None:
    """As everywhere: one plan's prices and limits are in force, and that there is another one is told."""
    desk.subscribe()
    catalog = Catalog(desk.world.meters(), ("requests", "bytes"), (STANDARD, BASIC))
    prices = [{"price": price} for price in catalog.current_prices(BASIC).values()]
    wanted: Any = {"customer": desk.owner().stripe_customer, "items": prices, "collection_method": "send_invoice"}
    second = desk.sdk().v1.subscriptions.create(wanted | {"days_until_due": 30}).id
    desk.receive(*desk.told())
    known = desk.known()
    assert known is not None
    assert (known.plans, len(known.prices)) == (("basic",), 1)
    assert "the newest of several subscriptions counts" in log.getvalue()
    desk.sdk().v1.subscriptions.cancel(second)
    desk.receive(*desk.told())
    known = desk.known()
    assert known is not None
    assert (known.status, known.plans) == ("active", ("standard",))


# --- who pays, and since when not ------------------------------------------------------------------------------------


def test_grace_begins_when_it_is_first_not_paid_and_goes_on_until_it_is(desk: Desk) -> None:
    """Stripe's further steps, from past_due to unpaid to canceled, do not begin it anew; a payment ends it."""
    subscription = desk.subscribe()
    for status, minutes, since in (
        ("past_due", 50, 50),
        ("unpaid", 60, 50),
        ("active", 70, 70),
        ("past_due", 80, 80),
        ("past_due", 90, 80),
    ):
        desk.world.now = HOUR.start + timedelta(minutes=minutes)
        desk.world.stripe.set_status(subscription, status)
        desk.receive(*desk.told())
        assert desk.status() == (status, since)
    desk.later(minutes=10)
    desk.sdk().v1.subscriptions.cancel(subscription)
    desk.receive(*desk.told())
    assert desk.status() == ("canceled", 80)
    due_at = HOUR.start + timedelta(minutes=80, days=14)
    assert not is_unpaid(desk.known(), 14, due_at - timedelta(seconds=1))
    assert is_unpaid(desk.known(), 14, due_at)


def test_who_subscribes_again_after_a_cancellation_pays_again(desk: Desk) -> None:
    """The subscription that ended is there for ever; the one that bills counts, also before it is notified."""
    desk.sdk().v1.subscriptions.cancel(desk.subscribe())
    desk.later(minutes=10)
    desk.receive(*desk.told())
    assert desk.status() == ("canceled", 50)
    desk.later(days=20)
    assert is_unpaid(desk.known(), 14, desk.world.now)
    desk.subscribe(plan="basic")
    known = desk.known()
    assert known is not None
    assert (known.status, known.plans, is_unpaid(known, 0, desk.world.now)) == ("active", ("basic",), False)
    desk.receive(*desk.told())
    assert desk.known() == msgspec.structs.replace(known, version=known.version + 1)


def test_a_paused_subscription_is_known_as_one_and_resumed_again(desk: Desk) -> None:
    """It owes nothing, and what is used meanwhile is told as billed to nobody."""
    subscription = desk.subscribe()
    desk.world.stripe.set_status(subscription, "paused")
    desk.receive(*desk.told())
    assert desk.status() == ("paused", 40)
    desk.world.stripe.set_status(subscription, "active")
    desk.receive(*desk.told())
    assert desk.status() == ("active", 40)


def test_who_is_deleted_at_stripe_has_cancelled(desk: Desk) -> None:
    """That ends its subscriptions."""
    desk.subscribe()
    desk.sdk().v1.customers.delete(desk.owner().stripe_customer)
    desk.later(minutes=5)
    desk.receive(*desk.told())
    assert desk.status() == ("canceled", 45)


@pytest.mark.parametrize("refused", [False, True])
def test_a_customer_that_stripe_does_not_know_stays_as_it_was_known(
    desk: Desk,
    log: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    refused: bool,  # noqa: FBT001
) -> None:
    """With a key of another account or mode Stripe knows nobody: that must neither close nor open everybody."""
    customers = Customers(desk.world.ledger, desk.world.counters)
    customers.add(Entry("globex", "Globex", "cus_gone", ()), now=desk.world.now)
    owing = Subscribed(at=0, stripe_customer="cus_gone", status="past_due", since=1)
    before = desk.items.subscribe("globex", owing)
    if refused:

        def refuse(*_: Any) -> None:
            raise StripeRejectedError("No such customer: 'cus_gone'", "resource_missing", "customer")

        monkeypatch.setattr("metering.billing.keeping.newest", refuse)
    desk.keeper().keep(desk.owner("globex"))
    desk.look()
    assert desk.known("globex") == before
    assert "Stripe knows a customer no more" in log.getvalue()


# --- notifications ---------------------------------------------------------------------------------------------------


def test_notifications_in_any_order_and_twice_end_at_what_stripe_shows(desk: Desk) -> None:
    """I2: what an event says does not matter, but that something has happened."""
    subscription = desk.subscribe()
    for status in ("past_due", "active", "unpaid"):
        desk.world.stripe.set_status(subscription, status)
    bodies = desk.told()
    assert [json.loads(body)["type"].rpartition(".")[2] for body in bodies] == ["created", *3 * ["updated"]]
    for order in (bodies, bodies[::-1], bodies * 2):
        desk.receive(*order)
        assert desk.status() == ("unpaid", 40)


def test_a_notification_costs_two_reads_and_each_price_one_for_ever(desk: Desk) -> None:
    """Whose it is, and what that customer has; somebody waits, and Stripe allots reads."""
    subscription = desk.subscribe()
    keeper = desk.keeper()
    desk.receive(*desk.told(), keeper=keeper)
    before = desk.world.stripe.calls
    desk.world.stripe.set_status(subscription, "past_due")
    bodies = desk.told()
    asked = desk.world.stripe.calls
    desk.receive(*bodies, keeper=keeper)
    assert desk.world.stripe.calls - asked == {LISTED: 1, RETRIEVED: 1}
    assert before[PRICED] - 2 == 2  # by the command, and by the first notification


def test_subscriptions_of_others_change_nothing(desk: Desk) -> None:
    """I6: another deployment's, or other business: one read says whose it is. Nor does one that there is not."""
    desk.subscribe()
    before = desk.known()
    desk.world.stripe.add_customer("cus_other")
    selling = StripeMeters(lambda _fresh: KEY, "Selling", desk.world.stripe.url)
    catalog = Catalog(selling, ("requests",), (BASIC,))
    catalog.apply(lambda _: None)
    (price,) = catalog.current_prices(BASIC).values()
    bodies = desk.told()
    desk.receive(*bodies)
    desk.sdk().v1.subscriptions.create({"customer": "cus_other", "items": [{"price": price}]})
    (body,) = desk.told()
    asked = desk.world.stripe.calls
    desk.receive(body, body.replace("sub_", "sub_none"))
    assert desk.world.stripe.calls - asked == {RETRIEVED: 2}
    assert before is not None
    assert desk.known() == msgspec.structs.replace(before, version=2)


def test_a_customer_of_two_deployments_is_known_to_each_by_its_own(desk: Desk) -> None:
    """They share a Stripe account, and that customer: each writes down what is its own."""
    desk.subscribe()
    before = desk.known()
    selling = StripeMeters(lambda _fresh: KEY, "Selling", desk.world.stripe.url)
    catalog = Catalog(selling, ("requests",), (BASIC,))
    catalog.apply(lambda _: None)
    (price,) = catalog.current_prices(BASIC).values()
    wanted: Any = {"customer": desk.owner().stripe_customer, "items": [{"price": price}]}
    desk.sdk().v1.subscriptions.create(wanted | {"collection_method": "send_invoice", "days_until_due": 30})
    desk.receive(*desk.told())
    assert before is not None
    assert desk.known() == msgspec.structs.replace(before, version=3)


def test_a_stripe_customer_that_was_somebodys_before_says_nothing_of_it(desk: Desk) -> None:
    """It stays reserved for that customer, which has another one now."""
    subscription = desk.subscribe()
    desk.receive(*desk.told())
    desk.world.stripe.add_customer("cus_new")
    customers = Customers(desk.world.ledger, desk.world.counters)
    customers.add(Entry("acme", "Acme", "cus_new", ()), now=desk.world.now)
    before = desk.known()
    desk.world.stripe.set_status(subscription, "past_due")
    desk.receive(*desk.told())
    assert desk.known() == before
    desk.look()
    known = desk.known()
    assert known is not None
    assert (known.stripe_customer, known.status, known.version) == ("cus_new", "", 3)


def test_grace_of_another_stripe_customer_begins_by_itself(desk: Desk) -> None:
    """What one owed before says nothing of the one that it was changed for."""
    desk.world.stripe.set_status(desk.subscribe(), "past_due")
    desk.receive(*desk.told())
    assert desk.status() == ("past_due", 40)
    desk.world.stripe.add_customer("cus_new")
    customers = Customers(desk.world.ledger, desk.world.counters)
    customers.add(Entry("acme", "Acme", "cus_new", ()), now=desk.world.now)
    desk.later(minutes=10)
    desk.world.stripe.set_status(desk.subscribe(), "past_due")
    known = desk.known()
    assert known is not None
    desk.items.subscribe("acme", Subscribed(0, "cus_before", "past_due", 1, version=known.version))
    desk.receive(*desk.told())
    assert desk.status() == ("past_due", 50)


def test_while_stripe_is_down_a_notification_is_not_taken_and_comes_again(desk: Desk) -> None:
    """I1: an error is answered 500, and Stripe sends it again until it is dealt with."""
    subscription = desk.subscribe()
    desk.world.stripe.set_status(subscription, "past_due")
    _, body = desk.told()
    for route in (LISTED, RETRIEVED):
        desk.world.stripe.set_faults({Fault.ERROR_BEFORE: 1.0}, route=route)
        with pytest.raises(StripeUnavailableError):
            desk.receive(body)
        assert desk.status() == ("active", 40)
    desk.world.stripe.clear_faults()
    desk.receive(body)
    assert desk.status() == ("past_due", 40)


@pytest.mark.parametrize("when", ["GetItem", "PutItem"])
def test_two_at_once_end_at_what_stripe_showed_the_later_one(desk: Desk, when: str) -> None:
    """The slower one is refused, and asks Stripe anew: else what is old would stand."""
    subscription = desk.subscribe()
    dynamodb: Any = desk.world.ledger.client
    once: list[int] = []

    def meanwhile(operation: str, arguments: Any) -> None:
        key = arguments.get("Item") or arguments.get("Key") or {}
        if operation == when and key["sk"]["S"] == "subscribed" and not once:
            once.append(1)
            desk.world.stripe.set_status(subscription, "past_due")
            desk.keeper().keep(desk.owner())

    dynamodb.before.append(meanwhile)
    desk.keeper().keep(desk.owner())
    known = desk.known()
    assert known is not None
    assert (known.status, known.version) == ("past_due", 3)


def test_what_keeps_changing_is_not_taken(desk: Desk) -> None:
    """It comes again, rather than be tried for ever."""
    desk.subscribe()
    dynamodb: Any = desk.world.ledger.client

    def always(operation: str, arguments: Any) -> None:
        if operation == "PutItem" and arguments["Item"]["sk"]["S"] == "subscribed":
            dynamodb.before.remove(always)
            desk.keeper().keep(desk.owner())
            dynamodb.before.append(always)

    dynamodb.before.append(always)
    with pytest.raises(RowChangedError, match="what acme is subscribed to kept changing"):
        desk.receive(*desk.told())


@pytest.mark.parametrize("related", ['{"id": "sub_../../x"}', '{"id": ""}', "{}", "null", '{"id": 7}'])
def test_a_notification_that_names_no_subscription_is_taken_and_told(
    desk: Desk, log: io.StringIO, related: str
) -> None:
    """No repetition would help; nothing that is no id gets into an address."""
    asked = desk.world.stripe.calls
    desk.receive(f'{{"id": "evt_1", "type": "v1.customer.subscription.updated", "related_object": {related}}}')
    assert desk.world.stripe.calls == asked
    assert "notification not understood" in log.getvalue()


def test_without_limits_notifications_of_subscriptions_ask_nothing(desk: Desk) -> None:
    """A destination may list more events than a deployment wants."""
    desk.subscribe()
    before = desk.known()
    bodies, webhooks = desk.told(), Webhooks(desk.world.meters(), lambda: SIGNS)
    asked = desk.world.stripe.calls
    for body in bodies:
        signature = str(stripe_sdk.WebhookSignature.generate_signature_header(body, SIGNS))
        assert Receiver(desk.world.ledger, webhooks).receive(body.encode(), signature) == {}
    assert (desk.world.stripe.calls, desk.known()) == (asked, before)


# --- the hourly look -------------------------------------------------------------------------------------------------


def test_the_hourly_look_writes_what_it_sees_at_no_further_read_but_for_prices(desk: Desk) -> None:
    """A customer's subscriptions are read once a day by it anyway, and its prices once in a process."""
    subscription = desk.subscribe()
    desk.use()
    desk.world.stripe.set_status(subscription, "past_due")
    prices: dict[str, Offer] = {}
    meters, listed, priced = 1, 1, 2
    assert desk.look(prices=prices) == meters + listed + priced
    assert desk.status()[0] == "past_due"
    desk.later(days=1)
    desk.world.stripe.set_status(subscription, "active")
    assert desk.look(prices=prices) == meters + listed
    assert desk.status()[0] == "active"


def test_who_uses_nothing_is_read_once_a_week(desk: Desk) -> None:
    """Who has a Stripe customer may begin at any moment; the others have nothing to be read."""
    subscription = desk.subscribe()
    desk.world.customer("globex", "key2", stripe_customer="cus_globex")
    desk.world.customer("initech", "key3")
    assert desk.look() == 2  # the meters, and globex, of whom nothing was known
    desk.world.stripe.set_status(subscription, "past_due")
    for day in range(1, 7):
        desk.later(days=1)
        assert (day, desk.look(), desk.status()[0]) == (day, 1, "active")
    desk.later(days=1)
    assert desk.look() == 1 + 2 + 2  # of acme its prices, too
    assert desk.status()[0] == "past_due"
    assert desk.known("initech") is None


def test_what_was_written_since_the_run_began_is_not_written_over(desk: Desk) -> None:
    """The run may have read the subscriptions minutes before, for the invoices."""
    subscription = desk.subscribe()
    desk.use()
    made, world = Reads(1000, Pace(10_000)), desk.world
    reader, began = StripeReader(world.meters(), made), world.now
    reader.subscriptions(desk.owner().stripe_customer)
    desk.later(minutes=3)
    world.stripe.set_status(subscription, "past_due")
    desk.receive(*desk.told())
    keeper = Keeper(desk.items, Offers(reader), lambda: began)
    since, deadline = Hour.parse(world.switch.read().since), world.now + timedelta(minutes=5)
    Looker(world.ledger, world.changes, reader, since, world.clock, deadline, keeper).run()
    assert desk.status()[0] == "past_due"


def test_where_no_reads_are_left_for_prices_others_are_looked_at(desk: Desk) -> None:
    """I6: the prices that were read stay known, so that a later round has them all."""
    desk.subscribe()
    desk.items.subscribe("acme", msgspec.structs.replace(desk.known() or Subscribed(0, "", "", 0), at=0, version=1))
    desk.use()
    prices: dict[str, Offer] = {}
    assert desk.look(3, prices) == 3  # the meters, the subscriptions, and a price
    assert (len(prices), [*desk.world.ledger.agreements.of(["acme"])]) == (1, ["acme"])
    desk.later(days=1)
    assert desk.look(3, prices) == 3
    known = desk.known()
    assert known is not None
    assert known.at == int(desk.world.now.timestamp())


def test_an_odd_customer_keeps_nobody_else_waiting(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """I6: Stripe answers oddly about its subscriptions; the next ones are looked at."""
    desk.world.customer("aaa", "key2", stripe_customer="cus_aaa")
    desk.subscribe()
    desk.items.subscribe("acme", msgspec.structs.replace(desk.known() or Subscribed(0, "", "", 0), at=0))
    listed = StripeReader.subscriptions

    def odd(reader: StripeReader, stripe_customer: str) -> list[Any]:
        if stripe_customer == "cus_aaa":
            raise StripeRejectedError("odd")
        return listed(reader, stripe_customer)

    monkeypatch.setattr(StripeReader, "subscriptions", odd)
    desk.look()
    known = desk.known()
    assert known is not None
    assert (known.at, desk.known("aaa")) == (int(desk.world.now.timestamp()), None)


# --- the functions ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited(context: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Template:
    """The template of a deployment with limits."""
    app = cdk.App(context=dict(context), outdir=str(tmp_path_factory.mktemp("limited")))
    return dict(Synthesised.from_stack(MeteringStack(app, "Metering", metrics=METRICS, limits=True)).to_json())


def test_both_functions_write_it_down_under_their_own_roles(
    desk: Desk, limited: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing at all where there are no limits, whose roles would not let them."""
    subscription = desk.subscribe()
    desk.use()
    secrets: Any = boto3.client("secretsmanager")
    secrets.create_secret(Name=SECRET, SecretString=json.dumps({"api_key": KEY}))
    secrets.create_secret(Name=SIGNING_SECRET, SecretString=SIGNS)
    desk.world.stripe.set_status(subscription, "past_due")
    _, body = desk.told()
    signature = str(stripe_sdk.WebhookSignature.generate_signature_header(body, SIGNS))
    sent = {"headers": {"stripe-signature": signature}, "body": body}
    for limits, seen in (("", "active"), ("true", "past_due")):
        with begin(desk.world, limited, monkeypatch) as functions:
            monkeypatch.setenv("LIMITS", limits)
            assert functions.receive(sent) == {"statusCode": 200, "body": "ok"}
        assert desk.status()[0] == seen
    desk.world.stripe.set_status(subscription, "unpaid")
    with begin(desk.world, limited, monkeypatch) as functions:
        functions.reconcile()
    assert desk.status()[0] == "unpaid"
