"""Tables, bucket and secrets in memory, moto for the rest of AWS, and the local Stripe."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import boto3
import pytest
from moto import mock_aws  # before a session is made, which would not know of moto

from infra.local.stripe.server import LocalStripe
from metering.stores import aws as clients
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stores.set_aside import SetAside
from metering.stores.switch import Switch
from tests.doubles.aws import Account
from tests.doubles.clock import Clock
from tests.doubles.stripe import in_process
from tests.doubles.stripe_types import typed_calls
from tests.doubles.usage_plans import UsagePlansOfAws
from tests.integration.billing import Billing, subscribed
from tests.integration.limit_desk import Desk
from tests.integration.raw import Raw, raw_of
from tests.integration.world import HOUR, World


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """An empty AWS account, for all clients that are made; moto begins with the first that is not in memory."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "POWERTOOLS_SERVICE_NAME": "Metering",
        "POWERTOOLS_METRICS_NAMESPACE": "Metering",
    }.items():
        monkeypatch.setenv(name, value)
    in_moto, account = boto3.Session.client, Account()
    begun: list[object] = []
    with contextlib.ExitStack() as stack:

        def client(session: Any, service: Any, **how: Any) -> Any:
            if service in account.services:
                return account.client(service)
            if not begun:
                begun.append(stack.enter_context(mock_aws(config={"core": {"mock_credentials": False}})))
            return in_moto(session, service, **how)

        monkeypatch.setattr(boto3.Session, "client", client)
        _forget()
        yield account
        _forget()


def _forget() -> None:
    """Forget the clients that a process has made."""
    made = (clients.dynamodb, clients.s3, clients.functions, clients.events, clients.secrets)
    for cached in (*made, clients.queues, clients.apigateway):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def few_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in these tests depends on how many partitions there are, and each is a read."""
    for name in ("claims.SHARDS", "marks.PARTITIONS", "rows.SHARDS"):
        monkeypatch.setattr(f"metering.stores.{name}", 2)


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what waits before it tries again wait hardly at all."""
    monkeypatch.setattr("metering.stripe.pacing.LONGEST_PAUSE", 0.01)
    monkeypatch.setattr("metering.stripe.reading.A_SECOND", 10_000)
    monkeypatch.setattr("metering.limits.usage_plans.CALLS_A_SECOND", 10_000.0)


@pytest.fixture
def clock() -> Clock:
    """The world's clock, in the middle of its hour."""
    return Clock(HOUR.start + timedelta(minutes=30))


@pytest.fixture(autouse=True)
def stripe_at_hand(request: pytest.FixtureRequest) -> Iterator[None]:
    """The local Stripe is called without HTTP, but where it is compared with another over HTTP."""
    with contextlib.nullcontext() if "mock_client" in request.fixturenames else in_process():
        yield


@pytest.fixture(autouse=True)
def typed() -> Iterator[None]:
    """Whatever is sent to Stripe is of the types that Stripe's own SDK has for it."""
    with typed_calls():
        yield


@pytest.fixture
def stripe_time() -> Callable[[], float]:
    """The time at Stripe, which stands still, an hour after the world's."""
    return (HOUR.end + timedelta(hours=1)).timestamp


@pytest.fixture
def stripe(stripe_time: Callable[[], float]) -> Iterator[LocalStripe]:
    """The local Stripe."""
    with LocalStripe(api_keys=["sk_test_local", "sk_live_local"], now=stripe_time) as server:
        yield server


@pytest.fixture
def dynamodb(aws: Account) -> Any:
    """A client of the tables, which are empty."""
    return aws.client("dynamodb")


@pytest.fixture
def s3(aws: Account) -> Any:
    """A client of the bucket, which is empty."""
    return aws.client("s3")


@pytest.fixture
def world(dynamodb: Any, s3: Any, stripe: LocalStripe, clock: Clock) -> World:
    """A deployment with meters and nothing else."""
    made = World(stripe, Counters(dynamodb, "counters"), Ledger(dynamodb, "ledger"), SetAside(s3, "bucket"), clock)
    for metric in ("requests", "bytes"):
        made.meters().create_meter(metric)
    made.ledger.progress.advance_cursor(HOUR)
    made.switch.turn(Switch(on=True, since="2026-09-01T00"))
    return made


@pytest.fixture
def raw(world: World, monkeypatch: pytest.MonkeyPatch) -> Raw:
    """A deployment of a day ago with one customer, in its hour, with logs that take lines of any time."""
    monkeypatch.setattr("moto.logs.models.utcnow", lambda: world.now.replace(tzinfo=None))
    return raw_of(world)


@pytest.fixture
def billing(world: World) -> Billing:
    """Acme, subscribed since the world's hour, with 5 requests in it that are posted."""
    return subscribed(world)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    """An operator's desk at a deployment with limits."""
    return Desk(monkeypatch, capsys)


@pytest.fixture
def apigateway(aws: Account, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of moto's API Gateway, without the validator of OpenAPI documents that it imports and nobody needs."""
    del aws
    for name in ("", ".validation", ".validation.exceptions"):
        validator: Any = ModuleType(f"openapi_spec_validator{name}")
        validator.validate, validator.OpenAPIValidationError = None, ValueError
        monkeypatch.setitem(sys.modules, validator.__name__, validator)
    return boto3.client("apigateway")


@pytest.fixture
def usage_plans(aws: Account) -> Any:
    """A client of API Gateway's usage plans, of which there are none, and which conflict as AWS has them do."""
    aws.services["apigateway"] = UsagePlansOfAws()
    return aws.client("apigateway")
