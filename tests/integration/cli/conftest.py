"""The command line in an AWS environment that only the test sets: arguments in; stdout, stderr and an exit code out."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import boto3
import pytest

from infra.cli import main as cli
from tests.doubles.json_schema import hold
from tests.doubles.outputs import outputs
from tests.doubles.wording import read_aloud
from tests.integration.cli.command_line import CloudFormation, Metering, Result
from tests.integration.world import World


@pytest.fixture
def metering(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Metering:
    """Run a command line in an AWS environment that only the test sets."""
    for name in (
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "AWS_REGION",
        "METERING_STACK",
        "STRIPE_OPERATOR_KEY",
        "COLUMNS",
        "FORCE_COLOR",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def run(*arguments: str, stdin: str | bytes = "") -> Result:
        typed = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "argv", ["metering", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        assert "Traceback" not in said.err + said.out
        assert "\x1b" not in said.err + said.out, "colours are for a terminal"
        hold(arguments, said.out)
        read_aloud(said.out + said.err)
        return Result(code, said.out, said.err)

    return run


@pytest.fixture
def cloudformation(aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudFormation]:
    """An account with no stack."""
    del aws
    with CloudFormation() as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


@pytest.fixture
def deployed(world: World, cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world as a stack with outputs; commands see the world's time."""
    cloudformation.add("Metering", **outputs(stripe_api_base=world.stripe.url).written())
    boto3.client("secretsmanager").create_secret(Name="stripe-secret")
    monkeypatch.setattr("infra.cli.usage.now", world.clock)
    return world
