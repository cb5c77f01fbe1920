"""The gate: keys are open if and only if no reason holds, whatever dies, meets, is throttled or changes meanwhile."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from infra.operate.customers import Customers, Entry
from infra.operate.restore import ask_for_all
from metering.limits.gate import Gate, Ran
from metering.limits.keys import CallerKeys, PlanKeys
from metering.limits.usage_plans import CALLS_A_SECOND, UsagePlans
from metering.model.connections import Connection, Form, Step
from metering.model.limits import OPERATOR, UNPAID, Level, LimitState
from metering.model.periods import Hour
from metering.stores.connections import Connections
from metering.stores.counters import Counters
from metering.stores.gate_list import Asked, GateList
from metering.stores.holders import Holders
from metering.stores.ledger import Ledger
from metering.stores.limits import Gate as Stands
from metering.stores.limits import Held, LimitItems
from metering.stores.table import RowChangedError
from metering.stripe.pacing import Pace
from tests.doubles.clock import Clock
from tests.doubles.dying import Dying, KilledError, Life
from tests.doubles.usage_plans import UsagePlansOfAws

HOUR = Hour.parse("2026-11-22T05")
STAGE, OTHER_STAGE = "api1/prod", "api2/prod"


@dataclass
class Place:
    """A ledger, an Access table and an API Gateway; acme has two keys in the plan Standard, globex one."""

    dynamodb: Any
    time: Clock = field(default_factory=lambda: Clock(HOUR.start + timedelta(minutes=30)))
    told: list[tuple[str, tuple[str, ...], Level]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.aws = UsagePlansOfAws(clock=self.time)
        self.standard = self.aws.add_plan("Standard", STAGE, rate=50)
        self.first, self.second, self.other = (self.aws.add_key(self.standard) for _ in range(3))
        self.hold("acme", self.first, self.second)
        self.hold("globex", self.other)

    @property
    def limits(self) -> LimitItems:
        """What is known of limits."""
        return LimitItems(self.dynamodb, "ledger")

    @property
    def access(self) -> GateList:
        """The Access table."""
        return GateList(self.dynamodb, "access")

    def hold(self, customer: str, *keys: str, since: Hour | None = None) -> None:
        """Give keys to a customer."""
        customers = Customers(Ledger(self.dynamodb, "ledger"), Counters(self.dynamodb, "counters"))
        customers.add(Entry(customer, customer.capitalize(), "", keys, since), now=self.time.moment)

    def gate(self, dynamodb: Any = None, apigateway: Any = None, clock: Callable[[], Any] | None = None) -> Gate:
        """Return a worker's gate; it tells into ``told``."""
        dynamodb = dynamodb or self.dynamodb
        plans = UsagePlans(
            apigateway or self.aws.client(), Pace(CALLS_A_SECOND, now=self.time, sleep=self.time.sleep), clock=self.time
        )
        return Gate(
            LimitItems(dynamodb, "ledger"),
            Holders(dynamodb, "ledger"),
            PlanKeys(plans, "Metering", CallerKeys(GateList(dynamodb, "access"))),
            clock or (lambda: self.time.moment),
            GateList(dynamodb, "access"),
            self.tell,
        )

    def tell(self, name: str, _reasons: Any, stands: Stands) -> bool:
        """Note what is told."""
        self.told.append((name, stands.untold, stands.level))
        return True

    def ask(self, name: str, level: Level, rate: int = 0, at: int | None = None) -> None:
        """Ask the gate to look at a customer."""
        self.access.ask(name, Asked(level, int(self.time.now) if at is None else at, rate))

    def reach(self, name: str, level: Level, limit: str = "requests/day") -> None:
        """Let a limit of today come to a level, as the watcher does: ask, write, ask."""
        before = self.limits.of(name).states.get(limit, LimitState())
        day = Hour.parse("2026-11-22T00")
        self.ask(name, level)
        state = LimitState(str(day), str(Hour(day.number + 24)), level=level, since=int(self.time.now))
        self.limits.save_state(name, limit, LimitState(**{**_fields(state), "version": before.version}))
        self.ask(name, level)

    def run(self, gate: Gate | None = None, minutes: float = 10, holder: str = "one") -> Ran:
        """Let a worker run."""
        return (gate or self.gate()).run(holder, self.time.moment + timedelta(minutes=minutes))

    def plans(self) -> list[set[str]]:
        """Return the names of the plans of acme's keys and of globex's."""
        return [self.aws.of(key) for key in (self.first, self.second, self.other)]


def _fields(state: LimitState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in state.__struct_fields__}


@pytest.fixture
def place(dynamodb: Any) -> Place:
    """Two customers, open."""
    return Place(dynamodb)


OPEN = [{"Standard"}, {"Standard"}, {"Standard"}]
STOPPED: list[set[str]] = [set(), set(), {"Standard"}]


def test_a_stop_takes_all_keys_out_and_its_end_puts_them_back(place: Place) -> None:
    """Nobody else's; and what is written says so, and who was told."""
    place.reach("acme", Level.STOPPED)
    assert (place.run().brought, place.plans()) == (1, STOPPED)
    one = place.limits.of("acme")
    assert (one.gate.level, one.gate.reasons) == (Level.STOPPED, ("limit:requests/day:2026-11-22T00",))
    assert dict(place.access.closed())["acme"].homes == {place.first: ("plan0001",), place.second: ("plan0001",)}
    assert (place.access.asked(), [*dict(place.access.closed())]) == ({}, ["acme"])
    place.time.advance(24 * 3600)
    place.ask("acme", Level.OPEN)
    place.run()
    assert (place.plans(), [*place.access.closed()], place.access.asked()) == (OPEN, [], {})
    assert place.told == [
        ("acme", ("1:open:stopped",), Level.STOPPED),
        ("acme", ("2:stopped:open",), Level.OPEN),
    ]
    assert place.limits.of("acme").gate.untold == ()


def test_as_long_as_one_reason_holds_the_keys_stay_closed(place: Place) -> None:
    """Clearing one touches no other."""
    place.limits.hold("acme", OPERATOR, Held(1))
    unpaid = place.limits.hold("acme", UNPAID, Held(2))
    place.reach("acme", Level.STOPPED)
    place.run()
    place.limits.release("acme", UNPAID, unpaid)
    place.reach("acme", Level.OPEN)
    place.run()
    assert (place.plans(), place.limits.of("acme").gate.reasons) == (STOPPED, (OPERATOR,))
    place.limits.release("acme", OPERATOR, place.limits.of("acme").held[OPERATOR])
    place.gate().bring("acme")
    assert place.plans() == OPEN


# --- dying, meeting, changing ----------------------------------------------------------------------------------------

LANE = {"metering:lane": "Metering"}


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("dies_at", range(1, 14))
@pytest.mark.parametrize("level", [Level.STOPPED, Level.SLOWED])
def test_a_worker_that_dies_anywhere_is_made_good_by_the_next(
    place: Place, level: Level, dies_at: int, *, accepted: bool
) -> None:
    """Before or after each call and each write, while it closes and while it opens; a key's home is never lost."""
    place.aws.add_plan("Lane", STAGE, rate=1, tags=LANE)
    closed = STOPPED if level is Level.STOPPED else [{"Lane"}, {"Lane"}, {"Standard"}]
    for reached, plans in ((level, closed), (Level.OPEN, OPEN)):
        place.reach("acme", reached)
        life = Life(dies_at, accepted=accepted)
        dying = place.gate(Dying(place.dynamodb, life), Dying(place.aws.client(), life))
        try:
            place.run(dying)
        except KilledError:
            place.time.advance(61)  # its lease ends
        place.run(holder="two")
        assert (place.plans(), place.access.asked()) == (plans, {})
        assert place.limits.of("acme").gate.level is reached


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("dies_at", range(1, 12))
def test_callers_are_brought_after_a_death_anywhere(place: Place, dies_at: int, *, accepted: bool) -> None:
    """Closing and opening."""
    for level, closed in ((Level.STOPPED, True), (Level.OPEN, False)):
        place.reach("acme", level)
        life = Life(dies_at, accepted=accepted)
        dying: Any = Dying(place.dynamodb, life)
        for dynamodb, holder in ((dying, "one"), (place.dynamodb, "two")):
            gate = place.gate(dynamodb)
            object.__setattr__(gate, "keys", CallerKeys(GateList(dynamodb, "access"), lambda _: False))
            try:
                place.run(gate, holder=holder)
            except KilledError:
                place.time.advance(61)
        assert [bool(place.access.caller(key)) for key in (place.first, place.second)] == [closed] * 2
        assert place.access.asked() == {}


@pytest.mark.parametrize("dies_at", range(1, 10))
def test_a_change_in_the_middle_of_a_death_is_made_good(place: Place, dies_at: int) -> None:
    """A worker dies as it closes, and the reason is gone before the next one begins."""
    place.reach("acme", Level.STOPPED)
    life = Life(dies_at, accepted=True)
    with pytest.raises(KilledError):
        place.run(place.gate(Dying(place.dynamodb, life), Dying(place.aws.client(), life)))
    place.time.advance(61)
    place.reach("acme", Level.OPEN)
    place.run(holder="two")
    assert (place.plans(), [*place.access.closed()]) == (OPEN, [])


@pytest.mark.parametrize("turn", range(1, 16))
def test_reasons_that_change_while_keys_are_brought_are_seen(place: Place, turn: int) -> None:
    """At any of its calls: what counts are the reasons after the last one."""
    place.reach("acme", Level.STOPPED)
    life = Life(of={"get_usage_plans", "get_usage_plan_key", "delete_usage_plan_key", "put_item", "query"})

    def step() -> None:
        if life.writes == turn:
            life.step = lambda: None
            place.reach("acme", Level.OPEN)

    life.step = step
    place.run(place.gate(Dying(place.dynamodb, life), Dying(place.aws.client(), life)))
    assert (place.plans(), place.access.asked(), [*place.access.closed()]) == (OPEN, {}, [])


@pytest.mark.parametrize("turn", range(1, 12))
@pytest.mark.parametrize("first", [Level.STOPPED, Level.OPEN])
def test_two_workers_without_a_lease_end_where_the_reasons_are(place: Place, first: Level, turn: int) -> None:
    """One stands still in the middle while the reasons change and another does all of it, then goes on."""
    if first is Level.OPEN:
        place.reach("acme", Level.STOPPED)
        place.run()
    place.reach("acme", first)
    last = Level.OPEN if first is Level.STOPPED else Level.STOPPED
    life = Life()

    def step() -> None:
        if life.writes == turn:
            life.step = lambda: None
            place.reach("acme", last)
            place.gate().bring("acme")

    life.step = step
    place.gate(Dying(place.dynamodb, life), Dying(place.aws.client(), life)).bring("acme")
    if life.step is step:  # it has fewer writes
        life.writes = turn
        step()
    assert place.plans() == (OPEN if last is Level.OPEN else STOPPED)
    assert place.limits.of("acme").gate.level is last


def test_only_who_has_the_lease_works(place: Place) -> None:
    """Whoever is woken meanwhile leaves all of it, and does not wake others."""
    place.reach("acme", Level.STOPPED)
    now = place.time.moment
    place.access.lease("other", now=now, until=now + timedelta(seconds=60))
    ran = place.run()
    assert (ran.brought, ran.left, place.aws.called) == (0, 0, [])
    place.time.advance(60)
    assert place.run().brought == 1


def test_who_is_asked_for_as_the_lease_is_given_back_is_not_forgotten(place: Place) -> None:
    """Whoever was woken for it saw the lease held, and did nothing."""
    place.reach("acme", Level.STOPPED)
    life = Life(of={"delete_item"})

    def step() -> None:
        if life.writes == 1 and not place.access.asked():  # the second deletion: the lease
            life.step = lambda: None
            place.reach("globex", Level.STOPPED)

    life.step = step
    assert place.run(place.gate(Dying(place.dynamodb, life))).brought == 2
    assert place.plans() == [set(), set(), set()]


def test_what_is_left_when_the_time_is_over_is_said_and_goes_on(place: Place) -> None:
    """No key is begun after the deadline; the lease is given back."""
    for name in ("acme", "globex"):
        place.reach(name, Level.STOPPED)
    ran = place.run(minutes=0.01)
    assert (ran.brought, ran.left) == (0, 2)
    assert place.plans()[2] == {"Standard"}
    assert (place.run(holder="two").brought, place.plans()) == (2, [set(), set(), set()])


def test_a_watcher_whose_clock_is_ahead_delays_no_stop(place: Place) -> None:
    """The moment since when a stop is wanted is no moment before which it may not be done."""
    place.reach("acme", Level.STOPPED)
    place.ask("acme", Level.STOPPED, at=int(place.time.now) + 30)
    place.run()
    assert (place.plans(), place.access.asked()) == (STOPPED, {})


# --- order and pace --------------------------------------------------------------------------------------------------


def test_stops_come_first_the_fastest_first_then_reopenings(place: Place) -> None:
    """Also a stop that is asked for while reopenings are under way."""
    for name, level, rate in (("slow", 2, 1), ("fast", 2, 9), ("back", 0, 0), ("lane", 1, 0)):
        place.hold(name, place.aws.add_key(place.standard))
        if level:
            place.reach(name, Level(level))
        place.ask(name, Level(level), rate)
    assert [*place.access.asked()] == ["fast", "slow", "lane", "back"]
    place.run()
    assert [name for name, *_ in place.told] == ["fast", "slow"], "nobody is slowed without a lane"


def test_there_are_never_more_than_five_calls_in_a_second(place: Place) -> None:
    """Of the account's ten, so that deployments go on; also of two customers after each other."""
    for number in range(20):
        place.hold(f"customer{number}", place.aws.add_key(place.standard))
        place.reach(f"customer{number}", Level.STOPPED)
    place.run()
    moments = [moment for moment, _ in place.aws.called]
    assert len(moments) == 80
    assert max(sum(begin <= moment < begin + 0.999 for moment in moments) for begin in moments) == 5


def test_a_thousand_reopenings_take_a_quarter_of_an_hour(place: Place) -> None:
    """Four calls for a key in one plan, at five a second: what infra/operate/README.md says."""
    place.reach("globex", Level.STOPPED)
    place.run()
    place.reach("globex", Level.OPEN)
    before = len(place.aws.called)
    place.run()
    calls = [operation for _, operation in place.aws.called[before:]]
    assert calls == ["get_usage_plans", "create_usage_plan_key", "get_usage_plans", "get_usage_plan_key"]
    assert 1000 * len(calls) / 5 == 800


def test_where_api_gateway_wants_fewer_calls_the_gate_waits_and_goes_on(place: Place) -> None:
    """As long as it says, or longer each time."""
    place.reach("acme", Level.STOPPED)
    place.aws.refusals = [None, 7, None, 3]
    before = place.time.now
    ran = place.run()
    assert (ran.failed, place.plans()) == ({}, STOPPED)
    assert place.time.now - before > 10


def test_a_customer_that_fails_stays_asked_and_stops_no_other(place: Place) -> None:
    """I6. It is tried once more after the others, and again in the next run."""
    place.reach("acme", Level.STOPPED)
    place.ask("acme", Level.STOPPED, rate=9)
    place.reach("globex", Level.STOPPED)
    client = place.aws.client()

    def refuse(_: str, arguments: Any) -> None:
        if arguments.get("keyId") == place.first:
            raise place.aws.exceptions.BadRequestException({"Error": {"Code": "odd", "Message": ""}}, "odd")

    client.before.append(lambda name, arguments: refuse(name, arguments) if name == "DeleteUsagePlanKey" else None)
    ran = place.run(place.gate(apigateway=client))
    assert ([*ran.failed], ran.brought) == (["acme"], 1)
    assert place.plans() == [{"Standard"}, set(), set()], "its other key is out"
    assert [*place.access.asked()] == ["acme"]
    assert (place.run().failed, place.plans()) == ({}, [set(), set(), set()])


@pytest.mark.parametrize("odd", [{}, {"value": {"S": '{"begin":"0","end":"now","level":2,"since":1}'}}])
def test_a_customer_of_whom_an_item_cannot_be_read_stops_no_other(place: Place, odd: dict[str, Any]) -> None:
    """I6. A window that ends at no hour, or no value at all."""
    place.dynamodb.put_item(TableName="ledger", Item={"pk": {"S": "limits#acme"}, "sk": {"S": "state#odd"}, **odd})
    place.ask("acme", Level.STOPPED, rate=9)
    place.reach("globex", Level.STOPPED)
    ran = place.run()
    assert ([*ran.failed], ran.brought, place.plans()[2]) == (["acme"], 1, set())


def test_a_customer_with_very_many_keys_keeps_no_other_waiting(place: Place) -> None:
    """I6: its keys take minutes; a stop that is asked for meanwhile comes in between, a reopening comes after them."""
    place.hold("initech", place.aws.add_key(place.standard))
    place.hold("acme", *(place.aws.add_key(place.standard) for _ in range(100)))
    place.reach("acme", Level.STOPPED)
    client, out = place.aws.client(), {}

    def ask(name: str, arguments: Any) -> None:
        if name == "DeleteUsagePlanKey":
            out[arguments["keyId"]] = place.time.now
            if len(out) == 10:
                place.reach("globex", Level.STOPPED)
                place.ask("initech", Level.OPEN)

    client.before.append(ask)
    ran = place.run(place.gate(apigateway=client))
    assert (ran.brought, ran.failed, [name for name, *_ in place.told]) == (3, {}, ["globex", "acme"])
    moments = sorted(out.values())
    assert moments[-1] - moments[0] > 60
    assert out[place.other] - moments[9] < 5


def test_without_limits_only_the_operators_reason_holds(place: Place) -> None:
    """They were taken out of the stack while a customer was closed by one, and owed: nobody else would open it."""
    place.reach("acme", Level.STOPPED)
    for reason in (UNPAID, OPERATOR):
        place.limits.hold("acme", reason, Held(1))
    place.run()
    without = replace(place.gate(), asked=None)
    assert [reason.name for reason in without.bring("acme").reasons] == [OPERATOR]
    place.limits.release("acme", OPERATOR, place.limits.of("acme").held[OPERATOR])
    assert (without.bring("acme").level, place.plans()) == (Level.OPEN, OPEN)


def test_a_key_that_is_read_back_elsewhere_is_brought_again(place: Place) -> None:
    """Somebody puts it back by hand in the middle: once is made good, for ever stays asked."""
    place.reach("globex", Level.STOPPED)
    client = place.aws.client()
    puts_back = [1]

    def put_back(name: str, _: Any) -> None:
        if name == "GetUsagePlans" and place.other not in place.aws.members[place.standard] and puts_back.pop():
            place.aws.members[place.standard].append(place.other)

    client.before.append(put_back)
    puts_back[:] = [0, 1]
    assert (place.run(place.gate(apigateway=client)).failed, place.plans()[2]) == ({}, set())
    puts_back[:] = [1] * 99
    place.aws.members[place.standard].append(place.other)
    place.ask("globex", Level.STOPPED)
    assert [*place.run(place.gate(apigateway=client)).failed] == ["globex"]


# --- lanes -----------------------------------------------------------------------------------------------------------


def test_slowed_keys_move_into_the_lane_out_before_in_and_back(place: Place) -> None:
    """A key is in one plan per stage at AWS, which refuses a second one; its home is never the lane."""
    place.aws.add_plan("Metering-slow-lane-api1", STAGE, rate=1)
    place.reach("acme", Level.SLOWED)
    assert (place.run().failed, place.plans()[:2]) == ({}, [{"Metering-slow-lane-api1"}] * 2)
    assert place.limits.homes([place.first])[place.first].plans == (place.standard,)
    place.reach("acme", Level.STOPPED)
    place.run()
    assert place.plans() == STOPPED
    assert place.limits.homes([place.first])[place.first].plans == (place.standard,)
    place.reach("acme", Level.SLOWED)
    place.run()
    place.reach("acme", Level.OPEN)
    place.run()
    assert place.plans() == OPEN
    assert [told[0].split(":")[1:] for _, told, _ in place.told] == [
        ["open", "slowed"],
        ["slowed", "stopped"],
        ["stopped", "slowed"],
        ["slowed", "open"],
    ]


def test_lanes_cover_every_stage_of_what_a_key_leaves_and_open_no_other(place: Place) -> None:
    """Two lanes together, or one of both; not one with a stage that the key never had, nor one of half of them."""
    both = place.aws.add_plan("Both", STAGE, OTHER_STAGE, rate=50)
    key = place.aws.add_key(both)
    place.hold("initech", key)
    place.aws.add_plan("Wide", STAGE, OTHER_STAGE, "api3/prod", rate=1, tags=LANE)
    place.aws.add_plan("One", STAGE, rate=1, tags=LANE)
    place.reach("initech", Level.SLOWED)
    place.run()
    assert place.aws.of(key) == {"Both"}
    stands = place.limits.of("initech").gate
    assert stands.left == {key: "no lane covers the stages of its usage plans: to be slowed is only told"}
    assert (stands.level, stands.felt, place.told) == (Level.SLOWED, Level.OPEN, [])
    place.aws.add_plan("Two", OTHER_STAGE, rate=1, tags=LANE)
    place.aws.add_plan("Foreign", STAGE, OTHER_STAGE, rate=1, tags={"metering:lane": "Others"})
    place.time.advance(300)
    place.ask("initech", Level.SLOWED)
    place.run()
    assert place.aws.of(key) == {"One", "Two"}


def test_a_lane_that_is_deleted_meanwhile_leaves_no_key_between_plans(place: Place) -> None:
    """It was kept for some minutes: the key goes back, and that is said."""
    lane = place.aws.add_plan("Lane", STAGE, rate=1, tags=LANE)
    gate = place.gate()
    place.reach("globex", Level.SLOWED)
    place.run(gate)
    place.aws.drop_plan(lane)
    place.reach("acme", Level.SLOWED)
    place.run(gate)
    assert (place.plans()[:2], len(place.limits.of("acme").gate.left)) == ([{"Standard"}] * 2, 2)


def test_a_lane_that_was_deleted_since_is_noticed_when_the_gate_comes_again(place: Place) -> None:
    """Who was in it is closed until then, though it is to be slowed: it is open afterwards, and that is told."""
    lane = place.aws.add_plan("Metering-slow-lane", STAGE, rate=1)
    place.reach("acme", Level.SLOWED)
    place.run()
    assert place.plans() == [{"Metering-slow-lane"}, {"Metering-slow-lane"}, {"Standard"}]
    del place.aws.plans[lane], place.aws.members[lane]
    place.time.advance(3600)
    place.ask("acme", Level.OPEN)
    place.run()
    assert (place.plans(), [*place.limits.of("acme").gate.left]) == (OPEN, [place.first, place.second])


def test_plans_are_read_page_by_page_and_kept_for_some_minutes(place: Place) -> None:
    """Their stages, throttles and tags."""
    place.aws.page = 2
    for number in range(4):
        place.aws.add_plan(f"Plan {number}", STAGE, rate=number)
    plans = UsagePlans(place.aws.client(), Pace(5, now=place.time, sleep=place.time.sleep), clock=place.time)
    throttles = [plan.throttle for plan in plans.all()]
    assert (len(throttles), throttles[1]) == (5, None)
    assert plans.all()[0].stages == {STAGE}
    assert throttles[0] is not None
    assert (throttles[0].rate, throttles[0].burst, len(place.aws.called)) == (50.0, 50, 3)
    place.time.advance(299)
    plans.all()
    assert len(place.aws.called) == 3
    place.time.advance(2)
    plans.all()
    assert len(place.aws.called) == 6


# --- keys that come, go and change hands -----------------------------------------------------------------------------


def test_whoever_gets_a_key_while_stopped_stays_stopped(place: Place) -> None:
    """A new one, and one of somebody who is open; and who is open gets an open one from who is stopped."""
    place.reach("acme", Level.STOPPED)
    place.run()
    new = place.aws.add_key(place.standard)
    place.hold("acme", new)
    place.hold("acme", place.other, since=HOUR)
    place.hold("globex", place.first, since=HOUR)
    for name in ("acme", "globex"):
        place.ask(name, Level.STOPPED)
    place.run()
    assert place.plans() == [{"Standard"}, set(), set()]
    assert place.aws.of(new) == set()
    place.reach("acme", Level.OPEN)
    place.run()
    assert place.plans() == OPEN


@pytest.mark.parametrize("turn", range(1, 13))
def test_a_key_that_changes_hands_while_it_is_brought_ends_with_its_holder(place: Place, turn: int) -> None:
    """At any call before the last look at who holds which; whoever hands over later asks for both."""
    place.reach("acme", Level.STOPPED)
    life = Life(of={"get_usage_plans", "get_usage_plan_key", "delete_usage_plan_key", "put_item", "query"})

    def step() -> None:
        if life.writes == turn:
            life.step = lambda: None
            place.hold("globex", place.first, since=HOUR)
            place.hold("acme", place.other, since=HOUR)
            place.gate().bring("globex")

    life.step = step
    place.gate(Dying(place.dynamodb, life), Dying(place.aws.client(), life)).bring("acme")
    place.gate().bring("globex")
    assert place.plans() == [{"Standard"}, set(), set()]


def test_a_key_that_changes_hands_at_a_later_hour_is_moved_then(place: Place) -> None:
    """By itself the hour's turn moves no key: the customer is asked for until then, and not brought before."""
    place.reach("acme", Level.STOPPED)
    place.hold("acme", place.other, since=HOUR.next())
    place.run()
    assert (place.plans(), [*place.access.asked()]) == (STOPPED, ["acme"])
    calls = len(place.aws.called)
    place.run()
    assert len(place.aws.called) == calls
    place.time.moment = HOUR.end
    place.run()
    assert (place.plans(), place.access.asked()) == ([set(), set(), set()], {})


def test_a_closed_key_that_changes_hands_at_a_later_hour_is_opened_then(place: Place) -> None:
    """Whoever has it then is asked for, by whom it was closed as."""
    place.hold("globex", place.first, since=HOUR.next())
    place.reach("acme", Level.STOPPED)
    place.run()
    assert place.plans() == STOPPED
    place.time.moment = HOUR.end
    place.run()
    assert (place.plans(), place.access.asked()) == ([{"Standard"}, set(), {"Standard"}], {})


def test_a_key_whose_home_was_deleted_is_told_and_the_others_come_back(place: Place) -> None:
    """The same of a key that is gone, and of one that somebody has put into another plan of the stage."""
    extra = place.aws.add_plan("Extra", OTHER_STAGE)
    key = place.aws.add_key(place.standard, extra)
    place.hold("acme", key)
    place.reach("acme", Level.STOPPED)
    place.run()
    place.aws.drop_plan(extra)
    better = place.aws.add_plan("Better", STAGE)
    place.aws.members[better].append(place.second)
    place.reach("acme", Level.OPEN)
    assert place.run().failed == {}
    assert (place.plans(), place.aws.of(key)) == ([{"Standard"}, {"Better"}, {"Standard"}], {"Standard"})
    assert place.limits.of("acme").gate.left == {
        place.second: f"it could not be put into {place.standard}",
        key: f"it could not be put into {extra}",
    }


def test_a_refusal_of_the_moment_does_not_lose_a_keys_home(place: Place) -> None:
    """A key that has just left its lane may be refused once more."""
    place.aws.add_plan("Lane", STAGE, rate=1, tags=LANE)
    place.reach("globex", Level.SLOWED)
    place.run()
    place.reach("globex", Level.OPEN)
    client, refusals = place.aws.client(), [1]

    def refuse(name: str, _: Any) -> None:
        if name == "CreateUsagePlanKey" and refusals:
            refusals.pop()
            raise place.aws.exceptions.ConflictException({"Error": {"Code": "409", "Message": ""}}, name)

    client.before.append(refuse)
    assert (place.run(place.gate(apigateway=client)).failed, place.plans()[2]) == ({}, {"Standard"})
    assert place.limits.of("globex").gate.left == {}


def test_where_keys_belong_is_known_after_the_ledger_was_restored_to_before_the_stop(place: Place) -> None:
    """What has acted is forgotten there, the Access table knows it: the customer reopens."""
    place.reach("acme", Level.STOPPED)
    place.run()
    for pk in (f"home#{place.first}", f"home#{place.second}"):
        place.dynamodb.delete_item(TableName="ledger", Key={"pk": {"S": pk}, "sk": {"S": "home"}})
    for sk in ("gate", "state#requests/day"):
        place.dynamodb.delete_item(TableName="ledger", Key={"pk": {"S": "limits#acme"}, "sk": {"S": sk}})
    place.ask("acme", Level.OPEN)
    place.run()
    assert (place.plans(), [*place.access.closed()]) == (OPEN, [])


def test_a_key_that_somebody_opens_while_it_is_taken_out_keeps_its_home(place: Place) -> None:
    """One has put it back and is about to write so, another one takes it out again, and dies."""
    place.reach("acme", Level.STOPPED)
    place.run()
    before = place.limits.homes([place.first])[place.first]
    client = place.aws.client()
    client.create_usage_plan_key(usagePlanId=place.standard, keyId=place.first, keyType="API_KEY")

    def write_that_it_is_open(name: str, _: Any) -> None:
        if name == "DeleteUsagePlanKey":
            with suppress(RowChangedError):
                place.limits.save_home(place.first, msgspec.structs.replace(before, level=Level.OPEN))
                place.access.drop_closed("acme")

    client.before.append(write_that_it_is_open)
    with pytest.raises(KilledError):
        place.gate(apigateway=Dying(client, Life(1, accepted=True))).bring("acme")
    place.reach("acme", Level.OPEN)
    place.run()
    assert place.plans() == OPEN


def test_a_key_that_is_retired_while_it_is_opened_opens_nothing(place: Place) -> None:
    """Its rotation ends just when the worker puts it back: what the worker read before is no longer so."""
    place.reach("acme", Level.STOPPED)
    place.run()
    place.reach("acme", Level.OPEN)
    client, retiring = place.aws.client(), [place.first]

    def retire(name: str, _: Any) -> None:
        if name == "CreateUsagePlanKey" and retiring:
            key = retiring.pop()
            home = place.limits.homes([key])[key]
            place.limits.save_home(key, msgspec.structs.replace(home, plans=(), retired=True))

    client.before.append(retire)
    assert (place.run(place.gate(apigateway=client)).failed, place.plans()) == ({}, [set(), {"Standard"}, {"Standard"}])
    place.reach("acme", Level.SLOWED)
    place.run()
    assert place.plans()[0] == set()


def test_a_key_that_was_closed_in_other_hands_opens_for_whom_the_restored_ledger_gives_it_back_to(place: Place) -> None:
    """The one who had it then is at most asked for: where the key belongs is noted with the other, and not lost."""
    before = place.dynamodb.scan(TableName="ledger")["Items"]
    place.hold("globex", place.first, since=HOUR)
    place.reach("globex", Level.STOPPED)
    place.run()
    assert place.plans() == [set(), {"Standard"}, set()]
    for item in place.dynamodb.scan(TableName="ledger")["Items"]:
        place.dynamodb.delete_item(TableName="ledger", Key={name: item[name] for name in ("pk", "sk")})
    for item in before:
        place.dynamodb.put_item(TableName="ledger", Item=item)
    ask_for_all(Holders(place.dynamodb, "ledger"), place.access, now=place.time.moment)
    place.run()
    assert (place.plans(), [*place.access.closed()], place.access.asked()) == (OPEN, [], {})


def test_whoever_was_resumed_since_is_closed_once_the_restored_ledger_says_so(place: Place) -> None:
    """By the ledger's own word all is as wanted, and nobody would look: so the gate is asked for everybody."""
    held = place.limits.hold("acme", OPERATOR, Held(int(place.time.now)))
    place.ask("acme", Level.STOPPED)
    place.run()
    before = place.dynamodb.scan(TableName="ledger")["Items"]
    place.limits.release("acme", OPERATOR, held)
    place.ask("acme", Level.OPEN)
    place.run()
    assert place.plans() == OPEN
    for item in before:
        place.dynamodb.put_item(TableName="ledger", Item=item)
    ask_for_all(Holders(place.dynamodb, "ledger"), place.access, now=place.time.moment)
    place.run()
    assert place.plans() == STOPPED


def test_what_could_not_be_told_is_told_a_minute_later_and_is_no_stop_that_waits(place: Place) -> None:
    """Keys are as they should be."""
    place.reach("acme", Level.STOPPED)
    gate = place.gate()
    object.__setattr__(gate, "tell", lambda *_: False)
    place.run(gate)
    assert (place.plans(), {name: asked.level for name, asked in place.access.asked().items()}) == (
        STOPPED,
        {"acme": Level.OPEN},
    )
    place.time.advance(61)
    place.run()
    assert (place.told, place.access.asked()) == ([("acme", ("1:open:stopped",), Level.STOPPED)], {})


# --- who was suspended before there were limits ----------------------------------------------------------------------


def suspended(place: Place, *keys: str) -> None:
    """Suspend acme as versions before limits did: an item for each key, which is out."""
    for key in keys:
        item = {"pk": {"S": "customer#acme"}, "sk": {"S": f"suspended#{key}"}, "version": {"N": "1"}}
        place.dynamodb.put_item(TableName="ledger", Item=item | {"plans": {"L": [{"S": place.standard}]}})
        place.aws.members[place.standard].remove(key)


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("dies_at", range(1, 9))
def test_who_was_suspended_by_an_earlier_version_stays_so_until_resumed(
    place: Place, dies_at: int, *, accepted: bool
) -> None:
    """Its items are read as homes and the operator's reason; a death in the middle of taking them over loses none."""
    suspended(place, place.first, place.second)
    assert [reason.name for reason in place.gate().reasons("acme")] == [OPERATOR]
    place.ask("acme", Level.OPEN)
    life = Life(dies_at, accepted=accepted)
    try:
        place.run(place.gate(Dying(place.dynamodb, life), Dying(place.aws.client(), life)))
    except KilledError:
        place.time.advance(61)
    place.run(holder="two")
    assert (place.plans(), [*place.limits.of("acme").held]) == (STOPPED, [OPERATOR])
    place.limits.release("acme", OPERATOR, place.limits.of("acme").held[OPERATOR])
    place.gate().bring("acme")
    assert place.plans() == OPEN
    assert place.gate().reasons("acme") == [], "what is taken over counts no more"


# --- callers of connected APIs ---------------------------------------------------------------------------------------

CONNECTED = "orders:auth0|x"
LEFT = "no usage plan closes it: it is refused only if its API's authorizer reads the Access table"


def test_a_caller_of_a_connected_api_gets_an_item_and_it_is_said_that_no_plan_closes_it(place: Place) -> None:
    """I9: never stopped in silence while calls go on; its API's authorizer may look for the item."""
    place.hold("globex", CONNECTED)
    place.reach("globex", Level.STOPPED)
    place.run()
    assert (place.access.caller(CONNECTED) or {})["level"] == {"S": "stopped"}
    assert place.aws.of(place.other) == set()
    stands = place.limits.of("globex").gate
    assert (stands.left, stands.keys, stands.felt) == ({CONNECTED: LEFT}, 2, Level.STOPPED)
    place.reach("globex", Level.OPEN)
    place.run()
    assert (place.access.caller(CONNECTED), place.aws.of(place.other)) == (None, {"Standard"})
    assert place.limits.of("globex").gate.left == {}
    assert not any(CONNECTED in str(arguments) for _, arguments in place.aws.called), "it is no key of API Gateway's"


def test_no_event_says_that_a_customer_is_stopped_whose_callers_are_all_elsewhere(place: Place) -> None:
    """Only that it is to be: whether they are refused is for their APIs to say."""
    place.hold("initech", CONNECTED, "chat:ann")
    for level in (Level.SLOWED, Level.STOPPED):
        place.reach("initech", level)
        place.run()
        stands = place.limits.of("initech").gate
        assert (stands.level, stands.felt, place.told, {*stands.left}) == (
            level,
            Level.OPEN,
            [],
            {CONNECTED, "chat:ann"},
        )


def test_without_an_access_table_a_caller_is_left_to_its_authorizer_which_is_said(place: Place) -> None:
    """As a suspension is without limits."""
    place.hold("initech", CONNECTED)
    place.limits.hold("initech", OPERATOR, Held(1))
    gate = place.gate()
    object.__setattr__(gate, "keys", replace(gate.keys, callers=None))  # type: ignore[type-var]
    assert [moved.left for moved in gate.bring("initech").moved] == [
        "no usage plan closes it, and without limits there is no Access table: its API's authorizer must refuse it"
    ]
    place.limits.release("initech", OPERATOR, place.limits.of("initech").held[OPERATOR])
    assert [moved.left for moved in gate.bring("initech").moved] == [""]


def test_where_authorizers_refuse_the_callers_of_connected_apis_are_told_apart(place: Place) -> None:
    """By the connection's name: other callers may have colons, too."""
    connections = Connections(place.dynamodb, "ledger")
    connections.save(Connection("orders", Form.OURS, Step.CONNECTED, "/aws/vendedlogs/orders", 1, "arn"))
    place.hold("initech", "orders:a1b2c3", "us-east-1:0000", "auth0|y")
    gate = place.gate()
    object.__setattr__(gate, "keys", CallerKeys(place.access, connections.has_caller))
    place.reach("initech", Level.STOPPED)
    place.run(gate)
    assert place.limits.of("initech").gate.left == {"orders:a1b2c3": LEFT}
    assert all(place.access.caller(key) for key in ("orders:a1b2c3", "us-east-1:0000", "auth0|y"))
    assert [told[0] for told in place.told] == ["initech"]


# --- callers of HTTP APIs --------------------------------------------------------------------------------------------


def test_callers_of_an_http_api_are_closed_by_an_item_that_authorizers_read(place: Place) -> None:
    """With the end of the window; nothing is asked of API Gateway."""
    gate = place.gate()
    object.__setattr__(gate, "keys", CallerKeys(place.access, lambda _: False))
    place.reach("globex", Level.STOPPED)
    place.run(gate)
    item = place.access.caller(place.other)
    assert item is not None
    assert (item["level"], item["until"]) == ({"S": "stopped"}, {"N": str(int((HOUR.start.timestamp()) + 19 * 3600))})
    assert item["why"] == {"S": "limit:requests/day:2026-11-22T00"}
    place.limits.hold("globex", OPERATOR, Held(1))
    place.ask("globex", Level.STOPPED)
    place.run(gate)
    assert (place.access.caller(place.other) or {})["until"] == {"N": "0"}
    place.limits.release("globex", OPERATOR, place.limits.of("globex").held[OPERATOR])
    place.reach("globex", Level.OPEN)
    place.run(gate)
    assert (place.access.caller(place.other), place.aws.called) == (None, [])


def test_callers_of_an_http_api_are_not_slowed_which_is_said(place: Place) -> None:
    """No event says that their access is slowed; an authorizer of one's own finds the item all the same."""
    gate = place.gate()
    object.__setattr__(gate, "keys", CallerKeys(place.access, lambda _: False))
    place.reach("globex", Level.SLOWED)
    place.run(gate)
    assert (place.access.caller(place.other) or {})["level"] == {"S": "slowed"}
    stands = place.limits.of("globex").gate
    assert stands.left == {place.other: "callers that are no API keys are not slowed: that is only told"}
    assert (stands.felt, place.told) == (Level.OPEN, [])
    place.reach("globex", Level.STOPPED)
    place.run(gate)
    assert [told[0] for told in place.told] == ["globex"]


def test_a_caller_that_changes_hands_at_a_later_hour_is_opened_then(place: Place) -> None:
    """Whoever gave it away is asked for then, and so is who has it."""
    gate = place.gate()
    object.__setattr__(gate, "keys", CallerKeys(place.access, lambda _: False))
    place.hold("globex", place.first, since=HOUR.next())
    place.reach("acme", Level.STOPPED)
    place.run(gate)
    assert [bool(place.access.caller(key)) for key in (place.first, place.second, place.other)] == [True, True, False]
    place.time.moment = HOUR.end
    place.run(gate)
    assert [bool(place.access.caller(key)) for key in (place.first, place.second, place.other)] == [False, True, False]
