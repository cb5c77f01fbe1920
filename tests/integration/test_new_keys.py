"""A customer's new key: made, given and put into a usage plan by one command, and its value for the operator alone."""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.operate.access import Access
from infra.operate.access_notes import AccessNotes
from infra.operate.customers import Customers
from infra.operate.new_keys import create_key
from metering.limits.gate import Gate
from metering.limits.keys import PlanKeys
from metering.limits.usage_plans import UsagePlans
from metering.model.periods import Hour
from metering.stores.holders import Customer
from metering.stores.ledger import Ledger
from metering.stores.limits import LimitItems
from tests.doubles.aws import Account
from tests.doubles.dying import Dying, KilledError, Life
from tests.doubles.usage_plans import UsagePlansOfAws
from tests.integration.operator_commands import Operator, Said
from tests.integration.world import World

NAME = "Metering-acme.key"


@dataclass
class Desk:
    """An operator, an API Gateway with a usage plan, and a customer."""

    world: World
    operator: Operator
    gateway: UsagePlansOfAws
    plan: str

    def create(self, *arguments: str, plan: str = "Standard") -> Said:
        """Make a key for acme."""
        return self.operator.run("keys", "create", "acme", "--plan", plan, *arguments)

    def held(self) -> list[str]:
        """Return the keys that acme holds."""
        return self.world.ledger.holders.held_by("acme", Hour.containing(self.world.now))

    def dying(self, life: Life) -> Access:
        """Return the verbs of a process with a life."""
        dynamodb: Any = Dying(self.world.ledger.client, life)
        ledger, plans = Ledger(dynamodb, "ledger"), UsagePlans(Dying(self.gateway, life))
        gate = Gate(LimitItems(dynamodb, "ledger"), ledger.holders, PlanKeys(plans, "Metering"), self.world.clock)
        customers = Customers(ledger, self.world.counters)
        return Access(plans, gate, AccessNotes(dynamodb, "ledger"), ledger, customers, "Metering", lambda: "me")


@pytest.fixture
def desk(world: World, aws: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    """A REST API that bills by API keys."""
    gateway = UsagePlansOfAws()
    aws.services["apigateway"] = gateway
    operator = Operator(world, monkeypatch, capsys, declared={"access_log": {"api": "rest"}})
    for module in ("keys", "access", "customers"):
        monkeypatch.setattr(f"infra.cli.{module}.now", world.clock)
    world.customer("acme")
    return Desk(world, operator, gateway, gateway.add_plan("Standard", "api/prod"))


def test_a_key_is_made_given_to_the_customer_put_into_the_plan_and_its_value_shown(desk: Desk) -> None:
    """Between deploying and the first 200 no other tool is needed."""
    made = desk.create()
    (key,) = desk.held()
    assert made == Said(
        0,
        f"key {key} belongs to acme, and its usage plan is {desk.plan} (Standard)\nits value: secret of {key}\n",
        "",
    )
    assert (desk.gateway.of(key), desk.gateway.keys[key]["name"]) == ({"Standard"}, NAME)


def test_the_value_is_written_for_its_owner_alone(desk: Desk, tmp_path: Path) -> None:
    """I8: mode 600, and into a new file; nothing is made where that cannot be."""
    there = tmp_path / "there"
    there.write_text("")
    assert desk.create("--out", str(there)).err.replace("\n", " ").startswith(f"error: {there} cannot be made")
    with desk.operator.monkeypatch.context() as nobodys:
        nobodys.setattr("infra.cli.keys.os.access", lambda *_: False)
        assert "cannot be made" in desk.create("--out", str(tmp_path / "value")).err
    assert not desk.gateway.keys
    made = desk.create("--out", str(tmp_path / "value"), "--json")
    (key,) = desk.held()
    assert made.document == {
        "customer": "acme",
        "key": key,
        "name": NAME,
        "plan": desk.plan,
        "reasons": [],
        "value_in": str(tmp_path / "value"),
    }
    assert (tmp_path / "value").read_text() == f"secret of {key}\n"
    assert stat.S_IMODE((tmp_path / "value").stat().st_mode) == 0o600


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("call", range(1, 11))
def test_a_command_that_dies_anywhere_leaves_no_key_that_nobody_knows(desk: Desk, call: int, *, accepted: bool) -> None:
    """Run again, it goes on with the same key; no call of it was ever unmapped."""
    life, acme = Life(call, accepted=accepted), Customer("acme", "Acme")
    with pytest.raises(KilledError):
        create_key(desk.dying(life), acme, "Standard", "key", now=desk.world.now)
    opened = {key for keys in desk.gateway.members.values() for key in keys}
    assert opened <= {*desk.held()}
    assert desk.create().code == 0
    assert [*desk.gateway.keys] == desk.held() == desk.gateway.members[desk.plan]


def test_it_takes_as_many_writes_as_die_above(desk: Desk) -> None:
    """The key, who holds it, where it belongs, and the plan."""
    life, acme = Life(), Customer("acme", "Acme")
    create_key(desk.dying(life), acme, "Standard", "key", now=desk.world.now)
    assert life.writes == 10


def test_the_same_again_changes_nothing_and_another_name_is_another_key(desk: Desk) -> None:
    """I2."""
    first = desk.create()
    assert desk.create(plan=desk.plan) == first
    assert desk.create("--name", "production").code == 0
    assert sorted(key["name"] for key in desk.gateway.keys.values()) == [NAME, "Metering-acme.production"]
    assert len(desk.held()) == 2


def test_the_customer_knows_the_key_by_the_name_that_it_is_given_and_so_the_one_that_takes_its_place(
    desk: Desk,
) -> None:
    """What the label is left out of has none; a later name of the new key stays, also when the old one's time ends."""
    desk.create()
    desk.create("--name", "CI")
    named = desk.world.ledger.holders.names_of
    assert sorted(named("acme").values()) == ["", "CI"]
    (old,) = [key for key, name in named("acme").items() if name == "CI"]
    rotate = ("customers", "rotate-key", "acme", "--key", old)
    new = desk.operator.run(*rotate, "--json").document["new"]
    assert named("acme")[new] == "CI"
    assert desk.operator.run("keys", "name", new, "CI of 2027").code == 0
    assert desk.operator.run(*rotate, "--overlap", "0").code == 0
    assert (named("acme")[old], named("acme")[new]) == ("CI", "CI of 2027")


def test_a_key_of_a_closed_customer_opens_with_the_others(desk: Desk) -> None:
    """Whoever is suspended gets it closed, which is said."""
    desk.create()
    assert desk.operator.run("customers", "suspend", "acme").code == 0
    made = desk.create("--name", "second").out.splitlines()
    assert made[1] == "it is closed as long as acme is stopped because of operator since 2026-11-22T05:30:00Z"
    assert desk.gateway.members[desk.plan] == []
    assert desk.operator.run("customers", "resume", "acme").code == 0
    assert sorted(desk.gateway.members[desk.plan]) == sorted(desk.held())


def test_a_key_that_was_taken_out_rotated_or_given_away_is_not_opened_again(desk: Desk) -> None:
    """It may have leaked: a new one has another name."""
    desk.create()
    (key,) = desk.held()
    desk.gateway.delete_usage_plan_key(usagePlanId=desk.plan, keyId=key)
    refused = desk.create().err.replace("\n", " ")
    assert f"{key}, which was taken out of the usage plan {desk.plan}: give the new one another --name" in refused
    desk.create("--name", "b")
    old = next(name for name, one in desk.gateway.keys.items() if one["name"].endswith(".b"))
    assert desk.operator.run("customers", "rotate-key", "acme", "--key", old, "--overlap", "0").code == 0
    assert "whose place another key has taken" in desk.create("--name", "b").err.replace("\n", " ")
    desk.create("--name", "c")
    given = next(name for name, one in desk.gateway.keys.items() if one["name"].endswith(".c"))
    desk.world.customer("globex", given, since=Hour.containing(desk.world.now))
    assert "which has changed hands" in desk.create("--name", "c").err.replace("\n", " ")
    another = desk.gateway.add_plan("Trial", "api/prod")
    desk.create("--name", "d")
    assert f"which is in the usage plan {desk.plan}" in desk.create("--name", "d", plan=another).err.replace("\n", " ")


def test_a_replaced_key_that_is_forgotten_does_not_come_back_as_a_new_one(desk: Desk) -> None:
    """It may have been replaced since it had leaked; nobody is to get it again, whatever it is called."""
    desk.create()
    (old,) = desk.held()
    assert desk.operator.run("customers", "rotate-key", "acme", "--key", old, "--overlap", "0").code == 0
    assert desk.operator.run("keys", "forget", old).out == f"key {old} is forgotten\n"
    assert desk.operator.run("keys", "forget", old).out == "nothing to change\n"
    again = desk.create()
    assert (again.code, "whose place another key has taken: give the new one another --name" in again.err) == (1, True)
    assert (desk.gateway.of(old), old in desk.held()) == (set(), False)


def test_a_plan_is_named_by_its_id_or_its_only_name(desk: Desk) -> None:
    """A wrong one is answered with those that there are; a slow lane is none of them; nothing is made."""
    desk.gateway.add_plan("Metering-slow-lane", "api/prod")
    refused = desk.create(plan="Standart")
    assert refused.err.replace("\n", " ").strip() == (
        f"error: there is no usage plan 'Standart' in this account and Region; there is {desk.plan} (Standard)"
    )
    other = desk.gateway.add_plan("Standard", "api/test")
    refused = desk.create()
    assert refused.err.replace("\n", " ").strip() == (
        f"error: 2 usage plans are called 'Standard': say which by its id, {desk.plan} (Standard), {other} (Standard)"
    )
    assert not desk.gateway.keys
    assert desk.create(plan="standard").err.startswith("error: 2 usage plans are called 'standard': ")
    assert not desk.gateway.keys
    desk.gateway.add_plan("Bare")
    bare = desk.create(plan="bare")
    assert bare.err.replace("\n", " ").startswith("note: that usage plan has no stage of an API, so that the key opens")


def test_a_name_is_one_line(desk: Desk) -> None:
    """As every name."""
    said = "error: a key's name is 1 to 60 printable characters, no space around it, got ' '\n"
    assert desk.create("--name", " ").err == said


@pytest.mark.parametrize(
    ("access_log", "noun"),
    [
        ({"api": "http", "caller": "authorizer.claims.sub"}, "an HTTP API"),
        ({"api": "rest", "caller": "authorizer.claims.sub"}, "a REST API"),
    ],
)
def test_where_no_key_says_who_calls_none_is_made(desk: Desk, access_log: dict[str, str], noun: str) -> None:
    """Its usage would be billed to nobody."""
    desk.operator.declared["access_log"] = access_log
    refused = desk.create()
    assert refused.err.replace("\n", " ").startswith(
        f"error: who calls {noun} of this deployment is told by authorizer.claims.sub, not by API keys:"
    )
    assert not desk.gateway.called
