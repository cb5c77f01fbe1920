"""What is said where Ctrl-C stops a command: how far it had come, and how one goes on."""

from dataclasses import dataclass
from typing import Final

READ: Final = "nothing was changed"
WROTE: Final = "what was done stays, and the same command again goes on from there"
"""Each write of a command is whole, and every command can be given again."""


@dataclass
class Course:
    """How far a command has come."""

    way_on: str = ""
    how_far: str = ""

    def begin(self, *, way_on: str) -> None:
        """Note that a command begins, and how one goes on if it is stopped."""
        self.way_on, self.how_far = way_on, ""

    def sentence(self) -> str:
        """Return what is said where it is stopped."""
        told = "; ".join(part for part in (self.how_far, self.way_on) if part)
        return f"stopped: {told}" if told else "stopped"


course: Final = Course()
