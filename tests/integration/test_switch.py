"""Posting is off until an operator turns it on; whatever it is turned, no hour is billed twice and none is skipped."""

from datetime import timedelta

import boto3
import pytest

from metering.model.periods import Hour
from metering.stores.progress import PeriodState
from metering.stores.switch import Switch
from tests.integration.billing import Billing
from tests.integration.operator_commands import WHO, Operator
from tests.integration.world import HOUR, World, moment

NEXT = HOUR.next()


@pytest.fixture
def operator(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    """A deployment in which posting never was on, with two requests in one hour and one in the next."""
    world.ledger.client.delete_item(TableName="ledger", Key={"pk": {"S": "posting"}, "sk": {"S": "switch"}})
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line(), world.line())
    world.now = NEXT.start + timedelta(minutes=30)
    world.record(world.line(time=moment(NEXT)))
    world.now = NEXT.end + timedelta(minutes=10)
    return Operator(world, monkeypatch, capsys)


def held(world: World) -> tuple[int, int]:
    """Return what Stripe holds of the two hours."""
    return world.at_stripe("cus_acme"), world.at_stripe("cus_acme", hour=NEXT)


def test_a_new_deployment_posts_nothing_and_closes_its_hours(operator: Operator) -> None:
    """The ledger fills, the hours close, and status says how much waits."""
    world = operator.world
    closed, posted = world.run()
    assert closed.closed == [HOUR, NEXT]
    assert world.ledger.progress.periods([HOUR])[HOUR].state is PeriodState.CLOSED
    assert (posted.posted, held(world), sum(world.stripe.calls.values())) == (0, (0, 0), 2)  # two meters were made
    assert world.in_ledger("customer#acme")["requests"] == (2, "PENDING")
    assert operator.run("posting", "status", "--json").document == {
        "on": False,
        "since": None,
        "who": None,
        "at": None,
        "waiting": 2,
        "before_posting": 0,
    }
    assert "never was on" in operator.run("posting", "status").out


def test_posting_begins_with_the_hour_that_is_chosen(operator: Operator) -> None:
    """What was used before is never billed, whatever happens to it later."""
    world = operator.world
    world.run()
    said = operator.run("posting", "on", "--since", str(NEXT), "--json").document
    assert (said["on"], said["since"], said["who"], said["waiting"]) == (True, str(NEXT), WHO, 1)
    world.run()
    assert held(world) == (0, 1)
    assert operator.run("posting", "status", "--json").document["before_posting"] == 1
    told = operator.run("posting", "status").out
    assert f"1 customer's hour is from before posting began with {NEXT} and is never billed, unless" in told
    world.record(world.line())
    world.run()
    world.check()
    world.run()
    assert held(world) == (0, 1)


def test_what_nobody_pays_is_said_when_posting_begins(operator: Operator) -> None:
    """I9: the first hour is from before the subscription, which bills no bytes. Without Stripe it is on as well."""
    world = operator.world
    world.run()
    world.stripe.advance(NEXT.start.timestamp() - world.stripe.now)
    Billing(world).subscribe()
    assert operator.run("posting", "on", "--since", str(HOUR), "--json").document["unpaid"] == [
        {"reason": "before subscription", "hours": 1, "customers": ["acme"]},
        {"reason": "no price in subscription", "hours": 1, "customers": ["acme"]},
    ]
    said = operator.run("posting", "on").out
    assert f"1 customer's hour since {HOUR} is billed to nobody, before subscription: acme" in said
    operator.run("posting", "off")
    boto3.client("secretsmanager").put_secret_value(SecretId="stripe-secret", SecretString="{}")
    said = operator.run("posting", "on").out
    assert "posting is on" in said
    assert "whether somebody pays for what is posted is not known: the secret holds no Stripe key" in said


def test_without_an_hour_posting_begins_with_the_current_one(operator: Operator) -> None:
    """Nothing of the past is billed by surprise."""
    assert operator.run("posting", "on", "--json").document["since"] == str(NEXT.next())
    operator.world.run()
    assert held(operator.world) == (0, 0)


def test_turning_it_on_twice_changes_nothing(operator: Operator) -> None:
    """Nor does it at Stripe."""
    world = operator.world
    operator.run("posting", "on", "--since", str(HOUR))
    world.run()
    events, switch = len(world.stripe.events), world.switch.read()
    world.now += timedelta(hours=3)
    assert operator.run("posting", "on").code == 0
    assert operator.run("posting", "on", "--since", str(HOUR)).code == 0
    world.run()
    assert world.switch.read() == switch
    assert len(world.stripe.events) == events
    assert held(world) == (2, 1)


def test_off_and_on_skips_nothing(operator: Operator) -> None:
    """What came meanwhile is posted then, also corrections of what was posted before."""
    world = operator.world
    operator.run("posting", "on", "--since", str(HOUR))
    world.now = HOUR.end + timedelta(minutes=10)
    world.run()
    assert "posted when it is turned on" in operator.run("posting", "off").out
    assert operator.run("posting", "off").code == 0
    world.record(world.line())
    world.now = NEXT.end + timedelta(minutes=10)
    world.run()
    assert held(world) == (2, 0)
    world.now += timedelta(days=2)
    assert operator.run("posting", "on", "--json").document["since"] == str(HOUR)
    world.run()
    assert held(world) == (3, 1)


def test_an_earlier_hour_is_taken_later_on(operator: Operator) -> None:
    """And posts what had waited since then."""
    world = operator.world
    operator.run("posting", "on", "--since", str(NEXT))
    world.run()
    operator.run("posting", "on", "--since", str(HOUR))
    world.run()
    assert held(world) == (2, 1)


def test_a_later_hour_is_refused(operator: Operator) -> None:
    """Stripe has totals of the hours between, which must go on to be corrected."""
    operator.run("posting", "on", "--since", str(HOUR))
    said = operator.run("posting", "on", "--since", str(NEXT))
    assert (said.code, said.out) == (1, "")
    assert f"posting began with {HOUR}" in said.err
    operator.run("posting", "off")
    assert operator.run("posting", "on", "--since", str(NEXT)).code == 1
    assert not operator.world.switch.read().on


def test_an_hour_to_come_is_refused(operator: Operator) -> None:
    """It would be forgotten."""
    later = Hour.containing(operator.world.now).next()
    assert "posting can begin with the current hour" in operator.run("posting", "on", "--since", str(later)).err
    assert operator.world.switch.read() == Switch()


def test_somebody_who_turns_it_at_the_same_time_is_told(operator: Operator) -> None:
    """The switch is written on condition that it is as it was read."""
    switch = operator.world.switch
    read = switch.read()
    switch.turn(Switch(on=True, since=str(HOUR), who="other"))
    operator.monkeypatch.setattr("metering.stores.switch.PostingSwitch.read", lambda _switch: read)
    said = operator.run("posting", "on")
    assert (said.code, said.err) == (
        1,
        "error: somebody else has just turned posting: look with 'metering posting status'\n",
    )


def test_off_before_it_ever_was_on_writes_nothing(operator: Operator) -> None:
    """There is nothing to turn off."""
    assert operator.run("posting", "off").code == 0
    assert operator.world.switch.read() == Switch()
