"""Lines of connected stages, read at once and one by one: it is the same, or left to the slow way."""

from datetime import UTC, datetime

import pytest

from infra.local.aws.log_line import render
from metering.model.access_log import Reader, Rejected
from metering.model.batches import Source, batch_of
from metering.model.foreign_format import extended
from metering.model.line_forms import Extended
from metering.model.log_format import AccessLog, AccessRecord, Api
from metering.model.metrics import Count, Sum
from metering.model.our_lines import Ours
from tests.doubles.access_log import NONCE
from tests.doubles.hostile import HOSTILE, HOUR_MS

NOW = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
METRICS = (Count(name="requests"), Sum(name="bytes", of="response_length"))
LOGS = {
    "REST": AccessLog(Api.REST, None, "pets"),
    "HTTP": AccessLog(Api.HTTP, "authorizer.claims.sub", "shop"),
    "WebSocket": AccessLog(Api.WEBSOCKET, "authorizer.principalId", "chat"),
}
THEIRS = '{"agent":"$context.identity.userAgent","path":"$context.path"}'
EXTENDED = extended(LOGS["REST"].format(NONCE), THEIRS)


def values(**changes: str) -> dict[str, str]:
    """Return what a line of any kind of API holds."""
    good = {
        "requestId": "R=",
        "extendedRequestId": "R=",
        "requestTimeEpoch": HOUR_MS,
        "identity.apiKeyId": "key1",
        "identity.userAgent": "curl",
        "authorizer.claims.sub": "ann",
        "authorizer.principalId": "ann",
        "httpMethod": "GET",
        "resourcePath": "/pets",
        "routeKey": "GET /pets",
        "eventType": "MESSAGE",
        "status": "200",
        "stage": "v1",
    }
    return good | {name.replace("__", "."): value for name, value in changes.items()}


@pytest.mark.parametrize("kind", LOGS)
def test_lines_of_a_connected_stage_of_any_kind_are_read_at_once(kind: str) -> None:
    """A thousand of them take a millisecond; whoever names nobody has no key."""
    log = LOGS[kind]
    nobody = values(authorizer__claims__sub="-", authorizer__principalId="-", identity__apiKeyId="-")
    lines = [render(log.format(NONCE), one) for one in (values(), values(), nobody)]
    records = Reader(NOW, METRICS, (Ours((NONCE,), log.connection),)).read_at_once("\n".join(lines).encode())
    key = "key1" if kind == "REST" else f"{log.connection}:ann"
    assert [record.key for record in records or []] == [key, key, "-"]
    assert {record.api_id for record in records or []} == {log.connection}


def test_lines_of_another_connection_are_not_read_at_once() -> None:
    """I7: each is looked at singly, and set aside."""
    line = render(LOGS["HTTP"].format(NONCE), values())
    reader = Reader(NOW, METRICS, (Ours((NONCE,), "pets"),))
    assert reader.read_at_once(line.encode()) is None
    assert isinstance(reader.read(line), Rejected)


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_stands_behind_ours_changes_nothing_of_it(text: str, *, shares: bool) -> None:
    """I1, I7: whichever way the lines are read, as long as each is one piece."""
    lines = [render(EXTENDED, values(identity__userAgent=one), raw=True) for one in (text, "curl")]
    (piece,) = batch_of(["1", "2"], lines, Source.ACCESS_LOG, "group stream").pieces()
    reader = Reader(NOW, METRICS, (Extended(Ours((NONCE,), "pets"), shares),))
    at_once = reader.read_at_once(piece.text)
    one_by_one = [reader.read(line) for line in lines]
    assert all(isinstance(record, AccessRecord) and record.key == "key1" for record in one_by_one)
    assert (at_once is None) == ("\n" in text)
    assert at_once is None or [record.key for record in at_once] == ["key1", "key1"]


def test_lines_of_stages_that_were_not_extended_are_left_out_only_where_they_share_the_log_group() -> None:
    """I1: elsewhere they are what somebody's deployment made of it, and told of."""
    text = "\n".join([render(THEIRS, values()), render(EXTENDED, values())]).encode()
    shared = Reader(NOW, METRICS, (Extended(Ours((NONCE,), "pets"), shares=True),))
    assert len(shared.read_at_once(text) or []) == 1
    assert shared.read_at_once(render(THEIRS, values()).encode()) == []
    assert Reader(NOW, METRICS, (Extended(Ours((NONCE,), "pets"), shares=False),)).read_at_once(text) is None
