"""Hours of any size: closed in pieces by as many runs as it takes, none of which stands still or holds up another."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from weakref import WeakSet

import pytest
from botocore.exceptions import ClientError

from metering.billing import closing, late_marks, settling, writing
from metering.billing.closed import Closed
from metering.model.amounts import Amounts
from metering.model.metrics import Count, Unique
from metering.model.periods import Hour
from metering.model.subjects import customer, key
from metering.model.usage_row import Change
from metering.stores import attribution, claims
from metering.stores.holders import BEGINNING, Holder
from metering.stores.marks import PARTITIONS, Mark, new_mark, partition
from metering.stores.progress import LeaseLostError, PeriodState
from tests.integration.world import HOUR, World, moment

USERS = Unique(name="users", of="authorizer.user", opaque_id=True)
NEXT = HOUR.next()


@contextmanager
def told(world: World, hook: Callable[[str, Mapping[str, Any]], Any]) -> Iterator[None]:
    """Tell a hook of each call to the tables."""
    before: Any = world.ledger.client.before  # type: ignore[attr-defined]
    before.append(hook)
    try:
        yield
    finally:
        before.remove(hook)


def use(world: World, names: list[str], keys: int = 1, hour: Hour = HOUR) -> None:
    """Let each of these customers, who are made if they are not there, use each of its keys once in an hour."""
    there = world.ledger.holders.customers(names)
    for name in names:
        if name not in there:
            world.customer(name, *(f"{name}-{n}" for n in range(keys)), stripe_customer=f"cus_{name}")
    lines = [world.line(key=f"{name}-{n}", time=moment(hour)) for name in names for n in range(keys)]
    world.record(*lines)


def state(world: World, hour: Hour = HOUR) -> Any:
    """Return how far an hour is, and how many customers and keys without one it has."""
    period = world.ledger.progress.periods([hour]).get(hour)
    return period and (period.state, period.customers, period.unmapped)


def rows(world: World, hour: Hour = HOUR) -> dict[str, int]:
    """Return each subject's requests in an hour's rows."""
    items = world.ledger.client._engine.items("ledger")  # type: ignore[attr-defined]
    found = [item["pk"]["S"] for item in items if item["sk"]["S"] == f"usage#{hour}"]
    return {name: world.in_ledger(name, hour).get("requests", (0, ""))[0] for name in found}


def close_in(world: World, seconds: float) -> Closed:
    """Close with so much time, of which each call takes a millisecond."""
    closer = replace(world.closer(), deadline=world.now + timedelta(seconds=seconds), holder=new_mark())
    with told(world, lambda *_: world.time.advance(0.001)):
        return closer.close_due()


# --- pieces -----------------------------------------------------------------------------------------------------------


def test_an_hour_that_takes_longer_than_a_run_is_closed_by_several(world: World) -> None:
    """I10: each run gets on, also where distinct values of several keys take most of the time."""
    world.bill(Count(name="requests"), USERS)
    names = [f"c{n:02d}" for n in range(40)]
    for name in names:
        world.customer(name, f"{name}-a", f"{name}-b")
    world.record(*(world.line(key=f"{name}-a", **{"authorizer.user": name}) for name in names))
    world.after_grace()
    written = [0]
    while state(world) is None:
        close_in(world, 0.3)
        written.append(len(rows(world)))
        assert written[-1] > written[-2] or state(world), written
    assert len(written) > 3
    assert (rows(world), state(world)) == (dict.fromkeys((f"customer#{name}" for name in names), 1), ("WRITTEN", 40, 0))


class _Page(dict[str, Any]):
    """An item that can be followed."""

    __slots__ = ("__weakref__",)

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


def test_what_is_held_of_an_hour_is_a_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: a key's total is whole when the next one begins, and the items of those before are let go."""
    monkeypatch.setattr("tests.doubles.dynamodb.MOST_BYTES", 2_000)  # some ten items
    for n in range(300):
        world.counters.count(HOUR, f"key{n % 60:02d}", Amounts({"requests": 1}), f"token-{n:06d}".encode())
    world.after_grace()
    held: WeakSet[_Page] = WeakSet()
    most = 0

    def followed(operation: str, asked: Mapping[str, Any]) -> Any:
        nonlocal most
        most = max(most, len(held))
        if operation == "Query" and asked["ExpressionAttributeValues"][":pk"]["S"].startswith("hour#"):
            answer = world.counters.client._engine.query(**asked)  # type: ignore[attr-defined]
            answer["Items"] = [_Page(item) for item in answer["Items"]]
            held.update(answer["Items"])
            return answer
        return None

    with told(world, followed):
        world.close()
    assert sum(rows(world).values()) == 300
    assert 5 < most <= 40


def test_a_key_that_is_cut_by_a_page_counts_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I2: whatever lies on which page, and wherever a run ends."""
    names = [f"c{n}" for n in range(9)]
    use(world, names)
    for n in range(120):
        world.counters.count(HOUR, f"c{n % 9}-0", Amounts({"requests": 1}), f"token-{n:06d}".encode())
    world.after_grace()
    monkeypatch.setattr("tests.doubles.dynamodb.MOST_BYTES", 700)
    while state(world) is None:
        close_in(world, 0.03)
    assert sum(rows(world).values()) == 129
    assert state(world) == (PeriodState.WRITTEN, 9, 0)


def test_a_step_that_died_is_done_again_and_finds_its_rows(world: World) -> None:
    """I2, I4: what a run has written before it notes how far it is."""
    use(world, ["acme", "bolt"])
    world.after_grace()

    def die(operation: str, asked: Mapping[str, Any]) -> None:
        if operation == "PutItem" and asked["Item"].get("done", {}).get("S", "").startswith('{"after"'):
            raise KeyboardInterrupt

    with told(world, die), pytest.raises(KeyboardInterrupt):
        world.close()
    assert rows(world)
    world.now += timedelta(minutes=5)
    world.run()
    assert rows(world) == {"customer#acme": 1, "customer#bolt": 1}
    assert [world.ledger.rows.at(HOUR, [customer(name)])[customer(name)].version for name in ("acme", "bolt")] == [3, 3]
    assert state(world) == ("CLOSED", 2, 0)


def test_a_piece_is_closed_by_one_run_at_a_time(world: World) -> None:
    """What another has leased is left to it; once its time is over, whoever comes goes on."""
    use(world, ["acme"])
    world.after_grace()
    progress, number = world.ledger.progress, partition("acme-0")
    taken = progress.take(
        progress.pieces(HOUR, PARTITIONS)[number],
        "another run",
        now=world.now,
        until=world.now + timedelta(minutes=5),
    )
    world.close()
    assert (rows(world), state(world)) == ({}, None)
    world.now += timedelta(minutes=5)
    world.close()
    assert (rows(world), state(world)) == ({"customer#acme": 1}, ("WRITTEN", 1, 0))
    with pytest.raises(LeaseLostError):
        taken.save(taken.done)


def test_runs_that_share_an_hour_write_it_once(world: World) -> None:
    """I2: one begins while another is at work, at each of its calls."""
    names = [f"c{n}" for n in range(12)]
    use(world, names, keys=2)
    world.after_grace()
    others: list[Closed] = []

    def another(operation: str, _asked: Mapping[str, Any]) -> None:
        if operation == "BatchGetItem" and len(others) < 20:
            others.append(Closed())
            others[-1] = replace(world.closer(), holder=f"run {len(others)}").close_due()

    with told(world, another):
        world.close()
    assert len(others) == 20
    assert rows(world) == dict.fromkeys((f"customer#{name}" for name in names), 2)
    assert state(world) == ("WRITTEN", 12, 0)


def test_a_partition_that_fails_keeps_no_other_waiting(world: World) -> None:
    """I6: the other pieces are closed, and the other hours; the run says what is wrong."""
    names = [f"c{n}" for n in range(10)]
    use(world, names)
    world.now = NEXT.end
    use(world, names, hour=NEXT)
    world.now = NEXT.end + timedelta(minutes=10)
    broken = f'"hour#{HOUR}#{partition("c1-0")}"'

    def fail(_operation: str, asked: Mapping[str, Any]) -> None:
        if broken in json.dumps(asked.get("ExpressionAttributeValues", {}), default=str):
            raise ClientError({"Error": {"Code": "InternalServerError", "Message": "a bad day"}}, "Query")

    with told(world, fail):
        closed = world.close()
    there = {f"customer#{name}" for name in names if partition(f"{name}-0") != partition("c1-0")}
    assert (set(rows(world)), closed.written) == (there, [NEXT])
    assert [str(error) for error in closed.errors] == [
        "An error occurred (InternalServerError) when calling the Query operation: a bad day"
    ]
    assert world.close().written == [HOUR]
    assert len(rows(world)) == 10


def test_a_row_that_cannot_be_written_keeps_no_other_waiting(world: World) -> None:
    """I6: its key is left, and tried again by each run until it is done; the hour is not written before."""
    names = [f"c{n}" for n in range(5)]
    use(world, names)
    world.after_grace()

    def fail(operation: str, asked: Mapping[str, Any]) -> None:
        if operation == "PutItem" and asked["Item"]["pk"]["S"] == "customer#c3":
            raise ClientError({"Error": {"Code": "ValidationException", "Message": "too large"}}, "PutItem")

    with told(world, fail):
        closed = world.close()
        assert set(rows(world)) == {f"customer#{name}" for name in names} - {"customer#c3"}
        assert (state(world), bool(closed.errors)) == (None, True)
        assert world.close().errors
    world.close()
    assert (len(rows(world)), state(world)) == (5, ("WRITTEN", 5, 0))


def test_what_a_key_leaves_behind_in_another_row_is_found(world: World) -> None:
    """I4: a run that died had written the key's own row; then the key got its customer."""
    world.record(world.line())
    world.after_grace()
    world.closer()._writer.create(HOUR, {"key1": Amounts({"requests": 1})})
    (held,) = world.ledger.holders.of_keys(["key1"]).values()
    world.ledger.holders.hand_over(held.with_holder(Holder(BEGINNING, "acme")))  # and nobody lives to put a mark
    world.close()
    assert world.in_ledger("customer#acme")["requests"][0] == 1
    assert world.in_ledger("key#key1")["requests"] == (0, "HELD")


# --- customers of several keys ----------------------------------------------------------------------------------------


def calls_of(world: World, do: Callable[[], object]) -> Counter[str]:
    """Count the calls that something makes."""
    calls: Counter[str] = Counter()
    with told(world, lambda operation, _asked: calls.update([operation])):
        do()
    return calls


def test_a_customer_with_one_key_is_one_write_and_hundredths_of_reads(world: World) -> None:
    """I10: what it costs does not come apart with the number of customers."""
    use(world, [f"c{n:03d}" for n in range(100)])
    world.after_grace()
    base = calls_of(world, world.close)
    assert base["PutItem"] - 100 <= 40
    assert base["Query"] <= 2 * PARTITIONS + 6  # no query for a customer


def test_a_customer_with_two_keys_is_a_query_and_a_write(world: World) -> None:
    """Which its keys are is read with a hundred others', what the other key was counted for by one query."""
    use(world, [f"c{n:03d}" for n in range(50)], keys=2)
    world.after_grace()
    calls = calls_of(world, world.close)
    assert calls["TransactWriteItems"] == 50
    assert calls["Query"] <= 50 + 2 * PARTITIONS + 6
    assert rows(world) == dict.fromkeys((f"customer#c{n:03d}" for n in range(50)), 2)


def test_a_customer_of_very_many_keys_is_closed_after_all_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I6: it delays nobody else."""
    monkeypatch.setattr(writing, "MOST_KEYS", 3)
    use(world, ["big"], keys=6)
    use(world, [f"c{n}" for n in range(5)])
    world.after_grace()
    order: list[str] = []

    def note(operation: str, asked: Mapping[str, Any]) -> None:
        if operation in ("PutItem", "TransactWriteItems"):
            writes = [asked["Item"]] if "Item" in asked else [one["Put"]["Item"] for one in asked["TransactItems"]]
            order.extend(item["pk"]["S"] for item in writes if item["sk"]["S"].startswith("usage#"))

    with told(world, note):
        world.close()
    assert (order[-1], len(order)) == ("customer#big", 6)
    assert (rows(world)["customer#big"], state(world)) == (6, ("WRITTEN", 6, 0))


def test_all_keys_of_a_customer_are_one_item_which_only_grows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a customer of an older version, which has none yet, and of one of too many keys for it."""
    monkeypatch.setattr("metering.stores.holders.MOST_HELD", 3)
    holders = world.ledger.holders
    world.customer("acme", "k1", "k2")
    place = {"pk": {"S": "customer#acme"}, "sk": {"S": "keys"}}
    item = world.ledger.client.get_item(TableName="ledger", Key=place)["Item"]
    assert sorted(item["keys"]["SS"]) == ["-", "k1", "k2"]
    world.ledger.client.delete_item(TableName="ledger", Key=place)
    assert calls_of(world, lambda: holders.keys_of_each(["acme", "nobody"]))["Query"] == 2
    assert calls_of(world, lambda: holders.keys_of_each(["acme", "nobody"]))["Query"] == 0
    world.customer("nobody", "k9")
    world.customer("acme", "k3")
    assert holders.keys_of_each(["acme", "nobody"]) == {"acme": {"k1", "k2", "k3"}, "nobody": {"k9"}}
    world.customer("acme", "k4", "k5", "k6")
    assert holders.keys_of_each(["acme"]) == {"acme": {f"k{n}" for n in range(1, 7)}}
    assert len(world.ledger.client.get_item(TableName="ledger", Key=place)["Item"]["keys"]["SS"]) == 5


# --- late marks -------------------------------------------------------------------------------------------------------


def test_a_storm_of_late_marks_is_got_through_in_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: each run finishes some, whatever the number."""
    monkeypatch.setattr(late_marks, "MARKS", 10)
    names = [f"c{n:02d}" for n in range(60)]
    use(world, names)
    world.after_grace()
    world.close()
    world.record(*(world.line(key=f"{name}-0") for name in names))
    left = [60]
    while left[-1]:
        close_in(world, 0.15)
        left.append(len(world.counters.marks.of_kind(Mark.LATE)))
        assert left[-1] < left[-2], left
    assert len(left) > 3
    assert set(rows(world).values()) == {2}


def test_a_mark_that_fails_stands_behind_all_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I6: however many fail, and although their hour is the oldest."""
    monkeypatch.setattr(late_marks, "MARKS", 3)
    names, ailing = [f"c{n}" for n in range(4)], [f"ailing{n:02d}" for n in range(20)]
    use(world, [*names, *ailing])
    world.now = NEXT.end
    use(world, names, hour=NEXT)
    world.now = NEXT.end + timedelta(minutes=10)
    world.close()
    world.record(*(world.line(key=f"{name}-0") for name in ailing))
    world.record(*(world.line(key=f"{name}-0", time=moment(NEXT)) for name in names))

    def fail(operation: str, asked: Mapping[str, Any]) -> None:
        if operation == "PutItem" and asked["Item"]["pk"]["S"].startswith("customer#ailing"):
            raise ClientError({"Error": {"Code": "ValidationException", "Message": "too large"}}, "PutItem")

    with told(world, fail):
        for _ in range(12):
            close_in(world, 0.25)
    assert {rows(world, NEXT)[f"customer#{name}"] for name in names} == {2}
    assert {mark.subject.id for mark in world.counters.marks.of_kind(Mark.LATE)} == {f"{name}-0" for name in ailing}
    world.close()
    assert world.counters.marks.of_kind(Mark.LATE) == []


def refusing(code: str, message: str, of: Callable[[str, Mapping[str, Any]], bool]) -> Callable[..., None]:
    """Return a hook that refuses some calls."""

    def refuse(operation: str, asked: Mapping[str, Any]) -> None:
        if of(operation, asked):
            raise ClientError({"Error": {"Code": code, "Message": message}}, operation)

    return refuse


@pytest.mark.parametrize("what", ["a partition that cannot be read", "a mark that cannot be cleared"])
def test_what_fails_of_the_marks_keeps_no_other_waiting(world: World, what: str) -> None:
    """I6: and the run says so."""
    names = [f"c{n}" for n in range(8)]
    use(world, names)
    world.after_grace()
    world.close()
    world.record(*(world.line(key=f"{name}-0") for name in names))
    broken = partition("key#c1-0")

    def fails(operation: str, asked: Mapping[str, Any]) -> bool:
        if what == "a mark that cannot be cleared":
            return operation == "DeleteItem" and asked["Key"]["sk"]["S"].endswith("key#c1-0")
        return operation == "Query" and asked["ExpressionAttributeValues"][":pk"]["S"] == f"late#{broken}"

    with told(world, refusing("InternalServerError", "a bad day", fails)):
        closed = world.close()
    assert {str(error)[-9:] for error in closed.errors} == {"a bad day"}
    waiting = {mark.subject.id for mark in world.counters.marks.of_kind(Mark.LATE)}
    there = {f"{name}-0" for name in names if partition(f"key#{name}-0") == broken}
    assert waiting == ({"c1-0"} if what == "a mark that cannot be cleared" else there)
    world.close()
    assert (set(rows(world).values()), world.counters.marks.of_kind(Mark.LATE)) == ({2}, [])


def test_of_hours_past_change_too_one_that_fails_keeps_no_other_waiting(world: World) -> None:
    """I6: there, what stands beside the counts is read alone."""
    names = [f"c{n}" for n in range(4)]
    use(world, names)
    world.after_grace()
    world.run()
    world.now = HOUR.end + timedelta(days=61)
    world.ledger.progress.advance_cursor(Hour.containing(world.now))
    for name in names:
        change = Change("1", "requests", 5, "a gift", "operator", 1)
        world.changes.add(name, HOUR, change)
    fails = refusing(
        "InternalServerError",
        "a bad day",
        lambda operation, asked: (
            operation == "Query" and asked["ExpressionAttributeValues"][":pk"]["S"] == "customer#c1"
        ),
    )
    with told(world, fails):
        assert len(world.close().errors) == 1
    found = {name: world.in_ledger(f"customer#{name}")["requests"][0] for name in names}
    assert found == {"c0": 6, "c1": 1, "c2": 6, "c3": 6}
    world.close()
    assert world.in_ledger("customer#c1")["requests"][0] == 6


# --- distinct values --------------------------------------------------------------------------------------------------


def seen(world: World, user: str, name: str = "acme-0", hour: Hour = HOUR) -> str:
    """Return the line of a request that a user made with a key."""
    return world.line(key=name, time=moment(hour), **{"authorizer.user": user})


def queries_of_claims(world: World, do: Callable[[], object]) -> int:
    """Count the queries of claims that something makes."""
    found = []
    with told(
        world,
        lambda operation, asked: (
            found.append(1)
            if operation == "Query" and asked["ExpressionAttributeValues"][":pk"]["S"].startswith("unique#")
            else None
        ),
    ):
        do()
    return len(found)


def test_an_hour_without_new_values_reads_no_claims(world: World) -> None:
    """I10: a month's claims are read for the hours that brought new ones, and when the keys have changed."""
    world.bill(Count(name="requests"), USERS)
    world.customer("acme", "acme-0", "acme-1")
    world.record(seen(world, "ann"), seen(world, "bob", "acme-1"))
    world.after_grace()
    assert queries_of_claims(world, world.close) == 2 * claims.PARTS // attribution.WHOLE
    world.now = NEXT.start + timedelta(minutes=30)
    world.record(seen(world, "ann", "acme-0", NEXT))
    world.now = NEXT.end + timedelta(minutes=10)
    world.record(seen(world, "cid", "acme-1", NEXT))
    assert queries_of_claims(world, world.close) > 0  # ann is known to key acme-0, cid is new
    later = NEXT.next()
    world.now = later.start + timedelta(minutes=30)
    world.record(seen(world, "ann", "acme-0", later))
    world.now = later.end + timedelta(minutes=10)
    assert queries_of_claims(world, world.close) == 0
    assert world.month_in_ledger("customer#acme", "users") == {HOUR: 2, NEXT: 1}


def test_a_claim_whose_moment_precedes_its_landing_bills_no_value_twice(world: World) -> None:
    """I2: ann is claimed for the next hour before she is for this one, and lands after this one was closed."""
    world.bill(Count(name="requests"), USERS)
    world.customer("acme", "acme-0", "acme-1")
    world.now = NEXT.start + timedelta(minutes=5)
    slow = world.batch(world.line(key="acme-1", time=moment(NEXT, 4), **{"authorizer.user": "ann"}))
    waiting: list[Mapping[str, Any]] = []

    def hold_back(operation: str, asked: Mapping[str, Any]) -> Any:
        if operation == "PutItem" and asked["Item"]["pk"]["S"].startswith("unique#"):
            waiting.append(asked)
            raise KeyboardInterrupt

    with told(world, hold_back), pytest.raises(KeyboardInterrupt):
        world.recorder().record(slow)
    world.now += timedelta(seconds=1)
    world.record(seen(world, "ann"))
    world.now = NEXT.start + timedelta(minutes=10)
    world.close()
    assert world.month_in_ledger("customer#acme", "users") == {HOUR: 1}
    world.counters.client.put_item(**waiting[0])  # as a call lands that nobody waits for any more
    world.recorder().record(slow)
    world.now = NEXT.end + timedelta(minutes=10)
    for _ in range(3):
        world.close()
    assert world.month_in_ledger("customer#acme", "users") == {NEXT: 1}


@pytest.mark.parametrize("given", ["given-0", "given-1", "given-2"])
def test_what_a_key_brought_before_it_was_given_away_counts_no_second_time(world: World, given: str) -> None:
    """I2: also where both keys lie in one step of the hour that is closed."""
    world.bill(Count(name="requests"), USERS)
    world.customer("acme", "kept", given)
    world.record(seen(world, "ann", given))
    world.after_grace()
    world.close()
    world.customer("bolt", given, since=NEXT)
    world.now = NEXT.end
    world.record(seen(world, "ann", "kept", NEXT), seen(world, "bob", "kept", NEXT), seen(world, "ann", given, NEXT))
    world.now = NEXT.end + timedelta(minutes=10)
    for _ in range(2):
        world.close()
    assert world.month_in_ledger("customer#acme", "users") == {HOUR: 1, NEXT: 1}
    assert world.month_in_ledger("customer#bolt", "users") == {NEXT: 1}


def test_one_customers_many_values_delay_nobody_and_go_on_where_they_were(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6, I10: a month of many values is joined part by part, over several runs, after all others."""
    monkeypatch.setattr("metering.stores.claims.SHARDS", 16)
    monkeypatch.setattr(settling, "MOST_CLAIMS", 20)
    monkeypatch.setattr(attribution, "MOST_JOINED", 5)
    monkeypatch.setattr(settling, "_SAVED_EVERY", timedelta(seconds=0.02))
    world.bill(Count(name="requests"), USERS)
    for name in ("big", "small"):
        world.customer(name, f"{name}-0", f"{name}-1")
    for n in range(2):
        world.record(*(seen(world, f"u{user}", f"big-{n}") for user in range(0, 150, n + 1)))
    world.record(seen(world, "ann", "small-0"), seen(world, "ann", "small-1"))
    world.after_grace()
    runs, parts = 0, [0]
    while state(world) is None:
        close_in(world, 0.25)
        runs += 1
        assert world.month_in_ledger("customer#small", "users") == {HOUR: 1}
        parts.append(world.ledger.progress.join(HOUR, "big", "users").parts)
        assert parts[-1] > parts[-2] or state(world), parts
    assert runs > 3
    assert world.month_in_ledger("customer#big", "users") == {HOUR: 150}


def test_what_is_gone_on_with_answers_what_was_asked_when_it_began(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1: what another key of the customer brings meanwhile may lie in a part that was joined before."""
    monkeypatch.setattr(settling, "MOST_CLAIMS", 2)
    monkeypatch.setattr(settling, "_SAVED_EVERY", timedelta(seconds=0.005))
    world.bill(Count(name="requests"), USERS)
    world.customer("big", "big-0", "big-1")
    world.record(*(seen(world, f"u{user}", f"big-{user % 2}") for user in range(10)))
    world.after_grace()
    while state(world) is None:
        close_in(world, 0.1)
    world.record(*(seen(world, f"v{user}", "big-0") for user in range(5)))
    while not world.ledger.progress.join(HOUR, "big", "users").parts:
        close_in(world, 0.1)
    assert world.month_in_ledger("customer#big", "users") == {HOUR: 10}
    world.record(*(seen(world, f"w{user}", "big-1") for user in range(15)))
    for _ in range(20):
        close_in(world, 0.2)
    assert world.counters.marks.of_kind(Mark.LATE) == []
    assert world.month_in_ledger("customer#big", "users") == {HOUR: 30}
    assert world.in_ledger("customer#big")["requests"][0] == 30


def test_a_join_goes_on_although_more_is_asked_all_the_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I6, I10: it comes to its end, and so does that of another customer."""
    monkeypatch.setattr(settling, "MOST_CLAIMS", 2)
    monkeypatch.setattr(settling, "_SAVED_EVERY", timedelta(seconds=0.005))
    world.bill(Count(name="requests"), USERS)
    for name in ("big", "zoe"):
        world.customer(name, f"{name}-0", f"{name}-1")
        world.record(*(seen(world, f"u{user}", f"{name}-{user % 2}") for user in range(10)))
    world.after_grace()
    world.close()
    world.record(*(seen(world, f"v{user}", "zoe-0") for user in range(5)))
    for n in range(60):
        world.record(seen(world, f"w{n}", f"big-{n % 2}"))
        close_in(world, 0.12)
    assert world.month_in_ledger("customer#zoe", "users") == {HOUR: 15}
    assert world.month_in_ledger("customer#big", "users")[HOUR] > 20


def test_a_key_that_an_older_version_gave_is_found(world: World) -> None:
    """I1: it knows nothing of the item that names all keys of a customer, and another key's late record comes after."""
    world.customer("acme", "acme-0")
    holding = world.ledger.holders.of_keys(["acme-1"])["acme-1"].with_holder(Holder(BEGINNING, "acme"))
    table, client = world.ledger.table, world.ledger.client
    client.put_item(TableName=table, Item={"pk": {"S": "customer#acme"}, "sk": {"S": "key#acme-1"}})
    holders = [{"M": {"since": {"S": str(BEGINNING)}, "customer": {"S": "acme"}, "reason": {"S": ""}}}]
    item: Any = {"pk": {"S": "key#acme-1"}, "sk": {"S": "holders"}, "version": {"N": "1"}, "holders": {"L": holders}}
    client.put_item(TableName=table, Item=item)
    assert world.ledger.holders.of_keys(["acme-1"])["acme-1"].holders == holding.holders
    world.record(world.line(key="acme-0"), world.line(key="acme-1"))
    world.after_grace()
    world.close()
    world.record(world.line(key="acme-0"))
    world.close()
    assert rows(world) == {"customer#acme": 3}


# --- hours ------------------------------------------------------------------------------------------------------------


def test_an_hour_is_settled_when_nothing_of_it_is_pending(world: World) -> None:
    """Whatever waits in an older one."""
    use(world, ["acme"])
    world.now = NEXT.end
    use(world, ["bolt"], hour=NEXT)
    world.now = NEXT.end + timedelta(minutes=10)
    world.close()
    (row,) = world.ledger.rows.at(NEXT, [customer("bolt")]).values()
    world.poster().post_row(row, "cus_bolt")
    world.now += timedelta(minutes=2)
    did = Closed()
    world.closer().settle(did, HOUR)
    assert (did.closed, did.unposted, did.behind) == ([NEXT], {HOUR}, 1)
    assert world.ledger.progress.cursor() == HOUR


def test_an_hour_that_others_closed_too_is_settled_when_the_index_shows_it(world: World) -> None:
    """I4: what they wrote a moment ago may be pending."""
    use(world, ["acme"])
    world.after_grace()
    assert world.close().alone == {HOUR}
    did = Closed(written=[HOUR])  # as of a run that found every piece closed by another
    with told(world, lambda _, asked: {"Count": 0, "ScannedCount": 0} if asked.get("IndexName") else None):
        world.closer().settle(did, HOUR)
        assert (did.alone, did.closed, did.behind) == (set(), [], 1)
        world.now += timedelta(minutes=1)
        world.closer().settle(did, HOUR)
    assert (did.closed, did.behind) == ([HOUR], 0)


def test_of_very_many_written_hours_some_are_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: the oldest among them, so that the cursor moves on."""
    monkeypatch.setattr(closing, "ASKED_AT_ONCE", 4)
    world.now = HOUR.start + timedelta(days=3)
    world.close()
    asked = []
    with told(world, lambda _, asked_for: asked.append(1) if asked_for.get("IndexName") else None):
        did = Closed()
        world.now += timedelta(minutes=2)
        world.closer().settle(did, HOUR)
    assert len(did.closed) == 4
    assert did.closed[:2] == [HOUR, NEXT]
    assert len(asked) <= 4 * 16
    assert world.ledger.progress.cursor() > HOUR  # type: ignore[operator]


def test_a_key_of_nobody_that_is_used_late_is_told(world: World) -> None:
    """I9: not only in hours that are closed for the first time."""
    world.after_grace()
    world.close()
    world.record(world.line())
    assert world.close().unmapped == 1
    assert world.in_ledger(str(key("key1")))["requests"] == (1, "HELD")


def test_the_size_of_the_due_hours_is_that_of_the_last_one(world: World) -> None:
    """By it, more runs are started."""
    use(world, ["acme", "bolt"])
    world.record(world.line(key="nobodys"))
    world.after_grace()
    world.close()
    world.now = NEXT.next().end + timedelta(minutes=10)
    closer = world.closer(minutes=60)
    assert closer.size_of(closer.open_hours()) == (3, 2)
    assert closer.size_of([]) == (0, 0)
