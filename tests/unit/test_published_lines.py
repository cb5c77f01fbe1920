"""Lines that people have published: what the local gateway writes, and both readers read, is held to them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.local.aws.log_line import Error, Exchange, Integration, Kind, render
from infra.operate.recount.raw_lines import read_access_line
from metering.model.access_log import Reader
from metering.model.log_format import AccessLog, AccessRecord, Api
from metering.model.metrics import Count
from metering.model.our_lines import Ours
from metering.model.periods import Hour, epoch_ms
from tests.doubles.access_log import NONCE

PUBLISHED = json.loads((Path(__file__).parents[1] / "events" / "access_log_lines.json").read_text())
"""Lines that people have published, each with its source, its stage's format, and the request that it is of."""

LOGS = {
    Kind.REST: AccessLog(),
    Kind.HTTP: AccessLog(Api.HTTP, "authorizer.claims.sub"),
    Kind.WEBSOCKET: AccessLog(Api.WEBSOCKET, "authorizer.user"),
}


@pytest.mark.parametrize("published", PUBLISHED, ids=[entry["name"] for entry in PUBLISHED])
def test_a_line_is_as_api_gateway_has_written_it(published: Mapping[str, Any]) -> None:
    """Units, hyphens, escapes and names, for each kind of API: what was published is the witness."""
    assert render(published["format"], _exchange(published["request"]).variables()) == published["line"]


@pytest.mark.parametrize(
    "published",
    [entry for entry in PUBLISHED if '"requestTime"' in entry["format"]],
    ids=lambda entry: entry["name"],
)
def test_both_readers_know_the_hour_of_a_published_request(published: Mapping[str, Any]) -> None:
    """I3: whatever the unit of its time, as its own line has it in words."""
    exchange = _exchange(published["request"])
    log = LOGS[exchange.kind]
    variables = replace(exchange, extended_request_id="e=").variables() | {log.variable: "a-key"}
    line = render(log.format(NONCE), variables)
    moment = datetime.strptime(json.loads(published["line"])["requestTime"], "%d/%b/%Y:%H:%M:%S %z")
    metrics = (Count(name="requests"),)
    record = Reader(moment + timedelta(minutes=1), metrics, (Ours((NONCE,)),)).read(line)
    assert isinstance(record, AccessRecord)
    assert Hour.of_epoch_ms(epoch_ms(record.time)) == Hour.containing(moment)
    recounted = read_access_line(line, metrics, (NONCE,))
    assert recounted is not None
    assert recounted.hour == Hour.containing(moment)


def _exchange(request: Mapping[str, Any]) -> Exchange:
    parts = {"integration": Integration, "error": Error}
    made = {part: parts[part](**request[part]) for part in parts.keys() & request.keys()}
    return Exchange(**{**request, **made, "kind": Kind(request["kind"])})


def test_the_published_lines_are_of_every_kind_with_both_units_of_time() -> None:
    """Else the test above would hold nobody to anything."""
    lines = [(entry["request"]["kind"], json.loads(entry["line"])) for entry in PUBLISHED]
    digits = {(kind, len(line["requestTimeEpoch"])) for kind, line in lines if "requestTimeEpoch" in line}
    assert digits == {("REST", 13), ("HTTP", 10), ("WEBSOCKET", 13)}
