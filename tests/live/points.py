"""Open points: what nobody can tell before it was seen on AWS, what we take for so, and what was seen."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

ANYTHING: Final = "whatever it is"
"""What is expected where nothing of ours depends on it: a figure to be known."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point; ``settled`` is true of AWS alone, whether or not it is as we expected."""

    point: str
    expected: Any
    observed: Any
    settled: bool
    source: str
    """What the expectation rests on: a page of AWS's documentation, or who published what."""

    why_not: str = ""
    """Why it is not settled."""


@dataclass
class Points:
    """The points of one run, and their file, which is written anew with each: a run that dies tells some."""

    path: Path
    about: dict[str, Any]
    is_aws: bool
    found: list[Point] = field(default_factory=list)

    def note(self, point: str, *, expected: Any, observed: Any, source: str) -> None:
        """Write a point down, and fail if it is not as expected.

        The emulator settles nothing: it was written from what is expected. That it agrees shows that the test works.
        """
        why_not = "" if self.is_aws else "seen on the emulator, which was written from the same documents"
        self._write(Point(point, expected, observed, settled=self.is_aws, source=source, why_not=why_not))
        assert expected in (ANYTHING, observed), f"{point}: expected {expected!r}, observed {observed!r}"

    def skip(self, point: str, *, expected: Any, source: str, why_not: str) -> None:
        """Write down that a point cannot be settled here, and skip the test."""
        self._write(Point(point, expected, None, settled=False, source=source, why_not=why_not))
        pytest.skip(f"{point}: {why_not}")

    def beyond_the_emulator(self, point: str, *, expected: Any, observed: Any, source: str, why_not: str) -> None:
        """Note a point to which the emulator is known to answer otherwise, which is then written down and no more."""
        if self.is_aws or expected == observed:
            self.note(point, expected=expected, observed=observed, source=source)
        else:
            self._write(Point(point, expected, observed, settled=False, source=source, why_not=why_not))
            pytest.xfail(f"{point}: {why_not}")

    def tell(self, **more: Any) -> None:
        """Write down more about the run."""
        self.about |= more
        self._save()

    def _write(self, point: Point) -> None:
        self.found.append(point)
        self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        told = {**self.about, "points": [asdict(point) for point in self.found]}
        self.path.write_text(json.dumps(told, indent=2, default=str) + "\n")
