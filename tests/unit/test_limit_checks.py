"""Limits as a plan declares them: which are refused, and of which it is warned."""

from typing import Any

import pytest

from metering.model.limit_checks import LimitError, warnings
from metering.model.limits import Limit, Notify, Slow, Spend, Stop
from metering.model.metrics import Count, Metric, Sum, Unique
from metering.model.price_checks import check
from metering.model.prices import Flat, Graduated, PerUnit, Plan, Tier, decode, encode

METRICS: tuple[Metric, ...] = (
    Count(name="requests"),
    Sum(name="messages", of="authorizer.messages"),
    Count(name="calls", by="authorizer.plan", meters=("gold",)),
    Unique(name="users", of="authorizer.user", opaque_id=True),
)

ISSUED = (
    Limit("messages", 100_000, per="period", at=(Notify(80), Notify(95), Stop(100))),
    Limit("requests", 5_000, per="day", at=(Slow(90), Stop(100))),
    Spend(50_000, at=(Notify(50), Notify(80), Notify(100)), customer_may_stop=True),
)

NO_STEPS: Any = ()


def plan(*limits: Any, **changes: Any) -> Plan:
    """Make a plan with these limits."""
    prices = (PerUnit(metric="requests", amount="0.04"),)
    return Plan(
        **{"name": "standard", "title": "Standard", "currency": "usd", "prices": prices, "limits": limits} | changes
    )


def message(**changes: Any) -> Limit:
    """Make a limit that is good but for some changes."""
    given: dict[str, Any] = {"metric": "messages", "units": 100}
    return Limit(**given | changes)


def test_limits_are_written_as_the_guide_writes_them_and_travel_with_their_plan() -> None:
    """Also by position, and beside those with nothing but what they must have."""
    declared = plan(*ISSUED, Limit("calls_other", 1), Limit("users", 10**15, per="hour", at=(Stop(1000),)))
    check([declared], METRICS)
    assert decode(encode([declared])) == (declared,)
    assert decode(encode([plan()]))[0].limits == ()
    assert b'"limits"' not in encode([plan()]).encode()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (message(metric="message"), "has a limit of 'message', which is no metric: write 'messages'"),
        (message(metric="calls"), "a limit of 'calls', which is no metric: write 'calls_(gold|other)'"),
        (message(metric="x"), r"which is no metric: write one of 'requests', 'messages'"),
        (message(metric="spend"), r"has a limit of 'spend', which is no metric: write Spend\(amount\)"),
        (message(metric=7), "has a limit of 7, which is no metric"),
        (message(units=0), "the limit of 'messages' is a whole number of units from 1 to 10\\^15, got 0"),
        (message(units=-5), "from 1 to 10\\^15, got -5"),
        (message(units=1e6), "from 1 to 10\\^15, got 1000000.0"),
        (message(units=True), "from 1 to 10\\^15, got True"),
        (message(units="5000"), "from 1 to 10\\^15, got '5000'"),
        (message(units=10**15 + 1), "from 1 to 10\\^15, got 1000000000000001"),
        (message(per="periods"), "the limit of 'messages' is per 'period', got 'periods'"),
        (message(per="week"), r"is per one of 'hour', 'day', 'month', 'period', got 'week'"),
        (message(per=None), "got None"),
        (message(at=Stop(100)), r"at is a tuple of steps, write at=\(Stop\(at=100\),\)"),
        (message(at=NO_STEPS), r"at holds one or more of Notify, Slow, Stop, such as .*; got \(\)"),
        (message(at=(100,)), r"at holds one or more of Notify, Slow, Stop, such as .*; got \(100,\)"),
        (message(at=({"type": "stop", "at": 100},)), "at holds one or more of Notify, Slow, Stop"),
        (message(at=(Stop(0),)), r"a step is at a whole percentage from 1 to 1000, got Stop\(at=0\)"),
        (message(at=(Notify(1001),)), r"a step is at a whole percentage from 1 to 1000, got Notify\(at=1001\)"),
        (message(at=(Notify(99.5),)), "a step is at a whole percentage from 1 to 1000"),  # type: ignore[arg-type]
        (message(at=(Notify(at=True),)), "a step is at a whole percentage from 1 to 1000"),
        (message(at=(Notify(80), Stop(100), Notify(80))), r"has the step Notify\(at=80\) twice: leave one out"),
        (message(at=tuple(Notify(at) for at in range(1, 22))), "has 21 steps: 20 are the most"),
        (
            message(at=(Slow(100), Stop(100))),
            r"Slow\(at=100\) never acts, since Stop\(at=100\) comes first: put it below 100",
        ),
        (message(at=(Stop(150), Slow(120), Stop(110))), r"Slow\(at=120\) never acts, since Stop\(at=110\) comes first"),
        (Spend(0), "what may be spent is a whole amount of the currency's smallest unit from 1 to 10\\^15, got 0"),
        (Spend("500.00"), "from 1 to 10\\^15, got '500.00'"),  # type: ignore[arg-type]
        (Spend(5, at=(Stop(100), Stop(100))), r"what may be spent has the step Stop\(at=100\) twice"),
        (Spend(5, customer_may_stop=1), "customer_may_stop is True or False, got 1"),  # type: ignore[arg-type]
        ({"metric": "messages", "units": 5}, "a limit is a Limit or a Spend, got {'metric': 'messages', 'units': 5}"),
        (PerUnit(metric="messages", amount=1), "a limit is a Limit or a Spend, got PerUnit"),
    ],
)
def test_a_limit_that_cannot_act_is_refused_with_what_to_write_instead(wrong: Any, why: str) -> None:
    """When the app is synthesised, by the plan's name."""
    with pytest.raises(LimitError, match=f"^the plan 'standard'.*{why}"):
        check([plan(wrong)], METRICS)


def test_two_limits_of_one_metric_and_window_are_refused() -> None:
    """Each is known by these; of other windows, and in other plans, there may be as many."""
    day, hour = Limit("requests", 5_000, per="day"), Limit("requests", 500, per="hour")
    check([plan(day, hour, Spend(50)), plan(day, hour, Spend(70), name="large")], METRICS)
    with pytest.raises(LimitError, match="has two limits of 'requests' per day: give one of them the steps of both"):
        check([plan(day, hour, Limit("requests", 9, per="day"))], METRICS)
    with pytest.raises(LimitError, match="has two amounts of spend: give one of them the steps of both"):
        check([plan(Spend(50), Spend(70))], METRICS)


def test_a_limit_that_is_in_no_tuple_is_refused() -> None:
    """A comma is soon forgotten."""
    with pytest.raises(LimitError, match=r"limits are a tuple, write \(Limit\(metric='messages', units=5"):
        check([plan(limits=Limit("messages", 5))], METRICS)
    with pytest.raises(LimitError, match="has 21 limits: 20 are the most"):
        check([plan(*(Limit("messages", 5) for _ in range(21)))], METRICS)


def test_a_metric_named_as_money_is_has_no_limit() -> None:
    """Commands and answers call a limit of money so."""
    with pytest.raises(LimitError, match="a limit of 'spend' is one of money: give that metric another name"):
        check([plan(Limit("spend", 5))], (*METRICS, Count(name="spend")))


@pytest.mark.parametrize("stops", [Limit("messages", 5), Spend(5, at=(Stop(90),)), Spend(5, customer_may_stop=True)])
@pytest.mark.parametrize(
    ("statuses", "why"),
    [
        (("2xx", "403", "404"), r"'tries' would bill these: write statuses=\('2xx', '404'\) there"),
        (("403",), r"'tries' would bill these: write statuses=\('2xx', '3xx'\) there"),
        (("2xx", "4xx"), "'tries' would bill these by '4xx': write in its statuses the codes that you mean"),
    ],
)
def test_what_bills_the_calls_that_a_stop_refuses_is_refused_with_one(
    stops: Limit | Spend, statuses: tuple[str, ...], why: str
) -> None:
    """I7: also a metric without a limit of its own; without a stop it may bill them."""
    metrics = (*METRICS, Count(name="tries", statuses=statuses))
    check([plan(Limit("messages", 5, at=(Notify(80), Slow(100))), Spend(5))], metrics)
    with pytest.raises(LimitError, match=f"the plan 'standard': a stop refuses calls with 403, and {why}"):
        check([plan(stops)], metrics)


def test_an_amount_that_fees_alone_reach_stops_everybody_and_is_refused() -> None:
    """Fees are spent, too; a notification at such an amount is harmless."""
    tiers = (Tier(up_to=10, amount=0, flat=100), Tier(amount=1))
    prices = (Flat(amount=4900), Graduated(metric="requests", tiers=tiers))
    check([plan(Spend(5001, at=(Stop(100),)), prices=prices)], METRICS)
    check([plan(Spend(10, at=(Notify(100),)), prices=prices)], METRICS)
    with pytest.raises(LimitError, match="its fees alone come to 5000, which is stop:100 of 5000, so that nobody"):
        check([plan(Spend(5000, at=(Stop(100),)), prices=prices)], METRICS)
    with pytest.raises(LimitError, match="which is slow:50 of 9000"):
        check([plan(Spend(9000, at=(Slow(50), Stop(100))), prices=prices)], METRICS)


def test_a_stop_that_nothing_slows_before_is_warned_of_where_counts_are_minutes_old() -> None:
    """On the road over Firehose; on the other they are seconds old."""
    plans = [plan(*ISSUED), plan(Limit("messages", 5, per="hour"), name="large")]
    assert warnings(plans, minutes_old=False) == []
    said = warnings(plans, minutes_old=True)
    assert [sentence.split(" has a Stop")[0] for sentence in said] == [
        "the plan 'standard': messages/period",
        "the plan 'large': messages/hour",
    ]
    assert "counts are minutes old" in said[0]
