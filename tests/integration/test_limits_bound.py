"""How far a limit can be overrun, as it is stated: from the throttles of usage plans, and from what is measured."""

from datetime import timedelta

import msgspec
import pytest

from infra.operate.limits.bound import Bound, Delay, Measured, bound_of, delay_of, overrun_of, save_measured
from metering.limits.usage_plans import Throttle, UsagePlan
from metering.model.limits import Level
from metering.stores.holders import Holder
from metering.stores.limits import Home
from tests.integration.limit_desk import Desk
from tests.integration.limits import HOUR

MEASURED = Measured(
    at=1,
    where="aws",
    samples=20,
    closed_p50_ms=800,
    closed_p99_ms=1500,
    opened_p50_ms=400,
    opened_p99_ms=500,
    counted_ms=7600,
)
STANDARD = UsagePlan("plan1", "Standard", frozenset({"api1/prod"}), Throttle(10.0, 20))
OTHER = UsagePlan("plan2", "Other", frozenset({"api2/prod"}), Throttle(5.0, 5))
UNTHROTTLED = UsagePlan("plan3", "Free", frozenset({"api3/prod"}))


def test_a_key_may_use_its_burst_and_its_rate_for_as_long_as_a_stop_takes() -> None:
    """Four management calls, at five a second, are what the gate itself takes: 20 + 10 x (30 + 0.8)."""
    assert bound_of({"key1": [STANDARD]}, 30.0) == Bound(328, 1, 0.8)


def test_of_many_keys_each_goes_on_until_it_has_its_turn() -> None:
    """The last of a hundred is taken out 80 seconds after the gate has begun: 100 x (20 + 300) + 10 x 0.8 x 5,050."""
    assert bound_of({f"key{number}": [STANDARD] for number in range(100)}, 30.0) == Bound(72_400, 100, 80.0)


def test_a_key_in_plans_of_two_stages_may_use_both() -> None:
    """It is in two plans, each of which has a burst of its own: 20 + 10 x 31.2, and 5 + 5 x 31.2."""
    assert bound_of({"key1": [STANDARD, OTHER]}, 30.0).calls == 332 + 161


def test_a_part_of_a_call_is_a_call() -> None:
    """Of each key: 1 + 0.25 x 10.8, and 1 + 0.25 x 11.6."""
    small = UsagePlan("plan4", "Small", frozenset({"api1/prod"}), Throttle(0.25, 1))
    assert bound_of({"key1": [small], "key2": [small]}, 10.0).calls == 4 + 4


def test_a_plan_without_a_throttle_bounds_nothing() -> None:
    """Which ones there are is said, each once."""
    plans = {"key1": [STANDARD, UNTHROTTLED], "key2": [UNTHROTTLED], "key3": [OTHER]}
    found = bound_of(plans, 30.0)
    assert (found.calls, found.keys, found.unbounded) == (None, 3, ("Free",))


def test_nobody_without_keys_overruns_anything() -> None:
    """There is nothing to be stopped."""
    assert bound_of({}, 30.0) == Bound(0, 0)


def test_a_delay_is_the_sum_of_what_was_counted_and_measured(desk: Desk) -> None:
    """The slowest count of the day, by the deployment's own signal."""
    save_measured(desk.deployment, MEASURED)
    desk.cloudwatch.values = [4.5, 12.25, 7.0]
    delay = delay_of(desk.deployment, desk.world.now)
    assert (delay.count_s, delay.look_s, delay.wake_s, delay.gate_s) == (12.25, 5.0, 2.0, 1.5)
    assert delay.as_json() == {
        "seconds": 20.75,
        "count_s": 12.25,
        "look_s": 5.0,
        "wake_s": 2.0,
        "gate_s": 1.5,
        "notes": [],
    }
    (asked,) = desk.cloudwatch.asked
    assert (asked["Stat"], asked["for"]) == ("Maximum", timedelta(days=1))
    assert asked["Metric"] == {
        "Namespace": "Metering",
        "MetricName": "OldestRecordAge",
        "Dimensions": [{"Name": "service", "Value": "Metering"}],
    }


@pytest.mark.parametrize(("road", "seconds"), [("subscription", 180.0), ("firehose", 480.0)])
def test_what_was_not_measured_is_said(desk: Desk, road: str, seconds: float) -> None:
    """The gate is left out; for the count stands what AWS says of it."""
    desk.told["road"] = road
    delay = delay_of(desk.deployment, desk.world.now)
    assert (delay.count_s, delay.gate_s) == (seconds, 0.0)
    assert delay.notes == (
        "the gate is left out, for how fast it acts was not measured here: run 'metering limits measure'",
        f"nothing was counted in the last day: what AWS says of a log's delay, {seconds:.0f} s, is taken for it",
    )


def test_who_calls_a_connected_api_is_closed_by_no_usage_plan_so_that_there_is_no_bound(desk: Desk) -> None:
    """I9: its API's authorizer may refuse it, of which nothing is known here; API Gateway is not asked of it."""
    key = desk.gateway.add_key(desk.gateway.add_plan("Standard", "api/v1", rate=25))
    desk.world.customer("acme", key, "orders:auth0|x")
    assert overrun(desk) == Bound(None, 2, 1.2, callers=("orders:auth0|x",))
    assert (
        "note: what can still come after a stop has no bound, with callers that no usage plan closes, but an "
        "authorizer of their API at best: orders:auth0|x" in unwrapped(desk.run("limits", "show", "acme"))
    )
    assert desk.document("limits", "show", "acme")["overrun"]["callers"] == ["orders:auth0|x"]
    free = UsagePlan("plan3", "Free")
    assert bound_of({"key1": [free], "orders:a": []}, 1).in_words(Delay(1.0, 0.0)) == (
        "what can still come after a stop has no bound, with keys in usage plans that have no throttle: Free; and "
        "callers that no usage plan closes, but an authorizer of their API at best: orders:a"
    )


def test_where_nothing_was_counted_lately_the_probes_own_counts_stand(desk: Desk) -> None:
    """And that it was measured on the emulator alone is said."""
    save_measured(desk.deployment, msgspec.structs.replace(MEASURED, where="emulator"))
    delay = delay_of(desk.deployment, desk.world.now)
    assert (delay.count_s, delay.gate_s) == (7.6, 1.5)
    assert delay.notes == (
        "how fast the gate acts was measured on the emulator alone",
        "nothing was counted in the last day: what was measured then, 8 s, is taken for it",
    )


def overrun(desk: Desk) -> Bound | None:
    """Return how far acme's stops can be overrun, at ten seconds."""
    desk.cloudwatch.values = [3.0]
    found = overrun_of(desk.deployment, "acme", desk.world.now)
    return found[0] if found else None


def test_a_customer_is_bounded_by_the_plans_that_its_keys_are_in(desk: Desk) -> None:
    """Those that it holds now; what is in no plan can call nothing."""
    standard, gold = (desk.gateway.add_plan(name, "api/v1", rate=rate) for name, rate in (("S", 10), ("G", 100)))
    keys = [desk.gateway.add_key(standard), desk.gateway.add_key(gold), desk.gateway.add_key()]
    desk.world.customer("acme", *keys)
    assert overrun(desk) == Bound(118 + 1260, 2, 1.6)
    holding = desk.world.ledger.holders.of_keys([keys[1]])[keys[1]]
    desk.world.ledger.holders.hand_over(holding.with_holder(Holder(HOUR, "globex", "sold")))
    assert overrun(desk) == Bound(118, 1, 0.8)


def test_a_closed_key_is_bounded_by_the_plan_that_it_comes_back_to(desk: Desk) -> None:
    """A key that is open again is bounded by where it is, whatever was remembered when it was closed."""
    standard, gold = (desk.gateway.add_plan(name, "api/v1", rate=rate) for name, rate in (("S", 10), ("G", 100)))
    key = desk.gateway.add_key()
    desk.world.customer("acme", key)
    home = desk.world.items.save_home(key, Home((gold, "gone"), Level.STOPPED, 1))
    assert overrun(desk) == Bound(1180, 1, 0.8)
    desk.world.items.save_home(key, Home((gold,), Level.OPEN, 2, version=home.version))
    desk.gateway._put(standard, key)
    assert overrun(desk) == Bound(118, 1, 0.8)


def test_callers_of_an_http_api_are_bounded_by_nothing_that_is_known(desk: Desk) -> None:
    """They have no keys, and no usage plans."""
    desk.access_log = {"api": "http", "caller": "authorizer.sub"}
    assert overrun(desk) is None
    assert desk.document("limits", "show", "acme")["overrun"] is None


def unwrapped(text: str) -> str:
    """Return what a terminal has broken into lines as one."""
    return " ".join(text.split())


def test_how_far_a_limit_can_be_overrun_is_shown_with_it(desk: Desk) -> None:
    """In words, and as a document."""
    key = desk.gateway.add_key(desk.gateway.add_plan("Standard", "api/v1", rate=25))
    desk.world.customer("acme", key)
    desk.cloudwatch.values = [8.0]
    said = desk.run("limits", "show", "acme")
    assert (
        "note: after a stop at most 420 calls can still come: burst and 15.0 s of the rate of 1 key, and up to 0.8 s "
        "until a key has its turn, by throttles that API Gateway keeps by best effort" in unwrapped(said)
    )
    assert "note: the gate is left out" in unwrapped(said)
    assert desk.document("limits", "show", "acme")["overrun"] == {
        "calls": 420,
        "keys": 1,
        "turns_s": 0.8,
        "unbounded": [],
        "callers": [],
        "delay": Delay(
            8.0,
            0.0,
            notes=("the gate is left out, for how fast it acts was not measured here: run 'metering limits measure'",),
        ).as_json(),
    }
    desk.gateway.add_key(desk.gateway.add_plan("Open", "api/v2"))
    desk.gateway.drop_plan(next(iter(desk.gateway.plans)))
    desk.gateway._put(next(iter(desk.gateway.plans)), key)
    assert (
        "what can still come after a stop has no bound, with keys in usage plans that have no throttle: Open"
        in unwrapped(desk.run("limits", "show", "acme"))
    )
    assert desk.document("limits", "show", "acme")["overrun"]["calls"] is None
