"""The operator's commands on a world: arguments in; stdout, stderr and an exit code out."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import boto3
import pytest

import post_usage
from infra.cli import main as cli
from infra.operate.deployment import Deployment
from metering.billing.closed import Closed
from tests.doubles.json_schema import hold
from tests.doubles.outputs import outputs
from tests.doubles.wording import read_aloud
from tests.integration.world import World

WHO = "arn:aws:sts::123456789012:user/moto"


@dataclass(frozen=True)
class Said:
    """What a user sees of a command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)


def run_metering(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> Said:
    """Run a command line."""
    monkeypatch.setattr(sys, "argv", ["metering", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    hold(arguments, said.out)
    read_aloud(said.out + said.err)
    return Said(int(ended.value.code or 0), said.out, said.err)


@dataclass
class Operator:
    """Whoever acts on a world, by commands whose functions run in it."""

    world: World
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    declared: dict[str, Any] = field(default_factory=dict)
    """What ``app.py`` declared; nothing, as of an older version's stack."""

    def __post_init__(self) -> None:
        """Connect Stripe, and let commands find the world."""
        secrets: Any = boto3.client("secretsmanager")
        secrets.create_secret(Name="stripe-secret", SecretString="sk_test_local")
        self.monkeypatch.setattr(Deployment, "find", lambda *_, **__: self.deployment)
        for module in ("adjusting", "held", "posting"):
            self.monkeypatch.setattr(f"infra.cli.{module}.now", self.world.clock)

    @property
    def deployment(self) -> Deployment:
        """The world as the command line reaches it."""
        told = outputs(stripe_api_base=self.world.stripe.url)
        deployment = Deployment(lambda name, **_: boto3.client(name), told)
        object.__setattr__(deployment, "invoke", self._invoke)
        vars(deployment).update(declared=self.declared)
        return deployment

    def _invoke(self, function: str, _event: Mapping[str, Any]) -> dict[str, Any]:
        if function == "post-usage":
            return post_usage.report(self.world.post(), leased=[])
        closed: Closed = self.world.close()
        return {name: value for name, value in asdict(closed).items() if isinstance(value, int)}

    def run(self, *arguments: str) -> Said:
        """Run a command line."""
        return run_metering(self.monkeypatch, self.capsys, *arguments)
