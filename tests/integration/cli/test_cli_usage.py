"""What was used, as operators see it, and closing it."""

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from infra.operate.deployment import Deployment
from metering.billing.unbilled import Looker
from metering.model.amounts import Amounts
from metering.model.periods import Hour
from metering.model.subjects import customer, key
from metering.model.usage_row import Change
from metering.stores.marks import new_mark
from metering.stores.rows import shard_of
from metering.stripe.invoices import StripeReader
from metering.stripe.pacing import Pace
from metering.stripe.reading import Reads
from tests.integration.billing import Billing
from tests.integration.cli.command_line import KEY, Metering, Result, put_secret
from tests.integration.lambdas import Clock, begin
from tests.integration.world import HOUR, World

COLUMNS = ("period", "customer", "key", "metric", "quantity", "state", "reason")
FIELDS = (*COLUMNS, "kind")


@pytest.fixture
def used(deployed: World) -> World:
    """Two customers and a key of nobody in a closed hour, and one request more in the hour that is open."""
    deployed.customer("acme", "key1", "key2", stripe_customer="cus_acme")
    deployed.customer("globex", "key3")
    deployed.record(deployed.line(), deployed.line(key="key2"), deployed.line(key="key3"), deployed.line(key="key9"))
    deployed.after_grace()
    deployed.run()
    deployed.record(deployed.line(time=str(int((HOUR.end + timedelta(minutes=5)).timestamp() * 1000))))
    return deployed


def lines(result: Result, metric: str = "requests") -> list[tuple[Any, ...]]:
    """Return the lines of a metric, each as (period, customer, key, quantity, state)."""
    found = result.json()
    assert all(list(line) == [*FIELDS] for line in found)
    return [
        (line["period"], line["customer"], line["key"], line["quantity"], line["state"])
        for line in found
        if line["metric"] == metric
    ]


@pytest.mark.usefixtures("used")
def test_usage_is_shown_by_hour_and_key_with_its_state(metering: Metering) -> None:
    """I5: also of the open hour, and of a key that belongs to nobody, whose customer is null and which comes first."""
    assert lines(metering("usage", "--json")) == [
        ("2026-11-22T05", None, "key9", 1, "HELD"),
        ("2026-11-22T05", "acme", "key1", 1, "POSTED"),
        ("2026-11-22T05", "acme", "key2", 1, "POSTED"),
        ("2026-11-22T06", "acme", "key1", 1, "OPEN"),
        ("2026-11-22T05", "globex", "key3", 1, "HELD"),
    ]
    assert lines(metering("usage", "--json"), "bytes")[1] == ("2026-11-22T05", "acme", "key1", 10, "POSTED")


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize(("by", "period"), [("day", "2026-11-22"), ("month", "2026-11")])
def test_usage_is_added_up_by_longer_periods(metering: Metering, by: str, period: str) -> None:
    """I5: the least settled state stands for the whole."""
    assert lines(metering("usage", "--by", by, "--json")) == [
        (period, None, "key9", 1, "HELD"),
        (period, "acme", "key1", 2, "OPEN"),
        (period, "acme", "key2", 1, "POSTED"),
        (period, "globex", "key3", 1, "HELD"),
    ]


@pytest.mark.parametrize(
    ("asked", "periods", "covered"),
    [
        (("--by", "month"), ["2026-11"], "from 2026-11-01T00 up to 2026-11-22T07 (UTC)\n"),
        (("--by", "month", "--to", "2026-11-01"), ["2026-10"], "from 2026-10-01T00 up to 2026-11-01T00 (UTC)\n"),
        (("--by", "day"), ["2026-11-16", "2026-11-22"], "from 2026-11-16T00 up to 2026-11-22T07 (UTC)\n"),
        (("--by", "hour"), ["2026-11-22T05", "2026-11-22T06"], "from 2026-11-21T06 up to 2026-11-22T07 (UTC)\n"),
    ],
)
def test_usage_by_longer_periods_covers_whole_ones(
    used: World, metering: Metering, asked: tuple[str, ...], periods: list[str], covered: str
) -> None:
    """A month is this month, days are seven, hours those of a day; and it is said which, beside the table."""
    for number, day in enumerate(("2026-10-20T09", "2026-11-02T09", "2026-11-15T23", "2026-11-16T00")):
        used.counters.count(Hour.parse(day), "key1", Amounts({"requests": 100}), f"{number:012d}".encode())
        used.counters.marks.mark_late(Hour.parse(day), key("key1"), new_mark())
    found = metering("usage", "acme", *asked)
    assert found.err == covered
    assert sorted({line["period"] for line in metering("usage", "acme", *asked, "--json").json()}) == periods
    assert metering("usage", "acme", *asked, "--json").err == ""
    month = metering("usage", "acme", "--by", "month", "--json").json()
    assert [line["quantity"] for line in month if (line["key"], line["metric"]) == ("key1", "requests")] == [302]


@pytest.mark.usefixtures("used")
def test_usage_of_one_customer_and_of_some_hours(metering: Metering) -> None:
    """From the first hour up to the last, exclusive; a day means its first hour."""
    assert lines(metering("usage", "acme", "--to", "2026-11-22T06", "--json")) == [
        ("2026-11-22T05", "acme", "key1", 1, "POSTED"),
        ("2026-11-22T05", "acme", "key2", 1, "POSTED"),
    ]
    assert lines(metering("usage", "acme", "--from", "2026-11-22T06", "--json")) == [
        ("2026-11-22T06", "acme", "key1", 1, "OPEN")
    ]
    assert len(lines(metering("usage", "--from", "2026-11-22", "--to", "2026-11-23", "--json"))) == 5
    assert metering("usage", "--from", "2026-11-23", "--to", "2027-11-23", "--json").json() == []


def test_usage_of_a_customer_shows_nothing_of_who_has_its_key_now(used: World, metering: Metering) -> None:
    """I6: a customer's report is the customer's own."""
    used.customer("globex", "key1", since=HOUR)
    used.run()
    assert lines(metering("usage", "acme", "--json")) == [("2026-11-22T05", "acme", "key2", 1, "POSTED")]
    assert lines(metering("usage", "globex", "--json")) == [
        ("2026-11-22T05", "globex", "key1", 1, "HELD"),
        ("2026-11-22T05", "globex", "key3", 1, "HELD"),
        ("2026-11-22T06", "globex", "key1", 1, "OPEN"),
    ]


def test_a_late_record_is_not_shown_as_posted(used: World, metering: Metering) -> None:
    """I5: it is counted, and not in the ledger until the hour is closed again."""
    used.record(used.line())
    shown = lines(metering("usage", "acme", "--to", "2026-11-22T06", "--json"))
    assert shown == [("2026-11-22T05", "acme", "key1", 2, "OPEN"), ("2026-11-22T05", "acme", "key2", 1, "OPEN")]
    used.run()
    shown = lines(metering("usage", "acme", "--to", "2026-11-22T06", "--json"))
    assert [state for *_, state in shown] == ["POSTED", "POSTED"]


def test_usage_outlives_its_counters_in_the_ledger(used: World, metering: Metering) -> None:
    """I5: 62 days later there is no key any more but for what belongs to no customer."""
    used.now = HOUR.end + timedelta(days=63)
    assert lines(metering("usage", "--from", "2026-11-22", "--to", "2026-11-23", "--json")) == [
        ("2026-11-22T05", None, "key9", 1, "HELD"),
        ("2026-11-22T05", "acme", None, 2, "POSTED"),
        ("2026-11-22T05", "globex", None, 1, "HELD"),
    ]
    assert lines(metering("usage", "acme", "--from", "2026-11-22", "--to", "2026-11-23", "--json")) == [
        ("2026-11-22T05", "acme", None, 2, "POSTED")
    ]


def test_what_was_adjusted_stands_by_itself_and_says_so(used: World, metering: Metering) -> None:
    """I5: also when the counters are gone, and what was counted is of no single key any more."""
    used.changes.add("acme", HOUR, Change("one", "requests", 4, "a mistake", "operator", 0))
    used.changes.add("acme", HOUR, Change("two", "requests", -1, "an invoice", "reconcile_usage", 0, carry=True))
    used.run()
    asked = ("usage", "acme", "--from", "2026-11-22", "--to", "2026-11-22T06")
    found = [line for line in metering(*asked, "--json").json() if line["metric"] == "requests"]
    beside = [(None, 4, "adjusted"), (None, -1, "carried")]
    said = [(line["key"], line["quantity"], line["kind"]) for line in found]
    assert sorted(said, key=str) == sorted([*beside, ("key1", 1, "counted"), ("key2", 1, "counted")], key=str)
    table = [line.split() for line in metering(*asked).out.splitlines()]
    assert ["2026-11-22T05", "acme", "adjusted", "requests", "4", "POSTED"] in table
    used.now = HOUR.end + timedelta(days=63)
    found = [line for line in metering(*asked, "--json").json() if line["metric"] == "requests"]
    said = [(line["key"], line["quantity"], line["kind"]) for line in found]
    assert sorted(said, key=str) == sorted([*beside, (None, 2, "counted")], key=str)


def reasons(result: Result) -> dict[tuple[str, str, str], str]:
    """Return why the requests of each hour and customer stand as they do, by these and the state."""
    found = [line for line in result.json() if line["metric"] == "requests"]
    return {(line["period"], str(line["customer"]), line["state"]): line["reason"] for line in found}


def test_usage_has_its_reason_beside_its_state(used: World, metering: Metering) -> None:
    """I9: why it is held, and why nobody pays for what Stripe has, as the last look at its subscriptions found it."""
    assert reasons(metering("usage", "acme", "--json")) == {
        ("2026-11-22T05", "acme", "POSTED"): None,
        ("2026-11-22T06", "acme", "OPEN"): None,
    }
    look(used)
    assert reasons(metering("usage", "--json")) == {
        ("2026-11-22T05", "None", "HELD"): "the key belongs to no customer",
        ("2026-11-22T05", "acme", "POSTED"): "no subscription",
        ("2026-11-22T05", "globex", "HELD"): "the customer has no Stripe customer",
        ("2026-11-22T06", "acme", "OPEN"): None,
    }
    assert "POSTED" in metering("usage", "acme").out
    assert "no subscription" in metering("usage", "acme").out
    shown = metering("usage", "acme", "--by", "month", "--json").json()
    assert {line["reason"] for line in shown} == {"no subscription"}


def test_usage_from_before_a_subscription_says_so_at_any_age(used: World, metering: Metering) -> None:
    """I9: also when its counters, and Stripe's interest in it, are long over."""
    Billing(used).subscribe()
    used.now += timedelta(days=3)
    look(used)
    used.now += timedelta(days=90)
    shown = metering("usage", "acme", "--from", "2026-11-22", "--to", "2026-11-22T06", "--json")
    assert reasons(shown) == {("2026-11-22T05", "acme", "POSTED"): "before subscription"}


def test_what_nobody_pays_can_be_accepted(used: World, metering: Metering) -> None:
    """I9: with a reason, which stands beside the hours from then on; of the running hour nobody knows yet."""
    look(used)
    used.now += timedelta(hours=3)
    said = metering("unbilled", "accept", "acme", "--reason", "a gift", "--json").json()
    assert said == {
        "customer": "acme", "before": "2026-11-22T09", "reason": "a gift", "who": "arn:aws:sts::123456789012:user/moto"
    }  # fmt: skip
    shown = metering("usage", "acme", "--from", "2026-11-22", "--to", "2026-11-22T06", "--json")
    assert {*reasons(shown).values()} == {"no subscription; accepted: a gift"}
    refused = metering("unbilled", "accept", "acme", "--reason", "a gift", "--before", "2026-11-22T10")
    assert (refused.code, "has to be over" in refused.err) == (1, True)
    assert metering("unbilled", "accept", "nobody", "--reason", "a gift").code == 1
    nameless = metering("unbilled", "accept", "acme", "--reason", " ")
    assert (nameless.code, "a reason is 1 to 200 printable characters, got ' '" in nameless.err) == (1, True)


def test_usage_that_waits_while_posting_is_off_says_so(used: World, metering: Metering) -> None:
    """I9: for however long; and of hours before the first one that is billed, that they are."""
    used.now += timedelta(hours=1)
    used.switch.turn(msgspec.structs.replace(used.switch.read(), on=False))
    used.run()
    hour = ("2026-11-22T06", "acme", "PENDING")
    assert reasons(metering("usage", "acme", "--json"))[hour] == "posting is off"
    used.switch.turn(msgspec.structs.replace(used.switch.read(), on=True, since="2026-11-22T07"))
    assert reasons(metering("usage", "acme", "--json"))[hour] == "before posting began with 2026-11-22T07"


def look(world: World) -> None:
    """Let an hourly run look who pays."""
    reader, since = StripeReader(world.meters(), Reads(100, Pace(10_000))), Hour.parse(world.switch.read().since)
    Looker(world.ledger, world.changes, reader, since, world.clock, world.now + timedelta(minutes=5)).run()


@pytest.mark.usefixtures("used")
def test_usage_is_shown_as_a_table(metering: Metering) -> None:
    """For people, with thousands apart."""
    table = [line.split() for line in metering("usage", "--by", "month").out.splitlines()]
    assert table[0] == [*COLUMNS]
    assert [
        "2026-11",
        "(none)",
        "key9",
        "requests",
        "1",
        "HELD",
        *["the", "key", "belongs", "to", "no", "customer"],
    ] in table
    assert ["2026-11", "acme", "key1", "requests", "2", "OPEN"] in table


@pytest.fixture
def function(
    deployed: World, template: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[tuple[str, Any]]]:
    """What was invoked: the handlers themselves, in the world's time, with a key in the secret."""
    invoked: list[tuple[str, Any]] = []
    with begin(deployed, template, monkeypatch) as functions:
        monkeypatch.setenv("STRIPE_SECRET", "stripe-secret")
        put_secret(api_key=KEY)

        def invoke(_deployment: Deployment, name: str, sent: Any) -> dict[str, Any]:
            invoked.append((name, sent))
            monkeypatch.setattr(Clock, "at", deployed.now)
            with redirect_stdout(io.StringIO()):  # the function's own
                if name == "close-periods":
                    return dict(json.loads(json.dumps(functions.close(sent))))
                assert name == "post-usage"
                return dict(json.loads(json.dumps(functions.post(*sent.get("shards", ())))))

        monkeypatch.setattr(Deployment, "invoke", invoke)
        yield invoked


def test_close_says_what_it_did(deployed: World, function: list[tuple[str, Any]], metering: Metering) -> None:
    """I4: it closes as the schedule would, and posts by itself; the next tick notes that nothing is left to post."""
    deployed.customer("acme", "key1", stripe_customer="cus_acme")
    deployed.record(deployed.line(), deployed.line(key="key9"))
    deployed.after_grace()
    assert metering("close") == Result(
        0,
        "       1  hours written into the ledger\n"
        "       0  hours closed\n"
        "       0  late marks dealt with\n"
        "       2  totals that Stripe accepted\n"
        "       0  totals that are still to be posted\n"
        "       0  totals that Stripe rejected\n"
        "       0  totals held, for want of a Stripe customer or as too old\n"
        "       1  rows written for keys that belong to no customer\n"
        "       1  due hours that the next run closes, if nothing of them is pending then\n",
        "",
    )
    assert function == [("close-periods", {"post": False}), ("post-usage", {})]
    assert deployed.at_stripe("cus_acme") == 1
    deployed.now += timedelta(minutes=5)
    again = metering("close", "--json").json()
    assert (again["closed"], again["behind"], again["posted"]) == (["2026-11-22T05"], 0, 0)


@pytest.mark.usefixtures("function")
def test_close_says_why_something_waits(deployed: World, metering: Metering) -> None:
    """I4: with the reason, and what to do."""
    deployed.customer("acme", "key1", stripe_customer="cus_acme")
    deployed.record(deployed.line())
    deployed.after_grace()
    put_secret(api_key="")
    reason = "the secret holds no Stripe key: run 'metering stripe connect'"
    assert metering("close").out.splitlines()[-1] == f"       1  wait because: {reason}"
    assert metering("close", "--json").json() == {
        "written": [],
        "closed": [],
        "closed_again": 0,
        "behind": 1,
        "unmapped": 0,
        "posting": True,
        "workers": 0,
        "posted": 0,
        "rejected": 0,
        "held": 0,
        "pending": 1,
        "reasons": {reason: 1},
        "leased": [],
        "before_posting": 0,
        "marks_left": 0,
    }


@pytest.mark.usefixtures("function")
def test_close_says_what_is_from_before_posting_began_and_which_marks_are_left(
    deployed: World, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I9: it is pending, and nothing will ever post it."""
    deployed.customer("acme", "key1", stripe_customer="cus_acme")
    deployed.record(deployed.line())
    deployed.after_grace()
    later = str(HOUR.next())
    deployed.switch.turn(msgspec.structs.replace(deployed.switch.read(), since=later))
    monkeypatch.setattr("metering.stores.marks.Marks.late_count", lambda _marks, _before: 16_000)
    said = metering("close").out
    assert f"1 customer's hour is from before posting began with {later} and is never billed" in said
    assert "  16,000  late marks that the next runs deal with, or more" in said
    did = metering("close", "--json").json()
    assert (did["before_posting"], did["marks_left"], did["pending"]) == (1, 16_000, 0)


@pytest.mark.usefixtures("function")
def test_close_posts_nothing_while_posting_is_off(deployed: World, metering: Metering) -> None:
    """I4: it closes all the same."""
    deployed.customer("acme", "key1", stripe_customer="cus_acme")
    deployed.record(deployed.line())
    deployed.after_grace()
    deployed.switch.turn(msgspec.structs.replace(deployed.switch.read(), on=False))
    did = metering("close", "--json").json()
    assert (did["posting"], did["closed"], did["posted"], did["pending"]) == (False, ["2026-11-22T05"], 0, 0)
    assert deployed.in_ledger("customer#acme")["requests"] == (1, "PENDING")


def test_close_waits_for_a_worker_of_the_schedule(
    deployed: World, function: list[tuple[str, Any]], metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I4: what somebody else posts from is asked for again, until it is free, and added up."""
    deployed.customer("acme", "key1", stripe_customer="cus_acme")
    deployed.record(deployed.line())
    deployed.after_grace()
    theirs = shard_of(customer("acme"))
    deployed.switch.lease([theirs], "other", now=deployed.now, until=deployed.now + timedelta(minutes=4))
    monkeypatch.setattr("infra.operate.deployment.time.sleep", lambda _: deployed.switch.release([theirs], "other"))
    did = metering("close", "--json").json()
    assert (did["posted"], did["pending"], did["leased"]) == (2, 0, [])
    assert function[1:] == [("post-usage", {}), ("post-usage", {"shards": [theirs]})]
