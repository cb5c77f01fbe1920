"""A key that was given by mistake is forgotten, everywhere it stands, as far as nothing was used by it."""

from typing import Any

import boto3
import pytest

from infra.operate.access import Access
from infra.operate.access_notes import AccessNotes, Rotation
from infra.operate.customers import Customers
from infra.operate.deployment import OperatorError
from infra.operate.forgetting import Forgetting
from metering.limits.gate import Gate
from metering.limits.keys import CallerKeys, PlanKeys
from metering.limits.usage_plans import UsagePlans
from metering.model.limits import Level
from metering.model.periods import Hour
from metering.stores.counters import Counters
from metering.stores.gate_list import Closed, GateList
from metering.stores.holders import Customer, Holder, Holders, Holding
from metering.stores.ledger import Ledger
from metering.stores.limits import Home, LimitItems
from metering.stores.mistakes import Mistakes
from tests.doubles.dying import Dying, KilledError, Life
from tests.integration.world import HOUR, World

VALUE = "09f355a1ddaf4861ab67b7b55fbf6f9e"
TABLES = ("ledger", "counters", "access")


def forgetting(world: World, life: Life | None = None) -> Forgetting:
    """Return the verb of a process that lives, or has another life."""
    client: Any = Dying(world.ledger.client, life)
    return Forgetting(
        Ledger(client, "ledger"),
        Counters(client, "counters"),
        LimitItems(client, "ledger"),
        AccessNotes(client, "ledger"),
        Mistakes(client, "ledger"),
        GateList(client, "access"),
    )


def forget(world: World, given: str = VALUE, life: Life | None = None) -> list[str]:
    """Forget a key, and return what was said."""
    return forgetting(world, life).forget(given, now=world.now)


def everything() -> str:
    """Return all that is in the tables."""
    client = boto3.client("dynamodb")
    return str([client.scan(TableName=table)["Items"] for table in TABLES])


def stand_everywhere(world: World, usage_plans: Any) -> str:
    """Let acme hold a value beside a key, hand it over to globex and suspend both; return acme's key."""
    plan = usage_plans.create_usage_plan(name="Standard")["id"]
    key: str = usage_plans.create_api_key(name="acme", enabled=True)["id"]
    usage_plans.create_usage_plan_key(usagePlanId=plan, keyId=key, keyType="API_KEY")
    world.customer("acme", key, VALUE)
    holders, items = world.ledger.holders, LimitItems(world.ledger.client, "ledger")
    asked = GateList(world.ledger.client, "access")
    keys = PlanKeys(UsagePlans(usage_plans), "Metering", CallerKeys(asked))
    gate = Gate(items, holders, keys, world.clock, asked)
    notes, customers = AccessNotes(world.ledger.client, "ledger"), Customers(world.ledger, world.counters)
    access = Access(UsagePlans(usage_plans), gate, notes, world.ledger, customers, "Metering", lambda: "me")
    access.suspend(Customer("acme", "Acme"), now=world.now)
    held = holders.of_keys([VALUE])[VALUE]
    world.customer("globex")
    holders.hand_over(held.with_holder(Holder(Hour.containing(world.now), "globex")))
    items.save_home(VALUE, items.homes([VALUE]).get(VALUE, Home()))
    closed = asked.closed_of("acme")
    asked.put_closed("globex", Closed(Level.STOPPED, 0, homes={VALUE: ()}))
    asked.close_caller(VALUE, Level.STOPPED, since=0, until=0, why="operator")
    assert closed
    return key


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("write", range(1, 6))
def test_a_value_leaves_every_place_at_which_it_stands_wherever_the_command_dies(
    world: World, usage_plans: Any, write: int, *, accepted: bool
) -> None:
    """I8: the same again makes it good; a third time changes nothing."""
    key = stand_everywhere(world, usage_plans)
    with pytest.raises(KilledError):
        forget(world, life=Life(write, accepted=accepted))
    forget(world)
    assert VALUE not in everything()
    assert world.ledger.holders.held_by("acme", Hour.containing(world.now)) == [key]
    assert world.ledger.holders.keys_of_each(["acme", "globex"]) == {"acme": {key}, "globex": set()}
    before = everything()
    assert forget(world) == []
    assert everything() == before


def test_it_takes_as_many_writes_as_die_above(world: World, usage_plans: Any) -> None:
    """Of the customers' items two, of who holds it one, and of the key's own two."""
    stand_everywhere(world, usage_plans)
    life = Life()
    assert forget(world, "09f3...", life) == ["key 09f3... is forgotten"]
    assert life.writes == 5


def test_the_other_keys_and_what_they_are_billed_stay(world: World) -> None:
    """The customer with one key more, and less, is as it was; also where an older version wrote no list of its keys."""
    world.customer("acme", "key1")
    before = everything()
    world.customer("acme", VALUE)
    assert forget(world) == ["key 09f3... is forgotten"]
    assert everything() == before
    place = {"pk": {"S": "customer#acme"}, "sk": {"S": "keys"}}
    world.customer("acme", VALUE)
    world.ledger.client.delete_item(TableName="ledger", Key=place)
    assert forget(world) == ["key 09f3... is forgotten"]
    assert world.ledger.holders.keys_of("acme") == {"key1"}


def test_an_exclusion_is_taken_back(world: World) -> None:
    """Nobody has used the key yet."""
    customers = Customers(world.ledger, world.counters)
    before = everything()
    customers.exclude("key1", reason="health check", since=None, now=world.now)
    assert forget(world, "key1") == ["key key1 is forgotten"]
    assert everything() == before


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("keys", [("key1",), ("key1", "key2")])
def test_what_was_used_keeps_its_key(world: World, keys: tuple[str, ...], *, closed: bool) -> None:
    """I5: a row of one key and of several, and an hour whose row is not written yet."""
    world.customer("acme", *keys)
    world.record(*[world.line(key=key) for key in keys])
    if closed:
        world.after_grace()
        world.run()
    before = everything()
    with pytest.raises(OperatorError) as caught:
        forget(world, "key1")
    assert str(caught.value) == (
        "the key key1 cannot be forgotten: it was used in 2026-11-22T05, and what was counted keeps its key. "
        "'metering keys exclude' with --from, or 'customers add' of another customer, changes who is billed from then "
        "on"
    )
    assert everything() == before


def test_a_key_that_is_closed_or_being_replaced_is_not_forgotten(world: World, usage_plans: Any) -> None:
    """Where it belongs would be forgotten with it."""
    key = stand_everywhere(world, usage_plans)
    with pytest.raises(OperatorError, match="it is closed, and would go back into plan0001: open its customer's keys"):
        forget(world, key)
    world.customer("initech", "old")
    notes = AccessNotes(world.ledger.client, "ledger")
    notes.write(Rotation("initech", "old", ("plan0001",)))
    with pytest.raises(OperatorError, match="it is being replaced: 'metering customers rotate-key initech --finish'"):
        forget(world, "old")
    item: Any = {"pk": {"S": "customer#initech"}, "sk": {"S": "suspended#former"}, "plans": {"L": [{"S": "plan0001"}]}}
    world.customer("initech", "former")
    world.ledger.client.put_item(TableName="ledger", Item={**item, "version": {"N": "1"}})
    with pytest.raises(OperatorError, match="initech is suspended: 'metering customers resume initech' opens it"):
        forget(world, "former")


def test_a_key_that_somebody_gives_away_meanwhile_is_not_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is half done: who has it now keeps it, and their pointer to it."""
    world.customer("acme", VALUE)
    read = Holders.of_keys

    def and_then_it_is_given_away(holders: Holders, names: Any, *, consistent: bool = True) -> dict[str, Holding]:
        holdings = read(holders, names, consistent=consistent)
        monkeypatch.undo()
        world.customer("globex", VALUE, since=HOUR)
        return holdings

    monkeypatch.setattr(Holders, "of_keys", and_then_it_is_given_away)
    with pytest.raises(OperatorError, match=r"the key 09f3\.\.\. was changed by somebody else just now: try again"):
        forget(world)
    assert world.ledger.holders.held_by("globex", HOUR) == [VALUE]
    assert world.ledger.holders.keys_of("acme") == {VALUE}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("09f...", "say at least 4 characters of how the value begins, got '09f...'"),
        ("09f3...", "2 stored values of keys begin with '09f3': give more of it"),
        ("abcd\u2026", "0 stored values of keys begin with 'abcd': give more of it"),
        (f" {VALUE}", "there can be no key ' 09f...'"),
    ],
)
def test_which_key_is_meant_must_be_clear(world: World, given: str, sentence: str) -> None:
    """A value need not be written once more, and is not printed."""
    world.customer("acme", VALUE, VALUE[:-1], "09f3short")
    with pytest.raises(OperatorError) as caught:
        forget(world, given)
    assert str(caught.value) == sentence
