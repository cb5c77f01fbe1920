"""Redriving: what was set aside counts after all, once, whatever else is delivered again before, after or meanwhile."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, cast

import boto3
import pytest

from metering.counting.payloads import PayloadError, batches
from metering.counting.recording import Recorder
from metering.counting.redriving import redrive
from metering.model.amounts import Amounts
from metering.model.batches import Batch, Source, batch_of
from metering.model.metrics import USAGE_LINES, Count, Sum, Unique
from metering.model.periods import Hour
from metering.model.subjects import key
from metering.stores.counters import Counters
from metering.stores.marks import Mark
from metering.stores.set_aside import SetAside
from tests.doubles.dying import Dying, KilledError, Life
from tests.integration.world import HOUR, World, event_ids, moment

NEXT = HOUR.next()
TOKENS = Sum(name="tokens", of=USAGE_LINES)


def ahead(world: World, **changes: str) -> str:
    """Return a line from the next hour, which cannot be read before its time has come."""
    return world.line(time=moment(NEXT, 1), **changes)


def old(world: World) -> str:
    """Return a line that can be counted today, and not in two days."""
    return world.line(time=str(int((HOUR.start - timedelta(days=59)).timestamp() * 1000)))


def again(world: World, batch: Batch) -> dict[str, Any]:
    """Redrive what a batch set aside."""
    return answer(world.recorder(), {"batch": batch.token.hex()})


def answer(recorder: Recorder, wanted: Any) -> dict[str, Any]:
    """Return what a run answers that has all the time that it needs: nothing is left to do."""
    answered = redrive(recorder, wanted, deadline=recorder.clock() + timedelta(minutes=4))
    assert (answered.pop("to_do"), answered.pop("next")) == (0, None)
    return answered


def deliver(world: World, *lines: str) -> Batch:
    """Deliver a batch of access-log lines, and return it."""
    batch = world.batch(*lines)
    world.recorder().record(batch)
    return batch


def dying_at(world: World, update: int, *, after: bool = False) -> Recorder:
    """Return the recorder of a process that dies at an update of the counters, if at any."""
    dying = cast("Any", Dying(world.counters.client, Life(update, accepted=after, of={"update_item"})))
    return replace(world.recorder(), counters=replace(world.counters, client=dying))


def usage_line(name: str = "job-1", **metrics: int) -> str:
    """Return a usage line of acme."""
    return json.dumps({"usage": {"id": name, "time": int(moment(HOUR)), "customer": "acme"} | metrics})


def reported(*lines: str) -> Batch:
    """Return a batch of usage lines."""
    return batch_of(event_ids(lines), lines, Source.USAGE_LINES, "application stream")


def test_a_line_that_can_be_read_now_counts(world: World) -> None:
    """I1, I3: in its own hour, with what was set aside with it."""
    batch = deliver(world, ahead(world), world.line(), ahead(world, key="key2"))
    assert (world.counted(), world.counted(NEXT)) == ({"key1": {"requests": 1, "bytes": 10}}, {})
    world.now = NEXT.start + timedelta(minutes=30)
    assert again(world, batch) == {"batch": batch.token.hex(), "counted": 2, "left": 0, "reasons": {}}
    assert world.counted()["key1"]["requests"] == 1
    assert world.counted(NEXT) == {name: {"requests": 1, "bytes": 10} for name in ("key1", "key2")}


def test_redriving_twice_counts_once(world: World) -> None:
    """I2: the second finds nothing left."""
    batch = deliver(world, ahead(world))
    world.now = NEXT.start + timedelta(minutes=30)
    again(world, batch)
    assert again(world, batch)["counted"] == 0
    assert world.counted(NEXT)["key1"]["requests"] == 1


def test_redriving_at_once_counts_once(world: World) -> None:
    """I2: four operators press the button; each call by itself is atomic, which moto is not."""
    batch = deliver(world, *(ahead(world) for _ in range(5)))
    world.now = NEXT.start + timedelta(minutes=30)
    at_work = dying_at(world, 0)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: answer(at_work, {"batch": batch.token.hex()}), range(4)))
    assert {told["left"] for told in answers} == {0}
    assert world.counted(NEXT)["key1"]["requests"] == 5
    assert again(world, batch)["counted"] == 0


@pytest.mark.parametrize("redelivered", ["before", "after", "before and after"])
def test_a_redelivery_to_newer_code_changes_nothing(world: World, redelivered: str) -> None:
    """I2: what a batch set aside is counted by its redrive alone."""
    batch = deliver(world, ahead(world), world.line())
    world.now = NEXT.start + timedelta(minutes=30)
    if "before" in redelivered:
        world.recorder().record(batch)
        assert world.counted(NEXT) == {}
    again(world, batch)
    if "after" in redelivered:
        world.recorder().record(batch)
    assert world.counted(NEXT)["key1"]["requests"] == 1
    assert world.counted()["key1"]["requests"] == 1


def test_a_line_that_is_still_bad_stays_with_its_reason_and_counts_later(world: World) -> None:
    """I1: each line is redriven by itself."""
    batch = deliver(world, ahead(world), "nonsense", world.line(time=moment(NEXT, 55)))
    world.now = NEXT.start + timedelta(minutes=30)
    told = again(world, batch)
    assert (told["counted"], told["left"]) == (1, 2)
    reasons = sorted(told["reasons"].values())
    assert reasons[0] == "not JSON"
    assert reasons[1].startswith("time must not be over 5 minutes ahead of 2026-11-22T06:30:00Z")
    world.now += timedelta(minutes=30)
    assert again(world, batch)["counted"] == 1
    assert again(world, batch) == {
        "batch": batch.token.hex(), "counted": 0, "left": 1, "reasons": {event_ids(["", "nonsense"])[1]: "not JSON"}
    }  # fmt: skip
    assert world.counted(NEXT)["key1"]["requests"] == 2


def test_no_more_than_twenty_reasons_are_told(world: World) -> None:
    """The answer of a function is bounded; the number says how many there are."""
    batch = deliver(world, *(f"nonsense {n}" for n in range(25)))
    told = again(world, batch)
    assert (told["left"], len(told["reasons"])) == (25, 20)


def test_a_usage_line_counts_once_its_metric_is_declared(world: World) -> None:
    """I1: the code logged it before app.py named it."""
    world.bill(TOKENS)
    batch = reported(usage_line(tokens=5, pages=2))
    assert world.recorder().record(batch).set_aside == 1
    assert "'pages' is none of the metrics of usage lines" in next(iter(again(world, batch)["reasons"].values()))
    world.bill(TOKENS, Sum(name="pages", of=USAGE_LINES))
    assert again(world, batch)["counted"] == 1
    assert world.counted() == {"@acme": {"tokens": 5, "pages": 2}}


def test_an_id_that_counts_once_counts_once_through_a_redrive(world: World) -> None:
    """I2: whichever came first, the redrive or another line with the id."""
    world.bill(Sum(name="jobs", of=USAGE_LINES, deduplicate=True))
    batch = reported(usage_line("a", jobs=1, pages=1), usage_line("b", jobs=1, pages=1))
    world.recorder().record(batch)
    world.report(usage_line("a", jobs=1))
    world.bill(*world.metrics, Sum(name="pages", of=USAGE_LINES))
    assert again(world, batch)["counted"] == 2
    world.report(usage_line("b", jobs=1))
    assert world.counted() == {"@acme": {"jobs": 2, "pages": 2}}


def test_a_line_whose_value_counted_is_redriven_for_the_number_that_did_not(world: World) -> None:
    """I1: the counter that its value made is the same delivery's, and no sign of an earlier one."""
    users = Unique(name="users", of="authorizer.user", opaque_id=True)
    world.bill(users, Sum(name="units", of="authorizer.units"))
    line = world.line(**{"authorizer.user": "ann", "authorizer.units": "1.5"})
    batch = deliver(world, line)
    assert world.counted() == {"key1": {"users": 1}}
    world.bill(users, Sum(name="units", of="authorizer.units", scale=1))
    assert again(world, batch)["counted"] == 1
    assert world.counted() == {"key1": {"users": 1, "units": 15}}


def test_distinct_values_of_redriven_lines_count_once(world: World) -> None:
    """I2: with those that other batches brought meanwhile."""
    world.bill(Unique(name="users", of="authorizer.user", opaque_id=True))
    batch = deliver(world, *(ahead(world, **{"authorizer.user": user}) for user in ("ann", "ann", "bob")))
    world.now = NEXT.start + timedelta(minutes=30)
    world.record(world.line(time=moment(NEXT), **{"authorizer.user": "bob"}))
    again(world, batch)
    assert world.counted(NEXT) == {"key1": {"users": 2}}


def test_a_redriven_line_corrects_a_closed_hour(world: World) -> None:
    """I4: it is a late record."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    batch = deliver(world, world.line(time=moment(HOUR, 59)), world.line())
    world.after_grace()
    world.run()
    assert world.at_stripe("cus_acme") == 1
    again(world, batch)
    assert {mark.subject for mark in world.counters.marks.of_kind(Mark.LATE)} == {key("key1")}
    world.run()
    assert world.at_stripe("cus_acme") == 2


def test_a_line_of_an_object_is_redriven_by_its_place(world: World) -> None:
    """I1, I2: the other road's lines have no ids of their own."""
    content = "\n".join([world.line(), "", ahead(world), world.line()])
    (batch,) = batches([content.encode()], "s3://bucket/object")
    world.recorder().record(batch)
    world.now = NEXT.start + timedelta(minutes=30)
    assert again(world, batch)["counted"] == 1
    world.recorder().record(batch)
    assert (world.counted()["key1"]["requests"], world.counted(NEXT)["key1"]["requests"]) == (2, 1)


# --- doubtful lines ---------------------------------------------------------------------------------------------------


def test_a_doubtful_line_is_left_if_its_counter_has_the_batch(world: World) -> None:
    """I2: the first delivery counted it; the second, by another clock, could not read it."""
    batch = deliver(world, old(world), "nonsense")
    world.now += timedelta(days=2)
    world.recorder().record(batch)
    world.now -= timedelta(days=2)
    told = again(world, batch)
    assert (told["counted"], told["left"]) == (0, 2)
    assert "doubtful: its counter has the batch, so an earlier delivery may have counted it" in told["reasons"].values()
    hours = [HOUR, HOUR.containing(HOUR.start - timedelta(days=59))]
    assert [world.counted(hour).get("key1", {}).get("requests") for hour in hours] == [None, 1]


def test_a_doubtful_line_counts_if_its_counter_lacks_the_batch(world: World) -> None:
    """I1: the first delivery died before it counted anything."""
    batch = world.batch(old(world), "nonsense")
    dying = dying_at(world, 1)
    with pytest.raises(KilledError):
        dying.record(batch)
    world.now += timedelta(days=2)
    assert world.recorder().record(batch).set_aside == 2
    world.now -= timedelta(days=2)
    assert again(world, batch)["counted"] == 1
    assert again(world, batch)["counted"] == 0
    assert world.counted(HOUR.containing(HOUR.start - timedelta(days=59)))["key1"]["requests"] == 1


def test_a_batch_that_newer_code_cannot_read_at_all_is_not_counted_again_by_a_redrive(world: World) -> None:
    """I2: nothing else of it is left that could say whether an earlier delivery has counted it."""
    world.bill(TOKENS)
    batch = reported(usage_line(tokens=5))
    world.recorder().record(batch)
    world.bill(Sum(name="pages", of=USAGE_LINES))
    assert world.recorder().record(batch).set_aside == 1
    world.bill(TOKENS)
    again(world, batch)
    assert world.counted() == {"@acme": {"tokens": 5}}


@dataclass(frozen=True, slots=True)
class CountingOnly(Counters):
    """Counters of a process that dies when it counts another than this source."""

    only: str

    def count(self, hour: Hour, key: str, amounts: Amounts, batch: bytes) -> bool:
        """Count, or die."""
        if key != self.only:
            raise KilledError
        return Counters.count(self, hour, key, amounts, batch)


def test_a_line_that_a_crashed_delivery_counted_is_not_counted_again_by_a_redrive(world: World) -> None:
    """I1, I2: it died before it counted the others, and newer code cannot read the line."""
    pages = Sum(name="pages", of=USAGE_LINES)
    world.bill(TOKENS, pages)
    other = json.dumps({"usage": {"id": "x", "time": int(moment(HOUR)), "customer": "globex", "pages": 3}})
    batch = reported(other, usage_line(tokens=5))
    dying = CountingOnly(world.counters.client, world.counters.table, "@globex")
    with pytest.raises(KilledError):
        world.recorder(dying).record(batch)
    world.bill(TOKENS)
    assert world.recorder().record(batch).set_aside == 1
    world.bill(TOKENS, pages)
    told = again(world, batch)
    assert "doubtful: its counter has the batch" in next(iter(told["reasons"].values()))
    assert world.counted() == {"@acme": {"tokens": 5}, "@globex": {"pages": 3}}


def test_a_value_claimed_by_a_delivery_that_died_counts_when_its_line_is_redriven(world: World) -> None:
    """I1: the claim is the batch's, whose other deliveries leave the line out: it is taken over, and once."""
    world.bill(Count(name="requests"), Unique(name="users", of="authorizer.user", opaque_id=True))
    line = world.line(time=str(int((HOUR.start - timedelta(days=59)).timestamp() * 1000)), **{"authorizer.user": "ann"})
    batch = world.batch(line, "nonsense")
    dying = dying_at(world, 1)
    with pytest.raises(KilledError):
        dying.record(batch)
    world.now += timedelta(days=2)
    world.recorder().record(batch)
    world.now -= timedelta(days=2)
    assert again(world, batch)["counted"] == 1
    assert world.counted(HOUR.containing(HOUR.start - timedelta(days=59))) == {"key1": {"requests": 1, "users": 1}}


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_crash_before_the_note_counts_once_in_the_end(world: World) -> None:
    """I2: the counter refuses what it has; the next redrive takes the note."""
    batch = deliver(world, ahead(world), "nonsense")
    world.now = NEXT.start + timedelta(minutes=30)
    forgetful = SetAside(cast("Any", Dying(world.set_aside.client, Life(1))), "bucket")
    with pytest.raises(KilledError):
        answer(replace(world.recorder(), set_aside=forgetful), {"batch": batch.token.hex()})
    assert world.counted(NEXT)["key1"]["requests"] == 1
    assert again(world, batch)["counted"] == 1
    assert again(world, batch)["counted"] == 0
    assert world.counted(NEXT)["key1"]["requests"] == 1


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_the_counter_counts_once_in_the_end(world: World, after: bool) -> None:  # noqa: FBT001 - a literal
    """I1, I2: the line stays set aside until its count is certain."""
    batch = deliver(world, ahead(world))
    world.now = NEXT.start + timedelta(minutes=30)
    dying = dying_at(world, 1, after=after)
    with pytest.raises(KilledError):
        answer(dying, {"batch": batch.token.hex()})
    assert again(world, batch)["counted"] == 1
    assert world.counted(NEXT)["key1"]["requests"] == 1


@pytest.mark.parametrize(
    "wanted", [None, [], "all", {}, {"batch": None}, {"batch": 7}, {"batch": "x" * 24}, {"batch": "A" * 24},
               {"batch": "a" * 23}, {"batch": "a" * 24 + "\n"}, {"batch": "../" + "a" * 21},
               {"batch": "a" * 24, "from": "0"}, {"batch": "a" * 24, "from": None}],
)  # fmt: skip
def test_a_malformed_wish_fails_with_a_sentence(world: World, wanted: Any) -> None:
    """The name of a batch becomes part of an object's key."""
    with pytest.raises(PayloadError, match=r'wanted \{"redrive": \{"batch": "<24 hex digits>"\}\}, got another form'):
        answer(world.recorder(), wanted)


def test_a_batch_that_set_nothing_aside_is_said_so(world: World) -> None:
    """A mistyped name is no success."""
    batch = deliver(world, world.line())
    with pytest.raises(PayloadError, match=f"nothing is set aside of the batch {batch.token.hex()}"):
        again(world, batch)
    assert boto3.client("s3").list_objects_v2(Bucket="bucket")["KeyCount"] == 0
