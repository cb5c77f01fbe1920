"""Sweeping each minute: who is asked for, near or closed, then everyone in rounds."""

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aws_lambda_powertools import Metrics

import watch_limits
from metering.limits import sweeping
from metering.limits.sweeping import Sweeper
from metering.model.declared import Declared
from metering.model.limits import Level, Limit, OfCustomer, Stop
from metering.model.metrics import Count
from metering.model.periods import Hour
from metering.settings import WatchLimitsSettings
from metering.stores import aws, gate_list
from metering.stores.gate_list import Asked, Closed, GateList, Near, Sweep
from metering.stores.limits import Gate, Home
from tests.doubles.aws import Client, Nobody
from tests.doubles.dying import Dying, KilledError, Life
from tests.doubles.lambdas import context
from tests.integration.limits import PLAN, QUEUE, Limited

REACHED = "limit:requests/day:2026-11-22T00"


def sweeper(limited: Limited, *, seconds: float = 45, client: Any = None) -> Sweeper:
    """Return a sweeper of a process that has just begun."""
    client = client or limited.client()
    looker = limited.looker(client)
    gate, deadline = GateList(client, "access"), limited.now + timedelta(seconds=seconds)
    return Sweeper(looker, gate, looker.reader.ledger.holders, limited.time.look, deadline)


@pytest.fixture
def limited() -> Limited:
    """Acme, who may use 100 requests a day, and beta, who has two keys and may as well."""
    made = Limited()
    made.customer()
    made.customer("beta", "key2", "key3")
    return made


# --- who is near ------------------------------------------------------------------------------------------------------


def test_a_round_finds_who_is_near_and_what_everyone_else_has_left(limited: Limited) -> None:
    """Of a metric, the least that one source of a customer has left that is not near."""
    limited.use(90)
    limited.use(30, source="key2")
    assert limited.gate.head() == (0, {})
    assert sweeper(limited).sweep().looked == {"acme", "beta"}
    now = int(limited.now.timestamp())
    assert limited.gate.near() == {"acme": Near(("key1",), {"requests": 10}, now, 1100)}
    assert limited.gate.head() == (1, {"requests": 25})


def test_who_is_near_is_looked_at_each_minute_and_dropped_when_it_is_not(limited: Limited) -> None:
    """The number of the head grows with each change, and else does not."""
    limited.use(90)
    sweeper(limited).sweep()
    limited.pass_by(minutes=1)
    assert sweeper(limited).sweep().looked == {"acme"}
    assert limited.gate.head()[0] == 1
    limited.use(4)
    sweeper(limited).sweep()
    assert (limited.gate.head()[0], limited.gate.near()["acme"].left) == (2, {"requests": 6})
    limited.items.set("acme", OfCustomer("requests", "day", 10_000, raised=True))
    sweeper(limited).sweep()
    assert (limited.gate.head()[0], limited.gate.near()) == (3, {})


def test_of_too_many_the_nearest_are_listed_and_the_others_count_among_the_rest(
    limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What instances read is bounded."""
    monkeypatch.setattr(gate_list, "MOST_NEAR", 1)
    limited.use(90)
    limited.use(96, source="key2")
    sweeper(limited).sweep()
    assert [*limited.gate.near()] == ["beta"]
    assert limited.gate.head()[1] == {"requests": 10}


def test_a_command_looks_at_once_and_tells_every_instance(limited: Limited) -> None:
    """A limit was set that leaves less than anybody had."""
    sweeper(limited).sweep()
    assert limited.gate.head() == (1, {"requests": 40})
    limited.items.set("acme", OfCustomer("requests", "month", 7, reason="a trial"))
    assert sweeper(limited).look(["acme", "nobody"]).looked == {"acme", "nobody"}
    assert limited.gate.head() == (2, {"requests": 7})


def test_who_is_near_is_told_also_while_it_is_not_known_what_others_have_left(limited: Limited) -> None:
    """In a large deployment the first round takes a while."""
    limited.gate.save_sweep(Sweep("acme", begun=int(limited.now.timestamp())))
    limited.use(90)
    sweeper(limited).look(["acme", "beta"])
    assert (limited.gate.head(), [*limited.gate.near()]) == ((1, {}), ["acme"])


def test_who_is_near_is_told_also_after_a_round_that_met_nobody() -> None:
    """In a new deployment, whose customers come later."""
    limited = Limited()
    sweeper(limited).sweep()
    limited.customer()
    limited.customer("beta", "key2")
    limited.use(90)
    sweeper(limited).look(["acme", "beta"])
    assert (limited.gate.head()[1], [*limited.gate.near()]) == ({"requests": 80}, ["acme"])


# --- in rounds --------------------------------------------------------------------------------------------------------


def test_a_round_begins_every_quarter_of_an_hour(limited: Limited) -> None:
    """What is left at least is that of this round and of the one before."""
    sweeper(limited).sweep()
    assert limited.gate.head()[1] == {"requests": 40}
    for name in ("acme", "beta"):
        limited.items.set(name, OfCustomer("requests", "day", 1000, raised=True))
    limited.pass_by(minutes=14)
    assert sweeper(limited).sweep().looked == set()
    limited.pass_by(minutes=1)
    assert sweeper(limited).sweep().looked == {"acme", "beta"}
    assert (limited.gate.head()[1], limited.gate.sweep().customers) == ({"requests": 40}, 2)
    limited.pass_by(minutes=15)
    sweeper(limited).sweep()
    # Of who was far a quarter of an hour ago, a fifth of what it had left.
    assert limited.gate.head()[1] == {"requests": 80}


def test_a_round_reads_no_usage_of_who_was_far_lately(limited: Limited) -> None:
    """What brings them nearer is seen in the stream; once an hour a round looks all the same."""
    limited.use(39)
    sweeper(limited).sweep()
    limited.use(61)  # and the stream was lost
    for _ in range(3):
        limited.pass_by(minutes=15)
        assert sweeper(limited).sweep().looked >= {"acme"}
        assert limited.items.of("acme").reasons(limited.now) == []
    limited.pass_by(minutes=15)
    sweeper(limited).sweep()
    assert [reason.name for reason in limited.items.of("acme").reasons(limited.now)] == [
        "limit:requests/day:2026-11-22T00"
    ]


def test_a_round_looks_exactly_at_who_was_not_far_or_of_whom_something_changed(limited: Limited) -> None:
    """Half of the first step is 40: an edit, a row written anew, and usage beyond that as a look found it."""

    def is_looked_at() -> bool:
        before = limited.items.of("acme").states.get("requests/day")
        limited.use(1)
        limited.pass_by(minutes=15)
        sweeper(limited).sweep()
        after = limited.items.of("acme").states.get("requests/day")
        assert after is not None
        return before is None or after.looked > before.looked

    limited.use(20)
    assert is_looked_at()
    assert not is_looked_at()
    own = limited.items.set("acme", OfCustomer("requests", "day", 200, raised=True))
    assert is_looked_at()
    assert not is_looked_at()
    limited.items.clear("acme", own)
    assert is_looked_at()
    limited.items.note_change("acme")
    assert is_looked_at()
    limited.use(20)
    limited.look()  # as the stream would have it
    assert is_looked_at()
    assert is_looked_at()


def test_several_sweepers_share_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group is taken by one: whoever meets another takes the next."""
    monkeypatch.setattr(sweeping, "GROUP", 2)
    limited = Limited()
    for number in range(7):
        limited.customer(f"customer{number}", f"key{number}")
    client, others = limited.client(), list[str]()

    def other(operation: str, arguments: Any) -> None:
        is_taking = operation == "PutItem" and arguments["Item"]["pk"]["S"] == "sweep"
        if is_taking and len(others) < 2:
            helper = sweeper(limited)
            others.extend(helper._take_group())

    client.before.append(other)
    swept = sweeper(limited, client=client).sweep()
    assert (sorted([*swept.looked, *others]), len(others)) == ([f"customer{number}" for number in range(7)], 2)
    assert limited.gate.sweep().customers == 7


def test_a_round_goes_on_where_the_time_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken is looked at whole, also after the deadline; the next minute's work begins after it."""
    monkeypatch.setattr(sweeping, "GROUP", 2)
    limited = Limited()
    for number in range(5):
        limited.customer(f"customer{number}", f"key{number}")
    looked: list[set[str]] = []
    for _ in range(3):
        client = limited.client()
        client.before.append(lambda operation, _: limited.pass_by(minutes=1) if operation == "PutItem" else None)
        looked.append(sweeper(limited, client=client).sweep().looked)
    assert looked == [{"customer0", "customer1"}, {"customer2", "customer3"}, {"customer4"}]


def test_whoever_dies_at_any_write_of_a_sweep_loses_nothing(limited: Limited) -> None:
    """What it had taken is looked at in the next round, if it was not near, asked for or closed."""
    limited.use(90)
    for dies_at in range(1, 12):
        limited.use(1, source="key2")
        with suppress(KilledError):
            sweeper(limited, client=Dying(limited.client(), Life(dies_at))).sweep()
        limited.pass_by(minutes=15)
    limited.pass_by(minutes=55)
    sweeper(limited).sweep()
    assert [*limited.gate.near()] == ["acme"]
    assert limited.items.of("beta").states["requests/day"].used == 11


def test_one_customers_oddity_keeps_nobody_from_being_looked_at(limited: Limited) -> None:
    """I6: what stands about acme cannot be read."""
    limited.tables.put_item(
        TableName="ledger",
        Item={"pk": {"S": "limits#acme"}, "sk": {"S": "subscribed"}, "value": {"S": '{"at":"never"}'}},
    )
    limited.use(100, source="key2")
    swept = sweeper(limited).sweep()
    assert (swept.failed, swept.looked) == (["acme"], {"acme", "beta"})
    assert limited.gate.asked()["beta"].level is Level.STOPPED


@pytest.mark.parametrize("odd", [{}, {"value": {"N": "1"}}, {"value": {"S": "{}"}}])
@pytest.mark.parametrize(
    ("table", "pk", "sk"),
    [("ledger", "limits#acme", "held#operator"), *(("access", pk, "acme") for pk in ("near", "gate", "closed"))],
)
def test_an_item_that_is_not_as_it_is_written_is_its_customers_concern_alone(
    limited: Limited, table: str, pk: str, sk: str, odd: Mapping[str, Any]
) -> None:
    """I6. Whatever lacks what it should have: others are looked at."""
    limited.tables.put_item(TableName=table, Item={"pk": {"S": pk}, "sk": {"S": sk}, **odd})
    limited.use(100, source="key2")
    swept = sweeper(limited).sweep()
    assert swept.failed == (["acme"] if table == "ledger" else [])
    assert limited.gate.asked()["beta"].level is Level.STOPPED


def test_help_is_asked_for_where_there_are_more_customers_than_one_takes_in_a_minute(
    limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the round before had minutes of work, and three more at most."""
    assert sweeper(limited).wanted_help() == 0
    sweeper(limited).sweep()
    limited.pass_by(minutes=15)
    monkeypatch.setattr(sweeping, "PER_MINUTE", 1)
    assert sweeper(limited).wanted_help() == 2
    monkeypatch.setattr(sweeping, "MOST_HELP", 1)
    assert sweeper(limited).wanted_help() == 1
    assert sweeper(limited).help().looked == {"acme", "beta"}
    assert sweeper(limited).wanted_help() == 0


# --- what was asked for, and who is closed ----------------------------------------------------------------------------


def test_the_gate_is_woken_each_minute_while_somebody_is_asked_for(limited: Limited) -> None:
    """A stop that waits for more than a minute is told by the seconds; a reopening is not."""
    limited.gate.ask("beta", Asked(Level.OPEN, 0))
    limited.use(100)
    limited.look()
    limited.queue.sent.clear()
    limited.pass_by(seconds=60)
    assert sweeper(limited).sweep().unenforced_s == 0
    assert limited.queue.sent
    limited.pass_by(seconds=1)
    assert sweeper(limited).sweep().unenforced_s == 61


def test_a_look_that_has_no_time_is_done_first_by_the_next_sweep(limited: Limited) -> None:
    """At its deadline a sweep has told what waits, and looked at nobody."""
    limited.gate.ask("beta", Asked(Level.OPEN, 0))
    assert sweeper(limited, seconds=0).sweep().looked == set()
    assert limited.queue.sent == ["{}"]


def test_a_window_that_turned_reopens_with_the_next_sweep(limited: Limited) -> None:
    """Nobody has used anything: the customer is closed, and so it is looked at."""
    limited.use(100)
    limited.look()
    asked = limited.gate.asked()["acme"]
    limited.items.save_gate("acme", Gate(Level.STOPPED, (REACHED,), int(limited.now.timestamp())))
    limited.gate.put_closed("acme", Closed(Level.STOPPED, asked.at, int(Hour.parse("2026-11-23T00").start.timestamp())))
    limited.gate.done("acme", asked)
    sweeper(limited).sweep()
    assert limited.gate.asked() == {}
    limited.time.moment = Hour.parse("2026-11-23T00").start
    sweeper(limited).sweep()
    assert limited.gate.asked()["acme"].level is Level.OPEN


def test_a_ledger_restored_to_before_a_stop_stops_again(limited: Limited) -> None:
    """What had acted is forgotten: it acts again by what the counters hold, and is told again by the same id."""
    earlier = copy.deepcopy(limited.tables._items["ledger"])
    limited.use(100)
    limited.look()
    limited.items.save_home("key1", Home(("plan1",), Level.STOPPED))
    limited.items.save_gate("acme", Gate(Level.STOPPED))
    limited.gate.put_closed("acme", Closed(Level.STOPPED, 1, homes={"key1": ("plan1",)}))
    limited.gate.done("acme", limited.gate.asked()["acme"])

    limited.tables._items["ledger"] = earlier
    sweeper(limited).sweep()
    assert limited.gate.asked()["acme"].level is Level.STOPPED
    ids = [one["Detail"]["id"] for one in limited.bus.put]
    assert (len(ids), len({*ids})) == (4, 2)


def test_a_ledger_restored_to_after_a_correction_has_the_gate_open_who_is_closed(limited: Limited) -> None:
    """The ledger knows neither a reason nor that keys were closed; the gate's own list does."""
    limited.gate.put_closed("acme", Closed(Level.STOPPED, 1, homes={"key1": ("plan1",)}))
    sweeper(limited).sweep()
    assert limited.gate.asked()["acme"].level is Level.OPEN


def test_who_is_closed_and_not_on_the_gates_list_is_brought_again(limited: Limited) -> None:
    """The table that authorizers read was emptied: the next round has the gate close its callers anew."""
    limited.use(100)
    limited.look()
    limited.items.save_gate("acme", Gate(Level.STOPPED, (REACHED,), int(limited.now.timestamp())))
    limited.gate.done("acme", limited.gate.asked()["acme"])
    sweeper(limited).sweep()
    assert limited.gate.asked()["acme"].level is Level.STOPPED


def test_who_was_closed_before_a_version_without_limits_ran_is_opened_when_its_window_has_turned(
    limited: Limited,
) -> None:
    """The table of who is closed is a new one after such a time, during which nobody opened any key."""
    limited.use(100)
    limited.look()
    limited.items.save_home("key1", Home(("plan1",), Level.STOPPED))
    limited.items.save_gate("acme", Gate(Level.STOPPED, (REACHED,), int(limited.now.timestamp())))
    limited.gate.put_closed("acme", Closed(Level.STOPPED, 1, homes={"key1": ("plan1",)}))
    limited.tables._items["access"].clear()
    sweeper(limited).sweep()
    assert limited.gate.asked()["acme"].level is Level.STOPPED
    limited.gate.done("acme", limited.gate.asked()["acme"])
    limited.tables._items["access"].clear()
    limited.time.moment = Hour.parse("2026-11-23T00").start
    sweeper(limited).sweep()
    assert limited.gate.asked()["acme"].level is Level.OPEN


def test_a_caller_that_is_closed_until_another_moment_is_brought_again(limited: Limited) -> None:
    """Its window has come to end later, and it is stopped still; authorizers would let it in at the earlier moment."""
    limited.use(100)
    limited.look()
    limited.items.save_gate("acme", Gate(Level.STOPPED, (REACHED,), int(limited.now.timestamp())))
    limited.gate.done("acme", limited.gate.asked()["acme"])
    until = int(Hour.parse("2026-11-23T00").start.timestamp())
    limited.gate.put_closed("acme", Closed(Level.STOPPED, 1, until))
    sweeper(limited).sweep()
    assert limited.gate.asked() == {}
    limited.gate.put_closed("acme", Closed(Level.STOPPED, 1, until - 3600))
    sweeper(limited).sweep()
    assert limited.gate.asked()["acme"].level is Level.STOPPED


def test_whose_reason_has_ended_waits_for_nobody_who_is_near_or_asked_for(
    limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are: of those asked for so many are looked at, and the time is over before who is near."""
    monkeypatch.setattr(sweeping, "MOST_ASKED", 0)
    limited.items.save_gate("acme", Gate(Level.STOPPED, ("limit:requests/hour:2026-11-22T04",)))
    limited.gate.put_closed("acme", Closed(Level.STOPPED, 1, int(limited.now.timestamp())))
    limited.gate.put_near("beta", Near(("key2",), {"requests": 1}, 1))
    limited.gate.ask("beta", Asked(Level.OPEN, 1))
    one = sweeper(limited)
    look = one.looker.look

    def take_long(name: str, now: Any) -> Any:
        limited.pass_by(minutes=1)
        return look(name, now)

    monkeypatch.setattr(type(one.looker), "look", lambda _, name, now: take_long(name, now))
    assert one.sweep().looked == {"acme"}
    assert limited.gate.asked()["acme"].level is Level.OPEN


def test_sources_beyond_those_that_are_listed_count_among_the_rest(limited: Limited) -> None:
    """Of a customer that is near, 200 are listed: the others are as those of whoever is not near."""
    many = (Limit("requests", 1000, per="day", at=(Stop(100),)),)
    limited.plans = (PLAN, msgspec.structs.replace(PLAN, name="many", limits=many))
    limited.customer("gamma", *(f"g{number:03d}" for number in range(201)), plans=("many",))
    limited.use(900, source="g000")
    sweeper(limited).sweep()
    near = limited.gate.near()["gamma"]
    assert (len(near.sources), near.left) == (200, {"requests": 100})
    assert limited.gate.head()[1] == {"requests": 1}


# --- the function -----------------------------------------------------------------------------------------------------


@pytest.fixture
def started(limited: Limited, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """The function's process has just begun; return what it starts."""
    runs: list[dict[str, Any]] = []

    def start(_: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        runs.append({**arguments, "Payload": json.loads(arguments["Payload"])})
        return {"StatusCode": 202}

    functions = Client("lambda", Nobody())
    functions.before.append(start)
    declared = tmp_path / "declared.json"
    declared.write_bytes(msgspec.json.encode(Declared((Count(name="requests"),), limited.plans)))
    monkeypatch.setattr(watch_limits, "DECLARED", declared)
    monkeypatch.setattr(watch_limits, "_clock", limited.time.look)
    monkeypatch.setattr(watch_limits, "signals", Metrics(namespace="Metering", service="Metering"))
    made = {"dynamodb": limited.client(), "queues": limited.queue, "events": limited.bus, "mail": limited.mail}
    for name, client in {**made, "functions": functions}.items():
        monkeypatch.setattr(aws, name, cache(lambda client=client: client))
    settings = WatchLimitsSettings("counters", "ledger", "access", "Metering", QUEUE, "https://metering.example/usage")
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    watch_limits._looker.cache_clear()
    yield runs
    watch_limits._looker.cache_clear()


def test_a_tick_sweeps_and_starts_help(
    limited: Limited, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What helps goes on with the round and starts nothing."""
    assert watch_limits.handler({"sweep": True}, context()) == {"looked": 2, "failed": 0}
    monkeypatch.setattr(sweeping, "PER_MINUTE", 2)
    limited.pass_by(minutes=15)
    assert watch_limits.handler({"sweep": True, "help": True}, context()) == {"looked": 2, "failed": 0}
    limited.pass_by(minutes=15)
    assert watch_limits.handler({"sweep": True}, context())["looked"] == 2
    [run] = started
    assert (run["FunctionName"], run["InvocationType"]) == ("Metering-Function", "Event")
    assert run["Payload"] == {"sweep": True, "help": True}


@pytest.mark.usefixtures("started")
def test_a_stop_that_waits_too_long_is_a_signal(limited: Limited, capsys: pytest.CaptureFixture[str]) -> None:
    """In seconds; while nothing waits, nothing is sent, which would cost money."""
    limited.use(100)
    watch_limits.handler({"sweep": True}, context())
    assert "LimitsUnenforced" not in capsys.readouterr().out
    limited.pass_by(seconds=90)
    watch_limits.handler({"sweep": True}, context())
    assert json.loads(capsys.readouterr().out)["LimitsUnenforced"] == [90]


@pytest.mark.usefixtures("started")
def test_a_command_is_told_who_was_looked_at(limited: Limited) -> None:
    """Whoever could not be is not named."""
    limited.tables.put_item(
        TableName="ledger",
        Item={"pk": {"S": "limits#acme"}, "sk": {"S": "subscribed"}, "value": {"S": "{}"}},
    )
    assert watch_limits.handler({"look": ["acme", "beta"]}, context()) == {"looked": ["beta"]}


@pytest.mark.usefixtures("started")
def test_an_event_that_nobody_sends_is_refused() -> None:
    """With what was wanted."""
    with pytest.raises(ValueError, match=r"an event has Records, or says sweep or look, got \['swept'\]"):
        watch_limits.handler({"swept": True}, context())
