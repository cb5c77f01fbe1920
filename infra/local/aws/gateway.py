"""A gateway in front of the emulator's REST APIs that writes access logs, which the emulator does not.

    with Emulator() as emulator, Gateway(emulator, api_id="a1b2c3d4", stage="v1") as gateway:
        requests.get(f"{gateway.url}/items", headers={"x-api-key": "..."})
        gateway.flush()

A request goes to the deployed stage as it came; the answer comes back as it is; and a line in the format that the stage
carries goes to the log group or the stream of Firehose that the stage names. Names of variables and what they hold:
docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-variables-for-access-logging.html
"""

import asyncio
import base64
import contextlib
import json
import re
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, Self

import aiohttp
from aiohttp import web
from botocore.exceptions import BotoCoreError, ClientError
from multidict import CIMultiDict

from infra.local.aws.authorizers import Answers, Route
from infra.local.aws.emulator import Emulator
from infra.local.aws.forwarding import Forwarder, emulator_session, forward, forwarded
from infra.local.aws.log_writer import AccessLog
from infra.local.aws.stage import Resource, Stage, match

MISSING: Final = "-"
MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# An authorizer chooses its properties' names and a mapping template those of headers; all other names are words.
VARIABLE: Final = re.compile(r"\$context\.((?:authorizer(?:\.claims)?|responseOverride\.header)\.[\w-]+|\w+(?:\.\w+)*)")

REQUEST_ID: Final = "x-amzn-RequestId"
EXTENDED_REQUEST_ID: Final = "x-amz-apigw-id"
ERROR_TYPE: Final = "x-amzn-ErrorType"  # API Gateway sends it with its own errors, not with a backend's
KEY_REFUSED: Final = b'{"message":"Forbidden"}'  # the emulator's answer to a missing or unknown key lacks that header


def render(template: str, values: Mapping[str, str]) -> str:
    """Return the access-log line: `template` with each `$context.<name>` replaced by its value, or by `-` without one.

    It is plain text substitution, as API Gateway's: a value is neither escaped nor looked at again, and a name is read
    as far as it goes, so that `$context.identity.apiKeyId` is not `$context.identity.apiKey` followed by `Id`.
    """
    return VARIABLE.sub(lambda found: values.get(found[1]) or MISSING, template)


def request_time(seconds: float) -> str:
    """Return `seconds` since the epoch as `$context.requestTime`: `09/Apr/2026:12:34:56 +0000`, whatever the locale."""
    at = datetime.fromtimestamp(seconds, UTC)
    return f"{at.day:02}/{MONTHS[at.month - 1]}/{at:%Y:%H:%M:%S} +0000"


def request_id(headers: Mapping[str, str]) -> str:
    """Return the caller's `x-amzn-RequestId` if it is a UUID, as API Gateway does, or else a new one."""
    try:
        return str(uuid.UUID(headers.get(REQUEST_ID, "")))
    except ValueError:
        return str(uuid.uuid4())


def extended_request_id() -> str:
    """Return a new identifier of the form that API Gateway makes; nothing that a caller sends has a part in it."""
    return base64.urlsafe_b64encode(secrets.token_bytes(11)).decode()


class Gateway(Forwarder):
    """A stage's public side on 127.0.0.1 for as long as its `with` lasts, on an event loop in its own thread.

    - `emulator`, `api_id`, `stage`: the deployed REST API. Its format and resources are read on entering: enter a new
      gateway after a deployment that changes them.
    - `clock`: seconds since the epoch, for the times in the lines and of the log events.
    - `url`: where callers send their requests, `{url}/{path}` for a resource `/{path}`.

    Every request is logged, whatever its answer; only one of more than 10 MiB (413) is not, as on AWS. The variables of
    REQUEST authorizers are logged, those of other kinds are `-`. Leaving waits for the requests on their way and for
    their lines, and raises `AccessLogFailed` if some could not be written.
    """

    url: str

    def __init__(self, emulator: Emulator, *, api_id: str, stage: str, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._emulator = emulator
        self._api_id = api_id
        self._stage_name = stage
        self._clock = clock

    def flush(self) -> None:
        """Return when the lines of every request answered so far are where they go; else `AccessLogFailed`."""
        asyncio.run_coroutine_threadsafe(self._lines.flush(), self.loop).result()

    async def serve(self) -> None:
        """Read the stage, open its log, and forward."""
        apigateway, functions = self._emulator.client("apigateway"), self._emulator.client("lambda")
        try:
            stage = await asyncio.to_thread(Stage.read, apigateway, api_id=self._api_id, name=self._stage_name)
            destination = await asyncio.to_thread(stage.open_log, self._emulator)
            self._lines = AccessLog(destination)
            with contextlib.closing(destination):
                async with emulator_session() as session:
                    keys, answers = ApiKeys(apigateway), Answers(functions)
                    door = _Door(self._emulator, stage, keys, answers, session, self._clock, self._lines.add)
                    async with self._lines:
                        await self.listen(door.answer)
        finally:
            apigateway.close()
            functions.close()


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the stage answered; `error` is the message of an answer that came from API Gateway, not from a backend."""

    status: int
    headers: CIMultiDict[str]
    body: bytes
    error: str | None

    @classmethod
    def of_gateway(cls, status: HTTPStatus, message: str) -> Self:
        body = json.dumps({"message": message}).encode()
        return cls(status, CIMultiDict({"Content-Type": "application/json"}), body, message)


class _Door:
    """One request: forward it, answer it, log it."""

    def __init__(  # noqa: PLR0913, PLR0917  it is where all parts of the gateway meet
        self,
        emulator: Emulator,
        stage: Stage,
        keys: "ApiKeys",
        answers: Answers,
        session: aiohttp.ClientSession,
        clock: Callable[[], float],
        log: Callable[[int, str], None],
    ) -> None:
        self._base = f"{emulator.endpoint_url}/_aws/execute-api/{stage.api_id}/{stage.name}"
        self._account_id, self._region = emulator.account_id, emulator.region
        self._stage = stage
        self._keys = keys
        self._answers = answers
        self._session = session
        self._clock = clock
        self._log = log

    async def answer(self, request: web.Request) -> web.Response:
        arrived_at, ticks = self._clock(), time.perf_counter()
        body = await request.read()
        resource = match(self._stage.resources, request.method, request.rel_url.raw_path)
        called = time.perf_counter()
        answer = await self._forward(request, body)
        answered = time.perf_counter()
        values = {
            "accountId": self._account_id,
            "apiId": self._stage.api_id,
            "stage": self._stage.name,
            "extendedRequestId": extended_request_id(),
            "requestId": request_id(request.headers),
            "requestTimeEpoch": str(int(arrived_at * 1000)),
            "requestTime": request_time(arrived_at),
            "httpMethod": request.method,
            "path": f"/{self._stage.name}{request.rel_url.raw_path}",
            "protocol": f"HTTP/{request.version.major}.{request.version.minor}",
            "identity.sourceIp": request.remote or MISSING,
            "identity.userAgent": request.headers.get("User-Agent", MISSING),
            "status": str(answer.status),
            "responseLength": str(len(answer.body)),
            "responseLatency": _milliseconds(answered - ticks),
        }
        if answer.error is None:
            latency = _milliseconds(answered - called)
            values |= {
                "integration.status": str(answer.status),
                "integrationStatus": str(answer.status),
                "integration.latency": latency,
                "integrationLatency": latency,
            }
        else:
            values |= {"error.message": answer.error, "error.messageString": json.dumps(answer.error)}
        if resource is not None:
            values["resourcePath"] = resource.path
            values |= await self._who_called(request, resource, answer)
        self._log(int(self._clock() * 1000), render(self._stage.format, values))
        headers = answer.headers
        headers[REQUEST_ID] = values["requestId"]
        headers[EXTENDED_REQUEST_ID] = values["extendedRequestId"]
        return web.Response(status=answer.status, headers=headers, body=answer.body)

    async def _who_called(self, request: web.Request, resource: Resource, answer: _Answer) -> dict[str, str]:
        """Return what the line says of the caller: its API key, and what the method's authorizer told."""
        method = resource.serving(request.method)
        if method is None:
            return {}
        values: dict[str, str] = {}
        if authorizer := self._stage.authorizers.get(method.authorizer_id or ""):
            stage = self._stage
            route = Route(self._region, self._account_id, stage.api_id, stage.name, resource.path)
            values |= await self._answers.of(authorizer, request, route)
        key = request.headers.get("x-api-key")
        if method.requires_key and key:
            # A key may have been deleted since it was looked up: a refusal is reason to look again.
            anew = answer.status == HTTPStatus.FORBIDDEN
            values["identity.apiKey"] = key
            values["identity.apiKeyId"] = await self._keys.id_of(key, anew=anew) or MISSING
        return values

    async def _forward(self, request: web.Request, body: bytes) -> _Answer:
        try:
            async with forward(self._session, request, f"{self._base}{request.rel_url.raw_path_qs}", body) as response:
                content = await response.read()
                return _Answer(response.status, forwarded(response.headers), content, _message(response, content))
        except TimeoutError:
            return _Answer.of_gateway(HTTPStatus.GATEWAY_TIMEOUT, "Endpoint request timed out")
        except aiohttp.ClientError:
            return _Answer.of_gateway(HTTPStatus.BAD_GATEWAY, "Internal server error")


def _message(response: aiohttp.ClientResponse, content: bytes) -> str | None:
    if ERROR_TYPE not in response.headers and content != KEY_REFUSED:
        return None
    try:
        answer = json.loads(content)
    except ValueError:
        return MISSING
    return str(answer.get("message", MISSING)) if isinstance(answer, dict) else MISSING


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


class ApiKeys:
    """The ids behind the values of API keys (GetApiKeys with values), kept, and read again when one is not found."""

    def __init__(self, apigateway: Any) -> None:
        self._apigateway = apigateway
        self._ids: Mapping[str, str] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def id_of(self, value: str, *, anew: bool) -> str | None:
        """Return the id of the key with this value, or `None`; `anew` distrusts what was read before this call."""
        asked_at = time.monotonic()
        if anew or value not in self._ids:
            async with self._reading:
                if self._read_at < asked_at:  # else another request has read them while this one waited
                    self._read_at = time.monotonic()
                    # Without an answer a key is as good as unknown: the request has its line all the same.
                    with contextlib.suppress(BotoCoreError, ClientError):
                        self._ids = await asyncio.to_thread(self._read)
        return self._ids.get(value)

    def _read(self) -> dict[str, str]:
        pages = self._apigateway.get_paginator("get_api_keys").paginate(includeValues=True)
        return {item["value"]: item["id"] for page in pages for item in page["items"]}
