"""Ids as identity providers give them, all the way: counted, closed, posted, shown, and found again."""

import json

import pytest

from infra.operate.access_notes import AccessNotes, Rotation
from infra.operate.usage import Report
from metering.model.amounts import Amounts
from metering.model.metrics import USAGE_LINES, Count, Sum, Unique
from metering.model.periods import Hour
from metering.model.subjects import customer, key, short_id
from metering.model.usage_row import UsageRow, recounted
from metering.portal.reading import By, UsageReader
from metering.stores.attribution import Uniques
from tests.integration.world import HOUR, World, moment

LONGEST = "\U0001f600" * 128

IDS = [
    "auth0|5f7c8ec7c33c6c004bbafe82",
    "Ab3dEfGh1jKlMn0pQrStUvWxYz123456@clients",
    "us-east-1:00000000-0000-4000-8000-000000000000",
    "acme.com",
    "a b#1%20",
    "@acme",
    "~tilde",
    "customer#acme",
    "other",
    "c" * 128,
    LONGEST,
]


@pytest.fixture
def world(world: World) -> World:
    """A world that counts requests and their users."""
    world.bill(Count(name="requests"), Unique(name="users", of="authorizer.user"))
    return world


def line(world: World, name: str, user: str, hour: Hour = HOUR) -> str:
    """Return a line of a key and a user."""
    return world.line(key=name, time=moment(hour), **{"authorizer.user": user})


@pytest.mark.parametrize("name", IDS)
def test_usage_of_any_id_is_billed_and_shown(world: World, name: str) -> None:
    """I1, I3: its own key and its own name may be spelled the same."""
    world.customer(name, name, f"{name[:100]}?2", stripe_customer="cus_1")
    world.customer("neighbour", "n", stripe_customer="cus_2")
    world.record(line(world, name, "u1"), line(world, f"{name[:100]}?2", "u1"), line(world, "n", "u1"))
    assert {amounts["requests"] for amounts in world.counted().values()} == {1}
    world.after_grace()
    world.run()
    assert world.in_ledger(str(customer(name))) == {"requests": (2, "POSTED"), "users": (1, "POSTED")}
    assert world.at_stripe("cus_1") == 2
    assert world.at_stripe("cus_2") == 1
    assert list(world.ledger.holders.customer_ids()) == sorted([name, "neighbour"])
    # A late record closes the hour again.
    world.record(line(world, name, "u2"))
    world.run()
    assert world.in_ledger(str(customer(name))) == {"requests": (3, "POSTED"), "users": (2, "POSTED")}
    reader = UsageReader.of(world.ledger.client, world.counters.table, world.ledger.table)
    cells = reader.read(reader.known(name), HOUR, HOUR.next(), now=world.now, by_key=True).cells[HOUR]
    assert cells["requests"].keys == {name: 2, f"{name[:100]}?2": 1}
    report = Report(world.counters, Uniques(world.claims, world.ledger.holders), world.ledger, name, split=False)
    shown = report.lines(HOUR, HOUR.next(), by=By.HOUR, now=world.now, progress=lambda hours, _: hours)
    assert {(one.customer, one.key, one.quantity) for one in shown if one.metric == "requests"} == {
        (name, name, 2),
        (name, f"{name[:100]}?2", 1),
    }


@pytest.mark.parametrize("name", IDS)
def test_usage_that_names_a_customer_is_not_that_of_a_key_of_the_same_id(world: World, name: str) -> None:
    """I6: the key belongs to somebody else."""
    world.bill(Sum(name="tokens", of=USAGE_LINES))
    world.customer(name, stripe_customer="cus_1")
    world.customer("neighbour", name, stripe_customer="cus_2")
    for whose, tokens in (("customer", 5), ("key", 7)):
        usage = {"id": whose, "time": HOUR.start.isoformat(), whose: name, "tokens": tokens}
        world.report(json.dumps({"usage": usage}, ensure_ascii=False))
    world.after_grace()
    world.run()
    assert (world.at_stripe("cus_1", "tokens"), world.at_stripe("cus_2", "tokens")) == (5, 7)


@pytest.mark.parametrize("name", IDS)
def test_a_key_of_any_id_changes_hands_and_takes_its_values_along(world: World, name: str) -> None:
    """I5: a key that nobody holds is billed to the first customer that gets it."""
    world.record(line(world, name, "u1"), line(world, name, "u2"))
    world.after_grace()
    world.run()
    assert world.in_ledger(str(key(name))) == {"requests": (2, "HELD"), "users": (2, "HELD")}
    assert world.ledger.holders.key_ids() == [name]
    world.customer("acme", name, stripe_customer="cus_1")
    world.run()
    assert world.in_ledger("customer#acme") == {"requests": (2, "POSTED"), "users": (2, "POSTED")}
    world.customer("globex", name, stripe_customer="cus_2", since=HOUR.next())
    assert [holder.customer for holder in world.ledger.holders.of_keys([name])[name].holders] == ["acme", "globex"]
    assert world.ledger.holders.keys_of("acme") == {name}


@pytest.mark.parametrize("name", IDS)
def test_what_is_noted_of_a_rotated_key_is_read_back(world: World, name: str) -> None:
    """For customers whose ids begin alike."""
    notes = AccessNotes(world.ledger.client, world.ledger.table)
    rotations = {who: notes.write(Rotation(who, LONGEST, ("plan",))) for who in (name, f"{name[:126]}#x")}
    assert list(notes.rotations(name)) == [rotations[name]]
    assert {one.customer for one in notes.rotations()} == rotations.keys()
    notes.end(rotations[name])
    assert list(notes.rotations(name)) == []


def test_an_identifier_at_stripe_leads_back_to_its_customer(world: World) -> None:
    """Plain or hashed; a hash that no customer has ever had is nobody's."""
    for name in IDS:
        world.customer(name)
        assert world.ledger.holders.id_of(short_id(name)) == name
    assert world.ledger.holders.id_of(short_id("never.saved")) == ""


def test_other_keys_are_added_to_a_key_of_that_name(world: World) -> None:
    """I5: a row tells a hundred keys apart, and what it tells adds up."""
    by_key = {"other": {"requests": 1000}} | {f"key{n}": {"requests": 1} for n in range(120)}
    row = recounted(UsageRow(customer("acme"), HOUR), Amounts({"requests": 1120}))
    world.ledger.rows.save(row, by_key)
    ((_, told),) = world.ledger.rows.by_key(customer("acme"), HOUR, HOUR.next())
    assert (len(told), told["other"]) == (100, {"requests": 1021})
