"""Lines of connected stages: which are counted, how often, and for whom, whatever their format and the moment."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import msgspec
import pytest

from infra.local.aws.log_line import render
from metering.counting.log_groups import LogGroups
from metering.counting.payloads import LogEvent, Subscription
from metering.counting.recorded import Recorded
from metering.counting.recording import Recorder
from metering.counting.redriving import redrive
from metering.model.connections import Connection, Form, StageLog, Step
from metering.model.foreign_format import extended
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import USAGE_LINES, Count, Sum
from metering.stores.connections import Connections
from tests.doubles.access_log import NONCE
from tests.doubles.dying import Dying, KilledError, Life
from tests.integration.world import ACCESS_LOG_GROUP, HOUR, World, event_ids

AT = int((HOUR.start + timedelta(minutes=30)).timestamp() * 1000)
MINUTE = 60_000
THEIR_LOG = "/their/pets"
THEIR_FORMAT = (
    '{"api":"$context.apiId","stage":"$context.stage","id":"$context.extendedRequestId","time":"$context.requestTime",'
    '"key":"$context.identity.apiKeyId","status":$context.status,"size":$context.responseLength,'
    '"agent":"$context.identity.userAgent"}'
)
PETS = Connection(
    "pets",
    Form.THEIRS,
    Step.CONNECTED,
    THEIR_LOG,
    since=AT - 60 * MINUTE,
    by="arn:aws:iam::123456789012:user/operator",
    api=Api.REST,
    api_id="pets123",
    api_name="Pets",
    stage="v1",
    before=StageLog("arn:aws:logs:us-east-1:123456789012:log-group:/their/pets", THEIR_FORMAT),
    after=StageLog("arn:aws:logs:us-east-1:123456789012:log-group:/their/pets", THEIR_FORMAT),
)
SHOP_LOG = "/aws/vendedlogs/metering/shop"
SHOP = AccessLog(Api.HTTP, "authorizer.claims.sub", "shop")
CHAT = AccessLog(Api.WEBSOCKET, "authorizer.principalId", "chat")


def connect(world: World, connection: Connection) -> Connection:
    """Write a connection into the ledger."""
    return Connections(world.ledger.client, world.ledger.table).save(connection)


def ours(log: AccessLog, **changes: Any) -> Connection:
    """Return a connection of a stage that had no access log."""
    written = StageLog("arn:aws:logs:us-east-1:123456789012:log-group:/x", log.format(NONCE))
    begun = msgspec.structs.replace(PETS, name=log.connection, form=Form.OURS, log_group=f"/x/{log.connection}")
    return msgspec.structs.replace(
        begun, api=log.api, caller=log.caller, api_id="x1", stage="prod", before=StageLog(), after=written, **changes
    )


def log_groups(world: World) -> LogGroups:
    """Return what record_usage asks how a log group is read."""
    return LogGroups(ACCESS_LOG_GROUP, (NONCE,), world.metrics, Connections(world.ledger.client, world.ledger.table))


def recorder(world: World) -> Recorder:
    """Return what record_usage counts with."""
    return replace(world.recorder(), log_groups=log_groups(world))


def delivered(*lines: str, group: str = THEIR_LOG, at: int = AT, apart: int = 0) -> Subscription:
    """Return what CloudWatch Logs delivers of lines that were written at a moment, or so many milliseconds apart."""
    ids = event_ids(lines)
    events = [LogEvent(ids[n], line, at + n * apart) for n, line in enumerate(lines)]
    return Subscription("DATA_MESSAGE", group, "stream", tuple(events))


def record(world: World, subscription: Subscription) -> Recorded:
    """Deliver lines."""
    return recorder(world).record(log_groups(world).batch(subscription))


def line(written: str = THEIR_FORMAT, **changes: str) -> str:
    """Return a line of a stage as API Gateway writes it."""
    values = {
        "apiId": "pets123",
        "stage": "v1",
        "extendedRequestId": "R1=",
        "requestId": "R1=",
        "requestTime": "22/Nov/2026:05:29:00 +0000",
        "requestTimeEpoch": str(AT - MINUTE),
        "identity.apiKeyId": "key1",
        "identity.userAgent": "curl",
        "status": "200",
        "httpMethod": "GET",
        "resourcePath": "/pets",
        "responseLength": "10",
    }
    return render(written, values | {name.replace("__", "."): value for name, value in changes.items()}, raw=True)


def redriven(world: World, token: bytes) -> dict[str, Any]:
    """Redrive what a batch set aside."""
    deadline = world.now + timedelta(minutes=4)
    return redrive(recorder(world), {"batch": token.hex()}, deadline=deadline)


def reasons(world: World, token: bytes) -> list[tuple[str, tuple[str, ...]]]:
    """Return why lines of a batch were set aside, and for which metrics."""
    return [(one.reason, one.metrics) for _, one in world.set_aside.of(token.hex()).lines]


def test_a_stages_own_format_is_billed_in_place(world: World) -> None:
    """Each line of its log group is counted, whatever stands behind what a bill needs."""
    connect(world, PETS)
    recorded = record(world, delivered(line(), line(identity__userAgent='x","key":"key2","status":200')))
    assert (recorded.read, recorded.billed, recorded.set_aside) == (2, 2, 0)
    assert world.counted() == {"key1": {"requests": 2, "bytes": 20}}


def test_an_unknown_log_group_is_one_of_usage_lines_until_it_is_connected(world: World) -> None:
    """I1: what was delivered before the ledger told of it counts when it comes again."""
    sent = delivered(line())
    assert record(world, sent).read == 0
    connect(world, PETS)
    assert record(world, sent).read == 1
    record(world, sent)
    assert world.counted() == {"key1": {"requests": 1, "bytes": 10}}


def test_a_batch_that_comes_again_after_the_disconnection_counts_once(world: World) -> None:
    """I2: how it is read is none of its token's business."""
    connected = connect(world, PETS)
    sent = delivered(line())
    record(world, sent)
    connect(world, msgspec.structs.replace(connected, step=Step.DISCONNECTED, until=AT + 1))
    assert record(world, sent).refused == 1
    connect(world, msgspec.structs.replace(connected, version=2, step=Step.DISCONNECTED, until=AT))
    assert record(world, sent).read == 0
    assert world.counted() == {"key1": {"requests": 1, "bytes": 10}}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("write", [1, 2, 3])
def test_a_delivery_that_died_counts_once_though_the_stage_was_disconnected_meanwhile(
    world: World,
    write: int,
    after: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """I1, I2: it comes again whole, and is read as it was written."""
    connected = connect(world, PETS)
    sent = delivered(line(), line(identity__apiKeyId="key2"), "nonsense")
    dying = cast("Any", Dying(world.counters.client, Life(write, accepted=after)))
    counters = replace(world.counters, client=dying)
    with pytest.raises(KilledError):
        replace(recorder(world), counters=counters).record(log_groups(world).batch(sent))
    connect(world, msgspec.structs.replace(connected, step=Step.DISCONNECTED, until=AT + 1))
    record(world, sent)
    assert world.counted() == {name: {"requests": 1, "bytes": 10} for name in ("key1", "key2")}
    assert len(reasons(world, log_groups(world).batch(sent).token)) == 1
    assert dict(world.counters.lines.by_hour(HOUR, HOUR.next())[HOUR]) == {THEIR_LOG: 3}


def test_lines_count_by_when_they_were_written_and_not_by_when_they_come(world: World) -> None:
    """I1: those of before the disconnection count, however late; those of afterwards are nobody's."""
    connect(world, msgspec.structs.replace(PETS, until=AT + MINUTE))
    world.now += timedelta(hours=3)
    both = delivered(line(), line(identity__apiKeyId="key2"), apart=MINUTE)
    assert record(world, both).read == 1
    assert record(world, delivered(line(identity__apiKeyId="key3"), at=AT + 2 * MINUTE)).read == 0
    assert world.counted() == {"key1": {"requests": 1, "bytes": 10}}


def test_a_stage_that_was_disconnected_is_billed_no_more_though_others_of_its_log_group_are(world: World) -> None:
    """One delivery may hold lines of before and of afterwards: each is read by what metered it when it was written."""
    pets = msgspec.structs.replace(PETS, shares_log=True)
    connect(world, msgspec.structs.replace(pets, until=AT + MINUTE))
    connect(world, msgspec.structs.replace(pets, name="cats", stage="v2"))
    sent = delivered(line(), line(stage="v2"), line(), line(stage="v2"), line(f"x{THEIR_FORMAT}"), apart=MINUTE // 2)
    recorded = record(world, sent)
    assert (recorded.read, recorded.billed, recorded.set_aside) == (4, 3, 1)
    assert world.counted() == {"key1": {"requests": 3, "bytes": 30}}


def test_what_a_stage_wrote_before_it_was_connected_is_nobodys_though_its_log_group_was_read(world: World) -> None:
    """I2: also of a delivery that comes, or comes again, once it is connected; else clocks may differ a little."""
    cats = msgspec.structs.replace(PETS, name="cats", stage="v2", shares_log=True, since=AT)
    connect(world, msgspec.structs.replace(PETS, shares_log=True))
    before = delivered(line(stage="v2"), line(), at=AT - MINUTE)
    record(world, before)
    connected = connect(world, msgspec.structs.replace(cats, was_read=True))
    record(world, before)
    record(world, delivered(line(stage="v2"), at=AT - 1))
    record(world, delivered(line(stage="v2", extendedRequestId="R2="), at=AT))
    assert world.counted() == {"key1": {"requests": 2, "bytes": 20}}
    connect(world, msgspec.structs.replace(connected, was_read=False))
    assert record(world, delivered(line(stage="v2", extendedRequestId="R3="), at=AT - MINUTE)).read == 1


def test_all_that_a_connected_log_group_delivers_is_counted_as_dealt_with(world: World) -> None:
    """I1: it is compared with what CloudWatch Logs took in, whoever its lines are of."""
    connect(world, msgspec.structs.replace(PETS, shares_log=True, until=AT + MINUTE))
    sent = delivered(line(), line(stage="v2"), line(), apart=MINUTE // 2)
    record(world, sent)
    record(world, sent)
    assert dict(world.counters.lines.by_hour(HOUR, HOUR.next())[HOUR]) == {THEIR_LOG: 3}


def test_a_line_that_was_set_aside_is_redriven_in_its_stages_own_format(world: World) -> None:
    """I2: once, when its time has come."""
    connect(world, PETS)
    sent = delivered(line(requestTime="22/Nov/2026:05:59:00 +0000"), line())
    batch = log_groups(world).batch(sent)
    assert record(world, sent).set_aside == 1
    world.now += timedelta(minutes=29)
    for counted in (1, 0):
        assert redriven(world, batch.token)["counted"] == counted
    assert world.counted() == {"key1": {"requests": 2, "bytes": 20}}


def test_a_line_that_was_set_aside_is_redriven_though_its_delivery_began_before_its_stage_was_connected(
    world: World,
) -> None:
    """I1: it is read by what metered it, and not by what metered the first line that came with it."""
    connect(world, msgspec.structs.replace(PETS, shares_log=True))
    connect(world, msgspec.structs.replace(PETS, name="cats", stage="v2", shares_log=True, since=AT, was_read=True))
    early = line(stage="v2", requestTime="22/Nov/2026:05:59:00 +0000")
    sent = delivered(line(stage="v2"), early, at=AT - 1, apart=2)
    assert record(world, sent).set_aside == 1
    world.now += timedelta(minutes=29)
    assert redriven(world, log_groups(world).batch(sent).token)["counted"] == 1
    assert world.counted() == {"key1": {"requests": 1, "bytes": 10}}


def test_lines_of_a_format_that_somebody_changed_are_mended_by_connecting_anew(world: World) -> None:
    """I1: they are set aside, told of, and count once it is known what they are."""
    connected = connect(world, PETS)
    changed = '{"v":2,' + THEIR_FORMAT.removeprefix("{")
    sent = delivered(line(changed))
    batch = log_groups(world).batch(sent)
    assert record(world, sent).set_aside == 1
    ((reason, _),) = reasons(world, batch.token)
    assert reason == "not the stage's format: the line is not as it was when the stage was connected"
    since = AT + 10 * MINUTE
    anew = msgspec.structs.replace(PETS, since=since, version=1, after=StageLog(PETS.after.destination, changed))
    Connections(world.ledger.client, world.ledger.table).save(
        anew, former=msgspec.structs.replace(connected, until=since)
    )
    assert redriven(world, batch.token)["counted"] == 1
    assert world.counted() == {"key1": {"requests": 1, "bytes": 10}}


def test_a_line_that_does_not_name_the_api_is_set_aside_where_no_other_stage_writes(world: World) -> None:
    """I1: somebody has changed the stage's format; nobody else's line it can be."""
    connect(world, msgspec.structs.replace(PETS, shares_log=True, alone=True))
    changed = THEIR_FORMAT.replace('"api":"$context.apiId","stage":"$context.stage",', "")
    assert record(world, delivered(line(changed), line())).set_aside == 1
    assert record(world, delivered(line(stage="v2"), line(apiId="other"))).set_aside == 0


def test_stages_that_share_a_log_group_are_told_apart_by_what_their_lines_name(world: World) -> None:
    """Lines of those that are not connected are nobody's; nothing of them is set aside."""
    connect(world, msgspec.structs.replace(PETS, shares_log=True))
    connect(world, msgspec.structs.replace(PETS, name="cats", stage="v2", shares_log=True))
    world.bill(Count(name="requests", by="api", meters=("pets", "cats")))
    recorded = record(
        world, delivered(line(), line(stage="v2"), line(stage="v3"), line(apiId="other"), "GET /dogs 200")
    )
    assert (recorded.read, recorded.set_aside) == (2, 0)
    assert world.counted() == {"key1": {"requests_pets": 1, "requests_cats": 1}}
    assert record(world, delivered(f"x{line()}")).set_aside == 1  # it names the API: whatever that means, it is told


def test_a_stage_that_had_no_access_log_writes_ours(world: World) -> None:
    """I7: its callers are its own, and a request without one is nobody's."""
    connect(world, ours(SHOP))
    written = SHOP.format(NONCE)
    lines = [line(written, authorizer__claims__sub=sub) for sub in ("ann", "key1", "-")]
    recorded = record(world, delivered(*lines, group="/x/shop"))
    assert (recorded.billed, dict(recorded.unbilled), recorded.set_aside) == (2, {"no API key": 1}, 0)
    assert world.counted() == {
        "shop:ann": {"requests": 1, "bytes": 10},
        "shop:key1": {"requests": 1, "bytes": 10},
    }


def test_the_events_of_a_web_socket_are_counted_as_its_methods(world: World) -> None:
    """A message is a call; a handshake that failed has no event."""
    connect(world, ours(CHAT))
    world.bill(Count(name="messages", methods=("MESSAGE",)), Count(name="events", by="method"))
    lines = [
        line(CHAT.format(NONCE), eventType=event, routeKey=route, authorizer__principalId="ann")
        for event, route in (("CONNECT", "$connect"), ("MESSAGE", "say"), ("MESSAGE", "say"), ("-", "-"))
    ]
    assert record(world, delivered(*lines, group="/x/chat")).billed == 4
    assert world.counted()["chat:ann"] == {"messages": 2, "events": 4}


def test_a_line_of_another_connection_counts_in_no_log_group_but_its_own(world: World) -> None:
    """I7: whoever can write into a connected log group bills nobody of another connection."""
    connect(world, ours(SHOP))
    sent = delivered(line(CHAT.format(NONCE), eventType="MESSAGE", authorizer__principalId="ann"), group="/x/shop")
    assert record(world, sent).set_aside == 1
    ((reason, _),) = reasons(world, log_groups(world).batch(sent).token)
    assert reason == "not of the connection shop: api_id is 'chat'"


def test_a_format_with_ours_in_front_is_counted(world: World) -> None:
    """I7: what its own fields hold is not looked at; what is not extended is set aside, unless others write there."""
    log = AccessLog(Api.REST, None, "pets")
    theirs = '{"agent":"$context.identity.userAgent","path":"$context.path"}'
    written = extended(log.format(NONCE), theirs)
    after = StageLog(PETS.after.destination, written)
    connected = connect(world, msgspec.structs.replace(PETS, form=Form.EXTENDED, after=after))
    hostile = line(written, identity__userAgent=f'x"}}\n{line(written, identity__apiKeyId="key2")}')
    recorded = record(world, delivered(line(written), hostile, line(theirs)))
    assert (recorded.billed, recorded.set_aside) == (2, 1)
    connect(world, msgspec.structs.replace(connected, shares_log=True))
    assert record(world, delivered(line(theirs), line(written))).set_aside == 0
    assert world.counted() == {"key1": {"requests": 3, "bytes": 30}}


def test_stages_with_ours_in_front_share_a_log_group_though_one_is_connected_no_more(world: World) -> None:
    """After --keep-log it goes on writing: its lines are nobody's, and no fault of the other's."""
    stages = {}
    for name in ("pets", "cats"):
        written = extended(AccessLog(Api.REST, None, name).format(NONCE), '{"path":"$context.path"}')
        stages[name] = msgspec.structs.replace(
            PETS, name=name, stage=name, form=Form.EXTENDED, shares_log=True, after=StageLog("arn", written)
        )
    pets, cats = (line(one.after.format, extendedRequestId=f"{name}=") for name, one in stages.items())
    connect(world, msgspec.structs.replace(stages["pets"], until=AT + 1))
    connect(world, stages["cats"])
    recorded = record(world, delivered(pets, cats, pets, apart=1))
    assert (recorded.billed, recorded.set_aside) == (2, 0)
    recorded = record(world, delivered(pets, cats, at=AT + MINUTE))
    assert (recorded.billed, recorded.set_aside) == (1, 0)
    assert record(world, delivered(pets.replace(NONCE, "n" * 36), at=AT + MINUTE)).set_aside == 1


def test_a_metric_that_a_format_lacks_something_for_is_set_aside_and_the_others_count(world: World) -> None:
    """I9: it was declared after the stage was connected; no line of it is lost, and none is free unseen."""
    connect(world, PETS)
    world.bill(
        Count(name="requests"),
        Count(name="writes", methods=("POST",)),
        Count(name="paid", by="authorizer.plan", meters=("pro",)),
        Count(name="others", methods=("POST",), apis=("shop",)),
    )
    sent = delivered(line(), line(identity__apiKeyId="-"), line(status="500"))
    recorded = record(world, sent)
    assert (recorded.read, recorded.billed, recorded.set_aside, recorded.partly) == (3, 1, 1, 1)
    assert world.counted() == {"key1": {"requests": 1}}
    ((reason, metrics),) = reasons(world, log_groups(world).batch(sent).token)
    assert metrics == ("writes", "paid")
    assert reason == (
        "the format cannot be billed by: it lacks $context.httpMethod; "
        "the format cannot be billed by: it lacks $context.authorizer.plan"
    )


def test_where_no_metric_can_be_read_each_line_is_set_aside_with_the_reason(world: World) -> None:
    """I1: they count once the stage is connected with a format that has all."""
    connect(world, msgspec.structs.replace(PETS, after=StageLog("arn", '{"id":"$context.extendedRequestId"}')))
    sent = delivered('{"id":"R1="}')
    assert record(world, sent).set_aside == 1
    ((reason, _),) = reasons(world, log_groups(world).batch(sent).token)
    assert "it lacks $context.requestTimeEpoch, $context.identity.apiKeyId, $context.status" in reason


def test_a_log_group_of_usage_lines_is_read_while_it_is_connected(world: World) -> None:
    """It may have been one that was never anything else."""
    jobs = Connection("jobs", Form.USAGE, Step.CONNECTED, "/app/jobs", since=AT, by="me", until=AT + 1)
    connect(world, jobs)
    world.bill(Sum(name="jobs", of=USAGE_LINES))
    said = json.dumps({"usage": {"id": "1", "time": AT, "customer": "acme", "jobs": 3}})
    record(world, delivered(said, group="/app/jobs"))
    record(world, delivered(said, group="/app/jobs", at=AT + 1))
    record(world, delivered(said, group="/app/other"))
    assert world.counted() == {"@acme": {"jobs": 6}}


def test_the_ledger_is_asked_of_no_log_group_that_is_the_stacks_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a Query for each batch."""
    monkeypatch.setattr(Connections, "of_log_group", None)
    sent = delivered(world.line(), "nonsense", group=ACCESS_LOG_GROUP)
    assert record(world, sent).billed == 1
    assert redriven(world, log_groups(world).batch(sent).token)["left"] == 1


def test_callers_of_very_many_names_cost_no_query_each(world: World) -> None:
    """I6, I10: as those are that an authorizer tells as ``<tenant>:<user>``; nobody is taken for a connection's."""
    connect(world, ours(SHOP))
    callers = [f"tenant-{n}:ann" for n in range(200)]
    lines = [world.line(key=key, api_id="a1b2c3") for key in [*callers, "shop:ann"]]
    asked: list[Any] = []
    client: Any = world.ledger.client
    client.before.append(lambda operation, wanted: asked.append(wanted) if operation == "Query" else None)
    recorded = record(world, delivered(*lines, group=ACCESS_LOG_GROUP))
    assert (recorded.billed, recorded.set_aside) == (200, 1)
    names = [one for one in asked if one["ExpressionAttributeValues"][":pk"]["S"] == "connections"]
    assert len(names) <= 5


def test_nobody_becomes_a_connections_caller_by_what_it_calls_itself(world: World) -> None:
    """I7: a caller of the stack's own that is no API key may be called ``shop:ann``, as one of a connection's is."""
    connect(world, ours(SHOP))
    own = {"api_id": "a1b2c3"}
    lines = [world.line(key="shop:ann", **own), world.line(key="us-east-1:0a1b", **own), world.line(key="ann", **own)]
    recorded = record(world, delivered(*lines, group=ACCESS_LOG_GROUP))
    assert (recorded.billed, recorded.set_aside) == (2, 1)
    assert {source: of_key["requests"] for source, of_key in world.counted().items()} == {"us-east-1:0a1b": 1, "ann": 1}
    (kept,) = [world.set_aside.of(batch) for batch in world.set_aside.batches()]
    assert kept.certain
    assert [one.reason for one in kept.certain.lines] == [
        "key must not begin as the callers of a connection do, got 'shop:ann'"
    ]
