"""What one answer of the customers' API may be about, and read: known before it is read (I10)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metering.model.amounts import Amounts
from metering.model.metrics import Count, Metric, Sum, Unique
from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.usage_row import State, Total, UsageRow
from metering.portal import queries, reading, uniques
from metering.portal.bounds import Bounds
from metering.portal.reading import By
from metering.stores import aws as clients
from tests.integration.portal import Portal, forget, hour_after, opened
from tests.integration.world import HOUR, World

METRICS: tuple[Metric, ...] = (
    Count(name="requests", by="resource"),
    Sum(name="bytes", of="response_length"),
    Unique(name="users", of="authorizer.user", opaque_id=True),
)
HOURS_BY_DAY = 1057
HOURS_BY_HUNDRED_KEYS = 214
YEAR = {"from": "2025-11-22", "to": "2026-11-22"}


@pytest.fixture
def portal(world: World, template: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Portal]:
    """The API of a deployment whose customer acme holds two keys."""
    world.bill(*METRICS)
    world.customer("acme", "key1", "key2")
    with opened(world, template, monkeypatch, tmp_path, metrics=METRICS) as made:
        yield made


def give(world: World, count: int) -> None:
    """Give acme so many keys in all."""
    world.customer("acme", *(f"more{number:03d}" for number in range(count - 2)))


@pytest.mark.parametrize(
    ("query", "most"),
    [
        ({"by": "day"}, HOURS_BY_DAY),
        ({"by": "month"}, HOURS_BY_DAY),
        ({"by": "hour"}, HOURS_BY_DAY),
        ({"by": "month", "dimension": "resource"}, HOURS_BY_DAY),
        ({"by": "hour", "dimension": "resource"}, 555),
        ({"by": "hour", "dimension": "resource", "metric": "requests"}, 576),
        ({"by": "month", "dimension": "key"}, HOURS_BY_DAY),
        ({"by": "hour", "dimension": "key", "format": "csv"}, HOURS_BY_DAY),
    ],
)
def test_a_year_is_refused_before_anything_is_read(portal: Portal, query: dict[str, str], most: int) -> None:
    """With how much may be asked, and what else."""
    answer = portal.get("/v1/usage", YEAR | query)
    assert (answer.status, portal.calls) == (400, [])
    assert answer.json()["detail"] == (
        f"one answer of this kind is about {most:,} hours at most; got 8,760, from 2025-11-22T00 to 2026-11-22T00: "
        "ask for less time, for a longer period in by, for one metric, or for no dimension"
    )


def test_a_month_by_key_is_for_few_keys(portal: Portal) -> None:
    """A customer with a hundred may ask for nine days; that it has so many is all that is read of it."""
    month = {"from": "2026-11-01", "to": "2026-11-22", "dimension": "key"}
    assert portal.get("/v1/usage", month).status == 200
    give(portal.world, 100)
    portal.calls.clear()
    answer = portal.get("/v1/usage", month)
    assert answer.status == 400
    assert f"about {HOURS_BY_HUNDRED_KEYS} hours at most; got 504" in answer.json()["detail"]
    assert sorted(action for action, _, _ in portal.calls) == ["GetItem", "Query"]
    assert portal.get("/v1/usage", month | {"from": "2026-11-14"}).status == 200


def test_a_month_may_always_be_asked_for() -> None:
    """However much is declared: without a dimension, by day."""
    many = tuple(Count(name=f"calls_{number}", by="resource") for number in range(4))
    more = tuple(Sum(name=f"sum_{number}", of="response_length") for number in range(30))
    assert Bounds((*many, *more)).most_hours() == 31 * 24
    assert Bounds((*many, *more)).most_hours(dimension="key") >= 24
    assert Bounds(METRICS).most_hours(By.MONTH) == HOURS_BY_DAY


@pytest.mark.parametrize("form", ["json", "csv"])
def test_an_answer_that_lambda_would_cut_off_is_refused(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """By its lines, and by its bytes as Lambda counts them, before they are packed."""
    portal.world.record(portal.world.line())
    for module, name, most, detail in (
        (reading, "MOST_LINES", 1, "the answer would hold more than 1 lines: ask for less time"),
        (queries, "MOST_BYTES", 100, "an answer has 100 bytes at most, and this one would have"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, most)
            answer = portal.get("/v1/usage", {"format": form})
        assert answer.status == 400
        assert detail in answer.json()["detail"]


def test_a_customer_with_very_many_keys_sees_its_hours_once_they_are_closed(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who held each of them would be as many reads."""
    monkeypatch.setattr(reading, "MOST_KEYS", 1)
    world = portal.world
    world.record(world.line())
    assert portal.usage() == []
    assert [pk for _, _, pk in portal.calls if pk.startswith(("hour#", "key#"))] == []
    world.after_grace()
    world.close()
    assert ("2026-11-22", "requests", None, 1, "closed") in portal.usage()


def test_an_hour_with_very_many_counters_shows_once_it_is_closed(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that was closed and is counted again shows what the ledger holds."""
    world = portal.world
    monkeypatch.setattr(reading, "MOST_ITEMS", 9)
    for slot in range(12):
        world.counters.count(HOUR, "key1", Amounts(sums={"requests": 1}), b"b" * 11 + bytes([slot]))
    assert portal.usage() == []
    world.after_grace()
    world.close()
    world.record(world.line())
    assert ("2026-11-22", "requests", None, 12, "closed") in portal.usage()


def test_distinct_values_of_many_keys_show_once_an_hour_is_closed(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their claims are a month's; nothing that was shown is ever taken back."""
    world = portal.world
    for number in range(3):
        world.record(world.line(**{"authorizer.user": f"user{number}", "key": ("key1", "key2")[number % 2]}))
    assert ("2026-11-22", "users", None, 3, "counting") in portal.usage()
    for name, most in (("MOST_QUERIES", 31), ("MOST_VALUES", 32)):
        with monkeypatch.context() as patched:
            patched.setattr(uniques, name, most)
            patched.setattr(uniques, "SHORTEST_KEPT_S", 0)
            forget()
            assert {line[1] for line in portal.usage()} == {"requests", "bytes"}
    forget()
    world.after_grace()
    world.close()
    assert ("2026-11-22", "users", None, 3, "closed") in portal.usage()


def test_many_late_hours_are_counted_again_a_few_at_a_time(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest of them; the others show what the ledger holds until they are closed again."""
    monkeypatch.setattr(reading, "MOST_QUERIES", 0)
    monkeypatch.setattr(reading, "FEWEST_AFRESH", 3)
    world = portal.world
    late = [hour_after(HOUR, number) for number in range(-5, 0)]
    for hour in late:
        world.ledger.rows.save(UsageRow(customer("acme"), hour, totals={"requests": Total(1, 1, State.POSTED)}))
        world.counters.count(hour, "key1", Amounts(sums={"requests": 2}), b"b" * 12)
        world.counters.marks.mark_late(hour, customer("acme"), "mark")
    world.ledger.progress.advance_cursor(HOUR)
    shown = {line[0]: line[3] for line in portal.usage(by="hour", metric="requests")}
    assert shown == {str(hour): 1 + (hour >= late[3]) for hour in late}


def test_rows_of_hours_that_closed_lately_are_read_consistently(portal: Portal) -> None:
    """The cursor may just have passed them; all others cost half as much."""
    world = portal.world
    world.ledger.progress.advance_cursor(HOUR)
    asked: list[tuple[str, bool]] = []

    def note(name: str, given: dict[str, Any]) -> None:
        last = given.get("ExpressionAttributeValues", {}).get(":last", {"S": ""})["S"]
        if name == "Query" and last.startswith("usage#"):
            asked.append((last, given.get("ConsistentRead", False)))

    client: Any = clients.dynamodb()
    client.before.append(note)
    portal.usage()
    assert asked == [(f"usage#{hour_after(HOUR, -25)}", False), (f"usage#{HOUR}", True)]
    assert Hour.parse("2026-11-22T05") == HOUR
