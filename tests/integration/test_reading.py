"""Reading a customer's usage: that what is read fast is what is there."""

import random
from typing import Any

import pytest

from metering.model.amounts import Amounts
from metering.model.measuring import LONGEST_VALUE
from metering.model.metrics import MOST_NAMES
from metering.model.subjects import customer, key
from metering.model.usage_row import State, Total, UsageRow
from metering.portal.reading import UsageReader
from metering.stores.counters import Counters
from metering.stores.marks import new_mark
from tests.doubles.dying import Dying
from tests.integration.portal import hour_after
from tests.integration.world import HOUR, World


def reader(world: World) -> UsageReader:
    """Return a reader of the world's tables."""
    return UsageReader.of(world.ledger.client, world.counters.table, world.ledger.table)


@pytest.mark.parametrize("seed", range(2))
def test_keys_are_counted_as_by_reading_all(world: World, seed: int) -> None:
    """Whether others' keys lie between them or not, and whatever their names begin with."""
    draw = random.Random(seed)
    names = [draw.choice("aAz-_0") + "".join(draw.choices("aZ0_-", k=draw.randint(0, 2))) for _ in range(60)]
    for name in names:
        for batch in range(draw.choice((1, 1, 1, 40))):
            amounts = Amounts({"requests": draw.randint(1, 9)}, splits={"requests": {"/a": 1}}, peaks={"seats": batch})
            world.counters.count(HOUR, name, amounts, bytes([draw.randrange(256)]) * 11 + bytes([batch]))
    wanted = set(draw.sample(names, 20)) | {"absent", "a"}
    everything = world.counters.read(HOUR)
    assert world.counters.read_keys(HOUR, wanted, most=3000) == {
        name: everything[name] for name in wanted & everything.keys()
    }


@pytest.mark.parametrize("keys", [["key1"], ["key1", "key2"]])
def test_counters_that_fill_more_than_a_page_are_all_read(world: World, keys: list[str]) -> None:
    """A page ends at 1 MB, before it has as many items as were asked for: 90 of 12 KB."""
    for number in range(90):
        values = {f"{number:02d}{value:03d}".ljust(LONGEST_VALUE, "v"): 1 for value in range(MOST_NAMES)}
        amounts = Amounts({"requests": MOST_NAMES}, splits={"requests": values})
        world.counters.count(HOUR, "key1", amounts, b"b" * 11 + bytes([number]))
    counted = world.counters.read_keys(HOUR, keys, most=2048)
    assert counted is not None
    assert counted["key1"].sums == {"requests": 90 * MOST_NAMES}


def test_a_hundred_keys_alone_take_a_query_for_each_partition(world: World) -> None:
    """Of which there are two in these tests."""
    names = [f"k{number:03d}" for number in range(100)]
    for name in names:
        world.counters.count(HOUR, name, Amounts({"requests": 1}), b"x" * 12)
    watched: Any = Dying(world.counters.client)
    assert len(Counters(watched, world.counters.table).read_keys(HOUR, names, most=3000) or {}) == 100
    assert watched.calls["query"] == 2


def test_marks_are_found_by_subject_and_hour(world: World) -> None:
    """From the first hour up to the last, exclusive; nobody else's."""
    marked = [hour_after(HOUR, number) for number in (-2, -1, 0, 1)]
    for hour in marked:
        world.counters.marks.mark_late(hour, key("key1"), new_mark())
    world.counters.marks.mark_late(hour_after(HOUR, -1), customer("acme"), new_mark())
    world.counters.marks.mark_late(HOUR, key("key10"), new_mark())
    subjects = [customer("acme"), key("key1")]
    assert world.counters.marks.late_hours(subjects, marked[1], marked[3]) == marked[1:3]
    assert world.counters.marks.late_hours(subjects, HOUR, HOUR) == []
    assert world.counters.marks.late_hours([key("key2")], marked[0], marked[3]) == []


def test_rows_are_read_as_the_ledger_reads_them(world: World) -> None:
    """Each state, with and without a split, adjustments, carries, and of months that lie apart."""
    draw = random.Random(7)
    first, end = hour_after(HOUR, -1600), hour_after(HOUR, 1)
    for number in sorted(draw.sample(range(1600), 40)):
        totals = {
            metric: Total(
                draw.randint(0, 10**12),
                1,
                state,
                adjusted=draw.choice((0, -5, 7)),
                carried=draw.choice((0, 3)),
                split=draw.choice(({}, {"/items": 3, "-": 1})),
                posted_to="cus_acme",
            )
            for metric, state in zip(("requests", "bytes", "users", "seats"), State, strict=True)
        }
        row = UsageRow(customer("acme"), hour_after(first, number), totals=totals)
        world.ledger.rows.save(row, draw.choice((None, {"key1": {"requests": 1}})))
    world.ledger.progress.advance_cursor(end)
    made = reader(world)
    cells = made.read(made.known("acme"), first, end, now=HOUR.end).cells
    rows = {row.hour: row for row in world.ledger.rows.of(customer("acme"), first, end)}
    assert cells.keys() == rows.keys()
    for hour, row in rows.items():
        assert {metric: (cell.quantity, cell.counted, dict(cell.split)) for metric, cell in cells[hour].items()} == {
            metric: (total.quantity, total.counted, total.split) for metric, total in row.totals.items()
        }
        assert {metric: cell.standing.name == "POSTED" for metric, cell in cells[hour].items()} == {
            metric: total.state is State.POSTED for metric, total in row.totals.items()
        }
        assert {"".join(cell.keys) for cell in cells[hour].values()} == {row.only_key}
