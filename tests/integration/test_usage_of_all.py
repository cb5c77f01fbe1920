"""What everybody used: by rows as the counters say it, by few reads, and as it comes."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from infra.operate.usage import MonthOnce, Report
from infra.operate.usage_lines import OPEN, Line
from metering.model.amounts import Amounts
from metering.model.metrics import Count, Unique
from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.usage_row import Change
from metering.portal.reading import By
from metering.stores.counters import Counted, Counters
from tests.integration.world import HOUR, World, moment

PARTITIONS = 2
"""As these tests have them."""

OPEN_HOUR = Hour(HOUR.number + 6)


@pytest.fixture
def many(world: World) -> World:
    """Ten customers with a key each, and a key of nobody, all used in six closed hours and in the one that runs."""
    world.bill(Count(name="requests"), Unique(name="users", of="authorizer.user", opaque_id=True))
    for number in range(10):
        world.customer(f"c{number}", f"key{number}")
    for number in range(7):
        hour = Hour(HOUR.number + number)
        world.now = hour.start + timedelta(minutes=40)
        world.record(*(seen(world, f"key{key}", hour) for key in range(11)))
        close_all(world)
    return world


def seen(world: World, key: str, hour: Hour, user: str = "") -> str:
    """Return the line of a request."""
    return world.line(key=key, time=moment(hour), **{"authorizer.user": user or f"{key} {hour}"})


def close_all(world: World) -> None:
    """Close until nothing asks for another time."""
    for _ in range(6):
        world.close()


def report(world: World, only: str | None = None, *, split: bool = False) -> Report:
    """Return what reads."""
    return Report(world.counters, MonthOnce(world.claims, world.ledger.holders), world.ledger, only, split)


def read(world: World, first: Hour = HOUR, *, split: bool = False, by: By = By.HOUR) -> list[Line]:
    """Return what 'metering usage' shows of everyone."""
    made = report(world, split=split)
    return made.lines(first, OPEN_HOUR.next(), by=by, now=world.now, progress=lambda each, _: each)


@contextmanager
def asked(world: World) -> Iterator[Counter[str]]:
    """Count the reads of the tables by their operation."""
    counted: Counter[str] = Counter()
    client: Any = world.counters.client
    client.before.append(lambda operation, _: counted.update([operation]))
    yield counted
    client.before.clear()


def test_everyone_is_read_by_a_query_each_and_open_hours_whole(many: World) -> None:
    """I10: of closed hours' counters only those are read of whoever was named without a key."""
    with asked(many) as reads:
        lines = read(many)
    assert sum(line.quantity for line in lines if line.metric == "requests") == 7 * 11
    directories, late, open_hours, named = 2, PARTITIONS, PARTITIONS, 6 * PARTITIONS
    distinct = 10
    assert reads["Query"] == directories + late + open_hours + named + 11 + distinct
    assert reads["BatchGetItem"] <= 3 + distinct, "holders of all keys, and of each customer with distinct values"
    assert reads.keys() <= {"Query", "BatchGetItem", "GetItem"}


def test_each_step_of_the_reading_is_told_to_whoever_shows_how_far_it_is(many: World) -> None:
    """The open hours, those in which somebody may have been named without a key, and who there is."""
    told: list[tuple[int, int]] = []

    def shown(things: Iterable[Any], total: int) -> Iterator[Any]:
        place = len(told)
        told.append((total, 0))
        for thing in things:
            told[place] = total, told[place][1] + 1
            yield thing

    report(many).lines(HOUR, OPEN_HOUR.next(), by=By.HOUR, now=many.now, progress=shown)
    assert told == [(1, 1), (6, 6), (11, 11)]


def test_more_hours_are_no_more_queries_of_rows(many: World) -> None:
    """I10: where the counters are gone there are rows of customers and keys; six years of one hour are read at once."""
    many.now += timedelta(days=90)
    many.ledger.progress.advance_cursor(Hour.containing(many.now))
    with asked(many) as reads:
        assert len(read(many, Hour.parse("2020-01-01T00"))) == 2 * 6 * 11
    assert reads["Query"] == 2 + PARTITIONS + 10 + 11
    with asked(many) as reads:
        made = report(many, "c1")
        of_one = made.lines(
            Hour.parse("2020-01-01T00"), HOUR.next(), by=By.HOUR, now=many.now, progress=lambda each, _: each
        )
    assert [(line.period, line.metric, line.quantity) for line in of_one] == [
        (str(HOUR), "requests", 1),
        (str(HOUR), "users", 1),
    ]
    assert reads.total() < 10


def test_what_rows_say_of_everyone_is_what_the_counters_say(many: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I5, I9: several keys, handed over, named without a key or before they are customers, adjusted, late."""
    many.customer("c0", "key1", since=Hour(HOUR.number + 3))
    many.customer("c1", "extra")
    for number in range(4):
        hour = Hour(HOUR.number + number)
        many.record(seen(many, "extra", hour, "ann"), seen(many, "key1", hour, "ann"))
        for name in ("c2", "ghost"):
            many.counters.count(hour, f"@{name}", Amounts({"requests": number}), f"{number:012d}".encode())
            many.counters.marks.mark_late(hour, customer(name), f"{name} {number}")
    many.changes.add("c3", HOUR, Change("one", "requests", 4, "a mistake", "operator", 0))
    close_all(many)
    many.record(seen(many, "key5", Hour(HOUR.number + 2), "late"), seen(many, "new", OPEN_HOUR))
    by_rows = read(many)
    late = str(Hour(HOUR.number + 2))
    assert {line.state for line in by_rows if (line.customer, line.period) == ("c5", late)} == {OPEN}
    assert {line.quantity for line in by_rows if line.customer == "ghost"} == {1, 2, 3}
    assert [line.quantity for line in by_rows if line.kind == "adjusted"] == [4]
    months = read(many, by=By.MONTH)
    monkeypatch.setattr("infra.operate.usage_of_all.Everyone._marked", lambda _everyone, _span: None)
    assert by_rows == read(many)
    assert months == read(many, by=By.MONTH)


def test_usage_of_a_key_that_got_a_customer_is_shown_once_before_its_hours_are_closed_again(many: World) -> None:
    """I5, I9: what was held of a key of nobody, and what a former holder's row still has, is the new holder's."""
    many.customer("c0", "key10")
    many.customer("c2", "key1", since=Hour(HOUR.number + 3))
    waiting = quantities(read(many))
    assert sum(number for (_, _, _, metric), number in waiting.items() if metric == "requests") == 7 * 11
    of_one = report(many, "c1").lines(HOUR, OPEN_HOUR, by=By.HOUR, now=many.now, progress=lambda each, _: each)
    assert sum(line.quantity for line in of_one if line.metric == "requests") == 3
    close_all(many)
    assert quantities(read(many)) == waiting


def quantities(lines: list[Line]) -> Counter[tuple[str, str, str, str]]:
    """Return what lines say, but for how it stands."""
    return Counter(
        {(line.period, line.customer, line.key, line.metric): line.quantity for line in lines if line.quantity}
    )


def test_a_customers_lines_are_there_before_the_next_ones_are_read(
    many: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of nobody come first, then customers in order; by a dimension, hours do."""
    monkeypatch.setattr("infra.operate.usage_of_all._MOST_AT_ONCE", 1)

    def parts(*, split: bool) -> Iterator[list[Line]]:
        made = report(many, split=split)
        span = made.span(HOUR, OPEN_HOUR.next(), many.now)
        scope = made.everyone.scope(span)
        assert (scope.hours, len(scope.customers), scope.keys) == (7, 10, ["key10"])
        return made.everyone.parts(scope, span, By.HOUR.period, lambda each, _: each)

    coming = parts(split=False)
    assert {(line.customer, line.key) for line in next(coming)} == {("", "key10")}
    with asked(many) as reads:
        assert {(line.customer, line.key) for line in next(coming)} == {("c0", "key0")}
    assert reads["Query"] <= 2
    assert [{line.customer for line in part} for part in coming] == [{f"c{number}"} for number in range(1, 10)]
    assert [{line.period for line in part} for part in parts(split=True)] == [
        {str(Hour(HOUR.number + number))} for number in range(7)
    ]


def test_who_used_more_keys_than_rows_tell_apart_costs_reads_of_its_own_counters_alone(
    many: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: not the whole hour, in which all others' counters are; and each key is told."""
    monkeypatch.setattr("metering.stores.rows.MOST_KEYS", 1)
    many.customer("c0", "more", "most")
    many.record(*(seen(many, key, HOUR, "ann") for key in ("more", "more", "most")))
    close_all(many)
    whole: list[Hour] = []
    reads = Counters.read

    def read_whole(counters: Counters, hour: Hour, keys: Collection[str] | None = None) -> Counted:
        whole.append(hour)
        return reads(counters, hour, keys)

    monkeypatch.setattr(Counters, "read", read_whole)
    requests = {line.key: line.quantity for line in read(many) if (line.period, line.metric) == (str(HOUR), "requests")}
    assert requests == {"key0": 1, "more": 2, "most": 1} | {f"key{number}": 1 for number in range(1, 11)}
    assert whole == [OPEN_HOUR]


def test_a_split_report_of_everyone_reaches_beyond_the_counters(many: World) -> None:
    """I5: what the rows hold of hours whose counters are gone is added to what is counted of the rest of a month."""
    many.now = OPEN_HOUR.end + timedelta(days=62, minutes=-90)
    by_month = [line for line in read(many, split=True, by=By.MONTH) if line.customer == "c1"]
    assert sum(line.quantity for line in by_month if line.metric == "requests") == 7
    assert {line.period for line in by_month} == {"2026-11"}


def test_what_a_key_was_held_for_too_long_ago_to_be_anybodys_is_told_when_it_gets_a_customer(many: World) -> None:
    """I9: an hour of more than 60 days ago is closed for nobody any more, so that its row stays the key's."""
    for days in (61, 70):
        many.now = OPEN_HOUR.end + timedelta(days=days)
        many.ledger.progress.advance_cursor(Hour.containing(many.now))
        many.customer("c0", "key10")
        held = [line for line in read(many) if line.key == "key10" and line.metric == "requests"]
        assert [(line.customer, line.quantity, line.state) for line in held] == [("", 1, "HELD")] * 6, days
