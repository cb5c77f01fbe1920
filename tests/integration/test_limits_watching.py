"""The counters' stream → exact looks: whoever comes to a threshold is looked at, whatever becomes of the stream."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

import watch_limits
from infra.operate.customers import Customers, Entry
from metering.limits import watching
from metering.limits.watching import Taken, Watcher
from metering.model.declared import Declared
from metering.model.limits import Level
from metering.model.metrics import Count
from metering.model.periods import Hour
from metering.settings import WatchLimitsSettings
from metering.stores import aws as clients
from metering.stores.gate_list import GateList, Near
from metering.stores.holders import Holders
from tests.doubles.aws import Client
from tests.doubles.lambdas import context
from tests.doubles.stream import Record, Streamed, record
from tests.integration.limits import HOUR, QUEUE, Limited


@dataclass
class Watched(Limited):
    """A deployment whose counters have a stream; ``calls`` are those of its watchers."""

    tables: Streamed = field(default_factory=Streamed)
    calls: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    fails: Callable[[str, Mapping[str, Any]], bool] = lambda _, __: False

    def watcher(self, *, usage_lines: bool = False) -> Watcher:
        """Return what a process watches with that has just begun."""
        client: Any = Client("dynamodb", self.tables)
        client.before.append(self._note)
        looker = self.looker(client, usage_lines=usage_lines)
        return Watcher(looker, GateList(client, "access"), Holders(client, "ledger"))

    def _note(self, operation: str, arguments: Mapping[str, Any]) -> None:
        if self.fails(operation, arguments):
            raise ClientError({"Error": {"Code": "InternalServerError"}}, operation)
        self.calls.append((operation, arguments))

    def used(self, number: int, source: str = "key1", **how: Any) -> list[Record]:
        """Count usage, and return what the stream tells of it."""
        self.tables.take()
        self.use(number, source=source, **how)
        return self.tables.take()

    def later(self, seconds: float = 5) -> None:
        """Let time pass."""
        self.time.advance(seconds)

    def take(self, watcher: Watcher, records: list[Record], seconds: float = 5) -> Taken:
        """Let time pass, and hand a batch to a process."""
        self.later(seconds)
        return watcher.take(records, self.now)

    def enter(self, name: str = "acme") -> None:
        """Let the sweep look at a customer that is near."""
        looked = self.look(name)
        self.gate.put_near(name, Near(looked.sources, dict(looked.left), int(self.now.timestamp())))
        self.gate.move_head({})

    def level(self, name: str = "acme") -> Level:
        """Return how far a customer's keys are to be closed."""
        return max((reason.level for reason in self.items.of(name).reasons(self.now)), default=Level.OPEN)

    def read(self, operation: str, pk: str) -> int:
        """Return how often watchers asked for a partition."""
        return sum(1 for asked, arguments in self.calls if asked == operation and pk in str(arguments))


@pytest.fixture
def limited() -> Watched:
    """Acme may use 100 requests a day, by key1, and is told of 80."""
    made = Watched()
    made.customer("acme", "key1")
    return made


@pytest.fixture
def near(limited: Watched) -> Watched:
    """Acme has 10 left until it is told, and all processes may know."""
    limited.use(70)
    limited.enter()
    return limited


def test_whoever_is_near_is_looked_at_at_once(near: Watched) -> None:
    """By a process that knows nothing but the list; and what it decides is written."""
    assert near.take(near.watcher(), near.used(30)).looked == ["acme"]
    assert near.level() is Level.STOPPED
    assert near.bus.steps == ["notify:80", "stop:100"]


def test_many_small_batches_that_together_cross_are_noticed(near: Watched) -> None:
    """Each by itself is nothing."""
    watcher = near.watcher()
    for number in range(30):
        assert near.level() is Level.OPEN, number
        near.take(watcher, near.used(1))
    assert near.level() is Level.STOPPED


def test_a_jump_within_one_batch_is_noticed_of_somebody_who_is_not_near(limited: Watched) -> None:
    """Others may use an eighth of the least that anybody has left, without a look."""
    limited.gate.move_head({"requests": 80})
    watcher = limited.watcher()
    assert limited.take(watcher, limited.used(9)).looked == []
    assert limited.take(watcher, limited.used(91)).looked == ["acme"]
    assert limited.level() is Level.STOPPED


def test_a_stranger_is_looked_at_as_long_as_no_round_has_met_anybody_with_such_a_limit(limited: Watched) -> None:
    """As in a new deployment, whose first round was over before it had customers; the next begins a while later."""
    limited.gate.move_head({})
    watcher = limited.watcher()
    assert limited.take(watcher, limited.used(1)).looked == ["acme"]
    assert limited.take(watcher, limited.used(1)).looked == []  # what it has left is known by now
    assert limited.take(watcher, limited.used(98)).looked == ["acme"]
    assert limited.level() is Level.STOPPED


def test_a_jump_is_noticed_of_usage_of_an_earlier_hour(limited: Watched) -> None:
    """What a recount brings in, or comes late, counts in the window too."""
    limited.gate.move_head({"requests": 80})
    limited.time.moment = HOUR.end + timedelta(minutes=30)
    assert limited.take(limited.watcher(), limited.used(100, hour=HOUR)).looked == ["acme"]
    assert limited.level() is Level.STOPPED


def test_lost_records_are_made_good_by_the_next_one(near: Watched) -> None:
    """For a look reads the counters, not the stream."""
    watcher = near.watcher()
    near.take(watcher, near.used(1))
    near.used(40)
    assert near.level() is Level.OPEN
    near.take(watcher, near.used(1))
    assert near.level() is Level.STOPPED


def test_records_that_come_again_decide_nothing_again(near: Watched) -> None:
    """Neither to the same process nor to another."""
    watcher, records = near.watcher(), near.used(30)
    near.take(watcher, records)
    near.take(watcher, records)
    near.take(near.watcher(), records)
    assert near.bus.steps == ["notify:80", "stop:100"]


def test_two_processes_that_each_see_one_of_a_customers_keys_let_nothing_pass(limited: Watched) -> None:
    """Whatever order the shards' records come in."""
    Customers(limited.ledger, limited.counters).add(
        Entry("globex", "Globex", "", ("key2", "key3"), None), now=limited.now
    )
    limited.subscribe("globex")
    limited.use(70, source="key2")
    limited.enter("globex")
    shards = {source: (limited.watcher(), [limited.used(1, source) for _ in range(15)]) for source in ("key2", "key3")}
    draw = random.Random(1)
    while any(waiting for _, waiting in shards.values()):
        watcher, waiting = shards[draw.choice([source for source, (_, some) in shards.items() if some])]
        limited.take(watcher, waiting.pop(draw.randrange(len(waiting))))
    assert limited.level("globex") is Level.STOPPED
    assert limited.bus.steps == ["notify:80", "stop:100"]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 1, 2, 9, 40]), st.booleans()), min_size=1, max_size=60)
)
def test_whatever_process_sees_what_a_limit_is_never_reached_unseen(uses: list[tuple[int, int, bool]]) -> None:
    """Though each forgets everything now and then; 5 seconds later, all know who is near."""
    near = Watched()
    near.customer("acme", "key1")
    near.enter()
    watchers = [near.watcher() for _ in range(4)]
    total = 0
    for number, amount, forgets in uses:
        if forgets:
            watchers[number] = near.watcher()
        total += amount
        near.take(watchers[number], near.used(amount))
        if total >= 100:
            assert near.level() is Level.STOPPED
            return
    assert near.level() is Level.OPEN


def test_whoever_comes_near_is_entered_so_that_others_know(limited: Watched) -> None:
    """Another process has an allowance from before, and looks at the next use."""
    limited.gate.move_head({"requests": 80})
    here, there = limited.watcher(), limited.watcher()
    limited.take(there, limited.used(10))
    assert not limited.gate.near()
    limited.take(here, limited.used(62))
    assert limited.gate.near()["acme"].left == {"requests": 8}
    assert limited.take(there, limited.used(1)).looked == ["acme"]


def test_usage_that_was_reported_of_a_customer_without_a_key_is_watched(limited: Watched) -> None:
    """Its source names the customer."""
    limited.gate.move_head({"requests": 8})
    watcher = limited.watcher(usage_lines=True)
    assert limited.take(watcher, limited.used(100, "@acme")).looked == ["acme"]
    assert limited.level() is Level.STOPPED


def test_a_customer_is_looked_at_once_a_batch(near: Watched) -> None:
    """However many records there are of it."""
    records = [one for _ in range(5) for one in near.used(1)]
    assert near.take(near.watcher(), records).looked == ["acme"]
    assert near.read("Query", "limits#acme") == 1


def test_a_customer_is_looked_at_once_a_second(limited: Watched) -> None:
    """What is wanted sooner is owed, and done with the next batch after that, whoever it is of."""
    limited.gate.move_head({"requests": 80})
    watcher = limited.watcher()
    assert limited.take(watcher, limited.used(20)).looked == ["acme"]
    taken = limited.take(watcher, limited.used(80), 0.4)
    assert (taken.looked, taken.owed) == ([], 1)
    assert limited.level() is Level.OPEN
    assert limited.take(watcher, [], 0.4).looked == []
    assert limited.take(watcher, [], 0.4).looked == ["acme"]
    assert limited.level() is Level.STOPPED


def test_whoever_has_hardly_anything_left_is_looked_at_at_each_use(near: Watched) -> None:
    """However soon it comes."""
    near.use(7)
    watcher = near.watcher()
    assert near.take(watcher, near.used(1)).looked == ["acme"]
    assert near.take(watcher, near.used(1), 0.1).looked == ["acme"]
    assert near.take(watcher, near.used(1), 0.1).looked == ["acme"]
    assert near.bus.steps == ["notify:80"]


def test_of_very_many_keys_a_look_is_not_called_for_by_each_use(
    limited: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: each look reads all of them, and so little is left that none may use any unseen; the look is owed."""
    monkeypatch.setattr(watching, "SOURCES_A_SECOND", 10)
    limited.customer("many", *(f"many{number}" for number in range(50)))
    watcher = limited.watcher()
    assert limited.take(watcher, limited.used(90, "many1")).looked == ["many"]
    taken = limited.take(watcher, limited.used(9, "many2"), seconds=1)
    assert (taken.looked, taken.owed) == ([], 1)
    assert limited.take(watcher, [], seconds=4).looked == ["many"]


def test_what_nobody_limits_is_asked_for_once(limited: Watched) -> None:
    """Neither a key that is nobody's, nor a customer without a limit."""
    limited.gate.move_head({"requests": 8})
    limited.customer("free", "key2", plans=())
    watcher = limited.watcher()
    assert limited.take(watcher, [*limited.used(50, "key2"), *limited.used(50, "key9")]).looked == ["free"]
    asked = len(limited.calls)
    assert limited.take(watcher, [*limited.used(50, "key2"), *limited.used(50, "key9")], 1).looked == []
    assert limited.calls[asked:] == []


def test_it_is_asked_every_five_seconds_whether_the_list_changed(near: Watched) -> None:
    """And read only if it has."""
    watcher = near.watcher()
    for _ in range(11):
        near.take(watcher, [], 1)
    assert (near.read("GetItem", "head"), near.read("Query", "'near'")) == (3, 1)
    near.gate.move_head({})
    near.take(watcher, [])
    assert (near.read("GetItem", "head"), near.read("Query", "'near'")) == (4, 2)


POISON: dict[str, Callable[[Record], Any]] = {
    "no keys": lambda one: one["dynamodb"].pop("Keys"),
    "no image": lambda one: one["dynamodb"].pop("NewImage"),
    "an amount that is no number": lambda one: one["dynamodb"]["NewImage"].update({"n:requests": {"S": "many"}}),
    "an amount of another type": lambda one: one["dynamodb"]["NewImage"].update({"n:requests": {"L": [{"N": "1"}]}}),
    "no source": lambda one: one["dynamodb"]["Keys"].update({"sk": {"S": "#7"}}),
    "a source that is no id": lambda one: one["dynamodb"]["Keys"].update({"sk": {"S": f"{'k' * 200}#7"}}),
    "no hour": lambda one: one["dynamodb"]["Keys"].update({"pk": {"S": "hour#today#1"}}),
    "nothing at all": lambda one: one.clear(),
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
def test_a_record_that_cannot_be_read_stops_no_other(
    near: Watched, poison: Callable[[Record], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told in the log, without what it holds."""
    bad, good = near.used(1), near.used(30)
    poison(bad[0])
    taken = near.take(near.watcher(), [*bad, *good])
    assert (taken.records, taken.skipped, taken.looked) == (1, 1, ["acme"])
    assert near.level() is Level.STOPPED
    assert "many" not in capsys.readouterr().out


def test_what_is_no_counter_and_what_expired_are_left_alone(near: Watched) -> None:
    """The mapping leaves it out; should it not, nothing happens."""
    mark = {"pk": {"S": "late#1"}, "sk": {"S": "2026-11-22T05#key#key1"}, "n:requests": {"N": "1000"}}
    (expired,) = near.used(30)
    taken = near.take(near.watcher(), [record(None, mark), {**expired, "eventName": "REMOVE"}])
    assert (taken.records, taken.skipped, taken.looked) == (2, 0, [])


def test_a_customer_whose_look_fails_keeps_nobody_else_from_being_looked_at(near: Watched) -> None:
    """It is owed one, which is made ten seconds later, whoever the batch is of (I6)."""
    near.customer("globex", "key2")
    near.use(70, source="key2")
    near.enter("globex")
    near.fails = lambda _, arguments: "limits#globex" in str(arguments)
    watcher = near.watcher()
    taken = near.take(watcher, [*near.used(30), *near.used(30, "key2")])
    assert (taken.looked, taken.failed, taken.owed) == (["acme"], 1, 1)
    near.fails = lambda _, __: False
    assert near.take(watcher, []).looked == []
    assert near.take(watcher, []).looked == ["globex"]
    assert (near.level(), near.level("globex")) == (Level.STOPPED, Level.STOPPED)


def test_a_customer_whose_items_are_odd_is_that_customers_alone(near: Watched) -> None:
    """They cannot be read at all."""
    near.client().put_item(
        TableName="ledger", Item={"pk": {"S": "limits#acme"}, "sk": {"S": "gate"}, "value": {"S": "{"}}
    )
    near.customer("globex", "key2")
    near.use(70, source="key2")
    near.enter("globex")
    taken = near.take(near.watcher(), [*near.used(30), *near.used(30, "key2")])
    assert (taken.looked, taken.failed, taken.owed) == (["globex"], 1, 1)


@pytest.mark.parametrize("table", ["access", "ledger"])
def test_a_table_that_is_down_fails_the_batch_so_that_it_comes_again(limited: Watched, table: str) -> None:
    """And nothing is lost by what was taken off the first time."""
    limited.gate.move_head({"requests": 80})
    watcher, records = limited.watcher(), limited.used(100)
    limited.fails = lambda _, arguments: table in str(arguments)
    with pytest.raises(ClientError):
        limited.take(watcher, records)
    limited.fails = lambda _, __: False
    assert limited.take(watcher, records).looked == ["acme"]


def test_where_every_look_fails_the_batch_fails(near: Watched) -> None:
    """It is not several customers that are odd."""
    near.customer("globex", "key2")
    near.use(70, source="key2")
    near.enter("globex")
    near.fails = lambda _, arguments: "limits#" in str(arguments)
    watcher, records = near.watcher(), [*near.used(30), *near.used(30, "key2")]
    with pytest.raises(ClientError):
        near.take(watcher, records)
    near.fails = lambda _, __: False
    near.later(10)
    assert {*near.take(watcher, records).looked} == {"acme", "globex"}


def test_looks_of_a_batch_are_bounded(limited: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest are owed, and made by the next batches."""
    monkeypatch.setattr(watching, "MOST_LOOKS", 2)
    limited.gate.move_head({"requests": 0})
    for number in range(2, 6):
        limited.customer(f"customer{number}", f"key{number}")
    watcher = limited.watcher()
    records = [one for number in range(1, 6) for one in limited.used(1, f"key{number}")]
    looked: list[str] = []
    owed = []
    for batch in (records, [], []):
        taken = limited.take(watcher, batch)
        looked += taken.looked
        owed.append(taken.owed)
    assert looked == ["acme", "customer2", "customer3", "customer4", "customer5"]
    assert owed == [3, 1, 0]


def test_a_key_that_was_handed_over_calls_for_whoever_held_it_in_the_hour(limited: Watched) -> None:
    """Usage of the hour before is the former holder's."""
    limited.gate.move_head({"requests": 8})
    limited.time.moment = HOUR.end + timedelta(minutes=30)
    to_globex = Entry("globex", "Globex", "", ("key1",), Hour.containing(limited.now))
    Customers(limited.ledger, limited.counters).add(to_globex, now=limited.now)
    limited.subscribe("globex")
    records = [*limited.used(100, hour=HOUR), *limited.used(1)]
    assert {*limited.take(limited.watcher(), records).looked} == {"acme", "globex"}
    assert (limited.level(), limited.level("globex")) == (Level.STOPPED, Level.OPEN)


@pytest.fixture
def function(near: Watched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Watched]:
    """The function's process has just begun, with what is declared in its zip."""
    declared = tmp_path / "declared.json"
    declared.write_bytes(msgspec.json.encode(Declared((Count(name="requests"),), near.plans)))
    monkeypatch.setattr(watch_limits, "DECLARED", declared)
    monkeypatch.setattr(watch_limits, "_clock", lambda: near.now)
    for name, client in {
        "dynamodb": near.client(),
        "queues": near.queue,
        "events": near.bus,
        "mail": near.mail,
    }.items():
        monkeypatch.setattr(clients, name, cache(lambda client=client: client))
    settings = WatchLimitsSettings("counters", "ledger", "access", "Metering", QUEUE, "https://metering.example/usage")
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    _forget()
    yield near
    _forget()


def _forget() -> None:
    for cached in (watch_limits._looker, watch_limits._watcher):
        cached.cache_clear()


def test_a_batch_of_the_stream_reaches_the_function(function: Watched) -> None:
    """What it remembers outlives a batch."""
    first = watch_limits.handler({"Records": function.used(1)}, context())
    assert first == {"records": 1, "skipped": 0, "looked": 1, "failed": 0, "owed": 0}
    function.later()
    assert watch_limits.handler({"Records": function.used(29)}, context())["looked"] == 1
    assert function.level() is Level.STOPPED
    assert function.queue.sent == ["{}"]
