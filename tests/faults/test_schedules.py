"""Random schedules on AWS's own engine: whatever goes wrong, every counter equals a straight count of the lines.

pytest tests/faults --schedules 10000
pytest tests/faults --schedules 20 --seed 12345
"""

import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from infra.local.aws.faults import Fate
from metering.model.amounts import Amounts
from metering.model.periods import CLOCK_SKEW, GRACE, Hour
from metering.model.subjects import Subject, key
from metering.stores.counters import Counters
from metering.stores.marks import Marks
from tests.faults.referee import DIED, FAILED, Lanes, MakeCounters

ENOUGH: Final = 2_000
"""In so many schedules even the rarest fault occurs."""

TO_BE_CAUGHT_IN: Final = 300


def test_after_every_schedule_the_counters_equal_a_straight_count(
    referees: Lanes, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """I1, I2, I3, and I4 as far as the late marks: nothing is lost, double, in another hour, or closed for good."""
    schedules, seed = pytestconfig.getoption("schedules"), pytestconfig.getoption("seed")
    first = random.SystemRandom().randrange(10**9) if seed is None else seed
    begun = time.monotonic()
    wrong: list[str] = []
    for number, (played, found) in enumerate(referees.play(range(first, first + schedules)), 1):
        wrong += [f"seed {played}: {sentence}" for sentence in found]
        if number % 500 == 0:
            with capsys.disabled():
                seconds = time.monotonic() - begun
                print(f"{number} schedules in {seconds:.0f} s, {len(wrong)} differences", file=sys.stderr)  # noqa: T201
    faults = referees.faults()
    assert not wrong, "\n".join([f"to play it again: --seed {first} --schedules {schedules}", *wrong])
    assert faults[DIED] > 0
    if schedules >= ENOUGH:
        assert set(+faults) == {str(fate.value) for fate in Fate} | {DIED, FAILED}


class Unconditional:
    """A client that leaves out the condition of each update."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def update_item(self, **arguments: Any) -> Any:
        """Update, whatever is there."""
        arguments.pop("ConditionExpression", None)
        arguments["ExpressionAttributeValues"].pop(":token", None)
        return self.client.update_item(**arguments)


class TokenPerDelivery(Counters):
    """Names a batch by its delivery rather than by its content."""

    __slots__ = ()

    def count(self, hour: Hour, key: str, amounts: Amounts, batch: bytes) -> bool:
        """Count, with a token that no other delivery has."""
        return super().count(hour, key, amounts, os.urandom(len(batch)))


class Swallowing(Counters):
    """Goes on where the table fails."""

    __slots__ = ()

    def count(self, hour: Hour, key: str, amounts: Amounts, batch: bytes) -> bool:
        """Count, or do not."""
        try:
            return super().count(hour, key, amounts, batch)
        except (BotoCoreError, ClientError):
            return False


class NoMarks(Marks):
    """Marks that are not made."""

    __slots__ = ()

    def mark_late(self, hour: Hour, subject: Subject, mark: str) -> None:
        """It is too late for that."""


@dataclass(frozen=True, slots=True)
class MarksFirst(Counters):
    """Marks a closed hour before it counts, so that a closer in between misses the counter."""

    clock: Callable[[], datetime]

    def count(self, hour: Hour, key_: str, amounts: Amounts, batch: bytes) -> bool:
        """Mark, then count."""
        if hour.is_due(self.clock(), grace=GRACE - CLOCK_SKEW):
            Marks(self.client, self.table).mark_late(hour, key(key_), batch.hex())
        return Counters.count(self, hour, key_, amounts, batch)

    @property
    def marks(self) -> Marks:
        """Return marks that come too late to be made."""
        return NoMarks(self.client, self.table)


BREAKS: Final[dict[str, MakeCounters]] = {
    "no condition": lambda client, table, _: Counters(Unconditional(client), table),  # type: ignore[arg-type]
    "a token per delivery": lambda client, table, _: TokenPerDelivery(client, table),
    "errors swallowed": lambda client, table, _: Swallowing(client, table),
    "marked before counted": MarksFirst,
}


@pytest.mark.parametrize("break_", BREAKS)
def test_broken_counters_are_caught(referees: Lanes, break_: str) -> None:
    """The referee can fail: each of these would lose or double usage, and does not get past it."""
    played = enumerate(referees.play(range(TO_BE_CAUGHT_IN), BREAKS[break_]), 1)
    found = ((number, wrong) for number, (_, wrong) in played if wrong)
    caught = next(found, None)
    assert caught is not None
