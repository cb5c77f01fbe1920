"""Limits: which apply, what acts in a window, and why keys are closed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.model.limits import (
    AnyLimit,
    Applying,
    Budget,
    Level,
    Limit,
    LimitState,
    Notify,
    OfCustomer,
    Origin,
    Reason,
    Slow,
    Spend,
    Step,
    Stop,
    applying,
    decide,
    left_until,
    level_by,
    reasons_of,
    written,
)
from metering.model.periods import Hour
from metering.model.subscribed import Window
from tests.unit.moments import at, epoch, window

NOW = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
MONTH = Window(Hour.parse("2026-11-01T00"), Hour.parse("2026-12-01T00"))
QUOTA = Applying(
    "messages/period", "messages", "period", 1000, (Notify(80), Slow(90), Stop(100)), Origin.PLAN, "the plan standard"
)


def seen(limit: Applying, *used: int, before: LimitState | None = None, now: datetime = NOW) -> LimitState:
    """Return how a limit stands after looks that found so much."""
    return reduce(lambda state, found: decide(limit, state, MONTH, found, now), used, before or LimitState())


# Which limits apply

DECLARED: list[tuple[str, AnyLimit]] = [
    ("standard", Limit("messages", 1000, at=(Notify(80), Stop(100)))),
    ("standard", Spend(50_000, customer_may_stop=True)),
]


def test_a_plans_limits_apply_and_say_so() -> None:
    """To whom nothing is set, and who has set nothing."""
    messages, spend = applying(DECLARED, [], None, NOW)
    assert messages == Applying(
        "messages/period",
        "messages",
        "period",
        1000,
        (Notify(80), Stop(100)),
        Origin.PLAN,
        "the plan standard",
    )
    assert (spend.name, spend.metric, spend.per, spend.most) == ("spend/period", "spend", "period", 50_000)
    assert applying([], [], None, NOW) == []


@pytest.mark.parametrize(
    ("one", "other", "tighter"),
    [
        (Limit("messages", 1000), Limit("messages", 500), "other"),
        (Limit("messages", 500), Limit("messages", 500), "one"),
        (Limit("messages", 500, at=(Notify(100),)), Limit("messages", 1000, at=(Notify(50), Stop(100))), "other"),
        (Limit("messages", 500, at=(Stop(300),)), Limit("messages", 1000), "other"),
        (Limit("messages", 500, at=(Notify(90),)), Limit("messages", 300, at=(Notify(100),)), "other"),
    ],
)
def test_of_two_plans_that_declare_the_same_limit_the_tighter_one_applies(
    one: Limit, other: Limit, tighter: str
) -> None:
    """The one that stops earlier, whatever is notified; in any order."""
    (found,) = applying([("one", one), ("other", other)], [], None, NOW)
    assert found.why == f"the plan {tighter}"
    if one != other:
        assert applying([("other", other), ("one", one)], [], None, NOW) == [found]


def test_limits_of_other_windows_apply_beside_each_other() -> None:
    """Whichever is reached first acts first."""
    limits: list[tuple[str, AnyLimit]] = [
        ("standard", Limit("messages", 100, per="day")),
        ("large", Limit("messages", 1000)),
    ]
    assert [one.name for one in applying(limits, [], None, NOW)] == ["messages/day", "messages/period"]


def test_a_raised_limit_keeps_its_steps_and_ends_when_it_is_said_to() -> None:
    """The plan's own number holds again from that moment on."""
    until = epoch("2026-11-22T06:00:00")
    raised = OfCustomer("messages", "period", 5000, raised=True, until=until, reason="a launch")
    found, _ = applying(DECLARED, [raised], None, at("2026-11-22T05:59:59"))
    assert (found.name, found.most, found.steps) == ("messages/period", 5000, (Notify(80), Stop(100)))
    assert (found.origin, found.why) == (Origin.PLAN, "the plan standard, raised from 1,000: a launch")
    found, _ = applying(DECLARED, [raised], None, at("2026-11-22T06:00:00"))
    assert (found.most, found.why) == (1000, "the plan standard")


def test_a_raise_lowers_nothing_and_makes_no_limit() -> None:
    """Should the plan give more by now, or not limit this at all any more."""
    raised = OfCustomer("messages", "period", 900, raised=True, reason="a launch")
    assert applying(DECLARED, [raised], None, NOW) == applying(DECLARED, [], None, NOW)
    assert applying([], [raised], None, NOW) == []


def test_of_two_plans_the_tighter_limit_is_raised() -> None:
    """With its own steps."""
    limits: list[tuple[str, AnyLimit]] = [*DECLARED, ("small", Limit("messages", 10, at=(Stop(90),)))]
    raised = OfCustomer("messages", "period", 20, raised=True, reason="a launch")
    found, _ = applying(limits, [raised], None, NOW)
    assert (found.most, found.steps, found.why) == (20, (Stop(90),), "the plan small, raised from 10: a launch")


def test_an_operators_limit_stops_by_itself_beside_the_plans() -> None:
    """Also of what no plan limits, and until it ends; a raise of the same metric is another thing."""
    setting = OfCustomer("messages", "period", 10, until=epoch("2026-11-23T00:00:00"), reason="a runaway client")
    raised = OfCustomer("messages", "period", 2000, raised=True, reason="a launch")
    *plans, own = applying(DECLARED, [setting, raised], None, NOW)
    assert own == Applying(
        "messages/period/customer",
        "messages",
        "period",
        10,
        (Stop(100),),
        Origin.CUSTOMER,
        "a runaway client",
    )
    assert [one.most for one in plans] == [2000, 50_000]
    assert len({setting.known_as, raised.known_as}) == 2
    assert len(applying(DECLARED, [setting], None, at("2026-11-23T00:00:00"))) == 2
    (alone,) = applying([], [OfCustomer("spend", "period", 900, reason="on trial")], None, NOW)
    assert (alone.name, alone.metric) == ("spend/period/customer", "spend")


def test_a_budget_notifies_and_stops_only_where_the_customer_may() -> None:
    """Each at an amount of its own."""
    budget = Budget(notify=4000, stop=6000)
    *_, notify, stop = applying(iter(DECLARED), [], budget, NOW)
    assert (notify.name, notify.most, notify.steps) == ("budget/notify", 4000, (Notify(100),))
    assert (stop.name, stop.most, stop.steps, stop.origin) == ("budget/stop", 6000, (Stop(100),), Origin.BUDGET)
    others: list[tuple[str, AnyLimit]] = [("standard", Spend(50_000))]
    assert [one.name for one in applying(others, [], budget, NOW)] == ["spend/period", "budget/notify"]
    assert [one.name for one in applying(DECLARED, [], Budget(), NOW)] == ["messages/period", "spend/period"]


# What acts


@pytest.mark.parametrize(
    ("used", "acted", "level"),
    [
        (0, [], Level.OPEN),
        (799, [], Level.OPEN),
        (800, ["notify:80"], Level.OPEN),
        (899, ["notify:80"], Level.OPEN),
        (900, ["notify:80", "slow:90"], Level.SLOWED),
        (1000, ["notify:80", "slow:90", "stop:100"], Level.STOPPED),
        (10**9, ["notify:80", "slow:90", "stop:100"], Level.STOPPED),
    ],
)
def test_a_step_acts_at_its_part_of_the_limit(used: int, acted: list[str], level: Level) -> None:
    """The first whole unit that reaches it; all that are reached at once act at once."""
    state = seen(QUOTA, used)
    assert [*state.acted] == acted == [told.step for told in state.untold]
    assert (state.level, state.used, state.most, state.looked) == (level, used, 1000, int(NOW.timestamp()))


@pytest.mark.parametrize(("most", "percent", "first"), [(3, 50, 2), (1, 1, 1), (1000, 100, 1000), (7, 1000, 70)])
def test_a_threshold_is_the_first_whole_unit_at_or_beyond_its_part(most: int, percent: int, first: int) -> None:
    """Never one before it."""
    limit = Applying("a/day", "a", "day", most, (Stop(percent),), Origin.PLAN, "")
    assert limit.threshold(Stop(percent)) == first
    assert [seen(limit, first - 1).level, seen(limit, first).level] == [Level.OPEN, Level.STOPPED]


def test_a_correction_reopens_and_what_has_acted_never_acts_again() -> None:
    """It is not told a second time, either; the level follows the usage each time."""
    stopped = seen(QUOTA, 1000, now=NOW)
    below = seen(QUOTA, 500, before=stopped, now=NOW + timedelta(minutes=1))
    again = seen(QUOTA, 1200, before=below, now=NOW + timedelta(minutes=2))
    assert [state.level for state in (stopped, below, again)] == [Level.STOPPED, Level.OPEN, Level.STOPPED]
    assert stopped.acted == below.acted == again.acted
    assert stopped.untold == again.untold
    assert [state.since - stopped.since for state in (below, again)] == [60, 120]


def test_a_level_is_since_it_came_to_be_and_not_since_the_last_look() -> None:
    """Whoever asks why, is told since when."""
    stopped = seen(QUOTA, 1000)
    later = seen(QUOTA, 1001, before=stopped, now=NOW + timedelta(hours=1))
    assert (later.since, later.looked) == (int(NOW.timestamp()), int(NOW.timestamp()) + 3600)


def test_an_edit_never_resets_what_was_counted_in_the_window() -> None:
    """A raised limit reopens and a lowered one stops at once, by what was used before the edit."""
    stopped = seen(QUOTA, 1000)
    raised = seen(replace(QUOTA, most=5000), 1000, before=stopped)
    lowered = seen(replace(QUOTA, most=100), 1000, before=raised)
    assert [(state.level, state.used, state.most) for state in (stopped, raised, lowered)] == [
        (Level.STOPPED, 1000, 1000),
        (Level.OPEN, 1000, 5000),
        (Level.STOPPED, 1000, 100),
    ]
    assert raised.acted == stopped.acted == lowered.acted
    kept = seen(QUOTA, 1000, before=LimitState("2026-11-01T00", "2026-12-01T00", upto="2026-11-20T00", closed={"a": 9}))
    assert (kept.upto, kept.closed) == ("2026-11-20T00", {"a": 9})


def test_a_step_that_an_edit_brings_acts_if_it_is_reached() -> None:
    """As the first of its kind, also where the usage is long beyond it."""
    before = seen(QUOTA, 850)
    steps: tuple[Step, ...] = (Notify(50), Notify(80), Stop(85))
    after = seen(replace(QUOTA, steps=steps), 850, before=before)
    assert [*after.acted] == ["notify:80", "notify:50", "stop:85"]
    assert after.level is Level.STOPPED


def test_a_new_window_begins_with_nothing_and_tells_nothing_of_the_one_before() -> None:
    """What has ended warns nobody and stops nobody."""
    stopped = seen(QUOTA, 1000)
    after = window("2026-12-01T00", "2027-01-01T00")
    state = decide(QUOTA, stopped, after, 0, at("2026-12-01T00:00:01"))
    assert (state.acted, state.untold, state.level, state.closed) == ({}, (), Level.OPEN, {})
    assert (state.begin, state.end, state.version) == ("2026-12-01T00", "2027-01-01T00", stopped.version)
    assert [*decide(QUOTA, state, after, 900, NOW).acted] == ["notify:80", "slow:90"]


def test_a_window_that_comes_to_end_at_another_moment_is_the_same() -> None:
    """A trial is extended, or ends early: what was used since it began is, and what has acted acts no second time."""
    stopped = seen(QUOTA, 1000)
    for end in ("2026-12-15T00", "2026-11-25T00"):
        state = decide(QUOTA, stopped, window("2026-11-01T00", end), 1001, NOW)
        assert (state.acted, state.untold, state.since) == (stopped.acted, stopped.untold, stopped.since)
        assert (state.begin, state.end, state.level) == ("2026-11-01T00", end, Level.STOPPED)


def test_who_comes_late_with_a_window_that_has_ended_decides_nothing() -> None:
    """Its clock is slow, or it was held up: else what has acted in the new window would act again."""
    after = window("2026-12-01T00", "2027-01-01T00")
    new = decide(QUOTA, seen(QUOTA, 1000), after, 850, at("2026-12-01T00:01:00"))
    late = decide(QUOTA, new, MONTH, 1300, at("2026-11-30T23:59:59"))
    assert late == new
    assert decide(QUOTA, late, after, 860, at("2026-12-01T00:02:00")).untold == new.untold


def test_a_period_that_changes_in_the_middle_is_another_window() -> None:
    """A subscription that began, or was cancelled, earlier or later than the month that was looked at."""
    before = seen(QUOTA, 1000)
    period = window("2026-11-15T10", "2026-12-15T10")
    moved = decide(QUOTA, before, period, 300, NOW)
    assert (moved.begin, moved.level, moved.acted) == ("2026-11-15T10", Level.OPEN, {})
    assert decide(QUOTA, moved, MONTH, 1000, NOW).begin == "2026-11-01T00"


@given(st.lists(st.integers(0, 2000), max_size=30), st.lists(st.integers(1, 2000), max_size=3))
def test_whatever_looks_find_each_step_acts_once_and_the_level_is_that_of_the_last(
    used: list[int], most: list[int]
) -> None:
    """Of any usage that rises and falls, and of limits that are edited in between."""
    state = LimitState()
    for number, found in enumerate(used):
        limit = replace(QUOTA, most=most[number % len(most)] if most else 1000)
        before, state = state, decide(limit, state, MONTH, found, NOW)
        reached = {written(step) for step in limit.steps if found * 100 >= limit.most * step.at}
        assert state.acted.keys() == before.acted.keys() | reached
        assert [told.step for told in state.untold] == [*state.acted]
        assert state.level == max((QUOTA_LEVELS[step] for step in reached), default=Level.OPEN)


QUOTA_LEVELS = {"notify:80": Level.OPEN, "slow:90": Level.SLOWED, "stop:100": Level.STOPPED}


@pytest.mark.parametrize(
    ("looks", "used", "left"),
    [
        ([0], 0, 800),
        ([799], 799, 1),
        ([800], 800, 100),
        ([950], 950, 50),
        ([1000], 1000, None),
        # what has acted lies ahead again as far as it closes
        ([1000, 500], 500, 400),
        ([1000, 950], 950, 50),
        ([800, 100], 100, 800),
    ],
)
def test_what_is_left_is_until_a_step_acts_or_the_level_rises(looks: list[int], used: int, left: int | None) -> None:
    """A notification that was given lies ahead no more."""
    assert left_until(QUOTA, seen(QUOTA, *looks), used) == left


# Why keys are closed


def test_a_state_holds_in_its_window_alone() -> None:
    """Its end needs no write: nobody is closed a moment longer, nor a moment earlier than it begins."""
    state = seen(QUOTA, 1000)
    assert [state.holds(at(text)) for text in ("2026-10-31T23:59:59", "2026-11-01T00:00:00")] == [
        Level.OPEN,
        Level.STOPPED,
    ]
    assert [state.holds(at(text)) for text in ("2026-11-30T23:59:59", "2026-12-01T00:00:00")] == [
        Level.STOPPED,
        Level.OPEN,
    ]
    assert LimitState().holds(NOW) is Level.OPEN


def test_every_reason_that_holds_is_said_and_one_never_hides_another() -> None:
    """By name: since when, and until when, if it ends by itself."""
    stopped, slowed, open_ = seen(QUOTA, 1000), seen(QUOTA, 900), seen(QUOTA, 899)
    states = [
        ("messages/period", stopped),
        ("messages/period/customer", slowed),
        ("requests/day", open_),
        ("budget/stop", stopped),
        ("budget/notify", open_),
    ]
    since, until = int(NOW.timestamp()), epoch("2026-12-01T00:00:00")
    held = [Reason("operator", Level.STOPPED, 5), Reason("unpaid", Level.STOPPED, 7)]
    assert reasons_of(states, held, NOW) == [
        Reason("budget", Level.STOPPED, since, until),
        Reason("limit:messages/period/customer:2026-11-01T00", Level.SLOWED, since, until),
        Reason("limit:messages/period:2026-11-01T00", Level.STOPPED, since, until),
        Reason("operator", Level.STOPPED, 5),
        Reason("unpaid", Level.STOPPED, 7),
    ]
    assert reasons_of(states, held, at("2026-12-01T00:00:00")) == held


def test_a_metric_named_budget_is_no_customers_budget() -> None:
    """Its limits are reasons of their own, whatever its name begins with."""
    names = ["budget/day", "budgets/period", "budget/period/customer"]
    found = reasons_of([(name, seen(QUOTA, 1000)) for name in names], [], NOW)
    assert [reason.name for reason in found] == [
        "limit:budget/day:2026-11-01T00",
        "limit:budget/period/customer:2026-11-01T00",
        "limit:budgets/period:2026-11-01T00",
    ]


def test_keys_are_open_if_and_only_if_no_reason_holds() -> None:
    """The one that closes farthest decides."""
    slowed, stopped = Reason("limit:a/day:b", Level.SLOWED, 1), Reason("operator", Level.STOPPED, 1)
    assert [level_by(found) for found in ([], [slowed], [slowed, stopped], [stopped])] == [
        Level.OPEN,
        Level.SLOWED,
        Level.STOPPED,
        Level.STOPPED,
    ]
