"""Adjustments that were made: listed as they stand, and taken back by their opposite, once."""

from collections.abc import Callable
from typing import Any

import pytest

from infra.operate.adjusting import adjust
from infra.operate.adjustments import undo
from metering.model.periods import Hour
from metering.model.usage_row import Change
from metering.stores.changes import Changes
from tests.integration.billing import FINALISED, Billing, due
from tests.integration.operator_commands import WHO, Operator
from tests.integration.test_adjusting import total
from tests.integration.world import HOUR

PLACE = ("acme", "requests", str(HOUR))
ADJUST = ("adjust", *PLACE)


@pytest.fixture
def stripe_time() -> Callable[[], float]:
    """The world's hour begins."""
    return HOUR.start.timestamp


@pytest.fixture
def operator(billing: Billing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    """Whoever adjusts."""
    return Operator(billing.world, monkeypatch, capsys)


def listed(operator: Operator, *arguments: str) -> list[dict[str, Any]]:
    """Return what the list shows."""
    document: list[dict[str, Any]] = operator.run(
        "adjustments", "list", *arguments, "--from", str(HOUR), "--json"
    ).document
    return document


def known_as(operator: Operator, reason: str = "x") -> str:
    """Return the id of the adjustment for a reason, as the list shows it."""
    return next(str(one["id"]) for one in listed(operator) if one["reason"] == reason)


def test_an_adjustment_is_listed_with_who_why_when_and_how_it_stands(billing: Billing, operator: Operator) -> None:
    """I5: it waits for its hour to be closed, then its total's state is its own; what was carried is none."""
    operator.run(*ADJUST, "--by", "3", "--reason", "agreed by phone")
    [waiting] = listed(operator)
    assert waiting["state"] == "OPEN"
    billing.world.run()
    billing.world.changes.add("acme", HOUR, Change("carried", "requests", 1, "y", "reconcile_usage", 0, carry=True))
    assert listed(operator, "acme") == [
        {
            "customer": "acme",
            "metric": "requests",
            "hour": str(HOUR),
            "id": waiting["id"],
            "amount": 3,
            "state": "POSTED",
            "reason": "agreed by phone",
            "who": WHO,
            "at": f"{billing.world.now:%Y-%m-%dT%H:%M:%SZ}",
            "undoes": None,
            "undone_by": None,
        }
    ]
    said = operator.run("adjustments", "list", "acme", "--from", str(HOUR))
    at = f"{billing.world.now:%Y-%m-%dT%H:%M:%SZ}"
    told = f"acme requests {HOUR} {waiting['id']} +3 POSTED agreed by phone (user/moto, {at})"
    assert told in " ".join(said.out.split())
    assert said.err.startswith("1 adjustment of hours from ")


def test_the_list_is_of_one_customer_some_hours_and_as_many_as_are_wanted(billing: Billing, operator: Operator) -> None:
    """It says that there are more."""
    billing.world.customer("globex", "key5", stripe_customer="cus_globex")
    for name in ("acme", "globex"):
        billing.adjust(1, name=name)
        billing.adjust(2, HOUR.next(), name=name)
    assert [(one["customer"], one["amount"]) for one in listed(operator)] == [
        ("acme", 1),
        ("acme", 2),
        ("globex", 1),
        ("globex", 2),
    ]
    assert [one["amount"] for one in listed(operator, "globex", "--to", str(HOUR.next()))] == [1]
    said = operator.run("adjustments", "list", "--from", str(HOUR), "--most", "1")
    assert len(said.out.splitlines()) == 2
    assert said.err.startswith(f"1 adjustment of hours from {HOUR} up to ")
    assert said.err.endswith(" (UTC) shown; there are more: a larger --most, or CUSTOMER\n")
    none = operator.run("adjustments", "list", "globex", "--from", "2026-09-01", "--to", "2026-09-02").err
    assert none == "nothing there of hours from 2026-09-01T00 up to 2026-09-02T00 (UTC)\n"
    assert operator.run("adjustments", "list", "--from", "2026-09-02", "--to", "2026-09-01").code == 2


def test_an_adjustment_is_undone_once_by_its_opposite(billing: Billing, operator: Operator) -> None:
    """I5: both stay in the ledger; a command that is run again after a lost answer changes nothing."""
    operator.run(*ADJUST, "--by", "3", "--reason", "x")
    billing.world.run()
    command = ("adjustments", "undo", *PLACE, known_as(operator), "--reason", "another customer was meant")
    assert "8 -> 5 (-3): this would be done" in operator.run(*command, "--dry-run").out
    assert len(listed(operator)) == 1
    done = operator.run(*command)
    assert (done.code, "8 -> 5 (-3): the hour is closed again" in done.out) == (0, True)
    again = operator.run(*command)
    assert (again.code, again.out) == (1, "")
    assert f"was undone already, by {WHO}: another customer was meant" in again.err
    billing.world.run()
    assert total(billing) == (5, 0, 5)
    assert billing.world.at_stripe("cus_acme") == 5
    first, second = listed(operator)
    assert (first["amount"], first["state"], first["undone_by"]) == (3, "UNDONE", second["id"])
    assert (second["amount"], second["state"], second["undoes"]) == (-3, "POSTED", first["id"])


def test_of_two_who_undo_at_once_one_does(
    billing: Billing, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2: the write is on condition that it is not there; what it was undone by is told."""
    operator.run(*ADJUST, "--by", "3", "--reason", "x")
    wanted = known_as(operator)
    common: Any = {"now": billing.world.now}
    inner, others = Changes.of, iter(["bob"])

    def read(changes: Changes, name: str, hour: Hour) -> list[Change]:
        found = inner(changes, name, hour)
        for who in others:
            undo(operator.deployment, "acme", "requests", HOUR, wanted, reason="mine", who=who, **common)
        return found

    monkeypatch.setattr(Changes, "of", read)
    late = operator.run("adjustments", "undo", *PLACE, wanted, "--reason", "y")
    assert (late.code, "was undone already, by bob: mine" in late.err) == (1, True)
    billing.world.run()
    assert total(billing) == (5, 0, 5)


def test_what_is_bound_to_a_count_is_undone_bound_to_it(billing: Billing, operator: Operator) -> None:
    """I5: void together, and valid together, so that what was undone never comes back, nor its opposite alone."""
    common: Any = {"reason": "x", "who": WHO, "now": billing.world.now}
    adjust(operator.deployment, "acme", "requests", HOUR, to=9, if_counted=5, **common)
    assert operator.run("adjustments", "undo", *PLACE, known_as(operator), "--reason", "y").code == 0
    billing.world.run()
    assert total(billing) == (5, 0, 5)
    billing.use(2)
    billing.world.run()
    assert total(billing) == (7, 0, 7)
    assert [one["state"] for one in listed(operator)] == ["UNDONE", "VOID"]


def test_after_the_invoice_what_is_undone_is_carried(billing: Billing, operator: Operator) -> None:
    """I4: the invoice stays as it is, and the running one is corrected."""
    operator.run(*ADJUST, "--by", "3", "--reason", "x")
    billing.world.run()
    billing.jump(FINALISED)
    billing.settle()
    billing.use(9, Hour.containing(FINALISED))
    assert operator.run("adjustments", "undo", *PLACE, known_as(operator), "--reason", "y").code == 0
    billing.settle()
    billing.at(due(Hour.containing(FINALISED)))
    billing.settle()
    assert (billing.invoiced(), billing.still_open()) == ([8], 6)


def test_what_went_to_another_hour_is_told(billing: Billing, operator: Operator) -> None:
    """I5: setting the hour right leaves what was carried from it; undoing makes the two right together."""
    operator.run(*ADJUST, "--by", "-3000", "--reason", "x", "--below-zero")
    billing.settle()
    now = Hour.containing(billing.world.now)
    tried = operator.run(*ADJUST, "--to", "5", "--reason", "y", "--dry-run")
    told = f"-2,995 of {HOUR} were carried to {now} before, and count there or later, beside this"
    assert "0 -> 5 (+5)" in tried.out
    assert told in " ".join(tried.out.split())
    done = operator.run("adjustments", "undo", *PLACE, known_as(operator), "--reason", "y", "--json").document
    assert (done["before"], done["after"], done["elsewhere"]) == (0, 3000, [{"hour": str(now), "amount": -2995}])
    billing.at(due(now))
    billing.settle()
    assert sum(change.amount for _, change in billing.world.changes.between("acme", HOUR, Hour(now.number + 9))) == 0


@pytest.mark.usefixtures("billing")
def test_what_cannot_be_undone_is_refused(operator: Operator) -> None:
    """One that is none, an undo, and what would leave less than nothing, each in a sentence; nothing is written."""

    def refused(which: str, *more: str) -> str:
        said = operator.run("adjustments", "undo", *PLACE, which, "--reason", "z", *more)
        assert (said.code, said.out) == (1, "")
        return said.err

    assert f"there is no adjustment 'x' of acme's requests of {HOUR}" in refused("x")
    operator.run(*ADJUST, "--by", "3", "--reason", "x")
    operator.run(*ADJUST, "--to", "0", "--reason", "y")
    assert "would be -3 after 0" in refused(known_as(operator))
    operator.run("adjustments", "undo", *PLACE, known_as(operator, "y"), "--reason", "undone")
    assert "has undone another adjustment: make that anew" in refused(known_as(operator, "undone"))
    assert len(listed(operator)) == 3
