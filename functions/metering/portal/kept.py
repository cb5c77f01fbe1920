"""What a process keeps of many customers: so many at most, and what was kept longest ago goes first."""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def keep(kept: dict[K, V], name: K, value: V, most: int) -> None:
    """Keep a value as the newest of ``most``."""
    kept.pop(name, None)
    while len(kept) >= most:
        del kept[next(iter(kept))]
    kept[name] = value
