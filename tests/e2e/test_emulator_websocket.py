"""A real emulator with a WebSocket API in it, and the gateway that writes its access log."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from infra.local.aws.emulator import Emulator
from infra.local.aws.websocket import SocketGateway
from tests.e2e.test_emulator_gateway import LOG_GROUP, lines, make_function

FIELDS = {
    "event": "eventType",
    "route": "routeKey",
    "connection": "connectionId",
    "message": "messageId",
    "id": "requestId",
    "extended": "extendedRequestId",
    "time": "requestTimeEpoch",
    "status": "status",
    "user": "authorizer.user",
    "principal": "authorizer.principalId",
    "api": "apiId",
    "stage": "stage",
    "method": "httpMethod",
    "length": "responseLength",
    "error": "error.message",
}
FORMAT = json.dumps({name: f"$context.{variable}" for name, variable in FIELDS.items()})

AUTHORIZER = """
def handler(event, context):
    user = event["queryStringParameters"]["user"]
    if user == "nobody":
        raise Exception("Unauthorized")
    effect = "Deny" if user == "banned" else "Allow"
    statement = {"Action": "execute-api:Invoke", "Effect": effect, "Resource": event["methodArn"]}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    return {"principalId": "p1", "policyDocument": policy, "context": {"user": user}}
"""

BACKEND = """
import json, urllib.request

def handler(event, context):
    about = event["requestContext"]
    if about["eventType"] == "CONNECT":
        return {"statusCode": 503 if about["authorizer"]["user"] == "unlucky" else 200}
    if event["body"] == "fail":
        raise RuntimeError("asked to fail")
    if event["body"] == "post":
        url = f"http://{about['domainName']}/{about['stage']}/@connections/{about['connectionId']}"
        urllib.request.urlopen(urllib.request.Request(url, b"posted", method="POST")).read()
    told = {key: about.get(key) for key in ("routeKey", "eventType", "connectionId", "messageId", "requestId")}
    return {"statusCode": 200, "body": json.dumps({**told, "user": about["authorizer"]["user"]})}
"""

Socket = aiohttp.ClientWebSocketResponse


@dataclass(frozen=True, slots=True)
class Api:
    """A WebSocket API, stage `v1`, with routes `$connect`, `$disconnect`, `$default`, and `ask`, which answers."""

    emulator: Emulator
    api_id: str

    def gateway(self, clock: Callable[[], float] = time.time) -> SocketGateway:
        """Return a gateway of its stage."""
        return SocketGateway(self.emulator, api_id=self.api_id, stage="v1", clock=clock)


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """One emulator for this module."""
    with Emulator() as emulator:
        yield make_api(emulator)


def make_api(emulator: Emulator) -> Api:
    """Make the API, its functions, routes, stages and log group."""
    apigateway, logs = emulator.client("apigatewayv2"), emulator.client("logs")
    logs.create_log_group(logGroupName=LOG_GROUP)
    api_id = apigateway.create_api(
        Name="chat", ProtocolType="WEBSOCKET", RouteSelectionExpression="$request.body.action"
    )["ApiId"]
    uri = "arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{}/invocations"
    authorizer = apigateway.create_authorizer(
        ApiId=api_id,
        Name="callers",
        AuthorizerType="REQUEST",
        AuthorizerUri=uri.format(make_function(emulator, "authorizer", AUTHORIZER)),
        IdentitySource=["route.request.querystring.user"],
    )["AuthorizerId"]
    target = apigateway.create_integration(
        ApiId=api_id,
        IntegrationType="AWS_PROXY",
        IntegrationUri=uri.format(make_function(emulator, "backend", BACKEND)),
    )["IntegrationId"]
    routes = {
        "$connect": {"AuthorizationType": "CUSTOM", "AuthorizerId": authorizer},
        "$disconnect": {},
        "$default": {},
    }
    for key, more in {**routes, "ask": {"RouteResponseSelectionExpression": "$default"}}.items():
        route = apigateway.create_route(ApiId=api_id, RouteKey=key, Target=f"integrations/{target}", **more)
        if key == "ask":
            apigateway.create_route_response(ApiId=api_id, RouteId=route["RouteId"], RouteResponseKey="$default")
    to = f"arn:aws:logs:{emulator.region}:{emulator.account_id}:log-group:{LOG_GROUP}"
    settings = {"AccessLogSettings": {"DestinationArn": to, "Format": FORMAT}}
    for stage, more in {"v1": settings, "silent": {}}.items():
        apigateway.create_stage(ApiId=api_id, StageName=stage, **more)
    apigateway.close()
    logs.close()
    return Api(emulator, api_id)


def talk(gateway: SocketGateway, user: str, say: Callable[[Socket], Awaitable[Any]]) -> Any:
    """Connect as a user, and return what comes of what is said."""

    async def connected() -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{gateway.socket}?user={user}") as socket,
        ):
            return await say(socket)

    return asyncio.run(connected())


def lines_of(api: Api, connection: str) -> list[dict[str, Any]]:
    """Return a connection's lines in the order in which they were written."""
    return [line for line in lines(api.emulator) if line["connection"] == connection]


async def ask(socket: Socket) -> dict[str, Any]:
    """Send a message to the route that answers."""
    await socket.send_str('{"action": "ask"}')
    answer: dict[str, Any] = await socket.receive_json(timeout=60)
    return answer


def test_each_event_of_a_connection_has_a_line(api: Api) -> None:
    """Whose it is, which route took it, when, and an id for each; no method and no length of HTTP."""
    before = time.time()
    with api.gateway() as gateway:
        answer = talk(gateway, "ada", ask)
    connected, sent, left = lines_of(api, answer["connectionId"])
    assert [(line["event"], line["route"], line["status"]) for line in (connected, sent, left)] == [
        ("CONNECT", "$connect", "200"),
        ("MESSAGE", "ask", "200"),
        ("DISCONNECT", "$disconnect", "200"),
    ]
    for line in (connected, sent, left):
        assert (line["user"], line["principal"]) == ("ada", "p1")
        assert (line["api"], line["stage"], line["method"], line["length"]) == (api.api_id, "v1", "-", "-")
        assert line["id"] == line["extended"]
        assert before - 1 <= int(line["time"]) / 1000 <= time.time()
    assert len({line["id"] for line in (connected, sent, left)}) == 3
    assert (connected["message"], left["message"]) == ("-", "-")
    assert (sent["id"], sent["message"]) == (answer["requestId"], answer["messageId"])


def test_a_function_is_told_of_whom_the_authorizer_let_in(api: Api) -> None:
    """Also with a message, long after it was asked."""
    with api.gateway() as gateway:
        answer = talk(gateway, "bea", ask)
    assert (answer["user"], answer["eventType"], answer["routeKey"]) == ("bea", "MESSAGE", "ask")


def test_a_message_without_a_route_of_its_own_is_the_defaults_which_answers_nothing(api: Api) -> None:
    """No JSON, another action, or none; what the function answers goes back where the route has a response."""

    async def say(socket: Socket) -> dict[str, Any]:
        for message in ("hello", '{"action": "other"}', "[]"):
            await socket.send_str(message)
        return await ask(socket)  # the first answer that comes is this one's

    with api.gateway() as gateway:
        answer = talk(gateway, "cem", say)
    assert answer["routeKey"] == "ask"
    routes = [line["route"] for line in lines_of(api, answer["connectionId"]) if line["event"] == "MESSAGE"]
    assert routes == ["$default", "$default", "$default", "ask"]


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("", 401, "Unauthorized"),
        ("?user=banned", 403, "Forbidden"),
        ("?user=nobody", 500, "Internal server error"),
    ],
)
def test_a_handshake_that_is_refused_has_a_line_of_no_event(api: Api, query: str, status: int, says: str) -> None:
    """As was published of one, so that it bills nobody."""

    async def refused(url: str) -> int:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
                await session.ws_connect(url)
        return raised.value.status

    known = len(lines(api.emulator))
    with api.gateway() as gateway:
        assert asyncio.run(refused(gateway.socket + query)) == status
    (line,) = lines(api.emulator)[known:]
    nothing = ("event", "route", "connection", "message", "user", "principal")
    assert {name: line[name] for name in nothing} == dict.fromkeys(nothing, "-")
    assert (line["status"], line["error"]) == (str(status), says)
    assert line["id"] != line["extended"]


def test_a_connection_that_the_backend_refuses_is_one_that_failed(api: Api) -> None:
    """Its line has the event and who it was, with the status that the function chose."""
    known = len(lines(api.emulator))
    with api.gateway() as gateway, pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
        talk(gateway, "unlucky", ask)
    (line,) = lines(api.emulator)[known:]
    assert (line["event"], line["route"], line["status"], line["user"]) == ("CONNECT", "$connect", "503", "unlucky")


def test_a_message_whose_function_fails_is_answered_and_logged(api: Api) -> None:
    """The connection goes on."""

    async def say(socket: Socket) -> list[dict[str, Any]]:
        await socket.send_str("fail")
        return [await socket.receive_json(timeout=60), await ask(socket)]

    with api.gateway() as gateway:
        failed, asked = talk(gateway, "dov", say)
    assert failed["message"] == "Internal server error"
    statuses = [line["status"] for line in lines_of(api, asked["connectionId"]) if line["event"] == "MESSAGE"]
    assert statuses == ["500", "200"]


def test_what_a_function_sends_arrives_and_has_no_line(api: Api) -> None:
    """As of API Gateway, whose log has requests alone."""

    async def say(socket: Socket) -> tuple[str, dict[str, Any]]:
        await socket.send_str("post")
        return await socket.receive_str(timeout=60), await ask(socket)

    with api.gateway() as gateway:
        posted, asked = talk(gateway, "eve", say)
    assert posted == "posted"
    assert [line["event"] for line in lines_of(api, asked["connectionId"])] == [
        "CONNECT",
        "MESSAGE",
        "MESSAGE",
        "DISCONNECT",
    ]


def test_who_is_gone_cannot_be_sent_anything(api: Api) -> None:
    """410, as documented."""

    async def post(url: str) -> int:
        async with aiohttp.ClientSession() as session, session.post(url, data=b"hello") as answer:
            return answer.status

    with api.gateway() as gateway:
        gone = talk(gateway, "fay", ask)["connectionId"]
        assert asyncio.run(post(f"{gateway.url}/v1/@connections/{gone}")) == 410


def test_a_binary_frame_ends_the_connection(api: Api) -> None:
    """With 1003, as documented."""

    async def say(socket: Socket) -> int | None:
        await socket.send_bytes(b"\x00")
        await socket.receive(timeout=60)
        return socket.close_code

    with api.gateway() as gateway:
        assert talk(gateway, "gil", say) == 1003


def test_leaving_the_gateway_ends_what_is_connected_and_writes_its_lines(api: Api) -> None:
    """I1: also the last ones."""

    async def stay(gateway: SocketGateway) -> str:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{gateway.socket}?user=hal") as socket:
            connection = (await ask(socket))["connectionId"]
            await asyncio.to_thread(gateway.__exit__, None, None, None)
            assert (await socket.receive(timeout=60)).type is aiohttp.WSMsgType.CLOSE
            return str(connection)

    connection = asyncio.run(stay(api.gateway().__enter__()))
    assert [line["event"] for line in lines_of(api, connection)] == ["CONNECT", "MESSAGE", "DISCONNECT"]


def test_a_stage_without_an_access_log_is_refused(api: Api) -> None:
    """Nothing could be logged."""
    with (
        pytest.raises(ValueError, match=r"stage silent .* must log to a log group, got no access log"),
        SocketGateway(api.emulator, api_id=api.api_id, stage="silent"),
    ):
        pass


def test_the_clock_decides_about_times(api: Api) -> None:
    """A demonstration may play two hours ago."""
    with api.gateway(clock=lambda: time.time() - 7_200) as gateway:
        answer = talk(gateway, "ivo", ask)
    for line in lines_of(api, answer["connectionId"]):
        assert abs(int(line["time"]) / 1000 + 7_200 - time.time()) < 600
