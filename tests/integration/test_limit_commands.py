"""What an operator does about limits: set, raised, cleared, listed, shown."""

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from infra.operate.limits.setting import NO_LIMITS
from metering.model.limits import BUDGET, OPERATOR, STOP_OF_BUDGET, Budget, Level, OfCustomer
from metering.model.metrics import Count
from metering.stores.limits import Gate, Held
from tests.doubles.dying import Dying, KilledError, Life
from tests.integration.limit_desk import METRICS, Desk
from tests.integration.limits import HOUR
from tests.integration.operator_commands import WHO

WHY = ("--reason", "a runaway client")

# What is set


def test_a_limit_that_is_set_stops_at_once_by_what_was_used_before_it(desk: Desk) -> None:
    """An edit never resets what was counted in the window, up or down; the plan's limit stays beside it."""
    desk.world.use(40)
    said = desk.run("limits", "set", "acme", "requests", "--stop", "40", "--per", "day", *WHY)
    assert said == "acme: a stop at 40 requests per day"
    assert desk.level() is Level.STOPPED
    assert desk.run("limits", "set", "acme", "requests", "--stop", "60", "--per", "day", *WHY).endswith(
        "60 requests per day"
    )
    assert desk.level() is Level.OPEN
    shown = desk.limits()
    assert (shown["requests/day/customer"]["used"], shown["requests/day/customer"]["most"]) == (40, 60)
    assert (shown["requests/day"]["used"], shown["requests/day"]["most"]) == (40, 100)
    desk.world.use(20)
    desk.world.look()
    assert desk.level() is Level.STOPPED
    assert desk.run("limits", "clear", "acme", "requests") == "acme: a stop at 60 requests per day applies no longer"
    assert desk.level() is Level.OPEN
    assert desk.limits()["requests/day"]["used"] == 60


def test_what_is_set_says_by_whom_when_why_and_until_when(desk: Desk) -> None:
    """It stands in the ledger so."""
    desk.run("limits", "set", "acme", "spend", "--stop", "900", "--until", "2026-12-01", *WHY)
    (own,) = desk.world.items.of("acme").own
    assert (own.metric, own.per, own.most, own.raised) == ("spend", "period", 900, False)
    assert (own.reason, own.who, own.at) == ("a runaway client", WHO, int(desk.world.now.timestamp()))
    assert desk.document("limits", "list")["customers"][0]["own"] == [
        {
            "metric": "spend",
            "per": "period",
            "most": 900,
            "raised": False,
            "until": "2026-12-01T00:00:00Z",
            "reason": "a runaway client",
            "who": WHO,
            "at": "2026-11-22T05:30:00Z",
        }
    ]


def test_the_same_again_changes_nothing_and_is_looked_at_again(desk: Desk) -> None:
    """In case the look before did not come to its end."""
    again = ("limits", "set", "acme", "bytes", "--stop", "10", *WHY)
    desk.run(*again)
    before = desk.world.items.of("acme").own
    assert desk.run(*again) == "nothing to change"
    assert desk.document(*again) == {"changed": [], "looked_at": True}
    assert desk.world.items.of("acme").own == before
    assert desk.asked == [{"look": ["acme"]}] * 3


def test_a_limit_of_a_time_applies_no_longer_when_that_is_over(desk: Desk) -> None:
    """Nobody has to take it back."""
    desk.world.use(40)
    desk.run("limits", "set", "acme", "requests", "--stop", "10", "--per", "day", "--until", "2026-11-22T07", *WHY)
    assert desk.level() is Level.STOPPED
    desk.world.time.moment = HOUR.start + timedelta(hours=2)
    desk.world.look()
    assert desk.level() is Level.OPEN
    assert desk.document("limits", "list")["customers"] == []


def test_what_cannot_be_looked_at_at_once_is_said_and_is_written_all_the_same(desk: Desk) -> None:
    """The sweep does it then."""
    desk.fails = "the function watch-limits failed: out of memory; its log group says more"
    said = desk.try_("limits", "set", "acme", "bytes", "--stop", "10", *WHY)
    assert (said.code, said.out) == (0, "acme: a stop at 10 bytes per period\n")
    assert said.err == (
        f"note: acme could not be looked at just now, the sweep looks at everybody within 15 minutes: {desk.fails}\n"
    )
    said = desk.try_("limits", "clear", "acme", "bytes", "--json")
    assert json.loads(said.out) == {
        "changed": ["acme: a stop at 10 bytes per period applies no longer"],
        "looked_at": False,
    }
    assert said.err.startswith("note: acme could not be looked at")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("set", "acme", "request", "--stop", "5", *WHY), "there is no metric 'request': write 'requests'"),
        (("set", "acme", "x", "--stop", "5", *WHY), "no metric 'x': write one of 'requests', 'bytes', 'spend'"),
        (("set", "acme", "requests", "--stop", "0", *WHY), "a limit is a whole number from 1 to 10^15, got 0"),
        (("set", "acme", "requests", "--stop", "5", "--reason", " "), "a reason is 1 to 200 printable characters"),
        (("set", "acme", "requests", "--stop", "5", "--until", "2026-11-22T05", *WHY), "a limit ends in the future"),
        (("set", "acme", "spend", "--stop", "5", "--per", "day", *WHY), "what is spent is counted per period"),
        (("set", "globex", "requests", "--stop", "5", *WHY), "there is no customer 'globex'"),
        (("raise", "acme", "requests", "--to", "100", *WHY), "the plan pro gives 100 requests/day already, got 100"),
        (("raise", "acme", "requests", "--to", "10**9", "--per", "hour", *WHY), ""),
        (("raise", "acme", "requests", "--to", "9", "--per", "hour", *WHY), "has 0 limits of requests per hour"),
        (
            ("raise", "acme", "bytes", "--to", "9000", *WHY),
            "2 limits of bytes that could be raised; say which",
        ),
        (("raise", "acme", "byte", "--to", "9000", *WHY), "there is no metric 'byte': write 'bytes'"),
        (("clear", "acme", "byte"), "there is no metric 'byte': write 'bytes'"),
        (("show", "globex"), "there is no customer 'globex'"),
    ],
)
def test_what_cannot_act_is_refused_with_what_to_do(desk: Desk, arguments: tuple[str, ...], why: str) -> None:
    """Before anything is written."""
    if not why:
        assert desk.try_("limits", *arguments).code == 2
        return
    assert why in desk.refused("limits", *arguments)


def test_a_stop_is_refused_where_a_metric_bills_the_calls_that_it_refuses(desk: Desk) -> None:
    """A client that goes on calling would pay for that."""
    desk.metrics = (Count(name="requests", statuses=("2xx", "403")), METRICS[1])
    why = desk.refused("limits", "set", "acme", "bytes", "--stop", "5", *WHY)
    assert why.startswith("the limit of acme: a stop refuses calls with 403, and 'requests' would bill these")


def test_a_customer_has_so_many_limits_of_its_own(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is looked at by everybody who looks."""
    monkeypatch.setattr("infra.operate.limits.setting.MOST_LIMITS", 1)
    desk.run("limits", "set", "acme", "bytes", "--stop", "10", *WHY)
    desk.run("limits", "set", "acme", "bytes", "--stop", "20", *WHY)
    assert "acme has 1 limit of its own" in desk.refused("limits", "set", "acme", "requests", "--stop", "20", *WHY)


# What is raised


def test_a_raised_limit_opens_at_once_and_keeps_its_steps(desk: Desk) -> None:
    """What has acted does not act again in the window, and what was used counts on."""
    desk.world.use(100)
    desk.world.look()
    assert desk.level() is Level.STOPPED
    said = desk.document("limits", "raise", "acme", "requests", "--to", "200", "--reason", "a launch")["changed"]
    assert said == ["acme: the plan's limit, raised to 200 requests per day"]
    assert desk.level() is Level.OPEN
    one = desk.limits()["requests/day"]
    assert (one["used"], one["most"], one["remaining"], one["percent"]) == (100, 200, 100, 50)
    assert one["source_in_words"] == "the plan pro, raised from 100: a launch"
    assert [step["acted_at"] for step in one["steps"]] == ["2026-11-22T05:30:00Z"] * 3
    desk.world.use(100)
    desk.world.look()
    assert desk.level() is Level.STOPPED
    assert desk.world.bus.steps.count("stop:100") == 1


def test_a_raise_says_which_of_several_windows_and_can_be_taken_back_alone(desk: Desk) -> None:
    """What is set beside it stays, or goes with it."""
    desk.run("limits", "raise", "acme", "bytes", "--to", "9000", "--per", "day", *WHY)
    desk.run("limits", "set", "acme", "bytes", "--stop", "7", "--per", "hour", *WHY)
    assert desk.limits()["bytes/day"]["most"] == 9000
    assert desk.run("limits", "clear", "acme", "bytes", "--per", "day").endswith("per day applies no longer")
    assert sorted(desk.limits()) == ["bytes/day", "bytes/hour", "bytes/hour/customer", "requests/day", "spend/period"]
    assert desk.run("limits", "clear", "acme", "bytes", "--per", "day") == "nothing to change"


def test_what_no_known_plan_limits_cannot_be_raised(desk: Desk) -> None:
    """Nobody has seen what the customer is subscribed to."""
    desk.world.subscribe(plans=())
    why = desk.refused("limits", "raise", "acme", "requests", "--to", "200", *WHY)
    assert why.startswith("no plan of acme is known, so that it has 0 limits of requests that could be raised")


def test_a_limit_of_a_metric_that_is_declared_no_more_can_be_cleared(desk: Desk) -> None:
    """It stands there still."""
    desk.run("limits", "set", "acme", "bytes", "--stop", "10", *WHY)
    desk.told["metrics"] = "requests"
    assert desk.run("limits", "clear", "acme", "bytes").endswith("applies no longer")


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("dies_at", range(1, 5))
def test_whatever_dies_where_the_same_command_does_the_rest(desk: Desk, dies_at: int, *, accepted: bool) -> None:
    """Of the command, or of the look that it asks for: there is one limit, and it stops."""
    desk.world.use(40)
    arguments = ("limits", "set", "acme", "requests", "--stop", "40", "--per", "day", *WHY)
    client, life = desk.world.client, Life(dies_at, accepted)
    desk.monkeypatch.setattr(desk.world, "client", lambda: Dying(client(), life))
    with suppress(KilledError):
        desk.try_(*arguments)
    desk.monkeypatch.setattr(desk.world, "client", client)
    desk.run(*arguments)
    assert len(desk.world.items.of("acme").own) == 1
    assert desk.level() is Level.STOPPED


@pytest.mark.parametrize(("other", "refused"), [(10, ""), (20, "somebody else has just changed the limits of acme")])
def test_a_write_that_came_between_is_met(desk: Desk, other: int, refused: str) -> None:
    """Another operator's is never overwritten; one that says the same is as good, and boto3's own may be that."""
    client = desk.world.client

    def meeting() -> Any:
        made = client()
        made.before.append(between)
        return made

    def between(operation: str, _: Mapping[str, Any]) -> None:
        if operation == "PutItem" and not desk.world.items.of("acme").own:
            desk.monkeypatch.setattr(desk.world, "client", client)
            desk.world.items.set("acme", OfCustomer("bytes", "period", other, reason="a runaway client"))

    desk.monkeypatch.setattr(desk.world, "client", meeting)
    said = desk.try_("limits", "set", "acme", "bytes", "--stop", "10", *WHY)
    assert said.code == bool(refused)
    assert refused in said.err
    assert [one.most for one in desk.world.items.of("acme").own] == [other]


# What is shown


def test_a_customer_is_shown_with_every_limit_what_acted_and_why_its_keys_are_closed(desk: Desk) -> None:
    """The fields of the document stay."""
    desk.world.items.save_budget("acme", Budget(notify=100, stop=150, at=1))
    desk.world.items.hold("acme", OPERATOR, Held(int(HOUR.start.timestamp()), "it asked for it", WHO))
    desk.world.use(90)
    desk.world.look()
    desk.world.time.moment += timedelta(minutes=1)
    shown = desk.document("limits", "show", "acme")
    assert (shown["customer"], shown["access"], shown["plans"], shown["currency"]) == (
        "acme",
        "stopped",
        ["pro"],
        "usd",
    )
    assert shown["keys_seen"] == {"access": "open", "at": None, "left": {}}
    assert shown["reasons"] == [
        {
            "name": BUDGET,
            "access": "stopped",
            "since": "2026-11-22T05:30:00Z",
            "until": "2026-12-22T05:00:00Z",
            "why": "own budget",
        },
        {
            "name": "limit:requests/day:2026-11-22T00",
            "access": "slowed",
            "since": "2026-11-22T05:30:00Z",
            "until": "2026-11-23T00:00:00Z",
            "why": "the plan pro",
        },
        {
            "name": OPERATOR,
            "access": "stopped",
            "since": "2026-11-22T05:00:00Z",
            "until": None,
            "why": f"it asked for it, by {WHO}",
        },
    ]
    limits = {one["limit"]: one for one in shown["limits"]}
    assert limits["requests/day"] == {
        "limit": "requests/day",
        "metric": "requests",
        "per": "day",
        "window": {"from": "2026-11-22T00", "to": "2026-11-23T00"},
        "most": 100,
        "used": 90,
        "remaining": 10,
        "percent": 90,
        "as_of": "2026-11-22T05:30:00Z",
        "access": "slowed",
        "source": "plan",
        "source_in_words": "the plan pro",
        "steps": [
            {"does": "notify", "percent": 80, "at": 80, "acted_at": "2026-11-22T05:30:00Z"},
            {"does": "slow", "percent": 90, "at": 90, "acted_at": "2026-11-22T05:30:00Z"},
            {"does": "stop", "percent": 100, "at": 100, "acted_at": None},
        ],
    }
    assert (limits["spend/period"]["used"], limits["spend/period"]["remaining"]) == (180, 820)
    assert (limits[STOP_OF_BUDGET]["source"], limits[STOP_OF_BUDGET]["remaining"]) == ("budget", 0)


def test_it_is_shown_in_words_too(desk: Desk) -> None:
    """Money as people write it."""
    desk.world.use(90)
    desk.world.look()
    said = desk.run("limits", "show", "acme").splitlines()
    assert said[0] == "acme: pro, keys slowed"
    assert said[1] == (
        "slowed because of limit:requests/day:2026-11-22T00 since 2026-11-22T05:30:00Z until 2026-11-23T00:00:00Z: "
        "the plan pro"
    )
    (spend,) = (line for line in said if line.startswith("spend/period"))
    assert spend.split()[1:7] == ["1.80", "USD", "8.20", "USD", "10.00", "USD"]
    (requests,) = (line for line in said if line.startswith("requests/day"))
    assert "slow 90 % acted 2026-11-22T05:30:00Z" in requests


def test_what_nobody_has_looked_at_in_the_window_is_said_to_be_unknown(desk: Desk) -> None:
    """What was used in the window before says nothing of this one."""
    desk.world.use(100)
    desk.world.look()
    desk.world.time.moment = HOUR.start + timedelta(days=1)
    shown = desk.document("limits", "show", "acme")
    one = next(one for one in shown["limits"] if one["limit"] == "requests/day")
    assert (one["used"], one["remaining"], one["percent"], one["as_of"]) == (None, None, None, None)
    assert (one["access"], one["steps"][0]["acted_at"]) == ("open", None)
    assert "not yet" in desk.run("limits", "show", "acme")


def test_notes_say_what_the_numbers_do_not(desk: Desk) -> None:
    """Of a gate that is behind, a road whose counts are old, and a subscription that nobody knows."""
    assert desk.document("limits", "show", "acme")["notes"] == []
    desk.told["road"] = "firehose"
    desk.world.use(100)
    desk.world.look()
    gate, road = desk.document("limits", "show", "acme")["notes"]
    assert gate == "its keys were last seen open, and the gate is to bring them further"
    assert road == (
        "counts are minutes old on the road over Firehose, and nothing slows before bytes/day, bytes/hour, "
        "spend/period stops"
    )
    assert f"note: {gate}" in desk.run("limits", "show", "acme")
    desk.world.customer("globex", "key2")
    desk.world.client().delete_item(TableName="ledger", Key={"pk": {"S": "limits#globex"}, "sk": {"S": "subscribed"}})
    (note,) = desk.document("limits", "show", "globex")["notes"]
    assert note.startswith("no subscription of it is known")


def test_who_is_limited_or_closed_is_listed_a_page_at_a_time(desk: Desk) -> None:
    """In the order of their ids; who has neither is passed."""
    for name in ("delta", "beta", "gamma", "zeta"):
        desk.world.customer(name, f"key-of-{name}")
    desk.run("limits", "set", "beta", "bytes", "--stop", "10", *WHY)
    desk.world.items.hold("gamma", OPERATOR, Held(1))
    desk.world.use(100, source="key-of-zeta")
    desk.world.look("zeta")
    assert [one["customer"] for one in desk.document("limits", "list")["customers"]] == ["beta", "gamma", "zeta"]
    first = desk.document("limits", "list", "--most", "2")
    assert ([one["customer"] for one in first["customers"]], first["more_after"]) == (["beta", "gamma"], "gamma")
    rest = desk.document("limits", "list", "--most", "2", "--after", "gamma")
    assert [(one["customer"], one["access"], rest["more_after"]) for one in rest["customers"]] == [
        ("zeta", "stopped", None)
    ]
    said = desk.try_("limits", "list", "--most", "2")
    assert [line.split()[:2] for line in said.out.splitlines()[1:]] == [["beta", "open"], ["gamma", "stopped"]]
    assert "a stop at 10 bytes per period" in said.out
    assert said.err == "2 customers shown; there are more: --after gamma\n"


def test_keys_are_listed_till_the_gateway_has_opened_them(desk: Desk) -> None:
    """Who waits until nobody is listed has open keys, whatever comes next."""
    closed = desk.world.items.save_gate("acme", Gate(level=Level.STOPPED, keys=1))
    (listed,) = desk.document("limits", "list")["customers"]
    assert (listed["customer"], listed["access"], listed["reasons"], listed["own"]) == ("acme", "stopped", [], [])
    assert "acme      stopped  about to be opened" in desk.try_("limits", "list").out
    desk.world.items.save_gate("acme", msgspec.structs.replace(closed, level=Level.OPEN))
    assert desk.document("limits", "list")["customers"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("limits", "set", "acme", "requests", "--stop", "5", *WHY),
        ("limits", "raise", "acme", "requests", "--to", "500", *WHY),
        ("limits", "clear", "acme", "requests"),
        ("limits", "list"),
        ("limits", "show", "acme"),
        ("limits", "would"),
        ("customers", "alerts", "acme", "--none"),
    ],
)
def test_a_deployment_without_limits_refuses_with_one_sentence(desk: Desk, arguments: tuple[str, ...]) -> None:
    """There is nothing that would act."""
    desk.told.clear()
    assert desk.refused(*arguments) == NO_LIMITS
    assert desk.asked == []
