"""A gateway in front of the emulator's REST and HTTP APIs that writes access logs, which the emulator does not.

    with Emulator() as emulator, Gateway(emulator, api_id="a1b2c3d4", stage="v1") as gateway:
        requests.get(f"{gateway.url}/items", headers={"x-api-key": "..."})
        gateway.flush()

A request goes to the deployed stage as it came; the answer comes back as it is; and a line in the format that the stage
carries goes to the log group or the stream of Firehose that the stage names. What a line holds stands in `log_line`.
"""

import asyncio
import base64
import contextlib
import json
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Self

import aiohttp
from aiohttp import web
from botocore.exceptions import BotoCoreError, ClientError
from multidict import CIMultiDict

from infra.local.aws.authorizers import Answers, Authorizer, Route
from infra.local.aws.emulator import Emulator
from infra.local.aws.forwarding import emulator_session, forward, forwarded
from infra.local.aws.front import StageFront
from infra.local.aws.json_web_tokens import JwtAuthorizer, RefusedError, Tokens, logged
from infra.local.aws.log_line import MISSING, Error, Exchange, Integration, Kind, render
from infra.local.aws.log_writer import AccessLog, Clocks
from infra.local.aws.stage import Place, Stage

REQUEST_ID: Final = "x-amzn-RequestId"
EXTENDED_REQUEST_ID: Final = "x-amz-apigw-id"
HTTP_REQUEST_ID: Final = "apigw-requestid"
ERROR_TYPE: Final = "x-amzn-ErrorType"  # API Gateway sends it with its own errors, not with a backend's
# The emulator's answers to a missing or unknown key, and its refusals in front of an HTTP API, lack that header.
KEY_REFUSED: Final = b'{"message":"Forbidden"}'
HTTP_REFUSALS: Final = ("Unauthorized", "Forbidden", "Not Found", "Internal Server Error")


def request_id(headers: Mapping[str, str]) -> str:
    """Return the caller's `x-amzn-RequestId` if it is a UUID, as API Gateway does, or else a new one."""
    try:
        return str(uuid.UUID(headers.get(REQUEST_ID, "")))
    except ValueError:
        return str(uuid.uuid4())


def extended_request_id() -> str:
    """Return a new identifier of the form that API Gateway makes; nothing that a caller sends has a part in it."""
    return base64.urlsafe_b64encode(secrets.token_bytes(11)).decode()


class Gateway(StageFront):
    """A stage's public side on 127.0.0.1 for as long as its `with` lasts, on an event loop in its own thread.

    - `emulator`, `api_id`, `stage`: the deployed REST or HTTP API. Its format and resources are read on entering: enter
      a new gateway after a deployment that changes them.
    - `clock`: seconds since the epoch, for the times in the lines and of the log events; `writes_by` is the clock of
      the log events alone, if that is another.
    - `url`: where callers send their requests, `{url}/{path}` for a resource `/{path}`.

    Every request is logged, whatever its answer; only one of more than 10 MiB (413) is not, as on AWS. Of authorizers
    it is logged what a REQUEST authorizer told and what a JSON Web Token claims. Leaving waits for the requests on
    their way and for their lines, and raises `AccessLogFailed` if some could not be written.
    """

    async def serve(self) -> None:
        """Read the stage, open its log, and forward."""
        apigateway, functions = self._emulator.client("apigateway"), self._emulator.client("lambda")
        try:
            stage = await asyncio.to_thread(Stage.read, self._emulator, api_id=self._api_id, name=self._stage_name)
            destination = await asyncio.to_thread(stage.open_log, self._emulator)
            self._lines = AccessLog(destination)
            with contextlib.closing(destination):
                async with emulator_session() as session:
                    keys, answers = ApiKeys(apigateway), Answers(functions)
                    door = _Door(
                        self._emulator, stage, keys, answers, Tokens(session), session, self._clocks, self._lines
                    )
                    async with self._lines:
                        await self.listen(door.answer)
        finally:
            apigateway.close()
            functions.close()


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the stage answered; `error` is what API Gateway says itself, in a backend's place."""

    status: int
    headers: CIMultiDict[str]
    body: bytes
    error: Error | None

    @classmethod
    def of_gateway(cls, status: HTTPStatus, error: Error, **headers: str) -> Self:
        body = json.dumps({"message": error.message}).encode()
        sent = CIMultiDict({"Content-Type": "application/json"} | {n.replace("_", "-"): v for n, v in headers.items()})
        return cls(status, sent, body, error)


class _Door:
    """One request: let it in, forward it, answer it, log it."""

    def __init__(  # noqa: PLR0913, PLR0917  it is where all parts of the gateway meet
        self,
        emulator: Emulator,
        stage: Stage,
        keys: "ApiKeys",
        answers: Answers,
        tokens: Tokens,
        session: aiohttp.ClientSession,
        clocks: Clocks,
        lines: AccessLog,
    ) -> None:
        self._base = f"{emulator.endpoint_url}/_aws/execute-api/{stage.api_id}/{stage.name}"
        self._account_id, self._region = emulator.account_id, emulator.region
        self._stage = stage
        self._keys = keys
        self._answers = answers
        self._tokens = tokens
        self._session = session
        self._clocks = clocks
        self._lines = lines

    async def answer(self, request: web.Request) -> web.Response:
        arrived_at, ticks = self._clocks.of_requests(), time.perf_counter()
        body = await request.read()
        place = self._stage.find(request.method, request.rel_url.raw_path)
        refusal, caller = await self._let_in(request, place)
        called = time.perf_counter()
        answer = refusal or await self._forward(request, place, body)
        answered = time.perf_counter()
        if place:
            caller |= await self._who_called(request, place, answer)
        latency_ms = round((answered - called) * 1000)
        is_lambda = place is not None and place.method.is_lambda
        identifiers = self._identifiers(request)
        exchange = Exchange(
            kind=self._stage.kind,
            account_id=self._account_id,
            api_id=self._stage.api_id,
            stage=self._stage.name,
            domain_name=request.host.partition(":")[0],
            at=int(arrived_at * 1000),
            **identifiers,
            method=request.method,
            path=f"{self._stage.root}{request.rel_url.raw_path}",
            source_ip=request.remote or "",
            user_agent=request.headers.get("User-Agent", ""),
            resource=place.name if place else "",
            status=answer.status,
            request_length=len(body),
            response_length=len(answer.body),
            response_latency_ms=round((answered - ticks) * 1000),
            integration=None if answer.error else Integration(answer.status, latency_ms, is_lambda=is_lambda),
            error=answer.error,
            caller=caller,
        )
        self._lines.add(int(self._clocks.of_log() * 1000), render(self._stage.format, exchange.variables()))
        answer.headers.update(self._told(exchange))
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    def _identifiers(self, request: web.Request) -> dict[str, str]:
        """Return a request's identifiers; of an HTTP API's there is one, and no caller has a part in it."""
        if self._stage.kind is Kind.HTTP:
            return {"request_id": extended_request_id()}
        return {"request_id": request_id(request.headers), "extended_request_id": extended_request_id()}

    def _told(self, exchange: Exchange) -> dict[str, str]:
        if self._stage.kind is Kind.HTTP:
            return {HTTP_REQUEST_ID: exchange.request_id}
        return {REQUEST_ID: exchange.request_id, EXTENDED_REQUEST_ID: exchange.extended_request_id}

    async def _let_in(self, request: web.Request, place: Place | None) -> tuple[_Answer | None, dict[str, str]]:
        """Return the refusal of a token that is not good, or what a good one claims; other callers go on.

        The emulator checks whom it is given once more.
        """
        authorizer = self._authorizer(place) if place else None
        if place is None or not isinstance(authorizer, JwtAuthorizer):
            return None, {}
        try:
            return None, logged(await self._tokens.claims(authorizer, request, place.method.scopes))
        except RefusedError as refused:
            why = {"authorizer.error": str(refused)}
            if refused.is_known:
                return _Answer.of_gateway(HTTPStatus.FORBIDDEN, Error("Forbidden", "ACCESS_DENIED")), why
            error = Error("Unauthorized", "UNAUTHORIZED")
            return _Answer.of_gateway(HTTPStatus.UNAUTHORIZED, error, www_authenticate="Bearer"), why

    async def _who_called(self, request: web.Request, place: Place, answer: _Answer) -> dict[str, str]:
        """Return what the line says of the caller: its API key, and what the method's authorizer told."""
        values: dict[str, str] = {}
        stage, authorizer = self._stage, self._authorizer(place)
        if isinstance(authorizer, Authorizer):
            route = Route(self._region, self._account_id, stage.api_id, stage.name, place.path, place.name)
            values |= await self._answers.of(authorizer, request, route)
        key = request.headers.get("x-api-key")
        if place.method.requires_key and key:
            # A key may have been deleted since it was looked up: a refusal is reason to look again.
            anew = answer.status == HTTPStatus.FORBIDDEN
            values["identity.apiKey"] = key
            values["identity.apiKeyId"] = await self._keys.id_of(key, anew=anew) or MISSING
        return values

    async def _forward(self, request: web.Request, place: Place | None, body: bytes) -> _Answer:
        try:
            async with forward(self._session, request, f"{self._base}{request.rel_url.raw_path_qs}", body) as response:
                content = await response.read()
                error = self._error(response, place, content)
                return _Answer(response.status, forwarded(response.headers), content, error)
        except TimeoutError:
            return _Answer.of_gateway(HTTPStatus.GATEWAY_TIMEOUT, Error("Endpoint request timed out"))
        except aiohttp.ClientError:
            return _Answer.of_gateway(HTTPStatus.BAD_GATEWAY, Error("Internal server error"))

    def _error(self, response: aiohttp.ClientResponse, place: Place | None, content: bytes) -> Error | None:
        """Return what the emulator says in a backend's place, or None where a backend has answered."""
        message = _message(content)
        if self._stage.kind is Kind.HTTP:
            asks = place is None or isinstance(self._authorizer(place), Authorizer)
            return Error(message) if asks and message in HTTP_REFUSALS else None
        if content in self._stage.refusals:
            return Error(self._stage.refusals[content])
        is_own = ERROR_TYPE in response.headers or content == KEY_REFUSED
        return Error(message) if is_own else None

    def _authorizer(self, place: Place) -> Authorizer | JwtAuthorizer | None:
        return self._stage.authorizers.get(place.method.authorizer_id or "")


def _message(content: bytes) -> str:
    try:
        answer = json.loads(content)
    except ValueError:
        return MISSING
    return str(answer.get("message", MISSING)) if isinstance(answer, dict) else MISSING


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
