"""A change of plan: the running subscription ends with its period, and the next one begins where it ended."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest

from infra.local.stripe.faults import Fault
from infra.operate.deployment import OperatorError
from infra.operate.subscribing import Subscribed, Wishes
from metering.model.periods import Hour
from metering.stripe.client import StripeUnavailableError
from tests.integration.billing import Billing, due
from tests.integration.test_subscribing import Shop, clock, shop, stripe
from tests.integration.world import HOUR

__all__ = ["clock", "shop", "stripe"]

END = Hour.parse("2026-12-22T05")
"""A month after the hour in which acme subscribes."""

METRIC = "requests"


def change(shop: Shop, plan: str = "basic", **wishes: Any) -> Subscribed:
    """Change acme's plan."""
    return shop.subscriber().change(shop.owner(), plan, Wishes(**wishes), now=shop.world.now)


def use(shop: Shop, quantity: int, hour: Hour) -> None:
    """Let Stripe have what was used in an hour, dated as our own postings are: in its last ten minutes."""
    event: Any = {
        "event_name": f"Metering_{METRIC}",
        "payload": {"stripe_customer_id": shop.owner().stripe_customer, "value": str(quantity)},
        "timestamp": int((hour.end - timedelta(minutes=5)).timestamp()),
    }
    shop.sdk().v1.billing.meter_events.create(event)


def lines(shop: Shop) -> list[tuple[str, int, int]]:
    """Return the plan, quantity and amount of each line of all invoices and the running one, oldest first."""
    client = shop.sdk().v1
    invoices: list[Any] = [*reversed(client.invoices.list({"customer": shop.owner().stripe_customer}).data)]
    running = client.subscriptions.list({"customer": shop.owner().stripe_customer}).data
    invoices += [client.invoices.create_preview({"subscription": one.id}) for one in running]
    plans = {price.id: price.metadata["metering_plan"] for price in client.prices.list({"limit": 100}).data}
    return [
        (plans[line.pricing.price_details.price], line.quantity, line.amount)
        for invoice in invoices
        for line in invoice.lines.data
        if line.quantity and line.amount
    ]


def test_the_plan_changes_with_the_period_and_every_hour_is_billed_once(shop: Shop) -> None:
    """I4: also where the second step comes days later; the fee of a period that does not come is not asked for."""
    first = shop.subscribe()
    shop.at(HOUR.end)
    use(shop, 10, HOUR)
    told = change(shop)
    assert told.said == [f"{first.subscription} to standard ends with its period, at {END}, and basic comes next"]
    assert (told.subscription, told.begins, told.ends) == ("", str(END), first.subscription)
    assert (
        f"Say 'metering customers subscribe acme basic' then, or within 28 days: it begins with {END}" in told.notes[0]
    )
    last = Hour(END.number - 1)
    shop.at(last.start + timedelta(minutes=50))
    assert shop.preview()["plans"] == ["standard"]
    shop.at(END.start + timedelta(minutes=10))
    use(shop, 20, last)  # while the last invoice is a draft
    shop.at(END.start + timedelta(days=3))
    use(shop, 40, END)
    use(shop, 80, END.next())
    second = shop.subscribe(plan="basic", email="billing@acme.example")
    assert (second.begins, second.notes) == (str(END), [])
    standard = [("standard", 1, 4900), ("standard", 28, 42)]  # two of 30 are included
    assert lines(shop) == [*standard, ("basic", 120, 240)]
    assert shop.subscribe(plan="basic").said == []


def test_what_is_counted_around_a_change_is_billed_once_whenever_it_comes(shop: Shop) -> None:
    """I2, I4: in the last hours and before the second step, late while the last invoice is a draft, and after that."""
    billing = Billing(shop.world)
    shop.world.switch.turn(msgspec.structs.replace(shop.world.switch.read(), on=True, since=str(HOUR)))
    shop.subscribe()
    last, gap = Hour(END.number - 1), Hour(END.number + 5)
    billing.jump(last.start)
    change(shop)
    billing.at(last.start + timedelta(minutes=30))
    billing.use(10, last)
    billing.at(due(last))
    billing.settle()
    billing.use(20, last)
    billing.settle()
    billing.at(gap.start)
    billing.use(40, END)
    billing.use(80, last)  # its invoice is final, and nobody is there to carry it to
    billing.settle()
    billing.at(due(gap))
    billing.settle()
    assert sum(quantity for _, quantity, _ in lines(shop)) - 1 == 10 + 20 - 2, "a fee, and two that are included"
    assert shop.subscribe(plan="basic").begins == str(END)
    billing.settle()
    billing.at(shop.world.now + timedelta(hours=2))
    billing.settle()
    assert sum(quantity for plan, quantity, _ in lines(shop) if plan == "basic") == 40 + 80
    assert ("standard", 28, 42) in lines(shop)


def test_before_the_period_ends_the_change_is_said_again_to_another_plan_or_taken_back(shop: Shop) -> None:
    """Nothing is made, and the plan that runs says what comes."""
    first = shop.subscribe()
    assert change(shop).said != []
    again = change(shop)
    assert (again.said, again.begins) == ([], str(END))
    assert f"{first.subscription} ends with its period, at {END}, and basic comes next" in shop.subscribe().notes
    with pytest.raises(OperatorError, match="both would bill the same usage: say --change, so that it ends"):
        shop.subscribe(plan="basic")
    back = change(shop, "standard")
    assert (back.said, back.subscription) == ([f"{first.subscription} goes on after its period"], first.subscription)
    assert change(shop, "standard").said == []
    shop.at(END.start + timedelta(days=1))
    assert shop.preview()["plans"] == ["standard"]
    [only] = shop.sdk().v1.subscriptions.list({"status": "all"}).data
    assert (only.id, only.status) == (first.subscription, "active")


@pytest.mark.parametrize("fault", [Fault.ERROR_BEFORE, Fault.ERROR_AFTER, Fault.RESET_AFTER])
def test_a_change_that_stripe_fails_at_ends_alike(shop: Shop, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: at either step, before or after it was done; said again, there are the same two subscriptions."""
    monkeypatch.setattr("metering.stripe.client.RETRIES", 0)
    first = shop.subscribe()
    first_step = (partial(change, shop), f"POST /v1/subscriptions/{first.subscription}")
    for step, route in (first_step, (partial(shop.subscribe, plan="basic"), "POST /v1/subscriptions")):
        shop.world.stripe.set_faults([fault], route=route)
        with suppress(StripeUnavailableError):
            step()
        shop.world.stripe.clear_faults()
        step()
        shop.at(END.start + timedelta(minutes=30))
    told = [
        (one.status, one.start_date, one.ended_at) for one in shop.sdk().v1.subscriptions.list({"status": "all"}).data
    ]
    end = int(END.start.timestamp())
    assert told == [("active", end, None), ("canceled", int(HOUR.start.timestamp()), end)]


def test_a_second_step_that_comes_too_late_says_what_is_nobodys(shop: Shop) -> None:
    """I9: what ended before would be on no invoice; it begins with the running hour, as any does."""
    shop.subscribe()
    change(shop)
    late = END.start + timedelta(days=28)
    shop.at(late)
    done = shop.subscribe(plan="basic")
    assert done.begins == str(Hour.containing(late))
    assert f"what was used from then to {Hour.containing(late)} is billed to nobody" in done.notes[0]


def test_invoices_are_sent_as_they_were_before(shop: Shop) -> None:
    """Who was sent invoices is not charged all at once; and a change of one who has none is a subscription."""
    change(shop, "standard", email="billing@acme.example", days_until_due=14)
    assert (
        "how basic is paid for is said then, too: nothing of that is kept now" in change(shop, days_until_due=7).notes
    )
    assert not any("is paid for" in note for note in change(shop).notes)
    shop.at(END.start)
    second = shop.charge(plan="basic")
    made = shop.sdk().v1.subscriptions.retrieve(second.subscription)
    assert (made.collection_method, made.days_until_due) == ("send_invoice", 14)


def test_a_period_that_ends_within_an_hour_is_refused(shop: Shop) -> None:
    """I3: the hour's usage is one total, which one of the two would bill as a whole."""
    shop.subscribe()
    client = shop.sdk().v1
    price = next(
        one.id for one in client.prices.list({"limit": 100}).data if one.metadata["metering_plan"] == "standard"
    )
    [ours] = client.subscriptions.list().data
    client.subscriptions.cancel(ours.id)
    odd = int(datetime(2026, 11, 22, 5, 10, tzinfo=UTC).timestamp())
    wanted: Any = {
        "customer": shop.owner().stripe_customer,
        "items": [{"price": price}],
        "backdate_start_date": odd,
        "collection_method": "send_invoice",
        "days_until_due": 30,
    }
    client.subscriptions.create(wanted)
    with pytest.raises(OperatorError, match="ends at 05:10:00, within an hour"):
        change(shop)
