"""How a line of an invoice is written, so that a person can do the sum."""

from collections.abc import Mapping
from typing import Any

from metering.model.prices import in_money


def unit_amount(line: Mapping[str, Any], currency: str) -> str:
    """Return what a unit of a preview's line costs, or so many units that are begun together."""
    if line["unit_amount"] is None:
        return ""
    money = in_money(line["unit_amount"], currency)
    return f"{money} per started {line['package']:,}" if line["package"] else money
