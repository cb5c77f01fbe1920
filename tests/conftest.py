"""Fixtures for every kind of test."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.doubles.dynamodb_local import CannotRunError, DynamoDBLocal

if TYPE_CHECKING:
    from aws_cdk.cx_api import CloudAssembly

ROOT = Path(__file__).parent.parent

# A busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# The Node that is locked with the project, whichever is on the PATH.
os.environ.setdefault("JSII_NODE", str(Path(sys.executable).with_name("node")))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of tests/faults; here, since pytest reads this file before the command line."""
    parser.addoption("--schedules", type=int, default=200, help="how many random schedules tests/faults plays")
    parser.addoption("--seed", type=int, help="the seed of the first of them, as a failure names it (default: random)")


class ByGroup(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Keeps together, in one process, the tests that share a deployment, an engine or a table."""

    def _split_scope(self, nodeid: str) -> str:
        _, folder, *_, file = nodeid.partition("::")[0].split("/")
        together = folder in ("e2e", "faults", "infra") and file != "test_emulator_gateway.py"
        return folder if together else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    """Deal the tests out by group, in the order of the folders: those that take longest begin first."""
    return ByGroup(config, log)


def cannot_run(reason: str, *, needs: str) -> NoReturn:
    """Skip, or fail where what the test ``needs`` has to be there: REQUIRED_FOR_TESTS names it ("java go")."""
    if needs in os.environ.get("REQUIRED_FOR_TESTS", "").split():
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def dynamodb_local() -> Iterator[DynamoDBLocal]:
    """AWS's own engine; without Java or Maven the tests are skipped, or fail where every test has to run."""
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(DynamoDBLocal())
        except CannotRunError as error:
            cannot_run(str(error), needs="java")
        yield started


@pytest.fixture(scope="session")
def context() -> Mapping[str, Any]:
    """The CDK context of a synthesis that bundles nothing, with the feature flags of ``cdk.json``."""
    flags: dict[str, Any] = json.loads((ROOT / "cdk.json").read_text())["context"]
    return flags | {"aws:cdk:bundling-stacks": []}


@pytest.fixture(scope="session")
def assembly(context: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> "CloudAssembly":
    """The app as it is deployed, checked by cdk-nag."""
    import aws_cdk as cdk  # noqa: PLC0415 - starts Node, which tests without a stack need not wait for

    from app import build  # noqa: PLC0415 - imports aws_cdk

    return build(cdk.App(context=context, outdir=str(tmp_path_factory.mktemp("cdk.out")))).synth()


@pytest.fixture(scope="session")
def template(assembly: "CloudAssembly") -> dict[str, Any]:
    """The CloudFormation template of the metering stack."""
    return cast("dict[str, Any]", assembly.get_stack_by_name("Metering").template)
