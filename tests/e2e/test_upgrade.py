"""An upgrade while traffic flows: the released version, this one over it, back, and forth again.

Each is deployed from its own sources to the embedded AWS, whose CloudFormation updates stacks in place, and operated by
its own commands. Deliveries are made here: the embedded API Gateway's stages lose their access log at each update.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from infra.local.aws.emulator import Emulator
from infra.local.cloud import CLOCK_BACK
from infra.local.stripe.server import LocalStripe
from infra.operate.deployment import Deployment
from infra.outputs import Outputs
from metering.model.periods import Hour
from tests.conftest import ROOT
from tests.doubles.released import RELEASED, code_of, importing, is_there
from tests.e2e.conftest import Deployed

BEFORE: Final = list(RELEASED)[-1]
"""The version that is deployed first: the last one released."""

PATIENCE_S: Final = 300
KEEPS: Final = {"AWS::DynamoDB::GlobalTable", "AWS::S3::Bucket", "AWS::Logs::LogGroup", "AWS::SecretsManager::Secret"}


@dataclass
class Upgrade:
    """One stack after the other, with the same tables; ``sent`` are the payloads that were delivered."""

    emulator: Emulator
    stripe: LocalStripe
    before: Path
    outputs: dict[str, str] = field(default_factory=dict)
    sent: list[dict[str, Any]] = field(default_factory=list)
    hour: Hour = field(default_factory=lambda: Hour.containing(datetime.now(UTC) - CLOCK_BACK))

    def deploy(self, code: Path, *stacks: str) -> None:
        """Deploy stacks from some sources; all if none is named."""
        context = {"local": "true", "stripe_api_base": self.stripe.url, "log_role": "true"}
        told = self.emulator.deploy(importing(code), stacks=stacks, context=context, app=code)
        self.outputs = told["Metering"]

    def command(self, code: Path, *arguments: str, given: str = "") -> Any:
        """Run a command of some sources, and return the JSON that it prints."""
        program = "from infra.cli.main import main; main()"
        ended = subprocess.run(  # noqa: S603 - nothing of it comes from others
            [sys.executable, "-P", "-c", program, *arguments, "--json"],
            cwd=code,
            env=self.emulator.environment() | importing(code),
            input=given,
            text=True,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    @property
    def there(self) -> Deployed:
        """The deployment as it is now."""
        address = self.emulator
        session = boto3.Session(address.access_key_id, address.secret_access_key, region_name=address.region)
        deployment = Deployment.find("Metering", session, embedded_at=address.endpoint_url)
        cloud: Any = SimpleNamespace(outputs=Outputs.read(self.outputs), deployment=deployment)
        return Deployed(cloud, self.hour, "subscription", lines=len(self.sent) * 2)

    def send(self, *keys: str) -> None:
        """Deliver requests of these keys, again and again until they are taken, as CloudWatch Logs does."""
        there = self.there
        payload = there.payload(*keys)
        self.sent.append(payload)
        self._deliver(there, payload)

    def send_all_again(self) -> None:
        """Deliver everything a second time."""
        there = self.there
        for payload in self.sent:
            self._deliver(there, payload)

    @staticmethod
    def _deliver(there: Deployed, payload: dict[str, Any]) -> None:
        ends = time.monotonic() + PATIENCE_S
        while True:
            try:
                there.deliver(payload)
            except (BotoCoreError, ClientError, OSError):
                if time.monotonic() > ends:
                    raise
                time.sleep(0.1)
            else:
                return

    @contextmanager
    def traffic(self) -> Iterator[None]:
        """Let requests of busy's key go on."""
        over = threading.Event()

        def flow() -> None:
            while not over.wait(0.5):
                self.send("key1")

        thread = threading.Thread(target=flow)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def resources(self) -> dict[str, str]:
        """Return what the stack has that holds data, by logical id."""
        found = self.emulator.client("cloudformation").describe_stack_resources(StackName="Metering")["StackResources"]
        return {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in found if one["ResourceType"] in KEEPS}


@pytest.fixture
def upgrade() -> Iterator[Upgrade]:
    """Nothing deployed yet."""
    if not is_there(BEFORE):
        pytest.skip(f"this clone has no history back to {BEFORE}: git fetch --unshallow")
    with code_of(BEFORE) as before, LocalStripe(api_keys=["sk_test_local"]) as stripe, Emulator() as emulator:
        yield Upgrade(emulator, stripe, before)


def test_an_upgrade_loses_and_doubles_nothing(upgrade: Upgrade) -> None:
    """I1, I2, I4: sent, counted, in the ledger and at Stripe are the same, forth, back and forth again."""
    before, now = upgrade.before, ROOT
    upgrade.deploy(before)
    upgrade.stripe.add_customer("cus_busy")
    upgrade.command(before, "stripe", "connect", given="sk_test_local\n")
    upgrade.command(before, "customers", "add", "busy", "--name", "B", "--stripe-customer", "cus_busy", "--key", "key1")
    upgrade.command(before, "customers", "add", "held", "--name", "H", "--key", "key2")
    upgrade.command(before, "posting", "on", "--since", str(upgrade.hour))
    for _ in range(3):
        upgrade.send("key1", "key2")
    upgrade.command(before, "close")
    assert (upgrade.there.in_ledger("customer#busy"), upgrade.there.at_stripe("busy")) == ((3, "POSTED"), 3)
    assert upgrade.there.in_ledger("customer#held") == (3, "HELD")
    kept = upgrade.resources()
    with upgrade.traffic():
        upgrade.deploy(now, "Metering")
        upgrade.command(now, "close")
        upgrade.deploy(now)
        upgrade.deploy(before, "Metering")
        upgrade.command(before, "close")
        upgrade.deploy(now)
    assert kept.items() <= upgrade.resources().items()
    upgrade.send_all_again()
    upgrade.stripe.add_customer("cus_held")
    upgrade.command(now, "customers", "add", "held", "--name", "H", "--stripe-customer", "cus_held")
    upgrade.command(now, "close")
    there, sent = upgrade.there, len(upgrade.sent)
    assert sent > 10
    assert (there.counted("key1"), there.in_ledger("customer#busy")) == (sent, (sent, "POSTED"))
    assert (there.counted("key2"), there.in_ledger("customer#held")) == (3, (3, "POSTED"))
    assert (there.at_stripe("busy"), there.at_stripe("held")) == (sent, 3)
