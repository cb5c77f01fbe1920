"""``metering doctor`` on usage that nobody will be billed for: who used it, how much, and what is no such usage."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from infra.operate.doctor import subscriptions
from infra.operate.doctor.findings import Finding, State
from infra.operate.doctor.subscriptions import check_subscriptions
from infra.operate.posting import turn_off
from metering.billing.unbilled import Looker
from metering.model.amounts import Amounts
from metering.model.periods import Hour
from metering.model.unbilled import WhyUnbilled
from metering.stripe.invoices import StripeReader
from metering.stripe.pacing import Pace
from metering.stripe.reading import Reads
from tests.integration.billing import FINALISED, Billing, due
from tests.integration.operator_commands import Operator
from tests.integration.world import HOUR, World

NEXT = HOUR.next()
TO_NOBODY = "billed to nobody, "
SINCE = "usage since 2026-10-18T06"


@pytest.fixture
def stripe_time() -> Callable[[], float]:
    """The world's hour begins."""
    return HOUR.start.timestamp


@pytest.fixture
def operator(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    """Whoever runs the doctor."""
    return Operator(world, monkeypatch, capsys)


def look(operator: Operator) -> list[Finding]:
    """Make the check."""
    return [*check_subscriptions(operator.deployment, operator.world.now)]


def unbilled(operator: Operator) -> list[str]:
    """Return the reasons for which nobody pays, each with who is named for it."""
    return [finding.said.partition(TO_NOBODY)[2] for finding in look(operator) if TO_NOBODY in finding.said]


def post(billing: Billing, hour: Hour = HOUR) -> None:
    """Let an hour be closed and posted, and what invoices bill be noted."""
    billing.at(due(hour))
    billing.settle()


def unsubscribed(world: World, name: str, number: int) -> None:
    """Add a customer without a subscription that has used something."""
    world.customer(name, f"key-of-{name}", stripe_customer=f"cus_{name}")
    Billing(world, batches=number).use(number, name=f"key-of-{name}")


def test_usage_that_a_subscription_bills_is_well(billing: Billing, operator: Operator) -> None:
    """Before its invoice and after it, and also once the subscription has ended."""
    assert look(operator) == [
        Finding(State.OK, "what 1 customer used since 2026-10-18T06 is on an invoice, or will be")
    ]
    billing.at(FINALISED)
    billing.settle()
    (subscription,) = billing.client().v1.subscriptions.list({"customer": "cus_acme"}).data
    billing.client().v1.subscriptions.cancel(subscription.id)
    assert billing.invoiced() == [5]
    assert [finding.state for finding in look(operator)] == [State.OK]


def test_usage_that_nobody_pays_is_named(world: World, operator: Operator) -> None:
    """I9: each customer with its metrics, and what to do."""
    for name, number in (("beta", 1200), ("acme", 3)):
        unsubscribed(world, name, number)
    world.counters.count(HOUR, "key-of-acme", Amounts({"bytes": 70}), b"b" * 12)
    post(Billing(world))
    (found,) = look(operator)
    named = "acme (bytes: 70, requests: 3), beta (requests: 1,200)"
    assert found.state is State.WARNING
    assert found.said == f"{SINCE} of 2 customers is {TO_NOBODY}no subscription: {named}"
    assert found.do.startswith("metering customers subscribe, or suspend; ")


def test_usage_that_waits_for_a_stripe_customer_is_named(world: World, operator: Operator) -> None:
    """I9: it is held, and posted once there is one."""
    world.customer("acme", "key1")
    Billing(world).use(4)
    post(Billing(world))
    assert [finding.said for finding in look(operator)] == [
        f"{SINCE} of 1 customer is {TO_NOBODY}it waits for a Stripe customer: acme (requests: 4)"
    ]
    world.customer("acme", stripe_customer="cus_acme")
    world.run()
    assert unbilled(operator) == ["no subscription: acme (requests: 4)"]


def test_what_came_after_the_last_invoice_is_told_until_it_is_carried(billing: Billing, operator: Operator) -> None:
    """I9: the invoice is final, and nobody is left to carry the difference to."""
    (subscription,) = billing.client().v1.subscriptions.list({"customer": "cus_acme"}).data
    billing.client().v1.subscriptions.cancel(subscription.id, {"invoice_now": True})
    billing.use(2)
    billing.at(billing.world.now + timedelta(hours=1))
    billing.settle()
    assert billing.invoiced() == [5]
    assert unbilled(operator) == ["subscription ended: acme (requests: 2)"]
    assert "what is told a day later still is billed by metering adjust" in look(operator)[0].do
    billing.subscribe()
    billing.settle()
    assert billing.carries() == [(Hour.containing(billing.world.now), 2)]
    assert [finding.state for finding in look(operator)] == [State.OK]


def test_while_posting_is_off_nothing_is_looked_at(world: World, operator: Operator) -> None:
    """The check of posting says so."""
    unsubscribed(world, "acme", 3)
    turn_off(operator.deployment, who="operator", now=world.now)
    post(Billing(world))
    assert look(operator) == [Finding(State.OK, "nothing is posted, so that nobody needs a subscription")]


def test_some_customers_are_named_and_the_others_counted(world: World, operator: Operator) -> None:
    """I9: a line stays one that can be read."""
    for number in range(12):
        unsubscribed(world, f"c{number:02d}", number + 1)
    post(Billing(world))
    (found,) = look(operator)
    named = ", ".join(f"c{number:02d} (requests: {number + 1})" for number in range(10))
    assert found.said == f"{SINCE} of 12 customers is {TO_NOBODY}no subscription: {named} and 2 more"


def test_of_more_customers_it_is_said_what_the_hourly_runs_found(
    world: World, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: they look at each once a day, and one item holds what they found."""
    monkeypatch.setattr(subscriptions, "MOST_CUSTOMERS", 12)
    for number in range(14):
        unsubscribed(world, f"c{number:02d}", number + 1)
    post(Billing(world))
    (found,) = look(operator)
    assert found == Finding(
        State.WARNING, "nobody has looked yet who pays for what more than 12 customers used", "run this again tomorrow"
    )
    reader, since = StripeReader(world.meters(), Reads(100, Pace(10_000))), Hour.parse(world.switch.read().since)
    Looker(world.ledger, world.changes, reader, since, world.clock, world.now + timedelta(minutes=5)).run()
    (found,) = look(operator)
    named = ", ".join(f"c{number:02d}" for number in range(10))
    assert found.said == f"14 hours of 14 customers are {TO_NOBODY}no subscription: {named} and 4 more"
    assert found.do.startswith("metering customers subscribe, or suspend; ")


def test_each_reason_has_a_line_with_what_to_do(billing: Billing, operator: Operator) -> None:
    """I9: a price that is missing is mended in another way than a subscription."""
    unsubscribed(billing.world, "beta", 7)
    billing.world.counters.count(NEXT, "key1", Amounts({"bytes": 70}), b"b" * 12)
    post(billing, NEXT)
    assert [(finding.said.partition(TO_NOBODY)[2], finding.do[:26]) for finding in look(operator)] == [
        ("no price in subscription: acme (bytes: 70)", "add a price of the metric "),
        ("no subscription: beta (requests: 7)", "metering customers subscri"),
    ]


def test_every_reason_says_what_to_do() -> None:
    """Whichever is added."""
    assert {*WhyUnbilled, subscriptions.WAITS} == subscriptions._TO_DO.keys()
