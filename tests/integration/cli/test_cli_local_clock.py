"""One clock for all that acts on ``metering local``, whose gateway's is set back."""

import json
import os
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.local import cloud
from infra.operate.catalog import Catalog
from infra.operate.deployment import Deployment
from metering.model import metrics
from metering.model.prices import Flat, PerUnit, Plan, encode
from tests.doubles.clock import Clock
from tests.integration.operator_commands import Operator
from tests.integration.world import HOUR, METRICS, World

PLAN = Plan(
    name="standard",
    title="Standard",
    currency="usd",
    prices=(Flat(amount=4900), PerUnit(metric="requests", amount=25), PerUnit(metric="bytes", amount=1)),
)
PLAYED = timedelta(hours=2)
ADDRESS = cloud.Address("x", "x", "x", "x", "x", "x", "x", "x", 7200)


@pytest.fixture
def stripe_time(clock: Clock) -> Clock:
    """The world's, which is the right time."""
    return clock


@pytest.fixture
def operator(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Operator:
    """Whoever acts on a running 'metering local', two hours after its gateway's time; posting never was on."""
    world.ledger.client.delete_item(TableName="ledger", Key={"pk": {"S": "posting"}, "sk": {"S": "switch"}})
    declared = {"metrics": json.loads(metrics.encode(METRICS)), "plans": json.loads(encode([PLAN]))}
    operator = Operator(world, monkeypatch, capsys, declared)

    def find(*_: Any, clock_back: timedelta = timedelta(0), **__: Any) -> Deployment:
        found = operator.deployment
        found.clock_back = clock_back
        return found

    monkeypatch.setattr(Deployment, "find", find)
    for module in ("customers", "top", "usage"):
        monkeypatch.setattr(f"infra.cli.{module}.now", world.clock)
    Catalog(world.meters(), ("requests", "bytes"), (PLAN,)).apply(lambda _: None)
    world.now += PLAYED
    monkeypatch.setattr(cloud, "_ANNOUNCEMENT", tmp_path / "local.json")
    announce(ADDRESS)
    return operator


def announce(address: cloud.Address, *without: str) -> None:
    """Write down where a cloud is, as this very process."""
    cloud._ANNOUNCEMENT.write_text(
        json.dumps({"pid": os.getpid()} | {name: one for name, one in asdict(address).items() if name not in without})
    )


def test_the_steps_of_the_readme_end_in_an_invoice_with_amounts(operator: Operator) -> None:
    """A customer, its subscription, a call, and posting: all begin with the gateway's hour, which is closed at once."""
    world = operator.world
    run = operator.run
    assert run("customers", "add", "acme", "--name", "Acme Ltd", "--key", "key1", "--local").code == 0
    subscribed = run("customers", "subscribe", "acme", "standard", "--email", "a@b.example", "--local", "--json")
    assert subscribed.document["begins"] == str(HOUR)
    world.record(world.line(), world.line())
    assert run("posting", "on", "--local").out.startswith(f"posting is on: usage from {HOUR} on is billed\n")
    used = run("usage", "acme", "--local", "--json")
    assert [(row["period"], row["metric"], row["quantity"]) for row in used.document] == [
        (str(HOUR), "bytes", 20),
        (str(HOUR), "requests", 2),
    ]
    looked = run("top", "--local", "--json").document
    assert (looked["hour"], looked["customers"][0]["quantities"]["requests"]) == (str(HOUR), 2)
    world.run()
    invoice = run("invoice", "acme", "--local", "--json").document
    amounts = {line["price"]: line["amount"] for line in invoice["lines"]}
    assert amounts == {"base_fee": 4900, "requests": 50, "bytes": 20}


def test_an_announcement_of_an_older_version_is_read(operator: Operator) -> None:
    """It says nothing of a clock: then all begins now, as it did."""
    announce(ADDRESS, "clock_back_s")
    run = operator.run
    run("customers", "add", "acme", "--name", "Acme Ltd", "--local")
    subscribed = run("customers", "subscribe", "acme", "standard", "--email", "a@b.example", "--local", "--json")
    assert subscribed.document["begins"] == "2026-11-22T07"


def test_elsewhere_all_begins_now(operator: Operator) -> None:
    """On AWS the gateway's clock is everybody's."""
    operator.run("customers", "add", "acme", "--name", "Acme Ltd")
    assert operator.run("posting", "on").out.startswith("posting is on: usage from 2026-11-22T07 on is billed\n")
