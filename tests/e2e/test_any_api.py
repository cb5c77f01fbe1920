"""APIs that this app did not deploy: connected by one command each, metered, and given back as they were."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from infra.local.aws.gateway import Gateway
from infra.local.aws.json_web_tokens import Issuer
from infra.local.cloud import CLOCK_BACK
from infra.local.demo.holdings import counted_usage, ledger_usage, stripe_usage
from infra.local.demo.steps import wait_until
from infra.local.fronts import Fronts
from infra.operate.connections.first_line import wait_for_first_line
from infra.operate.doctor.connections import check_connections
from metering.model.periods import Hour
from tests.e2e.conftest import Deployed
from tests.e2e.foreign_apis import (
    Foreign,
    Settings,
    call,
    client,
    make_http_api,
    make_rest_api,
    make_socket_api,
    metering,
    talk,
)

THEIRS = {
    "id": "$context.extendedRequestId",
    "at": "$context.requestTimeEpoch",
    "who": {"key": "$context.identity.apiKeyId", "ip": "$context.identity.sourceIp"},
    "status": "$context.status",
    "length": "$context.responseLength",
    "route": "$context.httpMethod $context.resourcePath",
    "messages": "$context.authorizer.messages",
    "user": "$context.authorizer.user",
}
"""A format that somebody chose without knowing of metering: what these metrics read stands in it, and more."""


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """Who gives tokens."""
    with Issuer() as there:
        yield there


@contextmanager
def fronts(deployed: Deployed) -> Iterator[Mapping[str, str]]:
    """Open what stands in front of the connected stages, by their connections' names, as ``metering local`` does."""
    with Fronts(deployed.cloud.emulator, CLOCK_BACK) as there:
        there.be_of(deployed.cloud.deployment.connections.all())
        yield there.addresses


def held(deployed: Deployed, names: list[str]) -> list[dict[tuple[str, str], int]]:
    """Close, and return what counters, ledger and Stripe hold of customers."""
    deployment = deployed.cloud.deployment
    deployment.close()
    span = (deployed.hour, Hour.containing(datetime.now(UTC) - CLOCK_BACK).next())
    return [
        dict(counted_usage(deployment, names, span).usage),
        dict(ledger_usage(deployment, names, span).usage),
        dict(stripe_usage(deployment, names, span)),
    ]


def counted(deployed: Deployed, key: str) -> int:
    """Return how many requests of a key are counted, in this hour and the next."""
    hours = (deployed.hour, deployed.hour.next())
    found = [deployed.cloud.deployment.counters.read(hour, [key]).get(key) for hour in hours]
    return sum(amounts.sums.get("requests", 0) for amounts in found if amounts is not None)


def connect(deployed: Deployed, stage: Foreign, *more: str) -> dict[str, object]:
    """Connect a stage by one command, and return what it says of the connection."""
    told: dict[str, object] = metering(
        deployed.cloud, "connect", stage.api_id, stage.stage, "--yes", "--no-wait", *more
    )["connection"]
    assert told["step"] == "connected"
    return told


def said_of_connections(deployed: Deployed) -> list[str]:
    """Return what the doctor says of connections."""
    return [found.said for found in check_connections(deployed.cloud.deployment, datetime.now(UTC))]


def test_an_api_of_each_kind_is_connected_metered_and_given_back(deployed: Deployed, issuer: Issuer) -> None:
    """I1 to I5: sent = counted = ledger = Stripe, and afterwards no stage is another than it was."""
    emulator = deployed.cloud.emulator
    orders = make_rest_api(emulator, "orders")
    accounts = make_http_api(emulator, "accounts", issuer)
    chat = make_socket_api(emulator, "chat")
    live = {"orders": orders, "accounts": accounts, "chat": chat}
    assert [stage.settings for stage in live.values()] == [Settings()] * 3
    connected = {name: connect(deployed, stage) for name, stage in live.items()}
    assert {name: told["name"] for name, told in connected.items()} == {name: name for name in live}
    keys = {"orders": orders.key_id, "accounts": "accounts:ada", "chat": "chat:ada"}
    for name, key in keys.items():
        deployed.customer(f"of{name}", key)

    token = {"authorization": f"Bearer {issuer.token('ada')}"}
    with fronts(deployed) as there:
        assert call(f"{there['orders']}/items", [{"x-api-key": orders.key}] * 5 + [{}]) == [200] * 5 + [403]
        assert call(f"{there['accounts']}/items", [token] * 4 + [{}]) == [200] * 4 + [401]
        talk(f"{there['chat']}?user=ada", messages=3)

    sent = {"orders": 5, "accounts": 4, "chat": 5}  # of which two are that the connection began, and ended
    wait_until(lambda: {name: counted(deployed, key) for name, key in keys.items()} == sent)
    customers = [f"of{name}" for name in live]
    for holds in held(deployed, customers):
        assert {name: holds.get((f"of{name}", "requests"), 0) for name in live} == sent
    listed = {one["name"]: one for one in metering(deployed.cloud, "connections")}
    assert {name: (listed[name]["kind"], listed[name]["step"]) for name in live} == {
        "orders": ("rest", "connected"),
        "accounts": ("http", "connected"),
        "chat": ("websocket", "connected"),
    }
    assert all(listed[name]["last_line"] for name in live)
    assert said_of_connections(deployed) == ["accounts, chat, orders as connected, and delivered"]

    for name in live:
        assert metering(deployed.cloud, "disconnect", name, "--yes")["connection"]["step"] == "disconnected"
    assert [stage.settings for stage in live.values()] == [Settings()] * 3
    assert {name: counted(deployed, key) for name, key in keys.items()} == sent


def test_a_stage_with_a_format_of_its_own_is_billed_in_place(deployed: Deployed) -> None:
    """Case B: it is left alone all the time, and its log group is read no longer afterwards."""
    theirs = make_rest_api(deployed.cloud.emulator, "shop", log=("shop-access", json.dumps(THEIRS)))
    before = theirs.settings
    assert (before.format, before.destination.rpartition(":")[2]) == (json.dumps(THEIRS), "shop-access")
    assert connect(deployed, theirs)["form"] == "theirs"
    assert theirs.settings == before
    assert said_of_connections(deployed) == ["shop as connected, and delivered"]
    deployed.customer("ofshop", theirs.key_id)
    with fronts(deployed) as there:
        assert call(f"{there['shop']}/items", [{"x-api-key": theirs.key}] * 2 + [{}]) == [200, 200, 403]
    wait_until(lambda: counted(deployed, theirs.key_id) == 2)
    deployment = deployed.cloud.deployment
    shop = deployment.connections.get("shop")
    first = wait_for_first_line(deployment, shop, patience=timedelta(0)) if shop else None
    assert first is not None
    assert (first.customer, first.key, first.amounts["requests"], first.why) == ("ofshop", theirs.key_id, 1, "")
    assert [holds["ofshop", "requests"] for holds in held(deployed, ["ofshop"])] == [2, 2, 2]

    metering(deployed.cloud, "disconnect", "shop", "--yes")
    assert theirs.settings == before
    with client(deployed.cloud.emulator, "logs") as logs:
        assert logs.describe_subscription_filters(logGroupName="shop-access")["subscriptionFilters"] == []
    with Gateway(theirs.emulator, api_id=theirs.api_id, stage=theirs.stage) as there:
        assert call(f"{there.url}/items", [{"x-api-key": theirs.key}]) == [200]
    assert counted(deployed, theirs.key_id) == 2


def test_a_format_that_lacks_a_field_is_extended_and_put_back(deployed: Deployed) -> None:
    """Case C: only when it is asked for, with what was there behind it as it was."""
    format_before = '{"ip": "$context.identity.sourceIp", "requestId": "$context.requestId", "status": $context.status}'
    theirs = make_rest_api(deployed.cloud.emulator, "depot", log=("depot-access", format_before))
    before = theirs.settings
    assert connect(deployed, theirs, "--extend")["form"] == "extended"
    after = theirs.settings
    assert after.destination == before.destination
    assert after.format.startswith('{"metering":{"metering":"1:')
    assert after.format.endswith(format_before[1:])
    assert said_of_connections(deployed) == ["depot as connected, and delivered"]
    deployed.customer("ofdepot", theirs.key_id)
    with fronts(deployed) as there:
        assert call(f"{there['depot']}/items", [{"x-api-key": theirs.key}] * 3 + [{}]) == [200] * 3 + [403]
    wait_until(lambda: counted(deployed, theirs.key_id) == 3)
    assert [holds["ofdepot", "requests"] for holds in held(deployed, ["ofdepot"])] == [3, 3, 3]
    metering(deployed.cloud, "disconnect", "depot", "--yes")
    assert theirs.settings == before
