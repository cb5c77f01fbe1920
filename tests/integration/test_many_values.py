"""Splits of many values: an item stays small, whoever varies a value, and each batch counts once all the same."""

import hashlib
from collections.abc import Sequence
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.model.amounts import Amounts
from metering.model.log_format import AccessLog
from metering.model.metric_checks import MetricError, check
from metering.model.metrics import Count
from metering.model.periods import Hour
from metering.stores.counters import Counters
from metering.stores.marks import Mark, partition
from tests.doubles.aws import Client
from tests.doubles.dying import Dying, KilledError, Life
from tests.doubles.dynamodb import Tables
from tests.doubles.dynamodb_local import DynamoDBLocal
from tests.integration.world import HOUR, World, moment

PLAN = "authorizer.plan"


def token(number: int, slot: int = 0) -> bytes:
    """Return the token of a batch that is counted in a slot."""
    return hashlib.sha256(f"{number}".encode()).digest()[:11] + bytes([slot])


def batch(*values: str, each: int = 1) -> Amounts:
    """Return what a batch of one request a value adds up to."""
    return Amounts({"requests": each * len(values)}, splits={"requests": dict.fromkeys(values, each)})


def numbered(first: int, count: int = 50) -> Sequence[str]:
    """Return values of the longest kind."""
    return [f"{n:064d}" for n in range(first, first + count)]


@pytest.fixture
def tables() -> Tables:
    """Tables in memory."""
    return Tables()


def counters(tables: Tables, life: Life | None = None) -> tuple[Counters, Dying]:
    """Return the counters of a new process, and what counts its calls."""
    watched = Dying(Client("dynamodb", tables), life)
    return Counters(cast("Any", watched), "counters"), watched


def items(tables: Tables) -> list[dict[str, Any]]:
    """Return the counters' items."""
    return list(tables.items("counters"))


def size(item: dict[str, Any]) -> int:
    """Return about how many bytes an item has."""
    return sum(len(name) + len(str(value)) for name, value in item.items())


def test_an_item_tells_so_many_values_apart_and_no_more(tables: Tables) -> None:
    """I1, I6: a caller with another value for each request costs what one with a hundred does."""
    counting, _ = counters(tables)
    for number in range(100):
        assert counting.count(HOUR, "key1", batch(*numbered(50 * number)), token(number))
        assert not counting.count(HOUR, "key1", batch(*numbered(50 * number)), token(number))
    (item,) = items(tables)
    assert sum(name.startswith("g:") for name in item) == 101
    assert len(item["names"]["BS"]) == 100
    assert size(item) < 20_000
    (amounts,) = counting.read(HOUR).values()
    assert amounts.sums == {"requests": 5000}
    assert sum(amounts.splits["requests"].values()) == 5000


def test_values_that_an_item_has_are_told_apart_when_it_is_full(tables: Tables) -> None:
    """I5: an honest key's plans are shown, though somebody fills its item meanwhile."""
    counting, _ = counters(tables)
    counting.count(HOUR, "key1", batch("free", "pro"), token(0))
    for number in range(1, 6):
        counting.count(HOUR, "key1", batch(*numbered(50 * number)), token(number))
    counting.count(HOUR, "key1", batch(*numbered(900, 26)), token(6))
    counting.count(HOUR, "key1", batch("free", "pro", "new", each=7), token(7))
    (item,) = items(tables)
    assert (item["g:requests:free"], item["g:requests:pro"]) == ({"N": "8"}, {"N": "8"})
    assert "g:requests:new" not in item


def test_a_full_item_is_asked_in_vain_once_by_each_process(tables: Tables) -> None:
    """A refused write costs as much as one that lands."""
    for number in range(4):
        counters(tables)[0].count(HOUR, "key1", batch(*numbered(50 * number)), token(number))
    counting, watched = counters(tables)
    counting.count(HOUR, "key1", batch(*numbered(500)), token(10))
    assert watched.calls["update_item"] == 2
    for number in range(11, 21):
        counting.count(HOUR, "key1", batch(*numbered(50 * number)), token(number))
    assert watched.calls["update_item"] == 12


def test_what_room_there_is_left_is_taken_when_it_is_known(tables: Tables) -> None:
    """What a refusal showed of an item is subtracted from what the next batch brings."""
    counting, watched = counters(tables)
    counting.count(HOUR, "key1", batch(*numbered(0, 40)), token(0))
    counting.count(HOUR, "key1", batch(*numbered(40, 40)), token(1))
    counting.count(HOUR, "key1", batch(*numbered(0, 49), "a"), token(2))
    assert watched.calls["update_item"] == 4
    counting.count(HOUR, "key1", batch(*numbered(0, 49), "b"), token(3))
    assert watched.calls["update_item"] == 5
    (item,) = items(tables)
    assert "g:requests:a" not in item
    assert item["g:requests:b"] == {"N": "1"}


def test_of_a_batch_with_more_values_than_an_item_holds_the_largest_are_told_apart(tables: Tables) -> None:
    """Four metrics of fifty values each; the sums are whole."""
    counting, _ = counters(tables)
    splits = {f"m{n}": {f"v{value}": 1 + n for value in range(50)} for n in range(4)}
    counting.count(HOUR, "key1", Amounts({f"m{n}": 50 * (1 + n) for n in range(4)}, splits=splits), token(0))
    (item,) = items(tables)
    assert sum(name.startswith("g:") for name in item) == 130
    assert len(item["names"]["BS"]) == 128
    (amounts,) = counting.read(HOUR).values()
    assert {metric: sum(split.values()) for metric, split in amounts.splits.items()} == amounts.sums
    assert amounts.splits["m0"] == {"other": 50}


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("dies_at", [1, 2])
def test_a_crash_at_either_write_is_made_good_by_the_next_delivery(
    tables: Tables,
    dies_at: int,
    accepted: bool,  # noqa: FBT001 - a literal
) -> None:
    """I1, I2: the first of them is refused, the second lands."""
    for number in range(4):
        counters(tables)[0].count(HOUR, "key1", batch(*numbered(50 * number)), token(number))
    counting, _ = counters(tables, Life(dies_at, accepted=accepted))
    with pytest.raises(KilledError):
        counting.count(HOUR, "key1", batch(*numbered(900)), token(9))
    for _ in range(2):
        counters(tables)[0].count(HOUR, "key1", batch(*numbered(900)), token(9))
    (amounts,) = counting.read(HOUR).values()
    assert amounts.sums == {"requests": 250}


class Full:
    """A client of a table whose item takes no further attribute, as one of 400 KB does."""

    def __init__(self, tables: Tables) -> None:
        self._client = Client("dynamodb", tables)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def update_item(self, **asked: Any) -> Any:
        """Refuse what would add a value."""
        if any(
            name.startswith("g:") and name != "g:requests:other" for name in asked["ExpressionAttributeNames"].values()
        ):
            said: Any = {
                "Error": {
                    "Code": "ValidationException",
                    "Message": "Item size to update has exceeded the maximum allowed size",
                }
            }
            raise ClientError(said, "UpdateItem")
        return self._client.update_item(**asked)


def test_an_item_that_is_too_large_takes_all_values_as_one(tables: Tables) -> None:
    """I1: what is billed is counted."""
    counting = Counters(cast("Any", Full(tables)), "counters")
    assert counting.count(HOUR, "key1", batch("free", "pro"), token(0))
    assert not counting.count(HOUR, "key1", batch("free", "pro"), token(0))
    (amounts,) = counting.read(HOUR).values()
    assert (amounts.sums, amounts.splits) == ({"requests": 2}, {"requests": {"other": 2}})


def test_a_batch_without_splits_asks_what_it_always_asked(tables: Tables) -> None:
    """One write unit: nothing stands in the item or the expression for values that there are not."""
    client = Client("dynamodb", tables)
    asked: list[dict[str, Any]] = []
    client.before.append(lambda _, arguments: asked.append(dict(arguments)))
    Counters(cast("Any", client), "counters").count(HOUR, "key1", Amounts({"requests": 5}, {"users": 2}), token(1, 7))
    assert asked == [
        {
            "TableName": "counters",
            "Key": {"pk": {"S": f"hour#2026-11-22T05#{partition('key1')}"}, "sk": {"S": "key1#7"}},
            "UpdateExpression": "ADD #m0 :m0, #m1 :m1, #batches :tokens SET #ttl = :ttl",
            "ConditionExpression": "NOT contains(#batches, :token)",
            "ExpressionAttributeNames": {"#m0": "n:requests", "#m1": "u:users", "#batches": "batches", "#ttl": "ttl"},
            "ExpressionAttributeValues": {
                ":m0": {"N": "5"},
                ":m1": {"N": "2"},
                ":token": {"B": token(1, 7)},
                ":tokens": {"BS": [token(1, 7)]},
                ":ttl": {"N": "1800684000"},
            },
        }
    ]


def test_the_largest_batch_that_can_be_declared_is_one_update_of_4_kb(dynamodb_local: DynamoDBLocal) -> None:
    """I1: AWS's own engine takes it; a longer expression would be refused for ever."""
    client: Any = dynamodb_local.client()
    keys = [{"AttributeName": name, "KeyType": kind} for name, kind in (("pk", "HASH"), ("sk", "RANGE"))]
    types = [{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")]
    client.create_table(TableName="counters", KeySchema=keys, AttributeDefinitions=types, BillingMode="PAY_PER_REQUEST")
    sums = {f"{'m' * 28}{n}": 10**12 for n in range(188)}
    metrics = tuple(Count(name=name, by="method") if n < 4 else Count(name=name) for n, name in enumerate(sums))
    check(metrics, AccessLog())
    splits = {name: dict.fromkeys((*numbered(0), "other"), 10**10) for name in list(sums)[:4]}
    counting = Counters(client, "counters")
    try:
        for number in range(2):
            assert counting.count(HOUR, "\U0001f600" * 128, Amounts(sums, splits=splits), token(number))
        (amounts,) = counting.read(HOUR).values()
    finally:
        client.delete_table(TableName="counters")
    assert set(amounts.sums.values()) == {2 * 10**12}
    with pytest.raises(MetricError, match="takes at most 188 metrics"):
        check((*metrics, Count(name="more")), AccessLog())


DELIVERIES = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 2)), max_size=40)


@settings(deadline=None)
@given(DELIVERIES, st.lists(st.integers(1, 50), min_size=12, max_size=12))
def test_whatever_order_and_process_each_batch_counts_once(
    deliveries: list[tuple[int, int]], counts: list[int]
) -> None:
    """I2, I10: no item tells more values apart than it may, and its splits add up to its sums."""
    tables = Tables()
    processes = [counters(tables)[0] for _ in range(3)]
    batches = [batch(*numbered(17 * n, count), each=n + 1) for n, count in enumerate(counts)]
    fresh = [processes[process].count(HOUR, "key1", batches[number], token(number)) for number, process in deliveries]
    delivered = {number for number, _ in deliveries}
    assert sum(fresh) == len(delivered)
    found = processes[0].read(HOUR).get("key1", Amounts())
    assert found.sums.get("requests", 0) == sum((number + 1) * counts[number] for number in delivered)
    assert sum(found.splits.get("requests", {}).values()) == found.sums.get("requests", 0)
    assert all(len(item["names"]["BS"]) <= 128 for item in items(tables))
    assert all(sum(name.startswith("g:") for name in item) <= 129 for item in items(tables))


class Ailing:
    """A client that cannot write one key's counters."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def update_item(self, **asked: Any) -> Any:
        """Refuse what concerns a key."""
        if asked["Key"]["sk"]["S"].startswith("ailing#"):
            said: Any = {"Error": {"Code": "ProvisionedThroughputExceededException", "Message": "too much is asked"}}
            raise ClientError(said, "UpdateItem")
        return self._client.update_item(**asked)


def test_a_counter_that_fails_keeps_no_other_from_counting(world: World) -> None:
    """I1, I6: the others are counted and marked; then the batch fails, and comes again."""
    world.bill(Count(name="requests"))
    world.after_grace()
    lines = [world.line(key=name, time=moment(HOUR)) for name in ("ailing", "key1", "key2")]
    ailing = Counters(cast("Any", Ailing(world.counters.client)), world.counters.table)
    for _ in range(2):
        with pytest.raises(ClientError, match="too much is asked"):
            world.recorder(ailing).record(world.batch(*lines))
        assert world.counted() == {"key1": {"requests": 1}, "key2": {"requests": 1}}
    assert {mark.subject.id for mark in world.counters.marks.of_kind(Mark.LATE)} == {"ailing", "key1", "key2"}
    assert world.record(*lines).billed == 3
    assert {amounts["requests"] for amounts in world.counted().values()} == {1}


def test_a_counter_of_the_next_hour_is_counted_though_the_first_fails(world: World) -> None:
    """I3: each in its own hour."""
    world.bill(Count(name="requests", by=PLAN))
    later: Hour = HOUR.next()
    world.now = later.start
    ailing = Counters(cast("Any", Ailing(world.counters.client)), world.counters.table)
    lines = [world.line(key="ailing", time=moment(HOUR)), world.line(time=moment(later, 0), **{PLAN: "free"})]
    with pytest.raises(ClientError):
        world.recorder(ailing).record(world.batch(*lines))
    assert world.counted(later) == {"key1": {"requests": 1}}
