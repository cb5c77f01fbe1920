"""What the stack warns of when it is synthesised."""

from collections.abc import Callable
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_logs as logs
from aws_cdk.assertions import Annotations, Match
from msgspec.structs import replace

from infra.stack import (
    USAGE_LINES,
    AccessLog,
    Api,
    Limit,
    MeteringStack,
    Notify,
    PerUnit,
    Plan,
    Road,
    Slow,
    Spend,
    Stop,
    Sum,
)

MakeStack = Callable[..., MeteringStack]

PLAN = Plan(
    name="standard",
    title="Standard",
    currency="usd",
    prices=(PerUnit(metric="requests", amount=1),),
    limits=(Limit("requests", 100, at=(Stop(100),)),),
)


def test_a_setting_of_the_first_release_that_has_no_effect_any_more_is_warned_of(stack: MakeStack) -> None:
    """An app that gives it can still be deployed."""
    made = stack(stripe_calls=5000)
    Annotations.from_stack(made).has_warning("*", Match.string_like_regexp("stripe_calls has no effect any more"))


def test_a_metric_of_usage_lines_that_cannot_arrive_is_warned_of(stack: MakeStack) -> None:
    """It would bill nothing for ever (I9), unless a log group is connected that no app has."""
    tokens, told = [Sum(name="tokens", of=USAGE_LINES)], Match.string_like_regexp("none can arrive from this app")
    Annotations.from_stack(stack(metrics=tokens)).has_warning("*", told)
    metered = stack("Metered", metrics=tokens)
    metered.meter_usage_lines(logs.LogGroup(metered, "Log"))
    Annotations.from_stack(metered).has_no_warning("*", told)
    Annotations.from_stack(stack("Without")).has_no_warning("*", told)


def test_on_firehose_a_stop_without_slow_below_it_is_warned_of(stack: MakeStack) -> None:
    """What comes meanwhile is minutes' worth; on the other road it is seconds' worth."""
    slow, late = (
        stack(plans=[PLAN], road=Road.FIREHOSE),
        Match.string_like_regexp("requests/period has a Stop and no Slow"),
    )
    Annotations.from_stack(slow).has_warning("*", late)
    Annotations.from_stack(stack("Other", plans=[PLAN])).has_no_warning("*", late)


@pytest.mark.parametrize("api", [Api.HTTP, Api.WEBSOCKET])
def test_callers_without_keys_are_not_slowed_which_is_warned_of(stack: MakeStack, api: Api) -> None:
    """A Slow tells there; where the API has keys, and where nothing slows, there is nothing to say."""
    slows = [replace(PLAN, limits=(Limit("requests", 100, at=(Slow(90), Stop(100))),))]
    callers, warned = AccessLog(api, "authorizer.sub"), Match.string_like_regexp(f"of {api.noun} are not slowed")
    Annotations.from_stack(stack(plans=slows, access_log=callers)).has_warning("*", warned)
    Annotations.from_stack(stack("Stops", plans=[PLAN], access_log=callers)).has_no_warning("*", warned)
    Annotations.from_stack(stack("Keys", plans=slows)).has_no_warning("*", warned)


def test_that_a_stop_closes_no_connection_is_warned_of(stack: MakeStack) -> None:
    """Whoever is connected sends on; other kinds of API ask for each request who may come in."""
    told = Match.string_like_regexp("connected to a WebSocket API stays connected when stopped")
    sockets, calls = (AccessLog(api, "authorizer.sub") for api in (Api.WEBSOCKET, Api.HTTP))
    notifies = [replace(PLAN, limits=(Limit("requests", 100, at=(Notify(80),)),))]
    Annotations.from_stack(stack(plans=[PLAN], access_log=sockets)).has_warning("*", told)
    Annotations.from_stack(stack("Tells", plans=notifies, access_log=sockets)).has_no_warning("*", told)
    Annotations.from_stack(stack("Http", plans=[PLAN], access_log=calls)).has_no_warning("*", told)


def _planned(app: cdk.App, stack: MakeStack, **settings: Any) -> Annotations:
    """Return what is said of an API's own stack, which has a plan with a throttle and one without."""
    backend = cdk.Stack(app, "Backend")
    api = apigateway.RestApi(backend, "Api", cloud_watch_role=False)
    api.root.add_method("GET")
    api.add_usage_plan("Bounded", throttle=apigateway.ThrottleSettings(rate_limit=10, burst_limit=20))
    stack(**settings)
    # Plans that are made after the stack are seen, too.
    api.add_usage_plan("Standard")
    return Annotations.from_stack(backend)


@pytest.mark.parametrize(
    "limit", [Limit("requests", 100), Spend(50_000, at=(Notify(100),), customer_may_stop=True)], ids=["stop", "budget"]
)
def test_a_plan_without_a_throttle_is_warned_of_where_something_stops(
    app: cdk.App, stack: MakeStack, limit: Limit | Spend
) -> None:
    """Its keys may send any number until they are out of it; one with a throttle is not mentioned."""
    said = _planned(app, stack, plans=[replace(PLAN, limits=(limit,))]).find_warning("*", Match.any_value())
    assert [(one.id, str(one.entry.data).partition(" [ack")[0]) for one in said] == [
        (
            "/Backend/Api/Standard/Resource",
            (
                "the usage plan Backend/Api/Standard has no throttle, so that what can still come after a stop is "
                "unbounded: write for example throttle=ThrottleSettings(rate_limit=10, burst_limit=20)"
            ),
        )
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"limits": True},
        {"plans": [replace(PLAN, limits=(Limit("requests", 100, at=(Notify(80), Slow(100))),))]},
        {"plans": [PLAN], "access_log": AccessLog(Api.HTTP, "authorizer.sub")},
    ],
    ids=["none declared", "none stops", "no keys"],
)
def test_a_plan_without_a_throttle_is_nobodys_concern_where_nothing_stops_keys(
    app: cdk.App, stack: MakeStack, settings: Any
) -> None:
    """Or where callers have none."""
    assert not _planned(app, stack, **settings).find_warning("*", Match.any_value())
