"""Value metrics on their whole way: units, usage lines, peaks and splits, from a batch to the ledger and Stripe."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import boto3
import pytest

from infra.cli.usage import _usage_json
from infra.local.stripe.server import LocalStripe
from infra.operate.usage import Report
from metering.counting.recording import Recorder
from metering.model.batches import Source, batch_of
from metering.model.metrics import USAGE_LINES, Count, Max, Sum
from metering.model.periods import Hour
from metering.model.subjects import Subject, customer
from metering.portal.reading import By
from metering.stores import claims
from metering.stores.attribution import Uniques
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.marks import Mark
from tests.doubles.dying import Dying, KilledError, Life
from tests.integration.world import HOUR, World, event_ids, moment

MESSAGES = "authorizer.messages"
SEATS = "authorizer.seats"
PLAN = "authorizer.plan"
TOKENS = Sum(name="tokens", of=USAGE_LINES)
JOBS = Sum(name="jobs", of=USAGE_LINES, deduplicate=True)
NEXT = HOUR.next()


@pytest.fixture
def stripe() -> Iterator[LocalStripe]:
    """The local Stripe, half a day later, so that it takes every hour's usage."""
    with LocalStripe(api_keys=["sk_test_local"], now=(HOUR.end + timedelta(hours=12)).timestamp) as server:
        yield server


def report(name: str = "job-1", *, hour: Hour = HOUR, **changes: Any) -> str:
    """Return a usage line of a customer, unless another is named."""
    return json.dumps({"usage": {"id": name, "time": int(moment(hour)), "customer": "acme"} | changes})


def recorder(world: World, client: Any) -> Recorder:
    """Return a recorder whose every write goes through a client."""
    table = world.counters.table
    return replace(world.recorder(), claims=Claims(client, table), counters=Counters(client, table))


def shown(world: World, *, split: bool) -> list[dict[str, Any]]:
    """Return what 'metering usage --json' shows of the hour."""
    made = Report(world.counters, Uniques(world.claims, world.ledger.holders), world.ledger, None, split=split)
    lines = made.lines(HOUR, NEXT, by=By.HOUR, now=world.now, progress=lambda all_hours, _: all_hours)
    return [_usage_json(line, split=split) for line in lines]


# --- units in a call --------------------------------------------------------------------------------------------------


def test_units_that_calls_carry_reach_stripe(world: World) -> None:
    """I1, I2, I4: an unreadable number is set aside for its metric, and all else of its call counts once."""
    world.bill(Count(name="requests"), Sum(name="messages", of=MESSAGES))
    world.customer("acme", "key1", "key2", stripe_customer="cus_acme")
    lines = [
        world.line(**{MESSAGES: "100"}),
        world.line(key="key2", **{MESSAGES: "7"}),
        world.line(**{MESSAGES: "-"}),
        world.line(**{MESSAGES: "many"}),
    ]
    assert world.record(*lines).set_aside == 1
    world.record(*lines)
    world.after_grace()
    world.run()
    assert (world.at_stripe("cus_acme"), world.at_stripe("cus_acme", "messages")) == (4, 107)


# --- usage lines ------------------------------------------------------------------------------------------------------


def test_what_your_own_code_reports_of_a_customer_is_billed_without_a_key(world: World) -> None:
    """I4: beside what is reported of its key, and also late."""
    world.bill(TOKENS)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    keyed = json.dumps({"usage": {"id": "a", "time": int(moment(HOUR)), "key": "key1", "tokens": 20}})
    recorded = world.report(report(tokens=5), keyed, "START of something with usage in it", '{"level":"INFO"}')
    assert (recorded.read, recorded.billed, recorded.set_aside) == (2, 2, 0)
    world.after_grace()
    world.run()
    assert world.at_stripe("cus_acme", "tokens") == 25
    world.report(report(tokens=100))
    assert {mark.subject for mark in world.counters.marks.of_kind(Mark.LATE)} == {customer("acme")}
    world.run()
    assert world.at_stripe("cus_acme", "tokens") == 125
    assert shown(world, split=False) == [
        {
            "period": "2026-11-22T05",
            "customer": "acme",
            "key": key,
            "metric": "tokens",
            "quantity": n,
            "state": "POSTED",
            "reason": None,
            "kind": "counted",
        }
        for key, n in ((None, 105), ("key1", 20))
    ]


def test_usage_of_a_customer_that_is_not_there_yet_is_kept_until_it_is(world: World) -> None:
    """I1: the line is right, the customer comes later."""
    world.bill(TOKENS)
    world.report(report(tokens=5))
    world.after_grace()
    world.run()
    assert world.in_ledger("customer#acme") == {"tokens": (5, "HELD")}
    world.customer("acme", stripe_customer="cus_acme")
    world.run()
    assert world.at_stripe("cus_acme", "tokens") == 5


def test_a_malformed_usage_line_is_set_aside_and_its_neighbours_count(world: World) -> None:
    """I1: read = billed + unbilled + set aside - partly, and lines of another kind are not read."""
    world.bill(TOKENS)
    lines = [report(tokens=5), report(tokens=-5), report(tokens=7, note=1), '{"usage": {"id": "cut o', "usage: 5"]
    recorded = world.report(*lines)
    assert (recorded.read, recorded.billed, recorded.set_aside, recorded.partly) == (4, 2, 3, 1)
    assert world.counted() == {"@acme": {"tokens": 12}}
    token = batch_of(event_ids(lines), lines, Source.USAGE_LINES, "application stream").token.hex()
    kept = world.set_aside.of(token).certain
    assert kept is not None
    assert (kept.source, [line.message for line in kept.lines]) == (Source.USAGE_LINES, lines[1:4])
    assert [line.metrics for line in kept.lines] == [(), ("note",), ()]


def test_a_usage_line_counts_by_its_log_event_unless_it_deduplicates(world: World) -> None:
    """I2: the same event counts once; an application that logs the same id twice counts twice, except for jobs."""
    world.bill(TOKENS, JOBS)
    world.report(report(tokens=5, jobs=1), report(tokens=6, jobs=1))
    world.report(report(tokens=5, jobs=1), report(tokens=6, jobs=1))
    assert world.counted() == {"@acme": {"tokens": 11, "jobs": 1}}
    world.report(report(tokens=7, jobs=1), report("job-2", jobs=2))
    assert world.counted() == {"@acme": {"tokens": 18, "jobs": 3}}


def test_the_same_id_of_two_customers_is_two_jobs(world: World) -> None:
    """I6: nobody's ids stand in another's way; a key is another source than the customer of its name."""
    world.bill(JOBS)
    world.report(report(jobs=1), report(jobs=1, customer="globex"))
    world.report(
        report(jobs=1), json.dumps({"usage": {"id": "job-1", "time": int(moment(HOUR)), "key": "acme", "jobs": 1}})
    )
    assert world.counted() == {"@acme": {"jobs": 1}, "@globex": {"jobs": 1}, "acme": {"jobs": 1}}


def test_a_deduplicated_line_that_comes_with_another_hour_counts_in_the_first(world: World) -> None:
    """I2, I3: whichever was claimed first."""
    world.bill(JOBS)
    world.report(report(jobs=1))
    world.now += timedelta(hours=1)
    world.report(report(jobs=1, hour=NEXT))
    assert world.counted() == {"@acme": {"jobs": 1}}
    assert world.counted(NEXT) == {}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("call", "nth"), [("put_item", 1), ("put_item", 2), ("update_item", 1)])
def test_a_crash_between_the_claim_of_an_id_and_its_counter_counts_once_in_the_end(
    world: World,
    call: str,
    nth: int,
    after: bool,  # noqa: FBT001 - a literal
) -> None:
    """I1, I2: also where another batch with the same id comes in between."""
    world.bill(JOBS)
    lines = [report(jobs=1), report("job-2", jobs=1)]
    batch = batch_of(event_ids(lines), lines, Source.USAGE_LINES, "application stream")
    with pytest.raises(KilledError):
        recorder(world, Dying(world.counters.client, Life(nth, accepted=after, of={call}))).record(batch)
    world.report(report(jobs=1), "usage")
    world.recorder().record(batch)
    world.recorder().record(batch)
    assert world.counted() == {"@acme": {"jobs": 2}}


def test_an_id_is_stored_only_as_a_keyed_hash(world: World) -> None:
    """I8: an application's id may be anything, also one that can be guessed; deduplicating costs one write an id."""
    world.bill(JOBS)
    watched = Dying(world.counters.client)
    line = report("order-of-ann@globex", jobs=1)
    recorder(world, watched).record(batch_of(["e"], [line], Source.USAGE_LINES, "application stream"))
    assert (watched.calls["put_item"], watched.calls["update_item"]) == (1, 1 + 1)  # and how many lines there were
    kept = str(boto3.client("dynamodb").scan(TableName="counters")["Items"])
    assert "order-of-ann" not in kept
    assert hashlib.sha256(b"order-of-ann@globex").hexdigest()[:32] not in kept
    claim = claims.of_line("jobs", "@acme", claims.hashed(b"secret", "jobs", "order-of-ann@globex"))
    assert claim[1] in kept
    other = replace(world.recorder(), hashing=None)
    with pytest.raises(
        ValueError, match=r"^ids of usage lines can only be told apart with the secret of their hashes$"
    ):
        other.record(batch_of(["e"], [line], Source.USAGE_LINES, "application stream"))


# --- peaks ------------------------------------------------------------------------------------------------------------


def seats(world: World, number: int, *, key: str = "key1", hour: Hour = HOUR) -> str:
    """Return the line of a request at which so many seats were taken."""
    return world.line(key=key, time=moment(hour), **{SEATS: str(number)})


@pytest.fixture
def peaks(world: World) -> World:
    """A deployment that bills the peak of seats."""
    world.bill(Count(name="requests"), Max(name="seats", of=SEATS))
    return world


def test_a_peak_is_the_highest_over_all_of_a_customers_keys(peaks: World) -> None:
    """I4: each hour's, so that the month is billed by seat-hours."""
    peaks.customer("acme", "key1", "key2", stripe_customer="cus_acme")
    peaks.record(seats(peaks, 5), seats(peaks, 3))
    peaks.record(seats(peaks, 7, key="key2"))
    peaks.record(seats(peaks, 6))
    peaks.now += timedelta(hours=1)
    peaks.record(seats(peaks, 2, hour=NEXT))
    peaks.now = NEXT.end + timedelta(minutes=10)
    peaks.run()
    assert [peaks.at_stripe("cus_acme", "seats", hour) for hour in (HOUR, NEXT)] == [7, 2]
    assert [peaks.at_stripe("cus_acme", "requests", hour) for hour in (HOUR, NEXT)] == [4, 1]


def test_a_peak_is_raised_only(peaks: World) -> None:
    """I2: a redelivery changes nothing, nor does a lower value that comes late; a higher one corrects the hour."""
    peaks.customer("acme", "key1", stripe_customer="cus_acme")
    batch = [seats(peaks, 5)]
    peaks.record(*batch)
    peaks.after_grace()
    peaks.run()
    peaks.record(*batch)
    peaks.record(seats(peaks, 4))
    peaks.run()
    assert peaks.at_stripe("cus_acme", "seats") == 5
    peaks.record(seats(peaks, 9))
    peaks.run()
    assert peaks.at_stripe("cus_acme", "seats") == 9
    assert peaks.counted() == {"key1": {"requests": 3, "seats": 9}}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_crash_between_a_peak_and_its_counter_is_made_good(
    peaks: World,
    nth: int,
    after: bool,  # noqa: FBT001 - a literal
) -> None:
    """I1, I2: the peak stands in an item of its own."""
    batch = peaks.batch(seats(peaks, 5), seats(peaks, 8))
    with pytest.raises(KilledError):
        recorder(peaks, Dying(peaks.counters.client, Life(nth, accepted=after, of={"update_item"}))).record(batch)
    peaks.recorder().record(batch)
    assert peaks.counted() == {"key1": {"requests": 2, "seats": 8}}


def test_a_key_that_moves_takes_its_peak_along(peaks: World) -> None:
    """I4: the former customer is left with the peak of its other key."""
    peaks.customer("acme", "key1", "key2", stripe_customer="cus_acme")
    peaks.record(seats(peaks, 9), seats(peaks, 4, key="key2"))
    peaks.after_grace()
    peaks.run()
    assert peaks.at_stripe("cus_acme", "seats") == 9
    peaks.customer("globex", "key1", stripe_customer="cus_globex", since=HOUR)
    peaks.run()
    assert (peaks.at_stripe("cus_acme", "seats"), peaks.at_stripe("cus_globex", "seats")) == (4, 9)


def test_the_report_shows_a_peak_of_several_keys_once(peaks: World) -> None:
    """I5: it belongs to the customer; the requests beside it belong to their keys."""
    peaks.customer("acme", "key1", "key2")
    peaks.customer("globex", "key3")
    peaks.record(seats(peaks, 9), seats(peaks, 9, key="key2"), seats(peaks, 3, key="key3"))
    found = [(line["customer"], line["key"], line["metric"], line["quantity"]) for line in shown(peaks, split=False)]
    assert found == [
        ("acme", None, "seats", 9),
        ("acme", "key1", "requests", 1),
        ("acme", "key2", "requests", 1),
        ("globex", "key3", "requests", 1),
        ("globex", "key3", "seats", 3),
    ]


def test_peaks_of_usage_lines_are_per_customer(world: World) -> None:
    """Stored gigabytes, in thousandths, reported now and then."""
    world.bill(Max(name="stored", of=USAGE_LINES, scale=3))
    world.customer("acme", stripe_customer="cus_acme")
    world.report(report(stored=1.5), report(stored=2.25), report(stored=2))
    world.after_grace()
    world.run()
    assert world.at_stripe("cus_acme", "stored") == 2250


# --- splits -----------------------------------------------------------------------------------------------------------


def split_of(world: World, subject: str = "customer#acme", metric: str = "requests") -> dict[str, int]:
    """Return how a total of the ledger splits."""
    found = Subject.parse(subject)
    return world.ledger.rows.at(HOUR, [found])[found].totals[metric].split


def test_a_split_is_shown_and_the_total_billed(world: World) -> None:
    """I5: in the ledger's row and the report, before the hour is closed and when its counters are gone."""
    world.bill(Count(name="requests", by=PLAN), Sum(name="bytes", of="response_length"))
    world.customer("acme", "key1", "key2", stripe_customer="cus_acme")
    world.record(world.line(**{PLAN: "free"}), world.line(**{PLAN: "pro"}), world.line(key="key2", **{PLAN: "pro"}))
    world.record(world.line(**{PLAN: "free"}))
    open_lines = shown(world, split=True)
    world.after_grace()
    world.run()
    assert world.at_stripe("cus_acme") == 4
    assert split_of(world) == {"free": 2, "pro": 2}
    assert split_of(world, metric="bytes") == {}
    line: dict[str, Any] = {
        "period": "2026-11-22T05",
        "customer": "acme",
        "state": "POSTED",
        "reason": None,
        "kind": "counted",
    }
    wanted = [
        line | {"key": "key1", "metric": "bytes", "value": None, "quantity": 30},
        line | {"key": "key1", "metric": "requests", "value": "free", "quantity": 2},
        line | {"key": "key1", "metric": "requests", "value": "pro", "quantity": 1},
        line | {"key": "key2", "metric": "bytes", "value": None, "quantity": 10},
        line | {"key": "key2", "metric": "requests", "value": "pro", "quantity": 1},
    ]
    assert shown(world, split=True) == wanted
    assert open_lines == [one | {"state": "OPEN"} for one in wanted]
    together = {(one["key"], one["metric"]): one["quantity"] for one in shown(world, split=False)}
    assert together == {("key1", "bytes"): 30, ("key1", "requests"): 3, ("key2", "bytes"): 10, ("key2", "requests"): 1}
    assert "value" not in shown(world, split=False)[0]
    world.now += timedelta(days=63)
    found = [(one["key"], one["metric"], one["value"], one["quantity"]) for one in shown(world, split=True)]
    assert found == [(None, "bytes", None, 40), (None, "requests", "free", 2), (None, "requests", "pro", 2)]


def test_a_split_stands_in_the_same_write_as_its_total(world: World) -> None:
    """One update for each hour and key, however many values."""
    world.bill(Count(name="requests", by=PLAN), Sum(name="bytes", of="response_length", by="method"))
    watched = Dying(world.counters.client)
    batch = world.batch(*(world.line(**{PLAN: f"plan{n}"}) for n in range(20)), world.line(key="key2"))
    recorder(world, watched).record(batch)
    assert watched.calls["update_item"] == 2 + 1  # and one for how many lines the batch had
    assert (watched.calls["put_item"], watched.calls["batch_get_item"]) == (0, 0)


def test_splits_of_many_values_are_capped_again_at_the_close(world: World) -> None:
    """I5: fifty values of a customer, over its keys and their slots, and the rest under 'other'; the total is whole."""
    world.bill(Count(name="requests", by=PLAN))
    world.customer("acme", "key1", "key2")
    for start in (0, 40, 80):
        for key in ("key1", "key2"):
            world.record(*(world.line(key=key, **{PLAN: f"plan{n}"}) for n in range(start, start + 40)))
    world.record(world.line(**{PLAN: "plan100"}))
    (key1,) = [amounts for key, amounts in world.counters.read(HOUR).items() if key == "key1"]
    assert (len(key1.splits["requests"]), sum(key1.splits["requests"].values())) == (51, 121)
    world.after_grace()
    world.close()
    split = split_of(world)
    assert len(split) == 51
    assert sum(split.values()) == world.in_ledger("customer#acme")["requests"][0] == 241
    assert split["plan100"] == 3


def test_a_late_record_corrects_the_split_too(world: World) -> None:
    """I4, I5: with the total."""
    world.bill(Count(name="requests", by=PLAN))
    world.customer("acme", "key1")
    world.record(world.line(**{PLAN: "free"}))
    world.after_grace()
    world.close()
    world.record(world.line(**{PLAN: "pro"}))
    world.close()
    assert split_of(world) == {"free": 1, "pro": 1}


def test_each_declared_value_has_a_meter_at_stripe(world: World) -> None:
    """I4: all other values share one; the values together are the total."""
    world.bill(Count(name="calls", by=PLAN, meters=("free", "v2")))
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(*(world.line(**{PLAN: plan}) for plan in ("free", "free", "v2", "v3", "-")))
    world.after_grace()
    world.run()
    assert {name: world.at_stripe("cus_acme", f"calls_{name}") for name in ("free", "v2", "other")} == {
        "free": 2,
        "v2": 1,
        "other": 2,
    }


def test_a_redelivered_batch_changes_no_metric_of_any_kind(world: World) -> None:
    """I2: one token for all that stands in a counter."""
    world.bill(Count(name="requests", by=PLAN), Sum(name="messages", of=MESSAGES), Max(name="seats", of=SEATS))
    lines = [world.line(**{PLAN: "free", MESSAGES: "5", SEATS: "3"}), world.line(**{PLAN: "pro", MESSAGES: "6"})]
    world.record(*lines)
    before = world.counters.read(HOUR)
    assert world.record(*lines).refused
    assert world.counters.read(HOUR) == before
    assert before["key1"].quantities() == {"requests": 2, "messages": 11, "seats": 3}
    assert before["key1"].splits == {"requests": {"free": 1, "pro": 1}}
