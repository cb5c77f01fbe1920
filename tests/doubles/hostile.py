"""What a caller may write where an authorizer repeats it, to bill others or to pay less."""

import json
from typing import Final

from infra.local.aws.log_line import render
from metering.model.log_format import AccessLog
from metering.model.metrics import Count, Sum, Unique, declared
from tests.doubles.access_log import NONCE

HOUR_MS: Final = "1795324740000"
"""A moment of the hour 2026-11-22T05."""

METRICS: Final = (
    Count(name="requests", by="authorizer.client"),
    Sum(name="messages", of="authorizer.messages"),
    Unique(name="users", of="authorizer.user", opaque_id=True),
)
FORMAT: Final = AccessLog().format(NONCE, declared(METRICS))
FIELDS: Final = json.loads(FORMAT)
GUESSED: Final = "00000000-0000-11f0-8000-0a58a9feac02"


def _forged(beginning: str) -> str:
    """Return a line of the victim's but for the nonce: it begins so, and its last string is left open."""
    values = {
        "time": HOUR_MS,
        "status": "200",
        "method": "POST",
        "key": "victim",
        "authorizer.messages": "1000000",
    }
    fields = [f'"{name}":"{values.get(name, "x")}"' for name in FIELDS if name not in ("metering", "end")]
    return f'{{"metering":"{beginning}",{",".join(fields)}'.removesuffix('"')


N: Final = len(FIELDS)
ITS_OWN: Final = 'u","authorizer.messages":"0","authorizer.user":"-"'
"""What ends a line of the caller's own with another number than the real one."""

HOSTILE: Final = {
    "a field once more": 'u","key":"victim',
    "a variable once more": 'u","authorizer.messages":"0',
    "a field of its own": 'u","path":"/',
    "another beginning": f'u","metering":"1:{N + 1}:{GUESSED}',
    "fields of another count": 'u","metering":"1","key":"victim","authorizer.messages":"1000000","x":"',
    "numbers, which have fewer quotes": "u" + "".join(f'","f{n}":1,"x":"' for n in range(5)),
    "a line of the victim's": f'u"}}\n{_forged("1")}',
    "a line with a guessed nonce": f'u"}}\n{_forged(f"1:{N}:{GUESSED}")}',
    "an end of its own": f'u","end":"{GUESSED}"}}\n{{"x":"',
    "its own line, cut short": f'{ITS_OWN}}}\n{{"x":"',
    "its own line, ended by a guess": f'{ITS_OWN},"end":"{GUESSED}"}}\n{{"x":"',
    "its own line, with the real end": f'{ITS_OWN},"end":"',
    "a record joined on": f'u"}},{_forged("1")}',
    "a record joined on without a comma": f'u"}}{_forged("1")}',
    "a usage line": 'u"}\n{"usage":{"id":"1","time":"2026-11-22T05:17:00Z","customer":"victim","messages":7}}\n{"x":"',
    "a backslash": "\\",
    "a backslash and a quote": '\\"',
    "quotes that are spelled out": "\\u0022,\\u0022key\\u0022:\\u0022victim",
    "a line end": "u\nu",
    "a carriage return": "u\r\n",
    "control characters": "\x00\x1b\x7f\x85\u2028",
    "a variable's name": "$context.identity.apiKeyId",
    "a byte order mark": "\ufeffu",
    "half a surrogate pair, spelled out": "\\ud800",
    "quotes": '"' * 200,
    "as much as is counted": "u" * 256,
}


def hostile_line(  # noqa: PLR0913 - a text, where it stands and in what
    number: int, text: str, variable: str, *, raw: bool, template: str = FORMAT, time: str = HOUR_MS
) -> str:
    """Return the line of a caller's request that carries a hundred messages."""
    values = {
        "extendedRequestId": f"R{number}{variable[-1]}=",
        "requestTimeEpoch": time,
        "identity.apiKeyId": f"mallory-{number}-{variable[-1]}",
        "status": "200",
        "httpMethod": "POST",
        "resourcePath": "/messages",
        "authorizer.client": "app",
        "authorizer.messages": "100",
        "authorizer.user": "mallory",
    }
    return render(template, values | {variable: text}, raw=raw)
