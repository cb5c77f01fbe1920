"""Distinct values of hours that are not closed yet: what is shown of them, and how little is read for it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from metering.model.metrics import Count, Unique
from metering.model.periods import Hour, hours
from metering.portal.reading import UsageReader
from metering.stores import aws as clients
from metering.stores import claims
from metering.stores.claims import SHARDS
from metering.stores.marks import Mark
from tests.integration.portal import Portal, forget, opened
from tests.integration.world import HOUR, World, moment

USERS = Unique(name="users", of="authorizer.user", opaque_id=True)
METRICS = (Count(name="requests"), USERS)
BEFORE, AFTER = (Hour(HOUR.number + n) for n in (-1, 1))
KEYS = ("key1", "key2", "key3")
NAMES = ("acme", "globex")
FIRST = Hour.parse("2026-11-30T21")
END = Hour.parse("2026-12-01T03")


@pytest.fixture
def portal(world: World, template: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Portal]:
    """The API of a deployment whose customer acme holds two keys."""
    world.bill(*METRICS)
    world.customer("acme", "key1", "key2")
    with opened(world, template, monkeypatch, tmp_path, metrics=METRICS) as made:
        yield made


def use(world: World, *users: str, key: str = "key1", hour: Hour = HOUR) -> None:
    """Let users make a request each with a key in an hour."""
    world.record(*(world.line(key=key, time=moment(hour), **{"authorizer.user": user}) for user in users))
    world.now += timedelta(milliseconds=1)


@dataclass
class Reader:
    """Asks for users by hour, and notes of how many shards claims are read."""

    portal: Portal
    shards: Counter[str] = field(default_factory=Counter)
    """Queries of claims since the process began, by key."""

    def begin(self) -> None:
        """Begin another process."""
        forget()
        self.shards.clear()
        client: Any = clients.dynamodb()
        client.before.append(self._note)

    def _note(self, name: str, asked: dict[str, Any]) -> None:
        pk = asked.get("ExpressionAttributeValues", {}).get(":pk", {"S": ""})["S"]
        if name == "Query" and pk.startswith("unique#"):
            self.shards[pk.split("#")[3]] += 1

    def users(self, first: Hour, end: Hour = AFTER) -> dict[Hour, int]:
        """Return how many users are shown."""
        lines = self.portal.usage(by="hour", metric="users", from_=str(first), to=str(end))
        return {Hour.parse(line[0]): line[3] for line in lines}


@pytest.fixture
def reader(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A process that has just begun, where claims have as many shards as they really have."""
    monkeypatch.setattr(claims, "SHARDS", SHARDS)
    made = Reader(portal)
    made.begin()
    return made


def test_an_hour_without_new_values_reads_no_claims(reader: Reader) -> None:
    """I10: its counters say so, whatever was claimed in the month before."""
    world = reader.portal.world
    use(world, "ann", "bob", hour=BEFORE)
    use(world, "cid", key="key2", hour=BEFORE)
    use(world, "ann", "bob")
    assert reader.users(HOUR) == {}
    assert reader.shards == {}
    assert reader.users(BEFORE) == {BEFORE: 3}
    assert reader.shards == {"key1": SHARDS, "key2": SHARDS}


def test_of_a_key_that_brought_nothing_new_only_what_could_be_the_same_is_read(reader: Reader) -> None:
    """I10: a query for each new value of the other key, and no more than it has shards; a rotated key is such a one."""
    world = reader.portal.world
    use(world, *(f"user{number}" for number in range(40)), key="key2", hour=BEFORE)
    use(world, "user1", "somebody else")
    assert reader.users(HOUR) == {HOUR: 1}
    assert reader.shards["key1"] == SHARDS
    assert 1 <= reader.shards["key2"] <= 2
    use(world, *(f"new{number}" for number in range(120)))
    reader.begin()
    assert reader.users(HOUR) == {HOUR: 121}
    assert reader.shards == {"key1": SHARDS, "key2": SHARDS}


def test_a_value_counts_for_the_key_that_was_first(reader: Reader) -> None:
    """I2: also where the first claim is of a later hour, because the earlier hour's request came late."""
    world = reader.portal.world
    use(world, "ann", key="key2")
    use(world, "ann", "bob", hour=BEFORE)
    for first, end, wanted in (
        (BEFORE, AFTER, {BEFORE: 1, HOUR: 1}),
        (BEFORE, HOUR, {BEFORE: 1}),
        (HOUR, AFTER, {HOUR: 1}),
    ):
        reader.begin()
        assert reader.users(first, end) == wanted
    world.after_grace()
    world.close()
    assert world.month_in_ledger("customer#acme", "users") == {BEFORE: 1, HOUR: 1}


def test_an_hour_is_looked_at_once_in_a_few_seconds(reader: Reader) -> None:
    """I10: whichever hours are asked for in turn, each is kept by itself."""
    use(reader.portal.world, "ann", hour=BEFORE)
    use(reader.portal.world, "bob", key="key2")
    for _ in range(3):
        assert reader.users(HOUR) == {HOUR: 1}
        assert reader.users(BEFORE, HOUR) == {BEFORE: 1}
        assert reader.users(BEFORE) == {BEFORE: 1, HOUR: 1}
    assert reader.shards == {"key1": SHARDS + 1, "key2": SHARDS + 1}


@pytest.mark.parametrize("in_retrospect", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_an_hour_that_is_open_or_late_shows_what_the_ledger_will_say(
    world: World,
    seed: int,
    in_retrospect: bool,  # noqa: FBT001 - a literal
) -> None:
    """I2: whichever keys bring a value, in which hours and order, whatever changes hands, on both sides of a month.

    What changes hands in retrospect does so before anything is closed: what a row says of an hour in which its customer
    has no key any more stands until it is closed again.
    """
    random = Random(f"{seed} {in_retrospect}")
    world.metrics = METRICS
    world.ledger.progress.advance_cursor(FIRST)
    world.now = FIRST.start + timedelta(minutes=30)
    holders = {key: (Hour(0), random.choice(NAMES)) for key in KEYS}
    for key, (_, name) in holders.items():
        world.customer(name, key)
    for _ in range(24):
        present = Hour.containing(world.now)
        lines = [
            world.line(
                key=random.choice(KEYS),
                time=moment(Hour(random.randint(FIRST.number, present.number))),
                **{"authorizer.user": f"user{random.randint(1, 12)}"},
            )
            for _ in range(random.randint(1, 4))
        ]
        world.record(*lines)
        world.now += timedelta(milliseconds=random.randint(0, 2))  # claims of one moment, too
        if random.random() < 0.2 and present.next() < END:
            world.now += timedelta(hours=1)
        if random.random() < 0.1 and not in_retrospect:
            world.close()
        if random.random() < 0.2:
            key, since = random.choice(KEYS), Hour(present.number - 2) if in_retrospect else present.next()
            before, name = holders[key]
            if before < since:
                holders[key] = (since, NAMES[1 - NAMES.index(name)])
                world.customer(holders[key][1], key, since=since)
    shown = {name: _shown(world, name) for name in NAMES}
    world.now = END.end + timedelta(minutes=10)
    for _ in range(6):
        world.close()
    assert world.counters.marks.of_kind(Mark.LATE) == []
    billed = {name: _in_ledger(world, name) for name in NAMES}
    assert sum(map(len, billed.values())) > 1
    assert shown == billed


def _shown(world: World, name: str) -> dict[Hour, int]:
    """Return how many users are found of a customer, by hour: where hours are asked for one by one, and all at once."""
    one_by_one: dict[Hour, int] = {}
    for hour in hours(FIRST, END):
        one_by_one |= _read(world, name, hour, hour.next())
    assert one_by_one == _read(world, name, FIRST, END)
    return one_by_one


def _read(world: World, name: str, first: Hour, end: Hour) -> dict[Hour, int]:
    reader = UsageReader.of(world.ledger.client, world.counters.table, world.ledger.table)
    cells = reader.read(reader.known(name), first, end, now=world.now).cells
    found = {hour: of_hour["users"].quantity for hour, of_hour in cells.items() if "users" in of_hour}
    return {hour: number for hour, number in found.items() if number}


def _in_ledger(world: World, name: str) -> dict[Hour, int]:
    subject = f"customer#{name}"
    return world.month_in_ledger(subject, "users", FIRST) | world.month_in_ledger(subject, "users", END)
