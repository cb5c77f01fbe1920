"""How large an item of DynamoDB is, which is what it bills by and what its pages end by."""

from collections.abc import Mapping
from typing import Any


def size_of(item: Mapping[str, Any]) -> int:
    """Return an item's size in bytes (DynamoDB Developer Guide, "DynamoDB item sizes and formats")."""
    return sum(len(name.encode()) + _bytes_of(value) for name, value in item.items())


def _bytes_of(attribute: Mapping[str, Any]) -> int:
    ((kind, value),) = attribute.items()
    match kind:
        case "S":
            return len(value.encode())
        case "N":
            return len(value) // 2 + 2
        case "M":
            return 3 + size_of(value) + len(value)
        case "SS" | "BS":
            return sum(len(one.encode() if kind == "SS" else one) for one in value)
        case "L":
            return 3 + sum(_bytes_of(one) + 1 for one in value)
        case _:
            return 1 if kind == "BOOL" else len(value)
