"""The run that all live tests share, once on the embedded AWS and once on the account of the environment."""

import json
import time
from collections.abc import Iterator

import pytest

from tests.live.cloud import NoAccountError, embedded, on_aws
from tests.live.run import Run, results_of, run

STARTED = time.time()


@pytest.fixture(scope="session", params=["emulator", pytest.param("aws", marks=pytest.mark.aws)])
def live(request: pytest.FixtureRequest) -> Iterator[Run]:
    """A deployed run. AWS is only for who asks for it: ``-m aws``."""
    if request.param == "emulator":
        with embedded() as cloud, run(cloud, results_of(is_aws=False)) as made:
            yield made
        return
    if "aws" not in request.config.option.markexpr:
        pytest.skip("it deploys to the account of the environment: ask for it with -m aws")
    try:
        with on_aws() as cloud, run(cloud, results_of(is_aws=True)) as made:
            yield made
    except NoAccountError as reason:
        pytest.skip(str(reason))


@pytest.fixture(autouse=True)
def _within_the_bound(request: pytest.FixtureRequest) -> None:
    """A test that would let the run cost more than it may is not begun."""
    if "live" in request.fixturenames:
        request.getfixturevalue("live").costs.check()


def pytest_report_header() -> list[str]:
    """Say which account it is, before anything is done there."""
    try:
        with on_aws() as cloud:
            return [f"live: account {cloud.account_id}, {cloud.region}; nothing is done there without -m aws"]
    except NoAccountError as reason:
        return [f"live: {reason}"]
    except Exception as error:  # noqa: BLE001  a header; the fixture says it again to those who ask for AWS
        return [f"live: {type(error).__name__}: {error}"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell what was found, what it cost and what is left, also when other processes ran the tests."""
    is_aws = "aws" in config.option.markexpr
    path = results_of(is_aws=is_aws)
    if not path.exists() or path.stat().st_mtime < STARTED:
        return
    told = json.loads(path.read_text())
    terminalreporter.section(f"live: {told['where']}, {told['region']}, run {told['run']}")
    for point in told["points"]:
        state = "settled" if point["settled"] else f"open: {point['why_not']}"
        terminalreporter.write_line(f"{point['point']}: {point['observed']} ({state})")
    cost = told.get("cost", {"dollars": "?", "bound": "?"})
    terminalreporter.write_line(f"cost at most ${cost['dollars']}, bound ${cost['bound']}, if it had been on AWS")
    terminalreporter.write_line(f"left: {', '.join(told.get('left', ['not looked at'])) or 'nothing'}")
    terminalreporter.write_line(f"results: {path}")
