"""However a subscription ends, what was used is on an invoice, or the doctor says that nobody pays it; never both."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest

from metering.model.periods import Hour
from tests.integration.billing import Billing, due
from tests.integration.operator_commands import Operator
from tests.integration.told import told
from tests.integration.world import HOUR, World


@pytest.fixture
def stripe_time() -> Callable[[], float]:
    """The world's hour begins."""
    return HOUR.start.timestamp


@pytest.fixture
def operator(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    """Whoever runs the doctor."""
    return Operator(world, monkeypatch, capsys)


@pytest.mark.parametrize("how", [{"invoice_now": True}, {"invoice_now": False}], ids=["invoice", "none"])
@pytest.mark.parametrize("minute", [0, 7, 35, 49, 51, 59, 60, 62, 75, 119, 130, 300])
def test_what_was_used_is_invoiced_or_told(world: World, operator: Operator, minute: int, how: dict[str, bool]) -> None:
    """I9: whichever minute the subscription ends in, with a last invoice or without."""
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    subscription = billing.subscribe()
    billing.use(5)
    billing.use(3, HOUR.next())
    ends = HOUR.start + timedelta(minutes=minute)
    before = HOUR.start - timedelta(minutes=1)
    for hour in (Hour(HOUR.number + after) for after in range(8)):
        if before < ends <= due(hour):
            billing.at(ends)
            billing.client().v1.subscriptions.cancel(subscription, cast("Any", how))
        before = due(hour)
        billing.at(before)
        billing.settle()
    assert sum(billing.invoiced()) + told(operator).get("requests", 0) == 8
