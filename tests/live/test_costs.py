"""What a run is said to cost, before anybody has paid for it."""

import time
from collections import Counter

import pytest

from metering.signals import Signal
from tests.doubles.template import Template
from tests.live.costs import BOUND, THERE, Costs


def test_what_is_there_is_as_much_as_is_reckoned_with(templates: dict[str, Template]) -> None:
    """Alarms, secrets and a dashboard of the stack, and a metric for each signal."""
    types = Counter(resource["Type"] for resource in templates["Metering"]["Resources"].values())
    assert types["AWS::CloudWatch::Alarm"] <= THERE["alarm"]
    assert types["AWS::SecretsManager::Secret"] <= THERE["secret"]
    assert types["AWS::CloudWatch::Dashboard"] <= THERE["dashboard"]
    assert len(Signal) <= THERE["metric"]


def test_a_run_within_two_hours_of_ten_deployments_stays_within_the_bound() -> None:
    """As many requests and calls as the tests make, and some more."""
    calls = Counter({"s3": 1_000, "lambda": 200, "dynamodb": 10_000, "cloudwatch": 1_000, "firehose": 50})
    costs = Costs(time.monotonic() - 119 * 60, calls, requests=10_000, sockets=10, deployments=10)
    costs.check()
    assert 0.3 < costs.dollars() < BOUND


def test_a_run_stops_before_it_costs_more_than_it_may() -> None:
    """Whatever made it dear."""
    with pytest.raises(OverflowError, match=r"the run has cost up to \$[0-9.]+, more than the \$1\.00 that it may"):
        Costs(time.monotonic(), requests=1_000_000).check()
