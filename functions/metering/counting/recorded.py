"""What became of lines that were recorded: how many, and of what kind."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self


@dataclass(slots=True)
class Recorded:
    """What became of lines: read = billed + unbilled + set aside - partly, which are among both."""

    read: int = 0
    billed: int = 0
    unbilled: Counter[str] = field(default_factory=Counter)
    set_aside: int = 0
    partly: int = 0
    """Of those set aside: lines that are so for some metrics alone, and count for the others."""

    refused: int = 0
    """Batches of which every counter said that it had counted them before."""

    oldest: datetime | None = None
    """The time of the oldest good record."""

    def include(self, other: Self) -> None:
        """Add what became of another batch."""
        self.read += other.read
        self.billed += other.billed
        self.unbilled += other.unbilled
        self.set_aside += other.set_aside
        self.partly += other.partly
        self.refused += other.refused
        self.oldest = min(filter(None, (self.oldest, other.oldest)), default=None)
