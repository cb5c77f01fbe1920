"""From a declared plan to an invoice: subscribing, Stripe's preview, and that both sides price alike."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import pytest
import stripe as stripe_sdk
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.local.stripe.faults import Fault
from infra.local.stripe.server import LocalStripe
from infra.operate.access_notes import AccessNotes
from infra.operate.catalog import Catalog, Step
from infra.operate.customers import Customers
from infra.operate.deployment import OperatorError
from infra.operate.forgetting import Forgetting
from infra.operate.paying import portal_link
from infra.operate.previewing import as_it_would_be, preview
from infra.operate.removing import Removing
from infra.operate.rights import FUNCTIONS, OPERATORS
from infra.operate.subscribing import Subscribed, Subscriber, Wishes
from metering.model.periods import Hour
from metering.model.prices import Flat, Graduated, Package, PerUnit, Plan, Price, Tier, Volume, explain, name_of, terms
from metering.stores.holders import Customer
from metering.stores.limits import LimitItems
from metering.stores.mistakes import Mistakes
from metering.stripe.client import StripeNotConnectedError, StripeUnavailableError
from metering.stripe.invoices import StripeReader
from metering.stripe.meters import StripeMeters
from metering.stripe.prices import Offer, offer_of
from metering.stripe.reading import Reads
from metering.stripe.subscriptions import Offers, Terms, preview_of, running
from tests.doubles.clock import Clock
from tests.integration.world import HOUR, World, moment

KEY = "sk_test_local"
PAGE = "https://usage.example/"
STANDARD = Plan(
    name="standard",
    title="Standard",
    currency="usd",
    prices=(
        Flat(amount=4900, included={"requests": 2}),
        PerUnit(metric="requests", amount="1.5"),
        Package(metric="bytes", size=100, amount=3),
    ),
)
BASIC = Plan(name="basic", title="Basic", currency="usd", prices=(PerUnit(metric="requests", amount=2),))
OURS, THEIRS = "rk_test_operator", "rk_test_functions"


def lesser(key: str, rights: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return a restricted key for each right that is missing, or only to read where it is to write."""
    return {
        f"{key}_{level or 'no'}_{name}": {other: has for other, has in {**rights, name: level}.items() if has}
        for name, needed in rights.items()
        for level in (["read", ""] if needed == "write" else [""])
        if (name, level) not in {("billing_meter_event", "read"), ("webhook", "read"), ("webhook", "")}
    }


LESSER = lesser(OURS, OPERATORS) | lesser(THEIRS, FUNCTIONS)
"""Of destinations for notifications other tests tell, which is all that the right to webhooks is for."""


@pytest.fixture
def clock() -> Clock:
    """One clock for the world and Stripe, in the world's hour."""
    return Clock(HOUR.start + timedelta(minutes=40))


@pytest.fixture
def stripe(clock: Clock) -> Iterator[LocalStripe]:
    """The local Stripe, whose clock can be set."""
    restricted = {OURS: OPERATORS, THEIRS: FUNCTIONS, **LESSER}
    with LocalStripe(api_keys=[KEY], restricted_keys=restricted, now=clock) as server:
        yield server


@dataclass
class Shop:
    """A deployment that sells."""

    world: World
    plans: tuple[Plan, ...] = (STANDARD, BASIC)

    def at(self, moment: datetime) -> None:
        """Let it be this moment, for all."""
        self.world.now = moment

    def catalog(self) -> Catalog:
        """Return its catalog."""
        return Catalog(self.world.meters(), ("requests", "bytes"), self.plans)

    def apply(self) -> list[Step]:
        """Bring the catalog to Stripe."""
        return self.catalog().apply(lambda _: None)

    def subscribe(self, name: str = "acme", plan: str = "standard", **wishes: Any) -> Subscribed:
        """Subscribe a customer, who is sent invoices unless something else is said."""
        given = Wishes(**(wishes or {"email": f"billing@{name}.example"}))
        return self.subscriber().subscribe(self.owner(name), plan, given, now=self.world.now)

    def subscriber(self) -> Subscriber:
        """Return what subscribes."""
        customers = Customers(self.world.ledger, self.world.counters)
        return Subscriber(self.world.meters(), self.catalog(), customers, PAGE)

    def owner(self, name: str = "acme") -> Customer:
        """Return a customer as the ledger has it."""
        return self.world.ledger.holders.customers([name])[name]

    def charge(self, name: str = "acme", plan: str = "standard", **wishes: Any) -> Subscribed:
        """Subscribe a customer who is to be charged."""
        return self.subscriber().subscribe(self.owner(name), plan, Wishes(**wishes), now=self.world.now)

    def preview(self, name: str = "acme") -> dict[str, Any]:
        """Return the running invoice."""
        return preview(self.world.meters(), self.world.ledger.holders.customers([name])[name])

    def sdk(self) -> stripe_sdk.StripeClient:
        """Return a client of somebody else."""
        return stripe_sdk.StripeClient(KEY, base_addresses={"api": self.world.stripe.url})

    def amounts(self) -> dict[str, list[tuple[int, int]]]:
        """Return quantities and amounts of the running invoice, by price."""
        found: dict[str, list[tuple[int, int]]] = {}
        for line in self.preview()["lines"]:
            found.setdefault(line["price"], []).append((line["quantity"], line["amount"]))
        return found


@pytest.fixture
def shop(world: World) -> Shop:
    """A deployment with a customer that Stripe does not know, and its catalog at Stripe."""
    made = Shop(world)
    world.customer("acme", "key1")
    made.apply()
    return made


@pytest.mark.parametrize("status", ["active", "incomplete"])
def test_a_customer_is_not_removed_as_long_as_its_subscription_bills_or_may_yet(shop: Shop, status: str) -> None:
    """I9: what it would use and what it is to pay would be nobody's."""
    subscription = shop.subscribe().subscription if status == "active" else incomplete(shop)
    ledger, counters = shop.world.ledger, shop.world.counters
    limits, notes = LimitItems(ledger.client, "ledger"), AccessNotes(ledger.client, "ledger")
    forgetting = Forgetting(ledger, counters, limits, notes, Mistakes(ledger.client, "ledger"))
    removing = Removing(forgetting, shop.world.meters())
    with pytest.raises(OperatorError) as caught:
        removing.remove("acme", now=shop.world.now)
    assert str(caught.value) == (
        f"the customer acme cannot be removed: its subscription {subscription} is {status}: cancel that at Stripe first"
    )
    shop.sdk().v1.subscriptions.cancel(subscription)
    assert removing.remove("acme", now=shop.world.now) == ["key key1 is forgotten", "customer acme is removed"]


def test_from_a_customer_to_an_invoice_needs_no_dashboard(shop: Shop) -> None:
    """The hour of the subscription is billed from its first minute, the hour before not at all."""
    done = shop.subscribe(email="billing@acme.example", days_until_due=14)
    assert done.said[-1] == f"acme is subscribed to standard as {done.subscription}, from 2026-11-22T05 on"
    shop.world.record(*(shop.world.line() for _ in range(5)))  # in minute 29, and now is minute 40
    shop.world.record(shop.world.line(time=moment(Hour(HOUR.number - 1))))
    shop.world.after_grace()
    shop.at(shop.world.now)
    shop.world.run()
    assert shop.world.at_stripe(done.stripe_customer, hour=Hour(HOUR.number - 1)) == 1
    assert shop.amounts() == {"base_fee": [(1, 4900)], "requests": [(2, 0), (3, 5)], "bytes": [(50, 3)]}
    found = shop.preview()
    packages = {line["price"]: line["package"] for line in found["lines"]}
    assert packages == {"base_fee": None, "requests": None, "bytes": 100}
    assert (found["total"], found["currency"], found["plans"]) == (4908, "usd", ["standard"])
    assert found["period"] == {"from": "2026-11-22T05:00Z", "to": "2026-12-22T05:00Z"}
    said = terms(STANDARD)
    used = {"base_fee": 0, "requests": 5, "bytes": 50}
    assert {name: [line.amount for line in explain(said[name], used[name])] for name in said} == {
        name: [amount for _, amount in lines] for name, lines in shop.amounts().items()
    }
    customer = shop.sdk().v1.customers.retrieve(done.stripe_customer)
    assert (customer.name, customer.email) == ("Acme", "billing@acme.example")
    subscription = shop.sdk().v1.subscriptions.retrieve(done.subscription)
    assert (subscription.collection_method, subscription.days_until_due) == ("send_invoice", 14)


def test_who_pays_how_is_said_once(shop: Shop) -> None:
    """By invoice where there is an address, due in 30 days; an address that comes later is said to be ignored."""
    done = shop.subscribe(email="billing@acme.example")
    subscription = shop.sdk().v1.subscriptions.retrieve(done.subscription)
    assert (subscription.collection_method, subscription.days_until_due) == ("send_invoice", 30)
    again = shop.subscribe(email="other@acme.example")
    assert again.notes == [f"{done.stripe_customer} was there already: its address at Stripe is left as it is"]
    shop.world.customer("globex", "key2", stripe_customer="cus_globex")
    charged = shop.sdk().v1.subscriptions.retrieve(shop.charge("globex").subscription)
    assert charged.collection_method == "charge_automatically"


@pytest.mark.parametrize("minute", [0, 59])
def test_no_hour_is_cut_wherever_in_it_a_subscription_is_made(shop: Shop, minute: int) -> None:
    """Stripe counts an hour's total at its last minutes, at which the subscription may be younger than the usage."""
    shop.at(HOUR.start + timedelta(minutes=minute))
    done = shop.subscribe()
    assert done.begins == str(HOUR)
    shop.at(HOUR.start + timedelta(minutes=59))
    shop.world.record(*(shop.world.line() for _ in range(3)))
    shop.world.after_grace()
    shop.at(shop.world.now)
    shop.world.run()
    assert shop.amounts()["requests"] == [(2, 0), (1, 2)]


def test_subscribing_again_changes_nothing(shop: Shop) -> None:
    """Days later, too, and from four sides at once."""
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: shop.subscribe(), range(4)))
    assert len({(one.stripe_customer, one.subscription) for one in done}) == 1
    shop.at(HOUR.start + timedelta(days=40))
    again = shop.subscribe()
    assert (again.subscription, again.said, again.begins) == (done[0].subscription, [], str(HOUR))
    client = shop.sdk()
    assert len(client.v1.customers.list().data) == len(client.v1.subscriptions.list().data) == 1


@pytest.mark.parametrize("route", ["POST /v1/customers", "POST /v1/subscriptions"])
@pytest.mark.parametrize("fault", [Fault.ERROR_BEFORE, Fault.ERROR_AFTER, Fault.RESET_AFTER])
def test_a_failure_of_stripe_makes_no_second_one(
    shop: Shop, route: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor blocks the next run for as long as Stripe remembers an idempotency key."""
    monkeypatch.setattr("metering.stripe.client.RETRIES", 0)
    shop.world.stripe.set_faults([fault] * 2, route=route)
    for _ in range(2):
        try:
            shop.subscribe()
        except StripeUnavailableError:
            continue
    shop.world.stripe.clear_faults()
    shop.subscribe()
    client = shop.sdk()
    assert len(client.v1.customers.list().data) == len(client.v1.subscriptions.list().data) == 1


def test_another_plan_is_refused_while_one_runs(shop: Shop) -> None:
    """Both would bill the same usage. Cancelled, it makes room, and then for the first one again."""
    first = shop.subscribe()
    with pytest.raises(OperatorError, match=f"subscribed to standard .{first.subscription}., and both"):
        shop.subscribe(plan="basic")
    shop.sdk().v1.subscriptions.cancel(first.subscription)
    second = shop.subscribe(plan="basic")
    shop.sdk().v1.subscriptions.cancel(second.subscription)
    third = shop.subscribe()
    assert len({first.subscription, second.subscription, third.subscription}) == 3


def test_a_replaced_price_is_said_of_its_subscriptions(shop: Shop) -> None:
    """They stay on it; new ones get the new price."""
    first = shop.subscribe()
    changed = (*STANDARD.prices[:2], Package(metric="bytes", size=100, amount=4))
    shop.plans = (Plan(**(_fields(STANDARD) | {"prices": changed})), BASIC)
    archive = next(step for step in shop.catalog().difference().steps if step.action == "archive")
    assert archive.note == (
        f"1 subscription stays on it and what it asks: {first.subscription}; move one at Stripe when its period ends"
    )
    with pytest.raises(OperatorError, match=r"does not have standard.bytes as app.py declares it: run 'metering stri"):
        shop.subscribe()
    shop.apply()
    again = shop.subscribe()
    assert again.subscription == first.subscription
    assert again.said == []
    assert again.notes == [f"{first.subscription} stays on older prices of bytes: move it when its period ends"]


def test_a_price_that_was_added_to_a_plan_is_said_of_its_subscriptions(shop: Shop) -> None:
    """It bills nothing there until it is added."""
    shop.plans = (Plan(**(_fields(STANDARD) | {"prices": STANDARD.prices[:2]})),)
    shop.apply()
    first = shop.subscribe()
    shop.plans = (STANDARD,)
    shop.apply()
    assert shop.subscribe().notes == [f"{first.subscription} is older than the prices of bytes: add them at Stripe"]


def _fields(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__struct_fields__}


def test_existing_ids_are_taken(shop: Shop) -> None:
    """A customer and a subscription that were made by hand."""
    client = shop.sdk()
    customer = client.v1.customers.create({"name": "Acme by hand"}).id
    prices = shop.catalog().current_prices(STANDARD)
    start = int(HOUR.start.timestamp())
    client.v1.payment_methods.attach("pm_card_visa", {"customer": customer})
    client.v1.customers.update(customer, {"invoice_settings": {"default_payment_method": "pm_card_visa"}})
    subscription = client.v1.subscriptions.create(
        {"customer": customer, "items": [{"price": price} for price in prices.values()], "backdate_start_date": start}
    ).id
    done = shop.subscribe(stripe_customer=customer, subscription=subscription)
    assert (done.stripe_customer, done.subscription) == (customer, subscription)
    assert shop.world.ledger.holders.customers(["acme"])["acme"].stripe_customer == customer
    assert shop.subscribe().said == []
    assert len(client.v1.subscriptions.list().data) == len(client.v1.customers.list().data) == 1
    with pytest.raises(OperatorError, match=f"the Stripe customer of acme is {customer}, not cus_other"):
        shop.subscribe(stripe_customer="cus_other")


def test_ids_that_do_not_fit_are_refused(shop: Shop) -> None:
    """Each with what is wrong, before the ledger knows of it."""
    client = shop.sdk()
    items: Any = [{"price": price} for price in shop.catalog().current_prices(STANDARD).values()]
    start = int(HOUR.start.timestamp())

    def made(name: str, items: Any, *, begins: int) -> tuple[str, str]:
        card: Any = {"payment_method": "pm_card_visa", "invoice_settings": {"default_payment_method": "pm_card_visa"}}
        customer = client.v1.customers.create(card | {"name": name}).id
        wanted: Any = {"customer": customer, "items": items, "backdate_start_date": begins}
        return customer, client.v1.subscriptions.create(wanted).id

    good = made("good", items, begins=start)
    within = made("within", items, begins=start + 754)
    lacking = made("lacking", items[:1], begins=start)
    gone = made("gone", items, begins=start)
    client.v1.subscriptions.cancel(gone[1])
    twice = made("twice", items, begins=start)
    second = client.v1.subscriptions.create({"customer": twice[0], "items": items}).id
    for customer, name, why in [
        (within[0], good[1], f"the subscription {good[1]} is of {good[0]}, not of {within[0]}"),
        (*within, f"the periods of {within[1]} begin at 05:12:34, within an hour, whose usage would be billed in the"),
        (
            *lacking,
            f"the subscription {lacking[1]} is none to the plan 'standard': it lacks its prices bytes, requests",
        ),
        (*gone, f"the subscription {gone[1]} is canceled: give another, or none"),
        (*twice, f"{twice[0]} is subscribed as {second} already: cancel that at Stripe first"),
    ]:
        with pytest.raises(OperatorError, match=why):
            shop.subscribe(stripe_customer=customer, subscription=name)
    assert shop.world.ledger.holders.customers(["acme"])["acme"].stripe_customer == ""
    assert shop.subscribe(subscription=good[1]).stripe_customer == good[0]


def test_an_unknown_plan_is_refused(shop: Shop) -> None:
    """With those that are declared."""
    with pytest.raises(OperatorError, match=r"there is no plan 'gold': app\.py declares standard, basic"):
        shop.subscribe(plan="gold")
    shop.plans = ()
    with pytest.raises(OperatorError, match=r"there is no plan 'gold': app\.py declares none: see PLANS there"):
        shop.subscribe(plan="gold")


def test_an_invoice_without_a_subscription_says_what_to_do(shop: Shop) -> None:
    """As long as Stripe does not know the customer, and as long as it has no subscription of ours."""
    with pytest.raises(
        OperatorError, match=r"acme has no Stripe customer yet, .*'metering customers subscribe acme PLAN'"
    ):
        shop.preview()
    done = shop.subscribe()
    shop.sdk().v1.subscriptions.cancel(done.subscription)
    with pytest.raises(
        OperatorError, match=r"acme has no subscription to a plan, .*'metering customers subscribe acme"
    ):
        shop.preview()


def test_while_posting_is_off_the_invoice_shows_what_would_be(shop: Shop) -> None:
    """What the ledger holds, at the declared prices: to the cent what Stripe asks for once it is posted."""
    world = shop.world
    world.customer("acme", "key1")
    shop.apply()
    shop.subscribe()
    world.record(*[world.line(response_length="700") for _ in range(7)])
    on = world.switch.read()
    world.switch.turn(msgspec.structs.replace(on, on=False))
    shop.at(HOUR.end + timedelta(minutes=10))
    world.run()
    owner = world.ledger.holders.customers(["acme"])["acme"]
    before = shop.preview()
    would_be = as_it_would_be(world.ledger, shop.plans, owner, before)
    assert would_be["total"] > before["total"]
    world.switch.turn(msgspec.structs.replace(on, version=world.switch.read().version))
    world.run()
    assert asked(would_be) == asked(shop.preview())


def asked(shown: Mapping[str, Any]) -> dict[str, int]:
    """Return what an invoice asks for, by price."""
    found: dict[str, int] = {}
    for line in shown["lines"]:
        found[line["price"]] = found.get(line["price"], 0) + line["amount"]
    return found


# --- who can be asked to pay, and how --------------------------------------------------------------------------------


def session_of(url: str) -> str:
    """Return the Checkout session that a link is to."""
    return url.rpartition("/")[2]


def test_a_fee_that_cannot_be_charged_gives_a_link_to_checkout(shop: Shop) -> None:
    """And no subscription: once the customer has given a card, the same again makes it, charged by that card."""
    asked = shop.charge()
    assert (asked.subscription, asked.begins) == ("", "")
    assert asked.checkout_url.startswith("https://checkout.stripe.com/")
    assert "acme is not subscribed yet" in asked.notes[-1]
    session = shop.sdk().v1.checkout.sessions.retrieve(session_of(asked.checkout_url))
    assert (session.mode, session.customer, session.currency) == ("setup", asked.stripe_customer, "usd")
    assert (session.success_url, session.cancel_url) == (PAGE, PAGE)
    shop.world.stripe.complete_checkout(session.id)
    shop.at(HOUR.start + timedelta(hours=2, minutes=10))
    done = shop.charge()
    assert (done.stripe_customer, done.checkout_url, done.begins) == (
        asked.stripe_customer,
        "",
        str(Hour(HOUR.number + 2)),
    )
    subscription = shop.sdk().v1.subscriptions.retrieve(done.subscription)
    (card,) = shop.sdk().v1.customers.payment_methods.list(done.stripe_customer).data
    assert (subscription.status, subscription.default_payment_method) == ("active", card.id)
    assert done.notes == []
    assert shop.charge().said == []


def test_a_customers_own_default_is_left_to_it(shop: Shop) -> None:
    """It may change it in Stripe's portal, for all that it pays."""
    shop.world.customer("globex", "key2", stripe_customer="cus_globex")
    made = shop.sdk().v1.subscriptions.retrieve(shop.charge("globex").subscription)
    assert (made.status, made.default_payment_method) == ("active", None)


def test_where_the_customer_comes_back_to_can_be_said(shop: Shop) -> None:
    """Instead of the customers' page."""
    asked = shop.charge(return_url="https://acme.example/billing")
    session = shop.sdk().v1.checkout.sessions.retrieve(session_of(asked.checkout_url))
    assert session.success_url == "https://acme.example/billing"


def test_metered_prices_alone_need_no_payment_method_yet(shop: Shop) -> None:
    """Stripe asks for nothing before the period ends; that nobody will pay then is said."""
    done = shop.charge(plan="basic")
    assert shop.sdk().v1.subscriptions.retrieve(done.subscription).status == "active"
    (note,) = done.notes
    assert note == (
        f"{done.stripe_customer} has no payment method at Stripe: its invoices stay unpaid until it gives one, for "
        "which 'metering customers portal acme' makes a link"
    )


def test_invoices_without_an_address_are_refused_before_anything_is_written(shop: Shop) -> None:
    """Neither here nor at Stripe; with an address the customer gets it."""
    by_hand = shop.sdk().v1.customers.create({"name": "Acme by hand"}).id
    for wishes in ({"days_until_due": 14}, {"days_until_due": 14, "stripe_customer": by_hand}):
        with pytest.raises(OperatorError, match=r"Stripe knows no address of .* to send invoices to: say --email"):
            shop.subscribe(**wishes)
    assert shop.owner().stripe_customer == ""
    assert len(shop.sdk().v1.customers.list().data) == 1
    done = shop.subscribe(stripe_customer=by_hand, email="a@acme.example")
    assert shop.sdk().v1.subscriptions.retrieve(done.subscription).collection_method == "send_invoice"
    assert shop.sdk().v1.customers.retrieve(by_hand).email == "a@acme.example"


def test_a_stripe_customer_that_cannot_be_billed_is_refused_before_anything_is_written(shop: Shop) -> None:
    """Given, or known from before: one that there is not, and one that was deleted."""
    gone = shop.sdk().v1.customers.create({"name": "Gone"}).id
    shop.sdk().v1.customers.delete(gone)
    for name, why in (
        ("cus_typo", "Stripe does not know the customer cus_typo: No such"),
        (gone, "was deleted: give another$"),
    ):
        with pytest.raises(OperatorError, match=why):
            shop.subscribe(stripe_customer=name)
        assert shop.owner().stripe_customer == ""
    before = shop.owner()
    shop.world.ledger.holders.save_customer(Customer("acme", "Acme", "cus_typo"), before=before)
    with pytest.raises(OperatorError, match="Stripe does not know the customer cus_typo"):
        shop.subscribe()


def test_a_stripe_customer_of_the_other_mode_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its usage would be posted where nobody pays."""
    monkeypatch.setattr(StripeMeters, "is_sandbox", lambda _: False)
    made = shop.sdk().v1.customers.create({"name": "Acme"}).id
    with pytest.raises(OperatorError, match=f"the Stripe customer {made} is of a sandbox, and the deployment's key of"):
        shop.subscribe(stripe_customer=made)


@pytest.mark.parametrize("day", ["2026-11-22", "2027-01-29", "2027-01-30", "2027-01-31", "2026-12-31"])
def test_the_first_fee_is_whole_and_the_day_stays(shop: Shop, day: str) -> None:
    """Whenever a customer is subscribed; a month that lacks the day ends on its last one."""
    begin = datetime.fromisoformat(f"{day}T10:00:00+00:00")
    shop.at(begin + timedelta(minutes=40))
    done = shop.subscribe()
    (invoice,) = shop.sdk().v1.invoices.list({"customer": done.stripe_customer}).data
    assert [line.amount for line in invoice.lines.data] == [4900]
    days = []
    for _ in range(3):
        item = shop.sdk().v1.subscriptions.retrieve(done.subscription)["items"].data[0]
        days.append(datetime.fromtimestamp(item.current_period_end, UTC))
        shop.at(days[-1] + timedelta(hours=2))
    last_days = {1: 31, 2: 28, 3: 31, 4: 30}
    assert [end.day for end in days] == [min(begin.day, last_days.get(end.month, 31)) for end in days]


def incomplete(shop: Shop) -> str:
    """Make a subscription that waits for its first payment, as a program of somebody else would."""
    customer = shop.sdk().v1.customers.create({"name": "Acme"}).id
    prices = shop.catalog().current_prices(STANDARD).values()
    wanted: Any = {"customer": customer, "items": [{"price": price} for price in prices]}
    made = shop.sdk().v1.subscriptions.create(wanted | {"payment_behavior": "default_incomplete"})
    assert made.status == "incomplete"
    shop.world.ledger.holders.save_customer(Customer("acme", "Acme", customer), before=shop.owner())
    return made.id


def test_a_subscription_that_waits_for_its_payment_is_not_running(shop: Shop) -> None:
    """It bills nothing: nobody's terms, and no preview; given by its id it is refused."""
    waiting = incomplete(shop)
    assert running(shop.world.meters(), shop.owner().stripe_customer) is None
    with pytest.raises(OperatorError, match="acme has no subscription to a plan"):
        shop.preview()
    with pytest.raises(OperatorError, match=f"the subscription {waiting} is incomplete: give another, or none"):
        shop.subscribe(subscription=waiting)


def test_beside_a_subscription_that_may_yet_bill_none_is_made(shop: Shop) -> None:
    """I2: paid, it would bill the same usage; cancelled, it makes room."""
    waiting = incomplete(shop)
    with pytest.raises(
        OperatorError, match=f"acme has the subscription {waiting}, which is incomplete and bills nothing"
    ):
        shop.subscribe()
    shop.sdk().v1.subscriptions.cancel(waiting)
    assert shop.subscribe().subscription not in ("", waiting)


def test_a_customer_gets_a_link_to_stripes_own_portal(shop: Shop) -> None:
    """Once Stripe knows it."""
    with pytest.raises(OperatorError, match="acme has no Stripe customer yet: subscribe it with"):
        portal_link(shop.world.meters(), shop.owner(), PAGE)
    shop.subscribe()
    assert portal_link(shop.world.meters(), shop.owner(), PAGE).startswith("https://billing.stripe.com/")


# --- the rights of a restricted key ----------------------------------------------------------------------------------


def everything(shop: Shop, ours: str = OURS, theirs: str = THEIRS) -> None:
    """Do all that our commands do at Stripe with one key, and the functions with another."""
    selling = StripeMeters(lambda _fresh: ours, "Selling", shop.world.stripe.url)
    catalog = Catalog(selling, ("requests", "bytes"), (STANDARD,))
    shop.world.customer("selling", "key-selling")
    catalog.apply(lambda _: None)
    customer = shop.owner("selling")
    subscriber = Subscriber(selling, catalog, Customers(shop.world.ledger, shop.world.counters), PAGE)
    asked = subscriber.subscribe(customer, "standard", Wishes(), now=shop.world.now)
    shop.world.stripe.complete_checkout(session_of(asked.checkout_url))
    customer = shop.owner("selling")
    done = subscriber.subscribe(customer, "standard", Wishes(), now=shop.world.now)
    portal_link(selling, customer, PAGE)
    renamed = Plan(**(_fields(STANDARD) | {"title": "Renamed", "prices": STANDARD.prices[1:]}))
    Catalog(selling, ("requests", "bytes"), (renamed,)).apply(lambda _: None)
    meters = StripeMeters(lambda _fresh: theirs, "Selling", shop.world.stripe.url)
    event: Any = {
        "event_name": meters.event_name("requests"),
        "identifier": "selling-1",
        "timestamp": int(shop.world.now.timestamp()),
        "payload": {"stripe_customer_id": done.stripe_customer, "value": "3"},
    }
    meters.call(lambda client: client.v1.billing.meter_events.create(event))
    made = meters.meters()[meters.event_name("requests")]
    assert meters.totals(made, done.stripe_customer, HOUR, HOUR.next()) == {HOUR: 3}
    assert preview(meters, shop.world.ledger.holders.customers(["selling"])["selling"])["total"] == 4902
    reader = StripeReader(meters, Reads(10))
    list(reader.became_final(int((HOUR.start - timedelta(days=1)).timestamp()), int(HOUR.end.timestamp())))
    assert reader.is_billed(done.stripe_customer, "requests")
    subscription = running(meters, done.stripe_customer)
    assert subscription is not None
    assert Terms.of(subscription, Offers(meters)).plans == ("standard",)


def test_the_listed_rights_are_enough(shop: Shop) -> None:
    """With these, and no other one, everything is done that we do at Stripe."""
    everything(shop)


@pytest.mark.parametrize("key", LESSER)
def test_each_listed_right_is_needed(shop: Shop, key: str) -> None:
    """Without it, or with reading alone where writing is listed, something is refused."""
    with pytest.raises(StripeNotConnectedError, match="the Stripe key lacks a right"):
        everything(shop, **{"ours" if key.startswith(OURS) else "theirs": key})


# --- both sides price alike ------------------------------------------------------------------------------------------

amounts = st.one_of(st.integers(0, 99_999_999), st.decimals(0, 99_999_999, places=12).map(lambda number: f"{number:f}"))


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    """Draw the tiers of a price."""
    ends = sorted(draw(st.sets(st.integers(1, 10_000), max_size=4)))
    return tuple(Tier(up_to=end, amount=draw(amounts), flat=draw(st.integers(0, 10**6))) for end in (*ends, None))


prices: st.SearchStrategy[Price] = st.one_of(
    st.integers(0, 99_999_999).map(lambda amount: Flat(amount=amount)),
    amounts.map(lambda amount: PerUnit(metric="requests", amount=amount)),
    st.builds(
        lambda size, amount: Package(metric="requests", size=size, amount=amount), st.integers(2, 9_999), amounts
    ),
    tiers().map(lambda drawn: Graduated(metric="requests", tiers=drawn)),
    tiers().map(lambda drawn: Volume(metric="requests", tiers=drawn)),
)


@pytest.fixture(scope="module")
def seller() -> Iterator[tuple[stripe_sdk.StripeClient, str]]:
    """An account that has a meter, and the meter's id."""
    with LocalStripe(api_keys=[KEY], now=(HOUR.start + timedelta(minutes=30)).timestamp) as server:
        meters = StripeMeters(lambda _fresh: KEY, "Metering", server.url)
        meters.create_meter("requests")
        made = meters.meters()[meters.event_name("requests")]
        yield stripe_sdk.StripeClient(KEY, base_addresses={"api": server.url}), made.id


def test_a_preview_of_more_than_ten_lines_is_read_whole(shop: Shop) -> None:
    """Stripe shows ten of them at once."""
    client = shop.sdk()
    product = client.v1.products.create({"name": "P"}).id
    monthly: Any = {"product": product, "currency": "usd", "recurring": {"interval": "month"}}
    items: Any = [{"price": client.v1.prices.create(monthly | {"unit_amount": n}).id} for n in range(12)]
    shop.world.stripe.add_customer("cus_c")
    made = client.v1.subscriptions.create({"customer": "cus_c", "items": items})
    shown = preview_of(shop.world.meters(), made)
    assert ([line["amount"] for line in shown["lines"]], shown["total"]) == ([*range(12)], 66)


TWELVE_LINES: Final = Graduated(
    metric="requests", tiers=tuple(Tier(up_to=end, amount=1, flat=2) for end in (1_000, 2_000, 3_000, 4_000, None))
)
"""With what a fee includes, six tiers of two lines each, of which Stripe shows ten at once."""


@settings(max_examples=60)
@example(TWELVE_LINES, 12_000, 500)
@given(prices, st.integers(0, 12_000), st.sampled_from([0, 0, 1, 500]))
def test_the_explanation_of_a_price_is_what_stripe_invoices(
    seller: tuple[stripe_sdk.StripeClient, str], price: Price, quantity: int, included: int
) -> None:
    """Line by line, for each kind of price, as Stripe previews it; and the price reads back as it was declared."""
    client, meter = seller
    fees = (Flat(name="fee", amount=0, included={"requests": included}),) if included else ()
    if not isinstance(price, PerUnit | Graduated):
        fees = ()
    said = terms(Plan(name="p", title="P", currency="usd", prices=(price, *fees)))[name_of(price)]
    offer = Offer(said, "usd", "month", "" if isinstance(price, Flat) else meter)
    product = client.v1.products.create({"name": "P"}).id
    parameters: Any = offer.parameters() | {"product": product, "expand": ["tiers"]}
    made = client.v1.prices.create(parameters)
    read = offer_of(made, name_of(price))
    assert read is not None
    assert (str(read), read.fingerprint) == (str(offer), offer.fingerprint)
    customer = client.v1.customers.create({"name": "C", "email": "c@acme.example"}).id
    client.v1.subscriptions.create(
        {
            "customer": customer,
            "items": [{"price": made.id}],
            "backdate_start_date": int(HOUR.start.timestamp()),
            "collection_method": "send_invoice",
            "days_until_due": 30,
        }
    )
    if quantity:
        client.v1.billing.meter_events.create(
            {
                "event_name": "Metering_requests",
                "payload": {"stripe_customer_id": customer, "value": str(quantity)},
                "timestamp": int(datetime(2026, 11, 22, 5, 30, tzinfo=UTC).timestamp()),
            }
        )
    [subscription] = client.v1.subscriptions.list({"customer": customer}).data
    invoice = client.v1.invoices.create_preview({"subscription": subscription.id})
    lines = explain(said, quantity)
    assert [line.amount for line in invoice.lines.auto_paging_iter()] == [line.amount for line in lines]
    assert invoice.total == sum(line.amount for line in lines)
