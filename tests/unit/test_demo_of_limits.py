"""What the demo of limits prints, and when it says that the limit acted as it should."""

from dataclasses import replace

import pytest

from infra.local.demo.limits import LimitsResult

WELL = LimitsResult(
    road="subscription",
    limit=200,
    calls_sent=260,
    calls_let_in=232,
    counted=232,
    overshoot_calls=32,
    bound_calls=450,
    delay={"seconds": 8.0},
    measured={"samples": 5},
    stages={"stopped at the gateway": True, "other customers go on": True},
    elapsed_s={"total": 130.1},
)


def test_the_document_holds_what_was_seen_beside_the_verdict() -> None:
    """Its fields are the interface of ``metering demo --limits --json``."""
    assert WELL.as_json() == {
        "equal": True,
        "road": "subscription",
        "limit": 200,
        "calls_sent": 260,
        "calls_let_in": 232,
        "counted": 232,
        "overshoot_calls": 32,
        "bound_calls": 450,
        "delay": {"seconds": 8.0},
        "measured": {"samples": 5},
        "stages": {"stopped at the gateway": True, "other customers go on": True},
        "elapsed_s": {"total": 130.1},
    }


@pytest.mark.parametrize("overshoot", [0, 450])
def test_a_stop_within_the_stated_bound_is_as_it_should_be(overshoot: int) -> None:
    """From the limit itself to the last call that was stated."""
    assert replace(WELL, overshoot_calls=overshoot).equal


@pytest.mark.parametrize(
    "otherwise",
    [
        replace(WELL, counted=231),
        replace(WELL, counted=233),
        replace(WELL, overshoot_calls=451),
        replace(WELL, overshoot_calls=-1),
        replace(WELL, bound_calls=None),
        replace(WELL, stages={"stopped at the gateway": True, "other customers go on": False}),
        replace(WELL, stages={}),
    ],
    ids=[
        "a call is not counted",
        "a call is counted twice",
        "more came after the limit than was stated",
        "it was stopped before the limit",
        "nothing was stated",
        "something did not happen",
        "nothing happened",
    ],
)
def test_anything_else_is_not(otherwise: LimitsResult) -> None:
    """Each way in which it can be otherwise."""
    assert otherwise.equal is False
    assert otherwise.as_json()["equal"] is False
