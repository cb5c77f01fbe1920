"""Recount: lines of stages that somebody else deployed are counted again, each by how its log group was read then."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import boto3
import msgspec
import pytest

from infra.local.aws.log_line import render
from infra.operate.deployment import OperatorError
from infra.operate.recount.recount import Recount
from metering.counting.log_groups import LogGroups
from metering.counting.payloads import LogEvent, Subscription
from metering.model.connections import Connection, Form, StageLog
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import USAGE_LINES, Count, Sum, declared
from metering.model.periods import Hour
from metering.stores.set_aside import SetAsideBatch, SetAsideLine
from tests.doubles.access_log import NONCE
from tests.integration.raw import DEPLOYED, NEXT, Raw, close, said
from tests.integration.their_stage import CALLED, ORDERS, THEIR_FORMAT, THEIR_LOG, connect, theirs
from tests.integration.world import ACCESS_LOG_GROUP, HOUR, moment


def recounted(raw: Raw, hour: Hour = HOUR) -> dict[str, int]:
    """Return how many requests the archive holds of an hour, by source."""
    work = Recount(raw.deployment, None, raw.world.now)
    ((_, tally),) = work._raw.tallies(hour, hour.next(), raw.world.now)
    return {source: amount for (source, meter), amount in tally.ready.amounts.items() if meter == "requests"}


def test_lines_in_a_stages_own_format_are_recounted_for_its_callers(raw: Raw) -> None:
    """I5: the log group of a connection is read beside our own; a caller is no key of that name."""
    raw.world.customer("beta", "orders:ann")
    connect(raw, ORDERS)
    raw.log(theirs(1), theirs(2), theirs(2), theirs(3, status="404"), group=THEIR_LOG)
    nobodys, named_as_a_key = {"authorizer.claims.sub": "-"}, {"authorizer.claims.sub": "key1"}
    raw.log(theirs(4, **nobodys), theirs(5, **named_as_a_key), group=THEIR_LOG)
    raw.deliver(raw.world.line())
    close(raw)
    assert recounted(raw) == {"key1": 1, "orders:ann": 2, "orders:key1": 1}
    requests = said(raw.recount("beta"))["requests"]
    assert requests == (2, 0, None, 2)


def test_a_line_that_is_not_in_the_stages_format_is_told(raw: Raw) -> None:
    """I1: it lies among what was set aside."""
    connect(raw, ORDERS)
    raw.log(theirs(1), "nonsense", theirs(2, status="oops"), theirs(3, routeKey='GET /"'), group=THEIR_LOG)
    close(raw)
    work = Recount(raw.deployment, None, raw.world.now)
    list(work.compare(HOUR, NEXT))
    assert work.unreadable == 3


def test_only_what_was_written_while_a_stage_was_connected_is_recounted(raw: Raw) -> None:
    """Five minutes earlier, too, if it came into the log group later; what was there before was never delivered."""
    since = HOUR.start + timedelta(minutes=29)
    began = replace_times(ORDERS, since=since, until=HOUR.start + timedelta(minutes=40))
    connect(raw, began)
    logs: Any = boto3.client("logs")
    minute = 60_000

    def write(*minutes_after: int, number: int, came: timedelta) -> None:
        raw.world.now = since + came
        at = int(since.timestamp() * 1000)
        events = [{"timestamp": at + after * minute, "message": theirs(10 * number + after)} for after in minutes_after]
        logs.put_log_events(logGroupName=THEIR_LOG, logStreamName="stream", logEvents=events)

    write(-6, -1, number=1, came=timedelta(minutes=-1))
    write(-6, -4, 0, number=3, came=timedelta(minutes=1))
    write(10, 11, number=5, came=timedelta(minutes=11))
    raw.world.now = HOUR.end + timedelta(hours=1)
    assert recounted(raw) == {"orders:ann": 3}
    assert recounted(raw, NEXT) == {}


def replace_times(connection: Connection, **times: Any) -> Connection:
    """Return a connection of other times."""
    return msgspec.structs.replace(connection, **{name: int(time.timestamp() * 1000) for name, time in times.items()})


def test_a_stage_that_shares_its_log_group_has_its_own_lines_alone(raw: Raw) -> None:
    """I7: those of other stages are nobody's, and no fault; two stages that are connected have each theirs."""
    shared = THEIR_FORMAT.replace('{"id"', '{"api":"$context.apiId","stage":"$context.stage","id"')
    orders = msgspec.structs.replace(ORDERS, shares_log=True, after=StageLog("arn", shared))
    other = msgspec.structs.replace(orders, name="quotes", stage="v2", since=orders.since + 1)
    connect(raw, orders, other)
    lines = [
        render(shared, CALLED | {"requestId": f"r{number}=", "apiId": api, "stage": stage})
        for number, (api, stage) in enumerate(
            [("a1b2c3d4e5", "$default"), ("a1b2c3d4e5", "v2"), ("a1b2c3d4e5", "v3"), ("zzzzzzzzzz", "v2")]
        )
    ]
    raw.log(*lines, "GET /of/a/stage/with/another/format", group=THEIR_LOG)
    close(raw)
    assert recounted(raw) == {"orders:ann": 1, "quotes:ann": 1}
    work = Recount(raw.deployment, None, raw.world.now)
    list(work.compare(HOUR, NEXT))
    assert work.unreadable == 0


def test_our_format_at_a_connected_stage_is_recounted(raw: Raw) -> None:
    """A caller without a value is none, although its connection's name stands in front of it."""
    log = AccessLog(Api.HTTP, "authorizer.claims.sub", "orders")
    group = "/aws/vendedlogs/metering/Metering/guid/orders"
    connect(
        raw, msgspec.structs.replace(ORDERS, form=Form.OURS, log_group=group, after=StageLog("arn", log.format(NONCE)))
    )
    called = CALLED | {"requestTimeEpoch": moment(HOUR)}
    nobodys = called | {"authorizer.claims.sub": "", "requestId": "other="}
    others = AccessLog(Api.HTTP, "authorizer.claims.sub", "quotes").format(NONCE)
    raw.log(render(log.format(NONCE), called), render(log.format(NONCE), nobodys), group=group)
    raw.log(theirs(), render(others, called | {"requestId": "third="}), group=group)
    close(raw)
    assert recounted(raw) == {"orders:ann": 1}


@pytest.mark.parametrize("rest", ["}", ',"path":"$context.path"}', ',"path":$context.path,"a":{"b":1}}'])
def test_our_line_in_front_of_theirs_is_recounted(raw: Raw, rest: str) -> None:
    """What stands behind it is theirs, and may be anything."""
    log = AccessLog(Api.HTTP, "authorizer.claims.sub", "orders")
    extended = f'{{"metering":{log.format(NONCE)}{rest}'
    connect(raw, msgspec.structs.replace(ORDERS, form=Form.EXTENDED, after=StageLog("arn", extended)))
    called = CALLED | {"requestTimeEpoch": moment(HOUR), "path": '"}}{"metering":{"key":"key1"'}
    ours = render(extended, called, raw=True)
    forged = ours.replace('"ann"', '"ann","status":"200"')
    raw.log(ours, forged, theirs(), f" {ours.replace('JKJ', 'KKJ')}", group=THEIR_LOG)
    close(raw)
    assert recounted(raw) == {"orders:ann": 1}


def test_lines_of_others_in_an_extended_stages_log_group_are_no_fault(raw: Raw) -> None:
    """Where stages share it, those that were not extended write as they did."""
    log = AccessLog(Api.HTTP, "authorizer.claims.sub", "orders")
    extended = f'{{"metering":{log.format(NONCE)}}}'
    connect(raw, msgspec.structs.replace(ORDERS, form=Form.EXTENDED, after=StageLog("arn", extended), shares_log=True))
    raw.log(theirs(), render(extended, CALLED | {"requestTimeEpoch": moment(HOUR)}), group=THEIR_LOG)
    close(raw)
    work = Recount(raw.deployment, None, raw.world.now)
    list(work.compare(HOUR, NEXT))
    assert work.unreadable == 0
    assert recounted(raw) == {"orders:ann": 1}


def test_a_log_group_that_keeps_all_since_it_was_connected_is_whole(raw: Raw) -> None:
    """I5: what it had before is no line of ours."""
    raw.deliver(raw.world.line())
    close(raw)
    raw.world.now = HOUR.end + timedelta(days=10)
    connect(raw, replace_times(ORDERS, since=raw.world.now - timedelta(days=1)))
    boto3.client("logs").put_retention_policy(logGroupName=THEIR_LOG, retentionInDays=3)
    lines = raw.recount("acme", end=Hour.containing(raw.world.now - timedelta(hours=1)))
    assert [(line.period, line.recounted) for line in lines if line.metric == "requests" and line.recounted] == [
        (str(HOUR), 1)
    ]


def test_a_log_group_of_usage_lines_is_read_while_it_is_connected(raw: Raw) -> None:
    """Beside those that the app meters itself."""
    raw.declare(Count(name="requests"), Sum(name="tokens", of=USAGE_LINES), at=DEPLOYED + timedelta(minutes=5))
    jobs = msgspec.structs.replace(
        replace_times(ORDERS, until=HOUR.start + timedelta(minutes=31)),
        name="nightly",
        form=Form.USAGE,
        log_group="/their/nightly",
        api=None,
        api_id="",
        stage="",
        caller=None,
    )
    connect(raw, jobs)

    def report(name: str, hour: Hour) -> str:
        return json.dumps({"usage": {"id": name, "time": int(moment(hour)), "key": "key1", "tokens": 5}})

    raw.log(report("a", HOUR), "hello", group="/their/nightly")
    raw.log(report("b", NEXT), group="/their/nightly", hour=NEXT)
    raw.log(report("c", HOUR), group="jobs")
    raw.world.now = NEXT.end + timedelta(hours=1)
    work = Recount(raw.deployment, None, raw.world.now)
    found = {
        str(hour): amount
        for hour, tally in work._raw.tallies(HOUR, NEXT.next(), raw.world.now)
        for amount in tally.ready.amounts.values()
    }
    assert found == {str(HOUR): 10}


def test_a_statement_for_many_log_groups_names_none_of_usage_lines(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the log groups of connections ends in a star; how a connected one is read, the ledger says."""
    connect(raw, ORDERS)
    groups = ["/aws/vendedlogs/metering/Metering/guid/*", "*", THEIR_LOG, "jobs"]
    monkeypatch.setattr("tests.integration.raw.INVOKING", groups)
    raw.declare(Sum(name="tokens", of=USAGE_LINES), at=DEPLOYED + timedelta(minutes=5))
    work = Recount(raw.deployment, None, raw.world.now)
    assert work._archive.usage_log_groups == ["jobs"]


def test_what_a_connections_log_group_keeps_no_longer_is_no_difference(raw: Raw) -> None:
    """I5: an hour of which its lines have expired is refused, for the time in which it was connected alone."""
    began = replace_times(ORDERS, since=NEXT.start + timedelta(minutes=10))
    connect(raw, began)
    raw.deliver(raw.world.line())
    close(raw)
    boto3.client("logs").put_retention_policy(logGroupName=THEIR_LOG, retentionInDays=3)
    raw.world.now = HOUR.end + timedelta(days=10)
    assert said(raw.recount("acme"))["requests"] == (1, 1, 1, 0)
    with pytest.raises(OperatorError, match="the log group /their/orders of orders keeps lines for 3 days"):
        raw.recount("acme", first=NEXT, end=Hour(NEXT.number + 1))


def test_a_log_group_that_is_gone_stops_the_recount_of_no_other_hour(raw: Raw) -> None:
    """Somebody else deleted it after it was disconnected: what was counted of it is compared no more."""
    connect(raw, replace_times(ORDERS, until=HOUR.start - timedelta(minutes=10)))
    boto3.client("logs").delete_log_group(logGroupName=THEIR_LOG)
    raw.deliver(raw.world.line())
    close(raw)
    assert said(raw.recount("acme"))["requests"] == (1, 1, 1, 0)
    with pytest.raises(OperatorError, match="the log group /their/orders, which is not there, of orders"):
        raw.recount("acme", first=Hour(HOUR.number - 1))


def test_the_hour_in_which_a_stage_was_connected_is_never_lowered(raw: Raw) -> None:
    """I5: which lines were delivered first, nobody knows to the second."""
    raw.world.customer("beta", "orders:ann")
    connect(raw, replace_times(ORDERS, since=HOUR.start + timedelta(minutes=10)))
    raw.world.record(raw.world.line(key="orders:ann"))
    close(raw)
    (requests, _) = raw.fix("beta", lower=True)
    assert (requests.difference, requests.fixed) == (-1, False)
    assert "the log group /their/orders of orders was made later than this hour began" in requests.note


def test_what_was_set_aside_of_a_connections_lines_explains_a_difference(raw: Raw) -> None:
    """By the id of its record, whichever format it stands in."""
    raw.world.customer("beta", "orders:ann")
    connect(raw, ORDERS)
    raw.log(theirs(1), theirs(2), group=THEIR_LOG)
    line = SetAsideLine("1", theirs(2), "too early")
    batch = SetAsideBatch("0" * 24, "access log", f"{THEIR_LOG} stream", (line,))  # type: ignore[arg-type]
    raw.world.set_aside.keep(batch)
    close(raw)
    (requests,) = [one for one in raw.recount("beta") if one.metric == "requests"]
    assert (requests.recounted, requests.waiting, requests.difference) == (2, 1, 1)


def test_a_connection_that_has_moved_to_another_log_group_is_read_in_both(raw: Raw) -> None:
    """What the ledger says of its first log group stays."""
    half = HOUR.start + timedelta(minutes=30)
    first = replace_times(ORDERS, until=half)
    second = replace_times(msgspec.structs.replace(ORDERS, log_group="/their/other", version=1), since=half)
    connect(raw, first, second)
    logs: Any = boto3.client("logs")
    raw.world.now = HOUR.end
    for number, (group, minutes) in enumerate([(THEIR_LOG, 29), (THEIR_LOG, 31), ("/their/other", 31)]):
        at = int((HOUR.start + timedelta(minutes=minutes)).timestamp() * 1000)
        events = [{"timestamp": at, "message": theirs(number)}]
        logs.put_log_events(logGroupName=group, logStreamName="stream", logEvents=events)
    close(raw)
    assert recounted(raw) == {"orders:ann": 2}


def test_whatever_stages_write_is_recounted_as_it_was_counted(raw: Raw) -> None:
    """I5: lines of every form, good and hostile, of nobody and set aside: nothing differs."""
    world, metrics = raw.world, (Count(name="requests"), Sum(name="bytes", of="response_length"))
    raw.declared_ever_since(*metrics, Sum(name="units", of="authorizer.units"))  # which no format of theirs has
    called = CALLED | {"requestTimeEpoch": moment(HOUR), "extendedRequestId": "JKJaXmPLvHcESHA="}
    quotes, chat = (AccessLog(Api.HTTP, "authorizer.claims.sub", name) for name in ("quotes", "chat"))
    units = {"authorizer.units": "3"}
    extended = f'{{"metering":{chat.format(NONCE, declared(world.metrics))},"path":"$context.path"}}'
    written = {
        ORDERS: THEIR_FORMAT,
        begun(quotes, Form.OURS): quotes.format(NONCE, declared(world.metrics)),
        begun(chat, Form.EXTENDED): extended,
    }
    connect(raw, *written)
    for connection, line_format in written.items():
        sub, lines = "authorizer.claims.sub", []
        texts = ["ann", "ann", "-", "", "b c", 'u","status":"500', "u\\n", '"ann"', '\\"ann\\"', "x" * 200, "\u2028"]
        for number, text in enumerate(texts):
            values = called | units | {sub: text, "path": text, "requestId": f"{connection.name}-{number}="}
            values |= {"status": "404"} if number == 1 else {}
            lines += [
                render(line_format, values, raw=True),
                render(line_format, values | {"requestId": f"{connection.name}/{number}="}),
            ]
        lines += ["nonsense", lines[0][5:]]
        ids = raw.log(*lines, group=connection.log_group)
        events = tuple(LogEvent(name, line, int(moment(HOUR, 30))) for name, line in zip(ids, lines, strict=True))
        delivered = Subscription("DATA_MESSAGE", connection.log_group, "stream", events)
        log_groups = LogGroups(ACCESS_LOG_GROUP, (NONCE,), world.metrics, raw.deployment.connections)
        recorder = replace(world.recorder(), log_groups=log_groups)
        assert recorder.record(log_groups.batch(delivered)).set_aside > 1
    close(raw)
    compared = raw.recount()
    assert [str(line) for line in compared if line.difference] == []
    counted = {line.subject.id: line.counted for line in compared if line.metric == "requests"}
    assert counted["orders:ann"] > 1
    assert counted["quotes:ann"] > 1
    assert counted["chat:ann"] > 1


def begun(log: AccessLog, form: Form) -> Connection:
    """Return a connection of a stage that writes our lines, alone or in front of its own."""
    return msgspec.structs.replace(
        ORDERS, name=log.connection, form=form, log_group=f"/{log.connection}", caller=log.caller
    )


def test_a_caller_of_the_stacks_own_that_is_called_as_a_connections_is_recounted_for_nobody(raw: Raw) -> None:
    """I7: as it is counted for nobody."""
    connect(raw, ORDERS)
    raw.log(raw.world.line(key="orders:ann"), raw.world.line(key="us-east-1:0a1b"))
    close(raw)
    assert recounted(raw) == {"us-east-1:0a1b": 1}
