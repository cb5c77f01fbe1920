"""The read units of a customer's month are a matter of counting, not of time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, cannot_run
from tests.doubles.dynamodb_local import CannotRunError, DynamoDBLocal

SCRIPT = Path(__file__).with_name("usage_read.py")


@pytest.fixture(scope="module")
def _dynamodb_local() -> None:
    """Java and the jars are there; else skipped, or failed where every test has to run."""
    try:
        with DynamoDBLocal():
            pass
    except CannotRunError as error:
        cannot_run(str(error), needs="java")


@pytest.mark.usefixtures("_dynamodb_local")
def test_a_closed_hour_of_a_hundred_keys_costs_less_than_twice_that_of_one() -> None:
    """A row an hour, however many keys; and the answer of both is whole."""
    run = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(SCRIPT), "--json", "--runs", "1"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout)
    assert found["closed_units_ratio"] <= 2
    assert found["units_per_closed_hour"]["one"] < 0.5
    assert found["one"]["closed_units"] > 0
