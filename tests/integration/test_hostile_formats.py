"""Text of a caller's in lines of connected stages, in formats of their own or behind ours: it bills nobody (I7).

Each text is played as it is and escaped, since nobody may rely on what API Gateway does. Others are made for the very
format: they go on as a line of the victim's would.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from infra.local.aws.log_line import VARIABLE, render
from metering.counting.log_groups import LogGroups
from metering.counting.payloads import LogEvent, Subscription
from metering.model.connections import Connection, Form, StageLog, Step
from metering.model.foreign_format import extended
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import Count, Metric, Sum, declared
from metering.stores.connections import Connections
from tests.doubles.access_log import NONCE
from tests.doubles.hostile import GUESSED, HOSTILE, HOUR_MS
from tests.doubles.hostile import METRICS as OF_AUTHORIZERS
from tests.integration.world import ACCESS_LOG_GROUP, World

PLAIN: tuple[Metric, ...] = (Count(name="requests"), Sum(name="messages", of="response_length", methods=("POST",)))
"""What a format can be billed by in which all that is needed stands in front."""

WANTED = {
    "id": "$context.extendedRequestId",
    "request": "$context.requestId",
    "at": "$context.requestTimeEpoch",
    "method": "$context.httpMethod",
    "key": "$context.identity.apiKeyId",
    "status": "$context.status",
    "size": "$context.responseLength",
}
WRITTEN = {
    "agent": "$context.identity.userAgent",
    "path": "$context.path",
    "error": "$context.error.message",
    "host": "$context.domainName",
    "user": "$context.authorizer.user",
}
FRONT = json.dumps(WANTED | WRITTEN)
TEXT = (
    '$context.extendedRequestId [$context.requestTime] $context.requestId "$context.httpMethod" $context.status '
    "$context.responseLength $context.identity.apiKeyId|$context.path|$context.identity.userAgent|"
    "$context.error.message $context.domainName,$context.authorizer.user"
)
WHOLE = json.dumps(
    WANTED
    | {
        "app": "$context.authorizer.client",
        "messages": "$context.authorizer.messages",
        "user": "$context.authorizer.user",
        "ip": "$context.identity.sourceIp",
    }
)
OURS = AccessLog(Api.REST, None, "orders")
EXTENDED = extended(OURS.format(NONCE, declared(OF_AUTHORIZERS)), json.dumps(WRITTEN))

CLAIMS = json.dumps(
    {
        "id": "$context.requestId",
        "name": "$context.authorizer.claims.name",
        "at": "$context.requestTimeEpoch",
        "sub": "$context.authorizer.claims.sub",
        "route": "$context.routeKey",
        "status": "$context.status",
    }
)
BY_CALLERS = ("identity.userAgent", "path", "error.message", "domainName")
SET = ("authorizer.client", "authorizer.user")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage's format, and what is billed by it."""

    form: Form
    format: str
    metrics: tuple[Metric, ...]
    api: Api = Api.REST
    caller: str | None = None

    @property
    def connection(self) -> Connection:
        """The stage, connected."""
        return Connection(
            "orders",
            self.form,
            Step.CONNECTED,
            "/their/log",
            since=int(HOUR_MS) - 3_600_000,
            by="arn:aws:iam::123456789012:user/operator",
            api=self.api,
            caller=self.caller,
            api_id="a1b2c3",
            stage="v1",
            after=StageLog("arn:aws:logs:us-east-1:123456789012:log-group:/their/log", self.format),
        )


STAGES = {
    "in front": Stage(Form.THEIRS, FRONT, PLAIN),
    "in front, as text": Stage(Form.THEIRS, TEXT, PLAIN),
    "whole": Stage(Form.THEIRS, WHOLE, OF_AUTHORIZERS),
    "claims": Stage(Form.THEIRS, CLAIMS, (Count(name="requests"),), Api.HTTP, "authorizer.claims.sub"),
    "extended": Stage(Form.EXTENDED, EXTENDED, OF_AUTHORIZERS),
}


def values(key: str, amount: str) -> dict[str, str]:
    """Return what a line holds of a key's request that has used so much."""
    return {
        "extendedRequestId": f"{key}=",
        "requestId": "0a1b2c3d-0000-11f0-8000-0a58a9feac02",
        "requestTimeEpoch": HOUR_MS,
        "requestTime": "22/Nov/2026:05:19:00 +0000",
        "apiId": "a1b2c3",
        "stage": "v1",
        "identity.apiKeyId": key,
        "identity.sourceIp": "1.2.3.4",
        "identity.userAgent": "curl",
        "status": "200",
        "httpMethod": "POST",
        "resourcePath": "/messages",
        "path": "/messages",
        "domainName": "api.example.com",
        "responseLength": amount,
        "authorizer.client": "app",
        "authorizer.messages": amount,
        "authorizer.user": "mallory",
        "authorizer.claims.sub": key,
        "authorizer.claims.name": "Mallory",
        "routeKey": "POST /messages",
    }


def texts(stage: Stage, variable: str) -> Iterator[str]:
    """Yield hostile texts, and such as are made for a format: with what a line of the victim's has behind them."""
    yield from HOSTILE.values()
    for amount in ("1000000", "0"):
        victims = values("victim", amount)
        guessed = stage.format.replace(NONCE, GUESSED)
        line = render(guessed, victims, raw=True)
        yield f'u"}}\n{line}'
        yield line
        for place in VARIABLE.finditer(guessed):
            if place[1] == variable:
                behind = render(guessed[place.end() :], victims, raw=True)
                yield f"u{behind}"
                yield f"u{behind}\n"
                yield f"u{behind[: len(behind) // 2]}"
                yield f"u{behind.removesuffix('}')}, "


def recorded(world: World, stage: Stage, lines: dict[str, str]) -> dict[str, dict[str, int]]:
    """Deliver lines of a stage, each behind its key, and return what is counted."""
    world.metrics = stage.metrics
    world.bill(*stage.metrics)
    connections = Connections(world.ledger.client, world.ledger.table)
    connections.save(stage.connection)
    groups = LogGroups(ACCESS_LOG_GROUP, (NONCE,), stage.metrics, connections)
    events = tuple(LogEvent(f"event-{key}", line, int(HOUR_MS)) for key, line in lines.items())
    batch = groups.batch(Subscription("DATA_MESSAGE", "/their/log", "stream", events))
    replace(world.recorder(), log_groups=groups).record(batch)
    return world.counted()


def played(stage: Stage, variable: str, *, raw: bool) -> dict[str, str]:
    """Return the lines of all texts in a variable, by the keys that they are to be billed to."""
    return {
        f"mallory{number}": render(stage.format, values(f"mallory{number}", "100") | {variable: text}, raw=raw)
        for number, text in enumerate(texts(stage, variable))
    }


@pytest.mark.parametrize("written", ["as it is", "escaped"])
@pytest.mark.parametrize("variable", [*BY_CALLERS, "authorizer.user"])
@pytest.mark.parametrize("name", ["in front", "in front, as text"])
def test_no_text_behind_what_is_billed_changes_or_hides_it(
    world: World, name: str, variable: str, written: str
) -> None:
    """I1, I7: every request counts, for its own key, whole."""
    lines = played(STAGES[name], variable, raw=written == "as it is")
    assert recorded(world, STAGES[name], lines) == {key: {"requests": 1, "messages": 100} for key in lines}


@pytest.mark.parametrize("written", ["as it is", "escaped"])
@pytest.mark.parametrize("variable", BY_CALLERS)
def test_no_text_behind_our_line_in_front_changes_or_hides_it(world: World, variable: str, written: str) -> None:
    """I1, I7: every request counts, for its own key, whole."""
    lines = played(STAGES["extended"], variable, raw=written == "as it is")
    counted = recorded(world, STAGES["extended"], lines)
    assert counted == {key: {"requests": 1, "messages": 100, "users": 1} for key in lines}


@pytest.mark.parametrize("written", ["as it is", "escaped"])
@pytest.mark.parametrize(
    ("name", "variable"),
    [(name, variable) for name in ("whole", "extended") for variable in SET],
)
def test_a_text_that_an_authorizer_repeats_counts_whole_or_is_set_aside(
    world: World, name: str, variable: str, written: str
) -> None:
    """I1, I7: as a line of ours, which nobody can end but API Gateway."""
    lines = played(STAGES[name], variable, raw=written == "as it is")
    counted = recorded(world, STAGES[name], lines)
    assert counted.keys() <= lines.keys()
    # A value that is too long to be told from others is set aside for that metric alone.
    assert all(found | {"users": 1} == {"requests": 1, "messages": 100, "users": 1} for found in counted.values())
    kept = [world.set_aside.of(batch) for batch in world.set_aside.batches()]
    messages = {line.message for one in kept for _, line in one.lines}
    assert all(lines[key] in messages for key in lines.keys() - counted.keys())


@pytest.mark.parametrize("written", ["as it is", "escaped"])
def test_a_claim_that_its_caller_chose_bills_nobody_else(world: World, written: str) -> None:
    """I7: a person's name stands in front of the caller here, and may be anything."""
    stage = STAGES["claims"]
    lines = played(stage, "authorizer.claims.name", raw=written == "as it is")
    counted = recorded(world, stage, lines)
    assert counted
    assert counted.keys() <= {f"orders:{key}" for key in lines}
    assert all(found == {"requests": 1} for found in counted.values())


@pytest.mark.parametrize("variable", ["requestId", "httpMethod"])
@pytest.mark.parametrize("name", ["in front", "in front, as text", "whole"])
def test_what_api_gateway_would_never_write_makes_a_line_unreadable(world: World, name: str, variable: str) -> None:
    """I1, I7: an id and a method have signs of their own; should another come, the line is set aside."""
    stage = STAGES[name]
    strange = [text for text in HOSTILE.values() if not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", text, re.ASCII)]
    lines = [
        render(stage.format, values(f"mallory{number}", "100") | {variable: text}, raw=True)
        for number, text in enumerate(strange)
    ]
    assert recorded(world, stage, {str(number): line for number, line in enumerate(lines)}) == {}
    kept = [world.set_aside.of(batch) for batch in world.set_aside.batches()]
    assert {line.message for one in kept for _, line in one.lines} == set(lines)
