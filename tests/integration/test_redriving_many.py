"""Redriving many lines: they are counted together, each once, whatever dies where and whoever redrives what again."""

import hashlib
import json
import random
import threading
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, cast

import pytest
from botocore.exceptions import ClientError

from metering.counting import redriving
from metering.counting.recording import Hashing, Recorder
from metering.model.amounts import Amounts
from metering.model.batches import Batch, Source, batch_of
from metering.model.metrics import USAGE_LINES, Count, Max, Metric, Sum, Unique
from metering.model.periods import Hour
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.holders import Holders
from metering.stores.marks import Mark
from metering.stores.set_aside import SetAside
from tests.doubles.access_log import NONCE
from tests.doubles.aws import Client
from tests.doubles.dying import Dying, KilledError, Life
from tests.doubles.dynamodb import Tables
from tests.doubles.dynamodb_local import DynamoDBLocal
from tests.doubles.s3 import Buckets
from tests.integration.world import HOUR, World, event_ids, moment

MESSAGES: Final = "authorizer.messages"
NEXT: Final = HOUR.next()
LATER: Final = NEXT.end + timedelta(hours=1)
USERS: Final = ("ada", "bea", "cem")


def metrics(scale: int) -> tuple[Metric, ...]:
    """Return metrics that can read halves of messages, or only whole ones; the jobs are declared with the former."""
    jobs = (Sum(name="jobs", of=USAGE_LINES, deduplicate=True),) if scale else ()
    return (
        Count(name="requests", by="method"),
        Sum(name="messages", of=MESSAGES, scale=scale),
        Max(name="most", of=MESSAGES, scale=scale),
        Unique(name="users", of="authorizer.user", opaque_id=True),
        Sum(name="tokens", of=USAGE_LINES, scale=scale),
        *jobs,
    )


@pytest.fixture
def pieces_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are redriven ten at a time."""
    monkeypatch.setattr("metering.counting.redriving.PIECE", 10)


def set_aside(world: World, count: int, **changes: str) -> Batch:
    """Deliver so many lines with half a message, which its metric cannot read before it is declared otherwise."""
    world.bill(Sum(name="messages", of=MESSAGES))
    batch = world.batch(*(world.line(**{MESSAGES: "1.5"} | changes) for _ in range(count)))
    assert world.recorder().record(batch).set_aside == count
    world.bill(Sum(name="messages", of=MESSAGES, scale=1))
    return batch


def run(recorder: Recorder, batch: Batch, *, first: int = 0, minutes: int = 4) -> dict[str, Any]:
    """Return what a run answers that has some minutes."""
    wanted = {"batch": batch.token.hex(), "from": first}
    return redriving.redrive(recorder, wanted, deadline=recorder.clock() + timedelta(minutes=minutes))


def dying(world: World, at: int, *, of: Iterable[str] = ("update_item",), accepted: bool = False) -> Recorder:
    """Return the recorder of a process that dies at a write of the counters."""
    client: Any = Dying(world.counters.client, Life(at, accepted=accepted, of={*of}))
    return replace(world.recorder(), counters=replace(world.counters, client=client))


# --- pieces -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pieces_of_ten")
def test_a_run_that_is_cut_off_is_gone_on_with(world: World) -> None:
    """I1, I10: whatever was counted of a batch is noted but for the last lines, so that each run gets further."""
    batch = set_aside(world, 100)
    waiting = []
    for _ in range(8):
        with pytest.raises(KilledError):
            run(dying(world, 25), batch)
        waiting.append(len(world.set_aside.of(batch.token.hex()).waiting))
        if waiting[-1] <= 20:
            break
    assert waiting == sorted(waiting, reverse=True)
    assert len({*waiting}) == len(waiting)
    assert run(world.recorder(), batch)["to_do"] == 0
    assert world.counted() == {"key1": {"messages": 1500}}
    assert world.set_aside.of(batch.token.hex()).waiting == []


@pytest.mark.usefixtures("pieces_of_ten")
def test_a_run_whose_time_is_over_says_where_the_next_goes_on(world: World) -> None:
    """I10: it does some lines at least, so that the last run comes."""
    batch = set_aside(world, 25)
    answers = [run(world.recorder(), batch, minutes=0)]
    while answers[-1]["next"] is not None:
        answers.append(run(world.recorder(), batch, first=answers[-1]["next"], minutes=0))
    assert [(one["counted"], one["left"], one["to_do"], one["next"]) for one in answers] == [
        (10, 0, 15, 10),
        (10, 0, 5, 20),
        (5, 0, 0, None),
    ]
    assert world.counted() == {"key1": {"messages": 375}}


@pytest.mark.usefixtures("pieces_of_ten")
def test_lines_that_cannot_be_read_keep_none_behind_them_waiting(world: World) -> None:
    """I6: the next run goes on behind them, though they wait still, whoever counts others meanwhile."""
    batch = world.batch(*(f"nonsense {n}" for n in range(15)), *(world.line(time=moment(NEXT)) for _ in range(10)))
    world.recorder().record(batch)
    world.now = LATER
    first = run(world.recorder(), batch, minutes=0)
    assert (first["left"], first["next"]) == (10, 10)
    run(world.recorder(), batch)
    second = run(world.recorder(), batch, first=first["next"], minutes=0)
    assert (second["counted"], second["left"], second["next"]) == (0, 5, None)
    assert world.counted(NEXT) == {"key1": {"requests": 10, "bytes": 100}}


@pytest.mark.usefixtures("pieces_of_ten")
def test_what_the_table_refuses_keeps_no_other_lines_from_being_counted(world: World) -> None:
    """I6: they are left with what AWS said, and count once when it takes them."""
    batch = world.batch(
        *(world.line(key=f"k{n // 10}", time=moment(NEXT)) for n in range(30)),
    )
    world.recorder().record(batch)
    world.now = LATER

    class Refusing(Dying):
        def update_item(self, **asked: Any) -> Any:
            if asked["Key"]["sk"]["S"].startswith("k1#"):
                said: Any = {"Error": {"Code": "ValidationException", "Message": "Item size has exceeded"}}
                raise ClientError(said, "UpdateItem")
            return world.counters.client.update_item(**asked)

    refusing: Any = Refusing(world.counters.client)
    answer = run(replace(world.recorder(), counters=replace(world.counters, client=refusing)), batch)
    assert (answer["counted"], answer["left"]) == (20, 10)
    assert "to be redriven again: An error occurred (ValidationException)" in next(iter(answer["reasons"].values()))
    assert run(world.recorder(), batch)["counted"] == 10
    assert world.counted(NEXT) == {name: {"requests": 10, "bytes": 100} for name in ("k0", "k1", "k2")}


def test_lines_of_one_counter_are_counted_by_one_write(world: World) -> None:
    """I10: 256 items take a thousand lines of a key, and one mark."""
    batch = set_aside(world, 1000)
    world.after_grace()
    watched = dying(world, 0)
    assert run(watched, batch)["counted"] == 1000
    calls = cast("Dying", watched.counters.client).calls
    assert calls["update_item"] <= 2 * 256 + 2
    assert calls["get_item"] <= 2
    assert world.counted() == {"key1": {"messages": 15_000}}


# --- tokens -----------------------------------------------------------------------------------------------------------


def token_of_1_0_0(batch: Batch, line: str, metric: str) -> bytes:
    """Return the token under which version 1.0.0 counted a line for a metric."""
    return hashlib.sha256(f"{batch.token.hex()}\0{line}\0{metric}".encode()).digest()[:12]


@pytest.mark.parametrize("counted", [1, 7, 20])
def test_a_line_that_an_older_version_counted_is_not_counted_again(world: World, counted: int) -> None:
    """I2: its run died before its note."""
    batch = set_aside(world, 20)
    for one in world.set_aside.of(batch.token.hex()).waiting[:counted]:
        token = token_of_1_0_0(batch, one.line.id, "messages")
        assert world.counters.count(HOUR, "key1", Amounts({"messages": 15}), token)
    assert run(world.recorder(), batch)["counted"] == 20
    assert world.counted() == {"key1": {"messages": 300}}
    for _, line in world.set_aside.of(batch.token.hex()).lines:
        token = token_of_1_0_0(batch, line.id, "messages")
        assert not world.counters.count(HOUR, "key1", Amounts({"messages": 15}), token)


def some(numbers: Iterable[int]) -> dict[bytes, Amounts]:
    """Return batches of one item, each with its number."""
    return {hashlib.sha256(f"{n}".encode()).digest()[:11] + b"\x07": Amounts({"requests": n}) for n in numbers}


@pytest.mark.parametrize(
    ("before", "more", "writes"),
    [((), range(1, 9), 1), ((3,), range(1, 9), 2), (range(1, 9), range(1, 9), 1), (range(2, 5), range(1, 200), 5)],
)
def test_batches_of_an_item_are_added_but_for_those_that_it_has(
    before: Iterable[int], more: Iterable[int], writes: int
) -> None:
    """I2: a refused write shows them; 64 are added by one."""
    tables = Tables()
    Counters(cast("Any", Client("dynamodb", tables)), "counters").count_together(HOUR, "key1", some(before))
    watched = Dying(Client("dynamodb", tables))
    counting = Counters(cast("Any", watched), "counters")
    assert counting.count_together(HOUR, "key1", some(more)) == bool({*more} - {*before})
    assert watched.calls["update_item"] == writes
    assert not counting.count_together(HOUR, "key1", some(more))
    assert counting.read(HOUR)["key1"].sums == {"requests": sum({*before, *more})}
    (item,) = tables.items("counters")
    assert sorted(item["batches"]["BS"]) == sorted(some({*before, *more}))


def test_a_refusal_that_shows_nothing_is_no_count() -> None:
    """I1: nobody could say which of the batches is counted, so the error is raised, and nothing is noted."""

    class Silent(Tables):
        def update_item(self, **asked: Any) -> dict[str, Any]:
            return super().update_item(**{**asked, "ReturnValuesOnConditionCheckFailure": "NONE"})

    counting = Counters(cast("Any", Client("dynamodb", Silent())), "counters")
    assert counting.count_together(HOUR, "key1", some((1, 2)))
    with pytest.raises(ClientError, match="ConditionalCheckFailedException"):
        counting.count_together(HOUR, "key1", some((2, 3)))
    assert counting.read(HOUR)["key1"].sums == {"requests": 3}


def test_batches_together_find_room_for_their_values_or_count_as_one() -> None:
    """I1, I2: a full item, a batch that it has, and values that it has not, all at once."""
    tables = Tables()
    counting = Counters(cast("Any", Client("dynamodb", tables)), "counters")
    tokens = [*some(range(10))]
    split = [Amounts({"m": 50}, splits={"m": {f"v{n}-{value}": 1 for value in range(50)}}) for n in range(10)]
    for together in (range(2), range(5), range(10)):
        assert counting.count_together(HOUR, "key1", {tokens[n]: split[n] for n in together})
    (item,) = tables.items("counters")
    assert len(item["names"]["BS"]) <= 128
    (amounts,) = counting.read(HOUR).values()
    assert (amounts.sums, sum(amounts.splits["m"].values())) == ({"m": 500}, 500)


def test_the_largest_write_of_many_batches_is_one_that_dynamodb_takes(dynamodb_local: DynamoDBLocal) -> None:
    """I1: AWS's own engine takes the condition of 64 tokens beside the longest expression that can be declared."""
    client: Any = dynamodb_local.client()
    keys = [{"AttributeName": name, "KeyType": kind} for name, kind in (("pk", "HASH"), ("sk", "RANGE"))]
    types = [{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")]
    client.create_table(TableName="counters", KeySchema=keys, AttributeDefinitions=types, BillingMode="PAY_PER_REQUEST")
    sums = {f"{'m' * 28}{n}": 10**12 for n in range(188)}
    splits = {name: {f"{value:064d}": 10**10 for value in range(50)} for name in list(sums)[:4]}
    counting = Counters(client, "counters")
    try:
        for upto in (64, 66):
            assert counting.count_together(HOUR, "key1", dict.fromkeys(some(range(upto)), Amounts(sums, splits=splits)))
        (amounts,) = counting.read(HOUR).values()
    finally:
        client.delete_table(TableName="counters")
    assert set(amounts.sums.values()) == {66 * 10**12}


# --- whatever happens -------------------------------------------------------------------------------------------------


@dataclass
class Game:
    """Lines of both kinds that were set aside, and processes that redrive them and die."""

    seed: int
    tables: Tables = field(default_factory=Tables)
    bucket: Buckets = field(default_factory=Buckets)
    lock: threading.Lock = field(default_factory=threading.Lock)
    now: datetime = NEXT.start - timedelta(minutes=20)
    expected: dict[tuple[Hour, str], Tally[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)

    def recorder(self, scale: int, life: Life | None = None) -> Recorder:
        """Return the recorder of a new process, whose calls are atomic each."""
        life = life or Life()
        client: Any = Dying(Client("dynamodb", Atomic(self.tables, self.lock)), life)
        bucket: Any = Dying(Client("s3", Atomic(self.bucket, self.lock)), life)
        hashing = Hashing(b"secret", Holders(client, "ledger"))
        counters, claims = Counters(client, "counters"), Claims(client, "counters")
        return Recorder(
            metrics(scale), (NONCE,), counters, claims, SetAside(bucket, "bucket"), lambda: self.now, hashing
        )

    def access_log(self, world: World) -> Batch:
        """Deliver access-log lines that are set aside for two metrics, or wholly, or cannot ever be read."""
        lines, users = ["nonsense"], set()
        for _ in range(self.draw.randrange(5, 60)):
            hour, key = self.draw.choice((HOUR, HOUR, NEXT)), self.draw.choice(("key1", "key1", "key2"))
            user, halves = self.draw.choice(USERS), self.draw.randrange(1, 40, 2)
            method = self.draw.choice(("GET", "PUT"))
            values = {MESSAGES: f"{halves / 2}", "authorizer.user": user}
            lines.append(world.line(time=moment(hour), key=key, method=method, **values))
            sums = self.expected.setdefault((hour, key), Tally())
            sums.update({"requests": 1, "messages": halves * 5})
            sums["most"] = max(sums["most"], halves * 5)
            users.add((key, user))
        self.users = Tally(key for key, _ in users)
        batch = batch_of(event_ids(lines), lines, Source.ACCESS_LOG, "log-group stream")
        return self._deliver(batch)

    def usage_lines(self) -> Batch:
        """Deliver usage lines whose tokens cannot be read, and whose jobs are not declared."""
        lines: list[str] = []
        jobs: dict[str, int] = {}
        for _ in range(self.draw.randrange(5, 30)):
            name, halves = f"job-{self.draw.randrange(10)}", self.draw.randrange(1, 40, 2)
            jobs.setdefault(name, self.draw.randrange(1, 5))
            report = {"id": name, "time": int(moment(HOUR)), "key": "key3", "tokens": halves / 2, "jobs": jobs[name]}
            lines.append(json.dumps({"usage": report}))
            self.expected.setdefault((HOUR, "key3"), Tally())["tokens"] += halves * 5
        self.expected[HOUR, "key3"]["jobs"] = sum(jobs.values())
        return self._deliver(batch_of(event_ids(lines), lines, Source.USAGE_LINES, "app stream"))

    def _deliver(self, batch: Batch) -> Batch:
        """Deliver a batch until it is recorded; the first process may die."""
        for dies_at in (self.draw.randrange(12), 0):
            try:
                self.recorder(0, Life(dies_at, accepted=self.draw.random() < 0.5)).record(batch)
            except KilledError:
                continue
        return batch

    def redrive(self, batch: Batch, dies_at: int = 0, place: int | None = 0) -> bool:
        """Redrive a batch's lines from a place on, to the end or until the process dies; say whether it lived."""
        life = Life(dies_at, accepted=self.draw.random() < 0.5)
        recorder = self.recorder(1, life)
        try:
            while place is not None:
                wanted = {"batch": batch.token.hex(), "from": place, "doubtful": True}
                place = redriving.redrive(recorder, wanted, deadline=self.now)["next"]
        except KilledError:
            return False
        return True

    def lose_notes(self) -> None:
        """Let another run, which had read the notes before, have written over them."""
        for name in [name for name in self.bucket.objects() if name.endswith(".redriven.json")]:
            self.bucket.delete_object(Bucket="bucket", Key=name)

    def judge(self) -> None:
        """Compare the counters with a straight count of the lines."""
        counters = self.recorder(1).counters
        users: Tally[str] = Tally()
        found: dict[tuple[Hour, str], Mapping[str, int]] = {}
        for hour in (HOUR, NEXT):
            for key, amounts in counters.read(hour).items():
                found[hour, key] = amounts.sums | amounts.peaks
                users[key] += amounts.uniques.get("users", 0)
                assert sum(amounts.splits.get("requests", {}).values()) == amounts.sums.get("requests", 0)
        assert found == self.expected
        assert +users == self.users


class Atomic:
    """A client of which one call is done at a time, as DynamoDB and S3 do each."""

    def __init__(self, client: Any, lock: threading.Lock) -> None:
        self._client, self._lock = client, lock

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found) or isinstance(found, type):
            return found

        def call(**arguments: Any) -> Any:
            with self._lock:
                return found(**arguments)

        return call


def batches(game: Game, world: World) -> Iterator[Batch]:
    """Yield what was set aside."""
    yield game.access_log(world)
    yield game.usage_lines()


@pytest.mark.parametrize("seed", range(40))
def test_each_line_counts_once_whatever_dies_where(seed: int, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1, I2: at any write, with other lines together in each run, and notes that are lost."""
    game = Game(seed)
    for batch in batches(game, world):
        game.now = LATER
        lives = False
        while not lives:
            monkeypatch.setattr("metering.counting.redriving.PIECE", game.draw.choice((1, 3, 10, 500)))
            if game.draw.random() < 0.3:
                game.lose_notes()
            game.redrive(batch, game.draw.randrange(40), game.draw.randrange(40))
            lives = game.redrive(batch, game.draw.choice((0, 0, 10, 20, 40, 60)))
        assert {one.line.message for one in game.recorder(1).set_aside.of(batch.token.hex()).waiting} <= {"nonsense"}
        game.now = NEXT.start - timedelta(minutes=20)
    game.judge()
    assert {(mark.hour, mark.subject.id) for mark in game.recorder(1).counters.marks.of_kind(Mark.LATE)} >= {
        *game.expected
    }


@pytest.mark.parametrize("seed", range(5))
def test_each_line_counts_once_whoever_redrives_at_once(
    seed: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2: four operators, with other lines together each."""
    game = Game(100 + seed)
    for batch in batches(game, world):
        game.now = LATER
        for size in (3, 500):
            monkeypatch.setattr("metering.counting.redriving.PIECE", size)
            with ThreadPoolExecutor(4) as pool:
                assert all(pool.map(lambda place, batch=batch: game.redrive(batch, 0, place), (20, 10, 0, 0)))
            game.lose_notes()
        game.now = NEXT.start - timedelta(minutes=20)
    game.judge()


def test_lines_together_are_doubtful_as_each_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I2: of two keys' lines that newer code set aside, one counter has the batch, and the other has not."""
    lines = [world.line(key=f"key{n % 2}") for n in range(40)]
    batch = world.batch(*lines)
    with pytest.raises(KilledError):
        dying(world, 1, accepted=True).record(batch)
    (counted,) = world.counted()
    (other,) = {"key0", "key1"} - {counted}
    replace(world.recorder(), nonces=("another-nonce-of-before",)).record(batch)
    monkeypatch.setattr("metering.counting.redriving.PIECE", 15)
    answer = run(world.recorder(), batch)
    assert (answer["counted"], answer["left"]) == (20, 20)
    assert {*answer["reasons"].values()} == {
        "doubtful: its counter has the batch, so an earlier delivery may have counted it"
    }
    assert world.counted() == {name: {"requests": 20, "bytes": 200} for name in (counted, other)}
