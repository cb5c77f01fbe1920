"""What one answer of the customers' API may be about, and read: known before it is read (I10)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import show_usage
from metering.model.amounts import MOST_VALUES, Amounts
from metering.model.measuring import LONGEST_VALUE
from metering.model.metrics import OTHER, Count, Metric, Sum, Unique
from metering.model.periods import Hour
from metering.model.subjects import LONGEST_ID, customer
from metering.model.usage_row import State, Total, UsageRow
from metering.portal import lines, queries, reading, uniques
from metering.portal.bounds import MOST_UNITS, Bounds
from metering.portal.history import AddingUpError
from metering.portal.queries import LESS
from metering.portal.reading import By
from metering.stores import aws as clients
from tests.doubles.item_size import size_of
from tests.integration.portal import Portal, forget, hour_after, opened
from tests.integration.world import HOUR, World

METRICS: tuple[Metric, ...] = (
    Count(name="requests", by="resource"),
    Sum(name="bytes", of="response_length"),
    Unique(name="users", of="authorizer.user", opaque_id=True),
)
HOURS_BY_DAY = 1043
HOURS_BY_KEY = 521
HOURS_BY_HUNDRED_KEYS = 193
SURE_HOURS = 261
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
        ({"by": "month", "dimension": "key"}, HOURS_BY_KEY),
        ({"by": "hour", "dimension": "key", "format": "csv"}, HOURS_BY_KEY),
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
    """A customer with a hundred may ask for eight days; that it has so many is all that is read of it."""
    month = {"from": "2026-11-01", "to": "2026-11-22", "dimension": "key"}
    assert portal.get("/v1/usage", month).status == 200
    give(portal.world, 100)
    portal.calls.clear()
    answer = portal.get("/v1/usage", month)
    assert answer.status == 400
    assert f"about {HOURS_BY_HUNDRED_KEYS} hours at most; got 504" in answer.json()["detail"]
    assert sorted(action for action, _, _ in portal.calls) == ["GetItem", "Query"]
    assert portal.get("/v1/usage", month | {"from": "2026-11-15"}).status == 200


def test_a_month_may_always_be_asked_for() -> None:
    """However much is declared: without a dimension, by day. A day of it is always answered."""
    many = tuple(Count(name=f"calls_{number}", by="resource") for number in range(4))
    more = tuple(Sum(name=f"sum_{number}", of="response_length") for number in range(30))
    assert Bounds((*many, *more)).most_hours() == 31 * 24
    assert Bounds((*many, *more)).sure_hours() == 54
    assert Bounds((*many, *more)).most_hours(dimension="key", keys=None) == 24
    assert Bounds((*many, *more)).sure_hours(None, by_key=True) == 24
    assert Bounds(METRICS).most_hours(By.MONTH) == HOURS_BY_DAY
    assert Bounds(METRICS).sure_hours() == SURE_HOURS


def large(world: World, hours: int) -> Hour:
    """Let acme have used fifty resources of the longest names in each of the hours before the running one."""
    values = {f"/items/{number:02d}".ljust(LONGEST_VALUE, "v"): 2 for number in range(MOST_VALUES)}
    first = hour_after(HOUR, -hours)
    for number in range(hours):
        totals = {"requests": Total(100, 1, State.POSTED, split=values)}
        world.ledger.rows.save(UsageRow(customer("acme"), hour_after(first, number), totals=totals))
    world.ledger.progress.advance_cursor(HOUR)
    return first


def test_large_rows_are_answered_in_pieces_that_the_limits_tell(portal: Portal) -> None:
    """A month of them is refused, with how much is not."""
    first = large(portal.world, 660)
    answer = portal.get("/v1/usage", {"from": str(first)})
    assert (answer.status, answer.json()["detail"]) == (
        400,
        f"the items fill more than 2 pages of 1 MB; {SURE_HOURS} hours are always answered by day or by month: {LESS}",
    )
    limits = portal.get("/v1/prices").json()["limits"]
    assert limits == {"hours": SURE_HOURS, "hours_by_key": SURE_HOURS // 2}
    for query in ({}, {"by": "hour"}, {"by": "month", "dimension": "resource", "metric": "requests"}):
        whole = {"from": str(first), "to": str(hour_after(first, SURE_HOURS))}
        lines = portal.get("/v1/usage", whole | query).json()["usage"]
        assert sum(line["quantity"] for line in lines) == 100 * SURE_HOURS


def test_a_period_of_large_rows_is_added_up_in_smaller_pieces(portal: Portal) -> None:
    """The first request finds out; and whoever asks again at once knows it soon."""
    first = large(portal.world, 660)
    history = show_usage._parts().charges.history
    known = []
    while True:
        try:
            by_hour = history.of("acme", first, hour_after(HOUR, 24), portal.world.now)
        except AddingUpError as error:
            known.append(str(error).split(": ")[1].split(" hours")[0])
            continue
        break
    assert known == ["0 of its 661", "261 of its 661", "522 of its 661"]
    assert sum(of_hour["requests"] for of_hour in by_hour.values() if of_hour) == 66_000


def test_no_row_is_larger_than_is_reckoned_with(world: World) -> None:
    """Ids and values as long as they may be, names as long as a metric's, and all that ever stands in a total."""
    metrics = (*(Count(name="c".ljust(31, "c") + str(n), by="resource") for n in range(4)), *METRICS[1:])
    names = [metric.name for metric in metrics]
    total = Total(
        10**17,
        100,
        State.REJECTED,
        adjusted=10**12,
        carried=10**12,
        reason="r" * 80,
        identifier=f"ffffff.~{'0' * 32}.{'c' * 32}.2026-11-22T05.r100",
        posted_to="cus_" + "x" * 14,
        posted_at=1_800_000_000,
        not_before=1_800_000_000,
        reposts=3,
    )
    values = {f"{number:02d}".ljust(LONGEST_VALUE, "v"): 10**15 for number in range(MOST_VALUES)} | {OTHER: 10**15}
    totals = {name: replace(total, split=values if name.startswith("c") else {}) for name in names}
    longest = "\U00020000" * LONGEST_ID
    world.ledger.rows.save(UsageRow(customer(longest), HOUR, totals=totals), {longest: dict.fromkeys(names, 10**9)})
    other = f'{longest[:-1]}"'
    by_key = {key: dict.fromkeys(names, 10**9) for key in (longest, other)}
    world.ledger.rows.save(UsageRow(customer(longest), hour_after(HOUR, 1), totals=totals), by_key)
    items = [
        world.ledger.client.get_item(
            TableName=world.ledger.table, Key={"pk": {"S": f"customer#{longest}"}, "sk": {"S": sort}}
        )["Item"]
        for sort in (f"usage#{HOUR}", f"keys#{hour_after(HOUR, 1)}")
    ]
    units = MOST_UNITS * 8192
    row = size_of(items[0])
    assert 0.8 < Bounds(metrics).sure_hours() * row / units <= 1
    beside = size_of(items[1])
    sure = Bounds(metrics).sure_hours({longest, other}, by_key=True)
    assert sure * row <= units / 2
    assert sure * (row + beside) <= units


@pytest.mark.parametrize("form", ["json", "csv"])
def test_an_answer_that_lambda_would_cut_off_is_refused(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """By its lines, and by its bytes as Lambda counts them, before they are packed."""
    portal.world.record(portal.world.line())
    for module, name, most, detail in (
        (lines, "MOST_LINES", 1, "the answer would hold more than 1 lines: ask for less time"),
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


def test_metrics_that_count_distinct_values_share_what_is_read_of_them(portal: Portal) -> None:
    """Two keys of five such metrics are as many queries as ten keys of one."""
    world = portal.world
    world.record(*(world.line(**{"authorizer.user": name, "key": name}) for name in ("key1", "key2")))
    settled = show_usage._parts().reader.uniques
    assert settled.metrics == 1
    settled.metrics = 5
    assert {line[1] for line in portal.usage()} == {"requests", "bytes"}
    forget()
    assert ("2026-11-22", "users", None, 2, "counting") in portal.usage()


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
