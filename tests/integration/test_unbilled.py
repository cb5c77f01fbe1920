"""Looks for usage that Stripe has and that nobody pays: what is found, counted and kept, and what of it stays (I9)."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from infra.local.stripe.faults import Fault
from metering.billing.unbilled import Looker
from metering.model.amounts import Amounts
from metering.model.periods import Hour
from metering.model.unbilled import WhyUnbilled
from metering.stores.agreements import Accepted, Looks, Unpaid
from metering.stripe import client as stripe_client
from metering.stripe.client import StripeRejectedError
from metering.stripe.invoices import StripeReader
from metering.stripe.pacing import Pace
from metering.stripe.reading import Reads
from tests.integration.billing import FINALISED, Billing, due
from tests.integration.world import HOUR, World

NEXT = HOUR.next()
DAY = timedelta(days=1)
SUBSCRIPTIONS = "GET /v1/subscriptions"


@pytest.fixture
def stripe_time() -> Callable[[], float]:
    """The world's hour begins."""
    return HOUR.start.timestamp


@dataclass
class Lookout:
    """Who looks, within a budget of reads."""

    world: World
    reads: int = 1000
    made: int = 0

    def look(self) -> Looks:
        """Do an hourly run's part."""
        world, reads = self.world, Reads(self.reads, Pace(10_000))
        since = Hour.parse(world.switch.read().since)
        reader = StripeReader(world.meters(), reads)
        deadline = world.now + timedelta(minutes=5)
        looks = Looker(world.ledger, world.changes, reader, since, world.clock, deadline).run()
        self.made = reads.made
        return looks

    def hours(self) -> dict[str, int]:
        """Look, and return how many hours nobody pays, by reason."""
        return {str(why): hours for why, hours in self.look().hours().items()}


@pytest.fixture
def lookout(world: World) -> Lookout:
    """One that has reads enough."""
    return Lookout(world)


def used(billing: Billing, *hours: Hour, name: str = "key1", metric: str = "requests") -> None:
    """Let something be used in hours, and be posted."""
    for hour in hours:
        billing.batches += 1
        billing.world.counters.count(hour, name, Amounts({metric: 3}), f"{billing.batches:012d}".encode())
    billing.at(due(max(hours)))
    billing.settle()


def cancel(billing: Billing, **how: Any) -> None:
    """End acme's subscription now."""
    (subscription,) = billing.client().v1.subscriptions.list({"customer": "cus_acme"}).data
    wanted: Any = how
    billing.client().v1.subscriptions.cancel(subscription.id, wanted)


def test_what_is_billed_is_not_told(billing: Billing, lookout: Lookout) -> None:
    """Before its invoice, after it, and after the end of a subscription whose invoices have everything."""
    assert lookout.hours() == {}
    billing.at(FINALISED)
    billing.settle()
    cancel(billing)
    billing.at(FINALISED + 2 * DAY)
    assert lookout.hours() == {}


def test_usage_without_a_subscription_is_told_until_there_is_one(world: World, lookout: Lookout) -> None:
    """And its totals stay POSTED: what nobody pays must converge as well (I4)."""
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    used(billing, HOUR, NEXT)
    before = billing.row(HOUR)
    assert lookout.hours() == {"no subscription": 2}
    assert lookout.look().unpaid()[WhyUnbilled.NO_SUBSCRIPTION] == Unpaid(2, 1, ("acme",))
    assert billing.row(HOUR) == before
    billing.subscribe()
    billing.at(world.now + DAY)
    assert lookout.hours() == {"before subscription": 2}


def test_usage_from_before_the_subscription_is_never_billed_whatever_its_age(world: World, lookout: Lookout) -> None:
    """It is said for as long as Stripe would have taken it; later `metering usage` says it still."""
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    used(billing, HOUR)
    billing.subscribe()
    lookout.look()
    for days, told in ((1, {"before subscription": 1}), (34, {"before subscription": 1}), (36, {})):
        billing.jump(HOUR.start + timedelta(days=days))
        assert lookout.hours() == told


def test_what_a_restored_ledger_dates_after_a_subscriptions_begin_is_not_told(world: World, lookout: Lookout) -> None:
    """It is billed, though an hour's usage is usually dated before: while no invoice has it, and after the end."""
    world.ledger_epoch = "2"
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    billing.at(HOUR.start + timedelta(minutes=52))
    billing.subscribe()
    used(billing, HOUR)
    assert lookout.hours() == {}
    billing.jump(HOUR.start + DAY + timedelta(hours=3))
    billing.settle()
    cancel(billing)
    billing.jump(world.now + DAY)
    billing.settle()
    assert (billing.invoiced()[0], lookout.hours()) == (3, {})


def test_a_metric_that_older_subscriptions_have_no_price_of_is_told(billing: Billing, lookout: Lookout) -> None:
    """It was declared after the customer subscribed."""
    used(billing, NEXT, metric="bytes")
    assert lookout.hours() == {"no price in subscription": 1}


@pytest.mark.parametrize("minute", [0, 35, 59])
def test_the_hour_in_which_a_subscription_ends_is_told(billing: Billing, lookout: Lookout, minute: int) -> None:
    """Unless its last invoice has it, which it cannot before the hour is posted."""
    billing.use(2, NEXT)
    billing.at(NEXT.start + timedelta(minutes=minute))
    cancel(billing, invoice_now=False)
    billing.at(due(NEXT))
    billing.settle()
    billing.at(NEXT.end + timedelta(hours=3))
    assert lookout.hours() == {"subscription ended": 2}


def test_a_gap_between_two_subscriptions_is_told(billing: Billing, lookout: Lookout) -> None:
    """What follows is billed again."""
    cancel(billing, invoice_now=True)
    gap = Hour(HOUR.number + 30)
    used(billing, gap)
    billing.subscribe()
    used(billing, Hour(HOUR.number + 32))
    assert lookout.hours() == {"subscription ended": 1}


def test_a_removed_price_is_told(billing: Billing, lookout: Lookout) -> None:
    """The subscription runs on without it."""
    client = billing.client()
    (subscription,) = client.v1.subscriptions.list({"customer": "cus_acme"}).data
    (item,) = subscription["items"].data
    fee = client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 100,
            "recurring": {"interval": "day"},
            "product": client.v1.products.create({"name": "Fee"}).id,
        }
    )
    client.v1.subscriptions.update(
        subscription.id,
        {"items": [{"id": item.id, "deleted": True}, {"price": fee.id}], "proration_behavior": "none"},
    )
    used(billing, NEXT)
    assert lookout.hours() == {"no price in subscription": 2}


def test_a_customer_is_asked_for_once_a_day_and_not_at_all_without_usage(billing: Billing, lookout: Lookout) -> None:
    """Reads are what there is least of."""
    for name in ("beta", "gamma"):
        billing.world.customer(name, f"key-{name}", stripe_customer=f"cus_{name}")
    used(billing, NEXT, name="key-beta")
    begun = billing.world.now
    reads = []
    for hours in (0, 1, 22, 24):
        billing.at(begun + timedelta(hours=hours))
        lookout.look()
        reads.append(lookout.made)
    assert reads == [3, 0, 0, 3]  # the meters, acme, beta


def test_a_round_goes_on_where_its_reads_ended(world: World, lookout: Lookout) -> None:
    """I10: with a read a run, too, and what it finds is told before it is over."""
    billing = Billing(world)
    for number in range(5):
        world.customer(f"c{number}", f"key{number}", stripe_customer=f"cus_{number}")
        billing.use(1, name=f"key{number}")
    billing.at(due(HOUR))
    billing.settle()
    lookout.reads = 2  # the meters, and a customer
    told = []
    for _ in range(6):
        looks = lookout.look()
        told.append((looks.name, looks.hours().get(WhyUnbilled.NO_SUBSCRIPTION, 0)))
    assert [hours for _, hours in told] == sorted(hours for _, hours in told)
    assert told[-1] == ("", 5)
    assert told[0][1] < 5


def test_what_is_odd_of_one_customer_is_its_own(
    world: World, lookout: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: Stripe answers something that nobody expects."""
    billing = Billing(world)
    for name in ("acme", "beta"):
        world.customer(name, f"key-{name}", stripe_customer=f"cus_{name}")
        billing.use(1, name=f"key-{name}")
    billing.at(due(HOUR))
    billing.settle()
    subscriptions = StripeReader.subscriptions

    def odd(reader: StripeReader, stripe_customer: str) -> list[Any]:
        if stripe_customer == "cus_acme":
            raise StripeRejectedError("this account is closed")
        return subscriptions(reader, stripe_customer)

    monkeypatch.setattr(StripeReader, "subscriptions", odd)
    assert lookout.look().unpaid() == {WhyUnbilled.NO_SUBSCRIPTION: Unpaid(1, 1, ("beta",))}


def test_a_customer_that_stripe_always_fails_at_keeps_no_other_from_being_looked_at(
    world: World, lookout: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6, I9: it is stepped over; where Stripe fails at more than one, the next run begins with the second."""
    monkeypatch.setattr(stripe_client, "RETRIES", 0)
    stripe_client._client.cache_clear()
    billing = Billing(world)
    names = ("acme", "beta", "gamma")
    for name in names:
        world.customer(name, f"key-{name}", stripe_customer=f"cus_{name}")
        billing.use(1, name=f"key-{name}")
    billing.at(due(HOUR))
    billing.settle()
    world.stripe.set_faults({Fault.ERROR_BEFORE: 1.0}, route=SUBSCRIPTIONS, customer="cus_acme")
    assert lookout.look().unpaid() == {WhyUnbilled.NO_SUBSCRIPTION: Unpaid(2, 2, ("beta", "gamma"))}
    billing.at(world.now + DAY)
    world.stripe.set_faults({Fault.ERROR_BEFORE: 1.0}, route=SUBSCRIPTIONS)
    assert [lookout.look().name for _ in names[1:]] == ["acme", "beta"]
    world.stripe.clear_faults()
    assert lookout.look().name == ""


def test_what_a_person_has_accepted_is_told_no_more(world: World, lookout: Lookout) -> None:
    """I9: it was told; what comes after is told again."""
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    used(billing, HOUR, NEXT)
    assert lookout.hours() == {"no subscription": 2}
    world.ledger.agreements.accept("acme", Accepted(str(NEXT), "a gift", "operator", 0))
    billing.at(world.now + DAY)
    assert lookout.hours() == {"no subscription": 1}


def test_what_is_put_right_is_told_until_the_next_round_is_over(world: World, lookout: Lookout) -> None:
    """One that is under way hides nothing of what the one before it found."""
    billing = Billing(world)
    for name in ("acme", "beta"):
        world.customer(name, f"key-{name}", stripe_customer=f"cus_{name}")
        billing.use(1, name=f"key-{name}")
    billing.at(due(HOUR))
    billing.settle()
    assert lookout.hours() == {"no subscription": 2}
    subscribe: Any = {"items": [{"price": billing.price()}], "backdate_start_date": int(HOUR.start.timestamp())}
    billing.client().v1.subscriptions.create(subscribe | {"customer": "cus_acme"})
    billing.at(world.now + DAY)
    lookout.reads = 2  # the meters, and acme
    assert lookout.hours() == {"no subscription": 2}
    assert lookout.hours() == {"no subscription": 1}
