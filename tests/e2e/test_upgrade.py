"""An upgrade while traffic flows: the released version, this one over it, back, and forth again.

Each is deployed from its own sources to the embedded AWS, whose CloudFormation updates stacks in place, and operated by
its own commands, in the order and with what infra/stack/README.md asks for (Upgrade).
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import pytest

from infra.local.aws.emulator import Emulator
from infra.local.demo.steps import wait_until
from infra.local.stripe.faults import Fault
from infra.local.stripe.server import LocalStripe
from metering.model.connections import Connection
from metering.model.periods import LATEST_RECORD, Hour
from tests.conftest import ROOT, needs_code_of
from tests.doubles.released import RELEASED, code_of
from tests.e2e.foreign_apis import Foreign, make_rest_api
from tests.e2e.grant_scenarios import SIGNING_SECRET
from tests.e2e.upgrade import Upgrade

BEFORE: Final = list(RELEASED)[-1]
"""The version that is deployed first: the last one released."""

NOW: Final = ROOT

CUSTOMERS: Final = """id,name,stripe_customer,keys
busy,Busy,cus_busy,key-busy
late,Late,cus_late,key-late
slow,Slow,cus_slow,key-slow
gone,Gone,cus_gone,key-gone
held,Held,,key-held
early,Early,cus_early,key-early
"""
"""Whose usage is posted, comes late, waits for Stripe, is rejected by it, has no Stripe customer, and is set aside."""

KEYS: Final = ("key-busy", "key-late", "key-slow", "key-gone", "key-held", "key-nobody")
"""Those of the closed hour: of each but early's, and one that nobody has been given."""

LEFT: Final = {
    "customer#busy": "POSTED",
    "customer#late": "POSTED",
    "customer#slow": "PENDING",
    "customer#gone": "REJECTED",
    "customer#held": "HELD",
    "key#key-nobody": "HELD",
}
"""What the version of before leaves in the ledger."""

EARLY: Final = timedelta(seconds=30)
"""A request comes so much earlier than is believed, and is set aside until then."""

MOST: Final = 3
"""So many requests a month may the customer make that is stopped."""


@pytest.fixture
def upgrade() -> Iterator[Upgrade]:
    """Nothing deployed yet."""
    needs_code_of(BEFORE)
    with code_of(BEFORE) as before, LocalStripe(api_keys=["sk_test_local"]) as stripe, Emulator() as emulator:
        yield Upgrade(emulator, stripe, before)


def test_an_upgrade_loses_and_doubles_nothing(upgrade: Upgrade, tmp_path: Path) -> None:
    """I1, I2, I4: sent, counted, in the ledger and at Stripe are the same, forth, back and forth again."""
    before = upgrade.before
    begin(upgrade, tmp_path)
    kept = upgrade.resources()
    with upgrade.traffic("key-busy") as requests:
        upgrade.deploy(NOW, "Metering", limits="sample")
        mend(upgrade)
        upgrade.deploy(NOW, limits="sample")
        key, orders = stop_and_connect(upgrade)
        open_and_disconnect(upgrade, key)
        upgrade.deploy(before, "Metering")
        upgrade.command(before, "stripe", "webhook", given=SIGNING_SECRET)
        upgrade.send_open(key)
        upgrade.command(before, "close")
        upgrade.deploy(NOW, limits="sample")
        connect(upgrade, orders, requests=2)
        stop(upgrade, key)
    assert kept.items() <= upgrade.resources().items()
    upgrade.send_all_again()
    upgrade.command(NOW, "close")
    assert requests() > 10
    wanted = {"busy": 3 + requests(), "late": 4, "slow": 3, "gone": 3, "held": 3, "found": 3, "orders": 3 + 2}
    ledger = {name: upgrade.there.in_ledger(f"customer#{name}") for name in wanted}
    assert ledger == {name: (quantity, "POSTED") for name, quantity in wanted.items()}
    assert {name: upgrade.there.at_stripe(name) for name in wanted} == wanted
    keys = {name: f"key-{name}" for name in wanted} | {"found": "key-nobody", "orders": orders.key_id}
    assert {name: upgrade.there.counted(keys[name]) for name in wanted} == wanted
    assert upgrade.command(NOW, "set-aside", "list") == []
    assert upgrade.counted("key-early", Hour.containing(upgrade.early)) == 1
    assert upgrade.counted(key, upgrade.open_hour) == MOST + 1
    assert reasons(upgrade) == [f"limit:requests/month/customer:{upgrade.began:%Y-%m}-01T00"]
    assert not upgrade.is_open(key)
    assert {one["name"]: one["step"] for one in upgrade.command(NOW, "connections")} == {"orders": "connected"}


def begin(upgrade: Upgrade, folder: Path) -> None:
    """Let the version of before have usage in every state: posted, pending, rejected, held, late and set aside."""
    before, stripe = upgrade.before, upgrade.stripe
    upgrade.deploy(before)
    for name in ("busy", "late", "slow", "early"):
        stripe.add_customer(f"cus_{name}")
    file = folder / "customers.csv"
    file.write_text(CUSTOMERS, encoding="utf-8")
    upgrade.command(before, "stripe", "connect", given="sk_test_local\n")
    notified_at = upgrade.command(before, "stripe", "webhook", given=SIGNING_SECRET)["url"]
    upgrade.command(before, "customers", "import", str(file))
    upgrade.command(before, "posting", "on", "--since", str(upgrade.hour))
    for _ in range(3):
        upgrade.send(*KEYS)
    upgrade.send_early("key-early", LATEST_RECORD + EARLY)
    stripe.set_faults({Fault.RATE_LIMITED: 1.0}, customer="cus_slow")
    upgrade.command(before, "close")
    stripe.clear_faults()
    function = urlsplit(notified_at).hostname or ""
    stripe.set_webhook(f"{upgrade.emulator.endpoint_url}/_aws/lambda-url/{function.partition('.')[0]}/", SIGNING_SECRET)
    stripe.report_errors()
    upgrade.send("key-late")
    there = upgrade.there
    assert {name: there.in_ledger(name) for name in LEFT} == {name: (3, state) for name, state in LEFT.items()}
    assert there.counted("key-late") == 3 + 1
    assert [one["left"] for one in upgrade.command(before, "set-aside", "list")] == [1]


def mend(upgrade: Upgrade) -> None:
    """Close, and mend the causes of what was left, by this version's commands."""
    upgrade.command(NOW, "close")
    for name in ("gone", "held", "found"):
        upgrade.stripe.add_customer(f"cus_{name}")
    upgrade.command(NOW, "rejected", "retry", "--all")
    upgrade.command(NOW, "customers", "add", "held", "--stripe-customer", "cus_held")
    found = ("--name", "Found", "--stripe-customer", "cus_found", "--key", "key-nobody")
    upgrade.command(NOW, "customers", "add", "found", *found)
    wait_until(lambda: datetime.now(UTC) > upgrade.early - LATEST_RECORD)
    assert [one["counted"] for one in upgrade.command(NOW, "set-aside", "redrive", "--all")] == [1]


def stop_and_connect(upgrade: Upgrade) -> tuple[str, Foreign]:
    """Stop a customer by a limit, and connect somebody's stage; return the customer's key, and the stage."""
    for name in ("stopped", "orders"):
        upgrade.stripe.add_customer(f"cus_{name}")
        upgrade.command(NOW, "customers", "add", name, "--name", name, "--stripe-customer", f"cus_{name}")
    made = upgrade.command(NOW, "keys", "create", "stopped", "--plan", upgrade.sample["StandardPlan"])
    for _ in range(MOST):
        upgrade.send_open(made["key"])
    stop(upgrade, made["key"])
    orders = make_rest_api(upgrade.emulator, "orders")
    upgrade.command(NOW, "customers", "add", "orders", "--key", orders.key_id)
    connect(upgrade, orders, requests=3)
    return made["key"], orders


def stop(upgrade: Upgrade, key: str) -> None:
    """Give the customer a limit that it has reached, and wait until its key is out of the plan."""
    wanted = ("requests", "--stop", str(MOST), "--per", "month", "--reason", "a trial")
    assert upgrade.command(NOW, "limits", "set", "stopped", *wanted)["looked_at"]
    wait_until(lambda: not upgrade.is_open(key))


def connect(upgrade: Upgrade, stage: Foreign, *, requests: int) -> None:
    """Connect a stage, and deliver what it writes of some requests."""
    told = upgrade.command(NOW, "connect", stage.api_id, stage.stage, "--yes", "--no-wait")["connection"]
    connection = msgspec.convert(told, Connection)
    for _ in range(requests):
        upgrade.send_connected(connection, stage.key_id)


def open_and_disconnect(upgrade: Upgrade, key: str) -> None:
    """Do what has to be done before the way back to a version without limits and connections."""
    upgrade.command(NOW, "limits", "clear", "stopped", "requests")
    wait_until(lambda: upgrade.command(NOW, "limits", "list")["customers"] == [])
    assert upgrade.is_open(key)
    upgrade.command(NOW, "disconnect", "orders", "--yes")


def reasons(upgrade: Upgrade) -> list[str]:
    """Return why the customer is stopped."""
    return [one["name"] for one in upgrade.command(NOW, "limits", "show", "stopped")["reasons"]]
