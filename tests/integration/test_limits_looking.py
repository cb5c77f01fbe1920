"""Looking exactly at a customer: what it used, what acts by that, and what follows."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from metering.limits import usage
from metering.model.limits import UNPAID, Budget, Level, Limit, Notify, OfCustomer, Slow, Spend, Stop
from metering.model.periods import Hour
from metering.model.prices import Plan
from metering.model.subjects import customer
from metering.model.usage_row import State, Total, UsageRow
from metering.stores.holders import Holder
from metering.stores.limits import Gate
from metering.stores.table import RowChangedError
from tests.doubles.dying import Dying, KilledError, Life
from tests.integration.limits import HOUR, PLAN, Limited


@pytest.fixture
def limited() -> Limited:
    """Acme, who may use 100 requests a day: told at 80, stopped at 100."""
    made = Limited()
    made.customer()
    return made


def plan(*limits: Limit | Spend) -> Plan:
    """Return a plan with these limits."""
    return Plan(name="pro", title="Pro", currency="usd", prices=PLAN.prices, limits=limits)


# --- once -------------------------------------------------------------------------------------------------------------


def test_a_threshold_acts_and_is_told_once(limited: Limited) -> None:
    """Each in its turn; looks that find nothing new write nothing."""
    limited.use(79)
    assert (limited.look().level, limited.bus.steps) == (Level.OPEN, [])
    limited.use(1)
    assert (limited.look().level, limited.bus.steps) == (Level.OPEN, ["notify:80"])
    limited.use(20)
    looked = limited.look()
    assert (looked.level, looked.used, dict(looked.left)) == (Level.STOPPED, {"requests/day": 100}, {})
    assert [reason.name for reason in looked.reasons] == ["limit:requests/day:2026-11-22T00"]
    assert limited.gate.asked()["acme"].level is Level.STOPPED
    limited.pass_by(minutes=5)
    before = list(limited.tables.items("ledger"))
    limited.look()
    assert limited.bus.steps == ["notify:80", "stop:100"]
    assert list(limited.tables.items("ledger")) == before


def test_one_look_may_meet_several_steps(limited: Limited) -> None:
    """Whoever jumps over all of them is told of each, and stopped."""
    limited.use(500)
    assert limited.look().level is Level.STOPPED
    assert limited.bus.steps == ["notify:80", "stop:100"]


def test_whoever_dies_at_any_write_is_made_good_by_the_next_look() -> None:
    """The threshold has acted, the gate is asked, and it is told, at least once and always by the same id."""

    def play(life: Life) -> Limited:
        limited = Limited()
        limited.customer()
        limited.use(100)
        with suppress(KilledError):
            limited.looker(Dying(limited.client(), life)).look("acme", limited.now)
        return limited

    whole = Life()
    ids = {one["Detail"]["id"] for one in play(whole).bus.put}
    assert (len(ids), whole.writes) == (2, 4)
    for dies_at in range(1, whole.writes + 1):
        for accepted in (False, True):
            limited = play(Life(dies_at, accepted))
            limited.pass_by(minutes=3)
            looked = limited.look()
            assert looked.states["requests/day"].acted.keys() == {"notify:80", "stop:100"}
            assert (looked.level, limited.gate.asked()["acme"].level) == (Level.STOPPED, Level.STOPPED)
            assert ({one["Detail"]["id"] for one in limited.bus.put}, looked.states["requests/day"].untold) == (ids, ())
            assert limited.queue.sent


def test_of_two_at_once_one_acts_and_tells() -> None:
    """The other looks anew; whichever write it comes before."""
    for at in range(1, 5):
        limited = Limited()
        limited.customer()
        limited.use(100)
        life = Life()

        def other(limited: Limited = limited, life: Life = life, at: int = at) -> None:
            if life.writes == at - 1:
                life.step = lambda: None
                limited.look()

        life.step = other
        looked = limited.looker(Dying(limited.client(), life)).look("acme", limited.now)
        assert looked.level is Level.STOPPED
        assert sorted(limited.bus.steps) == ["notify:80", "stop:100"]
        assert limited.look().states["requests/day"].untold == ()


def test_what_changes_again_and_again_is_given_up(limited: Limited, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look ends: the next one is a minute away."""

    def refuse(*_: Any) -> None:
        raise RowChangedError

    limited.use(100)
    monkeypatch.setattr("metering.stores.limits.LimitItems.save_state", refuse)
    with pytest.raises(RowChangedError):
        limited.look()


# --- in rounds --------------------------------------------------------------------------------------------------------


def test_a_round_reads_no_usage_of_who_was_far_from_every_step_lately(limited: Limited) -> None:
    """And lets it use unseen a part of what it had left, as often as whoever reads the stream forgets."""
    limited.use(10)
    limited.look()
    limited.use(60)
    limited.pass_by(minutes=15)
    far = limited.looker().look_in_round("acme", limited.now)
    assert (far.used, far.left, far.near) == ({"requests/day": 10}, {"requests": 14}, False)
    limited.pass_by(minutes=40)
    later = limited.looker().look_in_round("acme", limited.now)
    assert (later.used, later.left, later.near) == ({"requests/day": 70}, {"requests": 10}, True)


def test_a_round_reads_what_is_spent_when_prices_have_been_read_since() -> None:
    """Ten times as dear, the same usage is beyond the limit."""
    limited = Limited(plans=(plan(Spend(1000, at=(Stop(100),))),))
    limited.customer()
    limited.use(100)
    assert limited.look().used == {"spend/period": 200}
    limited.pass_by(minutes=5)
    prices = ('{"type":"per_unit","metric":"requests","amount":"20"}',)
    limited.subscribe(at=int(limited.now.timestamp()), prices=prices)
    limited.pass_by(minutes=5)
    looked = limited.looker().look_in_round("acme", limited.now)
    assert (looked.used, looked.level) == ({"spend/period": 2000}, Level.STOPPED)


# --- and back ---------------------------------------------------------------------------------------------------------


def test_a_correction_reopens_and_a_rise_stops_again_untold(limited: Limited) -> None:
    """The level goes both ways; what has acted in the window never acts again."""
    limited.use(100)
    assert limited.look().level is Level.STOPPED
    limited.items.save_gate("acme", Gate(Level.STOPPED))
    limited.time.moment = HOUR.end
    limited.pass_by(minutes=11)
    limited.close()
    limited.adjust(-30)
    limited.close()
    looked = limited.look()
    assert (looked.level, looked.used, limited.gate.asked()["acme"].level) == (
        Level.OPEN,
        {"requests/day": 70},
        Level.OPEN,
    )
    limited.use(30)
    assert limited.look().level is Level.STOPPED
    assert limited.bus.steps == ["notify:80", "stop:100"]


def test_a_raised_limit_reopens(limited: Limited) -> None:
    """Nothing of what was counted is forgotten, and what acted by the old limit stays so."""
    limited.use(100)
    limited.look()
    limited.items.set("acme", OfCustomer("requests", "day", 200, raised=True, reason="they asked"))
    looked = limited.look()
    assert (looked.level, looked.used, dict(looked.left)) == (Level.OPEN, {"requests/day": 100}, {"requests": 100})
    limited.use(100)
    assert limited.look().level is Level.STOPPED


def test_a_window_that_turns_reopens_by_itself(limited: Limited) -> None:
    """Before anybody looks no reason holds; the first look asks the gate, and the new window counts from nothing."""
    limited.use(100)
    limited.look()
    limited.items.save_gate("acme", Gate(Level.STOPPED))
    limited.time.moment = Hour.parse("2026-11-23T00").start
    assert limited.items.of("acme").reasons(limited.now) == []
    limited.use(5)
    looked = limited.look()
    assert (looked.level, looked.used, limited.gate.asked()["acme"].level) == (
        Level.OPEN,
        {"requests/day": 5},
        Level.OPEN,
    )
    limited.use(75)
    limited.look()
    assert limited.bus.steps == ["notify:80", "stop:100", "notify:80"]


def test_a_limit_that_applies_no_longer_stops_nobody_and_remembers(limited: Limited) -> None:
    """The plan is changed and changed back: what has acted is told no second time. After the window it is forgotten."""
    limited.use(100)
    limited.look()
    limited.subscribe(plans=())
    looked = limited.look()
    assert (looked.level, looked.applying, looked.reasons) == (Level.OPEN, (), ())
    limited.subscribe()
    assert limited.look().level is Level.STOPPED
    assert limited.bus.steps == ["notify:80", "stop:100"]
    limited.subscribe(plans=())
    limited.pass_by(days=1)
    limited.look()
    assert limited.items.of("acme").states == {}


def test_the_gate_is_asked_by_one_value_for_as_long_as_it_takes(limited: Limited) -> None:
    """Since when is not pushed on by those who look, and asking after the write differs from asking before it."""
    limited.use(100)
    limited.look()
    first = limited.gate.asked()["acme"]
    limited.pass_by(minutes=5)
    limited.look()
    assert (limited.gate.asked()["acme"].at, first.at, first.saved) == (
        first.at,
        int(HOUR.start.timestamp()) + 1800,
        True,
    )


def test_the_gate_learns_of_another_reason_that_closes_keys_as_far() -> None:
    """The first one ends with its hour, until when authorizers were told that a caller is closed; the second does not.

    No stop waits for that: keys are closed.
    """
    limited = Limited(plans=(plan(Limit("requests", 50, per="hour"), Limit("requests", 100, per="day")),))
    limited.customer()
    at = int(limited.now.timestamp())
    limited.items.save_gate("acme", Gate(Level.STOPPED, ("limit:requests/hour:2026-11-22T05",), at))
    limited.use(50)
    limited.look()
    assert limited.gate.asked() == {}
    limited.use(50)
    limited.pass_by(minutes=5)
    limited.look()
    asked = limited.gate.asked()["acme"]
    assert (asked.level, asked.at) == (Level.STOPPED, int(limited.now.timestamp()))


def test_that_keys_are_closed_is_seen_each_hour_after_all_else(limited: Limited) -> None:
    """One may have been put back, or the lane that they are in be gone: no stop that waits, nor an alarm."""
    limited.use(100)
    limited.look()
    at = int(limited.now.timestamp())
    limited.items.save_gate("acme", Gate(Level.STOPPED, ("limit:requests/day:2026-11-22T00",), at, keys=1))
    limited.gate.done("acme", limited.gate.asked()["acme"])
    limited.pass_by(minutes=59)
    limited.look()
    assert limited.gate.asked() == {}
    limited.pass_by(minutes=1)
    limited.look()
    assert limited.gate.asked()["acme"].level is Level.OPEN


def test_what_the_gate_could_not_tell_is_asked_for_as_no_stop_that_waits(limited: Limited) -> None:
    """Keys were stopped hours ago, when the window's stop was reached; only to tell of it is left."""
    limited.use(100)
    limited.look()
    at, reasons = int(limited.now.timestamp()), ("limit:requests/day:2026-11-22T00",)
    limited.items.save_gate("acme", Gate(Level.STOPPED, reasons, at, 1, ("1:open:stopped",), 1))
    limited.pass_by(hours=3)
    limited.look()
    assert limited.gate.asked()["acme"].at == int(limited.now.timestamp())


def test_whoever_has_not_paid_for_its_days_is_held_until_it_has() -> None:
    """A reason of its own: it touches no other, and no other it."""
    limited = Limited(unpaid_days=3)
    limited.customer()
    limited.subscribe(status="past_due")
    limited.pass_by(days=2)
    assert limited.look().level is Level.OPEN
    limited.pass_by(days=1)
    assert [reason.name for reason in limited.look().reasons] == [UNPAID]
    limited.use(100)
    assert len(limited.look().reasons) == 2
    limited.subscribe(status="active")
    assert [reason.name for reason in limited.look().reasons] == ["limit:requests/day:2026-11-25T00"]


# --- exactly ----------------------------------------------------------------------------------------------------------


def hours_passed(limited: Limited, number: int) -> None:
    """Let an hour pass and be closed, so often, each with ten requests."""
    for _ in range(number):
        limited.use(10)
        limited.time.moment = Hour.containing(limited.now).end
        limited.pass_by(minutes=11)
        limited.close()


def test_an_hour_counts_once_by_its_row_or_by_its_counters(limited: Limited) -> None:
    """Open; written and not closed; closed: the sum is the same."""
    limited.use(40)
    assert limited.look().used == {"requests/day": 40}
    limited.time.moment = HOUR.end
    limited.use(7)
    assert limited.look().used == {"requests/day": 47}
    limited.pass_by(minutes=11)
    limited.close()
    limited.use(3)
    looked = limited.look()
    assert (looked.used, looked.states["requests/day"].closed) == ({"requests/day": 50}, {"requests": 40})
    assert limited.look().used == {"requests/day": 50}


def test_closed_hours_are_read_once(limited: Limited) -> None:
    """What they came to is kept; a look reads the rows after them."""
    hours_passed(limited, 3)
    limited.look()
    client = limited.client()
    asked: list[str] = []
    client.before.append(lambda _, arguments: asked.append(_said(arguments, ":first")))
    assert limited.looker(client).look("acme", limited.now).used == {"requests/day": 30}
    assert [first for first in asked if first.startswith("usage#")] == ["usage#2026-11-22T08"]


def test_of_whoever_uses_nothing_closed_hours_are_noted_once_a_day(limited: Limited) -> None:
    """An hour more without usage is no news: thousands of customers' rounds write nothing."""
    hours_passed(limited, 1)
    written = []
    for _ in range(25):
        limited.look()
        written.append(limited.items.of("acme").states["requests/day"].version)
        limited.time.moment = Hour.containing(limited.now).end
        limited.pass_by(minutes=11)
        limited.close()
    # Its first look, and the first in the window of the next day.
    assert written == [1] * 18 + [2] * 7


def _said(arguments: Mapping[str, Any], name: str) -> str:
    """Return a value of a query's condition."""
    return str(arguments.get("ExpressionAttributeValues", {}).get(name, {}).get("S", ""))


def test_a_late_record_counts_when_its_row_has_been_written_anew(limited: Limited) -> None:
    """What was kept of closed hours is added up again."""
    hours_passed(limited, 3)
    limited.look()
    limited.use(60, HOUR)
    assert limited.look().used == {"requests/day": 30}
    limited.close()
    assert (limited.look().used, limited.bus.steps) == ({"requests/day": 90}, ["notify:80"])


def test_a_closer_that_dies_before_it_has_noted_a_change_leaves_it_to_the_next(limited: Limited) -> None:
    """The late mark stays until it is noted: what was kept cannot stay wrong."""
    hours_passed(limited, 1)
    limited.look()
    limited.use(60, HOUR)
    with pytest.MonkeyPatch.context() as patch:

        def die(*_: Any) -> None:
            raise KilledError

        patch.setattr("metering.stores.limits.LimitItems.note_change", die)
        with pytest.raises(KilledError):
            limited.close()
    assert limited.look().used == {"requests/day": 10}
    limited.pass_by(minutes=5)  # its lease ends
    limited.close()
    assert limited.look().used == {"requests/day": 70}


def test_a_key_handed_over_counts_for_whoever_held_it_in_the_hour(limited: Limited) -> None:
    """Before and after, open and closed."""
    limited.use(40)
    limited.customer("beta", "key9")
    limited.time.moment = HOUR.end
    limited.ledger.holders.hand_over(_handed_over(limited, "key1", "beta", HOUR.next()))
    limited.use(30)
    for _ in range(2):
        assert (limited.look().used, limited.look("beta").used) == ({"requests/day": 40}, {"requests/day": 30})
        limited.pass_by(minutes=11)
        limited.close()
    assert (limited.look().sources, limited.look("beta").sources) == ((), ("key1", "key9"))


def _handed_over(limited: Limited, key: str, customer: str, since: Hour) -> Any:
    return limited.ledger.holders.of_keys([key])[key].with_holder(Holder(since, customer))


def test_without_usage_lines_nothing_is_asked_of_a_customers_own_name(limited: Limited) -> None:
    """With them, what was reported without a key counts as well."""
    limited.use(30, source="@acme")
    assert limited.look().used == {"requests/day": 0}
    assert limited.looker(usage_lines=True).look("acme", limited.now).used == {"requests/day": 30}


def test_distinct_values_of_several_keys_are_joined_only_if_their_sum_would_act() -> None:
    """The sum is an upper bound: below a step nothing else is read, beyond it a value counts once."""
    limited = Limited(plans=(plan(Limit("users", 4, per="month", at=(Stop(100),))),))
    limited.customer("acme", "key1", "key2")
    read: list[str] = []

    def look() -> Any:
        client = limited.client()
        client.before.append(lambda _, arguments: read.append(_said(arguments, ":pk")))
        read.clear()
        return limited.looker(client).look("acme", limited.now)

    limited.meet("anna", "bea")
    limited.meet("anna", source="key2")
    assert (look().used, [pk for pk in read if pk.startswith("unique#")]) == ({"users/month": 3}, [])
    limited.meet("bea", source="key2")
    looked = look()
    assert (looked.used, looked.level, looked.left) == ({"users/month": 2}, Level.OPEN, {"users": 2})
    assert any(pk.startswith("unique#") for pk in read)
    limited.meet("carla", "dora", source="key2")
    assert (look().used, look().level) == ({"users/month": 4}, Level.STOPPED)


def test_too_many_claims_count_when_their_hours_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is stopped by an upper bound."""
    monkeypatch.setattr(usage, "MOST_CLAIMS", 3)
    limited = Limited(plans=(plan(Limit("users", 4, per="month")),))
    limited.customer("acme", "key1", "key2")
    limited.meet("anna", "bea", "carla", "dora")
    limited.meet("anna", "bea", source="key2")
    looked = limited.look()
    assert (looked.used, looked.level, looked.whole) == ({"users/month": 0}, Level.OPEN, False)
    limited.time.moment = HOUR.end
    limited.pass_by(minutes=11)
    limited.close()
    assert (limited.look().used, limited.look().level) == ({"users/month": 4}, Level.STOPPED)


def test_of_very_many_open_hours_the_latest_are_counted_and_it_is_said(limited: Limited) -> None:
    """At most 48 hours; a lower bound stops, and reopens nobody whom an exact look stopped."""
    limited.plans = (plan(Limit("requests", 100, per="month")),)
    hours_passed(limited, 1)
    for _ in range(50):
        limited.use(2)
        limited.pass_by(hours=1)
    looked = limited.look()
    assert (looked.used, looked.whole, looked.level) == ({"requests/month": 10 + 2 * 47}, False, Level.STOPPED)
    limited.pass_by(hours=20)
    looked = limited.look()
    assert (looked.used, looked.level) == ({"requests/month": 104}, Level.STOPPED)


def test_where_more_can_cost_less_a_lower_bound_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten units cost 50 cents, and the twenty that were really used cost 40."""
    monkeypatch.setattr(usage, "MOST_SOURCES", 1)
    limited = Limited(plans=(plan(Spend(45, at=(Stop(100),))),))
    limited.customer("acme", "key1", "key2")
    tiers = '[{"up_to":10,"amount":"5"},{"amount":"2"}]'
    limited.subscribe(prices=(f'{{"type":"volume","metric":"requests","tiers":{tiers}}}',))
    limited.use(10)
    limited.use(10, source="key2")
    assert (limited.look().used, limited.look().level, limited.look().whole) == ({"spend/period": 0}, Level.OPEN, False)
    monkeypatch.setattr(usage, "MOST_SOURCES", 2)
    assert (limited.look().used, limited.look().level) == ({"spend/period": 40}, Level.OPEN)


def test_of_very_many_keys_the_first_are_counted_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is bounded before it begins (I10)."""
    monkeypatch.setattr(usage, "MOST_SOURCES", 2)
    limited = Limited()
    limited.customer("acme", "key1", "key2", "key3")
    for key in ("key1", "key2", "key3"):
        limited.use(10, source=key)
    looked = limited.look()
    assert (looked.used, looked.whole) == ({"requests/day": 20}, False)
    monkeypatch.setattr(usage, "MOST_SOURCES", 3)
    assert (limited.look().used, limited.look().whole) == ({"requests/day": 30}, True)


def test_what_is_billed_counts_also_of_peaks_and_adjustments(limited: Limited) -> None:
    """Hours are added up as invoices do, each never less than nothing."""
    limited.use(5)
    limited.time.moment = HOUR.end
    limited.pass_by(minutes=11)
    limited.close()
    limited.adjust(-20)
    limited.close()
    limited.use(3)
    assert limited.look().used == {"requests/day": 3}


def test_a_row_of_an_hour_that_is_not_written_gives_what_stands_beside_its_counters(limited: Limited) -> None:
    """A closer has got to this customer and not to all: what was counted counts once, and by the counters."""
    limited.use(7)
    total = Total(5, 1, State.PENDING, adjusted=-2, carried=10)
    limited.ledger.rows.save(UsageRow(customer("acme"), HOUR, totals={"requests": total}))
    assert limited.look().used == {"requests/day": 15}


# --- money ------------------------------------------------------------------------------------------------------------


def test_spend_is_what_the_prices_ask_fees_too() -> None:
    """By the prices that the subscription really has, of its own period."""
    limited = Limited(plans=(plan(Spend(1_000, at=(Notify(80), Stop(100)), customer_may_stop=True)),))
    limited.customer()
    fee, price = '{"type":"flat","amount":"700"}', '{"type":"per_unit","metric":"requests","amount":"2"}'
    limited.subscribe(prices=(fee, price, '{"type":"package","metric":"bytes","amount":"1","size":1000}'))
    limited.use(49)
    looked = limited.look()
    assert (looked.used, looked.level) == ({"spend/period": 798}, Level.OPEN)
    # Two cents are left, one for each metric: either is used up before both together cost them.
    assert dict(looked.left) == {"requests": 1, "bytes": 1}
    limited.items.save_budget("acme", Budget(notify=750, stop=900))
    looked = limited.look()
    assert {name: state.acted.keys() for name, state in looked.states.items()} == {
        "spend/period": set(),
        "budget/notify": {"notify:100"},
        "budget/stop": set(),
    }
    limited.use(51)
    looked = limited.look()
    assert [reason.name for reason in looked.reasons] == ["budget"]
    assert limited.bus.put[-1]["Detail"]["origin"] == "budget"


def test_the_least_that_is_left_of_a_metric_is_said() -> None:
    """Of a day's and of the customer's own; slowed before it is stopped."""
    limited = Limited(plans=(plan(Limit("requests", 100, per="day", at=(Slow(90), Stop(100)))),))
    limited.customer()
    limited.items.set("acme", OfCustomer("requests", "month", 95, reason="a trial"))
    limited.use(50)
    looked = limited.look()
    assert (dict(looked.left), looked.near, looked.rate) == ({"requests": 40}, False, 25)
    limited.use(40)
    looked = limited.look()
    assert (looked.level, dict(looked.left), looked.near) == (Level.SLOWED, {"requests": 5}, True)


def test_a_clock_that_is_late_decides_nothing(limited: Limited) -> None:
    """A machine that still is in the window before leaves how the limit stands as it is."""
    late = limited.now
    limited.pass_by(days=1)
    hours_passed(limited, 1)
    limited.use(90)
    assert limited.look().level is Level.STOPPED
    before = limited.items.of("acme").states
    limited.looker().look("acme", late)
    assert limited.items.of("acme").states == before


def test_whoever_has_no_limit_is_two_reads(limited: Limited) -> None:
    """Nothing of its usage is read."""
    client = limited.client()
    asked: list[str] = []
    client.before.append(lambda operation, _: asked.append(operation))
    limited.customer("beta", "key2", plans=())
    assert limited.looker(client).look("beta", limited.now).applying == ()
    assert asked == ["Query", "GetItem"]


def test_a_threshold_whose_limit_was_cleared_before_it_was_told_is_told_once_it_is_set_again() -> None:
    """I9: the bus failed, then the limit applied to nobody for a while; what acts is told, in the same window, too."""
    limited = Limited()
    limited.customer(plans=())
    own = OfCustomer("requests", "day", 10)
    there = limited.items.set("acme", own)
    limited.use(10)
    limited.bus.refuses = lambda _: True
    limited.look()
    limited.items.clear("acme", there)
    limited.look()
    limited.bus.refuses = lambda _: False
    limited.items.set("acme", own)
    limited.look()
    assert limited.bus.steps == ["stop:100"]
