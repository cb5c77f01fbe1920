"""DynamoDB Local, once for all of these tests."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from infra.local.aws.faults import Proxy
from tests.conftest import cannot_run
from tests.dynamodb_local import CannotRunError, DynamoDBLocal, table_definition
from tests.faults.referee import Lanes, Referee

LANES = 3
"""How many schedules are played side by side: one waits while another works."""


@pytest.fixture(scope="session")
def dynamodb() -> Iterator[DynamoDBLocal]:
    """AWS's own engine; without Java or Maven the tests are skipped, or fail where every test has to run."""
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(DynamoDBLocal())
        except CannotRunError as error:
            cannot_run(str(error), needs="java")
        yield started


@pytest.fixture(scope="session")
def definition(template: dict[str, Any]) -> dict[str, Any]:
    """The Counters table as the template defines it."""
    return table_definition(template, "Counters")


@pytest.fixture(scope="session")
def referees(dynamodb: DynamoDBLocal, definition: dict[str, Any]) -> Iterator[Lanes]:
    """Referees with DynamoDB Local, each with a proxy of its own."""
    with contextlib.ExitStack() as stack:
        yield Lanes([Referee(dynamodb, stack.enter_context(Proxy(dynamodb.port)), definition) for _ in range(LANES)])
