"""What waits for Stripe: counted, asked of one hour, taken piece by piece; however much it is (I10)."""

import tracemalloc
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import pytest

from metering.billing.posting import MOST_ROWS
from metering.layout import SHARDS
from metering.model.periods import Hour
from metering.model.subjects import customer, key
from metering.model.usage_row import NO_STRIPE_CUSTOMER, TOO_OLD, State, Total, UsageRow, WhyHeld, settled_by_carry
from metering.stores.aws import side_by_side
from metering.stores.rows import Rows, _read_row, _row_item, shard_of
from metering.stores.table import RowChangedError
from tests.doubles.dynamodb import canceled
from tests.integration.world import HOUR, World

NEXT = HOUR.next()
AT_POSTING: Final[dict[str, Any]] = {
    "TableName": "ledger",
    "KeyConditionExpression": "#pk = :pk AND begins_with(#sk, :sk)",
    "ExpressionAttributeNames": {"#pk": "pk", "#sk": "sk"},
    "ExpressionAttributeValues": {":pk": {"S": "posting"}, ":sk": {"S": "place#"}},
}


@pytest.fixture(autouse=True)
def all_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are; other tests make do with fewer."""
    monkeypatch.setattr("metering.stores.rows.SHARDS", SHARDS)


def save(world: World, name: str, hour: Hour = HOUR, state: State = State.PENDING) -> UsageRow:
    """Write a customer's row whose one total is in a state."""
    return world.ledger.rows.save(UsageRow(customer(name), hour, totals={"requests": Total(1, 1, state)}))


def names(number: int) -> list[str]:
    """Return so many customers' names, which lie in many shards."""
    return [f"c{n}" for n in range(number)]


class Asked:
    """A client that notes how many keys each query of the index may read, at most."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.limits: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def query(self, **arguments: Any) -> Any:
        """Answer a query."""
        self.limits.append(arguments["Limit"])
        return self._client.query(**arguments)


# --- how many there are -----------------------------------------------------------------------------------------------


def test_pending_rows_are_counted_from_an_hour_on(world: World) -> None:
    """All shards', those that are settled left out."""
    for name in names(40):
        save(world, name)
        save(world, name, NEXT)
    save(world, "posted", NEXT, State.POSTED)
    save(world, "rejected", NEXT, State.REJECTED)
    rows = world.ledger.rows
    assert rows.pending_count(HOUR, most=1000) == 80
    assert rows.pending_count(NEXT, most=1000) == 40
    assert rows.pending_count(HOUR, most=1000, before=NEXT) == 40
    assert rows.pending_count(NEXT.next(), most=1000) == 0
    assert rows.rejected_count(most=1000) == 1


@pytest.mark.parametrize("most", [1, 5, 79, 80, 81])
def test_no_more_is_read_than_is_needed_to_know_that_there_are_so_many(world: World, most: int) -> None:
    """I10: one key over for each shard at most, however many there are."""
    for name in names(40):
        save(world, name)
        save(world, name, NEXT)
    asked = Asked(world.ledger.client)
    assert Rows(asked, world.ledger.table).pending_count(HOUR, most=most) == min(most, 80)  # type: ignore[arg-type]
    assert sum(asked.limits[:SHARDS]) < most + SHARDS
    assert max(asked.limits) <= most


def test_all_of_one_shard_are_counted(world: World) -> None:
    """What the others do not need, it may use."""
    for n in range(100):
        save(world, "acme", Hour(HOUR.number + n))
    assert world.ledger.rows.pending_count(HOUR, most=1000) == 100
    assert world.ledger.rows.pending_count(HOUR, most=60) == 60


def test_whether_an_hour_waits_is_asked_of_that_hour(world: World) -> None:
    """A row of an hour before or after says nothing of it."""
    rows = world.ledger.rows
    before = Hour(HOUR.number - 1)
    save(world, "acme", before)
    save(world, "globex", NEXT)
    save(world, "initech", HOUR, State.REJECTED)
    assert [rows.is_pending(hour) for hour in (before, HOUR, NEXT)] == [True, False, True]
    save(world, "umbrella")
    assert rows.is_pending(HOUR)


def test_whether_an_hour_waits_is_a_key_a_shard(world: World) -> None:
    """I10: whatever waits."""
    for name in names(40):
        save(world, name)
    asked = Asked(world.ledger.client)
    assert Rows(asked, world.ledger.table).is_pending(HOUR)  # type: ignore[arg-type]
    assert asked.limits == [1] * SHARDS


# --- what one run takes up --------------------------------------------------------------------------------------------


def taken(world: World, shards: Sequence[int] = range(SHARDS), *, most: int, since: Hour = HOUR) -> Counter[str]:
    """Take what a run would; return how many hours of each customer."""
    pending = world.ledger.rows.next_pending(since, shards, most=most)
    assert all(hours == sorted(set(hours)) for hours in pending.values())
    return Counter({name: len(hours) for name, hours in pending.items()})


def test_a_run_takes_all_where_it_can(world: World) -> None:
    """And notes no place: the next one takes all as well."""
    for name in names(10):
        save(world, name)
        save(world, name, NEXT)
    for _ in range(2):
        assert taken(world, most=1000) == dict.fromkeys(names(10), 2)
    assert taken(world, most=1000, since=NEXT) == dict.fromkeys(names(10), 1)
    assert world.ledger.client.query(**AT_POSTING)["Items"] == []


def test_no_shard_gives_more_than_its_share(world: World) -> None:
    """I6, I10: one customer's month takes no place from the others."""
    for n in range(100):
        save(world, "acme", Hour(HOUR.number + n))
    for name in names(20):
        save(world, name)
    got = taken(world, most=2 * SHARDS)
    assert got.total() <= 2 * SHARDS
    assert got["acme"] <= 2
    assert len({shard_of(customer(name)) for name in got}) == len({shard_of(customer(name)) for name in names(20)})


def test_what_stays_pending_keeps_nobody_from_a_turn(world: World) -> None:
    """I6: rows that fail at every run stand first in the index for ever, and all others have their turns."""
    shard = shard_of(customer("acme"))
    others = [name for name in names(200) if shard_of(customer(name)) == shard]
    for n in range(30):
        save(world, "acme", Hour(HOUR.number + n))
    for name in others:
        save(world, name, Hour(HOUR.number + 40))
    runs = -(-(30 + len(others)) // 4)
    seen = sum((taken(world, [shard], most=4) for _ in range(runs)), Counter())
    assert seen.keys() == {"acme", *others}
    again = sum((taken(world, [shard], most=4) for _ in range(runs)), Counter())
    assert again.keys() == {"acme", *others}


def test_a_turn_goes_on_where_rows_have_been_settled_meanwhile(world: World) -> None:
    """The row that marks the place need not be there any more, and what comes in behind waits for the next round."""
    shard = shard_of(customer("acme"))
    rows = [save(world, "acme", Hour(HOUR.number + n)) for n in range(6)]
    first = world.ledger.rows.next_pending(HOUR, [shard], most=3)
    assert first == {"acme": [row.hour for row in rows[:3]]}
    for row in rows[:3]:
        world.ledger.rows.save(row.with_totals({"requests": Total(1, 1, State.POSTED)}))
    assert world.ledger.rows.next_pending(HOUR, [shard], most=3) == {"acme": [row.hour for row in rows[3:]]}
    assert world.ledger.rows.next_pending(HOUR, [shard], most=3) == {"acme": [row.hour for row in rows[3:]]}


def test_a_place_before_the_first_hour_is_none(world: World) -> None:
    """Whoever turns posting on from a later hour begins there."""
    shard = shard_of(customer("acme"))
    hours = [Hour(HOUR.number + n) for n in range(6)]
    for hour in hours:
        save(world, "acme", hour)
    assert world.ledger.rows.next_pending(HOUR, [shard], most=2) == {"acme": hours[:2]}
    assert world.ledger.rows.next_pending(hours[3], [shard], most=2) == {"acme": hours[3:5]}
    assert world.ledger.rows.next_pending(hours[3], [shard], most=2) == {"acme": [hours[3], hours[5]]}


class Backlog:
    """A ledger with more pending rows than a run can take; it counts what is read, and holds nothing itself."""

    def __init__(self, customers: int, hours: int) -> None:
        self.customers, self.hours, self.read = customers, hours, 0

    def get_item(self, **_: Any) -> dict[str, Any]:
        """Return no place."""
        return {}

    def put_item(self, **arguments: Any) -> None:
        """Take a place."""
        assert arguments["Item"]["sk"]["S"].startswith("place#")

    def query(self, **asked: Any) -> dict[str, Any]:
        """Return a page, and where to go on."""
        (_, shard) = asked["ExpressionAttributeValues"][":pk"]["S"].split("#")
        per_hour = self.customers // SHARDS
        start = int(asked.get("ExclusiveStartKey", {"n": {"N": "0"}})["n"]["N"])
        end = min(start + asked["Limit"], per_hour * self.hours)
        items = [
            {
                "pk": {"S": f"customer#c{shard}-{n % per_hour}"},
                "sk": {"S": f"usage#{Hour(HOUR.number + n // per_hour)}"},
            }
            for n in range(start, end)
        ]
        self.read += len(items)
        more = {"LastEvaluatedKey": {"n": {"N": str(end)}}} if end < per_hour * self.hours else {}
        return {"Items": items, **more}


@pytest.mark.parametrize(("customers", "hours"), [(1_312, 744), (36_000, 24)])
def test_a_million_pending_rows_are_begun_within_bounds(customers: int, hours: int) -> None:
    """I10: a month of 1,300 customers, and a day of 36,000: what is read and what is held is the same."""
    backlog: Any = Backlog(customers, hours)
    tracemalloc.start()
    pending = Rows(backlog, "ledger").next_pending(HOUR, range(SHARDS), most=MOST_ROWS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(map(len, pending.values())) == backlog.read == MOST_ROWS
    assert peak < 80 * 2**20


# --- what is held -----------------------------------------------------------------------------------------------------


def held_rows(world: World) -> dict[str, int]:
    """Return what the sums say."""
    return {str(why): count for why, count in world.ledger.rows.held_sums.read().items()}


def recounted_rows(world: World) -> dict[str, int]:
    """Return what they have to say: by every row that there is."""
    items = world.ledger.client.scan(TableName="ledger")["Items"]
    rows = [_read_row(item) for item in items if item["sk"]["S"].startswith("usage#")]
    counts = Counter(str(why) for row in rows for why in row.held_for())
    return {str(why): counts[why] for why in WhyHeld}


def hold(row: UsageRow, reason: str, metric: str = "requests") -> UsageRow:
    """Return a row with one total held."""
    return row.with_totals({metric: Total(1, 1, State.HELD, reason=reason)})


def test_sums_follow_a_row_on_all_its_ways(world: World) -> None:
    """I2, I9: a row counts once for each reason, however many totals are held for it, until none is."""
    rows = world.ledger.rows
    row = save(world, "acme")
    assert held_rows(world) == {"no_stripe_customer": 0, "too_old": 0}
    row = rows.hold_without_stripe_customer(row)
    assert held_rows(world) == {"no_stripe_customer": 1, "too_old": 0}
    row = rows.save(hold(row, NO_STRIPE_CUSTOMER, "bytes"))
    assert held_rows(world) == {"no_stripe_customer": 1, "too_old": 0}
    row = rows.save(hold(row, TOO_OLD, "bytes"))
    assert held_rows(world) == {"no_stripe_customer": 1, "too_old": 1}
    (row,) = rows.at(HOUR, [customer("acme")]).values()
    row = rows.save(row.with_totals({"requests": Total(1, 2, State.PENDING)}))
    assert held_rows(world) == {"no_stripe_customer": 0, "too_old": 1}
    rows.save(settled_by_carry(row, "bytes"), {"k1": {"requests": 1}, "k2": {"bytes": 1}})
    assert held_rows(world) == recounted_rows(world) == {"no_stripe_customer": 0, "too_old": 0}


def test_a_keys_own_row_is_in_no_sum(world: World) -> None:
    """It is held for ever, and told as unmapped."""
    row = UsageRow(key("k1"), HOUR, totals={"requests": Total(1, 1, State.HELD, reason=NO_STRIPE_CUSTOMER)})
    world.ledger.rows.save(row)
    assert held_rows(world) == {"no_stripe_customer": 0, "too_old": 0}


def test_a_row_that_another_run_wrote_first_changes_no_sum(world: World) -> None:
    """I2: both are written, or neither is."""
    row = save(world, "acme")
    world.ledger.rows.save(row)
    for write in (
        world.ledger.rows.hold_without_stripe_customer,
        lambda row: world.ledger.rows.save(hold(row, TOO_OLD)),
    ):
        with pytest.raises(RowChangedError):
            write(row)
    assert held_rows(world) == recounted_rows(world) == {"no_stripe_customer": 0, "too_old": 0}


def test_a_row_that_an_older_version_held_joins_the_sums_when_it_is_written(world: World) -> None:
    """And takes nothing from them when it is held no more."""
    for name in ("acme", "globex"):
        item = _row_item(hold(UsageRow(customer(name), HOUR, 1), TOO_OLD))
        world.ledger.client.put_item(TableName="ledger", Item=item)
    acme, globex = world.ledger.rows.at(HOUR, [customer("acme"), customer("globex")]).values()
    world.ledger.rows.save(settled_by_carry(acme, "requests"))
    assert held_rows(world)["too_old"] == 0
    world.ledger.rows.save(hold(globex, TOO_OLD, "bytes"))
    assert held_rows(world)["too_old"] == 1


def test_many_rows_held_at_once_are_all_summed(world: World) -> None:
    """I2: whoever meets another transaction at a sum tries again at once."""
    tries: Counter[str] = Counter()

    def conflict(operation: str, arguments: Any) -> None:
        if operation != "TransactWriteItems":
            return
        name = arguments["TransactItems"][0]["Put"]["Item"]["pk"]["S"]
        tries[name] += 1
        if tries[name] < 4:
            raise canceled([{"Code": "None"}, {"Code": "TransactionConflict"}])

    client: Any = world.ledger.client
    rows = [save(world, name) for name in names(20)]
    client.before.append(conflict)
    side_by_side(lambda row: world.ledger.rows.save(hold(row, TOO_OLD)), rows)
    client.before.remove(conflict)
    assert held_rows(world) == recounted_rows(world) == {"no_stripe_customer": 0, "too_old": 20}


def test_a_sum_that_is_always_busy_leaves_the_row_to_the_next_run(world: World) -> None:
    """As it was."""

    def conflict(operation: str, _: Any) -> None:
        if operation == "TransactWriteItems":
            raise canceled([{"Code": "None"}, {"Code": "TransactionConflict"}])

    client: Any = world.ledger.client
    row = save(world, "acme")
    client.before.append(conflict)
    with pytest.raises(RowChangedError):
        world.ledger.rows.save(hold(row, TOO_OLD))
    client.before.remove(conflict)
    assert world.in_ledger("customer#acme") == {"requests": (1, "PENDING")}
