"""Adjustments by an operator: beside what was counted, with who and why, made once, and billed once."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from infra.operate.adjusting import adjust
from infra.operate.deployment import OperatorError
from metering.billing.unbilled import Looker
from metering.model.periods import Hour
from metering.model.usage_row import Change
from metering.stores.changes import Changes
from metering.stores.marks import Mark
from metering.stripe.invoices import StripeReader
from metering.stripe.pacing import Pace
from metering.stripe.reading import Reads
from tests.integration.billing import FINALISED, Billing, due
from tests.integration.operator_commands import WHO, Operator
from tests.integration.world import HOUR

ADJUST = ("adjust", "acme", "requests", str(HOUR))


@pytest.fixture
def stripe_time() -> Callable[[], float]:
    """The world's hour begins."""
    return HOUR.start.timestamp


@pytest.fixture
def operator(billing: Billing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    """Whoever adjusts."""
    return Operator(billing.world, monkeypatch, capsys)


def total(billing: Billing, hour: Hour = HOUR) -> tuple[int, int, int]:
    """Return what is counted, adjusted and billed."""
    found = billing.row(hour).totals["requests"]
    return found.counted, found.adjusted, found.quantity


@pytest.mark.parametrize(("how", "after"), [(("--to", "2"), 2), (("--by", "-3"), 2), (("--by", "10"), 15)])
def test_an_hour_is_adjusted_to_or_by_a_number(
    billing: Billing, operator: Operator, how: tuple[str, ...], after: int
) -> None:
    """I5: what was counted stays as it is; Stripe ends at the sum."""
    said = operator.run(*ADJUST, *how, "--reason", "a test by our own staff")
    assert said.code == 0
    assert f"5 -> {after} ({after - 5:+})" in said.out
    billing.world.run()
    assert total(billing) == (5, after - 5, after)
    assert billing.world.at_stripe("cus_acme") == after


def test_the_ledger_says_who_and_why(billing: Billing, operator: Operator) -> None:
    """I5: the caller's ARN, the reason, and when."""
    document = operator.run(*ADJUST, "--to", "2", "--reason", "agreed by phone", "--json").document
    assert document == {
        "customer": "acme",
        "metric": "requests",
        "hour": str(HOUR),
        "before": 5,
        "after": 2,
        "amount": -3,
        "reason": "agreed by phone",
        "who": WHO,
        "made": True,
        "elsewhere": [],
    }
    [change] = billing.world.changes.of("acme", HOUR)
    assert (change.amount, change.reason, change.who) == (-3, "agreed by phone", WHO)
    assert change.at == int(billing.world.now.timestamp())


def test_a_dry_run_changes_nothing(billing: Billing, operator: Operator) -> None:
    """It says what would be done."""
    assert "5 -> 2 (-3): this would be done" in operator.run(*ADJUST, "--to", "2", "--reason", "x", "--dry-run").out
    assert billing.world.changes.of("acme", HOUR) == []
    assert billing.world.counters.marks.of_kind(Mark.LATE) == []


def test_the_same_adjustment_is_made_once(billing: Billing, operator: Operator) -> None:
    """I4: a command that is run again after a lost answer."""
    assert operator.run(*ADJUST, "--by", "3", "--reason", "x").code == 0
    again = operator.run(*ADJUST, "--by", "3", "--reason", "x")
    assert again.code == 1
    assert "was adjusted in this way and for this reason already" in again.err
    assert operator.run(*ADJUST, "--to", "8", "--reason", "x").out.endswith("nothing to change\n")
    assert operator.run(*ADJUST, "--by", "3", "--reason", "x, a second time").code == 0
    billing.world.run()
    assert total(billing) == (5, 6, 11)


def test_two_adjustments_before_the_next_tick_add_up(billing: Billing, operator: Operator) -> None:
    """I5: the second one sees the first."""
    operator.run(*ADJUST, "--to", "8", "--reason", "x")
    assert "8 -> 10 (+2)" in operator.run(*ADJUST, "--to", "10", "--reason", "y").out
    billing.world.run()
    assert total(billing) == (5, 5, 10)


def test_of_two_who_set_an_hour_at_once_one_does(
    billing: Billing, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I5: each read 5; both subtracting 5 would leave less than nothing, which is carried on as a credit."""
    common: Any = {"to": 0, "now": billing.world.now}
    inner, others = Changes.of, iter(["bob"])

    def read(changes: Changes, name: str, hour: Hour) -> list[Change]:
        found = inner(changes, name, hour)
        for who in others:
            adjust(operator.deployment, "acme", "requests", HOUR, reason="a bug", who=who, **common)
        return found

    monkeypatch.setattr(Changes, "of", read)
    with pytest.raises(OperatorError, match=r"somebody else adjusted .*: it was 5, and is now 0"):
        adjust(operator.deployment, "acme", "requests", HOUR, reason="an outage", who="ann", **common)
    billing.world.run()
    assert total(billing) == (5, -5, 0)
    assert billing.row(HOUR).totals["requests"].balance == 0
    assert [change.who for change in billing.world.changes.of("acme", HOUR)] == ["bob"]


def test_a_late_record_leaves_an_adjustment(billing: Billing, operator: Operator) -> None:
    """I5: it changes what is counted alone."""
    operator.run(*ADJUST, "--to", "8", "--reason", "x")
    billing.use(2)
    billing.world.run()
    assert total(billing) == (7, 3, 10)
    assert billing.world.at_stripe("cus_acme") == 10


def test_an_adjustment_bound_to_a_count_is_void_once_another_is_counted(billing: Billing, operator: Operator) -> None:
    """I5: it was made against 5; it is valid again if 5 are counted again."""
    common: Any = {"reason": "recount", "who": WHO, "now": billing.world.now}
    adjust(operator.deployment, "acme", "requests", HOUR, to=9, if_counted=5, **common)
    billing.world.run()
    assert total(billing) == (5, 4, 9)
    billing.use(2)
    billing.world.run()
    assert total(billing) == (7, 0, 7)
    assert billing.world.at_stripe("cus_acme") == 7
    assert adjust(operator.deployment, "acme", "requests", HOUR, to=7, **common).amount == 0


def test_an_hour_whose_counters_are_gone_is_adjusted(billing: Billing, operator: Operator) -> None:
    """I5: what the row counted stays, and what its invoice, however old, does not bill is carried."""
    billing.jump(HOUR.end + timedelta(days=63))
    for item in billing.world.counters.client.scan(TableName="counters")["Items"]:
        if item["pk"]["S"].startswith("hour#"):
            key: Any = {"pk": item["pk"], "sk": item["sk"]}
            billing.world.counters.client.delete_item(TableName="counters", Key=key)
    assert "5 -> 7 (+2)" in operator.run(*ADJUST, "--to", "7", "--reason", "x").out
    billing.settle(rounds=12)
    now = Hour.containing(billing.world.now)
    billing.at(due(now))
    billing.settle()
    assert total(billing)[0] == 5
    assert (billing.row(HOUR).totals["requests"].quantity, billing.row(now).totals["requests"].quantity) == (7, 2)


def test_an_hour_of_which_nothing_was_counted_is_adjusted(billing: Billing, operator: Operator) -> None:
    """I5: it gets a row."""
    hour = HOUR.next()
    billing.at(due(hour))
    billing.world.run()
    operator.run("adjust", "acme", "requests", str(hour), "--by", "4", "--reason", "x")
    billing.world.run()
    assert total(billing, hour) == (0, 4, 4)
    assert billing.world.at_stripe("cus_acme", hour=hour) == 4


def test_more_than_was_used_is_taken_from_what_is_used_later(billing: Billing, operator: Operator) -> None:
    """I4: Stripe is never told less than nothing. It has to be asked for, and what was asked for is made once."""
    refused = operator.run(*ADJUST, "--by", "-7", "--reason", "x")
    assert (refused.code, refused.out) == (1, "")
    assert "would be -2 after 5" in refused.err
    assert "--below-zero" in refused.err
    assert billing.world.changes.of("acme", HOUR) == []
    assert operator.run(*ADJUST, "--by", "-7", "--reason", "x", "--below-zero").code == 0
    assert "for this reason already" in operator.run(*ADJUST, "--by", "-7", "--reason", "x").err
    billing.settle()
    assert billing.world.at_stripe("cus_acme") == 0
    now = Hour.containing(billing.world.now)
    billing.use(6, now)
    billing.at(due(now))
    billing.settle()
    assert billing.world.at_stripe("cus_acme", hour=now) == 4


def test_after_the_invoice_the_adjustment_is_carried(billing: Billing, operator: Operator) -> None:
    """I4: once, into the current hour."""
    billing.jump(FINALISED)
    billing.settle()
    operator.run(*ADJUST, "--to", "9", "--reason", "x")
    billing.settle()
    billing.at(due(Hour.containing(FINALISED)))
    billing.settle()
    assert (billing.invoiced(), billing.still_open()) == ([5], 4)


def test_a_negative_hour_is_raised_without_asking(billing: Billing, operator: Operator) -> None:
    """It is on its way back to what was used."""
    assert operator.run(*ADJUST, "--by", "-7", "--reason", "x", "--below-zero").code == 0
    assert "-2 -> -1 (+1)" in operator.run(*ADJUST, "--by", "1", "--reason", "y").out
    assert len(billing.world.changes.of("acme", HOUR)) == 2


def test_an_hour_before_posting_began_is_not_adjusted(billing: Billing, operator: Operator) -> None:
    """I9: it would wait for ever. While posting never was on, nobody knows yet from when on it will be billed."""
    before = "2026-08-31T23"
    refused = operator.run("adjust", "acme", "requests", before, "--by", "1", "--reason", "x")
    assert (refused.code, refused.out) == (1, "")
    assert f"{before} is before posting began with 2026-09-01T00" in refused.err
    assert f"'metering posting on --since {before}'" in refused.err
    assert billing.world.changes.of("acme", Hour.parse(before)) == []
    assert operator.run("posting", "on", "--since", before).code == 0
    assert operator.run("adjust", "acme", "requests", before, "--by", "1", "--reason", "x").code == 0


def look(billing: Billing) -> None:
    """Let an hourly run look who pays."""
    world = billing.world
    reader, since = StripeReader(world.meters(), Reads(100, Pace(10_000))), Hour.parse(world.switch.read().since)
    Looker(world.ledger, world.changes, reader, since, world.clock, world.now + timedelta(minutes=5)).run()


def test_an_hour_before_the_first_subscription_is_not_adjusted(billing: Billing, operator: Operator) -> None:
    """I9: nobody would ever pay for it. What the last look did not know yet is asked of Stripe."""
    world = billing.world
    earlier = Hour(HOUR.number - 2)
    look(billing)
    refused = operator.run("adjust", "acme", "requests", str(earlier), "--by", "1", "--reason", "x")
    assert (refused.code, refused.out) == (1, "")
    assert f"{earlier} is before acme's first subscription, which bills requests from {HOUR} on" in refused.err
    assert world.changes.of("acme", earlier) == []
    wanted: Any = {
        "customer": "cus_acme",
        "items": [{"price": billing.price()}],
        "backdate_start_date": int(earlier.start.timestamp()),
    }
    billing.client().v1.subscriptions.create(wanted)
    assert operator.run("adjust", "acme", "requests", str(earlier), "--by", "1", "--reason", "x").code == 0


def test_an_old_hour_that_is_on_no_invoice_yet_is_adjusted(billing: Billing, operator: Operator) -> None:
    """I4: of a subscription that bills once a year, what Stripe takes no more is carried."""
    world, client = billing.world, billing.client().v1
    world.customer("globex", "key5", stripe_customer="cus_globex")
    meter = next(one.id for one in client.billing.meters.list().data if one.event_name == "Metering_requests")
    yearly: Any = {
        "currency": "usd",
        "product": client.products.create({"name": "Requests"}).id,
        "recurring": {"interval": "year", "usage_type": "metered", "meter": meter},
        "unit_amount": 1,
    }
    start = int(HOUR.start.timestamp())
    wanted: Any = {
        "customer": "cus_globex",
        "items": [{"price": client.prices.create(yearly).id}],
        "backdate_start_date": start,
    }
    client.subscriptions.create(wanted)
    billing.use(4, name="key5")
    world.run()
    look(billing)
    billing.jump(HOUR.end + timedelta(days=63))
    said = operator.run("adjust", "globex", "requests", str(HOUR), "--by", "3", "--reason", "x")
    assert (said.code, said.err) == (0, "")
    billing.settle(rounds=12)
    now = Hour.containing(world.now)
    billing.at(due(now))
    billing.settle()
    assert billing.row(now, "globex").totals["requests"].quantity == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("adjust", "nobody", "requests", str(HOUR), "--to", "1"), "there is no customer 'nobody'"),
        (("adjust", "acme", "calls", str(HOUR), "--to", "1"), "there is no metric 'calls'"),
        (("adjust", "acme", "requests", "2026-11-22T06", "--to", "1"), "is not over yet"),
        ((*ADJUST, "--to", "-1"), "by or to at most 10^12"),
        ((*ADJUST, "--by", str(10**12 + 1)), "by or to at most 10^12"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    billing: Billing, operator: Operator, arguments: tuple[str, ...], words: str
) -> None:
    """And nothing is written."""
    said = operator.run(*arguments, "--reason", "x")
    assert (said.code, said.out) == (1, "")
    assert words in said.err
    assert billing.world.changes.of("acme", HOUR) == []


def test_an_adjustment_needs_a_reason_and_one_number(operator: Operator) -> None:
    """The customer may ask for it; and of a day nobody knows which hour is meant."""
    day = operator.run("adjust", "acme", "requests", "2026-11-22", "--to", "1", "--reason", "x")
    assert (day.code, "an adjustment is of one hour" in day.err) == (2, True)
    common: Any = {"who": WHO, "now": operator.world.now}
    with pytest.raises(OperatorError, match="a reason is 1 to 200 printable characters, got ' '"):
        adjust(operator.deployment, "acme", "requests", HOUR, to=1, reason=" ", **common)
    for numbers in ((), ("--to", "1", "--by", "1")):
        assert operator.run(*ADJUST, *numbers, "--reason", "x").code == 2
