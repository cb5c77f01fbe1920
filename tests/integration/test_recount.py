"""Recount: the raw archive read again finds what the counters have lost or doubled, and mends it once."""

import gzip
import io
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import boto3
import pytest

from infra.cli import main as cli
from infra.operate.deployment import OperatorError
from infra.operate.doctor.corrections import check_corrections
from infra.operate.doctor.findings import State
from infra.operate.recount import raw_log
from infra.operate.recount.mending import LOWERS
from infra.operate.recount.raw_log import Archive, BrokenObjectError, lines_of
from infra.operate.recount.recount import NEVER_LOWERED, NO_CUSTOMER, UNKNOWN, Recount
from infra.operate.recount.whole import Places
from metering.counting import payloads
from metering.counting.completeness import Completeness
from metering.counting.payloads import PayloadError
from metering.counting.redriving import redrive
from metering.model.batches import Source, batch_of
from metering.model.metrics import USAGE_LINES, Count, Max, Metric, Sum, Unique
from metering.model.periods import Hour
from metering.model.subjects import customer, key
from tests.doubles.json_schema import hold
from tests.integration.raw import DEPLOYED, JOBS_LOG, NEXT, WHO, Raw, close, said
from tests.integration.world import ACCESS_LOG_GROUP, HOUR, World, moment


def health(raw: Raw) -> list[tuple[State, str, str]]:
    """Return what doctor says of corrections."""
    return [(one.state, one.said, one.do) for one in check_corrections(raw.deployment, raw.world.now)]


def test_what_was_counted_rightly_has_no_difference(raw: Raw) -> None:
    """I5: the counters can be recounted from the raw log."""
    raw.deliver(raw.world.line(), raw.world.line(key="-"), raw.world.line(status="404"), "nonsense")
    close(raw)
    lines = raw.recount("acme")
    assert said(lines) == {"requests": (1, 1, 1, 0), "bytes": (10, 10, 10, 0)}
    assert not [line for line in lines if line.stays]


def test_lines_that_a_subscription_skipped_are_brought_in(raw: Raw) -> None:
    """I1: CloudWatch Logs switched it off for ten minutes; the lines are in the log group, and nowhere else."""
    world = raw.world
    raw.deliver(*(world.line() for _ in range(20)))
    skipped = [world.line() for _ in range(12)]
    ids = raw.log(*skipped)
    close(raw)
    # This is how it comes out: of 32 lines that the log group took in, 20 were counted.
    assert Completeness(counted=20, written=32, requests=32).of_lines == 0.625
    assert world.in_ledger("customer#acme")["requests"][0] == 20
    (requests, _) = raw.recount("acme")
    assert (requests.recounted, requests.counted, requests.ledger, requests.difference) == (32, 20, 20, 12)
    assert [line.fixed for line in raw.fix("acme")] == [True, True]
    world.close()
    assert {metric: quantity for metric, (quantity, _) in world.in_ledger("customer#acme").items()} == {
        "requests": 32,
        "bytes": 320,
    }
    (change,) = [one for one in raw.deployment.changes.of("acme", HOUR) if one.metric == "requests"]
    assert (change.amount, change.who, change.recount) == (12, WHO, True)
    # Again: nothing differs, and nothing is mended twice.
    assert not [line for line in raw.fix("acme") if line.fixed or line.stays]
    assert said(raw.recount("acme"))["requests"] == (32, 20, 32, 0)
    # Should they be delivered after all, they are in the ledger already.
    world.recorder().record(batch_of(ids, skipped, Source.ACCESS_LOG, f"{ACCESS_LOG_GROUP} stream"))
    world.close()
    assert said(raw.recount("acme"))["requests"] == (32, 20, 32, 0)


def test_a_correction_outlives_other_late_records_and_is_not_counted_a_second_time(raw: Raw) -> None:
    """I2, I5: what it stands for is known by its records; any others count beside it."""
    world = raw.world
    raw.deliver(*(world.line() for _ in range(20)))
    skipped = [world.line() for _ in range(12)]
    ids = raw.log(*skipped)
    close(raw)
    raw.fix("acme")
    world.close()
    raw.deliver(world.line())  # one that nobody has seen before
    world.close()
    assert world.in_ledger("customer#acme")["requests"][0] == 33
    for some in (slice(0, 5), slice(0, 5), slice(5, 12)):
        other = world.line()
        named = [*ids[some], *raw.log(other)]
        world.recorder().record(batch_of(named, [*skipped[some], other], Source.ACCESS_LOG, "log-group stream"))
    world.close()
    assert world.counted()["key1"] == {"requests": 24, "bytes": 240}
    assert said(raw.recount("acme")) == {"requests": (36, 24, 36, 0), "bytes": (360, 240, 360, 0)}


def test_a_delivery_that_died_before_a_correction_counts_nothing_of_it_when_it_comes_again(raw: Raw) -> None:
    """I1, I2: what it had counted is refused by its counter, the rest is in the correction."""
    world = raw.world
    world.customer("acme", "key2")
    lines = [world.line(), world.line(key="key2"), world.line(key="key2")]
    ids = raw.log(*lines)
    whole = batch_of(ids, lines, Source.ACCESS_LOG, f"{ACCESS_LOG_GROUP} stream")
    usage = world.recorder()._read(whole, {}).usage
    world.counters.count(HOUR, "key1", usage.cells[HOUR, "key1"], whole.token)
    close(raw)
    assert said(raw.fix("acme"))["requests"] == (3, 1, 1, 2)
    for _ in range(2):
        world.recorder().record(whole)
    world.close()
    assert said(raw.recount("acme"))["requests"] == (3, 1, 3, 0)


def test_what_was_set_aside_before_a_correction_counts_when_it_is_mended(raw: Raw) -> None:
    """I1: a correction stands for no record of which anything waits."""
    world = raw.world
    early = world.line(time=str(int((world.now + timedelta(minutes=6)).timestamp() * 1000)))
    raw.deliver(world.line(), early)
    raw.log(world.line())
    close(raw)
    raw.fix("acme")
    (batch,) = world.set_aside.batches()
    redrive(world.recorder(), {"batch": batch}, deadline=world.now)
    world.close()
    assert said(raw.recount("acme"))["requests"] == (3, 2, 3, 0)


def test_a_correction_of_usage_lines_outlives_others(raw: Raw) -> None:
    """I2: they are known by their log group and event."""
    world = raw.world
    raw.declare(Sum(name="tokens", of=USAGE_LINES), at=DEPLOYED + timedelta(minutes=5))

    def report(name: str) -> str:
        return json.dumps({"usage": {"id": name, "time": int(moment(HOUR)), "key": "key1", "tokens": 5}})

    raw.deliver(report("a"), source=Source.USAGE_LINES)
    ids = raw.log(report("b"), report("c"), group=JOBS_LOG)
    close(raw)
    raw.fix("acme")
    raw.deliver(report("d"), source=Source.USAGE_LINES)
    late = batch_of(ids, [report("b"), report("c")], Source.USAGE_LINES, f"{JOBS_LOG} stream")
    world.recorder().record(late)
    world.close()
    assert said(raw.recount("acme"))["tokens"] == (20, 10, 20, 0)


def test_a_correction_of_what_does_not_add_up_is_void_once_another_count_is_there(raw: Raw) -> None:
    """I5: the highest of an hour is no sum; that the correction is void is said, and it is made again."""
    world = raw.world
    raw.declare(Max(name="seats", of="response_length"), at=DEPLOYED + timedelta(minutes=5))
    raw.deliver(world.line(response_length="3"))
    raw.log(world.line(response_length="9"))
    close(raw)
    raw.fix("acme")
    assert world.close().void == 0
    assert world.in_ledger("customer#acme")["seats"][0] == 9
    assert health(raw) == [(State.OK, "no correction is void", "")]
    raw.deliver(world.line(response_length="5"))
    assert (world.close().void, world.close().void) == (1, 0)
    assert health(raw) == [
        (
            State.WARNING,
            f"the correction of acme's seats in {HOUR} is void: 5 are counted now",
            f"metering recount acme --hour {HOUR}, then the same with --fix",
        )
    ]
    (seats,) = raw.recount("acme")
    assert (seats.recounted, seats.counted, seats.corrected, seats.difference) == (9, 5, 0, 4)
    assert seats.note == "void: the correction of +6 made against a count of 3"
    raw.fix("acme")
    world.close()
    assert world.in_ledger("customer#acme")["seats"][0] == 9
    assert health(raw) == [(State.OK, "no correction is void", "")]


def test_a_void_correction_of_which_nothing_is_missing_is_over_once_somebody_has_looked(raw: Raw, command: Any) -> None:
    """I9: what was missing came after all; that is written down, and said no more."""
    world = raw.world
    raw.declare(Max(name="seats", of="response_length"), at=DEPLOYED + timedelta(minutes=5))
    raw.deliver(world.line(response_length="3"))
    high = world.line(response_length="9")
    ids = raw.log(high)
    close(raw)
    raw.fix("acme")
    world.close()
    world.now += timedelta(minutes=5)
    world.recorder().record(batch_of(ids, [high], Source.ACCESS_LOG, "log-group stream"))
    world.close()
    assert [state for state, _, _ in health(raw)] == [State.WARNING]
    assert command("acme", "--hour", str(HOUR), "--fix")[0] == 0
    world.close()
    assert health(raw) == [(State.OK, "no correction is void", "")]
    assert said(raw.recount("acme"))["seats"] == (9, 9, 9, 0)


def test_of_two_who_mend_an_hour_at_once_one_does(raw: Raw) -> None:
    """I5: each found the same; the second one is told to look again."""
    raw.deliver(raw.world.line())
    raw.log(raw.world.line())
    close(raw)
    works = [Recount(raw.deployment, "acme", raw.world.now) for _ in range(2)]
    found = [next(iter(work.compare(HOUR, NEXT)))[0] for work in works]
    first, second = (work.fix(line, WHO) for work, line in zip(works, found, strict=True))
    assert (first.fixed, second.fixed) == (True, False)
    assert "recount it again" in second.note
    raw.world.close()
    assert raw.world.in_ledger("customer#acme")["requests"][0] == 2


def test_a_delivery_that_came_again_in_other_pieces_is_caught(raw: Raw) -> None:
    """I2: each piece is a batch that the counters have not seen; the records are the same."""
    world = raw.world
    lines = [world.line() for _ in range(4)]
    ids = raw.log(*lines)
    for piece in (slice(0, 4), slice(0, 1), slice(1, 4)):
        world.recorder().record(batch_of(ids[piece], lines[piece], Source.ACCESS_LOG, "log-group stream"))
    close(raw)
    assert said(raw.recount("acme"))["requests"] == (4, 8, 8, -4)
    assert {line.note for line in raw.fix("acme")} == {LOWERS}
    world.close()
    assert world.in_ledger("customer#acme")["requests"][0] == 8
    raw.fix("acme", lower=True)
    world.close()
    assert world.in_ledger("customer#acme")["requests"][0] == 4
    assert not [line for line in raw.recount("acme") if line.stays]


def test_a_difference_on_the_road_over_firehose_is_found_and_mended(raw: Raw) -> None:
    """I1, I2: objects that came an hour late, records that came in two objects, and one that was never counted."""
    world = raw.world
    one, two, three, other = (world.line() for _ in range(4))
    later = world.line(time=moment(NEXT))
    raw.archive(one, two)
    raw.archive(two, three, later, hour=NEXT)
    raw.archive(other, hour=Hour(HOUR.number - 1))
    world.now = NEXT.start + timedelta(minutes=30)
    world.recorder().record(world.batch(one, two))
    world.recorder().record(world.batch(two))
    close(raw)
    assert said(raw.recount("acme"))["requests"] == (4, 3, 3, 1)
    raw.fix("acme")
    world.close()
    assert world.in_ledger("customer#acme")["requests"][0] == 4


def test_a_line_that_comes_later_is_met_by_a_longer_look(raw: Raw) -> None:
    """The look ahead is two hours unless told otherwise."""
    raw.archive(raw.world.line(), hour=Hour(HOUR.number + 3))
    raw.world.now = HOUR.end + timedelta(hours=5)
    raw.world.close()
    assert raw.recount("acme") == []
    assert said(raw.recount("acme", ahead=3))["requests"] == (1, 0, None, 1)


def test_what_was_set_aside_explains_a_difference(raw: Raw) -> None:
    """I1: it waits for its redrive, and a correction would count it a second time."""
    world = raw.world
    early = world.line(time=str(int((world.now + timedelta(minutes=6)).timestamp() * 1000)))
    raw.deliver(world.line(), early)
    close(raw)
    (requests, _) = raw.recount("acme")
    assert (requests.recounted, requests.counted, requests.waiting, requests.difference) == (2, 1, 1, 0)
    assert not [line for line in raw.fix("acme") if line.fixed]
    (batch,) = world.set_aside.batches()
    assert redrive(world.recorder(), {"batch": batch}, deadline=world.now)["counted"] == 1
    (requests, _) = raw.recount("acme")
    assert (requests.recounted, requests.counted, requests.waiting, requests.difference) == (2, 2, 0, 0)


def test_what_an_operator_adjusted_is_no_difference(raw: Raw) -> None:
    """I5: goodwill is not counted, and no recount takes it back."""
    from infra.operate.adjusting import adjust  # noqa: PLC0415

    raw.deliver(*(raw.world.line() for _ in range(3)))
    close(raw)
    adjust(raw.deployment, "acme", "requests", HOUR, by=-2, reason="goodwill", who=WHO, now=raw.world.now)
    raw.world.close()
    assert said(raw.recount("acme"))["requests"] == (3, 3, 1, 0)


def test_a_ledger_that_was_changed_by_hand_is_closed_again(raw: Raw) -> None:
    """I5: what is billed is what the counters say."""
    world = raw.world
    raw.deliver(world.line())
    close(raw)
    row = world.ledger.rows.at(HOUR, [customer("acme")])[customer("acme")]
    wrong = type(row.totals["requests"])(**{**_fields(row.totals["requests"]), "counted": 7})
    world.ledger.rows.save(row.with_totals({"requests": wrong}))
    requests = next(line for line in raw.fix("acme") if line.metric == "requests")
    assert (requests.counted, requests.ledger, requests.stale, requests.fixed) == (1, 7, [HOUR], True)
    world.close()
    assert world.in_ledger("customer#acme")["requests"][0] == 1
    assert not [line for line in raw.recount("acme") if line.stays]


def _fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_a_key_belongs_to_whom_held_it_in_the_hour(raw: Raw) -> None:
    """I3, I6: also to nobody, and then nothing can be corrected."""
    world = raw.world
    world.customer("beta", "key2")
    raw.log(world.line(), world.line(key="key2"), world.line(key="key2"), world.line(key="key9"))
    close(raw)
    lines = {(str(line.subject), line.metric): line for line in raw.fix()}
    assert {where: line.difference for where, line in lines.items() if where[1] == "requests"} == {
        ("customer#acme", "requests"): 1,
        ("customer#beta", "requests"): 2,
        ("key#key9", "requests"): 1,
    }
    unmapped = lines["key#key9", "requests"]
    assert (unmapped.fixed, unmapped.stays, unmapped.note) == (False, True, NO_CUSTOMER)
    assert unmapped.subject == key("key9")
    world.close()
    assert world.in_ledger("customer#beta")["requests"][0] == 2
    assert {str(line.subject) for line in raw.recount("beta")} == {"customer#beta"}


METRICS: tuple[Metric, ...] = (
    Count(name="requests", by="resource"),
    Count(name="reads", statuses=("2xx", "404"), methods=("GET",), resources=("/items/*", "/a")),
    Count(name="classes", statuses=("2xx", "4xx", "5xx"), by="status_class", meters=("2xx", "4xx")),
    Count(name="orders", apis=("orders", "b1b2c3d4e5"), by="api", meters=("orders", "carts")),
    Count(name="stages", by="stage", meters=("v1",)),
    Sum(name="first", of="response_length", stages=("v1", "$default"), by="api"),
    Sum(name="units", of="authorizer.units", scale=2),
    Sum(name="bytes", of="response_length", by="authorizer.plan", meters=("pro", "free tier")),
    Max(name="seats", of="authorizer.seats", scale=1),
    Unique(name="users", of="authorizer.user", opaque_id=True),
    Unique(name="keys", of="key"),
    Sum(name="tokens", of=USAGE_LINES, scale=1),
    Sum(name="jobs", of=USAGE_LINES, deduplicate=True),
    Max(name="stored", of=USAGE_LINES),
)


def random_line(chance: random.Random, world: World, hour: Hour) -> str:
    """Return a line as any caller may cause it, and some that are broken."""
    pick = chance.choice
    line = world.line(
        time=moment(hour, chance.randrange(60)),
        key=pick(["key1", "key2", "key3", "key9", "-"]),
        status=pick(["200", "204", "302", "404", "429", "500"]),
        method=pick(["GET", "POST"]),
        resource=pick(["/items/{id}", "/a", "/b"]),
        api_id=pick(["orders", "carts", "b1b2c3d4e5"]),
        stage=pick(["v1", "v2", "$default"]),
        response_length=pick(["0", "17", "-", "1000"]),
        **{
            "authorizer.units": pick(["-", "", "1", "2.5", "0.01", "1.001", "x"]),
            "authorizer.plan": pick(["-", "pro", "free tier", "basic"]),
            "authorizer.seats": pick(["-", "3", "7.5"]),
            "authorizer.user": pick(["-", "ann", "bob", "eve", "x" * 257]),
        },
    )
    forged = line.replace('"status":', '"key":"key1","status":')
    return pick([line] * 30 + [line[:-1], line.replace('"GET"', '"GE\\"T"'), forged, "null"])


def random_report(chance: random.Random, hour: Hour) -> str:
    """Return a usage line, or something like it."""
    pick = chance.choice
    who: Mapping[str, str] = pick([{"key": "key1"}, {"customer": "acme"}, {"key": "key2"}, {}])
    amounts: Mapping[str, Any] = pick([{"tokens": 1.5}, {"jobs": 1}, {"stored": 5, "tokens": 2}, {"nonsense": 1}])
    name = pick(["a", "b", "c", "d"])
    return json.dumps({"usage": {"id": name, "time": int(moment(hour)), **who, **amounts}})


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_kind_of_metric_is_recounted_as_it_was_counted(raw: Raw, seed: int) -> None:
    """I5: two ways from a line to a bill, which have nothing in common but the format, agree on whatever comes."""
    chance, world = random.Random(seed), raw.world
    raw.declared_ever_since(*METRICS)
    world.customer("beta", "key2", "key3")
    begin = HOUR.month_begin
    hours = [begin, begin.next()]
    world.now = begin.start
    world.ledger.progress.advance_cursor(begin)
    for hour in hours:
        for _ in range(3):
            world.now = hour.start + timedelta(minutes=59)
            raw.deliver(*(random_line(chance, world, hour) for _ in range(40)), hour=hour)
            reports = [random_report(chance, hour) for _ in range(5)]
            raw.deliver(*reports, source=Source.USAGE_LINES, hour=hour)
    world.now = hours[-1].end + timedelta(minutes=10)
    lines = raw.recount(first=begin, end=hours[-1].next())
    assert {line.metric for line in lines} >= {
        "classes_other",
        "orders_other",
        "stages_v1",
        "first",
        "bytes_free_tier",
        "users",
        "keys",
        "jobs",
        "stored",
    }
    assert [line for line in lines if line.difference] == []
    assert sum(line.recounted for line in lines) > 1000


def test_distinct_values_are_compared_by_month(raw: Raw) -> None:
    """The hour in which a value counts is the one in which it came first; a lost one is entered in some hour."""
    world = raw.world
    raw.declared_ever_since(Unique(name="users", of="authorizer.user", opaque_id=True))
    begin = HOUR.month_begin
    raw.deliver(world.line(**{"authorizer.user": "ann"}), world.line(**{"authorizer.user": "bob"}))
    raw.log(world.line(**{"authorizer.user": "bob"}), world.line(**{"authorizer.user": "eve"}))
    world.now = HOUR.end + timedelta(minutes=10)
    work = Recount(raw.deployment, "acme", world.now)
    assert work.months_left_out(HOUR, NEXT) == ["2026-11"]
    assert work.months_left_out(begin, NEXT) == []
    assert raw.recount("acme") == []
    (line,) = raw.recount("acme", first=begin)
    assert (line.period, line.recounted, line.counted, line.difference, line.at) == ("2026-11", 3, 2, 1, HOUR)
    world.close()
    work.fix(line, WHO)
    world.close()
    assert world.in_ledger("customer#acme")["users"][0] == 3
    assert [one.difference for one in raw.recount("acme", first=begin)] == [0]


def test_only_hours_that_are_over_and_not_too_old_are_recounted(raw: Raw) -> None:
    """Lines may still be on their way, or counters have expired."""
    with pytest.raises(OperatorError, match="may still be on their way: recount up to 2026-11-22T05"):
        raw.recount("acme")
    raw.world.now = HOUR.end + timedelta(days=61)
    with pytest.raises(OperatorError, match="only the last 61 days can be recounted"):
        raw.recount("acme")


def test_a_line_that_came_a_day_late_lowers_no_bill(raw: Raw) -> None:
    """I1: less was logged in the hours that were looked at than counted, so all hours up to now are."""
    world = raw.world
    world.now = HOUR.end + timedelta(days=1)
    late = world.line()
    raw.archive(late, hour=Hour(HOUR.number + 24))
    world.record(late)
    world.close()
    assert said(raw.recount("acme")) == {"requests": (1, 1, 1, 0), "bytes": (10, 10, 10, 0)}
    assert not [line for line in raw.fix("acme", lower=True) if line.fixed]
    world.close()
    assert world.in_ledger("customer#acme")["requests"][0] == 1


def test_hours_that_are_looked_at_again_come_last(raw: Raw) -> None:
    """Those before and after them are shown, and mended, as soon as they are read."""
    world = raw.world
    for number in range(3):
        hour = Hour(HOUR.number + number)
        world.now = hour.start + timedelta(minutes=59)
        lines = [world.line(time=moment(hour)) for _ in range(2)]
        raw.deliver(*lines[: 1 + number % 2], hour=hour)
    world.record(world.line())
    world.now = Hour(HOUR.number + 3).start + timedelta(hours=3)
    world.close()
    compared = [line for line in raw.recount("acme", end=Hour(HOUR.number + 3)) if line.metric == "requests"]
    assert [(line.period, line.difference) for line in compared] == [
        (str(Hour(HOUR.number + 1)), 0),
        (str(Hour(HOUR.number + 2)), 0),
        (str(HOUR), -1),
    ]


# --- what the log no longer holds ------------------------------------------------------------------------------------


def keep(group: str, days: int) -> None:
    """Let a log group keep lines for so long."""
    boto3.client("logs").put_retention_policy(logGroupName=group, retentionInDays=days)


def forget(group: str) -> None:
    """Let a log group lose its lines, as CloudWatch Logs does by then."""
    boto3.client("logs").delete_log_stream(logGroupName=group, logStreamName="stream")


def test_what_the_log_keeps_no_longer_is_no_difference(raw: Raw) -> None:
    """I5: an hour of which lines have expired is refused, with the first one that can be recounted."""
    world = raw.world
    raw.deliver(*(world.line() for _ in range(20)))
    close(raw)
    keep(ACCESS_LOG_GROUP, 7)
    world.now = HOUR.end + timedelta(days=10)
    forget(ACCESS_LOG_GROUP)
    with pytest.raises(OperatorError) as refused:
        raw.fix(lower=True)
    first = Hour.containing(world.now - timedelta(days=7) + timedelta(hours=2)).next()
    assert str(refused.value) == (
        f"{HOUR} is no longer wholly in the log: the log group {ACCESS_LOG_GROUP} keeps lines for 7 days: "
        f"the first hour that can be recounted is {first}"
    )
    with pytest.raises(OperatorError, match="no longer wholly"):
        raw.recount(first=Hour(first.number - 1), end=first)
    assert raw.recount(first=first, end=first.next()) == []
    world.close()
    assert world.in_ledger("customer#acme")["requests"][0] == 20


@pytest.mark.parametrize(
    ("rule", "refused"),
    [
        ({"Filter": {"Prefix": "access-log/"}, "Expiration": {"Days": 5}}, True),
        ({"Filter": {}, "Expiration": {"Days": 5}}, True),
        ({"Prefix": "", "Expiration": {"Days": 5}}, True),
        ({"Filter": {"Prefix": "set-aside/"}, "Expiration": {"Days": 5}}, False),
        ({"Filter": {"Tag": {"Key": "metering", "Value": "done"}}, "Expiration": {"Days": 5}}, False),
        ({"Filter": {"Prefix": "access-log/"}, "NoncurrentVersionExpiration": {"NoncurrentDays": 5}}, False),
    ],
)
def test_what_the_bucket_keeps_no_longer_is_no_difference(raw: Raw, rule: dict[str, Any], *, refused: bool) -> None:
    """I5: by the rules that are about the archive; and only where there ever was one."""
    world = raw.world
    off: Any = {"Status": "Disabled", "Prefix": "", "Expiration": {"Days": 1}}
    on: Any = {"Status": "Enabled", **rule}
    boto3.client("s3").put_bucket_lifecycle_configuration(Bucket="bucket", LifecycleConfiguration={"Rules": [on, off]})
    world.now = HOUR.end + timedelta(days=10)
    assert raw.recount("acme") == []
    raw.archive(world.line(), hour=Hour(HOUR.number + 200))
    if refused:
        with pytest.raises(OperatorError, match="s3://bucket/access-log/ keeps lines for 5 days"):
            raw.recount("acme")
    else:
        assert raw.recount("acme") == []


@dataclass
class Stream:
    """Firehose's client, as far as it tells when its stream was made."""

    made: datetime

    def describe_delivery_stream(self, **_: str) -> dict[str, Any]:
        """Return that."""
        return {"DeliveryStreamDescription": {"CreateTimestamp": self.made}}


@pytest.mark.usefixtures("raw")
def test_over_firehose_the_log_group_matters_for_hours_of_the_other_road_alone() -> None:
    """I5: once the stream was there, lines are in the archive, whatever the log group keeps."""
    keep(ACCESS_LOG_GROUP, 1)
    now = HOUR.end + timedelta(days=10)
    logs: Any = boto3.client("logs")
    archive = Archive(boto3.client("s3"), logs, "bucket", ACCESS_LOG_GROUP, [])
    places = Places(archive, Stream(NEXT.start + timedelta(minutes=20)), "stream", now)
    named = [
        [one.place for one in places.of_access_log(hour, hour.next())] for hour in (HOUR, NEXT, Hour(NEXT.number + 2))
    ]
    group, objects = f"the log group {ACCESS_LOG_GROUP}", "s3://bucket/access-log/"
    assert named == [[group, objects], [group, objects], [objects]]


def test_usage_lines_that_are_gone_are_left_out_and_requests_are_not(raw: Raw) -> None:
    """I5: your own code's log is often kept for a week; the access log may be whole."""
    world = raw.world
    at = DEPLOYED + timedelta(minutes=5)
    raw.declare(Count(name="requests"), Sum(name="tokens", of=USAGE_LINES), at=at)
    usage = {"id": "a", "time": int(moment(HOUR)), "key": "key1", "tokens": 5}
    raw.deliver(json.dumps({"usage": usage}), source=Source.USAGE_LINES)
    raw.deliver(world.line())
    close(raw)
    assert said(raw.recount("acme")) == {"requests": (1, 1, 1, 0), "tokens": (5, 5, 5, 0)}
    keep(JOBS_LOG, 3)
    world.now = HOUR.end + timedelta(days=10)
    forget(JOBS_LOG)
    work = Recount(raw.deployment, "acme", world.now)
    assert said(next(iter(work.compare(HOUR, NEXT)))) == {"requests": (1, 1, 1, 0)}
    assert "the log group jobs keeps lines for 3 days" in work.usage_lines_left_out(HOUR, NEXT)
    today = Hour.containing(world.now)
    assert work.usage_lines_left_out(today, today.next()) == ""


def test_a_log_that_was_made_anew_lowers_no_bill(raw: Raw) -> None:
    """I5: what was logged before is not in it; what is there and was not counted is brought in."""
    world = raw.world
    raw.deliver(*(world.line() for _ in range(3)))
    close(raw)
    logs = boto3.client("logs")
    logs.delete_log_group(logGroupName=ACCESS_LOG_GROUP)
    logs.create_log_group(logGroupName=ACCESS_LOG_GROUP)
    (requests, _) = raw.fix("acme", lower=True)
    assert (requests.difference, requests.fixed) == (-3, False)
    assert "was made later than this hour began: it is never lowered" in requests.note


# --- what was in force -----------------------------------------------------------------------------------------------

LATER = Hour(HOUR.number + 6)


def bill_otherwise(raw: Raw, *metrics: Metric) -> None:
    """Let an hour be closed, and other metrics be deployed six hours later."""
    close(raw)
    raw.declare(*metrics, at=LATER.start + timedelta(minutes=30))
    raw.world.now = LATER.end + timedelta(hours=3)


def test_a_metric_that_is_new_bills_nothing_of_before(raw: Raw) -> None:
    """I5: neither in the hour in which it was deployed, of which nobody knows what was counted."""
    world = raw.world
    raw.declare(Count(name="requests"), at=DEPLOYED + timedelta(minutes=5))
    raw.deliver(*(world.line(method="POST") for _ in range(20)))
    raw.deliver(world.line(method="POST", time=moment(LATER, 5)), hour=LATER)
    bill_otherwise(raw, Count(name="requests"), Count(name="writes", methods=("POST",)))
    for hour in (HOUR, LATER):
        assert not [line for line in raw.fix(hour=hour) if line.metric == "writes" or line.fixed]
    world.close()
    assert {*world.in_ledger("customer#acme"), *world.in_ledger("customer#acme", LATER)} == {"requests"}
    after = LATER.next()
    raw.log(world.line(method="POST", time=moment(after)), hour=after)
    assert said(raw.fix("acme", hour=after))["writes"] == (1, 0, None, 1)


def test_a_metric_that_got_meters_of_its_own_is_not_billed_twice(raw: Raw) -> None:
    """I5: the hours before are recounted by what was declared then, and what was lost then is brought in so."""
    world = raw.world
    raw.declare(Count(name="requests"), at=DEPLOYED + timedelta(minutes=5))
    raw.deliver(*(world.line() for _ in range(20)))
    raw.log(world.line())
    bill_otherwise(raw, Count(name="requests", by="method", meters=("GET",)))
    assert said(raw.fix("acme")) == {"requests": (21, 20, 20, 1)}
    world.close()
    assert {metric: quantity for metric, (quantity, _) in world.in_ledger("customer#acme").items()} == {"requests": 21}


def test_another_filter_or_scale_changes_no_bill_of_before(raw: Raw) -> None:
    """I5: wider or narrower; and back again is a change like any other."""
    world = raw.world
    before = (Count(name="requests"), Sum(name="units", of="authorizer.units", scale=1))
    raw.declare(*before, at=DEPLOYED + timedelta(minutes=5))
    for status in ("200", "200", "404"):
        raw.deliver(world.line(status=status, **{"authorizer.units": "1.5"}))
    wider = Count(name="requests", statuses=("2xx", "4xx"))
    bill_otherwise(raw, wider, Sum(name="units", of="authorizer.units", scale=2))
    assert said(raw.fix("acme", lower=True)) == {"requests": (2, 2, 2, 0), "units": (30, 30, 30, 0)}
    raw.declare(*before, at=LATER.end + timedelta(hours=1))
    between = LATER.next()
    world.now = LATER.end + timedelta(hours=5)
    raw.log(world.line(status="404", time=moment(between), **{"authorizer.units": "1"}), hour=between)
    assert raw.recount("acme", first=LATER, end=between) == []
    assert said(raw.recount("acme", first=between.next(), end=Hour(between.number + 2))) == {}


def test_hours_of_before_the_first_note_are_never_lowered_and_get_no_new_metric(raw: Raw) -> None:
    """I5: an older version noted nothing, so that today's metrics may be others than those of then."""
    world = raw.world
    raw.forget_notes()
    two = [world.line(method="POST"), world.line()]
    ids = raw.log(*two)
    for some in (slice(0, 2), slice(0, 1)):
        world.recorder().record(batch_of(ids[some], two[some], Source.ACCESS_LOG, "log-group stream"))
    bill_otherwise(raw, Count(name="requests"), Count(name="writes", methods=("POST",)))
    lines = {line.metric: line for line in raw.fix("acme", lower=True)}
    assert {metric: (line.difference, line.note, line.fixed) for metric, line in lines.items()} == {
        "requests": (-1, NEVER_LOWERED, False),
        "writes": (1, UNKNOWN, False),
    }
    raw.log(world.line(), world.line())
    raw.fix("acme")
    world.close()
    assert world.in_ledger("customer#acme")["requests"][0] == 4
    assert "writes" not in world.in_ledger("customer#acme")


def test_distinct_values_are_compared_only_where_a_whole_month_was_declared_alike(raw: Raw) -> None:
    """I5: the hour of a value is that in which it came first, so that a part of a month says nothing."""
    world = raw.world
    raw.log(world.line(**{"authorizer.user": "ann"}))
    raw.declare(Unique(name="users", of="authorizer.user", opaque_id=True), at=HOUR.start + timedelta(minutes=5))
    world.now = HOUR.end + timedelta(hours=1)
    assert raw.recount("acme", first=HOUR.month_begin) == []


@dataclass
class Unpaged:
    """CloudWatch Logs as the emulator plays it: no more than the limit, and no next page."""

    times: list[int]
    calls: int = 0

    def filter_log_events(self, **asked: Any) -> dict[str, Any]:
        """Return the first of what was asked for."""
        self.calls += 1
        found = [time for time in self.times if asked["startTime"] <= time <= asked["endTime"]]
        return {"events": [{"eventId": str(n), "message": str(time)} for n, time in enumerate(found[:4])]}


def test_an_answer_that_may_be_cut_off_is_asked_for_in_narrower_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator knows no pages."""
    monkeypatch.setattr(raw_log, "MOST_EVENTS", 4)
    begin = int(HOUR.start.timestamp() * 1000)
    logs = Unpaged([begin + n * 1000 for n in range(50)])
    archive = Archive(None, logs, "bucket", ACCESS_LOG_GROUP, [JOBS_LOG])
    assert [line for _, line in archive.usage_lines(HOUR)] == [str(time) for time in logs.times]
    assert logs.calls < 150


def test_pages_are_followed(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    """On AWS an answer that names a next page is no reason to ask again."""
    monkeypatch.setattr(raw_log, "MOST_EVENTS", 10)
    raw.log(*(raw.world.line() for _ in range(25)))
    close(raw)
    assert said(raw.recount("acme"))["requests"][0] == 25


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(raw: Raw, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run 'metering recount' on the deployment; return its exit code, stdout and stderr."""
    monkeypatch.setattr("infra.cli.shared._connect", lambda *_: raw.deployment)
    monkeypatch.setattr("infra.cli.recount.now", raw.world.clock)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["metering", "recount", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        hold(("recount", *arguments), said.out)
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_the_command_shows_what_differs_and_mends_it(raw: Raw, command: Any) -> None:
    """Exit code 1 as long as something differs."""
    raw.deliver(raw.world.line())
    raw.log(raw.world.line())
    close(raw)
    code, out, err = command("acme", "--hour", str(HOUR))
    assert (code, err) == (1, "0 equal, 0 fixed, 2 different\n")
    assert out.splitlines()[1].split() == [str(HOUR), "acme", "requests", "2", "1", "1", "-", "-", "+1"]
    code, out, err = command("--all", "--from", str(HOUR), "--fix")
    assert (code, err) == (0, "0 equal, 2 fixed, 0 different\n")
    assert out.splitlines()[1].split() == [str(HOUR), "acme", "requests", "2", "1", "1", "-", "-", "+1", "fixed"]
    raw.world.close()
    assert command("--all", "--hour", str(HOUR)) == (0, "", "2 equal, 0 fixed, 0 different\n")
    (change,) = [one for one in raw.deployment.changes.of("acme", HOUR) if one.metric == "requests"]
    assert change.who == "arn:aws:sts::123456789012:user/moto"


def test_the_command_prints_one_document(raw: Raw, command: Any) -> None:
    """For programs."""
    raw.log(raw.world.line(key="key9"))
    close(raw)
    code, out, _ = command("--all", "--hour", str(HOUR), "--json", "--fix")
    document = json.loads(out)
    assert (code, len(document)) == (1, 2)
    assert document[0] == {
        "period": str(HOUR),
        "customer": None,
        "key": "key9",
        "metric": "requests",
        "recounted": 1,
        "counted": 0,
        "ledger": None,
        "corrected": 0,
        "set_aside": 0,
        "difference": 1,
        "lowers": False,
        "stale": [],
        "fixed": False,
        "note": NO_CUSTOMER,
    }


# --- objects ---------------------------------------------------------------------------------------------------------


def test_objects_are_read_gzipped_or_not() -> None:
    """Firehose's are; the emulator's are not. Zeros fill up a block; a line that is no UTF-8 spoils no other."""
    plain = b'{"a": 1}\n\n\xff\n{"b": 2}'
    one, other = gzip.compress(plain[:12]), gzip.compress(plain[12:])
    for body in (plain, one + other, one + b"\0" * 9 + other, one + other + b"\0" * 600):
        assert list(lines_of(io.BytesIO(body))) == ['{"a": 1}', "\\xff", '{"b": 2}']


def taken(lines: Iterator[str]) -> tuple[list[str], bool]:
    """Return the lines before an object breaks off, and whether it does."""
    found: list[str] = []
    try:
        found.extend(lines)
    except (BrokenObjectError, PayloadError):
        return found, True
    return found, False


def counted(body: bytes) -> Iterator[str]:
    """Yield the lines that are counted of an object."""
    return (line for chunk in payloads.batches([body], "o") for piece in chunk.pieces() for _, line in piece.lines())


def test_what_was_counted_of_a_broken_object_is_what_is_recounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """I5: wherever it is cut off: whole chunks, and of a small object nothing."""
    assert raw_log.CHUNK == payloads.CHUNK == 12 * 1024 * 1024
    for module in (payloads, raw_log):
        monkeypatch.setattr(module, "CHUNK", 100)
    lines = [f"line {number} {'x' * (number % 30)}" for number in range(40)]
    whole = gzip.compress("\n".join(lines[:25]).encode()) + gzip.compress("\n".join(["", *lines[25:]]).encode())
    lengths = set()
    for end in range(2, len(whole)):
        found, is_broken = taken(lines_of(io.BytesIO(whole[:end])))
        assert (found, is_broken) == taken(counted(whole[:end]))
        assert found == lines[: len(found)]
        lengths.add(len(found))
    assert len(lengths) > 5
    assert taken(lines_of(io.BytesIO(whole))) == (lines, False)
    assert taken(lines_of(io.BytesIO(whole + b"more"))) == taken(counted(whole + b"more"))


@pytest.mark.parametrize("damage", ["cut off", "another end", "no gzip behind its beginning"])
def test_a_broken_object_is_told_and_stops_no_recount(raw: Raw, command: Any, damage: str) -> None:
    """I1, I5: nobody is billed by what was refused; the objects around it are recounted."""
    world = raw.world
    before, inside, after = (world.line() for _ in range(3))
    whole = gzip.compress(f"{inside}\n".encode())
    body = {"cut off": whole[:-5], "another end": whole + b"and more", "no gzip behind its beginning": b"\x1f\x8b" * 9}
    raw.archive(before, name="a")
    key = f"access-log/{HOUR.start:%Y/%m/%d/%H}/b.gz"
    boto3.client("s3").put_object(Bucket="bucket", Key=key, Body=body[damage])
    raw.archive(after, name="c")
    world.recorder().record(world.batch(before, after))
    close(raw)
    code, _, err = command("acme", "--hour", str(HOUR), "--fix")
    assert code == 0
    assert err.splitlines() == [
        "2 equal, 0 fixed, 0 different",
        f"{key} is not gzip to its end: nothing after its last whole chunk is counted, here or there",
    ]
