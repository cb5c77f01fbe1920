"""What the doctor says of usage that nobody pays, read back."""

import re
from collections import Counter

from infra.operate.doctor.findings import State
from infra.operate.doctor.subscriptions import check_subscriptions
from tests.integration.operator_commands import Operator


def told(operator: Operator) -> dict[str, int]:
    """Return how much of what acme used nobody is billed for, by metric, as the doctor says it."""
    lines = [*check_subscriptions(operator.deployment, operator.world.now)]
    said = [
        found for line in lines if line.state is State.WARNING for found in re.findall(r"acme \((.*?)\)", line.said)
    ]
    parts = [part.split(": ") for one in said for part in one.split(", ")]
    used = Counter[str]()
    for metric, quantity in parts:
        used[metric] += int(quantity.replace(",", ""))
    return dict(used)
