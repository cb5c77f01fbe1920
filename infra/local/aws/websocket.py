"""A gateway for the emulator's WebSocket APIs that writes access logs.

    with Emulator() as emulator, SocketGateway(emulator, api_id="a1b2c3d4", stage="v1") as gateway:
        async with session.ws_connect(f"{gateway.socket}?ticket=…") as socket:
            await socket.send_str('{"action": "say"}')

The emulator takes connections to a WebSocket API itself, but writes no lines, has ids of its own for what happens, and
sends each function's answer back. So this gateway stands in its place: it asks the authorizer of `$connect`, selects
routes, and invokes the functions.

What it does is documented in docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-websocket-api-…
route-keys-connect-disconnect.html (what happens when), …lambda-auth.html (the authorizer), …routes-integrations.html
(messages), and in …/apigateway-how-to-call-websocket-api-connections.html (what functions send). A handshake that is
refused has the line that was published of one: an id that is a UUID, and neither event nor route nor connection
(tests/events/access_log_lines.json). Documented nowhere, and so not to be relied on, are

- that the line of a message says what the authorizer told when the connection was made, as it does here;
- that there is no line of a disconnection which no route takes;
- the status of a message that no route takes (403), or whose function fails (500, as published of `$connect`).
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from aiohttp import web
from botocore.exceptions import BotoCoreError, ClientError

from infra.local.aws.authorizers import told_by
from infra.local.aws.emulator import Emulator
from infra.local.aws.front import StageFront
from infra.local.aws.log_line import Error, Exchange, Kind, render
from infra.local.aws.log_writer import AccessLog, Clocks
from infra.local.aws.socket_events import Answer, Connection, Event, new_id
from infra.local.aws.socket_stage import CONNECT, DISCONNECT, Route, SocketStage, allows

SUCCEEDS: Final = range(200, 300)
NO_STATUS: Final = 1005
"""RFC 6455, section 7.4.1: a connection that was closed without a code."""

MESSAGES: Final = {
    HTTPStatus.UNAUTHORIZED: "Unauthorized",
    HTTPStatus.FORBIDDEN: "Forbidden",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Internal server error",
}


class SocketGateway(StageFront):
    """A stage's public side on 127.0.0.1 for as long as its `with` lasts, on an event loop in its own thread.

    What it is given is as a `Gateway`'s. Clients connect to `socket`. Functions send by
    `http://<domainName>/<stage>/@connections/<connectionId>`, which writes no line, and need no signature. Leaving
    closes what is connected, and waits for the lines.
    """

    @property
    def socket(self) -> str:
        """Where clients connect."""
        return f"{self.url.replace('http', 'ws', 1)}/{self._stage_name}"

    async def serve(self) -> None:
        """Read the stage, open its log, and take connections."""
        functions = self._emulator.client("lambda")
        try:
            stage = await asyncio.to_thread(
                SocketStage.read, self._emulator, api_id=self._api_id, name=self._stage_name
            )
            destination = await asyncio.to_thread(stage.open_log, self._emulator)
            self._lines = AccessLog(destination)
            with contextlib.closing(destination):
                async with self._lines:
                    door = _Door(self._emulator, stage, functions, self._clocks, self._lines)
                    closing = asyncio.create_task(self._close(door))
                    await self.listen(door.answer)
                    await closing
        finally:
            functions.close()

    async def _close(self, door: "_Door") -> None:
        await self.ended()
        for connection in list(door.connected.values()):
            await connection.socket.close(code=aiohttp.WSCloseCode.GOING_AWAY)


class _Door:
    """Lets connections in, takes their messages, and writes a line of each event."""

    def __init__(
        self, emulator: Emulator, stage: SocketStage, functions: Any, clocks: Clocks, lines: AccessLog
    ) -> None:
        self._account_id, self._region = emulator.account_id, emulator.region
        self._stage = stage
        self._functions = functions
        self._clocks = clocks
        self._lines = lines
        self.connected: dict[str, Connection] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        root, path = f"/{self._stage.name}", request.path
        if path.startswith(f"{root}/@connections/"):
            return await self._manage(request, path.removeprefix(f"{root}/@connections/"))
        if path.rstrip("/") != root or not web.WebSocketResponse().can_prepare(request):
            return _refusal(HTTPStatus.FORBIDDEN)
        return await self._connect(request)

    async def _manage(self, request: web.Request, connection_id: str) -> web.Response:
        """Send a client a message, or close its connection, as a function asks for."""
        connection = self.connected.get(connection_id)
        if connection is None:
            return web.Response(status=HTTPStatus.GONE, headers={"x-amzn-ErrorType": "GoneException"})
        if request.method == "DELETE":
            await connection.socket.close()
            return web.Response(status=HTTPStatus.NO_CONTENT)
        await connection.socket.send_str(await request.text())
        return web.Response()

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        at, agent = self._now(), request.headers.get("User-Agent", "")
        connection = Connection(request.host, request.remote or "", agent, at)
        route = self._stage.routes.get(CONNECT, Route(CONNECT))
        event = Event(connection, "CONNECT", route, at, more=_handshake(request))
        if refused := await self._refused(request, event):
            self._write_refusal(connection, refused)
            return _refusal(refused)
        answer = await self._happen(event)
        if answer.status not in SUCCEEDS:
            return _refusal(answer.status)
        await connection.socket.prepare(request)
        self.connected[connection.id] = connection
        try:
            await self._take_messages(connection)
        finally:
            del self.connected[connection.id]
            if leaving := self._stage.routes.get(DISCONNECT):
                code = connection.socket.close_code or NO_STATUS
                why = {"disconnectStatusCode": code, "disconnectReason": ""}
                await self._happen(Event(connection, "DISCONNECT", leaving, self._now(), context=why))
        return connection.socket

    async def _refused(self, request: web.Request, event: Event) -> int:
        """Ask the authorizer, and return the status by which it refuses, or 0; note what it told."""
        authorizer, stage = self._stage.authorizer, self._stage
        if authorizer is None:
            return 0
        if authorizer.identity(request) is None:
            return HTTPStatus.UNAUTHORIZED
        arn = f"arn:aws:execute-api:{self._region}:{self._account_id}:{stage.api_id}/{stage.name}/{CONNECT}"
        asked = {"type": "REQUEST", "methodArn": arn, "stageVariables": {}, **event.payload(stage)}
        answer = await self._invoke(authorizer.function, asked)
        if not (isinstance(answer, dict) and isinstance(answer.get("policyDocument"), dict)):
            return HTTPStatus.INTERNAL_SERVER_ERROR
        event.connection.told = told_by(answer)
        return 0 if allows(answer["policyDocument"], arn) else HTTPStatus.FORBIDDEN

    async def _take_messages(self, connection: Connection) -> None:
        """Until the client leaves, or sends what cannot be taken."""
        async for frame in connection.socket:
            if frame.type is not aiohttp.WSMsgType.TEXT:
                await connection.socket.close(code=aiohttp.WSCloseCode.UNSUPPORTED_DATA)
                return
            route = self._stage.select(frame.data)
            event = Event(connection, "MESSAGE", route, self._now(), body=frame.data, message_id=new_id())
            answer = await self._happen(event)
            if answer.failed:
                about = {"connectionId": connection.id, "requestId": event.id}
                await connection.socket.send_str(json.dumps({"message": _message(answer.status), **about}))
            elif route and route.answers and answer.body:
                await connection.socket.send_str(answer.body)

    async def _happen(self, event: Event) -> Answer:
        """Have the route's function answer to an event, and write its line."""
        began = time.perf_counter()
        answer = await self._ask(event)
        latency_ms = round((time.perf_counter() - began) * 1000)
        self._write(event.exchange(self._stage, self._account_id, answer, latency_ms))
        return answer

    async def _ask(self, event: Event) -> Answer:
        if event.route is None:
            return Answer(HTTPStatus.FORBIDDEN, failed=True)
        if not event.route.function:
            return Answer(HTTPStatus.OK)
        answer = await self._invoke(event.route.function, event.payload(self._stage))
        if not (isinstance(answer, dict) and isinstance(answer.get("statusCode"), int)):
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, failed=True)
        return Answer(answer["statusCode"], str(answer.get("body") or ""))

    async def _invoke(self, function: str, event: Mapping[str, Any]) -> Any:
        """Return what a function answers, or None where it fails."""
        try:
            payload = json.dumps(event).encode()
            answer = await asyncio.to_thread(self._functions.invoke, FunctionName=function, Payload=payload)
            content = await asyncio.to_thread(answer["Payload"].read)
            return None if "FunctionError" in answer else json.loads(content)
        except (BotoCoreError, ClientError, ValueError):
            return None

    def _write_refusal(self, connection: Connection, status: int) -> None:
        """Write the line of a handshake that no route was asked for."""
        self._write(
            Exchange(
                kind=Kind.WEBSOCKET,
                account_id=self._account_id,
                api_id=self._stage.api_id,
                stage=self._stage.name,
                domain_name=connection.host.partition(":")[0],
                at=connection.at,
                request_id=str(uuid.uuid4()),
                extended_request_id=new_id(),
                source_ip=connection.source_ip,
                user_agent=connection.user_agent,
                status=status,
                error=Error(_message(status)),
            )
        )

    def _write(self, exchange: Exchange) -> None:
        self._lines.add(int(self._clocks.of_log() * 1000), render(self._stage.format, exchange.variables()))

    def _now(self) -> int:
        return int(self._clocks.of_requests() * 1000)


def _handshake(request: web.Request) -> dict[str, Any]:
    headers = {name: request.headers.getall(name) for name in request.headers}
    query = {name: request.query.getall(name) for name in request.query}
    return {
        "headers": {name: values[-1] for name, values in headers.items()},
        "multiValueHeaders": headers,
        "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
        "multiValueQueryStringParameters": query or None,
    }


def _message(status: int) -> str:
    return MESSAGES.get(HTTPStatus(status), HTTPStatus(status).phrase)


def _refusal(status: int) -> web.Response:
    return web.json_response({"message": _message(status)}, status=status)
