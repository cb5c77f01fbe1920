"""A customer that was added by mistake is removed, as far as nothing was used."""

from datetime import datetime

import boto3
import pytest

from infra.operate.customers import Customers, Entry
from infra.operate.deployment import OperatorError
from infra.operate.forgetting import Forgetting
from infra.operate.removing import Removing
from metering.model.limits import Budget, Level, OfCustomer
from metering.model.usage_row import Change
from metering.stores.gate_list import Closed, GateList
from metering.stores.holders import Holders
from metering.stores.limits import Held, LimitItems
from metering.stores.mistakes import Mistakes
from tests.doubles.dying import KilledError, Life
from tests.integration.operator_commands import Operator
from tests.integration.test_forgetting import forgetting
from tests.integration.world import HOUR, World

HASHED = "auth0|5f7c8ec7c33c6c004bbafe82"
TABLES = ("ledger", "counters", "access")


@pytest.fixture
def operator(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    """Whoever gives the commands."""
    return Operator(world, monkeypatch, capsys)


def removing(world: World, life: Life | None = None) -> Removing:
    """Return the verb of a process that lives, or has another life."""
    return Removing(forgetting(world, life))


def remove(world: World, name: str = HASHED, life: Life | None = None) -> list[str]:
    """Remove a customer, and return what was said."""
    return removing(world, life).remove(name, now=world.now)


def everything() -> str:
    """Return all that is in the tables."""
    client = boto3.client("dynamodb")
    return str([client.scan(TableName=table)["Items"] for table in TABLES])


def add_one_by_mistake(world: World) -> None:
    """Give it all that a customer can have who has used nothing."""
    world.customer(HASHED, "key1", "key2", stripe_customer="cus_1")
    world.ledger.holders.name_key(HASHED, "key1", "CI")
    limits = LimitItems(world.ledger.client, "ledger")
    limits.set(HASHED, OfCustomer("requests", "day", 5, reason="a trial", who="me"))
    limits.save_budget(HASHED, Budget(stop=5))
    GateList(world.ledger.client, "access").put_closed(HASHED, Closed(Level.OPEN, 0))


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("write", range(1, 9))
def test_a_customer_leaves_every_place_at_which_it_stands_wherever_the_command_dies(
    world: World, write: int, *, accepted: bool
) -> None:
    """The same again makes it good; a third time changes nothing."""
    world.customer("acme", "key3")
    before = everything()
    add_one_by_mistake(world)
    with pytest.raises(KilledError):
        remove(world, life=Life(write, accepted=accepted))
    remove(world)
    assert everything() == before
    assert remove(world) == []


def test_it_takes_as_many_writes_as_die_above(world: World) -> None:
    """For each of two keys two, a limit, a budget, whether it is closed, and the customer."""
    add_one_by_mistake(world)
    life = Life()
    assert remove(world, life=life) == [
        "key key1 is forgotten",
        "key key2 is forgotten",
        f"customer {HASHED} is removed",
    ]
    assert life.writes == 8


def test_its_id_its_keys_and_its_stripe_customer_are_free_again(world: World) -> None:
    """For whom they were meant."""
    add_one_by_mistake(world)
    remove(world)
    Customers(world.ledger, world.counters).add(Entry("acme", "Acme", "cus_1", ("key1",)), now=world.now)
    assert world.ledger.holders.owner("cus_1") == "acme"
    assert world.ledger.holders.names_of("acme") == {"key1": ""}


@pytest.mark.parametrize("closed", [True, False])
def test_who_used_anything_stays(world: World, *, closed: bool) -> None:
    """I5: also in an hour whose row is not written yet."""
    world.customer("acme", "key1")
    world.record(world.line(key="key1"))
    if closed:
        world.after_grace()
        world.run()
    before = everything()
    with pytest.raises(OperatorError) as caught:
        remove(world, "acme")
    used = "it was used or billed, and what is billed keeps its customer. 'metering customers suspend acme' ends its "
    counted = "of its key key1, it was used in 2026-11-22T05, and what was counted keeps its key. "
    assert str(caught.value).startswith(f"the customer acme cannot be removed: {used if closed else counted}")
    assert everything() == before


def test_who_is_suspended_or_shares_a_keys_history_stays(world: World) -> None:
    """Nothing of it is changed."""
    world.customer("acme", "key1")
    limits = LimitItems(world.ledger.client, "ledger")
    held = limits.hold("acme", "operator", Held(1))
    with pytest.raises(OperatorError, match="it is suspended: 'metering customers resume acme' first"):
        remove(world, "acme")
    limits.release("acme", "operator", held)
    world.customer("globex", "key1", since=HOUR)
    before = everything()
    for name in ("acme", "globex"):
        with pytest.raises(OperatorError, match="its key key1 was somebody else's, too"):
            remove(world, name)
    assert everything() == before


def test_who_is_changed_meanwhile_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another operator's word is not lost."""
    world.customer("acme")
    read = Mistakes.beside_keys

    def and_then_it_is_renamed(mistakes: Mistakes, name: str) -> list[str]:
        [acme] = Holders.customers(world.ledger.holders, ["acme"]).values()
        if acme.name == "Acme":
            monkeypatch.undo()
            world.ledger.holders.save_customer(type(acme)("acme", "Acme Inc."), before=acme)
        return read(mistakes, name)

    monkeypatch.setattr(Mistakes, "beside_keys", and_then_it_is_renamed)
    with pytest.raises(OperatorError, match="the customer acme was changed by somebody else just now: try again"):
        remove(world, "acme")
    assert world.ledger.holders.customers(["acme"])["acme"].name == "Acme Inc."


def test_what_is_written_of_a_customer_while_its_keys_are_forgotten_is_not_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1, I5: it stays with its limits, though its keys are gone, and the adjustment is what is billed."""
    add_one_by_mistake(world)
    made = Change("one", "requests", 5, "a promise", "an operator", 0)
    forget = Forgetting.forget

    def and_then_it_is_adjusted(forgetting: Forgetting, given: str, *, now: datetime) -> list[str]:
        if given == "key2":
            world.changes.add(HASHED, HOUR, made)
        return forget(forgetting, given, now=now)

    monkeypatch.setattr(Forgetting, "forget", and_then_it_is_adjusted)
    with pytest.raises(OperatorError, match="cannot be removed: it was used or billed, and what is billed keeps its"):
        remove(world)
    assert world.changes.of(HASHED, HOUR) == [made]
    assert world.ledger.holders.owner("cus_1") == HASHED
    assert LimitItems(world.ledger.client, "ledger").of(HASHED).own


def test_somebody_who_is_not_there_is_removed_already(operator: Operator) -> None:
    """By the command, which says so: it may be a slip."""
    operator.world.customer("acme")
    assert operator.run("customers", "remove", "acme").out == "customer acme is removed\n"
    again = operator.run("customers", "remove", "acme")
    assert (again.code, again.out, again.err) == (0, "nothing to change\n", "note: there is no customer 'acme'\n")
    assert operator.run("customers", "remove", " ", "--json").document == {"changed": [], "hours_to_close_again": 0}
