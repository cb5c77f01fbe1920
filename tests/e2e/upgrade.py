"""One stack after another, deployed by versions from their own sources and operated by their own commands.

Deliveries are made here: the embedded API Gateway's stages lose their access log at each update.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from infra.local.aws.emulator import Emulator
from infra.local.cloud import CLOCK_BACK
from infra.local.stripe.server import LocalStripe
from infra.operate.deployment import Deployment
from infra.outputs import Outputs
from metering.model.connections import Connection
from metering.model.periods import Hour
from tests.doubles.released import importing
from tests.e2e.conftest import Deployed

PATIENCE_S: Final = 300
KEEPS: Final = {"AWS::DynamoDB::GlobalTable", "AWS::S3::Bucket", "AWS::Logs::LogGroup", "AWS::SecretsManager::Secret"}

_MOST_LINES: Final = 100
"""Lines of a delivery here at most, so that no two have the id of one."""


@dataclass
class Upgrade:
    """One stack after the other, with the same tables; ``sent`` are the payloads that were delivered."""

    emulator: Emulator
    stripe: LocalStripe
    before: Path
    outputs: dict[str, str] = field(default_factory=dict)
    sample: dict[str, str] = field(default_factory=dict)
    sent: list[dict[str, Any]] = field(default_factory=list)
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    early: datetime = field(init=False)
    """When the request is dated that comes early."""

    _numbers: Iterator[int] = field(default_factory=partial(count, 1))

    @property
    def hour(self) -> Hour:
        """The hour of what is closed here: it was over when all began."""
        return Hour.containing(self.began - CLOCK_BACK)

    @property
    def open_hour(self) -> Hour:
        """The hour in which all began, which limits look at."""
        return Hour.containing(self.began)

    def deploy(self, code: Path, *stacks: str, **more: str) -> None:
        """Deploy stacks from some sources, with more of the context; all if none is named."""
        context = {"local": "true", "stripe_api_base": self.stripe.url, "log_role": "true"} | more
        told = self.emulator.deploy(importing(code), stacks=stacks, context=context, app=code)
        self.outputs, self.sample = told["Metering"], told.get("SampleApi", self.sample)

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
        assert ended.returncode == 0, (arguments, ended.stderr, ended.stdout)
        return json.loads(ended.stdout)

    @property
    def there(self) -> Deployed:
        """The deployment as it is now."""
        address = self.emulator
        session = boto3.Session(address.access_key_id, address.secret_access_key, region_name=address.region)
        deployment = Deployment.find("Metering", session, embedded_at=address.endpoint_url)
        cloud: Any = SimpleNamespace(outputs=Outputs.read(self.outputs), deployment=deployment)
        return Deployed(cloud, self.hour, "subscription", lines=next(self._numbers) * _MOST_LINES)

    def send(self, *keys: str) -> None:
        """Deliver requests of these keys in the closed hour."""
        there = self.there
        self._deliver(there, there.payload(*keys))

    def send_open(self, key: str) -> None:
        """Deliver a request of a key in the hour in which all began."""
        self._send_at(self.began, key)

    def send_early(self, key: str, ahead: timedelta) -> None:
        """Deliver a request of a key that is dated so far ahead of now."""
        self.early = datetime.now(UTC) + ahead
        self._send_at(self.early, key)

    def _send_at(self, moment: datetime, key: str) -> None:
        there = self.there
        self._deliver(there, there.payload_of([there.access_line(key, time=_milliseconds(moment))]))

    def send_connected(self, connection: Connection, *keys: str) -> None:
        """Deliver what a connected stage writes now, in its format and log group, of requests in the closed hour."""
        there = self.there
        lines = [there.access_line(key, connection.after.format, stage=connection.stage) for key in keys]
        now = int(_milliseconds(datetime.now(UTC)))
        self._deliver(there, there.payload_of(lines, connection.log_group, now))

    def send_all_again(self) -> None:
        """Deliver everything a second time."""
        there = self.there
        for payload in [*self.sent]:
            _until_taken(there, payload)

    def _deliver(self, there: Deployed, payload: dict[str, Any]) -> None:
        self.sent.append(payload)
        _until_taken(there, payload)

    @contextmanager
    def traffic(self, key: str) -> Iterator[Callable[[], int]]:
        """Let requests of a key go on; what it gives says how many there were."""
        over, requests = threading.Event(), count()
        done = [next(requests)]

        def flow() -> None:
            while not over.wait(0.5):
                self.send(key)
                done[0] = next(requests)

        thread = threading.Thread(target=flow)
        thread.start()
        try:
            yield lambda: done[0]
        finally:
            over.set()
            thread.join()

    def resources(self) -> dict[str, str]:
        """Return what the stack has that holds data, by logical id."""
        found = self.emulator.client("cloudformation").describe_stack_resources(StackName="Metering")["StackResources"]
        return {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in found if one["ResourceType"] in KEEPS}

    def is_open(self, key: str) -> bool:
        """Say whether a key is in the sample's usage plan."""
        plan = self.sample["StandardPlan"]
        found = self.emulator.client("apigateway").get_usage_plan_keys(usagePlanId=plan, limit=500)["items"]
        return key in {one["id"] for one in found}

    def counted(self, key: str, hour: Hour) -> int:
        """Return how many requests of a key an hour's counters hold."""
        counted = self.there.cloud.deployment.counters.read(hour, [key])
        return counted[key].sums["requests"] if key in counted else 0


def _milliseconds(moment: datetime) -> str:
    return str(int(moment.timestamp() * 1000))


def _until_taken(there: Deployed, payload: dict[str, Any]) -> None:
    """Deliver a payload again and again until it is taken, as CloudWatch Logs does."""
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
