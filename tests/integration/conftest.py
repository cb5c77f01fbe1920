"""Tables and bucket as the template defines them, in moto, and the local Stripe."""

import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.dynamodb.responses import DynamoHandler

from infra.local.stripe.server import LocalStripe
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stores.set_aside import SetAside
from metering.stores.switch import Switch
from tests.dynamodb_local import table_definition
from tests.faults.processes import Bucket
from tests.integration.memory import Memory
from tests.integration.world import HOUR, World


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty AWS account in moto."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "POWERTOOLS_SERVICE_NAME": "Metering",
        "POWERTOOLS_METRICS_NAMESPACE": "Metering",
    }.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        yield


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moto copies its tables for a transaction, which fails while another thread writes; DynamoDB does not."""
    answer, turn = DynamoHandler.call_action, threading.RLock()

    def call_action(self: Any) -> Any:
        with turn:
            return answer(self)

    monkeypatch.setattr(DynamoHandler, "call_action", call_action)


def make_table(template: Mapping[str, Any], logical_id: str, name: str) -> None:
    """Make a table as the synthesised template says, so that schema and tests cannot drift."""
    boto3.client("dynamodb").create_table(TableName=name, **table_definition(template, logical_id))


@pytest.fixture(autouse=True)
def few_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in these tests depends on how many partitions there are, and each is a call to moto."""
    for name in ("claims.SHARDS", "marks.PARTITIONS", "rows.SHARDS"):
        monkeypatch.setattr(f"metering.stores.{name}", 2)


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what waits before it tries again wait hardly at all."""
    monkeypatch.setattr("metering.billing.pacing.LONGEST_PAUSE", 0.01)


@pytest.fixture
def stripe() -> Iterator[LocalStripe]:
    """The local Stripe."""
    with LocalStripe(api_keys=["sk_test_local"], now=(HOUR.end + timedelta(hours=1)).timestamp) as server:
        yield server


def _in_memory(request: pytest.FixtureRequest) -> bool:
    """Say whether a test is marked so; the operator's commands make clients of their own, which find moto alone."""
    return request.node.get_closest_marker("in_memory") is not None and "operator" not in request.fixturenames


@pytest.fixture
def dynamodb(request: pytest.FixtureRequest) -> Any:
    """A client of the tables, which are empty: in moto, or in memory for tests that are marked so."""
    if _in_memory(request):
        return Memory()
    request.getfixturevalue("aws")
    template = request.getfixturevalue("template")
    make_table(template, "Counters", "counters")
    make_table(template, "Ledger", "ledger")
    return boto3.client("dynamodb")


@pytest.fixture
def s3(request: pytest.FixtureRequest) -> Any:
    """A client of the bucket, which is empty: in moto, or in memory for tests that are marked so."""
    if _in_memory(request):
        return Bucket()
    request.getfixturevalue("aws")
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    return client


@pytest.fixture
def world(dynamodb: Any, s3: Any, stripe: LocalStripe) -> World:
    """A deployment with meters and nothing else."""
    made = World(stripe, Counters(dynamodb, "counters"), Ledger(dynamodb, "ledger"), SetAside(s3, "bucket"))
    for metric in ("requests", "bytes"):
        made.meters().create_meter(metric)
    made.ledger.progress.advance_cursor(HOUR)
    made.switch.turn(Switch(on=True, since="2026-09-01T00"))
    return made
