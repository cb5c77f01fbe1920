"""What limits would have done, from the ledger: how they are introduced to customers who have none."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from metering.model.limits import Limit, Notify, OfCustomer, Slow, Spend, Stop
from metering.model.periods import Hour
from metering.model.prices import Flat, PerUnit, Plan
from metering.model.subjects import customer
from metering.model.usage_row import State, Total, UsageRow
from tests.integration.limit_desk import Desk

NOW = Hour.parse("2026-11-22T05")
TRIAL = Plan(
    name="trial",
    title="Trial",
    currency="usd",
    prices=(Flat(amount=100), PerUnit(metric="requests", amount=2)),
    limits=(Limit("requests", 100, per="day", at=(Notify(80), Slow(90), Stop(100))), Spend(300, at=(Notify(100),))),
)


@pytest.fixture
def desk(desk: Desk) -> Desk:
    """The desk, where the hours before the running one are closed, and a plan with limits has nobody on it."""
    desk.world.plans = (TRIAL, Plan(name="free", title="Free", currency="usd", prices=TRIAL.prices))
    desk.world.ledger.progress.advance_cursor(NOW)
    return desk


def used(desk: Desk, requests: int, hour: str, name: str = "acme") -> None:
    """Write the row of a closed hour."""
    totals = {"requests": Total(requests, 1, State.POSTED)}
    desk.world.ledger.rows.save(UsageRow(customer(name), Hour.parse(hour), totals=totals))


def acts(desk: Desk, *options: str) -> list[tuple[Any, ...]]:
    """Return what would have acted, as the command's document says it."""
    told = desk.document("limits", "would", *options)["acts"]
    return [tuple(act[name] for name in ("limit", "step", "windows", "first", "last", "used", "most")) for act in told]


def test_a_plan_is_tried_on_who_has_no_limits_yet(desk: Desk) -> None:
    """Each step once a window, in the hour in whose rows it is reached; the first and last such window are named."""
    desk.world.subscribe(plans=("free",))
    used(desk, 60, "2026-11-18T10")
    used(desk, 39, "2026-11-18T11")
    used(desk, 85, "2026-11-19T00")
    used(desk, 250, "2026-11-20T23")
    used(desk, 79, "2026-11-21T00")
    assert desk.document("limits", "would") == {
        "from": "2026-10-23T05",
        "to": "2026-11-22T05",
        "customers": 1,
        "unlimited": 1,
        "told": 0,
        "slowed": 0,
        "stopped": 0,
        "left_off": 0,
        "acts": [],
    }
    assert acts(desk, "--plan", "trial") == [
        ("requests/day", "notify:80", 3, "2026-11-18T11", "2026-11-20T23", 99, 100),
        ("requests/day", "slow:90", 2, "2026-11-18T11", "2026-11-20T23", 99, 100),
        ("requests/day", "stop:100", 1, "2026-11-20T23", "2026-11-20T23", 250, 100),
        ("spend/period", "notify:100", 1, "2026-11-19T00", "2026-11-19T00", 468, 300),
    ]
    told = desk.document("limits", "would", "--plan", "trial")
    assert [told[name] for name in ("customers", "unlimited", "told", "slowed", "stopped")] == [1, 0, 1, 1, 1]
    assert desk.world.items.of("acme").states == {}


def test_without_a_plan_each_is_tried_by_what_it_is_subscribed_to_and_by_its_own_limits(desk: Desk) -> None:
    """At the prices that it really has; a raised limit is raised here too."""
    desk.world.subscribe(plans=("trial",))
    desk.world.customer("globex", "key2", plans=("free",))
    for name in ("acme", "globex"):
        used(desk, 120, "2026-11-21T08", name)
    desk.world.items.set("globex", OfCustomer("requests", "hour", 50, reason="a runaway client"))
    told = desk.document("limits", "would")["acts"]
    assert [(act["customer"], act["limit"], act["step"]) for act in told] == [
        ("acme", "requests/day", "notify:80"),
        ("acme", "requests/day", "slow:90"),
        ("acme", "requests/day", "stop:100"),
        ("globex", "requests/hour/customer", "stop:100"),
    ]
    desk.world.items.set("acme", OfCustomer("requests", "day", 130, raised=True, reason="a launch"))
    assert [act[1] for act in acts(desk, "--customer", "acme")] == ["notify:80", "slow:90"]


def test_periods_are_the_subscriptions_own_also_those_before_the_running_one(desk: Desk) -> None:
    """What they hold before the first hour that is asked for counts, and is not told."""
    limits = (Limit("requests", 100, at=(Notify(50), Stop(100))),)
    desk.world.plans = (msgspec.structs.replace(TRIAL, limits=limits),)
    begin = int(Hour.parse("2026-11-20T00").start.timestamp())
    desk.world.subscribe(plans=("trial",), begin=begin, end=begin + 30 * 86_400, anchor=begin)
    used(desk, 60, "2026-10-25T00")
    used(desk, 40, "2026-11-19T23")
    used(desk, 40, "2026-11-20T00")
    used(desk, 9, "2026-11-22T05")  # not closed yet
    assert acts(desk, "--days", "10") == [
        ("requests/period", "stop:100", 1, "2026-11-19T23", "2026-11-19T23", 100, 100)
    ]
    assert [act[1] for act in acts(desk, "--days", "40")] == ["notify:50", "stop:100"]


def test_corrections_count_as_they_are_billed(desk: Desk) -> None:
    """A total is what was counted with what stands beside it."""
    totals = {"requests": Total(10, 2, State.POSTED, adjusted=75)}
    desk.world.ledger.rows.save(UsageRow(customer("acme"), Hour.parse("2026-11-21T08"), totals=totals))
    assert acts(desk, "--plan", "trial") == [
        ("requests/day", "notify:80", 1, "2026-11-21T08", "2026-11-21T08", 85, 100)
    ]


def test_what_is_too_much_to_show_is_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are of all customers."""
    monkeypatch.setattr("infra.cli.limits.MOST_TRIED", 2)
    monkeypatch.setattr("infra.operate.limits.trying._AT_ONCE", 2)
    for name in ("beta", "delta", "gamma"):
        desk.world.customer(name, f"key-of-{name}")
        used(desk, 85, "2026-11-21T08", name)
    told = desk.document("limits", "would", "--plan", "trial")
    assert [act["customer"] for act in told["acts"]] == ["beta", "delta"]
    assert (told["customers"], told["told"], told["stopped"], told["left_off"]) == (4, 3, 0, 1)
    said = desk.try_("limits", "would", "--plan", "trial")
    assert said.code == 0
    assert [line.split()[:3] for line in said.out.splitlines()[1:]] == [
        ["beta", "requests/day", "notify:80"],
        ["delta", "requests/day", "notify:80"],
    ]
    assert said.err == (
        "of 4 customers, 2026-10-23T05 to 2026-11-22T05: 3 would have been told of something, 0 slowed, 0 stopped; "
        "0 have no limit\n1 more line is not shown: name a customer with --customer\n"
    )


def test_a_customer_is_read_once_and_an_hour_at_a_time(desk: Desk) -> None:
    """I10: by one query of its rows, whatever its limits are, and nobody else's."""
    desk.world.customer("globex", "key2")
    for day in range(1, 22):
        used(desk, 10, f"2026-11-{day:02d}T08")
    client, asked = desk.world.client, list[str]()

    def watched() -> Any:
        made = client()
        made.before.append(lambda operation, arguments: asked.append(f"{operation} {arguments}"))
        return made

    desk.monkeypatch.setattr(desk.world, "client", watched)
    desk.document("limits", "would", "--plan", "trial", "--customer", "acme")
    rows = [one for one in asked if "usage#" in one]
    assert len(rows) == 1
    assert not any("globex" in one for one in asked)
    assert not any(one.startswith(("PutItem", "UpdateItem", "DeleteItem")) for one in asked)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--plan", "trail"), "there is no plan 'trail': write 'trial'"),
        (("--plan", "free"), "the plan 'free' has no limits: declare some, and deploy"),
        (("--customer", "globex"), "there is no customer 'globex'"),
    ],
)
def test_what_cannot_be_tried_is_said(desk: Desk, options: tuple[str, ...], why: str) -> None:
    """With what to do."""
    assert why in desk.refused("limits", "would", *options)


def test_before_anything_is_closed_there_is_nothing_to_try(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a deployment that began just now."""
    new = Desk(monkeypatch, capsys)
    assert new.refused("limits", "would").startswith("no hour is closed yet")
    assert new.world.now - NOW.start == timedelta(minutes=30)
