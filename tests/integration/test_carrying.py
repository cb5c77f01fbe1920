"""Carrying: what a finalised invoice, or Stripe's reach, leaves unbilled is billed once, in a later hour."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import msgspec
import pytest

from infra.operate.customers import Customers, Entry
from metering.billing.carrying import Carrier
from metering.billing.noting import Noter
from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.usage_row import MOST_IN_AN_HOUR, State
from metering.stores.changes import Changes
from metering.stores.ledger import Ledger
from metering.stores.marks import Mark, new_mark
from metering.stores.progress import Seen
from metering.stripe.invoices import StripeReader
from metering.stripe.reading import Reads
from tests.doubles.dying import Dying, KilledError, Life
from tests.integration.billing import FINALISED, PERIOD_END, Billing, due
from tests.integration.world import HOUR, World

LAST = Hour.parse("2026-11-23T04")
"""The last hour of the first invoice."""


@pytest.fixture
def stripe_time() -> Callable[[], float]:
    """The world's hour begins."""
    return HOUR.start.timestamp


def test_a_late_record_after_the_invoice_is_carried_once(billing: Billing) -> None:
    """I4: into the current hour, as a row of its own that names the invoice."""
    billing.jump(FINALISED)
    billing.settle()
    assert (billing.invoiced(), billing.carries()) == ([5], [])
    billing.use(2)
    billing.settle()
    now = Hour.containing(FINALISED)
    assert billing.carries() == [(now, 2)]
    [change] = billing.world.changes.of("acme", now)
    assert change.reason == f"in_{1:014d} billed 5 of 7 from {HOUR} to {LAST.next()}"
    billing.at(due(now))
    billing.settle()
    assert billing.carries() == [(now, 2)]
    assert billing.row(now).totals["requests"].carried == 2
    assert billing.still_open() == 2
    billing.jump(FINALISED + timedelta(days=1))
    billing.settle()
    assert billing.invoiced() == [5, 2]


def test_what_was_billed_too_much_is_credited(billing: Billing) -> None:
    """I4: the difference is below nothing, and takes from what is used now."""
    billing.jump(FINALISED)
    billing.adjust(-3)
    billing.settle()
    now = Hour.containing(FINALISED)
    billing.use(4, now)
    billing.at(due(now))
    billing.settle()
    assert billing.row(now).totals["requests"].quantity == 1
    assert sum(billing.invoiced()) + billing.still_open() == 6


def test_less_than_nothing_is_carried_on_until_it_is_used_up(billing: Billing) -> None:
    """I4: an hour is never posted below nothing, and what is left enters the next."""
    billing.jump(FINALISED)
    billing.adjust(-5)
    billing.settle()
    hour = Hour.containing(FINALISED)
    for used in (0, 2, 4):
        billing.use(used, hour)
        billing.at(due(hour))
        billing.settle()
        hour = hour.next()
    assert all(event.value >= 0 for event in billing.world.stripe.events)
    assert sum(billing.invoiced()) + billing.still_open() == 5 + (0 + 2 + 4) - 5
    assert sum(amount for _, amount in billing.carries()) == -5


@pytest.mark.parametrize("streamed", [False, True])
def test_more_than_stripe_takes_of_an_hour_is_carried_into_the_next_ones(billing: Billing, *, streamed: bool) -> None:
    """I4: it has 15 digits; what is beyond is billed all the same, and nothing is rejected."""
    world = billing.world
    if streamed:
        world.stream_from(HOUR)
    billing.use(2 * MOST_IN_AN_HOUR + 12)
    hours = [HOUR]
    for _ in range(4):
        billing.at(due(hours[-1]))
        billing.settle()
        hours.append(hours[-1].next())
    billed = [world.at_stripe("cus_acme", hour=hour) for hour in hours]
    assert billed == [MOST_IN_AN_HOUR, MOST_IN_AN_HOUR, 5 + 12, 0, 0]
    assert billing.carries()[0] == (HOUR, -MOST_IN_AN_HOUR - 17)


def test_a_late_record_before_the_invoice_is_final_is_not_carried(billing: Billing) -> None:
    """I4: the draft takes it."""
    billing.at(PERIOD_END + timedelta(minutes=20))
    billing.world.ledger.progress.advance_cursor(Hour.containing(PERIOD_END))
    billing.use(2)
    billing.settle()
    billing.jump(FINALISED)
    billing.settle()
    assert (billing.invoiced(), billing.carries(), billing.still_open()) == ([7], [], 0)


def test_an_invoice_is_compared_again_whenever_one_of_its_hours_changes(billing: Billing) -> None:
    """I4: each time, the difference to what was carried before."""
    billing.jump(FINALISED)
    for late, hour in ((2, HOUR), (1, HOUR), (4, LAST)):
        billing.use(late, hour)
        billing.settle()
    billing.adjust(-3)
    billing.settle()
    assert [amount for _, amount in sorted(billing.carries())] != []
    assert sum(amount for _, amount in billing.carries()) == 2 + 1 + 4 - 3
    billing.at(due(Hour.containing(FINALISED)))
    billing.settle()
    assert sum(billing.invoiced()) + billing.still_open() == 5 + 4


def test_an_invoice_from_before_its_customer_was_linked_is_compared(billing: Billing) -> None:
    """I4: it is kept until somebody has its Stripe customer."""
    world = billing.world
    world.stripe.add_customer("cus_late")
    billing.subscribe("cus_late")
    world.customer("late", "key9")
    billing.use(4, HOUR.next(), "key9")
    billing.at(due(HOUR.next()))
    world.run()
    billing.jump(FINALISED + timedelta(hours=1))
    world.check()
    assert world.changes.kept("cus_late")
    Customers(world.ledger, world.counters).add(Entry("late", "Late", "cus_late"), now=world.now)
    billing.settle()
    assert [amount for _, amount in billing.carries("late")] == [4]


def test_several_invoices_are_each_compared_with_their_own_hours(billing: Billing) -> None:
    """I3, I4: a carry is part of the invoice that it entered."""
    for day, late in enumerate((2, 1)):
        billing.jump(FINALISED + timedelta(days=day))
        now = Hour.containing(billing.world.now)
        billing.use(late)
        billing.use(10, now)
        billing.settle()
        billing.at(due(now))
        billing.settle()
    billing.jump(FINALISED + timedelta(days=2))
    billing.use(3, Hour.containing(FINALISED))
    billing.settle()
    assert billing.invoiced() == [5, 12, 11]
    assert [amount for _, amount in billing.carries()] == [2, 1, 3]


def test_looking_twice_carries_nothing_twice(billing: Billing) -> None:
    """I4: also before the hour of the carry is closed."""
    billing.jump(FINALISED)
    billing.use(2)
    billing.world.run()
    for _ in range(3):
        billing.world.check()
    assert [amount for _, amount in billing.carries()] == [2]


def test_two_looks_at_once_carry_once(billing: Billing) -> None:
    """I4: a tick can come twice, and an operator can look at the same time."""
    billing.jump(FINALISED)
    billing.use(2)
    billing.world.run()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: billing.world.check(), range(3)))
    billing.settle()
    assert [amount for _, amount in billing.carries()] == [2]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("write", range(1, 5))
def test_a_crash_at_any_transaction_of_a_look_ends_right(
    billing: Billing,
    write: int,
    after: bool,  # noqa: FBT001
) -> None:
    """I4: what is carried is written together with what says that it was."""
    billing.jump(FINALISED)
    billing.use(2)
    billing.use(1, LAST)
    billing.world.run()
    billing.adjust(-9)
    world = billing.world
    watched = cast("Any", Dying(world.ledger.client, Life(write, accepted=after, of={"transact_write_items"})))
    dying = replace(world, ledger=Ledger(watched, "ledger"))
    try:
        for _ in range(3):
            dying.run()
            dying.check()
    except KilledError:
        pass
    else:
        assert write > 1
    billing.settle()
    billing.at(due(Hour.containing(FINALISED)))
    billing.use(7, Hour.containing(FINALISED))
    billing.at(due(Hour.containing(FINALISED).next()))
    billing.settle()
    assert sum(billing.invoiced()) + billing.still_open() == 5 + 2 + 1 - 9 + 7


def test_an_invoice_that_another_run_looks_at_while_it_is_noted_is_compared(billing: Billing) -> None:
    """I4: its mark is written together with it, so that nobody clears the mark before the invoice is there."""
    billing.jump(FINALISED)
    billing.adjust(2)  # the row says 7, the invoice 5
    billing.world.run()
    world = billing.world

    class Interrupted(Changes):
        def _putting(self, *arguments: Any) -> Any:
            if not meanwhile:
                meanwhile.append(1)
                _carrier(world).run()
            return super()._putting(*arguments)

    meanwhile: list[int] = []
    changes = Interrupted(world.ledger.client, "ledger", world.counters)
    replace(_carrier(world), changes=changes).run()
    billing.settle()
    assert [amount for _, amount in billing.carries()] == [2]


def _carrier(world: World, calls: int = 1000) -> Carrier:
    reader, since = StripeReader(world.meters(), Reads(calls)), Hour.parse(world.switch.read().since)
    return Carrier(world.ledger, world.changes, reader, since, world.clock, world.now + timedelta(minutes=5))


def test_without_a_subscription_a_difference_is_held_visible_and_carried_later(billing: Billing) -> None:
    """I1: nobody would bill it; it waits with its reason."""
    billing.jump(FINALISED)
    billing.settle()
    subscription = billing.client().v1.subscriptions.list({"customer": "cus_acme"}).data[0]
    billing.client().v1.subscriptions.cancel(subscription.id)
    billing.use(2)
    billing.world.run()
    carried, _ = billing.world.check()
    assert (carried.carried, carried.held, carried.reasons) == (0, 1, ["no subscription bills this metric now"])
    [billed] = billing.world.changes.billed("acme")
    assert (billed.difference, billed.held) == (2, "no subscription bills this metric now")
    billing.subscribe()
    billing.settle()
    billing.at(due(Hour.containing(FINALISED)))
    billing.settle()
    [billed] = billing.world.changes.billed("acme")
    assert (billed.difference, billed.held, billed.carried) == (0, "", 2)
    assert billing.still_open() == 2


def test_what_stripe_takes_no_more_is_carried(billing: Billing) -> None:
    """I1, I4: a record of 40 days ago; Stripe holds a part of its hour, and that hour's invoice was billed."""
    billing.jump(FINALISED)
    billing.settle()
    now = HOUR.start + timedelta(days=40)
    billing.jump(now)
    billing.use(3)
    billing.use(2, Hour.parse("2026-11-22T06"))
    billing.settle(rounds=12)
    assert billing.carries() == [(Hour.containing(now), 5)]  # by their invoice, which knows both hours
    assert billing.row(HOUR).totals["requests"].reason == "the rest of it was carried"
    billing.at(due(Hour.containing(now)))
    billing.settle()
    assert sum(billing.invoiced()) + billing.still_open() == 5 + 3 + 2


def test_what_was_posted_just_before_it_became_too_old_is_not_carried_twice(world: World) -> None:
    """I4: Stripe has the posting and does not show it yet; what it holds is asked when it must show."""
    world.stripe._account.summary_delay_s = 1800
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    billing.jump(HOUR.start + timedelta(days=34, hours=11, minutes=55))
    since: Any = {"backdate_start_date": int(HOUR.start.timestamp())}
    subscribed: Any = {"customer": "cus_acme", "items": [{"price": billing.price()}], **since}
    billing.client().v1.subscriptions.create(subscribed)
    billing.use(5)
    world.run()
    assert world.at_stripe("cus_acme") == 5
    billing.jump(HOUR.start + timedelta(days=34, hours=12, minutes=1))
    billing.use(1)
    billing.settle()
    assert billing.carries() == []
    billing.jump(HOUR.start + timedelta(days=34, hours=13, minutes=30))
    billing.settle()
    assert sorted(amount for _, amount in billing.carries()) == [-1, 1]


def test_a_price_by_tiers_is_compared_by_the_sum_of_its_lines(world: World) -> None:
    """I4: an invoice has a line for each tier, and one for a flat amount."""
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    billing.subscribe(tiers=[{"up_to": 3, "flat_amount": 100}, {"up_to": "inf", "unit_amount": 2}])
    billing.use(5)
    billing.at(due(HOUR))
    world.run()
    billing.jump(FINALISED)
    billing.settle()
    [billed] = world.changes.billed("acme")
    assert (billed.quantity, billing.carries()) == (5, [])


def test_hours_before_posting_began_are_carried_neither_way(billing: Billing) -> None:
    """Nobody was ever billed for them: neither what was used, nor what an adjustment takes away."""
    world = billing.world
    before = Hour.parse("2026-11-22T04")
    world.switch.turn(msgspec.structs.replace(world.switch.read(), since=str(HOUR)))
    billing.use(9, before)
    billing.adjust(-20, before)
    billing.settle()
    assert billing.carries() == []
    billing.jump(FINALISED)
    billing.settle()
    assert (billing.invoiced(), billing.carries()) == ([5], [])


def test_usage_of_two_stripe_customers_is_compared_with_the_invoices_of_each(billing: Billing) -> None:
    """I4: totals stay with the Stripe customer that took them, and so does their invoice."""
    world = billing.world
    world.customer("acme", stripe_customer="cus_new")
    billing.subscribe("cus_new")
    second = HOUR.next()
    billing.use(3, second)
    billing.at(due(second))
    world.run()
    billing.jump(FINALISED + timedelta(hours=2))
    billing.settle()
    assert (billing.invoiced(), billing.invoiced("cus_new"), billing.carries()) == ([5], [3], [])
    billing.use(2)
    billing.settle()
    assert [amount for _, amount in billing.carries()] == [2]


def test_a_wrong_stripe_customer_keeps_nobody_from_being_looked_at(billing: Billing) -> None:
    """I6: Stripe answers 400 to every question about it."""
    world = billing.world
    world.customer("aaa", "key0", stripe_customer="cus_aaa")
    del world.stripe._account.customers["cus_aaa"]
    billing.jump(FINALISED)
    billing.use(1, LAST, "key0")
    billing.use(2)
    world.run()
    billing.jump(FINALISED + timedelta(hours=2))
    carried, compared = world.check()
    assert carried.carried == 1
    assert (compared.customers, compared.round_over) == (2, True)
    assert {one.customer for one in compared.differing} == {"aaa"}


def test_a_run_makes_no_more_calls_than_it_may(billing: Billing) -> None:
    """The next one goes on."""
    billing.jump(FINALISED)
    billing.use(2)
    billing.world.run()
    before = billing.world.stripe.calls.total()
    _carrier(billing.world, calls=3).run()
    assert billing.world.stripe.calls.total() - before == 3
    for _ in range(50):
        _carrier(billing.world, calls=3).run()
    assert [amount for _, amount in billing.carries()] == [2]


def test_a_new_invoice_waits_for_none_of_many_customers_who_left(billing: Billing) -> None:
    """I4, I6: each of them costs reads in every run, for as long as nobody subscribes it again."""
    world, client = billing.world, billing.client().v1.subscriptions
    now = Hour.containing(world.now)
    for number in range(40):
        name = f"left{number}"
        world.customer(name, f"key-{name}", stripe_customer=f"cus_{name}")
        client.cancel(billing.subscribe(f"cus_{name}"), {"invoice_now": True})
        billing.use(1, now, name=f"key-{name}")
    billing.at(due(now))
    billing.settle(2)
    waiting = billing.marks()
    billing.jump(FINALISED + timedelta(hours=6))
    since = Hour.parse(world.switch.read().since)
    reader, deadline = StripeReader(world.meters(), Reads(1000)), world.now + timedelta(minutes=5)
    assert sum(Noter(world.ledger, world.changes, reader, since, world.clock, deadline).note()) == 1
    for _ in range(2):
        world.check(calls=6)
        billing.at(world.now + timedelta(hours=1))
    assert [one.read for one in world.changes.noted("acme")] == [True]
    assert billing.marks() == waiting >= 40


def test_a_run_that_ends_amid_many_invoices_is_gone_on_with(billing: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: more invoices than one run can note are finalised at the same moment."""
    monkeypatch.setattr("metering.stripe.invoices._MOST", 2)
    world = billing.world
    for n in range(6):
        world.customer(f"c{n}", stripe_customer=f"cus_{n}")
        billing.subscribe(f"cus_{n}")
    billing.jump(FINALISED + timedelta(hours=4))
    world.ledger.progress.save_invoices_seen(Seen(int(FINALISED.timestamp()) - 3600))
    runs = 0
    while len([name for n in range(6) for name in world.changes.billed(f"c{n}")]) < 6:
        _carrier(world, calls=4).run()  # three pages of two, and prices
        runs += 1
        assert runs < 12
    assert runs > 1


def test_an_outage_of_days_misses_no_invoice(billing: Billing) -> None:
    """I4: invoices are found by Stripe's events, which it keeps for 30 days."""
    billing.jump(FINALISED)
    billing.settle()
    billing.jump(FINALISED + timedelta(days=4))
    billing.use(2)
    billing.use(3, Hour.containing(FINALISED))
    billing.world.run()
    billing.settle()
    assert len(billing.world.changes.billed("acme")) == 5
    assert sum(amount for _, amount in billing.carries()) == 5


def test_a_rejected_total_is_carried_from_its_invoice_and_taken_back_once_it_is_posted(billing: Billing) -> None:
    """I4: after the retry it is the same sum, so that nothing is billed twice."""
    billing.jump(FINALISED)
    world = billing.world
    billing.settle()
    row = billing.row(HOUR)
    total = msgspec.structs.replace(row.totals["requests"], state=State.REJECTED)
    world.ledger.rows.save(row.with_totals({"requests": total}))
    world.counters.marks.mark_late(HOUR, customer("acme"), new_mark())
    billing.settle()
    assert billing.row(HOUR).totals["requests"].state == "POSTED"
    assert billing.carries() == []
    assert world.counters.marks.of_kind(Mark.CHECK) == []
