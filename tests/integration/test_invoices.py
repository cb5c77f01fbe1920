"""Invoices as Stripe makes them: of any account, with any lines, void, paused, or of other business."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from infra.local.stripe.invoice import Invoice
from infra.local.stripe.params import API_VERSION
from infra.local.stripe.server import LocalStripe
from infra.operate.doctor import findings
from infra.operate.doctor.stripe import check_invoices
from metering.billing.accounts import DOUBTFUL
from metering.billing.carrying import NOT_SUBSCRIBED, Carrier
from metering.billing.noting import Noter
from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.usage_row import FROM_BEFORE, Change, State
from metering.stores.changes import Billed, Changes, Noted
from metering.stores.marks import Mark
from metering.stores.progress import Seen
from metering.stripe.invoices import StripeReader
from metering.stripe.reading import Reads
from tests.integration.billing import FINALISED, Billing, due
from tests.integration.operator_commands import WHO, Operator
from tests.integration.world import HOUR, World

NOW = Hour.containing(FINALISED)
OF_AN_ACCOUNT = {"customer": None, "customer_account": "acct_1"}
NEXT_DAY = Hour(HOUR.number + 24)


@pytest.fixture
def stripe_time() -> Callable[[], float]:
    """The world's hour begins."""
    return HOUR.start.timestamp


def reader(world: World, reads: int = 1000) -> StripeReader:
    """Return a way to ask Stripe, so many times."""
    return StripeReader(world.meters(), Reads(reads))


def carrier(world: World, reads: int = 1000) -> Carrier:
    """Return what carries, with so many reads."""
    since = Hour.parse(world.switch.read().since)
    return Carrier(
        world.ledger, world.changes, reader(world, reads), since, world.clock, world.now + timedelta(minutes=5)
    )


def local_invoice(world: World, number: int = -1) -> Any:
    """Return an invoice as the local Stripe holds it: what its lines say there is what it answers."""
    return list(world.stripe._account.billing.invoices.values())[number]


def finalised(world: World) -> list[dict[str, Any]]:
    """Return the invoices as the events show them that say that they became final."""
    events = world.stripe._account.log.events
    return [event["data"]["object"] for event in events if event["type"] == "invoice.finalized"]


def add_price(billing: Billing, **price: Any) -> str:
    """Make one more metered price of requests, by the day."""
    client = billing.client()
    meter = next(one.id for one in client.v1.billing.meters.list().data if one.event_name == "Metering_requests")
    recurring: Any = {"interval": "day", "usage_type": "metered", "meter": meter}
    product = client.v1.products.create({"name": "Requests"}).id
    wanted: Any = {"currency": "usd", "product": product, "recurring": recurring, "unit_amount": 2} | price
    return client.v1.prices.create(wanted).id


def close_hours(billing: Billing, first: Hour, hours: int) -> None:
    """Let hours be closed one after the other."""
    for number in range(first.number, first.number + hours):
        if due(Hour(number)) > billing.world.now:
            billing.at(due(Hour(number)))
            billing.world.run()


class TestOfAnyAccount:
    """Whatever the account's own version of the API is."""

    @pytest.fixture
    def stripe(self, stripe_time: Callable[[], float]) -> Iterator[LocalStripe]:
        """An account of before 2025-03-31, whose events have a line's price where it was then."""
        with LocalStripe(now=stripe_time, event_version="2024-06-20") as server:
            yield server

    def test_invoices_of_an_account_of_an_older_version_are_seen(self, billing: Billing) -> None:
        """I4: an event only says which invoice, whose, and when."""
        billing.jump(FINALISED)
        billing.settle()
        billing.use(2)
        billing.settle()
        assert billing.carries() == [(NOW, 2)]


def test_an_invoice_of_an_account_instead_of_a_customer_is_seen(
    billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accounts v2: ``customer`` is null then; where an event names neither, the invoice is asked for."""
    world = billing.world
    billing.jump(FINALISED)
    for invoice in finalised(world):
        del invoice["customer"]
    shown = Invoice.as_json
    monkeypatch.setattr(Invoice, "as_json", lambda *whatever: {**shown(*whatever), **OF_AN_ACCOUNT})
    world.ledger.holders.client.put_item(
        TableName="ledger", Item={"pk": {"S": "stripe#acct_1"}, "sk": {"S": "owner"}, "customer": {"S": "acme"}}
    )
    world.check()
    assert [noted.stripe_customer for noted in world.changes.noted("acme")] == ["acct_1"]


def test_an_invoice_of_an_account_that_nobody_can_have_is_told(
    billing: Billing, caplog: pytest.LogCaptureFixture
) -> None:
    """I9: and not kept, since nobody would ever see it."""
    world = billing.world
    billing.jump(FINALISED)
    for invoice in finalised(world):
        invoice.update(OF_AN_ACCOUNT)
    world.check()
    assert world.changes.kept("acct_1") == world.changes.noted("acme") == []
    assert "an invoice is of an account, not of a customer: not compared" in caplog.text


def test_two_prices_on_one_meter_bill_its_usage_once(world: World) -> None:
    """I4: a surcharge by hand is a second line of the same usage."""
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    items: Any = [{"price": billing.price()}, {"price": add_price(billing)}]
    billing.client().v1.subscriptions.create({"customer": "cus_acme", "items": items})
    billing.use(5)
    billing.at(due(HOUR))
    world.run()
    billing.jump(FINALISED)
    billing.settle()
    assert [line.quantity for line in world.changes.billed("acme")] == [5, 5]
    assert billing.carries() == []
    billing.use(2)
    billing.settle()
    assert billing.carries() == [(NOW, 2)]


def test_usage_of_hours_without_a_metered_item_is_not_carried(world: World) -> None:
    """I4: taken away in the fifth hour and put back in the tenth, which Stripe bills as two lines with a gap."""
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    client = billing.client()
    fee: Any = {"currency": "usd", "recurring": {"interval": "day"}, "unit_amount": 9}
    fee["product"] = client.v1.products.create({"name": "Fee"}).id
    items: Any = [{"price": billing.price()}, {"price": client.v1.prices.create(fee).id}]
    subscription: Any = client.v1.subscriptions.create({"customer": "cus_acme", "items": items})
    for used, after in ((5, 0), (100, 7), (3, 12)):
        billing.use(used, Hour(HOUR.number + after))
    billing.at(HOUR.start + timedelta(hours=5))
    removed = next(one.id for one in subscription["items"].data if one.price.id == billing.price())
    client.v1.subscriptions.update(subscription.id, {"items": [{"id": removed, "deleted": True}]})
    billing.at(HOUR.start + timedelta(hours=10))
    client.v1.subscriptions.update(subscription.id, {"items": [{"price": billing.price()}]})
    close_hours(billing, HOUR, 13)
    billing.jump(FINALISED)
    billing.settle()
    assert sorted(line.quantity for line in world.changes.billed("acme")) == [3, 5]
    assert billing.carries() == []


@pytest.mark.parametrize("later", [0, 1])
def test_a_late_record_of_hours_that_two_invoices_bill_is_carried_once(billing: Billing, later: int) -> None:
    """I4: of two subscriptions on one meter, that begin together or an hour apart."""
    world = billing.world
    billing.at(max(world.now, HOUR.start + timedelta(hours=later)))
    items: Any = [{"price": add_price(billing)}]
    begun = int((HOUR.start + timedelta(hours=later)).timestamp())
    billing.client().v1.subscriptions.create({"customer": "cus_acme", "items": items, "backdate_start_date": begun})
    shared = Hour(HOUR.number + 2)
    billing.use(4, shared)
    close_hours(billing, HOUR, 3)
    billing.jump(FINALISED + timedelta(hours=2))
    billing.settle()
    assert len({line.invoice for line in world.changes.billed("acme")}) == 2
    assert billing.carries() == []
    billing.use(2, shared)
    billing.settle()
    assert [amount for _, amount in billing.carries()] == [2]
    billing.settle()
    assert [amount for _, amount in billing.carries()] == [2]


def test_what_a_void_invoice_billed_is_carried(billing: Billing) -> None:
    """I4: nobody pays it; one that was given up as uncollectible is owed as ever."""
    world = billing.world
    billing.jump(FINALISED)
    billing.settle()
    invoice = local_invoice(world).id
    billing.client().v1.invoices.mark_uncollectible(invoice)
    billing.jump(FINALISED + timedelta(hours=1))
    billing.settle()
    assert billing.carries() == []
    billing.client().v1.invoices.void_invoice(invoice)
    billing.jump(FINALISED + timedelta(hours=2))
    billing.settle()
    assert billing.carries() == [(NOW.next().next(), 5)]
    [change] = world.changes.of("acme", NOW.next().next())
    assert change.reason == f"{invoice} billed 0 of 5 from {HOUR} to {NEXT_DAY}"


def test_an_invoice_in_place_of_a_void_one_bills_its_usage(billing: Billing) -> None:
    """I4: whichever is noted first, the usage is billed once: what was carried meanwhile is taken back."""
    world = billing.world
    billing.jump(FINALISED)
    billing.settle()
    billing.client().v1.invoices.void_invoice(local_invoice(world).id)
    billing.jump(FINALISED + timedelta(hours=1))
    billing.settle()
    assert [amount for _, amount in billing.carries()] == [5]
    anew = Billed("in_anew", "cus_acme", "requests", str(HOUR), str(NEXT_DAY), 5, item="si_anew")
    world.changes.add_billed("acme", anew)
    world.counters.marks.mark_to_check(HOUR, customer("acme"))
    billing.settle()
    assert sorted(amount for _, amount in billing.carries()) == [-5, 5]


def test_an_invoice_that_is_void_before_anybody_looks_bills_nothing(billing: Billing) -> None:
    """I4: both events come at once, the later one first."""
    billing.jump(FINALISED)
    billing.client().v1.invoices.void_invoice(local_invoice(billing.world).id)
    billing.jump(FINALISED + timedelta(hours=1))
    billing.settle()
    assert [amount for _, amount in billing.carries()] == [5]


def test_what_other_business_bills_costs_a_read_for_a_hundred_invoices(billing: Billing) -> None:
    """I10: whatever prices it has; and nobody's invoices are kept for whoever gets the Stripe customer."""
    world, client = billing.world, billing.client()
    product = client.v1.products.create({"name": "Other business"}).id
    for number in range(12):
        world.stripe.add_customer(f"cus_other{number}")
        prices: Any = [
            client.v1.prices.create(
                {"currency": "usd", "product": product, "recurring": {"interval": "day"}, "unit_amount": 100 + each}
            ).id
            for each in range(5)
        ]
        items: Any = [{"price": price} for price in prices]
        client.v1.subscriptions.create({"customer": f"cus_other{number}", "items": items})
    billing.jump(FINALISED)
    world.ledger.progress.save_invoices_seen(Seen(int(HOUR.start.timestamp())))
    before = world.stripe.calls.copy()
    billing.settle()
    made = world.stripe.calls - before
    assert made["GET /v1/prices/:id"] == 0
    assert made["GET /v1/invoices/:id/lines"] == 1
    assert [line.quantity for line in world.changes.billed("acme")] == [5]
    assert len(world.changes.kept("cus_other7")) == 1


def test_a_run_with_few_reads_gets_on_within_a_page(billing: Billing) -> None:
    """I10: whichever invoices are on it, what was read is not read again."""
    world = billing.world
    for number in range(6):
        world.customer(f"c{number}", stripe_customer=f"cus_{number}")
        billing.subscribe(f"cus_{number}")
    billing.jump(FINALISED + timedelta(hours=2))
    world.ledger.progress.save_invoices_seen(Seen(int(FINALISED.timestamp()) - 3600))
    runs = 0
    while sum(len(world.changes.billed(f"c{number}")) for number in range(6)) < 6:
        carrier(world, reads=3).run()
        runs += 1
        assert runs < 20


def test_an_invoice_that_cannot_be_read_keeps_no_other_waiting(billing: Billing, caplog: Any) -> None:
    """I6, I9: a line of a subscription without a price is an error, told at each look until it can be read."""
    world = billing.world
    world.customer("beta", "key2", stripe_customer="cus_beta")
    billing.subscribe("cus_beta")
    billing.jump(FINALISED + timedelta(hours=1))
    of_acme = next(one for one in world.stripe._account.billing.invoices.values() if one.customer["id"] == "cus_acme")
    [line] = of_acme.lines
    pricing, line["pricing"] = line["pricing"], {"price_details": None, "type": "price_details"}
    for _ in range(2):
        carried, _ = world.check()
        assert (carried.held, carried.doubtful) == (1, 1)
        assert f"of {of_acme.id} does not show the price that it is billed by" in carried.reasons[0]
    assert len(world.changes.billed("beta")) == 1
    assert "an invoice cannot be read" in caplog.text
    line["pricing"] = pricing
    billing.settle()
    assert [one.quantity for one in world.changes.billed("acme")] == [5]
    assert [one.held for one in world.changes.noted("acme")] == [""]


def test_a_metric_beyond_the_tenth_item_is_subscribed(world: World) -> None:
    """Stripe shows ten items of a subscription, and the rest on pages of their own."""
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    client = billing.client()
    product = client.v1.products.create({"name": "Fee"}).id
    fees: Any = [
        {
            "price": client.v1.prices.create(
                {"currency": "usd", "product": product, "recurring": {"interval": "day"}, "unit_amount": 1}
            ).id
        }
        for _ in range(11)
    ]
    client.v1.subscriptions.create({"customer": "cus_acme", "items": [*fees, {"price": billing.price()}]})
    assert reader(world).is_billed("cus_acme", "requests")


def test_a_quantity_that_is_no_count_of_what_was_used_is_held_for_a_person(billing: Billing) -> None:
    """I9: packages, a flat amount's 1, or a trial's 0 is never carried by itself, also not later."""
    world = billing.world
    billing.jump(FINALISED)
    local_invoice(world).lines[0].update(quantity=1, quantity_decimal="1")
    carried, _ = world.check()
    assert (carried.carried, carried.held, carried.doubtful, carried.reasons) == (0, 1, 1, [DOUBTFUL])
    billing.use(2)
    billing.settle()
    assert billing.carries() == []
    [line] = world.changes.billed("acme")
    assert (line.difference, line.held) == (6, DOUBTFUL)


def test_a_line_that_states_too_much_is_held_although_a_record_came_late(billing: Billing) -> None:
    """I9: a late record is no reason for a credit; what an operator takes away from one of the hours is."""
    world, other = billing.world, HOUR.next()
    billing.use(3, other)
    billing.at(due(other))
    world.run()
    billing.jump(FINALISED)
    local_invoice(world).lines[0].update(quantity=1000, quantity_decimal="1000")
    billing.use(1, other)
    billing.settle()
    assert billing.carries() == []
    [line] = world.changes.billed("acme")
    assert (line.difference, line.held) == (-991, DOUBTFUL)


def test_where_a_draft_was_deleted_its_time_is_looked_at_anew(billing: Billing) -> None:
    """I6: a page cannot begin after an invoice that is gone; what lies after it is found all the same."""
    world = billing.world
    billing.jump(FINALISED + timedelta(days=40))
    at = int(HOUR.start.timestamp())
    world.ledger.progress.save_invoices_seen(Seen(at, at + 12 * 86_400, "in_deleted"))
    world.check()
    assert world.changes.noted("acme")


@pytest.mark.parametrize(("decision", "carried"), [("carry", [4]), ("leave", [])])
def test_whoever_is_asked_decides_about_what_is_held(
    billing: Billing,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    decision: str,
    carried: list[int],
) -> None:
    """It is billed now, or nobody is billed, for good; what is late from then on is carried by itself."""
    world = billing.world
    operator = Operator(world, monkeypatch, capsys)
    billing.jump(FINALISED)
    local_invoice(world).lines[0].update(quantity=1, quantity_decimal="1")
    world.check()
    [held] = operator.run("held", "list", "--json").document
    assert (held["customer"], held["difference"], held["reason"]) == ("acme", 4, DOUBTFUL)
    assert operator.run("held", "list", "--customer", "acme").err == "1 difference\n"
    assert operator.run("held", "list", "--customer", "globex").err.startswith("error: there is no customer 'globex'")
    billing.world.customer("globex")
    assert operator.run("held", "list", "--customer", "globex").err == "nothing there\n"
    decide = ("held", decision, "acme", held["invoice"], "requests", "--reason", "looked into it")
    assert "a reason is 1 to 200 printable characters, got ''" in operator.run(*decide[:-1], "").err
    assert operator.run(*decide, "--json").document == {"amount": 4, "decision": decision}
    assert f"nothing of requests on {held['invoice']} is held for acme" in operator.run(*decide).err
    assert operator.run("held", "list", "--json").document == []
    billing.settle()
    assert [amount for _, amount in billing.carries() if amount] == carried
    billing.use(2)
    billing.settle()
    assert sorted(amount for _, amount in billing.carries() if amount) == sorted([*carried, 2])


def test_an_invoice_that_cannot_be_read_can_be_left(
    billing: Billing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """I9: with who did so and why; nothing asks for it any more, and no alarm tells of it."""
    world = billing.world
    operator = Operator(world, monkeypatch, capsys)
    billing.jump(FINALISED)
    invoice = local_invoice(world)
    invoice.lines[0]["pricing"] = {"price_details": None, "type": "price_details"}
    world.check()
    [held] = operator.run("held", "list", "--json").document
    assert (held["invoice"], held["metric"]) == (invoice.id, "")
    leave = ("held", "leave", "acme", invoice.id, "--reason", "compared by hand")
    assert "a reason is 1 to 200 printable characters, got ''" in operator.run(*leave[:-1], "").err
    assert operator.run(*leave, "--json").document == {"amount": None, "decision": "leave"}
    assert "is not held as one that cannot be read" in operator.run(*leave).err
    assert operator.run("held", "list", "--json").document == []
    [noted] = world.changes.noted("acme")
    assert (noted.left, noted.left_by, noted.left_at) == ("compared by hand", WHO, int(world.now.timestamp()))
    world.now += timedelta(hours=1)
    assert world.check()[0].doubtful == 0
    assert world.counters.marks.of_kind(Mark.CHECK) == []


def test_a_decision_about_an_invoice_that_was_just_looked_at_is_refused(
    billing: Billing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be readable by now."""
    world = billing.world
    operator = Operator(world, monkeypatch, capsys)
    read_before = Noted("in_1", "cus_acme", int(world.now.timestamp()), held="no price")
    world.changes.save_noted("acme", read_before)
    world.changes.save_noted("acme", msgspec.structs.replace(read_before, read=True, held="", version=1))
    monkeypatch.setattr(Changes, "noted_one", lambda *_: msgspec.structs.replace(read_before, version=1))
    assert "was just looked at" in operator.run("held", "leave", "acme", "in_1", "--reason", "x").err
    assert [noted.left for noted in world.changes.noted("acme")] == [""]


def test_the_doctor_names_invoices_that_wait_for_a_person(
    billing: Billing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """I9: and says which version of the API the account's own events have."""
    world = billing.world
    deployment = Operator(world, monkeypatch, capsys).deployment
    billing.jump(FINALISED)
    [found] = check_invoices(deployment, world.now)
    assert found.state is findings.State.OK
    assert found.said.endswith(f"the account's own version of the API is {API_VERSION}, and ours {API_VERSION}")
    local_invoice(world).lines[0].update(quantity=1, quantity_decimal="1")
    world.check()
    found, version = check_invoices(deployment, world.now)
    assert version.said == f"the account's own version of the API is {API_VERSION}, and ours {API_VERSION}"
    said = f"invoices bill something else than was used, or cannot be read: {local_invoice(world).id} of acme"
    assert (found.state, found.said) == (findings.State.BROKEN, said)


def test_what_is_held_is_found_behind_many_customers_that_wait_to_be_compared(
    billing: Billing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """I9: their marks are older, as after a late delivery to everybody."""
    world = billing.world
    operator = Operator(world, monkeypatch, capsys)
    billing.jump(FINALISED)
    local_invoice(world).lines[0].update(quantity=1, quantity_decimal="1")
    world.check()
    for number in range(520):
        world.counters.marks.mark_to_check(Hour(HOUR.number - 1), customer(f"c{number}"))
    [held] = operator.run("held", "list", "--json").document
    assert (held["customer"], held["difference"]) == ("acme", 4)
    assert next(found.state for found in check_invoices(operator.deployment, world.now)) is findings.State.BROKEN


def test_a_late_record_before_the_first_look_is_carried(billing: Billing) -> None:
    """I4: what the meter shows by then is more than the invoice, and an hour was written since that is the cause."""
    billing.jump(FINALISED)
    billing.use(2)
    billing.world.run()
    billing.settle()
    assert [amount for _, amount in billing.carries()] == [2]


def test_an_invoice_of_the_time_in_which_nobody_looked_is_found(world: World) -> None:
    """I4: a pause of 45 days, of which Stripe's list of events has the last 30."""
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    billing.subscribe()
    used = [Hour(HOUR.number + 24 * day + 3) for day in range(45)]
    for hour in used:
        billing.jump(due(hour))
        billing.use(1, hour)
        world.close()
    billing.jump(due(used[-1]) + timedelta(hours=5))
    for _ in range(6):
        billing.settle(rounds=12)
        billing.at(world.now + timedelta(hours=1))
    assert sum(billing.invoiced()) + billing.still_open() == 45


def test_while_posting_is_off_invoices_are_noted(billing: Billing) -> None:
    """By reads alone: nothing is carried."""
    world = billing.world
    billing.jump(FINALISED)
    noter = Noter(world.ledger, world.changes, reader(world), HOUR, world.clock, world.now + timedelta(minutes=5))
    assert sum(noter.note()) == 1
    [noted] = world.changes.noted("acme")
    assert (noted.invoice, noted.read) == (local_invoice(world).id, False)
    assert sum(noter.note()) == 0


def test_posting_that_begins_with_an_earlier_hour_looks_for_earlier_invoices(billing: Billing) -> None:
    """I4: what was noted from a later hour on is noted from there."""
    world = billing.world
    late = NEXT_DAY.next().next()
    billing.jump(FINALISED + timedelta(hours=3))
    deadline = world.now + timedelta(minutes=5)
    assert sum(Noter(world.ledger, world.changes, reader(world), late, world.clock, deadline).note()) == 0
    assert sum(Noter(world.ledger, world.changes, reader(world), HOUR, world.clock, deadline).note()) == 1


@pytest.mark.parametrize(("minute", "used"), [(20, 40), (35, 5), (59, 2)])
def test_usage_of_the_hour_in_which_a_subscription_ends_is_invoiced_or_told(
    billing: Billing, minute: int, used: int
) -> None:
    """I9: the hour's usage is dated after the end, so that no invoice of Stripe's has it."""
    world, client = billing.world, billing.client()
    leaving = Hour(HOUR.number + 5)
    billing.use(used, leaving)
    billing.at(leaving.start + timedelta(minutes=minute))
    world.run()
    [subscription] = client.v1.subscriptions.list({"customer": "cus_acme"}).data
    client.v1.subscriptions.cancel(subscription.id, {"invoice_now": True})
    close_hours(billing, leaving, 3)
    carried, _ = world.check()
    [line] = world.changes.billed("acme")
    assert (carried.held, line.difference, line.held) == (1, used, NOT_SUBSCRIBED)
    assert sum(billing.invoiced()) + line.difference == 5 + used


@pytest.mark.parametrize(("epoch", "minutes"), [("1", (20, 40)), ("2", (52, 53))])
def test_an_hour_in_which_one_subscription_ends_and_another_begins_is_billed_once(
    billing: Billing, epoch: str, minutes: tuple[int, int]
) -> None:
    """I4: by the second one, in whose time its usage is dated."""
    world, client = billing.world, billing.client()
    world.ledger_epoch = epoch
    ended, begun = minutes
    leaving = Hour(HOUR.number + 5)
    billing.use(40, leaving)
    billing.at(leaving.start + timedelta(minutes=ended))
    world.run()
    [subscription] = client.v1.subscriptions.list({"customer": "cus_acme"}).data
    client.v1.subscriptions.cancel(subscription.id, {"invoice_now": True})
    billing.at(leaving.start + timedelta(minutes=begun))
    billing.subscribe()
    close_hours(billing, leaving, 3)
    billing.settle()
    assert billing.carries() == []
    billing.jump(FINALISED + timedelta(hours=6))
    billing.settle()
    assert (billing.invoiced(), billing.carries()) == ([5, 40], [])


@pytest.mark.parametrize("minute", [0, 20, 49, 55])
def test_a_period_that_begins_within_an_hour_has_the_hours_whose_usage_is_dated_in_it(
    world: World, minute: int
) -> None:
    """I4: also day after day, and nothing is carried."""
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    begun = HOUR.start + timedelta(minutes=minute)
    billing.at(begun)
    billing.subscribe()
    for hour, used in ((0, 1), (1, 3), (23, 7), (24, 20), (25, 30), (47, 70), (48, 200)):
        billing.use(used, Hour(HOUR.number + hour))
    close_hours(billing, HOUR, 50)
    billing.at(begun + timedelta(days=2, hours=2, minutes=30))
    billing.settle()
    assert billing.carries() == []
    assert billing.invoiced() == ([3 + 7 + 20, 30 + 70 + 200] if minute == 55 else [1 + 3 + 7, 20 + 30 + 70])


@pytest.mark.parametrize("epoch", ["1", "2"])
def test_an_hour_at_a_periods_edge_is_billed_once_in_any_epoch(world: World, epoch: str) -> None:
    """I4: what a restored ledger posts is dated later in its hour, and so can be of the next period."""
    world.ledger_epoch = epoch
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    begun = HOUR.start + timedelta(minutes=52)
    billing.at(begun)
    billing.subscribe()
    for hour, used in ((1, 3), (24, 20), (30, 7)):
        billing.use(used, Hour(HOUR.number + hour))
    close_hours(billing, HOUR, 26)
    billing.at(begun + timedelta(days=1, hours=2))
    billing.settle()
    assert billing.invoiced() == [23 if epoch == "1" else 3]
    billing.use(1, Hour(HOUR.number + 1))
    billing.settle()
    close_hours(billing, Hour(HOUR.number + 26), 30)
    billing.at(begun + timedelta(days=2, hours=2, minutes=30))
    billing.settle()
    assert [amount for _, amount in billing.carries()] == [1]
    assert sum(billing.invoiced()) + billing.still_open() == 31


def test_an_hour_whose_usage_is_dated_after_the_last_period_is_told(world: World) -> None:
    """I9: nothing bills it, so that it stays with the invoice in whose time it was used."""
    world.ledger_epoch = "2"
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    subscription = billing.subscribe()
    billing.use(20)
    billing.at(HOUR.start + timedelta(minutes=52))
    billing.client().v1.subscriptions.cancel(subscription, {"invoice_now": True})
    close_hours(billing, HOUR, 4)
    carried, _ = world.check()
    [line] = world.changes.billed("acme")
    assert (carried.held, line.difference, line.held) == (1, 20, NOT_SUBSCRIBED)


@pytest.mark.parametrize("late", [0, 100])
def test_the_hour_between_the_last_line_of_1_0_0_and_the_first_new_one_is_billed(world: World, late: int) -> None:
    """I4: 1.0.0 took it out of the invoice that bills it, to count it with the next one."""
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    begun = HOUR.start + timedelta(minutes=55)
    billing.at(begun)
    billing.subscribe()
    for hour, used in ((1, 3), (23, 7), (24, 20), (25, 30), (47, 70)):
        billing.use(used, Hour(HOUR.number + hour))
    close_hours(billing, HOUR, 26)
    billing.at(begun + timedelta(days=1, hours=1, minutes=30))
    assert billing.invoiced() == [30]
    invoice, current = local_invoice(world, 0).id, Hour.containing(world.now)
    world.changes.add_billed("acme", Billed(invoice, "cus_acme", "requests", str(HOUR), str(NEXT_DAY), 30))
    [older] = world.changes.billed("acme")
    change = Change(f"{invoice}.v1", "requests", -20, f"{invoice} billed 30 of 10", "reconcile_usage", 0, carry=True)
    world.changes.carry("acme", [msgspec.structs.replace(older, carried=-20)], current, change)
    close_hours(billing, Hour(HOUR.number + 26), 60)
    billing.at(begun + timedelta(days=2, hours=1, minutes=30))
    billing.use(late, NEXT_DAY)
    for day in (2, 4):
        billing.at(begun + timedelta(days=day, hours=2, minutes=30))
        billing.settle()
    assert [line.carried for line in world.changes.billed("acme")[:2]] == [-20, 20 + late]
    billing.use(1000, Hour.containing(world.now))
    close_hours(billing, Hour.containing(world.now), 2)
    assert sum(billing.invoiced()) + billing.still_open() == 3 + 7 + 20 + 30 + 70 + 1000 + late


@pytest.mark.parametrize("days", [20, 40])
def test_usage_from_before_the_subscription_is_never_billed(world: World, days: int) -> None:
    """Whatever its age: what Stripe takes no more is not carried into a time that it is not of."""
    billing = Billing(world)
    world.customer("acme", "key1")
    billing.use(7)
    billing.at(due(HOUR))
    world.run()
    billing.jump(HOUR.start + timedelta(days=days))
    world.customer("acme", stripe_customer="cus_acme")
    billing.subscribe()
    for _ in range(4):
        billing.settle()
        billing.at(world.now + timedelta(hours=2))
    assert billing.carries() == []
    assert billing.still_open() == 0
    assert billing.marks() == 0
    assert not any(world.ledger.rows.held_sums.read().values())  # it waits for nothing any more
    total = billing.row(HOUR).totals["requests"]
    assert (total.state, total.reason) == ((State.HELD, FROM_BEFORE) if days == 40 else (State.POSTED, ""))


def test_what_older_code_noted_of_an_invoice_is_not_noted_again(billing: Billing) -> None:
    """Stored shapes are a promise: its lines were one item, which has no name of its own."""
    world = billing.world
    billing.jump(FINALISED)
    old = {"invoice": local_invoice(world).id, "stripe_customer": "cus_acme", "metric": "requests", "quantity": 5}
    old |= {"first": str(HOUR), "end": str(NEXT_DAY)}
    world.changes.add_billed("acme", msgspec.convert(old, Billed))
    billing.use(2)
    billing.settle()
    assert [line.known_as for line in world.changes.billed("acme")] == [f"{old['invoice']}#requests"]
    assert [amount for _, amount in billing.carries()] == [2]


def test_two_runs_that_note_and_read_an_invoice_at_once_do_not_end_each_other(billing: Billing) -> None:
    """I6: whoever is second finds that it is done, and goes on with the others."""
    world = billing.world
    billing.jump(FINALISED)

    class Overtaken(Changes):
        def note(self, name: str, after: Noted) -> None:
            super().note(name, after)
            super().note(name, after)  # as another run's, in between

        def save_noted(self, name: str, after: Noted) -> None:
            super().save_noted(name, after)
            super().save_noted(name, after)

    overtaken = replace(carrier(world), changes=Overtaken(world.ledger.client, "ledger", world.counters))
    carried = overtaken.run()
    assert (carried.invoices, carried.held) == (0, 0)
    [noted] = world.changes.noted("acme")
    assert noted.read
    billing.use(2)
    billing.settle()
    assert billing.carries() == [(NOW, 2)]
