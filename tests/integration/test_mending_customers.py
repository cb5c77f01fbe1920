"""A wrong Stripe customer is mended: what was posted to it in vain goes to the right one, and nothing is paid twice."""

from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest

from infra.operate.customers import Customers, Entry
from infra.operate.posting import retry
from metering.billing.reconciling import NOT_MENDED, POSTED_AGAIN
from metering.model.usage_row import State, Total, rejected_later
from metering.stores.changes import Billed, Noted
from tests.integration.billing import FINALISED, Billing, due
from tests.integration.operator_commands import Operator
from tests.integration.world import HOUR, World


@pytest.fixture
def stripe_time() -> Callable[[], float]:
    """The world's hour begins."""
    return HOUR.start.timestamp


@pytest.fixture
def operator(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    """Whoever gives the commands."""
    return Operator(world, monkeypatch, capsys)


@pytest.fixture
def wrong(world: World) -> Billing:
    """Five requests of acme that Stripe took for cus_typo, which it does not know."""
    made = Billing(world)
    give(made, "cus_typo", "key1")
    made.use(5)
    made.at(due(HOUR))
    world.run()
    assert total(made).posted_to == "cus_typo"
    return made


def give(billing: Billing, stripe_customer: str, *keys: str) -> None:
    """Give acme a Stripe customer, whether Stripe knows it or not."""
    world = billing.world
    Customers(world.ledger, world.counters).add(Entry("acme", "Acme", stripe_customer, keys), now=world.now)


def mend(billing: Billing) -> None:
    """Give acme the right Stripe customer."""
    billing.world.stripe.add_customer("cus_right")
    give(billing, "cus_right")


def total(billing: Billing) -> Total:
    """Return acme's requests in the world's hour."""
    return billing.row(HOUR).totals["requests"]


def report(billing: Billing) -> None:
    """Let Stripe report what it took last and could not use."""
    row = billing.row(HOUR)
    known_as = row.totals["requests"].identifier
    billing.world.ledger.rows.save(rejected_later(row, known_as, "No customer found"))


def test_what_was_refused_later_goes_to_the_right_stripe_customer(wrong: Billing) -> None:
    """I4: as soon as the customer has it, or by a retry."""
    report(wrong)
    assert (total(wrong).state, total(wrong).posted_to) == (State.REJECTED, "")
    mend(wrong)
    wrong.world.run()
    assert wrong.world.at_stripe("cus_right") == 5
    assert (total(wrong).state, total(wrong).posted_to) == (State.POSTED, "cus_right")


def test_a_retry_goes_to_the_right_stripe_customer(wrong: Billing, operator: Operator) -> None:
    """I4: also where nothing asked for the hour when the customer was mended."""
    mend(wrong)
    report(wrong)
    assert retry(operator.deployment, ["acme"]) == 1
    wrong.world.run()
    assert wrong.world.at_stripe("cus_right") == 5


def test_the_hourly_look_finds_the_right_stripe_customer_without_any_notification(wrong: Billing) -> None:
    """I4: although the tries for the wrong one are used up; it is told as what was posted again."""
    for _ in range(5):
        wrong.at(wrong.world.now + timedelta(minutes=70))
        wrong.world.check()
        wrong.world.run()
    assert total(wrong).reposts == 3
    mend(wrong)
    _, found = wrong.world.check()
    assert [one.what for one in found.differing if one.hour == HOUR] == [POSTED_AGAIN]
    wrong.world.run()
    assert wrong.world.at_stripe("cus_right") == 5
    assert (total(wrong).state, total(wrong).posted_to, total(wrong).reposts) == (State.POSTED, "cus_right", 0)
    wrong.at(wrong.world.now + timedelta(minutes=70))
    assert wrong.world.check()[1].differing == []


def test_several_totals_for_a_stripe_customer_that_there_is_not_go_to_the_right_one(wrong: Billing) -> None:
    """I4: Stripe has refused the last of them, which leaves open what became of the first until it is asked."""
    wrong.use(2)
    wrong.world.run()
    report(wrong)
    assert total(wrong).posted_to == "cus_typo"
    mend(wrong)
    wrong.world.run()
    wrong.world.check()
    wrong.world.run()
    assert wrong.world.at_stripe("cus_right") == 7


def test_without_another_stripe_customer_nothing_goes_elsewhere(wrong: Billing) -> None:
    """I4: nor while Stripe knows neither, as with a key of another account."""
    give(wrong, "cus_typo2")
    wrong.at(wrong.world.now + timedelta(minutes=70))
    wrong.world.check()
    wrong.world.run()
    assert total(wrong).posted_to == "cus_typo"


def test_a_stripe_customer_that_there_is_keeps_what_it_took(wrong: Billing) -> None:
    """I2: it may be billed for it, however wrong it is: the same usage is posted to nobody else."""
    wrong.world.stripe.add_customer("cus_typo")
    mend(wrong)
    wrong.at(wrong.world.now + timedelta(minutes=70))
    wrong.world.check()
    wrong.world.run()
    assert (wrong.world.at_stripe("cus_typo"), wrong.world.at_stripe("cus_right")) == (5, 0)


def test_what_was_invoiced_to_a_deleted_stripe_customer_stays_with_it(wrong: Billing) -> None:
    """I2: somebody has been asked to pay for it; what no invoice holds goes to the next one."""
    world, after = wrong.world, HOUR.next()
    wrong.use(3, after)
    wrong.at(due(after))
    world.run()
    world.changes.add_billed("acme", Billed("in_1", "cus_typo", "requests", str(HOUR), str(after), 5))
    mend(wrong)
    wrong.at(world.now + timedelta(minutes=70))
    world.check()
    world.run()
    assert (world.at_stripe("cus_right"), world.at_stripe("cus_right", hour=after)) == (0, 3)


def test_what_an_invoice_may_bill_that_cannot_be_read_yet_stays_with_it(wrong: Billing) -> None:
    """I2: until its lines are known."""
    world = wrong.world
    world.changes.note("acme", Noted("in_1", "cus_typo", int(HOUR.end.timestamp())))
    mend(wrong)
    wrong.at(world.now + timedelta(minutes=70))
    world.check()
    world.run()
    assert world.at_stripe("cus_right") == 0


def test_what_goes_into_an_hour_that_is_invoiced_is_carried(world: World) -> None:
    """I4, I9: the right Stripe customer's invoice was final before it got the usage."""
    billing = Billing(world)
    world.stripe.add_customer("cus_right")
    billing.subscribe("cus_right")
    give(billing, "cus_typo", "key1")
    billing.use(5)
    billing.at(due(HOUR))
    world.run()
    billing.jump(FINALISED)
    world.run()
    world.check()
    give(billing, "cus_right")
    billing.settle()
    billing.at(FINALISED + timedelta(hours=2))
    world.run()
    assert (billing.invoiced("cus_right"), billing.still_open("cus_right")) == ([0], 5)


def test_while_posting_is_off_nothing_goes_elsewhere(wrong: Billing, operator: Operator) -> None:
    """It is shown."""
    mend(wrong)
    switch = wrong.world.switch.read()
    wrong.world.switch.turn(msgspec.structs.replace(switch, on=False))
    said = operator.run("reconcile", "acme", "--json")
    assert [row["what"] for row in said.document["rows"]] == [NOT_MENDED]


def test_metering_reconcile_posts_to_the_right_stripe_customer_at_once(wrong: Billing, operator: Operator) -> None:
    """Without waiting for the hourly look."""
    mend(wrong)
    assert operator.run("reconcile").code == 0
    assert wrong.world.at_stripe("cus_right") == 5
