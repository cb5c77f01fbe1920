"""The way back to a released version that nobody has prepared: what it makes of what is connected, and what mends that.

infra/stack/README.md says so (Upgrade), and how the way back is prepared; tests/e2e/test_upgrade.py goes it.
"""

import base64
import gzip
import json
from typing import Any, Final

import msgspec
import pytest

from infra.local.aws.log_line import render
from metering.counting.payloads import subscription
from metering.model.connections import StageLog
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import USAGE_LINES, Count, Metric, Sum, declared, encode
from tests.conftest import needs_code_of
from tests.doubles.access_log import NONCE
from tests.doubles.released import play
from tests.integration.raw import JOBS_LOG, Raw, close, said
from tests.integration.stored import with_bytes
from tests.integration.their_stage import CALLED, ORDERS, THEIR_LOG, connect
from tests.integration.world import ACCESS_LOG_GROUP, HOUR, moment

BEFORE: Final = "1.0.0"

THEIRS: Final = (
    '{"id":"$context.extendedRequestId","at":"$context.requestTime","status":$context.status,'
    '"key":"$context.identity.apiKeyId","agent":"$context.identity.userAgent"}'
)
"""What a stage writes of its own, with a caller's text at its end."""

STAGE: Final = msgspec.structs.replace(
    ORDERS, api=Api.REST, api_id="pets123", stage="v1", caller=None, after=StageLog("arn", THEIRS)
)

REQUESTS: Final = Count(name="requests")
TOKENS: Final = Sum(name="tokens", of=USAGE_LINES)

FORGED: Final = json.dumps({"usage": {"id": "1", "time": int(moment(HOUR)), "customer": "acme", "tokens": 1_000_000}})
"""What a caller can send as its User-Agent, which comes into the line with its quotes escaped."""


@pytest.fixture(autouse=True)
def few_partitions() -> None:
    """As many as deployments have: what is stored lies in them."""


@pytest.fixture(autouse=True)
def is_released() -> None:
    """The version's code is there."""
    needs_code_of(BEFORE)


def theirs(number: int, agent: str = "curl") -> str:
    """Return a line of the stage's own format."""
    request = {"extendedRequestId": f"call-{number}=", "identity.apiKeyId": "key2", "identity.userAgent": agent}
    return render(THEIRS, CALLED | request)


def payload(*lines: str, group: str) -> dict[str, Any]:
    """Return what CloudWatch Logs delivers of lines."""
    at = int((HOUR.start.timestamp() + 1800) * 1000)
    events = [{"id": f"{number:056d}", "timestamp": at, "message": line} for number, line in enumerate(lines)]
    body = {"messageType": "DATA_MESSAGE", "logGroup": group, "logStream": "stream", "logEvents": events}
    return {"awslogs": {"data": base64.b64encode(gzip.compress(json.dumps(body).encode())).decode()}}


def delivered_before(raw: Raw, delivery: dict[str, Any], *metrics: Metric) -> dict[str, Any]:
    """Let the version of before record a delivery, and leave in this world what it counts."""
    given = {"payload": delivery, "metrics": encode(metrics), "nonce": NONCE, "access_log_group": ACCESS_LOG_GROUP}
    told: dict[str, Any] = play(BEFORE, "delivered_to", given | {"now": raw.world.now.isoformat()})
    for item in told["counters"]:
        raw.world.counters.client.put_item(TableName="counters", Item=with_bytes(item))
    return told


def test_lines_of_a_connected_stage_are_counted_by_nobody_and_recounted_later(raw: Raw) -> None:
    """I1: the version of before takes none of them for anything, whichever format they have."""
    raw.world.customer("beta", "key2")
    connect(raw, STAGE)
    raw.declared_ever_since(REQUESTS)
    ours = json.loads(AccessLog(Api.REST, None, "orders").format(NONCE, declared((REQUESTS,))))
    own_format = json.dumps(ours | {"time": moment(HOUR), "status": "200", "key": "key2", "request_id": "1="})
    lines = [theirs(1), theirs(2), own_format]
    raw.log(*lines[:2], group=THEIR_LOG)
    told = delivered_before(raw, payload(*lines, group=THEIR_LOG), REQUESTS, TOKENS)
    assert (told["read"], told["set_aside"], told["counters"]) == (0, [], [])
    close(raw)
    assert said(raw.recount("beta"))["requests"] == (2, 0, None, 2)
    raw.fix("beta")
    close(raw)
    assert said(raw.recount("beta"))["requests"][2:] == (2, 0)


def test_a_caller_of_a_connected_stage_could_bill_anyone_for_usage_lines_until_it_is_recounted(raw: Raw) -> None:
    """I7: so nobody may go back with a stage connected that writes callers' text; what was forged is lowered later."""
    connect(raw, STAGE)
    raw.declared_ever_since(REQUESTS, TOKENS)
    forged = theirs(1, FORGED)
    raw.log(forged, group=THEIR_LOG)
    delivered_before(raw, payload(forged, group=THEIR_LOG), REQUESTS, TOKENS)
    assert raw.world.counted() == {"@acme": {"tokens": 1_000_000}}
    close(raw)
    assert said(raw.recount("acme"))["tokens"][3] == -1_000_000
    raw.fix("acme", lower=True)
    close(raw)
    assert said(raw.recount("acme"))["tokens"][2:] == (0, 0)


def test_it_bills_nobody_where_no_metric_is_of_usage_lines(raw: Raw) -> None:
    """I9: it sets aside what looks like one, where it is dismissed."""
    forged = theirs(1, FORGED)
    told = delivered_before(raw, payload(forged, group=THEIR_LOG), REQUESTS)
    assert (told["counters"], len(told["set_aside"])) == ([], 1)


def test_a_connected_log_group_of_usage_lines_counts_on_and_once(raw: Raw) -> None:
    """I2: a delivery is the same batch to both."""
    line = json.dumps({"usage": {"id": "1", "time": int(moment(HOUR)), "customer": "acme", "tokens": 7}})
    delivery = payload(line, group=JOBS_LOG)
    raw.world.bill(REQUESTS, TOKENS)
    told = delivered_before(raw, delivery, REQUESTS, TOKENS)
    batch = subscription(delivery).batch(ACCESS_LOG_GROUP)
    assert told["batch"] == batch.token.hex()
    raw.world.recorder().record(batch)
    assert raw.world.counted() == {"@acme": {"tokens": 7}}
