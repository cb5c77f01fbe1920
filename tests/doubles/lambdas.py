"""What Lambda tells a function: of itself, and the events that AWS sends it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlencode

from aws_lambda_powertools.utilities.typing import LambdaContext

EVENTS: Final = Path(__file__).parent.parent / "events"
HOST: Final = "a1b2c3.execute-api.us-east-1.amazonaws.com"


@dataclass
class Context:
    """What Lambda tells a function of itself."""

    milliseconds: int
    function_name: str = "Metering-Function"
    function_version: str = "$LATEST"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:Metering-Function"
    aws_request_id: str = "52fdfc07-2182-454f-963f-5f0f9a621d72"

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the function may still run."""
        return self.milliseconds


def context(milliseconds: int = 240_000, function: str = "Metering-Function") -> LambdaContext:
    """Return what Lambda hands to a function that may run this long."""
    return cast("LambdaContext", Context(milliseconds, function))


def event(name: str) -> dict[str, Any]:
    """Return one of the events as AWS sends them."""
    return dict(json.loads((EVENTS / f"{name}.json").read_text()))


def request(
    method: str, path: str, query: Mapping[str, str] | None, headers: Mapping[str, str], body: str | None
) -> dict[str, Any]:
    """Return an HTTP API's event (API Gateway Developer Guide, "Payload format version 2.0")."""
    made: dict[str, Any] = {
        "version": "2.0",
        "routeKey": f"{method} {path}",
        "rawPath": path,
        "rawQueryString": urlencode(query or {}),
        "headers": dict(headers),
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "a1b2c3",
            "domainName": HOST,
            "domainPrefix": "a1b2c3",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.1",
                "userAgent": "test",
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": f"{method} {path}",
            "stage": "$default",
            "time": "22/Nov/2026:05:30:00 +0000",
            "timeEpoch": 1795325400000,
        },
        "isBase64Encoded": False,
    }
    if query:
        made["queryStringParameters"] = dict(query)
    if body is not None:
        made["body"] = body
    return made
