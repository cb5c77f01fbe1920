"""What is left of Stripe's reads, among several who read."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from metering.model.read_allotment import ReadAllotment
from metering.stores.read_budget import ReadBudget
from tests.integration.world import HOUR, World

NOW = HOUR.start


@pytest.fixture
def budget(world: World) -> ReadBudget:
    """Of ten thousand in 30 days; two days' are there."""
    return ReadBudget(world.ledger.client, "ledger", ReadAllotment(10_000))


def test_what_a_run_takes_is_not_there_for_another_one(budget: ReadBudget) -> None:
    """I10: both together make as many as one may; a run that dies loses no more than it took."""
    assert [budget.take(400, NOW), budget.take(400, NOW), budget.take(400, NOW)] == [400, 225, 0]
    assert budget.take(400, NOW + timedelta(hours=1)) == 13


def test_what_is_given_back_is_there_again(budget: ReadBudget) -> None:
    """A run took 400 and made 10."""
    assert budget.take(400, NOW) == 400
    budget.note(-390, NOW)
    assert budget.left(NOW) == 615


def test_of_two_at_the_same_moment_neither_takes_what_the_other_has(world: World, budget: ReadBudget) -> None:
    """The slower one reads again."""
    client: Any = world.ledger.client
    other = [ReadBudget(client, "ledger", budget.allotment)]

    def come_between(operation: str, _sent: Mapping[str, Any]) -> None:
        if operation == "PutItem" and other:
            other.pop().take(100, NOW)

    client.before.append(come_between)
    assert budget.take(600, NOW) == 525
    assert other == []
