"""What ``metering top`` shows: who uses how much, what an hour costs, and what waits."""

import io
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import boto3
import msgspec
import pytest
from rich.console import Console

from infra.cli.top import shown, waiting
from infra.operate.catalog import Catalog
from infra.operate.customers import Customers
from infra.operate.deployment import Deployment
from infra.operate.looks import Look
from infra.operate.subscribing import Subscriber, Wishes
from infra.operate.top import Top, _Subscribed
from metering.model.amounts import Amounts
from metering.model.limits import OPERATOR
from metering.model.metrics import Count, Sum, Unique
from metering.model.periods import Hour
from metering.model.prices import Flat, Graduated, Package, PerUnit, Plan, Tier
from metering.model.subjects import customer
from metering.model.unbilled import WhyUnbilled
from metering.model.usage_row import State, Total, UsageRow
from metering.stores.agreements import Looks, Unpaid
from metering.stores.limits import Held, LimitItems
from tests.doubles.clock import Clock
from tests.integration.operator_commands import Operator
from tests.integration.world import HOUR, World

METRICS = (Count(name="requests"), Sum(name="bytes", of="response_length"))
PLAN = Plan(
    name="standard",
    title="Standard",
    currency="usd",
    prices=(
        Flat(amount=4900),
        Graduated(metric="requests", tiers=(Tier(up_to=100, amount=0), Tier(amount="0.5"))),
        Package(metric="bytes", size=1000, amount=2),
    ),
)
BASIC = Plan(name="basic", title="Basic", currency="eur", prices=(PerUnit(metric="requests", amount=3),))


@dataclass
class Scene:
    """A deployment of which two plans are declared, in the middle of an hour, and who looks at it."""

    world: World
    deployment: Deployment
    operator: Operator
    batches: int = 0

    def use(self, key: str, requests: int, hour: Hour = HOUR, **more: int) -> None:
        """Count something of a key."""
        self.batches += 1
        amounts = Amounts({"requests": requests, **more})
        self.world.counters.count(hour, key, amounts, f"{self.batches:012d}".encode())

    def subscribe(self, name: str, plan: str = "standard") -> None:
        """Subscribe a customer from the present hour on."""
        subscriber = Subscriber(
            self.world.meters(),
            Catalog(self.world.meters(), ("requests", "bytes"), (PLAN, BASIC)),
            Customers(self.world.ledger, self.world.counters),
        )
        wishes = Wishes(email=f"billing@{name}.example")
        subscriber.subscribe(self.world.ledger.holders.customers([name])[name], plan, wishes, now=self.world.now)

    def at(self, hour: Hour, minute: int = 30) -> None:
        """Let it be this minute, here and at Stripe."""
        self.world.now = hour.start + timedelta(minutes=minute)

    def top(self, **given: Any) -> Top:
        """Return what looks."""
        return Top(self.deployment, **given)

    def look(self) -> Look:
        """Look once."""
        return self.top().look(self.world.now)


@pytest.fixture
def stripe_time(clock: Clock) -> Clock:
    """The world's."""
    return clock


@pytest.fixture
def scene(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Scene:
    """Two customers, acme with two keys and globex with one, in the middle of the world's hour."""
    operator = Operator(world, monkeypatch, capsys)
    deployment = operator.deployment
    found = Deployment(lambda name, **_: boto3.client(name), deployment.outputs)
    vars(found)["declared"] = {"metrics": msgspec.to_builtins(METRICS), "plans": msgspec.to_builtins((PLAN, BASIC))}
    monkeypatch.setattr(Deployment, "find", lambda *_, **__: found)
    monkeypatch.setattr("infra.cli.top.now", world.clock)
    world.customer("acme", "key1", "key2")
    world.customer("globex", "key3")
    Catalog(world.meters(), ("requests", "bytes"), (PLAN, BASIC)).apply(lambda _: None)
    return Scene(world, found, operator)


def test_the_first_look_takes_its_rates_from_the_hours_begin(scene: Scene) -> None:
    """And says so; a customer's rate is that of its keys."""
    scene.use("key1", 900)
    scene.use("key2", 1800, bytes=5)
    scene.use("key3", 90)
    look = scene.look()
    assert (look.is_first, look.since, look.rate_of, look.per_second) == (True, HOUR.start, "requests", 1.55)
    assert [(one.name, one.per_second, one.keys) for one in look.customers] == [("acme", 1.5, 2), ("globex", 0.05, 1)]
    assert [(one.name, one.customer, one.per_second) for one in look.keys] == [
        ("key2", "acme", 1.0),
        ("key1", "acme", 0.5),
        ("key3", "globex", 0.05),
    ]
    assert look.customers[0].quantities == {"requests": 2700, "bytes": 5}


def test_later_looks_take_their_rates_from_the_look_before(scene: Scene) -> None:
    """A key that is new since then counts from nothing."""
    scene.use("key1", 900)
    top = scene.top()
    top.look(scene.world.now)
    scene.use("key1", 20)
    scene.use("key3", 5)
    scene.world.now += timedelta(seconds=10)
    look = top.look(scene.world.now)
    assert (look.is_first, look.since) == (False, scene.world.now - timedelta(seconds=10))
    assert {one.name: one.per_second for one in look.customers} == {"acme": 2.0, "globex": 0.5}


def test_when_the_hour_turns_the_rates_are_the_new_hours(scene: Scene) -> None:
    """Not the difference between two hours, which would be less than nothing."""
    scene.use("key1", 900)
    top = scene.top()
    top.look(scene.world.now)
    scene.at(HOUR.next(), minute=1)
    scene.use("key1", 60, HOUR.next())
    look = top.look(scene.world.now)
    assert (look.hour, look.is_first, look.per_second) == (HOUR.next(), True, 1.0)


def test_an_hour_costs_what_it_adds_to_the_period(scene: Scene) -> None:
    """The free tier is used up by rows and open hours before; fees are no part; half an hour is doubled."""
    scene.subscribe("acme")
    scene.use("key1", 70)  # will be in a row
    scene.at(HOUR.next())
    scene.use("key2", 20, HOUR.next())  # in no row yet
    scene.world.after_grace()
    scene.world.close()
    third = Hour(HOUR.number + 2)
    scene.at(third, minute=5)
    scene.use("key1", 30, third, bytes=1500)
    (acme,) = scene.look().customers
    assert (acme.plan, acme.currency) == ("standard", "usd")
    assert acme.cost == 20 * 0.5 + 2 * 2
    scene.at(third)
    (acme,) = scene.look().customers
    assert (acme.cost, acme.per_hour) == (Decimal(14), Decimal(28))


def test_a_customer_that_gets_busy_later_has_its_price_too(scene: Scene) -> None:
    """What was learnt of keys a minute ago is learnt again, also of those that are quiet in this hour."""
    scene.subscribe("acme")
    scene.subscribe("globex", "basic")
    scene.use("key3", 5)
    scene.at(HOUR.next())
    scene.use("key1", 1, HOUR.next())
    top = scene.top()
    top.look(scene.world.now)
    scene.use("key3", 2, HOUR.next())
    scene.world.now += timedelta(minutes=2)
    costs = {one.name: one.cost for one in top.look(scene.world.now).customers}
    assert costs == {"acme": Decimal(0), "globex": Decimal(6)}


def test_each_customer_pays_by_its_own_plan(scene: Scene) -> None:
    """In its own currency; one that is on none has no price, and is no part of the sum."""
    scene.subscribe("acme")
    scene.subscribe("globex", "basic")
    scene.world.customer("initech", "key4")
    for key in ("key1", "key3", "key4"):
        scene.use(key, 110)
    look = scene.look()
    assert {one.name: (one.plan, one.cost) for one in look.customers} == {
        "acme": ("standard", 5),
        "globex": ("basic", 330),
        "initech": ("", None),
    }
    assert look.money == {"usd": (Decimal(5), Decimal(10)), "eur": (Decimal(330), Decimal(660))}


def test_what_is_shown_is_bounded_and_what_is_told_of_it_is_read_once(scene: Scene) -> None:
    """Stripe is asked about shown customers alone, once; a second look reads the counters again and little else."""
    scene.subscribe("acme")
    scene.use("key1", 110)
    scene.use("key3", 10)
    top = scene.top(rows=1)
    look = top.look(scene.world.now)
    assert ([one.name for one in look.customers], [one.name for one in look.keys]) == (["acme"], ["key1"])
    assert look.per_second == 0.067, "of all"
    asked = scene.world.stripe.calls
    scene.world.now += timedelta(seconds=10)
    assert top.look(scene.world.now).customers[0].cost == 5
    assert scene.world.stripe.calls == asked


def test_while_stripe_does_not_answer_nothing_has_a_price(scene: Scene) -> None:
    """The rest is shown, with the reason, and it is asked again a minute later."""
    scene.world.customer("acme", stripe_customer="cus_acme")
    scene.use("key1", 10)
    boto3.client("secretsmanager").update_secret(SecretId="stripe-secret", SecretString="{}")
    top = scene.top()
    look = top.look(scene.world.now)
    assert look.customers[0].cost is None
    assert look.notes == ["nothing has a price: the secret holds no Stripe key: run 'metering stripe connect'"]
    boto3.client("secretsmanager").update_secret(SecretId="stripe-secret", SecretString="sk_test_local")
    assert top.look(scene.world.now + timedelta(seconds=59)).notes == look.notes
    assert top.look(scene.world.now + timedelta(seconds=60)).notes == []


@pytest.fixture
def users(scene: Scene) -> Scene:
    """Each of three keys, two of them acme's, was used by the same 20 users, who cost acme 30 cents each."""
    plan = Plan(
        name="users", title="Users", currency="usd", prices=(Flat(amount=4900), PerUnit(metric="users", amount=30))
    )
    scene.world.bill(*METRICS, Unique(name="users", of="authorizer.user", opaque_id=True))
    vars(scene.deployment)["declared"] = {
        "metrics": msgspec.to_builtins(scene.world.metrics), "plans": msgspec.to_builtins((plan,))
    }  # fmt: skip
    scene.world.customer("acme", stripe_customer="cus_acme")
    seen(scene, *(f"user{number}" for number in range(20)))
    return scene


def seen(scene: Scene, *names: str) -> None:
    """Record a request of each user by each key."""
    scene.world.record(
        *(
            scene.world.line(key=key, response_length="1", **{"authorizer.user": name})
            for key in ("key1", "key2", "key3")
            for name in names
        )
    )


def of_users(scene: Scene) -> Top:
    """Return what looks, and knows that acme is on the plan."""
    top = scene.top()
    top._subscribed["acme"] = _Subscribed(scene.deployment.declared_plans[0], HOUR)
    return top


def test_a_distinct_value_of_several_keys_counts_once(users: Scene) -> None:
    """In money, too, also before the ledger has the hour; what comes later is in the look after (I4)."""
    top = of_users(users)
    acme, globex = sorted(top.look(users.world.now).customers, key=lambda one: one.name)
    assert (acme.quantities["users"], acme.up_to, acme.cost, acme.costs_up_to) == (20, (), Decimal(600), False)
    assert (globex.quantities["users"], globex.up_to, globex.costs_up_to) == (20, (), False)
    seen(users, "user3", "somebody else")
    acme, _ = sorted(top.look(users.world.now + timedelta(seconds=10)).customers, key=lambda one: one.name)
    assert (acme.quantities["users"], acme.cost) == (21, Decimal(630))


def test_users_of_hours_that_are_not_closed_cost_once(users: Scene) -> None:
    """What a customer used before is settled as well: its price may depend on it."""
    top = of_users(users)
    users.world.now = HOUR.end + timedelta(minutes=5)
    top.hour = HOUR.next()
    assert top._used_before("acme", HOUR, HOUR.next())["users"] == 20


def test_where_few_reads_do_not_settle_them_they_are_at_most_so_many_until_the_ledger_has_them(
    users: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: in money, too, and it is said."""
    monkeypatch.setattr("metering.portal.uniques.MOST_QUERIES", 1)
    top = of_users(users)
    look = top.look(users.world.now)
    acme, _ = sorted(look.customers, key=lambda one: one.name)
    assert (acme.quantities["users"], acme.up_to, acme.cost, acme.costs_up_to) == (40, ("users",), Decimal(1200), True)
    assert look.as_json()["money"]["usd"]["up_to"] is True
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(shown(look))
    text = console.export_text()
    assert "up to 40 users" in text
    assert "up to 12.00 USD so far in this hour" in text
    row = UsageRow(customer("acme"), HOUR, totals={"users": Total(20, 1, State.PENDING)})
    users.world.ledger.rows.save(row)
    acme, _ = sorted(top.look(users.world.now).customers, key=lambda one: one.name)
    assert (acme.quantities["users"], acme.up_to, acme.cost, acme.costs_up_to) == (20, (), Decimal(600), False)


def test_of_so_many_customers_alone_distinct_values_are_settled(users: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: the busiest ones; of one with a single key its counters say them."""
    monkeypatch.setattr("infra.operate.top.MOST_SETTLED", 0)
    acme, globex = sorted(of_users(users).look(users.world.now).customers, key=lambda one: one.name)
    assert (acme.up_to, globex.up_to) == (("users",), ())


def test_without_plans_nothing_has_a_price(scene: Scene) -> None:
    """And Stripe is not asked."""
    vars(scene.deployment)["declared"]["plans"] = []
    scene.use("key1", 10)
    asked = scene.world.stripe.calls
    look = scene.look()
    assert (look.notes, look.money) == (["app.py declares no plan, so that nothing has a price"], {})
    assert scene.world.stripe.calls == asked


def test_keys_that_nobody_holds_are_told_apart_from_those_that_are_not_billed(scene: Scene) -> None:
    """The first wait for a person."""
    scene.use("nobodys", 10)
    scene.use("health", 20)
    Customers(scene.world.ledger, scene.world.counters).exclude(
        "health", reason="health check", since=None, now=scene.world.now
    )
    look = scene.look()
    assert [one.name for one in look.unmapped] == ["nobodys"]
    assert [(one.name, one.customer, one.reason) for one in look.keys] == [
        ("health", "", "health check"),
        ("nobodys", "", ""),
    ]
    assert look.customers == []


def test_usage_that_names_its_customer_is_the_customers(scene: Scene) -> None:
    """It came without a key."""
    scene.use("@acme", 36)
    look = scene.look()
    assert [(one.name, one.per_second) for one in look.customers] == [("acme", 0.02)]
    assert (look.keys, look.unmapped) == ([], [])


def test_what_waits_for_a_person_is_counted_once_a_minute(scene: Scene) -> None:
    """Batches of which something was set aside, and customers' hours that Stripe rejected, or that nobody pays."""
    top = scene.top()
    assert (top.look(scene.world.now).set_aside, top.look(scene.world.now).rejected) == (0, 0)
    scene.world.customer("acme", stripe_customer="cus_acme")
    scene.world.record("nonsense", scene.world.line())
    scene.world.after_grace()
    scene.world.close()
    row = scene.world.ledger.rows.at(HOUR, [customer("acme")])[customer("acme")]
    lost = {name: msgspec.structs.replace(total, state=State.REJECTED) for name, total in row.totals.items()}
    scene.world.ledger.rows.save(row.with_totals(lost))
    scene.world.ledger.agreements.save_looks(Looks(before={WhyUnbilled.ENDED: Unpaid(1200, 3, ("acme",))}))
    look = top.look(scene.world.now)
    assert (look.set_aside, look.rejected, look.unbilled) == (1, 1, 1200)
    out = scene.operator.run("top").out
    assert "something of 1 batch is set aside: 'metering set-aside list'" in out
    assert "1 customer's hour was rejected by Stripe: 'metering rejected list'" in out
    assert "1,200 customers' hours of the last 35 days nobody pays: 'metering doctor'" in out


def test_the_command_prints_one_document(scene: Scene) -> None:
    """Amounts are decimals of the smallest unit."""
    scene.subscribe("acme")
    scene.use("key1", 111)
    scene.use("nobodys", 9)
    said = scene.operator.run("top", "--json")
    assert said.document == {
        "hour": "2026-11-22T05",
        "as_of": "2026-11-22T05:30:00Z",
        "rates_since": "2026-11-22T05:00:00Z",
        "rates_from": "the hour's begin",
        "rate_of": "requests",
        "per_second": 0.067,
        "money": {"usd": {"cost": "5.5", "per_hour": "11", "up_to": False}},
        "customers": [
            {
                "customer": "acme",
                "per_second": 0.062,
                "quantities": {"requests": 111},
                "up_to": [],
                "keys": 1,
                "plan": "standard",
                "currency": "usd",
                "cost": "5.5",
                "per_hour": "11",
                "costs_up_to": False,
                "reasons": [],
            }
        ],
        "keys": [
            {"key": "key1", "customer": "acme", "per_second": 0.062, "quantities": {"requests": 111}},
            {"key": "nobodys", "customer": None, "per_second": 0.005, "quantities": {"requests": 9}},
        ],
        "unmapped": [{"key": "nobodys", "customer": None, "per_second": 0.005, "quantities": {"requests": 9}}],
        "set_aside_batches": 0,
        "rejected_hours": 0,
        "unbilled_hours": 0,
        "notes": [],
    }


def test_where_nobody_looks_the_command_looks_once(scene: Scene) -> None:
    """With --once, and in a pipe; a person reads money as people write it."""
    scene.subscribe("acme")
    scene.use("key1", 111)
    scene.use("nobodys", 9)
    out = scene.operator.run("top", "--once").out
    assert out == scene.operator.run("top").out
    lines = out.splitlines()
    assert lines[0] == "2026-11-22T05 at 05:30:00 UTC: 0.067 requests a second since the hour's begin"
    assert lines[1] == "0.055 USD so far in this hour, 0.11 USD an hour"
    assert "1 key belongs to no customer: nobodys: 'metering customers add ID --key KEY'" in out


def test_on_a_terminal_it_looks_again_and_again_until_ctrl_c(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look in the place of the one before, with its own rate; ending it is no error."""
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100, height=20, color_system=None)
    monkeypatch.setattr("infra.cli.top.out", terminal)
    waited: list[int] = []

    def wait(seconds: int) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            raise KeyboardInterrupt
        scene.world.now += timedelta(seconds=seconds)
        scene.use("key3", 30)

    monkeypatch.setattr("infra.cli.top.time.sleep", wait)
    scene.use("key1", 900)
    assert scene.operator.run("top", "--seconds", "3").code == 0
    shown_there = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert waited == [3, 3]
    assert "05:30:00 UTC: 0.5 requests a second since the hour's begin" in shown_there
    assert "05:30:03 UTC: 10.0 requests a second since 05:30:00" in shown_there


def test_another_hour_can_be_looked_at(scene: Scene) -> None:
    """Such as that of the local gateway, whose clock is two hours back; an hour that is over has its own length."""
    scene.use("key1", 3600)
    scene.at(Hour(HOUR.number + 2))
    said = scene.operator.run("top", "--hour", str(HOUR), "--json").document
    assert (said["hour"], said["per_second"]) == (str(HOUR), 1.0)
    assert "nothing is counted in this hour" in scene.operator.run("top", "--once").out
    top = scene.top(hour=HOUR)
    top.look(scene.world.now)
    scene.use("key1", 50)
    scene.world.now += timedelta(seconds=10)
    assert top.look(scene.world.now).per_second == 5.0


def test_an_empty_look_is_printed(scene: Scene) -> None:
    """With what there is to say."""
    assert shown(scene.look()).renderables


def test_who_is_closed_is_said_with_the_reason_and_since_when(scene: Scene) -> None:
    """Of those that are shown."""
    LimitItems(scene.world.ledger.client, "ledger").hold("acme", OPERATOR, Held(int(scene.world.now.timestamp())))
    scene.use("key1", 111)
    scene.use("key3", 1)
    looked = Top(scene.deployment).look(scene.world.now)
    assert {busy.name: [reason.name for reason in busy.reasons] for busy in looked.customers} == {
        "acme": ["operator"],
        "globex": [],
    }
    assert "acme is stopped because of operator since 2026-11-22T05:30:00Z" in waiting(looked)
