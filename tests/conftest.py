"""Fixtures for every kind of test, and how tests are dealt out to processes."""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NoReturn

import botocore.session
import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.doubles import json_schema
from tests.doubles.dynamodb_local import CannotRunError, DynamoDBLocal
from tests.doubles.released import is_there
from tests.doubles.synthesis import Synthesis, Template

ROOT = Path(__file__).parent.parent

# A busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# What Python compiles is kept, whatever the environment says: else each process compiles aws-cdk-lib's 100 MB anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What botocore knows of AWS is read once a process; sessions, of which tests make thousands, would each read it anew.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)

# The Node that is locked with the project, whichever is on the PATH.
os.environ.setdefault("JSII_NODE", str(Path(sys.executable).with_name("node")))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of tests/faults; here, since pytest reads this file before the command line."""
    parser.addoption("--schedules", type=int, default=200, help="how many random schedules tests/faults plays")
    parser.addoption("--seed", type=int, help="the seed of the first of them, as a failure names it (default: random)")


MEASURED: Final = ("unit", "integration", "infra")
"""The kinds of tests that coverage is measured by; the others play the same code a million times, or from outside."""

BEYOND_MEMORY: Final = {"apigateway", "metering", "raw", "mock_client", "dynamodb_local"}
"""The fixtures of tests/integration that begin moto, or another program."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is fast: unit, infra, and of integration what needs nothing but memory; and what is not measured."""
    for item in items:
        if _folder(item) not in MEASURED:
            item.add_marker(pytest.mark.no_cover)
        in_memory = _folder(item) == "integration" and not BEYOND_MEMORY & {*getattr(item, "fixturenames", ())}
        if in_memory or _folder(item) in ("unit", "infra"):
            item.add_marker(pytest.mark.fast)


@pytest.hookimpl(wrapper=True)
def pytest_collection_finish(session: pytest.Session) -> Generator[None]:
    """Let xdist send each test's id with its group, which the scheduler knows by nothing else; report it without."""
    if not hasattr(session.config, "workerinput"):
        return (yield)
    items = session.items
    session.items = [SimpleNamespace(nodeid=f"{item.nodeid}@{_group(item)}") for item in items]  # type: ignore[misc]
    try:
        return (yield)
    finally:
        session.items = items


def _group(item: pytest.Item) -> str:
    """Name what a test shares with others: a deployment, an engine, or its file's fixtures."""
    folder = _folder(item)
    if folder == "e2e":
        needs = set(getattr(item, "fixturenames", ()))
        if "there" in needs:
            needs.add(item.callspec.params["there"])  # type: ignore[attr-defined]
        if "firehose" in needs:
            return "firehose"
        if "limited" in needs:
            return "limited"
        if needs & {"deployed", "subscription"}:
            return "subscription"
    return folder if folder in ("faults", "infra", "live") else item.path.name


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT / "tests").parts[0]


class ByGroup(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Keeps together, in one process, the tests of a group."""

    def _split_scope(self, nodeid: str) -> str:
        _, group = nodeid.rsplit("@", 1)
        return group


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    """Deal the tests out by group, in the order of the folders: those that take longest begin first."""
    return ByGroup(config, log)


def pytest_testnodedown(node: Any) -> None:
    """Take in which commands' documents a process of xdist has seen."""
    json_schema.EXERCISED.update(getattr(node, "workeroutput", {}).get("exercised", ()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of all tests in which no test saw a document that the schema describes."""
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["exercised"] = sorted(json_schema.EXERCISED)
        return
    is_whole = (
        config.args_source is not pytest.Config.ArgsSource.ARGS and not config.option.keyword + config.option.markexpr
    )
    if is_whole and session.exitstatus == 0 and (unseen := json_schema.COMMANDS - json_schema.EXERCISED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        config.get_terminal_writer().line(
            f"no test saw what these print with --json: {', '.join(sorted(unseen))}", red=True
        )


def cannot_run(reason: str, *, needs: str) -> NoReturn:
    """Skip, or fail where what the test ``needs`` has to be there: REQUIRED_FOR_TESTS names it ("java go")."""
    if needs in os.environ.get("REQUIRED_FOR_TESTS", "").split():
        pytest.fail(reason)
    pytest.skip(reason)


def needs_code_of(version: str) -> None:
    """Skip, or fail, where this clone has no history back to a released version."""
    if not is_there(version):
        cannot_run(f"this clone has no history back to {version}: git fetch --unshallow", needs="history")


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
def synthesis(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Synthesis:
    """The app's templates, which all processes of this run share."""
    own = tmp_path_factory.getbasetemp()
    return Synthesis(own if worker_id == "master" else own.parent)


@pytest.fixture(scope="session")
def templates(synthesis: Synthesis, context: Mapping[str, Any]) -> dict[str, Template]:
    """The CloudFormation templates of the app as it is deployed, by stack."""
    return synthesis.templates("subscription", context)


@pytest.fixture(scope="session")
def template(templates: dict[str, Template]) -> Template:
    """The CloudFormation template of the metering stack."""
    return templates["Metering"]


@pytest.fixture(scope="session")
def limits_templates(synthesis: Synthesis, context: Mapping[str, Any]) -> dict[str, Template]:
    """The templates of the app with limits, and e-mail about them, checked by cdk-nag as the others are."""
    return synthesis.templates("limits", {**context, "limits": "sample", "alerts_from": "alerts@example.com"})


@pytest.fixture(scope="session")
def limits_template(limits_templates: dict[str, Template]) -> Template:
    """The CloudFormation template of the metering stack with limits."""
    return limits_templates["Metering"]
