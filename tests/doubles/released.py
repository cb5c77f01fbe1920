"""Released versions, run from the repository's history: what one writes is kept, for later versions to read.

    uv run python -m tests.doubles.released 1.0.0

``played_by_1_0_0.py`` says what is played; it runs on that version's own code, and on the doubles of its own tests.
What it leaves is the same each time, and stands in the version's folder, ``tests/events/stored/1.0.0/``. What a later
version has left can be given to one as well: ``delivered_to_1_0_0.py``.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

RELEASED: Final = {"1.0.0": "460aa21be0a3fe5259f296c355a85f0110395865"}
"""The commits of released versions."""

ROOT: Final = Path(__file__).parents[2]
STORED: Final = ROOT / "tests" / "events" / "stored"

_ENVIRONMENT: Final = {
    "PYTHONHASHSEED": "0",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
}
_LONGEST: Final = 300
"""Seconds that a version may take; it takes a few."""


def is_there(version: str) -> bool:
    """Say whether this clone has the version's code."""
    return _run("git", "cat-file", "-e", RELEASED[version], check=False).returncode == 0


@contextmanager
def code_of(version: str) -> Iterator[Path]:
    """Give a folder with a version's sources, for a while."""
    with tempfile.TemporaryDirectory(prefix="metering-released-") as name:
        archive = Path(name, "code.tar")
        _run("git", "archive", "--output", str(archive), RELEASED[version])
        with tarfile.open(archive) as files:
            files.extractall(name, filter="data")
        yield Path(name)


def importing(code: Path) -> dict[str, str]:
    """Return the environment in which Python imports the sources in a folder, with the packages that are here."""
    ours = {"UV_NO_SYNC": "1", "UV_PROJECT_ENVIRONMENT": sys.prefix}
    return ours | {"PYTHONPATH": f"{code}:{code / 'functions'}"}


def remake(version: str) -> dict[str, str]:
    """Run a version, and return the files of its folder: one for each place where things are kept."""
    places = play(version, "played_by")
    return {f"{place}.json": json.dumps(kept, indent=1, ensure_ascii=False) + "\n" for place, kept in places.items()}


def play(version: str, what: str, given: object = None) -> Any:
    """Run ``<what>_<version>.py`` on a version's code, with something on stdin, and return what it prints, as JSON."""
    program = STORED / f"{what}_{version.replace('.', '_')}.py"
    with code_of(version) as code:
        env = _ENVIRONMENT | importing(code)
        return json.loads(_run(sys.executable, "-P", str(program), cwd=code, env=env, given=json.dumps(given)).stdout)


def _run(
    *arguments: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, check: bool = True, given: str = ""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - nothing of it comes from others
        arguments, cwd=cwd, env=env, check=check, capture_output=True, timeout=_LONGEST, input=given.encode()
    )


def main() -> None:
    """Write the folder of the version that is named."""
    (version,) = sys.argv[1:]
    for name, text in remake(version).items():
        (STORED / version / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
