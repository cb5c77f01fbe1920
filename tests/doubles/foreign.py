"""Formats that somebody else has chosen, and lines of theirs, drawn at random."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from infra.local.aws.log_line import render
from metering.model.connections import Connection, Form, StageLog, Step
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import USAGE_LINES, Count, Max, Metric, Sum, Unique
from tests.doubles.hostile import HOSTILE

_METRICS: Final[Sequence[Metric]] = (
    Count(name="requests"),
    Count(name="reads", methods=("GET", "MESSAGE")),
    Count(name="orders", resources=("/orders", "/orders/*"), statuses=("2xx", "404")),
    Count(name="classes", by="status_class"),
    Count(name="methods", by="method", meters=("GET",)),
    Count(name="places", by="resource"),
    Count(name="of_orders", apis=("orders",), by="stage"),
    Count(name="of_others", apis=("others",), by="authorizer.plan"),
    Sum(name="bytes", of="response_length"),
    Max(name="slowest", of="integration_latency"),
    Sum(name="units", of="authorizer.units", scale=2, by="authorizer.plan"),
    Sum(name="tokens", of=USAGE_LINES),
    Unique(name="users", of="authorizer.claims.user", opaque_id=True),
)

_CALLERS: Final = {
    Api.REST: (None, "identity.apiKeyId", "authorizer.tenant", "authorizer.claims.sub", "identity.accountId"),
    Api.HTTP: ("authorizer.claims.sub", "authorizer.tenant", "identity.userArn"),
    Api.WEBSOCKET: ("authorizer.principalId", "identity.accountId"),
}
_GOOD: Final = {
    "requestId": ("c6af9ac6-7b61-11e6-9a41-93e8deadbeef", "JKJaXmPLvHcESHA="),
    "extendedRequestId": ("JKJaXmPLvHcESHA=", "e_AA-A/+="),
    "requestTime": ("22/Nov/2026:05:29:00 +0000", "22/Nov/2026:05:29:00 +0130", "-"),
    "requestTimeEpoch": ("1795324740000", "1795324740", "-"),
    "status": ("200", "201", "301", "404", "500", "-"),
    "httpMethod": ("GET", "POST", "BREW"),
    "eventType": ("CONNECT", "MESSAGE", "DISCONNECT", "-"),
    "resourcePath": ("/orders", "/orders/{id}", "/{proxy+}", "-"),
    "routeKey": ("GET /orders", "$default", "ANY /{proxy+}", "$connect", "-"),
    "responseLength": ("10", "0", "-"),
    "integration.latency": ("12", "-"),
    "integrationLatency": ("12", "-"),
    "responseLatency": ("5", "-"),
    "identity.apiKeyId": ("a1b2c3d4e5", "key1", "-"),
    "identity.accountId": ("123456789012", "-"),
    "identity.userArn": ("arn:aws:iam::123456789012:user/ann", "-"),
    "identity.sourceIp": ("192.0.2.1", "2001:db8::1"),
    "protocol": ("HTTP/1.1",),
    "apiId": ("a1b2c3d4e5", "zzzzzzzzzz"),
    "stage": ("v1", "v2", "$default"),
}
"""What API Gateway writes for variables that it makes itself."""

_CALLED: Final = ("authorizer.tenant", "authorizer.claims.sub", "authorizer.principalId")
_SET: Final = ("authorizer.units", "authorizer.plan", "authorizer.claims.user", "authorizer.claims.custom:a")
_WRITTEN: Final = ("path", "identity.userAgent", "error.message", "domainName", "authorizer.a-b", "identity.apiKey")
_TEXTS: Final = (
    *HOSTILE.values(),
    *("", "-", "ann", "ann bob", "2.5", "pro", "é", "\u2028", "\x85", "\t", "a,b", "[x]", "]", "{", "200", '"', "\\"),
    *('"ann"', '"ann bob"', '"a" "b"', '"",""'),
    *('","status":"500', '" 200 "', " 404 ", '"}', "ann\n", "$context.status", "\ud800"),
)


@dataclass(frozen=True)
class Foreign:
    """A stage of somebody's with a format of its own, and the metrics that it is billed by."""

    connection: Connection
    metrics: tuple[Metric, ...]
    values: dict[str, str]
    """What one request's variables hold."""

    line: str
    """What API Gateway makes of it."""

    other: str
    """A line that is not quite so."""


def foreign(chance: Random) -> Foreign:
    """Draw a stage, its format and two lines."""
    api = chance.choice(list(Api))
    log = AccessLog(api, chance.choice(_CALLERS[api]), "orders", chance.random() < 0.3)
    metrics = tuple(chance.sample(_METRICS, chance.randint(0, 3)))
    written = _format(chance, _variables(chance, log))
    connection = Connection(
        name="orders",
        form=Form.THEIRS,
        step=Step.CONNECTED,
        log_group="/their/log",
        since=0,
        by="",
        api=api,
        api_id="a1b2c3d4e5",
        stage="v1",
        caller=log.caller,
        keys_apart=log.keys_apart,
        after=StageLog("arn", written),
        shares_log=chance.random() < 0.3,
        alone=chance.random() < 0.5,
    )
    values = {name: chance.choice(good) for name, good in _GOOD.items()}
    texts = (*_CALLED, *_SET, *_WRITTEN)
    values |= {name: chance.choice(("ann", "2", "pro", *[chance.choice(_TEXTS)])) for name in texts}
    line = render(written, values, raw=chance.random() < 0.5)
    return Foreign(connection, metrics, values, line, _changed(chance, line))


def _variables(chance: Random, log: AccessLog) -> list[str]:
    """Draw the variables of a format: mostly those that are needed, some others, in whatever order."""
    needed = ["extendedRequestId", chance.choice(("requestTime", "requestTimeEpoch")), log.variable, "status"]
    if log.api is not Api.REST:
        needed[0] = chance.choice(("requestId", "extendedRequestId"))
    useful = ["responseLength", "integration.latency", *_SET, "apiId", "stage"]
    useful += {
        Api.REST: ["httpMethod", "resourcePath", "requestId"],
        Api.HTTP: ["httpMethod", "routeKey", "integrationLatency"],
        Api.WEBSOCKET: ["eventType", "routeKey"],
    }[log.api]
    others = ["identity.sourceIp", "protocol", "responseLatency", "requestTime", "status"]
    chosen = [name for name in needed if chance.random() < 0.97]
    chosen += useful if chance.random() < 0.7 else chance.sample(useful, chance.randint(0, len(useful)))
    chosen += chance.sample(others, chance.randint(0, 3))
    chance.shuffle(chosen)
    if chance.random() < 0.5:
        chosen.sort(key=_SET.__contains__)
    for text in chance.sample(_WRITTEN, chance.choice((0, 0, 1, 2))):
        chosen.insert(chance.choice((len(chosen), len(chosen), chance.randint(0, len(chosen)))), text)
    return chosen


def _format(chance: Random, variables: Sequence[str]) -> str:
    """Write variables as JSON, flat or nested, with quotes or without, as CLF, or as CSV."""
    style = chance.choice(("json", "nested", "bare", "clf", "csv", "odd"))
    contexts = [f"$context.{name}" for name in variables]
    match style:
        case "json" | "bare" | "nested":
            fields: dict[str, Any] = {}
            for number, text in enumerate(contexts):
                inner = fields.setdefault(chance.choice("abc"), {}) if style == "nested" else fields
                inner[f"f{number}"] = text
            written = json.dumps(fields, separators=chance.choice(((",", ":"), (", ", ": "))))
            bare = [text for text in contexts if style == "bare" and chance.random() < 0.5]
            for text in bare:
                written = written.replace(f'"{text}"', text)
            return written
        case "clf":
            around = {"requestTime": "[{}]", "path": '"{}"', "identity.userAgent": '"{}"', "routeKey": '"{}"'}
            return " ".join(
                around.get(name, chance.choice(("{}", "{}", '"{}"'))).format(text)
                for name, text in zip(variables, contexts, strict=True)
            )
        case "csv":
            return chance.choice((",", ";", "\t", "|")).join(contexts)
        case _:
            joints = ("", "-", ".", " ", '"', "=", "/", "$", "<a>", "$context.", "x")
            return "".join(f"{chance.choice(joints)}{text}" for text in contexts) + chance.choice(joints)


def _changed(chance: Random, line: str) -> str:
    """Return a line with something of it gone, doubled, changed or added."""
    place = chance.randint(0, len(line))
    sign = chance.choice('"\\ ,-0aZ/:{}[]\n\t\u2028é')
    return chance.choice(
        (
            line[:place],
            line[place:],
            line[:place] + sign + line[place:],
            line[:place] + sign + line[place + 1 :],
            line + line[place:],
            f"{sign}{line}",
            f"{line}{sign}",
            line[:place] + chance.choice(_TEXTS) + line[place:],
        )
    )
