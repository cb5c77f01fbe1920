"""How far a limit can be overrun, by the throttles of a customer's keys and by what a stop takes."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from infra.operate.limits import bound
from infra.operate.limits.bound import Delay, bound_of, overrun_of
from metering.limits.usage_plans import Throttle, UsagePlan
from metering.model.limits import Level
from metering.model.log_format import Api
from metering.stores.limits import Home
from tests.doubles.usage_plans import UsagePlansOfAws
from tests.integration.limits import Limited

STANDARD = UsagePlan("plan1", "Standard", frozenset({"api1/prod"}), Throttle(10.0, 20))
OTHER = UsagePlan("plan2", "Other", frozenset({"api2/prod"}), Throttle(5.0, 5))
UNTHROTTLED = UsagePlan("plan3", "Free", frozenset({"api3/prod"}))


def test_a_key_may_use_its_burst_and_its_rate_for_as_long_as_a_stop_takes() -> None:
    """Four management calls, at five a second, are what the gate itself takes: 20 + 10 x (30 + 0.8)."""
    found = bound_of({"key1": [STANDARD]}, 30.0)
    assert (found.calls, found.keys, found.turns_s) == (328, 1, 0.8)


def test_of_many_keys_each_goes_on_until_it_has_its_turn() -> None:
    """The last of a hundred is taken out 80 seconds after the gate has begun: 100 x (20 + 300) + 10 x 0.8 x 5,050."""
    found = bound_of({f"key{number}": [STANDARD] for number in range(100)}, 30.0)
    assert (found.calls, found.keys, found.turns_s) == (72_400, 100, 80.0)


def test_a_key_in_plans_of_two_stages_may_use_both() -> None:
    """It is in two plans, each of which has a burst of its own: 20 + 10 x 31.2, and 5 + 5 x 31.2."""
    assert bound_of({"key1": [STANDARD, OTHER]}, 30.0).calls == 332 + 161


def test_a_plan_without_a_throttle_bounds_nothing() -> None:
    """Which keys are in one is said."""
    found = bound_of({"key1": [STANDARD], "key2": [UNTHROTTLED]}, 30.0)
    assert (found.calls, found.unbounded) == (None, ("key2",))


@pytest.mark.parametrize(("level", "calls"), [(Level.OPEN, 20 + 20 * 10), (Level.STOPPED, 10 + 10 * 10)])
def test_of_a_key_that_is_open_the_plan_counts_that_it_is_in(
    monkeypatch: pytest.MonkeyPatch, level: Level, calls: int
) -> None:
    """Since it was reopened it may have been put into another one; while it is closed that counts where it belongs."""
    limited, aws = Limited(), UsagePlansOfAws()
    small, large = aws.add_plan("Small", "api1/prod", rate=10), aws.add_plan("Large", "api1/prod", rate=20)
    key = aws.add_key(large)
    limited.customer("acme", key)
    limited.items.save_home(key, Home((small,), level))
    clients = {"apigateway": aws.client(), "dynamodb": limited.client()}
    deployment: Any = SimpleNamespace(
        access_log=SimpleNamespace(api=Api.REST),
        client=clients.__getitem__,
        ledger=limited.ledger,
        outputs=SimpleNamespace(watch_limits_function="watch-limits", ledger_table="ledger"),
    )
    monkeypatch.setattr(bound, "delay_of", lambda *_: Delay(2.2, 0.0))  # with look, wake and turn: ten seconds
    overrun = overrun_of(deployment, "acme", datetime(2026, 11, 22, 5, 30, tzinfo=UTC))
    assert overrun is not None
    assert overrun[0].calls == calls
